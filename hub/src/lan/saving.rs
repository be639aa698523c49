//! Schedules the writing of the files: one job at a time. Pure.
//!
//! The shell does a job in another thread, as the disk can be slow. Changes during a job go into the next one. A welcome
//! is held until the state of the list that it depends on was written, or the write has failed.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use common::packet::prefix::overlap;
use common::wire::frame::Term;
use common::wire::key::PublicKey;
use common::wire::name::Name;
use common::wire::place::Place;
use ipnetwork::IpNetwork;

use crate::ids::RequestId;
use crate::lan::hubs;
use crate::lan::invites::{Invite, Invites};
use crate::lan::members::{
    Access, Change, Difference, Members, Patch, Unagreed, Version, without_incomplete,
};
use crate::lan::moves::{Moves, Step};
use crate::lan::rules::{Rules, Tag};
use crate::lan::subnets::Subnets;

/// How long to wait before the files are written again after that failed.
pub const SAVE_PAUSE: Duration = Duration::from_secs(10);
/// A long text is written as a whole at most so often: what changes meanwhile goes into the next one.
const REWRITE_EVERY: Duration = Duration::from_millis(100);
/// How long lines of a long text may have others in their place further below, before it is written as a whole: a person
/// who opens the file mostly sees each member once.
const FOLD_AFTER: Duration = Duration::from_secs(60);
/// Most routes that the answer to a renumbering names.
const MAX_HIDDEN: usize = 10;
/// How often the files are read for one request, where the list changes meanwhile.
const MOST_READS: u32 = 10;
/// Most requests that wait for the files.
const MAX_REQUESTS: usize = 64;

/// A job on the files of the state directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Job {
    /// Write the changes; `invites` first: if the second file fails, no used invite is left in the file.
    Write {
        /// The text of `invites`, if that is changed.
        invites: Option<String>,
        /// What to do to `members`, if that is changed.
        members: Option<Patch>,
        /// The text of `members` that was last read and taken over; any other one that is found there was edited.
        taken: Fingerprint,
    },
    /// Make the file `locked`, or remove it.
    SetLocked(bool),
    /// Write that the LAN has moved to other subnets; what is read from now on is read for those.
    Move(Box<Moves>, Subnets),
    /// Write who keeps the list, and whether that is this hub with a store.
    WriteTerm(Term, bool),
    /// Read all files.
    Read,
}

/// The outcome of a job. The texts of errors name the file, and say what to do.
pub enum Done {
    /// Of [`Job::Write`]: each file that was to be written.
    Written {
        /// `invites`.
        invites: Option<Result<(), String>>,
        /// `members`.
        members: Option<Written>,
    },
    /// Of [`Job::SetLocked`].
    SetLocked(Result<(), String>),
    /// Of [`Job::Move`].
    Moved(Result<(), String>),
    /// Of [`Job::WriteTerm`].
    TermWritten(Result<(), String>),
    /// Of [`Job::Read`].
    Read(Result<Files, String>),
}

/// The outcome of writing `members`.
pub enum Written {
    /// The text is on the disk.
    Saved,
    /// Nothing is written: a person has edited the file since it was read or written, and this is what it says now.
    Edited(Box<ReadMembers>),
    /// Nothing is written, as lines can only be added to a file that is there.
    Missing,
    /// It could not be written, or what a person wrote there is invalid.
    Failed(String),
}

/// The list of members as it was read.
pub struct ReadMembers {
    /// The list.
    pub members: Members,
    /// Which text it was.
    pub fingerprint: Fingerprint,
}

/// What the files say.
pub struct Files {
    /// `members`; the text says that there is none, where there is none.
    pub members: Result<Box<ReadMembers>, String>,
    /// `invites`.
    pub invites: Invites,
    /// Whether `locked` is there.
    pub locked: bool,
    /// `rules`, if it is there.
    pub rules: Option<Rules>,
}

