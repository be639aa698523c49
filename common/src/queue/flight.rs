//! How much of a long path's capacity one connection keeps in flight, and whether its losses mean congestion. Pure.
//!
//! TCP's own congestion control finds out how much a path takes by filling the queue before its bottleneck; a ping waits
//! in that queue, and at its end everything is lost that is too much. What waits in our own queue instead waits for
//! nobody but its own flow. So no more is handed to the kernel than the path needs: its delivery rate times its shortest
//! round trip, and a little more, by which a faster path is found out, as with BBR (draft-ietf-ccwg-bbr).
//!
//! If round trips stay long all the same, it is somebody else who fills the queue. Then holding back so much would leave the
//! path to them: for some seconds it is twice what the path needs.

use std::time::{Duration, Instant};

/// On shorter paths neither the queue nor a lost packet costs what is worth a look, and timers are too coarse.
pub const LONG: Duration = Duration::from_millis(5);
/// How soon is looked again where enough is in flight.
pub const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// In flight beyond what the path holds: a share of that, and what it delivers until it is looked again.
const GAIN: f64 = 1.1;
/// The same where others fill the queue: as much as BBR has.
const SHARED_GAIN: f64 = 2.0;
const LATE: Duration = Duration::from_millis(2);
/// Windows of at least a round trip each, of which the best rate counts.
const WINDOWS: usize = 10;
/// The path is full once so many windows in a row have brought no more than this.
const FULL_AFTER: u32 = 3;
const GROWTH: f64 = 1.25;
/// How long they are where it is others who queue: what is held here is less.
const SHARED: f64 = 1.5;
/// Windows with a queue that is not ours before the path is shared.
const SHARED_AFTER: u32 = 8;
/// How long it is shared before it is tried again.
const SHARED_FOR: Duration = Duration::from_secs(10);
/// How much longer than the shortest round trip others are that tell of a queue.
const QUEUED: f64 = 1.25;
/// How much longer they are at most where the path takes more: what is held beyond it waits in a queue, which is longer.
const ROOMY: f64 = 1.05;
/// In flight once a queue was seen, for as long as the windows may still grow: those that show it were sent a round trip ago.
const FILLING_GAIN: f64 = 1.5;

/// What the kernel says of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// The shortest round trip of the last minutes.
    pub shortest: Duration,
    /// The smoothed one of now.
    pub round_trip: Duration,
    /// Bytes of one segment.
    pub segment: u32,
    /// Bytes that the kernel holds, sent and not, but for what is known to have arrived or to be lost.
    pub held: u64,
    /// Segments that have arrived, modulo 2³².
    pub delivered: u32,
    /// Segments that were sent again, modulo 2³².
    pub resent: u32,
}

/// What is known of one path.
#[derive(Debug)]
pub struct Flight {
    phase: Phase,
    /// Bytes a second, of the last windows.
    rates: [f64; WINDOWS],
    next: usize,
    window: Option<Window>,
    /// Windows in a row with a queue that is not ours.
    queued: u32,
    /// Whether segments were lost while there was no queue that could have overflowed.
    is_random: bool,
    /// Whether the kernel takes less than the path does.
    is_held_back: bool,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    /// It takes more and more. Once there is a queue, it will not for much longer.
    Growing { best: f64, flat: u32, is_queued: bool },
    /// Its capacity is known.
    Full,
    /// Others fill its queue.
    Shared(Instant),
}

#[derive(Debug)]
struct Window {
    began: Instant,
    looked_at: Instant,
    delivered: u32,
    resent: u32,
    /// The longest round trip in it, and in the one before: whatever is found lost in it was sent by then.
    longest: [Duration; 2],
    /// Whether there was more to send than the kernel or [`Flight`] took.
    is_limited: bool,
}

impl Default for Flight {
    fn default() -> Flight {
        Flight {
            phase: Phase::GROWING,
            rates: [0.0; WINDOWS],
            next: 0,
            window: None,
            queued: 0,
            is_random: false,
            is_held_back: false,
        }
    }
}

impl Phase {
    const GROWING: Phase = Phase::Growing { best: 0.0, flat: 0, is_queued: false };
}

