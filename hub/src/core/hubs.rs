//! Tells members which hubs the LAN has, and sends them to the others. Pure.

use std::time::Instant;

use common::wire::frame::ControlFrame;

use super::Core;
use crate::ids::{RequestId, SessionId};
use crate::lan::hubs::{self, PORTION};
use crate::lan::members::Member;
use crate::lan::saving::Answer;

impl Core {
    /// The hubs of the list of members, this one among them where it has a line, by name.
    pub fn hubs(&self) -> Vec<&Member> {
        hubs::of(self.members())
    }

    /// Whether this hub sends its members to the others.
    pub fn is_draining(&self) -> bool {
        self.hubs.is_draining()
    }

    /// Tells the members which hubs there are, if that is not what they were told.
    pub(super) fn refresh_hubs(&mut self, now: Instant) {
        if self.hubs.refresh(self.admission.members(), self.key.public()) {
            self.tell_all_hubs(now);
            self.refresh_peers(now);
        }
    }

    fn tell_all_hubs(&mut self, now: Instant) {
        self.hubs.begin_telling(now);
        if self.hubs.tell_at().is_some() {
            return self.tell_untold_hubs(now);
        }
        self.switch.tell_members(&ControlFrame::Hubs(self.hubs.known().to_vec()), |_| true);
    }

    /// Tells the next members that this hub is draining, when it is time.
    pub(super) fn tell_untold_hubs(&mut self, now: Instant) {
        if let Some(from) = self.hubs.poll_untold(now) {
            let frame = ControlFrame::Hubs(self.hubs.known().to_vec());
            let next = self.switch.tell_some(&frame, from, PORTION);
            self.hubs.told(next, now);
        }
    }

    /// Tells a member that has just come: where there is no hub but this one, too, as it may have known others.
    pub(super) fn tell_hubs(&mut self, session: SessionId, now: Instant) {
        self.refresh_hubs(now);
        self.switch.tell(session, &ControlFrame::Hubs(self.hubs.known().to_vec()));
    }

    /// Sends the members to the other hubs, or takes them again.
    pub(super) fn drain(&mut self, request: RequestId, is_draining: bool, now: Instant) {
        self.refresh_hubs(now);
        if is_draining && !self.hubs.are_several() {
            let text = "there is no other hub to go to: a line of `members` with hub=HOST:PORT names one";
            return self.answer(request, Err(text.to_owned()));
        }
        if self.hubs.set_draining(is_draining) {
            self.tell_all_hubs(now);
        }
        self.answer(request, Ok(Answer::Draining(is_draining)));
    }
}
