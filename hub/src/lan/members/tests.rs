//! Lists of members, read, written and joined.

#![expect(clippy::disallowed_methods, reason = "virtual time has to start somewhere")]

use std::str::FromStr as _;

use common::wire::frame::Join;
use common::wire::key::PrivateKey;

use super::*;
use crate::lan::admission::{Admission, Contact, Ruling};

mod lines;

fn key(seed: u8) -> PublicKey {
    PrivateKey::from_random([seed; 32]).public()
}

fn subnets() -> Subnets {
    Subnets::new(&["10.0.0.0/29".parse().unwrap()]).unwrap()
}

fn empty() -> Members {
    Members::parse("", subnets()).unwrap()
}

fn join(name: &str, ip: Option<&str>) -> Join {
    let addresses = ip.map(|ip| ip.parse().unwrap()).into_iter().collect();
    Join { addresses, ..Join::new(name.parse().unwrap()) }
}

/// What the member with this key asked for, and what it is or why it is not let in.
fn admit(members: &mut Members, seed: u8, name: &str, ip: Option<&str>) -> String {
    match members.admit(key(seed), &join(name, ip), Access::Open, &[]) {
        Decision::Member { id, .. } => {
            let member = members.member(id);
            format!("{} {}", member.name, member.addresses_text())
        }
        Decision::Dispute(holder) => format!("dispute with {}", members.member(holder).name),
        Decision::Refused(reason, text) => format!("{reason:?}: {text}"),
    }
}

fn set_online(members: &mut Members, seed: u8) {
    let id = members.by_key(&key(seed)).unwrap();
    members.set_online(id, SessionId::new(usize::from(seed)));
}

#[test]
fn gives_free_addresses_and_the_same_ones_again() {
    let mut members = empty();
    assert_eq!(admit(&mut members, 1, "a", None), "a 10.0.0.6");
    assert_eq!(admit(&mut members, 2, "b", None), "b 10.0.0.5");
    assert_eq!(admit(&mut members, 1, "a", None), "a 10.0.0.6");
    let mut members = Members::parse(&members.to_text(), subnets()).unwrap();
    assert_eq!(admit(&mut members, 2, "b", None), "b 10.0.0.5");
    assert!(!members.is_changed());
}

#[test]
fn the_first_free_address_is_the_one_that_a_naive_search_finds() {
    let subnets = Subnets::new(&["10.0.0.0/26".parse().unwrap(), "fd00::/122".parse().unwrap()]).unwrap();
    let mut members = Members::parse("", subnets).unwrap();
    let mut state = 7_u32;
    let mut random = |below: u32| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) % below
    };
    let mut reserved = HashSet::new();
    for _ in 0..3_000 {
        let free: Vec<Option<IpAddr>> = subnets
            .iter()
            .map(|subnet| {
                Subnets::automatic_from(subnet, 0)
                    .find(|address| members.holder(*address).is_none() && !members.is_reserved(*address))
            })
            .collect();
        let seed = random(80) as u8;
        let known = members.by_key(&key(seed));
        match random(10) {
            // Moves to an address, or takes it from another.
            0..2 => {
                let ip = format!("10.0.0.{}", 2 + random(60));
                admit(&mut members, seed, "a", Some(&ip));
            }
            2 => {
                reserved = (0..random(4)).map(|_| IpAddr::from([10, 0, 0, 2 + random(60) as u8])).collect();
                members.set_reserved(reserved.clone());
            }
            3 if known.is_some() => members.forget(known.unwrap()),
            _ => {
                admit(&mut members, seed, "a", None);
                let id = members.by_key(&key(seed)).unwrap();
                if let (None, [Some(v4), Some(v6)]) = (known, &free[..]) {
                    assert_eq!(members.member(id).addresses, [*v4, *v6]);
                }
            }
        }
    }
    assert!(reserved.len() < 4 && members.iter().count() > 30);
}

#[test]
fn a_newcomers_address_is_found_at_once() {
    let subnets = Subnets::new(&["10.0.0.0/16".parse().unwrap()]).unwrap();
    let mut members = Members::parse("", subnets).unwrap();
    let subnet = subnets.iter().next().unwrap();
    for number in 0..1_000_u128 {
        let key =
            PrivateKey::from_random(std::array::from_fn(|at| (number >> (8 * (at % 16))) as u8)).public();
        let asked = join("a", None);
        assert!(matches!(members.admit(key, &asked, Access::Open, &[]), Decision::Member { .. }));
        assert!(members.addresses.passed_v4() >= number, "the search begins behind those that are taken");
        let last = Subnets::automatic_from(subnet, number).next().unwrap();
        assert_eq!(members.holder(last), members.by_key(&key));
    }
}

