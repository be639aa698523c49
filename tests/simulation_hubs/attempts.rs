//! What a spoke's shell has under way for its uplink, in memory.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use common::wire::invite::Secret;
use common::wire::target::Target;
use spoke::uplink::routes::RoutePolicy;
use spoke::uplink::trial::Outcome;
use spoke::uplink::{Attempt, Config, MAX_TRIALS, Uplink};

use crate::pipe::{Pipe, Read};

/// How long a dial lasts that nobody answers.
pub(crate) const GIVE_UP_AFTER: Duration = Duration::from_secs(3);

/// The link's, and those of trials.
pub(crate) type Attempts = [State; 1 + MAX_TRIALS];

/// What the shell has under way for one attempt.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum State {
    #[default]
    None,
    Lookup(Instant, SocketAddr),
    /// The hub is reached then, or it is known that it is not.
    Dial(Instant, SocketAddr),
    Link(usize),
}

/// Where an attempt is among [`Attempts`].
pub(crate) fn index(attempt: Attempt) -> usize {
    match attempt {
        Attempt::Link => 0,
        Attempt::Trial(slot) => 1 + slot,
    }
}

/// The settings of a spoke that is given one hub.
pub(crate) fn config(hub: Target, name: &str, addresses: Vec<IpAddr>, invite: Option<Secret>) -> Config {
    Config {
        hubs: vec![hub.clone()],
        ways: vec![hub.into()],
        hub_keys: Vec::new(),
        addresses,
        name: name.parse().unwrap(),
        invite,
        route_policy: RoutePolicy::default(),
        mtu: None,
        follows_members: false,
        may_have_lane: true,
        pins: "hubs".into(),
    }
}

/// Tells the uplink what became of an attempt.
pub(crate) fn tell(uplink: &mut Uplink, attempt: Attempt, outcome: Outcome, now: Instant) {
    match (attempt, outcome) {
        (Attempt::Trial(slot), outcome) => uplink.handle_trial(slot, outcome, now),
        (Attempt::Link, Outcome::Resolved(found)) => uplink.handle_resolved(found, now),
        (Attempt::Link, Outcome::Unreachable(tried, error)) => uplink.handle_unreachable(tried, &error, now),
        (Attempt::Link, Outcome::Connected(to, ephemeral)) => uplink.handle_connected(to, ephemeral, now),
        (Attempt::Link, Outcome::Closed(error)) => uplink.handle_closed(&error, now),
        (Attempt::Link, Outcome::NotOpened(..)) => unreachable!("there is nothing around the tunnel"),
    }
}

/// Has the uplink read once from what the hub has sent it.
pub(crate) fn receive(uplink: &mut Uplink, attempt: Attempt, pipe: &mut Pipe, now: Instant) -> Read {
    let mut read = Read::Nothing;
    let from = |space: &mut [u8]| {
        read = pipe.read(space, now);
        read.len()
    };
    match attempt {
        Attempt::Link => uplink.receive(now, from),
        Attempt::Trial(slot) => uplink.receive_trial(slot, now, from),
    }
    read
}
