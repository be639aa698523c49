//! Two families: IPv4 and IPv6 inside the LAN and outside of it.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests of IO")]

use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::house::{
    self, Binaries, Host, Lan, Net, Process, SPOKE_ON_LAN, ping, ping_link_local, ping_until, start_hub,
    transfer,
};
use socket2::{Domain, Protocol, Socket, Type};

const SOON: Duration = Duration::from_secs(5);

/// Each host with its addresses on the LAN.
fn hosts(lan: &Lan) -> Vec<(&Host, [IpAddr; 2])> {
    let hub = (lan.net.hub(), [Lan::hub_address().into(), Lan::hub_address_v6().into()]);
    let spokes = (0..lan.spokes.len())
        .map(|i| (lan.net.spoke(i), [Lan::address(i).into(), Lan::address_v6(i).into()]));
    [hub].into_iter().chain(spokes).collect()
}

/// A host and one of its addresses.
type At<'a> = (&'a Host, IpAddr);

/// Every ordered pair of hosts, in each family.
fn pairs(lan: &Lan) -> Vec<(At<'_>, At<'_>)> {
    let hosts = hosts(lan);
    let mut pairs = Vec::new();
    for (a, (from, own)) in hosts.iter().enumerate() {
        for (_, (to, addresses)) in hosts.iter().enumerate().filter(|&(b, _)| a != b) {
            pairs.extend(own.iter().zip(addresses).map(|(&own, &address)| ((*from, own), (*to, address))));
        }
    }
    pairs
}

#[test]
fn ping_udp_and_tcp_work_between_all_pairs_in_both_families() {
    let lan = Lan::dual(3).unwrap();
    let pairs = pairs(&lan);
    assert_eq!(pairs.len(), 4 * 3 * 2);
    for &((from, own), (to, address)) in &pairs {
        for size in [0, 56, 1400, 20_000] {
            ping(from, address, size, SOON).unwrap();
        }
        transfer(from, to, address, 1_000_000).unwrap().finish().unwrap();
        for size in [1, 1_000, 30_000] {
            let (client, server) = (from.udp_bind((own, 0)).unwrap(), to.udp_bind((address, 0)).unwrap());
            let message = vec![7; size];
            client.send_to(&message, server.local_addr().unwrap()).unwrap();
            assert_eq!(receive(&server), (message, client.local_addr().unwrap()));
        }
    }
}

#[test]
fn link_local_addresses_reach_every_host() {
    let lan = Lan::dual(2).unwrap();
    let hosts = [(lan.net.hub(), "hub0"), (lan.net.spoke(0), "spoke0"), (lan.net.spoke(1), "spoke0")];
    for (a, (from, device)) in hosts.into_iter().enumerate() {
        for b in (0..hosts.len()).filter(|&b| a != b) {
            let to = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, b as u16 + 1);
            ping_link_local(from, device, to, 56, SOON).unwrap();
        }
    }
}

#[test]
fn each_family_has_an_address_by_itself_and_keeps_it() {
    let net = Net::new(2).unwrap();
    let binaries = Binaries::find().unwrap();
    let _hub = start_hub(&net, &binaries, &["--subnet", "fd00::/64"]).unwrap();
    let join = |i: usize, options: &[&str]| {
        let mut command = Command::new(&binaries.spoke);
        command.args(["--hub", &Net::hub_v4().to_string(), "--state", "/var/lib/spoke"]).args(options);
        let spoke = net.spoke(i).spawn("spoke", &command).unwrap();
        (spoke.wait_for_line(SPOKE_ON_LAN, SOON).unwrap(), spoke)
    };
    let (line, first) = join(0, &[]);
    assert!(line.contains("on the LAN as 10.0.0.254 and fd00::fffe "), "{line}");
    let (line, _second) = join(1, &["--ip", "fd00::aa"]);
    assert!(line.contains("on the LAN as 10.0.0.253 and fd00::aa "), "{line}");
    drop(first);
    let (line, _first) = join(0, &[]);
    assert!(line.contains("on the LAN as 10.0.0.254 and fd00::fffe "), "{line}");
}

