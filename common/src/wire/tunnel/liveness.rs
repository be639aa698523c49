//! Whether the other end is alive: when it was heard, pings, the round trip. Pure.

use std::time::{Duration, Instant};

/// From the connection to the welcome; nothing extends it.
pub const HANDSHAKE_TIME: Duration = Duration::from_secs(5);
/// How often each end pings.
pub const PING_EVERY: Duration = Duration::from_secs(4);
/// The same for a spoke that has other hubs to go to.
pub const WATCHFUL_PING_EVERY: Duration = Duration::from_millis(700);
/// The first ping's delay after the welcome: until then both ends are busy with files and the device, which would
/// count as round trip.
pub(super) const FIRST_PING: Duration = Duration::from_millis(250);
/// An end that was not heard for this long is dead.
pub const DEAD_AFTER: Duration = Duration::from_secs(10);
/// The same for a hub at the other end of a link between hubs.
pub(super) const SILENT_HUB_AFTER: Duration = Duration::from_secs(2);

/// The timers of one tunnel.
pub(super) struct Liveness {
    born_at: Instant,
    heard_at: Instant,
    /// How long the other end may be silent.
    dead_after: Duration,
    /// How often to ping.
    ping_every: Duration,
    /// When to ping next.
    ping_at: Instant,
    /// The ping that is not answered yet: its token, and when it was sent.
    ping: Option<(u64, Instant)>,
    /// Pings so far; the last one's token.
    pings: u64,
    /// When the last ping was sent that was answered.
    answered: Option<Instant>,
    round_trip: Option<Duration>,
    /// The shortest so far: as long as the path, without queues.
    shortest: Option<Duration>,
}

impl Liveness {
    pub(super) fn new(now: Instant) -> Liveness {
        Liveness {
            born_at: now,
            heard_at: now,
            dead_after: DEAD_AFTER,
            ping_every: PING_EVERY,
            ping_at: now,
            ping: None,
            pings: 0,
            answered: None,
            round_trip: None,
            shortest: None,
        }
    }

    pub(super) fn heard(&mut self, now: Instant) {
        self.heard_at = now;
    }

    pub(super) fn heard_at(&self) -> Instant {
        self.heard_at
    }

    /// When the last ping was sent that was answered: the path carried packets both ways after that.
    pub(super) fn answered(&self) -> Option<Instant> {
        self.answered
    }

    /// The last round trip of a ping.
    pub(super) fn round_trip(&self) -> Option<Duration> {
        self.round_trip
    }

    /// The shortest round trip of a ping.
    pub(super) fn shortest(&self) -> Option<Duration> {
        self.shortest
    }

    /// Pings more often from now on, or as usual.
    pub(super) fn set_watchful(&mut self, is_watchful: bool, now: Instant) {
        self.ping_every = if is_watchful { WATCHFUL_PING_EVERY } else { PING_EVERY };
        self.ping_at = self.ping_at.min(now + self.ping_every);
    }

    /// Sets how long the other end may be silent.
    pub(super) fn set_dead_after(&mut self, time: Duration) {
        self.dead_after = time;
    }

    /// Schedules the first ping, as packets may flow from now on.
    pub(super) fn opened(&mut self, now: Instant) {
        self.ping_at = now + FIRST_PING;
    }

    /// Begins a ping; returns its token.
    pub(super) fn ping(&mut self, now: Instant) -> u64 {
        self.pings += 1;
        self.ping_at = now + self.ping_every;
        self.ping = Some((self.pings, now));
        self.pings
    }

    /// Takes the answer to a ping; any other token is ignored.
    pub(super) fn pong(&mut self, token: u64, now: Instant) {
        if let Some((_, sent_at)) = self.ping.take_if(|(expected, _)| *expected == token) {
            let round_trip = now.saturating_duration_since(sent_at);
            self.answered = Some(sent_at);
            self.round_trip = Some(round_trip);
            self.shortest = Some(self.shortest.map_or(round_trip, |shortest| shortest.min(round_trip)));
        }
    }

    /// When the handshake is over time.
    pub(super) fn handshake_deadline(&self) -> Instant {
        self.born_at + HANDSHAKE_TIME
    }

    /// When an open tunnel pings or dies next.
    pub(super) fn deadline(&self) -> Instant {
        self.ping_at.min(self.heard_at + self.dead_after)
    }

    pub(super) fn is_dead(&self, now: Instant) -> bool {
        now >= self.heard_at + self.dead_after
    }

    pub(super) fn is_ping_due(&self, now: Instant) -> bool {
        now >= self.ping_at
    }
}
