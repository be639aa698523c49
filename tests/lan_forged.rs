//! A member that forges the sources of its packets: none is delivered to anybody, and each is counted.
//!
//! As many as the promise says take two seconds; `FORGED_PACKETS` sends another number. The figures are printed
//! (`cargo test -p hub --test e2e lan_forged -- --nocapture`).

#![allow(clippy::disallowed_methods, clippy::print_stdout, clippy::unwrap_used, reason = "tests of IO")]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use common::packet::offload::{GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, NEEDS_CSUM, Vnet};
use common::packet::protocol;
use hub::control::Status;

use crate::house::wire::{Wire, put_packet, random_key, udp_packet};
use crate::house::{Capture, Lan, Net, ask_hub, checksum, fill_seeded, ping};

const SOON: Duration = Duration::from_secs(10);
/// What the attacker holds; the hub gives it the IPv6 address.
const ATTACKER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 66);
/// In each forged packet, behind whatever headers it has.
const MARKER: &[u8] = b"<<forged>>";
/// In the one good packet that each device gets at the end.
const END: &[u8] = b"<<end>>";

#[test]
fn no_packet_with_a_forged_source_is_delivered_and_each_is_counted() {
    let packets =
        std::env::var("FORGED_PACKETS").map_or(1_000_000, |text| text.parse().expect("FORGED_PACKETS"));
    let lan = Lan::dual_in(Net::new(3).unwrap(), 2).unwrap();
    let hub = SocketAddr::from((Net::hub_v4(), 5678));
    let wire = Wire::connect(lan.net.spoke(2), hub, Duration::from_secs(60)).unwrap();
    let mut attacker = wire.join(&random_key().unwrap(), ATTACKER).unwrap();
    let own = member(&lan).addresses;
    assert_eq!(own.len(), 2, "{own:?}");
    let places = [
        (lan.net.hub(), "hub0", Lan::hub_address()),
        (lan.net.spoke(0), "spoke0", Lan::address(0)),
        (lan.net.spoke(1), "spoke0", Lan::address(1)),
    ];
    let captures = places.map(|(host, device, _)| Capture::start(host, device, MARKER, END).unwrap());
    let marks = [0, 1].map(|i| lan.spokes[i].mark());

    let start = Instant::now();
    let mut forger = Forger { own, seed: 5, sent: BTreeMap::new(), frames: Vec::new() };
    for number in 0..packets {
        forger.forge(number);
        if forger.frames.len() > 200_000 || number + 1 == packets {
            attacker.send_frames(&forger.frames).unwrap();
            forger.frames.clear();
        }
    }
    attacker.ping(1).unwrap();
    let took = start.elapsed();

    // All of them are counted, for the one reason, and nothing came of any.
    let link = member(&lan).link.unwrap();
    assert_eq!(link.drops, BTreeMap::from([("forged-source".to_owned(), packets)]));
    assert_eq!(link.received.packets, packets);
    for (_, _, to) in places {
        attacker.send_packet(&udp_packet((ATTACKER, 7), (to, 7), END)).unwrap();
    }
    for (capture, (host, ..)) in captures.into_iter().zip(places) {
        let found = capture.finish(SOON).unwrap();
        assert!(found.is_empty(), "{}: {} packets, such as {:02x?}", host.name(), found.len(), found[0]);
    }
    assert_eq!([0, 1].map(|i| lan.spokes[i].mark()), marks, "no member has anything to say");
    ping(lan.net.spoke(0), Lan::address(1).into(), 1400, SOON).unwrap();
    println!("{packets} packets in {took:.1?}, none delivered: {:?}", forger.sent);
}

/// Makes packets that are right in all but their source.
struct Forger {
    /// The addresses that the attacker may use.
    own: Vec<IpAddr>,
    seed: u64,
    sent: BTreeMap<&'static str, u64>,
    frames: Vec<u8>,
}

