//! Requests to the hub through its control socket, and the answers. Pure.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Instant;

use common::wire::key::PublicKey;
use common::wire::name::Name;
use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use crate::core::Core;
use crate::lan::invites::Invite;
use crate::lan::members::{Access, Change, Difference, Member, Members, Outcome};
use crate::lan::pending::Waiting;
use crate::lan::rules::Tag;
use crate::lan::saving::Renumbered;
use crate::totals::{Totals, by_label};

pub use common::wire::tunnel::Traffic;

mod hubs;
mod links;
mod rules;
mod store;

pub use hubs::{Draining, HubLinkStatus, HubStatus, KeeperStatus, draining, others, unlinked};
pub use links::LinkStatus;
pub use rules::{Explained, PAGE, RuleList, RuleStatus, explain, rules};
pub use store::{StoreChange, StoreRequest, StoreWork, StoredRecord, serve_store};

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
    /// Make an invite: [`Invited`].
    Invite {
        /// The member's name, or that of an invite for several.
        name: Name,
        /// How many machines it lets in, each under its own name; one, under this name, where it is not given.
        #[serde(default)]
        uses: Option<u32>,
        /// Its addresses; the hub chooses where none is given.
        #[serde(default)]
        addresses: Vec<IpAddr>,
        /// Prefixes that it may offer.
        #[serde(default)]
        routes: Vec<IpNetwork>,
        /// Labels that access rules will know it by.
        #[serde(default)]
        tags: Vec<Tag>,
        /// How long the invite lives.
        seconds: u64,
        /// Whether the machine is to be a hub.
        #[serde(default)]
        is_hub: bool,
        /// Where other hubs and spokes reach this hub, if it invites another one: `HOST[:PORT]`.
        #[serde(default)]
        place: Option<String>,
    },
    /// The invites that can be used: [`InviteStatus`]es.
    Invites,
    /// Make an invite void: its name.
    Cancel {
        /// The name of the invite.
        name: Name,
    },
    /// The machines that wait to be let in: [`PendingStatus`]es.
    Pending,
    /// Let a machine in: [`Allowed`].
    Allow {
        /// Its key, or the name under which it waits.
        who: String,
        /// The member whose place it takes.
        #[serde(default)]
        in_place_of: Option<String>,
        /// Its name.
        #[serde(default)]
        name: Option<Name>,
        /// Its addresses; the hub chooses where none is given.
        #[serde(default)]
        addresses: Vec<IpAddr>,
        /// Prefixes that it may offer.
        #[serde(default)]
        routes: Vec<IpNetwork>,
        /// Labels that access rules will know it by.
        #[serde(default)]
        tags: Vec<Tag>,
    },
    /// Give a member another name: [`Renamed`].
    Rename {
        /// A name, an address or a key.
        member: String,
        /// The new name.
        name: Name,
    },
    /// Take a member off the list that is not on the LAN: [`Revoked`].
    Forget {
        /// A name, an address or a key.
        member: String,
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
    /// Send the members to other hubs, or take them again: [`Draining`].
    Drain {
        /// Whether to take them again.
        #[serde(default)]
        off: bool,
    },
    /// Keep the list of members that the hubs share.
    Keep,
    /// From `hub store`, which runs for as long as the hub does.
    Store {
        /// What it wants.
        request: StoreRequest,
    },
    /// Read the files again: [`Reloaded`].
    Reload,
    /// The access rules: [`RuleList`], with a page of lines.
    Rules {
        /// How many lines to leave out.
        #[serde(default)]
        from: usize,
    },
    /// Which access rule decides: [`Explained`].
    Explain {
        /// A member's name, an address, or `hub`.
        from: String,
        /// The same.
        to: String,
        /// `tcp/22`, `udp/53`, `icmp`, or a protocol's number.
        service: String,
    },
}

impl Request {
    /// Whether it changes nothing.
    pub fn is_question(&self) -> bool {
        matches!(
            self,
            Request::Status { .. }
                | Request::Invites
                | Request::Pending
                | Request::Rules { .. }
                | Request::Explain { .. }
        )
    }
}

