//! The list that hubs share: what this hub asks the keeper for, or agrees to as the keeper. Pure.
//!
//! A copy decides by its own list and asks the keeper to agree before anyone hears of it. Where another hub was quicker, it
//! takes over what the list says and decides anew; where the keeper does not answer, it takes back what it decided.

use std::time::Instant;

use common::wire::frame::{ControlFrame, Edit, Join, Record, RecordId, Refusal, Term};
use common::wire::key::PublicKey;
use common::wire::place::Place;

use super::Core;
use crate::effect::Notice;
use crate::ids::{RequestId, SessionId};
use crate::lan::keeper::{Asked, KEEPER_TIME, MOST_EDITS, Store, Then, parts};
use crate::lan::members::{Access, Outcome};
use crate::lan::saving::Command;
use crate::lan::shared::{Put, access_text};

/// What a person says goes before what is decided without one: while a hub is cut off from the store, others may keep the list
/// by the next numbers there.
const BEFORE_OTHERS: u64 = 1_000;

/// What came of a change that is taken back before anyone may have agreed to it.
pub(super) const UNCHANGED: &str = "nothing is changed";
/// The same where somebody was asked and has not answered.
pub(super) const UNKNOWN: &str = "it may still be done, `hub status` shows whether it is";

impl Core {
    /// Who keeps the list of members, if hubs share it.
    pub fn keeper(&self) -> Option<Term> {
        self.keeper.term()
    }

    /// Whether changes of the list can be agreed to: this hub has the original, and its store, if any, takes changes; or it is
    /// linked to the keeper.
    pub fn reaches_keeper(&self) -> bool {
        match self.keeper.store() {
            Some(store) => store.is_attached(),
            None => self.keeper.has_original() || self.keeper_link().is_some(),
        }
    }

    /// Whether this hub has yet to be told the list, and who may join.
    pub fn awaits_list(&self) -> bool {
        self.keeper.is_fresh()
    }

    /// How many changes wait until the keeper agrees to them.
    pub fn waiting_for_keeper(&self) -> usize {
        self.keeper.waiting()
    }

    fn keeper_link(&self) -> Option<SessionId> {
        self.peers.get(&self.keeper.other()?)?.link().map(|(link, _)| link)
    }

    /// Why a change of the list cannot be made now.
    pub fn keeper_problem(&self) -> Option<String> {
        if self.reaches_keeper() {
            return None;
        }
        let Some(keeper) = self.keeper.other() else {
            return Some(match self.keeper.store() {
                Some(store) => format!(
                    "the list of members is in a store, which takes no changes: {}; if the store is lost for good, `hub keep`",
                    store.problem().unwrap_or("`hub store` does not run here")
                ),
                None => "this hub keeps the list of members and has lost it: it waits until another hub tells it; if there \
                         is none, `hub keep` at one that has a list"
                    .to_owned(),
            });
        };
        Some(format!(
            "{} keeps the list of members and cannot be reached: wait until it is back, or, if it is lost for good, `hub \
             keep` here",
            self.hub_called(&keeper)
        ))
    }

    /// The name of a hub, or its key where the list does not have it.
    pub(super) fn hub_called(&self, key: &PublicKey) -> String {
        self.members().by_key(key).map_or_else(|| format!("the hub {key}"), |id| self.name(id).to_string())
    }

    // ---- who keeps the list

    /// Has this hub keep the list from now on, as a person says, or as its list is about to be shared.
    pub(super) fn keep(&mut self, request: RequestId, now: Instant) {
        if self.keeper.is_fresh() {
            let text = "this hub has yet to be told the list: `hub keep` at one that has it";
            return self.answer(request, Err(text.to_owned()));
        }
        if !(self.keeper.is_own() && self.keeper.store().is_none()) {
            self.keep_anew(now);
        }
        self.enqueue(request, Command::WriteTerm, now);
    }

    /// Has this hub keep the list in its own files, by a number to come: to a store it is a later list than the one there.
    pub(super) fn keep_anew(&mut self, now: Instant) {
        let number = self.keeper.term().map_or(0, |term| term.number).saturating_add(BEFORE_OTHERS);
        self.take_for_keeper(Term { number, keeper: self.key.public() }, None, now);
    }

