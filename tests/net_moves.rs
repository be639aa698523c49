//! Paths that change under a link: addresses and interfaces that come and go, and sizes that do not fit any more.
//!
//! The networks are those of `house/mobile`.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests of IO")]

use std::fs;
use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use crate::house::mobile::{AT_ONCE, Mobile};
use crate::house::{
    self, Direction, Host, Lan, Net, Process, SPOKE_ON_LAN, full_packets_fit, ping, ping_until, transfer,
};

const SOON: Duration = Duration::from_secs(5);
/// The longest pause of a spoke that tries again and again.
const LATER: Duration = Duration::from_secs(30);

/// Whether the log has nothing about the link since `mark`.
fn is_undisturbed(spoke: &Process, mark: usize) -> bool {
    !spoke.lines()[mark..].iter().any(|line| line.contains("hub"))
}

#[test]
fn an_interface_that_goes_down_and_up_with_its_address_brings_the_link_back_at_once() {
    let world = Mobile::new();
    let _hub = world.start_hub(&[]);
    let spoke = world.start_spoke(&[]);
    ping_until(&world.mobile, Lan::hub_address().into(), SOON).unwrap();
    for pause in [Duration::ZERO, AT_ONCE, 5 * AT_ONCE] {
        // The kernel keeps the address, and forgets the routes.
        let mark = spoke.mark();
        world.mobile.ip("link set wlan0 down").unwrap();
        thread::sleep(pause);
        let start = Instant::now();
        world.mobile.ip("link set wlan0 up\nroute replace default via 172.20.0.1").unwrap();
        ping_until(&world.mobile, Lan::hub_address().into(), 2 * AT_ONCE).unwrap();
        assert!(
            start.elapsed() < AT_ONCE,
            "{:?} after {pause:?}: {:?}",
            start.elapsed(),
            &spoke.lines()[mark..]
        );
    }
}

#[test]
fn an_ipv6_address_that_is_replaced_costs_a_second_and_one_that_is_deprecated_nothing() {
    let world = Mobile::new();
    assert!(
        world.net.ipv6(),
        "this machine has no IPv6 (/proc/sys/net/ipv6 is missing): it can't be tested here"
    );
    let router = world.net.spoke(0);
    router
        .ip("addr add 2001:db8:20::1/64 dev lan0 nodad\naddr add 2001:db8:21::1/64 dev lan0 nodad")
        .unwrap();
    for network in ["2001:db8:20::/64", "2001:db8:21::/64"] {
        world.net.hub().ip(&format!("route add {network} via {}", Net::spoke_v6(0))).unwrap();
    }
    world
        .mobile
        .ip("addr add 2001:db8:20::9/64 dev wlan0 nodad\nroute add default via 2001:db8:20::1")
        .unwrap();
    ping_until(&world.mobile, Net::hub_v6().into(), SOON).unwrap();
    let _hub = world.start_hub(&[]);
    let spoke = world.spawn_spoke(&["--hub", &Net::hub_v6().to_string(), "--ip", "10.0.0.2"], &[]);
    ping_until(&world.mobile, Lan::hub_address().into(), SOON).unwrap();
    // The provider announces another prefix: the old address stays for a while, and is not for new connections.
    let mark = spoke.mark();
    world
        .mobile
        .ip("addr add 2001:db8:21::9/64 dev wlan0 nodad\n\
             addr change 2001:db8:20::9/64 dev wlan0 preferred_lft 0 valid_lft forever\n\
             route replace default via 2001:db8:21::1")
        .unwrap();
    thread::sleep(2 * AT_ONCE);
    assert!(is_undisturbed(&spoke, mark), "{:?}", &spoke.lines()[mark..]);
    ping(&world.mobile, Lan::hub_address().into(), 56, AT_ONCE).unwrap();
    // And is gone in the end.
    let mark = spoke.mark();
    world.mobile.ip("addr del 2001:db8:20::9/64 dev wlan0").unwrap();
    spoke.wait_for_line_after(mark, SPOKE_ON_LAN, AT_ONCE).unwrap();
    ping_until(&world.mobile, Lan::hub_address().into(), AT_ONCE).unwrap();
    // All of IPv6 is gone, and the name of the hub has an address of the other family.
    let mark = spoke.mark();
    world.mobile.ip("addr flush dev wlan0 scope global\naddr add 172.20.0.9/24 dev wlan0").unwrap();
    spoke.wait_for_line_after(mark, "hub", SOON).unwrap();
    assert!(spoke.is_running());
}