/// What the server knows beside the core.
#[derive(Clone, Debug)]
pub struct About {
    /// Where the hub listens; once at least.
    pub listening: Vec<SocketAddr>,
    /// The device's name.
    pub device: String,
    /// When the hub started.
    pub started_at: Instant,
    /// The same in Unix seconds.
    pub started_unix: u64,
}

impl About {
    /// The ports that the hub listens on, each once.
    pub fn ports(&self) -> Vec<u16> {
        let mut ports: Vec<u16> = self.listening.iter().map(SocketAddr::port).collect();
        ports.sort_unstable();
        ports.dedup();
        ports
    }
}

/// How the LAN stands at this moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The hub's version.
    pub version: String,
    /// For how long it has run.
    pub up_seconds: u64,
    /// When it started, in Unix seconds.
    #[serde(default)]
    pub started_unix: u64,
    /// Where it listens.
    pub listening: Vec<SocketAddr>,
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
    /// Whether this hub sends its members to the others.
    #[serde(default)]
    pub draining: bool,
    /// The hubs of this LAN, where there are several.
    #[serde(default)]
    pub hubs: Vec<HubStatus>,
    /// Who keeps the list of members, where hubs share it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keeper: Option<KeeperStatus>,
    /// Members that are online here. Hubs are left out of this and the next two.
    pub online: usize,
    /// Members that are online at other hubs.
    #[serde(default)]
    pub elsewhere: usize,
    /// Members in all.
    pub known: usize,
    /// Members that were revoked.
    pub revoked: usize,
    /// Invites that are not used yet.
    pub invites: usize,
    /// Machines that wait to be let in.
    #[serde(default)]
    pub pending: usize,
    /// Links that are not authenticated yet.
    pub half_open: usize,
    /// How many access rules there are; `None` where all may reach all.
    #[serde(default)]
    pub rules: Option<usize>,
    /// Why the hub cannot write its files now, if it has something to write.
    pub trouble: Option<String>,
    /// What the kernel does not have as it should be, and why; a line each.
    #[serde(default)]
    pub problems: Vec<String>,
    /// The zone of names that it answers for, if it does.
    #[serde(default)]
    pub zone: Option<String>,
    /// Packets of the hub itself that were dropped, by reason.
    pub drops: BTreeMap<String, u64>,
    /// What happened since it started.
    #[serde(default)]
    pub totals: Totals,
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
    /// Labels that access rules know it by.
    #[serde(default)]
    pub tags: Vec<Tag>,
    /// Its link, if it is online here.
    pub link: Option<LinkStatus>,
    /// The hub that it is with, if that is another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub home: Option<Name>,
    /// How long ago it was online, if it is not and was since the hub started.
    pub seen_seconds_ago: Option<u64>,
    /// Where another machine with the same key tried to join lately.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub also_from: Option<IpAddr>,
}

impl MemberStatus {
    /// Whether it is on the LAN, here or at another hub.
    pub fn is_online(&self) -> bool {
        self.link.is_some() || self.home.is_some()
    }
}

/// An invite that was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invited {
    /// The secret, which is nowhere else.
    pub invite: String,
    /// The hub's key.
    pub hub_key: PublicKey,
    /// Where the hub listens first.
    pub listening: SocketAddr,
    /// How long it lives.
    pub seconds: u64,
    /// Whether it takes the place of an earlier one of the same name, which is void.
    #[serde(default)]
    pub replaces: bool,
}

/// Who may join.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Whether only members may.
    pub locked: bool,
    /// Members, hubs left out.
    pub known: usize,
    /// Those of them that are online, here or at other hubs.
    pub online: usize,
    /// Invites that are not used yet.
    pub invites: usize,
    /// The ports that the hub listens on.
    pub ports: Vec<u16>,
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
    /// The LAN's other hubs, in whose files it is marked, too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hubs: Vec<Name>,
    /// Those of them that are not linked to this one, and hear of it once they are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unreached: Vec<Name>,
    /// Whether it was the hub that kept the list of members.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub kept: bool,
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
    /// The LAN's other hubs, which have not moved with this one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hubs: Vec<Name>,
    /// Whether a running hub has done it.
    pub running: bool,
}