#[test]
fn fragments_arrive_whole_in_any_order() {
    let lan = Lan::dual(2).unwrap();
    let (from, to) = (lan.net.spoke(0), lan.net.spoke(1));
    for (own, address) in [
        (Lan::address(0).into(), Lan::address(1).into()),
        (Lan::address_v6(0).into(), Lan::address_v6(1).into()),
    ] {
        let server = to.udp_bind((address, 0)).unwrap();
        let port = server.local_addr().unwrap().port();
        let raw = raw_socket(from, address);
        let mut message = vec![0; 3_000];
        house::fill_seeded(&mut message, &mut 1);
        for (id, order) in
            [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]].iter().enumerate()
        {
            let fragments = udp_fragments(own, address, port, &message, id as u16 + 1);
            assert_eq!(fragments.len(), 3);
            for &part in order {
                raw.send_to(&fragments[part], &SocketAddr::new(address, 0).into()).unwrap();
            }
            let (received, source) = receive(&server);
            assert_eq!((received == message, source.ip()), (true, own), "{order:?} of {address}");
        }
    }
}

#[test]
fn the_hub_is_reached_by_a_link_local_address_with_scope() {
    let net = Net::new(1).unwrap();
    assert!(net.ipv6(), "this machine has no IPv6 (/proc/sys/net/ipv6 is missing): it can't be tested here");
    let binaries = Binaries::find().unwrap();
    let _hub = start_hub(&net, &binaries, &["--listen", "[::]:5678"]).unwrap();
    // That of the hub's hardware address 02:00:00:00:00:01.
    let _spoke = join_through(&net, 0, "[fe80::ff:fe00:1%eth0]:5678", SOON);
    ping_until(net.spoke(0), Lan::hub_address().into(), SOON).unwrap();
}

#[test]
fn a_hub_listens_where_it_is_told() {
    let net = Net::new(2).unwrap();
    assert!(net.ipv6(), "this machine has no IPv6 (/proc/sys/net/ipv6 is missing): it can't be tested here");
    let binaries = Binaries::find().unwrap();
    let _hub = start_hub(&net, &binaries, &["--listen", "[2001:db8::1]:443"]).unwrap();
    let _spoke = join_through(&net, 0, "[2001:db8::1]:443", SOON);
    let refused = net.spoke(1).tcp_connect((Net::hub_v4(), 443), SOON);
    assert!(refused.is_err(), "it listens on IPv4 too");
}

#[test]
fn an_address_that_leads_nowhere_does_not_hold_up_the_other_family() {
    let net = Net::new(3).unwrap();
    assert!(net.ipv6(), "this machine has no IPv6 (/proc/sys/net/ipv6 is missing): it can't be tested here");
    let binaries = Binaries::find().unwrap();
    let _hub = start_hub(&net, &binaries, &[]).unwrap();
    // Nobody answers; and no route: an error at once.
    for (i, dead) in [(0, "2001:db8::dead"), (1, "2001:db8:9::1")] {
        let names = format!("{dead} lan.example\n{} lan.example\n", Net::hub_v4());
        net.spoke(i).set_file("/etc/hosts", &names).unwrap();
        let start = Instant::now();
        let _spoke = join_through(&net, i, "lan.example", SOON);
        assert!(start.elapsed() < Duration::from_secs(1), "{dead}: joined after {:?}", start.elapsed());
    }
    // The other way about: IPv4 is dead.
    let names = format!("192.0.2.250 lan.example\n{} lan.example\n", Net::hub_v6());
    net.spoke(2).set_file("/etc/hosts", &names).unwrap();
    let start = Instant::now();
    let _spoke = join_through(&net, 2, "lan.example", SOON);
    assert!(start.elapsed() < Duration::from_secs(1), "joined after {:?}", start.elapsed());
}

