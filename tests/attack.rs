//! Strangers at the hub's port: what they send before anyone is authenticated harms nobody, and neither does a flood of
//! strangers that an open hub lets in.
//!
//! `ATTACK_SECONDS=60` makes the floods as long as the promise says, and joins as many a second; the figures are printed
//! (`cargo test -p spoke --test e2e_timed attack -- --nocapture`).

#![allow(clippy::disallowed_methods, clippy::print_stdout, clippy::unwrap_used, reason = "tests of IO")]

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::{self, DirBuilder};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::house::wire::{Wire, join_request, random_key, udp_packet};
use crate::house::{
    self, HUB_LISTENS, Host, Lan, Net, Process, SPOKE_ON_LAN, await_true, hub_command, ping, ping_until,
    place, require_tun, spawn_spoke,
};
use common::wire::frame::Join;
use common::wire::key::PublicKey;
use nix::mount::{MsFlags, mount};
use socket2::{Domain, Socket, Type};

const SOON: Duration = Duration::from_secs(10);
/// How long a new member may take to join, whatever goes on.
const JOIN: Duration = Duration::from_secs(2);
/// Half-open connections that the attacker holds, as far as the hub lets him.
const HALF_OPEN: usize = 1_000;

#[test]
fn a_flood_from_another_address_harms_nobody() {
    let _place = place();
    withstand(3);
}

#[test]
fn a_flood_from_the_newcomers_own_address_harms_nobody() {
    let _place = place();
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

    let back = await_true("the descriptors", Duration::from_secs(15), || {
        lan.hub.descriptors().unwrap() <= descriptors
    });
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
    let _place = place();
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
    let _place = place();
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
    await_true("the descriptors", Duration::from_secs(15), || lan.hub.descriptors().unwrap() <= before);
    let spoke = spawn_spoke(&lan.net, &lan.binaries, 2, &[]).unwrap();
    spoke.wait_for_line(SPOKE_ON_LAN, JOIN).unwrap();
    let told = lan.hub.lines().iter().filter(|line| line.contains("cannot accept")).count();
    assert_eq!(told, 1, "it is told once a minute");
}

#[test]
fn a_flood_of_new_members_delays_nobody_and_none_is_forgotten() {
    let _place = place();
    /// So often the hub is killed in the middle of it.
    const LIVES: u32 = 6;
    require_tun().unwrap();
    let (seconds, rate) =
        std::env::var("ATTACK_SECONDS").map_or((6, 200), |text| (text.parse().expect("ATTACK_SECONDS"), 500));
    let life = Duration::from_secs(seconds) / LIVES;
    let (net, binaries) = (Net::new(3).unwrap(), house::Binaries::find().unwrap());
    let disk = put_state_on_disk(net.hub());
    let spokes = [0, 1].map(|i| spawn_spoke(&net, &binaries, i, &[]).unwrap());
    let (mut quiet, mut flooded, mut welcomed) = (Vec::new(), Vec::new(), Vec::new());
    let mut cpu = Duration::ZERO;
    for _ in 0..LIVES {
        let marks = spokes.each_ref().map(Process::mark);
        let hub = start_large_hub(&net, &binaries);
        for (spoke, mark) in spokes.iter().zip(marks) {
            spoke.wait_for_line_after(mark, SPOKE_ON_LAN, SOON).unwrap();
        }
        ping_until(net.spoke(0), Lan::address(1).into(), SOON).unwrap();
        quiet.extend(pings(&net, Duration::from_millis(300)));
        let (before, flood) = (cpu_time(&hub), Joiners::start(net.spoke(2), rate));
        flooded.extend(pings(&net, life));
        cpu += cpu_time(&hub) - before;
        hub.kill().unwrap();
        welcomed.extend(flood.stop());
        assert_saved(&net, &welcomed);
    }
    fs::remove_dir_all(disk).unwrap();

    let (quiet, flooded, slowest) = (p99(&mut quiet), p99(&mut flooded), flooded.last().unwrap());
    println!(
        "{} new members in {LIVES} x {life:?}; {:.0} % of a core; pings at the 99th percentile {quiet:.1?} without \
         them and {flooded:.1?} meanwhile, the slowest {slowest:.1?}",
        welcomed.len(),
        cpu.as_secs_f64() / seconds as f64 * 100.0,
    );
    let due = f64::from(rate) * seconds as f64;
    assert!(welcomed.len() as f64 > due / 2.0, "the attacker was too slow: {} of {due}", welcomed.len());
    // A machine that others use too delays pings without any flood.
    assert!(flooded < Duration::from_millis(20) + quiet, "{flooded:?}, and {quiet:?} without a flood");
}

