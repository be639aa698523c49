//! Hubs that share one list, which one of them keeps: who joins where, and what holds while the keeper is away.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::world::SOON;
use crate::house::{
    self, Binaries, HUB_LISTENS, Host, Net, Process, SPOKE_ON_LAN, Said, ask_spoke, await_true, make_state,
    place, run, state,
};

/// The hubs, and whose host each is.
pub(super) const A: usize = 0;
pub(super) const B: usize = 1;
pub(super) const C: usize = 2;
/// The hosts of spokes.
pub(super) const LAPTOP: usize = 2;
pub(super) const DESK: usize = 3;
pub(super) const NAS: usize = 4;

pub(super) struct World {
    pub(super) spokes: Vec<(usize, Process)>,
    hubs: [Option<Process>; 3],
    /// What each hub is started with.
    lines: [Vec<String>; 3],
    pub(super) net: Net,
    pub(super) binaries: Binaries,
}

impl World {
    /// One hub, and nobody else.
    pub(super) fn new() -> World {
        World::in_subnet("10.0.0.0/24")
    }

    /// The same in this subnet.
    pub(super) fn in_subnet(subnet: &str) -> World {
        house::require_tun().unwrap();
        let net = Net::named(&["hub-b", "hub-c", "laptop", "desk", "nas"]).unwrap();
        let mut world = World {
            spokes: Vec::new(),
            hubs: [None, None, None],
            lines: [vec!["--subnet".to_owned(), subnet.to_owned()], Vec::new(), Vec::new()],
            net,
            binaries: Binaries::find().unwrap(),
        };
        world.start(A);
        world
    }

    /// Two hubs, of which the first keeps the list.
    pub(super) fn of_two() -> World {
        let mut world = World::new();
        world.invite(A, B);
        world
    }

    pub(super) fn host(&self, hub: usize) -> &Host {
        if hub == A { self.net.hub() } else { self.net.spoke(hub - 1) }
    }

    pub(super) fn place(hub: usize) -> String {
        let at = if hub == A { Net::hub_v4() } else { Net::spoke_v4(hub - 1) };
        format!("{at}:5678")
    }

    pub(super) fn start(&mut self, hub: usize) {
        let host = self.host(hub);
        if !state(host, "hub").exists() {
            make_state(host, "hub").unwrap();
        }
        let mut command = Command::new(&self.binaries.hub);
        command.args(&self.lines[hub]).arg("--state").arg(host.private().join("hub"));
        let process = host.spawn(["hub-a", "hub-b", "hub-c"][hub], &command).unwrap();
        process.wait_for_line(HUB_LISTENS, SOON).unwrap();
        self.hubs[hub] = Some(process);
    }

    /// Stops it as a service is stopped.
    pub(super) fn stop(&mut self, hub: usize) {
        let process = self.hubs[hub].take().unwrap();
        process.signal(nix::sys::signal::Signal::SIGTERM).unwrap();
        process.wait_exit(Duration::from_secs(5)).unwrap();
    }

    pub(super) fn kill(&mut self, hub: usize) {
        self.hubs[hub].take().unwrap().kill().unwrap();
    }

    /// Has one hub invite another, which is started with the line that this prints.
    pub(super) fn invite(&mut self, by: usize, hub: usize) {
        let (name, place) = (["hub-a", "hub-b", "hub-c"][hub], World::place(by));
        let line = self.ask(by, &["invite", name, "--hub", "--host", &place]).good();
        let words = line.trim().strip_prefix("hub ").unwrap().split(' ');
        self.lines[hub] = words.map(str::to_owned).collect();
        self.start(hub);
        self.await_linked(by, hub);
    }

    pub(super) fn await_linked(&self, one: usize, other: usize) {
        for (at, to) in [(one, other), (other, one)] {
            let place = World::place(to);
            let is_it = |hub: &Value| hub["place"] == place.as_str() && hub["link"].is_object();
            await_true("a link", SOON, || self.status(at)["hubs"].as_array().unwrap().iter().any(is_it));
        }
    }

