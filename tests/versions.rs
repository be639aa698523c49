//! A LAN of two versions: programs of another version beside today's, and one taking the other's place.
//!
//! `OLD=DIRECTORY cargo test -p hub --test e2e versions -- --ignored --nocapture`, with the `hub` and `spoke` of the other
//! version in that directory.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests of IO")]

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::house::{
    Binaries, Host, Lan, Net, Process, SPOKE_ON_LAN, ask_hub, ask_spoke, make_state, ping, ping_until, run,
    spawn_spoke, start_hub, state, transfer,
};

const SOON: Duration = Duration::from_secs(15);
const BYTES: u64 = 30_000_000;

struct World {
    net: Net,
    old: Binaries,
    new: Binaries,
}

impl World {
    fn new() -> World {
        let directory =
            PathBuf::from(std::env::var_os("OLD").expect("OLD names the directory of another version"));
        let directory = directory.canonicalize().unwrap();
        let old = Binaries { hub: directory.join("hub"), spoke: directory.join("spoke") };
        World { net: Net::new(2).unwrap(), old, new: Binaries::find().unwrap() }
    }

    /// A spoke of each version: 0 is of the old one.
    fn spokes(&self) -> [Process; 2] {
        [(0, &self.old), (1, &self.new)].map(|(i, binaries)| {
            let spoke = spawn_spoke(&self.net, binaries, i, &[]).unwrap();
            spoke.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
            spoke
        })
    }

    /// All reach each other, and bytes come through whole in each direction.
    fn works(&self, programs: &[&Process]) {
        let (first, second) = (self.net.spoke(0), self.net.spoke(1));
        let addresses = [Lan::address(0), Lan::address(1), Lan::hub_address()];
        for host in [first, second, self.net.hub()] {
            for address in addresses {
                ping(host, address.into(), 1_400, SOON).unwrap();
            }
        }
        transfer(first, second, addresses[1].into(), BYTES).unwrap().finish().unwrap();
        transfer(second, first, addresses[0].into(), BYTES).unwrap().finish().unwrap();
        for program in programs {
            let lines = program.lines();
            let is_bad = |line: &&String| {
                let is_about_the_lan = line.contains("open: anyone who reaches");
                ["ERROR", "WARN", "lost the hub"].iter().any(|bad| line.contains(bad)) && !is_about_the_lan
            };
            assert_eq!(lines.iter().find(is_bad), None, "{lines:#?}");
        }
    }
}

#[test]
#[ignore = "needs the programs of another version: OLD=DIRECTORY"]
fn an_old_hub_serves_both_and_a_new_one_takes_its_place() {
    let world = World::new();
    let hub = start_hub(&world.net, &world.old, &[]).unwrap();
    let mut spokes = world.spokes();
    world.works(&[&hub, &spokes[0], &spokes[1]]);

    // The hub is upgraded: its members and its key are the same.
    hub.kill().unwrap();
    let marks = spokes.each_ref().map(Process::mark);
    let hub = start_hub(&world.net, &world.new, &[]).unwrap();
    for (spoke, mark) in spokes.iter().zip(marks) {
        spoke.wait_for_line_after(mark, SPOKE_ON_LAN, SOON).unwrap();
    }
    world.works(&[&hub]);

    // The old spoke is upgraded: it is the same member.
    let members =
        |of: &str| ask_hub(&world.net, &["status"]).good().lines().filter(|line| line.contains(of)).count();
    spokes[0].kill().unwrap();
    spokes[0] = spawn_spoke(&world.net, &world.new, 0, &[]).unwrap();
    spokes[0].wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
    world.works(&[&hub, &spokes[0]]);
    assert_eq!(members(" 10.0.0.2 "), 1, "{}", ask_hub(&world.net, &["status"]).good());
}

#[test]
#[ignore = "needs the programs of another version: OLD=DIRECTORY"]
fn a_new_hub_serves_both() {
    let world = World::new();
    let hub = start_hub(&world.net, &world.new, &[]).unwrap();
    let spokes = world.spokes();
    world.works(&[&hub, &spokes[0], &spokes[1]]);
}

