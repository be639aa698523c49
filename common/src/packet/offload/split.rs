//! Segmentation of super-packets and completion of partial checksums, as the kernel does it: into smaller super-packets
//! for a slow link, or into plain packets for a kernel without offload. Pure.
//!
//! ```text
//!         | headers | segment | segment | segment | seg |        a super-packet
//! front:  | headers | segment | segment |                        copied out, shorter
//! packet: |  (consumed)       | headers | segment | seg |        the rest: headers moved over the consumed
//! ```

use super::vnet::{
    GSO_ECN, GSO_NONE, GSO_UDP_L4, NEEDS_CSUM, TCP_CHECKSUM, UDP_CHECKSUM, UDP_LEN, Vnet, tcp_len,
};
use crate::packet::checksum;
use crate::packet::{IPV4_LEN, IPV6_LEN, VNET_LEN};

/// Datagrams in a super-packet that every kernel with `TUN_F_USO4` takes: `UDP_MAX_SEGMENTS` before it
/// was doubled in Linux 6.9.
pub(super) const UDP_SAFE_SEGMENTS: usize = 64;

pub(super) const TCP_FIN: u8 = 0x01;
pub(super) const TCP_PSH: u8 = 0x08;
const TCP_CWR: u8 = 0x80;

/// The offloads that the kernel behind a TUN device supports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// Partial checksums (`TUN_F_CSUM`). Without it there are no super-packets either.
    pub checksum: bool,
    /// TCP super-packets over IPv4 and IPv6 (`TUN_F_TSO4`, `TUN_F_TSO6`, `TUN_F_TSO_ECN`).
    pub tcp: bool,
    /// UDP super-packets (`TUN_F_USO4`, `TUN_F_USO6`; Linux 6.2).
    pub udp: bool,
}

impl Features {
    /// Whether such a kernel takes the packet, which [`check`](super::check) let pass, as it is; otherwise
    /// [`segment`] makes packets that it takes.
    #[inline]
    pub fn fits(self, packet: &[u8]) -> bool {
        let Some(vnet) = packet.first_chunk().map(Vnet::read) else { return true };
        match vnet.gso_type {
            GSO_NONE => self.checksum || vnet.flags & NEEDS_CSUM == 0,
            GSO_UDP_L4 => {
                let most = usize::from(vnet.gso_size) * UDP_SAFE_SEGMENTS;
                self.checksum && self.udp && packet.len() <= VNET_LEN + usize::from(vnet.hdr_len) + most
            }
            _ => self.checksum && self.tcp,
        }
    }
}

/// Cuts a super-packet longer than `max` bytes in two: `front` becomes a packet of its own of as many
/// segments as fit into `max`, but at least one, and the bytes of `packet` from the returned offset on
/// become one of the rest. `max` and all lengths count the virtio-net header. None, and nothing changed,
/// if `packet` is no super-packet or needs no cut.
///
/// Each piece is what [`check`](super::check) lets pass, and all of them, segmented, are the segments that
/// the kernel would have made of the whole. A piece of one segment is no super-packet, but keeps its partial
/// checksum. The cost is one copy of `front`'s bytes and of the headers.
pub fn split_front(packet: &mut [u8], max: usize, front: &mut Vec<u8>) -> Option<usize> {
    if packet.len() <= max {
        return None;
    }
    let whole = Super::read(packet)?;
    let gso_size = usize::from(whole.vnet.gso_size);
    let segments = (max.saturating_sub(whole.payload) / gso_size).max(1);
    let consumed = segments * gso_size;
    if whole.payload + consumed >= packet.len() {
        return None;
    }
    front.clear();
    front.extend_from_slice(&packet[..whole.payload + consumed]);
    packet.copy_within(..whole.payload, consumed);
    let (before, after) = (packet.len(), &mut packet[consumed..]);
    whole.mend(front, before, None);
    whole.mend(after, before, Some(segments));
    Some(consumed)
}

