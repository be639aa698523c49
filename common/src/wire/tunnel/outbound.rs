//! What a tunnel has to send: control frames first, then packets, sealed when the socket takes them. Pure.

use std::time::{Duration, Instant};

use super::error::Error;
use super::traffic::Traffic;
use crate::queue::pace::{MAX_BURST, Pace};
use crate::queue::{Buf, Pool, Queue};
use crate::wire::frame::{self, ControlFrame};
use crate::wire::noise::{LENGTH_LEN, MAX_RECORD, MAX_RECORD_PLAIN, Sealer};

/// Most bytes that the packets in one tunnel's queue may hold.
pub const QUEUE_BYTES: usize = 3 * 1024 * 1024;
/// The same for a lane, which has sparse flows alone.
pub(super) const LANE_QUEUE_BYTES: usize = 256 * 1024;
/// Most bytes of control frames that wait to be sealed: an end that does not read gets no more.
pub(super) const MAX_CONTROL: usize = 256 * 1024;

/// Most bytes of control frames that go ahead of packets, but for the end of a frame, before as many bytes of packets do:
/// what others make the hub say must not starve what a member receives.
pub(super) const CONTROL_AHEAD: usize = 4 * 1024;

/// From this length on, in bytes, the remainder of a packet is sealed straight from its buffer, as a record of its
/// own: gathering it with others would cost one more copy at either end.
pub(super) const STRAIGHT: usize = 8 * 1024;

/// The sending half of a tunnel.
pub(super) struct Outbound {
    /// Packets that wait.
    pub(super) queue: Queue,
    /// Whether the packets stay there.
    pub(super) is_held: bool,
    /// Control frames that wait, whole but for the first one; they go ahead of packets, up to [`CONTROL_AHEAD`].
    pub(super) control: Vec<u8>,
    turns: Turns,
    /// A packet of which a record already holds the beginning.
    pub(super) begun: Option<Buf>,
    /// Sealed bytes that the socket did not take yet.
    pub(super) unsent: Option<Buf>,
    pace: Pace,
    /// Packets that went into records.
    pub(super) traffic: Traffic,
}

/// Whose turn it is where control frames and packets wait.
#[derive(Clone, Copy, Default)]
struct Turns {
    /// What is left of a control frame that has begun; nothing may come in between.
    begun: usize,
    /// Bytes that went ahead of packets, less the packets since.
    ahead: usize,
    /// Whether the next control frame goes ahead of packets whatever went before.
    is_first: bool,
}

impl Outbound {
    pub(super) fn new() -> Outbound {
        Outbound {
            queue: Queue::new(QUEUE_BYTES),
            is_held: false,
            control: Vec::new(),
            turns: Turns::default(),
            begun: None,
            unsent: None,
            pace: Pace::default(),
            traffic: Traffic::default(),
        }
    }

    /// Tells the round trip of the path.
    pub(super) fn set_round_trip(&mut self, round_trip: Duration) {
        self.queue.set_round_trip(round_trip);
        self.pace.set_round_trip(round_trip);
    }

    /// Queues a control frame ahead of all packets.
    pub(super) fn control(&mut self, control: &ControlFrame) -> Result<(), Error> {
        if self.control.len() > MAX_CONTROL {
            return Err(Error::SendBufferFull);
        }
        control.encode(&mut self.control);
        Ok(())
    }

    /// The same, and ahead of all control frames that have not begun.
    pub(super) fn control_first(&mut self, control: &ControlFrame) -> Result<(), Error> {
        let begun = self.turns.begun;
        let waiting = self.control.split_off(begun.min(self.control.len()));
        self.control(control)?;
        self.control.extend_from_slice(&waiting);
        self.turns.is_first = true;
        Ok(())
    }

    /// The same with a frame that is encoded already.
    pub(super) fn control_encoded(&mut self, frame: &[u8]) -> Result<(), Error> {
        if self.control.len() > MAX_CONTROL {
            return Err(Error::SendBufferFull);
        }
        self.control.extend_from_slice(frame);
        Ok(())
    }

    /// Whether anything waits to be sealed.
    pub(super) fn is_waiting(&self) -> bool {
        !(self.control.is_empty() && self.begun.is_none() && (self.is_held || self.queue.is_empty()))
    }

