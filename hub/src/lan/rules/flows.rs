//! The flows that the rules have let pass, so that their replies pass too; bounded. Pure.
//!
//! Each party may have so many flows of its own, so that one who opens many takes none away from the others. Who has
//! its share loses its oldest one for a new one.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use common::packet::fold;
use common::packet::prefix::bits;

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

/// The packets of a flow in both directions. Without ports, and for errors, these are 0; for ICMP echoes both are
/// the identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    /// Its ends, the lower address first: words are hashed and compared at once.
    addresses: [u128; 2],
    /// From the top: whether they are of IPv6, the protocol, and the port of each.
    rest: u64,
}

/// In which direction of a flow a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// From the key's first end.
    Forward,
    /// To it.
    Backward,
}

impl Direction {
    pub(super) fn reversed(self) -> Direction {
        match self {
            Direction::Forward => Direction::Backward,
            Direction::Backward => Direction::Forward,
        }
    }
}

impl Key {
    /// The flow of a packet with these addresses, from and to, and its direction in it.
    #[inline]
    pub(super) fn of(addresses: [IpAddr; 2], protocol: u8, ports: (u16, u16)) -> (Key, Direction) {
        let is_v6 = u64::from(addresses[0].is_ipv6());
        let [from, to] = addresses.map(bits);
        let key = |addresses, low: u16, high: u16| {
            let rest = is_v6 << 40 | u64::from(protocol) << 32 | u64::from(low) << 16 | u64::from(high);
            Key { addresses, rest }
        };
        if (from, ports.0) <= (to, ports.1) {
            (key([from, to], ports.0, ports.1), Direction::Forward)
        } else {
            (key([to, from], ports.1, ports.0), Direction::Backward)
        }
    }

    /// Source and destination of its packets in this direction.
    pub(super) fn addresses(&self, direction: Direction) -> [IpAddr; 2] {
        let is_v6 = self.rest >> 40 != 0;
        let [from, to] = self
            .addresses
            .map(|bits| if is_v6 { IpAddr::V6(bits.into()) } else { IpAddr::V4((bits as u32).into()) });
        if direction == Direction::Forward { [from, to] } else { [to, from] }
    }

    pub(super) fn protocol(&self) -> u8 {
        (self.rest >> 32) as u8
    }

    /// The port that its packets in this direction go to.
    pub(super) fn port(&self, direction: Direction) -> u16 {
        if direction == Direction::Forward { self.rest as u16 } else { (self.rest >> 16) as u16 }
    }
}

impl Hash for Key {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        for words in self.addresses {
            state.write_u128(words);
        }
        state.write_u64(self.rest);
    }
}

/// Hashes the words of a key, which members choose, with a secret one.
#[derive(Clone, Copy, Debug)]
struct KeyHasher(u64);

impl Hasher for KeyHasher {
    #[inline]
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(byte.into());
        }
    }

    #[inline]
    fn write_u64(&mut self, word: u64) {
        self.write_u128(word.into());
    }

    #[inline]
    fn write_u128(&mut self, words: u128) {
        self.0 = fold(self.0 ^ words as u64, self.0.rotate_left(32) ^ (words >> 64) as u64 ^ ODD);
    }
}

/// An arbitrary word with well spread bits (a fraction of the golden ratio).
const ODD: u64 = 0x9e37_79b9_7f4a_7c15;

/// Makes them, all with one secret.
#[derive(Debug)]
struct Secret(u64);

impl Default for Secret {
    fn default() -> Secret {
        Secret(RandomState::new().hash_one(ODD))
    }
}

impl BuildHasher for Secret {
    type Hasher = KeyHasher;

    #[inline]
    fn build_hasher(&self) -> KeyHasher {
        KeyHasher(self.0)
    }
}

/// What is known of a flow that may pass.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flow {
    pub(super) from: Party,
    pub(super) to: Party,
    /// Where its first packet went.
    pub(super) direction: Direction,
    /// The rule that let it pass.
    pub(super) rule: usize,
    /// The rules under which that was.
    pub(super) generation: u32,
    /// When it was last seen, in either direction.
    pub(super) seen_at: Instant,
}

/// The flows.
#[derive(Debug, Default)]
pub(super) struct Flows {
    table: HashMap<Key, Flow, Secret>,
    /// The flows of each party, oldest first; some may have ended.
    of: HashMap<Party, VecDeque<Key>>,
}

impl Flows {
    /// A flow that is alive, which counts as seen.
    pub(super) fn touch(&mut self, key: &Key, now: Instant) -> Option<&mut Flow> {
        let flow = self.table.get_mut(key)?;
        if now.saturating_duration_since(flow.seen_at) > lifetime(key.protocol()) {
            return None;
        }
        flow.seen_at = now;
        Some(flow)
    }

