//! One member, and its line in `members`. Pure.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::time::Instant;

use common::packet::prefix::is_private;
use common::wire::frame::MAX_ROUTES;
use common::wire::key::{BadKey, PublicKey};
use common::wire::name::Name;
use common::wire::place::Place;
use ipnetwork::IpNetwork;

use crate::ids::{MemberId, SessionId};
use crate::lan::rules::Tag;
use crate::lan::subnets::Subnets;

/// Most tags of one member.
const MAX_TAGS: usize = 32;

/// Counts the changes of a list: its state after so many of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(u64);

impl Version {
    /// The state after so many changes, as others are told it.
    pub(crate) fn after(changes: u64) -> Version {
        Version(changes)
    }

    /// After how many changes it is.
    pub(crate) fn changes(self) -> u64 {
        self.0
    }

    /// The state after one more change.
    pub(crate) fn next(self) -> Version {
        Version(self.0 + 1)
    }
}

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
    /// Labels that access rules know it by.
    pub tags: Vec<Tag>,
    /// Where spokes reach it, if it is a hub.
    pub hub: Option<Place>,
    /// Its session, while it is on the LAN through this hub.
    pub session: Option<SessionId>,
    /// The link to the hub through which it is on the LAN, by the newest that was told.
    pub elsewhere: Option<SessionId>,
    /// How this hub tells others that it is here.
    pub stamp: Stamp,
    /// When it was last on the LAN, if that was since the hub started.
    pub seen_at: Option<Instant>,
    /// The first state of the list that has it: of what was read, none counts.
    pub(super) added: Version,
    /// The state of the list in which its line was last changed.
    pub(super) changed: Version,
}

/// When a member came, as hubs compare it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    /// The highest one is the newest place.
    pub sequence: u64,
    /// Since when it has been on the LAN, in Unix milliseconds.
    pub since: u64,
}

impl Member {
    /// Whether it is on the LAN, through whichever hub.
    pub fn is_online(&self) -> bool {
        self.session.is_some() || self.elsewhere.is_some()
    }

    /// Whether it has addresses, but none of this subnet's family.
    pub(super) fn is_without(&self, subnet: IpNetwork) -> bool {
        !self.addresses.is_empty()
            && self.addresses.iter().all(|address| address.is_ipv4() != subnet.is_ipv4())
    }

    /// One that holds nothing, and comes with this state of the list.
    pub(super) fn new(key: PublicKey, name: Name, version: Version) -> Member {
        Member {
            key,
            name,
            addresses: vec![],
            routes: vec![],
            tags: vec![],
            hub: None,
            session: None,
            elsewhere: None,
            stamp: Stamp::default(),
            seen_at: None,
            added: version,
            changed: version,
        }
    }

    /// Its addresses, for a log line.
    pub fn addresses_text(&self) -> String {
        comma_separated(&self.addresses)
    }

    /// Whether a person granted it something that no member takes by itself: then it is no stranger.
    pub(super) fn has_grants(&self) -> bool {
        self.hub.is_some() || !self.tags.is_empty() || self.routes.iter().any(|&prefix| !is_private(prefix))
    }
}

pub(super) fn parse_member(line: &str, subnets: Subnets) -> Result<Member, String> {
    let mut words = line.split_whitespace();
    let key = words.next().unwrap_or_default();
    let key = key.parse().map_err(|bad| format!("{} is no key: {bad}", quoted(key)))?;
    let name = words.next().ok_or("the name is missing")?;
    let name = name.parse().map_err(|bad| format!("{} is no name: {bad}", quoted(name)))?;
    let mut hub = None;
    let mut rest = Vec::new();
    for word in words {
        match word.strip_prefix("hub=") {
            Some(_) if hub.is_some() => return Err("hub= twice".to_owned()),
            Some(place) => {
                let bad = |why| format!("{} is no place of a hub: {why}", quoted(place));
                hub = Some(place.parse::<Place>().map_err(bad)?);
            }
            None => rest.push(word),
        }
    }
    let Rights { addresses, routes, tags } = Rights::parse(rest.into_iter(), subnets)?;
    Ok(Member { addresses, routes, tags, hub, ..Member::new(key, name, Version::default()) })
}

pub(super) fn format_member(member: &Member) -> String {
    let Member { key, name, addresses, routes, tags, hub, .. } = member;
    let hub = hub.as_ref().map_or(String::new(), |place| format!(" hub={place}"));
    format!("{key} {name} {}{hub}", rights_text(addresses, routes, tags))
}

