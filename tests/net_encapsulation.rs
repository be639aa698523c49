//! Tunnels inside the LAN: their packets have checksums left open that are not their own.
//!
//! A kernel leaves the checksum of TCP and UDP to the device that sends the packet, wherever it stands: for
//! traffic in VXLAN it is the inner packet's. What of the kinds of tunnel this machine's kernel does not have is
//! made by hand and forwarded by it, as it comes from a guest or a container that has them.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests of IO")]

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use crate::house::{self, Capture, Host, Lan, Net, checksum, ping_until, transfer};
use common::linux::tun::Tun;
use common::packet::offload::{GSO_TCPV4, NEEDS_CSUM, Vnet};

const SOON: Duration = Duration::from_secs(10);

/// Bytes of a TCP transfer: many super-packets.
const BYTES: u64 = 3_000_000;

/// A kind of tunnel of the kernel: one `ip link` line each, where `{local}` and `{remote}` stand for the LAN
/// addresses of the family.
const KINDS: &[(&str, bool, &str)] = &[
    ("vxlan", false, "type vxlan id 7 remote {remote} dstport 4789 dev spoke0"),
    ("vxlan with outer checksums", false, "type vxlan id 7 remote {remote} dstport 4789 dev spoke0 udpcsum"),
    ("vxlan over IPv6", true, "type vxlan id 7 remote {remote} dstport 4789 dev spoke0"),
    ("geneve", false, "type geneve id 7 remote {remote}"),
    ("geneve over IPv6", true, "type geneve id 7 remote {remote}"),
    ("gre", false, "type gre local {local} remote {remote}"),
    ("gre with checksums", false, "type gre local {local} remote {remote} csum"),
    ("gretap", false, "type gretap local {local} remote {remote}"),
    ("ip6gre", true, "type ip6gre local {local} remote {remote}"),
    ("ipip", false, "type ipip local {local} remote {remote}"),
    ("sit", false, "type sit mode any local {local} remote {remote}"),
    ("ip6tnl", true, "type ip6tnl mode any local {local} remote {remote}"),
];

/// The addresses of the two ends of a tunnel, `layer` counting tunnels within tunnels.
fn inner(layer: u8, i: usize) -> [IpAddr; 2] {
    let host = 1 + i as u8;
    let v6 = Ipv6Addr::new(0xfd07, u16::from(layer), 0, 0, 0, 0, 0, u16::from(host));
    [Ipv4Addr::new(10, 70 + layer, 0, host).into(), v6.into()]
}

/// Makes a tunnel's end on spoke `i`; false where the kernel does not have its kind.
fn add_tunnel(host: &Host, i: usize, layer: u8, mtu: u32, what: &str, line: &str) -> bool {
    let [v4, v6] = inner(layer, i);
    if let Err(error) = host.ip(&format!("link add tunnel{layer} mtu {mtu} {line}")) {
        let text = error.to_string();
        assert!(text.contains("Unknown device type") || text.contains("not supported"), "{what}: {text}");
        // Not by a macro, whose output would be held back.
        let _ = writeln!(std::io::stderr(), "SKIPPED: {what}: this kernel does not have it: {text}");
        return false;
    }
    host.ip(&format!("addr add {v4}/24 dev tunnel{layer}\nlink set tunnel{layer} up")).unwrap();
    // GRE and IPIP carry IPv4 alone on some kernels; the others have both.
    let _ = host.ip(&format!("addr add {v6}/64 dev tunnel{layer} nodad"));
    true
}

