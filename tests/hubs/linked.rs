//! Hubs that are linked: members at different ones are on one LAN.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use common::node::state::State;
use common::wire::frame::{ControlFrame, Join, Presence};

use super::traffic::through;
use super::world::{DESK, HUB_A, HUB_B, LAPTOP, SOON, World, own};
use crate::house::wire::{Wire, udp_packet};
use crate::house::{self, Host, Lan, Net, alone, await_true, long_or, ping, ping_until, place, transfer};

const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);

fn both(v4: Ipv4Addr, v6: std::net::Ipv6Addr) -> [IpAddr; 2] {
    [v4.into(), v6.into()]
}

fn desk() -> [IpAddr; 2] {
    both(Lan::address(1), Lan::address_v6(1))
}

/// The program `ping` on the laptop: what it prints.
fn ping_program(world: &World, words: &[&str]) -> String {
    let mut command = Command::new("sh");
    // Where no answer comes it ends with an error.
    command.arg("-c").arg(format!("ping -n -c 1 -W 3 {} || true", words.join(" ")));
    let output = world.net.spoke(LAPTOP).output(command).unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn members_at_different_hubs_are_on_one_lan() {
    let _place = place();
    let mut world = World::linked();
    let (laptop, at_desk) = (world.net.spoke(LAPTOP), world.net.spoke(DESK));
    // Each other, the other hub by the address that it has alone, and one's own by the address that each has.
    for to in desk().into_iter().chain(own(HUB_A)).chain(own(HUB_B)) {
        ping_until(laptop, to, SOON).unwrap();
    }
    for to in both(Lan::hub_address(), Lan::hub_address_v6()) {
        ping_until(laptop, to, SOON).unwrap();
        ping_until(at_desk, to, SOON).unwrap();
    }
    // The hubs' own kernels, which send from the address that is theirs alone.
    for to in desk() {
        ping_until(world.host(HUB_A), to, SOON).unwrap();
    }
    house::ping_link_local(laptop, "spoke0", "fe80::3".parse().unwrap(), 56, SOON).unwrap();
    // Nothing on the way counts as a router, and full packets fit.
    let said = ping_program(&world, &["-t", "1", "-s", "1472", "-M", "do", "10.0.0.3"]);
    assert!(said.contains("ttl=64"), "{said}");
    // An address that nobody holds is answered at once.
    let said = ping_program(&world, &["10.0.0.77"]);
    assert!(said.contains("From 10.0.0.1") && said.contains("Unreachable"), "{said}");
    // Who it is, and where, is seen at both.
    let status = world.ask(HUB_A, &["status"]).good();
    let there = |line: &str| line.starts_with("desk ") && line.contains("online at hub-b");
    assert!(status.lines().any(there), "{status}");
    assert!(status.contains(": linked for ") && status.contains(", 1 member there,"), "{status}");
    let members = house::ask_spoke(&world.net, LAPTOP, &["status"]).good();
    assert!(members.contains("on the LAN"), "{members}");

    // One that leaves is unreachable at once, at the other hub too.
    world.spokes.pop().unwrap().kill().unwrap();
    await_true("it is known to be gone", SOON, || world.json(HUB_A)["elsewhere"] == 0);
    let said = ping_program(&world, &["10.0.0.3"]);
    assert!(said.contains("From 10.0.0.1") && said.contains("Unreachable"), "{said}");
}

fn listener(host: &Host, at: Ipv4Addr) -> UdpSocket {
    let socket = host.udp_bind((Ipv4Addr::UNSPECIFIED, 5_353)).unwrap();
    host.run({
        let socket = socket.try_clone().unwrap();
        move || socket.join_multicast_v4(&GROUP, &at)
    })
    .unwrap();
    socket
}

#[test]
fn a_broadcast_comes_once_to_each_member_and_each_hub() {
    let _place = place();
    const COUNT: usize = 30;
    let world = World::linked();
    let [IpAddr::V4(a), IpAddr::V4(b)] = [own(HUB_A)[0], own(HUB_B)[0]] else { unreachable!() };
    let listeners = [
        listener(world.net.spoke(DESK), Lan::address(1)),
        listener(world.host(HUB_A), a),
        listener(world.host(HUB_B), b),
    ];
    let sender = world.net.spoke(LAPTOP).udp_bind((Lan::address(0), 0)).unwrap();
    sender.set_broadcast(true).unwrap();
    for to in [Ipv4Addr::BROADCAST, Ipv4Addr::new(10, 0, 0, 255), GROUP] {
        // By the LAN's device: 255.255.255.255 is everywhere.
        nix::sys::socket::setsockopt(&sender, nix::sys::socket::sockopt::BindToDevice, &"spoke0".into())
            .unwrap();
        for number in 0..COUNT {
            sender.send_to(&[number as u8], (to, 5_353)).unwrap();
        }
        for (at, socket) in listeners.iter().enumerate() {
            socket.set_read_timeout(Some(SOON)).unwrap();
            let mut bytes = [0; 8];
            for number in 0..COUNT {
                let (_, from) = socket.recv_from(&mut bytes).unwrap();
                assert_eq!(
                    (usize::from(bytes[0]), from.ip()),
                    (number, Lan::address(0).into()),
                    "{to} at {at}"
                );
            }
            socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            assert!(socket.recv_from(&mut bytes).is_err(), "{to} came to {at} once more");
        }
    }
}

#[test]
fn a_link_that_is_cut_is_given_up_and_comes_back_and_nobody_else_is_disturbed() {
    let _place = place();
    let world = World::linked();
    let (laptop, hub) = (world.net.spoke(LAPTOP), world.host(HUB_A));
    let to = desk_v4();
    ping(laptop, to, 56, SOON).unwrap();
    hub.part_from(&Net::spoke_v4(0).to_string()).unwrap();
    let start = Instant::now();
    await_true("it is answered that the other one is not reached", SOON, || {
        ping_program(&world, &["-W", "0.2", "10.0.0.3"]).contains("Unreachable")
    });
    let noticed = start.elapsed();
    ping(laptop, Lan::hub_address().into(), 56, Duration::from_secs(1)).unwrap();
    let status = world.ask(HUB_A, &["status"]).good();
    assert!(status.contains(": no link"), "{status}");
    std::thread::sleep(Duration::from_secs(2));
    hub.rejoin().unwrap();
    let start = Instant::now();
    ping_until(laptop, to, SOON).unwrap();
    let back = start.elapsed();
    println!("link cut: unreachable after {noticed:?}, back {back:?} after it was mended");
    assert!(
        noticed <= Duration::from_millis(2_500) && back <= Duration::from_millis(1_500),
        "{noticed:?} {back:?}"
    );
    let log = world.hubs[HUB_A].as_ref().unwrap().lines();
    let told = |what: &str| log.iter().filter(|line| line.contains(what)).count();
    assert!(
        told("linked to the hub hub-b") == 2 && told("the link to the hub hub-b is lost") == 1,
        "{log:?}"
    );
}

#[test]
fn access_rules_hold_between_hubs_and_answers_pass() {
    let _place = place();
    let world = World::linked();
    for hub in [HUB_A, HUB_B] {
        let rules = house::state(world.host(hub), "hub").join("rules");
        std::fs::write(rules, "allow laptop -> desk [icmp]\n").unwrap();
        world.ask(hub, &["reload"]).good();
    }
    ping(world.net.spoke(LAPTOP), desk_v4(), 56, SOON).unwrap();
    let back = ping(world.net.spoke(DESK), Lan::address(0).into(), 56, Duration::from_millis(300));
    assert!(back.is_err(), "{back:?}");
    // The hub of the receiver holds it against the rules too: what its neighbour lets through is not let through here.
    std::fs::remove_file(house::state(world.host(HUB_B), "hub").join("rules")).unwrap();
    world.ask(HUB_B, &["reload"]).good();
    let back = ping(world.net.spoke(DESK), Lan::address(0).into(), 56, Duration::from_millis(300));
    assert!(back.is_err(), "{back:?}");
    assert!(world.link(HUB_A)["drops"]["denied"].as_u64() >= Some(1), "{}", world.link(HUB_A));
}

#[test]
fn one_key_at_two_hubs_is_on_the_lan_once() {
    let _place = place();
    let world = World::linked();
    // A copy of the desk's state directory, on the laptop's machine, at the other hub.
    let (laptop, original) = (world.net.spoke(LAPTOP), house::state(world.net.spoke(DESK), "spoke"));
    house::copy_state(&original, &house::state(laptop, "clone")).unwrap();
    let mut command = Command::new(&world.binaries.spoke);
    command.args(["--hub", &World::place(HUB_A), "--tun", "clone0", "--state"]);
    command.arg(laptop.private().join("clone"));
    let clone = laptop.spawn("clone", &command).unwrap();
    clone.wait_for_line(house::SPOKE_ON_LAN, SOON).unwrap();
    let start = Instant::now();
    await_true("the older one is sent away", SOON, || world.json(HUB_B)["online"] == 0);
    println!("the other hub has sent the older one away {:?} later", start.elapsed());
    assert_eq!(world.json(HUB_A)["online"], 2);
    let why = "another spoke joined with the same key";
    let line = world.spokes[1].wait_for_line(why, SOON).unwrap();
    assert!(line.contains("delete the file `key`"), "{line}");
    // It comes back, but not at once: two such machines do not take turns within seconds.
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!((&world.json(HUB_A)["online"], &world.json(HUB_B)["online"]), (&2.into(), &0.into()));
    assert!(clone.is_running());
}

/// No hub knows of another one's flows.
#[test]
fn where_rules_hold_a_connection_goes_on_at_another_hub_whichever_side_speaks_first() {
    let _place = place();
    let mut world = World::linked_with([HUB_A, HUB_A]);
    for hub in [HUB_A, HUB_B] {
        let rules = house::state(world.host(hub), "hub").join("rules");
        std::fs::write(rules, "allow laptop -> desk [tcp/4000]\n").unwrap();
        world.ask(hub, &["reload"]).good();
    }
    let listener = world.net.spoke(DESK).tcp_listen((Lan::address(1), 4_000)).unwrap();
    let mut client = world.net.spoke(LAPTOP).tcp_connect(listener.local_addr().unwrap(), SOON).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    client.write_all(b"?").unwrap();
    let mut byte = [0];
    server.read_exact(&mut byte).unwrap();
    world.hubs[HUB_A].take().unwrap().kill().unwrap();
    world.await_at(HUB_B);
    server.write_all(b"!").unwrap();
    client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    client.read_exact(&mut byte).unwrap();
    // None begins that way.
    let back = world.net.spoke(LAPTOP).tcp_listen((Lan::address(0), 4_000)).unwrap().local_addr().unwrap();
    assert!(world.net.spoke(DESK).tcp_connect(back, Duration::from_millis(500)).is_err());
}

/// A transfer between two members goes on while the hubs are killed in turn.
#[test]
fn a_transfer_goes_on_while_the_hubs_are_killed_in_turn() {
    let _place = place();
    let (bytes, kills) = long_or((4 << 30, 50), (256 << 20, 4));
    let mut world = World::linked();
    let transfer = transfer(world.net.spoke(LAPTOP), world.net.spoke(DESK), desk_v4(), bytes).unwrap();
    let mut stalls = Vec::new();
    for kill in 0..kills {
        let hub = [HUB_A, HUB_B][kill % 2];
        let enough = bytes / kills as u64 * kill as u64;
        transfer.wait_received(enough, SOON * 6).unwrap();
        transfer.take_longest_stall();
        world.hubs[hub].take().unwrap().kill().unwrap();
        world.await_at([HUB_B, HUB_A][kill % 2]);
        world.start_with(hub, &["--subnet", "fd00::/64"]);
        world.await_linked();
        transfer.wait_received(enough + 1_000_000, SOON * 6).unwrap();
        stalls.push(transfer.take_longest_stall());
    }
    let took = transfer.finish().unwrap();
    stalls.sort_unstable();
    let (worst, median) = (stalls[kills - 1], stalls[kills / 2]);
    println!("{bytes} bytes in {took:?} through {kills} kills: stalls {median:?}, at most {worst:?}");
    assert!(worst <= Duration::from_secs(3), "{stalls:?}");
}

#[test]
fn spokes_that_are_sent_to_another_hub_reach_each_other_all_the_while() {
    let _alone = alone();
    let mut world = World::linked_with([HUB_A, HUB_A]);
    let (gap, stall) =
        through(&mut world, "drained, from spoke to spoke, with a link between the hubs", |world| {
            let said = world.ask(HUB_A, &["drain"]).good();
            assert!(said.contains("the 2 members online here are told to go to hub-b at"), "{said}");
            world.await_at(HUB_B);
        });
    assert!(gap <= Duration::from_millis(50) && stall <= Duration::from_millis(500), "{gap:?} {stall:?}");
}

#[test]
fn who_is_revoked_at_one_hub_is_off_at_all() {
    let _place = place();
    let mut world = World::linked();
    let start = Instant::now();
    world.ask(HUB_A, &["revoke", "desk"]).good();
    await_true("it is off the LAN", SOON, || world.json(HUB_B)["online"] == 0);
    let took = start.elapsed();
    println!("revoked at one hub, off at the other after {took:?}");
    assert!(took <= Duration::from_secs(1), "{took:?}");
    world.spokes[1].wait_for_line("its membership was revoked", SOON).unwrap();
    // A hub that was away hears of it when it comes back.
    world.hubs[HUB_B].take().unwrap().kill().unwrap();
    world.ask(HUB_A, &["revoke", "laptop"]).good();
    world.start_with(HUB_B, &["--subnet", "fd00::/64"]);
    await_true("both are revoked", SOON, || world.json(HUB_B)["revoked"] == 2);
    let list = std::fs::read_to_string(house::state(world.host(HUB_B), "hub").join("members")).unwrap();
    assert_eq!(list.lines().filter(|line| line.ends_with(" revoked")).count(), 2, "{list}");
}

#[test]
fn a_hub_that_is_revoked_sends_its_members_to_the_others() {
    let _place = place();
    let world = World::linked();
    assert!(world.is_at(DESK, HUB_B) && world.is_at(LAPTOP, HUB_A));
    let start = Instant::now();
    world.ask(HUB_A, &["revoke", "hub-b"]).good();
    await_true("its member is at the other hub", SOON, || world.is_at(DESK, HUB_A));
    println!("a hub is revoked, its member is at the other one after {:?}", start.elapsed());
    ping_until(world.net.spoke(LAPTOP), desk_v4(), SOON).unwrap();
    world.hubs[HUB_B].as_ref().unwrap().wait_for_line("this hub's membership was revoked", SOON).unwrap();
    await_true("it is told so each time", SOON, || {
        let said = world.ask(HUB_B, &["status"]).good();
        said.contains("draining") && said.contains("was revoked")
    });
    // What comes now, by the connection that the link was, is no hub's.
    let status = world.json(HUB_A);
    assert_eq!((&status["online"], &status["elsewhere"]), (&2.into(), &0.into()), "{status}");
}

#[test]
fn a_hub_in_other_hands_speaks_for_its_members_alone_and_is_out_once_it_is_revoked() {
    let _place = place();
    let mut world = World::linked();
    world.hubs[HUB_B].take().unwrap().kill().unwrap();
    await_true("everybody is at the first hub", SOON, || world.json(HUB_A)["online"] == 2);
    // Somebody has its key.
    let key = State::open(&house::state(world.host(HUB_B), "hub")).unwrap().key().unwrap();
    let request = Join {
        routes: vec!["10.0.0.0/24".parse().unwrap(), "fd00::/64".parse().unwrap()],
        is_hub: true,
        ..Join::new("hub".parse().unwrap())
    };
    let wire = || Wire::connect(world.host(HUB_B), (Net::hub_v4(), 5_678).into(), SOON).unwrap();
    let (mut link, welcome) = wire().join_as(&key, &request).unwrap();
    assert!(welcome.is_hub);
    let presence = |key| {
        let mut frame = Vec::new();
        let presence = Presence { key, sequence: u64::MAX, since: 0, routes: vec![] };
        ControlFrame::Online(vec![presence]).encode(&mut frame);
        frame
    };
    link.send_frames(&presence(key.public())).unwrap();
    let listener = world.net.spoke(LAPTOP).udp_bind((Lan::address(0), 4_100)).unwrap();
    listener.set_read_timeout(Some(SOON)).unwrap();
    let mut send = |from: Ipv4Addr, text: &[u8]| {
        link.send_packet(&udp_packet((from, 4_100), (Lan::address(0), 4_100), text)).unwrap();
    };
    // From who is at the other hub, or offline, or nobody, or from any hub, or from outside: dropped, and counted.
    for forged in ["10.0.0.3", "10.0.0.251", "10.0.0.1", "10.0.0.2", "10.0.0.77", "192.0.2.9"] {
        send(forged.parse().unwrap(), b"forged");
    }
    send("10.0.0.252".parse().unwrap(), b"genuine");
    let mut text = [0; 16];
    let (len, from) = listener.recv_from(&mut text).unwrap();
    assert_eq!((&text[..len], from.ip()), (&b"genuine"[..], IpAddr::from([10, 0, 0, 252])));
    assert_eq!(world.link(HUB_A)["drops"]["forged-source"], 6, "{}", world.link(HUB_A));
    // Whom it claims to have is sent away, and comes back.
    let desk = &world.json(HUB_A)["members"];
    let is_desk = |member: &&serde_json::Value| member["name"] == "desk";
    let desk = desk.as_array().unwrap().iter().find(is_desk).unwrap()["key"].clone();
    let mark = world.spokes[1].mark();
    link.send_frames(&presence(desk.as_str().unwrap().parse().unwrap())).unwrap();
    world.spokes[1].wait_for_line_after(mark, "on the LAN as", SOON).unwrap();
    ping_until(world.net.spoke(LAPTOP), desk_v4(), SOON).unwrap();

    let start = Instant::now();
    world.ask(HUB_A, &["revoke", "hub-b"]).good();
    link.wire().wait_closed(SOON).unwrap();
    let took = start.elapsed();
    assert!(took <= Duration::from_secs(1), "{took:?}");
    let refused = wire().join_as(&key, &request).map(drop).unwrap_err().to_string();
    assert!(refused.contains("was revoked"), "{refused}");
}

fn desk_v4() -> IpAddr {
    Lan::address(1).into()
}