    pub(super) fn remove(&mut self, key: &Key) {
        self.table.remove(key);
    }

    /// Lets a flow pass.
    pub(super) fn insert(&mut self, key: Key, flow: Flow) {
        let from = flow.from;
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
            |key: &Key, flow: &Flow| now.saturating_duration_since(flow.seen_at) <= lifetime(key.protocol());
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
        Key::of([n, 0x0a00_0001].map(|bits| IpAddr::V4(bits.into())), 17, (1, 53)).0
    }

    fn put(flows: &mut Flows, key: Key, from: Party, now: Instant) {
        let (to, direction) = (Party::Hub, Direction::Forward);
        flows.insert(key, Flow { from, to, direction, rule: 0, generation: 0, seen_at: now });
    }

    #[test]
    fn both_directions_have_one_key() {
        for [a, b] in [["10.0.0.2", "10.0.0.3"], ["fd00::3", "fd00::2"], ["10.0.0.2", "10.0.0.2"]] {
            let [a, b]: [IpAddr; 2] = [a, b].map(|text| text.parse().unwrap());
            let (key, there) = Key::of([a, b], 6, (40_000, 22));
            let (same, back) = Key::of([b, a], 6, (22, 40_000));
            assert_eq!(key, same);
            assert_ne!(there, back);
            assert_eq!((key.addresses(there), key.port(there), key.protocol()), ([a, b], 22, 6));
            assert_eq!((key.addresses(back), key.port(back)), ([b, a], 40_000));
            for other in [
                Key::of([a, b], 17, (40_000, 22)),
                Key::of([a, b], 6, (40_000, 23)),
                Key::of([a, b], 6, (22, 40_000)),
            ] {
                assert!(other.0 != key || other.1 != there);
            }
        }
        let v4 = Key::of(["0.0.0.1", "0.0.0.2"].map(|text| text.parse().unwrap()), 6, (1, 2));
        assert_ne!(v4.0, Key::of(["::1", "::2"].map(|text| text.parse().unwrap()), 6, (1, 2)).0);
    }

    #[test]
    fn hashes_spread_over_the_low_bits_and_hang_on_the_secret() {
        let secrets = [Secret(0), Secret(1), Secret(u64::MAX)];
        for secret in &secrets {
            let mut buckets = [0_u32; 1_024];
            for port in 0..64_u16 {
                for host in 0..1_024_u32 {
                    let addresses = [0x0a00_0000 + host, 0x0a00_0001].map(|bits| IpAddr::V4(bits.into()));
                    let key = Key::of(addresses, 17, (port << 8, 443)).0;
                    buckets[secret.hash_one(key) as usize % 1_024] += 1;
                }
            }
            let fullest = buckets.iter().max().copied().unwrap();
            assert!(fullest < 160, "{fullest} of 65,536 keys in one of 1,024 buckets");
        }
        let [a, b, c] = secrets.map(|secret| secret.hash_one(key(7)));
        assert!(a != b && b != c && a != c);
    }

    #[test]
    fn one_party_takes_nothing_from_another_and_has_a_bound() {
        let (mut flows, now) = (Flows::default(), Instant::now());
        put(&mut flows, key(0), Party::Hub, now);
        let loud = Party::Member(7);
        for n in 1..=3 * MAX_OF_ONE as u32 {
            put(&mut flows, key(n), loud, now);
        }
        assert_eq!(flows.len(), MAX_OF_ONE + 1);
        assert!(flows.touch(&key(0), now).is_some() && flows.touch(&key(1), now).is_none());
        assert!(flows.touch(&key(3 * MAX_OF_ONE as u32), now).is_some());
    }

    #[test]
    fn all_together_have_a_bound() {
        let (mut flows, now) = (Flows::default(), Instant::now());
        for n in 0..MAX_FLOWS as u32 + 10_000 {
            put(&mut flows, key(n), Party::Member(n as usize % 500), now);
        }
        assert_eq!(flows.len(), MAX_FLOWS);
    }

    #[test]
    fn a_silent_flow_ends_and_is_freed() {
        let (mut flows, start) = (Flows::default(), Instant::now());
        put(&mut flows, key(1), Party::Hub, start);
        put(&mut flows, key(2), Party::Hub, start);
        let later = start + Duration::from_secs(100);
        assert!(flows.touch(&key(1), later).is_some());
        let end = later + Duration::from_secs(100);
        assert!(flows.touch(&key(2), end).is_none());
        flows.sweep(end);
        assert_eq!((flows.len(), flows.of[&Party::Hub].len()), (1, 1));
        assert!(flows.touch(&key(1), end).is_some());
    }
}
