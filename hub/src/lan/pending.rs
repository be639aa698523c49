//! Machines that wait at a locked hub until a person lets them in; bounded. Pure.
//!
//! A machine proves its key before it waits, but keys cost nothing: one source has a share of places, and where all
//! places are taken, the source that has most of them gives up its oldest one. A source is an IPv4 address, or an IPv6 /64.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use common::packet::prefix::source_network;
use common::wire::frame::Join;
use common::wire::key::PublicKey;
use common::wire::name::Name;

use crate::ids::SessionId;

/// Most machines that wait.
pub const MAX_PENDING: usize = 256;
/// Most of them from one source.
pub const MAX_PER_SOURCE: usize = 16;

/// A machine that waits.
#[derive(Clone, Debug)]
pub struct Waiting {
    /// The key that it proved.
    pub key: PublicKey,
    /// What it asks for.
    pub join: Join,
    /// Where it comes from.
    pub source: SocketAddr,
    /// Since when it waits.
    pub since: Instant,
}

/// The machines that wait, by their session.
#[derive(Debug, Default)]
pub struct Pending {
    waiting: BTreeMap<SessionId, Waiting>,
}

impl Pending {
    /// Gives a place to a machine. Returns the session that loses its place: an older one of the same key, or one of
    /// the source that has most.
    pub(crate) fn insert(&mut self, session: SessionId, machine: Waiting) -> Option<SessionId> {
        let same_key = self.find(|other| other.key == machine.key);
        let loser = same_key.or_else(|| self.loser(machine.source.ip()));
        if let Some(loser) = loser {
            self.waiting.remove(&loser);
        }
        self.waiting.insert(session, machine);
        loser
    }

    /// Takes out a session that has ended or is let in.
    pub(crate) fn remove(&mut self, session: SessionId) -> Option<Waiting> {
        self.waiting.remove(&session)
    }

    /// Takes out all machines of which `is_decided` holds.
    pub(crate) fn take(&mut self, is_decided: impl Fn(&Waiting) -> bool) -> Vec<(SessionId, Waiting)> {
        self.waiting.extract_if(.., |_, machine| is_decided(machine)).collect()
    }

    /// All, in no special order.
    pub fn iter(&self) -> impl Iterator<Item = &Waiting> {
        self.waiting.values()
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The machine with this key.
    pub fn by_key(&self, key: &PublicKey) -> Option<&Waiting> {
        self.iter().find(|machine| machine.key == *key)
    }

    /// The machines that would be called so.
    pub fn by_name(&self, name: &Name) -> Vec<&Waiting> {
        self.iter().filter(|machine| machine.join.name == *name).collect()
    }

    fn find(&self, matches: impl Fn(&Waiting) -> bool) -> Option<SessionId> {
        self.waiting.iter().find(|(_, machine)| matches(machine)).map(|(&session, _)| session)
    }

    /// Who gives up its place for one more from this address.
    fn loser(&self, address: IpAddr) -> Option<SessionId> {
        let mut counts: BTreeMap<IpAddr, usize> = BTreeMap::new();
        for machine in self.waiting.values() {
            *counts.entry(source_network(machine.source.ip())).or_default() += 1;
        }
        let own = source_network(address);
        let loser = if counts.get(&own).is_some_and(|&count| count >= MAX_PER_SOURCE) {
            own
        } else if self.waiting.len() >= MAX_PENDING {
            counts.into_iter().max_by_key(|&(_, count)| count)?.0
        } else {
            return None;
        };
        let of_loser =
            self.waiting.iter().filter(|(_, machine)| source_network(machine.source.ip()) == loser);
        of_loser.min_by_key(|(_, machine)| machine.since).map(|(&session, _)| session)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use common::wire::key::PrivateKey;

    use super::*;

    fn machine(number: u32, source: &str, since: Instant) -> Waiting {
        let mut seed = [7; 32];
        seed[1..5].copy_from_slice(&number.to_le_bytes());
        let name = "laptop".parse().unwrap();
        Waiting {
            key: PrivateKey::from_random(seed).public(),
            join: Join::new(name),
            source: SocketAddr::new(source.parse().unwrap(), 4_000),
            since,
        }
    }

    #[test]
    fn one_source_has_a_share_and_loses_its_oldest() {
        let (mut pending, now) = (Pending::default(), Instant::now());
        assert_eq!(pending.insert(SessionId::new(1_000), machine(9_999, "192.0.2.1", now)), None);
        let mut losers = Vec::new();
        for number in 0..100 {
            let since = now + Duration::from_secs(u64::from(number));
            // All of one /64.
            let source = format!("2001:db8::{number:x}");
            losers.extend(pending.insert(SessionId::new(number as usize), machine(number, &source, since)));
        }
        assert_eq!(pending.len(), 1 + MAX_PER_SOURCE);
        assert_eq!(losers, (0..100 - MAX_PER_SOURCE).map(SessionId::new).collect::<Vec<_>>());
        assert!(pending.remove(SessionId::new(1_000)).is_some());
    }

    #[test]
    fn all_together_have_a_bound_and_who_has_most_pays() {
        let (mut pending, now) = (Pending::default(), Instant::now());
        for number in 0..2_000_u32 {
            let source =
                if number % 2 == 0 { [198, 51, 100, 1] } else { (0x0a00_0000 + number).to_be_bytes() };
            pending.insert(
                SessionId::new(number as usize),
                machine(number, &IpAddr::from(source).to_string(), now),
            );
            assert!(pending.len() <= MAX_PENDING);
        }
        assert_eq!(pending.len(), MAX_PENDING);
    }

    #[test]
    fn a_key_waits_once() {
        let (mut pending, now) = (Pending::default(), Instant::now());
        pending.insert(SessionId::new(1), machine(1, "192.0.2.1", now));
        assert_eq!(pending.insert(SessionId::new(2), machine(1, "192.0.2.2", now)), Some(SessionId::new(1)));
        assert_eq!(pending.len(), 1);
    }
}
