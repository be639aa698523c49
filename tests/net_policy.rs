//! A machine on which others route by policy too: VPNs, virtual routers, several providers, several LANs, services.
//!
//! The networks are those of `house/mobile`.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests of IO")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use crate::house::mobile::{AT_ONCE, EVERYTHING, Mobile, WEB, cable, masquerade, talks};
use crate::house::{Host, Lan, Net, Process, await_true, echo_udp, ping, ping_until};
use nix::sys::signal::Signal;

const SOON: Duration = Duration::from_secs(5);
/// A service's address that nobody has.
const ELSEWHERE: &str = "203.0.113.1";

fn stop(spoke: &Process) {
    spoke.signal(Signal::SIGTERM).unwrap();
    assert!(spoke.wait_exit(SOON).unwrap().success());
}

/// What `wg-quick up` does for a peer with everything behind it; wlan1 stands for its device.
const VPN_UP: &str = "route add default via 172.20.1.1 dev wlan1 table 51820\n\
                      rule add not fwmark 51820 table 51820\nrule add table main suppress_prefixlength 0";
const VPN_DOWN: &str = "rule del not fwmark 51820 table 51820\nrule del table main suppress_prefixlength 0\n\
                        route flush table 51820";

/// The provider takes no packets with other sources than those it has given.
fn filter_sources(world: &Mobile) {
    let rule = |i: usize| {
        format!(
            "table ip filter {{\nchain f {{\ntype filter hook forward priority filter\n\
             iifname \"lan0\" ip saddr != 172.20.{i}.0/24 drop\n}}\n}}\n"
        )
    };
    (0..2).for_each(|i| world.net.spoke(i).nft(&rule(i)).unwrap());
}

#[test]
fn a_vpn_that_takes_everything_keeps_it_and_the_way_to_the_hub() {
    let world = Mobile::new();
    filter_sources(&world);
    world.mobile.ip(VPN_UP).unwrap();
    let before = world.rules();
    let (hub, spoke) = world.start_hub_and_exit();
    let hub_address = Net::hub_v4().to_string();
    assert_eq!(world.leaves_by(&hub_address), "wlan1", "{}", world.rules());
    assert_eq!(world.leaves_by(ELSEWHERE), "wlan1", "the VPN was there first");
    // The link is not led elsewhere by our own rules, which would end it again and again.
    let mark = spoke.mark();
    thread::sleep(3 * AT_ONCE);
    assert_eq!(spoke.lines().len(), mark, "{:?}", spoke.lines());
    ping(&world.mobile, Lan::hub_address().into(), 56, SOON).unwrap();

    // Without it everything goes through the LAN, and the link by the machine's own way.
    world.mobile.ip(VPN_DOWN).unwrap();
    await_true("the machine's own way", AT_ONCE, || world.leaves_by(&hub_address) == "wlan0");
    await_true("the way out", SOON, || world.leaves_by(ELSEWHERE) == "spoke0");
    ping_until(&world.mobile, WEB.into(), SOON).unwrap();
    // And one that comes while the way out is in use.
    world.mobile.ip(VPN_UP).unwrap();
    await_true("the VPN", AT_ONCE, || world.leaves_by(ELSEWHERE) == "wlan1");
    ping_until(&world.mobile, Lan::hub_address().into(), SOON).unwrap();
    let mark = spoke.mark();
    thread::sleep(2 * AT_ONCE);
    assert_eq!(spoke.lines().len(), mark, "{:?}", spoke.lines());
    stop(&spoke);
    assert_eq!(world.rules().lines().count(), before.lines().count(), "{}", world.rules());
    drop(hub);
}

