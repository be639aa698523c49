//! The spoke's core: its connection to the hub, without sockets, files and the kernel. Pure.
//!
//! Events and the time come in, [`Effect`]s come out; the shell carries them out in order and decides nothing.
//!
//! ```text
//!   Paused ─▶ Resolving ─▶ Dialling ─▶ Linked: handshake ─▶ welcome ─▶ device configured ─▶ on the LAN
//!     ▲ └──▶ Racing, where there are several hubs ─▶ ┘                     │
//!     └───────────┴────────────┴── pause, longer each time ─┘
//! ```
//! The addresses and prefixes of the LAN outlive a link, as the device does.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Instant;

use common::node::way::Way;
use common::packet::drops::Drops;
use common::queue::tcp_info::TcpInfo;
use common::queue::{Buf, Pool, Queue};
use common::transport::layers::Stage;
use common::wire::frame::{Farewell, Join};
use common::wire::inbox::Inbox;
use common::wire::invite::Secret;
use common::wire::key::{PrivateKey, PublicKey};
use common::wire::name::Name;
use common::wire::place::Place;
use common::wire::target::Target;
use common::wire::tunnel::{self, Tunnel, outbox};
use ipnetwork::IpNetwork;

pub mod advice;
pub mod backoff;
mod beside;
mod choice;
mod effect;
mod elsewhere;
mod frames;
pub mod grant;
pub mod hosts;
pub mod known_ways;
mod lane;
mod learned;
mod linked;
pub mod members;
mod packets;
pub mod path;
mod pin;
pub mod pins;
mod probe;
mod retry;
pub mod routes;
mod segments;
mod status;
pub mod trial;
mod watching;
pub mod ways;

pub use effect::{Attempt, Effect, Error, MAX_TRIALS, Notice};
pub use watching::ASK_EVERY;

use learned::LearnedRoutes;
use linked::{Linked, Trials};
use members::MemberList;
use pin::Pin;
use probe::Probe;
use retry::Retry;
use routes::RoutePolicy;
use segments::Segments;
use ways::{Next, Ways};

/// Unused buffers that the spoke keeps.
const SPARE_BYTES: usize = 8 * 1024 * 1024;

/// The settings of the uplink.
#[derive(Clone, Debug)]
pub struct Config {
    /// The hub, as the person has named it.
    pub hubs: Vec<Target>,
    /// The ways to it, in the order in which they are tried: one at least.
    pub ways: Vec<Way>,
    /// The keys of hubs, where the person gave some: one of them is the hub's.
    pub hub_keys: Vec<PublicKey>,
    /// The addresses to ask for.
    pub addresses: Vec<IpAddr>,
    /// The name to ask for.
    pub name: Name,
    /// The invite to show.
    pub invite: Option<Secret>,
    /// Networks behind this spoke, and which prefixes to take.
    pub route_policy: RoutePolicy,
    /// The largest packet that the device is to take, where that is less than the LAN's.
    pub mtu: Option<u32>,
    /// Whether the list of members is kept up to date: [`Effect::Members`].
    pub follows_members: bool,
    /// Whether there may be a second connection beside the link.
    pub may_have_lane: bool,
    /// The file in which the keys of hubs are remembered, for messages.
    pub pins: PathBuf,
}

/// What is known about hubs from earlier times.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// The keys that were remembered for the places that the person names.
    pub pinned: Vec<(Target, PublicKey)>,
    /// Hubs for which those vouch.
    pub told: Vec<(Place, PublicKey)>,
    /// From where on joins are counted: above those of earlier runs.
    pub joins: u64,
}

/// The state of the connection to the hub.
enum Phase {
    /// Waits before it tries again.
    Paused(Instant),
    /// Its name is being looked up.
    Resolving,
    /// Connections are being tried.
    Dialling,
    /// Several hubs are being tried: see [`elsewhere`].
    Racing,
    /// There is a connection.
    Linked(Box<Linked>),
}

