//! The hub: members, routing, and the one event loop that serves them.
//!
//! `subnets`, `members`, `invites`, `router`, `switch`, `control` and `report` are pure; `server` owns the sockets and the device.

pub mod control;
pub mod invites;
pub mod members;
pub mod report;
pub mod router;
pub mod server;
pub mod subnets;
pub mod switch;
