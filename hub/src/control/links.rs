//! A link, as a hub's commands show it. Pure.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Instant;

use common::node::lane_status::{LaneStatus, sum};
use common::wire::tunnel::Traffic;
use serde::{Deserialize, Serialize};

use crate::core::Core;
use crate::ids::SessionId;
use crate::totals::by_label;

/// How the link of a member stands. Counts begin with the link.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LinkStatus {
    /// For how long it is online.
    pub seconds: u64,
    /// Its outer address.
    pub source: SocketAddr,
    /// The last round trip.
    pub round_trip_ms: Option<f64>,
    /// Packets and bytes from it.
    pub received: Traffic,
    /// Packets and bytes to it.
    pub sent: Traffic,
    /// Bytes that wait to be sent to it.
    pub queue_bytes: usize,
    /// Packets from it and to it that were dropped, by reason.
    pub drops: BTreeMap<String, u64>,
    /// Its second connection, while it has one; what went by that is in the counts above.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lane: Option<LaneStatus>,
}

/// Whole seconds from `at` to `now`.
pub(super) fn seconds_since(at: Instant, now: Instant) -> u64 {
    now.saturating_duration_since(at).as_secs()
}

/// How a session stands.
pub(super) fn link_status(core: &Core, session: SessionId, now: Instant) -> Option<LinkStatus> {
    let link = core.link(session)?;
    let (received, sent) = link.tunnel.traffic();
    let lane = link.lane.map(|(tunnel, since)| LaneStatus::of(tunnel, since, now));
    Some(LinkStatus {
        seconds: link.joined_at.map_or(0, |at| seconds_since(at, now)),
        source: SocketAddr::new(link.source.ip().to_canonical(), link.source.port()),
        round_trip_ms: link.tunnel.round_trip().map(|time| time.as_secs_f64() * 1_000.0),
        received: sum(received, lane.as_ref().map(|lane| lane.received)),
        sent: sum(sent, lane.as_ref().map(|lane| lane.sent)),
        queue_bytes: link.tunnel.queue().bytes(),
        drops: by_label(&link.drops),
        lane,
    })
}