#[test]
fn only_a_lane_of_the_very_session_is_taken_and_only_one() {
    let _place = place();
    let lan = Lan::with(Net::new(2).unwrap(), 1).unwrap();
    let hub = SocketAddr::from((Net::hub_v4(), 5678));
    let wire = || Wire::connect(lan.net.spoke(1), hub, SOON).unwrap();
    let [key, other] = [(); 2].map(|()| random_key().unwrap());
    let address = Ipv4Addr::new(10, 0, 0, 70);
    let mut link = wire().join(&key, address).unwrap();
    let secret = link.lane_secret();
    let earlier = wire().join(&other, Ipv4Addr::new(10, 0, 0, 71)).unwrap().lane_secret();
    let mut others = wire().join(&other, Ipv4Addr::new(10, 0, 0, 71)).unwrap();

    // A proof of one's own, of an earlier session, and of another's: the key says whose session it is.
    let stranger = random_key().unwrap();
    let mut shown = None;
    for (key, secret) in [(&key, &earlier), (&other, &earlier), (&other, &secret), (&stranger, &secret)] {
        let refused = wire().attach(key, |binding| *shown.insert(secret.prove(binding)));
        assert!(refused.is_err_and(|why| why.to_string().contains("Refused")));
    }
    let mut lane = wire().attach(&key, |binding| *shown.insert(secret.prove(binding))).unwrap();
    // The proof that was right once, again; and a second lane with a right one.
    let replayed = wire().attach(&key, |_| shown.unwrap());
    assert!(replayed.is_err_and(|why| why.to_string().contains("does not prove")));
    std::thread::sleep(Duration::from_secs(1));
    let second = wire().attach(&key, |binding| secret.prove(binding));
    assert!(second.is_err_and(|why| why.to_string().contains("the link has a lane")));

    // Nobody was disturbed by all that, and the lane carries what the member may send, and no more.
    for joined in [&mut link, &mut lane, &mut others] {
        joined.ping(7).unwrap();
    }
    let dropped = || {
        let status = house::ask_hub(&lan.net, &["status", "--json"]).good();
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        let member = status["members"].as_array().unwrap().iter();
        let member = member.clone().find(|member| member["addresses"][0] == address.to_string()).unwrap();
        (status["totals"]["lanes"].clone(), member["link"]["drops"].clone())
    };
    let to_spoke = (Ipv4Addr::new(10, 0, 0, 2), 9);
    lane.send_packet(&udp_packet((address, 9), to_spoke, b"own")).unwrap();
    lane.send_packet(&udp_packet((Ipv4Addr::new(10, 0, 0, 71), 9), to_spoke, b"another's")).unwrap();
    lane.ping(8).unwrap();
    let (lanes, drops) = dropped();
    assert_eq!(drops, serde_json::json!({"forged-source": 1}), "it counts for the member");
    assert_eq!(lanes, serde_json::json!({"open": 1, "opened": 1, "refused": 6}));

    // The link goes, and the lane with it.
    drop(link);
    lane.wire().wait_closed(SOON).unwrap();
    others.ping(9).unwrap();
    let orphan = wire().attach(&key, |binding| secret.prove(binding));
    assert!(orphan.is_err_and(|why| why.to_string().contains("no link of this key")));
}

#[test]
fn lanes_without_end_cost_no_more_than_joins() {
    let _place = place();
    let lan = Lan::with(Net::new(2).unwrap(), 1).unwrap();
    let hub = SocketAddr::from((Net::hub_v4(), 5678));
    let key = random_key().unwrap();
    let wire = || Wire::connect(lan.net.spoke(1), hub, SOON).unwrap();
    let mut link = wire().join(&key, Ipv4Addr::new(10, 0, 0, 70)).unwrap();
    let (secret, descriptors) = (link.lane_secret(), lan.hub.descriptors().unwrap());
    let (cpu, began, mut put_off) = (cpu_time(&lan.hub), Instant::now(), 0);
    while began.elapsed() < Duration::from_secs(3) {
        // Each that is taken ends at once, and makes room for the next.
        let lane = wire().attach(&key, |binding| secret.prove(binding));
        put_off += u32::from(lane.is_err_and(|why| why.to_string().contains("TooOften")));
    }
    assert!(put_off > 100, "{put_off} were put off");
    link.ping(7).unwrap();
    await_true("the descriptors", SOON, || lan.hub.descriptors().unwrap() <= descriptors);
    let used = cpu_time(&lan.hub) - cpu;
    println!("{put_off} lanes were put off; {used:?} of processor time in {:.1?}", began.elapsed());
    ping(lan.net.spoke(0), Lan::hub_address().into(), 56, SOON).unwrap();
}

