//! Connections to other hubs, from the look-up to what is spoken around the tunnel. IO.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::linux::sandbox::Profile;
use common::node::advice;
use common::node::cli;
use common::node::dial::{Dial, Dialed, Lookup, MAX_ADDRESSES, Translation, time_to_dial};
use common::node::event_loop::{EventLoop, Ready};
use common::node::link::Link;
use common::node::opening::{Opening, Plan, trust};
use common::node::outbound::Outbound;
use common::node::ping_dial::{PingDial, PingDialed, Pings};
use common::node::way::{Trust, Way};
use common::transport::tls::files::FileError;
use common::wire::key::PublicKey;
use common::wire::place::Place;
use log::{debug, info};
use mio::net::TcpStream;
use mio::{Registry, Waker};

use crate::ids::SessionId;
use crate::lan::hubs;
use crate::lan::members::Members;

/// The numbers of one hub's connection attempts are so many aligned ones, so that they never wrap around within.
const NUMBERS: u16 = MAX_ADDRESSES as u16;

/// Why a hub is not reached by pings: raw sockets are opened at the start alone.
const NO_PINGS: &str = "no hub was to be reached by pings when this one started: start it anew";

/// The connections that are being made, one for each hub at most.
pub(super) struct Dials {
    outbound: Outbound,
    /// Whose TLS certificates are trusted, or why nobody's.
    trust: Result<Trust, String>,
    /// Where a hub was to be reached by pings when this one started.
    pings: Option<Pings>,
    profile: Profile,
    /// How long all addresses of a hub may take together.
    time: Duration,
    waker: Option<Arc<Waker>>,
    by_hub: BTreeMap<PublicKey, Attempt>,
    /// When the links to other hubs are looked at next.
    pub(super) look_at: Option<Instant>,
    /// The number of the next connection attempt.
    next: u16,
}

/// A connection that is being made.
struct Attempt {
    way: Way,
    stage: Stage,
    /// The link of which it is to be a lane, if it is to be one.
    lane_of: Option<SessionId>,
}

enum Stage {
    Lookup(Lookup),
    Dial(Dial),
    Pinging(Box<PingDial>),
    /// With the address that it comes from.
    Opening(Opening, Option<IpAddr>),
}

/// What became of a dial.
pub(super) enum Outcome {
    Connected(Connected),
    /// None, and why.
    Failed(String),
}

/// A connection on which the tunnel's bytes may flow. A stream is registered as a connection attempt; what has come for
/// the tunnel by then is not reported any more.
pub(super) struct Connected {
    pub(super) link: Link,
    /// What it is connected to: the hub, or the proxy or web server before it.
    pub(super) at: SocketAddr,
    /// The address that it comes from.
    pub(super) from: Option<IpAddr>,
}

impl Dials {
    /// Those of a process that will be confined to these places. To be called before: certificates are read here.
    ///
    /// # Errors
    /// Where a file of certificates is of no use, which a person named.
    pub(super) fn new(outbound: Outbound, places: &[&Place], time: Duration) -> Result<Dials, FileError> {
        let has_tls = |place: &&Place| Way::from(place.target().clone()).has_tls();
        let trust = match &outbound.tls_ca {
            Some(file) => Ok(trust(Some(file))?),
            None if places.iter().any(has_tls) => trust(None).map_err(|error| error.to_string()),
            None => Err("no hub was to be reached by TLS when this one started: start it anew".to_owned()),
        };
        let mut dials = Dials {
            outbound,
            trust,
            pings: places.iter().any(|place| place.is_ping()).then(Pings::open),
            profile: Profile::Accepts,
            time,
            waker: None,
            by_hub: BTreeMap::new(),
            look_at: None,
            next: 0,
        };
        let needed = places.iter().map(|place| match dials.way(place) {
            Ok(way) if !way.is_named() => Profile::Connects,
            Ok(_) | Err(_) => Profile::Resolves,
        });
        dials.profile = needed.max().unwrap_or(Profile::Accepts);
        Ok(dials)
    }

    /// What the process still does once it is confined.
    pub(super) fn profile(&self) -> Profile {
        self.profile
    }

    /// The TCP port to which it connects for a hub.
    pub(super) fn port(&self, place: &Place) -> Option<u16> {
        self.way(place).ok().filter(|way| !way.is_ping()).map(|way| way.first_hop().1)
    }

