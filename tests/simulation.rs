//! A simulated LAN: the real switch and real uplinks, over streams in memory, in virtual time.
//!
//! Each seed is a story of starts and stops, clashing wishes, stalls, cuts, flipped bits, restarts of the hub, unknown
//! protocols, a member that says what no spoke says, and packets of all kinds; what must hold is checked after every turn of it. `SEED=n` runs one seed, `SEEDS=n` that many,
//! each of `STEPS=n` steps. Seeds that failed once are kept in `tests/simulation/seeds` and always run.

#![allow(clippy::disallowed_methods, reason = "a test: it reads the environment and starts virtual time")]
#![allow(clippy::unwrap_used, reason = "a test: what goes wrong shall end it")]
#![allow(clippy::print_stdout, reason = "a test: it says which seed failed")]

#[path = "simulation/disk.rs"]
mod disk;
#[path = "simulation/govern.rs"]
mod govern;
#[path = "simulation/machine.rs"]
mod machine;
#[path = "simulation/packets.rs"]
#[allow(dead_code, reason = "the other simulation uses more of it")]
mod packets;
#[path = "simulation/pipe.rs"]
#[allow(dead_code, reason = "the other simulation uses more of it")]
mod pipe;
#[path = "simulation/rng.rs"]
mod rng;
#[path = "simulation/rogue.rs"]
mod rogue;
#[path = "simulation/world.rs"]
mod world;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::node::names::zone::Directory;
use common::packet::drops::Reason;
use common::wire::hello::hello;
use common::wire::name::Name;
use packets::{HUB, HUB_V4, HUB_V6, udp};
use world::{QUEUED_BYTES, World};

const SEEDS: u64 = 200;
const STEPS: u64 = 300;
/// So many seeds that fail say enough.
const MAX_FAILED: usize = 5;
/// One `SEED STEPS` a line; `#` begins a comment that says what it found.
const KEPT: &str = include_str!("simulation/seeds");

#[test]
fn nothing_goes_astray_whatever_happens() {
    tell_all(kept(), act);
}

#[test]
fn what_a_person_changes_concerns_those_it_is_about_and_nobody_else() {
    tell_all(kept(), |world| {
        if world.disk.is_sound() && world.rng.one_in(12) { govern::govern(world) } else { act(world) }
    });
}

#[test]
fn one_member_fills_the_queues_of_all_others_only_up_to_a_bound() {
    let mut world = (0..)
        .map(World::new)
        .find(|world| world.most_queued.is_some() && !world.is_locked && world.spokes.len() > 5);
    let world = world.as_mut().unwrap();
    (0..world.spokes.len()).for_each(|spoke| world.join(spoke, vec![]));
    world.pass(Duration::from_secs(5));
    assert!(world.spokes.iter().all(|spoke| spoke.is_on_lan()));
    // They read nothing any more.
    world.conns.values_mut().for_each(|conn| conn.down.stall());
    let own = world.spokes[0].addresses()[0];
    let others: Vec<IpAddr> = world.spokes[1..].iter().map(|spoke| spoke.addresses()[0]).collect();
    for _ in 0..20 {
        for &to in &others {
            let packet = udp(own, to, world.book.next_id(), 60_000);
            world.book.enter(&packet, Some(0), to, true);
            hand_over(world, 0, &packet);
        }
        world.pass(Duration::from_millis(100));
    }
    let links = world.hub.members().iter().filter_map(|(_, member)| world.hub.link(member.session?));
    let links: Vec<_> =
        links.map(|link| (link.tunnel.queue().cost(), link.drops.of(Reason::QueueFull))).collect();
    let queued: usize = links.iter().map(|&(cost, _)| cost).sum();
    assert!(queued > QUEUED_BYTES * 3 / 4, "{queued} bytes are queued: the bound is not reached");
    assert!(links.iter().filter(|&&(_, lost)| lost > 0).count() == others.len(), "all pay: {links:?}");
}

