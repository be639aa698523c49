//! A LAN in memory: the hub's switch, spokes' tunnels, pipes between them, and time that is moved by hand.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use common::packet::offload;
use common::queue::{Buf, Pool};
use common::wire::frame::{ControlFrame, Farewell, INVITE_LEN, Join};
use common::wire::inbox::Inbox;
use common::wire::key::{PrivateKey, PublicKey};
use common::wire::name::Name;
use common::wire::tunnel::{DEAD_AFTER, Error, Event, Flushed, QUEUE_BYTES, Tunnel, outbox};
use hub::core::{Core, Files};
use hub::effect::{Answer, Effect};
use hub::ids::{MemberId, RequestId, SessionId};
use hub::lan::Lan;
use hub::lan::admission::DISPUTE_TIME;
use hub::lan::invites::Invites;
use hub::lan::members::{Access, Change, Member, Members};
use hub::lan::saving::{Command, Fingerprint, Job};
use hub::lan::subnets::Subnets;
use ipnetwork::IpNetwork;

use crate::disk::Disk;
use crate::packets::{Book, HUB, HUB_V4, HUB_V6};
use crate::pipe::{Pipe, Read};
use crate::rng::Rng;

/// A turn that comes round so often within one step is a loop without end.
const MAX_TURNS: usize = 20_000;

#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) up: Pipe,
    pub(crate) down: Pipe,
    session: Option<SessionId>,
    /// The spoke that has it open.
    spoke: Option<usize>,
    /// Nothing was done to it that may break it.
    pub(crate) is_sound: bool,
    /// When it was last stalled.
    pub(crate) stalled_at: Option<Instant>,
}

pub(crate) struct Spoke {
    pub(crate) key: PrivateKey,
    pub(crate) link: Option<Link>,
    /// It is not revoked, and the hub is open, or knows or has invited it.
    pub(crate) may_join: bool,
    pub(crate) invite: Option<[u8; INVITE_LEN]>,
}

