//! A hub whose key is in other hands: it is linked, and says whatever it likes about the list.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use common::queue::{Buf, Pool};
use common::wire::frame::{ControlFrame, Edit, Join, MAX_RECORD, Record, RecordId, Term};
use common::wire::inbox::Inbox;
use common::wire::key::{PrivateKey, PublicKey};
use common::wire::tunnel::{Event, Tunnel, outbox};
use hub::core::Core;
use hub::effect::Effect;
use hub::ids::{RequestId, SessionId};
use hub::lan::invites::MAX_INVITES;
use hub::lan::saving::Command;

use crate::disk::Disk;
use crate::rng::Rng;
use crate::world::{core, own, place, subnets};

/// Frames that it sends.
const FRAMES: usize = 400;

/// A hub with its disk, and the other end of a link to it.
struct Pair {
    core: Core,
    disk: Disk,
    session: SessionId,
    tunnel: Tunnel,
    inbox: Inbox,
    outbox: Buf,
    pool: Pool,
    now: Instant,
    heard: Vec<ControlFrame>,
}

impl Pair {
    /// `term`: who keeps the list, as the hub says.
    fn new(own_key: &PrivateKey, other: &PrivateKey, term: Term, seed: u64) -> Pair {
        #[allow(clippy::disallowed_methods, reason = "virtual time has to start somewhere")]
        let now = Instant::now();
        let mut list = String::new();
        for (hub, key) in [own_key, other].into_iter().enumerate() {
            list.push_str(&format!("{} hub-{hub} {} hub={}\n", key.public(), own(hub), place(hub)));
        }
        list.push_str(&format!("{} laptop 10.0.0.2\n", PrivateKey::from_random([9; 32]).public()));
        let mut disk = Disk::new(subnets(), list, true);
        disk.term = Some(term);
        let mut core = core(own_key, &disk, seed, Duration::from_secs(1_700_000_000));
        // It knows the hubs of its list.
        core.finish_turn(now);
        let session = core.accept((Ipv4Addr::new(192, 0, 2, 9), 1).into(), [3; 32], now).unwrap();
        let join =
            Join { is_hub: true, routes: subnets().iter().collect(), ..Join::new("bad".parse().unwrap()) };
        let mut pool = Pool::new(0);
        let tunnel = Tunnel::spoke(other, [4; 32], Some(own_key.public()), &join, &mut pool, now);
        let (inbox, outbox, heard) = (Inbox::default(), outbox(), Vec::new());
        let mut pair = Pair { core, disk, session, tunnel, inbox, outbox, pool, now, heard };
        (0..6).for_each(|_| pair.turn());
        assert!(pair.is_linked());
        pair
    }

    fn is_linked(&self) -> bool {
        self.core.is_live(self.session) && self.tunnel.is_open()
    }

    fn turn(&mut self) {
        let (now, session) = (self.now, self.session);
        let mut bytes = Vec::new();
        let _ = self.tunnel.flush(&mut self.outbox, &mut self.pool, now, |more| {
            bytes.extend_from_slice(more);
            more.len()
        });
        let mut rest = &bytes[..];
        while !rest.is_empty() && self.core.is_live(session) {
            self.core.receive(session, now, |space| {
                let len = rest.len().min(space.len());
                space[..len].copy_from_slice(&rest[..len]);
                rest = &rest[len..];
                len
            });
        }
        if self.core.deadline().is_some_and(|at| at <= now) {
            self.core.handle_timeouts(now);
        }
        self.core.finish_turn(now);
        while let Some(effect) = self.core.poll_effect() {
            if let Effect::Save(job) = effect {
                let done = self.disk.run(*job);
                self.core.handle_done(done, now);
            }
        }
        self.core.finish_turn(now);
        let mut answer = Vec::new();
        if self.core.is_live(session) {
            self.core.flush(session, now, |more| {
                answer.extend_from_slice(more);
                more.len()
            });
        }
        let mut rest = &answer[..];
        while !rest.is_empty() {
            self.tunnel.fill(&mut self.inbox, &mut self.pool, now, |space| {
                let len = rest.len().min(space.len());
                space[..len].copy_from_slice(&rest[..len]);
                rest = &rest[len..];
                len
            });
            while let Ok(Some(event)) = self.tunnel.open(&mut self.inbox, &mut self.pool, now) {
                if let Event::Control(control) = event {
                    self.heard.push(control);
                }
            }
        }
        self.now += Duration::from_millis(20);
    }

    fn say(&mut self, control: &ControlFrame) {
        if self.tunnel.control(control).is_err() {
            self.turn();
        }
    }

    fn revoke(&mut self, key: PublicKey) {
        self.core.request(RequestId(1), Command::Revoke(key.to_string()), self.now);
        self.turn();
    }
}

struct Villain {
    rng: Rng,
    keys: Vec<PublicKey>,
}

