//! The LAN's switch: tunnels, members and what goes between them. Pure: the server gives it bytes and the time.
//!
//! A session is a tunnel and what the hub knows about who is behind it. The server keeps its socket under the
//! same key. Sessions that end are only marked, and taken out at the end of the turn by `poll_ended`, so that
//! keys stay valid within a turn.

use std::collections::{BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use common::damper::Damper;
use common::drops::{Drops, Reason};
use common::frame::{BadFrame, Control, Farewell, Join, MAX_PEERS, MAX_PREFIXES, Peer, Refusal, Welcome};
use common::icmp::{self, Answer};
use common::inbox::Inbox;
use common::noise::{PrivateKey, PublicKey};
use common::offload;
use common::packet::{self, Header, VNET_LEN};
use common::pool::{Buf, Pool};
use common::prefix::{is_private, overlap};
use common::timer::Timers;
use common::tun;
use common::tunnel::{Error, Event, Tunnel};
use ipnetwork::IpNetwork;
use log::{debug, info, log_enabled, trace, warn};
use slab::Slab;

use crate::bucket::Bucket;
use crate::gate::{Gate, Verdict as Admittance};
use crate::invites::Invites;
use crate::members::{Access, Admission, MemberId, Members};
use crate::router::{self, Verdict};
use crate::routes::{self, Owner, Routes};
use crate::subnets::Subnets;

mod admin;

pub use admin::LinkFacts;

/// How long the holder of a disputed address has to answer.
pub const DISPUTE_TIME: Duration = Duration::from_secs(2);
/// Packets to everyone that one source may send: a second's worth of them at once, then one a millisecond.
const FLOOD: Bucket = Bucket::new(Duration::from_millis(1), 1_000);
/// ICMP answers that one source may get.
const ANSWERS: Bucket = Bucket::new(Duration::from_millis(10), 50);
/// Who watches the list of members is told of changes at most so often.
const NUDGE_EVERY: Duration = Duration::from_secs(1);
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

/// What a received packet means for the hub's own kernel.
enum Outcome {
    /// Nothing.
    Done,
    /// It is for it, or for it too.
    Tun,
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
    drops: Drops,
    /// The largest packet that it takes.
    mtu: usize,
    /// What it may still send to everyone.
    flood: Bucket,
    /// The ICMP answers that it may still get.
    answers: Bucket,
    /// Networks behind it that it offers, those included that are not taken for now.
    offered: Vec<IpNetwork>,
    /// Whether it is told of changes in the list of members.
    watches: bool,
    end: Option<End>,
    /// Whether it is in the list of sessions to flush.
    dirty: bool,
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
    /// Drops of packets that no session can be blamed for: those from the hub's own kernel.
    drops: Drops,
    flood: Bucket,
    answers: Bucket,
    /// When those who watch the list of members are told that it changed.
    nudge_at: Option<Instant>,
    nudged_at: Option<Instant>,
    /// For packets that are cut.
    scratch: Vec<u8>,
    /// Lines that anybody can provoke.
    damper: Damper<Provoked>,
    /// Lines that a member can provoke.
    member_damper: Damper<MemberId>,
}

/// A log line that anybody outside can provoke.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Provoked {
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
    Ousted,
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
            drops: Drops::default(),
            damper: Damper::default(),
            member_damper: Damper::default(),
            flood: FLOOD,
            answers: ANSWERS,
            nudge_at: None,
            nudged_at: None,
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
            drops: Drops::default(),
            mtu: self.lan.mtu as usize,
            flood: FLOOD,
            answers: ANSWERS,
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
                let tell = session.told || self.damper.tell(Provoked::NewcomerLeft, now);
                if tell && self.member_damper.tell(id, now) {
                    info!("{} ({}) left the LAN: {why}", member.name, member.addresses_text());
                }
                let left: Vec<IpNetwork> = self.routes.of(id).collect();
                self.set_routes(id, &[], now);
                self.offer_again(&left, now);
                self.nudge(now);
            }
            None if session.tunnel.remote().is_some() => debug!("link from {} closed: {why}", session.source),
            None if self.damper.tell(Provoked::NotJoined, now) => {
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

    // ---- packets

    /// Handles what the inbox holds for a session, up to the next packet for the hub's own kernel.
    /// `None` asks for more bytes.
    pub fn receive<'a>(
        &mut self,
        session: usize,
        inbox: &'a mut Inbox,
        now: Instant,
    ) -> Option<&'a mut [u8]> {
        loop {
            let entry = &mut self.sessions[session];
            if entry.end.is_some() {
                return None;
            }
            match entry.tunnel.open(inbox, &mut self.pool, now) {
                Ok(Some(Event::Packet(range))) => {
                    match self.forward(session, inbox.bytes(range.clone()), now) {
                        Outcome::Done => {}
                        Outcome::Tun => return Some(inbox.bytes(range)),
                    }
                }
                Ok(Some(Event::Join { key, join })) => self.handle_join(session, key, join, now),
                Ok(Some(Event::Control(control))) => self.handle_control(session, control),
                Ok(None) => {
                    if entry.tunnel.has_greeted() {
                        self.gate.greeted(entry.source.ip(), session);
                    }
                    // The handshake and control frames are answered.
                    if self.sessions[session].tunnel.wants_write() {
                        self.mark_dirty(session);
                    }
                    return None;
                }
                Err(error) => self.end_with(session, End::Broken(error.to_string())),
            }
        }
    }

    /// Sends a packet from a member on its way.
    fn forward(&mut self, session: usize, bytes: &mut [u8], now: Instant) -> Outcome {
        let from = self.sessions[session].member;
        let header = match check(bytes) {
            Ok(header) => header,
            Err(reason) => {
                trace!("{} bytes are not let through: {reason}", bytes.len());
                self.sessions[session].drops.add(reason);
                return Outcome::Done;
            }
        };
        let verdict = router::route(&self.members, &self.routes, &self.lan.subnets, from, &header);
        trace_packet(from.map(|id| self.members.member(id).name.as_str()), &header, verdict);
        let (reason, answer) = match verdict {
            Verdict::Tun => return Outcome::Tun,
            Verdict::Flood if self.sessions[session].flood.take(now) => {
                self.flood(from, bytes, &header, now);
                return Outcome::Tun;
            }
            Verdict::Flood => (Reason::RateLimit, None),
            Verdict::To(to) => match self.receiver(to) {
                Some(to) if self.fits(to, bytes, &header) => {
                    let packet = self.pool.copy(bytes);
                    self.enqueue(to, packet, &header, now);
                    return Outcome::Done;
                }
                Some(to) => match self.too_big(to, bytes, &header, self.hub_address(&header)) {
                    None if self.cut(to, bytes, &header, now) => return Outcome::Done,
                    answer => (Reason::TooBig, answer),
                },
                None => (Reason::Offline, self.unreachable(bytes, &header, self.hub_address(&header))),
            },
            Verdict::Drop(reason @ (Reason::NoRoute | Reason::Offline)) => {
                (reason, self.unreachable(bytes, &header, self.hub_address(&header)))
            }
            Verdict::Drop(reason) => (reason, None),
        };
        let entry = &mut self.sessions[session];
        entry.drops.add(reason);
        if let Some(answer) = answer
            && entry.answers.take(now)
            && let Ok(header) = answer.get(VNET_LEN..).ok_or(Reason::Malformed).and_then(packet::parse)
        {
            let answer = self.pool.copy(&answer);
            self.enqueue(session, answer, &header, now);
        }
        Outcome::Done
    }

    /// Sends a packet from the hub's own kernel (virtio-net header and IP) on its way. What comes back is for
    /// that kernel: the answer to a packet that cannot be delivered.
    pub fn send(&mut self, mut packet: Buf, now: Instant) -> Option<Answer> {
        let header = match check(&mut packet) {
            Ok(header) => header,
            Err(reason) => {
                self.drops.add(reason);
                self.pool.give(packet);
                return None;
            }
        };
        let verdict = router::route(&self.members, &self.routes, &self.lan.subnets, None, &header);
        trace_packet(None, &header, verdict);
        // As if the destination itself answered: the kernel would throw away what comes in from its own address.
        let by = Some(header.destination);
        let dropped = match verdict {
            Verdict::To(to) => match self.receiver(to) {
                Some(to) if self.fits(to, &packet, &header) => {
                    self.enqueue(to, packet, &header, now);
                    return None;
                }
                Some(to) => match self.too_big(to, &packet, &header, by) {
                    None if self.cut(to, &mut packet, &header, now) => None,
                    answer => Some((Reason::TooBig, answer)),
                },
                None => Some((Reason::Offline, self.unreachable(&packet, &header, by))),
            },
            Verdict::Flood if self.flood.take(now) => {
                self.flood(None, &mut packet, &header, now);
                None
            }
            Verdict::Flood => Some((Reason::RateLimit, None)),
            Verdict::Tun => None,
            Verdict::Drop(reason @ (Reason::NoRoute | Reason::Offline)) => {
                Some((reason, self.unreachable(&packet, &header, by)))
            }
            Verdict::Drop(reason) => Some((reason, None)),
        };
        self.pool.give(packet);
        let (reason, answer) = dropped?;
        self.drops.add(reason);
        answer.filter(|_| self.answers.take(now))
    }

    /// Counts a packet that the hub's own device did not take.
    pub fn count_device_drop(&mut self) {
        self.drops.add(Reason::Device);
    }

    /// The session of a member that packets can be sent to.
    fn receiver(&self, to: MemberId) -> Option<usize> {
        self.members.member(to).session.filter(|&session| self.is_live(session))
    }

    /// Whether the receiver takes a packet of this size.
    fn fits(&self, to: usize, bytes: &[u8], header: &Header) -> bool {
        let mtu = self.sessions[to].mtu;
        mtu >= self.lan.mtu as usize || !icmp::exceeds(bytes, header, mtu)
    }

    /// The answer to a packet that is too big for its receiver; none where it may be cut instead.
    fn too_big(&self, to: usize, bytes: &[u8], header: &Header, by: Option<IpAddr>) -> Option<Answer> {
        icmp::too_big(bytes, header, by?, self.broadcast(), self.sessions[to].mtu)
    }

    /// Sends a packet that is too big in fragments; `false` where it may not be cut.
    fn cut(&mut self, to: usize, bytes: &mut [u8], header: &Header, now: Instant) -> bool {
        let mtu = self.sessions[to].mtu;
        let mut scratch = std::mem::take(&mut self.scratch);
        let is_cut = offload::fragment(bytes, header, mtu, &mut scratch, |piece| {
            let piece = self.pool.copy(piece);
            self.enqueue(to, piece, header, now);
        });
        self.scratch = scratch;
        is_cut
    }

    /// The answer to a packet that cannot be delivered.
    fn unreachable(&self, bytes: &[u8], header: &Header, by: Option<IpAddr>) -> Option<Answer> {
        icmp::unreachable(bytes, header, by?, self.broadcast())
    }

    /// The hub's address of the packet's family.
    fn hub_address(&self, header: &Header) -> Option<IpAddr> {
        self.lan.subnets.hub().map(|hub| hub.ip()).find(|hub| hub.is_ipv6() == header.is_ipv6())
    }

    fn broadcast(&self) -> Option<Ipv4Addr> {
        self.lan.subnets.broadcast()
    }

    fn enqueue(&mut self, session: usize, packet: Buf, header: &Header, now: Instant) {
        let flow = header.flow(self.flow_seed);
        self.sessions[session].tunnel.enqueue(packet, flow, &mut self.pool, now);
        self.mark_dirty(session);
    }

    fn flood(&mut self, from: Option<MemberId>, bytes: &mut [u8], header: &Header, now: Instant) {
        for key in 0..self.sessions.capacity() {
            let Some(session) = self.sessions.get(key) else { continue };
            if !session.tunnel.is_open() || session.end.is_some() || session.member == from {
                continue;
            }
            let mut packet = self.pool.copy(bytes);
            if self.fits(key, &packet, header) {
                self.enqueue(key, packet, header, now);
                continue;
            }
            if !self.cut(key, &mut packet, header, now) {
                self.sessions[key].drops.add(Reason::TooBig);
            }
            self.pool.give(packet);
        }
    }

    // ---- joining

    fn handle_join(&mut self, session: usize, key: PublicKey, join: Result<Join, BadFrame>, now: Instant) {
        match join {
            Ok(join) => self.admit(session, key, join, Vec::new(), now),
            Err(BadFrame) => {
                let text = "the join request makes no sense".to_owned();
                self.refuse(session, Refusal::BadRequest, text, now);
            }
        }
    }

    fn admit(
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
            Admission::Member { id, ousted } => {
                for (holder, address) in ousted {
                    self.oust(holder, address, id, now);
                }
                // On an open hub anybody can be new any number of times.
                let tell = !is_new || self.damper.tell(Provoked::Newcomer, now);
                self.sessions[session].told = tell;
                self.welcome(session, id, &join, now);
            }
        }
    }

    fn refuse(&mut self, session: usize, reason: Refusal, text: String, now: Instant) {
        let entry = &mut self.sessions[session];
        if self.damper.tell(Provoked::Refused, now) {
            info!("refused {:?} from {}: {text}", reason, entry.source);
        }
        // It has only just begun: there is room for one frame.
        let _ = entry.tunnel.refuse(reason, text);
        self.end_with(session, End::Farewell("refused"));
    }

    /// Lets a member in, in the place of any other link that it may have.
    fn welcome(&mut self, session: usize, id: MemberId, join: &Join, now: Instant) {
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
        if entry.told && self.member_damper.tell(id, now) {
            info!("{} ({}) is on the LAN, from {}", member.name, member.addresses_text(), entry.source);
        }
        entry.member = Some(id);
        entry.offered.clone_from(&join.routes);
        entry.joined_at = Some(now);
        entry.mtu =
            join.mtu.map_or(usize::MAX, |mtu| mtu.max(tun::MIN_MTU) as usize).min(self.lan.mtu as usize);
        let source = entry.source;
        // A welcome, then a ping, so that the round trip is known from the start.
        if let Err(error) = entry.tunnel.welcome(welcome).and_then(|()| entry.tunnel.ping(now)) {
            self.end_with(session, End::Broken(error.to_string()));
        }
        self.gate.joined(source.ip(), session, now);
        self.timers.set(session, self.sessions[session].tunnel.deadline());
        self.mark_dirty(session);
        self.keep_clear_of(source.ip().to_canonical(), now);
        self.set_routes(id, &routes, now);
        self.tell_all_routes(session, id);
        self.nudge(now);
    }

    // ---- routes

    /// Those of the offered prefixes that a member may offer.
    fn accept_routes(&mut self, id: MemberId, offered: &[IpNetwork], now: Instant) -> Vec<IpNetwork> {
        let mut accepted: Vec<IpNetwork> = Vec::new();
        for &prefix in offered {
            let member = self.members.member(id);
            let granted = self.access == Access::Open || member.routes.contains(&prefix);
            let fit = self.routes.check(prefix, id, &self.lan.subnets, &self.lan.hub_networks);
            match if granted { fit } else { Err(routes::Unfit::NotGranted) } {
                Ok(()) if !accepted.contains(&prefix) => accepted.push(prefix),
                Ok(()) => {}
                Err(unfit) if self.damper.tell(Provoked::BadRoute, now) => {
                    warn!("the route {prefix} of {} is not taken: {unfit}", member.name);
                }
                Err(_) => {}
            }
        }
        if self.access == Access::Open {
            self.members.set_routes(id, &accepted);
        }
        accepted
    }

    /// Makes these the prefixes behind a member, and tells everyone else and the hub's own kernel.
    fn set_routes(&mut self, id: MemberId, prefixes: &[IpNetwork], now: Instant) {
        let (added, removed) = self.routes.set(id, prefixes);
        if added.is_empty() && removed.is_empty() {
            return;
        }
        for &prefix in removed.iter().filter(|prefix| self.kernel_routes.remove(prefix)) {
            self.route_changes.push_back(RouteChange::Removed(prefix));
        }
        for &prefix in &added {
            if let Err(why) = self.check_for_kernel(prefix) {
                if self.damper.tell(Provoked::BadRoute, now) {
                    let name = &self.members.member(id).name;
                    warn!("the hub itself does not reach {prefix} through {name}: {why}");
                }
            } else if self.kernel_routes.insert(prefix) {
                self.route_changes.push_back(RouteChange::Added(prefix));
            }
        }
        let change = Control::Routes { added, removed, all: true };
        for key in 0..self.sessions.capacity() {
            let is_other = |session: &Session| session.tunnel.is_open() && session.member != Some(id);
            if self.sessions.get(key).is_some_and(is_other) {
                self.tell(key, &change);
            }
        }
    }

    /// Whether the hub's own kernel may send what goes to a prefix through the LAN. Spokes choose for themselves;
    /// the hub must not lose the way to its spokes, and on an open hub anyone may offer anything.
    fn check_for_kernel(&self, prefix: IpNetwork) -> Result<(), &'static str> {
        if self.access == Access::Open && !is_private(prefix) {
            return Err("it is not private, and the hub is open");
        }
        if self.sessions.iter().any(|(_, session)| prefix.contains(session.source.ip().to_canonical())) {
            return Err("a spoke's own connection comes from there");
        }
        Ok(())
    }

    /// Has the hub's own kernel no longer reach through the LAN what would hold the outer address of a spoke.
    fn keep_clear_of(&mut self, outer: IpAddr, now: Instant) {
        let over: Vec<_> =
            self.kernel_routes.iter().copied().filter(|prefix| prefix.contains(outer)).collect();
        for prefix in over {
            self.kernel_routes.remove(&prefix);
            if self.damper.tell(Provoked::BadRoute, now) {
                warn!(
                    "the hub itself no longer reaches {prefix} through the LAN: a spoke connects from {outer}"
                );
            }
            self.route_changes.push_back(RouteChange::Removed(prefix));
        }
    }

    /// Takes what others offer, now that these prefixes are free.
    fn offer_again(&mut self, free: &[IpNetwork], now: Instant) {
        if free.is_empty() {
            return;
        }
        for key in 0..self.sessions.capacity() {
            let Some(session) = self.sessions.get(key).filter(|session| session.end.is_none()) else {
                continue;
            };
            let Some(id) = session.member else { continue };
            let has: Vec<IpNetwork> = self.routes.of(id).collect();
            let is_free = |&prefix: &IpNetwork| free.iter().any(|&free| overlap(free, prefix));
            let new =
                session.offered.iter().copied().filter(|prefix| !has.contains(prefix) && is_free(prefix));
            let wanted: Vec<IpNetwork> = has.iter().copied().chain(new).collect();
            if wanted.len() > has.len() {
                let accepted = self.accept_routes(id, &wanted, now);
                self.set_routes(id, &accepted, now);
            }
        }
    }

    /// Tells a new session all prefixes but its own.
    fn tell_all_routes(&mut self, session: usize, id: MemberId) {
        let others = self.routes.iter().filter(|&(_, owner)| owner != Owner::Member(id));
        let prefixes: Vec<IpNetwork> = others.map(|(prefix, _)| prefix).collect();
        let mut parts = prefixes.chunks(MAX_PREFIXES).peekable();
        if parts.peek().is_none() {
            self.tell(session, &Control::Routes { added: vec![], removed: vec![], all: true });
        }
        while let Some(part) = parts.next() {
            let all = parts.peek().is_none();
            self.tell(session, &Control::Routes { added: part.to_vec(), removed: vec![], all });
        }
    }

    /// The next change to the prefixes behind members, for the hub's own kernel.
    pub fn poll_route_change(&mut self) -> Option<RouteChange> {
        self.route_changes.pop_front()
    }

    /// Queues a control frame; a session that does not read what it was told before ends.
    fn tell(&mut self, session: usize, control: &Control) {
        match self.sessions[session].tunnel.control(control) {
            Ok(()) => self.mark_dirty(session),
            Err(error) => self.end_with(session, End::Broken(error.to_string())),
        }
    }

    /// Has those who watch the list of members told that it is another one.
    fn nudge(&mut self, now: Instant) {
        let earliest = self.nudged_at.map_or(now, |at| at + NUDGE_EVERY);
        self.nudge_at.get_or_insert(earliest.max(now));
    }

    /// Asks the holder of an address for a sign of life before another one gets or does not get it.
    fn dispute(&mut self, session: usize, dispute: Dispute, now: Instant) {
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
    fn settle(&mut self, session: usize, now: Instant) {
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
    fn was_heard(&self, id: MemberId, since: Instant) -> bool {
        let session = self.members.member(id).session.map(|session| &self.sessions[session]);
        session.is_some_and(|session| session.tunnel.heard_at() > since || session.joined_at > Some(since))
    }

    /// Tells a member that lost an address, and ends its link: it will join anew.
    fn oust(&mut self, holder: MemberId, address: IpAddr, by: MemberId, now: Instant) {
        let (holder, by) = (self.members.member(holder), self.members.member(by));
        let state = if holder.session.is_some() { "does not answer" } else { "is offline" };
        if self.damper.tell(Provoked::Ousted, now) {
            warn!("{address} goes from {}, who {state}, to {}", holder.name, by.name);
        }
        if let Some(session) = holder.session {
            self.dismiss(session, Farewell::AddressLost, "its address went to another");
        }
    }

    fn handle_control(&mut self, session: usize, control: Control) {
        match control {
            Control::Bye(_) => self.end_with(session, End::Farewell("it said goodbye")),
            Control::AskMembers { after, watch } => {
                self.sessions[session].watches |= watch;
                let members = self.members.after(after.as_ref()).map(|member| Peer {
                    name: member.name.clone(),
                    addresses: member.addresses.clone(),
                    online: member.session.is_some(),
                });
                let mut peers: Vec<Peer> = members.take(MAX_PEERS + 1).collect();
                let last = peers.len() <= MAX_PEERS;
                peers.truncate(MAX_PEERS);
                self.tell(session, &Control::Members { peers, last });
            }
            // The tunnel lets nothing else through to a hub.
            Control::Welcome(_)
            | Control::Refused { .. }
            | Control::Ping(_)
            | Control::Pong(_)
            | Control::Routes { .. }
            | Control::Members { .. }
            | Control::MembersChanged => {}
        }
    }

    // ---- time

    /// When `handle_timeouts` has something to do next.
    pub fn deadline(&self) -> Option<Instant> {
        let dampers = [self.damper.deadline(), self.member_damper.deadline()];
        [self.timers.next(), self.nudge_at].into_iter().chain(dampers).flatten().min()
    }

    /// Pings who is due, ends who is dead, settles disputes.
    pub fn handle_timeouts(&mut self, now: Instant) {
        if self.nudge_at.take_if(|at| *at <= now).is_some() {
            self.nudged_at = Some(now);
            for key in 0..self.sessions.capacity() {
                if self.sessions.get(key).is_some_and(|session| session.watches && session.tunnel.is_open()) {
                    self.tell(key, &Control::MembersChanged);
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

/// Looks at a packet before it is sent on its way.
fn check(packet: &mut [u8]) -> Result<Header, Reason> {
    let header = offload::check(packet)?;
    if icmp::is_neighbour_discovery(packet, &header) { Err(Reason::NeighbourDiscovery) } else { Ok(header) }
}

fn trace_packet(from: Option<&str>, header: &Header, verdict: Verdict) {
    if log_enabled!(log::Level::Trace) {
        trace!("{header} from {}: {verdict:?}", from.unwrap_or("the hub"));
    }
}
