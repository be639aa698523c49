//! What a LAN is for: pings, UDP, TCP between spokes and hub, on real TUN devices.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests of IO")]

use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::house::{
    self, Binaries, Lan, Net, SPOKE_ON_LAN, ask_hub, copy_state, echo_udp, ping, ping_until, start_hub,
    state, transfer,
};

const SOON: Duration = Duration::from_secs(5);

#[test]
fn every_host_pings_every_other_with_any_size() {
    let lan = Lan::new(2).unwrap();
    let hosts = [
        (lan.net.hub(), Lan::hub_address()),
        (lan.net.spoke(0), Lan::address(0)),
        (lan.net.spoke(1), Lan::address(1)),
    ];
    // From nothing to the MTU (1500 less 28 of headers), and in fragments to the most that IPv4 has.
    for size in [0, 1, 56, 1000, 1471, 1472, 1473, 2000, 9000, 40_000, 65_507] {
        for (from, own) in hosts {
            for (_, to) in hosts.iter().filter(|&&(_, to)| to != own) {
                ping(from, IpAddr::V4(*to), size, SOON).unwrap();
            }
        }
    }
}

#[test]
fn sixteen_spokes_lose_no_ping() {
    let lan = Lan::new(16).unwrap();
    let addresses: Vec<_> = [Lan::hub_address()].into_iter().chain((0..16).map(Lan::address)).collect();
    for i in 0..16 {
        for &address in addresses.iter().filter(|&&address| address != Lan::address(i)) {
            ping(lan.net.spoke(i), address.into(), 56, SOON).unwrap();
        }
    }
    for &address in &addresses[1..] {
        ping(lan.net.hub(), address.into(), 56, SOON).unwrap();
    }
}

#[test]
fn hello_by_udp_shows_its_source_and_is_answered() {
    let lan = Lan::new(1).unwrap();
    let server = lan.net.hub().udp_bind((Lan::hub_address(), 1234)).unwrap();
    let client = lan.net.spoke(0).udp_bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    client.connect((Lan::hub_address(), 1234)).unwrap();
    client.send(b"hello").unwrap();
    let (source, message) = echo_udp(&server, SOON).unwrap();
    assert_eq!(source.ip(), IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)));
    assert_eq!(message, b"hello");
    client.set_read_timeout(Some(SOON)).unwrap();
    let mut answer = [0; 16];
    let length = client.recv(&mut answer).unwrap();
    assert_eq!(&answer[..length], b"hello");
}

#[test]
fn ten_megabytes_arrive_whole_in_each_direction() {
    let lan = Lan::new(2).unwrap();
    let (hub, one, two) = (lan.net.hub(), lan.net.spoke(0), lan.net.spoke(1));
    let (hub_address, one_address, two_address) = (Lan::hub_address(), Lan::address(0), Lan::address(1));
    for (from, to, address) in
        [(one, two, two_address), (two, one, one_address), (one, hub, hub_address), (hub, one, one_address)]
    {
        transfer(from, to, address.into(), 10_000_000).unwrap().finish().unwrap();
    }
    // All at once.
    let under_way = [
        transfer(one, two, two_address.into(), 10_000_000).unwrap(),
        transfer(two, one, one_address.into(), 10_000_000).unwrap(),
        transfer(hub, one, one_address.into(), 10_000_000).unwrap(),
        transfer(two, hub, hub_address.into(), 10_000_000).unwrap(),
    ];
    for transfer in under_way {
        transfer.finish().unwrap();
    }
}

/// 64-byte datagrams that wait in the device of a stopped spoke.
#[test]
fn datagrams_that_wait_together_cross_as_few_packets_and_arrive_as_they_were() {
    let lan = Lan::new(2).unwrap();
    let receiver = lan.net.spoke(1).udp_bind((Lan::address(1), 0)).unwrap();
    receiver.set_read_timeout(Some(SOON)).unwrap();
    let sender = lan.net.spoke(0).udp_bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    sender.connect(receiver.local_addr().unwrap()).unwrap();
    lan.spokes[0].signal(Signal::SIGSTOP).unwrap();
    for number in 0..150_u8 {
        sender.send(&[number; 64]).unwrap();
    }
    sender.send(b"last").unwrap();
    lan.spokes[0].signal(Signal::SIGCONT).unwrap();
    let mut datagram = [0; 100];
    for number in 0..150_u8 {
        let length = receiver.recv(&mut datagram).unwrap();
        assert_eq!(datagram[..length], [number; 64]);
    }
    let length = receiver.recv(&mut datagram).unwrap();
    assert_eq!(&datagram[..length], b"last");
    let status = ask_hub(&lan.net, &["status", "--json"]).good();
    let status: hub::control::Status = serde_json::from_str(&status).unwrap();
    let link = status.members[0].link.as_ref().unwrap();
    // 64 each, and what else a machine says.
    assert!((3..20).contains(&link.received.packets), "{link:?}");
}

