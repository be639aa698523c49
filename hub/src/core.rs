//! The hub without its sockets, its files and its device: bytes, requests and the time come in, effects come out. Pure.
//!
//! It has three parts: the switch forwards packets, admission decides on joins, names and addresses, and routes assign
//! prefixes to members. This file coordinates them.
//!
//! In each turn the shell calls `receive` and `send` for ready sources, `handle_timeouts` when `deadline` is reached,
//! `flush` for each session of `take_dirty`, and `finish_turn`. It carries out the effects of `poll_effect`, in order,
//! at any time in between.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use common::packet::drops::Drops;
use common::queue::Buf;
use common::wire::frame::{ControlFrame, Farewell, MAX_PEERS, PageKind, Peer, Refusal};
use common::wire::key::{PrivateKey, PublicKey};
use common::wire::name::Name;

use crate::effect::{Effect, End, Notice, Who};
use crate::ids::{MemberId, SessionId};
use crate::lan::Lan;
use crate::lan::admission::Admission;
use crate::lan::hubs::Hubs;
use crate::lan::invites::Invites;
use crate::lan::joins::SecondMachine;
use crate::lan::keeper::{Keeper, LanFile};
use crate::lan::members::{Access, Member, Members, Version};
use crate::lan::moves::Moves;
use crate::lan::peers::Peers;
use crate::lan::pending::Pending;
use crate::lan::routes::Routes;
use crate::lan::rules::Rules;
use crate::lan::saving::{Fingerprint, Saving};
use crate::switch::tally::Tally;
use crate::switch::{Asked, Effects, Ended, Fabric, LinkFacts, Switch};

mod access;
mod edited;
mod exports;
mod files;
mod govern;
mod hubs;
mod joining;
mod keeper;
mod lanes;
mod links;
mod names;
mod offers;
mod renumber;
mod store;
mod telling;
#[cfg(test)]
mod tests;

pub use access::Case;

/// The least time between two notifications to the watchers of the list of members.
const NOTIFY_EVERY: Duration = Duration::from_secs(1);

/// The hub.
pub struct Core {
    key: PrivateKey,
    lan: Lan,
    switch: Switch,
    admission: Admission,
    routes: Routes,
    saving: Saving,
    effects: Effects,
    notify: Notify,
    hubs: Hubs,
    peers: Peers,
    keeper: Keeper,
    time: Time,
}

/// What the core was told about the time.
struct Time {
    /// When the last turn began.
    now: Option<Instant>,
    /// The time of day, and that at the start, since the beginning of 1970.
    unix: Duration,
    started: Duration,
    /// When the last member came, in Unix milliseconds.
    last_join: u64,
}

/// Notifications to the watchers of the list of members.
#[derive(Default)]
struct Notify {
    /// The state of the list that was taken in last.
    version: Option<Version>,
    /// When the next one is due.
    at: Option<Instant>,
    /// When the last one was sent.
    last: Option<Instant>,
}

/// The contents of the files at start.
pub struct Files {
    /// `members`.
    pub members: Members,
    /// Its fingerprint.
    pub fingerprint: Fingerprint,
    /// `invites`.
    pub invites: Invites,
    /// Whether `locked` was there.
    pub access: Access,
    /// `rules`, if it was there.
    pub rules: Option<Rules>,
    /// `subnets`.
    pub moves: Moves,
    /// What `lan` says.
    pub lan: LanFile,
}

impl Core {
    /// A hub with nobody on its LAN. `flow_seed`: random, so that flows cannot be aimed at each other. `unix_time`:
    /// the time of day, since the beginning of 1970.
    pub fn new(key: PrivateKey, lan: Lan, files: Files, flow_seed: u64, unix_time: Duration) -> Core {
        let Files { mut members, fingerprint, invites, access, rules, moves, lan: lan_file } = files;
        members.set_hub_name(lan.hub_name.clone());
        let mut admission = Admission::new(members, access, lan.subnets);
        admission.set_moves(moves);
        admission.set_unix_time(unix_time.as_secs());
        admission.replace_invites(invites);
        admission.share(lan_file.term.is_some());
        let mut core = Core {
            keeper: Keeper::new(key.public(), &lan_file, unix_time),
            key,
            switch: Switch::new(lan.subnets, lan.mtu, flow_seed),
            admission,
            routes: Routes::new(&lan),
            lan,
            saving: Saving::new(fingerprint),
            effects: Effects::new(),
            notify: Notify::default(),
            hubs: Hubs::default(),
            peers: Peers::default(),
            time: Time { now: None, unix: unix_time, started: unix_time, last_join: 0 },
        };
        if core.has_lost_list() {
            core.keeper.set_fresh(true);
        }
        core.set_rules(rules);
        core.hubs.own_addresses = core.members().addresses_of(&core.key.public()).to_vec();
        core
    }

