//! One encrypted connection, seen without its socket. Pure.
//!
//! ```text
//! socket ─▶ inbox ─▶ open: handshake │ record ─▶ frame ─▶ event
//! packet ─▶ queue ─▶ seal: frame ─▶ record ─▶ outbox ─▶ socket
//! ```
//! A packet stays plaintext in the queue until the socket will take it: once it is sealed its place in the
//! order of nonces is fixed, and it can be neither dropped nor overtaken.

use std::time::{Duration, Instant};

use crate::queue::Queue;
use crate::queue::pace::{MAX_BURST, Pace};
use crate::queue::{Buf, Pool};
use crate::wire::frame::{self, BadFrame, ControlFrame, Farewell, Join, Refusal, Welcome};
use crate::wire::hello::{UnknownProtocol, hello};
use crate::wire::inbox::{Inbox, Parked};
use crate::wire::key::{PrivateKey, PublicKey};
use crate::wire::noise::{Failed, Handshake, LENGTH_LEN, MAX_RECORD, Opener, Role, Sealer};

mod handshake;

use handshake::{Expect, Step};

/// From the connection to the welcome; nothing extends it.
pub const HANDSHAKE_TIME: Duration = Duration::from_secs(5);
/// How often each end pings.
pub const PING_EVERY: Duration = Duration::from_secs(4);
/// When it first does, after the welcome: both ends mostly are busy till then, with files and with the device, and
/// would count that to the round trip.
const FIRST_PING: Duration = Duration::from_millis(250);
/// An end that was not heard for so long is dead.
pub const DEAD_AFTER: Duration = Duration::from_secs(10);
/// Most bytes that the packets in one tunnel's queue may hold.
pub const QUEUE_BYTES: usize = 3 * 1024 * 1024;
/// Most bytes of control frames that wait to be sealed: an end that does not read gets no more.
const MAX_CONTROL: usize = 256 * 1024;

/// From this length on, in bytes, what is left of a packet is sealed straight from its buffer, as a record of its
/// own: gathered with others it would be copied once more, by either end.
const STRAIGHT: usize = 8 * 1024;

/// What went wrong with a tunnel: its link closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The other end is not one of ours, or of another version.
    UnknownProtocol(UnknownProtocol),
    /// A handshake message was forged, damaged or too long.
    Handshake,
    /// The hub proved another key than the expected one.
    HubKey {
        /// The key it proved.
        seen: PublicKey,
    },
    /// A record was forged, damaged, replayed or out of order.
    Record,
    /// A frame is none of this protocol, or came at the wrong time.
    Frame,
    /// The handshake took longer than [`HANDSHAKE_TIME`].
    TooSlow,
    /// Nothing was heard for [`DEAD_AFTER`].
    Silent,
    /// The other end does not read what it asked for.
    SendBufferFull,
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::UnknownProtocol(stranger) => write!(f, "it {stranger}"),
            Error::Handshake => f.write_str("the handshake failed"),
            Error::HubKey { seen } => write!(f, "it has another key: {seen}"),
            Error::Record => f.write_str("a record was forged or damaged"),
            Error::Frame => f.write_str("a frame made no sense"),
            Error::TooSlow => write!(f, "no handshake within {} s", HANDSHAKE_TIME.as_secs()),
            Error::Silent => write!(f, "nothing heard for {} s", DEAD_AFTER.as_secs()),
            Error::SendBufferFull => f.write_str("it does not read"),
        }
    }
}

impl std::error::Error for Error {}

impl From<Failed> for Error {
    fn from(_: Failed) -> Error {
        Error::Record
    }
}

impl From<BadFrame> for Error {
    fn from(_: BadFrame) -> Error {
        Error::Frame
    }
}

/// What came out of a tunnel.
#[derive(Debug)]
pub enum Event {
    /// To the hub: the spoke with this key asks to join; answer with `welcome` or `refuse`.
    Join {
        /// The key that it proved.
        key: PublicKey,
        /// What it asks for, unless that cannot be read.
        join: Result<Join, BadFrame>,
    },
    /// A packet, virtio-net header and IP, not validated yet.
    Packet(Buf),
    /// Anything else but pings, which the tunnel answers itself.
    Control(ControlFrame),
}

/// What a flush left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flushed {
    /// There is more, and the socket may take it: flush again in the next turn.
    More,
    /// Nothing to do before the socket or the tunnel says so.
    Done,
}