/// A text without what a crash in the middle of adding lines leaves behind: a last line that has no end, and makes no
/// sense, and lines to which it belongs. `None` where the line that is invalid, counted from 1, is another one.
pub fn without_torn_line(text: &str, bad_line: usize) -> Option<&str> {
    if bad_line != text.lines().count() {
        return None;
    }
    let ended = text.get(..text.rfind('\n').map_or(0, |end| end + 1))?;
    let whole = without_incomplete(ended);
    (whole.len() < text.len()).then_some(whole)
}

/// Tells texts apart (64-bit FNV-1a).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint(u64);

impl Fingerprint {
    /// The fingerprint of a text.
    pub fn of(text: &str) -> Fingerprint {
        Fingerprint(0xcbf2_9ce4_8422_2325).and(text)
    }

    /// That of the text with more behind it.
    #[must_use]
    pub fn and(self, more: &str) -> Fingerprint {
        let step = |hash: u64, &byte: &u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        Fingerprint(more.as_bytes().iter().fold(self.0, step))
    }
}

/// A command that changes or reads the files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Make an invite; where it is one of a hub, this one is reached there.
    Invite(Invite, Option<Place>),
    /// Make the invite of this name void.
    Cancel(Name),
    /// Let a machine in.
    Allow(Allow),
    /// Give a member, named as for `Revoke`, this name.
    Rename(String, Name),
    /// Take a member that is not on the LAN off the list.
    Forget(String),
    /// Say who may join.
    SetAccess(Access),
    /// Revoke a member: its name, an address of it, or its key.
    Revoke(String),
    /// Move the LAN to these subnets, each in the place of that of its family.
    Renumber(Subnets),
    /// Send the members to other hubs, or take them again.
    Drain(bool),
    /// Keep the list of members that the hubs share.
    Keep,
    /// Write who does by then, and whether that is this hub with a store.
    WriteTerm,
    /// Write who may join by then, as another hub says.
    WriteAccess,
    /// Read the files again.
    Reload,
}

impl Command {
    /// Whether the keeper of the list has to agree. That a membership is revoked holds whoever agrees.
    pub(crate) fn changes_list(&self) -> bool {
        match self {
            Command::Invite(..)
            | Command::Cancel(_)
            | Command::Allow(_)
            | Command::Rename(..)
            | Command::Forget(_)
            | Command::SetAccess(_) => true,
            Command::Revoke(_)
            | Command::Renumber(_)
            | Command::Drain(_)
            | Command::Keep
            | Command::WriteTerm
            | Command::WriteAccess
            | Command::Reload => false,
        }
    }
}

/// A machine to let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allow {
    /// Its key, or the name that it waits under.
    pub who: String,
    /// The member whose place it takes, named as for [`Command::Revoke`].
    pub in_place_of: Option<String>,
    /// Its name; the one that it waits under where none is given.
    pub name: Option<Name>,
    /// Its addresses; the hub chooses for a family that is missing.
    pub addresses: Vec<IpAddr>,
    /// Prefixes that it may offer.
    pub routes: Vec<IpNetwork>,
    /// Labels that access rules will know it by.
    pub tags: Vec<Tag>,
}

/// The outcome of a command.
#[derive(Debug)]
pub enum Answer {
    /// The invite can be used.
    Invited,
    /// Who may join from now on.
    Access(Access),
    /// Whether the members go to other hubs.
    Draining(bool),
    /// This hub keeps the list.
    Kept,
    /// A membership has ended: what it was.
    Revoked(Change),
    /// The LAN has moved.
    Renumbered(Renumbered),
    /// A machine is a member now: its name and key, and whether it waited.
    Allowed(Name, PublicKey, bool),
    /// A member has another name: what it was, and the name.
    Renamed(Change, Name),
    /// A member is off the list: what it was.
    Forgotten(Change),
    /// The invite of this name is void.
    Cancelled(Name),
    /// The files were read: what that changed for members, and what else is different in the list.
    Reloaded(Vec<Change>, Vec<Difference>),
}

