//! The second connection beside the link, for flows that send little: when it is opened, and what becomes of it. Pure.
//!
//! It is tried like a better way, in a slot of [`Trials`], by the way of the link and to the address
//! of the link. What goes by it is [`Pair`]'s to say. When it fails, the link goes on without.

use std::time::Instant;

use common::node::lane_status::LaneStatus;
use common::packet::Kind;
use common::queue::steering::Side;
use common::queue::tcp_info::TcpInfo;
use common::queue::{Buf, Pool};
use common::wire::frame::{ControlFrame, LaneNote};
use common::wire::pair::Pair;
use common::wire::tunnel;

use super::beside::Open;
use super::effect::Attempt;
use super::linked::{Goal, Linked, Step, Trial, Trials};
use super::{Buffers, Effect, Notice, Phase, Uplink};

impl Linked {
    /// Queues a validated packet of the given flow, for the link or its lane.
    pub(super) fn enqueue(
        &mut self,
        trials: &mut Trials,
        packet: Buf,
        (flow, kind): (u32, Kind),
        pool: &mut Pool,
        now: Instant,
    ) {
        if let Some(open) = &mut self.lane.open
            && let Some(Trial { step: Step::Linked(lane), .. }) = &mut trials.slots[open.slot]
        {
            open.pair.enqueue(&mut self.tunnel, &mut lane.tunnel, packet, (flow, kind), pool, now);
            self.tunnel.sends_beside();
        } else {
            self.tunnel.enqueue(packet, flow, pool, now);
        }
    }
}

impl Uplink {
    /// The link and its lane, where there is one.
    fn two(&mut self) -> Option<(&mut Linked, Open, &mut Linked, &mut Buffers)> {
        let Phase::Linked(linked) = &mut self.phase else { return None };
        let open = linked.lane.open.take()?;
        match &mut self.trials.slots[open.slot] {
            Some(Trial { step: Step::Linked(lane), .. }) => Some((linked, open, lane, &mut self.buffers)),
            Some(_) | None => None,
        }
    }

    // ---- opening

    /// What the hub says about lanes.
    pub(super) fn handle_lane_note(&mut self, note: LaneNote, now: Instant) {
        match note {
            LaneNote::Offered => {
                if let Phase::Linked(linked) = &mut self.phase {
                    linked.lane.is_offered = self.config.may_have_lane;
                }
            }
            LaneNote::Closed => self.lane_failed("the hub has closed it", true, now),
            LaneNote::Attached | LaneNote::Other(_) => {}
        }
    }

    /// A look at the link's connection: whether a lane is worth it.
    pub(super) fn consider_lane(&mut self, info: &TcpInfo, now: Instant) {
        let (way, is_busy) = (self.ways.current(), self.trials.lane().is_some() || self.trials.is_in_doubt);
        let (way, is_ping) = (way.clone(), way.is_ping());
        let Phase::Linked(linked) = &mut self.phase else { return };
        let is_worth_it = linked.lane.is_worth_it(info, now);
        let may_try = linked.lane.is_offered && linked.lane.not_before.is_none_or(|at| at <= now);
        let hub = linked.hub;
        let Some(slot) = self.trials.free().filter(|_| is_worth_it && may_try && !is_busy && !is_ping) else {
            return;
        };
        let (number, segment) = (self.ways.current_number(), self.outer.segments.limit());
        self.trials.slots[slot] =
            Some(Trial { way: number, goal: Goal::Lane, begun_at: now, step: Step::Dialling });
        self.effects.push_back(Effect::Dial {
            attempt: Attempt::Trial(slot),
            way,
            addresses: vec![hub],
            segment,
            is_hasty: true,
        });
    }

    /// The hub at the end of this trial has proved its key: shows it that this is a lane of the link.
    pub(super) fn attach_lane(&mut self, slot: usize, now: Instant) {
        let Phase::Linked(link) = &self.phase else { return };
        let Some(Trial { step: Step::Linked(lane), .. }) = &mut self.trials.slots[slot] else { return };
        let Some(secret) = link.tunnel.lane_secret() else { return };
        if let Err(error) = lane.tunnel.attach(secret, &mut self.buffers.pool) {
            self.fail_trial_link(slot, &error, now);
        }
    }

