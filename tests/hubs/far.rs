//! Two hubs far from each other: a second connection beside their link.

use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::time::Duration;

use common::node::lane_status::LaneStatus;
use serde_json::Value;

use super::world::SOON;
use crate::house::line::{Emulator, Line, connect};
use crate::house::{
    Binaries, HUB_LISTENS, Host, Process, allow_cubic, await_true, is_missing, ping, place, run, transfer,
};

const LINE: Line = Line { round_trip: Duration::from_millis(40), megabits: 50.0, percent_lost: 1.0 };
const PINGS: u64 = 20;
/// A ping that takes longer is lost.
const PATIENCE: Duration = Duration::from_secs(2);
const A: usize = 0;
/// The one that has made the link.
const B: usize = 1;

/// Programs are dropped before the hosts that hold them.
struct Far {
    programs: Vec<Process>,
    _line: Emulator,
    hubs: [Host; 2],
    _path: Host,
    binaries: Binaries,
}

impl Far {
    fn new() -> Far {
        allow_cubic().unwrap();
        let [path, hub_a, hub_b] = ["path", "hub-a", "hub-b"].map(|name| Host::new(name).unwrap());
        let line = connect(&path, (&hub_a, "eth0"), (&hub_b, "eth0"), LINE).unwrap();
        hub_a.ip("addr add 192.0.2.1/24 dev eth0").unwrap();
        hub_b.ip("addr add 192.0.2.2/24 dev eth0").unwrap();
        let mut far = Far {
            programs: Vec::new(),
            _line: line,
            hubs: [hub_a, hub_b],
            _path: path,
            binaries: Binaries::find().unwrap(),
        };
        far.start(A, &["--subnet", "10.0.0.0/24"]);
        let mut invite = Command::new(&far.binaries.hub);
        invite.args(["invite", "hub-b", "--hub", "--host", "192.0.2.1", "--state"]);
        invite.arg(far.hubs[A].private().join("state"));
        let line = run(&far.hubs[A], invite).good();
        let words: Vec<&str> = line.trim().strip_prefix("hub ").unwrap().split(' ').collect();
        far.start(B, &words);
        let is_linked = |&hub: &usize| far.link(hub).is_object() && far.own(hub).is_some();
        await_true("a link, and an address of each", SOON, || [A, B].iter().all(is_linked));
        far
    }

    fn start(&mut self, hub: usize, words: &[&str]) {
        let host = &self.hubs[hub];
        let mut command = Command::new(&self.binaries.hub);
        command.args(words).arg("--state").arg(host.private().join("state"));
        let process = host.spawn(host.name(), &command).unwrap();
        process.wait_for_line(HUB_LISTENS, SOON).unwrap();
        self.programs.push(process);
    }

    fn status(&self, hub: usize) -> Value {
        let mut command = Command::new(&self.binaries.hub);
        command.args(["status", "--json", "--state"]).arg(self.hubs[hub].private().join("state"));
        serde_json::from_str(&run(&self.hubs[hub], command).good()).unwrap()
    }

    /// The link as a hub has it.
    fn link(&self, hub: usize) -> Value {
        let hubs = self.status(hub)["hubs"].take();
        let other = |hub: &&Value| hub["this"] == false;
        hubs.as_array().unwrap().iter().find(other).map_or(Value::Null, |hub| hub["link"].clone())
    }

    fn lanes(&self) -> [Option<LaneStatus>; 2] {
        [A, B].map(|hub| serde_json::from_value(self.link(hub)["lane"].take()).unwrap())
    }

    /// The address that a hub has alone, once it has its line of the list.
    fn own(&self, hub: usize) -> Option<IpAddr> {
        let status = self.status(hub);
        let members = status["members"].as_array().unwrap();
        let own = members.iter().find(|member| member["key"] == status["key"])?;
        Some(own["addresses"][0].as_str()?.parse().unwrap())
    }

    fn ping(&self) -> bool {
        ping(&self.hubs[B], self.own(A).unwrap(), 56, PATIENCE).is_ok()
    }

    /// The ports of the connections that the second hub has made.
    fn ports(&self) -> Vec<u16> {
        let mut command = Command::new("ss");
        command.args(["-tnH", "state", "established", "( dport = 5678 )"]);
        let said = String::from_utf8(self.hubs[B].output(command).unwrap().stdout).unwrap();
        let port = |line: &str| line.split_ascii_whitespace().nth(2)?.rsplit_once(':')?.1.parse().ok();
        said.lines().filter_map(port).collect()
    }
}

#[test]
fn what_sends_little_between_hubs_has_a_second_connection_where_packets_are_lost() {
    let _place = place();
    if is_missing("ethtool", "ethtool") {
        return;
    }
    let far = Far::new();
    let [link_port] = far.ports()[..] else { panic!("{:?}", far.ports()) };
    assert!(far.lanes().iter().all(Option::is_none), "nothing is lost yet: {:?}", far.lanes());
    let (at_a, at_b) = (far.own(A).unwrap(), far.own(B).unwrap());
    assert!(at_a != at_b && at_b != IpAddr::from(Ipv4Addr::new(10, 0, 0, 1)), "{at_a} {at_b}");
    let bulk = transfer(&far.hubs[A], &far.hubs[B], at_b, 40_000_000).unwrap();
    await_true("a lane", SOON, || far.lanes().iter().all(Option::is_some));
    // A flow that has begun on the link stays there until nothing of it is on the way.
    await_true("a ping by the lane", SOON, || {
        far.ping() && far.lanes()[B].as_ref().is_some_and(|lane| lane.sent.packets > 0)
    });
    let [_, Some(before)] = far.lanes() else { panic!("{:?}", far.lanes()) };
    (0..PINGS).for_each(|_| drop(ping(&far.hubs[B], at_a, 56, PATIENCE)));
    assert!(bulk.is_under_way(), "the pings had the link for themselves");
    let [Some(of_a), Some(of_b)] = far.lanes() else { panic!("{:?}", far.lanes()) };
    let went = of_b.sent.packets - before.sent.packets;
    assert!(went >= PINGS && of_a.received.packets >= went, "{went} of {PINGS} went by the lane: {of_a:?}");
    assert!(of_b.received.bytes < 500_000, "the large flow goes by the lane, too: {of_b:?}");

    // The lane is lost, and nobody says so: the link is not.
    let lane_port = far.ports().into_iter().find(|&port| port != link_port).unwrap();
    far.hubs[B]
        .nft(&format!(
            "table ip cut {{\n chain in {{ type filter hook input priority 0; tcp dport {lane_port} drop; }}\n \
             chain out {{ type filter hook output priority 0; tcp sport {lane_port} drop; }}\n}}\n"
        ))
        .unwrap();
    await_true("an answer by the link", SOON, || far.ping());
    await_true("the lane's end", SOON, || far.lanes().iter().all(Option::is_none));
    bulk.finish().unwrap();
    assert!(far.ports().contains(&link_port), "{:?}", far.ports());
    assert!(far.programs.iter().all(Process::is_running));
}
