//! Someone in the middle between a spoke and its hub: the impostor is refused, and whatever is done to the bytes
//! on their way costs no more than that link.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests of IO")]

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use crate::house::wire::random_key;
use crate::house::{
    Binaries, Capture, Host, Lan, Net, Process, SPOKE_ON_LAN, ping, ping_until, spawn_spoke, start_hub, state,
};
use common::node::state::random;
use common::wire::hello::{HELLO_LEN, hello};
use common::wire::invite::Secret;
use common::wire::key::PrivateKey;
use common::wire::noise::{Handshake, LENGTH_LEN, Role};

const SOON: Duration = Duration::from_secs(5);
const BACK: Duration = Duration::from_secs(20);
/// The host of the one in the middle.
const MIDDLE: usize = 1;
/// Records that hold a message of the test are longer than those of pings and pongs.
const LONG: usize = 900;
const MARKER: &[u8] = b"<<numbered>>";
const END: &[u8] = b"<<end>>";

/// Which way a record goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    ToHub,
    ToSpoke,
}

/// What is done to one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attack {
    /// A bit of its length, its text or its tag is flipped.
    Flip(Part),
    /// It is sent twice.
    Replay,
    /// It changes places with the next one.
    Reorder,
    /// It is not sent.
    Drop,
    /// It is sent, and back to where it came from.
    Reflect,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Length,
    Text,
    Tag,
}

const ATTACKS: [Attack; 7] = [
    Attack::Flip(Part::Length),
    Attack::Flip(Part::Text),
    Attack::Flip(Part::Tag),
    Attack::Replay,
    Attack::Reorder,
    Attack::Drop,
    Attack::Reflect,
];

/// A relay between a spoke and the hub.
#[derive(Clone)]
struct Middle(Arc<(Mutex<Plan>, Condvar)>);

#[derive(Default)]
struct Plan {
    /// What to do to the next long record that goes this way.
    armed: Option<(Way, Attack)>,
    /// The key to pretend with: nothing is relayed then.
    impostor: Option<PrivateKey>,
    /// Bytes that an impostor was sent after it had shown its key, by connection.
    confided: Vec<usize>,
    open: Vec<TcpStream>,
}

impl Middle {
    /// Listens at the hub's port on `host`.
    fn start(host: &Host, address: Ipv4Addr) -> Middle {
        let middle = Middle(Arc::default());
        let listener = host.tcp_listen((address, 5678)).unwrap();
        let relay = middle.clone();
        // It ends with the process; what it accepts when the host is gone fails.
        host.thread(move || {
            for spoke in listener.incoming() {
                let (relay, spoke) = (relay.clone(), spoke.unwrap());
                thread::spawn(move || relay.serve(spoke));
            }
        });
        middle
    }

    fn plan<T>(&self, change: impl FnOnce(&mut Plan) -> T) -> T {
        let changed = change(&mut self.0.0.lock().unwrap());
        self.0.1.notify_all();
        changed
    }

    /// Has the next long record that goes this way attacked.
    fn arm(&self, way: Way, attack: Attack) {
        self.plan(|plan| plan.armed = Some((way, attack)));
    }

    fn wait(&self, what: &str, is_so: impl Fn(&Plan) -> bool) {
        let plan = self.0.0.lock().unwrap();
        let (_plan, timed_out) = self.0.1.wait_timeout_while(plan, BACK, |plan| !is_so(plan)).unwrap();
        assert!(!timed_out.timed_out(), "{what}: not in {BACK:?}");
    }

    /// Pretends to be the hub with a key of its own from now on, or relays again.
    fn set_impostor(&self, key: Option<PrivateKey>) {
        self.plan(|plan| {
            plan.impostor = key;
            for stream in plan.open.drain(..) {
                // It may be closed already.
                let _ = stream.shutdown(Shutdown::Both);
            }
        });
    }

    fn serve(&self, spoke: TcpStream) {
        if let Some(key) = self.plan(|plan| plan.impostor.clone()) {
            let confided = pretend(&key, spoke).unwrap();
            return self.plan(|plan| plan.confided.push(confided));
        }
        let Ok(hub) = TcpStream::connect((Net::hub_v4(), 5678)) else { return };
        self.plan(|plan| plan.open.extend([&spoke, &hub].map(|stream| stream.try_clone().unwrap())));
        let ways = [(Way::ToHub, &spoke, &hub), (Way::ToSpoke, &hub, &spoke)];
        let threads = ways.map(|(way, from, to)| {
            let (relay, from, to) = (self.clone(), from.try_clone().unwrap(), to.try_clone().unwrap());
            thread::spawn(move || {
                // Whoever closes, or breaks off, ends both ways.
                let _ = relay.pump(way, &from, &to);
                let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
            })
        });
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }

