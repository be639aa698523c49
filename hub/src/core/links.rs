//! Links to the LAN's other hubs, and who is on the LAN through which. Pure.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use common::wire::frame::{
    ControlFrame, Farewell, HEADER_LEN, Join, MAX_PRESENCE, Presence, Refusal, Welcome,
};
use common::wire::key::PublicKey;
use ipnetwork::IpNetwork;

use super::Core;
use crate::effect::{Effect, End, Notice};
use crate::ids::{MemberId, SessionId};
use crate::lan::members::Stamp;
use crate::lan::peers::{Peer, Wish};
use crate::lan::subnets::Subnets;

/// Bytes of control frames that wait for a hub, beyond which the rest of the members is told later.
pub(super) const TELL_AHEAD: usize = 64 * 1024;
/// What a presence takes in a frame without its networks, and what each of these takes.
const PRESENCE_BYTES: usize = 52;
const NETWORK_BYTES: usize = 20;
/// Most members of whom another hub may tell beyond those in the list here, which may not be copied yet.
const MOST_STRANGERS: usize = 1_024;
/// A count of joins that is so far ahead of the hub's clock is not believed.
const MOST_AHEAD: Duration = Duration::from_secs(24 * 60 * 60);

impl Core {
    /// Sets up to how many members on the LAN a broadcast goes to other hubs, as far as this one knows.
    pub fn limit_broadcast(&mut self, members: usize) {
        self.switch.limit_broadcast(members);
    }

    // ---- links come and go

    /// Brings the other hubs up to date with the list of members.
    pub(super) fn refresh_peers(&mut self, now: Instant) {
        let others = self.hubs.known().get(1..).unwrap_or_default().to_vec();
        let gone = self.peers.sessions_besides(&others);
        for &session in &gone {
            let why = End::Farewell("it is no hub of this LAN any more");
            self.switch.dismiss(session, Farewell::Changed, why);
        }
        // Nobody is with it from now on.
        for session in gone {
            self.forget_link(session, now);
        }
        self.peers.set(&others, now);
    }

    /// Has the hubs reached that are due.
    pub(super) fn dial_peers(&mut self, now: Instant) {
        while let Some((hub, place)) = self.peers.poll_due(now) {
            self.effects.push_back(Effect::Dial(hub, place));
        }
    }

    /// A hub of [`Effect::Dial`] is connected. `ephemeral`: 32 random bytes. `None`: the connection is not wanted any more.
    pub fn dialled(
        &mut self,
        hub: PublicKey,
        address: SocketAddr,
        ephemeral: [u8; 32],
        now: Instant,
    ) -> Option<SessionId> {
        if !self.peers.is_dialling(&hub) {
            return None;
        }
        let join = Join {
            routes: self.lan.subnets.iter().collect(),
            mtu: Some(self.lan.mtu),
            is_hub: true,
            ..Join::new(self.lan.hub_name.clone())
        };
        let session = self.switch.dial(&self.key, (hub, address), ephemeral, &join, now);
        self.routes.enter(address.ip());
        self.peers.dialled(hub, session);
        Some(session)
    }

    /// A hub of [`Effect::Dial`] cannot be reached, or does not give a link: why not.
    pub fn not_dialled(&mut self, hub: &PublicKey, why: String, now: Instant) {
        if self.peers.failed(hub, why.clone(), now)
            && let Some(id) = self.members().by_key(hub)
        {
            self.note(Notice::HubUnreachable(self.name(id), why));
        }
    }

    /// Answers another hub's wish for a link.
    pub(super) fn handle_hub_join(&mut self, session: SessionId, hub: PublicKey, join: &Join, now: Instant) {
        let old = match self.peers.wish(&hub, &self.key.public()) {
            Wish::Take(_) | Wish::Later if join.routes.is_empty() => return self.introduce(session, now),
            Wish::Take(old) => old,
            Wish::Later => {
                let why = End::Farewell("this hub has begun to make a link of its own");
                return self.switch.dismiss(session, Farewell::Replaced, why);
            }
            Wish::Unknown if self.members().is_revoked(&hub) => {
                let text = "this hub's membership was revoked".to_owned();
                return self.switch.refuse(session, Refusal::Revoked, text);
            }
            Wish::Unknown if self.admit_hub(session, hub, join, now) => return,
            Wish::Unknown => {
                let text = "the list of members there has no hub with this key: `hub invite NAME --hub` there lets one in";
                return self.switch.refuse(session, Refusal::Locked, text.to_owned());
            }
        };
        if let Err(text) = self.check_subnets(&join.routes) {
            return self.switch.refuse(session, Refusal::BadRequest, text);
        }
        if let Some(old) = old {
            self.switch.dismiss(old, Farewell::Replaced, End::Farewell("the same hub came again"));
            self.forget_link(old, now);
        }
        self.link_up(session, hub, join.mtu, Some(self.hub_welcome()), now);
    }

