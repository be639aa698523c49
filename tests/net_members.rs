//! Members as they may be: what one offers, asks for or repeats takes nothing from another.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests of IO")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::house::wire::{Wire, random_key};
use crate::house::{
    self, Binaries, Host, Lan, Net, Process, SPOKE_ON_LAN, ask_hub, await_true, copy_state, make_state,
    ping_until, spawn_spoke, start_hub, state, transfer,
};
use common::wire::key::PrivateKey;

const SOON: Duration = Duration::from_secs(10);

/// Gives spoke `i` another outer address, from which it reaches the hub.
fn move_to(net: &Net, i: usize, address: IpAddr, hub: IpAddr) {
    let (all, quick) = if address.is_ipv4() { (32, "") } else { (128, " nodad") };
    net.spoke(i)
        .ip(&format!(
            "addr add {address}/{all} dev eth0{quick}\nroute replace {hub}/{all} dev eth0 src {address}"
        ))
        .unwrap();
}

/// Starts spoke `i` with these options and no others but its state directory and, unless they say which, its hub.
fn spawn_with(net: &Net, binaries: &Binaries, i: usize, options: &[&str]) -> Process {
    let mut command = Command::new(&binaries.spoke);
    command.arg("--state").arg(net.spoke(i).private().join("spoke")).args(options);
    if !options.contains(&"--hub") {
        command.args(["--hub", "192.0.2.1"]);
    }
    net.spoke(i).spawn(net.spoke(i).name(), &command).unwrap()
}

fn ip(host: &Host, arguments: &str) -> String {
    let mut command = Command::new("ip");
    command.args(arguments.split_ascii_whitespace());
    String::from_utf8(host.output(command).unwrap().stdout).unwrap()
}

/// Whether a spoke was told that another machine has its key.
fn is_told(spoke: &Process) -> bool {
    spoke.lines().iter().any(|line| line.contains("in use by another machine"))
}

/// A newcomer offers what holds the outer address of an older member, before that one is back.
struct Outside {
    offered: &'static str,
    older: IpAddr,
    other: IpAddr,
    hub: IpAddr,
}

#[test]
fn answers_of_the_hubs_machine_never_go_into_the_lan() {
    let (older, other) = (Ipv4Addr::new(172, 30, 9, 2).into(), Ipv4Addr::new(172, 30, 9, 3).into());
    let hub = Net::hub_v4().into();
    answers_stay_outside(&Outside { offered: "172.16.0.0/12", older, other, hub });
}

#[test]
fn answers_stay_outside_of_the_longest_prefix_too() {
    let (older, other) = (Ipv4Addr::new(172, 30, 9, 2).into(), Ipv4Addr::new(172, 30, 9, 3).into());
    let hub = Net::hub_v4().into();
    answers_stay_outside(&Outside { offered: "172.30.9.2/31", older, other, hub });
}

#[test]
fn answers_by_ipv6_stay_outside() {
    let [older, other] = [2, 3].map(|last| Ipv6Addr::new(0xfd30, 0, 9, 0, 0, 0, 0, last).into());
    let hub = Net::hub_v6().into();
    answers_stay_outside(&Outside { offered: "fd30::/16", older, other, hub });
}

