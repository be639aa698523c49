//! The prefixes that the hub announces. Pure.

use std::collections::{BTreeMap, BTreeSet};

use ipnetwork::IpNetwork;

use super::routes::{RouteMode, Skip, View, WAY_OUT};

/// Most prefixes that the hub may announce.
pub(super) const MAX_ANNOUNCED: usize = 50_000;
/// Most prefixes that are logged.
const MAX_EXPLAINED: usize = 1_000;

/// The prefixes that the hub has announced, on this link or on one before.
#[derive(Default)]
pub(super) struct LearnedRoutes {
    announced: BTreeSet<IpNetwork>,
    /// What earlier links announced, and this one has not yet.
    stale: BTreeSet<IpNetwork>,
    /// The prefixes that were logged.
    explained: BTreeSet<IpNetwork>,
    /// Whether the person knows that there are too many.
    told_too_many: bool,
    /// What was last asked to be installed.
    installed: BTreeMap<IpNetwork, RouteMode>,
}

impl LearnedRoutes {
    /// A new link begins: what is not announced on it will go, once it has announced all.
    pub(super) fn begin_link(&mut self) {
        self.stale = self.announced.clone();
    }

    /// Takes changes in; `all`: everything has been announced on this link. Whether there were too many of them, the
    /// first time.
    pub(super) fn update(&mut self, added: Vec<IpNetwork>, removed: &[IpNetwork], all: bool) -> bool {
        for prefix in removed {
            self.announced.remove(prefix);
        }
        let mut is_too_many = false;
        for prefix in added {
            self.stale.remove(&prefix);
            if self.announced.len() < MAX_ANNOUNCED {
                self.announced.insert(prefix);
            } else if !self.announced.contains(&prefix) {
                is_too_many = true;
            }
        }
        if all {
            for prefix in std::mem::take(&mut self.stale) {
                self.announced.remove(&prefix);
            }
        }
        is_too_many && !std::mem::replace(&mut self.told_too_many, true)
    }

    /// The ways out that the hub announces: of all that it may, there are not many.
    pub(super) fn way_outs(&self) -> Vec<IpNetwork> {
        self.announced.iter().filter(|prefix| prefix.prefix() <= WAY_OUT).copied().collect()
    }

    /// The routes to have now; `None` where there are none and were none.
    pub(super) fn plan(&mut self, view: &View<'_>) -> Option<BTreeMap<IpNetwork, RouteMode>> {
        if self.announced.is_empty() && self.installed.is_empty() {
            return None;
        }
        self.installed = view.plan(&self.announced);
        Some(self.installed.clone())
    }

    /// The prefixes of which the person has not heard yet, with what becomes of them. A hub that withdraws prefixes and
    /// announces them again does not fill the log.
    pub(super) fn explain(&mut self, view: &View<'_>) -> Vec<(IpNetwork, Result<RouteMode, Skip>)> {
        let room = MAX_EXPLAINED.saturating_sub(self.explained.len());
        let new: Vec<IpNetwork> = self.announced.difference(&self.explained).take(room).copied().collect();
        self.explained.extend(&new);
        new.into_iter().map(|prefix| (prefix, view.decide(prefix))).collect()
    }
}
