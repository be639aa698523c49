//! The list of members in etcd: which hub keeps it, and what holds while parts of it are away.

use std::fs;
use std::net::Ipv4Addr;
use std::process::Command;
use std::time::{Duration, Instant};

use super::kept::{A, B, C, DESK, LAPTOP, World};
use super::world::SOON;
use crate::house::{Authority, Net, Process, SPOKE_ON_LAN, Valid, await_true, is_missing, place, run, state};

/// Hubs, each with a process of etcd and `hub store` on its host.
struct Stored {
    stores: [Option<Process>; 3],
    etcds: [Option<Process>; 3],
    world: World,
}

fn address(hub: usize) -> Ipv4Addr {
    if hub == A { Net::hub_v4() } else { Net::spoke_v4(hub - 1) }
}

impl Stored {
    /// Three hubs, of which the first keeps the list; etcd holds it.
    fn new() -> Stored {
        let mut stored =
            Stored { stores: [None, None, None], etcds: [None, None, None], world: World::new() };
        for hub in [A, B, C] {
            stored.start_etcd(hub);
        }
        stored.start_store(A);
        await_true("the list is in etcd", SOON, || stored.keeps(A));
        for hub in [B, C] {
            stored.world.invite(A, hub);
            stored.start_store(hub);
        }
        stored.world.await_linked(B, C);
        stored
    }

    fn start_etcd(&mut self, hub: usize) {
        let host = self.world.host(hub);
        let url = |hub: usize, port: u16| format!("http://{}:{port}", address(hub));
        let peers = [A, B, C].map(|hub| format!("e{hub}={}", url(hub, 2380))).join(",");
        let mut command = Command::new("etcd");
        command.args(["--name", &format!("e{hub}"), "--data-dir"]).arg(host.private().join("etcd"));
        for (flag, port) in [
            ("--listen-peer-urls", 2380),
            ("--initial-advertise-peer-urls", 2380),
            ("--listen-client-urls", 2379),
            ("--advertise-client-urls", 2379),
        ] {
            command.args([flag, &url(hub, port)]);
        }
        command.args(["--initial-cluster", &peers, "--initial-cluster-state", "new", "--log-level", "error"]);
        self.etcds[hub] = Some(host.spawn("etcd", &command).unwrap());
    }

    fn start_store(&mut self, hub: usize) {
        let host = self.world.host(hub);
        let mut command = Command::new(&self.world.binaries.hub);
        // That on its own machine first.
        command.arg("store").arg(format!("http://{}:2379", address(hub)));
        for other in [A, B, C].into_iter().filter(|other| *other != hub) {
            command.args(["--endpoint", &format!("http://{}:2379", address(other))]);
        }
        command.arg("--state").arg(host.private().join("hub"));
        self.stores[hub] = Some(host.spawn("store", &command).unwrap());
    }

    /// Whether this hub keeps the list, in etcd.
    fn keeps(&self, hub: usize) -> bool {
        let keeper = &self.world.status(hub)["keeper"];
        keeper["this"] == true && keeper["store"] == true && keeper["reached"] == true
    }

    /// The one of these hubs that keeps the list, once there is one.
    fn await_keeper(&self, hubs: &[usize]) -> (usize, Duration) {
        let start = Instant::now();
        await_true("a hub that keeps the list", SOON, || hubs.iter().any(|&hub| self.keeps(hub)));
        (*hubs.iter().find(|&&hub| self.keeps(hub)).unwrap(), start.elapsed())
    }

    /// The endpoint that leads the cluster.
    fn leader(&self) -> usize {
        let mut command = Command::new("etcdctl");
        let endpoints = [A, B, C].map(|hub| format!("http://{}:2379", address(hub))).join(",");
        command.env("ETCDCTL_API", "3").args(["--endpoints", &endpoints, "endpoint", "status", "-w", "json"]);
        let said = run(self.world.host(A), command).good();
        let status: serde_json::Value = serde_json::from_str(&said).unwrap();
        let leads = |one: &serde_json::Value| one["Status"]["leader"] == one["Status"]["header"]["member_id"];
        let found = status.as_array().unwrap().iter().position(leads);
        found.unwrap()
    }

