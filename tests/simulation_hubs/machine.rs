//! A spoke's machine: the real uplink, and in memory what its shell and its files would do.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use common::queue::tcp_info::TcpInfo;
use common::wire::invite::Secret;
use common::wire::key::{PrivateKey, PublicKey};
use common::wire::place::Place;
use common::wire::target::Target;
use common::wire::tunnel::{Flushed, QUEUE_BYTES};
use spoke::control::About;
use spoke::uplink::trial::Outcome;
use spoke::uplink::{Attempt, Effect, Known, Uplink};

use crate::attempts::{self, Attempts, GIVE_UP_AFTER, State, index};
use crate::pipe::Read;
use crate::world::{World, place};

pub(crate) struct Machine {
    pub(crate) key: PrivateKey,
    pub(crate) own: IpAddr,
    uplink: Uplink,
    attempts: Attempts,
    /// The file of hubs.
    pinned: Option<PublicKey>,
    pub(crate) told: Vec<(Place, PublicKey)>,
    /// What its kernel says of the link, and when it heard of the hub's kernel last.
    info: TcpInfo,
    heard_at: Instant,
    /// What one has that no list knew at the beginning.
    pub(crate) newcomer: Option<Newcomer>,
    /// It has given up.
    pub(crate) is_out: bool,
}

/// A machine that is let in while the LAN runs.
#[derive(Clone)]
pub(crate) struct Newcomer {
    pub(crate) name: String,
    pub(crate) secret: Option<[u8; 16]>,
    /// The hub that it knows.
    pub(crate) first: usize,
}

fn first(newcomer: Option<&Newcomer>) -> Target {
    place(newcomer.map_or(0, |newcomer| newcomer.first)).to_string().parse().unwrap()
}

impl Machine {
    pub(crate) fn new(key: PrivateKey, own: IpAddr, seed: u64, time: Duration, now: Instant) -> Machine {
        Machine::with(key, own, None, seed, (time, now))
    }

    /// One that may be new.
    pub(crate) fn with(
        key: PrivateKey,
        own: IpAddr,
        newcomer: Option<Newcomer>,
        seed: u64,
        (time, now): (Duration, Instant),
    ) -> Machine {
        let known = Known { joins: time.as_millis() as u64, ..Known::default() };
        let uplink = uplink(&key, own, newcomer.as_ref(), known, seed, now);
        Machine {
            key,
            own,
            uplink,
            attempts: Default::default(),
            pinned: None,
            told: Vec::new(),
            info: TcpInfo::default(),
            heard_at: now,
            newcomer,
            is_out: false,
        }
    }

    /// Starts the program anew, with what is in its files.
    pub(crate) fn start(&mut self, seed: u64, time: Duration, now: Instant) {
        let newcomer = self.newcomer.as_ref();
        let pinned = self.pinned.map(|key| (first(newcomer), key)).into_iter().collect();
        let known = Known { pinned, told: self.told.clone(), joins: time.as_millis() as u64 };
        self.uplink = uplink(&self.key, self.own, newcomer, known, seed, now);
        self.attempts = Default::default();
        self.is_out = false;
    }

    pub(crate) fn is_on_lan(&self) -> bool {
        !self.is_out && self.uplink.is_on_lan()
    }

    pub(crate) fn link(&self) -> Option<usize> {
        match self.attempts[0] {
            State::Link(conn) => Some(conn),
            State::None | State::Lookup(..) | State::Dial(..) => None,
        }
    }

    pub(crate) fn conns(&self) -> Vec<usize> {
        let conn = |state: &State| if let State::Link(conn) = state { Some(*conn) } else { None };
        self.attempts.iter().filter_map(conn).collect()
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.uplink.deadline().filter(|_| !self.is_out)
    }

    pub(crate) fn next_at(&self) -> Option<Instant> {
        let at = |state: &State| match state {
            State::Lookup(at, _) | State::Dial(at, _) => Some(*at),
            State::None | State::Link(_) => None,
        };
        self.attempts.iter().filter_map(at).chain(self.deadline()).min()
    }

    /// The connection of the lane, or of what is to be one.
    pub(crate) fn lane(&self) -> Option<usize> {
        self.attempts[1..]
            .iter()
            .find_map(|state| if let State::Link(conn) = state { Some(*conn) } else { None })
    }

    /// Whether it has one.
    pub(crate) fn has_lane(&self, now: Instant) -> bool {
        let about = About { device: "spoke0".to_owned(), started_at: now };
        self.uplink.status(&about, now).link.is_some_and(|link| link.lane.is_some())
    }

    /// Its kernel says that a long way has lost this many packets so far.
    pub(crate) fn lose(&mut self, resent: u32, now: Instant) {
        self.info = TcpInfo { resent, shortest: Some(Duration::from_millis(40)), ..TcpInfo::default() };
        self.uplink.handle_health(TcpInfo { unheard: now - self.heard_at, ..self.info }, now);
    }

