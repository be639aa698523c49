//! The hub: members, routing, and the one event loop that serves them.
//!
//! `core` is the hub without its sockets, files and device: it is made of `switch` (packets) and `lan` (who may be
//! here, and what lies behind whom), and says by `effect` what is to be done. `logbook`, `control` and `report` turn
//! it into words; `options` and `advice` are what a person says and is told. All of these are pure; `server` owns the
//! sockets, the files and the device.
#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests may ask the clock"))]

pub mod advice;
pub mod control;
pub mod core;
pub mod effect;
pub mod ids;
pub mod lan;
pub mod logbook;
pub mod options;
pub mod report;
pub mod server;
pub mod switch;
