//! The LAN gets another subnet: `hub renumber`, with a running hub and without one, and back.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests of IO")]

use std::fs::{self, Permissions};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::house::{
    Binaries, HUB_LISTENS, Lan, Net, Process, SPOKE_ON_LAN, ask_hub, ask_spoke, await_true, ping, ping_until,
    start_hub, state,
};
use nix::sys::signal::Signal;

const SOON: Duration = Duration::from_secs(5);
/// How long to look for an answer that must not come.
const SILENCE: Duration = Duration::from_millis(300);
const TO_BOTH: &str = "10.44.0.0/24,fd44::/64";
const BACK: &str = "10.0.0.0/24,fd00::/64";

fn file(net: &Net, name: &str) -> PathBuf {
    state(net.hub(), "hub").join(name)
}

fn read(net: &Net, name: &str) -> String {
    fs::read_to_string(file(net, name)).unwrap()
}

/// Starts a hub for these subnets; its line that says which the LAN has.
fn start_with(net: &Net, subnets: &[&str]) -> (Process, String) {
    let mut command = Command::new(Binaries::find().unwrap().hub);
    subnets.iter().for_each(|subnet| {
        command.args(["--subnet", subnet]);
    });
    command.arg("--state").arg(net.hub().private().join("hub"));
    let hub = net.hub().spawn("hub", &command).unwrap();
    let line = hub.wait_for_line(HUB_LISTENS, SOON).unwrap();
    (hub, line)
}

/// Whether the audit file has a renumbering to this subnet that was done.
fn is_audited(net: &Net, to: &str) -> bool {
    let is_it = |line: &str| line.contains("renumber") && line.contains(to) && !line.contains("error");
    read(net, "audit").lines().any(is_it)
}

fn stop(process: &Process) {
    process.signal(Signal::SIGTERM).unwrap();
    assert!(process.wait_exit(SOON).unwrap().success());
}

