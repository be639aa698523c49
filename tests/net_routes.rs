//! Networks behind spokes.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests of IO")]

use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::house::{
    Binaries, Host, Lan, Net, SPOKE_ON_LAN, host_behind, ping, ping_until, spawn_spoke, start_hub, state,
    transfer,
};
use nix::sys::signal::Signal;

const SOON: Duration = Duration::from_secs(5);
const PREFIX: &str = "192.168.5.0/24";
const CAMERA: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 5, 20));

fn ip(host: &Host, arguments: &str) -> String {
    let mut command = Command::new("ip");
    command.args(arguments.split_ascii_whitespace());
    String::from_utf8(host.output(command).unwrap().stdout).unwrap()
}

#[test]
fn a_network_behind_a_spoke_is_reached_and_goes_and_comes_with_it() {
    let net = Net::new(2).unwrap();
    let camera = host_behind(net.spoke(0), "lan0", "camera", [192, 168, 5]).unwrap();
    let mut lan = Lan::with_options(net, &[], &[&["--route", PREFIX], &[]]).unwrap();
    lan.spokes[1].wait_for_line("route 192.168.5.0/24 installed", SOON).unwrap();
    let others = [(0, Lan::hub_address()), (1, Lan::address(1))];
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        for (i, address) in others {
            let other = if i == 0 { lan.net.hub() } else { lan.net.spoke(1) };
            ping_until(other, CAMERA, SOON).unwrap();
            ping(other, CAMERA, 20_000, SOON).unwrap();
            transfer(other, &camera, CAMERA, 1_000_000).unwrap().finish().unwrap();
            // And the other way.
            ping(&camera, address.into(), 56, SOON).unwrap();
            transfer(&camera, other, address.into(), 1_000_000).unwrap().finish().unwrap();
        }

        let (at_hub, at_spoke) = (lan.hub.mark(), lan.spokes[1].mark());
        let start = Instant::now();
        lan.spokes[0].signal(signal).unwrap();
        for (process, mark) in [(&lan.spokes[1], at_spoke), (&lan.hub, at_hub)] {
            process.wait_for_line_after(mark, "route 192.168.5.0/24 withdrawn", SOON).unwrap();
        }
        assert!(start.elapsed() < Duration::from_secs(1), "{signal}: gone after {:?}", start.elapsed());
        for other in [lan.net.hub(), lan.net.spoke(1)] {
            let routes = ip(other, "route show");
            assert!(!routes.contains(PREFIX), "{routes}");
            ping(other, CAMERA, 56, Duration::from_millis(100)).unwrap_err();
        }

        lan.spokes[0].wait_exit(SOON).unwrap();
        let (at_hub, at_spoke) = (lan.hub.mark(), lan.spokes[1].mark());
        lan.spokes[0] = spawn_spoke(&lan.net, &lan.binaries, 0, &["--route", PREFIX]).unwrap();
        lan.spokes[1].wait_for_line_after(at_spoke, "route 192.168.5.0/24 installed", SOON).unwrap();
        lan.hub.wait_for_line_after(at_hub, "route 192.168.5.0/24 installed", SOON).unwrap();
    }
    ping_until(lan.net.spoke(1), CAMERA, SOON).unwrap();
}

#[test]
fn who_joins_later_and_who_lost_the_hub_hears_of_routes_too() {
    let net = Net::new(2).unwrap();
    let _camera = host_behind(net.spoke(0), "lan0", "camera", [192, 168, 5]).unwrap();
    let mut lan = Lan::with_options(net, &[], &[&["--route", PREFIX]]).unwrap();
    let late = spawn_spoke(&lan.net, &lan.binaries, 1, &[]).unwrap();
    late.wait_for_line("route 192.168.5.0/24 installed", SOON).unwrap();
    ping_until(lan.net.spoke(1), CAMERA, SOON).unwrap();

    // A hub that begins anew has no routes until their owners are back; then everything is as before.
    let mark = lan.spokes[0].mark();
    lan.restart_hub().unwrap();
    lan.spokes[0].wait_for_line_after(mark, SPOKE_ON_LAN, Duration::from_secs(15)).unwrap();
    ping_until(lan.net.spoke(1), CAMERA, Duration::from_secs(15)).unwrap();
    ping_until(lan.net.hub(), CAMERA, SOON).unwrap();
    let routes = ip(lan.net.spoke(1), "route show");
    assert_eq!(routes.matches(PREFIX).count(), 1, "{routes}");

    // A spoke takes away what it has brought.
    late.signal(Signal::SIGTERM).unwrap();
    assert!(late.wait_exit(SOON).unwrap().success());
    assert!(!ip(lan.net.spoke(1), "route show").contains("192.168.5"));
}

