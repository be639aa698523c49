//! A better way to the hub, tried beside a link that goes by another one. Pure.
//!
//! ```text
//!   waiting ─▶ looked up ─▶ dialled ─▶ handshake ─▶ welcome: it is the link, and the old one is closed
//!      ▲           └───────────┴───────────┴─▶ the next better way, if there is one
//!      └── pause, longer each time ──────────────┘
//! ```
//! The link carries packets all the while: the hub lets go of it when it lets this spoke in by the better way.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use common::transport::layers::Stage;
use common::wire::frame::ControlFrame;
use common::wire::tunnel::{self, Flushed};

use super::effect::Attempt;
use super::linked::{Step, Trial};
use super::way::Way;
use super::{Buffers, Effect, Notice, Phase, Uplink, advice};

/// How long a link lasts before a better way is tried: at first, and at most. The pause doubles with each round in vain.
const FIRST_PAUSE: Duration = Duration::from_secs(30);
const LONGEST_PAUSE: Duration = Duration::from_secs(3_600);
/// Addresses of the hub to keep out of the LAN.
const MAX_ADDRESSES: usize = 64;

/// What came of an attempt to connect beside the link.
#[derive(Debug)]
pub enum Outcome {
    /// Of [`Effect::Resolve`].
    Resolved(io::Result<Vec<SocketAddr>>),
    /// [`Effect::Dial`] led to no connection: the address that failed, if one did.
    Unreachable(Option<SocketAddr>, io::Error),
    /// What is to be around the tunnel could not be set up, as it was at this stage.
    NotOpened(Stage, io::Error),
    /// The tunnel's bytes may flow to this address; with 32 random bytes.
    Connected(SocketAddr, [u8; 32]),
    /// The connection failed, or was closed by the other end.
    Closed(io::Error),
}

/// Adds addresses of the hub that are not known yet.
pub(crate) fn add_addresses(known: &mut Vec<IpAddr>, more: &[SocketAddr]) {
    for address in more.iter().map(|address| address.ip().to_canonical()) {
        if !known.contains(&address) && known.len() < MAX_ADDRESSES {
            known.push(address);
        }
    }
}

impl Uplink {
    /// The link has just led to the LAN, or the machine's network has changed: better ways are tried in a while.
    pub(super) fn schedule_trial(&mut self, now: Instant) {
        let better = self.ways.better(0);
        let Phase::Linked(linked) = &mut self.phase else { return };
        if matches!(linked.trial.step, Step::Waiting) {
            linked.trial.pause = FIRST_PAUSE;
            linked.trial.due_at = better.map(|_| now + FIRST_PAUSE);
        }
    }

    fn trial(&mut self) -> Option<&mut Trial> {
        match &mut self.phase {
            Phase::Linked(linked) => Some(&mut linked.trial),
            Phase::Paused(_) | Phase::Resolving | Phase::Dialling => None,
        }
    }

    pub(super) fn poll_trial(&mut self, now: Instant) {
        let Some(trial) = self.trial() else { return };
        match &mut trial.step {
            Step::Waiting if trial.due_at.is_some_and(|at| at <= now) => self.try_better(0, now),
            Step::Linked(linked) => {
                if let Err(error) = linked.tunnel.handle_timeout(now) {
                    self.fail_trial_link(&error, now);
                }
            }
            Step::Waiting | Step::Resolving | Step::Dialling => {}
        }
    }

    /// Tries the first better way from this number on, or waits for the next round.
    fn try_better(&mut self, from: usize, now: Instant) {
        let better = self.ways.better(from);
        let hop =
            better.map(|way| self.ways.get(way).first_hop()).map(|(host, port)| (host.to_owned(), port));
        let Some(trial) = self.trial() else { return };
        let (Some(way), Some((host, port))) = (better, hop) else {
            trial.step = Step::Waiting;
            trial.pause = (trial.pause * 2).min(LONGEST_PAUSE);
            trial.due_at = Some(now + trial.pause);
            return;
        };
        trial.way = way;
        trial.step = Step::Resolving;
        self.effects.push_back(Effect::Resolve { attempt: Attempt::Trial, host, port });
    }

    /// The way that is tried does not work.
    fn fail_trial(&mut self, why: &str, now: Instant) {
        let Some(trial) = self.trial() else { return };
        let way = trial.way;
        if let Step::Linked(mut linked) = std::mem::take(&mut trial.step) {
            linked.tunnel.close(&mut self.buffers.pool);
            self.effects.push_back(Effect::GiveUp);
        }
        if self.ways.trial_failed(way, why) {
            self.effects.push_back(Effect::Log(Notice::WayFailed(why.to_owned())));
        }
        self.try_better(way + 1, now);
    }

    fn fail_trial_link(&mut self, error: &tunnel::Error, now: Instant) {
        let Phase::Linked(link) = &self.phase else { return };
        let Trial { way, step: Step::Linked(linked), .. } = &link.trial else { return };
        let way = self.ways.get(*way);
        let why = if let tunnel::Error::HubKey { seen } = *error {
            self.key_changed(way, seen).to_string()
        } else {
            advice::failed(way, linked.progress(), error)
        };
        self.fail_trial(&why, now);
    }