impl Villain {
    fn id(&mut self) -> RecordId {
        match self.rng.below(4) {
            0 => RecordId::Invite(self.rng.key()),
            1 => RecordId::Access,
            2 => RecordId::Member(PrivateKey::from_random(self.rng.key()).public()),
            _ => RecordId::Member(self.keys[self.rng.below(self.keys.len())]),
        }
    }

    fn text(&mut self, id: RecordId) -> Option<String> {
        let key = match id {
            RecordId::Member(key) => key.to_string(),
            RecordId::Invite(hash) => hash.iter().map(|byte| format!("{byte:02x}")).collect(),
            RecordId::Access => ["open", "locked", "revoked"][self.rng.below(3)].to_owned(),
        };
        let address = 1 + self.rng.below(16);
        let name = ["laptop", "hub-0", "a", "revoked", "#"][self.rng.below(5)];
        Some(match (self.rng.below(9), id) {
            (0, _) => return None,
            (1, _) => "x".repeat(self.rng.below(MAX_RECORD)),
            (2, _) => format!("{key} {name} 10.0.0.{address}\n# more\n{key} b -"),
            (3, _) => String::from_utf8_lossy(&self.rng.bytes(40)).into_owned(),
            (4, RecordId::Member(_)) => {
                format!("{key} {name} 10.0.0.{address} hub=h{address} route=0.0.0.0/0")
            }
            (_, RecordId::Invite(_)) => format!("{key} {name} 99999999999 10.0.0.{address}"),
            (_, RecordId::Access) => key,
            _ => format!("{key} {name} 10.0.0.{address}"),
        })
    }

    fn records(&mut self) -> Vec<Record> {
        let count = 1 + self.rng.below(40);
        let mut records = Vec::new();
        while records.len() < count
            && records
                .iter()
                .map(|record: &Record| 50 + record.text.as_ref().map_or(0, String::len))
                .sum::<usize>()
                < 40_000
        {
            let id = self.id();
            records.push(Record { id, text: self.text(id) });
        }
        records
    }

    fn frame(&mut self) -> ControlFrame {
        let token = [0, 1, u64::MAX, self.rng.next()][self.rng.below(4)];
        match self.rng.below(8) {
            0 | 1 => {
                let (first, last) = (self.rng.one_in(8), self.rng.one_in(8));
                ControlFrame::Records { records: self.records(), first, last }
            }
            2..5 => {
                let edits = self.records().into_iter().take(8).map(|record| {
                    let before = if self.rng.one_in(3) { self.text(record.id) } else { None };
                    Edit { record, before }
                });
                ControlFrame::Ask { token, edits: edits.collect() }
            }
            5 => {
                let refused = self.rng.one_in(2).then(|| "\x1b[31mno\n".repeat(self.rng.below(40)));
                ControlFrame::Answer { token, refused, records: self.records() }
            }
            _ => {
                let number = [0, 1, 2, u64::MAX, u64::MAX - 1][self.rng.below(5)];
                let keeper = self.keys[self.rng.below(self.keys.len())];
                ControlFrame::Keeper { term: Term { number, keeper }, wants_all: self.rng.one_in(2) }
            }
        }
    }
}

pub(crate) fn tell(seed: u64) {
    let mut rng = Rng::new(seed);
    let (own_key, other) = (PrivateKey::from_random([1; 32]), PrivateKey::from_random([2; 32]));
    let keys = vec![own_key.public(), other.public(), PrivateKey::from_random([9; 32]).public()];
    // A keeper, and a copy.
    let keeper = keys[rng.below(2)];
    let mut pair = Pair::new(&own_key, &other, Term { number: 1, keeper }, seed);
    let mut villain = Villain { rng, keys };
    for _ in 0..FRAMES {
        let frame = villain.frame();
        pair.say(&frame);
        pair.turn();
        if !pair.is_linked() {
            // It has said what nobody says, or taken itself off the list.
            break;
        }
        assert!(pair.heard.len() < 20_000, "it is answered without end");
    }
    let core = &pair.core;
    assert!(core.invites().iter().count() <= MAX_INVITES && core.waiting_for_keeper() < 1_100);
    let mut addresses: Vec<_> =
        core.members().iter().flat_map(|(_, member)| member.addresses.clone()).collect();
    addresses.sort_unstable();
    assert!(addresses.windows(2).all(|two| two[0] != two[1]), "an address twice");
    let term = core.keeper().unwrap();
    assert!(term.number < u64::MAX / 2, "{term:?}");
    // It is ended at once, and this hub takes the list into its own hands.
    if core.members().by_key(&other.public()).is_some() {
        pair.revoke(other.public());
    }
    assert!(!pair.is_linked(), "it is still linked");
    pair.core.request(RequestId(2), Command::Keep, pair.now);
    pair.turn();
    let term = pair.core.keeper().unwrap();
    assert_eq!(term.keeper, own_key.public());
    assert_eq!(pair.disk.term, Some(term));
}