#[test]
fn a_running_lan_moves_with_one_command_and_back() {
    let net = Net::new(3).unwrap();
    let options: [&[&str]; 3] = [&["--ip", "fd00::2"], &["--route", "192.168.5.0/24"], &[]];
    let lan = Lan::with_options(net, &["--subnet", "fd00::/64"], &options).unwrap();
    ask_hub(&lan.net, &["invite", "phone", "--ip", "10.0.0.77"]).good();
    // What a person wrote is kept: a comment, blanks, and one that was revoked.
    ask_hub(&lan.net, &["revoke", "10.0.0.4"]).good();
    let text = format!("# ours\n\n{}", read(&lan.net, "members").replace(" 10.0.0.2", "   10.0.0.2"));
    fs::write(file(&lan.net, "members"), &text).unwrap();
    ask_hub(&lan.net, &["reload"]).good();
    let before = ["members", "invites"].map(|name| read(&lan.net, name));
    let (a, b) = (lan.net.spoke(0), lan.net.spoke(1));

    let marks = [lan.spokes[0].mark(), lan.spokes[1].mark()];
    let said = ask_hub(&lan.net, &["renumber", TO_BOTH]).good();
    assert!(
        said.contains("moved 10.0.0.0/24 to 10.44.0.0/24 and fd00::/64 to fd44::/64: 2 members and 1 invite"),
        "{said}"
    );
    assert!(said.contains("`hub renumber 10.0.0.0/24,fd00::/64` undoes it"), "{said}");
    // They come back by themselves, though their --ip is an old one, and are told.
    for (i, address) in [(0, "on the LAN as 10.44.0.2 and fd44::2"), (1, "on the LAN as 10.44.0.3")] {
        lan.spokes[i].wait_for_line_after(marks[i], address, SOON).unwrap();
        let line = lan.spokes[i].wait_for_line_after(marks[i], "write --ip 10.44.0", SOON).unwrap();
        assert!(line.contains(&format!("in place of {}", Lan::address(i))), "{line}");
    }
    let moved = |last: u8| IpAddr::from(Ipv4Addr::new(10, 44, 0, last));
    ping_until(a, moved(3), SOON).unwrap();
    ping_until(a, moved(1), SOON).unwrap();
    ping_until(lan.net.hub(), moved(2), SOON).unwrap();
    ping_until(b, "fd44::2".parse().unwrap(), SOON).unwrap();
    ping_until(b, "fd44::1".parse().unwrap(), SOON).unwrap();
    lan.spokes[0].wait_for_line("route 192.168.5.0/24 installed", SOON).unwrap();
    let members = read(&lan.net, "members");
    assert!(
        members.contains("   10.44.0.2,fd44::2")
            && members.contains(" 10.44.0.4")
            && !members.contains("10.0.0."),
        "{members}"
    );
    assert!(read(&lan.net, "invites").contains(" 10.44.0.77"));

    // The hub may be started as before, or as it should be.
    lan.hub.kill().unwrap();
    let mark = lan.spokes[0].mark();
    let (hub, line) = start_with(&lan.net, &["10.0.0.0/24", "fd00::/64"]);
    assert!(line.contains("the LAN is 10.44.0.0/24 and fd44::/64"), "{line}");
    hub.wait_for_line("start the hub with --subnet 10.44.0.0/24", SOON).unwrap();
    lan.spokes[0].wait_for_line_after(mark, "on the LAN as 10.44.0.2 and fd44::2", SOON).unwrap();
    stop(&hub);
    let (hub, _) = start_with(&lan.net, &["10.44.0.0/24", "fd44::/64"]);
    assert!(!hub.lines().iter().any(|line| line.contains("renumber")), "{:?}", hub.lines());

    // And back: what was written is as it was, to the byte.
    let marks = [lan.spokes[0].mark(), lan.spokes[1].mark()];
    ask_hub(&lan.net, &["renumber", BACK]).good();
    for (i, address) in [(0, "on the LAN as 10.0.0.2 and fd00::2"), (1, "on the LAN as 10.0.0.3")] {
        lan.spokes[i].wait_for_line_after(marks[i], address, SOON).unwrap();
    }
    ping_until(a, Lan::address(1).into(), SOON).unwrap();
    assert_eq!(["members", "invites"].map(|name| read(&lan.net, name)), before);
    drop(hub);
}

#[test]
fn a_stopped_hub_is_moved_too_and_the_next_start_has_it() {
    let net = Net::new(2).unwrap();
    let lan = Lan::with(net, 2).unwrap();
    let before = read(&lan.net, "members");
    stop(&lan.hub);
    // The way that one would try first says what to do instead.
    let mut command = Command::new(&lan.binaries.hub);
    command.args(["--subnet", "10.44.0.0/24", "--state"]).arg(lan.net.hub().private().join("hub"));
    let refused = lan.net.hub().spawn("hub", &command).unwrap();
    let line = refused.wait_for_line("is not in the LAN's subnet 10.44.0.0/24", SOON).unwrap();
    assert!(line.contains("the LAN was 10.0.0.0/24 so far: `hub renumber 10.44.0.0/24` takes all"), "{line}");
    assert_eq!(refused.wait_exit(SOON).unwrap().code(), Some(1));

    let said = ask_hub(&lan.net, &["renumber", "10.44.0.0/24"]).good();
    assert!(said.contains("2 members and 0 invites") && said.contains("when the hub starts"), "{said}");
    let marks = [lan.spokes[0].mark(), lan.spokes[1].mark()];
    let (hub, _) = start_with(&lan.net, &["10.44.0.0/24"]);
    for (i, mark) in marks.into_iter().enumerate() {
        let line = lan.spokes[i].wait_for_line_after(mark, SPOKE_ON_LAN, Duration::from_secs(15)).unwrap();
        assert!(line.contains(&format!("10.44.0.{}", 2 + i)), "{line}");
    }
    ping_until(lan.net.spoke(0), Ipv4Addr::new(10, 44, 0, 3).into(), SOON).unwrap();
    stop(&hub);
    assert!(read(&lan.net, "members").contains("10.44.0.2"));
    // Nobody ran who could write it down, so the command did.
    assert!(is_audited(&lan.net, "10.44.0.0/24"), "{}", read(&lan.net, "audit"));
    ask_hub(&lan.net, &["renumber", "10.0.0.0/24"]).good();
    let hub = start_hub(&lan.net, &lan.binaries, &[]).unwrap();
    stop(&hub);
    assert_eq!(read(&lan.net, "members"), before);
}

