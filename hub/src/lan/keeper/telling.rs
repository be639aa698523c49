//! What the keeper of the list tells other hubs, and when: records and answers, as they are written, and the whole list. Pure.

use std::collections::{BTreeMap, VecDeque};

use common::wire::frame::{ControlFrame, Edit, MAX_RECORDS, Record, RecordId};
use common::wire::name::Name;

use crate::ids::SessionId;
use crate::lan::members::Version;

/// Most bytes of what other hubs are to be told that are not written yet, beyond which their questions are dropped.
const MAX_UNTOLD: usize = 1024 * 1024;

/// Most records of one change: a transaction of etcd has 128 operations.
pub(crate) const MOST_EDITS: usize = 100;

/// What a record takes in a frame beside its text.
const RECORD_BYTES: usize = 42;

/// How much of the list was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// Nothing.
    Nothing,
    /// What is no member, up to this record.
    Others(RecordId),
    /// That, and the members up to this name, in the order of names.
    Members(Option<Name>),
}

/// A state of the list: of its members, and of its invites.
pub(crate) type State = (Version, Version);

/// What other hubs are to be told.
pub(crate) enum Untold {
    /// All of them, of a record.
    Record(Record),
    /// The one at the other end of this link: an answer, or a page of the whole list.
    Frame(SessionId, ControlFrame),
}

/// All of it.
#[derive(Default)]
pub(crate) struct Telling {
    /// What is told once this state of the list is written, in the order in which it was decided.
    untold: VecDeque<(State, Untold)>,
    /// Bytes of it.
    bytes: usize,
    /// Links by which the whole list is told, and how far it is.
    whole: BTreeMap<SessionId, Told>,
    /// How far a store is told the whole list, if it is.
    to_store: Option<Told>,
}

impl Telling {
    /// Forgets a link that has ended.
    pub(super) fn forget_session(&mut self, session: SessionId) {
        let Telling { untold, bytes, whole, .. } = self;
        untold.retain(|(_, untold)| match untold {
            Untold::Frame(of, answer) if *of == session => {
                *bytes -= size_of_frame(answer);
                false
            }
            Untold::Frame(..) | Untold::Record(_) => true,
        });
        whole.remove(&session);
    }

    /// Notes records that are other ones in this state of the list.
    pub(crate) fn note(&mut self, state: State, records: impl Iterator<Item = Record>) {
        for record in records {
            self.bytes += size(&record);
            self.untold.push_back((state, Untold::Record(record)));
        }
    }

    /// Notes that a question of this link is answered once this state is written, behind what was noted before.
    pub(crate) fn note_frame(&mut self, state: State, link: SessionId, frame: ControlFrame) {
        self.bytes += size_of_frame(&frame);
        self.untold.push_back((state, Untold::Frame(link, frame)));
    }

    /// Whether a page of the whole list waits that is for this link.
    pub(crate) fn has_page(&self, link: SessionId) -> bool {
        let is_page = |untold: &Untold| matches!(untold, Untold::Frame(of, ControlFrame::Records { .. }) if *of == link);
        self.untold.iter().any(|(_, untold)| is_page(untold))
    }

    /// Whether so much waits for the disk that others have to wait with their changes.
    pub(crate) fn is_busy(&self) -> bool {
        self.bytes > MAX_UNTOLD
    }

    /// Takes out what may be told next, as its state of the list is written.
    pub(crate) fn next_untold(&mut self, is_written: impl Fn(State) -> bool) -> Option<Untold> {
        self.untold.front().filter(|(state, _)| is_written(*state))?;
        let (_, untold) = self.untold.pop_front()?;
        self.bytes -= match &untold {
            Untold::Record(record) => size(record),
            Untold::Frame(_, answer) => size_of_frame(answer),
        };
        Some(untold)
    }

    /// Has the whole list told by a link.
    pub(crate) fn tell_whole(&mut self, link: SessionId) {
        self.whole.insert(link, Told::Nothing);
    }

    /// The links by which the whole list is told, and how far it is.
    pub(crate) fn whole(&self) -> Vec<(SessionId, Told)> {
        self.whole.iter().map(|(&link, told)| (link, told.clone())).collect()
    }

    /// Notes how far a link was told; `None`: everything.
    pub(crate) fn told(&mut self, link: SessionId, told: Option<Told>) {
        match told {
            Some(told) => self.whole.insert(link, told),
            None => self.whole.remove(&link),
        };
    }

    /// How far a store was told the whole list; `None`: everything, or nothing.
    pub(crate) fn told_to_store(&self) -> Option<Told> {
        self.to_store.clone()
    }

    /// Notes how far that is.
    pub(crate) fn set_told_to_store(&mut self, told: Option<Told>) {
        self.to_store = told;
    }
}

/// What a record takes in a frame.
pub(crate) fn size(record: &Record) -> usize {
    RECORD_BYTES + record.text.as_ref().map_or(0, String::len)
}

/// What changes take in a frame.
pub(super) fn size_of_edits(edits: &[Edit]) -> usize {
    edits.iter().map(|edit| size(&edit.record) + edit.before.as_ref().map_or(0, String::len)).sum()
}

/// What an answer takes. A page counts for nothing: one waits for each link, and it keeps nobody from asking.
fn size_of_frame(answer: &ControlFrame) -> usize {
    let ControlFrame::Answer { refused, records, .. } = answer else { return 0 };
    RECORD_BYTES + refused.as_ref().map_or(0, String::len) + records.iter().map(size).sum::<usize>()
}

/// Changes for which nobody waits in parts that fit into a frame, and into a transaction of a store.
pub(crate) fn parts(edits: Vec<Edit>) -> Vec<Vec<Edit>> {
    let (mut parts, mut bytes): (Vec<Vec<Edit>>, usize) = (Vec::new(), 0);
    for edit in edits {
        let len = size_of_edits(std::slice::from_ref(&edit));
        match parts.last_mut() {
            Some(part) if bytes + len <= MAX_RECORDS && part.len() < MOST_EDITS => part.push(edit),
            _ => {
                parts.push(vec![edit]);
                bytes = 0;
            }
        }
        bytes += len;
    }
    parts
}
