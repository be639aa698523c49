//! The hub's event loop: its sockets, its device and its clock. IO; all decisions are the core's.
//!
//! One turn: wait, read the clock once, serve each source that is ready within a budget, do what is due, flush
//! each session that has something to write once, and only then take out the sessions that ended. A source
//! that had more than its budget is asked for again: edge-triggered, it is not reported again.
#![expect(clippy::disallowed_methods, reason = "an IO file: it owns the hub's clock and sockets")]

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use common::linux::sandbox::User;
use common::linux::service_manager::ServiceManager;
use common::node::cli;
use common::node::control::{self as socket, ControlSocket};
use common::node::event_loop::{EventLoop, MAX_NUMBER, Ready, Source};
use common::node::link::{Link, Outcome};
use common::node::names::server::NameServer;
use common::node::names::zone::Zone;
use common::node::request::Ticket;
use common::node::state::{self, State};
use common::transport::icmp::server::Number;
use common::transport::stream::Stream;
use common::transport::tcp;
use common::wire::name::Name;
use ipnetwork::IpNetwork;
use log::{info, warn};
use mio::net::UnixStream;

use crate::control::About;
use crate::core::Core;
use crate::effect::{Effect, Notice};
use crate::ids::{RequestId, SessionId};
use crate::lan::Lan;
use crate::lan::peers::RETRY_EVERY;
use crate::logbook::{LogKind, Logbook};
use crate::options::{DEFAULT_PORT, Device};
use crate::report;
use crate::switch::gate::MAX_SESSIONS;

mod admin;
mod audit;
mod certificate;
mod config;
mod dials;
mod files;
mod hubs;
mod joining;
mod links;
mod listener;
mod machine;
mod requester;
mod routes;
mod scrape;
mod stopped;
mod store;
mod stored;

use certificate::Certificate;
pub use config::{Config, Error};
use dials::Dials;
pub use joining::{JoinError, Joined, join, shares_list};
use links::{Links, Pinged, source_of};
use listener::{Accepted, Listener};
use machine::Machine;
use requester::Asked;
use scrape::Scrapes;
pub use stopped::renumber_stopped;
use store::Store;

const _: () = assert!(MAX_SESSIONS <= MAX_NUMBER as usize);
/// Connections that are taken in one turn, so that a flood of them leaves time for members.
const TURN_ACCEPTS: usize = 64;
/// Pings that are taken in one turn.
const TURN_PINGS: usize = 512;
/// Descriptors that are kept for the hub itself: its device, its files, its control socket.
const OWN_DESCRIPTORS: usize = 40;
/// Half-open links that are closed when descriptors are used up.
const MAKE_ROOM: usize = 16;

/// A running hub.
pub struct Server {
    core: Core,
    logbook: Logbook,
    links: Links,
    dials: Dials,
    listeners: Vec<Listener>,
    certificate: Certificate,
    /// The device and what belongs to it, unless this machine is not on the LAN.
    machine: Option<Machine>,
    signals: Signals,
    name_server: Option<NameServer>,
    scrapes: Option<Scrapes>,
    control: Option<ControlSocket>,
    requests: Requests,
    about: About,
    service: ServiceManager,
    store: Store,
    events: EventLoop,
    clock: Clock,
}

struct Signals {
    stop: UnixStream,
    reload: UnixStream,
}

/// Requests that are not answered yet.
#[derive(Default)]
struct Requests {
    last: u64,
    asked: HashMap<RequestId, Asked>,
    /// `hub store`, which waits for something to do.
    store: Option<Ticket>,
}

struct Clock {
    /// When this turn began.
    now: Instant,
    /// The time of day then, in Unix seconds.
    unix_time: u64,
}