impl Flight {
    /// Takes note of a connection that has something to send; how many bytes may be handed to the kernel.
    pub fn room(&mut self, sample: &Sample, now: Instant) -> usize {
        self.watch(sample, now);
        if let Phase::Shared(until) = self.phase
            && now >= until
        {
            (self.phase, self.queued) = (Phase::Full, 0);
        }
        let gain = match self.phase {
            Phase::Growing { is_queued: false, .. } => return usize::MAX,
            Phase::Growing { is_queued: true, .. } => FILLING_GAIN,
            Phase::Full => GAIN,
            Phase::Shared(_) => SHARED_GAIN,
        };
        let room = self.room_at(sample, gain);
        if room == 0 {
            self.was_limited();
        }
        room
    }

    /// The kernel took less than it was given, or it was given less than there was. Where that never happens, it is not the
    /// path that limits what is sent.
    pub fn was_limited(&mut self) {
        if let Some(window) = &mut self.window {
            window.is_limited = true;
        }
    }

    /// Whether segments are lost that no queue has dropped. Then a congestion control that paces itself by what arrives, as
    /// BBR does, is better; not elsewhere: its pacing stretches what a flow inside sends at first, which takes that for the
    /// end of the path, and every ten seconds it lets the path run empty for 200 ms.
    pub fn loses_at_random(&self) -> bool {
        self.is_random
    }

    /// Whether the kernel's congestion control holds back what the path would take, though nothing was ever lost: it took
    /// another one's queue, such as that in which its acknowledgements waited, for the end of this path. Said once each
    /// time that it shows.
    pub fn is_held_back(&mut self) -> bool {
        std::mem::take(&mut self.is_held_back)
    }

    /// Forgets what it knows: losses have held the last congestion control back, and the next one finds out how much there
    /// is.
    pub fn start_again(&mut self) {
        *self = Flight::default();
    }

    /// What is missing in flight to `gain` times what the path holds, in bytes: whole segments.
    fn room_at(&self, sample: &Sample, gain: f64) -> usize {
        let needed = self.rate() * (sample.shortest.as_secs_f64() * gain + LATE.as_secs_f64());
        let missing = needed.max(f64::from(sample.segment) * 10.0) as u64;
        let missing = missing.saturating_sub(sample.held);
        let whole = missing.checked_next_multiple_of(sample.segment.into());
        whole.and_then(|whole| usize::try_from(whole).ok()).unwrap_or(usize::MAX)
    }

    /// Bytes a second.
    fn rate(&self) -> f64 {
        self.rates.iter().copied().fold(0.0, f64::max)
    }

    fn watch(&mut self, sample: &Sample, now: Instant) {
        let Some(window) = &mut self.window else {
            self.window = Some(Window::begin(sample, sample.resent, sample.round_trip, now));
            return;
        };
        window.longest[0] = window.longest[0].max(sample.round_trip);
        // A pause says nothing about the path, but what is lost at the end of what was sent is found out in it.
        if now.saturating_duration_since(window.looked_at) > sample.round_trip.max(sample.shortest) {
            let (resent, longest) = (window.resent, window.longest[0]);
            self.window = Some(Window::begin(sample, resent, longest, now));
            return;
        }
        window.looked_at = now;
        if let Phase::Growing { is_queued, .. } = &mut self.phase {
            *is_queued |= sample.is_longer_than(QUEUED);
        }
        if now.saturating_duration_since(window.began) >= sample.shortest.max(LONG) {
            self.end_window(sample, now);
        }
    }

    /// Draws the conclusions from a window of a round trip, and begins the next one.
    fn end_window(&mut self, sample: &Sample, now: Instant) {
        let Some(Window { began, delivered, resent, longest, is_limited, .. }) = self.window.take() else {
            return;
        };
        self.window = Some(Window::begin(sample, sample.resent, longest[0], now));
        let seconds = now.saturating_duration_since(began).as_secs_f64();
        let delivered = sample.delivered.wrapping_sub(delivered);
        let rate = f64::from(delivered) * f64::from(sample.segment) / seconds;
        // What was not limited by the path may only show that it takes more.
        if is_limited || rate > self.rate() {
            self.rates[self.next] = rate;
            self.next = (self.next + 1) % WINDOWS;
        }
        match &mut self.phase {
            _ if is_limited => self.note_growth(rate),
            // Whoever had little to send has not seen what the path takes, and what begins next is not to wait for it.
            Phase::Full => self.phase = Phase::GROWING,
            Phase::Growing { is_queued, .. } => *is_queued = sample.is_longer_than(QUEUED),
            Phase::Shared(_) => {}
        }
        if is_limited && !is_longer(longest[0], sample.shortest, ROOMY) {
            self.note_room(sample);
        }
        let is_queue_free = longest.iter().all(|longest| !is_longer(*longest, sample.shortest, QUEUED));
        self.is_random |= sample.resent != resent && is_queue_free;
        self.note_queue(sample, now);
    }

