//! What the queue does, packet by packet, and against a naive model.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use proptest::prelude::*;

use super::*;

mod joins;

const CAP: usize = 1 << 20;
const NO_MAX: usize = usize::MAX;

/// Bytes before a test packet's number: virtio-net, IPv4 and TCP header.
const HEADERS: usize = VNET_LEN + 40;

/// ECN code points (RFC 3168 section 5).
const NOT_ECT: u8 = 0;
const ECT_0: u8 = 2;
const CE: u8 = 3;

/// A queue with its pool and its clock.
pub(super) struct Bench {
    pub(super) queue: Queue,
    pub(super) pool: Pool,
    pub(super) now: Instant,
}

impl Bench {
    #[expect(
        clippy::disallowed_methods,
        reason = "there is no other way to a first Instant; it advances by hand"
    )]
    pub(super) fn new(cap: usize) -> Bench {
        Bench { queue: Queue::new(cap), pool: Pool::new(usize::MAX), now: Instant::now() }
    }

    pub(super) fn later(&mut self, by: Duration) {
        self.now += by;
    }

    /// Queues an IPv4 packet of `len` bytes (all headers included) that carries `number`.
    pub(super) fn push(&mut self, flow: u32, len: usize, number: u32) {
        self.push_with(flow, len, number, |_| ());
    }

    fn push_with(&mut self, flow: u32, len: usize, number: u32, change: impl FnOnce(&mut [u8])) {
        let mut packet = self.pool.take(len);
        packet.fill(0);
        packet[VNET_LEN] = 0x45;
        packet[VNET_LEN + 2..VNET_LEN + 4].copy_from_slice(&((len - VNET_LEN) as u16).to_be_bytes());
        packet[VNET_LEN + 9] = 6;
        packet[VNET_LEN + 32] = 0x50;
        packet[HEADERS..HEADERS + 4].copy_from_slice(&flow.to_be_bytes());
        packet[HEADERS + 4..HEADERS + 8].copy_from_slice(&number.to_be_bytes());
        change(&mut packet);
        self.queue.push(packet, flow, self.now, &mut self.pool);
    }

    /// Queues a TCP super-packet of whole segments of 1,000 bytes.
    fn push_super(&mut self, flow: u32, segments: usize, number: u32) {
        self.push_with(flow, HEADERS + segments * 1_000, number, |packet| {
            // NEEDS_CSUM, TCPV4, hdr_len 40, gso_size 1000, csum_start 20, csum_offset 16.
            packet[..VNET_LEN].copy_from_slice(&[1, 1, 40, 0, 232, 3, 20, 0, 16, 0]);
        });
    }

    /// The next packet: flow, number, length.
    pub(super) fn pop(&mut self) -> Option<(u32, u32, usize)> {
        self.pop_up_to(NO_MAX)
    }

    fn pop_up_to(&mut self, max: usize) -> Option<(u32, u32, usize)> {
        let packet = self.queue.pop(self.now, max, &mut self.pool)?;
        let word = |at: usize| u32::from_be_bytes(packet[at..at + 4].try_into().unwrap());
        let seen = (word(HEADERS), word(HEADERS + 4), packet.len());
        self.pool.give(packet);
        Some(seen)
    }

    /// The flows of the next `n` packets.
    fn order(&mut self, n: usize) -> Vec<u32> {
        (0..n).map_while(|_| self.pop()).map(|(flow, ..)| flow).collect()
    }
}

pub(super) fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

#[test]
fn an_idle_queue_is_small_and_holds_nothing() {
    assert!(size_of::<Queue>() <= 200, "{}", size_of::<Queue>());
    static QUEUE: Queue = Queue::new(CAP);
    assert!(QUEUE.is_empty() && QUEUE.table.is_none());
}

#[test]
fn one_flow_leaves_in_its_order() {
    let mut b = Bench::new(CAP);
    (0..100).for_each(|number| b.push(7, 100 + number as usize, number));
    assert_eq!((b.queue.len(), b.queue.bytes()), (100, 100 * 100 + 99 * 50));
    for number in 0..100 {
        assert_eq!(b.pop(), Some((7, number, 100 + number as usize)));
    }
    assert_eq!(b.pop(), None);
    assert_eq!((b.queue.len(), b.queue.bytes(), b.queue.cost()), (0, 0, 0));
}

#[test]
fn a_sparse_flow_goes_before_a_bulk_flow() {
    let mut b = Bench::new(CAP);
    (0..50).for_each(|n| b.push(1, 1_500, n));
    assert_eq!(b.order(10), [1; 10]);
    b.push(2, 100, 0);
    assert_eq!(b.order(2), [2, 1]);
    // It is empty and waits for its round among the old ones (RFC 8290 section 4.2); then it is new again.
    b.order(2);
    b.push(2, 100, 1);
    assert_eq!(b.order(2), [2, 1]);
}

