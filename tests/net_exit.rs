//! The hub as a way out, and the spoke's own connection outside of it.
//!
//! ```text
//!   mobile ── wlan0 ── spoke0 ──┐
//!          ── wlan1 ── spoke1 ──┴── switch ── hub ── out0 ── web      both spokes' hosts are mere routers here
//! ```

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests of IO")]

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::house::{Binaries, Host, Lan, Net, Process, SPOKE_ON_LAN, ping, ping_until, start_hub, transfer};
use nix::sys::signal::Signal;

const SOON: Duration = Duration::from_secs(5);
/// A link that is silent is given up after 10 s, and the first pause is at most 0.2 s.
const RECONNECTED: Duration = Duration::from_secs(12);
const WEB: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 20);
const EVERYTHING: [&str; 4] = ["--accept-route", "0.0.0.0/0", "--accept-route", "::/0"];

/// What docs/routes.md says about masquerading.
const MASQUERADE: &str = "\
add table ip lan
add chain ip lan exit { type nat hook postrouting priority srcnat; }
add rule ip lan exit ip saddr 10.0.0.0/24 oifname != \"hub0\" masquerade
";

struct World {
    web: Host,
    mobile: Host,
    net: Net,
    binaries: Binaries,
}

impl World {
    fn new() -> World {
        let net = Net::new(2).unwrap();
        let (web, mobile) = (Host::new("web").unwrap(), Host::new("mobile").unwrap());
        net.hub()
            .ip(&format!(
                "link add out0 type veth peer name eth0 netns {}\n\
                 addr add 198.51.100.1/24 dev out0\naddr add 2001:db8:1::1/64 dev out0 nodad\nlink set out0 up",
                web.namespace_path().display()
            ))
            .unwrap();
        // No way back to the LAN by IPv4: it must be masqueraded.
        web.ip("addr add 198.51.100.20/24 dev eth0\naddr add 2001:db8:1::20/64 dev eth0 nodad\n\
                link set eth0 up\nroute add fd00::/64 via 2001:db8:1::1")
            .unwrap();
        for i in 0..2 {
            let router = net.spoke(i);
            let namespace = mobile.namespace_path();
            router
                .ip(&format!(
                    "link add lan0 type veth peer name wlan{i} netns {}\n\
                     addr add 172.20.{i}.1/24 dev lan0\nlink set lan0 up",
                    namespace.display()
                ))
                .unwrap();
            mobile.ip(&format!("addr add 172.20.{i}.9/24 dev wlan{i}\nlink set wlan{i} up")).unwrap();
            net.hub().ip(&format!("route add 172.20.{i}.0/24 via {}", Net::spoke_v4(i))).unwrap();
            router.forward();
        }
        net.hub().forward();
        mobile.ip("route add default via 172.20.0.1").unwrap();
        ping_until(net.hub(), WEB.into(), SOON).unwrap();
        ping_until(&mobile, Net::hub_v4().into(), SOON).unwrap();
        ping_until(&mobile, Ipv4Addr::new(172, 20, 1, 1).into(), SOON).unwrap();
        World { web, mobile, net, binaries: Binaries::find().unwrap() }
    }

    fn start_hub(&self, options: &[&str]) -> Process {
        let hub = start_hub(&self.net, &self.binaries, options).unwrap();
        let rules = self.net.hub().path(self.net.hub().private().join("masquerade"));
        std::fs::write(&rules, MASQUERADE).unwrap();
        let mut command = Command::new("nft");
        command.arg("-f").arg(self.net.hub().private().join("masquerade"));
        self.net.hub().output(command).unwrap();
        hub
    }

    fn start_spoke(&self, options: &[&str]) -> Process {
        let mut command = Command::new(&self.binaries.spoke);
        command.args(["--hub", &Net::hub_v4().to_string(), "--ip", "10.0.0.2"]).args(options);
        self.mobile.spawn("spoke", &command).unwrap()
    }

