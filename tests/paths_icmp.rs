//! Tunnels in pings: where nothing else passes, with losses, behind a NAT, by IPv6, and beside the pings of others.
//!
//! With `SOAK=1` more bytes pass where some are lost.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests of IO")]

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::house::{
    Binaries, Host, Lan, Net, Process, SPOKE_ON_LAN, ask_hub, ask_spoke, checksum, echo_request, host_behind,
    hub_command, long_or, ping, start_hub, transfer,
};
use common::linux::netlink::Family;
use common::transport::ping::{ClientSocket, PingLink};
use socket2::{Domain, Protocol, Socket, Type};

const SOON: Duration = Duration::from_secs(15);
/// The one capability that a confined program keeps.
const NET_ADMIN: u64 = 1 << 12;

struct World {
    hub: Process,
    spokes: Vec<Process>,
    net: Net,
    binaries: Binaries,
}

impl World {
    /// A hub with `--icmp` and no spoke yet, where only ICMP passes.
    fn new(spokes: usize) -> World {
        let net = Net::new(spokes).unwrap();
        net.only_icmp().unwrap();
        let binaries = Binaries::find().unwrap();
        let hub = start_hub(&net, &binaries, &["--icmp"]).unwrap();
        World { hub, spokes: Vec::new(), net, binaries }
    }

    /// The same with all spokes on the LAN.
    fn with_spokes(spokes: usize) -> World {
        let mut world = World::new(spokes);
        world.spokes = (0..spokes).map(|i| world.spoke(i, &["icmp://192.0.2.1"])).collect();
        for spoke in &world.spokes {
            let line = spoke.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
            assert!(line.ends_with("through pings to 192.0.2.1"), "{line}");
        }
        world
    }

    fn spoke(&self, i: usize, hubs: &[&str]) -> Process {
        let host = self.net.spoke(i);
        host.spawn(host.name(), &self.command(host, &Lan::address(i).to_string(), hubs)).unwrap()
    }

    fn command(&self, host: &Host, address: &str, hubs: &[&str]) -> Command {
        let mut command = Command::new(&self.binaries.spoke);
        command.args(["--ip", address, "--state"]).arg(host.private().join("spoke"));
        command.args(hubs.iter().flat_map(|hub| ["--hub", hub]));
        command
    }
}

/// Ordinary pings that a host sends to the hub's outer address are answered.
fn is_pinged(host: &Host, hub: impl Into<IpAddr>) {
    let hub = hub.into();
    for size in [0, 56, 1_400] {
        ping(host, hub, size, SOON).unwrap();
    }
}

#[test]
fn where_only_pings_pass_spokes_are_on_the_lan_and_the_hub_is_pinged_as_ever() {
    let world = World::with_spokes(2);
    let (first, second) = (world.net.spoke(0), world.net.spoke(1));
    for size in [56, 1_400, 20_000] {
        ping(first, Lan::address(1).into(), size, SOON).unwrap();
        ping(second, Lan::hub_address().into(), size, SOON).unwrap();
    }
    transfer(first, second, Lan::address(1).into(), 5_000_000).unwrap().finish().unwrap();
    is_pinged(first, Net::hub_v4());
    let status = ask_spoke(&world.net, 0, &["status"]).good();
    assert!(status.contains("icmp://192.0.2.1"), "{status}");
    let members = ask_hub(&world.net, &["status"]).good();
    assert!(members.contains(&format!(" {}:", Net::spoke_v4(0))), "{members}");
}

#[test]
fn over_a_path_that_loses_a_twentieth_all_comes_whole_and_a_shell_and_pings_are_usable() {
    let world = World::with_spokes(2);
    world.net.lose(5).unwrap();
    let (first, second) = (world.net.spoke(0), world.net.spoke(1));
    let bytes = long_or(10_000_000, 3_000_000);
    let bulk = transfer(first, second, Lan::address(1).into(), bytes).unwrap();
    // While the bulk is under way, in the same pings.
    let mut keys = typed(first, second, 100);
    let mut trips: Vec<_> = (0..20).map(|_| ping(first, Lan::address(1).into(), 56, SOON).unwrap()).collect();
    let took = bulk.finish().unwrap();
    for (times, what) in [(&mut keys, "keys"), (&mut trips, "pings")] {
        times.sort_unstable();
        let (middle, nearly_all) = (times[times.len() / 2], times[times.len() * 9 / 10]);
        println!(
            "{bytes} bytes in {took:?}; {what} beside it: {middle:?}, nine of ten within {nearly_all:?}"
        );
        assert!(
            middle < Duration::from_millis(200) && nearly_all < Duration::from_secs(1),
            "{what}: {times:?}"
        );
    }
    for spoke in &world.spokes {
        assert!(!spoke.lines().iter().any(|line| line.contains("lost the hub")), "{:#?}", spoke.lines());
    }
}

