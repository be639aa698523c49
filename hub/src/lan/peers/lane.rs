//! The second connection beside a link that this hub has made: whether the other hub takes one, when one is worth it, and what
//! becomes of it. Pure.

use std::time::Instant;

use common::queue::tcp_info::TcpInfo;
use common::wire::key::PublicKey;
use common::wire::need::Need;
use common::wire::place::Place;

use super::Peers;
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
    fn session(&self) -> Option<SessionId> {
        match self.state {
            State::Asking(session) | State::Open(session, _) => Some(session),
            State::None | State::Dialling => None,
        }
    }

    fn failed(&mut self, now: Instant) {
        let since = if let State::Open(_, since) = self.state { Some(since) } else { None };
        self.need.failed(since, now);
        self.state = State::None;
    }
}

impl Peers {
    /// The hub at the other end of a link takes a lane.
    pub(crate) fn lane_offered(&mut self, link: SessionId) {
        if let Some(hub) = self.of(link).and_then(|hub| self.by_key.get_mut(&hub)) {
            hub.lane.is_offered = true;
        }
    }

    /// The links that may have a lane and have none.
    pub(crate) fn without_lane(&self) -> Vec<SessionId> {
        let may =
            self.by_key.values().filter(|hub| hub.lane.is_offered && matches!(hub.lane.state, State::None));
        may.filter_map(|hub| Some(hub.link()?.0)).collect()
    }

    /// A look at the connection of such a link: where to open a lane, if it is worth it. To be followed by `lane_dialled` or
    /// `lane_not_dialled`.
    pub(crate) fn consider_lane(
        &mut self,
        link: SessionId,
        info: &TcpInfo,
        now: Instant,
    ) -> Option<(PublicKey, Place)> {
        let key = self.of(link)?;
        let hub = self.by_key.get_mut(&key).filter(|hub| hub.session() == Some(link))?;
        let is_free = hub.lane.is_offered && matches!(hub.lane.state, State::None);
        if !hub.lane.need.is_due(info, now) || !is_free {
            return None;
        }
        hub.lane.state = State::Dialling;
        Some((key, hub.place.clone()))
    }

    /// Whether a lane of this link is still wanted, as it is connected.
    pub(crate) fn wants_lane(&self, hub: &PublicKey, link: SessionId) -> bool {
        let hub = self.by_key.get(hub);
        hub.is_some_and(|hub| hub.session() == Some(link) && matches!(hub.lane.state, State::Dialling))
    }

    /// Notes that it is connected.
    pub(crate) fn lane_dialled(&mut self, hub: &PublicKey, lane: SessionId) {
        if let Some(hub) = self.by_key.get_mut(hub) {
            hub.lane.state = State::Asking(lane);
        }
    }

    /// Notes that it could not be connected.
    pub(crate) fn lane_not_dialled(&mut self, hub: &PublicKey, link: SessionId, now: Instant) {
        let is_it = self.wants_lane(hub, link);
        if let Some(hub) = self.by_key.get_mut(hub).filter(|_| is_it) {
            hub.lane.failed(now);
        }
    }

    /// Notes that it is attached.
    pub(crate) fn lane_opened(&mut self, lane: SessionId, now: Instant) {
        if let Some(hub) = self.by_key.values_mut().find(|hub| hub.lane.session() == Some(lane)) {
            hub.lane.state = State::Open(lane, now);
        }
    }

    /// Notes that a session has ended, which may be a lane.
    pub(crate) fn lane_ended(&mut self, session: SessionId, now: Instant) {
        if let Some(hub) = self.by_key.values_mut().find(|hub| hub.lane.session() == Some(session)) {
            hub.lane.failed(now);
        }
    }

    /// Forgets the lane of a hub to which the link has ended: its session, if it has one.
    pub(crate) fn take_lane(&mut self, hub: &PublicKey) -> Option<SessionId> {
        std::mem::take(&mut self.by_key.get_mut(hub)?.lane).session()
    }
}
