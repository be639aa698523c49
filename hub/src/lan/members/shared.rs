//! The list of members as hubs share it: what is another record now, and records of others. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use common::wire::frame::{Edit, Record, RecordId};
use common::wire::key::PublicKey;
use common::wire::name::Name;
use common::wire::place::Place;

use super::edit::{Change, Outcome, grants_equal};
use super::member::{Member, Rights, format_member, parse_member};
use super::{FULL_FOR_ALL, MAX_HUBS, MAX_KEYS, MAX_MEMBERS, Members, Unagreed, line_size};
use crate::ids::{MemberId, SessionId};

impl Members {
    /// Whether changes of members are noted from now on, to be taken by `take_edits`.
    pub(crate) fn share(&mut self, is_shared: bool) {
        self.journal.edited = is_shared.then(BTreeMap::new);
    }

    /// Sets whether nobody can agree to a change now: a member that comes is let in as its line is.
    pub(crate) fn set_frozen(&mut self, is_frozen: bool) {
        self.journal.is_frozen = is_frozen;
    }

    pub(super) fn note_edit(&mut self, id: MemberId) {
        if let Some(edited) = &mut self.journal.edited {
            let member = &self.table[id.index()];
            edited.entry(member.key).or_insert_with(|| Some(format_member(member)));
        }
    }

    /// Notes that a member comes with a key that nobody had.
    pub(super) fn note_new(&mut self, key: PublicKey) {
        if let Some(edited) = &mut self.journal.edited {
            edited.entry(key).or_insert(None);
        }
    }

    /// What is another record than when this was last taken.
    pub(crate) fn take_edits(&mut self) -> Vec<Edit> {
        let Some(edited) = &mut self.journal.edited else { return Vec::new() };
        let edited = std::mem::take(edited);
        let edits = edited.into_iter().map(|(key, before)| Edit { record: self.record(&key), before });
        edits.filter(|edit| edit.record.text != edit.before).collect()
    }

    /// The record of this key.
    pub(crate) fn record(&self, key: &PublicKey) -> Record {
        let text = self.by_key(key).map(|id| format_member(self.member(id)));
        Record { id: RecordId::Member(*key), text }
    }

    /// Notes that the record of this key is to be written anew: no change of it waits any more.
    pub(crate) fn write_again(&mut self, key: &PublicKey, is_new: bool) {
        let version = self.change();
        if let Some(id) = self.by_key(key) {
            let member = &mut self.table[id.index()];
            member.changed = version;
            // What was written meanwhile is without it.
            if is_new {
                member.added = version;
            }
        }
    }

    /// The lines that these members had, without those that are at odds with what is written of the others. They are made anew:
    /// what another hub told may be more than a line.
    pub(super) fn lines_before(&self, unagreed: &Unagreed) -> Vec<String> {
        let is_written = |id: MemberId| !unagreed.contains_key(&self.member(id).key);
        let (mut names, mut addresses, mut lines) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
        for (key, line) in unagreed.iter().filter(|(key, _)| !self.is_revoked(key)) {
            let Some(member) = line.as_deref().and_then(|line| self.parse_record(key, line).ok()) else {
                continue;
            };
            let is_free = self.by_name(&member.name).is_none_or(|id| !is_written(id))
                && !names.contains(&member.name)
                && member.addresses.iter().all(|address| {
                    self.holder(*address).is_none_or(|id| !is_written(id)) && !addresses.contains(address)
                });
            if is_free {
                lines.push(format_member(&member));
                names.insert(member.name);
                addresses.extend(member.addresses);
            }
        }
        lines
    }

    /// The member that a record says.
    ///
    /// # Errors
    /// Why it says none.
    pub(crate) fn parse_record(&self, key: &PublicKey, text: &str) -> Result<Member, String> {
        let member = parse_member(text, self.subnets)?;
        if member.key == *key { Ok(member) } else { Err("its line has another key".to_owned()) }
    }

