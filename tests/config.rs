//! Settings from the command line, the environment and the file, and what a person is told about them.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests of IO")]

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::house::{Binaries, HUB_LISTENS, Host, Lan, Net, SPOKE_ON_LAN, ask_hub, run, start_hub, state};

const SOON: Duration = Duration::from_secs(5);

#[test]
fn the_three_places_have_the_same_names_and_the_command_line_wins() {
    let host = Host::new("hub").unwrap();
    host.put(
        "/etc/hub.toml",
        "# mine\nsubnet = [\"10.9.0.0/24\", \"fd00:9::/64\"]\nlisten = 5679\nmtu = 1400\n",
    );
    let mut command = hub(&["--subnet=10.0.0.0/24"]);
    command.env("HUB_MTU", "1300");
    let program = host.spawn("hub", &command).unwrap();
    program
        .wait_for_line("listening on [::]:5679; the LAN is 10.0.0.0/24, on the device hub0", SOON)
        .unwrap();
    let status = run(&host, hub(&["status", "--json"])).good();
    assert!(status.contains("\"mtu\":1300"), "{status}");

    let mut command = hub(&["config", "--subnet", "10.0.0.0/24"]);
    command.env("HUB_MTU", "1300");
    let report = run(&host, command);
    report.fails_with(2, "hub config has no --subnet: that is for hub itself");
    let mut command = hub(&["--subnet", "10.0.0.0/24", "config"]);
    command.env("HUB_MTU", "1300");
    let report = run(&host, command).good();
    let rows: Vec<Vec<&str>> = report.lines().map(|line| line.split_whitespace().collect()).collect();
    for row in [
        &["subnet", "10.0.0.0/24", "command", "line"][..],
        &["mtu", "1300", "HUB_MTU"],
        &["listen", "5679", "/etc/hub.toml,", "line", "3"],
        &["tun", "hub0"],
    ] {
        assert!(rows.iter().any(|shown| shown == row), "{row:?}: {report}");
    }
}

#[test]
fn a_spoke_has_a_file_for_each_lan_and_shows_no_secret() {
    let net = Net::new(1).unwrap();
    let binaries = Binaries::find().unwrap();
    let _hub = start_hub(&net, &binaries, &[]).unwrap();
    ask_hub(&net, &["lock"]).good();
    let line = ask_hub(&net, &["invite", "guest", "--ip", "10.0.0.77", "--host", "192.0.2.1"]).good();
    let host = net.spoke(0);
    fs::write(host.path(host.private().join("invite")), &line).unwrap();
    let secret = line.split_whitespace().last().unwrap();
    host.put("/etc/spoke/home.toml", &format!("hub = \"192.0.2.1\"\ninvite = \"{secret}\"\n"));

    let report = run(host, spoke(&["config", "--config", "home"])).good();
    assert!(report.contains("(secret)") && !report.contains(secret), "{report}");
    let mut command = spoke(&["--hub", "192.0.2.1", "--invite-file"]);
    command.arg(host.private().join("invite"));
    let program = host.spawn("spoke", &command).unwrap();
    program.wait_for_line("on the LAN as 10.0.0.77 (guest)", SOON).unwrap();
    program.kill().unwrap();
    // The same machine again, all from the file.
    let program = host.spawn("spoke", &spoke(&["--config=home"])).unwrap();
    program.wait_for_line("can be read by others: run `chmod 600 /etc/spoke/home.toml`", SOON).unwrap();
    program.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
}

#[test]
fn what_is_typed_wrong_is_answered_by_what_was_meant() {
    let host = Host::new("hub").unwrap();
    for (arguments, said) in [
        (&["--hubkey", "x"][..], "hub has no --hubkey"),
        (&["stauts"], "did you mean hub status?"),
        (&["--subnet", "10.0.0.0/33"], "/33 is longer than IPv4's 32 bits"),
        (&["--subnet", "10.0.0.0"], "did you mean 10.0.0.0/24?"),
        (&["--subnet", "10.0.0.0/24", "--tun", "all"], "all is not a device name"),
        (&["invite", "x", "--for", "1"], "a duration is a number and s, m, h or d, such as 24h"),
    ] {
        run(&host, hub(arguments)).fails_with(2, said);
    }
    for (arguments, said) in [
        (&["192.0.2.1"][..], "did you mean --hub 192.0.2.1?"),
        (&["--hubkey", "x"], "did you mean --hub-key?"),
        (&["--hub", "h", "--ip", "10.0.0.2/24"], "give 10.0.0.2 alone; the hub knows the /24"),
    ] {
        run(&host, spoke(arguments)).fails_with(2, said);
    }
    for flag in ["-V", "--version"] {
        assert!(run(&host, hub(&[flag])).good().starts_with("hub "));
        assert!(run(&host, spoke(&[flag])).good().starts_with("spoke "));
    }
    for flag in ["-h", "--help", "help"] {
        assert!(run(&host, hub(&[flag])).good().contains("--subnet PREFIX"));
        assert!(run(&host, spoke(&[flag])).good().contains("--hub HOST[:PORT]"));
    }
    host.put("/etc/hub.toml", "subnet = \"10.0.0.0/24\"\nlisten_on = \"x\"\n");
    run(&host, hub(&[])).fails_with(2, "/etc/hub.toml, line 2: there is no setting \"listen_on\"");
    // What is asked of a running hub needs no file where the state directory is given.
    run(&host, hub(&["status", "--state", "/nowhere"])).fails("nothing runs");
    run(&host, hub(&["status"])).fails_with(2, "line 2");
}