/// Packets and their IP bytes, one way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Packets; a super-packet counts once.
    pub packets: u64,
    /// Bytes of packet, with the virtio-net header.
    pub bytes: u64,
}

impl Traffic {
    fn add(&mut self, len: usize) {
        self.packets += 1;
        self.bytes += len as u64;
    }
}

enum State {
    /// Hub: waits for hello and first message. Spoke: for hello and second message.
    Hello(Handshake, Expect),
    /// Hub: waits for the third message.
    Third(Handshake),
    /// Hub: has to decide. Spoke: waits for the decision.
    Joining,
    /// On the LAN.
    Open,
    /// Has said its last word.
    Closing,
}

struct Transport {
    sealer: Sealer,
    opener: Opener,
    /// The other end's key.
    remote: PublicKey,
}

/// One tunnel, at either end.
pub struct Tunnel {
    role: Role,
    state: State,
    /// Boxed, as most of its memory is that of keys, which a stranger's tunnel does not have.
    transport: Option<Box<Transport>>,
    /// Received, but not a whole record or frame yet.
    parked: Option<Parked>,
    /// The frame of which the header is received, but not the whole body.
    frame: Option<frame::Header>,
    /// Packets that wait.
    queue: Queue,
    /// Control frames that wait; they go ahead of packets.
    control: Vec<u8>,
    /// A packet of which a record already holds the beginning.
    begun: Option<Buf>,
    /// Sealed bytes that the socket did not take yet.
    unsent: Option<Buf>,
    pace: Pace,
    born_at: Instant,
    heard_at: Instant,
    /// When to ping next.
    ping_at: Instant,
    /// The ping that is not answered yet.
    ping: Option<(u64, Instant)>,
    pings: u64,
    round_trip: Option<Duration>,
    received: Traffic,
    sent: Traffic,
}

impl Tunnel {
    /// The hub's end of a connection that was just accepted. `ephemeral`: 32 fresh random bytes.
    pub fn hub(key: &PrivateKey, ephemeral: [u8; 32], now: Instant) -> Tunnel {
        let handshake = Handshake::new(Role::Hub, key, ephemeral);
        Tunnel::new(Role::Hub, State::Hello(handshake, Expect { hub_key: None, join: Vec::new() }), now)
    }

    /// A spoke's end; hello and first message are ready to be sent. Without `hub_key`, any hub will do.
    pub fn spoke(
        key: &PrivateKey,
        ephemeral: [u8; 32],
        hub_key: Option<PublicKey>,
        join: &Join,
        pool: &mut Pool,
        now: Instant,
    ) -> Tunnel {
        let mut handshake = Handshake::new(Role::Spoke, key, ephemeral);
        let mut first = hello().to_vec();
        handshake.write(&[], &mut first).expect("an initiator's first message cannot fail");
        let expect = Expect { hub_key, join: join.encode() };
        let mut tunnel = Tunnel::new(Role::Spoke, State::Hello(handshake, expect), now);
        tunnel.unsent = Some(pool.copy(&first));
        tunnel
    }

    fn new(role: Role, state: State, now: Instant) -> Tunnel {
        Tunnel {
            role,
            state,
            transport: None,
            parked: None,
            frame: None,
            queue: Queue::new(QUEUE_BYTES),
            control: Vec::new(),
            begun: None,
            unsent: None,
            pace: Pace::default(),
            born_at: now,
            heard_at: now,
            ping_at: now,
            ping: None,
            pings: 0,
            round_trip: None,
            received: Traffic::default(),
            sent: Traffic::default(),
        }
    }