/// Has a hub's state on a disk, which takes its time to write it, unlike the host's own directory; where that is.
fn put_state_on_disk(host: &Host) -> PathBuf {
    let disk = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("joining-{}", std::process::id()));
    let state = host.private().join("hub");
    for directory in [&disk, &host.path(&state)] {
        DirBuilder::new().mode(0o700).create(directory).unwrap();
    }
    let (from, nothing) = (disk.clone(), None::<&str>);
    host.run(move || mount(Some(&from), &state, nothing, MsFlags::MS_BIND, nothing)).unwrap();
    disk
}

/// Starts a hub with room for many members.
fn start_large_hub(net: &Net, binaries: &house::Binaries) -> Process {
    let command = hub_command(net, binaries, &[]);
    let mut large = Command::new(command.get_program());
    large.args(command.get_args().map(|arg| if arg == "10.0.0.0/24" { "10.0.0.0/16".as_ref() } else { arg }));
    let hub = net.hub().spawn("hub", &large).unwrap();
    hub.wait_for_line(HUB_LISTENS, SOON).unwrap();
    hub
}

/// The times that pings between the two members take, for so long.
fn pings(net: &Net, time: Duration) -> Vec<Duration> {
    let end = Instant::now() + time;
    let mut times = Vec::new();
    while Instant::now() < end {
        times.push(ping(net.spoke(0), Lan::address(1).into(), 56, SOON).unwrap());
        std::thread::sleep(Duration::from_millis(3));
    }
    times
}

/// The 99th percentile; the times are in order then.
fn p99(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() * 99 / 100]
}

/// Each member that was welcomed is in the file, with the address that it was told.
fn assert_saved(net: &Net, welcomed: &[(PublicKey, IpAddr)]) {
    let text = fs::read_to_string(house::state(net.hub(), "hub").join("members")).unwrap();
    let words = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let saved: HashMap<&str, &str> =
        words.filter_map(|words| Some((*words.first()?, *words.get(2)?))).collect();
    for (key, address) in welcomed {
        let line = saved.get(key.to_string().as_str()).copied();
        assert_eq!(line, Some(address.to_string().as_str()), "{key} was welcomed");
    }
    let addresses: HashSet<&IpAddr> = welcomed.iter().map(|(_, address)| address).collect();
    assert_eq!(addresses.len(), welcomed.len(), "no address is given twice");
}

/// An attacker that joins again and again, each time with a new key.
struct Joiners {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Vec<(PublicKey, IpAddr)>>>,
}

impl Joiners {
    /// So many at once, as each one waits for its welcome.
    const THREADS: u32 = 20;
    /// Links that each of them has at a time.
    const HELD: usize = 10;

    /// From `host`, `rate` new keys a second.
    fn start(host: &Host, rate: u32) -> Joiners {
        let stop = Arc::new(AtomicBool::new(false));
        let start = |index: u32| {
            let stop = Arc::clone(&stop);
            host.thread(move || {
                // They take turns.
                std::thread::sleep(Duration::from_secs(1) * index / rate);
                Joiners::run(&stop, rate / Joiners::THREADS)
            })
        };
        let threads = (0..Joiners::THREADS).map(start).collect();
        Joiners { stop, threads }
    }

    fn run(stop: &AtomicBool, rate: u32) -> Vec<(PublicKey, IpAddr)> {
        let (mut welcomed, mut held) = (Vec::new(), VecDeque::new());
        let mut pace = Pace::new(rate);
        let request = Join { addresses: vec![], ..join_request(Ipv4Addr::UNSPECIFIED) };
        while !stop.load(Ordering::Relaxed) {
            for _ in 0..pace.due() {
                let key = random_key().unwrap();
                let wire = connect(Net::spoke_v4(2)).map(|stream| Wire::over(stream, JOIN).unwrap());
                // The hub is killed in the middle.
                let Some(Ok((joined, welcome))) = wire.map(|wire| wire.join_as(&key, &request)) else {
                    break;
                };
                welcomed.push((key.public(), welcome.addresses[0].ip()));
                held.push_back(joined);
                if held.len() > Joiners::HELD {
                    held.pop_front();
                }
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        welcomed
    }

    /// Ends it; the keys that were welcomed, and their addresses.
    fn stop(self) -> Vec<(PublicKey, IpAddr)> {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    }
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
