//! What carries the sessions: a TCP socket each, and the raw sockets that tunnels in pings share. IO.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use common::node::event_loop::{EventLoop, Ready, Source};
use common::node::link::{self, Outcome};
use common::node::state;
use common::queue::tcp_info::TcpInfo;
use common::transport::icmp::server::{Number, Received};
use common::transport::ping::PingServer;
use common::transport::stream::Stream;

use crate::ids::SessionId;

/// Most tunnels in pings: each has buffers of its own for 128 KiB.
const MAX_PING_SESSIONS: usize = 1_024;

/// The links of the sessions.
#[derive(Default)]
pub(super) struct Links {
    /// That of session `n` is at `n`.
    links: Vec<Option<Link>>,
    /// The sessions of this turn that are to be flushed.
    pub(super) dirty: Vec<SessionId>,
    /// Those whose path had no room, and when to try them again.
    held: BTreeSet<SessionId>,
    held_until: Option<Instant>,
    /// Tunnels in pings, if they are served, and whose they are.
    pings: Option<PingServer>,
    by_ping: HashMap<Number, SessionId>,
    /// Those that go to other hubs in pings: they are served together, when a reply to any of them came.
    pub(super) pinging: BTreeSet<SessionId>,
}

/// What carries one session.
enum Link {
    Own(link::Link),
    /// A tunnel in pings that came.
    Served(Number),
}

/// What a ping brought.
pub(super) enum Pinged {
    /// A new tunnel, and where it comes from: its port is the identifier of its pings.
    Began(Number, SocketAddr),
    /// There may be something to read for a session, or room to write.
    Ready(SessionId),
    /// It concerns nobody.
    Nothing,
}

impl Links {
    /// Serves tunnels in pings from now on.
    ///
    /// # Errors
    /// Without CAP_NET_RAW.
    pub(super) fn serve_pings(&mut self, events: &EventLoop, now: Instant) -> io::Result<()> {
        let pings = PingServer::open(state::random()?, MAX_PING_SESSIONS, now)?;
        for (number, socket) in (0..).zip(pings.sockets()) {
            socket.register(events.registry(), Source::Ping(number).token())?;
        }
        self.pings = Some(pings);
        Ok(())
    }

    pub(super) fn serves_pings(&self) -> bool {
        self.pings.is_some()
    }

    pub(super) fn insert(&mut self, session: SessionId, link: link::Link) {
        if matches!(link, link::Link::Ping(_)) {
            self.pinging.insert(session);
        }
        self.put(session, Link::Own(link));
    }

    pub(super) fn insert_ping(&mut self, session: SessionId, number: Number) {
        self.by_ping.insert(number, session);
        self.put(session, Link::Served(number));
    }

    fn put(&mut self, session: SessionId, link: Link) {
        if self.links.len() <= session.index() {
            self.links.resize_with(session.index() + 1, || None);
        }
        self.links[session.index()] = Some(link);
    }

    /// Closes a link; `is_silent`: what waits to be sent is not.
    pub(super) fn close(&mut self, session: SessionId, is_silent: bool) {
        self.pinging.remove(&session);
        match self.links.get_mut(session.index()).and_then(Option::take) {
            Some(Link::Own(link::Link::Tcp(stream))) if is_silent => stream.abort(),
            Some(Link::Own(_)) | None => {}
            Some(Link::Served(number)) => self.close_ping(number),
        }
    }

    /// Closes a tunnel in pings, which may have no session.
    pub(super) fn close_ping(&mut self, number: Number) {
        self.by_ping.remove(&number);
        if let Some(pings) = &mut self.pings {
            pings.close(number);
        }
    }

    fn stream(&mut self, session: SessionId) -> Option<&mut Stream> {
        match self.links.get_mut(session.index())?.as_mut()? {
            Link::Own(link::Link::Tcp(stream)) => Some(stream),
            Link::Own(link::Link::Ping(_)) | Link::Served(_) => None,
        }
    }

    /// What reports that there is something to read for a session.
    pub(super) fn source(&self, session: SessionId) -> Source {
        if self.pinging.contains(&session) { Source::Replies(0) } else { source_of(session) }
    }

    /// Takes in what an event said about a session's socket.
    pub(super) fn set_ready(&mut self, session: SessionId, ready: &Ready) {
        if let Some(stream) = self.stream(session) {
            stream.set_ready(ready.is_writable, ready.is_closed);
        }
    }

