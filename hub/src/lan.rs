//! The LAN: who is a member, under which name and address, and which prefixes lie behind whom. Pure.

pub mod admission;
pub(crate) mod exports;
pub(crate) mod hubs;
pub mod invites;
pub mod joins;
pub mod keeper;
pub mod members;
pub mod moves;
pub(crate) mod peers;
pub mod pending;
pub mod prefix_map;
pub mod route_table;
pub mod routes;
pub mod rules;
pub mod saving;
pub(crate) mod shared;
pub mod subnets;

use common::wire::name::Name;
use ipnetwork::IpNetwork;

use subnets::Subnets;

/// What the LAN is, as the command line says it.
#[derive(Clone, Debug)]
pub struct Lan {
    /// The hub's name on it, unless a member has that already.
    pub hub_name: Name,
    /// Its prefixes.
    pub subnets: Subnets,
    /// The largest packet on it, in bytes of IP.
    pub mtu: u32,
    /// Prefixes to which the hub's own kernel forwards.
    pub routes: Vec<IpNetwork>,
    /// Networks that the hub itself is in: no member may offer a way there.
    pub hub_networks: Vec<IpNetwork>,
}
