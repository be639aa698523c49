//! Clients and a server in virtual time, over a path that loses, delays and reorders.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::client::Client;
use super::packet::MAX_SEGMENT;
use super::server::{Number, Received, Request, Server};
use super::stack::Stack;

/// Small, fast, and the same every time (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn is(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }
}

struct Path {
    /// One way.
    delay: Duration,
    /// Up to so much more, by chance.
    jitter: Duration,
    /// Percent that are lost, each way.
    loss: u64,
    /// The server's kernel answers too.
    has_kernel: bool,
    /// Only one reply a request comes through.
    is_strict: bool,
}

enum Packet {
    Request(usize, Request, Vec<u8>),
    Reply(usize, Request, Vec<u8>),
}

struct World {
    path: Path,
    random: Random,
    now: Instant,
    clients: Vec<Client>,
    server: Server,
    numbers: Vec<Option<Number>>,
    flying: BTreeMap<(Instant, u64), Packet>,
    count: u64,
    /// What is to be sent, and what came, by client: to the server and to the client.
    to_send: Vec<[Vec<u8>; 2]>,
    received: Vec<[Vec<u8>; 2]>,
    /// Sequence numbers that were answered by the server.
    answered: Vec<Vec<u16>>,
    /// Requests of which a reply has come through.
    passed: BTreeSet<(usize, u16)>,
}

const HUB: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));

fn address(client: usize) -> IpAddr {
    IpAddr::from([192, 0, 2, client as u8 + 1])
}

impl World {
    fn new(path: Path, clients: usize, seed: u64) -> World {
        let now = Instant::now();
        World {
            path,
            random: Random(seed),
            now,
            clients: (0..clients).map(|n| Client::new([n as u8; 8], seed + n as u64, now)).collect(),
            server: Server::new([7; 32], 100, now),
            numbers: vec![None; clients],
            flying: BTreeMap::new(),
            count: 0,
            to_send: vec![[Vec::new(), Vec::new()]; clients],
            received: vec![[Vec::new(), Vec::new()]; clients],
            answered: vec![Vec::new(); clients],
            passed: BTreeSet::new(),
        }
    }

    fn fly(&mut self, packet: Packet) {
        if self.random.is(self.path.loss) {
            return;
        }
        self.count += 1;
        let jitter = self.path.jitter.mul_f64(self.random.next() as f64 / u64::MAX as f64);
        self.flying.insert((self.now + self.path.delay + jitter, self.count), packet);
    }

    /// Everything that can be done at this moment.
    fn act(&mut self) {
        let mut space = vec![0; 64 * 1024];
        let mut data = Vec::new();
        for number in 0..self.clients.len() {
            let client = &mut self.clients[number];
            let len = client.stack().read(&mut space);
            self.received[number][1].extend(&space[..len]);
            while client.stack().can_send() && !self.to_send[number][0].is_empty() {
                let sent = client.stack().send(&self.to_send[number][0]);
                self.to_send[number][0].drain(..sent);
                client.poll(self.now);
            }
            client.poll(self.now);
            while let Some(sequence) = self.clients[number].poll_request(&mut data, self.now) {
                let request = Request { source: address(number), to: HUB, identifier: 77, sequence };
                self.fly(Packet::Request(number, request, data.clone()));
            }
            let Some(at_server) = self.numbers[number] else { continue };
            let stack = self.server.stack(at_server).unwrap();
            let len = stack.read(&mut space);
            self.received[number][0].extend(&space[..len]);
            while self.server.stack(at_server).unwrap().can_send() && !self.to_send[number][1].is_empty() {
                let sent = self.server.stack(at_server).unwrap().send(&self.to_send[number][1]);
                self.to_send[number][1].drain(..sent);
                self.server.touch(at_server, self.now);
            }
            self.server.touch(at_server, self.now);
        }
        self.server.handle_timeouts(self.now);
        while let Some(request) = self.server.poll_reply(&mut data) {
            let IpAddr::V4(source) = request.source else { unreachable!() };
            let number = usize::from(source.octets()[3]) - 1;
            assert!(data.len() <= 1_232);
            self.answered[number].push(request.sequence);
            self.fly(Packet::Reply(number, request, data.clone()));
        }
    }

