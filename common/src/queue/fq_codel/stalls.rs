//! A link that stands still now and then for a round trip or two, as one does that repeats a lost segment.

use std::collections::VecDeque;
use std::time::Duration;

use proptest::prelude::*;

use super::tests::{Bench, ms};
use super::*;

const LEN: usize = 1_510;

/// A flow with a window of so many packets over a path with this round trip, which holds `held` of them. The link behind
/// the queue stands still at each of `stalls` for so long. Returns the queue's signals.
fn signals(round_trip: Duration, held: u32, window: u32, stalls: &[(Duration, Duration)]) -> u64 {
    let mut b = Bench::new(64 << 20);
    b.queue.set_round_trip(round_trip);
    let (start, takes) = (b.now, round_trip / held);
    let (mut number, mut in_flight, mut on_the_way) = (0, 0, VecDeque::new());
    let mut stalls = stalls.iter().copied().peekable();
    let end = start + stalls.clone().map(|(at, _)| at).max().unwrap() + 8 * round_trip;
    while b.now < end {
        if let Some((at, time)) = stalls.peek().copied()
            && b.now >= start + at
        {
            b.later(time);
            // What was on its way waits as long.
            on_the_way.iter_mut().for_each(|arrives: &mut Instant| *arrives += time);
            stalls.next();
        }
        while on_the_way.front().is_some_and(|arrives| *arrives <= b.now) {
            on_the_way.pop_front();
            in_flight -= 1;
        }
        while in_flight < window {
            b.push(1, LEN, number);
            (number, in_flight) = (number + 1, in_flight + 1);
        }
        if b.pop().is_some() {
            on_the_way.push_back(b.now + round_trip);
        }
        b.later(takes);
    }
    b.queue.drops().total() + b.queue.marks()
}

#[test]
fn a_queue_that_stands_without_a_stall_is_signalled() {
    assert!(signals(ms(100), 100, 350, &[(Duration::from_secs(3), ms(0))]) > 0);
}

proptest! {
    /// What a flow needs so that the path stays full all the same is twice what that holds.
    #[test]
    fn a_link_that_stands_still_for_two_round_trips_is_no_congestion(
        round_trip in 10_u64..400,
        held in 20_u32..400,
        more in 0_u32..95,
        stalls in prop::collection::vec((4_u32..30, 1_u32..=20), 1..6),
    ) {
        let round_trip = ms(round_trip);
        let mut at = Duration::ZERO;
        let stalls: Vec<_> = stalls
            .into_iter()
            .map(|(after, tenths)| {
                at += round_trip * after;
                (at, round_trip * tenths / 10)
            })
            .collect();
        let window = held + held * more / 100;
        prop_assert_eq!(signals(round_trip, held, window, &stalls), 0);
    }
}
