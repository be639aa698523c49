//! Changes by the administrator while the LAN runs, and the writing and reading of the files for them. Pure.

use std::time::Instant;

use common::wire::frame::Farewell;
use common::wire::name::Name;

use super::Core;
use super::keeper::kept_but;
use crate::effect::{Effect, Notice, Who};
use crate::ids::RequestId;
use crate::lan::invites::Invite;
use crate::lan::keeper::Then;
use crate::lan::members::{Access, Change, Difference, Outcome, Version};
use crate::lan::saving::{
    Answer, Awaited, Command, Done, Files, Job, NOBODY, ReadMembers, Running, Seen, Written,
};

impl Core {
    /// Starts a command of the administrator; its outcome is an [`Effect::Answer`].
    pub fn request(&mut self, request: RequestId, command: Command, now: Instant) {
        self.seal(now);
        if command.changes_list()
            && let Some(problem) = self.keeper_problem()
        {
            return self.answer(request, Err(problem));
        }
        match command {
            // Its link ends at once, whatever the disk is doing.
            Command::Revoke(who) => self.revoke(request, &who, now),
            Command::Allow(allow) => self.allow(request, allow, now),
            Command::Rename(who, name) => self.rename(request, &who, name, now),
            Command::Forget(who) => self.forget_member(request, &who, now),
            Command::Drain(is_draining) => self.drain(request, is_draining, now),
            Command::Reload => {
                // A person may have mended why nothing could be written.
                self.saving.retry_now();
                self.enqueue(request, Command::Reload, now);
            }
            Command::Keep => self.keep(request, now),
            Command::Invite(invite, place) => {
                if invite.is_hub
                    && let Err(text) = self.found(place, now)
                {
                    return self.answer(request, Err(text));
                }
                self.enqueue(request, Command::Invite(invite, None), now);
            }
            command @ (Command::Cancel(_)
            | Command::SetAccess(_)
            | Command::Renumber(_)
            | Command::WriteTerm
            | Command::WriteAccess) => self.enqueue(request, command, now),
        }
    }

    pub(super) fn enqueue(&mut self, request: RequestId, command: Command, now: Instant) {
        if !self.saving.enqueue(request, command) {
            self.answer(request, Err("too many requests wait for the disk: try again".to_owned()));
        }
        self.start_job(now);
    }

    /// Has something written for which nobody waits, as it is by then.
    pub(super) fn write_soon(&mut self, command: Command, now: Instant) {
        self.saving.enqueue_once(command);
        self.start_job(now);
    }

    pub(super) fn answer(&mut self, request: RequestId, answer: Result<Answer, String>) {
        self.effects.push_back(Effect::Answer(request, Box::new(answer)));
    }

    /// Whether frames that depend on this state of the list of members may be sent.
    pub(super) fn is_settled(&self, version: Version) -> bool {
        self.saving.is_settled(version)
    }

    // ---- jobs

    /// Begins the next job, unless one is being done.
    pub(super) fn start_job(&mut self, now: Instant) {
        while !self.saving.is_running() {
            let Some((request, command)) = self.saving.next_request() else {
                return self.start_writing(now);
            };
            let job = match command {
                Command::Invite(invite, _) => self.start_invite(request, invite),
                Command::Cancel(name) => self.start_cancel(request, name),
                Command::SetAccess(access) => {
                    self.saving.run(Running::Access(request, access));
                    Some(Job::SetLocked(access != Access::Open))
                }
                Command::Renumber(subnets) => self.start_renumber(request, subnets),
                // The list goes first, and the term waits until that is written.
                Command::WriteTerm if self.writes_first(request, Command::WriteTerm, now) => None,
                Command::WriteTerm => {
                    if self.admission.is_changed() {
                        let trouble = self.saving.postpone(Command::WriteTerm);
                        if request != NOBODY {
                            self.answer(request, Err(kept_but(&trouble)));
                        }
                        continue;
                    }
                    let term = self.keeper.term();
                    term.iter().for_each(|_| self.saving.run(Running::Term(request)));
                    term.map(|term| Job::WriteTerm(term, self.keeper.store().is_some()))
                }
                Command::WriteAccess => {
                    self.saving.run(Running::Told);
                    Some(Job::SetLocked(self.admission.access() != Access::Open))
                }
                // The same: else the files say less than other hubs were told, or than holds here.
                Command::Reload if self.writes_first(request, Command::Reload, now) => None,
                Command::Reload if self.saving.has_access_to_write() => {
                    self.read_later(request);
                    None
                }
                Command::Reload => {
                    self.saving.run(Running::Reload(request, self.seen()));
                    Some(Job::Read)
                }
                Command::Revoke(_)
                | Command::Allow(_)
                | Command::Rename(..)
                | Command::Forget(_)
                | Command::Keep
                | Command::Drain(_) => None,
            };
            self.effects.extend(job.map(|job| Effect::Save(Box::new(job))));
        }
    }