    /// Goes on to the next moment at which something happens.
    fn step(&mut self) {
        self.act();
        let mut next = self.flying.first_key_value().map(|((at, _), _)| *at);
        let deadlines: Vec<Instant> =
            self.clients.iter_mut().map(|client| client.deadline(self.now)).collect();
        for at in deadlines.into_iter().chain(self.server.deadline()) {
            next = Some(next.map_or(at, |next| next.min(at)));
        }
        let next = next.expect("something goes on");
        self.now = self.now.max(next);
        while let Some(entry) = self.flying.first_entry().filter(|entry| entry.key().0 <= self.now) {
            match entry.remove() {
                Packet::Request(number, request, data) => {
                    // The numbers of requests come round.
                    self.passed.remove(&(number, request.sequence));
                    if self.path.has_kernel {
                        self.fly(Packet::Reply(number, request, data.clone()));
                    }
                    if let Received::Accepted(at_server) = self.server.receive(request, &data, self.now) {
                        assert_eq!(self.numbers[number].replace(at_server), None, "it began twice");
                    }
                }
                Packet::Reply(number, request, data) => {
                    let is_first = self.passed.insert((number, request.sequence));
                    if is_first || !self.path.is_strict {
                        self.clients[number].receive(&data, self.now).unwrap();
                    }
                }
            }
        }
    }

    /// Carries `len` bytes each way for each client; how long that took.
    fn carry(&mut self, to_server: usize, to_client: usize) -> Duration {
        let bytes =
            |len: usize, salt: usize| (0..len).map(|n| (n ^ (n >> 8) ^ salt) as u8).collect::<Vec<u8>>();
        for number in 0..self.clients.len() {
            self.to_send[number] = [bytes(to_server, number), bytes(to_client, number + 100)];
            self.received[number] = [Vec::new(), Vec::new()];
        }
        let begun_at = self.now;
        let is_done =
            |received: &[Vec<u8>; 2]| received[0].len() >= to_server && received[1].len() >= to_client;
        while !self.received.iter().all(is_done) {
            self.step();
            assert!(self.now < begun_at + Duration::from_secs(1_000), "it takes for ever");
        }
        for number in 0..self.clients.len() {
            assert!(self.received[number][0] == bytes(to_server, number));
            assert!(self.received[number][1] == bytes(to_client, number + 100));
            // No request is answered twice.
            let mut answered = std::mem::take(&mut self.answered[number]);
            if answered.len() < 60_000 {
                answered.sort_unstable();
                let len = answered.len();
                answered.dedup();
                assert_eq!(answered.len(), len);
            }
        }
        self.now - begun_at
    }
}

const CLEAN: Path = Path {
    delay: Duration::from_millis(10),
    jitter: Duration::ZERO,
    loss: 0,
    has_kernel: false,
    is_strict: false,
};

#[test]
fn bytes_come_both_ways_and_alone_each_way() {
    for (to_server, to_client) in [(500_000, 500_000), (1_000_000, 1), (1, 1_000_000)] {
        let took = World::new(CLEAN, 1, 1).carry(to_server, to_client);
        assert!(took < Duration::from_secs(2), "{to_server} and {to_client} took {took:?}");
    }
}

#[test]
fn ten_clients_share_a_server_whose_kernel_answers_too() {
    let took = World::new(Path { has_kernel: true, ..CLEAN }, 10, 2).carry(100_000, 100_000);
    assert!(took < Duration::from_secs(2), "it took {took:?}");
}

