//! The Debian packages, from installation to purge, on machines with a service manager.
//!
//! Long, and not part of the suite: it builds the packages, and the first time a Debian root.
//! ```sh
//! cargo install cargo-deb && apt-get install debootstrap
//! cargo test -p hub --test packages -- --ignored --nocapture
//! ```
//! `DEBIAN_ROOT=DIR` takes a root that was made before, with the packages of [`INCLUDED`].

#![allow(clippy::disallowed_methods, clippy::print_stdout, clippy::unwrap_used, reason = "tests of IO")]

#[path = "house/mod.rs"]
mod house;
#[path = "packages/machine.rs"]
mod machine;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use house::{Net, Process, await_true};
use machine::Machine;

/// What a root has beside the least.
const INCLUDED: &str = "systemd,systemd-sysv,dbus,iproute2,iputils-ping";
const BACK: Duration = Duration::from_secs(20);
/// How long the LAN may be away while a program is replaced.
const MAX_GAP: Duration = Duration::from_secs(1);

fn built() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).to_owned()
}

/// A Debian root.
fn debian() -> PathBuf {
    if let Some(given) = std::env::var_os("DEBIAN_ROOT") {
        return given.into();
    }
    let root = built().join("debian");
    if !root.join("lib/systemd/systemd").exists() {
        let mut command = Command::new("debootstrap");
        command.args(["--variant=minbase", &format!("--include={INCLUDED}"), "stable"]).arg(&root);
        let made = command.status().is_ok_and(|status| status.success());
        assert!(made, "debootstrap does not make a root: apt-get install debootstrap");
    }
    root
}

/// A package of this crate, with a revision.
fn package(name: &str, revision: u32) -> PathBuf {
    let file = built().join(format!("lan-{name}_{revision}.deb"));
    let version = format!("{}-{revision}", env!("CARGO_PKG_VERSION"));
    let mut command = Command::new("cargo");
    command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
    command.args(["deb", "-p", name, "--deb-version", &version, "-o"]).arg(&file);
    assert!(command.status().unwrap().success(), "cargo deb does not make it: cargo install cargo-deb");
    file
}

/// Pings that go on.
struct Pings(Process);

impl Pings {
    fn start(from: &Machine<'_>, host: &house::Host) -> Pings {
        let pings = host.spawn("ping", &from.command("exec ping -D -i 0.05 10.0.0.1")).unwrap();
        pings.wait_for_line("icmp_seq=", BACK).unwrap();
        Pings(pings)
    }

    /// The longest time without an answer, once they are answered again.
    fn longest_gap(self) -> Duration {
        self.0.wait_for_line_after(self.0.mark(), "icmp_seq=", BACK).unwrap();
        let lines = self.0.lines();
        let answers = lines.iter().filter(|line| line.contains("bytes from"));
        let times: Vec<f64> =
            answers.map(|line| line[1..].split_once(']').unwrap().0.parse().unwrap()).collect();
        let gaps = times.windows(2).map(|two| two[1] - two[0]);
        Duration::from_secs_f64(gaps.fold(0.0, f64::max))
    }
}

#[test]
#[ignore = "long: builds the packages and a Debian root"]
fn packages_are_installed_upgraded_and_purged() {
    let root = debian();
    let [hubs, spokes] = ["hub", "spoke"].map(|name| [1, 2].map(|revision| package(name, revision)));
    let net = Net::new(1).unwrap();
    let (mut server, mut laptop) = (Machine::boot(net.hub(), &root), Machine::boot(net.spoke(0), &root));
    let before = [server.files(), laptop.files()].map(BTreeSet::from_iter);

    // Nothing runs by itself.
    for (machine, package, unit) in [(&server, &hubs[0], "hub"), (&laptop, &spokes[0], "spoke@home")] {
        machine.run(&format!("dpkg -i {}", machine.take(package))).good();
        assert_eq!(machine.systemctl(&format!("is-enabled {unit}")).as_deref(), Some("disabled"));
        assert_eq!(machine.systemctl(&format!("is-active {unit}")).as_deref(), Some("inactive"));
    }
    laptop.run("mkdir -p /etc/spoke && echo 'hub = [\"192.0.2.1\"]' >/etc/spoke/home.toml").good();
    let ping = || laptop.run("ping -c 1 -W 1 10.0.0.1");
    // Each start returns once the service is ready.
    server.enable("hub");
    laptop.enable("spoke@home");
    ping().good();
    for (machine, unit) in [(&server, "hub"), (&laptop, "spoke@home")] {
        let log = machine.run(&format!("journalctl -o cat -p warning -u {unit}")).good();
        let odd: Vec<&str> = log.lines().filter(|line| !line.starts_with("open: anyone")).collect();
        assert!(odd.is_empty(), "{odd:#?}");
        let security = machine.run(&format!("systemd-analyze security --no-pager {unit}")).good();
        println!("{}", security.lines().last().unwrap_or_default());
    }
    assert!(server.run("hub status").good().contains("1 of 1 members online"));
    let key = server.run("hub status --json | grep -o '\"key\":\"[^\"]*\"'").good();

    for (machine, package, name) in [(&server, &hubs[1], "lan-hub"), (&laptop, &spokes[1], "lan-spoke")] {
        let pings = Pings::start(&laptop, net.spoke(0));
        let start = Instant::now();
        machine.run(&format!("dpkg -i {}", machine.take(package))).good();
        let took = start.elapsed();
        thread::sleep(MAX_GAP);
        let gap = pings.longest_gap();
        println!("upgrade of {name}: {took:?}, the longest gap between answers {gap:?}");
        assert!(gap <= MAX_GAP, "{name}: {gap:?}");
        assert!(machine.run(&format!("dpkg -s {name}")).good().contains("-2\n"));
    }

    // The power fails.
    for machine in [&mut server, &mut laptop] {
        machine.reboot();
    }
    let ping = || laptop.run("ping -c 1 -W 1 10.0.0.1");
    await_true("the LAN is there after a reboot", BACK, || ping().code == Some(0));
    assert_eq!(server.run("hub status --json | grep -o '\"key\":\"[^\"]*\"'").good(), key);

    // Removed, the state stays; installed again, it is the same hub with the same member.
    for (machine, name, unit, state) in [
        (&server, "lan-hub", "hub", "/var/lib/hub/key"),
        (&laptop, "lan-spoke", "spoke@home", "/var/lib/spoke/home/key"),
    ] {
        machine.run(&format!("apt-get remove -y {name}")).good();
        assert_eq!(machine.systemctl(&format!("is-active {unit}")).as_deref(), Some("inactive"));
        machine.run(&format!("test -s {state}")).good();
        assert!(machine.run("ip -o link").good().lines().count() == 2, "its device is gone");
    }
    for (machine, package, unit) in [(&server, &hubs[1], "hub"), (&laptop, &spokes[1], "spoke@home")] {
        machine.run(&format!("dpkg -i {}", machine.take(package))).good();
        machine.enable(unit);
    }
    ping().good();
    assert!(server.run("hub status").good().contains("1 of 1 members online"));

    for (machine, name, before) in [(&server, "lan-hub", &before[0]), (&laptop, "lan-spoke", &before[1])] {
        machine.run(&format!("apt-get purge -y {name}")).good();
        let after: BTreeSet<String> = machine.files().into_iter().collect();
        let left: Vec<&String> = after.symmetric_difference(before).collect();
        assert!(left.is_empty(), "{name}: {left:#?}");
        let failed = machine.run("systemctl --failed --no-legend").good();
        assert!(!failed.contains("hub") && !failed.contains("spoke"), "{failed}");
    }
}
