//! Prefixes that are reached through a member or through the hub's own kernel, and which one holds an address. Pure.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use common::packet::prefix::overlap;
use ipnetwork::IpNetwork;

use crate::ids::MemberId;
use crate::lan::subnets::Subnets;

/// Most prefixes on one LAN: each spoke is told them all.
pub const MAX_LAN_ROUTES: usize = 10_000;

/// Who forwards to a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The hub's own kernel.
    Hub,
    /// A member.
    Member(MemberId),
}

/// Why a prefix is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RejectedRoute {
    /// Its host bits are set.
    HostBits,
    /// It overlaps the LAN's own subnet.
    Subnet,
    /// It overlaps a network that the hub itself is in.
    HubNetwork(IpNetwork),
    /// It overlaps a prefix that another one offers.
    Taken(IpNetwork),
    /// It is everything, or not for hosts: only the hub may offer a way out.
    TooWide,
    /// There are too many already.
    Full,
    /// The locked hub does not grant it to this member.
    NotGranted,
}

impl fmt::Display for RejectedRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RejectedRoute::HostBits => f.write_str("it has bits set behind its prefix"),
            RejectedRoute::Subnet => f.write_str("it overlaps the LAN's own subnet"),
            RejectedRoute::HubNetwork(network) => {
                write!(f, "it overlaps {network}, a network that the hub is in")
            }
            RejectedRoute::Taken(prefix) => write!(f, "it overlaps {prefix}, which is offered already"),
            RejectedRoute::TooWide => {
                f.write_str("a spoke cannot offer a way to everything or to addresses not for hosts")
            }
            RejectedRoute::Full => write!(f, "there are {MAX_LAN_ROUTES} routes already"),
            RejectedRoute::NotGranted => {
                f.write_str("the hub is locked, and its list of members does not grant it")
            }
        }
    }
}

/// The prefixes that are reachable now.
#[derive(Debug, Default)]
pub struct RouteTable {
    owners: BTreeMap<IpNetwork, Owner>,
    v4: Flat<u32>,
    v6: Flat<u128>,
}

impl RouteTable {
    /// The routes that the hub's own kernel offers.
    pub fn new(hub: &[IpNetwork]) -> RouteTable {
        let mut routes = RouteTable {
            owners: hub.iter().map(|&prefix| (prefix, Owner::Hub)).collect(),
            ..RouteTable::default()
        };
        routes.flatten();
        routes
    }

    /// Who forwards to an address: the owner of the longest prefix that holds it.
    #[inline]
    pub fn owner(&self, address: IpAddr) -> Option<Owner> {
        match address {
            IpAddr::V4(v4) => self.v4.owner(v4.to_bits()),
            IpAddr::V6(v6) => self.v6.owner(v6.to_bits()),
        }
    }

    /// The prefixes of one member.
    pub fn of(&self, member: MemberId) -> impl Iterator<Item = IpNetwork> {
        self.iter().filter(move |&(_, owner)| owner == Owner::Member(member)).map(|(prefix, _)| prefix)
    }

    /// All prefixes with their owners.
    pub fn iter(&self) -> impl Iterator<Item = (IpNetwork, Owner)> {
        self.owners.iter().map(|(&prefix, &owner)| (prefix, owner))
    }

    /// Whether a member may offer this prefix now. `hub_networks`: those that the hub itself is in.
    pub fn check(
        &self,
        prefix: IpNetwork,
        by: MemberId,
        subnets: &Subnets,
        hub_networks: &[IpNetwork],
    ) -> Result<(), RejectedRoute> {
        let network = prefix.network();
        if network != prefix.ip() {
            return Err(RejectedRoute::HostBits);
        }
        if prefix.prefix() < 4 || network.is_loopback() || network.is_multicast() || is_link_local(network) {
            return Err(RejectedRoute::TooWide);
        }
        if subnets.iter().any(|subnet| overlap(subnet, prefix)) {
            return Err(RejectedRoute::Subnet);
        }
        if let Some(&own) = hub_networks.iter().find(|&&own| overlap(own, prefix)) {
            return Err(RejectedRoute::HubNetwork(own));
        }
        // What the hub offers is a way out, around which a member may know better: the longer prefix wins.
        let other =
            |(_, owner): &(&IpNetwork, &Owner)| !matches!(owner, Owner::Hub) && **owner != Owner::Member(by);
        if let Some((&taken, _)) =
            self.owners.iter().filter(other).find(|(taken, _)| overlap(**taken, prefix))
        {
            return Err(RejectedRoute::Taken(taken));
        }
        if self.owners.contains_key(&prefix) && self.owners.get(&prefix) == Some(&Owner::Hub) {
            return Err(RejectedRoute::Taken(prefix));
        }
        if self.owners.len() >= MAX_LAN_ROUTES {
            return Err(RejectedRoute::Full);
        }
        Ok(())
    }