#[test]
fn loss_and_reordering_cost_time_and_nothing_else() {
    let rounds = std::env::var("ICMP_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(20);
    for seed in 0..rounds {
        let path = Path { loss: 5, jitter: Duration::from_millis(2), has_kernel: true, ..CLEAN };
        let took = World::new(path, 1, seed).carry(300_000, 300_000);
        assert!(took < Duration::from_secs(30), "it took {took:?}");
    }
}

#[test]
fn a_middlebox_that_passes_one_reply_a_request_is_enough() {
    let took = World::new(Path { is_strict: true, ..CLEAN }, 2, 3).carry(1_000, 500_000);
    assert!(took < Duration::from_secs(3), "it took {took:?}");
}

#[test]
fn an_idle_tunnel_is_quiet_and_wakes_at_once_from_both_ends() {
    let mut world = World::new(CLEAN, 1, 4);
    world.carry(100, 100);
    let (begun_at, count) = (world.now, world.count);
    while world.now < begun_at + Duration::from_secs(60) {
        world.step();
    }
    let packets = world.count - count;
    assert!(packets < 60, "{packets} packets in a minute of silence");
    for (to_server, to_client) in [(1, 0), (0, 1)] {
        let took = world.carry(to_server, to_client);
        assert!(took < Duration::from_millis(40), "it took {took:?}");
        let begun_at = world.now;
        while world.now < begun_at + Duration::from_secs(4) {
            world.step();
        }
    }
}

#[test]
fn a_stranger_costs_nothing() {
    let now = Instant::now();
    let mut server = Server::new([7; 32], 2, now);
    let mut data = Vec::new();
    let request = |source, sequence| Request { source, to: HUB, identifier: 1, sequence };
    let mine = address(0);
    assert_eq!(server.receive(request(mine, 1), &[0x55; 56], now), Received::Nothing, "a ping");
    let mut client = Client::new([1; 8], 1, now);
    client.poll_request(&mut data, now).unwrap();
    let open = data.clone();
    assert_eq!(server.receive(request(mine, 1), &open, now), Received::Handled);
    let answered = server.poll_reply(&mut data).unwrap();
    assert_eq!(
        (answered, data.len() <= open.len()),
        (request(mine, 1), true),
        "no longer than what it answers"
    );
    assert!(server.is_empty());
    client.receive(&data, now).unwrap();
    client.poll_request(&mut data, now).unwrap();
    let begin = data.clone();
    // The cookie is not for another address, nor for long, nor for another nonce.
    assert_eq!(server.receive(request(address(1), 2), &begin, now), Received::Handled);
    let late = now + Duration::from_secs(41);
    assert_eq!(server.receive(request(mine, 2), &begin, late), Received::Handled);
    let mut forged = begin.clone();
    forged[16] ^= 1;
    assert_eq!(server.receive(request(mine, 2), &forged, now), Received::Handled);
    assert!(server.is_empty() && server.poll_reply(&mut data).is_none());
    assert!(matches!(server.receive(request(mine, 2), &begin, now), Received::Accepted(_)));
    assert_eq!(server.len(), 1);
}

#[test]
fn sessions_are_bounded_and_a_forgotten_one_is_told_so() {
    let now = Instant::now();
    let mut server = Server::new([7; 32], 2, now);
    let mut data = Vec::new();
    let mut accepted = Vec::new();
    let mut last = None;
    for number in 0..3 {
        let mut client = Client::new([number; 8], 1, now);
        let request = |sequence| Request { source: address(0), to: HUB, identifier: 1, sequence };
        let sequence = client.poll_request(&mut data, now).unwrap();
        server.receive(request(sequence), &data.clone(), now);
        server.poll_reply(&mut data).unwrap();
        client.receive(&data, now).unwrap();
        let sequence = client.poll_request(&mut data, now).unwrap();
        if let Received::Accepted(number) = server.receive(request(sequence), &data.clone(), now) {
            accepted.push(number);
            server.poll_reply(&mut data).expect("an answer to its SYN");
            client.receive(&data, now).unwrap();
            client.poll_request(&mut data, now).unwrap();
            last = Some((client, data.clone()));
        }
    }
    assert_eq!((accepted.len(), server.len()), (2, 2));
    let (mut client, later) = last.unwrap();
    for number in accepted {
        server.end(number);
    }
    assert!(server.is_empty() && server.deadline().is_none());
    let request = Request { source: address(0), to: HUB, identifier: 1, sequence: 9 };
    server.receive(request, &later, now);
    assert_eq!(server.poll_reply(&mut data), Some(request));
    assert!(client.receive(&data, now).is_err(), "it begins anew at once");
}

/// Segments that a hostile end sends, whichever it is: real ones, changed at some places, again, and out of order; and
/// made up around what the other end expects.
#[test]
fn hostile_segments_are_survived() {
    let rounds = std::env::var("ICMP_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(300);
    for seed in 0..rounds {
        let mut random = Random(seed);
        let mut now = Instant::now();
        let mut ends = [Stack::client(seed, now), Stack::server(seed + 1, now)];
        let (mut old, mut space): (Vec<Vec<u8>>, _) = (Vec::new(), vec![0; 5_000]);
        for _ in 0..300 {
            now += Duration::from_micros(random.next() % 400_000 / (1 + random.next() % 1_000));
            for end in &mut ends {
                end.send(&space[..(random.next() % 4_000) as usize]);
                end.poll((random.next() % 12) as usize, now);
            }
            // Both are hostile at times, so that the connection goes on for a while.
            let hostile = random.next() as usize % 4;
            for from in [0, 1] {
                while let Some(mut segment) = ends[from].next_segment() {
                    assert!(segment.len() <= MAX_SEGMENT);
                    if from == hostile && random.is(20) {
                        change(&mut segment, &mut random);
                    }
                    if random.is(80) {
                        ends[1 - from].receive(&segment);
                    }
                    old.push(segment);
                }
            }
            if random.is(30) && !old.is_empty() {
                let mut again = old[(random.next() % old.len() as u64) as usize].clone();
                if random.is(50) {
                    change(&mut again, &mut random);
                }
                ends[hostile % 2].receive(&again);
            }
            for end in &mut ends {
                let _ = (end.deadline(now), end.can_send());
                let len = (random.next() % 3_000) as usize;
                if random.is(50) {
                    end.read(&mut space[..len]);
                }
            }
        }
    }
}

/// Changes a segment where it hurts: sequence numbers a little or by half of their range, the window, flags and length.
fn change(segment: &mut Vec<u8>, random: &mut Random) {
    if segment.len() < 20 {
        return;
    }
    for _ in 0..=random.next() % 4 {
        let at = [4, 8][random.next() as usize % 2];
        let mut word = u32::from_be_bytes(segment[at..at + 4].try_into().unwrap());
        match random.next() % 6 {
            0 => word = word.wrapping_add(random.next() as u32 % 131_072).wrapping_sub(65_536),
            1 => word = word.wrapping_add(1 << 31).wrapping_add(random.next() as u32 % 3).wrapping_sub(1),
            2 => word = random.next() as u32,
            3 => segment[14..16].copy_from_slice(&[[0, 0], [0, 1], [255, 255]][random.next() as usize % 3]),
            4 => {
                let place = random.next() as usize % segment.len();
                segment[place] = random.next() as u8;
            }
            _ => segment.resize(20 + random.next() as usize % (MAX_SEGMENT - 19), 7),
        }
        segment[at..at + 4].copy_from_slice(&word.to_be_bytes());
    }
    if random.is(10) {
        segment.truncate(random.next() as usize % 40);
    }
}

proptest! {
    /// Bytes that have nothing of a segment, and segments with any header, at any moment of a connection's life.
    #[test]
    fn segments_of_any_bytes_are_survived(
        segments in prop::collection::vec((any::<[u8; 20]>(), 0..1_300_usize, any::<bool>(), 0..300_u64), 0..40),
    ) {
        let mut now = Instant::now();
        let mut ends = [Stack::client(1, now), Stack::server(2, now)];
        for (header, len, to_server, wait) in segments {
            now += Duration::from_millis(wait);
            for end in &mut ends {
                end.send(&[7; 3_000]);
                end.poll(8, now);
            }
            for from in [0, 1] {
                while let Some(real) = ends[from].next_segment() {
                    // Real numbers in front of a header of any kind.
                    let forged = [&real[4..12], &header[..12], &vec![1; len]].concat();
                    ends[1 - from].receive(&[&[0; 4], &forged[..]].concat());
                    ends[1 - from].receive(&real);
                }
            }
            ends[usize::from(to_server)].receive(&[&header[..], &vec![0; len]].concat());
        }
    }
}
