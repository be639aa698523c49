//! Two tunnels joined by byte queues, in virtual time.

#![expect(clippy::disallowed_methods, reason = "virtual time has to start somewhere")]

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::packet::VNET_LEN;
use crate::packet::offload::testing::Shape;
use crate::wire::frame::{HEADER_LEN, MAX_BODY};
use crate::wire::inbox::READ_BYTES;
use crate::wire::name::Name;
use crate::wire::noise::{LENGTH_LEN, MAX_RECORD, MAX_RECORD_PLAIN, TAG_LEN};
use crate::wire::tunnel::outbound::{CONTROL_AHEAD, MAX_CONTROL, STRAIGHT};

mod fair;
mod handshake;
mod hostile;
mod lanes;
mod low_order;
mod watching;

const FLOW: u32 = 7;
/// Wire kinds that the tests forge.
const PACKET: u8 = 1;
const FIRST_UNKNOWN: u8 = 10;
/// The first of those from 128 on that is unknown.
const FIRST_UNKNOWN_OPTIONAL: u8 = 135;
const FIRST_OPTIONAL: u8 = 128;

fn key(seed: u8) -> PrivateKey {
    PrivateKey::from_random([seed; 32])
}

fn join() -> Join {
    Join::new(Name::nearest("laptop"))
}

fn welcome() -> Welcome {
    Welcome::new(Name::nearest("laptop"), 1_500)
}

/// What a tunnel gave out.
#[derive(Debug, PartialEq, Eq)]
enum Got {
    Join(PublicKey, Result<Join, BadFrame>),
    Attach(PublicKey, Proof, Binding),
    Packet(Vec<u8>),
    Control(ControlFrame),
}

/// A tunnel with all that its process shares among tunnels.
struct End {
    tunnel: Tunnel,
    inbox: Inbox,
    pool: Pool,
    got: Vec<Got>,
}

impl End {
    fn new(make: impl FnOnce(&mut Pool) -> Tunnel) -> End {
        let mut pool = Pool::new(usize::MAX);
        End { tunnel: make(&mut pool), inbox: Inbox::default(), pool, got: Vec::new() }
    }

    /// Reads `bytes` off the socket, at most `chunk` of them at once.
    fn read(&mut self, bytes: &[u8], chunk: usize, now: Instant) -> Result<(), Error> {
        for chunk in bytes.chunks(chunk.min(READ_BYTES)) {
            self.tunnel.unpark(&mut self.inbox, &mut self.pool);
            self.inbox.space()[..chunk.len()].copy_from_slice(chunk);
            self.inbox.filled(chunk.len());
            self.tunnel.heard(now);
            let opened = self.open_all(now);
            self.tunnel.park(&mut self.inbox, &mut self.pool);
            opened?;
        }
        Ok(())
    }

    fn open_all(&mut self, now: Instant) -> Result<(), Error> {
        while let Some(event) = self.tunnel.open(&mut self.inbox, &mut self.pool, now)? {
            self.got.push(match event {
                Event::Join { key, join } => Got::Join(key, join),
                Event::Attach { key, proof, binding } => Got::Attach(key, proof, binding),
                Event::Packet(packet) => {
                    let got = Got::Packet(packet.to_vec());
                    self.pool.give(packet);
                    got
                }
                Event::Control(control) => Got::Control(control),
            });
        }
        Ok(())
    }

    /// Writes all there is; the socket takes at most `chunk` bytes at once.
    fn write(&mut self, chunk: usize, now: Instant) -> Vec<u8> {
        let mut wire = Vec::new();
        let mut outbox = outbox();
        while self.tunnel.wants_write() {
            if self.tunnel.unsent().is_empty() {
                outbox.clear();
                self.tunnel.seal(&mut outbox, &mut self.pool, now).unwrap();
                let len = outbox.len().min(chunk);
                wire.extend_from_slice(&outbox[..len]);
                self.tunnel.wrote(&outbox, len, &mut self.pool, now);
            } else {
                let len = self.tunnel.unsent().len().min(chunk);
                wire.extend_from_slice(&self.tunnel.unsent()[..len]);
                self.tunnel.sent(len, &mut self.pool, now);
            }
        }
        wire
    }

