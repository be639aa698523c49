//! Where a packet goes. Pure: it answers, and only the switch acts on the answer.

use std::net::IpAddr;

use common::packet::Header;
use common::packet::drops::Reason;

use crate::ids::{MemberId, SessionId};
use crate::lan::members::Members;
use crate::lan::peers::Peers;
use crate::lan::route_table::{Owner, RouteTable};
use crate::lan::subnets::Subnets;

/// Where a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// To one member.
    To(MemberId),
    /// To the hub and every member but the one it came from; each other hub passes it on to its members.
    Flood,
    /// To the hub's own kernel.
    Tun,
    /// Nowhere.
    Drop(Reason),
}

/// Where a packet comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// The hub's own kernel.
    Kernel,
    /// A member that is with this hub.
    Member(MemberId),
    /// Another hub, by this link: a member that is with it, or itself.
    Link(SessionId),
}

/// The tables that packets are routed by.
#[derive(Clone, Copy)]
pub struct Fabric<'a> {
    /// The holder of each address, and where it is.
    pub members: &'a Members,
    /// The prefixes behind members.
    pub table: &'a RouteTable,
    /// This hub's line in the list of members, if it has one.
    pub own: Option<MemberId>,
    /// Who was told to be with other hubs, if there are any.
    pub(crate) peers: Option<&'a Peers>,
    /// Whether the kernel routes to members that are nowhere else known to be.
    pub exports: bool,
}

impl<'a> Fabric<'a> {
    /// The tables of the only hub of a LAN.
    pub fn alone(members: &'a Members, table: &'a RouteTable) -> Fabric<'a> {
        Fabric { members, table, own: None, peers: None, exports: false }
    }

    /// The member that holds an address, or has it behind it.
    fn sender(&self, source: IpAddr) -> Option<MemberId> {
        self.members.holder(source).or_else(|| match self.table.owner(source)? {
            Owner::Member(id) => Some(id),
            Owner::Hub => None,
        })
    }

    /// Whether the other end of a link has told that this member is with it. It may be with yet another hub by now.
    fn is_told(&self, link: SessionId, id: MemberId) -> bool {
        let member = self.members.member(id);
        member.elsewhere == Some(link) || self.peers.is_some_and(|peers| peers.is_told(link, &member.key))
    }
}

/// The member that a packet comes from, for access rules: `None` is the hub's own kernel, or nobody.
pub(super) fn sender(
    fabric: Fabric<'_>,
    subnets: &Subnets,
    from: Origin,
    header: &Header,
) -> Option<MemberId> {
    match from {
        // It may come from a member that the kernel reaches elsewhere.
        Origin::Kernel if fabric.exports => {
            fabric.members.holder(subnets.resolve(header.source)).filter(|&id| Some(id) != fabric.own)
        }
        Origin::Kernel => None,
        Origin::Member(id) => Some(id),
        Origin::Link(_) => fabric.sender(subnets.resolve(header.source)),
    }
}

/// The member that a packet is for, for access rules: `None` is the hub's own kernel, or what is behind that.
pub(super) fn receiver(
    fabric: Fabric<'_>,
    subnets: &Subnets,
    verdict: Verdict,
    header: &Header,
) -> Option<MemberId> {
    match verdict {
        Verdict::To(to) => Some(to),
        Verdict::Tun if fabric.exports => {
            fabric.members.holder(subnets.resolve(header.destination)).filter(|&id| Some(id) != fabric.own)
        }
        Verdict::Tun | Verdict::Flood | Verdict::Drop(_) => None,
    }
}