    /// Takes this one for the keeper, and has that written.
    pub(super) fn take_for_keeper(&mut self, term: Term, store: Option<Store>, now: Instant) {
        let is_news = self.keeper.term() != Some(term);
        let asked = self.keeper.set_term(term, store);
        self.admission.share(true);
        if is_news {
            self.note(Notice::Keeper(self.hub_called(&term.keeper), term.number, self.keeper.is_own()));
        }
        if !self.keeper.is_fresh() {
            self.write_soon(Command::WriteTerm, now);
        }
        // It is the new keeper's to agree to that.
        for Asked { edits, then, .. } in asked {
            self.write_again(&edits);
            for then in then {
                self.agree(edits.clone(), then, now);
            }
        }
        let links: Vec<(SessionId, PublicKey)> = self.peers.links().collect();
        for (link, hub) in links {
            self.tell_term(link, hub);
        }
    }

    /// Whether this hub takes the list from any other: it has none yet, or one that does not have the keeper.
    pub(super) fn takes_any_list(&self) -> bool {
        let is_strange = |keeper: &PublicKey| {
            let known = self.members().by_key(keeper).map(|id| self.members().member(id));
            known.is_none_or(|member| member.hub.is_none()) && !self.members().is_revoked(keeper)
        };
        self.keeper.is_fresh() || self.keeper.other().as_ref().is_some_and(is_strange)
    }

    pub(super) fn tell_keeper(&mut self, link: SessionId, hub: PublicKey) {
        if let Some(term) = self.keeper.term() {
            let wants_all = term.keeper == hub || self.takes_any_list();
            self.switch.tell(link, &ControlFrame::Keeper { term, wants_all });
        }
    }

    /// Tells another hub who keeps the list; the keeper itself is asked for all of it, and what waits for it.
    pub(super) fn tell_term(&mut self, link: SessionId, hub: PublicKey) {
        self.tell_keeper(link, hub);
        if self.keeper.other() == Some(hub) {
            let questions: Vec<ControlFrame> = self.keeper.questions().collect();
            questions.iter().for_each(|question| self.switch.tell(link, question));
        }
    }

    /// Another hub tells who keeps the list, as far as it knows.
    pub(super) fn handle_keeper(&mut self, link: SessionId, term: Term, wants_all: bool, now: Instant) {
        if self.keeper.is_newer(term) {
            // Where this hub does not know that it keeps the list, its own one is from before.
            if term.keeper == self.key.public() {
                self.keeper.set_fresh(true);
            }
            self.take_for_keeper(term, None, now);
        }
        if wants_all && !self.keeper.is_fresh() && self.peers.of(link).is_some() {
            self.keeper.telling.tell_whole(link);
        }
    }

    // ---- what changes here

    /// Takes in what has changed in the list since this was last done, and for which nobody waits.
    pub(super) fn seal(&mut self, now: Instant) {
        for edits in parts(self.admission.take_edits()) {
            self.agree(edits, Then::Nothing, now);
        }
    }

    /// Has something done once the keeper agrees to what has changed; where this hub decides alone, it is for the caller to
    /// do.
    pub(super) fn once_agreed(&mut self, then: Then, now: Instant) -> Option<Then> {
        let edits = self.admission.take_edits();
        if self.keeper.decides_alone() || edits.is_empty() {
            self.note_records(edits);
            return Some(then);
        }
        // Of a change that is too large for one question, the last part is the one that is waited for.
        let mut parts = parts(edits);
        let last = parts.pop()?;
        parts.into_iter().for_each(|part| self.agree(part, Then::Nothing, now));
        self.agree(last, then, now);
        None
    }

    /// The same for a change of who may join.
    pub(super) fn once_access_agreed(&mut self, before: Access, then: Then, now: Instant) -> Option<Then> {
        if self.admission.access() == before || self.keeper.term().is_none() {
            return Some(then);
        }
        let record = self.admission.record(RecordId::Access);
        let edits = vec![Edit { record, before: Some(access_text(before)) }];
        if self.keeper.decides_alone() {
            self.note_records(edits);
            return Some(then);
        }
        self.agree(edits, then, now);
        None
    }

