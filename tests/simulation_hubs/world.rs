//! Several hubs and their spokes in memory: cores, pipes between them, and time that is moved by hand.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use common::wire::key::{PrivateKey, PublicKey};
use hub::core::Core;
use hub::effect::Effect;
use hub::ids::{RequestId, SessionId};
use hub::lan::Lan;
use hub::lan::saving::{Command, Job};
use hub::lan::subnets::Subnets;

use crate::disk::Disk;
use crate::list::List;
use crate::machine::Machine;
use crate::packets::{Book, HUB_V4, Place, udp};
use crate::pipe::{Pipe, Read};
use crate::rng::Rng;
use crate::store::Stores;
use crate::trace::{self, Trace};

/// A turn that comes round so often within one step is a loop without end.
const MAX_TURNS: usize = 200_000;
/// How long a hub tries to reach another one.
const DIAL_TIME: Duration = Duration::from_secs(1);
/// The time of day at the beginning.
const EPOCH: Duration = Duration::from_secs(1_700_000_000);

/// A hub's machine.
pub(crate) struct HubHost {
    pub(crate) key: PrivateKey,
    pub(crate) core: Option<Core>,
    pub(crate) disk: Disk,
    /// What it writes, until then; at once where nobody asks for a slow disk.
    job: Option<(Instant, Job)>,
    /// No packet comes or goes.
    pub(crate) is_dark: bool,
    pub(crate) is_draining: bool,
    /// Other hubs that it tries to reach, since then.
    /// Since when, to which hub, and of which link it is to be a lane.
    dials: Vec<(Instant, PublicKey, Option<SessionId>)>,
    latency: Duration,
}

impl HubHost {
    pub(crate) fn is_alive(&self) -> bool {
        self.core.is_some()
    }

    pub(crate) fn public(&self) -> PublicKey {
        self.key.public()
    }
}

/// A connection, as both ends have it.
pub(crate) struct Conn {
    pub(crate) up: Pipe,
    pub(crate) down: Pipe,
    pub(crate) hub: usize,
    pub(crate) session: Option<SessionId>,
    /// Whether a spoke, or the hub that has opened it, has it open.
    pub(crate) is_open: bool,
    /// The hub that has opened it, and its session, if it is a link between hubs.
    opener: Option<(usize, SessionId)>,
}

impl Conn {
    fn is_of(&self, hub: usize) -> bool {
        self.hub == hub || self.opener.is_some_and(|(opener, _)| opener == hub)
    }

    /// The pipe into which this session of a hub writes, and whether it is that of the hub that has opened it.
    fn end(&mut self, hub: usize, session: SessionId) -> Option<(&mut Pipe, bool)> {
        if self.hub == hub && self.session == Some(session) {
            return Some((&mut self.down, false));
        }
        (self.is_open && self.opener == Some((hub, session))).then_some((&mut self.up, true))
    }
}

pub(crate) struct World {
    pub(crate) rng: Rng,
    pub(crate) now: Instant,
    pub(crate) hubs: Vec<HubHost>,
    pub(crate) spokes: Vec<Machine>,
    pub(crate) conns: HashMap<usize, Conn>,
    pub(crate) book: Book,
    next_conn: usize,
    pub(crate) losses: u32,
    /// Pairs of hubs between which nothing passes.
    apart: BTreeSet<(usize, usize)>,
    pub(crate) start: Instant,
    /// Since when a spoke has been online at a hub by a session which it has left.
    pub(crate) left: HashMap<(usize, usize, SessionId), Instant>,
    /// What the hubs' list is to be like, where they share one.
    pub(crate) list: Option<Box<List>>,
    /// Where they keep it in etcd.
    pub(crate) stores: Option<Box<Stores>>,
    /// What was told of it so far, where it is told as it happens.
    pub(crate) trace: Option<Box<Trace>>,
}

/// Where a hub is reached.
pub(crate) fn place(hub: usize) -> SocketAddr {
    (Ipv4Addr::new(192, 0, 2, 1 + hub as u8), 5678).into()
}

/// The address that a hub has alone.
pub(crate) fn own(hub: usize) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, 12 + hub as u8).into()
}

/// What the book calls a hub's kernel.
pub(crate) fn kernel(hub: usize) -> Place {
    Some(100 + hub)
}

pub(crate) fn subnets() -> Subnets {
    Subnets::new(&["10.0.0.0/28".parse().unwrap()]).unwrap()
}

