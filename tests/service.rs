//! The programs as services: what they tell the service manager, and the rights that their units leave them.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests of IO")]

use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::house::{Binaries, HUB_LISTENS, Host, Lan, Net, SPOKE_ON_LAN, make_tun, ping, start_hub};

const SOON: Duration = Duration::from_secs(5);
/// Nobody of the machine.
const USER: u32 = 61_234;

#[test]
fn the_hub_is_ready_when_its_address_can_be_bound() {
    let host = Host::new("hub").unwrap();
    let manager = Manager::new(&host);
    let mut command = Command::new(Binaries::find().unwrap().hub);
    command.args(["--subnet", "10.0.0.0/24"]);
    manager.starts(&mut command);
    let program = host.spawn("hub", &command).unwrap();
    manager.wait_for("READY=1");
    host.udp_bind(([10, 0, 0, 1], 0)).unwrap();
    manager.wait_for("STATUS=listening on [::]:5678; the LAN is 10.0.0.0/24, on hub0");
    // In its sandbox, too, and while nothing else happens.
    for _ in 0..3 {
        manager.wait_for("WATCHDOG=1");
    }
    program.signal(Signal::SIGTERM).unwrap();
    manager.wait_for("STOPPING=1");
    assert_eq!(program.wait_exit(SOON).unwrap().code(), Some(0));
}

#[test]
fn a_spoke_is_ready_when_it_is_on_the_lan() {
    let net = Net::new(1).unwrap();
    let binaries = Binaries::find().unwrap();
    let host = net.spoke(0);
    let manager = Manager::new(host);
    let mut command = Command::new(&binaries.spoke);
    command.args(["--hub", "192.0.2.1", "--ip", "10.0.0.2"]);
    manager.starts(&mut command);
    let program = host.spawn("spoke", &command).unwrap();
    let said = manager.wait_for("STATUS=OFF THE LAN: cannot reach 192.0.2.1:5678");
    assert!(!said.iter().any(|message| message == "READY=1"), "{said:?}");
    let _hub = start_hub(&net, &binaries, &[]).unwrap();
    manager.wait_for("READY=1");
    host.udp_bind(([10, 0, 0, 2], 0)).unwrap();
    manager.wait_for("STATUS=on the LAN as 10.0.0.2");
    manager.wait_for("WATCHDOG=1");
    program.signal(Signal::SIGTERM).unwrap();
    manager.wait_for("STOPPING=1");
}

/// What is left of a root's rights under the units: a user of no name with one capability and no way to more.
#[test]
fn one_capability_is_enough_for_both() {
    let net = Net::new(1).unwrap();
    let binaries = Binaries::find().unwrap();
    let under_the_unit = |host: &Host, program: &PathBuf| {
        // Anybody may open it, as udev has it.
        host.run(|| make_tun(0o666));
        let state = host.private().join("own");
        fs::create_dir(host.path(&state)).unwrap();
        chown(host.path(&state), Some(USER), Some(USER)).unwrap();
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "61234", "--regid", "61234", "--clear-groups", "--no-new-privs"]);
        command.args(["--bounding-set=-all,+net_admin", "--inh-caps=-all,+net_admin"]);
        command.args(["--ambient-caps=-all,+net_admin", "--"]).arg(program).arg("--state").arg(&state);
        command
    };
    let mut command = under_the_unit(net.hub(), &binaries.hub);
    command.args(["--subnet", "10.0.0.0/24"]);
    let hub = net.hub().spawn("hub", &command).unwrap();
    hub.wait_for_line(HUB_LISTENS, SOON).unwrap();
    let mut command = under_the_unit(net.spoke(0), &binaries.spoke);
    command.args(["--hub", "192.0.2.1", "--ip", "10.0.0.2"]);
    let spoke = net.spoke(0).spawn("spoke", &command).unwrap();
    spoke.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
    ping(net.hub(), Lan::address(0).into(), 56, SOON).unwrap();
}

#[test]
fn the_units_are_sound_and_give_little_away() {
    for unit in
        ["hub/packaging/hub.service", "hub/packaging/hub-store.service", "spoke/packaging/spoke@.service"]
    {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(unit);
        let output = Command::new("systemd-analyze")
            .args(["security", "--offline=yes", "--no-pager", "--threshold=20"])
            .arg(&path)
            .output()
            .expect("systemd-analyze is there: apt-get install systemd");
        let report = String::from_utf8_lossy(&output.stdout);
        assert!(
            report.contains("Overall exposure level"),
            "{report}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        // It fails above the threshold, which is in tenths.
        assert!(output.status.success(), "{report}");
    }
}

/// The end of the service manager: a socket in the host's private directory.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Manager {
    fn new(host: &Host) -> Manager {
        let path = host.private().join("notify");
        let bound = path.clone();
        let socket = host.run(move || UnixDatagram::bind(bound)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        Manager { socket, path }
    }

    fn starts(&self, command: &mut Command) {
        command.env("NOTIFY_SOCKET", &self.path).env("WATCHDOG_USEC", "400000");
    }

    /// Waits for a message that begins so; returns all up to it.
    #[track_caller]
    fn wait_for(&self, beginning: &str) -> Vec<String> {
        let until = Instant::now() + SOON;
        let mut heard = Vec::new();
        let mut bytes = [0; 4_096];
        while Instant::now() < until {
            let Ok(length) = self.socket.recv(&mut bytes) else { continue };
            let message = String::from_utf8(bytes[..length].to_vec()).unwrap();
            let is_it = message.starts_with(beginning);
            heard.push(message);
            if is_it {
                return heard;
            }
        }
        panic!("{beginning} is not among {heard:?}");
    }
}
