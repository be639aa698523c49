//! A tunnel's TCP socket. IO.
//!
//! Sockets are edge-triggered: `writable` remembers what the last event said until a write fills the socket.

use std::io::{self, Read as _};
use std::time::{Duration, Instant};

use mio::event::Source;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use socket2::SockRef;

use crate::inbox::Inbox;
use crate::pace::MAX_BURST;
use crate::pool::Pool;
use crate::tunnel::{DEAD_AFTER, Error, Tunnel};

/// What a read said about the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filled {
    /// There may be more.
    More,
    /// Nothing more for now.
    Drained,
    /// The other end closed.
    Closed,
}

/// What a flush left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flushed {
    /// There is more, and the socket may take it: flush again in the next turn.
    More,
    /// Nothing to do before the socket or the tunnel says so.
    Done,
}

/// Why a link closed.
#[derive(Debug)]
pub enum Broken {
    /// The socket failed.
    Io(io::Error),
    /// The tunnel failed.
    Tunnel(Error),
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Broken::Io(error) => error.fmt(f),
            Broken::Tunnel(error) => error.fmt(f),
        }
    }
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Broken {
        Broken::Io(error)
    }
}

impl From<Error> for Broken {
    fn from(error: Error) -> Broken {
        Broken::Tunnel(error)
    }
}

/// The socket of one tunnel.
#[derive(Debug)]
pub struct Link {
    stream: TcpStream,
    writable: bool,
}

impl Link {
    /// Takes a connected stream and sets its options.
    pub fn new(stream: TcpStream) -> io::Result<Link> {
        let socket = SockRef::from(&stream);
        socket.set_tcp_nodelay(true)?;
        socket.set_tcp_user_timeout(Some(DEAD_AFTER + Duration::from_secs(2)))?;
        socket.set_tcp_notsent_lowat(NOTSENT_LOWAT)?;
        Ok(Link { stream, writable: true })
    }

    /// Registers the socket for both directions; its interest never changes.
    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        self.stream.register(registry, token, Interest::READABLE | Interest::WRITABLE)
    }

    /// Tells that the socket was reported writable.
    pub fn set_writable(&mut self) {
        self.writable = true;
    }

    /// Has the close reset the connection: a goodbye that waits behind what nobody acknowledges is never heard.
    pub fn abort(&self) {
        // Where it fails, the other end finds out by itself, later.
        let _ = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
    }

    /// Reads once into the inbox.
    pub fn fill(&mut self, inbox: &mut Inbox) -> io::Result<Filled> {
        let space = inbox.space();
        let room = space.len();
        loop {
            return match self.stream.read(space) {
                Ok(0) => Ok(Filled::Closed),
                Ok(len) => {
                    inbox.filled(len);
                    // A short read has emptied the socket (epoll(7), on edge-triggered streams).
                    Ok(if len == room { Filled::More } else { Filled::Drained })
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Filled::Drained),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
        }
    }

    /// Writes what the socket takes, up to one burst of newly sealed bytes. `outbox` is a scratch buffer.
    pub fn flush(
        &mut self,
        tunnel: &mut Tunnel,
        outbox: &mut Vec<u8>,
        pool: &mut Pool,
        now: Instant,
    ) -> Result<Flushed, Broken> {
        if self.writable && !tunnel.unsent().is_empty() {
            let len = self.write(tunnel.unsent())?;
            tunnel.sent(len, pool, now);
        }
        if !self.writable {
            return Ok(Flushed::Done);
        }
        outbox.clear();
        tunnel.seal(outbox, pool, now)?;
        if outbox.is_empty() {
            return Ok(Flushed::Done);
        }
        let len = self.write(outbox)?;
        tunnel.wrote(outbox, len, pool, now);
        Ok(if self.writable && tunnel.wants_write() { Flushed::More } else { Flushed::Done })
    }

    /// Writes once; a short write means that the socket is full.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            // Without the mark, bytes would be added to the kernel's last unsent segment, up to 64 KiB of it,
            // whatever TCP_NOTSENT_LOWAT says (tcp_sendmsg_locked only asks before it begins a new one).
            return match SockRef::from(&self.stream)
                .send_with_flags(bytes, libc::MSG_EOR | libc::MSG_NOSIGNAL)
            {
                Ok(len) => {
                    self.writable = len == bytes.len();
                    Ok(len)
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.writable = false;
                    Ok(0)
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
        }
    }
}

/// Bytes that the kernel may hold unsent before the socket counts as full: our queue, not the kernel's, is
/// where packets wait.
const NOTSENT_LOWAT: u32 = 4 * 1024;

/// A scratch buffer for `flush`, large enough never to grow.
pub fn outbox() -> Vec<u8> {
    Vec::with_capacity(MAX_BURST + 2 * (crate::noise::MAX_RECORD + crate::noise::LENGTH_LEN))
}
