//! Packets of this machine's own kernel: completes offloads that the wire does not carry. Pure.
//!
//! A TUN device offers the kernel to sum any packet from any place on (`NETIF_F_HW_CSUM`), and since Linux 6.17
//! also within tunnels (`hw_enc_features` in drivers/net/tun.c). So of a packet in VXLAN, GENEVE, GRE, IPIP, SIT,
//! or several of them, it is the innermost checksum that is open; the outer ones are whole and count on the inner
//! one being finished (`lco_csum` in include/linux/skbuff.h). GRE with checksums and nothing open inside leaves
//! its own to the device. Guests and containers hand such packets to their host, which routes them on as they are.
//!
//! Super-packets never come in a tunnel: the device does not offer that (`TUN_F_UDP_TUNNEL_GSO`), and the kernel
//! segments them first (`skb_gso_ok`). SCTP is summed by the kernel (`skb_csum_hwoffload_help`), fragments too
//! (`ip_do_fragment`). What was merged by a network card that verified it (LRO) comes as a super-packet with
//! [`DATA_VALID`] and no partial checksum (`netif_needs_gso`).

use super::check::check;
use super::split::complete;
use super::vnet::{DATA_VALID, NEEDS_CSUM, Vnet, headers};
use crate::packet::checksum;
use crate::packet::drops::Reason;
use crate::packet::{self, Fragment, Header, VNET_LEN, protocol};

/// As [`check`], for a packet that the machine's own TUN device handed over.
///
/// Before that, a checksum that is open anywhere but in the outermost TCP or UDP header is completed, and a
/// super-packet with a verified checksum gets a partial one. The wire thus carries neither.
///
/// # Errors
/// As for [`check`]. Also a checksum that is open in a fragment, in SCTP, ahead of the L4 header or beyond the
/// packet is [`Reason::Offload`]: no kernel leaves one there.
#[inline]
pub fn check_own(packet: &mut [u8]) -> Result<Header, Reason> {
    match check(packet) {
        Err(Reason::Offload) => finish(packet),
        checked => checked,
    }
}

/// Finishes what [`check`] does not let pass, and checks it again.
#[cold]
fn finish(packet: &mut [u8]) -> Result<Header, Reason> {
    let (vnet, ip) = packet.split_first_chunk_mut::<VNET_LEN>().ok_or(Reason::Malformed)?;
    let header = packet::parse(ip)?;
    let claimed = Vnet::read(vnet);
    match (claimed.flags, claimed.is_gso()) {
        (NEEDS_CSUM, false) if is_open_elsewhere(claimed, &header) => complete(packet),
        (DATA_VALID, true) => *vnet = reopened(claimed, &header, ip).ok_or(Reason::Offload)?.bytes(),
        _ => return Err(Reason::Offload),
    }
    check(packet)
}

/// Whether a partial checksum is one that only its place keeps from the wire.
fn is_open_elsewhere(vnet: Vnet, header: &Header) -> bool {
    let start = usize::from(vnet.csum_start);
    let has_own_checksum = matches!(header.protocol, protocol::TCP | protocol::UDP | protocol::SCTP);
    header.fragment == Fragment::No
        && if has_own_checksum { start > header.l4 } else { start >= header.l4 }
        && start + usize::from(vnet.csum_offset) + 2 <= header.length
}

