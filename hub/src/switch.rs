//! The LAN's switch: links, and the packets that go between them. Pure: bytes and the time come in.
//!
//! A session is a tunnel with its member. The shell keeps each socket under its session's id. A session that ends is only
//! marked, and removed at the end of the turn by `poll_ended`, so that ids stay valid within a turn.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Instant;

use common::node::timer::Timers;
use common::packet::MIN_MTU;
use common::packet::drops::Drops;
use common::queue::{Buf, Pool};
use common::wire::frame::{ControlFrame, Farewell, Refusal, Welcome};
use common::wire::inbox::Inbox;
use common::wire::key::PrivateKey;
use common::wire::tunnel::{Error, Flushed, Tunnel, outbox};
use slab::Slab;

use crate::effect::{Effect, End};
use crate::ids::{MemberId, SessionId};
use crate::lan::admission::Contact;
use crate::lan::members::Version;
use crate::lan::rules::Rules;
use crate::lan::rules::access::AccessControl;
use crate::lan::subnets::Subnets;
use crate::switch::budget::Budget;
use crate::switch::filter::Filter;
use crate::switch::gate::{Admittance, Gate, TurnedAway};
use crate::switch::limits::AllLimits;
use crate::switch::tally::Tally;

mod asked;
mod beside;
mod budget;
mod facts;
pub(crate) mod filter;
mod forward;
pub mod gate;
mod lane;
mod limits;
mod links;
pub mod router;
pub mod tally;

pub use asked::Asked;
pub use beside::NoLane;
pub use facts::LinkFacts;
pub use router::Fabric;

use beside::Beside;

/// Unused buffers that the hub keeps.
const SPARE_BYTES: usize = 8 * 1024 * 1024;

/// A session that has ended, and is gone.
pub struct Ended {
    /// Its id.
    pub session: SessionId,
    /// The member that it was let in as.
    pub member: Option<MemberId>,
    /// Where it came from.
    pub source: SocketAddr,
    /// Whether it had proved a key.
    pub is_proved: bool,
    /// Why it ended.
    pub end: End,
}

struct Session {
    tunnel: Tunnel,
    source: SocketAddr,
    role: Role,
    /// Whether this hub has opened it: then it is no affair of the gate.
    is_dialled: bool,
    joined_at: Option<Instant>,
    port: Port,
    /// The largest packet that it takes.
    mtu: usize,
    /// Whether it watches the list of members.
    watches: bool,
    /// Nothing is sent before this state of the list of members is written.
    hold: Option<Version>,
    end: Option<End>,
    /// Whether it is in the list of sessions to flush.
    dirty: bool,
    beside: Beside,
}

/// Who is at the other end of a session.
#[derive(Clone, Copy)]
enum Role {
    /// Nobody that was let in.
    Unknown,
    /// A member.
    Member(MemberId),
    /// Another hub of the LAN.
    Hub,
}

impl Session {
    fn new(tunnel: Tunnel, source: SocketAddr, mtu: usize) -> Session {
        Session {
            tunnel,
            source,
            role: Role::Unknown,
            is_dialled: false,
            joined_at: None,
            port: Port::default(),
            mtu,
            watches: false,
            hold: None,
            end: None,
            dirty: false,
            beside: Beside::Nothing,
        }
    }

    fn member(&self) -> Option<MemberId> {
        match self.role {
            Role::Member(id) => Some(id),
            Role::Unknown | Role::Hub => None,
        }
    }
}

/// Where packets come in: a member's tunnel, or the hub's own kernel.
#[derive(Default)]
struct Port {
    /// Its packets that were not delivered.
    drops: Drops,
    /// Whether it is the hub's own kernel, and that is not on the LAN: nothing goes out by it.
    is_closed: bool,
}

/// The switch.
pub struct Switch {
    subnets: Subnets,
    /// The largest packet on the LAN, in bytes of IP.
    mtu: usize,
    sessions: Slab<Session>,
    gate: Gate,
    timers: Timers,
    buffers: Buffers,
    flow_seed: u64,
    /// The hub's own kernel.
    port: Port,
    policing: Policing,
    /// Of links that are there, only what is counted when they come.
    tally: Tally,
    sending: Sending,
    ended: Vec<SessionId>,
}

/// Sessions with something to send.
#[derive(Default)]
struct Sending {
    /// Those that may have something to write.
    dirty: Vec<SessionId>,
    /// Those that are held back, by what they wait for.
    held: VecDeque<(Version, SessionId)>,
}

/// What keeps a member from sending all that it could.
#[derive(Default)]
struct Policing {
    limits: AllLimits,
    filter: Filter,
}

/// The memory that all sessions share.
struct Buffers {
    pool: Pool,
    inbox: Inbox,
    outbox: Buf,
    /// For packets that are fragmented.
    scratch: Vec<u8>,
    /// What all queues hold.
    budget: Budget,
}