    /// What is to be written now: to what the keeper of the list has not agreed is not, as whoever reads it takes it for
    /// agreed.
    fn write_changes(&mut self, now: Instant) -> Option<Job> {
        self.admission.write_changes(&mut self.saving, &self.keeper.unagreed(), now)
    }

    /// Has what has changed written before a command, which is put off until then, if there is something to write.
    fn writes_first(&mut self, request: RequestId, command: Command, now: Instant) -> bool {
        self.saving.rewrite_now();
        let Some(job) = self.write_changes(now) else { return false };
        self.saving.put_back(request, command);
        self.effects.push_back(Effect::Save(Box::new(job)));
        true
    }

    fn start_writing(&mut self, now: Instant) {
        self.seal(now);
        if self.saving.is_running() {
            return;
        }
        if let Some(job) = self.write_changes(now) {
            self.effects.push_back(Effect::Save(Box::new(job)));
        } else if self.saving.enqueue_failed(now) {
            self.start_job(now);
        } else if !self.admission.is_changed() && self.saving.is_due(now) {
            // There is nothing left to write, so the earlier failure is over.
            self.end_trouble();
        }
    }

    fn start_invite(&mut self, request: RequestId, mut invite: Invite) -> Option<Job> {
        self.admission.moves().translate_all(&mut invite.addresses);
        match self.admission.with_invite(&invite) {
            Ok(invites) => {
                let text = invites.to_text();
                self.saving.run(Running::Invite(request, invite, text.clone()));
                Some(Job::Write { invites: Some(text), members: None, taken: self.saving.taken() })
            }
            Err(text) => {
                self.answer(request, Err(text));
                None
            }
        }
    }

    fn start_cancel(&mut self, request: RequestId, name: Name) -> Option<Job> {
        let mut invites = self.admission.invites().clone();
        if !invites.cancel(&name) {
            self.answer(request, Err(format!("there is no invite for {name}: `hub invites` lists them")));
            return None;
        }
        let text = invites.to_text();
        self.saving.run(Running::Cancel(request, name, text.clone()));
        Some(Job::Write { invites: Some(text), members: None, taken: self.saving.taken() })
    }