#[test]
fn of_two_overlapping_offers_the_first_counts_and_the_second_steps_in() {
    let net = Net::new(3).unwrap();
    let _first = host_behind(net.spoke(0), "lan0", "first", [192, 168, 5]).unwrap();
    let _second = host_behind(net.spoke(1), "lan0", "second", [192, 168, 5]).unwrap();
    let lan = Lan::with_options(net, &[], &[&["--route", PREFIX]]).unwrap();
    lan.hub.wait_for_line("route 192.168.5.0/24 installed", SOON).unwrap();
    let second =
        spawn_spoke(&lan.net, &lan.binaries, 1, &["--route", "192.168.0.0/16", "--route", "192.168.99.0/24"])
            .unwrap();
    second.wait_for_line("does not take the route 192.168.0.0/16", SOON).unwrap();
    lan.hub.wait_for_line("192.168.0.0/16 of spoke1 is rejected: it overlaps 192.168.5.0/24", SOON).unwrap();
    let third = spawn_spoke(&lan.net, &lan.binaries, 2, &[]).unwrap();
    third.wait_for_line("route 192.168.5.0/24 installed", SOON).unwrap();
    third.wait_for_line("route 192.168.99.0/24 installed", SOON).unwrap();
    ping_until(lan.net.spoke(2), CAMERA, SOON).unwrap();
    assert!(!ip(lan.net.spoke(2), "route show").contains("192.168.0.0/16"));

    let start = Instant::now();
    lan.spokes[0].kill().unwrap();
    third.wait_for_line("route 192.168.0.0/16 installed", SOON).unwrap();
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    assert!(!ip(lan.net.spoke(2), "route show").contains(PREFIX));
    ping_until(lan.net.spoke(2), CAMERA, SOON).unwrap();
    ping_until(lan.net.hub(), CAMERA, SOON).unwrap();
}

#[test]
fn what_is_not_fit_is_refused_with_the_reason() {
    let net = Net::new(2).unwrap();
    let binaries = Binaries::find().unwrap();
    let hub = start_hub(&net, &binaries, &[]).unwrap();
    let unfit = ["10.0.0.128/25", "192.0.2.0/24", "0.0.0.0/0", "10.0.0.0/8"];
    let options: Vec<_> = unfit.iter().flat_map(|prefix| ["--route", prefix]).collect();
    let spoke = spawn_spoke(&net, &binaries, 0, &options).unwrap();
    spoke.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
    for (prefix, why) in unfit.into_iter().zip(["subnet", "the hub is in", "everything", "subnet"]) {
        spoke.wait_for_line(&format!("does not take the route {prefix}"), SOON).unwrap();
        let line = hub.wait_for_line(&format!("the route {prefix} of spoke0 is rejected"), SOON).unwrap();
        assert!(line.contains(why), "{line}");
    }
    ping_until(net.spoke(0), Lan::hub_address().into(), SOON).unwrap();
}

