//! Tells members which hubs the LAN has, and sends them to the others. Pure.

use std::time::{Duration, Instant};

use common::wire::frame::{ControlFrame, HubInfo, RecordId};
use common::wire::place::Place;

use super::Core;
use crate::effect::Notice;
use crate::ids::{MemberId, RequestId, SessionId};
use crate::lan::hubs::{self, PORTION, WantedPlace, distance, told_to};
use crate::lan::members::{Member, Members};
use crate::lan::peers::Peer;
use crate::lan::saving::Answer;

/// After so long the keeper of the list is asked again to agree to where this hub is reached.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(10);

impl Core {
    /// The hubs of the list of members, this one among them where it has a line, by name.
    pub fn hubs(&self) -> Vec<&Member> {
        hubs::of(self.members())
    }

    /// Whether this hub sends its members to the others.
    pub fn is_draining(&self) -> bool {
        self.hubs.is_draining()
    }

    /// Where this hub is reached, as a person has started it: its line in the list is to say so, if it has one.
    pub fn set_place(&mut self, place: Place, now: Instant) {
        self.hubs.wanted_place = Some(WantedPlace { place, ask_at: now, before: None });
    }

    /// Has the list say where this hub is reached, once whoever keeps it can agree.
    pub(super) fn claim_place(&mut self, now: Instant) {
        let key = self.key.public();
        let Some(WantedPlace { place, ask_at, .. }) = &mut self.hubs.wanted_place else { return };
        let members = self.admission.members();
        let listed = members.by_key(&key).and_then(|id| members.member(id).hub.clone());
        let is_known = listed.as_ref() == Some(&*place);
        if is_known && !self.keeper.is_asked(&RecordId::Member(key)) {
            if let Some(WantedPlace { place, before: Some(before), .. }) = self.hubs.wanted_place.take() {
                self.note(Notice::Place(before, place));
            }
            return;
        }
        let Some(before) = listed.filter(|_| !is_known && now >= *ask_at) else { return };
        let place = place.clone();
        if self.keeper.is_fresh() || !self.reaches_keeper() {
            return;
        }
        if let Some(wanted) = &mut self.hubs.wanted_place {
            (wanted.ask_at, wanted.before) = (now + ASK_AGAIN_AFTER, Some(before));
        }
        if let Err(text) = self.admission.list_hub(key, &self.lan.hub_name, Some(place)) {
            self.hubs.wanted_place = None;
            self.note(Notice::NotSaved(format!("{text}; it stays where it was")));
        }
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
        let all = self.hubs_with_distances();
        let Core { switch, admission, .. } = self;
        switch.tell_each(|id| told(admission.members(), id, &all));
    }

    /// All hubs, this one first, and how far each is.
    fn hubs_with_distances(&self) -> Vec<(HubInfo, u32)> {
        let far = |hub: &HubInfo| {
            let link = self.peers.get(&hub.key).and_then(Peer::link);
            let facts = link.and_then(|(session, _)| self.switch.link(session));
            distance(link.is_some(), facts.and_then(|facts| facts.tunnel.round_trip()))
        };
        // What a person or an earlier version wrote may be a place within the LAN: no way for those who are not on it yet.
        let is_outside = |place: &Place| self.lan.subnets.check_place(place).is_ok();
        let told = |hub: &HubInfo| HubInfo { place: hub.place.clone().filter(is_outside), ..hub.clone() };
        self.hubs.known().iter().map(|hub| (told(hub), far(hub))).collect()
    }

    /// Tells the next members that this hub is draining, when it is time.
    pub(super) fn tell_untold_hubs(&mut self, now: Instant) {
        if let Some(from) = self.hubs.poll_untold(now) {
            let all = self.hubs_with_distances();
            let Core { switch, admission, .. } = self;
            let next = switch.tell_some(|id| told(admission.members(), id, &all), from, PORTION);
            self.hubs.told(next, now);
        }
    }

    /// Tells a member that has just come: where there is no hub but this one, too, as it may have known others.
    pub(super) fn tell_hubs(&mut self, session: SessionId, id: MemberId, now: Instant) {
        self.refresh_hubs(now);
        let told = told(self.members(), id, &self.hubs_with_distances());
        self.switch.tell(session, &told);
    }

    /// Sends the members to the other hubs, or takes them again.
    pub(super) fn drain(&mut self, request: RequestId, is_draining: bool, now: Instant) {
        self.refresh_hubs(now);
        if is_draining && !self.hubs.are_several() {
            let text = "there is no other hub to go to: `hub invite NAME --hub` lets one in";
            return self.answer(request, Err(text.to_owned()));
        }
        self.drain_to_others(is_draining, now);
        self.answer(request, Ok(Answer::Draining(is_draining)));
    }

    /// The same; whether it is news.
    pub(super) fn drain_to_others(&mut self, is_draining: bool, now: Instant) -> bool {
        let is_news = self.hubs.set_draining(is_draining);
        if is_news {
            self.tell_all_hubs(now);
        }
        is_news
    }
}

/// The frame that tells a member which hubs there are.
fn told(members: &Members, id: MemberId, all: &[(HubInfo, u32)]) -> ControlFrame {
    let told = members.get(id).map(|member| told_to(&member.key, all));
    ControlFrame::Hubs(told.unwrap_or_default())
}
