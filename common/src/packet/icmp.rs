//! ICMP errors for packets that the hub does not deliver: unreachable, prohibited, or too big. Pure.
//!
//! An answer has all its checksums and an empty virtio-net header. It quotes the original as the hub saw it,
//! as the kernel does too: a partial checksum stays partial, and a super-packet keeps its own lengths.
//! Senders look up the connection by addresses and ports, and TCP its sequence number; nothing else in
//! a quote is believed.
//!
//! How often to answer is the caller's business (RFC 1812, section 4.3.2.8; RFC 4443, section 2.4).

use std::net::{IpAddr, Ipv4Addr};
use std::ops::Deref;

use crate::packet::checksum;
use crate::packet::offload::Vnet;
use crate::packet::{Fragment, Header, IPV4_LEN, IPV6_LEN, VNET_LEN, protocol};

/// The longest ICMPv4 answer (RFC 1812, section 4.3.2.3).
const MAX_V4: usize = 576;
/// The longest ICMPv6 answer, the least MTU that IPv6 knows (RFC 4443, section 2.4).
const MAX_V6: usize = 1280;
/// Bytes of an ICMP header.
const ICMP_LEN: usize = 8;
/// TTL and hop limit of an answer (RFC 1700).
const TTL: u8 = 64;
/// "Internetwork control", which RFC 1812 (section 4.3.2.5) recommends for errors.
const PRECEDENCE: u8 = 0xc0;
/// "Don't fragment", in byte 6 of an IPv4 header.
const DONT_FRAGMENT: u8 = 0x40;

/// An ICMP packet, virtio-net header first. Dereferences to its bytes.
#[derive(Clone)]
pub struct Answer {
    bytes: [u8; VNET_LEN + MAX_V6],
    len: usize,
}

impl Deref for Answer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// "Host unreachable" (RFC 792: type 3, code 1) or "address unreachable" (RFC 4443: type 1, code 3), from
/// `from` to the source of `original`, whose header is `header`.
///
/// None where no answer may be given (RFC 1122, section 3.2.2; RFC 4443, section 2.4): to ICMP errors and
/// redirects, to fragments past the first, to and from multicast, broadcast (the limited one, and that of
/// the LAN, `broadcast`), unspecified and loopback addresses; or if `from` is of the other family.
pub fn unreachable(
    original: &[u8],
    header: &Header,
    from: IpAddr,
    broadcast: Option<Ipv4Addr>,
) -> Option<Answer> {
    let message = if header.is_ipv6() { [1, 3, 0, 0, 0, 0, 0, 0] } else { [3, 1, 0, 0, 0, 0, 0, 0] };
    answer(original, header, from, broadcast, message)
}

/// "Communication administratively prohibited" (RFC 1812, section 5.2.7.1: type 3, code 13; RFC 4443: type 1, code 1):
/// a rule forbids the packet.
///
/// None where [`unreachable()`] is.
pub fn prohibited(
    original: &[u8],
    header: &Header,
    from: IpAddr,
    broadcast: Option<Ipv4Addr>,
) -> Option<Answer> {
    let message = if header.is_ipv6() { [1, 1, 0, 0, 0, 0, 0, 0] } else { [3, 13, 0, 0, 0, 0, 0, 0] };
    answer(original, header, from, broadcast, message)
}

/// "Fragmentation needed" (RFC 1191: type 3, code 4) or "packet too big" (RFC 4443: type 2) with the
/// receiver's `mtu` in bytes, never less than IPv6's least to IPv6.
///
/// None where [`unreachable()`] is, and for IPv4 without "don't fragment", for which there is
/// [`fragment`](crate::packet::offload::fragment).
pub fn too_big(
    original: &[u8],
    header: &Header,
    from: IpAddr,
    broadcast: Option<Ipv4Addr>,
    mtu: usize,
) -> Option<Answer> {
    let message = if header.is_ipv6() {
        let [a, b, c, d] = u32::try_from(mtu.max(MAX_V6)).unwrap_or(u32::MAX).to_be_bytes();
        [2, 0, 0, 0, a, b, c, d]
    } else {
        if original.get(VNET_LEN + 6)? & DONT_FRAGMENT == 0 {
            return None;
        }
        let [a, b] = u16::try_from(mtu).unwrap_or(u16::MAX).to_be_bytes();
        [3, 4, 0, 0, 0, 0, a, b]
    };
    answer(original, header, from, broadcast, message)
}

