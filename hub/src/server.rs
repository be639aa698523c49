//! The hub's event loop: its sockets, its device and its clock. IO; all decisions are the switch's.
//!
//! One turn: wait, read the clock once, serve each source that is ready within a budget, do what is due, flush
//! each session that has something to write once, and only then take out the sessions that ended. A source
//! that had more than its budget stays on our own ready list: edge-triggered, it is not reported again.
#![expect(clippy::disallowed_methods, reason = "an IO file: it owns the hub's clock and sockets")]

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::time::{Duration, Instant, SystemTime};

use common::linux::service_manager::ServiceManager;
use common::linux::tun::{self, TURN_BYTES, TURN_PACKETS, Tun};
use common::node::control::{self as socket, ControlSocket};
use common::node::event_loop::{EventLoop, MAX_NUMBER, Ready, Source};
use common::node::state::{self, State};
use common::queue::Buf;
use common::transport::tcp::{Filled, Flushed, Link};
use common::wire::inbox::Inbox;
use common::wire::tunnel::outbox;
use ipnetwork::IpNetwork;
use log::{info, warn};
use mio::net::{TcpListener, UnixStream};
use socket2::{Domain, Protocol, Socket, Type};

use crate::control::About;
use crate::lan::invites::Invites;
use crate::lan::members::{Access, Members};
use crate::lan::subnets::Subnets;
use crate::switch::gate::MAX_SESSIONS;
use crate::switch::{Ended, Lan, LogKind, RouteChange, Switch};

mod admin;

use admin::{INVITES, LOCKED, MEMBERS};

/// The only listener.
const LISTENER: Source = Source::Listener(0);
const _: () = assert!(MAX_SESSIONS <= MAX_NUMBER as usize);
/// Connections that are taken in one turn, so that a flood of them leaves time for members.
const TURN_ACCEPTS: usize = 64;
/// Descriptors that are kept for the hub itself: its device, its files, its control socket.
const OWN_DESCRIPTORS: usize = 40;
/// How long to wait after an accept that failed, for descriptors or memory to come free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Half-open links that are closed then.
const MAKE_ROOM: usize = 16;
/// How often it is told that connections cannot be accepted.
const TELL_EVERY: Duration = Duration::from_secs(60);
/// How long to wait before the files are written again after that failed.
const SAVE_PAUSE: Duration = Duration::from_secs(10);

/// What the command line says.
#[derive(Clone, Debug)]
pub struct Config {
    /// The LAN's prefixes.
    pub subnets: Subnets,
    /// Where to listen; without it, on port 5678 of all addresses.
    pub listen: Option<SocketAddr>,
    /// The device's name.
    pub tun: String,
    /// The LAN's MTU.
    pub mtu: u32,
    /// Prefixes to offer, to which this machine forwards.
    pub routes: Vec<IpNetwork>,
    /// The state directory.
    pub state: std::path::PathBuf,
}

/// Why the hub cannot run. Its text says what to do.
#[derive(Debug)]
pub enum Error {
    /// The state directory.
    State(state::Error),
    /// The device.
    Tun(tun::Error),
    /// The port.
    Listen(SocketAddr, io::Error),
    /// The system.
    System(&'static str, io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::State(error) => error.fmt(f),
            Error::Tun(error) => error.fmt(f),
            Error::Listen(at, error) if error.kind() == io::ErrorKind::AddrInUse => {
                write!(
                    f,
                    "{at} is in use: stop what listens there, or choose another with --listen ADDR:PORT"
                )
            }
            Error::Listen(at, error) => {
                write!(f, "cannot listen on {at}: {error}; choose another with --listen ADDR:PORT")
            }
            Error::System(what, error) => write!(f, "cannot {what}: {error}"),
        }
    }
}

impl std::error::Error for Error {}

impl From<state::Error> for Error {
    fn from(error: state::Error) -> Error {
        Error::State(error)
    }
}

impl From<tun::Error> for Error {
    fn from(error: tun::Error) -> Error {
        Error::Tun(error)
    }
}

