//! A session with a lane: how it is attached, that no flow is reordered by it, and what becomes of packets when it dies.

use std::collections::BTreeMap;

use super::*;
use crate::packet::Kind;
use crate::wire::frame::LaneNote;
use crate::wire::lane::LaneSecret;
use crate::wire::pair::Pair as Lanes;

const OFFERED: ControlFrame = ControlFrame::Lane(LaneNote::Offered);
const ATTACHED: ControlFrame = ControlFrame::Lane(LaneNote::Attached);
const CLOSED: ControlFrame = ControlFrame::Lane(LaneNote::Closed);

/// A second connection that has shown its proof of the session with this secret; what the hub got.
fn attaching(secret: &LaneSecret, ephemeral: u8, now: Instant) -> (Pair, Got) {
    let keys = [key(2).public()];
    let mut lane = Pair {
        spoke: End::new(|pool| Tunnel::knocking(&key(1), [ephemeral; 32], &keys, pool, now)),
        hub: End::new(|_| Tunnel::hub(&key(2), [ephemeral + 1; 32], now)),
        now,
    };
    lane.exchange();
    let End { tunnel, pool, .. } = &mut lane.spoke;
    tunnel.attach(secret, pool).unwrap();
    lane.exchange();
    let got = lane.hub.got.pop().unwrap();
    (lane, got)
}

fn attached(link: &Pair, ephemeral: u8, now: Instant) -> Pair {
    let (mut lane, got) = attaching(link.spoke.tunnel.lane_secret().unwrap(), ephemeral, now);
    let Got::Attach(from, proof, binding) = got else { panic!("{got:?}") };
    assert_eq!(from, key(1).public());
    assert!(link.hub.tunnel.lane_secret().unwrap().verify(binding, proof));
    lane.hub.tunnel.attached(now).unwrap();
    lane.exchange();
    assert_eq!(std::mem::take(&mut lane.spoke.got), [Got::Control(ATTACHED)]);
    lane
}

#[test]
fn a_lane_proves_that_it_is_of_this_session_and_of_no_other() {
    let (link, other) = (Pair::open(), Pair::open());
    let secret = |pair: &Pair| pair.hub.tunnel.lane_secret().unwrap().clone();
    let (_, got) = attaching(link.spoke.tunnel.lane_secret().unwrap(), 20, link.now);
    let Got::Attach(_, proof, binding) = got else { panic!("{got:?}") };
    assert!(secret(&link).verify(binding, proof));
    // The same keys and the same random bytes: an earlier session is only told apart by what is secret in it.
    assert!(secret(&other).verify(binding, proof), "the two are equal but for time");
    let mut later = Pair::unjoined(None);
    later.spoke = End::new(|pool| Tunnel::spoke(&key(1), [9; 32], None, &join(), pool, later.now));
    later.exchange();
    assert!(!secret(&later).verify(binding, proof), "another session of the same two");
    let (_, again) = attaching(link.spoke.tunnel.lane_secret().unwrap(), 30, link.now);
    let Got::Attach(_, _, elsewhere) = again else { panic!("{again:?}") };
    assert!(!secret(&link).verify(elsewhere, proof), "replayed in another handshake");
}

#[test]
fn packets_go_both_ways_by_a_lane_and_frames_about_the_lan_end_it() {
    let link = Pair::open();
    let mut lane = attached(&link, 20, link.now);
    let packet = plain_packet(100, 1);
    lane.spoke.enqueue(&packet, lane.now);
    lane.hub.enqueue(&packet, lane.now);
    lane.exchange();
    assert_eq!((lane.hub.packets(), lane.spoke.packets()), (vec![packet.clone()], vec![packet]));
    let asking = ControlFrame::AskMembers { after: None, watch: true, since: None };
    for frame in [asking, CLOSED, OFFERED] {
        let mut lane = attached(&link, 20, link.now);
        let record = lane.spoke.control_record(&frame);
        assert_eq!(lane.hub.read(&record, usize::MAX, lane.now), Err(Error::Frame), "{frame:?}");
    }
    for frame in [ControlFrame::MembersChanged, ControlFrame::Welcome(welcome()), ATTACHED, OFFERED] {
        let mut lane = attached(&link, 20, link.now);
        let record = lane.hub.control_record(&frame);
        assert_eq!(lane.spoke.read(&record, usize::MAX, lane.now), Err(Error::Frame), "{frame:?}");
    }
    let mut link = link;
    let record = link.hub.control_record(&ATTACHED);
    assert_eq!(link.spoke.read(&record, usize::MAX, link.now), Err(Error::Frame), "a link is no lane");
}