    /// Takes the outcome of the job of [`Effect::Save`].
    pub fn handle_done(&mut self, done: Done, now: Instant) {
        self.seal(now);
        match (self.saving.take_running(), done) {
            (Some(Running::Changes { members, invites }), Done::Written { invites: one, members: other }) => {
                self.handle_written((members, other), (invites, one), now);
            }
            (Some(Running::Invite(request, invite, text)), Done::Written { invites: Some(written), .. }) => {
                let added = match written {
                    Ok(()) => self.admission.add_invite(invite.clone(), &text),
                    Err(error) => Err(format!("{error}; nobody is invited")),
                };
                match added {
                    Ok(()) => {
                        self.note(Notice::Invited(invite.name));
                        self.answer_agreed(request, Answer::Invited, now);
                    }
                    Err(text) => self.answer(request, Err(text)),
                }
            }
            (Some(Running::Cancel(request, name, text)), Done::Written { invites: Some(written), .. }) => {
                match written {
                    Ok(()) => {
                        self.admission.cancel_invite(&name, &text);
                        self.answer_agreed(request, Answer::Cancelled(name), now);
                    }
                    Err(error) => self.answer(request, Err(format!("{error}; nothing is changed"))),
                }
            }
            (Some(Running::Access(request, access)), Done::SetLocked(written)) => match written {
                Ok(()) => {
                    let before = self.admission.access();
                    if access != before {
                        self.set_access(access);
                    }
                    let then = Then::Answer(request, Box::new(Answer::Access(access)));
                    if let Some(then) = self.once_access_agreed(before, then, now) {
                        self.conclude(then, now);
                    }
                    self.reopen_pending(now);
                }
                Err(error) => self.answer(request, Err(format!("{error}; nothing is changed"))),
            },
            (Some(Running::Told), Done::SetLocked(Err(error))) => {
                self.note_failed(Command::WriteAccess, error, now);
            }
            (Some(Running::Told), Done::SetLocked(Ok(()))) => {}
            (Some(Running::Term(request)), Done::TermWritten(written)) => {
                if let Err(error) = &written {
                    self.note_failed(Command::WriteTerm, error.clone(), now);
                }
                if request != NOBODY {
                    let kept =
                        written.map_err(|why| kept_but(&why)).and_then(|()| match self.keeper.is_own() {
                            true => Ok(Answer::Kept),
                            false => Err("another hub has begun to keep the list of members".to_owned()),
                        });
                    self.answer(request, kept);
                }
            }
            (Some(Running::Move(request, steps, moves, to)), Done::Moved(written)) => {
                let answer = written.map(|()| Answer::Renumbered(self.renumber(steps, moves, to)));
                self.answer(request, answer.map_err(|error| format!("{error}; nothing is changed")));
            }
            // The files may say less than what other hubs were told meanwhile, or a person.
            (Some(Running::Reload(request, seen)), Done::Read(Ok(_))) if seen != self.seen() => {
                self.read_later(request);
            }
            (Some(Running::Reload(request, _)), Done::Read(read)) => {
                self.saving.end_reading();
                let reloaded = read.and_then(|files| self.take_files(files, now));
                let answer = reloaded.map_err(|error| format!("{error}; nothing is changed"));
                self.answer(request, answer.map(|(changes, others)| Answer::Reloaded(changes, others)));
            }
            _ => debug_assert!(false, "a job that nobody gave"),
        }
        self.start_job(now);
        self.switch.release(|version| self.saving.is_settled(version));
    }

    fn handle_written(
        &mut self,
        (version, members): (Version, Option<Written>),
        (invites_version, invites): (Version, Option<Result<(), String>>),
        now: Instant,
    ) {
        let invites = match invites {
            Some(Ok(())) | None => {
                self.admission.invites_mut().set_saved(invites_version);
                Ok(())
            }
            Some(Err(error)) => Err(format!(
                "{error}; until then invites that are used may be good again when the hub starts anew"
            )),
        };
        let members = match members {
            Some(Written::Saved) | None => {
                self.admission.members_mut().set_saved(version);
                Ok(())
            }
            Some(Written::Edited(edited)) => {
                match self.check_edited_members(&edited.members) {
                    Ok(()) => {
                        self.note(Notice::Edited);
                        self.take_members(*edited, now);
                    }
                    Err(text) => {
                        self.note(Notice::NotSaved(format!("{text}; what was edited is put back")));
                        self.saving.take(edited.fingerprint);
                        self.admission.members_mut().set_damaged();
                    }
                }
                // What was to be written goes into the next job, with what was edited.
                return;
            }
            Some(Written::Missing) => return self.admission.members_mut().set_damaged(),
            Some(Written::Failed(error)) => {
                self.admission.members_mut().set_damaged();
                Err(format!(
                    "{error}; until then what changes in the list of members is lost when the hub ends"
                ))
            }
        };
        let trouble: Vec<String> = [invites, members].into_iter().filter_map(Result::err).collect();
        if trouble.is_empty() {
            self.saving.settle(version);
            self.end_trouble();
        } else if let Some(trouble) = self.saving.fail(version, trouble.join("; and "), now) {
            self.note(Notice::NotSaved(trouble));
        }
        self.answer_awaited();
    }