/// What was moved to other subnets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renumbered {
    /// From where to where.
    pub steps: Vec<Step>,
    /// Members.
    pub members: usize,
    /// Those of them that are online, and come back.
    pub online: usize,
    /// Invites with addresses.
    pub invites: usize,
    /// Routes of members that lie in a new subnet and do not count any more, with the members' names; few.
    pub hidden: Vec<(IpNetwork, Name)>,
    /// The hubs of the list.
    pub hubs: Vec<(PublicKey, Name)>,
}

impl Renumbered {
    /// What these steps move.
    pub fn new(members: &Members, invites: &Invites, steps: Vec<Step>) -> Renumbered {
        let routes =
            members.iter().flat_map(|(_, member)| member.routes.iter().map(|&route| (route, &member.name)));
        let hidden = routes.filter(|(route, _)| steps.iter().any(|step| overlap(step.to, *route)));
        let hubs = hubs::of(members).into_iter().map(|hub| (hub.key, hub.name.clone())).collect();
        Renumbered {
            hubs,
            members: members.len(),
            online: members.iter().filter(|(_, member)| member.session.is_some()).count(),
            invites: invites.iter().filter(|invite| !invite.addresses.is_empty()).count(),
            hidden: hidden.map(|(route, name)| (route, name.clone())).take(MAX_HIDDEN).collect(),
            steps,
        }
    }
}

/// A job that is being done, and what it is for.
pub(crate) enum Running {
    /// The changes up to these states.
    Changes { members: Version, invites: Version },
    /// An invite, with the text that has it.
    Invite(RequestId, Invite, String),
    /// An invite that is void, with the text that does not have it.
    Cancel(RequestId, Name, String),
    /// Who may join.
    Access(RequestId, Access),
    /// Other subnets.
    Move(RequestId, Vec<Step>, Moves, Subnets),
    /// Who keeps the list.
    Term(RequestId),
    /// Who may join, as another hub says.
    Told,
    /// The files as they are, and what the list was when they began to be read.
    Reload(RequestId, Seen),
}

/// A state of the list: of its members, its invites and who may join.
pub(crate) type Seen = (Version, Version, Access);

/// A change that holds already; its answer waits until it was written, or the write has failed.
pub(crate) struct Awaited {
    pub(crate) request: RequestId,
    pub(crate) version: Version,
    pub(crate) answer: Answer,
    /// What was done, for a person who hears that it could not be written.
    pub(crate) done: String,
}

/// Who waits for a command that is nobody's.
pub(crate) const NOBODY: RequestId = RequestId(0);

/// Which job is done, and what waits for it.
pub struct Saving {
    running: Option<Running>,
    /// What could not be written, beside the list, and is to be tried again.
    failed: Vec<Command>,
    requests: VecDeque<(RequestId, Command)>,
    awaited: Vec<Awaited>,
    /// The state of the list of members of which writing has ended, well or not.
    attempted: Version,
    /// When to try again to write.
    retry_at: Option<Instant>,
    /// When a long text was last written as a whole, and when the next one is due.
    rewritten_at: Option<Instant>,
    rewrite_at: Option<Instant>,
    /// When to write a long text as a whole, as lines of it have others in their place.
    fold_at: Option<Instant>,
    /// Why the files cannot be written, if there is something to write.
    trouble: Option<String>,
    taken: Fingerprint,
    /// How often the files were read for the request that has them read.
    reads: u32,
}

impl Saving {
    /// Nothing to do yet. `taken`: the text of `members` that was read.
    pub fn new(taken: Fingerprint) -> Saving {
        Saving {
            running: None,
            failed: Vec::new(),
            requests: VecDeque::new(),
            awaited: Vec::new(),
            attempted: Version::default(),
            retry_at: None,
            rewritten_at: None,
            rewrite_at: None,
            fold_at: None,
            trouble: None,
            taken,
            reads: 0,
        }
    }

    /// Whether a job is being done.
    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Why the files cannot be written now.
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// Whether what rests on this state of the list of members may go out: it was written, or could not be.
    pub fn is_settled(&self, version: Version) -> bool {
        version <= self.attempted || self.retry_at.is_some()
    }