impl Switch {
    /// A switch with nobody on it. `flow_seed`: random, so that flows cannot be aimed at each other.
    pub fn new(subnets: Subnets, mtu: u32, flow_seed: u64) -> Switch {
        Switch {
            subnets,
            mtu: mtu as usize,
            sessions: Slab::new(),
            gate: Gate::default(),
            timers: Timers::default(),
            buffers: Buffers {
                pool: Pool::new(SPARE_BYTES),
                inbox: Inbox::default(),
                outbox: outbox(),
                scratch: Vec::new(),
                budget: Budget::default(),
            },
            flow_seed,
            port: Port::default(),
            policing: Policing::default(),
            tally: Tally::default(),
            sending: Sending::default(),
            ended: Vec::new(),
        }
    }

    /// Sets the LAN's own prefixes.
    pub fn set_subnets(&mut self, subnets: Subnets) {
        self.subnets = subnets;
    }

    fn session(&self, session: SessionId) -> Option<&Session> {
        self.sessions.get(session.index())
    }

    // ---- links come and go

    /// Sets how many links there can be.
    pub fn limit_sessions(&mut self, links: usize) {
        self.gate.limit(links);
    }

    /// Sets how much memory the packets in all queues may occupy, in bytes.
    pub fn limit_queued(&mut self, bytes: usize) {
        self.buffers.budget.limit(bytes);
    }

    /// Takes in a connection from `source`, or says why it is to be closed. `ephemeral`: 32 random bytes.
    pub fn accept(
        &mut self,
        key: &PrivateKey,
        source: SocketAddr,
        ephemeral: [u8; 32],
        now: Instant,
    ) -> Result<SessionId, TurnedAway> {
        match self.gate.admit(source.ip(), now) {
            Admittance::Admit => {}
            Admittance::Replace(session) => self.end(session, End::Evicted),
            Admittance::Refuse(why) => {
                self.tally.turned_away(why);
                return Err(why);
            }
        }
        self.tally.connections += 1;
        let tunnel = Tunnel::hub(key, ephemeral, now);
        let deadline = tunnel.deadline();
        let session = SessionId::new(self.sessions.insert(Session::new(tunnel, source, self.mtu)));
        self.gate.enter(source.ip(), session, now);
        self.timers.set(session.index(), deadline);
        Ok(session)
    }

    /// Closes a half-open link, as there are no descriptors for new ones; `false` where there is none.
    pub fn make_room(&mut self, now: Instant) -> bool {
        let chosen = self.gate.make_room(now);
        if let Some(session) = chosen {
            self.end(session, End::Evicted);
        }
        chosen.is_some()
    }

    /// Lets a member in. Nothing goes out to it before `hold` is written.
    pub fn join(
        &mut self,
        session: SessionId,
        id: MemberId,
        mtu: Option<u32>,
        welcome: Welcome,
        hold: Option<Version>,
        now: Instant,
    ) {
        self.tally.joins += 1;
        self.sessions[session.index()].hold = hold;
        self.sending.held.extend(hold.map(|version| (version, session)));
        self.let_in(session, Role::Member(id), mtu, Some(welcome), now);
    }

    /// Lets the other end of a session in. `welcome`: what it is told, unless it is the one that says so.
    fn let_in(
        &mut self,
        session: SessionId,
        role: Role,
        mtu: Option<u32>,
        welcome: Option<Welcome>,
        now: Instant,
    ) {
        let entry = &mut self.sessions[session.index()];
        entry.role = role;
        entry.joined_at = Some(now);
        entry.mtu = mtu.map_or(usize::MAX, |mtu| mtu.max(MIN_MTU) as usize).min(self.mtu);
        let welcomed = welcome.map_or(Ok(()), |welcome| entry.tunnel.welcome(welcome, now));
        self.timers.set(session.index(), entry.tunnel.deadline());
        if !entry.is_dialled {
            self.gate.joined(entry.source.ip(), session, now);
        }
        if let Err(error) = welcomed {
            self.end(session, End::Tunnel(error));
        }
        self.mark_dirty(session);
    }

    /// Has a session wait until a person decides about its join request.
    pub fn hold(&mut self, session: SessionId, now: Instant) {
        let tunnel = &mut self.sessions[session.index()].tunnel;
        match tunnel.hold(now) {
            Ok(()) => self.timers.set(session.index(), tunnel.deadline()),
            Err(error) => return self.end(session, End::Tunnel(error)),
        }
        self.mark_dirty(session);
    }

    /// Refuses a session's join request, and ends it.
    pub fn refuse(&mut self, session: SessionId, reason: Refusal, text: String) {
        self.tally.refused(reason);
        // It has only just begun: there is room for one frame.
        let _ = self.sessions[session.index()].tunnel.refuse(reason, text);
        self.end(session, End::Refused);
    }

