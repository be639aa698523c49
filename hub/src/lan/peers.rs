//! The other hubs of the LAN: the link to each, and who is on the LAN through it. Pure.
//!
//! What a hub tells is bound to the link by which it tells it: it is forgotten when that ends, and never passed on.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use common::wire::frame::{HubInfo, Presence};
use common::wire::key::PublicKey;
use common::wire::place::Place;

use crate::ids::SessionId;

mod lane;
mod lanes;

/// The least time between two attempts to reach a hub.
pub(crate) const RETRY_EVERY: Duration = Duration::from_secs(1);
/// How long after a link was lost, or an attempt failed late, the next attempt begins.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// How long a hub is left alone that cannot be linked to: it may be started anew with another version or subnet.
const PUT_OFF: Duration = Duration::from_secs(30);

/// All of them.
#[derive(Default)]
pub(crate) struct Peers {
    by_key: BTreeMap<PublicKey, Peer>,
    by_session: HashMap<SessionId, PublicKey>,
    /// By how many hubs a member was told, by the first bytes of its key: mostly it is one, and then no other one is asked.
    tellers: HashMap<u64, u32>,
    /// The hub that told last.
    last: Option<PublicKey>,
    /// Those who are told of now and are not in the list of members.
    strangers: BTreeSet<PublicKey>,
}

/// Another hub.
pub(crate) struct Peer {
    place: Place,
    state: State,
    /// Who is on the LAN through it, the hub itself included.
    told: HashMap<PublicKey, Presence>,
    /// Members that it was not told of since the link is up.
    pub(crate) untold: Vec<PublicKey>,
    /// Why the last attempt failed, if it did, and how many have since there was a link.
    failure: Option<(String, u32)>,
    lane: lane::Lane,
}

/// How the link to a hub stands.
#[derive(Clone, Copy, Debug)]
enum State {
    /// It is to be reached then.
    Down { dial_at: Instant },
    /// It is being reached, since then.
    Dialling(Instant),
    /// It is connected, since then, and the handshake goes on.
    Greeting(SessionId, Instant),
    /// Packets may flow, since then.
    Up(SessionId, Instant),
}

/// What to do with another hub's wish for a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    /// It is no hub of this LAN.
    Unknown,
    /// This hub's own attempt goes first.
    Later,
    /// Take it, and end the other link or attempt, if there is one.
    Take(Option<SessionId>),
}

impl Peer {
    fn session(&self) -> Option<SessionId> {
        match self.state {
            State::Greeting(session, _) | State::Up(session, _) => Some(session),
            State::Down { .. } | State::Dialling(_) => None,
        }
    }

    /// Its link, if packets may flow, and since when.
    pub(crate) fn link(&self) -> Option<(SessionId, Instant)> {
        match self.state {
            State::Up(session, since) => Some((session, since)),
            State::Down { .. } | State::Dialling(_) | State::Greeting(..) => None,
        }
    }

    /// How many members are with it.
    pub(crate) fn members(&self) -> usize {
        // It tells of itself, too.
        self.told.len().saturating_sub(1)
    }

    /// Why the last attempt failed, if there is no link.
    pub(crate) fn failure(&self) -> Option<&str> {
        self.failure.as_ref().filter(|_| self.link().is_none()).map(|(why, _)| why.as_str())
    }

    fn fail(&mut self, began: Instant, now: Instant) {
        self.state = State::Down { dial_at: (began + RETRY_EVERY).max(now + RETRY_PAUSE) };
    }
}

impl Peers {
    // ---- which hubs there are

    /// The links and attempts of hubs that are none of these any more.
    pub(crate) fn sessions_besides(&self, hubs: &[HubInfo]) -> Vec<SessionId> {
        let is_gone = |key: &PublicKey| hubs.iter().all(|hub| hub.key != *key || hub.place.is_none());
        let gone = self.by_key.iter().filter(|(key, _)| is_gone(key));
        gone.filter_map(|(_, peer)| peer.session()).collect()
    }