/// An invite that can be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InviteStatus {
    /// Its name.
    pub name: Name,
    /// How many machines it still lets in, where it is one for several.
    pub uses: Option<u32>,
    /// For how long it can still be used.
    pub seconds: u64,
    /// The addresses that it gives.
    pub addresses: Vec<IpAddr>,
    /// Prefixes that it grants.
    pub routes: Vec<IpNetwork>,
    /// Tags that it gives.
    pub tags: Vec<Tag>,
}

/// A machine that waits to be let in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingStatus {
    /// The name that it asks for. Whoever waits chooses it: compare the key.
    pub name: Name,
    /// Its key, which it has proved.
    pub key: PublicKey,
    /// Where it comes from.
    pub source: SocketAddr,
    /// For how long it has waited.
    pub seconds: u64,
}

/// A machine that was let in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allowed {
    /// The name that it has.
    pub name: Name,
    /// Its key.
    pub key: PublicKey,
    /// Whether it waited, so that it is on the LAN in a moment.
    pub waited: bool,
}

/// A member with another name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renamed {
    /// The name it had.
    pub from: Name,
    /// The name it has.
    pub to: Name,
}

/// Files that were read again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// Who may join now.
    pub standing: Standing,
    /// Changes in the list by member's name: `revoked`, `removed`, `changed`, `tagged`, `added`, `moved` of a hub, or `not revoked
    /// any more`; the first [`MAX_CHANGES`] of those that have a name.
    pub changes: Vec<(Name, String)>,
    /// How many changes there are.
    pub changed: usize,
    /// The file of the TLS certificate, which was read again, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<PathBuf>,
    /// How many access rules there are; `None` where all may reach all.
    #[serde(default)]
    pub rules: Option<usize>,
}

/// The status with the page of members behind a name.
pub fn status(core: &Core, about: &About, after: Option<&Name>, now: Instant) -> Status {
    let page = core.members().after(after).take(PAGE);
    let members = page.map(|member| member_status(core, member, now)).collect();
    Status { members, ..head(core, about, now) }
}

/// The status without members.
pub fn head(core: &Core, about: &About, now: Instant) -> Status {
    let members = core.members();
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        up_seconds: now.saturating_duration_since(about.started_at).as_secs(),
        started_unix: about.started_unix,
        listening: about.listening.clone(),
        device: about.device.clone(),
        mtu: core.lan().mtu,
        subnets: core.lan().subnets.iter().collect(),
        key: core.key(),
        locked: core.access() != Access::Open,
        draining: core.is_draining(),
        hubs: hubs::hubs(core, now),
        keeper: hubs::keeper(core),
        online: online(members),
        elsewhere: elsewhere(members),
        known: members.spokes(),
        revoked: members.revoked_count(),
        invites: core.invites().iter().count(),
        pending: core.pending().len(),
        half_open: core.half_open(),
        rules: rule_count(core),
        trouble: core.trouble().map(str::to_owned),
        problems: Vec::new(),
        zone: None,
        drops: by_label(core.drops()),
        totals: core.tally().into(),
        members: Vec::new(),
    }
}

/// Who may join.
pub fn standing(core: &Core, about: &About) -> Standing {
    Standing {
        locked: core.access() != Access::Open,
        known: core.members().spokes(),
        online: online(core.members()) + elsewhere(core.members()),
        invites: core.invites().iter().count(),
        ports: about.ports(),
    }
}

/// What a renumbering did, of the hub with this key.
pub fn renumbered(done: &Renumbered, own: PublicKey, running: bool) -> Moved {
    let Renumbered { steps, members, online, invites, hidden, hubs } = done.clone();
    let steps = steps.into_iter().map(|step| (step.from, step.to)).collect();
    let hubs = hubs.into_iter().filter(|(key, _)| *key != own).map(|(_, name)| name).collect();
    Moved { steps, members, online, invites, hidden, hubs, running }
}

