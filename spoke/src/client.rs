//! The spoke's event loop: its socket, its device and its clock. IO.
//!
//! It looks the hub up, dials, joins, carries packets until the link ends, waits, and begins again, for ever.
//! The device stays up all the while, so that connections inside the LAN outlive the link.
#![expect(clippy::disallowed_methods, reason = "an IO file: it owns the spoke's clock and device")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use common::linux::tun::{self, TURN_BYTES, TURN_PACKETS, Tun};
use common::node::control as socket;
use common::node::event_loop::{EventLoop, Source};
use common::node::state::{self, State, SyncedFile};
use common::node::text::Printable;
use common::packet::drops::{Drops, Reason};
use common::packet::icmp;
use common::packet::offload;
use common::queue::{Buf, Pool};
use common::transport::tcp::{Filled, Flushed};
use common::wire::frame::{Farewell, Refusal};
use common::wire::inbox::Inbox;
use common::wire::invite::Secret;
use common::wire::key::{PrivateKey, PublicKey};
use common::wire::name::Name;
use common::wire::tunnel::{Event, outbox};
use ipnetwork::IpNetwork;
use log::{info, log_enabled, trace};
use mio::Waker;
use mio::net::UnixStream;

use crate::control::PendingRequests;
use crate::kernel_routes::KernelRoutes;
use crate::uplink::backoff::Backoff;
use crate::uplink::grant;
use crate::uplink::pins;
use crate::uplink::routes::RoutePolicy;
use crate::uplink::target::Target;

mod admin;
mod lan;
mod phases;

use phases::{Failures, Phase};

/// The keys of hubs, in the state directory.
const HUBS: &str = "hubs";
/// Unused buffers that the spoke keeps.
const SPARE_BYTES: usize = 8 * 1024 * 1024;

/// What the command line says.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the hub is.
    pub hub: Target,
    /// The hub's key, where the person gave it.
    pub hub_key: Option<PublicKey>,
    /// The addresses to ask for.
    pub addresses: Vec<IpAddr>,
    /// The name to ask for.
    pub name: Name,
    /// The device's name.
    pub tun: String,
    /// The invite to show.
    pub invite: Option<Secret>,
    /// Networks behind this spoke, and which prefixes to take.
    pub route_policy: RoutePolicy,
    /// The largest packet that the device is to take, where that is less than the LAN's.
    pub mtu: Option<u32>,
    /// A file in the format of hosts(5), kept in step with the members.
    pub hosts: Option<PathBuf>,
}

