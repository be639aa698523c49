//! What is joined is cut again into the very packets that went in, and what would not be is not joined.

use proptest::prelude::*;

use super::*;
use crate::packet::offload::testing::{ACK, CWR, FIN, PSH, Shape, naive_sum};
use crate::packet::offload::{self, Features, GSO_ECN, check};

const NOTHING: Features = Features { checksum: false, tcp: false, udp: false };
const CHECKSUM: Features = Features { checksum: true, tcp: false, udp: false };
const ECE: u8 = 0x40;

fn segments(packet: &[u8], features: Features) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    offload::segment(&mut packet.to_vec(), features, &mut Vec::new(), |piece| all.push(piece.to_vec()));
    all
}

fn completed(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    offload::complete(&mut packet);
    packet
}

/// Packets without the identifiers of those that may not be fragmented, which have no meaning, nor their checksums.
fn without_meaningless(packets: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let cleared = |mut packet: Vec<u8>| {
        if packet[VNET_LEN] >> 4 == 4 && packet[VNET_LEN + 6] & 0x40 != 0 {
            assert_eq!(naive_sum(&packet[VNET_LEN..VNET_LEN + 20]), 0xffff);
            packet[VNET_LEN + 4..VNET_LEN + 6].fill(0);
            packet[VNET_LEN + 10..VNET_LEN + 12].fill(0);
        }
        packet
    };
    packets.into_iter().map(cleared).collect()
}

fn join(packet: &[u8], next: &[u8]) -> Option<Vec<u8>> {
    let joint = joint(packet, next)?;
    let mut joined = [packet, &next[next.len() - joint.added()..]].concat();
    joint.mend(&mut joined);
    Some(joined)
}

/// The packet that comes `at` segments of `size` bytes behind that of `shape`, with `payload` bytes.
fn follower(shape: &Shape, at: usize, size: usize, payload: usize) -> Shape {
    Shape {
        id: shape.id.wrapping_add(at as u16),
        sequence: shape.sequence.wrapping_add((at * size) as u32),
        payload: (0..payload).map(|byte| (byte * 7 + at * 13) as u8).collect(),
        ..shape.clone()
    }
}

/// A run of packets that belong together: of `size` bytes of payload, the last with up to as many.
fn run() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let kind = (any::<bool>(), any::<bool>(), 0..=10_usize, any::<bool>(), any::<bool>());
    let fields = (any::<u32>(), any::<u16>(), prop_oneof![Just(0), Just(PSH), Just(FIN), Just(PSH | FIN)]);
    let sizes = (8..=1_500_usize, 2..=40_usize, 0.0..1.0, prop::collection::vec(any::<bool>(), 40));
    (kind, fields, sizes).prop_map(
        |(
            (v6, tcp, options, dont_fragment, ece),
            (sequence, id, ending),
            (size, count, fill, is_partial),
        )| {
            let flags = if ece { ACK | ECE } else { ACK };
            let tcp_options = if tcp { options * 4 } else { 0 };
            let shape = Shape {
                tcp_options,
                sequence,
                id,
                dont_fragment,
                tcp_flags: flags,
                ..Shape::new(v6, tcp, 0)
            };
            let last = 1 + ((size - 1) as f64 * fill) as usize;
            let packet = |at: usize| {
                let is_last = at == count - 1;
                let mut shape = follower(&shape, at, size, if is_last { last } else { size });
                if is_last {
                    shape.tcp_flags |= ending;
                }
                if is_partial[at] { shape.partial(None) } else { shape.whole() }
            };
            (0..count).map(packet).collect()
        },
    )
}

