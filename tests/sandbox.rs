//! Hub and spoke after they have given up their rights: what is left, and that all works with it.

#![allow(clippy::disallowed_methods, clippy::print_stdout, clippy::unwrap_used, reason = "tests of IO")]

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::house::{
    self, Binaries, HUB_LISTENS, Host, Lan, Net, Process, SPOKE_ON_LAN, hub_command, ping, ping_until,
    require_tun, spawn_spoke, spoke_command, start_hub,
};
use common::linux::sandbox::{Profile, User, enter};
use common::node::state::State;
use nix::mount::{MsFlags, mount};
use nix::sys::signal::Signal;

const SOON: Duration = Duration::from_secs(10);
const NET_ADMIN: u64 = 1 << 12;
const NOBODY: u32 = 65_534;

#[test]
fn the_programs_keep_no_right_but_to_set_addresses_and_routes() {
    let lan = Lan::new(1).unwrap();
    for program in [&lan.hub, &lan.spokes[0]] {
        assert_confined(program);
        assert_eq!(ids(program), [0; 4], "no other user was asked for");
    }
    ping(lan.net.spoke(0), Lan::hub_address().into(), 56, SOON).unwrap();
}

#[test]
fn the_lan_goes_on_with_nothing_left_but_the_lan() {
    let mut lan = Lan::new(2).unwrap();
    assert!(
        read(lan.net.spoke(0), "spoke/hubs").contains("192.0.2.1:5678"),
        "the spoke has remembered the hub"
    );

    // The hub restarts, and the spokes find it again.
    let marks = lan.spokes.iter().map(Process::mark).collect::<Vec<_>>();
    lan.restart_hub().unwrap();
    for (spoke, mark) in lan.spokes.iter().zip(marks) {
        spoke.wait_for_line_after(mark, SPOKE_ON_LAN, SOON).unwrap();
    }
    let (hub_host, first) = (lan.net.hub(), lan.net.spoke(0));
    ping_until(first, Lan::address(1).into(), SOON).unwrap();
    assert_confined(&lan.hub);

    // A member comes back with another name and address: the device and the list follow.
    lan.spokes[0].kill().unwrap();
    let mut command = spoke_command(&lan.net, &lan.binaries, 0, &["--name", "renamed"]);
    replace_argument(&mut command, "10.0.0.2", "10.0.0.77");
    let again = first.spawn("again", &command).unwrap();
    again.wait_for_line("on the LAN as 10.0.0.77", SOON).unwrap();
    ping_until(first, Lan::address(1).into(), SOON).unwrap();
    let members = read(hub_host, "hub/members");
    assert!(members.contains("renamed") && members.contains("10.0.0.77"), "{members}");

    // The same key from elsewhere takes over at once.
    let second = lan.net.spoke(1);
    let key = fs::read(first.path(first.private().join("spoke/key"))).unwrap();
    let moved = second.private().join("moved");
    let state = State::open(&second.path(&moved)).unwrap();
    state.write("key", std::str::from_utf8(&key).unwrap()).unwrap();
    drop(state);
    lan.spokes[1].kill().unwrap();
    let mut command = Command::new(&lan.binaries.spoke);
    command.args(["--hub", "192.0.2.1", "--name", "renamed", "--state"]).arg(&moved);
    let taker = second.spawn("taker", &command).unwrap();
    taker.wait_for_line("on the LAN as 10.0.0.77", SOON).unwrap();
    again.wait_for_line("same key", SOON).unwrap();
}

