//! The commands that ask a running hub or spoke, and what they change.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests of IO")]

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::{Duration, Instant};

use hub::control::{MemberStatus, Standing, Status};
use nix::sys::signal::Signal;

use crate::house::{
    Binaries, Lan, Net, Process, SPOKE_ON_LAN, ask_hub as hub, ask_spoke as spoke, make_state, nobodys_key,
    ping, ping_until, run, spawn_spoke, start_hub, state,
};

const SOON: Duration = Duration::from_secs(5);
const BACK: Duration = Duration::from_secs(20);

#[test]
fn the_hub_tells_who_is_on_the_lan() {
    let lan = Lan::new(2).unwrap();
    for _ in 0..3 {
        ping(lan.net.spoke(0), Lan::address(1).into(), 1_000, SOON).unwrap();
    }
    lan.spokes[1].signal(Signal::SIGTERM).unwrap();
    lan.hub.wait_for_line("spoke1 (10.0.0.3) left the LAN", SOON).unwrap();

    let until = Instant::now() + SOON;
    let status = loop {
        let status = hub_status(&lan.net);
        let link = member(&status, "spoke0").link.as_ref();
        // It is first known a moment after the welcome.
        if link.is_none_or(|link| link.round_trip_ms.is_some()) || Instant::now() > until {
            break status;
        }
    };
    assert_eq!((status.online, status.known, status.locked), (1, 2, false));
    assert_eq!(status.listening.iter().map(SocketAddr::port).collect::<Vec<_>>(), [5678]);
    assert_eq!(status.subnets, ["10.0.0.0/24".parse().unwrap()]);
    let [here, gone]: &[MemberStatus; 2] = status.members[..].try_into().unwrap();
    assert_eq!((here.name.as_str(), &here.addresses[..]), ("spoke0", &[Lan::address(0).into()][..]));
    let link = here.link.as_ref().unwrap();
    assert_eq!(link.source.ip(), Net::spoke_v4(0));
    assert!(link.round_trip_ms.unwrap() < 1_000.0);
    assert!(link.received.packets >= 3 && link.received.bytes >= 3_000, "{link:?}");
    assert!(link.sent.packets >= 3 && link.sent.bytes >= 3_000, "{link:?}");
    assert_eq!(gone.link, None);
    assert!(gone.seen_seconds_ago.unwrap() <= 60);

    let text = hub(&lan.net, &["status"]).good();
    let line =
        |name: &str| text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{text}"));
    assert!(line("spoke0").contains("online ") && line("spoke0").contains("192.0.2.10:"), "{text}");
    assert!(line("spoke0").ends_with(&here.key.to_string()), "{text}");
    assert!(line("spoke1").contains(" ago "), "{text}");
}

#[test]
fn drops_are_told_by_reason() {
    let lan = Lan::new(1).unwrap();
    // Nobody has this address.
    ping(lan.net.spoke(0), "10.0.0.77".parse().unwrap(), 56, Duration::from_millis(300)).unwrap_err();
    let status = hub_status(&lan.net);
    let drops = &status.members[0].link.as_ref().unwrap().drops;
    assert_eq!(drops.get("no-route"), Some(&1), "{drops:?}");
}

