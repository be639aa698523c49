//! The hub's files: `members`, `rules`, `invites`, `subnets`, `locked` and `lan` in the state directory. IO; the core decides
//! what is written when.

use std::path::PathBuf;
use std::sync::Arc;

use common::node::state::{self, Stamp, State};
use common::node::text::Printable;
use common::wire::frame::Term;
use log::{debug, warn};

use crate::core::Files;
use crate::lan::admission::Admission;
use crate::lan::invites::Invites;
use crate::lan::keeper::LanFile;
use crate::lan::members::{Access, BadLine, Members, Patch};
use crate::lan::moves::{INVITES_COLUMN, MEMBERS_COLUMN, Moves};
use crate::lan::rules::Rules;
use crate::lan::saving::{self, Done, Fingerprint, Job, ReadMembers, Renumbered, Written, without_torn_line};
use crate::lan::subnets::Subnets;

/// The list of members.
pub(super) const MEMBERS: &str = "members";
/// The access rules; only a person writes them.
pub(super) const RULES: &str = "rules";
/// The invites.
const INVITES: &str = "invites";
/// The LAN's subnets, and where they were before.
const SUBNETS: &str = "subnets";
/// A file that is there while the hub is locked.
pub(super) const LOCKED: &str = "locked";
/// Who keeps the list that hubs share, and the LAN that this one has joined.
pub(super) const LAN: &str = "lan";

/// All of them.
pub(super) const NAMES: [&str; 6] = [MEMBERS, RULES, INVITES, SUBNETS, LOCKED, LAN];

pub(super) const LOCKED_TEXT: &str =
    "# While this file is there, only members and those with an invite can join.\n";

/// Most lines that are warned about at once.
const MAX_SKIPPED_LOGGED: usize = 10;

/// The files, and what was last written to them.
#[derive(Clone)]
pub(super) struct StateFiles {
    state: Arc<State>,
    subnets: Subnets,
    /// Where the subnets were before.
    moves: Moves,
    /// What `members` was like after we last wrote it.
    written: Option<WrittenMembers>,
}

#[derive(Clone, Copy)]
struct WrittenMembers {
    stamp: Option<Stamp>,
    fingerprint: Fingerprint,
}

/// What `members` is found to be before it is written.
enum Found {
    /// The text that we know.
    Known(Fingerprint),
    /// A text that a person has edited.
    Edited(String, Fingerprint),
    /// There is none, or none that can be read.
    Nothing,
}

impl StateFiles {
    /// Reads all files of a state directory, for a hub that is started with these subnets.
    pub(super) fn open(state: Arc<State>, given: Subnets) -> Result<(StateFiles, Files), state::Error> {
        let (before, known) = read_moves(&state)?;
        let mut moves = known.clone();
        let subnets = moves.start(given);
        if subnets != given {
            warn!(
                "`hub renumber` has moved the LAN from {given} to {subnets}: start the hub with --subnet {subnets}"
            );
        }
        let files = StateFiles { state, subnets, moves, written: None };
        let text = files.state.read(MEMBERS)?.unwrap_or_default();
        if !has_lines(&text) {
            files.check_lost()?;
        }
        let found = files.read_at_start(&text).map_err(|error| files.other_subnet(error, &known))?;
        let now = files.moves.to_text();
        if before.as_ref() != Some(&now)
            && let Err(error) = files.state.write(SUBNETS, &now)
        {
            // It is needed for the next `hub renumber` alone.
            debug!("{error}");
        }
        Ok((files, found))
    }

    /// What the LAN's subnets are.
    pub(super) fn subnets(&self) -> Subnets {
        self.subnets
    }

    fn read_at_start(&self, text: &str) -> Result<Files, state::Error> {
        Ok(Files {
            members: self.parse_members_at_start(text)?,
            fingerprint: Fingerprint::of(text),
            invites: self.read_invites()?,
            access: if self.state.read(LOCKED)?.is_some() { Access::Locked } else { Access::Open },
            rules: self.read_rules()?,
            moves: self.moves.clone(),
            lan: read_lan(&self.state)?,
        })
    }

    /// The list is missing or empty: no hub starts with that if others would take it for theirs.
    fn check_lost(&self) -> Result<(), state::Error> {
        let LanFile { term, is_stored, .. } = read_lan(&self.state)?;
        let own = self.state.key()?.public();
        if is_stored || term.is_none_or(|term| term.number == 0 || term.keeper != own) {
            return Ok(());
        }
        let why = format!(
            "this hub keeps the list of members, and the other hubs would lose theirs with it; copy that file from another \
             hub, whose own is the same, or, if there is none, delete {}",
            self.state.path().join(LAN).display()
        );
        Err(state::Error::Lost { path: self.members_file(), why })
    }

