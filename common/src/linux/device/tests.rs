//! Devices that others change, each in a network namespace of its own.

use std::net::UdpSocket;
use std::process::Command;

use super::*;
use crate::linux::netlink::tests::in_namespace;
use crate::packet::{VNET_LEN, offload::Features};

fn net(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

fn config(addresses: &[&str]) -> DeviceConfig {
    DeviceConfig { addresses: addresses.iter().map(|address| net(address)).collect(), mtu: 1_400 }
}

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split_ascii_whitespace()).status();
    assert!(status.expect("this test needs `ip` of iproute2").success(), "ip {arguments}");
}

fn sysctl(name: &str, value: &str) {
    std::fs::write(format!("/proc/sys/net/{name}"), value).unwrap();
}

/// A device called `t` that is set to `config`.
fn device(config: &DeviceConfig) -> (Tun, Device) {
    let mut tun = Tun::open("t").unwrap_or_else(|error| panic!("this test needs a TUN device: {error}"));
    let mut device = Device::default();
    device.configure(&mut tun, config.clone()).unwrap();
    assert_is(&tun, config);
    (tun, device)
}

fn assert_is(tun: &Tun, config: &DeviceConfig) {
    let observed = observe(tun).unwrap().unwrap();
    assert!(observed.is_up);
    assert_eq!(observed.mtu, config.mtu);
    assert_eq!(sorted(&observed.addresses), sorted(&config.addresses));
}

fn sorted(addresses: &[IpNetwork]) -> BTreeSet<IpNetwork> {
    addresses.iter().copied().collect()
}

/// The next packet that the machine sends to `to` by the device.
fn sends_through(tun: &Tun, to: &str) -> bool {
    let socket = UdpSocket::bind(if to.contains("::") { "[::]:0" } else { "0.0.0.0:0" }).unwrap();
    let address = (to.parse::<std::net::IpAddr>().unwrap(), 9);
    socket.send_to(b"found again", address).is_ok()
        && std::iter::repeat_with(|| {
            let mut packet = [0; 2_000];
            tun.read(&mut packet).ok().map(|length| packet[VNET_LEN..length].to_vec())
        })
        .map_while(|packet| packet)
        .any(|packet| packet.ends_with(b"found again"))
}

#[test]
fn a_device_is_configured_once_and_then_left_alone() {
    in_namespace(|| {
        let wanted = config(&["10.0.0.2/24", "fd00::2/64", "fe80::2/64"]);
        let (mut tun, mut device) = device(&wanted);
        assert_eq!(device.reconcile(&mut tun).unwrap(), []);
        assert_eq!(device.configure(&mut tun, wanted).unwrap(), []);
        assert!(device.failures().is_empty());
        // What someone else added stays, and what is not wanted any more goes.
        ip("addr add 10.77.0.1/24 dev t");
        let other = config(&["10.0.1.2/24"]);
        device.configure(&mut tun, other).unwrap();
        let observed = observe(&tun).unwrap().unwrap();
        assert_eq!(sorted(&observed.addresses), sorted(&[net("10.0.1.2/24"), net("10.77.0.1/24")]));
    });
}

#[test]
fn what_others_took_away_comes_back() {
    in_namespace(|| {
        let wanted = config(&["10.0.0.2/24", "fd00::2/64"]);
        let (mut tun, mut device) = device(&wanted);
        for (change, expected) in [
            ("addr del 10.0.0.2/24 dev t", vec![Step::AddAddress(net("10.0.0.2/24"))]),
            ("-6 addr flush dev t scope global", vec![Step::AddAddress(net("fd00::2/64"))]),
            ("link set dev t mtu 1300", vec![Step::SetMtu(1_400)]),
            ("route flush dev t", vec![Step::RenewAddress(net("10.0.0.2/24"))]),
            ("-6 route flush dev t", vec![Step::RenewAddress(net("fd00::2/64"))]),
            ("route flush table local dev t", vec![Step::RenewAddress(net("10.0.0.2/24"))]),
            // IPv6 addresses go with the device's being up.
            ("link set dev t down", vec![Step::Up, Step::AddAddress(net("fd00::2/64"))]),
        ] {
            ip(change);
            assert_eq!(device.reconcile(&mut tun).unwrap(), expected, "{change}");
            assert_is(&tun, &wanted);
            assert!(sends_through(&tun, "10.0.0.3"), "IPv4 after {change}");
            assert!(sends_through(&tun, "fd00::3"), "IPv6 after {change}");
        }
    });
}

