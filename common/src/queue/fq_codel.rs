//! FQ-CoDel (RFC 8290, RFC 8289): the one queue of a link, towards a spoke or towards the hub. Pure.
//!
//! Owns the policy: which flow is served next, which one drops when the queue is full, which ones signal congestion.
//! The state machine of one flow is in `codel`, the structure that holds packets in `flows`.

use std::fmt;
use std::time::{Duration, Instant};

use crate::packet::drops::{Drops, Reason};
use crate::packet::offload;
use crate::packet::{self, VNET_LEN};
use crate::queue::codel::{Codel, Law};
use crate::queue::flows::{FlowId, FlowTable};
use crate::queue::{Buf, Pool};

/// Bytes that a flow may send per round: exactly one packet of the usual MTU, RFC 8290 section 5.2.4.
///
/// It stays this small although a super-packet is 43 times as long. A flow with a positive deficit sends a whole
/// packet, and its deficit becomes negative; it then skips rounds until the deficit is positive again. Shares are
/// therefore even in bytes, whatever the packets' sizes. A quantum of 64 KiB would let each new flow send 64 KiB
/// ahead of all others.
const QUANTUM: isize = (VNET_LEN + 1_500) as isize;

/// When the queue is full, the fattest flow drops half of its backlog but at most this much, in packets (RFC 8290
/// section 4.1) and in bytes, as 64 super-packets would be 4 MiB. One search for the flow thereby covers many
/// packets, or large ones.
const BATCH_PACKETS: usize = 64;
const BATCH_BYTES: usize = 65_536;

/// How long a packet may have waited that outlives its link.
pub const KEPT_FOR: Duration = Duration::from_secs(3);
/// Most memory that such packets occupy together, in bytes.
pub const KEPT_BYTES: usize = 256 * 1024;

/// The packets that wait for one link.
///
/// With one packet or none, the queue is only this struct. More packets need a table, which comes from the [`Pool`]
/// and returns to it with the last packet. Call [`Queue::clear`] before dropping a queue, so that the memory is
/// recycled instead of freed.
pub struct Queue {
    /// The only queued packet, where there is no table: there is nothing to schedule, and no standing delay.
    lone: Option<Queued>,
    table: Option<Box<FlowTable>>,
    cap: usize,
    law: Law,
    cost: usize,
    bytes: usize,
    packets: usize,
    /// Times in the table count from here: the first packet ever.
    epoch: Option<Instant>,
    /// The control state of the flow that was last in dropping state, while there is no table to hold it.
    last_dropping: Option<(u16, Codel)>,
    marks: u64,
    drops_full: u64,
    drops_delay: u64,
}

/// A packet, its flow's bucket, and when it was queued.
struct Queued {
    packet: Buf,
    bucket: u16,
    since: u64,
}

impl Queue {
    /// An empty queue, whose packets will occupy up to `cap_bytes` bytes of memory. Allocates nothing.
    pub const fn new(cap_bytes: usize) -> Queue {
        Queue {
            lone: None,
            table: None,
            cap: cap_bytes,
            law: Law::USUAL,
            cost: 0,
            bytes: 0,
            packets: 0,
            epoch: None,
            last_dropping: None,
            marks: 0,
            drops_full: 0,
            drops_delay: 0,
        }
    }

