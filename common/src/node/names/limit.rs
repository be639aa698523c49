//! How many questions each source may ask. Pure.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::queue::token_bucket::TokenBucket;

/// Sources share this many buckets.
const BUCKETS: usize = 256;
/// A source asks as many questions at once, and then one every [`INTERVAL`].
const BURST: u32 = 400;
const INTERVAL: Duration = Duration::from_millis(5);

/// A bound on the questions of each source, of fixed size: sources whose hashes agree share a bucket.
#[derive(Debug)]
pub struct SourceLimit {
    buckets: Vec<TokenBucket>,
    /// Makes it unpredictable who shares one.
    seed: u64,
}

impl SourceLimit {
    /// All may ask. `seed`: random.
    pub fn new(seed: u64) -> SourceLimit {
        SourceLimit { buckets: vec![TokenBucket::new(INTERVAL, BURST); BUCKETS], seed }
    }

    /// Whether this source may ask one more question.
    pub fn allow(&mut self, source: IpAddr, now: Instant) -> bool {
        let mut hasher = DefaultHasher::new();
        (self.seed, source).hash(&mut hasher);
        self.buckets[hasher.finish() as usize % BUCKETS].take(now)
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "virtual time has to start somewhere")]
mod tests {
    use super::*;

    #[test]
    fn who_asks_without_end_is_limited_and_others_are_not() {
        let (start, mut limit) = (Instant::now(), SourceLimit::new(7));
        let [loud, quiet] = ["10.0.0.2", "10.0.0.3"].map(|text| text.parse::<IpAddr>().unwrap());
        assert_eq!((0..10_000).filter(|_| limit.allow(loud, start)).count(), BURST as usize);
        assert!(limit.allow(quiet, start));
        let later = start + Duration::from_secs(1);
        assert_eq!((0..10_000).filter(|_| limit.allow(loud, later)).count(), 200);
    }
}
