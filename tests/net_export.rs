//! Two hubs in a network with routers, whose kernels reach each other's members by routes that BIRD tells.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests of IO")]
#![allow(clippy::print_stdout, reason = "a test: it says what it measured")]

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::house::mobile::{cable, ip};
use crate::house::{
    self, Binaries, HUB_LISTENS, Host, Lan, Net, Process, SPOKE_ON_LAN, await_true, is_missing, make_state,
    ping, ping_until, run, state, transfer,
};

const SOON: Duration = Duration::from_secs(10);
/// An address that no member has.
const NOBODY: &str = "10.0.0.99";
const HUB_A: usize = 0;
const HUB_B: usize = 1;
/// The hosts of the second hub, of the spokes, and of somebody on the outer network.
const SECOND: usize = 0;
const LAPTOP: usize = 1;
const DESK: usize = 2;
const STRANGER: usize = 3;

struct World {
    hubs: [Option<Process>; 2],
    net: Net,
    binaries: Binaries,
}

impl World {
    /// Two hubs with one key, each with a device eth1 to the other.
    fn new() -> World {
        house::require_tun().unwrap();
        let net = Net::named(&["second", "laptop", "desk", "stranger"]).unwrap();
        let mut world = World { hubs: [None, None], net, binaries: Binaries::find().unwrap() };
        cable(world.host(HUB_A), "eth1", world.host(HUB_B), "eth1");
        for hub in [HUB_A, HUB_B] {
            let host = world.host(hub);
            host.ip(&format!("addr add {}/24 dev eth1", router(hub))).unwrap();
            host.ip(&format!("addr add 2001:db8:1::{}/64 dev eth1 nodad", 1 + hub)).unwrap();
            for (switch, value) in [
                ("net/ipv4/conf/eth1/forwarding", "1"),
                ("net/ipv6/conf/all/forwarding", "1"),
                ("net/ipv4/conf/hub0/forwarding", "0"),
                // Each refusal is heard, however many there were while the routes were on their way.
                ("net/ipv4/icmp_ratelimit", "0"),
                ("net/ipv6/icmp/ratelimit", "0"),
            ] {
                host.run(move || drop(fs::write(format!("/proc/sys/{switch}"), value)));
            }
            make_state(host, "hub").unwrap();
        }
        world.start(HUB_A);
        let key = |hub: usize| state(world.host(hub), "hub").join("key");
        fs::copy(key(HUB_A), key(HUB_B)).unwrap();
        world.start(HUB_B);
        world
    }

    fn host(&self, hub: usize) -> &Host {
        if hub == HUB_A { self.net.hub() } else { self.net.spoke(SECOND) }
    }

    fn start(&mut self, hub: usize) {
        let host = self.host(hub);
        let mut command = Command::new(&self.binaries.hub);
        command.args(["--subnet", "10.0.0.0/24", "--subnet", "fd00::/64", "--export", "eth1"]);
        command.arg("--state").arg(host.private().join("hub"));
        let process = host.spawn("hub", &command).unwrap();
        process.wait_for_line(HUB_LISTENS, SOON).unwrap();
        self.hubs[hub] = Some(process);
    }

    /// The configuration of the manual, for one of the hubs.
    fn start_bird(&self, hub: usize) -> Process {
        let manual = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/hubs.md");
        let manual = fs::read_to_string(manual).unwrap();
        let (_, block) = manual.split_once("```bird\n").unwrap();
        let (text, _) = block.split_once("```").unwrap();
        let text = if hub == HUB_A {
            text.to_owned()
        } else {
            let swapped = text.replace(&router(HUB_A), "A").replace(&router(HUB_B), &router(HUB_A));
            swapped
                .replace("A as", &format!("{} as", router(HUB_B)))
                .replace("id A", &format!("id {}", router(HUB_B)))
        };
        let host = self.host(hub);
        let file = |name: &str| host.private().join(name);
        // Sooner than after the five seconds that two routers wait for each other.
        let text = text.replace("    bfd on;\n", "    bfd on;\n    connect delay time 1;\n");
        host.put(file("bird.conf").to_str().unwrap(), &text);
        let mut command = Command::new("bird");
        command.args(["-f", "-c"]).arg(file("bird.conf")).arg("-s").arg(file("bird.ctl"));
        command.arg("-P").arg(file("bird.pid"));
        host.spawn("bird", &command).unwrap()
    }

    fn await_bgp(&self) {
        for hub in [HUB_A, HUB_B] {
            let control = self.host(hub).private().join("bird.ctl");
            await_true("BGP between the hubs", Duration::from_secs(30), || {
                let mut command = Command::new("birdc");
                command.arg("-s").arg(&control).args(["show", "protocols"]);
                run(self.host(hub), command).out.contains("Established")
            });
        }
    }