/// The spoke's end of a connection.
pub(crate) struct Link {
    pub(crate) tunnel: Tunnel,
    pub(crate) conn: usize,
    /// What the welcome said.
    pub(crate) addresses: Vec<IpAddr>,
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
    /// A locked hub does not know the last spoke.
    pub(crate) is_locked: bool,
    /// What each spoke offers when it joins.
    pub(crate) offers: Vec<IpNetwork>,
    next_conn: usize,
    by_session: HashMap<SessionId, usize>,
    spoke_inbox: Inbox,
    outbox: Buf,
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
        let new = |key| Spoke { key, link: None, may_join: true, invite: None };
        let mut spokes: Vec<Spoke> = (0..count).map(|_| new(PrivateKey::from_random(rng.key()))).collect();
        let is_locked = rng.one_in(4);
        let known = if is_locked { count - 1 } else { 0 };
        spokes[count - 1].may_join = !is_locked;
        let lines =
            spokes[..known].iter().enumerate().map(|(at, spoke)| format!("{} s{at} -\n", spoke.key.public()));
        let text = lines.collect::<String>();
        let files = Files {
            members: Members::parse(&text, subnets).unwrap(),
            fingerprint: Fingerprint::of(&text),
            invites: Invites::default(),
            access: if is_locked { Access::Locked } else { Access::Open },
        };
        let key = PrivateKey::from_random(rng.key());
        let lan = Lan { subnets, mtu: 1500, routes: vec![], hub_networks: vec![] };
        let hub = Core::new(key, lan, files, rng.next(), 0);
        World {
            rng,
            now: Instant::now(),
            hub,
            disk: Disk::new(subnets, text, is_locked),
            job: None,
            answer: None,
            spokes,
            conns: HashMap::new(),
            book: Book::default(),
            is_locked,
            offers: Vec::new(),
            next_conn: 0,
            by_session: HashMap::new(),
            spoke_inbox: Inbox::default(),
            outbox: outbox(),
            pool: Pool::new(8 * 1024 * 1024),
            holders: HashMap::new(),
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

    /// Has a spoke join with these wishes, in the place of a link that it may have and just forgets.
    pub(crate) fn join(&mut self, spoke: usize, addresses: Vec<IpAddr>) {
        self.forget(spoke);
        let Some(conn) = self.connect(Some(spoke)) else { return };
        let name = Name::nearest(&format!("s{}", self.rng.below(3)));
        let join = Join {
            name,
            addresses,
            routes: self.offers.clone(),
            mtu: None,
            invite: self.spokes[spoke].invite,
            had: vec![],
        };
        let ephemeral = self.rng.key();
        let tunnel = Tunnel::spoke(&self.spokes[spoke].key, ephemeral, None, &join, &mut self.pool, self.now);
        self.spokes[spoke].link = Some(Link { tunnel, conn, addresses: Vec::new() });
    }

    /// The spoke is gone without a word: to the hub its connection falls silent.
    pub(crate) fn forget(&mut self, spoke: usize) {
        let Some(mut link) = self.spokes[spoke].link.take() else { return };
        link.tunnel.close(&mut self.pool);
        let now = self.now;
        if let Some(conn) = self.conns.get_mut(&link.conn) {
            conn.spoke = None;
            conn.is_sound = false;
            conn.stalled_at = Some(now);
            conn.up.stall();
        }
    }

    /// The spoke closes its socket.
    fn hang_up(&mut self, spoke: usize) {
        let Some(mut link) = self.spokes[spoke].link.take() else { return };
        link.tunnel.close(&mut self.pool);
        if let Some(conn) = self.conns.get_mut(&link.conn) {
            conn.spoke = None;
            conn.up.close(self.now);
        }
    }

    /// The spoke says goodbye and closes its socket.
    pub(crate) fn leave(&mut self, spoke: usize) {
        if let Some(link) = &mut self.spokes[spoke].link {
            link.tunnel.bye(Farewell::Stopping).unwrap();
        }
        self.flush_spoke(spoke);
        self.hang_up(spoke);
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
        let spokes = self.spokes.iter().map(|spoke| spoke.link.as_ref().map(|link| link.tunnel.deadline()));
        let job = self.job.as_ref().map(|&(at, _)| at);
        pipes.chain(spokes).chain([self.hub.deadline(), job]).flatten().min()
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
        self.conns.retain(|_, conn| conn.session.is_some() || conn.spoke.is_some());
        self.check();
    }

    // ---- the hub, as its server does it

    fn hub_turn(&mut self) {
        self.do_effects();
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
        self.finish_job(self.now);
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
                    assert!(self.job.is_none(), "two jobs at a time");
                    let time = Duration::from_micros(self.rng.below(30_000) as u64);
                    self.job = Some((self.now + time, job));
                }
                Effect::Answer(_, answer) => self.answer = Some(*answer),
                Effect::AddRoute(_) | Effect::RemoveRoute(_) | Effect::Log(_) => {}
            }
        }
    }

    /// The hub's own kernel sends a packet; what comes back is an error for it, which no one else is told.
    pub(crate) fn send_from_hub(&mut self, packet: &[u8]) {
        self.do_effects();
        self.hub.send(self.now, |pool| Some(pool.copy(packet)));
        if let Some(effect) = self.hub.poll_effect() {
            let Effect::Deliver(answer) = effect else { panic!("a packet led to {effect:?}") };
            self.hub.delivered(answer, true);
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

    /// Has the hub read its list again, after an edit.
    pub(crate) fn reload(&mut self, edit: impl FnOnce(&str) -> String) -> Vec<Change> {
        // All changes are written first.
        self.finish_hub_turn();
        while let Some((at, _)) = self.job {
            self.finish_job(at);
            self.finish_hub_turn();
        }
        let before = self.disk.members.clone();
        self.disk.members = edit(&before);
        match self.request(Command::Reload) {
            Ok(Answer::Reloaded(changes)) => changes,
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
                if let Read::Bytes(len) = read { len } else { 0 }
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

    // ---- a spoke, as its client does it

    fn read_spoke(&mut self, spoke: usize) {
        loop {
            let Some(link) = &mut self.spokes[spoke].link else { return };
            let Some(conn) = self.conns.get_mut(&link.conn) else { return };
            link.tunnel.unpark(&mut self.spoke_inbox, &mut self.pool);
            let space = self.spoke_inbox.space();
            let space_len = chunk(&mut self.rng, space.len());
            let read = conn.down.read(&mut space[..space_len], self.now);
            if let Read::Bytes(len) = read {
                self.spoke_inbox.filled(len);
                link.tunnel.heard(self.now);
                // There is room in the socket again.
                if let Some(session) = conn.session {
                    self.hub.mark_dirty(session);
                }
            }
            let is_sound = conn.is_sound;
            let was_open = link.tunnel.is_open();
            match self.open_spoke(spoke) {
                Ok(true) => {}
                Ok(false) => return self.hang_up(spoke),
                Err(error) => {
                    assert!(!is_sound, "spoke {spoke} has a sound link, but: {error}");
                    return self.hang_up(spoke);
                }
            }
            let Some(link) = &mut self.spokes[spoke].link else { return };
            link.tunnel.park(&mut self.spoke_inbox, &mut self.pool);
            match read {
                Read::Bytes(_) => {}
                Read::Nothing => return,
                Read::Closed => {
                    assert!(!(is_sound && was_open), "spoke {spoke} has a sound link that the hub cut");
                    return self.hang_up(spoke);
                }
            }
        }
    }

    /// Handles what the inbox holds; false if the hub sent the spoke away.
    fn open_spoke(&mut self, spoke: usize) -> Result<bool, Error> {
        let Some(link) = &mut self.spokes[spoke].link else { return Ok(true) };
        while let Some(event) = link.tunnel.open(&mut self.spoke_inbox, &mut self.pool, self.now)? {
            match event {
                Event::Packet(mut packet) => {
                    offload::check(&mut packet).expect("the hub lets no other packet through");
                    self.book.arrive(&packet, Some(spoke), &link.addresses);
                    self.pool.give(packet);
                }
                Event::Control(ControlFrame::Welcome(welcome)) => {
                    link.addresses = welcome.addresses.iter().map(|address| address.ip()).collect();
                }
                Event::Control(ControlFrame::Refused { .. } | ControlFrame::Bye(_)) => return Ok(false),
                Event::Control(ControlFrame::Members { peers, last }) => {
                    assert!(last && peers.len() <= self.spokes.len());
                    return Ok(true);
                }
                Event::Control(ControlFrame::Routes { .. } | ControlFrame::MembersChanged) => {}
                other @ (Event::Join { .. } | Event::Control(_)) => panic!("the hub said {other:?}"),
            }
        }
        Ok(true)
    }

    fn time_out_spoke(&mut self, spoke: usize) {
        let Some(link) = &mut self.spokes[spoke].link else { return };
        if let Err(error) = link.tunnel.handle_timeout(self.now) {
            let conn = &self.conns[&link.conn];
            // Who wants the addresses of others may have to wait for too many of them.
            assert!(
                !conn.is_sound || error == Error::TooSlow,
                "spoke {spoke} has a sound link, but: {error}"
            );
            self.hang_up(spoke);
        }
    }

    fn flush_spoke(&mut self, spoke: usize) {
        let Some(link) = &mut self.spokes[spoke].link else { return };
        let Some(conn) = self.conns.get_mut(&link.conn) else { return };
        while flush(&mut link.tunnel, &mut conn.up, &mut self.outbox, &mut self.pool, self.now).unwrap() {}
    }

    // ---- what must hold after each turn

    fn check(&mut self) {
        let now = self.now;
        for (at, spoke) in self.spokes.iter().enumerate() {
            let Some(link) = &spoke.link else { continue };
            assert!(link.tunnel.queue().cost() <= QUEUE_BYTES, "the queue of spoke {at}");
            assert!(link.tunnel.deadline() > now, "spoke {at} has a deadline in the past");
        }
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
        let mut open = 0;
        for (&session, conn) in &self.by_session {
            assert!(self.hub.is_live(session), "session {session:?} has ended, and is still there");
            let tunnel = self.hub.link(session).expect("a live session is there").tunnel;
            assert!(tunnel.queue().cost() <= QUEUE_BYTES, "the queue towards session {session:?}");
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
        assert_eq!(open, online.len(), "every member online has a session that lives");
        self.check_spokes_agree(&members);
        self.check_nobody_was_robbed(holders);
    }

    /// What a spoke believes to hold, it holds at the hub too, as long as its session lives.
    fn check_spokes_agree(&self, members: &[(MemberId, Member)]) {
        for spoke in &self.spokes {
            let Some(link) = spoke.link.as_ref().filter(|link| link.tunnel.is_open()) else { continue };
            let Some(session) = self.conns.get(&link.conn).and_then(|conn| conn.session) else { continue };
            let member = members.iter().find(|(_, member)| member.session == Some(session));
            let (_, member) = member.expect("an open tunnel belongs to a member");
            assert_eq!(member.addresses, link.addresses);
            let line = self.disk.members.lines().find(|line| line.starts_with(&member.key.to_string()));
            let is_written = line
                .is_some_and(|line| link.addresses.iter().all(|address| line.contains(&address.to_string())));
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
            let conn =
                spoke.and_then(|spoke| spoke.link.as_ref()).and_then(|link| self.conns.get(&link.conn));
            let was_silent = conn.is_none_or(|conn| {
                let slack = Duration::from_millis(300);
                !conn.is_sound || conn.stalled_at.is_some_and(|at| at + DISPUTE_TIME + slack > self.now)
            });
            let joined =
                spoke.and_then(|spoke| spoke.link.as_ref()).is_some_and(|link| link.tunnel.is_open());
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
fn chunk(rng: &mut Rng, most: usize) -> usize {
    match rng.below(4) {
        0 => 1 + rng.below(64),
        1 => 1 + rng.below(3_000),
        _ => most,
    }
}

/// Writes what the pipe takes; true if there is more and the pipe has room.
fn flush(
    tunnel: &mut Tunnel,
    pipe: &mut Pipe,
    outbox: &mut Buf,
    pool: &mut Pool,
    now: Instant,
) -> Result<bool, Error> {
    Ok(tunnel.flush(outbox, pool, now, |bytes| pipe.write(bytes, now))? == Flushed::More)
}
