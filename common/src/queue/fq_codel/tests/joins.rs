//! Packets that come together are joined in the queue.

use super::*;
use crate::packet::offload::testing::Shape;

/// The datagram `number` of a flow, with `payload` bytes; it may be fragmented, so that its number counts.
fn datagram(number: u16, payload: usize) -> Vec<u8> {
    Shape { id: number, dont_fragment: false, ..Shape::new(false, false, payload) }.partial(None)
}

impl Bench {
    fn push_bytes(&mut self, flow: u32, packet: &[u8]) {
        let packet = self.pool.copy(packet);
        self.queue.push(packet, flow, self.now, &mut self.pool);
    }

    /// How many datagrams the next packet has.
    fn pop_datagrams(&mut self) -> Option<u32> {
        let packet = self.queue.pop(self.now, NO_MAX, &mut self.pool)?;
        let datagrams = offload::segments(&packet);
        self.pool.give(packet);
        Some(datagrams)
    }
}

#[test]
fn datagrams_that_come_together_leave_as_one_super_packet() {
    let mut b = Bench::new(CAP);
    // The first flow is alone at first, then two are interleaved; what comes later, or out of its order, stays apart.
    (0..3).for_each(|n| b.push_bytes(1, &datagram(n, 100)));
    assert_eq!((b.queue.len(), b.queue.bytes()), (1, VNET_LEN + 28 + 300));
    for n in 3..70 {
        b.push_bytes(1, &datagram(n, 100));
        b.push_bytes(2, &datagram(n, 50));
    }
    b.push_bytes(1, &datagram(71, 100));
    b.push_bytes(2, &datagram(70, 49));
    b.push_bytes(2, &datagram(71, 49));
    b.later(Duration::from_nanos(1));
    b.push_bytes(1, &datagram(72, 100));
    assert_eq!(b.queue.len(), 4 + 3);
    let held: usize = b.queue.table.as_ref().unwrap().flows().iter().map(|flow| flow.bytes).sum();
    assert_eq!(held, b.queue.bytes());
    let datagrams: Vec<u32> = std::iter::from_fn(|| b.pop_datagrams()).collect();
    assert_eq!(datagrams, [64, 64, 4, 1, 6, 1, 1]);
    assert_eq!((b.queue.len(), b.queue.bytes(), b.queue.cost()), (0, 0, 0));
}

#[test]
fn each_datagram_of_a_super_packet_that_is_dropped_counts() {
    let mut b = Bench::new(CAP);
    (0..10).for_each(|n| b.push_bytes(1, &datagram(n, 100)));
    b.queue.drop_batch(&mut b.pool);
    assert_eq!((b.queue.drops().of(Reason::QueueFull), b.queue.cost()), (10, 0));
    // The memory of what grew counts too.
    let mut b = Bench::new(9_000);
    (0..30).for_each(|n| b.push_bytes(1, &datagram(n, 1_000)));
    assert!(b.queue.cost() <= 9_000);
    let left: u32 = std::iter::from_fn(|| b.pop_datagrams()).sum();
    assert_eq!(u64::from(left) + b.queue.drops().of(Reason::QueueFull), 30);
    assert_eq!((b.queue.bytes(), b.queue.cost()), (0, 0));
}

#[test]
fn of_acknowledgements_that_come_together_the_last_one_leaves() {
    let acknowledgement = |acknowledged| Shape { acknowledged, ..Shape::new(false, true, 0) }.partial(None);
    let mut b = Bench::new(CAP);
    (0..3).for_each(|n| b.push_bytes(1, &acknowledgement(n)));
    b.push_bytes(2, &datagram(0, 100));
    (3..6).for_each(|n| b.push_bytes(1, &acknowledgement(n)));
    assert_eq!((b.queue.len(), b.queue.bytes()), (2, VNET_LEN + 40 + VNET_LEN + 128));
    b.later(Duration::from_nanos(1));
    b.push_bytes(1, &acknowledgement(6));
    let left: Vec<Vec<u8>> = std::iter::from_fn(|| b.queue.pop(b.now, NO_MAX, &mut b.pool))
        .map(|packet| packet.to_vec())
        .collect();
    assert_eq!(left, [acknowledgement(5), acknowledgement(6), datagram(0, 100)]);
    assert_eq!((b.queue.drops().total(), b.queue.bytes(), b.queue.cost()), (0, 0, 0));
}
