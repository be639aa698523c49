//! Prefixes that are reached through a member or through the hub's own kernel, and which one holds an address. Pure.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::net::IpAddr;

use common::packet::prefix::{bits, overlap};
use ipnetwork::IpNetwork;

use crate::ids::MemberId;
use crate::lan::prefix_map::PrefixMap;
use crate::lan::subnets::Subnets;

/// Most prefixes on one LAN, as each spoke gets all of them.
pub const MAX_LAN_ROUTES: usize = 10_000;

/// The owner of a prefix, who forwards to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The hub's own kernel.
    Hub,
    /// A member.
    Member(MemberId),
}

/// Why a prefix is rejected.
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
    /// It is public and lies in this way out of the hub: who takes that sends it what goes there.
    WayOut(IpNetwork),
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
            RejectedRoute::WayOut(way_out) => write!(
                f,
                "it is not private and lies in {way_out}, which the hub itself offers: grant it by route= in \
                 the list of members, if that is meant"
            ),
        }
    }
}

/// The prefixes that are reachable now.
#[derive(Debug, Default)]
pub struct RouteTable {
    owners: PrefixMap<Owner>,
    by_member: HashMap<MemberId, BTreeSet<IpNetwork>>,
    v4: Flat<u32>,
    v6: Flat<u128>,
}

impl RouteTable {
    /// The routes that the hub's own kernel offers.
    pub fn new(hub: &[IpNetwork]) -> RouteTable {
        let mut table = RouteTable::default();
        for &prefix in hub {
            table.owners.insert(prefix, Owner::Hub);
            table.refresh(prefix);
        }
        table
    }

    /// The owner of the longest prefix that holds an address.
    #[inline]
    pub fn owner(&self, address: IpAddr) -> Option<Owner> {
        match address {
            IpAddr::V4(v4) => self.v4.owner(v4.to_bits()),
            IpAddr::V6(v6) => self.v6.owner(v6.to_bits()),
        }
    }

    /// The owner of exactly this prefix.
    pub fn get(&self, prefix: IpNetwork) -> Option<Owner> {
        self.owners.get(prefix).copied()
    }

    /// The prefixes of one member, in the order of their addresses.
    pub fn of(&self, member: MemberId) -> impl Iterator<Item = IpNetwork> {
        self.by_member.get(&member).into_iter().flatten().copied()
    }

    /// All prefixes with their owners, in the order of their addresses.
    pub fn iter(&self) -> impl Iterator<Item = (IpNetwork, Owner)> {
        self.owners.iter().map(|(prefix, &owner)| (prefix, owner))
    }

    /// The prefixes of members that share an address with this one.
    pub fn overlapping(&self, prefix: IpNetwork) -> impl Iterator<Item = (IpNetwork, MemberId)> {
        self.owners.overlapping(prefix).filter_map(|(prefix, owner)| match owner {
            Owner::Hub => None,
            Owner::Member(id) => Some((prefix, *id)),
        })
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
        if prefix.prefix() < 4 || has_no_hosts(prefix) {
            return Err(RejectedRoute::TooWide);
        }
        if subnets.iter().any(|subnet| overlap(subnet, prefix)) {
            return Err(RejectedRoute::Subnet);
        }
        if let Some(&own) = hub_networks.iter().find(|&&own| overlap(own, prefix)) {
            return Err(RejectedRoute::HubNetwork(own));
        }
        // What the hub offers is a way out, around which a member may know better: the longer prefix wins.
        if let Some((taken, _)) = self.overlapping(prefix).find(|&(_, id)| id != by) {
            return Err(RejectedRoute::Taken(taken));
        }
        if self.get(prefix) == Some(Owner::Hub) {
            return Err(RejectedRoute::Taken(prefix));
        }
        if self.owners.len() >= MAX_LAN_ROUTES {
            return Err(RejectedRoute::Full);
        }
        Ok(())
    }