#[test]
fn where_nothing_runs_the_commands_say_so_and_fail() {
    let lan = Lan::new(1).unwrap();
    hub(&lan.net, &["status"]).good();
    spoke(&lan.net, 0, &["status"]).good();
    let sockets =
        [state(lan.net.hub(), "hub"), state(lan.net.spoke(0), "spoke")].map(|at| at.join("control"));
    for socket in &sockets {
        let metadata = fs::metadata(socket).unwrap();
        assert!(metadata.file_type().is_socket());
        assert_eq!(metadata.permissions().mode() & 0o7777, 0o600);
    }
    // One says goodbye to its socket, the other one cannot.
    lan.hub.signal(Signal::SIGTERM).unwrap();
    lan.hub.wait_exit(SOON).unwrap();
    lan.spokes[0].kill().unwrap();
    assert_eq!(sockets.each_ref().map(|socket| socket.exists()), [false, true]);
    for command in ["status", "lock", "unlock", "reload"] {
        hub(&lan.net, &[command]).fails("nothing runs");
    }
    for command in [&["invite", "x"], &["revoke", "x"]] {
        hub(&lan.net, command).fails("nothing runs");
    }
    spoke(&lan.net, 0, &["status"]).fails("nothing runs");
    spoke(&lan.net, 0, &["resolve", "x"]).fails("nothing runs");
    // The next one takes the place of the socket that was left.
    let _hub = start_hub(&lan.net, &lan.binaries, &[]).unwrap();
    let again = spawn_spoke(&lan.net, &lan.binaries, 0, &[]).unwrap();
    again.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
    spoke(&lan.net, 0, &["status"]).good();
}

#[test]
fn another_user_is_not_answered() {
    let lan = Lan::new(1).unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--clear-groups", "--inh-caps=-all", "--"]).arg(&lan.binaries.hub);
    // The directory's own mode is not what keeps others out here.
    fs::set_permissions(state(lan.net.hub(), "hub"), fs::Permissions::from_mode(0o755)).unwrap();
    command.args(["status", "--state"]).arg(lan.net.hub().private().join("hub"));
    run(lan.net.hub(), command).fails("sudo");
}

#[test]
fn a_connection_that_says_nothing_stops_nobody() {
    let lan = Lan::new(2).unwrap();
    let socket = state(lan.net.hub(), "hub").join("control");
    let silent: Vec<UnixStream> = (0..8).map(|_| UnixStream::connect(&socket).unwrap()).collect();
    let mut long = UnixStream::connect(&socket).unwrap();
    long.write_all(&[b'x'; 5_000]).unwrap();
    let mut answer = String::new();
    // What it did not read may cut the answer off: all that counts is that it ends.
    let _ = long.read_to_string(&mut answer);
    ping(lan.net.spoke(0), Lan::address(1).into(), 56, SOON).unwrap();
    hub_status(&lan.net);
    drop(silent);
}

#[test]
fn a_locked_hub_lets_in_members_and_nobody_else() {
    let mut lan = Lan::with(Net::new(2).unwrap(), 1).unwrap();
    let told = hub(&lan.net, &["lock"]).good();
    assert!(told.starts_with("locked: the member known now (online) can join"), "{told}");
    lan.hub.wait_for_line("locked: only 1 known member and", SOON).unwrap();
    assert!(hub_status(&lan.net).locked);
    let stranger = spawn_spoke(&lan.net, &lan.binaries, 1, &[]).unwrap();
    // Each end says who it is that the owner may want to let in.
    let line = stranger
        .wait_for_line("the hub is locked and does not know this machine (spoke1, key ", SOON)
        .unwrap();
    let key = line.split_once("key ").unwrap().1.split_once(')').unwrap().0;
    lan.hub
        .wait_for_line(
            &format!("spoke1, key {key}, from 192.0.2.11, waits to be let in: `hub allow spoke1`"),
            SOON,
        )
        .unwrap();
    ping(lan.net.hub(), Lan::address(0).into(), 56, SOON).unwrap();

    let here = ["invite", "late", "--host", "fe80::1%eth0"];
    let line = hub(&lan.net, &here).good();
    assert!(line.starts_with("spoke --hub [fe80::1%eth0]:5678 --hub-key "), "{line}");
    let again = hub(&lan.net, &here);
    assert!(again.err.contains("the earlier invite of late is void"), "{}", again.err);
    let list = hub(&lan.net, &["invites"]).good();
    assert!(list.contains(" 24 h "), "{list}");
    let cancelled = hub(&lan.net, &["invites", "--cancel", "late", "--json"]).good();
    assert_eq!(cancelled, "{\"cancelled\":\"late\"}\n");
    hub(&lan.net, &["store", "ftp://x"]).fails_with(2, "is no endpoint of etcd: write http://x");
    hub(&lan.net, &["store", "http://127.0.0.1:99999"]).fails_with(2, "the port is not 1 to 65535");
    hub(&lan.net, &["drain"]).fails("there is no other hub to go to: `hub invite NAME --hub`");

    // It stays locked, and says so at start.
    lan.restart_hub().unwrap();
    lan.hub.wait_for_line("locked: only 1 known member and", SOON).unwrap();
    ping_until(lan.net.hub(), Lan::address(0).into(), BACK).unwrap();
    lan.hub.wait_for_line("spoke1, key ", BACK).unwrap();
    assert!(stranger.is_running());

    let standing: Standing = serde_json::from_str(&hub(&lan.net, &["unlock", "--json"]).good()).unwrap();
    // The one who waited is in with that.
    assert_eq!((standing.locked, standing.known, standing.online), (false, 2, 2));
    stranger.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
}

