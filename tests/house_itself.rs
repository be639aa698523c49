//! The house that the other tests stand on: hosts reach each other, cuts are silent, nothing stays behind.

#![allow(clippy::disallowed_methods, reason = "tests of IO")]

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::house::{Direction, Host, Net, Result, await_true, echo_udp, ping, transfer};

const SOON: Duration = Duration::from_secs(5);
/// Long enough for an answer on this machine, short enough to wait for silence.
const SILENCE: Duration = Duration::from_millis(300);

#[test]
fn hosts_ping_each_other_in_both_families() {
    let net = Net::new(2).unwrap();
    for size in [0, 56, 1472, 9000, 60_000] {
        ping(net.spoke(0), Net::spoke_v4(1).into(), size, SOON).unwrap();
        ping(net.spoke(1), Net::hub_v4().into(), size, SOON).unwrap();
    }
    assert!(net.ipv6(), "this machine has no IPv6 (/proc/sys/net/ipv6 is missing): it can't be tested here");
    ping(net.spoke(0), Net::spoke_v6(1).into(), 56, SOON).unwrap();
    ping(net.hub(), Net::spoke_v6(0).into(), 9000, SOON).unwrap();
}

#[test]
fn a_cut_is_silent_and_can_be_mended() {
    let net = Net::new(2).unwrap();
    let hub = IpAddr::from(Net::hub_v4());
    ping(net.spoke(0), hub, 56, SOON).unwrap();
    net.cut(0).unwrap();
    let failure = ping(net.spoke(0), hub, 56, SILENCE).unwrap_err();
    assert!(failure.to_string().contains("no answer"), "{failure}");
    ping(net.hub(), Net::spoke_v4(0).into(), 56, SILENCE).unwrap_err();
    ping(net.spoke(1), hub, 56, SOON).unwrap();
    net.mend(0).unwrap();
    ping(net.spoke(0), hub, 56, SOON).unwrap();
}

#[test]
fn one_direction_can_be_cut() {
    let net = Net::new(1).unwrap();
    let hub = net.hub().udp_bind((Net::hub_v4(), 0)).unwrap();
    let spoke = net.spoke(0).udp_bind((Net::spoke_v4(0), 0)).unwrap();
    let (hub_address, spoke_address) = (hub.local_addr().unwrap(), spoke.local_addr().unwrap());
    for socket in [&hub, &spoke] {
        socket.set_read_timeout(Some(SILENCE)).unwrap();
    }
    let arrives = |from: &std::net::UdpSocket, to: &std::net::UdpSocket, address| {
        from.send_to(b"hello", address).unwrap();
        match to.recv(&mut [0; 8]) {
            Ok(length) => length == 5,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            Err(error) => panic!("{error}"),
        }
    };
    let both = || (arrives(&spoke, &hub, hub_address), arrives(&hub, &spoke, spoke_address));
    assert_eq!(both(), (true, true));
    net.cut_one_way(0, Direction::In).unwrap();
    assert_eq!(both(), (true, false));
    net.mend(0).unwrap();
    net.cut_one_way(0, Direction::Out).unwrap();
    assert_eq!(both(), (false, true));
    net.mend(0).unwrap();
    assert_eq!(both(), (true, true));
}

#[test]
fn a_part_of_the_packets_can_be_lost() {
    let net = Net::new(1).unwrap();
    let hub = net.hub().udp_bind((Net::hub_v4(), 0)).unwrap();
    let spoke = net.spoke(0).udp_bind((Net::spoke_v4(0), 0)).unwrap();
    for socket in [&hub, &spoke] {
        socket.set_read_timeout(Some(SILENCE)).unwrap();
    }
    let arrive = |from: &std::net::UdpSocket, to: &std::net::UdpSocket| {
        let address = to.local_addr().unwrap();
        (0..200).for_each(|_| assert_eq!(from.send_to(b"hello", address).unwrap(), 5));
        std::iter::from_fn(|| to.recv(&mut [0; 8]).ok()).count()
    };
    net.lose(50).unwrap();
    for arrived in [arrive(&spoke, &hub), arrive(&hub, &spoke)] {
        assert!((60..140).contains(&arrived), "{arrived} of 200 have arrived");
    }
    net.lose(0).unwrap();
    assert_eq!((arrive(&spoke, &hub), arrive(&hub, &spoke)), (200, 200));
}

#[test]
fn a_limit_slows_a_transfer_down() {
    let net = Net::new(2).unwrap();
    transfer(net.spoke(0), net.spoke(1), Net::spoke_v4(1).into(), 10_000_000).unwrap().finish().unwrap();
    net.limit(1, Some(20_000), Duration::from_millis(20)).unwrap();
    let time =
        transfer(net.spoke(0), net.spoke(1), Net::spoke_v4(1).into(), 1_000_000).unwrap().finish().unwrap();
    assert!(time > Duration::from_millis(350), "8 Mbit at 20 Mbit/s took {time:?}");
}

