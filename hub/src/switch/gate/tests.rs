//! Floods, silent peers and honest ones at the gate, in virtual time.

use std::collections::BTreeMap;

use super::*;

/// A gate in virtual time, and the links that are open behind it.
struct House {
    gate: Gate,
    start: Instant,
    now: Instant,
    /// By session; where each comes from.
    open: BTreeMap<SessionId, IpAddr>,
    next: usize,
    /// Why the last connection was refused.
    refused: Option<TurnedAway>,
}

impl House {
    fn new() -> House {
        let start = Instant::now();
        House { gate: Gate::default(), start, now: start, open: BTreeMap::new(), next: 0, refused: None }
    }

    fn pass(&mut self, milliseconds: u64) {
        self.now += Duration::from_millis(milliseconds);
    }

    /// A connection: its session, unless it is refused.
    fn knock(&mut self, from: &str) -> Option<SessionId> {
        match self.gate.admit(ip(from), self.now) {
            Admittance::Refuse(why) => {
                self.refused = Some(why);
                return None;
            }
            Admittance::Admit => {}
            Admittance::Replace(old) => {
                let source = self.open.remove(&old).expect("an open link is replaced");
                let penalty = |house: &House| house.gate.sources[&source_network(source)].penalty(house.now);
                let before = penalty(self);
                self.gate.failed(source, old, self.now);
                assert_eq!(penalty(self), before, "it has been punished already");
            }
        }
        self.next += 1;
        let session = SessionId::new(self.next);
        self.gate.enter(ip(from), session, self.now);
        self.open.insert(session, ip(from));
        assert_eq!(self.gate.half_open(), self.open.len());
        Some(session)
    }

    /// A connection that sends garbage.
    fn fail(&mut self, from: &str) -> Option<()> {
        let session = self.knock(from)?;
        self.open.remove(&session);
        self.gate.failed(ip(from), session, self.now);
        Some(())
    }

