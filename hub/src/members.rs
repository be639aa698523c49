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

use common::frame::{Join, MAX_ROUTES, Refusal};
use common::name::Name;
use common::noise::PublicKey;
use ipnetwork::IpNetwork;
use slab::Slab;

use crate::subnets::Subnets;

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
        ousted: Vec<(MemberId, IpAddr)>,
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
        let mut ousted = Vec::new();
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
                ousted.push((holder, address));
            }
            addresses.push(address);
        }

        for &(holder, address) in &ousted {
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
                    ousted.retain(|&(holder, _)| holder != forgotten);
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
        Admission::Member { id, ousted }
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
    /// many have that name.
    fn free_name(&self, wanted: &Name, key: &PublicKey, own: Option<MemberId>) -> Name {
        let free = |name: &Name| self.by_name(name).is_none_or(|id| Some(id) == own);
        if free(wanted) {
            return wanted.clone();
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

pub use edit::{Change, Fate};

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "virtual time has to start somewhere")]
mod tests {
    use common::noise::PrivateKey;

    use super::*;

    fn key(seed: u8) -> PublicKey {
        PrivateKey::from_random([seed; 32]).public()
    }

    fn subnets() -> Subnets {
        Subnets::new(&["10.0.0.0/29".parse().unwrap()]).unwrap()
    }

    fn empty() -> Members {
        Members::parse("", subnets()).unwrap()
    }

    fn join(name: &str, ip: Option<&str>) -> Join {
        let addresses = ip.map(|ip| ip.parse().unwrap()).into_iter().collect();
        Join { name: name.parse().unwrap(), addresses, routes: vec![], mtu: None, invite: None, had: vec![] }
    }

    /// What the member with this key asked for, and what it is or why it is not let in.
    fn admit(members: &mut Members, seed: u8, name: &str, ip: Option<&str>) -> String {
        match members.admit(key(seed), &join(name, ip), Access::Open, &[]) {
            Admission::Member { id, .. } => {
                let member = members.member(id);
                format!("{} {}", member.name, member.addresses_text())
            }
            Admission::Dispute(holder) => format!("dispute with {}", members.member(holder).name),
            Admission::Refused(reason, text) => format!("{reason:?}: {text}"),
        }
    }

    fn set_online(members: &mut Members, seed: u8) {
        let id = members.by_key(&key(seed)).unwrap();
        members.member_mut(id).session = Some(usize::from(seed));
    }

    #[test]
    fn gives_free_addresses_and_the_same_ones_again() {
        let mut members = empty();
        assert_eq!(admit(&mut members, 1, "a", None), "a 10.0.0.2");
        assert_eq!(admit(&mut members, 2, "b", None), "b 10.0.0.3");
        assert_eq!(admit(&mut members, 1, "a", None), "a 10.0.0.2");
        let mut members = Members::parse(&members.to_text(), subnets()).unwrap();
        assert_eq!(admit(&mut members, 2, "b", None), "b 10.0.0.3");
        assert!(!members.is_changed());
    }

    #[test]
    fn gives_the_address_that_is_asked_for_or_says_why_not() {
        let mut members = empty();
        assert_eq!(admit(&mut members, 1, "a", Some("10.0.0.5")), "a 10.0.0.5");
        for (ip, why) in [
            ("10.0.0.0", "subnet's own"),
            ("10.0.0.1", "hub's own"),
            ("10.0.0.7", "broadcast"),
            ("10.0.0.8", "not in the LAN's subnet 10.0.0.0/29"),
            ("fd00::1", "not in the LAN's subnet 10.0.0.0/29"),
        ] {
            let answer = admit(&mut members, 2, "b", Some(ip));
            assert!(answer.starts_with("BadAddress") && answer.contains(why), "{ip}: {answer}");
        }
        assert_eq!(admit(&mut members, 1, "a", Some("10.0.0.6")), "a 10.0.0.6", "it may move");
        assert_eq!(admit(&mut members, 2, "b", Some("10.0.0.5")), "b 10.0.0.5", "and leaves its old one");
    }

    #[test]
    fn an_address_that_it_had_counts_where_nothing_is_recorded() {
        let mut members = empty();
        let mut ask = |seed, had: &str| {
            let wish = Join { had: vec![had.parse().unwrap()], ..join("m", None) };
            let admission = members.admit(key(seed), &wish, Access::Open, &[]);
            assert!(matches!(admission, Admission::Member { .. }), "{admission:?}");
            members.member(members.by_key(&key(seed)).unwrap()).addresses_text()
        };
        assert_eq!(ask(1, "10.0.0.5"), "10.0.0.5", "as a hub that lost its list gives it again");
        assert_eq!(ask(1, "10.0.0.6"), "10.0.0.5", "the record counts");
        assert_eq!(ask(2, "10.0.0.5"), "10.0.0.2", "it is another's now");
        assert_eq!(ask(3, "10.0.0.1"), "10.0.0.3", "the hub's own");
    }

    #[test]
    fn an_address_is_disputed_only_while_its_holder_is_online() {
        let mut members = empty();
        admit(&mut members, 1, "a", Some("10.0.0.5"));
        set_online(&mut members, 1);
        assert_eq!(admit(&mut members, 2, "b", Some("10.0.0.5")), "dispute with a");
        assert_eq!(admit(&mut members, 1, "a", Some("10.0.0.5")), "a 10.0.0.5", "not with itself");
        let holder = members.by_key(&key(1)).unwrap();
        let decision = members.admit(key(2), &join("b", Some("10.0.0.5")), Access::Open, &[holder]);
        let address = "10.0.0.5".parse().unwrap();
        assert_eq!(
            decision,
            Admission::Member { id: members.by_key(&key(2)).unwrap(), ousted: vec![(holder, address)] }
        );
        assert!(members.member(holder).addresses.is_empty());
        assert_eq!(members.holder(address), members.by_key(&key(2)));
    }

    #[test]
    fn only_a_holder_that_was_found_dead_loses_its_address() {
        let both = ["10.0.0.0/29", "fd00::/64"].map(|text| text.parse().unwrap());
        let mut members = Members::parse("", Subnets::new(&both).unwrap()).unwrap();
        for (seed, ip) in [(1, "10.0.0.5"), (2, "fd00::5")] {
            admit(&mut members, seed, "m", Some(ip));
            set_online(&mut members, seed);
        }
        let [dead, alive] = [1, 2].map(|seed| members.by_key(&key(seed)).unwrap());
        let addresses = ["10.0.0.5", "fd00::5"].map(|ip| ip.parse().unwrap()).to_vec();
        let wish = Join { addresses, ..join("newcomer", None) };
        let mut ask = |found_dead: &[_]| members.admit(key(3), &wish, Access::Open, found_dead);
        assert_eq!(ask(&[]), Admission::Dispute(dead));
        assert_eq!(ask(&[dead]), Admission::Dispute(alive));
        assert!(matches!(ask(&[dead, alive]), Admission::Member { ousted, .. } if ousted.len() == 2));
    }

    #[test]
    fn a_full_open_hub_takes_from_the_longest_unseen_and_a_locked_one_never() {
        let mut members = empty();
        for seed in 1..=5 {
            admit(&mut members, seed, &format!("m{seed}"), None);
            set_online(&mut members, seed);
        }
        assert!(admit(&mut members, 9, "late", None).starts_with("Full"));
        let now = Instant::now();
        for (seed, age) in [(2, 50), (4, 90)] {
            let id = members.by_key(&key(seed)).unwrap();
            let member = members.member_mut(id);
            member.session = None;
            member.seen_at = now.checked_sub(std::time::Duration::from_secs(age));
        }
        assert_eq!(admit(&mut members, 9, "late", None), "late 10.0.0.5", "that of m4");
    }

    #[test]
    fn a_locked_hub_knows_only_its_members_and_their_addresses() {
        let mut members = empty();
        admit(&mut members, 1, "a", Some("10.0.0.5"));
        let mut ask = |seed, ip| members.admit(key(seed), &join("x", ip), Access::Locked, &[]);
        assert!(matches!(ask(2, None), Admission::Refused(Refusal::Locked, _)));
        assert!(matches!(ask(1, Some("10.0.0.6")), Admission::Refused(Refusal::BadAddress, _)));
        assert!(matches!(ask(1, Some("10.0.0.5")), Admission::Member { .. }));
        assert!(matches!(ask(1, None), Admission::Member { .. }));
        assert_eq!(members.member(members.by_key(&key(1)).unwrap()).name.as_str(), "a", "nor renames");
    }

    #[test]
    fn names_are_one_each() {
        let mut members = empty();
        assert_eq!(admit(&mut members, 1, "web", None), "web 10.0.0.2");
        assert_eq!(admit(&mut members, 2, "web", None), "web-2 10.0.0.3");
        assert_eq!(admit(&mut members, 3, "web", None), "web-3 10.0.0.4");
        assert_eq!(admit(&mut members, 3, "web", None), "web-3 10.0.0.4");
        assert_eq!(admit(&mut members, 2, "db", None), "db 10.0.0.3");
    }

    #[test]
    fn a_name_that_many_have_is_found_at_once_and_stays() {
        let mut members = Members::parse("", Subnets::new(&["fd00::/64".parse().unwrap()]).unwrap()).unwrap();
        for seed in 0..250 {
            admit(&mut members, seed, "web", None);
        }
        let name = |members: &Members, seed| {
            members.member(members.by_key(&key(seed)).unwrap()).name.as_str().to_owned()
        };
        assert_eq!([name(&members, 0), name(&members, 98)], ["web", "web-99"]);
        let late = name(&members, 99);
        assert!(late.strip_prefix("web-").unwrap().parse::<u32>().unwrap() > 1_000, "{late}");
        // Though there is a smaller number now.
        members.revoke(members.by_key(&key(50)).unwrap());
        admit(&mut members, 99, "web", None);
        assert_eq!(name(&members, 99), late);
    }

    #[test]
    fn the_list_of_an_open_hub_is_bounded_and_newcomers_still_come_in() {
        // Any 43 characters of base64 whose last one has no odd bits are a key.
        let lines = (0..MAX_MEMBERS).map(|number| format!("{number:A>42}A= m{number} -\n"));
        let text = format!("# ours\n{} first 10.0.0.2\n{}", key(1), lines.skip(1).collect::<String>());
        let mut members = Members::parse(&text, subnets()).unwrap();
        set_online(&mut members, 1);
        let refused = members.admit(key(2), &join("b", None), Access::Invited, &[]);
        assert!(matches!(refused, Admission::Refused(Refusal::Full, _)), "{refused:?}");
        // More than there are addresses: those take from each other.
        for seed in 2..12 {
            let answer = admit(&mut members, seed, "new", None);
            assert!(answer.starts_with("new"), "{answer}");
        }
        assert_eq!((members.len(), members.to_text().lines().count()), (MAX_MEMBERS, 1 + MAX_MEMBERS));
        assert!(members.to_text().starts_with(&format!("# ours\n{} first 10.0.0.2\n", key(1))));
        assert!(members.by_name(&"m1".parse().unwrap()).is_none(), "without an address, and never seen");
        assert!(Members::parse(&members.to_text(), subnets()).is_ok());
    }

    #[test]
    fn text_keeps_what_a_person_wrote() {
        let text = format!(
            "# our machines\n\n{}   laptop   10.0.0.2   route=192.168.5.0/24,10.9.0.0/16\n  # the end\n{} phone -\n",
            key(1),
            key(2)
        );
        let mut members = Members::parse(&text, subnets()).unwrap();
        assert_eq!(members.to_text(), text);
        admit(&mut members, 2, "phone", None);
        let mended = text.replace(" phone -", " phone 10.0.0.3");
        assert_eq!(members.to_text(), mended);
        assert!(members.is_changed());
    }

    #[test]
    fn bad_lines_are_named() {
        let good = format!("{} laptop 10.0.0.2", key(1));
        for (line, why) in [
            ("nonsense laptop 10.0.0.3".to_owned(), "is no key"),
            (key(2).to_string(), "name is missing"),
            (format!("{} la/ptop 10.0.0.3", key(2)), "is no name"),
            (format!("{} other 10.0.0.300", key(2)), "is no address"),
            (format!("{} other 10.0.1.3", key(2)), "not in the LAN's subnet"),
            (format!("{} other 10.0.0.3,10.0.0.4", key(2)), "two addresses"),
            (format!("{} other 10.0.0.3 route=10.0.0.1/8", key(2)), "behind its prefix"),
            (format!("{} other 10.0.0.3 what", key(2)), "makes no sense"),
            (format!("{} other 10.0.0.3", key(1)), "same key"),
            (format!("{} laptop 10.0.0.3", key(2)), "the name laptop"),
            (format!("{} other 10.0.0.2", key(2)), "the address 10.0.0.2"),
        ] {
            let error = Members::parse(&format!("#\n{good}\n{line}\n"), subnets()).map(|_| ()).unwrap_err();
            assert!(error.line == 3 && error.why.contains(why), "{line}: {error:?}");
        }
    }
}
