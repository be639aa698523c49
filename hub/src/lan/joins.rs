//! How often a key may join, and whether it is two machines. Pure.
//!
//! A machine joins again when its link is lost, and then once; what a join costs is paid by all others, who are told of
//! it. Limits belong to the key and outlive its links.
//!
//! A link takes the place of an older one of the same key at once: mostly the older one is dead and nobody knows it yet.
//! Where that happens again and again, the older one is asked for a sign of life first. If it answers there are two
//! machines with one key, as of a copied disk, and the one that is there stays.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use common::wire::frame::Join;
use common::wire::key::PublicKey;

use crate::ids::SessionId;

/// Joins of a key at once, and how long it takes to gain another one.
const BURST: u32 = 5;
const EVERY: Duration = Duration::from_secs(1);
/// Keys that are kept in mind.
const MAX_KEYS: usize = 65_536;
/// Links that take the place of a live one before it is asked for a sign of life.
const TAKEOVERS: u32 = 2;
/// Machines with one key that are kept apart: of more, which may be an image that is installed again and again, some are
/// named again.
const MAX_CLONES: usize = 8;
/// A key that has not been taken over for so long is as good as new.
const FORGET_AFTER: Duration = Duration::from_secs(600);

/// What is known about keys that have joined.
#[derive(Default)]
pub struct Joins {
    keys: HashMap<PublicKey, Record>,
    questions: BTreeMap<SessionId, Question>,
}

struct Record {
    /// When the last of the joins so far would have come, had they come one [`EVERY`].
    due_at: Instant,
    takeovers: u32,
    taken_over_at: Option<Instant>,
    /// Other machines with this key, the one that tried last at the end; at most [`MAX_CLONES`].
    clones: Vec<SecondMachine>,
}

/// Two machines with the same key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SecondMachine {
    /// Where the second one comes from.
    pub source: SocketAddr,
    /// When it last tried.
    pub at: Instant,
}

/// A join that waits for a sign of life of an older link of the same key.
#[derive(Debug)]
pub struct Question {
    /// The key.
    pub key: PublicKey,
    /// The request.
    pub join: Join,
    /// The older link.
    pub older: SessionId,
    /// When it was asked.
    pub asked_at: Instant,
    /// How long it has to answer.
    pub until: Instant,
}

/// How long an older link has to answer, by its last round trip: a machine that moves from network to network is not to
/// wait for its own dead link.
pub fn answer_time(round_trip: Option<Duration>) -> Duration {
    const LEAST: Duration = Duration::from_millis(300);
    const MOST: Duration = Duration::from_secs(2);
    round_trip.map_or(LEAST, |time| (time * 3).clamp(LEAST, MOST))
}

impl Joins {
    /// Counts a join; whether the key may join now.
    pub fn allow(&mut self, key: PublicKey, now: Instant) -> bool {
        if self.keys.len() >= MAX_KEYS && !self.keys.contains_key(&key) {
            self.keys.retain(|_, record| !record.is_idle(now));
            if self.keys.len() >= MAX_KEYS {
                // A join of a key that is not known costs a handshake at least.
                return true;
            }
        }
        let record = self.keys.entry(key).or_insert_with(|| Record::new(now));
        let due_at = record.due_at.max(now);
        let is_allowed = due_at + EVERY <= now + EVERY * BURST;
        if is_allowed {
            record.due_at = due_at + EVERY;
        }
        is_allowed
    }

    /// Counts a link that takes the place of a live one; whether that one is to be asked for a sign of life first.
    pub fn take_over(&mut self, key: PublicKey, now: Instant) -> bool {
        let Some(record) = self.keys.get_mut(&key) else { return false };
        if record.is_over(now) {
            record.takeovers = 0;
            record.clones.clear();
        }
        record.takeovers = record.takeovers.saturating_add(1);
        record.taken_over_at = Some(now);
        record.takeovers > TAKEOVERS
    }

    /// Has a join wait for an answer.
    pub fn ask(&mut self, session: SessionId, question: Question) {
        self.questions.insert(session, question);
    }

    /// The join that waits, if this session has one.
    pub fn question(&self, session: SessionId) -> Option<&Question> {
        self.questions.get(&session)
    }