    /// Says how to take everybody along to another subnet, if that is why a line is invalid.
    fn other_subnet(&self, error: state::Error, known: &Moves) -> state::Error {
        let Some(before) = known.present() else { return error };
        let new: Vec<String> = self
            .subnets
            .iter()
            .filter(|&subnet| before.iter().all(|known| known != subnet))
            .map(|subnet| subnet.to_string())
            .collect();
        let state::Error::Damaged { path, line, why } = error else { return error };
        if new.is_empty() {
            return state::Error::Damaged { path, line, why };
        }
        let why = format!(
            "{why}; the LAN was {before} so far: `hub renumber {}` takes all members along, without more to mend",
            new.join(",")
        );
        state::Error::Damaged { path, line, why }
    }

    /// Does a job.
    pub(super) fn run(&mut self, job: Job) -> Done {
        match job {
            Job::Write { invites, members, taken } => {
                let invites = invites.map(|text| self.state.write(INVITES, &text).map_err(to_text));
                Done::Written { invites, members: members.map(|patch| self.write_members(&patch, taken)) }
            }
            Job::SetLocked(true) => Done::SetLocked(self.state.write(LOCKED, LOCKED_TEXT).map_err(to_text)),
            Job::SetLocked(false) => Done::SetLocked(self.state.remove(LOCKED).map_err(to_text)),
            Job::Move(moves, subnets) => {
                let written = self.state.write(SUBNETS, &moves.to_text()).map_err(to_text);
                if written.is_ok() {
                    (self.moves, self.subnets) = (*moves, subnets);
                }
                Done::Moved(written)
            }
            Job::WriteTerm(term, is_stored) => {
                Done::TermWritten(self.write_term(term, is_stored).map_err(to_text))
            }
            Job::Read => Done::Read(self.read_all().map_err(to_text)),
        }
    }

    fn write_term(&self, term: Term, is_stored: bool) -> Result<(), state::Error> {
        let lan = LanFile { term: Some(term), is_stored, ..read_lan(&self.state)? };
        self.state.write(LAN, &lan.to_text())
    }

    /// Writes the list of members, unless a person has edited it.
    fn write_members(&mut self, patch: &Patch, taken: Fingerprint) -> Written {
        let (fingerprint, written) = match (self.look_at_members(taken), patch) {
            (Found::Edited(text, fingerprint), _) => {
                return match self.parse_members(&text) {
                    Ok(members) => Written::Edited(Box::new(ReadMembers { members, fingerprint })),
                    Err(bad) => Written::Failed(to_text(self.damaged(bad))),
                };
            }
            (Found::Nothing, Patch::Append(_)) => return Written::Missing,
            (Found::Known(before), Patch::Append(lines)) => {
                (before.and(lines), self.state.append(MEMBERS, lines))
            }
            // An unreadable file cannot be preserved; the write reports the error.
            (Found::Known(_) | Found::Nothing, Patch::Replace(text)) => {
                (Fingerprint::of(text), self.state.write(MEMBERS, text))
            }
        };
        match written {
            Ok(()) => {
                self.written = Some(WrittenMembers { stamp: self.state.stamp(MEMBERS), fingerprint });
                Written::Saved
            }
            Err(error) => {
                // The contents of the file are unknown now.
                self.written = self.written.map(|written| WrittenMembers { stamp: None, ..written });
                Written::Failed(to_text(error))
            }
        }
    }

    /// Looks whether `members` is what we last wrote, or what was last taken over. Its text is only read where the
    /// system says that the file is another one than we have written.
    fn look_at_members(&self, taken: Fingerprint) -> Found {
        if let Some(WrittenMembers { stamp: Some(stamp), fingerprint }) = self.written
            && self.state.stamp(MEMBERS) == Some(stamp)
        {
            return Found::Known(fingerprint);
        }
        let Ok(Some(text)) = self.state.read(MEMBERS) else { return Found::Nothing };
        let fingerprint = Fingerprint::of(&text);
        let is_ours = self.written.is_some_and(|written| written.fingerprint == fingerprint);
        if is_ours || fingerprint == taken {
            Found::Known(fingerprint)
        } else {
            Found::Edited(text, fingerprint)
        }
    }