    fn enqueue(&mut self, packet: &[u8], now: Instant) {
        let packet = self.pool.copy(packet);
        self.tunnel.enqueue(packet, FLOW, &mut self.pool, now);
    }

    /// A record of this plaintext, in its place in the order of records.
    fn record(&mut self, plain: &[u8]) -> Vec<u8> {
        let mut record = Buf::with_capacity(LENGTH_LEN + MAX_RECORD);
        self.tunnel.transport.as_mut().unwrap().sealer.seal(plain, &mut record).unwrap();
        record.to_vec()
    }

    /// A record for each control frame.
    fn control_record(&mut self, control: &ControlFrame) -> Vec<u8> {
        let mut plain = Vec::new();
        control.encode(&mut plain);
        self.record(&plain)
    }

    fn packets(&mut self) -> Vec<Vec<u8>> {
        let packet = |got| match got {
            Got::Packet(packet) => Some(packet),
            Got::Join(..) | Got::Attach(..) | Got::Control(_) => None,
        };
        std::mem::take(&mut self.got).into_iter().filter_map(packet).collect()
    }
}

struct Pair {
    spoke: End,
    hub: End,
    now: Instant,
}

impl Pair {
    /// Two ends that have not exchanged a byte yet.
    fn unjoined(hub_key: Option<PublicKey>) -> Pair {
        let now = Instant::now();
        let spoke = End::new(|pool| Tunnel::spoke(&key(1), [3; 32], hub_key, &join(), pool, now));
        Pair { spoke, hub: End::new(|_| Tunnel::hub(&key(2), [4; 32], now)), now }
    }

    /// The handshake is done, and the hub has not decided yet.
    fn joining() -> Pair {
        let mut pair = Pair::unjoined(None);
        pair.exchange();
        pair.hub.got.clear();
        pair
    }

    /// Both ends on the LAN, nothing on the way.
    fn open() -> Pair {
        let mut pair = Pair::joining();
        pair.hub.tunnel.welcome(welcome(), pair.now).unwrap();
        pair.exchange();
        pair.spoke.got.clear();
        assert!(pair.spoke.tunnel.is_open() && pair.hub.tunnel.is_open());
        pair
    }

    /// Carries bytes both ways until both are silent.
    fn exchange(&mut self) {
        self.exchange_in(usize::MAX, usize::MAX);
    }

    fn exchange_in(&mut self, read: usize, write: usize) {
        loop {
            let up = self.spoke.write(write, self.now);
            self.hub.read(&up, read, self.now).unwrap();
            let down = self.hub.write(write, self.now);
            self.spoke.read(&down, read, self.now).unwrap();
            if up.is_empty() && down.is_empty() {
                return;
            }
        }
    }

    /// What the spoke would write for these packets.
    fn records_of(&mut self, packets: &[&[u8]]) -> Vec<u8> {
        packets.iter().for_each(|packet| self.spoke.enqueue(packet, self.now));
        self.spoke.write(usize::MAX, self.now)
    }
}

/// The records of a stream, each with its length.
fn records(mut stream: &[u8]) -> Vec<&[u8]> {
    let mut records = Vec::new();
    while let Some(&prefix) = stream.first_chunk::<LENGTH_LEN>() {
        let (record, rest) = stream.split_at(LENGTH_LEN + usize::from(u16::from_be_bytes(prefix)));
        records.push(record);
        stream = rest;
    }
    records
}

/// A packet that is no super-packet, and nothing else either.
fn plain_packet(len: usize, filler: u8) -> Vec<u8> {
    let mut packet = vec![filler; len];
    packet[..VNET_LEN].fill(0);
    packet
}

fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let [_, high, middle, low] = (body.len() as u32).to_be_bytes();
    [&[kind, high, middle, low], body].concat()
}

// ---- packets

#[test]
fn packets_that_are_held_wait_and_control_frames_do_not() {
    let mut pair = Pair::open();
    let End { tunnel, pool, .. } = &mut pair.spoke;
    tunnel.hold_packets(true, pair.now, pool);
    let packet = Shape::new(false, false, 100).whole();
    pair.spoke.enqueue(&packet, pair.now);
    assert!(!pair.spoke.tunnel.wants_write());
    pair.spoke.tunnel.ping(pair.now).unwrap();
    pair.exchange();
    assert!(pair.hub.packets().is_empty() && pair.spoke.tunnel.round_trip().is_some());
    let End { tunnel, pool, .. } = &mut pair.spoke;
    tunnel.hold_packets(false, pair.now, pool);
    pair.exchange();
    assert_eq!(pair.hub.packets(), [packet]);
}

