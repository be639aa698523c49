//! Where a packet goes. Pure: it answers, and only the switch acts on the answer.

use common::packet::Header;
use common::packet::drops::Reason;

use crate::ids::MemberId;
use crate::lan::members::Members;
use crate::lan::route_table::{Owner, RouteTable};
use crate::lan::subnets::Subnets;

/// Where a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// To one member.
    To(MemberId),
    /// To the hub and every member but the one it came from.
    Flood,
    /// To the hub's own kernel.
    Tun,
    /// Nowhere.
    Drop(Reason),
}

/// Routes a packet that came from a member, or from the hub's own kernel (`None`).
///
/// A member may only send from addresses that it holds, its link-local one included, or that lie behind it. The
/// hub's kernel is trusted: it may forward.
pub fn route(
    members: &Members,
    routes: &RouteTable,
    subnets: &Subnets,
    from: Option<MemberId>,
    header: &Header,
) -> Verdict {
    let (source, destination) = (subnets.resolve(header.source), subnets.resolve(header.destination));
    if let Some(from) = from
        && members.holder(source) != Some(from)
        && routes.owner(source) != Some(Owner::Member(from))
    {
        return Verdict::Drop(Reason::ForgedSource);
    }
    if subnets.is_for_all(destination) {
        return Verdict::Flood;
    }
    let owner = if subnets.is_hub(destination) {
        Some(Owner::Hub)
    } else {
        match members.holder(destination) {
            Some(holder) => Some(Owner::Member(holder)),
            // What is in the subnet is a member's or nobody's, whatever the routes say.
            None if subnets.with_prefix(destination).is_some() => None,
            None => routes.owner(destination),
        }
    };
    match owner {
        None => Verdict::Drop(Reason::NoRoute),
        Some(Owner::Hub) if from.is_none() => Verdict::Drop(Reason::Hairpin),
        Some(Owner::Hub) => Verdict::Tun,
        Some(Owner::Member(to)) if Some(to) == from => Verdict::Drop(Reason::Hairpin),
        Some(Owner::Member(to)) if members.member(to).session.is_none() => Verdict::Drop(Reason::Offline),
        Some(Owner::Member(to)) => Verdict::To(to),
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
                let id = from.map(|from| known[from].id);
                let verdict = route(&members, &RouteTable::default(), &subnets, id, &header);
                prop_assert_eq!(verdict, model(&known, from, &header), "{} from {:?} of {:?}", header, from, known);
            }
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
            assert_eq!(
                route(&members, &RouteTable::default(), &subnets, from, &header),
                verdict,
                "{from:?}: {header}"
            );
        }
    }
}