impl Forger {
    /// Appends the next packet.
    fn forge(&mut self, number: u64) {
        let is_v6 = self.below(2) == 1;
        let (source, destination) = (self.source(is_v6), self.destination(is_v6));
        let data = [MARKER, &number.to_be_bytes()].concat();
        let udp = || l4_udp(&data);
        let (kind, vnet, protocol, payload) = match (self.below(8), is_v6) {
            (0, _) => ("UDP", Vnet::default(), protocol::UDP, udp()),
            (1, _) => ("TCP", Vnet::default(), protocol::TCP, l4_tcp(&data)),
            (2, false) => return self.put_v4("first fragments", source, destination, 0x2000, &udp()),
            (3, false) => return self.put_v4("later fragments", source, destination, 0x2007, &data),
            (2, true) => ("IPv6 first fragments", Vnet::default(), protocol::FRAGMENT, fragment(1, &udp())),
            (3, true) => ("IPv6 later fragments", Vnet::default(), protocol::FRAGMENT, fragment(0x39, &data)),
            (4, _) => {
                // As if a router or the destination's peer answered a packet that the victim sent.
                let (protocol, message) = self.icmp_error(destination, is_v6, &data);
                ("ICMP errors", Vnet::default(), protocol, message)
            }
            (5, _) => {
                let kind = if is_v6 { GSO_TCPV6 } else { GSO_TCPV4 };
                ("TCP super-packets", gso(kind, is_v6, 16), protocol::TCP, l4_tcp(&data.repeat(150)))
            }
            (6, _) => {
                ("UDP super-packets", gso(GSO_UDP_L4, is_v6, 6), protocol::UDP, l4_udp(&data.repeat(150)))
            }
            (_, true) => {
                ("ICMPv6 echo", Vnet::default(), protocol::ICMPV6, [&[128, 0, 0, 0][..], &data].concat())
            }
            (_, false) => ("ICMP echo", Vnet::default(), protocol::ICMP, [&[8, 0, 0, 0][..], &data].concat()),
        };
        let ip = ip_packet(source, destination, protocol, 0, &payload);
        self.put(kind, vnet, &ip);
    }

    fn put_v4(&mut self, kind: &'static str, source: IpAddr, to: IpAddr, fragment: u16, payload: &[u8]) {
        let ip = ip_packet(source, to, protocol::UDP, fragment, payload);
        self.put(kind, Vnet::default(), &ip);
    }

    fn put(&mut self, kind: &'static str, vnet: Vnet, ip: &[u8]) {
        *self.sent.entry(kind).or_default() += 1;
        put_packet(&mut self.frames, vnet, ip);
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.random() as u64 % bound
    }

    fn random(&mut self) -> u128 {
        let mut bytes = [0; 16];
        fill_seeded(&mut bytes, &mut self.seed);
        u128::from_le_bytes(bytes)
    }

    /// Somebody else's address, nobody's, one that none can have, or any.
    fn source(&mut self, is_v6: bool) -> IpAddr {
        loop {
            let random = self.random();
            let source: IpAddr = match (self.below(6), is_v6) {
                (0, false) => Lan::hub_address().into(),
                (1, false) => Lan::address(self.below(2) as usize).into(),
                (2, false) => Ipv4Addr::from_bits(0x0a00_0000 | random as u32 & 0xff).into(),
                (3, false) => [Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST, Ipv4Addr::LOCALHOST]
                    [self.below(3) as usize]
                    .into(),
                (4, false) => Ipv4Addr::from_bits(0xe000_0000 | random as u32 >> 4).into(),
                (_, false) => Ipv4Addr::from_bits(random as u32).into(),
                (0, true) => Lan::hub_address_v6().into(),
                (1, true) => Lan::address_v6(self.below(2) as usize).into(),
                (2, true) => Ipv6Addr::from_bits(0xfd00 << 112 | random & 0xff).into(),
                (3, true) => {
                    [Ipv6Addr::UNSPECIFIED, Ipv6Addr::LOCALHOST, Lan::hub_address().to_ipv6_mapped()]
                        [self.below(3) as usize]
                        .into()
                }
                (4, true) => Ipv6Addr::from_bits(0xfe80 << 112 | random & u128::from(u64::MAX)).into(),
                (_, true) => Ipv6Addr::from_bits(random).into(),
            };
            // Its own link-local address holds the low half of its own.
            let is_own = self.own.iter().any(|&own| match (own, source) {
                (IpAddr::V6(own), IpAddr::V6(source)) if source.is_unicast_link_local() => {
                    own.to_bits() as u64 == source.to_bits() as u64
                }
                _ => own == source,
            });
            if !is_own {
                return source;
            }
        }
    }

