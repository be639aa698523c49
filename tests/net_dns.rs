//! Members by DNS: `hub --dns` and `spoke --dns`, asked by `dig`.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests of IO")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::house::{
    self, Host, Lan, Net, Process, SPOKE_ON_LAN, ask_hub, ask_spoke, is_missing, spawn_spoke,
};
use common::wire::key::PrivateKey;

const SOON: Duration = Duration::from_secs(10);
/// How long to look for what must not come.
const SILENCE: Duration = Duration::from_millis(300);
const NET_ADMIN: u64 = 1 << 12;
const NET_BIND_SERVICE: u64 = 1 << 10;

/// A LAN with names on the hub and on the first of two spokes, laptop and desktop.
fn dual() -> Lan {
    let net = Net::named(&["laptop", "desktop", "stranger"]).unwrap();
    let of_spokes: [&[&str]; 2] = [&["--ip", "fd00::2", "--dns"], &["--ip", "fd00::3"]];
    Lan::with_options(net, &["--subnet", "fd00::/64", "--dns"], &of_spokes).unwrap()
}

/// What `dig` prints.
fn dig(host: &Host, arguments: &str) -> String {
    let mut command = Command::new("dig");
    command.args(["+tries=1", "+time=3"]).args(arguments.split_ascii_whitespace());
    house::run(host, command).out
}