    fn read_all(&self) -> Result<saving::Files, state::Error> {
        let members = match self.state.read(MEMBERS)? {
            Some(text) => {
                let members = self.parse_members(&text).map_err(|bad| self.damaged(bad))?;
                Ok(Box::new(ReadMembers { members, fingerprint: Fingerprint::of(&text) }))
            }
            None => Err(format!("{} is missing", self.members_file().display())),
        };
        let (invites, locked) = (self.read_invites()?, self.state.read(LOCKED)?.is_some());
        Ok(saving::Files { members, invites, locked, rules: self.read_rules()? })
    }

    /// A crash may have left part of an appended line; no welcome that depended on it was sent.
    fn parse_members_at_start(&self, text: &str) -> Result<Members, state::Error> {
        let bad = match self.parse_members(text) {
            Ok(members) => return Ok(members),
            Err(bad) => bad,
        };
        let Some(whole) = without_torn_line(text, bad.line) else { return Err(self.damaged(bad)) };
        let mut members = self.parse_members(whole).map_err(|bad| self.damaged(bad))?;
        // Written at once: `hub reload` would not read it.
        members.set_outdated();
        let (file, torn) = (self.members_file(), text.get(whole.len()..).unwrap_or_default());
        warn!("{}: left out the incomplete last line: {}", file.display(), Printable(torn));
        Ok(members)
    }

    fn parse_members(&self, text: &str) -> Result<Members, BadLine> {
        let moved = self.moves.translate_text(text, MEMBERS_COLUMN);
        let mut members = Members::parse(&moved, self.subnets)?;
        if moved != text {
            members.set_outdated();
        }
        for BadLine { line, why } in members.skipped().iter().take(MAX_SKIPPED_LOGGED) {
            warn!(
                "{}: line {line} is passed over: {why}; it stays in the file",
                self.members_file().display()
            );
        }
        Ok(members)
    }

    fn damaged(&self, bad: BadLine) -> state::Error {
        self.state.damaged(MEMBERS, bad.line, bad.why)
    }

    fn read_invites(&self) -> Result<Invites, state::Error> {
        let text = self.state.read(INVITES)?.unwrap_or_default();
        let moved = self.moves.translate_text(&text, INVITES_COLUMN);
        let mut invites = Invites::parse(&moved, self.subnets)
            .map_err(|bad| self.state.damaged(INVITES, bad.line, bad.why))?;
        if moved != text {
            invites.set_outdated();
        }
        Ok(invites)
    }

    fn read_rules(&self) -> Result<Option<Rules>, state::Error> {
        let Some(text) = self.state.read(RULES)? else { return Ok(None) };
        let mut rules = Rules::parse(&text).map_err(|bad| self.state.damaged(RULES, bad.line, bad.why))?;
        rules.locate(|prefix| self.moves.translate_prefix(prefix));
        for (line, written, means) in rules.located().take(MAX_SKIPPED_LOGGED) {
            warn!(
                "{}: line {line}: {written} stands for {means}, as `hub renumber` has moved the LAN",
                self.state.path().join(RULES).display()
            );
        }
        Ok(Some(rules))
    }

    fn members_file(&self) -> PathBuf {
        self.state.path().join(MEMBERS)
    }
}

/// Moves the LAN of a hub that does not run: that is written down, and the next start reads everything so.
pub(super) fn renumber(state: &Arc<State>, new: Subnets) -> Result<Renumbered, String> {
    let (_, known) = read_moves(state).map_err(to_text)?;
    let Some(subnets) = known.present() else {
        let path = state.path().join(SUBNETS);
        return Err(format!(
            "{} is missing, so the LAN's subnet is not known: start the hub once with its --subnet of before",
            path.display()
        ));
    };
    let mut moves = known.clone();
    let steps = moves.renumber(new)?;
    let to = moves.present().ok_or("the LAN has no subnet")?;
    let files = StateFiles { state: Arc::clone(state), subnets, moves: known, written: None };
    let text = files.state.read(MEMBERS).map_err(to_text)?.unwrap_or_default();
    let found = files.read_at_start(&text).map_err(to_text)?;
    Admission::check_steps(&found.members, &found.invites, &steps, to)?;
    state.write(SUBNETS, &moves.to_text()).map_err(to_text)?;
    Ok(Renumbered::new(&found.members, &found.invites, steps))
}

/// The text of `subnets`, and what it says.
fn read_moves(state: &State) -> Result<(Option<String>, Moves), state::Error> {
    let text = state.read(SUBNETS)?;
    let moves = Moves::parse(text.as_deref().unwrap_or_default());
    let moves = moves.map_err(|bad| state.damaged(SUBNETS, bad.line, bad.why))?;
    Ok((text, moves))
}

