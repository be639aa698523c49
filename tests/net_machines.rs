//! Machines as they are: state directories, name servers and outer networks that are not what a program hopes for.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests of IO")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::house::{
    self, Binaries, Direction, Host, Lan, Net, Process, SPOKE_ON_LAN, full_packets_fit, ping, run,
    serve_names, spawn_spoke, start_hub, state, transfer,
};

const SOON: Duration = Duration::from_secs(5);

/// The command line of a spoke with its default state, in whichever directory that is.
fn spoke(host: &Host, hub: &str, options: &[&str]) -> Command {
    assert_eq!(host.private().to_str(), Some("/var/lib"), "this test needs /var/lib for a host of its own");
    let mut command = Command::new(Binaries::find().unwrap().spoke);
    command.args(["--hub", hub]).args(options);
    command
}

fn on_lan(process: &Process) -> String {
    process.wait_for_line(SPOKE_ON_LAN, SOON).unwrap()
}

#[test]
fn a_second_spoke_on_one_machine_is_asked_for_by_its_own_state_and_leaves_nothing_otherwise() {
    let net = Net::named(&["laptop"]).unwrap();
    let _hub = start_hub(&net, &Binaries::find().unwrap(), &[]).unwrap();
    let (laptop, hub) = (net.spoke(0), Net::hub_v4().to_string());
    let first = laptop.spawn("first", &spoke(laptop, &hub, &["--ip", "10.0.0.2"])).unwrap();
    on_lan(&first);

    let second =
        laptop.spawn("second", &spoke(laptop, &hub, &["--ip", "10.0.0.9", "--tun", "lan1"])).unwrap();
    assert_eq!(second.wait_exit(SOON).unwrap().code(), Some(1));
    let line = second.wait_for_line("/var/lib/spoke is in use by another process", SOON).unwrap();
    assert!(line.contains("--state /var/lib/spoke-2 --tun lan1"), "{line}");
    let below = fs::read_dir(state(laptop, "spoke")).unwrap().map(|entry| entry.unwrap());
    let directories: Vec<_> = below.filter(|entry| entry.path().is_dir()).collect();
    assert!(directories.is_empty(), "a second identity was left: {directories:?}");

    // The same machine with another address is the same member, not `laptop-2`.
    first.kill().unwrap();
    let again = laptop.spawn("again", &spoke(laptop, &hub, &["--ip", "10.0.0.9"])).unwrap();
    let line = on_lan(&again);
    assert!(line.contains("10.0.0.9 (laptop)"), "{line}");

    let second = spoke(laptop, &hub, &["--ip", "10.0.0.3", "--tun", "lan1", "--state", "/var/lib/spoke-2"]);
    let second = laptop.spawn("second", &second).unwrap();
    let line = on_lan(&second);
    assert!(line.contains("10.0.0.3 (laptop-2)"), "{line}");
    second.wait_for_line("the name laptop is taken; this machine is laptop-2", SOON).unwrap();
}

#[test]
fn of_several_that_start_at_once_on_a_new_state_directory_one_gets_it() {
    let net = Net::named(&["laptop"]).unwrap();
    let _hub = start_hub(&net, &Binaries::find().unwrap(), &[]).unwrap();
    let (laptop, hub) = (net.spoke(0), Net::hub_v4().to_string());
    // By other paths, too: it is the directory that counts.
    fs::create_dir(state(laptop, "spoke")).unwrap();
    fs::set_permissions(state(laptop, "spoke"), fs::Permissions::from_mode(0o700)).unwrap();
    std::os::unix::fs::symlink("/var/lib/spoke", laptop.path("/var/lib/link")).unwrap();
    let started: Vec<Process> = (0..6)
        .map(|i| {
            let (ip, tun) = (format!("10.0.0.{}", 2 + i), format!("lan{i}"));
            let state = ["/var/lib/spoke", "/var/lib/link", "/var/lib/./spoke"][i % 3];
            let options = ["--ip", &ip, "--tun", &tun, "--state", state];
            laptop.spawn(&tun, &spoke(laptop, &hub, &options)).unwrap()
        })
        .collect();
    let mut on_lan = 0;
    for spoke in &started {
        let line = spoke.wait_for_line("LAN as ", SOON).or_else(|_| spoke.wait_for_line("is in use", SOON));
        let line = line.unwrap();
        on_lan += usize::from(line.contains(SPOKE_ON_LAN));
        if line.contains("is in use") {
            assert_eq!(spoke.wait_exit(SOON).unwrap().code(), Some(1), "{line}");
        }
    }
    assert_eq!(on_lan, 1);
    let members = fs::read_to_string(state(net.hub(), "hub").join("members")).unwrap();
    assert_eq!(members.lines().filter(|line| line.contains(" laptop")).count(), 1, "{members}");
}

