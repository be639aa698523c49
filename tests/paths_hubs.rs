//! Links between hubs by each way: TLS, a WebSocket behind a web server, proxies.
//!
//! ```text
//! laptop ─ hub a ═ what lets little pass ═ hub b ─ desk
//! ```

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests of IO")]

use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::house::{
    self, Authority, Binaries, HUB_LISTENS, Host, Net, Process, SPOKE_ON_LAN, Said, Valid, await_true,
    is_missing, make_state, ping_until, run, transfer,
};
use crate::paths_proxy::{HTTP_PORT, SOCKS_PORT, microsocks, tinyproxy};
use crate::paths_web::nginx;

const SOON: Duration = Duration::from_secs(20);
const HUB_NAME: &str = "hub.example.org";
/// The hosts beside that of the first hub.
const SECOND: usize = 0;
const LAPTOP: usize = 1;
const DESK: usize = 2;
const PROXY: usize = 3;
/// None to other machines; what goes to the LAN is in a tunnel.
const NO_TCP_OUTSIDE: &str = "table inet only {\nchain output {\ntype filter hook output priority 0\n\
    ct state new ip daddr 192.0.2.0/24 meta l4proto tcp drop\n}\n}\n";

struct World {
    net: Net,
    binaries: Binaries,
    authority: Authority,
}

impl World {
    /// Of what the second hub's host sends to the first one, only `passes` arrives, and nothing the other way but answers.
    fn new(passes: &str) -> World {
        house::require_tun().unwrap();
        let net = Net::named(&["hub-b", "laptop", "desk", "proxy"]).unwrap();
        let (binaries, authority) = (Binaries::find().unwrap(), Authority::new().unwrap());
        authority.issue("hub", "DNS:hub.example.org", Valid::Now).unwrap();
        (0..4).for_each(|i| net.name_hub(i, HUB_NAME).unwrap());
        net.hub()
            .nft(&format!(
                "table inet only {{\nchain input {{\ntype filter hook input priority 0\n\
                 ip saddr {b} {passes} accept\nip saddr {b} ct state established accept\nip saddr {b} drop\n}}\n\
                 chain output {{\ntype filter hook output priority 0\nip daddr {b} ct state new drop\n}}\n}}\n",
                b = Net::spoke_v4(SECOND)
            ))
            .unwrap();
        make_state(net.hub(), "hub").unwrap();
        make_state(net.spoke(SECOND), "hub").unwrap();
        World { net, binaries, authority }
    }

    fn second(&self) -> &Host {
        self.net.spoke(SECOND)
    }

    fn spawn(&self, host: &Host, words: &[&str]) -> Process {
        let mut command = Command::new(&self.binaries.hub);
        command.args(words).arg("--state").arg(host.private().join("hub"));
        host.spawn(host.name(), &command).unwrap()
    }

    fn start(&self, host: &Host, words: &[&str]) -> Process {
        let hub = self.spawn(host, words);
        hub.wait_for_line(HUB_LISTENS, SOON).unwrap();
        hub
    }

    /// The first hub, with TLS on port 443.
    fn first_by_tls(&self) -> Process {
        let (certificate, key) = (self.authority.argument("hub.pem"), self.authority.argument("hub.key"));
        let words =
            ["--subnet", "10.0.0.0/24", "--listen", "443", "--tls-cert", &certificate, "--tls-key", &key];
        self.start(self.net.hub(), &words)
    }

    fn ask(&self, host: &Host, words: &[&str]) -> Said {
        let mut command = Command::new(&self.binaries.hub);
        command.args(words).arg("--state").arg(host.private().join("hub"));
        run(host, command)
    }

    /// The words that the first hub, reached at `place`, says to run at the second one.
    fn invited(&self, place: &str) -> Vec<String> {
        self.invited_by(self.net.hub(), place, "hub-b")
    }

    fn invited_by(&self, hub: &Host, place: &str, name: &str) -> Vec<String> {
        let line = self.ask(hub, &["invite", name, "--hub", "--host", place]).good();
        line.trim().strip_prefix("hub ").unwrap().split(' ').map(str::to_owned).collect()
    }

    /// The link to the first hub, which is at `place`, as the second one has it.
    fn link(&self, place: &str) -> Option<Value> {
        self.link_of(self.second(), place)
    }