/// Ping, UDP of one packet and of several, and TCP both ways, between the ends of a tunnel.
fn try_tunnel(lan: &Lan, layer: u8, what: &str) {
    let (a, b) = (lan.net.spoke(0), lan.net.spoke(1));
    for family in 0..2 {
        let (from, to) = (inner(layer, 0)[family], inner(layer, 1)[family]);
        if let Err(error) = ping_until(a, to, SOON) {
            assert!(family == 1 && !what.contains("vxlan"), "{what}: {error}");
            continue;
        }
        for size in [1, 1_000, 20_000] {
            let (client, server) = (a.udp_bind((from, 0)).unwrap(), b.udp_bind((to, 0)).unwrap());
            let mut message = vec![0; size];
            house::fill_seeded(&mut message, &mut 1);
            client.send_to(&message, server.local_addr().unwrap()).unwrap();
            server.set_read_timeout(Some(SOON)).unwrap();
            let mut received = vec![0; 65_536];
            let length = server.recv(&mut received).unwrap_or_else(|error| {
                panic!("{what}: {size} bytes of UDP to {to}: {error}");
            });
            assert!(received[..length] == message, "{what}: {size} bytes of UDP to {to}");
        }
        for (from, to, address) in [(a, b, to), (b, a, from)] {
            let sent = transfer(from, to, address, BYTES).and_then(house::Transfer::finish);
            sent.unwrap_or_else(|error| panic!("{what}: TCP to {address}: {error}"));
        }
    }
}

/// No packet was dropped for its virtio-net header, at the hub or at a spoke.
fn assert_no_offload_drops(lan: &Lan) {
    let said = [
        house::ask_hub(&lan.net, &["status"]),
        house::ask_spoke(&lan.net, 0, &["status"]),
        house::ask_spoke(&lan.net, 1, &["status"]),
    ];
    for said in said {
        let text = said.good();
        assert!(!text.contains("offload"), "{text}");
    }
}

#[test]
fn tunnels_of_the_kernel_carry_everything() {
    let lan = Lan::dual(2).unwrap();
    let mut tried = 0;
    for (what, v6, line) in KINDS {
        let address = |i: usize| match v6 {
            true => IpAddr::from(Lan::address_v6(i)),
            false => IpAddr::from(Lan::address(i)),
        };
        let made = (0..2).all(|i| {
            let line = line
                .replace("{local}", &address(i).to_string())
                .replace("{remote}", &address(1 - i).to_string());
            add_tunnel(lan.net.spoke(i), i, 0, 1_400, what, &line)
        });
        if made {
            try_tunnel(&lan, 0, what);
            tried += 1;
            (0..2).for_each(|i| lan.net.spoke(i).ip("link del tunnel0").unwrap());
        }
    }
    assert_no_offload_drops(&lan);
    if tried == 0 {
        let _ = writeln!(std::io::stderr(), "SKIPPED: this kernel has no kind of tunnel at all");
    }
}

#[test]
fn tunnels_in_tunnels_carry_everything() {
    let lan = Lan::new(2).unwrap();
    let ends = [
        [IpAddr::from(Lan::address(0)), Lan::address(1).into()],
        [inner(0, 0)[0], inner(0, 1)[0]],
        [inner(1, 0)[1], inner(1, 1)[1]],
    ];
    for (layer, ends) in ends.iter().enumerate() {
        for i in 0..2 {
            let below = if layer == 0 { "spoke0".to_owned() } else { format!("tunnel{}", layer - 1) };
            let remote = ends[1 - i];
            let (id, port) = (7 + layer, 4789 + layer);
            let line = format!("type vxlan id {id} remote {remote} dstport {port} dev {below}");
            // Packets of the inner ones get cut, and their pieces are carried too.
            if !add_tunnel(lan.net.spoke(i), i, layer as u8, 1_440 - 70 * layer as u32, "vxlan", &line) {
                return;
            }
        }
        try_tunnel(&lan, layer as u8, &format!("vxlan, {} deep", layer + 1));
    }
    assert_no_offload_drops(&lan);
}

/// An IPv4 or IPv6 header in front of `payload`.
fn ip(source: &str, destination: &str, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut header = match (source.parse().unwrap(), destination.parse().unwrap()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let total = (20 + payload.len()) as u16;
            let mut header = vec![0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, protocol, 0, 0];
            header[2..4].copy_from_slice(&total.to_be_bytes());
            header.extend(source.octets());
            header.extend(destination.octets());
            let sum = checksum(&header);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            header
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let mut header = vec![0x60, 0, 0, 0, 0, 0, protocol, 64];
            header[4..6].copy_from_slice(&(payload.len() as u16).to_be_bytes());
            header.extend(source.octets());
            header.extend(destination.octets());
            header
        }
        _ => panic!("one family"),
    };
    header.extend(payload);
    header
}

