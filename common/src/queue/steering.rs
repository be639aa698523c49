//! Which flows go by the lane beside a link, and when one may change over. Pure.
//!
//! A flow that sends little goes by the lane, so that it does not wait behind the segments that the link has lost; one that
//! sends more goes by the link, as does a TCP connection until it has paused. A flow is never on both: it changes over once
//! the other end has handled all that it had sent by the one side. That is so when nothing of it waits there any more, a ping
//! was sealed after that, and the ping is answered: tunnels are handled in order.
//!
//! Most flows pause for a round trip sooner or later, and change over then. For one that does not, the change is forced: its
//! packets are held back for that round trip.
//!
//! Flows are told apart by class, as many as the table has places. Those of one class go together.

use std::time::{Duration, Instant};

use crate::packet::Kind;
use crate::queue::Queue;

/// Classes of flows.
const CLASSES: u16 = 256;
/// A packet longer than that is of a flow that has much to send, in bytes: TCP sends its first window as full segments, and
/// what it sends by then decides about the whole flow, which hardly ever pauses after that.
const LARGE: usize = 1_000;
/// What a flow may send at once, in bytes, and still go by the lane.
const BURST: f32 = 6.0 * 1_024.0;
/// And in the long run, in bytes a second.
const RATE: f32 = 32.0 * 1_024.0;
/// The same for one that has sent more: those that send about so much do not go to and fro.
const RATE_AGAIN: f32 = RATE / 2.0;
/// What a flow that sends more is remembered for, at most.
const MOST: f32 = 16.0 * 1_024.0;
/// What a packet counts, at least: acknowledgements of a large flow are not what a person waits for.
const LEAST: f32 = 256.0;
/// How long a stream pauses where a person, and no program, says what is sent next.
const PAUSE: Duration = Duration::from_secs(1);
/// How long a flow that sends little is waited for to pause, before its change is forced.
const PATIENCE: Duration = Duration::from_millis(300);
/// A flow that does not pause goes on by the lane as long as it sends less than so much within a second, in bytes, though
/// that is not little: acknowledgements that are held back for a round trip cost a large flow more than they cost others.
const TOO_MUCH: usize = 512 * 1_024;
/// How often a queue is looked through, at most.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// One of the two connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The session's first one.
    Link,
    /// The one beside it.
    Lane,
}

/// Where a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// There.
    By(Side),
    /// Nowhere yet: it waits for [`Steering::release`].
    Held,
}

/// The flows of one direction of a session that has a lane.
#[derive(Debug)]
pub struct Steering {
    classes: Vec<Class>,
    link: Path,
    lane: Path,
}

#[derive(Clone, Debug)]
struct Class {
    /// Bytes that it has sent lately, less [`RATE`] since.
    level: f32,
    sent_at: Instant,
    is_heavy: bool,
    /// Whether its last stream has paused since it began, or since it had much to send.
    has_paused: bool,
    /// The side that it is better to go by.
    wanted: Side,
    side: Side,
    /// The ping that was sealed after its last packet; none yet is [`UNSETTLED`].
    settled_by: u64,
    /// Since when it is to change over, and what it has sent since.
    waits_since: Option<(Instant, usize)>,
    is_held: bool,
}

const UNSETTLED: u64 = u64::MAX;

#[derive(Debug, Default)]
struct Path {
    /// The number of the last ping; they grow.
    sent: u64,
    /// When the last one was sent, while it is not answered.
    sent_at: Option<Instant>,
    answered: u64,
    looked_at: Option<Instant>,
    /// Whether a class may be unsettled.
    is_dirty: bool,
}

impl Steering {
    /// A lane was just opened: whatever was sent so far went by the link.
    pub fn new(now: Instant) -> Steering {
        let class = Class {
            level: 0.0,
            sent_at: now,
            is_heavy: false,
            has_paused: false,
            wanted: Side::Link,
            side: Side::Link,
            settled_by: UNSETTLED,
            waits_since: None,
            is_held: false,
        };
        Steering {
            classes: vec![class; CLASSES.into()],
            link: Path { is_dirty: true, ..Path::default() },
            lane: Path::default(),
        }
    }