/// Whether a packet that [`check`](crate::packet::offload::check) let pass does not fit `mtu`, the largest IP
/// packet that its receiver takes. Of a super-packet one segment counts: headers and `gso_size`.
#[inline]
pub fn exceeds(packet: &[u8], header: &Header, mtu: usize) -> bool {
    let longest = match packet.first_chunk().map(Vnet::read) {
        Some(vnet) if vnet.is_gso() => usize::from(vnet.hdr_len) + usize::from(vnet.gso_size),
        _ => header.length,
    };
    longest > mtu
}

/// Whether this is a message of IPv6 neighbour discovery (RFC 4861: types 133 to 137).
///
/// A LAN of TUN devices needs none of them, and carries none: by a router advertisement any member could
/// make itself the default router of all others.
#[inline]
pub fn is_neighbour_discovery(packet: &[u8], header: &Header) -> bool {
    header.protocol == protocol::ICMPV6
        && header.is_ipv6()
        && header.fragment != Fragment::Later
        && matches!(packet.get(VNET_LEN + header.l4), Some(133..=137))
}

/// Builds the answer, unless none may be given.
fn answer(
    original: &[u8],
    header: &Header,
    from: IpAddr,
    broadcast: Option<Ipv4Addr>,
    message: [u8; ICMP_LEN],
) -> Option<Answer> {
    let quoted = original.get(VNET_LEN..)?;
    let is_host = |address| is_one_host(address, broadcast);
    if header.fragment == Fragment::Later
        || !is_host(header.source)
        || !is_host(header.destination)
        || is_icmp_error(quoted, header)
    {
        return None;
    }
    let mut answer = Answer { bytes: [0; VNET_LEN + MAX_V6], len: 0 };
    let ip = &mut answer.bytes[VNET_LEN..];
    let len = match (from, header.source) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let icmp = IPV4_LEN..IPV4_LEN + ICMP_LEN;
            let len = MAX_V4.min(icmp.end + quoted.len());
            // The original's identification is as unique for its sender as any that we could count.
            let id = quoted.get(4..6)?;
            ip[..2].copy_from_slice(&[0x45, PRECEDENCE]);
            ip[2..4].copy_from_slice(&(len as u16).to_be_bytes());
            ip[4..6].copy_from_slice(id);
            ip[8..10].copy_from_slice(&[TTL, protocol::ICMP]);
            ip[12..16].copy_from_slice(&from.octets());
            ip[16..20].copy_from_slice(&to.octets());
            checksum::put(&mut ip[..IPV4_LEN], 10, 0);
            ip[icmp.clone()].copy_from_slice(&message);
            ip[icmp.end..len].copy_from_slice(&quoted[..len - icmp.end]);
            checksum::put(&mut ip[icmp.start..len], 2, 0);
            len
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let icmp = IPV6_LEN..IPV6_LEN + ICMP_LEN;
            let len = MAX_V6.min(icmp.end + quoted.len());
            let payload = (len - IPV6_LEN) as u16;
            ip[0] = 0x60;
            ip[4..6].copy_from_slice(&payload.to_be_bytes());
            ip[6..8].copy_from_slice(&[protocol::ICMPV6, TTL]);
            ip[8..24].copy_from_slice(&from.octets());
            ip[24..40].copy_from_slice(&to.octets());
            ip[icmp.clone()].copy_from_slice(&message);
            ip[icmp.end..len].copy_from_slice(&quoted[..len - icmp.end]);
            // The pseudo-header (RFC 8200, section 8.1): addresses, length, next header.
            let pseudo = checksum::add(checksum::sum(&ip[8..40]), payload);
            let pseudo = checksum::add(pseudo, u16::from(protocol::ICMPV6));
            checksum::put(&mut ip[icmp.start..len], 2, pseudo);
            len
        }
        _ => return None,
    };
    answer.len = VNET_LEN + len;
    Some(answer)
}

