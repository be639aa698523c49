//! The virtio-net header: validated, and done without where a kernel can't take it. Pure.
//!
//! TUN with `IFF_VNET_HDR` hands over super-packets: one IP packet with up to 64 KiB of TCP or UDP
//! payload that the receiving kernel cuts into segments of `gso_size`, if it must. Their L4 checksum
//! field, and that of most other packets, holds only the sum of the pseudo-header ("partial"); whoever
//! needs the whole checksum adds the rest. Both cross the LAN as they are.
//!
//! The header comes from the network with the packet, and the kernel believes much of it, so [`check`]
//! comes first, always, and [`check_own`] for what was read from our own TUN: its kernel leaves more open
//! than the wire carries. What they let pass, [`split_front`], [`complete`], [`segment`] and [`fragment`]
//! cut without a further question; none of them panics on what it never saw.
//!
//! [`joint`] is the inverse of segmentation: it makes super-packets of packets that follow one another.

mod check;
mod fragment;
mod join;
mod own;
mod split;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod vectors;
mod vnet;

pub use check::{check, segments};
pub use fragment::fragment;
pub use join::{Joint, joint, supersedes};
pub use own::check_own;
pub use split::{Features, complete, segment, split_front};
pub use vnet::{DATA_VALID, GSO_ECN, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, NEEDS_CSUM, Vnet};