    /// The outcome of an effect for [`Attempt::Trial`].
    pub fn handle_trial(&mut self, outcome: Outcome, now: Instant) {
        let Phase::Linked(link) = &mut self.phase else { return };
        let trial = &mut link.trial;
        let way = self.ways.get(trial.way);
        let why = match (&trial.step, outcome) {
            (Step::Resolving, Outcome::Resolved(Ok(addresses))) => {
                trial.step = Step::Dialling;
                let way = way.clone();
                return self.dial_trial(way, addresses);
            }
            (Step::Dialling, Outcome::Connected(hub, ephemeral)) => {
                let linked = self.join_by(hub, ephemeral, now);
                if let Some(trial) = self.trial() {
                    trial.step = Step::Linked(linked);
                }
                return;
            }
            (Step::Resolving, Outcome::Resolved(Err(error))) => advice::lookup(way, &error),
            (Step::Dialling, Outcome::Unreachable(tried, error)) => advice::connect(way, tried, &error),
            (Step::Dialling, Outcome::NotOpened(stage, error)) => advice::opening(way, stage, &error),
            (Step::Linked(linked), Outcome::Closed(error)) => advice::broken(way, linked.progress(), &error),
            // It was given up meanwhile.
            _ => return,
        };
        self.fail_trial(&why, now);
    }

    fn dial_trial(&mut self, way: Way, addresses: Vec<SocketAddr>) {
        // No route may lead the dialling itself into the LAN, nor the link.
        add_addresses(&mut self.outer.hub_addresses, &addresses);
        self.set_routes();
        let segment = self.outer.segments.limit();
        let attempt = Attempt::Trial;
        self.effects.push_back(Effect::Dial { attempt, way, addresses, segment, is_hasty: true });
    }

    /// Reads once from the connection that is tried, as [`Uplink::receive`] does from the link. Once the hub has let
    /// this spoke in, that is the link.
    pub fn receive_trial(&mut self, now: Instant, read: impl FnOnce(&mut [u8]) -> usize) {
        let Phase::Linked(link) = &mut self.phase else { return };
        let Step::Linked(linked) = &mut link.trial.step else { return };
        let Buffers { inbox, pool, .. } = &mut self.buffers;
        linked.is_heard |= linked.tunnel.fill(inbox, pool, now, read) > 0;
        match linked.tunnel.open(inbox, pool, now) {
            Ok(Some(tunnel::Event::Control(frame @ ControlFrame::Welcome(_)))) => {
                self.switch(now);
                self.handle_frame(frame, now);
                self.open_received(now);
            }
            Ok(Some(tunnel::Event::Control(ControlFrame::Refused { text, .. }))) => {
                linked.tunnel.park(inbox, pool);
                self.fail_trial(&text, now);
            }
            Ok(Some(tunnel::Event::Packet(packet))) => {
                linked.tunnel.park(inbox, pool);
                self.recycle(packet);
                self.fail_trial("the hub sends packets ahead of its welcome", now);
            }
            Ok(Some(tunnel::Event::Control(_) | tunnel::Event::Join { .. })) => {
                linked.tunnel.park(inbox, pool);
                self.fail_trial("the hub does not let this spoke in by it", now);
            }
            Ok(None) => linked.tunnel.park(inbox, pool),
            Err(error) => self.fail_trial_link(&error, now),
        }
    }

    /// Writes to the connection that is tried, as [`Uplink::flush`] does to the link.
    pub fn flush_trial(&mut self, now: Instant, write: impl FnMut(&[u8]) -> usize) -> Flushed {
        let Phase::Linked(link) = &mut self.phase else { return Flushed::Done };
        let Step::Linked(linked) = &mut link.trial.step else { return Flushed::Done };
        let Buffers { outbox, pool, .. } = &mut self.buffers;
        match linked.tunnel.flush(outbox, pool, now, write) {
            Ok(flushed) => flushed,
            Err(error) => {
                self.fail_trial_link(&error, now);
                Flushed::Done
            }
        }
    }

    /// The link has ended: whether the better way takes its place, which the hub may have let this spoke in by already.
    pub(super) fn switch_at_loss(&mut self, now: Instant) -> bool {
        let is_possible = self.trial().is_some_and(|trial| trial.has_joined());
        if is_possible {
            self.switch(now);
        }
        is_possible
    }

    /// Puts the better way in the place of the link, with the packets that wait there.
    fn switch(&mut self, now: Instant) {
        let Phase::Linked(old) = &mut self.phase else { return };
        let way = old.trial.way;
        let Step::Linked(mut new) = std::mem::take(&mut old.trial.step) else { return };
        new.tunnel.take_queue(&mut old.tunnel);
        self.close_link(false, now);
        self.effects.push_back(Effect::Switch);
        self.ways.switch_to(way);
        self.begin_link(new);
    }

    /// Gives up what is tried, as the link has ended.
    pub(super) fn end_trial(&mut self, trial: Trial) {
        match trial.step {
            Step::Waiting => return,
            Step::Resolving | Step::Dialling => {}
            Step::Linked(mut linked) => linked.tunnel.close(&mut self.buffers.pool),
        }
        self.effects.push_back(Effect::GiveUp);
    }
}