    /// Sets the other hubs. The sessions of those that are none any more have ended.
    pub(crate) fn set(&mut self, hubs: &[HubInfo], now: Instant) {
        let place =
            |key: &PublicKey| hubs.iter().find(|hub| hub.key == *key).and_then(|hub| hub.place.clone());
        self.by_key.retain(|key, peer| match place(key) {
            Some(place) => {
                peer.place = place;
                true
            }
            None => false,
        });
        for hub in hubs {
            if let Some(place) = hub.place.clone() {
                self.by_key.entry(hub.key).or_insert_with(|| Peer {
                    place,
                    state: State::Down { dial_at: now },
                    told: HashMap::new(),
                    untold: Vec::new(),
                    failure: None,
                    lane: lane::Lane::default(),
                });
            }
        }
    }

    /// Forgets that a hub told of a member, after it was taken out of what that hub has told.
    fn untell(&mut self, key: &PublicKey) {
        if self.strangers.contains(key) && !self.is_told_by_any(key) {
            self.strangers.remove(key);
        }
        if let Entry::Occupied(mut tellers) = self.tellers.entry(first_bytes(key)) {
            *tellers.get_mut() -= 1;
            if *tellers.get() == 0 {
                tellers.remove();
            }
        }
    }

    /// The hub of this key.
    pub(crate) fn get(&self, hub: &PublicKey) -> Option<&Peer> {
        self.by_key.get(hub)
    }

    /// The hub of this key.
    pub(crate) fn get_mut(&mut self, hub: &PublicKey) -> Option<&mut Peer> {
        self.by_key.get_mut(hub)
    }

    /// The hub to which a session leads.
    pub(crate) fn of(&self, session: SessionId) -> Option<PublicKey> {
        self.by_session.get(&session).copied()
    }

    /// The links that are up, and whose they are.
    pub(crate) fn links(&self) -> impl Iterator<Item = (SessionId, PublicKey)> {
        self.by_key.iter().filter_map(|(&key, peer)| Some((peer.link()?.0, key)))
    }

    /// Those of them whose hub was not told of everybody.
    pub(crate) fn untold_links(&self) -> Vec<(SessionId, PublicKey)> {
        let is_untold = |hub: &PublicKey| self.by_key.get(hub).is_some_and(|peer| !peer.untold.is_empty());
        self.links().filter(|(_, hub)| is_untold(hub)).collect()
    }

    // ---- links