#[test]
fn a_stopped_hub_in_a_volume_is_moved_with_the_user_of_the_file() {
    let net = Net::new(0).unwrap();
    let host = net.hub();
    host.put("/etc/hub.toml", "subnet = \"10.0.0.0/24\"\nuser = \"nobody\"\n");
    // Others can write to it, so that the state is in a directory below, which is the user's.
    let volume = state(host, "hub");
    fs::create_dir(&volume).unwrap();
    fs::set_permissions(&volume, Permissions::from_mode(0o777)).unwrap();
    let (hub, _) = start_with(&net, &["10.0.0.0/24"]);
    stop(&hub);
    let owners = || -> Vec<u32> {
        let files = fs::read_dir(volume.join("private")).unwrap();
        files.map(|file| file.unwrap().metadata().unwrap().uid()).collect()
    };
    let before = owners();
    assert!(!before.contains(&0), "{before:?}");
    let said = ask_hub(&net, &["renumber", "10.44.0.0/24"]).good();
    assert!(said.contains("moved 10.0.0.0/24 to 10.44.0.0/24"), "{said}");
    assert!(!owners().contains(&0), "{:?}", owners());
    let (hub, line) = start_with(&net, &["10.0.0.0/24"]);
    assert!(line.contains("the LAN is 10.44.0.0/24"), "{line}");
    stop(&hub);
}

#[test]
fn access_rules_tags_and_machines_that_are_let_in_go_along() {
    let net = Net::new(4).unwrap();
    let lan = Lan::with(net, 3).unwrap();
    ask_hub(&lan.net, &["lock"]).good();
    let rules = "allow 10.0.0.2 -> spoke1\nallow tag:all -> 10.0.0.0/28\nallow * -> 10.0.0.1\n";
    fs::write(file(&lan.net, "rules"), rules).unwrap();
    let members = read(&lan.net, "members").replace(" 10.0.0.4\n", " 10.0.0.4 tag=all\n");
    fs::write(file(&lan.net, "members"), &members).unwrap();
    ask_hub(&lan.net, &["reload"]).good();
    let holds = |network: [u8; 3]| {
        let at = |last: u8| IpAddr::from([network[0], network[1], network[2], last]);
        for (from, to) in [(0, 3), (2, 2), (2, 3), (1, 1)] {
            ping_until(lan.net.spoke(from), at(to), SOON).unwrap();
        }
        for (from, to) in [(1, 2), (0, 4), (1, 4)] {
            ping(lan.net.spoke(from), at(to), 56, SILENCE).unwrap_err();
        }
        let [from, to] = [at(3), at(2)].map(|address| address.to_string());
        let said = ask_hub(&lan.net, &["rules", "--explain", "spoke2", &to, "tcp/22"]).good();
        assert!(said.contains("allowed by line 2: allow tag:all -> 10.0.0.0/28"), "{said}");
        let said = ask_hub(&lan.net, &["rules", "--explain", &from, &to, "tcp/22"]).good();
        assert!(said.contains("denied as no line matches"), "{said}");
    };
    holds([10, 0, 0]);

    let marks = [0, 1, 2].map(|i| lan.spokes[i].mark());
    ask_hub(&lan.net, &["renumber", "10.44.0.0/24"]).good();
    for (i, mark) in marks.into_iter().enumerate() {
        lan.spokes[i].wait_for_line_after(mark, "on the LAN as 10.44.0.", SOON).unwrap();
    }
    holds([10, 44, 0]);
    assert_eq!(read(&lan.net, "members"), members.replace("10.0.0.", "10.44.0."));

    // Addresses of before mean those of now for whoever is let in, too.
    ask_hub(&lan.net, &["invite", "phone", "--ip", "10.0.0.77", "--tag", "all"]).good();
    ask_hub(&lan.net, &["invite", "fleet", "--uses", "3", "--tag", "all"]).good();
    let key = ask_spoke(&lan.net, 3, &["key"]).good();
    ask_hub(&lan.net, &["allow", key.trim(), "--name", "camera", "--ip", "10.0.0.66"]).good();
    let invites = read(&lan.net, "invites");
    assert!(invites.contains(" 10.44.0.77 tag=all") && invites.contains(" - tag=all uses=3"), "{invites}");
    assert!(read(&lan.net, "members").contains(" camera 10.44.0.66"));

    // The next start reads the rules in the same way, and says so.
    lan.hub.kill().unwrap();
    let marks = [0, 1, 2].map(|i| lan.spokes[i].mark());
    let (hub, _) = start_with(&lan.net, &["10.44.0.0/24"]);
    hub.wait_for_line("line 1: 10.0.0.2/32 stands for 10.44.0.2/32", SOON).unwrap();
    for (i, mark) in marks.into_iter().enumerate() {
        lan.spokes[i].wait_for_line_after(mark, "on the LAN as 10.44.0.", SOON).unwrap();
    }
    holds([10, 44, 0]);
    ask_hub(&lan.net, &["renumber", "10.55.0.0/24"]).good();
    // The files follow: what the hub has written before it answers says how to read them till then.
    await_true("the invites are moved", SOON, || {
        let invites = read(&lan.net, "invites");
        invites.contains(" 10.55.0.77 tag=all") && invites.contains(" - tag=all uses=3")
    });
    assert!(is_audited(&lan.net, "10.55.0.0/24"), "{}", read(&lan.net, "audit"));
    drop(hub);
}