#[test]
fn a_packet_ahead_of_the_hubs_answer_ends_a_lane() {
    let link = Pair::open();
    let (mut lane, _) = attaching(link.spoke.tunnel.lane_secret().unwrap(), 20, link.now);
    let record = lane.spoke.record(&frame(PACKET, &plain_packet(100, 1)));
    assert_eq!(lane.hub.read(&record, usize::MAX, lane.now), Err(Error::Frame));
    let (lane, _) = attaching(link.spoke.tunnel.lane_secret().unwrap(), 20, link.now);
    let mut tunnel = lane.spoke.tunnel;
    assert_eq!(
        tunnel.handle_timeout(link.now + HANDSHAKE_TIME),
        Err(Error::TooSlow),
        "it waits for no answer"
    );
}

#[test]
fn what_is_said_first_overtakes_all_that_has_not_begun() {
    // At some of these lengths it would be a packet's turn.
    for len in (150..700).step_by(11) {
        assert_said_first(len);
    }
}

fn assert_said_first(len: usize) {
    let mut pair = Pair::open();
    let text = ControlFrame::Refused { reason: Refusal::Full, text: "x".repeat(240) };
    let now = pair.now;
    let End { tunnel, pool, .. } = &mut pair.hub;
    for _ in 0..80 {
        tunnel.control(&text).unwrap();
        let packet = pool.copy(&plain_packet(VNET_LEN + len, 7));
        tunnel.enqueue(packet, FLOW, pool, now);
    }
    // A part of it is on the way.
    let mut outbox = outbox();
    tunnel.flush(&mut outbox, pool, now, <[u8]>::len).unwrap();
    let before = outbox.to_vec();
    tunnel.control_first(&CLOSED).unwrap();
    let after = pair.hub.write(usize::MAX, now);
    let opener = &mut pair.spoke.tunnel.transport.as_mut().unwrap().opener;
    let mut plain = |wire: &[u8]| {
        let mut plain = Vec::new();
        for record in records(wire) {
            let mut opened = vec![0; record.len() - LENGTH_LEN - TAG_LEN];
            opener.open(&record[LENGTH_LEN..], &mut opened).unwrap();
            plain.extend(opened);
        }
        plain
    };
    let before = plain(&before);
    let all = [before.clone(), plain(&after)].concat();
    let mut at = 0;
    while let Some(header) = frame::Header::decode(&all[at..]).unwrap() {
        let body = &all[at + HEADER_LEN..][..header.len];
        if !header.is_packet() && ControlFrame::decode(header, body).unwrap() == Some(CLOSED) {
            return;
        }
        assert!(at < before.len(), "{len}: a frame began before it");
        at += HEADER_LEN + header.len;
    }
    panic!("it was not sent");
}

/// Bytes on their way, of which some have arrived.
type Pipe = Vec<u8>;

/// One direction of a session under test, from the spoke to the hub, with the ways back for what is answered.
struct World {
    now: Instant,
    random: u64,
    link: Pair,
    pipes: [Pipe; 2],
    lane: Option<Second>,
    lanes_so_far: u8,
    sent: BTreeMap<u32, u32>,
    arrived: BTreeMap<u32, Vec<u32>>,
    by_lane: usize,
}

struct Second {
    /// What the spoke has, until it knows that the lane is over.
    spoke: Option<(End, Lanes)>,
    hub: Option<(End, Lanes)>,
    pipes: [Pipe; 2],
}

