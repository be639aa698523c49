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
    /// The earliest end of a period; a lower bound.
    next: Option<Instant>,
}

#[derive(Debug)]
struct Period {
    ends_at: Instant,
    told: u32,
    kept_back: u64,
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
            return true;
        }
        let ends_at = now + PERIOD;
        let period = self.kinds.entry(kind).or_insert(Period { ends_at, told: 0, kept_back: 0 });
        self.next = Some(self.next.map_or(period.ends_at, |next| next.min(period.ends_at)));
        if period.told < BURST {
            period.told += 1;
            return true;
        }
        period.kept_back += 1;
        false
    }

    /// When `poll` may have something to tell.
    pub fn deadline(&self) -> Option<Instant> {
        self.next
    }

    /// A kind whose period is over, and how many of its lines were kept back, which is never none.
    pub fn poll(&mut self, now: Instant) -> Option<(K, u64)> {
        if self.next.is_none_or(|next| now < next) {
            return None;
        }
        self.kinds.retain(|_, period| period.kept_back > 0 || now < period.ends_at);
        let over = self.kinds.iter().find(|(_, period)| period.ends_at <= now).map(|(kind, _)| kind.clone());
        let Some(kind) = over else {
            self.next = self.kinds.values().map(|period| period.ends_at).min();
            return None;
        };
        let period = self.kinds.get_mut(&kind)?;
        let count = std::mem::take(&mut period.kept_back);
        // Whoever goes on gets no new burst at once: the next period has its count only.
        period.ends_at = now + PERIOD;
        Some((kind, count))
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
        assert_eq!(damper.poll(start + 2 * PERIOD), None);
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
    }
}
