//! A token bucket. Pure.

use std::time::{Duration, Instant};

/// Lets `burst` events through at once and one more every `interval`.
#[derive(Clone, Copy, Debug)]
pub struct TokenBucket {
    interval: Duration,
    burst: u32,
    /// When the bucket will be full again; `None` while it is.
    full_at: Option<Instant>,
}

impl TokenBucket {
    /// A full bucket.
    pub const fn new(interval: Duration, burst: u32) -> TokenBucket {
        TokenBucket { interval, burst, full_at: None }
    }

    /// Takes a token; `false` where there is none.
    pub fn take(&mut self, now: Instant) -> bool {
        let full_at = self.full_at.map_or(now, |at| at.max(now)) + self.interval;
        let allowed = full_at <= now + self.interval * self.burst;
        if allowed {
            self.full_at = Some(full_at);
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lets_a_burst_through_and_then_the_rate() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(Duration::from_millis(10), 5);
        let mut count = |from: u64, to: u64| {
            (from..to).filter(|&ms| bucket.take(start + Duration::from_millis(ms))).count()
        };
        assert_eq!(count(0, 1_000), 5 + 99, "the burst at once, then one each 10 ms");
        assert_eq!(count(100_000, 100_003), 3, "full again after a while");
    }
}
