//! Invites: who may join a locked hub, once. Pure: the text of `invites` comes in and goes out.
//!
//! ```text
//! # hash of the secret  name    until       addresses  options
//! 9f9f5111…64 digits    laptop  1767225600  10.0.0.7   route=192.168.5.0/24
//! ```
//! `uses=N` lets N machines in, each under a name of its own; such an invite has no addresses. `hub` lets a hub in.
//!
//! Only the hash of a secret is stored, so that reading the file does not allow a join. `until` is in Unix seconds. A
//! person may edit the text: comments, blank lines and the spacing of untouched lines stay as they are.

use std::collections::BTreeMap;
use std::net::IpAddr;

use common::wire::frame::{Edit, Record, RecordId};
use common::wire::invite::{Secret, SecretHash};
use common::wire::name::Name;
use ipnetwork::IpNetwork;

use crate::lan::members::{BadLine, Rights, Version, rights_text};
use crate::lan::moves::{INVITES_COLUMN, Moves};
use crate::lan::rules::Tag;
use crate::lan::subnets::Subnets;

/// What an invite of a hub has behind it.
const HUB: &str = "hub";
/// Most invites at a time.
pub const MAX_INVITES: usize = 1_000;

/// What an invite grants to whoever shows its secret first, or to the first ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invite {
    /// The hash of its secret.
    pub hash: SecretHash,
    /// The member's name; of an invite for several machines, its own.
    pub name: Name,
    /// How many machines it still lets in, each under its own name; `None`: one, under this name.
    pub uses: Option<u32>,
    /// When it expires, in Unix seconds.
    pub until: u64,
    /// The member's addresses; the hub chooses for a family that is missing.
    pub addresses: Vec<IpAddr>,
    /// Prefixes that it may offer.
    pub routes: Vec<IpNetwork>,
    /// Labels that access rules will know it by.
    pub tags: Vec<Tag>,
    /// Whether the machine is to be a hub.
    pub is_hub: bool,
}

#[derive(Clone)]
enum Line {
    /// A comment or blank line, as it was.
    Text(String),
    /// An invite, as it was written by hand or by us.
    Invite(Invite, String),
}

/// What was taken of an invite.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Taken {
    One,
    All,
}

/// All invites that are not used yet.
#[derive(Clone, Default)]
pub struct Invites {
    lines: Vec<Line>,
    /// The state that they are in.
    version: Version,
    /// The state that was last read or written.
    saved: Version,
    /// What was used up or taken out since.
    removed: Vec<(SecretHash, Taken, Version)>,
    /// Where hubs share them: those that are other ones than when this was last taken, with their lines as they were.
    edited: Option<BTreeMap<SecretHash, Option<String>>>,
}

impl Invites {
    /// Reads the text of `invites`.
    pub fn parse(text: &str, subnets: Subnets) -> Result<Invites, BadLine> {
        let mut invites = Invites::default();
        for (index, line) in text.lines().enumerate() {
            let bad = |why| BadLine { line: index + 1, why };
            if line.trim().is_empty() || line.trim_start().starts_with('#') {
                invites.lines.push(Line::Text(line.to_owned()));
                continue;
            }
            let invite = parse_invite(line, subnets).map_err(bad)?;
            if let Some(what) = invites.iter().find_map(|other| clash(other, &invite)) {
                return Err(bad(format!("another line has {what}")));
            }
            invites.lines.push(Line::Invite(invite, line.to_owned()));
        }
        Ok(invites)
    }

