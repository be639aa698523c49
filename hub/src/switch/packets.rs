//! The way of a packet through the hub: opened, checked, routed, queued. Pure.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use common::packet::drops::Reason;
use common::packet::icmp::{self, Answer};
use common::packet::offload;
use common::packet::{self, Header, VNET_LEN};
use common::queue::Buf;
use common::wire::inbox::Inbox;
use common::wire::tunnel::Event;
use log::{log_enabled, trace};

use super::{End, Port, Switch};
use crate::lan::members::MemberId;
use crate::switch::router::{self, Verdict};

impl Switch {
    /// Handles what the inbox holds for a session, up to the next packet for the hub's own kernel.
    /// `None` asks for more bytes.
    pub fn receive(&mut self, session: usize, inbox: &mut Inbox, now: Instant) -> Option<Buf> {
        loop {
            let entry = &mut self.sessions[session];
            if entry.end.is_some() {
                return None;
            }
            match entry.tunnel.open(inbox, &mut self.pool, now) {
                Ok(Some(Event::Packet(packet))) => {
                    let own = self.forward(Some(session), packet, now);
                    if own.is_some() {
                        return own;
                    }
                }
                Ok(Some(Event::Join { key, join })) => self.handle_join(session, key, join, now),
                Ok(Some(Event::Control(control))) => self.handle_control(session, control),
                Ok(None) => {
                    if entry.tunnel.has_greeted() {
                        self.gate.greeted(entry.source.ip(), session);
                    }
                    // The handshake and control frames are answered.
                    if self.sessions[session].tunnel.wants_write() {
                        self.mark_dirty(session);
                    }
                    return None;
                }
                Err(error) => self.end_with(session, End::Broken(error.to_string())),
            }
        }
    }

    /// Sends a packet from the hub's own kernel on its way. What comes back is for that kernel: the answer to a
    /// packet that cannot be delivered.
    pub fn send(&mut self, packet: Buf, now: Instant) -> Option<Buf> {
        self.forward(None, packet, now)
    }

    /// Sends a packet (virtio-net header and IP) on its way: from a session, or else from the hub's own kernel.
    /// What comes back is for that kernel.
    fn forward(&mut self, from: Option<usize>, mut packet: Buf, now: Instant) -> Option<Buf> {
        let header = match check(&mut packet, from.is_none()) {
            Ok(header) => header,
            Err(reason) => {
                trace!("{} bytes are not let through: {reason}", packet.len());
                self.port(from).drops.add(reason);
                self.pool.give(packet);
                return None;
            }
        };
        let member = from.and_then(|session| self.sessions[session].member);
        let verdict = router::route(&self.members, &self.routes, &self.lan.subnets, member, &header);
        if log_enabled!(log::Level::Trace) {
            let name = member.map_or("the hub", |id| self.members.member(id).name.as_str());
            trace!("{header} from {name}: {verdict:?}");
        }
        // Who answers what cannot be delivered. To the hub's own kernel it is the destination itself: it would
        // throw away what comes in from its own address.
        let by = if from.is_some() { self.hub_address(&header) } else { Some(header.destination) };
        let dropped = match verdict {
            Verdict::Tun => return Some(packet),
            Verdict::Flood if self.may_flood(member, &packet, now) => {
                self.flood(member, &mut packet, &header, now);
                if from.is_some() {
                    return Some(packet);
                }
                None
            }
            Verdict::Flood => Some((Reason::RateLimit, None)),
            Verdict::To(to) => match self.receiver(to) {
                Some(to) if self.fits(to, &packet, &header) => {
                    self.enqueue(to, packet, &header, now);
                    return None;
                }
                Some(to) => match self.too_big(to, &packet, &header, by) {
                    None if self.cut(to, &mut packet, &header, now) => None,
                    answer => Some((Reason::TooBig, answer)),
                },
                None => Some((Reason::Offline, self.unreachable(&packet, &header, by))),
            },
            Verdict::Drop(reason @ (Reason::NoRoute | Reason::Offline)) => {
                Some((reason, self.unreachable(&packet, &header, by)))
            }
            Verdict::Drop(reason) => Some((reason, None)),
        };
        self.pool.give(packet);
        let (reason, answer) = dropped?;
        self.port(from).drops.add(reason);
        let answer = answer.filter(|_| self.limits.of(member, now).answer(now))?;
        let answer = self.pool.copy(&answer);
        let Some(session) = from else { return Some(answer) };
        match answer.get(VNET_LEN..).ok_or(Reason::Malformed).and_then(packet::parse) {
            Ok(header) => self.enqueue(session, answer, &header, now),
            Err(_) => self.pool.give(answer),
        }
        None
    }