    /// What another hub is told that is let in.
    fn hub_welcome(&self) -> Welcome {
        Welcome {
            addresses: self.lan.subnets.iter().collect(),
            is_hub: true,
            ..Welcome::new(self.lan.hub_name.clone(), self.lan.mtu)
        }
    }

    /// Tells another hub what the LAN is: it does not say so itself, as it is about to start. It comes back for a link.
    fn introduce(&mut self, session: SessionId, now: Instant) {
        let welcome = self.hub_welcome();
        self.switch.join_hub(session, None, Some(welcome), now);
        self.switch.dismiss(session, Farewell::Changed, End::Farewell("it knows the LAN now"));
    }

    /// A hub that this one has asked lets it in.
    pub(super) fn handle_hub_welcome(&mut self, session: SessionId, welcome: &Welcome, now: Instant) {
        let Some(hub) = self.peers.of(session) else { return };
        let checked = match welcome.is_hub {
            true => self.check_subnets(&welcome.addresses),
            false => Err("it is of an earlier version, which makes no links to other hubs".to_owned()),
        };
        match checked {
            Ok(()) => self.link_up(session, hub, Some(welcome.mtu), None, now),
            Err(why) => {
                self.not_dialled(&hub, why, now);
                self.peers.put_off(session, now);
                self.switch.dismiss(session, Farewell::Stopping, End::Farewell("it cannot be linked to"));
            }
        }
    }

    /// Whether these are the subnets of this LAN, too.
    fn check_subnets(&self, theirs: &[IpNetwork]) -> Result<(), String> {
        let own = self.lan.subnets;
        let theirs = match Subnets::new(theirs) {
            Ok(theirs) if theirs == own => return Ok(()),
            Ok(theirs) => theirs.to_string(),
            Err(_) => "none that can be used".to_owned(),
        };
        Err(format!("the hubs of a LAN have one --subnet: one has {own}, the other {theirs}"))
    }

    fn link_up(
        &mut self,
        session: SessionId,
        hub: PublicKey,
        mtu: Option<u32>,
        welcome: Option<Welcome>,
        now: Instant,
    ) {
        let has_asked = welcome.is_some();
        self.switch.join_hub(session, mtu, welcome, now);
        if has_asked {
            self.offer_lane(session);
        }
        let online = self.members().iter().filter(|(_, member)| member.session.is_some());
        let all = std::iter::once(self.key.public()).chain(online.map(|(_, member)| member.key));
        // From the last one on.
        let all = all.chain(self.members().revoked()).collect();
        self.peers.set_up(hub, session, all, now);
        if let Some((id, source)) = self.members().by_key(&hub).zip(self.switch.source(session)) {
            self.note(Notice::HubLinked(self.name(id), source));
            self.keep_clear_of(source.ip().to_canonical());
        }
        self.tell_term(session, hub);
        self.tell_untold();
    }

    /// Forgets what a link to another hub has told, as it has ended. If it was one, it tells the hub and whether packets had
    /// flown.
    pub(super) fn forget_link(&mut self, session: SessionId, now: Instant) -> Option<(PublicKey, bool)> {
        let (hub, was_up, told) = self.peers.ended(session, now)?;
        if let Some(lane) = self.peers.take_lane(&hub) {
            self.switch.end(lane, End::Farewell("its link has ended"));
        }
        told.iter().for_each(|key| self.refresh_home(key));
        // Another one tells the list, if that one was about to.
        if self.keeper.stop_arriving(session) && self.takes_any_list() {
            let links: Vec<(SessionId, PublicKey)> = self.peers.links().collect();
            links.into_iter().for_each(|(link, hub)| self.tell_keeper(link, hub));
        }
        Some((hub, was_up))
    }

