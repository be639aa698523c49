//! The list in a store beside the hub's own files: what the process takes and brings that writes there. Pure.
//!
//! Where the list is in a store, the hub that keeps it agrees to no change before that process has written it down. Which
//! hub that is the store decides, with a number that grows: it is the keeper's term.

use std::collections::BTreeSet;
use std::time::Instant;

use common::wire::frame::{Edit, Record, RecordId, Term};

use super::Core;
use super::keeper::UNKNOWN;
use crate::ids::SessionId;
use crate::lan::keeper::{Asked, Store, Told};

/// Why what was brought is not taken over.
const STARTED_ANEW: &str = "the hub was started anew before it had the whole list";
/// Most changes that are given to that process at once.
const MAX_QUESTIONS: usize = 64;

impl Core {
    /// Whether the process that writes to the store has brought this hub up to date, and this hub keeps the list.
    pub fn is_stored(&self) -> bool {
        self.keeper.store().is_some_and(|store| store.is_attached())
    }

    /// Whether this hub keeps the list, or shares it with nobody: a store is filled from it.
    pub fn keeps_list(&self) -> bool {
        // An empty one is a lost one.
        self.keeper.has_original() && (self.keeper.term().is_none() || !self.members().is_empty())
    }

    /// Whether this hub shares the list with others and has lost it.
    pub fn has_lost_list(&self) -> bool {
        self.keeper.term().is_some() && self.members().is_empty()
    }

    /// The process that writes to the store asks for something.
    pub fn hear_store(&mut self, now: Instant) {
        self.keeper.store_mut().into_iter().for_each(|store| store.hear(now));
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
            self.keeper.store_mut().into_iter().for_each(|store| store.lose(None));
            return;
        };
        self.write_again(&edits);
        self.note_records(edits);
        then.into_iter().for_each(|then| self.conclude(then, now));
        self.start_job(now);
    }

    /// Begins or goes on telling the whole list to the store; nothing where all of it was told.
    ///
    /// # Errors
    /// Where this hub does not keep the list in a store any more.
    pub fn page_for_store(&mut self, is_first: bool) -> Result<Vec<Record>, String> {
        if !self.has_store() {
            return Err("another hub has begun to keep the list".to_owned());
        }
        let told = match self.keeper.telling.told_to_store() {
            _ if is_first => Told::Nothing,
            Some(told) => told,
            None => return Ok(Vec::new()),
        };
        let (records, told) = self.page(&told);
        self.keeper.telling.set_told_to_store(told);
        Ok(records)
    }

    /// Takes note of records of the store, the first of all or others: they count once they are all there.
    ///
    /// # Errors
    /// Where there are too many.
    pub fn take_stored(&mut self, records: Vec<Record>, is_first: bool) -> Result<(), String> {
        self.keeper.bring(records, is_first)
    }

    /// Takes over what the store has brought where this hub has lost the list, so that it knows the others again: they tell it
    /// who keeps it now.
    ///
    /// # Errors
    /// Where it has a list, or some of what was brought is not here.
    pub fn copy_from_store(&mut self, brought: usize, now: Instant) -> Result<(), String> {
        if !self.has_lost_list() || self.keeper.brought() != brought {
            return Err(STARTED_ANEW.to_owned());
        }
        let records = self.keeper.take_brought();
        self.put(records, now);
        Ok(())
    }

    /// Has this hub keep the list, as the store says that it is the one, with this number: the list here, or the one of which
    /// the store has brought so many records. Returns which records of that one are to be taken off it, as those members are revoked.
    ///
    /// # Errors
    /// Where another hub keeps the list by a later number, or some of what was brought is not here.
    pub fn keep_in_store(
        &mut self,
        number: u64,
        brought: Option<usize>,
        now: Instant,
    ) -> Result<Vec<RecordId>, String> {
        let term = Term { number, keeper: self.key.public() };
        if !self.keeper.is_newer(term) {
            return Err("another hub has begun to keep the list".to_owned());
        }
        if brought.is_some_and(|count| count != self.keeper.brought()) {
            return Err(STARTED_ANEW.to_owned());
        }
        self.seal(now);
        let (asked, revoked) = if brought.is_some() { self.take_brought(now) } else { (vec![], vec![]) };
        self.take_for_keeper(term, Some(Store::attached(now)), now);
        self.share_anew();
        asked.into_iter().for_each(|asked| self.ask_anew(asked, now));
        Ok(revoked)
    }

    /// Makes the list the one that the store has brought. Returns what was asked for and is in it no more, and what is in it of
    /// members that are revoked.
    fn take_brought(&mut self, now: Instant) -> (Vec<Asked>, Vec<RecordId>) {
        let (asked, before) = self.keeper.take_asked();
        self.put_back(before, now);
        let brought = self.keeper.take_brought();
        self.keeper.set_fresh(false);
        let ids: BTreeSet<RecordId> = brought.iter().map(|record| record.id).collect();
        self.put(brought, now);
        self.take_off_others(&ids, now);
        let is_revoked =
            |id: &RecordId| matches!(id, RecordId::Member(key) if self.members().is_revoked(key));
        (asked, ids.into_iter().filter(is_revoked).collect())
    }

    /// The store takes no changes for now: those that wait are taken back here.
    pub fn lose_store(&mut self, why: &str, now: Instant) {
        let Some(store) = self.keeper.store_mut() else { return };
        store.lose(Some(why));
        let (asked, records) = self.keeper.take_asked();
        let then = asked.into_iter().flat_map(|asked| asked.then).collect();
        self.take_back(records, then, (why, UNKNOWN), now);
    }

    /// All records are told by a link: takes off the list what was not among them.
    pub(super) fn end_records(&mut self, link: SessionId, now: Instant) {
        if let Some(told) = self.keeper.complete(link) {
            self.take_off_others(&told, now);
        }
    }

    fn take_off_others(&mut self, told: &BTreeSet<RecordId>, now: Instant) {
        let members = self.members().iter().map(|(_, member)| RecordId::Member(member.key));
        let invites = self.invites().iter().map(|invite| RecordId::Invite(invite.hash.0));
        let gone = members.chain(invites).filter(|id| !told.contains(id));
        let gone: Vec<Record> = gone.map(|id| Record { id, text: None }).collect();
        self.put(gone, now);
    }
}
