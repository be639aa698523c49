//! Provisioning: machines that wait, are let in, invited, renamed, replaced and forgotten, and who did it.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests of IO")]

use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::house::wire::{Wire, join_request, random_key};
use crate::house::{
    Host, Lan, Net, Process, SPOKE_ON_LAN, ask_hub, ask_spoke, ping, run, spawn_spoke, state,
};
use hub::control::{InviteStatus, MemberStatus, PendingStatus};
use serde::de::DeserializeOwned;

const SOON: Duration = Duration::from_secs(5);
/// A spoke that lost its hub tries again within so long.
const BACK: Duration = Duration::from_secs(15);
const WAITS: &str = "waits until the hub's owner lets it in";

fn json<T: DeserializeOwned>(net: &Net, args: &[&str]) -> T {
    serde_json::from_str(&ask_hub(net, &[args, &["--json"]].concat()).good()).unwrap()
}

fn pending(net: &Net) -> Vec<PendingStatus> {
    json(net, &["pending"])
}

fn members(net: &Net, filters: &[&str]) -> Vec<String> {
    let text = ask_hub(net, &[&["members", "--json"], filters].concat()).good();
    let member = |line: &str| serde_json::from_str::<MemberStatus>(line).unwrap().name.to_string();
    text.lines().map(member).collect()
}

/// Looks again until it holds, or `SOON` is over.
fn until(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + BACK;
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// A locked hub with one member, and a second machine that asks to join.
fn with_one_waiting() -> (Lan, Process) {
    let lan = Lan::with(Net::new(2).unwrap(), 1).unwrap();
    ask_hub(&lan.net, &["lock"]).good();
    let waiting = spawn_spoke(&lan.net, &lan.binaries, 1, &[]).unwrap();
    waiting.wait_for_line(WAITS, SOON).unwrap();
    (lan, waiting)
}

#[test]
fn a_machine_waits_at_a_locked_hub_and_is_let_in_within_a_second() {
    let (lan, waiting) = with_one_waiting();
    let key = ask_spoke(&lan.net, 1, &["key"]).good();
    let status = ask_spoke(&lan.net, 1, &["status"]).good();
    assert!(status.contains("waiting to be let in") && status.contains("`hub allow spoke1`"), "{status}");
    let list = ask_hub(&lan.net, &["pending"]).good();
    assert!(list.contains("spoke1") && list.contains("192.0.2.11:") && list.contains(key.trim()), "{list}");
    lan.hub.wait_for_line("spoke1, key ", SOON).unwrap();
    assert!(ask_hub(&lan.net, &["status"]).good().contains("1 waiting (`hub pending`)"));
    // Longer than a handshake may take, and than a link may be silent.
    until("it waits on", || pending(&lan.net).first().is_some_and(|one| one.seconds >= 11));
    let said = waiting.lines().iter().filter(|line| line.contains(WAITS)).count();
    assert_eq!(said, 1, "it says so once");
    ping(lan.net.spoke(1), Lan::hub_address().into(), 56, Duration::from_millis(200)).unwrap_err();

    let start = Instant::now();
    let told = ask_hub(&lan.net, &["allow", "spoke1"]).good();
    assert!(told.contains("spoke1 is a member"), "{told}");
    waiting.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
    assert!(start.elapsed() < Duration::from_secs(1), "after {:?}", start.elapsed());
    ping(lan.net.spoke(1), Lan::address(0).into(), 56, SOON).unwrap();
    assert!(pending(&lan.net).is_empty());
    let text = fs::read_to_string(state(lan.net.hub(), "hub").join("members")).unwrap();
    assert!(text.contains(&format!("{} spoke1 10.0.0.3", key.trim())), "{text}");
    ask_hub(&lan.net, &["allow", "spoke1"]).fails("no machine waits");
}

#[test]
fn one_who_waits_joins_when_the_hub_is_unlocked_or_has_its_key() {
    let (lan, waiting) = with_one_waiting();
    ask_hub(&lan.net, &["unlock"]).good();
    waiting.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
    drop(waiting);

    let (lan, waiting) = with_one_waiting();
    let key = ask_spoke(&lan.net, 1, &["key"]).good();
    let file = state(lan.net.hub(), "hub").join("members");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("{text}{} by-hand 10.0.0.3\n", key.trim())).unwrap();
    ask_hub(&lan.net, &["reload"]).good();
    waiting.wait_for_line("on the LAN as 10.0.0.3 (by-hand)", SOON).unwrap();
    drop(lan);
}

