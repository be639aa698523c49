//! A LAN in memory: the hub's switch, spokes' tunnels, pipes between them, and time that is moved by hand.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use common::queue::{Buf, Pool};
use common::wire::key::{PrivateKey, PublicKey};
use common::wire::tunnel::{DEAD_AFTER, QUEUE_BYTES, outbox};
use hub::core::Core;
use hub::effect::{Answer, Effect};
use hub::ids::{MemberId, RequestId, SessionId};
use hub::lan::Lan;
use hub::lan::admission::DISPUTE_TIME;
use hub::lan::members::{Change, Member};
use hub::lan::saving::{Command, Job};
use hub::lan::subnets::Subnets;
use ipnetwork::IpNetwork;

use crate::disk::Disk;
use crate::machine::Spoke;
use crate::packets::{Book, HUB, HUB_V4, HUB_V6};
use crate::pipe::{Pipe, Read};
use crate::rng::Rng;
use crate::rogue::Rogue;

/// What may be queued towards all spokes together, in half of the stories: little enough to be reached.
pub(crate) const QUEUED_BYTES: usize = 256 * 1024;
/// A turn that comes round so often within one step is a loop without end.
const MAX_TURNS: usize = 20_000;

#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) up: Pipe,
    pub(crate) down: Pipe,
    pub(crate) session: Option<SessionId>,
    /// The spoke that has it open.
    pub(crate) spoke: Option<usize>,
    /// Nothing was done to it that may break it.
    pub(crate) is_sound: bool,
    /// When it was last stalled.
    pub(crate) stalled_at: Option<Instant>,
}

pub(crate) struct World {
    pub(crate) rng: Rng,
    pub(crate) now: Instant,
    pub(crate) hub: Core,
    /// The hub's files, and the job that is being done on them, with the time when it will be.
    pub(crate) disk: Disk,
    job: Option<(Instant, Box<Job>)>,
    /// What the last request led to.
    answer: Option<Result<Answer, String>>,
    pub(crate) spokes: Vec<Spoke>,
    pub(crate) conns: HashMap<usize, Conn>,
    pub(crate) book: Book,
    pub(crate) rogue: Rogue,
    pub(crate) hub_key: PublicKey,
    key: PrivateKey,
    /// What may be queued towards all spokes together.
    pub(crate) most_queued: Option<usize>,
    /// A locked hub does not know the last spoke.
    pub(crate) is_locked: bool,
    /// What each spoke offers when it joins.
    pub(crate) offers: Vec<IpNetwork>,
    next_conn: usize,
    by_session: HashMap<SessionId, usize>,
    pub(crate) outbox: Buf,
    pub(crate) pool: Pool,
    /// Who held which address after the last turn.
    pub(crate) holders: HashMap<IpAddr, PublicKey>,
}

impl World {
    pub(crate) fn new(seed: u64) -> World {
        let mut rng = Rng::new(seed);
        let subnets = ["10.0.0.0/28", "fd00::/64"].map(|text| text.parse().unwrap());
        let subnets = Subnets::new(&subnets[..1 + rng.below(2)]).unwrap();
        let count = 2 + rng.below(6);
        let mut spokes: Vec<Spoke> =
            (0..count).map(|_| Spoke::new(PrivateKey::from_random(rng.key()))).collect();
        let is_locked = rng.one_in(4);
        let known = if is_locked { count - 1 } else { 0 };
        spokes[count - 1].may_join = !is_locked;
        let lines =
            spokes[..known].iter().enumerate().map(|(at, spoke)| format!("{} s{at} -\n", spoke.key.public()));
        let text = lines.collect::<String>();
        let mut disk = Disk::new(subnets, text, is_locked);
        // As a list of thousands is written, in some stories.
        disk.append_from = seed.is_multiple_of(3).then_some((0, 0));
        let key = PrivateKey::from_random(rng.key());
        let hub = Core::new(key.clone(), lan(subnets), disk.files(), rng.next(), Duration::ZERO);
        let most_queued = seed.is_multiple_of(2).then_some(QUEUED_BYTES);
        let rogue = Rogue::new(PrivateKey::from_random(rng.key()));
        let mut world = World {
            rng,
            now: Instant::now(),
            hub,
            disk,
            job: None,
            answer: None,
            spokes,
            conns: HashMap::new(),
            book: Book::default(),
            rogue,
            hub_key: key.public(),
            key,
            most_queued,
            is_locked,
            offers: Vec::new(),
            next_conn: 0,
            by_session: HashMap::new(),
            outbox: outbox(),
            pool: Pool::new(8 * 1024 * 1024),
            holders: HashMap::new(),
        };
        world.set_up_hub();
        world
    }