    /// Tells the round trip of the link behind this queue.
    pub fn set_round_trip(&mut self, round_trip: Duration) {
        self.law = Law::with_round_trip(u64::try_from(round_trip.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Queues a packet (virtio-net header, then IP) of the flow with this hash. It becomes part of a super-packet where
    /// the flow's last packet was queued at the same `now` and [it follows that one](offload::joint), and takes its place
    /// where it [says all that this says](offload::supersedes).
    ///
    /// The cap is on memory: what buffers occupy, not what they contain. Above it, packets of the
    /// flow that occupies most are dropped, the oldest first.
    pub fn push(&mut self, packet: Buf, flow: u32, now: Instant, pool: &mut Pool) {
        let (bucket, since) = (FlowTable::bucket(flow), self.time(now));
        if self.join(&packet, bucket, since, pool) {
            return pool.give(packet);
        }
        self.cost += FlowTable::cost(&packet);
        self.bytes += packet.len();
        self.packets += 1;
        let waiting = Queued { packet, bucket, since };
        if self.packets == 1 && self.cost <= self.cap {
            self.lone = Some(waiting);
            return;
        }
        if let Some(lone) = self.lone.take() {
            self.schedule(lone, pool);
        }
        self.schedule(waiting, pool);
        if self.cost > self.cap {
            self.shed(pool);
        }
    }

    /// Joins a packet to the last one of its flow, where both came at the same time and belong together. What waits
    /// together then costs each one on its way, up to the receiver's kernel, a packet instead of many.
    ///
    /// Only then, as CoDel measures by one time how long a packet waited.
    fn join(&mut self, next: &[u8], bucket: u16, since: u64, pool: &mut Pool) -> bool {
        let (added, cost) = match (&mut self.lone, &mut self.table) {
            (Some(lone), _) if lone.bucket == bucket && lone.since == since => {
                let before = FlowTable::cost(&lone.packet);
                let Some(added) = append(&mut lone.packet, next, pool) else { return false };
                (added, FlowTable::cost(&lone.packet) - before)
            }
            (None, Some(table)) => {
                let Some(grown) = table.grow_tail(bucket, since, |tail| append(tail, next, pool)) else {
                    return false;
                };
                grown
            }
            (Some(_) | None, _) => return false,
        };
        self.bytes += added;
        self.cost += cost;
        if self.cost > self.cap {
            if let Some(lone) = self.lone.take() {
                self.schedule(lone, pool);
            }
            self.shed(pool);
        }
        true
    }

    /// Puts a packet into the table.
    fn schedule(&mut self, Queued { packet, bucket, since }: Queued, pool: &mut Pool) {
        let table = self.table.get_or_insert_with(|| pool.take_table());
        let last_dropping = &self.last_dropping;
        let id = table.flow_of(bucket, || match last_dropping {
            Some((of, codel)) if *of == bucket => *codel,
            Some(_) | None => Codel::default(),
        });
        table.enqueue(id, packet, since);
        // RFC 8290 section 4.1: a flow that had nothing to send is new, and starts with one quantum.
        if table.activate(id) {
            table.flow(id).deficit = QUANTUM;
        }
    }

    /// The next packet to send.
    ///
    /// A super-packet longer than `max` is split: its front is returned, in whole segments, and the remainder stays
    /// queued. On a slow link a long packet would delay all others, as nothing overtakes a packet in transmission.
    pub fn pop(&mut self, now: Instant, max: usize, pool: &mut Pool) -> Option<Buf> {
        if let Some(lone) = self.lone.take() {
            if lone.packet.len() <= max {
                (self.cost, self.bytes, self.packets) = (0, 0, 0);
                return Some(lone.packet);
            }
            self.schedule(lone, pool);
        }
        let now = self.time(now);
        // RFC 8290 section 4.2.
        let packet = loop {
            let table = self.table.as_deref_mut()?;
            let (id, is_new) = table.first()?;
            let flow = table.flow(id);
            if flow.deficit <= 0 {
                flow.deficit += QUANTUM;
                table.rotate();
                continue;
            }
            if let Some(packet) = self.pop_flow(id, now, max, pool) {
                break packet;
            }
            let table = self.table.as_deref_mut()?;
            // RFC 8290 section 4.2: an empty new flow becomes an old one, or its next packet would make it new again.
            if is_new { table.rotate() } else { table.deactivate() }
        };
        if self.packets == 0 {
            self.release(pool);
        }
        Some(packet)
    }

    /// Drops everything, uncounted, and gives back all memory.
    pub fn clear(&mut self, pool: &mut Pool) {
        if let Some(lone) = self.lone.take() {
            pool.give(lone.packet);
        }
        if let Some(table) = self.table.as_deref_mut() {
            for id in 0..table.flows().len() as FlowId {
                while let Some(packet) = table.dequeue(id) {
                    pool.give(packet);
                }
            }
        }
        (self.cost, self.bytes, self.packets) = (0, 0, 0);
        self.release(pool);
    }

    /// Prepares the packets for another link, or for the same after it had stood still: those older than [`KEPT_FOR`]
    /// are dropped, and the oldest of the fattest flows above [`KEPT_BYTES`]; for the others, CoDel's clock starts anew.
    pub fn carry_over(&mut self, now: Instant, pool: &mut Pool) {
        let now = self.time(now);
        let oldest = now.saturating_sub(KEPT_FOR.as_nanos() as u64);
        self.last_dropping = None;
        if let Some(lone) = &mut self.lone {
            let is_late = std::mem::replace(&mut lone.since, now) < oldest;
            if is_late && let Some(lone) = self.lone.take() {
                (self.cost, self.bytes, self.packets) = (0, 0, 0);
                self.drops_delay += 1;
                pool.give(lone.packet);
            }
        }
        let flows = self.table.as_deref().map_or(0, |table| table.flows().len());
        for id in 0..flows as FlowId {
            let Some(table) = self.table.as_deref_mut() else { break };
            while table.head(id).is_some_and(|(_, since)| since < oldest)
                && let Some(packet) = table.dequeue(id)
            {
                self.cost -= FlowTable::cost(&packet);
                self.bytes -= packet.len();
                self.packets -= 1;
                self.drops_delay += 1;
                pool.give(packet);
            }
            table.restart(id, now);
        }
        if self.packets == 0 {
            return self.release(pool);
        }
        self.trim(pool);
    }

    /// Drops what waits above [`KEPT_BYTES`], while there is no link.
    pub fn trim(&mut self, pool: &mut Pool) {
        while self.cost > KEPT_BYTES && self.packets > 0 {
            self.drop_batch(pool);
        }
    }

    /// Whether a packet waits of a flow whose hash is this modulo `classes`, a power of two up to 1,024.
    pub fn has_class(&self, class: u16, classes: u16) -> bool {
        self.lone.as_ref().is_some_and(|lone| lone.bucket % classes == class)
            || self.table.as_deref().is_some_and(|table| table.has_class(class, classes))
    }

    /// Drops a packet for which whoever holds it has no more room: [`Reason::QueueFull`].
    pub fn refuse(&mut self, packet: Buf, pool: &mut Pool) {
        self.drops_full += u64::from(offload::segments(&packet));
        pool.give(packet);
    }

    /// Packets that wait.
    pub fn len(&self) -> usize {
        self.packets
    }

    /// Whether the queue is empty.
    pub fn is_empty(&self) -> bool {
        self.packets == 0
    }

    /// Length of all packets that wait.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Memory that the waiting packets occupy, in bytes; at most the cap.
    pub fn cost(&self) -> usize {
        self.cost
    }

    /// Packets dropped so far, each segment of a super-packet counted: [`Reason::QueueFull`] and [`Reason::Delay`].
    pub fn drops(&self) -> Drops {
        let mut drops = Drops::default();
        drops.add_many(Reason::QueueFull, self.drops_full);
        drops.add_many(Reason::Delay, self.drops_delay);
        drops
    }

    /// Packets marked instead of dropped so far.
    pub fn marks(&self) -> u64 {
        self.marks
    }

    /// Takes a packet out of a flow, having dropped those that CoDel wants dropped (RFC 8289 section 5.5).
    fn pop_flow(&mut self, id: FlowId, now: u64, max: usize, pool: &mut Pool) -> Option<Buf> {
        loop {
            let (_, since) = self.table.as_deref_mut()?.head(id)?;
            let mut packet = self.take_front(id, max, pool)?;
            let flow = self.table.as_deref_mut()?.flow(id);
            let signal = flow.codel.must_signal(self.law, now, now.saturating_sub(since), flow.bytes);
            if !signal {
                return self.sent(id, packet);
            }
            if packet::mark_congestion(&mut packet) {
                self.marks += 1;
                return self.sent(id, packet);
            }
            self.drops_delay += 1;
            // Dropping one segment signals congestion; keep the remainder of the super-packet.
            if lose_segment(&mut packet, pool) {
                return self.sent(id, packet);
            }
            pool.give(packet);
        }
    }

    fn sent(&mut self, id: FlowId, packet: Buf) -> Option<Buf> {
        self.table.as_deref_mut()?.flow(id).deficit -= packet.len() as isize;
        Some(packet)
    }

    /// Takes the first packet out of a flow, or its front where it is longer than `max`.
    fn take_front(&mut self, id: FlowId, max: usize, pool: &mut Pool) -> Option<Buf> {
        let table = self.table.as_deref_mut()?;
        let (packet, _) = table.head(id)?;
        let len = packet.len();
        if len > max
            && let Some(second) = offload::split_front(packet, max, &mut pool.scratch)
        {
            packet.advance(second);
            let gone = len - packet.len();
            table.flow(id).bytes -= gone;
            self.bytes -= gone;
            let mut front = pool.take(pool.scratch.len());
            front.copy_from_slice(&pool.scratch);
            return Some(front);
        }
        let packet = table.dequeue(id)?;
        self.cost -= FlowTable::cost(&packet);
        self.bytes -= len;
        self.packets -= 1;
        Some(packet)
    }

    /// Drops a batch of packets of the fattest flow, the oldest first: for whoever bounds many queues together.
    /// They count as [`Reason::QueueFull`]. Where anything waits, [`Queue::cost`] is smaller afterwards.
    pub fn drop_batch(&mut self, pool: &mut Pool) {
        if let Some(lone) = self.lone.take() {
            (self.cost, self.bytes, self.packets) = (0, 0, 0);
            self.drops_full += u64::from(offload::segments(&lone.packet));
            return pool.give(lone.packet);
        }
        self.drop_of_fattest(pool);
        if self.packets == 0 {
            self.release(pool);
        }
    }

    /// Makes the fattest flows pay until the cap is kept (RFC 8290 section 4.1).
    fn shed(&mut self, pool: &mut Pool) {
        while self.cost > self.cap && self.drop_of_fattest(pool) {}
        if self.packets == 0 {
            self.release(pool);
        }
    }

    /// Takes a batch off the fattest flow in the table; `false` where there is none.
    fn drop_of_fattest(&mut self, pool: &mut Pool) -> bool {
        let Some(table) = self.table.as_deref_mut() else { return false };
        let Some((id, cost)) = table.fattest() else { return false };
        let enough = self.cost - (cost / 2).min(BATCH_BYTES);
        for _ in 0..BATCH_PACKETS {
            let Some(packet) = table.dequeue(id) else { break };
            self.cost -= FlowTable::cost(&packet);
            self.bytes -= packet.len();
            self.packets -= 1;
            self.drops_full += u64::from(offload::segments(&packet));
            pool.give(packet);
            if self.cost <= enough {
                break;
            }
        }
        true
    }

    /// Gives the table back, and keeps of its flows what may matter soon.
    fn release(&mut self, pool: &mut Pool) {
        debug_assert_eq!((self.cost, self.bytes, self.packets), (0, 0, 0));
        let Some(mut table) = self.table.take() else { return };
        debug_assert!(table.flows().iter().all(|flow| flow.bytes == 0));
        let last_dropping = table.flows().iter().filter(|flow| flow.codel.last_episode().is_some());
        if let Some(flow) = last_dropping.max_by_key(|flow| flow.codel.last_episode()) {
            self.last_dropping = Some((flow.bucket, flow.codel));
        }
        table.reset();
        pool.give_table(table);
    }

    /// Nanoseconds since the epoch.
    fn time(&mut self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(*self.epoch.get_or_insert(now));
        since.as_secs() * 1_000_000_000 + u64::from(since.subsec_nanos())
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Queue({} packets, {} bytes)", self.packets, self.bytes)
    }
}

/// Makes `next` the last segment of `packet`, if it follows that, or puts it in its place, if it says all that this says;
/// by how many bytes that grows.
fn append(packet: &mut Buf, next: &[u8], pool: &mut Pool) -> Option<usize> {
    if offload::supersedes(next, packet) {
        packet.copy_from_slice(next);
        return Some(0);
    }
    let joint = offload::joint(packet, next)?;
    let added = joint.added();
    if packet.spare().len() < added {
        let mut grown = pool.take(packet.len() + added);
        grown.truncate(packet.len());
        grown.copy_from_slice(packet);
        pool.give(std::mem::replace(packet, grown));
    }
    packet.append(&next[next.len() - added..]);
    joint.mend(packet);
    Some(added)
}

/// Takes the first segment off a super-packet; false if the packet is none.
fn lose_segment(packet: &mut Buf, pool: &mut Pool) -> bool {
    match offload::split_front(packet, 0, &mut pool.scratch) {
        Some(second) => {
            packet.advance(second);
            true
        }
        None => false,
    }
}

#[cfg(test)]
mod carried;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod stalls;
#[cfg(test)]
mod tests;