    /// Whether a source may send this packet to everyone.
    fn may_flood(&mut self, from: Option<MemberId>, bytes: &[u8], now: Instant) -> bool {
        self.limits.of(from, now).flood(offload::segments(bytes), bytes.len(), now)
    }

    fn port(&mut self, from: Option<usize>) -> &mut Port {
        from.map_or(&mut self.port, |session| &mut self.sessions[session].port)
    }

    /// Counts a packet that the hub's own device did not take.
    pub fn count_device_drop(&mut self) {
        self.port.drops.add(Reason::Device);
    }

    /// The session of a member that packets can be sent to.
    fn receiver(&self, to: MemberId) -> Option<usize> {
        self.members.member(to).session.filter(|&session| self.is_live(session))
    }

    /// Whether the receiver takes a packet of this size.
    fn fits(&self, to: usize, bytes: &[u8], header: &Header) -> bool {
        let mtu = self.sessions[to].mtu;
        mtu >= self.lan.mtu as usize || !icmp::exceeds(bytes, header, mtu)
    }

    /// The answer to a packet that is too big for its receiver; none where it may be cut instead.
    fn too_big(&self, to: usize, bytes: &[u8], header: &Header, by: Option<IpAddr>) -> Option<Answer> {
        icmp::too_big(bytes, header, by?, self.broadcast(), self.sessions[to].mtu)
    }

    /// Sends a packet that is too big in fragments; `false` where it may not be cut.
    fn cut(&mut self, to: usize, bytes: &mut [u8], header: &Header, now: Instant) -> bool {
        let mtu = self.sessions[to].mtu;
        let mut scratch = std::mem::take(&mut self.scratch);
        let is_cut = offload::fragment(bytes, header, mtu, &mut scratch, |piece| {
            let piece = self.pool.copy(piece);
            self.enqueue(to, piece, header, now);
        });
        self.scratch = scratch;
        is_cut
    }

    /// The answer to a packet that cannot be delivered.
    fn unreachable(&self, bytes: &[u8], header: &Header, by: Option<IpAddr>) -> Option<Answer> {
        icmp::unreachable(bytes, header, by?, self.broadcast())
    }

    /// The hub's address of the packet's family.
    fn hub_address(&self, header: &Header) -> Option<IpAddr> {
        self.lan.subnets.hub().map(|hub| hub.ip()).find(|hub| hub.is_ipv6() == header.is_ipv6())
    }

    fn broadcast(&self) -> Option<Ipv4Addr> {
        self.lan.subnets.broadcast()
    }

    fn enqueue(&mut self, session: usize, packet: Buf, header: &Header, now: Instant) {
        let flow = header.flow(self.flow_seed);
        self.sessions[session].tunnel.enqueue(packet, flow, &mut self.pool, now);
        self.mark_dirty(session);
    }

    fn flood(&mut self, from: Option<MemberId>, bytes: &mut [u8], header: &Header, now: Instant) {
        for key in 0..self.sessions.capacity() {
            let Some(session) = self.sessions.get(key) else { continue };
            if !session.tunnel.is_open() || session.end.is_some() || session.member == from {
                continue;
            }
            let mut packet = self.pool.copy(bytes);
            if self.fits(key, &packet, header) {
                self.enqueue(key, packet, header, now);
                continue;
            }
            if !self.cut(key, &mut packet, header, now) {
                self.sessions[key].port.drops.add(Reason::TooBig);
            }
            self.pool.give(packet);
        }
    }
}

/// Looks at a packet before it is sent on its way; one of the hub's own kernel is finished where it needs that.
fn check(packet: &mut [u8], is_own: bool) -> Result<Header, Reason> {
    let header = if is_own { offload::check_own(packet) } else { offload::check(packet) }?;
    if icmp::is_neighbour_discovery(packet, &header) { Err(Reason::NeighbourDiscovery) } else { Ok(header) }
}