    /// What etcd has below this name.
    fn in_etcd(&self, below: &str) -> String {
        let mut command = Command::new("etcdctl");
        let endpoints = [A, B, C].map(|hub| format!("http://{}:2379", address(hub))).join(",");
        command.env("ETCDCTL_API", "3").args(["--endpoints", &endpoints, "get", "--prefix", below]);
        run(self.world.host(A), command).good()
    }

    /// Cuts the first hub and its process of etcd off from all others and one of the spokes.
    fn cut_off_first(&self) {
        let others = format!("{{ {}, {}, {} }}", address(B), address(C), Net::spoke_v4(DESK));
        self.world.host(A).part_from(&others).unwrap();
    }

    /// Has the next spoke on this host come with a key that nobody knows.
    fn forget(&self, host: usize) {
        let state = state(self.world.net.spoke(host), "spoke");
        if state.exists() {
            fs::remove_dir_all(state).unwrap();
        }
    }

    /// How long it takes until a machine is let in that no hub knows.
    fn newcomer(&mut self, host: usize, name: &str, hub: usize) -> Duration {
        self.world.spokes.retain(|(of, _)| *of != host);
        self.forget(host);
        let start = Instant::now();
        self.world.spoke(host, &["--hub", &World::place(hub), "--name", name], SPOKE_ON_LAN);
        start.elapsed()
    }
}

#[test]
fn the_list_in_etcd_outlives_the_hub_that_keeps_it_and_etcds_leader() {
    if is_missing("etcd", "etcd-server") || is_missing("etcdctl", "etcd-client") {
        return;
    }
    let _place = place();
    let mut stored = Stored::new();
    let took = stored.newcomer(LAPTOP, "one", B);
    println!("a newcomer is let in within {took:?}");
    let list = stored.in_etcd("/hub/list/member/");
    for name in [" one 10.0.0.251", " hub-b 10.0.0.253 hub=", " hub-c "] {
        assert!(list.contains(name), "{name}: {list}");
    }

    // The hub that keeps the list is killed: another one does, with the list of before.
    stored.world.kill(A);
    let (keeper, took) = stored.await_keeper(&[B, C]);
    println!("another hub keeps the list after {took:?}");
    assert!(took < Duration::from_secs(3), "{took:?}");
    let took = stored.newcomer(DESK, "two", B);
    println!("a newcomer then: {took:?}");
    assert!(stored.in_etcd("/hub/list/member/").contains(" two 10.0.0."));
    // It comes back as one of the others, though it has lost the list.
    fs::remove_file(state(stored.world.host(A), "hub").join("members")).unwrap();
    stored.world.start(A);
    stored.world.ask(A, &["keep"]).fails("this hub has yet to be told the list");
    await_true("it knows the keeper", SOON, || {
        let status = &stored.world.status(A)["keeper"];
        status["this"] == false && status["reached"] == true
    });
    await_true("it has the list", SOON, || {
        stored.world.members(A).iter().any(|line| line.starts_with("two 10.0.0."))
    });

    // etcd's leader is killed.
    let leader = stored.leader();
    stored.etcds[leader].take().unwrap().kill().unwrap();
    let took = stored.newcomer(DESK, "three", keeper);
    println!("etcd's leader is killed: a newcomer is let in after {took:?}");
    // As where the cluster is cut in two, below; the lease ends where etcd elects twice, and another hub may keep the list.
    assert!(took < Duration::from_secs(8), "{took:?}");
    let (keeper, _) = stored.await_keeper(&[A, B, C]);

    // Without a majority, who is known comes and goes, and who is new hears why it has to wait.
    let second = stored.leader_of_rest(leader);
    stored.etcds[second].take().unwrap().kill().unwrap();
    await_true("the keeper says so, though nothing changes", SOON, || {
        let said = stored.world.ask(keeper, &["status"]).good();
        said.contains("etcd does not answer") && said.contains("known machines can join, new ones wait")
    });
    stored.world.spokes.retain(|(of, _)| *of != LAPTOP);
    stored.world.spoke(LAPTOP, &["--hub", &World::place(keeper), "--name", "one"], SPOKE_ON_LAN);
    stored.world.spokes.retain(|(of, _)| *of != DESK);
    stored.forget(DESK);
    stored.world.spoke(
        DESK,
        &["--hub", &World::place(keeper), "--name", "four"],
        "known machines can join, new ones have to wait",
    );
    for hub in [leader, second] {
        stored.start_etcd(hub);
    }
    stored.world.said(DESK).wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
    assert!(stored.in_etcd("/hub/list/member/").contains(" four "));
}

