//! Second connections of members. Pure.

use std::time::Instant;

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
        let link = members.by_key(&key).and_then(|id| members.member(id).session);
        match self.switch.attach(session, link, shown, now) {
            Ok(()) => self.effects.push_back(Effect::Hurry(session)),
            Err(why) => self.switch.refuse_lane(session, why),
        }
    }

    /// Tells a member that its link may have a lane.
    pub(super) fn offer_lane(&mut self, session: SessionId) {
        self.switch.tell(session, &ControlFrame::Lane(LaneNote::Offered));
    }
}
