//! Which hub to be at: how far each one is, which ones to avoid, when to doubt the one in use, and when another one is
//! better. Pure.

use std::time::{Duration, Instant};

use common::wire::key::PublicKey;

/// After so long without a word from the hub, another one is prepared.
const DOUBT_AFTER: Duration = Duration::from_secs(1);
/// After so many times that, this spoke joins there.
const LOST_AFTER: u32 = 2;
/// On a path with a long round trip, so many of them are no silence.
const ROUND_TRIPS: u32 = 2;
/// How long a hub comes last after it was lost, or wanted its members gone; nobody leaves another one for it meanwhile.
const AVOID_FOR: Duration = Duration::from_secs(30);
/// How often the hubs are measured, give or take a fifth.
const MEASURE_EVERY: Duration = Duration::from_secs(600);
/// How much nearer another hub has to be, as a part of the round trip and at least, and how often in a row.
const NEARER_PERCENT: u32 = 30;
const NEARER_LEAST: Duration = Duration::from_millis(10);
const NEARER_TIMES: u8 = 3;
/// Within so long, those who are told to go elsewhere go, so that they do not arrive as one.
const SPREAD: Duration = Duration::from_millis(250);
/// How long to wait before another hub is asked, where none took this spoke.
const LEAVE_AGAIN: Duration = Duration::from_secs(5);

/// After how long a silence the hub is in doubt, and lost, by the last round trip.
pub(super) fn patience(round_trip: Option<Duration>) -> (Duration, Duration) {
    let doubt = round_trip.map_or(DOUBT_AFTER, |time| (time * ROUND_TRIPS).max(DOUBT_AFTER));
    (doubt, doubt * LOST_AFTER)
}

/// What is known about the hubs.
#[derive(Debug, Default)]
pub(super) struct Choice {
    hubs: Vec<Hub>,
    /// When the hubs are measured next, while there are several.
    measure_at: Option<Instant>,
    /// The hubs that are still to be measured in this round.
    unmeasured: Vec<PublicKey>,
    /// When to leave a hub that wants its members gone.
    leave_at: Option<Instant>,
    /// Whether that was tried before.
    has_tried_to_leave: bool,
}

#[derive(Debug)]
struct Hub {
    key: PublicKey,
    /// How long it took to prove its key, the last time.
    round_trip: Option<Duration>,
    /// Until when it comes last.
    avoid_until: Option<Instant>,
    /// How often in a row it was that much nearer than the one in use.
    nearer: u8,
}

/// In which order hubs are tried: the less, the earlier.
pub(super) type Rank = (bool, bool, Duration);

impl Choice {
    fn hub(&mut self, key: PublicKey) -> &mut Hub {
        let at = self.hubs.iter().position(|hub| hub.key == key).unwrap_or_else(|| {
            self.hubs.push(Hub { key, round_trip: None, avoid_until: None, nearer: 0 });
            self.hubs.len() - 1
        });
        &mut self.hubs[at]
    }

    /// Forgets all hubs but these.
    pub(super) fn keep(&mut self, hubs: &[PublicKey]) {
        self.hubs.retain(|hub| hubs.contains(&hub.key));
        self.unmeasured.retain(|key| hubs.contains(key));
    }

    /// How long a hub took to prove its key.
    pub(super) fn round_trip(&self, key: PublicKey) -> Option<Duration> {
        self.hubs.iter().find(|hub| hub.key == key)?.round_trip
    }

    /// A hub has proved its key, which took so long.
    pub(super) fn note(&mut self, key: PublicKey, round_trip: Duration) {
        self.hub(key).round_trip = Some(round_trip);
    }

    /// A hub was lost, or wants its members gone: it comes last for a while.
    pub(super) fn avoid(&mut self, key: PublicKey, now: Instant) {
        self.hub(key).avoid_until = Some(now + AVOID_FOR);
    }

    /// Whether a hub comes last for now.
    pub(super) fn is_avoided(&self, hub: Option<PublicKey>, now: Instant) -> bool {
        self.rank(hub, None, now).0
    }

    /// When a hub is tried: first the one that was used last on this network, then the nearest.
    pub(super) fn rank(&self, hub: Option<PublicKey>, preferred: Option<PublicKey>, now: Instant) -> Rank {
        let known = hub.and_then(|key| self.hubs.iter().find(|hub| hub.key == key));
        let is_avoided = known.is_some_and(|hub| hub.avoid_until.is_some_and(|until| now < until));
        let round_trip = known.and_then(|hub| hub.round_trip).unwrap_or(Duration::MAX);
        (is_avoided, hub.is_none() || hub != preferred, round_trip)
    }

    // ---- leaving