    /// Notes why a link to another hub has ended.
    pub(super) fn note_link_end(&mut self, hub: PublicKey, was_up: bool, end: &End, now: Instant) {
        if !was_up {
            return self.not_dialled(&hub, end.to_string(), now);
        }
        if let Some(id) = self.members().by_key(&hub) {
            self.note(Notice::HubLost(self.name(id), end.to_string()));
        }
    }

    // ---- who is where

    /// How others are told of a member that joins here. `counted`: its own count of joins.
    pub(super) fn stamp(&mut self, id: MemberId, counted: Option<u64>) -> Stamp {
        let last = self.time.last_join.saturating_add(1);
        let member = self.members().member(id);
        let now = self.time.unix.as_millis() as u64;
        let most = self.highest_sequence();
        let told = self.peers.home(&member.key).map(|(_, _, told)| told);
        let before = [Some(member.stamp.sequence), told.map(|told| told.sequence)];
        let newer = before.into_iter().flatten().max().map_or(0, |sequence| sequence.saturating_add(1));
        // It keeps its place among those who offer the same networks while it goes from one link to the next.
        let here = member.session.map(|_| member.stamp.since);
        let before = [here, told.map(|told| told.since)].into_iter().flatten().min();
        // Who comes later goes behind, whatever becomes of the clock.
        let now_or_later = now.max(last);
        let sequence = counted.unwrap_or(now).min(most).max(newer);
        self.time.last_join = now_or_later;
        Stamp { sequence, since: before.map_or(now_or_later, |before| before.min(now_or_later)) }
    }

    /// The highest count of joins that is believed.
    fn highest_sequence(&self) -> u64 {
        (self.time.unix + MOST_AHEAD).as_millis() as u64
    }

    fn presence(&self, key: PublicKey) -> Option<Presence> {
        if key == self.key.public() {
            let start = self.time.started.as_millis() as u64;
            let own = self.lan.routes.iter().filter(|prefix| prefix.prefix() > 0).copied();
            return Some(Presence { key, sequence: start, since: start, routes: own.collect() });
        }
        let id = self.members().by_key(&key)?;
        let member = self.members().member(id);
        member.session?;
        let Stamp { sequence, since } = member.stamp;
        Some(Presence { key, sequence, since, routes: self.routes.of(id).collect() })
    }

    /// Tells the other hubs that a member is here.
    pub(super) fn tell_online(&mut self, id: MemberId) {
        let key = self.members().member(id).key;
        if self.peers.links().next().is_some()
            && let Some(presence) = self.presence(key)
        {
            self.tell_links(&ControlFrame::Online(vec![presence]));
        }
    }

    /// Tells the other hubs that a member is not here any more.
    pub(super) fn tell_offline(&mut self, key: PublicKey, Stamp { sequence, .. }: Stamp) {
        self.tell_links(&ControlFrame::Offline(vec![(key, sequence)]));
    }

    pub(super) fn tell_links(&mut self, frame: &ControlFrame) {
        self.switch.tell_sessions(self.peers.links().map(|(link, _)| link), frame);
    }

    /// Tells the other hubs whose membership was revoked.
    pub(super) fn tell_revoked(&mut self, keys: Vec<PublicKey>) {
        for keys in keys.chunks(MAX_PRESENCE / PRESENCE_BYTES) {
            self.tell_links(&ControlFrame::Revoked(keys.to_vec()));
        }
    }

    /// Tells the other hubs of members that they were not told of, and of those that were revoked, as far as they take it.
    pub(super) fn tell_untold(&mut self) {
        for (link, hub) in self.peers.untold_links() {
            while self.switch.is_live(link) && self.switch.waiting_control(link) < TELL_AHEAD {
                let (mut told, mut revoked, mut room) = (Vec::new(), Vec::new(), MAX_PRESENCE - HEADER_LEN);
                while let Some(key) = self.peers.get_mut(&hub).and_then(|peer| peer.untold.pop()) {
                    if self.members().is_revoked(&key) {
                        room = room.saturating_sub(PRESENCE_BYTES);
                        revoked.push(key);
                    } else if let Some(presence) = self.presence(key) {
                        room = room.saturating_sub(PRESENCE_BYTES + NETWORK_BYTES * presence.routes.len());
                        told.push(presence);
                    }
                    if room < PRESENCE_BYTES + NETWORK_BYTES * common::wire::frame::MAX_ROUTES {
                        break;
                    }
                }
                if told.is_empty() && revoked.is_empty() {
                    break;
                }
                self.switch.tell(link, &ControlFrame::Revoked(revoked));
                self.switch.tell(link, &ControlFrame::Online(told));
            }
        }
    }

