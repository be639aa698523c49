//! The list as hubs share it: members, invites and who may join, each a record of its own. Pure.
//!
//! One hub keeps the list. Others change a record by telling what it was and what it is to be: where it is another one by
//! then, or where the change would give a name or an address to two, nothing of what belongs together is changed.

use common::wire::frame::{Edit, Record, RecordId};
use common::wire::invite::SecretHash;
use common::wire::key::PublicKey;

use crate::lan::admission::Admission;
use crate::lan::invites::{Invite, format_invite};
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
        for (hash, invite) in invites {
            let text = invite.as_ref().map(format_invite);
            if self.invites().record(hash).text != text {
                self.invites_mut().put(hash, invite);
            }
        }
        let changes = self.members_mut().put(members, &gone);
        self.keep_invited_free();
        Put { changes, access: access.filter(|access| *access != self.access()), bad: Vec::new() }
    }

    /// Makes the list what the keeper says, as far as it makes sense here.
    pub(crate) fn put(&mut self, records: &[Record]) -> Put {
        let (mut parsed, mut bad) = (Parsed::default(), Vec::new());
        for record in records {
            bad.extend(self.parse(record, &mut parsed).err());
        }
        Put { bad, ..self.put_parsed(parsed) }
    }

    /// Makes all these changes, or none. A change that holds already is made.
    ///
    /// # Errors
    /// A sentence that says why none is made.
    pub(crate) fn apply(&mut self, edits: &[Edit]) -> Result<Put, String> {
        let mut parsed = Parsed::default();
        for Edit { record, before } in edits {
            let now = self.record(record.id).text;
            if now == record.text {
                continue;
            }
            if now != *before {
                return Err("another hub was quicker to change the same".to_owned());
            }
            self.parse(record, &mut parsed)?;
        }
        // An invite that is used up with this gives its addresses.
        let is_claimed = |invite: &&Invite| parsed.invites.iter().any(|(hash, _)| *hash == invite.hash);
        let free = self.invites().iter().filter(is_claimed).flat_map(|invite| invite.addresses.clone());
        let free: Vec<std::net::IpAddr> = free.collect();
        self.members().check_put(&parsed.members, &parsed.gone, &free)?;
        Ok(self.put_parsed(parsed))
    }
}