    fn set_up_hub(&mut self) {
        if let Some(bytes) = self.most_queued {
            self.hub.limit_queued(bytes);
        }
    }

    // ---- connections

    /// Opens a connection to the hub; `None` where it takes no more.
    pub(crate) fn connect(&mut self, spoke: Option<usize>) -> Option<usize> {
        let source = Ipv4Addr::new(192, 0, 2, self.rng.below(4) as u8);
        let source = SocketAddr::from((source, self.next_conn as u16));
        let session = self.hub.accept(source, self.rng.key(), self.now)?;
        let latency = Duration::from_micros(100 + self.rng.below(60_000) as u64);
        let (up, down) = (Pipe::new(latency), Pipe::new(latency));
        let conn = Conn { up, down, session: Some(session), spoke, is_sound: true, stalled_at: None };
        let id = self.next_conn;
        self.next_conn += 1;
        self.conns.insert(id, conn);
        self.by_session.insert(session, id);
        Some(id)
    }

    /// The hub's process is killed and started again: all connections end, and what is on the disk is read.
    pub(crate) fn restart_hub(&mut self) {
        // The job that was being done may have got to its end, or not.
        if let Some((_, job)) = self.job.take() {
            let random = self.rng.next() as usize;
            match (random % 2, random >> 8) {
                (0, _) => drop(self.disk.run(*job)),
                // Or to a part of its lines.
                (_, len) => self.disk.tear(*job, len % 400),
            }
        }
        let lan = lan(self.disk.subnets);
        self.hub = Core::new(self.key.clone(), lan, self.disk.files(), self.rng.next(), Duration::ZERO);
        self.set_up_hub();
        for conn in self.conns.values_mut().filter(|conn| conn.session.is_some()) {
            conn.session = None;
            conn.is_sound = false;
            conn.down.reset(self.now);
        }
        self.by_session.clear();
    }

    // ---- time

