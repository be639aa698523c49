//! What was decided about the first fragments of packets, for the fragments that follow; bounded. Pure.
//!
//! Each sender has places of its own, so that one who sends many first fragments takes none away from the others.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::flows::Party;

/// Most packets of one sender whose fragments are remembered.
const MAX_OF_ONE: usize = 1_024;
/// Most packets of all.
const MAX_ALL: usize = 65_536;
/// Senders among which the one with the most packets is looked for.
const SAMPLE: usize = 64;
/// How long fragments of a packet may be under way (RFC 791: 15 s; Linux: 30 s).
const LIFE: Duration = Duration::from_secs(30);

/// A packet that goes in fragments to one party.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct FragmentKey {
    pub(super) from: Party,
    pub(super) to: Party,
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) protocol: u8,
    pub(super) id: u32,
}

/// What was decided, and until when it holds.
#[derive(Clone, Copy, Debug)]
struct Decided {
    is_allowed: bool,
    until: Instant,
}

/// The decisions.
#[derive(Debug, Default)]
pub(super) struct Fragments {
    decided: HashMap<FragmentKey, Decided>,
    /// The packets of each sender, oldest first.
    of: HashMap<Party, VecDeque<FragmentKey>>,
}

impl Fragments {
    /// Whether the fragments behind the first one may pass. One that comes before the first may not: its packet is sent
    /// again with all fragments.
    pub(super) fn may_pass(&self, key: &FragmentKey, now: Instant) -> bool {
        self.decided.get(key).is_some_and(|decided| decided.is_allowed && now <= decided.until)
    }

    /// Notes the decision about a first fragment.
    pub(super) fn note(&mut self, key: FragmentKey, is_allowed: bool, now: Instant) {
        if self.decided.insert(key, Decided { is_allowed, until: now + LIFE }).is_some() {
            return;
        }
        let own = self.of.entry(key.from).or_default();
        own.push_back(key);
        if own.len() > MAX_OF_ONE {
            self.drop_oldest(key.from);
        }
        if self.decided.len() > MAX_ALL {
            let largest = self.of.iter().take(SAMPLE).max_by_key(|(_, own)| own.len());
            if let Some(largest) = largest.map(|(&sender, _)| sender) {
                self.drop_oldest(largest);
            }
        }
    }

    fn drop_oldest(&mut self, sender: Party) {
        let Some(own) = self.of.get_mut(&sender) else { return };
        if let Some(oldest) = own.pop_front() {
            self.decided.remove(&oldest);
        }
        if own.is_empty() {
            self.of.remove(&sender);
        }
    }

    /// Frees what has ended.
    pub(super) fn sweep(&mut self, now: Instant) {
        self.decided.retain(|_, decided| now <= decided.until);
        let decided = &self.decided;
        self.of.retain(|_, own| {
            own.retain(|key| decided.contains_key(key));
            own.shrink_to(2 * own.len());
            !own.is_empty()
        });
        if self.decided.capacity() > 4 * self.decided.len() + 64 {
            self.decided.shrink_to(2 * self.decided.len());
        }
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        *self = Fragments::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(from: usize, id: u32) -> FragmentKey {
        let address: IpAddr = [10, 0, 0, 2].into();
        let (from, to) = (Party::Member(from), Party::Hub);
        FragmentKey { from, to, source: address, destination: address, protocol: 17, id }
    }

    #[test]
    fn one_sender_takes_nothing_from_another_and_has_a_bound() {
        let (mut fragments, now) = (Fragments::default(), Instant::now());
        fragments.note(key(1, 0), true, now);
        for id in 0..3 * MAX_OF_ONE as u32 {
            fragments.note(key(2, id), true, now);
        }
        assert!(fragments.may_pass(&key(1, 0), now) && !fragments.may_pass(&key(2, 0), now));
        assert_eq!(fragments.decided.len(), MAX_OF_ONE + 1);
    }

    #[test]
    fn all_together_have_a_bound_and_end() {
        let (mut fragments, now) = (Fragments::default(), Instant::now());
        for id in 0..MAX_ALL as u32 + 10_000 {
            fragments.note(key(id as usize % 500, id), true, now);
        }
        assert_eq!(fragments.decided.len(), MAX_ALL);
        fragments.sweep(now + LIFE + Duration::from_millis(1));
        assert!(fragments.decided.is_empty() && fragments.of.is_empty());
    }
}