    /// The text of `invites`.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for line in &self.lines {
            let (Line::Text(line) | Line::Invite(_, line)) = line;
            text.push_str(line);
            text.push('\n');
        }
        text
    }

    /// Whether the text has to be written.
    pub fn is_changed(&self) -> bool {
        self.version > self.saved
    }

    /// Whether the text of this state was written.
    pub(crate) fn is_saved(&self, version: Version) -> bool {
        version <= self.saved
    }

    /// The state that they are in.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Notes that the text of this state was written.
    pub fn set_saved(&mut self, version: Version) {
        self.saved = self.saved.max(version);
        self.removed.retain(|&(.., removed)| removed > version);
    }

    /// Tells that this text was written: nothing is left to save if it is what the invites are now.
    pub fn set_saved_text(&mut self, text: &str) {
        if self.to_text() == text {
            self.set_saved(self.version);
        }
    }

    /// Takes over invites that were read anew; those that were used since the text was last written stay used.
    pub fn replace(&mut self, mut new: Invites) {
        let is_outdated = new.is_changed();
        (new.version, new.saved) = (self.version.next(), self.version.next());
        if is_outdated {
            new.set_outdated();
        }
        for (hash, taken, _) in std::mem::take(&mut self.removed) {
            match taken {
                Taken::One => new.use_up(hash),
                Taken::All => new.retain(|invite| invite.hash != hash),
            }
        }
        new.edited = self.edited.take();
        *self = new;
    }

    /// All invites.
    pub fn iter(&self) -> impl Iterator<Item = &Invite> {
        self.lines.iter().filter_map(|line| match line {
            Line::Text(_) => None,
            Line::Invite(invite, _) => Some(invite),
        })
    }

    /// The invite with this secret, unless it has expired by now (Unix seconds).
    pub fn find(&self, secret: &Secret, now: u64) -> Option<&Invite> {
        let hash = secret.hash();
        self.iter().find(|invite| invite.hash == hash && now < invite.until)
    }

    /// Adds an invite. An earlier one for the same name is void from now on.
    pub fn add(&mut self, invite: Invite) -> Result<(), String> {
        let others = || self.iter().filter(|other| other.name != invite.name);
        if let Some(what) = others().find_map(|other| clash(other, &invite)) {
            return Err(format!("another invite has {what}"));
        }
        if others().count() >= MAX_INVITES {
            return Err(format!("there are {MAX_INVITES} invites already"));
        }
        self.note_edits(|other| other.name == invite.name);
        self.retain(|other| other.name != invite.name);
        self.note_new(invite.hash);
        let line = format_invite(&invite);
        self.lines.push(Line::Invite(invite, line));
        self.version = self.version.next();
        Ok(())
    }

    /// Whether changes are noted from now on, to be taken by `take_edits`.
    pub(crate) fn share(&mut self, is_shared: bool) {
        self.edited = is_shared.then(BTreeMap::new);
    }

    fn note_edits(&mut self, are: impl Fn(&Invite) -> bool) {
        let Invites { edited: Some(edited), lines, .. } = self else { return };
        for line in lines {
            if let Line::Invite(invite, _) = line
                && are(invite)
            {
                edited.entry(invite.hash).or_insert_with(|| Some(format_invite(invite)));
            }
        }
    }

    /// Notes that an invite comes with a hash that none has.
    fn note_new(&mut self, hash: SecretHash) {
        if let Some(edited) = &mut self.edited {
            edited.entry(hash).or_insert(None);
        }
    }

    /// What is another record than when this was last taken.
    pub(crate) fn take_edits(&mut self) -> Vec<Edit> {
        let Some(edited) = &mut self.edited else { return Vec::new() };
        let edited = std::mem::take(edited);
        let edits = edited.into_iter().map(|(hash, before)| Edit { record: self.record(hash), before });
        edits.filter(|edit| edit.record.text != edit.before).collect()
    }

    /// The record of this hash.
    pub(crate) fn record(&self, hash: SecretHash) -> Record {
        let text = self.iter().find(|invite| invite.hash == hash).map(format_invite);
        Record { id: RecordId::Invite(hash.0), text }
    }

    /// Makes the invite with this hash what the keeper of the list says.
    pub(crate) fn put(&mut self, hash: SecretHash, invite: Option<Invite>) {
        self.note_edits(|other| other.hash == hash);
        self.note_new(hash);
        self.retain(|other| other.hash != hash);
        if let Some(invite) = invite {
            self.removed.retain(|(removed, ..)| *removed != hash);
            // Where it is at odds with another one, that one is older.
            let clashes = |other: &Invite| clash(other, &invite).is_some();
            self.note_edits(clashes);
            self.retain(|other| clash(other, &invite).is_none());
            let line = format_invite(&invite);
            self.lines.push(Line::Invite(invite, line));
            self.version = self.version.next();
        }
    }

    /// Notes that the text that was read is not what it is to be, though it means the same.
    pub fn set_outdated(&mut self) {
        self.version = self.version.next();
    }

    /// Moves all addresses to other subnets; those that have no place there are chosen when the members come.
    pub fn renumber(&mut self, subnets: Subnets, moves: &Moves) {
        self.version = self.version.next();
        for line in &mut self.lines {
            let Line::Invite(invite, text) = line else { continue };
            let moved = invite.addresses.iter().map(|&address| moves.translate(address));
            let moved: Vec<IpAddr> = moved.filter(|&address| subnets.check(address).is_ok()).collect();
            let is_whole = moved.len() == invite.addresses.len();
            invite.addresses = moved;
            *text = if is_whole { moves.translate_line(text, INVITES_COLUMN) } else { format_invite(invite) };
        }
    }

    /// Notes that a machine has used an invite; after its last use it is gone.
    pub fn use_up(&mut self, hash: SecretHash) {
        self.note_edits(|invite| invite.hash == hash);
        for line in &mut self.lines {
            if let Line::Invite(invite, text) = line
                && invite.hash == hash
                && let Some(uses @ 2..) = invite.uses
            {
                invite.uses = Some(uses - 1);
                *text = format_invite(invite);
                self.version = self.version.next();
                return self.removed.push((hash, Taken::One, self.version));
            }
        }
        self.retain(|invite| invite.hash != hash);
    }

    /// Takes out the invite of this name; whether there was one.
    pub fn cancel(&mut self, name: &Name) -> bool {
        let before = self.version;
        self.note_edits(|invite| invite.name == *name);
        self.retain(|invite| invite.name != *name);
        self.version > before
    }

    /// Forgets the invites that have expired by now (Unix seconds).
    pub fn prune(&mut self, now: u64) {
        self.note_edits(|invite| invite.until <= now);
        self.retain(|invite| now < invite.until);
    }

    fn retain(&mut self, keep: impl Fn(&Invite) -> bool) {
        let gone = self.iter().filter(|invite| !keep(invite)).map(|invite| invite.hash);
        let gone: Vec<SecretHash> = gone.collect();
        self.lines.retain(|line| match line {
            Line::Text(_) => true,
            Line::Invite(invite, _) => keep(invite),
        });
        if !gone.is_empty() {
            self.version = self.version.next();
        }
        self.removed.extend(gone.into_iter().map(|hash| (hash, Taken::All, self.version)));
    }
}

