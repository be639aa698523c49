//! CoDel (RFC 8289): detects a standing queue, and chooses the packets that signal congestion. Pure.
//!
//! Owns the state machine of one flow. Times are nanoseconds since the queue's own epoch.

use crate::packet::VNET_LEN;

/// When a delay counts as standing, and how soon a sender can react.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Law {
    /// Acceptable standing delay, RFC 8289 section 4.4.
    target: u64,
    /// Time for a sender to react, RFC 8289 section 4.3.
    interval: u64,
}

impl Law {
    /// For paths through the internet: 5 ms and 100 ms.
    pub(crate) const USUAL: Law = Law { target: 5_000_000, interval: 100_000_000 };

    /// For a link whose own round trip is known, beside those that follow it. All that waits here belongs to flows that
    /// take at least that long to react.
    ///
    /// The delay that a flow may have is then that round trip. It is its own: others overtake it. With half of it a cubic
    /// flow that is told of congestion still keeps a long line busy, unless segments are lost there: the link stands still
    /// for a round trip at each of them, and it takes a window for twice that to keep it busy all the same. The interval
    /// is such that a few of those in a row are no standing queue.
    pub(crate) fn with_round_trip(nanoseconds: u64) -> Law {
        Law {
            target: Law::USUAL.target.max(nanoseconds),
            interval: Law::USUAL.interval.saturating_add(nanoseconds.saturating_mul(4)),
        }
    }
}

/// A backlog up to this never signals: RFC 8289's `MAXPACKET`, one packet of the usual
/// MTU. It is not the largest packet seen: that is a super-packet of 64 KiB
/// here, and 64 KiB are a standing delay of 26 ms at 20 Mbit/s.
pub(crate) const SMALL_BACKLOG: usize = VNET_LEN + 1_500;

/// Control state of one flow (RFC 8289 section 5.2).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Codel {
    /// When the delay will have stood above the target for an interval; `None` while below.
    ripe: Option<u64>,
    /// When the next packet has to signal, while dropping. Stays behind as the time of the last episode.
    next: u64,
    /// Signals of this episode.
    count: u32,
    /// `count` when this episode began.
    count_at_start: u32,
    dropping: bool,
}

impl Codel {
    /// Whether the packet at the head signals congestion; called for each one, in order. The caller marks or drops a
    /// packet that does, and calls again for the next one with the same `now`.
    ///
    /// `sojourn`: how long it was queued; `backlog`: the flow's bytes behind it.
    pub(crate) fn must_signal(&mut self, law: Law, now: u64, sojourn: u64, backlog: usize) -> bool {
        if !self.is_standing(law, now, sojourn, backlog) {
            self.dropping = false;
            return false;
        }
        if !self.dropping {
            self.dropping = true;
            // RFC 8289 section 5.5: an episode soon after the last begins with the rate that ended that.
            let grown = self.count - self.count_at_start;
            let recent = now.saturating_sub(self.next) < 16 * law.interval;
            self.count = if grown > 1 && recent { grown } else { 1 };
            self.count_at_start = self.count;
            self.next = now + self.gap(law);
            return true;
        }
        if now < self.next {
            return false;
        }
        self.count = self.count.saturating_add(1);
        self.next += self.gap(law);
        true
    }

    /// The flow's last packet left it.
    pub(crate) fn emptied(&mut self) {
        self.ripe = None;
        self.dropping = false;
    }

    /// When the last episode ended, roughly; `None` if there was none.
    pub(crate) fn last_episode(&self) -> Option<u64> {
        (self.count > 0).then_some(self.next)
    }

    /// RFC 8289 section 5.6, `dodequeue`: has the delay been above the target for an interval?
    fn is_standing(&mut self, law: Law, now: u64, sojourn: u64, backlog: usize) -> bool {
        if sojourn < law.target || backlog <= SMALL_BACKLOG {
            self.ripe = None;
            return false;
        }
        now >= *self.ripe.get_or_insert(now + law.interval)
    }