#[test]
fn another_user_keeps_its_state_in_a_volume_that_all_can_write() {
    require_tun().unwrap();
    for mode in [0o777, 0o2770, 0o1777] {
        let (net, binaries) = (Net::new(1).unwrap(), Binaries::find().unwrap());
        for (host, program) in [(net.hub(), "hub"), (net.spoke(0), "spoke")] {
            let volume = house::state(host, program);
            fs::create_dir(&volume).unwrap();
            fs::set_permissions(&volume, fs::Permissions::from_mode(mode)).unwrap();
        }
        let own_user = ["--user", "nobody"];
        let mut keys = Vec::new();
        for _ in 0..3 {
            let hub = start_hub(&net, &binaries, &own_user).unwrap();
            let spoke = spawn_spoke(&net, &binaries, 0, &own_user).unwrap();
            spoke.wait_for_line("on the LAN as 10.0.0.2 (", SOON).unwrap();
            for (host, program) in [(net.hub(), &hub), (net.spoke(0), &spoke)] {
                assert_eq!(ids(program), [NOBODY; 4]);
                let name = if host.name() == "hub" { "hub" } else { "spoke" };
                let inner = house::state(host, name).join("private");
                let metadata = fs::metadata(&inner).unwrap();
                assert_eq!((metadata.uid(), metadata.permissions().mode() & 0o777), (NOBODY, 0o700));
                assert_eq!(fs::metadata(inner.join("key")).unwrap().uid(), NOBODY);
                keys.push(fs::read(inner.join("key")).unwrap());
            }
            assert!(house::ask_hub(&net, &["status"]).good().contains("1 of 1 members online"));
            assert!(house::ask_spoke(&net, 0, &["status"]).good().contains("10.0.0.2"));
            for program in [spoke, hub] {
                program.signal(Signal::SIGTERM).unwrap();
                assert!(program.wait_exit(SOON).unwrap().success());
            }
        }
        assert!(keys[2..].chunks(2).all(|later| later == &keys[..2]), "each start has the same keys");
        // What another user might have put there is not taken for one's own.
        let hub = net.hub().spawn("hub", &hub_command(&net, &binaries, &[])).unwrap();
        assert_eq!(hub.wait_exit(SOON).unwrap().code(), Some(1));
        hub.wait_for_line("can be written by others: run `chmod 700", SOON).unwrap();
    }
}

#[test]
fn the_programs_run_as_another_user_and_as_root_again() {
    require_tun().unwrap();
    let (net, binaries) = (Net::new(1).unwrap(), Binaries::find().unwrap());
    let own_user = ["--user", "nobody"];
    for extra in [&own_user[..], &[], &own_user[..]] {
        let owner = if extra.is_empty() { 0 } else { NOBODY };
        let hub = start_hub(&net, &binaries, extra).unwrap();
        let spoke = spawn_spoke(&net, &binaries, 0, extra).unwrap();
        spoke.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
        ping_until(net.spoke(0), Lan::hub_address().into(), SOON).unwrap();
        for program in [&hub, &spoke] {
            assert_confined(program);
            assert_eq!(ids(program), [owner; 4]);
        }
        for (host, files) in [
            (net.hub(), ["hub", "hub/key", "hub/members"]),
            (net.spoke(0), ["spoke", "spoke/key", "spoke/hubs"]),
        ] {
            for file in files {
                let path = host.path(host.private().join(file));
                assert_eq!(fs::metadata(&path).unwrap().uid(), owner, "owner of {file}");
            }
        }
        // Commands reach the programs, and a list that was edited by hand is read.
        for (host, program) in [(net.hub(), &binaries.hub), (net.spoke(0), &binaries.spoke)] {
            let state = host.private().join(program.file_name().unwrap());
            let mut status = Command::new(program);
            status.args(["status", "--state"]).arg(state);
            let said = String::from_utf8(host.output(status).unwrap().stdout).unwrap();
            assert!(said.contains("10.0.0.2"), "{said}");
        }
        let mark = hub.mark();
        hub.signal(Signal::SIGHUP).unwrap();
        hub.wait_for_line_after(mark, "read the files again: ", SOON).unwrap();
        // The spoke finds a hub that has restarted, and both end in good order.
        hub.kill().unwrap();
        let mark = spoke.mark();
        let hub = start_hub(&net, &binaries, extra).unwrap();
        spoke.wait_for_line_after(mark, SPOKE_ON_LAN, SOON).unwrap();
        for program in [&spoke, &hub] {
            program.signal(Signal::SIGTERM).unwrap();
            assert!(program.wait_exit(SOON).unwrap().success(), "{}", program.name());
        }
        for (host, socket) in [(net.hub(), "hub/control"), (net.spoke(0), "spoke/control")] {
            assert!(!host.path(host.private().join(socket)).exists(), "{socket} is left");
        }
    }
    let nobody_there = net.hub().spawn("hub", &hub_command(&net, &binaries, &["--user", "no.such"])).unwrap();
    nobody_there.wait_for_line("no user \"no.such\"", SOON).unwrap();
    assert!(!nobody_there.wait_exit(SOON).unwrap().success());
}