fn answers_stay_outside(case: &Outside) {
    let &Outside { offered, older: outer, other, hub: hub_address } = case;
    let net = Net::new(3).unwrap();
    let binaries = Binaries::find().unwrap();
    let is_v6 = hub_address.is_ipv6();
    assert!(
        !is_v6 || net.ipv6(),
        "this machine has no IPv6 (/proc/sys/net/ipv6 is missing): it can't be tested here"
    );
    net.hub().ip(if is_v6 { "route add ::/0 dev eth0" } else { "route add default dev eth0" }).unwrap();
    move_to(&net, 0, outer, hub_address);
    move_to(&net, 2, other, hub_address);
    // As in a distribution that is strict about where packets come in.
    net.hub().run(|| {
        for device in ["all", "eth0"] {
            std::fs::write(format!("/proc/sys/net/ipv4/conf/{device}/rp_filter"), "1").unwrap();
        }
    });
    // Each port that the hub listens on is its own.
    let listen = ["--subnet", "fd00::/64", "--listen", "5678", "--listen", "8443"];
    let by = |port: u16| SocketAddr::new(hub_address, port).to_string();
    let hub = start_hub(&net, &binaries, &listen).unwrap();
    let older = spawn_with(&net, &binaries, 0, &["--hub", &by(5678)]);
    older.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
    older.kill().unwrap();
    hub.kill().unwrap();

    let hub = start_hub(&net, &binaries, &listen).unwrap();
    let newcomer = spawn_spoke(&net, &binaries, 1, &["--route", offered]).unwrap();
    newcomer.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
    hub.wait_for_line(&format!("route {offered} installed"), SOON).unwrap();
    // The hub's own kernel reaches through the LAN what is not its own.
    let device = ip(net.hub(), &format!("route get {other}"));
    assert!(device.contains("dev hub0"), "{device}");

    // Another service of the hub's machine, and a host that the hub knows nothing of.
    transfer(net.spoke(2), net.hub(), hub_address, 100_000).unwrap().finish().unwrap();
    for port in [5678, 8443] {
        let older = spawn_with(&net, &binaries, 0, &["--hub", &by(port)]);
        older.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
        ping_until(net.spoke(0), Lan::hub_address().into(), SOON).unwrap();
        transfer(net.spoke(0), net.hub(), Lan::hub_address().into(), 100_000).unwrap().finish().unwrap();
    }
    transfer(net.spoke(2), net.hub(), hub_address, 100_000).unwrap().finish().unwrap();

    // Nothing of it outlives the hub.
    hub.signal(nix::sys::signal::Signal::SIGTERM).unwrap();
    hub.wait_exit(SOON).unwrap();
    for family in ["-4", "-6"] {
        let rules = ip(net.hub(), &format!("{family} rule show"));
        assert!(!["32762", "32763"].iter().any(|priority| rules.contains(priority)), "{rules}");
    }
}

#[test]
fn a_way_out_of_the_hub_is_not_a_members_to_take() {
    let net = Net::new(2).unwrap();
    let binaries = Binaries::find().unwrap();
    let hub = start_hub(&net, &binaries, &["--route", "0.0.0.0/0"]).unwrap();
    let offered = "198.51.96.0/20";
    let taker = spawn_spoke(&net, &binaries, 0, &["--accept-route", "0.0.0.0/0"]).unwrap();
    taker.wait_for_line("route 0.0.0.0/0 installed", SOON).unwrap();
    let newcomer =
        spawn_spoke(&net, &binaries, 1, &["--route", offered, "--route", "192.168.5.0/24"]).unwrap();
    newcomer.wait_for_line(&format!("does not take the route {offered}"), SOON).unwrap();
    let line = hub.wait_for_line(&format!("the route {offered} of spoke1 is rejected"), SOON).unwrap();
    assert!(line.contains("grant it by route="), "{line}");
    taker.wait_for_line("route 192.168.5.0/24 installed", SOON).unwrap();
    assert!(!taker.lines().iter().any(|line| line.contains(offered)), "{:?}", taker.lines());

    // A person grants it.
    let file = state(net.hub(), "hub").join("members");
    let text = std::fs::read_to_string(&file).unwrap();
    let line = text.lines().find(|line| line.contains(" spoke1 ")).unwrap();
    std::fs::write(&file, text.replace(line, &format!("{line},{offered}"))).unwrap();
    ask_hub(&net, &["reload"]).good();
    taker.wait_for_line(&format!("route {offered} installed"), SOON).unwrap();
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains(offered), "the grant stays: {text}");
}

