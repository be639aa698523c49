//! `spoke check`: what it says of a way that works, and of each thing that can be in the way.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests of IO")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::house::{
    Authority, Binaries, Direction, Lan, Net, Process, SPOKE_ON_LAN, Said, Valid, ask_hub, ask_spoke,
    is_missing, ping, run, spawn_spoke, state, wait_for_port,
};

const SOON: Duration = Duration::from_secs(10);
const LAPTOP: usize = 0;
const OTHER: usize = 1;
const HUB: &str = "192.0.2.1:5678";

struct World {
    hub: Process,
    net: Net,
    binaries: Binaries,
    authority: Authority,
}

impl World {
    /// A hub with TLS on port 443 and all on port 5678, whose name the laptop knows.
    fn new(valid: Valid) -> World {
        let net = Net::named(&["laptop", "other"]).unwrap();
        let (binaries, authority) = (Binaries::find().unwrap(), Authority::new().unwrap());
        let hub = authority.start_hub(&net, &binaries, "DNS:hub.example.org", valid).unwrap();
        net.name_hub(LAPTOP, "hub.example.org").unwrap();
        World { hub, net, binaries, authority }
    }

    fn check(&self, args: &[&str]) -> Said {
        let authority = self.authority.argument("ca.pem");
        let mut all = vec!["check", "--tls-ca", &authority];
        all.extend(args);
        ask_spoke(&self.net, LAPTOP, &all)
    }

    fn hub_key(&self) -> String {
        let text = fs::read_to_string(state(self.net.spoke(LAPTOP), "spoke").join("hubs")).unwrap();
        text.split_whitespace().nth(1).unwrap().to_owned()
    }
}

impl Said {
    /// The line of a check, and whether nothing failed.
    #[track_caller]
    fn line(&self, check: &str) -> &str {
        let is_it = |line: &&str| line.trim_start().split(' ').next() == Some(check);
        self.out
            .lines()
            .find(is_it)
            .unwrap_or_else(|| panic!("no {check}: {}{}", self.out, self.err))
            .trim_start()
    }

    #[track_caller]
    fn is_ok(&self, checks: &[&str]) {
        checks.iter().for_each(|check| assert!(self.line(check).contains("  ok: "), "{}", self.out));
    }

    /// This check failed, for this reason; the last one that was made on its way.
    #[track_caller]
    fn fails_at(&self, check: &str, why: &str) {
        assert_eq!(self.code, Some(1), "{}{}", self.out, self.err);
        let line = self.line(check);
        assert!(line.contains("  FAILED: ") && line.contains(why), "{why}: {}", self.out);
    }
}

/// Something that takes one connection in the hub's or a proxy's place, and answers with these bytes.
fn stand_in(net: &Net, i: usize, port: u16, answer: &'static [u8]) -> JoinHandle<()> {
    let listener = net.spoke(i).tcp_listen((IpAddr::from(Ipv4Addr::UNSPECIFIED), port)).unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 4_096];
        assert!(stream.read(&mut request).unwrap() > 0);
        stream.write_all(answer).unwrap();
        // Until the other end has read it.
        let _ = stream.read(&mut request);
    })
}

/// The address and port of the laptop's link in the list of members.
fn link(members: &str) -> &str {
    members.split_whitespace().find(|word| word.starts_with("192.0.2.10:")).unwrap()
}

