//! Deadlines by key, so that a turn of the loop costs nothing for the tunnels that wait. Pure.

use std::collections::BTreeSet;
use std::time::Instant;

/// At most one deadline for each key (a slab's key); setting one that is later than needed costs a wake-up,
/// never a missed one.
#[derive(Debug, Default)]
pub struct Timers {
    due: BTreeSet<(Instant, usize)>,
    /// `set[key]` is the entry of `key` in `due`.
    set: Vec<Option<Instant>>,
}

impl Timers {
    /// Makes sure that `key` is reported at `at` or before; an earlier deadline stays as it is.
    ///
    /// Deadlines mostly move away while a tunnel talks, so nothing is moved then: the early report finds
    /// nothing to do and sets the next one.
    pub fn set(&mut self, key: usize, at: Instant) {
        if self.set.len() <= key {
            self.set.resize(key + 1, None);
        }
        match self.set[key] {
            Some(earlier) if earlier <= at => return,
            Some(later) => {
                self.due.remove(&(later, key));
            }
            None => {}
        }
        self.due.insert((at, key));
        self.set[key] = Some(at);
    }

    /// Forgets the deadline of `key`.
    pub fn clear(&mut self, key: usize) {
        if let Some(at) = self.set.get_mut(key).and_then(Option::take) {
            self.due.remove(&(at, key));
        }
    }

    /// Takes out a key whose deadline is `now` or before.
    pub fn pop(&mut self, now: Instant) -> Option<usize> {
        let &(at, key) = self.due.first().filter(|(at, _)| *at <= now)?;
        self.due.remove(&(at, key));
        self.set[key] = None;
        Some(key)
    }

    /// The earliest deadline.
    pub fn next(&self) -> Option<Instant> {
        self.due.first().map(|&(at, _)| at)
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "virtual time has to start somewhere")]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn reports_each_key_once_in_order_and_keeps_the_earlier_deadline() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut timers = Timers::default();
        timers.set(3, at(30));
        timers.set(1, at(20));
        timers.set(3, at(10));
        timers.set(3, at(40));
        timers.set(2, at(5));
        timers.clear(2);
        assert_eq!(timers.next(), Some(at(10)));
        assert_eq!(timers.pop(at(9)), None);
        assert_eq!(timers.pop(at(25)), Some(3));
        assert_eq!(timers.pop(at(25)), Some(1));
        assert_eq!(timers.pop(at(99)), None);
        assert_eq!(timers.next(), None);
    }
}