/// Tells the stories of these seeds, and then of as many more as are wanted; `act` is one step.
fn tell_all(kept: impl Iterator<Item = (u64, u64)>, act: impl Fn(&mut World) + Sync) {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect(name));
    let steps = number("STEPS").unwrap_or(STEPS);
    let stories: Vec<(u64, u64)> = match number("SEED") {
        Some(seed) => vec![(seed, steps)],
        None => kept.chain((0..number("SEEDS").unwrap_or(SEEDS)).map(|seed| (seed, steps))).collect(),
    };
    let next = AtomicU64::new(0);
    let delivered = AtomicU64::new(0);
    let failed = Mutex::new(Vec::new());
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(&(seed, steps)) = stories.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
                    match catch_unwind(AssertUnwindSafe(|| tell(seed, steps, &act))) {
                        Ok(packets) => {
                            delivered.fetch_add(packets, Ordering::Relaxed);
                        }
                        Err(_) => {
                            println!("that was SEED={seed} STEPS={steps}");
                            let mut failed = failed.lock().unwrap();
                            failed.push(format!("SEED={seed} STEPS={steps}"));
                            if failed.len() >= MAX_FAILED {
                                next.store(stories.len() as u64, Ordering::Relaxed);
                            }
                        }
                    }
                }
            });
        }
    });
    let (failed, delivered) = (failed.into_inner().unwrap(), delivered.into_inner());
    println!("{} stories, {delivered} packets delivered", stories.len());
    assert!(failed.is_empty(), "cargo test -p hub --test simulation fails with each of {failed:?}");
    assert!(delivered > stories.len() as u64, "hardly a packet arrived: this tests nothing");
}

fn kept() -> impl Iterator<Item = (u64, u64)> {
    KEPT.lines().filter_map(|line| {
        let mut words = line.split('#').next()?.split_whitespace().map(|word| word.parse().expect(line));
        Some((words.next()?, words.next().expect(line)))
    })
}

/// Runs one seed; how many packets were delivered.
fn tell(seed: u64, steps: u64, act: &impl Fn(&mut World)) -> u64 {
    let mut world = World::new(seed);
    for _ in 0..steps {
        act(&mut world);
        let time = match world.rng.below(20) {
            0 => Duration::from_millis(world.rng.below(4_000) as u64),
            1..4 => Duration::from_millis(world.rng.below(200) as u64),
            _ => Duration::from_micros(world.rng.below(10_000) as u64),
        };
        world.pass(time);
    }
    settle(&mut world);
    deliver_all(&mut world);
    world.hub.stop(world.now);
    (0..world.spokes.len()).for_each(|spoke| world.vanish(spoke));
    world.rogue_hang_up();
    world.pass(Duration::from_secs(20));
    assert!(world.conns.is_empty() && world.hub.deadline().is_none(), "a hub that stops forgets all links");
    world.book.delivered
}

/// One thing happens.
fn act(world: &mut World) {
    let spoke = world.rng.below(world.spokes.len());
    let is_running = world.spokes[spoke].process.is_some();
    match world.rng.below(100) {
        0..3 => world.leave(spoke),
        3..5 => world.vanish(spoke),
        // Started again, while the hub still has its old link.
        5..7 => join(world, spoke),
        7..9 => disturb(world, spoke, |world, conn| {
            let random = world.rng.next();
            let conn = world.conns.get_mut(&conn).unwrap();
            let pipe = if random & 1 == 0 { &mut conn.up } else { &mut conn.down };
            if pipe.flip(random) {
                conn.is_sound = false;
            }
        }),
        9..11 => disturb(world, spoke, |world, conn| {
            let now = world.now;
            let conn = world.conns.get_mut(&conn).unwrap();
            conn.is_sound = false;
            conn.up.reset(now);
            conn.down.reset(now);
        }),
        11..14 => disturb(world, spoke, |world, conn| {
            let (now, random) = (world.now, world.rng.next());
            let conn = world.conns.get_mut(&conn).unwrap();
            conn.is_sound = false;
            conn.stalled_at = Some(now);
            if random & 1 == 0 {
                conn.up.stall();
            }
            if random & 2 == 0 {
                conn.down.stall();
            }
        }),
        14..18 => disturb(world, spoke, |world, conn| {
            let now = world.now;
            let conn = world.conns.get_mut(&conn).unwrap();
            conn.up.resume(now);
            conn.down.resume(now);
        }),
        18..20 => knock(world),
        20..24 => world.act_as_rogue(),
        24 => world.ask_spoke(spoke),
        // What could not be written is lost then.
        25 if world.disk.is_sound() && world.rng.one_in(4) => world.restart_hub(),
        26..33 => send_from_hub(world),
        33 => world.disk.is_full = !world.disk.is_full && world.rng.one_in(4),
        _ if is_running => (0..1 + world.rng.below(8)).for_each(|_| send(world, spoke)),
        _ => join(world, spoke),
    }
}