#[test]
fn on_a_locked_hub_a_dead_holder_keeps_its_address() {
    let lan = Lan::new(2).unwrap();
    hub(&lan.net, &["lock"]).good();
    lan.spokes[1].kill().unwrap();
    lan.net.cut(0).unwrap();
    let mut command = Command::new(&lan.binaries.spoke);
    command.args(["--hub", "192.0.2.1", "--ip", "10.0.0.2", "--state"]);
    command.arg(lan.net.spoke(1).private().join("spoke"));
    let newcomer = lan.net.spoke(1).spawn("newcomer", &command).unwrap();
    assert_ne!(newcomer.wait_exit(SOON).unwrap().code(), Some(0));
    newcomer.wait_for_line("refused", SOON).unwrap();
    assert_eq!(member(&hub_status(&lan.net), "spoke0").addresses, [Lan::address(0)]);
}

#[test]
fn an_invite_lets_one_in_once() {
    let mut lan = Lan::with(Net::new(3).unwrap(), 1).unwrap();
    hub(&lan.net, &["lock"]).good();
    let line = hub(&lan.net, &["invite", "guest", "--ip", "10.0.0.77", "--host", "192.0.2.1"]).good();
    let words: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(words[..3], ["spoke", "--hub", "192.0.2.1:5678"]);
    let [.., "--hub-key", _, "--invite", secret] = words[..] else { panic!("{line}") };
    let invites = fs::read_to_string(state(lan.net.hub(), "hub").join("invites")).unwrap();
    assert!(invites.contains("guest") && !invites.contains(secret), "{invites}");
    hub(&lan.net, &["invite", "spoke0"]).fails("member already");
    hub(&lan.net, &["invite", "other", "--ip", "10.0.0.77"]).fails("10.0.0.77");
    hub(&lan.net, &["invite", "other", "--ip", "10.0.0.2"]).fails("held by spoke0");

    lan.restart_hub().unwrap();
    let invited = |i: usize| {
        let mut command = Command::new(&lan.binaries.spoke);
        command.args(&words[1..]).arg("--state").arg(lan.net.spoke(i).private().join("spoke"));
        lan.net.spoke(i).spawn("invited", &command).unwrap()
    };
    let guest = invited(1);
    guest.wait_for_line("on the LAN as 10.0.0.77 (guest)", BACK).unwrap();
    let second = invited(2);
    assert_ne!(second.wait_exit(SOON).unwrap().code(), Some(0));
    second.wait_for_line("invite", SOON).unwrap();
    // The same line works again on the machine that used it, whatever happens to the hub.
    guest.kill().unwrap();
    lan.restart_hub().unwrap();
    let guest = {
        let mut command = Command::new(&lan.binaries.spoke);
        command.args(&words[1..]).arg("--state").arg(lan.net.spoke(1).private().join("spoke"));
        lan.net.spoke(1).spawn("invited", &command).unwrap()
    };
    guest.wait_for_line("on the LAN as 10.0.0.77 (guest)", BACK).unwrap();
    assert_eq!(hub_status(&lan.net).invites, 0);
}