proptest! {
    #[test]
    fn what_was_joined_is_cut_into_the_packets_that_went_in(run in run()) {
        let mut joined = run[0].clone();
        for (at, next) in run.iter().enumerate().skip(1) {
            joined = join(&joined, next).unwrap();
            prop_assert_eq!(offload::segments(&joined) as usize, at + 1);
            let mut checked = joined.clone();
            prop_assert!(check(&mut checked).is_ok());
            prop_assert_eq!(&checked, &joined, "it is as `check` would have it");
        }
        let whole: Vec<Vec<u8>> = run.iter().map(|packet| completed(packet)).collect();
        prop_assert_eq!(segments(&joined, NOTHING), whole);
        if run.iter().all(|packet| packet[0] == NEEDS_CSUM) {
            prop_assert_eq!(segments(&joined, CHECKSUM), run);
        }
    }

    #[test]
    fn a_packet_that_was_changed_anywhere_is_joined_only_where_it_is_cut_as_it_was(
        run in run(),
        keep in 1..3_usize,
        changes in prop::collection::vec((any::<bool>(), 0..90_usize, any::<u8>()), 1..3),
    ) {
        let mut run = run;
        run.truncate(keep + 1);
        let mut next = run.pop().unwrap();
        let mut packet = run[0].clone();
        for follower in &run[1..] {
            packet = join(&packet, follower).unwrap();
        }
        for (is_first, at, bits) in changes {
            let changed = if is_first { &mut packet } else { &mut next };
            if let Some(byte) = changed.get_mut(at) {
                *byte ^= bits;
            }
        }
        prop_assume!(check(&mut packet).is_ok() && check(&mut next).is_ok());
        let Some(joined) = join(&packet, &next) else { return Ok(()) };
        prop_assert!(check(&mut joined.clone()).is_ok());
        let cut = [segments(&packet, NOTHING), segments(&next, NOTHING)].concat();
        prop_assert_eq!(without_meaningless(segments(&joined, NOTHING)), without_meaningless(cut));
    }

    #[test]
    fn hostile_bytes_do_not_panic(
        run in run(),
        changes in prop::collection::vec((0..90_usize, any::<u8>()), 0..8),
        cut in 0..200_usize,
    ) {
        let (mut packet, mut next) = (run[0].clone(), run[1].clone());
        for (at, to) in changes {
            if let Some(byte) = packet.get_mut(at) {
                *byte = to;
            }
            if let Some(byte) = next.get_mut(at) {
                *byte = to;
            }
        }
        join(&packet, &next);
        packet.truncate(cut);
        join(&packet, &next);
        join(&next, &packet);
        next.truncate(cut / 2);
        join(&packet, &next);
        packet.truncate(next.len());
        supersedes(&next, &packet);
    }
}

#[test]
fn joins_nothing_that_offload_would_not_have_joined() {
    type Change = fn(&mut Shape);
    let cases: &[(&str, bool, bool, Change)] = &[
        ("may be fragmented", false, false, |s| s.dont_fragment = false),
        ("IPv4 options", false, false, |s| s.extra = 8),
        ("IPv6 extension headers", true, false, |s| s.extra = 8),
        ("a longer datagram", false, false, |s| s.payload.push(0)),
        ("a longer segment", true, true, |s| s.payload.push(0)),
        ("no payload", false, false, |s| s.payload.clear()),
        ("an acknowledgement alone", false, true, |s| s.payload.clear()),
        ("a gap", false, true, |s| s.sequence += 1),
        ("a repetition", true, true, |s| s.sequence -= 1_000),
        ("other options", false, true, |s| s.tcp_options = 12),
        ("congestion window reduced", false, true, |s| s.tcp_flags |= CWR),
        ("congestion echoed", false, true, |s| s.tcp_flags |= ECE),
        ("a reset", false, true, |s| s.tcp_flags |= 4),
        ("urgent", false, true, |s| s.tcp_flags |= 0x20),
        ("a handshake", true, true, |s| s.tcp_flags |= 2),
        ("no acknowledgement", true, true, |s| s.tcp_flags = 0),
    ];
    for &(what, v6, tcp, change) in cases {
        let first = Shape::new(v6, tcp, 1_000);
        let mut next = follower(&first, 1, 1_000, 1_000);
        assert!(joint(&first.partial(None), &next.partial(None)).is_some(), "{what}");
        change(&mut next);
        for (packet, next) in [(first.partial(None), next.partial(None)), (first.whole(), next.whole())] {
            assert_eq!(joint(&packet, &next), None, "{what}");
        }
    }
}