pub(crate) fn core(key: &PrivateKey, disk: &Disk, seed: u64, time: Duration) -> Core {
    let lan = Lan {
        hub_name: "hub".parse().unwrap(),
        subnets: subnets(),
        mtu: 1_500,
        routes: vec![],
        hub_networks: vec![],
    };
    Core::new(key.clone(), lan, disk.files(), seed, time)
}

impl World {
    /// Hubs with one list, locked, and spokes that know the first of them.
    pub(crate) fn new(seed: u64) -> World {
        let mut rng = Rng::new(seed);
        let (hubs, spokes) = (2 + rng.below(2), 2 + rng.below(4));
        let keys: Vec<PrivateKey> = (0..hubs).map(|_| PrivateKey::from_random(rng.key())).collect();
        let spokes: Vec<PrivateKey> = (0..spokes).map(|_| PrivateKey::from_random(rng.key())).collect();
        let mut list = String::new();
        for (hub, key) in keys.iter().enumerate() {
            list.push_str(&format!("{} hub-{hub} {} hub={}\n", key.public(), own(hub), place(hub)));
        }
        for (at, key) in spokes.iter().enumerate() {
            list.push_str(&format!("{} s{at} 10.0.0.{}\n", key.public(), 2 + at));
        }
        let hosts = keys.into_iter().map(|key| {
            let disk = Disk::new(subnets(), list.clone(), true);
            let core = Some(core(&key, &disk, rng.next(), EPOCH));
            let latency = Duration::from_micros(200 + rng.below(20_000) as u64);
            let (dials, job, is_dark, is_draining) = (Vec::new(), None, false, false);
            HubHost { key, core, disk, job, is_dark, is_draining, dials, latency }
        });
        let now = Instant::now();
        let mut world = World {
            hubs: hosts.collect(),
            now,
            spokes: Vec::new(),
            conns: HashMap::new(),
            book: Book::default(),
            next_conn: 0,
            losses: 0,
            left: HashMap::new(),
            list: None,
            stores: None,
            trace: std::env::var("TRACE").is_ok().then(Box::default),
            apart: BTreeSet::new(),
            start: now,
            rng: Rng::new(seed ^ 0x5eed),
        };
        world.book.answerers = (0..hubs).map(own).collect();
        for (at, key) in spokes.into_iter().enumerate() {
            let own = Ipv4Addr::new(10, 0, 0, 2 + at as u8).into();
            let machine = Machine::new(key, own, world.rng.next(), world.time(), world.now);
            world.spokes.push(machine);
        }
        world
    }

    // ---- what happens

    /// The process dies: the kernel of its machine resets all connections.
    pub(crate) fn kill_hub(&mut self, hub: usize) {
        self.say(|| format!("kill {hub}"));
        (self.hubs[hub].core, self.hubs[hub].is_draining) = (None, false);
        // What could not be written is lost.
        let is_sound = self.hubs[hub].disk.is_sound();
        self.list.iter_mut().for_each(|list| list.has_kept |= !is_sound);
        // What it was writing may be on the disk.
        if let Some((_, job)) = self.hubs[hub].job.take() {
            let random = self.rng.next() as usize;
            match (random % 2, random >> 8) {
                (0, _) => drop(self.hubs[hub].disk.run(job)),
                // Or a part of it.
                (_, len) => self.hubs[hub].disk.tear(job, len % 400),
            }
        }
        self.end_wait(hub);
        self.hubs[hub].dials.clear();
        let (now, is_dark) = (self.now, self.hubs[hub].is_dark);
        for conn in self.conns.values_mut() {
            if conn.hub == hub {
                conn.session = None;
                if !is_dark {
                    conn.down.reset(now);
                }
            } else if conn.is_of(hub) {
                conn.is_open = false;
                if !is_dark {
                    conn.up.reset(now);
                }
            }
        }
    }

    /// The time of day.
    pub(crate) fn time(&self) -> Duration {
        EPOCH + (self.now - self.start)
    }

    /// Nothing passes between two hubs any more.
    pub(crate) fn part(&mut self, one: usize, other: usize) {
        self.say(|| format!("part {one} {other}"));
        self.apart.insert((one.min(other), one.max(other)));
        for conn in self.conns.values_mut().filter(|conn| conn.is_of(one) && conn.is_of(other)) {
            conn.up.stall();
            conn.down.stall();
        }
    }

