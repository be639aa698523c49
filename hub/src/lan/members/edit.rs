//! The list of members changed by a person: revoked, re-read, kept for invites. Pure.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use common::wire::key::PublicKey;
use common::wire::name::Name;
use slab::Slab;

use super::lines::Line;
use super::member::{Member, format_member, parse_revoked, rights_text};
use super::{FULL_FOR_ROUTES, Members};
use crate::ids::MemberId;
use crate::lan::moves::{MEMBERS_COLUMN, Moves};
use crate::lan::subnets::Subnets;

/// What became of a member when the list was changed by a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was revoked: its key may not come back.
    Revoked,
    /// It is not in the list any more.
    Removed,
    /// It has another name, other addresses or other routes.
    Changed,
    /// It has other tags, and nothing else is changed: its link stays.
    Tagged,
}

impl Outcome {
    /// Whether it is no member any more.
    pub fn is_gone(self) -> bool {
        matches!(self, Outcome::Revoked | Outcome::Removed)
    }
}

/// A member that was changed by a person, as it was before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Where it is or was in the list.
    pub id: MemberId,
    /// What it was.
    pub member: Member,
    /// What became of it.
    pub outcome: Outcome,
}

impl Members {
    /// Sets the name that the hub would like to have: members that come later cannot have it.
    pub fn set_hub_name(&mut self, name: Name) {
        self.names.set_hub(Some(name));
    }

    /// The hub's name, which no member has; `None` where none was set.
    pub fn hub_name(&self) -> Option<&Name> {
        self.names.hub()
    }

    /// Whether this key may not come back.
    pub fn is_revoked(&self, key: &PublicKey) -> bool {
        self.revoked.contains(key)
    }

    /// Whether a member that was revoked had this name or address. Only for what a person types: it reads all lines.
    pub fn is_revoked_as(&self, who: &str) -> bool {
        let texts = self.lines.iter().filter_map(|line| match line {
            Line::Text(text) if !text.trim_start().starts_with('#') => Some(text.as_str()),
            Line::Text(_) | Line::Member(..) | Line::Gone => None,
        });
        texts.filter(|text| matches!(parse_revoked(text), Ok(Some(_)))).any(|text| {
            let mut words = text.split_whitespace().skip(1);
            words.next() == Some(who)
                || words.next().is_some_and(|addresses| addresses.split(',').any(|one| one == who))
        })
    }

    /// How many members were revoked.
    pub fn revoked_count(&self) -> usize {
        self.revoked.len()
    }

