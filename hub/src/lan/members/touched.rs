//! The names that were touched last, so that who has read the list hears of changes alone. Pure.

use std::collections::{BTreeSet, VecDeque};

use common::wire::name::Name;

use super::Version;

/// How many of them are kept.
const MOST: usize = 1_024;

/// Names of members that came, went or changed, each with a state of the list that has it.
#[derive(Debug, Default)]
pub(super) struct Touched {
    names: VecDeque<(Version, Name)>,
    /// What was touched up to this state is not known any more.
    forgotten: Version,
}

impl Touched {
    /// Notes a name that is another one's from this state on.
    pub(super) fn note(&mut self, version: Version, name: Name) {
        if self.names.len() >= MOST
            && let Some((version, _)) = self.names.pop_front()
        {
            self.forgotten = version;
        }
        self.names.push_back((version, name));
    }

    /// Notes that in this state any name may be another one's.
    pub(super) fn note_all(&mut self, version: Version) {
        self.names.clear();
        self.forgotten = version;
    }

    /// All names that were touched since this state, unless more were than are known.
    pub(super) fn since(&self, state: Version) -> Option<BTreeSet<&Name>> {
        let touched = self.names.iter().filter(|(version, _)| *version > state);
        (state >= self.forgotten).then(|| touched.map(|(_, name)| name).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_touched_since_a_state_is_known_for_a_while() {
        let name = |at: u64| format!("m{at}").parse::<Name>().unwrap();
        let mut touched = Touched::default();
        let most = MOST as u64;
        (1..=most).for_each(|at| touched.note(Version::after(at), name(at)));
        assert_eq!(touched.since(Version::after(0)).map(|names| names.len()), Some(MOST));
        assert_eq!(touched.since(Version::after(most - 1)), Some([&name(most)].into()));
        touched.note(Version::after(most + 1), name(most));
        assert_eq!(touched.since(Version::after(0)), None, "the first one is forgotten");
        assert_eq!(touched.since(Version::after(most - 1)), Some([&name(most)].into()), "told once");
        touched.note_all(Version::after(most + 2));
        assert_eq!(touched.since(Version::after(most + 1)), None);
        assert_eq!(touched.since(Version::after(most + 2)), Some(BTreeSet::new()));
    }
}
