//! Packets that outlive their link.

use std::time::Duration;

use super::tests::Bench;
use super::*;

const CAP: usize = 1 << 20;

#[test]
fn what_outlives_its_link_is_young_and_not_much_and_begins_anew() {
    let mut b = Bench::new(CAP);
    b.push(1, 1_000, 0);
    b.later(KEPT_FOR + Duration::from_millis(1));
    b.queue.carry_over(b.now, &mut b.pool);
    assert!(b.queue.is_empty(), "the only one was too old");
    b.push(1, 1_000, 1);
    b.push(2, 1_000, 2);
    b.later(Duration::from_secs(1));
    (3..=20).for_each(|number| b.push(1, 1_400, number));
    b.later(Duration::from_millis(2_500));
    b.queue.carry_over(b.now, &mut b.pool);
    assert_eq!((b.queue.len(), b.queue.drops().of(Reason::Delay)), (18, 3));
    // CoDel has not heard of the time that they waited.
    let order: Vec<u32> = std::iter::from_fn(|| b.pop()).map(|(_, number, _)| number).collect();
    assert_eq!(order, (3..=20).collect::<Vec<_>>());
    assert_eq!(b.queue.drops().total(), 3);
    (0..600).for_each(|number| b.push(number, 1_400, number));
    assert!(b.queue.cost() > KEPT_BYTES);
    b.queue.carry_over(b.now, &mut b.pool);
    assert!(b.queue.cost() <= KEPT_BYTES && b.queue.cost() > KEPT_BYTES / 2, "{:?}", b.queue);
}