    /// Makes the machine with this key a hub that is reached there. A new one has this name or a numbered one, and an address
    /// of each family, which it has alone.
    ///
    /// # Errors
    /// A sentence that says why it cannot be in the list.
    pub(crate) fn list_hub(
        &mut self,
        key: PublicKey,
        name: Name,
        rights: Rights,
        place: Place,
    ) -> Result<(), String> {
        self.subnets.check_place(&place)?;
        let is_there = |member: &Member| member.key != key && member.hub.as_ref() == Some(&place);
        if let Some((_, other)) = self.iter().find(|(_, member)| is_there(member)) {
            return Err(format!(
                "the hub {0} is at {place} already: say another --host or --listen, or, where this one takes its place, \
                 `hub revoke {0}` first",
                other.name
            ));
        }
        let known = self.by_key(&key);
        let Rights { mut addresses, routes, tags } = rights;
        if let Some(id) = known {
            addresses.clone_from(&self.member(id).addresses);
        }
        for subnet in self.subnets.iter() {
            if !addresses.iter().any(|address| address.is_ipv4() == subnet.is_ipv4()) {
                addresses.extend(self.addresses.free(subnet));
            }
        }
        if let Some(id) = known {
            self.check_hubs(&[key], &[])?;
            self.update(id, |member| (member.hub, member.addresses) = (Some(place), addresses));
            return Ok(());
        }
        let name = if self.by_name(&name).is_none() { name } else { self.free_name(&name, &key, None) };
        let member =
            Member { addresses, routes, tags, hub: Some(place), ..Member::new(key, name, self.version()) };
        let addresses = member.addresses.clone();
        self.check_put(std::slice::from_ref(&member), &[], &addresses)?;
        self.put(vec![member], &[]);
        Ok(())
    }

    /// Whether these members can be in the list once those with the keys `gone` are not. `free`: addresses that no invite
    /// keeps any more then.
    pub(crate) fn check_put(
        &self,
        puts: &[Member],
        gone: &[PublicKey],
        free: &[IpAddr],
    ) -> Result<(), String> {
        let stays = |id: MemberId| {
            let key = &self.member(id).key;
            !gone.contains(key) && !puts.iter().any(|put| put.key == *key)
        };
        let mut newcomers = 0;
        for (at, put) in puts.iter().enumerate() {
            let Member { key, name, addresses, .. } = put;
            if self.is_revoked(key) {
                return Err(format!("{key} is revoked"));
            }
            let others = || puts[..at].iter();
            if self.by_name(name).is_some_and(stays) || others().any(|other| other.name == *name) {
                return Err(format!("{name} is the name of another member"));
            }
            let recorded = self.addresses_of(key);
            for address in addresses {
                let is_held = self.holder(*address).is_some_and(stays);
                if is_held || others().any(|other| other.addresses.contains(address)) {
                    return Err(format!("{address} is held by another member"));
                }
                if self.is_reserved(*address) && !recorded.contains(address) && !free.contains(address) {
                    return Err(format!("{address} is kept for a member that is invited"));
                }
            }
            newcomers += usize::from(self.by_key(key).is_none());
        }
        let is_full = self.len() + newcomers > MAX_MEMBERS + gone.len() || self.is_full();
        if newcomers > 0 && is_full {
            return Err("the list of members is full".to_owned());
        }
        let (hubs, others): (Vec<&Member>, Vec<&Member>) = puts.iter().partition(|put| put.hub.is_some());
        let hubs: Vec<PublicKey> = hubs.iter().map(|put| put.key).collect();
        let others = others.iter().map(|put| put.key).chain(gone.iter().copied());
        self.check_hubs(&hubs, &others.collect::<Vec<_>>())
    }

    /// Whether these members take no address from one that needs it: one on the LAN, or a hub that stays one, which is to have no
    /// other one of that family in its place. `by`: the link of the hub that asks, which knows best who is with it.
    pub(crate) fn check_needs(&self, puts: &[Member], by: Option<SessionId>) -> Result<(), String> {
        for (put, address) in puts.iter().flat_map(|put| put.addresses.iter().map(move |own| (put, own))) {
            let Some(holder) = self.holder(*address).map(|id| self.member(id)) else { continue };
            let after = puts.iter().find(|put| put.key == holder.key);
            let is_same_family = |other: &IpAddr| other.is_ipv4() == address.is_ipv4();
            let has_another = after.is_some_and(|put| put.addresses.iter().any(is_same_family));
            let is_hub = holder.hub.is_some() && after.is_some_and(|put| put.hub.is_some());
            let is_elsewhere = holder.elsewhere.is_some_and(|link| Some(link) != by);
            let is_needed = holder.session.is_some() || is_elsewhere || is_hub;
            if holder.key != put.key && is_needed && !has_another {
                return Err(format!("{address} is held by {}, which is on the LAN", holder.name));
            }
        }
        Ok(())
    }