#[test]
fn a_flow_that_comes_and_goes_gets_no_more_than_its_share() {
    let mut b = Bench::new(CAP);
    for n in 0..100 {
        (1..=3).for_each(|bulk| b.push(bulk, 1_510, n));
    }
    let mut sent = [0; 5];
    for n in 0..80 {
        let (flow, ..) = b.pop().unwrap();
        sent[flow as usize] += 1;
        // It sends again as soon as it was found empty.
        if flow != 4 && sent[4] == sent[0] {
            b.push(4, 1_400, n);
            sent[0] += 1;
        }
    }
    assert_eq!(sent[1..].iter().sum::<i32>(), 80);
    assert!(sent[1..].iter().all(|n| (17..=23).contains(n)), "{sent:?}");
}

#[test]
fn bulk_flows_share_evenly_by_bytes() {
    for (a, b_len) in [(1_510, 310), (64_000, 1_510), (64_000, 300)] {
        let mut b = Bench::new(64 << 20);
        let mut sent = [0; 3];
        let (mut n, mut queued) = (0, [0; 3]);
        while sent[1] + sent[2] < 10_000_000 {
            for (flow, len) in [(1, a), (2, b_len)] {
                while queued[flow] < 200_000 {
                    b.push(flow as u32, len, n);
                    queued[flow] += len;
                    n += 1;
                }
            }
            let (flow, _, len) = b.pop().unwrap();
            sent[flow as usize] += len;
            queued[flow as usize] -= len;
        }
        assert!(sent[1].abs_diff(sent[2]) <= 64_000 + 2 * 1_510, "{a} and {b_len}: {sent:?}");
    }
}

#[test]
fn the_fattest_flow_pays_with_its_oldest_packets() {
    let mut b = Bench::new(CAP);
    b.push(1, 1_500, 0);
    (0..20).for_each(|n| b.push(2, 1_500, n));
    let mut n = 0;
    while b.queue.drops().total() == 0 {
        b.push(3, 1_500, n);
        n += 1;
        assert!(b.queue.cost() <= CAP);
    }
    let lost = b.queue.drops().of(Reason::QueueFull) as u32;
    assert_eq!(lost, 65_536_u32.div_ceil(2_048 + 40), "a batch by bytes");
    assert_eq!(b.order(1), [1]);
    let left: Vec<_> = std::iter::from_fn(|| b.pop()).collect();
    assert_eq!(left.iter().filter(|p| p.0 == 2).count(), 20);
    let first = left.iter().find(|p| p.0 == 3).unwrap().1;
    assert_eq!(first, lost);
    assert_eq!(left.iter().filter(|p| p.0 == 3).count() as u32, n - lost);
}

#[test]
fn the_fattest_flow_keeps_half_of_what_it_had() {
    let mut b = Bench::new(20_000);
    (0..10).for_each(|n| b.push(1, 1_500, n));
    assert_eq!(b.queue.drops().of(Reason::QueueFull), 5);
    assert_eq!(b.pop(), Some((1, 5, 1_500)));
}

#[test]
fn a_batch_is_taken_from_the_fattest_flow_until_nothing_waits() {
    let mut b = Bench::new(CAP);
    (0..4).for_each(|n| b.push(1, 1_500, n));
    (0..200).for_each(|n| b.push(2, 1_500, n));
    b.queue.drop_batch(&mut b.pool);
    let lost = b.queue.drops().of(Reason::QueueFull);
    assert_eq!(lost, 65_536_u64.div_ceil(2_048 + 40), "a batch by bytes");
    assert_eq!(b.queue.cost(), (204 - lost as usize) * (2_048 + 40));
    while !b.queue.is_empty() {
        let before = b.queue.cost();
        b.queue.drop_batch(&mut b.pool);
        assert!(b.queue.cost() < before, "each batch drops something");
    }
    assert_eq!((b.queue.cost(), b.queue.drops().of(Reason::QueueFull)), (0, 204));
    b.push(3, 1_500, 7);
    b.queue.drop_batch(&mut b.pool);
    assert_eq!((b.queue.len(), b.queue.cost(), b.queue.drops().of(Reason::QueueFull)), (0, 0, 205));
    b.queue.drop_batch(&mut b.pool);
    b.push(3, 1_500, 8);
    assert_eq!(b.pop(), Some((3, 8, 1_500)), "an emptied queue works on");
}

