//! What is spoken around the tunnel on a new connection, until the tunnel's bytes may flow. IO.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::net::TcpStream;

use super::state;
use super::way::{Trust, Way};
use crate::transport::layers::Layers;
use crate::transport::stream::Stream;
use crate::transport::tcp;
use crate::transport::tls::files::{self, FileError};

/// How long what is around the tunnel may take to be set up: a proxy connects to the hub meanwhile.
const OPENING_TIME: Duration = Duration::from_secs(15);
/// The same, where there are other ways to try.
const HASTY_OPENING_TIME: Duration = Duration::from_secs(4);

/// What is to be done with a connection once it is there.
pub struct Plan {
    /// The way that it goes.
    pub way: Way,
    /// Whether to give up soon.
    pub is_hasty: bool,
}

/// A connection on which what is around the tunnel is being set up.
pub struct Opening {
    /// The connection, and the layers on it.
    pub stream: Stream,
    /// The connection attempt that it is.
    pub number: u16,
    /// What it is connected to.
    pub at: SocketAddr,
    /// Until when they are to be set up.
    pub give_up_at: Instant,
}

/// Reads whose certificates are trusted: before the process is confined, as it cannot read them then.
///
/// # Errors
/// Where the file, or the system, has none.
pub fn trust(authorities: Option<&Path>) -> Result<Trust, FileError> {
    let tls = files::client(authorities, None)?;
    let mut https = (*tls).clone();
    https.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Trust { tls, https: Arc::new(https) })
}

impl Opening {
    /// Begins to speak on a connection what this way needs.
    ///
    /// # Errors
    /// Where the socket fails, or what is to be said cannot be.
    pub fn begin(
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
    pub fn go_on(&mut self, now: Instant) -> io::Result<bool> {
        let is_open = self.stream.open()?;
        if !is_open && now >= self.give_up_at {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(is_open)
    }
}