    // ---- links

    /// Sets how many links there can be.
    pub fn limit_sessions(&mut self, links: usize) {
        self.switch.limit_sessions(links);
    }

    /// Sets how much memory the packets in all queues may occupy, in bytes.
    pub fn limit_queued(&mut self, bytes: usize) {
        self.switch.limit_queued(bytes);
    }

    /// Keeps the hub's own kernel off the LAN: the hub has no device.
    pub fn close_kernel(&mut self) {
        self.switch.close_kernel();
    }

    /// Takes in a connection from `source`; `None` where it is to be closed. `ephemeral`: 32 random bytes.
    pub fn accept(&mut self, source: SocketAddr, ephemeral: [u8; 32], now: Instant) -> Option<SessionId> {
        match self.switch.accept(&self.key, source, ephemeral, now) {
            Ok(session) => {
                self.routes.enter(source.ip());
                Some(session)
            }
            Err(why) => {
                self.note(Notice::TurnedAway(source, why));
                None
            }
        }
    }

    /// Closes a half-open link, as there are no descriptors for new ones; `false` where there is none.
    pub fn make_room(&mut self, now: Instant) -> bool {
        self.switch.make_room(now)
    }

    /// Whether the session is there and not about to go.
    pub fn is_live(&self, session: SessionId) -> bool {
        self.switch.is_live(session)
    }

    /// Ends a session whose socket failed or closed.
    pub fn end(&mut self, session: SessionId, why: String) {
        self.switch.end(session, End::Socket(why));
    }

    /// Reads for a session, and handles what came. `read` fills the front of the space that it is given and returns
    /// how much it filled; it is not called for a session that is about to go.
    pub fn receive(&mut self, session: SessionId, now: Instant, read: impl FnOnce(&mut [u8]) -> usize) {
        if !self.switch.fill(session, now, read) {
            return;
        }
        loop {
            let Core { switch, effects, admission, routes, hubs, peers, .. } = self;
            let fabric = fabric(admission, routes, hubs, peers);
            match switch.next_asked(session, fabric, effects, now) {
                Some(Asked::Join(key, join)) => self.handle_join(session, key, join, now),
                Some(Asked::Attach(key, proof, binding)) => {
                    self.handle_attach(session, key, (proof, binding), now);
                }
                Some(Asked::Control(control)) => self.handle_control(session, control, now),
                None => return,
            }
        }
    }

    /// Sends a packet from the hub's own kernel on its way, which `read` takes from the device, with a buffer of the
    /// pool. Returns the packet's length; `None` where there is none.
    pub fn send(&mut self, now: Instant, read: impl FnOnce(&mut [u8]) -> Option<usize>) -> Option<usize> {
        let Core { switch, effects, admission, routes, hubs, peers, .. } = self;
        switch.send(fabric(admission, routes, hubs, peers), effects, now, read)
    }

    /// Takes back the packet of [`Effect::Deliver`]; `is_taken`: whether the device took it.
    pub fn delivered(&mut self, packet: Buf, is_taken: bool) {
        self.switch.delivered(packet, is_taken);
    }

    /// Has this session flushed at the end of the turn: its socket takes bytes again.
    pub fn mark_dirty(&mut self, session: SessionId) {
        self.switch.mark_dirty(session);
    }

    /// Moves the sessions that may have something to write into `sessions`, which must be empty.
    pub fn take_dirty(&mut self, sessions: &mut Vec<SessionId>) {
        self.switch.take_dirty(sessions);
    }

    /// Writes what a session has to send: up to one burst. `write` returns how many bytes the socket took from the
    /// front; fewer than it was given says that the socket is full, which [`Core::mark_dirty`] ends.
    pub fn flush(&mut self, session: SessionId, now: Instant, write: impl FnMut(&[u8]) -> usize) {
        self.switch.flush(session, now, write);
    }