#[test]
fn the_wrong_number_of_addresses_is_refused_with_words() {
    let host = Host::new("host").unwrap();
    let binaries = Binaries::find().unwrap();
    for (program, options, words) in [
        (&binaries.hub, &["--subnet", "10.0.0.0/24", "--subnet", "10.1.0.0/24"][..], "one IPv4 and one IPv6"),
        (&binaries.hub, &["--subnet", "fd00::/64", "--mtu", "1279"], "1280"),
        (&binaries.spoke, &["--hub", "x", "--ip", "10.0.0.2", "--ip", "10.0.0.3"], "one IPv4 and one IPv6"),
        (&binaries.spoke, &["--hub", "x", "--route", "192.168.5.1/24"], "192.168.5.0/24"),
    ] {
        let mut command = Command::new(program);
        command.args(options);
        let process = host.spawn("it", &command).unwrap();
        process.wait_for_line(words, SOON).unwrap();
        assert!(!process.wait_exit(SOON).unwrap().success());
    }
}

/// Starts spoke `i` with this hub and waits until it is on the LAN.
fn join_through(net: &Net, i: usize, hub: &str, timeout: Duration) -> Process {
    let binaries = Binaries::find().unwrap();
    let mut command = Command::new(&binaries.spoke);
    command.args(["--hub", hub, "--ip", &Lan::address(i).to_string()]);
    let spoke = net.spoke(i).spawn("spoke", &command).unwrap();
    spoke.wait_for_line(SPOKE_ON_LAN, timeout).unwrap();
    spoke
}

fn receive(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    socket.set_read_timeout(Some(SOON)).unwrap();
    let mut message = vec![0; 65_536];
    let (length, source) = socket.recv_from(&mut message).unwrap();
    message.truncate(length);
    (message, source)
}

/// A socket for packets with their IP header (raw(7), and `IPPROTO_RAW` of IPv6).
fn raw_socket(host: &Host, to: IpAddr) -> Socket {
    let domain = if to.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    host.run(move || Socket::new(domain, Type::RAW, Some(Protocol::from(255)))).unwrap()
}

/// A UDP packet from port 9 in three fragments, with their IP headers.
fn udp_fragments(from: IpAddr, to: IpAddr, port: u16, message: &[u8], id: u16) -> Vec<Vec<u8>> {
    const PIECE: usize = 1_400;
    let length = (8 + message.len()) as u16;
    let octets = |address| match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let mut udp = [9, port, length, 0].map(u16::to_be_bytes).concat();
    udp.extend_from_slice(message);
    // RFC 768 and RFC 8200, section 8.1: addresses, protocol and length count too.
    let pseudo = [octets(from), octets(to), vec![0, 17], length.to_be_bytes().to_vec(), udp.clone()].concat();
    let sum = house::checksum(&pseudo);
    udp[6..8].copy_from_slice(&sum.to_be_bytes());

    let pieces = udp.chunks(PIECE).enumerate().map(|(index, piece)| {
        let (offset, more) = ((index * PIECE / 8) as u16, (index + 1) * PIECE < udp.len());
        match (from, to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let mut packet = vec![0x45, 0];
                packet.extend_from_slice(&(20 + piece.len() as u16).to_be_bytes());
                packet.extend_from_slice(&id.to_be_bytes());
                packet.extend_from_slice(&(offset | u16::from(more) << 13).to_be_bytes());
                packet.extend_from_slice(&[64, 17, 0, 0]);
                packet.extend_from_slice(&from.octets());
                packet.extend_from_slice(&to.octets());
                packet.extend_from_slice(piece);
                packet
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let mut packet = vec![0x60, 0, 0, 0];
                packet.extend_from_slice(&(8 + piece.len() as u16).to_be_bytes());
                packet.extend_from_slice(&[44, 64]);
                packet.extend_from_slice(&from.octets());
                packet.extend_from_slice(&to.octets());
                packet.extend_from_slice(&[17, 0]);
                packet.extend_from_slice(&(offset << 3 | u16::from(more)).to_be_bytes());
                packet.extend_from_slice(&u32::from(id).to_be_bytes());
                packet.extend_from_slice(piece);
                packet
            }
            _ => panic!("two families"),
        }
    });
    pieces.collect()
}
