//! Who keeps the list that hubs share, and the changes to which it has not agreed yet. Pure.
//!
//! ```text
//! # STATE/lan
//! keeper WY/U9JV7l6nRsxZKzHlwmchStQvgIRzo2OAWB3x0oAY=
//! term 1
//! subnet 10.0.0.0/16
//! mtu 1500
//! ```
//! A hub without the first two lines shares its list with nobody. The others are there where the hub has joined a LAN, so that
//! it can start while no other hub is there.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use common::wire::frame::{ControlFrame, Edit, Join, Record, RecordId, Term};
use common::wire::key::PublicKey;
use ipnetwork::IpNetwork;

use crate::ids::{RequestId, SessionId};
use crate::lan::admission::Welcomed;
use crate::lan::invites::MAX_INVITES;
use crate::lan::members::{BadLine, MAX_MEMBERS, Unagreed};
use crate::lan::saving::Answer;

/// How long the keeper has to agree to a change.
pub(crate) const KEEPER_TIME: Duration = Duration::from_secs(3);
/// How often a join is decided anew because another hub was quicker to change the same.
const MOST_TRIES: u32 = 5;
/// Most changes that wait for the keeper, and bytes of their texts: a new link to it is asked all of them at once.
const MAX_ASKED: usize = 1_024;
const MAX_ASKED_BYTES: usize = 128 * 1024;
/// Most records of a whole list.
const MAX_TOLD: usize = MAX_MEMBERS + MAX_INVITES + 1;
/// Bits of a question's number below those that tell the run of the hub.
const RUN: u32 = 32;
/// A term is further ahead of the one that is known at most by this: it counts keepers, and nobody may use its numbers up.
const MOST_AHEAD: u64 = 1 << 40;
/// The process that writes to a store asks for work each few seconds: after this time without, it is gone.
const STORE_SILENT: Duration = Duration::from_secs(10);

mod telling;

pub(crate) use telling::{MOST_EDITS, State, Told, Untold, parts, size};
use telling::{Telling, size_of_edits};

/// What is to be done once the keeper has agreed to a change, or not.
pub(crate) enum Then {
    /// Nothing: nobody waits.
    Nothing,
    /// Let this session in.
    Welcome(SessionId, Box<Welcomed>),
    /// Decide about the join of this session: another change concerns the same key.
    Decide(SessionId, PublicKey, Box<Join>),
    /// Give this hub a link, which is new.
    Link(SessionId, PublicKey, Box<Join>),
    /// Answer a person's request.
    Answer(RequestId, Box<Answer>),
    /// Answer this question of another hub.
    Reply(SessionId, u64),
}

/// A change to which the keeper has not agreed yet.
pub(crate) struct Asked {
    pub(crate) token: u64,
    pub(crate) edits: Vec<Edit>,
    pub(crate) then: Vec<Then>,
    since: Instant,
}

/// Who keeps the list, and what it is to be told, or tells.
pub(crate) struct Keeper {
    own: PublicKey,
    term: Option<Term>,
    /// Whether this hub has yet to be told the whole list: it has just joined the LAN, or keeps the list and has lost it.
    is_fresh: bool,
    last_token: u64,
    asked: VecDeque<Asked>,
    /// What the keeper told last of records of which a change waits.
    told: BTreeMap<RecordId, Option<String>>,
    /// How often the join of a session was refused as another hub was quicker.
    tries: BTreeMap<SessionId, u32>,
    /// The link by which a whole list comes, and the records that were told since the first one.
    arriving: Option<(SessionId, BTreeSet<RecordId>)>,
    /// What others are to be told.
    pub(crate) telling: Telling,
    /// The last question of each hub that was decided: over a new link it asks again what was not answered.
    decided: BTreeMap<PublicKey, u64>,
    /// Where this hub writes the list down before it agrees, if that is not in its own files alone.
    store: Option<Store>,
    /// What a store has brought so far of the list that it has: it counts once that is whole.
    brought: Vec<Record>,
}

/// A store of the list beside the hub's own files, as the process sees it that writes there.
#[derive(Clone, Debug, Default)]
pub(crate) struct Store {
    /// Since when that process, which has brought this hub up to date, has asked for nothing; `None`: it has not, or is gone.
    heard_at: Option<Instant>,
    /// Why it takes no changes, as it says.
    problem: Option<String>,
    /// The last question that it was given.
    given: u64,
}

impl Store {
    /// One whose process has brought this hub up to date.
    pub(crate) fn attached(now: Instant) -> Store {
        Store { heard_at: Some(now), ..Store::default() }
    }