#[test]
fn a_deleted_device_is_made_anew_by_the_same_descriptor() {
    in_namespace(|| {
        let wanted = config(&["10.0.0.2/24", "fd00::2/64"]);
        let (mut tun, mut device) = device(&wanted);
        let before = tun.features();
        for _ in 0..3 {
            let index = tun.index();
            ip("link del dev t");
            assert_eq!(tun.read(&mut [0; 100]).unwrap_err().raw_os_error(), Some(libc::EBADFD));
            let steps = device.reconcile(&mut tun).unwrap();
            assert_eq!(steps.first(), Some(&Step::Reattach));
            assert_ne!(tun.index(), index);
            assert_eq!(tun.features(), before);
            assert!(before != Features::default());
            assert_is(&tun, &wanted);
            assert!(sends_through(&tun, "10.0.0.3"));
            assert!(sends_through(&tun, "fd00::3"));
        }
    });
}

#[test]
fn a_deleted_device_wakes_the_event_loop_again_once_it_is_back() {
    use mio::{Events, Interest, Poll, Token};
    in_namespace(|| {
        let wanted = config(&["10.0.0.2/24"]);
        let (mut tun, mut device) = device(&wanted);
        let (mut poll, mut events) = (Poll::new().unwrap(), Events::with_capacity(8));
        poll.registry().register(&mut tun, Token(0), Interest::READABLE).unwrap();
        ip("link del dev t");
        device.reconcile(&mut tun).unwrap();
        while tun.read(&mut [0; 2_000]).is_ok() {}
        poll.poll(&mut events, Some(std::time::Duration::ZERO)).unwrap();
        UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"x", "10.0.0.3:9").unwrap();
        poll.poll(&mut events, Some(std::time::Duration::from_secs(5))).unwrap();
        assert!(events.iter().any(|event| event.is_readable()), "{events:?}");
    });
}

#[test]
fn without_ipv6_the_other_family_is_kept() {
    in_namespace(|| {
        sysctl("ipv6/conf/all/disable_ipv6", "1");
        sysctl("ipv6/conf/default/disable_ipv6", "1");
        let wanted = config(&["10.0.0.2/24", "fd00::2/64"]);
        let mut tun = Tun::open("t").unwrap();
        let mut device = Device::default();
        device.configure(&mut tun, wanted.clone()).unwrap();
        assert_is(&tun, &config(&["10.0.0.2/24"]));
        assert!(device.lacks_ipv6() && !device.is_without_addresses());
        assert!(sends_through(&tun, "10.0.0.3"));
        // And when it is back, so is the address.
        sysctl("ipv6/conf/t/disable_ipv6", "0");
        assert_eq!(device.reconcile(&mut tun).unwrap(), [Step::AddAddress(net("fd00::2/64"))]);
        assert!(!device.lacks_ipv6());
        assert_is(&tun, &wanted);
        sysctl("ipv6/conf/all/disable_ipv6", "1");
        let only = config(&["fd00::2/64"]);
        device.configure(&mut tun, only).unwrap();
        assert!(device.is_without_addresses());
    });
}

#[test]
fn a_network_of_the_machine_comes_before_the_same_one_of_ours() {
    in_namespace(|| {
        let (tun, _device) = device(&config(&["10.0.0.2/24", "fd00::2/64"]));
        ip("link add wlan0 type veth peer name wlan0p");
        ip("link set wlan0p up");
        ip("link set wlan0 up");
        ip("addr add 10.0.0.57/24 dev wlan0 metric 600");
        ip("addr add fd00::57/64 dev wlan0 metric 1024 nodad");
        let wlan = tun.netlink().link("wlan0").unwrap().index;
        for gateway in ["10.0.0.1", "fd00::1"] {
            let hop = tun.netlink().route_to(gateway.parse().unwrap()).unwrap().unwrap();
            assert_eq!(hop.interface, wlan, "{gateway}");
        }
        ip("link del wlan0");
        for member in ["10.0.0.3", "fd00::3"] {
            let hop = tun.netlink().route_to(member.parse().unwrap()).unwrap().unwrap();
            assert_eq!(hop.interface, tun.index(), "{member}");
        }
    });
}
