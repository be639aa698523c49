//! Which prefixes lie behind whom: what members offer, what they are granted, and what the hub's own kernel has. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use common::packet::prefix::overlap;
use ipnetwork::IpNetwork;

use crate::ids::MemberId;
use crate::lan::Lan;
use crate::lan::route_table::{RejectedRoute, RouteTable};
use crate::lan::subnets::Subnets;

/// The prefixes behind members, and behind the hub.
pub struct Routes {
    table: RouteTable,
    subnets: Subnets,
    /// Networks that the hub itself is in.
    hub_networks: Vec<IpNetwork>,
    /// What members on the LAN offer, that included which is not accepted for now.
    offers: BTreeMap<MemberId, Vec<IpNetwork>>,
    /// The prefixes behind members that the hub's own kernel reaches.
    kernel: BTreeSet<IpNetwork>,
}

impl Routes {
    /// The routes of a LAN that nobody is on.
    pub fn new(lan: &Lan) -> Routes {
        Routes {
            table: RouteTable::new(&lan.routes),
            subnets: lan.subnets,
            hub_networks: lan.hub_networks.clone(),
            offers: BTreeMap::new(),
            kernel: BTreeSet::new(),
        }
    }

    /// The networks that the hub itself is in now; whether they are others than before.
    pub fn set_hub_networks(&mut self, networks: Vec<IpNetwork>) -> bool {
        // Another address in the same network changes nothing.
        let set = |networks: &[IpNetwork]| -> BTreeSet<(IpAddr, u8)> {
            networks.iter().map(|network| (network.network(), network.prefix())).collect()
        };
        let is_new = set(&self.hub_networks) != set(&networks);
        self.hub_networks = networks;
        is_new
    }

    /// What members on the LAN offer, that included which is not accepted for now.
    pub fn offers(&self) -> impl Iterator<Item = (MemberId, &[IpNetwork])> {
        self.offers.iter().map(|(&id, offered)| (id, offered.as_slice()))
    }

    /// Who forwards to what.
    pub fn table(&self) -> &RouteTable {
        &self.table
    }

    /// The prefixes of one member.
    pub fn of(&self, id: MemberId) -> impl Iterator<Item = IpNetwork> {
        self.table.of(id)
    }

    /// Notes what a member offers.
    pub fn set_offers(&mut self, id: MemberId, offered: &[IpNetwork]) {
        if offered.is_empty() {
            self.offers.remove(&id);
        } else {
            self.offers.insert(id, offered.to_vec());
        }
    }

    /// Those of these prefixes that a member may offer, and why it may not offer the others. `granted`: what the list
    /// of members grants it, where that counts.
    pub fn check(
        &self,
        id: MemberId,
        offered: &[IpNetwork],
        granted: Option<&[IpNetwork]>,
    ) -> (Vec<IpNetwork>, Vec<(IpNetwork, RejectedRoute)>) {
        let (mut accepted, mut rejected) = (Vec::new(), Vec::new());
        for &prefix in offered {
            let checked = match granted {
                Some(granted) if !granted.contains(&prefix) => Err(RejectedRoute::NotGranted),
                Some(_) | None => self.table.check(prefix, id, &self.subnets, &self.hub_networks),
            };
            match checked {
                Ok(()) if !accepted.contains(&prefix) => accepted.push(prefix),
                Ok(()) => {}
                Err(why) => rejected.push((prefix, why)),
            }
        }
        (accepted, rejected)
    }

    /// Makes exactly these the prefixes of a member, which were checked; returns what that adds and removes.
    pub fn set(&mut self, id: MemberId, prefixes: &[IpNetwork]) -> (Vec<IpNetwork>, Vec<IpNetwork>) {
        self.table.set(id, prefixes)
    }

    /// Members that offer something of what is free now, with what they have and what they could have.
    pub fn candidates(&self, free: &[IpNetwork]) -> Vec<(MemberId, Vec<IpNetwork>)> {
        let candidates = self.offers.iter().filter_map(|(&id, offered)| {
            let mut wanted: Vec<IpNetwork> = self.of(id).collect();
            let has = wanted.len();
            let is_free = |prefix: IpNetwork| free.iter().any(|&free| overlap(free, prefix));
            for &prefix in offered {
                if !wanted[..has].contains(&prefix) && is_free(prefix) {
                    wanted.push(prefix);
                }
            }
            (wanted.len() > has).then_some((id, wanted))
        });
        candidates.collect()
    }

    // ---- the hub's own kernel

    /// Notes that the kernel is to reach a prefix; `false` where it does.
    pub fn enter_kernel(&mut self, prefix: IpNetwork) -> bool {
        self.kernel.insert(prefix)
    }

    /// Notes that the kernel is to reach a prefix no more; `false` where it does not.
    pub fn leave_kernel(&mut self, prefix: IpNetwork) -> bool {
        self.kernel.remove(&prefix)
    }

    /// The prefixes by which the kernel would reach an address.
    pub fn kernel_routes_to(&self, address: IpAddr) -> Vec<IpNetwork> {
        self.kernel.iter().copied().filter(|prefix| prefix.contains(address)).collect()
    }
}
