//! A machine in a network whose addresses are also the LAN's, with the router and the name server among them.
//!
//! ```text
//!   laptop ── wlan0 ── cafe ── eth0 ──┐        the café has 10.0.0.1 and a prefix of its own,
//!          ── eth0 ── home ── eth0 ───┴─ hub   the LAN is 10.0.0.0/24, and its hub 10.0.0.1
//! ```

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests of IO")]

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::house::{
    Binaries, Host, Lan, Net, Process, SPOKE_ON_LAN, ping_until, run, serve_names, spawn_spoke, start_hub,
};
use nix::sys::signal::Signal;

const SOON: Duration = Duration::from_secs(5);
const AT_ONCE: Duration = Duration::from_secs(1);
/// Long enough for a lost name server's look-ups to time out.
const LATER: Duration = Duration::from_secs(30);
const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// A name server behind the café's router.
const BEHIND: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 53);

struct World {
    laptop: Host,
    net: Net,
    binaries: Binaries,
}

impl World {
    /// `cafe`: the café's address with its prefix.
    fn new(cafe: &str) -> World {
        let net = Net::named(&["home", "cafe", "desktop"]).unwrap();
        let laptop = Host::new("laptop").unwrap();
        let path = laptop.namespace_path();
        for (i, device, address) in [(0, "eth0", "172.20.0.1/24"), (1, "wlan0", cafe)] {
            let router = net.spoke(i);
            router
                .ip(&format!(
                    "link add lan0 type veth peer name {device} netns {}\nlink set lan0 up\naddr add {address} dev lan0",
                    path.display()
                ))
                .unwrap();
            laptop.ip(&format!("link set {device} up")).unwrap();
            router.forward();
            router
                .nft("table ip nat {\nchain out {\ntype nat hook postrouting priority srcnat\noifname \"eth0\" masquerade\n}\n}\n")
                .unwrap();
        }
        net.spoke(1).ip(&format!("addr add {BEHIND}/32 dev lo\naddr add {ROUTER}/32 dev lo")).unwrap();
        let home = SocketAddr::from(([172, 20, 0, 1], 53));
        for (i, at) in [(0, home), (1, (ROUTER, 53).into()), (1, (BEHIND, 53).into())] {
            serve_names(net.spoke(i), at, "hub.example", vec![Net::hub_v4().into()]);
        }
        laptop.set_file("/etc/nsswitch.conf", "hosts: files dns\n").unwrap();
        World { laptop, net, binaries: Binaries::find().unwrap() }
    }

    fn start_hub(&self) -> Process {
        start_hub(&self.net, &self.binaries, &[]).unwrap()
    }

    fn start_spoke(&self, hub: &str) -> Process {
        let mut command = Command::new(&self.binaries.spoke);
        command.args(["--hub", hub, "--ip", "10.0.0.2"]);
        let spoke = self.laptop.spawn("laptop", &command).unwrap();
        spoke.wait_for_line(SPOKE_ON_LAN, LATER).unwrap();
        spoke
    }

    /// Another machine on the LAN, 10.0.0.4.
    fn start_desktop(&self) -> Process {
        let desktop = spawn_spoke(&self.net, &self.binaries, 2, &[]).unwrap();
        desktop.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
        desktop
    }

    fn name_server(&self, address: Ipv4Addr) {
        let text = format!("nameserver {address}\noptions timeout:1 attempts:1\n");
        self.laptop.set_file("/etc/resolv.conf", &text).unwrap();
    }

    fn go_home(&self) {
        let _ = self.laptop.ip("addr flush dev wlan0");
        self.laptop.ip("addr add 172.20.0.9/24 dev eth0\nroute add default via 172.20.0.1").unwrap();
        self.name_server(Ipv4Addr::new(172, 20, 0, 1));
    }

    fn go_to_cafe(&self, own: &str) {
        self.laptop.ip("addr flush dev eth0").unwrap();
        self.laptop
            .ip(&format!(
                "addr add {own} dev wlan0 metric 600\nroute add default via {ROUTER} dev wlan0 metric 600"
            ))
            .unwrap();
    }