    /// Makes exactly these the prefixes of a member, which were checked; returns what that adds and removes.
    pub fn set(&mut self, member: MemberId, prefixes: &[IpNetwork]) -> (Vec<IpNetwork>, Vec<IpNetwork>) {
        let owner = Owner::Member(member);
        let had = self.owners.iter().filter(|(_, of)| **of == owner).map(|(&prefix, _)| prefix);
        let removed: Vec<IpNetwork> = had.filter(|prefix| !prefixes.contains(prefix)).collect();
        let added: Vec<IpNetwork> =
            prefixes.iter().copied().filter(|prefix| !self.owners.contains_key(prefix)).collect();
        for prefix in &removed {
            self.owners.remove(prefix);
        }
        for &prefix in &added {
            self.owners.insert(prefix, owner);
        }
        if !(added.is_empty() && removed.is_empty()) {
            self.flatten();
        }
        (added, removed)
    }

    fn flatten(&mut self) {
        self.v4 = Flat::build(self.owners.iter().filter(|(prefix, _)| prefix.is_ipv4()));
        self.v6 = Flat::build(self.owners.iter().filter(|(prefix, _)| prefix.is_ipv6()));
    }
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

/// One family's prefixes, cut into ranges that do not overlap: the owner of an address is that of the last
/// range which begins at or before it. Changes are rare and look-ups are many. `T`: an address's bits.
#[derive(Debug, Default)]
struct Flat<T> {
    starts: Vec<T>,
    owners: Vec<Option<Owner>>,
}

impl<T: Copy + Default + Ord + TryFrom<u128>> Flat<T> {
    /// From prefixes in their order: by network address, the shorter first.
    fn build<'a>(prefixes: impl Iterator<Item = (&'a IpNetwork, &'a Owner)>) -> Flat<T> {
        let mut flat = Flat::default();
        // The prefixes around the current one, with the last address of each.
        let mut around: Vec<(u128, Owner)> = Vec::new();
        let mut sorted: Vec<(u128, u128, u8, Owner)> = prefixes
            .map(|(prefix, &owner)| {
                (bits(prefix.network()), bits(prefix.broadcast()), prefix.prefix(), owner)
            })
            .collect();
        sorted.sort_unstable_by_key(|&(first, _, length, _)| (first, length));
        for (first, last, _, owner) in sorted {
            flat.leave(&mut around, Some(first));
            flat.begin(first, Some(owner));
            around.push((last, owner));
        }
        flat.leave(&mut around, None);
        flat
    }

    /// Ends the prefixes that end before `next`: behind each, the one around it goes on.
    fn leave(&mut self, around: &mut Vec<(u128, Owner)>, next: Option<u128>) {
        while let Some(&(last, _)) = around.last() {
            if next.is_some_and(|next| last >= next) {
                break;
            }
            around.pop();
            if let Some(behind) = last.checked_add(1) {
                self.begin(behind, around.last().map(|&(_, owner)| owner));
            }
        }
    }

    fn begin(&mut self, start: u128, owner: Option<Owner>) {
        // Behind the last address nothing begins.
        let Ok(start) = T::try_from(start) else { return };
        if self.starts.last() == Some(&start) {
            self.starts.pop();
            self.owners.pop();
        }
        self.starts.push(start);
        self.owners.push(owner);
    }

