//! The hub's files, in memory.

use common::wire::frame::Term;
use hub::lan::invites::Invites;
use hub::lan::keeper::LanFile;
use hub::lan::members::{Access, Members, Patch};
use hub::lan::moves::{INVITES_COLUMN, MEMBERS_COLUMN, Moves};
use hub::lan::saving::{Done, Files, Fingerprint, Job, ReadMembers, Written, without_torn_line};
use hub::lan::subnets::Subnets;

/// The texts of the files.
pub(crate) struct Disk {
    pub(crate) subnets: Subnets,
    moves: Moves,
    pub(crate) members: String,
    pub(crate) invites: String,
    pub(crate) locked: bool,
    /// Who keeps the list that hubs share.
    pub(crate) term: Option<Term>,
    /// Whether this hub does, in a store.
    is_stored: bool,
    /// Nothing can be written now.
    pub(crate) is_full: bool,
    /// Something could not be written once.
    pub(crate) has_failed: bool,
    /// From which lengths on new lines, and changed ones, are added at the end of `members`, where not as ever.
    pub(crate) append_from: Option<(usize, usize)>,
}

impl Disk {
    /// What a hub that starts reads.
    pub(crate) fn files(&self) -> hub::core::Files {
        hub::core::Files {
            members: self.parse_members_at_start(),
            fingerprint: Fingerprint::of(&self.members),
            invites: self.parse_invites().unwrap(),
            access: if self.locked { Access::Locked } else { Access::Open },
            rules: None,
            moves: self.moves.clone(),
            lan: LanFile { term: self.term, is_stored: self.is_stored, ..LanFile::default() },
        }
    }

    pub(crate) fn new(subnets: Subnets, members: String, locked: bool) -> Disk {
        let mut moves = Moves::default();
        moves.start(subnets);
        Disk {
            subnets,
            moves,
            members,
            invites: String::new(),
            locked,
            term: None,
            is_stored: false,
            is_full: false,
            has_failed: false,
            append_from: None,
        }
    }

    /// The process dies while it adds lines to `members`: only so many bytes of them are on the disk, behind what it has written
    /// before.
    pub(crate) fn tear(&mut self, job: Job, len: usize) {
        if let Job::Write { members: Some(Patch::Append(lines)), invites, .. } = job {
            self.invites = invites.unwrap_or(std::mem::take(&mut self.invites));
            let len = (0..=len.min(lines.len())).rev().find(|&len| lines.is_char_boundary(len));
            self.members.push_str(&lines[..len.unwrap()]);
        }
    }

    /// Whether all can be written, and was.
    pub(crate) fn is_sound(&self) -> bool {
        !self.is_full && !self.has_failed
    }

    fn write(&mut self) -> Result<(), String> {
        self.has_failed |= self.is_full;
        if self.is_full { Err("it is full".to_owned()) } else { Ok(()) }
    }

    /// Does a job, as the hub's store does.
    pub(crate) fn run(&mut self, job: Job) -> Done {
        match job {
            Job::Write { invites, members, .. } => {
                let invites = invites.map(|text| self.write().map(|()| self.invites = text));
                let members = members.map(|patch| match (self.write(), patch) {
                    (Ok(()), Patch::Append(lines)) => {
                        self.members.push_str(&lines);
                        Written::Saved
                    }
                    (Ok(()), Patch::Replace(text)) => {
                        self.members = text;
                        Written::Saved
                    }
                    (Err(error), _) => Written::Failed(error),
                });
                Done::Written { invites, members }
            }
            Job::SetLocked(locked) => Done::SetLocked(self.write().map(|()| self.locked = locked)),
            Job::Move(moves, subnets) => {
                let written = self.write();
                if written.is_ok() {
                    (self.moves, self.subnets) = (*moves, subnets);
                }
                Done::Moved(written)
            }
            Job::WriteTerm(term, is_stored) => Done::TermWritten(self.write().map(|()| {
                (self.term, self.is_stored) = (Some(term), is_stored);
            })),
            Job::Read => Done::Read(self.read()),
        }
    }

    fn parse_members_at_start(&self) -> Members {
        let moved = self.moves.translate_text(&self.members, MEMBERS_COLUMN);
        let bad = match Members::parse(&moved, self.subnets) {
            Ok(_) => return self.parse_members().unwrap(),
            Err(bad) => bad,
        };
        let whole = without_torn_line(&moved, bad.line).expect(&bad.why);
        let mut members = Members::parse(whole, self.subnets).map_err(|bad| bad.why).unwrap();
        self.append_from.iter().for_each(|&(new, changed)| members.append_from(new, changed));
        members.set_outdated();
        members
    }

    fn parse_members(&self) -> Result<Members, String> {
        let moved = self.moves.translate_text(&self.members, MEMBERS_COLUMN);
        let mut members = Members::parse(&moved, self.subnets).map_err(|bad| bad.why)?;
        self.append_from.iter().for_each(|&(new, changed)| members.append_from(new, changed));
        if moved != self.members {
            members.set_outdated();
        }
        Ok(members)
    }

    fn parse_invites(&self) -> Result<Invites, String> {
        let moved = self.moves.translate_text(&self.invites, INVITES_COLUMN);
        Invites::parse(&moved, self.subnets).map_err(|bad| bad.why)
    }

    fn read(&self) -> Result<Files, String> {
        let (members, invites) = (self.parse_members()?, self.parse_invites()?);
        let fingerprint = Fingerprint::of(&self.members);
        let members = Box::new(ReadMembers { members, fingerprint });
        Ok(Files { members: Ok(members), invites, locked: self.locked, rules: None })
    }
}
