//! Devices made, configured and used, each in a network namespace of its own.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use mio::{Events, Poll};
use socket2::{Domain, Socket, Type};

use super::*;
use crate::linux::netlink::tests::in_namespace;

const PATIENCE: Duration = Duration::from_secs(10);
const LARGEST: usize = VNET_LEN + 65_575;

fn open(name: &str) -> Tun {
    Tun::open(name).unwrap_or_else(|error| panic!("this test needs a TUN device: {error}"))
}

/// A device called `t` that is up with `addresses`, and sends nothing of its own.
fn device(addresses: &[&str]) -> Tun {
    let tun = open("t");
    tun.without_link_local().unwrap();
    for address in addresses {
        tun.add_address(address.parse().unwrap()).unwrap();
    }
    tun.up().unwrap();
    tun
}

/// Waits until one of `tuns` has something to say.
struct Waiter(Poll, Events);

impl Waiter {
    fn new(tuns: &mut [&mut Tun]) -> Waiter {
        let poll = Poll::new().unwrap();
        for (token, tun) in tuns.iter_mut().enumerate() {
            poll.registry().register(*tun, Token(token), Interest::READABLE).unwrap();
        }
        Waiter(poll, Events::with_capacity(8))
    }

    fn wait(&mut self) {
        self.0.poll(&mut self.1, Some(PATIENCE)).unwrap();
        assert!(!self.1.is_empty(), "no packet within {PATIENCE:?}");
    }
}

/// The next packet of IP version `version`.
fn next_packet(tun: &mut Tun, version: u8) -> Vec<u8> {
    let mut waiter = Waiter::new(&mut [tun]);
    let mut buffer = vec![0; LARGEST];
    loop {
        match tun.read(&mut buffer) {
            Ok(length) if buffer[10] >> 4 == version => return buffer[..length].to_vec(),
            Ok(_) => (),
            Err(error) if error.kind() == ErrorKind::WouldBlock => waiter.wait(),
            Err(error) => panic!("{error}"),
        }
    }
}

/// A whole packet: a header of zeroes, IPv4, and UDP without a checksum.
fn udp_packet(source: &str, destination: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let SocketAddr::V4(destination) = destination else { panic!("IPv4 only") };
    let length = (28 + payload.len()) as u16;
    let mut ip = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, libc::IPPROTO_UDP as u8, 0, 0];
    ip[2..4].copy_from_slice(&length.to_be_bytes());
    ip.extend(source.parse::<Ipv4Addr>().unwrap().octets());
    ip.extend(destination.ip().octets());
    let sum: u32 = ip.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let sum = !((sum >> 16) + (sum & 0xffff)) as u16;
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    ip.extend(5353u16.to_be_bytes());
    ip.extend(destination.port().to_be_bytes());
    ip.extend((length - 20).to_be_bytes());
    ip.extend([0, 0]);
    [&[0; 10], &ip[..], payload].concat()
}

#[test]
fn bad_names_are_refused_without_a_system_call() {
    let bad = [
        "",
        ".",
        "..",
        "a/b",
        "a b",
        "a\tb",
        "a:b",
        "tun%d",
        "%",
        "sixteen-bytes-xx",
        "a\0b",
        "ä".repeat(8).as_str(),
    ]
    .map(str::to_owned);
    for name in bad {
        let error = Tun::open(&name).err();
        assert!(matches!(error, Some(Error::BadName(_))), "{name:?} is let through");
    }
    for name in ["x", "hub0", "fifteen-bytes-x", "spoke.1"] {
        assert!(InterfaceRequest::new(name).is_some(), "{name:?}");
    }
}

#[test]
fn offload_falls_back_step_by_step() {
    let features = |most: u32| {
        probe(|offload| if offload > most { Err(ErrorKind::InvalidInput.into()) } else { Ok(()) }).unwrap()
    };
    assert_eq!(features(0x7f), Features { checksum: true, tcp: true, udp: true });
    assert_eq!(features(0x1f), Features { checksum: true, tcp: true, udp: false });
    assert_eq!(features(0x01), Features { checksum: true, tcp: false, udp: false });
    assert_eq!(features(0x00), Features::default());
    let tries = AtomicU32::new(0);
    let refuse = |_| {
        tries.fetch_add(1, Ordering::Relaxed);
        Err(ErrorKind::InvalidInput.into())
    };
    assert!(probe(refuse).is_err());
    assert_eq!(tries.into_inner(), 4);
}

