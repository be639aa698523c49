//! Tunnels in pings: the pure ends of `icmp`, and the raw sockets that their packets go through. IO.
//!
//! A packet that a socket does not take is lost, as it might be on the way: the user-space TCP sends it again.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Instant;

use mio::{Registry, Token};

use super::icmp::client::{Answers, Client};
use super::icmp::packet::{OF_CLIENT, OF_SERVER};
use super::icmp::server::{Number, Received, Request, Server};
use super::icmp::stack::Stack;
use super::stream::Carrier;
use super::tcp::Filled;
use crate::linux::netlink::Family;
use crate::linux::ping::{Ends, Marks, PingSocket, source_towards};
use crate::packet::echo::{Echo, EchoKind};

/// Replies that a client takes in one turn.
const TURN_REPLIES: usize = 256;

/// The socket that clients' ends of one family share. Whichever reads it takes what came for others, too, and leaves it
/// here: all of them are to be served when the socket is ready, and again where something is left.
pub struct ClientSocket {
    socket: PingSocket,
    left: RefCell<BTreeMap<Tag, Vec<Vec<u8>>>>,
}

/// What the replies for one client's end have: the hub's address, and the identifier.
type Tag = (IpAddr, u16);

impl ClientSocket {
    /// Opens it.
    ///
    /// # Errors
    /// Without CAP_NET_RAW, or where this kernel does not have the family.
    pub fn open(family: Family) -> io::Result<ClientSocket> {
        let socket = PingSocket::open(family, EchoKind::Reply, &marks(OF_SERVER))?;
        Ok(ClientSocket { socket, left: RefCell::default() })
    }

    /// Registers the socket for reading.
    ///
    /// # Errors
    /// As the kernel has it.
    pub fn register(&self, registry: &Registry, token: Token) -> io::Result<()> {
        self.socket.register(registry, token)
    }

    /// Whether somebody has left something that was not taken yet.
    pub fn has_left(&self) -> bool {
        self.left.borrow().values().any(|left| !left.is_empty())
    }

    /// A tag that no other client's end has.
    fn take_tag(&self, (hub, mut identifier): Tag) -> Tag {
        let mut left = self.left.borrow_mut();
        while left.contains_key(&(hub, identifier)) {
            identifier = identifier.wrapping_add(1);
        }
        left.insert((hub, identifier), Vec::new());
        (hub, identifier)
    }

    /// What others took for this one.
    fn take_left(&self, tag: Tag) -> Vec<Vec<u8>> {
        self.left.borrow_mut().get_mut(&tag).map(std::mem::take).unwrap_or_default()
    }

    /// Leaves what is for another one. That of another program, or of an earlier tunnel, is for nobody.
    fn leave(&self, tag: Tag, data: &[u8]) {
        if let Some(left) = self.left.borrow_mut().get_mut(&tag).filter(|left| left.len() < TURN_REPLIES) {
            left.push(data.to_vec());
        }
    }
}

fn marks((magic, kinds): (u32, std::ops::RangeInclusive<u8>)) -> Marks {
    Marks { magic, kinds }
}

/// Reads what a session has.
fn read(stack: &mut Stack, space: &mut [u8]) -> (usize, Filled) {
    match stack.read(space) {
        0 => (0, Filled::Nothing),
        len if stack.can_read() => (len, Filled::More),
        len => (len, Filled::Drained),
    }
}

/// A client's end. Nothing is sent until `send` is called, after each turn in which something was read or written.
pub struct PingLink {
    client: Client,
    socket: Rc<ClientSocket>,
    tag: Tag,
    own: IpAddr,
    /// When this turn began.
    now: Instant,
    deadline: Instant,
    /// Why nothing more will come.
    ended: Option<io::Error>,
    /// The last that the kernel had against a request.
    trouble: Option<io::Error>,
    /// Working space.
    data: Vec<u8>,
    message: Vec<u8>,
}