    /// The class of a flow, by its hash.
    pub fn class(flow: u32) -> u16 {
        (flow % u32::from(CLASSES)) as u16
    }

    /// Chooses the side for the next packet of a flow, of `len` bytes. What was held and may go is released before.
    pub fn choose(&mut self, flow: u32, kind: Kind, len: usize, now: Instant) -> Choice {
        let at = usize::from(Steering::class(flow));
        let wanted = self.classes[at].note(kind, len, now);
        let is_settled = self.is_settled(at);
        let class = &mut self.classes[at];
        if is_settled {
            (class.side, class.is_held, class.waits_since) = (wanted, false, None);
        } else if class.side == wanted && !class.is_held {
            class.waits_since = None;
        } else {
            class.is_held |= class.is_to_be_forced(wanted, len, now);
        }
        if class.is_held {
            return Choice::Held;
        }
        class.settled_by = UNSETTLED;
        let side = class.side;
        self.path(side).is_dirty = true;
        Choice::By(side)
    }

    /// The side by which the packets of a class go that were held, if they may; to be followed by all of them.
    pub fn release(&mut self, class: u16) -> Option<Side> {
        let at = usize::from(class);
        if !self.is_settled(at) {
            return None;
        }
        let class = &mut self.classes[at];
        let side = class.wanted;
        (class.is_held, class.side, class.settled_by) = (false, side, UNSETTLED);
        self.path(side).is_dirty = true;
        Some(side)
    }

    /// Whether a ping of this number is to be sent by this side now, ahead of what waits in its `queue`.
    pub fn poll_ping(&mut self, side: Side, number: u64, queue: &Queue, now: Instant) -> bool {
        let path = self.path(side);
        let is_soon = path.looked_at.is_some_and(|at| now < at + LOOK_EVERY);
        if path.sent_at.is_some() || !path.is_dirty || is_soon {
            return false;
        }
        let (mut is_wanted, mut is_dirty) = (false, false);
        for (at, class) in (0..).zip(&mut self.classes) {
            if class.side != side || class.settled_by != UNSETTLED {
                continue;
            }
            if queue.has_class(at, CLASSES) {
                is_dirty = true;
            } else {
                class.settled_by = number;
                is_wanted = true;
            }
        }
        let path = self.path(side);
        (path.looked_at, path.is_dirty) = (Some(now), is_dirty);
        if is_wanted {
            (path.sent, path.sent_at) = (number, Some(now));
        }
        is_wanted
    }

    /// The other end has answered the pings of this side up to this number.
    pub fn answered(&mut self, side: Side, number: u64) {
        let path = self.path(side);
        path.answered = number;
        if path.answered >= path.sent {
            path.sent_at = None;
        }
    }

    /// Since when the other end has not answered the lane's last ping.
    pub fn unanswered_since(&self) -> Option<Instant> {
        self.lane.sent_at
    }

    fn is_settled(&self, at: usize) -> bool {
        let class = &self.classes[at];
        let path = match class.side {
            Side::Link => &self.link,
            Side::Lane => &self.lane,
        };
        class.settled_by <= path.answered
    }

    fn path(&mut self, side: Side) -> &mut Path {
        match side {
            Side::Link => &mut self.link,
            Side::Lane => &mut self.lane,
        }
    }
}

impl Class {
    /// Takes note of a packet; the side that it is better to go by.
    ///
    /// A stream begins on the link: nobody knows yet whether much will come, and where that comes it leaves no pause in which
    /// its acknowledgements could change over. Paced for themselves, they would slow it down.
    fn note(&mut self, kind: Kind, len: usize, now: Instant) -> Side {
        let rate = if self.is_heavy { RATE_AGAIN } else { RATE };
        let idle = now.saturating_duration_since(self.sent_at);
        self.sent_at = now;
        let before = self.level - idle.as_secs_f32() * rate;
        if before <= 0.0 {
            self.is_heavy = false;
        }
        self.level = before.max(0.0) + LEAST.max(len as f32);
        self.is_heavy |= len > LARGE || self.level > BURST;
        self.level = self.level.min(MOST);
        let is_little = match kind {
            Kind::Datagrams => true,
            Kind::Stream { begins } => {
                self.has_paused = !begins && !self.is_heavy && (self.has_paused || idle >= PAUSE);
                self.has_paused
            }
        };
        self.wanted = if is_little && !self.is_heavy { Side::Lane } else { Side::Link };
        self.wanted
    }

