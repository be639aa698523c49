//! Second connections of members, and of links between hubs. Pure.

use std::net::SocketAddr;
use std::time::Instant;

use common::queue::tcp_info::TcpInfo;
use common::wire::frame::{ControlFrame, LaneNote};
use common::wire::key::PublicKey;
use common::wire::lane::{Binding, Proof};

use super::Core;
use crate::effect::Effect;
use crate::ids::SessionId;

impl Core {
    /// A session asks to be a lane of the link of its key.
    pub(super) fn handle_attach(
        &mut self,
        session: SessionId,
        key: PublicKey,
        shown: (Proof, Binding),
        now: Instant,
    ) {
        if !self.admission.joins.allow(key, now) {
            return self.put_off(session, &key);
        }
        let members = self.admission.members();
        let of_member = members.by_key(&key).and_then(|id| members.member(id).session);
        let of_hub = self.peers.get(&key).and_then(|hub| hub.link()).map(|(link, _)| link);
        let link = of_member.or(of_hub);
        match self.switch.attach(session, link, shown, now) {
            Ok(()) => self.effects.push_back(Effect::Hurry(session)),
            Err(why) => self.switch.refuse_lane(session, why),
        }
    }

    /// Tells a member, or a hub that has made the link, that it may have a lane.
    pub(super) fn offer_lane(&mut self, session: SessionId) {
        self.switch.tell(session, &ControlFrame::Lane(LaneNote::Offered));
    }
    /// What the other end says about lanes.
    pub(super) fn handle_lane_note(&mut self, session: SessionId, note: LaneNote, now: Instant) {
        match note {
            LaneNote::Closed => self.switch.lane_closed(session),
            LaneNote::Offered => self.peers.lane_offered(session),
            LaneNote::Attached => {
                if self.switch.lane_attached(session, now) {
                    self.peers.lane_opened(session, now);
                    self.effects.push_back(Effect::Hurry(session));
                }
            }
            LaneNote::Other(_) => {}
        }
    }

    // ---- those of links that this hub has made

    /// The links to other hubs whose connections are to be looked at now and then, by [`Core::consider_lane`].
    pub fn without_lane(&self) -> Vec<SessionId> {
        self.peers.without_lane()
    }

    /// A look at the connection of a link: opens a lane where it is worth it.
    pub fn consider_lane(&mut self, link: SessionId, info: &TcpInfo, now: Instant) {
        let Some(at) = self.switch.source(link) else { return };
        if let Some((hub, place)) = self.peers.consider_lane(link, info, now) {
            self.effects.push_back(Effect::DialLane { hub, link, place, at });
        }
    }

    /// A lane of [`Effect::DialLane`] is connected. `ephemeral`: 32 random bytes. `None`: it is not wanted any more.
    pub fn lane_dialled(
        &mut self,
        (hub, link): (PublicKey, SessionId),
        address: SocketAddr,
        ephemeral: [u8; 32],
        now: Instant,
    ) -> Option<SessionId> {
        if !self.peers.wants_lane(&hub, link) {
            return None;
        }
        let lane = self.switch.dial_lane(&self.key, (hub, address), link, ephemeral, now);
        self.routes.enter(address.ip());
        self.peers.lane_dialled(&hub, lane);
        Some(lane)
    }

    /// A lane of [`Effect::DialLane`] cannot be connected: the link goes on without.
    pub fn lane_not_dialled(&mut self, hub: &PublicKey, link: SessionId, now: Instant) {
        self.peers.lane_not_dialled(hub, link, now);
    }
}