    /// It does again.
    pub(crate) fn join_up(&mut self) {
        self.say(|| "all hubs reach each other".to_owned());
        self.apart.clear();
        (0..self.hubs.len())
            .filter(|&hub| !self.hubs[hub].is_dark)
            .collect::<Vec<_>>()
            .into_iter()
            .for_each(|hub| self.resume(hub));
    }

    fn are_apart(&self, one: usize, other: usize) -> bool {
        self.hubs[one].is_dark
            || self.hubs[other].is_dark
            || self.apart.contains(&(one.min(other), one.max(other)))
    }

    pub(crate) fn start_hub(&mut self, hub: usize) {
        self.say(|| format!("start {hub}"));
        let (seed, time) = (self.rng.next(), self.time());
        let host = &mut self.hubs[hub];
        host.core = Some(core(&host.key, &host.disk, seed, time));
    }

    /// Nothing passes from or to this hub's machine any more.
    pub(crate) fn silence(&mut self, hub: usize) {
        self.say(|| format!("silence {hub}"));
        self.hubs[hub].is_dark = true;
        for conn in self.conns.values_mut().filter(|conn| conn.is_of(hub)) {
            conn.up.stall();
            conn.down.stall();
        }
    }

    pub(crate) fn mend(&mut self, hub: usize) {
        self.say(|| format!("mend {hub}"));
        if std::mem::take(&mut self.hubs[hub].is_dark) {
            self.resume(hub);
        }
    }

    /// What was kept back on the way to and from a hub arrives, unless it is kept back for another reason.
    fn resume(&mut self, hub: usize) {
        let now = self.now;
        let conns: Vec<usize> =
            self.conns.iter().filter(|(_, conn)| conn.is_of(hub)).map(|(&id, _)| id).collect();
        for id in conns {
            let other = self.conns[&id].opener.map(|(opener, _)| opener);
            if other.is_some_and(|opener| self.are_apart(opener, self.conns[&id].hub)) {
                continue;
            }
            let conn = self.conns.get_mut(&id).unwrap();
            conn.up.resume(now);
            conn.down.resume(now);
            // An end that is gone meanwhile answers what comes by a reset.
            if conn.session.is_none() {
                conn.down.reset(now);
            }
            if !conn.is_open {
                conn.up.reset(now);
            }
        }
    }

    pub(crate) fn drain(&mut self, hub: usize, is_draining: bool) {
        let now = self.now;
        self.hubs[hub].is_draining = is_draining;
        if let Some(core) = &mut self.hubs[hub].core {
            core.request(RequestId(0), Command::Drain(is_draining), now);
        }
        self.do_effects(hub);
    }

    /// A person gives a member another name, at one hub.
    pub(crate) fn rename(&mut self, hub: usize, from: &str, to: &str) {
        let command = Command::Rename(from.to_owned(), to.parse().unwrap());
        self.hubs[hub].core.as_mut().unwrap().request(RequestId(1), command, self.now);
        self.do_effects(hub);
    }

    pub(crate) fn set_latency(&mut self, hub: usize, latency: Duration) {
        self.hubs[hub].latency = latency;
    }

    /// All connections of a spoke are reset.
    pub(crate) fn cut(&mut self, spoke: usize) {
        self.say(|| format!("cut spoke {spoke}"));
        let now = self.now;
        for conn in self.spokes[spoke].conns() {
            if let Some(conn) = self.conns.get_mut(&conn) {
                conn.up.reset(now);
                conn.down.reset(now);
            }
        }
    }

    /// The program vanishes without a word, and another one starts.
    pub(crate) fn restart_spoke(&mut self, spoke: usize) {
        self.say(|| format!("restart spoke {spoke}"));
        for conn in self.spokes[spoke].conns() {
            if let Some(conn) = self.conns.get_mut(&conn) {
                conn.is_open = false;
                conn.up.stall();
            }
        }
        let (seed, time, now) = (self.rng.next(), self.time(), self.now);
        self.spokes[spoke].start(seed, time, now);
    }

    /// Opens a connection to a hub; `None` where nobody answers.
    pub(crate) fn connect(&mut self, hub: usize) -> Option<usize> {
        let (ephemeral, now) = (self.rng.key(), self.now);
        let host = &mut self.hubs[hub];
        let id = self.next_conn;
        let source = SocketAddr::from((Ipv4Addr::new(192, 0, 2, 200), id as u16));
        let session = host.core.as_mut()?.accept(source, ephemeral, now)?;
        self.next_conn += 1;
        let (up, down) = (Pipe::new(host.latency), Pipe::new(host.latency));
        self.conns.insert(id, Conn { up, down, hub, session: Some(session), is_open: true, opener: None });
        Some(id)
    }

