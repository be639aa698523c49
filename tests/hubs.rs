//! Two hubs, one LAN: spokes that lose the hub they are at, or are sent away, go on at the other one.
//!
//! The hubs have the same list of members, copied, and no link between them: both spokes of a test move.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests of IO")]
#![allow(clippy::print_stdout, reason = "a test: it says what it measured")]

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::house::{
    self, Binaries, HUB_LISTENS, Host, Lan, Net, Process, SPOKE_ON_LAN, Said, ask_spoke, await_true,
    fill_seeded, make_state, place, run, state,
};

const SOON: Duration = Duration::from_secs(20);
/// Whose host the second hub's is, and those of the spokes.
const SECOND: usize = 0;
const LAPTOP: usize = 1;
const DESK: usize = 2;
const HUB_A: usize = 0;
const HUB_B: usize = 1;

/// Nothing that a hub's host sends or hears passes, and nobody is told.
const SILENCE: &str = "\
table inet silence {
    chain input { type filter hook input priority 0; iifname != lo drop; }
    chain output { type filter hook output priority 0; oifname != lo drop; }
}
";

struct World {
    spokes: Vec<Process>,
    hubs: [Option<Process>; 2],
    keys: [String; 2],
    net: Net,
    binaries: Binaries,
}

impl World {
    /// Two hubs with one list, which has no member but them.
    fn new() -> World {
        house::require_tun().unwrap();
        let net = Net::named(&["second", "laptop", "desk"]).unwrap();
        let mut world = World {
            spokes: Vec::new(),
            hubs: [None, None],
            keys: Default::default(),
            net,
            binaries: Binaries::find().unwrap(),
        };
        for hub in [HUB_A, HUB_B] {
            make_state(world.host(hub), "hub").unwrap();
            world.start(hub);
            world.keys[hub] = world.json(hub)["key"].as_str().unwrap().to_owned();
        }
        world.share("");
        world
    }

    /// As [`World::new`], with both spokes on the LAN through the first hub; the list is copied to the other.
    fn with_spokes() -> World {
        let mut world = World::new();
        for (i, address) in [(LAPTOP, 0), (DESK, 1)] {
            let spoke = world.spawn_spoke(i, address, &[&World::place(HUB_A)]);
            spoke.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
            world.spokes.push(spoke);
        }
        world.copy_members();
        world.await_watched();
        world
    }

    fn host(&self, hub: usize) -> &Host {
        if hub == HUB_A { self.net.hub() } else { self.net.spoke(SECOND) }
    }

    fn place(hub: usize) -> String {
        if hub == HUB_A {
            format!("{}:5678", Net::hub_v4())
        } else {
            format!("{}:5678", Net::spoke_v4(SECOND))
        }
    }

    fn start(&mut self, hub: usize) {
        let host = self.host(hub);
        let mut command = Command::new(&self.binaries.hub);
        command.args(["--subnet", "10.0.0.0/24", "--state"]).arg(host.private().join("hub"));
        let process = host.spawn(if hub == HUB_A { "hub-a" } else { "hub-b" }, &command).unwrap();
        process.wait_for_line(HUB_LISTENS, SOON).unwrap();
        self.hubs[hub] = Some(process);
    }

    fn ask(&self, hub: usize, words: &[&str]) -> Said {
        let host = self.host(hub);
        let mut command = Command::new(&self.binaries.hub);
        command.args(words).arg("--state").arg(host.private().join("hub"));
        run(host, command)
    }

    fn json(&self, hub: usize) -> serde_json::Value {
        serde_json::from_str(&self.ask(hub, &["status", "--json"]).good()).unwrap()
    }

    fn online(&self, hub: usize) -> u64 {
        self.json(hub)["online"].as_u64().unwrap()
    }

    /// Gives both hubs this list, with their own lines.
    fn share(&self, members: &str) {
        let [a, b] = &self.keys;
        let hubs =
            format!("{a} hub-a - hub={}\n{b} hub-b - hub={}\n", World::place(HUB_A), World::place(HUB_B));
        let members: Vec<&str> = members.lines().filter(|line| !line.contains("hub=")).collect();
        for hub in [HUB_A, HUB_B] {
            let text = format!("{hubs}{}\n", members.join("\n"));
            fs::write(state(self.host(hub), "hub").join("members"), text).unwrap();
            self.ask(hub, &["reload"]).good();
        }
    }

    fn copy_members(&self) {
        let list = state(self.host(HUB_A), "hub").join("members");
        self.share(&fs::read_to_string(list).unwrap());
    }

    fn spawn_spoke(&self, i: usize, address: usize, hubs: &[&str]) -> Process {
        let host = self.net.spoke(i);
        let mut command = Command::new(&self.binaries.spoke);
        command
            .args(["--ip", &Lan::address(address).to_string(), "--state"])
            .arg(host.private().join("spoke"));
        command.args(hubs.iter().flat_map(|hub| ["--hub", hub]));
        host.spawn(host.name(), &command).unwrap()
    }

    /// Both spokes know both hubs.
    fn await_watched(&self) {
        for i in [LAPTOP, DESK] {
            await_true("a spoke that knows two hubs", SOON, || {
                self.spoke(i)["hubs"].as_array().unwrap().len() == 2
            });
        }
    }

    fn spoke(&self, i: usize) -> serde_json::Value {
        serde_json::from_str(&ask_spoke(&self.net, i, &["status", "--json"]).good()).unwrap()
    }

    /// The hub that a spoke is at.
    fn is_at(&self, i: usize, hub: usize) -> bool {
        let status = self.spoke(i);
        let at = |known: &&serde_json::Value| known["since_seconds"].is_number();
        let hubs = status["hubs"].as_array().unwrap();
        hubs.iter().find(at).is_some_and(|at| at["key"] == self.keys[hub].as_str())
    }

