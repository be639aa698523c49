//! The virtio-net header of a packet, validated. Pure.

use super::vnet::{
    DATA_VALID, GSO_ECN, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, NEEDS_CSUM, Vnet, headers,
};
use crate::packet::drops::Reason;
use crate::packet::{self, Header, VNET_LEN, protocol};

/// The shortest TCP segment in a super-packet: `TCP_MIN_GSO_SIZE` (include/net/tcp.h), the least MSS
/// that Linux sends (48) without the longest options (40).
const TCP_MIN_GSO_SIZE: u16 = 8;

/// The most TCP segments in one super-packet. The kernel has no bound of its own here, but each segment
/// costs the receiver a buffer of a kilobyte or so. A full 64 KiB of segments of 36 bytes, which are
/// Linux's least MSS with time stamps, is within it.
pub(super) const TCP_MAX_SEGMENTS: usize = 2048;

/// The most datagrams in one super-packet: `UDP_MAX_SEGMENTS` (include/linux/udp.h). TUN refuses more.
const UDP_MAX_SEGMENTS: usize = 128;

/// Validates a packet, virtio-net header first, that came from the network or from TUN, and writes the
/// virtio-net header as it must be.
///
/// Accepted, so that the kernel (`virtio_net_hdr_to_skb` in include/linux/virtio_net.h, `tun_get_user`)
/// takes each packet that comes out of here:
/// - [`NEEDS_CSUM`] for a whole TCP or UDP packet (no fragment), `csum_start` at its L4 header by our
///   own reading, `csum_offset` at its checksum, a TCP data offset within the packet;
/// - with it, [`GSO_TCPV4`] and [`GSO_TCPV6`] (with or without [`GSO_ECN`]) for TCP in that IP version,
///   at least 8 bytes and at most 2,048 segments; [`GSO_UDP_L4`] for UDP whose length is that of the
///   packet, at most 128 datagrams. No segment is longer than its super-packet, so none exceeds 65,535;
/// - neither: a packet with all its checksums.
///
/// Rewritten:
/// - [`DATA_VALID`] alone, which a kernel sets on packets that it verified itself, is cleared: TUN ignores
///   it, and one machine's word is no proof to another;
/// - a super-packet whose payload fits one segment is none, as the kernel decides too;
/// - `hdr_len` of a super-packet becomes the headers' length, and every field without meaning 0.
///
/// # Errors
/// [`Reason::Malformed`] for what [`packet::parse`] refuses or is shorter than [`VNET_LEN`],
/// [`Reason::Offload`] for a virtio-net header that breaks these rules.
#[inline]
pub fn check(packet: &mut [u8]) -> Result<Header, Reason> {
    let (vnet, ip) = packet.split_first_chunk_mut::<VNET_LEN>().ok_or(Reason::Malformed)?;
    let header = packet::parse(ip)?;
    if *vnet != [0; VNET_LEN] {
        let claimed = Vnet::read(vnet);
        let checked = checked(claimed, &header, ip)?;
        if checked != claimed {
            *vnet = checked.bytes();
        }
    }
    Ok(header)
}

/// The canonical virtio-net header of a packet, or why the given one is invalid.
#[inline]
fn checked(claimed: Vnet, header: &Header, ip: &[u8]) -> Result<Vnet, Reason> {
    match (claimed.flags, claimed.gso_type) {
        (0 | DATA_VALID, GSO_NONE) => return Ok(Vnet::default()),
        (NEEDS_CSUM, _) => {}
        _ => return Err(Reason::Offload),
    }
    let (csum_offset, headers) = headers(header, ip).ok_or(Reason::Offload)?;
    if usize::from(claimed.csum_start) != header.l4 || usize::from(claimed.csum_offset) != csum_offset {
        return Err(Reason::Offload);
    }
    let single = Vnet {
        flags: NEEDS_CSUM,
        csum_start: claimed.csum_start,
        csum_offset: claimed.csum_offset,
        ..Vnet::default()
    };
    if !claimed.is_gso() {
        return Ok(single);
    }
    let (max_segments, min_size) = bounds(claimed, header, ip).ok_or(Reason::Offload)?;
    let payload = header.length - headers;
    if claimed.gso_size < min_size || payload > usize::from(claimed.gso_size) * max_segments {
        return Err(Reason::Offload);
    }
    if payload <= usize::from(claimed.gso_size) {
        return Ok(single);
    }
    let hdr_len = u16::try_from(headers).map_err(|_| Reason::Offload)?;
    Ok(Vnet { gso_type: claimed.gso_type, hdr_len, gso_size: claimed.gso_size, ..single })
}

