//! The list as hubs share it: members, invites and who may join, each a record of its own. Pure.
//!
//! One hub keeps the list. Others change a record by telling what it was and what it is to be: where it is another one by
//! then, or where the change would give a name or an address to two, nothing of what belongs together is changed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use common::wire::frame::{Edit, Record, RecordId};
use common::wire::invite::SecretHash;
use common::wire::key::PublicKey;

use crate::ids::SessionId;
use crate::lan::admission::Admission;
use crate::lan::invites::{Invite, MAX_INVITES, format_invite};
use crate::lan::members::{Access, Change, Member};

/// What records did to the list.
#[derive(Debug, Default)]
pub(crate) struct Put {
    /// Members that are changed.
    pub(crate) changes: Vec<Change>,
    /// Who may join, if that is another matter now.
    pub(crate) access: Option<Access>,
    /// Records that make no sense here, and why.
    pub(crate) bad: Vec<String>,
}

/// Records as they are read.
#[derive(Default)]
struct Parsed {
    members: Vec<Member>,
    gone: Vec<PublicKey>,
    invites: Vec<(SecretHash, Option<Invite>)>,
    access: Option<Access>,
}

/// The text of the record of who may join.
pub(crate) fn access_text(access: Access) -> String {
    if access == Access::Open { "open".to_owned() } else { "locked".to_owned() }
}

impl Admission {
    /// The record with this id.
    pub(crate) fn record(&self, id: RecordId) -> Record {
        match id {
            RecordId::Member(key) => self.members().record(&key),
            RecordId::Invite(hash) => self.invites().record(SecretHash(hash)),
            RecordId::Access => Record { id, text: Some(access_text(self.access())) },
        }
    }

    /// Has a record written down that was not while a change of it waited.
    /// `is_new`: there was none before.
    pub(crate) fn write_again(&mut self, id: RecordId, is_new: bool) {
        if let RecordId::Member(key) = id {
            self.members_mut().write_again(&key, is_new);
        }
    }

    /// The records that are no members.
    pub(crate) fn other_records(&self) -> Vec<Record> {
        let invites = self.invites().iter().map(|invite| {
            let text = Some(format_invite(invite));
            Record { id: RecordId::Invite(invite.hash.0), text }
        });
        invites.chain([self.record(RecordId::Access)]).collect()
    }

    /// Whether changes are noted from now on, to be taken by `take_edits`.
    pub(crate) fn share(&mut self, is_shared: bool) {
        self.members_mut().share(is_shared);
        self.invites_mut().share(is_shared);
    }

    /// What is another record than when this was last taken; who may join is told by whoever changes it.
    pub(crate) fn take_edits(&mut self) -> Vec<Edit> {
        let mut edits = self.members_mut().take_edits();
        edits.extend(self.invites_mut().take_edits());
        edits
    }

    fn parse(&self, record: &Record, parsed: &mut Parsed) -> Result<(), String> {
        match (record.id, &record.text) {
            (RecordId::Member(key), Some(text)) => {
                parsed.members.push(self.members().parse_record(&key, text)?)
            }
            (RecordId::Member(key), None) => parsed.gone.push(key),
            (RecordId::Invite(hash), Some(text)) => {
                let invite = self.parse_invite(text)?;
                if invite.hash.0 != hash {
                    return Err("its line has another hash".to_owned());
                }
                parsed.invites.push((invite.hash, Some(invite)));
            }
            (RecordId::Invite(hash), None) => parsed.invites.push((SecretHash(hash), None)),
            (RecordId::Access, text) => {
                parsed.access = Some(match text.as_deref() {
                    Some("open") => Access::Open,
                    Some("locked") => Access::Locked,
                    _ => return Err("it does not say who may join".to_owned()),
                });
            }
        }
        Ok(())
    }

    fn put_parsed(&mut self, parsed: Parsed) -> Put {
        let Parsed { members, gone, invites, access } = parsed;
        let mut bad = Vec::new();
        // What is gone makes room.
        for (hash, invite) in invites.iter().filter(|(_, invite)| invite.is_none()).chain(&invites) {
            let before = self.invites().record(*hash).text;
            if invite.is_some() && before.is_none() && self.invites().iter().count() >= MAX_INVITES {
                bad.push(format!("there are {MAX_INVITES} invites already"));
            } else if before != invite.as_ref().map(format_invite) {
                self.invites_mut().put(*hash, invite.clone());
            }
        }
        let (changes, left_out) = self.members_mut().put(members, &gone);
        bad.extend((left_out > 0).then(|| format!("the list is full: {left_out} members are left out")));
        self.keep_invited_free();
        Put { changes, access: access.filter(|access| *access != self.access()), bad }
    }

