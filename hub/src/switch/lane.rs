//! Sessions that are a second connection of another one: lanes. Pure.
//!
//! A lane has a tunnel and a socket of its own, and a session of its own for them; member, address and rights are those of
//! the session that it belongs to. Whichever of the two a packet comes by, it comes from that one.

use std::net::SocketAddr;
use std::time::Instant;

use common::packet::Kind;
use common::queue::Buf;
use common::queue::steering::Side;
use common::wire::frame::{ControlFrame, LaneNote, Refusal};
use common::wire::key::{PrivateKey, PublicKey};
use common::wire::lane::{Binding, Proof};
use common::wire::pair::Pair;
use common::wire::tunnel::Tunnel;

use super::beside::{Beside, Lane, NoLane};
use super::{Buffers, Session, Switch};
use crate::effect::End;
use crate::ids::SessionId;

impl Switch {
    /// Makes a session that has proved its key a lane of this one, if it shows that it belongs to it; or why not.
    pub fn attach(
        &mut self,
        lane: SessionId,
        link: Option<SessionId>,
        (proof, binding): (Proof, Binding),
        now: Instant,
    ) -> Result<(), NoLane> {
        let live = link.filter(|&link| link != lane && self.is_live(link) && self.is_live(lane));
        let pair = live.and_then(|link| Some((link, self.sessions.get2_mut(link.index(), lane.index())?)));
        let Some((link, (own, new))) = pair else { return Err(NoLane::NoSession) };
        let Some(secret) = own.tunnel.lane_secret().filter(|_| own.tunnel.is_open()) else {
            return Err(NoLane::NoSession);
        };
        if !secret.verify(binding, proof) {
            return Err(NoLane::Forged);
        }
        if !matches!(own.beside, Beside::Nothing) {
            return Err(NoLane::Second);
        }
        let (pair, is_told) = (Pair::new(now), false);
        own.beside = Beside::Lane(Box::new(Lane { session: lane, pair, since: now, is_told }));
        new.beside = Beside::Link(link);
        let attached = new.tunnel.attached(now);
        let (source, deadline) = (new.source, new.tunnel.deadline());
        self.gate.joined(source.ip(), lane, now);
        self.tally.lanes.opened += 1;
        self.timers.set(lane.index(), deadline);
        self.mark_dirty(lane);
        if let Err(error) = attached {
            self.end(lane, End::Tunnel(error));
        }
        Ok(())
    }

    /// Takes in a connection to another hub, which is to prove this key and is asked to take it for a lane of the link to it.
    /// `ephemeral`: 32 random bytes.
    pub fn dial_lane(
        &mut self,
        key: &PrivateKey,
        (hub, address): (PublicKey, SocketAddr),
        link: SessionId,
        ephemeral: [u8; 32],
        now: Instant,
    ) -> SessionId {
        let tunnel = Tunnel::knocking(key, ephemeral, &[hub], &mut self.buffers.pool, now);
        let deadline = tunnel.deadline();
        let entry = Session {
            is_dialled: true,
            beside: Beside::Asking(link),
            ..Session::new(tunnel, address, self.mtu)
        };
        let session = SessionId::new(self.sessions.insert(entry));
        self.timers.set(session.index(), deadline);
        self.mark_dirty(session);
        session
    }

    /// After a read: where the hub at the other end of what is to be a lane has proved its key, shows it whose lane it is.
    pub(super) fn ask_for_lane(&mut self, lane: SessionId) {
        let Some(&Beside::Asking(link)) = self.session(lane).map(|entry| &entry.beside) else { return };
        let Some((own, new)) = self.sessions.get2_mut(link.index(), lane.index()) else {
            return self.end(lane, End::Farewell("its link has ended"));
        };
        let Some(hub) = new.tunnel.remote().filter(|_| new.tunnel.is_half_open()) else { return };
        let is_link = own.end.is_none() && own.tunnel.is_open() && own.tunnel.remote() == Some(hub);
        let asked = match own.tunnel.lane_secret().filter(|_| is_link) {
            Some(secret) => new.tunnel.attach(secret, &mut self.buffers.pool).map_err(End::Tunnel),
            None => Err(End::Farewell("its link has ended")),
        };
        match asked {
            Ok(()) => self.mark_dirty(lane),
            Err(end) => self.end(lane, end),
        }
    }