    fn pump(&self, way: Way, mut from: &TcpStream, mut to: &TcpStream) -> io::Result<()> {
        let mut greeting = [0; HELLO_LEN];
        from.read_exact(&mut greeting)?;
        to.write_all(&greeting)?;
        let mut held = Vec::new();
        loop {
            let mut record = read_message(from)?;
            let attack = (record.len() >= LONG)
                .then(|| self.plan(|plan| plan.armed.take_if(|(armed, _)| *armed == way)))
                .flatten();
            match attack.map(|(_, attack)| attack) {
                None => {}
                Some(Attack::Flip(part)) => {
                    let at = match part {
                        // Of 1,024 or so, this makes less: what is behind is read as another record.
                        Part::Length => 0,
                        Part::Text => record.len() / 2,
                        Part::Tag => record.len() - 1,
                    };
                    record[at] ^= 4;
                }
                Some(Attack::Replay) => record.extend_from_within(..),
                Some(Attack::Reorder) => {
                    held = record;
                    continue;
                }
                Some(Attack::Drop) => continue,
                Some(Attack::Reflect) => from.write_all(&record)?,
            }
            record.append(&mut held);
            to.write_all(&record)?;
        }
    }
}

/// A length and as many bytes.
fn read_message(mut from: &TcpStream) -> io::Result<Vec<u8>> {
    let mut message = vec![0; LENGTH_LEN];
    from.read_exact(&mut message)?;
    let length = usize::from(u16::from_be_bytes([message[0], message[1]]));
    message.resize(LENGTH_LEN + length, 0);
    from.read_exact(&mut message[LENGTH_LEN..])?;
    Ok(message)
}

/// Plays the hub with this key, as far as the spoke goes along; how many bytes it sends once it has seen the key.
fn pretend(key: &PrivateKey, mut spoke: TcpStream) -> io::Result<usize> {
    spoke.set_read_timeout(Some(SOON))?;
    let mut handshake = Handshake::new(Role::Hub, key, random()?);
    spoke.read_exact(&mut [0; HELLO_LEN])?;
    let first = read_message(&spoke)?;
    handshake.read(&first[LENGTH_LEN..]).unwrap();
    let mut answer = hello().to_vec();
    handshake.write(&[], &mut answer).unwrap();
    spoke.write_all(&answer)?;
    let mut rest = Vec::new();
    match spoke.read_to_end(&mut rest) {
        Err(error) if error.kind() != io::ErrorKind::ConnectionReset => Err(error),
        _ => Ok(rest.len()),
    }
}

/// A LAN in which spoke 0 reaches the hub through the middle; spoke 2 does not.
struct Scene {
    middle: Middle,
    spoke: Process,
    other: Process,
    hub: Process,
    hub_key: String,
    net: Net,
    binaries: Binaries,
}

impl Scene {
    /// The spoke knows the hub's key by `--hub-key`, or else by trust on first use.
    fn new(by_hand: bool) -> Scene {
        let (net, binaries) = (Net::new(3).unwrap(), Binaries::find().unwrap());
        let hub = start_hub(&net, &binaries, &[]).unwrap();
        let line = hub.wait_for_line("--hub-key ", SOON).unwrap();
        let hub_key = line.rsplit(' ').next().unwrap().to_owned();
        let other = spawn_spoke(&net, &binaries, 2, &[]).unwrap();
        other.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
        let middle = Middle::start(net.spoke(MIDDLE), Net::spoke_v4(MIDDLE));
        let command = through_the_middle(&net, &binaries, &hub_key, by_hand);
        let spoke = net.spoke(0).spawn("spoke0", &command).unwrap();
        spoke.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
        ping_until(net.spoke(0), Lan::address(2).into(), SOON).unwrap();
        Scene { middle, spoke, other, hub, hub_key, net, binaries }
    }

    /// What must stay as it is.
    fn files(&self) -> [String; 2] {
        let files = [(self.net.hub(), "hub", "members"), (self.net.spoke(0), "spoke", "hubs")];
        files.map(|(host, program, name)| fs::read_to_string(state(host, program).join(name)).unwrap())
    }
}

fn through_the_middle(net: &Net, binaries: &Binaries, hub_key: &str, by_hand: bool) -> Command {
    let mut command = Command::new(&binaries.spoke);
    command.args(["--hub", &Net::spoke_v4(MIDDLE).to_string(), "--ip", &Lan::address(0).to_string()]);
    command.arg("--state").arg(net.spoke(0).private().join("spoke"));
    if by_hand {
        command.args(["--hub-key", hub_key]);
    }
    command
}

#[test]
fn an_impostor_is_refused_by_the_key_on_the_command_line() {
    impostor(true);
}

#[test]
fn an_impostor_is_refused_by_the_key_that_was_seen_first() {
    impostor(false);
}

