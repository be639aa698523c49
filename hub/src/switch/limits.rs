//! Rate limits of each member: broadcast, multicast, and ICMP errors. Pure.
//!
//! Limits belong to the member, not to its link: a link that is made anew does not fill a bucket. As an open hub lets
//! in any number of keys, what comes from one network outside is limited too, however many members are there.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use common::packet::prefix::source_network;
use common::queue::token_bucket::TokenBucket;

use crate::switch::router::Origin;

/// Datagrams to everyone: a second's worth of them at once, then one a millisecond.
const DATAGRAMS: u32 = 1_000;
/// Bytes to everyone: those of as many packets of 1,536 bytes, or of 23 of the longest.
const BYTES: u32 = 1_536 * DATAGRAMS;
/// How many members' worth one network outside may send.
const MEMBERS_OF_NETWORK: u32 = 4;
/// How many members' worth another hub may send, which holds its own members to these limits.
const MEMBERS_OF_HUB: u32 = 10;
/// ICMP answers.
const ANSWERS: TokenBucket = TokenBucket::new(Duration::from_millis(10), 50);
/// Most members of a LAN of several hubs that one packet goes to: beyond these it stays at the hub where it came in. A
/// packet that goes to a hundred thousand costs each hub as much as a thousand others do.
const MEMBERS_FOR_ALL: usize = 10_000;
/// Entries without a missing token are looked for when there are so many.
const SWEEP_FROM: usize = 1_024;

/// Who is held to a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Source {
    /// A member, another hub, or the hub's own kernel.
    Origin(Origin),
    /// All members in a network outside.
    Network(IpAddr),
}

/// What one source may still send to everyone, and be answered.
struct Limits {
    datagrams: TokenBucket,
    bytes: TokenBucket,
    answers: TokenBucket,
}

impl Limits {
    /// Full ones.
    fn of(source: Source) -> Limits {
        let members = match source {
            Source::Origin(Origin::Kernel | Origin::Member(_)) => 1,
            Source::Origin(Origin::Link(_)) => MEMBERS_OF_HUB,
            Source::Network(_) => MEMBERS_OF_NETWORK,
        };
        let second = |burst| TokenBucket::new(Duration::from_secs(1) / burst, burst);
        Limits { datagrams: second(DATAGRAMS * members), bytes: second(BYTES * members), answers: ANSWERS }
    }

    fn has(&self, datagrams: u32, bytes: u32, now: Instant) -> bool {
        self.datagrams.has(datagrams, now) && self.bytes.has(bytes, now)
    }

    fn is_full(&self, now: Instant) -> bool {
        [&self.datagrams, &self.bytes, &self.answers].into_iter().all(|bucket| bucket.is_full(now))
    }
}

/// The limits of all sources; those whose buckets are full need no entry.
pub(super) struct AllLimits {
    by_source: HashMap<Source, Limits>,
    sweep_at: usize,
    /// Most members on the LAN for a packet to everyone to go to other hubs.
    pub(super) most_for_all: usize,
}

impl Default for AllLimits {
    fn default() -> AllLimits {
        AllLimits { by_source: HashMap::new(), sweep_at: 0, most_for_all: MEMBERS_FOR_ALL }
    }
}

impl AllLimits {
    /// Takes a packet to everyone that stands for so many datagrams, from a member at this address outside, from another
    /// hub or from the hub's own kernel, or refuses it as a whole.
    pub(super) fn flood(
        &mut self,
        from: Origin,
        outside: Option<IpAddr>,
        datagrams: u32,
        bytes: usize,
        now: Instant,
    ) -> bool {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let network = outside.map(|address| Source::Network(source_network(address)));
        let sources = || [Some(Source::Origin(from)), network].into_iter().flatten();
        let is_allowed = sources().all(|source| self.entry(source, now).has(datagrams, bytes, now));
        for source in sources().filter(|_| is_allowed) {
            let limits = self.entry(source, now);
            limits.datagrams.take_many(datagrams, now);
            limits.bytes.take_many(bytes, now);
        }
        is_allowed
    }