#[test]
fn no_part_of_a_way_out_is_a_members_to_take_in_either_family() {
    let net = Net::new(3).unwrap();
    let binaries = Binaries::find().unwrap();
    let halves = ["0.0.0.0/1", "128.0.0.0/1"];
    let ways_out = ["--subnet", "fd00::/64", "--route", "::/0", "--route", halves[0], "--route", halves[1]];
    let hub = start_hub(&net, &binaries, &ways_out).unwrap();
    let accept = ["--accept-route", "0.0.0.0/1", "--accept-route", "128.0.0.0/1", "--accept-route", "::/0"];
    let taker = spawn_spoke(&net, &binaries, 1, &accept).unwrap();
    for route in halves.into_iter().chain(["::/0"]) {
        taker.wait_for_line(&format!("route {route} installed"), SOON).unwrap();
    }
    let offered = ["198.51.96.0/20", "8.8.8.8/32", "64.0.0.0/3", "0.0.0.0/1", "2001:db8:5::/48", "2000::/3"];
    let options: Vec<&str> = offered.iter().flat_map(|prefix| ["--route", prefix]).collect();
    let newcomer = spawn_spoke(&net, &binaries, 2, &options).unwrap();
    for prefix in offered {
        newcomer.wait_for_line(&format!("does not take the route {prefix}"), SOON).unwrap();
        hub.wait_for_line(&format!("the route {prefix} of spoke2 is rejected"), SOON).unwrap();
    }
    newcomer.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
    ping_until(net.spoke(1), Lan::address(2).into(), SOON).unwrap();
    let routes =
        ["-4", "-6"].map(|family| ip(net.spoke(1), &format!("{family} route show table all"))).concat();
    let is_taken = |prefix: &&&str| routes.contains(prefix.trim_end_matches("/32"));
    let taken: Vec<_> = offered.iter().filter(is_taken).collect();
    assert_eq!(taken, [&halves[0]], "{routes}");
}

#[test]
fn a_key_that_joins_without_end_is_put_off() {
    let net = Net::new(2).unwrap();
    let binaries = Binaries::find().unwrap();
    let hub = start_hub(&net, &binaries, &[]).unwrap();
    let other = spawn_spoke(&net, &binaries, 1, &[]).unwrap();
    other.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
    let (key, at) = (random_key().unwrap(), (Net::hub_v4(), 5678).into());
    let (start, mut joins, mut tries) = (Instant::now(), 0, 0);
    while start.elapsed() < Duration::from_secs(3) {
        let wire = Wire::connect(net.spoke(0), at, SOON).unwrap();
        joins += u32::from(wire.join(&key, Lan::address(0)).is_ok());
        tries += 1;
    }
    let most = 6 + start.elapsed().as_secs() as u32;
    assert!(tries > 30 && (5..=most).contains(&joins), "{joins} joins of {tries} in {:?}", start.elapsed());
    hub.wait_for_line("joins too often", SOON).unwrap();
    ping_until(net.spoke(1), Lan::hub_address().into(), SOON).unwrap();
    assert!(hub.lines().len() < 60, "{} lines", hub.lines().len());
}

#[test]
fn however_many_ask_for_an_address_its_holder_is_asked_once() {
    let net = Net::new(2).unwrap();
    let binaries = Binaries::find().unwrap();
    let _hub = start_hub(&net, &binaries, &[]).unwrap();
    let at = (Net::hub_v4(), 5678).into();
    let holder = Wire::connect(net.spoke(0), at, SOON).unwrap();
    let mut holder = holder.join(&random_key().unwrap(), Lan::address(0)).unwrap();
    let is_over = AtomicBool::new(false);
    let (pings, tries, took) = thread::scope(|scope| {
        let asked = scope.spawn(|| holder.answer_pings(&is_over).unwrap());
        let (start, mut tries) = (Instant::now(), 0);
        while start.elapsed() < Duration::from_secs(6) {
            let asked = Wire::connect(net.spoke(1), at, SOON)
                .and_then(|wire| wire.join(&random_key().unwrap(), Lan::address(0)));
            // An address that fails again and again is turned away for a while.
            tries += u32::from(asked.is_err_and(|why| format!("{why:?}").contains("AddressHeld")));
        }
        is_over.store(true, Ordering::Relaxed);
        (asked.join().unwrap(), tries, start.elapsed())
    });
    assert!(tries >= 20, "{tries} tries in {took:?}");
    // The tunnel's own, every 4 s, and one question in 2 s.
    assert!(pings <= 8, "{pings} pings for {tries} tries in {took:?}");
}