/// It is refused, and told nothing.
fn impostor(by_hand: bool) {
    let scene = Scene::new(by_hand);
    let (files, mark) = (scene.files(), scene.spoke.mark());
    let impostor = random_key().unwrap();
    let seen = impostor.public().to_string();

    // A spoke that has been on the LAN says so, and goes on trying.
    scene.middle.set_impostor(Some(impostor));
    let told = scene.spoke.wait_for_line_after(mark, &seen, BACK).unwrap();
    assert!(told.contains(&scene.hub_key) && told.contains("someone may be in between"), "{told}");
    scene.middle.wait("the spoke breaks off", |plan| !plan.confided.is_empty());
    assert!(scene.spoke.is_running());
    ping(scene.net.spoke(2), Lan::address(0).into(), 56, Duration::from_millis(300)).unwrap_err();
    assert_eq!(scene.files(), files, "neither the pin nor the members change");

    // It is back by itself when the way is free again.
    let mark = scene.spoke.mark();
    scene.middle.set_impostor(None);
    scene.spoke.wait_for_line_after(mark, SPOKE_ON_LAN, BACK).unwrap();
    ping_until(scene.net.spoke(2), Lan::address(0).into(), SOON).unwrap();

    // One that has not been on the LAN ends, and gives nothing away, such as its invite.
    scene.spoke.kill().unwrap();
    scene.middle.set_impostor(random_key().ok());
    let mut command = through_the_middle(&scene.net, &scene.binaries, &scene.hub_key, by_hand);
    command.args(["--invite", &Secret([7; 16]).to_hex()]);
    let again = scene.net.spoke(0).spawn("again", &command).unwrap();
    assert_eq!(again.wait_exit(SOON).unwrap().code(), Some(1));
    again.wait_for_line(&scene.hub_key, SOON).unwrap();
    scene.middle.wait("both spokes break off", |plan| plan.confided.len() >= 2);
    scene.middle.plan(|plan| assert!(plan.confided.iter().all(|&bytes| bytes == 0), "{:?}", plan.confided));
    assert_eq!(scene.files(), files, "neither the pin nor the members change");
    assert!(scene.hub.is_running());
}

#[test]
fn changed_records_cost_their_link_and_no_more_with_the_key_on_the_command_line() {
    changed_records(true);
}

#[test]
fn changed_records_cost_their_link_and_no_more_with_the_key_that_was_seen_first() {
    changed_records(false);
}

/// Nothing wrong is delivered, and the spoke comes back.
fn changed_records(by_hand: bool) {
    let scene = Scene::new(by_hand);
    let (files, others) = (scene.files(), scene.other.mark());
    let hosts = [scene.net.spoke(2), scene.net.spoke(0)];
    let addresses = [Lan::address(2), Lan::address(0)];
    let captures = hosts.map(|host| Capture::start(host, "spoke0", MARKER, END).unwrap());
    let sockets = [0, 1].map(|i| hosts[i].udp_bind((addresses[i], 0)).unwrap());
    let ports = sockets.each_ref().map(|socket| socket.local_addr().unwrap());
    let send = |to: usize, text: &[u8]| sockets[1 - to].send_to(text, ports[to]).unwrap();

    // What each end may be given of what is sent to it.
    let mut expected = [Vec::new(), Vec::new()];
    for attack in ATTACKS {
        for (to, way) in [Way::ToHub, Way::ToSpoke].into_iter().enumerate() {
            let first = message(&format!("{attack:?} {way:?}"));
            let mark = scene.spoke.mark();
            scene.middle.arm(way, attack);
            send(to, &first);
            scene.middle.wait(&format!("{attack:?} {way:?}"), |plan| plan.armed.is_none());
            if matches!(attack, Attack::Reorder | Attack::Drop) {
                // It shows with the next record.
                send(to, &message(&format!("behind {attack:?} {way:?}")));
            }
            scene.spoke.wait_for_line_after(mark, "lost the hub", SOON).unwrap();
            scene.spoke.wait_for_line_after(mark, SPOKE_ON_LAN, BACK).unwrap();
            ping_until(hosts[0], Lan::address(0).into(), SOON).unwrap();
            if matches!(attack, Attack::Replay | Attack::Reflect) {
                expected[to].push(first);
            }
        }
    }
    for to in [0, 1] {
        send(to, END);
    }
    for ((capture, expected), address) in captures.into_iter().zip(expected).zip(addresses) {
        // What the host itself sent is seen there too.
        let packets = capture.finish(SOON).unwrap().into_iter();
        let came = packets.filter(|packet| packet[16..20] == address.octets());
        let came: Vec<Vec<u8>> = came.map(|packet| packet[28..].to_vec()).collect();
        let shown = |messages: &[Vec<u8>]| -> Vec<String> {
            messages.iter().map(|message| String::from_utf8_lossy(message).replace('.', "")).collect()
        };
        assert!(came == expected, "{:#?} came, not {:#?}", shown(&came), shown(&expected));
    }
    assert_eq!(scene.files(), files, "neither the pin nor the members change");
    assert_eq!(scene.other.mark(), others, "the other spoke notices nothing");
}

/// A message of its own that fills a record of about 1,100 bytes.
fn message(text: &str) -> Vec<u8> {
    let mut message = [MARKER, text.as_bytes()].concat();
    message.resize(1_000, b'.');
    message
}
