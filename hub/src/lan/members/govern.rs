//! Members whom a person lets in, renames, replaces or forgets. Pure.

use common::wire::key::PublicKey;
use common::wire::name::Name;

use super::edit::{Change, Outcome};
use super::member::{Member, Rights};
use super::{MAX_MEMBERS, Members};
use crate::ids::MemberId;

impl Members {
    /// Adds a member with this key, name and rights.
    ///
    /// # Errors
    /// A sentence that says what is taken or invalid; nothing is changed then.
    pub(crate) fn allow(&mut self, key: PublicKey, name: Name, rights: Rights) -> Result<MemberId, String> {
        self.check_key(&key)?;
        self.check_name(&name)?;
        if self.len() >= MAX_MEMBERS || self.is_full() {
            return Err("the list of members is full".to_owned());
        }
        let Rights { addresses, routes, tags } = rights;
        for &address in &addresses {
            self.subnets.check(address).map_err(|unfit| format!("{address} {unfit}"))?;
            if self.is_reserved(address) {
                return Err(format!("{address} is kept for a member that is invited"));
            }
        }
        let version = self.version().next();
        let member = Member { addresses, routes, tags, ..Member::new(key, name, version) };
        let id = self.insert(member)?;
        self.change();
        self.lines.push(id, None);
        Ok(id)
    }

    /// The name that a machine gets which would like to have this one.
    pub(crate) fn name_for(&mut self, wanted: &Name, key: &PublicKey) -> Name {
        self.free_name(wanted, key, None)
    }

    /// Gives a member the key of another machine, which takes its place.
    ///
    /// # Errors
    /// Where another member has the key, or had.
    pub(crate) fn rekey(&mut self, id: MemberId, key: PublicKey) -> Result<(), String> {
        self.check_key(&key)?;
        self.update(id, |member| member.key = key);
        Ok(())
    }

    /// Gives a member another name. Its link is for the caller to end.
    ///
    /// # Errors
    /// Where the name is taken, or none that a host can have.
    pub(crate) fn rename(&mut self, id: MemberId, name: Name) -> Result<Change, String> {
        self.check_name(&name)?;
        let member = self.member(id).clone();
        self.update(id, |member| member.name = name);
        Ok(Change { id, member, outcome: Outcome::Changed })
    }

    /// Takes a member off the list: its name and addresses are free.
    pub(crate) fn remove(&mut self, id: MemberId) -> Change {
        let member = self.member(id).clone();
        self.forget(id);
        Change { id, member, outcome: Outcome::Removed }
    }

    fn check_key(&self, key: &PublicKey) -> Result<(), String> {
        if self.is_revoked(key) {
            return Err(format!("{key} is revoked: delete its line in `members`, then `hub reload`"));
        }
        match self.by_key(key) {
            Some(id) => Err(format!("{} is the member with this key", self.member(id).name)),
            None => Ok(()),
        }
    }

    fn check_name(&self, name: &Name) -> Result<(), String> {
        name.check_host().map_err(|why| format!("{name}: {why}"))?;
        match self.by_name(name) {
            Some(_) => Err(format!("{name} is the name of another member")),
            None if self.hub_name() == Some(name) => Err(format!("{name} is the hub's own name")),
            None => Ok(()),
        }
    }
}
