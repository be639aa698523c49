//! TLS and WebSocket on the hub's own port: who gets in by which, certificates, and unauthenticated peers.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests of IO")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::IpAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::house::{
    Authority, Binaries, Lan, Net, Process, SPOKE_ON_LAN, Valid, ask_hub, ask_spoke, ping, transfer,
};
use nix::sys::signal::Signal;

const SOON: Duration = Duration::from_secs(10);
/// The longest pause between two attempts is 10 s.
const BACK: Duration = Duration::from_secs(25);
/// Half-open links end after 5 s.
const DEADLINE: Duration = Duration::from_secs(7);
const LAPTOP: usize = 0;

struct World {
    hub: Process,
    net: Net,
    binaries: Binaries,
    authority: Authority,
}

impl World {
    /// A hub with TLS on the ports 443 and 5678, and laptops that know its name.
    fn new(spokes: usize, names: &str, valid: Valid) -> World {
        let net = Net::new(spokes).unwrap();
        let (binaries, authority) = (Binaries::find().unwrap(), Authority::new().unwrap());
        let hub = authority.start_hub(&net, &binaries, names, valid).unwrap();
        (0..spokes).for_each(|i| net.name_hub(i, "hub.example.org other.example.org").unwrap());
        World { hub, net, binaries, authority }
    }

    fn spoke(&self, i: usize, hub: &str) -> Process {
        let authority = self.authority.argument("ca.pem");
        self.spoke_with(i, hub, &["--tls-ca", &authority])
    }

    fn spoke_with(&self, i: usize, hub: &str, options: &[&str]) -> Process {
        let host = self.net.spoke(i);
        let mut command = Command::new(&self.binaries.spoke);
        command.args(["--hub", hub, "--ip", &Lan::address(i).to_string(), "--state"]);
        command.arg(host.private().join("spoke")).args(options);
        host.spawn(host.name(), &command).unwrap()
    }

    /// What this end of TLS is told who asks for a page.
    fn page(&self) -> String {
        let host = self.net.spoke(LAPTOP);
        let address = format!("{}:443", Net::hub_v4());
        let mut command = Command::new("sh");
        command.args([
            "-c",
            "printf 'GET / HTTP/1.1\\r\\nHost: hub\\r\\n\\r\\n' | openssl s_client -quiet -connect \"$0\" 2>/dev/null",
            &address,
        ]);
        String::from_utf8(host.run(move || command.output()).unwrap().stdout).unwrap()
    }
}

#[test]
fn one_port_serves_plain_spokes_tls_websockets_and_browsers() {
    let world = World::new(4, "DNS:hub.example.org", Valid::Now);
    world.hub.wait_for_line("listening on [::]:443 and [::]:5678; the LAN is", SOON).unwrap();
    world.hub.wait_for_line("open: anyone who reaches ports 443 and 5678 can join", SOON).unwrap();
    let ways =
        ["192.0.2.1:443", "tls://hub.example.org", "wss://hub.example.org/any", "ws://hub.example.org:5678"];
    let spokes: Vec<Process> = ways.iter().enumerate().map(|(i, way)| world.spoke(i, way)).collect();
    let hub = world.net.hub();
    for (i, spoke) in spokes.iter().enumerate() {
        spoke.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
        let host = world.net.spoke(i);
        ping(host, Lan::hub_address().into(), 1_400, SOON).unwrap();
        transfer(host, hub, Lan::hub_address().into(), 5_000_000).unwrap().finish().unwrap();
        transfer(hub, host, Lan::address(i).into(), 5_000_000).unwrap().finish().unwrap();
    }
    for (from, to) in [(0, 1), (1, 2), (2, 3), (3, 0)] {
        let to_address: IpAddr = Lan::address(to).into();
        let (from, to) = (world.net.spoke(from), world.net.spoke(to));
        transfer(from, to, to_address, 5_000_000).unwrap().finish().unwrap();
    }
    let status = ask_spoke(&world.net, 2, &["status"]).good();
    assert!(status.contains("hub wss://hub.example.org:443/any, key "), "{status}");
    assert!(world.page().starts_with("HTTP/1.1 404 Not Found\r\n"), "{}", world.page());
    let mut browser = world.net.spoke(0).tcp_connect((Net::hub_v4(), 5678), SOON).unwrap();
    browser.write_all(b"GET / HTTP/1.1\r\nHost: hub\r\n\r\n").unwrap();
    let mut page = String::new();
    browser.read_to_string(&mut page).unwrap();
    assert!(page.starts_with("HTTP/1.1 404 Not Found\r\n"), "{page}");
    // Links of all kinds end in order.
    for spoke in &spokes {
        spoke.signal(Signal::SIGTERM).unwrap();
        assert!(spoke.wait_exit(SOON).unwrap().success());
    }
}