/// What two invites must not share.
fn clash(one: &Invite, other: &Invite) -> Option<String> {
    if one.hash == other.hash {
        return Some("the same hash".to_owned());
    }
    if one.name == other.name {
        return Some(format!("the name {}", one.name));
    }
    let address = one.addresses.iter().find(|address| other.addresses.contains(address))?;
    Some(format!("the address {address}"))
}

pub(crate) fn parse_invite(line: &str, subnets: Subnets) -> Result<Invite, String> {
    let mut words = line.split_whitespace();
    let hash = words.next().unwrap_or_default();
    let hash = hash.parse().map_err(|_| format!("{hash:?} is no hash of 64 hexadecimal digits"))?;
    let name = words.next().ok_or("the name is missing")?;
    let name = name.parse().map_err(|bad| format!("{name:?} is no name: {bad}"))?;
    let until = words.next().ok_or("the time is missing")?;
    let until = until.parse().map_err(|_| format!("{until:?} is no time in Unix seconds"))?;
    let (mut uses, mut is_hub, mut rights) = (None, false, Vec::new());
    for word in words {
        match word.strip_prefix("uses=") {
            None if word == HUB => is_hub = true,
            Some(number) => {
                let number = number.parse().ok().filter(|&uses: &u32| uses > 0);
                uses = Some(number.ok_or_else(|| format!("{word:?} is no number of uses"))?);
            }
            None => rights.push(word),
        }
    }
    let Rights { addresses, routes, tags } = Rights::parse(rights.into_iter(), subnets)?;
    if uses.is_some() && !addresses.is_empty() {
        return Err("several machines cannot have one address".to_owned());
    }
    if uses.is_some() && is_hub {
        return Err("an invite of a hub is for one machine".to_owned());
    }
    Ok(Invite { hash, name, uses, until, addresses, routes, tags, is_hub })
}

