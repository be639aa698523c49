//! A simulated LAN: the real switch and the real tunnels, over streams in memory, in virtual time.
//!
//! Each seed is a story of joins, leaves, clashing wishes, stalls, cuts, flipped bits, strangers and packets of
//! all kinds; what must hold is checked after every turn of it. `SEED=n` runs one seed, `SEEDS=n` that many,
//! each of `STEPS=n` steps. Seeds that failed once are kept in `tests/simulation/seeds` and always run.

#![allow(clippy::disallowed_methods, reason = "a test: it reads the environment and starts virtual time")]
#![allow(clippy::unwrap_used, reason = "a test: what goes wrong shall end it")]
#![allow(clippy::print_stdout, reason = "a test: it says which seed failed")]

#[path = "simulation/disk.rs"]
mod disk;
#[path = "simulation/govern.rs"]
mod govern;
#[path = "simulation/packets.rs"]
mod packets;
#[path = "simulation/pipe.rs"]
mod pipe;
#[path = "simulation/rng.rs"]
mod rng;
#[path = "simulation/world.rs"]
mod world;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::wire::frame::{ControlFrame, Welcome};
use common::wire::hello::hello;
use common::wire::name::Name;
use packets::{HUB, HUB_V4, HUB_V6, udp};
use world::World;

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
    tell_all(kept(), |world| if world.rng.one_in(12) { govern::govern(world) } else { act(world) });
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
    world.pass(Duration::from_secs(20));
    assert!(world.conns.is_empty() && world.hub.deadline().is_none(), "a hub that stops forgets all links");
    assert!(world.spokes.iter().all(|spoke| spoke.link.is_none()), "and tells them");
    world.book.delivered
}

/// One thing happens.
fn act(world: &mut World) {
    let spoke = world.rng.below(world.spokes.len());
    let is_linked = world.spokes[spoke].link.is_some();
    match world.rng.below(100) {
        0..3 => world.leave(spoke),
        3..5 => world.forget(spoke),
        // The same key, while the hub still has its old link.
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
        20..22 => speak(world, spoke),
        22..31 => send_from_hub(world),
        31 => world.disk.is_full = !world.disk.is_full && world.rng.one_in(4),
        _ if is_linked => (0..1 + world.rng.below(8)).for_each(|_| send(world, spoke)),
        _ => join(world, spoke),
    }
}

fn disturb(world: &mut World, spoke: usize, how: impl FnOnce(&mut World, usize)) {
    let conn = world.spokes[spoke].link.as_ref().map(|link| link.conn);
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

/// A stranger connects, says something, and falls silent or goes.
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

/// A spoke says what is no packet; some of it breaks its link.
fn speak(world: &mut World, spoke: usize) {
    let control = match world.rng.below(4) {
        0 => ControlFrame::Pong(world.rng.next()),
        1 => ControlFrame::Welcome(Welcome {
            name: Name::nearest("x"),
            addresses: vec![],
            hub: vec![],
            mtu: 1,
            routes: vec![],
        }),
        _ => ControlFrame::AskMembers { after: None, watch: true },
    };
    let Some(link) = world.spokes[spoke].link.as_mut().filter(|link| link.tunnel.is_open()) else { return };
    link.tunnel.control(&control).unwrap();
    if matches!(control, ControlFrame::Welcome(_))
        && let Some(conn) = world.conns.get_mut(&link.conn)
    {
        conn.is_sound = false;
    }
}

/// Some address of either family: a member's, the hub's, everybody's, nobody's.
fn destination(world: &mut World) -> IpAddr {
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

/// A spoke sends one packet, most likely an honest one.
fn send(world: &mut World, spoke: usize) {
    let to = destination(world);
    let forged = destination(world);
    let extra = if world.rng.one_in(30) { 60_000 } else { world.rng.below(1_400) };
    let id = world.book.next_id();
    let kind = world.rng.below(10);
    let Some(link) = world.spokes[spoke].link.as_mut().filter(|link| link.tunnel.is_open()) else { return };
    let own = link.addresses.iter().copied().find(|own| own.is_ipv4() == to.is_ipv4());
    let source = match (own, kind) {
        (Some(own), 2..) => own,
        _ if forged.is_ipv4() == to.is_ipv4() => forged,
        _ => return,
    };
    let mut packet = udp(source, to, id, extra);
    let mut is_legal = link.addresses.contains(&source);
    if kind == 9 {
        is_legal = false;
        let random = world.rng.next() as usize;
        match random % 4 {
            0 => packet.truncate(random / 4 % packet.len()),
            1 => packet.push(0),
            // A flag, a type or a length of an offload that is none.
            2 => packet[random / 4 % 2] = 0x40,
            _ => packet[10] = (random >> 8) as u8 | 0x80,
        }
    }
    world.book.enter(&packet, Some(spoke), to, is_legal);
    let Some(link) = &mut world.spokes[spoke].link else { return };
    let flow = id as u32 % 3;
    let packet = world.pool.copy(&packet);
    link.tunnel.enqueue(packet, flow, &mut world.pool, world.now);
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
    for spoke in 0..world.spokes.len() {
        let is_sound = |link: &world::Link| world.conns.get(&link.conn).is_some_and(|conn| conn.is_sound);
        if !world.spokes[spoke].link.as_ref().is_some_and(is_sound) {
            world.forget(spoke);
        }
    }
    world.pass(Duration::from_secs(15));
    for spoke in 0..world.spokes.len() {
        if world.spokes[spoke].link.is_none() {
            world.join(spoke, vec![]);
            world.pass(Duration::from_secs(1));
        }
        let is_open = world.spokes[spoke].link.as_ref().is_some_and(|link| link.tunnel.is_open());
        assert_eq!(is_open, world.spokes[spoke].may_join, "spoke {spoke} in the end");
    }
}

/// Now every packet arrives, once, where it should.
fn deliver_all(world: &mut World) {
    let open: Vec<(usize, Vec<IpAddr>)> = world
        .spokes
        .iter()
        .enumerate()
        .filter_map(|(at, spoke)| Some((at, spoke.link.as_ref()?.addresses.clone())))
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
                let Some(link) = &mut world.spokes[*from].link else { continue };
                let packet = world.pool.copy(&packet);
                link.tunnel.enqueue(packet, 0, &mut world.pool, world.now);
                expected.push((id, to, receivers));
            }
        }
    }
    world.pass(Duration::from_secs(1));
    for (id, to, receivers) in expected {
        assert_eq!(world.book.got_by(id), receivers, "who got the packet to {to}");
    }
}
