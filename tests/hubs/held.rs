//! What stays a hub's or a member's own where hubs share the list: its address, its line, its place in the queue.

use std::time::Duration;

use super::kept::{A, B, C, DESK, LAPTOP, NAS, World};
use super::world::SOON;
use crate::house::{Net, SPOKE_ON_LAN, await_true, ping, place, state};

#[test]
fn a_machine_that_waits_at_one_of_two_hubs_goes_on_waiting_when_that_one_is_away() {
    let _place = place();
    let mut world = World::of_two();
    world.ask(A, &["lock"]).good();
    let hubs = ["--hub", &World::place(A), "--hub", &World::place(B), "--name", "nas"];
    world.spoke(NAS, &hubs, "waits until the hub's owner lets it in");
    world.kill(A);
    world.said(NAS).wait_for_line("has key", SOON).unwrap();
    world.start(A);
    await_true("it waits again", SOON, || world.ask(A, &["pending"]).good().contains("nas"));
    world.ask(A, &["allow", "nas"]).good();
    world.said(NAS).wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
}

#[test]
fn no_hub_ends_itself_or_gives_its_address_away_and_rules_know_it_by_its_name() {
    let _place = place();
    let mut world = World::of_two();
    for (words, why) in [
        (["revoke", "hub-b"], "that is this hub: to end it for good, `hub revoke` at another one"),
        (["forget", "hub-b"], "that is this hub"),
    ] {
        world.ask(B, &words).fails(why);
    }
    let list = state(world.host(A), "hub").join("members");
    let text = std::fs::read_to_string(&list).unwrap();
    let own = format!(" hub={}", World::place(A));
    std::fs::write(&list, text.replace(&own, "")).unwrap();
    world.ask(A, &["reload"]).fails("the line of this hub has to keep its `hub=`");
    std::fs::write(&list, text).unwrap();
    world.ask(A, &["reload"]).good();
    world.await_linked(A, B);

    let b = World::place(B);
    let own = world.members(B).iter().find_map(|line| line.strip_prefix("hub-b ")).unwrap().to_owned();
    let own = own.split(' ').next().unwrap().to_owned();
    world.spoke(NAS, &["--hub", &b, "--ip", &own], &format!("{own} is held by hub-b"));
    std::fs::write(state(world.host(B), "hub").join("rules"), "deny laptop -> hub-b\nallow * -> *\n")
        .unwrap();
    world.kill(B);
    world.start(B);
    for (host, name, is_let) in [(LAPTOP, "laptop", false), (DESK, "desk", true)] {
        world.spoke(host, &["--hub", &b, "--name", name], SPOKE_ON_LAN);
        for to in ["10.0.0.1", &own] {
            let pinged = ping(world.net.spoke(host), to.parse().unwrap(), 56, Duration::from_millis(700));
            assert_eq!(pinged.is_ok(), is_let, "{name} to {to}: {pinged:?}");
            let case = world.ask(B, &["rules", "--explain", name, to, "icmp"]).good();
            assert!(case.contains(if is_let { "allowed" } else { "denied" }), "{case}");
        }
    }
    // It was killed with its members, and the keeper's end is said.
    world.kill(A);
    let said = world.ask(B, &["revoke", "hub"]).good();
    assert!(said.contains("it kept the list of members: `hub keep` here"), "{said}");
    world.ask(B, &["keep"]).good();
}

#[test]
fn an_address_goes_to_another_one_where_its_holder_is_dead_and_not_where_it_is_out_of_sight() {
    let _place = place();
    let mut world = World::of_two();
    world.invite(B, C);
    world.await_linked(A, C);
    let [b, c] = [B, C].map(World::place);
    world.spoke(LAPTOP, &["--hub", &b, "--ip", "10.0.0.9", "--name", "laptop"], SPOKE_ON_LAN);
    world.said(LAPTOP).signal(nix::sys::signal::Signal::SIGSTOP).unwrap();
    let takes = ["--hub", &b, "--ip", "10.0.0.9", "--name", "desk"];
    world.spoke(DESK, &takes, "on the LAN as 10.0.0.9 (desk)");
    world.spokes.clear();
    // One is at the third hub, of which the second one hears nothing.
    world.spoke(LAPTOP, &["--hub", &c, "--ip", "10.0.0.19", "--name", "laptop"], SPOKE_ON_LAN);
    world.host(B).part_from(&Net::spoke_v4(C - 1).to_string()).unwrap();
    let is_lost = |line: &String| line == "laptop 10.0.0.19 nowhere";
    await_true("nothing is known of it there", SOON, || world.members(B).iter().any(is_lost));
    let takes = ["--hub", &b, "--ip", "10.0.0.19", "--name", "nas"];
    world.spoke(NAS, &takes, "10.0.0.19 is held by laptop, which is on the LAN");
    assert!(world.members(A).contains(&"laptop 10.0.0.19 hub-c".to_owned()), "{:?}", world.members(A));
}
