//! The hub: members, routing, and the one event loop that serves them.
//!
//! `core` is the hub without its sockets, files and device: `switch` forwards packets, `lan` holds members, invites and
//! routes, and `effect` is its output. `logbook`, `control`, `totals`, `report` and `metrics` are logs, commands and their texts; `options` and
//! `advice` are settings and error texts. All of these are pure; `server` owns the sockets, the files and the device, and
//! `store` is `hub store`, a process of its own.
#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests may ask the clock"))]

pub mod advice;
pub mod control;
pub mod core;
pub mod effect;
pub mod ids;
pub mod lan;
pub mod logbook;
pub mod metrics;
pub mod options;
pub mod report;
pub mod server;
pub mod store;
pub mod switch;
pub mod totals;
