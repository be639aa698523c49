//! One encrypted connection, seen without its socket. Pure.
//!
//! ```text
//! socket ─▶ inbox ─▶ open: handshake │ record ─▶ frame ─▶ event
//! packet ─▶ queue ─▶ seal: frame ─▶ record ─▶ outbox ─▶ socket
//! ```
//! A packet stays plaintext in the queue until the socket will take it: once it is sealed its place in the
//! order of nonces is fixed, and it can be neither dropped nor overtaken.

use std::time::Instant;

use crate::queue::{Buf, Pool, Queue};
use crate::wire::frame::{self, BadFrame, ControlFrame, Farewell, Join, Refusal, Welcome};
use crate::wire::hello::{UnknownProtocol, hello};
use crate::wire::inbox::{Inbox, Parked};
use crate::wire::key::{PrivateKey, PublicKey};
use crate::wire::lane::{Binding, Proof};
use crate::wire::noise::Role;

mod control;
mod error;
mod handshake;
mod lane;
mod liveness;
mod outbound;
mod settling;
mod traffic;
mod watching;

pub use error::Error;
pub use liveness::{DEAD_AFTER, HANDSHAKE_TIME, PING_EVERY, WATCHFUL_PING_EVERY, Watch};
pub use outbound::{QUEUE_BYTES, outbox};
pub use traffic::Traffic;

use handshake::{Greeting, Step, Transport};
use liveness::Liveness;
use outbound::{LANE_QUEUE_BYTES, Outbound};
use settling::Settling;

/// Output of a tunnel.
#[derive(Debug)]
pub enum Event {
    /// To the hub: the spoke with this key asks to join; answer with `welcome` or `refuse`.
    Join {
        /// The key that it proved.
        key: PublicKey,
        /// What it asks for, unless that cannot be read.
        join: Result<Join, BadFrame>,
    },
    /// To the hub: this connection is to be a lane of a session of this key; answer with `attached` or `refuse`.
    Attach {
        /// The key that it proved.
        key: PublicKey,
        /// What it shows,
        proof: Proof,
        /// for this handshake.
        binding: Binding,
    },
    /// A packet, virtio-net header and IP, not validated yet.
    Packet(Buf),
    /// Anything else but pings, which the tunnel answers itself.
    Control(ControlFrame),
}

/// The state after a flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flushed {
    /// There is more, and the socket may take it: flush again in the next turn.
    More,
    /// Nothing to do until the socket is writable or something is queued.
    Done,
}

enum State {
    /// The other end's key is not proved yet.
    Handshake(Greeting),
    /// Hub: has to decide. Spoke: waits for the decision.
    Joining,
    /// The same for as long as a person takes: both ends ping.
    Pending,
    /// On the LAN.
    Open,
    /// Spoke: waits until the hub takes it for a lane.
    Attaching,
    /// A lane: packets flow, and nothing is said about the LAN.
    Lane,
    /// The last frame was queued or received; the link closes.
    Closing,
}

/// The outcome of one step of the handshake.
enum Shaken {
    /// More bytes are needed.
    Wait,
    /// The handshake went on.
    On,
    /// Hub: the spoke asks to join.
    Join { key: PublicKey, join: Result<Join, BadFrame> },
    /// Hub: the spoke asks to attach a lane.
    Attach { key: PublicKey, proof: Proof, binding: Binding },
}

/// One tunnel, at either end.
pub struct Tunnel {
    role: Role,
    state: State,
    /// Spoke: the join request, encoded, if it is to go out as soon as the hub has proved its key.
    join: Option<Vec<u8>>,
    /// Boxed, as most of its memory is that of keys, which a tunnel without authentication does not have.
    transport: Option<Box<Transport>>,
    /// Received, but not a whole record or frame yet.
    parked: Option<Parked>,
    /// The frame of which the header is received, but not the whole body.
    frame: Option<frame::Header>,
    outbound: Outbound,
    liveness: Liveness,
    /// Whether both ends are hubs.
    is_between_hubs: bool,
    /// Packets that came out.
    received: Traffic,
    settling: Settling,
}

