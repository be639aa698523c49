//! Links, routes and rules, each test in a network namespace of its own.

use std::thread;

use super::*;
use crate::linux::tun::Tun;

/// Runs `test` on a thread in a network namespace of its own; what it returns stays in there.
pub(crate) fn in_namespace<T: Send>(test: impl FnOnce() -> T + Send) -> T {
    let body = || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
            .expect("this test makes a network namespace: run it as root, in a container with CAP_SYS_ADMIN");
        test()
    };
    thread::scope(|scope| match scope.spawn(body).join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

fn ip(address: &str) -> IpAddr {
    address.parse().unwrap()
}

fn net(prefix: &str) -> IpNetwork {
    prefix.parse().unwrap()
}

/// Two devices that are up: `a` with 10.1.0.1/24 and fd01::1/64, `b` with 10.2.0.1/24 and fd02::1/64.
fn two_devices() -> (Tun, Tun) {
    let device = |name, addresses: [&str; 2]| {
        let tun = Tun::open(name).unwrap_or_else(|error| panic!("this test needs a TUN device: {error}"));
        for address in addresses {
            tun.add_address(net(address)).unwrap();
        }
        tun.up().unwrap();
        tun
    };
    (device("a", ["10.1.0.1/24", "fd01::1/64"]), device("b", ["10.2.0.1/24", "fd02::1/64"]))
}

fn interface_to(netlink: &Netlink, destination: &str) -> Option<u32> {
    netlink.route_to(ip(destination)).unwrap().map(|hop| hop.interface)
}

#[test]
fn an_unknown_interface_is_an_error_that_names_it() {
    in_namespace(|| {
        let error = Netlink::open().unwrap().link("nowhere").unwrap_err();
        assert_eq!(error.errno(), Some(libc::ENODEV));
        assert!(error.to_string().contains("nowhere"), "{error}");
    });
}

#[test]
fn the_kernels_words_are_in_the_error() {
    in_namespace(|| {
        let tun = Tun::open("a").unwrap();
        let error = tun.netlink().set_mtu(tun.index(), 70_000).unwrap_err();
        assert_eq!(error.errno(), Some(libc::EINVAL));
        assert!(error.to_string().contains("mtu greater than device maximum"), "{error}");
    });
}

#[test]
fn routes_lead_by_the_gateway_and_go_again() {
    in_namespace(|| {
        let (a, b) = two_devices();
        let netlink = a.netlink();
        for (prefix, gateway, host) in
            [("192.168.5.0/24", "10.1.0.9", "192.168.5.7"), ("2001:db8::/48", "fd01::9", "2001:db8::7")]
        {
            assert_eq!(netlink.route_to(ip(host)).unwrap(), None);
            let route = Route {
                prefix: net(prefix),
                gateway: Some(ip(gateway)),
                interface: a.index(),
                table: MAIN_TABLE,
                metric: Some(3),
            };
            netlink.add_route(&route).unwrap();
            netlink.add_route(&route).unwrap();
            let hop = netlink.route_to(ip(host)).unwrap().unwrap();
            assert_eq!((hop.gateway, hop.interface), (route.gateway, a.index()));
            assert!(hop.source.is_some());
            let other = Route { interface: b.index(), gateway: None, ..route.clone() };
            assert_eq!(netlink.add_route(&other).unwrap_err().errno(), Some(libc::EEXIST));
            netlink.remove_route(&other).unwrap();
            assert_eq!(interface_to(netlink, host), Some(a.index()), "another's route is gone");
            netlink.remove_route(&route).unwrap();
            netlink.remove_route(&route).unwrap();
            assert_eq!(netlink.route_to(ip(host)).unwrap(), None);
        }
    });
}

#[test]
fn rules_send_all_but_one_destination_through_another_table() {
    const TABLE: u32 = 51_820;
    in_namespace(|| {
        let (a, b) = two_devices();
        let netlink = a.netlink();
        for (family, everywhere, outside, router) in [
            (Family::V4, "0.0.0.0/0", "198.51.100.7", "10.1.0.9"),
            (Family::V6, "::/0", "2001:db8::7", "fd01::9"),
        ] {
            let default = |interface, table, gateway| Route {
                prefix: net(everywhere),
                gateway,
                interface,
                table,
                metric: None,
            };
            netlink.add_route(&default(a.index(), MAIN_TABLE, Some(ip(router)))).unwrap();
            netlink.add_route(&default(b.index(), TABLE, None)).unwrap();
            assert_eq!(interface_to(netlink, outside), Some(a.index()));

            let rule = |priority, to, table, suppress| Rule {
                family,
                priority,
                owner: b.index(),
                from: None,
                to,
                by: None,
                service: None,
                action: RuleAction::Lookup { table, suppress },
            };
            let whole = if family == Family::V4 { 32 } else { 128 };
            let hub = IpNetwork::new(ip(outside), whole).unwrap();
            let main = rule(5000, None, MAIN_TABLE, Some(0));
            let tunnel = rule(5001, None, TABLE, None);
            for rule in [main, tunnel, main, tunnel] {
                netlink.add_rule(&rule).unwrap();
            }
            assert_eq!(interface_to(netlink, outside), Some(b.index()));
            assert_eq!(interface_to(netlink, router), Some(a.index()), "more specific than a default");
            let pinned = rule(4999, Some(hub), MAIN_TABLE, None);
            netlink.add_rule(&pinned).unwrap();
            assert_eq!(interface_to(netlink, outside), Some(a.index()), "around the tunnel");

            let rules = netlink.rules().unwrap();
            assert_eq!(rules, [pinned, main, tunnel]);
            for rule in rules.iter().chain(&rules) {
                netlink.remove_rule(rule).unwrap();
            }
            assert_eq!(netlink.rules().unwrap(), []);
            assert_eq!(interface_to(netlink, outside), Some(a.index()));
        }
    });
}

#[test]
fn a_dump_longer_than_one_answer_is_read_whole() {
    in_namespace(|| {
        let (a, _b) = two_devices();
        for host in 0..2000u32 {
            let address = std::net::Ipv4Addr::from(0x0a64_0000 + host);
            a.add_address(IpNetwork::new(address.into(), 32).unwrap()).unwrap();
        }
        let found = a.netlink().addresses().unwrap();
        assert_eq!(
            found.iter().filter(|(index, address)| *index == a.index() && address.is_ipv4()).count(),
            2001
        );
    });
}
