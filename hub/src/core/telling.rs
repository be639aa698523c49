//! What the other hubs are told of the list that hubs share, once it is written. Pure.

use std::time::Instant;

use common::wire::frame::{ControlFrame, MAX_RECORDS, Record, RecordId};
use common::wire::key::PublicKey;

use super::Core;
use super::links::TELL_AHEAD;
use crate::ids::SessionId;
use crate::lan::keeper::{State, Told, Untold, size};

impl Core {
    /// Tells the other hubs what is written, and of the whole list what they take.
    pub(super) fn tell_records(&mut self) {
        if self.keeper.term().is_none() {
            return;
        }
        loop {
            self.tell_written();
            // A page is told once what it says is written, too.
            let whole = self.keeper.telling.whole();
            if !whole.into_iter().any(|(link, told)| self.note_page(link, &told)) {
                return;
            }
        }
    }

    fn tell_written(&mut self) {
        let mut records = Vec::new();
        loop {
            let Core { keeper, saving, admission, .. } = self;
            let (members, invites) = (admission.members(), admission.invites());
            let untold = keeper.telling.next_untold(|state| saving.is_written(state, members, invites));
            let frame = match untold {
                Some(Untold::Record(record)) => {
                    records.push(record);
                    continue;
                }
                Some(Untold::Frame(link, frame)) => Some((link, frame)),
                None => None,
            };
            for records in chunks(std::mem::take(&mut records)) {
                self.tell_links(&ControlFrame::Records { records, first: false, last: false });
            }
            match frame {
                Some((link, frame)) if self.switch.is_live(link) => self.switch.tell(link, &frame),
                Some(_) => {}
                None => return,
            }
        }
    }

    /// Notes the next page of the whole list for a link, if that takes more and none waits.
    fn note_page(&mut self, link: SessionId, told: &Told) -> bool {
        let is_due = self.switch.is_live(link)
            && self.switch.waiting_control(link) < TELL_AHEAD
            && !self.keeper.telling.has_page(link)
            // The keeper, or the store, may not agree to what the list says now.
            && (self.keeper.decides_alone() || self.keeper.waiting() == 0);
        if is_due {
            let first = *told == Told::Nothing;
            let (records, told) = self.page(told);
            let frame = ControlFrame::Records { records, first, last: told.is_none() };
            let state = self.state_of_list();
            self.keeper.telling.note_frame(state, link, frame);
            self.keeper.telling.told(link, told);
        }
        is_due
    }

    /// The records behind those that were told, and how far that is; `None`: everything.
    pub(super) fn page(&self, told: &Told) -> (Vec<Record>, Option<Told>) {
        let (mut records, mut room) = (Vec::new(), MAX_RECORDS);
        let mut take = |record: Record| {
            let has_room = take_room(&mut room, &record);
            if has_room {
                records.push(record);
            }
            has_room
        };
        let Told::Members(last) = told else {
            let mut others = self.admission.other_records();
            others.sort_by_key(|record| record.id);
            let is_told = |record: &&Record| matches!(told, Told::Others(last) if record.id <= *last);
            let is_whole = others.iter().skip_while(is_told).all(|record| take(record.clone()));
            let last = records.last().filter(|_| !is_whole).map(|record| Told::Others(record.id));
            return (records, Some(last.unwrap_or(Told::Members(None))));
        };
        let mut last = last.clone();
        for member in self.members().after(last.clone().as_ref()) {
            if !take(self.members().record(&member.key)) {
                return (records, Some(Told::Members(last)));
            }
            last = Some(member.name.clone());
        }
        (records, None)
    }

    /// Tells all hubs the whole list anew, as a person has edited it, and has a store filled with it.
    pub(super) fn share_edited(&mut self, now: Instant) {
        drop(self.admission.take_edits());
        if self.has_store() {
            self.keep_anew(now);
        }
        self.share_anew();
    }

    /// Tells all hubs the whole list anew; a copy asks for it.
    pub(super) fn share_anew(&mut self) {
        drop(self.admission.take_edits());
        let links: Vec<(SessionId, PublicKey)> = self.peers.links().collect();
        for (link, hub) in links {
            if self.keeper.is_own() && !self.keeper.is_fresh() {
                self.keeper.telling.tell_whole(link);
            } else if self.keeper.other() == Some(hub) {
                self.tell_keeper(link, hub);
            }
        }
    }

    /// Answers a question with why nothing is changed, and these records as they are.
    pub(super) fn refuse_question(&mut self, link: SessionId, token: u64, why: &str, ids: &[RecordId]) {
        let mut room = MAX_RECORDS;
        let records = ids.iter().map(|id| self.admission.record(*id));
        let records = records.take_while(|record| take_room(&mut room, record)).collect();
        let answer = ControlFrame::Answer { token, refused: Some(why.to_owned()), records };
        let state = self.state_of_list();
        self.keeper.telling.note_frame(state, link, answer);
    }

    pub(super) fn state_of_list(&self) -> State {
        (self.members().version(), self.invites().version())
    }
}

/// Takes what a record needs of the room in a frame, where there is any; a last one may need more.
fn take_room(room: &mut usize, record: &Record) -> bool {
    let has_room = *room > 0;
    *room = room.saturating_sub(size(record));
    has_room
}

/// Records in parts of at most [`MAX_RECORDS`] bytes, or of one record.
fn chunks(records: Vec<Record>) -> Vec<Vec<Record>> {
    let (mut chunks, mut room): (Vec<Vec<Record>>, usize) = (Vec::new(), 0);
    for record in records {
        if room < size(&record) || chunks.is_empty() {
            chunks.push(Vec::new());
            room = MAX_RECORDS;
        }
        room = room.saturating_sub(size(&record));
        if let Some(chunk) = chunks.last_mut() {
            chunk.push(record);
        }
    }
    chunks
}
