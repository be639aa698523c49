//! Routes that come and go: who has what, and what is told when.

#![expect(clippy::disallowed_methods, reason = "virtual time has to start somewhere")]

use common::packet::prefix::overlap;
use proptest::prelude::*;

use super::*;

fn net(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

fn routes() -> Routes {
    Routes::new(&Lan {
        hub_name: "hub".parse().unwrap(),
        subnets: Subnets::new(&[net("10.0.0.0/24")]).unwrap(),
        mtu: 1_500,
        routes: vec![],
        hub_networks: vec![],
    })
}

fn member(number: usize) -> MemberId {
    MemberId::new(number)
}

fn has(routes: &Routes, number: usize) -> Vec<String> {
    routes.of(member(number)).map(|prefix| prefix.to_string()).collect()
}

fn key() -> PublicKey {
    common::wire::key::PrivateKey::from_random([1; 32]).public()
}

/// Offers prefixes, as an open hub takes them, behind all who came before; how many are rejected.
fn offer(routes: &mut Routes, number: usize, offered: &[&str]) -> usize {
    let last = routes.claims.values().map(|(since, _)| since + 1).max().unwrap_or_default();
    offer_since(routes, number, last, offered)
}

fn offer_since(routes: &mut Routes, number: usize, since: u64, offered: &[&str]) -> usize {
    let offered: Vec<IpNetwork> = offered.iter().map(|text| net(text)).collect();
    routes.offer(member(number), (since, key()), &offered, None).len()
}

proptest! {
    /// In whatever order hubs hear of offers, they give the prefixes to the same members: to each in turn, in the order of
    /// their claims, what is left of what it offers.
    #[test]
    fn hubs_agree_on_who_has_what_in_whatever_order_they_hear_of_it(
        offers in proptest::collection::vec(proptest::collection::vec((0..4u32, 24..27u8), 0..4), 1..8),
        order in proptest::collection::vec(any::<proptest::sample::Index>(), 16),
        gone in proptest::collection::vec(any::<bool>(), 8),
    ) {
        let prefix = |&(n, length): &(u32, u8)| {
            let address = std::net::Ipv4Addr::from_bits(0xc0a8_0000 + n * 0x60);
            let network = IpNetwork::new(address.into(), length).unwrap();
            IpNetwork::new(network.network(), length).unwrap().to_string()
        };
        let offers: Vec<Vec<String>> = offers.iter().map(|one| one.iter().map(prefix).collect()).collect();
        let mut routes = routes();
        let say = |routes: &mut Routes, number: usize| {
            let texts: Vec<&str> = offers[number].iter().map(String::as_str).collect();
            offer_since(routes, number, number as u64, &texts);
            while routes.has_free() {
                routes.give_free();
            }
        };
        let all = order.iter().map(|index| index.index(offers.len())).chain(0..offers.len());
        all.for_each(|number| say(&mut routes, number));
        for number in (0..offers.len()).filter(|&number| gone[number]) {
            routes.withdraw(member(number));
            while routes.has_free() {
                routes.give_free();
            }
        }
        let mut model: Vec<(IpNetwork, usize)> = Vec::new();
        for number in (0..offers.len()).filter(|&number| !gone[number]) {
            for offered in offers[number].iter().map(|text| net(text)) {
                let is_taken = |&(taken, by): &(IpNetwork, usize)| by != number && overlap(taken, offered);
                if !model.iter().any(is_taken) && !model.contains(&(offered, number)) {
                    model.push((offered, number));
                }
            }
        }
        model.sort_unstable();
        let mut found: Vec<(IpNetwork, usize)> = routes.table().iter().map(|(prefix, owner)| match owner {
            Owner::Member(id) => (prefix, id.index()),
            Owner::Hub => unreachable!(),
        }).collect();
        found.sort_unstable();
        prop_assert_eq!(found, model);
    }
}

#[test]
fn who_offered_next_steps_in_when_one_leaves() {
    let mut routes = routes();
    assert_eq!(offer(&mut routes, 1, &["192.168.5.0/24", "192.168.6.0/24"]), 0);
    assert_eq!(offer(&mut routes, 3, &["192.168.5.128/25", "172.16.0.0/16"]), 1);
    assert_eq!(offer(&mut routes, 2, &["192.168.0.0/16"]), 1);
    assert_eq!(offer(&mut routes, 4, &["192.168.5.128/25"]), 1);
    routes.withdraw(member(1));
    assert_eq!(routes.give_free(), [member(3)], "it was the first to offer something of that");
    assert_eq!(has(&routes, 3), ["172.16.0.0/16", "192.168.5.128/25"]);
    routes.withdraw(member(3));
    assert_eq!(routes.give_free(), [member(2)]);
    assert_eq!((has(&routes, 2), has(&routes, 4)), (vec!["192.168.0.0/16".to_owned()], vec![]));
    routes.withdraw(member(4));
    routes.withdraw(member(2));
    assert!(routes.give_free().is_empty() && routes.table().iter().next().is_none());
    assert!(
        routes.offers.by_member.is_empty() && routes.offers.by_prefix.is_empty(),
        "nothing is left behind"
    );
}

#[test]
fn a_network_that_the_hub_comes_into_is_no_members_until_it_leaves_it() {
    let mut routes = routes();
    offer(&mut routes, 1, &["172.17.0.0/16", "192.168.5.0/24"]);
    let why = RejectedRoute::HubNetwork(net("172.17.0.0/24"));
    let address = "172.17.0.9/24".parse().unwrap();
    assert_eq!(routes.set_hub_networks(&[address]), [(member(1), net("172.17.0.0/16"), why)]);
    assert!(routes.set_hub_networks(&[net("172.17.0.0/24")]).is_empty(), "another address in the same one");
    assert!(routes.give_free().is_empty());
    assert_eq!(has(&routes, 1), ["192.168.5.0/24"]);
    assert_eq!(offer(&mut routes, 2, &["172.17.0.128/25"]), 1, "nor another's");
    assert!(routes.set_hub_networks(&[]).is_empty());
    assert_eq!(routes.give_free(), [member(1)]);
    assert_eq!(has(&routes, 1), ["172.17.0.0/16", "192.168.5.0/24"]);
}

#[test]
fn changes_are_told_at_once_and_then_together() {
    let (mut routes, start) = (routes(), Instant::now());
    let owner = |number| Some(Owner::Member(member(number)));
    assert_eq!(routes.tell_at(start), None);
    offer(&mut routes, 1, &["192.168.5.0/24"]);
    assert_eq!(routes.tell_at(start), Some(start));
    let first = RouteChange { prefix: net("192.168.5.0/24"), before: None, now: owner(1) };
    assert_eq!(routes.take_changes(64, start), [first]);
    // It comes and goes a hundred times, and goes over to another one.
    let later = start + Duration::from_millis(10);
    for _ in 0..100 {
        routes.withdraw(member(1));
        offer(&mut routes, 1, &["192.168.5.0/24", "192.168.6.0/24"]);
    }
    routes.withdraw(member(1));
    offer(&mut routes, 2, &["192.168.5.0/24"]);
    assert_eq!(routes.tell_at(later), Some(start + TELL_EVERY));
    assert_eq!(routes.told().collect::<Vec<_>>(), [(net("192.168.5.0/24"), Owner::Member(member(1)))]);
    let second = RouteChange { prefix: net("192.168.5.0/24"), before: owner(1), now: owner(2) };
    assert_eq!(routes.take_changes(64, later), [second]);
    assert_eq!(routes.tell_at(later), None);
}

#[test]
fn what_is_too_much_at_once_is_told_the_next_time() {
    let (mut routes, start) = (routes(), Instant::now());
    let offered: Vec<String> = (0..60).map(|n| format!("192.168.{n}.0/24")).collect();
    offer(&mut routes, 1, &offered.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(routes.take_changes(50, start).len(), 50);
    assert_eq!(routes.tell_at(start), Some(start + TELL_EVERY));
    assert_eq!(routes.told().count(), 50);
    assert_eq!(routes.take_changes(50, start + TELL_EVERY).len(), 10);
}

#[test]
fn thousands_of_gateways_that_leave_at_once_cost_no_more_than_they_have() {
    let mut routes = routes();
    let prefix = |n: usize| format!("172.{}.{}.0/24", 16 + n / 256, n % 256);
    let gateways = 4_000;
    for n in 0..gateways {
        assert_eq!(offer_since(&mut routes, n, n as u64, &[&prefix(n)]), 0);
        // Each has another one that would like to be it.
        let since = (gateways + n) as u64;
        assert_eq!(offer_since(&mut routes, gateways + n, since, &[&prefix(n)]), 1);
    }
    let began = Instant::now();
    (0..gateways).for_each(|n| routes.withdraw(member(n)));
    let mut winners = 0;
    while routes.has_free() {
        winners += routes.give_free().len();
    }
    assert_eq!(winners, gateways);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}
