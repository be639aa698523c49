//! Strangers on an open hub who have as many keys as they like: what they send, offer and ask for has its bounds.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests of IO")]

use std::fs;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::house::wire::{Wire, join_request, random_key, udp_packet};
use crate::house::{
    Binaries, Host, Lan, Net, SPOKE_ON_LAN, ask_hub, make_state, ping, ping_until, spawn_spoke, start_hub,
};
use common::wire::key::PrivateKey;
use ipnetwork::IpNetwork;
use nix::sys::socket::{setsockopt, sockopt};

const SOON: Duration = Duration::from_secs(10);
const PORT: u16 = 5353;
const END: &[u8] = b"end";

/// Counts the datagrams to `PORT` that a host hears until `END` is the last one for a while.
fn count(host: &Host) -> thread::JoinHandle<u32> {
    let socket: UdpSocket = host.udp_bind((Ipv4Addr::UNSPECIFIED, PORT)).unwrap();
    setsockopt(&socket, sockopt::RcvBufForce, &(64 << 20)).unwrap();
    thread::spawn(move || {
        socket.set_read_timeout(Some(SOON)).unwrap();
        let (mut heard, mut buffer, mut has_ended) = (0, [0; 2_048], false);
        loop {
            match socket.recv(&mut buffer).map(|length| &buffer[..length]) {
                Ok(END) => {
                    has_ended = true;
                    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
                }
                Ok(_) => heard += 1,
                Err(error) => {
                    assert!(has_ended, "{heard}: {error}");
                    return heard;
                }
            }
        }
    })
}

#[test]
fn many_keys_of_one_machine_do_not_send_to_all_what_one_may_not() {
    const KEYS: u8 = 12;
    let lan = Lan::with(Net::new(3).unwrap(), 2).unwrap();
    let counter = count(lan.net.spoke(0));
    let mut members: Vec<_> = (0..KEYS)
        .map(|i| {
            let address = Ipv4Addr::new(10, 0, 0, 100 + i);
            let wire = Wire::connect(lan.net.spoke(2), (Net::hub_v4(), 5678).into(), SOON).unwrap();
            (address, wire.join(&random_key().unwrap(), address).unwrap())
        })
        .collect();
    let start = Instant::now();
    for (token, (address, member)) in members.iter_mut().enumerate() {
        for i in 0..1_100_u16 {
            // All that goes to everyone counts together.
            let to = [Ipv4Addr::BROADCAST, Ipv4Addr::new(10, 0, 0, 255)][usize::from(i % 2)];
            member.send_packet(&udp_packet((*address, PORT), (to, PORT), b"noise")).unwrap();
        }
        member.ping(token as u64).unwrap();
    }
    let took = start.elapsed();
    // Who is elsewhere is not held to account.
    let honest = lan.net.spoke(1).udp_bind((Ipv4Addr::UNSPECIFIED, PORT)).unwrap();
    honest.set_broadcast(true).unwrap();
    honest.send_to(END, (Ipv4Addr::new(10, 0, 0, 255), PORT)).unwrap();
    let heard = counter.join().unwrap();
    let most = 4 * (1_000 + took.as_millis());
    assert!(u128::from(heard) <= most, "{heard} in {took:?}, at most {most}");
    assert!(most < u128::from(KEYS) * 1_000, "too slow to tell: {took:?}");
    assert!(heard >= 4_000, "{heard}");
}

/// Whether pings of `from` are answered, ten a second.
fn pings(from: &Host, to: IpAddr, is_over: &AtomicBool) -> (u32, u32) {
    let (mut sent, mut lost) = (0, 0);
    while !is_over.load(Ordering::Relaxed) {
        let start = Instant::now();
        lost += u32::from(ping(from, to, 56, Duration::from_secs(1)).is_err());
        sent += 1;
        thread::sleep(Duration::from_millis(100).saturating_sub(start.elapsed()));
    }
    (sent, lost)
}

#[test]
fn many_keys_that_come_and_go_with_routes_leave_a_slow_member_its_line() {
    let net = Net::new(3).unwrap();
    let binaries = Binaries::find().unwrap();
    let hub = start_hub(&net, &binaries, &[]).unwrap();
    net.limit(0, Some(1_000), Duration::from_millis(50)).unwrap();
    let slow = spawn_spoke(&net, &binaries, 0, &[]).unwrap();
    let third = spawn_spoke(&net, &binaries, 1, &[]).unwrap();
    for spoke in [&slow, &third] {
        spoke.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
    }
    let (mark, is_over) = (slow.mark(), AtomicBool::new(false));
    let (joins, (sent, lost)) = thread::scope(|scope| {
        let pings = scope.spawn(|| pings(net.spoke(0), Lan::hub_address().into(), &is_over));
        let strangers: Vec<_> = (0..4_u8)
            .map(|stranger| {
                let (net, is_over) = (&net, &is_over);
                scope.spawn(move || {
                    let mut joins = 0;
                    while !is_over.load(Ordering::Relaxed) {
                        let mut request = join_request(Ipv4Addr::new(10, 0, 0, 100 + stranger));
                        // Half of them offer what the others do, and take it over when those leave.
                        let second = 16 + u32::from(stranger % 2);
                        request.routes = (0..64)
                            .map(|i| format!("172.{second}.{i}.0/24").parse::<IpNetwork>().unwrap())
                            .collect();
                        let wire = Wire::connect(net.spoke(2), (Net::hub_v4(), 5678).into(), SOON);
                        joins +=
                            u32::from(wire.and_then(|wire| wire.join_as(&random_key()?, &request)).is_ok());
                    }
                    joins
                })
            })
            .collect();
        thread::sleep(Duration::from_secs(8));
        is_over.store(true, Ordering::Relaxed);
        let joins: u32 = strangers.into_iter().map(|stranger| stranger.join().unwrap()).sum();
        (joins, pings.join().unwrap())
    });
    assert!(joins >= 50, "{joins} joins are no flood");
    assert!(sent >= 20 && lost * 20 <= sent, "{lost} of {sent} lost beside {joins} joins");
    assert!(!slow.lines()[mark..].iter().any(|line| line.contains("lost")), "{:?}", slow.lines());
    for (who, process) in [("hub", &hub), ("slow", &slow), ("third", &third)] {
        let lines = process.lines().len();
        assert!(lines < 300, "{who} logged {lines} lines for {joins} joins");
    }
}

