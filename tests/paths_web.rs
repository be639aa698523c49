//! Behind web servers of others: nginx and haproxy, set up as docs/paths.md has it.
//!
//! With `SOAK=1` their time-outs are those of docs/paths.md, 60 s, and more bytes pass.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests of IO")]

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::house::{
    Authority, Binaries, Host, Lan, Net, Process, SPOKE_ON_LAN, Valid, ask_spoke, is_missing, long_or, ping,
    start_hub, transfer, wait_for_port,
};

const SOON: Duration = Duration::from_secs(10);
const LAPTOP: usize = 0;
const HUB_NAME: &str = "hub.example.org";

/// How long a web server bears silence: in the short form too longer than the pause between two pings of the tunnel,
/// which is 4 s.
fn time_out() -> Duration {
    Duration::from_secs(long_or(60, 6))
}

struct World {
    net: Net,
    binaries: Binaries,
    authority: Authority,
}

impl World {
    /// A laptop from which nothing but TCP to port 443 passes.
    fn new() -> World {
        let net = Net::named(&["laptop"]).unwrap();
        let (binaries, authority) = (Binaries::find().unwrap(), Authority::new().unwrap());
        authority.issue("hub", "DNS:hub.example.org", Valid::Now).unwrap();
        net.name_hub(LAPTOP, HUB_NAME).unwrap();
        net.hub()
            .nft(&format!(
                "table inet only {{\nchain input {{\ntype filter hook input priority 0\n\
                 ip saddr {} tcp dport != 443 drop\n}}\n}}\n",
                Net::spoke_v4(LAPTOP)
            ))
            .unwrap();
        World { net, binaries, authority }
    }

    fn spoke(&self, hub: &str) -> Process {
        let host = self.net.spoke(LAPTOP);
        let mut command = Command::new(&self.binaries.spoke);
        command.args(["--hub", hub, "--ip", "10.0.0.2", "--state"]).arg(host.private().join("spoke"));
        command.arg("--tls-ca").arg(self.authority.path("ca.pem"));
        host.spawn(host.name(), &command).unwrap()
    }

    /// A page that the laptop gets by TLS.
    fn page(&self, path: &str) -> String {
        let mut command = Command::new("sh");
        command.args([
            "-c",
            "printf 'GET %s HTTP/1.1\\r\\nHost: hub.example.org\\r\\nConnection: close\\r\\n\\r\\n' \"$1\" |
             openssl s_client -quiet -servername hub.example.org -connect \"$0\" 2>/dev/null",
            &format!("{}:443", Net::hub_v4()),
            path,
        ]);
        String::from_utf8(self.net.spoke(LAPTOP).run(move || command.output()).unwrap().stdout).unwrap()
    }
}

/// The example for a web server in docs/paths.md, with the files of this test.
fn example(of: &str, host: &Host, authority: &Authority) -> String {
    let manual = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/paths.md");
    let manual = fs::read_to_string(manual).unwrap();
    let (_, behind) = manual.split_once(&format!("```{of}\n")).unwrap();
    let (example, _) = behind.split_once("```").unwrap();
    let live = "/etc/letsencrypt/live/hub.example.org/";
    example
        .replace(&format!("{live}fullchain.pem"), &authority.argument("hub.pem"))
        .replace(&format!("{live}privkey.pem"), &authority.argument("hub.key"))
        .replace("60s", &format!("{}s", time_out().as_secs()))
        .replace("/var/www/html", &host.private().join("html").display().to_string())
}

/// nginx as docs/paths.md has it, with a page beside the hub.
pub(crate) fn nginx(host: &Host, authority: &Authority) -> Process {
    let private = host.private().display().to_string();
    fs::create_dir_all(host.path(format!("{private}/html"))).unwrap();
    fs::write(host.path(format!("{private}/html/index.html")), "<h1>Welcome</h1>").unwrap();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("{kind}_temp_path {private}/{kind};\n"))
        .collect();
    let configuration = format!(
        "user root;\ndaemon off;\nmaster_process off;\npid {private}/nginx.pid;\nerror_log stderr info;\n\
         events {{}}\nhttp {{\naccess_log off;\n{temporary}{}\n}}\n",
        example("nginx", host, authority)
    );
    start(host, "nginx", &["-c"], &configuration)
}

