//! Access rules on a real LAN: each protocol, both families, replies, everyone, networks behind members, reload.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests of IO")]

use std::fs::{self, DirBuilder};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::DirBuilderExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::house::{
    self, Binaries, Host, Lan, Net, ask_hub, host_behind, hub_command, ping, ping_until, state, transfer,
};
use nix::sys::signal::Signal;

const SOON: Duration = Duration::from_secs(5);
/// How long to look for what must not come.
const SILENCE: Duration = Duration::from_millis(300);

/// Puts rules in force.
fn set_rules(lan: &Lan, text: &str) {
    fs::write(rules_file(lan), text).unwrap();
    ask_hub(&lan.net, &["reload"]).good();
}

fn rules_file(lan: &Lan) -> std::path::PathBuf {
    state(lan.net.hub(), "hub").join("rules")
}

fn host(lan: &Lan, member: Option<usize>) -> &Host {
    member.map_or(lan.net.hub(), |i| lan.net.spoke(i))
}

/// The address of a spoke, or of the hub.
fn at(member: Option<usize>, v6: bool) -> IpAddr {
    match (member, v6) {
        (None, false) => Lan::hub_address().into(),
        (None, true) => Lan::hub_address_v6().into(),
        (Some(i), false) => Lan::address(i).into(),
        (Some(i), true) => Lan::address_v6(i).into(),
    }
}

/// A connection to a port, and its other end.
fn connect(from: &Host, to: &Host, address: SocketAddr) -> house::Result<(TcpStream, TcpStream)> {
    let listener: TcpListener = to.tcp_listen(address)?;
    let near = from.tcp_connect(address, SOON)?;
    Ok((near, listener.accept()?.0))
}

/// Both directions of a connection work.
fn exchange(near: &mut TcpStream, far: &mut TcpStream) {
    let send = |one: &mut TcpStream, other: &mut TcpStream| {
        one.write_all(b"words").unwrap();
        other.set_read_timeout(Some(SOON)).unwrap();
        other.read_exact(&mut [0; 5]).unwrap();
    };
    send(near, far);
    send(far, near);
}

/// A refusal comes at once, and not as silence.
fn is_refused(from: &Host, to: &Host, address: SocketAddr) {
    let start = Instant::now();
    let refused = connect(from, to, address).map(drop).unwrap_err().to_string();
    assert!(start.elapsed() < Duration::from_secs(1), "{address}: after {:?}", start.elapsed());
    let expected = if address.is_ipv4() { "No route to host" } else { "Permission denied" };
    assert!(refused.contains(expected), "{refused}");
}

fn hears(socket: &UdpSocket, patience: Duration) -> Option<(usize, SocketAddr)> {
    socket.set_read_timeout(Some(patience)).unwrap();
    match socket.recv_from(&mut [0; 65_536]) {
        Ok(heard) => Some(heard),
        Err(error) if error.kind() == ErrorKind::WouldBlock => None,
        // The socket hears of the refusal of what it sent.
        Err(_) => None,
    }
}

#[test]
fn each_protocol_is_held_against_the_rules_in_both_families() {
    let lan = Lan::dual_in(Net::new(3).unwrap(), 3).unwrap();
    set_rules(
        &lan,
        "allow spoke0 -> spoke1 [tcp/7000 udp/7001 icmp] # the only way in\nallow * -> hub [icmp]\n",
    );
    lan.hub.wait_for_line("2 access rules are in force", SOON).unwrap();
    let [zero, one, two] = [0, 1, 2].map(|i| host(&lan, Some(i)));
    for v6 in [false, true] {
        let (a, b, hub) = (at(Some(0), v6), at(Some(1), v6), at(None, v6));
        let (mut near, mut far) = connect(zero, one, (b, 7000).into()).unwrap();
        exchange(&mut near, &mut far);
        is_refused(zero, one, (b, 7002).into());
        is_refused(one, zero, (a, 7000).into());
        is_refused(two, one, (b, 7000).into());
        is_refused(two, lan.net.hub(), (hub, 7000).into());

        ping(zero, b, 56, SOON).unwrap();
        ping(zero, b, 20_000, SOON).unwrap();
        ping(two, hub, 56, SOON).unwrap();
        ping(one, a, 56, SILENCE).unwrap_err();
        ping(two, b, 20_000, SILENCE).unwrap_err();
        ping(lan.net.hub(), b, 56, SILENCE).unwrap_err();

        // Datagrams whole and in fragments, and their answers.
        let (client, server) = (zero.udp_bind((a, 0)).unwrap(), one.udp_bind((b, 7001)).unwrap());
        let closed = one.udp_bind((b, 7003)).unwrap();
        for size in [100, 40_000] {
            client.send_to(&vec![7; size], (b, 7003)).unwrap();
            // What the refusal says is heard of with the next call.
            let _ = client.take_error().unwrap();
            client.send_to(&vec![7; size], (b, 7001)).unwrap();
            let (length, from) = hears(&server, SOON).unwrap();
            assert_eq!((length, from.ip()), (size, a));
            server.send_to(&vec![8; size], from).unwrap();
            assert_eq!(hears(&client, SOON), Some((size, SocketAddr::from((b, 7001)))));
            assert_eq!(hears(&closed, SILENCE), None);
        }
    }
    let dropped = ask_hub(&lan.net, &["status"]).good();
    assert!(dropped.contains("2 access rules") && dropped.contains("denied:"), "{dropped}");
}