#[test]
fn one_who_waits_lives_through_a_restart_of_the_hub() {
    let (mut lan, waiting) = with_one_waiting();
    lan.restart_hub().unwrap();
    until("it waits again", || pending(&lan.net).len() == 1);
    ask_hub(&lan.net, &["allow", "spoke1", "--name", "nas", "--tag", "store"]).good();
    waiting.wait_for_line("on the LAN as 10.0.0.3 (nas)", SOON).unwrap();
    assert_eq!(members(&lan.net, &["--tag", "store"]), ["nas"]);
}

#[test]
fn a_key_can_be_let_in_before_its_machine_comes() {
    let lan = Lan::with(Net::new(2).unwrap(), 1).unwrap();
    ask_hub(&lan.net, &["lock"]).good();
    let key = ask_spoke(&lan.net, 1, &["key"]).good();
    let key = key.trim();
    ask_hub(&lan.net, &["allow", key]).fails("give it a name with --name");
    ask_hub(&lan.net, &["allow", key, "--name", "spoke0"]).fails("spoke0 is the name of another member");
    ask_hub(&lan.net, &["allow", key, "--name", "nas", "--ip", "10.0.0.2"]).fails("has the address 10.0.0.2");
    ask_hub(&lan.net, &["allow", key, "--name", "nas", "--ip", "10.0.0.3"]).good();
    ask_hub(&lan.net, &["allow", key, "--name", "other"]).fails("nas is the member with this key");
    let spoke = spawn_spoke(&lan.net, &lan.binaries, 1, &[]).unwrap();
    spoke.wait_for_line("on the LAN as 10.0.0.3 (nas)", SOON).unwrap();
}

#[test]
fn a_machine_that_lost_its_state_takes_its_old_place() {
    let mut lan = Lan::new(2).unwrap();
    ask_hub(&lan.net, &["lock"]).good();
    lan.spokes[0].kill().unwrap();
    until("it is gone", || members(&lan.net, &["--offline"]) == ["spoke0"]);
    fs::remove_dir_all(state(lan.net.spoke(0), "spoke")).unwrap();
    lan.spokes[0] = spawn_spoke(&lan.net, &lan.binaries, 0, &[]).unwrap();
    lan.spokes[0].wait_for_line(WAITS, SOON).unwrap();
    ask_hub(&lan.net, &["allow", "spoke0", "--as", "spoke1"]).fails("spoke1 is on the LAN");
    ask_hub(&lan.net, &["allow", "spoke0", "--as", "spoke0"]).good();
    lan.spokes[0].wait_for_line("on the LAN as 10.0.0.2 (spoke0)", SOON).unwrap();
    ping(lan.net.spoke(1), Lan::address(0).into(), 56, SOON).unwrap();
    assert_eq!(members(&lan.net, &["--online"]), ["spoke0", "spoke1"]);
    let text = fs::read_to_string(state(lan.net.hub(), "hub").join("members")).unwrap();
    assert_eq!(text.lines().count(), 2, "{text}");
}

