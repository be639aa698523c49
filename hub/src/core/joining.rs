//! Carries out the decisions of admission. Pure.

use std::net::IpAddr;
use std::time::Instant;

use common::wire::frame::{BadFrame, Farewell, Join, Refusal, Welcome};
use common::wire::key::PublicKey;

use super::Core;
use crate::effect::{End, Notice};
use crate::ids::{MemberId, SessionId};
use crate::lan::admission::{Applicant, DISPUTE_STEP, Ruling, Welcomed};

impl Core {
    pub(super) fn handle_join(
        &mut self,
        session: SessionId,
        key: PublicKey,
        join: Result<Join, BadFrame>,
        now: Instant,
    ) {
        let ruling = match join {
            Ok(join) => self.admission.ask(session, key, join, &self.switch, now),
            Err(BadFrame) => {
                let text = "the join request is invalid".to_owned();
                Ruling::Refused(Applicant { key, name: None }, Refusal::BadRequest, text)
            }
        };
        self.carry_out_ruling(session, ruling, now);
    }

    /// Settles the dispute of a session, if it has one and the outcome is known.
    pub(super) fn settle(&mut self, session: SessionId, now: Instant) {
        if !self.admission.is_disputing(session) {
            return;
        }
        match self.admission.settle(session, &self.switch, now) {
            Some(ruling) => self.carry_out_ruling(session, ruling, now),
            None => self.switch.wake(session, now + DISPUTE_STEP),
        }
    }

    /// Decides anew who may have an address that was disputed, now that its holder may be gone.
    pub(super) fn reopen_disputes(&mut self, now: Instant) {
        for (session, key, join) in self.admission.take_disputes() {
            if self.switch.is_live(session) {
                self.handle_join(session, key, Ok(join), now);
            }
        }
    }

    fn carry_out_ruling(&mut self, session: SessionId, ruling: Ruling, now: Instant) {
        match ruling {
            Ruling::Refused(who, reason, text) => {
                if let Some(source) = self.switch.source(session) {
                    self.note(Notice::Refused { who, source, reason, text: text.clone() });
                }
                self.switch.refuse(session, reason, text);
            }
            Ruling::Dispute(holder) => {
                let name = self.name(holder);
                if let Some(source) = self.switch.source(session) {
                    self.note(Notice::Disputed(source, name));
                }
                if let Some(held_by) = self.admission.members().member(holder).session {
                    self.switch.ping(held_by, now);
                }
                self.switch.wake(session, now + DISPUTE_STEP);
            }
            Ruling::Welcome(welcomed) => self.welcome(session, welcomed, now),
        }
    }

    /// Lets a member in, and replaces any other link that it has. Its welcome is sent once its line in the list of
    /// members is written.
    fn welcome(&mut self, session: SessionId, welcomed: Welcomed, now: Instant) {
        let Welcomed { id, join, is_new, has_used_invite, evicted } = welcomed;
        let Some(source) = self.switch.source(session) else { return };
        if has_used_invite {
            let name = self.name(id);
            self.note(Notice::InviteUsed(name));
        }
        for (holder, address) in evicted {
            self.evict_holder(holder, address, id);
        }
        if let Some(old) = self.admission.members().member(id).session {
            self.switch.dismiss(old, Farewell::Replaced, End::Farewell("the same key joined again"));
        }
        let routes = self.offer_routes(id, &join.routes);
        self.admission.members_mut().set_online(id, session);
        let who = self.who(id);
        self.note(Notice::Joined { session, who, source, is_new });
        let version = self.admission.members().version_of(id);
        let hold = Some(version).filter(|&version| !self.is_settled(version));
        let welcome = self.welcome_frame(id, routes);
        self.switch.join(session, id, join.mtu, welcome, hold, now);
        self.keep_clear_of(source.ip().to_canonical());
        self.tell_all_routes(session, id);
        self.notify_watchers(now);
    }

    fn welcome_frame(&self, id: MemberId, routes: Vec<ipnetwork::IpNetwork>) -> Welcome {
        let member = self.admission.members().member(id);
        let addresses = member.addresses.iter().filter_map(|&address| self.lan.subnets.with_prefix(address));
        Welcome {
            name: member.name.clone(),
            addresses: addresses.collect(),
            hub: self.lan.subnets.hub().map(|hub| hub.ip()).collect(),
            mtu: self.lan.mtu,
            routes,
        }
    }

    /// Notifies a member that it lost an address, and ends its link: it will join again.
    fn evict_holder(&mut self, holder: MemberId, address: IpAddr, by: MemberId) {
        let session = self.admission.members().member(holder).session;
        let (from, to) = (self.name(holder), self.name(by));
        self.note(Notice::Evicted { address, from, to, was_online: session.is_some() });
        if let Some(session) = session {
            let why = End::Farewell("its address went to another");
            self.switch.dismiss(session, Farewell::AddressLost, why);
        }
    }
}