    fn note_failed(&mut self, command: Command, error: String, now: Instant) {
        if let Some(trouble) = self.saving.fail_command(command, error, now) {
            self.note(Notice::NotSaved(trouble));
        }
    }

    fn end_trouble(&mut self) {
        if self.saving.end_trouble() {
            self.note(Notice::SavedAgain);
        }
    }

    // ---- who is a member

    fn revoke(&mut self, request: RequestId, who: &str, now: Instant) {
        let id = match self.admission.find(who) {
            Ok(id) => id,
            Err(text) => return self.answer(request, Err(text)),
        };
        if self.members().member(id).key == self.key.public() {
            let text = "that is this hub: to end it for good, `hub revoke` at another one";
            return self.answer(request, Err(text.to_owned()));
        }
        let change = self.admission.revoke(id);
        self.carry_out(std::slice::from_ref(&change), now);
        let done = format!("{} is revoked and off the LAN", change.member.name);
        self.await_writing(request, Answer::Revoked(change), done, now);
    }

    /// Answers once the change is written. It holds whether or not that succeeds; the answer reports the write.
    pub(super) fn await_writing(&mut self, request: RequestId, answer: Answer, done: String, now: Instant) {
        if !self.keeper.decides_alone() && !matches!(answer, Answer::Revoked(_)) {
            return self.answer_agreed(request, answer, now);
        }
        let version = self.admission.members().version();
        self.saving.await_writing(Awaited { request, version, answer, done });
        self.saving.retry_now();
        self.start_job(now);
    }

    /// Answers once the keeper of the list agrees to the change.
    fn answer_agreed(&mut self, request: RequestId, answer: Answer, now: Instant) {
        if let Some(then) = self.once_agreed(Then::Answer(request, Box::new(answer)), now) {
            self.conclude(then, now);
        }
    }

    fn answer_awaited(&mut self) {
        let is_saved = !self.admission.members().is_changed();
        while let Some((request, answer)) = self.saving.next_answer(is_saved) {
            self.answer(request, answer);
        }
    }

    fn seen(&self) -> Seen {
        (self.members().version(), self.invites().version(), self.admission.access())
    }

    fn read_later(&mut self, request: RequestId) {
        if !self.saving.read_later(request) {
            let text = "the list of members changes all the time: try again; nothing is changed";
            self.answer(request, Err(text.to_owned()));
        }
    }

    /// Takes over the files as they were read. An error leaves everything as it was.
    fn take_files(&mut self, files: Files, now: Instant) -> Result<(Vec<Change>, Vec<Difference>), String> {
        self.check_edits(&files)?;
        let others = files.members.as_ref().map(|read| self.members().differences(&read.members));
        let others = others.unwrap_or_default();
        let changes = match files.members {
            Ok(members) => self.take_members(*members, now),
            Err(missing) if !self.admission.members().is_empty() => return Err(missing),
            Err(_) => Vec::new(),
        };
        // What could not be written is newer than the files.
        if self.admission.has_other_invites(&files.invites) {
            self.admission.replace_invites(files.invites);
            self.share_edited(now);
        }
        let access = if files.locked { Access::Locked } else { Access::Open };
        if access != self.admission.access() && !self.saving.has_failed(&Command::WriteAccess) {
            self.set_access(access);
            self.share_edited(now);
        }
        self.set_rules(files.rules);
        // The administrator may have fixed the cause of a failed write.
        self.saving.retry_now();
        self.reopen_pending(now);
        self.note(Notice::Reloaded(self.members().spokes(), changes.len() + others.len()));
        Ok((changes, others))
    }

