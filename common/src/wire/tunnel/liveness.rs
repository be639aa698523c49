//! Whether the other end is alive: when it was heard, pings, the round trip. Pure.

use std::time::{Duration, Instant};

/// From the connection to the welcome; nothing extends it.
pub const HANDSHAKE_TIME: Duration = Duration::from_secs(5);
/// How often an end pings.
pub const PING_EVERY: Duration = Duration::from_secs(4);
/// The same where the other end's silence is to be noticed soon: [`Watch`].
pub const WATCHFUL_PING_EVERY: Duration = Duration::from_millis(700);
/// Pings that are further apart than by this much more do not add up to a watch.
const PING_SLACK: Duration = Duration::from_millis(50);
/// A hub has no need to ping a member that has sent it nothing but pings, unless those stay away for so long.
const HUB_PINGS_AFTER: Duration = Duration::from_secs(5);
/// So often it pings all the same, with an answer that goes out anyway, to know the round trip.
const HUB_MEASURES_EVERY: Duration = Duration::from_secs(30);
/// The first ping's delay after the welcome: until then both ends are busy with files and the device, which would
/// count as round trip.
pub(super) const FIRST_PING: Duration = Duration::from_millis(250);
/// An end that was not heard for this long is dead.
pub const DEAD_AFTER: Duration = Duration::from_secs(10);
/// The same for a hub at the other end of a link between hubs.
pub(super) const SILENT_HUB_AFTER: Duration = Duration::from_secs(2);

/// How closely an end watches the other one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Watch {
    /// It pings each [`PING_EVERY`]; a hub leaves that to its members, while it has nothing else to send.
    #[default]
    Usual,
    /// The same, but for what is sent: a ping follows it, at least [`WATCHFUL_PING_EVERY`] after the one before.
    Sending,
    /// It pings each [`WATCHFUL_PING_EVERY`].
    Always,
}

/// The timers of one tunnel.
pub(super) struct Liveness {
    born_at: Instant,
    heard_at: Instant,
    /// How long the other end may be silent.
    dead_after: Duration,
    watch: Watch,
    /// Whether this end leaves pings to the other one where it has nothing else to send.
    is_lazy: bool,
    pings: Pings,
    /// When the last ping was sent that was answered.
    answered: Option<Instant>,
    round_trip: Option<Duration>,
    /// The shortest so far: as long as the path, without queues.
    shortest: Option<Duration>,
}

/// What was asked.
struct Pings {
    /// When the last ping was sent, or the first one is due.
    last_at: Instant,
    is_first: bool,
    /// Since when they have followed each other closely.
    close_since: Instant,
    /// Whether anything was sent since the last one that calls for one.
    has_sent: bool,
    /// The oldest one that is not answered yet: its token, and when it was sent.
    awaited: Option<(u64, Instant)>,
    /// How many so far; the last one's token.
    count: u64,
}

impl Liveness {
    /// `is_lazy`: this end leaves pings to the other one where it has nothing else to send.
    pub(super) fn new(is_lazy: bool, now: Instant) -> Liveness {
        Liveness {
            born_at: now,
            heard_at: now,
            dead_after: DEAD_AFTER,
            watch: Watch::Usual,
            is_lazy,
            pings: Pings {
                last_at: now,
                is_first: true,
                close_since: now,
                has_sent: false,
                awaited: None,
                count: 0,
            },
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

    /// Watches the other end that closely from now on.
    pub(super) fn set_watch(&mut self, watch: Watch) {
        self.watch = watch;
    }

    /// Something is sent of which it matters whether it arrives.
    pub(super) fn sends(&mut self) {
        self.pings.has_sent = true;
    }

    /// Since when nothing is heard, though the other end was asked all the while; `None` where no answer is due.
    pub(super) fn silent_since(&self) -> Option<Instant> {
        self.pings.awaited.map(|_| self.heard_at.max(self.pings.close_since))
    }

    /// The other end was asked since then, by other means; to be called once it is pinged, too.
    pub(super) fn asked_since(&mut self, since: Instant) {
        self.pings.close_since = self.pings.close_since.min(since);
    }

    /// Sets how long the other end may be silent.
    pub(super) fn set_dead_after(&mut self, time: Duration) {
        self.dead_after = time;
    }

    /// Schedules the first ping, as packets may flow from now on.
    pub(super) fn opened(&mut self, now: Instant) {
        (self.pings.is_first, self.pings.last_at) = (true, now + FIRST_PING);
    }

    /// Begins a ping whose answer is awaited, whatever was asked before; returns its token.
    pub(super) fn ping(&mut self, now: Instant) -> u64 {
        let token = self.ping_again(now);
        self.pings.awaited = Some((token, now));
        token
    }

    /// Begins a ping; an older one that is not answered is still the one to be answered.
    pub(super) fn ping_again(&mut self, now: Instant) -> u64 {
        if self.pings.awaited.is_none() && now > self.pings.last_at + WATCHFUL_PING_EVERY + PING_SLACK {
            self.pings.close_since = now;
        }
        self.pings.count += 1;
        (self.pings.last_at, self.pings.is_first, self.pings.has_sent) = (now, false, false);
        self.pings.awaited.get_or_insert((self.pings.count, now));
        self.pings.count
    }

    /// Takes the answer to the ping that is to be answered; any other token is ignored.
    pub(super) fn pong(&mut self, token: u64, now: Instant) {
        if let Some((_, sent_at)) = self.pings.awaited.take_if(|(expected, _)| *expected == token) {
            let round_trip = now.saturating_duration_since(sent_at);
            self.answered = Some(sent_at);
            self.round_trip = Some(round_trip);
            self.shortest = Some(self.shortest.map_or(round_trip, |shortest| shortest.min(round_trip)));
            if token < self.pings.count {
                // The last one is under way.
                self.pings.awaited = Some((self.pings.count, self.pings.last_at));
            }
        }
    }

    /// When the handshake is over time.
    pub(super) fn handshake_deadline(&self) -> Instant {
        self.born_at + HANDSHAKE_TIME
    }

    /// When to ping next.
    fn ping_at(&self) -> Instant {
        match self.watch {
            _ if self.pings.is_first => self.pings.last_at,
            Watch::Always => self.pings.last_at + WATCHFUL_PING_EVERY,
            Watch::Sending if self.pings.has_sent => self.pings.last_at + WATCHFUL_PING_EVERY,
            Watch::Usual if self.is_lazy && !self.pings.has_sent => {
                (self.pings.last_at + PING_EVERY).max(self.heard_at + HUB_PINGS_AFTER)
            }
            Watch::Usual | Watch::Sending => self.pings.last_at + PING_EVERY,
        }
    }

    /// Whether to ping with an answer to the other end.
    pub(super) fn is_measure_due(&self, now: Instant) -> bool {
        self.is_lazy && !self.pings.is_first && now >= self.pings.last_at + HUB_MEASURES_EVERY
    }

    /// When an open tunnel pings or dies next.
    pub(super) fn deadline(&self) -> Instant {
        self.ping_at().min(self.heard_at + self.dead_after)
    }

    pub(super) fn is_dead(&self, now: Instant) -> bool {
        now >= self.heard_at + self.dead_after
    }

    pub(super) fn is_ping_due(&self, now: Instant) -> bool {
        now >= self.ping_at()
    }
}
