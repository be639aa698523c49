//! Whom the hub knows, and who may have which address. Pure: the text of `members` comes in and goes out.
//!
//! ```text
//! # key                                        name    addresses            options
//! hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo= laptop  10.0.0.2,fd00::2     route=192.168.5.0/24
//! ```
//! A member that was revoked has `revoked` at the end of its line; delete the word, or the line, to undo that.
//! A person may edit the text: comments, blank lines and the spacing of untouched lines stay as they are.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::net::IpAddr;
use std::time::Instant;

use common::wire::frame::{Join, MAX_ROUTES, Refusal};
use common::wire::key::PublicKey;
use common::wire::name::Name;
use ipnetwork::IpNetwork;
use slab::Slab;

use crate::lan::subnets::Subnets;

/// Most members that a hub remembers.
pub const MAX_MEMBERS: usize = 65_536;

/// A member's place in the list; it may be given to another once the member is forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MemberId(pub usize);

/// A spoke that the hub knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Who it is.
    pub key: PublicKey,
    /// What it is called.
    pub name: Name,
    /// What it holds, at most one of each family.
    pub addresses: Vec<IpAddr>,
    /// Prefixes behind it that it may offer.
    pub routes: Vec<IpNetwork>,
    /// The key of its tunnel, while it is on the LAN.
    pub session: Option<usize>,
    /// When it was last on the LAN, if that was since the hub started.
    pub seen_at: Option<Instant>,
    /// Whether no text that was read or written has it yet.
    unsaved: bool,
}

impl Member {
    /// Its addresses, for a log line.
    pub fn addresses_text(&self) -> String {
        comma_separated(&self.addresses)
    }
}

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

/// What the hub answers to a join request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Come in.
    Member {
        /// Who came in.
        id: MemberId,
        /// Members that lost an address to it, with the address.
        evicted: Vec<(MemberId, IpAddr)>,
    },
    /// This member is online and holds an address that is asked for: see first whether it is alive.
    Dispute(MemberId),
    /// Stay out.
    Refused(Refusal, String),
}

enum Line {
    /// A comment, a blank line or a revoked member, as it was.
    Text(String),
    /// A member, as it was written by hand if it has not changed since.
    Member(MemberId, Option<String>),
}

/// All members.
pub struct Members {
    subnets: Subnets,
    table: Slab<Member>,
    by_key: HashMap<PublicKey, MemberId>,
    by_name: BTreeMap<Name, MemberId>,
    by_address: HashMap<IpAddr, MemberId>,
    revoked: HashSet<PublicKey>,
    /// Those of them, with their lines, that no text that was read or written has yet.
    newly_revoked: Vec<(PublicKey, String)>,
    /// Addresses that are kept for invites.
    reserved: HashSet<IpAddr>,
    lines: Vec<Line>,
    /// Whether the text differs from the one that was last read or written.
    changed: bool,
}

impl Members {
    /// Reads the text of `members`.
    pub fn parse(text: &str, subnets: Subnets) -> Result<Members, BadLine> {
        let mut members = Members {
            subnets,
            table: Slab::new(),
            by_key: HashMap::new(),
            by_name: BTreeMap::new(),
            by_address: HashMap::new(),
            revoked: HashSet::new(),
            newly_revoked: Vec::new(),
            reserved: HashSet::new(),
            lines: Vec::new(),
            changed: false,
        };
        for (index, line) in text.lines().enumerate() {
            let bad = |why| BadLine { line: index + 1, why };
            if line.trim().is_empty() || line.trim_start().starts_with('#') {
                members.lines.push(Line::Text(line.to_owned()));
                continue;
            }
            if let Some(key) = edit::parse_revoked(line).map_err(bad)? {
                members.insert_revoked(key).map_err(bad)?;
                members.lines.push(Line::Text(line.to_owned()));
                continue;
            }
            let member = parse_member(line, subnets).map_err(bad)?;
            let id = members.insert(member).map_err(bad)?;
            members.lines.push(Line::Member(id, Some(line.to_owned())));
        }
        Ok(members)
    }