    /// Whether there can be these invites, where they are new.
    fn check_invites(&self, Parsed { members, gone, invites, .. }: &Parsed) -> Result<(), String> {
        let is_known = |hash: &SecretHash| self.invites().record(*hash).text.is_some();
        let is_held = |address: &&IpAddr| {
            let holder = self.members().holder(**address).map(|id| self.members().member(id).key);
            let stays = |key: &PublicKey| !gone.contains(key) && members.iter().all(|put| put.key != *key);
            holder.as_ref().is_some_and(stays) || members.iter().any(|put| put.addresses.contains(*address))
        };
        // An earlier invite for the same name is void, one for the same address is not.
        let stays = |other: &Invite, invite: &Invite| {
            other.name != invite.name && invites.iter().all(|(hash, _)| *hash != other.hash)
        };
        let is_kept = |address: &&IpAddr, invite: &Invite| {
            let mut others = self.invites().iter().filter(|other| stays(other, invite));
            others.any(|other| other.addresses.contains(*address))
        };
        let (mut new, mut void) = (0, 0);
        for (hash, invite) in invites {
            match invite {
                Some(invite) if !is_known(hash) => {
                    new += 1;
                    if let Some(held) = invite.addresses.iter().find(is_held) {
                        return Err(format!("{held} is held by a member"));
                    }
                    if let Some(kept) = invite.addresses.iter().find(|address| is_kept(address, invite)) {
                        return Err(format!("another invite has the address {kept}"));
                    }
                }
                None if is_known(hash) => void += 1,
                Some(_) | None => {}
            }
        }
        let is_full = new > 0 && self.invites().iter().count() + new > MAX_INVITES + void;
        if is_full { Err(format!("there are {MAX_INVITES} invites already")) } else { Ok(()) }
    }

    /// Makes the list what the keeper says, as far as it makes sense here. Of several records with one id the last one
    /// counts.
    pub(crate) fn put(&mut self, records: &[Record]) -> Put {
        let (mut parsed, mut bad) = (Parsed::default(), Vec::new());
        let last: BTreeMap<RecordId, usize> =
            records.iter().enumerate().map(|(at, record)| (record.id, at)).collect();
        for (_, record) in records.iter().enumerate().filter(|(at, record)| last[&record.id] == *at) {
            bad.extend(self.parse(record, &mut parsed).err());
        }
        let put = self.put_parsed(parsed);
        bad.extend(put.bad);
        Put { bad, ..put }
    }

    /// Whether all these changes hold already.
    pub(crate) fn has(&self, edits: &[Edit]) -> bool {
        edits.iter().all(|edit| self.record(edit.record.id).text == edit.record.text)
    }

    /// Makes all these changes, or none. A change that holds already is made. `by`: the link of the hub that asks, if one does.
    ///
    /// # Errors
    /// A sentence that says why none is made.
    pub(crate) fn apply(&mut self, edits: &[Edit], by: Option<SessionId>) -> Result<Put, String> {
        let mut parsed = Parsed::default();
        let is_new = |Edit { record, before }: &Edit| {
            matches!(record.id, RecordId::Member(_))
                && before.is_none()
                && self.record(record.id).text.is_none()
        };
        // Of an invite by which somebody comes, each use counts, though two leave the same behind.
        let lets_in = edits.iter().any(is_new);
        for Edit { record, before } in edits {
            let now = self.record(record.id).text;
            let is_use = lets_in && matches!(record.id, RecordId::Invite(_));
            if now == record.text && !is_use {
                continue;
            }
            if now != *before {
                return Err("another hub was quicker to change the same".to_owned());
            }
            self.parse(record, &mut parsed)?;
        }
        let ids: BTreeSet<RecordId> = edits.iter().map(|edit| edit.record.id).collect();
        if ids.len() < edits.len() {
            return Err("it would change the same twice".to_owned());
        }
        self.check_invites(&parsed)?;
        // An invite that is used up with this gives its addresses.
        let is_claimed = |invite: &&Invite| parsed.invites.iter().any(|(hash, _)| *hash == invite.hash);
        let free = self.invites().iter().filter(is_claimed).flat_map(|invite| invite.addresses.clone());
        let free: Vec<IpAddr> = free.collect();
        self.members().check_put(&parsed.members, &parsed.gone, &free)?;
        self.members().check_needs(&parsed.members, by)?;
        Ok(self.put_parsed(parsed))
    }
}

#[cfg(test)]
mod tests;