    /// The hub at the other end has taken this session for the lane that it was to be; whether it is one now.
    pub fn lane_attached(&mut self, lane: SessionId, now: Instant) -> bool {
        let Some(&Beside::Asking(link)) = self.session(lane).map(|entry| &entry.beside) else { return false };
        let two = self.sessions.get2_mut(link.index(), lane.index());
        let free = two.filter(|(own, _)| own.end.is_none() && matches!(own.beside, Beside::Nothing));
        let Some((own, new)) = free else {
            self.end(lane, End::Farewell("its link has ended"));
            return false;
        };
        let (pair, is_told) = (Pair::new(now), false);
        own.beside = Beside::Lane(Box::new(Lane { session: lane, pair, since: now, is_told }));
        new.beside = Beside::Link(link);
        let deadline = new.tunnel.deadline();
        self.tally.lanes.opened += 1;
        self.timers.set(lane.index(), deadline);
        true
    }

    /// Refuses what asks to be a lane, and ends it.
    pub fn refuse_lane(&mut self, session: SessionId, why: NoLane) {
        self.tally.lanes.refused += 1;
        // It has only just begun: there is room for one frame.
        let _ = self.sessions[session.index()].tunnel.refuse(Refusal::BadRequest, why.text().to_owned());
        self.end(session, End::Refused);
    }

    /// The other end takes and sends nothing more by the lane of this session.
    pub fn lane_closed(&mut self, link: SessionId) {
        let beside = self.sessions.get_mut(link.index()).map(|entry| &mut entry.beside);
        if let Some(Beside::Lane(lane)) = beside {
            lane.is_told = true;
            let lane = lane.session;
            self.end(lane, End::Farewell("the other end has closed it"));
        }
    }

    /// The lane of a session, and since when it is open.
    pub(super) fn lane_of(&self, link: SessionId) -> Option<(SessionId, Instant)> {
        match &self.session(link)?.beside {
            Beside::Lane(lane) => Some((lane.session, lane.since)),
            Beside::Nothing | Beside::Link(_) | Beside::Asking(_) => None,
        }
    }

    /// Where packets of a session come from: itself, or the one that it is a lane of. `None` where that is gone.
    pub(super) fn sender(&self, session: SessionId) -> Option<SessionId> {
        match self.session(session)?.beside {
            Beside::Link(link) => Some(link).filter(|&link| self.is_live(link)),
            Beside::Nothing | Beside::Lane(_) => Some(session),
            Beside::Asking(_) => None,
        }
    }

    /// Queues a packet of this flow for a session that has a lane.
    pub(super) fn enqueue_beside(&mut self, link: SessionId, packet: Buf, flow: (u32, Kind), now: Instant) {
        let Some((lane, _)) = self.lane_of(link) else { return self.buffers.pool.give(packet) };
        let Buffers { pool, budget, .. } = &mut self.buffers;
        let two = self.sessions.get2_mut(link.index(), lane.index());
        let Some((own, other)) = two else { return pool.give(packet) };
        let Beside::Lane(beside) = &mut own.beside else { return pool.give(packet) };
        let wants_write = beside.pair.enqueue(&mut own.tunnel, &mut other.tunnel, packet, flow, pool, now);
        budget.set(link, own.tunnel.queue().cost() + beside.pair.cost());
        budget.set(lane, other.tunnel.queue().cost());
        self.relieve();
        self.mark_those([link, lane], wants_write);
    }

