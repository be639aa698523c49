//! What is told of changes, each test in a network namespace of its own.

use std::process::Command;
use std::time::{Duration, Instant};

use mio::{Events, Poll};

use super::*;
use crate::linux::netlink::tests::in_namespace;
use crate::linux::tun::Tun;

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split_ascii_whitespace()).status();
    assert!(status.expect("this test needs `ip` of iproute2").success(), "ip {arguments}");
}

/// Many lines of `ip -batch`.
fn batch(lines: impl IntoIterator<Item = String>) {
    use std::io::Write as _;
    let mut child =
        Command::new("ip").args(["-batch", "-"]).stdin(std::process::Stdio::piped()).spawn().unwrap();
    let text: String = lines.into_iter().map(|line| line + "\n").collect();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

fn open() -> (Tun, Monitor) {
    let tun = Tun::open("t").unwrap_or_else(|error| panic!("this test needs a TUN device: {error}"));
    // An address of the kernel's own would be told of whenever it pleases.
    tun.without_link_local().unwrap();
    let monitor = Monitor::open(tun.netlink()).unwrap();
    (tun, monitor)
}

/// All that was told.
fn drain(monitor: &mut Monitor, tun: &Tun) -> Changes {
    let mut all = Changes::default();
    loop {
        let (changes, drained) = monitor.drain(tun.index());
        all.merge(changes);
        if drained == Drained::All {
            return all;
        }
    }
}

#[test]
fn each_kind_of_change_is_told() {
    in_namespace(|| {
        let (tun, mut monitor) = open();
        assert_eq!(drain(&mut monitor, &tun), Changes::default());
        let none = Changes::default();
        let device = |change| Changes { device: Some(change), ..none };
        ip("link add name other type veth peer name peer");
        assert_eq!(drain(&mut monitor, &tun), Changes { links: true, ..none });
        ip("link set dev t up");
        let changes = drain(&mut monitor, &tun);
        assert_eq!(changes.device, Some(DeviceChange::Other));
        for family in ["-4", "-6"] {
            ip(&format!("{family} rule add pref 99 lookup 99"));
            assert_eq!(drain(&mut monitor, &tun), Changes { rules: true, ..none }, "{family} rule");
            ip(&format!("{family} rule del pref 99"));
            assert_eq!(drain(&mut monitor, &tun), Changes { rules: true, ..none }, "{family} rule");
        }
        for (address, prefix) in [("10.0.0.2/24", "10.1.0.0/16"), ("fd00::2/64", "fd01::/64")] {
            ip(&format!("addr add {address} dev t"));
            assert!(drain(&mut monitor, &tun).addresses, "{address}");
            ip(&format!("route add {prefix} dev t"));
            assert!(drain(&mut monitor, &tun).routes, "{prefix}");
            ip(&format!("route del {prefix} dev t"));
            assert!(drain(&mut monitor, &tun).routes, "{prefix}");
            ip(&format!("addr del {address} dev t"));
            assert!(drain(&mut monitor, &tun).addresses, "{address}");
        }
        ip("link set dev t mtu 1400");
        assert_eq!(drain(&mut monitor, &tun).device, Some(DeviceChange::Other));
        ip("link set dev t down");
        assert_eq!(drain(&mut monitor, &tun).device, Some(DeviceChange::Down));
        ip("link del dev t");
        assert_eq!(drain(&mut monitor, &tun).device, device(DeviceChange::Gone).device);
    });
}

#[test]
fn the_event_loop_is_woken() {
    in_namespace(|| {
        let (_tun, mut monitor) = open();
        let (mut poll, mut events) = (Poll::new().unwrap(), Events::with_capacity(8));
        poll.registry().register(&mut monitor, Token(7), Interest::READABLE).unwrap();
        ip("rule add pref 99 lookup 99");
        poll.poll(&mut events, Some(Duration::from_secs(5))).unwrap();
        assert!(events.iter().any(|event| event.token() == Token(7)));
    });
}

#[test]
fn own_changes_and_those_of_routing_daemons_are_not_told() {
    in_namespace(|| {
        let (tun, mut monitor) = open();
        tun.set_mtu(1_400).unwrap();
        tun.up().unwrap();
        drain(&mut monitor, &tun);
        tun.add_address("10.0.0.2/24".parse().unwrap()).unwrap();
        // The routes that it brings along are the kernel's own.
        assert!(!drain(&mut monitor, &tun).addresses);
        for prefix in ["10.1.0.0/16", "fd01::/64"] {
            tun.add_route(prefix.parse().unwrap(), None).unwrap();
            tun.remove_route(prefix.parse().unwrap()).unwrap();
            assert_eq!(drain(&mut monitor, &tun), Changes::default(), "{prefix}");
        }
        for daemon in ["bird", "bgp", "zebra", "ospf"] {
            ip(&format!("route add 198.51.100.0/24 dev t proto {daemon}"));
            ip(&format!("route del 198.51.100.0/24 dev t proto {daemon}"));
            ip(&format!("route add 2001:db8::/32 dev t proto {daemon}"));
            ip(&format!("route del 2001:db8::/32 dev t proto {daemon}"));
            assert_eq!(drain(&mut monitor, &tun), Changes::default(), "{daemon}");
            // A default route is one that everything may go by.
            ip(&format!("route add default dev t proto {daemon}"));
            assert!(drain(&mut monitor, &tun).routes, "{daemon}");
            ip("route del default dev t");
            drain(&mut monitor, &tun);
        }
        ip("route add 198.51.100.0/24 dev t proto static");
        assert!(drain(&mut monitor, &tun).routes);
    });
}

#[test]
fn a_full_routing_table_of_a_daemon_costs_nothing() {
    in_namespace(|| {
        let (tun, mut monitor) = open();
        tun.up().unwrap();
        drain(&mut monitor, &tun);
        let route = |i: u32| format!("11.{}.{}.0/24 dev t proto bird", i >> 8, i & 0xff);
        batch((0..65_536).map(|i| format!("route add {}", route(i))));
        assert_eq!(monitor.drain(tun.index()), (Changes::default(), Drained::All));
    });
}

#[test]
fn too_many_changes_are_read_in_turns_and_lost_ones_mean_everything() {
    in_namespace(|| {
        let (tun, mut monitor) = open();
        tun.up().unwrap();
        drain(&mut monitor, &tun);
        let route = |i: u32| format!("11.{}.{}.0/24 dev t", i >> 8, i & 0xff);
        batch((0..20_000).map(|i| format!("route add {}", route(i))));
        let start = Instant::now();
        let (first, drained) = monitor.drain(tun.index());
        println!("one turn of {TURN_MESSAGES} announcements: {:?}", start.elapsed());
        assert_eq!(drained, Drained::More);
        assert!(first.routes);
        assert_eq!(drain(&mut monitor, &tun), Changes::default().routes_lost(first));
        assert_eq!(drain(&mut monitor, &tun), Changes::default(), "and that was all");
    });
}

impl Changes {
    /// Everything, where the overrun was not told in `first` already.
    fn routes_lost(self, first: Changes) -> Changes {
        if first == Changes::ALL { Changes { routes: true, ..self } } else { Changes::ALL }
    }
}

#[test]
fn the_filter_jumps_where_it_should() {
    let program = filter(7);
    let (accept, drop) = (program.len() - 2, program.len() - 1);
    for (at, step) in program.iter().enumerate() {
        if u32::from(step.code) & libc::BPF_JMP == libc::BPF_JMP && step.code & 7 == libc::BPF_JMP as u16 {
            for to in [step.jt, step.jf] {
                assert!(at + 1 + usize::from(to) < program.len(), "step {at}");
            }
        }
    }
    assert_eq!(1 + 1 + usize::from(program[1].jt), drop, "own changes");
    assert_eq!(4 + 1 + usize::from(program[4].jf), accept, "no route");
    assert_eq!(6 + 1 + usize::from(program[6].jf), accept, "a short prefix");
    assert_eq!(8 + 1 + usize::from(program[8].jt), drop, "the first daemon");
    assert_eq!(accept - 1 + 1 + usize::from(program[accept - 1].jt), drop, "the last daemon");
}