#[test]
fn a_bulk_flow_does_not_pile_up_in_the_kernel() {
    let lan = Lan::new(2).unwrap();
    let (from, to) = (lan.net.spoke(0), lan.net.spoke(1));
    let under_way = transfer(from, to, Lan::address(1).into(), 300_000_000).unwrap();
    for (part, reader) in [(1, &lan.hub), (2, &lan.spokes[1])] {
        under_way.wait_received(part * 50_000_000, SOON).unwrap();
        assert!(under_way.is_under_way(), "the transfer was over too soon for the test");
        reader.signal(Signal::SIGSTOP).unwrap();
        // As much comes as the kernel takes.
        std::thread::sleep(Duration::from_millis(100));
        reader.signal(Signal::SIGCONT).unwrap();
    }
    under_way.finish().unwrap();
    for reader in [lan.net.hub(), to] {
        let mut command = Command::new("ss");
        command.args(["-tnmH", "( sport = 5678 or dport = 5678 )"]);
        let sockets = String::from_utf8(reader.output(command).unwrap().stdout).unwrap();
        // ss(8): `rb` is what the socket may hold of received bytes.
        let sizes = sockets.split(&['(', ',', ')']).filter_map(|word| word.strip_prefix("rb"));
        let sizes: Vec<u64> = sizes.map(|size| size.parse().unwrap()).collect();
        // Without a bound it grows beyond 6 MB; where only acknowledgements come it is some 2 MB, mostly unused.
        assert!(!sizes.is_empty() && sizes.iter().all(|&size| size < 4_000_000), "{sockets}");
    }
}

#[test]
fn the_device_has_address_mtu_route_and_multicast() {
    let lan = Lan::new(1).unwrap();
    for (host, device, address) in
        [(lan.net.hub(), "hub0", Lan::hub_address()), (lan.net.spoke(0), "spoke0", Lan::address(0))]
    {
        let link = show(host, &["-o", "link", "show", device]);
        assert!(link.contains("MULTICAST") && link.contains(",UP") && link.contains("mtu 1500 "), "{link}");
        let addresses = show(host, &["-o", "-4", "address", "show", device]);
        assert!(addresses.contains(&format!("inet {address}/24 ")), "{addresses}");
        let routes = show(host, &["-4", "route", "show", "dev", device]);
        assert!(routes.starts_with("10.0.0.0/24 "), "{routes}");
    }
}

#[test]
fn the_hub_tells_the_mtu() {
    for (mtu, size) in [("576", 548), ("9000", 8972)] {
        let net = Net::new(2).unwrap();
        let binaries = Binaries::find().unwrap();
        let _hub = start_hub(&net, &binaries, &["--mtu", mtu]).unwrap();
        let spokes = [0, 1].map(|i| house::spawn_spoke(&net, &binaries, i, &[]).unwrap());
        for spoke in &spokes {
            spoke.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
        }
        for (host, device) in [(net.hub(), "hub0"), (net.spoke(0), "spoke0"), (net.spoke(1), "spoke0")] {
            let link = show(host, &["-o", "link", "show", device]);
            assert!(link.contains(&format!("mtu {mtu} ")), "{link}");
        }
        ping(net.spoke(0), Lan::address(1).into(), size, SOON).unwrap();
        ping(net.spoke(0), Lan::address(1).into(), 3 * size, SOON).unwrap();
    }
}

#[test]
fn the_hub_is_reached_by_ipv6_and_by_name() {
    let net = Net::new(2).unwrap();
    assert!(net.ipv6(), "this machine has no IPv6 (/proc/sys/net/ipv6 is missing): it can't be tested here");
    let binaries = Binaries::find().unwrap();
    let _hub = start_hub(&net, &binaries, &[]).unwrap();
    net.spoke(1).set_file("/etc/hosts", "192.0.2.1 lan.example\n").unwrap();
    let spokes = [(0, "[2001:db8::1]"), (1, "lan.example")].map(|(i, hub)| {
        let mut command = Command::new(&binaries.spoke);
        command.args(["--hub", hub, "--ip", &Lan::address(i).to_string()]);
        net.spoke(i).spawn("spoke", &command).unwrap()
    });
    for spoke in &spokes {
        spoke.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
    }
    ping(net.spoke(0), Lan::address(1).into(), 56, SOON).unwrap();
}