    /// Whether what rests on this state of the list may be told to other hubs: the same for members, invites and who may
    /// join.
    pub(crate) fn is_written(
        &self,
        (version, invites_version): (Version, Version),
        members: &Members,
        invites: &Invites,
    ) -> bool {
        let is_access = |command: &Command| matches!(command, Command::SetAccess(_) | Command::WriteAccess);
        // What was read is written.
        let are_saved =
            (members.is_saved(version) || self.is_settled(version)) && invites.is_saved(invites_version);
        self.retry_at.is_some()
            || are_saved
                && !matches!(self.running, Some(Running::Access(..) | Running::Told | Running::Term(_)))
                && !self.requests.iter().any(|(_, command)| is_access(command))
    }

    /// When there is something to do.
    pub fn deadline(&self) -> Option<Instant> {
        // Nothing is written before it is tried again.
        let deadline = self.retry_at.or(self.rewrite_at.into_iter().chain(self.fold_at).min());
        deadline.filter(|_| self.running.is_none())
    }

    /// Puts a request in line; `false` where there are too many.
    pub(crate) fn enqueue(&mut self, request: RequestId, command: Command) -> bool {
        let has_room = self.requests.len() < MAX_REQUESTS;
        if has_room {
            self.requests.push_back((request, command));
        }
        has_room
    }

    /// Puts a command in line for which nobody waits, unless it is there.
    pub(crate) fn enqueue_once(&mut self, command: Command) {
        if !self.requests.iter().any(|(_, other)| *other == command) {
            self.requests.push_back((NOBODY, command));
        }
    }

    pub(crate) fn next_request(&mut self) -> Option<(RequestId, Command)> {
        self.requests.pop_front()
    }

    /// Puts a request in front of all others again.
    pub(crate) fn put_back(&mut self, request: RequestId, command: Command) {
        self.requests.push_front((request, command));
    }

    /// Has the files read later, behind all that waits; `false` where that was tried too often.
    pub(crate) fn read_later(&mut self, request: RequestId) -> bool {
        self.reads += 1;
        let may = self.reads < MOST_READS;
        if may {
            self.requests.push_back((request, Command::Reload));
        } else {
            self.reads = 0;
        }
        may
    }

    /// Notes that the files were read, and taken over or not.
    pub(crate) fn end_reading(&mut self) {
        self.reads = 0;
    }

    /// Whether it is still to be written who may join.
    pub(crate) fn has_access_to_write(&self) -> bool {
        self.requests.iter().any(|(_, command)| *command == Command::WriteAccess)
    }

    pub(crate) fn run(&mut self, running: Running) {
        debug_assert!(self.running.is_none());
        self.running = Some(running);
    }

    pub(crate) fn take_running(&mut self) -> Option<Running> {
        self.running.take()
    }

    /// Has writing tried again at once: it may succeed now, or someone waits for the answer.
    pub(crate) fn retry_now(&mut self) {
        self.retry_at = None;
    }

    /// Has a long text written as a whole as soon as it changes, though it was lately.
    pub(crate) fn rewrite_now(&mut self) {
        self.rewritten_at = None;
    }

    /// Has a long text written as a whole now, if lines of it have others in their place.
    pub(crate) fn fold_now(&mut self, now: Instant) {
        self.fold_at = Some(now);
    }

    /// Takes the text of `members` that was read for the one that is known.
    pub(crate) fn take(&mut self, text: Fingerprint) {
        self.taken = text;
    }