    fn mark_those(&mut self, sessions: [SessionId; 2], which: [bool; 2]) {
        let those = sessions.into_iter().zip(which);
        those.filter(|(_, is_one)| *is_one).for_each(|(session, _)| self.mark_dirty(session));
    }

    /// Takes note of what the other end has handled: after a read or write of a session or its lane.
    pub(super) fn settle_lane(&mut self, session: SessionId, now: Instant) {
        let link = match self.session(session).map(|entry| &entry.beside) {
            Some(Beside::Link(link)) => *link,
            Some(Beside::Lane(_)) => session,
            Some(Beside::Nothing | Beside::Asking(_)) | None => return,
        };
        let Some((lane, _)) =
            self.lane_of(link).filter(|&(lane, _)| self.is_live(link) && self.is_live(lane))
        else {
            return;
        };
        let Buffers { pool, budget, .. } = &mut self.buffers;
        let Some((own, other)) = self.sessions.get2_mut(link.index(), lane.index()) else { return };
        let Beside::Lane(beside) = &mut own.beside else { return };
        let settled = beside.pair.settle(&mut own.tunnel, &mut other.tunnel, pool, now);
        budget.set(link, own.tunnel.queue().cost() + beside.pair.cost());
        budget.set(lane, other.tunnel.queue().cost());
        if let Some(at) = beside.pair.deadline() {
            self.timers.set(lane.index(), at);
        }
        match settled {
            Ok(wants_write) => self.mark_those([link, lane], wants_write),
            Err((Side::Link, error)) => self.end(link, End::Tunnel(error)),
            Err((Side::Lane, error)) => self.end(lane, End::Tunnel(error)),
        }
    }

    /// Ends a lane that answers nothing.
    pub(super) fn check_lane(&mut self, lane: SessionId, now: Instant) {
        let Some(&Beside::Link(link)) = self.session(lane).map(|entry| &entry.beside) else { return };
        let Some((own, other)) = self.sessions.get2_mut(link.index(), lane.index()) else { return };
        let Beside::Lane(beside) = &mut own.beside else { return };
        if beside.pair.deadline().is_some_and(|at| at <= now)
            && beside.pair.is_lost(&own.tunnel, &other.tunnel, now)
        {
            return self.end(lane, End::Silent);
        }
        if let Some(at) = beside.pair.deadline() {
            self.timers.set(lane.index(), at);
        }
    }

    /// A session ends: its lane ends with it. A lane ends: what waits for it goes by the session that it belonged to.
    pub(super) fn part(&mut self, session: SessionId, now: Instant) {
        match self.session(session).map(|entry| &entry.beside) {
            Some(&Beside::Link(link)) => self.dissolve(link, session, now),
            Some(Beside::Lane(lane)) => self.end(lane.session, End::Farewell("its link has ended")),
            Some(Beside::Nothing | Beside::Asking(_)) | None => {}
        }
    }

    fn dissolve(&mut self, link: SessionId, lane: SessionId, now: Instant) {
        let Some((own, other)) = self.sessions.get2_mut(link.index(), lane.index()) else { return };
        // The id may be another session's by now.
        if !matches!(&own.beside, Beside::Lane(beside) if beside.session == lane) {
            return;
        }
        let Beside::Lane(beside) = std::mem::take(&mut own.beside) else { return };
        if own.end.is_some() {
            return;
        }
        let closed = ControlFrame::Lane(LaneNote::Closed);
        let said = if beside.is_told { Ok(()) } else { own.tunnel.control_first(&closed) };
        let flow_seed = self.flow_seed;
        let flow = |packet: &[u8]| common::packet::flow(packet, flow_seed);
        let pool = &mut self.buffers.pool;
        beside.pair.dissolve(&mut own.tunnel, &mut other.tunnel, flow, pool, now);
        self.buffers.budget.set(link, own.tunnel.queue().cost());
        match said {
            Ok(()) => self.mark_dirty(link),
            Err(error) => self.end(link, End::Tunnel(error)),
        }
    }
}