    /// The text of `members`.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for line in &self.lines {
            match line {
                Line::Text(line) | Line::Member(_, Some(line)) => text.push_str(line),
                Line::Member(MemberId(id), None) => text.push_str(&format_member(&self.table[*id])),
            }
            text.push('\n');
        }
        text
    }

    /// Whether the text has to be written.
    pub fn is_changed(&self) -> bool {
        self.changed
    }

    /// Tells that the text was written.
    pub fn set_saved(&mut self) {
        self.changed = false;
        self.newly_revoked.clear();
        self.table.iter_mut().for_each(|(_, member)| member.unsaved = false);
    }

    /// A member.
    ///
    /// # Panics
    /// Where there is none with this id: ids are only kept for members that exist.
    pub fn member(&self, id: MemberId) -> &Member {
        &self.table[id.0]
    }

    /// A member, if there still is one with this id.
    pub fn get(&self, id: MemberId) -> Option<&Member> {
        self.table.get(id.0)
    }

    /// A member whose session or time of sight changes.
    pub fn member_mut(&mut self, id: MemberId) -> &mut Member {
        &mut self.table[id.0]
    }

    /// All members, in no special order.
    pub fn iter(&self) -> impl Iterator<Item = (MemberId, &Member)> {
        self.table.iter().map(|(id, member)| (MemberId(id), member))
    }

    /// Members by name from the first one after `name` on.
    pub fn after(&self, name: Option<&Name>) -> impl Iterator<Item = &Member> {
        use std::ops::Bound;
        let from = name.map_or(Bound::Unbounded, Bound::Excluded);
        self.by_name.range((from, Bound::Unbounded)).map(|(_, &id)| self.member(id))
    }

    /// Who holds the address.
    pub fn holder(&self, address: IpAddr) -> Option<MemberId> {
        self.by_address.get(&address).copied()
    }

    /// Who has the key.
    pub fn by_key(&self, key: &PublicKey) -> Option<MemberId> {
        self.by_key.get(key).copied()
    }

    /// Who has the name.
    pub fn by_name(&self, name: &Name) -> Option<MemberId> {
        self.by_name.get(name).copied()
    }

    /// Decides on a join request. `found_dead`: members that seem to be online but did not answer.
    pub fn admit(
        &mut self,
        key: PublicKey,
        join: &Join,
        access: Access,
        found_dead: &[MemberId],
    ) -> Admission {
        if self.is_revoked(&key) {
            return Admission::Refused(Refusal::Revoked, "this key's membership was revoked".to_owned());
        }
        let known = self.by_key(&key);
        if known.is_none() && access == Access::Locked {
            let text = "the hub is locked and does not know this key: ask for an invite".to_owned();
            return Admission::Refused(Refusal::Locked, text);
        }
        let is_full = known.is_none() && self.table.len() >= MAX_MEMBERS;
        let forgotten = if is_full && access == Access::Open { self.most_forgettable() } else { None };
        if is_full && forgotten.is_none() {
            return Admission::Refused(Refusal::Full, "the hub's list of members is full".to_owned());
        }
        if let Some(&alien) = join.addresses.iter().find(|&&address| !self.subnets.has_family_of(address)) {
            let text = format!("{alien} is not in the LAN's subnet {}", self.subnets);
            return Admission::Refused(Refusal::BadAddress, text);
        }

        let mut addresses = Vec::new();
        let mut evicted = Vec::new();
        for subnet in self.subnets.iter() {
            let same_family = |address: &&IpAddr| address.is_ipv4() == subnet.is_ipv4();
            let wanted = join.addresses.iter().find(same_family).copied();
            let recorded = known.and_then(|id| self.member(id).addresses.iter().find(same_family).copied());
            let had = join.had.iter().find(same_family).copied().filter(|&had| {
                self.subnets.check(had).is_ok() && self.holder(had).is_none() && !self.is_reserved(had)
            });
            let chosen = match wanted.or(recorded).or(had) {
                Some(address) => {
                    if let Err(unfit) = self.subnets.check(address) {
                        return Admission::Refused(Refusal::BadAddress, format!("{address} {unfit}"));
                    }
                    if access == Access::Locked && recorded.is_some_and(|recorded| recorded != address) {
                        let text =
                            format!("{address} is not the address that the locked hub has for this key");
                        return Admission::Refused(Refusal::BadAddress, text);
                    }
                    Some(address)
                }
                None => Subnets::members(subnet)
                    .find(|address| !self.by_address.contains_key(address) && !self.is_reserved(*address))
                    .or_else(|| self.longest_unseen(subnet).filter(|_| access == Access::Open)),
            };
            let Some(address) = chosen else {
                let text = format!("all addresses of {subnet} are taken");
                return Admission::Refused(Refusal::Full, text);
            };
            if recorded != Some(address) && self.is_reserved(address) {
                let text =
                    format!("{address} is kept for a member that is invited: choose another with --ip");
                return Admission::Refused(Refusal::AddressHeld, text);
            }
            if let Some(holder) = self.holder(address).filter(|&holder| Some(holder) != known) {
                if access != Access::Open {
                    let (reason, text) = self.held(holder, address);
                    return Admission::Refused(reason, text);
                }
                if self.member(holder).session.is_some() && !found_dead.contains(&holder) {
                    return Admission::Dispute(holder);
                }
                evicted.push((holder, address));
            }
            addresses.push(address);
        }

        for &(holder, address) in &evicted {
            self.update(holder, |member| member.addresses.retain(|&held| held != address));
        }
        let name = self.free_name(&join.name, &key, known);
        let id = match known {
            Some(id) => {
                self.update(id, |member| {
                    member.addresses = addresses;
                    if access == Access::Open {
                        member.name = name;
                    }
                });
                id
            }
            None => {
                if let Some(forgotten) = forgotten {
                    evicted.retain(|&(holder, _)| holder != forgotten);
                    self.forget(forgotten);
                }
                let routes = Vec::new();
                let member =
                    Member { key, name, addresses, routes, session: None, seen_at: None, unsaved: true };
                let id = self.insert(member).expect("key, name and addresses were found to be free");
                self.lines.push(Line::Member(id, None));
                self.changed = true;
                id
            }
        };
        Admission::Member { id, evicted }
    }

    /// Records the prefixes that a member may offer.
    pub fn set_routes(&mut self, id: MemberId, routes: &[IpNetwork]) {
        if self.member(id).routes != routes {
            self.update(id, |member| member.routes = routes.to_vec());
        }
    }

    /// The refusal for an address that another member holds.
    pub fn held(&self, holder: MemberId, address: IpAddr) -> (Refusal, String) {
        let holder = &self.member(holder).name;
        (
            Refusal::AddressHeld,
            format!("{address} is held by {holder}: choose another with --ip, or leave it out"),
        )
    }

    /// The address of this family whose holder is offline and was not seen for the longest time.
    fn longest_unseen(&self, subnet: IpNetwork) -> Option<IpAddr> {
        let family = |address: &&IpAddr| subnet.contains(**address);
        self.table
            .iter()
            .filter(|(_, member)| member.session.is_none())
            .filter_map(|(id, member)| Some((member.seen_at, id, *member.addresses.iter().find(family)?)))
            .min()
            .map(|(_, _, address)| address)
    }

    /// Who makes room on a full list: who is offline, and rather without an address, and unseen for the longest.
    fn most_forgettable(&self) -> Option<MemberId> {
        let offline = self.iter().filter(|(_, member)| member.session.is_none());
        offline
            .min_by_key(|&(id, member)| (!member.addresses.is_empty(), member.seen_at, id))
            .map(|(id, _)| id)
    }

    fn forget(&mut self, id: MemberId) {
        self.unindex(id);
        self.table.remove(id.0);
        self.lines.retain(|line| !matches!(line, Line::Member(of, _) if *of == id));
        self.changed = true;
    }

    /// The wanted name, or a numbered one that no other member has: the first, or one that goes by the key where
    /// many have that name. What can be no host's name is changed into one first, or numbered too.
    fn free_name(&self, wanted: &Name, key: &PublicKey, own: Option<MemberId>) -> Name {
        let wanted =
            if wanted.check_host().is_ok() { wanted.clone() } else { Name::nearest(wanted.as_str()) };
        let free = |name: &Name| self.by_name(name).is_none_or(|id| Some(id) == own);
        if wanted.check_host().is_ok() && free(&wanted) {
            return wanted;
        }
        // A member that was given a number before keeps it.
        if let Some(current) = own.map(|id| &self.member(id).name)
            && FIRST_NUMBERS.chain(key_numbers(key)).any(|number| wanted.numbered(number) == *current)
        {
            return current.clone();
        }
        let numbers = FIRST_NUMBERS.chain(key_numbers(key)).chain(2..);
        numbers
            .map(|number| wanted.numbered(number))
            .find(free)
            .expect("there are fewer members than numbers")
    }

    /// Adds a member, unless another one has its key, name or address.
    fn insert(&mut self, member: Member) -> Result<MemberId, String> {
        if self.by_key.contains_key(&member.key) || self.is_revoked(&member.key) {
            return Err("another line has the same key".to_owned());
        }
        if self.by_name.contains_key(&member.name) {
            return Err(format!("another line has the name {}", member.name));
        }
        if let Some(held) = member.addresses.iter().find(|address| self.by_address.contains_key(address)) {
            return Err(format!("another line has the address {held}"));
        }
        let id = MemberId(self.table.insert(member));
        self.index(id);
        Ok(id)
    }

    /// Changes a member's name or addresses and what hangs on them.
    fn update(&mut self, id: MemberId, change: impl FnOnce(&mut Member)) {
        let before = self.member(id).clone();
        self.unindex(id);
        change(&mut self.table[id.0]);
        self.index(id);
        if *self.member(id) != before {
            let own = |line: &&mut Line| matches!(line, Line::Member(of, _) if *of == id);
            if let Some(line) = self.lines.iter_mut().find(own) {
                *line = Line::Member(id, None);
            }
            self.changed = true;
        }
    }

    fn index(&mut self, id: MemberId) {
        let member = &self.table[id.0];
        self.by_key.insert(member.key, id);
        self.by_name.insert(member.name.clone(), id);
        for &address in &member.addresses {
            self.by_address.insert(address, id);
        }
    }

    fn unindex(&mut self, id: MemberId) {
        let member = &self.table[id.0];
        self.by_key.remove(&member.key);
        self.by_name.remove(&member.name);
        for address in &member.addresses {
            self.by_address.remove(address);
        }
    }
}