    /// The hub in use wants its members gone, or takes them again. Those who leave do so at different times, by `random`.
    pub(super) fn set_leaving(&mut self, is_leaving: bool, random: u32, now: Instant) {
        let spread = SPREAD.mul_f64(f64::from(random) / f64::from(u32::MAX));
        self.leave_at = is_leaving.then(|| self.leave_at.unwrap_or(now + spread));
        self.has_tried_to_leave &= is_leaving;
    }

    /// When to leave, if the hub wants that.
    pub(super) fn leave_at(&self) -> Option<Instant> {
        self.leave_at
    }

    /// Tries to leave: whether for the first time since the hub wants it.
    pub(super) fn tries_to_leave(&mut self) -> bool {
        !std::mem::replace(&mut self.has_tried_to_leave, true)
    }

    /// No other hub has taken this spoke: it asks again later.
    pub(super) fn leave_later(&mut self, now: Instant) {
        self.leave_at = Some(now + LEAVE_AGAIN);
    }

    // ---- measuring

    /// There are several hubs and this spoke is at one, or not: hubs are measured, or not. `random`: for the time.
    pub(super) fn schedule(&mut self, are_several: bool, random: u32, now: Instant) {
        let share = 0.8 + 0.4 * f64::from(random) / f64::from(u32::MAX);
        match are_several {
            true => _ = self.measure_at.get_or_insert(now + MEASURE_EVERY.mul_f64(share)),
            false => (self.measure_at, self.unmeasured) = (None, Vec::new()),
        }
    }

    /// When a hub is measured next.
    pub(super) fn measure_at(&self) -> Option<Instant> {
        self.measure_at
    }

    /// The next hub to measure, where it is time; once there is none, the round is over.
    pub(super) fn next_to_measure(&mut self, hubs: impl FnOnce() -> Vec<PublicKey>) -> Option<PublicKey> {
        if self.unmeasured.is_empty() {
            self.unmeasured = hubs();
            // What is not measured now is not known.
            self.hubs.iter_mut().for_each(|hub| hub.round_trip = None);
        }
        self.unmeasured.pop()
    }

    /// Whether hubs are still to be measured in this round.
    pub(super) fn is_measuring(&self) -> bool {
        !self.unmeasured.is_empty()
    }

    /// A round is over: the hub to go to, if it was that much nearer than the one in use, and is not avoided.
    pub(super) fn judge(&mut self, own: PublicKey, now: Instant) -> Option<PublicKey> {
        self.measure_at = None;
        let here = self.round_trip(own);
        let mut found: Option<(Duration, PublicKey)> = None;
        for hub in self.hubs.iter_mut().filter(|hub| hub.key != own) {
            let is_avoided = hub.avoid_until.is_some_and(|until| now < until);
            let is_nearer = here.zip(hub.round_trip).is_some_and(|(here, there)| {
                let most = here.saturating_sub(NEARER_LEAST).min(here * (100 - NEARER_PERCENT) / 100);
                there <= most && here > NEARER_LEAST
            });
            hub.nearer = if is_nearer && !is_avoided { hub.nearer + 1 } else { 0 };
            if let Some(there) = hub.round_trip.filter(|_| hub.nearer >= NEARER_TIMES)
                && found.is_none_or(|(nearest, _)| there < nearest)
            {
                found = Some((there, hub.key));
            }
        }
        if found.is_some() {
            self.hubs.iter_mut().for_each(|hub| hub.nearer = 0);
        }
        found.map(|(_, key)| key)
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "virtual time has to start somewhere")]
mod tests {
    use common::wire::key::PrivateKey;
    use proptest::prelude::*;

    use super::*;

    fn key(seed: u8) -> PublicKey {
        PrivateKey::from_random([seed; 32]).public()
    }

    fn ms(time: u64) -> Duration {
        Duration::from_millis(time)
    }

    /// A round in which hub `n` took the n-th time, this spoke being at hub 0.
    fn round(choice: &mut Choice, times: &[Option<u64>], now: Instant) -> Option<PublicKey> {
        let keys: Vec<PublicKey> = (0..times.len() as u8).map(key).collect();
        let mut measured = 0;
        loop {
            let Some(hub) = choice.next_to_measure(|| keys.clone()) else { panic!("no hub") };
            let at = keys.iter().position(|key| *key == hub).unwrap();
            if let Some(time) = times[at] {
                choice.note(hub, ms(time));
            }
            measured += 1;
            if !choice.is_measuring() {
                assert_eq!(measured, times.len());
                return choice.judge(key(0), now);
            }
        }
    }