/// This spoke's identity on the LAN.
struct Identity {
    key: PrivateKey,
    name: Name,
    /// What the device is set to; the last that was granted, while there is no link.
    addresses: Vec<IpNetwork>,
    /// Whether a hub has let it in since it started.
    was_on_lan: bool,
    /// Counts its joins, over all runs.
    joins: u64,
    /// Whether it was logged that it waits for a person at the hub.
    has_said_pending: bool,
}

impl Identity {
    /// Whether the device is set to this address.
    fn has(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|own| own.ip() == address)
    }
}

/// What packets pass through.
struct Buffers {
    pool: Pool,
    inbox: Inbox,
    outbox: Buf,
    /// Packets that were dropped on earlier links, or without one.
    drops: Drops,
    /// Makes flow hashes unpredictable.
    flow_seed: u64,
    /// Packets that wait for the next link, where there is another hub.
    kept: Option<Queue>,
}

/// The network outside of the LAN.
#[derive(Default)]
struct OuterNetwork {
    /// Networks that this machine is in, but for the LAN.
    own_networks: Vec<IpNetwork>,
    /// Outer addresses of the hub, those that are tried included.
    hub_addresses: Vec<IpAddr>,
    /// Name servers of this machine.
    name_servers: Vec<IpAddr>,
    /// Which way to the hub worked in which network: [`known_ways`].
    known_ways: String,
    /// Whether full packets pass on the path to the hub.
    segments: Segments,
}

/// The spoke's core.
pub struct Uplink {
    config: Config,
    phase: Phase,
    ways: Ways,
    trials: Trials,
    retry: Retry,
    pin: Pin,
    identity: Identity,
    outer: OuterNetwork,
    routes: LearnedRoutes,
    members: MemberList,
    buffers: Buffers,
    effects: VecDeque<Effect>,
}

impl Uplink {
    /// A spoke that begins to look for its hub at `now`. `known`: what was remembered; `seed`: random.
    pub fn new(config: Config, key: PrivateKey, known: Known, seed: u64, now: Instant) -> Uplink {
        let Known { mut pinned, told, joins } = known;
        let mut keys = config.hub_keys.clone();
        if keys.is_empty() {
            keys = pinned.iter().map(|&(_, key)| key).collect();
        }
        pinned.retain(|(_, key)| keys.contains(key));
        let mut ways = Ways::new(config.ways.clone());
        pinned.iter().for_each(|(place, key)| ways.set_hub_of(place, *key));
        let mut uplink = Uplink {
            pin: Pin::new(keys, told.iter().map(|&(_, key)| key).collect()),
            identity: Identity {
                key,
                name: config.name.clone(),
                addresses: Vec::new(),
                was_on_lan: false,
                joins,
                has_said_pending: false,
            },
            ways,
            trials: Trials::default(),
            config,
            phase: Phase::Paused(now),
            retry: Retry::new(seed, now),
            outer: OuterNetwork::default(),
            routes: LearnedRoutes::default(),
            members: MemberList::default(),
            buffers: Buffers {
                pool: Pool::new(SPARE_BYTES),
                inbox: Inbox::default(),
                outbox: outbox(),
                drops: Drops::default(),
                flow_seed: seed,
                kept: None,
            },
            effects: VecDeque::new(),
        };
        uplink.take_told(&told);
        uplink
    }

    /// Which way worked in which network, as it was written down: before anything else.
    pub fn set_known_ways(&mut self, text: String) {
        self.outer.known_ways = text;
    }

    /// Whether a way leads to a name.
    pub fn has_named_ways(&self) -> bool {
        self.ways.iter().any(|(way, ..)| way.is_named())
    }

    /// The next thing to do.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// Whether packets can go to the hub.
    pub fn is_on_lan(&self) -> bool {
        matches!(&self.phase, Phase::Linked(linked) if linked.joined_at.is_some())
    }

    // ---- time