/// Starts a web server with this configuration, and waits until it listens.
fn start(host: &Host, program: &str, arguments: &[&str], configuration: &str) -> Process {
    let file = host.private().join(format!("{program}.conf"));
    fs::write(host.path(&file), configuration).unwrap();
    let mut command = Command::new(program);
    command.args(arguments).arg(&file);
    let process = host.spawn(program, &command).unwrap();
    wait_for_port(host, (Ipv4Addr::LOCALHOST, 443), SOON).unwrap();
    process
}

#[test]
fn a_websocket_behind_nginx_outlives_its_time_out_beside_a_web_page() {
    if is_missing("nginx", "nginx-light") {
        return;
    }
    let world = World::new();
    let host = world.net.hub();
    let nginx = nginx(host, &world.authority);
    let hub = start_hub(&world.net, &world.binaries, &["--listen", "127.0.0.1:5678"]).unwrap();
    let spoke = world.spoke("wss://hub.example.org/lan");
    spoke.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
    let mark = spoke.mark();
    assert!(world.page("/").contains("<h1>Welcome</h1>"), "{}", world.page("/"));
    assert!(world.page("/lan").starts_with("HTTP/1.1 404 "), "{}", world.page("/lan"));
    let laptop = world.net.spoke(LAPTOP);
    let bytes = long_or(100_000_000, 30_000_000);
    transfer(laptop, host, Lan::hub_address().into(), bytes).unwrap().finish().unwrap();
    transfer(host, laptop, Lan::address(LAPTOP).into(), bytes).unwrap().finish().unwrap();
    // Time is what is tested: that nothing happens for as long.
    std::thread::sleep(time_out() * 3 / 2 + Duration::from_secs(1));
    assert_eq!(spoke.mark(), mark, "{:#?}", spoke.lines());
    ping(laptop, Lan::hub_address().into(), 56, SOON).unwrap();
    let status = ask_spoke(&world.net, LAPTOP, &["status"]).good();
    assert!(status.contains("hub wss://hub.example.org:443/lan, key"), "{status}");

    // What is wrong on the way is told of.
    hub.kill().unwrap();
    spoke
        .wait_for_line(
            "answered 502 Bad Gateway: it cannot reach the hub behind it; is the hub running?",
            SOON,
        )
        .unwrap();
    spoke.kill().unwrap();
    let lost = world.spoke("wss://hub.example.org/elsewhere");
    lost.wait_for_line("answered 404 Not Found for /elsewhere: check the path", SOON).unwrap();
    lost.kill().unwrap();
    let page = world.spoke("wss://hub.example.org/");
    page.wait_for_line("with a page: no hub is behind /, or a captive portal answered", SOON).unwrap();
    page.kill().unwrap();
    let blocked = world.spoke("192.0.2.1:5678");
    blocked
        .wait_for_line("cannot reach 192.0.2.1:5678: no answer: is the port open on the way?", SOON * 2)
        .unwrap();
    assert!(nginx.is_running());
}

#[test]
fn where_only_tls_passes_haproxy_sends_it_on_by_its_name() {
    if is_missing("haproxy", "haproxy") {
        return;
    }
    let world = World::new();
    let host = world.net.hub();
    let _haproxy = start(host, "haproxy", &["-db", "-f"], &example("haproxy", host, &world.authority));
    let (certificate, key) = (world.authority.argument("hub.pem"), world.authority.argument("hub.key"));
    let options = ["--listen", "127.0.0.1:5678", "--tls-cert", &certificate, "--tls-key", &key];
    let _hub = start_hub(&world.net, &world.binaries, &options).unwrap();
    // What is no TLS is cut off.
    let plain = world.spoke("192.0.2.1:443");
    plain
        .wait_for_line("cannot join through 192.0.2.1:443: something on the way cut the connection", SOON)
        .unwrap();
    plain.kill().unwrap();
    let laptop = world.net.spoke(LAPTOP);
    for way in ["tls://hub.example.org", "wss://hub.example.org"] {
        let spoke = world.spoke(way);
        spoke.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
        let mark = spoke.mark();
        transfer(laptop, host, Lan::hub_address().into(), 10_000_000).unwrap().finish().unwrap();
        transfer(host, laptop, Lan::address(LAPTOP).into(), 10_000_000).unwrap().finish().unwrap();
        // Time is what is tested: that nothing happens for as long.
        std::thread::sleep(time_out() + Duration::from_secs(1));
        assert_eq!(spoke.mark(), mark, "{:#?}", spoke.lines());
        spoke.kill().unwrap();
    }
    assert!(world.page("/").starts_with("HTTP/1.1 404 "), "{}", world.page("/"));
}