    fn handle_control(&mut self, session: SessionId, control: ControlFrame, now: Instant) {
        match control {
            ControlFrame::Online(members) => self.handle_online(session, members),
            ControlFrame::Offline(members) => self.handle_offline(session, &members),
            ControlFrame::Revoked(keys) => self.handle_revoked(&keys, now),
            // Only a hub that this one has dialled lets it in, or does not.
            ControlFrame::Welcome(welcome) => self.handle_hub_welcome(session, &welcome, now),
            ControlFrame::Refused { reason, text } => {
                if reason == Refusal::Revoked {
                    self.leave(now);
                }
                self.switch.end(session, End::NotLinked(text));
            }
            ControlFrame::Bye(_) => self.switch.end(session, End::Farewell("it said goodbye")),
            ControlFrame::AskMembers { after, watch, since } => {
                if watch {
                    self.switch.set_watching(session);
                }
                let changes = since.and_then(|since| self.changes_of_members(Version::after(since)));
                let page = changes.unwrap_or_else(|| self.page_of_members(after.as_ref()));
                self.switch.tell(session, &page);
            }
            ControlFrame::Lane(note) => self.handle_lane_note(session, note, now),
            ControlFrame::Keeper { term, wants_all } => self.handle_keeper(session, term, wants_all, now),
            ControlFrame::Records { records, first, last } => {
                self.handle_records(session, records, (first, last), now);
            }
            ControlFrame::Ask { token, edits } => self.handle_ask(session, token, &edits, now),
            ControlFrame::Answer { token, refused, records } => {
                self.handle_answer(session, token, refused, records, now);
            }
            // The tunnel lets nothing else through to a hub.
            ControlFrame::Ping(_)
            | ControlFrame::Pong(_)
            | ControlFrame::Routes { .. }
            | ControlFrame::Members { .. }
            | ControlFrame::MembersChanged
            | ControlFrame::Pending
            | ControlFrame::Hubs(_) => {}
        }
    }

    fn page_of_members(&self, after: Option<&Name>) -> ControlFrame {
        let members = self.members().after(after).map(|member| self.told_member(member));
        let mut peers: Vec<Peer> = members.take(MAX_PEERS + 1).collect();
        // The hub is told like a member, in the order of names: earlier versions of the spoke take it for one.
        if let Some(name) = self.members().hub_name().filter(|name| after.is_none_or(|after| *name > after)) {
            let at = peers.partition_point(|peer| peer.name < *name);
            peers.insert(at, Peer { name: name.clone(), addresses: self.own_addresses(), online: true });
        }
        let page = if peers.len() <= MAX_PEERS { PageKind::Last } else { PageKind::Part };
        peers.truncate(MAX_PEERS);
        ControlFrame::Members { peers, page, state: Some(self.members().version().changes()) }
    }

    /// What has changed in the list of members since an earlier state, unless that is not known, or too much.
    fn changes_of_members(&self, since: Version) -> Option<ControlFrame> {
        let members = self.members();
        let names = members.touched_since(since).filter(|names| names.len() <= MAX_PEERS)?;
        let peer = |name: &Name| match members.by_name(name) {
            Some(id) => self.told_member(members.member(id)),
            None => Peer { name: name.clone(), addresses: vec![], online: false },
        };
        let (peers, state) = (names.into_iter().map(peer).collect(), Some(members.version().changes()));
        Some(ControlFrame::Members { peers, page: PageKind::Changes, state })
    }

    fn told_member(&self, member: &Member) -> Peer {
        let online = member.is_online() || member.key == self.key.public();
        Peer { name: member.name.clone(), addresses: member.addresses.clone(), online }
    }

    /// Schedules a notification to the watchers of the list of members. Who is on the LAN is no part of it: they keep names
    /// and addresses.
    fn notify_watchers(&mut self, now: Instant) {
        let earliest = self.notify.last.map_or(now, |at| at + NOTIFY_EVERY);
        self.notify.at.get_or_insert(earliest.max(now));
    }

    // ---- time

    /// Sets the time of day, since the beginning of 1970: invites expire by it, and hubs compare it.
    pub fn set_unix_time(&mut self, now: Duration) {
        self.time.unix = now;
        self.admission.set_unix_time(now.as_secs());
    }

    /// When there is something to do next; at once, where it is a time that has passed.
    pub fn deadline(&self) -> Option<Instant> {
        let at_once = self.time.now.filter(|_| self.switch.has_dirty());
        let deadlines = [
            self.switch.deadline(),
            self.notify.at,
            self.saving.deadline(),
            self.routes_deadline(),
            self.peers.deadline(),
            self.hubs.tell_at(),
            self.keeper_deadline(),
            at_once,
        ];
        deadlines.into_iter().flatten().min()
    }

    /// Sends notifications and pings that are due, ends dead sessions, settles disputes.
    pub fn handle_timeouts(&mut self, now: Instant) {
        self.handle_routes(now);
        self.handle_overdue(now);
        self.handle_silent_store(now);
        self.dial_peers(now);
        self.tell_untold_hubs(now);
        if self.notify.at.take_if(|at| *at <= now).is_some() {
            self.notify.last = Some(now);
            self.switch.tell_watchers(&ControlFrame::MembersChanged);
        }
        while let Some(session) = self.switch.poll_due(now) {
            self.settle(session, now);
            self.switch.handle_timeout(session, now);
        }
    }

