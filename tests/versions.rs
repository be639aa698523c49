//! A LAN of two versions: programs of another version beside today's, and one taking the other's place.
//!
//! `OLD=DIRECTORY cargo test -p hub --test e2e versions -- --ignored --nocapture`, with the `hub` and `spoke` of the other
//! version in that directory.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests of IO")]

use std::path::PathBuf;
use std::time::Duration;

use crate::house::{
    Binaries, Lan, Net, Process, SPOKE_ON_LAN, ask_hub, ping, spawn_spoke, start_hub, transfer,
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