#[test]
fn a_list_that_is_full_makes_room_by_strangers_and_can_always_be_read() {
    let net = Net::new(2).unwrap();
    let binaries = Binaries::find().unwrap();
    let directory = make_state(net.hub(), "hub").unwrap();
    let file = directory.join("members");
    let [stranger, invited] = [1_u8, 2].map(|seed| PrivateKey::from_random([seed; 32]).public());
    let comment = format!("# {}\n", "words ".repeat(10)).repeat((49 << 20) / 63);
    let members = format!("{comment}{stranger} stranger 10.0.0.90\n{invited} invited 10.0.0.91 tag=office\n");
    fs::write(&file, &members).unwrap();
    let hub = start_hub(&net, &binaries, &[]).unwrap();

    // A newcomer takes the place of a stranger who is not there, and its routes are not recorded.
    let mut request = join_request(Lan::address(0));
    request.routes = (0..64).map(|i| format!("172.16.{i}.0/24").parse::<IpNetwork>().unwrap()).collect();
    let connect = || Wire::connect(net.spoke(0), (Net::hub_v4(), 5678).into(), SOON).unwrap();
    let start = Instant::now();
    let (_first, welcome) = connect().join_as(&random_key().unwrap(), &request).unwrap();
    assert_eq!(welcome.routes.len(), 64, "they are in force all the same");
    // Nobody is left who could make room.
    request = join_request(Lan::address(1));
    let refused = connect().join_as(&random_key().unwrap(), &request).map(drop).unwrap_err();
    assert!(format!("{refused:?}").contains("Full"), "{refused:?}");
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    hub.signal(nix::sys::signal::Signal::SIGTERM).unwrap();
    hub.wait_exit(SOON).unwrap();

    let text = fs::read_to_string(&file).unwrap();
    let [gone, kept] = [&stranger, &invited].map(|key| text.contains(&key.to_string()));
    assert!(!gone && kept && text.contains("10.0.0.2"), "stranger {gone}, invited {kept}");
    assert!(!text.contains("172.16.") && text.len() < members.len() + 200, "{} bytes", text.len());
    let _hub = start_hub(&net, &binaries, &[]).unwrap();
    assert!(ask_hub(&net, &["status"]).good().contains("of 2 members online"));
}

#[test]
fn who_asks_for_an_address_and_hangs_up_costs_its_holder_no_questions() {
    let net = Net::new(3).unwrap();
    let binaries = Binaries::find().unwrap();
    let _hub = start_hub(&net, &binaries, &["--subnet", "fd00::/64"]).unwrap();
    let at = (Net::hub_v4(), 5678).into();
    let mut request = join_request(Lan::address(0));
    request.addresses.push(Lan::address_v6(0).into());
    let holder = Wire::connect(net.spoke(0), at, SOON).unwrap();
    let (mut holder, _) = holder.join_as(&random_key().unwrap(), &request).unwrap();
    let is_over = AtomicBool::new(false);
    let (questions, tries, took) = thread::scope(|scope| {
        let asked = scope.spawn(|| holder.answer_pings(&is_over).unwrap());
        let (start, mut tries) = (Instant::now(), 0_u32);
        while start.elapsed() < Duration::from_secs(6) {
            // From two machines, for either family's address.
            for (i, wanted) in [(1, IpAddr::from(Lan::address(0))), (2, Lan::address_v6(0).into())] {
                let mut request = join_request(Lan::address(0));
                request.addresses = vec![wanted];
                let mut wire = Wire::connect(net.spoke(i), at, SOON).unwrap();
                let asked = wire.handshake(&random_key().unwrap(), &request);
                tries += u32::from(asked.is_ok_and(|(_, third)| wire.send(&third).is_ok()));
            }
        }
        is_over.store(true, Ordering::Relaxed);
        (asked.join().unwrap(), tries, start.elapsed())
    });
    assert!(tries >= 20, "{tries} tries in {took:?}");
    // The tunnel's own, every 4 s, and one question in 2 s.
    assert!(questions <= 8, "{questions} questions for {tries} tries in {took:?}");
    ping_until(net.hub(), Lan::hub_address().into(), SOON).unwrap();
}