    /// Reads once from the lane, or what is to be one.
    pub(super) fn receive_lane(&mut self, slot: usize, now: Instant, read: impl FnOnce(&mut [u8]) -> usize) {
        let Some(Trial { step: Step::Linked(lane), .. }) = &mut self.trials.slots[slot] else { return };
        let Buffers { inbox, pool, .. } = &mut self.buffers;
        lane.is_heard |= lane.tunnel.fill(inbox, pool, now, read) > 0;
        loop {
            let Some(Trial { step: Step::Linked(lane), .. }) = &mut self.trials.slots[slot] else { return };
            let Buffers { inbox, pool, .. } = &mut self.buffers;
            match lane.tunnel.open(inbox, pool, now) {
                Ok(Some(tunnel::Event::Packet(packet))) => self.deliver(packet),
                Ok(Some(tunnel::Event::Control(frame))) => {
                    if frame == ControlFrame::Lane(LaneNote::Attached) {
                        self.open_lane(slot, now);
                        continue;
                    }
                    // Beside that, a tunnel that is a lane passes on only what ends it.
                    let why = if let ControlFrame::Refused { text, .. } = frame {
                        text
                    } else {
                        "the hub said goodbye".to_owned()
                    };
                    lane.tunnel.park(&mut self.buffers.inbox, &mut self.buffers.pool);
                    return self.lane_failed(&why, false, now);
                }
                // Only a hub is asked.
                Ok(Some(tunnel::Event::Join { .. } | tunnel::Event::Attach { .. })) => {}
                Ok(None) => {
                    lane.tunnel.park(inbox, pool);
                    return self.handle_proved(slot, now);
                }
                Err(error) => return self.fail_trial_link(slot, &error, now),
            }
        }
    }

    fn open_lane(&mut self, slot: usize, now: Instant) {
        let Phase::Linked(linked) = &mut self.phase else { return };
        linked.lane.open = Some(Open { slot, pair: Pair::new(now), since: now });
        self.effects.push_back(Effect::Hurry(slot));
        self.effects.push_back(Effect::Log(Notice::LaneOpen));
    }

    // ---- while it is open

    /// Takes note of what the hub has handled: after each turn's reads and writes. Whether there is something new to write.
    pub fn settle_lane(&mut self, now: Instant) -> bool {
        let Some((link, mut open, lane, buffers)) = self.two() else { return false };
        let settled = open.pair.settle(&mut link.tunnel, &mut lane.tunnel, &mut buffers.pool, now);
        link.lane.open = Some(open);
        match settled {
            Ok(wants_write) => wants_write.contains(&true),
            Err((Side::Link, error)) => {
                self.fail_link(error, now);
                false
            }
            Err((Side::Lane, error)) => {
                self.lane_failed(&error.to_string(), false, now);
                true
            }
        }
    }

    /// When [`Uplink::poll_lane`] has something to do.
    pub(super) fn lane_deadline(&self) -> Option<Instant> {
        let Phase::Linked(linked) = &self.phase else { return None };
        linked.lane.open.as_ref()?.pair.deadline()
    }

    /// Ends a lane that answers nothing.
    pub(super) fn poll_lane(&mut self, now: Instant) {
        if self.lane_deadline().is_none_or(|at| at > now) {
            return;
        }
        let Some((link, mut open, lane, _)) = self.two() else { return };
        let is_lost = open.pair.is_lost(&link.tunnel, &lane.tunnel, now);
        link.lane.open = Some(open);
        if is_lost {
            self.lane_failed("it answers nothing", false, now);
        }
    }

    /// What `status` says about it.
    pub(super) fn lane_status(&self, now: Instant) -> Option<LaneStatus> {
        let Phase::Linked(linked) = &self.phase else { return None };
        let open = linked.lane.open.as_ref()?;
        let Some(Trial { step: Step::Linked(lane), .. }) = &self.trials.slots[open.slot] else { return None };
        Some(LaneStatus::of(&lane.tunnel, open.since, now))
    }

    // ---- the end

    /// The lane has failed, or what was to be one: the link goes on without. `is_told`: the hub knows.
    pub(super) fn lane_failed(&mut self, why: &str, is_told: bool, now: Instant) {
        let Phase::Linked(linked) = &mut self.phase else { return };
        let since = linked.lane.open.as_ref().map(|open| open.since);
        if since.is_none() && self.trials.lane().is_none() {
            return;
        }
        linked.lane.failed(since, now);
        self.effects.push_back(Effect::Log(Notice::LaneClosed(why.to_owned())));
        self.end_lane(is_told, now);
    }

    /// Ends the lane, if there is one: what waits for it goes by the link.
    pub(super) fn end_lane(&mut self, is_told: bool, now: Instant) {
        let mut failed = None;
        if let Some((link, open, lane, buffers)) = self.two() {
            if !is_told {
                failed = link.tunnel.control_first(&ControlFrame::Lane(LaneNote::Closed)).err();
            }
            let seed = buffers.flow_seed;
            let flow = |packet: &[u8]| common::packet::flow(packet, seed);
            open.pair.dissolve(&mut link.tunnel, &mut lane.tunnel, flow, &mut buffers.pool, now);
            buffers.drops.add_all(&lane.tunnel.queue().drops());
        }
        if let Some(slot) = self.trials.lane() {
            self.end_trial(slot);
        }
        if let Some(error) = failed {
            self.fail_link(error, now);
        }
    }
}