#[test]
fn bulk_passes_under_rules() {
    let lan = Lan::new(2).unwrap();
    set_rules(&lan, "allow spoke0 -> spoke1 [tcp]\nallow hub -> * [tcp]\n");
    let (zero, one) = (lan.net.spoke(0), lan.net.spoke(1));
    transfer(zero, one, Lan::address(1).into(), 20_000_000).unwrap().finish().unwrap();
    transfer(lan.net.hub(), zero, Lan::address(0).into(), 20_000_000).unwrap().finish().unwrap();
    transfer(one, zero, Lan::address(0).into(), 1_000_000).map(drop).unwrap_err();
}

#[test]
fn rules_are_listed_with_counters_and_explained() {
    let lan = Lan::new(2).unwrap();
    let free = ask_hub(&lan.net, &["rules"]).good();
    assert!(free.starts_with("no access rules: everyone on the LAN may reach everyone\n"), "{free}");
    let free = ask_hub(&lan.net, &["rules", "--explain", "spoke0", "spoke1", "tcp/22"]).good();
    assert_eq!(free, "spoke0 (10.0.0.2) to spoke1 (10.0.0.3): allowed as there are no access rules\n");

    set_rules(&lan, "# ours\ndeny spoke1 -> spoke0 [icmp]\n\nallow * -> * [icmp] # pings\n");
    ping(lan.net.spoke(0), Lan::address(1).into(), 56, SOON).unwrap();
    ping(lan.net.spoke(1), Lan::address(0).into(), 56, SILENCE).unwrap_err();
    let list = ask_hub(&lan.net, &["rules"]).good();
    let counted = |line: usize, text: &str| {
        let row = list.lines().find(|row| row.ends_with(text)).unwrap_or_else(|| panic!("{text}: {list}"));
        let mut words = row.split_whitespace();
        assert_eq!(words.next(), Some(line.to_string().as_str()), "{list}");
        words.next().unwrap().parse::<u64>().unwrap()
    };
    assert_eq!(counted(2, "deny spoke1 -> spoke0 [icmp]"), 1);
    // The request and its reply.
    assert_eq!(counted(4, "allow * -> * [icmp]"), 2);

    let explain = |from: &str, to: &str, service: &str| {
        ask_hub(&lan.net, &["rules", "--explain", from, to, service]).good()
    };
    let denied = "spoke1 (10.0.0.3) to spoke0 (10.0.0.2): denied by line 2: deny spoke1 -> spoke0 [icmp]\n";
    assert_eq!(explain("spoke1", "10.0.0.2", "icmp"), denied);
    assert!(explain("spoke0", "hub", "icmp").contains("to hub (10.0.0.1): allowed by line 4"));
    assert!(explain("192.0.2.99", "spoke0", "tcp/22").ends_with("denied as no line matches\n"));
    let json = ask_hub(&lan.net, &["rules", "--explain", "spoke1", "spoke0", "icmp", "--json"]).good();
    assert!(json.contains("\"allowed\":false") && json.contains("\"line\":2"), "{json}");
    ask_hub(&lan.net, &["rules", "--explain", "nobody", "spoke0", "icmp"]).fails("nobody");
    ask_hub(&lan.net, &["rules", "--explain", "spoke0", "10.0.0.77", "icmp"]).fails("nobody has the address");
    ask_hub(&lan.net, &["rules", "--explain", "spoke0", "spoke1", "tcp"]).fails_with(2, "is no service");
    ask_hub(&lan.net, &["rules", "--explain"]).fails_with(2, "hub rules --explain laptop nas tcp/22");
}

