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