    pub(super) fn ask(&self, hub: usize, words: &[&str]) -> Said {
        let host = self.host(hub);
        let mut command = Command::new(&self.binaries.hub);
        command.args(words).arg("--state").arg(host.private().join("hub"));
        run(host, command)
    }

    pub(super) fn status(&self, hub: usize) -> Value {
        serde_json::from_str(&self.ask(hub, &["status", "--json"]).good()).unwrap()
    }

    /// The members as a hub has them: names, with addresses and where they are, in the order of names.
    pub(super) fn members(&self, hub: usize) -> Vec<String> {
        let one = |member: &Value| {
            let home = if member["link"].is_object() {
                "here"
            } else {
                member["home"].as_str().unwrap_or("nowhere")
            };
            format!(
                "{} {} {home}",
                member["name"].as_str().unwrap(),
                member["addresses"][0].as_str().unwrap_or("-")
            )
        };
        self.status(hub)["members"].as_array().unwrap().iter().map(one).collect()
    }

    pub(super) fn await_members(&self, hub: usize, expected: &[&str]) {
        let mut seen = Vec::new();
        let what = format!("{expected:?} at hub {hub}");
        await_true(&what, SOON, || {
            let now = self.members(hub);
            if now != seen {
                println!("hub {hub}: {now:?}");
                seen = now;
            }
            seen == expected
        });
    }

    /// Starts a spoke with these words, and waits until it says so.
    pub(super) fn spoke(&mut self, host: usize, words: &[&str], says: &str) {
        let machine = self.net.spoke(host);
        let mut command = Command::new(&self.binaries.spoke);
        command.args(words).arg("--state").arg(machine.private().join("spoke"));
        let spoke = machine.spawn(machine.name(), &command).unwrap();
        spoke.wait_for_line(says, SOON).unwrap();
        self.spokes.push((host, spoke));
    }

    pub(super) fn said(&self, host: usize) -> &Process {
        &self.spokes.iter().rev().find(|(of, _)| *of == host).unwrap().1
    }
}

