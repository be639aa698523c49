//! The list of members, and which address each may have. Pure: the text of `members` comes in and goes out.
//!
//! ```text
//! # key                                        name    addresses            options
//! hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo= laptop  10.0.0.2,fd00::2     route=192.168.5.0/24 tag=office
//! ```
//! A member with `hub=HOST:PORT` is a hub of this LAN, which spokes reach there.
//! A member that was revoked has `revoked` at the end of its line; delete the word, or the line, to undo that.
//! A person may edit the text: comments, blank lines and the spacing of untouched lines stay as they are.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::time::Instant;

use common::node::text::MAX_FILE;
use common::packet::prefix::is_private;
use common::wire::frame::{MAX_ROUTES, Refusal};
use common::wire::key::PublicKey;
use common::wire::name::Name;
use ipnetwork::IpNetwork;
use slab::Slab;

use crate::ids::{MemberId, SessionId};
use crate::lan::rules::Tag;
use crate::lan::subnets::Subnets;
use addresses::Addresses;
use member::{format_member, outdated, parse_member, parse_revoked};
use names::Names;

/// Most members that a hub remembers.
pub const MAX_MEMBERS: usize = 65_536;

/// What is wrong with a line of `members`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadLine {
    /// Its number, from 1.
    pub line: usize,
    /// What is wrong.
    pub why: String,
}

/// Whether unknown keys may join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Anyone may.
    Open,
    /// Only keys that the hub knows.
    Locked,
    /// Only keys that the hub knows, and this one, which has an invite.
    Invited,
}

/// The list's decision on a join request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Admitted.
    Member {
        /// Who came in.
        id: MemberId,
        /// Members that lost an address to it, with the address.
        evicted: Vec<(MemberId, IpAddr)>,
    },
    /// This online member holds a requested address: check first whether it is alive.
    Dispute(MemberId),
    /// Refused.
    Refused(Refusal, String),
}

enum Line {
    /// A comment, a blank line or a revoked member, as it was.
    Text(String),
    /// A member, as it was read or written if it has not changed since.
    Member(MemberId, Option<String>),
}

/// Members of which a change waits until the keeper of the list agrees, and their lines without it.
pub type Unagreed = BTreeMap<PublicKey, Option<String>>;

/// How to bring the text of `members` up to date.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Patch {
    /// These lines come behind all others.
    Append(String),
    /// This is the whole text.
    Replace(String),
}

/// Texts of this length and more, in bytes, get new lines appended: rewriting a long text for each join would cost more
/// the more members there are. A shorter text is replaced, which is safer.
const APPEND_FROM: usize = 16 * 1024;

/// The text that was last read or written, compared with the list.
struct Journal {
    /// The state that the list is in.
    version: Version,
    /// The state that was last read or written.
    saved: Version,
    /// Lines of the text, of the list's first ones, and their length in bytes.
    lines: usize,
    len: usize,
    /// Whether the list still begins with these lines.
    is_prefix: bool,
    /// Where hubs share the list: the members that are other ones than when this was last taken, with their lines as they
    /// were.
    edited: Option<BTreeMap<PublicKey, Option<String>>>,
}

/// From which estimated length on, in bytes, newcomers' routes are not recorded, and from which on strangers make room
/// for newcomers, and beyond which nothing is taken that another hub tells: all below what can be read again.
const FULL_FOR_ROUTES: usize = MAX_FILE / 2;
const FULL: usize = MAX_FILE / 4 * 3;
const FULL_FOR_ALL: usize = MAX_FILE / 8 * 7;

/// All members.
pub struct Members {
    subnets: Subnets,
    table: Slab<Member>,
    by_key: HashMap<PublicKey, MemberId>,
    names: Names,
    addresses: Addresses,
    revoked: HashSet<PublicKey>,
    /// Those of them, with their lines, that no text that was read or written has yet.
    newly_revoked: Vec<(PublicKey, String, Version)>,
    lines: Vec<Line>,
    /// How long the text is at most, in bytes.
    size: usize,
    /// Lines that were passed over: they stay in the text and mean nothing.
    skipped: Vec<BadLine>,
    journal: Journal,
    /// Counts the changes of what access rules know members by.
    parties: u64,
}