    /// A connection that joins, unless another took its place before its two round trips were over; `others`
    /// is what goes on every millisecond meanwhile.
    fn join(&mut self, from: &str, round_trip: u64, mut others: impl FnMut(&mut House)) -> bool {
        let Some(session) = self.knock(from) else { return false };
        // Hello and first message are there with the connection, or right behind it.
        self.gate.greeted(ip(from), session);
        for _ in 0..round_trip {
            self.pass(1);
            others(self);
        }
        if self.open.remove(&session).is_none() {
            return false;
        }
        self.gate.joined(ip(from), session, self.now);
        true
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn sources_are_addresses_and_ipv6_networks() {
    for (one, other, same) in [
        ("192.0.2.1", "192.0.2.1", true),
        ("192.0.2.1", "192.0.2.2", false),
        ("::ffff:192.0.2.1", "192.0.2.1", true),
        ("2001:db8:0:1::1", "2001:db8:0:1:ffff::2", true),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", false),
    ] {
        assert_eq!(source_network(ip(one)) == source_network(ip(other)), same, "{one} {other}");
    }
}

#[test]
fn a_source_that_is_full_loses_its_oldest_silent_link() {
    let mut house = House::new();
    let first = house.knock("192.0.2.1").unwrap();
    let other = house.knock("192.0.2.2").unwrap();
    house.gate.greeted(ip("192.0.2.1"), first);
    let second = house.knock("192.0.2.1").unwrap();
    for _ in 2..MAX_PER_SOURCE {
        house.knock("192.0.2.1").unwrap();
    }
    assert_eq!(house.open.len(), MAX_PER_SOURCE + 1);
    house.knock("192.0.2.1").unwrap();
    assert!(house.open.contains_key(&first), "it has greeted");
    assert!(!house.open.contains_key(&second));
    assert!(house.open.contains_key(&other), "another source's");
}

#[test]
fn when_all_is_full_the_source_with_most_links_pays() {
    let mut house = House::new();
    for i in 0..MAX_PER_SOURCE {
        house.knock("192.0.2.1").unwrap();
        house.knock(&format!("2001:db8:0:{i:x}::1")).unwrap();
    }
    let mut quiet = Vec::new();
    for i in 0..MAX_HALF_OPEN - 2 * MAX_PER_SOURCE {
        quiet.push(house.knock(&format!("10.0.{}.{}", i / 250, i % 250)).unwrap());
    }
    assert_eq!(house.open.len(), MAX_HALF_OPEN);
    house.knock("198.51.100.1").unwrap();
    assert_eq!(house.open.len(), MAX_HALF_OPEN);
    assert!(quiet.iter().all(|session| house.open.contains_key(session)));
    // Among equals the oldest goes, so that a flood from everywhere keeps nobody out.
    let mut house = House::new();
    let sessions: Vec<SessionId> = (0..MAX_HALF_OPEN)
        .map(|i| {
            house.pass(1);
            house.knock(&format!("2001:db8:0:{i:x}::1")).unwrap()
        })
        .collect();
    house.knock("198.51.100.1").unwrap();
    assert!(!house.open.contains_key(&sessions[0]));
    assert!(house.open.contains_key(&sessions[1]));
}

#[test]
fn a_full_hub_takes_nobody_in_but_at_the_cost_of_a_half_open_link() {
    let mut house = House::new();
    house.gate.limit(4);
    for i in 1..=3 {
        assert!(house.join(&format!("192.0.2.{i}"), 0, |_| {}));
    }
    let waiting = house.knock("192.0.2.9").unwrap();
    house.knock("192.0.2.10").unwrap();
    assert!(!house.open.contains_key(&waiting));
    assert!(house.join("192.0.2.11", 0, |_| {}));
    assert_eq!(house.knock("192.0.2.12"), None);
    house.gate.left(ip("192.0.2.1"), house.now);
    assert!(house.knock("192.0.2.12").is_some());
}

#[test]
fn a_penalty_grows_shrinks_the_share_and_passes() {
    let share = |house: &House| house.gate.sources[&ip("192.0.2.1")].share(house.now);
    let mut house = House::new();
    for (failures, left) in
        [(9, MAX_PER_SOURCE), (1, MAX_PER_SOURCE / 2), (30, MAX_PER_SOURCE / 4), (120, MIN_PER_SOURCE)]
    {
        for _ in 0..failures {
            house.fail("192.0.2.1").unwrap();
        }
        assert_eq!(share(&house), left, "after {failures} more");
    }
    house.pass(15_100);
    assert_eq!(share(&house), MAX_PER_SOURCE);
    for _ in 0..2_000 {
        house.pass(1);
        house.fail("192.0.2.1");
    }
    house.pass(MAX_PENALTY.as_millis() as u64 - 100);
    assert!(!house.gate.sources[&ip("192.0.2.1")].penalty(house.now).is_zero());
    house.pass(100);
    assert_eq!(share(&house), MAX_PER_SOURCE, "all is forgiven");
}

#[test]
fn only_a_source_that_is_far_gone_is_slowed_down() {
    let mut house = House::new();
    let attempt = |house: &mut House, from: &str, milliseconds: u64, each: u64| {
        let mut taken = 0;
        for _ in 0..milliseconds {
            house.pass(1);
            taken += (0..each).filter(|_| house.fail(from).is_some()).count();
        }
        taken
    };
    attempt(&mut house, "192.0.2.1", 100, 10);
    let taken = attempt(&mut house, "192.0.2.1", 1_000, 10);
    assert!((900..1_200).contains(&taken), "{taken} links of 10,000");
    assert_eq!(attempt(&mut house, "192.0.2.2", 1, 50), 50, "another source");
    assert_eq!(attempt(&mut house, "192.0.2.1", 1_000, 1), 1_000, "at the rate that it has left");
}

#[test]
fn a_source_with_a_member_is_never_shut_out() {
    let mut house = House::new();
    assert!(house.join("192.0.2.1", 0, |_| {}));
    for _ in 0..10_000 {
        house.fail("192.0.2.1").unwrap();
    }
    assert_eq!(house.gate.sources[&ip("192.0.2.1")].share(house.now), MIN_WITH_MEMBER);
}

/// What goes on in each millisecond of a flood: 500 garbage connections a second, and silent ones as long as
/// there are not 1,000.
fn flood(house: &mut House, from: &str) {
    let millisecond = house.now.duration_since(house.start).as_millis();
    if millisecond.is_multiple_of(2) {
        house.fail(from);
    }
    if millisecond.is_multiple_of(3) && house.gate.half_open() < 1_000 {
        house.knock(from);
    }
}

#[test]
fn a_spoke_joins_under_a_flood_from_elsewhere_and_from_its_own_address() {
    for attacker in ["198.51.100.66", "192.0.2.1"] {
        let mut house = House::new();
        for _ in 0..60_000 {
            house.pass(1);
            flood(&mut house, attacker);
        }
        let joined = (0..20).filter(|_| house.join("192.0.2.1", 300, |house| flood(house, attacker)));
        let joined = joined.count();
        assert!(joined >= 19, "{attacker}: {joined} of 20, a round trip being 150 ms");
    }
}

#[test]
fn a_spoke_joins_under_a_flood_from_everywhere() {
    let mut house = House::new();
    let mut next = 0_u32;
    let mut flood = move |house: &mut House| {
        for _ in 0..2 {
            next += 1;
            house.knock(&format!("2001:db8:{:x}:{:x}::1", next >> 16, next & 0xffff));
        }
    };
    for _ in 0..5_000 {
        house.pass(1);
        flood(&mut house);
    }
    assert!(house.join("192.0.2.1", 300, flood));
}

#[test]
fn the_table_is_bounded_and_keeps_the_worst() {
    let mut house = House::new();
    for _ in 0..100 {
        house.fail("192.0.2.66").unwrap();
    }
    for i in 0..10 * MAX_REMEMBERED {
        house.fail(&format!("2001:db8:{:x}:{:x}::1", i >> 16, i & 0xffff)).unwrap();
    }
    assert!(house.gate.sources.len() <= 2 * MAX_REMEMBERED);
    assert!(house.gate.sources.contains_key(&ip("192.0.2.66")));
    house.pass(60_000);
    for i in 0..2 * MAX_REMEMBERED {
        let from = format!("10.1.{}.{}", i / 250, i % 250);
        assert!(house.join(&from, 0, |_| {}));
        house.gate.left(ip(&from), house.now);
    }
    assert!(house.gate.sources.len() <= 2, "who has left in peace is forgotten");
}

#[test]
fn who_is_refused_is_told_the_true_reason() {
    let mut house = House::new();
    house.gate.limit(2);
    for from in ["192.0.2.1", "192.0.2.2"] {
        assert!(house.join(from, 1, |_| ()));
    }
    assert_eq!(house.knock("192.0.2.3"), None);
    assert_eq!(house.refused, Some(TurnedAway::Full), "nobody is half-open");
    house.gate.limit(1_000);
    while house.fail("192.0.2.4").is_some() {}
    assert_eq!(house.refused, Some(TurnedAway::Slowed));
}