/// What a line grants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rights {
    /// Addresses, at most one of each family.
    pub(crate) addresses: Vec<IpAddr>,
    /// Prefixes to offer.
    pub(crate) routes: Vec<IpNetwork>,
    /// Labels for access rules.
    pub(crate) tags: Vec<Tag>,
}

impl Rights {
    /// Reads addresses or `-`, and `route=` and `tag=` with lists.
    pub(crate) fn parse<'a>(
        words: impl Iterator<Item = &'a str>,
        subnets: Subnets,
    ) -> Result<Rights, String> {
        let mut rights = Rights::default();
        for (index, word) in words.enumerate() {
            if let Some(list) = word.strip_prefix("route=") {
                let routes: Result<Vec<_>, _> = list.split(',').map(parse_route).collect();
                rights.routes.extend(routes?);
            } else if let Some(list) = word.strip_prefix("tag=") {
                list.split(',').try_for_each(|tag| rights.add_tag(tag))?;
            } else if index == 0 && word != "-" {
                list_addresses(word, subnets, &mut rights.addresses)?;
            } else if word != "-" {
                return Err(format!("{} is invalid here", quoted(word)));
            }
        }
        if rights.routes.len() > MAX_ROUTES {
            return Err(format!("more than {MAX_ROUTES} routes"));
        }
        Ok(rights)
    }

    fn add_tag(&mut self, text: &str) -> Result<(), String> {
        let tag: Tag = text.parse().map_err(|bad| format!("{} is no tag: {bad}", quoted(text)))?;
        if self.tags.contains(&tag) {
            return Err(format!("the tag {tag} twice"));
        }
        if self.tags.len() >= MAX_TAGS {
            return Err(format!("more than {MAX_TAGS} tags"));
        }
        self.tags.push(tag);
        Ok(())
    }
}

fn parse_route(text: &str) -> Result<IpNetwork, String> {
    let route: IpNetwork = text.parse().map_err(|_| format!("{} is no prefix", quoted(text)))?;
    if route.network() != route.ip() {
        return Err(format!("route {text} has bits set behind its prefix"));
    }
    Ok(route)
}

fn list_addresses(word: &str, subnets: Subnets, addresses: &mut Vec<IpAddr>) -> Result<(), String> {
    for address in word.split(',') {
        let parsed: IpAddr = address.parse().map_err(|_| format!("{} is no address", quoted(address)))?;
        subnets.check(parsed).map_err(|unfit| format!("{parsed} {unfit}"))?;
        if addresses.iter().any(|other| other.is_ipv4() == parsed.is_ipv4()) {
            return Err("two addresses of one family".to_owned());
        }
        addresses.push(parsed);
    }
    Ok(())
}

/// What [`Rights::parse`] reads.
pub(crate) fn rights_text(addresses: &[IpAddr], routes: &[IpNetwork], tags: &[Tag]) -> String {
    let mut text = if addresses.is_empty() { "-".to_owned() } else { comma_separated(addresses) };
    if !routes.is_empty() {
        text.push_str(" route=");
        text.push_str(&comma_separated(routes));
    }
    if !tags.is_empty() {
        text.push_str(" tag=");
        text.push_str(&comma_separated(tags));
    }
    text
}

pub(super) fn comma_separated(items: &[impl fmt::Display]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// A word as a message shows it: whatever it is, and however long.
fn quoted(word: &str) -> String {
    const MAX_SHOWN: usize = 64;
    match word.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => format!("{:?}…", &word[..end]),
        None => format!("{word:?}"),
    }
}

/// The key, if the line is that of a revoked member.
pub(super) fn parse_revoked(line: &str) -> Result<Option<PublicKey>, String> {
    let mut words = line.split_whitespace();
    let key = words.next().unwrap_or_default();
    // The second word is a name, which may be anything.
    if !words.skip(1).any(|word| word == "revoked") {
        return Ok(None);
    }
    key.parse().map(Some).map_err(|bad| format!("{} is no key: {bad}", quoted(key)))
}

/// Why a line is skipped that an earlier version accepted: it must not prevent the hub from starting.
pub(super) fn outdated(line: &str, names: &BTreeMap<Name, MemberId>) -> Option<String> {
    let mut words = line.split_whitespace();
    let (key, name) = (words.next()?, words.next()?);
    match key.parse::<PublicKey>() {
        Err(BadKey::Unusable) => return Some(format!("{key} is no machine's key")),
        Err(BadKey::Text) => return None,
        Ok(_) if words.any(|word| word == "revoked") => return None,
        Ok(_) => {}
    }
    let parsed: Name = name.parse().ok()?;
    let is_other = name != parsed.as_str() && names.contains_key(&parsed);
    is_other.then(|| format!("another line has the name {parsed}, and capital letters make no difference"))
}
