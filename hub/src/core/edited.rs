//! Files that a person has edited and that are not taken over: where another hub keeps the list, that hub decides, and no hub
//! takes itself off. Pure.

use common::wire::key::PublicKey;

use super::Core;
use crate::lan::members::{Access, Members};
use crate::lan::saving::Files;

impl Core {
    /// Why these files are not taken over, which a person has edited here.
    ///
    /// # Errors
    /// A sentence that says where to edit what.
    pub(super) fn check_edits(&self, files: &Files) -> Result<(), String> {
        if let Ok(read) = &files.members {
            self.check_edited_members(&read.members)?;
        }
        let Some(keeper) = self.keeper.other() else { return Ok(()) };
        let access = if files.locked { Access::Locked } else { Access::Open };
        if access != self.admission.access() {
            return Err(self.not_here(&keeper, "create or delete `locked`"));
        }
        if self.admission.has_other_invites(&files.invites) {
            return Err(self.not_here(&keeper, "edit `invites`"));
        }
        Ok(())
    }

    /// The same for the list of members. Who is revoked is marked in the file of each hub, so that may be edited at each.
    ///
    /// # Errors
    /// The same.
    pub(super) fn check_edited_members(&self, read: &Members) -> Result<(), String> {
        let own = |members: &Members| {
            members.by_key(&self.key.public()).is_some_and(|id| members.member(id).hub.is_some())
        };
        if own(self.members()) && !own(read) {
            let text = "the line of this hub has to keep its `hub=`: to end it for good, `hub revoke` at another one";
            return Err(text.to_owned());
        }
        let Some(keeper) = self.keeper.other() else { return Ok(()) };
        let (known, unagreed) = (self.members(), self.keeper.unagreed());
        let is_other = |key: &PublicKey| {
            let (line, there) = (known.record(key).text, read.record(key).text);
            let is_written = match known.by_key(key) {
                Some(id) => known.is_saved(known.version_of(id)),
                None => !known.is_changed(),
            };
            line != there
                && is_written
                && !unagreed.contains_key(key)
                && !known.is_revoked(key)
                && !read.is_revoked(key)
        };
        let mut keys = known.iter().chain(read.iter()).map(|(_, member)| &member.key);
        if keys.any(is_other) { Err(self.not_here(&keeper, "edit `members`")) } else { Ok(()) }
    }

