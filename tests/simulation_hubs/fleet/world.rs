//! The hubs, the connections between all, and time that is moved by hand.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use common::wire::key::{PrivateKey, PublicKey};
use hub::core::Core;
use hub::effect::Effect;
use hub::ids::SessionId;
use hub::lan::Lan;
use hub::lan::subnets::Subnets;
use slab::Slab;

use super::spokes::Spoke;
use crate::disk::Disk;
use crate::pipe::{Pipe, Read};
use crate::rng::Rng;

const EPOCH: Duration = Duration::from_secs(1_700_000_000);
/// Everything happens at a multiple of this.
pub(crate) const STEP: Duration = Duration::from_millis(2);

pub(crate) fn key(number: usize) -> PrivateKey {
    let mut seed = [0x5a; 32];
    seed[8..16].copy_from_slice(&(number as u64).to_le_bytes());
    PrivateKey::from_random(seed)
}

/// Where a hub is reached.
pub(crate) fn place(hub: usize) -> SocketAddr {
    (Ipv4Addr::from_bits(0xc612_0001 + hub as u32), 5678).into()
}

pub(crate) fn hub_at(place: SocketAddr) -> usize {
    let SocketAddr::V4(place) = place else { unreachable!("hubs have IPv4 addresses") };
    (place.ip().to_bits() - 0xc612_0001) as usize
}

pub(crate) struct Hub {
    pub(crate) core: Option<Core>,
    disk: Disk,
    /// No packet comes or goes.
    pub(crate) is_dark: bool,
    /// The connection of each session.
    conns: HashMap<SessionId, usize>,
    /// Connections that brought something, and hubs to reach.
    readable: BTreeSet<usize>,
    dials: Vec<PublicKey>,
    /// Processor time of the core, and the longest at once.
    spent: Duration,
    longest: Duration,
}

/// What the cores took of the processor.
pub(crate) struct Figures {
    pub(crate) mean: Duration,
    pub(crate) most: Duration,
    pub(crate) longest: Duration,
}

/// Who has opened a connection.
#[derive(Clone, Copy)]
pub(crate) enum Opener {
    Spoke(usize),
    Hub(usize, SessionId),
}

pub(crate) struct Conn {
    pub(crate) up: Pipe,
    pub(crate) down: Pipe,
    pub(crate) hub: usize,
    pub(crate) session: Option<SessionId>,
    pub(crate) opener: Opener,
    /// Whether the opener has it open.
    pub(crate) is_open: bool,
}

pub(crate) struct World {
    pub(crate) rng: Rng,
    pub(crate) now: Instant,
    start: Instant,
    pub(crate) hubs: Vec<Hub>,
    keys: HashMap<PublicKey, usize>,
    pub(crate) spokes: Vec<Spoke>,
    pub(crate) conns: Slab<Conn>,
    /// What arrives then: connections, and whether at the hub that was connected to.
    arrivals: BTreeMap<Instant, Vec<(usize, bool)>>,
    /// Whether hubs may make links.
    pub(crate) may_link: bool,
    bytes: u64,
}

impl World {
    pub(crate) fn new(hubs: usize, members: usize) -> World {
        let subnets = Subnets::new(&["10.0.0.0/8".parse().unwrap()]).unwrap();
        let keys: Vec<PrivateKey> = (0..hubs + members).map(key).collect();
        let mut list = String::new();
        for (number, key) in keys.iter().enumerate() {
            let key = key.public();
            let address = Ipv4Addr::from_bits(0x0a01_0000 + number as u32);
            let _ = match number < hubs {
                true => writeln!(list, "{key} hub-{number} {address} hub={}", place(number)),
                false => writeln!(list, "{key} m{number} {address}"),
            };
        }
        let now = Instant::now();
        let hub = |number: usize| {
            let mut disk = Disk::new(subnets, list.clone(), true);
            let lan = Lan {
                hub_name: "hub".parse().unwrap(),
                subnets,
                mtu: 1_500,
                routes: vec![],
                hub_networks: vec![],
            };
            let mut core = Core::new(keys[number].clone(), lan, disk.files(), number as u64, EPOCH);
            core.limit_sessions(members + hubs + 10);
            disk.members = String::new();
            Hub {
                core: Some(core),
                disk,
                is_dark: false,
                conns: HashMap::new(),
                readable: BTreeSet::new(),
                dials: Vec::new(),
                spent: Duration::ZERO,
                longest: Duration::ZERO,
            }
        };
        World {
            rng: Rng::new(7),
            now,
            start: now,
            hubs: (0..hubs).map(hub).collect(),
            keys: (0..hubs).map(|number| (keys[number].public(), number)).collect(),
            spokes: (0..members).map(|at| Spoke::new(keys[hubs + at].clone(), at % hubs)).collect(),
            conns: Slab::new(),
            arrivals: BTreeMap::new(),
            may_link: false,
            bytes: 0,
        }
    }

