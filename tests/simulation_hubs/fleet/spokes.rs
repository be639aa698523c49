//! The spokes: real uplinks, and in memory what their shells would do.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use common::queue::tcp_info::TcpInfo;
use common::wire::key::PrivateKey;
use common::wire::target::Target;
use common::wire::tunnel::Flushed;
use spoke::uplink::trial::Outcome;
use spoke::uplink::{Attempt, Effect, Known, Uplink};

use super::world::{Opener, World, hub_at, key, place};
use crate::attempts::{self, Attempts, GIVE_UP_AFTER, State, index};
use crate::pipe::Read;

/// What a lookup, and a connection, take.
const LOOKUP: Duration = Duration::from_millis(2);
const CONNECT: Duration = Duration::from_millis(20);

pub(crate) struct Spoke {
    key: PrivateKey,
    uplink: Option<Box<Uplink>>,
    attempts: Attempts,
    heard_at: Instant,
    /// When there is something to do, as far as is known.
    due: Option<Instant>,
    /// The hub that it is at, or was last, and since when.
    pub(crate) hub: usize,
    pub(crate) joined_at: Instant,
}

impl Spoke {
    pub(crate) fn new(key: PrivateKey, hub: usize) -> Spoke {
        let now = Instant::now();
        Spoke {
            key,
            uplink: None,
            attempts: Default::default(),
            heard_at: now,
            due: None,
            hub,
            joined_at: now,
        }
    }

    pub(crate) fn is_on_lan(&self) -> bool {
        self.uplink.as_ref().is_some_and(|uplink| uplink.is_on_lan())
    }

    fn start(&mut self, at: usize, joins: u64, now: Instant) {
        let first: Target = place(self.hub).to_string().parse().unwrap();
        let known = Known {
            pinned: vec![(first.clone(), key(self.hub).public())],
            told: vec![],
            joins: joins + at as u64,
        };
        let config = attempts::config(first, "s", Vec::new(), None);
        self.uplink = Some(Box::new(Uplink::new(config, self.key.clone(), known, at as u64, now)));
        self.due = Some(now);
    }

    fn refresh_due(&mut self) {
        let at = |state: &State| match state {
            State::Lookup(at, _) | State::Dial(at, _) => Some(*at),
            State::None | State::Link(_) => None,
        };
        let deadline = self.uplink.as_ref().and_then(|uplink| uplink.deadline());
        self.due = self.attempts.iter().filter_map(at).chain(deadline).min();
    }
}

impl World {
    /// All spokes start within this time.
    pub(crate) fn start_spokes(&mut self, within: Duration) {
        let joins = 1_600_000_000_000;
        for at in 0..self.spokes.len() {
            self.spokes[at].start(at, joins, self.now);
            self.spokes[at].due = Some(self.now + within.mul_f64(at as f64 / self.spokes.len() as f64));
        }
    }

    pub(crate) fn time_out_spokes(&mut self) {
        let now = self.now;
        for at in 0..self.spokes.len() {
            if self.spokes[at].due.is_some_and(|due| due <= now) {
                self.time_out_spoke(at);
                self.flush_spoke(at);
                self.spokes[at].refresh_due();
            }
        }
    }

    fn time_out_spoke(&mut self, at: usize) {
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
        let link = if let State::Link(id) = self.spokes[at].attempts[0] { self.conns.get(id) } else { None };
        let is_heard = link.is_none_or(|conn| conn.up.passes() && conn.down.passes());
        let spoke = &mut self.spokes[at];
        let Some(uplink) = &mut spoke.uplink else { return };
        if is_heard {
            spoke.heard_at = now;
        }
        if uplink.wants_look(now) {
            uplink.handle_health(TcpInfo { unheard: now - spoke.heard_at, ..TcpInfo::default() }, now);
        }
        uplink.handle_timeout(now);
        self.carry_out(at);
    }

    pub(crate) fn read_spoke(&mut self, at: usize) {
        for attempt in Attempt::ALL {
            self.read_attempt(at, attempt);
        }
        self.flush_spoke(at);
        self.spokes[at].refresh_due();
    }

    fn read_attempt(&mut self, at: usize, attempt: Attempt) {
        let now = self.now;
        loop {
            let spoke = &mut self.spokes[at];
            let State::Link(id) = spoke.attempts[index(attempt)] else { return };
            let (Some(conn), Some(uplink)) = (self.conns.get_mut(id), &mut spoke.uplink) else { return };
            let read = attempts::receive(uplink, attempt, &mut conn.down, now);
            self.carry_out(at);
            match read {
                Read::Bytes(_) => {}
                Read::Nothing => return self.note_arrival(id, false),
                Read::Closed => {
                    if matches!(self.spokes[at].attempts[index(attempt)], State::Link(now) if now == id) {
                        self.tell(at, attempt, Outcome::Closed(io::ErrorKind::UnexpectedEof.into()));
                    }
                    return;
                }
            }
        }
    }

