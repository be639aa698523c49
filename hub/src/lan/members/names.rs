//! The names on the LAN: those of the members, and the hub's own. Pure.

use std::collections::BTreeMap;
use std::collections::btree_map::Range;
use std::ops::Bound;

use common::wire::name::Name;

use crate::ids::MemberId;

/// Names, each of which one machine has.
#[derive(Debug, Default)]
pub(super) struct Names {
    members: BTreeMap<Name, MemberId>,
    /// The hub's, unless a member has it.
    hub: Option<Name>,
}

impl Names {
    /// Sets the name that the hub would like to have.
    pub(super) fn set_hub(&mut self, name: Option<Name>) {
        self.hub = name;
    }

    /// The name that the hub would like to have.
    pub(super) fn wanted_by_hub(&self) -> Option<&Name> {
        self.hub.as_ref()
    }

    /// The hub's name: a numbered one while a member has that which it would like to have.
    pub(super) fn hub(&self) -> Option<Name> {
        let wanted = self.hub.as_ref()?;
        if !self.members.contains_key(wanted) {
            return Some(wanted.clone());
        }
        (2..).map(|number| wanted.numbered(number)).find(|name| !self.members.contains_key(name))
    }

    /// Whether nobody has this name, or only this member.
    pub(super) fn is_free(&self, name: &Name, own: Option<MemberId>) -> bool {
        match self.members.get(name) {
            Some(&id) => Some(id) == own,
            None => self.hub().as_ref() != Some(name),
        }
    }

    /// The member with this name.
    pub(super) fn member(&self, name: &Name) -> Option<MemberId> {
        self.members.get(name).copied()
    }

    /// All names of members.
    pub(super) fn members(&self) -> &BTreeMap<Name, MemberId> {
        &self.members
    }

    /// Members from the first name after this one on.
    pub(super) fn after(&self, name: Option<&Name>) -> Range<'_, Name, MemberId> {
        let from = name.map_or(Bound::Unbounded, Bound::Excluded);
        self.members.range((from, Bound::Unbounded))
    }

    pub(super) fn insert(&mut self, name: Name, id: MemberId) {
        self.members.insert(name, id);
    }

    pub(super) fn remove(&mut self, name: &Name) {
        self.members.remove(name);
    }

    /// Forgets all members.
    pub(super) fn clear_members(&mut self) {
        self.members.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hub_and_a_member_never_have_the_same_name() {
        let name = |text: &str| text.parse::<Name>().unwrap();
        let mut names = Names::default();
        assert_eq!(names.hub(), None);
        assert!(names.is_free(&name("server"), None));
        names.set_hub(Some(name("server")));
        assert_eq!(names.hub(), Some(name("server")));
        assert!(!names.is_free(&name("server"), None), "a newcomer gets another one");
        // A member of a text of an earlier version, or one that a person wrote.
        names.insert(name("server"), MemberId::new(1));
        names.insert(name("server-2"), MemberId::new(2));
        assert_eq!(names.hub(), Some(name("server-3")));
        assert!(names.is_free(&name("server"), Some(MemberId::new(1))), "it keeps its name");
        assert!(!names.is_free(&name("server-3"), None));
        names.remove(&name("server"));
        assert_eq!(names.hub(), Some(name("server")));
    }
}