#[test]
fn virtual_routers_users_and_marks_keep_their_tables() {
    let world = Mobile::new();
    world
        .mobile
        .ip("rule add l3mdev pref 1000\nrule add from 172.20.1.9 lookup 101\nrule add fwmark 7 lookup 101\n\
             rule add uidrange 4000-4999 lookup 101\nrule add ipproto udp dport 5353 lookup 101\n\
             route add default via 172.20.1.1 table 101\nrule add to 198.18.0.0/15 unreachable")
        .unwrap();
    let before = world.rules();
    let (_hub, spoke) = world.start_hub_and_exit();
    for what in [
        "203.0.113.1 from 172.20.1.9",
        "203.0.113.1 mark 7",
        "203.0.113.1 uid 4500",
        "203.0.113.1 ipproto udp dport 5353",
    ] {
        assert_eq!(world.leaves_by(what), "wlan1", "{what}");
    }
    assert_eq!(world.leaves_by("198.18.0.1"), "nowhere");
    assert_eq!(world.leaves_by(ELSEWHERE), "spoke0");
    ping(&world.mobile, WEB.into(), 56, SOON).unwrap();
    stop(&spoke);
    assert_eq!(world.rules(), before);
}

#[test]
fn three_lans_end_in_any_order_and_by_any_end() {
    let world = Mobile::new();
    let _hub = world.start_hub(&["--route", "0.0.0.0/0"]);
    let before = world.rules();
    let hub = Net::hub_v4().to_string();
    let start = |i: usize| {
        let (tun, ip) = (format!("lan{i}"), format!("10.0.0.{}", 2 + i));
        let state = world.mobile.private().join(&tun).display().to_string();
        let mut options = vec!["--tun", &tun, "--state", &state];
        // The one in the middle does not want a way out.
        if i != 1 {
            options.extend(EVERYTHING);
        }
        let spoke = world.spawn_spoke(&["--hub", &hub, "--ip", &ip], &options);
        if i != 1 {
            spoke.wait_for_line("route 0.0.0.0/0 installed", SOON).unwrap();
        }
        spoke
    };
    for (order, kills) in [([0, 1, 2], false), ([2, 1, 0], false), ([1, 2, 0], true), ([0, 2, 1], true)] {
        let spokes = [0, 1, 2].map(start);
        let mut left = vec![0, 1, 2];
        for i in order {
            if kills {
                spokes[i].kill().unwrap()
            } else {
                stop(&spokes[i])
            }
            left.retain(|&other| other != i);
            for &other in &left {
                assert_eq!(world.leaves_by(&format!("10.0.0.1 oif lan{other}")), format!("lan{other}"));
            }
            assert_eq!(world.leaves_by(&hub), "wlan0", "{}", world.rules());
            let has_way_out = left.iter().any(|&i| i != 1);
            if has_way_out {
                ping_until(&world.mobile, WEB.into(), SOON).unwrap();
            } else {
                assert_eq!(world.leaves_by(&WEB.to_string()), "wlan0", "{}", world.rules());
            }
            assert!(left.iter().all(|&i| spokes[i].is_running()));
        }
        if !kills {
            assert_eq!(world.rules(), before);
        }
    }
    // What killed ones left is taken away by whoever is next.
    stop(&start(1));
    assert_eq!(world.rules(), before);
}

/// Sends one message by UDP and gets it back.
fn is_echoed(from: &Host, to: SocketAddr, service: &std::net::UdpSocket) -> bool {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let client = from.udp_bind((any, 0)).unwrap();
    client.connect(to).unwrap();
    client.send(b"who is there?").unwrap();
    if echo_udp(service, AT_ONCE).is_err() {
        return false;
    }
    client.set_read_timeout(Some(AT_ONCE)).unwrap();
    client.recv(&mut [0; 64]).is_ok()
}