#[test]
fn all_is_well_and_nothing_is_joined_or_disturbed() {
    let world = World::new(Valid::Now);
    let members = || ask_hub(&world.net, &["members"]).good();
    let nobody = members();
    let said = world.check(&["--hub", "hub.example.org", "--hub", "wss://hub.example.org/any"]);
    assert_eq!(said.code, Some(0), "{}{}", said.out, said.err);
    said.is_ok(&["dns", "route", "tcp", "tls", "websocket", "hello", "mtu", "clock"]);
    assert_eq!(said.line("dns"), "dns        ok: hub.example.org is 192.0.2.1");
    assert_eq!(said.line("route"), "route      ok: 192.0.2.1 by eth0");
    assert_eq!(said.out.matches("segments of 1448 bytes reach 192.0.2.1").count(), 2, "{}", said.out);
    assert!(said.line("key").contains("not checked: the hub proves the key "), "{}", said.out);
    assert!(said.line("spoke").contains("not checked: nothing runs"), "{}", said.out);
    assert!(said.out.ends_with("the hub can be reached by 2 of 2 ways\n"), "{}", said.out);
    assert!(!state(world.net.spoke(LAPTOP), "spoke").exists(), "it has made a state directory");
    assert_eq!(members(), nobody, "it has joined");

    let spoke = spawn_spoke(&world.net, &world.binaries, LAPTOP, &[]).unwrap();
    spoke.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
    let (mark, before) = (spoke.mark(), members());
    // As many as a person never makes: the hub's limits for those who do not join are far away.
    for _ in 0..20 {
        let said = world.check(&["--hub", HUB]);
        assert_eq!(said.code, Some(0), "{}{}", said.out, said.err);
        said.is_ok(&["dns", "route", "tcp", "hello", "key", "mtu", "lan", "spoke"]);
    }
    let said = world.check(&["--hub", HUB]);
    assert!(said.line("key").contains(", the one remembered in "), "{}", said.out);
    assert!(
        said.line("lan").contains("no network of this machine has addresses of 10.0.0.0/24"),
        "{}",
        said.out
    );
    assert!(
        said.line("spoke").contains("one is on the LAN as 10.0.0.2/24 by 192.0.2.1:5678"),
        "{}",
        said.out
    );
    ping(world.net.spoke(LAPTOP), Lan::hub_address().into(), 1_400, SOON).unwrap();
    assert_eq!(link(&members()), link(&before), "it is another one");
    assert_eq!(spoke.lines().len(), mark, "{:#?}", spoke.lines());
    world.hub.wait_for_line("closed before it joined", SOON).unwrap();

    // A file and the environment count as they do for the spoke itself.
    let file = world.net.spoke(LAPTOP).private().join("settings.toml");
    fs::write(world.net.spoke(LAPTOP).path(&file), format!("hub = [\"{HUB}\", \"192.0.2.1:443\"]\n"))
        .unwrap();
    let of_file = world.check(&["--config", file.to_str().unwrap()]).good();
    assert!(of_file.ends_with("the hub can be reached by 2 of 2 ways\n"), "{of_file}");

    let json = world.check(&["--hub", HUB, "--json"]).good();
    assert!(json.lines().all(|line| line.starts_with("{\"way\":") && line.ends_with('}')), "{json}");
    assert!(json.contains("{\"way\":\"192.0.2.1:5678\",\"check\":\"tcp\",\"result\":\"ok\","), "{json}");
    assert!(json.contains("{\"way\":null,\"check\":\"clock\",\"result\":\"unchecked\","), "{json}");
}

#[test]
fn whoever_is_not_root_is_told_what_root_alone_can_see() {
    let world = World::new(Valid::Now);
    let spoke = spawn_spoke(&world.net, &world.binaries, LAPTOP, &[]).unwrap();
    spoke.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
    let host = world.net.spoke(LAPTOP);
    // Others cannot go to where the programs were built.
    fs::copy(&world.binaries.spoke, host.path(host.private().join("program"))).unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--"]);
    command.arg(host.private().join("program")).args(["check", "--hub", HUB, "--state"]);
    command.arg(host.private().join("spoke"));
    let said = run(host, command);
    assert_eq!(said.code, Some(0), "{}{}", said.out, said.err);
    said.is_ok(&["dns", "route", "tcp", "hello", "mtu"]);
    assert!(said.line("key").contains("not checked: the hub proves the key "), "{}", said.out);
    assert!(said.line("key").ends_with("(try sudo)"), "{}", said.out);
    assert!(said.line("spoke").contains("not checked: "), "{}", said.out);
}

