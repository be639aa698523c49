//! What a member may send to take over another one's kernel, through real devices.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests of IO")]

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV6};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::house::wire::{Wire, join_request, random_key, udp_packet};
use crate::house::{self, Host, Lan, Net, checksum, ping_until, run};
use common::linux::tun::Tun;
use socket2::{Domain, Protocol, Socket, Type};

const SOON: Duration = Duration::from_secs(5);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const DESTINATION: u8 = 60;
const FRAGMENT: u8 = 44;
const ICMPV6: u8 = 58;

fn ip(host: &Host, arguments: &str) -> String {
    let mut command = Command::new("ip");
    command.args(arguments.split_ascii_whitespace());
    run(host, command).out
}

/// An ICMPv6 message with its checksum.
fn icmp(from: Ipv6Addr, to: Ipv6Addr, kind: u8, body: &[u8]) -> Vec<u8> {
    let mut message = [&[kind, 0, 0, 0][..], body].concat();
    let pseudo =
        [&from.octets()[..], &to.octets(), &(message.len() as u32).to_be_bytes(), &[0, 0, 0, ICMPV6]];
    let sum = checksum(&[pseudo.concat(), message.clone()].concat());
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

/// A packet whose upper layer stands behind `depth` destination options headers.
fn packet(from: Ipv6Addr, to: Ipv6Addr, depth: usize, upper: u8, rest: &[u8]) -> Vec<u8> {
    let mut payload = Vec::new();
    for left in (0..depth).rev() {
        payload.extend([if left == 0 { upper } else { DESTINATION }, 0, 1, 4, 0, 0, 0, 0]);
    }
    payload.extend(rest);
    let first = if depth == 0 { upper } else { DESTINATION };
    let mut packet = vec![0x60, 0, 0, 0, 0, 0, first, 255];
    packet[4..6].copy_from_slice(&(payload.len() as u16).to_be_bytes());
    packet.extend(from.octets());
    packet.extend(to.octets());
    packet.extend(payload);
    packet
}

/// A router advertisement: a default route for 1,800 s, a prefix for addresses, a smaller MTU.
fn advertisement(from: Ipv6Addr, to: Ipv6Addr) -> Vec<u8> {
    let prefix = Ipv6Addr::new(0x2001, 0xdb8, 0x666, 0, 0, 0, 0, 0).octets();
    let head = [64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0];
    // On link and for addresses, valid and preferred for a day.
    let option = [3, 4, 64, 0xc0, 0, 1, 0x51, 0x80, 0, 1, 0x51, 0x80, 0, 0, 0, 0];
    let mtu = [5, 1, 0, 0, 0, 0, 5, 0];
    icmp(from, to, 134, &[&head[..], &option, &prefix, &mtu].concat())
}

/// A packet's halves, the first one of `first` bytes behind the fragment header.
fn fragments(from: Ipv6Addr, to: Ipv6Addr, upper: u8, rest: &[u8], first: usize) -> [Vec<u8>; 2] {
    let piece = |offset: usize, more: u16, bytes: &[u8]| {
        let [high, low] = ((offset as u16) | more).to_be_bytes();
        let payload = [&[upper, 0, high, low, 0, 0, 0, 9][..], bytes].concat();
        packet(from, to, 0, FRAGMENT, &payload)
    };
    let (head, tail) = rest.split_at(first);
    [piece(0, 1, head), piece(first, 0, tail)]
}

fn link_local(host: &Host) -> Ipv6Addr {
    let text = ip(host, "-6 -brief addr show dev spoke0");
    let own =
        text.split_whitespace().find_map(|word| word.strip_suffix("/64").filter(|a| a.starts_with("fe80")));
    own.unwrap_or_else(|| panic!("no link-local address: {text}")).parse().unwrap()
}

fn send_raw(host: &Host, to: Ipv6Addr, packet: &[u8]) {
    let index = ip(host, "-o link show dev spoke0");
    let index = index.split(':').next().unwrap().trim().parse().unwrap();
    let socket = host
        .run(move || {
            let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))?;
            socket.set_multicast_if_v6(index)?;
            socket.set_multicast_loop_v6(false)?;
            std::io::Result::Ok(socket)
        })
        .unwrap();
    socket.send_to(packet, &SocketAddrV6::new(to, 0, 0, index).into()).unwrap();
}

/// What neighbour discovery could have changed of a host.
fn state_of(host: &Host) -> String {
    let shown = [
        "-6 route show",
        "-6 route show cache",
        "-6 neigh show dev spoke0",
        "-6 -brief addr show dev spoke0",
    ];
    let mtu = host.run(|| std::fs::read_to_string("/proc/sys/net/ipv6/conf/spoke0/mtu")).unwrap();
    shown.map(|arguments| ip(host, arguments)).concat() + &mtu
}

/// What hub and spoke 0 have dropped for a reason.
fn drops(lan: &Lan, reason: &str) -> u64 {
    let text =
        house::ask_hub(&lan.net, &["status"]).good() + &house::ask_spoke(&lan.net, 0, &["status"]).good();
    let counts = text.split([' ', ',', '\n']).filter_map(|word| word.strip_prefix(reason)?.strip_prefix(':'));
    counts.filter_map(|count| count.parse::<u64>().ok()).sum()
}