    /// When the next hub is to be reached.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let due = |peer: &Peer| match peer.state {
            State::Down { dial_at } => Some(dial_at),
            State::Dialling(_) | State::Greeting(..) | State::Up(..) => None,
        };
        self.by_key.values().filter_map(due).min()
    }

    /// A hub that is to be reached now; to be followed by `dialled` or `failed`.
    pub(crate) fn poll_due(&mut self, now: Instant) -> Option<(PublicKey, Place)> {
        let is_due = |peer: &Peer| matches!(peer.state, State::Down { dial_at } if dial_at <= now);
        let (&key, peer) = self.by_key.iter_mut().find(|(_, peer)| is_due(peer))?;
        peer.state = State::Dialling(now);
        Some((key, peer.place.clone()))
    }

    /// Whether a connection to this hub is wanted: an attempt goes on.
    pub(crate) fn is_dialling(&self, hub: &PublicKey) -> bool {
        self.by_key.get(hub).is_some_and(|peer| matches!(peer.state, State::Dialling(_)))
    }

    /// Notes that a hub is connected.
    pub(crate) fn dialled(&mut self, hub: PublicKey, session: SessionId) {
        if let Some(peer) = self.by_key.get_mut(&hub)
            && let State::Dialling(since) = peer.state
        {
            peer.state = State::Greeting(session, since);
            self.by_session.insert(session, hub);
        }
    }

    /// Notes that a hub cannot be reached, or does not give a link; whether that is news. Once is none: two that reach for
    /// each other at once end one of both attempts.
    pub(crate) fn failed(&mut self, hub: &PublicKey, why: String, now: Instant) -> bool {
        let Some(peer) = self.by_key.get_mut(hub) else { return false };
        if let State::Dialling(since) = peer.state {
            peer.fail(since, now);
        }
        let count = peer.failure.as_ref().map_or(1, |(_, before)| before.saturating_add(1));
        peer.failure = Some((why, count));
        count == 2
    }

    /// Notes that a hub gives no link until something is changed there, though it was reached by this session.
    pub(crate) fn put_off(&mut self, session: SessionId, now: Instant) {
        let hub = self.by_session.remove(&session).and_then(|hub| self.by_key.get_mut(&hub));
        if let Some(peer) = hub.filter(|peer| peer.session() == Some(session)) {
            peer.state = State::Down { dial_at: now + PUT_OFF };
        }
    }

    /// Decides about another hub's wish for a link. Where both wish for one at once, that of the lower key is taken.
    pub(crate) fn wish(&self, hub: &PublicKey, own: &PublicKey) -> Wish {
        match self.by_key.get(hub).map(|peer| peer.state) {
            None => Wish::Unknown,
            Some(State::Greeting(..)) if own < hub => Wish::Later,
            Some(State::Greeting(session, _) | State::Up(session, _)) => Wish::Take(Some(session)),
            Some(State::Down { .. } | State::Dialling(_)) => Wish::Take(None),
        }
    }

    /// Notes that packets may flow. `members`: whom the hub is to be told of.
    pub(crate) fn set_up(
        &mut self,
        hub: PublicKey,
        session: SessionId,
        members: Vec<PublicKey>,
        now: Instant,
    ) {
        if let Some(peer) = self.by_key.get_mut(&hub) {
            (peer.state, peer.failure, peer.untold) = (State::Up(session, now), None, members);
            self.by_session.insert(session, hub);
        }
    }

    /// Notes that a session has ended. If it was the one that counts, it tells the hub, whether packets had flown, and who
    /// was told by it.
    pub(crate) fn ended(
        &mut self,
        session: SessionId,
        now: Instant,
    ) -> Option<(PublicKey, bool, Vec<PublicKey>)> {
        let hub = self.by_session.remove(&session)?;
        let peer = self.by_key.get_mut(&hub).filter(|peer| peer.session() == Some(session))?;
        let was_up = match peer.state {
            State::Greeting(_, since) => {
                peer.fail(since, now);
                false
            }
            State::Down { .. } | State::Dialling(_) | State::Up(..) => {
                peer.state = State::Down { dial_at: now + RETRY_PAUSE };
                true
            }
        };
        peer.untold.clear();
        let told: Vec<PublicKey> = peer.told.drain().map(|(key, _)| key).collect();
        told.iter().for_each(|key| self.untell(key));
        Some((hub, was_up, told))
    }

    // ---- who is where

    /// Notes that a member is on the LAN through the hub at the other end of a link, which may tell of so many: of other
    /// hubs each tells itself.
    pub(crate) fn set_online(&mut self, link: SessionId, presence: Presence, most: usize) {
        let Some(hub) =
            self.of(link).filter(|hub| *hub == presence.key || !self.by_key.contains_key(&presence.key))
        else {
            return;
        };
        self.last = Some(hub);
        let key = presence.key;
        if let Some(hub) = self.by_key.get_mut(&hub)
            && (hub.told.len() < most || hub.told.contains_key(&key))
            && hub.told.insert(key, presence).is_none()
        {
            *self.tellers.entry(first_bytes(&key)).or_default() += 1;
        }
    }

    /// Notes that it is no longer, unless a later presence was told.
    pub(crate) fn set_offline(&mut self, link: SessionId, key: &PublicKey, sequence: u64) {
        if let Some(hub) = self.of(link).and_then(|hub| self.by_key.get_mut(&hub))
            && hub.told.get(key).is_some_and(|told| told.sequence <= sequence)
        {
            hub.told.remove(key);
            self.untell(key);
        }
    }

    /// Where a member is, by the newest that was told, and the hub's key.
    pub(crate) fn home(&self, key: &PublicKey) -> Option<(PublicKey, SessionId, &Presence)> {
        let tellers = *self.tellers.get(&first_bytes(key))? as usize;
        let last = self.last.and_then(|last| self.by_key.get_key_value(&last));
        let others = self.by_key.iter().filter(|(hub, _)| Some(**hub) != self.last);
        let told = last.into_iter().chain(others).filter_map(|(&hub, peer)| {
            let (session, _) = peer.link()?;
            Some((hub, session, peer.told.get(key)?))
        });
        // None tells of it by a link that is not up.
        told.take(tellers).max_by_key(|(hub, _, told)| (told.sequence, *hub))
    }

    /// Of how many members other hubs have told, and of themselves.
    pub(crate) fn count_told(&self) -> usize {
        self.tellers.len()
    }

    /// Notes that a member is not in the list, of whom a hub may have told.
    pub(crate) fn note_stranger(&mut self, key: PublicKey) {
        if self.is_told_by_any(&key) {
            self.strangers.insert(key);
        }
    }

    fn is_told_by_any(&self, key: &PublicKey) -> bool {
        self.tellers.contains_key(&first_bytes(key))
            && self.by_key.values().any(|peer| peer.told.contains_key(key))
    }

    /// Those who were not in the list of members.
    pub(crate) fn take_strangers(&mut self) -> BTreeSet<PublicKey> {
        std::mem::take(&mut self.strangers)
    }

    /// Whether the hub at the other end of a link has told that this member is with it.
    pub(crate) fn is_told(&self, link: SessionId, key: &PublicKey) -> bool {
        let hub = self.of(link).and_then(|hub| self.by_key.get(&hub));
        hub.is_some_and(|hub| hub.told.contains_key(key))
    }

    /// All keys that were told.
    #[cfg(test)]
    fn told(&self) -> Vec<PublicKey> {
        self.by_key.values().flat_map(|peer| peer.told.keys().copied()).collect()
    }
}

