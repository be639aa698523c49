//! Two hubs, one LAN: spokes that lose the hub they are at, or are sent away, go on at the other one; and two that are at
//! different ones reach each other.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests of IO")]
#![allow(clippy::print_stdout, reason = "a test: it says what it measured")]

mod far;
mod fleet;
mod held;
mod kept;
mod linked;
mod many;
mod stored;
mod three;
mod traffic;
mod watched;
mod world;

use std::fs;
use std::time::Duration;

use crate::house::{Lan, SPOKE_ON_LAN, alone, place, state};
use traffic::{Beat, through};
use world::{HUB_A, HUB_B, LAPTOP, SILENCE, SOON, World};

#[test]
fn a_hub_that_is_killed_is_replaced_by_the_other_at_once() {
    let _place = place();
    let mut world = World::with_spokes();
    let addresses = world.spoke(LAPTOP)["addresses"].clone();
    let (gap, stall) = through(&mut world, "hub killed", |world| {
        world.hubs[HUB_A].take().unwrap().kill().unwrap();
        world.await_at(HUB_B);
    });
    assert!(gap <= Duration::from_millis(500) && stall <= Duration::from_millis(1_000), "{gap:?} {stall:?}");
    let status = world.spoke(LAPTOP);
    assert_eq!(status["addresses"], addresses);
    // The hub that it is at, though another one was named.
    let (place, key) = (World::place(HUB_B), world.keys[HUB_B].as_str());
    assert_eq!((&status["hub"], &status["hub_key"]), (&place.into(), &key.into()));
    assert_eq!(world.online(HUB_B), 2);
    // The other one comes back, goes the same way, and the first takes them again.
    world.start(HUB_A);
    let (gap, _) = through(&mut world, "the other hub stopped", |world| {
        world.hubs[HUB_B].take().unwrap().signal(nix::sys::signal::Signal::SIGTERM).unwrap();
        world.await_at(HUB_A);
    });
    assert!(gap <= Duration::from_millis(500), "{gap:?}");
}

#[test]
fn a_hub_whose_line_is_silent_is_left_after_two_seconds() {
    let _place = place();
    let mut world = World::with_spokes();
    let (gap, stall) = through(&mut world, "line silent", |world| {
        world.host(HUB_A).nft(SILENCE).unwrap();
        world.await_at(HUB_B);
    });
    assert!(gap <= Duration::from_millis(2_500), "{gap:?}");
    assert!(stall <= Duration::from_secs(3), "{stall:?}");
}

#[test]
fn a_hub_that_drains_sends_its_members_away_and_nothing_is_interrupted() {
    let _alone = alone();
    let mut world = World::with_spokes();
    let hubs = [world.host(HUB_A), world.host(HUB_B)];
    let beat = Beat::start(world.net.spoke(LAPTOP), &hubs, (Lan::hub_address(), 4_009).into());
    let (_, stall) = through(&mut world, "hub drained, from spoke to spoke", |world| {
        let said = world.ask(HUB_A, &["drain"]).good();
        // It may be that they reach one all the same, as here.
        let told = "the 2 members online here are told to go to another hub, but this one has no link to any";
        assert!(said.contains(told), "{said}");
        world.await_at(HUB_B);
    });
    let gap = beat.end();
    println!("hub drained, from a spoke to its hub: {gap:?}");
    assert!(gap <= Duration::from_millis(50), "{gap:?}");
    // One may be at the one hub while the other is still at the other one.
    assert!(stall <= Duration::from_millis(1_500), "{stall:?}");
    assert_eq!((world.online(HUB_A), world.online(HUB_B)), (0, 2));
    let status = world.ask(HUB_A, &["status"]).good();
    assert!(status.contains("draining: 0 members have not gone to another hub yet"), "{status}");
    assert!(status.contains("hub hub-a at 192.0.2.1:5678"), "{status}");
    let said = world.ask(HUB_A, &["drain", "--off"]).good();
    assert_eq!(said, "members that come may stay again\n");
    assert!(!world.ask(HUB_A, &["status"]).good().contains("draining"));
    // And without another hub.
    let lonely = format!("{} hub-a - hub={}\n", world.keys[HUB_A], World::place(HUB_A));
    fs::write(state(world.host(HUB_A), "hub").join("members"), lonely).unwrap();
    world.ask(HUB_A, &["reload"]).good();
    world.ask(HUB_A, &["drain"]).fails("there is no other hub to go to");
}

#[test]
fn a_spoke_that_starts_while_its_hub_is_away_joins_the_one_that_it_was_told_of() {
    let _place = place();
    let mut world = World::with_spokes();
    let hubs = fs::read_to_string(state(world.net.spoke(LAPTOP), "spoke").join("hubs")).unwrap();
    let told = format!("{} {} told-by={}", World::place(HUB_B), world.keys[HUB_B], World::place(HUB_A));
    assert!(hubs.lines().any(|line| line == told), "{hubs}");
    world.spokes.drain(..).for_each(|spoke| spoke.kill().unwrap());
    for hub in [HUB_A, HUB_B] {
        world.hubs[hub].take().unwrap().kill().unwrap();
    }
    let spoke = world.spawn_spoke(LAPTOP, 0, &[&World::place(HUB_A)]);
    spoke.wait_for_line("ways to the hub works", SOON).unwrap();
    world.start(HUB_B);
    let line = spoke.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
    assert!(line.ends_with(&format!("through {}", World::place(HUB_B))), "{line}");
    assert!(world.is_at(LAPTOP, HUB_B));
    // All are away for a while, and the other one comes back.
    world.hubs[HUB_B].take().unwrap().kill().unwrap();
    let mark = spoke.mark();
    world.start(HUB_A);
    let line = spoke.wait_for_line_after(mark, SPOKE_ON_LAN, SOON).unwrap();
    assert!(line.ends_with(&format!("through {}", World::place(HUB_A))), "{line}");
}

#[test]
fn a_hub_with_another_key_than_was_told_is_not_joined() {
    let _place = place();
    let mut world = World::with_spokes();
    // Somebody else answers in the second hub's place.
    world.hubs[HUB_B].take().unwrap().kill().unwrap();
    fs::remove_file(state(world.host(HUB_B), "hub").join("key")).unwrap();
    world.start(HUB_B);
    let mark = world.spokes[0].mark();
    world.hubs[HUB_A].take().unwrap().kill().unwrap();
    let line = world.spokes[0].wait_for_line_after(mark, "has key", SOON).unwrap();
    assert!(line.contains(&World::place(HUB_B)) && line.contains("someone may be in between"), "{line}");
    assert_eq!(world.online(HUB_B), 0);
    let mark = world.spokes[0].mark();
    world.start(HUB_A);
    let line = world.spokes[0].wait_for_line_after(mark, SPOKE_ON_LAN, SOON).unwrap();
    assert!(line.ends_with(&format!("through {}", World::place(HUB_A))), "{line}");
}
