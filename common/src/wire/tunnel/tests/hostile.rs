//! Records from an attacker on the way, and frames that an authenticated end should not say.

use super::*;
use crate::wire::frame::PageKind;

// ---- records from an attacker

#[test]
fn every_flipped_bit_of_a_record_breaks_the_link_and_nothing_is_delivered() {
    let packet = Shape::new(false, false, 20).whole();
    for bit in 0.. {
        let mut pair = Pair::open();
        let mut wire = pair.records_of(&[&packet]);
        if bit >= wire.len() * 8 {
            break;
        }
        wire[bit / 8] ^= 1 << (bit % 8);
        // A longer length waits for bytes that are never the right ones.
        wire.extend([0; LENGTH_LEN + MAX_RECORD]);
        assert_eq!(pair.hub.read(&wire, usize::MAX, pair.now), Err(Error::Record), "bit {bit}");
        assert!(pair.hub.got.is_empty(), "bit {bit}");
    }
}

#[test]
fn a_large_packet_that_was_flipped_is_not_delivered() {
    let packet = plain_packet(STRAIGHT, 7);
    for at in [0, 1, 2, 5, 2_000, STRAIGHT - 1, STRAIGHT, STRAIGHT + TAG_LEN - 1] {
        let mut pair = Pair::open();
        let mut wire = pair.records_of(&[&packet]);
        let body = wire.len() - STRAIGHT - TAG_LEN;
        wire[body + at] ^= 1;
        assert_eq!(pair.hub.read(&wire, usize::MAX, pair.now), Err(Error::Record), "byte {at}");
        assert!(pair.hub.got.is_empty(), "byte {at}");
    }
}

#[test]
fn a_record_replayed_reordered_dropped_or_reflected_breaks_the_link() {
    let packet = Shape::new(false, false, 20).whole();
    for (what, order) in [
        ("replayed", &[0, 0][..]),
        ("replayed later", &[0, 1, 0]),
        ("reordered", &[1, 0]),
        ("dropped", &[0, 2]),
    ] {
        let mut pair = Pair::open();
        let wires = [&packet; 3].map(|packet| pair.records_of(&[packet]));
        let wire: Vec<u8> = order.iter().flat_map(|&at| wires[at].clone()).collect();
        assert_eq!(pair.hub.read(&wire, usize::MAX, pair.now), Err(Error::Record), "{what}");
        let in_order = order.iter().enumerate().take_while(|&(at, &record)| at == record).count();
        assert_eq!(pair.hub.packets(), vec![packet.clone(); in_order], "{what}");
    }
    let mut pair = Pair::open();
    let wire = pair.records_of(&[&packet]);
    assert_eq!(pair.spoke.read(&wire, usize::MAX, pair.now), Err(Error::Record), "reflected");
    assert!(pair.spoke.got.is_empty());

    let mut other = Pair::open();
    other.hub.read(&wire, usize::MAX, other.now).expect("the same keys and ephemeral keys");
    let now = other.now;
    let mut other = Pair {
        spoke: End::new(|pool| Tunnel::spoke(&key(1), [5; 32], None, &join(), pool, now)),
        hub: End::new(|_| Tunnel::hub(&key(2), [6; 32], now)),
        now,
    };
    other.exchange();
    other.hub.got.clear();
    assert_eq!(other.hub.read(&wire, usize::MAX, now), Err(Error::Record), "of another connection");
    assert!(other.hub.got.is_empty());
}

#[test]
fn a_record_too_short_for_its_tag_breaks_the_link_at_once() {
    for len in 0..TAG_LEN as u16 {
        let mut pair = Pair::open();
        assert_eq!(pair.hub.read(&len.to_be_bytes(), 1, pair.now), Err(Error::Record), "{len}");
    }
}

#[test]
fn a_forged_record_of_the_longest_length_breaks_the_link_once_it_is_whole() {
    let mut pair = Pair::open();
    let forged = [&[0xff; LENGTH_LEN][..], &vec![7; MAX_RECORD]].concat();
    let (front, last) = forged.split_at(forged.len() - 1);
    pair.hub.read(front, 1_000, pair.now).unwrap();
    assert_eq!(pair.hub.read(last, 1, pair.now), Err(Error::Record));
    assert!(pair.hub.got.is_empty());
}

#[test]
fn records_of_the_least_and_the_greatest_length_are_fine() {
    let mut pair = Pair::open();
    let empty = pair.spoke.record(&[]);
    assert_eq!(empty.len(), LENGTH_LEN + TAG_LEN);
    pair.hub.read(&empty.repeat(1), 1, pair.now).unwrap();
    let body = vec![5; MAX_RECORD_PLAIN - HEADER_LEN];
    let full = pair.spoke.record(&frame(PACKET, &body));
    assert_eq!(full.len(), LENGTH_LEN + MAX_RECORD);
    pair.hub.read(&full, usize::MAX, pair.now).unwrap();
    assert!(pair.hub.packets() == [body]);
}