#[test]
fn a_name_is_resolved_afresh() {
    let net = Net::new(2).unwrap();
    let binaries = Binaries::find().unwrap();
    let hub = start_hub(&net, &binaries, &[]).unwrap();
    net.spoke(0).set_file("/etc/hosts", "192.0.2.1 lan.example\n").unwrap();
    let mut command = Command::new(&binaries.spoke);
    command.args(["--hub", "lan.example:5678", "--ip", "10.0.0.2"]);
    let spoke = net.spoke(0).spawn("spoke", &command).unwrap();
    spoke.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();

    // The hub moves, with its key, to another host.
    hub.kill().unwrap();
    let (old, new) = (state(net.hub(), "hub"), state(net.spoke(1), "hub"));
    copy_state(&old, &new).unwrap();
    net.spoke(0).set_file("/etc/hosts", &format!("{} lan.example\n", Net::spoke_v4(1))).unwrap();
    let mark = spoke.mark();
    let moved = net.spoke(1).spawn("hub", &house::hub_command(&net, &binaries, &[])).unwrap();
    moved.wait_for_line(house::HUB_LISTENS, SOON).unwrap();
    spoke.wait_for_line_after(mark, SPOKE_ON_LAN, Duration::from_secs(15)).unwrap();
    ping_until(net.spoke(0), Lan::hub_address().into(), SOON).unwrap();
}

#[test]
fn one_machine_is_in_two_lans() {
    let net = Net::new(2).unwrap();
    let binaries = Binaries::find().unwrap();
    let _first = start_hub(&net, &binaries, &[]).unwrap();
    let mut command = Command::new(&binaries.hub);
    command.args(["--subnet", "10.1.0.0/24", "--state"]).arg(net.spoke(1).private().join("hub"));
    let second = net.spoke(1).spawn("second hub", &command).unwrap();
    second.wait_for_line(house::HUB_LISTENS, SOON).unwrap();

    let _one = house::spawn_spoke(&net, &binaries, 0, &[]).unwrap();
    let mut command = Command::new(&binaries.spoke);
    command
        .args(["--hub", &Net::spoke_v4(1).to_string(), "--ip", "10.1.0.2", "--tun", "other0", "--state"])
        .arg(net.spoke(0).private().join("other"));
    let two = net.spoke(0).spawn("second spoke", &command).unwrap();
    two.wait_for_line("on the LAN as 10.1.0.2", SOON).unwrap();
    ping_until(net.spoke(0), Ipv4Addr::new(10, 0, 0, 1).into(), SOON).unwrap();
    ping_until(net.spoke(0), Ipv4Addr::new(10, 1, 0, 1).into(), SOON).unwrap();
}

#[test]
fn trace_shows_each_packet_in_one_line() {
    let net = Net::new(1).unwrap();
    let binaries = Binaries::find().unwrap();
    let mut command = house::hub_command(&net, &binaries, &[]);
    command.env("RUST_LOG", "trace");
    let hub = net.hub().spawn("hub", &command).unwrap();
    hub.wait_for_line(house::HUB_LISTENS, SOON).unwrap();
    let spoke = house::spawn_spoke(&net, &binaries, 0, &[]).unwrap();
    spoke.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
    let socket = net.spoke(0).udp_bind((Lan::address(0), 4321)).unwrap();
    socket.send_to(b"hello", (Lan::hub_address(), 1234)).unwrap();
    let line = hub.wait_for_line("10.0.0.2:4321 > 10.0.0.1:1234", SOON).unwrap();
    assert!(line.contains("UDP") && line.contains("33"), "{line}");
}

#[test]
fn versions_are_told() {
    let host = house::Host::new("host").unwrap();
    let binaries = Binaries::find().unwrap();
    for program in [&binaries.hub, &binaries.spoke] {
        let mut command = Command::new(program);
        command.arg("--version");
        let output = host.output(command).unwrap();
        assert!(String::from_utf8_lossy(&output.stdout).contains(env!("CARGO_PKG_VERSION")), "{output:?}");
    }
}

fn show(host: &house::Host, arguments: &[&str]) -> String {
    let mut command = Command::new("ip");
    command.args(arguments);
    String::from_utf8(host.output(command).unwrap().stdout).unwrap()
}
