//! The LAN's switch: tunnels, members and what goes between them. Pure: the server gives it bytes and the time.
//!
//! A session is a tunnel and what the hub knows about who is behind it. The server keeps its socket under the
//! same key. Sessions that end are only marked, and taken out at the end of the turn by `poll_ended`, so that
//! keys stay valid within a turn.

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use common::node::log_limit::LogLimiter;
use common::node::timer::Timers;
use common::packet::drops::Drops;
use common::queue::Pool;
use common::wire::frame::{ControlFrame, Farewell, Join, MAX_PEERS, Peer};
use common::wire::key::{PrivateKey, PublicKey};
use common::wire::tunnel::{Error, Tunnel};
use ipnetwork::IpNetwork;
use log::{debug, info};
use slab::Slab;

use crate::lan::invites::Invites;
use crate::lan::members::{Access, MemberId, Members};
use crate::lan::routes::Routes;
use crate::lan::subnets::Subnets;
use crate::switch::gate::{Admittance, Gate};
use crate::switch::limits::AllLimits;

mod admin;
pub mod gate;
mod joining;
mod limits;
mod offers;
mod packets;
pub mod router;

pub use admin::LinkFacts;

/// How long the holder of a disputed address has to answer.
pub const DISPUTE_TIME: Duration = Duration::from_secs(2);
/// Who watches the list of members is told of changes at most so often.
const NOTIFY_EVERY: Duration = Duration::from_secs(1);
/// Unused buffers that the hub keeps.
const SPARE_BYTES: usize = 8 * 1024 * 1024;

/// What the LAN is, as the command line says it.
#[derive(Clone, Debug)]
pub struct Lan {
    /// Its prefixes.
    pub subnets: Subnets,
    /// The largest packet on it, in bytes of IP.
    pub mtu: u32,
    /// Prefixes to which the hub's own kernel forwards.
    pub routes: Vec<IpNetwork>,
    /// Networks that the hub itself is in: no member may offer a way there.
    pub hub_networks: Vec<IpNetwork>,
}

/// A prefix that the hub's own kernel has to reach through the LAN from now on, or no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteChange {
    /// From now on.
    Added(IpNetwork),
    /// No longer.
    Removed(IpNetwork),
}

/// Why a session ends.
#[derive(Debug)]
enum End {
    /// The other end left, or we told it to go: what is queued still goes out.
    Farewell(&'static str),
    /// Something is wrong with it.
    Broken(String),
    /// Nothing is heard of it.
    Silent,
}

/// A session that has ended, for the server to close its socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Its key.
    pub session: usize,
    /// Whether the other end could not hear a goodbye, so that the connection is to be reset.
    pub is_silent: bool,
}

/// A wish for an address whose holder was asked for a sign of life.
struct Dispute {
    key: PublicKey,
    join: Join,
    holder: MemberId,
    /// Holders of other addresses of this wish that did not answer, and since when.
    found_dead: Vec<(MemberId, Instant)>,
    asked_at: Instant,
}

struct Session {
    tunnel: Tunnel,
    source: SocketAddr,
    member: Option<MemberId>,
    joined_at: Option<Instant>,
    /// Whether a log line tells that it is on the LAN.
    told: bool,
    dispute: Option<Box<Dispute>>,
    port: Port,
    /// The largest packet that it takes.
    mtu: usize,
    /// Networks behind it that it offers, those included that are not taken for now.
    offered: Vec<IpNetwork>,
    /// Whether it is told of changes in the list of members.
    watches: bool,
    end: Option<End>,
    /// Whether it is in the list of sessions to flush.
    dirty: bool,
}

/// Where packets come in: a member's tunnel, or the hub's own kernel.
#[derive(Default)]
struct Port {
    /// Its packets that were not delivered.
    drops: Drops,
}

/// The switch.
pub struct Switch {
    key: PrivateKey,
    lan: Lan,
    access: Access,
    members: Members,
    invites: Invites,
    /// The time of day, for invites: Unix seconds.
    unix_time: u64,
    routes: Routes,
    /// The prefixes behind members that the hub's own kernel reaches.
    kernel_routes: BTreeSet<IpNetwork>,
    route_changes: VecDeque<RouteChange>,
    sessions: Slab<Session>,
    gate: Gate,
    timers: Timers,
    pool: Pool,
    flow_seed: u64,
    /// Sessions that may have something to write.
    dirty: Vec<usize>,
    ended: Vec<usize>,
    /// The hub's own kernel.
    port: Port,
    limits: AllLimits,
    /// When those who watch the list of members are told that it changed.
    notify_at: Option<Instant>,
    notified_at: Option<Instant>,
    /// For packets that are cut.
    scratch: Vec<u8>,
    /// Lines that anybody can provoke.
    log_limiter: LogLimiter<LogKind>,
    /// Lines that a member can provoke.
    member_log_limiter: LogLimiter<MemberId>,
}

