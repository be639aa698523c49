//! A session with a lane: `data` says what is sent, written, read, damaged and closed, and when. No flow is reordered, and
//! nothing comes twice.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use common::packet::{Kind, VNET_LEN};
use common::wire::frame::{ControlFrame, LaneNote};
use common::wire::pair::Pair;
use common::wire::tunnel::{Event, Tunnel};

use super::{Bytes, End, key, start};

const CLOSED: ControlFrame = ControlFrame::Lane(LaneNote::Closed);

/// Both ends of one connection, the spoke's first, and what is on the way from each.
struct Connection {
    ends: [End; 2],
    wires: [Vec<u8>; 2],
}

impl Connection {
    fn exchange(&mut self) {
        for _ in 0..4 {
            for from in [0, 1] {
                let wire = self.ends[from].write(usize::MAX, start());
                self.ends[1 - from].read(&wire, start()).expect("an honest beginning");
            }
        }
    }

    fn link() -> Connection {
        let mut link = Connection { ends: [End::spoke(), End::hub()], wires: Default::default() };
        link.exchange();
        link
    }

    fn lane(link: &Connection) -> Connection {
        let spoke = End::new(|pool| Tunnel::knocking(&key(1), [5; 32], &[], pool, start()));
        let hub = End::new(|_| Tunnel::hub(&key(2), [6; 32], start()));
        let mut lane = Connection { ends: [spoke, hub], wires: Default::default() };
        lane.exchange();
        let secret = link.ends[0].tunnel.lane_secret().expect("the handshake is finished");
        let End { tunnel, pool, .. } = &mut lane.ends[0];
        tunnel.attach(secret, pool).expect("the hub has proved its key");
        lane.exchange();
        assert!(lane.ends.iter().all(|end| end.tunnel.is_open()));
        lane
    }
}

fn flow(packet: &[u8]) -> u32 {
    u32::from(packet[VNET_LEN]).wrapping_mul(2_654_435_761)
}

struct Session {
    link: Connection,
    lane: Connection,
    /// Until an end knows that the lane is over.
    pairs: [Option<Pair>; 2],
    sent: HashMap<u8, u32>,
    arrived: HashMap<u8, u32>,
    now: Instant,
}

impl Session {
    fn send(&mut self, number: u8, len: usize) {
        let count = self.sent.entry(number).or_default();
        *count += 1;
        let mut packet = vec![number; VNET_LEN + 5 + len];
        packet[..VNET_LEN].fill(0);
        packet[VNET_LEN + 1..VNET_LEN + 5].copy_from_slice(&count.to_be_bytes());
        let End { tunnel, pool, .. } = &mut self.link.ends[0];
        let (packet, flow) = (pool.copy(&packet), flow(&packet));
        let kind = if number < 4 { Kind::Datagrams } else { Kind::Stream { begins: len == 0 } };
        match &mut self.pairs[0] {
            Some(pair) => {
                pair.enqueue(tunnel, &mut self.lane.ends[0].tunnel, packet, (flow, kind), pool, self.now);
            }
            None => tunnel.enqueue(packet, flow, pool, self.now),
        }
    }

    /// Reads at one end of the link or the lane.
    fn read(&mut self, is_lane: bool, at: usize, most: usize) {
        if is_lane && self.pairs[at].is_none() {
            return;
        }
        let connection = if is_lane { &mut self.lane } else { &mut self.link };
        let wire = &mut connection.wires[1 - at];
        let part: Vec<u8> = wire.drain(..most.min(wire.len())).collect();
        let End { tunnel, inbox, pool, .. } = &mut connection.ends[at];
        let mut is_over = false;
        tunnel.fill(inbox, pool, self.now, |space| {
            space[..part.len()].copy_from_slice(&part);
            part.len()
        });
        loop {
            match tunnel.open(inbox, pool, self.now) {
                Ok(Some(Event::Packet(packet))) => {
                    let count = packet[VNET_LEN + 1..VNET_LEN + 5].try_into().expect("four bytes");
                    let before = self.arrived.insert(packet[VNET_LEN], u32::from_be_bytes(count));
                    assert!(before.unwrap_or(0) < u32::from_be_bytes(count), "reordered, or twice");
                    pool.give(packet);
                }
                Ok(Some(Event::Control(control))) if control == CLOSED => is_over = true,
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(error) => {
                    assert!(is_lane, "the link broke: {error}");
                    break is_over = true;
                }
            }
        }
        tunnel.park(inbox, pool);
        if is_over {
            self.close(at, !is_lane);
        }
    }

    /// An end finds that the lane is over, or is told so.
    fn close(&mut self, at: usize, is_told: bool) {
        let Some(pair) = self.pairs[at].take() else { return };
        let End { tunnel, pool, .. } = &mut self.link.ends[at];
        if !is_told {
            tunnel.control_first(&CLOSED).expect("there is room");
        }
        pair.dissolve(tunnel, &mut self.lane.ends[at].tunnel, flow, pool, self.now);
    }

    fn settle(&mut self) {
        for at in [0, 1] {
            let Some(pair) = &mut self.pairs[at] else { continue };
            let End { tunnel, pool, .. } = &mut self.link.ends[at];
            let settled = pair.settle(tunnel, &mut self.lane.ends[at].tunnel, pool, self.now);
            settled.expect("there is room");
        }
    }
}

pub(crate) fn lane(data: &[u8]) {
    let mut bytes = Bytes(data);
    let link = Connection::link();
    let lane = Connection::lane(&link);
    let now = start();
    let pairs = [Some(Pair::new(now)), Some(Pair::new(now))];
    let (sent, arrived) = Default::default();
    let mut session = Session { link, lane, pairs, sent, arrived, now };
    for _ in 0..2_000 {
        if bytes.0.is_empty() {
            break;
        }
        let choice = bytes.byte();
        let (is_lane, at) = (choice & 8 != 0, usize::from(choice >> 4 & 1));
        match choice & 7 {
            0 | 1 => session.send(choice >> 5, bytes.word() % 1_500),
            2 | 3 => {
                let most = if choice >= 128 { usize::MAX } else { bytes.word() };
                let connection = if is_lane { &mut session.lane } else { &mut session.link };
                let part = connection.ends[at].write(most, session.now);
                connection.wires[at].extend(part);
            }
            4 | 5 => session.read(is_lane, at, if choice >= 128 { 60_000 } else { bytes.word() }),
            6 => session.now += Duration::from_millis(u64::from(bytes.byte())),
            _ if choice < 64 => session.close(at, false),
            _ => {
                // Whoever is on the way of the lane can damage it.
                let place = bytes.word();
                let wire = &mut session.lane.wires[at];
                if !wire.is_empty() {
                    let bit = place % (wire.len() * 8);
                    wire[bit / 8] ^= 1 << (bit % 8);
                }
            }
        }
        session.settle();
    }
}
