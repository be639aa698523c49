//! Routes and rules that others change, each test in a network namespace of its own.

use std::process::Command;
use std::thread;

use super::*;

/// Runs `test` on a thread in a network namespace of its own.
fn in_namespace(test: impl FnOnce() + Send) {
    let body = || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
            .expect("this test makes a network namespace: run it as root, in a container with CAP_SYS_ADMIN");
        test();
    };
    thread::scope(|scope| {
        if let Err(panic) = scope.spawn(body).join() {
            std::panic::resume_unwind(panic);
        }
    });
}

fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split_ascii_whitespace()).output();
    let output = output.expect("this test needs `ip` of iproute2");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn net(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

const HUB: &str = "203.0.113.5";
const OUTSIDE: &str = "198.51.100.7";
const OUTSIDE_V6: &str = "2001:db8:9::7";

/// A device on a LAN that is `10.LAN.0.0/24` and `fd00:LAN::/64`.
fn device(name: &str, lan: u8) -> Tun {
    let tun = Tun::open(name).unwrap_or_else(|error| panic!("this test needs a TUN device: {error}"));
    for address in [format!("10.{lan}.0.2/24"), format!("fd00:{lan}::2/64")] {
        tun.add_address(net(&address)).unwrap();
    }
    tun.up().unwrap();
    tun
}

/// A machine in 192.168.1.0/24 with a default route, and with containers in 172.17.0.0/16.
fn machine() {
    for line in [
        "link set lo up",
        "link add eth0 type veth peer name far0",
        "link set eth0 up",
        "link set far0 up",
        "addr add 192.168.1.20/24 dev eth0",
        "addr add 2001:db8::20/64 dev eth0 nodad",
        "route add default via 192.168.1.1",
        "-6 route add default via 2001:db8::1",
        "link add docker0 type veth peer name far1",
        "link set docker0 up",
        "link set far1 up",
        "addr add 172.17.0.1/16 dev docker0",
    ] {
        ip(line);
    }
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
}

fn defaults() -> BTreeMap<IpNetwork, RouteMode> {
    [("0.0.0.0/0", RouteMode::Around), ("::/0", RouteMode::Around), ("192.168.5.0/24", RouteMode::Main)]
        .map(|(prefix, mode)| (net(prefix), mode))
        .into()
}

fn hub() -> Vec<IpAddr> {
    vec![HUB.parse().unwrap()]
}

/// By which device a packet goes; `what` as for `ip route get`.
fn leaves_by(what: &str) -> String {
    let output =
        Command::new("ip").args(["route", "get"]).args(what.split_ascii_whitespace()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mut words = text.split_ascii_whitespace().skip_while(|&word| word != "dev");
    words.nth(1).unwrap_or("nowhere").to_owned()
}

fn rules() -> String {
    ip("-4 rule show") + &ip("-6 rule show")
}

#[track_caller]
fn assert_exit(device: &str) {
    assert_eq!(leaves_by(OUTSIDE), device, "IPv4\n{}", rules());
    assert_eq!(leaves_by(OUTSIDE_V6), device, "IPv6\n{}", rules());
    assert_eq!(leaves_by(HUB), "eth0", "the tunnel itself\n{}", rules());
    assert_eq!(leaves_by("192.168.1.9"), "eth0", "an own network\n{}", rules());
}

#[test]
fn all_is_installed_and_all_is_withdrawn() {
    in_namespace(|| {
        machine();
        let before = rules();
        let tun = device("spoke0", 0);
        let mut routes = KernelRoutes::new(&tun);
        routes.set(&tun, defaults(), &hub());
        assert_exit("spoke0");
        assert_eq!(leaves_by("192.168.5.9"), "spoke0");
        assert_eq!(routes.reconcile(&tun), Restored::default());
        routes.set(&tun, BTreeMap::new(), &[]);
        assert!(routes.is_empty());
        assert_eq!(rules(), before);
        assert_eq!(leaves_by(OUTSIDE), "eth0");
        assert_eq!(tun.netlink().routes(Family::V4, tun.index()).unwrap(), []);
    });
}

#[test]
fn rules_that_someone_removes_come_back_in_their_order() {
    in_namespace(|| {
        machine();
        let tun = device("spoke0", 0);
        let mut routes = KernelRoutes::new(&tun);
        routes.set(&tun, defaults(), &hub());
        let whole = rules();
        for family in ["-4", "-6"] {
            let count =
                ip(&format!("{family} rule show")).lines().filter(|line| line.contains("fwmark")).count();
            assert!(count >= 4, "{whole}");
            for index in 0..count {
                let list = ip(&format!("{family} rule show"));
                let line = list.lines().filter(|line| line.contains("fwmark")).nth(index).unwrap();
                let rule = line.replacen(':', " ", 1).replace("[detached]", "");
                let (priority, selector) = rule.split_once(char::is_whitespace).unwrap();
                // The kernel's own words for what is not an argument of the command.
                let line = line.to_owned();
                ip(&format!("{family} rule del pref {priority} {selector}").replace('\t', " "));
                assert!(!ip(&format!("{family} rule show")).contains(&line), "removed: {line}");
                let restored = routes.reconcile(&tun);
                assert_eq!(restored.rules, BTreeSet::from([priority.parse().unwrap()]), "{line}");
                assert_exit("spoke0");
                assert_eq!(rules().lines().count(), whole.lines().count(), "{}", rules());
                assert_eq!(routes.reconcile(&tun), Restored::default());
            }
        }
        ip("rule flush");
        ip("rule add pref 32766 lookup main");
        ip("rule add pref 32767 lookup default");
        assert!(routes.reconcile(&tun).rules.contains(&rules::LATE));
        assert_exit("spoke0");
    });
}

#[test]
fn routes_that_are_gone_come_back() {
    in_namespace(|| {
        machine();
        let tun = device("spoke0", 0);
        let mut routes = KernelRoutes::new(&tun);
        routes.set(&tun, defaults(), &hub());
        for change in [
            // The kernel says nothing about the routes that go with the last address.
            "addr del 10.0.0.2/24 dev spoke0",
            "route del 192.168.5.0/24",
            "route flush dev spoke0 table all",
            "-6 route flush dev spoke0 table all",
        ] {
            ip(change);
            tun.add_address(net("10.0.0.2/24")).unwrap();
            let restored = routes.reconcile(&tun);
            assert!(!restored.routes.is_empty(), "{change}");
            assert_exit("spoke0");
            assert_eq!(leaves_by("192.168.5.9"), "spoke0", "{change}");
            assert_eq!(routes.reconcile(&tun), Restored::default(), "{change}");
        }
    });
}

#[test]
fn a_device_that_was_made_anew_gets_everything_again() {
    in_namespace(|| {
        machine();
        let mut tun = device("spoke0", 0);
        let mut routes = KernelRoutes::new(&tun);
        routes.set(&tun, defaults(), &hub());
        let count = rules().lines().count();
        ip("link del spoke0");
        tun.reattach().unwrap();
        tun.add_address(net("10.0.0.2/24")).unwrap();
        tun.add_address(net("fd00:0::2/64")).unwrap();
        tun.up().unwrap();
        routes.reconcile(&tun);
        assert_exit("spoke0");
        assert_eq!(rules().lines().count(), count, "{}", rules());
    });
}

#[test]
fn a_failed_add_is_not_installed_and_is_tried_again() {
    in_namespace(|| {
        machine();
        let tun = device("spoke0", 0);
        let mut routes = KernelRoutes::new(&tun);
        ip("link set spoke0 down");
        routes.set(&tun, defaults(), &hub());
        assert_eq!(leaves_by(OUTSIDE), "eth0");
        assert!(routes.failures().iter().any(|line| line.contains("0.0.0.0/0")), "{:?}", routes.failures());
        ip("link set spoke0 up");
        tun.add_address(net("fd00:0::2/64")).unwrap();
        routes.reconcile(&tun);
        assert_exit("spoke0");
        assert_eq!(routes.failures(), Vec::<String>::new());
    });
}

#[test]
fn without_ipv6_the_other_family_is_kept_and_nothing_is_left_behind() {
    in_namespace(|| {
        machine();
        let before = rules();
        for name in ["all", "default"] {
            std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1").unwrap();
        }
        let tun = Tun::open("spoke0").unwrap();
        tun.add_address(net("10.0.0.2/24")).unwrap();
        tun.up().unwrap();
        let mut routes = KernelRoutes::new(&tun);
        routes.set(&tun, defaults(), &hub());
        assert_eq!(leaves_by(OUTSIDE), "spoke0");
        assert_eq!(leaves_by("192.168.5.9"), "spoke0");
        assert_eq!(routes.failures().len(), 1, "{:?}", routes.failures());
        std::fs::write("/proc/sys/net/ipv6/conf/spoke0/disable_ipv6", "0").unwrap();
        routes.reconcile(&tun);
        assert_eq!(routes.failures(), Vec::<String>::new());
        assert_eq!(leaves_by(OUTSIDE_V6), "spoke0");
        routes.set(&tun, BTreeMap::new(), &[]);
        assert_eq!(rules(), before);
    });
}

#[test]
fn two_spokes_on_one_machine_keep_to_their_own() {
    in_namespace(|| {
        machine();
        let before = rules();
        let (first, second) = (device("spoke0", 0), device("spoke1", 1));
        let mut of_first = KernelRoutes::new(&first);
        of_first.set(&first, defaults(), &hub());
        let with_one = rules();
        // Both are on the same hub's machine, and both take everything.
        let mut of_second = KernelRoutes::new(&second);
        of_second.set(&second, defaults(), &hub());
        assert_exit("spoke0");
        assert_eq!(
            leaves_by(&format!("{OUTSIDE} from 10.1.0.2")),
            "spoke1",
            "each by its own address\n{}",
            rules()
        );
        of_second.set(&second, BTreeMap::new(), &[]);
        assert_eq!(rules(), with_one);
        assert_exit("spoke0");
        of_second.set(&second, defaults(), &hub());
        of_first.set(&first, BTreeMap::new(), &[]);
        drop(first);
        assert_exit("spoke1");
        of_second.set(&second, BTreeMap::new(), &[]);
        assert_eq!(rules(), before);
    });
}

#[test]
fn what_a_killed_spoke_left_is_removed_and_what_another_has_stays() {
    in_namespace(|| {
        machine();
        let living = device("spoke0", 0);
        let mut of_living = KernelRoutes::new(&living);
        of_living.set(&living, defaults(), &hub());
        let with_one = rules();
        let killed = device("spoke1", 1);
        KernelRoutes::new(&killed).set(&killed, defaults(), &hub());
        drop(killed);
        assert_ne!(rules(), with_one);
        // Rules of others that carry the same protocol number by chance.
        ip("rule add pref 77 lookup 77 protocol 178");
        let third = device("spoke2", 2);
        KernelRoutes::new(&third);
        ip("rule del pref 77 lookup 77 protocol 178");
        assert_eq!(rules(), with_one);
        assert_exit("spoke0");
    });
}

#[test]
fn other_users_of_policy_routing_come_first() {
    in_namespace(|| {
        machine();
        ip("link add tailscale0 type veth peer name far2");
        ip("link set far2 up");
        ip("link set tailscale0 up");
        // As Tailscale and multi-homed machines have them.
        ip("rule add pref 5210 fwmark 0x80000/0xff0000 lookup main");
        ip("rule add pref 5270 lookup 52");
        ip("route add 100.64.0.0/10 dev tailscale0 table 52");
        ip("rule add to 192.168.99.0/24 lookup 99");
        ip("route add default dev docker0 table 99");
        let before = rules();
        let tun = device("spoke0", 0);
        let mut routes = KernelRoutes::new(&tun);
        routes.set(&tun, defaults(), &hub());
        assert_exit("spoke0");
        assert_eq!(leaves_by("100.101.102.103"), "tailscale0");
        assert_eq!(leaves_by("192.168.99.1"), "docker0", "a rule without a priority");
        // One that comes later.
        ip("rule add to 192.168.98.0/24 lookup 99");
        assert_eq!(leaves_by("192.168.98.1"), "docker0", "{}", rules());
        ip("rule del to 192.168.98.0/24 lookup 99");
        routes.set(&tun, BTreeMap::new(), &[]);
        assert_eq!(rules(), before);
    });
}

#[test]
fn answers_leave_by_the_door_that_the_question_came_in_by() {
    in_namespace(|| {
        machine();
        let tun = device("spoke0", 0);
        let mut routes = KernelRoutes::new(&tun);
        routes.set(&tun, defaults(), &hub());
        assert_eq!(leaves_by(&format!("{OUTSIDE} from 192.168.1.20")), "eth0");
        assert_eq!(leaves_by(&format!("{OUTSIDE_V6} from 2001:db8::20")), "eth0");
        assert_eq!(leaves_by(&format!("{OUTSIDE} from 10.0.0.2")), "spoke0");
        // A container's published port, and a connection that the container begins.
        let container = format!("{OUTSIDE} from 172.17.0.2 iif docker0 ipproto");
        assert_eq!(leaves_by(&format!("{container} tcp sport 80 dport 40000")), "eth0");
        assert_eq!(leaves_by(&format!("{container} udp sport 53 dport 40000")), "eth0");
        assert_eq!(leaves_by(&format!("{container} tcp sport 40000 dport 443")), "spoke0");
        // The machine moves.
        ip("addr add 192.168.7.20/24 dev eth0");
        ip("addr del 192.168.1.20/24 dev eth0");
        ip("route replace default via 192.168.7.1");
        routes.reconcile(&tun);
        assert_eq!(leaves_by(&format!("{OUTSIDE} from 192.168.7.20")), "eth0", "{}", rules());
        assert_eq!(leaves_by(OUTSIDE), "spoke0");
    });
}

#[test]
fn a_tunnel_without_a_way_to_its_hub_does_not_run_through_itself() {
    in_namespace(|| {
        machine();
        let tun = device("spoke0", 0);
        let mut routes = KernelRoutes::new(&tun);
        routes.set(&tun, defaults(), &hub());
        ip("route del default");
        assert_eq!(leaves_by(HUB), "nowhere", "{}", rules());
        assert_eq!(leaves_by(OUTSIDE), "spoke0");
    });
}