/// Whether a list has lines that are no comments.
pub(super) fn has_lines(text: &str) -> bool {
    text.lines().any(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#'))
}

/// What `lan` says.
pub(super) fn read_lan(state: &State) -> Result<LanFile, state::Error> {
    let text = state.read(LAN)?.unwrap_or_default();
    LanFile::parse(&text).map_err(|bad| state.damaged(LAN, bad.line, bad.why))
}

fn to_text(error: state::Error) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use common::wire::frame::Join;
    use common::wire::key::PrivateKey;

    use super::*;
    use crate::lan::members::{Decision, Unagreed};

    fn subnets() -> Subnets {
        Subnets::new(&["10.0.0.0/16".parse().unwrap()]).unwrap()
    }

    fn key(number: u32) -> common::wire::key::PublicKey {
        let mut seed = [7; 32];
        // The lowest bits of a private key do not count.
        seed[1..5].copy_from_slice(&number.to_le_bytes());
        PrivateKey::from_random(seed).public()
    }

    /// A state directory of its own for each test, removed at the end, and the list as the hub has it.
    struct Scratch {
        files: StateFiles,
        members: Members,
        taken: Fingerprint,
    }

    impl Scratch {
        fn new(text: &str) -> Scratch {
            let tag = state::random_u64().unwrap();
            let path = std::env::temp_dir().join(format!("hub-files-test-{tag:x}"));
            let state = Arc::new(State::open(&path).unwrap());
            state.write(MEMBERS, text).unwrap();
            let (files, found) = StateFiles::open(state, subnets()).unwrap();
            Scratch { files, members: found.members, taken: found.fingerprint }
        }

        fn join(&mut self, number: u32) {
            let join = Join::new(format!("m{number}").parse().unwrap());
            let decision = self.members.admit(key(number), &join, Access::Open, &[]);
            assert!(matches!(decision, Decision::Member { .. }), "{decision:?}");
        }

        /// Writes what is changed; what was to be done, and what that led to.
        fn save(&mut self) -> (Patch, Written) {
            let (version, patch) = (self.members.version(), self.members.begin_save(&Unagreed::new()));
            let written = self.files.write_members(&patch, self.taken);
            match written {
                Written::Saved => self.members.set_saved(version),
                Written::Edited(_) | Written::Missing | Written::Failed(_) => self.members.set_damaged(),
            }
            (patch, written)
        }

        fn text(&self) -> String {
            fs::read_to_string(self.files.members_file()).unwrap()
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(self.files.state.path());
        }
    }

    /// So many members that new ones are added at the end.
    fn many() -> String {
        (0..300).map(|number| format!("{} old-{number} -\n", key(1_000_000 + number))).collect()
    }

    #[test]
    fn a_join_costs_one_line_however_long_the_list_is() {
        let mut scratch = Scratch::new(&many());
        for number in 0..3 {
            scratch.join(number);
            let (patch, written) = scratch.save();
            let Patch::Append(lines) = patch else { panic!("{patch:?}") };
            assert_eq!(lines.lines().count(), 1);
            assert!(matches!(written, Written::Saved));
            assert_eq!(scratch.text(), scratch.members.to_text());
        }
        // One that was there before is changed: that takes the whole text.
        let first = scratch.members.by_key(&key(0)).unwrap();
        scratch.members.set_routes(first, &["192.168.5.0/24".parse().unwrap()]);
        scratch.join(3);
        assert!(matches!(scratch.save(), (Patch::Replace(_), Written::Saved)));
        assert_eq!(scratch.text(), scratch.members.to_text());
        scratch.join(4);
        assert!(matches!(scratch.save(), (Patch::Append(_), Written::Saved)));
        assert_eq!(scratch.text(), scratch.members.to_text());
    }

    #[test]
    fn a_change_of_a_long_list_costs_one_line_and_outlives_a_crash() {
        let mut scratch = Scratch::new(&many());
        scratch.members.append_from(0, 0);
        let tag = |members: &mut Members, number: u32| {
            let id = members.by_key(&key(1_000_000 + number)).unwrap();
            members.set_tags(id, &["x".parse().unwrap()]);
        };
        (0..3).for_each(|number| tag(&mut scratch.members, number));
        let before = scratch.text();
        let (patch, written) = scratch.save();
        let Patch::Append(lines) = patch else { panic!("{patch:?}") };
        assert!(lines.lines().count() == 3 && matches!(written, Written::Saved));
        let read = |text: &str| {
            fs::write(scratch.files.members_file(), text).unwrap();
            let text = scratch.files.state.read(MEMBERS).unwrap().unwrap();
            scratch.files.parse_members_at_start(&text).unwrap()
        };
        assert_eq!(read(&scratch.text()).to_text(), scratch.members.to_text());
        for cut in 0..lines.len() - 1 {
            let is_whole = lines[..cut].ends_with(" tag=x instead");
            assert!(read(&(before.clone() + &lines[..cut])).to_text() == before || is_whole, "at {cut}");
        }
    }

    /// `cargo test --release -p hub --lib what_a_change -- --ignored --nocapture`.
    #[test]
    #[ignore = "a measurement"]
    fn what_a_change_of_100_000_members_costs() {
        let address = |number: u32| std::net::Ipv4Addr::from_bits(0x0a00_0002 + number);
        let text: String =
            (0..100_000).map(|at| format!("{} m{at} {}\n", key(1_000_000 + at), address(at))).collect();
        let mut scratch = Scratch::new("");
        scratch.files.subnets = Subnets::new(&["10.0.0.0/8".parse().unwrap()]).unwrap();
        scratch.files.state.write(MEMBERS, &text).unwrap();
        (scratch.members, scratch.taken) =
            (scratch.files.parse_members_at_start(&text).unwrap(), Fingerprint::of(&text));
        for (what, changed) in [("changed lines rewrite all", usize::MAX), ("changed lines are appended", 0)]
        {
            scratch.members.append_from(0, changed);
            for is_new in [true, false] {
                let mut times = Vec::new();
                for round in 0..21 {
                    let start = std::time::Instant::now();
                    if is_new {
                        scratch.join(round + u32::from(changed == 0) * 100);
                    } else {
                        let id = scratch.members.by_key(&key(1_000_000 + round * 4_000)).unwrap();
                        let tag = format!("t{round}-{}", changed % 7);
                        scratch.members.set_tags(id, &[tag.parse().unwrap()]);
                    }
                    let (version, patch) =
                        (scratch.members.version(), scratch.members.begin_save(&Unagreed::new()));
                    let decided = start.elapsed();
                    assert!(matches!(scratch.files.write_members(&patch, scratch.taken), Written::Saved));
                    scratch.members.set_saved(version);
                    times.push((start.elapsed(), decided));
                }
                times.sort();
                let (whole, decided) = times[times.len() / 2];
                let who = if is_new { "a newcomer" } else { "a change" };
                println!("{what}: {who} takes {decided:.0?} of the hub, and is written after {whole:.0?}");
            }
        }
    }

    #[test]
    fn what_a_person_wrote_is_seen_before_lines_are_added() {
        let mut scratch = Scratch::new(&many());
        scratch.join(0);
        scratch.save();
        let edited = format!("# edited\n{}", scratch.text());
        fs::write(scratch.files.members_file(), &edited).unwrap();
        scratch.join(1);
        let (_, written) = scratch.save();
        let Written::Edited(read) = written else { panic!("it was overwritten") };
        assert_eq!(scratch.text(), edited);
        scratch.members.replace(read.members);
        scratch.taken = read.fingerprint;
        assert!(
            matches!(scratch.save(), (Patch::Append(_), Written::Saved)),
            "the new one is still to be added"
        );
        assert!(scratch.text().starts_with(&edited) && scratch.text().contains(" m1 "));
        fs::remove_file(scratch.files.members_file()).unwrap();
        scratch.join(2);
        assert!(matches!(scratch.save(), (Patch::Append(_), Written::Missing)));
        assert!(matches!(scratch.save(), (Patch::Replace(_), Written::Saved)));
        assert_eq!(scratch.text(), scratch.members.to_text());
    }

    #[test]
    fn a_line_that_a_crash_has_cut_short_is_left_out_and_another_bad_one_is_not() {
        for torn in ["x", &key(1).to_string()[..20], "\0\0\0", &format!("{} m1 10.0.0.", key(1))] {
            let mut scratch = Scratch::new(&format!("{}{torn}", many()));
            assert_eq!(scratch.members.to_text(), many(), "{torn:?}");
            assert!(scratch.members.is_changed(), "a reload would not read {torn:?}");
            scratch.join(2);
            assert!(matches!(scratch.save(), (Patch::Replace(_), Written::Saved)), "{torn:?}");
            assert_eq!(scratch.text(), scratch.members.to_text());
        }
        let state = Scratch::new("");
        for bad in ["x\n", &format!("x\n{} m1 -", key(1))] {
            fs::write(state.files.members_file(), bad).unwrap();
            let opened = StateFiles::open(Arc::clone(&state.files.state), subnets());
            assert!(opened.err().unwrap().to_string().contains("line 1"), "{bad:?}");
        }
    }
}
