//! From phase to phase: pause, look-up, dialling, link, and pause again. IO.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use common::node::event_loop::Source;
use common::node::state;
use common::transport::tcp::{Broken, Link};
use common::wire::frame::{Join, Peer};
use common::wire::tunnel::{self, Tunnel};
use ipnetwork::IpNetwork;
use log::warn;

use super::{Client, Error, HUBS};
use crate::dial::{Dial, Dialed, Lookup};

/// Where the spoke stands with its hub.
pub(super) enum Phase {
    /// Waits before it tries again.
    Pause(Instant),
    Lookup(Lookup),
    Dial(Dial),
    Linked(Box<Linked>),
}

pub(super) struct Linked {
    pub(super) link: Link,
    pub(super) tunnel: Tunnel,
    pub(super) token: u16,
    pub(super) hub: SocketAddr,
    /// What earlier links told of prefixes, and this one has not yet.
    pub(super) stale: BTreeSet<IpNetwork>,
    /// The pages of the list of members that have come in so far.
    pub(super) peers: Vec<Peer>,
    pub(super) joined_at: Option<Instant>,
}

/// Why a try ended, for the person; the same reason is told once.
#[derive(Default)]
pub(super) struct Failures {
    pub(super) last: String,
    count: usize,
}

impl Client {
    /// Takes the steps towards the hub that are due.
    pub(super) fn advance(&mut self, now: Instant) -> Result<(), Error> {
        if let Some(key) = self.hub_key.filter(|_| self.pin_again_at.is_some_and(|at| at <= now)) {
            self.keep_pin(key, now);
        }
        match &mut self.phase {
            Phase::Pause(until) if *until <= now => {
                self.phase = Phase::Lookup(Lookup::start(&self.config.hub, &self.waker));
            }
            Phase::Dial(dial) => match dial.poll(self.events.registry(), now) {
                Dialed::Wait => {}
                Dialed::Connected(hub, stream, token) => self.link(hub, stream, token, now),
                Dialed::Failed(error) => {
                    let why = if error.kind() == io::ErrorKind::ConnectionRefused {
                        "nothing listens there: is the hub running?".to_owned()
                    } else if error.kind() == io::ErrorKind::TimedOut {
                        "no answer: is the port open on the way?".to_owned()
                    } else {
                        error.to_string()
                    };
                    self.retry(format!("cannot reach {}: {why}", self.config.hub), now);
                }
            },
            Phase::Linked(linked) => {
                if let Err(error) = linked.tunnel.handle_timeout(now) {
                    self.broken(error.into(), now)?;
                }
            }
            Phase::Pause(_) | Phase::Lookup(_) => {}
        }
        Ok(())
    }

    /// Dials what the look-up found. The look-up wakes the loop once, as the last thing that it does.
    pub(super) fn handle_found(&mut self, now: Instant) {
        if !matches!(self.phase, Phase::Lookup(_)) {
            return;
        }
        let Phase::Lookup(lookup) = std::mem::replace(&mut self.phase, Phase::Pause(now)) else { return };
        match lookup.finish() {
            Ok(addresses) => {
                self.hub_addresses = addresses.iter().map(|address| address.ip().to_canonical()).collect();
                // No route may lead the dialling itself into the LAN.
                self.set_routes();
                self.phase = Phase::Dial(Dial::start(addresses, now));
            }
            Err(error) => self.retry(format!("cannot find {}: {error}", self.config.hub.host), now),
        }
    }

    fn link(&mut self, hub: SocketAddr, stream: mio::net::TcpStream, token: u16, now: Instant) {
        let (link, ephemeral) = match Link::new(stream).and_then(|link| Ok((link, state::random()?))) {
            Ok(made) => made,
            Err(error) => return self.retry(format!("cannot use the connection to {hub}: {error}"), now),
        };
        let join = Join {
            name: self.config.name.clone(),
            addresses: self.config.addresses.clone(),
            routes: self.config.route_policy.offered.clone(),
            mtu: self.config.mtu,
            invite: self.config.invite.as_ref().map(|invite| invite.0),
            had: self.had.clone(),
        };
        let tunnel = Tunnel::spoke(&self.key, ephemeral, self.hub_key, &join, &mut self.pool, now);
        let (stale, peers) = (self.told.clone(), Vec::new());
        let linked = Linked { link, tunnel, token, hub, stale, peers, joined_at: None };
        self.phase = Phase::Linked(Box::new(linked));
        // The hub may have been quicker than this turn.
        self.events.again(Source::Dial(token));
    }

    /// Ends the try or the link, tells why, and begins again after a pause.
    pub(super) fn retry(&mut self, why: String, now: Instant) {
        if let Phase::Linked(linked) = &mut self.phase {
            self.drops.add_all(&linked.tunnel.queue().drops());
            linked.tunnel.close(&mut self.pool);
        }
        self.give_up_waiting(now);
        let random = state::random()
            .map_or(u32::MAX / 2, |bytes| u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
        let pause = self.backoff.pause(random);
        self.failures.tell(why);
        self.phase = Phase::Pause(now + pause);
        self.set_routes();
    }

    pub(super) fn broken(&mut self, why: Broken, now: Instant) -> Result<(), Error> {
        if let Broken::Tunnel(tunnel::Error::HubKey { seen }) = why {
            let error = Error::KeyChanged {
                hub: self.config.hub.clone(),
                known: self.hub_key.unwrap_or(seen),
                seen,
                pinned_in: self.config.hub_key.is_none().then(|| self.state.path().join(HUBS)),
            };
            if !self.was_on_lan {
                return Err(error);
            }
            self.backoff.slow_down();
            self.retry(error.to_string(), now);
            return Ok(());
        }
        if let (Broken::Tunnel(tunnel::Error::Silent), Phase::Linked(linked)) = (&why, &self.phase) {
            linked.link.abort();
        }
        let what = if self.is_on_lan() { "lost the hub" } else { "cannot join through" };
        self.retry(format!("{what} {}: {why}", self.config.hub), now);
        Ok(())
    }

    pub(super) fn is_on_lan(&self) -> bool {
        matches!(&self.phase, Phase::Linked(linked) if linked.tunnel.is_open())
    }
}

impl Failures {
    /// Tells a reason: the first time, and then each tenth.
    fn tell(&mut self, why: String) {
        if why != self.last {
            self.last = why;
            self.count = 0;
        }
        self.count += 1;
        if self.count == 1 {
            warn!("{}; trying again until it works", self.last);
        } else if self.count.is_multiple_of(10) {
            warn!("{} (tried {} times)", self.last, self.count);
        }
    }
}
