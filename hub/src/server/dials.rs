//! Connections to other hubs, from the look-up to the link. IO.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use common::linux::sandbox::Profile;
use common::node::dial::{Dial, Dialed, Lookup, MAX_ADDRESSES, Translation};
use common::wire::key::PublicKey;
use common::wire::place::Place;
use log::debug;
use mio::net::TcpStream;
use mio::{Registry, Waker};

use crate::lan::hubs;
use crate::lan::members::Members;
use crate::lan::peers::RETRY_EVERY;

/// The connections that are being made, one for each hub at most.
pub(super) struct Dials {
    profile: Profile,
    waker: Option<Arc<Waker>>,
    by_hub: BTreeMap<PublicKey, Stage>,
    /// The number of the next connection attempt.
    next: u16,
}

enum Stage {
    Lookup(Lookup),
    Dial(Dial),
}

/// What became of a dial.
pub(super) enum Outcome {
    /// A connection, registered as that of an attempt.
    Connected(SocketAddr, TcpStream),
    /// None, and why.
    Failed(String),
}

impl Dials {
    /// Those of a process that will be confined like this.
    pub(super) fn new(profile: Profile) -> Dials {
        Dials { profile, waker: None, by_hub: BTreeMap::new(), next: 0 }
    }

    /// What the process still does once it is confined.
    pub(super) fn profile(&self) -> Profile {
        self.profile
    }

    /// Has look-ups wake the loop by this.
    pub(super) fn set_waker(&mut self, waker: Arc<Waker>) {
        self.waker = Some(waker);
    }

    /// Begins to reach a hub.
    ///
    /// # Errors
    /// Where the hub has a name, and this process does not look names up.
    pub(super) fn start(&mut self, hub: PublicKey, place: &Place, now: Instant) -> Result<(), String> {
        let Place { host, port } = place;
        let stage = match (host.parse::<IpAddr>(), &self.waker) {
            (Ok(address), _) => self.dial(vec![(address, *port).into()], now),
            (Err(_), Some(waker)) if self.profile == Profile::Resolves => {
                Stage::Lookup(Lookup::start(host.clone(), *port, Translation::default(), waker))
            }
            (Err(_), _) => {
                return Err(format!(
                    "no hub had a name when this one started, so that it looks none up: start it anew, or write an \
                     address instead of {host}"
                ));
            }
        };
        self.by_hub.insert(hub, stage);
        Ok(())
    }

    fn dial(&mut self, addresses: Vec<SocketAddr>, now: Instant) -> Stage {
        let first = self.next;
        self.next = self.next.wrapping_add(MAX_ADDRESSES as u16);
        Stage::Dial(Dial::start(addresses, first, None, RETRY_EVERY, now))
    }

    /// When `poll` has something to do without an event.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let deadline = |stage: &Stage| match stage {
            Stage::Lookup(_) => None,
            Stage::Dial(dial) => Some(dial.deadline()),
        };
        self.by_hub.values().filter_map(deadline).min()
    }

    /// Goes on with all of them; what became of one that has come to an end.
    pub(super) fn poll(&mut self, registry: &Registry, now: Instant) -> Option<(PublicKey, Outcome)> {
        let hubs: Vec<PublicKey> = self.by_hub.keys().copied().collect();
        hubs.into_iter().find_map(|hub| Some((hub, self.poll_one(hub, registry, now)?)))
    }

    fn poll_one(&mut self, hub: PublicKey, registry: &Registry, now: Instant) -> Option<Outcome> {
        let stage = match self.by_hub.remove(&hub)? {
            Stage::Lookup(lookup) if lookup.is_done() => match lookup.finish() {
                Ok(addresses) => self.dial(addresses, now),
                Err(error) => return Some(Outcome::Failed(format!("its name cannot be looked up: {error}"))),
            },
            stage @ (Stage::Lookup(_) | Stage::Dial(_)) => stage,
        };
        let Stage::Dial(mut dial) = stage else {
            self.by_hub.insert(hub, stage);
            return None;
        };
        match dial.poll(registry, now) {
            Dialed::Wait => {
                self.by_hub.insert(hub, Stage::Dial(dial));
                None
            }
            Dialed::Connected(address, mut stream, _) => Some(match registry.deregister(&mut stream) {
                Ok(()) => Outcome::Connected(address, stream),
                Err(error) => Outcome::Failed(error.to_string()),
            }),
            Dialed::Failed(at, error) => {
                debug!("no connection to another hub: {at:?}: {error}");
                Some(Outcome::Failed(failure(at, &error)))
            }
        }
    }
}

/// What a hub does once it is confined, with these members, whose own key this is: it connects to other hubs.
pub(super) fn profile(members: &Members, own: &PublicKey) -> Profile {
    let others = hubs::of(members).into_iter().filter(|hub| hub.key != *own);
    let places = others.filter_map(|hub| hub.hub.as_ref());
    let needed = places.map(|place| match place.host.parse::<IpAddr>() {
        Ok(_) => Profile::Connects,
        Err(_) => Profile::Resolves,
    });
    needed.max().unwrap_or(Profile::Accepts)
}

fn failure(at: Option<SocketAddr>, error: &io::Error) -> String {
    let at = at.map_or(String::new(), |at| format!("{at}: "));
    let kind = error.kind();
    let why = if kind == io::ErrorKind::ConnectionRefused {
        "nothing listens there".to_owned()
    } else if kind == io::ErrorKind::PermissionDenied {
        "this hub was started when no other one was to be reached by that port: start it anew".to_owned()
    } else if kind == io::ErrorKind::TimedOut {
        format!("no answer within {} s", RETRY_EVERY.as_secs())
    } else {
        error.to_string()
    };
    at + &why
}