#[test]
fn an_invite_that_could_not_be_read_again_is_not_made() {
    let net = Net::new(0).unwrap();
    let binaries = Binaries::find().unwrap();
    let first = start_hub(&net, &binaries, &[]).unwrap();
    hub(&net, &["invite", "x", "--ip", "10.0.0.5", "--ip", "10.0.0.6"]).fails("two addresses of one family");
    hub(&net, &["invite", "x", "--ip", "10.0.0.255"]).fails("broadcast");
    hub(&net, &["invite", "x", "--route", "192.168.5.1/24"]).fails("bits set behind its prefix");
    let routes = (0..65).flat_map(|i| ["--route".to_owned(), format!("192.168.{i}.0/24")]);
    let words: Vec<String> = ["invite", "x"].map(str::to_owned).into_iter().chain(routes).collect();
    hub(&net, &words.iter().map(String::as_str).collect::<Vec<_>>()).fails("more than 64 routes");
    hub(&net, &["invite", "x", "--ip", "10.0.0.5", "--route", "192.168.5.0/24"]).good();
    hub(&net, &["reload"]).good();
    drop(first);
    let _second = start_hub(&net, &binaries, &[]).unwrap();
    assert_eq!(hub_status(&net).invites, 1);
}

#[test]
fn a_command_whose_output_is_lost_fails_and_one_that_is_cut_short_does_not() {
    let lan = Lan::new(1).unwrap();
    let programs =
        [(&lan.binaries.hub, lan.net.hub(), "hub"), (&lan.binaries.spoke, lan.net.spoke(0), "spoke")];
    for (program, host, state) in programs {
        for (to, is_good) in [("/dev/full", false), ("/dev/null", true)] {
            let mut command = Command::new("sh");
            command.args(["-c", "exec \"$0\" status --state \"$1\" >$2"]).arg(program);
            command.arg(host.private().join(state)).arg(to);
            let said = run(host, command);
            if is_good { drop(said.good()) } else { said.fails("No space left on device") }
        }
        // A reader that has gone, as `head` may have.
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let mut command = Command::new(program);
        command.args(["status", "--state"]).arg(host.private().join(state)).stdout(writer);
        let status = host.run(move || command.status()).unwrap();
        assert!(status.success(), "{status}");
    }
}

#[test]
fn an_invite_expires() {
    let net = Net::new(1).unwrap();
    let binaries = Binaries::find().unwrap();
    let _hub = start_hub(&net, &binaries, &[]).unwrap();
    let json = hub(&net, &["invite", "late", "--for", "1s", "--json"]).good();
    let invited: hub::control::Invited = serde_json::from_str(&json).unwrap();
    // Nothing tells that time has passed.
    std::thread::sleep(Duration::from_millis(2_100));
    let late = spawn_spoke(&net, &binaries, 0, &["--invite", &invited.invite]).unwrap();
    assert_ne!(late.wait_exit(SOON).unwrap().code(), Some(0));
    late.wait_for_line("expired", SOON).unwrap();
}