/// How long each of so many keys takes to be echoed, as in a shell: one TCP connection, a byte at a time.
fn typed(from: &Host, to: &Host, keys: usize) -> Vec<Duration> {
    let listener = to.tcp_listen((Lan::address(1), 0)).unwrap();
    let mut terminal = from.tcp_connect(listener.local_addr().unwrap(), SOON).unwrap();
    let (mut shell, _) = listener.accept().unwrap();
    let mut own = shell.try_clone().unwrap();
    let echo = std::thread::spawn(move || std::io::copy(&mut own, &mut shell));
    terminal.set_nodelay(true).unwrap();
    terminal.set_read_timeout(Some(SOON)).unwrap();
    let times = (0..keys)
        .map(|key| {
            std::thread::sleep(Duration::from_millis(50));
            let (start, mut back) = (Instant::now(), [0]);
            terminal.write_all(&[key as u8]).unwrap();
            terminal.read_exact(&mut back).unwrap();
            assert_eq!(back, [key as u8]);
            start.elapsed()
        })
        .collect();
    drop(terminal);
    echo.join().unwrap().unwrap();
    times
}

#[test]
fn ten_spokes_at_once_are_on_the_lan() {
    let world = World::with_spokes(10);
    let transfers: Vec<_> = (1..10)
        .map(|i| transfer(world.net.spoke(i), world.net.spoke(0), Lan::address(0).into(), 300_000).unwrap())
        .collect();
    for i in 1..10 {
        ping(world.net.spoke(0), Lan::address(i).into(), 1_400, SOON).unwrap();
    }
    for transfer in transfers {
        transfer.finish().unwrap();
    }
}

#[test]
fn behind_a_nat_two_spokes_keep_their_tunnels_though_nothing_is_said() {
    let world = World::new(1);
    let gateway = world.net.spoke(0);
    let inside = [
        host_behind(gateway, "lan0", "first", [192, 168, 5]).unwrap(),
        host_behind(gateway, "lan1", "second", [192, 168, 6]).unwrap(),
    ];
    // Less time than NAT has for pings by default: what is kept alive for 30 s is so for 8.
    gateway
        .nft("table ip nat {\nchain out {\ntype nat hook postrouting priority 100\noifname eth0 masquerade\n}\n}\n")
        .unwrap();
    gateway.run(|| std::fs::write("/proc/sys/net/netfilter/nf_conntrack_icmp_timeout", "8")).unwrap();
    let spokes: Vec<_> = (0..2)
        .map(|i| {
            let command = world.command(&inside[i], &Lan::address(i).to_string(), &["icmp://192.0.2.1"]);
            inside[i].spawn(inside[i].name(), &command).unwrap()
        })
        .collect();
    for spoke in &spokes {
        spoke.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
    }
    transfer(&inside[0], &inside[1], Lan::address(1).into(), 1_000_000).unwrap().finish().unwrap();
    std::thread::sleep(Duration::from_secs(20));
    ping(&inside[0], Lan::address(1).into(), 56, Duration::from_secs(1)).unwrap();
    for spoke in &spokes {
        assert!(!spoke.lines().iter().any(|line| line.contains("lost the hub")), "{:#?}", spoke.lines());
    }
}

#[test]
fn by_ipv6_all_is_the_same() {
    let world = World::new(1);
    if !world.net.ipv6() {
        return;
    }
    let spoke = world.spoke(0, &["icmp://[2001:db8::1]"]);
    spoke.wait_for_line("through pings to 2001:db8::1", SOON).unwrap();
    ping(world.net.spoke(0), Lan::hub_address().into(), 1_400, SOON).unwrap();
    transfer(world.net.hub(), world.net.spoke(0), Lan::address(0).into(), 3_000_000)
        .unwrap()
        .finish()
        .unwrap();
    is_pinged(world.net.spoke(0), Net::hub_v6());
}