#[test]
fn hubs_join_by_an_invite_and_newcomers_and_commands_are_good_at_each() {
    let _place = place();
    let mut world = World::of_two();
    // The third one is invited by the one that does not keep the list.
    world.invite(B, C);
    world.await_linked(A, C);
    // Who may join is logged once the list is told that says it.
    let said = world.hubs[B].as_ref().unwrap();
    said.wait_for_line("open: anyone who reaches port 5678 can join the LAN", SOON).unwrap();
    assert!(!said.lines().iter().any(|line| line.contains("locked: ")), "{:?}", said.lines());
    for hub in [A, B, C] {
        let status = world.status(hub);
        assert_eq!(
            (&status["keeper"]["this"], &status["keeper"]["reached"]),
            (&(hub == A).into(), &true.into())
        );
        assert_eq!(status["subnets"][0], "10.0.0.0/24");
    }
    let name_a = world.status(A)["keeper"]["name"].as_str().unwrap().to_owned();
    assert_eq!(world.status(C)["keeper"]["name"], name_a.as_str());

    // A newcomer at a hub that does not keep the list.
    world.spoke(LAPTOP, &["--hub", &World::place(B), "--name", "laptop"], SPOKE_ON_LAN);
    world.spoke(DESK, &["--hub", &World::place(C), "--name", "desk"], SPOKE_ON_LAN);
    for hub in [A, B, C] {
        let at = |home: usize, name: &str| if hub == home { "here".to_owned() } else { name.to_owned() };
        let mut list = [
            format!("desk 10.0.0.250 {}", at(C, "hub-c")),
            format!("{name_a} 10.0.0.254 {name_a}"),
            "hub-b 10.0.0.253 hub-b".to_owned(),
            "hub-c 10.0.0.252 hub-c".to_owned(),
            format!("laptop 10.0.0.251 {}", at(B, "hub-b")),
        ];
        list.sort();
        world.await_members(hub, &list.iter().map(String::as_str).collect::<Vec<_>>());
    }
    // The name of a hub is that of its own address; that of the nearest one, which each hub has, is another.
    for (name, address) in [("hub-b", "10.0.0.253\n"), ("hub-b-2", "10.0.0.1\n")] {
        assert_eq!(ask_spoke(&world.net, LAPTOP, &["resolve", name]).good(), address, "{name}");
    }
    // Who is at another hub is online, and hubs are counted apart.
    let text = world.ask(A, &["status"]).good();
    assert!(text.contains(": 0 of 2 members online, 2 with other hubs"), "{text}");
    let text = world.ask(B, &["status"]).good();
    assert!(text.contains(": 1 of 2 members online, 1 with other hubs"), "{text}");
    let listed = |words: &[&str]| world.ask(B, &[&["members"], words].concat()).good();
    let (online, offline) = (listed(&["--online"]), listed(&["--offline"]));
    assert!(online.contains("laptop ") && online.contains("desk ") && online.contains("hub-b "), "{online}");
    assert_eq!(offline.lines().count(), 1, "{offline}");
    let metrics = world.ask(A, &["metrics", "--members"]).good();
    for line in ["hub_members{state=\"offline\"} 0", "hub_member_online{member=\"desk\"} 1"] {
        assert!(metrics.lines().any(|one| one == line), "{line} is missing: {metrics}");
    }
    // They reach each other, over the link of their hubs.
    let desk = "10.0.0.250".parse().unwrap();
    house::ping_until(world.net.spoke(LAPTOP), desk, SOON).unwrap();

    // Commands at hubs that do not keep the list hold at all.
    let said = world.ask(B, &["lock"]).good();
    assert!(said.starts_with("locked: the 2 members known now (2 online) can join"), "{said}");
    for hub in [A, C] {
        await_true("locked", SOON, || world.status(hub)["locked"] == true);
    }
    world.ask(C, &["rename", "laptop", "notebook"]).good();
    for hub in [A, B, C] {
        await_true("renamed", SOON, || {
            let members = world.members(hub);
            members.iter().any(|line| line.starts_with("notebook 10.0.0.251 ")) && members.len() == 5
        });
    }
    world.ask(B, &["invite", "guest"]).good();
    await_true("the invite at both others", SOON, || {
        [A, C].iter().all(|&hub| world.status(hub)["invites"] == 1)
    });
    world.ask(C, &["invites", "--cancel", "guest"]).good();
    await_true("no invite", SOON, || world.status(A)["invites"] == 0 && world.status(B)["invites"] == 0);
    world.ask(B, &["revoke", "desk"]).good();
    for hub in [A, B, C] {
        await_true("off everywhere", SOON, || {
            !world.members(hub).iter().any(|line| line.starts_with("desk"))
        });
    }
    // A machine waits at one hub, and is let in by its key from any.
    world.spoke(NAS, &["--hub", &World::place(B), "--name", "nas"], "waits until the hub's owner lets it in");
    let key = ask_spoke(&world.net, NAS, &["key"]).good();
    world.ask(A, &["allow", "nas"]).fails("it may wait at another hub (`hub pending` there)");
    world.ask(A, &["allow", key.trim()]).fails("this machine does not wait here, but maybe at another hub");
    world.ask(A, &["allow", key.trim(), "--name", "nas"]).good();
    world.said(NAS).wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
    let said = world.ask(C, &["invite", "hub-d", "--hub", "--host", "hub-c.example.org", "--json"]).good();
    let invite: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(invite["host"], "hub-c.example.org:5678");
    let line = invite["line"].as_str().unwrap();
    assert!(line.starts_with("hub --join hub-c.example.org:5678 --hub-key "), "{line}");
    // Each has it in its own files: they start anew without each other.
    for hub in [A, B, C] {
        world.kill(hub);
    }
    world.ask(C, &["status"]).fails("`sudo hub --join HOST --hub-key KEY`");
    let bare = world.ask(C, &[]);
    bare.fails_with(2, "has other hubs: start this one with --join HOST --hub-key KEY");
    world.start(C);
    world.spoke_waits_at(C);
}