    fn link_of(&self, hub: &Host, place: &str) -> Option<Value> {
        let status: Value = serde_json::from_str(&self.ask(hub, &["status", "--json"]).good()).unwrap();
        let hubs = status["hubs"].as_array().unwrap().clone();
        hubs.into_iter().find(|hub| hub["place"] == place).filter(|hub| hub["link"].is_object())
    }

    fn spoke(&self, i: usize, words: &[&str]) -> Process {
        let host = self.net.spoke(i);
        let mut command = Command::new(&self.binaries.spoke);
        command.args(words).arg("--state").arg(host.private().join("spoke"));
        let spoke = host.spawn(host.name(), &command).unwrap();
        spoke.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
        spoke
    }

    /// A spoke at each hub; the first one's is at `first`.
    fn spokes(&self, first: &[&str]) -> [Process; 2] {
        let at_second = format!("{}:5678", Net::spoke_v4(SECOND));
        let words = [&["--hub"], first, &["--ip", "10.0.0.2"]].concat();
        [self.spoke(LAPTOP, &words), self.spoke(DESK, &["--hub", &at_second, "--ip", "10.0.0.3"])]
    }

    /// They reach each other, and bytes come through whole.
    fn works(&self) {
        let (laptop, desk) = (self.net.spoke(LAPTOP), self.net.spoke(DESK));
        let [at_laptop, at_desk] = ["10.0.0.2", "10.0.0.3"].map(|ip| ip.parse::<IpAddr>().unwrap());
        ping_until(laptop, at_desk, SOON).unwrap();
        ping_until(desk, at_laptop, SOON).unwrap();
        transfer(laptop, desk, at_desk, 3_000_000).unwrap().finish().unwrap();
        transfer(desk, laptop, at_laptop, 3_000_000).unwrap().finish().unwrap();
    }
}

fn words(all: &[String]) -> Vec<&str> {
    all.iter().map(String::as_str).collect()
}

#[test]
fn a_hub_joins_and_links_where_only_tls_passes() {
    let world = World::new("tcp dport 443");
    let _first = world.first_by_tls();
    let line = world.invited("tls://hub.example.org");
    let by_tls = "tls://hub.example.org:443";
    // Whom the system trusts has not issued that certificate.
    let untrusted = world.spawn(world.second(), &words(&line));
    let said = untrusted.wait_for_line("ERROR", SOON).unwrap();
    assert!(said.contains(&format!("cannot join through {by_tls}: ")) && said.contains("--tls-ca"), "{said}");
    assert_eq!(untrusted.wait_exit(SOON).unwrap().code(), Some(1));

    let ca = world.authority.argument("ca.pem");
    let line = [words(&line), vec!["--tls-ca", &ca]].concat();
    let second = world.start(world.second(), &line);
    await_true("a link by TLS", SOON, || world.link(by_tls).is_some());
    let _spokes = world.spokes(&["192.0.2.1:443"]);
    world.works();

    // It starts again with what it has written, in its sandbox.
    second.kill().unwrap();
    let second = world.start(world.second(), &line);
    await_true("a link by TLS again", SOON, || world.link(by_tls).is_some());
    world.works();
    let lines = second.lines();
    assert!(!lines.iter().any(|line| line.contains("no link to the hub")), "{lines:#?}");
}

#[test]
fn a_hub_links_by_a_websocket_behind_nginx_and_comes_back_after_it() {
    if is_missing("nginx", "nginx-light") {
        return;
    }
    let world = World::new("tcp dport 443");
    let server = nginx(world.net.hub(), &world.authority);
    let _first = world.start(world.net.hub(), &["--subnet", "10.0.0.0/24", "--listen", "127.0.0.1:5678"]);
    let line = world.invited("wss://hub.example.org/lan");
    let ca = world.authority.argument("ca.pem");
    let second = world.start(world.second(), &[words(&line), vec!["--tls-ca", &ca]].concat());
    let by_web = "wss://hub.example.org:443/lan";
    await_true("a link by a WebSocket", SOON, || world.link(by_web).is_some());
    let _spokes = world.spokes(&["wss://hub.example.org/lan", "--tls-ca", &ca]);
    world.works();

    server.kill().unwrap();
    let why = second.wait_for_line("no link to the hub", SOON).unwrap();
    assert!(why.contains(&format!("cannot reach {by_web}: nothing listens there")), "{why}");
    assert!(world.link(by_web).is_none());
    let _server = nginx(world.net.hub(), &world.authority);
    await_true("a link by a WebSocket again", SOON, || world.link(by_web).is_some());
    world.works();
}