#[test]
fn gives_the_address_that_is_asked_for_or_says_why_not() {
    let mut members = empty();
    assert_eq!(admit(&mut members, 1, "a", Some("10.0.0.5")), "a 10.0.0.5");
    for (ip, why) in [
        ("10.0.0.0", "subnet's own"),
        ("10.0.0.1", "hub's own"),
        ("10.0.0.7", "broadcast"),
        ("10.0.0.8", "not in the LAN's subnet 10.0.0.0/29"),
        ("fd00::1", "not in the LAN's subnet 10.0.0.0/29"),
    ] {
        let answer = admit(&mut members, 2, "b", Some(ip));
        assert!(answer.starts_with("BadAddress") && answer.contains(why), "{ip}: {answer}");
    }
    assert_eq!(admit(&mut members, 1, "a", Some("10.0.0.6")), "a 10.0.0.6", "it may move");
    assert_eq!(admit(&mut members, 2, "b", Some("10.0.0.5")), "b 10.0.0.5", "and leaves its old one");
}

#[test]
fn an_address_that_it_had_counts_where_nothing_is_recorded() {
    let mut members = empty();
    let mut ask = |seed, had: &str| {
        let wish = Join { had: vec![had.parse().unwrap()], ..join("m", None) };
        let admission = members.admit(key(seed), &wish, Access::Open, &[]);
        assert!(matches!(admission, Decision::Member { .. }), "{admission:?}");
        members.member(members.by_key(&key(seed)).unwrap()).addresses_text()
    };
    assert_eq!(ask(1, "10.0.0.5"), "10.0.0.5", "as a hub that lost its list gives it again");
    assert_eq!(ask(1, "10.0.0.6"), "10.0.0.5", "the record counts");
    assert_eq!(ask(2, "10.0.0.5"), "10.0.0.6", "it is another's now");
    assert_eq!(ask(3, "10.0.0.1"), "10.0.0.4", "the hub's own");
}

#[test]
fn an_address_is_disputed_only_while_its_holder_is_online() {
    let mut members = empty();
    admit(&mut members, 1, "a", Some("10.0.0.5"));
    set_online(&mut members, 1);
    assert_eq!(admit(&mut members, 2, "b", Some("10.0.0.5")), "dispute with a");
    assert_eq!(admit(&mut members, 1, "a", Some("10.0.0.5")), "a 10.0.0.5", "not with itself");
    let holder = members.by_key(&key(1)).unwrap();
    let decision = members.admit(key(2), &join("b", Some("10.0.0.5")), Access::Open, &[holder]);
    let address = "10.0.0.5".parse().unwrap();
    assert_eq!(
        decision,
        Decision::Member { id: members.by_key(&key(2)).unwrap(), evicted: vec![(holder, address)] }
    );
    assert!(members.member(holder).addresses.is_empty());
    assert_eq!(members.holder(address), members.by_key(&key(2)));
}

#[test]
fn a_hubs_own_address_is_nobody_elses_also_while_nothing_is_heard_of_it() {
    let mut members = Members::parse(&format!("{} hub-b 10.0.0.5 hub=b\n", key(1)), subnets()).unwrap();
    let told = admit(&mut members, 2, "b", Some("10.0.0.5"));
    assert!(told.starts_with("AddressHeld: 10.0.0.5 is held by hub-b"), "{told}");
    // A hub that another one asks may not know that one, or that a member is on the LAN.
    admit(&mut members, 3, "c", Some("10.0.0.4"));
    let put = |members: &Members, seed: u8, line: &str| {
        let key = key(seed);
        members.parse_record(&key, &format!("{key} {line}")).unwrap()
    };
    for (seed, name, address) in [(1, "hub-b hub=b", "10.0.0.5"), (3, "c", "10.0.0.4")] {
        let (name, rest) = name.split_once(' ').unwrap_or((name, ""));
        let loser = put(&members, seed, &format!("{name} - {rest}"));
        let puts = [loser, put(&members, 9, &format!("new {address}"))];
        let checked = members.check_needs(&puts, None);
        if seed == 3 {
            assert_eq!(checked, Ok(()), "it is offline");
            let (id, link) = (members.by_key(&key(seed)).unwrap(), Some(SessionId::new(50)));
            members.set_elsewhere(id, link);
            assert_eq!(members.check_needs(&puts, link), Ok(()), "the hub that asks knows that it is dead");
        }
        let why = members.check_needs(&puts, Some(SessionId::new(51))).unwrap_err();
        assert_eq!(why, format!("{address} is held by {name}, which is on the LAN"));
        let gone = members.check_needs(&puts[1..], None);
        assert_eq!(gone.is_ok(), seed == 1, "another machine may become that hub: {gone:?}");
    }
}