#[test]
fn a_revoked_member_is_off_within_a_second_and_stays_out() {
    let lan = Lan::new(3).unwrap();
    let mark = lan.spokes[2].mark();
    let key = member(&hub_status(&lan.net), "spoke1").key.to_string();
    for (i, who) in [(0, "10.0.0.2"), (1, key.as_str())] {
        let start = Instant::now();
        hub(&lan.net, &["revoke", who]).good();
        let status = lan.spokes[i].wait_exit(SOON).unwrap();
        assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
        assert_ne!(status.code(), Some(0));
        lan.spokes[i].wait_for_line("revoked", SOON).unwrap();
    }
    hub(&lan.net, &["revoke", "spoke0"]).fails("spoke0 is revoked already");
    hub(&lan.net, &["revoke", &key]).fails("revoked already");
    let again = spawn_spoke(&lan.net, &lan.binaries, 0, &[]).unwrap();
    assert_ne!(again.wait_exit(SOON).unwrap().code(), Some(0), "though the hub is open");
    again.wait_for_line("revoked", SOON).unwrap();
    let status = hub_status(&lan.net);
    assert_eq!((status.known, status.online, status.revoked), (1, 1, 2));

    // As the command says, the mark can be deleted.
    let file = state(lan.net.hub(), "hub").join("members");
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.lines().any(|line| line.contains(" spoke0 ") && line.ends_with(" revoked")), "{text}");
    fs::write(&file, text.replace(" revoked", "")).unwrap();
    hub(&lan.net, &["reload"]).good();
    let again = spawn_spoke(&lan.net, &lan.binaries, 0, &[]).unwrap();
    again.wait_for_line("on the LAN as 10.0.0.2", SOON).unwrap();
    assert_eq!(lan.spokes[2].mark(), mark, "the others notice nothing");
}

#[test]
fn a_wrong_line_changes_nothing_and_a_right_file_only_what_it_says() {
    let lan = Lan::new(3).unwrap();
    let file = state(lan.net.hub(), "hub").join("members");
    let text = fs::read_to_string(&file).unwrap();
    let marks = [0, 1, 2].map(|i| lan.spokes[i].mark());

    fs::write(&file, format!("# ours\n{text}nonsense here\n")).unwrap();
    hub(&lan.net, &["reload"]).fails("members, line 5: ");
    lan.hub.signal(Signal::SIGHUP).unwrap();
    lan.hub.wait_for_line("members, line 5: ", SOON).unwrap();
    assert_eq!(hub_status(&lan.net).online, 3);

    // One moves, one is taken off, one stays.
    let lines = text.lines().filter(|line| !line.contains(" spoke2 ")).map(|line| {
        let line =
            if line.contains(" spoke1 ") { line.replace("10.0.0.3", "10.0.0.33") } else { line.to_owned() };
        line + "\n"
    });
    let edited = format!("# ours\n\n{}# the end\n", lines.collect::<String>());
    fs::write(&file, &edited).unwrap();
    hub(&lan.net, &["lock"]).good();
    let mark = lan.hub.mark();
    lan.hub.signal(Signal::SIGHUP).unwrap();
    lan.hub
        .wait_for_line_after(mark, "read the files again: 2 members, 2 changes in the list", SOON)
        .unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap(), edited, "comments and all");
    lan.spokes[1].wait_for_line_after(marks[1], "our membership was changed", SOON).unwrap();
    lan.spokes[2].wait_for_line_after(marks[2], "locked", SOON).unwrap();
    assert_eq!(lan.spokes[0].mark(), marks[0], "it notices nothing");
    ping(lan.net.hub(), Lan::address(0).into(), 56, SOON).unwrap();
}

#[test]
fn a_member_without_a_wish_of_its_own_gets_the_address_that_the_file_says() {
    let net = Net::new(1).unwrap();
    let binaries = Binaries::find().unwrap();
    let _hub = start_hub(&net, &binaries, &[]).unwrap();
    let spoke = spawn_without_wish(&net, &binaries);
    spoke.wait_for_line("on the LAN as 10.0.0.254", SOON).unwrap();
    let file = state(net.hub(), "hub").join("members");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("10.0.0.254", "10.0.0.22")).unwrap();
    let told = hub(&net, &["reload"]).good();
    assert!(told.contains("spoke0 changed"), "{told}");
    spoke.wait_for_line("on the LAN as 10.0.0.22", SOON).unwrap();
    ping(net.hub(), "10.0.0.22".parse().unwrap(), 56, SOON).unwrap();
}