// ---- several hubs

/// Two hubs of the versions given, with lists that are copied by hand, and hosts for two spokes.
struct Two {
    hubs: [Option<Process>; 2],
    keys: [String; 2],
    programs: [Binaries; 2],
    net: Net,
}

/// Where the spokes are.
const LAPTOP: usize = 1;
const DESK: usize = 2;
const KEY: &str = "--hub-key ";

impl Two {
    /// `members`: the lines of the list for each hub, by the keys of both.
    fn new(programs: [&Binaries; 2], members: impl Fn(&[String; 2]) -> [String; 2]) -> Two {
        let programs = programs.map(Binaries::clone);
        let net = Net::named(&["second", "laptop", "desk"]).unwrap();
        let mut two = Two { hubs: [None, None], keys: Default::default(), programs, net };
        for hub in [0, 1] {
            make_state(two.host(hub), "hub").unwrap();
            two.start(hub);
            let line = two.hubs[hub].take().unwrap().wait_for_line(KEY, SOON).unwrap();
            two.keys[hub] = line.split(KEY).nth(1).unwrap().trim().to_owned();
        }
        let lists = members(&two.keys);
        for (hub, list) in lists.iter().enumerate() {
            fs::write(state(two.host(hub), "hub").join("members"), list).unwrap();
            two.start(hub);
        }
        two
    }

    fn host(&self, hub: usize) -> &Host {
        if hub == 0 { self.net.hub() } else { self.net.spoke(0) }
    }

    fn start(&mut self, hub: usize) {
        let host = self.host(hub);
        let mut command = Command::new(&self.programs[hub].hub);
        command.args(["--subnet", "10.0.0.0/24", "--state"]).arg(host.private().join("hub"));
        let process = host.spawn(["hub-a", "hub-b"][hub], &command).unwrap();
        process.wait_for_line(KEY, SOON).unwrap();
        self.hubs[hub] = Some(process);
    }

    /// A spoke with an address by its number, on the LAN by this hub.
    fn spoke(&self, binaries: &Binaries, i: usize, hub: usize) -> Process {
        let host = self.net.spoke(i);
        let mut command = Command::new(&binaries.spoke);
        command.args(["--hub", &place(hub), "--ip", &Lan::address(i).to_string(), "--state"]);
        command.arg(host.private().join("spoke"));
        let spoke = host.spawn(host.name(), &command).unwrap();
        spoke.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
        spoke
    }

    fn reach_each_other(&self) {
        for (from, to) in [(LAPTOP, DESK), (DESK, LAPTOP)] {
            ping_until(self.net.spoke(from), Lan::address(to).into(), SOON).unwrap();
        }
        let (one, other) = (self.net.spoke(LAPTOP), self.net.spoke(DESK));
        transfer(one, other, Lan::address(DESK).into(), BYTES / 10).unwrap().finish().unwrap();
    }
}

fn place(hub: usize) -> String {
    let at = if hub == 0 { Net::hub_v4() } else { Net::spoke_v4(0) };
    format!("{at}:5678")
}

fn with_places(keys: &[String; 2]) -> String {
    (0..2).map(|hub| format!("{} hub-{hub} - hub={}\n", keys[hub], place(hub))).collect()
}

