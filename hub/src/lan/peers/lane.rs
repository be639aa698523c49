//! The second connection beside a link that this hub has made: whether the other hub takes one, when one is worth it, and what
//! becomes of it. Pure.

use std::time::Instant;

use common::queue::tcp_info::TcpInfo;
use common::wire::need::Need;

use crate::ids::SessionId;

/// What is known of the lane of one link.
#[derive(Default)]
pub(super) struct Lane {
    is_offered: bool,
    need: Need,
    state: State,
}

#[derive(Clone, Copy, Default)]
enum State {
    #[default]
    None,
    Dialling,
    /// It is connected, and not attached yet.
    Asking(SessionId),
    /// It is attached, since then.
    Open(SessionId, Instant),
}

impl Lane {
    /// The other hub takes one.
    pub(super) fn offered(&mut self) {
        self.is_offered = true;
    }

    /// Whether one may be tried, if it is worth it.
    pub(super) fn may_begin(&self) -> bool {
        self.is_offered && matches!(self.state, State::None)
    }

    /// A look at the link's connection: whether one is tried from now on.
    pub(super) fn begin(&mut self, info: &TcpInfo, now: Instant) -> bool {
        let begins = self.need.is_due(info, now) && self.may_begin();
        if begins {
            self.state = State::Dialling;
        }
        begins
    }

    /// Whether it is being connected.
    pub(super) fn is_dialling(&self) -> bool {
        matches!(self.state, State::Dialling)
    }

    /// It is connected.
    pub(super) fn dialled(&mut self, session: SessionId) {
        self.state = State::Asking(session);
    }

    /// It is attached.
    pub(super) fn opened(&mut self, session: SessionId, now: Instant) {
        self.state = State::Open(session, now);
    }

    /// Its session, once it is connected.
    pub(super) fn session(&self) -> Option<SessionId> {
        match self.state {
            State::Asking(session) | State::Open(session, _) => Some(session),
            State::None | State::Dialling => None,
        }
    }

    /// It is gone, or did not come.
    pub(super) fn failed(&mut self, now: Instant) {
        let since = if let State::Open(_, since) = self.state { Some(since) } else { None };
        self.need.failed(since, now);
        self.state = State::None;
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "virtual time has to start somewhere")]
mod tests {
    use std::time::Duration;

    use super::*;

    fn lossy(resent: u32) -> TcpInfo {
        TcpInfo { shortest: Some(Duration::from_millis(100)), resent, ..TcpInfo::default() }
    }

    #[test]
    fn one_is_tried_where_the_other_hub_takes_it_and_one_at_a_time() {
        let (mut lane, now) = (Lane::default(), Instant::now());
        assert!(!lane.begin(&lossy(9), now), "the other hub has not said that it takes one");
        lane.offered();
        assert!(lane.begin(&lossy(9), now) && lane.is_dialling());
        assert!(!lane.begin(&lossy(20), now));
        assert_eq!(lane.session(), None);
        let session = SessionId::new(7);
        lane.dialled(session);
        assert!(!lane.is_dialling() && lane.session() == Some(session) && !lane.begin(&lossy(30), now));
        lane.opened(session, now);
        assert!(lane.session() == Some(session) && !lane.may_begin());
    }

    #[test]
    fn one_that_fails_is_tried_again_later() {
        let (mut lane, now) = (Lane::default(), Instant::now());
        lane.offered();
        assert!(lane.begin(&lossy(9), now));
        lane.failed(now);
        assert!(lane.may_begin() && !lane.begin(&lossy(20), now));
        assert!(lane.begin(&lossy(30), now + Duration::from_secs(10)));
    }
}