    /// Says by which proxies the ways to these places go that the environment names.
    pub(super) fn announce(&self, places: &[&Place]) {
        for place in places {
            if let Ok(Some((Some(variable), url))) = self.outbound.proxy_to(place.target(), cli::variable_of)
            {
                info!("going through the proxy {url} to {place} ({variable} in the environment)");
            }
        }
    }

    /// Registers the raw sockets, if there are any.
    pub(super) fn register(&self, events: &EventLoop) -> io::Result<()> {
        self.pings.as_ref().map_or(Ok(()), |pings| pings.register(events))
    }

    /// Whether what goes in pings is to be served again.
    pub(super) fn has_left_replies(&self) -> bool {
        self.pings.as_ref().is_some_and(Pings::has_left)
    }

    /// Has look-ups wake the loop by this.
    pub(super) fn set_waker(&mut self, waker: Arc<Waker>) {
        self.waker = Some(waker);
    }

    fn way(&self, place: &Place) -> Result<Way, String> {
        let hub = place.target().clone();
        let proxy = self.outbound.proxy_to(&hub, cli::variable_of)?;
        Ok(Way { hub, proxy: proxy.map(|(_, url)| url) })
    }

    /// Begins to reach a hub.
    ///
    /// # Errors
    /// Where the way there needs what this process cannot do since it is confined.
    pub(super) fn start(&mut self, hub: PublicKey, place: &Place, now: Instant) -> Result<(), String> {
        let way = self.way(place)?;
        if let (true, Err(why)) = (way.has_tls(), &self.trust) {
            return Err(why.clone());
        }
        if way.is_ping() && self.pings.is_none() {
            return Err(NO_PINGS.to_owned());
        }
        let (host, port) = way.first_hop();
        let stage = match (host.parse::<IpAddr>(), &self.waker) {
            (Ok(address), _) => self.dial(&way, vec![(address, port).into()], now),
            (Err(_), Some(waker)) if self.profile == Profile::Resolves => {
                Stage::Lookup(Lookup::start(host.to_owned(), port, Translation::default(), waker))
            }
            (Err(_), _) => {
                return Err(format!(
                    "no hub had a name when this one started, so that it looks none up: start it anew, or write an \
                     address instead of {host}"
                ));
            }
        };
        self.by_hub.insert(hub, Attempt { way, stage, lane_of: None });
        Ok(())
    }

    /// Begins to connect once more to a hub, for a lane of the link to it, which is connected to this address.
    ///
    /// # Errors
    /// Where the way there cannot be gone any more.
    pub(super) fn start_lane(
        &mut self,
        (hub, link): (PublicKey, SessionId),
        place: &Place,
        at: SocketAddr,
        now: Instant,
    ) -> Result<(), String> {
        let way = self.way(place)?;
        if way.is_ping() {
            return Err("a link in pings has no lane".to_owned());
        }
        let attempt = Attempt { stage: self.dial(&way, vec![at], now), way, lane_of: Some(link) };
        self.by_hub.insert(hub, attempt);
        Ok(())
    }

    fn dial(&mut self, way: &Way, addresses: Vec<SocketAddr>, now: Instant) -> Stage {
        if way.is_ping() {
            // A name with two addresses, or a long way: the first answer takes two round trips.
            let time = self.time.max(time_to_dial(true));
            return Stage::Pinging(Box::new(PingDial::start(addresses, time, now)));
        }
        Stage::Dial(Dial::start(addresses, self.numbers(), None, self.time, now))
    }

    /// The first of as many numbers as a dial needs, which no connection has on which something is being set up.
    fn numbers(&mut self) -> u16 {
        let is_taken =
            |first: u16| self.by_hub.values().any(|attempt| attempt.stage.block() == Some(first / NUMBERS));
        let mut first = self.next;
        while is_taken(first) {
            first = first.wrapping_add(NUMBERS);
        }
        self.next = first.wrapping_add(NUMBERS);
        first
    }

    /// Takes in what an event said about a connection attempt.
    pub(super) fn set_ready(&mut self, attempt: u16, ready: &Ready) {
        for Attempt { stage, .. } in self.by_hub.values_mut() {
            match stage {
                Stage::Opening(opening, _) if opening.number == attempt => {
                    opening.stream.set_ready(ready.is_writable, ready.is_closed);
                }
                Stage::Lookup(_) | Stage::Dial(_) | Stage::Pinging(_) | Stage::Opening(..) => {}
            }
        }
    }

