//! The names on the LAN: those of the members, and the hub's own. Pure.

use std::collections::BTreeMap;
use std::collections::btree_map::Range;
use std::ops::Bound;

use common::wire::name::Name;

use crate::ids::MemberId;

/// The numbers that are tried first for a taken name.
const FIRST_NUMBERS: std::ops::Range<usize> = 2..100;

/// Names, each of which one machine has.
#[derive(Debug)]
pub(super) struct Names {
    members: BTreeMap<Name, MemberId>,
    /// The name that the hub would like to have.
    wanted: Option<Name>,
    /// The one that it has.
    hub: Option<Name>,
    /// Where the search for a number goes on once the first ones are taken. It never goes back: each member with a numbered
    /// name costs one step, however often and by whom that name is wanted.
    passed: usize,
}

impl Default for Names {
    fn default() -> Names {
        Names { members: BTreeMap::new(), wanted: None, hub: None, passed: FIRST_NUMBERS.end }
    }
}

/// Whether a name is this one with a number behind it.
pub(super) fn is_numbered(name: &Name, wanted: &Name) -> bool {
    let number = name.as_str().rsplit_once('-').and_then(|(_, number)| number.parse().ok());
    number.is_some_and(|number| wanted.numbered(number) == *name)
}

impl Names {
    /// Sets the name that the hub would like to have.
    pub(super) fn set_hub(&mut self, name: Option<Name>) {
        self.wanted = name;
        self.name_hub();
    }

    /// The name that the hub would like to have.
    pub(super) fn wanted_by_hub(&self) -> Option<&Name> {
        self.wanted.as_ref()
    }

    /// The hub's name: a numbered one while a member has that which it would like to have.
    pub(super) fn hub(&self) -> Option<&Name> {
        self.hub.as_ref()
    }

    fn name_hub(&mut self) {
        self.hub = None;
        let Some(wanted) = self.wanted.clone() else { return };
        let is_free = !self.members.contains_key(&wanted);
        self.hub = Some(if is_free { wanted } else { self.numbered(&wanted, std::iter::empty(), None) });
    }

    /// Whether nobody has this name, or only this member.
    pub(super) fn is_free(&self, name: &Name, own: Option<MemberId>) -> bool {
        match self.members.get(name) {
            Some(&id) => Some(id) == own,
            None => self.hub.as_ref() != Some(name),
        }
    }

    /// This name with a number that makes it free: one of the first, one of these, or one that is still to be tried.
    pub(super) fn numbered(
        &mut self,
        wanted: &Name,
        numbers: impl Iterator<Item = usize>,
        own: Option<MemberId>,
    ) -> Name {
        let mut names = FIRST_NUMBERS.chain(numbers).map(|number| wanted.numbered(number));
        if let Some(name) = names.find(|name| self.is_free(name, own)) {
            return name;
        }
        loop {
            let name = wanted.numbered(self.passed);
            if self.is_free(&name, own) {
                return name;
            }
            self.passed += 1;
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
        let is_hubs = self.hub.as_ref() == Some(&name);
        self.members.insert(name, id);
        if is_hubs {
            self.name_hub();
        }
    }

    pub(super) fn remove(&mut self, name: &Name) {
        self.members.remove(name);
        if self.wanted.as_ref() == Some(name) {
            self.name_hub();
        }
    }

    /// Forgets all members.
    pub(super) fn clear_members(&mut self) {
        self.members.clear();
        self.name_hub();
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
        assert_eq!(names.hub(), Some(&name("server")));
        assert!(!names.is_free(&name("server"), None), "a newcomer gets another one");
        // A member of a text of an earlier version, or one that a person wrote.
        names.insert(name("server"), MemberId::new(1));
        names.insert(name("server-2"), MemberId::new(2));
        assert_eq!(names.hub(), Some(&name("server-3")));
        assert!(names.is_free(&name("server"), Some(MemberId::new(1))), "it keeps its name");
        assert!(!names.is_free(&name("server-3"), None));
        names.remove(&name("server"));
        assert_eq!(names.hub(), Some(&name("server")));
    }

    #[test]
    fn each_name_that_is_taken_costs_one_step_of_a_search_however_often_it_is_searched_for() {
        let name = |text: &str| text.parse::<Name>().unwrap();
        let (x, taken) = (name("x"), 10_000);
        let mut names = Names::default();
        names.set_hub(Some(x.clone()));
        (2..taken).for_each(|number| names.insert(x.numbered(number), MemberId::new(number)));
        for first in [taken, taken + 1] {
            names.insert(x.clone(), MemberId::new(1));
            assert_eq!((names.hub(), names.passed), (Some(&x.numbered(first)), first));
            let free = names.numbered(&x, std::iter::once(7), None);
            assert_eq!((free, names.passed), (x.numbered(first + 1), first + 1));
            // There is a smaller one now: it is not searched for again.
            names.remove(&x.numbered(first / 2));
            names.remove(&x);
            assert_eq!(names.hub(), Some(&x));
        }
        names.remove(&x.numbered(50));
        assert_eq!(names.numbered(&x, std::iter::empty(), None), x.numbered(50), "but for the first ones");
    }

    #[test]
    fn a_name_with_a_number_is_known_by_the_one_without() {
        let name = |text: &str| text.parse::<Name>().unwrap();
        let (long, is) = ("a".repeat(63), |one: &str, other: &str| is_numbered(&name(one), &name(other)));
        assert!(
            is("web-2", "web") && is("web-2-30", "web-2") && is(name(&long).numbered(70).as_str(), &long)
        );
        assert!(!is("web", "web") && !is("web-02", "web") && !is("web-a", "web") && !is("web-2-30", "web"));
    }
}
