//! A packet's path through the hub: opened, checked, routed, held against the access rules, queued. Pure.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use common::packet::drops::Reason;
use common::packet::icmp::{self, Answer};
use common::packet::offload;
use common::packet::{self, Header, Kind, MAX_PACKET, VNET_LEN};
use common::queue::Buf;
use common::wire::tunnel::Event;
use log::{log_enabled, trace};

use super::beside::Beside;
use super::{Effects, Port, Role, Switch};
use crate::effect::{Effect, End};
use crate::ids::{MemberId, SessionId};
use crate::lan::peers::Peers;
use crate::switch::asked::Asked;
use crate::switch::filter::Path;
use crate::switch::router::{self, Fabric, Origin, Verdict};

impl Switch {
    /// Reads for a session, by [`Tunnel::fill`](common::wire::tunnel::Tunnel::fill); `false` where it is not alive.
    /// To be followed by `next_asked` until that has no more.
    pub fn fill(&mut self, session: SessionId, now: Instant, read: impl FnOnce(&mut [u8]) -> usize) -> bool {
        let entry = self.sessions.get_mut(session.index()).filter(|entry| entry.end.is_none());
        let Some(entry) = entry else { return false };
        let super::Buffers { pool, inbox, .. } = &mut self.buffers;
        entry.tunnel.fill(inbox, pool, now, read);
        true
    }

    /// Handles what was read for a session, up to the next thing that it asks; `None` when all is handled.
    pub fn next_asked(
        &mut self,
        session: SessionId,
        fabric: Fabric<'_>,
        effects: &mut Effects,
        now: Instant,
    ) -> Option<Asked> {
        loop {
            let entry = &mut self.sessions[session.index()];
            let super::Buffers { pool, inbox, .. } = &mut self.buffers;
            if entry.end.is_some() {
                entry.tunnel.park(inbox, pool);
                return None;
            }
            match entry.tunnel.open(inbox, pool, now) {
                Ok(Some(Event::Packet(packet))) => match self.sender(session) {
                    Some(session) => self.forward(Some(session), packet, fabric, effects, now),
                    None => self.buffers.pool.give(packet),
                },
                Ok(Some(Event::Join { key, join })) => {
                    self.tally.handshakes += 1;
                    return Some(Asked::Join(key, join));
                }
                Ok(Some(Event::Attach { key, proof, binding })) => {
                    self.tally.handshakes += 1;
                    return Some(Asked::Attach(key, proof, binding));
                }
                Ok(Some(Event::Control(control))) => return Some(Asked::Control(control)),
                Ok(None) => {
                    entry.tunnel.park(inbox, pool);
                    if entry.tunnel.has_greeted() {
                        self.gate.greeted(entry.source.ip(), session);
                    }
                    self.ask_for_lane(session);
                    let entry = &mut self.sessions[session.index()];
                    // The handshake and control frames are answered.
                    if entry.tunnel.wants_write() {
                        self.mark_dirty(session);
                    }
                    self.settle_lane(session, now);
                    return None;
                }
                Err(error) => self.end(session, End::Tunnel(error)),
            }
        }
    }

    /// Keeps the hub's own kernel off the LAN: the hub has no device.
    pub fn close_kernel(&mut self) {
        self.port.is_closed = true;
    }

    /// Sends a packet (virtio-net header and IP) from the hub's own kernel on its way, which `read` takes from the
    /// device, with a buffer of the pool. Returns its length; `None` where there is none.
    pub fn send(
        &mut self,
        fabric: Fabric<'_>,
        effects: &mut Effects,
        now: Instant,
        read: impl FnOnce(&mut [u8]) -> Option<usize>,
    ) -> Option<usize> {
        let packet = self.buffers.pool.fill(MAX_PACKET, read)?;
        let len = packet.len();
        self.forward(None, packet, fabric, effects, now);
        Some(len)
    }