#[test]
fn a_certificate_that_will_not_do_is_told_of_and_one_that_is_renewed_helps_at_once() {
    let world = World::new(1, "DNS:hub.example.org", Valid::Over);
    let said = |hub: &str, options: &[&str], why: &str| {
        let spoke = world.spoke_with(LAPTOP, hub, options);
        let line = spoke.wait_for_line(&format!("cannot join through {hub}:443: "), SOON).unwrap();
        assert!(line.contains(why), "{line}");
        spoke
    };
    let authority = world.authority.argument("ca.pem");
    let trusting = ["--tls-ca", authority.as_str()];
    let waiting =
        said("wss://hub.example.org", &trusting, "its TLS certificate has expired: have it renewed");
    waiting.wait_for_line("on the LAN", Duration::ZERO).unwrap_err();

    // What cannot be used changes nothing.
    fs::write(world.authority.path("hub.pem"), "not PEM").unwrap();
    ask_hub(&world.net, &["reload"])
        .fails("hub.pem holds no certificate in PEM; links still get the TLS certificate");
    world.hub.signal(Signal::SIGHUP).unwrap();
    let warning = world.hub.wait_for_line("holds no certificate in PEM; links still get", SOON).unwrap();
    assert!(warning.contains("WARN"), "{warning}");

    world.authority.issue("hub", "DNS:hub.example.org", Valid::Now).unwrap();
    let answer = ask_hub(&world.net, &["reload"]).good();
    assert!(answer.contains("new links get the TLS certificate in "), "{answer}");
    let line = waiting.wait_for_line(SPOKE_ON_LAN, BACK).unwrap();
    assert!(line.contains("192.0.2.1:443"), "{line}");

    // The link outlives what happens to the files.
    fs::remove_file(world.authority.path("hub.key")).unwrap();
    ask_hub(&world.net, &["reload"]).fails("hub.key");
    ping(world.net.spoke(LAPTOP), Lan::hub_address().into(), 56, SOON).unwrap();
    waiting.kill().unwrap();

    said("tls://other.example.org", &trusting, "is for another host (");
    said("tls://192.0.2.1", &trusting, "is for another host (");
    let stranger = Authority::new().unwrap();
    let stranger = stranger.argument("ca.pem");
    said("wss://hub.example.org", &["--tls-ca", &stranger], "nobody that this system trusts has issued");
    let missing = world.spoke_with(LAPTOP, "wss://hub.example.org", &["--tls-ca", "/no/such.pem"]);
    missing.wait_for_line("cannot read /no/such.pem", SOON).unwrap();
    assert!(!missing.wait_exit(SOON).unwrap().success());
}

#[test]
fn a_slow_tls_handshake_ends_as_a_slow_hello_does() {
    let world = World::new(1, "DNS:hub.example.org", Valid::Now);
    let host = world.net.spoke(LAPTOP);
    let start = Instant::now();
    // The head of a record of 512 bytes, and then one of them now and then.
    let mut slow = host.tcp_connect((Net::hub_v4(), 443), SOON).unwrap();
    slow.write_all(&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]).unwrap();
    // Whoever finishes the TLS handshake, and is silent then.
    let mut command = Command::new("openssl");
    command.args(["s_client", "-quiet", "-connect", &format!("{}:443", Net::hub_v4())]);
    let silent = host.spawn("openssl", &command).unwrap();
    let mut said = [0];
    slow.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    loop {
        match slow.read(&mut said) {
            Ok(0) => break,
            Ok(_) => panic!("an answer to half a handshake"),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                // The hub may have closed it.
                let _ = slow.write_all(&[0]);
            }
            Err(_) => break,
        }
        assert!(start.elapsed() < DEADLINE, "it may go on");
    }
    assert!(start.elapsed() > Duration::from_secs(4), "it had no time");
    silent.wait_exit(DEADLINE).unwrap();
    // A flood from one address has its share, whatever it speaks.
    let flood: Vec<_> = (0..200)
        .map(|_| {
            let mut one = host.tcp_connect((Net::hub_v4(), 443), SOON).unwrap();
            let _ = one.write_all(&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]);
            one
        })
        .collect();
    let status = ask_hub(&world.net, &["status", "--json"]).good();
    let half_open = status.split("\"half_open\":").nth(1).unwrap();
    let half_open: usize = half_open[..half_open.find(',').unwrap()].parse().unwrap();
    assert!((1..=128).contains(&half_open), "{half_open} of {}", flood.len());
    let spoke = world.spoke(LAPTOP, "wss://hub.example.org");
    spoke.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
    world.hub.wait_for_line("closed before it joined", SOON).unwrap();
}
