//! Machines as they are: state directories, name servers and outer networks that are not what a program hopes for.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests of IO")]

#[path = "house/mod.rs"]
mod house;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::Duration;

use house::{Binaries, Host, Net, Process, SPOKE_ON_LAN, run, start_hub, state};

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
