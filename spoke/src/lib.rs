//! The spoke: keeps the tunnel to the hub up.
//!
//! `uplink`, `options`, `control`, `metrics` and `report` are pure; `kernel_routes`, `client` and `check` own
//! the sockets, the routes and the device.
#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests may ask the clock"))]

pub mod check;
pub mod client;
pub mod control;
pub mod kernel_routes;
pub mod metrics;
pub mod options;
pub mod report;
pub mod uplink;
