//! What others, and the kernel itself, do to a machine's network configuration while a spoke or a hub runs.

#![allow(clippy::disallowed_methods, clippy::print_stdout, clippy::unwrap_used, reason = "tests of IO")]

use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::house::mobile::{AT_ONCE, EVERYTHING, Mobile, WEB, cable, ip, leaves_by, masquerade, talks};
use crate::house::{
    self, Host, Lan, Net, Process, SPOKE_ON_LAN, ask_spoke, await_true, ping, ping_until, run,
};
use nix::sys::signal::Signal;

const SOON: Duration = Duration::from_secs(5);

#[test]
fn policy_rules_that_someone_removes_are_back_at_once_and_told_of() {
    let world = Mobile::new();
    let (_hub, spoke) = world.start_exit();
    let whole = world.rules();
    for family in ["-4", "-6"] {
        let priorities: Vec<String> = ip(&world.mobile, &format!("{family} rule show"))
            .lines()
            .filter_map(|line| Some(line.split_once(':')?.0.to_owned()))
            .filter(|priority| !["0", "32766", "32767"].contains(&priority.as_str()))
            .collect();
        assert!(family == "-6" || priorities.len() >= 3, "{whole}");
        for priority in priorities {
            world.mobile.ip(&format!("rule del pref {priority}")).unwrap();
            await_true("all rules", AT_ONCE, || world.rules().lines().count() == whole.lines().count());
            ping(&world.mobile, WEB.into(), 56, SOON).unwrap();
        }
    }
    spoke.wait_for_line("policy rule 32764 was removed by someone else; restored", AT_ONCE).unwrap();
    spoke.wait_for_line("policy rule 32765 was removed by someone else; restored", AT_ONCE).unwrap();
    // All at once, as a network manager does that removes what it has not made itself.
    world
        .mobile
        .ip("rule flush\nrule add pref 32766 lookup main\nrule add pref 32767 lookup default")
        .unwrap();
    await_true("all rules", AT_ONCE, || world.rules().lines().count() == whole.lines().count());
    ping(&world.mobile, WEB.into(), 56, SOON).unwrap();
    // And for good: someone who goes on is undone again and again, and the log stays short.
    let mark = spoke.mark();
    for _ in 0..50 {
        await_true("all rules", AT_ONCE, || world.rules().lines().count() == whole.lines().count());
        world.mobile.ip("rule del pref 32765").unwrap();
    }
    await_true("all rules", AT_ONCE, || world.rules().lines().count() == whole.lines().count());
    assert!(spoke.lines().len() - mark <= 15, "{:?}", &spoke.lines()[mark..]);
}

#[test]
fn routes_that_are_removed_are_back_at_once() {
    let world = Mobile::new();
    let (_hub, spoke) = world.start_exit();
    for change in [
        "route flush dev spoke0",
        "route flush table all dev spoke0 proto 178",
        "route flush table all dev spoke0",
    ] {
        let mark = spoke.mark();
        world.mobile.ip(change).unwrap();
        spoke.wait_for_line_after(mark, "restored", AT_ONCE).unwrap();
        ping_until(&world.mobile, WEB.into(), AT_ONCE).unwrap();
    }
}

#[test]
fn a_device_that_someone_changes_or_deletes_is_back_at_once() {
    let lan = Lan::dual(2).unwrap();
    let (host, spoke) = (lan.net.spoke(0), &lan.spokes[0]);
    for change in [
        "link set spoke0 down",
        "addr del 10.0.0.2/24 dev spoke0",
        "addr flush dev spoke0",
        "link set spoke0 mtu 1300",
        "link del spoke0",
        "link del spoke0",
    ] {
        let mark = spoke.mark();
        host.ip(change).unwrap();
        let line = spoke.wait_for_line_after(mark, "was changed by someone else", AT_ONCE).unwrap();
        println!("{change}: {line}");
        ping_until(host, Lan::address(1).into(), AT_ONCE).unwrap();
        ping_until(host, Lan::address_v6(1).into(), AT_ONCE).unwrap();
        ping_until(lan.net.spoke(1), Lan::address(0).into(), AT_ONCE).unwrap();
        let link = ip(host, "link show dev spoke0");
        assert!(link.contains("mtu 1500") && link.contains(",UP"), "{link}");
    }
    assert!(spoke.is_running());
}