    /// When `handle_timeout` has something to do next.
    pub fn deadline(&self) -> Option<Instant> {
        let phase = match &self.phase {
            Phase::Paused(until) => Some(*until),
            Phase::Resolving | Phase::Dialling | Phase::Racing => None,
            Phase::Linked(linked) => {
                let probe = linked.probe.map(Probe::deadline);
                let look = linked.watching.look_at();
                probe.into_iter().chain(look).chain([linked.tunnel.deadline()]).min()
            }
        };
        [phase, self.lane_deadline(), self.elsewhere_deadline(), self.pin.again_at(), self.members.deadline()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        if let Some(key) = self.pin.poll(now) {
            self.remember(key);
        }
        self.answer_late(now);
        self.poll_probe(now);
        self.poll_lane(now);
        if let Phase::Linked(linked) = &mut self.phase
            && let Err(error) = linked.tunnel.handle_timeout(now)
        {
            self.fail_link(error, now);
        }
        // The next way is tried at once where the link was lost just now.
        if let Phase::Paused(until) = self.phase
            && until <= now
        {
            if self.ways.are_several_hubs() {
                self.begin_race(now);
            } else {
                self.phase = Phase::Resolving;
                self.resolve();
            }
        }
        self.poll_elsewhere(now);
    }

    // ---- towards the hub

    fn resolve(&mut self) {
        let (host, port) = self.ways.begin().first_hop();
        self.effects.push_back(Effect::Resolve { attempt: Attempt::Link, host: host.to_owned(), port });
    }

    /// The outcome of [`Effect::Resolve`]: the addresses to connect to, or why there are none.
    pub fn handle_resolved(&mut self, found: io::Result<Vec<SocketAddr>>, now: Instant) {
        if !matches!(self.phase, Phase::Resolving) {
            return;
        }
        match found {
            Ok(addresses) => {
                self.outer.hub_addresses =
                    addresses.iter().map(|address| address.ip().to_canonical()).collect();
                // No route may lead the dialling itself into the LAN.
                self.set_routes();
                self.phase = Phase::Dialling;
                let (way, segment) = (self.ways.current().clone(), self.outer.segments.limit());
                let is_hasty = self.ways.is_hasty();
                let attempt = Attempt::Link;
                self.effects.push_back(Effect::Dial { attempt, way, addresses, segment, is_hasty });
            }
            Err(error) => self.try_again(advice::lookup(self.ways.current(), &error), now),
        }
    }

    /// [`Effect::Dial`] did not lead to a connection. `tried`: the address that failed with this error, if one did.
    pub fn handle_unreachable(&mut self, tried: Option<SocketAddr>, error: &io::Error, now: Instant) {
        if matches!(self.phase, Phase::Dialling) {
            self.try_again(advice::connect(self.ways.current(), tried, error), now);
        }
    }

    /// [`Effect::Dial`] led to a connection, on which what is to be around the tunnel could not be set up, as it was at
    /// this stage.
    pub fn handle_not_opened(&mut self, stage: Stage, error: &io::Error, now: Instant) {
        if matches!(self.phase, Phase::Dialling) {
            if advice::needs_a_person(error) {
                self.retry.slow_down();
            }
            self.try_again(advice::opening(self.ways.current(), stage, error), now);
        }
    }

    /// [`Effect::Dial`] led to a connection with the hub, itself or by the proxy at this address, and the tunnel's bytes
    /// may flow. `ephemeral`: 32 random bytes.
    pub fn handle_connected(&mut self, hub: SocketAddr, ephemeral: [u8; 32], now: Instant) {
        if matches!(self.phase, Phase::Dialling) {
            let (keys, join) = (self.pin.trusted(), self.join_request());
            let pool = &mut self.buffers.pool;
            let mut tunnel = Tunnel::knocking(&self.identity.key, ephemeral, &keys, pool, now);
            tunnel.join_once_proved(&join);
            self.begin_link(Box::new(Linked::new(tunnel, hub, now)), now);
        }
    }

    /// What this spoke asks a hub for now.
    fn join_request(&mut self) -> Join {
        self.identity.joins += 1;
        Join {
            addresses: self.config.addresses.clone(),
            routes: self.config.route_policy.offered.clone(),
            mtu: self.config.mtu,
            invite: self.config.invite.as_ref().map(|invite| invite.0),
            had: self.identity.addresses.iter().map(|address| address.ip()).collect(),
            sequence: Some(self.identity.joins),
            ..Join::new(self.config.name.clone())
        }
    }

    fn begin_link(&mut self, linked: Box<Linked>, now: Instant) {
        self.routes.begin_link();
        self.outer.segments.begin_link();
        self.trials.forget_link();
        self.trials.choice.set_leaving(false, 0, now);
        self.phase = Phase::Linked(linked);
    }

    /// The connection failed, or was closed by the other end: [`io::ErrorKind::UnexpectedEof`].
    pub fn handle_closed(&mut self, error: &io::Error, now: Instant) {
        if let Phase::Linked(linked) = &self.phase {
            let why = advice::broken(self.ways.current(), linked.progress(), error);
            self.judge_segments(now);
            self.fail_over(why, now);
        }
    }

    /// A look at the connection of the link: now and then, and when [`Uplink::wants_look`].
    pub fn handle_health(&mut self, info: TcpInfo, now: Instant) {
        if self.is_on_lan() {
            self.outer.segments.note(info, now);
            self.note_unheard(info.unheard, now);
            self.consider_lane(&info, now);
        }
    }

    fn fail_link(&mut self, error: tunnel::Error, now: Instant) {
        if let tunnel::Error::HubKey { seen } = error {
            let error = self.key_changed(self.ways.current(), seen);
            self.retry.slow_down();
            // Where a person names several hubs, it is the key of one of them that is known.
            return match self.config.hubs.len() {
                0 | 1 => self.end_or_try_again(error, now),
                _ => self.try_again(error.to_string(), now),
            };
        }
        let Phase::Linked(linked) = &self.phase else { return };
        let why = advice::failed(self.ways.current(), linked.progress(), &error);
        self.judge_segments(now);
        if self.switch_at_loss(now) {
            return;
        }
        if error == tunnel::Error::Silent {
            self.trials.is_in_doubt = true;
        }
        self.fail_over(why, now);
    }

    /// This way leads to a hub with another key.
    fn key_changed(&self, way: &Way, seen: PublicKey) -> Error {
        Error::KeyChanged {
            hub: way.hub.to_string(),
            known: self.pin.key().unwrap_or(seen),
            seen,
            pinned_in: self.config.hub_keys.is_empty().then(|| self.config.pins.clone()),
        }
    }

    /// Whether the link that has just died did so of full packets.
    fn judge_segments(&mut self, now: Instant) {
        let Phase::Linked(linked) = &self.phase else { return };
        let silent = now.saturating_duration_since(linked.tunnel.heard_at());
        if let Some(segment) = self.outer.segments.judge(silent) {
            self.effects.push_back(Effect::Log(Notice::SmallSegments(segment)));
        }
    }

    /// Ends the process if it was never on the LAN, as a person waits for it; else goes on trying.
    fn end_or_try_again(&mut self, error: Error, now: Instant) {
        if self.identity.was_on_lan || self.ways.has_other_hub_left() {
            self.try_again(error.to_string(), now);
        } else {
            self.effects.push_back(Effect::Exit(error));
        }
    }

    /// Ends the attempt or the link, and begins again: by the next way at once, after the last one with a pause.
    fn try_again(&mut self, why: String, now: Instant) {
        if self.switch_at_loss(now) {
            return;
        }
        self.close_link(self.trials.is_in_doubt, now);
        let was_on_lan = self.retry.off_since().is_none();
        let why = if was_on_lan {
            self.ways.begin_round();
            why
        } else {
            let (is_news, next) = self.ways.failed(&why);
            if is_news && self.ways.are_several() {
                self.effects.push_back(Effect::Log(Notice::WayFailed(why.clone())));
            }
            if next == Next::Another {
                self.phase = Phase::Paused(now);
                return self.set_routes();
            }
            if self.ways.are_several() { advice::no_way(self.ways.len()) } else { why }
        };
        let (pause, notice) = self.retry.failed(why, now);
        self.effects.extend(notice.map(Effect::Log));
        self.phase = Phase::Paused(now + pause);
        self.set_routes();
    }

    /// Closes the link, if there is one. `reset`: the other end could not hear a goodbye.
    fn close_link(&mut self, reset: bool, now: Instant) {
        if !matches!(self.phase, Phase::Linked(_)) {
            return;
        }
        self.end_lane(true, now);
        if self.is_on_lan() && self.ways.are_several_hubs() {
            self.keep_packets(None, now);
        }
        if let Phase::Linked(mut linked) = std::mem::replace(&mut self.phase, Phase::Paused(now)) {
            let lasted = linked.joined_at.map(|joined_at| now.saturating_duration_since(joined_at));
            self.retry.lasted(lasted.unwrap_or_default());
            self.buffers.drops.add_all(&linked.tunnel.queue().drops());
            linked.tunnel.close(&mut self.buffers.pool);
            self.effects.push_back(Effect::Close { reset });
        }
        self.trials.forget_link();
        self.answer_nobody();
    }

    // ---- the hub's key

    /// The outcome of [`Effect::Remember`]: whether it was news, or why it could not be written.
    pub fn handle_remembered(&mut self, written: Result<bool, String>, now: Instant) {
        let hub = self.ways.current().hub.clone();
        let notice = match written {
            Ok(true) => self.pin.key().map(|key| Notice::HubRemembered { hub, key }),
            Ok(false) => None,
            Err(why) => self.pin.failed(now).then_some(Notice::HubNotRemembered(why)),
        };
        self.effects.extend(notice.map(Effect::Log));
    }

    /// Holds on to the key of the hub that has just spoken: the first time, or when the person gave another one.
    fn pin_hub(&mut self) {
        let Phase::Linked(linked) = &self.phase else { return };
        if let Some(key) = linked.tunnel.remote() {
            self.pin.set(key);
            self.ways.set_hub(self.ways.current_number(), key);
            self.remember(key);
        }
    }

    /// Has the key written down, by the names of this hub.
    fn remember(&mut self, key: PublicKey) {
        let hubs = self.config.hubs.iter().filter(|hub| !self.ways.is_of_another(hub, key));
        let hubs: Vec<Target> = hubs.cloned().collect();
        if !hubs.is_empty() {
            self.effects.push_back(Effect::Remember(key, hubs));
        }
    }

    // ---- the machine

    /// The networks that this machine is in now, but for the LAN.
    pub fn handle_networks(&mut self, networks: Vec<IpNetwork>) {
        if self.outer.own_networks != networks {
            self.outer.own_networks = networks;
            self.prefer_known_way();
            self.set_routes();
        }
    }

    /// Begins the next round with the way that worked in this network.
    fn prefer_known_way(&mut self) {
        let network = known_ways::network_name(&self.outer.own_networks);
        let known = network.and_then(|network| known_ways::known(&self.outer.known_ways, &network));
        // A network that appears beside the one that the link goes through says nothing about it.
        if known.is_some() || !self.is_on_lan() {
            self.ways.prefer(known);
        }
    }

    /// Remembers the way that works in this network.
    fn note_way(&mut self) {
        self.ways.worked();
        let Some(network) = known_ways::network_name(&self.outer.own_networks) else { return };
        let way = self.ways.current().to_string();
        if self.ways.are_several() && known_ways::known(&self.outer.known_ways, &network) != Some(&way) {
            self.outer.known_ways = known_ways::with_way(&self.outer.known_ways, &network, &way);
            self.effects.push_back(Effect::RememberWays(self.outer.known_ways.clone()));
        }
    }

    /// The name servers that are asked for the hub's addresses; none where it was named by an address.
    pub fn handle_name_servers(&mut self, name_servers: Vec<IpAddr>) {
        if self.outer.name_servers != name_servers {
            self.outer.name_servers = name_servers;
            self.set_routes();
        }
    }

    /// Says goodbye: what is left to do and to flush is the last.
    pub fn stop(&mut self) {
        self.effects.push_back(Effect::Log(Notice::Stopping));
        if let Some(key) = self.pin.unwritten() {
            self.remember(key);
        }
        if let Phase::Linked(linked) = &mut self.phase {
            // The other end may be gone.
            let _ = linked.tunnel.bye(Farewell::Stopping);
        }
    }
}
