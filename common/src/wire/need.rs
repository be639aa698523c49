//! When a second connection beside a link, a lane, is worth it: where segments are lost on a long way. Pure.

use std::time::{Duration, Instant};

use crate::queue::tcp_info::TcpInfo;

/// On a shorter path, a lost segment is repaired before anybody notices.
const LONG: Duration = Duration::from_millis(20);
/// So many packets lost or late within [`WHILE`] make it worth it.
const LOSSES: u32 = 3;
const WHILE: Duration = Duration::from_secs(60);
/// The pause after one that failed: at first, and at most.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// What the end that opens connections knows of a link's need.
#[derive(Debug, Default)]
pub struct Need {
    /// Losses up to a look at the link, within the last [`WHILE`].
    losses: Option<(Instant, u32)>,
    /// When the next one may be tried.
    not_before: Option<Instant>,
    pause: Duration,
}

impl Need {
    /// A look at the link's connection: whether to open a lane now.
    pub fn is_due(&mut self, info: &TcpInfo, now: Instant) -> bool {
        let losses = info.resent.wrapping_add(info.out_of_order);
        let (since, before) = *self.losses.get_or_insert((now, 0));
        if now.saturating_duration_since(since) >= WHILE {
            self.losses = Some((now, losses));
        }
        let is_long = info.shortest.is_some_and(|shortest| shortest >= LONG);
        let may_try = self.not_before.is_none_or(|at| at <= now);
        is_long && may_try && losses.wrapping_sub(before) >= LOSSES
    }

    /// One that was tried, or was open since then, has failed.
    pub fn failed(&mut self, since: Option<Instant>, now: Instant) {
        let lasted = since.map(|since| now.saturating_duration_since(since));
        let pause = if lasted.is_some_and(|lasted| lasted >= WHILE) { FIRST_PAUSE } else { self.pause * 2 };
        self.pause = pause.clamp(FIRST_PAUSE, LONGEST_PAUSE);
        self.not_before = Some(now + self.pause);
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "virtual time has to start somewhere")]
mod tests {
    use super::*;

    fn look(ms: u64, resent: u32, out_of_order: u32) -> TcpInfo {
        let shortest = Some(Duration::from_millis(ms));
        TcpInfo { shortest, resent, out_of_order, ..TcpInfo::default() }
    }

    #[test]
    fn three_losses_in_a_minute_on_a_long_way_are_enough_in_whichever_direction() {
        let start = Instant::now();
        for (resent, late) in [(3, 0), (0, 3), (1, 2)] {
            let mut need = Need::default();
            assert!(!need.is_due(&look(20, resent - resent.min(1), late - u32::from(resent == 0)), start));
            assert!(need.is_due(&look(20, resent, late), start + Duration::from_secs(59)), "{resent} {late}");
            assert!(!need.is_due(&look(19, 100, 100), start), "a short way");
        }
        // One each half minute is no reason.
        let mut need = Need::default();
        let at = |half_minutes| start + Duration::from_secs(30) * half_minutes;
        assert!((0..100).all(|lost| !need.is_due(&look(100, lost, 0), at(lost))));
        // A counter that runs over.
        let mut need = Need::default();
        need.is_due(&look(100, u32::MAX, 0), start);
        need.is_due(&look(100, u32::MAX, 0), at(2));
        assert!(!need.is_due(&look(100, 1, 0), at(3)));
        assert!(need.is_due(&look(100, 2, 0), at(3)));
    }

    #[test]
    fn after_a_failure_the_pause_doubles_and_after_a_long_life_it_is_short_again() {
        let (mut need, mut now) = (Need::default(), Instant::now());
        let lossy = look(100, 9, 0);
        for seconds in [5, 10, 20, 40, 80, 160, 320, 600, 600] {
            need.failed(None, now);
            let pause = Duration::from_secs(seconds);
            need.losses = Some((now + pause, 0));
            assert!(!need.is_due(&lossy, now + pause - Duration::from_millis(1)), "{seconds}");
            assert!(need.is_due(&lossy, now + pause), "{seconds}");
            now += pause;
        }
        need.failed(Some(now), now + WHILE);
        assert_eq!(need.pause, FIRST_PAUSE);
        need.failed(Some(now), now + Duration::from_secs(1));
        assert_eq!(need.pause, FIRST_PAUSE * 2);
    }
}
