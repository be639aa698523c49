//! What reports say about a session. Pure.

use std::net::SocketAddr;
use std::time::Instant;

use common::packet::drops::Drops;
use common::wire::tunnel::Tunnel;

use super::Switch;
use crate::ids::SessionId;

/// A member's link, for a report.
pub struct LinkFacts<'a> {
    /// Where it comes from.
    pub source: SocketAddr,
    /// Since when it is on the LAN.
    pub joined_at: Option<Instant>,
    /// Its tunnel.
    pub tunnel: &'a Tunnel,
    /// The tunnel of its lane, and since when that is open.
    pub lane: Option<(&'a Tunnel, Instant)>,
    /// Packets from it and to it that were dropped.
    pub drops: Drops,
}

impl Switch {
    /// The facts of a session.
    pub fn link(&self, id: SessionId) -> Option<LinkFacts<'_>> {
        let session = self.session(id)?;
        let mut drops = session.port.drops.clone();
        drops.add_all(&session.tunnel.queue().drops());
        let lane = self.lane_of(id).and_then(|(lane, since)| Some((&self.session(lane)?.tunnel, since)));
        if let Some((lane, _)) = lane {
            drops.add_all(&lane.queue().drops());
        }
        Some(LinkFacts {
            source: session.source,
            joined_at: session.joined_at,
            tunnel: &session.tunnel,
            lane,
            drops,
        })
    }
}
