//! The `lan` example ends well and leaves nothing, whichever way it ends.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests of IO")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::house::{Binaries, Host, make_tun};

const LONG: Duration = Duration::from_secs(30);

#[test]
fn all_pings_are_answered() {
    let host = Host::new("machine").unwrap();
    let program = host.spawn("lan", &example()).unwrap();
    let status = program.wait_exit(LONG).unwrap();
    program.wait_for_line("60 of 60 pings were answered", LONG).unwrap();
    assert_eq!(status.code(), Some(0));
}

#[test]
fn a_user_without_rights_can_run_it_or_is_told_how() {
    for mode in [0o666, 0o600] {
        let host = Host::new("machine").unwrap();
        host.run(move || make_tun(mode));
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--"]).arg(path());
        command.env_remove("CARGO");
        let program = host.spawn("lan", &command).unwrap();
        let status = program.wait_exit(LONG).unwrap();
        // Some systems let users make no namespaces.
        let part = if status.success() { "60 of 60 pings were answered" } else { "Run it as root: sudo" };
        program.wait_for_line(part, LONG).unwrap();
        assert!(mode == 0o666 || !status.success(), "a user has opened a device that is root's");
    }
}

#[test]
fn nothing_is_left_when_it_is_ended() {
    for signal in [Signal::SIGINT, Signal::SIGKILL] {
        let host = Host::new("machine").unwrap();
        let mut command = example();
        command.args(["--shell", "2"]).env("SHELL", waiting_shell());
        let program = host.spawn("lan", &command).unwrap();
        program.wait_for_line("waiting in desktop", LONG).unwrap();
        let children = children(program.pid());
        assert_eq!(children.len(), 5, "a hub, three spokes and a shell");
        program.signal(signal).unwrap();
        program.wait_exit(LONG).unwrap();
        let end = Instant::now() + LONG;
        while children.iter().any(|&child| parent(child).is_some()) {
            assert!(Instant::now() < end, "of {children:?} some are left");
            // The kernel tells nobody but their parent, which is gone.
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

#[test]
fn arguments_that_make_no_sense_are_refused() {
    let host = Host::new("machine").unwrap();
    for arguments in [&["--shell", "0"][..], &["--shell", "4"], &["--shell", "x"], &["more"]] {
        let mut command = example();
        command.args(arguments);
        let program = host.spawn("lan", &command).unwrap();
        assert_eq!(program.wait_exit(LONG).unwrap().code(), Some(1));
    }
}

fn path() -> PathBuf {
    let path = Binaries::find().unwrap().hub.with_file_name("examples").join("lan");
    assert!(path.is_file(), "{} is missing: run cargo test --workspace", path.display());
    path
}

/// The example, taking the programs that are built.
fn example() -> Command {
    let mut command = Command::new(path());
    command.env_remove("CARGO");
    command
}

/// A shell that stays until it is killed.
fn waiting_shell() -> PathBuf {
    let shell = Path::new(env!("CARGO_TARGET_TMPDIR")).join("waiting-shell");
    let new = shell.with_extension(std::process::id().to_string());
    fs::write(&new, "#!/bin/sh\necho waiting in `uname -n`\nexec sleep 1000\n").unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(&new, &shell).unwrap();
    shell
}

fn children(of: Pid) -> Vec<Pid> {
    let pids =
        fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    pids.map(Pid::from_raw).filter(|&pid| parent(pid) == Some(of)).collect()
}

/// The parent of a process that lives: proc_pid_stat(5).
fn parent(pid: Pid) -> Option<Pid> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat[stat.rfind(')')? + 1..].split_ascii_whitespace();
    let lives = !matches!(fields.next()?, "Z" | "X");
    lives.then(|| Pid::from_raw(fields.next().unwrap().parse().unwrap()))
}
