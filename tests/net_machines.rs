//! Machines as they are: state directories, name servers and outer networks that are not what a program hopes for.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests of IO")]

#[path = "house/mod.rs"]
mod house;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use house::{
    Binaries, Direction, Host, Lan, Net, Process, SPOKE_ON_LAN, ping, run, start_hub, state, transfer,
};

const SOON: Duration = Duration::from_secs(5);

/// The command line of a spoke with its default state, in whichever directory that is.
fn spoke(host: &Host, hub: &str, options: &[&str]) -> Command {
    assert_eq!(host.private().to_str(), Some("/var/lib"), "this test needs /var/lib for a host of its own");
    let mut command = Command::new(Binaries::find().unwrap().spoke);
    command.args(["--hub", hub]).args(options);
    command
}

fn on_lan(process: &Process) -> String {
    process.wait_for_line(SPOKE_ON_LAN, SOON).unwrap()
}

#[test]
fn a_second_spoke_on_one_machine_is_asked_for_by_its_own_state_and_leaves_nothing_otherwise() {
    let net = Net::named(&["laptop"]).unwrap();
    let _hub = start_hub(&net, &Binaries::find().unwrap(), &[]).unwrap();
    let (laptop, hub) = (net.spoke(0), Net::hub_v4().to_string());
    let first = laptop.spawn("first", &spoke(laptop, &hub, &["--ip", "10.0.0.2"])).unwrap();
    on_lan(&first);

    let second =
        laptop.spawn("second", &spoke(laptop, &hub, &["--ip", "10.0.0.9", "--tun", "lan1"])).unwrap();
    assert_eq!(second.wait_exit(SOON).unwrap().code(), Some(1));
    let line = second.wait_for_line("/var/lib/spoke is in use by another process", SOON).unwrap();
    assert!(line.contains("--state /var/lib/spoke-2 --tun lan1"), "{line}");
    let below = fs::read_dir(state(laptop, "spoke")).unwrap().map(|entry| entry.unwrap());
    let directories: Vec<_> = below.filter(|entry| entry.path().is_dir()).collect();
    assert!(directories.is_empty(), "a second identity was left: {directories:?}");

    // The same machine with another address is the same member, not `laptop-2`.
    first.kill().unwrap();
    let again = laptop.spawn("again", &spoke(laptop, &hub, &["--ip", "10.0.0.9"])).unwrap();
    let line = on_lan(&again);
    assert!(line.contains("10.0.0.9 (laptop)"), "{line}");

    let second = spoke(laptop, &hub, &["--ip", "10.0.0.3", "--tun", "lan1", "--state", "/var/lib/spoke-2"]);
    let second = laptop.spawn("second", &second).unwrap();
    let line = on_lan(&second);
    assert!(line.contains("10.0.0.3 (laptop-2)"), "{line}");
    second.wait_for_line("the name laptop is taken; this machine is laptop-2", SOON).unwrap();
}

#[test]
fn a_second_identity_of_earlier_days_is_used_if_it_was_on_a_lan_and_not_if_its_start_failed() {
    let net = Net::named(&["laptop"]).unwrap();
    let _hub = start_hub(&net, &Binaries::find().unwrap(), &[]).unwrap();
    let (laptop, hub) = (net.spoke(0), Net::hub_v4().to_string());
    let key = |directory: &str| fs::read_to_string(state(laptop, "spoke").join(directory).join("key")).ok();
    // What a version that made such directories has left: one that was on a LAN, and one whose start failed.
    for (address, pinned) in [("10.0.0.5", true), ("10.0.0.6", false)] {
        let directory = format!("/var/lib/spoke/{address}");
        let made =
            laptop.spawn("old", &spoke(laptop, &hub, &["--ip", address, "--state", &directory])).unwrap();
        on_lan(&made);
        made.kill().unwrap();
        fs::remove_file(state(laptop, "spoke").join(address).join("control")).ok();
        if !pinned {
            fs::remove_file(state(laptop, "spoke").join(address).join("hubs")).unwrap();
        }
    }
    assert_eq!(key(""), None);
    let old = laptop.spawn("old", &spoke(laptop, &hub, &["--ip", "10.0.0.5"])).unwrap();
    on_lan(&old);
    assert_eq!(key(""), None, "the address has a directory of its own");
    old.kill().unwrap();
    let failed = laptop.spawn("failed", &spoke(laptop, &hub, &["--ip", "10.0.0.6"])).unwrap();
    // It joins, or is refused an address that another key holds: by the key of the machine's own directory.
    failed.wait_for_line("10.0.0.6", SOON).unwrap();
    assert!(key("").is_some() && !state(laptop, "spoke").join("10.0.0.6/hubs").exists());
}