#[test]
fn a_flow_that_lost_everything_starts_its_interval_afresh() {
    let mut b = Bench::new(200_000);
    (0..2).for_each(|n| b.push_super(1, 60, n));
    b.later(ms(6));
    assert_eq!(b.pop().unwrap().0, 1);
    let mut n = 0;
    while b.queue.drops().total() == 0 {
        b.push(10 + n % 10, 1_500, n);
        n += 1;
    }
    assert_eq!(b.queue.drops().of(Reason::QueueFull), 60, "the other packet of flow 1, of 60 segments");
    while b.pop().is_some_and(|(flow, ..)| flow != 19) {}
    b.later(ms(110));
    (0..3).for_each(|n| b.push(1, 1_510, n));
    b.later(ms(6));
    while b.pop().is_some() {}
    assert_eq!(b.queue.drops().of(Reason::Delay), 0);
}

#[test]
fn the_cap_is_on_memory_not_on_length() {
    let mut b = Bench::new(CAP);
    (0..CAP as u32 / 256).for_each(|n| b.push(n, 60, n));
    assert!(b.queue.cost() <= CAP);
    assert!(b.queue.drops().of(Reason::QueueFull) > 0);
    assert!(b.queue.bytes() < CAP / 3);
}

#[test]
fn a_packet_larger_than_the_cap_is_dropped_and_harms_nothing() {
    let mut b = Bench::new(10_000);
    b.push(1, 60_000, 0);
    assert_eq!(b.queue.drops().of(Reason::QueueFull), 1);
    assert!(b.queue.is_empty() && b.queue.table.is_none());
    b.push(1, 100, 1);
    assert_eq!(b.pop(), Some((1, 1, 100)));
}

#[test]
fn what_drains_gives_its_memory_back_and_takes_the_same_again() {
    let mut b = Bench::new(CAP);
    b.push(1, 100, 0);
    b.push(1, 100, 1);
    assert!(b.queue.table.is_some());
    assert_eq!(b.pool.spare_bytes(), 0);
    b.pop();
    b.pop();
    assert!(b.queue.table.is_none());
    let spare = b.pool.spare_bytes();
    assert!((2 * 256 + 2_048..8_192).contains(&spare), "two buffers and a table: {spare}");
    for n in 0..1_000 {
        b.push(n, 100, n);
        b.push(n, 100, n);
        b.pop();
        b.pop();
        assert_eq!(b.pool.spare_bytes(), spare);
    }

    (0..500).for_each(|n| b.push(n, 1_500, n));
    b.queue.clear(&mut b.pool);
    assert!(b.queue.is_empty() && b.queue.table.is_none());
    assert_eq!((b.queue.bytes(), b.queue.cost(), b.queue.drops().total()), (0, 0, 0));
    assert!(b.pool.spare_bytes() >= 500 * 2_048);
    b.push(3, 100, 3);
    assert_eq!(b.pop(), Some((3, 3, 100)));
}

#[test]
fn a_packet_that_waits_alone_needs_no_more_than_its_buffer() {
    let mut b = Bench::new(CAP);
    for n in 0..10 {
        b.push(n, 100, n);
        assert!(b.queue.table.is_none());
        b.later(ms(200));
        assert_eq!(b.pop(), Some((n, n, 100)), "however long it waited");
    }
    assert_eq!(b.pool.spare_bytes(), 256);
    // It keeps its place when others come, its flow's and its own.
    for n in 0..3 {
        b.push(7, 100, n);
    }
    assert!(b.queue.table.is_some());
    assert_eq!([b.pop(), b.pop(), b.pop()], [0, 1, 2].map(|n| Some((7, n, 100))));
}

/// Keeps a flow's delay above the target by serving it `late`, and returns the times in milliseconds
/// at which `count` rose.
fn events(b: &mut Bench, ecn: u8, for_ms: u64, count: impl Fn(&Queue) -> u64) -> Vec<u64> {
    let mut seen = Vec::new();
    for t in 0..for_ms {
        b.push_with(1, 1_000, t as u32, |packet| packet[VNET_LEN + 1] = ecn);
        // 20 packets of 1 ms each wait, whatever was dropped.
        if b.queue.len() > 20 {
            let before = count(&b.queue);
            b.queue.pop(b.now, NO_MAX, &mut b.pool);
            if count(&b.queue) > before {
                seen.push(t);
            }
        }
        b.later(ms(1));
    }
    seen
}