#[test]
#[ignore = "needs the programs of another version: OLD=DIRECTORY"]
fn an_old_spoke_reaches_who_is_at_another_hub_and_comes_back_to_its_own() {
    let World { old, new, .. } = World::new();
    let mut two = Two::new([&new, &new], |keys| [with_places(keys), with_places(keys)]);
    let laptop = two.spoke(&old, LAPTOP, 0);
    let _desk = two.spoke(&new, DESK, 1);
    // An open hub that does not share its list tells the other one of who came, once that has the line, too.
    let list = fs::read_to_string(state(two.host(0), "hub").join("members")).unwrap();
    let other = fs::read_to_string(state(two.host(1), "hub").join("members")).unwrap();
    let both = list.lines().chain(other.lines()).collect::<std::collections::BTreeSet<_>>();
    let both: String = both.into_iter().map(|line| format!("{line}\n")).collect();
    for hub in [0, 1] {
        fs::write(state(two.host(hub), "hub").join("members"), &both).unwrap();
        let mut command = Command::new(&two.programs[hub].hub);
        command.args(["reload", "--state"]).arg(two.host(hub).private().join("hub"));
        run(two.host(hub), command).good();
    }
    two.reach_each_other();
    // It knows of one hub, and waits for that.
    let mark = laptop.mark();
    two.hubs[0].take().unwrap().kill().unwrap();
    two.start(0);
    laptop.wait_for_line_after(mark, SPOKE_ON_LAN, SOON).unwrap();
    two.reach_each_other();
}

#[test]
#[ignore = "needs the programs of another version: OLD=DIRECTORY"]
fn a_new_spoke_goes_on_at_an_old_hub_and_a_new_hub_lives_beside_it() {
    let World { old, new, .. } = World::new();
    // The old one knows nothing of hubs, and has no lines of them.
    let mut two = Two::new([&new, &old], |keys| [with_places(keys), String::new()]);
    two.hubs[0].as_ref().unwrap().wait_for_line("which makes no links to other hubs", SOON).unwrap();
    let spokes = [LAPTOP, DESK].map(|i| two.spoke(&new, i, 0));
    two.reach_each_other();
    let marks = spokes.each_ref().map(Process::mark);
    two.hubs[0].take().unwrap().kill().unwrap();
    for (spoke, mark) in spokes.iter().zip(marks) {
        let line = spoke.wait_for_line_after(mark, SPOKE_ON_LAN, SOON).unwrap();
        assert!(line.contains(&place(1)), "{line}");
    }
    two.reach_each_other();
}

/// `MIDDLE=DIRECTORY`: a version that links hubs, and does not share lists.
#[test]
#[ignore = "needs the programs of two other versions: OLD=DIRECTORY MIDDLE=DIRECTORY"]
fn a_hub_that_shares_no_list_is_linked_to_one_that_could() {
    let Some(middle) = std::env::var_os("MIDDLE") else {
        let _ = writeln!(std::io::stderr(), "SKIPPED: MIDDLE names no directory of a third version");
        return;
    };
    let middle = PathBuf::from(middle).canonicalize().unwrap();
    let middle = Binaries { hub: middle.join("hub"), spoke: middle.join("spoke") };
    let World { new, .. } = World::new();
    for programs in [[&new, &middle], [&middle, &new]] {
        let spokes = |net: &Net| {
            [LAPTOP, DESK].map(|i| {
                make_state(net.spoke(i), "spoke").unwrap();
                ask_spoke(net, i, &["key"]).good().trim().to_owned()
            })
        };
        let mut two = Two::new(programs, |keys| [with_places(keys), with_places(keys)]);
        let keys = spokes(&two.net);
        let list =
            format!("{}{} laptop 10.0.0.3\n{} desk 10.0.0.4\n", with_places(&two.keys), keys[0], keys[1]);
        for hub in [0, 1] {
            two.hubs[hub].take().unwrap().kill().unwrap();
            fs::write(state(two.host(hub), "hub").join("members"), &list).unwrap();
            two.start(hub);
        }
        let laptop = two.spoke(&new, LAPTOP, 0);
        let _desk = two.spoke(&middle, DESK, 1);
        two.reach_each_other();
        // The new one keeps the list: the other one goes on with its own, and packets pass.
        let of_new = usize::from(programs[0].hub != new.hub);
        let mut command = Command::new(&new.hub);
        command.args(["keep", "--state"]).arg(two.host(of_new).private().join("hub"));
        run(two.host(of_new), command).good();
        two.reach_each_other();
        let mark = laptop.mark();
        two.hubs[0].take().unwrap().kill().unwrap();
        laptop.wait_for_line_after(mark, SPOKE_ON_LAN, SOON).unwrap();
        two.reach_each_other();
    }
}