    /// Makes exactly these the prefixes of a member, which were checked; returns what that adds and removes.
    pub fn set(&mut self, member: MemberId, prefixes: &[IpNetwork]) -> (Vec<IpNetwork>, Vec<IpNetwork>) {
        let removed: Vec<IpNetwork> = self.of(member).filter(|prefix| !prefixes.contains(prefix)).collect();
        let added: Vec<IpNetwork> =
            prefixes.iter().copied().filter(|&prefix| self.get(prefix).is_none()).collect();
        removed.iter().for_each(|&prefix| self.remove(prefix));
        added.iter().for_each(|&prefix| self.add(prefix, member));
        (added, removed)
    }

    /// Adds a prefix, which was checked, to those of a member.
    pub fn add(&mut self, prefix: IpNetwork, member: MemberId) {
        self.owners.insert(prefix, Owner::Member(member));
        self.by_member.entry(member).or_default().insert(prefix);
        self.refresh(prefix);
    }

    /// Takes a prefix away from the member that has it.
    pub fn remove(&mut self, prefix: IpNetwork) {
        let Some(Owner::Member(member)) = self.get(prefix) else { return };
        self.owners.remove(prefix);
        if let Entry::Occupied(mut own) = self.by_member.entry(member) {
            own.get_mut().remove(&prefix);
            if own.get().is_empty() {
                own.remove();
            }
        }
        self.refresh(prefix);
    }

    /// Brings the flat form up to date between the first and the last address of a prefix that came or went.
    fn refresh(&mut self, prefix: IpNetwork) {
        let around = self.owners.around(prefix).last().map(|(_, &owner)| owner);
        let within = self.owners.within(prefix).map(|(prefix, &owner)| (prefix, owner));
        match prefix {
            IpNetwork::V4(_) => self.v4.refresh(prefix, around, within),
            IpNetwork::V6(_) => self.v6.refresh(prefix, around, within),
        }
    }
}

/// Whether addresses in this prefix mean no host somewhere else (RFC 6890): who has a prefix may send from it.
fn has_no_hosts(prefix: IpNetwork) -> bool {
    const V4: [([u8; 4], u8); 4] = [
        // "This network", loopback, link-local; multicast, reserved and broadcast.
        ([0, 0, 0, 0], 8),
        ([127, 0, 0, 0], 8),
        ([169, 254, 0, 0], 16),
        ([224, 0, 0, 0], 3),
    ];
    const V6: [(u16, u16, u8); 3] = [
        // Unspecified, loopback, IPv4 in disguise; link-local; multicast.
        (0, 0, 32),
        (0xfe80, 0, 10),
        (0xff00, 0, 8),
    ];
    let v4 = V4.iter().map(|&(address, length)| (IpAddr::from(address), length));
    let v6 = V6.iter().map(|&(a, b, length)| (IpAddr::from([a, b, 0, 0, 0, 0, 0, 0]), length));
    let mut none = v4.chain(v6).filter_map(|(address, length)| IpNetwork::new(address, length).ok());
    none.any(|none| none.is_ipv4() == prefix.is_ipv4() && overlap(none, prefix))
}

/// One family's prefixes, cut into ranges that do not overlap: the owner of an address is that of the last
/// range which begins at or before it. No two ranges side by side have one owner, and the first one has some.
#[derive(Debug, Default)]
struct Flat<T> {
    starts: Vec<T>,
    owners: Vec<Option<Owner>>,
}

impl<T: Copy + Ord + TryFrom<u128>> Flat<T> {
    #[inline]
    fn owner(&self, address: T) -> Option<Owner> {
        let behind = self.starts.partition_point(|&start| start <= address);
        self.owners[..behind].last().copied().flatten()
    }

