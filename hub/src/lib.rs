//! The hub: members, routing, and the one event loop that serves them.
//!
//! `gate`, `subnets`, `members`, `router` and `switch` are pure; `server` owns the sockets and the device.

pub mod gate;
pub mod members;
pub mod router;
pub mod server;
pub mod subnets;
pub mod switch;
