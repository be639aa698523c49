//! Requests to the hub through its control socket, and the answers. Pure.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Instant;

use common::packet::drops::Drops;
use common::wire::key::PublicKey;
use common::wire::name::Name;
use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use crate::core::Core;
use crate::lan::members::{Access, Change, Member, Members, Outcome};
use crate::lan::saving::Renumbered;

/// Most members in one page of the status.
pub const PAGE: usize = 500;
/// Most changes that the answer to a reload names.
pub const MAX_CHANGES: usize = 100;

/// A request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "lowercase", deny_unknown_fields)]
pub enum Request {
    /// How the LAN stands: [`Status`], with a page of members.
    Status {
        /// The last name of the page before.
        #[serde(default)]
        after: Option<Name>,
    },
    /// Let someone in, once: [`Invited`].
    Invite {
        /// The member's name.
        name: Name,
        /// Its addresses; the hub chooses where none is given.
        #[serde(default)]
        addresses: Vec<IpAddr>,
        /// Prefixes that it may offer.
        #[serde(default)]
        routes: Vec<IpNetwork>,
        /// How long the invite lives.
        seconds: u64,
    },
    /// Let only members in: [`Standing`].
    Lock,
    /// Let anyone in: [`Standing`].
    Unlock,
    /// End a membership for good: [`Revoked`].
    Revoke {
        /// A name, an address or a key.
        member: String,
    },
    /// Move the LAN to other subnets: [`Moved`].
    Renumber {
        /// One for each family that is to move.
        subnets: Vec<IpNetwork>,
    },
    /// Read the files again: [`Reloaded`].
    Reload,
}

/// What the server knows beside the core.
#[derive(Clone, Debug)]
pub struct About {
    /// Where the hub listens.
    pub listening: SocketAddr,
    /// The device's name.
    pub device: String,
    /// When the hub started.
    pub started_at: Instant,
}

/// How the LAN stands at this moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The hub's version.
    pub version: String,
    /// For how long it has run.
    pub up_seconds: u64,
    /// Where it listens.
    pub listening: SocketAddr,
    /// Its device.
    pub device: String,
    /// The LAN's MTU.
    pub mtu: u32,
    /// The LAN's prefixes.
    pub subnets: Vec<IpNetwork>,
    /// Its key.
    pub key: PublicKey,
    /// Whether only members may join.
    pub locked: bool,
    /// Members that are online.
    pub online: usize,
    /// Members in all.
    pub known: usize,
    /// Members that were revoked.
    pub revoked: usize,
    /// Invites that are not used yet.
    pub invites: usize,
    /// Links that are not authenticated yet.
    pub half_open: usize,
    /// Why the hub cannot write its files now, if it has something to write.
    pub trouble: Option<String>,
    /// What the kernel does not have as it should be, and why; a line each.
    #[serde(default)]
    pub problems: Vec<String>,
    /// Packets of the hub itself that were dropped, by reason.
    pub drops: BTreeMap<String, u64>,
    /// Members by name: of one page, or all of them once a command has put the pages together.
    pub members: Vec<MemberStatus>,
}

/// How one member stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MemberStatus {
    /// Its name.
    pub name: Name,
    /// Its key.
    pub key: PublicKey,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Prefixes that it may offer.
    pub routes: Vec<IpNetwork>,
    /// Its link, if it is online.
    pub link: Option<LinkStatus>,
    /// How long ago it was online, if it is not and was since the hub started.
    pub seen_seconds_ago: Option<u64>,
    /// Where another machine with the same key tried to join lately.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub also_from: Option<IpAddr>,
}

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
}

/// Packets and bytes, one way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// An invite that was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invited {
    /// The secret, which is nowhere else.
    pub invite: String,
    /// The hub's key.
    pub hub_key: PublicKey,
    /// Where the hub listens.
    pub listening: SocketAddr,
    /// How long it lives.
    pub seconds: u64,
}

/// Who may join.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Whether only members may.
    pub locked: bool,
    /// Members.
    pub known: usize,
    /// Those of them that are online.
    pub online: usize,
    /// Invites that are not used yet.
    pub invites: usize,
    /// The port that the hub listens on.
    pub port: u16,
}

/// A membership that was ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revoked {
    /// The name it had.
    pub name: Name,
    /// Its key.
    pub key: PublicKey,
    /// The addresses it had.
    pub addresses: Vec<IpAddr>,
    /// Whether it was online.
    pub online: bool,
    /// The file in which its line is marked.
    pub file: PathBuf,
}

