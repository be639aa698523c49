//! What many members at several hubs cost one of these, in processor time, memory and bytes: a real core, whose links and
//! members are real tunnels in memory.
//!
//! `cargo bench --bench presence`, `-- --quick` with a tenth of the members. First a link between two hubs comes up, one of
//! which has 10,000 members online; then one hub of a LAN that is as large as a LAN may be, in hubs and members, loses a
//! third of the others, and gets its share of their members.

#![allow(clippy::disallowed_methods, clippy::print_stdout, reason = "a benchmark measures and prints")]
#![allow(clippy::unwrap_used, reason = "what goes wrong shall end it")]

#[path = "../../tests/simulation/disk.rs"]
#[allow(dead_code, reason = "the simulation uses more of it")]
mod disk;

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use common::queue::{Buf, Pool};
use common::wire::frame::{ControlFrame, Join, MAX_PRESENCE, Presence};
use common::wire::inbox::Inbox;
use common::wire::key::{PrivateKey, PublicKey};
use common::wire::tunnel::{Event, Flushed, Tunnel, outbox};
use hub::core::Core;
use hub::effect::Effect;
use hub::ids::SessionId;
use hub::lan::Lan;
use hub::lan::members::{MAX_HUBS, MAX_MEMBERS};
use hub::lan::subnets::Subnets;

use disk::Disk;

const EPOCH: Duration = Duration::from_secs(1_700_000_000);
/// Bytes of a presence on the wire, and less than a frame holds of them.
const IN_FRAME: usize = MAX_PRESENCE / 64;

fn key(number: usize) -> PrivateKey {
    let mut seed = [0x5a; 32];
    seed[8..16].copy_from_slice(&(number as u64).to_le_bytes());
    PrivateKey::from_random(seed)
}

fn place(number: usize) -> SocketAddr {
    (Ipv4Addr::from_bits(0xc612_0001 + number as u32), 5678).into()
}

/// The other end of a session: a member, or another hub.
struct Far {
    tunnel: Tunnel,
    /// Bytes that came, and the members of whom it was told.
    received: u64,
    told: u64,
    is_in: bool,
}

/// One hub, and all that is at it. The first `hubs` keys are those of hubs, its own the very first.
struct House {
    core: Core,
    disk: Disk,
    far: Vec<Option<Far>>,
    dialled: Vec<PublicKey>,
    now: Instant,
    pool: Pool,
    inbox: Inbox,
    outbox: Buf,
    /// Processor time of the core.
    spent: Duration,
    subnets: Subnets,
}

impl House {
    fn new(hubs: usize, members: usize) -> House {
        let subnets = Subnets::new(&["10.0.0.0/8".parse().unwrap()]).unwrap();
        let mut list = String::new();
        for number in 0..hubs {
            let _ = writeln!(list, "{} hub-{number} - hub={}", key(number).public(), place(number));
        }
        for number in hubs..hubs + members {
            let address = Ipv4Addr::from_bits(0x0a01_0000 + number as u32);
            let _ = writeln!(list, "{} m{number} {address}", key(number).public());
        }
        let disk = Disk::new(subnets, list, true);
        let lan = Lan {
            hub_name: "hub".parse().unwrap(),
            subnets,
            mtu: 1_500,
            routes: vec![],
            hub_networks: vec![],
        };
        let mut core = Core::new(key(0), lan, disk.files(), 1, EPOCH);
        core.limit_sessions(members + hubs + 10);
        House {
            core,
            disk,
            far: Vec::new(),
            dialled: Vec::new(),
            now: Instant::now(),
            pool: Pool::new(8 << 20),
            inbox: Inbox::default(),
            outbox: outbox(),
            spent: Duration::ZERO,
            subnets,
        }
    }

    /// Has the member, or hub, with this key join: it dials this hub.
    fn join(&mut self, number: usize, is_hub: bool) -> SessionId {
        let now = self.now;
        let subnets = self.subnets.iter().collect();
        let join = Join {
            routes: if is_hub { subnets } else { Vec::new() },
            mtu: Some(1_500),
            is_hub,
            sequence: Some(EPOCH.as_millis() as u64),
            ..Join::new(format!("m{number}").parse().unwrap())
        };
        let mut ephemeral = [7; 32];
        ephemeral[..8].copy_from_slice(&(number as u64).to_le_bytes());
        let tunnel = Tunnel::spoke(&key(number), ephemeral, None, &join, &mut self.pool, now);
        ephemeral[9] = 1;
        let source = place(number);
        let session = self.timed(|core| core.accept(source, ephemeral, now)).expect("there is room");
        if self.far.len() <= session.index() {
            self.far.resize_with(session.index() + 1, || None);
        }
        self.far[session.index()] = Some(Far { tunnel, received: 0, told: 0, is_in: false });
        self.settle(session);
        session
    }

