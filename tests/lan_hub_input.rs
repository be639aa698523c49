//! What the hub says to a machine or a command line that it can't work with.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests of IO")]

use std::fs;
use std::net::Ipv6Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::mount::{MsFlags, mount};

use crate::house::{Binaries, HUB_LISTENS, Host, state};

const SOON: Duration = Duration::from_secs(5);

#[test]
fn subnets_that_cannot_be_are_refused() {
    let host = Host::new("hub").unwrap();
    for (subnet, why) in [
        ("10.0.0.5/24", "10.0.0.0/24"),
        ("10.0.0.0/31", "too small"),
        ("10.0.0.1/32", "too small"),
        ("10.0.0.0", "prefix"),
        ("10.0.0.0/33", "--subnet"),
        ("ten", "--subnet"),
        ("", "--subnet"),
        ("224.0.0.0/8", "not for hosts"),
        ("240.0.0.0/8", "not for hosts"),
        ("255.255.255.252/30", "not for hosts"),
    ] {
        fails(&host, &hub(&["--subnet", subnet]), &[why]);
    }
    fails(&host, &hub(&[]), &["--subnet"]);
}

#[test]
fn other_arguments_that_cannot_be_are_refused() {
    let host = Host::new("hub").unwrap();
    for (option, value, part) in [
        ("--listen", "nowhere", "--listen"),
        ("--listen", "0.0.0.0", "--listen"),
        ("--listen", "0.0.0.0:70000", "--listen"),
        ("--mtu", "0", "MTU"),
        ("--mtu", "67", "MTU"),
        ("--mtu", "65536", "MTU"),
        ("--mtu", "big", "--mtu"),
        ("--tun", "a-name-that-is-too-long", "--tun"),
        ("--tun", "a/b", "--tun"),
        ("--tun", "", "--tun"),
    ] {
        fails(&host, &hub(&["--subnet", "10.0.0.0/24", option, value]), &[part]);
    }
    fails(&host, &hub(&["--subnet", "10.0.0.0/24", "--frobnicate"]), &["--frobnicate"]);
}

#[test]
fn without_the_right_it_says_so() {
    let host = Host::new("hub").unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set=-net_admin", "--"]).arg(Binaries::find().unwrap().hub);
    command.args(["--subnet", "10.0.0.0/24"]);
    fails(&host, &command, &["root"]);
}

#[test]
fn without_a_tun_device_it_says_how_to_get_one() {
    let host = Host::new("hub").unwrap();
    hide_tun(&host);
    fails(&host, &hub(&["--subnet", "10.0.0.0/24"]), &["/dev/net/tun", "modprobe tun"]);
}

#[test]
fn a_taken_device_name_is_told() {
    let host = Host::new("hub").unwrap();
    host.ip("link add hub0 type veth peer name other").unwrap();
    let program = host.spawn("hub", &hub(&["--subnet", "10.0.0.0/24"])).unwrap();
    assert_ne!(program.wait_exit(SOON).unwrap().code(), Some(0));
    let line = program.wait_for_line("hub0", SOON).unwrap();
    assert!(line.contains("--tun"), "{line}");
    let other = host.spawn("hub", &hub(&["--subnet", "10.0.0.0/24", "--tun", "hub1"])).unwrap();
    other.wait_for_line(HUB_LISTENS, SOON).unwrap();
}

#[test]
fn a_taken_port_is_told() {
    let host = Host::new("hub").unwrap();
    let _listener = host.tcp_listen((Ipv6Addr::UNSPECIFIED, 5678)).unwrap();
    fails(&host, &hub(&["--subnet", "10.0.0.0/24"]), &["5678", "in use", "--listen"]);
    let other = host.spawn("hub", &hub(&["--subnet", "10.0.0.0/24", "--listen", "127.0.0.1:5679"])).unwrap();
    other.wait_for_line(HUB_LISTENS, SOON).unwrap();
}

#[test]
fn without_ipv6_it_listens_on_ipv4() {
    let host = Host::new("hub").unwrap();
    for name in ["all", "default", "lo"] {
        let path = format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6");
        host.run(move || fs::write(path, "1")).unwrap();
    }
    let program = host.spawn("hub", &hub(&["--subnet", "10.0.0.0/24"])).unwrap();
    program.wait_for_line(HUB_LISTENS, SOON).unwrap();
    host.tcp_connect(([127, 0, 0, 1], 5678), SOON).unwrap();
}

