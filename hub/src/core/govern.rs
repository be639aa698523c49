//! Machines that a person lets in, and members that a person renames or forgets. Pure.

use std::time::Instant;

use common::node::text::Printable;
use common::wire::key::PublicKey;
use common::wire::name::Name;

use super::Core;
use crate::effect::Notice;
use crate::ids::{MemberId, RequestId};
use crate::lan::members::{Access, Member, Rights};
use crate::lan::saving::{Allow, Answer};

/// Why its line cannot be another machine's, or nobody's.
const THIS_HUB: &str = "that is this hub";

impl Core {
    /// Sets who may join from now on.
    pub(super) fn set_access(&mut self, access: Access) {
        self.admission.set_access(access);
        self.note_access();
    }

    /// Logs who may join: once the list is told, where this hub waits for it.
    pub(super) fn note_access(&mut self) {
        if !self.awaits_list() {
            self.note(Notice::Access(self.access(), self.members().spokes()));
        }
    }

    pub(super) fn allow(&mut self, request: RequestId, allow: Allow, now: Instant) {
        let allowed = self.machine(&allow.who).and_then(|(key, wanted)| {
            let id = self.let_in(key, wanted.as_ref(), allow)?;
            Ok((id, key, wanted.is_some()))
        });
        match allowed {
            Ok((id, key, is_waiting)) => {
                let name = self.name(id);
                self.note(Notice::Allowed(name.clone(), key));
                let done = format!("{name} is a member");
                self.await_writing(request, Answer::Allowed(name, key, is_waiting), done, now);
                self.reopen_pending(now);
            }
            Err(text) => self.answer(request, Err(text)),
        }
    }

    /// The key of a machine that a person names by its key, or by the name under which it waits; and that name.
    fn machine(&self, who: &str) -> Result<(PublicKey, Option<Name>), String> {
        let pending = &self.admission.pending;
        if let Ok(key) = who.parse::<PublicKey>() {
            return Ok((key, pending.by_key(&key).map(|machine| machine.join.name.clone())));
        }
        let waiting = who.parse().map(|name: Name| pending.by_name(&name)).unwrap_or_default();
        match waiting[..] {
            [machine] => Ok((machine.key, Some(machine.join.name.clone()))),
            [] if self.hubs.are_several() => Err(format!(
                "no machine waits here under the name or key {who:?}: it may wait at another hub (`hub pending` there); \
                 `hub allow KEY --name NAME` lets it in from here"
            )),
            [] => Err(format!("no machine waits under the name or key {who:?}: `hub pending` lists them")),
            _ => {
                let one = |machine: &&crate::lan::pending::Waiting| {
                    format!("{} from {}", machine.key, machine.source.ip().to_canonical())
                };
                let keys: Vec<String> = waiting.iter().map(one).collect();
                Err(format!(
                    "several machines wait under the name {who}: name one by its key: {}",
                    keys.join(", ")
                ))
            }
        }
    }

    fn let_in(&mut self, key: PublicKey, wanted: Option<&Name>, allow: Allow) -> Result<MemberId, String> {
        let Allow { in_place_of, name, mut addresses, routes, tags, .. } = allow;
        self.admission.moves().translate_all(&mut addresses);
        let members = self.admission.members();
        if let Some(old) = in_place_of {
            let id = self.admission.find(&old)?;
            let Member { key: old, name, .. } = members.member(id);
            if *old == self.key.public() {
                return Err(THIS_HUB.to_owned());
            }
            if members.member(id).is_online() {
                return Err(format!("{name} is on the LAN: no other machine can take its place"));
            }
            self.admission.members_mut().rekey(id, key)?;
            return Ok(id);
        }
        let name = match (name, wanted) {
            (Some(name), _) => name,
            (None, Some(wanted)) => self.admission.members_mut().name_for(wanted, &key),
            (None, None) if self.hubs.are_several() => {
                let text = "this machine does not wait here, but maybe at another hub (`hub pending` there): give it a \
                            name with --name";
                return Err(text.to_owned());
            }
            (None, None) => return Err("this machine does not wait: give it a name with --name".to_owned()),
        };
        self.admission.members_mut().allow(key, name, Rights { addresses, routes, tags })
    }

    pub(super) fn rename(&mut self, request: RequestId, who: &str, name: Name, now: Instant) {
        if self.admission.access() == Access::Open {
            let text =
                "the hub is open, so that each machine chooses its name (`spoke --name`): `hub lock` first";
            return self.answer(request, Err(text.to_owned()));
        }
        let renamed =
            self.admission.find(who).and_then(|id| self.admission.members_mut().rename(id, name.clone()));
        match renamed {
            Ok(change) => {
                self.carry_out(std::slice::from_ref(&change), now);
                let done = format!("{} is called {name}", change.member.name);
                self.await_writing(request, Answer::Renamed(change, name), done, now);
            }
            Err(text) => self.answer(request, Err(text)),
        }
    }

    pub(super) fn forget_member(&mut self, request: RequestId, who: &str, now: Instant) {
        if self.is_revoked(who) {
            let who = Printable(who);
            let text = format!(
                "{who} is revoked, and its line in `members` keeps its key out: to let the key join again, delete the \
                 line, then `hub reload`"
            );
            return self.answer(request, Err(text));
        }
        let own = self.key.public();
        let found = self.admission.find(who).and_then(|id| {
            let member = self.admission.members().member(id);
            match member.is_online() {
                _ if member.key == own => Err(THIS_HUB.to_owned()),
                true => Err(format!("{0} is on the LAN: stop it there, or `hub revoke {0}`", member.name)),
                false => Ok(id),
            }
        });
        match found {
            Ok(id) => {
                let change = self.admission.members_mut().remove(id);
                self.carry_out(std::slice::from_ref(&change), now);
                let done = format!("{} is forgotten", change.member.name);
                self.await_writing(request, Answer::Forgotten(change), done, now);
            }
            Err(text) => self.answer(request, Err(text)),
        }
    }

    /// Whether who is named so is no member, but was one that was revoked.
    fn is_revoked(&self, who: &str) -> bool {
        let members = self.admission.members();
        let by_key = who.parse().is_ok_and(|key| members.is_revoked(&key));
        by_key || self.admission.find(who).is_err() && members.is_revoked_as(who)
    }
}
