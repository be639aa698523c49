//! The spoke: the tunnel to the hub, kept up for ever.
//!
//! `backoff`, `hubs` and `target` are pure; `dial` and `client` own the sockets and the device.

pub mod backoff;
pub mod client;
pub mod dial;
pub mod hubs;
pub mod target;
