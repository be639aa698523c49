//! A connection to the hub, and the search for a better one beside it. Pure.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use common::wire::frame::Welcome;
use common::wire::tunnel::Tunnel;

use super::advice::Progress;
use super::probe::Probe;

/// A connection with a tunnel on it.
pub(super) struct Linked {
    pub(super) tunnel: Tunnel,
    /// What it is connected to: the hub's outer address, or that of the proxy before it.
    pub(super) hub: SocketAddr,
    /// What the hub granted, while the device is being configured for it.
    pub(super) welcome: Option<Welcome>,
    /// Since when this spoke is on the LAN by this link.
    pub(super) joined_at: Option<Instant>,
    /// The question whether the hub still answers, after its path has changed.
    pub(super) probe: Option<Probe>,
    /// Whether anything came from the other end.
    pub(super) is_heard: bool,
    /// Whether a person at the hub has to let this spoke in.
    pub(super) is_pending: bool,
    /// The search for a better way.
    pub(super) trial: Trial,
}

impl Linked {
    pub(super) fn progress(&self) -> Progress {
        match (self.tunnel.is_open(), self.is_heard) {
            (true, _) => Progress::Open,
            (false, true) => Progress::Answered,
            (false, false) => Progress::Silent,
        }
    }
}

/// The search for a better way than the link's.
#[derive(Default)]
pub(super) struct Trial {
    /// When the next round begins, if there is a better way.
    pub(super) due_at: Option<Instant>,
    pub(super) pause: Duration,
    /// The way that is tried, by its number.
    pub(super) way: usize,
    pub(super) step: Step,
}

#[derive(Default)]
pub(super) enum Step {
    #[default]
    Waiting,
    Resolving,
    Dialling,
    Linked(Box<Linked>),
}

impl Trial {
    /// When there is something to do without an event.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match &self.step {
            Step::Waiting => self.due_at,
            Step::Resolving | Step::Dialling => None,
            Step::Linked(linked) => Some(linked.tunnel.deadline()),
        }
    }

    /// Whether the hub knows by now that this spoke is to join by it.
    pub(super) fn has_joined(&self) -> bool {
        matches!(&self.step, Step::Linked(linked) if !linked.tunnel.is_half_open())
    }
}
