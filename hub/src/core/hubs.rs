//! The hubs of the LAN: which ones there are, and whether this one sends its members to the others. Pure.
//!
//! A hub is a member whose line has `hub=HOST:PORT`; this hub's own line says where spokes reach it.

use common::wire::frame::{ControlFrame, HubInfo, MAX_HUBS};

use super::Core;
use crate::ids::{RequestId, SessionId};
use crate::lan::members::Member;
use crate::lan::saving::Answer;

/// The hubs of the LAN.
#[derive(Default)]
pub(super) struct Hubs {
    /// All of them, this one first; what members were told last.
    known: Vec<HubInfo>,
    is_draining: bool,
    /// The state of the list of members that they were read from.
    parties: Option<u64>,
}

impl Core {
    /// The other hubs, with this one's line where it has one, by name.
    pub fn hubs(&self) -> Vec<&Member> {
        let mut hubs: Vec<&Member> =
            self.members().iter().map(|(_, member)| member).filter(|member| member.hub.is_some()).collect();
        hubs.sort_by(|one, other| one.name.cmp(&other.name));
        hubs
    }

    /// Whether this hub sends its members to the others.
    pub fn is_draining(&self) -> bool {
        self.hubs.is_draining
    }

    /// Tells the members which hubs there are, if that is not what they were told.
    pub(super) fn refresh_hubs(&mut self) {
        let parties = self.members().parties();
        if self.hubs.parties.replace(parties) == Some(parties) {
            return;
        }
        let known = self.read_hubs();
        if known != self.hubs.known {
            self.hubs.known = known;
            self.tell_all_hubs();
        }
    }

    fn read_hubs(&self) -> Vec<HubInfo> {
        let own = self.key();
        let hubs = self.hubs();
        let place = hubs.iter().find(|hub| hub.key == own).and_then(|hub| hub.hub.clone());
        let this = HubInfo { key: own, place, is_draining: self.hubs.is_draining };
        let others = hubs.into_iter().filter(|hub| hub.key != own);
        let others = others.map(|hub| HubInfo { key: hub.key, place: hub.hub.clone(), is_draining: false });
        std::iter::once(this).chain(others).take(MAX_HUBS).collect()
    }

    fn tell_all_hubs(&mut self) {
        self.switch.tell_members(&ControlFrame::Hubs(self.hubs.known.clone()), |_| true);
    }

    /// Tells a member that has just come, where there is more than this hub.
    pub(super) fn tell_hubs(&mut self, session: SessionId) {
        self.refresh_hubs();
        if self.hubs.known.len() > 1 {
            self.switch.tell(session, &ControlFrame::Hubs(self.hubs.known.clone()));
        }
    }

    /// Sends the members to the other hubs, or takes them again.
    pub(super) fn drain(&mut self, request: RequestId, is_draining: bool) {
        self.refresh_hubs();
        if is_draining && self.hubs.known.len() <= 1 {
            let text = "there is no other hub to go to: a line of `members` with hub=HOST:PORT names one";
            return self.answer(request, Err(text.to_owned()));
        }
        if self.hubs.is_draining != is_draining {
            self.hubs.is_draining = is_draining;
            self.hubs.known = self.read_hubs();
            self.tell_all_hubs();
        }
        self.answer(request, Ok(Answer::Draining(is_draining)));
    }
}