/// Puts the whole checksum of a [`NEEDS_CSUM`] packet in place of the partial one. Any other packet, a
/// super-packet too, stays as it is.
pub fn complete(packet: &mut [u8]) {
    let Some((header, ip)) = packet.split_first_chunk_mut::<VNET_LEN>() else { return };
    let vnet = Vnet::read(header);
    if vnet.flags & NEEDS_CSUM == 0 || vnet.is_gso() {
        return;
    }
    let Some(l4) = ip.get_mut(usize::from(vnet.csum_start)..) else { return };
    let sum = !checksum::sum(l4);
    let field = usize::from(vnet.csum_offset);
    let Some(field) = l4.get_mut(field..field + 2) else { return };
    // To UDP 0 means "no checksum"; 0xffff sums to the same (RFC 768). The kernel writes it for every protocol
    // (`skb_checksum_help`).
    field.copy_from_slice(&if sum == 0 { 0xffff } else { sum }.to_be_bytes());
    *header = [0; VNET_LEN];
}

/// Hands `out` the packets that a kernel with `features` takes in place of `packet`: itself where it
/// [fits](Features::fits), else its segments in order, each with what checksum that kernel wants.
/// `packet` and `scratch` are overwritten.
pub fn segment(packet: &mut [u8], features: Features, scratch: &mut Vec<u8>, mut out: impl FnMut(&mut [u8])) {
    let mut deliver = |packet: &mut [u8]| {
        if !features.checksum {
            complete(packet);
        }
        out(packet);
    };
    let mut start = 0;
    if !features.fits(packet)
        && let Some(whole) = Super::read(packet)
    {
        let udp = whole.vnet.gso_type == GSO_UDP_L4;
        let segments = if udp && features.udp && features.checksum { UDP_SAFE_SEGMENTS } else { 1 };
        let max = whole.payload + segments * usize::from(whole.vnet.gso_size);
        while let Some(at) = split_front(&mut packet[start..], max, scratch) {
            deliver(scratch);
            start += at;
        }
    }
    deliver(&mut packet[start..]);
}

/// The parts of a super-packet that all its segments share. Offsets count the virtio-net header.
struct Super {
    vnet: Vnet,
    ipv6: bool,
    /// Where the L4 header starts: behind a whole IP header.
    l4: usize,
    /// Where the payload starts: behind a whole L4 header, and at most `gso_size` ahead of the end.
    payload: usize,
}

impl Super {
    /// None for whatever is not a super-packet of two segments or more.
    fn read(packet: &[u8]) -> Option<Super> {
        let (vnet, ip) = packet.split_first_chunk()?;
        let vnet = Vnet::read(vnet);
        if !vnet.is_gso() || vnet.gso_size == 0 {
            return None;
        }
        let ipv6 = ip.first()? >> 4 == 6;
        let l4 = usize::from(vnet.csum_start);
        let l4_len = match vnet.gso_type {
            GSO_UDP_L4 => UDP_LEN,
            _ => tcp_len(ip.get(l4..)?)?,
        };
        let payload = VNET_LEN + l4 + l4_len;
        if l4 < if ipv6 { IPV6_LEN } else { IPV4_LEN } || packet.len() <= payload + usize::from(vnet.gso_size)
        {
            return None;
        }
        Some(Super { vnet, ipv6, l4: VNET_LEN + l4, payload })
    }

    /// Makes the headers of `piece`, copied from a super-packet of `before` bytes, its own: the front of
    /// it, or what comes after so many segments.
    fn mend(&self, piece: &mut [u8], before: usize, skipped: Option<usize>) {
        let is_single = piece.len() - self.payload <= usize::from(self.vnet.gso_size);
        let vnet = match (is_single, skipped) {
            (true, _) => Vnet { gso_type: GSO_NONE, hdr_len: 0, gso_size: 0, ..self.vnet },
            (false, None) => self.vnet,
            // The CWR flag that the bit speaks of stays with the first segment.
            (false, Some(_)) => Vnet { gso_type: self.vnet.gso_type & !GSO_ECN, ..self.vnet },
        };
        piece[..VNET_LEN].copy_from_slice(&vnet.bytes());
        self.mend_l3(piece, skipped.unwrap_or(0));
        self.mend_l4(piece, before, skipped);
    }