    /// Whether these can be hubs once those with the keys `others` are none.
    fn check_hubs(&self, hubs: &[PublicKey], others: &[PublicKey]) -> Result<(), String> {
        let is_hub = |member: &Member| member.hub.is_some();
        let is_new = |key: &&PublicKey| !self.by_key(key).is_some_and(|id| is_hub(self.member(id)));
        let new = hubs.iter().filter(is_new).count();
        let stays = |(_, member): &(MemberId, &Member)| is_hub(member) && !others.contains(&member.key);
        if new > 0 && self.iter().filter(stays).count() + new > MAX_HUBS {
            return Err(format!("the LAN has {MAX_HUBS} hubs, and can have no more"));
        }
        Ok(())
    }

    /// Makes these members what the keeper of the list says, and takes off those with the keys `gone`. A member that was
    /// revoked stays so. Whoever holds what the keeper gives to another one loses it. `puts`: each key once. Also returns how
    /// many are left out, as the list is full.
    pub(crate) fn put(&mut self, puts: Vec<Member>, gone: &[PublicKey]) -> (Vec<Change>, usize) {
        let mut changes = Vec::new();
        for key in gone {
            changes.extend(self.by_key(key).map(|id| self.remove(id)));
        }
        let puts = puts.into_iter().filter(|put| !self.is_revoked(&put.key));
        let puts: Vec<(Option<MemberId>, Member)> = puts.map(|put| (self.by_key(&put.key), put)).collect();
        let is_other = |known: &Member, put: &Member| {
            !grants_equal(known, put) || known.tags != put.tags || known.hub != put.hub
        };
        let puts: Vec<(Option<MemberId>, Member)> =
            puts.into_iter().filter(|(id, put)| id.is_none_or(|id| is_other(self.member(id), put))).collect();
        let found = puts.len();
        let puts = self.fitting(puts);
        let left_out = found - puts.len();
        // What they have is free first: two may change places.
        for id in puts.iter().filter_map(|(id, _)| *id) {
            self.note_edit(id);
            self.unindex(id);
        }
        for (id, put) in puts {
            changes.extend(self.give_up(&put));
            let version = self.change();
            let Some(id) = id else {
                let put = Member { added: version, changed: version, ..put };
                if let Ok(id) = self.insert(put) {
                    self.lines.push(id, None);
                }
                continue;
            };
            let before = self.member(id).clone();
            let member = &mut self.table[id.index()];
            let Member { name, addresses, routes, tags, hub, .. } = put;
            *member = Member { name, addresses, routes, tags, hub, changed: version, ..before.clone() };
            let outcome = if grants_equal(member, &before) { Outcome::Tagged } else { Outcome::Changed };
            self.index(id);
            self.lines.change(id, before.key);
            self.parties += 1;
            changes.push(Change { id, member: before, outcome });
        }
        (changes, left_out)
    }

    /// Those of them for which there is room.
    fn fitting(&self, puts: Vec<(Option<MemberId>, Member)>) -> Vec<(Option<MemberId>, Member)> {
        let most = MAX_MEMBERS.min(MAX_KEYS.saturating_sub(self.revoked_count()));
        let mut members = most.saturating_sub(self.len());
        let mut bytes = FULL_FOR_ALL.saturating_sub(self.size);
        let mut has_room = |(id, put): &(Option<MemberId>, Member)| {
            let before = id.map_or(0, |id| line_size(self.member(id)));
            let (more, len) = (usize::from(id.is_none()), line_size(put).saturating_sub(before));
            let has_room = more <= members && len <= bytes;
            if has_room {
                (members, bytes) = (members - more, bytes - len);
            }
            has_room
        };
        puts.into_iter().filter(|put| has_room(put)).collect()
    }

    /// Takes from others what this member is to have.
    fn give_up(&mut self, put: &Member) -> Vec<Change> {
        let holders = put.addresses.iter().filter_map(|&address| self.holder(address));
        let mut others: Vec<MemberId> = holders.chain(self.by_name(&put.name)).collect();
        others.dedup();
        others.retain(|&id| self.member(id).key != put.key);
        let mut changes = Vec::new();
        for id in others {
            let before = self.member(id).clone();
            let name = match before.name == put.name {
                true => self.free_name(&put.name, &before.key, None),
                false => before.name.clone(),
            };
            self.update(id, |member| {
                member.name = name;
                member.addresses.retain(|address| !put.addresses.contains(address));
            });
            changes.push(Change { id, member: before, outcome: Outcome::Changed });
        }
        changes
    }
}