#[test]
fn a_hub_that_is_started_anew_has_its_spokes_back_soon() {
    let mut world = World::with_spokes(2);
    world.hub.kill().unwrap();
    let marks: Vec<usize> = world.spokes.iter().map(Process::mark).collect();
    world.hub = start_hub(&world.net, &world.binaries, &["--icmp"]).unwrap();
    let start = Instant::now();
    for (spoke, mark) in world.spokes.iter().zip(marks) {
        spoke.wait_for_line_after(mark, "was started anew", SOON).unwrap();
        spoke.wait_for_line_after(mark, SPOKE_ON_LAN, SOON).unwrap();
    }
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    ping(world.net.spoke(0), Lan::address(1).into(), 56, SOON).unwrap();
    for program in world.spokes.iter().chain([&world.hub]) {
        let status = std::fs::read_to_string(format!("/proc/{}/status", program.pid())).unwrap();
        let held = status.lines().find_map(|line| line.strip_prefix("CapPrm:\t")).unwrap();
        assert_eq!(u64::from_str_radix(held, 16).unwrap(), NET_ADMIN, "{status}");
    }
}

#[test]
fn echoes_of_strangers_cost_little_and_harm_nobody() {
    const FLOOD: Duration = Duration::from_secs(5);
    let world = World::with_spokes(1);
    let [before, lines] = [world.hub.anonymous_bytes().unwrap(), world.hub.lines().len() as u64];
    let flooder = world.net.spoke(0).thread(move || flood(FLOOD));
    let start = Instant::now();
    let (cpu, mut slowest) = (world.hub.cpu_seconds(), Duration::ZERO);
    while start.elapsed() < FLOOD {
        slowest = slowest.max(ping(world.net.spoke(0), Lan::hub_address().into(), 56, SOON).unwrap());
    }
    let sent = flooder.join().unwrap();
    let cpu = world.hub.cpu_seconds() - cpu;
    println!("{sent} echoes in {FLOOD:?}: {cpu:.2} s of the hub's time, the slowest ping took {slowest:?}");
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    assert_eq!(world.hub.lines().len() as u64, lines, "{:#?}", world.hub.lines());
    let grown = world.hub.anonymous_bytes().unwrap().saturating_sub(before);
    assert!(grown < 8 << 20, "the hub has grown by {grown} bytes");
}

#[test]
fn tunnels_that_nobody_proves_a_key_on_are_bounded_as_connections_are() {
    /// Twice what one source may have.
    const TUNNELS: usize = 256;
    let world = World::new(2);
    let before = world.hub.anonymous_bytes().unwrap();
    let opened = world.net.spoke(0).run(|| {
        let now = Instant::now;
        let mut links: Vec<PingLink> = (0..TUNNELS)
            .map(|n| {
                let socket = Rc::new(ClientSocket::open(Family::V4).unwrap());
                let mut random = [n as u8; 32];
                random[..2].copy_from_slice(&(n as u16).to_be_bytes());
                PingLink::begin(socket, Net::hub_v4().into(), random, now()).unwrap()
            })
            .collect();
        let end = now() + Duration::from_secs(3);
        while now() < end && !links.iter().all(PingLink::is_open) {
            for link in &mut links {
                link.receive(now());
                link.send(now());
            }
        }
        links.iter().filter(|link| link.is_open()).count()
    });
    assert!(opened > 128, "only {opened} of them were open for a while: there is nothing to bound");
    let grown = world.hub.anonymous_bytes().unwrap().saturating_sub(before);
    println!("{opened} tunnels were opened; the hub has grown by {grown} bytes");
    assert!(grown < 128 * 200_000, "the hub has grown by {grown} bytes");
    let half_open: serde_json::Value =
        serde_json::from_str(&ask_hub(&world.net, &["status", "--json"]).good()).unwrap();
    assert!(half_open["half_open"].as_u64().unwrap() <= 128, "{half_open}");
    for i in [0, 1] {
        world.spoke(i, &["icmp://192.0.2.1"]).wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
    }
}