// ---- frames from an authenticated end

#[test]
fn a_frame_beyond_the_bound_breaks_the_link_whatever_its_kind() {
    for kind in [PACKET, FIRST_OPTIONAL, 255] {
        let mut pair = Pair::open();
        let [_, high, middle, low] = (MAX_BODY as u32 + 1).to_be_bytes();
        let record = pair.spoke.record(&[kind, high, middle, low]);
        assert_eq!(pair.hub.read(&record, usize::MAX, pair.now), Err(Error::Frame), "kind {kind}");
    }
}

#[test]
fn unknown_kinds_are_skipped_from_128_on_and_break_the_link_below() {
    for kind in (0..=0).chain(FIRST_UNKNOWN..FIRST_OPTIONAL).chain(FIRST_UNKNOWN_OPTIONAL..=255) {
        let mut pair = Pair::open();
        let plain = [frame(kind, b"of a later version"), frame(PACKET, b"packet")].concat();
        let record = pair.spoke.record(&plain);
        let read = pair.hub.read(&record, usize::MAX, pair.now);
        if kind >= FIRST_OPTIONAL {
            assert_eq!(read, Ok(()), "kind {kind}");
            assert_eq!(pair.hub.packets(), [b"packet"], "kind {kind}");
        } else {
            assert_eq!(read, Err(Error::Frame), "kind {kind}");
            assert!(pair.hub.got.is_empty(), "kind {kind}");
        }
    }
}

#[test]
fn each_end_says_only_what_is_its_to_say_and_only_in_time() {
    let refused = ControlFrame::Refused { reason: Refusal::Full, text: String::new() };
    let routes = ControlFrame::Routes { added: vec![], removed: vec![], all: true };
    let members = ControlFrame::Members { peers: vec![], page: PageKind::Last, state: None };
    // Who may hear it: a hub that decides, a hub, a spoke that waits, a spoke.
    let table: &[(ControlFrame, [bool; 4])] = &[
        (ControlFrame::Ping(1), [true; 4]),
        (ControlFrame::Pong(1), [true; 4]),
        (ControlFrame::Bye(Farewell::Stopping), [true; 4]),
        (ControlFrame::Welcome(welcome()), [false, false, true, false]),
        (refused, [false, false, true, false]),
        (routes, [false, false, false, true]),
        (members, [false, false, false, true]),
        (ControlFrame::AskMembers { after: None, watch: false, since: None }, [false, true, false, false]),
    ];
    for (control, allowed) in table {
        for (at, &allowed) in allowed.iter().enumerate() {
            let Pair { mut spoke, mut hub, now } = if at % 2 == 0 { Pair::joining() } else { Pair::open() };
            let (from, to) = if at < 2 { (&mut spoke, &mut hub) } else { (&mut hub, &mut spoke) };
            let record = from.control_record(control);
            let expected = if allowed { Ok(()) } else { Err(Error::Frame) };
            assert_eq!(to.read(&record, usize::MAX, now), expected, "{control:?}, case {at}");
            assert!(allowed || to.got.is_empty(), "{control:?}, case {at}");
        }
    }
}

#[test]
fn a_packet_before_the_welcome_or_after_goodbye_breaks_the_link() {
    let mut pair = Pair::joining();
    let record = pair.spoke.record(&frame(PACKET, b"early"));
    assert_eq!(pair.hub.read(&record, usize::MAX, pair.now), Err(Error::Frame));
    let mut pair = Pair::joining();
    let record = pair.hub.record(&frame(PACKET, b"early"));
    assert_eq!(pair.spoke.read(&record, usize::MAX, pair.now), Err(Error::Frame));
    let mut pair = Pair::open();
    let bye = pair.spoke.control_record(&ControlFrame::Bye(Farewell::Stopping));
    let late = pair.spoke.record(&frame(PACKET, b"late"));
    assert_eq!(pair.hub.read(&[bye, late].concat(), usize::MAX, pair.now), Err(Error::Frame));
    assert_eq!(pair.hub.got, [Got::Control(ControlFrame::Bye(Farewell::Stopping))]);
}

#[test]
fn goodbye_goes_ahead_of_packets_and_needs_someone_to_hear_it() {
    let mut pair = Pair::open();
    pair.hub.tunnel.bye(Farewell::Replaced).unwrap();
    pair.exchange();
    assert_eq!(pair.spoke.got, [Got::Control(ControlFrame::Bye(Farewell::Replaced))]);
    let mut pair = Pair::unjoined(None);
    pair.hub.tunnel.bye(Farewell::Stopping).unwrap();
    assert!(!pair.hub.tunnel.wants_write());
}