/// The numbers that names are given in turn. Beyond, a search would take the longer the more have a name: time
/// that strangers could make the hub spend.
const FIRST_NUMBERS: std::ops::Range<usize> = 2..100;

/// Numbers for a name that are as good as random, and always the same for a key.
fn key_numbers(key: &PublicKey) -> impl Iterator<Item = usize> {
    let (words, _) = key.as_bytes().as_chunks::<4>();
    words.iter().map(|&word| u32::from_le_bytes(word) as usize)
}

fn parse_member(line: &str, subnets: Subnets) -> Result<Member, String> {
    let mut words = line.split_whitespace();
    let key = words.next().unwrap_or_default();
    let key = key.parse().map_err(|bad| format!("{key:?} is no key: {bad}"))?;
    let name = words.next().ok_or("the name is missing")?;
    let name = name.parse().map_err(|bad| format!("{name:?} is no name: {bad}"))?;
    let (addresses, routes) = parse_rights(words, subnets)?;
    Ok(Member { key, name, addresses, routes, session: None, seen_at: None, unsaved: false })
}

/// Reads what a line grants: addresses or `-`, and `route=` with prefixes.
pub(crate) fn parse_rights<'a>(
    words: impl Iterator<Item = &'a str>,
    subnets: Subnets,
) -> Result<(Vec<IpAddr>, Vec<IpNetwork>), String> {
    let mut addresses: Vec<IpAddr> = Vec::new();
    let mut routes = Vec::new();
    for (index, word) in words.enumerate() {
        if let Some(list) = word.strip_prefix("route=") {
            for route in list.split(',') {
                let parsed: IpNetwork = route.parse().map_err(|_| format!("{route:?} is no prefix"))?;
                if parsed.network() != parsed.ip() {
                    return Err(format!("route {route} has bits set behind its prefix"));
                }
                routes.push(parsed);
            }
        } else if index == 0 && word != "-" {
            for address in word.split(',') {
                let parsed: IpAddr = address.parse().map_err(|_| format!("{address:?} is no address"))?;
                subnets.check(parsed).map_err(|unfit| format!("{parsed} {unfit}"))?;
                if addresses.iter().any(|other| other.is_ipv4() == parsed.is_ipv4()) {
                    return Err("two addresses of one family".to_owned());
                }
                addresses.push(parsed);
            }
        } else if word != "-" {
            return Err(format!("{word:?} makes no sense here"));
        }
    }
    if routes.len() > MAX_ROUTES {
        return Err(format!("more than {MAX_ROUTES} routes"));
    }
    Ok((addresses, routes))
}

fn format_member(member: &Member) -> String {
    format!("{} {} {}", member.key, member.name, rights_text(&member.addresses, &member.routes))
}

/// What `parse_rights` reads.
pub(crate) fn rights_text(addresses: &[IpAddr], routes: &[IpNetwork]) -> String {
    let mut text = if addresses.is_empty() { "-".to_owned() } else { comma_separated(addresses) };
    if !routes.is_empty() {
        text.push_str(" route=");
        text.push_str(&comma_separated(routes));
    }
    text
}

pub(crate) fn comma_separated(items: &[impl fmt::Display]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

mod edit;

pub use edit::{Change, Outcome};

#[cfg(test)]
mod tests;