    /// How many members there are.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    pub(super) fn insert_revoked(&mut self, key: PublicKey) -> Result<(), String> {
        if self.by_key.contains_key(&key) || !self.revoked.insert(key) {
            return Err("another line has the same key".to_owned());
        }
        Ok(())
    }

    /// Strikes a member off the list; its key may not come back, its name and addresses are free. Its line stays, for a person to
    /// undo that, as far as there is room.
    pub fn revoke(&mut self, id: MemberId) -> Change {
        self.note_edit(id);
        self.unindex(id);
        let version = self.change();
        self.parties += 1;
        let member = self.table.remove(id.index());
        self.revoked.insert(member.key);
        let is_short = self.size >= FULL_FOR_ROUTES;
        let revoked = |text: Option<&str>| {
            let text = match text {
                _ if is_short => {
                    format!("{} {} {}", member.key, member.name, rights_text(&member.addresses, &[], &[]))
                }
                Some(text) => text.trim_end().to_owned(),
                None => format_member(&member),
            };
            format!("{text} revoked")
        };
        if let Some(text) = self.lines.strike(id, member.key, revoked) {
            self.size += text.len() + 1;
            self.newly_revoked.push((member.key, text, version));
        }
        Change { id, member, outcome: Outcome::Revoked }
    }

    /// Keeps a key out that is no member's; whether that is news, and there is room for its line.
    pub(crate) fn keep_out(&mut self, key: PublicKey) -> bool {
        let is_news = !self.is_full() && self.insert_revoked(key).is_ok();
        if is_news {
            let (line, version) = (format!("{key} - - revoked"), self.change());
            self.newly_revoked.push((key, line.clone(), version));
            self.push_text(line);
        }
        is_news
    }

    /// The keys of those who were revoked.
    pub(crate) fn revoked(&self) -> impl Iterator<Item = PublicKey> {
        self.revoked.iter().copied()
    }

    /// Whether an address is kept for an invite.
    pub fn is_reserved(&self, address: IpAddr) -> bool {
        self.addresses.is_reserved(address)
    }

    /// Keeps these addresses for invites, and no others.
    pub fn set_reserved(&mut self, addresses: HashSet<IpAddr>) {
        self.addresses.reserve(addresses);
    }

    /// Notes that the text that was read is not what it is to be, though it means the same.
    pub fn set_outdated(&mut self) {
        self.change();
        self.lines.set_damaged();
    }

    /// Moves all addresses to other subnets; those that have no place there, of members that joined a moment ago, are
    /// chosen anew when their members come back.
    pub fn renumber(&mut self, subnets: Subnets, moves: &Moves) {
        let version = self.change();
        self.journal.touched.note_all(version);
        self.subnets = subnets;
        for (_, member) in &mut self.table {
            let moved = member.addresses.iter().map(|&address| moves.translate(address));
            let moved: Vec<IpAddr> = moved.filter(|&address| subnets.check(address).is_ok()).collect();
            if moved != member.addresses {
                (member.addresses, member.changed) = (moved, version);
            }
        }
        for line in self.lines.iter_mut() {
            match line {
                Line::Gone => {}
                Line::Text(text) => *text = moves.translate_line(text, MEMBERS_COLUMN),
                Line::Member(id, text) => {
                    let member = &self.table[id.index()];
                    let moved = text.take().map(|text| moves.translate_line(&text, MEMBERS_COLUMN));
                    *text = moved.filter(|moved| has_addresses(moved, &member.addresses));
                }
            }
        }
        for (_, line, _) in &mut self.newly_revoked {
            *line = moves.translate_line(line, MEMBERS_COLUMN);
        }
        self.addresses.clear_holders();
        for (id, member) in &self.table {
            member.addresses.iter().for_each(|&address| self.addresses.hold(address, MemberId::new(id)));
        }
    }

    /// Takes over a list that was read anew, and tells what that changes for the members so far.
    ///
    /// A member that is in both lists keeps its id, session and time of sight. One that joined since the text was
    /// last written, so that the text could not have it, is added, unless it is at odds with a line. One that was
    /// revoked since then stays so, whatever the text says.
    pub fn replace(&mut self, mut new: Members) -> Vec<Change> {
        let version = self.change();
        let is_outdated = new.is_changed();
        (new.journal.version, new.journal.saved) = (version, version);
        new.names.set_hub(self.names.wanted_by_hub().cloned());
        if is_outdated {
            new.set_outdated();
        }
        for (key, line, _) in std::mem::take(&mut self.newly_revoked) {
            if let Some(id) = new.by_key(&key) {
                new.revoke(id);
            } else if new.insert_revoked(key).is_ok() {
                let version = new.change();
                new.push_text(line.clone());
                new.newly_revoked.push((key, line, version));
            }
        }
        for (_, member) in self.table.iter().filter(|(_, member)| member.added > self.journal.saved) {
            let (added, changed) = (new.version().next(), new.version().next());
            if let Ok(id) = new.insert(Member { added, changed, ..member.clone() }) {
                new.lines.push(id, None);
                new.change();
            }
        }

        let mut changes = Vec::new();
        for (id, member) in &self.table {
            let outcome = match new.by_key(&member.key) {
                None if new.is_revoked(&member.key) => Outcome::Revoked,
                None => Outcome::Removed,
                Some(same) if !grants_equal(member, new.member(same)) => Outcome::Changed,
                Some(same) if member.tags != new.member(same).tags => Outcome::Tagged,
                Some(_) => continue,
            };
            changes.push(Change { id: MemberId::new(id), member: member.clone(), outcome });
        }

        // Ids that nobody had: an id never means one member before and another one after.
        let mut unused = (0..).filter(|&id| !self.table.contains(id));
        let mut ids = HashMap::new();
        let mut table = Vec::new();
        for (new_id, mut member) in std::mem::take(&mut new.table) {
            let id = match self.by_key.get(&member.key) {
                Some(&id) => {
                    let id = id.index();
                    let known = &self.table[id];
                    (member.session, member.seen_at) = (known.session, known.seen_at);
                    (member.elsewhere, member.stamp) = (known.elsewhere, known.stamp);
                    id
                }
                None => unused.next().expect("numbers do not end"),
            };
            ids.insert(new_id, MemberId::new(id));
            table.push((id, member));
        }
        drop(unused);
        self.table = Slab::from_iter(table);
        self.by_key.clear();
        self.names.clear_members();
        self.addresses.clear_holders();
        self.size = 0;
        for id in ids.values() {
            self.index(*id);
        }
        self.size = self.size.max(new.size);
        self.skipped = new.skipped;
        self.lines = new.lines;
        self.lines.rename(|id| ids.get(&id.index()).copied());
        self.revoked = new.revoked;
        self.newly_revoked = new.newly_revoked;
        new.journal.edited = self.journal.edited.take();
        new.journal.touched.note_all(new.journal.version);
        self.journal = new.journal;
        self.parties += 1;
        changes
    }
}