    fn mend_l3(&self, piece: &mut [u8], skipped: usize) {
        let len = piece.len() - VNET_LEN;
        let ip = &mut piece[VNET_LEN..self.l4];
        if self.ipv6 {
            put(ip, 4, (len - IPV6_LEN) as u16);
            return;
        }
        let (old_len, old_id) = (word(ip, 2), word(ip, 4));
        let id = old_id.wrapping_add(skipped as u16);
        let sum = checksum::replace(!word(ip, 10), old_len, len as u16);
        put(ip, 2, len as u16);
        put(ip, 4, id);
        put(ip, 10, !checksum::replace(sum, old_id, id));
    }

    fn mend_l4(&self, piece: &mut [u8], before: usize, skipped: Option<usize>) {
        let (old_len, len) = ((before - self.l4) as u16, (piece.len() - self.l4) as u16);
        let l4 = &mut piece[self.l4..self.payload];
        if self.vnet.gso_type == GSO_UDP_L4 {
            put(l4, 4, len);
            put(l4, UDP_CHECKSUM, checksum::replace(word(l4, UDP_CHECKSUM), old_len, len));
            return;
        }
        put(l4, TCP_CHECKSUM, checksum::replace(word(l4, TCP_CHECKSUM), old_len, len));
        match skipped {
            None => l4[13] &= !(TCP_FIN | TCP_PSH),
            Some(segments) => {
                let sequence = u32::from(word(l4, 4)) << 16 | u32::from(word(l4, 6));
                let sequence = sequence.wrapping_add((segments * usize::from(self.vnet.gso_size)) as u32);
                l4[4..8].copy_from_slice(&sequence.to_be_bytes());
                l4[13] &= !TCP_CWR;
            }
        }
    }
}

pub(super) fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