    /// Sends a goodbye to a session, and ends it.
    pub fn dismiss(&mut self, session: SessionId, farewell: Farewell, why: End) {
        if self.is_live(session) {
            if farewell == Farewell::TooOften {
                self.tally.put_off();
            }
            // A tunnel whose send buffer is too full for a goodbye is closed all the same.
            let _ = self.sessions[session.index()].tunnel.bye(farewell);
            self.end(session, why);
        }
    }

    /// Sends a goodbye to all sessions.
    pub fn dismiss_all(&mut self, farewell: Farewell, why: &'static str) {
        for index in 0..self.sessions.capacity() {
            self.dismiss(SessionId::new(index), farewell, End::Farewell(why));
        }
    }

    /// Whether the session is there and not about to go.
    pub fn is_live(&self, session: SessionId) -> bool {
        self.session(session).is_some_and(|session| session.end.is_none())
    }

    /// Ends a session.
    pub fn end(&mut self, session: SessionId, end: End) {
        let Some(entry) = self.sessions.get_mut(session.index()).filter(|entry| entry.end.is_none()) else {
            return;
        };
        entry.end = Some(end);
        self.ended.push(session);
        self.mark_dirty(session);
    }

    /// Takes out a session that has ended.
    pub fn poll_ended(&mut self, now: Instant) -> Option<Ended> {
        let session = self.ended.pop()?;
        self.part(session, now);
        let mut entry = self.sessions.try_remove(session.index())?;
        self.timers.clear(session.index());
        let is_lane = matches!(entry.beside, Beside::Link(_));
        let source = entry.source.ip();
        match entry.role {
            _ if entry.is_dialled => {}
            Role::Member(_) | Role::Hub => self.gate.left(source, now),
            Role::Unknown if is_lane => self.gate.left(source, now),
            Role::Unknown => self.gate.failed(source, session, now),
        }
        self.tally.add_link(&entry.tunnel, &entry.port.drops);
        entry.tunnel.close(&mut self.buffers.pool);
        self.buffers.budget.set(session, 0);
        let is_proved = entry.tunnel.remote().is_some();
        let member = entry.member();
        let end = entry.end.unwrap_or(End::Farewell("it ended"));
        self.tally.ended(member.is_some(), is_proved, &end);
        Some(Ended { session, member, source: entry.source, is_proved, end })
    }

    /// Puts access rules in force, or lets everything pass.
    pub fn set_rules(&mut self, rules: Option<Rules>) {
        self.policing.filter.set(rules);
    }

    // ---- what others ask

    /// The access rules, if there are any.
    pub fn access(&self) -> Option<&AccessControl> {
        self.policing.filter.access()
    }

    /// The outer address of a session.
    pub fn source(&self, session: SessionId) -> Option<SocketAddr> {
        Some(self.session(session)?.source)
    }

    /// How many sessions there are.
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// What happened since the start.
    pub fn tally(&self) -> Tally {
        let mut tally = self.tally.clone();
        tally.drops.add_all(&self.port.drops);
        for (_, Session { tunnel, port, beside, .. }) in &self.sessions {
            tally.add_link(tunnel, &port.drops);
            tally.lanes.open += usize::from(matches!(beside, Beside::Link(_)));
            tally.queue_bytes += tunnel.queue().bytes();
        }
        tally
    }

    /// Links whose other end is not authenticated yet.
    pub fn half_open(&self) -> usize {
        self.gate.half_open()
    }

    /// Packets from the hub's own kernel, and to it, that were dropped.
    pub fn drops(&self) -> &Drops {
        &self.port.drops
    }

    // ---- control

    /// Queues a control frame; a session that does not read what it was told before ends.
    pub fn tell(&mut self, session: SessionId, control: &ControlFrame) {
        match self.sessions[session.index()].tunnel.control(control) {
            Ok(()) => self.mark_dirty(session),
            Err(error) => self.end(session, End::Tunnel(error)),
        }
    }

    /// Sends a control frame to these members, if they are on the LAN.
    pub fn tell_members(&mut self, control: &ControlFrame, are: impl Fn(MemberId) -> bool) {
        self.tell_those(control, |session| session.member().is_some_and(&are));
    }

    /// Sends a control frame to the watchers of the list of members.
    pub fn tell_watchers(&mut self, control: &ControlFrame) {
        self.tell_those(control, |session| session.watches);
    }

    fn tell_those(&mut self, control: &ControlFrame, are: impl Fn(&Session) -> bool) {
        let mut frame = Vec::new();
        control.encode(&mut frame);
        for session in (0..self.sessions.capacity()).map(SessionId::new) {
            if self.session(session).is_some_and(|entry| entry.tunnel.is_open() && are(entry)) {
                self.tell_encoded(session, &frame);
            }
        }
    }

