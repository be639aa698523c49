//! A large LAN in memory: many hubs with links between all, and many members, all of them the real cores, in virtual time.
//!
//! All members join; the hubs make their links and tell each other who is where; one hub is killed; then a third of the
//! others goes silent at once, and their members join those that are left, as real spokes decide. What must hold: all are
//! back within 3 s, no hub has more than a fifth above its share, and each hub knows of everybody.

#[path = "fleet/spokes.rs"]
mod spokes;
#[path = "fleet/world.rs"]
mod world;

use std::time::{Duration, Instant};

use world::World;

/// Within so long all are to be back.
const BACK_WITHIN: Duration = Duration::from_secs(3);
/// No hub is to have more than this part of its share, in percent.
const MOST_OF_SHARE: usize = 120;

/// Resident memory of this process, in bytes.
fn resident() -> f64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<f64>().unwrap() * 4_096.0
}

/// Tells of a LAN of this size.
pub(crate) fn tell(hubs: usize, members: usize) {
    println!("{hubs} hubs, {members} members");
    let before = resident();
    let mut world = World::new(hubs, members);
    println!("  the lists of all hubs: {:.1} MB each", (resident() - before) / 1e6 / hubs as f64);
    join(&mut world);
    link(&mut world);
    let (start, dead) = (world.now, [hubs / 2]);
    dead.iter().for_each(|&hub| world.kill(hub));
    back(&mut world, "one hub is killed", &dead, start);
    let rest: Vec<usize> = (0..hubs).filter(|hub| !dead.contains(hub)).collect();
    let dead: Vec<usize> = rest.iter().copied().filter(|hub| hub % 3 == 1).collect();
    let start = world.now;
    dead.iter().for_each(|&hub| world.silence(hub));
    back(&mut world, &format!("{} hubs go silent", dead.len()), &dead, start);
}

/// All members join, each at the hub that it was told of.
fn join(world: &mut World) {
    let (before, began, start) = (resident(), Instant::now(), world.now);
    world.start_spokes(Duration::from_secs(10));
    world.pass_until(Duration::from_secs(60), |world| world.on_lan() == world.spokes.len());
    let figures = world.take_spent();
    println!(
        "  all joined, {} at each: {:.1?} of a hub's processor, {:.0?} a join; {:.1} s of virtual time in {:.0?}; hubs and \
         spokes now {:.1} KB more for each member",
        world.spokes.len() / world.hubs.len(),
        figures.mean,
        figures.mean * world.hubs.len() as u32 / world.spokes.len() as u32,
        (world.now - start).as_secs_f64(),
        began.elapsed(),
        (resident() - before) / 1e3 / world.spokes.len() as f64
    );
}

/// All hubs make links to each other.
fn link(world: &mut World) {
    let (before, start) = (resident(), world.now);
    let count = world.hubs.len();
    world.may_link = true;
    world.pass_until(Duration::from_secs(30), |world| {
        (0..world.hubs.len()).all(|hub| world.hubs[hub].links(world) == count - 1)
    });
    let up = world.now - start;
    world.pass_until(Duration::from_secs(30), |world| {
        (0..world.hubs.len()).all(|hub| world.knows(hub) == world.spokes.len())
    });
    let (told, bytes) = (world.now - start, world.take_bytes());
    let figures = world.take_spent();
    println!(
        "  {} links: up after {up:.0?}, all told after {told:.0?}; {} of a hub's processor at most, {} at once; {:.0} KB a \
         link and direction; {:.1} MB a hub",
        count * (count - 1) / 2,
        ms(figures.most),
        ms(figures.longest),
        bytes as f64 / 1e3 / (count * (count - 1)) as f64,
        (resident() - before) / 1e6 / count as f64
    );
    world.pass(Duration::from_secs(20));
    let figures = world.take_spent();
    println!("  20 s of quiet: {} of a hub's processor", ms(figures.mean));
}

/// The members of hubs that are gone come back at others.
fn back(world: &mut World, what: &str, dead: &[usize], start: Instant) {
    let lost: Vec<usize> =
        (0..world.spokes.len()).filter(|&at| dead.contains(&world.spokes[at].hub)).collect();
    let before = world.counts();
    world.take_spent();
    world.pass_until(Duration::from_secs(30), |world| lost.iter().all(|&at| world.is_back(at, dead)));
    let took = world.now - start;
    let figures = world.take_spent();
    let mut times: Vec<Duration> = lost.iter().map(|&at| world.spokes[at].joined_at - start).collect();
    times.sort();
    let after = world.counts();
    let alive: Vec<usize> = (0..world.hubs.len()).filter(|&hub| world.hubs[hub].core.is_some()).collect();
    let alive: Vec<usize> = alive.into_iter().filter(|&hub| !world.hubs[hub].is_dark).collect();
    let share = world.spokes.len() / alive.len();
    let fullest = alive.iter().map(|&hub| after[hub]).max().unwrap();
    let joins: Vec<usize> = alive.iter().map(|&hub| after[hub] - before[hub].min(after[hub])).collect();
    println!(
        "  {what}, {} members with them: all back after {took:.2?}, half after {:.2?}; {} joined a hub (at most {}), {} of its \
         processor (at most {}, {} at once); {fullest} at the fullest hub, {share} were its share",
        lost.len(),
        times[times.len() / 2],
        joins.iter().sum::<usize>() / joins.len(),
        joins.iter().max().unwrap(),
        ms(figures.mean),
        ms(figures.most),
        ms(figures.longest),
    );
    assert!(took <= BACK_WITHIN, "{took:?}");
    assert!(fullest * 100 <= share * MOST_OF_SHARE, "{fullest} at one hub");
    // Each living hub hears of all of them.
    let everybody = world.spokes.len();
    world.pass_until(Duration::from_secs(5), |world| alive.iter().all(|&hub| world.knows(hub) == everybody));
    world.pass(Duration::from_secs(2));
    assert_eq!(world.on_lan(), everybody, "somebody has left again");
}

fn ms(time: Duration) -> String {
    format!("{:.0} ms", time.as_secs_f64() * 1e3)
}