impl Tunnel {
    /// The hub's end of a connection that was just accepted. `ephemeral`: 32 fresh random bytes.
    pub fn hub(key: &PrivateKey, ephemeral: [u8; 32], now: Instant) -> Tunnel {
        Tunnel::new(Role::Hub, Greeting::hub(key, ephemeral), now)
    }

    /// A spoke's end, which joins once the hub has proved its key; hello and first message are ready to be sent. Without
    /// `hub_key`, any hub will do.
    pub fn spoke(
        key: &PrivateKey,
        ephemeral: [u8; 32],
        hub_key: Option<PublicKey>,
        join: &Join,
        pool: &mut Pool,
        now: Instant,
    ) -> Tunnel {
        let mut tunnel = Tunnel::knocking(key, ephemeral, hub_key.as_slice(), pool, now);
        tunnel.join_once_proved(join);
        tunnel
    }

    /// A spoke's end that has the hub prove one of these keys, or any if there are none, and joins by [`Tunnel::join`].
    pub fn knocking(
        key: &PrivateKey,
        ephemeral: [u8; 32],
        hub_keys: &[PublicKey],
        pool: &mut Pool,
        now: Instant,
    ) -> Tunnel {
        let (greeting, first) = Greeting::spoke(key, ephemeral, hub_keys);
        let mut tunnel = Tunnel::new(Role::Spoke, greeting, now);
        tunnel.outbound.unsent = Some(pool.copy(&first));
        tunnel
    }

    fn new(role: Role, greeting: Greeting, now: Instant) -> Tunnel {
        Tunnel {
            role,
            state: State::Handshake(greeting),
            join: None,
            transport: None,
            parked: None,
            frame: None,
            outbound: Outbound::new(),
            liveness: Liveness::new(role == Role::Hub, now),
            is_between_hubs: false,
            received: Traffic::default(),
            settling: Settling::default(),
        }
    }