    fn take_members(&mut self, read: ReadMembers, now: Instant) -> Vec<Change> {
        self.saving.take(read.fingerprint);
        let is_other = self.members().to_text() != read.members.to_text();
        let changes = self.admission.replace_members(read.members);
        if is_other {
            self.share_edited(now);
        }
        self.carry_out(&changes, now);
        self.reopen_pending(now);
        changes
    }

    pub(super) fn carry_out(&mut self, changes: &[Change], now: Instant) {
        // All links end before anything else happens: then no session is left whose member is gone.
        for Change { id, member, outcome } in changes {
            let farewell = match outcome {
                Outcome::Revoked => Farewell::Revoked,
                // The key may be let in again: an open hub does that, and a mistake in the file can be mended.
                Outcome::Removed | Outcome::Changed => Farewell::Changed,
                Outcome::Tagged => continue,
            };
            // The link of one that is still in the list tells its own end.
            if outcome.is_gone() {
                let who = Who { id: *id, name: member.name.clone(), addresses: member.addresses_text() };
                self.note(Notice::NoMember(who, *outcome));
            }
            if let Some(session) = member.session {
                self.switch.dismiss(session, farewell, (*outcome).into());
            }
        }
        for Change { id, member, .. } in changes.iter().filter(|change| change.outcome.is_gone()) {
            // Another hub may have told of it, and it may be let in again.
            self.peers.note_stranger(member.key);
            self.withdraw_routes(*id);
        }
        let revoked = changes.iter().filter(|change| change.outcome == Outcome::Revoked);
        self.tell_revoked(revoked.map(|change| change.member.key).collect());
        if !changes.is_empty() {
            self.reopen_disputes(now);
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "virtual time has to start somewhere")]

    use std::time::Duration;

    use common::wire::invite::Secret;
    use common::wire::key::PrivateKey;

    use super::*;
    use crate::lan::Lan;
    use crate::lan::invites::Invites;
    use crate::lan::keeper::LanFile;
    use crate::lan::members::{Members, Patch};
    use crate::lan::moves::Moves;
    use crate::lan::saving::{Allow, Fingerprint};
    use crate::lan::subnets::Subnets;

    fn subnets() -> Subnets {
        Subnets::new(&["10.0.0.0/24".parse().unwrap()]).unwrap()
    }

    fn core() -> Core {
        let lan = Lan {
            hub_name: "hub".parse().unwrap(),
            subnets: subnets(),
            mtu: 1_400,
            routes: vec![],
            hub_networks: vec![],
        };
        let files = crate::core::Files {
            members: Members::parse("", subnets()).unwrap(),
            fingerprint: Fingerprint::of(""),
            invites: Invites::default(),
            access: Access::Locked,
            rules: None,
            moves: Moves::default(),
            lan: LanFile::default(),
        };
        Core::new(PrivateKey::from_random([1; 32]), lan, files, 1, Duration::ZERO)
    }

    fn read(text: &str) -> Done {
        let members = Members::parse(text, subnets()).unwrap();
        let members = Box::new(ReadMembers { members, fingerprint: Fingerprint::of(text) });
        Done::Read(Ok(Files { members: Ok(members), invites: Invites::default(), locked: true, rules: None }))
    }

    fn allow(name: &str, seed: u8) -> Command {
        let who = PrivateKey::from_random([seed; 32]).public().to_string();
        let (name, in_place_of) = (name.parse().ok(), None);
        let (addresses, routes, tags) = (vec![], vec![], vec![]);
        Command::Allow(Allow { who, in_place_of, name, addresses, routes, tags })
    }

    /// The next job, and whether the first request is answered, and how.
    fn next(core: &mut Core) -> (Option<Job>, Option<Result<(), String>>) {
        let (mut job, mut answer) = (None, None);
        while let Some(effect) = core.poll_effect() {
            if let Effect::Save(next) = effect {
                job = Some(*next);
            } else if let Effect::Answer(RequestId(1), is) = effect {
                answer = Some((*is).map(drop));
            }
        }
        (job, answer)
    }