#[test]
fn a_key_that_is_kept_elsewhere_and_not_there_yet_makes_no_second_identity() {
    let net = Net::named(&["laptop"]).unwrap();
    let _hub = start_hub(&net, &Binaries::find().unwrap(), &[]).unwrap();
    let (laptop, hub) = (net.spoke(0), Net::hub_v4().to_string());
    let first = laptop.spawn("first", &spoke(laptop, &hub, &[])).unwrap();
    let address = on_lan(&first);
    first.kill().unwrap();
    // As where keys are on a volume of their own, which is not mounted at first.
    let (key, kept) = (state(laptop, "spoke").join("key"), laptop.path("/var/lib/secret"));
    fs::rename(&key, &kept).unwrap();
    std::os::unix::fs::symlink("/var/lib/mounted", &key).unwrap();
    let early = laptop.spawn("early", &spoke(laptop, &hub, &[])).unwrap();
    assert_eq!(early.wait_exit(SOON).unwrap().code(), Some(1));
    early.wait_for_line("/var/lib/spoke/key: it is a link", SOON).unwrap();
    assert!(fs::symlink_metadata(&key).unwrap().is_symlink());
    fs::rename(&kept, laptop.path("/var/lib/mounted")).unwrap();
    let later = laptop.spawn("later", &spoke(laptop, &hub, &[])).unwrap();
    let line = on_lan(&later);
    assert_eq!(line.split_once(SPOKE_ON_LAN).unwrap().1, address.split_once(SPOKE_ON_LAN).unwrap().1);
}

#[test]
fn a_second_identity_of_earlier_days_is_used_if_it_was_on_a_lan_and_not_if_its_start_failed() {
    let net = Net::named(&["laptop"]).unwrap();
    let _hub = start_hub(&net, &Binaries::find().unwrap(), &[]).unwrap();
    let (laptop, hub) = (net.spoke(0), Net::hub_v4().to_string());
    let key = |directory: &str| fs::read_to_string(state(laptop, "spoke").join(directory).join("key")).ok();
    // What a version that made such directories has left: one that was on a LAN, and one whose start failed.
    for (address, pinned) in [("10.0.0.5", true), ("10.0.0.6", false)] {
        let directory = format!("/var/lib/spoke/{address}");
        let made =
            laptop.spawn("old", &spoke(laptop, &hub, &["--ip", address, "--state", &directory])).unwrap();
        on_lan(&made);
        made.kill().unwrap();
        fs::remove_file(state(laptop, "spoke").join(address).join("control")).ok();
        if !pinned {
            fs::remove_file(state(laptop, "spoke").join(address).join("hubs")).unwrap();
        }
    }
    assert_eq!(key(""), None);
    let old = laptop.spawn("old", &spoke(laptop, &hub, &["--ip", "10.0.0.5"])).unwrap();
    on_lan(&old);
    assert_eq!(key(""), None, "the address has a directory of its own");
    old.kill().unwrap();
    let failed = laptop.spawn("failed", &spoke(laptop, &hub, &["--ip", "10.0.0.6"])).unwrap();
    // It joins, or is refused an address that another key holds: by the key of the machine's own directory.
    failed.wait_for_line("10.0.0.6", SOON).unwrap();
    assert!(key("").is_some() && !state(laptop, "spoke").join("10.0.0.6/hubs").exists());
}