    fn note_growth(&mut self, rate: f64) {
        let Phase::Growing { best, flat, is_queued } = &mut self.phase else { return };
        if rate >= *best * GROWTH {
            (*best, *flat) = (rate, 0);
            return;
        }
        *flat += 1;
        if *flat >= FULL_AFTER || *is_queued {
            self.phase = Phase::Full;
        }
    }

    /// There was more to send than was taken, and no queue.
    fn note_room(&mut self, sample: &Sample) {
        match self.phase {
            Phase::Full | Phase::Shared(_) => self.phase = Phase::GROWING,
            Phase::Growing { is_queued, .. } => self.is_held_back = !is_queued && sample.resent == 0,
        }
    }

    fn note_queue(&mut self, sample: &Sample, now: Instant) {
        let Phase::Full = self.phase else { return };
        self.queued = if sample.is_longer_than(SHARED) { self.queued + 1 } else { 0 };
        if self.queued >= SHARED_AFTER {
            self.phase = Phase::Shared(now + SHARED_FOR);
        }
    }
}

impl Window {
    fn begin(sample: &Sample, resent: u32, longest_before: Duration, now: Instant) -> Window {
        Window {
            began: now,
            looked_at: now,
            delivered: sample.delivered,
            resent,
            longest: [sample.round_trip, longest_before],
            is_limited: false,
        }
    }
}

impl Sample {
    /// Whether the round trip of now tells of a queue.
    fn is_longer_than(&self, factor: f64) -> bool {
        is_longer(self.round_trip, self.shortest, factor)
    }
}

fn is_longer(round_trip: Duration, shortest: Duration, factor: f64) -> bool {
    round_trip > shortest.mul_f64(factor) + LATE / 2
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "virtual time has to start somewhere")]
mod tests {
    use super::*;

    const SEGMENT: u32 = 1_448;
    const STEP: Duration = Duration::from_millis(1);
    /// What is written at once, in segments: 128 KiB.
    const WRITE: f64 = 90.0;

    /// A path with a queue before its bottleneck, and a sender that has always more to send.
    struct Path {
        now: Instant,
        /// Segments a step.
        rate: f64,
        /// Steps both ways, without a queue.
        length: f64,
        /// What others keep in the queue, in segments.
        others: f64,
        window: f64,
        /// Segments a step that there are to send.
        offered: f64,
        /// In flight.
        held: f64,
        delivered: f64,
        resent: u32,
        flight: Flight,
    }

    impl Path {
        fn new(rate: f64, length: f64) -> Path {
            Path {
                now: Instant::now(),
                rate,
                length,
                others: 0.0,
                window: 10.0,
                offered: f64::INFINITY,
                held: 0.0,
                delivered: 0.0,
                resent: 0,
                flight: Flight::default(),
            }
        }

        fn queue(&self) -> f64 {
            (self.held - self.rate * self.length).max(0.0) + self.others
        }

        fn run(&mut self, steps: u32) {
            for _ in 0..steps {
                self.now += STEP;
                let round_trip = self.length + self.queue() / self.rate;
                let arrives = (self.held / round_trip).min(self.rate);
                self.held -= arrives;
                self.delivered += arrives;
                // A window that doubles each round trip, and ends at four times what the path holds.
                self.window = (self.window + arrives).min(self.rate * self.length * 4.0);
                let sample = Sample {
                    shortest: STEP.mul_f64(self.length),
                    round_trip: STEP.mul_f64(round_trip),
                    segment: SEGMENT,
                    held: (self.held * f64::from(SEGMENT)) as u64,
                    delivered: self.delivered as u32,
                    resent: self.resent,
                };
                let room = self.flight.room(&sample, self.now) as f64 / f64::from(SEGMENT);
                // A large write, but for what waits for a step.
                let more = WRITE.min(self.offered);
                let taken = more.min(room).min((self.window - self.held).max(0.0));
                if taken < more {
                    self.flight.was_limited();
                }
                self.held += taken;
            }
        }
    }

