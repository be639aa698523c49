//! The connection to the hub, from the look-up to the link. IO, by what it holds.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use common::node::{link, state};
use common::transport::layers::Layers;
use common::transport::ping::PingLink;
use common::transport::stream::Stream;
use common::transport::tcp;
use mio::net::TcpStream;

use super::ping::PingDial;
use crate::dial::{Dial, Lookup};
use crate::uplink::way::{Trust, Way};

/// How long what is around the tunnel may take to be set up: a proxy connects to the hub meanwhile.
const OPENING_TIME: Duration = Duration::from_secs(15);
/// The same, where there are other ways to try.
const HASTY_OPENING_TIME: Duration = Duration::from_secs(4);

/// The connection to the hub, or the attempt at one.
pub(crate) enum Connection {
    /// Nothing, for now.
    None,
    Lookup(Lookup),
    /// With what is to be spoken then.
    Dial(Dial, Plan),
    Opening(Opening),
    /// Addresses that are pinged.
    Pinging(Box<PingDial>),
    Link(Link),
}

/// What carries the tunnel.
pub(crate) enum Link {
    /// A stream, which is the connection attempt of this number.
    Tcp(Stream, u16),
    Ping(Box<PingLink>),
}

/// What is to be done with a connection once it is there.
pub(crate) struct Plan {
    pub(crate) way: Way,
    /// Whether to give up soon.
    pub(crate) is_hasty: bool,
}

/// A connection on which what is around the tunnel is being set up.
pub(crate) struct Opening {
    pub(crate) stream: Stream,
    /// The connection attempt that it is.
    pub(crate) number: u16,
    /// What it is connected to.
    pub(crate) at: SocketAddr,
    pub(crate) give_up_at: Instant,
}

impl Connection {
    /// When there is something to do without an event.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self {
            Connection::Dial(dial, _) => Some(dial.deadline()),
            Connection::Opening(opening) => Some(opening.give_up_at),
            Connection::Pinging(dial) => Some(dial.deadline()),
            Connection::Link(link) => link.deadline(),
            Connection::None | Connection::Lookup(_) => None,
        }
    }
}

impl Link {
    /// Reads once, as [`link::read`].
    pub(crate) fn read(
        &mut self,
        now: Instant,
        receive: impl FnOnce(&mut dyn FnMut(&mut [u8]) -> usize),
    ) -> io::Result<link::Outcome> {
        match self {
            Link::Tcp(stream, _) => link::read(stream, receive),
            Link::Ping(ping) => {
                let has_more = ping.receive(now);
                let outcome = link::read(&mut **ping, receive)?;
                Ok(if has_more { link::Outcome::More } else { outcome })
            }
        }
    }

    /// When there is something to write without an event.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self {
            Link::Tcp(stream, _) => stream.held_until(),
            Link::Ping(ping) => Some(ping.deadline()),
        }
    }

    /// Writes what there is to be written, as [`link::flush`].
    pub(crate) fn flush<T>(
        &mut self,
        now: Instant,
        flush: impl FnOnce(&mut dyn FnMut(&[u8]) -> usize) -> T,
    ) -> io::Result<Option<T>> {
        match self {
            Link::Tcp(stream, _) => link::flush(stream, now, flush),
            Link::Ping(ping) => {
                let flushed = link::flush(&mut **ping, now, flush);
                ping.send(now);
                flushed
            }
        }
    }
}

impl Opening {
    /// Begins to speak on a connection what this way needs.
    ///
    /// # Errors
    /// Where the socket fails, or what is to be said cannot be.
    pub(crate) fn begin(
        stream: TcpStream,
        number: u16,
        at: SocketAddr,
        plan: &Plan,
        trust: Option<&Trust>,
        now: Instant,
    ) -> io::Result<Opening> {
        let link = tcp::Link::new(stream)?;
        let mut key = [0; 16];
        key.copy_from_slice(&state::random()?[..16]);
        let stream = match plan.way.plan(trust, key).map_err(io::Error::other)? {
            None => Stream::plain(link),
            Some(layers) => Stream::client(link, Layers::client(layers).map_err(io::Error::other)?),
        };
        let time = if plan.is_hasty { HASTY_OPENING_TIME } else { OPENING_TIME };
        Ok(Opening { stream, number, at, give_up_at: now + time })
    }

    /// Goes on; whether the tunnel's bytes may flow.
    ///
    /// # Errors
    /// Why they never will.
    pub(crate) fn go_on(&mut self, now: Instant) -> io::Result<bool> {
        let is_open = self.stream.open()?;
        if !is_open && now >= self.give_up_at {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(is_open)
    }
}
