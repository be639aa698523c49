//! Control frames and packets that wait for the same link.

use super::*;

#[test]
fn control_frames_go_ahead_of_packets_but_do_not_starve_them() {
    let mut pair = Pair::open();
    let prefixes: Vec<_> = (0..64_u8).map(|i| format!("192.168.{i}.0/24").parse().unwrap()).collect();
    let routes = ControlFrame::Routes { added: prefixes, removed: vec![], all: true };
    let mut encoded = Vec::new();
    routes.encode(&mut encoded);
    let packet = Shape::new(false, true, 1_200).whole();
    for _ in 0..100 {
        pair.hub.tunnel.control(&routes).unwrap();
        pair.hub.enqueue(&packet, pair.now);
    }
    let wire = pair.hub.write(1_000, pair.now);
    pair.spoke.got.clear();
    pair.spoke.read(&wire, usize::MAX, pair.now).unwrap();

    let (mut control, mut packets) = (0, 0);
    for got in &pair.spoke.got {
        match got {
            Got::Control(frame) => {
                assert_eq!(frame, &routes, "no frame is torn");
                assert!(
                    packets == 100 || control * encoded.len() < packets * packet.len() + CONTROL_AHEAD,
                    "{control} control frames came before {packets} packets"
                );
                control += 1;
            }
            Got::Packet(_) => packets += 1,
            Got::Join(..) | Got::Attach(..) => panic!("{got:?}"),
        }
    }
    assert_eq!((control, packets), (100, 100));
    assert!(matches!(pair.spoke.got[0], Got::Control(_)), "the first one goes ahead");
}

#[test]
fn a_goodbye_waits_for_no_packet() {
    let mut pair = Pair::open();
    let packet = Shape::new(false, true, 1_200).whole();
    let ping = ControlFrame::Ping(7);
    for _ in 0..1_000 {
        pair.hub.tunnel.control(&ping).unwrap();
        pair.hub.enqueue(&packet, pair.now);
    }
    pair.hub.tunnel.bye(Farewell::Stopping).unwrap();
    // One flush is all that a link which ends gets.
    let mut outbox = outbox();
    pair.hub.tunnel.seal(&mut outbox, &mut pair.hub.pool, pair.now).unwrap();
    pair.spoke.got.clear();
    // Whoever hears goodbye does not care for what comes behind it.
    let _ = pair.spoke.read(&outbox, usize::MAX, pair.now);
    let bye = Got::Control(ControlFrame::Bye(Farewell::Stopping));
    assert!(pair.spoke.got.contains(&bye), "{} events came", pair.spoke.got.len());
}
