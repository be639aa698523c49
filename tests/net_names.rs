//! Members by name: the file that `spoke --hosts` keeps in step.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests of IO")]

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::house::{
    self, Binaries, Host, Lan, Net, SPOKE_ON_LAN, await_true, make_state, spawn_spoke, start_hub,
};

const SOON: Duration = Duration::from_secs(10);

/// Waits until the file has exactly these lines, but for comments.
fn wait_for(path: &Path, expected: &[&str]) {
    let start = Instant::now();
    loop {
        let text = fs::read_to_string(path).unwrap_or_default();
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        if lines == expected {
            return;
        }
        assert!(start.elapsed() < SOON, "{text}\n is not {expected:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn the_hosts_file_is_kept_in_step_and_never_seen_half_written() {
    let net = Net::named(&["laptop", "desktop", "phone"]).unwrap();
    let file = net.spoke(0).private().join("lan.hosts");
    let seen: PathBuf = net.spoke(0).path(&file);
    let file = file.display().to_string();
    let lan = Lan::with_options(net, &["--subnet", "fd00::/64"], &[&["--hosts", &file, "--ip", "fd00::2"]])
        .unwrap();
    // The hub is called as its machine.
    wait_for(&seen, &["10.0.0.1 hub", "fd00::1 hub", "10.0.0.2 laptop", "fd00::2 laptop"]);

    // Someone reads it all the while.
    let stop = Arc::new(AtomicBool::new(false));
    let reader = std::thread::spawn({
        let (stop, seen) = (Arc::clone(&stop), seen.clone());
        move || {
            while !stop.load(Ordering::Relaxed) {
                let text = fs::read_to_string(&seen).expect("the file is always there");
                assert!(
                    text.starts_with('#') && text.ends_with('\n') && text.contains("10.0.0.2 laptop"),
                    "{text:?}"
                );
            }
        }
    });
    let desktop = spawn_spoke(&lan.net, &lan.binaries, 1, &[]).unwrap();
    desktop.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
    let (hub, laptop) = (["10.0.0.1 hub", "fd00::1 hub"], ["10.0.0.2 laptop", "fd00::2 laptop"]);
    wait_for(&seen, &[["10.0.0.3 desktop", "fd00::fffe desktop"], hub, laptop].concat());
    // A member keeps its name while it is away.
    desktop.kill().unwrap();
    lan.hub.wait_for_line("desktop (10.0.0.3,fd00::fffe) left the LAN", SOON).unwrap();
    let renamed = spawn_spoke(&lan.net, &lan.binaries, 1, &["--name", "tower"]).unwrap();
    renamed.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
    wait_for(&seen, &[hub, laptop, ["10.0.0.3 tower", "fd00::fffe tower"]].concat());
    stop.store(true, Ordering::Relaxed);
    reader.join().unwrap();

    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&seen).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o644, "everyone may read it");
    let left: Vec<_> = fs::read_dir(seen.parent().unwrap())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains("lan.hosts"))
        .collect();
    assert_eq!(left, ["lan.hosts"], "nothing else is left");

    lan.spokes[0].signal(Signal::SIGTERM).unwrap();
    assert!(lan.spokes[0].wait_exit(SOON).unwrap().success());
    wait_for(&seen, &[]);
}

#[test]
fn a_file_that_is_not_ours_is_left_alone_and_a_directory_is_made() {
    let net = Net::named(&["laptop", "desktop"]).unwrap();
    let binaries = house::Binaries::find().unwrap();
    let _hub = house::start_hub(&net, &binaries, &[]).unwrap();
    let own = "127.0.0.1 localhost\n192.0.2.99 printer\n";
    net.spoke(0).set_file("/etc/hosts", own).unwrap();
    let refused = spawn_spoke(&net, &binaries, 0, &["--hosts", "/etc/hosts"]).unwrap();
    refused.wait_for_line("/etc/hosts was not made by this program", SOON).unwrap();
    assert!(!refused.wait_exit(SOON).unwrap().success());
    assert_eq!(fs::read_to_string(net.spoke(0).path("/etc/hosts")).unwrap(), own);

    let file = net.spoke(1).private().join("run/lan/hosts");
    let seen = net.spoke(1).path(&file);
    let spoke = spawn_spoke(&net, &binaries, 1, &["--hosts", &file.display().to_string()]).unwrap();
    spoke.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
    wait_for(&seen, &["10.0.0.3 desktop", "10.0.0.1 hub"]);
}