#[test]
fn a_member_that_was_away_while_its_line_was_edited_gets_what_the_file_says() {
    let net = Net::new(2).unwrap();
    let binaries = Binaries::find().unwrap();
    let first = start_hub(&net, &binaries, &[]).unwrap();
    let silent = spawn_without_wish(&net, &binaries);
    silent.wait_for_line("on the LAN as 10.0.0.254", SOON).unwrap();
    // One that types --ip asks for it whatever the file says, and an open hub grants it.
    let typed = spawn_spoke(&net, &binaries, 1, &[]).unwrap();
    typed.wait_for_line("on the LAN as 10.0.0.3", SOON).unwrap();
    first.signal(Signal::SIGTERM).unwrap();
    first.wait_exit(SOON).unwrap();
    let file = state(net.hub(), "hub").join("members");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("10.0.0.254", "10.0.0.22").replace("10.0.0.3", "10.0.0.33")).unwrap();
    let marks = [silent.mark(), typed.mark()];
    let _second = start_hub(&net, &binaries, &[]).unwrap();
    silent.wait_for_line_after(marks[0], "on the LAN as 10.0.0.22", BACK).unwrap();
    typed.wait_for_line_after(marks[1], "on the LAN as 10.0.0.3 ", BACK).unwrap();
    ping_until(net.spoke(1), "10.0.0.22".parse().unwrap(), SOON).unwrap();
}

#[test]
fn what_a_person_writes_is_not_overwritten() {
    let lan = Lan::with(Net::new(2).unwrap(), 1).unwrap();
    let file = state(lan.net.hub(), "hub").join("members");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("# by hand\n{}", text.replace(" spoke0 ", " first ")).as_bytes()).unwrap();
    let newcomer = spawn_spoke(&lan.net, &lan.binaries, 1, &[]).unwrap();
    newcomer.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.starts_with("# by hand\n") && text.contains(" spoke1 10.0.0.3\n"), "{text}");
}

#[test]
fn a_revocation_beside_an_edit_that_is_not_read_yet_holds() {
    let lan = Lan::new(2).unwrap();
    let file = state(lan.net.hub(), "hub").join("members");
    fs::write(&file, format!("# by hand\n{}", fs::read_to_string(&file).unwrap())).unwrap();
    hub(&lan.net, &["revoke", "spoke1"]).good();
    lan.spokes[1].wait_exit(SOON).unwrap();
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.starts_with("# by hand\n") && text.contains(" spoke1 10.0.0.3 revoked\n"), "{text}");
    let again = spawn_spoke(&lan.net, &lan.binaries, 1, &[]).unwrap();
    assert_ne!(again.wait_exit(SOON).unwrap().code(), Some(0));
}

#[test]
fn a_members_file_that_cannot_be_read_stops_nobody() {
    let lan = Lan::new(2).unwrap();
    let file = state(lan.net.hub(), "hub").join("members");
    fs::remove_file(&file).unwrap();
    hub(&lan.net, &["reload"]).fails("is missing; nothing is changed");
    fs::create_dir(&file).unwrap();
    hub(&lan.net, &["reload"]).fails("nothing is changed");
    hub(&lan.net, &["revoke", "spoke1"]).fails("cannot write");
    lan.spokes[1].wait_exit(SOON).unwrap();
    ping(lan.net.hub(), Lan::address(0).into(), 56, SOON).unwrap();
}

