//! Why a tunnel fails. Pure.

use std::fmt;

use super::liveness::{DEAD_AFTER, HANDSHAKE_TIME};
use crate::wire::frame::BadFrame;
use crate::wire::hello::UnknownProtocol;
use crate::wire::key::PublicKey;
use crate::wire::noise::Failed;

/// What went wrong with a tunnel: its link closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The other end is not one of ours, or of another version.
    UnknownProtocol(UnknownProtocol),
    /// A handshake message was forged, damaged or too long.
    Handshake,
    /// The hub proved another key than the expected one.
    HubKey {
        /// The key it proved.
        seen: PublicKey,
    },
    /// A record was forged, damaged, replayed or out of order.
    Record,
    /// A frame is not part of this protocol, or came at the wrong time.
    Frame,
    /// The handshake took longer than [`HANDSHAKE_TIME`].
    TooSlow,
    /// Nothing was heard for [`DEAD_AFTER`].
    Silent,
    /// The other end does not read what it asked for.
    SendBufferFull,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::UnknownProtocol(unknown) => write!(f, "it {unknown}"),
            Error::Handshake => f.write_str("the handshake failed"),
            Error::HubKey { seen } => write!(f, "it has another key: {seen}"),
            Error::Record => f.write_str("a record was forged or damaged"),
            Error::Frame => f.write_str("a frame was invalid"),
            Error::TooSlow => write!(f, "no handshake within {} s", HANDSHAKE_TIME.as_secs()),
            Error::Silent => write!(f, "nothing heard for {} s", DEAD_AFTER.as_secs()),
            Error::SendBufferFull => f.write_str("it does not read"),
        }
    }
}

impl std::error::Error for Error {}

impl From<Failed> for Error {
    fn from(_: Failed) -> Error {
        Error::Record
    }
}

impl From<BadFrame> for Error {
    fn from(_: BadFrame) -> Error {
        Error::Frame
    }
}
