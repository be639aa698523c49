//! Goes one way to the hub: look-up, routes, connection, what is around the tunnel, and the hub's key. IO.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::linux::netlink::Netlink;
use common::linux::surroundings;
use common::node::dial::{Dial, Dialed, Lookup, Translation, time_to_dial};
use common::node::event_loop::{EventLoop, Ready, Source};
use common::node::opening::{Opening, Plan, trust};
use common::node::way::{Trust, Way};
use common::node::{link::Outcome, state};
use common::queue::Pool;
use common::transport::layers::Stage;
use common::transport::stream::{Carrier as _, Stream};
use common::wire::frame::Join;
use common::wire::inbox::Inbox;
use common::wire::key::{PrivateKey, PublicKey};
use common::wire::name::Name;
use common::wire::noise::MAX_HANDSHAKE;
use common::wire::tunnel::{self, Tunnel, outbox};
use mio::Waker;

use super::verdict::{Hop, NoConnection, NoGreeting, Packets, Trace};
use crate::uplink::advice::Progress;
use common::node::link::Link;
use common::node::ping_dial::{PingDial, PingDialed, Pings};

/// How long name servers may take: as long as the system's resolver tries a few of them.
const LOOKUP_TIME: Duration = Duration::from_secs(30);
/// Bytes that show whether full packets pass: some full segments, and a small one behind them, as the number is prime.
const PROBE_BYTES: usize = 3_001;
/// How long the packets may take: some retransmissions, and less than the hub's time for a handshake.
const PROBE_TIME: Duration = Duration::from_secs(3);
/// How often the kernel is asked about them: no event tells of an acknowledgement.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Unused buffers to keep: a handshake needs none.
const SPARE_BYTES: usize = 0;

/// What the checks share.
pub(super) struct Prober {
    events: EventLoop,
    waker: Arc<Waker>,
    turn: Vec<Ready>,
    /// Without it, routes cannot be asked for.
    netlink: Option<Netlink>,
    /// Whose certificates are trusted, if a way needs it; or why nobody's.
    trust: Option<Result<Trust, String>>,
    /// Raw sockets, if a way needs them.
    pings: Option<Pings>,
    /// Addresses by host, so that each is looked up once.
    looked_up: BTreeMap<String, Result<Vec<SocketAddr>, String>>,
    /// Whether to give up soon.
    is_hasty: bool,
}

impl Prober {
    pub(super) fn new(ways: &[Way], tls_ca: Option<&Path>) -> io::Result<Prober> {
        let events = EventLoop::new(64)?;
        let needs_trust = ways.iter().any(Way::has_tls);
        let pings = ways.iter().any(Way::is_ping).then(Pings::open);
        pings.iter().try_for_each(|pings| pings.register(&events))?;
        let trusted = || trust(tls_ca).map_err(|error| error.to_string());
        Ok(Prober {
            waker: events.waker()?,
            events,
            turn: Vec::new(),
            netlink: Netlink::open().ok(),
            trust: needs_trust.then(trusted),
            pings,
            looked_up: BTreeMap::new(),
            is_hasty: ways.len() > 1,
        })
    }

    /// Goes one way, as far as it leads.
    ///
    /// # Errors
    /// Where the system fails, not the way.
    pub(super) fn go(&mut self, way: &Way) -> io::Result<Trace> {
        let mut trace = Trace::default();
        let addresses = match self.look_up(way)? {
            Ok(addresses) => addresses,
            Err(why) => {
                trace.addresses = Some(Err(io::Error::other(why)));
                return Ok(trace);
            }
        };
        trace.hops = self.hops(&addresses);
        trace.addresses = Some(Ok(addresses.clone()));
        let start = now();
        if way.is_ping() {
            trace.connection = Some(match self.ping(addresses)? {
                Ok((at, mut link)) => {
                    let took = now().duration_since(start);
                    trace.greeting = Some(self.greet(&mut link)?);
                    Ok((at, took))
                }
                Err(failed) => Err(failed),
            });
            return Ok(trace);
        }
        let (at, stream, number) = match self.dial(addresses)? {
            Dialed::Connected(at, stream, number) => (at, stream, number),
            Dialed::Failed(tried, error) => {
                trace.connection = Some(Err((tried, error)));
                return Ok(trace);
            }
            Dialed::Wait => return Ok(trace),
        };
        trace.connection = Some(Ok((at, now().duration_since(start))));
        let plan = Plan { way: way.clone(), is_hasty: self.is_hasty };
        let first = if way.proxy.is_some() { Stage::Proxy } else { Stage::Tls };
        let trust = match &self.trust {
            Some(Err(why)) if way.has_tls() => Err(io::Error::other(why.clone())),
            Some(Ok(trust)) => Ok(Some(trust)),
            Some(Err(_)) | None => Ok(None),
        };
        let begun = trust.and_then(|trust| Opening::begin(stream, number, at, &plan, trust, now()));
        let mut opening = match begun {
            Ok(opening) => opening,
            Err(error) => {
                trace.opening = Some(Err((first, error)));
                return Ok(trace);
            }
        };
        if let Err(failed) = self.open(&mut opening)? {
            trace.opening = Some(Err(failed));
            return Ok(trace);
        }
        trace.opening = Some(Ok(()));
        let mut link = Link::Tcp(opening.stream);
        let greeting = self.greet(&mut link)?;
        if greeting.is_ok() {
            trace.packets = Some(self.send_full(&mut link)?);
        }
        trace.greeting = Some(greeting);
        Ok(trace)
    }

