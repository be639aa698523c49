//! What a session knows of another connection of the same machine. Pure.

use std::time::Instant;

use common::wire::pair::Pair;

use crate::ids::SessionId;

/// How a session stands to another connection of the same machine.
#[derive(Default)]
pub(super) enum Beside {
    /// There is none.
    #[default]
    Nothing,
    /// It has this lane.
    Lane(Box<Lane>),
    /// It is a lane of this session.
    Link(SessionId),
    /// It is to be one, once the hub at the other end has proved its key and has attached it.
    Asking(SessionId),
}

/// The lane of a session.
pub(super) struct Lane {
    pub(super) session: SessionId,
    pub(super) pair: Pair,
    pub(super) since: Instant,
    /// Whether the other end has said that it is over.
    pub(super) is_told: bool,
}

/// Why a lane is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoLane {
    /// There is no session of this key.
    NoSession,
    /// It has one.
    Second,
    /// The proof is not that of this session and this handshake.
    Forged,
}

impl NoLane {
    /// The reason in words.
    pub fn text(self) -> &'static str {
        match self {
            NoLane::NoSession => "there is no link of this key",
            NoLane::Second => "the link has a lane",
            NoLane::Forged => "the lane does not prove that it belongs to the link",
        }
    }
}
