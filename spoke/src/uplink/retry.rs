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
    /// How often in a row another machine with the same key was on the LAN.
    clones: u32,
    seed: u64,
    attempts: u64,
    /// Since when this spoke is not on the LAN.
    off_since: Option<Instant>,
}

/// The pause after another machine with the same key has taken this one's place: the first one, and the longest. It
/// doubles each time, so that two that cannot be told apart do not take turns for ever.
const CLONE_PAUSE: Duration = Duration::from_secs(10);
const LONGEST_CLONE_PAUSE: Duration = Duration::from_secs(320);
/// After so long on the LAN there is no other machine any more.
pub(super) const ALONE_AFTER: Duration = Duration::from_secs(60);

impl Retry {
    /// `seed`: random, so that the spokes of a hub that restarts do not come back as one.
    pub(super) fn new(seed: u64, now: Instant) -> Retry {
        let (backoff, last) = (Backoff::default(), String::new());
        Retry { backoff, last, count: 0, clones: 0, seed, attempts: 0, off_since: Some(now) }
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
        let pause = self.backoff.pause(random);
        let least = match self.clones {
            0 => Duration::ZERO,
            count => (CLONE_PAUSE * 2_u32.saturating_pow(count - 1)).min(LONGEST_CLONE_PAUSE),
        };
        (pause.max(least), notice)
    }

    /// Another machine with the same key is on the LAN in this one's place.
    pub(super) fn count_clone(&mut self) {
        self.clones = (self.clones + 1).min(10);
    }

    /// The link that is lost had lasted for so long.
    pub(super) fn lasted(&mut self, time: Duration) {
        if time >= ALONE_AFTER {
            self.clones = 0;
        }
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

    /// A random number.
    pub(super) fn random(&mut self) -> u32 {
        self.attempts += 1;
        let mut hasher = DefaultHasher::new();
        (self.seed, self.attempts).hash(&mut hasher);
        (hasher.finish() >> 32) as u32
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "virtual time has to start somewhere")]
mod tests {
    use super::*;

    #[test]
    fn two_machines_with_one_key_take_turns_less_and_less() {
        let now = Instant::now();
        let mut retry = Retry::new(1, now);
        let mut pauses = Vec::new();
        for _ in 0..7 {
            retry.lasted(Duration::from_secs(9));
            retry.count_clone();
            pauses.push(retry.failed("replaced".to_owned(), now).0.as_secs());
            retry.succeeded();
        }
        assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 320]);
        retry.lasted(ALONE_AFTER);
        assert!(
            retry.failed("it stops".to_owned(), now).0 < Duration::from_secs(1),
            "it was alone in between"
        );
    }
}