/// A log line that anybody outside can provoke.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LogKind {
    /// A connection was turned away.
    TurnedAway,
    /// A link closed before it joined.
    NotJoined,
    /// A join was refused.
    Refused,
    /// A member joined that the hub did not know.
    Newcomer,
    /// It left, and it was not told that it joined.
    NewcomerLeft,
    /// An address went to another member.
    Evicted,
    /// A route of a member was not taken.
    BadRoute,
    /// The hub's own kernel was given a route, or lost it.
    KernelRoute,
}

impl Switch {
    /// A switch with nobody on it. `flow_seed`: random, so that flows cannot be aimed at each other.
    pub fn new(key: PrivateKey, lan: Lan, access: Access, members: Members, flow_seed: u64) -> Switch {
        Switch {
            routes: Routes::new(&lan.routes),
            kernel_routes: BTreeSet::new(),
            route_changes: VecDeque::new(),
            key,
            lan,
            access,
            members,
            invites: Invites::default(),
            unix_time: 0,
            sessions: Slab::new(),
            gate: Gate::default(),
            timers: Timers::default(),
            pool: Pool::new(SPARE_BYTES),
            flow_seed,
            dirty: Vec::new(),
            ended: Vec::new(),
            port: Port::default(),
            limits: AllLimits::default(),
            log_limiter: LogLimiter::default(),
            member_log_limiter: LogLimiter::default(),
            notify_at: None,
            notified_at: None,
            scratch: Vec::new(),
        }
    }

    /// Whom the hub knows.
    pub fn members(&self) -> &Members {
        &self.members
    }

    /// To be told that the text of `members` was saved.
    pub fn members_mut(&mut self) -> &mut Members {
        &mut self.members
    }

    /// The buffers, for what the server reads.
    pub fn pool(&mut self) -> &mut Pool {
        &mut self.pool
    }

    // ---- links come and go

    /// Sets how many links there can be.
    pub fn limit_sessions(&mut self, links: usize) {
        self.gate.limit(links);
    }

    /// Takes in a connection from `source`; `None` where it is to be closed. `ephemeral`: 32 random bytes.
    pub fn accept(&mut self, source: SocketAddr, ephemeral: [u8; 32], now: Instant) -> Option<usize> {
        match self.gate.admit(source.ip(), now) {
            Admittance::Admit => {}
            Admittance::Replace(session) => self.evict(session),
            Admittance::Refuse => return None,
        }
        let tunnel = Tunnel::hub(&self.key, ephemeral, now);
        let deadline = tunnel.deadline();
        let session = self.sessions.insert(Session {
            tunnel,
            source,
            member: None,
            joined_at: None,
            told: false,
            dispute: None,
            port: Port::default(),
            mtu: self.lan.mtu as usize,
            offered: Vec::new(),
            watches: false,
            end: None,
            dirty: false,
        });
        self.gate.enter(source.ip(), session, now);
        self.timers.set(session, deadline);
        Some(session)
    }

    /// Closes a half-open link, as there are no descriptors for new ones; `false` where there is none.
    pub fn make_room(&mut self, now: Instant) -> bool {
        let chosen = self.gate.make_room(now);
        if let Some(session) = chosen {
            self.evict(session);
        }
        chosen.is_some()
    }

    fn evict(&mut self, session: usize) {
        self.end(session, "others need its place".to_owned());
    }

    /// The tunnel of a session.
    pub fn tunnel(&mut self, session: usize) -> (&mut Tunnel, &mut Pool) {
        (&mut self.sessions[session].tunnel, &mut self.pool)
    }

    /// Whether the session is there and not about to go.
    pub fn is_live(&self, session: usize) -> bool {
        self.sessions.get(session).is_some_and(|session| session.end.is_none())
    }

    /// Ends a session whose socket failed or closed.
    pub fn end(&mut self, session: usize, why: String) {
        self.end_with(session, End::Broken(why));
    }

    fn end_with(&mut self, session: usize, end: End) {
        let Some(entry) = self.sessions.get_mut(session).filter(|entry| entry.end.is_none()) else { return };
        entry.end = Some(end);
        self.ended.push(session);
        self.mark_dirty(session);
    }

    /// Takes out a session that has ended; the server closes its socket.
    pub fn poll_ended(&mut self, now: Instant) -> Option<Ended> {
        let key = self.ended.pop()?;
        let mut session = self.sessions.remove(key);
        self.timers.clear(key);
        let source = session.source.ip();
        match session.member {
            Some(_) => self.gate.left(source, now),
            None => self.gate.failed(source, key, now),
        }
        let why = match &session.end {
            Some(End::Farewell(why)) => *why,
            Some(End::Broken(why)) => why.as_str(),
            Some(End::Silent) => "nothing was heard of it",
            None => "it ended",
        };
        let is_its_own = |id| self.members.get(id).is_some_and(|member| member.session == Some(key));
        match session.member.filter(|&id| is_its_own(id)) {
            Some(id) => {
                let member = self.members.member_mut(id);
                member.session = None;
                member.seen_at = Some(now);
                let tell = session.told || self.log_limiter.allow(LogKind::NewcomerLeft, now);
                if tell && self.member_log_limiter.allow(id, now) {
                    info!("{} ({}) left the LAN: {why}", member.name, member.addresses_text());
                }
                let left: Vec<IpNetwork> = self.routes.of(id).collect();
                self.set_routes(id, &[], now);
                self.offer_again(&left, now);
                self.notify(now);
            }
            None if session.tunnel.remote().is_some() => debug!("link from {} closed: {why}", session.source),
            None if self.log_limiter.allow(LogKind::NotJoined, now) => {
                info!("link from {} closed before it joined: {why}", session.source);
            }
            None => {}
        }
        session.tunnel.close(&mut self.pool);
        Some(Ended { session: key, is_silent: matches!(session.end, Some(End::Silent)) })
    }