    #[test]
    fn files_are_read_again_where_the_list_changes_meanwhile() {
        let (mut core, now) = (core(), Instant::now());
        core.request(RequestId(1), Command::Reload, now);
        assert_eq!(next(&mut core), (Some(Job::Read), None));
        core.request(RequestId(2), allow("a", 2), now);
        core.request(RequestId(3), Command::Rename("a".to_owned(), "b".parse().unwrap()), now);
        core.handle_done(read(""), now);
        let (job, answer) = next(&mut core);
        let Some(Job::Write { members: Some(Patch::Replace(text)), .. }) = job else { panic!("{job:?}") };
        assert!(answer.is_none() && text.contains(" b "), "{text}");
        core.handle_done(Done::Written { invites: None, members: Some(Written::Saved) }, now);
        assert_eq!(next(&mut core), (Some(Job::Read), None));
        core.handle_done(read(&text), now);
        assert_eq!(next(&mut core), (None, Some(Ok(()))));
        assert!(core.members().by_name(&"b".parse().unwrap()).is_some());
    }

    /// Else it would be good once the hub is started anew, and the one that it was to replace would be void.
    #[test]
    fn an_invite_whose_address_is_given_away_while_it_is_written_is_taken_out_of_the_file_again() {
        let (mut core, now) = (core(), Instant::now());
        let invite = |seed, addresses| {
            let (hash, name) = (Secret([seed; 16]).hash(), "guest".parse().unwrap());
            let (uses, routes, tags, is_hub) = (None, vec![], vec![], false);
            Command::Invite(Invite { hash, name, uses, until: 100, addresses, routes, tags, is_hub }, None)
        };
        core.request(RequestId(1), invite(1, vec![]), now);
        let (job, _) = next(&mut core);
        let Some(Job::Write { invites: Some(before), .. }) = job else { panic!("{job:?}") };
        core.handle_done(Done::Written { invites: Some(Ok(())), members: None }, now);
        assert_eq!(next(&mut core), (None, Some(Ok(()))));
        let address = "10.0.0.10".parse().unwrap();
        core.request(RequestId(1), invite(2, vec![address]), now);
        assert!(next(&mut core).0.is_some());
        let Command::Allow(allow) = allow("a", 2) else { unreachable!() };
        core.request(RequestId(2), Command::Allow(Allow { addresses: vec![address], ..allow }), now);
        core.handle_done(Done::Written { invites: Some(Ok(())), members: None }, now);
        let (job, answer) = next(&mut core);
        assert_eq!(answer, Some(Err("10.0.0.10 is held by a".to_owned())));
        let Some(Job::Write { invites: Some(text), .. }) = job else { panic!("{job:?}") };
        assert_eq!(text, before);
    }

    #[test]
    fn who_has_files_read_hears_where_the_list_changes_all_the_time() {
        let (mut core, now) = (core(), Instant::now());
        core.request(RequestId(1), Command::Reload, now);
        let mut text = String::new();
        for round in 0..100 {
            assert_eq!(next(&mut core), (Some(Job::Read), None), "{round}");
            core.request(RequestId(2), allow(&format!("m{round}"), 100 + round), now);
            core.handle_done(read(&text), now);
            let (job, answer) = next(&mut core);
            if let Some(answer) = answer {
                assert!(answer.is_err_and(|text| text.ends_with("try again; nothing is changed")));
                assert_eq!(core.members().len(), usize::from(round) + 1);
                return;
            }
            let Some(Job::Write { members: Some(Patch::Replace(whole)), .. }) = job else {
                panic!("{job:?}")
            };
            text = whole;
            core.handle_done(Done::Written { invites: None, members: Some(Written::Saved) }, now);
        }
        panic!("it goes on for ever");
    }
}