#[test]
fn identifiers_have_to_follow_where_a_packet_may_be_fragmented() {
    for tcp in [false, true] {
        for dont_fragment in [false, true] {
            let first = Shape { dont_fragment, ..Shape::new(false, tcp, 1_000) };
            let next = follower(&first, 1, 1_000, 1_000);
            for id in [first.id, next.id.wrapping_add(7)] {
                let other = Shape { id, ..next.clone() };
                let joined = join(&first.partial(None), &other.partial(None));
                assert_eq!(joined.is_some(), dont_fragment);
                // It then is the one that follows.
                if let Some(joined) = joined {
                    assert_eq!(segments(&joined, NOTHING), [first.whole(), next.whole()]);
                }
            }
        }
    }
}

#[test]
fn joins_nothing_behind_a_packet_that_ends_a_run() {
    for flags in [PSH, FIN, CWR, ECE] {
        let first = Shape { tcp_flags: ACK | flags, ..Shape::new(false, true, 1_000) };
        let next = Shape { tcp_flags: ACK, ..follower(&first, 1, 1_000, 1_000) };
        assert_eq!(joint(&first.partial(None), &next.partial(None)), None, "{flags:#x}");
    }
    for tcp in [false, true] {
        let first = Shape::new(false, tcp, 1_000);
        let short = follower(&first, 1, 1_000, 999);
        let joined = join(&first.partial(None), &short.partial(None)).unwrap();
        let after = Shape { sequence: first.sequence.wrapping_add(1_999), ..follower(&first, 2, 1_000, 999) };
        assert_eq!(joint(&joined, &after.partial(None)), None);
    }
}

#[test]
fn joins_no_wrong_checksum() {
    for (v6, tcp) in [(false, false), (false, true), (true, false), (true, true)] {
        let first = Shape::new(v6, tcp, 1_000);
        let next = follower(&first, 1, 1_000, 1_000);
        for (first, next) in [(first.whole(), next.whole()), (first.partial(None), next.partial(None))] {
            let l4 = Layout::of(&first).unwrap().l4;
            let field = l4 + if tcp { 16 } else { 6 };
            assert!(joint(&first, &next).is_some());
            for at in [field, next.len() - 1].into_iter().filter(|&at| at == field || next[0] == 0) {
                let (mut bad_first, mut bad_next) = (first.clone(), next.clone());
                bad_first[at] ^= 1;
                bad_next[at] ^= 1;
                assert_eq!(joint(&bad_first, &next), None);
                assert_eq!(joint(&first, &bad_next), None);
            }
            let mut unsummed = next.clone();
            unsummed[field..field + 2].fill(0);
            assert_eq!(joint(&first, &unsummed), None, "without a checksum");
        }
    }
    let first = Shape::new(false, false, 100).partial(None);
    let mut next = follower(&Shape::new(false, false, 0), 1, 100, 100).partial(None);
    next[VNET_LEN + 10] ^= 1;
    assert_eq!(joint(&first, &next), None, "IPv4 header checksum");
}

#[test]
fn a_super_packet_of_the_kernel_takes_one_more_and_is_none_itself() {
    let first = Shape::new(false, true, 3_000);
    let whole = first.partial(Some(1_000));
    let next = follower(&first, 3, 1_000, 500);
    assert_eq!(offload::segments(&join(&whole, &next.partial(None)).unwrap()), 4);
    assert_eq!(joint(&whole, &follower(&first, 3, 1_000, 1_001).partial(None)), None);
    assert_eq!(joint(&whole, &follower(&first, 3, 1_000, 1_000).partial(Some(500))), None);
    assert_eq!(joint(&first.partial(Some(999)), &next.partial(None)), None, "its last segment is shorter");
    let mut echoing = whole.clone();
    echoing[1] |= GSO_ECN;
    assert_eq!(joint(&echoing, &next.partial(None)), None);
}

#[test]
fn takes_64_datagrams_and_65535_bytes() {
    for (payload, most) in [(100, 64), (1_400, 46), (30_000, 2)] {
        let shape = Shape::new(false, false, 0);
        let mut joined = follower(&shape, 0, 0, payload).partial(None);
        let mut count = 1;
        while let Some(more) = join(&joined, &follower(&shape, count, 0, payload).partial(None)) {
            joined = more;
            count += 1;
        }
        assert_eq!(count, most, "{payload} bytes");
    }
}

