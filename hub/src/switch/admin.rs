//! What a person changes while the LAN runs: who may join, who is a member; and what a person asks. Pure.

use std::net::SocketAddr;
use std::time::Instant;

use common::node::text::Printable;
use common::packet::drops::Drops;
use common::wire::frame::{Farewell, Join};
use common::wire::invite::{Secret, SecretHash};
use common::wire::key::PublicKey;
use common::wire::tunnel::Tunnel;
use ipnetwork::IpNetwork;
use log::{info, warn};

use super::{Lan, LogKind, Switch};
use crate::lan::invites::{Invite, Invites};
use crate::lan::members::{Access, Admission, Change, MemberId, Members, Outcome, parse_rights, rights_text};

/// A member's link, for a report.
pub struct LinkFacts<'a> {
    /// Where it comes from.
    pub source: SocketAddr,
    /// Since when it is on the LAN.
    pub joined_at: Option<Instant>,
    /// Its tunnel.
    pub tunnel: &'a Tunnel,
    /// Packets from it and to it that were dropped.
    pub drops: Drops,
}

impl Switch {
    /// What the LAN is.
    pub fn lan(&self) -> &Lan {
        &self.lan
    }

    /// The hub's key.
    pub fn key(&self) -> PublicKey {
        self.key.public()
    }