#[test]
fn the_list_of_the_hub_that_a_person_has_keep_it_goes_before_that_in_etcd() {
    if is_missing("etcd", "etcd-server") || is_missing("etcdctl", "etcd-client") {
        return;
    }
    let _place = place();
    let mut stored = Stored::new();
    // While `hub store` runs, etcd gets the list of that hub, which keeps it in etcd.
    stored.world.ask(B, &["keep"]).good();
    await_true("it keeps the list in etcd", SOON, || {
        stored.keeps(B) && [A, C].iter().all(|&hub| stored.world.status(hub)["keeper"]["this"] == false)
    });
    stored.newcomer(LAPTOP, "one", C);
    assert!(stored.in_etcd("/hub/list/member/").contains(" one "));
    // Without it, the list is in that hub's files, and etcd's is an old one.
    for hub in [A, B, C] {
        stored.stores[hub].take().unwrap().kill().unwrap();
    }
    assert_eq!(stored.world.ask(C, &["keep"]).good(), "this hub keeps the list of members\n");
    await_true("the others know", SOON, || stored.world.status(A)["keeper"]["name"] == "hub-c");
    stored.newcomer(DESK, "two", A);
    assert!(!stored.in_etcd("/hub/list/member/").contains(" two "));
    stored.start_store(A);
    let says = "etcd has an old list, and another hub keeps it: run `hub store` there, or `hub keep` here";
    stored.stores[A].as_ref().unwrap().wait_for_line(says, SOON).unwrap();
    stored.start_store(C);
    await_true("it keeps the list in etcd", SOON, || stored.keeps(C));
    await_true("etcd has it", SOON, || stored.in_etcd("/hub/list/member/").contains(" two "));
    for hub in [A, B, C] {
        let lines = stored.world.members(hub);
        let is_there = |name: &str| lines.iter().any(|line| line.starts_with(name));
        assert!(is_there("one ") && is_there("two "), "{lines:?}");
    }
    // The hub that keeps it dies while the others' processes run: one of them takes over all of it.
    stored.start_store(B);
    stored.world.kill(C);
    let (keeper, _) = stored.await_keeper(&[A, B]);
    assert!(stored.world.members(keeper).iter().any(|line| line.starts_with("two ")));
}

#[test]
fn what_a_person_says_at_a_hub_that_is_cut_off_goes_before_what_etcd_has_decided_meanwhile() {
    if is_missing("etcd", "etcd-server") || is_missing("etcdctl", "etcd-client") {
        return;
    }
    let _place = place();
    let stored = Stored::new();
    stored.cut_off_first();
    stored.await_keeper(&[B, C]);
    let world = &stored.world;
    await_true("the store takes no changes there", SOON, || world.status(A)["keeper"]["reached"] == false);
    world.ask(A, &["keep"]).good();
    world.ask(A, &["invite", "guest", "--ip", "10.0.0.77"]).good();
    world.host(A).rejoin().unwrap();
    await_true("it keeps the list, in etcd", SOON, || {
        stored.keeps(A) && [B, C].iter().all(|&hub| world.status(hub)["keeper"]["name"] == "hub")
    });
    await_true("all have its list", SOON, || {
        [A, B, C].iter().all(|&hub| world.status(hub)["invites"] == 1)
            && stored.in_etcd("/hub/list/invite/").contains("10.0.0.77")
    });
    // Longer than a lease: the others' processes would have taken over by then.
    std::thread::sleep(Duration::from_secs(6));
    assert!(stored.keeps(A), "nobody takes it back");
}

