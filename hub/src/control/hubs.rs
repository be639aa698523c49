//! The hubs of the LAN, as a hub's commands show them. Pure.

use common::wire::key::PublicKey;
use common::wire::name::Name;
use serde::{Deserialize, Serialize};

use crate::core::Core;
use crate::lan::members::Member;

/// A hub of the LAN.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HubStatus {
    /// Its name in the list of members.
    pub name: Name,
    /// Where spokes reach it.
    pub place: String,
    /// Its key.
    pub key: PublicKey,
    /// Whether it is the one that answers.
    pub this: bool,
}

/// Whether a hub sends its members to others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Draining {
    /// Whether it does.
    pub draining: bool,
    /// Members that are online here now.
    pub online: usize,
    /// Where they can go.
    pub hubs: Vec<HubStatus>,
}

/// The hubs of the LAN, if there is another one.
pub(super) fn hubs(core: &Core) -> Vec<HubStatus> {
    let one = |hub: &&Member| HubStatus {
        name: hub.name.clone(),
        place: hub.hub.as_ref().map(ToString::to_string).unwrap_or_default(),
        key: hub.key,
        this: hub.key == core.key(),
    };
    let hubs: Vec<HubStatus> = core.hubs().iter().map(one).collect();
    if hubs.iter().all(|hub| hub.this) { Vec::new() } else { hubs }
}

/// Whether the hub sends its members to others.
pub fn draining(core: &Core) -> Draining {
    Draining {
        draining: core.is_draining(),
        online: core.members().iter().filter(|(_, member)| member.session.is_some()).count(),
        hubs: hubs(core),
    }
}