/// Whether a member's line has exactly these addresses.
fn has_addresses(line: &str, addresses: &[IpAddr]) -> bool {
    let word = line.split_whitespace().nth(MEMBERS_COLUMN).unwrap_or_default();
    let written = word.split(',').filter_map(|part| part.parse::<IpAddr>().ok());
    written.eq(addresses.iter().copied())
}

pub(super) fn grants_equal(one: &Member, other: &Member) -> bool {
    one.name == other.name && one.addresses == other.addresses && one.routes == other.routes
}

#[cfg(test)]
mod tests {
    use common::wire::frame::{Join, Refusal};
    use common::wire::key::PrivateKey;

    use super::super::{Access, Decision};
    use super::*;
    use crate::ids::SessionId;
    use crate::lan::subnets::Subnets;

    fn key(seed: u8) -> PublicKey {
        PrivateKey::from_random([seed; 32]).public()
    }

    fn parse(text: &str) -> Members {
        Members::parse(text, Subnets::new(&["10.0.0.0/29".parse().unwrap()]).unwrap()).unwrap()
    }

    fn join(name: &str, ip: Option<&str>) -> Join {
        let addresses = ip.map(|ip| ip.parse().unwrap()).into_iter().collect();
        Join { addresses, ..Join::new(name.parse().unwrap()) }
    }

    fn admit(members: &mut Members, seed: u8, ip: Option<&str>) -> Decision {
        members.admit(key(seed), &join(&format!("m{seed}"), ip), Access::Open, &[])
    }

    /// `name:outcome` of each change, in the order of names.
    fn told(changes: &[Change]) -> Vec<String> {
        let mut told: Vec<String> =
            changes.iter().map(|change| format!("{}:{:?}", change.member.name, change.outcome)).collect();
        told.sort();
        told
    }