#[test]
fn where_nobody_can_agree_to_a_change_a_member_is_let_in_as_its_line_is() {
    let both = ["10.0.0.0/29", "fd00::/64"].map(|text| text.parse().unwrap());
    let subnets = Subnets::new(&both).unwrap();
    let mut members = Members::parse(&format!("{} a 10.0.0.5\n", key(1)), subnets).unwrap();
    members.journal.is_frozen = true;
    assert_eq!(admit(&mut members, 1, "b", None), "a 10.0.0.5");
    assert!(!members.is_changed());
    members.journal.is_frozen = false;
    assert!(admit(&mut members, 1, "b", None).starts_with("b 10.0.0.5,fd00::"));
}

#[test]
fn a_machine_that_becomes_a_hub_has_addresses_and_is_reached_from_outside() {
    let mut members = Members::parse(&format!("{} a -\n", key(1)), subnets()).unwrap();
    let mut list = |place: &str| {
        members.list_hub(key(1), "a".parse().unwrap(), Rights::default(), place.parse().unwrap())
    };
    let why = list("10.0.0.3:80").unwrap_err();
    assert!(why.starts_with("10.0.0.3:80: that address is one of the LAN 10.0.0.0/29"), "{why}");
    list("192.0.2.1").unwrap();
    list("192.0.2.1").unwrap();
    assert_eq!(members.to_text(), format!("{} a 10.0.0.6 hub=192.0.2.1:5678\n", key(1)));
    let place = || "192.0.2.1".parse().unwrap();
    let why = members.list_hub(key(2), "b".parse().unwrap(), Rights::default(), place()).unwrap_err();
    assert!(why.starts_with("the hub a is at 192.0.2.1:5678 already"), "{why}");
}

#[test]
fn only_a_holder_that_was_found_dead_loses_its_address() {
    let both = ["10.0.0.0/29", "fd00::/64"].map(|text| text.parse().unwrap());
    let mut members = Members::parse("", Subnets::new(&both).unwrap()).unwrap();
    for (seed, ip) in [(1, "10.0.0.5"), (2, "fd00::5")] {
        admit(&mut members, seed, "m", Some(ip));
        set_online(&mut members, seed);
    }
    let [dead, alive] = [1, 2].map(|seed| members.by_key(&key(seed)).unwrap());
    let addresses = ["10.0.0.5", "fd00::5"].map(|ip| ip.parse().unwrap()).to_vec();
    let wish = Join { addresses, ..join("newcomer", None) };
    let mut ask = |found_dead: &[_]| members.admit(key(3), &wish, Access::Open, found_dead);
    assert_eq!(ask(&[]), Decision::Dispute(dead));
    assert_eq!(ask(&[dead]), Decision::Dispute(alive));
    assert!(matches!(ask(&[dead, alive]), Decision::Member { evicted, .. } if evicted.len() == 2));
}

/// Nobody was heard.
struct Silence;

impl Contact for Silence {
    fn was_heard(&self, _: SessionId, _: Instant) -> bool {
        false
    }
}

#[test]
fn who_waits_for_a_holder_does_not_wait_for_the_one_that_has_its_place_in_the_list() {
    let text = format!("{} a 10.0.0.2\n", key(1));
    let now = Instant::now();
    for is_place_taken in [true, false] {
        let members = Members::parse(&text, subnets()).unwrap();
        let mut admission = Admission::new(members, Access::Open, subnets());
        set_online(admission.members_mut(), 1);
        let wish = join("b", Some("10.0.0.2"));
        let ruling = admission.ask(SessionId::new(2), key(2), wish, &Silence, now);
        let holder = admission.members().by_key(&key(1)).unwrap();
        assert!(matches!(ruling, Ruling::Dispute { holder: asked, .. } if asked == holder));
        assert!(admission.settle(SessionId::new(2), &Silence, now).is_none());
        let members = admission.members_mut();
        members.set_offline(holder, now);
        if is_place_taken {
            // A full list forgets who is offline.
            members.size = FULL;
            admit(members, 3, "c", None);
            assert_eq!(members.by_key(&key(3)), Some(holder));
            set_online(members, 3);
            members.size = 0;
        } else {
            members.remove(holder);
        }
        let ruling = admission.settle(SessionId::new(2), &Silence, now);
        assert!(matches!(ruling, Some(Ruling::Welcome(_))), "{ruling:?}");
        assert!(admission.members().holder("10.0.0.2".parse().unwrap()).is_some());
    }
}