    /// Its kernel hears the hub's now, or has not since; the uplink looks where it wants to.
    fn look(&mut self, is_heard: bool, now: Instant) {
        if is_heard {
            self.heard_at = now;
        }
        if self.uplink.wants_look(now) {
            self.uplink.handle_health(TcpInfo { unheard: now - self.heard_at, ..self.info }, now);
        }
    }

    /// What it is doing, for a message.
    pub(crate) fn state(&self, now: Instant) -> String {
        let about = About { device: "spoke0".to_owned(), started_at: now };
        format!("{} {:?} {:?}", self.is_out, self.attempts, self.uplink.status(&about, now))
    }

    pub(crate) fn send(&mut self, packet: &[u8], now: Instant) {
        self.uplink.send(now, |space| {
            space[..packet.len()].copy_from_slice(packet);
            Some(packet.len())
        });
    }

    pub(crate) fn check(&self, now: Instant) {
        let about = About { device: "spoke0".to_owned(), started_at: now };
        let status = self.uplink.status(&about, now);
        assert!(status.link.as_ref().is_none_or(|link| link.queue_bytes <= QUEUE_BYTES));
        assert!(status.hubs.len() <= 3 && status.ways.len() <= 3, "{status:?}");
    }
}

fn uplink(
    key: &PrivateKey,
    own: IpAddr,
    newcomer: Option<&Newcomer>,
    known: Known,
    seed: u64,
    now: Instant,
) -> Uplink {
    let name = newcomer.map_or("s", |newcomer| newcomer.name.as_str());
    let addresses = if newcomer.is_some() { Vec::new() } else { vec![own] };
    let invite = newcomer.and_then(|newcomer| newcomer.secret).map(Secret);
    let config = attempts::config(first(newcomer), name, addresses, invite);
    Uplink::new(config, key.clone(), known, seed, now)
}

impl World {
    pub(crate) fn read_spoke(&mut self, at: usize) {
        for attempt in Attempt::ALL {
            self.read_attempt(at, attempt);
        }
    }

    fn read_attempt(&mut self, at: usize, attempt: Attempt) {
        let now = self.now;
        loop {
            let machine = &mut self.spokes[at];
            let State::Link(id) = machine.attempts[index(attempt)] else { return };
            let Some(conn) = self.conns.get_mut(&id) else { return };
            let read = attempts::receive(&mut machine.uplink, attempt, &mut conn.down, now);
            self.carry_out(at);
            match read {
                Read::Bytes(_) => {}
                Read::Nothing => return,
                Read::Closed => {
                    // What was read may have led to another connection in its place.
                    if matches!(self.spokes[at].attempts[index(attempt)], State::Link(now) if now == id) {
                        self.tell(at, attempt, Outcome::Closed(io::ErrorKind::UnexpectedEof.into()));
                    }
                    return;
                }
            }
        }
    }

    pub(crate) fn time_out_spoke(&mut self, at: usize) {
        let now = self.now;
        for attempt in Attempt::ALL {
            let state = &mut self.spokes[at].attempts[index(attempt)];
            match *state {
                State::Lookup(due, place) if due <= now => {
                    *state = State::None;
                    self.tell(at, attempt, Outcome::Resolved(Ok(vec![place])));
                }
                State::Dial(due, place) if due <= now => {
                    *state = State::None;
                    self.connect_spoke(at, attempt, place);
                }
                State::None | State::Lookup(..) | State::Dial(..) | State::Link(_) => {}
            }
        }
        let link = self.spokes[at].link().and_then(|link| self.conns.get(&link));
        let is_heard = link.is_none_or(|conn| conn.up.passes() && conn.down.passes());
        let machine = &mut self.spokes[at];
        if machine.is_out {
            return;
        }
        let is_due = machine.uplink.deadline().is_some_and(|due| due <= now);
        machine.look(is_heard, now);
        machine.uplink.handle_timeout(now);
        let effect = machine.uplink.poll_effect();
        assert!(is_due || effect.is_none(), "spoke {at} had something to do that was not due: {effect:?}");
        if let Some(effect) = effect {
            self.carry_out_one(at, effect);
        }
        self.carry_out(at);
    }

    fn connect_spoke(&mut self, at: usize, attempt: Attempt, to: SocketAddr) {
        let hub = (0..self.hubs.len()).find(|&hub| place(hub) == to).expect("it is a hub's");
        let is_dark = self.hubs[hub].is_dark;
        let conn = if is_dark { None } else { self.connect(hub) };
        let kind = if is_dark { io::ErrorKind::TimedOut } else { io::ErrorKind::ConnectionRefused };
        let outcome = match conn {
            Some(conn) => {
                self.spokes[at].attempts[index(attempt)] = State::Link(conn);
                Outcome::Connected(to, self.rng.key())
            }
            None => Outcome::Unreachable(Some(to), kind.into()),
        };
        self.tell(at, attempt, outcome);
    }