#[test]
fn a_state_volume_that_others_can_write_gets_a_directory_for_the_owner_alone() {
    for mode in [0o777, 0o2770, 0o1777] {
        let net = Net::named(&["laptop"]).unwrap();
        let binaries = Binaries::find().unwrap();
        for (host, program) in [(net.hub(), "hub"), (net.spoke(0), "spoke")] {
            let volume = state(host, program);
            fs::create_dir(&volume).unwrap();
            // As a volume of its own has it.
            fs::create_dir(volume.join("lost+found")).unwrap();
            fs::set_permissions(&volume, fs::Permissions::from_mode(mode)).unwrap();
        }
        let hub = start_hub(&net, &binaries, &[]).unwrap();
        let (laptop, address) = (net.spoke(0), Net::hub_v4().to_string());
        let options = ["--state", "/var/lib/spoke"];
        let first = laptop.spawn("spoke", &spoke(laptop, &address, &options)).unwrap();
        on_lan(&first);
        for (host, program) in [(net.hub(), "hub"), (laptop, "spoke")] {
            let inner = state(host, program).join("private");
            assert_eq!(fs::metadata(&inner).unwrap().permissions().mode() & 0o777, 0o700);
            assert!(inner.join("key").exists() && !state(host, program).join("key").exists());
        }
        // Those who ask find it, and the next start is the same member, also of a volume that was mended.
        assert!(house::ask_hub(&net, &["status"]).good().contains("laptop"));
        assert!(house::ask_spoke(&net, 0, &["status"]).good().contains("laptop"));
        let mut ask = Command::new(&binaries.spoke);
        ask.arg("status");
        assert!(run(laptop, ask).good().contains("laptop"));
        first.kill().unwrap();
        for mended in [mode, 0o700] {
            fs::set_permissions(state(laptop, "spoke"), fs::Permissions::from_mode(mended)).unwrap();
            let again = laptop.spawn("spoke", &spoke(laptop, &address, &options)).unwrap();
            assert!(on_lan(&again).contains("(laptop)"));
            again.kill().unwrap();
        }
        drop(hub);
    }
}

#[test]
fn a_spoke_whose_name_server_is_in_a_network_of_the_lan_finds_its_hub_again() {
    let net = Net::named(&["laptop", "office", "resolver"]).unwrap();
    let binaries = Binaries::find().unwrap();
    let (laptop, office, resolver) = (net.spoke(0), net.spoke(1), net.spoke(2));
    resolver.ip("addr add 172.20.5.53/32 dev lo").unwrap();
    resolver.forward();
    laptop.ip(&format!("route add default via {}", Net::spoke_v4(2))).unwrap();
    office.ip(&format!("route add 172.20.5.0/24 via {}", Net::spoke_v4(2))).unwrap();
    office.forward();
    serve_names(resolver, ([172, 20, 5, 53], 53), "hub.example", vec![Net::hub_v4().into()]);
    laptop.set_file("/etc/resolv.conf", "nameserver 172.20.5.53\noptions timeout:1 attempts:1\n").unwrap();
    laptop.set_file("/etc/nsswitch.conf", "hosts: files dns\n").unwrap();

    let hub = start_hub(&net, &binaries, &[]).unwrap();
    let offers =
        spawn_spoke(&net, &binaries, 1, &["--route", "172.20.5.0/24", "--route", "172.20.6.0/24"]).unwrap();
    on_lan(&offers);
    let spoke = laptop.spawn("laptop", &spoke(laptop, "hub.example", &["--ip", "10.0.0.2"])).unwrap();
    wait_for_routes(laptop, &["172.20.5.0/24 dev spoke0", "172.20.6.0/24 dev spoke0"]);

    let mark = spoke.mark();
    hub.kill().unwrap();
    spoke.wait_for_line_after(mark, "route 172.20.5.0/24 withdrawn", SOON).unwrap();
    // A name server is not there for the other network, which stays as it is for connections that last.
    let routes = routes(laptop);
    assert!(!routes.contains("172.20.5.0/24") && routes.contains("172.20.6.0/24 dev spoke0"), "{routes}");
    let mark = spoke.mark();
    let _hub = start_hub(&net, &binaries, &[]).unwrap();
    spoke.wait_for_line_after(mark, SPOKE_ON_LAN, Duration::from_secs(30)).unwrap();
    wait_for_routes(laptop, &["172.20.5.0/24 dev spoke0", "172.20.6.0/24 dev spoke0"]);
}