#[test]
fn errors_are_one_line_that_says_what_to_do() {
    for (errno, advice) in [
        (libc::ENOENT, "modprobe tun"),
        (libc::EPERM, "CAP_NET_ADMIN"),
        (libc::EBUSY, "--tun NAME"),
        (libc::EMFILE, "ulimit -n"),
    ] {
        let error = Error::from_errno(io::Error::from_raw_os_error(errno), "hub0", "make the TUN device");
        assert!(error.to_string().contains(advice), "{error}");
        assert!(!error.to_string().contains('\n'), "{error}");
        assert!(std::error::Error::source(&error).is_some());
    }
}

#[test]
fn a_name_that_is_taken_is_refused() {
    in_namespace(|| {
        let _first = open("t");
        for taken in ["t", "lo"] {
            let error = Tun::open(taken).unwrap_err();
            assert!(matches!(error, Error::NameTaken { .. }), "{error}");
            assert!(error.to_string().contains(&format!("called {taken} ")), "{error}");
        }
    });
}

#[test]
fn the_device_goes_when_dropped() {
    in_namespace(|| {
        let netlink = Netlink::open().unwrap();
        let tun = open("t");
        assert_eq!(netlink.link("t").unwrap().index, tun.index());
        drop(tun);
        assert_eq!(netlink.link("t").unwrap_err().errno(), Some(libc::ENODEV));
        open("t");
    });
}

#[test]
fn a_device_that_someone_deleted_is_reported() {
    in_namespace(|| {
        let mut tun = device(&[]);
        let mut waiter = Waiter::new(&mut [&mut tun]);
        let deleted = Command::new("ip").args(["link", "del", "dev", "t"]).status();
        assert!(deleted.expect("this test needs `ip` of iproute2").success());
        waiter.wait();
        assert!(waiter.1.iter().any(|event| event.is_error()), "{:?}", waiter.1);
        assert_eq!(tun.read(&mut [0; 100]).unwrap_err().raw_os_error(), Some(libc::EBADFD));
        assert_eq!(tun.write(&[0; 30]).unwrap_err().raw_os_error(), Some(libc::EBADFD));
    });
}

#[test]
fn what_was_configured_is_there() {
    in_namespace(|| {
        let tun = device(&[]);
        for (mtu, address) in [(9000, "10.0.0.2/24"), (MAX_MTU, "fd00::2/64"), (MIN_MTU_V6, "10.9.0.2/31")] {
            let address: IpNetwork = address.parse().unwrap();
            let held = || tun.netlink().addresses().unwrap().contains(&(tun.index(), address));
            tun.set_mtu(mtu).unwrap();
            tun.add_address(address).unwrap();
            tun.add_address(address).unwrap();
            assert!(held(), "{address}");
            let link = tun.netlink().link("t").unwrap();
            assert_eq!(link.mtu, mtu);
            assert_eq!(link.flags & libc::IFF_UP as u32, libc::IFF_UP as u32);
            assert_eq!(link.flags & libc::IFF_MULTICAST as u32, libc::IFF_MULTICAST as u32);
            let neighbour = address.iter().find(|&ip| ip != address.ip() && ip != address.network());
            let neighbour = neighbour.unwrap_or(address.network());
            let hop = tun.netlink().route_to(neighbour).unwrap().unwrap();
            assert_eq!((hop.interface, hop.gateway, hop.source), (tun.index(), None, Some(address.ip())));
            // Bound at once: no duplicate address detection in the way.
            UdpSocket::bind((address.ip(), 0)).unwrap();
            tun.remove_address(address).unwrap();
            tun.remove_address(address).unwrap();
            assert!(!held(), "{address}");
            assert_eq!(tun.netlink().route_to(neighbour).unwrap(), None);
        }
    });
}

#[test]
fn an_impossible_mtu_is_refused() {
    in_namespace(|| {
        let tun = device(&[]);
        for mtu in [0, 300, 575, 65_536, u32::MAX] {
            let error = tun.set_mtu(mtu).unwrap_err();
            assert!(matches!(error, Error::Mtu(_)), "{error}");
        }
        tun.set_mtu(MIN_MTU).unwrap();
        tun.add_address("10.0.0.2/24".parse().unwrap()).unwrap();
        let error = tun.add_address("fd00::2/64".parse().unwrap()).unwrap_err();
        assert!(error.to_string().contains("1280"), "{error}");
    });
}