    fn far(&mut self, session: SessionId) -> &mut Far {
        self.far[session.index()].as_mut().unwrap()
    }

    fn timed<T>(&mut self, work: impl FnOnce(&mut Core) -> T) -> T {
        let start = Instant::now();
        let done = work(&mut self.core);
        self.spent += start.elapsed();
        done
    }

    /// Carries what this one has to say to the hub, and then all that the hub has to say, until nobody has.
    fn settle(&mut self, first: SessionId) {
        let mut talkers = vec![first];
        while let Some(session) = talkers.pop() {
            self.speak(session);
            self.do_effects();
            loop {
                let mut dirty = Vec::new();
                self.core.take_dirty(&mut dirty);
                if dirty.is_empty() {
                    break;
                }
                for session in dirty {
                    self.hear(session);
                    talkers.push(session);
                }
            }
            let now = self.now;
            self.timed(|core| core.finish_turn(now));
            self.do_effects();
        }
    }

    /// What this one has to say comes to the hub.
    fn speak(&mut self, session: SessionId) {
        let now = self.now;
        let Some(far) = &mut self.far[session.index()] else { return };
        let mut bytes = Vec::new();
        let (outbox, pool) = (&mut self.outbox, &mut self.pool);
        let mut take = |some: &[u8]| {
            bytes.extend_from_slice(some);
            some.len()
        };
        while far.tunnel.flush(outbox, pool, now, &mut take).unwrap() == Flushed::More {}
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let start = Instant::now();
            self.core.receive(session, now, |space| {
                let len = rest.len().min(space.len());
                space[..len].copy_from_slice(&rest[..len]);
                rest = &rest[len..];
                len
            });
            self.spent += start.elapsed();
        }
    }

    /// What the hub has to say comes to this one.
    fn hear(&mut self, session: SessionId) {
        let now = self.now;
        let mut bytes = Vec::new();
        self.timed(|core| {
            core.flush(session, now, |some| {
                bytes.extend_from_slice(some);
                some.len()
            });
        });
        let Some(far) = self.far.get_mut(session.index()).and_then(Option::as_mut) else { return };
        far.received += bytes.len() as u64;
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            far.tunnel.fill(&mut self.inbox, &mut self.pool, now, |space| {
                let len = rest.len().min(space.len());
                space[..len].copy_from_slice(&rest[..len]);
                rest = &rest[len..];
                len
            });
            while let Some(event) = far.tunnel.open(&mut self.inbox, &mut self.pool, now).unwrap() {
                match event {
                    Event::Control(ControlFrame::Welcome(welcome)) => {
                        far.is_in = true;
                        if welcome.is_hub {
                            far.tunnel.set_between_hubs();
                        }
                    }
                    Event::Control(ControlFrame::Online(members)) => far.told += members.len() as u64,
                    Event::Control(ControlFrame::Refused { text, .. }) => panic!("{text}"),
                    Event::Packet(_) | Event::Control(_) | Event::Join { .. } | Event::Attach { .. } => {}
                }
            }
            far.tunnel.park(&mut self.inbox, &mut self.pool);
        }
    }

    fn do_effects(&mut self) {
        let now = self.now;
        while let Some(effect) = self.core.poll_effect() {
            match effect {
                Effect::Save(job) => {
                    let done = self.disk.run(*job);
                    self.core.handle_done(done, now);
                }
                Effect::Close { session, .. } => self.far[session.index()] = None,
                Effect::Dial(hub, _) => self.dialled.push(hub),
                Effect::Deliver(packet) => self.core.delivered(packet, true),
                Effect::Answer(..)
                | Effect::Hurry(_)
                | Effect::AddRoute(_)
                | Effect::RemoveRoute(_)
                | Effect::Export(..)
                | Effect::SetSubnets(..)
                | Effect::Log(_) => {}
            }
        }
    }

    /// Another hub tells by its link that these members are with it.
    fn tell(&mut self, link: SessionId, members: std::ops::Range<usize>) {
        let told: Vec<usize> = members.collect();
        for part in told.chunks(IN_FRAME) {
            let presence = |&number: &usize| {
                let since = EPOCH.as_millis() as u64;
                Presence { key: key(number).public(), sequence: since, since, routes: Vec::new() }
            };
            let frame = ControlFrame::Online(part.iter().map(presence).collect());
            self.far(link).tunnel.control(&frame).unwrap();
            self.settle(link);
        }
    }

    /// The link to another hub is lost.
    fn lose(&mut self, link: SessionId) {
        let now = self.now;
        self.timed(|core| core.end(link, "it closed the connection".to_owned()));
        self.timed(|core| core.finish_turn(now));
        self.do_effects();
    }

    fn elsewhere(&self) -> usize {
        let members = self.core.members().iter();
        members.filter(|(_, member)| member.elsewhere.is_some()).count()
    }

    fn take_spent(&mut self) -> Duration {
        std::mem::take(&mut self.spent)
    }
}