    fn leaves_by(&self, what: &str) -> String {
        let mut command = Command::new("ip");
        command.args(["route", "get"]).args(what.split_ascii_whitespace());
        let text = run(&self.laptop, command).out;
        let mut words = text.split_ascii_whitespace().skip_while(|&word| word != "dev");
        words.nth(1).unwrap_or("nowhere").to_owned()
    }

    fn await_way(&self, what: &str, device: &str) {
        let end = Instant::now() + SOON;
        while self.leaves_by(what) != device {
            assert!(Instant::now() < end, "{what} leaves by {}\n{}", self.leaves_by(what), self.rules());
            // The kernel tells others of its routes, not this test.
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn rules(&self) -> String {
        let show = |arguments: &str| {
            let mut command = Command::new("ip");
            command.args(arguments.split_ascii_whitespace());
            run(&self.laptop, command).out
        };
        [show("rule show"), show("route show table all proto 178")].concat()
    }

    fn asks(&self, name_server: Ipv4Addr) -> bool {
        let socket = self.laptop.udp_bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        socket.set_read_timeout(Some(AT_ONCE)).unwrap();
        let question = b"\0\x01\x01\0\0\x01\0\0\0\0\0\0\x03hub\x07example\0\0\x01\0\x01";
        socket.send_to(question, (name_server, 53)).unwrap();
        socket.recv(&mut [0; 512]).is_ok()
    }
}

fn stop(spoke: &Process) {
    spoke.signal(Signal::SIGTERM).unwrap();
    assert!(spoke.wait_exit(SOON).unwrap().success());
}

#[test]
fn a_network_that_is_wider_than_the_lan_keeps_its_router_and_name_server() {
    for (cafe, own) in [("10.0.0.1/16", "10.0.3.57/16"), ("10.0.0.1/8", "10.9.3.57/8")] {
        let world = World::new(cafe);
        let hub = world.start_hub();
        let _desktop = world.start_desktop();
        world.go_to_cafe(own);
        world.name_server(ROUTER);
        let before = world.rules();
        let spoke = world.start_spoke("hub.example");
        let wide = cafe.replace("0.1/16", "0.0/16").replace("0.1/8", "0.0/8");
        let warning = spoke.wait_for_line("share addresses", SOON).unwrap();
        assert!(warning.contains(&format!("{wide}, the network of wlan0")), "{warning}");
        spoke
            .wait_for_line(
                "10.0.0.1, a router or name server of this machine's network, is reached there",
                SOON,
            )
            .unwrap();
        world.await_way("10.0.0.1", "wlan0");
        assert!(world.asks(ROUTER), "{}", world.rules());
        // The LAN is there, and connections from the LAN's own address stay in it.
        ping_until(&world.laptop, Lan::address(2).into(), SOON).unwrap();
        assert_eq!(world.leaves_by("10.0.0.1 from 10.0.0.2"), "spoke0");
        let mut status = Command::new(&world.binaries.spoke);
        status.arg("status");
        assert!(run(&world.laptop, status).good().contains("problem: 10.0.0.1, a router"));
        // The way to the hub is found again, by name.
        let mark = spoke.mark();
        hub.kill().unwrap();
        spoke.wait_for_line_after(mark, "lost the hub", SOON).unwrap();
        let _hub = world.start_hub();
        spoke.wait_for_line_after(mark, SPOKE_ON_LAN, LATER).unwrap();
        assert!(world.asks(ROUTER));
        stop(&spoke);
        assert_eq!(world.rules(), before, "what is left behind");
    }
}

#[test]
fn a_machine_that_roams_into_such_a_network_and_back_has_its_names_and_its_lan() {
    for (cafe, own) in
        [("10.0.0.1/16", "10.0.3.57/16"), ("10.0.0.1/26", "10.0.0.57/26"), ("10.0.0.1/24", "10.0.0.57/24")]
    {
        let world = World::new(cafe);
        let _hub = world.start_hub();
        world.go_home();
        let before = world.rules();
        let spoke = world.start_spoke("hub.example");
        ping_until(&world.laptop, ROUTER.into(), SOON).unwrap();
        assert_eq!(world.leaves_by("10.0.0.1"), "spoke0", "the hub itself");

        let mark = spoke.mark();
        world.go_to_cafe(own);
        spoke.wait_for_line_after(mark, "share addresses", SOON).unwrap();
        // As a DHCP client does that writes the file after the addresses are there.
        world.await_way("10.0.0.1", "wlan0");
        world.name_server(BEHIND);
        spoke.wait_for_line_after(mark, SPOKE_ON_LAN, LATER).unwrap();
        world.await_way("10.0.0.53", "wlan0");
        assert!(world.asks(ROUTER) && world.asks(BEHIND), "{}", world.rules());

        let mark = spoke.mark();
        world.go_home();
        spoke.wait_for_line_after(mark, SPOKE_ON_LAN, LATER).unwrap();
        ping_until(&world.laptop, ROUTER.into(), SOON).unwrap();
        assert_eq!(world.leaves_by("10.0.0.1"), "spoke0");
        stop(&spoke);
        assert_eq!(world.rules(), before, "what is left behind");
    }
}

#[test]
fn a_name_server_with_an_address_of_the_lan_is_asked_outside_while_there_is_no_link() {
    let world = World::new("10.9.9.1/24");
    // The provider's name server happens to have an address of the LAN's subnet.
    world.net.spoke(0).ip(&format!("addr add {BEHIND}/32 dev lo")).unwrap();
    serve_names(world.net.spoke(0), (BEHIND, 53), "hub.example", vec![Net::hub_v4().into()]);
    world.go_home();
    world.name_server(BEHIND);
    let hub = world.start_hub();
    let spoke = world.start_spoke("hub.example");
    world.await_way("10.0.0.53", "spoke0");
    // It may be a member's, and may be lost: once is enough to say so.
    let warning = "10.0.0.53, a name server of this machine, is an address of the LAN's 10.0.0.0/24";
    spoke.wait_for_line(warning, SOON).unwrap();
    let mark = spoke.mark();
    hub.kill().unwrap();
    spoke.wait_for_line_after(mark, "lost the hub", SOON).unwrap();
    world.await_way("10.0.0.53", "eth0");
    assert!(world.asks(BEHIND));
    // Someone else takes the rule and the route away.
    for change in ["rule del pref 32764", "route flush table all proto 178"] {
        let _ = world.laptop.ip(change);
        world.await_way("10.0.0.53", "eth0");
    }
    let _hub = world.start_hub();
    spoke.wait_for_line_after(mark, SPOKE_ON_LAN, LATER).unwrap();
    world.await_way("10.0.0.53", "spoke0");
    assert_eq!(spoke.lines().iter().filter(|line| line.contains(warning)).count(), 1);
    // One that is killed leaves nothing that its successor does not take away.
    spoke.kill().unwrap();
    let spoke = world.start_spoke(&Net::hub_v4().to_string());
    stop(&spoke);
    assert_eq!(world.rules().lines().count(), 3, "{}", world.rules());
}

#[test]
fn a_rule_or_route_of_someone_else_that_shuts_the_lan_is_told_and_left_alone() {
    let world = World::new("10.9.9.1/24");
    world.go_home();
    let _hub = world.start_hub();
    let spoke = world.start_spoke(&Net::hub_v4().to_string());
    let status = || {
        let mut status = Command::new(&world.binaries.spoke);
        status.arg("status");
        run(&world.laptop, status).good()
    };
    for (shut, open) in [
        ("route add blackhole 10.0.0.0/24 metric 1", "route del blackhole 10.0.0.0/24 metric 1"),
        ("rule add pref 100 to 10.0.0.0/24 prohibit", "rule del pref 100"),
        ("route add 10.0.0.1/32 via 172.20.0.1", "route del 10.0.0.1/32"),
    ] {
        let mark = spoke.mark();
        world.laptop.ip(shut).unwrap();
        spoke
            .wait_for_line_after(mark, "10.0.0.1, the hub on the LAN, is not reached through spoke0", SOON)
            .unwrap();
        assert!(status().contains("problem: 10.0.0.1, the hub on the LAN"), "{shut}");
        world.laptop.ip(open).unwrap();
        spoke
            .wait_for_line_after(mark, "nothing of this machine stands between it and the LAN", SOON)
            .unwrap();
        assert!(!status().contains("problem"), "{open}");
        ping_until(&world.laptop, ROUTER.into(), SOON).unwrap();
    }
}
