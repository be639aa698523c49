//! Who is who: keys, pins, members, addresses.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests of IO")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::house::{
    Binaries, Lan, Net, Process, SPOKE_ON_LAN, copy_state, ping, ping_until, spawn_spoke, start_hub, state,
};

const SOON: Duration = Duration::from_secs(5);
const BACK: Duration = Duration::from_secs(20);

#[test]
fn keys_are_made_once_and_are_for_their_owner_alone() {
    let mut lan = Lan::new(1).unwrap();
    let directories = [state(lan.net.hub(), "hub"), state(lan.net.spoke(0), "spoke")];
    let keys = directories.each_ref().map(|directory| {
        assert_eq!(mode(directory), 0o700);
        assert_eq!(mode(&directory.join("key")), 0o600);
        fs::read_to_string(directory.join("key")).unwrap()
    });
    assert_ne!(keys[0], keys[1]);
    lan.restart_hub().unwrap();
    lan.restart_spoke(0).unwrap();
    assert_eq!(directories.map(|directory| fs::read_to_string(directory.join("key")).unwrap()), keys);
}

#[test]
fn members_and_pins_are_recorded_as_text() {
    let lan = Lan::new(2).unwrap();
    let members = fs::read_to_string(state(lan.net.hub(), "hub").join("members")).unwrap();
    for i in [0, 1] {
        let (name, address) = (format!(" spoke{i} "), format!("10.0.0.{}", 2 + i));
        let line = members.lines().find(|line| line.contains(&name)).unwrap_or_else(|| panic!("{members}"));
        assert!(line.contains(&address), "{line}");
    }
    let pins = fs::read_to_string(state(lan.net.spoke(0), "spoke").join("hubs")).unwrap();
    assert!(pins.contains(&hub_key(&lan.hub)), "{pins}");
    assert!(pins.contains("192.0.2.1"), "{pins}");
}

#[test]
fn the_line_that_the_hub_prints_lets_a_spoke_in() {
    let net = Net::new(1).unwrap();
    let binaries = Binaries::find().unwrap();
    let hub = start_hub(&net, &binaries, &[]).unwrap();
    let line = hub.wait_for_line("spoke --hub ", SOON).unwrap();
    let words = line[line.find("spoke --hub ").unwrap()..].replace("HOST", "192.0.2.1");
    let mut words = words.split_ascii_whitespace().map(|word| word.trim_matches(['`', '\'', '"']));
    assert_eq!(words.next(), Some("spoke"));
    let mut command = Command::new(&binaries.spoke);
    command.args(words);
    let spoke = net.spoke(0).spawn("spoke", &command).unwrap();
    spoke.wait_for_line("on the LAN as 10.0.0.254", SOON).unwrap();
    ping(net.spoke(0), Lan::hub_address().into(), 56, SOON).unwrap();
}

#[test]
fn an_open_hub_warns_that_it_is() {
    let net = Net::new(0).unwrap();
    let hub = start_hub(&net, &Binaries::find().unwrap(), &[]).unwrap();
    let warning = hub.wait_for_line("WARN", SOON).unwrap();
    assert!(warning.contains("can join"), "{warning}");
}

#[test]
fn addresses_given_by_the_hub_stay_the_same() {
    let net = Net::new(3).unwrap();
    let binaries = Binaries::find().unwrap();
    let hub = start_hub(&net, &binaries, &[]).unwrap();
    let start = |i: usize| {
        let mut command = Command::new(&binaries.spoke);
        command.args(["--hub", "192.0.2.1"]);
        let spoke = net.spoke(i).spawn("spoke", &command).unwrap();
        let line = spoke.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
        (spoke, address(&line))
    };
    let given = [0, 1, 2].map(|i| start(i).1);
    assert!(given[0] != given[1] && given[1] != given[2] && given[0] != given[2], "{given:?}");
    hub.kill().unwrap();
    let _hub = start_hub(&net, &binaries, &[]).unwrap();
    // In another order, and with gaps.
    let (_two, two) = start(2);
    let (_zero, zero) = start(0);
    assert_eq!((&zero, &two), (&given[0], &given[2]));
}

#[test]
fn the_same_key_takes_over_at_once() {
    let lan = Lan::new(3).unwrap();
    let mark = lan.spokes[1].mark();
    // The first spoke's machine is cloned; its old link is cut, so that it cannot answer.
    let net = &lan.net;
    net.cut(0).unwrap();
    lan.spokes[2].signal(Signal::SIGTERM).unwrap();
    lan.spokes[2].wait_exit(SOON).unwrap();
    let clone = state(net.spoke(2), "clone");
    copy_state(&state(net.spoke(0), "spoke"), &clone).unwrap();
    let mut command = Command::new(&lan.binaries.spoke);
    command
        .args(["--hub", "192.0.2.1", "--ip", "10.0.0.2", "--state"])
        .arg(net.spoke(2).private().join("clone"));
    let start = Instant::now();
    let taken = net.spoke(2).spawn("clone", &command).unwrap();
    taken.wait_for_line("on the LAN as 10.0.0.2", SOON).unwrap();
    ping(net.spoke(1), Lan::address(0).into(), 56, SOON).unwrap();
    assert!(start.elapsed() < Duration::from_secs(2), "taking over took {:?}", start.elapsed());
    assert_eq!(lan.spokes[1].mark(), mark, "the others notice nothing");
}