pub(super) fn put(bytes: &mut [u8], at: usize, word: u16) {
    bytes[at..at + 2].copy_from_slice(&word.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::offload::testing::{ACK, CWR, FIN, PSH, Shape, assert_checksums};
    use crate::packet::offload::{self, check};
    use crate::packet::{self, protocol};
    use proptest::prelude::*;

    const NOTHING: Features = Features { checksum: false, tcp: false, udp: false };
    const EVERYTHING: Features = Features { checksum: true, tcp: true, udp: true };

    fn segments(packet: &[u8], features: Features) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        segment(&mut packet.to_vec(), features, &mut Vec::new(), |piece| all.push(piece.to_vec()));
        all
    }

    /// The segments of `shape`, made one by one instead of cut from a super-packet.
    fn expected(shape: &Shape, gso_size: usize) -> Vec<Vec<u8>> {
        let chunks: Vec<&[u8]> = shape.payload.chunks(gso_size).collect();
        let last = chunks.len() - 1;
        let piece = |at: usize| {
            let first = if at == 0 { 0xff } else { !CWR };
            let end = if at == last { 0xff } else { !(FIN | PSH) };
            let piece = Shape {
                id: shape.id.wrapping_add(at as u16),
                sequence: shape.sequence.wrapping_add((at * gso_size) as u32),
                tcp_flags: shape.tcp_flags & first & end,
                payload: chunks[at].to_vec(),
                ..shape.clone()
            };
            piece.whole()
        };
        (0..=last).map(piece).collect()
    }

    fn shape() -> impl Strategy<Value = (Shape, u16)> {
        let headers = (any::<bool>(), any::<bool>(), 0..=5_usize, 0..=10_usize);
        let fields = (any::<u8>(), any::<u32>(), any::<u16>());
        (headers, fields, 8..=3000_u16, 2..=20_usize, 0.0..1.0).prop_map(
            |((v6, tcp, extra, options), (tcp_flags, sequence, id), gso_size, count, fill)| {
                let tail = 1 + ((f64::from(gso_size) - 1.0) * fill) as usize;
                let payload = ((count - 1) * usize::from(gso_size) + tail).min(65_000);
                let shape = Shape {
                    extra: extra * 8,
                    tcp_options: options * 4,
                    tcp_flags,
                    sequence,
                    id,
                    ..Shape::new(v6, tcp, payload)
                };
                (shape, gso_size)
            },
        )
    }

    proptest! {
        #[test]
        fn segments_are_the_packets_that_the_sender_would_have_made((shape, gso_size) in shape()) {
            let packet = shape.partial(Some(gso_size));
            let pieces = segments(&packet, NOTHING);
            prop_assert_eq!(&pieces, &expected(&shape, usize::from(gso_size)));
            prop_assert_eq!(offload::segments(&packet) as usize, pieces.len());
            prop_assert_eq!(offload::segments(&pieces[0]), 1);
            for piece in pieces {
                let header = packet::parse(&piece[VNET_LEN..]).unwrap();
                assert_checksums(&piece, header.l4, header.protocol);
            }
        }

        #[test]
        fn cutting_first_changes_no_segment(
            (shape, gso_size) in shape(),
            maxima in prop::collection::vec(0..70_000_usize, 1..8),
        ) {
            let mut packet = shape.partial(Some(gso_size));
            let direct = segments(&packet, NOTHING);
            let (mut pieces, mut start, mut front) = (Vec::new(), 0, Vec::new());
            for &max in maxima.iter().cycle().take(100) {
                let Some(at) = split_front(&mut packet[start..], max, &mut front) else { continue };
                let one = shape.headers() + VNET_LEN + usize::from(gso_size);
                prop_assert!(front.len() <= max.max(one));
                pieces.push(front.clone());
                start += at;
            }
            pieces.push(packet[start..].to_vec());
            let mut cut = Vec::new();
            for piece in pieces {
                let mut checked = piece.clone();
                prop_assert!(check(&mut checked).is_ok());
                prop_assert_eq!(&checked, &piece, "a piece is as `check` would have it");
                cut.extend(segments(&piece, NOTHING));
            }
            prop_assert_eq!(cut, direct);
        }

        #[test]
        fn hostile_bytes_do_not_panic(
            mut bytes in prop::collection::vec(any::<u8>(), 0..200),
            kind in 0..6_u8,
            max in 0..200_usize,
        ) {
            // Plausible at first sight: a flag, a type, and places within a short packet.
            if let Some(vnet) = bytes.first_chunk_mut::<VNET_LEN>() {
                vnet[..2].copy_from_slice(&[NEEDS_CSUM, kind]);
                vnet[5] = 0;
                vnet[7] = 0;
                vnet[9] = 0;
            }
            let mut front = Vec::new();
            let _ = check(&mut bytes.clone());
            let _ = split_front(&mut bytes.clone(), max, &mut front);
            complete(&mut bytes.clone());
            offload::segments(&bytes);
            segments(&bytes, NOTHING);
            segments(&bytes, EVERYTHING);
        }
    }

    #[test]
    fn cuts_as_many_segments_as_fit() {
        let shape = Shape::new(false, true, 10_000);
        let headers = VNET_LEN + shape.headers();
        for (max, count) in
            [(0, 1), (headers + 1999, 1), (headers + 2000, 2), (headers + 2001, 2), (headers + 9999, 9)]
        {
            let mut packet = shape.partial(Some(1000));
            let mut front = vec![1, 2, 3];
            assert_eq!(split_front(&mut packet, max, &mut front), Some(count * 1000), "{max}");
            assert_eq!(front.len(), headers + count * 1000);
        }
    }

    #[test]
    fn cuts_nothing_that_needs_no_cut() {
        let super_packet = Shape::new(false, true, 10_000).partial(Some(1000));
        let whole = Shape::new(false, true, 1000).whole();
        let partial = Shape::new(true, false, 1000).partial(None);
        for (packet, max) in [(&super_packet, super_packet.len()), (&whole, 100), (&partial, 100)] {
            let mut rest = packet.clone();
            assert_eq!(split_front(&mut rest, max, &mut Vec::new()), None);
            assert_eq!(&rest, packet);
        }
    }

    #[test]
    fn keeps_flags_where_they_belong() {
        let shape = Shape { tcp_flags: CWR | ACK | PSH | FIN, ..Shape::new(false, true, 3000) };
        let mut packet = shape.partial(Some(1000));
        packet[1] |= GSO_ECN;
        let mut front = Vec::new();
        let at = split_front(&mut packet, VNET_LEN + 40 + 1000, &mut front).unwrap();
        let flags = |packet: &[u8]| packet[VNET_LEN + 20 + 13];
        assert_eq!(flags(&front), CWR | ACK);
        assert_eq!(flags(&packet[at..]), ACK | PSH | FIN);
        assert_eq!(front[1], GSO_NONE);
        assert_eq!(packet[at + 1], super::super::GSO_TCPV4, "the rest has no CWR");
        let mut second = Vec::new();
        let last = split_front(&mut packet[at..], 0, &mut second).unwrap();
        assert_eq!(flags(&second), ACK);
        assert_eq!(flags(&packet[at + last..]), ACK | PSH | FIN);
    }

    #[test]
    fn completes_every_kind_of_packet() {
        for v6 in [false, true] {
            for tcp in [false, true] {
                for len in [0, 1, 2, 3, 1459, 1460] {
                    let shape = Shape { extra: 8, ..Shape::new(v6, tcp, len) };
                    let mut packet = shape.partial(None);
                    complete(&mut packet);
                    assert_eq!(packet, shape.whole());
                    complete(&mut packet);
                    assert_eq!(packet, shape.whole(), "a whole checksum stays");
                }
            }
        }
    }

    #[test]
    fn udp_checksum_of_zero_becomes_all_ones() {
        let mut shape = Shape::new(false, false, 2);
        shape.payload = vec![0, 0];
        let sum = u16::from_be_bytes(shape.whole()[VNET_LEN + 26..VNET_LEN + 28].try_into().unwrap());
        shape.payload = sum.to_be_bytes().to_vec();
        let mut packet = shape.partial(None);
        complete(&mut packet);
        assert_eq!(packet[VNET_LEN + 26..VNET_LEN + 28], [0xff, 0xff]);
        assert_checksums(&packet, 20, protocol::UDP);
    }

    #[test]
    fn makes_only_what_the_kernel_takes() {
        let tcp = Shape::new(true, true, 5000).partial(Some(1000));
        let udp = Shape::new(true, false, 5000).partial(Some(1000));
        let single = Shape::new(true, false, 500).partial(None);
        let whole = Shape::new(true, false, 500).whole();
        let features = |checksum, tcp, udp| Features { checksum, tcp, udp };
        for (features, tcp_count, udp_count, keeps_partial) in [
            (EVERYTHING, 1, 1, true),
            (features(true, true, false), 1, 5, true),
            (features(true, false, true), 5, 1, true),
            (features(true, false, false), 5, 5, true),
            (features(false, true, true), 5, 5, false),
            (NOTHING, 5, 5, false),
        ] {
            for (packet, count) in [(&tcp, tcp_count), (&udp, udp_count), (&single, 1)] {
                let pieces = segments(packet, features);
                assert_eq!(pieces.len(), count, "{features:?}");
                assert_eq!(features.fits(packet), pieces[0] == *packet, "{features:?}");
                assert!(pieces.iter().all(|piece| features.fits(piece) && (piece[0] == 1) == keeps_partial));
            }
            assert_eq!(segments(&whole, features), std::slice::from_ref(&whole));
        }
    }

    #[test]
    fn halves_the_longest_udp_super_packets_for_older_kernels() {
        let shape = Shape::new(false, false, 12_800);
        let pieces = segments(&shape.partial(Some(100)), EVERYTHING);
        let lengths: Vec<usize> = pieces.iter().map(Vec::len).collect();
        assert_eq!(lengths, [VNET_LEN + 28 + 6400; 2]);
        let cut: Vec<Vec<u8>> = pieces.iter().flat_map(|piece| segments(piece, NOTHING)).collect();
        assert_eq!(cut, expected(&shape, 100));
    }
}