    /// Sends a packet on its way: from a session, or else from the hub's own kernel.
    fn forward(
        &mut self,
        from: Option<SessionId>,
        mut packet: Buf,
        fabric: Fabric<'_>,
        effects: &mut Effects,
        now: Instant,
    ) {
        let header = match check(&mut packet, from.is_none()) {
            Ok(header) => header,
            Err(reason) => {
                trace!("{} bytes are not let through: {reason}", packet.len());
                return self.drop(from, packet, reason);
            }
        };
        let origin = self.origin(from);
        let mut verdict = router::route(fabric, &self.subnets, origin, &header);
        if self.port.is_closed && verdict == Verdict::Tun {
            verdict = Verdict::Drop(Reason::NoRoute);
        }
        let sender = router::sender(fabric, &self.subnets, origin, &header);
        if log_enabled!(log::Level::Trace) {
            let name = sender.map_or("the hub", |id| fabric.members.member(id).name.as_str());
            trace!("{header} from {name}, {origin:?}: {verdict:?}");
        }
        match verdict {
            Verdict::Tun | Verdict::To(_) if !self.allows(sender, verdict, &packet, &header, fabric, now) => {
                let answer = self.refusal(icmp::prohibited, from, &packet, &header, fabric);
                self.drop_answered(from, packet, Reason::Denied, answer, effects, now);
            }
            Verdict::Tun => self.deliver(packet, effects),
            Verdict::To(to) => self.send_to(from, to, packet, &header, fabric, effects, now),
            Verdict::Flood if self.may_flood(from, &packet, now) => {
                self.flood(from, sender, packet, &header, fabric, effects, now);
            }
            Verdict::Flood => self.drop(from, packet, Reason::RateLimit),
            Verdict::Drop(reason @ (Reason::NoRoute | Reason::Offline)) => {
                let answer = self.refusal(icmp::unreachable, from, &packet, &header, fabric);
                self.drop_answered(from, packet, reason, answer, effects, now);
            }
            Verdict::Drop(reason) => self.drop(from, packet, reason),
        }
    }

    /// Where what this session, or else the hub's own kernel, sends comes from.
    fn origin(&self, from: Option<SessionId>) -> Origin {
        from.map_or(Origin::Kernel, |session| match self.sessions[session.index()].role {
            Role::Member(id) => Origin::Member(id),
            // A link on which nobody is on the LAN carries no packets.
            Role::Hub | Role::Unknown => Origin::Link(session),
        })
    }

    /// Whether the access rules let a packet take the way to which it is routed.
    fn allows(
        &mut self,
        from: Option<MemberId>,
        verdict: Verdict,
        packet: &[u8],
        header: &Header,
        fabric: Fabric<'_>,
        now: Instant,
    ) -> bool {
        if let Verdict::Flood | Verdict::Drop(_) = verdict {
            return true;
        }
        let to = router::receiver(fabric, &self.subnets, verdict, header);
        let members = (fabric.members, fabric.own);
        self.policing.filter.allows(Path { from, to }, header, packet, members, &self.subnets, now)
    }