#[test]
fn a_full_open_hub_takes_from_the_longest_unseen_and_a_locked_one_never() {
    let mut members = empty();
    for seed in 1..=5 {
        admit(&mut members, seed, &format!("m{seed}"), None);
        set_online(&mut members, seed);
    }
    assert!(admit(&mut members, 9, "late", None).starts_with("Full"));
    let now = Instant::now();
    for (seed, age) in [(2, 50), (4, 90)] {
        let id = members.by_key(&key(seed)).unwrap();
        members.set_offline(id, now.checked_sub(std::time::Duration::from_secs(age)).unwrap());
    }
    assert_eq!(admit(&mut members, 9, "late", None), "late 10.0.0.3", "that of m4");
}

#[test]
fn a_locked_hub_knows_only_its_members_and_their_addresses() {
    let mut members = empty();
    admit(&mut members, 1, "a", Some("10.0.0.5"));
    let mut ask = |seed, ip| members.admit(key(seed), &join("x", ip), Access::Locked, &[]);
    assert!(matches!(ask(2, None), Decision::Refused(Refusal::Locked, _)));
    assert!(matches!(ask(1, Some("10.0.0.6")), Decision::Refused(Refusal::BadAddress, _)));
    assert!(matches!(ask(1, Some("10.0.0.5")), Decision::Member { .. }));
    assert!(matches!(ask(1, None), Decision::Member { .. }));
    assert_eq!(members.member(members.by_key(&key(1)).unwrap()).name.as_str(), "a", "nor renames");
}

#[test]
fn names_are_one_each() {
    let mut members = empty();
    assert_eq!(admit(&mut members, 1, "web", None), "web 10.0.0.6");
    assert_eq!(admit(&mut members, 2, "web", None), "web-2 10.0.0.5");
    assert_eq!(admit(&mut members, 3, "web", None), "web-3 10.0.0.4");
    assert_eq!(admit(&mut members, 3, "web", None), "web-3 10.0.0.4");
    assert_eq!(admit(&mut members, 2, "db", None), "db 10.0.0.5");
}

#[test]
fn a_name_that_many_have_is_found_at_once_and_stays() {
    let mut members = Members::parse("", Subnets::new(&["fd00::/64".parse().unwrap()]).unwrap()).unwrap();
    for seed in 0..250 {
        admit(&mut members, seed, "web", None);
    }
    let name = |members: &Members, seed| {
        members.member(members.by_key(&key(seed)).unwrap()).name.as_str().to_owned()
    };
    assert_eq!([name(&members, 0), name(&members, 98)], ["web", "web-99"]);
    let late = name(&members, 99);
    assert!(late.strip_prefix("web-").unwrap().parse::<u32>().unwrap() > 1_000, "{late}");
    // Though there is a smaller number now.
    members.revoke(members.by_key(&key(50)).unwrap());
    admit(&mut members, 99, "web", None);
    assert_eq!(name(&members, 99), late);
}

#[test]
fn the_list_of_an_open_hub_is_bounded_and_newcomers_still_come_in() {
    // Any 43 characters of base64 that end in zeros are a key.
    let lines = (0..MAX_MEMBERS).map(|number| format!("{number:A<42}A= m{number} -\n"));
    let text = format!("# ours\n{} first 10.0.0.2\n{}", key(1), lines.skip(1).collect::<String>());
    let mut members = Members::parse(&text, subnets()).unwrap();
    set_online(&mut members, 1);
    let refused = members.admit(key(2), &join("b", None), Access::Invited, &[]);
    assert!(matches!(refused, Decision::Refused(Refusal::Full, _)), "{refused:?}");
    // More than there are addresses: those take from each other.
    for seed in 2..12 {
        let answer = admit(&mut members, seed, "new", None);
        assert!(answer.starts_with("new"), "{answer}");
    }
    assert_eq!((members.len(), members.to_text().lines().count()), (MAX_MEMBERS, 1 + MAX_MEMBERS));
    assert!(members.to_text().starts_with(&format!("# ours\n{} first 10.0.0.2\n", key(1))));
    assert!(members.by_name(&"m1".parse().unwrap()).is_none(), "without an address, and never seen");
    assert!(Members::parse(&members.to_text(), subnets()).is_ok());
}

