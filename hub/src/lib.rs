//! The hub: members, routing, and the one event loop that serves them.
//!
//! `subnets`, `gate`, `members`, `invites`, `routes`, `router`, `switch`, `control` and `report` are pure; `server`
//! owns the sockets and the device.
#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests may ask the clock"))]

pub mod bucket;
pub mod control;
pub mod gate;
pub mod invites;
pub mod members;
pub mod report;
pub mod router;
pub mod routes;
pub mod server;
pub mod subnets;
pub mod switch;