#[test]
fn packets_cross_both_ways_with_control_between() {
    let mut pair = Pair::open();
    let now = pair.now;
    let small = Shape::new(false, false, 100).whole();
    let huge = Shape::new(false, true, 65_000).whole();
    for packet in [&small, &huge, &small] {
        pair.spoke.enqueue(packet, now);
        pair.hub.enqueue(packet, now);
    }
    pair.hub.tunnel.ping(now).unwrap();
    pair.exchange();
    for end in [&mut pair.spoke, &mut pair.hub] {
        assert!(end.packets() == [small.clone(), huge.clone(), small.clone()]);
        let (received, sent) = end.tunnel.traffic();
        let bytes = (2 * small.len() + huge.len()) as u64;
        assert_eq!((received, sent), (Traffic { packets: 3, bytes }, Traffic { packets: 3, bytes }));
    }
    assert_eq!(pair.hub.tunnel.round_trip(), Some(Duration::ZERO));
}

#[test]
fn the_longest_packet_crosses() {
    let mut pair = Pair::open();
    let longest = plain_packet(MAX_BODY, 0x60);
    pair.spoke.enqueue(&longest, pair.now);
    pair.exchange_in(1_000, 777);
    assert!(pair.hub.packets() == [longest]);
}

#[test]
fn a_frame_may_span_records_and_a_record_may_hold_many_frames() {
    let mut pair = Pair::open();
    let huge = Shape::new(false, true, 65_000).whole();
    let wire = pair.records_of(&[&huge]);
    assert!(records(&wire).len() > 1);
    pair.hub.read(&wire, usize::MAX, pair.now).unwrap();
    assert!(pair.hub.packets() == [huge]);

    // Of no flow, so that none is joined to another.
    let small = plain_packet(58, 2);
    let wire = pair.records_of(&[&small[..]; 1_000]);
    assert!(records(&wire).len() < 10, "{}", records(&wire).len());
    pair.hub.read(&wire, usize::MAX, pair.now).unwrap();
    assert!(pair.hub.packets() == vec![small; 1_000]);
}

#[test]
fn a_large_packet_has_records_of_its_own_and_small_ones_share() {
    let mut pair = Pair::open();
    let huge = plain_packet(60_000, 1);
    // The socket shows itself to be fast.
    let warm = pair.records_of(&[&huge[..]; 5]);
    pair.hub.read(&warm, usize::MAX, pair.now).unwrap();
    assert_eq!(pair.hub.packets().len(), 5);

    let (small, longest) = (plain_packet(100, 2), plain_packet(MAX_BODY, 3));
    let packets = [&small[..], &small, &huge, &small, &longest, &small];
    let wire = pair.records_of(&packets);
    let plain: Vec<usize> = records(&wire).iter().map(|record| record.len() - LENGTH_LEN - TAG_LEN).collect();
    let small_frame = HEADER_LEN + small.len();
    let rest = MAX_BODY - MAX_RECORD_PLAIN;
    let expected = [
        2 * small_frame + HEADER_LEN,
        huge.len(),
        small_frame + HEADER_LEN,
        MAX_RECORD_PLAIN,
        rest + small_frame,
    ];
    assert_eq!(plain, expected);
    pair.hub.read(&wire, usize::MAX, pair.now).unwrap();
    assert!(pair.hub.packets() == packets);
}

#[test]
fn a_frame_crosses_however_it_is_cut_into_records() {
    let body = plain_packet(300, 7);
    let stream = [frame(PACKET, &body), frame(PACKET, &body)].concat();
    for first in 0..=frame(PACKET, &body).len() + 1 {
        // The middle record may hold the body, less, or the beginning of the next frame, too.
        for middle in body.len() - 1..=body.len() + 1 {
            let (first, behind) = stream.split_at(first);
            let (middle, last) = behind.split_at(middle.min(behind.len()));
            let mut pair = Pair::open();
            let wire: Vec<u8> =
                [first, middle, last].iter().flat_map(|part| pair.spoke.record(part)).collect();
            pair.hub.read(&wire, 401, pair.now).unwrap();
            assert!(pair.hub.packets() == [body.clone(), body.clone()], "{} + {}", first.len(), middle.len());
        }
    }
}