    #[test]
    fn a_revoked_key_stays_out_and_leaves_its_name_and_address() {
        let line = format!("{}  m1   10.0.0.2   # mine? no", key(1));
        assert!(Members::parse(&line, Subnets::new(&["10.0.0.0/29".parse().unwrap()]).unwrap()).is_err());
        let text = format!("# ours\n{}  m1   10.0.0.2\n", key(1));
        let mut members = parse(&text);
        let change = members.revoke(members.by_key(&key(1)).unwrap());
        assert_eq!(told(&[change]), ["m1:Revoked"]);
        let written = format!("# ours\n{}  m1   10.0.0.2 revoked\n", key(1));
        assert_eq!(members.to_text(), written);
        let mut members = parse(&written);
        assert_eq!((members.len(), members.revoked_count()), (0, 1));
        assert!(matches!(admit(&mut members, 1, None), Decision::Refused(Refusal::Revoked, _)));
        assert!(matches!(admit(&mut members, 2, Some("10.0.0.2")), Decision::Member { .. }));
        assert_eq!(parse(&members.to_text()).to_text(), members.to_text());
    }

    #[test]
    fn a_revoked_line_may_be_anything_behind_its_key_but_not_twice() {
        let subnets = Subnets::new(&["10.0.0.0/29".parse().unwrap()]).unwrap();
        for good in [format!("{} m1 revoked", key(1)), format!("{} m1 192.0.2.1 revoked", key(1))] {
            assert!(
                Members::parse(&good, subnets).is_ok_and(|members| members.is_revoked(&key(1))),
                "{good}"
            );
        }
        let named_so = Members::parse(&format!("{} revoked 10.0.0.2", key(1)), subnets).unwrap();
        assert!(!named_so.is_revoked(&key(1)));
        for bad in ["nonsense m1 revoked".to_owned(), format!("{0} a -\n{0} a revoked", key(1))] {
            assert!(Members::parse(&bad, subnets).is_err(), "{bad}");
        }
        let twice = format!("{0} a revoked\n{0} a -", key(1));
        assert_eq!(Members::parse(&twice, subnets).map(|_| ()).unwrap_err().line, 2);
    }

    #[test]
    fn a_list_from_another_editor_is_read_and_a_message_about_it_is_short() {
        let subnets = Subnets::new(&["10.0.0.0/29".parse().unwrap()]).unwrap();
        let members = Members::parse(&format!("\u{feff}{}\tm1\t10.0.0.2\r\n", key(1)), subnets).unwrap();
        assert!(members.by_key(&key(1)).is_some());
        for long in ["é".repeat(100_000), format!("{} {}", key(1), "a".repeat(100_000))] {
            let bad = Members::parse(&long, subnets).map(drop).unwrap_err();
            assert!(bad.why.len() < 300, "{}", bad.why);
        }
    }

    #[test]
    fn a_revoked_member_is_known_by_its_name_and_addresses() {
        let mut members =
            parse(&format!("# {0} x revoked\n{0} a 10.0.0.2\n{1} b 10.0.0.3\n", key(1), key(2)));
        assert!(!members.is_revoked_as("b"));
        members.revoke(members.by_key(&key(2)).unwrap());
        assert!(members.is_revoked_as("b") && members.is_revoked_as("10.0.0.3"));
        for who in ["a", "x", "10.0.0.2", "revoked", "10.0.0", ""] {
            assert!(!members.is_revoked_as(who), "{who}");
        }
        assert!(parse(&members.to_text()).is_revoked_as("b"));
    }

    #[test]
    fn replacing_tells_who_is_changed_and_leaves_the_others() {
        let [a, b, c, d] = [1, 2, 3, 4].map(key);
        let mut members = parse(&format!("{a} a 10.0.0.2\n{b} b 10.0.0.3\n{c} c 10.0.0.4\n{d} d 10.0.0.5\n"));
        let before = members.by_key(&a).unwrap();
        members.set_online(before, SessionId::new(77));
        let text = format!(
            "# new\n{} e 10.0.0.3\n{c} c2 10.0.0.4\n{d} d 10.0.0.5 revoked\n{a}   a   10.0.0.2\n",
            key(5)
        );
        let changes = members.replace(parse(&text));
        assert_eq!(told(&changes), ["b:Removed", "c:Changed", "d:Revoked"]);
        assert_eq!(members.to_text(), text);
        assert_eq!(members.by_key(&a), Some(before));
        assert_eq!(members.member(before).session, Some(SessionId::new(77)));
        let newcomer = members.by_key(&key(5)).unwrap();
        assert!(changes.iter().all(|change| change.id != newcomer), "no id changes hands");
        assert_eq!(members.holder("10.0.0.3".parse().unwrap()), Some(newcomer));
        assert_eq!(members.by_name(&"c".parse().unwrap()), None);
        assert!(!members.is_changed());
        assert!(members.replace(parse(&text)).is_empty(), "the same text changes nothing");
    }