    /// Whether packets may flow.
    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Open)
    }

    /// Whether the other end's key is not proved yet.
    pub fn is_half_open(&self) -> bool {
        matches!(self.state, State::Hello(..) | State::Third(_))
    }

    /// Hub: whether the handshake has begun, and waits for its third message.
    pub fn has_greeted(&self) -> bool {
        matches!(self.state, State::Third(_))
    }

    /// The other end's key, once it is proved.
    pub fn remote(&self) -> Option<PublicKey> {
        self.transport.as_ref().map(|transport| transport.remote)
    }

    /// The last round trip of a ping.
    pub fn round_trip(&self) -> Option<Duration> {
        self.round_trip
    }

    /// When anything was last heard.
    pub fn heard_at(&self) -> Instant {
        self.heard_at
    }

    /// Packets that came out, and packets that went in.
    pub fn traffic(&self) -> (Traffic, Traffic) {
        (self.received, self.sent)
    }

    /// The packets that wait.
    pub fn queue(&self) -> &Queue {
        &self.queue
    }

    // ---- receiving

    /// Reads once into the inbox, behind what this tunnel had left there, and returns how many bytes came.
    ///
    /// `read` fills the front of the space that it is given and returns how much it filled; 0 where nothing came,
    /// which is no sign of life. Then [`Tunnel::open`] until it asks for more bytes, and [`Tunnel::park`].
    pub fn fill(
        &mut self,
        inbox: &mut Inbox,
        pool: &mut Pool,
        now: Instant,
        read: impl FnOnce(&mut [u8]) -> usize,
    ) -> usize {
        self.unpark(inbox, pool);
        let len = read(inbox.space());
        if len > 0 {
            inbox.filled(len);
            self.heard(now);
        }
        len
    }

    /// Prepares the inbox for a read of this tunnel's socket.
    pub fn unpark(&mut self, inbox: &mut Inbox, pool: &mut Pool) {
        inbox.unpark(self.parked.take(), pool);
    }

    /// Keeps what is left in the inbox after the last `open`.
    pub fn park(&mut self, inbox: &mut Inbox, pool: &mut Pool) {
        self.parked = inbox.park(pool);
        // Strangers can have many tunnels: they get no more memory than they have sent bytes.
        if self.is_half_open()
            && let Some(parked) = &mut self.parked
        {
            parked.fit(pool);
        }
    }

    /// Tells that a read brought bytes.
    pub fn heard(&mut self, now: Instant) {
        self.heard_at = now;
    }

    /// Takes the next event out of the inbox; `None` asks for more bytes.
    pub fn open(&mut self, inbox: &mut Inbox, pool: &mut Pool, now: Instant) -> Result<Option<Event>, Error> {
        loop {
            if self.is_half_open() {
                match self.shake_hands(inbox, pool)? {
                    Step::Wait => return Ok(None),
                    Step::On => continue,
                    Step::Join { key, join } => return Ok(Some(Event::Join { key, join })),
                }
            }
            let opener = &mut self.transport.as_mut().ok_or(Error::Record)?.opener;
            let header = match self.frame {
                Some(header) => header,
                None => match frame::Header::decode(inbox.opened())? {
                    Some(header) => {
                        inbox.consume_opened(frame::HEADER_LEN);
                        header
                    }
                    None if inbox.open_record(opener)? => continue,
                    None => return Ok(None),
                },
            };
            self.frame = Some(header);
            if header.is_packet() && !matches!(self.state, State::Open) {
                return Err(Error::Frame);
            }
            let Some(body) = inbox.take(header.len, opener, pool)? else { return Ok(None) };
            self.frame = None;
            if header.is_packet() {
                self.received.add(header.len);
                return Ok(Some(Event::Packet(body)));
            }
            let control = ControlFrame::decode(header, &body);
            pool.give(body);
            if let Some(control) = control?
                && let Some(control) = self.handle_control(control, now)?
            {
                return Ok(Some(Event::Control(control)));
            }
        }
    }

    /// Acts on what concerns the tunnel itself, and passes on what the other end may say at this time.
    fn handle_control(&mut self, control: ControlFrame, now: Instant) -> Result<Option<ControlFrame>, Error> {
        match (self.role, &control) {
            (_, ControlFrame::Ping(token)) => {
                self.control(&ControlFrame::Pong(*token))?;
                Ok(None)
            }
            (_, ControlFrame::Pong(token)) => {
                if let Some((_, sent_at)) = self.ping.take_if(|(expected, _)| expected == token) {
                    self.round_trip = Some(now.saturating_duration_since(sent_at));
                }
                Ok(None)
            }
            (Role::Spoke, ControlFrame::Welcome(_)) if matches!(self.state, State::Joining) => {
                self.open_up(now);
                Ok(Some(control))
            }
            (Role::Spoke, ControlFrame::Refused { .. }) if matches!(self.state, State::Joining) => {
                self.state = State::Closing;
                Ok(Some(control))
            }
            (_, ControlFrame::Bye(_)) => {
                self.state = State::Closing;
                Ok(Some(control))
            }
            (
                Role::Spoke,
                ControlFrame::Routes { .. } | ControlFrame::Members { .. } | ControlFrame::MembersChanged,
            ) if self.is_open() => Ok(Some(control)),
            (Role::Hub, ControlFrame::AskMembers { .. }) if self.is_open() => Ok(Some(control)),
            _ => Err(Error::Frame),
        }
    }

    // ---- sending

    /// Writes what the socket takes: what an earlier write left over, then up to one burst of newly sealed bytes.
    ///
    /// `write` returns how many bytes were taken from the front; fewer than it was given says that the socket is
    /// full. Not to be called while the socket is known to be full: packets would be sealed too early to be
    /// dropped or overtaken. `outbox` is one of [`outbox`], for all tunnels.
    ///
    /// # Errors
    /// Where sealing fails; the link closes.
    pub fn flush(
        &mut self,
        outbox: &mut Buf,
        pool: &mut Pool,
        now: Instant,
        mut write: impl FnMut(&[u8]) -> usize,
    ) -> Result<Flushed, Error> {
        if !self.unsent().is_empty() {
            let len = write(self.unsent());
            self.sent(len, pool, now);
            if self.unsent.is_some() {
                return Ok(Flushed::Done);
            }
        }
        outbox.clear();
        self.seal(outbox, pool, now)?;
        if outbox.is_empty() {
            return Ok(Flushed::Done);
        }
        let len = write(outbox);
        self.wrote(outbox, len, pool, now);
        Ok(if self.unsent.is_none() && self.wants_write() { Flushed::More } else { Flushed::Done })
    }

    /// Hub: lets the spoke in.
    pub fn welcome(&mut self, welcome: Welcome, now: Instant) -> Result<(), Error> {
        debug_assert!(matches!(self.state, State::Joining));
        self.open_up(now);
        self.control(&ControlFrame::Welcome(welcome))
    }

    fn open_up(&mut self, now: Instant) {
        self.state = State::Open;
        self.ping_at = now + FIRST_PING;
    }

    /// Hub: turns the spoke away. The link closes once this is flushed.
    pub fn refuse(&mut self, reason: Refusal, text: String) -> Result<(), Error> {
        self.control(&ControlFrame::Refused { reason, text })?;
        self.state = State::Closing;
        Ok(())
    }

    /// Says goodbye, if there is anybody to say it to. The link closes once this is flushed.
    pub fn bye(&mut self, farewell: Farewell) -> Result<(), Error> {
        if self.transport.is_some() {
            self.control(&ControlFrame::Bye(farewell))?;
        }
        self.state = State::Closing;
        Ok(())
    }

    /// Queues a control frame ahead of all packets.
    pub fn control(&mut self, control: &ControlFrame) -> Result<(), Error> {
        if self.control.len() > MAX_CONTROL {
            return Err(Error::SendBufferFull);
        }
        control.encode(&mut self.control);
        Ok(())
    }

    /// The same with a frame that was encoded before, as many tunnels get it.
    pub fn control_encoded(&mut self, frame: &[u8]) -> Result<(), Error> {
        if self.control.len() > MAX_CONTROL {
            return Err(Error::SendBufferFull);
        }
        self.control.extend_from_slice(frame);
        Ok(())
    }

    /// Pings now, whenever the last one was.
    pub fn ping(&mut self, now: Instant) -> Result<(), Error> {
        self.pings += 1;
        self.ping_at = now + PING_EVERY;
        self.ping = Some((self.pings, now));
        // Made anew in a moment, if they are needed: an idle tunnel goes without.
        if let Some(transport) = &mut self.transport {
            transport.sealer.drop_cached_key();
            transport.opener.drop_cached_key();
        }
        self.control(&ControlFrame::Ping(self.pings))
    }

    /// Queues a validated packet of the given flow.
    pub fn enqueue(&mut self, packet: Buf, flow: u32, pool: &mut Pool, now: Instant) {
        debug_assert!(self.is_open());
        self.queue.push(packet, flow, now, pool);
    }

    /// Whether there is anything to write.
    pub fn wants_write(&self) -> bool {
        self.unsent.is_some()
            || self.transport.is_some()
                && !(self.control.is_empty() && self.begun.is_none() && self.queue.is_empty())
    }

    /// Sealed bytes that a write left over: they go first.
    pub fn unsent(&self) -> &[u8] {
        self.unsent.as_deref().unwrap_or_default()
    }

    /// Tells that a write took `len` of `unsent`.
    pub fn sent(&mut self, len: usize, pool: &mut Pool, now: Instant) {
        let Some(mut rest) = self.unsent.take() else { return };
        rest.advance(len);
        if rest.is_empty() {
            pool.give(rest);
            self.pace.took_all(0);
        } else {
            self.unsent = Some(rest);
            self.pace.took_some(len, now);
        }
    }

    /// Seals what may go out in one write, appending records to `outbox`.
    pub fn seal(&mut self, outbox: &mut Buf, pool: &mut Pool, now: Instant) -> Result<(), Error> {
        let Some(transport) = &mut self.transport else { return Ok(()) };
        let sealer = &mut transport.sealer;
        let (burst, record) = (self.pace.burst(), self.pace.record());
        let mut small = pool.take(record);
        while outbox.len() < burst {
            if let Some(packet) = self.begun.take_if(|packet| packet.len() >= STRAIGHT) {
                let len = packet.len().min(record);
                sealer.seal(&packet[..len], outbox)?;
                self.begun = rest(packet, len, pool);
                continue;
            }
            small.clear();
            while small.len() < record {
                let room = record - small.len();
                if let Some(packet) = self.begun.take() {
                    let len = packet.len().min(room);
                    small.append(&packet[..len]);
                    self.begun = rest(packet, len, pool);
                } else if !self.control.is_empty() {
                    let len = self.control.len().min(room);
                    small.append(&self.control[..len]);
                    self.control.drain(..len);
                } else if room < frame::HEADER_LEN {
                    break;
                } else if let Some(packet) = self.queue.pop(now, self.pace.packet(), pool) {
                    self.sent.add(packet.len());
                    small.append(&frame::Header::packet(packet.len()));
                    let is_large = packet.len() >= STRAIGHT;
                    self.begun = Some(packet);
                    if is_large {
                        break;
                    }
                } else {
                    break;
                }
            }
            if small.is_empty() {
                break;
            }
            sealer.seal(&small, outbox)?;
        }
        pool.give(small);
        if self.control.is_empty() {
            self.control = Vec::new();
        }
        if outbox.is_empty() {
            self.pace.idle();
        }
        Ok(())
    }

    /// Tells that a write took `len` of the outbox, and keeps the rest.
    pub fn wrote(&mut self, outbox: &[u8], len: usize, pool: &mut Pool, now: Instant) {
        if len == outbox.len() {
            self.pace.took_all(len);
        } else {
            debug_assert!(self.unsent.is_none());
            self.unsent = Some(pool.copy(&outbox[len..]));
            self.pace.took_some(len, now);
        }
    }

    // ---- time

    /// When `handle_timeout` has something to do next.
    pub fn deadline(&self) -> Instant {
        match self.state {
            State::Open => self.ping_at.min(self.heard_at + DEAD_AFTER),
            State::Hello(..) | State::Third(_) | State::Joining | State::Closing => {
                self.born_at + HANDSHAKE_TIME
            }
        }
    }

    /// Pings when that is due; an error says that the link is dead.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), Error> {
        if !self.is_open() {
            return if now >= self.born_at + HANDSHAKE_TIME { Err(Error::TooSlow) } else { Ok(()) };
        }
        if now >= self.heard_at + DEAD_AFTER {
            return Err(Error::Silent);
        }
        if now >= self.ping_at {
            self.ping(now)?;
        }
        Ok(())
    }

    /// Gives all buffers back.
    pub fn close(&mut self, pool: &mut Pool) {
        self.queue.clear(pool);
        let parked = self.parked.take().map(Parked::into_bytes);
        for buf in [self.begun.take(), self.unsent.take(), parked].into_iter().flatten() {
            pool.give(buf);
        }
        self.state = State::Closing;
    }
}

/// A buffer for [`Tunnel::seal`], empty.
pub fn outbox() -> Buf {
    // The last record may begin one byte short of a whole burst.
    Buf::with_capacity(MAX_BURST + LENGTH_LEN + MAX_RECORD)
}

/// What is left of a packet behind its first `len` bytes.
fn rest(mut packet: Buf, len: usize, pool: &mut Pool) -> Option<Buf> {
    packet.advance(len);
    if packet.is_empty() {
        pool.give(packet);
        return None;
    }
    Some(packet)
}

#[cfg(test)]
mod tests;