    fn connect_spoke(&mut self, at: usize, attempt: Attempt, to: SocketAddr) {
        let hub = hub_at(to);
        let is_dark = self.hubs[hub].is_dark;
        let conn = if is_dark { None } else { self.connect(Opener::Spoke(at), hub) };
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
        let now = self.now;
        let Some(uplink) = &mut self.spokes[at].uplink else { return };
        attempts::tell(uplink, attempt, outcome, now);
        self.carry_out(at);
    }

    fn flush_spoke(&mut self, at: usize) {
        let now = self.now;
        for attempt in Attempt::ALL {
            let spoke = &mut self.spokes[at];
            let State::Link(id) = spoke.attempts[index(attempt)] else { continue };
            let (Some(conn), Some(uplink)) = (self.conns.get_mut(id), &mut spoke.uplink) else { continue };
            let mut len = 0;
            let mut write = |bytes: &[u8]| {
                let taken = conn.up.write(bytes, now);
                len += taken;
                taken
            };
            match attempt {
                Attempt::Link => while uplink.flush(now, &mut write) == Flushed::More {},
                Attempt::Trial(slot) => while uplink.flush_trial(slot, now, &mut write) == Flushed::More {},
            }
            if len > 0 {
                self.note_arrival(id, true);
            }
            self.carry_out(at);
        }
    }

    fn carry_out(&mut self, at: usize) {
        while let Some(effect) = self.spokes[at].uplink.as_mut().and_then(|uplink| uplink.poll_effect()) {
            self.carry_out_one(at, effect);
        }
    }

    fn hang_up(&mut self, at: usize, attempt: Attempt, reset: bool) {
        let now = self.now;
        let State::Link(id) = std::mem::take(&mut self.spokes[at].attempts[index(attempt)]) else { return };
        let Some(conn) = self.conns.get_mut(id) else { return };
        conn.is_open = false;
        match (reset, self.hubs[conn.hub].is_dark) {
            // Nothing that is said gets there.
            (_, true) => {}
            (true, false) => conn.up.reset(now),
            (false, false) => conn.up.close(now),
        }
        self.note_arrival(id, true);
    }

    fn carry_out_one(&mut self, at: usize, effect: Effect) {
        let now = self.now;
        match effect {
            Effect::Resolve { attempt, host, port } => {
                let to = SocketAddr::new(host.parse::<IpAddr>().unwrap(), port);
                self.spokes[at].attempts[index(attempt)] = State::Lookup(now + LOOKUP, to);
            }
            Effect::Dial { attempt, addresses, .. } => {
                let time = if self.hubs[hub_at(addresses[0])].is_dark { GIVE_UP_AFTER } else { CONNECT };
                self.spokes[at].attempts[index(attempt)] = State::Dial(now + time, addresses[0]);
            }
            Effect::Close { reset } => self.hang_up(at, Attempt::Link, reset),
            Effect::GiveUp(slot) => self.hang_up(at, Attempt::Trial(slot), false),
            Effect::Switch(slot) => {
                let attempts = &mut self.spokes[at].attempts;
                attempts[0] = std::mem::take(&mut attempts[1 + slot]);
            }
            Effect::Configure { .. } => {
                let State::Link(id) = self.spokes[at].attempts[0] else { unreachable!("it is linked") };
                (self.spokes[at].hub, self.spokes[at].joined_at) = (self.conns[id].hub, now);
                self.uplink(at).handle_configured(Ok(()), now);
            }
            Effect::AskKernel(asks) => self.uplink(at).handle_asked(asks, now),
            Effect::Remember(..) => self.uplink(at).handle_remembered(Ok(true), now),
            Effect::Deliver(packet) => self.uplink(at).recycle(packet),
            Effect::Exit(error) => panic!("spoke {at} gives up: {error}"),
            Effect::RememberHubs(_)
            | Effect::Hurry(_)
            | Effect::SetRoutes { .. }
            | Effect::RememberWays(_)
            | Effect::Members(_)
            | Effect::Answer(..)
            | Effect::Log(_) => {}
        }
    }

    fn uplink(&mut self, at: usize) -> &mut Uplink {
        self.spokes[at].uplink.as_mut().expect("it has started")
    }
}
