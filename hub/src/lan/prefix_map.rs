//! A map from prefixes to values, which finds overlapping prefixes without a full scan. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

/// Lengths that a prefix can have, of both families.
const LENGTHS: usize = 33 + 129;

/// A map from prefixes without host bits to values, in the order of their addresses.
#[derive(Clone, Debug)]
pub struct PrefixMap<V> {
    entries: BTreeMap<IpNetwork, V>,
    /// How many prefixes there are of each length: only those lengths have to be looked up.
    lengths: [u32; LENGTHS],
}

impl<V> Default for PrefixMap<V> {
    fn default() -> PrefixMap<V> {
        PrefixMap { entries: BTreeMap::new(), lengths: [0; LENGTHS] }
    }
}

impl<V> PrefixMap<V> {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// All of them, in the order of their addresses.
    pub fn iter(&self) -> impl Iterator<Item = (IpNetwork, &V)> {
        self.entries.iter().map(|(&prefix, value)| (prefix, value))
    }

    /// The value of just this prefix.
    pub fn get(&self, prefix: IpNetwork) -> Option<&V> {
        self.entries.get(&prefix)
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self, prefix: IpNetwork) -> Option<&mut V> {
        self.entries.get_mut(&prefix)
    }

    /// Sets the value of a prefix; the one that it had.
    pub fn insert(&mut self, prefix: IpNetwork, value: V) -> Option<V> {
        let before = self.entries.insert(prefix, value);
        if before.is_none() {
            self.lengths[length(prefix)] += 1;
        }
        before
    }

    /// Takes a prefix out.
    pub fn remove(&mut self, prefix: IpNetwork) -> Option<V> {
        let value = self.entries.remove(&prefix)?;
        self.lengths[length(prefix)] -= 1;
        Some(value)
    }

    /// The prefixes that hold all of this one and more, the shortest first.
    pub fn around(&self, prefix: IpNetwork) -> impl Iterator<Item = (IpNetwork, &V)> {
        let shorter =
            (0..prefix.prefix()).filter(move |&bits| self.lengths[length_of(prefix.is_ipv4(), bits)] > 0);
        shorter.filter_map(move |bits| {
            let around = truncated(prefix.ip(), bits)?;
            Some((around, self.entries.get(&around)?))
        })
    }

    /// This prefix, if it is there, and those that lie in it.
    pub fn within(&self, prefix: IpNetwork) -> impl Iterator<Item = (IpNetwork, &V)> {
        let full = if prefix.is_ipv4() { 32 } else { 128 };
        // A prefix comes before all longer ones that begin at its address, and those before the next address.
        let last = IpNetwork::new(prefix.broadcast(), full).unwrap_or(prefix);
        self.entries.range(prefix..=last).map(|(&prefix, value)| (prefix, value))
    }

    /// The prefixes that share an address with this one.
    pub fn overlapping(&self, prefix: IpNetwork) -> impl Iterator<Item = (IpNetwork, &V)> {
        self.around(prefix).chain(self.within(prefix))
    }
}

/// The prefix of this length that holds an address.
pub fn truncated(address: IpAddr, bits: u8) -> Option<IpNetwork> {
    let network = IpNetwork::new(address, bits).ok()?.network();
    IpNetwork::new(network, bits).ok()
}

fn length(prefix: IpNetwork) -> usize {
    length_of(prefix.is_ipv4(), prefix.prefix())
}

fn length_of(is_ipv4: bool, bits: u8) -> usize {
    usize::from(bits) + if is_ipv4 { 0 } else { 33 }
}

#[cfg(test)]
mod tests {
    use common::packet::prefix::overlap;
    use proptest::prelude::*;

    use super::*;

    fn prefixes() -> impl Strategy<Value = IpNetwork> {
        // Few different bits, so that prefixes nest.
        let v4 = (any::<u32>(), 0..=32u8).prop_map(|(bits, length)| {
            truncated(std::net::Ipv4Addr::from_bits(bits & 0xc000_00c3).into(), length)
        });
        let v6 = (any::<u128>(), 0..=128u8).prop_map(|(bits, length)| {
            truncated(std::net::Ipv6Addr::from_bits(bits & (0xc3 << 120 | 3)).into(), length)
        });
        prop_oneof![v4, v6].prop_map(Option::unwrap)
    }

    proptest! {
        #[test]
        fn finds_what_overlaps_as_a_naive_search_does(
            inserted in proptest::collection::vec(prefixes(), 0..60),
            removed in proptest::collection::vec(any::<prop::sample::Index>(), 0..20),
            asked in proptest::collection::vec(prefixes(), 30),
        ) {
            let mut map = PrefixMap::default();
            for (value, &prefix) in inserted.iter().enumerate() {
                map.insert(prefix, value);
            }
            for index in removed.iter().filter(|_| !inserted.is_empty()) {
                map.remove(*index.get(&inserted));
            }
            for asked in asked {
                let mut found: Vec<IpNetwork> = map.overlapping(asked).map(|(prefix, _)| prefix).collect();
                found.sort();
                let naive: Vec<IpNetwork> =
                    map.iter().map(|(prefix, _)| prefix).filter(|&prefix| overlap(prefix, asked)).collect();
                prop_assert_eq!(found, naive, "{}", asked);
            }
        }
    }
}
