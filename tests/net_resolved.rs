//! Names by systemd-resolved: `spoke resolved` and `hub resolved` have it ask our name servers.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests of IO")]

use std::fs::{self, File};
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::mount::{MsFlags, mount};

use crate::house::{self, Binaries, Host, Lan, Net, Process, ask_hub, await_true, is_missing};

const SOON: Duration = Duration::from_secs(20);
/// The user of the bus and of resolved; nobody of the machine.
const USER: u32 = 61_235;
/// Where .ci/run unpacks Debian's package where it is not installed.
const UNPACKED: &str = "/opt/resolved";

/// A bus without rules: only this test is on it.
const BUS: &str = r#"<busconfig>
<type>system</type><listen>unix:path=/run/dbus/system_bus_socket</listen><auth>EXTERNAL</auth>
<policy context="default">
<allow user="*"/><allow own="*"/><allow send_type="method_call"/><allow send_type="signal"/>
<allow send_type="method_return"/><allow send_type="error"/><allow receive_type="method_call"/>
<allow receive_type="method_return"/><allow receive_type="error"/><allow receive_type="signal"/>
</policy></busconfig>
"#;

/// systemd-resolved and its bus on a host.
struct Resolved {
    _programs: [Process; 2],
    path: String,
}

impl Resolved {
    /// `None`, and a line that says so, where it is not installed.
    fn start(host: &Host) -> Option<Resolved> {
        let places = ["", UNPACKED].map(|root| format!("{root}/lib/systemd/systemd-resolved"));
        let found = places.iter().find(|place| Path::new(place).exists());
        let Some(program) = found else {
            is_missing("systemd-resolved", "systemd-resolved");
            return None;
        };
        if is_missing("dbus-daemon", "dbus-daemon") {
            return None;
        }
        let tmpfs = Some("tmpfs");
        host.run(move || mount(tmpfs, "/run", tmpfs, MsFlags::empty(), Some("mode=755"))).unwrap();
        for directory in ["/run/dbus", "/run/systemd/resolve"] {
            fs::create_dir_all(host.path(directory)).unwrap();
        }
        chown(host.path("/run/systemd/resolve"), Some(USER), Some(USER)).unwrap();
        for (file, line) in [
            ("/etc/passwd", format!("systemd-resolve:x:{USER}:{USER}::/:/usr/sbin/nologin\n")),
            ("/etc/group", format!("systemd-resolve:x:{USER}:\n")),
        ] {
            let kept = fs::read_to_string(file).unwrap();
            let others = kept.lines().filter(|line| !line.starts_with("systemd-resolve:"));
            host.put(file, &(others.map(|line| format!("{line}\n")).collect::<String>() + &line));
        }
        host.put("/etc/resolv.conf", "nameserver 127.0.0.53\n");
        host.put("/var/lib/bus.conf", BUS);
        let mut command = Command::new("dbus-daemon");
        command.args(["--config-file=/var/lib/bus.conf", "--nofork", "--nopidfile"]);
        let bus = host.spawn("dbus-daemon", &command).unwrap();
        await_true("systemd-resolved", SOON, || host.path("/run/dbus/system_bus_socket").exists());
        let resolved = host.spawn("systemd-resolved", &Command::new(program)).unwrap();
        let path = format!("{UNPACKED}/usr/bin:{}", std::env::var("PATH").unwrap());
        let started = Resolved { _programs: [bus, resolved], path };
        await_true("systemd-resolved", SOON, || started.run(host, "resolvectl", "status").code == Some(0));
        Some(started)
    }

    fn run(&self, host: &Host, program: &str, arguments: &str) -> house::Said {
        let mut command = Command::new(program);
        command.args(arguments.split_ascii_whitespace()).env("PATH", &self.path);
        house::run(host, command)
    }
}

#[test]
fn the_systems_resolver_finds_members_after_spoke_resolved_and_hub_resolved() {
    let net = Net::named(&["laptop", "desktop"]).unwrap();
    let (Some(of_laptop), Some(of_hub)) = (Resolved::start(net.spoke(0)), Resolved::start(net.hub())) else {
        return;
    };
    let binaries = Binaries::find().unwrap();
    let of_spokes: [&[&str]; 2] =
        [&["--ip", "fd00::2", "--dns", "--zone=home.example.org"], &["--ip", "fd00::3"]];
    let lan = Lan::with_options(net, &["--subnet", "fd00::/64", "--dns"], &of_spokes).unwrap();
    let (hub, laptop) = (lan.net.hub(), lan.net.spoke(0));
    let unknown = of_laptop.run(laptop, "getent", "hosts desktop.home.example.org");
    assert_ne!(unknown.code, Some(0), "{}", unknown.out);

    let program = binaries.spoke.to_str().unwrap();
    let said = of_laptop.run(laptop, program, "resolved");
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert!(
        said.err.contains("systemd-resolved asks 10.0.0.2 and fd00::2 for names in home.example.org"),
        "{}",
        said.err
    );
    let finds = |resolved: &Resolved, host: &Host, asked: &str, expected: &str| {
        await_true("systemd-resolved", SOON, || resolved.run(host, "getent", asked).out.contains(expected));
    };
    finds(&of_laptop, laptop, "ahostsv4 desktop.home.example.org", "10.0.0.3");
    finds(&of_laptop, laptop, "ahostsv6 desktop.home.example.org", "fd00::3");
    finds(&of_laptop, laptop, "hosts 10.0.0.3", "desktop.home.example.org");
    finds(&of_laptop, laptop, "hosts fd00::3", "desktop.home.example.org");

    let said = of_hub.run(hub, binaries.hub.to_str().unwrap(), "resolved");
    assert_eq!(said.code, Some(0), "{}", said.err);
    finds(&of_hub, hub, "ahostsv4 desktop.lan", "10.0.0.3");
    // It goes with the device.
    lan.spokes[0].signal(nix::sys::signal::Signal::SIGTERM).unwrap();
    lan.spokes[0].wait_exit(SOON).unwrap();
    let gone = of_laptop.run(laptop, "resolvectl", "domain");
    assert!(!gone.out.contains("home.example.org"), "{}", gone.out);
}

#[test]
fn what_is_missing_is_said() {
    let lan = Lan::with_options(Net::new(2).unwrap(), &[], &[&["--dns"], &[]]).unwrap();
    let mut command = Command::new(Binaries::find().unwrap().spoke);
    command.arg("resolved");
    house::run(lan.net.spoke(1), command).fails("answers for no names: start it with --dns");
    ask_hub(&lan.net, &["resolved"]).fails("answers for no names: start it with --dns");
    let empty = lan.net.spoke(0).private().join("empty");
    fs::create_dir(lan.net.spoke(0).path(&empty)).unwrap();
    let mut command = Command::new(Binaries::find().unwrap().spoke);
    command.arg("resolved").env("PATH", &empty);
    house::run(lan.net.spoke(0), command).fails("is systemd-resolved installed?");
    // Where no bus is, resolvectl has its say.
    let resolvectl = empty.join("resolvectl");
    File::create(lan.net.spoke(0).path(&resolvectl)).unwrap();
    lan.net.spoke(0).put(resolvectl.to_str().unwrap(), "#!/bin/sh\necho no bus >&2; exit 1\n");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(lan.net.spoke(0).path(&resolvectl), mode).unwrap();
    let mut command = Command::new(Binaries::find().unwrap().spoke);
    command.arg("resolved").env("PATH", &empty);
    house::run(lan.net.spoke(0), command).fails("resolvectl dns spoke0: no bus");
}
