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