#[test]
fn a_locked_hub_takes_the_routes_that_its_members_were_granted_and_no_others() {
    let net = Net::new(3).unwrap();
    let binaries = Binaries::find().unwrap();
    let hub = start_hub(&net, &binaries, &[]).unwrap();
    // What an open hub took is granted from then on.
    let gateway = spawn_spoke(&net, &binaries, 0, &["--route", PREFIX]).unwrap();
    let other = spawn_spoke(&net, &binaries, 1, &[]).unwrap();
    for spoke in [&gateway, &other] {
        spoke.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
    }
    let command = |words: &[&str]| {
        let mut command = Command::new(&binaries.hub);
        command.args(words).arg("--state").arg(state(net.hub(), "hub"));
        let output = net.hub().output(command).unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    command(&["lock"]);
    // An invite can grant one too.
    let line = command(&["invite", "guest", "--route", "172.20.0.0/16", "--host", "192.0.2.1"]);
    let token = line.split_whitespace().skip_while(|&word| word != "--invite").nth(1).unwrap().to_owned();

    gateway.kill().unwrap();
    hub.wait_for_line("left the LAN", SOON).unwrap();
    let gateway = spawn_spoke(&net, &binaries, 0, &["--route", PREFIX, "--route", "172.16.1.0/24"]).unwrap();
    gateway.wait_for_line("does not take the route 172.16.1.0/24", SOON).unwrap();
    let line = hub.wait_for_line("the route 172.16.1.0/24 of spoke0 is rejected", SOON).unwrap();
    assert!(line.contains("does not grant it"), "{line}");
    let guest = ["--invite", &token, "--route", "172.20.0.0/16"];
    let guest = spawn_spoke(&net, &binaries, 2, &guest).unwrap();
    guest.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
    for prefix in [PREFIX, "172.20.0.0/16"] {
        other.wait_for_line(&format!("route {prefix} installed"), SOON).unwrap();
    }
    let routes = ip(net.spoke(1), "-4 route show dev spoke0");
    assert!(!routes.contains("172.16.1.0"), "{routes}");
}

#[test]
fn public_prefixes_are_taken_only_by_name_and_no_routes_means_none() {
    let net = Net::new(4).unwrap();
    let binaries = Binaries::find().unwrap();
    let hub = start_hub(&net, &binaries, &[]).unwrap();
    let offer = ["--route", "198.51.100.0/24", "--route", PREFIX];
    let _gateway = spawn_spoke(&net, &binaries, 0, &offer).unwrap();
    // On an open hub anyone may offer anything: its own kernel takes private prefixes alone.
    hub.wait_for_line("no kernel route to 198.51.100.0/24 through spoke0", SOON).unwrap();
    hub.wait_for_line("route 192.168.5.0/24 installed", SOON).unwrap();

    let careful = spawn_spoke(&net, &binaries, 1, &[]).unwrap();
    careful.wait_for_line("route 198.51.100.0/24 is rejected: it is not private", SOON).unwrap();
    careful.wait_for_line("route 192.168.5.0/24 installed", SOON).unwrap();
    let willing = spawn_spoke(&net, &binaries, 2, &["--accept-route", "198.51.100.0/24"]).unwrap();
    willing.wait_for_line("route 198.51.100.0/24 installed", SOON).unwrap();
    let alone = spawn_spoke(&net, &binaries, 3, &["--no-routes"]).unwrap();
    alone.wait_for_line("route 192.168.5.0/24 is rejected: routes are declined", SOON).unwrap();
    assert!(!ip(net.spoke(3), "route show").contains("192.168.5"));
}

#[test]
fn a_network_of_ones_own_is_never_hidden() {
    let net = Net::new(2).unwrap();
    let _own = host_behind(net.spoke(1), "lan0", "own", [192, 168, 5]).unwrap();
    let lan = Lan::with_options(net, &[], &[&["--route", PREFIX], &[]]).unwrap();
    lan.spokes[1].wait_for_line("route 192.168.5.0/24 is rejected: this machine is in", SOON).unwrap();
    ping(lan.net.spoke(1), CAMERA, 56, SOON).unwrap();
}

#[test]
fn a_network_with_the_spokes_own_connection_is_not_hidden_from_the_hub() {
    // The spoke connects from an address in the network that it offers.
    let net = Net::new(1).unwrap();
    net.spoke(0).ip("addr add 10.30.0.9/32 dev eth0\nroute add 192.0.2.1/32 dev eth0 src 10.30.0.9").unwrap();
    net.hub().ip("route add 10.0.0.0/8 dev eth0").unwrap();
    let lan = Lan::with_options(net, &[], &[&["--route", "10.30.0.0/24"]]).unwrap();
    lan.hub.wait_for_line("spoke0 (10.0.0.2) is on the LAN, from 10.30.0.9", SOON).unwrap();
    lan.hub.wait_for_line("no kernel route to 10.30.0.0/24 through spoke0: a spoke's own", SOON).unwrap();
    let (hub, spoke) = (lan.net.hub(), lan.net.spoke(0));
    transfer(spoke, hub, Lan::hub_address().into(), 1_000_000).unwrap().finish().unwrap();
}

#[test]
fn a_spoke_that_does_not_forward_says_so() {
    let net = Net::new(1).unwrap();
    let lan = Lan::with_options(net, &["--route", "172.16.0.0/12"], &[&["--route", PREFIX]]).unwrap();
    lan.spokes[0].wait_for_line("sysctl -w net.ipv4.ip_forward=1", SOON).unwrap();
    lan.hub.wait_for_line("sysctl -w net.ipv4.ip_forward=1", SOON).unwrap();
}

#[test]
fn an_address_that_nobody_holds_is_answered_at_once_and_not_for_ever() {
    let lan = Lan::new(2).unwrap();
    lan.spokes[1].kill().unwrap();
    let (from, nobody, offline) = (lan.net.spoke(0), Ipv4Addr::new(10, 0, 0, 99), Lan::address(1));
    lan.hub.wait_for_line("left the LAN", SOON).unwrap();
    for (host, to) in [(from, nobody), (from, offline), (lan.net.hub(), nobody), (lan.net.hub(), offline)] {
        let start = Instant::now();
        let failure = host.tcp_connect((to, 80), SOON).unwrap_err();
        assert!(start.elapsed() < Duration::from_millis(50), "{to}: {:?}: {failure}", start.elapsed());
        assert!(failure.to_string().contains("No route to host"), "{to}: {failure}");
    }
    // 400 messages get no more answers than the burst and what comes free while they go.
    let before = icmp_unreachable(from);
    let socket = from.udp_bind((Lan::address(0), 0)).unwrap();
    let start = Instant::now();
    for port in 1..=400 {
        // Each is of a flow of its own, as those of one flow travel as one and get one answer. The error of an earlier one
        // is told here.
        let _ = socket.send_to(b"hello", (nobody, port));
    }
    ping(from, Lan::hub_address().into(), 56, SOON).unwrap();
    let (answers, most) = (icmp_unreachable(from) - before, 50 + start.elapsed().as_millis() as u64 / 10 + 1);
    assert!((10..=most).contains(&answers), "{answers} answers, at most {most}");
}

/// Destination-unreachable messages that a host has received.
fn icmp_unreachable(host: &Host) -> u64 {
    let text = host.run(|| std::fs::read_to_string("/proc/thread-self/net/snmp")).unwrap();
    let lines: Vec<Vec<&str>> = text
        .lines()
        .filter(|line| line.starts_with("Icmp:"))
        .map(|line| line.split_ascii_whitespace().collect())
        .collect();
    let column = lines[0].iter().position(|&word| word == "InDestUnreachs").unwrap();
    lines[1][column].parse().unwrap()
}
