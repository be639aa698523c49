//! A LAN over a long line: what the programs make of it.

#![allow(clippy::disallowed_methods, clippy::print_stdout, clippy::unwrap_used, reason = "tests of IO")]

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use common::node::lane_status::LaneStatus;

use crate::house::line::{Emulator, Line, connect};
use crate::house::{
    Binaries, HUB_LISTENS, Host, Process, SPOKE_ON_LAN, Transfer, allow_cubic, await_true, is_missing,
    long_or, ping, place, transfer,
};

const SOON: Duration = Duration::from_secs(20);
const ROUND_TRIP: Duration = Duration::from_millis(40);
const PINGS: u64 = 20;
/// A ping that takes longer is lost.
const PATIENCE: Duration = Duration::from_secs(2);

/// A hub, and a spoke far from it. Programs are dropped before the hosts that hold them.
struct Far {
    hub_program: Process,
    spoke_program: Process,
    _line: Emulator,
    hub: Host,
    spoke: Host,
    _path: Host,
}

impl Far {
    fn new(line: Line, options: &[&str]) -> Far {
        Far::with(line, options, &[])
    }

    /// With options of both, and others of the spoke alone.
    fn with(line: Line, options: &[&str], of_spoke: &[&str]) -> Far {
        allow_cubic().unwrap();
        let [path, hub, spoke] = ["path", "hub", "spoke"].map(|name| Host::new(name).unwrap());
        let emulator = connect(&path, (&spoke, "eth0"), (&hub, "eth0"), line).unwrap();
        hub.ip("addr add 192.0.2.1/24 dev eth0").unwrap();
        spoke.ip("addr add 192.0.2.2/24 dev eth0").unwrap();
        let binaries = Binaries::find().unwrap();
        let start = |host: &Host, program, arguments: &[&str]| {
            let mut command = Command::new(program);
            command.args(arguments).args(options).arg("--state").arg(host.private().join("state"));
            host.spawn(host.name(), &command).unwrap()
        };
        let hub_program = start(&hub, &binaries.hub, &["--subnet", "10.0.0.0/24"]);
        hub_program.wait_for_line(HUB_LISTENS, SOON).unwrap();
        let arguments = [&["--hub", "192.0.2.1", "--ip", "10.0.0.2"], of_spoke].concat();
        let spoke_program = start(&spoke, &binaries.spoke, &arguments);
        spoke_program.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
        Far { hub_program, spoke_program, _line: emulator, hub, spoke, _path: path }
    }

    /// What ss(8) says about the link, at the hub and at the spoke.
    fn links(&self) -> [String; 2] {
        [(&self.hub, "sport"), (&self.spoke, "dport")].map(|(host, port)| {
            let mut command = Command::new("ss");
            command.args(["-tinH", "state", "established", &format!("( {port} = 5678 )")]);
            let output = host.output(command).unwrap();
            String::from_utf8(output.stdout).unwrap()
        })
    }

    /// What the spoke says about its lane, and the hub.
    fn lanes(&self) -> [Option<LaneStatus>; 2] {
        let ask = |host: &Host, program: &PathBuf| {
            let mut command = Command::new(program);
            command.args(["status", "--json", "--state"]).arg(host.private().join("state"));
            let output = host.output(command).unwrap();
            let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            status
        };
        let binaries = Binaries::find().unwrap();
        let of_spoke = ask(&self.spoke, &binaries.spoke)["link"]["lane"].take();
        let of_hub = ask(&self.hub, &binaries.hub)["members"][0]["link"]["lane"].take();
        [of_spoke, of_hub].map(|lane| serde_json::from_value(lane).unwrap())
    }

    /// What the spoke's kernel calls its end of the lane: the younger one of the two connections.
    fn lane_port(&self, of_link: u16) -> u16 {
        ports(&self.links()[1]).into_iter().find(|&port| port != of_link).unwrap()
    }

    /// Has nothing pass any more between the hub and this port of the spoke.
    fn cut(&self, port: u16) {
        let rules = format!(
            "table ip cut {{\n chain in {{ type filter hook input priority 0; tcp dport {port} drop; }}\n \
             chain out {{ type filter hook output priority 0; tcp sport {port} drop; }}\n}}\n"
        );
        self.spoke.nft(&rules).unwrap();
    }

    /// Resets all connections between the hub and the spoke, and waits until the spoke is back.
    fn reset(&self) {
        let mark = self.spoke_program.mark();
        let answer = "reject with tcp reset";
        let rules = format!(
            "table ip resets {{\n chain out {{ type filter hook output priority 0; tcp dport 5678 {answer}; }}\n}}\n"
        );
        self.spoke.nft(&rules).unwrap();
        self.spoke_program.wait_for_line_after(mark, "lost the hub", SOON).unwrap();
        self.spoke.nft("delete table ip resets\n").unwrap();
        self.spoke_program.wait_for_line_after(mark, SPOKE_ON_LAN, SOON).unwrap();
    }

