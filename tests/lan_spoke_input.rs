//! What a spoke says to a machine, a command line or a far end that it can't work with.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests of IO")]

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use common::node::state::random;
use common::queue::Buf;
use common::wire::frame::{ControlFrame, Welcome};
use common::wire::hello::{HELLO_LEN, hello};
use common::wire::noise::{Handshake, LENGTH_LEN, MAX_RECORD, Role};
use ipnetwork::IpNetwork;
use nix::mount::{MsFlags, mount};

use crate::house::wire::random_key;
use crate::house::{Binaries, Host, Lan, Net, Process, SPOKE_ON_LAN, start_hub, state};

const SOON: Duration = Duration::from_secs(5);
const BACK: Duration = Duration::from_secs(20);

#[test]
fn arguments_that_cannot_be_are_refused() {
    let host = Host::new("spoke").unwrap();
    let hub = "192.0.2.1:5678";
    for (arguments, part) in [
        (&[][..], "--hub"),
        (&["--hub", ""], "--hub"),
        (&["--hub", "192.0.2.1:70000"], "--hub"),
        (&["--hub", "192.0.2.1:"], "--hub"),
        (&["--hub", "[2001:db8::1"], "--hub"),
        (&["--hub", hub, "--ip", "ten"], "--ip"),
        (&["--hub", hub, "--ip", "10.0.0.2/24"], "--ip"),
        (&["--hub", hub, "--name", "no spaces"], "--name"),
        (&["--hub", hub, "--name", ""], "--name"),
        (&["--hub", hub, "--hub-key", "short"], "--hub-key"),
        (&["--hub", hub, "--tun", "a-name-that-is-too-long"], "--tun"),
        (&["--hub", hub, "--frobnicate"], "--frobnicate"),
    ] {
        fails(&host, &spoke(arguments), &[part]);
    }
}

#[test]
fn without_the_right_or_the_device_it_says_so() {
    let net = Net::new(1).unwrap();
    let binaries = Binaries::find().unwrap();
    let _hub = start_hub(&net, &binaries, &[]).unwrap();
    let host = net.spoke(0);
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set=-net_admin", "--"]).arg(&binaries.spoke).args(["--hub", "192.0.2.1"]);
    fails(host, &command, &["root"]);

    host.ip("link add spoke0 type veth peer name other").unwrap();
    let program = host.spawn("spoke", &spoke(&["--hub", "192.0.2.1"])).unwrap();
    assert_ne!(program.wait_exit(SOON).unwrap().code(), Some(0));
    let line = program.wait_for_line("spoke0", SOON).unwrap();
    assert!(line.contains("--tun"), "{line}");
    host.ip("link del spoke0").unwrap();

    let nothing = None::<&Path>;
    host.run(move || mount(Some("tmpfs"), "/dev/net", Some("tmpfs"), MsFlags::empty(), nothing)).unwrap();
    fails(host, &spoke(&["--hub", "192.0.2.1"]), &["/dev/net/tun", "modprobe tun"]);
}

#[test]
fn damaged_state_is_named_and_left_alone() {
    let lan = Lan::new(1).unwrap();
    lan.spokes[0].kill().unwrap();
    let host = lan.net.spoke(0);
    let directory = state(host, "spoke");
    let command = spoke(&["--hub", "192.0.2.1"]);

    let hubs = directory.join("hubs");
    let text = format!("{}nonsense\n", fs::read_to_string(&hubs).unwrap());
    fs::write(&hubs, &text).unwrap();
    fails(host, &command, &["hubs", &format!("line {}", text.lines().count())]);
    assert_eq!(fs::read_to_string(&hubs).unwrap(), text);
    fs::remove_file(&hubs).unwrap();

    let key = directory.join("key");
    fs::write(&key, "nonsense\n").unwrap();
    fails(host, &command, &["key", "line 1"]);
    assert_eq!(fs::read_to_string(&key).unwrap(), "nonsense\n");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
    fails(host, &command, &["chmod 600"]);
}

