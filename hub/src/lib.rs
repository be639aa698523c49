//! The hub: members, routing, and the one event loop that serves them.
//!
//! `advice`, `lan`, `options`, `switch`, `control` and `report` are pure; `server` owns the sockets and the device.
#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests may ask the clock"))]

pub mod advice;
pub mod control;
pub mod lan;
pub mod options;
pub mod report;
pub mod server;
pub mod switch;