    /// Cuts what lies in `window` anew. `around`: the owner of what the window lies in; `within`: the prefixes in it, in
    /// the order of their addresses, the shorter first.
    fn refresh(
        &mut self,
        window: IpNetwork,
        around: Option<Owner>,
        within: impl Iterator<Item = (IpNetwork, Owner)>,
    ) {
        let (first, last) = (bits(window.network()), bits(window.broadcast()));
        let Ok(start) = T::try_from(first) else { return };
        let from = self.starts.partition_point(|&other| other < start);
        let mut ranges = Ranges { before: self.owners[..from].last().copied().flatten(), ranges: Vec::new() };
        ranges.begin(first, around);
        ranges.cut(around, within);
        // What comes behind the window stays as it was.
        let behind = last.checked_add(1).and_then(|behind| T::try_from(behind).ok().map(|at| (behind, at)));
        let mut to = self.starts.len();
        if let Some((behind, at)) = behind {
            ranges.begin(behind, self.owner(at));
            to = self.starts.partition_point(|&other| other <= at);
        }
        let (starts, owners): (Vec<T>, Vec<_>) =
            ranges.ranges.iter().filter_map(|&(at, owner)| Some((T::try_from(at).ok()?, owner))).unzip();
        self.starts.splice(from..to, starts);
        self.owners.splice(from..to, owners);
    }
}

/// Ranges in the making, by where they begin.
struct Ranges {
    /// The owner of what comes before all of them.
    before: Option<Owner>,
    ranges: Vec<(u128, Option<Owner>)>,
}

impl Ranges {
    /// Has a range begin: the end of the one before.
    fn begin(&mut self, start: u128, owner: Option<Owner>) {
        self.ranges.pop_if(|(at, _)| *at == start);
        if self.ranges.last().map_or(self.before, |&(_, last)| last) != owner {
            self.ranges.push((start, owner));
        }
    }

    /// Cuts nested prefixes into ranges.
    fn cut(&mut self, around: Option<Owner>, prefixes: impl Iterator<Item = (IpNetwork, Owner)>) {
        // The prefixes around the current one, with the last address of each.
        let mut open: Vec<(u128, Owner)> = Vec::new();
        for (prefix, owner) in prefixes {
            let first = bits(prefix.network());
            self.leave(&mut open, around, Some(first));
            self.begin(first, Some(owner));
            open.push((bits(prefix.broadcast()), owner));
        }
        self.leave(&mut open, around, None);
    }

    /// Ends the prefixes that end before `next`: behind each, the one around it goes on.
    fn leave(&mut self, open: &mut Vec<(u128, Owner)>, around: Option<Owner>, next: Option<u128>) {
        while let Some((last, _)) = open.pop_if(|(last, _)| next.is_none_or(|next| *last < next)) {
            if let Some(behind) = last.checked_add(1) {
                self.begin(behind, open.last().map(|&(_, owner)| owner).or(around));
            }
        }
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
            gone in proptest::collection::vec(any::<prop::sample::Index>(), 0..60),
        ) {
            let mut routes = RouteTable::default();
            for (index, &prefix) in prefixes.iter().enumerate() {
                routes.set(MemberId::new(index), &[prefix]);
            }
            for index in gone.iter().filter(|_| !prefixes.is_empty()) {
                routes.set(MemberId::new(index.index(prefixes.len())), &[]);
            }
            let is_tight = |owners: &[Option<Owner>]| {
                owners.first() != Some(&None) && owners.windows(2).all(|pair| pair[0] != pair[1])
            };
            prop_assert!(is_tight(&routes.v4.owners) && is_tight(&routes.v6.owners));
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
        for no_hosts in [
            "169.254.0.0/16",
            "0.0.0.0/8",
            "112.0.0.0/4",
            "160.0.0.0/4",
            "240.0.0.0/4",
            "255.255.255.255/32",
            "::1/128",
            "::ffff:0:0/96",
            "::/16",
            "fe00::/8",
            "f000::/4",
        ] {
            assert_eq!(check(no_hosts, b), Err(RejectedRoute::TooWide), "{no_hosts}");
        }
        for fine in ["126.0.0.0/8", "128.0.0.0/4", "64:ff9b::/96", "2002::/16"] {
            assert_eq!(check(fine, b), Ok(()), "{fine}");
        }
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