/// UDP without a checksum, as tunnels send it.
fn udp(port: u16, payload: &[u8]) -> Vec<u8> {
    let mut udp = [&[0xc0, 0][..], &port.to_be_bytes(), &[0, 0, 0, 0], payload].concat();
    let length = (udp.len() as u16).to_be_bytes();
    udp[4..6].copy_from_slice(&length);
    udp
}

/// The bytes by which a hand-made packet is known.
const MARKER: &[u8] = b"open inside another";
const END: &[u8] = b"the last of them";

/// A TCP segment with `payload`; its checksum field holds the sum of the pseudo-header, or all of it.
fn tcp(source: &str, destination: &str, payload: &[u8], is_whole: bool) -> Vec<u8> {
    let mut tcp = vec![0x30, 0x39, 0, 80, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x10, 2, 0, 0, 0, 0, 0];
    tcp.extend(payload);
    let octets = |text: &str| match text.parse().unwrap() {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let pseudo =
        [octets(source), octets(destination), (tcp.len() as u32).to_be_bytes().to_vec(), vec![0, 0, 0, 6]];
    let pseudo = pseudo.concat();
    let sum = if is_whole { checksum(&[pseudo, tcp.clone()].concat()) } else { !checksum(&pseudo) };
    tcp[16..18].copy_from_slice(&sum.to_be_bytes());
    tcp
}

/// What each kind puts between the outer IP header and the inner one, and its number.
fn by_hand() -> Vec<(&'static str, u8, Vec<u8>, bool)> {
    let ethernet = |kind: [u8; 2]| [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2][..], &kind].concat();
    vec![
        ("ipip", 4, vec![], false),
        ("sit", 41, vec![], true),
        ("gre", 47, vec![0, 0, 8, 0], false),
        ("gre with key and sequence number", 47, vec![0x30, 0, 0x86, 0xdd, 0, 0, 0, 7, 0, 0, 0, 1], true),
        ("gretap", 47, [vec![0, 0, 0x65, 0x58], ethernet([8, 0])].concat(), false),
        ("vxlan", 17, [vec![8, 0, 0, 0, 0, 0, 7, 0], ethernet([8, 0])].concat(), false),
        ("geneve", 17, [vec![0, 0, 0x65, 0x58, 0, 0, 7, 0], ethernet([0x86, 0xdd])].concat(), true),
        ("geneve with options", 17, [vec![1, 0, 8, 0, 0, 0, 7, 0, 1, 2, 3, 0], vec![]].concat(), false),
        ("foreign over UDP", 17, vec![], false),
        ("generic UDP encapsulation", 17, vec![0, 4, 0, 0], false),
        ("MPLS over UDP", 17, vec![0, 1, 1, 64], false),
        ("L2TPv3 over IP", 115, [vec![0, 0, 0, 9], ethernet([8, 0])].concat(), false),
    ]
}

/// What one tunnel puts around a packet, but for the IP header in front.
fn inside(protocol: u8, between: &[u8], packet: &[u8]) -> Vec<u8> {
    let payload = [between, packet].concat();
    if protocol == 17 { udp(4789, &payload) } else { payload }
}

/// A packet in tunnels within tunnels, the outermost first, and what shall arrive: the outer header is from the network
/// behind the spoke.
fn made(tunnels: &[(u8, &[u8], bool)]) -> (Vec<u8>, Vec<u8>) {
    let ends = |v6: bool| if v6 { ("fd09::1", "fd09::2") } else { ("10.9.0.1", "10.9.0.2") };
    let (a, b) = ends(tunnels.last().unwrap().2);
    let outer = |segment: Vec<u8>| {
        let mut packet = ip(a, b, 6, &segment);
        for (depth, &(protocol, between, _)) in tunnels.iter().enumerate().rev() {
            let (from, to) = match depth {
                0 => ("192.168.50.9", "10.0.0.3"),
                // A tunnel carries the family of the one that is in it.
                depth => ends(tunnels[depth - 1].2),
            };
            packet = ip(from, to, protocol, &inside(protocol, between, &packet));
        }
        packet
    };
    let (open, whole) = (outer(tcp(a, b, MARKER, false)), outer(tcp(a, b, MARKER, true)));
    let vnet = Vnet {
        flags: NEEDS_CSUM,
        csum_start: (open.len() - 20 - MARKER.len()) as u16,
        csum_offset: 16,
        ..Vnet::default()
    };
    ([&vnet.bytes()[..], &open].concat(), whole)
}