    /// Whether it takes changes.
    pub(crate) fn is_attached(&self) -> bool {
        self.heard_at.is_some()
    }

    /// Notes that its process asks for something.
    pub(crate) fn hear(&mut self, now: Instant) {
        self.heard_at = self.heard_at.map(|_| now);
    }

    /// Notes that it takes no changes any more, before it has brought this hub up to date again.
    pub(crate) fn lose(&mut self, problem: Option<&str>) {
        (self.heard_at, self.problem) = (None, problem.map(str::to_owned));
    }

    /// Why it takes none, as far as is known.
    pub(crate) fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// When its process is gone, if it asks for nothing before.
    pub(crate) fn silent_at(&self) -> Option<Instant> {
        Some(self.heard_at? + STORE_SILENT)
    }
}

impl Keeper {
    /// Of the hub with this key, as its file says. `unix_time`: tells its questions from those of earlier runs.
    pub(crate) fn new(
        own: PublicKey,
        LanFile { term, is_stored, .. }: &LanFile,
        unix_time: Duration,
    ) -> Keeper {
        let (term, is_stored) = (*term, *is_stored);
        Keeper {
            own,
            term,
            store: is_stored.then(Store::default),
            is_fresh: term.is_some_and(|term| term.number == 0),
            last_token: (unix_time.as_micros() as u64) << RUN,
            asked: VecDeque::new(),
            told: BTreeMap::new(),
            tries: BTreeMap::new(),
            arriving: None,
            telling: Telling::default(),
            decided: BTreeMap::new(),
            brought: Vec::new(),
        }
    }

    /// Who keeps the list, if it is shared.
    pub(crate) fn term(&self) -> Option<Term> {
        self.term
    }

    /// Whether this hub keeps the list.
    pub(crate) fn is_own(&self) -> bool {
        self.term.is_some_and(|term| term.keeper == self.own)
    }

    /// The key of another hub, if that keeps the list.
    pub(crate) fn other(&self) -> Option<PublicKey> {
        self.term.map(|term| term.keeper).filter(|keeper| *keeper != self.own)
    }

    /// Whether this hub has yet to be told the whole list.
    pub(crate) fn is_fresh(&self) -> bool {
        self.is_fresh
    }

    /// Sets that.
    pub(crate) fn set_fresh(&mut self, is_fresh: bool) {
        self.is_fresh = is_fresh;
    }

    /// Whether this hub has the list of which all others' are copies, or shares it with nobody.
    pub(crate) fn has_original(&self) -> bool {
        self.other().is_none() && !self.is_fresh
    }

    /// Whether this one is to be taken for the keeper, in place of the one that is known.
    pub(crate) fn is_newer(&self, term: Term) -> bool {
        let highest = self.term.map_or(0, |known| known.number).saturating_add(MOST_AHEAD);
        self.term.is_none_or(|known| known < term) && term.number <= highest
    }

    /// Whether this hub agrees to changes without asking anyone.
    pub(crate) fn decides_alone(&self) -> bool {
        self.has_original() && self.store.is_none()
    }

    /// The store, if this hub has one.
    pub(crate) fn store(&self) -> Option<&Store> {
        self.store.as_ref().filter(|_| self.is_own())
    }

    /// The same, to be changed.
    pub(crate) fn store_mut(&mut self) -> Option<&mut Store> {
        if self.is_own() { self.store.as_mut() } else { None }
    }

    /// Takes note of what a store brings of its list, the first records or others.
    ///
    /// # Errors
    /// Where that is more than a list has.
    pub(crate) fn bring(&mut self, records: Vec<Record>, is_first: bool) -> Result<(), String> {
        if is_first {
            self.brought.clear();
        }
        self.brought.extend(records);
        if self.brought.len() > MAX_TOLD {
            self.brought.clear();
            return Err(format!("a list has {MAX_TOLD} records at most"));
        }
        Ok(())
    }

    /// How many records it has brought.
    pub(crate) fn brought(&self) -> usize {
        self.brought.len()
    }

    /// All that it has brought.
    pub(crate) fn take_brought(&mut self) -> Vec<Record> {
        std::mem::take(&mut self.brought)
    }

    /// The questions that the store was not given yet, at most so many.
    pub(crate) fn questions_for_store(&mut self, most: usize) -> Vec<(u64, Vec<Edit>)> {
        let Some(store) = self.store.as_mut().filter(|store| store.is_attached()) else { return Vec::new() };
        let new = self.asked.iter().filter(|asked| asked.token > store.given).take(most);
        let questions: Vec<(u64, Vec<Edit>)> = new.map(|asked| (asked.token, asked.edits.clone())).collect();
        store.given = questions.last().map_or(store.given, |(token, _)| *token);
        questions
    }

