//! The hubs of the LAN, as a hub's commands show them. Pure.

use std::collections::BTreeMap;
use std::time::Instant;

use common::node::text::Printable;
use common::wire::key::PublicKey;
use common::wire::name::Name;
use common::wire::tunnel::Traffic;
use serde::{Deserialize, Serialize};

use crate::core::Core;
use crate::lan::members::Member;
use crate::lan::peers::Peer;
use crate::totals::by_label;

/// A hub of the LAN.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HubStatus {
    /// Its name in the list of members.
    pub name: Name,
    /// Where spokes reach it.
    pub place: String,
    /// Its key.
    pub key: PublicKey,
    /// Whether it is the one that answers.
    pub this: bool,
    /// The link to it, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<HubLinkStatus>,
    /// Why there is no link, if it is not this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// A link between hubs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HubLinkStatus {
    /// For how long it has been there.
    pub seconds: u64,
    /// The last round trip, in milliseconds.
    pub round_trip_ms: Option<f64>,
    /// Members that are with that hub.
    pub members: usize,
    /// Bytes that wait to be sent.
    pub queue_bytes: usize,
    /// Packets that came by it.
    pub received: Traffic,
    /// Packets that went by it.
    pub sent: Traffic,
    /// Packets of it that were dropped, by reason.
    pub drops: BTreeMap<String, u64>,
}

/// Whether a hub sends its members to others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Draining {
    /// Whether it does.
    pub draining: bool,
    /// Members that are online here now.
    pub online: usize,
    /// Where they can go.
    pub hubs: Vec<HubStatus>,
}

/// The hubs of the LAN, if there is another one.
pub(super) fn hubs(core: &Core, now: Instant) -> Vec<HubStatus> {
    let one = |hub: &&Member| {
        let peer = core.peer(&hub.key);
        let problem = peer.and_then(Peer::failure).map(|why| Printable(why).to_string());
        HubStatus {
            name: hub.name.clone(),
            place: hub.hub.as_ref().map(ToString::to_string).unwrap_or_default(),
            key: hub.key,
            this: hub.key == core.key(),
            link: peer.and_then(|peer| link(core, peer, now)),
            problem,
        }
    };
    let hubs: Vec<HubStatus> = core.hubs().iter().map(one).collect();
    if hubs.iter().all(|hub| hub.this) { Vec::new() } else { hubs }
}

fn link(core: &Core, peer: &Peer, now: Instant) -> Option<HubLinkStatus> {
    let (session, since) = peer.link()?;
    let facts = core.link(session)?;
    let (received, sent) = facts.tunnel.traffic();
    Some(HubLinkStatus {
        seconds: now.saturating_duration_since(since).as_secs(),
        round_trip_ms: facts.tunnel.round_trip().map(|time| time.as_secs_f64() * 1_000.0),
        members: peer.members(),
        queue_bytes: facts.tunnel.queue().bytes(),
        received,
        sent,
        drops: by_label(&facts.drops),
    })
}

/// Whether the hub sends its members to others.
pub fn draining(core: &Core, now: Instant) -> Draining {
    Draining {
        draining: core.is_draining(),
        online: core.members().iter().filter(|(_, member)| member.session.is_some()).count(),
        hubs: hubs(core, now),
    }
}
