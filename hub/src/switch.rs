//! The LAN's switch: tunnels, members and what goes between them. Pure: the server gives it bytes and the time.
//!
//! A session is a tunnel and what the hub knows about who is behind it. The server keeps its socket under the
//! same key. Sessions that end are only marked, and taken out at the end of the turn by `poll_ended`, so that
//! keys stay valid within a turn.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use common::drops::{Drops, Reason};
use common::frame::{BadFrame, Control, Farewell, Join, MAX_PEERS, Peer, Refusal, Welcome};
use common::inbox::Inbox;
use common::noise::{PrivateKey, PublicKey};
use common::offload;
use common::packet::{self, Header, VNET_LEN};
use common::pool::{Buf, Pool};
use common::timer::Timers;
use common::tunnel::{Event, Tunnel};
use log::{debug, info, log_enabled, trace, warn};
use slab::Slab;

use crate::gate::{Gate, Tell, Verdict as Admittance};
use crate::members::{Access, Admission, MemberId, Members};
use crate::router::{self, Verdict};
use crate::subnets::Subnets;

/// How long the holder of a disputed address has to answer.
pub const DISPUTE_TIME: Duration = Duration::from_secs(2);
/// Unused buffers that the hub keeps.
const SPARE_BYTES: usize = 8 * 1024 * 1024;

/// What the LAN is, as the command line says it.
#[derive(Clone, Copy, Debug)]
pub struct Lan {
    /// Its prefixes.
    pub subnets: Subnets,
    /// The largest packet on it, in bytes of IP.
    pub mtu: u32,
}