#[test]
fn udp_messages_come_back() {
    let net = Net::new(1).unwrap();
    let server = net.hub().udp_bind((Net::hub_v4(), 0)).unwrap();
    let client = net.spoke(0).udp_bind((Net::spoke_v4(0), 0)).unwrap();
    client.send_to(b"hello", server.local_addr().unwrap()).unwrap();
    let (sender, message) = echo_udp(&server, SOON).unwrap();
    assert_eq!((sender, &message[..]), (client.local_addr().unwrap(), &b"hello"[..]));
    client.set_read_timeout(Some(SOON)).unwrap();
    let mut answer = [0; 16];
    assert_eq!(client.recv(&mut answer).unwrap(), 5);
}

#[test]
fn sixteen_spokes_are_up_in_two_seconds() {
    let start = Instant::now();
    let net = Net::new(16).unwrap();
    let time = start.elapsed();
    ping(net.spoke(15), Net::spoke_v4(0).into(), 56, SOON).unwrap();
    println!("17 hosts in {time:?}");
    assert!(time < Duration::from_secs(2), "17 hosts took {time:?}");
}

#[test]
fn each_host_has_a_private_directory() {
    let (one, two) = (Host::new("one").unwrap(), Host::new("two").unwrap());
    let file = one.private().join("file");
    let inside = file.clone();
    one.run(move || fs::write(inside, "one")).unwrap();
    assert_eq!(fs::read_to_string(one.path(&file)).unwrap(), "one");
    assert!(!two.path(&file).exists());
    assert!(!file.exists());
}

#[test]
fn lines_and_the_end_of_a_program_are_seen() {
    let host = Host::new("host").unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", "echo one; echo two >&2; exit 3"]);
    let program = host.spawn("sh", &command).unwrap();
    program.wait_for_line("two", SOON).unwrap();
    assert_eq!(program.wait_exit(SOON).unwrap().code(), Some(3));
    let failure = program.wait_for_line("three", SOON).unwrap_err().to_string();
    assert!(failure.contains("ended") && failure.contains("\none\n"), "{failure}");
}

#[test]
fn a_dropped_host_kills_its_programs() {
    let host = Host::new("host").unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", "echo here; exec sleep 1000"]);
    let program = host.spawn("sleep", &command).unwrap();
    program.wait_for_line("here", SOON).unwrap();
    drop(host);
    program.wait_exit(SOON).unwrap();
}

/// The environment variable that makes [`hold_a_net`] do its work: the namespace path of an observer.
const OBSERVER: &str = "HOUSE_OBSERVER";

/// Run as a program of its own by `nothing_is_left_after_kill_9`.
#[test]
#[ignore = "a helper of nothing_is_left_after_kill_9"]
fn hold_a_net() {
    let observer = std::env::var(OBSERVER).expect("only nothing_is_left_after_kill_9 runs this");
    let net = Net::new(2).unwrap();
    // The far end of each pair stays in the observer for just as long as the namespace of the near end.
    for (i, host) in [net.hub(), net.spoke(0), net.spoke(1)].into_iter().enumerate() {
        host.ip(&format!("link add near type veth peer name far{i} netns {observer}")).unwrap();
    }
    let mut command = Command::new("sh");
    command.args(["-c", "echo here; exec sleep 1000"]);
    let programs = [net.hub(), net.spoke(0)].map(|host| host.spawn("sleep", &command).unwrap());
    for program in &programs {
        program.wait_for_line("here", SOON).unwrap();
        println!("program {}", program.pid());
    }
    println!("holding");
    loop {
        std::thread::park();
    }
}

#[test]
fn nothing_is_left_after_kill_9() {
    let observer = Host::new("observer").unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--ignored", "--exact", "house_itself::hold_a_net", "--nocapture"])
        .env(OBSERVER, observer.namespace_path());
    let holder = observer.spawn("holder", &command).unwrap();
    holder.wait_for_line("holding", SOON).unwrap();
    let pids: Vec<PathBuf> = holder
        .lines()
        .iter()
        .filter_map(|line| Some(Path::new("/proc").join(line.strip_prefix("program ")?)))
        .collect();
    assert_eq!(pids.len(), 2);
    assert!(pids.iter().all(|pid| pid.exists()));
    assert_eq!(interfaces(&observer).unwrap(), ["far0", "far1", "far2", "lo"]);

    holder.kill().unwrap();

    await_true("the programs to die", SOON, || pids.iter().all(|pid| !pid.exists()));
    await_true("the namespaces to go", SOON, || interfaces(&observer).unwrap() == ["lo"]);
}

fn interfaces(host: &Host) -> Result<Vec<String>> {
    let table = host.run(|| fs::read_to_string("/proc/thread-self/net/dev"))?;
    let mut names: Vec<_> =
        table.lines().filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned())).collect();
    names.sort();
    Ok(names)
}