/// A running hub.
pub struct Server {
    switch: Switch,
    /// The socket of session `n` is at `n`.
    links: Vec<Option<Link>>,
    listener: TcpListener,
    tun: Tun,
    signals: UnixStream,
    hangups: UnixStream,
    control: Option<ControlSocket>,
    about: About,
    service: ServiceManager,
    /// When this turn began.
    now: Instant,
    /// The time of day then, in Unix seconds.
    unix_time: u64,
    state: State,
    /// What tells whether `members` is as we last read or wrote it.
    members_known: u64,
    events: EventLoop,
    accept_again_at: Option<Instant>,
    accept_told_at: Option<Instant>,
    save_again_at: Option<Instant>,
    inbox: Inbox,
    outbox: Buf,
    /// For packets that the device takes in pieces.
    cut: Vec<u8>,
    dirty: Vec<usize>,
}

impl Server {
    /// Opens everything that the hub needs. A byte on `signals` stops it, one on `hangups` has it read its files
    /// again.
    pub fn new(config: &Config, signals: StdUnixStream, hangups: StdUnixStream) -> Result<Server, Error> {
        let state = State::open(&config.state)?;
        let key = state.key()?;
        let text = state.read(MEMBERS)?.unwrap_or_default();
        let members =
            Members::parse(&text, config.subnets).map_err(|bad| state.damaged(MEMBERS, bad.line, bad.why))?;
        let invites = state.read(INVITES)?.unwrap_or_default();
        let invites = Invites::parse(&invites, config.subnets)
            .map_err(|bad| state.damaged(INVITES, bad.line, bad.why))?;
        let access = if state.read(LOCKED)?.is_some() { Access::Locked } else { Access::Open };
        let (listener, at) = listen(config.listen)?;
        let tun = open_tun(config)?;

        let system = |what| move |error| Error::System(what, error);
        let flow_seed = state::random_u64().map_err(system("get random bytes"))?;
        let lan = Lan {
            subnets: config.subnets,
            mtu: config.mtu,
            routes: config.routes.clone(),
            hub_networks: tun.other_networks()?,
        };
        let mut switch = Switch::new(key, lan, access, members, flow_seed);
        switch.limit_sessions(common::node::cli::raise_descriptor_limit().saturating_sub(OWN_DESCRIPTORS));
        let events = EventLoop::new(1_024).map_err(system("make an event queue"))?;
        let device = tun.name().to_owned();
        let mut server = Server {
            switch,
            links: Vec::new(),
            listener,
            tun,
            signals: UnixStream::from_std(signals),
            hangups: UnixStream::from_std(hangups),
            control: ControlSocket::open(state.path(), events.registry(), "`hub status` and other commands"),
            about: About { listening: at, device, started_at: Instant::now(), trouble: None },
            service: ServiceManager::connect(Instant::now()),
            now: Instant::now(),
            unix_time: unix_time(),
            state,
            members_known: admin::fingerprint(&text),
            events,
            accept_again_at: None,
            accept_told_at: None,
            save_again_at: None,
            inbox: Inbox::default(),
            outbox: outbox(),
            cut: Vec::new(),
            dirty: Vec::new(),
        };
        let events = &server.events;
        events
            .register(&mut server.listener, LISTENER)
            .and_then(|()| events.register(&mut server.tun, Source::Device))
            .and_then(|()| events.register(&mut server.signals, Source::Stop))
            .and_then(|()| events.register(&mut server.hangups, Source::Reload))
            .map_err(system("register with the event queue"))?;
        server.switch.set_unix_time(server.unix_time);
        server.switch.set_invites(invites);
        server.announce();
        server.set_access(access);
        Ok(server)
    }

    /// Says that all is ready.
    fn announce(&self) {
        let (key, About { listening, device, .. }) = (self.switch.key(), &self.about);
        info!("key {key}");
        info!("listening on {listening}; the LAN is {}, on the device {device}", self.switch.lan().subnets);
        info!("to join: spoke --hub HOST:{} --hub-key {key}", listening.port());
    }