#[test]
fn a_reload_holds_for_connections_that_are_open_and_a_wrong_file_changes_nothing() {
    let lan = Lan::new(2).unwrap();
    let (zero, one) = (lan.net.spoke(0), lan.net.spoke(1));
    let open = "allow spoke0 -> spoke1 [tcp/7000]\n";
    set_rules(&lan, open);
    let address = SocketAddr::from((Lan::address(1), 7000));
    let (mut near, mut far) = connect(zero, one, address).unwrap();
    exchange(&mut near, &mut far);

    let mark = lan.hub.mark();
    fs::write(rules_file(&lan), format!("{open}permit spoke1 -> spoke0\n")).unwrap();
    let refused = ask_hub(&lan.net, &["reload"]);
    assert!(refused.err.contains("line 2") && refused.err.contains("nothing is changed"), "{}", refused.err);
    refused.fails("rules");
    // The signal does the same, and says so in the log.
    lan.hub.signal(Signal::SIGHUP).unwrap();
    lan.hub.wait_for_line_after(mark, "line 2: a line begins with allow, deny or group", SOON).unwrap();
    exchange(&mut near, &mut far);
    is_refused(one, zero, (Lan::address(0), 7000).into());

    // Other rules: the connection still passes by another line, then no more.
    set_rules(&lan, "allow spoke0 -> hub\nallow 10.0.0.2 -> 10.0.0.3 [tcp]\n");
    exchange(&mut near, &mut far);
    let mark = lan.hub.mark();
    fs::write(rules_file(&lan), "deny * -> *\n").unwrap();
    lan.hub.signal(Signal::SIGHUP).unwrap();
    lan.hub.wait_for_line_after(mark, "1 access rule is in force", SOON).unwrap();
    near.write_all(b"words").unwrap();
    far.set_read_timeout(Some(SILENCE)).unwrap();
    far.read_exact(&mut [0; 5]).unwrap_err();

    let mark = lan.hub.mark();
    fs::remove_file(rules_file(&lan)).unwrap();
    ask_hub(&lan.net, &["reload"]).good();
    lan.hub.wait_for_line_after(mark, "no access rules", SOON).unwrap();
    // TCP sends again what was dropped.
    far.set_read_timeout(Some(SOON)).unwrap();
    far.read_exact(&mut [0; 5]).unwrap();
    exchange(&mut near, &mut far);
}

#[test]
fn a_hub_does_not_start_without_the_rules_that_it_was_given() {
    let net = Net::new(1).unwrap();
    let binaries = Binaries::find().unwrap();
    let directory = state(net.hub(), "hub");
    DirBuilder::new().mode(0o700).create(&directory).unwrap();
    fs::write(directory.join("rules"), "allow spoke0 -> *\nallow\n").unwrap();
    let hub = net.hub().spawn("hub", &hub_command(&net, &binaries, &[])).unwrap();
    assert_eq!(hub.wait_exit(SOON).unwrap().code(), Some(1));
    hub.wait_for_line("rules", SOON).unwrap();
    hub.wait_for_line("line 2: write FROM -> TO", SOON).unwrap();
}

#[test]
fn tags_hold_at_once_and_no_link_is_closed_for_them() {
    let lan = Lan::new(2).unwrap();
    set_rules(&lan, "allow tag:admin -> *\n");
    let (zero, one) = (lan.net.spoke(0), Lan::address(1).into());
    ping(zero, one, 56, SILENCE).unwrap_err();
    let members = state(lan.net.hub(), "hub").join("members");
    let text = fs::read_to_string(&members).unwrap();
    let tagged: String =
        text.lines()
            .map(|line| {
                if line.contains(" spoke0 ") {
                    format!("{line} tag=admin,home\n")
                } else {
                    format!("{line}\n")
                }
            })
            .collect();
    let mark = lan.hub.mark();
    fs::write(&members, &tagged).unwrap();
    let told = ask_hub(&lan.net, &["reload"]).good();
    assert!(told.contains("spoke0 tagged") && told.contains("1 access rule\n"), "{told}");
    ping(zero, one, 56, SOON).unwrap();
    let status = ask_hub(&lan.net, &["status"]).good();
    assert!(status.contains("TAGS") && status.contains("admin,home"), "{status}");
    assert!(!lan.hub.lines()[mark..].iter().any(|line| line.contains("left the LAN")), "no link is closed");
    fs::write(&members, &text).unwrap();
    ask_hub(&lan.net, &["reload"]).good();
    ping(zero, one, 56, SILENCE).unwrap_err();
}