    // ---- what happens

    /// The process dies: the kernel of its machine resets all connections.
    pub(crate) fn kill(&mut self, hub: usize) {
        self.hubs[hub].core = None;
        self.hubs[hub].conns.clear();
        let now = self.now;
        let mut told = Vec::new();
        for (id, conn) in &mut self.conns {
            if conn.hub == hub {
                conn.session = None;
                conn.down.reset(now);
                told.push((id, false));
            } else if matches!(conn.opener, Opener::Hub(opener, _) if opener == hub) {
                conn.is_open = false;
                conn.up.reset(now);
                told.push((id, true));
            }
        }
        self.arrivals.entry(now + Duration::from_millis(8)).or_default().extend(told);
    }

    /// Nothing passes from or to this hub's machine any more.
    pub(crate) fn silence(&mut self, hub: usize) {
        self.hubs[hub].is_dark = true;
        let is_of =
            |conn: &Conn| conn.hub == hub || matches!(conn.opener, Opener::Hub(opener, _) if opener == hub);
        for (_, conn) in self.conns.iter_mut().filter(|(_, conn)| is_of(conn)) {
            conn.up.stall();
            conn.down.stall();
        }
    }

    /// Opens a connection to a hub; `None` where nobody answers.
    pub(crate) fn connect(&mut self, opener: Opener, hub: usize) -> Option<usize> {
        let (ephemeral, now) = (self.rng.key(), self.now);
        let number = match opener {
            Opener::Spoke(at) => 1_000 + at,
            Opener::Hub(at, _) => at,
        };
        // Each from a network of its own, and about as far as all others are.
        let source = (Ipv4Addr::from_bits(0x6440_0000 + number as u32), 40_000);
        let latency = Duration::from_millis(4 + ((number * 31 + hub * 17) % 10) as u64);
        let session = self.timed(hub, |core| core.accept(source.into(), ephemeral, now))??;
        let (up, down) = (Pipe::new(latency), Pipe::new(latency));
        let id = self.conns.insert(Conn { up, down, hub, session: Some(session), opener, is_open: true });
        self.hubs[hub].conns.insert(session, id);
        Some(id)
    }

    fn timed<T>(&mut self, hub: usize, work: impl FnOnce(&mut Core) -> T) -> Option<T> {
        let Hub { core: Some(core), spent, longest, .. } = &mut self.hubs[hub] else { return None };
        let start = Instant::now();
        let done = work(core);
        let took = start.elapsed();
        *spent += took;
        *longest = (*longest).max(took);
        Some(done)
    }

    // ---- time