/// Resident memory of this process, in bytes.
fn resident() -> f64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<f64>().unwrap() * 4_096.0
}

fn main() {
    let is_quick = std::env::args().any(|word| word == "--quick");
    let part = if is_quick { 10 } else { 1 };
    one_link(10_000 / part);
    large_lan((MAX_MEMBERS - MAX_HUBS) / part);
}

fn one_link(count: usize) {
    println!("two hubs, {count} members at one of them");
    let mut house = House::new(2, count);
    for number in 2..2 + count {
        // The clock goes on, as joins from one network, and pings, have their pace.
        house.now += Duration::from_millis(1);
        let session = house.join(number, false);
        assert!(house.far(session).is_in);
    }
    let joins = house.take_spent();
    println!("  {count} joins: {joins:.0?} of the hub's processor, {:.0?} each", joins / count as u32);
    let link = house.join(1, true);
    let spent = house.take_spent();
    let Far { told, received, .. } = *house.far(link);
    assert_eq!(told as usize, 1 + count);
    println!("  link up, all told: {spent:.1?}, {received} bytes, {} each", received / told);

    let mut house = House::new(2, count);
    let link = house.join(1, true);
    house.take_spent();
    house.tell(link, 1..2 + count);
    let spent = house.take_spent();
    assert_eq!(house.elsewhere(), 1 + count);
    println!("  all heard by the other hub: {spent:.1?}");
    house.lose(link);
    assert_eq!(house.elsewhere(), 0);
    println!("  the link lost, all forgotten: {:.1?}", house.take_spent());
}

fn large_lan(count: usize) {
    let hubs = MAX_HUBS;
    let each = count / hubs;
    println!("{hubs} hubs, {count} members, {each} at each: one of the hubs");
    let before = resident();
    let mut house = House::new(hubs, count);
    let of = |hub: usize| hubs + hub * each..hubs + (hub + 1) * each;
    println!("  the list: {:.1} MB", (resident() - before) / 1e6);
    let before = resident();
    let links: Vec<SessionId> = (1..hubs).map(|hub| house.join(hub, true)).collect();
    let links_up = house.take_spent();
    for (hub, link) in (1..).zip(&links) {
        house.tell(*link, of(hub));
    }
    assert_eq!(house.elsewhere(), (hubs - 1) * each);
    println!(
        "  {} links up in {links_up:.1?}; {} members told in {:.0?}, {:.1} MB",
        links.len(),
        house.elsewhere(),
        house.take_spent(),
        (resident() - before) / 1e6
    );
    for number in of(0) {
        house.now += Duration::from_millis(1);
        house.join(number, false);
    }
    println!("  {each} members of its own, each told to {} hubs: {:.0?}", links.len(), house.take_spent());
    // A third of the hubs die: their members are spread over the others.
    let dead = hubs / 3;
    for link in &links[..dead] {
        house.lose(*link);
    }
    println!("  {dead} links lost: {:.0?}", house.take_spent());
    let share = dead * each / (hubs - dead);
    for number in of(1).chain(of(2)).take(share) {
        house.now += Duration::from_millis(1);
        let session = house.join(number, false);
        assert!(house.far(session).is_in);
    }
    let spent = house.take_spent();
    println!("  {share} of their members joined here: {spent:.0?} of the hub's processor");
    assert!(spent < Duration::from_secs(3) * (each as u32 / 1_000).max(1), "{spent:?}");
}