    /// The hub, a member, or everyone.
    fn destination(&mut self, is_v6: bool) -> IpAddr {
        match (self.below(5), is_v6) {
            (0, false) => Lan::hub_address().into(),
            (0, true) => Lan::hub_address_v6().into(),
            (1 | 2, false) => Lan::address(self.below(2) as usize).into(),
            (1 | 2, true) => Lan::address_v6(self.below(2) as usize).into(),
            (3, false) => Ipv4Addr::new(10, 0, 0, 255).into(),
            (_, false) => Ipv4Addr::new(224, 0, 0, 251).into(),
            (_, true) => Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb).into(),
        }
    }

    /// An error about a packet from `victim` to someone else, as ICMP or ICMPv6 quotes it.
    fn icmp_error(&mut self, victim: IpAddr, is_v6: bool, data: &[u8]) -> (u8, Vec<u8>) {
        let peer = self.source(is_v6);
        let quoted = ip_packet(victim, peer, protocol::UDP, 0, &l4_udp(data));
        let (protocol, kinds) =
            if is_v6 { (protocol::ICMPV6, [1, 2, 3, 4]) } else { (protocol::ICMP, [3, 5, 11, 12]) };
        let mut message = vec![kinds[self.below(4) as usize], self.below(5) as u8, 0, 0, 0, 0, 5, 0];
        message.extend_from_slice(&quoted);
        if !is_v6 {
            let sum = checksum(&message);
            message[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        (protocol, message)
    }
}

/// An IPv4 or IPv6 packet; `fragment`: flags and offset in IPv4.
fn ip_packet(source: IpAddr, to: IpAddr, protocol: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap();
    let mut packet = Vec::new();
    match (source, to) {
        (IpAddr::V4(source), IpAddr::V4(to)) => {
            packet.extend_from_slice(&[0x45, 0]);
            packet.extend_from_slice(&(20 + length).to_be_bytes());
            packet.extend_from_slice(&[0, 9]);
            packet.extend_from_slice(&fragment.to_be_bytes());
            packet.extend_from_slice(&[64, protocol, 0, 0]);
            packet.extend_from_slice(&source.octets());
            packet.extend_from_slice(&to.octets());
            let sum = checksum(&packet);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        (IpAddr::V6(source), IpAddr::V6(to)) => {
            packet.extend_from_slice(&[0x60, 0, 0, 0]);
            packet.extend_from_slice(&length.to_be_bytes());
            packet.extend_from_slice(&[protocol, 64]);
            packet.extend_from_slice(&source.octets());
            packet.extend_from_slice(&to.octets());
        }
        (source, to) => panic!("{source} and {to} are of two families"),
    }
    packet.extend_from_slice(payload);
    packet
}

fn l4_udp(data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + data.len()).unwrap();
    let mut datagram: Vec<u8> = [53_u16, 7, length, 0].iter().flat_map(|field| field.to_be_bytes()).collect();
    datagram.extend_from_slice(data);
    datagram
}

fn l4_tcp(data: &[u8]) -> Vec<u8> {
    let mut segment = vec![0, 80, 0, 7, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x10, 2, 0, 0, 0, 0, 0];
    segment.extend_from_slice(data);
    segment
}

/// An IPv6 fragment header (RFC 8200, section 4.5) ahead of a piece of UDP.
fn fragment(offset_and_more: u16, data: &[u8]) -> Vec<u8> {
    let mut piece = vec![protocol::UDP, 0];
    piece.extend_from_slice(&offset_and_more.to_be_bytes());
    piece.extend_from_slice(&[0, 0, 0, 9]);
    piece.extend_from_slice(data);
    piece
}

fn gso(gso_type: u8, is_v6: bool, csum_offset: u16) -> Vnet {
    let csum_start = if is_v6 { 40 } else { 20 };
    let hdr_len = csum_start + if csum_offset == 16 { 20 } else { 8 };
    Vnet { flags: NEEDS_CSUM, gso_type, hdr_len, gso_size: 1_200, csum_start, csum_offset }
}

/// The attacker, as the hub sees it.
fn member(lan: &Lan) -> hub::control::MemberStatus {
    let json = ask_hub(&lan.net, &["status", "--json"]).good();
    let status: Status = serde_json::from_str(&json).unwrap();
    status.members.into_iter().find(|member| member.name.as_str() == "by-hand").unwrap()
}