    /// Makes a session a watcher of the list of members.
    pub fn set_watching(&mut self, session: SessionId) {
        self.sessions[session.index()].watches = true;
    }

    /// Pings a session.
    pub fn ping(&mut self, session: SessionId, now: Instant) {
        if let Err(error) = self.sessions[session.index()].tunnel.ping(now) {
            self.end(session, End::Tunnel(error));
        }
        self.mark_dirty(session);
    }

    // ---- time

    /// When there is something to do next.
    pub fn deadline(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Has `poll_due` report a session at this time or before.
    pub fn wake(&mut self, session: SessionId, at: Instant) {
        self.timers.set(session.index(), at);
    }

    /// A live session whose time has come; to be followed by `handle_timeout`.
    pub fn poll_due(&mut self, now: Instant) -> Option<SessionId> {
        loop {
            let session = SessionId::new(self.timers.pop(now)?);
            if self.is_live(session) {
                return Some(session);
            }
        }
    }

    /// Pings a session that is due, or ends it if it is dead.
    pub fn handle_timeout(&mut self, session: SessionId, now: Instant) {
        self.check_lane(session, now);
        if !self.is_live(session) {
            return;
        }
        let tunnel = &mut self.sessions[session.index()].tunnel;
        match tunnel.handle_timeout(now) {
            Ok(()) => {
                let (deadline, wants_write) = (tunnel.deadline(), tunnel.wants_write());
                if wants_write {
                    self.mark_dirty(session);
                }
                self.timers.set(session.index(), deadline);
            }
            Err(Error::Silent) => self.end(session, End::Silent),
            Err(error) => self.end(session, End::Tunnel(error)),
        }
    }

    // ---- sending

    /// Releases the sessions that waited for states of the list of members that are settled now.
    pub fn release(&mut self, is_settled: impl Fn(Version) -> bool) {
        while let Some(&(version, session)) =
            self.sending.held.front().filter(|(version, _)| is_settled(*version))
        {
            self.sending.held.pop_front();
            // The id may be another's by now.
            let entry = self.sessions.get_mut(session.index());
            if let Some(entry) = entry.filter(|entry| entry.hold == Some(version)) {
                entry.hold = None;
                self.mark_dirty(session);
            }
        }
    }

    /// Has this session flushed at the end of the turn.
    pub fn mark_dirty(&mut self, session: SessionId) {
        let Some(entry) = self.sessions.get_mut(session.index()) else { return };
        if !entry.dirty {
            entry.dirty = true;
            self.sending.dirty.push(session);
        }
    }

    /// Whether there are sessions to flush.
    pub fn has_dirty(&self) -> bool {
        !self.sending.dirty.is_empty()
    }

    /// Moves the sessions to flush into `sessions`, which must be empty.
    pub fn take_dirty(&mut self, sessions: &mut Vec<SessionId>) {
        debug_assert!(sessions.is_empty());
        std::mem::swap(&mut self.sending.dirty, sessions);
        for session in &*sessions {
            if let Some(entry) = self.sessions.get_mut(session.index()) {
                entry.dirty = false;
            }
        }
    }

    /// Writes what a session has to send, by [`Tunnel::flush`].
    pub fn flush(&mut self, session: SessionId, now: Instant, write: impl FnMut(&[u8]) -> usize) {
        let Some(entry) = self.sessions.get_mut(session.index()).filter(|entry| entry.hold.is_none()) else {
            return;
        };
        let Buffers { pool, outbox, budget, .. } = &mut self.buffers;
        let has_two = !matches!(entry.beside, Beside::Nothing);
        if matches!(entry.beside, Beside::Link(_)) && entry.end.is_some() {
            // Its packets go by the link.
            return;
        }
        let flushed = entry.tunnel.flush(outbox, pool, now, write);
        budget.set(session, entry.tunnel.queue().cost());
        if has_two {
            self.settle_lane(session, now);
        }
        match flushed {
            Ok(Flushed::Done) => {}
            Ok(Flushed::More) => self.mark_dirty(session),
            Err(error) => self.end(session, End::Tunnel(error)),
        }
    }

    /// Takes back a packet that was to be given to the hub's own kernel.
    pub fn delivered(&mut self, packet: Buf, is_taken: bool) {
        if !is_taken {
            self.port.drops.add(common::packet::drops::Reason::Device);
        }
        self.buffers.pool.give(packet);
    }
}

impl Contact for Switch {
    fn was_heard(&self, session: SessionId, since: Instant) -> bool {
        self.session(session)
            .is_some_and(|session| session.tunnel.heard_at() > since || session.joined_at > Some(since))
    }
}

/// The queue of effects.
pub(crate) type Effects = VecDeque<Effect>;