#[test]
fn ipv6_that_is_switched_off_is_named() {
    in_namespace(|| {
        std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1")
            .expect("this test switches IPv6 off in its namespace: it needs a writable /proc/sys");
        let tun = device(&["10.0.0.2/24"]);
        let error = tun.add_address("fd00::2/64".parse().unwrap()).unwrap_err();
        assert!(error.to_string().contains("disable_ipv6"), "{error}");
    });
}

#[test]
fn an_address_with_another_prefix_is_not_taken_for_it() {
    in_namespace(|| {
        let tun = device(&["fd00::2/64"]);
        let error = tun.add_address("fd00::2/48".parse().unwrap()).unwrap_err();
        assert!(matches!(&error, Error::Netlink(error) if error.errno() == Some(libc::EEXIST)), "{error}");
    });
}

#[test]
fn broadcast_is_no_flag_that_linux_lets_a_tun_have() {
    in_namespace(|| {
        let tun = device(&[]);
        let broadcast = libc::IFF_BROADCAST as u32;
        tun.netlink().set_flags(tun.index(), broadcast, broadcast).unwrap();
        assert_eq!(tun.netlink().link("t").unwrap().flags & broadcast, 0);
    });
}

#[test]
fn link_local_address_only_where_it_is_wanted() {
    in_namespace(|| {
        let link_local = |tun: &Tun| {
            let held = tun.netlink().addresses().unwrap();
            held.iter().any(|(index, address)| *index == tun.index() && address.is_ipv6())
        };
        assert!(!link_local(&device(&[])));
        // That one may be there for a moment: a program that another test starts has its descriptor until it runs.
        let tun = open("u");
        tun.up().unwrap();
        assert!(link_local(&tun));
    });
}

#[test]
fn a_sent_datagram_is_read_as_header_and_packet() {
    in_namespace(|| {
        let mut tun = device(&["10.0.0.2/24"]);
        let socket = UdpSocket::bind(("10.0.0.2", 0)).unwrap();
        socket.set_broadcast(true).unwrap();
        for destination in ["10.0.0.3", "10.0.0.255", "224.0.0.251"] {
            socket.send_to(b"hello", (destination, 1234)).unwrap();
            let packet = next_packet(&mut tun, 4);
            let (header, ip) = packet.split_at(10);
            assert_eq!(header[0] & !1, 0, "flags other than NEEDS_CSUM");
            assert_eq!(header[1], 0, "a small packet is no super-packet");
            if header[0] == 1 {
                assert_eq!(header[6..10], [20, 0, 6, 0], "csum_start and csum_offset, little endian");
            }
            assert_eq!(ip[12..16], [10, 0, 0, 2]);
            assert_eq!(ip[16..20], destination.parse::<Ipv4Addr>().unwrap().octets());
            assert_eq!(&ip[28..], b"hello");
        }
        assert_eq!(tun.read(&mut [0; 100]).unwrap_err().kind(), ErrorKind::WouldBlock);
    });
}