impl PingLink {
    /// Begins a tunnel to a hub. `random`: fresh randomness.
    ///
    /// # Errors
    /// Where there is no route.
    pub fn begin(
        socket: Rc<ClientSocket>,
        hub: IpAddr,
        random: [u8; 32],
        now: Instant,
    ) -> io::Result<PingLink> {
        let own = source_towards(hub)?;
        let [i0, i1, nonce @ ..] = random;
        let (nonce, seed) = nonce.split_first_chunk().unwrap_or((&[0; 8], &[]));
        let seed = u64::from_ne_bytes(*seed.first_chunk().unwrap_or(&[0; 8]));
        Ok(PingLink {
            client: Client::new(*nonce, seed, now),
            tag: socket.take_tag((hub, u16::from_ne_bytes([i0, i1]))),
            socket,
            own,
            now,
            deadline: now,
            ended: None,
            trouble: None,
            data: Vec::new(),
            message: Vec::new(),
        })
    }

    /// The address of this machine that it sends from.
    pub fn own_address(&self) -> IpAddr {
        self.own
    }

    /// Whether the tunnel's bytes may flow.
    pub fn is_open(&self) -> bool {
        self.client.is_open()
    }

    /// What answered.
    pub fn answers(&self) -> Answers {
        self.client.answers()
    }

    /// The last that the kernel had against a request.
    pub fn trouble(&mut self) -> Option<io::Error> {
        self.trouble.take()
    }

    /// Takes the replies that came; whether there may be more.
    pub fn receive(&mut self, now: Instant) -> bool {
        for data in self.socket.take_left(self.tag) {
            self.take(&data, now);
        }
        let mut data = std::mem::take(&mut self.data);
        let has_more = self.receive_from_socket(&mut data, now);
        self.data = data;
        has_more
    }

    fn take(&mut self, data: &[u8], now: Instant) {
        if let Err(why) = self.client.receive(data, now) {
            self.ended = Some(io::Error::other(why));
        }
    }

    fn receive_from_socket(&mut self, data: &mut Vec<u8>, now: Instant) -> bool {
        for _ in 0..TURN_REPLIES {
            match self.socket.socket.receive_reply(data) {
                Ok(Some((from, echo))) if (from, echo.identifier) == self.tag => self.take(data, now),
                Ok(Some((from, echo))) => self.socket.leave((from, echo.identifier), data),
                Ok(None) => return false,
                Err(error) => self.trouble = Some(error),
            }
        }
        true
    }

    /// Sends what there is to be sent now.
    pub fn send(&mut self, now: Instant) {
        self.client.poll(now);
        while let Some(sequence) = self.client.poll_request(&mut self.data, now) {
            let (hub, identifier) = self.tag;
            let which = (identifier, sequence);
            let sent = self.socket.socket.request(hub, which, &self.data, &mut self.message);
            if let Err(error) = sent.or_else(ignore_full) {
                self.trouble = Some(error);
            }
        }
        self.deadline = self.client.deadline(now);
    }

    /// When there is something to send without an event, as of the last `send`.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }
}

impl Drop for PingLink {
    fn drop(&mut self) {
        self.socket.left.borrow_mut().remove(&self.tag);
    }
}

/// A socket that is full for now loses a packet, as any queue.
fn ignore_full(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::WouldBlock { Ok(()) } else { Err(error) }
}

impl Carrier for PingLink {
    fn read(&mut self, space: &mut [u8]) -> io::Result<(usize, Filled)> {
        match (read(self.client.stack(), space), self.ended.take()) {
            ((0, _), Some(why)) => Err(why),
            (read, ended) => {
                self.ended = ended;
                Ok(read)
            }
        }
    }

    fn may_write(&mut self, now: Instant) -> io::Result<bool> {
        self.now = now;
        Ok(self.client.stack().can_send())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut taken = 0;
        while taken < bytes.len() && self.client.stack().can_send() {
            taken += self.client.stack().send(&bytes[taken..]);
            self.client.poll(self.now);
        }
        Ok(taken)
    }
}