#[test]
fn the_hubs_device_and_routes_are_back_at_once() {
    let lan = Lan::with_options(
        Net::new(2).unwrap(),
        &["--subnet", "fd00::/64"],
        &[&["--route", "192.168.5.0/24"], &[]],
    )
    .unwrap();
    let host = lan.net.hub();
    await_true("the route", SOON, || leaves_by(host, "192.168.5.9") == "hub0");
    // Routes of members are in a table of the device's own.
    let routes = ip(host, "route show table all 192.168.5.0/24 dev hub0");
    let table = routes.split_whitespace().skip_while(|&word| word != "table").nth(1).unwrap();
    for change in [
        format!("route del 192.168.5.0/24 dev hub0 table {table}").as_str(),
        "rule del pref 32763",
        "link set hub0 down",
        "addr flush dev hub0",
        "link set hub0 mtu 1300",
        "route flush dev hub0",
        "link del hub0",
        "link del hub0",
    ] {
        let mark = lan.hub.mark();
        host.ip(change).unwrap();
        let line = lan.hub.wait_for_line_after(mark, "restored", AT_ONCE).unwrap();
        println!("{change}: {line}");
        ping_until(host, Lan::address(1).into(), AT_ONCE).unwrap();
        ping_until(lan.net.spoke(0), Lan::hub_address().into(), AT_ONCE).unwrap();
        ping_until(lan.net.spoke(0), Lan::hub_address_v6().into(), AT_ONCE).unwrap();
        assert_eq!(leaves_by(host, "192.168.5.9"), "hub0", "{change}");
    }
    let said = house::ask_hub(&lan.net, &["status"]).good();
    assert!(!said.contains("problem:"), "{said}");
}

#[test]
fn a_network_that_the_hub_gets_later_is_not_given_to_a_member() {
    let net = Net::new(2).unwrap();
    let lan = Lan::with_options(net, &[], &[&["--route", "192.168.5.0/24"], &[]]).unwrap();
    let (host, other) = (lan.net.hub(), &lan.spokes[1]);
    other.wait_for_line("route 192.168.5.0/24 installed", SOON).unwrap();
    host.ip("link add docker0 type veth peer name inside\nlink set inside up\nlink set docker0 up").unwrap();
    let marks = (lan.hub.mark(), other.mark());
    host.ip("addr add 192.168.5.1/24 dev docker0").unwrap();
    lan.hub.wait_for_line_after(marks.0, "a network that the hub is in", AT_ONCE).unwrap();
    other.wait_for_line_after(marks.1, "route 192.168.5.0/24 withdrawn", AT_ONCE).unwrap();
    await_true("the way to the containers", AT_ONCE, || leaves_by(host, "192.168.5.9") == "docker0");
    // When it is gone, the member's offer counts again.
    let mark = other.mark();
    host.ip("link del docker0").unwrap();
    other.wait_for_line_after(mark, "route 192.168.5.0/24 installed", AT_ONCE).unwrap();
    await_true("the way to the member", AT_ONCE, || leaves_by(host, "192.168.5.9") == "hub0");
}

#[test]
fn an_address_that_is_changed_on_the_hub_keeps_the_routes() {
    let net = Net::new(2).unwrap();
    let lan = Lan::with_options(net, &[], &[&["--route", "192.168.5.0/24"]]).unwrap();
    let host = lan.net.spoke(1);
    // It takes whatever address it gets.
    let mut command = Command::new(&lan.binaries.spoke);
    command.args(["--hub", &Net::hub_v4().to_string(), "--name", "roamer"]);
    let spoke = host.spawn("roamer", &command).unwrap();
    spoke.wait_for_line("route 192.168.5.0/24 installed", SOON).unwrap();
    let members = house::state(lan.net.hub(), "hub").join("members");
    let text = std::fs::read_to_string(&members).unwrap();
    let line = text.lines().find(|line| line.contains("roamer")).unwrap();
    let address = line.split_ascii_whitespace().nth(2).unwrap();
    std::fs::write(&members, text.replace(address, "10.0.0.77")).unwrap();
    let mark = spoke.mark();
    house::ask_hub(&lan.net, &["reload"]).good();
    spoke.wait_for_line_after(mark, "on the LAN as 10.0.0.77", SOON).unwrap();
    ping_until(host, Lan::address(0).into(), SOON).unwrap();
    await_true("the route", AT_ONCE, || leaves_by(host, "192.168.5.9") == "spoke0");
}

