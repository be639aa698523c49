//! The handshake, whole, cut, forged and late.

use super::*;
use crate::wire::hello::{HELLO_LEN, UnknownProtocol};
use crate::wire::noise::{Handshake, MAX_HANDSHAKE};

/// What a hub's tunnel holds of bytes that it has read.
fn parked(end: &End) -> usize {
    end.tunnel.parked.as_ref().map_or(0, |parked| parked.truesize())
}

#[test]
fn a_join_takes_two_round_trips() {
    let mut pair = Pair::unjoined(Some(key(2).public()));
    let now = pair.now;
    let first = pair.spoke.write(usize::MAX, now);
    pair.hub.read(&first, usize::MAX, now).unwrap();
    let second = pair.hub.write(usize::MAX, now);
    assert!(pair.hub.tunnel.is_half_open() && pair.hub.tunnel.remote().is_none());
    pair.spoke.read(&second, usize::MAX, now).unwrap();
    assert_eq!(pair.spoke.tunnel.remote(), Some(key(2).public()));
    let third = pair.spoke.write(usize::MAX, now);
    pair.hub.read(&third, usize::MAX, now).unwrap();
    assert_eq!(pair.hub.got, [Got::Join(key(1).public(), Ok(join()))]);
    assert!(!pair.hub.tunnel.is_half_open() && !pair.hub.tunnel.is_open());
    pair.hub.tunnel.welcome(welcome(), pair.now).unwrap();
    let fourth = pair.hub.write(usize::MAX, now);
    pair.spoke.read(&fourth, usize::MAX, now).unwrap();
    assert_eq!(pair.spoke.got, [Got::Control(ControlFrame::Welcome(welcome()))]);
    assert!(pair.spoke.tunnel.is_open() && pair.hub.tunnel.is_open());
}

#[test]
fn a_refusal_arrives_and_ends_the_tunnel() {
    let mut pair = Pair::joining();
    pair.hub.tunnel.refuse(Refusal::Full, "no room".to_owned()).unwrap();
    pair.exchange();
    let refused = ControlFrame::Refused { reason: Refusal::Full, text: "no room".to_owned() };
    assert_eq!(pair.spoke.got, [Got::Control(refused)]);
    assert!(!pair.spoke.tunnel.is_open() && !pair.hub.tunnel.is_open());
}

#[test]
fn an_unreadable_join_is_told_as_such() {
    let mut pair = Pair::unjoined(None);
    pair.spoke.tunnel.join = Some(vec![1, 0]);
    pair.exchange();
    assert_eq!(pair.hub.got, [Got::Join(key(1).public(), Err(BadFrame))]);
}

#[test]
fn a_hub_proves_its_key_before_it_is_asked_for_anything() {
    let now = Instant::now();
    let knocking = |keys: &[PublicKey]| End::new(|pool| Tunnel::knocking(&key(1), [3; 32], keys, pool, now));
    let hub = || End::new(|_| Tunnel::hub(&key(2), [4; 32], now));
    let [own, other] = [key(2).public(), key(9).public()];
    for keys in [&[][..], &[own], &[other, own]] {
        let mut pair = Pair { spoke: knocking(keys), hub: hub(), now };
        pair.exchange();
        assert_eq!(pair.spoke.tunnel.remote(), Some(own));
        assert!(
            pair.spoke.tunnel.is_half_open() && pair.hub.got.is_empty() && pair.hub.tunnel.is_half_open()
        );
        let End { tunnel, pool, .. } = &mut pair.spoke;
        tunnel.join(&join(), pool).unwrap();
        pair.exchange();
        assert_eq!(pair.hub.got, [Got::Join(key(1).public(), Ok(join()))]);
    }
    let mut pair = Pair { spoke: knocking(&[other, key(8).public()]), hub: hub(), now };
    let up = pair.spoke.write(usize::MAX, now);
    pair.hub.read(&up, usize::MAX, now).unwrap();
    let down = pair.hub.write(usize::MAX, now);
    assert_eq!(pair.spoke.read(&down, usize::MAX, now), Err(Error::HubKey { seen: own }));
}