    /// When `poll` has something to do without an event.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let deadline = |stage: &Stage| match stage {
            Stage::Lookup(_) => None,
            Stage::Dial(dial) => Some(dial.deadline()),
            Stage::Pinging(dial) => Some(dial.deadline()),
            Stage::Opening(opening, _) => Some(opening.give_up_at),
        };
        self.by_hub.values().filter_map(|attempt| deadline(&attempt.stage)).min()
    }

    /// Goes on with all of them; what became of one that has come to an end: its hub, and the link of which it was to be a
    /// lane, if any.
    pub(super) fn poll(
        &mut self,
        registry: &Registry,
        now: Instant,
    ) -> Option<(PublicKey, Option<SessionId>, Outcome)> {
        let hubs: Vec<(PublicKey, Option<SessionId>)> =
            self.by_hub.iter().map(|(&hub, attempt)| (hub, attempt.lane_of)).collect();
        hubs.into_iter().find_map(|(hub, lane_of)| Some((hub, lane_of, self.poll_one(hub, registry, now)?)))
    }

    fn poll_one(&mut self, hub: PublicKey, registry: &Registry, now: Instant) -> Option<Outcome> {
        let Attempt { way, mut stage, lane_of } = self.by_hub.remove(&hub)?;
        loop {
            let next = match stage {
                Stage::Lookup(lookup) if lookup.is_done() => match lookup.finish() {
                    Ok(addresses) => Ok(self.dial(&way, addresses, now)),
                    Err(error) => Err(advice::lookup(&way, &error)),
                },
                Stage::Dial(mut dial) => match dial.poll(registry, now) {
                    Dialed::Wait => {
                        stage = Stage::Dial(dial);
                        break;
                    }
                    Dialed::Connected(at, stream, number) => self.open(&way, (at, stream, number), now),
                    Dialed::Failed(at, error) => Err(failure(&way, at, &error)),
                },
                Stage::Pinging(mut dial) => match self.pings.as_ref().map(|pings| dial.poll(pings, now)) {
                    Some(PingDialed::Connected(at, ping)) => {
                        let from = Some(ping.own_address());
                        return Some(Outcome::Connected(Connected { link: Link::Ping(ping), at, from }));
                    }
                    Some(PingDialed::Failed(at, error)) => Err(advice::connect(&way, at, &error)),
                    Some(PingDialed::Wait) => {
                        stage = Stage::Pinging(dial);
                        break;
                    }
                    None => Err(NO_PINGS.to_owned()),
                },
                Stage::Opening(mut opening, from) => match opening.go_on(now) {
                    Ok(true) => {
                        let Opening { stream, at, .. } = opening;
                        return Some(Outcome::Connected(Connected { link: Link::Tcp(stream), at, from }));
                    }
                    Ok(false) => {
                        stage = Stage::Opening(opening, from);
                        break;
                    }
                    Err(error) => Err(advice::opening(&way, opening.stream.stage(), &error)),
                },
                Stage::Lookup(_) => break,
            };
            match next {
                Ok(next) => stage = next,
                Err(why) => {
                    debug!("no connection to another hub: {why}");
                    return Some(Outcome::Failed(why));
                }
            }
        }
        self.by_hub.insert(hub, Attempt { way, stage, lane_of });
        None
    }

    /// A connection is there: begins what is spoken around the tunnel.
    fn open(
        &self,
        way: &Way,
        (at, stream, number): (SocketAddr, TcpStream, u16),
        now: Instant,
    ) -> Result<Stage, String> {
        let from = stream.local_addr().ok().map(|from| from.ip().to_canonical());
        let plan = Plan { way: way.clone(), is_hasty: false };
        let opening = Opening::begin(stream, number, at, &plan, self.trust.as_ref().ok(), now);
        opening.map(|opening| Stage::Opening(opening, from)).map_err(|error| error.to_string())
    }
}

impl Stage {
    /// Which block of numbers it has once it is connected.
    fn block(&self) -> Option<u16> {
        match self {
            Stage::Opening(opening, _) => Some(opening.number / NUMBERS),
            Stage::Lookup(_) | Stage::Dial(_) | Stage::Pinging(_) => None,
        }
    }
}

/// Where the other hubs of these members are, of whom `own` is this one.
pub(super) fn places<'a>(members: &'a Members, own: &PublicKey) -> Vec<&'a Place> {
    let others = hubs::of(members).into_iter().filter(|hub| hub.key != *own);
    others.filter_map(|hub| hub.hub.as_ref()).collect()
}

fn failure(way: &Way, at: Option<SocketAddr>, error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::PermissionDenied {
        let port = way.first_hop().1;
        return format!(
            "this hub was started when no other one was to be reached by port {port}: start it anew"
        );
    }
    advice::connect(way, at, error)
}