#[test]
fn text_keeps_what_a_person_wrote() {
    let text = format!(
        "# our machines\n\n{}   laptop   10.0.0.2   route=192.168.5.0/24,10.9.0.0/16\n  # the end\n{} phone -\n",
        key(1),
        key(2)
    );
    let mut members = Members::parse(&text, subnets()).unwrap();
    assert_eq!(members.to_text(), text);
    admit(&mut members, 2, "phone", None);
    let mended = text.replace(" phone -", " phone 10.0.0.6");
    assert_eq!(members.to_text(), mended);
    assert!(members.is_changed());
}

#[test]
fn bad_lines_are_named() {
    let good = format!("{} laptop 10.0.0.2", key(1));
    for (line, why) in [
        ("nonsense laptop 10.0.0.3".to_owned(), "is no key"),
        (key(2).to_string(), "name is missing"),
        (format!("{} la/ptop 10.0.0.3", key(2)), "is no name"),
        (format!("{} other 10.0.0.300", key(2)), "is no address"),
        (format!("{} other 10.0.1.3", key(2)), "not in the LAN's subnet"),
        (format!("{} other 10.0.0.3,10.0.0.4", key(2)), "two addresses"),
        (format!("{} other 10.0.0.3 route=10.0.0.1/8", key(2)), "behind its prefix"),
        (format!("{} other 10.0.0.3 what", key(2)), "is invalid"),
        (format!("{} other 10.0.0.3", key(1)), "same key"),
        (format!("{} laptop 10.0.0.3", key(2)), "the name laptop"),
        (format!("{} other 10.0.0.2", key(2)), "the address 10.0.0.2"),
    ] {
        let error = Members::parse(&format!("#\n{good}\n{line}\n"), subnets()).map(|_| ()).unwrap_err();
        assert!(error.line == 3 && error.why.contains(why), "{line}: {error:?}");
    }
}

#[test]
fn an_open_hub_records_what_is_offered_and_keeps_what_a_person_granted() {
    let net = |text: &str| text.parse::<IpNetwork>().unwrap();
    let text = format!("{} gateway 10.0.0.2 route=198.51.100.0/24,192.168.5.0/24\n", key(1));
    let mut members = Members::parse(&text, subnets()).unwrap();
    let id = members.by_key(&key(1)).unwrap();
    assert!(members.record_routes(id, &[net("192.168.6.0/24")]));
    assert_eq!(members.member(id).routes, [net("192.168.6.0/24"), net("198.51.100.0/24")]);
    assert!(members.record_routes(id, &[net("198.51.100.0/24")]));
    assert_eq!(members.member(id).routes, [net("198.51.100.0/24")]);
}

/// As many as a member has at most, as long as they are at most.
fn long_routes() -> Vec<IpNetwork> {
    let route = |i: u16| format!("fd12:3456:789a:{i:x}:bcde:f012:3456:0/112").parse().unwrap();
    (0..MAX_ROUTES as u16).map(route).collect()
}

