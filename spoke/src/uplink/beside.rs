//! What a link knows of its second connection: whether the hub takes one, when one is worth it, and the one that is open. Pure.

use std::time::Instant;

use common::wire::need::Need;
use common::wire::pair::Pair;

/// What is known about the lane of a link.
#[derive(Debug, Default)]
pub(super) struct Lane {
    /// Whether the hub takes one.
    pub(super) is_offered: bool,
    pub(super) need: Need,
    pub(super) open: Option<Open>,
}

/// A lane that is open.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) slot: usize,
    pub(super) pair: Pair,
    pub(super) since: Instant,
}
