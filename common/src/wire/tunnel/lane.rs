//! A tunnel as the lane of a session, beside the one that is its link. Pure.

use std::time::Instant;

use super::{Error, LANE_QUEUE_BYTES, State, Tunnel};
use crate::queue::{Buf, Pool, Queue};
use crate::wire::frame::{ControlFrame, LaneNote};
use crate::wire::lane::LaneSecret;

impl Tunnel {
    /// Whether it leads to the LAN, and is more than a lane.
    pub(super) fn is_on_lan(&self) -> bool {
        matches!(self.state, State::Open)
    }

    /// Spoke: asks to be a lane of the session with this secret, once the hub has proved its key.
    pub fn attach(&mut self, secret: &LaneSecret, pool: &mut Pool) -> Result<(), Error> {
        let State::Handshake(greeting) = &self.state else { return Err(Error::Handshake) };
        let request = greeting.prove(secret);
        self.ask(&request, pool)?;
        self.state = State::Attaching;
        Ok(())
    }

    /// What a lane beside this tunnel shows; `None` before the handshake is finished.
    pub fn lane_secret(&self) -> Option<&LaneSecret> {
        self.transport.as_ref().map(|transport| &transport.lane_secret)
    }

    /// Hub: takes this connection for a lane.
    pub fn attached(&mut self, now: Instant) -> Result<(), Error> {
        debug_assert!(matches!(self.state, State::Joining));
        self.open_lane(now);
        self.control(&ControlFrame::Lane(LaneNote::Attached))
    }

    pub(super) fn open_lane(&mut self, now: Instant) {
        self.state = State::Lane;
        self.liveness.opened(now);
        self.outbound.queue = Queue::new(LANE_QUEUE_BYTES);
    }

    /// Queues a control frame ahead of all others, and of all packets.
    pub fn control_first(&mut self, control: &ControlFrame) -> Result<(), Error> {
        self.outbound.control_first(control)
    }

    /// Asks the other end to say when all that was sealed before is handled: [`Tunnel::settled`] is
    /// [`Tunnel::next_settling`] then.
    pub(crate) fn settle(&mut self) -> Result<(), Error> {
        let token = self.settling.ask();
        self.control(&ControlFrame::Ping(token))
    }

    /// The number that the next [`Tunnel::settle`] will have.
    pub(crate) fn next_settling(&self) -> u64 {
        self.settling.next()
    }

    /// The highest number of [`Tunnel::settle`] that was answered.
    pub(crate) fn settled(&self) -> u64 {
        self.settling.answered()
    }

    /// Drops a packet for which there is no room while its flow changes over.
    pub(crate) fn refuse_packet(&mut self, packet: Buf, pool: &mut Pool) {
        self.outbound.queue.refuse(packet, pool);
    }
}