    fn address_of_hub(&self) -> IpAddr {
        [10, 0, 0, 1].into()
    }

    fn address_of_spoke(&self) -> IpAddr {
        [10, 0, 0, 2].into()
    }

    /// Sends this much each way.
    fn send(&self, bytes: u64) {
        let far = transfer(&self.hub, &self.spoke, self.address_of_spoke(), bytes).unwrap();
        far.finish().unwrap();
        let near = transfer(&self.spoke, &self.hub, self.address_of_hub(), bytes).unwrap();
        near.finish().unwrap();
    }
}

/// The spoke's ports, in what [`Far::links`] tells of it.
fn ports(links: &str) -> Vec<u16> {
    let port = |line: &str| {
        let local = line.split_ascii_whitespace().find(|word| word.contains(':'))?;
        local.rsplit_once(':')?.1.parse().ok()
    };
    links.lines().filter(|line| !line.starts_with(char::is_whitespace)).filter_map(port).collect()
}

#[test]
fn losses_that_are_no_congestion_are_borne() {
    let _place = place();
    if is_missing("ethtool", "ethtool") {
        return;
    }
    let line = Line { round_trip: ROUND_TRIP, megabits: 50.0, percent_lost: 1.0 };
    let far = Far::new(line, &[]);
    far.send(3_000_000);
    for (link, who) in far.links().iter().zip(["hub", "spoke"]) {
        assert!(link.contains(" bbr "), "{who}: {link}");
    }
    assert!(far.hub_program.is_running() && far.spoke_program.is_running());
    drop(far);
    // Unless the person has chosen.
    let far = Far::new(line, &["--congestion", "cubic"]);
    far.send(300_000);
    assert!(far.links().iter().all(|link| link.contains(" cubic ")), "{:?}", far.links());
}

#[test]
fn what_sends_little_has_a_second_connection_where_packets_are_lost() {
    let _place = place();
    if is_missing("ethtool", "ethtool") {
        return;
    }
    let line = Line { round_trip: ROUND_TRIP, megabits: 50.0, percent_lost: 1.0 };
    let far = Far::new(line, &[]);
    let link_port = ports(&far.links()[1])[0];
    assert!(far.lanes().iter().all(Option::is_none), "nothing is lost yet: {:?}", far.lanes());
    let bulk = transfer(&far.hub, &far.spoke, far.address_of_spoke(), 40_000_000).unwrap();
    far.spoke_program.wait_for_line("has a second connection", SOON).unwrap();
    let reached = |what: &str| {
        await_true(what, SOON, || ping(&far.spoke, far.address_of_hub(), 56, PATIENCE).is_ok());
    };
    // A flow that has begun on the link stays there until nothing of it is on the way.
    await_true("a ping by the lane", SOON, || {
        let answered = ping(&far.spoke, far.address_of_hub(), 56, PATIENCE).is_ok();
        answered && far.lanes()[0].as_ref().is_some_and(|lane| lane.sent.packets > 0)
    });
    let [Some(before), _] = far.lanes() else { panic!("{:?}", far.lanes()) };
    (0..PINGS).for_each(|_| drop(ping(&far.spoke, far.address_of_hub(), 56, PATIENCE)));
    assert!(bulk.is_under_way(), "the pings had the link for themselves");
    let [Some(spoke), Some(hub)] = far.lanes() else { panic!("{:?}", far.lanes()) };
    let went = spoke.sent.packets - before.sent.packets;
    assert!(went >= PINGS && hub.received.packets >= went, "{went} of {PINGS} went by the lane: {hub:?}");
    assert!(spoke.received.bytes < 500_000, "the large flow goes by the lane, too: {spoke:?}");

    // The lane is lost, and nobody says so: the link is not.
    far.cut(far.lane_port(link_port));
    reached("an answer by the link");
    await_true("the lane's end", SOON, || far.lanes().iter().all(Option::is_none));
    bulk.finish().unwrap();
    assert!(ports(&far.links()[1]).contains(&link_port), "{:?}", far.links());
    drop(far);
    // Unless the person has chosen.
    let far = Far::with(line, &[], &["--lanes", "1"]);
    far.send(3_000_000);
    assert!(far.lanes().iter().all(Option::is_none), "{:?}", far.lanes());
}

