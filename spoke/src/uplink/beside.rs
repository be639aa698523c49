//! What a link knows of its second connection: when one is worth it, and the one that is open. Pure.

use std::time::{Duration, Instant};

use common::queue::tcp_info::TcpInfo;
use common::wire::pair::Pair;

/// On a shorter path, a lost segment is repaired before anybody notices.
const LONG: Duration = Duration::from_millis(20);
/// So many packets lost or late within [`WHILE`] make it worth it.
const LOSSES: u32 = 3;
const WHILE: Duration = Duration::from_secs(60);
/// The pause after one that failed: at first, and at most.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// What is known about the lane of a link.
#[derive(Debug, Default)]
pub(super) struct Lane {
    /// Whether the hub takes one.
    pub(super) is_offered: bool,
    /// Losses up to a look at the link, within the last [`WHILE`].
    losses: Option<(Instant, u32)>,
    /// When the next one may be tried.
    pub(super) not_before: Option<Instant>,
    pause: Duration,
    pub(super) open: Option<Open>,
}

/// A lane that is open.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) slot: usize,
    pub(super) pair: Pair,
    pub(super) since: Instant,
}

impl Lane {
    /// Whether segments are lost on a long way.
    pub(super) fn is_worth_it(&mut self, info: &TcpInfo, now: Instant) -> bool {
        let losses = info.resent.wrapping_add(info.out_of_order);
        let (since, before) = *self.losses.get_or_insert((now, 0));
        if now.saturating_duration_since(since) >= WHILE {
            self.losses = Some((now, losses));
        }
        info.shortest.is_some_and(|shortest| shortest >= LONG) && losses.wrapping_sub(before) >= LOSSES
    }

    /// One that was tried, or was open since then, has failed.
    pub(super) fn failed(&mut self, since: Option<Instant>, now: Instant) {
        let lasted = since.map(|since| now.saturating_duration_since(since));
        let pause = if lasted.is_some_and(|lasted| lasted >= WHILE) { FIRST_PAUSE } else { self.pause * 2 };
        self.pause = pause.clamp(FIRST_PAUSE, LONGEST_PAUSE);
        self.not_before = Some(now + self.pause);
    }
}
