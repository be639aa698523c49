//! A connection to a hub, and those that are tried beside it. Pure.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use common::wire::frame::Welcome;
use common::wire::key::PublicKey;
use common::wire::tunnel::Tunnel;

use super::advice::Progress;
use super::beside::Lane;
use super::choice::Choice;
use super::effect::MAX_TRIALS;
use super::probe::Probe;
use super::watching::Watching;

/// A connection with a tunnel on it.
pub(super) struct Linked {
    pub(super) tunnel: Tunnel,
    /// What it is connected to: the hub's outer address, or that of the proxy before it.
    pub(super) hub: SocketAddr,
    /// Since when there is the connection.
    pub(super) begun_at: Instant,
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
    /// Its second connection.
    pub(super) lane: Lane,
    /// How its hub's silence is noticed, where there is another hub.
    pub(super) watching: Watching,
}

impl Linked {
    pub(super) fn new(tunnel: Tunnel, hub: SocketAddr, now: Instant) -> Linked {
        Linked {
            tunnel,
            hub,
            begun_at: now,
            welcome: None,
            joined_at: None,
            probe: None,
            is_heard: false,
            is_pending: false,
            lane: Lane::default(),
            watching: Watching::default(),
        }
    }

    pub(super) fn progress(&self) -> Progress {
        match (self.tunnel.is_open(), self.is_heard) {
            (true, _) => Progress::Open,
            (false, true) => Progress::Answered,
            (false, false) => Progress::Silent,
        }
    }

    /// The key that the hub has proved, if it is not asked to let this spoke in yet.
    fn proved(&self) -> Option<PublicKey> {
        self.tunnel.remote().filter(|_| self.tunnel.is_half_open())
    }
}

/// What a connection is tried for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Goal {
    /// There is no link: the first hub that proves its key is joined.
    First,
    /// The link is silent: to have a hub that can be joined at once.
    Spare,
    /// To leave the hub in use for this one.
    Move,
    /// To reach the hub in use by a better way.
    Better,
    /// To know how far the hub is.
    Measure,
    /// To be a second connection beside the link.
    Lane,
}

/// A connection that is tried beside the link, or for one.
pub(super) struct Trial {
    /// Its way, by its number.
    pub(super) way: usize,
    pub(super) goal: Goal,
    pub(super) begun_at: Instant,
    pub(super) step: Step,
}

pub(super) enum Step {
    Resolving,
    Dialling,
    Linked(Box<Linked>),
}

impl Trial {
    fn linked(&self) -> Option<&Linked> {
        match &self.step {
            Step::Linked(linked) => Some(linked),
            Step::Resolving | Step::Dialling => None,
        }
    }

    /// The key that its hub has proved, if it is not asked to let this spoke in yet.
    pub(super) fn proved(&self) -> Option<PublicKey> {
        self.linked()?.proved()
    }

    /// Whether its hub is asked to let this spoke in.
    pub(super) fn has_joined(&self) -> bool {
        self.linked().is_some_and(|linked| !linked.tunnel.is_half_open())
    }
}

/// The connections that are tried, and when to try more.
#[derive(Default)]
pub(super) struct Trials {
    pub(super) slots: [Option<Trial>; MAX_TRIALS],
    /// Which hubs to try.
    pub(super) choice: Choice,
    /// When the next hub is tried, where there is no link or the link is in doubt.
    pub(super) next_at: Option<Instant>,
    /// Whether the link is in doubt.
    pub(super) is_in_doubt: bool,
    /// Until when packets wait at a link that has just taken the place of a silent one.
    pub(super) held_until: Option<Instant>,
    /// When a better way is tried, if there is one.
    pub(super) better_at: Option<Instant>,
    pub(super) better_pause: Duration,
}

impl Trials {
    /// Another link begins, or none: nothing is in doubt or waits.
    pub(super) fn forget_link(&mut self) {
        (self.is_in_doubt, self.next_at, self.held_until, self.better_at) = (false, None, None, None);
    }

    /// A free slot.
    pub(super) fn free(&self) -> Option<usize> {
        self.slots.iter().position(Option::is_none)
    }

    /// Those under way, with their slots; but for a lane, which is no other way.
    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, &Trial)> {
        let all = self.slots.iter().enumerate().filter_map(|(slot, trial)| Some((slot, trial.as_ref()?)));
        all.filter(|(_, trial)| trial.goal != Goal::Lane)
    }

    /// The slot of the lane, or of what is to be one.
    pub(super) fn lane(&self) -> Option<usize> {
        self.slots.iter().position(|trial| trial.as_ref().is_some_and(|trial| trial.goal == Goal::Lane))
    }

    /// The first one for which this holds.
    pub(super) fn find(&self, is_it: impl Fn(&Trial) -> bool) -> Option<usize> {
        self.iter().find(|(_, trial)| is_it(trial)).map(|(slot, _)| slot)
    }

    /// The slot of the one that has waited longest for a connection, and since when.
    pub(super) fn unanswered(&self) -> Option<(usize, Instant)> {
        let unanswered = self.iter().filter(|(_, trial)| trial.linked().is_none());
        unanswered.map(|(slot, trial)| (slot, trial.begun_at)).min_by_key(|&(_, since)| since)
    }

    /// Whether one is under way for this.
    pub(super) fn has(&self, goal: Goal) -> bool {
        self.find(|trial| trial.goal == goal).is_some()
    }

    /// When a tunnel of one has something to do.
    pub(super) fn tunnels_due(&self) -> Option<Instant> {
        self.slots.iter().flatten().filter_map(|trial| Some(trial.linked()?.tunnel.deadline())).min()
    }
}
