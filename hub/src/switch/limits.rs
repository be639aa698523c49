//! Rate limits of each member: broadcast, multicast, and ICMP errors.
//! Pure.
//!
//! Limits belong to the member, not to its link: a link that is made anew does not fill a bucket.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use common::queue::token_bucket::TokenBucket;

use crate::ids::MemberId;

/// Datagrams to everyone: a second's worth of them at once, then one a millisecond.
const DATAGRAMS: TokenBucket = TokenBucket::new(Duration::from_millis(1), 1_000);
/// Bytes to everyone: those of as many packets of 1,536 bytes, or of 23 of the longest.
const BYTES: TokenBucket = TokenBucket::new(Duration::from_nanos(651), 1_536_000);
/// ICMP answers.
const ANSWERS: TokenBucket = TokenBucket::new(Duration::from_millis(10), 50);
/// Entries without a missing token are looked for when there are so many.
const SWEEP_FROM: usize = 1_024;

/// What one source may still send to everyone, and be answered.
pub(super) struct Limits {
    datagrams: TokenBucket,
    bytes: TokenBucket,
    answers: TokenBucket,
}

impl Limits {
    /// Takes a packet to everyone that stands for so many datagrams, or refuses it as a whole.
    pub(super) fn flood(&mut self, datagrams: u32, bytes: usize, now: Instant) -> bool {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.datagrams.has(datagrams, now)
            && self.bytes.take_many(bytes, now)
            && self.datagrams.take_many(datagrams, now)
    }

    /// Takes an answer.
    pub(super) fn answer(&mut self, now: Instant) -> bool {
        self.answers.take(now)
    }

    fn is_full(&self, now: Instant) -> bool {
        [&self.datagrams, &self.bytes, &self.answers].into_iter().all(|bucket| bucket.is_full(now))
    }
}

/// The limits of all sources; those whose buckets are full need no entry.
#[derive(Default)]
pub(super) struct AllLimits {
    by_source: HashMap<Option<MemberId>, Limits>,
    sweep_at: usize,
}

impl AllLimits {
    /// Those of a member, or of the hub's own kernel.
    pub(super) fn of(&mut self, source: Option<MemberId>, now: Instant) -> &mut Limits {
        if self.by_source.len() >= self.sweep_at.max(SWEEP_FROM) {
            self.by_source.retain(|_, limits| !limits.is_full(now));
            self.sweep_at = self.by_source.len() * 2;
        }
        let full = || Limits { datagrams: DATAGRAMS, bytes: BYTES, answers: ANSWERS };
        self.by_source.entry(source).or_insert_with(full)
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "virtual time has to start somewhere")]
mod tests {
    use super::*;

    const MEMBER: Option<MemberId> = Some(MemberId::new(7));

    #[test]
    fn counts_datagrams_and_bytes() {
        let now = Instant::now();
        let mut all = AllLimits::default();
        let limits = all.of(MEMBER, now);
        assert!((0..10).all(|_| limits.flood(100, 2_000, now)), "a thousand datagrams in ten super-packets");
        assert!(!limits.flood(1, 60, now));
        let limits = all.of(None, now);
        assert_eq!((0..100).filter(|_| limits.flood(1, 65_535, now)).count(), 23, "bytes count too");
        assert!(!limits.flood(2_000, 0, now) && limits.flood(1, 1_000, now), "a refusal takes nothing");
    }

    #[test]
    fn are_the_members_own_and_forgotten_only_when_nothing_is_missing() {
        let now = Instant::now();
        let mut all = AllLimits::default();
        for member in 0..10_000 {
            assert!(all.of(Some(MemberId::new(member)), now).flood(1_000, 0, now));
            assert!(!all.of(Some(MemberId::new(member)), now).flood(1, 0, now));
        }
        assert_eq!(all.by_source.len(), 10_000);
        let later = now + Duration::from_secs(1);
        for member in 0..20_000 {
            assert!(all.of(Some(MemberId::new(member)), later).flood(1_000, 0, later));
        }
        assert!(all.by_source.len() <= 20_000 && all.sweep_at <= 40_000);
        let end = later + Duration::from_secs(1);
        for member in 0..100_000 {
            all.of(Some(MemberId::new(member)), end);
        }
        assert!(all.by_source.len() <= SWEEP_FROM.max(all.sweep_at), "{}", all.by_source.len());
    }
}