    /// Whether there are some.
    pub(crate) fn has_questions_for_store(&self) -> bool {
        let given = self.store().filter(|store| store.is_attached()).map(|store| store.given);
        given.is_some_and(|given| self.asked.back().is_some_and(|asked| asked.token > given))
    }

    /// Takes this one for the keeper, which writes to a store where it is this hub. What waits for another one is given
    /// back.
    pub(crate) fn set_term(&mut self, term: Term, store: Option<Store>) -> Vec<Asked> {
        self.store = store;
        self.term = Some(term);
        self.arriving = None;
        self.told.clear();
        self.telling = Telling::default();
        self.decided.clear();
        self.asked.drain(..).collect()
    }

    // ---- a copy

    /// Notes a change to ask the keeper for; the frame that asks. Where too many wait, it is given back.
    pub(crate) fn ask(
        &mut self,
        edits: Vec<Edit>,
        then: Then,
        now: Instant,
    ) -> Result<ControlFrame, Box<Asked>> {
        self.last_token += 1;
        let asked = Asked { token: self.last_token, edits, then: vec![then], since: now };
        let bytes: usize = self.asked.iter().chain([&asked]).map(|asked| size_of_edits(&asked.edits)).sum();
        if self.asked.len() >= MAX_ASKED || bytes > MAX_ASKED_BYTES {
            return Err(Box::new(asked));
        }
        let frame = asked.frame();
        self.asked.push_back(asked);
        Ok(frame)
    }

    /// How many changes wait for the keeper.
    pub(crate) fn waiting(&self) -> usize {
        self.asked.len()
    }

    /// What has to be asked anew, as the link to the keeper is another one.
    pub(crate) fn questions(&self) -> impl Iterator<Item = ControlFrame> {
        self.asked.iter().map(Asked::frame)
    }

    /// Has something wait for the last change that concerns a record, if there is one; it is given back where there is none.
    pub(crate) fn wait_for(&mut self, id: RecordId, then: Then) -> Option<Then> {
        match self.asked.iter_mut().rev().find(|asked| asked.concerns(&id)) {
            Some(asked) => {
                asked.then.push(then);
                None
            }
            None => Some(then),
        }
    }

    /// Whether a change of this record waits: what the keeper tells of it meanwhile is not the last word.
    pub(crate) fn is_asked(&self, id: &RecordId) -> bool {
        self.asked.iter().any(|asked| asked.concerns(id))
    }

    /// The change that is answered, and what its records are now. `refused`: the keeper has refused it, and these are the
    /// records as they are there.
    pub(crate) fn answered(
        &mut self,
        token: u64,
        refused: Option<Vec<Record>>,
    ) -> Option<(Asked, Vec<Record>)> {
        let at = self.asked.iter().position(|asked| asked.token == token)?;
        let asked = self.asked.remove(at)?;
        let mut now = Vec::new();
        for Edit { record: Record { id, text }, before } in &asked.edits {
            let text = match &refused {
                None => text.clone(),
                Some(records) => match records.iter().find(|record| record.id == *id) {
                    Some(record) => record.text.clone(),
                    None => self.told.get(id).unwrap_or(before).clone(),
                },
            };
            // While another change of it waits, that is not the last word.
            if self.is_asked(id) {
                self.told.insert(*id, text);
            } else {
                self.told.remove(id);
                now.push(Record { id: *id, text });
            }
        }
        Some((asked, now))
    }

    /// Counts that the join of a session was refused; whether it may be decided anew.
    pub(crate) fn try_again(&mut self, session: SessionId) -> bool {
        let tries = self.tries.entry(session).or_default();
        *tries += 1;
        *tries < MOST_TRIES
    }