#[test]
fn two_spokes_with_one_key_do_not_fight() {
    let lan = Lan::new(2).unwrap();
    lan.spokes[1].kill().unwrap();
    copy_state(&state(lan.net.spoke(0), "spoke"), &state(lan.net.spoke(1), "clone")).unwrap();
    let mut command = Command::new(&lan.binaries.spoke);
    command.args(["--hub", "192.0.2.1", "--state"]).arg(lan.net.spoke(1).private().join("clone"));
    let mark = lan.spokes[0].mark();
    let clone = lan.net.spoke(1).spawn("clone", &command).unwrap();
    clone.wait_for_line("on the LAN as 10.0.0.2", SOON).unwrap();
    let start = Instant::now();
    lan.spokes[0].wait_for_line_after(mark, "the same key", SOON).unwrap();
    // It comes back, but not at once: the two of them do not throw each other out all the time.
    lan.spokes[0].wait_for_line_after(mark, SPOKE_ON_LAN, BACK).unwrap();
    assert!(start.elapsed() > Duration::from_secs(4), "back after {:?}", start.elapsed());
}

#[test]
fn a_held_address_is_refused_and_its_holder_named() {
    let lan = Lan::new(2).unwrap();
    lan.spokes[1].kill().unwrap();
    let mut command = Command::new(&lan.binaries.spoke);
    command.args(["--hub", "192.0.2.1", "--ip", "10.0.0.2"]);
    let thief = lan.net.spoke(1).spawn("thief", &command).unwrap();
    let status = thief.wait_exit(SOON).unwrap();
    // It may be free another time: no refusal for good.
    assert_eq!(status.code(), Some(1));
    let line = thief.wait_for_line("10.0.0.2", SOON).unwrap();
    assert!(line.contains("held by spoke0"), "{line}");
    ping(lan.net.hub(), Lan::address(0).into(), 56, SOON).unwrap();
}

#[test]
fn a_dead_holder_loses_its_address_on_an_open_hub() {
    let lan = Lan::new(2).unwrap();
    lan.spokes[1].kill().unwrap();
    lan.net.cut(0).unwrap();
    let mut command = Command::new(&lan.binaries.spoke);
    command.args(["--hub", "192.0.2.1", "--ip", "10.0.0.2"]);
    let newcomer = lan.net.spoke(1).spawn("newcomer", &command).unwrap();
    newcomer.wait_for_line("on the LAN as 10.0.0.2", SOON).unwrap();
    ping_until(lan.net.hub(), Lan::address(0).into(), SOON).unwrap();
    lan.hub.wait_for_line("WARN", SOON).unwrap();
}

#[test]
fn addresses_that_no_member_can_have_are_refused() {
    let net = Net::new(1).unwrap();
    let binaries = Binaries::find().unwrap();
    let _hub = start_hub(&net, &binaries, &[]).unwrap();
    for (address, why) in [
        ("10.0.1.2", "not in the LAN's subnet 10.0.0.0/24"),
        ("10.0.0.0", "subnet's own address"),
        ("10.0.0.255", "broadcast"),
        ("10.0.0.1", "hub's own"),
        ("fd00::2", "not in the LAN's subnet"),
    ] {
        let mut command = Command::new(&binaries.spoke);
        command.args(["--hub", "192.0.2.1", "--ip", address]);
        let spoke = net.spoke(0).spawn("spoke", &command).unwrap();
        assert_ne!(spoke.wait_exit(SOON).unwrap().code(), Some(0), "{address}");
        spoke.wait_for_line(why, SOON).unwrap();
    }
}

#[test]
fn another_hub_key_is_refused_with_both_fingerprints() {
    let mut lan = Lan::new(1).unwrap();
    let (old, pins) = (hub_key(&lan.hub), state(lan.net.spoke(0), "spoke").join("hubs"));
    let pinned = fs::read_to_string(&pins).unwrap();
    lan.hub.kill().unwrap();
    fs::remove_file(state(lan.net.hub(), "hub").join("key")).unwrap();
    let mark = lan.spokes[0].mark();
    lan.hub = start_hub(&lan.net, &lan.binaries, &[]).unwrap();
    let new = hub_key(&lan.hub);
    assert_ne!(old, new);

    // A spoke that has been on the LAN says so, and goes on trying.
    lan.spokes[0].wait_for_line_after(mark, &new, BACK).unwrap();
    assert!(lan.spokes[0].is_running());
    lan.spokes[0].kill().unwrap();

    // One that has not ends.
    let spoke = spawn_spoke(&lan.net, &lan.binaries, 0, &[]).unwrap();
    assert_ne!(spoke.wait_exit(SOON).unwrap().code(), Some(0));
    spoke.wait_for_line(&old, SOON).unwrap();
    spoke.wait_for_line(&new, SOON).unwrap();
    spoke.wait_for_line("hubs", SOON).unwrap();
    assert_eq!(fs::read_to_string(&pins).unwrap(), pinned, "the pin stays");

    // The key given by hand is what counts.
    let spoke = spawn_spoke(&lan.net, &lan.binaries, 0, &["--hub-key", &old]).unwrap();
    assert_ne!(spoke.wait_exit(SOON).unwrap().code(), Some(0));
    let spoke = spawn_spoke(&lan.net, &lan.binaries, 0, &["--hub-key", &new]).unwrap();
    spoke.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
}

/// The key in the line that the hub prints for copying.
fn hub_key(hub: &Process) -> String {
    let line = hub.wait_for_line("--hub-key ", SOON).unwrap();
    let rest = line.split("--hub-key ").nth(1).unwrap();
    rest.split(|c: char| c.is_whitespace() || c == '`').next().unwrap().to_owned()
}

/// The address in a spoke's line.
fn address(line: &str) -> String {
    let rest = line.split(SPOKE_ON_LAN).nth(1).unwrap();
    rest.split(|c: char| !c.is_ascii_digit() && c != '.').next().unwrap().to_owned()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}