    pub(crate) fn latency(&self, hub: usize) -> Duration {
        self.hubs[hub].latency
    }

    /// A packet from one spoke to another, if the first has its address.
    pub(crate) fn send(&mut self, from: usize, to: usize) {
        if from != to {
            let to = self.spokes[to].own;
            self.send_packet(from, to);
        }
    }

    /// A packet to whichever hub the spoke is at: its number.
    pub(crate) fn send_to_hub(&mut self, from: usize) -> u64 {
        self.send_packet(from, HUB_V4)
    }

    pub(crate) fn send_packet(&mut self, from: usize, to: IpAddr) -> u64 {
        let packet = udp(self.spokes[from].own, to, self.book.next_id(), self.rng.below(1_000));
        let id = self.book.enter(&packet, Some(from), to, true);
        self.spokes[from].send(&packet, self.now);
        self.carry_out(from);
        id
    }

    /// A packet to everybody: it may come to each of them and to each hub's kernel, once.
    pub(crate) fn send_to_all(&mut self, from: usize) -> u64 {
        self.send_packet(from, Ipv4Addr::BROADCAST.into())
    }

    // ---- time

    pub(crate) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        for turns in 0.. {
            assert!(turns < MAX_TURNS, "time stands still");
            self.turn();
            let due = self.next_at().filter(|&at| at < end);
            if due.is_none() && self.now == end {
                return;
            }
            self.now = due.unwrap_or(end);
        }
    }

    fn next_at(&self) -> Option<Instant> {
        let pipes = self.conns.values().flat_map(|conn| {
            [conn.session.and(conn.up.next_at()), conn.is_open.then(|| conn.down.next_at()).flatten()]
        });
        let hubs = self.hubs.iter().map(|hub| hub.core.as_ref().and_then(Core::deadline));
        let dials =
            self.hubs.iter().flat_map(|hub| hub.dials.iter().map(|(since, ..)| Some(*since + DIAL_TIME)));
        let spokes = self.spokes.iter().map(Machine::next_at);
        let jobs = self.hubs.iter().map(|hub| hub.job.as_ref().map(|(at, _)| *at));
        let stores = [self.next_of_stores()];
        pipes.chain(hubs).chain(dials).chain(spokes).chain(jobs).chain(stores).flatten().min()
    }

    fn turn(&mut self) {
        (0..self.spokes.len()).for_each(|spoke| self.read_spoke(spoke));
        self.turn_stores();
        (0..self.hubs.len()).for_each(|hub| self.hub_turn(hub));
        for spoke in 0..self.spokes.len() {
            self.time_out_spoke(spoke);
            self.flush_spoke(spoke);
        }
        self.conns.retain(|_, conn| conn.session.is_some() || conn.is_open);
        self.trace();
        self.check();
    }

    fn hub_turn(&mut self, hub: usize) {
        let now = self.now;
        let time = self.time();
        if let Some(core) = &mut self.hubs[hub].core {
            core.set_unix_time(time);
        }
        let HubHost { core: Some(core), disk, job, .. } = &mut self.hubs[hub] else { return };
        if let Some((_, job)) = job.take_if(|(at, _)| *at <= now) {
            core.handle_done(disk.run(job), now);
            self.do_effects(hub);
        }
        let mut conns: Vec<usize> =
            self.conns.iter().filter(|(_, conn)| conn.is_of(hub)).map(|(&id, _)| id).collect();
        conns.sort_unstable();
        for &id in &conns {
            self.read_hub(hub, id);
        }
        loop {
            let Some(core) = &mut self.hubs[hub].core else { return };
            if core.deadline().is_some_and(|at| at <= now) {
                core.handle_timeouts(now);
            }
            self.do_effects(hub);
            self.dial_hubs(hub);
            self.flush_hub(hub);
            let Some(core) = &mut self.hubs[hub].core else { return };
            core.finish_turn(now);
            self.do_effects(hub);
            let Some(core) = &self.hubs[hub].core else { return };
            if core.deadline().is_none_or(|at| at > now) {
                return;
            }
        }
    }

    fn read_hub(&mut self, hub: usize, id: usize) {
        let now = self.now;
        loop {
            let (Some(conn), Some(core)) = (self.conns.get_mut(&id), &mut self.hubs[hub].core) else {
                return;
            };
            let (session, pipe) = match conn.opener {
                Some((opener, session)) if opener == hub => {
                    (Some(session).filter(|_| conn.is_open), &mut conn.down)
                }
                _ => (conn.session, &mut conn.up),
            };
            let Some(session) = session.filter(|&session| core.is_live(session)) else { return };
            let mut read = Read::Nothing;
            core.receive(session, now, |space| {
                read = pipe.read(space, now);
                read.len()
            });
            if let Read::Closed = read {
                core.end(session, "it closed the connection".to_owned());
            }
            self.do_effects(hub);
            if !matches!(read, Read::Bytes(_)) {
                return;
            }
        }
    }

    fn flush_hub(&mut self, hub: usize) {
        let now = self.now;
        let mut dirty = Vec::new();
        loop {
            let Some(core) = &mut self.hubs[hub].core else { return };
            dirty.clear();
            core.take_dirty(&mut dirty);
            if dirty.is_empty() {
                return;
            }
            for &session in &dirty {
                if let Some((pipe, _)) = self.conns.values_mut().find_map(|conn| conn.end(hub, session)) {
                    core.flush(session, now, |bytes| pipe.write(bytes, now));
                }
            }
        }
    }

    pub(crate) fn do_effects(&mut self, hub: usize) {
        let now = self.now;
        let HubHost { core, disk, dials, job: writing, .. } = &mut self.hubs[hub];
        let Some(core) = core else { return };
        while let Some(effect) = core.poll_effect() {
            match effect {
                Effect::Deliver(packet) => {
                    self.book.arrive(&packet, kernel(hub), &[HUB_V4, own(hub)]);
                    core.delivered(packet, true);
                }
                Effect::Close { session, .. } => {
                    for conn in self.conns.values_mut() {
                        let Some((pipe, is_opener)) = conn.end(hub, session) else { continue };
                        pipe.close(now);
                        if is_opener {
                            conn.is_open = false;
                        } else {
                            conn.session = None;
                        }
                        break;
                    }
                }
                Effect::Dial(key, _) => dials.push((now, key, None)),
                Effect::DialLane { hub, link, .. } => dials.push((now, hub, Some(link))),
                Effect::Save(job) if self.list.is_some() => {
                    assert!(writing.is_none(), "one job at a time");
                    let time = Duration::from_micros(self.rng.below(40_000) as u64);
                    *writing = Some((now + time, *job));
                }
                Effect::Save(job) => {
                    let done = disk.run(*job);
                    core.handle_done(done, now);
                }
                Effect::Answer(request, answer) => {
                    trace::say(&self.trace, now - self.start, || {
                        format!("hub {hub}: {request:?} {answer:?}")
                    });
                    self.list.iter_mut().for_each(|list| list.answered(request, &answer));
                }
                Effect::AddRoute(_)
                | Effect::RemoveRoute(_)
                | Effect::Export(..)
                | Effect::SetSubnets(..)
                | Effect::Hurry(_) => {}
                Effect::Log(notice) => {
                    trace::say(&self.trace, now - self.start, || trace::note(hub, &notice))
                }
            }
        }
    }

    /// Goes on with what this hub dials: another hub that is alive is reached at once, one that is silent is not within a
    /// second.
    fn dial_hubs(&mut self, hub: usize) {
        let now = self.now;
        for (since, key, lane_of) in std::mem::take(&mut self.hubs[hub].dials) {
            let other = (0..self.hubs.len()).find(|&other| self.hubs[other].public() == key).unwrap();
            let is_apart = self.are_apart(hub, other);
            if is_apart && now < since + DIAL_TIME {
                self.hubs[hub].dials.push((since, key, lane_of));
                continue;
            }
            let conn = if is_apart { None } else { self.connect(other) };
            let ephemeral = self.rng.key();
            let Some(core) = &mut self.hubs[hub].core else { return };
            let Some(id) = conn else {
                match lane_of {
                    Some(link) => core.lane_not_dialled(&key, link, now),
                    None => core.not_dialled(&key, "nobody is there".to_owned(), now),
                }
                continue;
            };
            let session = match lane_of {
                Some(link) => core.lane_dialled((key, link), place(other), ephemeral, now),
                None => core.dialled(key, place(other), ephemeral, now),
            };
            let opener = session.map(|session| (hub, session));
            if let Some(conn) = self.conns.get_mut(&id) {
                (conn.opener, conn.is_open) = (opener, opener.is_some());
                if opener.is_none() {
                    conn.up.close(now);
                }
            }
        }
    }
}