#[test]
fn the_text_never_grows_past_what_can_be_read() {
    let both = ["10.0.0.0/8", "fd00::/64"].map(|text| text.parse().unwrap());
    let mut members = Members::parse("", Subnets::new(&both).unwrap()).unwrap();
    let routes = long_routes();
    for seed in 0..=255 {
        admit(&mut members, seed, &format!("{seed:a<63}"), None);
        members.record_routes(members.by_key(&key(seed)).unwrap(), &routes);
    }
    assert!(members.to_text().len() <= members.size, "{} bytes", members.size);
    let read = Members::parse(&members.to_text(), Subnets::new(&both).unwrap()).unwrap();
    assert!(read.to_text().len() <= read.size && read.size <= members.size);

    let id = members.by_key(&key(0)).unwrap();
    members.size = FULL_FOR_ROUTES;
    let wider: IpNetwork = "fd13::/64".parse().unwrap();
    let other: Vec<IpNetwork> = [wider].into_iter().chain(routes).take(MAX_ROUTES).collect();
    assert!(members.record_routes(id, &other[..1]), "less is always written down");
    members.size = FULL_FOR_ROUTES;
    assert!(!members.record_routes(id, &other), "more is not");

    // Longer still: strangers make room for each other, and nobody comes in where all are online.
    members.size = FULL;
    let len = members.len();
    let join = join("late", None);
    let late = PublicKey::from_str(&format!("{:A<42}A=", "late")).unwrap();
    members.size = FULL + 10_000;
    assert!(matches!(members.admit(late, &join, Access::Open, &[]), Decision::Member { .. }));
    assert_eq!(members.len(), len, "one was forgotten for it");
    members.size = FULL + 10_000;
    let invited = PublicKey::from_str(&format!("{:A<42}A=", "invited")).unwrap();
    assert!(matches!(
        members.admit(invited, &join, Access::Invited, &[]),
        Decision::Refused(Refusal::Full, _)
    ));
}

#[test]
fn whoever_comes_and_is_revoked_leaves_a_text_that_can_be_read() {
    let mut members = empty();
    let (routes, key) = (long_routes(), |seed| PublicKey::from_str(&format!("{seed:A<42}A=")).unwrap());
    let come_and_go = |members: &mut Members, seed: usize, ip: &str| {
        let key = key(seed);
        let line = format!("{key} m{seed} {ip} route={}", member::comma_separated(&routes));
        let put = members.parse_record(&key, &line).unwrap();
        let is_let_in = members.check_put(std::slice::from_ref(&put), &[], &[]).is_ok();
        if is_let_in {
            members.put(vec![put], &[]);
            members.revoke(members.by_key(&key).unwrap());
        }
        is_let_in.then_some(line)
    };
    let line = come_and_go(&mut members, 1, "10.0.0.2").unwrap();
    assert_eq!(members.to_text(), line + " revoked\n", "a person may undo it");
    let before = (FULL - 10_000, members.to_text().len());
    members.size = before.0;
    let count = (2..1_000).take_while(|&seed| come_and_go(&mut members, seed, "10.0.0.3").is_some()).count();
    let text = members.to_text();
    assert!(text.ends_with(" 10.0.0.3 revoked\n") && count > 100, "{count}");
    assert_eq!(text.len() - before.1, members.size - before.0);
    let read = Members::parse(&text, subnets()).unwrap();
    assert_eq!((read.size, read.revoked_count()), (text.len(), count + 1));
    // There are not more keys than that either.
    members.size = 0;
    assert!((1_000..).take_while(|&seed| members.keep_out(key(seed))).count() > MAX_MEMBERS);
    assert_eq!((members.revoked_count(), come_and_go(&mut members, 999, "-")), (MAX_KEYS, None));
}

#[test]
fn a_line_that_an_earlier_version_took_is_passed_over_and_stays() {
    let low_order = format!("{}=", "A".repeat(43));
    let text = format!(
        "{} laptop 10.0.0.2\n{} LapTop 10.0.0.3 # hers\n{low_order} any 10.0.0.4\n{} localhost 10.0.0.5\n\
         {} Desktop -\n",
        key(1),
        key(2),
        key(3),
        key(4)
    );
    let members = Members::parse(&text, subnets()).unwrap();
    let skipped: Vec<usize> = members.skipped().iter().map(|bad| bad.line).collect();
    assert_eq!((skipped, members.len()), (vec![2, 3], 3));
    assert_eq!(members.to_text(), text);
    assert_eq!(members.holder("10.0.0.3".parse().unwrap()), None);
    // The same name to the letter is a mistake of now.
    let twice = format!("{} laptop 10.0.0.2\n{} laptop 10.0.0.3\n", key(1), key(2));
    assert_eq!(Members::parse(&twice, subnets()).map(|_| ()).unwrap_err().line, 2);
}

/// Members of which a change waits, and their lines without it.
fn unagreed(changed: &[(u8, Option<&str>)]) -> Unagreed {
    let line = |seed: u8, rest: &&str| format!("{} {rest}", key(seed));
    changed.iter().map(|(seed, rest)| (key(*seed), rest.as_ref().map(|rest| line(*seed, rest)))).collect()
}