    /// The facts of a session.
    pub fn link(&self, session: usize) -> Option<LinkFacts<'_>> {
        let session = self.sessions.get(session)?;
        let mut drops = session.port.drops.clone();
        drops.add_all(&session.tunnel.queue().drops());
        Some(LinkFacts {
            source: session.source,
            joined_at: session.joined_at,
            tunnel: &session.tunnel,
            drops,
        })
    }

    /// Links whose other end is not authenticated yet.
    pub fn half_open(&self) -> usize {
        self.gate.half_open()
    }

    /// Packets from the hub's own kernel, and to it, that were dropped.
    pub fn drops(&self) -> &Drops {
        &self.port.drops
    }

    // ---- who may join

    /// Whether unknown keys may join.
    pub fn access(&self) -> Access {
        self.access
    }

    /// Says whether unknown keys may join, from now on: who is on the LAN stays there.
    pub fn set_access(&mut self, access: Access) {
        self.access = access;
    }

    /// Tells the time of day, in Unix seconds: invites expire by it.
    pub fn set_unix_time(&mut self, now: u64) {
        self.unix_time = now;
    }

    /// The invites that are not used yet.
    pub fn invites(&self) -> &Invites {
        &self.invites
    }

    /// To be told that the text of `invites` was saved.
    pub fn invites_mut(&mut self) -> &mut Invites {
        &mut self.invites
    }

    /// Takes over invites that were read.
    pub fn set_invites(&mut self, invites: Invites) {
        self.invites.replace(invites);
        self.invites.prune(self.unix_time);
        self.reserve(None);
    }

    /// Adds an invite, unless its name or an address of it is a member's already.
    pub fn invite(&mut self, invite: Invite) -> Result<(), String> {
        if self.members.by_name(&invite.name).is_some() {
            return Err(format!(
                "{0} is a member already: `hub revoke {0}` first, or use another name",
                invite.name
            ));
        }
        // What cannot be read again must not be written: the hub would not start.
        let rights = rights_text(&invite.addresses, &invite.routes);
        parse_rights(rights.split_whitespace(), self.lan.subnets)?;
        for &address in &invite.addresses {
            if let Some(holder) = self.members.holder(address) {
                return Err(format!("{address} is held by {}", self.members.member(holder).name));
            }
        }
        self.invites.prune(self.unix_time);
        let added = self.invites.add(invite);
        self.reserve(None);
        added
    }

    /// Goes back to the invites as they were.
    pub fn restore_invites(&mut self, before: Invites) {
        self.invites = before;
        self.reserve(None);
    }

    /// Looks at the invite that comes with a join request of an unknown key, and fills in what it grants.
    pub(super) fn claim(&mut self, key: &PublicKey, join: &mut Join) -> Result<Option<SecretHash>, String> {
        // A member goes on showing the invite by which it once became one.
        if self.members.by_key(key).is_some() || self.members.is_revoked(key) {
            return Ok(None);
        }
        let Some(secret) = join.invite.map(Secret) else { return Ok(None) };
        let Some(invite) = self.invites.find(&secret, self.unix_time) else {
            return Err("the invite is unknown, used or expired: ask for a new one".to_owned());
        };
        join.name = invite.name.clone();
        for &granted in &invite.addresses {
            join.addresses.retain(|wanted| wanted.is_ipv4() != granted.is_ipv4());
            join.addresses.push(granted);
        }
        let hash = invite.hash;
        self.reserve(Some(hash));
        Ok(Some(hash))
    }

    pub(super) fn access_with(&self, claim: Option<SecretHash>) -> Access {
        match (self.access, claim) {
            (Access::Locked, Some(_)) => Access::Invited,
            (access, _) => access,
        }
    }

    /// Uses the invite up if it let someone in.
    pub(super) fn settle_claim(&mut self, claim: Option<SecretHash>, admission: &Admission) {
        let Some(hash) = claim else { return };
        if let Admission::Member { id, .. } = admission {
            let routes =
                self.invites.iter().find(|invite| invite.hash == hash).map(|invite| invite.routes.clone());
            self.members.set_routes(*id, &routes.unwrap_or_default());
            self.invites.remove(hash);
            info!("{} has used its invite", self.members.member(*id).name);
        }
        self.reserve(None);
    }

    /// Has the addresses of all invites but one kept free.
    fn reserve(&mut self, but: Option<SecretHash>) {
        let invites = self.invites.iter().filter(|invite| Some(invite.hash) != but);
        let addresses = invites.flat_map(|invite| invite.addresses.iter().copied()).collect();
        self.members.set_reserved(addresses);
    }

    // ---- who is a member

    /// Finds a member by its key, an address of it, or its name.
    pub fn find(&self, who: &str) -> Result<MemberId, String> {
        if let Ok(key) = who.parse::<PublicKey>() {
            if self.members.is_revoked(&key) {
                return Err(format!("{key} is revoked already"));
            }
            return self.members.by_key(&key).ok_or_else(|| format!("no member has the key {key}"));
        }
        let by_address = who.parse().ok().and_then(|address| self.members.holder(address));
        let by_name = || self.members.by_name(&who.parse().ok()?);
        by_address.or_else(by_name).ok_or_else(|| match self.members.is_revoked_as(who) {
            true => format!("{} is revoked already", Printable(who)),
            false => format!("no member has the name, address or key {}", Printable(who)),
        })
    }

    /// Strikes a member off the list for good, and ends its link.
    pub fn revoke(&mut self, id: MemberId, now: Instant) -> Change {
        let change = self.members.revoke(id);
        self.carry_out(std::slice::from_ref(&change), now);
        change
    }

    /// Takes over a list of members that was read anew; tells who is changed by it. Nobody else notices.
    pub fn replace_members(&mut self, members: Members, now: Instant) -> Vec<Change> {
        let changes = self.members.replace(members);
        self.carry_out(&changes, now);
        changes
    }

    fn carry_out(&mut self, changes: &[Change], now: Instant) {
        // All links end before anything else happens: then no session is left whose member is gone.
        for Change { member, outcome, .. } in changes {
            let (farewell, why) = match outcome {
                Outcome::Revoked => (Farewell::Revoked, "its membership was revoked"),
                // The key may be let in again: an open hub does that, and a mistake in the file can be mended.
                Outcome::Removed => (Farewell::Changed, "it was taken off the list of members"),
                Outcome::Changed => (Farewell::Changed, "its line in the list of members was changed"),
            };
            // The link of one that is still in the list tells its own end.
            if *outcome != Outcome::Changed {
                info!("{} ({}) is no member any more: {why}", member.name, member.addresses_text());
            }
            if let Some(session) = member.session {
                self.dismiss(session, farewell, why);
            }
        }
        for Change { id, .. } in changes.iter().filter(|change| change.outcome != Outcome::Changed) {
            let left: Vec<IpNetwork> = self.routes.of(*id).collect();
            self.set_routes(*id, &[], now);
            self.offer_again(&left, now);
            self.notify(now);
        }
        if !changes.is_empty() {
            self.reopen_disputes(now);
        }
    }

    /// Decides anew who may have an address that was disputed, now that its holder may be gone.
    fn reopen_disputes(&mut self, now: Instant) {
        let disputes: Vec<_> = self
            .sessions
            .iter_mut()
            .filter(|(_, session)| session.end.is_none())
            .filter_map(|(key, session)| Some((key, session.dispute.take()?)))
            .collect();
        for (session, dispute) in disputes {
            self.admit(session, dispute.key, dispute.join, Vec::new(), now);
        }
    }

    // ---- log lines

    /// Whether to tell a line that anybody can provoke.
    pub fn may_log(&mut self, line: LogKind, now: Instant) -> bool {
        self.log_limiter.allow(line, now)
    }

    /// Tells how many lines were kept back.
    pub(super) fn tell_counts(&mut self, now: Instant) {
        while let Some((line, count)) = self.log_limiter.poll(now) {
            match line {
                Some(LogKind::TurnedAway) => info!("{count} more connections were turned away"),
                Some(LogKind::NotJoined) => info!("{count} more links closed before they joined"),
                Some(LogKind::Refused) => info!("{count} more join requests were refused"),
                Some(LogKind::Newcomer) => info!("{count} more new members joined the LAN"),
                Some(LogKind::NewcomerLeft) => info!("{count} more of the new members left the LAN"),
                Some(LogKind::Evicted) => warn!("{count} more addresses went to another member"),
                Some(LogKind::BadRoute) => info!("{count} more routes of members were not taken"),
                Some(LogKind::KernelRoute) => info!("{count} more routes were installed or withdrawn"),
                // There are fewer lines than a log_limiter tells apart.
                None => {}
            }
        }
        while let Some((id, count)) = self.member_log_limiter.poll(now) {
            match id.map(|id| self.members.get(id)) {
                Some(Some(member)) => info!("{} joined or left the LAN {count} more times", member.name),
                Some(None) => {}
                None => info!("other members joined or left the LAN {count} more times"),
            }
        }
    }
}