impl Server {
    /// Opens everything that the hub needs. A byte on `signals` stops it, one on `hangups` has it read its files
    /// again.
    pub fn new(config: &Config, signals: StdUnixStream, hangups: StdUnixStream) -> Result<Server, Error> {
        let state = State::open_as(&config.state, config.user.as_ref().map(User::uid))?;
        let key = state.key()?;
        let (store, files) = Store::open(state, config.subnets)?;
        let config = &Config { subnets: store.subnets(), ..config.clone() };
        let certificate = Certificate::open(config.tls.clone())?;
        let (listeners, listening) = Listener::open(&config.listen)?;
        let ports = listening.iter().map(SocketAddr::port).collect();
        let own = files.members.addresses_of(&key.public());
        let open = |device: &Device| Machine::open(device, config, ports, own);
        let machine = config.device.as_ref().map(open).transpose()?;

        let system = |what| move |error| Error::System(what, error);
        let flow_seed = state::random_u64().map_err(system("get random bytes"))?;
        let lan = Lan {
            hub_name: hub_name(),
            subnets: config.subnets,
            mtu: config.mtu,
            routes: config.routes.clone(),
            hub_networks: match &machine {
                Some(machine) => machine.tun.other_networks()?,
                None => Vec::new(),
            },
        };
        let time = cli::unix_time();
        let clock = Clock { now: Instant::now(), unix_time: time.as_secs() };
        let places = dials::places(&files.members, &key.public());
        let dials = Dials::new(config.outbound.clone(), &places, RETRY_EVERY)?;
        let mut core = Core::new(key, lan, files, flow_seed, time);
        match &config.device {
            None => core.close_kernel(),
            Some(device) if !device.exports.is_empty() => core.export(),
            Some(_) => {}
        }
        core.limit_sessions(cli::raise_descriptor_limit().saturating_sub(OWN_DESCRIPTORS));
        let events = EventLoop::new(1_024).map_err(system("make an event queue"))?;
        let name_server =
            config.zone.clone().map(|zone| open_names(zone, &core, &events, clock.now)).transpose()?;
        let scrapes = config
            .metrics
            .map(|at| Scrapes::open(at, events.registry()).map_err(|error| Error::Metrics(at, error)));
        let state = store.state().path();
        let device = machine.as_ref().map_or("no device", |machine| machine.tun.name()).to_owned();
        let about = About { listening, device, started_at: clock.now, started_unix: clock.unix_time };
        let mut server = Server {
            core,
            logbook: Logbook::new(report::named_ports(&about.ports()), state.display().to_string()),
            links: Links::default(),
            dials,
            listeners,
            certificate,
            signals: Signals { stop: UnixStream::from_std(signals), reload: UnixStream::from_std(hangups) },
            control: ControlSocket::open(state, events.registry(), "`hub status` and other commands"),
            requests: Requests::default(),
            name_server,
            scrapes: scrapes.transpose()?,
            about,
            service: ServiceManager::connect(clock.now),
            machine,
            store,
            events,
            clock,
        };
        let events = &server.events;
        if config.icmp {
            server.links.serve_pings(events, server.clock.now).map_err(Error::Ping)?;
        }
        (0..)
            .zip(&mut server.listeners)
            .try_for_each(|(number, listener)| {
                events.register(&mut listener.socket, Source::Listener(number))
            })
            .and_then(|()| server.machine.as_mut().map_or(Ok(()), |machine| machine.register(events)))
            .and_then(|()| server.dials.register(events))
            .and_then(|()| events.register(&mut server.signals.stop, Source::Stop))
            .and_then(|()| events.register(&mut server.signals.reload, Source::Reload))
            .map_err(system("register with the event queue"))?;
        server.announce();
        Ok(server)
    }

    /// Says that all is ready.
    fn announce(&mut self) {
        let (key, About { listening, .. }) = (self.core.key(), &self.about);
        let device = self.machine.as_ref().map(|machine| format!("the device {}", machine.tun.name()));
        let device = device.unwrap_or_else(|| "no device".to_owned());
        info!("key {key}");
        let (places, subnets) = (report::join(listening), self.core.lan().subnets);
        info!("listening on {places}; the LAN is {subnets}, on {device}");
        if self.links.serves_pings() {
            info!("listening for pings, too: spoke --hub icmp://HOST");
        }
        if let Some(at) = self.scrapes.as_ref().and_then(Scrapes::address) {
            info!("metrics at http://{at}/metrics");
        }
        let tcp_port = listening.first().map_or(DEFAULT_PORT, SocketAddr::port);
        info!("to join: spoke --hub HOST:{tcp_port} --hub-key {key}");
        if !self.core.awaits_list() {
            let access = Notice::Access(self.core.access(), self.core.members().spokes());
            self.logbook.note(access, self.clock.now);
        }
    }