fn flow_hash(packet: &[u8]) -> u32 {
    let number = u32::from_be_bytes(packet[VNET_LEN..VNET_LEN + 4].try_into().unwrap());
    number.wrapping_mul(2_654_435_761)
}

impl World {
    fn new(seed: u64) -> World {
        let link = Pair::open();
        World {
            now: link.now,
            random: seed | 1,
            link,
            pipes: [Vec::new(), Vec::new()],
            lane: None,
            lanes_so_far: 0,
            sent: BTreeMap::new(),
            arrived: BTreeMap::new(),
            by_lane: 0,
        }
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % bound
    }

    fn open_lane(&mut self) {
        self.lanes_so_far += 1;
        let ephemeral = 20 + 2 * self.lanes_so_far;
        let Pair { spoke, hub, .. } = attached(&self.link, ephemeral, self.now);
        let lanes = || Lanes::new(self.now);
        let (spoke, hub) = (Some((spoke, lanes())), Some((hub, lanes())));
        self.lane = Some(Second { spoke, hub, pipes: [Vec::new(), Vec::new()] });
    }

    /// Sends a packet of a flow.
    fn send(&mut self, flow: u32, len: usize) {
        let number = self.sent.entry(flow).or_default();
        *number += 1;
        let mut packet = plain_packet(len, 0);
        packet[VNET_LEN..VNET_LEN + 4].copy_from_slice(&flow.to_be_bytes());
        packet[VNET_LEN + 4..VNET_LEN + 8].copy_from_slice(&number.to_be_bytes());
        let hash = flow_hash(&packet);
        let End { tunnel: link, pool, .. } = &mut self.link.spoke;
        let packet = pool.copy(&packet);
        match self.lane.as_mut().and_then(|lane| lane.spoke.as_mut()) {
            Some((lane, lanes)) => {
                lanes.enqueue(link, &mut lane.tunnel, packet, (hash, Kind::Datagrams), pool, self.now);
            }
            None => link.enqueue(packet, hash, pool, self.now),
        }
    }

    /// An end finds that the lane is over, or is told so.
    fn close_lane(&mut self, is_spoke: bool, is_told: bool) {
        let end = if is_spoke { &mut self.link.spoke } else { &mut self.link.hub };
        let Some(second) = &mut self.lane else { return };
        let own = if is_spoke { second.spoke.take() } else { second.hub.take() };
        let Some((mut lane, lanes)) = own else { return };
        if !is_told {
            end.tunnel.control_first(&CLOSED).unwrap();
        }
        lanes.dissolve(&mut end.tunnel, &mut lane.tunnel, flow_hash, &mut end.pool, self.now);
        if second.spoke.is_none() && second.hub.is_none() {
            self.lane = None;
        }
    }

    /// Writes a little, and has a little arrive.
    fn carry(&mut self, is_open: [bool; 2]) {
        let burst = 200 + self.below(3_000) as usize;
        let (now, mut outbox) = (self.now, outbox());
        if is_open[0] {
            for (end, pipe) in [&mut self.link.spoke, &mut self.link.hub].into_iter().zip(&mut self.pipes) {
                write(end, &mut outbox, pipe, burst, now);
            }
        }
        if let Some(second) = &mut self.lane
            && is_open[1]
        {
            for (own, pipe) in [&mut second.spoke, &mut second.hub].into_iter().zip(&mut second.pipes) {
                if let Some((end, _)) = own {
                    write(end, &mut outbox, pipe, burst, now);
                }
            }
        }
        let counts = [(); 4].map(|()| self.below(2_000) as usize);
        if is_open[0] {
            let up = take(&mut self.pipes[0], counts[0]);
            self.link.hub.read(&up, usize::MAX, now).unwrap();
            let down = take(&mut self.pipes[1], counts[1]);
            self.link.spoke.read(&down, usize::MAX, now).unwrap();
        }
        self.handle_link();
        if is_open[1]
            && let Some(second) = &mut self.lane
        {
            let up = take(&mut second.pipes[0], counts[2]);
            if let Some((hub, _)) = &mut second.hub {
                hub.read(&up, usize::MAX, now).unwrap();
                self.by_lane += note(&mut self.arrived, hub);
            }
            let down = take(&mut second.pipes[1], counts[3]);
            if let Some((spoke, _)) = &mut second.spoke {
                spoke.read(&down, usize::MAX, now).unwrap();
            }
        }
        self.settle();
    }