#[test]
fn a_hub_links_through_proxies_which_it_waits_for_and_never_passes_by() {
    if is_missing("tinyproxy", "tinyproxy-bin") || is_missing("microsocks", "microsocks") {
        return;
    }
    let world = World::new("tcp dport 9");
    let _first = world.start(world.net.hub(), &["--subnet", "10.0.0.0/24"]);
    let host = world.net.spoke(PROXY);
    let at = Net::spoke_v4(PROXY);
    let http = (format!("http://ann:secret@{at}:{HTTP_PORT}"), format!("http://{at}:{HTTP_PORT}"));
    let socks = (format!("socks5://ann:secret@{at}:{SOCKS_PORT}"), format!("socks5://{at}:{SOCKS_PORT}"));
    let start = |is_socks: bool| match is_socks {
        false => tinyproxy(host, "BasicAuth ann secret\n"),
        true => microsocks(host, &["-u", "ann", "-P", "secret"]),
    };
    // The proxy looks the name up.
    let line = world.invited(HUB_NAME);
    let place = format!("{HUB_NAME}:5678");
    let mut spokes = None;
    for ((url, shown), is_socks) in [(http, false), (socks, true)] {
        let proxy = start(is_socks);
        let second = world.start(world.second(), &[words(&line), vec!["--proxy", &url]].concat());
        await_true("a link through the proxy", SOON, || world.link(&place).is_some());
        spokes.get_or_insert_with(|| world.spokes(&["192.0.2.1"]));
        world.works();
        proxy.kill().unwrap();
        let why = second.wait_for_line("no link to the hub", SOON).unwrap();
        assert!(why.contains(&format!("cannot reach the proxy {shown}: nothing listens there")), "{why}");
        let proxy = start(is_socks);
        await_true("a link through the proxy again", SOON, || world.link(&place).is_some());
        world.works();
        let lines = second.lines().join("\n");
        assert!(!lines.contains("secret"), "{lines}");
        second.kill().unwrap();
        proxy.kill().unwrap();
    }
}

#[test]
fn hubs_link_where_only_pings_pass_one_to_two_others_and_come_back() {
    let world = World::new("meta l4proto icmp");
    let (at_first, at_second) = (Net::hub_v4(), Net::spoke_v4(SECOND));
    let (to_first, to_second) = (format!("icmp://{at_first}"), format!("icmp://{at_second}"));
    let start_first = || world.start(world.net.hub(), &["--subnet", "10.0.0.0/24", "--icmp"]);
    let first = start_first();
    let line = world.invited(&to_first);
    assert_eq!(line[..2], ["--join", &to_first]);
    let second = world.start(world.second(), &[words(&line), vec!["--icmp"]].concat());
    await_true("a link by pings", SOON, || world.link(&to_first).is_some());
    // The third one reaches both by pings, through the same sockets.
    let third = world.net.spoke(PROXY);
    for host in [third, world.net.spoke(LAPTOP)] {
        host.nft(NO_TCP_OUTSIDE).unwrap();
    }
    make_state(third, "hub").unwrap();
    let line = world.invited_by(world.second(), &to_second, "hub-c");
    let _third = world.start(third, &words(&line));
    let both = || [&to_first, &to_second].iter().all(|place| world.link_of(third, place).is_some());
    await_true("two links by pings", SOON, both);
    // A spoke that goes by pings itself is told of hubs that it reaches so.
    let laptop = world.spoke(LAPTOP, &["--hub", &to_first, "--ip", "10.0.0.2"]);
    let desk_at = |hub: Ipv4Addr| world.spoke(DESK, &["--hub", &hub.to_string(), "--ip", "10.0.0.3"]);
    let desk = desk_at(at_second);
    world.works();
    desk.kill().unwrap();
    let _desk = desk_at(Net::spoke_v4(PROXY));
    world.works();

    let mark = laptop.mark();
    first.kill().unwrap();
    second.wait_for_line("no link to the hub", SOON).unwrap();
    let line = laptop.wait_for_line_after(mark, SPOKE_ON_LAN, SOON).unwrap();
    assert!(line.ends_with(&format!("through pings to {at_second}")), "{line}");
    world.works();
    let _first = start_first();
    await_true("two links by pings again", SOON, both);
    world.works();
}
