//! The flows that the rules have let pass, so that their replies pass too; bounded. Pure.
//!
//! Each party may have so many flows of its own, so that one who opens many takes none away from the others. Who has
//! its share loses its oldest one for a new one.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Where a packet comes from or goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Party {
    /// The hub's own kernel.
    Hub,
    /// A member, by its number.
    Member(usize),
}

/// Most flows of one party.
pub(super) const MAX_OF_ONE: usize = 4_096;
/// Most flows of all.
pub(super) const MAX_FLOWS: usize = 262_144;
/// Parties among which the one with the most flows is looked for.
const SAMPLE: usize = 64;

/// A flow in the direction of its first packet. Without ports, and for errors, these are 0; for ICMP echoes both are
/// the identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) protocol: u8,
    pub(super) ports: (u16, u16),
}

impl Key {
    /// The key that the packets of the other direction have.
    pub(super) fn reversed(&self) -> Key {
        let Key { source, destination, protocol, ports: (from, to) } = *self;
        Key { source: destination, destination: source, protocol, ports: (to, from) }
    }
}

/// What is known of a flow that may pass.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flow {
    pub(super) from: Party,
    pub(super) to: Party,
    /// The rule that let it pass.
    pub(super) rule: usize,
    /// The rules under which that was.
    pub(super) generation: u32,
    /// When it was last seen, in either direction.
    seen_at: Instant,
}

/// The flows.
#[derive(Debug, Default)]
pub(super) struct Flows {
    table: HashMap<Key, Flow>,
    /// The flows of each party, oldest first; some may have ended.
    of: HashMap<Party, VecDeque<Key>>,
}

impl Flows {
    /// A flow that is alive, which counts as seen.
    pub(super) fn touch(&mut self, key: &Key, now: Instant) -> Option<&mut Flow> {
        let flow = self.table.get_mut(key)?;
        if now.saturating_duration_since(flow.seen_at) > lifetime(key.protocol) {
            return None;
        }
        flow.seen_at = now;
        Some(flow)
    }

    pub(super) fn remove(&mut self, key: &Key) {
        self.table.remove(key);
    }

    pub(super) fn insert(
        &mut self,
        key: Key,
        from: Party,
        to: Party,
        rule: usize,
        generation: u32,
        now: Instant,
    ) {
        let flow = Flow { from, to, rule, generation, seen_at: now };
        if let Some(known) = self.table.get_mut(&key) {
            // Its place in the line stays, if its party does.
            if known.from == from {
                *known = flow;
                return;
            }
        }
        while self.of.get(&from).is_some_and(|own| own.len() >= MAX_OF_ONE) {
            self.drop_oldest(from);
        }
        while self.table.len() >= MAX_FLOWS {
            let sample = self.of.iter().take(SAMPLE);
            let Some(largest) = sample.max_by_key(|(_, own)| own.len()).map(|(&party, _)| party) else {
                break;
            };
            self.drop_oldest(largest);
        }
        self.table.insert(key, flow);
        self.of.entry(from).or_default().push_back(key);
    }

    fn drop_oldest(&mut self, party: Party) {
        let Some(own) = self.of.get_mut(&party) else { return };
        if let Some(key) = own.pop_front()
            && self.table.get(&key).is_some_and(|flow| flow.from == party)
        {
            self.table.remove(&key);
        }
        if own.is_empty() {
            self.of.remove(&party);
        }
    }

    /// Frees what has ended.
    pub(super) fn sweep(&mut self, now: Instant) {
        let is_alive =
            |key: &Key, flow: &Flow| now.saturating_duration_since(flow.seen_at) <= lifetime(key.protocol);
        self.table.retain(|key, flow| is_alive(key, flow));
        let table = &self.table;
        self.of.retain(|party, own| {
            own.retain(|key| table.get(key).is_some_and(|flow| flow.from == *party));
            own.shrink_to(2 * own.len());
            !own.is_empty()
        });
        if self.table.capacity() > 4 * self.table.len() + 64 {
            self.table.shrink_to(2 * self.table.len());
        }
    }

    pub(super) fn len(&self) -> usize {
        self.table.len()
    }
}

/// How long a flow may be silent: as long as its ends may be idle and still want to go on.
fn lifetime(protocol: u8) -> Duration {
    Duration::from_secs(match protocol {
        // RFC 5382, section 5: at least 2 hours 4 minutes.
        6 => 8_000,
        // RFC 4787, section 4.3: at least 2 minutes.
        17 => 180,
        1 | 58 => 60,
        _ => 600,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u32) -> Key {
        let [source, destination] = [n, 0x0a00_0001].map(|bits| IpAddr::V4(bits.into()));
        Key { source, destination, protocol: 17, ports: (1, 53) }
    }

    #[test]
    fn one_party_takes_nothing_from_another_and_has_a_bound() {
        let (mut flows, now) = (Flows::default(), Instant::now());
        flows.insert(key(0), Party::Hub, Party::Hub, 0, 0, now);
        let loud = Party::Member(7);
        for n in 1..=3 * MAX_OF_ONE as u32 {
            flows.insert(key(n), loud, Party::Hub, 0, 0, now);
        }
        assert_eq!(flows.len(), MAX_OF_ONE + 1);
        assert!(flows.touch(&key(0), now).is_some() && flows.touch(&key(1), now).is_none());
        assert!(flows.touch(&key(3 * MAX_OF_ONE as u32), now).is_some());
    }

    #[test]
    fn all_together_have_a_bound() {
        let (mut flows, now) = (Flows::default(), Instant::now());
        for n in 0..MAX_FLOWS as u32 + 10_000 {
            flows.insert(key(n), Party::Member(n as usize % 500), Party::Hub, 0, 0, now);
        }
        assert_eq!(flows.len(), MAX_FLOWS);
    }

    #[test]
    fn a_silent_flow_ends_and_is_freed() {
        let (mut flows, start) = (Flows::default(), Instant::now());
        flows.insert(key(1), Party::Hub, Party::Hub, 0, 0, start);
        flows.insert(key(2), Party::Hub, Party::Hub, 0, 0, start);
        let later = start + Duration::from_secs(100);
        assert!(flows.touch(&key(1), later).is_some());
        let end = later + Duration::from_secs(100);
        assert!(flows.touch(&key(2), end).is_none());
        flows.sweep(end);
        assert_eq!((flows.len(), flows.of[&Party::Hub].len()), (1, 1));
        assert!(flows.touch(&key(1), end).is_some());
    }
}