fn await_drops(lan: &Lan, reason: &str, count: u64) {
    let end = Instant::now() + SOON;
    while drops(lan, reason) < count {
        assert!(Instant::now() < end, "{} of {count} are counted as {reason}", drops(lan, reason));
        // The hub counts when it likes.
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn the_kernel_of_a_member_would_take_an_advertisement_that_reached_it() {
    let host = Host::new("member").unwrap();
    let tun = host.run(|| Tun::open("spoke0").map_err(|error| error.to_string())).unwrap();
    host.ip("addr add fe80::9/64 dev spoke0 nodad\nlink set spoke0 up").unwrap();
    let from = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);
    for depth in [0, 9] {
        let rest = advertisement(from, ALL_NODES);
        tun.write(&[vec![0; 10], packet(from, ALL_NODES, depth, ICMPV6, &rest)].concat()).unwrap();
        let end = Instant::now() + SOON;
        while !ip(&host, "-6 route show default").contains("dev spoke0") {
            assert!(Instant::now() < end, "the test shows nothing: {}", ip(&host, "-6 route show"));
            std::thread::sleep(Duration::from_millis(10));
        }
        ip(&host, "-6 route flush default");
    }
}

#[test]
fn no_member_becomes_the_router_or_the_neighbour_of_another() {
    let lan = Lan::dual(2).unwrap();
    let (a, b) = (lan.net.spoke(0), lan.net.spoke(1));
    let (from, to) = (link_local(a), link_local(b));
    let (before, before_of_hub) = (state_of(b), ip(lan.net.hub(), "-6 route show"));
    let mut sent = 0;
    let target = Lan::hub_address_v6().octets();
    for destination in [ALL_NODES, to, Lan::address_v6(1)] {
        for depth in [0, 1, 9, 100] {
            // Router solicitation and advertisement, neighbour solicitation and advertisement, redirect.
            let redirect = [&[0; 4][..], &from.octets(), &target].concat();
            let neighbour = [&[0xe0, 0, 0, 0][..], &target, &[2, 1, 2, 0, 0, 0, 0, 6]].concat();
            for message in [
                icmp(from, destination, 133, &[0; 4]),
                advertisement(from, destination),
                icmp(from, destination, 135, &neighbour),
                icmp(from, destination, 136, &neighbour),
                icmp(from, destination, 137, &redirect),
            ] {
                send_raw(a, destination, &packet(from, destination, depth, ICMPV6, &message));
                sent += 1;
            }
        }
    }
    await_drops(&lan, "neighbour-discovery", sent);

    // In pieces: with its type in the first one, and with headers that end beyond it.
    let message = advertisement(from, ALL_NODES);
    for piece in fragments(from, ALL_NODES, ICMPV6, &message, 16) {
        send_raw(a, ALL_NODES, &piece);
    }
    await_drops(&lan, "neighbour-discovery", sent + 1);
    let options = [&[ICMPV6, 1, 1, 12][..], &[0; 12], &message].concat();
    for piece in fragments(from, ALL_NODES, DESTINATION, &options, 8) {
        send_raw(a, ALL_NODES, &piece);
    }
    await_drops(&lan, "hidden-upper-layer", 1);

    // All of that was sent before this is.
    ping_until(a, Lan::address_v6(1).into(), SOON).unwrap();
    assert_eq!(state_of(b), before);
    assert_eq!(ip(lan.net.hub(), "-6 route show"), before_of_hub);
}

#[test]
fn no_member_may_send_from_addresses_that_are_no_hosts() {
    let lan = Lan::with(Net::new(3).unwrap(), 2).unwrap();
    let mut request = join_request(Ipv4Addr::new(10, 0, 0, 66));
    let offered =
        ["0.0.0.0/8", "112.0.0.0/4", "160.0.0.0/4", "240.0.0.0/4", "255.255.255.255/32", "::ffff:0:0/96"];
    request.routes = offered.map(|text| text.parse().unwrap()).into();
    let wire = Wire::connect(lan.net.spoke(2), (Net::hub_v4(), 5678).into(), SOON).unwrap();
    let (mut joined, welcome) = wire.join_as(&random_key().unwrap(), &request).unwrap();
    assert_eq!(welcome.routes, []);
    let sources =
        [[0, 0, 0, 0], [0, 0, 0, 7], [127, 0, 0, 1], [169, 254, 0, 9], [255, 255, 255, 255], [240, 0, 0, 1]];
    let targets = [Lan::address(1), Lan::hub_address(), Ipv4Addr::BROADCAST];
    for source in sources {
        for target in targets {
            let packet = udp_packet((source.into(), 68), (target, 67), b"from nowhere");
            joined.send_packet(&packet).unwrap();
        }
    }
    await_drops(&lan, "forged-source", (sources.len() * targets.len()) as u64);
    ping_until(lan.net.spoke(0), Lan::address(1).into(), SOON).unwrap();
}
