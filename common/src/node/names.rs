//! Names of the LAN's machines by DNS, for `hub --dns` and `spoke --dns`. `server` and `resolved` are
//! IO, the others are pure.

pub mod answer;
pub mod limit;
pub mod resolved;
pub mod server;
pub mod zone;