    /// A spoke with both families, on the LAN by this hub.
    fn spoke(&self, i: usize, hub: usize) -> Process {
        let host = self.net.spoke(i);
        let place = if hub == HUB_A { Net::hub_v4() } else { Net::spoke_v4(SECOND) };
        let mut command = Command::new(&self.binaries.spoke);
        command.args(["--hub", &place.to_string(), "--state"]).arg(host.private().join("spoke"));
        for address in addresses(i) {
            command.args(["--ip", &address.to_string()]);
        }
        let spoke = host.spawn(host.name(), &command).unwrap();
        spoke.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
        spoke
    }

    fn await_route(&self, hub: usize, to: IpAddr, by: &str) -> Duration {
        await_true("the kernel's route", SOON, || {
            ip(self.host(hub), &format!("route get {to}")).contains(&format!(" dev {by} "))
        })
    }
}

fn router(hub: usize) -> String {
    format!("198.51.100.{}", 1 + hub)
}

fn addresses(spoke: usize) -> [IpAddr; 2] {
    [Lan::address(spoke).into(), Lan::address_v6(spoke).into()]
}

/// Our routes and rules in a host's kernel.
fn ours(host: &Host) -> String {
    let of = |arguments: &str| ip(host, arguments);
    let rules = [of("rule show"), of("-6 rule show")].concat();
    let rules = rules.lines().filter(|line| line.starts_with("3275") || line.starts_with("32760"));
    // The mark tells of which device they are, by its number.
    let rules =
        rules.map(|line| line.split_whitespace().filter(|word| !word.starts_with("0x")).collect::<Vec<_>>());
    let rules: String = rules.map(|words| words.join(" ") + "\n").collect();
    [of("route show table all proto 178"), of("-6 route show table all proto 178"), rules].concat()
}

#[test]
fn members_at_different_hubs_reach_each_other_by_routes_that_bird_tells() {
    if is_missing("bird", "bird2") {
        return;
    }
    let world = World::new();
    let _birds = [HUB_A, HUB_B].map(|hub| world.start_bird(hub));
    let _laptop = world.spoke(LAPTOP, HUB_A);
    let desk = world.spoke(DESK, HUB_B);
    world.await_bgp();
    let (one, other) = (world.net.spoke(LAPTOP), world.net.spoke(DESK));
    for (family, address) in addresses(DESK).into_iter().enumerate() {
        ping_until(one, address, SOON).unwrap();
        ping_until(other, addresses(LAPTOP)[family], SOON).unwrap();
        ping(one, address, 20_000, SOON).unwrap();
        transfer(one, other, address, 3_000_000).unwrap().finish().unwrap();
    }

    // Nobody has it, at either hub: the hub's machine says so, from the hub's address.
    let refused = |to: &str| {
        let mut command = Command::new("ping");
        command.args(["-c", "1", "-W", "2", to]);
        run(one, command).out
    };
    assert!(refused(NOBODY).contains("From 10.0.0.1 icmp_seq=1 Destination"), "{}", refused(NOBODY));
    assert!(refused("fd00::99").contains("From fd00::1 icmp_seq=1 Destination"), "{}", refused("fd00::99"));
    // The hub itself, from there and from its own machine.
    ping(one, Lan::hub_address().into(), 56, SOON).unwrap();
    ping(world.host(HUB_A), addresses(LAPTOP)[0], 56, SOON).unwrap();

    // It goes: withdrawn, and answered as nobody's.
    desk.signal(nix::sys::signal::Signal::SIGTERM).unwrap();
    desk.wait_exit(SOON).unwrap();
    let took = await_true("its route is withdrawn", SOON, || {
        !ip(world.host(HUB_A), "route show").contains(&format!("{} via", addresses(DESK)[0]))
    });
    println!("a member that went is withdrawn at the other hub after {took:?}");
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert!(refused(&addresses(DESK)[0].to_string()).contains("From 10.0.0.1"));

    // It comes to the first hub, and is followed.
    let desk = world.spoke(DESK, HUB_A);
    ping_until(one, addresses(DESK)[0], SOON).unwrap();
    world.await_route(HUB_B, addresses(DESK)[0], "eth1");
    ping(world.host(HUB_A), addresses(DESK)[1], 56, SOON).unwrap();
    desk.kill().unwrap();
    let _desk = world.spoke(DESK, HUB_B);
    let took = world.await_route(HUB_A, addresses(DESK)[0], "eth1");
    println!("a member that moved is followed after {took:?}");
    for address in addresses(DESK) {
        ping_until(one, address, SOON).unwrap();
    }
}