    #[test]
    fn a_full_path_is_kept_busy_without_a_queue() {
        for (rate, length) in [(8.6, 40.0), (4.3, 100.0), (1.7, 200.0), (80.0, 10.0)] {
            let mut path = Path::new(rate, length);
            path.run(3_000);
            let before = path.delivered;
            path.run(1_000);
            let share = (path.delivered - before) / (rate * 1_000.0);
            assert!(share > 0.98, "{share} of {rate} a step");
            assert!(path.queue() < rate * (length * 0.12 + 5.0), "{} are queued", path.queue());
        }
    }

    #[test]
    fn a_sender_with_little_to_send_does_not_make_a_path_narrow() {
        let mut path = Path::new(8.6, 40.0);
        path.offered = 0.5;
        path.run(5_000);
        path.offered = f64::INFINITY;
        path.run(1_000);
        let before = path.delivered;
        path.run(1_000);
        assert!(path.delivered - before > 8_400.0, "{}", path.delivered - before);
    }

    #[test]
    fn a_path_that_gets_faster_is_used() {
        let mut path = Path::new(2.0, 40.0);
        path.run(3_000);
        path.rate = 16.0;
        path.run(2_000);
        let before = path.delivered;
        path.run(1_000);
        assert!(path.delivered - before > 15_500.0, "{}", path.delivered - before);
    }

    #[test]
    fn a_path_that_others_fill_is_not_left_to_them() {
        let mut path = Path::new(8.6, 40.0);
        path.run(3_000);
        path.others = 300.0;
        path.run(3_000);
        assert!(matches!(path.flight.phase, Phase::Shared(_)), "{:?}", path.flight);
        path.others = 0.0;
        path.run(11_000);
        assert!(matches!(path.flight.phase, Phase::Full), "it is tried again: {:?}", path.flight);
        assert!(path.queue() < 8.6 * 12.0);
    }

    #[test]
    fn losses_without_a_queue_are_random_and_others_are_not() {
        let mut path = Path::new(8.6, 40.0);
        path.run(3_000);
        for _ in 0..5 {
            path.resent += 1;
            path.run(60);
        }
        assert!(path.flight.loses_at_random());
        let mut path = Path::new(8.6, 40.0);
        path.others = 300.0;
        for _ in 0..50 {
            path.resent += 1;
            path.run(60);
        }
        assert!(!path.flight.loses_at_random());
    }

    /// Of a window that doubles each round trip.
    fn longest_queue(rate: f64, length: f64) -> f64 {
        let mut path = Path::new(rate, length);
        let mut longest = 0.0_f64;
        for _ in 0..3_000 {
            path.run(1);
            longest = longest.max(path.queue());
        }
        longest
    }

    #[test]
    fn a_path_that_was_found_full_gets_no_queue_as_long_as_itself() {
        for (rate, length) in [(8.6, 40.0), (4.3, 100.0), (1.7, 200.0)] {
            let longest = longest_queue(rate, length);
            assert!(longest < rate * length, "{longest} at {rate} and {length}");
        }
    }

    #[test]
    fn after_a_while_with_little_to_send_much_goes_at_once() {
        let mut path = Path::new(8.6, 40.0);
        path.run(2_000);
        path.offered = 0.5;
        path.run(500);
        assert!(matches!(path.flight.phase, Phase::Growing { .. }), "{:?}", path.flight);
    }

    #[test]
    fn a_loss_that_shows_only_after_a_pause_is_seen() {
        let mut path = Path::new(8.6, 40.0);
        path.offered = 0.5;
        path.run(1_000);
        path.now += Duration::from_secs(1);
        path.resent += 1;
        path.run(200);
        assert!(path.flight.loses_at_random());
    }

    #[test]
    fn a_kernel_that_holds_back_what_the_path_would_take_is_told_unless_it_has_lost_something() {
        for lost in [0, 1] {
            let mut path = Path::new(8.6, 40.0);
            (path.window, path.resent) = (100.0, lost);
            let mut is_held_back = false;
            for _ in 0..1_000 {
                path.run(1);
                path.window = 100.0;
                is_held_back |= path.flight.is_held_back();
            }
            assert_eq!(is_held_back, lost == 0);
        }
        let mut path = Path::new(8.6, 40.0);
        path.run(1_000);
        path.flight.is_held_back();
        path.run(2_000);
        assert!(!path.flight.is_held_back(), "it is full");
    }
}