/// Acknowledgements behind a lost segment arrive together: the sender's kernel gets the last of them.
#[test]
fn of_acknowledgements_that_arrive_together_one_is_passed_on() {
    let _place = place();
    if is_missing("ethtool", "ethtool") {
        return;
    }
    let far = Far::new(Line { round_trip: ROUND_TRIP, megabits: 50.0, percent_lost: 2.0 }, &[]);
    let packets = |host: &Host, device: &str, which: &str| {
        let mut command = Command::new("ip");
        command.args(["-statistics", "-json", "link", "show", "dev", device]);
        let links: serde_json::Value = serde_json::from_slice(&host.output(command).unwrap().stdout).unwrap();
        links[0]["stats64"][which]["packets"].as_u64().unwrap()
    };
    for (from, to, address, devices) in [
        (&far.spoke, &far.hub, far.address_of_hub(), ["spoke0", "hub0"]),
        (&far.hub, &far.spoke, far.address_of_spoke(), ["hub0", "spoke0"]),
    ] {
        let count = || [packets(to, devices[1], "tx"), packets(from, devices[0], "rx")];
        let before = count();
        transfer(from, to, address, 5_000_000).unwrap().finish().unwrap();
        let after = count();
        let [sent, passed_on] = [after[0] - before[0], after[1] - before[1]];
        println!("{}: {sent} acknowledgements, {passed_on} passed on", devices[1]);
        assert!(passed_on * 10 < sent * 9, "{passed_on} of {sent}");
    }
}

/// `SOAK=1`: for ten minutes, with a reset each half of one.
#[test]
fn ten_flows_and_pings_cross_a_line_that_loses_one_frame_in_fifty_and_is_reset() {
    let _place = place();
    if is_missing("ethtool", "ethtool") {
        return;
    }
    let line = Line { round_trip: ROUND_TRIP, megabits: 50.0, percent_lost: 2.0 };
    let far = Far::new(line, &[]);
    let (lasts, bytes) = (long_or(Duration::from_secs(600), Duration::ZERO), long_or(20_000_000, 300_000));
    let reset_every = long_or(Duration::from_secs(30), Duration::from_millis(300));
    let (start, mut rounds, mut slowest) = (Instant::now(), 0, Duration::ZERO);
    let (mut resets, mut reset_at) = (0, start + reset_every);
    let (mut pings, mut lost, mut waited) = (0, 0, Duration::ZERO);
    while rounds == 0 || start.elapsed() < lasts {
        let flow = |i| match i % 2 {
            0 => transfer(&far.hub, &far.spoke, far.address_of_spoke(), bytes),
            _ => transfer(&far.spoke, &far.hub, far.address_of_hub(), bytes),
        };
        let flows: Vec<Transfer> = (0..10).map(|i| flow(i).unwrap()).collect();
        while flows.iter().any(Transfer::is_under_way) {
            if Instant::now() >= reset_at && (resets == 0 || start.elapsed() < lasts) {
                far.reset();
                (resets, reset_at) = (resets + 1, Instant::now() + reset_every);
            }
            pings += 1;
            match ping(&far.spoke, far.address_of_hub(), 56, PATIENCE) {
                Ok(trip) => (waited, slowest) = (waited + trip, slowest.max(trip)),
                Err(_) => lost += 1,
            }
        }
        for flow in flows {
            flow.finish().unwrap();
        }
        rounds += 1;
    }
    println!(
        "{rounds} times ten flows of {bytes} bytes each in {:.1?}, equal SHA-256, {resets} resets; {lost} of {pings} pings \
         lost, {:.1?} as a rule, {slowest:.1?} at most",
        start.elapsed(),
        waited / (pings - lost).max(1),
    );
    assert!(resets > 0, "all was over before the line was reset");
    // The line itself loses four in a hundred both ways; the link repeats what is lost.
    assert!(lost * 100 <= pings.max(100), "{lost} of {pings} pings were lost");
    let joined = |program: &Process, line| program.lines().iter().filter(|said| said.contains(line)).count();
    assert_eq!(
        joined(&far.spoke_program, SPOKE_ON_LAN),
        1 + resets,
        "the link was lost otherwise: {:?}",
        far.spoke_program.lines()
    );
    assert!(far.hub_program.is_running() && far.spoke_program.is_running());
}

#[test]
fn an_unknown_congestion_control_is_refused_with_those_that_there_are() {
    let _place = place();
    let host = Host::new("host").unwrap();
    let binaries = Binaries::find().unwrap();
    for (program, arguments) in
        [(&binaries.hub, &["--subnet", "10.0.0.0/24"][..]), (&binaries.spoke, &["--hub", "192.0.2.1"][..])]
    {
        let mut command = Command::new(program);
        command.args(arguments).args(["--congestion", "hopeful"]);
        command.arg("--state").arg(host.private().join("state"));
        let refused = host.spawn("refused", &command).unwrap();
        refused.wait_for_line("the congestion control hopeful cannot be used here", SOON).unwrap();
        refused.wait_for_line("cubic", SOON).unwrap();
        assert!(!refused.wait_exit(SOON).unwrap().success());
    }
}
