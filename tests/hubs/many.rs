//! Many members at two hubs.

use std::time::{Duration, Instant};

use super::fleet::{self, Fleet, SOURCES, Story};
use super::traffic::{Beat, Trickle};
use super::world::{DESK, HUB_A, HUB_B, LAPTOP, SECOND, World};
use crate::house::{Lan, Net, await_true, long_or, place};

/// So many of them send packets, and their gaps are measured.
const TALKERS: usize = 50;

/// `SOAK=1` has 1,000 of them.
#[test]
fn many_members_are_sent_to_another_hub_and_none_misses_a_moment() {
    let _place = place();
    let (count, every) = (long_or(1_000, 80), Duration::from_millis(20));
    // With an address in each family, so that no hub has to write its list before others hear of who comes.
    let list: String = (0..count)
        .map(|i| format!("{} fleet-{i} {},fd00::1:{i:x}\n", fleet::key(i).public(), fleet::address(i)))
        .collect();
    let world = World::wide([HUB_A, HUB_A], &list);
    let (laptop, desk) = (world.net.spoke(LAPTOP), world.net.spoke(DESK));
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
    let trickle = Trickle::start(laptop, desk, (Lan::address(1), 4_008).into());
    let beat = Beat::start(laptop, &[desk], (Lan::address(1), 4_007).into());
    std::thread::sleep(Duration::from_secs(1));
    let start = Instant::now();
    world.ask(HUB_A, &["drain"]).good();
    await_true("all have moved", Duration::from_secs(30), || {
        fleets.iter().map(Fleet::moves).sum::<usize>() == count
    });
    std::thread::sleep(Duration::from_secs(1));
    let (gap, stall) = (beat.end(), trickle.end());
    let stories: Vec<Story> = fleets.into_iter().flat_map(Fleet::end).collect();
    world.await_at(HUB_B);
    assert_eq!(world.online(HUB_A), 0);
    let gap_of = |story: &Story| story.gap.saturating_sub(every);
    let mut gaps: Vec<Duration> = stories[..TALKERS].iter().map(gap_of).collect();
    gaps.sort_unstable();
    let lost: u64 = stories.iter().map(|story| story.sent).sum::<u64>()
        - stories.iter().map(|story| story.received).sum::<u64>();
    let last = stories.iter().filter_map(|story| story.moved.last()).max().unwrap();
    let took = *last - start;
    println!(
        "{count} members drained in {took:?}; {lost} packets lost; gaps: {:?} half of them, \
         {:?} at most; two real ones: UDP {gap:?}, TCP {stall:?}",
        gaps[TALKERS / 2],
        gaps[TALKERS - 1]
    );
    assert!(stories.iter().all(|story| story.moved.len() == 1 && story.lost == 0), "{stories:?}");
    assert!(took <= Duration::from_secs(10), "{took:?}");
    assert!(gaps[TALKERS - 1] <= Duration::from_millis(50), "{gaps:?}");
    assert!(gap <= Duration::from_millis(50) && stall <= Duration::from_millis(500), "{gap:?} {stall:?}");
}
