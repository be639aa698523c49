//! The spoke's shell: its socket, its device, its files and its clock. IO; all decisions are the uplink's.
#![expect(clippy::disallowed_methods, reason = "an IO file: it owns the spoke's clock and device")]

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::linux::service_manager::ServiceManager;
use common::linux::surroundings;
use common::linux::tun;
use common::node::control::{self as socket, ControlSocket};
use common::node::dial::{Dial, Lookup, Translation, time_to_dial};
use common::node::event_loop::{EventLoop, Ready, Source};
use common::node::link::{self, Link};
use common::node::names::server::NameServer;
use common::node::names::zone::{NameTable, Zone};
use common::node::opening::{Opening, Plan, trust};
use common::node::request::{decode, encode};
use common::node::state::{self, State};
use common::node::synced_file::SyncedFile;
use common::node::way::{Trust, Way};
use common::queue::Buf;
use common::transport::tls::files::FileError;
use common::wire::tunnel::Flushed;
use log::{debug, log, warn};
use mio::Waker;
use mio::net::UnixStream;

use crate::control::{About, Request};
use crate::uplink::trial::Outcome;
use crate::uplink::{self, Attempt, Effect, MAX_TRIALS, Notice, Uplink, hosts};

pub(crate) mod connection;
pub(crate) mod machine;
mod reach;
mod remembered;

use common::node::ping_dial::{PingDial, Pings};
use connection::{Connection, Connections};
use machine::Machine;

pub use remembered::HUBS;

/// Which way to the hub worked in which network, in the state directory.
const WAYS: &str = "ways";

/// How often the link is looked at, at most.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What the command line says.
#[derive(Clone, Debug)]
pub struct Config {
    /// The settings of the uplink.
    pub uplink: uplink::Config,
    /// Whose TLS certificates are trusted, if not those whom the system trusts.
    pub tls_ca: Option<PathBuf>,
    /// The device's name.
    pub tun: String,
    /// A file in the format of hosts(5), kept in step with the members.
    pub hosts: Option<PathBuf>,
    /// The zone of names to answer for.
    pub zone: Option<Zone>,
}