    /// Its state directory.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Runs until a signal says stop.
    pub fn run(&mut self) -> Result<(), Error> {
        let mut turn = Vec::new();
        let (subnets, device) = (self.switch.lan().subnets, &self.about.device);
        self.service
            .ready(&format!("listening on {}; the LAN is {subnets}, on {device}", self.about.listening));
        loop {
            let deadline = self.deadline();
            let wait_until = if self.switch.has_dirty() { Some(self.now) } else { deadline };
            let now = self
                .events
                .wait(wait_until, &mut turn)
                .map_err(|error| Error::System("wait for events", error))?;
            self.begin_turn(now);
            for ready in &turn {
                match ready.source {
                    Source::Stop => {
                        self.service.stopping();
                        self.stop(now);
                        return Ok(());
                    }
                    Source::Reload => self.handle_hangup(now),
                    Source::ControlListener | Source::Control(_) => self.serve_control(ready.source, now),
                    Source::Listener(_) => self.accept(now),
                    Source::Device => self.read_device(now),
                    Source::Link(session) => self.serve_link(session as usize, ready, now),
                    // Spokes have these.
                    Source::Waker | Source::Dial(_) => {}
                }
            }
            if deadline.is_some_and(|at| at <= now) {
                self.handle_timeouts(now);
            }
            self.finish_turn(now);
        }
    }

    fn begin_turn(&mut self, now: Instant) {
        self.now = now;
        self.unix_time = unix_time();
        self.switch.set_unix_time(self.unix_time);
    }

    /// What must come last in a turn: nothing goes out before the list of members that it rests on is saved,
    /// and sessions are only taken out when nothing can touch them any more.
    fn finish_turn(&mut self, now: Instant) {
        self.save(now);
        self.flush(now);
        self.reap(now);
        self.set_routes(now);
    }

    /// Has the hub's own kernel reach what is behind members.
    fn set_routes(&mut self, now: Instant) {
        while let Some(change) = self.switch.poll_route_change() {
            let (prefix, what, set) = match change {
                RouteChange::Added(prefix) => (prefix, "installed", self.tun.add_route(prefix, None)),
                RouteChange::Removed(prefix) => (prefix, "withdrawn", self.tun.remove_route(prefix)),
            };
            if self.switch.may_log(LogKind::KernelRoute, now) {
                match set {
                    Ok(()) => info!("route {prefix} {what}"),
                    Err(error) => warn!("route {prefix} not {what}: {error}"),
                }
            }
        }
    }

    /// When `handle_timeouts` has something to do next.
    fn deadline(&self) -> Option<Instant> {
        let control = self.control.as_ref().and_then(ControlSocket::deadline);
        let deadlines = [
            self.switch.deadline(),
            self.accept_again_at,
            self.save_again_at,
            control,
            self.service.deadline(),
        ];
        deadlines.into_iter().flatten().min()
    }

    // ---- sources