#[test]
fn the_handshake_survives_a_cut_at_every_byte_and_waits_at_every_length() {
    for cut in 0.. {
        let mut pair = Pair::unjoined(None);
        let now = pair.now;
        let mut longest = 0;
        for turn in 0..3 {
            let (from, to) = match turn {
                1 => (&mut pair.hub, &mut pair.spoke),
                _ => (&mut pair.spoke, &mut pair.hub),
            };
            let message = from.write(usize::MAX, now);
            longest = longest.max(message.len());
            let (front, back) = message.split_at(cut.min(message.len()));
            to.read(front, usize::MAX, now).unwrap();
            if !back.is_empty() {
                assert!(to.tunnel.is_half_open() && to.got.is_empty(), "turn {turn}, cut {cut}");
                assert!(!to.tunnel.wants_write() || turn == 1, "turn {turn}, cut {cut}");
            }
            to.read(back, usize::MAX, now).unwrap();
        }
        assert_eq!(pair.hub.got, [Got::Join(key(1).public(), Ok(join()))], "cut {cut}");
        if cut > longest {
            break;
        }
    }
}

#[test]
fn every_flipped_bit_of_the_handshake_keeps_the_spoke_out() {
    for turn in 0..3 {
        for bit in 0.. {
            let mut pair = Pair::unjoined(None);
            let now = pair.now;
            let mut flipped = false;
            for at in 0..3 {
                let (from, to) = match at {
                    1 => (&mut pair.hub, &mut pair.spoke),
                    _ => (&mut pair.spoke, &mut pair.hub),
                };
                let mut message = from.write(usize::MAX, now);
                if at == turn && bit < message.len() * 8 {
                    message[bit / 8] ^= 1 << (bit % 8);
                    flipped = true;
                }
                if to.read(&message, usize::MAX, now).is_err() {
                    break;
                }
            }
            if !flipped {
                break;
            }
            assert!(pair.hub.got.is_empty(), "message {turn}, bit {bit}");
        }
    }
}

#[test]
fn another_hub_key_is_refused_before_the_spoke_sends_its_own() {
    let mut pair = Pair::unjoined(Some(key(9).public()));
    let first = pair.spoke.write(usize::MAX, pair.now);
    pair.hub.read(&first, usize::MAX, pair.now).unwrap();
    let second = pair.hub.write(usize::MAX, pair.now);
    let error = pair.spoke.read(&second, usize::MAX, pair.now).unwrap_err();
    assert_eq!(error, Error::HubKey { seen: key(2).public() });
    assert!(!pair.spoke.tunnel.wants_write());
    assert_eq!(pair.spoke.tunnel.remote(), None);
}

#[test]
fn strangers_are_named_at_both_ends_and_whatever_the_chunks() {
    let mut other_version = hello();
    other_version[HELLO_LEN - 1] = 2;
    for (bytes, who) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], UnknownProtocol::Http),
        (b"HTTP/1.1 400 Bad Request\r\n", UnknownProtocol::Http),
        (b"SSH-2.0-OpenSSH_9.9\r\n", UnknownProtocol::Ssh),
        (&[0x16, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3], UnknownProtocol::Tls),
        (&[0x15, 3, 3, 0, 2, 2, 40], UnknownProtocol::Tls),
        (&[0; 64], UnknownProtocol::Unknown),
        (&other_version, UnknownProtocol::Version(2)),
    ] {
        for chunk in [1, 3, 100] {
            let mut pair = Pair::unjoined(None);
            pair.spoke.write(usize::MAX, pair.now);
            let at_hub = pair.hub.read(bytes, chunk, pair.now);
            assert_eq!(at_hub, Err(Error::UnknownProtocol(who)), "{bytes:?}");
            // Who speaks our protocol is told the version, and nobody else what this is.
            let answer = if bytes == other_version { &hello()[..] } else { &[] };
            assert_eq!(pair.hub.write(usize::MAX, pair.now), answer, "{bytes:?}");
            assert_eq!(
                pair.spoke.read(bytes, chunk, pair.now),
                Err(Error::UnknownProtocol(who)),
                "{bytes:?}"
            );
            assert!(!pair.spoke.tunnel.wants_write());
        }
    }
}