fn disturb(world: &mut World, spoke: usize, how: impl FnOnce(&mut World, usize)) {
    let conn = world.spokes[spoke].conn();
    if let Some(conn) = conn.filter(|conn| world.conns.contains_key(conn)) {
        how(world, conn);
    }
}

/// Joins with no wish, or one that may clash, or one that cannot be granted.
fn join(world: &mut World, spoke: usize) {
    let mut wishes = Vec::new();
    if world.rng.one_in(2) {
        wishes.push(IpAddr::V4(Ipv4Addr::new(10, 0, 0, world.rng.below(17) as u8)));
    }
    if world.rng.one_in(4) {
        wishes.push(IpAddr::V6(v6(world.rng.below(8))));
    }
    world.join(spoke, wishes);
}

fn v6(host: usize) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, host as u16)
}

/// Something connects that is no spoke, says something, and falls silent or goes.
fn knock(world: &mut World) {
    let Some(conn) = world.connect(None) else { return };
    let len = world.rng.below(200);
    let mut bytes = world.rng.bytes(len);
    if world.rng.one_in(2) {
        bytes.splice(0..0, hello().into_iter().chain([0, world.rng.below(64) as u8]));
    }
    let (now, is_gone) = (world.now, world.rng.one_in(2));
    let conn = world.conns.get_mut(&conn).unwrap();
    conn.up.write(&bytes, now);
    if is_gone {
        conn.up.close(now);
    }
}

/// Some address of either family: a member's, the hub's, everybody's, nobody's.
pub(crate) fn destination(world: &mut World) -> IpAddr {
    match world.rng.below(12) {
        0 => HUB_V4,
        1 => HUB_V6,
        2 => Ipv4Addr::BROADCAST.into(),
        3 => Ipv4Addr::new(10, 0, 0, 15).into(),
        4 => Ipv4Addr::new(224, 0, 0, 251).into(),
        5 => "ff02::fb".parse().unwrap(),
        6..8 => v6(world.rng.below(10)).into(),
        8 => Ipv4Addr::new(203, 0, 113, 9).into(),
        _ => Ipv4Addr::new(10, 0, 0, world.rng.below(16) as u8).into(),
    }
}

/// A machine sends one packet, most likely an honest one.
fn send(world: &mut World, spoke: usize) {
    let to = destination(world);
    let forged = destination(world);
    let extra = if world.rng.one_in(30) { 60_000 } else { world.rng.below(1_400) };
    let kind = world.rng.below(10);
    if !world.spokes[spoke].is_on_lan() {
        return;
    }
    let addresses = world.spokes[spoke].addresses();
    let own = addresses.iter().copied().find(|own| own.is_ipv4() == to.is_ipv4());
    let source = match (own, kind) {
        (Some(own), 2..) => own,
        _ if forged.is_ipv4() == to.is_ipv4() => forged,
        _ => return,
    };
    let packet = udp(source, to, world.book.next_id(), extra);
    world.book.enter(&packet, Some(spoke), to, addresses.contains(&source));
    hand_over(world, spoke, &packet);
}

/// The kernel of a spoke's machine has a packet for the device.
fn hand_over(world: &mut World, spoke: usize, packet: &[u8]) {
    world.with_uplink(spoke, |uplink, now| {
        uplink.send(now, |space| {
            space[..packet.len()].copy_from_slice(packet);
            Some(packet.len())
        });
    });
}

fn send_from_hub(world: &mut World) {
    let to = destination(world);
    let source = if to.is_ipv4() { HUB_V4 } else { HUB_V6 };
    let packet = udp(source, to, world.book.next_id(), world.rng.below(1_400));
    world.book.enter(&packet, HUB, to, true);
    world.send_from_hub(&packet);
}

