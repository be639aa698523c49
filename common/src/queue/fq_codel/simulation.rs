//! What the queue does over seconds: a link of 20 Mbit/s in virtual time, with sources that react and
//! sources that don't.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use super::tests::{Bench, ms};
use super::*;

/// Sends over a link of 20 Mbit/s behind the queue, in virtual time.
struct Wire {
    bench: Bench,
    start: Instant,
    /// Sojourn times in milliseconds and bytes sent, by flow, since `warm`.
    sojourns: BTreeMap<u32, Vec<f64>>,
    sent: BTreeMap<u32, usize>,
    warm: Duration,
    pushed: BTreeMap<(u32, u32), Instant>,
}

impl Wire {
    const RATE: f64 = 20e6 / 8.0;

    fn new(cap: usize, warm: Duration) -> Wire {
        let bench = Bench::new(cap);
        let start = bench.now;
        let (sojourns, sent, pushed) = Default::default();
        Wire { bench, start, sojourns, sent, warm, pushed }
    }

    fn push(&mut self, flow: u32, len: usize, number: u32) {
        self.pushed.insert((flow, number), self.bench.now);
        self.bench.push(flow, len, number);
    }

    /// Starts to send a packet: who, which, and how long that takes.
    fn send(&mut self) -> Option<(u32, u32, Duration)> {
        let (flow, number, len) = self.bench.pop()?;
        let sojourn = self.bench.now - self.pushed.remove(&(flow, number)).unwrap();
        if self.bench.now - self.start > self.warm {
            self.sojourns.entry(flow).or_default().push(sojourn.as_secs_f64() * 1e3);
            *self.sent.entry(flow).or_default() += len;
        }
        Some((flow, number, Duration::from_secs_f64(len as f64 / Wire::RATE)))
    }

    fn mean(&self, flow: u32) -> f64 {
        self.sojourns[&flow].iter().sum::<f64>() / self.sojourns[&flow].len() as f64
    }

    fn max(&self, flow: u32) -> f64 {
        self.sojourns[&flow].iter().copied().fold(0.0, f64::max)
    }

    /// Sent bytes of a flow as a share of what the link can carry in `time`.
    fn share(&self, flow: u32, time: Duration) -> f64 {
        self.sent[&flow] as f64 / (Wire::RATE * (time - self.warm).as_secs_f64())
    }
}

/// A TCP sender's congestion control, in packets: slow start, then additive increase, and half the
/// window for each round in which something was lost.
struct Reno {
    window: f64,
    threshold: f64,
    in_flight: u32,
    next: u32,
    expected: u32,
    recover: u32,
}

impl Reno {
    fn acknowledged(&mut self, number: u32) {
        self.in_flight -= number + 1 - self.expected;
        if number > self.expected && number >= self.recover {
            self.threshold = (self.window / 2.0).max(2.0);
            self.window = self.threshold;
            self.recover = self.next;
        } else if self.window < self.threshold {
            self.window += 1.0;
        } else {
            self.window += 1.0 / self.window;
        }
        self.expected = number + 1;
    }
}

const BULK: u32 = 1;
const PING: u32 = 2;
const FLOOD: u32 = 3;

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Free,
    Acknowledged(u32),
    Ping(u32),
    Flood(u32),
}

/// A TCP flow with a round-trip time of 20 ms (if there is `tcp`), a ping every 10 ms, and a packet of
/// 1,500 bytes every `flood`, for `time`.
fn simulate(tcp: bool, flood: Option<Duration>, time: Duration) -> Wire {
    let mut wire = Wire::new(4 << 20, time / 4);
    let mut reno = Reno { window: 10.0, threshold: 1e9, in_flight: 0, next: 0, expected: 0, recover: 1 };
    let mut events = BinaryHeap::from([Reverse((wire.start + ms(3), Event::Ping(0)))]);
    if flood.is_some() {
        events.push(Reverse((wire.start, Event::Flood(0))));
    }
    let mut busy = false;
    loop {
        while tcp && f64::from(reno.in_flight) < reno.window.floor() {
            wire.push(BULK, 1_510, reno.next);
            reno.next += 1;
            reno.in_flight += 1;
        }
        let now = wire.bench.now;
        if !busy && let Some((flow, number, takes)) = wire.send() {
            busy = true;
            events.push(Reverse((now + takes, Event::Free)));
            if flow == BULK {
                events.push(Reverse((now + takes + ms(20), Event::Acknowledged(number))));
            }
        }
        let Some(Reverse((at, event))) = events.pop() else { break };
        if at > wire.start + time {
            break;
        }
        wire.bench.now = at;
        match event {
            Event::Free => busy = false,
            Event::Acknowledged(number) => reno.acknowledged(number),
            Event::Ping(n) => {
                wire.push(PING, 108, n);
                events.push(Reverse((at + ms(10), Event::Ping(n + 1))));
            }
            Event::Flood(n) => {
                wire.push(FLOOD, 1_510, n);
                events.push(Reverse((at + flood.unwrap(), Event::Flood(n + 1))));
            }
        }
    }
    wire
}

#[test]
fn a_tcp_flow_fills_a_slow_link_with_a_delay_around_the_target() {
    let time = Duration::from_secs(40);
    let wire = simulate(true, None, time);
    assert!((1.0..10.0).contains(&wire.mean(BULK)), "mean {} ms", wire.mean(BULK));
    assert!(wire.max(BULK) < 40.0, "max {} ms", wire.max(BULK));
    assert!(wire.share(BULK, time) > 0.93, "share {}", wire.share(BULK, time));
    // A packet that is on its way takes 0.6 ms; one more where the bulk flow is new too.
    assert!(wire.max(PING) < 1.3, "ping {} ms", wire.max(PING));
    assert_eq!(wire.bench.queue.drops().of(Reason::QueueFull), 0);
}

#[test]
fn a_flood_of_twice_the_rate_hurts_only_itself() {
    let time = Duration::from_secs(20);
    let wire = simulate(true, Some(Duration::from_micros(300)), time);
    assert!(wire.max(PING) < 2.0, "ping {} ms", wire.max(PING));
    assert!(wire.mean(BULK) < 15.0, "mean {} ms", wire.mean(BULK));
    assert!((0.42..0.55).contains(&wire.share(BULK, time)), "share {}", wire.share(BULK, time));
    assert!(wire.bench.queue.cost() <= 4 << 20);
}

#[test]
fn a_source_that_never_reacts_does_not_fill_the_queue() {
    let time = Duration::from_secs(80);
    // 10 % more than the link carries: without control the 4 MiB are full, 1.2 s of delay, after 12 s.
    let wire = simulate(false, Some(Duration::from_micros(549)), time);
    assert!(wire.mean(FLOOD) < 80.0, "mean {} ms", wire.mean(FLOOD));
    assert!(wire.max(PING) < 1.3, "ping {} ms", wire.max(PING));
    assert!(wire.share(FLOOD, time) > 0.99, "share {}", wire.share(FLOOD, time));
    assert_eq!(wire.bench.queue.drops().of(Reason::QueueFull), 0);
}
