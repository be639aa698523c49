//! Through proxies of others to the hub: HTTP CONNECT (tinyproxy) and SOCKS5 (microsocks).
//!
//! ```text
//!   laptop ──▶ proxy ──▶ hub       the hub's host drops what comes from the laptop itself, and counts it
//! ```

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests of IO")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::time::Duration;

use crate::house::{
    Binaries, Host, Lan, Net, Process, SPOKE_ON_LAN, ask_hub, ask_spoke, is_missing, ping, spoke_command,
    start_hub, transfer, wait_for_port,
};

const SOON: Duration = Duration::from_secs(10);
/// The longest pause between two attempts is 10 s.
const BACK: Duration = Duration::from_secs(25);
const LAPTOP: usize = 0;
const DESKTOP: usize = 1;
const PROXY: usize = 2;
pub(crate) const HTTP_PORT: u16 = 3128;
pub(crate) const SOCKS_PORT: u16 = 1080;
/// The name that only the proxy can resolve.
const HUB_NAME: &str = "hub.example.org";

struct World {
    hub: Process,
    net: Net,
    binaries: Binaries,
}

impl World {
    fn new() -> World {
        let net = Net::named(&["laptop", "desktop", "proxy"]).unwrap();
        let binaries = Binaries::find().unwrap();
        let hub = start_hub(&net, &binaries, &[]).unwrap();
        let laptop = Net::spoke_v4(LAPTOP);
        net.hub()
            .nft(&format!(
                "table inet only {{\nchain input {{\ntype filter hook input priority 0\n\
                 ip saddr {laptop} tcp dport 5678 counter drop\n}}\n}}\n"
            ))
            .unwrap();
        net.name_hub(PROXY, HUB_NAME).unwrap();
        World { hub, net, binaries }
    }

    fn proxy(&self) -> &Host {
        self.net.spoke(PROXY)
    }

    fn spoke(&self, i: usize, options: &[&str]) -> Process {
        self.spoke_with(i, options, &[])
    }

    fn spoke_with(&self, i: usize, options: &[&str], variables: &[(&str, &str)]) -> Process {
        let mut command = spoke_command(&self.net, &self.binaries, i, options);
        command.envs(variables.iter().copied());
        let host = self.net.spoke(i);
        host.spawn(host.name(), &command).unwrap()
    }

    /// A laptop that knows the hub by a name, which it cannot look up itself.
    fn spoke_by_name(&self, options: &[&str]) -> Process {
        let host = self.net.spoke(LAPTOP);
        let mut command = Command::new(&self.binaries.spoke);
        command.args(["--hub", HUB_NAME, "--ip", "10.0.0.2", "--state"]).arg(host.private().join("spoke"));
        host.spawn(host.name(), command.args(options)).unwrap()
    }

    /// What the laptop has sent to the hub's port itself.
    fn passed_by(&self) -> String {
        let mut command = Command::new("nft");
        command.args(["list", "table", "inet", "only"]);
        let said = String::from_utf8(self.net.hub().output(command).unwrap().stdout).unwrap();
        said.lines().find(|line| line.contains("counter")).unwrap().trim().to_owned()
    }

    /// The laptop is on the LAN, by the proxy alone, and bytes come through whole.
    fn works(&self, spoke: &Process, proxy: &str) {
        let line = spoke.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
        assert!(line.ends_with(&format!("through the proxy {proxy}")), "{line}");
        let (laptop, hub) = (self.net.spoke(LAPTOP), self.net.hub());
        ping(laptop, Lan::hub_address().into(), 1_400, SOON).unwrap();
        transfer(laptop, hub, Lan::hub_address().into(), 3_000_000).unwrap().finish().unwrap();
        transfer(hub, laptop, Lan::address(LAPTOP).into(), 3_000_000).unwrap().finish().unwrap();
        let status = ask_spoke(&self.net, LAPTOP, &["status"]).good();
        assert!(status.contains(&format!(":5678 through the proxy {proxy}\n")), "{status}");
        let members = ask_hub(&self.net, &["status"]).good();
        assert!(members.contains(&format!(" {}:", Net::spoke_v4(PROXY))), "{members}");
        assert!(self.passed_by().contains("packets 0 "), "{}", self.passed_by());
        let all = [spoke.lines().join("\n"), status].concat();
        assert!(!all.contains("secret"), "no password is shown: {all}");
    }
}

fn url(scheme: &str, credentials: &str) -> String {
    let port = if scheme == "http" { HTTP_PORT } else { SOCKS_PORT };
    format!("{scheme}://{credentials}{}:{port}", Net::spoke_v4(PROXY))
}

