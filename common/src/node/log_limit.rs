//! Log rate limiter for lines that remote peers can cause: the first few are written, the others counted. Pure.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// How long a count is kept before it is logged.
pub const PERIOD: Duration = Duration::from_secs(10);
/// Lines of one kind that are logged in one period.
pub const BURST: u32 = 10;
/// Most kinds that are told apart; the others count as one.
const MAX_KINDS: usize = 1_024;

/// Counts log lines by kind.
///
/// In a period of a kind, which begins with its first line, [`BURST`] lines are logged. The others are counted, and
/// the count is logged when the period ends: never more than `BURST + 1` lines in each [`PERIOD`].
#[derive(Debug)]
pub struct LogLimiter<K> {
    kinds: HashMap<K, Period>,
    /// Of the kinds that have no place.
    others: Period,
    /// When the first count is to be logged.
    next: Option<Instant>,
}

#[derive(Debug, Default)]
struct Period {
    /// Nothing before the first line.
    ends_at: Option<Instant>,
    logged: u32,
    kept_back: u64,
}

impl Period {
    fn is_over(&self, now: Instant) -> bool {
        self.kept_back == 0 && self.ends_at.is_none_or(|at| at <= now)
    }

    /// Counts a line; whether to log it.
    fn allow(&mut self, now: Instant) -> bool {
        if self.is_over(now) {
            *self = Period { ends_at: Some(now + PERIOD), ..Period::default() };
        }
        if self.logged < BURST {
            self.logged += 1;
            return true;
        }
        self.kept_back += 1;
        false
    }

    /// When its count is to be logged.
    fn deadline(&self) -> Option<Instant> {
        self.ends_at.filter(|_| self.kept_back > 0)
    }

    /// The count, if it is to be logged now.
    fn poll(&mut self, now: Instant) -> Option<u64> {
        self.deadline().filter(|&at| at <= now)?;
        // A peer that continues gets no new burst at once: the next period logs only its count.
        self.ends_at = Some(now + PERIOD);
        Some(std::mem::take(&mut self.kept_back))
    }
}

impl<K> Default for LogLimiter<K> {
    fn default() -> LogLimiter<K> {
        LogLimiter { kinds: HashMap::new(), others: Period::default(), next: None }
    }
}

impl<K: Eq + Hash + Clone> LogLimiter<K> {
    /// Whether to log a line of this kind now.
    pub fn allow(&mut self, kind: K, now: Instant) -> bool {
        if self.kinds.len() >= MAX_KINDS && !self.kinds.contains_key(&kind) {
            self.kinds.retain(|_, period| !period.is_over(now));
        }
        let is_known = self.kinds.len() < MAX_KINDS || self.kinds.contains_key(&kind);
        let period = if is_known { self.kinds.entry(kind).or_default() } else { &mut self.others };
        let is_allowed = period.allow(now);
        self.next = self.next.into_iter().chain(period.deadline()).min();
        is_allowed
    }

    /// When `poll` has something to tell.
    pub fn deadline(&self) -> Option<Instant> {
        self.next
    }

    /// A kind whose period is over, `None` for those without a place of their own, and how many of its lines were
    /// kept back, which is never none.
    pub fn poll(&mut self, now: Instant) -> Option<(Option<K>, u64)> {
        self.next.filter(|&next| next <= now)?;
        let of_others = self.others.poll(now).map(|count| (None, count));
        let due = of_others.or_else(|| {
            self.kinds.iter_mut().find_map(|(kind, period)| Some((Some(kind.clone()), period.poll(now)?)))
        });
        self.next = self.kinds.values().chain([&self.others]).filter_map(Period::deadline).min();
        due
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "virtual time has to start somewhere")]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_one_kind_is_a_few_lines_and_then_a_count() {
        let start = Instant::now();
        let mut log_limiter = LogLimiter::default();
        let logged =
            (0..1_000).filter(|ms| log_limiter.allow("x", start + Duration::from_millis(*ms))).count();
        assert_eq!(logged, BURST as usize);
        assert!(log_limiter.allow("other", start), "kinds do not count together");
        assert_eq!(log_limiter.deadline(), Some(start + PERIOD));
        assert_eq!(log_limiter.poll(start + PERIOD - Duration::from_millis(1)), None);
        assert_eq!(log_limiter.poll(start + PERIOD), Some((Some("x"), 990)));
        assert_eq!(log_limiter.poll(start + PERIOD), None);
    }

    #[test]
    fn a_flood_that_goes_on_is_one_count_a_period() {
        let start = Instant::now();
        let mut log_limiter = LogLimiter::default();
        let (mut lines, mut counted) = (0, 0);
        for second in 0..60 {
            let now = start + Duration::from_secs(second);
            while let Some((_, count)) = log_limiter.poll(now) {
                lines += 1;
                counted += count;
            }
            for _ in 0..100 {
                lines += usize::from(log_limiter.allow((), now));
            }
        }
        assert_eq!(lines, BURST as usize + 5);
        assert_eq!(counted, 5_000 - u64::from(BURST));
    }

    #[test]
    fn quiet_is_forgotten() {
        let start = Instant::now();
        let mut log_limiter = LogLimiter::default();
        for _ in 0..=BURST {
            log_limiter.allow((), start);
        }
        assert_eq!(log_limiter.poll(start + PERIOD), Some((Some(()), 1)));
        assert_eq!(log_limiter.deadline(), None);
        assert!(log_limiter.allow((), start + 2 * PERIOD), "a new burst");
    }

    #[test]
    fn it_stays_small_and_so_does_the_log() {
        let start = Instant::now();
        let mut log_limiter = LogLimiter::default();
        let logged = (0..3 * MAX_KINDS).filter(|&kind| log_limiter.allow(kind, start)).count();
        assert_eq!(logged, MAX_KINDS + BURST as usize);
        assert_eq!(log_limiter.kinds.len(), MAX_KINDS);
        assert_eq!(log_limiter.poll(start + PERIOD), Some((None, 2 * MAX_KINDS as u64 - u64::from(BURST))));
        assert_eq!(log_limiter.poll(start + PERIOD), None);
        log_limiter.allow(0, start + PERIOD);
        assert!(log_limiter.allow(MAX_KINDS, start + PERIOD));
        assert!(log_limiter.kinds.len() < 3, "what is over makes room");
    }
}
