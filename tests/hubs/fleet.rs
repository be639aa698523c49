//! Spokes without processes and devices: many real uplinks in one event loop, with real connections to the hubs.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use common::node::timer::Timers;
use common::node::{link, state};
use common::packet::VNET_LEN;
use common::transport::stream::Stream;
use common::transport::tcp::Link;
use common::wire::key::PrivateKey;
use common::wire::target::Target;
use common::wire::tunnel::Flushed;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use socket2::{Domain, Socket, Type};
use spoke::uplink::routes::RoutePolicy;
use spoke::uplink::trial::Outcome;
use spoke::uplink::{ASK_EVERY, Attempt, Config, Effect, Known, MAX_TRIALS, Uplink};

use crate::house::Host;
use crate::house::wire::udp_packet;

/// Where they come from, each from an address of its own: their host has all of these.
pub(crate) const SOURCES: &str = "198.18.0.0/15";
/// Dials under way.
const AT_ONCE: usize = 64;
const ATTEMPTS: usize = 1 + MAX_TRIALS;
/// Length of IPv4 and UDP headers.
const HEADERS: usize = 28;

/// Address `i` of them on the LAN, behind those of other spokes.
pub(crate) fn address(i: usize) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 1, 0)) + i as u32)
}

/// Key `i` of them.
pub(crate) fn key(i: usize) -> PrivateKey {
    let mut seed = [0x5a; 32];
    seed[8..16].copy_from_slice(&(i as u64).to_le_bytes());
    PrivateKey::from_random(seed)
}

/// What happened to one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Story {
    /// When it went to another hub.
    pub(crate) moved: Vec<Instant>,
    /// How often it had no link.
    pub(crate) lost: usize,
    pub(crate) sent: u64,
    pub(crate) received: u64,
    /// When the last packet came.
    last: Option<Instant>,
    /// The longest time between two packets that arrived.
    pub(crate) gap: Duration,
}

/// They are there.
pub(crate) struct Fleet {
    orders: Sender<()>,
    told: Receiver<()>,
    moves: Arc<AtomicUsize>,
    thread: JoinHandle<Vec<Story>>,
}

impl Fleet {
    /// Has these spokes join the hub at this place from this host; from [`Fleet::begin`] on, each sends a packet to its
    /// neighbour so often, if at all.
    pub(crate) fn start(host: &Host, hub: &str, which: Range<usize>, every: Option<Duration>) -> Fleet {
        let (orders, ordered) = mpsc::channel();
        let (tell, told) = mpsc::channel();
        let hub: Target = hub.parse().unwrap();
        let moves = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&moves);
        let thread = host.thread(move || {
            let mut crowd = Crowd::new(&hub, which, counted);
            crowd.join_all();
            tell.send(()).unwrap();
            crowd.talk(None, &ordered);
            crowd.talk(every, &ordered);
            crowd.members.into_iter().map(|member| member.story).collect()
        });
        Fleet { orders, told, moves, thread }
    }

    /// They send packets from now on.
    pub(crate) fn begin(&self) {
        self.orders.send(()).unwrap();
    }

    /// How often one of them went to another hub. Unlike a question to the hubs, it costs them nothing.
    pub(crate) fn moves(&self) -> usize {
        self.moves.load(Ordering::Relaxed)
    }

    /// Waits until all are on the LAN.
    pub(crate) fn await_joined(&self, patience: Duration) {
        self.told.recv_timeout(patience).expect("all are on the LAN");
    }

    /// Ends it: what happened to each.
    pub(crate) fn end(self) -> Vec<Story> {
        self.orders.send(()).unwrap();
        self.thread.join().unwrap()
    }
}

struct Member {
    uplink: Uplink,
    /// The link's connection and those of trials, with their numbers.
    attempts: [Option<(usize, Connection)>; ATTEMPTS],
    story: Story,
}

enum Connection {
    Dialling(TcpStream, SocketAddr),
    Link(Stream),
}