/// Sends echo requests as fast as they go: ordinary ones, and such as begin like those of a tunnel.
fn flood(time: Duration) -> u64 {
    let hub = IpAddr::from(Net::hub_v4());
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)).unwrap();
    socket.connect(&SocketAddr::new(hub, 0).into()).unwrap();
    let (start, mut sent) = (Instant::now(), 0_u64);
    while start.elapsed() < time {
        for kind in [0_u8, 1, 2, 3, 0x7f, 0x82] {
            let mut echo = echo_request(hub, sent as u16, 16 + (sent % 100) as usize * 10);
            // The replies are not for `ping`, whose socket hears all until it is connected.
            echo[4] ^= 0x80;
            if kind != 0 {
                echo[8..13].copy_from_slice(&[0x9d, 0x41, 0xe6, 0x0b, kind]);
            }
            if kind == 0x7f {
                // A nonce that is right, so that it gets a cookie.
                let nonce: [u8; 8] = echo[16..24].try_into().unwrap();
                echo.truncate(24);
                echo.extend(nonce);
            }
            echo[2..4].fill(0);
            let sum = checksum(&echo);
            echo[2..4].copy_from_slice(&sum.to_be_bytes());
            sent += u64::from(socket.send(&echo).is_ok());
        }
    }
    sent
}

#[test]
fn where_the_hub_takes_no_pings_and_where_none_may_be_sent_one_line_says_so() {
    let net = Net::new(1).unwrap();
    let binaries = Binaries::find().unwrap();
    let hub = start_hub(&net, &binaries, &[]).unwrap();
    let mut world = World { hub, spokes: Vec::new(), net, binaries };
    let spoke = world.spoke(0, &["icmp://192.0.2.1"]);
    let line = spoke.wait_for_line("cannot reach icmp://192.0.2.1", SOON).unwrap();
    assert!(
        line.contains("answers pings, but no hub there takes tunnels in them: start it with --icmp"),
        "{line}"
    );
    spoke.kill().unwrap();
    checks(
        &world,
        Some(1),
        "ping       FAILED: cannot reach icmp://192.0.2.1: the host answers pings, but no hub",
    );
    world.hub.kill().unwrap();

    let host = world.net.spoke(0);
    let spoke =
        host.spawn("spoke", &without_raw(&world.command(host, "10.0.0.2", &["icmp://192.0.2.1"]))).unwrap();
    let line = spoke.wait_for_line("ERROR", SOON).unwrap();
    assert!(line.contains("may not open raw sockets: start it as root, or give it CAP_NET_RAW"), "{line}");
    assert!(!spoke.wait_exit(SOON).unwrap().success());
    let hub = world.net.hub();
    let command = without_raw(&hub_command(&world.net, &world.binaries, &["--icmp"]));
    world.hub = hub.spawn("hub", &command).unwrap();
    let line = world.hub.wait_for_line("ERROR", SOON).unwrap();
    assert!(line.contains("--icmp needs raw sockets") && line.contains("give it CAP_NET_RAW"), "{line}");
}

/// The same command without CAP_NET_RAW.
fn without_raw(command: &Command) -> Command {
    let mut without = Command::new("setpriv");
    without.args(["--inh-caps", "-net_raw", "--bounding-set", "-net_raw"]);
    without.arg(command.get_program()).args(command.get_args());
    without
}

/// `spoke check` ends with this code and says this.
fn checks(world: &World, code: Option<i32>, says: &str) {
    let said = ask_spoke(&world.net, 0, &["check", "--hub", "icmp://192.0.2.1"]);
    assert!(said.code == code && said.out.contains(says), "{}{}", said.out, said.err);
}

#[test]
fn check_finds_the_hub_and_its_key_by_pings_and_disturbs_nobody() {
    let world = World::with_spokes(1);
    checks(&world, Some(0), "ping       ok: a hub at 192.0.2.1 answers within");
    checks(&world, Some(0), "key        ok: the hub proves the key");
    ping(world.net.spoke(0), Lan::hub_address().into(), 56, SOON).unwrap();
    let lines = world.spokes[0].lines();
    assert!(!lines.iter().any(|line| line.contains("lost the hub")), "{lines:#?}");
}

#[test]
fn auto_goes_by_pings_where_nothing_else_passes() {
    let world = World::new(1);
    world.net.name_hub(0, "hub.example.org").unwrap();
    let spoke = world.spoke(0, &["auto://hub.example.org"]);
    spoke.wait_for_line("through pings to 192.0.2.1", 2 * SOON).unwrap();
    let status = ask_spoke(&world.net, 0, &["status"]).good();
    assert!(status.contains("way icmp://hub.example.org: in use"), "{status}");
}