/// What a reload did: changes for members, and what else is different in the list.
pub fn reloaded(
    core: &Core,
    about: &About,
    (changes, others): (&[Change], &[Difference]),
    certificate: Option<PathBuf>,
) -> Reloaded {
    let named = changes.iter().map(|change| {
        let outcome = match change.outcome {
            Outcome::Revoked => "revoked",
            Outcome::Removed => "removed",
            Outcome::Changed => "changed",
            Outcome::Tagged => "tagged",
        };
        (change.member.name.clone(), outcome.to_owned())
    });
    let others_named = others.iter().filter_map(|(name, what)| Some((name.clone()?, (*what).to_owned())));
    let changed = changes.len() + others.len();
    let changes = named.chain(others_named).take(MAX_CHANGES).collect();
    Reloaded { standing: standing(core, about), changes, changed, certificate, rules: rule_count(core) }
}

/// The invites that can be used, by name.
pub fn invites(core: &Core, unix_time: u64) -> Vec<InviteStatus> {
    let alive = core.invites().iter().filter(|invite| unix_time < invite.until);
    let one = |invite: &Invite| InviteStatus {
        name: invite.name.clone(),
        uses: invite.uses,
        seconds: invite.until - unix_time,
        addresses: invite.addresses.clone(),
        routes: invite.routes.clone(),
        tags: invite.tags.clone(),
    };
    let mut invites: Vec<InviteStatus> = alive.map(one).collect();
    invites.sort_by(|one, other| one.name.cmp(&other.name));
    invites
}

/// The machines that wait to be let in, who waits longest first.
pub fn pending(core: &Core, now: Instant) -> Vec<PendingStatus> {
    let one = |machine: &Waiting| PendingStatus {
        name: machine.join.name.clone(),
        key: machine.key,
        source: SocketAddr::new(machine.source.ip().to_canonical(), machine.source.port()),
        seconds: now.saturating_duration_since(machine.since).as_secs(),
    };
    let mut pending: Vec<PendingStatus> = core.pending().iter().map(one).collect();
    pending.sort_by(|one, other| (other.seconds, &one.name).cmp(&(one.seconds, &other.name)));
    pending
}

/// How many access rules there are; `None` where all may reach all.
fn rule_count(core: &Core) -> Option<usize> {
    core.access_rules().map(|access| access.rules().len())
}

/// Members that are with another hub; hubs left out, as those have lines of their own.
fn elsewhere(members: &Members) -> usize {
    let is_there = |member: &Member| member.session.is_none() && member.is_online() && member.hub.is_none();
    members.iter().filter(|(_, member)| is_there(member)).count()
}

/// Those of them that are here.
fn online(members: &Members) -> usize {
    members.iter().filter(|(_, member)| member.session.is_some() && member.hub.is_none()).count()
}

/// The name of the hub that a member is with that is not here; that of a hub is its own.
fn home(core: &Core, member: &Member) -> Option<Name> {
    let members = core.members();
    if member.key == core.key() {
        return Some(member.name.clone());
    }
    let hub = core.home(members.by_key(&member.key)?).filter(|_| member.session.is_none())?;
    Some(members.member(members.by_key(&hub)?).name.clone())
}

fn member_status(core: &Core, member: &Member, now: Instant) -> MemberStatus {
    let link = member.session.and_then(|session| links::link_status(core, session, now));
    MemberStatus {
        name: member.name.clone(),
        key: member.key,
        addresses: member.addresses.clone(),
        routes: member.routes.clone(),
        tags: member.tags.clone(),
        also_from: core.second_machine(&member.key, now).map(|second| second.source.ip().to_canonical()),
        home: home(core, member),
        seen_seconds_ago: member.seen_at.filter(|_| link.is_none()).map(|at| links::seconds_since(at, now)),
        link,
    }
}