impl Members {
    /// Reads the text of `members`.
    pub fn parse(text: &str, subnets: Subnets) -> Result<Members, BadLine> {
        let mut members = Members {
            subnets,
            table: Slab::new(),
            by_key: HashMap::new(),
            names: Names::default(),
            addresses: Addresses::default(),
            revoked: HashSet::new(),
            newly_revoked: Vec::new(),
            lines: Vec::new(),
            size: 0,
            skipped: Vec::new(),
            journal: Journal {
                version: Version::default(),
                saved: Version::default(),
                lines: text.lines().count(),
                len: text.len(),
                // Appended text would become part of an unterminated last line.
                is_prefix: text.is_empty() || text.ends_with('\n'),
                edited: None,
            },
            parties: 0,
        };
        // Some editors put a mark of their own in front.
        let lines = text.strip_prefix('\u{feff}').unwrap_or(text).lines();
        for (index, line) in lines.enumerate() {
            let bad = |why| BadLine { line: index + 1, why };
            if line.trim().is_empty() || line.trim_start().starts_with('#') {
                members.lines.push(Line::Text(line.to_owned()));
                continue;
            }
            if let Some(why) = outdated(line, members.names.members()) {
                members.skipped.push(bad(why));
                members.lines.push(Line::Text(line.to_owned()));
                continue;
            }
            if let Some(key) = parse_revoked(line).map_err(bad)? {
                members.insert_revoked(key).map_err(bad)?;
                members.lines.push(Line::Text(line.to_owned()));
                continue;
            }
            let member = parse_member(line, subnets).map_err(bad)?;
            let id = members.insert(member).map_err(bad)?;
            members.lines.push(Line::Member(id, Some(line.to_owned())));
        }
        // With what a person wrote around them.
        members.size = members.size.max(text.len());
        Ok(members)
    }

    /// Lines that earlier versions took and this one passes over.
    pub fn skipped(&self) -> &[BadLine] {
        &self.skipped
    }