#[test]
fn members_are_renamed_and_forgotten() {
    let mut lan = Lan::new(2).unwrap();
    ask_hub(&lan.net, &["rename", "spoke0", "nas"]).fails("`hub lock` first");
    ask_hub(&lan.net, &["lock"]).good();
    ask_hub(&lan.net, &["rename", "spoke0", "spoke1"]).fails("spoke1 is the name of another member");
    ask_hub(&lan.net, &["rename", "spoke0"]).fails_with(2, "hub rename needs a NAME");
    let mark = lan.spokes[0].mark();
    let told = ask_hub(&lan.net, &["rename", "10.0.0.2", "nas"]).good();
    assert_eq!(told, "spoke0 is called nas from now on\n");
    lan.spokes[0].wait_for_line_after(mark, "on the LAN as 10.0.0.2 (nas)", BACK).unwrap();

    ask_hub(&lan.net, &["forget", "nas"]).fails("nas is on the LAN");
    lan.spokes[0].kill().unwrap();
    until("it is gone", || members(&lan.net, &["--offline"]) == ["nas"]);
    let told = ask_hub(&lan.net, &["forget", "nas"]).good();
    assert_eq!(told, "nas (10.0.0.2) is forgotten: its name and address are free\n");
    assert_eq!(members(&lan.net, &[]), ["spoke1"]);
    assert_eq!(members(&lan.net, &["--name", "POKE"]), ["spoke1"]);
    let key = ask_spoke(&lan.net, 0, &["key"]).good();
    ask_hub(&lan.net, &["allow", key.trim(), "--name", "nas", "--ip", "10.0.0.2"]).good();
    lan.restart_spoke(0).unwrap();

    // What keeps a key out is not forgotten by the way.
    ask_hub(&lan.net, &["revoke", "nas"]).good();
    for who in ["nas", key.trim()] {
        let why =
            format!("{who} is revoked, and its line in `members` keeps its key out: to let the key join");
        ask_hub(&lan.net, &["forget", who]).fails(&why);
    }
}

/// A spoke with the printed line, on any host.
fn invited(lan: &Lan, host: &Host, line: &str, number: usize) -> Process {
    let mut command = Command::new(&lan.binaries.spoke);
    command.args(line.split_whitespace().skip(1));
    command.args(["--name", &format!("box{number}"), "--tun", &format!("s{number}"), "--state"]);
    command.arg(host.private().join(format!("s{number}")));
    host.spawn(&format!("box{number}"), &command).unwrap()
}

#[test]
fn one_invite_lets_several_machines_in_and_no_more() {
    let mut lan = Lan::with(Net::new(2).unwrap(), 0).unwrap();
    ask_hub(&lan.net, &["lock"]).good();
    ask_hub(&lan.net, &["invite", "fleet", "--uses", "0"]).fails_with(2, "is no number of machines");
    ask_hub(&lan.net, &["invite", "fleet", "--uses", "2", "--ip", "10.0.0.7"]).fails("one address");
    let said = ask_hub(
        &lan.net,
        &["invite", "fleet", "--uses", "2", "--for", "30d", "--tag", "fleet", "--host", "192.0.2.1"],
    );
    assert!(said.err.contains("good for 2 machines, within 30 d"), "{}", said.err);
    let line = said.good();
    let list: Vec<InviteStatus> = json(&lan.net, &["invites"]);
    assert_eq!((list[0].name.as_str(), list[0].uses), ("fleet", Some(2)));
    let first = invited(&lan, lan.net.spoke(0), &line, 1);
    first.wait_for_line("(box1)", SOON).unwrap();
    let text = ask_hub(&lan.net, &["invites"]).good();
    assert!(text.contains("fleet") && text.contains("1 machine "), "{text}");
    // What is used stays used.
    first.kill().unwrap();
    lan.restart_hub().unwrap();
    let first = invited(&lan, lan.net.spoke(0), &line, 1);
    first.wait_for_line("(box1)", BACK).unwrap();
    let second = invited(&lan, lan.net.spoke(0), &line, 2);
    second.wait_for_line("(box2)", SOON).unwrap();
    let third = invited(&lan, lan.net.spoke(0), &line, 3);
    third.wait_for_line("the invite is unknown, used or expired", SOON).unwrap();
    assert_eq!(members(&lan.net, &["--tag", "fleet"]), ["box1", "box2"]);
    assert_eq!(ask_hub(&lan.net, &["invites"]).good(), "there are no invites\n");

    let line = ask_hub(&lan.net, &["invite", "guest", "--host", "192.0.2.1"]).good();
    assert_eq!(ask_hub(&lan.net, &["invites", "--cancel", "guest"]).good(), "the invite guest is void\n");
    ask_hub(&lan.net, &["invites", "--cancel", "guest"]).fails("there is no invite for guest");
    let late = invited(&lan, lan.net.spoke(1), &line, 4);
    late.wait_for_line("the invite is unknown, used or expired", SOON).unwrap();
}

