//! Several ways to one hub: which is tried when, what is told of each, and what is remembered.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests of IO")]

#[path = "house/mod.rs"]
mod house;

use std::process::Command;
use std::time::{Duration, Instant};

use house::{Authority, Binaries, Lan, Net, Process, SPOKE_ON_LAN, Valid, ask_spoke, ping};

const SOON: Duration = Duration::from_secs(20);
const LAPTOP: usize = 0;

/// Only TCP to port 443 passes, and of that only TLS: a first payload that does not begin with a handshake is dropped.
const ONLY_TLS: &str = "\
table inet only
delete table inet only
table inet only {
    chain input {
        type filter hook input priority 0
        ip saddr 192.0.2.10 tcp dport != 443 drop
        ip saddr 192.0.2.10 tcp dport 443 @ih,0,56 0x6875622673706b drop
    }
}
";

struct World {
    _hub: Process,
    net: Net,
    binaries: Binaries,
    authority: Authority,
}

impl World {
    fn new() -> World {
        let net = Net::named(&["laptop"]).unwrap();
        let (binaries, authority) = (Binaries::find().unwrap(), Authority::new().unwrap());
        let hub = authority.start_hub(&net, &binaries, "DNS:hub.example.org", Valid::Now).unwrap();
        net.name_hub(LAPTOP, "hub.example.org").unwrap();
        World { _hub: hub, net, binaries, authority }
    }

    fn spoke(&self, hubs: &[&str]) -> Process {
        let host = self.net.spoke(LAPTOP);
        let mut command = Command::new(&self.binaries.spoke);
        command.args(["--ip", "10.0.0.2", "--state"]).arg(host.private().join("spoke"));
        command.arg("--tls-ca").arg(self.authority.path("ca.pem"));
        command.args(hubs.iter().flat_map(|hub| ["--hub", hub]));
        host.spawn(host.name(), &command).unwrap()
    }

    fn ways(&self) -> Vec<String> {
        let status = ask_spoke(&self.net, LAPTOP, &["status"]).good();
        status.lines().filter(|line| line.starts_with("way ")).map(str::to_owned).collect()
    }
}

#[test]
fn where_only_tls_passes_auto_finds_it_and_begins_with_it_the_next_time() {
    let world = World::new();
    world.net.hub().nft(ONLY_TLS).unwrap();
    let spoke = world.spoke(&["auto://hub.example.org"]);
    let start = Instant::now();
    spoke
        .wait_for_line("cannot reach hub.example.org:5678: no answer: is the port open on the way?", SOON)
        .unwrap();
    spoke.wait_for_line("cannot join through hub.example.org:443: ", SOON).unwrap();
    let line = spoke.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    assert!(line.ends_with("through 192.0.2.1:443"), "{line}");
    ping(world.net.spoke(LAPTOP), Lan::hub_address().into(), 1_400, SOON).unwrap();
    let ways = world.ways();
    assert_eq!(ways.len(), 4, "{ways:?}");
    assert!(ways[0].starts_with("way hub.example.org:5678: cannot reach"), "{ways:?}");
    assert!(ways[1].starts_with("way hub.example.org:443: cannot join"), "{ways:?}");
    assert_eq!(ways[2], "way wss://hub.example.org:443: in use");
    assert_eq!(ways[3], "way icmp://hub.example.org: not tried since it worked, or at all");
    spoke.kill().unwrap();
    let again = world.spoke(&["auto://hub.example.org"]);
    let start = Instant::now();
    again.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    assert!(!again.lines().iter().any(|line| line.contains("cannot")), "{:#?}", again.lines());
}

#[test]
fn several_hubs_are_tried_in_order_and_told_of_once() {
    let world = World::new();
    let spoke = world.spoke(&["192.0.2.1:1", "ws://192.0.2.1:2", "192.0.2.1:3"]);
    for port in 1..=3 {
        spoke
            .wait_for_line(&format!("192.0.2.1:{port}: nothing listens there: is the hub running?"), SOON)
            .unwrap();
    }
    spoke
        .wait_for_line("none of the 3 ways to the hub works (`spoke status` lists them); trying", SOON)
        .unwrap();
    spoke
        .wait_for_line(
            "none of the 3 ways to the hub works (`spoke status` lists them) (tried 10 times)",
            3 * SOON,
        )
        .unwrap();
    let told = spoke.lines().iter().filter(|line| line.contains("nothing listens there")).count();
    assert_eq!(told, 3, "{:#?}", spoke.lines());
    assert!(world.ways().iter().all(|way| way.contains("nothing listens there")), "{:?}", world.ways());
    spoke.kill().unwrap();
    let spoke = world.spoke(&["192.0.2.1:1", "ws://192.0.2.1:5678", "192.0.2.1:3"]);
    spoke.wait_for_line("cannot reach 192.0.2.1:1", SOON).unwrap();
    spoke.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
    assert_eq!(world.ways()[1], "way ws://192.0.2.1:5678: in use");
}