    fn rules(&self) -> String {
        ["-4", "-6"].map(|family| ip(&self.mobile, &format!("{family} rule show"))).concat()
    }
}

fn ip(host: &Host, arguments: &str) -> String {
    let mut command = Command::new("ip");
    command.args(arguments.split_ascii_whitespace());
    String::from_utf8(host.output(command).unwrap().stdout).unwrap()
}

/// Bytes that a host has sent through a device.
fn sent(host: &Host, device: &str) -> u64 {
    let text = host.run(|| std::fs::read_to_string("/proc/thread-self/net/dev")).unwrap();
    let line = text.lines().find_map(|line| line.trim().strip_prefix(device)?.strip_prefix(':')).unwrap();
    line.split_ascii_whitespace().nth(8).unwrap().parse().unwrap()
}

/// Sends a few bytes through a connection and gets them back at its other end, both ways.
fn exchange(ends: &mut [TcpStream; 2]) {
    for (from, to) in [(0, 1), (1, 0)] {
        ends[from].write_all(b"still here").unwrap();
        let mut bytes = [0; 10];
        ends[to].set_read_timeout(Some(Duration::from_secs(40))).unwrap();
        ends[to].read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"still here");
    }
}

#[test]
fn the_way_out_and_the_tunnel_survive_changes_of_the_network_outside() {
    let world = World::new();
    let _hub = world.start_hub(&["--route", "0.0.0.0/0"]);
    let spoke = world.start_spoke(&EVERYTHING);
    spoke.wait_for_line("route 0.0.0.0/0 installed", SOON).unwrap();
    ping_until(&world.mobile, WEB.into(), SOON).unwrap();

    let listener = world.web.tcp_listen((WEB, 0)).unwrap();
    let outgoing = world.mobile.tcp_connect(listener.local_addr().unwrap(), SOON).unwrap();
    let (incoming, source) = listener.accept().unwrap();
    assert_eq!(source.ip(), IpAddr::from([198, 51, 100, 1]), "masqueraded");
    assert_eq!(outgoing.local_addr().unwrap().ip(), IpAddr::from([10, 0, 0, 2]), "through the LAN");
    let mut ends = [outgoing, incoming];
    exchange(&mut ends);

    // Another default route: the connection stays or is made anew, and everything goes on.
    world.mobile.ip("route replace default via 172.20.1.1").unwrap();
    exchange(&mut ends);
    // The address that the tunnel was made from is gone.
    let changes = [
        "addr del 172.20.0.9/24 dev wlan0\nlink set wlan0 down",
        // A new lease, with another address.
        "addr del 172.20.1.9/24 dev wlan1\naddr add 172.20.1.77/24 dev wlan1\nroute replace default via 172.20.1.1",
    ];
    for change in changes {
        let mark = spoke.mark();
        let start = Instant::now();
        world.mobile.ip(change).unwrap();
        spoke.wait_for_line_after(mark, SPOKE_ON_LAN, RECONNECTED).unwrap();
        spoke.wait_for_line_after(mark, "route 0.0.0.0/0 installed", SOON).unwrap();
        println!("back on the LAN {:?} after {change:?}", start.elapsed());
        exchange(&mut ends);
        ping(&world.mobile, WEB.into(), 56, SOON).unwrap();
    }

    // It leaves nothing behind.
    spoke.signal(Signal::SIGTERM).unwrap();
    assert!(spoke.wait_exit(SOON).unwrap().success());
    let rules = world.rules();
    assert!(rules.lines().count() == 5, "{rules}");
    ping(&world.mobile, Net::hub_v4().into(), 56, SOON).unwrap();
    ping(&world.mobile, WEB.into(), 56, Duration::from_millis(200)).unwrap_err();
}