    /// Its state directory.
    pub fn state(&self) -> &State {
        self.store.state()
    }

    /// Files of the state directory that are links. What they lead to is read again when a person says so.
    pub fn linked_files(&self) -> Vec<PathBuf> {
        self.store.linked_files()
    }

    /// Runs until a signal says stop. To be called once the process is confined: a thread is started here.
    pub fn run(&mut self) -> Result<(), Error> {
        let waker = self.events.waker().map_err(|error| Error::System("make an event", error))?;
        self.dials.set_waker(Arc::clone(&waker));
        self.store.start(waker);
        // Other hubs may be there to be reached.
        self.finish_turn(self.clock.now);
        let mut turn = Vec::new();
        let (subnets, device) = (self.core.lan().subnets, &self.about.device);
        let places = report::join(&self.about.listening);
        self.service.ready(&format!("listening on {places}; the LAN is {subnets}, on {device}"));
        loop {
            let deadline = self.deadline();
            let now = self
                .events
                .wait(deadline, &mut turn)
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
                    Source::Listener(number) => self.accept(number, now),
                    Source::Ping(number) => self.take_pings(number, now),
                    Source::Replies(_) => self.take_replies(now),
                    Source::Device => self.read_device(now),
                    Source::Link(number) => {
                        self.serve_link(SessionId::new(number as usize), ready, now);
                    }
                    Source::Names(socket) => {
                        if let Some(names) = &mut self.name_server {
                            names.serve(socket, &self.core, &mut self.events, now);
                        }
                    }
                    Source::Metrics(number) => self.serve_metrics(number, now),
                    Source::Waker => {
                        self.take_done(now);
                        self.poll_dials(now);
                    }
                    Source::Dial(attempt) => self.serve_dial(attempt, ready, now),
                    Source::Kernel => self.read_announcements(),
                }
            }
            self.look_around(now)?;
            if deadline.is_some_and(|at| at <= now) {
                self.handle_timeouts(now);
            }
            self.finish_turn(now);
        }
    }

    fn begin_turn(&mut self, now: Instant) {
        let time = cli::unix_time();
        self.clock = Clock { now, unix_time: time.as_secs() };
        self.core.set_unix_time(time);
    }

    fn finish_turn(&mut self, now: Instant) {
        self.look_at_hub_links(now);
        self.do_effects(now);
        self.flush(now);
        self.links.send_pings();
        if self.dials.has_left_replies() {
            self.events.again(Source::Replies(0));
        }
        self.core.finish_turn(now);
        self.do_effects(now);
        self.tell_store(now);
    }

    /// When `handle_timeouts` has something to do next.
    fn deadline(&self) -> Option<Instant> {
        let control = self.control.as_ref().and_then(ControlSocket::deadline);
        let machine = self.machine.as_ref().and_then(|machine| machine.deadline(self.clock.now));
        let deadlines = [
            self.core.deadline(),
            self.logbook.deadline(),
            self.service.deadline(),
            self.links.deadline(),
            self.dials.deadline(),
            control,
            machine,
            self.name_server.as_ref().and_then(NameServer::deadline),
            self.scrapes.as_ref().and_then(Scrapes::deadline),
        ];
        let listeners = self.listeners.iter().map(Listener::deadline);
        deadlines.into_iter().chain(listeners).flatten().min()
    }

    fn handle_timeouts(&mut self, now: Instant) {
        for number in 0..self.listeners.len() {
            if self.listeners[number].is_due(now) {
                self.accept(number as u16, now);
            }
        }
        if let Some(control) = &mut self.control {
            control.handle_timeout(self.events.registry(), now);
        }
        if let Some(names) = &mut self.name_server {
            names.handle_timeout(self.events.registry(), now);
        }
        if let Some(scrapes) = &mut self.scrapes {
            scrapes.handle_timeout(now);
        }
        self.service.handle_timeout(now);
        self.links.handle_timeouts(now).into_iter().for_each(|session| self.core.mark_dirty(session));
        self.poll_dials(now);
        self.core.handle_timeouts(now);
        let members = self.core.members();
        self.logbook.handle_timeout(|id| members.get(id).map(|member| member.name.as_str()), now);
    }

    fn stop(&mut self, now: Instant) {
        info!("stopping");
        self.core.stop(now);
        self.do_effects(now);
        // What is to be written is written before anybody hears goodbye.
        while self.core.is_saving() {
            let Some(done) = self.store.wait_done() else { break };
            self.core.handle_done(done, now);
            self.do_effects(now);
        }
        self.finish_turn(now);
        if let Some(machine) = &mut self.machine {
            machine.close();
        }
    }

    /// Takes note of the jobs that are done.
    fn take_done(&mut self, now: Instant) {
        while let Some(done) = self.store.poll_done() {
            self.core.handle_done(done, now);
        }
    }

    /// Sets right what others changed in the kernel, and tells the core which networks are around.
    fn look_around(&mut self, now: Instant) -> Result<(), Error> {
        let Some(machine) = &mut self.machine else { return Ok(()) };
        let Some(seen) = machine.poll(now)? else { return Ok(()) };
        for line in seen.restored {
            if self.logbook.allow(LogKind::Restored, now) {
                warn!("{line}");
            }
        }
        if let Some(networks) = seen.networks {
            self.core.set_hub_networks(networks);
        }
        Ok(())
    }

    // ---- sources

    fn read_announcements(&mut self) {
        if self.machine.as_mut().is_some_and(Machine::read_announcements) {
            self.events.again(Source::Kernel);
        }
    }

    fn accept(&mut self, number: u16, now: Instant) {
        let source = Source::Listener(number);
        for _ in 0..TURN_ACCEPTS {
            let Some(listener) = self.listeners.get_mut(usize::from(number)) else { return };
            match listener.accept(now) {
                Accepted::Connection(stream, source) => {
                    if let Err(error) = self.take_in(stream, source, now)
                        && self.logbook.allow(LogKind::TurnedAway, now)
                    {
                        warn!("cannot serve {source}: {error}");
                    }
                }
                Accepted::Nothing => return,
                Accepted::Exhausted => {
                    // What these held is free at the end of this turn.
                    if (0..MAKE_ROOM).filter(|_| self.core.make_room(now)).count() > 0 {
                        self.events.again(source);
                    } else {
                        listener.pause(now);
                    }
                    return;
                }
            }
        }
        self.events.again(source);
    }

    fn take_in(
        &mut self,
        stream: mio::net::TcpStream,
        source: SocketAddr,
        now: Instant,
    ) -> std::io::Result<()> {
        let mut stream = Stream::server(tcp::Link::new(stream)?, self.certificate.config());
        let ephemeral = state::random()?;
        let Some(session) = self.core.accept(source, ephemeral, now) else { return Ok(()) };
        if let Err(error) = stream.register(self.events.registry(), source_of(session).token()) {
            self.core.end(session, error.to_string());
        }
        self.links.insert(session, Link::Tcp(stream));
        Ok(())
    }

    /// Takes pings with tunnels in them, up to its share of the turn.
    fn take_pings(&mut self, socket: u16, now: Instant) {
        let mut ready = BTreeSet::new();
        let mut left = TURN_PINGS;
        while let Some(pinged) = self.links.receive_ping(socket, now) {
            match pinged {
                Pinged::Ready(session) => drop(ready.insert(session)),
                Pinged::Began(number, source) => self.take_in_ping(number, source, now),
                Pinged::Nothing => {}
            }
            left -= 1;
            if left == 0 {
                self.events.again(Source::Ping(socket));
                break;
            }
        }
        for session in ready {
            self.core.mark_dirty(session);
            self.read_link(session, now);
        }
    }

    fn take_in_ping(&mut self, number: Number, source: SocketAddr, now: Instant) {
        // Without randomness, it fails as a TCP connection would.
        match state::random().ok().and_then(|ephemeral| self.core.accept(source, ephemeral, now)) {
            Some(session) => self.links.insert_ping(session, number),
            None => self.links.close_ping(number),
        }
    }

    /// Replies came to what goes to other hubs in pings, or is to go there.
    fn take_replies(&mut self, now: Instant) {
        for session in self.links.pinging.clone() {
            self.core.mark_dirty(session);
            self.read_link(session, now);
        }
        self.poll_dials(now);
    }

    fn read_device(&mut self, now: Instant) {
        let Server { machine: Some(machine), core, .. } = self else { return };
        if machine.tun.read_turn(|read| core.send(now, read)) {
            self.events.again(Source::Device);
        }
        self.do_effects(now);
    }

    fn serve_link(&mut self, session: SessionId, ready: &Ready, now: Instant) {
        self.links.set_ready(session, ready);
        if ready.is_writable {
            self.core.mark_dirty(session);
        }
        if ready.is_readable {
            self.read_link(session, now);
        }
    }

    fn read_link(&mut self, session: SessionId, now: Instant) {
        let outcome = self.links.read(session, now, |read| self.core.receive(session, now, read));
        self.do_effects(now);
        match outcome {
            Ok(Outcome::More) => self.events.again(self.links.source(session)),
            Ok(Outcome::Drained) => {}
            Err(why) => self.core.end(session, why.to_string()),
        }
    }

    fn flush(&mut self, now: Instant) {
        let mut dirty = std::mem::take(&mut self.links.dirty);
        self.core.take_dirty(&mut dirty);
        for session in dirty.drain(..) {
            let flushed = self.links.flush(session, now, |write| self.core.flush(session, now, write));
            if let Err(error) = flushed {
                self.core.end(session, error.to_string());
            }
        }
        self.links.dirty = dirty;
    }

    // ---- effects

    /// Does what the core wants done, in order.
    fn do_effects(&mut self, now: Instant) {
        while let Some(effect) = self.core.poll_effect() {
            match effect {
                Effect::Deliver(mut packet) => {
                    let is_taken = self.machine.as_mut().is_some_and(|machine| machine.deliver(&mut packet));
                    self.core.delivered(packet, is_taken);
                }
                Effect::Dial(hub, place) => self.dial_hub(hub, &place, now),
                Effect::DialLane { hub, link, place, at } => self.dial_lane((hub, link), &place, at, now),
                Effect::Close { session, is_silent } => self.links.close(session, is_silent),
                Effect::Hurry(session) => self.links.hurry(session),
                Effect::AddRoute(prefix) => self.set_route(prefix, true, now),
                Effect::RemoveRoute(prefix) => self.set_route(prefix, false, now),
                Effect::Export(address, is_here) => self.set_export(address, is_here, now),
                Effect::SetSubnets(subnets, own) => {
                    let set = self.machine.as_mut().map(|machine| machine.set_subnets(subnets, &own));
                    if let Some(Err(error)) = set {
                        warn!("{error}");
                    }
                    if let Some(server) = &mut self.name_server {
                        let own: Vec<IpNetwork> = subnets.hub().collect();
                        server.listen(&own, self.events.registry(), now);
                    }
                }
                Effect::Save(job) => {
                    if let Some(done) = self.store.run(*job) {
                        self.core.handle_done(done, now);
                    }
                }
                Effect::Answer(request, answer) => self.answer(request, *answer, now),
                Effect::Log(notice) => self.logbook.note(*notice, now),
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.control.is_some() {
            // One that stays behind is replaced at the next start.
            let _ = self.store.state().remove(socket::SOCKET);
        }
    }
}

/// Listens for questions about names, on the hub's own addresses.
fn open_names(zone: Zone, core: &Core, events: &EventLoop, now: Instant) -> Result<NameServer, Error> {
    let seed = state::random_u64().map_err(|error| Error::System("get random bytes", error))?;
    let mut server = NameServer::new(zone, seed);
    let own: Vec<IpNetwork> = core.lan().subnets.hub().collect();
    server.listen(&own, events.registry(), now);
    match server.problems().first() {
        None => Ok(server),
        Some(why) => Err(Error::Names(why.clone())),
    }
}

/// The machine's name, as spokes have theirs; `hub` where no host can be called so.
fn hub_name() -> Name {
    let name = cli::host_name();
    if name.check_host().is_ok() { name } else { Name::nearest("hub") }
}
