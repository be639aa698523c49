//! Strangers at the hub's port: what they send before anyone is authenticated harms nobody.
//!
//! `ATTACK_SECONDS=60` makes the floods as long as the promise says; the figures are printed
//! (`cargo test -p hub --test attack -- --nocapture`).

#![allow(clippy::disallowed_methods, clippy::print_stdout, clippy::unwrap_used, reason = "tests of IO")]

#[path = "house/mod.rs"]
mod house;

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use house::{
    HUB_LISTENS, Host, Lan, Net, Process, SPOKE_ON_LAN, hub_command, ping, ping_until, require_tun,
    spawn_spoke,
};
use socket2::{Domain, Socket, Type};

const SOON: Duration = Duration::from_secs(10);
/// How long a new member may take to join, whatever goes on.
const JOIN: Duration = Duration::from_secs(2);
/// Half-open connections that the attacker holds, as far as the hub lets him.
const HALF_OPEN: usize = 1_000;

#[test]
fn a_flood_from_another_address_harms_nobody() {
    withstand(3);
}

#[test]
fn a_flood_from_the_newcomers_own_address_harms_nobody() {
    withstand(2);
}

/// Floods the hub from host 2 while two members talk and others join on host `newcomer`.
fn withstand(newcomer: usize) {
    let lan = Lan::with(Net::new(4).unwrap(), 2).unwrap();
    let seconds = std::env::var("ATTACK_SECONDS").map_or(8, |text| text.parse().expect("ATTACK_SECONDS"));
    let first = lan.net.spoke(0);
    ping_until(first, Lan::address(1).into(), SOON).unwrap();
    let marks: Vec<usize> = lan.spokes.iter().map(Process::mark).collect();
    let (memory, descriptors) = (lan.hub.resident_bytes().unwrap(), lan.hub.descriptors().unwrap());
    let (cpu, began) = (cpu_time(&lan.hub), Instant::now());

    // Enough addresses for the hub to let it hold as many, the one that it shares with the newcomer among them.
    let attacker = lan.net.spoke(2);
    let more = (100..120).map(|i| Ipv4Addr::new(192, 0, 2, i));
    let addresses: Vec<Ipv4Addr> = std::iter::once(Net::spoke_v4(2)).chain(more).collect();
    for address in &addresses[1..] {
        attacker.ip(&format!("addr add {address}/24 dev eth0")).unwrap();
    }
    let flood = Flood::start(attacker, addresses, HALF_OPEN, 500);
    let end = began + Duration::from_secs(seconds);
    let mut most_descriptors = descriptors;
    let (mut most_memory, mut slowest_join, mut slowest_ping) = (memory, Duration::ZERO, Duration::ZERO);
    let mut joins = 0;
    while Instant::now() < end {
        let asked = Instant::now();
        let spoke = spawn_spoke(&lan.net, &lan.binaries, newcomer, &[]).unwrap();
        spoke.wait_for_line(SPOKE_ON_LAN, JOIN).unwrap();
        slowest_join = slowest_join.max(asked.elapsed());
        joins += 1;
        spoke.kill().unwrap();
        let until = Instant::now() + Duration::from_secs(1);
        while Instant::now() < until {
            slowest_ping = slowest_ping.max(ping(first, Lan::address(1).into(), 56, SOON).unwrap());
            most_descriptors = most_descriptors.max(lan.hub.descriptors().unwrap());
            most_memory = most_memory.max(lan.hub.resident_bytes().unwrap());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    let took = began.elapsed();
    let (garbage, silent) = flood.stop();
    let hub_share = (cpu_time(&lan.hub) - cpu).as_secs_f64() / took.as_secs_f64();

    let back = await_true(Duration::from_secs(15), || lan.hub.descriptors().unwrap() <= descriptors);
    println!(
        "{took:.1?}: {garbage} garbage and {silent} silent connections; {joins} joins, the slowest in {slowest_join:.0?}; \
         slowest ping {slowest_ping:.1?}; {} more descriptors; memory +{} KiB; {:.0} % of a core; descriptors back after {back:.1?}",
        most_descriptors - descriptors,
        (most_memory - memory) / 1024,
        hub_share * 100.0,
    );
    assert!(garbage as f64 > 300.0 * took.as_secs_f64(), "the attacker was too slow: {garbage} in {took:?}");
    assert!(most_memory <= memory + 16 * 1024 * 1024, "{memory} bytes before, {most_memory} at most");
    for (spoke, mark) in lan.spokes.iter().zip(marks) {
        assert_eq!(spoke.mark(), mark, "{} has something to say", spoke.name());
    }
    let told = lan.hub.lines().iter().filter(|line| line.contains("before it joined")).count();
    assert!(told < 50, "the hub has told {told} times that a link closed");
    ping(first, Lan::address(1).into(), 56, SOON).unwrap();
}

#[test]
fn a_hub_with_few_descriptors_takes_newcomers_in() {
    require_tun().unwrap();
    let (net, binaries) = (Net::new(2).unwrap(), house::Binaries::find().unwrap());
    let hub = hub_command(&net, &binaries, &[]);
    let mut command = Command::new("prlimit");
    command.arg("--nofile=64:64").arg(hub.get_program()).args(hub.get_args());
    let hub = net.hub().spawn("hub", &command).unwrap();
    hub.wait_for_line(HUB_LISTENS, SOON).unwrap();
    let flood = Flood::start(net.spoke(1), vec![Net::spoke_v4(1)], 200, 100);
    let spoke = spawn_spoke(&net, &binaries, 0, &[]).unwrap();
    spoke.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
    ping_until(net.spoke(0), Lan::hub_address().into(), SOON).unwrap();
    flood.stop();
    let lines = hub.lines();
    assert!(!lines.iter().any(|line| line.contains("cannot accept")), "its own files had descriptors left");
    assert!(!lines.iter().any(|line| line.contains("cannot write")), "{lines:?}");
}

#[test]
fn a_hub_that_is_out_of_descriptors_neither_spins_nor_gives_up() {
    let lan = Lan::with(Net::new(3).unwrap(), 1).unwrap();
    let before = lan.hub.descriptors().unwrap();
    let flood = |count| Flood::start(lan.net.spoke(1), vec![Net::spoke_v4(1)], count, 0);

    // Nothing can be closed to make room.
    set_descriptor_limit(&lan.hub, before);
    let attack = flood(50);
    lan.hub.wait_for_line("cannot accept connections", SOON).unwrap();
    let (cpu, began) = (cpu_time(&lan.hub), Instant::now());
    while began.elapsed() < Duration::from_secs(2) {
        ping(lan.net.spoke(0), Lan::hub_address().into(), 56, SOON).unwrap();
        std::thread::sleep(Duration::from_millis(20));
    }
    let used = cpu_time(&lan.hub) - cpu;
    assert!(used < Duration::from_millis(400), "{used:?} of processor time in 2 s");
    attack.stop();

    // There is room for few: they make place for newcomers.
    set_descriptor_limit(&lan.hub, before + 8);
    let attack = flood(200);
    let spoke = spawn_spoke(&lan.net, &lan.binaries, 2, &[]).unwrap();
    spoke.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
    let (cpu, began) = (cpu_time(&lan.hub), Instant::now());
    std::thread::sleep(Duration::from_secs(2));
    let (used, took) = (cpu_time(&lan.hub) - cpu, began.elapsed());
    assert!(used < took / 2, "{used:?} of processor time in {took:?}");
    let (_, silent) = attack.stop();
    println!("{used:.1?} of processor time in {took:.1?}, with {silent} connections so far");

    set_descriptor_limit(&lan.hub, 1_024);
    spoke.kill().unwrap();
    await_true(Duration::from_secs(15), || lan.hub.descriptors().unwrap() <= before);
    let spoke = spawn_spoke(&lan.net, &lan.binaries, 2, &[]).unwrap();
    spoke.wait_for_line(SPOKE_ON_LAN, JOIN).unwrap();
    let told = lan.hub.lines().iter().filter(|line| line.contains("cannot accept")).count();
    assert_eq!(told, 1, "it is told once a minute");
}

/// An attacker: connections that say nothing or half a hello, and connections that say nonsense.
struct Flood {
    stop: Arc<AtomicBool>,
    garbage: Arc<AtomicU64>,
    silent: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Flood {
    /// From `host`: holds `hold` silent connections, opening at most 400 a second, from its addresses `from` in
    /// turn; and makes `rate` a second that send garbage, from the first of them.
    fn start(host: &Host, from: Vec<Ipv4Addr>, hold: usize, rate: u32) -> Flood {
        let (stop, garbage, silent) =
            (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let mut threads = Vec::new();
        let first = from[0];
        let (end, count) = (Arc::clone(&stop), Arc::clone(&silent));
        threads.push(host.thread(move || {
            let mut held = Vec::new();
            let mut pace = Pace::new(400);
            while !end.load(Ordering::Relaxed) {
                held.retain(is_open);
                for _ in 0..pace.due() {
                    let done = count.load(Ordering::Relaxed);
                    if held.len() < hold
                        && let Some(mut stream) = connect(from[done as usize % from.len()])
                    {
                        count.fetch_add(1, Ordering::Relaxed);
                        if done.is_multiple_of(2) {
                            // The hub may be quicker to close it.
                            let _ = stream.write_all(b"hub");
                        }
                        held.push(stream);
                    }
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }));
        let (end, count) = (Arc::clone(&stop), Arc::clone(&garbage));
        threads.push(host.thread(move || {
            let mut sent = std::collections::VecDeque::new();
            let mut pace = Pace::new(rate);
            let mut seed = 7;
            while !end.load(Ordering::Relaxed) {
                for _ in 0..pace.due() {
                    if let Some(mut stream) = connect(first) {
                        let mut bytes = [0; 512];
                        house::fill_seeded(&mut bytes, &mut seed);
                        if count.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) {
                            // Up to the handshake it is right.
                            bytes[..10].copy_from_slice(b"hub&spk\x01\0\x20");
                        }
                        let _ = stream.write_all(&bytes);
                        sent.push_back(stream);
                    }
                }
                // The hub has had time to read them.
                while sent.len() > 50 {
                    sent.pop_front();
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        }));
        Flood { stop, garbage, silent, threads }
    }

    /// Ends it; the numbers of garbage and of silent connections.
    fn stop(self) -> (u64, u64) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
        (self.garbage.load(Ordering::Relaxed), self.silent.load(Ordering::Relaxed))
    }
}

/// What is due at a rate.
struct Pace {
    began: Instant,
    rate: f64,
    done: u64,
}

impl Pace {
    fn new(rate: u32) -> Pace {
        Pace { began: Instant::now(), rate: rate.into(), done: 0 }
    }

    fn due(&mut self) -> u64 {
        let due = (self.began.elapsed().as_secs_f64() * self.rate) as u64;
        due - std::mem::replace(&mut self.done, due)
    }
}

/// A connection to the hub that leaves no trace on this side when it is dropped: ports must not run out.
fn connect(from: Ipv4Addr) -> Option<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_linger(Some(Duration::ZERO)).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&SocketAddr::from((from, 0)).into()).unwrap();
    let hub = SocketAddr::from((Net::hub_v4(), 5678));
    socket.connect_timeout(&hub.into(), Duration::from_millis(200)).ok()?;
    socket.set_nonblocking(true).unwrap();
    Some(socket.into())
}

fn is_open(stream: &TcpStream) -> bool {
    let mut stream = stream;
    matches!(stream.read(&mut [0; 64]), Err(error) if error.kind() == ErrorKind::WouldBlock)
}

/// Waits until it is so; how long that took.
fn await_true(timeout: Duration, mut is_so: impl FnMut() -> bool) -> Duration {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < timeout, "it was not so in {timeout:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    began.elapsed()
}

/// Sets what a running program may open; it cannot know.
fn set_descriptor_limit(program: &Process, limit: usize) {
    let (pid, limit) = (program.pid().to_string(), format!("--nofile={limit}:1024"));
    let status = Command::new("prlimit").args(["--pid", &pid, &limit]).status();
    assert!(status.expect("prlimit is missing: install util-linux").success());
}

/// Processor time that a program has used, all in all.
fn cpu_time(program: &Process) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{}/stat", program.pid())).unwrap();
    // proc_pid_stat(5): fields 14 and 15, counted from the name in parentheses, in hundredths of a second.
    let (_, behind_name) = stat.rsplit_once(')').unwrap();
    let ticks: u64 = behind_name
        .split_ascii_whitespace()
        .skip(11)
        .take(2)
        .map(|field| field.parse::<u64>().unwrap())
        .sum();
    Duration::from_millis(ticks * 10)
}
