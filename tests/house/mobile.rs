//! A machine that moves: two networks that it can be in, and a host that only the hub's host knows the way to.
//!
//! ```text
//!   mobile ── wlan0 ── spoke0 ──┐
//!          ── wlan1 ── spoke1 ──┴── switch ── hub ── out0 ── web      both spokes' hosts are mere routers here
//! ```
//! Only the hub's host knows the way to web, and web none to the machines: what gets there went through the LAN.

#![allow(clippy::unwrap_used, reason = "only tests build this network, and end where they cannot")]

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::Command;
use std::time::{Duration, Instant};

use super::{Binaries, Host, Net, Process, SPOKE_ON_LAN, ping_until, run, start_hub};

const SOON: Duration = Duration::from_secs(5);
/// How long it may take until what someone else changed is set right, or a link is there again.
pub(crate) const AT_ONCE: Duration = Duration::from_secs(1);
/// The address of web.
pub(crate) const WEB: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 20);
/// The options of a spoke that takes a way out of both families.
pub(crate) const EVERYTHING: [&str; 4] = ["--accept-route", "0.0.0.0/0", "--accept-route", "::/0"];

/// A machine that moves, and what is around it.
pub(crate) struct Mobile {
    pub(crate) web: Host,
    pub(crate) mobile: Host,
    pub(crate) net: Net,
    pub(crate) binaries: Binaries,
}

impl Mobile {
    pub(crate) fn new() -> Mobile {
        let net = Net::new(2).unwrap();
        let (web, mobile) = (Host::new("web").unwrap(), Host::new("mobile").unwrap());
        cable(net.hub(), "out0", &web, "eth0");
        net.hub().ip("addr add 198.51.100.1/24 dev out0").unwrap();
        web.ip("addr add 198.51.100.20/24 dev eth0").unwrap();
        net.hub().nft(&masquerade("10.0.0.0/24", "hub0")).unwrap();
        for i in 0..2 {
            let router = net.spoke(i);
            cable(router, "lan0", &mobile, &format!("wlan{i}"));
            router.ip(&format!("addr add 172.20.{i}.1/24 dev lan0")).unwrap();
            mobile.ip(&format!("addr add 172.20.{i}.9/24 dev wlan{i}")).unwrap();
            router.forward();
            for other in [net.hub(), net.spoke(1 - i)] {
                other.ip(&format!("route add 172.20.{i}.0/24 via {}", Net::spoke_v4(i))).unwrap();
            }
        }
        net.hub().forward();
        mobile.ip("route add default via 172.20.0.1").unwrap();
        ping_until(net.hub(), WEB.into(), SOON).unwrap();
        ping_until(&mobile, Net::hub_v4().into(), SOON).unwrap();
        ping_until(&mobile, Ipv4Addr::new(172, 20, 1, 1).into(), SOON).unwrap();
        Mobile { web, mobile, net, binaries: Binaries::find().unwrap() }
    }

    pub(crate) fn start_hub(&self, options: &[&str]) -> Process {
        start_hub(&self.net, &self.binaries, options).unwrap()
    }

    pub(crate) fn start_spoke(&self, options: &[&str]) -> Process {
        self.spawn_spoke(&["--hub", &Net::hub_v4().to_string(), "--ip", "10.0.0.2"], options)
    }

    pub(crate) fn spawn_spoke(&self, hub: &[&str], options: &[&str]) -> Process {
        let mut command = Command::new(&self.binaries.spoke);
        command.args(hub).args(options);
        let spoke = self.mobile.spawn("spoke", &command).unwrap();
        spoke.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
        spoke
    }

    /// A spoke for whom everything goes through the LAN.
    pub(crate) fn start_exit(&self) -> (Process, Process) {
        let (hub, spoke) = self.start_hub_and_exit();
        ping_until(&self.mobile, WEB.into(), SOON).unwrap();
        (hub, spoke)
    }

    /// The same where something else may come first.
    pub(crate) fn start_hub_and_exit(&self) -> (Process, Process) {
        let hub = self.start_hub(&["--route", "0.0.0.0/0"]);
        let spoke = self.start_spoke(&EVERYTHING);
        spoke.wait_for_line("route 0.0.0.0/0 installed", SOON).unwrap();
        (hub, spoke)
    }

    pub(crate) fn rules(&self) -> String {
        ["-4", "-6"].map(|family| ip(&self.mobile, &format!("{family} rule show"))).concat()
    }

    /// The device by which a packet of the mobile host goes; `what` as for `ip route get`.
    pub(crate) fn leaves_by(&self, what: &str) -> String {
        leaves_by(&self.mobile, what)
    }
}

/// Connects two hosts by a cable.
pub(crate) fn cable(one: &Host, name: &str, other: &Host, its_name: &str) {
    let namespace = other.namespace_path();
    one.ip(&format!(
        "link add {name} type veth peer name {its_name} netns {}\nlink set {name} up",
        namespace.display()
    ))
    .unwrap();
    other.ip(&format!("link set {its_name} up")).unwrap();
}

pub(crate) fn masquerade(from: &str, but_to: &str) -> String {
    format!(
        "table ip nat {{\nchain out {{\ntype nat hook postrouting priority srcnat\n\
         ip saddr {from} oifname != \"{but_to}\" masquerade\n}}\n}}\n"
    )
}

pub(crate) fn ip(host: &Host, arguments: &str) -> String {
    let mut command = Command::new("ip");
    command.args(arguments.split_ascii_whitespace());
    String::from_utf8(host.output(command).unwrap().stdout).unwrap()
}

pub(crate) fn leaves_by(host: &Host, what: &str) -> String {
    let mut command = Command::new("ip");
    command.args(["route", "get"]).args(what.split_ascii_whitespace());
    // A failure says that there is no way.
    let text = run(host, command).out;
    let mut words = text.split_ascii_whitespace().skip_while(|&word| word != "dev");
    words.nth(1).unwrap_or("nowhere").to_owned()
}

/// Whether a connection to `address` is made and carries bytes both ways.
pub(crate) fn talks(from: &Host, address: SocketAddr, listener: &TcpListener) -> bool {
    let Ok(mut there) = from.tcp_connect(address, AT_ONCE) else { return false };
    let (mut here, _) = listener.accept().unwrap();
    for stream in [&there, &here] {
        stream.set_read_timeout(Some(AT_ONCE)).unwrap();
    }
    let mut answer = [0; 4];
    there.write_all(b"ping").is_ok()
        && here.read_exact(&mut answer).is_ok()
        && here.write_all(b"pong").is_ok()
        && there.read_exact(&mut answer).is_ok()
        && &answer == b"pong"
}