    fn accept(&mut self, now: Instant) {
        for _ in 0..TURN_ACCEPTS {
            match self.listener.accept() {
                Ok((stream, source)) => {
                    if let Err(error) = self.take_in(stream, source, now)
                        && self.switch.may_log(LogKind::TurnedAway, now)
                    {
                        warn!("cannot serve {source}: {error}");
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The connection was gone before we took it.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    // Out of descriptors or memory: what waits in the backlog is not reported again.
                    if self.accept_told_at.is_none_or(|told_at| now >= told_at + TELL_EVERY) {
                        warn!("cannot accept connections for now: {error}");
                        self.accept_told_at = Some(now);
                    }
                    // What these held is free at the end of this turn.
                    if (0..MAKE_ROOM).filter(|_| self.switch.make_room(now)).count() > 0 {
                        self.events.again(LISTENER);
                    } else {
                        self.accept_again_at = Some(now + ACCEPT_PAUSE);
                    }
                    return;
                }
            }
        }
        self.events.again(LISTENER);
    }

    fn take_in(&mut self, stream: mio::net::TcpStream, source: SocketAddr, now: Instant) -> io::Result<()> {
        // IPv4 comes in by the socket for both families.
        let source = SocketAddr::new(source.ip().to_canonical(), source.port());
        let mut link = Link::new(stream)?;
        let ephemeral = state::random()?;
        let Some(session) = self.switch.accept(source, ephemeral, now) else {
            if self.switch.may_log(LogKind::TurnedAway, now) {
                info!("turned {source} away: too many links are not authenticated yet");
            }
            return Ok(());
        };
        if let Err(error) = link.register(self.events.registry(), Source::Link(session as u32).token()) {
            self.switch.end(session, error.to_string());
        }
        if self.links.len() <= session {
            self.links.resize_with(session + 1, || None);
        }
        self.links[session] = Some(link);
        Ok(())
    }

    fn read_device(&mut self, now: Instant) {
        let mut bytes = 0;
        for _ in 0..TURN_PACKETS {
            if bytes >= TURN_BYTES {
                break;
            }
            let Some(packet) = self.tun.receive(self.switch.pool()) else { return };
            bytes += packet.len();
            if let Some(answer) = self.switch.send(packet, now) {
                self.deliver(answer);
            }
        }
        self.events.again(Source::Device);
    }

    fn serve_link(&mut self, session: usize, ready: &Ready, now: Instant) {
        let Some(link) = self.links.get_mut(session).and_then(Option::as_mut) else { return };
        if ready.is_writable {
            link.set_writable();
            if self.switch.is_live(session) {
                self.switch.mark_dirty(session);
            }
        }
        if ready.is_closed {
            link.set_ends();
        }
        if ready.is_readable {
            self.read_link(session, now);
        }
    }

    fn read_link(&mut self, session: usize, now: Instant) {
        if !self.switch.is_live(session) {
            return;
        }
        let Some(link) = self.links.get_mut(session).and_then(Option::as_mut) else { return };
        let (tunnel, pool) = self.switch.tunnel(session);
        let filled = link.fill(tunnel, &mut self.inbox, pool, now);
        while let Some(packet) = self.switch.receive(session, &mut self.inbox, now) {
            self.deliver(packet);
        }
        let (tunnel, pool) = self.switch.tunnel(session);
        tunnel.park(&mut self.inbox, pool);
        match filled {
            Ok(Filled::More) => self.events.again(Source::Link(session as u32)),
            Ok(Filled::Drained | Filled::Nothing) => {}
            Ok(Filled::Closed) => self.switch.end(session, "it closed the connection".to_owned()),
            Err(error) => self.switch.end(session, error.to_string()),
        }
    }

    /// Gives a packet to the hub's own kernel.
    fn deliver(&mut self, mut packet: Buf) {
        if self.tun.deliver(&mut packet, &mut self.cut).is_err() {
            self.switch.count_device_drop();
        }
        self.switch.pool().give(packet);
    }

    // ---- the end of a turn

    fn handle_timeouts(&mut self, now: Instant) {
        if self.accept_again_at.is_some_and(|at| at <= now) {
            self.accept_again_at = None;
            self.accept(now);
        }
        if self.save_again_at.is_some_and(|at| at <= now) {
            self.save_again_at = None;
        }
        if let Some(control) = &mut self.control {
            control.handle_timeout(self.events.registry(), now);
        }
        self.service.handle_timeout(now);
        self.switch.handle_timeouts(now);
    }

    fn flush(&mut self, now: Instant) {
        let mut dirty = std::mem::take(&mut self.dirty);
        self.switch.take_dirty(&mut dirty);
        for session in dirty.drain(..) {
            let Some(link) = self.links.get_mut(session).and_then(Option::as_mut) else { continue };
            let (tunnel, pool) = self.switch.tunnel(session);
            match link.flush(tunnel, &mut self.outbox, pool, now) {
                Ok(Flushed::Done) => {}
                Ok(Flushed::More) => self.switch.mark_dirty(session),
                Err(error) => self.switch.end(session, error.to_string()),
            }
        }
        self.dirty = dirty;
    }

    fn reap(&mut self, now: Instant) {
        while let Some(Ended { session, is_silent }) = self.switch.poll_ended(now) {
            let link = self.links.get_mut(session).and_then(Option::take);
            if let Some(link) = link.filter(|_| is_silent) {
                link.abort();
            }
        }
    }

    fn stop(&mut self, now: Instant) {
        info!("stopping");
        self.switch.stop();
        // The last chance to write what could not be written before.
        self.save_again_at = None;
        self.finish_turn(now);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.control.is_some() {
            // One that stays behind is replaced at the next start.
            let _ = self.state.remove(socket::SOCKET);
        }
    }
}

/// Unix seconds.
fn unix_time() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs())
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

fn bind(at: SocketAddr) -> io::Result<TcpListener> {
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

fn open_tun(config: &Config) -> Result<Tun, tun::Error> {
    let tun = Tun::open(&config.tun)?;
    tun.set_mtu(config.mtu)?;
    tun.without_link_local()?;
    for address in config.subnets.hub().chain(config.subnets.hub_link_local()) {
        tun.add_address(address)?;
    }
    tun.up()?;
    Ok(tun)
}