    /// Notes that a write took `len` of `unsent`.
    pub(super) fn sent(&mut self, len: usize, pool: &mut Pool, now: Instant) {
        let Some(mut remainder) = self.unsent.take() else { return };
        remainder.advance(len);
        self.pace.took(len, !remainder.is_empty(), now);
        if remainder.is_empty() {
            pool.give(remainder);
        } else {
            self.unsent = Some(remainder);
        }
    }

    /// Whether it is a control frame's turn, where a packet may wait.
    fn is_control_due(&self, is_open: bool) -> bool {
        let Turns { begun, ahead, is_first } = self.turns;
        // Goodbye waits for no packet.
        begun > 0 || (!self.control.is_empty() && (ahead < CONTROL_AHEAD || is_first || !is_open))
    }

    /// Moves what fits of one control frame.
    fn take_control(&mut self, room: usize, into: &mut Buf) {
        if self.turns.begun == 0 {
            let body = frame::Header::decode(&self.control).ok().flatten().map_or(0, |header| header.len);
            self.turns.begun = (frame::HEADER_LEN + body).min(self.control.len());
            self.turns.is_first = false;
        }
        let len = self.turns.begun.min(room);
        into.append(&self.control[..len]);
        self.control.drain(..len);
        self.turns.begun -= len;
        self.turns.ahead += len;
    }

    /// Seals what may go out in one write, appending records to `outbox`. `is_open`: whether the other end is on the LAN.
    pub(super) fn seal(
        &mut self,
        is_open: bool,
        sealer: &mut Sealer,
        outbox: &mut Buf,
        pool: &mut Pool,
        now: Instant,
    ) -> Result<(), Error> {
        let (burst, record) = (self.pace.burst(), self.pace.record(MAX_RECORD_PLAIN));
        let mut small = pool.take(record);
        while outbox.len() < burst {
            if let Some(packet) = self.begun.take_if(|packet| packet.len() >= STRAIGHT) {
                let len = packet.len().min(record);
                sealer.seal(&packet[..len], outbox)?;
                self.begun = remainder(packet, len, pool);
                continue;
            }
            small.clear();
            while small.len() < record {
                let room = record - small.len();
                if let Some(packet) = self.begun.take() {
                    let len = packet.len().min(room);
                    small.append(&packet[..len]);
                    self.begun = remainder(packet, len, pool);
                } else if self.is_control_due(is_open) {
                    self.take_control(room, &mut small);
                } else if room < frame::HEADER_LEN {
                    break;
                } else if !self.is_held
                    && let Some(packet) = self.queue.pop(now, self.pace.packet(MAX_RECORD_PLAIN), pool)
                {
                    self.traffic.add(packet.len());
                    self.turns.ahead = self.turns.ahead.saturating_sub(packet.len());
                    small.append(&frame::Header::packet(packet.len()));
                    let is_large = packet.len() >= STRAIGHT;
                    self.begun = Some(packet);
                    if is_large {
                        break;
                    }
                } else {
                    // No packet waits.
                    self.turns.ahead = 0;
                    if self.control.is_empty() {
                        break;
                    }
                }
            }
            if small.is_empty() {
                break;
            }
            sealer.seal(&small, outbox)?;
        }
        pool.give(small);
        if self.control.is_empty() {
            self.control = Vec::new();
        }
        if outbox.is_empty() {
            self.pace.idle();
        }
        Ok(())
    }

    /// Notes that a write took `len` of the outbox, and keeps the remainder.
    pub(super) fn wrote(&mut self, outbox: &[u8], len: usize, pool: &mut Pool, now: Instant) {
        self.pace.took(len, len < outbox.len(), now);
        if len < outbox.len() {
            debug_assert!(self.unsent.is_none());
            self.unsent = Some(pool.copy(&outbox[len..]));
        }
    }

    /// Gives all buffers back.
    pub(super) fn clear(&mut self, pool: &mut Pool) {
        self.queue.clear(pool);
        for buf in [self.begun.take(), self.unsent.take()].into_iter().flatten() {
            pool.give(buf);
        }
    }
}

/// A buffer for [`Tunnel::seal`](super::Tunnel::seal), empty.
pub fn outbox() -> Buf {
    // The last record may begin one byte short of a whole burst.
    Buf::with_capacity(MAX_BURST + LENGTH_LEN + MAX_RECORD)
}

/// The remainder of a packet behind its first `len` bytes.
fn remainder(mut packet: Buf, len: usize, pool: &mut Pool) -> Option<Buf> {
    packet.advance(len);
    if packet.is_empty() {
        pool.give(packet);
        return None;
    }
    Some(packet)
}