    fn handle_link(&mut self) {
        note(&mut self.arrived, &mut self.link.hub);
        for is_spoke in [true, false] {
            let end = if is_spoke { &mut self.link.spoke } else { &mut self.link.hub };
            if std::mem::take(&mut end.got).contains(&Got::Control(CLOSED)) {
                self.close_lane(is_spoke, true);
            }
        }
    }

    fn settle(&mut self) {
        let Some(second) = &mut self.lane else { return };
        let ends = [(&mut second.spoke, &mut self.link.spoke), (&mut second.hub, &mut self.link.hub)];
        for (own, link) in ends {
            if let Some((lane, lanes)) = own {
                lanes.settle(&mut link.tunnel, &mut lane.tunnel, &mut link.pool, self.now).unwrap();
            }
        }
    }

    fn story(seed: u64, steps: usize) -> World {
        let mut world = World::new(seed);
        let mut is_open = [true, true];
        for _ in 0..steps {
            let pause = world.below(12);
            world.now += Duration::from_millis(pause);
            let flow = world.below(6) as u32;
            // Half of them send little; one sends much, and two now this, now that.
            let (count, len) = match (flow, world.below(3)) {
                (0..3, _) | (4.., 0) => (1, 80),
                (3, _) => (1 + world.below(4), 1_400),
                (4.., _) => (1 + world.below(9), 700),
            };
            (0..count).for_each(|_| world.send(flow, len));
            match world.below(200) {
                0..4 if world.lane.is_none() && world.lanes_so_far < 4 => world.open_lane(),
                4 => world.close_lane(true, false),
                5 => world.close_lane(false, false),
                6..14 => is_open[0] = false,
                14..22 => is_open[1] = false,
                22..60 => is_open = [true, true],
                _ => {}
            }
            world.carry(is_open);
        }
        for _ in 0..3_000 {
            world.now += Duration::from_millis(1);
            world.carry([true, true]);
        }
        world
    }
}

fn write(end: &mut End, outbox: &mut Buf, pipe: &mut Pipe, mut room: usize, now: Instant) {
    let End { tunnel, pool, .. } = end;
    let write = |bytes: &[u8]| {
        let len = bytes.len().min(room);
        room -= len;
        pipe.extend_from_slice(&bytes[..len]);
        len
    };
    tunnel.flush(outbox, pool, now, write).unwrap();
}

fn take(pipe: &mut Pipe, most: usize) -> Vec<u8> {
    pipe.drain(..most.min(pipe.len())).collect()
}

/// Notes which packets have arrived; how many.
fn note(arrived: &mut BTreeMap<u32, Vec<u32>>, end: &mut End) -> usize {
    let (packets, others) =
        std::mem::take(&mut end.got).into_iter().partition(|got| matches!(got, Got::Packet(_)));
    end.got = others;
    let packets: Vec<Got> = packets;
    for packet in &packets {
        let Got::Packet(packet) = packet else { continue };
        let word = |at: usize| u32::from_be_bytes(packet[at..at + 4].try_into().unwrap());
        arrived.entry(word(VNET_LEN)).or_default().push(word(VNET_LEN + 4));
    }
    packets.len()
}