    /// Takes it out.
    pub fn take_question(&mut self, session: SessionId) -> Option<Question> {
        self.questions.remove(&session)
    }

    /// Notes that the older link has answered: the newer one, from `source`, is another machine. Returns whether that is
    /// news.
    pub fn note_clone(&mut self, key: PublicKey, source: SocketAddr, now: Instant) -> bool {
        let Some(record) = self.keys.get_mut(&key) else { return true };
        let is_same = |clone: &SecondMachine| clone.source.ip() == source.ip();
        let is_known = record.clones.iter().any(is_same);
        record.clones.retain(|clone| !is_same(clone));
        if record.clones.len() >= MAX_CLONES {
            record.clones.remove(0);
        }
        record.clones.push(SecondMachine { source, at: now });
        !is_known
    }

    /// The other machine with this key, if there was one lately.
    pub fn second_machine(&self, key: &PublicKey, now: Instant) -> Option<SecondMachine> {
        let last = self.keys.get(key)?.clones.last().copied();
        last.filter(|clone| now < clone.at + FORGET_AFTER)
    }
}

impl Record {
    fn new(now: Instant) -> Record {
        Record { due_at: now, takeovers: 0, taken_over_at: None, clones: Vec::new() }
    }

    /// Whether it was not taken over lately.
    fn is_over(&self, now: Instant) -> bool {
        self.taken_over_at.is_none_or(|at| now >= at + FORGET_AFTER)
    }

    fn is_idle(&self, now: Instant) -> bool {
        self.due_at <= now && self.is_over(now)
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "virtual time has to start somewhere")]
mod tests {
    use common::wire::key::PrivateKey;

    use super::*;

    fn key(seed: u8) -> PublicKey {
        PrivateKey::from_random([seed; 32]).public()
    }

    #[test]
    fn a_key_joins_a_few_times_at_once_and_then_once_a_second() {
        let (mut joins, start) = (Joins::default(), Instant::now());
        let mut allowed = 0;
        for step in 0..10_000_u32 {
            allowed += u32::from(joins.allow(key(1), start + Duration::from_millis(1) * step));
        }
        assert!((BURST + 9..=BURST + 10).contains(&allowed), "{allowed} in 10 s");
        assert!(joins.allow(key(2), start), "another key has limits of its own");
        let later = start + Duration::from_secs(60);
        assert_eq!((0..10).filter(|_| joins.allow(key(1), later)).count(), BURST as usize);
    }

    #[test]
    fn an_older_link_is_asked_once_it_was_taken_over_again_and_again() {
        let (mut joins, now) = (Joins::default(), Instant::now());
        assert!(joins.allow(key(1), now));
        let asked: Vec<bool> = (0..4).map(|_| joins.take_over(key(1), now)).collect();
        assert_eq!(asked, [false, false, true, true]);
        let source = "192.0.2.7:1".parse().unwrap();
        assert!(joins.note_clone(key(1), source, now));
        assert!(!joins.note_clone(key(1), source, now), "it is told once");
        assert_eq!(joins.second_machine(&key(1), now).map(|clone| clone.source), Some(source));
        // A third one is news, and when both try in turn neither is again.
        let third = "192.0.2.8:1".parse().unwrap();
        assert!(joins.note_clone(key(1), third, now));
        assert!([source, third, source].iter().all(|&source| !joins.note_clone(key(1), source, now)));
        for last in 20..120 {
            joins.note_clone(key(1), SocketAddr::from(([192, 0, 2, last], 1)), now);
        }
        assert_eq!(joins.keys[&key(1)].clones.len(), MAX_CLONES);
        assert!(!joins.take_over(key(1), now + FORGET_AFTER), "it is forgotten in the end");
        assert_eq!(joins.second_machine(&key(1), now + FORGET_AFTER), None);
    }

    #[test]
    fn keys_without_end_need_no_memory_without_end() {
        let (mut joins, start) = (Joins::default(), Instant::now());
        for number in 0..(MAX_KEYS as u32 + 1_000) {
            // Any 43 characters of base64 that end in zeros are a key.
            let key = format!("{number:A<42}A=").parse().unwrap();
            assert!(joins.allow(key, start + Duration::from_millis(1) * number));
        }
        assert!(joins.keys.len() <= MAX_KEYS, "{}", joins.keys.len());
    }
}