#[test]
fn a_state_directory_is_for_one_hub() {
    let host = Host::new("hub").unwrap();
    let first = host.spawn("hub", &hub(&["--subnet", "10.0.0.0/24"])).unwrap();
    first.wait_for_line(HUB_LISTENS, SOON).unwrap();
    let arguments = ["--subnet", "10.1.0.0/24", "--tun", "hub1", "--listen", "127.0.0.1:1"];
    let second = host.spawn("hub", &hub(&arguments)).unwrap();
    assert_ne!(second.wait_exit(SOON).unwrap().code(), Some(0));
    let line = second.wait_for_line("in use", SOON).unwrap();
    assert!(line.contains("--state"), "{line}");
}

#[test]
fn damaged_state_is_named_and_left_alone() {
    let host = Host::new("hub").unwrap();
    let directory = used_state(&host);
    let subnet = ["--subnet", "10.0.0.0/24"];

    let members = directory.join("members");
    let text = "# mine\n\nnonsense\n";
    fs::write(&members, text).unwrap();
    fails(&host, &hub(&subnet), &["members", "line 3"]);
    assert_eq!(fs::read_to_string(&members).unwrap(), text);
    fs::remove_file(&members).unwrap();

    // Not text, and not a file.
    fs::write(&members, [0xff, 0xfe, 0]).unwrap();
    fails(&host, &hub(&subnet), &["members"]);
    assert_eq!(fs::read(&members).unwrap(), [0xff, 0xfe, 0]);
    fs::remove_file(&members).unwrap();
    fs::create_dir(&members).unwrap();
    fails(&host, &hub(&subnet), &["members"]);
    fs::remove_dir(&members).unwrap();

    let key = directory.join("key");
    let good = fs::read_to_string(&key).unwrap();
    for bad in ["", "nonsense\n", &good[..20]] {
        fs::write(&key, bad).unwrap();
        fails(&host, &hub(&subnet), &["key", "line 1"]);
        assert_eq!(fs::read_to_string(&key).unwrap(), bad);
    }
    fs::write(&key, &good).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    fails(&host, &hub(&subnet), &["chmod 600", "key"]);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o777)).unwrap();
    fails(&host, &hub(&subnet), &["chmod 700"]);
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o700)).unwrap();

    let program = host.spawn("hub", &hub(&subnet)).unwrap();
    program.wait_for_line(HUB_LISTENS, SOON).unwrap();
}

#[test]
fn a_state_path_that_cannot_be_used_is_told() {
    let host = Host::new("hub").unwrap();
    fs::write(host.path(host.private().join("file")), "").unwrap();
    for state in ["file", "file/below"] {
        let state = host.private().join(state);
        let mut command = hub(&["--subnet", "10.0.0.0/24", "--state"]);
        command.arg(&state);
        fails(&host, &command, &[state.to_str().unwrap()]);
    }
}

fn hub(arguments: &[&str]) -> Command {
    let mut command = Command::new(Binaries::find().unwrap().hub);
    command.args(arguments);
    command
}

/// The state directory of a hub that has run.
fn used_state(host: &Host) -> PathBuf {
    let program = host.spawn("hub", &hub(&["--subnet", "10.0.0.0/24"])).unwrap();
    program.wait_for_line(HUB_LISTENS, SOON).unwrap();
    state(host, "hub")
}

/// The program ends by itself, with a code that is not zero and one line with all `parts`, and no device is
/// left.
fn fails(host: &Host, command: &Command, parts: &[&str]) {
    let program = host.spawn("hub", command).unwrap();
    let status = program.wait_exit(SOON).unwrap();
    let lines = program.lines();
    assert!(status.code().is_some_and(|code| code != 0), "{command:?}: {status}");
    let said = lines.iter().any(|line| parts.iter().all(|part| line.contains(part)));
    assert!(said, "{command:?}: no line with {parts:?} in {lines:#?}");
    assert!(lines.len() <= 3 && !lines.iter().any(|line| line.contains("panicked")), "{lines:#?}");
    let interfaces = host.run(|| fs::read_to_string("/proc/thread-self/net/dev")).unwrap();
    assert!(!interfaces.contains("hub0"), "{command:?} has left {interfaces}");
}

fn hide_tun(host: &Host) {
    let nothing = None::<&Path>;
    host.run(move || mount(Some("tmpfs"), "/dev/net", Some("tmpfs"), MsFlags::empty(), nothing)).unwrap();
}
