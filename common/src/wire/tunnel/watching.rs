//! Whether the other end of a tunnel is there: pings, and how closely it is watched. Pure; the timers are [`Liveness`]'s.
//!
//! [`Liveness`]: super::liveness::Liveness

use std::time::{Duration, Instant};

use super::liveness::{SILENT_HUB_AFTER, Watch};
use super::{Error, State, Tunnel};
use crate::wire::frame::ControlFrame;

impl Tunnel {
    /// Makes it a link between hubs: each tells the other who is on the LAN with it, and notices within 2 s that the other
    /// one is silent.
    pub fn set_between_hubs(&mut self) {
        self.is_between_hubs = true;
        self.liveness.set_watch(Watch::Always);
        self.liveness.set_dead_after(SILENT_HUB_AFTER);
    }

    /// Spoke: watches the hub that closely from now on.
    pub fn set_watch(&mut self, watch: Watch) {
        self.liveness.set_watch(watch);
    }

    /// A packet is sent by other means to the same end: the ping that follows packets is due.
    pub fn sends_beside(&mut self) {
        self.liveness.sends();
    }

    /// The other end's kernel does not answer, though it was asked since then: pings, unless an answer is due already.
    pub fn doubt(&mut self, since: Instant, now: Instant) -> Result<(), Error> {
        let asked = if self.liveness.silent_since().is_none() { self.ping(now) } else { Ok(()) };
        self.liveness.asked_since(since);
        asked
    }

    /// The last round trip of a ping.
    pub fn round_trip(&self) -> Option<Duration> {
        self.liveness.round_trip()
    }

    /// When anything was last heard.
    pub fn heard_at(&self) -> Instant {
        self.liveness.heard_at()
    }

    /// Since when nothing is heard from the other end, though it was asked all the while; `None` where no answer is due.
    pub fn silent_since(&self) -> Option<Instant> {
        self.liveness.silent_since()
    }

    /// When the last ping was sent that was answered. What was heard since says nothing about what is sent.
    pub fn answered(&self) -> Option<Instant> {
        self.liveness.answered()
    }

    /// Pings now, whenever the last one was.
    pub fn ping(&mut self, now: Instant) -> Result<(), Error> {
        let token = self.liveness.ping(now);
        self.send_ping(token)
    }

    fn send_ping(&mut self, token: u64) -> Result<(), Error> {
        self.rest();
        self.control(&ControlFrame::Ping(token))
    }

    /// An idle tunnel does not keep expanded keys; the next records expand them again.
    pub(super) fn rest(&mut self) {
        if let Some(transport) = &mut self.transport {
            transport.sealer.drop_cached_key();
            transport.opener.drop_cached_key();
        }
    }

    /// Whether each end pings the other.
    pub(super) fn is_kept_alive(&self) -> bool {
        matches!(self.state, State::Open | State::Lane | State::Pending)
    }

    /// When `handle_timeout` has something to do next.
    pub fn deadline(&self) -> Instant {
        if self.is_kept_alive() { self.liveness.deadline() } else { self.liveness.handshake_deadline() }
    }

    /// Pings when that is due; an error says that the link is dead.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), Error> {
        if !self.is_kept_alive() {
            let is_late = now >= self.liveness.handshake_deadline();
            return if is_late { Err(Error::TooSlow) } else { Ok(()) };
        }
        if self.liveness.is_dead(now) {
            return Err(Error::Silent);
        }
        if self.liveness.is_ping_due(now) {
            let token = self.liveness.ping_again(now);
            self.send_ping(token)?;
        }
        Ok(())
    }
}
