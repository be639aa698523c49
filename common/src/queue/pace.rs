//! How much to seal at once for a socket. Pure.
//!
//! Sealed bytes can no longer be dropped or overtaken, so a slow socket gets few at a time; a fast socket gets large
//! writes. A burst is what the socket drains in 2 ms.

use std::time::{Duration, Instant};

/// Most bytes sealed for one write. Larger writes are no faster, and delay the packets behind them.
pub const MAX_BURST: usize = 128 * 1024;
/// Fewest bytes: below this, the cost of each record outweighs the shorter delay.
pub const MIN_BURST: usize = 4 * 1024;
/// How long a burst may take to drain.
const TARGET: Duration = Duration::from_millis(2);

/// The pace of one link.
#[derive(Debug)]
pub struct Pace {
    burst: usize,
    /// When the socket was last full, while there has been something to send ever since.
    full_at: Option<Instant>,
    /// Bytes that the socket took since then.
    taken: usize,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace { burst: MAX_BURST / 8, full_at: None, taken: 0 }
    }
}

impl Pace {
    /// Most sealed bytes for the next write.
    pub fn burst(&self) -> usize {
        self.burst
    }

    /// Most plaintext bytes in one record, of which `longest` is the limit: nothing in a record can be opened before
    /// its last byte has arrived.
    pub fn record(&self, longest: usize) -> usize {
        self.burst.min(longest)
    }

    /// Longest packet to begin; `usize::MAX` where a whole record of the `longest` fits into a burst. A longer
    /// super-packet is split, as nothing can overtake it once it is begun.
    pub fn packet(&self, longest: usize) -> usize {
        if self.burst < longest { self.burst } else { usize::MAX }
    }

    /// The socket took `len` bytes and there was room for more.
    pub fn took_all(&mut self, len: usize) {
        self.taken += len;
        if len * 2 >= self.burst {
            self.burst = (self.burst * 2).min(MAX_BURST);
        }
    }

    /// The socket took `len` bytes and is full.
    pub fn took_some(&mut self, len: usize, now: Instant) {
        self.taken += len;
        self.burst = match self.full_at {
            // Bytes per target time, at the rate since the socket was last full.
            Some(full_at) => {
                let elapsed = now.saturating_duration_since(full_at).max(Duration::from_micros(1));
                (self.taken as f64 * (TARGET.as_secs_f64() / elapsed.as_secs_f64())) as usize
            }
            None => self.burst / 2,
        }
        .clamp(MIN_BURST, MAX_BURST);
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

    /// Sends over a socket that takes `rate` bytes a second and reports full after each burst.
    fn settle(rate: f64) -> Pace {
        let mut pace = Pace::default();
        let mut now = Instant::now();
        for _ in 0..50 {
            let len = pace.burst();
            now += Duration::from_secs_f64(len as f64 / rate);
            pace.took_some(len, now);
        }
        pace
    }

    #[test]
    fn settles_at_what_drains_in_the_target_time() {
        assert_eq!(settle(1e5).burst(), MIN_BURST);
        assert!((4_900..5_100).contains(&settle(2.5e6).burst()), "{:?}", settle(2.5e6));
        assert!((24_000..26_000).contains(&settle(12.5e6).burst()));
        assert_eq!(settle(1e9).burst(), MAX_BURST);
    }

    #[test]
    fn a_socket_with_room_gets_large_bursts_soon() {
        let mut pace = settle(1e5);
        for _ in 0..6 {
            pace.took_all(pace.burst());
        }
        assert_eq!((pace.burst(), pace.packet(MAX_BURST / 2)), (MAX_BURST, usize::MAX));
    }
}
