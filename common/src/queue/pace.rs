//! How much to seal at once for a socket. Pure.
//!
//! Sealed bytes can no longer be dropped or overtaken, so a slow socket gets few at a time; a fast socket gets large
//! writes. A burst is what the socket drains in 2 ms, measured while there is always something to send.

use std::time::{Duration, Instant};

use super::flight::LONG;

/// Most bytes sealed for one write. Larger writes are no faster, and delay the packets behind them.
pub const MAX_BURST: usize = 128 * 1024;
/// Fewest bytes: below this, the cost of each record outweighs the shorter delay.
pub const MIN_BURST: usize = 4 * 1024;
/// Most bytes of a record, and of a packet, on a path that takes at least [`LONG`]. TCP sends there what its window has
/// room for and the remainder a round trip later, and nothing of a record or a packet is of use before its last byte.
const LONG_PATH: usize = 8 * 1024;
/// How long a burst may take to drain.
const TARGET: Duration = Duration::from_millis(2);
/// How long the socket's rate is measured at least: it takes bytes in steps, at each of which it seems fast.
const WINDOW: Duration = Duration::from_millis(10);

/// The pace of one link.
#[derive(Debug)]
pub struct Pace {
    burst: usize,
    /// When the socket was full, which began the present measurement; there has been something to send ever since.
    full_at: Option<Instant>,
    /// Bytes that the socket took since then.
    taken: usize,
    /// Most bytes of a record, whatever the burst is.
    most: usize,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace { burst: MAX_BURST / 8, full_at: None, taken: 0, most: usize::MAX }
    }
}

impl Pace {
    /// Most sealed bytes for the next write.
    pub fn burst(&self) -> usize {
        self.burst
    }

    /// Tells the round trip of the path.
    pub fn set_round_trip(&mut self, round_trip: Duration) {
        self.most = if round_trip < LONG { usize::MAX } else { LONG_PATH };
    }

    /// Most plaintext bytes in one record, of which `longest` is the limit: nothing in a record can be opened before
    /// its last byte has arrived.
    pub fn record(&self, longest: usize) -> usize {
        self.burst.min(self.most).min(longest)
    }

    /// Longest packet to begin; `usize::MAX` where a whole record of the `longest` fits into a burst. A longer
    /// super-packet is split, as nothing can overtake it once it is begun.
    pub fn packet(&self, longest: usize) -> usize {
        let record = self.record(longest);
        if record < longest { record } else { usize::MAX }
    }

    /// The socket took `len` bytes, and then `is_full` or had room for more.
    pub fn took(&mut self, len: usize, is_full: bool, now: Instant) {
        self.taken += len;
        let Some(full_at) = self.full_at else {
            // Its rate is not known. It has room for more than it was given, or for less.
            if is_full {
                self.begin_window(self.burst / 2, now);
            } else if len * 2 >= self.burst {
                self.burst = (self.burst * 2).min(MAX_BURST);
            }
            return;
        };
        let elapsed = now.saturating_duration_since(full_at);
        if elapsed < WINDOW {
            return;
        }
        let drained = (self.taken as f64 * (TARGET.as_secs_f64() / elapsed.as_secs_f64())) as usize;
        if is_full {
            self.begin_window(drained, now);
        } else {
            // It would have taken more.
            self.burst = self.burst.max(drained).min(MAX_BURST);
        }
    }

    fn begin_window(&mut self, burst: usize, now: Instant) {
        self.burst = burst.clamp(MIN_BURST, MAX_BURST);
        self.full_at = Some(now);
        self.taken = 0;
    }

    /// There is nothing to send: the time until the next packet must not count as the socket's.
    pub fn idle(&mut self) {
        self.full_at = None;
        self.taken = 0;
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "virtual time has to start somewhere")]
mod tests {
    use super::*;

    /// Sends for two seconds over a socket that drains `rate` bytes a second. It is full at 128 KiB, and is asked again
    /// where a `step` of them is free.
    fn send(pace: &mut Pace, now: &mut Instant, rate: f64, step: usize) -> Vec<usize> {
        const SOCKET: usize = 128 * 1024;
        let (end, mut free, mut remainder, mut bursts) =
            (*now + Duration::from_secs(2), SOCKET, 0, Vec::new());
        while *now < end {
            if remainder > 0 {
                let len = remainder.min(free);
                (remainder, free) = (remainder - len, free - len);
                pace.took(len, remainder > 0, *now);
            }
            while remainder == 0 {
                let burst = pace.burst();
                bursts.push(burst);
                let len = burst.min(free);
                (remainder, free) = (burst - len, free - len);
                pace.took(len, remainder > 0, *now);
            }
            // Until the next step is free.
            let wait = step.saturating_sub(free).max(1);
            *now += Duration::from_secs_f64(wait as f64 / rate);
            free += wait;
        }
        bursts
    }

    #[test]
    fn settles_at_what_drains_in_the_target_time() {
        for step in [1_448, 16_000, 64_000] {
            for (rate, least, most) in [
                (1e5, MIN_BURST, MIN_BURST),
                (2.5e6, 4_500, 5_500),
                (12.5e6, 22_000, 28_000),
                (1e9, MAX_BURST, MAX_BURST),
            ] {
                let (mut pace, mut now) = (Pace::default(), Instant::now());
                let bursts = send(&mut pace, &mut now, rate, step);
                let settled = &bursts[bursts.len() / 2..];
                let range = (settled.iter().min().unwrap(), settled.iter().max().unwrap());
                // What a window catches of a step more or less.
                let slack = (step as f64 * TARGET.as_secs_f64() / WINDOW.as_secs_f64()) as usize;
                let (least, most) =
                    ((least - slack.min(least)).max(MIN_BURST), (most + slack).min(MAX_BURST));
                assert!(
                    *range.0 >= least && *range.1 <= most,
                    "{rate} bytes/s, steps of {step}: {range:?}, not {least} to {most}"
                );
            }
        }
    }

    #[test]
    fn a_socket_with_room_gets_large_bursts_soon() {
        let mut pace = Pace::default();
        for _ in 0..6 {
            pace.took(pace.burst(), false, Instant::now());
        }
        assert_eq!((pace.burst(), pace.packet(MAX_BURST / 2)), (MAX_BURST, usize::MAX));
    }

    #[test]
    fn what_is_sent_over_a_long_path_is_short_however_much_is_sent_at_once() {
        let mut pace = Pace::default();
        for _ in 0..6 {
            pace.took(pace.burst(), false, Instant::now());
        }
        pace.set_round_trip(Duration::from_millis(40));
        assert_eq!(
            (pace.burst(), pace.record(65_519), pace.packet(65_519)),
            (MAX_BURST, LONG_PATH, LONG_PATH)
        );
        pace.set_round_trip(Duration::from_millis(1));
        assert_eq!((pace.record(65_519), pace.packet(65_519)), (65_519, usize::MAX));
    }

    #[test]
    fn a_line_that_changes_is_followed() {
        let (mut pace, mut now) = (Pace::default(), Instant::now());
        send(&mut pace, &mut now, 1e5, 1_448);
        send(&mut pace, &mut now, 1e9, 16_000);
        assert_eq!(pace.burst(), MAX_BURST);
        send(&mut pace, &mut now, 1e5, 1_448);
        assert_eq!(pace.burst(), MIN_BURST);
    }
}