#[test]
fn while_the_keeper_is_away_known_machines_join_and_new_ones_wait() {
    let _place = place();
    let mut world = World::of_two();
    let b = World::place(B);
    world.spoke(LAPTOP, &["--hub", &b, "--name", "laptop"], SPOKE_ON_LAN);
    await_true("the spoke has heard of both hubs", SOON, || {
        let status = ask_spoke(&world.net, LAPTOP, &["status", "--json"]).good();
        serde_json::from_str::<Value>(&status).unwrap()["hubs"].as_array().unwrap().len() == 2
    });
    world.kill(A);
    // Who is known comes and goes, though its list would give it another name.
    world.spokes.clear();
    world.spoke(LAPTOP, &["--hub", &b, "--name", "notebook"], "on the LAN as 10.0.0.252 (laptop)");
    // Who is new hears why it has to wait, and goes on trying.
    world.spoke(
        DESK,
        &["--hub", &b, "--name", "desk"],
        "keeps the list of members and has not answered within 3 s",
    );
    let text = world.ask(B, &["status"]).good();
    assert!(text.contains("cannot be reached: known machines can join, new ones wait"), "{text}");
    world.ask(B, &["invite", "guest"]).fails("cannot be reached: wait until it is back");
    // The keeper is back, and the new one is let in by itself.
    world.start(A);
    world.said(DESK).wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
    assert!(
        world.members(A).iter().any(|line| line.starts_with("desk 10.0.0.251 ")),
        "{:?}",
        world.members(A)
    );

    // It is lost for good: another one keeps the list. When it is back all the same, that one goes on.
    world.kill(A);
    assert_eq!(world.ask(B, &["keep"]).good(), "this hub keeps the list of members\n");
    let keeper: Value = serde_json::from_str(&world.ask(B, &["keep", "--json"]).good()).unwrap();
    assert_eq!((&keeper["name"], &keeper["this"]), (&"hub-b".into(), &true.into()));
    world.ask(B, &["invite", "guest", "--ip", "10.0.0.77"]).good();
    world.ask(B, &["lock"]).good();
    world.start(A);
    world.await_linked(A, B);
    await_true("it takes over what the new keeper says", Duration::from_secs(5), || {
        let status = world.status(A);
        status["keeper"]["name"] == "hub-b" && status["locked"] == true && status["invites"] == 1
    });
    // Both know that after a start, too.
    world.kill(A);
    world.kill(B);
    world.start(B);
    world.start(A);
    world.await_linked(A, B);
    assert_eq!(
        (&world.status(B)["keeper"]["this"], &world.status(A)["keeper"]["term"]),
        (&true.into(), &1_001.into())
    );
}

/// Its list is lost, or of a time when there was hardly a member.
#[test]
fn a_hub_with_an_old_list_or_none_has_that_of_ten_thousand_members_within_a_second() {
    const STRANGERS: usize = 10_000;
    let _place = place();
    let mut world = World::of_two();
    world.kill(A);
    world.kill(B);
    let list = |world: &World, hub: usize| state(world.host(hub), "hub").join("members");
    let lines: String =
        (0..STRANGERS).map(|number| format!("{} m{number} -\n", house::nobodys_key(number))).collect();
    let old = fs::read_to_string(list(&world, A)).unwrap();
    fs::write(list(&world, A), old + &lines).unwrap();
    world.start(A);
    for (host, name, is_lost) in [(LAPTOP, "laptop", false), (DESK, "desk", true)] {
        if is_lost {
            fs::remove_file(list(&world, B)).unwrap();
        }
        world.start(B);
        let start = Instant::now();
        // Nobody is let in but by the list as it is.
        world.spoke(host, &["--hub", &World::place(B), "--name", name], SPOKE_ON_LAN);
        let took = start.elapsed();
        println!("a newcomer is let in {took:?} after the hub's start, its list lost: {is_lost}");
        assert!(took < Duration::from_secs(2), "{took:?}");
        let members = names(&world, B);
        assert!(members.len() > STRANGERS && members == names(&world, A), "{}", members.len());
        world.kill(B);
    }
    // The keeper does not have the others lose theirs.
    world.kill(A);
    fs::remove_file(list(&world, A)).unwrap();
    let host = world.host(A);
    let mut command = Command::new(&world.binaries.hub);
    command.args(["--subnet", "10.0.0.0/24", "--state"]).arg(host.private().join("hub"));
    run(host, command).fails_with(1, "copy that file from another hub, whose own is the same");
    fs::copy(list(&world, B), list(&world, A)).unwrap();
    world.start(A);
    assert!(world.members(A).len() > STRANGERS);
}