    /// When changes that wait are given up.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.asked.front().map(|asked| asked.since + KEEPER_TIME)
    }

    /// When the process of the store is gone, if it asks for nothing before.
    pub(crate) fn store_deadline(&self) -> Option<Instant> {
        self.store()?.silent_at()
    }

    /// The changes that have waited for too long, and all behind them, and what their records are without them.
    pub(crate) fn take_overdue(&mut self, now: Instant) -> (Vec<Asked>, Vec<Record>) {
        if self.deadline().is_none_or(|at| now < at) {
            return (Vec::new(), Vec::new());
        }
        self.take_asked()
    }

    /// All changes that wait, and what their records are without them.
    pub(crate) fn take_asked(&mut self) -> (Vec<Asked>, Vec<Record>) {
        let mut before = BTreeMap::new();
        for edit in self.asked.iter().flat_map(|asked| &asked.edits) {
            before.entry(edit.record.id).or_insert_with(|| edit.before.clone());
        }
        // What the keeper has told since goes before what they were.
        before.append(&mut self.told);
        let records = before.into_iter().map(|(id, text)| Record { id, text }).collect();
        (self.asked.drain(..).collect(), records)
    }

    /// The members of which a change waits, and their lines without it.
    pub(crate) fn unagreed(&self) -> Unagreed {
        let mut unagreed = Unagreed::new();
        for Edit { record, before } in self.asked.iter().flat_map(|asked| &asked.edits) {
            if let RecordId::Member(key) = record.id {
                let line = || self.told.get(&record.id).unwrap_or(before).clone();
                unagreed.entry(key).or_insert_with(line);
            }
        }
        unagreed
    }

    /// Takes note that a link tells these records, the first of all or others. Returns those that count now.
    pub(crate) fn arrived(
        &mut self,
        (link, is_keeper): (SessionId, bool),
        records: Vec<Record>,
        is_first: bool,
    ) -> Vec<Record> {
        // Of several that tell the whole list to one that has none yet, the keeper counts, else the first one.
        if is_first && (is_keeper || self.arriving.as_ref().is_none_or(|(from, _)| *from == link)) {
            self.arriving = Some((link, BTreeSet::new()));
        }
        match self.arriving.as_mut().filter(|(from, _)| *from == link) {
            Some((_, arriving)) => {
                for Record { id, text } in &records {
                    match text {
                        Some(_) => arriving.insert(*id),
                        None => arriving.remove(id),
                    };
                }
            }
            None if is_keeper => {}
            None => return Vec::new(),
        }
        if self.arriving.as_ref().is_some_and(|(_, arriving)| arriving.len() > MAX_TOLD) {
            self.arriving = None;
        }
        let asked = self.asked_ids();
        let (waiting, now): (Vec<Record>, Vec<Record>) =
            records.into_iter().partition(|record| asked.contains(&record.id));
        self.told.extend(waiting.into_iter().map(|record| (record.id, record.text)));
        now
    }

    /// Notes that a link has ended, by which the whole list may have come; whether it comes by no other now.
    pub(crate) fn stop_arriving(&mut self, link: SessionId) -> bool {
        self.arriving.take_if(|(from, _)| *from == link);
        self.arriving.is_none()
    }

    fn asked_ids(&self) -> BTreeSet<RecordId> {
        self.asked.iter().flat_map(|asked| asked.edits.iter().map(|edit| edit.record.id)).collect()
    }

    /// All records are told by this link: which these are, and those of which a change waits. `None` where the first ones
    /// were not told.
    pub(crate) fn complete(&mut self, link: SessionId) -> Option<BTreeSet<RecordId>> {
        let (_, mut arrived) = self.arriving.take_if(|(from, _)| *from == link)?;
        self.is_fresh = false;
        for id in self.asked_ids() {
            if arrived.insert(id) {
                self.told.insert(id, None);
            }
        }
        Some(arrived)
    }

    // ---- the keeper

    /// Notes that a question of a hub is decided; whether it was before.
    pub(crate) fn decide(&mut self, hub: PublicKey, token: u64) -> bool {
        let last = self.decided.entry(hub).or_default();
        let was_decided = token >> RUN == *last >> RUN && token <= *last;
        if !was_decided {
            *last = token;
        }
        was_decided
    }

    /// Forgets a session that has ended: nobody is let in by it any more, and nothing is told.
    pub(crate) fn forget_session(&mut self, session: SessionId) {
        for asked in &mut self.asked {
            asked.then.retain(|then| match then {
                Then::Welcome(of, _) | Then::Decide(of, ..) | Then::Link(of, ..) | Then::Reply(of, _) => {
                    *of != session
                }
                Then::Nothing | Then::Answer(..) => true,
            });
        }
        self.telling.forget_session(session);
        self.tries.remove(&session);
        self.stop_arriving(session);
    }
}

impl Asked {
    fn concerns(&self, id: &RecordId) -> bool {
        self.edits.iter().any(|edit| edit.record.id == *id)
    }

    fn frame(&self) -> ControlFrame {
        ControlFrame::Ask { token: self.token, edits: self.edits.clone() }
    }
}

