//! Carries out the decisions of admission. Pure.

use std::net::IpAddr;
use std::time::Instant;

use common::wire::frame::{BadFrame, Farewell, Join, RecordId, Refusal, Welcome};
use common::wire::key::PublicKey;
use common::wire::name::Name;

use super::Core;
use crate::effect::{End, Notice};
use crate::ids::{MemberId, SessionId};
use crate::lan::admission::{Applicant, Contact as _, DISPUTE_STEP, Ruling, Welcomed};
use crate::lan::joins::{self, Question};
use crate::lan::keeper::Then;
use crate::lan::pending::Waiting;

impl Core {
    pub(super) fn handle_join(
        &mut self,
        session: SessionId,
        key: PublicKey,
        join: Result<Join, BadFrame>,
        now: Instant,
    ) {
        if !self.admission.joins.allow(key, now) {
            return self.put_off(session, &key);
        }
        if let Ok(join) = &join
            && join.is_hub
        {
            return self.handle_hub_join(session, key, join, now);
        }
        if let (Ok(join), Some(older)) = (&join, self.older_link(session, &key))
            && self.admission.joins.take_over(key, now)
        {
            let round_trip = self.switch.link(older).and_then(|link| link.tunnel.round_trip());
            let until = now + joins::answer_time(round_trip);
            self.switch.ping(older, now);
            let question = Question { key, join: join.clone(), older, asked_at: now, until };
            self.admission.joins.ask(session, question);
            return self.switch.wake(session, now + DISPUTE_STEP);
        }
        self.decide(session, key, join, now);
    }

    pub(super) fn decide(
        &mut self,
        session: SessionId,
        key: PublicKey,
        join: Result<Join, BadFrame>,
        now: Instant,
    ) {
        self.seal(now);
        self.admission.set_frozen(!self.reaches_keeper());
        let ruling = match join {
            Ok(join) if self.keeper.is_asked(&RecordId::Member(key)) => {
                let then = Then::Decide(session, key, Box::new(join));
                return drop(self.keeper.wait_for(RecordId::Member(key), then));
            }
            Ok(join) => self.admission.ask(session, key, join, &self.switch, now),
            Err(BadFrame) => {
                let text = "the join request is invalid".to_owned();
                Ruling::Refused(Applicant { key, name: None }, Refusal::BadRequest, text)
            }
        };
        self.carry_out_ruling(session, ruling, now);
    }

    /// The link by which this key is on the LAN, if it seems to be alive.
    fn older_link(&self, session: SessionId, key: &PublicKey) -> Option<SessionId> {
        let id = self.admission.members().by_key(key)?;
        let older = self.admission.members().member(id).session?;
        (older != session && self.switch.is_live(older)).then_some(older)
    }

    /// Closes the link of a key that joins too often.
    pub(super) fn put_off(&mut self, session: SessionId, key: &PublicKey) {
        let known = self.admission.members().by_key(key);
        let name = known.map_or_else(|| Name::nearest(""), |id| self.name(id));
        if let Some(source) = self.switch.source(session) {
            self.note(Notice::JoinsTooOften(source, name));
        }
        self.switch.dismiss(session, Farewell::TooOften, End::Farewell("its key joins too often"));
    }

    /// Decides whether a join is that of another machine with the same key, once that can be told.
    fn settle_clone(&mut self, session: SessionId, now: Instant) {
        let Some(&Question { older, asked_at, until, .. }) = self.admission.joins.question(session) else {
            return;
        };
        let is_there = self.switch.is_live(older);
        let has_answered = is_there && self.switch.was_heard(older, asked_at);
        if is_there && !has_answered && now < until {
            return self.switch.wake(session, now + DISPUTE_STEP);
        }
        let Some(Question { key, join, .. }) = self.admission.joins.take_question(session) else { return };
        let sources = self.switch.source(older).zip(self.switch.source(session));
        let (true, Some((source, other))) = (has_answered, sources) else {
            return self.decide(session, key, Ok(join), now);
        };
        if self.admission.joins.note_clone(key, other, now)
            && let Some(id) = self.admission.members().by_key(&key)
        {
            let name = self.name(id);
            self.note(Notice::Clone { name, source, other });
        }
        let text = format!(
            "this key is in use by another machine, at {}: if this one is a clone of it, delete the file `key` in \
             the state directory here, and it becomes a member of its own",
            source.ip().to_canonical()
        );
        self.switch.refuse(session, Refusal::KeyInUse, text);
    }

    /// Settles the dispute of a session, if it has one and the outcome is known.
    pub(super) fn settle(&mut self, session: SessionId, now: Instant) {
        self.settle_clone(session, now);
        if !self.admission.is_disputing(session) {
            return;
        }
        self.admission.set_frozen(!self.reaches_keeper());
        match self.admission.settle(session, &self.switch, now) {
            Some(ruling) => self.carry_out_ruling(session, ruling, now),
            None => self.switch.wake(session, now + DISPUTE_STEP),
        }
    }

