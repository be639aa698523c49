//! Many members at two hubs, and at three.

use std::io::Write as _;
use std::time::{Duration, Instant};

use super::fleet::{self, Fleet, SOURCES, Story};
use super::kept::{self, A, B, C};
use super::traffic::{Beat, Trickle};
use super::world::{DESK, HUB_A, HUB_B, LAPTOP, SECOND, World};
use crate::house::{Host, Lan, Net, SPOKE_ON_LAN, alone, await_true, long_or, state};

/// So many of them send packets, and their gaps are measured.
const TALKERS: usize = 50;
const EVERY: Duration = Duration::from_millis(20);

/// A hub leaves those where they are that have come from there so lately.
const REST: Duration = Duration::from_secs(31);

/// `SOAK=1` has 1,000 of them.
#[test]
fn many_members_are_sent_to_another_hub_and_none_misses_a_moment() {
    let _alone = alone();
    let count = long_or(1_000, 80);
    // With an address in each family, so that no hub has to write its list before others hear of who comes.
    let list: String = (0..count)
        .map(|i| format!("{} fleet-{i} {},fd00::1:{i:x}\n", fleet::key(i).public(), fleet::address(i)))
        .collect();
    let world = World::wide([HUB_A, HUB_A], &list);
    let (laptop, desk) = (world.net.spoke(LAPTOP), world.net.spoke(DESK));
    let hosts = [world.net.hub(), world.net.spoke(SECOND)];
    let crowd = Crowd::start(laptop, LAPTOP, &hosts, &World::place(HUB_A), count);
    await_true("each hub knows of all", Duration::from_secs(5), || {
        let (a, b) = (world.json(HUB_A), world.json(HUB_B));
        a["online"] == count + 2 && b["elsewhere"] == count + 2
    });
    crowd.begin();
    let trickle = Trickle::start(laptop, desk, (Lan::address(1), 4_008).into());
    let beat = Beat::start(laptop, &[desk], (Lan::address(1), 4_007).into());
    std::thread::sleep(Duration::from_secs(1));
    let start = Instant::now();
    world.ask(HUB_A, &["drain"]).good();
    crowd.await_moves(count);
    world.await_at(HUB_B);
    assert_eq!(world.online(HUB_A), 0);
    std::thread::sleep(Duration::from_secs(1));
    let real = (beat.end(), trickle.end());
    assert!(real.0 <= Duration::from_millis(50), "{real:?}");
    crowd.end(&[start], real);
}

/// `SOAK=1` alone: three hubs that share a list are drained, stopped and started anew, one after the other, and the one that
/// keeps the list twice.
#[test]
fn all_hubs_are_upgraded_in_turn_under_many_members() {
    if long_or(false, true) {
        // It takes two minutes and a half, most of which is rest.
        let _ = writeln!(std::io::stderr(), "SKIPPED: it is run with SOAK=1");
        return;
    }
    const COUNT: usize = 1_000;
    let _alone = alone();
    let mut world = kept::World::in_subnet("10.0.0.0/16");
    world.stop(A);
    let list = state(world.host(A), "hub").join("members");
    let lines: String =
        (0..COUNT).map(|i| format!("{} fleet-{i} {}\n", fleet::key(i).public(), fleet::address(i))).collect();
    std::fs::write(&list, lines).unwrap();
    world.start(A);
    world.invite(A, B);
    world.invite(B, C);
    world.await_linked(A, C);
    for (host, ip) in [(kept::DESK, "10.0.0.2"), (kept::NAS, "10.0.0.3")] {
        world.spoke(host, &["--hub", &kept::World::place(A), "--ip", ip], SPOKE_ON_LAN);
    }
    let hosts = [world.host(A), world.host(B), world.host(C)];
    let laptop = world.net.spoke(kept::LAPTOP);
    let crowd = Crowd::start(laptop, kept::LAPTOP, &hosts, &kept::World::place(A), COUNT);
    crowd.begin();
    let (desk, nas) = (world.net.spoke(kept::DESK), world.net.spoke(kept::NAS));
    let trickle = Trickle::start(desk, nas, (Lan::address(1), 4_008).into());
    let beat = Beat::start(desk, &[nas], (Lan::address(1), 4_007).into());
    std::thread::sleep(Duration::from_secs(1));
    let (mut starts, mut moves) = (Vec::new(), 0);
    for hub in [A, B, C, A] {
        let names = |world: &kept::World| world.members(hub).len();
        let (here, known) = (world.status(hub)["online"].as_u64().unwrap() as usize, names(&world));
        starts.push(Instant::now());
        world.ask(hub, &["drain"]).good();
        await_true("nobody is there", Duration::from_secs(30), || world.status(hub)["online"] == 0);
        println!(
            "{here} members drained, the last one {:?} after it was asked for",
            starts[starts.len() - 1].elapsed()
        );
        moves += here;
        world.stop(hub);
        world.start(hub);
        [A, B, C].into_iter().filter(|other| *other != hub).for_each(|other| world.await_linked(hub, other));
        assert_eq!(names(&world), known, "each hub has the whole list");
        std::thread::sleep(REST);
    }
    let real = (beat.end(), trickle.end());
    // The two real ones moved, too.
    crowd.await_moves(moves.saturating_sub(2 * starts.len()));
    crowd.end(&starts, real);
}

