//! The way to the hub, seen without its socket. Pure.

pub mod backoff;
pub mod grant;
pub mod hosts;
pub mod pins;
pub mod routes;
pub mod target;