    fn not_here(&self, keeper: &PublicKey, what: &str) -> String {
        let keeper = self.hub_called(keeper);
        format!("{keeper} keeps the list of members: {what} there, or use hub's commands here")
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "virtual time has to start somewhere")]

    use std::time::{Duration, Instant};

    use common::wire::frame::Term;
    use common::wire::key::PrivateKey;

    use super::*;
    use crate::effect::{Effect, Notice};
    use crate::ids::RequestId;
    use crate::lan::Lan;
    use crate::lan::invites::Invites;
    use crate::lan::keeper::LanFile;
    use crate::lan::members::Patch;
    use crate::lan::moves::Moves;
    use crate::lan::saving::{Answer, Command, Done, Fingerprint, Job, ReadMembers, Written};
    use crate::lan::subnets::Subnets;

    fn key(seed: u8) -> PublicKey {
        PrivateKey::from_random([seed; 32]).public()
    }

    fn subnets() -> Subnets {
        Subnets::new(&["10.0.0.0/24".parse().unwrap()]).unwrap()
    }

    fn read(text: &str) -> Box<ReadMembers> {
        let members = Members::parse(text, subnets()).map_err(|bad| bad.why).unwrap();
        Box::new(ReadMembers { members, fingerprint: Fingerprint::of(text) })
    }

    /// Two hubs, of which the other one keeps the list, a member, and one that is revoked.
    fn list() -> String {
        let hubs = format!("{} hub-a - hub=a\n{} hub-b - hub=b\n", key(2), key(1));
        format!("{hubs}{} nas 10.0.0.3\n{} old 10.0.0.4 revoked\n", key(3), key(4))
    }

    fn copy() -> Core {
        let (hub_name, mtu) = ("hub-b".parse().unwrap(), 1_400);
        let lan = Lan { hub_name, subnets: subnets(), mtu, routes: vec![], hub_networks: vec![] };
        let term = Some(Term { number: 1, keeper: key(2) });
        let text = list();
        let files = crate::core::Files {
            members: Members::parse(&text, subnets()).map_err(|bad| bad.why).unwrap(),
            fingerprint: Fingerprint::of(&text),
            invites: Invites::default(),
            access: Access::Locked,
            rules: None,
            moves: Moves::default(),
            lan: LanFile { term, ..LanFile::default() },
        };
        Core::new(PrivateKey::from_random([1; 32]), lan, files, 1, Duration::ZERO)
    }

    /// What `hub reload` says where the file `members` is this.
    fn reload(core: &mut Core, text: &str, locked: bool) -> Result<usize, String> {
        let now = Instant::now();
        core.request(RequestId(1), Command::Reload, now);
        let (invites, rules) = (Invites::default(), None);
        core.handle_done(Done::Read(Ok(Files { members: Ok(read(text)), invites, locked, rules })), now);
        let mut answer = None;
        while let Some(effect) = core.poll_effect() {
            if let Effect::Answer(_, is) = effect {
                answer = Some(is.map(|answer| {
                    let Answer::Reloaded(changes, others) = answer else { panic!("another answer") };
                    changes.len() + others.len()
                }));
            }
        }
        answer.unwrap()
    }

    #[test]
    fn what_is_edited_where_another_hub_keeps_the_list_is_refused() {
        let mut core = copy();
        assert_eq!(reload(&mut core, &list(), true), Ok(0));
        let nas = format!("{} nas 10.0.0.3\n", key(3));
        for (what, edited) in [
            ("renamed", list().replace(" nas ", " store ")),
            ("taken off", list().replace(&nas, "")),
            ("added", format!("{}{} desk 10.0.0.9\n", list(), key(5))),
            ("at another place", list().replace("hub=b", "hub=c")),
        ] {
            let said = reload(&mut core, &edited, true).unwrap_err();
            let text = "hub-a keeps the list of members: edit `members` there, or use hub's commands here";
            assert_eq!(said, format!("{text}; nothing is changed"), "{what}");
            assert_eq!(core.members().to_text(), list(), "{what}");
        }
        assert!(reload(&mut core, &list(), false).is_err_and(|said| said.contains("`locked`")));
    }

    #[test]
    fn who_is_revoked_is_edited_at_each_hub() {
        let mut core = copy();
        let line = format!("{} nas 10.0.0.3", key(3));
        assert_eq!(reload(&mut core, &list().replace(&line, &format!("{line} revoked")), true), Ok(1));
        let mut core = copy();
        assert_eq!(reload(&mut core, &list().replace(" revoked", ""), true), Ok(1));
        assert!(!core.members().is_revoked(&key(4)) && core.members().by_key(&key(4)).is_some());
        let mut core = copy();
        let line = format!("{} old 10.0.0.4 revoked\n", key(4));
        assert_eq!(reload(&mut core, &list().replace(&line, ""), true), Ok(1));
        assert!(!core.members().is_revoked(&key(4)));
    }

    /// The hub finds that the file was edited when it has something to write.
    #[test]
    fn what_is_edited_without_a_word_is_put_back_and_that_is_logged() {
        let (mut core, now) = (copy(), Instant::now());
        core.request(RequestId(1), Command::Revoke("nas".to_owned()), now);
        while core.poll_effect().is_some() {}
        let edited = read(&list().replace("hub=b", "hub=c"));
        core.handle_done(Done::Written { invites: None, members: Some(Written::Edited(edited)) }, now);
        let (mut logged, mut written) = (None, None);
        while let Some(effect) = core.poll_effect() {
            if let Effect::Save(job) = effect {
                written = Some(*job);
            } else if let Effect::Log(notice) = effect
                && let Notice::NotSaved(text) = *notice
            {
                logged = Some(text);
            }
        }
        assert!(logged.is_some_and(|text| text.ends_with("commands here; what was edited is put back")));
        let Some(Job::Write { members: Some(Patch::Replace(text)), .. }) = written else {
            panic!("{written:?}")
        };
        assert!(text.contains("hub=b") && text.contains("10.0.0.3 revoked"), "{text}");
    }
}
