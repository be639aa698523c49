//! The Debian packages, from installation to purge, on machines with a service manager; and static programs.
//!
//! Long, and not part of the suite: it builds the packages and programs, and the first time a Debian root.
//! ```sh
//! cargo install cargo-deb && apt-get install debootstrap
//! cargo test -p hub --test e2e packages -- --ignored --nocapture
//! ```
//! `DEBIAN_ROOT=DIR` takes a root that was made before, with the packages of [`INCLUDED`].

#![allow(clippy::disallowed_methods, clippy::print_stdout, clippy::unwrap_used, reason = "tests of IO")]

#[path = "packages/machine.rs"]
mod machine;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::house::{self, HUB_LISTENS, Lan, Net, Process, SPOKE_ON_LAN, await_true, ping};
use machine::Machine;
use nix::sys::stat::{Mode, SFlag, makedev, mknod};

/// What a root has beside the least.
const INCLUDED: &str = "systemd,systemd-sysv,dbus,iproute2,iputils-ping";
const BACK: Duration = Duration::from_secs(20);
/// How long the LAN may be away while a program is replaced.
const MAX_GAP: Duration = Duration::from_secs(1);
/// What a package may take on disk: a program with debug info is five times as large.
const MAX_KIB: u32 = 8_000;

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

/// Builds both programs for a target that links statically.
fn build_static(target: &str) -> PathBuf {
    let mut command = Command::new("cargo");
    command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
    command.args([
        "build",
        "--profile",
        "dist",
        "--locked",
        "--bins",
        "-p",
        "hub",
        "-p",
        "spoke",
        "--target",
        target,
    ]);
    let made = command.status().unwrap().success();
    assert!(made, "it does not build: docs/install.md says what {target} takes");
    let targets = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let targets = targets.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"));
    targets.join(target).join("dist")
}

/// A program in a root that has nothing but it, the TUN device and a hosts file; by an emulator, if need be.
fn run_alone(host: &house::Host, program: &Path, emulator: Option<&str>, arguments: &[&str]) -> Process {
    let root = host.private().join("alone");
    let files = [("program", Some(program.to_owned())), ("emulator", emulator.map(PathBuf::from))];
    host.run({
        let root = root.clone();
        move || {
            for directory in ["dev/net", "etc"] {
                fs::create_dir_all(root.join(directory)).unwrap();
            }
            for (name, file) in files.into_iter().filter_map(|(name, file)| Some((name, file?))) {
                fs::copy(file, root.join(name)).unwrap();
            }
            fs::write(root.join("etc/hosts"), "192.0.2.1 hub.example.org\n").unwrap();
            let (kind, mode) = (SFlag::S_IFCHR, Mode::from_bits_truncate(0o600));
            mknod(&root.join("dev/net/tun"), kind, mode, makedev(10, 200)).unwrap();
        }
    });
    let mut command = Command::new("chroot");
    command.arg(root).args(emulator.map(|_| "/emulator"));
    command.args(["/program", "--state", "/state"]).args(arguments);
    host.spawn(host.name(), &command).unwrap()
}

/// A LAN of two static programs, each alone in its root. Returns what they warned of.
fn run_static(target: &str, emulator: Option<&str>) -> Vec<String> {
    let programs = build_static(target);
    let net = Net::new(1).unwrap();
    let arguments = ["--subnet", "10.0.0.0/24"];
    let hub = run_alone(net.hub(), &programs.join("hub"), emulator, &arguments);
    hub.wait_for_line(HUB_LISTENS, BACK).unwrap();
    let arguments = ["--hub", "hub.example.org", "--ip", "10.0.0.2"];
    let spoke = run_alone(net.spoke(0), &programs.join("spoke"), emulator, &arguments);
    spoke.wait_for_line(SPOKE_ON_LAN, BACK).unwrap();
    ping(net.spoke(0), Lan::hub_address().into(), 1_000, BACK).unwrap();
    for (name, process) in [("hub", &hub), ("spoke", &spoke)] {
        let file = programs.join(name);
        let said = Command::new("readelf").arg("-dl").arg(&file).output().unwrap().stdout;
        let said = String::from_utf8_lossy(&said);
        assert!(!said.contains("NEEDED") && !said.contains("INTERP"), "{name} is not static: {said}");
        println!(
            "{name} for {target}: {} KiB resident when idle, {} KiB of its own",
            process.resident_bytes().unwrap() / 1024,
            process.anonymous_bytes().unwrap() / 1024
        );
    }
    let lines = [hub.lines(), spoke.lines()].concat();
    lines.into_iter().filter(|line| line.contains("WARN") && !line.contains("open: anyone")).collect()
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
#[ignore = "long: builds both programs for another target"]
fn static_programs_run_in_an_empty_root() {
    let warnings = run_static("x86_64-unknown-linux-musl", None);
    assert!(warnings.iter().all(|line| line.contains("is taken; this machine is")), "{warnings:#?}");
}

/// The emulator has neither policy rules nor seccomp, of which the programs warn.
#[test]
#[ignore = "long: builds both programs for another target"]
fn static_programs_for_aarch64_run_by_emulation() {
    println!("{:#?}", run_static("aarch64-unknown-linux-musl", Some("/usr/bin/qemu-aarch64-static")));
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
        let size = machine.run("dpkg-query -W -f '${Installed-Size}' 'lan-*'").good();
        assert!(size.trim().parse::<u32>().unwrap() < MAX_KIB, "{size} KiB");
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

    // `hub store` reaches the hub as its user, and says that there is no etcd; it goes with the hub, and comes again.
    server.run("echo 'store = [\"http://127.0.0.1:2379\"]' >>/etc/hub.toml").good();
    server.enable("hub-store");
    await_true("hub store asks for etcd", BACK, || {
        server.run("journalctl -o cat -u hub-store").good().contains("127.0.0.1:2379")
    });
    let user = |unit: &str| server.run(&format!("systemctl show -P UID {unit}")).good();
    assert_eq!(user("hub-store"), user("hub"));
    server.run("systemctl stop hub").good();
    assert_eq!(server.systemctl("is-active hub-store").as_deref(), Some("inactive"));
    server.run("systemctl start hub").good();
    await_true("hub store is there again", BACK, || {
        server.systemctl("is-active hub-store").as_deref() == Some("active")
    });
    let security = server.run("systemd-analyze security --no-pager hub-store").good();
    println!("{}", security.lines().last().unwrap_or_default());

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
