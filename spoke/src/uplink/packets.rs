//! A packet's path through the spoke: from the device to the tunnel's queue, and from the tunnel to the device. Pure.

use std::time::Instant;

use common::packet::drops::Reason;
use common::packet::{Header, MAX_PACKET, icmp, offload};
use common::queue::Buf;
use log::{Level, log_enabled, trace};

use super::{Effect, Phase, Uplink};

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
        let buffers = &mut self.buffers;
        let outcome = match &mut self.phase {
            Phase::Linked(linked) if linked.tunnel.is_open() => {
                let flow = header.flow(buffers.flow_seed);
                linked.tunnel.enqueue(packet, flow, &mut buffers.pool, now);
                Ok(())
            }
            Phase::Linked(_) | Phase::Paused(_) | Phase::Resolving | Phase::Dialling => {
                buffers.pool.give(packet);
                Err(Reason::NotOnLan)
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
            Ok(()) => self.effects.push_back(Effect::Deliver(packet)),
            Err(reason) => {
                trace!("{} bytes from the hub are dropped: {reason}", packet.len());
                self.buffers.drops.add(reason);
                self.buffers.pool.give(packet);
            }
        }
    }
}
