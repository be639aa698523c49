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
