//! Many members at two hubs.

use std::io::Write as _;
use std::time::{Duration, Instant};

use super::fleet::{self, Fleet, SOURCES, Story};
use super::traffic::{Beat, Trickle};
use super::world::{DESK, HUB_A, HUB_B, LAPTOP, SECOND, World};
use crate::house::{Lan, Net, await_true, long_or, place};

/// So many of them send packets, and their gaps are measured.
const TALKERS: usize = 50;

/// A hub leaves those where they are that have come from there so lately.
const REST: Duration = Duration::from_secs(31);

/// `SOAK=1` has 1,000 of them.
#[test]
fn many_members_are_sent_to_another_hub_and_none_misses_a_moment() {
    upgrade(&[HUB_A]);
}

/// `SOAK=1` alone: each hub is drained, stopped and started anew, one after the other and the first one again.
#[test]
fn all_hubs_are_upgraded_in_turn_under_many_members() {
    if long_or(true, false) {
        upgrade(&[HUB_A, HUB_B, HUB_A]);
    } else {
        // It takes a minute and a half, most of which is rest.
        let _ = writeln!(std::io::stderr(), "SKIPPED: it is run with SOAK=1");
    }
}

/// Drains these hubs, and starts those anew behind which there are more.
fn upgrade(hubs: &[usize]) {
    let _place = place();
    let (count, every) = (long_or(1_000, 80), Duration::from_millis(20));
    // With an address in each family, so that no hub has to write its list before others hear of who comes.
    let list: String = (0..count)
        .map(|i| format!("{} fleet-{i} {},fd00::1:{i:x}\n", fleet::key(i).public(), fleet::address(i)))
        .collect();
    let mut world = World::wide([HUB_A, HUB_A], &list);
    let laptop = world.net.spoke(LAPTOP);
    // The fleet is in the laptop's machine, and each of it has an address of its own.
    laptop.ip(&format!("route add local {SOURCES} dev lo")).unwrap();
    for host in [world.net.hub(), world.net.spoke(SECOND)] {
        host.ip(&format!("route add {SOURCES} via {}", Net::spoke_v4(LAPTOP))).unwrap();
    }
    // Those that are measured have a thread for themselves, as they would have machines.
    let at = World::place(HUB_A);
    let fleets =
        [Fleet::start(laptop, &at, 0..TALKERS, Some(every)), Fleet::start(laptop, &at, TALKERS..count, None)];
    fleets.iter().for_each(|fleet| fleet.await_joined(Duration::from_secs(60)));
    await_true("each hub knows of all", Duration::from_secs(5), || {
        let (a, b) = (world.json(HUB_A), world.json(HUB_B));
        a["online"] == count + 2 && b["elsewhere"] == count + 2
    });
    fleets.iter().for_each(Fleet::begin);
    let (laptop, desk) = (world.net.spoke(LAPTOP), world.net.spoke(DESK));
    let trickle = Trickle::start(laptop, desk, (Lan::address(1), 4_008).into());
    let beat = Beat::start(laptop, &[desk], (Lan::address(1), 4_007).into());
    std::thread::sleep(Duration::from_secs(1));
    let mut starts = Vec::new();
    for (round, &hub) in hubs.iter().enumerate() {
        starts.push(Instant::now());
        world.ask(hub, &["drain"]).good();
        await_true("all have moved", Duration::from_secs(30), || {
            fleets.iter().map(Fleet::moves).sum::<usize>() == count * (round + 1)
        });
        world.await_at(1 - hub);
        assert_eq!(world.online(hub), 0);
        if round + 1 < hubs.len() {
            let old = world.hubs[hub].take().unwrap();
            old.signal(nix::sys::signal::Signal::SIGTERM).unwrap();
            old.wait_exit(Duration::from_secs(5)).unwrap();
            world.start_with(hub, &["--subnet", "fd00::/64"]);
            world.await_linked();
            std::thread::sleep(REST);
        }
    }
    std::thread::sleep(Duration::from_secs(1));
    let (gap, stall) = (beat.end(), trickle.end());
    let stories: Vec<Story> = fleets.into_iter().flat_map(Fleet::end).collect();
    let gap_of = |story: &Story| story.gap.saturating_sub(every);
    let mut gaps: Vec<Duration> = stories[..TALKERS].iter().map(gap_of).collect();
    gaps.sort_unstable();
    let lost: u64 = stories.iter().map(|story| story.sent).sum::<u64>()
        - stories.iter().map(|story| story.received).sum::<u64>();
    let took = starts.iter().enumerate().map(|(round, start)| {
        let moved = |story: &Story| story.moved.get(round).copied();
        *start..stories.iter().filter_map(moved).max().unwrap()
    });
    let took = took.map(|span| span.end - span.start).max().unwrap();
    println!(
        "{count} members drained {} times, in {took:?} at most; {lost} packets lost; gaps: {:?} half of them, \
         {:?} at most; two real ones: UDP {gap:?}, TCP {stall:?}",
        hubs.len(),
        gaps[TALKERS / 2],
        gaps[TALKERS - 1]
    );
    assert!(stories.iter().all(|story| story.moved.len() == hubs.len() && story.lost == 0), "{stories:?}");
    assert!(took <= Duration::from_secs(10), "{took:?}");
    assert!(gaps[TALKERS - 1] <= Duration::from_millis(50), "{gaps:?}");
    assert!(gap <= Duration::from_millis(50) && stall <= Duration::from_millis(500), "{gap:?} {stall:?}");
}
