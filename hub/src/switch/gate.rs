//! Limits half-open links, those whose other end is not authenticated yet, by source. Pure.
//!
//! Anyone can open connections, and an honest spoke may share its address with a flood (a NAT, a campus). A new
//! connection therefore replaces an older half-open one instead of being refused: an honest handshake takes two round
//! trips, and its first bytes come at once.
//!
//! - A source has a share of half-open links; one more closes its own oldest, a silent one before one that
//!   has begun the handshake. All sources together have a limit; one more closes the oldest of the source
//!   that has most.
//! - Each link that fails adds to its source's penalty, which passes with time: the share shrinks, and a
//!   source that is far gone gets no more than [`RATE`] links a second. One that has a member on the LAN is
//!   never slowed, and keeps a larger share.
//!
//! A source is an IPv4 address, or an IPv6 /64, as one machine can have all of it.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use common::packet::prefix::source_network;
use common::queue::token_bucket::TokenBucket;

use crate::ids::SessionId;

/// Most half-open links.
pub const MAX_HALF_OPEN: usize = 1_024;
/// Most of them from one source.
pub const MAX_PER_SOURCE: usize = 128;
/// The least share, at the full penalty.
pub const MIN_PER_SOURCE: usize = 16;
/// What it leaves to a source that has a member on the LAN.
pub const MIN_WITH_MEMBER: usize = 64;
/// Most links in all.
pub const MAX_SESSIONS: usize = 65_536;
/// The penalty for each link that fails.
pub const PENALTY: Duration = Duration::from_millis(100);
/// The largest penalty: after this time without failures it is gone.
pub const MAX_PENALTY: Duration = Duration::from_secs(60);
/// A penalty from here on slows a source down.
pub const SLOW_FROM: Duration = Duration::from_secs(16);
/// Links a second that such a source may open.
pub const RATE: u32 = 1_000;
/// As many at once.
const BURST: u32 = 100;
/// Sources without a link whose penalty is remembered.
const MAX_REMEMBERED: usize = 4_096;

/// The decision on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admittance {
    /// There is room.
    Admit,
    /// There is, once this link is closed.
    Replace(SessionId),
    /// Close it at once.
    Refuse(TurnedAway),
}

/// Why a connection is closed at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TurnedAway {
    /// Links from its source fail again and again.
    Slowed,
    /// Too many links are half-open, and none of them can be closed for it.
    HalfOpen,
    /// All links that the hub can have are those of members.
    Full,
}

impl fmt::Display for TurnedAway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TurnedAway::Slowed => "too many links from there did not join",
            TurnedAway::HalfOpen => "too many links are not authenticated yet",
            TurnedAway::Full => "members have all the links that the hub can serve",
        })
    }
}

/// The gate.
pub struct Gate {
    sources: HashMap<IpAddr, Source>,
    /// Half-open links by source, oldest first; no list is empty.
    waiting: HashMap<IpAddr, Vec<HalfOpen>>,
    half_open: usize,
    links: usize,
    max_links: usize,
    max_half_open: usize,
    sweep_at: usize,
}

struct Source {
    /// Links of members.
    members: usize,
    /// When the penalty ends.
    forgiven_at: Instant,
    /// Links that it may open while it is slowed down.
    slowed: TokenBucket,
}

struct HalfOpen {
    session: SessionId,
    since: Instant,
    /// Whether it has sent a hello and a first message.
    greeted: bool,
}

impl Default for Gate {
    fn default() -> Gate {
        Gate {
            sources: HashMap::new(),
            waiting: HashMap::new(),
            half_open: 0,
            links: 0,
            max_links: MAX_SESSIONS,
            max_half_open: MAX_HALF_OPEN,
            sweep_at: MAX_REMEMBERED,
        }
    }
}

impl Gate {
    /// Sets how many links there can be, at most [`MAX_SESSIONS`]. Half of them may be half-open.
    pub fn limit(&mut self, links: usize) {
        self.max_links = links.min(MAX_SESSIONS);
        self.max_half_open = (links / 2).clamp(1, MAX_HALF_OPEN);
    }

    /// Decides about a connection from `address`. To be followed by [`Gate::enter`] unless it is refused; a
    /// link that is replaced does not count any more, and stays to be closed.
    pub fn admit(&mut self, address: IpAddr, now: Instant) -> Admittance {
        let network = source_network(address);
        self.sweep(now);
        let source = self.sources.entry(network).or_insert_with(|| Source::new(now));
        if source.members == 0 && source.penalty(now) >= SLOW_FROM && !source.slowed.take(now) {
            return Admittance::Refuse(TurnedAway::Slowed);
        }
        let share = source.share(now);
        if self.waiting.get(&network).is_some_and(|waiting| waiting.len() >= share) {
            return match self.evict(network, now) {
                Some(session) => Admittance::Replace(session),
                None => Admittance::Refuse(TurnedAway::HalfOpen),
            };
        }
        if self.half_open >= self.max_half_open || self.links >= self.max_links {
            return match self.make_room(now) {
                Some(session) => Admittance::Replace(session),
                None if self.links >= self.max_links => Admittance::Refuse(TurnedAway::Full),
                None => Admittance::Refuse(TurnedAway::HalfOpen),
            };
        }
        Admittance::Admit
    }