/// Starts tinyproxy with these lines in its configuration.
pub(crate) fn tinyproxy(host: &Host, lines: &str) -> Process {
    let file = host.private().join("tinyproxy.conf");
    let text = format!("Port {HTTP_PORT}\nTimeout 600\nLogLevel Info\nMaxClients 100\n{lines}");
    fs::write(host.path(&file), text).unwrap();
    let mut command = Command::new("tinyproxy");
    command.arg("-d").arg("-c").arg(&file);
    let proxy = host.spawn("tinyproxy", &command).unwrap();
    wait_for_port(host, (Ipv4Addr::LOCALHOST, HTTP_PORT), SOON).unwrap();
    proxy
}

pub(crate) fn microsocks(host: &Host, options: &[&str]) -> Process {
    let mut command = Command::new("microsocks");
    command.args(["-p", &SOCKS_PORT.to_string()]).args(options);
    let proxy = host.spawn("microsocks", &command).unwrap();
    wait_for_port(host, (Ipv4Addr::LOCALHOST, SOCKS_PORT), SOON).unwrap();
    proxy
}

#[test]
fn goes_through_http_connect_with_a_password() {
    if is_missing("tinyproxy", "tinyproxy-bin") {
        return;
    }
    let world = World::new();
    let _proxy = tinyproxy(world.proxy(), "BasicAuth ann secret\n");
    let shown = url("http", "");
    for (credentials, why) in [
        ("", "wants a user name and a password: give them as USER:PASSWORD@ in front of its host"),
        ("ann:wrong-secret@", "does not take this user name and password: check them"),
    ] {
        let spoke = world.spoke(LAPTOP, &["--proxy", &url("http", credentials)]);
        let line = spoke.wait_for_line("cannot join through 192.0.2.1:5678: the proxy", SOON).unwrap();
        assert!(line.contains(&shown) && line.contains(why) && !line.contains("secret"), "{line}");
    }
    let spoke = world.spoke(LAPTOP, &["--proxy", &url("http", "ann:secret@")]);
    world.works(&spoke, &shown);
}

#[test]
fn a_proxy_that_refuses_says_why_and_what_to_do() {
    if is_missing("tinyproxy", "tinyproxy-bin") {
        return;
    }
    let world = World::new();
    let proxy = url("http", "");
    let says = |why: &str, what: &str| {
        let spoke = world.spoke(LAPTOP, &["--proxy", &proxy]);
        let line = spoke.wait_for_line("cannot join through 192.0.2.1:5678", SOON).unwrap();
        assert!(line.contains(why) && line.contains(what), "{line}");
    };
    let narrow = tinyproxy(world.proxy(), "ConnectPort 443\n");
    says("answered 403 Forbidden", "most allow port 443, so have the hub listen there");
    narrow.kill().unwrap();
    let _proxy = tinyproxy(world.proxy(), "");
    world.hub.kill().unwrap();
    says(&format!("the proxy {proxy} answered 50"), "is the hub running");
}

#[test]
fn a_proxy_that_dies_is_waited_for_and_never_passed_by() {
    if is_missing("tinyproxy", "tinyproxy-bin") {
        return;
    }
    let world = World::new();
    let proxy = tinyproxy(world.proxy(), "");
    let address = url("http", "");
    let spoke = world.spoke_by_name(&["--proxy", &address]);
    world.works(&spoke, &address);
    let mark = spoke.mark();
    proxy.kill().unwrap();
    spoke
        .wait_for_line_after(
            mark,
            &format!("cannot reach the proxy {address}: nothing listens there: is the proxy running?"),
            SOON,
        )
        .unwrap();
    let _proxy = tinyproxy(world.proxy(), "");
    spoke.wait_for_line_after(mark, SPOKE_ON_LAN, BACK).unwrap();
    world.works(&spoke, &address);
}

#[test]
fn a_proxy_within_a_network_of_the_lan_is_reached_outside_of_it() {
    if is_missing("tinyproxy", "tinyproxy-bin") {
        return;
    }
    let world = World::new();
    world.proxy().ip("addr add 172.20.5.1/32 dev lo").unwrap();
    let laptop = world.net.spoke(LAPTOP);
    laptop.ip(&format!("route add default via {}", Net::spoke_v4(PROXY))).unwrap();
    // Who offers it on the LAN does not forward: what comes there is lost.
    let offers = world.spoke(DESKTOP, &["--route", "172.20.5.0/24", "--route", "172.20.6.0/24"]);
    offers.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
    let proxy = tinyproxy(world.proxy(), "");
    let address = format!("http://172.20.5.1:{HTTP_PORT}");
    let spoke = world.spoke_by_name(&["--proxy", &address]);
    world.works(&spoke, &address);
    spoke.wait_for_line("route 172.20.6.0/24 installed", SOON).unwrap();

    let mark = spoke.mark();
    proxy.kill().unwrap();
    spoke.wait_for_line_after(mark, "cannot reach the proxy", SOON).unwrap();
    let _proxy = tinyproxy(world.proxy(), "");
    spoke.wait_for_line_after(mark, SPOKE_ON_LAN, BACK).unwrap();
    world.works(&spoke, &address);
}