#[test]
fn what_an_earlier_version_took_keeps_no_hub_from_starting() {
    let net = Net::new(1).unwrap();
    let binaries = Binaries::find().unwrap();
    let directory = make_state(net.hub(), "hub").unwrap();
    let [one, two, three] = [1_u8, 2, 3].map(|seed| PrivateKey::from_random([seed; 32]).public());
    let low_order = format!("{}=", "A".repeat(43));
    let text = format!(
        "{one} laptop 10.0.0.9\n{two} Laptop 10.0.0.10\n{low_order} any 10.0.0.11\n{three} localhost 10.0.0.12\n"
    );
    std::fs::write(directory.join("members"), &text).unwrap();
    let hub = start_hub(&net, &binaries, &[]).unwrap();
    for line in ["line 2 is passed over", "line 3 is passed over"] {
        hub.wait_for_line(line, SOON).unwrap();
    }
    let spoke = spawn_spoke(&net, &binaries, 0, &[]).unwrap();
    spoke.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
    let now = std::fs::read_to_string(directory.join("members")).unwrap();
    assert!(now.starts_with(&text), "{now}");
    let status = ask_hub(&net, &["status"]).good();
    assert!(status.contains("1 of 3 members online"), "{status}");
}

#[test]
fn a_clone_is_told_of_and_does_not_take_turns() {
    let net = Net::new(2).unwrap();
    let binaries = Binaries::find().unwrap();
    let hub = start_hub(&net, &binaries, &[]).unwrap();
    let first = spawn_spoke(&net, &binaries, 0, &[]).unwrap();
    first.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
    copy_state(&state(net.spoke(0), "spoke"), &state(net.spoke(1), "spoke")).unwrap();
    let clone = spawn_with(&net, &binaries, 1, &["--name", "spoke0", "--ip", "10.0.0.2"]);
    let line = hub.wait_for_line("two machines with the same key", Duration::from_secs(60)).unwrap();
    assert!(line.contains("192.0.2.10") && line.contains("192.0.2.11"), "{line}");
    clone.wait_for_line("in use by another machine", SOON).unwrap();
    clone.wait_for_line("delete the file `key`", SOON).unwrap();
    let json = ask_hub(&net, &["status", "--json"]).good();
    assert!(json.contains("\"also_from\":\"192.0.2.11\""), "{json}");
    let status = ask_hub(&net, &["status"]).good();
    assert!(status.contains("two machines with one key"), "{status}");
    // From now on the first one stays.
    let mark = hub.mark();
    std::thread::sleep(Duration::from_secs(12));
    assert!(!hub.lines()[mark..].iter().any(|line| line.contains("on the LAN")), "{:?}", hub.lines());
    ping_until(net.spoke(0), Lan::hub_address().into(), SOON).unwrap();
}

#[test]
fn an_automatic_address_is_none_that_a_person_would_choose() {
    let net = Net::new(2).unwrap();
    let binaries = Binaries::find().unwrap();
    let _hub = start_hub(&net, &binaries, &[]).unwrap();
    let automatic = spawn_with(&net, &binaries, 0, &[]);
    automatic.wait_for_line("on the LAN as 10.0.0.254", SOON).unwrap();
    // As in README.md.
    let chosen = spawn_with(&net, &binaries, 1, &["--ip", "10.0.0.2"]);
    chosen.wait_for_line("on the LAN as 10.0.0.2 ", SOON).unwrap();
}

/// Joins as spoke `i` on its own host; its address.
fn address_of(net: &Net, binaries: &Binaries, i: usize, options: &[&str]) -> (String, Process) {
    let spoke = spawn_with(net, binaries, i, options);
    let line = spoke.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
    let rest = line.split_once(SPOKE_ON_LAN).unwrap().1;
    (rest.split_once(" (").unwrap().0.to_owned(), spoke)
}

#[test]
fn automatic_addresses_keep_clear_of_chosen_ones_wherever_they_are_chosen() {
    // Among the highest of a small subnet, of both families; and by a line of the list, for one who was never here.
    let net = Net::new(4).unwrap();
    let binaries = Binaries::find().unwrap();
    let hub = ["--subnet", "fd00::/125"];
    let directory = make_state(net.hub(), "hub").unwrap();
    let absent = PrivateKey::from_random([9; 32]).public();
    std::fs::write(directory.join("members"), format!("{absent} absent 10.0.0.253,fd00::6\n")).unwrap();
    let _hub = start_hub(&net, &binaries, &hub).unwrap();
    let (chosen, _first) = address_of(&net, &binaries, 0, &["--ip", "10.0.0.254", "--ip", "fd00::7"]);
    assert_eq!(chosen, "10.0.0.254 and fd00::7");
    let (automatic, second) = address_of(&net, &binaries, 1, &[]);
    assert_eq!(automatic, "10.0.0.252 and fd00::5");
    let (mixed, _third) = address_of(&net, &binaries, 2, &["--ip", "10.0.0.251"]);
    assert_eq!(mixed, "10.0.0.251 and fd00::4");
    // A person who chooses the address of one who got it by itself is told whose it is, and that one keeps it.
    let refused = spawn_with(&net, &binaries, 3, &["--ip", "10.0.0.252"]);
    refused.wait_for_line("10.0.0.252 is held by spoke1: choose another with --ip", SOON).unwrap();
    second.kill().unwrap();
    drop(refused);
    let (again, _second) = address_of(&net, &binaries, 1, &[]);
    assert_eq!(again, automatic);
}

