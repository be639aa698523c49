//! Hubs that fall silent while nobody sends anything: they are found out all the same.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::world::{DESK, HUB_A, HUB_B, LAPTOP, SILENCE, SOON, World};
use crate::house::{Lan, await_true, ping, ping_until, place};

/// Both spokes at the first hub, and nothing is sent for so long that they ask it no more than usual.
fn idle() -> World {
    let world = World::linked_with([HUB_A, HUB_A]);
    ping(world.net.spoke(LAPTOP), Lan::address(1).into(), 56, SOON).unwrap();
    world.await_watched();
    let told = || world.spoke(LAPTOP)["link"]["sent"]["packets"].clone();
    let mut last = (told(), Instant::now());
    await_true("quiet", SOON, || {
        if told() != last.0 {
            last = (told(), Instant::now());
        }
        last.1.elapsed() > Duration::from_secs(3)
    });
    world
}

fn await_there(world: &World, i: usize) {
    await_true("it is at the other hub", SOON, || world.is_at(i, HUB_B));
}

#[test]
fn who_only_listens_leaves_a_hub_whose_line_is_silent_in_time() {
    let _place = place();
    let world = idle();
    world.host(HUB_A).nft(SILENCE).unwrap();
    let start = Instant::now();
    await_there(&world, DESK);
    await_there(&world, LAPTOP);
    let took = start.elapsed();
    println!("line silent, nothing sent: all are at the other hub after {took:?}");
    // Two of its commands were asked meanwhile.
    assert!(took <= Duration::from_millis(2_600), "{took:?}");
}

#[test]
fn a_hub_that_stands_still_is_left_by_who_sends_at_once_and_by_the_others_with_the_next_ping() {
    let _place = place();
    let world = idle();
    let hub = world.hubs[HUB_A].as_ref().unwrap();
    hub.signal(Signal::SIGSTOP).unwrap();
    let start = Instant::now();
    ping_until(world.net.spoke(LAPTOP), Lan::hub_address().into(), SOON).unwrap();
    let took = start.elapsed();
    await_there(&world, DESK);
    let all = start.elapsed();
    println!("hub stopped: who sends is elsewhere after {took:?}, who does not after {all:?}");
    assert!(took <= Duration::from_millis(2_500), "{took:?}");
    assert!(all <= Duration::from_millis(6_600), "{all:?}");
    // It goes on, and learns where they are.
    hub.signal(Signal::SIGCONT).unwrap();
    await_true("each hub knows who is where", SOON, || {
        let (a, b) = (world.json(HUB_A), world.json(HUB_B));
        (a["online"] == 0, b["online"] == 2) == (true, true)
    });
    ping_until(world.net.spoke(LAPTOP), Lan::address(1).into(), SOON).unwrap();
}