/// What `parse_invite` reads.
pub(crate) fn format_invite(invite: &Invite) -> String {
    let Invite { hash, name, uses, until, addresses, routes, tags, is_hub } = invite;
    let uses = uses.map_or(String::new(), |uses| format!(" uses={uses}"));
    let hub = if *is_hub { format!(" {HUB}") } else { String::new() };
    format!("{hash} {name} {until} {}{uses}{hub}", rights_text(addresses, routes, tags))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnets() -> Subnets {
        Subnets::new(&["10.0.0.0/24".parse().unwrap()]).unwrap()
    }

    fn secret(seed: u8) -> Secret {
        Secret([seed; 16])
    }

    fn invite(seed: u8, name: &str, until: u64, ip: Option<&str>) -> Invite {
        Invite {
            hash: secret(seed).hash(),
            name: name.parse().unwrap(),
            uses: None,
            until,
            addresses: ip.map(|ip| ip.parse().unwrap()).into_iter().collect(),
            routes: vec![],
            tags: vec![],
            is_hub: false,
        }
    }

    #[test]
    fn an_invite_lives_until_it_is_used_or_expires() {
        let mut invites = Invites::default();
        invites.add(invite(1, "a", 100, Some("10.0.0.7"))).unwrap();
        let mut invites = Invites::parse(&invites.to_text(), subnets()).unwrap();
        assert_eq!(invites.find(&secret(1), 99), Some(&invite(1, "a", 100, Some("10.0.0.7"))));
        assert_eq!(invites.find(&secret(1), 100), None, "expired");
        assert_eq!(invites.find(&secret(2), 0), None, "unknown");
        invites.use_up(secret(1).hash());
        assert!(invites.is_changed());
        assert_eq!(invites.find(&secret(1), 0), None, "used");
    }

    #[test]
    fn a_used_invite_stays_used_though_the_text_still_has_it() {
        let mut invites = Invites::default();
        invites.add(invite(1, "a", 100, None)).unwrap();
        invites.set_saved(invites.version());
        let text = invites.to_text();
        invites.use_up(secret(1).hash());
        invites.replace(Invites::parse(&text, subnets()).unwrap());
        assert!(invites.find(&secret(1), 0).is_none() && invites.is_changed());
        invites.set_saved(invites.version());
        invites.replace(Invites::parse(&text, subnets()).unwrap());
        assert!(invites.find(&secret(1), 0).is_some(), "now a person has put it there again");
    }

    #[test]
    fn one_for_several_machines_counts_down_whatever_an_older_text_says() {
        let mut invites = Invites::default();
        invites.add(Invite { uses: Some(3), ..invite(1, "fleet", 100, None) }).unwrap();
        let text = invites.to_text();
        assert!(text.ends_with(" - uses=3\n"), "{text}");
        invites.set_saved(invites.version());
        invites.use_up(secret(1).hash());
        assert!(invites.is_changed() && invites.to_text().ends_with(" - uses=2\n"));
        invites.replace(Invites::parse(&text, subnets()).unwrap());
        assert_eq!(invites.find(&secret(1), 0).unwrap().uses, Some(2));
        invites.use_up(secret(1).hash());
        invites.use_up(secret(1).hash());
        assert_eq!(invites.find(&secret(1), 0), None);
        invites.add(Invite { uses: Some(9), ..invite(2, "fleet", 100, None) }).unwrap();
        assert!(!invites.cancel(&"other".parse().unwrap()) && invites.cancel(&"fleet".parse().unwrap()));
        assert_eq!(invites.iter().count(), 0);
    }

    #[test]
    fn the_secret_is_not_in_the_text() {
        let mut invites = Invites::default();
        invites.add(invite(0xab, "a", 100, None)).unwrap();
        assert!(!invites.to_text().contains(&secret(0xab).to_hex()));
    }

    #[test]
    fn a_new_invite_for_a_name_takes_the_place_of_the_old_one() {
        let mut invites = Invites::default();
        invites.add(invite(1, "a", 100, Some("10.0.0.7"))).unwrap();
        invites.add(invite(2, "a", 100, Some("10.0.0.7"))).unwrap();
        assert_eq!(invites.find(&secret(1), 0), None);
        assert!(invites.add(invite(3, "b", 100, Some("10.0.0.7"))).unwrap_err().contains("10.0.0.7"));
    }

    #[test]
    fn expired_ones_are_forgotten_and_their_number_is_bounded() {
        let mut invites = Invites::default();
        for number in 0..MAX_INVITES {
            let mut next = invite(0, &format!("m{number}"), 100 + number as u64, None);
            let mut bytes = [0; 16];
            bytes[..8].copy_from_slice(&number.to_be_bytes());
            next.hash = Secret(bytes).hash();
            invites.add(next).unwrap();
        }
        assert!(invites.add(invite(9, "late", 9_999, None)).is_err());
        invites.prune(100);
        assert_eq!(invites.iter().count(), MAX_INVITES - 1);
        invites.add(invite(9, "late", 9_999, None)).unwrap();
    }

    #[test]
    fn text_keeps_what_a_person_wrote() {
        let text = format!("# soon\n\n{}   laptop 100   - route=192.168.5.0/24\n  # end\n", secret(1).hash());
        let mut invites = Invites::parse(&text, subnets()).unwrap();
        assert_eq!(invites.to_text(), text);
        invites.add(invite(2, "b", 7, Some("10.0.0.9"))).unwrap();
        let added = format!("{text}{} b 7 10.0.0.9\n", secret(2).hash());
        assert_eq!(invites.to_text(), added);
    }

    #[test]
    fn bad_lines_are_named() {
        let good = format!("{} laptop 100 10.0.0.7", secret(1).hash());
        let hash = secret(2).hash();
        for (line, why) in [
            ("nonsense b 100".to_owned(), "no hash"),
            (hash.to_string(), "name is missing"),
            (format!("{hash} a/b 100"), "no name"),
            (format!("{hash} b"), "time is missing"),
            (format!("{hash} b soon"), "no time"),
            (format!("{hash} b 100 10.0.1.7"), "not in the LAN's subnet"),
            (format!("{hash} b 100 - what"), "is invalid"),
            (format!("{hash} b 100 - uses=0"), "no number of uses"),
            (format!("{hash} b 100 10.0.0.9 uses=2"), "several machines"),
            (format!("{hash} laptop 100"), "the name laptop"),
            (format!("{hash} b 100 10.0.0.7"), "the address 10.0.0.7"),
            (format!("{} b 100", secret(1).hash()), "the same hash"),
        ] {
            let error = Invites::parse(&format!("#\n{good}\n{line}\n"), subnets()).map(|_| ()).unwrap_err();
            assert!(error.line == 3 && error.why.contains(why), "{line}: {error:?}");
        }
    }
}