#[test]
fn names_that_do_not_resolve_ports_without_a_hub_and_packets_that_vanish() {
    let world = World::new(Valid::Now);
    world.check(&["--hub", "no.such.invalid"]).fails_at("dns", "cannot find no.such.invalid: ");
    let refused = world.check(&["--hub", "192.0.2.1:1"]);
    refused.fails_at("tcp", "cannot reach 192.0.2.1:1: nothing listens there: is the hub running?");
    refused.is_ok(&["dns", "route"]);
    assert!(refused.out.ends_with("the hub cannot be reached, see FAILED\n"), "{}", refused.out);
    world.check(&["--hub", "198.51.100.1"]).fails_at("route", "no route there (198.51.100.1 by no way)");
    world
        .net
        .hub()
        .nft("table inet drops {\nchain input {\ntype filter hook input priority 0\ntcp dport 5678 drop\n}\n}\n")
        .unwrap();
    let dropped = world.check(&["--hub", HUB, "--hub", "192.0.2.1:443"]);
    assert_eq!(dropped.code, Some(0), "one way is enough: {}", dropped.out);
    assert!(
        dropped
            .line("tcp")
            .contains("FAILED: cannot reach 192.0.2.1:5678: no answer: is the port open on the way?")
    );
    assert!(dropped.out.ends_with("the hub can be reached by 1 of 2 ways\n"), "{}", dropped.out);
    world.check(&["--hub", HUB]).fails_at("tcp", "no answer: is the port open on the way?");
    world.check(&[]).fails_with(2, "say where the hub is");
}

#[test]
fn portals_proxies_that_refuse_and_ssh_in_the_hubs_place() {
    let world = World::new(Valid::Now);
    let hub = format!("{}:8080", Net::spoke_v4(OTHER));
    for (answer, why) in [
        (
            &b"HTTP/1.1 302 Found\r\nLocation: http://portal.example/\r\n\r\n"[..],
            "a captive portal? log in there first",
        ),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "it speaks SSH, not hub & spoke"),
    ] {
        let other = stand_in(&world.net, OTHER, 8080, answer);
        let said = world.check(&["--hub", &hub]);
        said.fails_at("hello", why);
        said.is_ok(&["tcp"]);
        other.join().unwrap();
    }
    let portal =
        stand_in(&world.net, OTHER, 8080, b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<h1>Welcome");
    world.check(&["--hub", &format!("ws://{hub}")]).fails_at("websocket", "or a captive portal answered");
    portal.join().unwrap();
    let proxy = format!("http://ann:secret@{hub}");
    let refusing = stand_in(
        &world.net,
        OTHER,
        8080,
        b"HTTP/1.1 407 No\r\nProxy-Authenticate: Basic realm=\"x\"\r\n\r\n",
    );
    let said = world.check(&["--hub", "hub.example.org", "--proxy", &proxy]);
    said.fails_at("proxy", "does not take this user name and password: check them");
    assert!(said.line("dns").ends_with("this is the proxy, which looks the hub up"), "{}", said.out);
    assert!(!said.out.contains("secret"), "{}", said.out);
    refusing.join().unwrap();
}

#[test]
fn through_a_proxy_the_lines_name_it_and_what_it_connects_to() {
    if is_missing("microsocks", "microsocks") {
        return;
    }
    let world = World::new(Valid::Now);
    let host = world.net.spoke(OTHER);
    let _proxy = host.spawn("microsocks", Command::new("microsocks").args(["-p", "1080"])).unwrap();
    wait_for_port(host, (Ipv4Addr::LOCALHOST, 1080), SOON).unwrap();
    let proxy = format!("socks5://{}", Net::spoke_v4(OTHER));
    let said = world.check(&["--hub", HUB, "--hub", "192.0.2.1:1", "--proxy", &proxy]);
    assert_eq!(said.code, Some(0), "{}{}", said.out, said.err);
    said.is_ok(&["dns", "route", "tcp", "proxy", "hello", "mtu"]);
    let connects = format!("the proxy socks5://{}:1080 connects to {HUB}", Net::spoke_v4(OTHER));
    assert!(said.line("proxy").ends_with(&connects), "{}", said.out);
    assert!(said.line("mtu").contains("bytes reach 192.0.2.11; "), "{}", said.out);
    assert!(said.out.contains("  proxy      FAILED: "), "{}", said.out);
    assert!(
        said.out.contains("was refused by 192.0.2.1:1: is the hub running, and on that port?"),
        "{}",
        said.out
    );
}