/// Routes a packet.
///
/// A member may only send from addresses that it holds, its link-local one included, or that lie behind it, and another
/// hub for members that are with it. This hub's kernel is trusted: it may forward.
///
/// A packet of another hub is for who is here: none goes from link to link. What a member sends to an address of the LAN
/// that nobody has who is known to be anywhere is the kernel's where that routes to members.
pub fn route(fabric: Fabric<'_>, subnets: &Subnets, from: Origin, header: &Header) -> Verdict {
    let Fabric { members, table, own, .. } = fabric;
    let (source, destination) = (subnets.resolve(header.source), subnets.resolve(header.destination));
    let is_genuine = match from {
        Origin::Kernel => true,
        Origin::Member(from) => {
            members.holder(source) == Some(from) || table.owner(source) == Some(Owner::Member(from))
        }
        Origin::Link(link) => fabric.sender(source).is_some_and(|id| fabric.is_told(link, id)),
    };
    if !is_genuine {
        return Verdict::Drop(Reason::ForgedSource);
    }
    if subnets.is_for_all(destination) {
        return Verdict::Flood;
    }
    let owner = if subnets.is_hub(destination) {
        Some(Owner::Hub)
    } else {
        match members.holder(destination) {
            Some(holder) if Some(holder) == own => Some(Owner::Hub),
            Some(holder) => Some(Owner::Member(holder)),
            // What is in the subnet is a member's or nobody's, whatever the routes say.
            None if subnets.with_prefix(destination).is_some() => None,
            None => table.owner(destination),
        }
    };
    let may_be_beyond =
        fabric.exports && matches!(from, Origin::Member(_)) && subnets.with_prefix(destination).is_some();
    match owner {
        None if may_be_beyond => Verdict::Tun,
        None => Verdict::Drop(Reason::NoRoute),
        Some(Owner::Hub) if from == Origin::Kernel => Verdict::Drop(Reason::Hairpin),
        Some(Owner::Hub) => Verdict::Tun,
        Some(Owner::Member(to)) if from == Origin::Member(to) => Verdict::Drop(Reason::Hairpin),
        Some(Owner::Member(to)) => {
            let member = members.member(to);
            match (member.session, member.elsewhere, from) {
                (Some(_), _, _) => Verdict::To(to),
                (None, None, _) if may_be_beyond => Verdict::Tun,
                (None, None, _) | (None, Some(_), Origin::Link(_)) => Verdict::Drop(Reason::Offline),
                // Each hub has that address: what comes back would go to another one.
                (None, Some(_), Origin::Kernel) if subnets.is_hub(source) => Verdict::Drop(Reason::NoRoute),
                (None, Some(_), _) => Verdict::To(to),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use common::packet::Fragment;
    use common::wire::frame::Join;
    use common::wire::key::PrivateKey;
    use common::wire::name::Name;
    use ipnetwork::IpNetwork;
    use proptest::prelude::*;

    use super::*;
    use crate::ids::SessionId;
    use crate::lan::members::{Access, Decision};

    fn subnets(given: &[&str]) -> Subnets {
        let given: Vec<IpNetwork> = given.iter().map(|text| text.parse().unwrap()).collect();
        Subnets::new(&given).unwrap()
    }

    /// A member as the naive model knows it: a list that is searched.
    #[derive(Clone, Debug)]
    struct Known {
        id: MemberId,
        addresses: Vec<IpAddr>,
        online: bool,
    }

    fn add(members: &mut Members, seed: u8, addresses: Vec<IpAddr>, online: bool) -> Option<Known> {
        let name = Name::nearest(&format!("m{seed}"));
        let join = Join { addresses, ..Join::new(name) };
        let key = PrivateKey::from_random([seed; 32]).public();
        let Decision::Member { id, evicted } = members.admit(key, &join, Access::Open, &[]) else {
            return None;
        };
        assert!(evicted.is_empty(), "the test gives each member its own address");
        if online {
            members.set_online(id, SessionId::new(usize::from(seed)));
        }
        Some(Known { id, addresses: members.member(id).addresses.clone(), online })
    }

    fn header(source: IpAddr, destination: IpAddr) -> Header {
        Header { source, destination, protocol: 17, l4: 20, fragment: Fragment::No, ports: None, length: 100 }
    }

    /// The rules, said again without an index. The LAN is 10.0.0.0/27 and fd00::/123.
    fn model(known: &[Known], from: Option<usize>, header: &Header) -> Verdict {
        if let Some(from) = from
            && !known[from].addresses.contains(&header.source)
        {
            return Verdict::Drop(Reason::ForgedSource);
        }
        let for_all = match header.destination {
            IpAddr::V4(v4) => {
                (224..240).contains(&v4.octets()[0]) || [u32::MAX, 0x0a00_001f].contains(&v4.to_bits())
            }
            IpAddr::V6(v6) => v6.octets()[0] == 0xff,
        };
        if for_all {
            return Verdict::Flood;
        }
        if ["10.0.0.1", "fd00::1"].contains(&header.destination.to_string().as_str()) {
            return match from {
                Some(_) => Verdict::Tun,
                None => Verdict::Drop(Reason::Hairpin),
            };
        }
        for (at, member) in known.iter().enumerate() {
            if member.addresses.contains(&header.destination) {
                return match (from == Some(at), member.online) {
                    (true, _) => Verdict::Drop(Reason::Hairpin),
                    (false, true) => Verdict::To(member.id),
                    (false, false) => Verdict::Drop(Reason::Offline),
                };
            }
        }
        Verdict::Drop(Reason::NoRoute)
    }

    /// Mostly addresses in and around the subnets, so that each rule is met often.
    fn address() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            4 => (0..34u32).prop_map(|host| IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + host))),
            4 => (0..34u128).prop_map(|host| IpAddr::V6(Ipv6Addr::from_bits((0xfd00 << 112) + host))),
            1 => (0xdfff_ffffu32..=0xf000_0001).prop_map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits))),
            1 => Just(IpAddr::V4(Ipv4Addr::BROADCAST)),
            1 => Just(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            1 => Just("ff02::fb".parse().unwrap()),
            1 => any::<IpAddr>(),
        ]
    }

    proptest! {
        #[test]
        fn routes_as_the_naive_model_does(
            hosts in proptest::sample::subsequence((2..31u8).collect::<Vec<_>>(), 0..12),
            online in proptest::collection::vec(any::<bool>(), 12),
            packets in proptest::collection::vec((any::<prop::sample::Index>(), address(), address(), any::<bool>()), 50),
        ) {
            let subnets = subnets(&["10.0.0.0/27", "fd00::/123"]);
            let mut members = Members::parse("", subnets).unwrap();
            let mut known = Vec::new();
            for (&host, &online) in hosts.iter().zip(&online) {
                let v4 = Ipv4Addr::from_bits(0x0a00_0000 + u32::from(host));
                let v6 = Ipv6Addr::from_bits((0xfd00 << 112) + u128::from(33 - host));
                let addresses = vec![v4.into(), v6.into()];
                known.push(add(&mut members, host, addresses, online).unwrap());
            }
            for (from, source, destination, is_honest) in packets {
                let from = from.index(known.len() + 1);
                let from = (from < known.len()).then_some(from);
                let source = match from {
                    Some(from) if is_honest => known[from].addresses[usize::from(destination.is_ipv6())],
                    Some(_) | None => source,
                };
                let header = header(source, destination);
                let id = from.map_or(Origin::Kernel, |from| Origin::Member(known[from].id));
                let verdict = route(Fabric::alone(&members, &RouteTable::default()), &subnets, id, &header);
                prop_assert_eq!(verdict, model(&known, from, &header), "{} from {:?} of {:?}", header, from, known);
            }
        }
    }

    #[test]
    fn another_hub_speaks_for_its_members_and_to_those_who_are_here() {
        let subnets = subnets(&["10.0.0.0/27"]);
        let mut members = Members::parse("", subnets).unwrap();
        let ip = |text: &str| -> IpAddr { text.parse().unwrap() };
        let here = add(&mut members, 1, vec![ip("10.0.0.2")], true).unwrap().id;
        let there = add(&mut members, 2, vec![ip("10.0.0.3")], false).unwrap().id;
        let third = add(&mut members, 3, vec![ip("10.0.0.4")], false).unwrap().id;
        let own = add(&mut members, 4, vec![ip("10.0.0.29")], false).unwrap().id;
        add(&mut members, 5, vec![ip("10.0.0.5")], false).unwrap();
        let [link, other] = [7, 8].map(SessionId::new);
        members.set_elsewhere(there, Some(link));
        members.set_elsewhere(third, Some(other));
        let mut table = RouteTable::default();
        table.add("192.168.5.0/24".parse().unwrap(), there);
        let [here, link] = [Origin::Member(here), Origin::Link(link)];
        let to_here = Verdict::To(MemberId::new(0));
        for (from, source, destination, verdict) in [
            (here, "10.0.0.2", "10.0.0.3", Verdict::To(there)),
            (here, "10.0.0.2", "192.168.5.9", Verdict::To(there)),
            (here, "10.0.0.2", "10.0.0.5", Verdict::Drop(Reason::Offline)),
            (here, "10.0.0.2", "10.0.0.29", Verdict::Tun),
            (here, "10.0.0.3", "10.0.0.4", Verdict::Drop(Reason::ForgedSource)),
            (link, "10.0.0.3", "10.0.0.2", to_here),
            (link, "192.168.5.9", "10.0.0.2", to_here),
            (link, "10.0.0.3", "10.0.0.29", Verdict::Tun),
            (link, "10.0.0.3", "10.0.0.1", Verdict::Tun),
            (link, "10.0.0.3", "10.0.0.31", Verdict::Flood),
            // Never on to another hub, or back; and for nobody who is not with it.
            (link, "10.0.0.3", "10.0.0.4", Verdict::Drop(Reason::Offline)),
            (link, "10.0.0.3", "192.168.5.9", Verdict::Drop(Reason::Offline)),
            (link, "10.0.0.4", "10.0.0.2", Verdict::Drop(Reason::ForgedSource)),
            (link, "10.0.0.2", "10.0.0.2", Verdict::Drop(Reason::ForgedSource)),
            (link, "10.0.0.5", "10.0.0.2", Verdict::Drop(Reason::ForgedSource)),
            (link, "10.0.0.1", "10.0.0.2", Verdict::Drop(Reason::ForgedSource)),
            (link, "10.0.0.29", "10.0.0.2", Verdict::Drop(Reason::ForgedSource)),
            (link, "192.0.2.1", "10.0.0.2", Verdict::Drop(Reason::ForgedSource)),
            (link, "10.0.0.2", "10.0.0.31", Verdict::Drop(Reason::ForgedSource)),
            // This hub's kernel is reached there by its own address alone.
            (Origin::Kernel, "10.0.0.29", "10.0.0.3", Verdict::To(there)),
            (Origin::Kernel, "10.0.0.1", "10.0.0.3", Verdict::Drop(Reason::NoRoute)),
            (Origin::Kernel, "10.0.0.1", "10.0.0.2", to_here),
        ] {
            let header = header(ip(source), ip(destination));
            let fabric =
                Fabric { members: &members, table: &table, own: Some(own), peers: None, exports: false };
            assert_eq!(route(fabric, &subnets, from, &header), verdict, "{from:?}: {header}");
        }
    }

    #[test]
    fn what_is_for_nobody_who_is_known_to_be_anywhere_is_the_kernels_where_that_routes_to_members() {
        let subnets = subnets(&["10.0.0.0/27"]);
        let mut members = Members::parse("", subnets).unwrap();
        let ip = |text: &str| -> IpAddr { text.parse().unwrap() };
        let here = add(&mut members, 1, vec![ip("10.0.0.2")], true).unwrap().id;
        let there = add(&mut members, 2, vec![ip("10.0.0.3")], false).unwrap().id;
        let away = add(&mut members, 3, vec![ip("10.0.0.4")], false).unwrap().id;
        let link = SessionId::new(7);
        members.set_elsewhere(there, Some(link));
        let table = RouteTable::default();
        let [member, link] = [Origin::Member(here), Origin::Link(link)];
        for (from, source, destination, verdict, [sent_by, sent_to]) in [
            (member, "10.0.0.2", "10.0.0.4", Verdict::Tun, [Some(here), Some(away)]),
            (member, "10.0.0.2", "10.0.0.5", Verdict::Tun, [Some(here), None]),
            (member, "10.0.0.2", "10.0.0.1", Verdict::Tun, [Some(here), None]),
            (member, "10.0.0.2", "10.0.0.3", Verdict::To(there), [Some(here), Some(there)]),
            (member, "10.0.0.2", "192.0.2.1", Verdict::Drop(Reason::NoRoute), [Some(here), None]),
            (member, "10.0.0.4", "10.0.0.5", Verdict::Drop(Reason::ForgedSource), [Some(here), None]),
            // The kernel has given it, and another hub is not led on.
            (Origin::Kernel, "10.0.0.4", "10.0.0.5", Verdict::Drop(Reason::NoRoute), [Some(away), None]),
            (Origin::Kernel, "10.0.0.4", "10.0.0.2", Verdict::To(here), [Some(away), Some(here)]),
            (Origin::Kernel, "192.0.2.1", "10.0.0.2", Verdict::To(here), [None, Some(here)]),
            (link, "10.0.0.3", "10.0.0.4", Verdict::Drop(Reason::Offline), [Some(there), None]),
        ] {
            let header = header(ip(source), ip(destination));
            let fabric = Fabric { exports: true, ..Fabric::alone(&members, &table) };
            assert_eq!(route(fabric, &subnets, from, &header), verdict, "{from:?}: {header}");
            assert_eq!(sender(fabric, &subnets, from, &header), sent_by, "{from:?}: {header}");
            assert_eq!(receiver(fabric, &subnets, verdict, &header), sent_to, "{from:?}: {header}");
        }
    }

    #[test]
    fn each_verdict_by_name() {
        let subnets = subnets(&["10.0.0.0/27"]);
        let mut members = Members::parse("", subnets).unwrap();
        let ip = |text: &str| -> IpAddr { text.parse().unwrap() };
        let a = add(&mut members, 1, vec![ip("10.0.0.2")], true).unwrap().id;
        let b = add(&mut members, 2, vec![ip("10.0.0.3")], true).unwrap().id;
        add(&mut members, 3, vec![ip("10.0.0.4")], false).unwrap();
        for (from, source, destination, verdict) in [
            (Some(a), "10.0.0.2", "10.0.0.3", Verdict::To(b)),
            (Some(a), "10.0.0.3", "10.0.0.3", Verdict::Drop(Reason::ForgedSource)),
            (Some(a), "10.0.0.1", "10.0.0.3", Verdict::Drop(Reason::ForgedSource)),
            (Some(a), "192.0.2.1", "10.0.0.3", Verdict::Drop(Reason::ForgedSource)),
            (Some(a), "10.0.0.9", "10.0.0.31", Verdict::Drop(Reason::ForgedSource)),
            (Some(a), "10.0.0.2", "10.0.0.2", Verdict::Drop(Reason::Hairpin)),
            (Some(a), "10.0.0.2", "10.0.0.4", Verdict::Drop(Reason::Offline)),
            (Some(a), "10.0.0.2", "10.0.0.5", Verdict::Drop(Reason::NoRoute)),
            (Some(a), "10.0.0.2", "192.0.2.1", Verdict::Drop(Reason::NoRoute)),
            (Some(a), "10.0.0.2", "10.0.0.1", Verdict::Tun),
            (Some(a), "10.0.0.2", "10.0.0.31", Verdict::Flood),
            (Some(a), "10.0.0.2", "255.255.255.255", Verdict::Flood),
            (Some(a), "10.0.0.2", "224.0.0.251", Verdict::Flood),
            (None, "192.0.2.1", "10.0.0.3", Verdict::To(b)),
            (None, "10.0.0.1", "10.0.0.1", Verdict::Drop(Reason::Hairpin)),
            (None, "10.0.0.1", "10.0.0.31", Verdict::Flood),
        ] {
            let header = header(ip(source), ip(destination));
            let from = from.map_or(Origin::Kernel, Origin::Member);
            assert_eq!(
                route(Fabric::alone(&members, &RouteTable::default()), &subnets, from, &header),
                verdict,
                "{from:?}: {header}"
            );
        }
    }
}