#[test]
fn a_standing_queue_drops_on_codels_schedule() {
    let mut b = Bench::new(CAP);
    let seen = events(&mut b, NOT_ECT, 460, |queue| queue.drops().of(Reason::Delay));
    // 20 ms until a packet leaves, 100 ms until that stands, then 100/√n.
    assert_eq!(seen, [120, 220, 291, 349, 399, 444]);
    assert_eq!(b.queue.marks(), 0);
    assert_eq!(b.queue.drops().total(), 6);
}

#[test]
fn ecn_capable_packets_are_marked_and_not_dropped() {
    let mut b = Bench::new(CAP);
    let seen = events(&mut b, ECT_0, 460, Queue::marks);
    assert_eq!(seen, [120, 220, 291, 349, 399, 444]);
    assert_eq!(b.queue.drops().total(), 0);

    // The packet that comes out of it carries CE.
    let mut b = Bench::new(CAP);
    for n in 0..200 {
        b.push_with(1, 1_000, n, |packet| packet[VNET_LEN + 1] = ECT_0);
    }
    b.later(ms(6));
    assert_eq!(b.queue.pop(b.now, NO_MAX, &mut b.pool).unwrap()[VNET_LEN + 1], ECT_0);
    b.later(ms(100));
    assert_eq!(b.queue.pop(b.now, NO_MAX, &mut b.pool).unwrap()[VNET_LEN + 1], CE);
    assert_eq!(b.queue.pop(b.now, NO_MAX, &mut b.pool).unwrap()[VNET_LEN + 1], ECT_0);
}

#[test]
fn the_last_packet_is_never_dropped_for_its_delay() {
    let mut b = Bench::new(CAP);
    (0..4).for_each(|n| b.push_super(1, 60, n));
    let mut lengths = Vec::new();
    while let Some((.., len)) = b.pop() {
        lengths.push(len - HEADERS);
        b.later(ms(if lengths.len() == 1 { 6 } else { 150 }));
    }
    assert_eq!(lengths, [60_000, 60_000, 59_000, 60_000]);
    assert_eq!(b.queue.drops().of(Reason::Delay), 1);
}

#[test]
fn the_last_packet_is_never_dropped_even_if_it_should_have_been_cut() {
    let mut b = Bench::new(CAP);
    (0..5).for_each(|n| b.push(1, 60_000, n));
    let mut numbers = Vec::new();
    while let Some((_, number, _)) = b.pop_up_to(4_000) {
        numbers.push(number);
        b.later(ms(150));
    }
    assert_eq!(numbers, [0, 1, 3, 4]);
    assert_eq!(b.queue.drops().of(Reason::Delay), 1);
    assert!(b.queue.table.is_none());
}

#[test]
fn a_flow_that_drained_is_remembered_for_a_while() {
    let mut b = Bench::new(CAP);
    events(&mut b, NOT_ECT, 600, |queue| queue.drops().total());
    while b.pop().is_some() {}
    assert!(b.queue.table.is_none());
    let seen = events(&mut b, NOT_ECT, 200, |queue| queue.drops().total());
    assert!(seen.len() >= 2, "faster than the first time: {seen:?}");
    while b.pop().is_some() {}
    b.later(Duration::from_secs(5));
    let seen = events(&mut b, NOT_ECT, 200, |queue| queue.drops().total());
    assert_eq!(seen, [120]);
}

#[test]
fn a_super_packet_leaves_in_pieces_where_the_link_is_slow() {
    let mut b = Bench::new(CAP);
    b.push_super(1, 10, 5);
    b.push(1, 100, 6);
    assert_eq!(b.pop_up_to(4_000), Some((1, 5, HEADERS + 3_000)));
    assert_eq!((b.queue.len(), b.queue.bytes()), (2, HEADERS + 7_000 + 100));
    // What is sparse need not wait for the rest.
    b.push(2, 100, 0);
    assert_eq!(b.pop_up_to(4_000).unwrap().0, 2);
    let lengths: Vec<_> = std::iter::from_fn(|| b.pop_up_to(4_000)).map(|(.., len)| len).collect();
    assert_eq!(lengths, [HEADERS + 3_000, HEADERS + 3_000, HEADERS + 1_000, 100]);
    assert_eq!((b.queue.bytes(), b.queue.cost(), b.queue.drops().total()), (0, 0, 0));
}

#[test]
fn what_cannot_be_cut_short_enough_leaves_all_the_same() {
    let mut b = Bench::new(CAP);
    b.push(1, 9_000, 0);
    b.push_super(1, 10, 1);
    assert_eq!(b.pop_up_to(4_000), Some((1, 0, 9_000)));
    assert_eq!(b.pop_up_to(500), Some((1, 1, HEADERS + 1_000)), "one segment at least");
}