    /// Takes in a link that was admitted.
    pub fn enter(&mut self, address: IpAddr, session: SessionId, now: Instant) {
        let waiting = self.waiting.entry(source_network(address)).or_default();
        waiting.push(HalfOpen { session, since: now, greeted: false });
        self.half_open += 1;
        self.links += 1;
    }

    /// Chooses a half-open link to be closed, where there is one: the hub is out of descriptors, say.
    pub fn make_room(&mut self, now: Instant) -> Option<SessionId> {
        let fattest = self.waiting.iter().filter_map(|(network, waiting)| {
            let victim = waiting.get(victim(waiting))?;
            // Of equals the one with a silent link, and then the one with the oldest.
            Some(((waiting.len(), !victim.greeted, Reverse(victim.since)), *network))
        });
        let (_, network) = fattest.max()?;
        self.evict(network, now)
    }

    /// Notes that a link has begun the handshake.
    pub fn greeted(&mut self, address: IpAddr, session: SessionId) {
        let waiting = self.waiting.get_mut(&source_network(address)).into_iter().flatten();
        for link in waiting.filter(|link| link.session == session) {
            link.greeted = true;
        }
    }

    /// Notes that a link's other end is a member now.
    pub fn joined(&mut self, address: IpAddr, session: SessionId, now: Instant) {
        let network = source_network(address);
        self.take(network, session);
        self.links += 1;
        self.sources.entry(network).or_insert_with(|| Source::new(now)).members += 1;
    }

    /// Notes that a member's link has closed.
    pub fn left(&mut self, address: IpAddr, now: Instant) {
        let network = source_network(address);
        let Some(source) = self.sources.get_mut(&network).filter(|source| source.members > 0) else { return };
        source.members -= 1;
        self.links -= 1;
        if source.is_forgiven(now) {
            self.sources.remove(&network);
        }
    }

    /// Notes that a link has closed whose other end did not become a member.
    pub fn failed(&mut self, address: IpAddr, session: SessionId, now: Instant) {
        let network = source_network(address);
        // An evicted link is gone already, and its source got the penalty then.
        if self.take(network, session) {
            self.punish(network, now);
        }
    }

    /// Half-open links.
    pub fn half_open(&self) -> usize {
        self.half_open
    }

    fn evict(&mut self, network: IpAddr, now: Instant) -> Option<SessionId> {
        let waiting = self.waiting.get(&network)?;
        let session = waiting.get(victim(waiting))?.session;
        self.take(network, session);
        self.punish(network, now);
        Some(session)
    }

    /// Takes a half-open link out of the account.
    fn take(&mut self, network: IpAddr, session: SessionId) -> bool {
        let Some(waiting) = self.waiting.get_mut(&network) else { return false };
        let Some(place) = waiting.iter().position(|link| link.session == session) else { return false };
        waiting.remove(place);
        if waiting.is_empty() {
            self.waiting.remove(&network);
        }
        self.half_open -= 1;
        self.links -= 1;
        true
    }

    fn punish(&mut self, network: IpAddr, now: Instant) {
        let source = self.sources.entry(network).or_insert_with(|| Source::new(now));
        source.forgiven_at = (source.forgiven_at.max(now) + PENALTY).min(now + MAX_PENALTY);
    }

    /// Forgets sources when there are too many of them: those without penalty, and then the mildest half.
    fn sweep(&mut self, now: Instant) {
        if self.sources.len() < self.sweep_at {
            return;
        }
        self.sources.retain(|_, source| !source.is_forgiven(now));
        let idle = self.sources.values().filter(|source| source.members == 0);
        let mut penalties: Vec<Instant> = idle.map(|source| source.forgiven_at).collect();
        if penalties.len() > MAX_REMEMBERED / 2 {
            let middle = penalties.len() - MAX_REMEMBERED / 2;
            let (_, &mut mildest, _) = penalties.select_nth_unstable(middle);
            self.sources.retain(|_, source| source.members > 0 || source.forgiven_at > mildest);
        }
        self.sweep_at = self.sources.len() + MAX_REMEMBERED / 2;
    }
}

impl Source {
    fn new(now: Instant) -> Source {
        Source {
            members: 0,
            forgiven_at: now,
            slowed: TokenBucket::new(Duration::from_secs(1) / RATE, BURST),
        }
    }

    /// Whether there is nothing to know about it.
    fn is_forgiven(&self, now: Instant) -> bool {
        self.members == 0 && self.penalty(now).is_zero()
    }

    fn penalty(&self, now: Instant) -> Duration {
        self.forgiven_at.saturating_duration_since(now)
    }

    /// How many half-open links it may have.
    fn share(&self, now: Instant) -> usize {
        let share = match self.penalty(now).as_secs() {
            0 => MAX_PER_SOURCE,
            1..4 => MAX_PER_SOURCE / 2,
            4..16 => MAX_PER_SOURCE / 4,
            _ => MIN_PER_SOURCE,
        };
        if self.members > 0 { share.max(MIN_WITH_MEMBER) } else { share }
    }
}

/// Where the link is that goes first: the oldest silent one, or the oldest.
fn victim(waiting: &[HalfOpen]) -> usize {
    waiting.iter().position(|link| !link.greeted).unwrap_or(0)
}

#[cfg(test)]
mod tests;