    /// Decides anew who may have an address that was disputed, now that its holder may be gone.
    pub(super) fn reopen_disputes(&mut self, now: Instant) {
        for (session, key, join) in self.admission.take_disputes() {
            if self.switch.is_live(session) {
                self.decide(session, key, Ok(join), now);
            }
        }
    }

    fn carry_out_ruling(&mut self, session: SessionId, ruling: Ruling, now: Instant) {
        match ruling {
            Ruling::Refused(who, reason, text) => {
                if let Some(source) = self.switch.source(session) {
                    self.note(Notice::Refused { who, source, text: text.clone() });
                }
                self.switch.refuse(session, reason, text);
            }
            Ruling::Unknown(key, join) => self.hold(session, key, join, now),
            Ruling::Dispute { holder, is_asked } => {
                let name = self.name(holder);
                if let Some(source) = self.switch.source(session) {
                    self.note(Notice::Disputed(source, name));
                }
                // All who want an address of one holder wait for the same answer.
                let held_by = self.admission.members().member(holder).session.filter(|_| !is_asked);
                if let Some(held_by) = held_by {
                    self.switch.ping(held_by, now);
                }
                self.switch.wake(session, now + DISPUTE_STEP);
            }
            Ruling::Welcome(welcomed) => {
                let then = Then::Welcome(session, Box::new(welcomed));
                if let Some(then) = self.once_agreed(then, now) {
                    self.conclude(then, now);
                }
            }
        }
    }

    /// Has a machine wait until a person lets it in.
    fn hold(&mut self, session: SessionId, key: PublicKey, join: Join, now: Instant) {
        let Some(source) = self.switch.source(session) else { return };
        let name = join.name.clone();
        let machine = Waiting { key, join, source, since: now };
        if let Some(loser) = self.admission.pending.insert(session, machine) {
            let text = "others wait for the hub's owner in its place".to_owned();
            self.switch.refuse(loser, Refusal::Locked, text);
        }
        self.switch.hold(session, now);
        self.note(Notice::Pending { name, key, source });
    }

    /// Decides about those who wait: one may be a member now, or the hub open.
    pub(super) fn reopen_pending(&mut self, now: Instant) {
        for (session, machine) in self.admission.take_decided() {
            if self.switch.is_live(session) {
                self.decide(session, machine.key, Ok(machine.join), now);
            }
        }
    }

    /// Lets a member in, and replaces any other link that it has. Its welcome is sent once its line in the list of
    /// members is written.
    pub(super) fn welcome(&mut self, session: SessionId, welcomed: Welcomed, now: Instant) {
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
        let stamp = self.stamp(id, join.sequence);
        self.admission.members_mut().set_online(id, session);
        self.admission.members_mut().set_stamp(id, stamp);
        let offered = self.without_ungranted(id, &join.routes);
        // The other hubs hear with its routes that it is here.
        let routes = self.offer_routes(id, stamp.since, &offered);
        self.note_export(id);
        let who = self.who(id);
        self.note(Notice::Joined { session, who, source, is_new });
        let version = self.admission.members().version_of(id);
        let hold = Some(version).filter(|&version| !self.is_settled(version));
        let welcome = self.welcome_frame(id, routes);
        self.switch.join(session, id, join.mtu, welcome, hold, now);
        self.keep_clear_of(source.ip().to_canonical());
        self.tell_all_routes(session, id);
        self.tell_hubs(session, id, now);
        self.offer_lane(session);
    }

    fn welcome_frame(&self, id: MemberId, routes: Vec<ipnetwork::IpNetwork>) -> Welcome {
        let member = self.admission.members().member(id);
        let addresses = member.addresses.iter().filter_map(|&address| self.lan.subnets.with_prefix(address));
        Welcome {
            addresses: addresses.collect(),
            hub: self.lan.subnets.hub().map(|hub| hub.ip()).collect(),
            routes,
            ..Welcome::new(member.name.clone(), self.lan.mtu)
        }
    }

    /// Notifies a member that it lost an address, and ends its link: it will join again.
    fn evict_holder(&mut self, holder: PublicKey, address: IpAddr, by: MemberId) {
        // It may have gone while the keeper of the list was asked.
        let Some(holder) = self.members().by_key(&holder) else { return };
        let session = self.admission.members().member(holder).session;
        let (from, to) = (self.name(holder), self.name(by));
        self.note(Notice::Evicted { address, from, to, was_online: session.is_some() });
        if let Some(session) = session {
            let why = End::Farewell("its address went to another");
            self.switch.dismiss(session, Farewell::AddressLost, why);
        }
    }
}