/// The packet as a router's successor gets it: one hop on.
fn forwarded(mut packet: Vec<u8>) -> Vec<u8> {
    packet[8] -= 1;
    packet[10..12].fill(0);
    let sum = checksum(&packet[..20]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// Has spoke 0's host forward packets from a guest into the LAN.
fn guest(lan: &Lan) -> Tun {
    let host = lan.net.spoke(0);
    host.forward();
    let guest = host.run(|| Tun::open("guest0").map_err(|error| error.to_string())).unwrap();
    host.ip("addr add 192.168.50.1/24 dev guest0\nlink set guest0 up").unwrap();
    guest
}

#[test]
fn tunnels_of_guests_carry_everything() {
    let net = Net::new(2).unwrap();
    let lan = Lan::with_options(net, &[], &[&["--route", "192.168.50.0/24"], &[]]).unwrap();
    let guest = guest(&lan);
    let kinds = by_hand();
    for (what, protocol, between, v6) in &kinds {
        // A capture has room for so many.
        let capture = Capture::start(lan.net.spoke(1), "spoke0", MARKER, END).unwrap();
        let outer: (u8, &[u8], bool) = (*protocol, between, *v6);
        let mut expected = Vec::new();
        let mut send = |what: String, tunnels: &[(u8, &[u8], bool)]| {
            let (packet, whole) = made(tunnels);
            guest.write(&packet).unwrap();
            expected.push((what, forwarded(whole)));
        };
        send((*what).to_owned(), &[outer]);
        for (within, protocol, between, v6) in &kinds {
            send(format!("{within} within {what}"), &[outer, (*protocol, between, *v6)]);
        }
        // The end is a flow of its own, which a queue would let go first.
        ping_until(lan.net.spoke(0), Lan::address(1).into(), SOON).unwrap();
        let end = ip("192.168.50.9", "10.0.0.3", 17, &udp(9, END));
        guest.write(&[vec![0; 10], end].concat()).unwrap();
        let mut arrived = capture.finish(SOON).unwrap();
        // The receiver's kernel has no such tunnels, and its answers quote the packets.
        arrived.retain(|packet| packet[16..20] == Lan::address(1).octets());
        let missing = expected.iter().filter(|(_, whole)| !arrived.contains(whole)).map(|(what, _)| what);
        let missing: Vec<&String> = missing.collect();
        assert!(
            missing.is_empty(),
            "of {} these have not arrived, or not whole: {missing:?}",
            expected.len()
        );
        assert_eq!(arrived.len(), expected.len());
    }
    assert_no_offload_drops(&lan);
}

#[test]
fn a_super_packet_of_segments_that_are_too_short_is_dropped_and_counted() {
    let net = Net::new(2).unwrap();
    let lan = Lan::with_options(net, &[], &[&["--route", "192.168.50.0/24"], &[]]).unwrap();
    let guest = guest(&lan);
    let payload = [7; 64];
    let segment = tcp("192.168.50.9", "10.0.0.3", &payload, false);
    let packet = ip("192.168.50.9", "10.0.0.3", 6, &segment);
    let mut passed = 0;
    for gso_size in 1..8 {
        let vnet = Vnet {
            flags: NEEDS_CSUM,
            gso_type: GSO_TCPV4,
            hdr_len: 40,
            gso_size,
            csum_start: 20,
            csum_offset: 16,
        };
        // Newer kernels refuse them here.
        passed += u32::from(guest.write(&[&vnet.bytes()[..], &packet].concat()).is_ok());
    }
    ping_until(lan.net.spoke(0), Lan::address(1).into(), SOON).unwrap();
    assert!(lan.spokes[0].is_running() && lan.hub.is_running());
    if passed == 0 {
        let _ = writeln!(std::io::stderr(), "SKIPPED: this kernel makes no such packets");
    } else {
        let status = house::ask_spoke(&lan.net, 0, &["status"]).good();
        assert!(status.contains("offload"), "{passed} were sent: {status}");
    }
}