fn assert_in_order(world: &World) {
    for (flow, numbers) in &world.arrived {
        let is_ordered = numbers.windows(2).all(|two| two[0] < two[1]);
        assert!(is_ordered, "flow {flow} is reordered, or has a packet twice: {numbers:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn no_flow_is_reordered_and_nothing_comes_twice_whatever_becomes_of_the_lane(seed: u64) {
        assert_in_order(&World::story(seed, 1_500));
    }
}

/// A world whose lane was just opened, and where all that was sent before has arrived.
fn settled() -> World {
    let mut world = World::new(1);
    world.open_lane();
    for _ in 0..100 {
        world.now += Duration::from_millis(1);
        world.carry([true, true]);
    }
    world
}

#[test]
fn flows_that_send_little_go_by_the_lane_and_do_not_wait_for_the_link() {
    let mut world = settled();
    (0..50).for_each(|_| world.send(4, 1_400));
    world.send(1, 80);
    for _ in 0..20 {
        world.now += Duration::from_millis(1);
        world.carry([false, true]);
    }
    assert_eq!(world.arrived[&1], [1]);
    assert_eq!((world.by_lane, world.arrived.get(&4)), (1, None), "what is large goes by the link at once");
    // As does what becomes large, once it has paused for a round trip.
    world.send(5, 80);
    for _ in 0..300 {
        world.now += Duration::from_millis(1);
        world.carry([true, true]);
    }
    let before = world.by_lane;
    (0..50).for_each(|_| world.send(5, 1_400));
    for _ in 0..300 {
        world.now += Duration::from_millis(1);
        world.carry([true, true]);
    }
    assert_eq!(world.arrived[&4], (1..=50).collect::<Vec<_>>());
    assert_eq!((world.by_lane, &world.arrived[&5]), (before, &(1..=51).collect::<Vec<_>>()));
}

#[test]
fn a_flow_that_never_pauses_changes_over_all_the_same() {
    let mut world = World::new(1);
    world.send(1, 80);
    world.open_lane();
    // The link's round trip is longer than there is between two packets.
    for step in 0..100 {
        world.now += Duration::from_millis(10);
        world.send(1, 80);
        world.carry([step % 3 == 0, true]);
    }
    let before = world.by_lane;
    for _ in 0..20 {
        world.now += Duration::from_millis(10);
        world.send(1, 80);
        world.carry([false, true]);
    }
    assert!(world.by_lane > before + 10, "{} of {before}", world.by_lane);
    // And back, when it sends much.
    for _ in 0..1_500 {
        world.now += Duration::from_millis(1);
        world.send(1, 900);
        world.carry([true, true]);
    }
    let before = world.by_lane;
    for _ in 0..100 {
        world.now += Duration::from_millis(1);
        world.send(1, 900);
        world.carry([true, true]);
    }
    assert_eq!(world.by_lane, before);
    assert_in_order(&world);
}

#[test]
fn what_waited_for_a_lane_that_dies_goes_by_the_link() {
    let mut world = settled();
    (0..3).for_each(|_| world.send(1, 80));
    world.close_lane(true, false);
    for _ in 0..20 {
        world.now += Duration::from_millis(1);
        world.carry([true, true]);
    }
    assert_eq!((world.arrived[&1].as_slice(), world.by_lane), (&[1, 2, 3][..], 0));
    assert!(world.lane.is_none());
}

#[test]
fn a_lane_that_answers_nothing_is_lost_while_the_link_is_heard() {
    let mut world = settled();
    let is_lost = |world: &mut World| {
        let now = world.now;
        let Some((lane, lanes)) = world.lane.as_mut().and_then(|lane| lane.spoke.as_mut()) else { panic!() };
        lanes.is_lost(&world.link.spoke.tunnel, &lane.tunnel, now)
    };
    world.send(1, 80);
    for _ in 0..2 {
        let Some((lane, _)) = world.lane.as_mut().and_then(|lane| lane.spoke.as_mut()) else { panic!() };
        write(lane, &mut outbox(), &mut Vec::new(), usize::MAX, world.now);
        world.now += Duration::from_millis(10);
        world.settle();
    }
    for _ in 0..4_000 {
        world.now += Duration::from_millis(1);
        world.carry([false, false]);
    }
    assert!(!is_lost(&mut world), "the link is as silent");
    world.link.hub.tunnel.ping(world.now).unwrap();
    for _ in 0..20 {
        world.now += Duration::from_millis(1);
        world.carry([true, false]);
    }
    assert!(is_lost(&mut world));
}