#[test]
fn a_spoke_with_a_way_out_by_the_hub_asks_its_name_server_outside_of_it() {
    let net = Net::named(&["laptop", "resolver"]).unwrap();
    let binaries = Binaries::find().unwrap();
    let (laptop, resolver) = (net.spoke(0), net.spoke(1));
    resolver.ip("addr add 198.51.100.53/32 dev lo").unwrap();
    laptop.ip(&format!("route add default via {}", Net::spoke_v4(1))).unwrap();
    serve_names(resolver, ([198, 51, 100, 53], 53), "hub.example", vec![Net::hub_v4().into()]);
    laptop.set_file("/etc/resolv.conf", "nameserver 198.51.100.53\noptions timeout:1 attempts:1\n").unwrap();
    laptop.set_file("/etc/nsswitch.conf", "hosts: files dns\n").unwrap();
    let hub = start_hub(&net, &binaries, &["--route", "0.0.0.0/0"]).unwrap();
    let options = ["--ip", "10.0.0.2", "--accept-route", "0.0.0.0/0"];
    let spoke = laptop.spawn("laptop", &spoke(laptop, "hub.example", &options)).unwrap();
    spoke.wait_for_line("route 0.0.0.0/0 installed", SOON).unwrap();
    on_lan(&spoke);
    let mark = spoke.mark();
    hub.kill().unwrap();
    spoke.wait_for_line_after(mark, "lost the hub", SOON).unwrap();
    let _hub = start_hub(&net, &binaries, &["--route", "0.0.0.0/0"]).unwrap();
    spoke.wait_for_line_after(mark, SPOKE_ON_LAN, Duration::from_secs(30)).unwrap();
    spoke.wait_for_line_after(mark, "through 192.0.2.1:5678", SOON).unwrap();
}

/// Waits until the host's table has routes that begin so.
fn wait_for_routes(host: &Host, expected: &[&str]) {
    let end = Instant::now() + Duration::from_secs(15);
    while !expected.iter().all(|&route| routes(host).contains(route)) {
        assert!(Instant::now() < end, "{expected:?} are not all in {}", routes(host));
        // The kernel tells those who listen to it; this test does not.
        thread::sleep(Duration::from_millis(20));
    }
}

fn routes(host: &Host) -> String {
    let mut command = Command::new("ip");
    command.args(["route", "show"]);
    String::from_utf8(host.output(command).unwrap().stdout).unwrap()
}

#[test]
fn a_hub_named_by_an_ipv4_address_is_reached_through_nat64() {
    let net = Net::named(&["laptop"]).unwrap();
    assert!(net.ipv6(), "this machine has no IPv6 (/proc/sys/net/ipv6 is missing): it can't be tested here");
    let _hub = start_hub(&net, &Binaries::find().unwrap(), &[]).unwrap();
    let laptop = net.spoke(0);
    // The translator's prefix is 2001:db8:64::/96; it does without translating, as the hub has the address itself.
    net.hub().ip("addr add 2001:db8:64::c000:201/128 dev lo").unwrap();
    let known = ["2001:db8:64::c000:aa", "2001:db8:64::c000:ab"].map(|text| text.parse().unwrap());
    serve_names(net.hub(), (Net::hub_v6(), 53), "ipv4only.arpa", known.to_vec());
    laptop.ip(&format!("route add 2001:db8:64::/96 via {}", Net::hub_v6())).unwrap();
    laptop.set_file("/etc/resolv.conf", &format!("nameserver {}\n", Net::hub_v6())).unwrap();
    let translated = "through [2001:db8:64::c000:201]:5678";

    let hub = Net::hub_v4().to_string();
    let first = laptop.spawn("laptop", &spoke(laptop, &hub, &["--ip", "10.0.0.2"])).unwrap();
    assert!(on_lan(&first).contains("through 192.0.2.1:5678"), "{:?}", first.lines());
    // The machine goes to a network without IPv4.
    let mark = first.mark();
    laptop.ip(&format!("addr del {}/24 dev eth0", Net::spoke_v4(0))).unwrap();
    first.wait_for_line_after(mark, translated, SOON).unwrap();
    first.kill().unwrap();
    // And starts there.
    let second = laptop.spawn("laptop", &spoke(laptop, &hub, &["--ip", "10.0.0.2"])).unwrap();
    assert!(on_lan(&second).contains(translated), "{:?}", second.lines());
    ping(laptop, Lan::hub_address().into(), 56, SOON).unwrap();
}

