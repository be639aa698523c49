//! The spoke: the tunnel to the hub, kept up for ever.
//!
//! `backoff`, `control`, `hubs`, `report` and `target` are pure; `dial` and `client` own the sockets and the device.

pub mod backoff;
pub mod client;
pub mod control;
pub mod dial;
pub mod hubs;
pub mod report;
pub mod target;
