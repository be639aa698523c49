//! Log lines that anyone outside can provoke: the first few are told, the rest are counted. Pure.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// How long a count is kept before it is told.
pub const PERIOD: Duration = Duration::from_secs(10);
/// Lines of one kind that are told in one period.
pub const BURST: u32 = 10;
/// Most kinds that are told apart; beyond, a line is told as if it were alone.
const MAX_KINDS: usize = 1_024;

/// Counts log lines by kind.
///
/// In a period of a kind, which begins with its first line, [`BURST`] lines are told. The others are counted, and
/// the count is told when the period ends: never more than `BURST + 1` lines in each [`PERIOD`].
#[derive(Debug)]
pub struct Damper<K> {
    kinds: HashMap<K, Period>,
    /// When the first count is to be told.
    next: Option<Instant>,
}

#[derive(Debug)]
struct Period {
    ends_at: Instant,
    told: u32,
    kept_back: u64,
}

impl Period {
    fn is_over(&self, now: Instant) -> bool {
        self.kept_back == 0 && self.ends_at <= now
    }
}

impl<K> Default for Damper<K> {
    fn default() -> Damper<K> {
        Damper { kinds: HashMap::new(), next: None }
    }
}

impl<K: Eq + Hash + Clone> Damper<K> {
    /// Whether to tell a line of this kind now.
    pub fn tell(&mut self, kind: K, now: Instant) -> bool {
        if self.kinds.len() >= MAX_KINDS && !self.kinds.contains_key(&kind) {
            self.kinds.retain(|_, period| !period.is_over(now));
            if self.kinds.len() >= MAX_KINDS {
                return true;
            }
        }
        let new = || Period { ends_at: now + PERIOD, told: 0, kept_back: 0 };
        let period = self.kinds.entry(kind).or_insert_with(new);
        if period.is_over(now) {
            *period = new();
        }
        if period.told < BURST {
            period.told += 1;
            return true;
        }
        period.kept_back += 1;
        self.next = Some(self.next.map_or(period.ends_at, |next| next.min(period.ends_at)));
        false
    }

    /// When `poll` has something to tell.
    pub fn deadline(&self) -> Option<Instant> {
        self.next
    }

    /// A kind whose period is over, and how many of its lines were kept back, which is never none.
    pub fn poll(&mut self, now: Instant) -> Option<(K, u64)> {
        self.next.filter(|&next| next <= now)?;
        let mut late = self.kinds.iter_mut().filter(|(_, period)| period.kept_back > 0);
        let told = late.find(|(_, period)| period.ends_at <= now).map(|(kind, period)| {
            // Whoever goes on gets no new burst at once: the next period has its count only.
            period.ends_at = now + PERIOD;
            (kind.clone(), std::mem::take(&mut period.kept_back))
        });
        let left = self.kinds.values().filter(|period| period.kept_back > 0);
        self.next = left.map(|period| period.ends_at).min();
        told
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "virtual time has to start somewhere")]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_one_kind_is_a_few_lines_and_then_a_count() {
        let start = Instant::now();
        let mut damper = Damper::default();
        let told = (0..1_000).filter(|ms| damper.tell("x", start + Duration::from_millis(*ms))).count();
        assert_eq!(told, BURST as usize);
        assert!(damper.tell("other", start), "kinds do not count together");
        assert_eq!(damper.deadline(), Some(start + PERIOD));
        assert_eq!(damper.poll(start + PERIOD - Duration::from_millis(1)), None);
        assert_eq!(damper.poll(start + PERIOD), Some(("x", 990)));
        assert_eq!(damper.poll(start + PERIOD), None);
    }

    #[test]
    fn a_flood_that_goes_on_is_one_count_a_period() {
        let start = Instant::now();
        let mut damper = Damper::default();
        let (mut lines, mut counted) = (0, 0);
        for second in 0..60 {
            let now = start + Duration::from_secs(second);
            while let Some(((), count)) = damper.poll(now) {
                lines += 1;
                counted += count;
            }
            for _ in 0..100 {
                lines += usize::from(damper.tell((), now));
            }
        }
        assert_eq!(lines, BURST as usize + 5);
        assert_eq!(counted, 5_000 - u64::from(BURST));
    }

    #[test]
    fn quiet_is_forgotten() {
        let start = Instant::now();
        let mut damper = Damper::default();
        for _ in 0..=BURST {
            damper.tell((), start);
        }
        assert_eq!(damper.poll(start + PERIOD), Some(((), 1)));
        assert_eq!(damper.deadline(), None);
        assert!(damper.tell((), start + 2 * PERIOD), "a new burst");
    }

    #[test]
    fn it_stays_small() {
        let start = Instant::now();
        let mut damper = Damper::default();
        for kind in 0..2 * MAX_KINDS {
            assert!(damper.tell(kind, start));
        }
        assert_eq!(damper.kinds.len(), MAX_KINDS);
        damper.tell(0, start + PERIOD);
        assert!(damper.tell(MAX_KINDS, start + PERIOD));
        assert!(damper.kinds.len() < 3, "what is over makes room");
    }
}