/// The trouble ends, and everybody who may be on the LAN gets on it.
fn settle(world: &mut World) {
    world.rogue_hang_up();
    world.disk.is_full = false;
    for spoke in 0..world.spokes.len() {
        let conn = world.spokes[spoke].conn().and_then(|conn| world.conns.get(&conn));
        if conn.is_some_and(|conn| !conn.is_sound) {
            world.vanish(spoke);
        }
    }
    world.pass(Duration::from_secs(15));
    for spoke in 0..world.spokes.len() {
        if !world.spokes[spoke].is_on_lan() {
            world.join(spoke, vec![]);
            // The disk may be slow.
            world.pass(Duration::from_secs(4));
        }
        let is_on_lan = world.spokes[spoke].is_on_lan();
        assert_eq!(is_on_lan, world.spokes[spoke].may_join, "spoke {spoke} in the end");
    }
    // Changes of the list of members and of routes are told within a second or two.
    world.pass(Duration::from_secs(5));
    check_what_is_known(world);
}

/// Everybody knows who is on the LAN, and reaches what is behind others.
fn check_what_is_known(world: &World) {
    let members = world.hub.members();
    let hub = members.hub_name().expect("it was set");
    let own = world.hub.addresses(hub).expect("it has its name");
    let listed = members.after(None).map(|member| (&member.name, &member.addresses)).chain([(hub, &own)]);
    let mut listed: Vec<(&Name, &Vec<IpAddr>)> = listed.collect();
    listed.retain(|(_, addresses)| !addresses.is_empty());
    listed.sort();
    for (at, spoke) in world.spokes.iter().enumerate().filter(|(_, spoke)| spoke.is_on_lan()) {
        let hosts = spoke.process.as_ref().and_then(|process| process.hosts.as_ref());
        let known: Vec<_> = hosts.into_iter().flatten().map(|peer| (&peer.name, &peer.addresses)).collect();
        assert_eq!(known, listed, "spoke {at} follows the list of members");
        let own = members.by_key(&spoke.key.public());
        let mut behind = world.hub.prefixes_behind_others(own);
        // What it offers itself it reaches by itself.
        let offers = spoke.process.iter().flat_map(|process| process.offers.clone());
        offers.for_each(|offer| behind.retain(|prefix| *prefix != offer));
        assert_eq!(spoke.routes(), behind, "spoke {at} reaches what is behind others");
    }
}

/// Now every packet arrives, once, where it should.
fn deliver_all(world: &mut World) {
    let open: Vec<(usize, Vec<IpAddr>)> = world
        .spokes
        .iter()
        .enumerate()
        .filter(|(_, spoke)| spoke.is_on_lan())
        .map(|(at, spoke)| (at, spoke.addresses()))
        .collect();
    let mut expected = Vec::new();
    for (from, own) in &open {
        for &source in own {
            let hub = if source.is_ipv4() { HUB_V4 } else { HUB_V6 };
            let all = if source.is_ipv4() { Ipv4Addr::BROADCAST.into() } else { "ff02::1".parse().unwrap() };
            let same_family = |address: &&IpAddr| address.is_ipv4() == source.is_ipv4();
            let others = open.iter().filter(|(to, _)| to != from);
            let mut wanted: Vec<(IpAddr, Vec<packets::Place>)> = others
                .clone()
                .flat_map(|(to, has)| {
                    has.iter().filter(same_family).map(|&address| (address, vec![Some(*to)]))
                })
                .collect();
            wanted.push((hub, vec![HUB]));
            wanted.push((all, [HUB].into_iter().chain(others.map(|&(to, _)| Some(to))).collect()));
            for (to, receivers) in wanted {
                let id = world.book.next_id();
                let packet = udp(source, to, id, 100);
                world.book.enter(&packet, Some(*from), to, true);
                hand_over(world, *from, &packet);
                expected.push((id, to, receivers));
            }
        }
    }
    world.pass(Duration::from_secs(1));
    for (id, to, receivers) in expected {
        assert_eq!(world.book.got_by(id), receivers, "who got the packet to {to}");
    }
}
