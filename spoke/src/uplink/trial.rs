//! Connections that are tried beside the link, or for one: each looks up, dials and has the hub prove its key. Pure.
//!
//! ```text
//!   looked up ─▶ dialled ─▶ key proved ─▶ asked to join ─▶ welcome: it is the link, and the old one is closed
//! ```
//! What becomes of one whose hub has proved its key is decided by what it is for, in `elsewhere.rs`. The link carries
//! packets all the while.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use common::transport::layers::Stage;
use common::wire::frame::ControlFrame;
use common::wire::tunnel::{self, Flushed, Tunnel};

use super::effect::Attempt;
use super::linked::{Goal, Linked, Step, Trial};
use super::{Buffers, Effect, Notice, Phase, Uplink, advice};

/// How long a link lasts before a better way is tried: at first, and at most. The pause doubles with each round in vain.
const FIRST_PAUSE: Duration = Duration::from_secs(30);
const LONGEST_PAUSE: Duration = Duration::from_secs(3_600);
/// Addresses of hubs to keep out of the LAN.
const MAX_ADDRESSES: usize = 64;

/// What came of an attempt to connect.
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
    // ---- a better way to the same hub

    /// The link has just led to the LAN, or the machine's network has changed: better ways are tried in a while.
    pub(super) fn schedule_better(&mut self, now: Instant) {
        if !self.trials.has(Goal::Better) {
            self.trials.better_pause = FIRST_PAUSE;
            self.trials.better_at = self.ways.better(0).map(|_| now + FIRST_PAUSE);
        }
    }

    /// Tries the first better way from this number on, or waits for the next round.
    pub(super) fn try_better(&mut self, from: usize, now: Instant) {
        let better = self.ways.better(from);
        if let (Some(way), Some(slot)) = (better, self.trials.free()) {
            self.trials.better_at = None;
            return self.begin_trial(slot, way, Goal::Better, now);
        }
        let trials = &mut self.trials;
        trials.better_pause = (trials.better_pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
        trials.better_at = Some(now + trials.better_pause);
    }

    // ---- one trial

    pub(super) fn begin_trial(&mut self, slot: usize, way: usize, goal: Goal, now: Instant) {
        let (host, port) = self.ways.get(way).first_hop();
        let host = host.to_owned();
        self.trials.slots[slot] = Some(Trial { way, goal, begun_at: now, step: Step::Resolving });
        self.effects.push_back(Effect::Resolve { attempt: Attempt::Trial(slot), host, port });
    }

    /// The outcome of an effect for the [`Attempt::Trial`] in this slot.
    pub fn handle_trial(&mut self, slot: usize, outcome: Outcome, now: Instant) {
        let Some(trial) = &mut self.trials.slots[slot] else { return };
        let way = self.ways.get(trial.way);
        let why = match (&trial.step, outcome) {
            (Step::Resolving, Outcome::Resolved(Ok(addresses))) => {
                trial.step = Step::Dialling;
                let way = way.clone();
                // No route may lead the dialling itself into the LAN, nor the link.
                add_addresses(&mut self.outer.hub_addresses, &addresses);
                self.set_routes();
                let (attempt, segment) = (Attempt::Trial(slot), self.outer.segments.limit());
                return self.effects.push_back(Effect::Dial {
                    attempt,
                    way,
                    addresses,
                    segment,
                    is_hasty: true,
                });
            }
            (Step::Dialling, Outcome::Connected(hub, ephemeral)) => {
                let keys = match &self.phase {
                    Phase::Linked(link) if trial.goal == Goal::Lane => Vec::from_iter(link.tunnel.remote()),
                    Phase::Linked(_)
                    | Phase::Paused(_)
                    | Phase::Resolving
                    | Phase::Dialling
                    | Phase::Racing => self.pin.trusted(),
                };
                let pool = &mut self.buffers.pool;
                let tunnel = Tunnel::knocking(&self.identity.key, ephemeral, &keys, pool, now);
                trial.step = Step::Linked(Box::new(Linked::new(tunnel, hub, now)));
                return;
            }
            (Step::Resolving, Outcome::Resolved(Err(error))) => advice::lookup(way, &error),
            (Step::Dialling, Outcome::Unreachable(tried, error)) => advice::connect(way, tried, &error),
            (Step::Dialling, Outcome::NotOpened(stage, error)) => advice::opening(way, stage, &error),
            (Step::Linked(linked), Outcome::Closed(error)) => advice::broken(way, linked.progress(), &error),
            // It was given up meanwhile.
            _ => return,
        };
        self.fail_trial(slot, &why, now);
    }

    /// Reads once from the connection that is tried in this slot, as [`Uplink::receive`] does from the link. Once the hub
    /// has let this spoke in, that is the link.
    pub fn receive_trial(&mut self, slot: usize, now: Instant, read: impl FnOnce(&mut [u8]) -> usize) {
        if self.trials.lane() == Some(slot) {
            return self.receive_lane(slot, now, read);
        }
        let Some(Trial { step: Step::Linked(linked), .. }) = &mut self.trials.slots[slot] else { return };
        let Buffers { inbox, pool, .. } = &mut self.buffers;
        linked.is_heard |= linked.tunnel.fill(inbox, pool, now, read) > 0;
        let why = match linked.tunnel.open(inbox, pool, now) {
            Ok(Some(tunnel::Event::Control(frame @ ControlFrame::Welcome(_)))) => {
                self.switch(slot, now);
                self.handle_frame(frame, now);
                return self.open_received(now);
            }
            Ok(Some(tunnel::Event::Control(ControlFrame::Refused { text, .. }))) => text,
            Ok(Some(tunnel::Event::Packet(packet))) => {
                pool.give(packet);
                "the hub sends packets ahead of its welcome".to_owned()
            }
            Ok(Some(
                tunnel::Event::Control(_) | tunnel::Event::Join { .. } | tunnel::Event::Attach { .. },
            )) => "the hub does not let this spoke in by it".to_owned(),
            Ok(None) => {
                linked.tunnel.park(inbox, pool);
                return self.handle_proved(slot, now);
            }
            Err(error) => return self.fail_trial_link(slot, &error, now),
        };
        if let Some(Trial { step: Step::Linked(linked), .. }) = &mut self.trials.slots[slot] {
            linked.tunnel.park(&mut self.buffers.inbox, &mut self.buffers.pool);
        }
        self.fail_trial(slot, &why, now);
    }

    /// Writes to the connection that is tried in this slot, as [`Uplink::flush`] does to the link.
    pub fn flush_trial(&mut self, slot: usize, now: Instant, write: impl FnMut(&[u8]) -> usize) -> Flushed {
        let Some(Trial { step: Step::Linked(linked), .. }) = &mut self.trials.slots[slot] else {
            return Flushed::Done;
        };
        let Buffers { outbox, pool, .. } = &mut self.buffers;
        match linked.tunnel.flush(outbox, pool, now, write) {
            Ok(flushed) => flushed,
            Err(error) => {
                self.fail_trial_link(slot, &error, now);
                Flushed::Done
            }
        }
    }

    /// Asks the hub at the end of this trial to let this spoke in.
    pub(super) fn ask_to_join(&mut self, slot: usize, now: Instant) {
        let join = self.join_request();
        // No other one is tried meanwhile.
        self.trials.next_at = None;
        let Some(Trial { step: Step::Linked(linked), .. }) = &mut self.trials.slots[slot] else { return };
        if let Err(error) = linked.tunnel.join(&join, &mut self.buffers.pool) {
            self.fail_trial_link(slot, &error, now);
        }
    }

    /// What is tried does not work.
    pub(super) fn fail_trial(&mut self, slot: usize, why: &str, now: Instant) {
        let Some((way, goal)) = self.trials.slots[slot].as_ref().map(|trial| (trial.way, trial.goal)) else {
            return;
        };
        if goal == Goal::Lane {
            return self.lane_failed(why, false, now);
        }
        self.end_trial(slot);
        if self.ways.trial_failed(way, why) {
            self.effects.push_back(Effect::Log(Notice::WayFailed(why.to_owned())));
        }
        self.handle_trial_failed(way, goal, now);
    }

    pub(super) fn fail_trial_link(&mut self, slot: usize, error: &tunnel::Error, now: Instant) {
        let Some(Trial { way, step: Step::Linked(linked), .. }) = &self.trials.slots[slot] else { return };
        let way = self.ways.get(*way);
        let why = if let tunnel::Error::HubKey { seen } = *error {
            self.key_changed(way, seen).to_string()
        } else {
            advice::failed(way, linked.progress(), error)
        };
        self.fail_trial(slot, &why, now);
    }

    /// Gives up what is tried in this slot.
    pub(super) fn end_trial(&mut self, slot: usize) {
        let Some(trial) = self.trials.slots[slot].take() else { return };
        if let Step::Linked(mut linked) = trial.step {
            linked.tunnel.close(&mut self.buffers.pool);
        }
        self.effects.push_back(Effect::GiveUp(slot));
    }

    /// Gives up those for which this holds.
    pub(super) fn end_trials(&mut self, is_over: impl Fn(&Trial) -> bool) {
        while let Some(slot) = self.trials.find(&is_over) {
            self.end_trial(slot);
        }
    }

    // ---- from one link to the next

    /// The link has ended: whether one that is tried takes its place, as its hub may have let this spoke in already.
    pub(super) fn switch_at_loss(&mut self, now: Instant) -> bool {
        let joined = self.trials.find(Trial::has_joined).filter(|_| matches!(self.phase, Phase::Linked(_)));
        if let Some(slot) = joined {
            self.switch(slot, now);
        }
        joined.is_some()
    }

    /// Puts what is tried in this slot in the place of the link, with the packets that wait there.
    pub(super) fn switch(&mut self, slot: usize, now: Instant) {
        let Some(Trial { way, step: Step::Linked(new), .. }) = self.trials.slots[slot].take() else { return };
        let is_silent = self.trials.is_in_doubt;
        self.end_lane(true, now);
        self.keep_packets(new.tunnel.remote(), now);
        self.close_link(is_silent, now);
        self.effects.push_back(Effect::Switch(slot));
        self.end_trials(|_| true);
        self.ways.switch_to(way);
        self.begin_link(new, now);
        if is_silent {
            self.await_others(now);
        }
    }
}