#[test]
fn links_pipes_and_devices_in_the_place_of_the_hosts_file_are_refused_and_stay() {
    let net = Net::named(&["laptop"]).unwrap();
    let binaries = house::Binaries::find().unwrap();
    let _hub = house::start_hub(&net, &binaries, &[]).unwrap();
    let (host, private) = (net.spoke(0), net.spoke(0).private());
    let own = "127.0.0.1 localhost\n192.0.2.99 printer\n";
    let at = |name: &str| host.path(private.join(name));
    fs::write(at("own"), own).unwrap();
    std::os::unix::fs::symlink(private.join("own"), at("link")).unwrap();
    std::os::unix::fs::symlink(private.join("nothing"), at("dangling")).unwrap();
    fs::hard_link(at("own"), at("hard")).unwrap();
    nix::unistd::mkfifo(&at("pipe"), nix::sys::stat::Mode::S_IRUSR).unwrap();
    // A file of ours in which someone has put lines ahead of the first one.
    let mixed = format!("192.0.2.98 scanner\n# Made by spoke --hosts; do not edit.\n{own}");
    fs::write(at("mixed"), &mixed).unwrap();
    for name in ["own", "link", "dangling", "hard", "pipe", "mixed", "null"] {
        let path = if name == "null" { PathBuf::from("/dev/null") } else { private.join(name) };
        let path = path.display().to_string();
        let before = fs::symlink_metadata(at(name)).map(|found| found.file_type()).ok();
        let refused = spawn_spoke(&net, &binaries, 0, &["--hosts", &path]).unwrap();
        refused.wait_for_line(&format!("{path} was not made by this program"), SOON).unwrap();
        assert!(!refused.wait_exit(SOON).unwrap().success());
        assert_eq!(fs::symlink_metadata(at(name)).map(|found| found.file_type()).ok(), before, "{name}");
    }
    assert_eq!(fs::read_to_string(at("own")).unwrap(), own);
    assert_eq!(fs::read_to_string(at("mixed")).unwrap(), mixed);
    assert!(!at("nothing").exists());
}

#[test]
fn dnsmasq_answers_with_the_names() {
    use std::io::Write as _;
    use std::process::Command;
    if Command::new("dnsmasq").arg("--version").output().is_err() {
        // Not by a macro, whose output would be held back.
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED: dnsmasq is not installed (Debian: apt install dnsmasq-base)"
        );
        return;
    }
    let net = Net::named(&["laptop", "desktop"]).unwrap();
    let file = net.spoke(0).private().join("lan.hosts").display().to_string();
    let lan = Lan::with_options(net, &[], &[&["--hosts", &file], &[]]).unwrap();
    wait_for(&lan.net.spoke(0).path(&file), &["10.0.0.3 desktop", "10.0.0.1 hub", "10.0.0.2 laptop"]);
    // As in docs/names.md.
    let mut command = Command::new("dnsmasq");
    command.args([
        "--keep-in-foreground",
        "--log-facility=-",
        "--no-resolv",
        "--no-hosts",
        "--conf-file=/dev/null",
    ]);
    command.args(["--user=root", "--pid-file=", "--listen-address=127.0.0.1", "--bind-interfaces"]);
    command.arg(format!("--addn-hosts={file}"));
    let host = lan.net.spoke(0);
    let dnsmasq = host.spawn("dnsmasq", &command).unwrap();
    dnsmasq.wait_for_line("read /var/lib/lan.hosts", SOON).unwrap();
    host.set_file("/etc/resolv.conf", "nameserver 127.0.0.1\n").unwrap();
    host.set_file("/etc/nsswitch.conf", "hosts: dns\n").unwrap();
    let mut command = Command::new("getent");
    command.args(["ahostsv4", "desktop"]);
    let output = host.output(command).unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("10.0.0.3 "), "{output:?}");
}