fn first_bytes(key: &PublicKey) -> u64 {
    key.as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "virtual time has to start somewhere")]
mod tests {
    use common::wire::key::PrivateKey;

    use super::*;

    fn key(seed: u8) -> PublicKey {
        PrivateKey::from_random([seed; 32]).public()
    }

    fn hub(seed: u8) -> HubInfo {
        HubInfo { key: key(seed), place: "192.0.2.1".parse().ok(), is_draining: false }
    }

    fn presence(seed: u8, sequence: u64) -> Presence {
        Presence { key: key(seed), sequence, since: 0, routes: vec![] }
    }

    /// Two hubs with a link each, sessions 1 and 2.
    fn linked(now: Instant) -> Peers {
        let mut peers = Peers::default();
        peers.set(&[hub(1), hub(2)], now);
        for seed in [1, 2] {
            peers.set_up(key(seed), SessionId::new(seed.into()), vec![], now);
        }
        peers
    }

    #[test]
    fn the_newest_place_counts_and_is_forgotten_with_the_link() {
        let (now, [one, two]) = (Instant::now(), [1, 2].map(SessionId::new));
        let mut peers = linked(now);
        peers.set_online(one, presence(9, 5), 3);
        peers.set_online(two, presence(9, 7), 3);
        assert_eq!(peers.home(&key(9)).map(|(_, link, _)| link), Some(two));
        peers.set_offline(two, &key(9), 6);
        assert!(peers.is_told(two, &key(9)), "it has come again since");
        assert_eq!(peers.ended(two, now), Some((key(2), true, vec![key(9)])));
        assert_eq!(peers.home(&key(9)).map(|(_, link, _)| link), Some(one));
        peers.set_offline(one, &key(9), 5);
        assert!(peers.home(&key(9)).is_none() && !peers.is_told(one, &key(9)));
        peers.set_online(two, presence(9, 8), 3);
        assert!(peers.home(&key(9)).is_none(), "that link is gone");
        peers.set_online(one, presence(2, 1), 3);
        peers.set_online(one, presence(1, 1), 3);
        assert!(
            !peers.is_told(one, &key(2)) && peers.is_told(one, &key(1)),
            "each hub tells of itself alone"
        );
        (10..20).for_each(|seed| peers.set_online(one, presence(seed, 1), 3));
        assert_eq!(peers.told().len(), 3, "and of no more than there can be");
        assert_eq!(peers.sessions_besides(&[hub(2)]), [one], "a hub that is none any more loses its link");
    }

