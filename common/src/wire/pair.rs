//! The tunnels of a session that has a lane: what goes by which, and what becomes of it when the lane ends. Pure.

use std::time::{Duration, Instant};

use crate::packet::Kind;
use crate::queue::steering::{Choice, Side, Steering};
use crate::queue::{Buf, Pool};
use crate::wire::tunnel::{DEAD_AFTER, Error, Tunnel};

/// Most memory of packets that are held back while their flows change over, in bytes.
const HELD_BYTES: usize = 256 * 1024;
/// A lane that has answered nothing for so long is lost, where the link is heard.
const LOST_AFTER: Duration = Duration::from_secs(3);
/// How often a lane that does not answer is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What a session with a lane has beside its two tunnels.
#[derive(Debug)]
pub struct Pair {
    steering: Steering,
    /// Packets that are held back, with the hashes of their flows: the oldest first.
    held: Vec<(u32, Buf)>,
    held_bytes: usize,
    look_at: Option<Instant>,
}

impl Pair {
    /// A lane is open from now on.
    pub fn new(now: Instant) -> Pair {
        Pair { steering: Steering::new(now), held: Vec::new(), held_bytes: 0, look_at: None }
    }

    /// Queues a validated packet of the given flow. Returns whether the link has something new to write by that, and
    /// whether the lane has.
    pub fn enqueue(
        &mut self,
        link: &mut Tunnel,
        lane: &mut Tunnel,
        packet: Buf,
        (flow, kind): (u32, Kind),
        pool: &mut Pool,
        now: Instant,
    ) -> [bool; 2] {
        let mut wants_write = self.release(link, lane, pool, now);
        match self.steering.choose(flow, kind, packet.len(), now) {
            Choice::By(Side::Link) => {
                link.enqueue(packet, flow, pool, now);
                wants_write[0] = true;
            }
            Choice::By(Side::Lane) => {
                lane.enqueue(packet, flow, pool, now);
                wants_write[1] = true;
            }
            Choice::Held if self.held_bytes + packet.truesize() > HELD_BYTES => {
                link.refuse_packet(packet, pool)
            }
            Choice::Held => {
                self.held_bytes += packet.truesize();
                self.held.push((flow, packet));
            }
        }
        wants_write
    }

    /// Takes note of what the other end has handled, and asks for more of that: after each read and write. Returns
    /// whether the link has something new to write by that, and whether the lane has.
    ///
    /// # Errors
    /// The other end does not read this side.
    pub fn settle(
        &mut self,
        link: &mut Tunnel,
        lane: &mut Tunnel,
        pool: &mut Pool,
        now: Instant,
    ) -> Result<[bool; 2], (Side, Error)> {
        let mut wants_write = self.release(link, lane, pool, now);
        for (at, (side, tunnel)) in [(Side::Link, link), (Side::Lane, lane)].into_iter().enumerate() {
            if self.steering.poll_ping(side, tunnel.next_settling(), tunnel.queue(), now) {
                tunnel.settle().map_err(|error| (side, error))?;
                wants_write[at] = true;
            }
        }
        Ok(wants_write)
    }

    /// Queues the packets whose flows have changed over: whether any goes by the link, and whether any by the lane.
    fn release(&mut self, link: &mut Tunnel, lane: &mut Tunnel, pool: &mut Pool, now: Instant) -> [bool; 2] {
        self.steering.answered(Side::Link, link.settled());
        self.steering.answered(Side::Lane, lane.settled());
        let (mut next, mut wants_write) = (0, [false; 2]);
        while let Some(&(flow, _)) = self.held.get(next) {
            let Some(side) = self.steering.release(Steering::class(flow)) else {
                next += 1;
                continue;
            };
            let class = Steering::class(flow);
            for (flow, packet) in self.held.extract_if(.., |(flow, _)| Steering::class(*flow) == class) {
                self.held_bytes -= packet.truesize();
                match side {
                    Side::Link => link.enqueue(packet, flow, pool, now),
                    Side::Lane => lane.enqueue(packet, flow, pool, now),
                }
                wants_write[usize::from(side == Side::Lane)] = true;
            }
            next = 0;
        }
        wants_write
    }

    /// Memory of the packets that are held back, in bytes.
    pub fn cost(&self) -> usize {
        self.held_bytes
    }

    /// When [`Pair::is_lost`] may have become true.
    pub fn deadline(&self) -> Option<Instant> {
        let since = self.steering.unanswered_since()?;
        Some(self.look_at.map_or(since + LOST_AFTER, |at| at.max(since + LOST_AFTER)))
    }

    /// Whether the lane is dead, as far as can be told from here: it answers nothing, though the link is heard.
    pub fn is_lost(&mut self, link: &Tunnel, lane: &Tunnel, now: Instant) -> bool {
        self.look_at = Some(now + LOOK_EVERY);
        let Some(since) = self.steering.unanswered_since() else { return false };
        let is_link_heard = link.heard_at() > since + LOST_AFTER / 2;
        let is_silent = now >= since + LOST_AFTER && lane.heard_at() <= since;
        is_link_heard && (is_silent || now >= since + DEAD_AFTER)
    }

    /// The lane has ended: what waits for it goes by the link. `flow`: the hash of a packet's flow.
    ///
    /// To be called when the other end was told, or has told, that nothing more goes by the lane; then no flow is reordered,
    /// whatever has become of what was sent by it.
    pub fn dissolve(
        mut self,
        link: &mut Tunnel,
        lane: &mut Tunnel,
        flow: impl Fn(&[u8]) -> u32,
        pool: &mut Pool,
        now: Instant,
    ) {
        let mut queue = lane.take_queue();
        while let Some(packet) = queue.pop(now, usize::MAX, pool) {
            let flow = flow(&packet);
            link.enqueue(packet, flow, pool, now);
        }
        // It has counted what was dropped.
        lane.set_queue(queue);
        for (flow, packet) in self.held.drain(..) {
            link.enqueue(packet, flow, pool, now);
        }
    }
}