#[test]
fn a_super_packet_that_is_to_be_dropped_loses_one_segment() {
    let mut b = Bench::new(CAP);
    (0..10).for_each(|n| b.push_super(1, 10, n));
    b.later(ms(6));
    assert_eq!(b.pop().unwrap().2, HEADERS + 10_000);
    b.later(ms(100));
    assert_eq!(b.pop().unwrap().2, HEADERS + 9_000);
    assert_eq!(b.pop().unwrap().2, HEADERS + 10_000);
    assert_eq!(b.queue.drops().of(Reason::Delay), 1);
    // The first piece of the next, since its rest goes on to wait.
    b.later(ms(100));
    assert_eq!(b.pop_up_to(4_000).unwrap().2, HEADERS + 2_000);
    assert_eq!(b.pop().unwrap().2, HEADERS + 7_000);
    assert_eq!(b.queue.drops().of(Reason::Delay), 2);
    while b.pop().is_some() {}
    assert_eq!((b.queue.bytes(), b.queue.cost()), (0, 0));
}

#[derive(Clone, Debug)]
enum Operation {
    Push { flow: u32, len: usize, ecn: u8 },
    Pop,
    Wait(u64),
    CarryOver,
    Clear,
}

fn operation() -> impl Strategy<Value = Operation> {
    let flow = prop_oneof![0..4u32, any::<u32>()];
    let len = prop_oneof![60..300usize, 1_400..1_510usize, 20_000..65_000usize];
    prop_oneof![
        30 => (flow, len, 0..4u8).prop_map(|(flow, len, ecn)| Operation::Push { flow, len, ecn }),
        20 => Just(Operation::Pop),
        10 => (0..30_000u64).prop_map(Operation::Wait),
        1 => Just(Operation::Clear),
        1 => Just(Operation::CarryOver),
    ]
}

/// What must have happened, as plain as can be: per bucket, the packets in their order.
#[derive(Default)]
struct Model {
    waiting: BTreeMap<u32, VecDeque<(u32, usize)>>,
    pushed: u64,
    popped: u64,
    cleared: u64,
    /// Packets that were overtaken by a later one of their bucket: dropped.
    overtaken: u64,
}

impl Model {
    fn popped(&mut self, flow: u32, number: u32, len: usize) {
        let waiting = self.waiting.get_mut(&(flow % 1_024)).expect("the flow was pushed");
        let at = waiting.iter().position(|&(n, _)| n == number).expect("the packet waits");
        assert_eq!(waiting[at].1, len);
        waiting.drain(..=at);
        self.popped += 1;
        self.overtaken += at as u64;
    }

    fn waiting(&self) -> u64 {
        self.waiting.values().map(|w| w.len() as u64).sum()
    }
}

proptest! {
    #[test]
    fn every_packet_leaves_once_in_order_or_is_counted(
        operations in prop::collection::vec(operation(), 1..600),
        cap in 100_000..600_000usize,
    ) {
        let mut b = Bench::new(cap);
        let mut model = Model::default();
        for operation in operations {
            match operation {
                Operation::Push { flow, len, ecn } => {
                    let number = model.pushed as u32;
                    b.push_with(flow, len, number, |packet| packet[VNET_LEN + 1] = ecn);
                    model.waiting.entry(flow % 1_024).or_default().push_back((number, len));
                    model.pushed += 1;
                }
                Operation::Pop => match b.pop() {
                    Some((flow, number, len)) => model.popped(flow, number, len),
                    None => prop_assert_eq!(b.queue.len(), 0),
                },
                Operation::Wait(us) => b.later(Duration::from_micros(us)),
                Operation::CarryOver => {
                    b.queue.carry_over(b.now, &mut b.pool);
                    prop_assert!(b.queue.cost() <= KEPT_BYTES);
                }
                Operation::Clear => {
                    model.cleared += b.queue.len() as u64;
                    let gone = model.waiting() - b.queue.len() as u64;
                    model.overtaken += gone;
                    model.waiting.clear();
                    b.queue.clear(&mut b.pool);
                }
            }
            let dropped = b.queue.drops().total();
            prop_assert_eq!(model.pushed, model.popped + model.cleared + dropped + b.queue.len() as u64);
            prop_assert!(b.queue.cost() <= cap);
            prop_assert_eq!(b.queue.table.is_none(), b.queue.is_empty() || b.queue.lone.is_some());
        }
        while let Some((flow, number, len)) = b.pop() {
            model.popped(flow, number, len);
        }
        prop_assert_eq!(model.overtaken + model.waiting(), b.queue.drops().total());
        prop_assert_eq!((b.queue.len(), b.queue.bytes(), b.queue.cost()), (0, 0, 0));
    }
}
