//! What a LAN survives: hubs and spokes that die, and paths that go silent.

#![allow(clippy::disallowed_methods, clippy::print_stdout, clippy::unwrap_used, reason = "tests of IO")]

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::house::{
    self, Binaries, Direction, Host, Lan, Net, SPOKE_ON_LAN, ping, ping_until, spawn_spoke, start_hub,
    transfer,
};

const SOON: Duration = Duration::from_secs(5);
/// Both ends must notice a silent death within 10 s; the rest is for a busy machine.
const NOTICED: Duration = Duration::from_secs(12);
/// The longest back-off of a spoke, and the handshake.
const BACK: Duration = Duration::from_secs(20);

#[test]
fn a_spoke_comes_back_after_kill_9_with_its_address() {
    let mut lan = Lan::new(2).unwrap();
    for _ in 0..3 {
        lan.restart_spoke(0).unwrap();
        ping(lan.net.spoke(0), Lan::address(1).into(), 56, SOON).unwrap();
        ping(lan.net.spoke(1), Lan::address(0).into(), 56, SOON).unwrap();
    }
}

#[test]
fn silence_is_noticed_by_both_ends_and_healed() {
    let lan = Lan::new(3).unwrap();
    let marks: Vec<_> = lan.spokes.iter().map(house::Process::mark).collect();
    let hub_mark = lan.hub.mark();
    let start = Instant::now();
    lan.net.cut(0).unwrap();
    lan.net.cut_one_way(1, Direction::In).unwrap();
    lan.net.cut_one_way(2, Direction::Out).unwrap();

    // The end that hears nothing says so.
    let left = || NOTICED.saturating_sub(start.elapsed());
    for i in [0, 1] {
        lan.spokes[i].wait_for_line_after(marks[i], "nothing heard for 10 s", left()).unwrap();
    }
    for i in [0, 2] {
        lan.hub.wait_for_line_after(hub_mark, &format!("spoke{i}"), left()).unwrap();
    }
    assert!(start.elapsed() > Duration::from_secs(8), "4 s of pings and 10 s of patience were cut short");
    // What was still heard at first has fallen silent by then.
    lan.hub.wait_for_line_after(hub_mark, "spoke1", NOTICED).unwrap();

    // The devices stay up meanwhile.
    let marks: Vec<_> = lan.spokes.iter().map(house::Process::mark).collect();
    for i in 0..3 {
        assert!(interfaces(lan.net.spoke(i)).contains("spoke0"));
        lan.net.mend(i).unwrap();
    }
    for (spoke, mark) in lan.spokes.iter().zip(marks) {
        spoke.wait_for_line_after(mark, SPOKE_ON_LAN, BACK).unwrap();
    }
    for i in 0..3 {
        ping(lan.net.spoke(i), Lan::address((i + 1) % 3).into(), 56, SOON).unwrap();
    }
}

#[test]
fn a_short_silence_harms_nothing() {
    let lan = Lan::new(2).unwrap();
    let bytes = 30_000_000;
    let under_way = transfer(lan.net.spoke(0), lan.net.spoke(1), Lan::address(1).into(), bytes).unwrap();
    under_way.wait_received(1_000_000, SOON).unwrap();
    let marks: Vec<_> = lan.spokes.iter().map(house::Process::mark).collect();
    lan.net.cut(1).unwrap();
    // The path's own silence is what is tested: there is no event to wait for.
    std::thread::sleep(Duration::from_secs(4));
    lan.net.mend(1).unwrap();
    under_way.wait_received(bytes, BACK).unwrap();
    let stall = under_way.take_longest_stall();
    under_way.finish().unwrap();
    // Retransmissions have come each second; without the limit the last one before is at 3 s, the next at 6.
    if Path::new("/proc/sys/net/ipv4/tcp_rto_max_ms").exists() {
        assert!(
            stall < Duration::from_millis(5_500),
            "the path was silent for 4 s, the transfer for {stall:?}"
        );
    } else {
        println!("this kernel cannot limit the time between retransmissions: {stall:?}");
    }
    for (spoke, mark) in lan.spokes.iter().zip(marks) {
        assert_eq!(spoke.mark(), mark, "nothing was said: {:?}", spoke.lines());
    }
}