    /// Says goodbye to everyone.
    pub fn stop(&mut self) {
        let live: Vec<usize> = self.sessions.iter().map(|(key, _)| key).collect();
        for session in live {
            self.dismiss(session, Farewell::Stopping, "the hub stops");
        }
    }

    /// Says goodbye to one.
    fn dismiss(&mut self, session: usize, farewell: Farewell, why: &'static str) {
        if self.is_live(session) {
            // A tunnel that is too stuffed to say goodbye to is closed all the same.
            let _ = self.sessions[session].tunnel.bye(farewell);
            self.end_with(session, End::Farewell(why));
        }
    }

    // ---- control

    fn handle_control(&mut self, session: usize, control: ControlFrame) {
        match control {
            ControlFrame::Bye(_) => self.end_with(session, End::Farewell("it said goodbye")),
            ControlFrame::AskMembers { after, watch } => {
                self.sessions[session].watches |= watch;
                let members = self.members.after(after.as_ref()).map(|member| Peer {
                    name: member.name.clone(),
                    addresses: member.addresses.clone(),
                    online: member.session.is_some(),
                });
                let mut peers: Vec<Peer> = members.take(MAX_PEERS + 1).collect();
                let last = peers.len() <= MAX_PEERS;
                peers.truncate(MAX_PEERS);
                self.tell(session, &ControlFrame::Members { peers, last });
            }
            // The tunnel lets nothing else through to a hub.
            ControlFrame::Welcome(_)
            | ControlFrame::Refused { .. }
            | ControlFrame::Ping(_)
            | ControlFrame::Pong(_)
            | ControlFrame::Routes { .. }
            | ControlFrame::Members { .. }
            | ControlFrame::MembersChanged => {}
        }
    }

    /// Queues a control frame; a session that does not read what it was told before ends.
    fn tell(&mut self, session: usize, control: &ControlFrame) {
        match self.sessions[session].tunnel.control(control) {
            Ok(()) => self.mark_dirty(session),
            Err(error) => self.end_with(session, End::Broken(error.to_string())),
        }
    }

    /// Has those who watch the list of members told that it is another one.
    fn notify(&mut self, now: Instant) {
        let earliest = self.notified_at.map_or(now, |at| at + NOTIFY_EVERY);
        self.notify_at.get_or_insert(earliest.max(now));
    }

    // ---- time

    /// When `handle_timeouts` has something to do next.
    pub fn deadline(&self) -> Option<Instant> {
        let dampers = [self.log_limiter.deadline(), self.member_log_limiter.deadline()];
        [self.timers.next(), self.notify_at].into_iter().chain(dampers).flatten().min()
    }

    /// Pings who is due, ends who is dead, settles disputes.
    pub fn handle_timeouts(&mut self, now: Instant) {
        if self.notify_at.take_if(|at| *at <= now).is_some() {
            self.notified_at = Some(now);
            for key in 0..self.sessions.capacity() {
                if self.sessions.get(key).is_some_and(|session| session.watches && session.tunnel.is_open()) {
                    self.tell(key, &ControlFrame::MembersChanged);
                }
            }
        }
        while let Some(key) = self.timers.pop(now) {
            if !self.is_live(key) {
                continue;
            }
            self.settle(key, now);
            match self.sessions[key].tunnel.handle_timeout(now) {
                Ok(()) => {}
                Err(Error::Silent) => {
                    self.end_with(key, End::Silent);
                    continue;
                }
                Err(error) => {
                    self.end_with(key, End::Broken(error.to_string()));
                    continue;
                }
            }
            if self.sessions[key].tunnel.wants_write() {
                self.mark_dirty(key);
            }
            let deadline = self.sessions[key].tunnel.deadline();
            self.timers.set(key, deadline);
        }
        self.tell_counts(now);
    }

    // ---- sending

    /// Has the server flush this session at the end of the turn.
    pub fn mark_dirty(&mut self, session: usize) {
        let entry = &mut self.sessions[session];
        if !entry.dirty {
            entry.dirty = true;
            self.dirty.push(session);
        }
    }

    /// Whether there are sessions to flush.
    pub fn has_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Moves the sessions to flush into `sessions`, which must be empty.
    pub fn take_dirty(&mut self, sessions: &mut Vec<usize>) {
        debug_assert!(sessions.is_empty());
        std::mem::swap(&mut self.dirty, sessions);
        for &key in &*sessions {
            if let Some(session) = self.sessions.get_mut(key) {
                session.dirty = false;
            }
        }
    }
}