    fn await_at(&self, hub: usize) {
        for i in [LAPTOP, DESK] {
            await_true("both spokes are at this hub", SOON, || self.is_at(i, hub));
        }
    }
}

/// Datagrams that are sent each 10 ms, and answered.
struct Beat {
    is_over: Arc<AtomicBool>,
    echoes: Vec<JoinHandle<()>>,
    asks: JoinHandle<Vec<Instant>>,
}

impl Beat {
    /// Whichever of `to` has the address then answers.
    fn start(from: &Host, to: &[&Host], at: SocketAddr) -> Beat {
        let is_over = Arc::new(AtomicBool::new(false));
        let client = from.udp_bind((Lan::address(0), 0)).unwrap();
        client.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
        let mut echoes = Vec::new();
        for host in to {
            let (echo, over) = (host.udp_bind(at).unwrap(), Arc::clone(&is_over));
            echo.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            echoes.push(thread::spawn(move || {
                let mut message = [0; 64];
                while !over.load(Ordering::Relaxed) {
                    if let Ok((len, from)) = echo.recv_from(&mut message) {
                        let _ = echo.send_to(&message[..len], from);
                    }
                }
            }));
        }
        let over = Arc::clone(&is_over);
        let asks = thread::spawn(move || {
            let (mut heard, mut message, mut next) = (Vec::new(), [0; 64], Instant::now());
            while !over.load(Ordering::Relaxed) {
                let now = Instant::now();
                if now >= next {
                    next = now + Duration::from_millis(10);
                    let _ = client.send_to(b"still there?", at);
                }
                client.set_read_timeout(Some((next - now).max(Duration::from_millis(1)))).unwrap();
                match client.recv_from(&mut message) {
                    Ok(_) => heard.push(Instant::now()),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    // The address is not there for a moment, say.
                    Err(_) => thread::sleep(Duration::from_millis(1)),
                }
            }
            heard
        });
        Beat { is_over, echoes, asks }
    }

    /// Ends it: the longest time without an answer.
    fn end(self) -> Duration {
        self.is_over.store(true, Ordering::Relaxed);
        self.echoes.into_iter().for_each(|echo| echo.join().unwrap());
        let heard = self.asks.join().unwrap();
        assert!(heard.len() > 20, "{} answers", heard.len());
        heard.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap()
    }
}

/// A TCP connection by which the laptop sends 1,000 bytes each 10 ms.
struct Trickle {
    is_over: Arc<AtomicBool>,
    sender: JoinHandle<io::Result<u64>>,
    receiver: JoinHandle<io::Result<(u64, Duration)>>,
}

impl Trickle {
    fn start(from: &Host, to: &Host, at: SocketAddr) -> Trickle {
        let listener = to.tcp_listen(at).unwrap();
        let mut outgoing = from.tcp_connect(at, SOON).unwrap();
        let (mut incoming, _) = listener.accept().unwrap();
        let is_over = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&is_over);
        let sender = thread::spawn(move || {
            let (mut sent, mut seed, mut bytes) = (0, 7, [0; 1_000]);
            while !over.load(Ordering::Relaxed) {
                fill_seeded(&mut bytes, &mut seed);
                outgoing.write_all(&bytes)?;
                sent += bytes.len() as u64;
                thread::sleep(Duration::from_millis(10));
            }
            Ok(sent)
        });
        let receiver = thread::spawn(move || {
            let (mut received, mut seed) = (0, 7);
            let (mut bytes, mut expected) = ([0; 1_000], [0; 1_000]);
            let (mut at, mut longest) = (Instant::now(), Duration::ZERO);
            while incoming.read_exact(&mut bytes).is_ok() {
                fill_seeded(&mut expected, &mut seed);
                assert_eq!(bytes, expected, "what arrives is what was sent");
                received += bytes.len() as u64;
                longest = longest.max(at.elapsed());
                at = Instant::now();
            }
            Ok((received, longest))
        });
        Trickle { is_over, sender, receiver }
    }

    /// Ends it: the longest time for which nothing arrived.
    fn end(self) -> Duration {
        self.is_over.store(true, Ordering::Relaxed);
        let sent = self.sender.join().unwrap().unwrap();
        let (received, longest) = self.receiver.join().unwrap().unwrap();
        assert_eq!(received, sent, "the connection lives to its end");
        longest
    }
}

/// Lets a beat and a TCP connection run while something happens to the hub: the longest silence, and the longest stall.
fn through(world: &mut World, what: &str, happens: impl FnOnce(&mut World)) -> (Duration, Duration) {
    let (laptop, desk) = (world.net.spoke(LAPTOP), world.net.spoke(DESK));
    let trickle = Trickle::start(laptop, desk, (Lan::address(1), 4_008).into());
    let beat = Beat::start(laptop, &[desk], (Lan::address(1), 4_007).into());
    thread::sleep(Duration::from_millis(500));
    happens(world);
    thread::sleep(Duration::from_millis(500));
    let (gap, stall) = (beat.end(), trickle.end());
    println!("{what}: {gap:?} without an answer by UDP, TCP stood still for {stall:?}");
    (gap, stall)
}

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
    assert_eq!(world.spoke(LAPTOP)["addresses"], addresses);
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
    let _place = place();
    let mut world = World::with_spokes();
    let hubs = [world.host(HUB_A), world.host(HUB_B)];
    let beat = Beat::start(world.net.spoke(LAPTOP), &hubs, (Lan::hub_address(), 4_009).into());
    let (_, stall) = through(&mut world, "hub drained, from spoke to spoke", |world| {
        let said = world.ask(HUB_A, &["drain"]).good();
        assert!(said.contains("the 2 members online here are told to go to hub-b at"), "{said}");
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