#[test]
fn where_hubs_and_etcd_are_cut_in_two_nobody_gets_what_another_has() {
    if is_missing("etcd", "etcd-server") || is_missing("etcdctl", "etcd-client") {
        return;
    }
    let _place = place();
    let mut stored = Stored::new();
    // The hub that keeps the list, with its process of etcd, is on one side with a newcomer; the others with another one.
    stored.cut_off_first();
    let (keeper, took) = stored.await_keeper(&[B, C]);
    println!("cut in two, the other side has a keeper after {took:?}");
    // An election of etcd takes one to two seconds, and a second one where the first is a draw; then a lease of two ends.
    assert!(took < Duration::from_secs(8), "{took:?}");
    let ip = ["--ip", "10.0.0.9"];
    let says = "known machines can join, new ones have to wait";
    let a = World::place(A);
    stored.world.spoke(LAPTOP, &[&["--hub", &a, "--name", "twin"], &ip[..]].concat(), says);
    let place = World::place(keeper);
    stored.world.spoke(DESK, &[&["--hub", &place, "--name", "twin"], &ip[..]].concat(), SPOKE_ON_LAN);
    // Healed, the first one hears that the address is taken, at whichever hub; the name it has with a number.
    stored.world.host(A).rejoin().unwrap();
    await_true("one keeper", SOON, || stored.world.status(A)["keeper"]["this"] == false);
    let says = "10.0.0.9 is held by twin";
    stored.world.said(LAPTOP).wait_for_line(says, SOON).unwrap();
    for hub in [A, B, C] {
        let held = |line: &&String| line.contains("10.0.0.9 ");
        await_true("the same list everywhere", SOON, || {
            stored.world.members(hub).iter().filter(held).count() == 1
        });
    }
    assert_eq!(stored.in_etcd("/hub/list/member/").matches("10.0.0.9").count(), 1);
}

#[test]
fn etcd_may_want_a_certificate_and_shows_its_own() {
    if is_missing("etcd", "etcd-server") {
        return;
    }
    let _place = place();
    let world = World::new();
    let authority = Authority::new().unwrap();
    let (host, at) = (world.host(A), address(A));
    authority.issue("etcd", &format!("IP:{at}"), Valid::Now).unwrap();
    authority.issue("store", "DNS:store", Valid::Now).unwrap();
    let file = |name: &str| authority.argument(name);
    let mut command = Command::new("etcd");
    command.args(["--name", "one", "--log-level", "error", "--data-dir"]).arg(host.private().join("etcd"));
    for flag in ["--listen-client-urls", "--advertise-client-urls"] {
        command.args([flag, &format!("https://{at}:2379")]);
    }
    command.args(["--client-cert-auth", "--trusted-ca-file", &file("ca.pem")]);
    command.args(["--cert-file", &file("etcd.pem"), "--key-file", &file("etcd.key")]);
    let _etcd = host.spawn("etcd", &command).unwrap();
    let store = |words: &[&str]| {
        let mut command = Command::new(&world.binaries.hub);
        command.args(["store", &format!("https://{at}:2379")]).args(words);
        command.arg("--state").arg(host.private().join("hub"));
        host.spawn("store", &command).unwrap()
    };
    let ca = ["--ca", &file("ca.pem")];
    store(&[]).wait_for_line("etcd does not answer", SOON).unwrap();
    store(&ca).wait_for_line("etcd does not answer", SOON).unwrap();
    let own = ["--cert", &file("store.pem"), "--key", &file("store.key")];
    let good = store(&[&ca[..], &own[..]].concat());
    good.wait_for_line("etcd has the list from the hub", SOON).unwrap();
    await_true("the list is in etcd", SOON, || world.status(A)["keeper"]["reached"] == true);
    let confined = fs::read_to_string(format!("/proc/{}/status", good.pid())).unwrap();
    for line in ["Seccomp:\t2", "NoNewPrivs:\t1", "CapBnd:\t0000000000000000"] {
        assert!(confined.contains(line), "{line}: {confined}");
    }
    // One that is started anew beside the same hub takes up the work by itself.
    good.kill().unwrap();
    let good = store(&[&ca[..], &own[..]].concat());
    good.wait_for_line("the hub has the list from etcd", SOON).unwrap();
    world.ask(A, &["invite", "laptop"]).good();
    // What is typed wrongly is said, with what to do.
    for (words, why) in [
        (&["--cert", "x"][..], "--cert x: No such file"),
        (&own[..2], "--cert and --key go together"),
        (&["--ca", &file("ca.key")], "--ca: there is no certificate in it"),
    ] {
        let mut command = Command::new(&world.binaries.hub);
        command.args(["store", "https://[::1]:2379"]).args(words);
        run(host, command).fails_with(2, why);
    }
}

impl Stored {
    /// One that runs beside the one that was killed.
    fn leader_of_rest(&self, killed: usize) -> usize {
        [A, B, C].into_iter().find(|&hub| hub != killed).unwrap()
    }
}