/// Asks until the answer is this one.
fn dig_until(host: &Host, arguments: &str, expected: &str) {
    let start = Instant::now();
    loop {
        let said = dig(host, arguments);
        if said.trim() == expected || (!arguments.contains("+short") && said.contains(expected)) {
            return;
        }
        assert!(start.elapsed() < SOON, "{arguments}: {said}\n is not {expected:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn capabilities(program: &Process) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", program.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    u64::from_str_radix(line.trim(), 16).unwrap()
}

/// A question for the address of the laptop.
fn question(id: u16) -> Vec<u8> {
    let head = [&id.to_be_bytes()[..], &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]].concat();
    [&head[..], b"\x06laptop\x03lan\x00", &[0, 1, 0, 1]].concat()
}

fn socket(host: &Host, from: Ipv4Addr, to: Ipv4Addr) -> UdpSocket {
    let socket = host.udp_bind((from, 0)).unwrap();
    socket.connect((to, 53)).unwrap();
    socket.set_read_timeout(Some(SILENCE)).unwrap();
    socket
}

#[test]
fn dig_finds_members_by_name_and_address_at_the_hub_and_at_a_spoke() {
    if is_missing("dig", "bind9-dnsutils") {
        return;
    }
    let lan = dual();
    let [hub, laptop, desktop] = [lan.net.hub(), lan.net.spoke(0), lan.net.spoke(1)];
    dig_until(laptop, "@10.0.0.2 desktop.lan +short", "10.0.0.3");
    // From the machine itself and from others, by both families and both carriers.
    for (from, server) in [
        (laptop, "@10.0.0.2"),
        (laptop, "@fd00::2"),
        (desktop, "@10.0.0.2"),
        (desktop, "@fd00::2"),
        (desktop, "@10.0.0.1"),
        (desktop, "@fd00::1"),
        (hub, "@10.0.0.1"),
    ] {
        for carrier in ["+notcp", "+tcp"] {
            for (asked, expected) in [
                ("laptop.lan A", "10.0.0.2"),
                ("LAPTOP.lan AAAA", "fd00::2"),
                ("hub.lan A", "10.0.0.1"),
                ("hub.lan AAAA", "fd00::1"),
                ("-x 10.0.0.3", "desktop.lan."),
                ("-x fd00::3", "desktop.lan."),
                ("-x 10.0.0.1", "hub.lan."),
                ("laptop.lan TXT", ""),
            ] {
                let said = dig(from, &format!("{server} {carrier} {asked} +short"));
                assert_eq!(said.trim(), expected, "{server} {carrier} {asked}");
            }
            let missing = dig(from, &format!("{server} {carrier} nobody.lan"));
            assert!(missing.contains("status: NXDOMAIN") && missing.contains("SOA"), "{missing}");
            assert!(missing.contains("flags: qr aa rd"), "{missing}");
            let nothing = dig(from, &format!("{server} {carrier} laptop.lan MX"));
            assert!(
                nothing.contains("status: NOERROR") && nothing.contains("ANSWER: 0, AUTHORITY: 1"),
                "{nothing}"
            );
            for foreign in ["example.org", "-x 192.0.2.1", "lan AXFR +noall +comments"] {
                let refused = dig(from, &format!("{server} {carrier} {foreign}"));
                let is_refused = refused.contains("status: REFUSED") || refused.contains("Transfer failed");
                assert!(is_refused, "{foreign}: {refused}");
            }
        }
    }
    // A hub has bound its port before; a spoke may yet have to.
    assert_eq!(capabilities(&lan.hub), NET_ADMIN | NET_BIND_SERVICE);
    assert_eq!(capabilities(&lan.spokes[0]), NET_ADMIN | NET_BIND_SERVICE);
    assert_eq!(capabilities(&lan.spokes[1]), NET_ADMIN);
}

#[test]
fn who_joins_leaves_or_is_renamed_is_seen() {
    if is_missing("dig", "bind9-dnsutils") {
        return;
    }
    let net = Net::named(&["laptop", "desktop"]).unwrap();
    let lan = Lan::with_options(net, &["--dns", "--zone", "Home.Example.org."], &[&["--dns", "--zone=lab"]])
        .unwrap();
    let (hub, laptop) = (lan.net.hub(), lan.net.spoke(0));
    let both = |name: &str, expected: &str, options: &str| {
        dig_until(laptop, &format!("@10.0.0.2 {name}.lab {options}"), expected);
        dig_until(hub, &format!("@10.0.0.1 {name}.home.example.org {options}"), expected);
    };
    both("laptop", "10.0.0.2", "+short");
    both("desktop", "status: NXDOMAIN", "");
    assert!(dig(laptop, "@10.0.0.2 laptop.lan").contains("status: REFUSED"));
    let desktop = spawn_spoke(&lan.net, &lan.binaries, 1, &[]).unwrap();
    both("desktop", "10.0.0.3", "+short");
    // A member keeps its name while it is away.
    desktop.kill().unwrap();
    lan.hub.wait_for_line("desktop (10.0.0.3) left the LAN", SOON).unwrap();
    both("desktop", "10.0.0.3", "+short");
    let renamed = spawn_spoke(&lan.net, &lan.binaries, 1, &["--name", "tower"]).unwrap();
    renamed.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
    both("tower", "10.0.0.3", "+short");
    both("desktop", "status: NXDOMAIN", "");
    renamed.kill().unwrap();
    lan.hub.wait_for_line("tower (10.0.0.3) left the LAN", SOON).unwrap();
    ask_hub(&lan.net, &["forget", "tower"]).good();
    both("tower", "status: NXDOMAIN", "");
    // The LAN may move to another subnet.
    ask_hub(&lan.net, &["renumber", "10.44.0.0/24"]).good();
    dig_until(laptop, "@10.44.0.1 laptop.home.example.org +short", "10.44.0.2");
    dig_until(hub, "@10.44.0.1 -x 10.44.0.2 +short", "laptop.home.example.org.");
    dig_until(laptop, "@10.44.0.2 laptop.lab +short", "10.44.0.2");
    // A spoke that is off the LAN knows what it knew.
    lan.hub.kill().unwrap();
    lan.spokes[0].wait_for_line("lost the hub", SOON).unwrap();
    dig_until(laptop, "@10.44.0.2 laptop.lab +short", "10.44.0.2");
}

#[test]
fn machines_outside_of_the_lan_are_not_answered() {
    let lan = dual();
    let stranger = lan.net.spoke(2);
    // It sends to the LAN's addresses by the machines that have them, as an attacker beside them may.
    stranger.ip("route add 10.0.0.1/32 via 192.0.2.1\nroute add 10.0.0.2/32 via 192.0.2.10").unwrap();
    let desktop = socket(lan.net.spoke(1), Lan::address(1), Lan::address(0));
    desktop.send(&question(7)).unwrap();
    desktop.recv(&mut [0; 512]).unwrap();
    for server in [Lan::hub_address(), Lan::address(0)] {
        let socket = socket(stranger, Net::spoke_v4(2), server);
        socket.send(&question(7)).unwrap();
        assert!(socket.recv(&mut [0; 512]).is_err(), "{server} answered a stranger");
        let refused = stranger.tcp_connect((server, 53), SOON).and_then(|mut stream| {
            stream.set_read_timeout(Some(SOON))?;
            Ok(stream.read(&mut [0; 1]).unwrap_or(0))
        });
        assert!(matches!(refused, Ok(0) | Err(_)), "{server}: closed at once");
    }
    // Nobody listens on the outer addresses.
    for (from, at) in [(stranger, Net::hub_v4()), (stranger, Net::spoke_v4(0))] {
        assert!(from.tcp_connect((at, 53), SOON).is_err(), "{at}");
    }
}

#[test]
fn hostile_bytes_and_floods_harm_nobody() {
    let lan = dual();
    let (laptop, desktop) = (lan.net.spoke(0), lan.net.spoke(1));
    for server in [Lan::hub_address(), Lan::address(0)] {
        let hostile = socket(desktop, Lan::address(1), server);
        let whole = question(9);
        // A deterministic mess: each byte of a question changed, cut and lengthened.
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0xff;
            hostile.send(&damaged).unwrap();
            hostile.send(&whole[..at]).unwrap();
            let noise = PrivateKey::from_random([at as u8; 32]).public();
            hostile.send(&[&whole[..at], &noise.as_bytes()[..], &vec![at as u8; 40 * at]].concat()).unwrap();
        }
        // More connections than there is room for, silent or with what is no question.
        let at = SocketAddr::from((server, 53));
        let mut held = Vec::new();
        for number in 0..100_u8 {
            let mut stream = desktop.tcp_connect(at, SOON).unwrap();
            // The other end may be gone already.
            let _ = stream.write_all(&[number; 3][..usize::from(number % 4)]);
            held.push(stream);
        }
        // A new connection gets its answer, in pieces and with a second question behind.
        let mut good = desktop.tcp_connect(at, SOON).unwrap();
        good.set_read_timeout(Some(SOON)).unwrap();
        let framed = [&(whole.len() as u16).to_be_bytes()[..], &whole].concat();
        let two = [framed.clone(), framed].concat();
        for piece in two.chunks(7) {
            good.write_all(piece).unwrap();
        }
        for _ in 0..2 {
            let mut len = [0; 2];
            good.read_exact(&mut len).unwrap();
            let mut answer = vec![0; u16::from_be_bytes(len).into()];
            good.read_exact(&mut answer).unwrap();
            assert!(answer[..2] == [0, 9] && answer.ends_with(&[10, 0, 0, 2]), "{answer:?}");
        }
        // A flood is answered in part, whatever its rate.
        let flood = socket(desktop, Lan::address(1), server);
        let start = Instant::now();
        for _ in 0..20_000 {
            // The queue may be full.
            let _ = flood.send(&whole);
        }
        let mut answers = 0;
        while flood.recv(&mut [0; 512]).is_ok() {
            answers += 1;
        }
        let most = 400 + 200 * (start.elapsed().as_secs() + 1);
        assert!(answers > 0 && answers <= most, "{answers} answers in {:?}", start.elapsed());
        // Others are answered meanwhile.
        let own = socket(laptop, Lan::address(0), server);
        own.set_read_timeout(Some(SOON)).unwrap();
        own.send(&whole).unwrap();
        own.recv(&mut [0; 512]).unwrap();
    }
    assert!(lan.hub.is_running() && lan.spokes[0].is_running());
}