    /// Waits for an event, and takes in what it says about the connection.
    fn wait(&mut self, deadline: Instant, stream: Option<&mut Stream>) -> io::Result<Instant> {
        let now = self.events.wait(Some(deadline), &mut self.turn)?;
        if let Some(stream) = stream {
            for ready in self.turn.iter().filter(|ready| matches!(ready.source, Source::Dial(_))) {
                stream.set_ready(ready.is_writable, ready.is_closed);
            }
        }
        Ok(now)
    }

    fn look_up(&mut self, way: &Way) -> io::Result<Result<Vec<SocketAddr>, String>> {
        let (host, port) = way.first_hop();
        if let Some(found) = self.looked_up.get(host) {
            let mut found = found.clone();
            found.iter_mut().flatten().for_each(|at| at.set_port(port));
            return Ok(found);
        }
        let lookup = Lookup::start(host.to_owned(), port, self.translation(host), &self.waker);
        let give_up_at = now() + LOOKUP_TIME;
        let found = loop {
            let now = self.wait(give_up_at, None)?;
            if self.turn.iter().any(|ready| ready.source == Source::Waker) {
                break lookup.finish().map_err(|error| error.to_string());
            }
            if now >= give_up_at {
                break Err(format!("no answer within {} s (see /etc/resolv.conf)", LOOKUP_TIME.as_secs()));
            }
        };
        self.looked_up.insert(host.to_owned(), found.clone());
        Ok(found)
    }

    /// An IPv4 address to which there is no way may have a translator.
    fn translation(&self, host: &str) -> Translation {
        let is_unrouted = |address: &Ipv4Addr| {
            let netlink = self.netlink.as_ref();
            netlink.is_some_and(|netlink| {
                surroundings::new_way(netlink, (*address).into()).is_ok_and(|way| way.is_none())
            })
        };
        Translation { unrouted: host.parse().ok().filter(is_unrouted), servers: surroundings::name_servers() }
    }

    fn hops(&self, addresses: &[SocketAddr]) -> Vec<(IpAddr, Option<Hop>)> {
        let Some(netlink) = &self.netlink else { return Vec::new() };
        let hop = |address: IpAddr| {
            let hop = surroundings::new_way(netlink, address).ok().flatten()?;
            let device = netlink.link_by_index(hop.interface).ok().flatten()?.name;
            Some(Hop { device, gateway: hop.gateway })
        };
        addresses.iter().map(|at| (at.ip(), hop(at.ip()))).collect()
    }

    fn dial(&mut self, addresses: Vec<SocketAddr>) -> io::Result<Dialed> {
        let mut at = now();
        let mut dial = Dial::start(addresses, 0, None, time_to_dial(self.is_hasty), at);
        loop {
            match dial.poll(self.events.registry(), at) {
                Dialed::Wait => at = self.wait(dial.deadline(), None)?,
                done @ (Dialed::Connected(..) | Dialed::Failed(..)) => return Ok(done),
            }
        }
    }

    /// Pings the addresses until a hub answers.
    fn ping(&mut self, addresses: Vec<SocketAddr>) -> io::Result<Result<(SocketAddr, Link), NoConnection>> {
        let mut at = now();
        let mut dial = PingDial::start(addresses, time_to_dial(self.is_hasty), at);
        loop {
            let Some(pings) = &self.pings else { return Ok(Err((None, io::ErrorKind::NotFound.into()))) };
            match dial.poll(pings, at) {
                PingDialed::Wait => at = self.wait(dial.deadline(), None)?,
                PingDialed::Connected(hub, ping) => return Ok(Ok((hub, Link::Ping(ping)))),
                PingDialed::Failed(tried, error) => return Ok(Err((tried, error))),
            }
        }
    }