    #[test]
    fn who_joined_after_the_text_was_written_stays_unless_a_line_is_against_it() {
        let text = format!("{} a 10.0.0.2\n", key(1));
        let mut members = parse(&text);
        admit(&mut members, 2, Some("10.0.0.3"));
        admit(&mut members, 3, Some("10.0.0.4"));
        let edited = format!("{text}{} b 10.0.0.4\n", key(9));
        assert_eq!(told(&members.replace(parse(&edited))), ["m3:Removed"]);
        assert!(members.is_changed(), "there is more than the text has");
        assert_eq!(members.to_text(), format!("{edited}{} m2 10.0.0.3\n", key(2)));
        members.set_saved(members.version());
        assert_eq!(told(&members.replace(parse(&edited))), ["m2:Removed"], "now the text was without it");
    }

    #[test]
    fn a_revocation_that_is_not_written_yet_is_not_undone_by_a_text_without_it() {
        let text = format!("{} a 10.0.0.2\n", key(1));
        for edited in
            [format!("# edited\n{text}"), "# gone\n".to_owned(), format!("{} a - revoked\n", key(1))]
        {
            let mut members = parse(&text);
            members.revoke(members.by_key(&key(1)).unwrap());
            assert!(members.replace(parse(&edited)).is_empty());
            assert!(members.is_revoked(&key(1)), "{edited}");
            let members = parse(&members.to_text());
            assert!(members.is_revoked(&key(1)) && members.is_empty(), "{edited}");
        }
        let mut members = parse(&text);
        members.revoke(members.by_key(&key(1)).unwrap());
        members.set_saved(members.version());
        members.replace(parse(&text));
        assert!(!members.is_revoked(&key(1)), "once it is written, a person may undo it");
    }

    #[test]
    fn a_thousand_replacements_need_no_more_places() {
        let texts = [1, 2].map(|seed| format!("{} m 10.0.0.2\n", key(seed)));
        let mut members = parse("");
        for round in 0..1_000 {
            members.replace(parse(&texts[round % 2]));
        }
        assert!(members.table.capacity() <= 8, "{}", members.table.capacity());
    }

    #[test]
    fn addresses_kept_for_invites_are_given_to_nobody_else() {
        let mut members = parse(&format!("{} a 10.0.0.3\n", key(1)));
        members.set_reserved(["10.0.0.2", "10.0.0.3", "10.0.0.6"].map(|ip| ip.parse().unwrap()).into());
        let refused = admit(&mut members, 2, Some("10.0.0.2"));
        assert!(matches!(refused, Decision::Refused(Refusal::AddressHeld, _)), "{refused:?}");
        assert!(matches!(admit(&mut members, 2, None), Decision::Member { .. }));
        assert!(members.holder("10.0.0.5".parse().unwrap()).is_some(), "the first that is free");
        assert!(matches!(admit(&mut members, 1, None), Decision::Member { .. }), "its own stays its own");
    }

    #[test]
    fn an_invited_key_joins_a_locked_hub_and_takes_nothing_from_others() {
        let mut members = parse(&format!("{} a 10.0.0.2\n", key(1)));
        let mut ask = |ip: Option<&str>| members.admit(key(2), &join("b", ip), Access::Invited, &[]);
        assert!(matches!(ask(Some("10.0.0.2")), Decision::Refused(Refusal::AddressHeld, _)));
        assert!(matches!(ask(Some("10.0.0.3")), Decision::Member { .. }));
    }
}