    /// Whether a flow that does not pause is to change over to this side all the same.
    fn is_to_be_forced(&mut self, wanted: Side, len: usize, now: Instant) -> bool {
        let (since, sent) = *self.waits_since.get_or_insert((now, 0));
        let sent = sent + len;
        let waited = now.saturating_duration_since(since);
        let is_over = wanted == Side::Link && waited >= Duration::from_secs(1);
        self.waits_since = Some(if is_over { (now, 0) } else { (since, sent) });
        match wanted {
            Side::Lane => waited >= PATIENCE,
            Side::Link => !is_over && sent > TOO_MUCH,
        }
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "virtual time has to start somewhere")]
mod tests {
    use super::*;

    const FLOW: u32 = 5;
    const BEGIN: Kind = Kind::Stream { begins: true };
    const STREAM: Kind = Kind::Stream { begins: false };

    /// Flows on an empty queue, whose pings are answered at once.
    struct Bench {
        steering: Steering,
        now: Instant,
        pings: u64,
    }

    impl Bench {
        fn new() -> Bench {
            let now = Instant::now();
            Bench { steering: Steering::new(now), now, pings: 0 }
        }

        /// Has so much time pass, and what was sent be answered.
        fn later(&mut self, ms: u64) {
            self.now += Duration::from_millis(ms);
            for side in [Side::Link, Side::Lane] {
                if self.steering.poll_ping(side, self.pings + 1, &Queue::new(1), self.now) {
                    self.pings += 1;
                }
                self.steering.answered(side, self.pings);
            }
        }

        fn sides(&mut self, packets: &[(Kind, usize)]) -> Vec<Choice> {
            packets.iter().map(|&(kind, len)| self.steering.choose(FLOW, kind, len, self.now)).collect()
        }
    }

    const LINK: Choice = Choice::By(Side::Link);
    const LANE: Choice = Choice::By(Side::Lane);

    #[test]
    fn datagrams_go_by_the_lane_until_there_are_many_or_large_ones() {
        let mut bench = Bench::new();
        assert_eq!(bench.sides(&[(Kind::Datagrams, 100)]), [LINK], "what went before is not answered");
        bench.later(10);
        assert_eq!(bench.sides(&[(Kind::Datagrams, 100); 2]), [LANE; 2]);
        bench.later(10);
        assert_eq!(bench.sides(&[(Kind::Datagrams, 1_200)]), [LINK]);
        bench.later(1_000);
        assert_eq!(bench.sides(&[(Kind::Datagrams, 100); 30]), [LANE; 30], "it cannot change over");
        bench.later(10);
        assert_eq!(bench.sides(&[(Kind::Datagrams, 100)]), [LINK]);
    }

    #[test]
    fn a_stream_goes_by_the_lane_once_it_has_paused_and_until_it_has_much_to_send() {
        let mut bench = Bench::new();
        bench.later(5_000);
        assert_eq!(bench.sides(&[(BEGIN, 84), (STREAM, 76), (STREAM, 300)]), [LINK; 3]);
        bench.later(100);
        assert_eq!(bench.sides(&[(STREAM, 76)]), [LINK]);
        bench.later(1_500);
        assert_eq!(bench.sides(&[(STREAM, 120)]), [LANE]);
        bench.later(100);
        assert_eq!(bench.sides(&[(STREAM, 120)]), [LANE], "one who types");
        bench.later(100);
        assert_eq!(bench.sides(&[(STREAM, 4_000)]), [LINK]);
        bench.later(600);
        assert_eq!(bench.sides(&[(STREAM, 120)]), [LINK], "it may go on");
        bench.later(1_500);
        assert_eq!(bench.sides(&[(STREAM, 120)]), [LANE]);
        bench.later(3_000);
        assert_eq!(bench.sides(&[(BEGIN, 84)]), [LINK], "another one with the same ports");
    }
}
