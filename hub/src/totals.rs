//! What happened on the LAN since the hub started, as `hub status` tells it. Pure.

use std::collections::BTreeMap;

use common::packet::drops::{Drops, Reason};
use common::wire::tunnel::Traffic;
use serde::{Deserialize, Serialize};

use crate::switch::tally::{Lanes, Reasons, Tally};

/// What happened since the hub started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Totals {
    /// Connections, and tunnels in pings, that were taken in.
    pub connections: u64,
    /// Those that were closed at once instead, by reason.
    pub turned_away: BTreeMap<String, u64>,
    /// Links whose other end proved a key.
    pub handshakes: u64,
    /// Links that ended before.
    pub handshakes_failed: u64,
    /// How often a machine was let in.
    pub joins: u64,
    /// How often one was refused, by reason.
    pub refused: BTreeMap<String, u64>,
    /// Links of members that ended, by reason.
    pub left: BTreeMap<String, u64>,
    /// Second connections of members.
    pub lanes: Lanes,
    /// Packets and bytes from members.
    pub received: Traffic,
    /// Packets and bytes to members.
    pub sent: Traffic,
    /// Bytes that wait to be sent, at this moment.
    pub queue_bytes: usize,
    /// Packets that were dropped, those of the hub itself included, by reason.
    pub drops: BTreeMap<String, u64>,
}

/// Drops that occurred, by the label of their reason.
pub fn by_label(drops: &Drops) -> BTreeMap<String, u64> {
    drops.iter().map(|(reason, count)| (reason.label().to_owned(), count)).collect()
}

impl From<Tally> for Totals {
    fn from(tally: Tally) -> Totals {
        let owned =
            |reasons: Reasons| reasons.into_iter().map(|(label, count)| (label.to_owned(), count)).collect();
        Totals {
            connections: tally.connections,
            turned_away: owned(tally.turned_away),
            handshakes: tally.handshakes,
            handshakes_failed: tally.handshakes_failed,
            joins: tally.joins,
            refused: owned(tally.refused),
            left: owned(tally.left),
            lanes: tally.lanes,
            received: tally.received,
            sent: tally.sent,
            queue_bytes: tally.queue_bytes,
            drops: Reason::ALL
                .iter()
                .map(|&reason| (reason.label().to_owned(), tally.drops.of(reason)))
                .collect(),
        }
    }
}