#[test]
fn an_invite_brings_tags() {
    let net = Net::new(1).unwrap();
    let lan = Lan::with(net, 0).unwrap();
    let line = ask_hub(&lan.net, &["invite", "guest", "--tag", "visitors", "--host", "192.0.2.1"]).good();
    ask_hub(&lan.net, &["invite", "other", "--tag", "two words"]).fails_with(2, "--tag two words");
    let mut command = Command::new(&lan.binaries.spoke);
    command.args(line.split_whitespace().skip(1));
    command.arg("--state").arg(lan.net.spoke(0).private().join("spoke"));
    let guest = lan.net.spoke(0).spawn("guest", &command).unwrap();
    guest.wait_for_line(house::SPOKE_ON_LAN, SOON).unwrap();
    let text = fs::read_to_string(state(lan.net.hub(), "hub").join("members")).unwrap();
    assert!(text.contains(" guest ") && text.contains(" tag=visitors"), "{text}");
}

/// Sends to all, and what each hears of it.
#[test]
fn what_is_for_all_reaches_only_whom_the_rules_allow() {
    const PORT: u16 = 7005;
    let lan = Lan::new(3).unwrap();
    set_rules(&lan, "allow spoke0 -> spoke1 [udp]\nallow spoke0 -> spoke2 [udp/9]\n");
    let ears: Vec<UdpSocket> = [Some(1), Some(2), None]
        .map(|member| host(&lan, member).udp_bind((Ipv4Addr::UNSPECIFIED, PORT)).unwrap())
        .into();
    let mouth = lan.net.spoke(0).udp_bind((Lan::address(0), 0)).unwrap();
    mouth.set_broadcast(true).unwrap();
    for size in [100, 5_000] {
        mouth.send_to(&vec![1; size], (Ipv4Addr::new(10, 0, 0, 255), PORT)).unwrap();
        assert_eq!(hears(&ears[0], SOON).map(|(length, _)| length), Some(size));
        assert_eq!(hears(&ears[1], SILENCE), None, "{size} bytes to spoke2");
        assert_eq!(hears(&ears[2], SILENCE), None, "{size} bytes to the hub");
    }
}

#[test]
fn networks_behind_members_and_the_way_out_are_held_against_them_too() {
    let net = Net::new(2).unwrap();
    let camera = host_behind(net.spoke(0), "lan0", "camera", [192, 168, 5]).unwrap();
    let web = host_behind(net.hub(), "out0", "web", [198, 51, 100]).unwrap();
    let (at_camera, at_web) = (Ipv4Addr::new(192, 168, 5, 20), Ipv4Addr::new(198, 51, 100, 20));
    let options = [["--route", "192.168.5.0/24"], ["--accept-route", "198.51.100.0/24"]];
    let lan = Lan::with_options(
        net,
        &["--route", "198.51.100.0/24"],
        &[&[&options[0][..], &options[1][..]].concat(), &options[1][..]],
    )
    .unwrap();
    let (gateway, one) = (lan.net.spoke(0), lan.net.spoke(1));
    ping_until(one, at_camera.into(), SOON).unwrap();
    ping_until(one, at_web.into(), SOON).unwrap();
    set_rules(&lan, "allow spoke1 -> 192.168.5.20 [tcp/80]\nallow 192.168.5.0/24 -> 198.51.100.0/24\n");
    let (mut near, mut far) = connect(one, &camera, (at_camera, 80).into()).unwrap();
    exchange(&mut near, &mut far);
    is_refused(one, &camera, (at_camera, 81).into());
    is_refused(&camera, one, (Lan::address(1), 80).into());
    // Out through the hub: the network behind the gateway may, the gateway itself and the other member may not.
    ping(&camera, at_web.into(), 56, SOON).unwrap();
    is_refused(one, &web, (at_web, 80).into());
    is_refused(gateway, &web, (at_web, 80).into());
    is_refused(&web, &camera, (at_camera, 80).into());
}
