//! A question to the hub over a path that has changed. Pure.

use std::time::{Duration, Instant};

/// How long a hub may take to answer over a path that has changed, before the link is given up.
pub(super) const PROBE_TIME: Duration = Duration::from_millis(800);

/// A question to the hub over a path that has changed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Probe {
    pub(super) asked_at: Instant,
}

impl Probe {
    pub(super) fn deadline(self) -> Instant {
        self.asked_at + PROBE_TIME
    }
}
