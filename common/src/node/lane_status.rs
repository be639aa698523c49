//! What `status` says about a lane, at either end. Pure.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::human::{bytes, counted, duration, millis};
use crate::wire::tunnel::{Traffic, Tunnel};

/// A lane that is open.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LaneStatus {
    /// For how long it is open.
    pub seconds: u64,
    /// The last round trip.
    pub round_trip_ms: Option<f64>,
    /// Packets and bytes that came by it.
    pub received: Traffic,
    /// Packets and bytes that went by it.
    pub sent: Traffic,
}

impl LaneStatus {
    /// A lane that is open since then, with this tunnel.
    pub fn of(tunnel: &Tunnel, since: Instant, now: Instant) -> LaneStatus {
        let (received, sent) = tunnel.traffic();
        LaneStatus {
            seconds: now.saturating_duration_since(since).as_secs(),
            round_trip_ms: tunnel.round_trip().map(|time| time.as_secs_f64() * 1_000.0),
            received,
            sent,
        }
    }

    /// In words.
    pub fn text(&self) -> String {
        let way = |way: Traffic| format!("{} in {}", bytes(way.bytes), counted(way.packets, "packet"));
        let round_trip = self.round_trip_ms.map_or("not known yet".to_owned(), millis);
        format!(
            "a second connection is open for {}, round trip {round_trip}: received {}, sent {}",
            duration(self.seconds),
            way(self.received),
            way(self.sent)
        )
    }
}

/// What went by a link and its lane together.
pub fn sum(link: Traffic, lane: Option<Traffic>) -> Traffic {
    let lane = lane.unwrap_or_default();
    Traffic { packets: link.packets + lane.packets, bytes: link.bytes + lane.bytes }
}
