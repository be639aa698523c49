//! The listening sockets. IO.
#![expect(clippy::disallowed_methods, reason = "an IO file: it owns the listening sockets")]

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use log::warn;
use mio::net::{TcpListener, TcpStream};
use socket2::{Domain, Protocol, Socket, Type};

use super::config::Error;

/// How long to wait after an accept that failed, for descriptors or memory to come free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often it is logged that connections cannot be accepted.
const LOG_EVERY: Duration = Duration::from_secs(60);

/// A listening socket, and what went wrong with it.
pub(super) struct Listener {
    pub(super) socket: TcpListener,
    again_at: Option<Instant>,
    logged_at: Option<Instant>,
}

/// What accepting led to.
pub(super) enum Accepted {
    /// A connection.
    Connection(TcpStream, SocketAddr),
    /// None waits.
    Nothing,
    /// Descriptors or memory are used up: what waits in the backlog is not reported again.
    Exhausted,
}

impl Listener {
    /// Listens on the given addresses, or on port 5678 of all addresses of both families.
    pub(super) fn open(at: &[SocketAddr]) -> Result<(Vec<Listener>, Vec<SocketAddr>), Error> {
        let places = if at.is_empty() { vec![None] } else { at.iter().copied().map(Some).collect() };
        places
            .into_iter()
            .map(|place| {
                let (socket, at) = listen(place)?;
                Ok((Listener { socket, again_at: None, logged_at: None }, at))
            })
            .collect()
    }

    /// Takes the next connection.
    pub(super) fn accept(&mut self, now: Instant) -> Accepted {
        loop {
            return match self.socket.accept() {
                // IPv4 comes in by the socket for both families.
                Ok((stream, source)) => {
                    Accepted::Connection(stream, SocketAddr::new(source.ip().to_canonical(), source.port()))
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Accepted::Nothing,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // The connection was gone before we took it.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(error) => {
                    if self.logged_at.is_none_or(|logged_at| now >= logged_at + LOG_EVERY) {
                        warn!("cannot accept connections for now: {error}");
                        self.logged_at = Some(now);
                    }
                    Accepted::Exhausted
                }
            };
        }
    }

    /// Has it tried again in a while.
    pub(super) fn pause(&mut self, now: Instant) {
        self.again_at = Some(now + ACCEPT_PAUSE);
    }

    /// When the pause is over.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.again_at
    }

    /// Whether the pause is over now.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        self.again_at.take_if(|at| *at <= now).is_some()
    }
}

/// Listens on the given address, or on port 5678 of all addresses of both families.
fn listen(at: Option<SocketAddr>) -> Result<(TcpListener, SocketAddr), Error> {
    const PORT: u16 = 5678;
    let any = SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, PORT));
    let tried = at.unwrap_or(any);
    let bound = match (bind(tried), at) {
        // IPv6 is off in this kernel.
        (Err(error), None)
            if matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)) =>
        {
            bind((Ipv4Addr::UNSPECIFIED, PORT).into())
        }
        (bound, _) => bound,
    };
    let listener = bound.map_err(|error| Error::Listen(tried, error))?;
    let at = listener.local_addr().map_err(|error| Error::Listen(tried, error))?;
    Ok((listener, at))
}

/// Listens there.
pub(super) fn bind(at: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    if at.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // A hub that restarts must not wait for the connections of the one before.
    socket.set_reuse_address(true)?;
    socket.bind(&at.into())?;
    socket.listen(1_024)?;
    Ok(TcpListener::from_std(socket.into()))
}