#[test]
fn a_router_that_reports_a_smaller_size_in_mid_connection_is_believed() {
    let world = Mobile::new();
    let _hub = world.start_hub(&[]);
    let spoke = world.start_spoke(&[]);
    let (mobile, hub) = (&world.mobile, world.net.hub());
    ping_until(mobile, Lan::hub_address().into(), SOON).unwrap();
    transfer(mobile, hub, Lan::hub_address().into(), 1_000_000).unwrap().finish().unwrap();
    let mark = spoke.mark();
    // The way between the router and the hub gets narrower: a tunnel of the provider.
    for host in [world.net.spoke(0), hub] {
        host.ip("link set eth0 mtu 1280").unwrap();
    }
    for _ in 0..2 {
        transfer(mobile, hub, Lan::hub_address().into(), 3_000_000).unwrap().finish().unwrap();
        transfer(hub, mobile, Lan::address(0).into(), 3_000_000).unwrap().finish().unwrap();
    }
    assert_eq!(spoke.lines().len(), mark, "{:?}", spoke.lines());
}

#[test]
fn a_hole_that_closes_again_costs_no_link() {
    let net = Net::new(1).unwrap();
    let lan = Lan::with(net, 1).unwrap();
    let (from, to, spoke) = (lan.net.spoke(0), lan.net.hub(), &lan.spokes[0]);
    const BYTES: u64 = 200_000_000;
    for direction in [Direction::Out, Direction::In] {
        let mark = spoke.mark();
        let there = transfer(from, to, Lan::hub_address().into(), BYTES).unwrap();
        let back = transfer(to, from, Lan::address(0).into(), BYTES).unwrap();
        for one in [&there, &back] {
            one.wait_received(1_000_000, SOON).unwrap();
        }
        lan.net.lose_longer(0, 1_400, Some(direction)).unwrap();
        thread::sleep(Duration::from_secs(4));
        assert!(there.is_under_way() && back.is_under_way(), "too fast for the hole");
        lan.net.close_hole(0).unwrap();
        there.finish().unwrap();
        back.finish().unwrap();
        assert_eq!(spoke.lines().len(), mark, "{direction:?}: {:?}", spoke.lines());
    }
}

#[test]
fn holes_of_other_sizes_and_of_ipv6_are_found_too() {
    let net = Net::new(2).unwrap();
    assert!(net.ipv6(), "this machine has no IPv6 (/proc/sys/net/ipv6 is missing): it can't be tested here");
    // Less than the first step down, and less than IPv6 promises to carry, without a word.
    net.lose_longer(0, 1_300, None).unwrap();
    net.lose_longer(1, 1_380, Some(Direction::Out)).unwrap();
    let lan = Lan::with(net, 1).unwrap();
    let hub = Net::hub_v6().to_string();
    let options = ["--hub", &hub, "--ip", "10.0.0.3", "--state", "/var/lib/spoke"];
    let mut command = std::process::Command::new(&lan.binaries.spoke);
    command.args(options);
    let by_ipv6 = lan.net.spoke(1).spawn("by IPv6", &command).unwrap();
    by_ipv6.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
    let fits = |i, spoke: &Process| {
        full_packets_fit(lan.net.spoke(i), spoke, 1_200, Duration::from_secs(90)).unwrap();
    };
    thread::scope(|scope| {
        scope.spawn(|| fits(0, &lan.spokes[0]));
        scope.spawn(|| fits(1, &by_ipv6));
    });
    for i in 0..2 {
        let (from, to) = (lan.net.spoke(i), lan.net.hub());
        transfer(from, to, Lan::hub_address().into(), 1_000_000).unwrap().finish().unwrap();
        transfer(to, from, Lan::address(i).into(), 1_000_000).unwrap().finish().unwrap();
    }
}

fn set_ipv6(host: &Host, device: &'static str, is_off: bool) {
    let value = if is_off { "1" } else { "0" };
    let path = format!("/proc/sys/net/ipv6/conf/{device}/disable_ipv6");
    host.run(move || fs::write(path, value)).unwrap();
}