    pub(crate) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.step();
        }
    }

    /// Until this holds, which is looked at each 20 ms.
    pub(crate) fn pass_until(&mut self, most: Duration, holds: impl Fn(&World) -> bool) {
        let end = self.now + most;
        while !holds(self) {
            assert!(
                self.now < end,
                "it does not come true within {most:?}: {} are on the LAN",
                self.on_lan()
            );
            self.pass(Duration::from_millis(20));
        }
    }

    fn step(&mut self) {
        self.now += STEP;
        while let Some(entry) = self.arrivals.first_entry().filter(|entry| *entry.key() <= self.now) {
            for (id, is_up) in entry.remove() {
                let Some(conn) = self.conns.get(id) else { continue };
                match (is_up, conn.opener) {
                    (true, _) => drop(self.hubs[conn.hub].readable.insert(id)),
                    (false, Opener::Hub(opener, _)) => drop(self.hubs[opener].readable.insert(id)),
                    (false, Opener::Spoke(at)) => self.read_spoke(at),
                }
            }
        }
        self.time_out_spokes();
        (0..self.hubs.len()).for_each(|hub| self.hub_turn(hub));
    }

    /// Notes that what was written to a connection arrives.
    pub(crate) fn note_arrival(&mut self, id: usize, is_up: bool) {
        let conn = &self.conns[id];
        let pipe = if is_up { &conn.up } else { &conn.down };
        if let Some(at) = pipe.next_at() {
            // What is behind it is read with it, or after it.
            let at = at.max(self.now);
            self.arrivals.entry(at).or_default().push((id, is_up));
        }
    }

    fn hub_turn(&mut self, hub: usize) {
        let now = self.now;
        if self.hubs[hub].is_dark || self.hubs[hub].core.is_none() {
            return;
        }
        let time = EPOCH + (now - self.start);
        self.timed(hub, |core| core.set_unix_time(time));
        for id in std::mem::take(&mut self.hubs[hub].readable) {
            self.read_hub(hub, id);
        }
        loop {
            let due = self.timed(hub, |core| core.deadline()).flatten();
            if due.is_some_and(|at| at <= now) {
                self.timed(hub, |core| core.handle_timeouts(now));
            }
            self.do_effects(hub);
            self.dial_hubs(hub);
            self.flush_hub(hub);
            self.timed(hub, |core| core.finish_turn(now));
            self.do_effects(hub);
            let due = self.timed(hub, |core| core.deadline()).flatten();
            if due.is_none_or(|at| at > now) {
                return;
            }
        }
    }

    fn read_hub(&mut self, hub: usize, id: usize) {
        let now = self.now;
        loop {
            let Some(conn) = self.conns.get_mut(id) else { return };
            let (session, is_up) = match conn.opener {
                Opener::Hub(opener, session) if opener == hub => {
                    (Some(session).filter(|_| conn.is_open), false)
                }
                Opener::Hub(..) | Opener::Spoke(_) => (conn.session, true),
            };
            let pipe = if is_up { &mut conn.up } else { &mut conn.down };
            let Hub { core: Some(core), spent, .. } = &mut self.hubs[hub] else { return };
            let Some(session) = session.filter(|&session| core.is_live(session)) else { return };
            let mut read = Read::Nothing;
            let start = Instant::now();
            core.receive(session, now, |space| {
                read = pipe.read(space, now);
                read.len()
            });
            *spent += start.elapsed();
            if let Read::Closed = read {
                core.end(session, "it closed the connection".to_owned());
            }
            self.do_effects(hub);
            if !matches!(read, Read::Bytes(_)) {
                return self.note_arrival(id, is_up);
            }
        }
    }

    fn flush_hub(&mut self, hub: usize) {
        let now = self.now;
        let mut dirty = Vec::new();
        loop {
            dirty.clear();
            if self.timed(hub, |core| core.take_dirty(&mut dirty)).is_none() || dirty.is_empty() {
                return;
            }
            for &session in &dirty {
                let Some(&id) = self.hubs[hub].conns.get(&session) else { continue };
                let Conn { up, down, opener, .. } = &mut self.conns[id];
                let is_up = matches!(opener, Opener::Hub(opener, _) if *opener == hub);
                let between_hubs = matches!(opener, Opener::Hub(..));
                let pipe = if is_up { up } else { down };
                let mut len = 0;
                let Hub { core: Some(core), spent, .. } = &mut self.hubs[hub] else { return };
                let start = Instant::now();
                core.flush(session, now, |bytes| {
                    let taken = pipe.write(bytes, now);
                    len += taken;
                    taken
                });
                *spent += start.elapsed();
                self.bytes += if between_hubs { len as u64 } else { 0 };
                if len > 0 {
                    self.note_arrival(id, is_up);
                }
            }
        }
    }

    fn do_effects(&mut self, hub: usize) {
        let now = self.now;
        while let Some(effect) = self.hubs[hub].core.as_mut().and_then(Core::poll_effect) {
            match effect {
                Effect::Deliver(packet) => drop(self.timed(hub, |core| core.delivered(packet, true))),
                Effect::Close { session, .. } => self.close(hub, session),
                Effect::Dial(key, _) => self.hubs[hub].dials.push(key),
                Effect::Save(job) => {
                    let done = self.hubs[hub].disk.run(*job);
                    self.timed(hub, |core| core.handle_done(done, now));
                }
                Effect::Answer(..)
                | Effect::DialLane { .. }
                | Effect::AddRoute(_)
                | Effect::RemoveRoute(_)
                | Effect::Export(..)
                | Effect::SetSubnets(..)
                | Effect::Hurry(_)
                | Effect::Log(_) => {}
            }
        }
    }

    fn close(&mut self, hub: usize, session: SessionId) {
        let now = self.now;
        let Some(id) = self.hubs[hub].conns.remove(&session) else { return };
        let conn = &mut self.conns[id];
        let is_up = matches!(conn.opener, Opener::Hub(opener, _) if opener == hub);
        if is_up {
            conn.is_open = false;
            conn.up.close(now);
        } else {
            conn.session = None;
            conn.down.close(now);
        }
        self.note_arrival(id, is_up);
    }

    /// Reaches other hubs, once that is allowed; one that is silent is never reached.
    fn dial_hubs(&mut self, hub: usize) {
        if !self.may_link {
            return;
        }
        let now = self.now;
        for key in std::mem::take(&mut self.hubs[hub].dials) {
            let other = self.keys[&key];
            let is_there = !self.hubs[other].is_dark && self.hubs[other].core.is_some();
            let ephemeral = self.rng.key();
            let session = match is_there {
                true => self.timed(hub, |core| core.dialled(key, place(other), ephemeral, now)).flatten(),
                false => {
                    self.timed(hub, |core| core.not_dialled(&key, "nobody is there".to_owned(), now));
                    None
                }
            };
            let Some(session) = session else { continue };
            match self.connect(Opener::Hub(hub, session), other) {
                Some(id) => drop(self.hubs[hub].conns.insert(session, id)),
                None => drop(self.timed(hub, |core| core.end(session, "nobody is there".to_owned()))),
            }
        }
    }

    // ---- what is looked at

    /// Members that each hub has.
    pub(crate) fn counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.hubs.len()];
        for spoke in self.spokes.iter().filter(|spoke| spoke.is_on_lan()) {
            counts[spoke.hub] += 1;
        }
        counts
    }

    pub(crate) fn on_lan(&self) -> usize {
        self.spokes.iter().filter(|spoke| spoke.is_on_lan()).count()
    }

    /// Whether a spoke is on the LAN at another hub than these.
    pub(crate) fn is_back(&self, at: usize, dead: &[usize]) -> bool {
        self.spokes[at].is_on_lan() && !dead.contains(&self.spokes[at].hub)
    }

    /// How many members a hub knows to be on the LAN, itself and other hubs not counted.
    pub(crate) fn knows(&self, hub: usize) -> usize {
        let members = self.hubs[hub].core.as_ref().map(Core::members);
        let members = members.into_iter().flat_map(|members| members.iter());
        members.filter(|(_, member)| member.hub.is_none() && member.is_online()).count()
    }

    pub(crate) fn take_bytes(&mut self) -> u64 {
        std::mem::take(&mut self.bytes)
    }

    /// What the hubs that are there have taken of the processor since this was last asked.
    pub(crate) fn take_spent(&mut self) -> Figures {
        let alive = self.hubs.iter().filter(|hub| hub.core.is_some() && !hub.is_dark);
        let spent: Vec<Duration> = alive.map(|hub| hub.spent).collect();
        let longest = self.hubs.iter().map(|hub| hub.longest).max().unwrap_or_default();
        for hub in &mut self.hubs {
            (hub.spent, hub.longest) = (Duration::ZERO, Duration::ZERO);
        }
        let mean = spent.iter().sum::<Duration>() / spent.len() as u32;
        Figures { mean, most: spent.into_iter().max().unwrap_or_default(), longest }
    }
}

impl Hub {
    /// How many other hubs have told that they are there themselves.
    pub(crate) fn links(&self, world: &World) -> usize {
        let Some(core) = &self.core else { return 0 };
        let is_linked = |key: &&PublicKey| {
            let id = core.members().by_key(key);
            id.is_some_and(|id| core.members().member(id).elsewhere.is_some())
        };
        world.keys.keys().filter(is_linked).count()
    }
}