#[test]
fn a_written_packet_arrives_at_a_socket() {
    in_namespace(|| {
        let tun = device(&["10.0.0.2/24"]);
        let socket = UdpSocket::bind(("0.0.0.0", 0)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let port = socket.local_addr().unwrap().port();
        for destination in ["10.0.0.2", "10.0.0.255", "255.255.255.255"] {
            let destination: IpAddr = destination.parse().unwrap();
            tun.write(&udp_packet("10.0.0.3", (destination, port).into(), b"hello")).unwrap();
            let mut buffer = [0; 100];
            let (length, from) = socket.recv_from(&mut buffer).unwrap();
            assert_eq!((&buffer[..length], from), (&b"hello"[..], "10.0.0.3:5353".parse().unwrap()));
        }
    });
}

#[test]
fn a_packet_that_the_kernel_refuses_is_an_error() {
    in_namespace(|| {
        let tun = open("t");
        let good = udp_packet("10.0.0.3", "10.0.0.2:1".parse().unwrap(), b"");
        assert_eq!(tun.write(&good).unwrap_err().raw_os_error(), Some(libc::EIO), "the device is down");
        tun.up().unwrap();
        tun.write(&good).unwrap();
        let mut version = good.clone();
        version[10] = 0x15;
        let mut segmented = good.clone();
        segmented[1] = 1;
        for bad in [&good[..5], &good[..10], &version, &segmented] {
            assert_eq!(tun.write(bad).unwrap_err().raw_os_error(), Some(libc::EINVAL), "{bad:?}");
        }
    });
}

#[test]
fn routes_through_the_device_come_and_go() {
    in_namespace(|| {
        let tun = device(&["10.0.0.2/24", "fd00::2/64"]);
        for (prefix, host) in [("192.168.5.0/24", "192.168.5.7"), ("2001:db8::/48", "2001:db8::7")] {
            let prefix: IpNetwork = prefix.parse().unwrap();
            let interface = || {
                let hop = tun.netlink().route_to(host.parse().unwrap()).unwrap();
                hop.map(|hop| (hop.interface, hop.gateway))
            };
            for metric in [None, Some(50)] {
                assert_eq!(interface(), None);
                tun.add_route(prefix, metric).unwrap();
                tun.add_route(prefix, metric).unwrap();
                assert_eq!(interface(), Some((tun.index(), None)));
                tun.remove_route(prefix).unwrap();
                tun.remove_route(prefix).unwrap();
            }
            assert_eq!(interface(), None);
        }
    });
}

#[test]
fn a_udp_super_packet_is_taken_where_the_features_say_so() {
    in_namespace(|| {
        let tun = device(&["10.0.0.2/24"]);
        let socket = UdpSocket::bind(("10.0.0.2", 0)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut packet = udp_packet("10.0.0.3", socket.local_addr().unwrap(), b"firstother");
        // NEEDS_CSUM, GSO_UDP_L4, hdr_len 28, gso_size 5, csum_start 20, csum_offset 6.
        packet[..10].copy_from_slice(&[1, 5, 28, 0, 5, 0, 20, 0, 6, 0]);
        // What a partial checksum holds: the pseudo-header's sum of addresses, protocol and length.
        let sum: u32 =
            packet[22..30].chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
        let sum = sum + 17 + 18;
        packet[36..38].copy_from_slice(&(((sum >> 16) + (sum & 0xffff)) as u16).to_be_bytes());
        let written = tun.write(&packet);
        if !tun.features().udp {
            assert_eq!(written.unwrap_err().raw_os_error(), Some(libc::EINVAL));
            return;
        }
        written.unwrap();
        for datagram in [b"first", b"other"] {
            let mut buffer = [0; 100];
            let length = socket.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], datagram);
        }
    });
}

#[test]
fn a_tcp_stream_crosses_two_devices_in_super_packets() {
    carry_a_tcp_stream("10.0.0.2/24", "10.0.0.3/24");
    carry_a_tcp_stream("fd00::2/64", "fd00::3/64");
}

/// Two hosts, each in a namespace of its own, joined by carrying packets from one device to the other.
fn carry_a_tcp_stream(to: &str, from: &str) {
    const BYTES: usize = 1 << 20;
    let address = to.parse::<IpNetwork>().unwrap().ip();
    let socket = || {
        let domain = if address.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
        let socket = Socket::new(domain, Type::STREAM, None).unwrap();
        socket.set_nonblocking(true).unwrap();
        socket
    };
    let (mut left, server) = in_namespace(|| {
        let tun = device(&[to]);
        let socket = socket();
        socket.bind(&SocketAddr::from((address, 0)).into()).unwrap();
        socket.listen(1).unwrap();
        (tun, socket)
    });
    let (mut right, client) = in_namespace(|| (device(&[from]), socket()));
    let port = server.local_addr().unwrap().as_socket().unwrap().port();
    let _ = client.connect(&SocketAddr::from((address, port)).into());

    let data: Vec<u8> = (0..BYTES).map(|at| ((at * 7) >> 3) as u8).collect();
    let (mut sent, mut received, mut accepted, mut largest) = (0, Vec::new(), None, 0);
    let mut waiter = Waiter::new(&mut [&mut left, &mut right]);
    let mut buffer = vec![0; LARGEST];
    while received.len() < BYTES {
        let mut idle = true;
        for (from, to) in [(&left, &right), (&right, &left)] {
            while let Ok(length) = from.read(&mut buffer) {
                largest = largest.max(length);
                to.write(&buffer[..length]).unwrap();
                idle = false;
            }
        }
        while let Ok(length @ 1..) = (&client).write(&data[sent..]) {
            sent += length;
            idle = false;
        }
        accepted = accepted.or_else(|| server.accept().ok().map(|(socket, _)| socket));
        if let Some(socket) = &accepted {
            socket.set_nonblocking(true).unwrap();
            while let Ok(length @ 1..) = (&*socket).read(&mut buffer) {
                received.extend_from_slice(&buffer[..length]);
                idle = false;
            }
        }
        if idle {
            waiter.wait();
        }
    }
    assert!(received == data, "the stream arrived changed");
    assert_eq!(largest > 10 + 1500, left.features().tcp && right.features().tcp, "{largest} bytes");
}
