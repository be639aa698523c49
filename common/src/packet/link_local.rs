//! Link-local IPv6 addresses on the LAN. Pure.
//!
//! A TUN device has no hardware address and no neighbour discovery, so whoever is to carry a packet to
//! `fe80::2` must know who that is. On the LAN it is whoever has the host part `2` in the IPv6 subnet: each
//! device gets the link-local address that goes with its address, in place of the random one that the kernel
//! would make up.

use std::net::Ipv6Addr;

use ipnetwork::Ipv6Network;

/// Length of the prefix that link-local addresses are in (RFC 4291, section 2.5.6).
const PREFIX: u8 = 64;
const NETWORK: u128 = 0xfe80 << 112;

/// The link-local address of the device with this address, whose prefix is the LAN's; `None` where its host
/// part is longer than 64 bits.
pub fn of(address: Ipv6Network) -> Option<Ipv6Network> {
    let host = address.ip().to_bits() & !address.mask().to_bits();
    let fits = host >> (128 - PREFIX) == 0;
    fits.then(|| Ipv6Network::new(Ipv6Addr::from_bits(NETWORK | host), PREFIX).ok()).flatten()
}

/// The address in `subnet` of whoever has this link-local address; `None` if it is not one of [`of()`]'s.
#[inline]
pub fn holder(link_local: Ipv6Addr, subnet: Ipv6Network) -> Option<Ipv6Addr> {
    let host = link_local.to_bits() ^ NETWORK;
    let is_ours = host >> (128 - PREFIX) == 0 && host & subnet.mask().to_bits() == 0;
    is_ours.then(|| Ipv6Addr::from_bits(subnet.network().to_bits() | host))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goes_with_the_host_part() {
        for (address, link_local) in [
            ("fd00::2/64", Some("fe80::2/64")),
            ("fd00::1:2:3:4/64", Some("fe80::1:2:3:4/64")),
            ("fd00:0:0:1:aa::2/80", Some("fe80::2/64")),
            ("fd00::ab/120", Some("fe80::ab/64")),
            ("fd00::2/48", Some("fe80::2/64")),
            ("fd00:0:0:1::2/48", None),
        ] {
            let address: Ipv6Network = address.parse().unwrap();
            let derived = of(address);
            assert_eq!(derived, link_local.map(|text| text.parse().unwrap()), "{address}");
            let back = derived.map(|derived| holder(derived.ip(), address));
            assert!(back.is_none_or(|back| back == Some(address.ip())), "{address}: {back:?}");
        }
    }

    #[test]
    fn nobody_has_any_other() {
        let subnet = "fd00::/112".parse().unwrap();
        for other in ["fe80::1:2", "fe80:0:0:1::2", "fe90::2", "fd00::2", "::2", "ff02::2"] {
            assert_eq!(holder(other.parse().unwrap(), subnet), None, "{other}");
        }
    }
}
