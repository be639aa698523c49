//! The spoke: the tunnel to the hub, kept up for ever.
//!
//! `backoff`, `control`, `grant`, `hosts`, `hubs`, `report`, `routes` and `target` are pure; `dial`, `table` and `client` own
//! the sockets, the routes and the device.
#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests may ask the clock"))]

pub mod backoff;
pub mod client;
pub mod control;
pub mod dial;
pub mod grant;
pub mod hosts;
pub mod hubs;
pub mod report;
pub mod routes;
pub mod table;
pub mod target;