#[test]
fn a_state_directory_below_a_closed_one_can_be_written() {
    require_tun().unwrap();
    let (net, binaries) = (Net::new(1).unwrap(), Binaries::find().unwrap());
    let closed = net.hub().private().join("closed");
    let seen = net.hub().path(&closed);
    fs::create_dir(&seen).unwrap();
    fs::set_permissions(&seen, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    // Root goes through by a right that it gives up.
    chown(&seen, Some(NOBODY), Some(NOBODY)).unwrap();
    let mut command = Command::new(&binaries.hub);
    command.args(["--subnet", "10.0.0.0/24", "--state"]).arg(closed.join("hub"));
    let hub = net.hub().spawn("hub", &command).unwrap();
    hub.wait_for_line(HUB_LISTENS, SOON).unwrap();
    let spoke = spawn_spoke(&net, &binaries, 0, &[]).unwrap();
    spoke.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
    assert!(fs::read_to_string(seen.join("hub/members")).unwrap().contains("spoke0"));
}

#[test]
fn a_name_is_looked_up_afresh_for_each_try() {
    require_tun().unwrap();
    let (net, binaries) = (Net::new(1).unwrap(), Binaries::find().unwrap());
    net.hub().ip("addr add 192.0.2.200/24 dev eth0").unwrap();
    let hub = start_hub(&net, &binaries, &[]).unwrap();
    own_etc(net.spoke(0));
    set_hosts(net.spoke(0), "192.0.2.1 hub.test");
    let mut command = spoke_command(&net, &binaries, 0, &[]);
    replace_argument(&mut command, "192.0.2.1:5678", "hub.test");
    let spoke = net.spoke(0).spawn("spoke", &command).unwrap();
    spoke.wait_for_line("through 192.0.2.1:5678", SOON).unwrap();
    assert_confined(&spoke);

    set_hosts(net.spoke(0), "192.0.2.200 hub.test");
    hub.kill().unwrap();
    let _hub = start_hub(&net, &binaries, &[]).unwrap();
    spoke.wait_for_line("through 192.0.2.200:5678", SOON).unwrap();
    ping_until(net.spoke(0), Lan::hub_address().into(), SOON).unwrap();
}

/// The environment variables that make [`act_confined`] do its work.
const STATE: &str = "SANDBOX_STATE";
const REACH: &str = "SANDBOX_REACH";
const ACT: &str = "SANDBOX_ACT";

#[test]
fn what_is_not_needed_is_refused() {
    assert!(nix::unistd::Uid::effective().is_root(), "this test must run as root");
    let host = Host::new("host").unwrap();
    for reach in ["accepts", "connects", "resolves"] {
        for (act, allowed) in [
            ("write the state", &["accepts", "connects", "resolves"][..]),
            ("read a setting of the network", &["accepts", "connects", "resolves"]),
            ("read /etc/hosts", &["resolves"]),
            ("read /proc/version", &[]),
            ("write elsewhere", &[]),
            ("start a thread", &["accepts", "connects", "resolves"]),
            ("start a program", &[]),
            ("open a packet socket", &[]),
            ("open a socket", &["accepts", "connects", "resolves"]),
            ("listen", &[]),
            ("signal another process", &[]),
            ("change the user", &[]),
        ] {
            let ended = act_in_a_program(&host, reach, act);
            let expected = if allowed.contains(&reach) { "done" } else { "refused" };
            ended.wait_for_line(&format!("{act}: {expected}"), SOON).unwrap();
        }
        for act in ["become another program", "enter a namespace"] {
            let status = act_in_a_program(&host, reach, act).wait_exit(SOON).unwrap();
            assert_eq!(status.signal(), Some(libc::SIGSYS), "{reach}: {act}");
        }
    }
}

fn act_in_a_program(host: &Host, reach: &str, act: &str) -> Process {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--ignored", "--exact", "sandbox::act_confined", "--nocapture", "--test-threads", "1"])
        .envs([(REACH, reach), (ACT, act)])
        .env(STATE, host.private().join("state"));
    host.spawn(act, &command).unwrap()
}

/// Run as a program of its own by `what_is_not_needed_is_refused`.
#[test]
#[ignore = "a helper of what_is_not_needed_is_refused"]
fn act_confined() {
    let told = |name| std::env::var(name).expect("only what_is_not_needed_is_refused runs this");
    let state = State::open(Path::new(&told(STATE))).unwrap();
    let reach = match told(REACH).as_str() {
        "accepts" => Profile::Accepts,
        "connects" => Profile::Connects,
        "resolves" => Profile::Resolves,
        other => panic!("{other}"),
    };
    let act = told(ACT);
    enter(&state, None, None::<&User>, reach.into()).unwrap();
    let outcome: Result<(), std::io::Error> = match act.as_str() {
        "write the state" => state.write("file", "text").map_err(std::io::Error::other),
        "read a setting of the network" => fs::read("/proc/sys/net/ipv4/ip_forward").map(drop),
        "read /etc/hosts" => fs::read("/etc/hosts").map(drop),
        "read /proc/version" => fs::read("/proc/version").map(drop),
        "write elsewhere" => fs::write("/tmp/never-written", ""),
        "start a thread" => std::thread::Builder::new().spawn(|| {}).map(|thread| thread.join().unwrap()),
        "start a program" => Command::new("/bin/true").spawn().map(drop),
        "open a packet socket" => {
            socket2::Socket::new(libc::AF_PACKET.into(), socket2::Type::RAW, None).map(drop)
        }
        "open a socket" => socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None).map(drop),
        "listen" => std::net::TcpListener::bind("127.0.0.1:0").map(drop),
        "signal another process" => {
            nix::sys::signal::kill(nix::unistd::getppid(), Signal::SIGCONT).map_err(Into::into)
        }
        "change the user" => nix::unistd::setuid(NOBODY.into()).map_err(Into::into),
        "become another program" => {
            nix::unistd::execv(c"/bin/true", &[c"true"]).map(|_| ()).map_err(Into::into)
        }
        "enter a namespace" => nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).map_err(Into::into),
        other => panic!("{other}"),
    };
    let refused =
        |error: &std::io::Error| matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::Unsupported);
    match outcome {
        Ok(()) => println!("{act}: done"),
        Err(error) if refused(&error) => println!("{act}: refused"),
        Err(error) => println!("{act}: failed: {error}"),
    }
}

