//! Members as they may be: what one offers, asks for or repeats takes nothing from another.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests of IO")]

#[path = "house/mod.rs"]
mod house;

use std::net::Ipv4Addr;
use std::time::Duration;

use house::{Binaries, Host, Lan, Net, SPOKE_ON_LAN, ping_until, spawn_spoke, start_hub, transfer};

const SOON: Duration = Duration::from_secs(10);

/// Gives spoke `i` another outer address, from which it reaches the hub.
fn move_to(net: &Net, i: usize, address: Ipv4Addr) {
    let hub = Net::hub_v4();
    net.spoke(i)
        .ip(&format!("addr add {address}/32 dev eth0\nroute add {hub}/32 dev eth0 src {address}"))
        .unwrap();
}

fn ip(host: &Host, arguments: &str) -> String {
    let mut command = std::process::Command::new("ip");
    command.args(arguments.split_ascii_whitespace());
    String::from_utf8(host.output(command).unwrap().stdout).unwrap()
}

#[test]
fn answers_of_the_hubs_machine_never_go_into_the_lan() {
    // A newcomer offers what holds the outer address of an older member, before that one is back.
    let offered = "172.16.0.0/12";
    let [outer, other] = [2, 3].map(|last| Ipv4Addr::new(172, 30, 9, last));
    let net = Net::new(3).unwrap();
    let binaries = Binaries::find().unwrap();
    net.hub().ip("route add default dev eth0").unwrap();
    move_to(&net, 0, outer);
    move_to(&net, 2, other);
    // As in a distribution that is strict about where packets come in.
    net.hub().run(|| {
        for device in ["all", "eth0"] {
            std::fs::write(format!("/proc/sys/net/ipv4/conf/{device}/rp_filter"), "1").unwrap();
        }
    });
    let hub = start_hub(&net, &binaries, &[]).unwrap();
    let older = spawn_spoke(&net, &binaries, 0, &[]).unwrap();
    older.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
    older.kill().unwrap();
    hub.kill().unwrap();

    let hub = start_hub(&net, &binaries, &[]).unwrap();
    let newcomer = spawn_spoke(&net, &binaries, 1, &["--route", offered]).unwrap();
    newcomer.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
    hub.wait_for_line(&format!("route {offered} installed"), SOON).unwrap();
    // The hub's own kernel reaches through the LAN what is not its own.
    let device = ip(net.hub(), &format!("route get {other}"));
    assert!(device.contains("dev hub0"), "{device}");

    // Another service of the hub's machine, and a host that the hub knows nothing of.
    let hub_address = Net::hub_v4().into();
    transfer(net.spoke(2), net.hub(), hub_address, 100_000).unwrap().finish().unwrap();
    let older = spawn_spoke(&net, &binaries, 0, &[]).unwrap();
    older.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
    ping_until(net.spoke(0), Lan::hub_address().into(), SOON).unwrap();
    transfer(net.spoke(0), net.hub(), Lan::hub_address().into(), 100_000).unwrap().finish().unwrap();
    transfer(net.spoke(2), net.hub(), hub_address, 100_000).unwrap().finish().unwrap();

    // Nothing of it outlives the hub.
    hub.signal(nix::sys::signal::Signal::SIGTERM).unwrap();
    hub.wait_exit(SOON).unwrap();
    for family in ["-4", "-6"] {
        let rules = ip(net.hub(), &format!("{family} rule show"));
        assert!(!rules.contains("3276"), "{rules}");
    }
}