/// Puts the sum of the pseudo-header in place of the whole checksum; the virtio-net header that says so.
fn reopened(vnet: Vnet, header: &Header, ip: &mut [u8]) -> Option<Vnet> {
    let (csum_offset, _) = headers(header, ip)?;
    let addresses = if header.is_ipv6() { 8..40 } else { 12..20 };
    let length = u16::try_from(header.length - header.l4).ok()?;
    let sum = checksum::add(checksum::sum(ip.get(addresses)?), length);
    let sum = checksum::add(sum, u16::from(header.protocol));
    let field = header.l4 + csum_offset;
    ip.get_mut(field..field + 2)?.copy_from_slice(&sum.to_be_bytes());
    let csum_start = u16::try_from(header.l4).ok()?;
    Some(Vnet { flags: NEEDS_CSUM, csum_start, csum_offset: csum_offset as u16, ..vnet })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::offload::testing::{Shape, assert_checksums, naive_sum};
    use crate::packet::offload::{Features, GSO_TCPV4, segment};
    use proptest::prelude::*;

    /// One layer around a packet.
    #[derive(Clone, Copy, Debug)]
    enum Layer {
        /// Bytes between the outer IP header and the packet, and the protocol number of the outer IP header.
        Plain { v6: bool, between: usize, protocol: u8 },
        /// UDP, with or without a checksum of its own, and so many bytes behind it.
        Udp { v6: bool, between: usize, summed: bool },
    }

    fn layer() -> impl Strategy<Value = Layer> {
        let number = prop_oneof![Just(4_u8), Just(41), Just(47), Just(94), Just(115), Just(137)];
        prop_oneof![
            (any::<bool>(), 0..40_usize, number).prop_map(|(v6, between, protocol)| Layer::Plain {
                v6,
                between,
                protocol
            }),
            (any::<bool>(), 0..60_usize, any::<bool>()).prop_map(|(v6, between, summed)| Layer::Udp {
                v6,
                between,
                summed
            }),
        ]
    }

    /// An IP packet in a tunnel; checksums of the layers are those of the packet as it is.
    fn wrap(inner: &[u8], layer: Layer) -> Vec<u8> {
        let filler = |len: usize| (0..len).map(|at| (at * 89 + 7) as u8);
        let (v6, between, kind) = match layer {
            Layer::Plain { v6, between, protocol } => (v6, between, Some(protocol)),
            Layer::Udp { v6, between, .. } => (v6, between, None),
        };
        let payload: Vec<u8> = filler(between).chain(inner.iter().copied()).collect();
        let shape = Shape { payload, ..Shape::new(v6, false, 0) };
        let mut packet = shape.whole()[VNET_LEN..].to_vec();
        let l4 = shape.l4();
        match (kind, layer) {
            (Some(protocol), _) => {
                packet.drain(l4..l4 + 8);
                let total = packet.len() as u16;
                if v6 {
                    packet[4..6].copy_from_slice(&(total - 40).to_be_bytes());
                    packet[6] = protocol;
                } else {
                    packet[2..4].copy_from_slice(&total.to_be_bytes());
                    packet[9] = protocol;
                    packet[10..12].fill(0);
                    let sum = !naive_sum(&packet[..20]);
                    packet[10..12].copy_from_slice(&sum.to_be_bytes());
                }
            }
            (None, Layer::Udp { summed: false, .. }) => packet[l4 + 6..l4 + 8].fill(0),
            (None, _) => {}
        }
        packet
    }

    fn inner() -> impl Strategy<Value = Shape> {
        (any::<bool>(), any::<bool>(), 0..=3_usize, 0..=4_usize, 0..3000_usize).prop_map(
            |(v6, tcp, extra, options, payload)| Shape {
                extra: extra * 8,
                tcp_options: options * 4,
                ..Shape::new(v6, tcp, payload)
            },
        )
    }

    /// The packet that the kernel hands over, and the one that shall leave: an inner packet with an open
    /// checksum in layers whose checksums are whole already.
    fn handed_over(shape: &Shape, layers: &[Layer]) -> (Vec<u8>, Vec<u8>) {
        let whole =
            layers.iter().fold(shape.whole()[VNET_LEN..].to_vec(), |inner, &layer| wrap(&inner, layer));
        let from_end = shape.whole().len() - VNET_LEN - shape.l4();
        let start = whole.len() - from_end;
        let field = if shape.tcp { 16 } else { 6 };
        let partial = shape.partial(None);
        let at = VNET_LEN + shape.l4() + field;
        let mut open = whole.clone();
        open[start + field..start + field + 2].copy_from_slice(&partial[at..at + 2]);
        let vnet = Vnet {
            flags: NEEDS_CSUM,
            csum_start: start as u16,
            csum_offset: field as u16,
            ..Vnet::default()
        };
        ([&vnet.bytes()[..], &open].concat(), [vec![0; VNET_LEN], whole].concat())
    }

    proptest! {
        #[test]
        fn finishes_what_is_open_inside_another_packet(
            shape in inner(),
            layers in prop::collection::vec(layer(), 1..4),
        ) {
            let (mut packet, whole) = handed_over(&shape, &layers);
            prop_assert_eq!(check(&mut packet.clone()), Err(Reason::Offload), "the wire does not carry it");
            let header = check_own(&mut packet).unwrap();
            prop_assert_eq!(header.length, packet.len() - VNET_LEN);
            prop_assert_eq!(&packet, &whole);
        }

        #[test]
        fn agrees_with_a_naive_sum_wherever_it_is_open(
            payload in prop::collection::vec(any::<u8>(), 0..400),
            start in 0..500_u16,
            offset in 0..40_u16,
            number in any::<u8>(),
            v6 in any::<bool>(),
        ) {
            let mut packet = Shape { payload, ..Shape::new(v6, false, 0) }.whole();
            packet[VNET_LEN + if v6 { 6 } else { 9 }] = number;
            let vnet = Vnet { flags: NEEDS_CSUM, csum_start: start, csum_offset: offset, ..Vnet::default() };
            packet[..VNET_LEN].copy_from_slice(&vnet.bytes());
            let before = packet.clone();
            let (from, at) = (VNET_LEN + usize::from(start), VNET_LEN + usize::from(start + offset));
            match (check_own(&mut packet), packet[0]) {
                (Err(_), _) => prop_assert_eq!(packet, before),
                // Left to the receiver, as it is open in the outermost header.
                (Ok(header), NEEDS_CSUM) => prop_assert_eq!(usize::from(start), header.l4),
                (Ok(header), _) => {
                    prop_assert!(from >= VNET_LEN + header.l4);
                    let mut expected = before.clone();
                    let sum = !naive_sum(&before[from..]);
                    expected[at..at + 2].copy_from_slice(&if sum == 0 { 0xffff } else { sum }.to_be_bytes());
                    expected[..VNET_LEN].fill(0);
                    prop_assert_eq!(packet, expected);
                }
            }
        }

        #[test]
        fn lets_pass_what_check_lets_pass(shape in inner(), gso_size in prop::option::of(8..1500_u16)) {
            let mut packet = shape.partial(gso_size.filter(|_| !shape.payload.is_empty()));
            let mut other = packet.clone();
            prop_assert_eq!(check_own(&mut packet), check(&mut other));
            prop_assert_eq!(packet, other);
        }

        #[test]
        fn a_verified_super_packet_becomes_one_with_a_partial_checksum(shape in inner(), gso_size in 8..1500_u16) {
            prop_assume!(shape.payload.len() > usize::from(gso_size));
            prop_assume!(shape.tcp || shape.payload.len() <= usize::from(gso_size) * 128);
            let expected = shape.partial(Some(gso_size));
            let mut packet = shape.whole();
            let mut vnet = Vnet::read(expected.first_chunk().unwrap());
            vnet = Vnet { flags: DATA_VALID, csum_start: 0, csum_offset: 0, hdr_len: 9, ..vnet };
            packet[..VNET_LEN].copy_from_slice(&vnet.bytes());
            prop_assert_eq!(check(&mut packet.clone()), Err(Reason::Offload));
            check_own(&mut packet).unwrap();
            prop_assert_eq!(&packet, &expected);
            segment(&mut packet, Features::default(), &mut Vec::new(), |piece| {
                let header = packet::parse(&piece[VNET_LEN..]).unwrap();
                assert_checksums(piece, header.l4, header.protocol);
            });
        }
    }

    #[test]
    fn finishes_what_gre_leaves_to_the_device() {
        // `gre_build_header` with TUNNEL_CSUM: the field is 0, the sum starts at the GRE header.
        let inner = Shape::new(false, false, 33).whole()[VNET_LEN..].to_vec();
        let gre = [&[0x80, 0, 8, 0, 0, 0, 0, 0][..], &inner].concat();
        let mut packet = wrap(&gre, Layer::Plain { v6: false, between: 0, protocol: 47 });
        let vnet = Vnet { flags: NEEDS_CSUM, csum_start: 20, csum_offset: 4, ..Vnet::default() };
        packet.splice(0..0, vnet.bytes());
        check_own(&mut packet).unwrap();
        assert_eq!(packet[..VNET_LEN], [0; VNET_LEN]);
        assert_eq!(naive_sum(&packet[VNET_LEN + 20..]), 0xffff);
    }

    #[test]
    fn drops_what_no_kernel_leaves_open() {
        type Change = fn(&mut Vnet, &mut Vec<u8>);
        let layers = [Layer::Udp { v6: false, between: 22, summed: false }];
        let (good, _) = handed_over(&Shape::new(false, true, 100), &layers);
        assert!(check_own(&mut good.clone()).is_ok());
        let cases: &[(&str, Change)] = &[
            ("in the IP header", |v, _| (v.csum_start, v.csum_offset) = (0, 10)),
            ("just ahead of L4", |v, _| v.csum_start = 19),
            ("at L4, elsewhere than UDP has it", |v, _| (v.csum_start, v.csum_offset) = (20, 8)),
            ("beyond the packet", |v, _| v.csum_start = 200),
            ("half beyond the packet", |v, p| v.csum_offset = p.len() as u16 - 10 - v.csum_start - 1),
            ("far beyond the packet", |v, _| (v.csum_start, v.csum_offset) = (0xffff, 0xffff)),
            ("in a first fragment", |_, p| p[VNET_LEN + 6] = 0x20),
            ("in a later fragment", |_, p| p[VNET_LEN + 7] = 3),
            ("SCTP, which has another sum", |v, p| {
                p[VNET_LEN + 9] = protocol::SCTP;
                (v.csum_start, v.csum_offset) = (20, 8);
            }),
            ("and verified", |v, _| v.flags |= DATA_VALID),
            ("with an unknown flag", |v, _| v.flags |= 4),
            ("of a super-packet", |v, _| (v.gso_type, v.gso_size) = (GSO_TCPV4, 10)),
            ("of a super-packet that is verified, and none", |v, _| {
                (v.flags, v.gso_type, v.gso_size) = (DATA_VALID, GSO_TCPV4, 10);
            }),
        ];
        for (what, change) in cases {
            let mut packet = good.clone();
            let mut vnet = Vnet::read(packet.first_chunk().unwrap());
            change(&mut vnet, &mut packet);
            packet[..VNET_LEN].copy_from_slice(&vnet.bytes());
            assert_eq!(check_own(&mut packet), Err(Reason::Offload), "{what}");
        }
    }
}
