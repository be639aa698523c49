//! IPv4 packets cut to an MTU (RFC 791, section 3.2), for senders that allow it. Pure.

use super::split::{Features, segment};
use crate::packet::checksum;
use crate::packet::{Header, IPV4_LEN, VNET_LEN};

/// The least MTU that IPv4 knows (RFC 791).
const MIN_MTU: usize = 68;
/// "Don't fragment" in the 16-bit word at byte 6 of an IPv4 header.
const DONT_FRAGMENT: u16 = 0x4000;
/// "More fragments" in the same word.
const MORE_FRAGMENTS: u16 = 0x2000;
/// The fragment offset in the same word, in units of 8 bytes.
const FRAGMENT_OFFSET: u16 = 0x1fff;

/// Fragments an IPv4 packet that exceeds `mtu` and may be fragmented, as a router does (RFC 791): hands `out`
/// its fragments, each a packet with all its checksums. A super-packet is segmented first.
///
/// False, and nothing handed out, for IPv6, for "don't fragment", and for what can't be fragmented: an `mtu`
/// below IPv4's least, or a fragment that would end beyond the longest packet. Else true; `packet` and
/// `scratch` are overwritten.
pub fn fragment(
    packet: &mut [u8],
    header: &Header,
    mtu: usize,
    scratch: &mut Vec<u8>,
    mut out: impl FnMut(&[u8]),
) -> bool {
    let Some(&word) = packet.get(VNET_LEN + 6..).and_then(|rest| rest.first_chunk()) else { return false };
    let word = u16::from_be_bytes(word);
    let end = usize::from(word & FRAGMENT_OFFSET) * 8 + header.length;
    if header.is_ipv6() || word & DONT_FRAGMENT != 0 || mtu < MIN_MTU || end > usize::from(u16::MAX) {
        return false;
    }
    segment(packet, Features::default(), scratch, |whole| fragment_one(whole, header.l4, mtu, &mut out));
    true
}

/// Cuts one IPv4 packet with `header_len` bytes of header, in place: each fragment's header is written over
/// the end of the one before.
fn fragment_one(packet: &mut [u8], header_len: usize, mtu: usize, out: &mut impl FnMut(&[u8])) {
    let Some(data) = packet.len().checked_sub(VNET_LEN + header_len) else { return };
    if header_len + data <= mtu {
        return out(packet);
    }
    let mut head = [0; VNET_LEN + 60];
    let head = &mut head[..VNET_LEN + header_len];
    head.copy_from_slice(&packet[..VNET_LEN + header_len]);
    let word = u16::from_be_bytes([head[VNET_LEN + 6], head[VNET_LEN + 7]]);
    let step = (mtu - header_len) & !7;
    for at in (0..data).step_by(step) {
        let len = step.min(data - at);
        let piece = &mut packet[at..at + head.len() + len];
        piece[..head.len()].copy_from_slice(head);
        let more = if at + len < data { MORE_FRAGMENTS } else { word & MORE_FRAGMENTS };
        let ip = &mut piece[VNET_LEN..head.len()];
        ip[2..4].copy_from_slice(&((header_len + len) as u16).to_be_bytes());
        ip[6..8].copy_from_slice(&(((word & FRAGMENT_OFFSET) + (at / 8) as u16) | more).to_be_bytes());
        checksum::put(ip, 10, 0);
        out(piece);
        if at == 0 {
            blank_options(&mut head[VNET_LEN + IPV4_LEN..]);
        }
    }
}