/// A server's end of all tunnels in pings, with a socket for each family.
pub struct PingServer {
    server: Server,
    sockets: Vec<PingSocket>,
    /// Working space.
    data: Vec<u8>,
    message: Vec<u8>,
}

impl PingServer {
    /// Opens the sockets. `random`: fresh randomness; `max_sessions`: most tunnels.
    ///
    /// # Errors
    /// Without CAP_NET_RAW, or where this kernel has neither family.
    pub fn open(random: [u8; 32], max_sessions: usize, now: Instant) -> io::Result<PingServer> {
        let open = |family| PingSocket::open(family, EchoKind::Request, &marks(OF_CLIENT));
        let mut sockets = vec![open(Family::V4)?];
        // A kernel may be without IPv6.
        sockets.extend(open(Family::V6).ok());
        let server = Server::new(random, max_sessions, now);
        Ok(PingServer { server, sockets, data: Vec::new(), message: Vec::new() })
    }

    /// Its sockets, to be registered.
    pub fn sockets(&self) -> &[PingSocket] {
        &self.sockets
    }

    /// Takes the next request from the socket of this number, and where it came from; `None`: no more for now.
    pub fn receive(&mut self, socket: usize, now: Instant) -> Option<(Received, Request)> {
        let socket = self.sockets.get(socket)?;
        // No error of these sockets lasts: they are not connected.
        let (Ends { source, to }, echo) = socket.receive_request(&mut self.data).ok().flatten()?;
        let Echo { identifier, sequence, .. } = echo;
        let request = Request { source, to, identifier, sequence };
        Some((self.server.receive(request, &self.data, now), request))
    }

    /// A tunnel's end.
    pub fn end(&mut self, number: Number, now: Instant) -> PingEnd<'_> {
        PingEnd { server: &mut self.server, number, now }
    }

    /// Forgets a tunnel.
    pub fn close(&mut self, number: Number) {
        self.server.end(number);
    }

    /// Sends what there is to be sent now, as far as there are requests to answer.
    pub fn send(&mut self) {
        while let Some(Request { source, to, identifier, sequence }) = self.server.poll_reply(&mut self.data)
        {
            let family = Family::of(source);
            let echo = Echo { kind: EchoKind::Reply, identifier, sequence };
            if let Some(socket) = self.sockets.iter().find(|socket| socket.family() == family) {
                let sent = socket.reply(Ends { source, to }, echo, &self.data, &mut self.message);
                if let Err(error) = sent.or_else(ignore_full) {
                    log::trace!("a reply to {source} is lost: {error}");
                }
            }
        }
    }

    /// When `handle_timeouts` has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        self.server.deadline()
    }

    /// Lets tunnels act whose time has come.
    pub fn handle_timeouts(&mut self, now: Instant) {
        self.server.handle_timeouts(now);
    }
}

/// A server's end of one tunnel.
pub struct PingEnd<'a> {
    server: &'a mut Server,
    number: Number,
    now: Instant,
}

impl Carrier for PingEnd<'_> {
    fn read(&mut self, space: &mut [u8]) -> io::Result<(usize, Filled)> {
        let Some(stack) = self.server.stack(self.number) else { return Ok((0, Filled::Closed)) };
        let read = read(stack, space);
        // There is room for more now, of which the other end is told.
        self.server.touch(self.number, self.now);
        Ok(read)
    }

    fn may_write(&mut self, now: Instant) -> io::Result<bool> {
        self.now = now;
        Ok(self.server.stack(self.number).is_some_and(|stack| stack.can_send()))
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut taken = 0;
        while let Some(stack) = self.server.stack(self.number).filter(|stack| stack.can_send())
            && taken < bytes.len()
        {
            taken += stack.send(&bytes[taken..]);
            self.server.touch(self.number, self.now);
        }
        Ok(taken)
    }
}