#[test]
fn strangers_do_not_get_into_the_lan_where_the_hubs_machine_forwards_for_all() {
    let world = World::new();
    let _laptop = world.spoke(LAPTOP, HUB_A);
    let hub = world.host(HUB_A);
    // As Docker has it, and nothing checks where packets come from.
    hub.run(|| {
        for switch in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            fs::write(format!("/proc/sys/net/{switch}"), "1").unwrap();
        }
        for device in ["all", "eth0"] {
            fs::write(format!("/proc/sys/net/ipv4/conf/{device}/rp_filter"), "0").unwrap();
        }
    });
    // The other hub's members are believed by eth1 alone, and the stranger has the address of one.
    let stranger = world.net.spoke(STRANGER);
    for (family, (to, via)) in
        [("10.0.0.0/24", Net::hub_v4().to_string()), ("fd00::/64", Net::hub_v6().to_string())]
            .into_iter()
            .enumerate()
    {
        let own = addresses(DESK)[family];
        stranger.ip(&format!("addr add {own} dev lo")).unwrap();
        stranger.ip(&format!("route add {to} via {via} src {own}")).unwrap();
        world.host(HUB_B).ip(&format!("addr add {own} dev lo")).unwrap();
    }
    let laptop = world.net.spoke(LAPTOP);
    let heard = laptop.udp_bind((Lan::address(LAPTOP), 4_000)).unwrap();
    heard.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let send = |from: &Host, text: &[u8]| {
        let socket = from.udp_bind((Lan::address(DESK), 0)).unwrap();
        socket.send_to(text, (Lan::address(LAPTOP), 4_000)).unwrap();
    };
    let mut buffer = [0; 64];
    send(stranger, b"stranger");
    heard.recv(&mut buffer).expect_err("a stranger's packet is in the LAN");
    // In the other hub's place it is let in.
    world.host(HUB_B).ip(&format!("route add {} via {}", Lan::address(LAPTOP), router(HUB_A))).unwrap();
    send(world.host(HUB_B), b"router");
    let length = heard.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"router");
    // The same for IPv6.
    let dropped = |from: &Host| ping(from, addresses(LAPTOP)[1], 56, Duration::from_secs(1)).is_err();
    assert!(dropped(stranger));
}

#[test]
fn what_a_hub_gave_the_kernel_goes_with_it() {
    let mut world = World::new();
    let _laptop = world.spoke(LAPTOP, HUB_A);
    let there = || ours(world.host(HUB_A));
    await_true("the routes are there", SOON, || {
        addresses(LAPTOP).iter().all(|address| there().contains(&format!("{address} dev hub0 ")))
    });
    let before = there();
    assert_eq!(before.lines().filter(|line| line.contains("unreachable")).count(), 2, "{before}");
    // Someone else takes a route away, and switches forwarding off.
    let host = world.host(HUB_A);
    host.ip(&format!("route del {} dev hub0", addresses(LAPTOP)[0])).unwrap();
    await_true("it is back", SOON, || there() == before);
    // Killed, and started anew.
    world.hubs[HUB_A].take().unwrap().kill().unwrap();
    world.start(HUB_A);
    let there = || ours(world.host(HUB_A));
    await_true("the routes are there again", SOON, || there().lines().count() == before.lines().count());
    assert_eq!(there(), before);
    // Stopped.
    let hub = world.hubs[HUB_A].take().unwrap();
    hub.signal(nix::sys::signal::Signal::SIGTERM).unwrap();
    hub.wait_exit(SOON).unwrap();
    assert_eq!(ours(world.host(HUB_A)), "");
}

#[test]
fn a_device_that_is_not_there_is_said() {
    house::require_tun().unwrap();
    let net = Net::named(&["other"]).unwrap();
    let (hub, binaries) = (net.hub(), Binaries::find().unwrap());
    make_state(hub, "hub").unwrap();
    let mut command = Command::new(&binaries.hub);
    command.args(["--subnet", "10.0.0.0/24", "--export", "eth9", "--state"]).arg(hub.private().join("hub"));
    let process = hub.spawn("hub", &command).unwrap();
    let text = "--export eth9: this machine has no network device of that name";
    process.wait_for_line(text, SOON).unwrap();
    process.wait_for_line(HUB_LISTENS, SOON).unwrap();
    let status = || {
        let mut command = Command::new(&binaries.hub);
        command.args(["status", "--state"]).arg(hub.private().join("hub"));
        run(hub, command).good()
    };
    assert!(status().contains(&format!("problem: {text}")), "{}", status());
    // It comes, and goes again.
    cable(hub, "eth9", net.spoke(0), "eth9");
    await_true("no problem", SOON, || !status().contains("problem: "));
    let mark = process.mark();
    hub.ip("link del eth9").unwrap();
    process.wait_for_line_after(mark, text, SOON).unwrap();
    assert!(status().contains(&format!("problem: {text}")), "{}", status());
}