/// Puts "no operation" in place of the options that only the first fragment carries: those without the
/// "copied" bit (RFC 791, section 3.1).
fn blank_options(options: &mut [u8]) {
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    const COPIED: u8 = 0x80;
    let mut at = 0;
    while let Some(&kind) = options.get(at) {
        let len = match (kind, options.get(at + 1)) {
            (END, _) => return,
            (NO_OPERATION, _) => 1,
            (_, Some(&len)) if len >= 2 => usize::from(len),
            _ => return,
        };
        let Some(option) = options.get_mut(at..at + len) else { return };
        if kind & COPIED == 0 {
            option.fill(NO_OPERATION);
        }
        at += len;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet;
    use crate::packet::offload::testing::{Shape, naive_sum};
    use proptest::prelude::*;

    fn header(packet: &[u8]) -> Header {
        packet::parse(&packet[VNET_LEN..]).unwrap()
    }

    /// Puts fragments together again, each checked: the payload, and the first one's header.
    fn reassemble(fragments: &[Vec<u8>], mtu: usize, header_len: usize) -> Vec<u8> {
        let mut data = Vec::new();
        for (at, piece) in fragments.iter().enumerate() {
            let header = header(piece);
            assert!(header.length <= mtu);
            assert_eq!(header.l4, header_len);
            let ip = &piece[VNET_LEN..];
            assert_eq!(naive_sum(&ip[..header_len]), 0xffff);
            let word = u16::from_be_bytes([ip[6], ip[7]]);
            assert_eq!(usize::from(word & FRAGMENT_OFFSET) * 8, data.len());
            assert_eq!(word & MORE_FRAGMENTS != 0, at + 1 < fragments.len());
            data.extend_from_slice(&ip[header_len..]);
        }
        data
    }

    proptest! {
        #[test]
        fn fragments_make_the_packet_again(
            payload in 0..9000_usize, mtu in 68..4000_usize, extra in 0..=5_usize, again in 68..1000_usize,
        ) {
            let shape = Shape { extra: extra * 8, dont_fragment: false, ..Shape::new(false, false, payload) };
            let mut packet = shape.partial(None);
            let header = header(&packet);
            let (mut fragments, mut scratch) = (Vec::new(), Vec::new());
            let done = fragment(&mut packet, &header, mtu, &mut scratch, |piece| fragments.push(piece.to_vec()));
            prop_assert!(done);
            let data = reassemble(&fragments, mtu, shape.l4());
            prop_assert_eq!(&data, &shape.whole()[VNET_LEN + shape.l4()..]);
            // Fragments of fragments are as good.
            let mut finer = Vec::new();
            for mut piece in fragments {
                let header = super::tests::header(&piece);
                let done = fragment(&mut piece, &header, again, &mut scratch, |piece| finer.push(piece.to_vec()));
                prop_assert!(done);
            }
            prop_assert_eq!(reassemble(&finer, mtu.min(again), shape.l4()), data);
        }
    }

    #[test]
    fn a_super_packet_is_segmented_and_then_fragmented() {
        let shape = Shape { dont_fragment: false, ..Shape::new(false, true, 3000) };
        let mut packet = shape.partial(Some(1000));
        let header = header(&packet);
        let mut ids = Vec::new();
        assert!(fragment(&mut packet, &header, 576, &mut Vec::new(), |piece| {
            ids.push(u16::from_be_bytes([piece[VNET_LEN + 4], piece[VNET_LEN + 5]]).wrapping_sub(shape.id));
        }));
        assert_eq!(ids, [0, 0, 1, 1, 2, 2]);
    }

    #[test]
    fn later_fragments_keep_only_copied_options() {
        let mut packet = Shape { extra: 16, dont_fragment: false, ..Shape::new(false, false, 200) }.whole();
        // Record route (not copied), no operation, router alert (copied), end.
        let options = [7, 7, 4, 0, 0, 0, 0, 1, 148, 4, 0, 0, 7, 3, 4, 0];
        packet[VNET_LEN + 20..VNET_LEN + 36].copy_from_slice(&options);
        let header = header(&packet);
        let mut seen = Vec::new();
        fragment(&mut packet, &header, 100, &mut Vec::new(), |piece| {
            seen.push(piece[VNET_LEN + 20..VNET_LEN + 36].to_vec());
        });
        assert_eq!(seen[0], options);
        assert_eq!(seen[1], [1, 1, 1, 1, 1, 1, 1, 1, 148, 4, 0, 0, 1, 1, 1, 0]);
        assert_eq!(seen[2], seen[1]);
    }

    #[test]
    fn hostile_options_do_not_panic() {
        for options in [[7, 0, 0, 0], [7, 1, 0, 0], [7, 200, 0, 0], [1, 1, 1, 7], [0x87, 5, 0, 0]] {
            blank_options(&mut options.clone());
        }
    }

    #[test]
    fn fragments_nothing_that_must_stay_whole() {
        type Change = fn(&mut Vec<u8>);
        let ip4 = Shape::new(false, false, 1000).whole();
        let ip6 = Shape::new(true, false, 1000).whole();
        let cases: &[(&str, &[u8], usize, Change)] = &[
            ("don't fragment", &ip4, 500, |_| {}),
            ("IPv6", &ip6, 500, |_| {}),
            ("an MTU that no link has", &ip4, 67, |p| p[VNET_LEN + 6] = 0),
            ("beyond the longest packet", &ip4, 500, |p| {
                p[VNET_LEN + 6..VNET_LEN + 8].copy_from_slice(&[0x1f, 0xff])
            }),
        ];
        for (what, packet, mtu, change) in cases {
            let mut packet = packet.to_vec();
            change(&mut packet);
            let header = header(&packet);
            let none = |_: &[u8]| panic!("{what}");
            assert!(!fragment(&mut packet, &header, *mtu, &mut Vec::new(), none), "{what}");
        }
    }
}