struct Crowd {
    /// The number of the first one among all fleets.
    first: usize,
    members: Vec<Member>,
    /// Whose each connection is, by its number.
    owners: Vec<usize>,
    poll: Poll,
    timers: Timers,
    /// Those whose connections took no more, or have more to read.
    again: Vec<(usize, usize)>,
    moves: Arc<AtomicUsize>,
}

fn index(attempt: Attempt) -> usize {
    match attempt {
        Attempt::Link => 0,
        Attempt::Trial(slot) => 1 + slot,
    }
}

fn attempt(index: usize) -> Attempt {
    if index == 0 { Attempt::Link } else { Attempt::Trial(index - 1) }
}

impl Crowd {
    fn new(hub: &Target, which: Range<usize>, moves: Arc<AtomicUsize>) -> Crowd {
        let now = Instant::now();
        let member = |i| {
            let config = Config {
                hubs: vec![hub.clone()],
                ways: vec![hub.clone().into()],
                hub_keys: Vec::new(),
                addresses: vec![IpAddr::V4(address(i))],
                name: format!("fleet-{i}").parse().unwrap(),
                invite: None,
                route_policy: RoutePolicy::default(),
                mtu: None,
                follows_members: false,
                may_have_lane: false,
                pins: "hubs".into(),
            };
            let known =
                Known { joins: common::node::cli::unix_time().as_millis() as u64, ..Known::default() };
            let uplink = Uplink::new(config, key(i), known, i as u64, now);
            Member { uplink, attempts: Default::default(), story: Story::default() }
        };
        Crowd {
            first: which.start,
            members: which.map(member).collect(),
            owners: Vec::new(),
            poll: Poll::new().unwrap(),
            timers: Timers::default(),
            again: Vec::new(),
            moves,
        }
    }

    fn join_all(&mut self) {
        let mut begun = 0;
        loop {
            let joined = self.members[..begun].iter().filter(|member| member.uplink.is_on_lan()).count();
            if joined == self.members.len() {
                return;
            }
            while begun < self.members.len() && begun - joined < AT_ONCE {
                self.timers.set(begun, Instant::now());
                begun += 1;
            }
            self.turn(Duration::from_millis(5));
        }
    }

    /// Each sends a packet to its neighbour so often, evenly, until there is another order.
    fn talk(&mut self, every: Option<Duration>, stop: &Receiver<()>) {
        let (start, count, mut sent) = (Instant::now(), self.members.len(), 0);
        while stop.try_recv().is_err() {
            let Some(every) = every else {
                self.turn(Duration::from_millis(5));
                continue;
            };
            let rounds = start.elapsed().as_secs_f64() / every.as_secs_f64();
            let due = (rounds * count as f64) as usize;
            for i in sent..due {
                self.send(i % count, (i % count) ^ 1);
            }
            sent = due;
            self.turn(every / count as u32);
        }
    }

    fn address(&self, i: usize) -> Ipv4Addr {
        address(self.first + i)
    }

    fn send(&mut self, from: usize, to: usize) {
        let now = Instant::now();
        let packet = udp_packet((self.address(from), 4_000), (self.address(to), 4_000), &[0x5a; 8]);
        let packet = [&[0; VNET_LEN][..], &packet].concat();
        let member = &mut self.members[from];
        member.uplink.send(now, |space| {
            space[..packet.len()].copy_from_slice(&packet);
            Some(packet.len())
        });
        member.story.sent += 1;
        self.settle(from, now);
    }