#[test]
fn a_handshake_message_that_is_too_long_or_of_the_wrong_length_is_refused() {
    let too_long = (MAX_HANDSHAKE as u16 + 1).to_be_bytes();
    for (len, body) in [(too_long, &[][..]), ([0xff, 0xff], &[]), ([0, 0], &[]), ([0, 31], &[7; 31])] {
        let mut pair = Pair::unjoined(None);
        let bytes = [&hello()[..], &len, body].concat();
        assert_eq!(pair.hub.read(&bytes, 1, pair.now), Err(Error::Handshake), "{len:?}");
    }
}

#[test]
fn a_first_message_with_a_payload_is_refused() {
    let mut pair = Pair::unjoined(None);
    let mut bytes = hello().to_vec();
    Handshake::new(Role::Spoke, &key(1), [3; 32]).write(b"early", &mut bytes).unwrap();
    assert_eq!(pair.hub.read(&bytes, usize::MAX, pair.now), Err(Error::Handshake));
}

#[test]
fn the_deadline_of_the_handshake_stands_though_bytes_trickle() {
    let mut pair = Pair::unjoined(None);
    let message = pair.spoke.write(usize::MAX, pair.now);
    let end = pair.now + HANDSHAKE_TIME;
    for byte in &message[..message.len() - 1] {
        pair.now += Duration::from_millis(100);
        pair.hub.read(&[*byte], 1, pair.now).unwrap();
        assert_eq!(pair.hub.tunnel.deadline(), end);
        assert_eq!(pair.hub.tunnel.handle_timeout(pair.now).is_err(), pair.now >= end);
        if pair.now >= end {
            break;
        }
    }
    for late in [&mut pair.hub, &mut pair.spoke] {
        assert_eq!(late.tunnel.handle_timeout(end - Duration::from_nanos(1)), Ok(()));
        assert_eq!(late.tunnel.handle_timeout(end), Err(Error::TooSlow));
    }
}

#[test]
fn an_undecided_join_has_the_same_deadline() {
    let mut pair = Pair::joining();
    let end = pair.now + HANDSHAKE_TIME;
    for tunnel in [&mut pair.hub.tunnel, &mut pair.spoke.tunnel] {
        assert_eq!((tunnel.deadline(), tunnel.handle_timeout(end)), (end, Err(Error::TooSlow)));
    }
}

#[test]
fn a_stranger_gets_no_more_memory_than_it_has_sent_bytes() {
    let mut pair = Pair::unjoined(None);
    let first = pair.spoke.write(usize::MAX, pair.now);
    let (most, rest) = first.split_at(first.len() - 1);
    pair.hub.read(most, 1, pair.now).unwrap();
    assert_eq!(parked(&pair.hub), most.len());
    pair.hub.read(rest, 1, pair.now).unwrap();
    let third = [&(MAX_HANDSHAKE as u16).to_be_bytes(), &[7; MAX_HANDSHAKE - 1][..]].concat();
    pair.hub.read(&third, 1_000, pair.now).unwrap();
    assert_eq!(parked(&pair.hub), LENGTH_LEN + MAX_HANDSHAKE - 1);
    assert_eq!(pair.hub.read(&[7], 1, pair.now), Err(Error::Handshake));

    // What is announced as too long is not waited for.
    let too_long = (MAX_HANDSHAKE as u16 + 1).to_be_bytes();
    let mut pair = Pair::unjoined(None);
    pair.hub.read(&first, usize::MAX, pair.now).unwrap();
    assert_eq!(pair.hub.read(&too_long, usize::MAX, pair.now), Err(Error::Handshake));
    let mut pair = Pair::unjoined(None);
    let greedy = [&hello()[..], &33_u16.to_be_bytes()].concat();
    assert_eq!(pair.hub.read(&greedy, usize::MAX, pair.now), Err(Error::Handshake));
}