#[test]
fn several_lans_on_one_machine_keep_to_their_own() {
    let world = Mobile::new();
    let (_hub, first) = world.start_exit();
    let with_one = world.rules();
    let second_state = world.mobile.private().join("second");
    let start_second = || {
        let state = second_state.to_str().unwrap();
        let mut options = vec!["--tun", "spoke1", "--state", state];
        options.extend(EVERYTHING);
        let second = world.spawn_spoke(&["--hub", &Net::hub_v4().to_string(), "--ip", "10.0.0.3"], &options);
        second.wait_for_line("route 0.0.0.0/0 installed", SOON).unwrap();
        second
    };
    let stop = |spoke: &Process| {
        spoke.signal(Signal::SIGTERM).unwrap();
        assert!(spoke.wait_exit(SOON).unwrap().success());
    };
    let second = start_second();
    ping(&world.mobile, WEB.into(), 56, SOON).unwrap();
    stop(&second);
    assert_eq!(world.rules(), with_one, "the rules of the first one");
    ping(&world.mobile, WEB.into(), 56, SOON).unwrap();
    let second = start_second();
    stop(&first);
    ping_until(&world.mobile, WEB.into(), SOON).unwrap();
    assert_eq!(world.leaves_by(&Net::hub_v4().to_string()), "wlan0");
    stop(&second);
    assert_eq!(world.rules().lines().count(), 5, "{}", world.rules());
}