    /// The job that writes what is changed, but for `unagreed` members; `None` where there is nothing to write now.
    pub(crate) fn write_changes(
        &mut self,
        members: &mut Members,
        invites: &Invites,
        unagreed: &Unagreed,
        now: Instant,
    ) -> Option<Job> {
        self.rewrite_at = None;
        if members.has_instead() {
            self.fold_at.get_or_insert(now + FOLD_AFTER);
        } else {
            self.fold_at = None;
        }
        let is_due = self.fold_at.is_some_and(|at| at <= now);
        if self.retry_at.is_some_and(|at| now < at)
            || !(members.is_changed() || invites.is_changed() || is_due)
        {
            return None;
        }
        if members.is_costly(unagreed) {
            if let Some(at) = self.rewritten_at.map(|at| at + REWRITE_EVERY).filter(|&at| now < at) {
                self.rewrite_at = Some(at);
                return None;
            }
            self.rewritten_at = Some(now);
        }
        self.retry_at = None;
        self.run(Running::Changes { members: members.version(), invites: invites.version() });
        Some(Job::Write {
            invites: invites.is_changed().then(|| invites.to_text()),
            members: match is_due {
                true => Some(members.begin_fold(unagreed)),
                false => members.is_changed().then(|| members.begin_save(unagreed)),
            },
            taken: self.taken,
        })
    }

    /// The fingerprint that a job of ours is to carry.
    pub(crate) fn taken(&self) -> Fingerprint {
        self.taken
    }

    /// Notes that writing the changes up to this state failed; returns the reason if it should be logged.
    pub(crate) fn fail(&mut self, version: Version, trouble: String, now: Instant) -> Option<String> {
        self.settle(version);
        self.put_off(trouble, now)
    }

    /// Notes that something else could not be written; returns the reason if it should be logged.
    pub(crate) fn fail_command(&mut self, command: Command, trouble: String, now: Instant) -> Option<String> {
        self.set_failed(command);
        self.put_off(trouble, now)
    }

    /// Has a command done once writing is tried again; why it cannot be done now.
    pub(crate) fn postpone(&mut self, command: Command) -> String {
        self.set_failed(command);
        self.trouble.clone().unwrap_or_else(|| "the list of members is not written yet".to_owned())
    }

    fn set_failed(&mut self, command: Command) {
        if !self.has_failed(&command) {
            self.failed.push(command);
        }
    }

    /// Whether this could not be done, and is to be tried again.
    pub(crate) fn has_failed(&self, command: &Command) -> bool {
        self.failed.contains(command)
    }

    /// Puts in line again what could not be written, when it is time; whether there was something.
    pub(crate) fn enqueue_failed(&mut self, now: Instant) -> bool {
        if self.failed.is_empty() || self.retry_at.is_some_and(|at| now < at) {
            return false;
        }
        std::mem::take(&mut self.failed).into_iter().for_each(|command| self.enqueue_once(command));
        true
    }

    fn put_off(&mut self, trouble: String, now: Instant) -> Option<String> {
        self.retry_at = Some(now + SAVE_PAUSE);
        // Writing is retried; only the first failure is logged.
        let is_new = self.trouble.as_ref() != Some(&trouble);
        self.trouble = Some(trouble.clone());
        is_new.then_some(trouble)
    }

    /// Notes that writing the changes up to this state has ended.
    pub(crate) fn settle(&mut self, version: Version) {
        self.attempted = self.attempted.max(version);
    }

    /// Notes that nothing is left that could not be written; whether there was something.
    pub(crate) fn end_trouble(&mut self) -> bool {
        self.retry_at = None;
        self.trouble.take().is_some()
    }

    /// Whether there was trouble, and it is time to look again.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.trouble.is_some() && self.retry_at.is_none_or(|at| at <= now)
    }

    pub(crate) fn await_writing(&mut self, awaited: Awaited) {
        self.awaited.push(awaited);
    }

    /// A change that can be answered, with the answer.
    pub(crate) fn next_answer(&mut self, is_saved: bool) -> Option<(RequestId, Result<Answer, String>)> {
        let settled = |awaited: &Awaited| awaited.version <= self.attempted;
        let at = self.awaited.iter().position(settled)?;
        let Awaited { request, answer, done, .. } = self.awaited.swap_remove(at);
        let answer = match self.trouble.as_ref().filter(|_| !is_saved) {
            Some(trouble) => Err(format!("{done}, but {trouble}")),
            None => Ok(answer),
        };
        Some((request, answer))
    }
}