/// It has lost its files but for its key, or has those of a backup from before it kept the list.
#[test]
fn a_keeper_that_has_not_the_list_that_it_has_kept_takes_it_from_the_others() {
    let _place = place();
    let mut world = World::of_two();
    let files = |world: &World| state(world.host(B), "hub");
    let read = |world: &World, name: &str| fs::read(files(world).join(name)).unwrap_or_default();
    let is_told = || String::from_utf8(read(&world, "lan")).unwrap().contains("term 1");
    await_true("it was told the list", SOON, is_told);
    let backup = ["lan", "members"].map(|name| (name, read(&world, name)));
    world.ask(B, &["keep"]).good();
    // One that comes by itself would come again, as a new one.
    world.ask(B, &["allow", &house::nobodys_key(1).to_string(), "--name", "absent"]).good();
    for (is_lost, host, name) in [(true, DESK, "desk"), (false, NAS, "nas")] {
        await_true("the list is whole", SOON, || {
            world.members(A).iter().any(|one| one.starts_with("absent "))
        });
        let before = names(&world, A);
        world.kill(B);
        if is_lost {
            for entry in fs::read_dir(files(&world)).unwrap() {
                let entry = entry.unwrap();
                if entry.file_type().unwrap().is_file() && entry.file_name() != "key" {
                    fs::remove_file(entry.path()).unwrap();
                }
            }
        } else {
            backup.iter().for_each(|(name, text)| fs::write(files(&world).join(name), text).unwrap());
        }
        world.start(B);
        world.await_linked(A, B);
        await_true("it keeps the list, as it was", SOON, || {
            world.status(B)["keeper"]["this"] == true && names(&world, B) == before
        });
        assert_eq!(names(&world, A), before, "nobody is taken off");
        world.spoke(host, &["--hub", &World::place(A), "--name", name], SPOKE_ON_LAN);
        await_true("both have who is new", SOON, || {
            let both = [A, B].map(|hub| names(&world, hub));
            both[0] == both[1] && both[0].len() == before.len() + 1
        });
    }
}

/// The members that a hub has: names and addresses.
fn names(world: &World, hub: usize) -> Vec<String> {
    let without_home = |line: &String| line.rsplit_once(' ').unwrap().0.to_owned();
    world.members(hub).iter().map(without_home).collect()
}

#[test]
fn a_lan_with_several_hubs_moves_to_another_subnet_hub_by_hub() {
    let _place = place();
    let mut world = World::of_two();
    world.spoke(LAPTOP, &["--hub", &World::place(B), "--name", "laptop"], SPOKE_ON_LAN);
    for hub in [A, B] {
        let said = world.ask(hub, &["renumber", "10.44.0.0/24"]).good();
        assert!(said.contains("moved 10.0.0.0/24 to 10.44.0.0/24"), "{said}");
        let others = if hub == A { "run the same at hub-b: " } else { "run the same at hub" };
        assert!(said.contains(others), "{said}");
    }
    world.await_linked(A, B);
    await_true("the member is back, with its address of the other subnet", SOON, || {
        let at = |hub: usize| world.members(hub).iter().any(|line| line.starts_with("laptop 10.44.0.252 "));
        at(A) && at(B) && world.status(A)["elsewhere"] == 1 || world.status(A)["online"] == 1
    });
    // A newcomer at either hub is agreed to, and the hub that has joined knows all that when it starts anew.
    world.spoke(DESK, &["--hub", &World::place(B), "--name", "desk"], SPOKE_ON_LAN);
    world.kill(B);
    world.start(B);
    world.await_linked(A, B);
    assert!(
        world.members(B).iter().any(|line| line.starts_with("desk 10.44.0.251 ")),
        "{:?}",
        world.members(B)
    );
}