    fn agree(&mut self, edits: Vec<Edit>, then: Then, now: Instant) {
        if self.keeper.decides_alone() {
            self.note_records(edits);
            return self.conclude(then, now);
        }
        // Nobody answers.
        if let Some(problem) =
            self.keeper_problem().filter(|_| self.keeper.is_own() && self.keeper.is_fresh())
        {
            let before = edits.into_iter().map(before).collect();
            return self.take_back(before, vec![then], (&problem, UNCHANGED), now);
        }
        match self.keeper.ask(edits, then, now) {
            Ok(question) => {
                if let Some(link) = self.keeper_link() {
                    self.switch.tell(link, &question);
                }
            }
            Err(asked) => {
                let Asked { edits, then, .. } = *asked;
                let before = edits.into_iter().map(before).collect();
                self.take_back(before, then, ("too much waits for the keeper of the list", UNCHANGED), now);
            }
        }
    }

    /// Has the other hubs told of these changes, which this one, as the keeper, has agreed to.
    pub(super) fn note_records(&mut self, edits: Vec<Edit>) {
        if self.keeper.is_own() {
            let state = self.state_of_list();
            self.keeper.telling.note(state, edits.into_iter().map(|edit| edit.record));
        }
    }

    /// Does what was to be done once the keeper agrees.
    pub(super) fn conclude(&mut self, then: Then, now: Instant) {
        match then {
            Then::Nothing => {}
            Then::Welcome(session, welcomed) if self.switch.is_live(session) => {
                let Some(key) = self.remote(session) else { return };
                match self.members().by_key(&key) {
                    Some(id) if id == welcomed.id => self.welcome(session, *welcomed, now),
                    Some(_) | None => self.decide(session, key, Ok(welcomed.join), now),
                }
            }
            Then::Decide(session, key, join) if self.switch.is_live(session) => {
                self.decide(session, key, Ok(*join), now);
            }
            Then::Link(session, hub, join) if self.switch.is_live(session) => {
                self.handle_hub_join(session, hub, &join, now);
            }
            Then::Welcome(..) | Then::Decide(..) | Then::Link(..) => {}
            Then::Answer(request, answer) => self.answer(request, Ok(*answer)),
            Then::Reply(link, token) => {
                let answer = ControlFrame::Answer { token, refused: None, records: vec![] };
                let state = self.state_of_list();
                self.keeper.telling.note_frame(state, link, answer);
            }
        }
    }

    /// The key that the other end of a session has proved.
    fn remote(&self, session: SessionId) -> Option<PublicKey> {
        self.switch.link(session)?.tunnel.remote()
    }

    /// The keeper answers.
    pub(super) fn handle_answer(
        &mut self,
        link: SessionId,
        token: u64,
        refused: Option<String>,
        records: Vec<Record>,
        now: Instant,
    ) {
        if self.keeper.other() != self.peers.of(link) {
            return;
        }
        self.seal(now);
        let there = refused.is_some().then_some(records);
        let Some((Asked { edits, then, .. }, records)) = self.keeper.answered(token, there) else { return };
        self.write_again(&edits);
        match &refused {
            None => self.put(records, now),
            Some(_) => self.put_back(records, now),
        }
        for then in then {
            match &refused {
                None => self.conclude(then, now),
                Some(why) => self.conclude_refused(then, why, now),
            }
        }
        self.start_job(now);
    }

    /// Has these records written down, which were not while a change of them waited.
    pub(super) fn write_again(&mut self, edits: &[Edit]) {
        edits.iter().for_each(|edit| self.admission.write_again(edit.record.id, edit.before.is_none()));
    }

    /// Another hub was quicker: a join is decided anew by what the list says now.
    fn conclude_refused(&mut self, then: Then, why: &str, now: Instant) {
        match then {
            Then::Welcome(session, welcomed) if self.switch.is_live(session) => {
                match self.remote(session).filter(|_| self.keeper.try_again(session)) {
                    Some(key) => self.decide(session, key, Ok(welcomed.join), now),
                    None => self.refuse_for_now(session, why),
                }
            }
            Then::Link(session, ..) if !self.keeper.try_again(session) => self.refuse_for_now(session, why),
            Then::Answer(request, _) => self.answer(request, Err(format!("{why}: {UNCHANGED}"))),
            Then::Reply(link, token) => self.refuse_question(link, token, why, &[]),
            Then::Nothing | Then::Welcome(..) | Then::Decide(..) | Then::Link(..) => self.conclude(then, now),
        }
    }

    fn refuse_for_now(&mut self, session: SessionId, why: &str) {
        if self.switch.is_live(session) {
            let text = format!("{why}: known machines can join, new ones have to wait");
            self.switch.refuse(session, Refusal::Later, text);
        }
    }

