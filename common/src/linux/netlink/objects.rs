//! Links, routes and next hops, as rtnetlink(7) has them. Pure.

#![warn(clippy::disallowed_methods, reason = "pure, though the module above it is not")]

use std::net::IpAddr;

use ipnetwork::IpNetwork;

/// The main routing table, `RT_TABLE_MAIN`.
pub const MAIN_TABLE: u32 = libc::RT_TABLE_MAIN as u32;
/// The table of the machine's own addresses, `RT_TABLE_LOCAL`.
pub const LOCAL_TABLE: u32 = libc::RT_TABLE_LOCAL as u32;
/// Who made a route or a rule: a number that no one else uses (rtnetlink(7) leaves those above `RTPROT_STATIC` to
/// users).
pub const OUR_PROTOCOL: u8 = 178;

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// The number that routes and addresses know it by.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Which driver made it (`IFLA_INFO_KIND`), as `tun`, `veth`, `bridge`; `None` for hardware.
    pub kind: Option<String>,
    /// Largest IP packet in bytes.
    pub mtu: u32,
    /// `IFF_*` of net/if.h.
    pub flags: u32,
}

/// One entry of a routing table. It is marked with [`OUR_PROTOCOL`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where to; host bits are ignored.
    pub prefix: IpNetwork,
    /// The next hop; `None` where the interface itself leads there (`scope link`).
    pub gateway: Option<IpAddr>,
    /// Index of the interface that it leaves by.
    pub interface: u32,
    /// Routing table, [`MAIN_TABLE`] for the usual one.
    pub table: u32,
    /// Lower is preferred; `None` is the kernel's default, 0 for IPv4 and 1024 for IPv6.
    pub metric: Option<u32>,
}

/// Where the kernel would send a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// The router; `None` where the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// Index of the interface.
    pub interface: u32,
    /// The address that the kernel would send from.
    pub source: Option<IpAddr>,
}

/// An IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4
    V4,
    /// IPv6
    V6,
}