    /// Ends a turn: removes the sessions that ended, when nothing in the turn can refer to them any more.
    pub fn finish_turn(&mut self, now: Instant) {
        self.time.now = Some(now);
        while let Some(ended) = self.switch.poll_ended(now) {
            self.forget(ended, now);
        }
        self.claim_place(now);
        self.seal(now);
        self.refresh_hubs(now);
        let version = self.members().version();
        if self.notify.version.replace(version) != Some(version) {
            self.refresh_homes();
            self.notify_watchers(now);
        }
        self.tell_exports();
        self.tell_untold();
        self.start_job(now);
        self.tell_records();
    }

    fn forget(&mut self, ended: Ended, now: Instant) {
        let Ended { session, member, source, is_proved, end } = ended;
        self.admission.forget_session(session);
        self.keeper.forget_session(session);
        self.routes.leave(source.ip());
        let is_silent = matches!(end, End::Silent);
        self.effects.push_back(Effect::Close { session, is_silent });
        self.peers.lane_ended(session, now);
        if let Some((hub, was_up)) = self.forget_link(session, now) {
            return self.note_link_end(hub, was_up, &end, now);
        }
        let is_its_own = |&id: &MemberId| {
            self.admission.members().get(id).is_some_and(|member| member.session == Some(session))
        };
        let Some(id) = member.filter(is_its_own) else {
            return self.note(Notice::Closed { session, source, is_proved, end });
        };
        let who = self.who(id);
        self.note(Notice::Left { session, who, end });
        self.admission.members_mut().set_offline(id, now);
        self.note_export(id);
        let member = self.members().member(id);
        let (key, stamp) = (member.key, member.stamp);
        self.tell_offline(key, stamp);
        self.withdraw_routes(id);
        self.refresh_home(&key);
    }

    /// Sends a goodbye to all sessions, and writes the last changes.
    pub fn stop(&mut self, now: Instant) {
        self.switch.dismiss_all(Farewell::Stopping, "the hub stops");
        // The last chance to write what could not be written before.
        self.saving.retry_now();
        self.saving.fold_now(now);
        self.start_job(now);
    }

    // ---- what is to be done

    /// The next thing to do.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    fn note(&mut self, notice: Notice) {
        self.effects.push_back(note(notice));
    }

    fn who(&self, id: MemberId) -> Who {
        let member = self.admission.members().member(id);
        Who { id, name: member.name.clone(), addresses: member.addresses_text() }
    }

    fn name(&self, id: MemberId) -> Name {
        self.admission.members().member(id).name.clone()
    }

    // ---- what is asked about it

    /// The LAN's subnets.
    pub fn lan(&self) -> &Lan {
        &self.lan
    }

    /// The hub's key.
    pub fn key(&self) -> PublicKey {
        self.key.public()
    }

    /// The list of members.
    pub fn members(&self) -> &Members {
        self.admission.members()
    }

    /// The invites that are not used yet.
    pub fn invites(&self) -> &Invites {
        self.admission.invites()
    }

    /// Whether unknown keys may join.
    pub fn access(&self) -> Access {
        self.admission.access()
    }

    /// Who waits to be let in.
    pub fn pending(&self) -> &Pending {
        &self.admission.pending
    }

    /// Why the files cannot be written now, if there is something to write.
    pub fn trouble(&self) -> Option<&str> {
        self.saving.trouble()
    }

    /// Whether a job on the files is being done.
    pub fn is_saving(&self) -> bool {
        self.saving.is_running()
    }

    /// The other machine with a member's key, if there was one lately.
    pub fn second_machine(&self, key: &PublicKey, now: Instant) -> Option<SecondMachine> {
        self.admission.joins.second_machine(key, now)
    }

    /// The facts of a session.
    pub fn link(&self, session: SessionId) -> Option<LinkFacts<'_>> {
        self.switch.link(session)
    }

    /// Links whose other end is not authenticated yet.
    pub fn half_open(&self) -> usize {
        self.switch.half_open().saturating_sub(self.admission.pending.len())
    }

    /// What happened since the start.
    pub fn tally(&self) -> Tally {
        self.switch.tally()
    }

    /// Packets from the hub's own kernel, and to it, that were dropped.
    pub fn drops(&self) -> &Drops {
        self.switch.drops()
    }
}

fn fabric<'a>(admission: &'a Admission, routes: &'a Routes, hubs: &Hubs, peers: &'a Peers) -> Fabric<'a> {
    let members = admission.members();
    let exports = routes.exports.is_some();
    Fabric { members, table: routes.table(), own: hubs.own(members), peers: Some(peers), exports }
}

fn note(notice: Notice) -> Effect {
    Effect::Log(Box::new(notice))
}