/// `PROVISION=200 cargo test -p hub --test e2e many_machines -- --nocapture` for as many as an operator has.
#[test]
fn many_machines_are_provisioned_with_one_invite() {
    let count = std::env::var("PROVISION").ok().and_then(|text| text.parse().ok()).unwrap_or(12);
    let lan = Lan::with(Net::new(1).unwrap(), 0).unwrap();
    ask_hub(&lan.net, &["lock"]).good();
    let uses = count.to_string();
    let line = ask_hub(&lan.net, &["invite", "fleet", "--uses", &uses, "--host", "192.0.2.1"]).good();
    let start = Instant::now();
    let spokes: Vec<Process> = (0..count).map(|n| invited(&lan, lan.net.spoke(0), &line, n)).collect();
    for spoke in &spokes {
        spoke.wait_for_line(SPOKE_ON_LAN, Duration::from_secs(60)).unwrap();
    }
    println!("{count} machines in {:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(60));
    assert_eq!(members(&lan.net, &["--online"]).len(), count);
}

#[test]
fn strangers_take_no_place_from_others_who_wait() {
    let lan = Lan::with(Net::new(3).unwrap(), 1).unwrap();
    ask_hub(&lan.net, &["lock"]).good();
    let waiting = spawn_spoke(&lan.net, &lan.binaries, 1, &[]).unwrap();
    waiting.wait_for_line(WAITS, SOON).unwrap();
    let hub = SocketAddr::from((Net::hub_v4(), 5678));
    // From one address, each with a key of its own and the name of the one who waits.
    let crowd: Vec<_> = (0..40)
        .map(|_| {
            let mut wire = Wire::connect(lan.net.spoke(2), hub, SOON).unwrap();
            let mut join = join_request(Lan::address(1));
            join.name = "spoke1".parse().unwrap();
            let (_, third) = wire.handshake(&random_key().unwrap(), &join).unwrap();
            wire.send(&third).unwrap();
            wire
        })
        .collect();
    until("all have asked", || pending(&lan.net).len() == 17);
    let key = ask_spoke(&lan.net, 1, &["key"]).good();
    assert!(pending(&lan.net).iter().any(|one| one.key.to_string() == key.trim()));
    let refused = ask_hub(&lan.net, &["allow", "spoke1"]);
    assert!(refused.err.contains("several machines wait under the name spoke1"), "{}", refused.err);
    ask_hub(&lan.net, &["allow", key.trim()]).good();
    waiting.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
    ping(lan.net.spoke(0), Lan::address(1).into(), 56, SOON).unwrap();
    drop(crowd);
    until("they are gone", || pending(&lan.net).is_empty());
}

#[test]
fn who_changed_what_is_written_down() {
    let lan = Lan::new(1).unwrap();
    let mut command = Command::new(&lan.binaries.hub);
    command.args(["lock", "--state"]).arg(lan.net.hub().private().join("hub"));
    command.env("SUDO_USER", "alice").env("SSH_CONNECTION", "198.51.100.7 52000 192.0.2.1 22");
    run(lan.net.hub(), command).good();
    lan.hub.wait_for_line("lock, by uid 0 (alice) from 198.51.100.7", SOON).unwrap();
    ask_hub(&lan.net, &["invite", "guest"]).good();
    ask_hub(&lan.net, &["revoke", "nobody"]).fails("nobody");
    ask_hub(&lan.net, &["status"]).good();
    let audit = state(lan.net.hub(), "hub").join("audit");
    until("it is written", || fs::read_to_string(&audit).is_ok_and(|text| text.lines().count() == 3));
    let text = fs::read_to_string(&audit).unwrap();
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["request"]["command"], "lock");
    assert_eq!(lines[0]["by"]["uid"], 0);
    assert_eq!(lines[0]["by"]["sudo_user"], "alice");
    assert_eq!(lines[0]["by"]["from"], "198.51.100.7");
    assert!(lines[0]["time"].as_str().unwrap().ends_with('Z') && lines[0]["error"].is_null());
    assert_eq!(lines[1]["request"]["name"], "guest");
    assert!(lines[2]["error"].as_str().unwrap().contains("nobody"), "{text}");
}
