//! The hubs of the LAN, as a hub's commands show them. Pure.

use std::time::Instant;

use common::node::text::Printable;
use common::wire::key::PublicKey;
use common::wire::name::Name;
use serde::{Deserialize, Serialize};

use super::links::{LinkStatus, link_status};
use crate::core::Core;
use crate::lan::members::Member;
use crate::lan::peers::Peer;

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
    /// Members that are with that hub.
    pub members: usize,
    /// What every link has.
    #[serde(flatten)]
    pub link: LinkStatus,
}

/// Who keeps the list of members that hubs share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KeeperStatus {
    /// Its key.
    pub key: PublicKey,
    /// Its name, where the list has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// Whether it is the hub that answers.
    pub this: bool,
    /// Of two keepers the one with the higher term counts.
    pub term: u64,
    /// Whether it can be reached, so that new machines can join.
    pub reached: bool,
    /// Whether it writes the list to a store before it agrees to a change.
    #[serde(default)]
    pub store: bool,
    /// Why no new machine can join, if that is so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
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
        let link = |peer: &Peer| {
            let link = link_status(core, peer.link()?.0, now)?;
            Some(HubLinkStatus { members: peer.members(), link })
        };
        let problem = peer.and_then(Peer::failure).map(|why| Printable(why).to_string());
        HubStatus {
            name: hub.name.clone(),
            place: hub.hub.as_ref().map(ToString::to_string).unwrap_or_default(),
            key: hub.key,
            this: hub.key == core.key(),
            link: peer.and_then(link),
            problem,
        }
    };
    let hubs: Vec<HubStatus> = core.hubs().iter().map(one).collect();
    if hubs.iter().all(|hub| hub.this) { Vec::new() } else { hubs }
}

/// The names of the LAN's other hubs.
pub fn others(core: &Core) -> Vec<Name> {
    others_where(core, |_| true)
}

/// The names of those of them that have no link to this one.
pub fn unlinked(core: &Core) -> Vec<Name> {
    others_where(core, |hub| core.peer(&hub.key).and_then(Peer::link).is_none())
}

fn others_where(core: &Core, is_it: impl Fn(&Member) -> bool) -> Vec<Name> {
    let others = core.hubs().into_iter().filter(|hub| hub.key != core.key() && is_it(hub));
    others.map(|hub| hub.name.clone()).collect()
}

/// Who keeps the list, if hubs share it.
pub(super) fn keeper(core: &Core) -> Option<KeeperStatus> {
    let term = core.keeper()?;
    let members = core.members();
    Some(KeeperStatus {
        key: term.keeper,
        name: members.by_key(&term.keeper).map(|id| members.member(id).name.clone()),
        this: term.keeper == core.key(),
        term: term.number,
        reached: core.reaches_keeper(),
        store: core.has_store(),
        problem: core.keeper_problem().map(|why| Printable(&why).to_string()),
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