#[test]
fn answers_of_every_kind_leave_by_the_door_that_the_question_came_in_by() {
    let world = Mobile::new();
    let (mobile, outsider) = (&world.mobile, world.net.spoke(1));
    // A second address beside the first, and IPv6 from the first provider alone.
    mobile.ip("addr add 172.20.0.10/32 dev wlan0").unwrap();
    world.net.spoke(0).ip("addr add 2001:db8:20::1/64 dev lan0 nodad").unwrap();
    mobile.ip("addr add 2001:db8:20::9/64 dev wlan0 nodad\nroute add default via 2001:db8:20::1").unwrap();
    outsider.ip(&format!("route add 2001:db8:20::/64 via {}", Net::spoke_v6(0))).unwrap();
    world.net.hub().ip(&format!("route add 2001:db8:20::/64 via {}", Net::spoke_v6(0))).unwrap();
    let container = Host::new("container").unwrap();
    cable(mobile, "docker0", &container, "eth0");
    mobile.ip("addr add 172.17.0.1/16 dev docker0\naddr add fd17::1/64 dev docker0 nodad").unwrap();
    container
        .ip("addr add 172.17.0.2/16 dev eth0\nroute add default via 172.17.0.1\n\
             addr add fd17::2/64 dev eth0 nodad\nroute add default via fd17::1")
        .unwrap();
    mobile.forward();
    mobile.nft(&masquerade("172.17.0.0/16", "docker0")).unwrap();
    mobile
        .nft(
            "table inet published {\nchain in {\ntype nat hook prerouting priority dstnat\n\
             iifname \"wlan0\" meta nfproto ipv4 udp dport 5300 dnat ip to 172.17.0.2:53\n\
             iifname \"wlan0\" meta nfproto ipv6 tcp dport 8080 dnat ip6 to [fd17::2]:80\n}\n}\n",
        )
        .unwrap();
    // As a distribution that is strict about where packets come in.
    for device in ["all", "default", "wlan0", "wlan1", "docker0"] {
        mobile.run(move || {
            std::fs::write(format!("/proc/sys/net/ipv4/conf/{device}/rp_filter"), "1").unwrap();
        });
    }
    ping_until(mobile, Ipv4Addr::new(172, 17, 0, 2).into(), SOON).unwrap();
    ping_until(mobile, "fd17::2".parse().unwrap(), SOON).unwrap();
    ping_until(outsider, "2001:db8:20::9".parse().unwrap(), SOON).unwrap();

    let v6: IpAddr = "2001:db8:20::9".parse().unwrap();
    let [first, second] = [9, 10].map(|last| IpAddr::from([172, 20, 0, last]));
    let tcp = [(first, 22), (second, 22), (v6, 22)].map(|at| (at, mobile.tcp_listen(at).unwrap()));
    let web = container.tcp_listen((Ipv6Addr::UNSPECIFIED, 80)).unwrap();
    let udp = [(first, 514), (second, 514), (v6, 514)].map(|at| (at, mobile.udp_bind(at).unwrap()));
    let names = container.udp_bind((Ipv4Addr::UNSPECIFIED, 53)).unwrap();
    let all = || {
        let mut answered: Vec<(String, bool)> = Vec::new();
        for (at, listener) in &tcp {
            answered.push((format!("TCP {at:?}"), talks(outsider, (*at).into(), listener)));
        }
        for (at, socket) in &udp {
            answered.push((format!("UDP {at:?}"), is_echoed(outsider, (*at).into(), socket)));
        }
        answered.push(("a container's TCP by IPv6".into(), talks(outsider, (v6, 8080).into(), &web)));
        answered.push(("a container's UDP".into(), is_echoed(outsider, (first, 5300).into(), &names)));
        answered.into_iter().filter(|(_, is_answered)| !is_answered).map(|(what, _)| what).collect::<Vec<_>>()
    };
    assert_eq!(all(), Vec::<String>::new(), "without the exit");
    let _hub = world.start_hub(&["--subnet", "fd00::/64", "--route", "0.0.0.0/0", "--route", "::/0"]);
    let spoke = world.start_spoke(&EVERYTHING);
    for route in ["0.0.0.0/0", "::/0"] {
        spoke.wait_for_line(&format!("route {route} installed"), SOON).unwrap();
    }
    ping_until(mobile, WEB.into(), SOON).unwrap();
    assert_eq!(world.leaves_by("2001:db8:99::1"), "spoke0");
    assert_eq!(all(), Vec::<String>::new(), "with the exit in use\n{}", world.rules());
    // The machine's own traffic, from the second provider's address too, and what a container begins.
    let listener = world.web.tcp_listen((WEB, 0)).unwrap();
    let at = listener.local_addr().unwrap();
    let start = Instant::now();
    assert!(talks(mobile, at, &listener) && talks(&container, at, &listener), "{:?}", start.elapsed());
}
