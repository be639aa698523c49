//! The second connections beside the links that this hub has made to others. Pure.

use std::time::Instant;

use common::queue::tcp_info::TcpInfo;
use common::wire::key::PublicKey;
use common::wire::place::Place;

use super::Peers;
use crate::ids::SessionId;

impl Peers {
    /// The hub at the other end of a link takes a lane.
    pub(crate) fn lane_offered(&mut self, link: SessionId) {
        if let Some(hub) = self.of(link).and_then(|hub| self.by_key.get_mut(&hub)) {
            hub.lane.offered();
        }
    }

    /// The links that may have a lane and have none.
    pub(crate) fn without_lane(&self) -> Vec<SessionId> {
        let may = self.by_key.values().filter(|hub| hub.lane.may_begin());
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
        hub.lane.begin(info, now).then(|| (key, hub.place.clone()))
    }

    /// Whether a lane of this link is still wanted, as it is connected.
    pub(crate) fn wants_lane(&self, hub: &PublicKey, link: SessionId) -> bool {
        let hub = self.by_key.get(hub);
        hub.is_some_and(|hub| hub.session() == Some(link) && hub.lane.is_dialling())
    }

    /// Notes that it is connected.
    pub(crate) fn lane_dialled(&mut self, hub: &PublicKey, lane: SessionId) {
        if let Some(hub) = self.by_key.get_mut(hub) {
            hub.lane.dialled(lane);
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
            hub.lane.opened(lane, now);
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
