//! How long to wait before the hub is tried again. Pure: randomness is handed in.

use std::time::Duration;

/// The first pause.
pub const FIRST: Duration = Duration::from_millis(200);
/// The longest pause.
pub const LONGEST: Duration = Duration::from_secs(10);

/// Exponential back-off with jitter, so that the spokes of a hub that restarts do not come back as one.
#[derive(Debug)]
pub struct Backoff {
    next: Duration,
}

impl Default for Backoff {
    fn default() -> Backoff {
        Backoff { next: FIRST }
    }
}

impl Backoff {
    /// The next pause: between half of and the whole step, by `random`.
    pub fn pause(&mut self, random: u32) -> Duration {
        let step = self.next;
        self.next = (step * 2).min(LONGEST);
        step / 2 + (step / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
    }

    /// Starts from the first pause again, after a success.
    pub fn reset(&mut self) {
        *self = Backoff::default();
    }

    /// Goes to the longest pause at once, where haste cannot help.
    pub fn slow_down(&mut self) {
        self.next = LONGEST;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_longest_and_starts_anew() {
        let mut backoff = Backoff::default();
        let pauses: Vec<u128> = (0..8).map(|_| backoff.pause(u32::MAX).as_millis()).collect();
        assert_eq!(pauses, [200, 400, 800, 1_600, 3_200, 6_400, 10_000, 10_000]);
        backoff.reset();
        assert_eq!(backoff.pause(0).as_millis(), 100);
        backoff.slow_down();
        assert_eq!(backoff.pause(0).as_millis(), 5_000);
    }
}
