//! Paths that lose full packets in silence (RFC 2923, section 2.1): what tells them, and what follows. Pure.
//!
//! TCP sends the lost segment again and again, and nothing behind it can be read, while what is small still comes
//! through. Such a link dies; the next one is made with smaller segments in both directions, until one fits.

use std::time::{Duration, Instant};

use common::queue::tcp_info::TcpInfo;

/// Segment sizes to go down to, in bytes without headers and with TCP's options: with those of IPv4, packets of 1,400,
/// of less than the least that IPv6 has, and of the least that IPv4 has.
const STEPS: [u16; 3] = [1_360, 1_200, 536];
/// How long nothing may have been acknowledged, though the other end is heard, before that says something.
const STUCK_AFTER: Duration = Duration::from_secs(3);
/// How often at least the same segment was sent again by then.
const RETRANSMISSIONS: u8 = 3;
/// How often a link must die without a proof that full packets were lost: a hub that stands still looks alike once, but
/// lets nobody join.
const STRIKES: u8 = 2;

/// How segments stand on the path to the hub.
#[derive(Debug, Default)]
pub(super) struct Segments {
    /// Largest one that is to be used, with options.
    limit: Option<u16>,
    /// The first look since which nothing was acknowledged that was sent again and again.
    stuck_at: Option<(Instant, u64)>,
    /// The last look at which something had come in order.
    heard: Option<TcpInfo>,
    last: Option<(Instant, TcpInfo)>,
    strikes: u8,
}

impl Segments {
    /// The largest segment to ask for.
    pub(super) fn limit(&self) -> Option<u16> {
        self.limit
    }

    /// Another path: what was found out says nothing about it.
    pub(super) fn forget(&mut self) {
        *self = Segments::default();
    }

    /// A new link begins.
    pub(super) fn begin_link(&mut self) {
        *self = Segments { limit: self.limit, strikes: self.strikes, ..Segments::default() };
    }

    /// A look at the link.
    pub(super) fn note(&mut self, info: TcpInfo, now: Instant) {
        if info.retransmissions == 0 {
            self.stuck_at = None;
        } else if self.stuck_at.is_none_or(|(_, acknowledged)| acknowledged != info.acknowledged) {
            self.stuck_at = Some((now, info.acknowledged));
        }
        if self.heard.is_none_or(|heard| heard.received != info.received) {
            self.heard = Some(info);
        }
        self.last = Some((now, info));
    }

    /// A link died on which this spoke was on the LAN. `silent`: for how long nothing could be read from it. The new
    /// limit, if it died of full packets.
    pub(super) fn judge(&mut self, silent: Duration) -> Option<u16> {
        let (at, last) = self.last.take()?;
        if !self.loses_what_we_send(last, at) && !self.loses_what_is_sent_to_us(last, silent) {
            return None;
        }
        self.strikes = 0;
        let used = self.limit.map_or(last.segment, u32::from);
        let smaller = STEPS.into_iter().find(|&step| u32::from(step) < used)?;
        self.limit = Some(smaller);
        self.limit
    }

    /// Something has come since what we sent got stuck: the path carries packets, but not these.
    fn loses_what_we_send(&self, last: TcpInfo, at: Instant) -> bool {
        let Some((stuck_at, _)) = self.stuck_at else { return false };
        let stuck = at.saturating_duration_since(stuck_at);
        stuck >= STUCK_AFTER && last.retransmissions >= RETRANSMISSIONS && last.unheard < stuck
    }

    /// Packets have come since the last that could be read: acknowledgements, and what is behind a lost segment.
    fn loses_what_is_sent_to_us(&mut self, last: TcpInfo, silent: Duration) -> bool {
        if silent < last.unheard + STUCK_AFTER {
            self.strikes = 0;
            return false;
        }
        self.strikes += 1;
        let is_proved = self.heard.is_some_and(|heard| heard.out_of_order < last.out_of_order);
        is_proved || self.strikes >= STRIKES
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "virtual time has to start somewhere")]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const SILENT: Duration = Duration::from_secs(10);

    fn healthy() -> TcpInfo {
        TcpInfo { segment: 1_448, acknowledged: 500, received: 500, ..TcpInfo::default() }
    }

    /// A link on which what we send gets stuck, and is looked at each 4 s; `unheard` at the last look.
    fn stuck(segments: &mut Segments, unheard: Duration, start: Instant) {
        segments.begin_link();
        segments.note(healthy(), start);
        for (seconds, retransmissions) in [(4, 4), (8, 8)] {
            let unheard = if seconds == 8 { unheard } else { Duration::ZERO };
            segments.note(TcpInfo { retransmissions, unheard, ..healthy() }, start + seconds * SECOND);
        }
    }

    #[test]
    fn goes_down_step_by_step_while_links_die_of_what_we_send() {
        let (start, mut segments) = (Instant::now(), Segments::default());
        for expected in [Some(1_360), Some(1_200), Some(536), None] {
            stuck(&mut segments, SECOND, start);
            assert_eq!(segments.judge(SECOND), expected);
        }
        assert_eq!(segments.limit(), Some(536));
        segments.forget();
        assert_eq!(segments.limit(), None);
    }

    #[test]
    fn a_path_that_carries_nothing_says_nothing_about_full_packets() {
        let (start, mut segments) = (Instant::now(), Segments::default());
        // Nothing has come since the first look at what was stuck.
        stuck(&mut segments, 4 * SECOND, start);
        assert_eq!(segments.judge(SILENT), None);
        for _ in 0..3 {
            segments.begin_link();
            segments.note(TcpInfo { unheard: 9 * SECOND, ..healthy() }, start);
            assert_eq!(segments.judge(SILENT), None);
        }
        // A loss that was made good in the end.
        stuck(&mut segments, SECOND, start);
        segments.note(TcpInfo { acknowledged: 2_000, ..healthy() }, start + 9 * SECOND);
        assert_eq!(segments.judge(SECOND), None);
        assert_eq!(segments.judge(SECOND), None, "nothing is known of another link");
    }

    #[test]
    fn what_is_sent_to_us_got_lost_if_what_is_behind_it_came() {
        let (start, mut segments) = (Instant::now(), Segments::default());
        segments.note(healthy(), start);
        segments.note(TcpInfo { out_of_order: 2, unheard: SECOND, ..healthy() }, start + SILENT);
        assert_eq!(segments.judge(SILENT), Some(1_360));
    }

    #[test]
    fn a_hub_that_acknowledges_and_says_nothing_may_stand_still_once() {
        let (start, mut segments) = (Instant::now(), Segments::default());
        let silent_link = |segments: &mut Segments| {
            segments.begin_link();
            segments.note(TcpInfo { unheard: SECOND, ..healthy() }, start);
            segments.judge(SILENT)
        };
        assert_eq!(silent_link(&mut segments), None);
        segments.note(healthy(), start);
        assert_eq!(segments.judge(SECOND), None, "another death in between");
        assert_eq!(silent_link(&mut segments), None);
        assert_eq!(silent_link(&mut segments), Some(1_360));
    }
}
