//! What else is different in a list that was read anew than what its members are told of, for people. Pure.

use std::collections::{HashMap, HashSet};

use common::wire::key::PublicKey;
use common::wire::name::Name;

use super::edit::grants_equal;
use super::lines::Line;
use super::member::parse_revoked;
use super::{Member, Members};

/// A difference: whose line it is, as far as that says, and what became of it.
pub type Difference = (Option<Name>, &'static str);

impl Members {
    /// How many members there are, hubs left out.
    pub fn spokes(&self) -> usize {
        self.iter().filter(|(_, member)| member.hub.is_none()).count()
    }

    /// What a list that was read has beside the changes that `replace` returns: new members, hubs at other places, and keys
    /// that are revoked, or are no longer.
    pub(crate) fn differences(&self, read: &Members) -> Vec<Difference> {
        let of_member = |new: &Member| match self.by_key(&new.key).map(|id| self.member(id)) {
            None => Some("added"),
            Some(old) if !grants_equal(old, new) || old.tags != new.tags => None,
            Some(old) => (old.hub != new.hub).then_some("moved"),
        };
        let members = read.iter().filter_map(|(_, new)| Some((Some(new.name.clone()), of_member(new)?)));
        let mut differences: Vec<Difference> = members.collect();
        let keys = |list: &Members, other: &Members| -> HashSet<PublicKey> {
            let is_new = |key: &PublicKey| !other.is_revoked(key) && other.by_key(key).is_none();
            list.revoked.iter().copied().filter(is_new).collect()
        };
        for (list, other, what) in [(read, self, "revoked"), (self, read, "not revoked any more")] {
            let keys = keys(list, other);
            let mut names = list.names_of_revoked(&keys);
            differences.extend(keys.iter().map(|key| (names.remove(key), what)));
        }
        differences.sort();
        differences
    }

    fn names_of_revoked(&self, keys: &HashSet<PublicKey>) -> HashMap<PublicKey, Name> {
        let name = |line: &Line| {
            let Line::Text(text) = line else { return None };
            let key = parse_revoked(text).ok()?.filter(|key| keys.contains(key))?;
            Some((key, text.split_whitespace().nth(1)?.parse().ok()?))
        };
        if keys.is_empty() { HashMap::new() } else { self.lines.iter().filter_map(name).collect() }
    }
}

#[cfg(test)]
mod tests {
    use common::wire::key::PrivateKey;

    use super::*;
    use crate::lan::subnets::Subnets;

    #[test]
    fn what_is_edited_is_told_though_no_member_hears_of_it() {
        let [a, b, c, d, e] = [1, 2, 3, 4, 5].map(|seed| PrivateKey::from_random([seed; 32]).public());
        let parse = |text: String| {
            let subnets = Subnets::new(&["10.0.0.0/29".parse().unwrap()]).unwrap();
            Members::parse(&text, subnets).map_err(|bad| bad.why).unwrap()
        };
        let list =
            format!("{a} hub-a - hub=a\n{b} nas 10.0.0.3\n{c} old 10.0.0.4 revoked\n{d} gone - revoked\n");
        let mut members = parse(list.clone());
        assert_eq!(members.spokes(), 1);
        assert_eq!(members.differences(&parse(format!("# ours\n{list}"))), []);
        let edited = format!("{a} hub-a - hub=b\n{b} nas 10.0.0.5\n{c} old 10.0.0.4\n{e} - - revoked\n");
        let named = |differences: Vec<Difference>| -> Vec<String> {
            let name = |name: Option<Name>| name.map_or("-".to_owned(), |name| name.to_string());
            differences.into_iter().map(|(of, what)| format!("{} {what}", name(of))).collect()
        };
        let differences = named(members.differences(&parse(edited.clone())));
        assert_eq!(differences, ["- revoked", "gone not revoked any more", "hub-a moved", "old added"]);
        assert_eq!(members.replace(parse(edited)).len(), 1, "the address of nas is what its member hears of");
    }
}
