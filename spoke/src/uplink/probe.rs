//! A question to the hub over a path that has changed. Pure.

use std::time::{Duration, Instant};

/// How long a hub may take to answer over a path that has changed, before the link is given up.
pub(super) const PROBE_TIME: Duration = Duration::from_millis(800);
/// The same, in round trips, for a hub that is far away or behind a queue; and the most.
const ROUND_TRIPS: u32 = 3;
const MOST: Duration = Duration::from_secs(3);

/// A question to the hub over a path that has changed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Probe {
    asked_at: Instant,
    patience: Duration,
}

impl Probe {
    /// A question that is asked now; `round_trip`: the last one before.
    pub(super) fn new(round_trip: Option<Duration>, now: Instant) -> Probe {
        let patience = round_trip.map_or(PROBE_TIME, |time| (time * ROUND_TRIPS).clamp(PROBE_TIME, MOST));
        Probe { asked_at: now, patience }
    }

    /// Whether it is answered, by the sending time of the last ping that was. That the hub is heard does not do: a path
    /// can carry what comes, and not what goes.
    pub(super) fn is_answered(self, last: Option<Instant>) -> bool {
        last.is_some_and(|sent_at| sent_at >= self.asked_at)
    }

    pub(super) fn deadline(self) -> Instant {
        self.asked_at + self.patience
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "virtual time has to start somewhere")]
mod tests {
    use super::*;

    #[test]
    fn a_hub_far_away_has_longer_to_answer() {
        let now = Instant::now();
        for (round_trip, expected) in [(None, 800), (Some(5), 800), (Some(600), 1_800), (Some(5_000), 3_000)]
        {
            let probe = Probe::new(round_trip.map(Duration::from_millis), now);
            assert_eq!(probe.deadline(), now + Duration::from_millis(expected));
        }
    }

    #[test]
    fn only_the_answer_to_a_ping_that_was_sent_over_the_new_path_counts() {
        let now = Instant::now();
        let probe = Probe::new(None, now);
        assert!(!probe.is_answered(None));
        assert!(!probe.is_answered(now.checked_sub(Duration::from_millis(1))));
        assert!(probe.is_answered(Some(now)));
    }
}
