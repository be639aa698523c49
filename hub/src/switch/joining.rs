//! Who is let in, under which address, and what becomes of an address that two want. Pure.

use std::net::IpAddr;
use std::time::Instant;

use common::packet::MIN_MTU;
use common::wire::frame::{BadFrame, Farewell, Join, Refusal, Welcome};
use common::wire::key::PublicKey;
use log::{debug, info, warn};

use super::{DISPUTE_TIME, Dispute, End, LogKind, Switch};
use crate::lan::members::{Admission, MemberId};

impl Switch {
    pub(super) fn handle_join(
        &mut self,
        session: usize,
        key: PublicKey,
        join: Result<Join, BadFrame>,
        now: Instant,
    ) {
        match join {
            Ok(join) => self.admit(session, key, join, Vec::new(), now),
            Err(BadFrame) => {
                let text = "the join request makes no sense".to_owned();
                self.refuse(session, Refusal::BadRequest, text, now);
            }
        }
    }

    pub(super) fn admit(
        &mut self,
        session: usize,
        key: PublicKey,
        mut join: Join,
        mut found_dead: Vec<(MemberId, Instant)>,
        now: Instant,
    ) {
        // Who was found dead may have come back while another holder was asked.
        found_dead.retain(|&(holder, asked_at)| !self.was_heard(holder, asked_at));
        let dead: Vec<MemberId> = found_dead.iter().map(|&(holder, _)| holder).collect();
        let claim = match self.claim(&key, &mut join) {
            Ok(claim) => claim,
            Err(text) => return self.refuse(session, Refusal::BadInvite, text, now),
        };
        let is_new = self.members.by_key(&key).is_none();
        let admission = self.members.admit(key, &join, self.access_with(claim), &dead);
        self.settle_claim(claim, &admission);
        match admission {
            Admission::Refused(reason, text) => self.refuse(session, reason, text, now),
            Admission::Dispute(holder) => {
                self.dispute(session, Dispute { key, join, holder, found_dead, asked_at: now }, now);
            }
            Admission::Member { id, evicted } => {
                for (holder, address) in evicted {
                    self.evict_holder(holder, address, id, now);
                }
                // On an open hub anybody can be new any number of times.
                let tell = !is_new || self.log_limiter.allow(LogKind::Newcomer, now);
                self.sessions[session].told = tell;
                self.welcome(session, id, &join, now);
            }
        }
    }

    pub(super) fn refuse(&mut self, session: usize, reason: Refusal, text: String, now: Instant) {
        let entry = &mut self.sessions[session];
        if self.log_limiter.allow(LogKind::Refused, now) {
            info!("refused {:?} from {}: {text}", reason, entry.source);
        }
        // It has only just begun: there is room for one frame.
        let _ = entry.tunnel.refuse(reason, text);
        self.end_with(session, End::Farewell("refused"));
    }

    /// Lets a member in, in the place of any other link that it may have.
    pub(super) fn welcome(&mut self, session: usize, id: MemberId, join: &Join, now: Instant) {
        if let Some(old) = self.members.member(id).session {
            self.dismiss(old, Farewell::Replaced, "the same key joined again");
        }
        let routes = self.accept_routes(id, &join.routes, now);
        let member = self.members.member_mut(id);
        member.session = Some(session);
        let addresses = member.addresses.iter().filter_map(|&address| self.lan.subnets.with_prefix(address));
        let welcome = Welcome {
            name: member.name.clone(),
            addresses: addresses.collect(),
            hub: self.lan.subnets.hub().map(|hub| hub.ip()).collect(),
            mtu: self.lan.mtu,
            routes: routes.clone(),
        };
        let entry = &mut self.sessions[session];
        if entry.told && self.member_log_limiter.allow(id, now) {
            info!("{} ({}) is on the LAN, from {}", member.name, member.addresses_text(), entry.source);
        }
        entry.member = Some(id);
        entry.offered.clone_from(&join.routes);
        entry.joined_at = Some(now);
        entry.mtu = join.mtu.map_or(usize::MAX, |mtu| mtu.max(MIN_MTU) as usize).min(self.lan.mtu as usize);
        let source = entry.source;
        if let Err(error) = entry.tunnel.welcome(welcome, now) {
            self.end_with(session, End::Broken(error.to_string()));
        }
        self.gate.joined(source.ip(), session, now);
        self.timers.set(session, self.sessions[session].tunnel.deadline());
        self.mark_dirty(session);
        self.keep_clear_of(source.ip().to_canonical(), now);
        self.set_routes(id, &routes, now);
        self.tell_all_routes(session, id);
        self.notify(now);
    }

    /// Asks the holder of an address for a sign of life before another one gets or does not get it.
    pub(super) fn dispute(&mut self, session: usize, dispute: Dispute, now: Instant) {
        let holder = self.members.member(dispute.holder);
        debug!("{} asks for an address of {}", self.sessions[session].source, holder.name);
        if let Some(held_by) = holder.session {
            if let Err(error) = self.sessions[held_by].tunnel.ping(now) {
                self.end_with(held_by, End::Broken(error.to_string()));
            }
            self.mark_dirty(held_by);
        }
        self.sessions[session].dispute = Some(Box::new(dispute));
        // Looked at again soon, as the answer of a living holder is a matter of a round trip.
        self.timers.set(session, now + DISPUTE_TIME / 40);
    }

    /// Settles a dispute if the holder was heard since or is gone, or if its time is over.
    pub(super) fn settle(&mut self, session: usize, now: Instant) {
        let Some(dispute) = self.sessions[session].dispute.take() else { return };
        let holder = self.members.member(dispute.holder).session;
        let heard = self.was_heard(dispute.holder, dispute.asked_at);
        if holder.is_some() && !heard && now < dispute.asked_at + DISPUTE_TIME {
            self.timers.set(session, now + DISPUTE_TIME / 40);
            self.sessions[session].dispute = Some(dispute);
            return;
        }
        let Dispute { key, join, holder, mut found_dead, asked_at } = *dispute;
        if heard {
            let held = join.addresses.iter().find(|&&address| self.members.holder(address) == Some(holder));
            if let Some(&address) = held {
                let (reason, text) = self.members.held(holder, address);
                return self.refuse(session, reason, text, now);
            }
        } else {
            found_dead.push((holder, asked_at));
        }
        self.admit(session, key, join, found_dead, now);
    }

    /// Whether a member is on the LAN and was heard, or came, after `since`.
    pub(super) fn was_heard(&self, id: MemberId, since: Instant) -> bool {
        let session = self.members.member(id).session.map(|session| &self.sessions[session]);
        session.is_some_and(|session| session.tunnel.heard_at() > since || session.joined_at > Some(since))
    }

    /// Tells a member that lost an address, and ends its link: it will join anew.
    pub(super) fn evict_holder(&mut self, holder: MemberId, address: IpAddr, by: MemberId, now: Instant) {
        let (holder, by) = (self.members.member(holder), self.members.member(by));
        let state = if holder.session.is_some() { "does not answer" } else { "is offline" };
        if self.log_limiter.allow(LogKind::Evicted, now) {
            warn!("{address} goes from {}, who {state}, to {}", holder.name, by.name);
        }
        if let Some(session) = holder.session {
            self.dismiss(session, Farewell::AddressLost, "its address went to another");
        }
    }
}
