//! Spaces out observations after changes: the first at once, later ones at intervals. Pure.

#![warn(clippy::disallowed_methods, reason = "pure, though the module above it is not")]

use std::time::{Duration, Instant};

use super::changes::Changes;

/// The least time between two observations.
pub const PAUSE: Duration = Duration::from_millis(200);

/// Collects changes: the first is due at once, later ones together, once in [`PAUSE`].
#[derive(Debug, Default)]
pub struct Pacer {
    pending: Changes,
    /// When the last ones were taken, and `PAUSE` is over.
    ready_at: Option<Instant>,
}

impl Pacer {
    /// Adds changes.
    pub fn add(&mut self, changes: Changes) {
        self.pending.merge(changes);
    }

    /// When [`Pacer::take`] has something; `now` where it has already.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        (!self.pending.is_empty()).then(|| self.ready_at.unwrap_or(now).max(now))
    }

    /// The changes to act on now.
    pub fn take(&mut self, now: Instant) -> Option<Changes> {
        self.deadline(now).filter(|&at| at <= now)?;
        self.ready_at = Some(now + PAUSE);
        Some(std::mem::take(&mut self.pending))
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "virtual time has to start somewhere")]
mod tests {
    use super::*;

    #[test]
    fn the_first_change_is_acted_on_at_once_and_a_burst_once_in_a_pause() {
        let start = Instant::now();
        let routes = Changes { routes: true, ..Changes::default() };
        let mut pacer = Pacer::default();
        assert_eq!(pacer.deadline(start), None);
        assert_eq!(pacer.take(start), None);
        let mut acted = Vec::new();
        for ms in 0..1_000 {
            let now = start + Duration::from_millis(ms);
            pacer.add(routes);
            if let Some(changes) = pacer.take(now) {
                assert_eq!(changes, routes);
                acted.push(ms);
            }
            assert!(pacer.deadline(now).is_none_or(|at| at > now));
        }
        assert_eq!(acted, [0, 200, 400, 600, 800]);
        let later = start + Duration::from_secs(2);
        assert!(pacer.take(later).is_some());
        pacer.add(routes);
        assert_eq!(pacer.deadline(later), Some(later + PAUSE));
        assert_eq!(pacer.take(later + PAUSE), Some(routes));
        assert_eq!(pacer.deadline(later + PAUSE), None);
    }
}
