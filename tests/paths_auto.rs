//! Several ways to one hub: which is tried when, what is told of each, and what is remembered.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests of IO")]

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::house::{
    Authority, Binaries, Lan, Net, Process, SPOKE_ON_LAN, Valid, ask_hub, ask_spoke, ping, state, transfer,
};

const SOON: Duration = Duration::from_secs(20);
const LAPTOP: usize = 0;
const OTHER: usize = 1;

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
        let net = Net::named(&["laptop", "other"]).unwrap();
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

/// Pings the hub's LAN address from the laptop, fifty times a second, until told to end: how many were sent, and lost.
fn ping_on(world: &World, is_over: &AtomicBool) -> (u32, u32) {
    let (mut sent, mut lost) = (0, 0);
    while !is_over.load(Ordering::Relaxed) {
        let start = Instant::now();
        let answer = ping(world.net.spoke(LAPTOP), Lan::hub_address().into(), 56, Duration::from_millis(500));
        lost += u32::from(answer.is_err());
        sent += 1;
        thread::sleep(Duration::from_millis(20).saturating_sub(start.elapsed()));
    }
    (sent, lost)
}

#[test]
fn a_better_way_is_taken_beside_the_link_and_nothing_is_interrupted() {
    let world = World::new();
    world.net.hub().nft(ONLY_TLS).unwrap();
    let spoke = world.spoke(&["hub.example.org", "wss://hub.example.org"]);
    let line = spoke.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
    assert!(line.ends_with("through 192.0.2.1:443"), "{line}");
    let mark = spoke.mark();
    world.net.hub().nft("delete table inet only\n").unwrap();
    let (laptop, hub) = (world.net.spoke(LAPTOP), world.net.hub());
    let is_over = AtomicBool::new(false);
    // As much as is under way for longer than it takes until a better way is tried.
    world.net.limit(LAPTOP, Some(20_000), Duration::from_millis(50)).unwrap();
    let bulk = transfer(hub, laptop, Lan::address(LAPTOP).into(), 100_000_000).unwrap();
    let (line, is_under_way, (sent, lost)) = thread::scope(|scope| {
        let pings = scope.spawn(|| ping_on(&world, &is_over));
        let line = spoke.wait_for_line_after(mark, SPOKE_ON_LAN, Duration::from_secs(60));
        let is_under_way = bulk.is_under_way();
        thread::sleep(Duration::from_secs(1));
        is_over.store(true, Ordering::Relaxed);
        (line, is_under_way, pings.join().unwrap())
    });
    let line = line.unwrap();
    assert!(line.ends_with("through 192.0.2.1:5678"), "{line}");
    assert!(is_under_way, "the transfer was over too early");
    // What waits for this spoke at the hub when it changes is lost: one ping at most, as each waits for the one before.
    assert!(sent > 100 && lost <= 1, "{lost} of {sent} lost");
    world.net.limit(LAPTOP, None, Duration::ZERO).unwrap();
    bulk.finish().unwrap();
    transfer(laptop, hub, Lan::hub_address().into(), 10_000_000).unwrap().finish().unwrap();
    let lines = spoke.lines();
    assert!(!lines[mark..].iter().any(|line| line.contains("lost the hub")), "{lines:#?}");
    assert_eq!(world.ways()[0], "way hub.example.org:5678: in use");
    let members = ask_hub(&world.net, &["status"]).good();
    assert!(members.contains("1 of 1 members online"), "{members}");
    // What was learned about the network is remembered.
    let known = std::fs::read_to_string(state(laptop, "spoke").join("ways")).unwrap();
    assert!(known.contains("hub.example.org:5678") && !known.contains("wss"), "{known}");
}

#[test]
fn a_better_way_that_leads_to_another_hub_is_not_taken() {
    let world = World::new();
    let wrong = format!("{}:5678", Net::spoke_v4(OTHER));
    let spoke = world.spoke(&[&wrong, "wss://hub.example.org"]);
    let line = spoke.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
    assert!(line.ends_with("through 192.0.2.1:443"), "{line}");
    let mark = spoke.mark();
    let host = world.net.spoke(OTHER);
    let mut command = Command::new(&world.binaries.hub);
    command.args(["--subnet", "10.0.0.0/24", "--state"]).arg(host.private().join("hub"));
    let _other = host.spawn("other", &command).unwrap();
    let line = spoke.wait_for_line_after(mark, "has key", Duration::from_secs(100)).unwrap();
    assert!(line.contains(&wrong), "{line}");
    ping(world.net.spoke(LAPTOP), Lan::hub_address().into(), 1_400, SOON).unwrap();
    assert!(world.ways()[1].ends_with("in use"), "{:?}", world.ways());
    let lines = spoke.lines();
    assert!(!lines[mark..].iter().any(|line| line.contains(SPOKE_ON_LAN)), "{lines:#?}");
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