#[test]
fn a_log_filter_with_a_slip_in_it_hides_nothing() {
    let host = Host::new("hub").unwrap();
    let mut command = hub(&["--subnet", "10.0.0.0/24"]);
    command.env("RUST_LOG", "wran");
    let program = host.spawn("hub", &command).unwrap();
    program.wait_for_line("RUST_LOG: wran is not a log level; did you mean warn?", SOON).unwrap();
    program.wait_for_line(HUB_LISTENS, SOON).unwrap();
}

#[test]
fn the_journal_gets_priorities_and_no_times() {
    let host = Host::new("hub").unwrap();
    let path = host.private().join("journal");
    let journal = File::create(&path).unwrap();
    let metadata = journal.metadata().unwrap();
    let mut command = hub(&["--subnet", "10.0.0.0/24", "--listen", "192.0.2.99:1"]);
    command.env("JOURNAL_STREAM", format!("{}:{}", metadata.dev(), metadata.ino())).stderr(journal);
    let status = host.run(move || command.status()).unwrap();
    assert_eq!(status.code(), Some(1));
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.starts_with("<3>cannot listen on 192.0.2.99:1: this machine does not have"), "{text}");
    // A service whose standard error goes elsewhere inherits the variable all the same.
    let mut command = hub(&["--subnet", "10.0.0.0/33"]);
    command.env("JOURNAL_STREAM", "1:2");
    let said = run(&host, command);
    assert!(said.err.contains("ERROR") && !said.err.contains("<3>"), "{}", said.err);
}

#[test]
fn a_port_for_root_alone_is_explained() {
    let host = Host::new("hub").unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set=-net_bind_service", "--"]).arg(Binaries::find().unwrap().hub);
    command.args(["--subnet", "10.0.0.0/24", "--listen", "443"]);
    run(&host, command).fails("ports below 1024 need root or CAP_NET_BIND_SERVICE");
}

#[test]
fn a_refused_spoke_ends_with_a_code_of_its_own() {
    let lan = Lan::with(Net::new(2).unwrap(), 1).unwrap();
    ask_hub(&lan.net, &["lock"]).good();
    let invite = "0".repeat(32);
    let mut command = spoke(&["--hub", "192.0.2.1", "--invite", &invite, "--state"]);
    command.arg(lan.net.spoke(1).private().join("spoke"));
    run(lan.net.spoke(1), command).fails_with(3, "the invite is unknown, used or expired");
}

#[test]
fn the_directory_of_the_hosts_file_is_made() {
    let lan = Lan::with(Net::new(1).unwrap(), 0).unwrap();
    let host = lan.net.spoke(0);
    let mut command = spoke(&["--hub", "192.0.2.1", "--hosts"]);
    command.arg(host.private().join("lan/hosts"));
    let program = host.spawn("spoke", &command).unwrap();
    program.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
    let mode = fs::metadata(host.path(host.private().join("lan"))).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o755);
}

#[test]
fn an_empty_key_is_no_damaged_line() {
    let host = Host::new("hub").unwrap();
    let first = host.spawn("hub", &hub(&["--subnet", "10.0.0.0/24"])).unwrap();
    first.wait_for_line(HUB_LISTENS, SOON).unwrap();
    first.kill().unwrap();
    let key: &Path = &state(&host, "hub").join("key");
    fs::write(key, "").unwrap();
    let again = host.spawn("hub", &hub(&["--subnet", "10.0.0.0/24"])).unwrap();
    again.wait_for_line("the key file is empty: put back a copy", SOON).unwrap();
}

fn hub(arguments: &[&str]) -> Command {
    let mut command = Command::new(Binaries::find().unwrap().hub);
    command.args(arguments);
    command
}

fn spoke(arguments: &[&str]) -> Command {
    let mut command = Command::new(Binaries::find().unwrap().spoke);
    command.args(arguments);
    command
}