#[test]
fn a_hub_that_is_started_with_another_place_changes_its_line() {
    let _place = place();
    let mut world = World::of_two();
    world.spoke(LAPTOP, &["--hub", &World::place(A), "--name", "laptop"], SPOKE_ON_LAN);
    let host = Net::spoke_v4(B - 1).to_string();
    let joined = world.lines[B].clone();
    let await_place = |world: &World, place: &str| {
        let is_it = |hub: &Value| hub["place"] == place;
        for hub in [A, B] {
            await_true("the new place", SOON, || {
                world.status(hub)["hubs"].as_array().unwrap().iter().any(is_it)
            });
        }
        await_true("the spoke hears of it", SOON, || {
            ask_spoke(&world.net, LAPTOP, &["status"]).good().contains(place)
        });
        let list = |hub: usize| fs::read_to_string(state(world.host(hub), "hub").join("members")).unwrap();
        await_true("it is written down", SOON, || {
            [A, B].iter().all(|&hub| list(hub).contains(&format!(" hub={place}\n")))
        });
    };
    // The port is that which it listens on.
    world.kill(B);
    world.lines[B].extend(["--host", &host, "--listen", "5679"].map(str::to_owned));
    world.start(B);
    await_place(&world, &format!("{host}:5679"));
    let log = world.hubs[B].as_ref().unwrap();
    log.wait_for_line(&format!("is reached at {host}:5679, not at {host}:5678 any more"), SOON).unwrap();
    // While the keeper is away, and once it is back.
    world.kill(B);
    world.kill(A);
    world.lines[B] = [joined, ["--host", &host].map(str::to_owned).to_vec()].concat();
    world.start(B);
    std::thread::sleep(Duration::from_secs(1));
    world.start(A);
    await_place(&world, &format!("{host}:5678"));
    // The keeper itself.
    world.kill(A);
    let host = Net::hub_v4().to_string();
    world.lines[A].extend(["--host", &host, "--listen", "5680"].map(str::to_owned));
    world.start(A);
    await_place(&world, &format!("{host}:5680"));
}

#[test]
fn what_is_wrong_with_joining_is_said() {
    let _place = place();
    let mut world = World::new();
    make_state(world.host(B), "hub").unwrap();
    let a = World::place(A);
    let key = world.status(A)["key"].as_str().unwrap().to_owned();
    let other = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";
    let secret = "29d10b3762fd5266a92d936735a0c6a0";
    let spokes = world.ask(A, &["invite", "laptop", "--host", &a]).good();
    let spokes = spokes.trim().rsplit(' ').next().unwrap().to_owned();
    let join = |words: &[&str]| world.ask(B, &[&["--join", &a], words].concat());
    join(&[]).fails_with(2, "say which key the other hub has: --hub-key");
    join(&["--hub-key", other]).fails("has the key");
    join(&["--hub-key", &key]).fails("`hub invite NAME --hub` there lets one in");
    let no_invite = "the invite is unknown, used or expired, or not that of a hub";
    join(&["--hub-key", &key, "--invite", secret]).fails(no_invite);
    join(&["--hub-key", &key, "--invite", &spokes]).fails(no_invite);
    world
        .ask(B, &["--join", "192.0.2.1:9", "--hub-key", &key])
        .fails("cannot reach 192.0.2.1:9: nothing listens there");
    // Nothing of that has left anything behind; a list that is there is not lost either.
    assert!(!state(world.host(B), "hub").join("members").exists());
    let line = world.ask(A, &["invite", "hub-b", "--hub", "--host", &a]).good();
    let words: Vec<&str> = line.trim().strip_prefix("hub ").unwrap().split(' ').collect();
    let list = state(world.host(B), "hub").join("members");
    std::fs::write(&list, format!("{other} nas 10.0.0.9\n")).unwrap();
    world.ask(B, &words).fails_with(2, "has members of a LAN of its own");
    std::fs::remove_file(&list).unwrap();
    // An invite in a file may be deleted once it is used.
    let file = world.host(B).private().join("invite");
    let words = [&words[..words.len() - 2], &["--invite-file", file.to_str().unwrap()]].concat();
    world.lines[B] = words.iter().map(|&word| word.to_owned()).collect();
    std::fs::write(world.host(B).path(&file), &line).unwrap();
    world.start(B);
    world.await_linked(A, B);
    std::fs::remove_file(world.host(B).path(&file)).unwrap();
    world.kill(B);
    world.start(B);
    world.await_linked(A, B);
}