#[test]
fn reads_the_environment_as_curl_does() {
    if is_missing("tinyproxy", "tinyproxy-bin") {
        return;
    }
    let world = World::new();
    let _proxy = tinyproxy(world.proxy(), "BasicAuth ann secret\n");
    let shown = url("http", "");
    let with_password = url("http", "ann:secret@");
    let spoke =
        world.spoke_with(LAPTOP, &[], &[("https_proxy", &with_password), ("no_proxy", "example.org")]);
    spoke
        .wait_for_line(&format!("going through the proxy {shown} (https_proxy in the environment)"), SOON)
        .unwrap();
    world.works(&spoke, &shown);
    // Nothing listens where this one would be.
    let dead = [("ALL_PROXY", "http://192.0.2.12:1"), ("NO_PROXY", "example.org, 192.0.2.0/24")];
    let direct = world.spoke_with(DESKTOP, &[], &dead);
    let line = direct.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
    assert!(line.ends_with("through 192.0.2.1:5678"), "{line}");
    direct.kill().unwrap();
    let direct = world.spoke_with(DESKTOP, &["--proxy", ""], &dead[..1]);
    direct.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
}

#[test]
fn goes_through_socks_with_and_without_a_password() {
    if is_missing("microsocks", "microsocks") {
        return;
    }
    let world = World::new();
    let shown = url("socks5", "");
    let proxy = microsocks(world.proxy(), &[]);
    let spoke = world.spoke_by_name(&["--proxy", &url("socks5h", "")]);
    world.works(&spoke, &shown);
    spoke.kill().unwrap();
    proxy.kill().unwrap();
    let _proxy = microsocks(world.proxy(), &["-u", "ann", "-P", "secret"]);
    for credentials in ["", "ann:wrong-secret@"] {
        let spoke = world.spoke(LAPTOP, &["--proxy", &url("socks5", credentials)]);
        let line = spoke.wait_for_line("cannot join through 192.0.2.1:5678: the proxy", SOON).unwrap();
        assert!(line.contains(&shown) && line.contains("user name and"), "{line}");
    }
    let spoke = world.spoke(LAPTOP, &["--proxy", &url("socks5", "ann:secret@")]);
    world.works(&spoke, &shown);
    spoke.kill().unwrap();
    world.hub.kill().unwrap();
    let spoke = world.spoke(LAPTOP, &["--proxy", &url("socks5", "ann:secret@")]);
    spoke
        .wait_for_line("was refused by 192.0.2.1:5678: is the hub running, and on that port?", SOON)
        .unwrap();
}

#[test]
fn a_captive_portal_and_the_wrong_scheme_are_recognised() {
    let world = World::new();
    let proxy = format!("http://{}:{HTTP_PORT}", Net::spoke_v4(PROXY));
    for (answer, why) in [
        (
            &b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<h1>Welcome</h1>"[..],
            "answered with a web page, as captive portals do: log in there first, with a browser",
        ),
        (
            b"HTTP/1.1 302 Found\r\nLocation: http://portal.example/\r\nContent-Length: 0\r\n\r\n",
            "as captive portals do: log in there first, at http://portal.example/",
        ),
        (b"\x05\xff", "does not speak HTTP but SOCKS: write socks5:// in front of its host"),
        (b"SSH-2.0-x\r\n", "is no answer of a proxy: check its host, port and scheme"),
        (b"", "closed the connection without an answer: check its port and scheme"),
    ] {
        let listener = world.proxy().tcp_listen((IpAddr::from(Ipv4Addr::UNSPECIFIED), HTTP_PORT)).unwrap();
        let portal = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 4_096];
            let len = stream.read(&mut request).unwrap();
            stream.write_all(answer).unwrap();
            String::from_utf8_lossy(&request[..len]).into_owned()
        });
        let spoke = world.spoke(LAPTOP, &["--proxy", &proxy]);
        let line = spoke.wait_for_line("cannot join through 192.0.2.1:5678", SOON).unwrap();
        assert!(line.contains(why), "{line}");
        assert!(portal.join().unwrap().starts_with("CONNECT 192.0.2.1:5678 HTTP/1.1\r\n"));
        // Once, and not at every attempt.
        assert_eq!(spoke.lines().iter().filter(|line| line.contains(why)).count(), 1);
    }
}
