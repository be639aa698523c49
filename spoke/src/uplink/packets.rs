//! A packet's path through the spoke: from the device to the tunnel's queue, and from the tunnel to the device. Pure.

use std::time::Instant;

use common::packet::drops::Reason;
use common::packet::{Header, Kind, MAX_PACKET, icmp, offload};
use common::queue::Buf;
use common::wire::frame::ControlFrame;
use common::wire::tunnel::{self, Flushed};
use log::{Level, log_enabled, trace};

use super::{Buffers, Effect, Phase, Uplink};

impl Uplink {
    /// Queues one packet from the device for the hub: `read` fills the space that it is given and returns how much it
    /// filled, `None` where there is no packet. Returns the packet's length.
    pub fn send(&mut self, now: Instant, read: impl FnOnce(&mut [u8]) -> Option<usize>) -> Option<usize> {
        let mut packet = self.buffers.pool.fill(MAX_PACKET, read)?;
        let len = packet.len();
        let enqueued = match offload::check_own(&mut packet) {
            Ok(header) => self.enqueue(packet, &header, now),
            Err(reason) => {
                self.buffers.pool.give(packet);
                Err(reason)
            }
        };
        if let Err(reason) = enqueued {
            self.buffers.drops.add(reason);
        }
        Some(len)
    }

    fn enqueue(&mut self, packet: Buf, header: &Header, now: Instant) -> Result<(), Reason> {
        let Uplink { buffers, trials, phase, .. } = self;
        let outcome = match phase {
            Phase::Linked(linked) if linked.tunnel.is_open() => {
                let flow = (header.flow(buffers.flow_seed), Kind::of(&packet, header));
                linked.enqueue(trials, packet, flow, &mut buffers.pool, now);
                Ok(())
            }
            Phase::Linked(_) | Phase::Paused(_) | Phase::Resolving | Phase::Dialling | Phase::Racing => {
                match &mut buffers.kept {
                    Some(kept) => {
                        kept.push(packet, header.flow(buffers.flow_seed), now, &mut buffers.pool);
                        kept.trim(&mut buffers.pool);
                        Ok(())
                    }
                    None => {
                        buffers.pool.give(packet);
                        Err(Reason::NotOnLan)
                    }
                }
            }
        };
        if log_enabled!(Level::Trace) {
            trace!("{header} to the hub: {}", outcome.err().map_or("sent", Reason::label));
        }
        outcome
    }

    /// Passes a packet from the hub on to the kernel. The hub checked it too, but the kernel is ours to protect.
    pub(super) fn deliver(&mut self, mut packet: Buf) {
        let checked = offload::check(&mut packet).and_then(|header| {
            if icmp::is_neighbour_discovery(&packet, &header) {
                return Err(Reason::NeighbourDiscovery);
            }
            trace!("{header} from the hub");
            Ok(())
        });
        match checked {
            Ok(()) => match self.effects.back_mut() {
                // Nobody is to wait for acknowledgements that the last one makes needless.
                Some(Effect::Deliver(last)) if offload::supersedes(&packet, last) => {
                    self.buffers.pool.give(std::mem::replace(last, packet));
                }
                Some(_) | None => self.effects.push_back(Effect::Deliver(packet)),
            },
            Err(reason) => {
                trace!("{} bytes from the hub are dropped: {reason}", packet.len());
                self.buffers.drops.add(reason);
                self.buffers.pool.give(packet);
            }
        }
    }

    // ---- bytes of the link

    /// Reads once from the link: `read` fills the space that it is given and returns how much it filled, 0 where
    /// nothing came.
    pub fn receive(&mut self, now: Instant, read: impl FnOnce(&mut [u8]) -> usize) {
        let Phase::Linked(linked) = &mut self.phase else { return };
        let Buffers { inbox, pool, .. } = &mut self.buffers;
        linked.is_heard |= linked.tunnel.fill(inbox, pool, now, read) > 0;
        self.note_heard(now);
        self.open_received(now);
    }

    /// Handles what was read.
    pub(super) fn open_received(&mut self, now: Instant) {
        loop {
            let Phase::Linked(linked) = &mut self.phase else { return };
            let Buffers { inbox, pool, .. } = &mut self.buffers;
            match linked.tunnel.open(inbox, pool, now) {
                Ok(Some(tunnel::Event::Packet(packet))) => self.deliver(packet),
                Ok(Some(tunnel::Event::Control(frame))) => {
                    // Nothing follows it, and the link may be another one then.
                    let is_last = matches!(frame, ControlFrame::Bye(_));
                    self.handle_frame(frame, now);
                    if is_last {
                        return;
                    }
                }
                // Only a hub is asked to let someone join.
                Ok(Some(tunnel::Event::Join { .. } | tunnel::Event::Attach { .. })) => {}
                Ok(None) => break,
                Err(error) => return self.fail_link(error, now),
            }
        }
        let Phase::Linked(linked) = &mut self.phase else { return };
        linked.tunnel.park(&mut self.buffers.inbox, &mut self.buffers.pool);
    }

    /// Whether there is anything to write to the link.
    pub fn wants_write(&self) -> bool {
        matches!(&self.phase, Phase::Linked(linked) if linked.tunnel.wants_write())
    }

    /// Writes what the link takes: `write` returns how many bytes it took, fewer than it was given where it is full.
    /// Not to be called while it is known to be full.
    pub fn flush(&mut self, now: Instant, write: impl FnMut(&[u8]) -> usize) -> Flushed {
        let Phase::Linked(linked) = &mut self.phase else { return Flushed::Done };
        let Buffers { outbox, pool, .. } = &mut self.buffers;
        match linked.tunnel.flush(outbox, pool, now, write) {
            Ok(flushed) => flushed,
            Err(error) => {
                self.fail_link(error, now);
                Flushed::Done
            }
        }
    }

    /// Counts a packet that the device did not take.
    pub fn count_device_drop(&mut self) {
        self.buffers.drops.add(Reason::Device);
    }

    /// Takes a buffer back that an effect brought out.
    pub fn recycle(&mut self, packet: Buf) {
        self.buffers.pool.give(packet);
    }
}