    /// Lets time pass, turn by turn: whatever is due by then happens when it is due.
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
            let up = conn.session.and(conn.up.next_at());
            let down = conn.spoke.and(conn.down.next_at());
            [up, down]
        });
        let spokes = self.spokes.iter().map(Spoke::next_at);
        let job = self.job.as_ref().map(|&(at, _)| at);
        pipes.chain(spokes).chain([self.hub.deadline(), job, self.rogue_next_at()]).flatten().min()
    }

    fn turn(&mut self) {
        for spoke in 0..self.spokes.len() {
            self.read_spoke(spoke);
        }
        self.hub_turn();
        for spoke in 0..self.spokes.len() {
            self.time_out_spoke(spoke);
            self.flush_spoke(spoke);
        }
        self.rogue_turn();
        self.conns.retain(|_, conn| conn.session.is_some() || conn.spoke.is_some());
        self.check();
    }

    // ---- the hub, as its server does it

    fn hub_turn(&mut self) {
        self.do_effects();
        self.finish_job(self.now);
        let is_due = self.hub.deadline().is_some_and(|at| at <= self.now);
        if !is_due {
            self.hub.handle_timeouts(self.now);
            assert!(
                self.hub.deadline().is_none_or(|at| at > self.now) && self.hub.poll_effect().is_none(),
                "the hub had something to do of which its deadline did not tell"
            );
        }
        let mut conns: Vec<usize> = self.conns.keys().copied().collect();
        conns.sort_unstable();
        for conn in conns {
            self.read_hub(conn);
        }
        if is_due {
            self.hub.handle_timeouts(self.now);
        }
        self.finish_hub_turn();
    }

    pub(crate) fn finish_hub_turn(&mut self) {
        loop {
            self.do_effects();
            self.flush_hub();
            self.hub.finish_turn(self.now);
            self.do_effects();
            if self.hub.deadline().is_none_or(|at| at > self.now) {
                return;
            }
            self.hub.handle_timeouts(self.now);
        }
    }

    fn do_effects(&mut self) {
        while let Some(effect) = self.hub.poll_effect() {
            match effect {
                Effect::Deliver(packet) => {
                    self.book.arrive(&packet, HUB, &[HUB_V4, HUB_V6]);
                    self.hub.delivered(packet, true);
                }
                Effect::Close { session, .. } => {
                    let conn = self.by_session.remove(&session).expect("each session has a connection");
                    if let Some(conn) = self.conns.get_mut(&conn) {
                        conn.session = None;
                        conn.down.close(self.now);
                    }
                }
                Effect::Save(job) => {
                    assert!(self.job.is_none(), "one job at a time");
                    let most = if self.rng.one_in(10) { 1_000 } else { 20 };
                    let time = Duration::from_millis(self.rng.below(most) as u64);
                    self.job = Some((self.now + time, job));
                }
                Effect::Answer(_, answer) => self.answer = Some(*answer),
                Effect::AddRoute(_)
                | Effect::RemoveRoute(_)
                | Effect::Export(..)
                | Effect::SetSubnets(..)
                | Effect::Hurry(_)
                | Effect::Dial(..)
                | Effect::DialLane { .. }
                | Effect::Log(_) => {}
            }
        }
    }

    /// Ends the job on the files, if it has taken its time by `until`.
    fn finish_job(&mut self, until: Instant) {
        if let Some((_, job)) = self.job.take_if(|(at, _)| *at <= until) {
            let done = self.disk.run(*job);
            self.hub.handle_done(done, self.now);
            self.do_effects();
        }
    }

    /// The hub's own kernel sends a packet; what comes back is an error for it, which no one else is told.
    pub(crate) fn send_from_hub(&mut self, packet: &[u8]) {
        self.do_effects();
        self.hub.send(self.now, |space| {
            space[..packet.len()].copy_from_slice(packet);
            Some(packet.len())
        });
        if let Some(effect) = self.hub.poll_effect() {
            let Effect::Deliver(answer) = effect else { panic!("a packet led to {effect:?}") };
            self.hub.delivered(answer, true);
        }
    }

    /// Asks the hub for something, and waits for the answer, which takes no time.
    pub(crate) fn request(&mut self, command: Command) -> Result<Answer, String> {
        self.hub.request(RequestId(0), command, self.now);
        self.do_effects();
        while self.answer.is_none() {
            let (at, _) = self.job.as_ref().expect("a request waits for a job");
            self.finish_job(*at);
        }
        self.answer.take().expect("the loop ends with an answer")
    }

    /// All changes are written.
    pub(crate) fn write_all(&mut self) {
        self.finish_hub_turn();
        while let Some((at, _)) = self.job {
            self.finish_job(at);
            self.finish_hub_turn();
        }
    }

    /// Has the hub read its list again, after an edit.
    pub(crate) fn reload(&mut self, edit: impl FnOnce(&str) -> String) -> Vec<Change> {
        self.write_all();
        let before = self.disk.members.clone();
        self.disk.members = edit(&before);
        match self.request(Command::Reload) {
            Ok(Answer::Reloaded(changes, _)) => changes,
            Ok(other) => panic!("a reload led to {other:?}"),
            // A line that is at odds with another one changes nothing.
            Err(_) => {
                self.disk.members = before;
                self.finish_hub_turn();
                Vec::new()
            }
        }
    }

    fn read_hub(&mut self, id: usize) {
        loop {
            let Some(conn) = self.conns.get_mut(&id) else { return };
            let Some(session) = conn.session.filter(|&session| self.hub.is_live(session)) else { return };
            let mut read = Read::Nothing;
            self.hub.receive(session, self.now, |space| {
                let space_len = chunk(&mut self.rng, space.len());
                read = conn.up.read(&mut space[..space_len], self.now);
                read.len()
            });
            self.do_effects();
            match read {
                Read::Bytes(_) => {}
                Read::Nothing => return,
                Read::Closed => return self.hub.end(session, "it closed the connection".to_owned()),
            }
        }
    }

    pub(crate) fn flush_hub(&mut self) {
        let mut dirty = Vec::new();
        loop {
            dirty.clear();
            self.hub.take_dirty(&mut dirty);
            if dirty.is_empty() {
                return;
            }
            for &session in &dirty {
                let conn = self.by_session.get(&session).and_then(|conn| self.conns.get_mut(conn));
                let Some(conn) = conn else { continue };
                self.hub.flush(session, self.now, |bytes| conn.down.write(bytes, self.now));
            }
        }
    }

    // ---- what must hold after each turn

    fn check(&mut self) {
        let now = self.now;
        (0..self.spokes.len()).for_each(|at| self.check_spoke(at));
        // Who comes or goes at the end of a turn makes work for one at the same time; `pass` counts those.
        assert!(self.hub.deadline().is_none_or(|at| at >= now), "the hub has a deadline in the past");

        let mut online = HashMap::new();
        let members: Vec<_> = self.hub.members().iter().map(|(id, member)| (id, member.clone())).collect();
        let mut holders = HashMap::new();
        for (id, member) in &members {
            assert_eq!(self.hub.members().by_key(&member.key), Some(*id));
            assert_eq!(self.hub.members().by_name(&member.name), Some(*id));
            for &address in &member.addresses {
                assert_eq!(self.hub.members().holder(address), Some(*id), "who holds {address}");
                holders.insert(address, member.key);
            }
            let Some(session) = member.session else { continue };
            assert!(online.insert(session, member.key).is_none(), "two members with one session");
        }
        let (mut open, mut queued) = (0, 0);
        for (&session, conn) in &self.by_session {
            assert!(self.hub.is_live(session), "session {session:?} has ended, and is still there");
            let tunnel = self.hub.link(session).expect("a live session is there").tunnel;
            assert!(tunnel.queue().cost() <= QUEUE_BYTES, "the queue towards session {session:?}");
            queued += tunnel.queue().cost();
            assert_eq!(tunnel.is_open(), online.contains_key(&session), "session {session:?}");
            assert!(tunnel.is_half_open() || tunnel.remote().is_some());
            assert_eq!(self.conns[conn].session, Some(session));
            if tunnel.is_open() {
                open += 1;
                assert_eq!(tunnel.remote(), online.get(&session).copied());
                assert!(
                    tunnel.heard_at() + DEAD_AFTER > now,
                    "session {session:?} is dead, and still listed"
                );
            }
        }
        let most = self.most_queued.unwrap_or(usize::MAX);
        assert!(queued <= most, "{queued} bytes are queued, of {most} at most");
        assert_eq!(open, online.len(), "every member online has a session that lives");
        self.check_spokes_agree(&members);
        self.check_nobody_was_robbed(holders);
    }

    /// What a spoke believes to hold, it holds at the hub too, as long as its session lives.
    fn check_spokes_agree(&self, members: &[(MemberId, Member)]) {
        for spoke in self.spokes.iter().filter(|spoke| spoke.is_on_lan()) {
            let session = spoke.conn().and_then(|conn| self.conns.get(&conn)?.session);
            let Some(session) = session else { continue };
            let member = members.iter().find(|(_, member)| member.session == Some(session));
            let (_, member) = member.expect("an open tunnel belongs to a member");
            assert_eq!(member.addresses, spoke.addresses());
            // The last one counts.
            let line = self.disk.members.lines().rfind(|line| line.starts_with(&member.key.to_string()));
            let has = |line: &str| spoke.addresses().iter().all(|own| line.contains(&own.to_string()));
            let is_written = line.is_some_and(has);
            assert!(
                is_written || self.disk.has_failed,
                "{} was welcomed before that was written",
                member.name
            );
        }
    }

    /// An address goes from one key to another only if the first moved away, was offline, or was silent.
    fn check_nobody_was_robbed(&mut self, holders: HashMap<IpAddr, PublicKey>) {
        for (address, before) in &self.holders {
            let Some(after) = holders.get(address).filter(|&after| after != before) else { continue };
            assert!(!self.is_locked, "{address} went to another on a locked hub");
            let moved =
                holders.iter().any(|(other, key)| key == before && other.is_ipv4() == address.is_ipv4());
            let spoke = self.spokes.iter().find(|spoke| spoke.key.public() == *before);
            let conn = spoke.and_then(Spoke::conn).and_then(|conn| self.conns.get(&conn));
            let was_silent = conn.is_none_or(|conn| {
                let slack = Duration::from_millis(300);
                !conn.is_sound || conn.stalled_at.is_some_and(|at| at + DISPUTE_TIME + slack > self.now)
            });
            let joined = spoke.is_some_and(Spoke::is_on_lan);
            assert!(
                moved || was_silent || !joined,
                "{address} was taken from {before} for {after}; its connection: {conn:?}; now: {now:?}",
                now = self.now
            );
        }
        self.holders = holders;
    }
}

/// How much one read brings.
pub(crate) fn chunk(rng: &mut Rng, most: usize) -> usize {
    match rng.below(4) {
        0 => 1 + rng.below(64),
        1 => 1 + rng.below(3_000),
        _ => most,
    }
}

/// The LAN of all stories.
fn lan(subnets: Subnets) -> Lan {
    Lan { hub_name: "hub".parse().unwrap(), subnets, mtu: 1500, routes: vec![], hub_networks: vec![] }
}
