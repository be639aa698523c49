//! When to try the hub again, and which failed attempts are logged. Pure.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::{Duration, Instant};

use super::backoff::Backoff;
use super::effect::Notice;

/// Failed attempts in a row.
pub(super) struct Retry {
    backoff: Backoff,
    /// Why the last one failed.
    last: String,
    /// How often in a row it failed for that reason.
    count: usize,
    seed: u64,
    attempts: u64,
    /// Since when this spoke is not on the LAN.
    off_since: Option<Instant>,
}

impl Retry {
    /// `seed`: random, so that the spokes of a hub that restarts do not come back as one.
    pub(super) fn new(seed: u64, now: Instant) -> Retry {
        let (backoff, last) = (Backoff::default(), String::new());
        Retry { backoff, last, count: 0, seed, attempts: 0, off_since: Some(now) }
    }

    /// An attempt failed: how long to pause, and what to log. The same reason is logged once, and then each tenth time.
    pub(super) fn failed(&mut self, why: String, now: Instant) -> (Duration, Option<Notice>) {
        self.off_since.get_or_insert(now);
        if why != self.last {
            self.last = why;
            self.count = 0;
        }
        self.count += 1;
        let notice = match self.count {
            1 => Some(Notice::Failed(self.last.clone())),
            count if count.is_multiple_of(10) => Some(Notice::FailedAgain(self.last.clone(), count)),
            _ => None,
        };
        let random = self.random();
        (self.backoff.pause(random), notice)
    }

    /// The spoke is on the LAN.
    pub(super) fn succeeded(&mut self) {
        self.backoff.reset();
        self.last.clear();
        self.count = 0;
        self.off_since = None;
    }

    /// The circumstances have changed: what failed before says nothing about what comes.
    pub(super) fn begin_anew(&mut self) {
        self.backoff.reset();
    }

    /// Goes to the longest pause at once, where haste cannot help.
    pub(super) fn slow_down(&mut self) {
        self.backoff.slow_down();
    }

    /// Why the last attempt failed, if there was none since that worked.
    pub(super) fn reason(&self) -> Option<&str> {
        (!self.last.is_empty()).then_some(&self.last)
    }

    /// Since when this spoke is not on the LAN, if it is not.
    pub(super) fn off_since(&self) -> Option<Instant> {
        self.off_since
    }

    fn random(&mut self) -> u32 {
        self.attempts += 1;
        let mut hasher = DefaultHasher::new();
        (self.seed, self.attempts).hash(&mut hasher);
        (hasher.finish() >> 32) as u32
    }
}