    /// Takes an answer to where a packet came from.
    pub(super) fn answer(&mut self, to: Origin, now: Instant) -> bool {
        self.entry(Source::Origin(to), now).answers.take(now)
    }

    fn entry(&mut self, source: Source, now: Instant) -> &mut Limits {
        if self.by_source.len() >= self.sweep_at.max(SWEEP_FROM) {
            self.by_source.retain(|_, limits| !limits.is_full(now));
            self.sweep_at = self.by_source.len() * 2;
        }
        self.by_source.entry(source).or_insert_with(|| Limits::of(source))
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "virtual time has to start somewhere")]
mod tests {
    use super::*;
    use crate::ids::{MemberId, SessionId};

    const MEMBER: Origin = member(7);

    const fn member(index: usize) -> Origin {
        Origin::Member(MemberId::new(index))
    }

    #[test]
    fn counts_datagrams_and_bytes() {
        let now = Instant::now();
        let mut all = AllLimits::default();
        assert!((0..10).all(|_| all.flood(MEMBER, None, 100, 2_000, now)), "a thousand in ten super-packets");
        assert!(!all.flood(MEMBER, None, 1, 60, now));
        assert_eq!(
            (0..100).filter(|_| all.flood(Origin::Kernel, None, 1, 65_535, now)).count(),
            23,
            "bytes count too"
        );
        assert!(!all.flood(Origin::Kernel, None, 2_000, 0, now), "more than there ever is");
        assert!(all.flood(Origin::Kernel, None, 1, 1_000, now), "a refusal takes nothing");
    }

    #[test]
    fn another_hub_may_send_what_ten_members_may() {
        let (now, mut all) = (Instant::now(), AllLimits::default());
        let link = Origin::Link(SessionId::new(7));
        assert_eq!((0..11_000).filter(|_| all.flood(link, None, 1, 60, now)).count(), 10_000);
        assert!(all.flood(MEMBER, None, 1, 60, now), "and no member less");
    }

    #[test]
    fn many_members_in_one_network_have_a_limit_together() {
        let now = Instant::now();
        let mut all = AllLimits::default();
        let mut flood = |index, outside: &str| {
            let outside = outside.parse().unwrap();
            (0..1_100).filter(|_| all.flood(member(index), Some(outside), 1, 60, now)).count()
        };
        let heard = [0, 1, 2, 3, 4, 5].map(|index| flood(index, "203.0.113.9"));
        assert_eq!(heard, [1_000, 1_000, 1_000, 1_000, 0, 0]);
        assert_eq!(flood(4, "203.0.113.10"), 1_000, "what the network lacked was not taken from the member");
        // IPv6: a machine has a /64.
        let heard = [10, 11, 12, 13, 14].map(|index| flood(index, &format!("2001:db8::{index}:{index}")));
        assert_eq!(heard, [1_000, 1_000, 1_000, 1_000, 0]);
    }

    #[test]
    fn are_the_members_own_and_forgotten_only_when_nothing_is_missing() {
        let now = Instant::now();
        let mut all = AllLimits::default();
        for index in 0..10_000 {
            assert!(all.flood(member(index), None, 1_000, 0, now));
            assert!(!all.flood(member(index), None, 1, 0, now));
        }
        assert_eq!(all.by_source.len(), 10_000);
        let later = now + Duration::from_secs(1);
        for index in 0..20_000 {
            assert!(all.flood(member(index), None, 1_000, 0, later));
        }
        assert!(all.by_source.len() <= 20_000 && all.sweep_at <= 40_000);
        let end = later + Duration::from_secs(1);
        for index in 0..100_000 {
            all.entry(Source::Origin(member(index)), end);
        }
        assert!(all.by_source.len() <= SWEEP_FROM.max(all.sweep_at), "{}", all.by_source.len());
    }
}