/// Why the spoke cannot run, or may not join. Its text says what to do.
#[derive(Debug)]
pub enum Error {
    /// The state directory.
    State(state::Error),
    /// The device.
    Tun(tun::Error),
    /// The hub refused us.
    Refused(Refusal, String),
    /// The hub grants what must not be put on the device.
    RejectedConfig(grant::RejectedConfig),
    /// The hub proved another key than the one it had before.
    KeyChanged {
        /// The hub.
        hub: Target,
        /// The key that we know.
        known: PublicKey,
        /// The key that it has now.
        seen: PublicKey,
        /// Where the known key came from.
        pinned_in: Option<PathBuf>,
    },
    /// The system.
    System(&'static str, io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::State(error) => error.fmt(f),
            Error::Tun(error) => error.fmt(f),
            Error::Refused(_, text) => write!(f, "the hub refused this spoke: {}", Printable(text)),
            Error::RejectedConfig(unfit) => write!(f, "the hub's welcome is not taken: {unfit}"),
            Error::KeyChanged { hub, known, seen, pinned_in } => {
                write!(
                    f,
                    "the hub at {hub} has key {seen}, not {known}: someone may be in between, or it was "
                )?;
                match pinned_in {
                    Some(path) => write!(
                        f,
                        "set up anew; compare with the key that the hub prints at start, and if it is the same \
                         run with --hub-key {seen} once, or delete its line in {}",
                        path.display()
                    ),
                    None => f.write_str("set up anew; give --hub-key the key that the hub prints at start"),
                }
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

/// A running spoke.
pub struct Client {
    config: Config,
    key: PrivateKey,
    /// The key that the hub must prove, once it is known.
    hub_key: Option<PublicKey>,
    /// When to try again to write it down.
    pin_again_at: Option<Instant>,
    state: State,
    tun: Tun,
    /// What the device is set to.
    addresses: Vec<IpNetwork>,
    /// The addresses that it had last, for a hub that lost its list.
    had: Vec<IpAddr>,
    /// Our name on the LAN.
    name: Name,
    started_at: Instant,
    control: Option<socket::ControlSocket>,
    /// Who asked for members that the hub has to tell.
    pending: PendingRequests,
    was_on_lan: bool,
    /// The prefixes that the hub told.
    told: BTreeSet<IpNetwork>,
    /// Whether it told more than are taken, and the person knows.
    told_too_much: bool,
    /// Networks that this machine is in, but for the LAN, as they were when routes were last set.
    own_networks: Vec<IpNetwork>,
    /// Outer addresses of the hub.
    hub_addresses: Vec<IpAddr>,
    table: KernelRoutes,
    /// The prefixes about which the person has been told.
    explained: BTreeSet<IpNetwork>,
    phase: Phase,
    backoff: Backoff,
    failures: Failures,
    drops: Drops,
    pool: Pool,
    flow_seed: u64,
    inbox: Inbox,
    outbox: Buf,
    /// For packets that the device takes in pieces.
    cut: Vec<u8>,
    hosts: Option<SyncedFile>,
    events: EventLoop,
    waker: Arc<Waker>,
    signals: UnixStream,
    /// Whether the last flush left something that the socket may take.
    wants_flush: bool,
}

impl Client {
    /// Opens everything that the spoke needs. A byte on `signals` stops it.
    pub fn new(config: Config, state: State, signals: StdUnixStream) -> Result<Client, Error> {
        let key = state.key()?;
        let text = state.read(HUBS)?.unwrap_or_default();
        let pinned =
            pins::pinned(&text, &config.hub).map_err(|bad| state.damaged(HUBS, bad.line, bad.why))?;
        let hosts = config.hosts.as_deref().map(SyncedFile::open).transpose()?;
        let tun = Tun::open(&config.tun)?;

        let system = |what| move |error| Error::System(what, error);
        let flow_seed = state::random_u64().map_err(system("get random bytes"))?;
        let events = EventLoop::new(64).map_err(system("make an event queue"))?;
        let waker = events.waker().map_err(system("make an event queue"))?;
        let mut client = Client {
            hub_key: config.hub_key.or(pinned),
            pin_again_at: None,
            phase: Phase::Pause(Instant::now()),
            flow_seed,
            name: config.name.clone(),
            started_at: Instant::now(),
            control: socket::ControlSocket::open(
                state.path(),
                events.registry(),
                "`spoke status` and `spoke resolve`",
            ),
            pending: PendingRequests::default(),
            had: Vec::new(),
            config,
            key,
            state,
            addresses: Vec::new(),
            was_on_lan: false,
            told: BTreeSet::new(),
            told_too_much: false,
            own_networks: Vec::new(),
            hub_addresses: Vec::new(),
            table: KernelRoutes::new(&tun),
            tun,
            explained: BTreeSet::new(),
            cut: Vec::new(),
            hosts,
            backoff: Backoff::default(),
            failures: Failures::default(),
            drops: Drops::default(),
            pool: Pool::new(SPARE_BYTES),
            inbox: Inbox::default(),
            outbox: outbox(),
            waker,
            signals: UnixStream::from_std(signals),
            wants_flush: false,
            events,
        };
        let events = &client.events;
        events
            .register(&mut client.tun, Source::Device)
            .and_then(|()| events.register(&mut client.signals, Source::Stop))
            .map_err(system("register with the event queue"))?;
        Ok(client)
    }

    /// The file that is kept in step with the members.
    pub fn hosts(&self) -> Option<&SyncedFile> {
        self.hosts.as_ref()
    }

    /// Its state directory.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Runs until a signal says stop, or the hub refuses this spoke for good.
    pub fn run(&mut self) -> Result<(), Error> {
        let result = self.serve();
        self.table.set(&self.tun, BTreeMap::new(), &[]);
        result
    }

    fn serve(&mut self) -> Result<(), Error> {
        let mut turn = Vec::new();
        loop {
            let deadline = self.deadline();
            let now = self
                .events
                .wait(deadline, &mut turn)
                .map_err(|error| Error::System("wait for events", error))?;
            for ready in &turn {
                match ready.source {
                    Source::Stop => {
                        self.stop(now);
                        return Ok(());
                    }
                    Source::Waker => self.handle_found(now),
                    Source::Device => self.read_tun(now),
                    Source::ControlListener | Source::Control(_) => self.serve_control(ready.source, now),
                    Source::Dial(token) => {
                        if let Phase::Linked(linked) = &mut self.phase
                            && linked.token == token
                        {
                            if ready.is_writable {
                                linked.link.set_writable();
                            }
                            if ready.is_closed {
                                linked.link.set_ends();
                            }
                            if ready.is_readable {
                                self.read_link(token, now)?;
                            }
                        }
                    }
                    // Hubs have these.
                    Source::Reload | Source::Listener(_) | Source::Link(_) => {}
                }
            }
            self.handle_control_timeout(now);
            self.advance(now)?;
            self.flush(now)?;
        }
    }

    fn deadline(&self) -> Option<Instant> {
        if self.wants_flush {
            return Some(self.started_at);
        }
        let deadline = match &self.phase {
            Phase::Pause(until) => Some(*until),
            Phase::Lookup(_) => None,
            Phase::Dial(dial) => Some(dial.deadline()),
            Phase::Linked(linked) => Some(linked.tunnel.deadline()),
        };
        [deadline, self.pin_again_at, self.control_deadline()].into_iter().flatten().min()
    }

    // ---- sources

    fn read_tun(&mut self, now: Instant) {
        let mut bytes = 0;
        for _ in 0..TURN_PACKETS {
            if bytes >= TURN_BYTES {
                break;
            }
            let Some(packet) = self.tun.receive(&mut self.pool) else { return };
            bytes += packet.len();
            self.send(packet, now);
        }
        self.events.again(Source::Device);
    }

    /// Queues a packet from the kernel for the hub.
    fn send(&mut self, mut packet: Buf, now: Instant) {
        let header = offload::check_own(&mut packet);
        let verdict = match (&header, &mut self.phase) {
            (&Err(reason), _) => Err(reason),
            (Ok(_), Phase::Linked(linked)) if linked.tunnel.is_open() => Ok(&mut linked.tunnel),
            (Ok(_), _) => Err(Reason::NotOnLan),
        };
        if log_enabled!(log::Level::Trace)
            && let Ok(header) = &header
        {
            trace!("{header} to the hub: {}", verdict.as_ref().err().map_or("sent", |reason| reason.label()));
        }
        match (verdict, header) {
            (Ok(tunnel), Ok(header)) => {
                tunnel.enqueue(packet, header.flow(self.flow_seed), &mut self.pool, now);
            }
            (Err(reason), _) | (_, Err(reason)) => {
                self.drops.add(reason);
                self.pool.give(packet);
            }
        }
    }

    fn read_link(&mut self, token: u16, now: Instant) -> Result<(), Error> {
        let Phase::Linked(linked) = &mut self.phase else { return Ok(()) };
        if linked.token != token {
            return Ok(());
        }
        let filled = linked.link.fill(&mut linked.tunnel, &mut self.inbox, &mut self.pool, now);
        loop {
            let Phase::Linked(linked) = &mut self.phase else { return Ok(()) };
            match linked.tunnel.open(&mut self.inbox, &mut self.pool, now) {
                Ok(Some(Event::Packet(mut packet))) => {
                    if let Err(reason) = deliver(&self.tun, &mut packet, &mut self.cut) {
                        self.drops.add(reason);
                    }
                    self.pool.give(packet);
                }
                Ok(Some(Event::Control(control))) => self.handle_control(control, now)?,
                // Only a hub is asked to let someone join.
                Ok(Some(Event::Join { .. })) => {}
                Ok(None) => break,
                Err(error) => return self.broken(error.into(), now),
            }
        }
        let Phase::Linked(linked) = &mut self.phase else { return Ok(()) };
        linked.tunnel.park(&mut self.inbox, &mut self.pool);
        match filled {
            Ok(Filled::More) => self.events.again(Source::Dial(token)),
            Ok(Filled::Drained | Filled::Nothing) => {}
            Ok(Filled::Closed) => {
                let closed = io::Error::new(io::ErrorKind::UnexpectedEof, "it closed the connection");
                self.broken(closed.into(), now)?;
            }
            Err(error) => self.broken(error.into(), now)?,
        }
        Ok(())
    }

    // ---- the end of a turn

    fn flush(&mut self, now: Instant) -> Result<(), Error> {
        self.wants_flush = false;
        let Phase::Linked(linked) = &mut self.phase else { return Ok(()) };
        match linked.link.flush(&mut linked.tunnel, &mut self.outbox, &mut self.pool, now) {
            Ok(flushed) => {
                self.wants_flush = flushed == Flushed::More;
                Ok(())
            }
            Err(error) => self.broken(error, now),
        }
    }

    fn stop(&mut self, now: Instant) {
        info!("stopping");
        if let Some(key) = self.hub_key.filter(|_| self.pin_again_at.is_some()) {
            self.keep_pin(key, now);
        }
        if let Phase::Linked(linked) = &mut self.phase {
            // There may be nobody left to hear it.
            let _ = linked.tunnel.bye(Farewell::Stopping);
            let _ = linked.link.flush(&mut linked.tunnel, &mut self.outbox, &mut self.pool, now);
        }
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

/// Gives a packet from the hub to the kernel. The hub checked it too, but the kernel is ours to protect.
fn deliver(tun: &Tun, bytes: &mut [u8], cut: &mut Vec<u8>) -> Result<(), Reason> {
    let header = offload::check(bytes)?;
    if icmp::is_neighbour_discovery(bytes, &header) {
        return Err(Reason::NeighbourDiscovery);
    }
    let written = tun.deliver(bytes, cut).map_err(|_| Reason::Device);
    if log_enabled!(log::Level::Trace) {
        trace!(
            "{header} from the hub: {}",
            written.as_ref().err().map_or("delivered", |reason| reason.label())
        );
    }
    written
}
