//! The list of members, and which address each may have. Pure: the text of `members` comes in and goes out.
//!
//! ```text
//! # key                                        name    addresses            options
//! hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo= laptop  10.0.0.2,fd00::2     route=192.168.5.0/24 tag=office
//! ```
//! A member with `hub=HOST:PORT` is a hub of this LAN, which spokes reach there.
//! A member that was revoked has `revoked` at the end of its line; delete the word, or the line, to undo that.
//! A person may edit the text: comments, blank lines and the spacing of untouched lines stay as they are.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
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
use lines::{Lines, fold};
use member::{format_member, outdated, parse_member, parse_revoked};
use names::Names;
use touched::Touched;

/// Most members that a hub remembers.
pub const MAX_MEMBERS: usize = 131_072;
/// Most of them that are hubs: each has a link to each other one.
pub const MAX_HUBS: usize = 128;

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

/// What was last read or written, compared with the list, and what has changed.
#[derive(Default)]
struct Journal {
    /// The state that the list is in.
    version: Version,
    /// The state that was last read or written.
    saved: Version,
    /// Where hubs share the list: the members that are other ones than when this was last taken, with their lines as they
    /// were.
    edited: Option<BTreeMap<PublicKey, Option<String>>>,
    touched: Touched,
    /// Whether nobody can agree to a change now: a member that comes is let in as its line is.
    is_frozen: bool,
}

