//! Broadcast and multicast: to everyone else once, and not too much of it.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests of IO")]

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::house::{self, Host, Lan};
use socket2::{Domain, InterfaceIndexOrAddress, Socket, Type};

const SOON: Duration = Duration::from_secs(10);
const PORT: u16 = 5353;
const GROUP: Ipv4Addr = Ipv4Addr::new(239, 1, 2, 3);
const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff05, 0, 0, 0, 0, 0, 0x5678, 1);

/// A host that hears everything on port 5353 of its LAN device, in both families.
struct Ear<'a> {
    host: &'a Host,
    device: &'static str,
    v4: UdpSocket,
    v6: UdpSocket,
}

impl Ear<'_> {
    fn new<'a>(host: &'a Host, device: &'static str) -> Ear<'a> {
        let v4 = socket(host, device, (Ipv4Addr::UNSPECIFIED, PORT).into());
        v4.set_broadcast(true).unwrap();
        v4.set_multicast_loop_v4(false).unwrap();
        v4.join_multicast_v4_n(&GROUP, &InterfaceIndexOrAddress::Index(index(host, device))).unwrap();
        let v6 = socket(host, device, (Ipv6Addr::UNSPECIFIED, PORT).into());
        v6.set_multicast_loop_v6(false).unwrap();
        v6.join_multicast_v6(&GROUP_V6, index(host, device)).unwrap();
        Ear { host, device, v4: v4.into(), v6: v6.into() }
    }

    fn socket(&self, to: IpAddr) -> &UdpSocket {
        if to.is_ipv4() { &self.v4 } else { &self.v6 }
    }

    fn send(&self, message: &str, to: IpAddr) {
        self.socket(to).send_to(message.as_bytes(), (to, PORT)).unwrap();
    }

    /// The messages up to one that is `last`, which must be the same on every path.
    fn hear(&self, family: IpAddr, last: &str) -> Vec<String> {
        let socket = self.socket(family);
        socket.set_read_timeout(Some(SOON)).unwrap();
        let mut heard = Vec::new();
        let mut buffer = [0; 64];
        loop {
            let length = socket.recv(&mut buffer).unwrap_or_else(|error| {
                panic!("{} has not heard {last:?} but {heard:?}: {error}", self.host.name())
            });
            let message = String::from_utf8(buffer[..length].to_vec()).unwrap();
            if message == last {
                return heard;
            }
            heard.push(message);
        }
    }

    fn expect_silence(&self, family: IpAddr) {
        let socket = self.socket(family);
        socket.set_nonblocking(true).unwrap();
        let left = socket.recv(&mut [0; 64]);
        assert!(left.is_err(), "{} hears more than there was: {left:?}", self.host.name());
        socket.set_nonblocking(false).unwrap();
    }
}

fn socket(host: &Host, device: &'static str, address: SocketAddr) -> Socket {
    let made = host.run(move || {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None)?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.bind_device(Some(device.as_bytes()))?;
        // A program that is being started may hold a copy of a closed socket for a moment.
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        Ok::<_, io::Error>(socket)
    });
    made.unwrap()
}

fn index(host: &Host, device: &str) -> u32 {
    let mut command = Command::new("ip");
    command.args(["-o", "link", "show", device]);
    let line = String::from_utf8(host.output(command).unwrap().stdout).unwrap();
    line.split(':').next().unwrap().parse().unwrap()
}

fn ears(lan: &Lan) -> Vec<Ear<'_>> {
    let spokes = (0..lan.spokes.len()).map(|i| Ear::new(lan.net.spoke(i), "spoke0"));
    [Ear::new(lan.net.hub(), "hub0")].into_iter().chain(spokes).collect()
}

#[test]
fn everyone_else_hears_a_message_to_all_exactly_once() {
    let lan = Lan::dual(16).unwrap();
    let ears = ears(&lan);
    let targets: [IpAddr; 5] = [
        Ipv4Addr::BROADCAST.into(),
        Ipv4Addr::new(10, 0, 0, 255).into(),
        GROUP.into(),
        GROUP_V6.into(),
        Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).into(),
    ];
    for target in targets {
        for (speaker, ear) in ears.iter().enumerate() {
            ear.send(&format!("from {speaker}"), target);
        }
        // Messages of one sender to one group stay in order: behind each sender's "end", its first message
        // cannot come any more.
        for ear in &ears {
            ear.send("end", target);
        }
        // Linux itself hands a broadcast to its sender too.
        let is_broadcast = target.is_ipv4() && !target.is_multicast();
        for (listener, ear) in ears.iter().enumerate() {
            let speakers = (0..ears.len()).filter(|&speaker| speaker != listener || is_broadcast);
            let mut expected: Vec<String> = speakers.map(|speaker| format!("from {speaker}")).collect();
            let mut heard: Vec<String> = expected.iter().flat_map(|_| ear.hear(target, "end")).collect();
            expected.sort();
            heard.sort();
            assert_eq!(heard, expected, "{target} at {} ({})", ear.host.name(), ear.device);
        }
        for ear in &ears {
            ear.expect_silence(target);
        }
    }
}