    /// Whether packets may flow.
    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Open | State::Lane)
    }

    /// Whether the other end's key is not proved yet.
    pub fn is_half_open(&self) -> bool {
        matches!(self.state, State::Handshake(_))
    }

    /// Hub: whether the handshake has begun, and waits for its third message.
    pub fn has_greeted(&self) -> bool {
        matches!(&self.state, State::Handshake(greeting) if greeting.has_greeted())
    }

    /// The other end's key, once it is proved.
    pub fn remote(&self) -> Option<PublicKey> {
        if let State::Handshake(greeting) = &self.state {
            return greeting.proved();
        }
        self.transport.as_ref().map(|transport| transport.remote)
    }

    /// Spoke: asks to be let in as soon as the hub has proved its key.
    pub fn join_once_proved(&mut self, join: &Join) {
        self.join = Some(join.encode());
    }

    /// Spoke: asks to be let in, once the hub has proved its key, and no sooner.
    pub fn join(&mut self, join: &Join, pool: &mut Pool) -> Result<(), Error> {
        self.ask(&join.encode(), pool)
    }

    fn ask(&mut self, request: &[u8], pool: &mut Pool) -> Result<(), Error> {
        let state = std::mem::replace(&mut self.state, State::Closing);
        let State::Handshake(greeting) = state else { return Err(Error::Handshake) };
        let (transport, third) = greeting.ask(request)?;
        // The other end sent its message after it got our last one, so all of that is sent.
        debug_assert!(self.outbound.unsent.is_none());
        self.outbound.unsent = Some(pool.copy(&third));
        self.join_with(transport);
        Ok(())
    }

    /// Packets that came out, and packets that went in.
    pub fn traffic(&self) -> (Traffic, Traffic) {
        (self.received, self.outbound.traffic)
    }

    /// The packets that wait.
    pub fn queue(&self) -> &Queue {
        &self.outbound.queue
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
        // Unauthenticated peers can have many tunnels: each gets no more memory than it has sent bytes.
        if self.is_half_open()
            && let Some(parked) = &mut self.parked
        {
            parked.fit(pool);
        }
    }

    /// Notes that a read brought bytes.
    pub fn heard(&mut self, now: Instant) {
        self.liveness.heard(now);
    }

    /// Takes the next event out of the inbox; `None` asks for more bytes.
    pub fn open(&mut self, inbox: &mut Inbox, pool: &mut Pool, now: Instant) -> Result<Option<Event>, Error> {
        loop {
            if self.is_half_open() {
                match self.shake_hands(inbox, pool)? {
                    Shaken::Wait => return Ok(None),
                    Shaken::On => continue,
                    Shaken::Join { key, join } => return Ok(Some(Event::Join { key, join })),
                    Shaken::Attach { key, proof, binding } => {
                        return Ok(Some(Event::Attach { key, proof, binding }));
                    }
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
            if header.is_packet() && !matches!(self.state, State::Open | State::Lane) {
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

    /// Takes one step of the handshake.
    fn shake_hands(&mut self, inbox: &mut Inbox, pool: &mut Pool) -> Result<Shaken, Error> {
        let State::Handshake(greeting) = &self.state else { return Err(Error::Handshake) };
        let message = match greeting.next_message(inbox.sealed()) {
            Ok(Some(message)) => message,
            Ok(None) => return Ok(Shaken::Wait),
            Err(error) => {
                // The hello tells a spoke of another version which one this hub has.
                let is_version = matches!(error, Error::UnknownProtocol(UnknownProtocol::Version(_)));
                if self.role == Role::Hub && is_version {
                    self.outbound.unsent = Some(pool.copy(&hello()));
                }
                return Err(error);
            }
        };
        // An error leaves it closing.
        let state = std::mem::replace(&mut self.state, State::Closing);
        let State::Handshake(greeting) = state else { return Err(Error::Handshake) };
        let (shaken, answer) = match greeting.read(&inbox.sealed()[message.clone()])? {
            Step::Second(greeting, answer) => {
                self.state = State::Handshake(greeting);
                (Shaken::On, answer)
            }
            Step::Proved(greeting) => {
                self.state = State::Handshake(greeting);
                if let Some(join) = self.join.take() {
                    self.ask(&join, pool)?;
                }
                (Shaken::On, Vec::new())
            }
            Step::Join(transport, join) => {
                let key = transport.remote;
                self.join_with(transport);
                (Shaken::Join { key, join }, Vec::new())
            }
            Step::Attach(transport, proof, binding) => {
                let key = transport.remote;
                self.join_with(transport);
                (Shaken::Attach { key, proof, binding }, Vec::new())
            }
        };
        if !answer.is_empty() {
            // The other end sent this message after it got our last one, so all of that is sent.
            debug_assert!(self.outbound.unsent.is_none());
            self.outbound.unsent = Some(pool.copy(&answer));
        }
        inbox.consume_sealed(message.end);
        Ok(shaken)
    }

    fn join_with(&mut self, transport: Box<Transport>) {
        self.transport = Some(transport);
        self.state = State::Joining;
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
            if self.outbound.unsent.is_some() {
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
        Ok(if self.outbound.unsent.is_none() && self.wants_write() { Flushed::More } else { Flushed::Done })
    }

    /// Hub: lets the spoke in.
    pub fn welcome(&mut self, welcome: Welcome, now: Instant) -> Result<(), Error> {
        debug_assert!(self.is_asking());
        self.open_up(now);
        self.control(&ControlFrame::Welcome(welcome))
    }

    /// Hub: has the spoke wait until a person decides, if it does not wait already.
    pub fn hold(&mut self, now: Instant) -> Result<(), Error> {
        let is_told = matches!(self.state, State::Pending);
        self.wait(now);
        if is_told { Ok(()) } else { self.control(&ControlFrame::Pending) }
    }

    fn wait(&mut self, now: Instant) {
        self.state = State::Pending;
        self.liveness.opened(now);
    }

    /// Whether the spoke asks to join and is not answered.
    fn is_asking(&self) -> bool {
        matches!(self.state, State::Joining | State::Pending)
    }

    fn open_up(&mut self, now: Instant) {
        self.state = State::Open;
        self.liveness.opened(now);
    }

    /// Hub: refuses the spoke. The link closes once this is flushed.
    pub fn refuse(&mut self, reason: Refusal, text: String) -> Result<(), Error> {
        self.control(&ControlFrame::Refused { reason, text })?;
        self.state = State::Closing;
        Ok(())
    }

    /// Queues a goodbye, if the handshake is finished. The link closes once it is flushed.
    pub fn bye(&mut self, farewell: Farewell) -> Result<(), Error> {
        if self.transport.is_some() {
            self.control(&ControlFrame::Bye(farewell))?;
        }
        self.state = State::Closing;
        Ok(())
    }

    /// Queues a control frame ahead of all packets.
    pub fn control(&mut self, control: &ControlFrame) -> Result<(), Error> {
        self.outbound.control(control)
    }

    /// Bytes of control frames that wait.
    pub fn waiting_control(&self) -> usize {
        self.outbound.control.len()
    }

    /// The same with a frame that was encoded before, as many tunnels get it.
    pub fn control_encoded(&mut self, frame: &[u8]) -> Result<(), Error> {
        self.outbound.control_encoded(frame)
    }

    /// Queues a validated packet of the given flow.
    pub fn enqueue(&mut self, packet: Buf, flow: u32, pool: &mut Pool, now: Instant) {
        debug_assert!(self.is_open());
        self.liveness.sends();
        self.outbound.queue.push(packet, flow, now, pool);
    }

    /// Takes the packets that wait out, with what their queue has counted.
    pub fn take_queue(&mut self) -> Queue {
        std::mem::replace(&mut self.outbound.queue, Queue::new(QUEUE_BYTES))
    }

    /// Takes over the packets that waited in another tunnel of the same machine.
    pub fn set_queue(&mut self, queue: Queue) {
        debug_assert!(self.outbound.queue.is_empty());
        self.outbound.queue = queue;
    }

    /// Whether packets wait although the socket takes bytes, as it is in doubt that the other end is there. Those that
    /// waited start anew when that is over.
    pub fn hold_packets(&mut self, is_held: bool, now: Instant, pool: &mut Pool) {
        if std::mem::replace(&mut self.outbound.is_held, is_held) && !is_held {
            self.outbound.queue.carry_over(now, pool);
        }
    }

    /// Drops a batch of the packets that wait, by [`Queue::drop_batch`].
    pub fn drop_batch(&mut self, pool: &mut Pool) {
        self.outbound.queue.drop_batch(pool);
    }

    /// Whether there is anything to write.
    pub fn wants_write(&self) -> bool {
        self.outbound.unsent.is_some() || self.transport.is_some() && self.outbound.is_waiting()
    }

    /// Sealed bytes that a write left over: they go first.
    pub fn unsent(&self) -> &[u8] {
        self.outbound.unsent.as_deref().unwrap_or_default()
    }

    /// Notes that a write took `len` of `unsent`.
    pub fn sent(&mut self, len: usize, pool: &mut Pool, now: Instant) {
        self.outbound.sent(len, pool, now);
    }

    /// Seals what may go out in one write, appending records to `outbox`.
    pub fn seal(&mut self, outbox: &mut Buf, pool: &mut Pool, now: Instant) -> Result<(), Error> {
        let is_open = self.is_open();
        let Some(transport) = &mut self.transport else { return Ok(()) };
        self.outbound.seal(is_open, &mut transport.sealer, outbox, pool, now)
    }

    /// Notes that a write took `len` of the outbox, and keeps the remainder.
    pub fn wrote(&mut self, outbox: &[u8], len: usize, pool: &mut Pool, now: Instant) {
        self.outbound.wrote(outbox, len, pool, now);
    }

    /// Gives all buffers back.
    pub fn close(&mut self, pool: &mut Pool) {
        self.outbound.clear(pool);
        if let Some(parked) = self.parked.take() {
            pool.give(parked.into_bytes());
        }
        self.state = State::Closing;
    }
}

#[cfg(test)]
mod tests;
