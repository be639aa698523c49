//! What frames are made of, and its bounds. Pure.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::wire::key::PublicKey;
use crate::wire::name::Name;
use crate::wire::place::Place;

/// Longest text in a control frame, in bytes.
pub const MAX_TEXT: usize = 1_000;
/// Most hubs that a member is told of.
pub const MAX_TOLD_HUBS: usize = 16;
/// Most routes that one spoke may offer.
pub const MAX_ROUTES: usize = 64;
/// Longest text of a record, in bytes.
pub const MAX_RECORD: usize = 8 * 1024;
/// Length of an invite's secret.
pub const INVITE_LEN: usize = 16;

/// Bytes that are no frame of this protocol: the link closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadFrame;

/// From here on, unknown kinds and tags are skipped.
pub(super) const OPTIONAL: u8 = 128;

/// One line of the list of members that the hub tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its name.
    pub name: Name,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Whether its tunnel is up.
    pub online: bool,
}

/// What a page of the list of members is of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageKind {
    /// There are more behind it.
    Part,
    /// The last one.
    Last,
    /// All that is another one than in a state that the spoke has; of who is gone, the name without addresses.
    Changes,
}

impl PageKind {
    pub(super) fn from_code(code: Option<u8>) -> PageKind {
        match code {
            None => PageKind::Part,
            Some(2) => PageKind::Changes,
            Some(_) => PageKind::Last,
        }
    }

    pub(super) fn code(self) -> Option<u8> {
        match self {
            PageKind::Part => None,
            PageKind::Last => Some(1),
            PageKind::Changes => Some(2),
        }
    }
}

/// A hub of the LAN, as one of them tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubInfo {
    /// The key that it proves.
    pub key: PublicKey,
    /// Where it is reached; `None` only for the hub that tells, which may not know.
    pub place: Option<Place>,
    /// Whether it wants its members to go elsewhere.
    pub is_draining: bool,
}

/// Which record of the list that hubs share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecordId {
    /// The member with this key.
    Member(PublicKey),
    /// The invite whose secret has this hash.
    Invite([u8; 32]),
    /// Who may join.
    Access,
}

/// A record of the list that hubs share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Which one.
    pub id: RecordId,
    /// Its text, at most [`MAX_RECORD`] bytes without control characters; `None` where there is none.
    pub text: Option<String>,
}

/// A change of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// The record as it is to be.
    pub record: Record,
    /// Its text as it was.
    pub before: Option<String>,
}

/// Who decides about the list that hubs share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Term {
    /// Of two keepers, the one with the higher number is the one.
    pub number: u64,
    /// The key of the hub that keeps the list.
    pub keeper: PublicKey,
}

/// A member that is on the LAN, as the hub tells that it is with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Presence {
    /// Its key.
    pub key: PublicKey,
    /// Of several hubs that tell of it, the one with the highest sequence is the one that it is with.
    pub sequence: u64,
    /// Since when it is on the LAN, by the clock of the hub where it came: Unix milliseconds.
    pub since: u64,
    /// The networks behind it that its hub takes, at most [`MAX_ROUTES`].
    pub routes: Vec<IpNetwork>,
}
