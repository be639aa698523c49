//! Discovery with a real program: avahi-daemon, on two spokes.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests of IO")]

use std::fs;
use std::io::Write as _;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::house::{Host, Lan, Process};

const SOON: Duration = Duration::from_secs(20);

/// What docs/lan.md says about point-to-point devices, and nothing that the machine itself has.
const CONFIG: &str = "[server]\nallow-interfaces=spoke0\nallow-point-to-point=yes\nuse-ipv4=yes\nuse-ipv6=yes\n\
                      [rlimits]\n";

#[test]
fn avahi_finds_names_through_the_hub() {
    for program in ["avahi-daemon", "avahi-resolve", "dbus-daemon"] {
        let found = Command::new(program).arg("--version").output();
        if found.is_err() {
            // Not by a macro, whose output would be held back.
            let _ = writeln!(
                std::io::stderr(),
                "SKIPPED: {program} is not installed (Debian: apt install avahi-daemon avahi-utils dbus)"
            );
            return;
        }
    }
    let lan = Lan::dual(2).unwrap();
    let _daemons = [0, 1].map(|i| start_avahi(lan.net.spoke(i)));
    for (from, name, family, address) in [
        (0, "spoke1.local", "-4", Lan::address(1).to_string()),
        (1, "spoke0.local", "-4", Lan::address(0).to_string()),
        (0, "spoke1.local", "-6", "fd00::3".to_owned()),
    ] {
        let line = resolve(lan.net.spoke(from), name, family);
        let found = line.split_whitespace().nth(1).unwrap_or_default();
        let is_link_local = family == "-6" && found == "fe80::3";
        assert!(found == address || is_link_local, "{name}: {line}");
    }
}

/// A bus and a daemon of the host's own, with their sockets in a directory that no other host sees.
fn start_avahi(host: &Host) -> [Process; 2] {
    let private = host.private().to_owned();
    let bus = private.join("bus").display().to_string();
    let run = private.join("run");
    fs::create_dir(host.path(&run)).unwrap();
    host.run({
        let run = run.clone();
        move || {
            use nix::mount::{MsFlags, mount};
            let nothing = None::<&std::path::Path>;
            mount(Some(&run), "/run", nothing, MsFlags::MS_BIND, nothing)
        }
    })
    .unwrap();
    fs::create_dir(host.path("/run/dbus")).unwrap();
    // The whole policy: everything is allowed on this bus of one host.
    let policy = format!(
        "<busconfig><type>system</type><listen>unix:path={bus}</listen>\
         <auth>EXTERNAL</auth><policy context=\"default\"><allow user=\"*\"/><allow own=\"*\"/>\
         <allow send_type=\"method_call\"/><allow send_type=\"signal\"/>\
         <allow send_type=\"method_return\"/><allow send_type=\"error\"/>\
         <allow receive_type=\"method_call\"/><allow receive_type=\"signal\"/>\
         <allow receive_type=\"method_return\"/><allow receive_type=\"error\"/></policy></busconfig>"
    );
    fs::write(host.path(private.join("bus.conf")), policy).unwrap();
    fs::write(host.path(private.join("avahi.conf")), CONFIG).unwrap();
    let mut command = Command::new("dbus-daemon");
    command.args(["--nofork", "--nopidfile", "--print-address"]);
    command.arg(format!("--config-file={}", private.join("bus.conf").display()));
    let dbus = host.spawn("dbus", &command).unwrap();
    dbus.wait_for_line("unix:path", SOON).unwrap();
    let mut command = Command::new("avahi-daemon");
    command.args(["--no-drop-root", "--no-chroot", "--no-rlimits"]);
    command.arg("--file").arg(private.join("avahi.conf"));
    command.env("DBUS_SYSTEM_BUS_ADDRESS", format!("unix:path={bus}"));
    let avahi = host.spawn("avahi", &command).unwrap();
    avahi.wait_for_line("Server startup complete", SOON).unwrap();
    [avahi, dbus]
}

/// The answer of avahi-resolve, asked again until there is one: a daemon takes a while to know its neighbours.
fn resolve(host: &Host, name: &str, family: &str) -> String {
    let bus = format!("unix:path={}", host.private().join("bus").display());
    let start = Instant::now();
    loop {
        let mut command = Command::new("avahi-resolve");
        command.args([family, "--name", name]).env("DBUS_SYSTEM_BUS_ADDRESS", &bus);
        // It exits with success whether or not there was an answer.
        let output = host.output(command).unwrap();
        let line = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if !line.is_empty() {
            return line;
        }
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        assert!(start.elapsed() < SOON, "{name} {family}: {said}");
    }
}
