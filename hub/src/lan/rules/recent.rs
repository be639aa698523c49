//! The packets that the rules have let pass lately, so that the next ones of a flow need not be looked up; bounded. Pure.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use common::packet::Header;

use super::flows::Party;

/// Places; a power of two.
const PLACES: usize = 256;
/// For so long a packet passes without being seen by its flow: a small part of what a flow may be silent for.
const FRESH: Duration = Duration::from_secs(1);

/// What all packets of a flow in one direction have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Passage {
    from: Party,
    to: Party,
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    ports: (u16, u16),
}

impl Passage {
    /// That of a packet; `None` for one without ports.
    #[inline]
    pub(super) fn of(from: Party, to: Party, header: &Header) -> Option<Passage> {
        let Header { source, destination, protocol, ports, .. } = *header;
        Some(Passage { from, to, source, destination, protocol, ports: ports? })
    }

    /// Its place. Who chooses ports and addresses so that they share one gains nothing: these are looked up.
    #[inline]
    fn place(&self) -> usize {
        let low = |address| match address {
            IpAddr::V4(v4) => usize::from(v4.octets()[3]),
            IpAddr::V6(v6) => usize::from(v6.octets()[15]),
        };
        let ports = usize::from(self.ports.0) ^ usize::from(self.ports.1).rotate_left(3);
        (low(self.source) ^ low(self.destination).rotate_left(4) ^ ports ^ ports >> 8) % PLACES
    }
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    passage: Passage,
    rule: usize,
    until: Instant,
}

/// The last passages, one a place.
#[derive(Debug, Default)]
pub(super) struct Recent(Vec<Option<Entry>>);

impl Recent {
    /// The rule by which packets like this one pass.
    #[inline]
    pub(super) fn rule(&self, passage: &Passage, now: Instant) -> Option<usize> {
        let entry = self.0.get(passage.place())?.as_ref()?;
        (entry.passage == *passage && now < entry.until).then_some(entry.rule)
    }

    /// A packet has been looked up, and passes by this rule.
    pub(super) fn note(&mut self, passage: Passage, rule: usize, now: Instant) {
        if self.0.is_empty() {
            self.0 = vec![None; PLACES];
        }
        if let Some(place) = self.0.get_mut(passage.place()) {
            *place = Some(Entry { passage, rule, until: now + FRESH });
        }
    }

    /// Has every packet looked up.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::packet::Fragment;

    fn passage(from: usize, ports: (u16, u16), last: u8) -> Passage {
        let address = |last| IpAddr::from([10, 0, 0, last]);
        let header = Header {
            source: address(last),
            destination: address(9),
            protocol: 17,
            l4: 20,
            fragment: Fragment::No,
            ports: Some(ports),
            length: 64,
        };
        Passage::of(Party::Member(from), Party::Hub, &header).unwrap()
    }

    #[test]
    fn only_what_is_the_same_in_all_is_known_and_not_for_long() {
        let (mut recent, now) = (Recent::default(), Instant::now());
        let one = passage(1, (5_000, 53), 2);
        assert_eq!(recent.rule(&one, now), None);
        recent.note(one, 7, now);
        assert_eq!(recent.rule(&one, now + FRESH - Duration::from_nanos(1)), Some(7));
        assert_eq!(recent.rule(&one, now + FRESH), None);
        let mut in_its_place = 0;
        for from in 0..3 {
            for (there, back) in (0..2_000).map(|n| (4_500 + n, 53)) {
                for last in [2, 3] {
                    let other = passage(from, (there, back), last);
                    in_its_place += u32::from(other.place() == one.place());
                    assert_eq!(recent.rule(&other, now).is_some(), other == one);
                }
            }
        }
        assert!(in_its_place > 10, "{in_its_place}");
        recent.clear();
        assert_eq!(recent.rule(&one, now), None);
    }

    #[test]
    fn flows_of_two_machines_are_spread_over_the_places() {
        let mut places = [0_u32; PLACES];
        for port in 40_000..42_560 {
            places[passage(1, (port, 443), 2).place()] += 1;
        }
        assert_eq!(places.iter().max(), Some(&10));
    }
}