#[test]
fn a_port_in_use_is_told_and_tried_again() {
    let net = Net::named(&["laptop"]).unwrap();
    let binaries = house::Binaries::find().unwrap();
    let other = net.spoke(0).udp_bind((Ipv4Addr::UNSPECIFIED, 53)).unwrap();
    let on_hub = net.hub().udp_bind((Ipv4Addr::UNSPECIFIED, 53)).unwrap();
    let refused = net.hub().spawn("hub", &house::hub_command(&net, &binaries, &["--dns"])).unwrap();
    refused
        .wait_for_line("cannot answer for names on 10.0.0.1, port 53: Address already in use", SOON)
        .unwrap();
    assert!(!refused.wait_exit(SOON).unwrap().success());
    drop(on_hub);
    let _hub = house::start_hub(&net, &binaries, &["--dns"]).unwrap();
    let spoke = spawn_spoke(&net, &binaries, 0, &["--dns"]).unwrap();
    let line = "cannot answer for names on 10.0.0.2, port 53: Address already in use";
    spoke.wait_for_line(line, SOON).unwrap();
    let status = ask_spoke(&net, 0, &["status"]).good();
    assert!(status.contains(&format!("problem: {line}")), "{status}");
    drop(other);
    spoke.wait_for_line("answering for names in lan on 10.0.0.2, port 53", Duration::from_secs(20)).unwrap();
    assert!(!ask_spoke(&net, 0, &["status"]).good().contains("problem:"));
}