#[test]
fn what_waits_for_the_keeper_of_the_list_is_written_as_it_was() {
    let line = |seed: u8, rest: &str| format!("{} {rest}\n", key(seed));
    let text = line(1, "a 10.0.0.2") + &line(2, "b 10.0.0.3") + &line(3, "c -");
    let mut members = Members::parse(&text, subnets()).unwrap();
    members.rename(members.by_key(&key(1)).unwrap(), "x".parse().unwrap()).unwrap();
    members.remove(members.by_key(&key(2)).unwrap());
    admit(&mut members, 4, "new", Some("10.0.0.4"));
    let waits = unagreed(&[(1, Some("a 10.0.0.2")), (2, Some("b 10.0.0.3")), (4, None)]);
    let version = members.version();
    let Patch::Replace(written) = members.begin_save(&waits) else { panic!("it is short") };
    members.set_saved(version);
    assert_eq!(written, line(3, "c -") + &line(1, "a 10.0.0.2") + &line(2, "b 10.0.0.3"));
    // The keeper agrees to that of one, and to another one's the next time.
    [1, 4].iter().for_each(|&seed| members.write_again(&key(seed), false));
    assert!(members.is_changed() && !members.is_saved(members.version_of(members.by_key(&key(4)).unwrap())));
    let Patch::Replace(written) = members.begin_save(&unagreed(&[(2, Some("x 10.0.0.3"))])) else { panic!() };
    assert_eq!(
        written,
        line(1, "x 10.0.0.2") + &line(3, "c -") + &line(4, "new 10.0.0.4"),
        "x is one's name"
    );
    members.revoke(members.by_key(&key(3)).unwrap());
    let Patch::Replace(written) = members.begin_save(&unagreed(&[(3, Some("c -"))])) else { panic!() };
    let (revoked, others) = (line(3, "c - revoked"), line(1, "x 10.0.0.2") + &line(4, "new 10.0.0.4"));
    assert!(written.contains(&revoked) && written.replace(&revoked, "") == others, "{written}");
}

#[test]
fn what_another_hub_tells_of_a_member_that_waits_is_one_line() {
    let mut members = Members::parse(&format!("{} x 10.0.0.2\n", key(1)), subnets()).unwrap();
    let Patch::Replace(written) = members.begin_save(&unagreed(&[(1, Some("a 10.0.0.2\n-"))])) else {
        panic!()
    };
    assert_eq!(written, format!("{} a 10.0.0.2\n", key(1)));
}

#[test]
fn to_a_long_list_nothing_is_added_behind_what_waits_for_the_keeper() {
    let text: String =
        (100..=255).map(|seed| format!("{} {} -\n", key(seed), "m".repeat(59) + &seed.to_string())).collect();
    let mut members = Members::parse(&text, subnets()).unwrap();
    let mut all = text.clone();
    for (seeds, waits, added) in [
        (&[1, 2, 3][..], &[(2, None)][..], &[1][..]),
        (&[4], &[(2, None), (4, None)], &[]),
        (&[], &[(4, None)], &[2, 3]),
        (&[5], &[], &[4, 5]),
    ] {
        seeds.iter().for_each(|&seed| drop(admit(&mut members, seed, &format!("n{seed}"), None)));
        let before = members.version();
        let Patch::Append(lines) = members.begin_save(&unagreed(waits)) else { panic!("the list is long") };
        members.set_saved(before);
        all.push_str(&lines);
        let keys: Vec<String> = added.iter().map(|&seed| key(seed).to_string()).collect();
        assert_eq!(lines.lines().map(|line| line.split(' ').next().unwrap()).collect::<Vec<_>>(), keys);
    }
    assert_eq!(all, members.to_text());
}

#[test]
fn who_was_agreed_to_and_is_not_written_outlives_a_file_that_is_read_again() {
    let mut members = Members::parse(&format!("{} a 10.0.0.2\n", key(1)), subnets()).unwrap();
    admit(&mut members, 2, "b", None);
    // It waits for the keeper, while something else is written.
    let unagreed = Unagreed::from([(key(2), None)]);
    drop(members.begin_save(&unagreed));
    members.set_saved(members.version());
    members.write_again(&key(2), true);
    // The disk is full from now on, and its owner has the file read again.
    let read = Members::parse(&format!("{} a 10.0.0.2\n", key(1)), subnets()).unwrap();
    assert!(members.replace(read).is_empty() && members.by_key(&key(2)).is_some());
    assert!(members.is_changed());
}
