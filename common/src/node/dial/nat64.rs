//! The IPv6 address by which an IPv4 address is reached from a network that has no IPv4 (RFC 8305, section 7). Pure.
//!
//! The network's translator has a prefix, in which RFC 6052 says where the IPv4 address stands; RFC 7050 finds that
//! prefix, by the addresses that a name has there which has none but well-known IPv4 addresses.

#![warn(clippy::disallowed_methods, reason = "pure, though the module above it is not")]

use std::net::{Ipv4Addr, Ipv6Addr};

/// The IPv4 addresses of ipv4only.arpa.
const WELL_KNOWN: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 0, 170), Ipv4Addr::new(192, 0, 0, 171)];
/// The prefix lengths of RFC 6052, in bytes; the usual one first.
const LENGTHS: [usize; 6] = [12, 8, 7, 6, 5, 4];
/// Bits 64 to 71 of an address hold nothing of the IPv4 address.
const LEFT_OUT: usize = 8;

/// The prefix of a translator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Prefix {
    /// Zero behind the prefix.
    bytes: [u8; 16],
    len: usize,
}

impl Prefix {
    fn of(address: Ipv6Addr, len: usize) -> Prefix {
        let mut bytes = address.octets();
        bytes[len..].fill(0);
        Prefix { bytes, len }
    }

    /// The IPv6 address that stands for this IPv4 address.
    pub(super) fn embed(&self, address: Ipv4Addr) -> Ipv6Addr {
        let mut bytes = self.bytes;
        for (place, byte) in places(self.len).zip(address.octets()) {
            bytes[place] = byte;
        }
        bytes.into()
    }
}

/// Where the bytes of the IPv4 address are, behind a prefix of `len` bytes.
fn places(len: usize) -> impl Iterator<Item = usize> {
    (len..16).filter(|&place| place != LEFT_OUT).take(4)
}

fn embedded(address: Ipv6Addr, len: usize) -> Ipv4Addr {
    let (bytes, mut found) = (address.octets(), [0; 4]);
    for (place, byte) in places(len).zip(&mut found) {
        *byte = bytes[place];
    }
    found.into()
}

/// The prefixes of the translators of a network in which ipv4only.arpa has these addresses. Where a prefix is of the
/// kind that well-known addresses seem to be in it, only what is found for both of them counts.
pub(super) fn prefixes(answers: &[Ipv6Addr]) -> Vec<Prefix> {
    let mut found: Vec<(Prefix, Ipv4Addr)> = Vec::new();
    for &answer in answers {
        let fitting = LENGTHS.into_iter().map(|len| (Prefix::of(answer, len), embedded(answer, len)));
        found.extend(fitting.filter(|(_, address)| WELL_KNOWN.contains(address)));
    }
    let has_both = |prefix: Prefix| WELL_KNOWN.iter().all(|&address| found.contains(&(prefix, address)));
    let is_any_sure = found.iter().any(|&(prefix, _)| has_both(prefix));
    let mut prefixes = Vec::new();
    for &(prefix, _) in &found {
        if !prefixes.contains(&prefix) && (!is_any_sure || has_both(prefix)) {
            prefixes.push(prefix);
        }
    }
    prefixes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v6(text: &str) -> Ipv6Addr {
        text.parse().unwrap()
    }

    /// RFC 6052, section 2.4: prefix, length in bits, and 192.0.2.33 in it.
    const VECTORS: [(&str, usize, &str); 7] = [
        ("2001:db8::", 32, "2001:db8:c000:221::"),
        ("2001:db8:100::", 40, "2001:db8:1c0:2:21::"),
        ("2001:db8:122::", 48, "2001:db8:122:c000:2:2100::"),
        ("2001:db8:122:300::", 56, "2001:db8:122:3c0:0:221::"),
        ("2001:db8:122:344::", 64, "2001:db8:122:344:c0:2:2100::"),
        ("2001:db8:122:344::", 96, "2001:db8:122:344::192.0.2.33"),
        ("64:ff9b::", 96, "64:ff9b::192.0.2.33"),
    ];

    #[test]
    fn embeds_as_rfc_6052_does() {
        let address = Ipv4Addr::new(192, 0, 2, 33);
        for (prefix, bits, expected) in VECTORS {
            assert_eq!(Prefix::of(v6(prefix), bits / 8).embed(address), v6(expected), "{prefix}/{bits}");
            assert_eq!(embedded(v6(expected), bits / 8), address, "{prefix}/{bits}");
        }
    }

    #[test]
    fn finds_each_prefix_by_the_well_known_name() {
        for (prefix, bits, _) in VECTORS {
            let prefix = Prefix::of(v6(prefix), bits / 8);
            let answers = WELL_KNOWN.map(|address| prefix.embed(address));
            assert_eq!(prefixes(&answers), [prefix]);
            assert_eq!(prefixes(&answers[..1]), [prefix], "one of them is enough");
        }
        assert_eq!(prefixes(&[]), []);
        assert_eq!(prefixes(&[v6("2001:db8::1")]), [], "no translator made this");
    }

    #[test]
    fn both_well_known_addresses_settle_what_one_leaves_open() {
        // The prefix itself looks like an address in a shorter one.
        let prefix = Prefix::of(v6("2001:db8:c000:aa::"), 12);
        let answers = WELL_KNOWN.map(|address| prefix.embed(address));
        assert_eq!(prefixes(&answers[..1]).len(), 2);
        assert_eq!(prefixes(&answers), [prefix]);
    }

    #[test]
    fn two_translators_are_both_found() {
        let [one, two] = ["2001:db8:1::", "2001:db8:2::"].map(|text| Prefix::of(v6(text), 12));
        let answers: Vec<_> =
            [one, two].iter().flat_map(|prefix| WELL_KNOWN.map(|address| prefix.embed(address))).collect();
        assert_eq!(prefixes(&answers), [one, two]);
    }
}