#[test]
fn what_cannot_move_is_refused_with_the_reason_and_nothing_is_changed() {
    let net = Net::new(2).unwrap();
    let lan = Lan::with(net, 1).unwrap();
    ask_hub(&lan.net, &["invite", "high", "--ip", "10.0.0.200", "--route", "10.66.0.0/16"]).good();
    let before = ["members", "invites", "subnets"].map(|name| read(&lan.net, name));
    let mark = lan.spokes[0].mark();
    for (to, why) in [
        ("10.44.0.0/25", "is too small: it has no host for 10.0.0.200 of high; take a prefix of /24"),
        ("10.0.0.0/25", "is a part of 10.0.0.0/24, where addresses stay as they are, and 10.0.0.200 of high"),
        ("192.0.2.0/24", "the hub's machine is in 192.0.2.0/24"),
        ("10.0.0.0/24", "the LAN is 10.0.0.0/24 already"),
        ("fd44::/64", "start the hub with --subnet fd44::/64 too"),
    ] {
        ask_hub(&lan.net, &["renumber", to]).fails(why);
    }
    for (to, why) in [
        ("10.44.0.7/24", "did you mean 10.44.0.0/24"),
        ("10.44.0.0", "the prefix length is missing"),
        ("10.44.0.0/24,10.45.0.0/24", "at most one IPv4"),
        ("127.0.0.0/8", "is not for hosts"),
    ] {
        ask_hub(&lan.net, &["renumber", to]).fails_with(2, why);
    }
    assert_eq!(["members", "invites", "subnets"].map(|name| read(&lan.net, name)), before);
    assert_eq!(lan.spokes[0].mark(), mark, "{:?}", lan.spokes[0].lines());
    // A wider one that holds the present one changes nobody's address.
    ask_hub(&lan.net, &["renumber", "10.0.0.0/16"]).good();
    lan.spokes[0].wait_for_line_after(mark, "on the LAN as 10.0.0.2 ", SOON).unwrap();
    assert_eq!(read(&lan.net, "members"), before[0]);
    ask_hub(&lan.net, &["renumber", "10.0.0.0/24"]).good();
}