    /// When changes that wait for the keeper are given up.
    pub(super) fn keeper_deadline(&self) -> Option<Instant> {
        self.keeper.deadline().into_iter().chain(self.keeper.store_deadline()).min()
    }

    /// Gives up changes to which the keeper does not agree in time.
    pub(super) fn handle_overdue(&mut self, now: Instant) {
        let (overdue, records) = self.keeper.take_overdue(now);
        if overdue.is_empty() {
            return;
        }
        let keeper = self.keeper.other().map(|keeper| self.hub_called(&keeper));
        let why = format!(
            "{} the list of members and has not answered within {} s",
            keeper.map_or_else(|| "a store keeps".to_owned(), |keeper| format!("{keeper} keeps")),
            KEEPER_TIME.as_secs()
        );
        let then = overdue.into_iter().flat_map(|asked| asked.then).collect();
        self.take_back(records, then, (&why, UNKNOWN), now);
        // It may be written down all the same.
        self.keeper.store_mut().into_iter().for_each(|store| store.lose(None));
    }

    /// Takes the process that writes to the store for gone, where it has asked for nothing in time.
    pub(super) fn handle_silent_store(&mut self, now: Instant) {
        if self.keeper.store_deadline().is_some_and(|at| at <= now) {
            self.lose_store("`hub store` does not run here", now);
        }
    }

    /// Makes the list what it is without changes that are taken back, and says why, and to a person what came of theirs. A
    /// membership that was revoked here stays so.
    pub(super) fn take_back(
        &mut self,
        records: Vec<Record>,
        waiting: Vec<Then>,
        (why, outcome): (&str, &str),
        now: Instant,
    ) {
        let ids: Vec<RecordId> = records.iter().map(|record| record.id).collect();
        self.put_back(records, now);
        for then in waiting {
            match then {
                Then::Welcome(session, _) | Then::Decide(session, ..) | Then::Link(session, ..) => {
                    self.refuse_for_now(session, why);
                }
                Then::Answer(request, _) => self.answer(request, Err(format!("{why}: {outcome}"))),
                Then::Reply(link, token) => self.refuse_question(link, token, why, &ids),
                Then::Nothing => {}
            }
        }
    }

    /// Makes these records what they were before changes that are taken back.
    pub(super) fn put_back(&mut self, records: Vec<Record>, now: Instant) {
        records.iter().for_each(|record| self.admission.write_again(record.id, false));
        let mut put = self.take_in(&records, now);
        // Who was not let in yet is not taken off either.
        put.changes.retain(|change| change.outcome != Outcome::Removed || change.member.is_online());
        self.take_put(put, now);
    }

    // ---- what others tell

    /// The keeper tells records, the first of all, the last of all, or others.
    pub(super) fn handle_records(
        &mut self,
        link: SessionId,
        records: Vec<Record>,
        (is_first, is_last): (bool, bool),
        now: Instant,
    ) {
        let Some(hub) = self.peers.of(link) else { return };
        let is_keeper = self.keeper.other() == Some(hub);
        if !is_keeper && !self.takes_any_list() {
            return;
        }
        self.seal(now);
        let records = self.keeper.arrived((link, is_keeper), records, is_first);
        self.put(records, now);
        if is_last {
            let was_fresh = self.keeper.is_fresh();
            self.end_records(link, now);
            if was_fresh && !self.keeper.is_fresh() {
                self.note_access();
                self.write_soon(Command::WriteTerm, now);
                if self.keeper.is_own() {
                    self.share_anew();
                }
            }
        }
    }

    /// Makes the list what the keeper says.
    pub(super) fn put(&mut self, records: Vec<Record>, now: Instant) {
        if !records.is_empty() {
            let put = self.take_in(&records, now);
            self.take_put(put, now);
        }
    }

    fn take_in(&mut self, records: &[Record], now: Instant) -> Put {
        self.seal(now);
        let put = self.admission.put(records);
        // This is no change to ask for.
        drop(self.admission.take_edits());
        put
    }

    fn take_put(&mut self, Put { changes, access, bad }: Put, now: Instant) {
        if let Some(access) = access {
            self.set_access(access);
            self.write_soon(Command::WriteAccess, now);
        }
        if let Some(why) = bad.first() {
            let others = bad.len() - 1;
            let others = if others > 0 { format!(" ({others} others)") } else { String::new() };
            self.note(Notice::BadRecord(format!("{why}{others}")));
        }
        self.carry_out(&changes, now);
        self.reopen_pending(now);
        self.start_job(now);
    }