#[test]
fn a_family_that_goes_and_comes_while_all_run_takes_nothing_from_the_other() {
    let lan = Lan::dual(2).unwrap();
    let ends = [(lan.net.spoke(0), "spoke0", &lan.spokes[0]), (lan.net.hub(), "hub0", &lan.hub)];
    for (host, device, program) in ends {
        for name in [device, "all"] {
            let mark = program.mark();
            set_ipv6(host, name, true);
            program.wait_for_line_after(mark, "IPv6", SOON).unwrap();
            ping(lan.net.spoke(0), Lan::hub_address().into(), 56, SOON).unwrap();
            ping(lan.net.spoke(0), Lan::address(1).into(), 56, SOON).unwrap();
            let said = if device == "hub0" {
                house::ask_hub(&lan.net, &["status"])
            } else {
                house::ask_spoke(&lan.net, 0, &["status"])
            };
            assert!(said.good().contains("problem:"), "{name}: {:?}", program.lines());
            set_ipv6(host, name, false);
            ping_until(lan.net.spoke(0), Lan::hub_address_v6().into(), SOON).unwrap();
            ping_until(lan.net.spoke(0), Lan::address_v6(1).into(), SOON).unwrap();
        }
    }
    assert!(lan.hub.is_running() && lan.spokes.iter().all(Process::is_running));
}

#[test]
fn a_machine_whose_only_network_has_ipv6_alone_is_on_a_lan_of_both_and_one_of_each() {
    let world = Mobile::new();
    assert!(
        world.net.ipv6(),
        "this machine has no IPv6 (/proc/sys/net/ipv6 is missing): it can't be tested here"
    );
    world.net.spoke(0).ip("addr add 2001:db8:20::1/64 dev lan0 nodad").unwrap();
    world.net.hub().ip(&format!("route add 2001:db8:20::/64 via {}", Net::spoke_v6(0))).unwrap();
    world
        .mobile
        .ip("addr flush dev wlan0 scope global\naddr flush dev wlan1 scope global\nlink set wlan1 down\n\
             addr add 2001:db8:20::9/64 dev wlan0 nodad\nroute add default via 2001:db8:20::1")
        .unwrap();
    ping_until(&world.mobile, Net::hub_v6().into(), SOON).unwrap();
    let hub = world.start_hub(&["--subnet", "fd00::/64", "--route", "0.0.0.0/0"]);
    let hub_address = Net::hub_v6().to_string();
    let spoke =
        world.spawn_spoke(&["--hub", &hub_address, "--ip", "10.0.0.2"], &["--accept-route", "0.0.0.0/0"]);
    spoke.wait_for_line("route 0.0.0.0/0 installed", SOON).unwrap();
    let ping_both = |v4: bool, v6: bool| {
        let both: [(bool, IpAddr); 2] = [(v4, Lan::hub_address().into()), (v6, Lan::hub_address_v6().into())];
        for (_, address) in both.into_iter().filter(|(is_there, _)| *is_there) {
            ping_until(&world.mobile, address, SOON).unwrap();
        }
    };
    ping_both(true, true);
    ping_until(&world.mobile, house::mobile::WEB.into(), SOON).unwrap();
    // The hub comes back with one of the families, with the other, and with both: no running spoke ends, whatever it
    // asked for.
    let state = house::state(world.net.hub(), "hub");
    let mut hub = hub;
    for (subnets, v4, v6) in [
        (&["10.0.0.0/24"][..], true, false),
        (&["fd00::/64"], false, false),
        (&["10.0.0.0/24", "fd00::/64"], true, true),
    ] {
        hub.kill().unwrap();
        for file in ["members", "subnets"] {
            // A hub without members has no list of them.
            let _ = fs::remove_file(state.join(file));
        }
        let mut command = std::process::Command::new(&world.binaries.hub);
        for subnet in subnets {
            command.args(["--subnet", subnet]);
        }
        let mark = spoke.mark();
        hub = world.net.hub().spawn("hub", &command).unwrap();
        hub.wait_for_line(house::HUB_LISTENS, SOON).unwrap();
        let line = if v4 { SPOKE_ON_LAN } else { "10.0.0.2 is not in the LAN's subnet fd00::/64" };
        spoke.wait_for_line_after(mark, line, LATER).unwrap();
        ping_both(v4, v6);
        assert!(spoke.is_running());
    }
}
