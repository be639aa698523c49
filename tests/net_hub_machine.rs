//! The hub's machine as it is: in networks that have the LAN's addresses, and with a list of members that someone else
//! manages.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests of IO")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::Duration;

use crate::house::mobile::{cable, leaves_by};
use crate::house::{
    self, Binaries, Host, Lan, Net, Process, SPOKE_ON_LAN, ask_hub, hub_command, ping, ping_until,
    spawn_spoke, start_hub, state,
};

const SOON: Duration = Duration::from_secs(5);

/// Gives the hub's machine a second network, whose router is another host.
fn network(net: &Net, own: &str, router: &str) -> Host {
    let host = Host::new("router").unwrap();
    cable(net.hub(), "eth1", &host, "eth0");
    net.hub().ip(&format!("addr add {own} dev eth1")).unwrap();
    host.ip(&format!("addr add {router} dev eth0")).unwrap();
    host
}

#[test]
fn a_network_of_the_hubs_machine_with_addresses_of_the_lan_is_warned_of_and_shuts_nothing() {
    // Wider, as of a provider's private cloud; equal; narrower; the last three appear while the hub runs.
    for (own, router, wins, later) in [
        ("10.0.3.57/16", "10.0.9.1/16", "hub0", false),
        ("10.0.0.57/24", "10.0.0.9/24", "eth1", true),
        ("10.0.0.57/28", "10.0.0.49/28", "eth1", true),
        ("10.0.3.57/16", "10.0.9.1/16", "hub0", true),
    ] {
        let net = Net::new(1).unwrap();
        let binaries = Binaries::find().unwrap();
        let router_address = router.split('/').next().unwrap();
        let (host, hub);
        if later {
            hub = start_hub(&net, &binaries, &[]).unwrap();
            host = network(&net, own, router);
        } else {
            host = network(&net, own, router);
            hub = start_hub(&net, &binaries, &[]).unwrap();
        }
        let warning = hub.wait_for_line("share addresses", SOON).unwrap();
        assert!(warning.contains("WARN") && warning.contains("the network of eth1"), "{warning}");
        let status = ask_hub(&net, &["status"]).good();
        assert!(status.contains("problem:") && status.contains("share addresses"), "{status}");
        net.hub().ip(&format!("route add default via {router_address}")).unwrap();
        ping_until(net.hub(), router_address.parse().unwrap(), SOON).unwrap();
        // Members are among themselves, and reach the hub unless its machine prefers the other network.
        let spoke = spawn_spoke(&net, &binaries, 0, &[]).unwrap();
        spoke.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
        assert_eq!(leaves_by(net.hub(), "10.0.0.50"), wins, "{own}");
        if wins == "hub0" {
            ping_until(net.spoke(0), Lan::hub_address().into(), SOON).unwrap();
        }
        // It says once that it is over.
        let mark = hub.mark();
        net.hub().ip("link del eth1").unwrap();
        hub.wait_for_line_after(mark, "no network of this machine shares addresses with the LAN", SOON)
            .unwrap();
        assert!(!ask_hub(&net, &["status"]).good().contains("problem:"));
        ping_until(net.spoke(0), Lan::hub_address().into(), SOON).unwrap();
        drop(host);
    }
}

#[test]
fn a_hub_does_not_take_the_address_of_its_machines_router() {
    for (own, router) in [("10.0.0.57/24", "10.0.0.1/24"), ("10.0.3.57/16", "10.0.0.1/16")] {
        let net = Net::new(1).unwrap();
        let binaries = Binaries::find().unwrap();
        let router = network(&net, own, router);
        net.hub().ip("route add default via 10.0.0.1").unwrap();
        let hub = net.hub().spawn("hub", &hub_command(&net, &binaries, &[])).unwrap();
        let line = hub.wait_for_line("10.0.0.1", SOON).unwrap();
        assert!(line.contains("router") && line.contains("--subnet"), "{line}");
        assert!(!hub.wait_exit(SOON).unwrap().success());
        // The router can still ask for the machine's address, which it would not be told otherwise.
        router.ip("neigh flush dev eth0").unwrap();
        ping_until(&router, own.split('/').next().unwrap().parse().unwrap(), SOON).unwrap();
    }
}

#[test]
fn a_name_server_of_the_hubs_machine_among_the_lans_addresses_is_named() {
    // As in a cloud whose name server is far from the machine's own network.
    let net = Net::new(1).unwrap();
    let text = "nameserver 10.0.0.1\nnameserver 10.0.0.2\nnameserver 192.0.2.53\n";
    net.hub().set_file("/etc/resolv.conf", text).unwrap();
    let hub = start_hub(&net, &Binaries::find().unwrap(), &[]).unwrap();
    let line = "10.0.0.2, a name server of this machine, is an address of the LAN's 10.0.0.0/24";
    hub.wait_for_line(line, SOON).unwrap();
    assert_eq!(hub.lines().iter().filter(|line| line.contains("a name server")).count(), 1);
}

/// A hub whose list of members is a link to a file elsewhere, as tools make that keep settings.
fn linked_members(net: &Net, text: &str) -> PathBuf {
    let directory = state(net.hub(), "hub");
    let elsewhere = net.hub().path(net.hub().private().join("managed"));
    fs::create_dir(&elsewhere).unwrap();
    let managed = elsewhere.join("members");
    fs::write(&managed, text).unwrap();
    fs::remove_file(directory.join("members")).unwrap();
    symlink(net.hub().private().join("managed/members"), directory.join("members")).unwrap();
    managed
}

fn is_link(net: &Net) -> bool {
    fs::symlink_metadata(state(net.hub(), "hub").join("members")).unwrap().is_symlink()
}

#[test]
fn a_list_of_members_that_is_a_link_is_read_and_never_replaced() {
    let net = Net::new(3).unwrap();
    let binaries = Binaries::find().unwrap();
    let join = |i: usize| -> Process {
        let spoke = spawn_spoke(&net, &binaries, i, &[]).unwrap();
        spoke.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
        spoke
    };
    let hub = start_hub(&net, &binaries, &[]).unwrap();
    let first = join(0);
    first.kill().unwrap();
    hub.kill().unwrap();
    let members = state(net.hub(), "hub").join("members");
    let text = fs::read_to_string(&members).unwrap();
    let managed = linked_members(&net, &text);

    let hub = start_hub(&net, &binaries, &[]).unwrap();
    let _first = join(0);
    // Newcomers are served, and the file elsewhere is left to whom it belongs.
    let newcomer = join(1);
    assert!(is_link(&net), "the link is replaced");
    let line = hub.wait_for_line("is a link", SOON).unwrap();
    assert!(line.contains("members"), "{line}");
    let status = ask_hub(&net, &["status"]).good();
    assert!(status.contains("is a link"), "{status}");
    assert_eq!(fs::read_to_string(&managed).unwrap(), text);
    // What is changed there counts.
    let key = house::ask_spoke(&net, 2, &["key"]).good();
    fs::write(&managed, format!("{text}{} by-hand 10.0.0.4\n", key.trim())).unwrap();
    ask_hub(&net, &["reload"]).good();
    let listed = ask_hub(&net, &["members"]).good();
    assert!(listed.contains("by-hand"), "{listed}");
    let third = join(2);
    ping(net.spoke(2), Lan::address(0).into(), 56, SOON).unwrap();
    assert!(is_link(&net));
    drop((newcomer, third));
}