#[test]
fn a_state_volume_that_others_can_write_gets_a_directory_for_the_owner_alone() {
    for mode in [0o777, 0o2770, 0o1777] {
        let net = Net::named(&["laptop"]).unwrap();
        let binaries = Binaries::find().unwrap();
        for (host, program) in [(net.hub(), "hub"), (net.spoke(0), "spoke")] {
            let volume = state(host, program);
            fs::create_dir(&volume).unwrap();
            // As a volume of its own has it.
            fs::create_dir(volume.join("lost+found")).unwrap();
            fs::set_permissions(&volume, fs::Permissions::from_mode(mode)).unwrap();
        }
        let hub = start_hub(&net, &binaries, &[]).unwrap();
        let (laptop, address) = (net.spoke(0), Net::hub_v4().to_string());
        let options = ["--state", "/var/lib/spoke"];
        let first = laptop.spawn("spoke", &spoke(laptop, &address, &options)).unwrap();
        on_lan(&first);
        for (host, program) in [(net.hub(), "hub"), (laptop, "spoke")] {
            let inner = state(host, program).join("private");
            assert_eq!(fs::metadata(&inner).unwrap().permissions().mode() & 0o777, 0o700);
            assert!(inner.join("key").exists() && !state(host, program).join("key").exists());
        }
        // Those who ask find it, and the next start is the same member, also of a volume that was mended.
        assert!(house::ask_hub(&net, &["status"]).good().contains("laptop"));
        assert!(house::ask_spoke(&net, 0, &["status"]).good().contains("laptop"));
        let mut ask = Command::new(&binaries.spoke);
        ask.arg("status");
        assert!(run(laptop, ask).good().contains("laptop"));
        first.kill().unwrap();
        for mended in [mode, 0o700] {
            fs::set_permissions(state(laptop, "spoke"), fs::Permissions::from_mode(mended)).unwrap();
            let again = laptop.spawn("spoke", &spoke(laptop, &address, &options)).unwrap();
            assert!(on_lan(&again).contains("(laptop)"));
            again.kill().unwrap();
        }
        drop(hub);
    }
}

#[test]
fn a_path_that_drops_long_packets_in_silence_is_used_with_short_ones() {
    let net = Net::new(3).unwrap();
    for (i, direction) in [None, Some(Direction::In), Some(Direction::Out)].into_iter().enumerate() {
        net.lose_longer(i, 1_400, direction).unwrap();
    }
    let lan = Lan::with(net, 3).unwrap();
    thread::scope(|scope| {
        for i in 0..3 {
            let lan = &lan;
            scope.spawn(move || fits(lan, i));
        }
    });
    for i in 0..3 {
        let mark = lan.spokes[i].mark();
        let (from, to) = (lan.net.spoke(i), lan.net.hub());
        transfer(from, to, Lan::hub_address().into(), 1_000_000).unwrap().finish().unwrap();
        transfer(to, from, Lan::address(i).into(), 1_000_000).unwrap().finish().unwrap();
        assert_eq!(lan.spokes[i].mark(), mark, "{:?}", lan.spokes[i].lines());
    }
}

/// Sends full packets until they arrive, which they do once the link was made with segments that fit.
fn fits(lan: &Lan, i: usize) {
    let (from, spoke) = (lan.net.spoke(i), &lan.spokes[i]);
    let end = Instant::now() + Duration::from_secs(60);
    while let Err(failure) = ping(from, Lan::hub_address().into(), 1_472, Duration::from_secs(1)) {
        assert!(Instant::now() < end, "{failure}");
        // An unreachable network comes back at once.
        thread::sleep(Duration::from_millis(50));
    }
    let found = "drops large packets in silence: using segments of 1360 bytes";
    spoke.wait_for_line(found, Duration::ZERO).unwrap();
    let status = house::ask_spoke(&lan.net, i, &["status"]).good();
    assert!(status.contains(&format!("problem: the path to the hub {found}")), "{status}");
}