/// Whether an address can be one host's on the LAN.
fn is_one_host(address: IpAddr, broadcast: Option<Ipv4Addr>) -> bool {
    let is_broadcast = match address {
        IpAddr::V4(address) => address.is_broadcast() || broadcast == Some(address),
        IpAddr::V6(_) => false,
    };
    !(address.is_unspecified() || address.is_loopback() || address.is_multicast() || is_broadcast)
}

/// Whether the packet is an ICMP error or redirect, or too short to say that it is none.
fn is_icmp_error(ip: &[u8], header: &Header) -> bool {
    let kind = ip.get(header.l4).copied();
    match header.protocol {
        // Unreachable, source quench, redirect, time exceeded, parameter problem (RFC 1122, section 3.2.2).
        protocol::ICMP => kind.is_none_or(|kind| matches!(kind, 3 | 4 | 5 | 11 | 12)),
        // Errors have the high bit clear (RFC 4443, section 2.1); 137 is a redirect.
        protocol::ICMPV6 => kind.is_none_or(|kind| kind < 128 || kind == 137),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet;
    use crate::packet::offload::testing::{Shape, assert_checksums};
    use std::net::Ipv6Addr;

    const HUB_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
    const HUB_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1));
    const BROADCAST: Option<Ipv4Addr> = Some(Ipv4Addr::new(10, 0, 0, 255));

    fn hub(v6: bool) -> IpAddr {
        if v6 { HUB_V6 } else { HUB_V4 }
    }

    fn header(packet: &[u8]) -> Header {
        packet::parse(&packet[VNET_LEN..]).unwrap()
    }

    /// The answer to `packet`, verified in all that every answer shares: its header and ICMP's type, code
    /// and rest of header, and what it quotes.
    fn opened(answer: &Answer, packet: &[u8]) -> ([u8; 8], Vec<u8>) {
        let own = header(answer);
        let original = header(packet);
        assert_eq!(answer[..VNET_LEN], [0; VNET_LEN]);
        assert_eq!(own.source, hub(original.is_ipv6()));
        assert_eq!(own.destination, original.source);
        assert_eq!(own.fragment, Fragment::No);
        assert_eq!(own.protocol, if own.is_ipv6() { protocol::ICMPV6 } else { protocol::ICMP });
        assert_eq!(answer[VNET_LEN + if own.is_ipv6() { 7 } else { 8 }], 64, "TTL");
        assert_checksums(answer, own.l4, own.protocol);
        let icmp = &answer[VNET_LEN + own.l4..];
        let message = [icmp[0], icmp[1], 0, 0, icmp[4], icmp[5], icmp[6], icmp[7]];
        (message, icmp[8..].to_vec())
    }

    #[test]
    fn unreachable_quotes_the_packet() {
        for (v6, message, most) in
            [(false, [3, 1, 0, 0, 0, 0, 0, 0], 576 - 28), (true, [1, 3, 0, 0, 0, 0, 0, 0], 1280 - 48)]
        {
            for payload in [0, 1, 100, 519, 520, 521, 1183, 1184, 1185, 20_000] {
                let packet = Shape::new(v6, false, payload).whole();
                let answer = unreachable(&packet, &header(&packet), hub(v6), BROADCAST).unwrap();
                let (got, quote) = opened(&answer, &packet);
                assert_eq!(got, message);
                assert_eq!(quote, packet[VNET_LEN..][..most.min(packet.len() - VNET_LEN)]);
            }
        }
    }

    #[test]
    fn too_big_tells_the_mtu() {
        let cases = [
            (false, 1400, [3, 4, 0, 0, 0, 0, 0x05, 0x78]),
            (false, 70_000, [3, 4, 0, 0, 0, 0, 0xff, 0xff]),
            (true, 1400, [2, 0, 0, 0, 0, 0, 0x05, 0x78]),
            (true, 70_000, [2, 0, 0, 0, 0, 1, 0x11, 0x70]),
            (true, 1000, [2, 0, 0, 0, 0, 0, 0x05, 0x00]),
        ];
        for (v6, mtu, message) in cases {
            let packet = Shape::new(v6, true, 1460).whole();
            let answer = too_big(&packet, &header(&packet), hub(v6), BROADCAST, mtu).unwrap();
            assert_eq!(opened(&answer, &packet).0, message);
        }
    }

    #[test]
    fn quotes_a_super_packet_as_it_is() {
        for v6 in [false, true] {
            let shape = Shape::new(v6, true, 20_000);
            let packet = shape.partial(Some(1448));
            let answer = too_big(&packet, &header(&packet), hub(v6), BROADCAST, 1400).unwrap();
            let quote = opened(&answer, &packet).1;
            assert_eq!(quote, packet[VNET_LEN..][..quote.len()]);
            assert_eq!(quote[shape.l4() + 4..][..4], shape.sequence.to_be_bytes());
        }
    }

    #[test]
    fn no_answer_where_the_rfcs_forbid_one() {
        type Change = fn(&mut Vec<u8>);
        let ip4 = Shape::new(false, false, 100).whole();
        let ip6 = Shape::new(true, false, 100).whole();
        let cases: &[(&str, &[u8], bool, Change)] = &[
            ("plain IPv4", &ip4, true, |_| {}),
            ("plain IPv6", &ip6, true, |_| {}),
            ("first fragment", &ip4, true, |p| p[VNET_LEN + 6] = 0x60),
            ("later fragment", &ip4, false, |p| p[VNET_LEN + 7] = 1),
            ("later IPv6 fragment", &ip6, false, |p| {
                p[VNET_LEN + 6] = 44;
                p[VNET_LEN + 40..VNET_LEN + 48].copy_from_slice(&[17, 0, 0, 8, 0, 0, 0, 1]);
            }),
            ("to the LAN's broadcast", &ip4, false, |p| p[VNET_LEN + 19] = 255),
            ("to the limited broadcast", &ip4, false, |p| p[VNET_LEN + 16..VNET_LEN + 20].fill(255)),
            ("to a multicast group", &ip4, false, |p| p[VNET_LEN + 16] = 224),
            ("to an IPv6 multicast group", &ip6, false, |p| p[VNET_LEN + 24] = 0xff),
            ("to nowhere", &ip4, false, |p| p[VNET_LEN + 16..VNET_LEN + 20].fill(0)),
            ("to loopback", &ip4, false, |p| p[VNET_LEN + 16] = 127),
            ("from the LAN's broadcast", &ip4, false, |p| p[VNET_LEN + 15] = 255),
            ("from the limited broadcast", &ip4, false, |p| p[VNET_LEN + 12..VNET_LEN + 16].fill(255)),
            ("from a multicast group", &ip4, false, |p| p[VNET_LEN + 12] = 239),
            ("from an IPv6 multicast group", &ip6, false, |p| p[VNET_LEN + 8] = 0xff),
            ("from nowhere", &ip4, false, |p| p[VNET_LEN + 12..VNET_LEN + 16].fill(0)),
            ("from the unspecified IPv6 address", &ip6, false, |p| p[VNET_LEN + 8..VNET_LEN + 24].fill(0)),
            ("from loopback", &ip4, false, |p| p[VNET_LEN + 12] = 127),
            ("from IPv6 loopback", &ip6, false, |p| {
                p[VNET_LEN + 8..VNET_LEN + 23].fill(0);
                p[VNET_LEN + 23] = 1;
            }),
        ];
        for (what, packet, answered, change) in cases {
            let mut packet = packet.to_vec();
            change(&mut packet);
            let header = header(&packet);
            let from = hub(header.is_ipv6());
            assert_eq!(unreachable(&packet, &header, from, BROADCAST).is_some(), *answered, "{what}");
            assert_eq!(too_big(&packet, &header, from, BROADCAST, 1300).is_some(), *answered, "{what}");
        }
    }

    #[test]
    fn no_answer_to_icmp_errors() {
        let with = |v6: bool, kind: Option<u8>| {
            let shape = Shape::new(v6, false, 0);
            let mut packet = shape.whole();
            packet[VNET_LEN + if v6 { 6 } else { 9 }] = if v6 { protocol::ICMPV6 } else { protocol::ICMP };
            match kind {
                Some(kind) => packet[VNET_LEN + shape.l4()] = kind,
                None => {
                    packet.truncate(VNET_LEN + shape.l4());
                    packet[VNET_LEN + if v6 { 5 } else { 3 }] -= 8;
                }
            }
            unreachable(&packet, &header(&packet), hub(v6), BROADCAST).is_some()
        };
        for kind in 0..=255 {
            assert_eq!(with(false, Some(kind)), ![3, 4, 5, 11, 12].contains(&kind), "ICMP type {kind}");
            assert_eq!(with(true, Some(kind)), kind >= 128 && kind != 137, "ICMPv6 type {kind}");
        }
        assert!(!with(false, None), "no ICMP type at all");
        assert!(!with(true, None), "no ICMPv6 type at all");
    }

    #[test]
    fn neighbour_discovery_is_known_by_its_types() {
        for kind in 0..=255 {
            let shape = Shape::new(true, false, 8);
            let mut packet = shape.whole();
            packet[VNET_LEN + shape.l4()] = kind;
            assert!(!is_neighbour_discovery(&packet, &header(&packet)), "UDP");
            packet[VNET_LEN + 6] = protocol::ICMPV6;
            let expected = (133..=137).contains(&kind);
            assert_eq!(is_neighbour_discovery(&packet, &header(&packet)), expected, "type {kind}");
            // A later fragment holds data there, which may look like anything.
            packet.splice(VNET_LEN + 40..VNET_LEN + 40, [protocol::ICMPV6, 0, 0, 8, 0, 0, 0, 1]);
            packet[VNET_LEN + 5] += 8;
            packet[VNET_LEN + 6] = 44;
            assert!(!is_neighbour_discovery(&packet, &header(&packet)), "type {kind} in a later fragment");
        }
    }

    #[test]
    fn no_answer_from_the_other_family_or_to_what_may_be_fragmented() {
        let packet = Shape::new(false, false, 100).whole();
        assert!(unreachable(&packet, &header(&packet), HUB_V6, BROADCAST).is_none());
        let may = Shape { dont_fragment: false, ..Shape::new(false, false, 100) }.whole();
        assert!(too_big(&may, &header(&may), HUB_V4, BROADCAST, 100).is_none());
        let packet = Shape::new(true, false, 100).whole();
        assert!(unreachable(&packet, &header(&packet), HUB_V4, BROADCAST).is_none());
    }

    #[test]
    fn a_super_packet_counts_by_its_segments() {
        let whole = Shape::new(false, true, 1461).whole();
        assert!(exceeds(&whole, &header(&whole), 1500));
        assert!(!exceeds(&whole, &header(&whole), 1501));
        for v6 in [false, true] {
            let shape = Shape { extra: 8, tcp_options: 12, ..Shape::new(v6, true, 20_000) };
            let packet = shape.partial(Some(1000));
            let longest = shape.headers() + 1000;
            assert!(!exceeds(&packet, &header(&packet), longest));
            assert!(exceeds(&packet, &header(&packet), longest - 1));
        }
    }
}
