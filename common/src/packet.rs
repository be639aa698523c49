//! An inner IP packet: its header, its checks, what is answered to it, and why it is dropped. Pure.

mod checksum;
pub mod drops;
pub mod echo;
mod extensions;
mod header;
pub mod icmp;
pub mod link_local;
pub mod offload;
pub mod prefix;
pub mod protocol;
mod sizes;

pub use extensions::Fragment;
pub use header::*;
pub use sizes::*;
