//! A tunnel's byte stream: a TCP socket, alone or with layers around the tunnel. IO, as `tcp` is.
//!
//! A tunnel on plain TCP goes through none of the code for layers: what it reads and writes is the socket's. A server
//! holds back the first few bytes until they tell what the connection carries.

#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::{Registry, Token};
use rustls::ServerConfig;

use super::layers::{Layers, Stage};
use super::sniff::{Carries, sniff};
use super::tcp::{Filled, Link, TcpInfo};
use crate::wire::hello::HELLO_LEN;

/// Most bytes that layers take from the socket at once.
const MAX_READ: usize = 64 * 1024;
/// As many before they are open: what is said then is short.
const MAX_OPENING_READ: usize = 4 * 1024;

/// What carries one tunnel's bytes.
pub trait Carrier {
    /// Reads once: how many of the tunnel's bytes came, and what that says about the carrier. `space` has room for
    /// [`HELLO_LEN`] bytes at least.
    ///
    /// # Errors
    /// Why nothing more will come.
    fn read(&mut self, space: &mut [u8]) -> io::Result<(usize, Filled)>;

    /// Sends what is around the tunnel's bytes, and tells whether to write those then: they would be taken, and the path
    /// takes more.
    ///
    /// # Errors
    /// Why nothing more can be sent.
    fn may_write(&mut self, now: Instant) -> io::Result<bool>;

    /// Writes once, and returns how many bytes were taken; fewer than there are say that the carrier is full, or not open.
    ///
    /// # Errors
    /// Why nothing more can be sent.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;
}

/// What carries one tunnel by TCP.
#[derive(Debug)]
pub struct Stream {
    link: Link,
    around: Around,
}

/// What is around the tunnel.
#[derive(Debug)]
enum Around {
    Nothing,
    /// A server does not know yet.
    Unknown(Box<First>),
    Layers(Box<Layered>),
}

/// The first bytes of a connection, too few to tell what it carries.
#[derive(Debug)]
struct First {
    bytes: [u8; HELLO_LEN],
    len: usize,
    certificate: Option<Arc<ServerConfig>>,
}

#[derive(Debug)]
struct Layered {
    layers: Layers,
    /// Why the stream ends, once all that came before is read.
    failed: Option<io::Error>,
}

impl Stream {
    /// A tunnel on TCP alone.
    pub fn plain(link: Link) -> Stream {
        Stream { link, around: Around::Nothing }
    }

    /// A client's end, with these layers.
    pub fn client(link: Link, layers: Layers) -> Stream {
        Stream { link, around: Around::Layers(Box::new(Layered { layers, failed: None })) }
    }

    /// A server's end, of which the first bytes will tell what it carries; TLS only where there is a certificate.
    pub fn server(link: Link, certificate: Option<Arc<ServerConfig>>) -> Stream {
        let first = First { bytes: [0; HELLO_LEN], len: 0, certificate };
        Stream { link, around: Around::Unknown(Box::new(first)) }
    }

    /// How far its layers are.
    pub fn stage(&self) -> Stage {
        match &self.around {
            Around::Nothing => Stage::Open,
            Around::Unknown(_) => Stage::Sniff,
            Around::Layers(layered) => layered.layers.stage(),
        }
    }

    /// Registers the socket for both directions; its interest never changes.
    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        self.link.register(registry, token)
    }

    /// Has the socket reported under another token, what is ready now included.
    ///
    /// # Errors
    /// As the kernel has it.
    pub fn reregister(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        self.link.reregister(registry, token)
    }

    /// Takes in what an event said about the socket.
    pub fn set_ready(&mut self, is_writable: bool, is_closed: bool) {
        self.link.set_ready(is_writable, is_closed);
    }

    /// How the kernel sees the connection; `None` where it is too old to tell.
    pub fn info(&self) -> Option<TcpInfo> {
        self.link.info()
    }

    /// Has what is written go out at once: [`Link::hurry`].
    pub fn hurry(&mut self) {
        self.link.hurry();
    }

    /// Has the kernel ask the other end's kernel: [`Link::ask_kernel`].
    ///
    /// # Errors
    /// As the kernel has it.
    pub fn ask_kernel(&self, every: Option<Duration>) -> io::Result<()> {
        self.link.ask_kernel(every)
    }

    /// Has the close reset the connection.
    pub fn abort(&self) {
        self.link.abort();
    }

    /// A client: goes on with setting its layers up, and tells whether the tunnel's bytes may flow. What has come for
    /// the tunnel by then is not reported by an event any more: it is to be read at once.
    pub fn open(&mut self) -> io::Result<bool> {
        match &mut self.around {
            Around::Layers(layered) => layered.open(&mut self.link),
            Around::Nothing => Ok(true),
            Around::Unknown(_) => Ok(false),
        }
    }

    /// Reads a server's first bytes, until they tell what the connection carries.
    fn read_first(&mut self, space: &mut [u8]) -> io::Result<(usize, Filled)> {
        let Around::Unknown(first) = &mut self.around else { return Ok((0, Filled::Nothing)) };
        let room = space.len().min(MAX_READ);
        space[..first.len].copy_from_slice(&first.bytes[..first.len]);
        let (len, filled) = self.link.read(&mut space[first.len..room])?;
        let seen = &space[..first.len + len];
        match sniff(seen) {
            // Fewer bytes than a hello has.
            None => {
                first.bytes[..seen.len()].copy_from_slice(seen);
                first.len = seen.len();
                Ok((0, filled))
            }
            Some(Carries::Tunnel) => {
                let len = seen.len();
                self.around = Around::Nothing;
                Ok((len, filled))
            }
            Some(carries @ (Carries::Tls | Carries::Http)) => {
                let layers = Layers::server(carries, first.certificate.as_ref()).map_err(io::Error::other)?;
                let mut layered = Box::new(Layered { layers, failed: None });
                layered.receive(&mut self.link, seen);
                let read = layered.take(space, filled);
                self.around = Around::Layers(layered);
                read
            }
        }
    }

    /// When to ask [`Carrier::may_write`] again, where the socket has room and the path has none.
    pub fn held_until(&self) -> Option<Instant> {
        self.link.held_until()
    }

    /// Whether the tunnel's bytes would be taken.
    pub fn is_writable(&self) -> bool {
        match &self.around {
            Around::Nothing => self.link.is_writable(),
            Around::Unknown(_) => false,
            Around::Layers(layered) => layered.is_writable(&self.link),
        }
    }
}