    /// RFC 8289 section 5.6, `control_law`: the gap to the next signal shrinks with the square root
    /// of their number, so that the rate of a TCP sender sinks linearly.
    fn gap(&self, law: Law) -> u64 {
        (law.interval as f64 / f64::from(self.count).sqrt()) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const LATE: u64 = 6 * MS;
    const FULL: usize = 100_000;

    /// Asks every 100 µs in `from..to` and returns the times of signals, in units of 100 µs.
    fn signals(codel: &mut Codel, from: u64, to: u64) -> Vec<u64> {
        (from..to).filter(|&t| codel.must_signal(Law::USUAL, t * MS / 10, LATE, FULL)).collect()
    }

    #[test]
    fn signals_follow_interval_over_the_root_of_their_count() {
        // 100; +100/√1 = 200; +100/√2 = 270.7; +100/√3 = 328.4; +100/√4 = 378.4; +100/√5 = 423.2 ms.
        assert_eq!(signals(&mut Codel::default(), 0, 4_300), [1_000, 2_000, 2_708, 3_285, 3_785, 4_232]);
    }

    #[test]
    fn a_delay_must_stand_for_an_interval() {
        let mut codel = Codel::default();
        assert!(signals(&mut codel, 0, 990).is_empty());
        assert!(!codel.must_signal(Law::USUAL, 99 * MS, Law::USUAL.target - 1, FULL));
        assert!(signals(&mut codel, 1_000, 1_990).is_empty(), "counted afresh from 100 ms on");
        assert_eq!(signals(&mut codel, 1_990, 2_010), [2_000]);
    }

    #[test]
    fn a_backlog_of_one_packet_is_never_too_much() {
        let mut codel = Codel::default();
        assert!((0..10_000).all(|t| !codel.must_signal(Law::USUAL, t * MS, 50 * MS, SMALL_BACKLOG)));
        let mut codel = Codel::default();
        assert!((0..10_000).any(|t| codel.must_signal(Law::USUAL, t * MS, 50 * MS, SMALL_BACKLOG + 1)));
    }

    #[test]
    fn an_episode_soon_after_the_last_starts_with_its_rate() {
        let mut codel = Codel::default();
        signals(&mut codel, 0, 5_000);
        let reached = codel.count;
        assert_eq!(reached, 7);
        codel.must_signal(Law::USUAL, 500 * MS, 0, FULL);
        assert_eq!(signals(&mut codel, 5_001, 6_500), [6_001, 6_410], "100 ms, then 100/√6");
        assert_eq!(codel.count_at_start, reached - 1);

        // 16 intervals later that is forgotten.
        codel.must_signal(Law::USUAL, 650 * MS, 0, FULL);
        signals(&mut codel, 30_000, 31_010);
        assert_eq!((codel.count, codel.count_at_start), (1, 1));
    }

    #[test]
    fn a_late_asker_catches_up() {
        let mut codel = Codel::default();
        signals(&mut codel, 0, 1_001);
        // Due at 200, 270.7, 328.4 ms: three in a row, then it is time to wait.
        let due: Vec<bool> = (0..4).map(|_| codel.must_signal(Law::USUAL, 330 * MS, LATE, FULL)).collect();
        assert_eq!(due, [true, true, true, false]);
    }

    #[test]
    fn a_long_round_trip_gives_a_flow_longer_to_react() {
        let law = Law::with_round_trip(200 * MS);
        assert_eq!(law, Law { target: 200 * MS, interval: 900 * MS });
        let mut codel = Codel::default();
        let mut signals = |sojourn: u64| {
            (0..10_000)
                .filter(|&t| codel.must_signal(law, t * MS / 10, sojourn * MS, FULL))
                .collect::<Vec<_>>()
        };
        assert!(signals(199).is_empty());
        assert_eq!(signals(201), [9_000]);
        assert_eq!(Law::with_round_trip(MS / 10).target, Law::USUAL.target);
    }
}