    fn tell(&mut self, at: usize, attempt: Attempt, outcome: Outcome) {
        let (now, uplink) = (self.now, &mut self.spokes[at].uplink);
        attempts::tell(uplink, attempt, outcome, now);
        self.carry_out(at);
    }

    pub(crate) fn flush_spoke(&mut self, at: usize) {
        let now = self.now;
        for attempt in Attempt::ALL {
            let machine = &mut self.spokes[at];
            let State::Link(id) = machine.attempts[index(attempt)] else { continue };
            let Some(conn) = self.conns.get_mut(&id) else { continue };
            match attempt {
                Attempt::Link => {
                    while machine.uplink.flush(now, |bytes| conn.up.write(bytes, now)) == Flushed::More {}
                }
                Attempt::Trial(slot) => {
                    while machine.uplink.flush_trial(slot, now, |bytes| conn.up.write(bytes, now))
                        == Flushed::More
                    {}
                }
            }
            self.carry_out(at);
        }
        if self.spokes[at].uplink.settle_lane(now) {
            self.flush_spoke(at);
        }
    }

    pub(crate) fn carry_out(&mut self, at: usize) {
        while let Some(effect) = self.spokes[at].uplink.poll_effect() {
            self.carry_out_one(at, effect);
        }
    }

    fn hang_up(&mut self, at: usize, attempt: Attempt, reset: bool) {
        let now = self.now;
        let state = std::mem::take(&mut self.spokes[at].attempts[index(attempt)]);
        if let State::Link(conn) = state
            && let Some(conn) = self.conns.get_mut(&conn)
        {
            conn.is_open = false;
            match (reset, self.hubs[conn.hub].is_dark) {
                // Nothing that is said gets there.
                (_, true) => conn.up.stall(),
                (true, false) => conn.up.reset(now),
                (false, false) => conn.up.close(now),
            }
        }
    }

    fn carry_out_one(&mut self, at: usize, effect: Effect) {
        let now = self.now;
        let soon = now + Duration::from_micros(self.rng.below(3_000) as u64);
        match effect {
            Effect::Resolve { attempt, host, port } => {
                let to = SocketAddr::new(host.parse().unwrap(), port);
                self.spokes[at].attempts[index(attempt)] = State::Lookup(soon, to);
            }
            Effect::Dial { attempt, addresses, .. } => {
                let hub = (0..self.hubs.len()).find(|&hub| place(hub) == addresses[0]).unwrap();
                let time = if self.hubs[hub].is_dark { GIVE_UP_AFTER } else { self.latency(hub) * 2 };
                self.spokes[at].attempts[index(attempt)] = State::Dial(now + time, addresses[0]);
            }
            Effect::Close { reset } => self.hang_up(at, Attempt::Link, reset),
            Effect::GiveUp(slot) => self.hang_up(at, Attempt::Trial(slot), false),
            // Not every kernel says what it hears.
            Effect::AskKernel(asks) => {
                self.spokes[at].uplink.handle_asked(asks && !at.is_multiple_of(3), now)
            }
            Effect::Switch(slot) => {
                let attempts = &mut self.spokes[at].attempts;
                assert!(matches!(attempts[0], State::None), "{attempts:?}");
                attempts[0] = std::mem::take(&mut attempts[1 + slot]);
            }
            Effect::Remember(key, hubs) => {
                let newcomer = self.spokes[at].newcomer.as_ref();
                let hub = newcomer.map_or(0, |newcomer| newcomer.first);
                assert!(
                    hubs == [first(newcomer)] && key == self.hubs[hub].public(),
                    "by the name of its hub"
                );
                let is_news = self.spokes[at].pinned.replace(key) != Some(key);
                self.spokes[at].uplink.handle_remembered(Ok(is_news), now);
            }
            Effect::RememberHubs(told) => self.spokes[at].told = told,
            Effect::Configure { addresses, .. } => {
                let own: Vec<IpAddr> = addresses.iter().map(|address| address.ip()).collect();
                if self.spokes[at].newcomer.is_some() {
                    self.spokes[at].own = own[0];
                }
                assert_eq!(own, [self.spokes[at].own], "the same address at each hub");
                self.spokes[at].uplink.handle_configured(Ok(()), now);
            }
            Effect::Deliver(packet) => {
                let own = self.spokes[at].own;
                self.book.arrive(&packet, Some(at), &[own]);
                self.spokes[at].uplink.recycle(packet);
            }
            Effect::Exit(_) if self.spokes[at].newcomer.is_some() => {
                Attempt::ALL.into_iter().for_each(|attempt| self.hang_up(at, attempt, false));
                self.spokes[at].is_out = true;
            }
            Effect::Exit(error) => panic!("spoke {at} gives up: {error}"),
            Effect::Hurry(_)
            | Effect::SetRoutes { .. }
            | Effect::RememberWays(_)
            | Effect::Members(_)
            | Effect::Answer(..)
            | Effect::Log(_) => {}
        }
    }
}