#[test]
fn a_machine_without_ipv6_is_on_a_lan_of_both_families() {
    let world = Mobile::new();
    for name in ["all", "default"] {
        world
            .mobile
            .run(move || std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1"))
            .unwrap();
    }
    let _hub = world.start_hub(&["--subnet", "fd00::/64", "--route", "0.0.0.0/0", "--route", "::/0"]);
    let spoke = world.start_spoke(&EVERYTHING);
    ping_until(&world.mobile, Lan::hub_address().into(), SOON).unwrap();
    ping_until(&world.mobile, WEB.into(), SOON).unwrap();
    let warnings = |part: &str| spoke.lines().iter().filter(|line| line.contains(part)).count();
    assert_eq!(warnings("spoke0 has no IPv6, and goes on without"), 1, "{:?}", spoke.lines());
    assert!(warnings("IPv6") <= 2, "{:?}", spoke.lines());
    let mut status = Command::new(&world.binaries.spoke);
    status.arg("status");
    let said = run(&world.mobile, status).good();
    assert!(said.contains("problem: spoke0 has no IPv6"), "{said}");
    // IPv6 that comes back is used.
    let mark = spoke.mark();
    world.mobile.run(|| std::fs::write("/proc/sys/net/ipv6/conf/spoke0/disable_ipv6", "0")).unwrap();
    spoke.wait_for_line_after(mark, "route ::/0 installed", SOON).unwrap();
    spoke.signal(Signal::SIGTERM).unwrap();
    assert!(spoke.wait_exit(SOON).unwrap().success());
    assert_eq!(world.rules().lines().count(), 5, "{}", world.rules());
}

#[test]
fn answers_leave_by_the_door_that_the_question_came_in_by() {
    let world = Mobile::new();
    let container = Host::new("container").unwrap();
    cable(&world.mobile, "docker0", &container, "eth0");
    world.mobile.ip("addr add 172.17.0.1/16 dev docker0").unwrap();
    container.ip("addr add 172.17.0.2/16 dev eth0\nroute add default via 172.17.0.1").unwrap();
    world.mobile.forward();
    // What Docker does for `--publish 8080:80`, and for ports that are no ephemeral ones, or are.
    world.mobile.nft(&masquerade("172.17.0.0/16", "docker0")).unwrap();
    world
        .mobile
        .nft(
            "table ip nat {\nchain in {\ntype nat hook prerouting priority dstnat\n\
             iifname \"wlan0\" tcp dport { 40000, 62000 } dnat to 172.17.0.2\n\
             iifname \"wlan0\" tcp dport 8080 dnat to 172.17.0.2:80\n}\n}\n",
        )
        .unwrap();
    // The container answers at first, which teaches both where the other is.
    ping_until(&world.mobile, Ipv4Addr::new(172, 17, 0, 2).into(), SOON).unwrap();
    let outsider = world.net.spoke(1);
    let address = Ipv4Addr::new(172, 20, 0, 9);
    let own = world.mobile.tcp_listen((address, 22)).unwrap();
    let published =
        [80, 62_000, 40_000].map(|port| container.tcp_listen((Ipv4Addr::UNSPECIFIED, port)).unwrap());
    let doors = [(22, &own), (8080, &published[0]), (62_000, &published[1]), (40_000, &published[2])];
    let all = || doors.map(|(port, listener)| talks(outsider, (address, port).into(), listener));
    assert_eq!(all(), [true; 4], "without the exit");
    let (_hub, _spoke) = world.start_exit();
    assert_eq!(all()[..3], [true; 3], "with the exit in use\n{}", world.rules());
    // The kernel takes this one for a connection that the container has begun, until someone says what it is.
    world.mobile.ip("rule add pref 32000 from 172.17.0.0/16 ipproto tcp sport 40000 lookup main").unwrap();
    assert_eq!(all(), [true; 4], "with the rule of docs/routes.md\n{}", world.rules());
    // What the container begins itself goes where the machine's own traffic goes.
    let listener = world.web.tcp_listen((WEB, 0)).unwrap();
    assert!(talks(&container, listener.local_addr().unwrap(), &listener), "{}", world.rules());
}

#[test]
fn a_lan_with_the_addresses_of_a_network_of_the_machine_is_warned_of_and_shuts_nothing() {
    let world = Mobile::new();
    let _hub = world.start_hub(&[]);
    let spoke = world.start_spoke(&[]);
    ping_until(&world.mobile, Lan::hub_address().into(), SOON).unwrap();
    // A Wi-Fi with the LAN's own subnet, whose router is the way out and the name server.
    let cafe = world.net.spoke(1);
    cafe.ip("addr add 10.0.0.1/24 dev lan0").unwrap();
    cafe.nft(&masquerade("10.0.0.0/24", "lan0")).unwrap();
    let mark = spoke.mark();
    let start = Instant::now();
    world
        .mobile
        .ip("addr del 172.20.0.9/24 dev wlan0\naddr del 172.20.1.9/24 dev wlan1\n\
             addr add 10.0.0.57/24 dev wlan1 metric 600\nroute add default via 10.0.0.1 dev wlan1 metric 600")
        .unwrap();
    let warning = spoke.wait_for_line_after(mark, "share addresses", SOON).unwrap();
    assert!(warning.contains("10.0.0.0/24, the network of wlan1"), "{warning}");
    spoke.wait_for_line_after(mark, SPOKE_ON_LAN, SOON).unwrap();
    println!("back on the LAN {:?} after the move", start.elapsed());
    assert_eq!(world.leaves_by("10.0.0.1"), "wlan1", "the router and name server");
    let name_server = cafe.udp_bind((Ipv4Addr::new(10, 0, 0, 1), 53)).unwrap();
    let question = world.mobile.udp_bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    question.send_to(b"who is where?", (Ipv4Addr::new(10, 0, 0, 1), 53)).unwrap();
    house::echo_udp(&name_server, SOON).unwrap();
    let mut status = Command::new(&world.binaries.spoke);
    status.arg("status");
    assert!(run(&world.mobile, status).good().contains("share addresses"));

    // One that starts there is told, too.
    spoke.signal(Signal::SIGTERM).unwrap();
    spoke.wait_exit(SOON).unwrap();
    let spoke = world.start_spoke(&[]);
    spoke.wait_for_line("share addresses", SOON).unwrap();

    // And home again: the LAN is back by itself.
    let mark = spoke.mark();
    world
        .mobile
        .ip("addr del 10.0.0.57/24 dev wlan1\naddr add 172.20.0.9/24 dev wlan0\nroute add default via 172.20.0.1")
        .unwrap();
    spoke.wait_for_line_after(mark, SPOKE_ON_LAN, SOON).unwrap();
    ping_until(&world.mobile, Lan::hub_address().into(), AT_ONCE).unwrap();
    assert_eq!(world.leaves_by("10.0.0.1"), "spoke0");
}

#[test]
fn a_machine_that_moves_is_back_at_once() {
    let world = Mobile::new();
    let _hub = world.start_hub(&[]);
    let spoke = world.start_spoke(&[]);
    ping_until(&world.mobile, Lan::hub_address().into(), SOON).unwrap();
    let moves = [
        // A new lease with another address.
        "addr del 172.20.0.9/24 dev wlan0\naddr add 172.20.0.77/24 dev wlan0\nroute replace default via 172.20.0.1",
        // Another network.
        "addr del 172.20.0.77/24 dev wlan0\nroute replace default via 172.20.1.1",
        // The cable is pulled, and another one is there.
        "link set wlan1 down\naddr add 172.20.0.9/24 dev wlan0\nroute replace default via 172.20.0.1",
    ];
    for change in moves {
        let mark = spoke.mark();
        let start = Instant::now();
        world.mobile.ip(change).unwrap();
        spoke.wait_for_line_after(mark, SPOKE_ON_LAN, AT_ONCE).unwrap();
        ping_until(&world.mobile, Lan::hub_address().into(), AT_ONCE).unwrap();
        println!("back after {:?}: {change:?}", start.elapsed());
    }
    // Nowhere for a while: the next network is tried at once, however long the pauses have become.
    let mark = spoke.mark();
    world.mobile.ip("addr del 172.20.0.9/24 dev wlan0").unwrap();
    spoke.wait_for_line_after(mark, "cannot reach", SOON).unwrap();
    std::thread::sleep(Duration::from_secs(4));
    let start = Instant::now();
    world.mobile.ip("addr add 172.20.0.78/24 dev wlan0\nroute replace default via 172.20.0.1").unwrap();
    spoke.wait_for_line_after(mark, SPOKE_ON_LAN, AT_ONCE).unwrap();
    println!("back {:?} after a time without any network", start.elapsed());
}

#[test]
fn a_link_whose_new_way_works_is_kept_and_one_whose_new_way_does_not_is_given_up_at_once() {
    let world = Mobile::new();
    let _hub = world.start_hub(&[]);
    let spoke = world.start_spoke(&[]);
    ping_until(&world.mobile, Lan::hub_address().into(), SOON).unwrap();
    // Both routers lead to the hub, and the answers come in by the old one.
    let mark = spoke.mark();
    world.mobile.ip("route replace default via 172.20.1.1").unwrap();
    std::thread::sleep(2 * AT_ONCE);
    assert_eq!(spoke.lines().len(), mark, "{:?}", &spoke.lines()[mark..]);
    ping(&world.mobile, Lan::hub_address().into(), 56, AT_ONCE).unwrap();
    world.mobile.ip("route replace default via 172.20.0.1").unwrap();
    // This one takes no packets but from its own network, as providers do.
    world
        .net
        .spoke(1)
        .nft(
            "table ip filter {\nchain f {\ntype filter hook forward priority filter\n\
             iifname \"lan0\" ip saddr != 172.20.1.0/24 drop\n}\n}\n",
        )
        .unwrap();
    let mark = spoke.mark();
    let start = Instant::now();
    world.mobile.ip("route replace default via 172.20.1.1").unwrap();
    spoke.wait_for_line_after(mark, SPOKE_ON_LAN, 2 * AT_ONCE).unwrap();
    println!("back {:?} after the old address went dead", start.elapsed());
}

#[test]
fn other_users_of_policy_routing_keep_their_traffic() {
    let world = Mobile::new();
    // As Tailscale and a machine with two providers have it.
    world
        .mobile
        .ip("rule add pref 5270 lookup 52\nroute add 100.64.0.0/10 via 172.20.1.1 table 52\n\
             rule add to 192.168.99.0/24 lookup 99\nroute add default via 172.20.1.1 table 99")
        .unwrap();
    let before = world.rules();
    let (_hub, spoke) = world.start_exit();
    assert_eq!(world.leaves_by("100.101.102.103"), "wlan1");
    assert_eq!(world.leaves_by("192.168.99.1"), "wlan1");
    assert_eq!(world.leaves_by("203.0.113.1"), "spoke0");
    spoke.signal(Signal::SIGTERM).unwrap();
    assert!(spoke.wait_exit(SOON).unwrap().success());
    assert_eq!(world.rules(), before);
}

#[test]
fn a_network_that_appears_later_is_not_hidden_by_a_route_of_the_lan() {
    let net = Net::new(2).unwrap();
    let lan = Lan::with_options(net, &[], &[&["--route", "192.168.5.0/24"], &[]]).unwrap();
    let (host, spoke) = (lan.net.spoke(1), &lan.spokes[1]);
    spoke.wait_for_line("route 192.168.5.0/24 installed", SOON).unwrap();
    host.ip("link add docker0 type veth peer name inside\nlink set inside up\nlink set docker0 up").unwrap();
    let mark = spoke.mark();
    host.ip("addr add 192.168.5.1/24 dev docker0").unwrap();
    spoke.wait_for_line_after(mark, "route 192.168.5.0/24 withdrawn", AT_ONCE).unwrap();
    assert_eq!(leaves_by(host, "192.168.5.9"), "docker0");
    let mark = spoke.mark();
    host.ip("link del docker0").unwrap();
    spoke.wait_for_line_after(mark, "route 192.168.5.0/24 installed", AT_ONCE).unwrap();
    assert_eq!(leaves_by(host, "192.168.5.9"), "spoke0");
    ask_spoke(&lan.net, 1, &["status"]).good();
    ping(host, IpAddr::from(Lan::hub_address()), 56, SOON).unwrap();
}