/// Every thread of the program: no capability but CAP_NET_ADMIN, no way to new ones, system calls filtered.
fn assert_confined(program: &Process) {
    let tasks = fs::read_dir(format!("/proc/{}/task", program.pid())).unwrap();
    for task in tasks {
        let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.unwrap_or_else(|| panic!("no {name} in\n{status}")).trim().to_owned()
        };
        let capabilities = |name| u64::from_str_radix(&field(name), 16).unwrap();
        assert_eq!(capabilities("CapEff"), NET_ADMIN, "{status}");
        assert_eq!(capabilities("CapPrm"), NET_ADMIN, "{status}");
        assert_eq!(["CapBnd", "CapInh", "CapAmb"].map(capabilities), [0; 3], "{status}");
        assert_eq!([field("NoNewPrivs"), field("Seccomp")], ["1", "2"], "{status}");
    }
}

/// Real, effective, saved and file-system user.
fn ids(program: &Process) -> [u32; 4] {
    let status = fs::read_to_string(format!("/proc/{}/status", program.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap();
    let ids: Vec<u32> = line.split_ascii_whitespace().map(|id| id.parse().unwrap()).collect();
    ids.try_into().unwrap()
}

/// A file of the host's own directory.
fn read(host: &Host, file: &str) -> String {
    fs::read_to_string(host.path(host.private().join(file))).unwrap()
}

fn replace_argument(command: &mut Command, old: &str, new: &str) {
    let arguments: Vec<_> = command
        .get_args()
        .map(|argument| if argument == old { new.into() } else { argument.to_owned() })
        .collect();
    assert!(arguments.iter().any(|argument| argument == new), "{command:?} has no {old}");
    *command = Command::new(command.get_program());
    command.args(arguments);
}

/// Gives the host an /etc of its own, with what name look-ups read.
fn own_etc(host: &Host) {
    let own = host.private().join("etc");
    host.run(move || {
        fs::create_dir(&own).unwrap();
        for file in ["passwd", "group", "ld.so.cache"] {
            // musl has no ld.so.cache.
            let _ = fs::copy(Path::new("/etc").join(file), own.join(file));
        }
        fs::write(own.join("nsswitch.conf"), "hosts: files\n").unwrap();
        mount(Some(&own), "/etc", None::<&Path>, MsFlags::MS_BIND, None::<&Path>).unwrap();
    });
}

/// Replaces the host's /etc/hosts as an editor does: by a new file.
fn set_hosts(host: &Host, line: &'static str) {
    host.run(move || {
        fs::write("/etc/hosts.new", format!("{line}\n")).unwrap();
        fs::rename("/etc/hosts.new", "/etc/hosts").unwrap();
    });
}