    #[test]
    fn a_hub_that_is_much_nearer_three_times_running_is_the_one() {
        let (now, mut choice) = (Instant::now(), Choice::default());
        let near = [Some(100), Some(69), Some(70)];
        assert_eq!([0; 2].map(|_| round(&mut choice, &near, now)), [None; 2]);
        assert_eq!(round(&mut choice, &[Some(100), Some(71), Some(90)], now), None, "begins anew");
        assert_eq!([0; 2].map(|_| round(&mut choice, &near, now)), [None; 2]);
        assert_eq!(round(&mut choice, &near, now), Some(key(1)));
        assert_eq!(round(&mut choice, &near, now), None);
        // 30 %, and 10 ms.
        let mut choice = Choice::default();
        assert!((0..9).all(|_| round(&mut choice, &[Some(12), Some(3)], now).is_none()));
        assert!(
            (0..9).all(|_| round(&mut choice, &[None, Some(3)], now).is_none()),
            "it is not known how far"
        );
        assert!((0..9).all(|_| round(&mut choice, &[Some(90), None], now).is_none()));
        choice.avoid(key(1), now);
        assert!((0..9).all(|_| round(&mut choice, &[Some(90), Some(3)], now).is_none()));
        let later = now + AVOID_FOR;
        let found: Vec<_> = (0..3).map(|_| round(&mut choice, &[Some(90), Some(3)], later)).collect();
        assert_eq!(found, [None, None, Some(key(1))]);
    }

    #[test]
    fn the_last_one_comes_first_and_then_the_nearest_and_one_that_was_lost_at_the_end() {
        let (now, mut choice) = (Instant::now(), Choice::default());
        choice.note(key(1), ms(20));
        choice.note(key(2), ms(10));
        choice.note(key(3), ms(5));
        choice.avoid(key(3), now);
        let order = |choice: &Choice, now| {
            let mut hubs = [None, Some(key(1)), Some(key(2)), Some(key(3)), Some(key(4))];
            hubs.sort_by_key(|hub| choice.rank(*hub, Some(key(1)), now));
            hubs
        };
        assert_eq!(order(&choice, now), [Some(key(1)), Some(key(2)), None, Some(key(4)), Some(key(3))]);
        assert_eq!(order(&choice, now + AVOID_FOR)[1], Some(key(3)));
        choice.keep(&[key(1)]);
        assert_eq!(choice.hubs.len(), 1);
    }

    #[test]
    fn those_who_are_sent_elsewhere_go_at_different_times_and_stay_where_nobody_takes_them() {
        let (now, mut choice) = (Instant::now(), Choice::default());
        choice.set_leaving(true, u32::MAX / 2, now);
        let at = choice.leave_at().unwrap();
        assert!(at > now + ms(100) && at < now + ms(150));
        choice.set_leaving(true, 0, now);
        assert_eq!(choice.leave_at(), Some(at), "told twice");
        assert!(choice.tries_to_leave() && !choice.tries_to_leave(), "said once");
        choice.leave_later(at);
        assert_eq!(choice.leave_at(), Some(at + LEAVE_AGAIN));
        choice.set_leaving(false, 0, now);
        assert_eq!(choice.leave_at(), None);
    }

    proptest! {
        #[test]
        fn nobody_leaves_for_a_hub_that_is_not_nearer_by_a_third_and_10_ms(
            rounds in prop::collection::vec(prop::collection::vec(prop::option::of(0..400_u64), 3), 1..12),
        ) {
            let (now, mut choice) = (Instant::now(), Choice::default());
            for (index, times) in rounds.iter().enumerate() {
                let Some(to) = round(&mut choice, times, now) else { continue };
                let at = (0..3).position(|seed| key(seed) == to).unwrap();
                prop_assert!(at > 0 && index >= 2);
                for times in &rounds[index - 2..=index] {
                    let (here, there) = (times[0].unwrap(), times[at].unwrap());
                    prop_assert!(there + 10 <= here && there * 10 <= here * 7, "{here} {there}");
                }
            }
        }

        #[test]
        fn a_hub_is_in_doubt_before_it_is_lost_and_never_within_two_round_trips(time in prop::option::of(0..10_000_u64)) {
            let (doubt, lost) = patience(time.map(ms));
            prop_assert!(doubt >= DOUBT_AFTER && lost == doubt * 2);
            prop_assert!(time.is_none_or(|time| doubt >= ms(time * 2)));
        }

        #[test]
        fn hubs_are_measured_each_ten_minutes_give_or_take_a_fifth(random in any::<u32>()) {
            let (now, mut choice) = (Instant::now(), Choice::default());
            choice.schedule(true, random, now);
            let pause = choice.measure_at().unwrap() - now;
            prop_assert!(pause >= ms(480_000) && pause <= ms(720_001), "{pause:?}");
            choice.schedule(true, !random, now);
            prop_assert_eq!(choice.measure_at().unwrap() - now, pause);
            choice.schedule(false, random, now);
            prop_assert_eq!(choice.measure_at(), None);
        }
    }
}