#[test]
fn a_hub_that_does_not_answer_is_told_and_tried_again() {
    let net = Net::new(4).unwrap();
    let binaries = Binaries::find().unwrap();
    // Nobody listens; the host does not exist; the name does not; the path is silent.
    net.spoke(2).set_file("/etc/hosts", "127.0.0.1 localhost\n").unwrap();
    net.cut(3).unwrap();
    let programs = ["192.0.2.1", "192.0.2.99", "no-such-name.invalid", "192.0.2.1"];
    let programs =
        [0, 1, 2, 3].map(|i| net.spoke(i).spawn("spoke", &spoke(&["--hub", programs[i]])).unwrap());
    for (program, part) in programs.iter().zip([
        "cannot reach 192.0.2.1:5678: nothing listens there",
        "cannot reach 192.0.2.99:5678: ",
        "cannot find no-such-name.invalid: ",
        "cannot reach 192.0.2.1:5678: no answer",
    ]) {
        program.wait_for_line(part, BACK).unwrap();
        assert!(program.is_running(), "{:#?}", program.lines());
    }
    // They get in as soon as there is a hub and a path.
    let _hub = start_hub(&net, &binaries, &[]).unwrap();
    net.mend(3).unwrap();
    for i in [0, 3] {
        programs[i].wait_for_line(SPOKE_ON_LAN, BACK).unwrap();
    }
}

#[test]
fn strangers_are_told_apart() {
    let net = Net::new(1).unwrap();
    let greetings: [(&[u8], &str); 7] = [
        (b"", "something on the way cut the connection at our first bytes"),
        (
            b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n",
            "speaks HTTP, not hub & spoke; a captive portal?",
        ),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "SSH"),
        (b"\x15\x03\x01\x00\x02\x02\x46", "TLS"),
        (b"hub&spk\x02", "version 2"),
        (b"220 mail.example ESMTP\r\n", "does not speak"),
        (&[0; 64], "does not speak"),
    ];
    for (greeting, part) in greetings {
        let listener = net.hub().tcp_listen(([0, 0, 0, 0], 0)).unwrap();
        let hub = format!("192.0.2.1:{}", listener.local_addr().unwrap().port());
        answer(listener, greeting);
        let program = net.spoke(0).spawn("spoke", &spoke(&["--hub", &hub])).unwrap();
        program.wait_for_line(part, SOON).unwrap();
        assert_no_panic(&program);
    }
}

#[test]
fn a_hub_that_grants_more_than_a_lan_is_not_followed() {
    let net = Net::new(1).unwrap();
    // Each has a key of its own, and so needs a port of its own: the spoke remembers.
    for (port, address, mtu, part) in [
        (5_001, "10.0.0.2/0", 1_500, "no host on a LAN"),
        (5_002, "64.0.0.2/2", 1_500, "no host on a LAN"),
        (5_003, "8.8.8.9/24", 1_500, "--accept-route 8.8.8.0/24"),
        (5_004, "10.0.0.2/24", 0, "packets of 0 bytes"),
        (5_005, "10.0.0.2/24", u32::MAX, "packets of 4294967295 bytes"),
    ] {
        let listener = net.hub().tcp_listen(([0, 0, 0, 0], port)).unwrap();
        let hub = format!("192.0.2.1:{port}");
        let addresses = vec![address.parse().unwrap()];
        let welcome = Welcome { addresses, ..Welcome::new("a".parse().unwrap(), mtu) };
        let played = thread::spawn(move || tell(&listener, &[ControlFrame::Welcome(welcome)]));
        let command = spoke(&["--hub", &hub]);
        let program = net.spoke(0).spawn("spoke", &command).unwrap();
        assert_eq!(program.wait_exit(SOON).unwrap().code(), Some(1), "{address}");
        program.wait_for_line(part, SOON).unwrap();
        assert_no_panic(&program);
        played.join().unwrap();
    }
}