    #[inline]
    fn owner(&self, address: T) -> Option<Owner> {
        let behind = self.starts.partition_point(|&start| start <= address);
        self.owners[..behind].last().copied().flatten()
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> IpNetwork {
        text.parse().unwrap()
    }

    fn prefixes() -> impl Strategy<Value = Vec<IpNetwork>> {
        // Few different bits, so that prefixes nest.
        let v4 = (any::<u32>(), 0..=32u8).prop_map(|(bits, length)| {
            let ip = Ipv4Addr::from_bits(bits & 0xc000_00c3);
            let network = IpNetwork::new(ip.into(), length).unwrap();
            IpNetwork::new(network.network(), length).unwrap()
        });
        let v6 = (any::<u128>(), 0..=128u8).prop_map(|(bits, length)| {
            let ip = Ipv6Addr::from_bits(bits & (0xc3 << 120 | 0xc3));
            let network = IpNetwork::new(ip.into(), length).unwrap();
            IpNetwork::new(network.network(), length).unwrap()
        });
        proptest::collection::vec(prop_oneof![v4, v6], 0..60)
    }

    proptest! {
        #[test]
        fn the_longest_prefix_wins_as_in_a_naive_model(
            prefixes in prefixes(),
            v4 in proptest::collection::vec(any::<u32>(), 50),
            v6 in proptest::collection::vec(any::<u128>(), 50),
        ) {
            let mut routes = RouteTable::default();
            for (index, &prefix) in prefixes.iter().enumerate() {
                routes.set(MemberId::new(index), &[prefix]);
            }
            let near_v4 = v4.iter().map(|bits| IpAddr::from(Ipv4Addr::from_bits(bits & 0xc000_00c3)));
            let near_v6 = v6.iter().map(|bits| IpAddr::from(Ipv6Addr::from_bits(bits & (0xc3 << 120 | 0xc3))));
            let edges = prefixes.iter().flat_map(|prefix| [prefix.network(), prefix.broadcast()]);
            for address in near_v4.chain(near_v6).chain(edges) {
                let naive = routes.iter().filter(|(prefix, _)| prefix.contains(address)).max_by_key(|(prefix, _)| prefix.prefix());
                prop_assert_eq!(routes.owner(address), naive.map(|(_, owner)| owner), "{}", address);
            }
        }
    }

    #[test]
    fn ten_thousand_prefixes_agree_with_a_naive_model() {
        let mut routes = RouteTable::default();
        let prefixes: Vec<IpNetwork> = (0..10_000u32)
            .map(|n| {
                IpNetwork::new(Ipv4Addr::from_bits(0x2000_0000 + n * 0x100).into(), 24 + (n % 8) as u8)
                    .unwrap()
            })
            .collect();
        routes.set(MemberId::new(1), &prefixes);
        for n in (0..10_000u32).step_by(97) {
            for host in [0, 1, 15, 63, 255] {
                let address = IpAddr::from(Ipv4Addr::from_bits(0x2000_0000 + n * 0x100 + host));
                let expected =
                    prefixes[n as usize].contains(address).then_some(Owner::Member(MemberId::new(1)));
                assert_eq!(routes.owner(address), expected);
            }
        }
    }

    #[test]
    fn refuses_what_overlaps_and_says_with_what() {
        let subnets = Subnets::new(&[net("10.0.0.0/24"), net("fd00::/64")]).unwrap();
        let hub_networks = [net("192.0.2.0/24")];
        let (a, b) = (MemberId::new(1), MemberId::new(2));
        let mut routes = RouteTable::new(&[net("0.0.0.0/0")]);
        routes.set(a, &[net("192.168.5.0/24")]);
        let check = |prefix: &str, by| routes.check(net(prefix), by, &subnets, &hub_networks);
        assert_eq!(check("192.168.6.0/24", b), Ok(()));
        assert_eq!(check("192.168.5.0/24", a), Ok(()), "its own");
        assert_eq!(check("192.168.5.128/25", b), Err(RejectedRoute::Taken(net("192.168.5.0/24"))));
        assert_eq!(check("192.168.0.0/16", b), Err(RejectedRoute::Taken(net("192.168.5.0/24"))));
        assert_eq!(check("10.0.0.128/25", b), Err(RejectedRoute::Subnet));
        assert_eq!(check("10.0.0.0/8", b), Err(RejectedRoute::Subnet));
        assert_eq!(check("fd00::/48", b), Err(RejectedRoute::Subnet));
        assert_eq!(check("192.0.0.0/16", b), Err(RejectedRoute::HubNetwork(net("192.0.2.0/24"))));
        assert_eq!(check("0.0.0.0/0", b), Err(RejectedRoute::TooWide));
        assert_eq!(check("127.0.0.0/8", b), Err(RejectedRoute::TooWide));
        assert_eq!(check("169.254.0.0/16", b), Err(RejectedRoute::TooWide));
        assert_eq!(check("192.168.7.1/24", b), Err(RejectedRoute::HostBits));
    }

    #[test]
    fn tells_what_changes() {
        let member = MemberId::new(3);
        let mut routes = RouteTable::default();
        let (one, two) = (net("192.168.1.0/24"), net("192.168.2.0/24"));
        assert_eq!(routes.set(member, &[one, two]), (vec![one, two], vec![]));
        assert_eq!(routes.set(member, &[two]), (vec![], vec![one]));
        assert_eq!(routes.set(member, &[]), (vec![], vec![two]));
        assert_eq!(routes.owner("192.168.2.1".parse().unwrap()), None);
    }
}