    #[test]
    fn a_stranger_is_forgotten_once_no_hub_tells_of_it() {
        let (now, [one, two]) = (Instant::now(), [1, 2].map(SessionId::new));
        let mut peers = linked(now);
        // A key that begins as another one that is told of.
        let mut bytes = *key(9).as_bytes();
        bytes[31] ^= 1;
        let alike = PublicKey::from_bytes(bytes).unwrap();
        peers.set_online(one, presence(9, 1), 3);
        peers.note_stranger(alike);
        assert!(peers.strangers.is_empty());
        peers.set_online(one, Presence { key: alike, ..presence(9, 1) }, 3);
        peers.set_online(two, presence(8, 1), 3);
        peers.set_online(one, presence(8, 1), 3);
        [alike, key(8), key(9)].into_iter().for_each(|key| peers.note_stranger(key));
        peers.set_offline(one, &alike, 1);
        peers.set_offline(two, &key(8), 1);
        assert_eq!(peers.strangers, [key(8), key(9)].into());
        peers.ended(one, now);
        assert!(peers.strangers.is_empty());
    }

    #[test]
    fn of_two_that_wish_at_once_one_is_taken_by_both() {
        let (now, own, other) = (Instant::now(), key(1).min(key(2)), key(1).max(key(2)));
        for (here, there, wish) in
            [(own, other, Wish::Later), (other, own, Wish::Take(Some(SessionId::new(4))))]
        {
            let mut peers = Peers::default();
            let hub = HubInfo { key: there, ..hub(1) };
            assert_eq!(peers.wish(&there, &here), Wish::Unknown);
            peers.set(&[hub], now);
            assert_eq!(peers.wish(&there, &here), Wish::Take(None));
            assert_eq!(peers.poll_due(now).map(|(key, _)| key), Some(there));
            peers.dialled(there, SessionId::new(4));
            assert_eq!(peers.wish(&there, &here), wish);
            peers.set_up(there, SessionId::new(4), vec![], now);
            let again = peers.wish(&there, &here);
            assert_eq!(again, Wish::Take(Some(SessionId::new(4))), "the other end has lost it");
        }
    }

    #[test]
    fn a_hub_is_tried_each_second_and_that_it_fails_is_news_once() {
        let start = Instant::now();
        let mut peers = Peers::default();
        peers.set(&[hub(1)], start);
        let mut attempts = 0;
        for step in 0..10_000 {
            let now = start + Duration::from_millis(step);
            if peers.poll_due(now).is_some() {
                attempts += 1;
                assert_eq!(peers.failed(&key(1), "refused".to_owned(), now), attempts == 2);
            }
        }
        assert_eq!(attempts, 10);
        assert_eq!(peers.get(&key(1)).unwrap().failure(), Some("refused"));
        // One that was reached, and cannot be linked to, is left alone for longer.
        let now = start + Duration::from_secs(20);
        peers.poll_due(now);
        peers.dialled(key(1), SessionId::new(3));
        peers.put_off(SessionId::new(3), now);
        assert_eq!((peers.deadline(), peers.of(SessionId::new(3))), (Some(now + PUT_OFF), None));
        peers.set_up(key(1), SessionId::new(3), vec![], start);
        assert_eq!(peers.get(&key(1)).unwrap().failure(), None);
        assert_eq!(peers.deadline(), None);
    }
}
