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
        self.take_many(1, now)
    }

    /// Takes `count` tokens at once, or none; `false` where there are fewer. More than the burst there never are.
    pub fn take_many(&mut self, count: u32, now: Instant) -> bool {
        let full_at = self.full_after(count, now);
        let allowed = full_at <= now + self.interval * self.burst;
        if allowed {
            self.full_at = Some(full_at);
        }
        allowed
    }

    /// Whether [`TokenBucket::take_many`] would take them.
    pub fn has(&self, count: u32, now: Instant) -> bool {
        self.full_after(count, now) <= now + self.interval * self.burst
    }

    /// Whether the bucket is full, so that it need not be kept: a new one is the same.
    pub fn is_full(&self, now: Instant) -> bool {
        self.full_at.is_none_or(|at| at <= now)
    }

    fn full_after(&self, count: u32, now: Instant) -> Instant {
        self.full_at.map_or(now, |at| at.max(now)) + self.interval * count
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

    #[test]
    fn takes_many_or_none() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(Duration::from_millis(10), 5);
        assert!(!bucket.take_many(6, start), "more than it ever holds");
        assert!(bucket.take_many(3, start) && bucket.is_full(start + Duration::from_millis(30)));
        assert!(!bucket.take_many(3, start), "two are left");
        assert!(bucket.has(2, start) && bucket.take_many(2, start), "which the refusal did not take");
        assert!(!bucket.take(start) && !bucket.is_full(start) && bucket.take_many(0, start));
        assert!(bucket.take_many(4, start + Duration::from_millis(40)));
        assert!(!bucket.take(start + Duration::from_millis(40)));
        assert!(!bucket.take_many(u32::MAX, start + Duration::from_secs(1_000_000)));
    }
}