#[test]
fn one_source_may_not_flood_the_lan() {
    const SENT: u32 = 5_000;
    let lan = Lan::new(3).unwrap();
    let ears = ears(&lan);
    let counter = count_noise(&ears[2]);
    let start = Instant::now();
    // No more at once than a device holds.
    for _ in 0..SENT / 250 {
        (0..250).for_each(|_| ears[1].send("noise", GROUP.into()));
        // What it sent has been through the hub when an answer to what it sends now is back.
        house::ping_until(lan.net.spoke(0), Lan::address(1).into(), SOON).unwrap();
    }
    let sent_in = start.elapsed();
    // Another source is not held to account; and packets to one host have no cap.
    ears[3].send("end", GROUP.into());
    let heard = counter.join().unwrap();
    // A thousand at once, then one a millisecond, for as long as it took them to get to the hub.
    let most = 1_000 + sent_in.as_millis() + 500;
    assert!(u128::from(heard) <= most, "{heard} of {SENT} in {sent_in:?}, at most {most}");
    assert!(heard > 0);
    let mut status = Command::new(&lan.binaries.hub);
    status.arg("status");
    let status = String::from_utf8(lan.net.hub().output(status).unwrap().stdout).unwrap();
    assert!(status.contains("rate-limit:"), "{status}");
    house::ping(lan.net.spoke(0), Lan::address(1).into(), 56, SOON).unwrap();
    assert!(lan.hub.lines().len() < 20, "a line for each drop");
}

/// Counts what a host hears until "end" comes from somebody else, and what comes with it: in the queues on the way
/// it overtakes the rest.
fn count_noise(ear: &Ear<'_>) -> std::thread::JoinHandle<u32> {
    let listener = ear.v4.try_clone().unwrap();
    // What comes at once is not lost for want of room.
    nix::sys::socket::setsockopt(&listener, nix::sys::socket::sockopt::RcvBufForce, &(64 << 20)).unwrap();
    std::thread::spawn(move || {
        listener.set_read_timeout(Some(SOON)).unwrap();
        let (mut heard, mut buffer, mut has_ended) = (0, [0; 64], false);
        loop {
            match listener.recv(&mut buffer).map(|length| &buffer[..length]) {
                Ok(b"end") => {
                    has_ended = true;
                    listener.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
                }
                Ok(b"noise") => heard += 1,
                Ok(_) => {}
                Err(error) => {
                    assert!(has_ended, "{heard}: {error}");
                    return heard;
                }
            }
        }
    })
}

#[test]
fn a_super_packet_counts_as_its_datagrams() {
    const SUPER_PACKETS: u32 = 200;
    const DATAGRAMS: u32 = 100;
    let lan = Lan::new(3).unwrap();
    let ears = ears(&lan);
    let counter = count_noise(&ears[2]);
    nix::sys::socket::setsockopt(&ears[1].v4, nix::sys::socket::sockopt::UdpGsoSegment, &5).unwrap();
    let message = b"noise".repeat(DATAGRAMS as usize);
    let start = Instant::now();
    for _ in 0..SUPER_PACKETS {
        ears[1].v4.send_to(&message, (GROUP, PORT)).unwrap();
    }
    let sent_in = start.elapsed();
    ears[3].send("end", GROUP.into());
    let heard = counter.join().unwrap();
    let most = 1_000 + sent_in.as_millis() + 500;
    assert!(u128::from(heard) <= most, "{heard} of {} in {sent_in:?}", SUPER_PACKETS * DATAGRAMS);
    assert!(heard >= DATAGRAMS, "{heard}");
}

#[test]
fn joining_again_does_not_fill_the_limit_up() {
    const JOINS: u32 = 6;
    let mut lan = Lan::new(3).unwrap();
    let counter = count_noise(&ears(&lan)[2]);
    let start = Instant::now();
    for join in 0..JOINS {
        if join > 0 {
            lan.restart_spoke(0).unwrap();
        }
        let ear = Ear::new(lan.net.spoke(0), "spoke0");
        (0..1_500).for_each(|_| ear.send("noise", GROUP.into()));
        // What it sent has been through the hub when an answer to what it sends now is back.
        house::ping_until(lan.net.spoke(0), Lan::address(1).into(), SOON).unwrap();
    }
    let took = start.elapsed();
    Ear::new(lan.net.spoke(2), "spoke0").send("end", GROUP.into());
    let heard = counter.join().unwrap();
    let most = 1_000 + took.as_millis();
    assert!(u128::from(heard) <= most, "{heard} in {took:?}, at most {most}");
    assert!(took < Duration::from_secs(4), "too slow to tell: {took:?} for {JOINS} joins");
    assert!(heard >= 1_000, "{heard}");
}