#[test]
fn a_way_out_by_ipv6_leads_through_a_tunnel_by_ipv4() {
    let world = World::new();
    assert!(
        world.net.ipv6(),
        "this machine has no IPv6 (/proc/sys/net/ipv6 is missing): it can't be tested here"
    );
    let _hub = world.start_hub(&["--subnet", "fd00::/64", "--route", "::/0"]);
    // A default route of the machine's own that would stand in the way of another one.
    world.mobile.ip("route add ::/0 dev wlan1").unwrap();
    let spoke = world.start_spoke(&EVERYTHING);
    spoke.wait_for_line("route ::/0 installed", SOON).unwrap();
    ping_until(&world.mobile, "2001:db8:1::20".parse().unwrap(), SOON).unwrap();
    transfer(&world.mobile, &world.web, "2001:db8:1::20".parse().unwrap(), 1_000_000)
        .unwrap()
        .finish()
        .unwrap();
    assert!(ip(&world.mobile, "-6 route show default").contains("wlan1"), "the machine's own stays");
}

#[test]
fn a_way_out_is_taken_only_by_who_wants_it() {
    let world = World::new();
    let _hub = world.start_hub(&["--route", "0.0.0.0/0"]);
    let spoke = world.start_spoke(&[]);
    spoke
        .wait_for_line("route 0.0.0.0/0 is rejected: it is not private: take it with --accept-route", SOON)
        .unwrap();
    assert_eq!(world.rules().lines().count(), 5, "{}", world.rules());
}

#[test]
fn a_route_over_the_hubs_own_address_makes_no_loop() {
    let world = World::new();
    let _hub =
        world.start_hub(&["--route", "0.0.0.0/0", "--route", "192.0.0.0/16", "--route", "192.0.2.1/32"]);
    let spoke = world.start_spoke(&EVERYTHING);
    for prefix in ["0.0.0.0/0", "192.0.0.0/16", "192.0.2.1/32"] {
        spoke.wait_for_line(&format!("route {prefix} installed"), SOON).unwrap();
    }
    spoke.wait_for_line("route 192.0.2.1/32 holds the hub itself: the tunnel goes around it", SOON).unwrap();
    ping_until(&world.mobile, WEB.into(), SOON).unwrap();
    let before = sent(&world.mobile, "wlan0");
    const BYTES: u64 = 2_000_000;
    transfer(&world.mobile, &world.web, WEB.into(), BYTES).unwrap().finish().unwrap();
    ping(&world.mobile, WEB.into(), 20_000, SOON).unwrap();
    let outer = sent(&world.mobile, "wlan0") - before;
    assert!((BYTES..BYTES + BYTES / 5).contains(&outer), "{outer} bytes outside for {BYTES} inside");
}

#[test]
fn rules_of_a_killed_spoke_are_taken_away_by_the_next() {
    let world = World::new();
    let _hub = world.start_hub(&["--route", "0.0.0.0/0"]);
    let spoke = world.start_spoke(&EVERYTHING);
    spoke.wait_for_line("route 0.0.0.0/0 installed", SOON).unwrap();
    let fresh = world.rules();
    spoke.kill().unwrap();
    assert_eq!(world.rules(), fresh, "nobody was there to take them away");
    // They harm nothing: the table that they lead to went with the device.
    ping(&world.mobile, Net::hub_v4().into(), 56, SOON).unwrap();

    let spoke = world.start_spoke(&EVERYTHING);
    spoke.wait_for_line("route 0.0.0.0/0 installed", SOON).unwrap();
    ping_until(&world.mobile, WEB.into(), SOON).unwrap();
    assert_eq!(world.rules().lines().count(), fresh.lines().count(), "{}", world.rules());
    spoke.kill().unwrap();
    // The next one does not even want the route.
    let spoke = world.start_spoke(&[]);
    spoke.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
    assert_eq!(world.rules().lines().count(), 5, "{}", world.rules());
    ping_until(&world.mobile, Lan::hub_address().into(), SOON).unwrap();
}