#[test]
fn translators_with_any_prefix_and_hubs_by_a_name_without_ipv6_are_reached_too() {
    // Prefixes of RFC 6052 with ipv4only.arpa in them, and 192.0.2.1.
    for (well_known, hub_there, by_name) in [
        (["2001:db8:64:0:c0:0:aa00::", "2001:db8:64:0:c0:0:ab00::"], "2001:db8:64:0:c0:2:100::", true),
        (["2001:db8:c000:aa::", "2001:db8:c000:ab::"], "2001:db8:c000:201::", false),
    ] {
        let net = Net::named(&["laptop"]).unwrap();
        assert!(
            net.ipv6(),
            "this machine has no IPv6 (/proc/sys/net/ipv6 is missing): it can't be tested here"
        );
        let _hub = start_hub(&net, &Binaries::find().unwrap(), &[]).unwrap();
        let laptop = net.spoke(0);
        net.hub().ip(&format!("addr add {hub_there}/128 dev lo")).unwrap();
        let known = well_known.map(|text| text.parse().unwrap());
        serve_names(net.hub(), (Net::hub_v6(), 53), "ipv4only.arpa", known.to_vec());
        laptop.ip(&format!("route add {hub_there}/128 via {}", Net::hub_v6())).unwrap();
        laptop.ip(&format!("addr del {}/24 dev eth0", Net::spoke_v4(0))).unwrap();
        laptop.set_file("/etc/resolv.conf", &format!("nameserver {}\n", Net::hub_v6())).unwrap();
        // A person's own file knows of no translator.
        net.name_hub(0, "hub.example").unwrap();
        let hub = if by_name { "hub.example".to_owned() } else { Net::hub_v4().to_string() };
        let first = laptop.spawn("laptop", &spoke(laptop, &hub, &["--ip", "10.0.0.2"])).unwrap();
        let line = on_lan(&first);
        let hub_there: std::net::Ipv6Addr = hub_there.parse().unwrap();
        assert!(line.contains(&format!("[{hub_there}]:5678")), "{line}");
        ping(laptop, Lan::hub_address().into(), 56, SOON).unwrap();
        let mut check = Command::new(Binaries::find().unwrap().spoke);
        check.args(["check", "--hub", &hub]);
        run(laptop, check).good();
    }
}

#[test]
fn a_path_that_drops_long_packets_in_silence_is_used_with_short_ones() {
    let net = Net::new(3).unwrap();
    for (i, direction) in [None, Some(Direction::In), Some(Direction::Out)].into_iter().enumerate() {
        net.lose_longer(i, 1_400, direction).unwrap();
    }
    let lan = Lan::with(net, 3).unwrap();
    thread::scope(|scope| {
        for i in 0..3 {
            let lan = &lan;
            scope.spawn(move || fits(lan, i));
        }
    });
    for i in 0..3 {
        let mark = lan.spokes[i].mark();
        let (from, to) = (lan.net.spoke(i), lan.net.hub());
        transfer(from, to, Lan::hub_address().into(), 1_000_000).unwrap().finish().unwrap();
        transfer(to, from, Lan::address(i).into(), 1_000_000).unwrap().finish().unwrap();
        assert_eq!(lan.spokes[i].mark(), mark, "{:?}", lan.spokes[i].lines());
    }
}

/// Sends full packets until they arrive, which they do once the link was made with segments that fit.
fn fits(lan: &Lan, i: usize) {
    let found = full_packets_fit(lan.net.spoke(i), &lan.spokes[i], 1_360, Duration::from_secs(60)).unwrap();
    let status = house::ask_spoke(&lan.net, i, &["status"]).good();
    assert!(status.contains(&format!("problem: the path to the hub {found}")), "{status}");
}