/// From which estimated length on, in bytes, newcomers' routes are not recorded, nor what revoked members had but for names and
/// addresses, and from which on strangers make room for newcomers, and beyond which nothing is taken that another hub tells: all
/// below what can be read again.
const FULL_FOR_ROUTES: usize = MAX_FILE / 2;
const FULL: usize = MAX_FILE / 4 * 3;
const FULL_FOR_ALL: usize = MAX_FILE / 8 * 7;
/// Most keys of members and of those who were revoked.
const MAX_KEYS: usize = 2 * MAX_MEMBERS;
/// There is room for all members, each with a few networks.
const _: () = assert!(MAX_MEMBERS * 240 < FULL_FOR_ROUTES);

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
    lines: Lines,
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
        // Some editors put a mark of their own in front.
        let folded = fold(text.strip_prefix('\u{feff}').unwrap_or(text))?;
        let mut members = Members {
            subnets,
            table: Slab::new(),
            by_key: HashMap::new(),
            names: Names::default(),
            addresses: Addresses::default(),
            revoked: HashSet::new(),
            newly_revoked: Vec::new(),
            lines: Lines::new(text, folded.instead),
            size: 0,
            skipped: Vec::new(),
            journal: Journal::default(),
            parties: 0,
        };
        for (number, line) in folded.lines {
            let bad = |why| BadLine { line: number, why };
            if line.trim().is_empty() || line.trim_start().starts_with('#') {
                members.push_text(line.into_owned());
                continue;
            }
            if let Some(why) = outdated(&line, members.names.members()) {
                members.skipped.push(bad(why));
                members.push_text(line.into_owned());
                continue;
            }
            if let Some(key) = parse_revoked(&line).map_err(bad)? {
                members.insert_revoked(key).map_err(bad)?;
                members.push_text(line.into_owned());
                continue;
            }
            let member = parse_member(&line, subnets).map_err(bad)?;
            let id = members.insert(member).map_err(bad)?;
            members.lines.push(id, Some(line.into_owned()));
        }
        members.lines.set_read();
        members.journal.touched.note_all(members.version());
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
        self.lines.to_text(|id| format_member(self.member(id)))
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
    pub fn is_costly(&self, unagreed: &Unagreed) -> bool {
        self.is_changed() && self.lines.is_costly(unagreed)
    }

    /// What has to be written for the text to have the list as it is now, but for the lines of `unagreed` keys: those are
    /// as they were, where they were any. To be followed by `set_saved`, or by `set_damaged`, before the next one.
    pub fn begin_save(&mut self, unagreed: &Unagreed) -> Patch {
        let before = self.lines_before(unagreed);
        let Members { lines, table, .. } = self;
        let waits = |id: MemberId| unagreed.contains_key(&table[id.index()].key);
        lines.begin_save(|id| format_member(&table[id.index()]), waits, (unagreed, &before))
    }

    /// The same where the text is to be written as a whole, so that no line takes the place of another one.
    pub(crate) fn begin_fold(&mut self, unagreed: &Unagreed) -> Patch {
        self.lines.set_damaged();
        self.begin_save(unagreed)
    }

    /// Whether lines of the text take the place of others.
    pub(crate) fn has_instead(&self) -> bool {
        self.lines.has_instead()
    }

    /// Sets from which lengths of the text on, in bytes, new lines, and changed ones, are added at its end.
    pub fn append_from(&mut self, new: usize, changed: usize) {
        self.lines.append_from(new, changed);
    }

    /// Notes that the text of this state was written.
    pub fn set_saved(&mut self, version: Version) {
        self.journal.saved = self.journal.saved.max(version);
        self.newly_revoked.retain(|&(_, _, revoked)| revoked > version);
    }

    /// Notes that the text on the disk is unknown, after a failed write or because it is missing.
    pub fn set_damaged(&mut self) {
        self.lines.set_damaged();
    }

    fn change(&mut self) -> Version {
        self.journal.version = self.journal.version.next();
        self.journal.version
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

    /// The names whose members are other ones than in an earlier state, or have other addresses; `None` where that is not
    /// known, or the hub's own name may be another one.
    pub fn touched_since(&self, state: Version) -> Option<BTreeSet<&Name>> {
        let touched = self.journal.touched.since(state)?;
        let is_renamed = |wanted| touched.contains(wanted) || self.names.member(wanted).is_some();
        (!self.names.wanted_by_hub().is_some_and(is_renamed)).then_some(touched)
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

    /// Whether there is no room for one more key.
    fn is_full(&self) -> bool {
        self.size >= FULL || self.table.len() + self.revoked.len() >= MAX_KEYS
    }

    /// Adds a line that is no member's.
    fn push_text(&mut self, text: String) {
        self.size += text.len() + 1;
        self.lines.push_text(text);
    }

    fn forget(&mut self, id: MemberId) {
        self.note_edit(id);
        self.unindex(id);
        let member = self.table.remove(id.index());
        self.lines.remove(id, member.key);
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
            self.lines.change(id, before.key);
            if self.member(id).key != before.key {
                // A line takes the place of one with its own key alone.
                self.lines.set_damaged();
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
        self.journal.touched.note(self.journal.version.next(), member.name.clone());
        for &address in &member.addresses {
            self.addresses.hold(address, id);
        }
    }

    fn unindex(&mut self, id: MemberId) {
        let member = &self.table[id.index()];
        self.size = self.size.saturating_sub(line_size(member));
        self.by_key.remove(&member.key);
        self.names.remove(&member.name);
        self.journal.touched.note(self.journal.version.next(), member.name.clone());
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
    let hub = member.hub.as_ref().map_or(0, |place| place.to_string().len() + 5);
    KEY_NAME_AND_ADDRESSES + routes_size(&member.routes) + tags + hub + 5
}

fn routes_size(routes: &[IpNetwork]) -> usize {
    let len = |prefix: &IpNetwork| if prefix.is_ipv4() { 19 } else { 44 };
    routes.iter().map(len).sum::<usize>() + 8
}

mod addresses;
mod admit;
mod compare;
mod edit;
mod govern;
mod lines;
mod member;
mod names;
mod shared;
mod touched;

pub use compare::Difference;
pub use edit::{Change, Outcome};
pub(crate) use lines::without_incomplete;
pub use lines::{BadLine, Patch, Unagreed};
pub use member::{Member, Stamp, Version};
pub(crate) use member::{Rights, rights_text};

#[cfg(test)]
mod tests;
