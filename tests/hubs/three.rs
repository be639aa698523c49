//! Three hubs, each linked to each: one LAN, which any of them may leave.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt::BindToDevice};

use super::kept::{A, B, C, DESK, LAPTOP, NAS, World};
use super::world::SOON;
use crate::house::{Host, SPOKE_ON_LAN, ask_spoke, await_true, ping_until, place};

const SPOKES: [(usize, usize, &str, &str); 3] =
    [(LAPTOP, A, "laptop", "10.0.0.2"), (DESK, B, "desk", "10.0.0.3"), (NAS, C, "nas", "10.0.0.4")];
const ALL: [usize; 3] = [A, B, C];
const PORT: u16 = 5_353;

/// A spoke at each, all of which know all hubs.
fn world() -> World {
    let mut world = World::of_two();
    world.invite(B, C);
    world.await_linked(A, C);
    for (host, hub, name, address) in SPOKES {
        world.spoke(host, &["--hub", &World::place(hub), "--name", name, "--ip", address], SPOKE_ON_LAN);
    }
    for (host, ..) in SPOKES {
        await_true("it knows three hubs", SOON, || hubs(&world, host).len() == 3);
    }
    world
}

/// The hubs that a spoke knows, as its status has them.
fn hubs(world: &World, host: usize) -> Vec<serde_json::Value> {
    let status = ask_spoke(&world.net, host, &["status", "--json"]).good();
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    status["hubs"].as_array().unwrap().clone()
}

/// Each hub that runs knows where all three are.
fn await_all(world: &World, running: &[usize]) {
    for &hub in running {
        await_true("each hub knows where all are", SOON, || {
            let status = world.status(hub);
            status["online"].as_u64().unwrap() + status["elsewhere"].as_u64().unwrap() == 3
        });
    }
}

/// Everybody reaches everybody: how long until then.
fn reach(world: &World) -> Duration {
    let start = Instant::now();
    for (from, ..) in SPOKES {
        for (_, _, _, to) in SPOKES.iter().filter(|(to, ..)| *to != from) {
            ping_until(world.net.spoke(from), to.parse().unwrap(), SOON).unwrap();
        }
    }
    start.elapsed()
}

fn listener(host: &Host) -> UdpSocket {
    host.udp_bind((Ipv4Addr::UNSPECIFIED, PORT)).unwrap()
}

#[test]
fn three_hubs_are_one_lan_and_any_of_them_may_go_and_come_back() {
    let _place = place();
    let mut world = world();
    await_all(&world, &ALL);
    reach(&world);

    // What is for all comes once to each member and each other hub.
    let listeners = [world.net.spoke(DESK), world.net.spoke(NAS), world.host(B), world.host(C)].map(listener);
    let sender = world.net.spoke(LAPTOP).udp_bind((Ipv4Addr::new(10, 0, 0, 2), 0)).unwrap();
    sender.set_broadcast(true).unwrap();
    setsockopt(&sender, BindToDevice, &"spoke0".into()).unwrap();
    for number in 0..30_u8 {
        sender.send_to(&[number], (Ipv4Addr::BROADCAST, PORT)).unwrap();
    }
    for (at, socket) in listeners.iter().enumerate() {
        let mut bytes = [0; 8];
        socket.set_read_timeout(Some(SOON)).unwrap();
        for number in 0..30 {
            assert_eq!((socket.recv(&mut bytes).unwrap(), bytes[0]), (1, number), "listener {at}");
        }
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        assert!(socket.recv(&mut bytes).is_err(), "one came to listener {at} once more");
    }

    // Any of them goes, the keeper last: its members go on elsewhere, the links of the others stay, and heal with it.
    for gone in [C, B, A] {
        let left: Vec<usize> = ALL.into_iter().filter(|&hub| hub != gone).collect();
        world.kill(gone);
        let reached = reach(&world);
        println!("hub {gone} killed: everybody reaches everybody after {reached:?}");
        assert!(reached <= Duration::from_secs(1), "{reached:?}");
        await_all(&world, &left);
        world.await_linked(left[0], left[1]);
        world.start(gone);
        left.iter().for_each(|&hub| world.await_linked(gone, hub));
        await_all(&world, &ALL);
        reach(&world);
    }
}