/// Why the spoke cannot run, or may not join. Its text says what to do.
#[derive(Debug)]
pub enum Error {
    /// The state directory.
    State(state::Error),
    /// The certificates to trust.
    Tls(FileError),
    /// The device.
    Tun(tun::Error),
    /// The raw sockets, without which there is no way.
    Ping(io::Error),
    /// The LAN.
    Uplink(uplink::Error),
    /// The system.
    System(&'static str, io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::State(error) => error.fmt(f),
            Error::Tls(error) => error.fmt(f),
            Error::Tun(error) => error.fmt(f),
            Error::Ping(error) => write!(f, "cannot go by pings: {error}"),
            Error::Uplink(error) => error.fmt(f),
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

impl From<FileError> for Error {
    fn from(error: FileError) -> Error {
        Error::Tls(error)
    }
}

impl From<tun::Error> for Error {
    fn from(error: tun::Error) -> Error {
        Error::Tun(error)
    }
}

/// A running spoke.
pub struct Client {
    uplink: Uplink,
    connections: Connections,
    trust: Option<Trust>,
    /// Where a way goes by pings.
    pings: Option<Pings>,
    machine: Machine,
    hosts: Option<SyncedFile>,
    names: Option<(NameServer, NameTable)>,
    state: State,
    config: Config,
    control: Option<ControlSocket>,
    about: About,
    service: ServiceManager,
    signals: UnixStream,
    events: EventLoop,
    waker: Arc<Waker>,
    /// When the link is looked at next.
    look_at: Instant,
    /// For packets that the device takes in pieces.
    scratch: Vec<u8>,
}

impl Client {
    /// Opens everything that the spoke needs. A byte on `signals` stops it.
    pub fn new(config: Config, state: State, signals: StdUnixStream) -> Result<Client, Error> {
        let key = state.key()?;
        let text = state.read(HUBS)?.unwrap_or_default();
        let mut known =
            remembered::known(&text, &config.uplink).map_err(|bad| state.damaged(HUBS, bad.line, bad.why))?;
        known.joins = common::node::cli::unix_time().as_millis() as u64;
        let hosts = config.hosts.as_deref().map(|path| SyncedFile::open(path, hosts::MARKER)).transpose()?;
        let trust = config
            .uplink
            .ways
            .iter()
            .any(Way::has_tls)
            .then(|| trust(config.tls_ca.as_deref()))
            .transpose()?;
        let pings = Pings::open_for(&config.uplink.ways).map_err(Error::Ping)?;
        let machine = Machine::open(&config.tun)?;

        let system = |what| move |error| Error::System(what, error);
        let seed = state::random_u64().map_err(system("get random bytes"))?;
        let events = EventLoop::new(64).map_err(system("make an event queue"))?;
        let now = Instant::now();
        let mut client = Client {
            uplink: Uplink::new(config.uplink.clone(), key, known, seed, now),
            connections: Connections::default(),
            trust,
            pings,
            hosts,
            names: config.zone.clone().map(|zone| (NameServer::new(zone, seed), NameTable::default())),
            config,
            control: ControlSocket::open(
                state.path(),
                events.registry(),
                "`spoke status` and `spoke resolve`",
            ),
            about: About { device: machine.tun.name().to_owned(), started_at: now },
            service: ServiceManager::connect(now),
            state,
            machine,
            signals: UnixStream::from_std(signals),
            waker: events.waker().map_err(system("make an event queue"))?,
            events,
            look_at: now,
            scratch: Vec::new(),
        };
        // A hint that cannot be read is none.
        client.uplink.set_known_ways(client.state.read(WAYS).ok().flatten().unwrap_or_default());
        client.uplink.handle_networks(client.machine.look_around());
        let events = &client.events;
        client
            .machine
            .register(events)
            .and_then(|()| events.register(&mut client.signals, Source::Stop))
            .and_then(|()| client.pings.iter().try_for_each(|pings| pings.register(events)))
            .map_err(system("register with the event queue"))?;
        Ok(client)
    }

    /// The file that is kept in step with the members.
    pub fn hosts(&self) -> Option<&SyncedFile> {
        self.hosts.as_ref()
    }

    /// Whether it looks names up: of hubs that were given, or told before.
    pub fn looks_names_up(&self) -> bool {
        self.uplink.has_named_ways()
    }

    /// Its state directory.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Runs until a signal says stop, or the hub refuses this spoke for good.
    pub fn run(&mut self) -> Result<(), Error> {
        let result = self.serve();
        self.machine.set_routes(BTreeMap::new(), &[], Instant::now());
        self.machine.close();
        if let Some(Err(error)) = self.hosts.as_ref().map(SyncedFile::clear) {
            warn!("{error}; it still names members");
        }
        result
    }

    fn serve(&mut self) -> Result<(), Error> {
        let mut turn = Vec::new();
        let mut has_more = false;
        loop {
            let deadline = if has_more { Some(self.about.started_at) } else { self.deadline() };
            let now = self
                .events
                .wait(deadline, &mut turn)
                .map_err(|error| Error::System("wait for events", error))?;
            for ready in &turn {
                match ready.source {
                    Source::Stop => return self.stop(now),
                    Source::Waker => self.finish_lookups(now),
                    Source::ControlListener | Source::Control(_) => self.serve_control(ready.source, now),
                    Source::Kernel => self.read_announcements(),
                    Source::Device => self.read_device(now),
                    Source::Names(socket) => {
                        if let Some((server, table)) = &mut self.names {
                            server.serve(socket, table, &mut self.events, now);
                        }
                    }
                    Source::Dial(number) => self.serve_link(number, ready, now),
                    Source::Replies(_) => self.serve_pings(ready, now),
                    // Hubs have these.
                    Source::Reload
                    | Source::Listener(_)
                    | Source::Metrics(_)
                    | Source::Ping(_)
                    | Source::Link(_) => {}
                }
                self.carry_out(now)?;
            }
            self.handle_timeouts(now)?;
            self.carry_out(now)?;
            has_more = self.flush(now);
            self.carry_out(now)?;
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let control = self.control.as_ref().and_then(ControlSocket::deadline);
        let machine = self.machine.deadline(self.about.started_at);
        let names = self.names.as_ref().and_then(|(server, _)| server.deadline());
        let deadlines = [
            self.uplink.deadline(),
            self.connections.deadline(),
            control,
            machine,
            names,
            self.service.deadline(),
        ];
        deadlines.into_iter().flatten().min()
    }

    fn handle_timeouts(&mut self, now: Instant) -> Result<(), Error> {
        if let Some(seen) = self.machine.poll(now)? {
            self.uplink.handle_networks(seen.networks);
            if let Some(change) = seen.path {
                self.uplink.handle_path(change, now);
            }
            if seen.is_moved {
                self.uplink.handle_network_change(now);
            }
            self.carry_out(now)?;
        }
        self.look_at_link(now);
        self.uplink.handle_timeout(now);
        for attempt in Attempt::ALL {
            self.poll_dial(attempt, now);
            self.poll_opening(attempt, now);
        }
        self.poll_pinging(now);
        self.service.handle_timeout(now);
        if let Some((server, _)) = &mut self.names {
            server.handle_timeout(self.events.registry(), now);
        }
        if let Some(control) = &mut self.control {
            control.handle_timeout(self.events.registry(), now);
        }
        Ok(())
    }

    // ---- sources

    fn read_device(&mut self, now: Instant) {
        let Client { machine, uplink, .. } = self;
        if machine.tun.read_turn(|read| uplink.send(now, read)) {
            self.events.again(Source::Device);
        }
    }

    fn read_announcements(&mut self) {
        if self.machine.read_announcements() {
            self.events.again(Source::Kernel);
        }
    }

    /// Tells the uplink how the connection stands, now and then, in turns that there are anyway.
    fn look_at_link(&mut self, now: Instant) {
        let Connection::Link(Link::Tcp(link), _) = &self.connections[Attempt::Link] else { return };
        if now < self.look_at && !self.uplink.wants_look(now) {
            return;
        }
        self.look_at = now + LOOK_EVERY;
        if let Some(info) = link.info() {
            self.uplink.handle_health(info, now);
        }
    }

    fn serve_link(&mut self, number: u16, ready: &Ready, now: Instant) {
        let Some(attempt) = self.connections.find(number) else { return };
        match &mut self.connections[attempt] {
            Connection::Link(Link::Tcp(link), _) => {
                link.set_ready(ready.is_writable, ready.is_closed);
                if ready.is_readable {
                    let uplink = &mut self.uplink;
                    let outcome = link::read(link, |read| match attempt {
                        Attempt::Link => uplink.receive(now, read),
                        Attempt::Trial(slot) => uplink.receive_trial(slot, now, read),
                    });
                    self.finish_read(attempt, outcome, ready.source, now);
                }
            }
            Connection::Opening(Opening { stream, .. }) => {
                stream.set_ready(ready.is_writable, ready.is_closed);
                self.poll_opening(attempt, now);
            }
            Connection::None
            | Connection::Lookup(_)
            | Connection::Dial(..)
            | Connection::Pinging(_)
            | Connection::Link(Link::Ping(_), _) => {}
        }
    }

    fn serve_pings(&mut self, ready: &Ready, now: Instant) {
        match &mut self.connections[Attempt::Link] {
            Connection::Link(link @ Link::Ping(_), _) => {
                let outcome = link.read(now, |read| self.uplink.receive(now, read));
                self.finish_read(Attempt::Link, outcome, ready.source, now);
            }
            Connection::Pinging(_) => self.poll_pinging(now),
            Connection::None
            | Connection::Lookup(_)
            | Connection::Dial(..)
            | Connection::Opening(_)
            | Connection::Link(Link::Tcp(_), _) => {}
        }
    }

    fn finish_read(
        &mut self,
        attempt: Attempt,
        outcome: io::Result<link::Outcome>,
        source: Source,
        now: Instant,
    ) {
        match outcome {
            Ok(link::Outcome::Drained) => {}
            Ok(link::Outcome::More) => self.events.again(source),
            Err(error) => self.tell(attempt, Outcome::Closed(error), now),
        }
    }

    /// Writes what waits; whether there is more, and the link may take it.
    fn flush(&mut self, now: Instant) -> bool {
        let mut has_more = false;
        for slot in 0..MAX_TRIALS {
            let attempt = Attempt::Trial(slot);
            let Connection::Link(link, _) = &mut self.connections[attempt] else { continue };
            match link.flush(now, |write| self.uplink.flush_trial(slot, now, write)) {
                Ok(flushed) => has_more |= flushed == Some(Flushed::More),
                Err(error) => self.tell(attempt, Outcome::Closed(error), now),
            }
        }
        let Connection::Link(link, _) = &mut self.connections[Attempt::Link] else { return has_more };
        match link.flush(now, |write| self.uplink.flush(now, write)) {
            Ok(flushed) => has_more |= flushed == Some(Flushed::More),
            Err(error) => self.uplink.handle_closed(&error, now),
        }
        self.uplink.settle_lane(now) || has_more
    }

    fn serve_control(&mut self, source: Source, now: Instant) {
        let Some(control) = &mut self.control else { return };
        let Some((ticket, request)) = control.serve(source, self.events.registry(), now) else { return };
        let answer = match decode(&request).map(|(request, _)| request) {
            Ok(Request::Status) => {
                let mut status = self.uplink.status(&self.about, now);
                status.problems.extend(self.machine.problems());
                let names = self.names.iter().flat_map(|(server, _)| server.problems());
                status.problems.extend(names.cloned());
                status.zone = self.names.as_ref().map(|(server, _)| server.zone().to_string());
                encode(Ok(status))
            }
            Ok(Request::Members { after }) => return self.uplink.ask_members(ticket, after, now),
            Err(text) => encode::<()>(Err(text)),
        };
        control.answer(ticket, answer, now);
    }

    // ---- effects

    fn carry_out(&mut self, now: Instant) -> Result<(), Error> {
        while let Some(effect) = self.uplink.poll_effect() {
            match effect {
                Effect::Deliver(packet) => self.deliver(packet),
                Effect::Resolve { attempt, host, port } => {
                    let unrouted = self.machine.is_unrouted(&host);
                    let translation = Translation { unrouted, servers: surroundings::name_servers() };
                    let lookup = Lookup::start(host, port, translation, &self.waker);
                    self.connections[attempt] = Connection::Lookup(lookup);
                }
                Effect::Dial { attempt, way, addresses, segment, is_hasty } => {
                    match attempt {
                        Attempt::Link => self.machine.set_hub(&addresses),
                        Attempt::Trial(_) if self.connections.is_alone(attempt) => {
                            self.machine.set_hub(&addresses);
                        }
                        Attempt::Trial(_) => self.machine.add_hub(&addresses),
                    }
                    if way.is_ping() {
                        self.connections[attempt] = Connection::Pinging(Box::new(PingDial::start(
                            addresses,
                            time_to_dial(is_hasty),
                            now,
                        )));
                        self.poll_pinging(now);
                    } else {
                        let first = self.connections.numbers();
                        let dial = Dial::start(addresses, first, segment, time_to_dial(is_hasty), now);
                        self.connections[attempt] = Connection::Dial(dial, Plan { way, is_hasty });
                        self.poll_dial(attempt, now);
                    }
                }
                Effect::Close { reset } => self.close(reset),
                Effect::GiveUp(slot) => drop(self.connections.take(Attempt::Trial(slot))),
                Effect::Hurry(slot) => {
                    if let Connection::Link(Link::Tcp(stream), _) =
                        &mut self.connections[Attempt::Trial(slot)]
                    {
                        stream.hurry();
                    }
                }
                Effect::AskKernel(asks) => {
                    let does_ask = self.connections[Attempt::Link].ask_kernel(asks);
                    self.uplink.handle_asked(does_ask, now);
                }
                Effect::Switch(slot) => {
                    if let Some((source, hub)) = self.connections.switch(slot) {
                        self.machine.set_link(source, hub);
                    }
                }
                Effect::Remember(key, hubs) => {
                    let written = remembered::hub(&self.state, &hubs, key).map_err(|error| error.to_string());
                    self.uplink.handle_remembered(written, now);
                }
                Effect::RememberHubs(told) => {
                    if let Err(error) = remembered::told(&self.state, &self.config.uplink.hubs, &told) {
                        debug!("{error}; which other hubs there are is forgotten at the end");
                    }
                }
                Effect::RememberWays(text) => {
                    if let Err(error) = self.state.write(WAYS, &text) {
                        debug!("{error}; which way to the hub works here is forgotten at the end");
                    }
                }
                Effect::Configure { addresses, mtu } => {
                    let configured = self.machine.configure(&addresses, mtu);
                    if let Some((server, _)) = self.names.as_mut().filter(|_| configured.is_ok()) {
                        server.listen(&addresses, self.events.registry(), now);
                    }
                    self.uplink.handle_networks(self.machine.look_around());
                    self.uplink.handle_configured(configured, now);
                }
                Effect::SetRoutes { routes, hub } => self.machine.set_routes(routes, &hub, now),
                Effect::Members(peers) => {
                    if let Some((_, table)) = &mut self.names {
                        *table = NameTable::new(&peers);
                    }
                    if let Some(file) = &self.hosts
                        && let Err(error) = file.write(&hosts::text(&peers))
                    {
                        warn!("{error}");
                    }
                }
                Effect::Answer(ticket, answer) => {
                    if let Some(control) = &mut self.control {
                        control.answer(ticket, encode(answer), now);
                    }
                }
                Effect::Log(notice) => {
                    if notice.provoked().is_none_or(|kind| self.machine.allow_line(kind, now)) {
                        log!(notice.level(), "{notice}");
                    }
                    self.tell_service_manager(&notice);
                }
                Effect::Exit(error) => return Err(Error::Uplink(error)),
            }
        }
        Ok(())
    }

    /// The spoke is ready once it is on the LAN: only then can other programs bind its address.
    fn tell_service_manager(&mut self, notice: &Notice) {
        match notice {
            Notice::OnLan { .. } => self.service.ready(&notice.to_string()),
            Notice::Failed(_) | Notice::Pending(_) => self.service.status(&format!("OFF THE LAN: {notice}")),
            Notice::Stopping => self.service.stopping(),
            Notice::FailedAgain(..)
            | Notice::WayFailed(_)
            | Notice::LaneOpen
            | Notice::LaneClosed(_)
            | Notice::NameTaken { .. }
            | Notice::AddressMoved { .. }
            | Notice::OfferRefused(_)
            | Notice::TooManyRoutes(_)
            | Notice::Leaving(..)
            | Notice::SmallSegments(_)
            | Notice::RouteAroundHub(_)
            | Notice::RouteSkipped(..)
            | Notice::HubRemembered { .. }
            | Notice::HubNotRemembered(_) => {}
        }
    }

    /// Gives a packet to the kernel.
    fn deliver(&mut self, mut packet: Buf) {
        if self.machine.tun.deliver(&mut packet, &mut self.scratch).is_err() {
            self.uplink.count_device_drop();
        }
        self.uplink.recycle(packet);
    }

    /// Tells the uplink whom the next look-up asks.
    fn note_name_servers(&mut self) {
        if self.config.uplink.ways.iter().any(Way::is_named) {
            self.uplink.handle_name_servers(surroundings::name_servers());
        }
    }

    fn close(&mut self, reset: bool) {
        self.machine.clear_link();
        self.note_name_servers();
        let closed = self.connections.take(Attempt::Link);
        if let Connection::Link(Link::Tcp(link), _) = closed
            && reset
        {
            link.abort();
        }
    }

    fn stop(&mut self, now: Instant) -> Result<(), Error> {
        self.uplink.stop();
        self.carry_out(now)?;
        self.flush(now);
        Ok(())
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if self.control.is_some() {
            // One that stays behind is replaced at the next start.
            let _ = self.state.remove(socket::SOCKET);
        }
    }
}