    /// How the kernel sees a session's connection.
    pub(super) fn info(&mut self, session: SessionId) -> Option<TcpInfo> {
        self.stream(session)?.info()
    }

    /// Has what is written to a session's socket go out at once.
    pub(super) fn hurry(&mut self, session: SessionId) {
        if let Some(stream) = self.stream(session) {
            stream.hurry();
        }
    }

    /// Takes the next ping from a socket; `None`: no more for now.
    pub(super) fn receive_ping(&mut self, socket: u16, now: Instant) -> Option<Pinged> {
        let (received, request) = self.pings.as_mut()?.receive(socket.into(), now)?;
        Some(match received {
            Received::Accepted(number) => {
                Pinged::Began(number, SocketAddr::new(request.source, request.identifier))
            }
            Received::Ready(number) => {
                self.by_ping.get(&number).map_or(Pinged::Nothing, |&session| Pinged::Ready(session))
            }
            Received::Nothing | Received::Handled => Pinged::Nothing,
        })
    }

    /// Reads once for a session, as [`link::read`].
    pub(super) fn read(
        &mut self,
        session: SessionId,
        now: Instant,
        receive: impl FnOnce(&mut dyn FnMut(&mut [u8]) -> usize),
    ) -> io::Result<Outcome> {
        let link = self.links.get_mut(session.index()).and_then(Option::as_mut);
        match (link, &mut self.pings) {
            (Some(Link::Own(link)), _) => link.read(now, receive),
            (Some(Link::Served(number)), Some(pings)) => link::read(&mut pings.end(*number, now), receive),
            (Some(Link::Served(_)), None) | (None, _) => Ok(Outcome::Drained),
        }
    }

    /// Writes for a session, as [`link::flush`].
    pub(super) fn flush(
        &mut self,
        session: SessionId,
        now: Instant,
        flush: impl FnOnce(&mut dyn FnMut(&[u8]) -> usize),
    ) -> io::Result<()> {
        let link = self.links.get_mut(session.index()).and_then(Option::as_mut);
        match (link, &mut self.pings) {
            (Some(Link::Own(link)), _) => {
                let flushed = link.flush(now, flush);
                if let link::Link::Tcp(stream) = link
                    && let Some(at) = stream.held_until()
                {
                    self.held.insert(session);
                    self.held_until.get_or_insert(at);
                }
                flushed.map(drop)
            }
            (Some(Link::Served(number)), Some(pings)) => {
                link::flush(&mut pings.end(*number, now), now, flush).map(drop)
            }
            (Some(Link::Served(_)), None) | (None, _) => Ok(()),
        }
    }

    /// Sends the pings that were written in this turn.
    pub(super) fn send_pings(&mut self) {
        if let Some(pings) = &mut self.pings {
            pings.send();
        }
    }

    /// When `handle_timeouts` has something to do.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let pings = self.pings.as_ref().and_then(PingServer::deadline);
        let replies = self.pinging.iter().filter_map(|&session| self.ping_deadline(session)).min();
        [self.held_until, pings, replies].into_iter().flatten().min()
    }

    /// When there is something to send in a session that goes to another hub in pings.
    fn ping_deadline(&self, session: SessionId) -> Option<Instant> {
        match self.links.get(session.index())?.as_ref()? {
            Link::Own(link @ link::Link::Ping(_)) => link.deadline(),
            Link::Own(link::Link::Tcp(_)) | Link::Served(_) => None,
        }
    }

    /// Does what is due. Returns the sessions to be flushed: those whose path may have room again, and those that ping.
    pub(super) fn handle_timeouts(&mut self, now: Instant) -> BTreeSet<SessionId> {
        if let Some(pings) = &mut self.pings {
            pings.handle_timeouts(now);
        }
        let mut due = match self.held_until.take_if(|at| *at <= now) {
            Some(_) => std::mem::take(&mut self.held),
            None => BTreeSet::new(),
        };
        let is_due = |session: &SessionId| self.ping_deadline(*session).is_some_and(|at| at <= now);
        due.extend(self.pinging.iter().copied().filter(is_due));
        due
    }
}

/// What a session's socket is reported as.
pub(super) fn source_of(session: SessionId) -> Source {
    Source::Link(session.index() as u32)
}