    fn open(&mut self, opening: &mut Opening) -> io::Result<Result<(), (Stage, io::Error)>> {
        let mut at = now();
        loop {
            match opening.go_on(at) {
                Ok(true) => return Ok(Ok(())),
                Ok(false) => at = self.wait(opening.give_up_at, Some(&mut opening.stream))?,
                Err(error) => return Ok(Err((opening.stream.stage(), error))),
            }
        }
    }

    /// The key that the hub proves. Nothing is joined: the tunnel wants another key, which nobody has, and ends before it
    /// says what it asks for.
    fn greet(&mut self, link: &mut Link) -> io::Result<Result<PublicKey, NoGreeting>> {
        let own = PrivateKey::from_random(state::random()?);
        let nobodys = PrivateKey::from_random(state::random()?).public();
        let (mut pool, mut inbox, mut outbox) = (Pool::new(SPARE_BYTES), Inbox::default(), outbox());
        let join = Join::new(Name::nearest("check"));
        let mut at = now();
        let mut tunnel = Tunnel::spoke(&own, state::random()?, Some(nobodys), &join, &mut pool, at);
        let mut progress = Progress::Silent;
        loop {
            let flushed = link.flush(at, |write| tunnel.flush(&mut outbox, &mut pool, at, write));
            let read = flushed.and_then(|_| {
                link.read(at, |read| {
                    if tunnel.fill(&mut inbox, &mut pool, at, read) > 0 {
                        progress = Progress::Answered;
                    }
                })
            });
            match tunnel.open(&mut inbox, &mut pool, at) {
                Err(tunnel::Error::HubKey { seen }) => return Ok(Ok(seen)),
                Err(error) => return Ok(Err(NoGreeting::Tunnel(progress, error))),
                // Nothing of a tunnel's can come before the key.
                Ok(Some(_)) => return Ok(Err(NoGreeting::Tunnel(progress, tunnel::Error::Frame))),
                Ok(None) => tunnel.park(&mut inbox, &mut pool),
            }
            match read {
                Ok(Outcome::More) => continue,
                Ok(Outcome::Drained) => {}
                Err(error) => return Ok(Err(NoGreeting::Socket(progress, error))),
            }
            let deadline = link.deadline().map_or(tunnel.deadline(), |at| at.min(tunnel.deadline()));
            at = match link {
                Link::Tcp(stream) => self.wait(deadline, Some(stream))?,
                Link::Ping(_) => self.wait(deadline, None)?,
            };
            if let Err(error) = tunnel.handle_timeout(at) {
                return Ok(Err(NoGreeting::Tunnel(progress, error)));
            }
        }
    }

    /// Sends the beginning of a third message that has no end, and looks what the kernel learns of it.
    ///
    /// Where full segments are lost, the small one behind them arrives, and the other end says that it has it.
    fn send_full(&mut self, link: &mut Link) -> io::Result<Packets> {
        let Link::Tcp(stream) = link else { return Ok(Packets::Unknown) };
        let mut message = vec![0; PROBE_BYTES];
        message[..2].copy_from_slice(&(MAX_HANDSHAKE as u16).to_be_bytes());
        let Some(before) = stream.info() else { return Ok(Packets::Unknown) };
        let start = now();
        let mut has_small = false;
        // What fails here says nothing about sizes.
        if !matches!(stream.write(&message), Ok(PROBE_BYTES)) {
            return Ok(Packets::Unknown);
        }
        loop {
            let at = self.wait(now() + LOOK_EVERY, Some(stream))?;
            let Some(info) = stream.info() else { return Ok(Packets::Unknown) };
            let segment = info.segment.min(PROBE_BYTES as u32);
            if info.acknowledged >= before.acknowledged + PROBE_BYTES as u64 {
                return Ok(Packets::Passed(segment));
            }
            has_small |= info.sacked > 0;
            if at.duration_since(start) >= PROBE_TIME {
                let is_lost = has_small && info.retransmissions > 0;
                return Ok(if is_lost { Packets::Lost(segment) } else { Packets::Unknown });
            }
        }
    }
}

fn now() -> Instant {
    Instant::now()
}