/// An acknowledgement with a time stamp, or a packet made of one.
fn acknowledgement(v6: bool, acknowledged: u32, change: fn(&mut Shape), options: &[u8]) -> Vec<u8> {
    let mut shape = Shape { acknowledged, tcp_options: options.len(), ..Shape::new(v6, true, 0) };
    change(&mut shape);
    let mut packet = shape.partial(None);
    let end = VNET_LEN + shape.headers();
    packet[end - options.len()..end].copy_from_slice(options);
    packet
}

const STAMP: [u8; 12] = [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2];
const LATER: [u8; 12] = [1, 1, 8, 10, 0, 0, 0, 7, 0, 0, 0, 9];

#[test]
fn an_acknowledgement_takes_the_place_of_one_of_less() {
    const ALIKE: fn(&mut Shape) = |_| ();
    for (v6, options, later) in [(false, &STAMP[..], &LATER[..]), (true, &STAMP, &LATER), (true, &[], &[])] {
        for before in [5, u32::MAX - 5, 0x7fff_fff0] {
            let packet = acknowledgement(v6, before, ALIKE, options);
            let next = acknowledgement(v6, before.wrapping_add(1_448), ALIKE, later);
            assert!(supersedes(&next, &packet));
            assert!(supersedes(&completed(&next), &packet) && supersedes(&next, &completed(&packet)));
            assert!(!supersedes(&packet, &next), "the older one came second");
            assert!(!supersedes(&packet, &packet), "it tells of a loss");
            let mut wider = next.clone();
            let window = wider.len() - options.len() - 6;
            wider[window] = 200;
            assert!(supersedes(&wider, &packet), "the window is that of the second");
        }
    }
}

#[test]
fn an_acknowledgement_that_says_more_stays() {
    const HOLE: [u8; 12] = [1, 1, 5, 10, 0, 0, 0, 7, 0, 0, 0, 9];
    type Change = fn(&mut Shape);
    let cases: &[(&str, Change)] = &[
        ("may be fragmented, and its number does not follow", |s| {
            (s.dont_fragment, s.id) = (false, s.id.wrapping_add(5));
        }),
        ("payload", |s| s.payload.push(0)),
        ("it follows payload", |s| s.sequence = s.sequence.wrapping_add(1)),
        ("congestion window reduced", |s| s.tcp_flags |= CWR),
        ("congestion echoed", |s| s.tcp_flags |= ECE),
        ("pushed", |s| s.tcp_flags |= PSH),
        ("the end", |s| s.tcp_flags |= FIN),
        ("a reset", |s| s.tcp_flags |= 4),
        ("a handshake", |s| s.tcp_flags |= 2),
        ("urgent", |s| s.tcp_flags |= 0x20),
        ("a datagram", |s| s.tcp = false),
        ("options of IPv4", |s| s.extra = 8),
        ("half the numbers further", |s| s.acknowledged = s.acknowledged.wrapping_add(1 << 31)),
    ];
    let alike = |acknowledged, options: &[u8]| acknowledgement(false, acknowledged, |_| (), options);
    for &(what, change) in cases {
        let changed = |acknowledged| {
            let options: &[u8] = if what == "a datagram" { &[] } else { &STAMP };
            acknowledgement(false, acknowledged, change, options)
        };
        assert!(!supersedes(&changed(2_000), &alike(1_000, &STAMP)), "{what}");
        assert!(!supersedes(&alike(2_000, &STAMP), &changed(1_000)), "{what}, before");
    }
    assert!(!supersedes(&alike(2_000, &HOLE), &alike(1_000, &STAMP)), "it tells of a hole");
    assert!(!supersedes(&alike(2_000, &STAMP), &alike(1_000, &HOLE)));
    // Bytes that no check has seen, either: each place of both headers.
    for at in VNET_LEN..VNET_LEN + 40 {
        let (packet, mut next) = (completed(&alike(1_000, &STAMP)), completed(&alike(2_000, &STAMP)));
        next[at] ^= 0x10;
        assert!(!supersedes(&next, &packet), "byte {at}");
    }
}