#[test]
fn a_spoke_waits_for_its_hub() {
    let net = Net::new(1).unwrap();
    let binaries = Binaries::find().unwrap();
    let spoke = spawn_spoke(&net, &binaries, 0, &[]).unwrap();
    spoke.wait_for_line("nothing listens there", SOON).unwrap();
    let _hub = start_hub(&net, &binaries, &[]).unwrap();
    spoke.wait_for_line(SPOKE_ON_LAN, BACK).unwrap();
    ping(net.spoke(0), Lan::hub_address().into(), 56, SOON).unwrap();
}

#[test]
fn a_spoke_that_still_tries_can_be_interrupted() {
    let net = Net::new(2).unwrap();
    let binaries = Binaries::find().unwrap();
    // One waits for a name server that does not answer, the other for a path that is silent.
    let _name_server = net.hub().udp_bind((Net::hub_v4(), 53)).unwrap();
    net.spoke(0).set_file("/etc/resolv.conf", "nameserver 192.0.2.1\n").unwrap();
    net.cut(1).unwrap();
    let spokes = [(0, "hub.example"), (1, "192.0.2.1")].map(|(i, hub)| {
        let mut command = Command::new(&binaries.spoke);
        command.args(["--hub", hub]).env("RUST_LOG", "debug");
        net.spoke(i).spawn("spoke", &command).unwrap()
    });
    for (i, spoke) in spokes.iter().enumerate() {
        spoke.wait_for_line("spoke0: interface", SOON).unwrap();
        spoke.signal(Signal::SIGTERM).unwrap();
        assert_eq!(spoke.wait_exit(Duration::from_secs(2)).unwrap().code(), Some(0));
        assert!(!interfaces(net.spoke(i)).contains("spoke0"));
    }
}

#[test]
fn interrupted_programs_say_goodbye_and_leave_nothing() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let lan = Lan::new(2).unwrap();
        let mark = lan.hub.mark();
        let start = Instant::now();
        lan.spokes[0].signal(signal).unwrap();
        assert_eq!(lan.spokes[0].wait_exit(SOON).unwrap().code(), Some(0), "{signal}");
        lan.hub.wait_for_line_after(mark, "spoke0", SOON).unwrap();
        assert!(!interfaces(lan.net.spoke(0)).contains("spoke0"));

        let mark = lan.spokes[1].mark();
        lan.hub.signal(signal).unwrap();
        assert_eq!(lan.hub.wait_exit(SOON).unwrap().code(), Some(0), "{signal}");
        lan.spokes[1].wait_for_line_after(mark, "", SOON).unwrap();
        assert!(!interfaces(lan.net.hub()).contains("hub0"));
        assert!(lan.spokes[1].is_running());
        assert!(start.elapsed() < SOON, "goodbyes are quick");
    }
}

#[test]
fn kill_9_leaves_nothing_and_a_new_start_finds_the_way_free() {
    let mut lan = Lan::new(1).unwrap();
    lan.hub.kill().unwrap();
    lan.spokes[0].kill().unwrap();
    assert!(!interfaces(lan.net.hub()).contains("hub0"));
    assert!(!interfaces(lan.net.spoke(0)).contains("spoke0"));
    lan.restart_hub().unwrap();
    lan.restart_spoke(0).unwrap();
    ping_until(lan.net.spoke(0), Lan::hub_address().into(), SOON).unwrap();
}

#[test]
fn a_stopped_spoke_harms_no_other() {
    let lan = Lan::new(3).unwrap();
    lan.spokes[2].signal(Signal::SIGSTOP).unwrap();
    // More than the queue and the sockets to it can hold.
    let socket = lan.net.spoke(0).udp_bind((Lan::address(0), 0)).unwrap();
    for _ in 0..20_000 {
        // The device's queue may be full: what is tested is the other way.
        let _ = socket.send_to(&[0; 1400], (Lan::address(2), 9));
    }
    transfer(lan.net.spoke(0), lan.net.spoke(1), Lan::address(1).into(), 10_000_000)
        .unwrap()
        .finish()
        .unwrap();
    let worst = (0..20).map(|_| ping(lan.net.spoke(1), Lan::address(0).into(), 56, SOON).unwrap()).max();
    assert!(worst < Some(Duration::from_millis(500)), "a ping took {worst:?}");
    lan.spokes[2].signal(Signal::SIGCONT).unwrap();
}

fn interfaces(host: &Host) -> String {
    host.run(|| fs::read_to_string("/proc/thread-self/net/dev")).unwrap()
}