    /// Another hub asks for a change.
    pub(super) fn handle_ask(&mut self, link: SessionId, token: u64, asked: &[Edit], now: Instant) {
        self.seal(now);
        let Some(hub) = self.peers.of(link) else { return };
        // Who asks gives up by itself; an answer would wait with what waits already, or for ever.
        if self.keeper.term().is_none() || self.keeper.telling.is_busy() {
            return;
        }
        let applied = match self.keeper.is_own() {
            true if self.keeper.is_fresh() => Err("the hub that keeps the list has lost it".to_owned()),
            true if self.keeper.decide(hub, token) && !self.admission.has(asked) => {
                Err("this was asked before, and is another matter now".to_owned())
            }
            true if asked.len() > MOST_EDITS => Err(format!("a change has {MOST_EDITS} records at most")),
            true => self.apply(asked, Some(link)),
            false => Err("this hub does not keep the list of members".to_owned()),
        };
        match applied {
            Ok((edits, put)) => {
                self.agree(edits, Then::Reply(link, token), now);
                // Behind the answer: it may change more, as those who are let in by it.
                self.take_put(put, now);
            }
            Err(why) => {
                let ids = asked.iter().map(|edit| edit.record.id).collect::<Vec<_>>();
                // As they are in the original: a copy, or a keeper that has lost its list, has nothing to say of them.
                let ids = if self.keeper.has_original() { ids } else { Vec::new() };
                self.refuse_question(link, token, &why, &ids);
            }
        }
    }

    /// Makes these changes, if that can be: what is another record then.
    fn apply(&mut self, asked: &[Edit], by: Option<SessionId>) -> Result<(Vec<Edit>, Put), String> {
        let put = self.admission.apply(asked, by)?;
        let mut edits = self.admission.take_edits();
        if put.access.is_some() {
            let before = self.admission.record(RecordId::Access).text;
            let asked = asked.iter().find(|edit| edit.record.id == RecordId::Access);
            edits.extend(asked.map(|edit| Edit { before, ..edit.clone() }));
        }
        Ok((edits, put))
    }

    /// Has a change that was asked for decided by the list as it is now, which does not have it.
    pub(super) fn ask_anew(&mut self, Asked { edits: asked, mut then, .. }: Asked, now: Instant) {
        // Whoever waited may be gone.
        if then.is_empty() {
            then.push(Then::Nothing);
        }
        match self.apply(&asked, None) {
            Ok((edits, put)) => {
                then.into_iter().for_each(|then| self.agree(edits.clone(), then, now));
                self.take_put(put, now);
            }
            Err(why) => then.into_iter().for_each(|then| self.conclude_refused(then, &why, now)),
        }
    }

    /// Has this hub in the list that is about to be shared, as one that is reached there.
    pub(super) fn found(&mut self, place: Option<Place>, now: Instant) -> Result<(), String> {
        let wanted = self.hubs.wanted_place.take().map(|wanted| wanted.place);
        self.admission.list_hub(self.key.public(), &self.lan.hub_name, place.or(wanted))?;
        if self.keeper.term().is_none() {
            self.take_for_keeper(Term { number: 1, keeper: self.key.public() }, None, now);
        }
        Ok(())
    }

    /// Takes a hub in that was never here and shows an invite, and has the keeper agree; whether there is such an invite.
    pub(super) fn admit_hub(
        &mut self,
        session: SessionId,
        hub: PublicKey,
        join: &Join,
        now: Instant,
    ) -> bool {
        self.seal(now);
        match self.admission.admit_hub(hub, join) {
            Ok(false) => false,
            Ok(true) => {
                self.refresh_hubs(now);
                let then = Then::Link(session, hub, Box::new(join.clone()));
                if let Some(then) = self.once_agreed(then, now) {
                    self.conclude(then, now);
                }
                true
            }
            Err(text) => {
                self.switch.refuse(session, Refusal::BadInvite, text);
                true
            }
        }
    }
}

/// The answer to a person who has this hub keep the list, which it does, while that cannot be written.
pub(super) fn kept_but(why: &str) -> String {
    format!("this hub keeps the list of members from now on, but {why}")
}

/// The record as it was before a change.
fn before(edit: Edit) -> Record {
    Record { id: edit.record.id, text: edit.before }
}