/// A second hub on one machine, as a container would have it: no device, and no rights at all.
#[test]
fn a_hub_without_a_device_needs_no_rights_and_serves_its_members() {
    let _place = place();
    let mut world = World::new();
    let line = world.ask(A, &["invite", "hub-b", "--hub", "--host", &World::place(A)]).good();
    let host = world.net.hub();
    let directory = host.private().join("second");
    let words = line.trim().strip_prefix("hub ").unwrap().to_owned();
    let mut command = Command::new("sh");
    let start = format!(
        "install -d -o 12345 -m 700 {0} && exec setpriv --reuid 12345 --regid 12345 --clear-groups --bounding-set -all \
         --no-new-privs {1} {words} --host {2}:5679 --listen 5679 --no-tun --state {0}",
        directory.display(),
        world.binaries.hub.display(),
        Net::hub_v4(),
    );
    command.args(["-c", &start]);
    let second = host.spawn("second", &command).unwrap();
    second.wait_for_line("the LAN is 10.0.0.0/24, on no device", SOON).unwrap();
    second.wait_for_line("linked to the hub", SOON).unwrap();
    world.spoke(LAPTOP, &["--hub", &format!("{}:5679", Net::hub_v4()), "--name", "laptop"], SPOKE_ON_LAN);
    world.spoke(DESK, &["--hub", &World::place(A), "--name", "desk"], SPOKE_ON_LAN);
    let address = |name: &str| -> std::net::IpAddr {
        let members = world.members(A);
        let line = members.iter().find(|line| line.starts_with(name)).unwrap();
        line.split(' ').nth(1).unwrap().parse().unwrap()
    };
    house::ping_until(world.net.spoke(LAPTOP), address("desk"), SOON).unwrap();
    // The machine is on the LAN by its first hub alone: what is for the second one itself is answered.
    house::ping_until(world.net.spoke(LAPTOP), address("hub "), SOON).unwrap();
    let mut ping = Command::new("ping");
    ping.args(["-c", "1", "-W", "2", &address("hub-b").to_string()]);
    let said = run(world.net.spoke(LAPTOP), ping);
    assert!(said.out.contains("Destination Host Unreachable"), "{}", said.out);
    let mut status = Command::new(&world.binaries.hub);
    status.args(["status", "--state"]).arg(&directory);
    let status = run(world.net.hub(), status).good();
    assert!(status.contains("10.0.0.0/24 on no device"), "{status}");
}

impl World {
    /// A hub has the whole list though it is alone.
    fn spoke_waits_at(&self, hub: usize) {
        let status = self.status(hub);
        assert_eq!((&status["locked"], &status["keeper"]["reached"]), (&true.into(), &false.into()));
        assert_eq!(status["revoked"], 1);
        assert!(self.members(hub).iter().any(|line| line.starts_with("notebook 10.0.0.251 ")));
    }
}