/// Why a session ends.
#[derive(Debug)]
enum End {
    /// The other end left, or we told it to go: what is queued still goes out.
    Farewell(&'static str),
    /// Something is wrong with it.
    Broken(String),
}

/// A wish for an address whose holder was asked for a sign of life.
struct Dispute {
    key: PublicKey,
    join: Join,
    holder: MemberId,
    asked_at: Instant,
}

struct Session {
    tunnel: Tunnel,
    source: SocketAddr,
    member: Option<MemberId>,
    joined_at: Option<Instant>,
    dispute: Option<Box<Dispute>>,
    drops: Drops,
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
}

impl Switch {
    /// A switch with nobody on it. `flow_seed`: random, so that flows cannot be aimed at each other.
    pub fn new(key: PrivateKey, lan: Lan, access: Access, members: Members, flow_seed: u64) -> Switch {
        Switch {
            key,
            lan,
            access,
            members,
            sessions: Slab::new(),
            gate: Gate::default(),
            timers: Timers::default(),
            pool: Pool::new(SPARE_BYTES),
            flow_seed,
            dirty: Vec::new(),
            ended: Vec::new(),
            drops: Drops::default(),
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
            dispute: None,
            drops: Drops::default(),
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
    pub fn poll_ended(&mut self, now: Instant) -> Option<usize> {
        let key = self.ended.pop()?;
        let mut session = self.sessions.remove(key);
        self.timers.clear(key);
        let source = session.source.ip();
        let tell = if session.member.is_some() {
            self.gate.left(source, now);
            Tell::Nothing
        } else {
            self.gate.failed(source, key, now)
        };
        let why = match &session.end {
            Some(End::Farewell(why)) => *why,
            Some(End::Broken(why)) => why.as_str(),
            None => "it ended",
        };
        match session.member.filter(|&id| self.members.member(id).session == Some(key)) {
            Some(id) => {
                let member = self.members.member_mut(id);
                member.session = None;
                member.seen_at = Some(now);
                info!("{} ({}) left the LAN: {why}", member.name, member.addresses_text());
            }
            None if session.tunnel.remote().is_some() => debug!("link from {} closed: {why}", session.source),
            None => match tell {
                Tell::First => info!("link from {} closed before it joined: {why}", session.source),
                Tell::Count(count) => {
                    info!(
                        "link from {} closed before it joined: {why} ({count} of its kind)",
                        session.source
                    );
                }
                Tell::Nothing => debug!("link from {} closed before it joined: {why}", session.source),
            },
        }
        session.tunnel.close(&mut self.pool);
        Some(key)
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
                    if self.forward(session, inbox.bytes(range.clone()), now) {
                        return Some(inbox.bytes(range));
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

    /// Sends a packet from a member on its way; `true` if it is for the hub's own kernel too.
    fn forward(&mut self, session: usize, bytes: &mut [u8], now: Instant) -> bool {
        let from = self.sessions[session].member;
        let header = match offload::check(bytes) {
            Ok(header) => header,
            Err(reason) => {
                trace!("{} bytes that are no packet: {reason}", bytes.len());
                self.sessions[session].drops.add(reason);
                return false;
            }
        };
        let verdict = router::route(&self.members, &self.lan.subnets, from, &header);
        trace_packet(from.map(|id| self.members.member(id).name.as_str()), &header, verdict);
        match verdict {
            Verdict::To(to) => {
                let packet = self.pool.copy(bytes);
                self.deliver(to, packet, &header, now);
                false
            }
            Verdict::Flood => {
                self.flood(from, bytes, &header, now);
                true
            }
            Verdict::Tun => true,
            Verdict::Drop(reason) => {
                self.sessions[session].drops.add(reason);
                false
            }
        }
    }

    /// Sends a packet from the hub's own kernel (virtio-net header and IP) on its way.
    pub fn send(&mut self, mut packet: Buf, now: Instant) {
        let verdict = match packet.get(VNET_LEN..).ok_or(Reason::Malformed).and_then(packet::parse) {
            Ok(header) => {
                let verdict = router::route(&self.members, &self.lan.subnets, None, &header);
                trace_packet(None, &header, verdict);
                match verdict {
                    Verdict::To(to) => return self.deliver(to, packet, &header, now),
                    Verdict::Flood => self.flood(None, &mut packet, &header, now),
                    Verdict::Tun | Verdict::Drop(_) => {}
                }
                verdict
            }
            Err(reason) => Verdict::Drop(reason),
        };
        if let Verdict::Drop(reason) = verdict {
            self.drops.add(reason);
        }
        self.pool.give(packet);
    }

    /// Counts a packet that the hub's own device did not take.
    pub fn count_device_drop(&mut self) {
        self.drops.add(Reason::Device);
    }

    fn deliver(&mut self, to: MemberId, packet: Buf, header: &Header, now: Instant) {
        let Some(session) = self.members.member(to).session.filter(|&session| self.is_live(session)) else {
            return self.pool.give(packet);
        };
        let flow = header.flow(self.flow_seed);
        self.sessions[session].tunnel.enqueue(packet, flow, &mut self.pool, now);
        self.mark_dirty(session);
    }

    fn flood(&mut self, from: Option<MemberId>, bytes: &mut [u8], header: &Header, now: Instant) {
        let flow = header.flow(self.flow_seed);
        for key in 0..self.sessions.capacity() {
            let Some(session) = self.sessions.get_mut(key) else { continue };
            if session.tunnel.is_open() && session.end.is_none() && session.member != from {
                let packet = self.pool.copy(bytes);
                session.tunnel.enqueue(packet, flow, &mut self.pool, now);
                self.mark_dirty(key);
            }
        }
    }

    // ---- joining

    fn handle_join(&mut self, session: usize, key: PublicKey, join: Result<Join, BadFrame>, now: Instant) {
        match join {
            Ok(join) => self.admit(session, key, join, false, now),
            Err(BadFrame) => {
                self.refuse(session, Refusal::BadRequest, "the join request makes no sense".to_owned());
            }
        }
    }

    fn admit(&mut self, session: usize, key: PublicKey, join: Join, uncontested: bool, now: Instant) {
        match self.members.admit(key, &join, self.access, uncontested) {
            Admission::Refused(reason, text) => self.refuse(session, reason, text),
            Admission::Dispute(holder) => self.dispute(session, key, join, holder, now),
            Admission::Member { id, ousted } => {
                for (holder, address) in ousted {
                    self.oust(holder, address, id);
                }
                self.welcome(session, id, now);
            }
        }
    }

    fn refuse(&mut self, session: usize, reason: Refusal, text: String) {
        let entry = &mut self.sessions[session];
        info!("refused {:?} from {}: {text}", reason, entry.source);
        // It has only just begun: there is room for one frame.
        let _ = entry.tunnel.refuse(reason, text);
        self.end_with(session, End::Farewell("refused"));
    }

    /// Lets a member in, in the place of any other link that it may have.
    fn welcome(&mut self, session: usize, id: MemberId, now: Instant) {
        if let Some(old) = self.members.member(id).session {
            self.dismiss(old, Farewell::Replaced, "the same key joined again");
        }
        let member = self.members.member_mut(id);
        member.session = Some(session);
        let addresses = member.addresses.iter().filter_map(|&address| self.lan.subnets.with_prefix(address));
        let welcome = Welcome {
            name: member.name.clone(),
            addresses: addresses.collect(),
            hub: self.lan.subnets.hub().map(|hub| hub.ip()).collect(),
            mtu: self.lan.mtu,
        };
        let entry = &mut self.sessions[session];
        info!("{} ({}) is on the LAN, from {}", member.name, member.addresses_text(), entry.source);
        entry.member = Some(id);
        entry.joined_at = Some(now);
        let source = entry.source;
        // A welcome, then a ping, so that the round trip is known from the start.
        if let Err(error) = entry.tunnel.welcome(welcome).and_then(|()| entry.tunnel.ping(now)) {
            self.end_with(session, End::Broken(error.to_string()));
        }
        self.gate.joined(source.ip(), session, now);
        self.timers.set(session, self.sessions[session].tunnel.deadline());
        self.mark_dirty(session);
    }

    /// Asks the holder of an address for a sign of life before another one gets or does not get it.
    fn dispute(&mut self, session: usize, key: PublicKey, join: Join, holder: MemberId, now: Instant) {
        let Some(held_by) = self.members.member(holder).session else { return };
        debug!(
            "{} asks for an address of {}",
            self.sessions[session].source,
            self.members.member(holder).name
        );
        if let Err(error) = self.sessions[held_by].tunnel.ping(now) {
            self.end_with(held_by, End::Broken(error.to_string()));
        }
        self.mark_dirty(held_by);
        self.sessions[session].dispute = Some(Box::new(Dispute { key, join, holder, asked_at: now }));
        // Looked at again soon, as the answer of a living holder is a matter of a round trip.
        self.timers.set(session, now + DISPUTE_TIME / 40);
    }

    /// Settles a dispute if the holder was heard since, or if its time is over.
    fn settle(&mut self, session: usize, now: Instant) {
        let Some(dispute) = self.sessions[session].dispute.take() else { return };
        let holder = self.members.member(dispute.holder).session;
        let heard = holder.is_some_and(|holder| self.sessions[holder].tunnel.heard_at() > dispute.asked_at);
        if !heard && now < dispute.asked_at + DISPUTE_TIME {
            self.timers.set(session, now + DISPUTE_TIME / 40);
            self.sessions[session].dispute = Some(dispute);
            return;
        }
        if heard {
            let address = dispute.join.addresses.iter().copied();
            let held = address.clone().find(|&address| self.members.holder(address) == Some(dispute.holder));
            if let Some(address) = held {
                let (reason, text) = self.members.held(dispute.holder, address);
                return self.refuse(session, reason, text);
            }
        }
        let Dispute { key, join, .. } = *dispute;
        self.admit(session, key, join, !heard, now);
    }

    /// Tells a member that lost an address, and ends its link: it will join anew.
    fn oust(&mut self, holder: MemberId, address: IpAddr, by: MemberId) {
        let (holder, by) = (self.members.member(holder), self.members.member(by));
        warn!("{address} goes from {}, who does not answer, to {}", holder.name, by.name);
        if let Some(session) = holder.session {
            self.dismiss(session, Farewell::AddressLost, "its address went to another");
        }
    }

    fn handle_control(&mut self, session: usize, control: Control) {
        match control {
            Control::Bye(_) => self.end_with(session, End::Farewell("it said goodbye")),
            Control::AskMembers { after } => {
                let members = self.members.after(after.as_ref()).map(|member| Peer {
                    name: member.name.clone(),
                    addresses: member.addresses.clone(),
                    online: member.session.is_some(),
                });
                let mut peers: Vec<Peer> = members.take(MAX_PEERS + 1).collect();
                let last = peers.len() <= MAX_PEERS;
                peers.truncate(MAX_PEERS);
                if let Err(error) = self.sessions[session].tunnel.control(&Control::Members { peers, last }) {
                    self.end_with(session, End::Broken(error.to_string()));
                }
            }
            // The tunnel lets nothing else through to a hub.
            Control::Welcome(_)
            | Control::Refused { .. }
            | Control::Ping(_)
            | Control::Pong(_)
            | Control::Routes { .. }
            | Control::Members { .. } => {}
        }
    }

    // ---- time

    /// When `handle_timeouts` has something to do next.
    pub fn deadline(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Pings who is due, ends who is dead, settles disputes.
    pub fn handle_timeouts(&mut self, now: Instant) {
        while let Some(key) = self.timers.pop(now) {
            if !self.is_live(key) {
                continue;
            }
            self.settle(key, now);
            if let Err(error) = self.sessions[key].tunnel.handle_timeout(now) {
                self.end_with(key, End::Broken(error.to_string()));
                continue;
            }
            if self.sessions[key].tunnel.wants_write() {
                self.mark_dirty(key);
            }
            let deadline = self.sessions[key].tunnel.deadline();
            self.timers.set(key, deadline);
        }
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

fn trace_packet(from: Option<&str>, header: &Header, verdict: Verdict) {
    if log_enabled!(log::Level::Trace) {
        trace!("{header} from {}: {verdict:?}", from.unwrap_or("the hub"));
    }
}