#[test]
fn the_spoke_tells_its_hub_and_the_others() {
    let mut lan = Lan::new(3).unwrap();
    lan.spokes[2].signal(Signal::SIGTERM).unwrap();
    lan.hub.wait_for_line("spoke2 (10.0.0.4) left the LAN", SOON).unwrap();
    let text = spoke(&lan.net, 0, &["status"]).good();
    for part in [
        ": spoke0, 10.0.0.2/24 on spoke0",
        "hub 192.0.2.1:5678, key ",
        "through 192.0.2.1:5678, round trip ",
        "hub     10.0.0.1  online\n",
        "spoke0  10.0.0.2  this spoke\n",
        "spoke1  10.0.0.3  online\n",
        "spoke2  10.0.0.4  offline\n",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(spoke(&lan.net, 0, &["resolve", "spoke1"]).good(), "10.0.0.3\n");
    spoke(&lan.net, 0, &["resolve", "spoke9"]).fails("no member has the name spoke9");

    // Without a hub it says so, and knows of nobody.
    lan.hub.kill().unwrap();
    lan.spokes[0].wait_for_line("lost the hub", BACK).unwrap();
    let json = spoke(&lan.net, 0, &["status", "--json"]).good();
    let status: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(status["link"], serde_json::Value::Null);
    assert_eq!(status["members"], serde_json::json!([]));
    assert!(status["trouble"].as_str().unwrap().contains("192.0.2.1"), "{json}");
    spoke(&lan.net, 0, &["resolve", "spoke1"]).fails("not on the LAN");
    lan.restart_hub().unwrap();
    ping_until(lan.net.hub(), Lan::address(0).into(), BACK).unwrap();
    spoke(&lan.net, 0, &["resolve", "spoke1"]).good();
}

#[test]
fn the_spoke_does_not_wait_long_for_a_hub_that_is_silent() {
    let lan = Lan::new(1).unwrap();
    lan.net.cut(0).unwrap();
    let start = Instant::now();
    let text = spoke(&lan.net, 0, &["status"]).good();
    assert!(text.contains("the members are not known: the hub did not answer within 2 s"), "{text}");
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
}

#[test]
fn ten_thousand_members_are_told_without_holding_the_lan_up() {
    let net = Net::new(2).unwrap();
    let binaries = Binaries::find().unwrap();
    let directory = make_state(net.hub(), "hub").unwrap();
    let lines = (0..10_000).map(|number| format!("{} member-{number:05} -\n", nobodys_key(number)));
    fs::write(directory.join("members"), lines.collect::<String>()).unwrap();
    let _hub = start_hub(&net, &binaries, &[]).unwrap();
    let spokes = [0, 1].map(|i| spawn_spoke(&net, &binaries, i, &[]).unwrap());
    for spoke in &spokes {
        spoke.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
    }
    let busy = {
        let (path, place) = (binaries.hub.clone(), net.hub().private().join("hub"));
        net.hub().thread(move || {
            (0..5)
                .map(|_| Command::new(&path).args(["status", "--json", "--state"]).arg(&place).output())
                .collect::<Vec<_>>()
        })
    };
    let mut longest = Duration::ZERO;
    while !busy.is_finished() {
        longest = longest.max(ping(net.spoke(0), Lan::address(1).into(), 56, SOON).unwrap());
    }
    for output in busy.join().unwrap() {
        let status: Status = serde_json::from_slice(&output.unwrap().stdout).unwrap();
        assert_eq!((status.known, status.members.len(), status.online), (10_002, 10_002, 2));
        assert!(status.members.is_sorted_by(|a, b| a.name < b.name));
    }
    println!("longest ping meanwhile: {longest:?}");
    assert!(longest < Duration::from_millis(250), "{longest:?}");
    assert_eq!(spoke(&net, 0, &["resolve", "spoke1"]).good(), "10.0.0.3\n");
}

/// Starts spoke 0, which asks for no address.
fn spawn_without_wish(net: &Net, binaries: &Binaries) -> Process {
    let mut command = Command::new(&binaries.spoke);
    command.args(["--hub", "192.0.2.1", "--state"]).arg(net.spoke(0).private().join("spoke"));
    net.spoke(0).spawn("spoke", &command).unwrap()
}

fn hub_status(net: &Net) -> Status {
    serde_json::from_str(&hub(net, &["status", "--json"]).good()).unwrap()
}

fn member<'a>(status: &'a Status, name: &str) -> &'a MemberStatus {
    status.members.iter().find(|member| member.name.as_str() == name).unwrap()
}