#[test]
fn a_certificate_that_has_expired_points_to_the_clock_too() {
    let world = World::new(Valid::Over);
    let said = world.check(&["--hub", "wss://hub.example.org"]);
    said.fails_at(
        "tls",
        "its TLS certificate has expired: have it renewed, and check the clock of this machine",
    );
    assert!(said.line("clock").contains("if it is not, set it"), "{}", said.out);
}

#[test]
fn certificates_are_checked_by_whom_the_settings_trust() {
    let world = World::new(Valid::Now);
    let stranger = Authority::new().unwrap();
    let other = stranger.argument("ca.pem");
    ask_spoke(&world.net, LAPTOP, &["check", "--tls-ca", &other, "--hub", "tls://hub.example.org"])
        .fails_at("tls", "nobody that this system trusts has issued its TLS certificate");
    ask_spoke(&world.net, LAPTOP, &["check", "--tls-ca", "/no/such.pem", "--hub", "tls://hub.example.org"])
        .fails_at("tls", "cannot read /no/such.pem");
}

#[test]
fn another_key_is_an_alarm_whichever_way_it_shows() {
    let world = World::new(Valid::Now);
    let spoke = spawn_spoke(&world.net, &world.binaries, LAPTOP, &[]).unwrap();
    spoke.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
    let right = world.hub_key();
    spoke.kill().unwrap();
    let other = "WY/U9JV7l6nRsxZKzHlwmchStQvgIRzo2OAWB3x0oAY=";
    let said = world.check(&["--hub", HUB, "--hub-key", other]);
    said.fails_at(
        "key",
        &format!("the hub at {HUB} has key {right}, not {other}: someone may be in between"),
    );
    said.is_ok(&["hello", "mtu"]);
    world.check(&["--hub", HUB, "--hub-key", &right]).is_ok(&["key"]);
    let hubs = state(world.net.spoke(LAPTOP), "spoke").join("hubs");
    fs::write(&hubs, format!("{HUB} {other}\n")).unwrap();
    world.check(&["--hub", HUB]).fails_at("key", "or delete its line in ");
    assert_eq!(fs::read_to_string(&hubs).unwrap(), format!("{HUB} {other}\n"), "a check changes nothing");
    fs::write(&hubs, format!("{HUB} x\n")).unwrap();
    let damaged = world.check(&["--hub", HUB]);
    assert!(damaged.line("key").contains("hubs, line 1: "), "{}", damaged.out);
}

#[test]
fn a_lan_that_overlaps_a_network_of_this_machine_is_told_of() {
    let world = World::new(Valid::Now);
    let host = world.net.spoke(LAPTOP);
    host.ip("link add home type veth peer name away\nlink set away up\nlink set home up\naddr add 10.0.0.77/24 dev home").unwrap();
    world
        .check(&["--hub", HUB, "--ip", "10.0.0.2"])
        .fails_at("lan", "10.0.0.0/24, the network of home, share addresses");
    let spoke = spawn_spoke(&world.net, &world.binaries, LAPTOP, &[]).unwrap();
    spoke.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
    let said = world.check(&["--hub", HUB]);
    said.fails_at("lan", "the LAN's 10.0.0.0/24 and 10.0.0.0/24, the network of home, share addresses");
    said.is_ok(&["tcp", "hello", "key", "spoke"]);
}

#[test]
fn a_path_that_loses_full_packets_is_found_and_loss_is_not_taken_for_it() {
    let world = World::new(Valid::Now);
    world.net.lose(5).unwrap();
    for _ in 0..3 {
        let said = world.check(&["--hub", HUB]);
        assert!(!said.line("mtu").contains("FAILED"), "{}", said.out);
    }
    world.net.lose(0).unwrap();
    world.net.lose_longer(LAPTOP, 1_300, Some(Direction::Out)).unwrap();
    let said = world.check(&["--hub", HUB]);
    said.fails_at("mtu", "segments of 1448 bytes to 192.0.2.1 are lost in silence, small ones are not");
    said.is_ok(&["tcp", "hello"]);
}
