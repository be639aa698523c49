//! One read and one write of what carries a tunnel, for both programs. IO, by its [`Carrier`].
//!
//! The core opens and seals; the socket's state, and that of the layers around the tunnel, stays with the [`Carrier`].

use std::io;
use std::time::Instant;

use crate::transport::ping::PingLink;
use crate::transport::stream::{Carrier, Stream};
use crate::transport::tcp::Filled;

/// What carries a tunnel from the end that made the connection.
pub enum Link {
    /// A stream.
    Tcp(Stream),
    /// Pings.
    Ping(Box<PingLink>),
}

impl Link {
    /// Reads once, as [`read`].
    ///
    /// # Errors
    /// As [`read`].
    pub fn read(
        &mut self,
        now: Instant,
        receive: impl FnOnce(&mut dyn FnMut(&mut [u8]) -> usize),
    ) -> io::Result<Outcome> {
        match self {
            Link::Tcp(stream) => read(stream, receive),
            Link::Ping(ping) => {
                let has_more = ping.receive(now);
                let outcome = read(&mut **ping, receive)?;
                Ok(if has_more { Outcome::More } else { outcome })
            }
        }
    }

    /// When there is something to write without an event.
    pub fn deadline(&self) -> Option<Instant> {
        match self {
            Link::Tcp(stream) => stream.held_until(),
            Link::Ping(ping) => Some(ping.deadline()),
        }
    }

    /// Writes what there is to be written, as [`flush`].
    ///
    /// # Errors
    /// As [`flush`].
    pub fn flush<T>(
        &mut self,
        now: Instant,
        flush: impl FnOnce(&mut dyn FnMut(&[u8]) -> usize) -> T,
    ) -> io::Result<Option<T>> {
        match self {
            Link::Tcp(stream) => self::flush(stream, now, flush),
            Link::Ping(ping) => {
                let flushed = self::flush(&mut **ping, now, flush);
                ping.send(now);
                flushed
            }
        }
    }
}

/// What a read left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// There may be more: the source is to be served again in the next turn.
    More,
    /// Nothing more for now.
    Drained,
}

/// Reads once: `receive` is the core's, and gets what fills its space.
///
/// # Errors
/// Why the link closed: [`io::ErrorKind::UnexpectedEof`] where the other end closed it. What came before it is received
/// all the same.
pub fn read(
    carrier: &mut impl Carrier,
    receive: impl FnOnce(&mut dyn FnMut(&mut [u8]) -> usize),
) -> io::Result<Outcome> {
    let mut filled = Ok(Filled::Nothing);
    receive(&mut |space| match carrier.read(space) {
        Ok((len, said)) => {
            filled = Ok(said);
            len
        }
        Err(error) => {
            filled = Err(error);
            0
        }
    });
    match filled {
        Ok(Filled::More) => Ok(Outcome::More),
        Ok(Filled::Drained | Filled::Nothing) => Ok(Outcome::Drained),
        Ok(Filled::Closed) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it closed the connection")),
        Err(error) => Err(error),
    }
}

/// Writes until the socket is full or a burst is out: `flush` is the core's, and gets what takes its bytes. Returns what
/// the core says; `None` where the socket or the path is full, and nothing was to be sealed.
///
/// # Errors
/// Where the socket failed, or what is around the tunnel.
pub fn flush<T>(
    carrier: &mut impl Carrier,
    now: Instant,
    flush: impl FnOnce(&mut dyn FnMut(&[u8]) -> usize) -> T,
) -> io::Result<Option<T>> {
    if !carrier.may_write(now)? {
        return Ok(None);
    }
    let mut failed = None;
    let flushed = flush(&mut |bytes| match carrier.write(bytes) {
        Ok(len) => len,
        Err(error) => {
            failed = Some(error);
            0
        }
    });
    match failed {
        Some(error) => Err(error),
        None => Ok(Some(flushed)),
    }
}