#[test]
fn records_survive_a_cut_at_every_byte_and_wait_at_every_length() {
    let packets = [
        Shape::new(false, false, 0).whole(),
        Shape::new(false, true, 300).whole(),
        Shape::new(true, false, 33).whole(),
    ];
    for cut in 0.. {
        let mut pair = Pair::open();
        let mut wire = Vec::new();
        for packet in &packets {
            wire.extend(pair.records_of(&[packet]));
        }
        if cut > wire.len() {
            break;
        }
        let (front, back) = wire.split_at(cut);
        pair.hub.read(front, usize::MAX, pair.now).unwrap();
        let before = pair.hub.packets();
        assert_eq!(before, packets[..before.len()], "cut {cut}");
        assert_eq!(before.len() == packets.len(), back.is_empty(), "cut {cut}");
        pair.hub.read(back, usize::MAX, pair.now).unwrap();
        assert_eq!(pair.hub.packets(), packets[before.len()..], "cut {cut}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn packets_cross_in_order_whatever_the_chunks(
        up in proptest::collection::vec(0..2_500usize, 0..40),
        down in proptest::collection::vec(0..70_000usize, 0..8),
        read in prop_oneof![1..40usize, 40..5_000usize, Just(usize::MAX)],
        write in prop_oneof![1..40usize, 40..5_000usize, Just(usize::MAX)],
        ping in any::<bool>(),
    ) {
        let mut pair = Pair::open();
        let packets = |lens: &[usize]| -> Vec<Vec<u8>> {
            lens.iter().enumerate().map(|(at, &len)| plain_packet(len.clamp(VNET_LEN, MAX_BODY), at as u8)).collect()
        };
        let (up, down) = (packets(&up), packets(&down));
        up.iter().for_each(|packet| pair.spoke.enqueue(packet, pair.now));
        down.iter().for_each(|packet| pair.hub.enqueue(packet, pair.now));
        if ping {
            pair.spoke.tunnel.ping(pair.now).unwrap();
        }
        pair.exchange_in(read, write);
        prop_assert!(pair.hub.packets() == up);
        prop_assert!(pair.spoke.packets() == down);
        prop_assert_eq!(pair.spoke.tunnel.round_trip().is_some(), ping);
    }

    #[test]
    fn arbitrary_bytes_break_a_link_and_nothing_else(
        bytes in proptest::collection::vec(any::<u8>(), 0..2_000),
        chunk in 1..500usize,
        greeted in any::<bool>(),
    ) {
        let bytes = if greeted { [&hello()[..], &bytes].concat() } else { bytes };
        let mut pair = Pair::unjoined(None);
        let _ = pair.hub.read(&bytes, chunk, pair.now);
        prop_assert!(pair.hub.got.is_empty());
        let _ = pair.spoke.read(&bytes, chunk, pair.now);
        prop_assert!(pair.spoke.got.is_empty());
        let mut pair = Pair::open();
        let _ = pair.hub.read(&bytes, chunk, pair.now);
        prop_assert!(pair.hub.got.is_empty());
    }

    #[test]
    fn arbitrary_frames_from_an_authenticated_end_never_panic(
        plain in proptest::collection::vec(any::<u8>(), 0..300),
        is_open in any::<bool>(),
    ) {
        let mut pair = if is_open { Pair::open() } else { Pair::joining() };
        let record = pair.spoke.record(&plain);
        let _ = pair.hub.read(&record, usize::MAX, pair.now);
        let record = pair.hub.record(&plain);
        let _ = pair.spoke.read(&record, usize::MAX, pair.now);
    }
}

// ---- bounds

#[test]
fn an_end_that_asks_and_does_not_read_is_cut_off() {
    let mut pair = Pair::open();
    let mut ping = Vec::new();
    ControlFrame::Ping(1).encode(&mut ping);
    let mut error = None;
    for _ in 0..100 {
        let record = pair.spoke.record(&ping.repeat(1_000));
        if let Err(seen) = pair.hub.read(&record, usize::MAX, pair.now) {
            error = Some(seen);
            break;
        }
    }
    assert_eq!(error, Some(Error::SendBufferFull));
    assert!(pair.hub.tunnel.outbound.control.len() <= MAX_CONTROL + ping.len());
}

#[test]
fn the_queue_keeps_to_its_cap() {
    let mut pair = Pair::open();
    let packet = Shape::new(false, true, 60_000).whole();
    for _ in 0..100 {
        pair.hub.enqueue(&packet, pair.now);
        assert!(pair.hub.tunnel.queue().cost() <= QUEUE_BYTES);
    }
    assert!(pair.hub.tunnel.queue().drops().total() > 0);
}

#[test]
fn buffers_go_back_to_the_pool() {
    let mut pair = Pair::open();
    let huge = Shape::new(false, true, 65_000).whole();
    let small = Shape::new(false, false, 20).whole();
    let mut spare = Vec::new();
    for round in 0..6 {
        for packet in [&huge, &small, &huge] {
            pair.spoke.enqueue(packet, pair.now);
        }
        // Odd chunks, so that both ends park and keep remainders.
        pair.exchange_in(1_001, 999);
        assert!(pair.hub.packets() == [huge.clone(), small.clone(), huge.clone()], "round {round}");
        assert!(pair.hub.tunnel.parked.is_none() && pair.spoke.tunnel.outbound.unsent.is_none());
        spare.push((pair.spoke.pool.spare_bytes(), pair.hub.pool.spare_bytes()));
    }
    assert!(spare[2..].iter().all(|&now| now == spare[1]), "{spare:?}");
}

#[test]
fn closing_gives_back_what_waits_at_every_stage() {
    let Pair { mut spoke, mut hub, now } = Pair::open();
    let huge = Shape::new(false, true, 65_000).whole();
    for _ in 0..5 {
        spoke.enqueue(&huge, now);
    }
    let mut outbox = outbox();
    spoke.tunnel.seal(&mut outbox, &mut spoke.pool, now).unwrap();
    spoke.tunnel.wrote(&outbox, 1_000, &mut spoke.pool, now);
    hub.read(&outbox[..1_000], usize::MAX, now).unwrap();
    assert!(
        spoke.tunnel.outbound.begun.is_some()
            && spoke.tunnel.outbound.unsent.is_some()
            && hub.tunnel.parked.is_some()
    );
    for (end, least) in [(&mut spoke, 5 * huge.len() + outbox.len() - 1_000), (&mut hub, 1_000)] {
        let before = end.pool.spare_bytes();
        end.tunnel.close(&mut end.pool);
        assert!(!end.tunnel.wants_write());
        let back = end.pool.spare_bytes() - before;
        assert!(back >= least, "{back} of {least} bytes");
    }
}

#[test]
fn an_idle_tunnel_is_small() {
    let mut pair = Pair::open();
    let packet = Shape::new(false, true, 60_000).whole();
    pair.spoke.enqueue(&packet, pair.now);
    pair.hub.enqueue(&packet, pair.now);
    pair.exchange();
    assert!(pair.spoke.tunnel.transport.as_ref().unwrap().sealer.has_cached_key());
    pair.now += PING_EVERY;
    for end in [&mut pair.hub, &mut pair.spoke] {
        end.tunnel.handle_timeout(pair.now).unwrap();
    }
    pair.exchange();
    for tunnel in [&pair.hub.tunnel, &pair.spoke.tunnel] {
        // All that an open tunnel may hold on the heap while it is idle is its keys: the handshake is gone, and
        // whatever held bytes went back to the pool.
        assert!(matches!(tunnel.state, State::Open));
        let transport = tunnel.transport.as_ref().unwrap();
        assert!(!transport.sealer.has_cached_key() && !transport.opener.has_cached_key());
        assert_eq!(tunnel.outbound.control.capacity(), 0);
        assert!(
            tunnel.parked.is_none() && tunnel.outbound.begun.is_none() && tunnel.outbound.unsent.is_none()
        );
        assert_eq!(tunnel.outbound.queue.cost(), 0);
    }
    let (tunnel, transport) = (size_of::<Tunnel>(), size_of::<Transport>());
    assert!(tunnel + transport <= 1_024, "{tunnel} + {transport}");
}
