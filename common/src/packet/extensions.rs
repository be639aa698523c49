//! IPv6 extension headers: followed to the upper layer. Pure.

use crate::packet::drops::Reason;
use crate::packet::protocol;
use crate::packet::sizes::IPV6_LEN;

/// Whether an IP packet is a piece of a larger one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragment {
    /// A whole packet.
    No,
    /// The piece at offset 0, which holds the L4 header. An IPv6 packet whose fragment header says
    /// "offset 0, no more" (RFC 6946) counts as one too.
    First,
    /// A piece further in: there is no L4 header in it.
    Later,
}

/// Follows the chain from the fixed header (RFC 8200, section 4; AH: RFC 4302) to its end, however long: the
/// number of the first header that is no extension we can step over, where it starts, and what a fragment header
/// said. `next` is what the fixed header says.
///
/// A receiver's kernel follows any number of headers, so an unfollowed one could hide a packet that must be dropped.
/// Each takes 8 bytes at least, so the walk costs less than the packet's bytes do elsewhere.
///
/// # Errors
/// [`Reason::Malformed`] for a header that goes beyond the packet. [`Reason::HiddenUpperLayer`] for fragments
/// that leave open what their whole will be: a first one that ends ahead of the upper layer (RFC 7112), where
/// that is ICMPv6 ahead of its type, and one within another, which Linux does not put together either.
pub(super) fn walk(ip: &[u8], mut next: u8) -> Result<(u8, usize, Fragment), Reason> {
    let mut at = IPV6_LEN;
    let mut fragment = Fragment::No;
    while matches!(
        next,
        protocol::HOP_BY_HOP
            | protocol::ROUTING
            | protocol::DESTINATION
            | protocol::FRAGMENT
            | protocol::AUTHENTICATION
    ) {
        let reason = if fragment == Fragment::No { Reason::Malformed } else { Reason::HiddenUpperLayer };
        let head: &[u8; 4] = ip.get(at..).and_then(|rest| rest.first_chunk()).ok_or(reason)?;
        let len = match next {
            protocol::FRAGMENT => 8,
            protocol::AUTHENTICATION => (usize::from(head[1]) + 2) * 4,
            _ => (usize::from(head[1]) + 1) * 8,
        };
        if at + len > ip.len() {
            return Err(reason);
        }
        let is_fragment = next == protocol::FRAGMENT;
        next = head[0];
        at += len;
        if is_fragment {
            if fragment != Fragment::No {
                return Err(Reason::HiddenUpperLayer);
            }
            if u16::from_be_bytes([head[2], head[3]]) >> 3 != 0 {
                return Ok((next, at, Fragment::Later));
            }
            fragment = Fragment::First;
        }
    }
    if fragment == Fragment::First && next == protocol::ICMPV6 && at == ip.len() {
        return Err(Reason::HiddenUpperLayer);
    }
    Ok((next, at, fragment))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{Header, VNET_LEN, icmp, offload, parse};
    use proptest::prelude::*;
    use std::net::Ipv6Addr;

    const PORTS: [u8; 8] = [0x14, 0xe9, 0, 80, 0, 8, 0, 0];

    fn v6(next: u8, rest: &[u8]) -> Vec<u8> {
        let mut ip = vec![0x60, 0, 0, 0, 0, 0, next, 255];
        ip.extend(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2).octets());
        ip.extend(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 3).octets());
        ip[4..6].copy_from_slice(&(rest.len() as u16).to_be_bytes());
        ip.extend(rest);
        ip
    }

    #[test]
    fn walks_every_extension_header() {
        let hop = |next| [next, 0, 1, 4, 0, 0, 0, 0].to_vec();
        let long = |next| [vec![next, 1], vec![0; 14]].concat();
        let authentication = |next| [vec![next, 4], vec![0; 22]].concat();
        let fragment =
            |next, offset: u16| [vec![next, 0], (offset << 3).to_be_bytes().to_vec(), vec![0; 4]].concat();
        let ports = PORTS.to_vec();
        type Case = (&'static str, u8, Vec<Vec<u8>>, u8, usize, Fragment);
        let cases: &[Case] = &[
            ("none", 17, vec![], 17, 0, Fragment::No),
            ("hop-by-hop", 0, vec![hop(17)], 17, 8, Fragment::No),
            ("three", 0, vec![hop(43), long(60), hop(17)], 17, 32, Fragment::No),
            ("authentication", 51, vec![authentication(17)], 17, 24, Fragment::No),
            ("atomic fragment", 44, vec![fragment(17, 0)], 17, 8, Fragment::First),
            ("later fragment", 44, vec![fragment(17, 9)], 17, 8, Fragment::Later),
            ("later fragment, extension within", 44, vec![fragment(60, 9)], 60, 8, Fragment::Later),
            ("ESP", 50, vec![], 50, 0, Fragment::No),
            ("no next header", 59, vec![], 59, 0, Fragment::No),
            ("no next header behind another", 60, vec![hop(59)], 59, 8, Fragment::No),
            ("mobility", 135, vec![], 135, 0, Fragment::No),
            ("nine", 60, [vec![hop(60); 8], vec![hop(17)]].concat(), 17, 72, Fragment::No),
            ("a packet full", 60, [vec![hop(60); 8_000], vec![hop(17)]].concat(), 17, 64_008, Fragment::No),
        ];
        for (what, next, extensions, protocol, extra, fragment) in cases {
            let header = parse(&v6(*next, &[extensions.concat(), ports.clone()].concat())).unwrap();
            assert_eq!(header.protocol, *protocol, "{what}");
            assert_eq!(header.l4, 40 + extra, "{what}");
            assert_eq!(header.fragment, *fragment, "{what}");
            let has_ports = *protocol == 17 && *fragment != Fragment::Later;
            assert_eq!(header.ports, has_ports.then_some((5353, 80)), "{what}");
        }
    }

    /// An extension header of a packet to be made.
    #[derive(Clone, Copy, Debug)]
    enum Extension {
        /// Hop-by-hop, routing or destination options, with so many times 8 bytes more than 8.
        Options(u8, u8),
        /// With so many times 4 bytes more than 12.
        Authentication(u8),
        /// With this offset in units of 8 bytes, and more to come.
        Fragment(u16, bool),
    }

    impl Extension {
        fn number(self) -> u8 {
            match self {
                Extension::Options(number, _) => number,
                Extension::Authentication(_) => 51,
                Extension::Fragment(..) => 44,
            }
        }

        fn bytes(self, next: u8) -> Vec<u8> {
            match self {
                Extension::Options(_, more) => {
                    [vec![next, more], vec![0; 6 + 8 * usize::from(more)]].concat()
                }
                Extension::Authentication(more) => {
                    [vec![next, more + 1], vec![0; 10 + 4 * usize::from(more)]].concat()
                }
                Extension::Fragment(offset, more) => {
                    let field = (offset << 3 | u16::from(more)).to_be_bytes();
                    [&[next, 0], &field[..], &[0, 0, 0, 7]].concat()
                }
            }
        }
    }

    fn extension() -> impl Strategy<Value = Extension> {
        let options = (prop_oneof![Just(0_u8), Just(43), Just(60)], 0..3_u8);
        prop_oneof![
            8 => options.prop_map(|(number, more)| Extension::Options(number, more)),
            1 => (0..3_u8).prop_map(Extension::Authentication),
            1 => (prop_oneof![Just(0_u16), 0..0x2000_u16], any::<bool>())
                .prop_map(|(offset, more)| Extension::Fragment(offset, more)),
        ]
    }

    /// What must become of a packet of these headers and this upper layer, of which only the first `left` bytes
    /// behind the fixed header are there.
    fn expected(extensions: &[Extension], upper: u8, kind: u8, left: usize) -> Result<(), Reason> {
        let (mut at, mut is_fragment) = (0, false);
        for extension in extensions {
            at += extension.bytes(0).len();
            if at > left {
                return Err(if is_fragment { Reason::HiddenUpperLayer } else { Reason::Malformed });
            }
            match extension {
                Extension::Fragment(..) if is_fragment => return Err(Reason::HiddenUpperLayer),
                Extension::Fragment(0, _) => is_fragment = true,
                // What it carries belongs to the first one.
                Extension::Fragment(..) => return Ok(()),
                Extension::Options(..) | Extension::Authentication(_) => {}
            }
        }
        match (upper, left > at) {
            (58, true) if (133..=137).contains(&kind) => Err(Reason::NeighbourDiscovery),
            (58, false) if is_fragment => Err(Reason::HiddenUpperLayer),
            _ => Ok(()),
        }
    }

    /// What both ends ask of a packet before they let it pass.
    fn checked(ip: &[u8]) -> Result<Header, Reason> {
        let mut packet = [&[0; VNET_LEN], ip].concat();
        let header = offload::check(&mut packet)?;
        if icmp::is_neighbour_discovery(&packet, &header) {
            Err(Reason::NeighbourDiscovery)
        } else {
            Ok(header)
        }
    }

    fn chain(extensions: &[Extension], upper: u8, kind: u8) -> (u8, Vec<u8>) {
        let (mut next, mut bytes) = (upper, vec![kind, 0, 0, 0, 0, 0, 0, 0]);
        for extension in extensions.iter().rev() {
            bytes = [extension.bytes(next), bytes].concat();
            next = extension.number();
        }
        (next, bytes)
    }

    proptest! {
        #[test]
        fn neighbour_discovery_is_found_at_any_depth_and_nothing_hides_it(
            extensions in prop_oneof![
                prop::collection::vec(extension(), 0..5),
                prop::collection::vec(extension(), 5..60),
            ],
            upper in prop_oneof![4 => Just(58_u8), 1 => Just(17), 1 => Just(50), 1 => Just(59), 1 => Just(135)],
            kind in 128..140_u8,
            cut in prop::option::of(0.0..1.0),
        ) {
            let (next, mut bytes) = chain(&extensions, upper, kind);
            if let Some(cut) = cut {
                bytes.truncate((bytes.len() as f64 * cut) as usize);
            }
            let expected = expected(&extensions, upper, kind, bytes.len());
            prop_assert_eq!(checked(&v6(next, &bytes)).map(drop), expected);
        }
    }

    #[test]
    fn a_router_advertisement_behind_nine_headers_does_not_pass() {
        for depth in [0, 1, 8, 9, 10, 100, 8_000] {
            let (next, bytes) = chain(&vec![Extension::Options(60, 0); depth], 58, 134);
            assert_eq!(checked(&v6(next, &bytes)), Err(Reason::NeighbourDiscovery), "{depth}");
        }
    }

    #[test]
    fn a_first_fragment_that_leaves_its_kind_to_the_second_does_not_pass() {
        let (next, bytes) = chain(&[Extension::Fragment(0, true), Extension::Options(60, 0)], 58, 134);
        assert_eq!(checked(&v6(next, &bytes[..16])), Err(Reason::HiddenUpperLayer));
        assert_eq!(checked(&v6(next, &bytes[..8])), Err(Reason::HiddenUpperLayer));
        assert_eq!(checked(&v6(next, &bytes)), Err(Reason::NeighbourDiscovery));
        assert!(checked(&v6(44, &[17, 0, 0, 1, 0, 0, 0, 7])).is_ok(), "UDP without its ports");
    }
}
