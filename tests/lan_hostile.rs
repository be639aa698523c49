//! What the hub makes of hostile bytes: one link closes or one packet is dropped, the others notice nothing,
//! and memory and descriptors return to where they were.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests of IO")]

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use common::wire::frame::{HEADER_LEN, MAX_BODY};
use common::wire::hello::{VERSION, hello};
use common::wire::key::PrivateKey;

use crate::house::wire::{Joined, Wire, join_request, random_key, udp_packet};
use crate::house::{Lan, Net, ping};

const SOON: Duration = Duration::from_secs(5);
/// The hub's deadline for a handshake is 5 s, whatever comes.
const DEADLINE: Duration = Duration::from_secs(7);

/// The address that the attacker holds where it joins.
const ATTACKER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 66);

/// Two spokes on the LAN and a host for the attacker.
struct Siege {
    lan: Lan,
    marks: [usize; 2],
    descriptors: usize,
    /// The attacker's, so that it takes over from itself.
    key: PrivateKey,
}

impl Siege {
    fn new() -> Siege {
        let lan = Lan::with(Net::new(3).unwrap(), 2).unwrap();
        ping(lan.net.spoke(0), Lan::address(1).into(), 56, SOON).unwrap();
        let marks = [lan.spokes[0].mark(), lan.spokes[1].mark()];
        let descriptors = lan.hub.descriptors().unwrap();
        Siege { lan, marks, descriptors, key: random_key().unwrap() }
    }

    fn wire(&self) -> Wire {
        let hub = SocketAddr::from((Net::hub_v4(), 5678));
        Wire::connect(self.lan.net.spoke(2), hub, SOON).unwrap()
    }

    /// Joins as soon as the hub lets it: it bounds how often a key joins, and how many links a source opens.
    fn joined(&self) -> Joined {
        let end = Instant::now() + SOON;
        loop {
            match self.wire().join(&self.key, ATTACKER) {
                Ok(joined) => return joined,
                Err(error) => assert!(Instant::now() < end, "{error}"),
            }
        }
    }

