//! The keys that hubs may prove: that of the hub which was given, and those of the hubs that it vouches for; and whether
//! the first is saved. Pure.

use std::time::{Duration, Instant};

use common::wire::key::PublicKey;

/// How long to wait before the key is written again after that failed.
const PIN_PAUSE: Duration = Duration::from_secs(10);

/// The keys of which a hub must prove one.
pub(super) struct Pin {
    /// Those that the person gave, or that were written down, or the first that was seen.
    own: Vec<PublicKey>,
    /// Those of hubs that were told by a hub with one of these keys.
    told: Vec<PublicKey>,
    /// The one that was proved last.
    last: Option<PublicKey>,
    /// When to write it again, after that failed.
    again_at: Option<Instant>,
    /// Whether the last attempt to write it failed.
    has_failed: bool,
}

impl Pin {
    /// `told`: as it was written down.
    pub(super) fn new(own: Vec<PublicKey>, told: Vec<PublicKey>) -> Pin {
        Pin { last: own.first().copied(), own, told, again_at: None, has_failed: false }
    }

    /// The key of the hub that was met last, or is expected; once one is known.
    pub(super) fn key(&self) -> Option<PublicKey> {
        self.last
    }

    /// The keys of which a hub has to prove one; where there are none, any will do.
    pub(super) fn trusted(&self) -> Vec<PublicKey> {
        self.own.iter().chain(self.told.iter().filter(|_| !self.own.is_empty())).copied().collect()
    }

    /// The hub vouches for hubs with these keys, and no longer for others.
    pub(super) fn set_told(&mut self, told: Vec<PublicKey>) {
        self.told = told;
    }

    /// When `poll` has something to write.
    pub(super) fn again_at(&self) -> Option<Instant> {
        self.again_at
    }

    /// The key, if it is to be written again now.
    pub(super) fn poll(&mut self, now: Instant) -> Option<PublicKey> {
        self.again_at.take_if(|at| *at <= now)?;
        self.last
    }

    /// The hub has proved this key, which is being written.
    pub(super) fn set(&mut self, key: PublicKey) {
        if self.own.is_empty() {
            self.own.push(key);
        }
        self.last = Some(key);
        self.again_at = None;
    }

    /// The key could not be written. Whether that is news.
    pub(super) fn failed(&mut self, now: Instant) -> bool {
        self.again_at = Some(now + PIN_PAUSE);
        !std::mem::replace(&mut self.has_failed, true)
    }

    /// The key, if it is not written yet.
    pub(super) fn unwritten(&self) -> Option<PublicKey> {
        self.last.filter(|_| self.again_at.is_some())
    }
}

#[cfg(test)]
mod tests {
    use common::wire::key::PrivateKey;

    use super::*;

    #[test]
    fn the_first_hub_is_trusted_and_then_those_that_it_vouches_for_and_nobody_else() {
        let key = |seed: u8| PrivateKey::from_random([seed; 32]).public();
        let mut pin = Pin::new(Vec::new(), vec![key(7)]);
        assert_eq!(pin.trusted(), [], "what was told counts for nothing without the one who told it");
        pin.set(key(1));
        pin.set_told(vec![key(1), key(2)]);
        pin.set(key(2));
        assert_eq!((pin.key(), pin.trusted()), (Some(key(2)), vec![key(1), key(1), key(2)]));
        pin.set_told(vec![]);
        assert_eq!(pin.trusted(), [key(1)], "who is not vouched for any more is not trusted");
    }
}