/// A LAN that has moved to other subnets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// From where to where.
    pub steps: Vec<(IpNetwork, IpNetwork)>,
    /// Members in all.
    pub members: usize,
    /// Those of them that are online, and come back for their new addresses.
    pub online: usize,
    /// Invites with addresses.
    pub invites: usize,
    /// Routes of members that the LAN itself covers now, with the members' names; a few.
    pub hidden: Vec<(IpNetwork, Name)>,
    /// Whether a running hub has done it.
    pub running: bool,
}

/// Files that were read again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// Who may join now.
    pub standing: Standing,
    /// Members that are changed, by name: `revoked`, `removed` or `changed`; the first [`MAX_CHANGES`].
    pub changes: Vec<(Name, String)>,
    /// How many are changed.
    pub changed: usize,
}

/// The status with the page of members behind a name.
pub fn status(core: &Core, about: &About, after: Option<&Name>, now: Instant) -> Status {
    let members = core.members();
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        up_seconds: now.saturating_duration_since(about.started_at).as_secs(),
        listening: about.listening,
        device: about.device.clone(),
        mtu: core.lan().mtu,
        subnets: core.lan().subnets.iter().collect(),
        key: core.key(),
        locked: core.access() != Access::Open,
        online: online(members),
        known: members.len(),
        revoked: members.revoked_count(),
        invites: core.invites().iter().count(),
        half_open: core.half_open(),
        trouble: core.trouble().map(str::to_owned),
        problems: Vec::new(),
        drops: drops(core.drops()),
        members: members.after(after).take(PAGE).map(|member| member_status(core, member, now)).collect(),
    }
}

/// Who may join.
pub fn standing(core: &Core, about: &About) -> Standing {
    Standing {
        locked: core.access() != Access::Open,
        known: core.members().len(),
        online: online(core.members()),
        invites: core.invites().iter().count(),
        port: about.listening.port(),
    }
}

/// What a renumbering did.
pub fn renumbered(done: &Renumbered, running: bool) -> Moved {
    let Renumbered { steps, members, online, invites, hidden } = done.clone();
    let steps = steps.into_iter().map(|step| (step.from, step.to)).collect();
    Moved { steps, members, online, invites, hidden, running }
}

/// What a reload did.
pub fn reloaded(core: &Core, about: &About, changes: &[Change]) -> Reloaded {
    let named = changes.iter().take(MAX_CHANGES).map(|change| {
        let outcome = match change.outcome {
            Outcome::Revoked => "revoked",
            Outcome::Removed => "removed",
            Outcome::Changed => "changed",
        };
        (change.member.name.clone(), outcome.to_owned())
    });
    Reloaded { standing: standing(core, about), changes: named.collect(), changed: changes.len() }
}

fn online(members: &Members) -> usize {
    members.iter().filter(|(_, member)| member.session.is_some()).count()
}

fn member_status(core: &Core, member: &Member, now: Instant) -> MemberStatus {
    let ago = |at: Instant| now.saturating_duration_since(at).as_secs();
    let link = member.session.and_then(|session| core.link(session)).map(|link| {
        let (received, sent) = link.tunnel.traffic();
        let traffic = |way: common::wire::tunnel::Traffic| Traffic { packets: way.packets, bytes: way.bytes };
        LinkStatus {
            seconds: link.joined_at.map_or(0, ago),
            source: SocketAddr::new(link.source.ip().to_canonical(), link.source.port()),
            round_trip_ms: link.tunnel.round_trip().map(|time| time.as_secs_f64() * 1_000.0),
            received: traffic(received),
            sent: traffic(sent),
            queue_bytes: link.tunnel.queue().bytes(),
            drops: drops(&link.drops),
        }
    });
    MemberStatus {
        name: member.name.clone(),
        key: member.key,
        addresses: member.addresses.clone(),
        routes: member.routes.clone(),
        also_from: core.second_machine(&member.key, now).map(|second| second.source.ip().to_canonical()),
        seen_seconds_ago: if link.is_none() { member.seen_at.map(ago) } else { None },
        link,
    }
}

fn drops(drops: &Drops) -> BTreeMap<String, u64> {
    drops.iter().map(|(reason, count)| (reason.label().to_owned(), count)).collect()
}