    /// The LAN is as it was before.
    fn unharmed(&self) {
        ping(self.lan.net.spoke(0), Lan::address(1).into(), 1400, SOON).unwrap();
        ping(self.lan.net.spoke(1), Lan::hub_address().into(), 1400, SOON).unwrap();
        assert!(self.lan.hub.is_running());
        for (spoke, mark) in self.lan.spokes.iter().zip(self.marks) {
            assert_eq!(spoke.mark(), mark, "a member noticed: {:#?}", spoke.lines());
        }
        let end = Instant::now() + DEADLINE;
        while self.lan.hub.descriptors().unwrap() > self.descriptors {
            assert!(
                Instant::now() < end,
                "{} descriptors more",
                self.lan.hub.descriptors().unwrap() - self.descriptors
            );
            // The hub closes its end some time after ours.
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn strangers_are_turned_away() {
    let siege = Siege::new();
    let mut version = hello();
    version[7] = VERSION + 1;
    let long = [0x55; 100_000];
    let greetings: [&[u8]; 8] = [
        b"GET / HTTP/1.1\r\nHost: hub\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\x00",
        b"\r\n\r\n",
        &long,
        &[0xff; 8],
        &version,
    ];
    for greeting in greetings {
        let mut wire = siege.wire();
        // The hub may close before it has read everything.
        let _ = wire.send(greeting);
        let said = wire.wait_closed(SOON).unwrap();
        // Who speaks our protocol learns our version, and a browser that there is nothing; the others hear nothing.
        if greeting == version {
            assert_eq!(said, hello());
        } else if greeting.starts_with(b"GET ") {
            let said = String::from_utf8(said).unwrap().to_ascii_lowercase();
            assert!(said.starts_with("http/1.1 404 not found\r\n") && said.len() < 300, "{said}");
            assert!(!said.contains("hub") && !said.contains("spoke"), "{said}");
        } else {
            assert!(said.is_empty(), "{said:?}");
        }
    }
    siege.unharmed();
}

#[test]
fn bad_handshakes_close_their_link_at_once() {
    let siege = Siege::new();
    let key = random_key().unwrap();
    let mut first = hello().to_vec();
    first.extend_from_slice(&[0, 32]);
    first.extend_from_slice(&[0; 32]);
    let lengths = [0_u16, 1, 31, 4097, 65_535];
    // Messages of lengths that cannot be, and an empty one.
    for length in lengths {
        let mut wire = siege.wire();
        wire.send(&hello()).unwrap();
        wire.send(&length.to_be_bytes()).unwrap();
        let _ = wire.send(&vec![7; usize::from(length)]);
        wire.wait_closed(SOON).unwrap();
    }
    // A third message with a flipped bit in each of its parts: length, key, join request, last byte.
    let third_length = {
        let mut wire = siege.wire();
        wire.handshake(&key, &join_request(ATTACKER)).unwrap().1.len()
    };
    for at in [1, 2, 40, 50, 60, third_length - 1] {
        let mut wire = siege.wire();
        let (_, mut third) = wire.handshake(&key, &join_request(ATTACKER)).unwrap();
        third[at] ^= 1;
        if at == 1 {
            // One byte less is announced; one more would be waited for.
            third[at] = (third.len() - 3) as u8;
        }
        wire.send(&third).unwrap();
        let said = wire.wait_closed(SOON).unwrap();
        assert!(said.is_empty(), "nothing is told before the key is proved: {said:?}");
    }
    siege.unharmed();
}

#[test]
fn slow_and_half_handshakes_end_in_five_seconds() {
    let siege = Siege::new();
    let mute = siege.wire();
    let mut half = siege.wire();
    half.send(&hello()).unwrap();
    half.send(&[0, 32, 1, 2, 3]).unwrap();
    let mut without_third = siege.wire();
    without_third.handshake(&random_key().unwrap(), &join_request(ATTACKER)).unwrap();
    let mut slow = siege.wire();
    let start = Instant::now();
    let trickle = std::thread::spawn(move || {
        // Each byte comes in time, all of them together do not.
        for &byte in hello().iter().chain(&[0, 32]).chain(&[9; 32]) {
            if slow.send(&[byte]).is_err() {
                break;
            }
            if slow.wait_closed(Duration::from_millis(700)).is_ok() {
                break;
            }
        }
        start.elapsed()
    });
    for mut wire in [mute, half, without_third] {
        wire.wait_closed(DEADLINE).unwrap();
    }
    assert!(trickle.join().unwrap() < DEADLINE);
    siege.unharmed();
}

#[test]
fn bad_records_and_frames_close_their_link() {
    let siege = Siege::new();
    let close = |attack: &dyn Fn(&mut Joined)| {
        let mut joined = siege.joined();
        joined.ping(1).unwrap();
        attack(&mut joined);
        joined.wire().wait_closed(SOON).unwrap();
    };
    // Records that are too short for a tag, and one of noise.
    close(&|joined| joined.wire().send(&[0, 0]).unwrap());
    close(&|joined| joined.wire().send(&[0, 1, 0]).unwrap());
    close(&|joined| joined.wire().send(&[&[0xff, 0xff][..], &[0; 65_535]].concat()).unwrap());
    // A flipped bit: in the length (so that too little is taken), the text, the tag.
    for at in [1, 2, 10, usize::MAX] {
        close(&|joined| {
            let mut record = joined.record(&[0; 64]).unwrap();
            let at = at.min(record.len() - 1);
            record[at] ^= if at == 1 { 0x10 } else { 1 };
            let _ = joined.wire().send(&record);
        });
    }
    // A record sent twice, and two that changed places.
    close(&|joined| {
        let mut frame = vec![200, 0, 0, 0];
        frame.extend_from_slice(&[200, 0, 0, 0]);
        let record = joined.record(&frame).unwrap();
        joined.wire().send(&record).unwrap();
        let _ = joined.wire().send(&record);
    });
    close(&|joined| {
        let [first, second] = [200, 201].map(|kind| joined.record(&[kind, 0, 0, 0]).unwrap());
        let _ = joined.wire().send(&[second, first].concat());
    });
    // A frame beyond the bound; kinds that are unknown, or not a spoke's to send.
    let [_, high, middle, low] = u32::try_from(MAX_BODY + 1).unwrap().to_be_bytes();
    close(&|joined| joined.send_record(&[1, high, middle, low]).unwrap());
    close(&|joined| joined.send_record(&[1, 0xff, 0xff, 0xff]).unwrap());
    for kind in [0, 2, 3, 7, 8, 11, 12, 13, 100, 127, 128, 129, 130, 131, 132, 133, 134] {
        close(&|joined| joined.send_record(&[kind, 0, 0, 0]).unwrap());
    }
    // Kinds of later versions are skipped.
    let mut joined = siege.joined();
    joined.send_record(&[140, 0, 0, 3, 1, 2, 3, 255, 0, 0, 0]).unwrap();
    joined.ping(2).unwrap();
    drop(joined);
    siege.unharmed();
}

#[test]
fn bad_packets_are_dropped_and_the_link_lives() {
    let siege = Siege::new();
    let (lan, mut attacker) = (&siege.lan, siege.joined());
    let victim = lan.net.spoke(1).udp_bind((Lan::address(1), 0)).unwrap();
    let hub = lan.net.hub().udp_bind((Lan::hub_address(), 0)).unwrap();
    let port = |socket: &UdpSocket| socket.local_addr().unwrap().port();
    let mut token = 0;
    for (socket, to) in [(&victim, Lan::address(1)), (&hub, Lan::hub_address())] {
        let good = udp_packet((ATTACKER, 7), (to, port(socket)), b"good");
        let forged = |source| udp_packet((source, 7), (to, port(socket)), b"forged");
        let changed = |at: usize, byte: u8| {
            let mut packet = forged(ATTACKER);
            packet[at] = byte;
            packet
        };
        let mut bad: Vec<Vec<u8>> = (0..20).map(|length| good[..length].to_vec()).collect();
        bad.extend([
            // Sources that are somebody else's, or nobody's.
            forged(Lan::address(0)),
            forged(Lan::hub_address()),
            forged(to),
            forged(Ipv4Addr::new(10, 0, 0, 99)),
            forged(Ipv4Addr::new(192, 0, 2, 12)),
            forged(Ipv4Addr::LOCALHOST),
            forged(Ipv4Addr::UNSPECIFIED),
            forged(Ipv4Addr::BROADCAST),
            // Version, header length, total length.
            changed(0, 0x55),
            changed(0, 0x05),
            changed(0, 0x44),
            changed(0, 0x4f),
            changed(0, 0x65),
            changed(3, 33),
            changed(3, 35),
            changed(2, 0xff),
        ]);
        for packet in &bad {
            attacker.send_packet(packet).unwrap();
        }
        // A frame with a packet shorter than the virtio-net header.
        for length in 0..10_u8 {
            let mut frame = vec![1, 0, 0, length];
            frame.extend(vec![0; usize::from(length)]);
            attacker.send_record(&frame).unwrap();
        }
        // Virtio-net headers that promise what is not there.
        for (at, byte) in [(0, 1), (0, 0xff), (1, 1), (1, 4), (1, 5), (1, 0x80), (1, 0xff)] {
            let forged = forged(ATTACKER);
            let mut frame = vec![1, 0, 0, (10 + forged.len()) as u8];
            frame.extend_from_slice(&[0; 10]);
            frame[HEADER_LEN + at] = byte;
            frame.extend_from_slice(&forged);
            attacker.send_record(&frame).unwrap();
        }
        token += 1;
        attacker.ping(token).unwrap();
        attacker.send_packet(&good).unwrap();
        assert_eq!(messages(socket), [b"good".to_vec()]);
    }
    // To nobody, to oneself, and to the world.
    for to in [Ipv4Addr::new(10, 0, 0, 200), ATTACKER, Ipv4Addr::new(198, 51, 100, 1)] {
        attacker.send_packet(&udp_packet((ATTACKER, 7), (to, 7), b"stray")).unwrap();
    }
    attacker.ping(99).unwrap();
    drop(attacker);
    siege.unharmed();
}

#[test]
fn memory_and_descriptors_return_to_where_they_were() {
    let siege = Siege::new();
    let hub = &siege.lan.hub;
    let assault = |rounds: usize| {
        for round in 0..rounds {
            let wires: Vec<_> = (0..10)
                .map(|i| {
                    let mut wire = siege.wire();
                    let _ = match i % 3 {
                        0 => wire.send(&[round as u8; 3000]),
                        1 => wire.send(&[&hello()[..], &[0, 32, 1]].concat()),
                        _ => wire.send(b"GET / HTTP/1.1\r\n\r\n"),
                    };
                    wire
                })
                .collect();
            drop(wires);
            let mut joined = siege.joined();
            // The first 60 KB of a packet that never comes.
            joined.send_record(&[&[1, 0, 0xff, 0xff][..], &vec![0; 60_000]].concat()).unwrap();
        }
    };
    assault(5);
    siege.unharmed();
    let before = hub.resident_bytes().unwrap();
    assault(40);
    siege.unharmed();
    let after = hub.resident_bytes().unwrap();
    assert!(after < before + 1024 * 1024, "{before} bytes before, {after} after");
}

#[test]
fn ever_new_keys_do_not_fill_the_log_of_an_open_hub() {
    let siege = Siege::new();
    let (mark, joins) = (siege.lan.hub.mark(), 300_u16);
    for number in 0..joins {
        // Some take the address of one that was there before.
        let address = Ipv4Addr::new(10, 0, 0, 100 + (number % 100) as u8);
        let end = Instant::now() + SOON;
        while let Err(error) = siege.wire().join(&random_key().unwrap(), address) {
            assert!(Instant::now() < end, "{error}");
        }
    }
    let told = siege.lan.hub.lines()[mark..].to_vec();
    let of = |part: &str| told.iter().filter(|line| line.contains(part)).count();
    // In 10 s of each kind, 10 and their number.
    assert!((1..40).contains(&of("is on the LAN")) && of("left the LAN") < 40, "{told:#?}");
    assert!((1..40).contains(&of("(offline) to")), "{told:#?}");
    siege.lan.hub.wait_for_line("more new members joined the LAN", 3 * SOON).unwrap();
    siege.unharmed();
}

/// What has come to a socket up to and including the first good message, and a moment longer.
fn messages(socket: &UdpSocket) -> Vec<Vec<u8>> {
    let mut messages = Vec::new();
    let mut buffer = [0; 2048];
    socket.set_read_timeout(Some(SOON)).unwrap();
    loop {
        match socket.recv(&mut buffer) {
            Ok(length) => messages.push(buffer[..length].to_vec()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return messages,
            Err(error) => panic!("{error}"),
        }
        if messages.last().is_some_and(|message| message == b"good") {
            // Nothing more may come: silence has no event.
            socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        }
    }
}