#[test]
fn nobody_is_called_localhost() {
    let net = Net::named(&["laptop", "localhost", "LapTop.example.com", "spoke3"]).unwrap();
    let file = net.spoke(0).private().join("lan.hosts");
    let seen = net.spoke(0).path(&file);
    let file = file.display().to_string();
    // Machines that are called so already get another name, and say it.
    let mut lan = Lan::with_options(net, &[], &[&["--hosts", &file], &[]]).unwrap();
    // Who is first has the name.
    let third = spawn_spoke(&lan.net, &lan.binaries, 2, &[]).unwrap();
    lan.spokes.push(third);
    lan.spokes[1].wait_for_line("on the LAN as 10.0.0.3 (localhost-2)", SOON).unwrap();
    let line = lan.spokes[1].wait_for_line("no machine can be called localhost", SOON).unwrap();
    assert!(line.contains("WARN"), "{line}");
    lan.spokes[2].wait_for_line("on the LAN as 10.0.0.4 (laptop-2)", SOON).unwrap();
    lan.spokes[2].wait_for_line("the name laptop is taken; this machine is laptop-2", SOON).unwrap();
    wait_for(&seen, &["10.0.0.1 hub", "10.0.0.2 laptop", "10.0.0.4 laptop-2", "10.0.0.3 localhost-2"]);
    // A person is told at once.
    for (name, why) in [
        ("localhost", "means something else"),
        ("WPAD", "means something else"),
        ("10", "read this name as an address"),
        ("www.example.com", "letters, digits or hyphens"),
    ] {
        let refused = spawn_spoke(&lan.net, &lan.binaries, 3, &["--name", name]).unwrap();
        refused.wait_for_line(why, SOON).unwrap();
        assert!(!refused.wait_exit(SOON).unwrap().success());
        house::ask_hub(&lan.net, &["invite", name]).fails_with(2, why);
    }
}

#[test]
fn whatever_a_machine_is_called_its_name_is_a_label_of_its_own() {
    let long = "a".repeat(63);
    let machines = [
        "m\u{fc}nchen",
        "LOCALHOST",
        "_gateway",
        "192.168.1.1",
        "laptop.",
        &long,
        &format!("{long}x")[..64],
        "hub",
    ];
    let net = Net::named(&machines).unwrap();
    let file = net.spoke(0).private().join("lan.hosts");
    let seen = net.spoke(0).path(&file);
    let file = file.display().to_string();
    let mut lan = Lan::with_options(net, &[], &[&["--hosts", &file]]).unwrap();
    for i in 1..machines.len() {
        let spoke = spawn_spoke(&lan.net, &lan.binaries, i, &[]).unwrap();
        spoke.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
        lan.spokes.push(spoke);
    }
    let shortened = format!("10.0.0.8 {}-2", "a".repeat(61));
    let expected = [
        &format!("10.0.0.7 {long}"),
        &shortened,
        "10.0.0.4 gateway",
        "10.0.0.1 hub",
        "10.0.0.9 hub-2",
        "10.0.0.6 laptop",
        "10.0.0.3 localhost-2",
        "10.0.0.2 m-nchen",
        "10.0.0.5 192-2",
    ];
    let start = Instant::now();
    loop {
        let text = fs::read_to_string(&seen).unwrap();
        let mut lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let mut expected = expected.to_vec();
        lines.sort_unstable();
        expected.sort_unstable();
        if lines == expected {
            break;
        }
        assert!(start.elapsed() < SOON, "{lines:#?}\n is not {expected:#?}");
        std::thread::sleep(Duration::from_millis(5));
    }
    // What a person types is refused with the reason; the longest label is none too many.
    let too_long = "b".repeat(64);
    for (name, why) in [
        ("m\u{fc}nchen", "letters, digits"),
        ("xn--mnchen-3ya", "letters, digits or hyphens"),
        ("laptop.", "letters, digits or hyphens"),
        ("_x", "letters, digits or hyphens"),
        ("0x7F000001", "read this name as an address"),
        ("127", "read this name as an address"),
        ("IP6-LocalHost", "means something else"),
        (too_long.as_str(), "1 to 63"),
    ] {
        let refused = spawn_spoke(&lan.net, &lan.binaries, 0, &["--name", name]).unwrap();
        refused.wait_for_line(why, SOON).unwrap();
        assert!(!refused.wait_exit(SOON).unwrap().success(), "{name}");
        house::ask_hub(&lan.net, &["invite", name]).fails_with(2, why);
    }
    lan.spokes[0].kill().unwrap();
    let longest = "b".repeat(63);
    let spoke = spawn_spoke(&lan.net, &lan.binaries, 0, &["--name", &longest]).unwrap();
    spoke.wait_for_line(&format!("({longest})"), SOON).unwrap();
}