    /// The text of `members`.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for line in &self.lines {
            match line {
                Line::Text(line) | Line::Member(_, Some(line)) => text.push_str(line),
                Line::Member(id, None) => text.push_str(&format_member(self.member(*id))),
            }
            text.push('\n');
        }
        text
    }

    /// Whether the text has to be written.
    pub fn is_changed(&self) -> bool {
        self.journal.version > self.journal.saved
    }

    /// Whether this state was read or written.
    pub(crate) fn is_saved(&self, version: Version) -> bool {
        version <= self.journal.saved
    }

    /// The state that the list is in.
    pub fn version(&self) -> Version {
        self.journal.version
    }

    /// Counts the changes of what access rules know members by: a name or a tag is another one, or a member is gone.
    pub fn parties(&self) -> u64 {
        self.parties
    }

    /// The first state of the list that has a member's line as it is.
    pub fn version_of(&self, id: MemberId) -> Version {
        self.member(id).changed
    }

    /// Whether it takes the whole text to write what is changed, and that is long.
    pub fn is_costly(&self) -> bool {
        self.is_changed() && !self.journal.is_prefix && self.journal.len >= APPEND_FROM
    }

    /// What has to be written for the text to have the list as it is now, but for the lines of `unagreed` keys: those are
    /// as they were, where they were any. To be followed by `set_saved`, or by `set_damaged`, before the next one.
    pub fn begin_save(&mut self, unagreed: &Unagreed) -> Patch {
        let can_append = self.journal.is_prefix && self.journal.len >= APPEND_FROM;
        let from = if can_append { self.journal.lines } else { 0 };
        let is_unagreed = |table: &Slab<Member>, line: &Line| match line {
            Line::Member(id, _) => unagreed.contains_key(&table[id.index()].key),
            Line::Text(_) => false,
        };
        let (mut text, mut to) = (String::new(), self.lines.len());
        for (at, line) in self.lines.iter_mut().enumerate().skip(from) {
            if is_unagreed(&self.table, line) {
                if can_append {
                    // What is behind it waits as well: lines are only ever added.
                    to = at;
                    break;
                }
                continue;
            }
            if let Line::Member(id, line @ None) = line {
                *line = Some(format_member(&self.table[id.index()]));
            }
            let (Line::Text(line) | Line::Member(_, Some(line))) = line else { continue };
            text.push_str(line);
            text.push('\n');
        }
        let before = if can_append { Vec::new() } else { self.lines_before(unagreed) };
        before.iter().for_each(|line| text.extend([line, "\n"]));
        self.journal.lines = to;
        self.journal.len = if can_append { self.journal.len + text.len() } else { text.len() };
        self.journal.is_prefix = can_append || unagreed.is_empty();
        if can_append { Patch::Append(text) } else { Patch::Replace(text) }
    }

    /// Notes that the text of this state was written.
    pub fn set_saved(&mut self, version: Version) {
        self.journal.saved = self.journal.saved.max(version);
        self.newly_revoked.retain(|&(_, _, revoked)| revoked > version);
    }

    /// Notes that the text on the disk is unknown, after a failed write or because it is missing.
    pub fn set_damaged(&mut self) {
        self.journal.is_prefix = false;
    }

    fn change(&mut self) -> Version {
        self.journal.version = self.journal.version.next();
        self.journal.version
    }

    /// Marks a member's line as changed; returns its index.
    fn change_line(&mut self, id: MemberId) -> Option<usize> {
        let at = self.lines.iter().position(|line| matches!(line, Line::Member(of, _) if *of == id))?;
        self.journal.is_prefix &= at >= self.journal.lines;
        Some(at)
    }

    /// A member.
    ///
    /// # Panics
    /// Where there is none with this id: ids are only kept for members that exist.
    pub fn member(&self, id: MemberId) -> &Member {
        &self.table[id.index()]
    }

    /// A member, if there still is one with this id.
    pub fn get(&self, id: MemberId) -> Option<&Member> {
        self.table.get(id.index())
    }

    /// Notes that a member is on the LAN, by this session and no other.
    pub fn set_online(&mut self, id: MemberId, session: SessionId) {
        self.table[id.index()].session = Some(session);
    }

    /// Notes how others are told of a member that is here.
    pub(crate) fn set_stamp(&mut self, id: MemberId, stamp: Stamp) {
        self.table[id.index()].stamp = stamp;
    }

    /// Notes by which link a member is reached that is with another hub.
    pub(crate) fn set_elsewhere(&mut self, id: MemberId, link: Option<SessionId>) {
        self.table[id.index()].elsewhere = link;
    }

    /// Notes that a member has left this hub.
    pub fn set_offline(&mut self, id: MemberId, now: Instant) {
        let member = &mut self.table[id.index()];
        (member.session, member.seen_at) = (None, Some(now));
    }

    /// All members, in no special order.
    pub fn iter(&self) -> impl Iterator<Item = (MemberId, &Member)> {
        self.table.iter().map(|(id, member)| (MemberId::new(id), member))
    }

    /// Members by name from the first one after `name` on.
    pub fn after(&self, name: Option<&Name>) -> impl Iterator<Item = &Member> {
        self.names.after(name).map(|(_, &id)| self.member(id))
    }

    /// The member that holds the address.
    pub fn holder(&self, address: IpAddr) -> Option<MemberId> {
        self.addresses.holder(address)
    }

    /// The member with this key.
    pub fn by_key(&self, key: &PublicKey) -> Option<MemberId> {
        self.by_key.get(key).copied()
    }

    /// The addresses of the member with this key; none where there is no such member.
    pub fn addresses_of(&self, key: &PublicKey) -> &[IpAddr] {
        self.by_key(key).map_or(&[], |id| &self.member(id).addresses)
    }

    /// The member with this name.
    pub fn by_name(&self, name: &Name) -> Option<MemberId> {
        self.names.member(name)
    }

    /// Records the prefixes that a member may offer.
    pub fn set_routes(&mut self, id: MemberId, routes: &[IpNetwork]) {
        if self.member(id).routes != routes {
            self.update(id, |member| member.routes = routes.to_vec());
        }
    }

    /// Labels a member for access rules.
    pub fn set_tags(&mut self, id: MemberId, tags: &[Tag]) {
        if self.member(id).tags != tags {
            self.update(id, |member| member.tags = tags.to_vec());
        }
    }

    /// Records what a member on an open hub offers, beside the public prefixes that a person granted it; `false` where the
    /// text is too long for more.
    pub fn record_routes(&mut self, id: MemberId, offered: &[IpNetwork]) -> bool {
        let member = self.member(id);
        let granted = member.routes.iter().copied();
        let kept = granted.filter(|prefix| !is_private(*prefix) && !offered.contains(prefix));
        let routes: Vec<IpNetwork> = offered.iter().copied().chain(kept).take(MAX_ROUTES).collect();
        let fits = routes_size(&routes) <= routes_size(&member.routes) || self.size < FULL_FOR_ROUTES;
        if fits {
            self.set_routes(id, &routes);
        }
        fits
    }

    /// The refusal for an address that another member holds.
    pub fn held(&self, holder: MemberId, address: IpAddr) -> (Refusal, String) {
        let holder = &self.member(holder).name;
        (
            Refusal::AddressHeld,
            format!("{address} is held by {holder}: choose another with --ip, or leave it out"),
        )
    }

    fn forget(&mut self, id: MemberId) {
        self.note_edit(id);
        self.unindex(id);
        self.table.remove(id.index());
        if let Some(at) = self.change_line(id) {
            self.lines.remove(at);
        }
        self.parties += 1;
        self.change();
    }

    /// Adds a member, unless another one has its key, name or address.
    fn insert(&mut self, member: Member) -> Result<MemberId, String> {
        if self.by_key.contains_key(&member.key) || self.is_revoked(&member.key) {
            return Err("another line has the same key".to_owned());
        }
        if self.names.member(&member.name).is_some() {
            return Err(format!("another line has the name {}", member.name));
        }
        if let Some(held) = member.addresses.iter().find(|address| self.addresses.holder(**address).is_some())
        {
            return Err(format!("another line has the address {held}"));
        }
        self.note_new(member.key);
        self.parties += u64::from(member.hub.is_some());
        let id = MemberId::new(self.table.insert(member));
        self.index(id);
        Ok(id)
    }

    /// Changes a member's name or addresses and what hangs on them.
    fn update(&mut self, id: MemberId, change: impl FnOnce(&mut Member)) {
        let before = self.member(id).clone();
        self.note_edit(id);
        self.unindex(id);
        change(&mut self.table[id.index()]);
        self.note_new(self.member(id).key);
        self.index(id);
        if *self.member(id) != before {
            if let Some(at) = self.change_line(id) {
                self.lines[at] = Line::Member(id, None);
            }
            self.table[id.index()].changed = self.change();
            let member = self.member(id);
            let named = |member: &Member| (member.name.clone(), member.tags.clone(), member.hub.clone());
            self.parties += u64::from(named(member) != named(&before));
        }
    }

    fn index(&mut self, id: MemberId) {
        let member = &self.table[id.index()];
        self.size += line_size(member);
        self.by_key.insert(member.key, id);
        self.names.insert(member.name.clone(), id);
        for &address in &member.addresses {
            self.addresses.hold(address, id);
        }
    }

    fn unindex(&mut self, id: MemberId) {
        let member = &self.table[id.index()];
        self.size = self.size.saturating_sub(line_size(member));
        self.by_key.remove(&member.key);
        self.names.remove(&member.name);
        for address in &member.addresses {
            let subnet = self.subnets.iter().find(|subnet| subnet.is_ipv4() == address.is_ipv4());
            self.addresses.release(*address, subnet);
        }
    }
}

/// How many bytes a member's line has at most.
fn line_size(member: &Member) -> usize {
    const KEY_NAME_AND_ADDRESSES: usize = 44 + Name::MAX_LEN + 2 * 40 + 4;
    let tags: usize = member.tags.iter().map(|tag| tag.as_str().len() + 1).sum();
    let hub = member.hub.as_ref().map_or(0, |place| place.host.len() + 14);
    KEY_NAME_AND_ADDRESSES + routes_size(&member.routes) + tags + hub + 5
}

fn routes_size(routes: &[IpNetwork]) -> usize {
    let len = |prefix: &IpNetwork| if prefix.is_ipv4() { 19 } else { 44 };
    routes.iter().map(len).sum::<usize>() + 8
}

mod addresses;
mod admit;
mod edit;
mod govern;
mod member;
mod names;
mod shared;

pub use edit::{Change, Outcome};
pub use member::{Member, Stamp, Version};
pub(crate) use member::{Rights, rights_text};

#[cfg(test)]
mod tests;
