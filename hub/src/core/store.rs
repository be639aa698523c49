//! The list in a store beside the hub's own files: what the process takes and brings that writes there. Pure.
//!
//! Where the list is in a store, the hub that keeps it agrees to no change before that process has written it down. Which
//! hub that is the store decides, with a number that grows: it is the keeper's term.

use std::time::Instant;

use common::wire::frame::{Edit, Record, RecordId, Term};

use super::Core;
use super::keeper::UNCHANGED;
use crate::ids::SessionId;
use crate::lan::keeper::{Asked, Store, Told};

/// Most changes that are given to that process at once.
const MAX_QUESTIONS: usize = 64;

impl Core {
    /// Whether the process that writes to the store has brought this hub up to date, and this hub keeps the list.
    pub fn is_stored(&self) -> bool {
        self.keeper.store().is_some_and(|store| store.is_attached)
    }

    /// Whether this hub keeps the list in a store.
    pub fn has_store(&self) -> bool {
        self.keeper.store().is_some()
    }

    /// Whether there is something to write to the store.
    pub fn has_work_for_store(&self) -> bool {
        self.keeper.has_questions_for_store()
    }

    /// Changes that are to be written to the store, all or none of each.
    pub fn work_for_store(&mut self) -> Vec<(u64, Vec<Edit>)> {
        self.keeper.questions_for_store(MAX_QUESTIONS)
    }

    /// A change is written to the store.
    pub fn handle_stored(&mut self, token: u64, now: Instant) {
        if self.keeper.store().is_none() {
            return;
        }
        self.seal(now);
        let Some((Asked { edits, then, .. }, _)) = self.keeper.answered(token, None) else {
            // It was taken back meanwhile: the list here is another one than that in the store.
            if let Some(store) = self.keeper.store_mut() {
                store.is_attached = false;
            }
            return;
        };
        self.write_again(&edits);
        self.note_records(edits);
        then.into_iter().for_each(|then| self.conclude(then, now));
        self.start_job(now);
    }

    /// Begins or goes on telling the whole list to the store; nothing where all of it was told.
    pub fn page_for_store(&mut self, is_first: bool) -> Vec<Record> {
        let told = match self.keeper.telling.told_to_store() {
            _ if is_first => Told::Nothing,
            Some(told) => told,
            None => return Vec::new(),
        };
        let (records, told) = self.page(&told);
        self.keeper.telling.set_told_to_store(told);
        records
    }

    /// Takes records of the store, the first of all or others.
    pub fn take_stored(&mut self, records: Vec<Record>, is_first: bool, now: Instant) {
        self.seal(now);
        let records = self.keeper.arrived((None, true), records, is_first);
        self.put(records, now);
    }

    /// Has this hub keep the list: it has taken all records of the store, if there were any, and the store says that it is
    /// the one, with this number.
    pub fn keep_in_store(&mut self, number: u64, has_records: bool, now: Instant) {
        if has_records {
            self.end_records(None, now);
        }
        let store = Store::attached();
        let term = Term { number, keeper: self.key.public() };
        self.take_for_keeper(term, Some(store), now);
        self.share_anew();
    }

    /// The store says that another hub keeps the list, or does not answer: changes that wait are taken back.
    pub fn lose_store(&mut self, why: &str, now: Instant) {
        let Some(store) = self.keeper.store_mut() else { return };
        store.is_attached = false;
        let (asked, records) = self.keeper.take_asked();
        let then = asked.into_iter().flat_map(|asked| asked.then).collect();
        self.take_back(records, then, (why, UNCHANGED), now);
    }

    /// All records are told: takes off the list what was not among them.
    pub(super) fn end_records(&mut self, link: Option<SessionId>, now: Instant) {
        let Some(told) = self.keeper.complete(link) else { return };
        let members = self.members().iter().map(|(_, member)| RecordId::Member(member.key));
        let invites = self.invites().iter().map(|invite| RecordId::Invite(invite.hash.0));
        let gone = members.chain(invites).filter(|id| !told.contains(id));
        let gone: Vec<Record> = gone.map(|id| Record { id, text: None }).collect();
        self.put(gone, now);
    }
}