/// The most segments and the least `gso_size` of such a super-packet, if its type agrees with the
/// packet.
fn bounds(claimed: Vnet, header: &Header, ip: &[u8]) -> Option<(usize, u16)> {
    let tcp = (TCP_MAX_SEGMENTS, TCP_MIN_GSO_SIZE);
    match (claimed.gso_type, header.protocol, header.is_ipv6()) {
        (GSO_UDP_L4, protocol::UDP, _) => {
            let &[_, _, _, _, length_0, length_1] = ip.get(header.l4..)?.first_chunk()?;
            let length = usize::from(u16::from_be_bytes([length_0, length_1]));
            (length == header.length - header.l4).then_some((UDP_MAX_SEGMENTS, 1))
        }
        (kind, protocol::TCP, false) if kind & !GSO_ECN == GSO_TCPV4 => Some(tcp),
        (kind, protocol::TCP, true) if kind & !GSO_ECN == GSO_TCPV6 => Some(tcp),
        _ => None,
    }
}

/// How many packets one that [`check`] let pass stands for: its segments, or 1.
#[inline]
pub fn segments(packet: &[u8]) -> u32 {
    let Some(vnet) = packet.first_chunk().map(Vnet::read) else { return 1 };
    if !vnet.is_gso() || vnet.gso_size == 0 {
        return 1;
    }
    let payload = packet.len().saturating_sub(VNET_LEN + usize::from(vnet.hdr_len));
    u32::try_from(payload.div_ceil(usize::from(vnet.gso_size)).max(1)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::offload::testing::Shape;

    /// One of each kind of super-packet: of a full 20 segments of 1,000 bytes and one of 7.
    fn shapes() -> Vec<Shape> {
        let mut shapes = Vec::new();
        for v6 in [false, true] {
            for tcp in [false, true] {
                for (extra, tcp_options) in [(0, 0), (8, 12), (40, 40)] {
                    shapes.push(Shape { extra, tcp_options, ..Shape::new(v6, tcp, 20_007) });
                }
            }
        }
        shapes
    }

    fn set(packet: &mut [u8], change: impl FnOnce(&mut Vnet)) {
        let bytes = packet.first_chunk_mut().unwrap();
        let mut vnet = Vnet::read(bytes);
        change(&mut vnet);
        *bytes = vnet.bytes();
    }

    fn vnet(packet: &[u8]) -> Vnet {
        Vnet::read(packet.first_chunk().unwrap())
    }

    /// Makes an IPv4 packet's total length that of its bytes.
    fn mend_total(packet: &mut [u8]) {
        let total = (packet.len() - VNET_LEN) as u16;
        packet[VNET_LEN + 2..VNET_LEN + 4].copy_from_slice(&total.to_be_bytes());
    }

    #[test]
    fn header_survives_reading_and_writing() {
        let bytes = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10];
        let vnet = Vnet::read(&bytes);
        assert_eq!(vnet.gso_size, 0x0605);
        assert_eq!(vnet.bytes(), bytes);
    }

    #[test]
    fn accepts_every_good_shape_unchanged() {
        for shape in shapes() {
            for good in [shape.whole(), shape.partial(None), shape.partial(Some(1000))] {
                let mut packet = good.clone();
                let header = check(&mut packet).unwrap_or_else(|reason| panic!("{reason}: {shape:?}"));
                assert_eq!(header.l4, shape.l4());
                assert_eq!(header.length, good.len() - VNET_LEN);
                assert_eq!(packet, good, "{shape:?}");
            }
        }
    }

    #[test]
    fn accepts_tcp_with_ecn() {
        for v6 in [false, true] {
            let mut packet = Shape::new(v6, true, 5000).partial(Some(1000));
            set(&mut packet, |vnet| vnet.gso_type |= GSO_ECN);
            let good = packet.clone();
            check(&mut packet).unwrap();
            assert_eq!(packet, good);
        }
    }

    #[test]
    fn tidies_what_means_nothing() {
        type Change = fn(&mut Vnet);
        let shape = Shape::new(false, true, 5000);
        let plain = Vnet::default();
        let single = vnet(&shape.partial(None));
        let gso = vnet(&shape.partial(Some(1000)));
        let cases: &[(&str, Vec<u8>, Change, Vnet)] = &[
            ("verified by a kernel", shape.whole(), |v| v.flags = DATA_VALID, plain),
            ("hdr_len without GSO", shape.whole(), |v| v.hdr_len = 9, plain),
            ("gso_size without GSO", shape.whole(), |v| v.gso_size = 9, plain),
            ("checksum place without a flag", shape.whole(), |v| v.csum_start = 60_000, plain),
            ("hdr_len with a partial checksum", shape.partial(None), |v| v.hdr_len = 54, single),
            ("gso_size with a partial checksum", shape.partial(None), |v| v.gso_size = 1000, single),
            ("hdr_len as the kernel's linear part", shape.partial(Some(1000)), |v| v.hdr_len = 999, gso),
            ("hdr_len beyond the packet", shape.partial(Some(1000)), |v| v.hdr_len = 0xffff, gso),
            ("payload of one segment", shape.partial(Some(1000)), |v| v.gso_size = 5000, single),
            ("payload below one segment", shape.partial(Some(1000)), |v| v.gso_size = 0xffff, single),
        ];
        for (what, packet, change, expected) in cases {
            let mut packet = packet.clone();
            set(&mut packet, change);
            assert!(check(&mut packet).is_ok(), "{what}");
            assert_eq!(vnet(&packet), *expected, "{what}");
        }
    }

    #[test]
    fn drops_every_hostile_header() {
        type Change = fn(&mut Vnet);
        let tcp4 = Shape::new(false, true, 30_000).partial(Some(1000));
        let tcp6 = Shape::new(true, true, 30_000).partial(Some(1000));
        let udp4 = Shape::new(false, false, 30_000).partial(Some(1000));
        let single = Shape::new(false, true, 500).partial(None);
        let cases: &[(&str, &[u8], Change)] = &[
            ("unknown flag", &tcp4, |v| v.flags |= 4),
            ("every flag", &tcp4, |v| v.flags = 0xff),
            ("verified and yet partial", &tcp4, |v| v.flags = NEEDS_CSUM | DATA_VALID),
            ("unknown flag alone", &single, |v| v.flags = 0x80),
            ("GSO without a partial checksum", &tcp4, |v| v.flags = 0),
            ("GSO verified", &tcp4, |v| v.flags = DATA_VALID),
            ("UFO", &udp4, |v| v.gso_type = 3),
            ("unknown type", &tcp4, |v| v.gso_type = 2),
            ("type with a tunnel bit", &tcp4, |v| v.gso_type |= 0x20),
            ("ECN without a type", &tcp4, |v| v.gso_type = GSO_ECN),
            ("ECN for UDP", &udp4, |v| v.gso_type |= GSO_ECN),
            ("TCPv6 over IPv4", &tcp4, |v| v.gso_type = GSO_TCPV6),
            ("TCPv4 over IPv6", &tcp6, |v| v.gso_type = GSO_TCPV4),
            ("UDP type for TCP", &tcp4, |v| v.gso_type = GSO_UDP_L4),
            ("TCP type for UDP", &udp4, |v| v.gso_type = GSO_TCPV4),
            ("gso_size 0", &tcp4, |v| v.gso_size = 0),
            ("gso_size 0 for UDP", &udp4, |v| v.gso_size = 0),
            ("gso_size below the least", &tcp4, |v| v.gso_size = 7),
            ("too many segments", &tcp4, |v| v.gso_size = 14),
            ("too many datagrams", &udp4, |v| v.gso_size = 234),
            ("csum_start in the IP header", &tcp4, |v| v.csum_start = 10),
            ("csum_start past the L4 header", &tcp4, |v| v.csum_start = 24),
            ("csum_start at the end", &single, |v| v.csum_start = 540),
            ("csum_start beyond the packet", &single, |v| v.csum_start = 0xffff),
            ("csum_offset of UDP for TCP", &single, |v| v.csum_offset = 6),
            ("csum_offset of TCP for UDP", &udp4, |v| v.csum_offset = 16),
            ("csum_offset 0", &tcp6, |v| v.csum_offset = 0),
            ("csum_offset beyond the packet", &single, |v| v.csum_offset = 0xffff),
        ];
        for (what, packet, change) in cases {
            let mut packet = packet.to_vec();
            set(&mut packet, change);
            assert_eq!(check(&mut packet), Err(Reason::Offload), "{what}");
        }
    }

    #[test]
    fn drops_every_packet_that_its_header_contradicts() {
        type Change = fn(&mut Vec<u8>);
        let ip = VNET_LEN;
        let tcp4 = Shape::new(false, true, 3000).partial(Some(1000));
        let udp4 = Shape::new(false, false, 3000).partial(Some(1000));
        let tcp6 = Shape { extra: 8, ..Shape::new(true, true, 3000) }.partial(Some(1000));
        let single = Shape::new(false, true, 500).partial(None);
        let udp_single = Shape::new(false, false, 500).partial(None);
        assert_eq!(tcp4[ip + 6], 0x40);
        let cases: &[(&str, &[u8], Change)] = &[
            ("first fragment, GSO", &tcp4, |p| p[VNET_LEN + 6] = 0x20),
            ("later fragment, GSO", &tcp4, |p| p[VNET_LEN + 7] = 1),
            ("first fragment, partial", &single, |p| p[VNET_LEN + 6] = 0x20),
            ("later fragment, partial", &udp_single, |p| p[VNET_LEN + 7] = 1),
            ("IPv6 fragment header", &tcp6, |p| {
                p[VNET_LEN + 6] = 44;
                p[VNET_LEN + 40..VNET_LEN + 48].copy_from_slice(&[6, 0, 0, 0, 0, 0, 0, 1]);
            }),
            ("data offset below 20", &tcp4, |p| p[VNET_LEN + 32] = 0x40),
            ("data offset 0", &single, |p| p[VNET_LEN + 32] = 0),
            ("data offset beyond the packet", &single, |p| {
                p.truncate(VNET_LEN + 20 + 24);
                mend_total(p);
                p[VNET_LEN + 32] = 0x70;
            }),
            ("no room for TCP's checksum", &single, |p| {
                p.truncate(VNET_LEN + 20 + 17);
                mend_total(p);
            }),
            ("no TCP header at all", &single, |p| {
                p.truncate(VNET_LEN + 20);
                mend_total(p);
            }),
            ("no room for UDP's checksum", &udp_single, |p| {
                p.truncate(VNET_LEN + 20 + 7);
                mend_total(p);
            }),
            ("neither TCP nor UDP", &single, |p| p[VNET_LEN + 9] = 1),
            ("UDP length too great", &udp4, |p| p[VNET_LEN + 25] += 1),
            ("UDP length too small", &udp4, |p| p[VNET_LEN + 25] -= 1),
        ];
        for (what, packet, change) in cases {
            let mut packet = packet.to_vec();
            change(&mut packet);
            assert_eq!(check(&mut packet), Err(Reason::Offload), "{what}");
        }
    }

    #[test]
    fn drops_what_is_no_whole_ip_packet() {
        let whole = Shape::new(false, true, 3000).partial(Some(1000));
        for len in 0..whole.len() {
            assert_eq!(check(&mut whole[..len].to_vec()), Err(Reason::Malformed), "{len}");
        }
        assert_eq!(check(&mut [whole, vec![0]].concat()), Err(Reason::Malformed));
    }

    #[test]
    fn accepts_the_most_segments_and_no_more() {
        for (tcp, most) in [(true, TCP_MAX_SEGMENTS), (false, UDP_MAX_SEGMENTS)] {
            let mut packet = Shape::new(false, tcp, most * 10).partial(Some(10));
            assert!(check(&mut packet).is_ok());
            let mut packet = Shape::new(false, tcp, most * 10 + 1).partial(Some(10));
            assert_eq!(check(&mut packet), Err(Reason::Offload));
        }
    }
}