#[test]
fn a_hub_that_tells_routes_without_end_fills_neither_table_nor_log() {
    let net = Net::new(1).unwrap();
    let listener = net.hub().tcp_listen(([0, 0, 0, 0], 5678)).unwrap();
    let addresses = vec!["10.0.0.2/24".parse().unwrap()];
    let welcome = Welcome { addresses, ..Welcome::new("a".parse().unwrap(), 1_500) };
    let mut controls = vec![ControlFrame::Welcome(welcome)];
    for part in 0..60 {
        let prefix = |number: u32| IpNetwork::from(IpAddr::V4(Ipv4Addr::from_bits(0x0800_0000 + number)));
        let added = (part * 1_000..(part + 1) * 1_000).map(prefix).collect();
        controls.push(ControlFrame::Routes { added, removed: vec![], all: true });
    }
    let played = thread::spawn(move || tell(&listener, &controls));
    let program = net.spoke(0).spawn("spoke", &spoke(&["--hub", "192.0.2.1"])).unwrap();
    program.wait_for_line("the hub announces more than 50000 routes", BACK).unwrap();
    let explained =
        program.lines().iter().filter(|line| line.contains("is rejected: it is not private")).count();
    assert_eq!(explained, 10);
    // Of all that is announced so many are looked at.
    program.wait_for_line("routes are not taken: 990 more times", BACK).unwrap();
    program.kill().unwrap();
    played.join().unwrap();
}

/// Plays the hub for one spoke: lets it in and tells it this, and waits until it closes.
fn tell(listener: &TcpListener, controls: &[ControlFrame]) {
    let (mut stream, _) = listener.accept().unwrap();
    let mut handshake = Handshake::new(Role::Hub, &random_key().unwrap(), random().unwrap());
    stream.read_exact(&mut [0; HELLO_LEN]).unwrap();
    handshake.read(&read_message(&mut stream)).unwrap();
    let mut answer = hello().to_vec();
    handshake.write(&[], &mut answer).unwrap();
    stream.write_all(&answer).unwrap();
    handshake.read(&read_message(&mut stream)).unwrap();
    let (mut sealer, _) = handshake.finish().unwrap();
    for control in controls {
        let (mut frame, mut record) = (Vec::new(), Buf::with_capacity(LENGTH_LEN + MAX_RECORD));
        control.encode(&mut frame);
        sealer.seal(&frame, &mut record).unwrap();
        stream.write_all(&record).unwrap();
    }
    // The spoke may have more to say before it goes, or reset the connection.
    let _ = stream.read_to_end(&mut Vec::new());
}

fn read_message(stream: &mut TcpStream) -> Vec<u8> {
    let mut length = [0; LENGTH_LEN];
    stream.read_exact(&mut length).unwrap();
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message).unwrap();
    message
}

#[test]
fn a_mute_far_end_is_given_up_in_time() {
    let net = Net::new(1).unwrap();
    let listener = net.hub().tcp_listen(([0, 0, 0, 0], 0)).unwrap();
    let hub = format!("192.0.2.1:{}", listener.local_addr().unwrap().port());
    let program = net.spoke(0).spawn("spoke", &spoke(&["--hub", &hub])).unwrap();
    let (_mute, _) = listener.accept().unwrap();
    program.wait_for_line("within 5 s", 2 * SOON).unwrap();
    // It tries again.
    listener.accept().unwrap();
}

fn spoke(arguments: &[&str]) -> Command {
    let mut command = Command::new(Binaries::find().unwrap().spoke);
    command.args(arguments);
    command
}

/// The program ends by itself, with a code that is not zero and one line with all `parts`, and no device is
/// left.
fn fails(host: &Host, command: &Command, parts: &[&str]) {
    let program = host.spawn("spoke", command).unwrap();
    let status = program.wait_exit(SOON).unwrap();
    let lines = program.lines();
    assert!(status.code().is_some_and(|code| code != 0), "{command:?}: {status}");
    let said = lines.iter().any(|line| parts.iter().all(|part| line.contains(part)));
    assert!(said, "{command:?}: no line with {parts:?} in {lines:#?}");
    assert!(lines.len() <= 3, "{lines:#?}");
    assert_no_panic(&program);
    let interfaces = host.run(|| fs::read_to_string("/proc/thread-self/net/dev")).unwrap();
    assert!(!interfaces.contains("spoke0"), "{command:?} has left {interfaces}");
}

fn assert_no_panic(program: &Process) {
    let lines = program.lines();
    assert!(!lines.iter().any(|line| line.contains("panicked")), "{lines:#?}");
}

/// Greets everyone who connects, for as long as this process lives.
fn answer(listener: TcpListener, greeting: &'static [u8]) {
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            // The spoke may have gone.
            let _ = stream.write_all(greeting);
            let _ = stream.read(&mut [0; 4096]);
        }
    });
}