#[test]
fn the_hub_is_told_under_its_machines_name_which_no_member_can_have() {
    let net = Net::named(&["laptop", "hub"]).unwrap();
    let file = net.spoke(0).private().join("lan.hosts");
    let seen = net.spoke(0).path(&file);
    let lan = Lan::with_options(net, &[], &[&["--hosts", &file.display().to_string()], &[]]).unwrap();
    lan.spokes[1].wait_for_line("on the LAN as 10.0.0.3 (hub-2)", SOON).unwrap();
    wait_for(&seen, &["10.0.0.1 hub", "10.0.0.3 hub-2", "10.0.0.2 laptop"]);
    assert_eq!(house::ask_spoke(&lan.net, 0, &["resolve", "hub"]).good(), "10.0.0.1\n");
    let status = house::ask_spoke(&lan.net, 0, &["status"]).good();
    assert!(status.contains("hub     10.0.0.1  online"), "{status}");
    house::ask_hub(&lan.net, &["lock"]).good();
    house::ask_hub(&lan.net, &["rename", "laptop", "hub"]).fails_with(1, "hub is the hub's own name");
    house::ask_hub(&lan.net, &["invite", "hub"]).fails_with(1, "hub is the hub's own name");
}

/// What a host's device has received.
fn received(host: &Host) -> u64 {
    let devices = host.run(|| fs::read_to_string("/proc/thread-self/net/dev")).unwrap();
    let (_, counts) = devices.split_once("eth0:").unwrap();
    counts.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn of_thousands_of_members_only_those_that_change_are_told_again() {
    let net = Net::named(&["laptop", "desktop"]).unwrap();
    let binaries = Binaries::find().unwrap();
    let directory = make_state(net.hub(), "hub").unwrap();
    let line = |at: usize| format!("{} m{at:05} fd00::1:{at:x}\n", house::nobodys_key(at));
    fs::write(directory.join("members"), (0..5_000).map(line).collect::<String>()).unwrap();
    let _hub = start_hub(&net, &binaries, &["--subnet", "fd00::/64"]).unwrap();
    let file = net.spoke(0).private().join("lan.hosts");
    let seen = net.spoke(0).path(&file);
    let first = received(net.spoke(0));
    let laptop = spawn_spoke(&net, &binaries, 0, &["--hosts", &file.display().to_string()]).unwrap();
    laptop.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
    let has = |line: &str| fs::read_to_string(&seen).unwrap_or_default().lines().any(|other| other == line);
    await_true("the first list", SOON, || has("fd00::1:1387 m04999"));
    let before = received(net.spoke(0));
    assert!(before - first > 100_000, "{} bytes for all", before - first);

    // One comes, one is called otherwise, one is gone, and all of them are told.
    let desktop = spawn_spoke(&net, &binaries, 1, &[]).unwrap();
    desktop.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
    await_true("a newcomer", SOON, || has("10.0.0.3 desktop"));
    house::ask_hub(&net, &["lock"]).good();
    house::ask_hub(&net, &["rename", "m00007", "seven"]).good();
    house::ask_hub(&net, &["forget", "m00008"]).good();
    await_true("the changes", SOON, || {
        has("fd00::1:7 seven")
            && !has("fd00::1:7 m00007")
            && !has("fd00::1:8 m00008")
            && has("fd00::1:9 m00009")
    });
    // Who comes and goes is no change of names: nothing is told, and the file not written, while two notifications would have
    // come.
    let written = fs::metadata(&seen).unwrap().ino();
    desktop.kill().unwrap();
    let desktop = spawn_spoke(&net, &binaries, 1, &[]).unwrap();
    desktop.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(fs::metadata(&seen).unwrap().ino(), written, "who was away and is back was told");
    let told = received(net.spoke(0)) - before;
    assert!(told < 20_000, "{told} bytes for four changes");
}