    fn turn(&mut self, timeout: Duration) {
        let mut events = Events::with_capacity(1_024);
        let timeout = if self.again.is_empty() { timeout } else { Duration::ZERO };
        match self.poll.poll(&mut events, Some(timeout)) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => panic!("{error}"),
            _ => {}
        }
        let now = Instant::now();
        for event in &events {
            let Token(number) = event.token();
            let i = self.owners[number];
            let Some(at) = self.find(i, number) else { continue };
            match &mut self.members[i].attempts[at] {
                Some((_, Connection::Link(stream))) => {
                    let is_closed = event.is_read_closed() || event.is_error();
                    stream.set_ready(event.is_writable(), is_closed);
                    if event.is_readable() || is_closed {
                        self.read(i, number, now);
                    }
                }
                Some((_, Connection::Dialling(..))) => self.dialled(i, at, now),
                None => {}
            }
            self.settle(i, now);
        }
        for (i, number) in std::mem::take(&mut self.again) {
            self.read(i, number, now);
            self.settle(i, now);
        }
        while let Some(i) = self.timers.pop(now) {
            let member = &mut self.members[i];
            if member.uplink.wants_look(now)
                && let Some((_, Connection::Link(stream))) = &member.attempts[0]
                && let Some(info) = stream.info()
            {
                member.uplink.handle_health(info, now);
            }
            member.uplink.handle_timeout(now);
            self.settle(i, now);
        }
    }

    fn find(&self, i: usize, number: usize) -> Option<usize> {
        self.members[i].attempts.iter().position(|one| one.as_ref().is_some_and(|(own, _)| *own == number))
    }

    fn read(&mut self, i: usize, number: usize, now: Instant) {
        let Some(at) = self.find(i, number) else { return };
        let Member { uplink, attempts, .. } = &mut self.members[i];
        let Some((_, Connection::Link(stream))) = &mut attempts[at] else { return };
        let outcome = link::read(stream, |read| match attempt(at) {
            Attempt::Link => uplink.receive(now, read),
            Attempt::Trial(slot) => uplink.receive_trial(slot, now, read),
        });
        self.carry_out(i, now);
        match outcome {
            Ok(link::Outcome::Drained) => {}
            Ok(link::Outcome::More) => self.again.push((i, number)),
            Err(error) => {
                // What was read may have put it in another place.
                if let Some(at) = self.find(i, number) {
                    self.tell(i, attempt(at), Outcome::Closed(error), now);
                }
            }
        }
    }

    /// A connection is there, or cannot be.
    fn dialled(&mut self, i: usize, at: usize, now: Instant) {
        let Some((number, Connection::Dialling(stream, to))) = self.members[i].attempts[at].take() else {
            return;
        };
        let outcome = match stream.take_error().and_then(|error| error.map_or(Ok(()), Err)) {
            Ok(()) => {
                let stream = Stream::plain(Link::new(stream).unwrap());
                self.members[i].attempts[at] = Some((number, Connection::Link(stream)));
                Outcome::Connected(to, state::random().unwrap())
            }
            Err(error) => Outcome::Unreachable(Some(to), error),
        };
        self.tell(i, attempt(at), outcome, now);
    }

    fn tell(&mut self, i: usize, attempt: Attempt, outcome: Outcome, now: Instant) {
        let uplink = &mut self.members[i].uplink;
        match (attempt, outcome) {
            (Attempt::Trial(slot), outcome) => uplink.handle_trial(slot, outcome, now),
            (Attempt::Link, Outcome::Resolved(found)) => uplink.handle_resolved(found, now),
            (Attempt::Link, Outcome::Unreachable(tried, error)) => {
                uplink.handle_unreachable(tried, &error, now)
            }
            (Attempt::Link, Outcome::Connected(to, ephemeral)) => uplink.handle_connected(to, ephemeral, now),
            (Attempt::Link, Outcome::Closed(error)) => uplink.handle_closed(&error, now),
            (Attempt::Link, Outcome::NotOpened(..)) => unreachable!("there is nothing around the tunnel"),
        }
        self.carry_out(i, now);
    }

    /// Carries out what one wants, writes what it has to send, and notes when it has something to do.
    fn settle(&mut self, i: usize, now: Instant) {
        self.carry_out(i, now);
        for at in (0..ATTEMPTS).rev() {
            loop {
                let Member { uplink, attempts, .. } = &mut self.members[i];
                let Some((_, Connection::Link(stream))) = &mut attempts[at] else { break };
                let flushed = link::flush(stream, now, |write| match attempt(at) {
                    Attempt::Link => uplink.flush(now, write),
                    Attempt::Trial(slot) => uplink.flush_trial(slot, now, write),
                });
                self.carry_out(i, now);
                match flushed {
                    Ok(Some(Flushed::More)) => {}
                    Ok(Some(Flushed::Done) | None) => break,
                    Err(error) => self.tell(i, attempt(at), Outcome::Closed(error), now),
                }
            }
        }
        let member = &self.members[i];
        let held = member.attempts.iter().flatten().filter_map(|(_, connection)| match connection {
            Connection::Link(stream) => stream.held_until(),
            Connection::Dialling(..) => None,
        });
        if let Some(at) = held.chain(member.uplink.deadline()).min() {
            self.timers.set(i, at);
        }
    }

    fn carry_out(&mut self, i: usize, now: Instant) {
        while let Some(effect) = self.members[i].uplink.poll_effect() {
            let member = &mut self.members[i];
            match effect {
                Effect::Resolve { attempt, host, port } => {
                    let place = SocketAddr::new(host.parse().unwrap(), port);
                    self.tell(i, attempt, Outcome::Resolved(Ok(vec![place])), now);
                }
                Effect::Dial { attempt, addresses, .. } => self.dial(i, attempt, addresses[0]),
                Effect::Close { .. } => {
                    member.story.lost += usize::from(
                        member.story.sent > 0 && member.attempts[1..].iter().all(Option::is_none),
                    );
                    member.attempts[0] = None;
                }
                Effect::GiveUp(slot) => member.attempts[1 + slot] = None,
                Effect::Switch(slot) => {
                    member.attempts[0] = member.attempts[1 + slot].take();
                    member.story.moved.push(now);
                    self.moves.fetch_add(1, Ordering::Relaxed);
                }
                Effect::AskKernel(asks) => {
                    let Some((_, Connection::Link(stream))) = &member.attempts[0] else { continue };
                    let does_ask = stream.ask_kernel(asks.then_some(ASK_EVERY)).is_ok();
                    member.uplink.handle_asked(does_ask && asks, now);
                }
                Effect::Remember(..) => member.uplink.handle_remembered(Ok(true), now),
                Effect::Configure { .. } => member.uplink.handle_configured(Ok(()), now),
                Effect::Deliver(packet) => {
                    assert_eq!(packet.len(), VNET_LEN + HEADERS + 8);
                    let story = &mut member.story;
                    story.received += 1;
                    if let Some(last) = story.last.replace(now) {
                        story.gap = story.gap.max(now - last);
                    }
                    member.uplink.recycle(packet);
                }
                Effect::Exit(error) => panic!("spoke {i} gives up: {error}"),
                Effect::Hurry(_)
                | Effect::SetRoutes { .. }
                | Effect::RememberHubs(_)
                | Effect::RememberWays(_)
                | Effect::Members(_)
                | Effect::Answer(..)
                | Effect::Log(_) => {}
            }
        }
    }

    fn dial(&mut self, i: usize, attempt: Attempt, to: SocketAddr) {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let source = Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 1)) + (self.first + i) as u32);
        socket.bind(&SocketAddr::from((source, 0)).into()).unwrap();
        socket.set_nonblocking(true).unwrap();
        match socket.connect(&to.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => panic!("{error}"),
            _ => {}
        }
        let mut stream = TcpStream::from_std(socket.into());
        let number = self.owners.len();
        self.owners.push(i);
        self.poll
            .registry()
            .register(&mut stream, Token(number), Interest::READABLE | Interest::WRITABLE)
            .unwrap();
        self.members[i].attempts[index(attempt)] = Some((number, Connection::Dialling(stream, to)));
    }
}