#[test]
fn of_three_clones_one_stays_and_each_is_told_once() {
    let net = Net::new(3).unwrap();
    let binaries = Binaries::find().unwrap();
    let hub = start_hub(&net, &binaries, &[]).unwrap();
    let options = ["--name", "spoke0", "--ip", "10.0.0.2"];
    let first = spawn_with(&net, &binaries, 0, &options);
    first.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
    let clones = [1, 2].map(|i| {
        copy_state(&state(net.spoke(0), "spoke"), &state(net.spoke(i), "spoke")).unwrap();
        spawn_with(&net, &binaries, i, &options)
    });
    const WARNING: &str = "two machines with the same key";
    hub.wait_for_line(WARNING, Duration::from_secs(60)).unwrap();
    let all = [&first, &clones[0], &clones[1]];
    let told = || all.iter().filter(|spoke| is_told(spoke)).count();
    await_true("two to be told", Duration::from_secs(60), || told() >= 2);
    // Each pair of machines is named, and then there is silence: nobody takes turns.
    let mark = hub.mark();
    thread::sleep(Duration::from_secs(25));
    let since = &hub.lines()[mark..];
    assert!(!since.iter().any(|line| line.contains("on the LAN")), "{since:?}");
    let warnings = hub.lines().iter().filter(|line| line.contains(WARNING)).count();
    assert!(warnings <= 2, "{warnings} warnings: {:?}", hub.lines());
    ping_until(net.hub(), Lan::address(0).into(), SOON).unwrap();
}

#[test]
fn a_clone_behind_the_same_address_as_its_original_is_told_of_too() {
    // Two machines behind one router, as at home or in a cloud.
    let net = Net::named(&["router"]).unwrap();
    let binaries = Binaries::find().unwrap();
    let router = net.spoke(0);
    let machines = [([192, 168, 7], "lan0"), ([192, 168, 8], "lan1")]
        .map(|(network, device)| house::host_behind(router, device, device, network).unwrap());
    router
        .nft("table ip nat {\nchain out {\ntype nat hook postrouting priority srcnat\noifname \"eth0\" masquerade\n}\n}\n")
        .unwrap();
    let hub = start_hub(&net, &binaries, &[]).unwrap();
    let start = |host: &Host| {
        let mut command = Command::new(&binaries.spoke);
        command.args(["--hub", "192.0.2.1", "--name", "twin", "--ip", "10.0.0.2", "--state"]);
        command.arg(host.private().join("spoke"));
        host.spawn("twin", &command).unwrap()
    };
    let first = start(&machines[0]);
    first.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
    copy_state(&state(&machines[0], "spoke"), &state(&machines[1], "spoke")).unwrap();
    let second = start(&machines[1]);
    let line = hub.wait_for_line("two machines with the same key", Duration::from_secs(60)).unwrap();
    // Only the ports tell them apart.
    let sources = line.matches("192.0.2.10:").count();
    assert_eq!(sources, 2, "{line}");
    await_true("one to be told", Duration::from_secs(20), || is_told(&first) || is_told(&second));
    let mark = hub.mark();
    thread::sleep(Duration::from_secs(12));
    assert!(!hub.lines()[mark..].iter().any(|line| line.contains("on the LAN")), "{:?}", hub.lines());
    let warnings = hub.lines().iter().filter(|line| line.contains("two machines")).count();
    assert_eq!(warnings, 1, "{:?}", hub.lines());
}