impl Carrier for Stream {
    fn read(&mut self, space: &mut [u8]) -> io::Result<(usize, Filled)> {
        match &mut self.around {
            Around::Nothing => self.link.read(space),
            Around::Unknown(_) => self.read_first(space),
            Around::Layers(layered) => layered.read(&mut self.link, space),
        }
    }

    fn may_write(&mut self, now: Instant) -> io::Result<bool> {
        if let Around::Layers(layered) = &mut self.around {
            layered.flush_unsent(&mut self.link)?;
        }
        Ok(self.is_writable() && self.link.may_write(now))
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let bytes = self.link.within_room(bytes);
        match &mut self.around {
            Around::Nothing => self.link.write(bytes),
            // An unauthenticated peer gets no answer.
            Around::Unknown(_) => Ok(0),
            Around::Layers(layered) => layered.write(&mut self.link, bytes),
        }
    }
}

impl Layered {
    fn open(&mut self, link: &mut Link) -> io::Result<bool> {
        let mut space = [0; MAX_OPENING_READ];
        self.flush_unsent(link)?;
        while !self.layers.is_open() {
            let (len, filled) = link.read(&mut space)?;
            self.receive(link, &space[..len]);
            if let Some(error) = self.failed.take() {
                return Err(error);
            }
            match filled {
                Filled::More => {}
                Filled::Drained | Filled::Nothing => break,
                Filled::Closed => {
                    let closed = self.layers.closed().map(io::Error::other);
                    return Err(closed.unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into()));
                }
            }
        }
        Ok(self.layers.is_open())
    }

    fn read(&mut self, link: &mut Link, space: &mut [u8]) -> io::Result<(usize, Filled)> {
        if self.layers.has_plain() || self.failed.is_some() {
            return self.take(space, Filled::More);
        }
        let room = space.len().min(MAX_READ);
        let (len, filled) = link.read(&mut space[..room])?;
        if filled == Filled::Closed
            && let Some(error) = self.layers.closed()
        {
            return Err(io::Error::other(error));
        }
        self.receive(link, &space[..len]);
        self.take(space, filled)
    }

    /// Takes what the socket brought, and sends what is to be answered, the last words included.
    fn receive(&mut self, link: &mut Link, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.failed = self.layers.receive(bytes).err().map(io::Error::other);
        }
        if let Err(error) = self.flush_unsent(link) {
            self.failed.get_or_insert(error);
        }
    }

    /// Passes on what came for the tunnel, and then the reason why nothing more will.
    fn take(&mut self, space: &mut [u8], filled: Filled) -> io::Result<(usize, Filled)> {
        let len = self.layers.read(space);
        match self.failed.take_if(|_| len == 0) {
            Some(error) => Err(error),
            None if self.layers.has_plain() || self.failed.is_some() => Ok((len, Filled::More)),
            None => Ok((len, filled)),
        }
    }

    fn flush_unsent(&mut self, link: &mut Link) -> io::Result<()> {
        while link.is_writable() && !self.layers.unsent().is_empty() {
            let len = link.write(self.layers.unsent())?;
            self.layers.sent(len);
        }
        Ok(())
    }

    fn is_writable(&self, link: &Link) -> bool {
        link.is_writable() && self.layers.unsent().is_empty() && self.layers.is_open()
    }

    fn write(&mut self, link: &mut Link, bytes: &[u8]) -> io::Result<usize> {
        let mut taken = 0;
        self.flush_unsent(link)?;
        while taken < bytes.len() && self.is_writable(link) {
            taken += self.layers.send(&bytes[taken..]).map_err(io::Error::other)?;
            self.flush_unsent(link)?;
        }
        Ok(taken)
    }
}
