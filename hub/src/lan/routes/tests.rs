//! Routes that come and go: who has what, and what is told when.

#![expect(clippy::disallowed_methods, reason = "virtual time has to start somewhere")]

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

/// Offers prefixes, as an open hub takes them; how many are rejected.
fn offer(routes: &mut Routes, number: usize, offered: &[&str]) -> usize {
    let offered: Vec<IpNetwork> = offered.iter().map(|text| net(text)).collect();
    routes.offer(member(number), &offered, None).len()
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
        assert_eq!(offer(&mut routes, n, &[&prefix(n)]), 0);
        // Each has another one that would like to be it.
        assert_eq!(offer(&mut routes, gateways + n, &[&prefix(n)]), 1);
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