/// Many members, of which some talk.
struct Crowd([Fleet; 2]);

impl Crowd {
    /// Has so many join the hub at this place. The hosts of hubs are `hubs`.
    fn start(host: &Host, index: usize, hubs: &[&Host], at: &str, count: usize) -> Crowd {
        // They are in one machine, and each has an address of its own there.
        host.ip(&format!("route add local {SOURCES} dev lo")).unwrap();
        for hub in hubs {
            hub.ip(&format!("route add {SOURCES} via {}", Net::spoke_v4(index))).unwrap();
        }
        // Those that are measured have a thread for themselves, as they would have machines.
        let fleets =
            [Fleet::start(host, at, 0..TALKERS, Some(EVERY)), Fleet::start(host, at, TALKERS..count, None)];
        fleets.iter().for_each(|fleet| fleet.await_joined(Duration::from_secs(60)));
        Crowd(fleets)
    }

    fn begin(&self) {
        self.0.iter().for_each(Fleet::begin);
    }

    fn await_moves(&self, count: usize) {
        await_true("all have moved", Duration::from_secs(30), || {
            self.0.iter().map(Fleet::moves).sum::<usize>() >= count
        });
    }

    /// What must hold after hubs were drained from these moments on. `real`: the gap of UDP and of TCP between two real spokes.
    fn end(self, starts: &[Instant], real: (Duration, Duration)) {
        let stories: Vec<Story> = self.0.into_iter().flat_map(Fleet::end).collect();
        let gap_of = |story: &Story| story.gap.saturating_sub(EVERY);
        let mut gaps: Vec<Duration> = stories[..TALKERS].iter().map(gap_of).collect();
        gaps.sort_unstable();
        let lost: u64 = stories.iter().map(|story| story.sent).sum::<u64>()
            - stories.iter().map(|story| story.received).sum::<u64>();
        let moved: Vec<Instant> = stories.iter().flat_map(|story| story.moved.iter().copied()).collect();
        let took = starts.iter().enumerate().map(|(round, start)| {
            let end = starts.get(round + 1);
            let last = moved.iter().filter(|at| end.is_none_or(|end| *at < end)).max().unwrap();
            last.saturating_duration_since(*start)
        });
        let took: Vec<Duration> = took.collect();
        println!(
            "{} members, each drain took {took:?}; {lost} packets lost; gaps: {:?} half of them, {:?} at most; two real ones: \
             UDP {:?}, TCP {:?}",
            stories.len(),
            gaps[TALKERS / 2],
            gaps[TALKERS - 1],
            real.0,
            real.1
        );
        assert!(stories.iter().all(|story| !story.moved.is_empty() && story.lost == 0), "{stories:?}");
        assert!(took.iter().all(|took| *took <= Duration::from_secs(10)), "{took:?}");
        assert!(gaps[TALKERS - 1] <= Duration::from_millis(50), "{gaps:?}");
        assert!(real.1 <= Duration::from_millis(500), "{real:?}");
    }
}