    /// Another hub tells of members that are with it.
    pub(super) fn handle_online(&mut self, link: SessionId, members: Vec<Presence>) {
        let (own, highest) = (self.key.public(), self.highest_sequence());
        for presence in members.into_iter().filter(|one| one.key != own) {
            let key = presence.key;
            let sequence = presence.sequence.min(highest);
            let most = self.members().len() + MOST_STRANGERS;
            self.peers.set_online(link, Presence { sequence, ..presence }, most);
            self.refresh_home(&key);
        }
    }

    /// Another hub tells of members that are not with it any more.
    pub(super) fn handle_offline(&mut self, link: SessionId, members: &[(PublicKey, u64)]) {
        for (key, sequence) in members {
            self.peers.set_offline(link, key, *sequence);
            self.refresh_home(key);
        }
    }

    /// Another hub tells whose membership was revoked. It is revoked here too, and hubs that this one is linked to are told
    /// of what is news: it only grows, so that each hub tells of a key once.
    pub(super) fn handle_revoked(&mut self, keys: &[PublicKey], now: Instant) {
        let own = self.key.public();
        if keys.contains(&own) {
            self.leave(now);
        }
        let (mut changes, mut strangers) = (Vec::new(), Vec::new());
        for key in keys.iter().filter(|key| **key != own) {
            match self.members().by_key(key) {
                Some(id) => changes.push(self.admission.revoke(id)),
                None if self.admission.members_mut().keep_out(*key) => strangers.push(*key),
                None => {}
            }
        }
        self.tell_revoked(strangers);
        self.carry_out(&changes, now);
        self.seal(now);
        self.reopen_pending(now);
    }

    /// Sends the members to the other hubs, as those say that this one is none any more.
    pub(super) fn leave(&mut self, now: Instant) {
        if self.drain_to_others(true, now) {
            self.note(Notice::HubRevoked);
        }
    }

    /// Decides anew where a member is, after something was told of it, or it came or left here.
    pub(super) fn refresh_home(&mut self, key: &PublicKey) {
        let Some(id) = self.members().by_key(key) else {
            self.peers.note_stranger(*key);
            return;
        };
        let member = self.members().member(id);
        let (session, stamp) = (member.session, member.stamp);
        let home = self.peers.home(key).map(|(hub, link, told)| (hub, link, told.clone()));
        let elsewhere = home.as_ref().map(|(_, link, ..)| *link);
        self.admission.members_mut().set_elsewhere(id, elsewhere);
        if let Some((session, (hub, _, told))) = session.zip(home.as_ref()) {
            // Equal ones are of two hubs that did not know of each other.
            if (told.sequence, *hub) > (stamp.sequence, self.key.public()) {
                let why = End::Farewell("it has joined another hub");
                self.switch.dismiss(session, Farewell::Replaced, why);
            }
        }
        if session.is_none() {
            let (since, routes) = home.map(|(.., told)| (told.since, told.routes)).unwrap_or_default();
            let routes = self.without_ungranted(id, &routes);
            if routes.is_empty() {
                self.withdraw_routes(id);
            } else {
                self.offer_routes(id, since, &routes);
            }
        }
    }

    /// Takes in what else hangs on the list of members: the addresses that this hub has alone, and where members are that
    /// were told of before the list had them.
    pub(super) fn refresh_homes(&mut self) {
        let own = self.members().addresses_of(&self.key.public()).to_vec();
        if own != self.hubs.own_addresses {
            self.hubs.own_addresses.clone_from(&own);
            self.effects.push_back(Effect::SetSubnets(self.lan.subnets, own));
        }
        self.peers.take_strangers().iter().for_each(|key| self.refresh_home(key));
    }

    // ---- what is asked about them

    /// Another hub, as far as this one has to do with it.
    pub(crate) fn peer(&self, hub: &PublicKey) -> Option<&Peer> {
        self.peers.get(hub)
    }

    /// The key of the hub that a member is with that is not here.
    pub fn home(&self, id: MemberId) -> Option<PublicKey> {
        self.peers.of(self.members().member(id).elsewhere?)
    }
}