/// The contents of `STATE/lan`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LanFile {
    /// Who keeps the list.
    pub term: Option<Term>,
    /// Whether this hub keeps it, in a store beside its own files.
    pub is_stored: bool,
    /// The LAN's prefixes, where the hub has joined it.
    pub subnets: Vec<IpNetwork>,
    /// Its largest packet, in bytes of IP.
    pub mtu: Option<u32>,
}

impl LanFile {
    /// Reads the text of `lan`.
    ///
    /// # Errors
    /// The line that makes no sense.
    pub fn parse(text: &str) -> Result<LanFile, BadLine> {
        let (mut file, mut keeper, mut number) = (LanFile::default(), None, None);
        for (index, line) in text.lines().enumerate() {
            let bad = |why: &str| BadLine { line: index + 1, why: why.to_owned() };
            let mut words = line.split_whitespace();
            let (word, value) = match (words.next(), words.next(), words.next()) {
                (None, ..) => continue,
                (Some(word), ..) if word.starts_with('#') => continue,
                (Some(word), Some(value), None) => (word, value),
                _ => return Err(bad("it is no word with a value")),
            };
            match word {
                "keeper" => keeper = Some(value.parse().map_err(|_| bad("the keeper is no key"))?),
                "store" => file.is_stored = value == "yes",
                "term" => number = Some(value.parse().map_err(|_| bad("the term is no number"))?),
                "subnet" => file.subnets.push(value.parse().map_err(|_| bad("the subnet is no prefix"))?),
                "mtu" => file.mtu = Some(value.parse().map_err(|_| bad("the MTU is no number"))?),
                _ => return Err(bad("it begins with none of keeper, term, store, subnet and mtu")),
            }
        }
        file.term = number.zip(keeper).map(|(number, keeper)| Term { number, keeper });
        Ok(file)
    }

    /// The text of `lan`.
    pub fn to_text(&self) -> String {
        let mut text = String::from("# Who keeps the list of members that the hubs of this LAN share.\n");
        if let Some(Term { number, keeper }) = self.term {
            text.push_str(&format!("keeper {keeper}\nterm {number}\n"));
            text.push_str(if self.is_stored { "store yes\n" } else { "" });
        }
        self.subnets.iter().for_each(|subnet| text.push_str(&format!("subnet {subnet}\n")));
        self.mtu.iter().for_each(|mtu| text.push_str(&format!("mtu {mtu}\n")));
        text
    }
}

#[cfg(test)]
mod tests {
    use common::wire::key::PrivateKey;

    use super::*;

    fn key(seed: u8) -> PublicKey {
        PrivateKey::from_random([seed; 32]).public()
    }

    #[test]
    fn the_file_survives_being_written() {
        for term in [None, Some(Term { number: 7, keeper: key(1) })] {
            for subnets in [vec![], vec!["10.0.0.0/16".parse().unwrap(), "fd00::/64".parse().unwrap()]] {
                let is_stored = term.is_some();
                let file = LanFile { term, is_stored, mtu: (!subnets.is_empty()).then_some(1_400), subnets };
                assert_eq!(LanFile::parse(&file.to_text()), Ok(file));
            }
        }
        for (text, line) in
            [("keeper me\n", 1), ("# x\nterm -1\n", 2), ("subnet x", 1), ("what 1", 1), ("mtu", 1)]
        {
            assert_eq!(LanFile::parse(text).unwrap_err().line, line, "{text}");
        }
        assert_eq!(LanFile::parse("term 3\n").unwrap().term, None, "half of it says nothing");
    }

    #[test]
    fn changes_are_given_up_together() {
        let file = LanFile { term: Some(Term { number: 1, keeper: key(2) }), ..LanFile::default() };
        let (mut keeper, now) = (Keeper::new(key(1), &file, Duration::ZERO), Instant::now());
        let id = RecordId::Member(key(3));
        let edit =
            |text: &str| vec![Edit { record: Record { id, text: Some(text.to_owned()) }, before: None }];
        assert!(keeper.ask(edit("one"), Then::Nothing, now).is_ok());
        assert!(keeper.ask(edit("two"), Then::Nothing, now + KEEPER_TIME / 2).is_ok());
        assert!(keeper.is_asked(&id) && keeper.wait_for(id, Then::Nothing).is_none());
        assert!(keeper.wait_for(RecordId::Access, Then::Nothing).is_some(), "nothing concerns it");
        assert!(keeper.take_overdue(now + KEEPER_TIME / 2).0.is_empty());
        let (asked, records) = keeper.take_overdue(now + KEEPER_TIME);
        assert_eq!(asked.iter().map(|asked| asked.token).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(records, [Record { id, text: None }]);
        assert!(!keeper.is_asked(&id) && keeper.deadline().is_none());
    }
}