    /// Queues a packet for a member, in fragments where it takes no packet of that size.
    #[expect(
        clippy::too_many_arguments,
        reason = "the packet's whole story, on the way that must stay short"
    )]
    fn send_to(
        &mut self,
        from: Option<SessionId>,
        to: MemberId,
        mut packet: Buf,
        header: &Header,
        fabric: Fabric<'_>,
        effects: &mut Effects,
        now: Instant,
    ) {
        let member = fabric.members.member(to);
        // It may have gone to another hub in this very turn, also where the packet comes from there.
        let mut ways = [member.session, member.elsewhere].into_iter().flatten();
        let Some(to) = ways.find(|&session| self.leads_to(session, to)) else {
            let answer = self.refusal(icmp::unreachable, from, &packet, header, fabric);
            return self.drop_answered(from, packet, Reason::Offline, answer, effects, now);
        };
        if self.fits(to, &packet, header) {
            return self.enqueue(to, packet, header, now);
        }
        let answer = self.too_big(from, to, &packet, header, fabric);
        if answer.is_none() && self.fragment(to, &mut packet, header, now) {
            return self.buffers.pool.give(packet);
        }
        self.drop_answered(from, packet, Reason::TooBig, answer, effects, now);
    }

    /// Whether a session is this member's, or the link of a hub.
    fn leads_to(&self, session: SessionId, to: MemberId) -> bool {
        self.session(session).filter(|session| session.end.is_none()).is_some_and(|session| {
            match session.role {
                Role::Member(id) => id == to,
                Role::Hub => true,
                Role::Unknown => false,
            }
        })
    }

    fn drop(&mut self, from: Option<SessionId>, packet: Buf, reason: Reason) {
        self.port(from).drops.add(reason);
        self.buffers.pool.give(packet);
    }

    /// Drops a packet, and sends an ICMP error to its sender if one is allowed.
    fn drop_answered(
        &mut self,
        from: Option<SessionId>,
        packet: Buf,
        reason: Reason,
        answer: Option<Answer>,
        effects: &mut Effects,
        now: Instant,
    ) {
        self.drop(from, packet, reason);
        let origin = self.origin(from);
        let Some(answer) = answer.filter(|_| self.policing.limits.answer(origin, now)) else {
            return;
        };
        let answer = self.buffers.pool.copy(&answer);
        let Some(session) = from else { return effects.push_back(Effect::Deliver(answer)) };
        match answer.get(VNET_LEN..).ok_or(Reason::Malformed).and_then(packet::parse) {
            Ok(header) => self.enqueue(session, answer, &header, now),
            Err(_) => self.buffers.pool.give(answer),
        }
    }

    /// Whether a source may send this packet to everyone.
    fn may_flood(&mut self, from: Option<SessionId>, bytes: &[u8], now: Instant) -> bool {
        let origin = self.origin(from);
        let member = from.filter(|_| matches!(origin, Origin::Member(_)));
        let outside = member.map(|session| self.sessions[session.index()].source.ip());
        self.policing.limits.flood(origin, outside, offload::segments(bytes), bytes.len(), now)
    }

    fn port(&mut self, from: Option<SessionId>) -> &mut Port {
        from.map_or(&mut self.port, |session| &mut self.sessions[session.index()].port)
    }

    /// Whether the receiver takes a packet of this size.
    fn fits(&self, to: SessionId, bytes: &[u8], header: &Header) -> bool {
        let mtu = self.sessions[to.index()].mtu;
        mtu >= self.mtu || !icmp::exceeds(bytes, header, mtu)
    }

    /// The answer to a packet that is too big for its receiver; none where it may be fragmented instead.
    fn too_big(
        &self,
        from: Option<SessionId>,
        to: SessionId,
        bytes: &[u8],
        header: &Header,
        fabric: Fabric<'_>,
    ) -> Option<Answer> {
        let by = self.answerer(from, header, fabric)?;
        icmp::too_big(bytes, header, by, self.broadcast(), self.sessions[to.index()].mtu)
    }

    /// Sends a packet that is too big in fragments; `false` where it may not be fragmented.
    fn fragment(&mut self, to: SessionId, bytes: &mut [u8], header: &Header, now: Instant) -> bool {
        let mtu = self.sessions[to.index()].mtu;
        let mut scratch = std::mem::take(&mut self.buffers.scratch);
        let is_done = offload::fragment(bytes, header, mtu, &mut scratch, |piece| {
            let piece = self.buffers.pool.copy(piece);
            self.enqueue(to, piece, header, now);
        });
        self.buffers.scratch = scratch;
        is_done
    }

    /// The answer to a packet that goes nowhere: that of `icmp::unreachable` or `icmp::prohibited`.
    fn refusal(
        &self,
        answer: fn(&[u8], &Header, IpAddr, Option<Ipv4Addr>) -> Option<Answer>,
        from: Option<SessionId>,
        bytes: &[u8],
        header: &Header,
        fabric: Fabric<'_>,
    ) -> Option<Answer> {
        answer(bytes, header, self.answerer(from, header, fabric)?, self.broadcast())
    }

    /// Source of an ICMP error: the hub's address, or the destination when it goes to our own kernel, which drops
    /// packets from its own address. Another hub takes what is from an address of this hub alone, or of a member here.
    fn answerer(&self, from: Option<SessionId>, header: &Header, fabric: Fabric<'_>) -> Option<IpAddr> {
        let is_fitting = |address: &IpAddr| address.is_ipv6() == header.is_ipv6();
        match self.origin(from) {
            Origin::Kernel => Some(header.destination),
            Origin::Member(_) => self.subnets.hub().map(|hub| hub.ip()).find(is_fitting),
            Origin::Link(_) => {
                let own = fabric.own.map(|id| &fabric.members.member(id).addresses);
                own.into_iter().flatten().copied().find(is_fitting).or(Some(header.destination))
            }
        }
    }

    fn broadcast(&self) -> Option<Ipv4Addr> {
        self.subnets.broadcast()
    }

    fn enqueue(&mut self, session: SessionId, packet: Buf, header: &Header, now: Instant) {
        let flow = header.flow(self.flow_seed);
        let super::Buffers { pool, budget, .. } = &mut self.buffers;
        let entry = &mut self.sessions[session.index()];
        if let Beside::Lane(_) = entry.beside {
            let kind = Kind::of(&packet, header);
            return self.enqueue_beside(session, packet, (flow, kind), now);
        }
        entry.tunnel.enqueue(packet, flow, pool, now);
        budget.set(session, entry.tunnel.queue().cost());
        self.relieve();
        self.mark_dirty(session);
    }

    /// Has packets dropped where too much waits in all queues together.
    pub(super) fn relieve(&mut self) {
        let super::Buffers { pool, budget, .. } = &mut self.buffers;
        if budget.is_exceeded() {
            budget.relieve(|session| {
                let tunnel = &mut self.sessions[session.index()].tunnel;
                tunnel.drop_batch(pool);
                tunnel.queue().cost()
            });
        }
    }

    /// Passes a packet on to the hub's own kernel, instead of the one before where it says all that that says.
    fn deliver(&mut self, packet: Buf, effects: &mut Effects) {
        match effects.back_mut() {
            Some(Effect::Deliver(last)) if offload::supersedes(&packet, last) => {
                self.buffers.pool.give(std::mem::replace(last, packet));
            }
            Some(_) | None => effects.push_back(Effect::Deliver(packet)),
        }
    }

    /// Sends a packet to all who may have it: members, other hubs, and the hub's own kernel if it does not come from there.
    #[expect(
        clippy::too_many_arguments,
        reason = "the packet's whole story, on the way that must stay short"
    )]
    fn flood(
        &mut self,
        from: Option<SessionId>,
        sender: Option<MemberId>,
        mut packet: Buf,
        header: &Header,
        fabric: Fabric<'_>,
        effects: &mut Effects,
        now: Instant,
    ) {
        self.flood_sessions(from, sender, &mut packet, header, fabric, now);
        let has_kernel = from.is_some() && !self.port.is_closed;
        if has_kernel && self.allows(sender, Verdict::Tun, &packet, header, fabric, now) {
            return effects.push_back(Effect::Deliver(packet));
        }
        self.buffers.pool.give(packet);
    }

    fn flood_sessions(
        &mut self,
        from: Option<SessionId>,
        sender: Option<MemberId>,
        bytes: &mut [u8],
        header: &Header,
        fabric: Fabric<'_>,
        now: Instant,
    ) {
        // Each hub passes on what its own members send; what is from an address that each hub has stays here.
        let is_from_hub = matches!(self.origin(from), Origin::Link(_))
            || from.is_none() && self.subnets.is_hub(self.subnets.resolve(header.source));
        let online = self.sessions.len() + fabric.peers.map_or(0, Peers::count_told);
        let stays_here = is_from_hub || online > self.policing.limits.most_for_all;
        for index in 0..self.sessions.capacity() {
            let Some(entry) = self.sessions.get(index) else { continue };
            let to = SessionId::new(index);
            if !entry.tunnel.is_open() || entry.end.is_some() || from == Some(to) {
                continue;
            }
            let is_allowed = match entry.role {
                // It may have come here while what it had sent was on the way from the hub where it was.
                Role::Member(id) if Some(id) == sender => false,
                Role::Member(id) => self.allows(sender, Verdict::To(id), bytes, header, fabric, now),
                // It holds the packet against the rules for each of its members.
                Role::Hub => !stays_here,
                Role::Unknown => false,
            };
            if !is_allowed {
                continue;
            }
            let mut packet = self.buffers.pool.copy(bytes);
            if self.fits(to, &packet, header) {
                self.enqueue(to, packet, header, now);
                continue;
            }
            if !self.fragment(to, &mut packet, header, now) {
                self.sessions[index].port.drops.add(Reason::TooBig);
            }
            self.buffers.pool.give(packet);
        }
    }
}

/// Looks at a packet before it is sent on its way; one of the hub's own kernel is finished where it needs that.
fn check(packet: &mut [u8], is_own: bool) -> Result<Header, Reason> {
    let header = if is_own { offload::check_own(packet) } else { offload::check(packet) }?;
    if icmp::is_neighbour_discovery(packet, &header) { Err(Reason::NeighbourDiscovery) } else { Ok(header) }
}
