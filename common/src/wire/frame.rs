//! Frames: what a tunnel carries once its records are opened. Pure.
//!
//! ```text
//! frame    u8 kind ‖ u24be length ‖ body
//! packet   body = virtio-net header (10 bytes, little-endian) ‖ IP packet
//! control  body = fields, each u8 tag ‖ u16be length ‖ value
//! ```
//! Unknown kinds and tags of 128 and above are skipped, below 128 they close the link: that is how the
//! protocol grows. The join request has no frame of its own: it is the payload of the third handshake
//! message, coded as the fields of a control frame.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::packet::MAX_PACKET;
use crate::wire::key::PublicKey;
use crate::wire::name::Name;
use crate::wire::place::Place;

mod fields;
mod parts;

use fields::{
    Fields, OfJoin, OfList, absence, hubs, key, list, presence, put, put_absence, put_address, put_edit,
    put_flag, put_hub, put_mark, put_network, put_peer, put_presence, put_record, put_term, put_token, tag,
};
use parts::OPTIONAL;
pub use parts::{
    BadFrame, Edit, HubInfo, INVITE_LEN, MAX_RECORD, MAX_ROUTES, MAX_TEXT, MAX_TOLD_HUBS, PageKind, Peer,
    Presence, Record, RecordId, Term,
};

/// Length of a frame's header.
pub const HEADER_LEN: usize = 4;
/// Longest body of any frame.
pub const MAX_BODY: usize = MAX_PACKET;
/// Most prefixes in one frame of routes that goes out; more of them take several frames.
pub const MAX_PREFIXES: usize = 1_000;
/// Most members in one frame that tells them.
pub const MAX_PEERS: usize = 400;
/// Longest body, in bytes, of a frame in which a hub tells another one who is on the LAN with it.
pub const MAX_PRESENCE: usize = 32 * 1024;
/// Longest body, in bytes, of a frame of records that goes out, but for one record that is longer.
pub const MAX_RECORDS: usize = 32 * 1024;

mod kind {
    pub(super) const PACKET: u8 = 1;
    pub(super) const WELCOME: u8 = 2;
    pub(super) const REFUSED: u8 = 3;
    pub(super) const PING: u8 = 4;
    pub(super) const PONG: u8 = 5;
    pub(super) const BYE: u8 = 6;
    pub(super) const ROUTES: u8 = 7;
    pub(super) const MEMBERS: u8 = 8;
    pub(super) const ASK_MEMBERS: u8 = 9;
    pub(super) const MEMBERS_CHANGED: u8 = 10;
    pub(super) const ONLINE: u8 = 11;
    pub(super) const OFFLINE: u8 = 12;
    pub(super) const REVOKED: u8 = 13;
    pub(super) const PENDING: u8 = 128;
    pub(super) const HUBS: u8 = 129;
    pub(super) const LANE: u8 = 130;
    pub(super) const KEEPER: u8 = 131;
    pub(super) const RECORDS: u8 = 132;
    pub(super) const ASK: u8 = 133;
    pub(super) const ANSWER: u8 = 134;
}

/// What a spoke asks for when it joins, or a hub that wants a link to another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Join {
    /// The name it would like.
    pub name: Name,
    /// Addresses it would like, at most one of each family; the hub chooses for a family that is missing.
    pub addresses: Vec<IpAddr>,
    /// Networks behind it, at most [`MAX_ROUTES`].
    pub routes: Vec<IpNetwork>,
    /// Largest packet that its device takes, where that is less than the LAN's.
    pub mtu: Option<u32>,
    /// Secret of the invite it holds.
    pub invite: Option<[u8; INVITE_LEN]>,
    /// Addresses that it had before, for a hub that has no record of it: no wish.
    pub had: Vec<IpAddr>,
    /// Counts the joins of this key, at whichever hub: the highest one is the newest.
    pub sequence: Option<u64>,
    /// Whether it is a hub that wants a link between hubs.
    pub is_hub: bool,
    /// Where spokes and hubs will reach it, if it is a hub that is new.
    pub place: Option<Place>,
}

/// What the hub grants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// The spoke's name on the LAN.
    pub name: Name,
    /// The spoke's addresses, with the prefix length of the subnet.
    pub addresses: Vec<IpNetwork>,
    /// The hub's own addresses.
    pub hub: Vec<IpAddr>,
    /// The LAN's MTU, in bytes of IP packet.
    pub mtu: u32,
    /// The networks behind the spoke that the hub takes, of those offered.
    pub routes: Vec<IpNetwork>,
    /// Whether this is a link between hubs from now on.
    pub is_hub: bool,
}

/// Declares an enum that travels as one byte, with room for what later versions say.
macro_rules! codes {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $code:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)+
            /// Of a later version.
            Other(u8),
        }

        impl $name {
            fn code(self) -> u8 {
                match self {
                    $($name::$variant => $code,)+
                    $name::Other(code) => code,
                }
            }

            fn from_code(code: u8) -> $name {
                match code {
                    $($code => $name::$variant,)+
                    other => $name::Other(other),
                }
            }
        }
    };
}

codes! {
    /// Why a spoke may not join.
    Refusal {
        /// The address is not one that a member can have.
        BadAddress = 1,
        /// Another member holds the address.
        AddressHeld = 2,
        /// No address, or no place in the list of members, is left.
        Full = 3,
        /// The hub is locked and does not know this key.
        Locked = 4,
        /// The invite is unknown, used or expired.
        BadInvite = 5,
        /// The member was revoked.
        Revoked = 6,
        /// The join request could not be read.
        BadRequest = 7,
        /// Another machine is on the LAN with the same key.
        KeyInUse = 8,
        /// The hub that keeps the list of members cannot be reached: later, or at another hub.
        Later = 9,
    }
}

codes! {
    /// Why an end says goodbye.
    Farewell {
        /// The process ends.
        Stopping = 1,
        /// The same key joined again, on another link.
        Replaced = 2,
        /// The member was revoked: it need not come back.
        Revoked = 3,
        /// The member lost its address to another one.
        AddressLost = 4,
        /// The member's rights were changed: it may come back and will find them.
        Changed = 5,
        /// The key joins more often than it may: it may come back later.
        TooOften = 6,
    }
}

codes! {
    /// What an end says about a second connection of the session.
    LaneNote {
        /// Hub, on the link: it takes one.
        Offered = 1,
        /// Hub, on the lane: it is attached, and packets may go by it.
        Attached = 2,
        /// Either end, on the link: nothing more is taken from the lane, nor sent by it.
        Closed = 3,
    }
}

/// A control frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlFrame {
    /// The hub lets the spoke in.
    Welcome(Welcome),
    /// The hub does not, and closes the link.
    Refused {
        /// The reason, for the program.
        reason: Refusal,
        /// The reason, for the person; printed escaped.
        text: String,
    },
    /// To be answered by a pong with the same token.
    Ping(u64),
    /// The answer.
    Pong(u64),
    /// The last frame of a link that closes in good order.
    Bye(Farewell),
    /// Changes to the prefixes that are reached through the hub. After a welcome, all of them are told.
    Routes {
        /// Reachable from now on; at most [`MAX_PREFIXES`].
        added: Vec<IpNetwork>,
        /// No longer; at most [`MAX_PREFIXES`].
        removed: Vec<IpNetwork>,
        /// Whether all that are reachable have been told on this link.
        all: bool,
    },
    /// A page of the list of members, the answer to `AskMembers`.
    Members {
        /// At most [`MAX_PEERS`] of them, in the order of their names.
        peers: Vec<Peer>,
        /// Which page it is.
        page: PageKind,
        /// The state of the list, which grows with each change while the link is up; earlier versions do not tell it.
        state: Option<u64>,
    },
    /// The spoke asks for a page of the list of members.
    AskMembers {
        /// The last name that it has; nothing asks for the first page.
        after: Option<Name>,
        /// Whether to be told of changes from now on.
        watch: bool,
        /// The state of the list that it has whole: then what has changed since is enough. Earlier versions skip it.
        since: Option<u64>,
    },
    /// To a spoke that watches: the list of members is another one now.
    MembersChanged,
    /// The hub is locked, and a person has to decide: the spoke waits on this link. One of an earlier version ends it.
    Pending,
    /// Between hubs: who is on the LAN through the one that tells, itself included.
    Online(Vec<Presence>),
    /// Between hubs: who is no longer, with the sequence that was told.
    Offline(Vec<(PublicKey, u64)>),
    /// Between hubs: keys whose membership was revoked.
    Revoked(Vec<PublicKey>),
    /// Hubs of the LAN, the one that tells first; at most [`MAX_TOLD_HUBS`]. Earlier versions skip it.
    Hubs(Vec<HubInfo>),
    /// About a lane. Earlier versions skip it.
    Lane(LaneNote),
    /// Between hubs: who keeps the list of members, as far as the one that tells knows.
    Keeper {
        /// Who.
        term: Term,
        /// Whether the one that tells wants all records.
        wants_all: bool,
    },
    /// Between hubs: records of the list of members, from the keeper.
    Records {
        /// Those that are other ones now, of at most [`MAX_RECORDS`] bytes.
        records: Vec<Record>,
        /// Whether all records follow, this frame's first.
        first: bool,
        /// Whether all records have been told since the first ones.
        last: bool,
    },
    /// Between hubs: the keeper is to change these records, all or none.
    Ask {
        /// Tells the answer apart.
        token: u64,
        /// The changes.
        edits: Vec<Edit>,
    },
    /// Between hubs: the answer.
    Answer {
        /// That of the question.
        token: u64,
        /// Why nothing is changed, if so; printed escaped.
        refused: Option<String>,
        /// The records as they are then.
        records: Vec<Record>,
    },
}

/// What a frame's header announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    kind: u8,
    /// Bytes of body that follow.
    pub len: usize,
}

impl Header {
    /// Reads a header from the front of `bytes`; `None` asks for more bytes.
    pub fn decode(bytes: &[u8]) -> Result<Option<Header>, BadFrame> {
        let Some(&[kind, high, middle, low]) = bytes.first_chunk() else { return Ok(None) };
        let len = u32::from_be_bytes([0, high, middle, low]) as usize;
        if len > MAX_BODY { Err(BadFrame) } else { Ok(Some(Header { kind, len })) }
    }

    /// The header of a packet frame with a body of `len` bytes, at most [`MAX_BODY`].
    pub fn packet(len: usize) -> [u8; HEADER_LEN] {
        encode_header(kind::PACKET, len)
    }

    /// Whether the body is a packet.
    pub fn is_packet(self) -> bool {
        self.kind == kind::PACKET
    }
}

/// Flags of a frame of records.
const FIRST: u8 = 1;
const LAST: u8 = 2;

fn encode_header(kind: u8, len: usize) -> [u8; HEADER_LEN] {
    debug_assert!(len <= MAX_BODY, "a frame of {len} bytes");
    let [_, .., high, middle, low] = (len as u64).to_be_bytes();
    [kind, high, middle, low]
}

impl ControlFrame {
    /// Reads the body behind `header`; `None` is a kind of a later version, to be skipped.
    pub fn decode(header: Header, body: &[u8]) -> Result<Option<ControlFrame>, BadFrame> {
        let mut fields = Fields::default();
        if header.kind < OPTIONAL && !matches!(header.kind, kind::ONLINE | kind::OFFLINE | kind::REVOKED) {
            fields = Fields::decode(body)?;
        }
        let control = match header.kind {
            kind::WELCOME => ControlFrame::Welcome(Welcome {
                name: fields.name.ok_or(BadFrame)?,
                addresses: fields.networks,
                hub: fields.addresses,
                mtu: fields.mtu.ok_or(BadFrame)?,
                routes: fields.granted,
                is_hub: fields.is_hub,
            }),
            kind::REFUSED => ControlFrame::Refused {
                reason: Refusal::from_code(fields.code.ok_or(BadFrame)?),
                text: fields.text.unwrap_or_default(),
            },
            kind::PING => ControlFrame::Ping(fields.token.ok_or(BadFrame)?),
            kind::PONG => ControlFrame::Pong(fields.token.ok_or(BadFrame)?),
            kind::BYE => ControlFrame::Bye(Farewell::from_code(fields.code.ok_or(BadFrame)?)),
            kind::ROUTES => ControlFrame::Routes {
                added: fields.networks,
                removed: fields.removed,
                all: fields.code.is_some(),
            },
            kind::MEMBERS => ControlFrame::Members {
                peers: fields.peers,
                page: PageKind::from_code(fields.code),
                state: fields.token,
            },
            kind::ASK_MEMBERS => ControlFrame::AskMembers {
                after: fields.name,
                watch: fields.code.is_some(),
                since: fields.token,
            },
            kind::MEMBERS_CHANGED => ControlFrame::MembersChanged,
            kind::ONLINE => ControlFrame::Online(list(body, tag::ONLINE, presence)?),
            kind::OFFLINE => ControlFrame::Offline(list(body, tag::OFFLINE, absence)?),
            kind::REVOKED => ControlFrame::Revoked(list(body, tag::KEY, key)?),
            kind::PENDING => ControlFrame::Pending,
            kind::HUBS => ControlFrame::Hubs(hubs(body)?),
            kind::LANE => ControlFrame::Lane(LaneNote::from_code(*body.first().ok_or(BadFrame)?)),
            kind::KEEPER => {
                let fields = OfList::decode(body)?;
                ControlFrame::Keeper { term: fields.term()?, wants_all: fields.code.is_some() }
            }
            kind::RECORDS => {
                let OfList { code, records, .. } = OfList::decode(body)?;
                let is = |flag: u8| code.unwrap_or_default() & flag != 0;
                ControlFrame::Records { records, first: is(FIRST), last: is(LAST) }
            }
            kind::ASK => {
                let OfList { token, edits, .. } = OfList::decode(body)?;
                ControlFrame::Ask { token: token.ok_or(BadFrame)?, edits }
            }
            kind::ANSWER => {
                let OfList { token, text, records, .. } = OfList::decode(body)?;
                ControlFrame::Answer { token: token.ok_or(BadFrame)?, refused: text, records }
            }
            later if later >= OPTIONAL => return Ok(None),
            _ => return Err(BadFrame),
        };
        Ok(Some(control))
    }

    /// Appends the whole frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&[0; HEADER_LEN]);
        let kind = match self {
            ControlFrame::Welcome(welcome) => {
                put(out, tag::NAME, welcome.name.as_str().as_bytes());
                welcome.addresses.iter().for_each(|&network| put_network(out, tag::NETWORK, network));
                welcome.hub.iter().for_each(|&address| put_address(out, tag::ADDRESS, address));
                put(out, tag::MTU, &welcome.mtu.to_be_bytes());
                welcome.routes.iter().for_each(|&route| put_network(out, tag::GRANTED, route));
                put_mark(out, tag::IS_HUB, welcome.is_hub);
                kind::WELCOME
            }
            ControlFrame::Refused { reason, text } => {
                put(out, tag::CODE, &[reason.code()]);
                put(out, tag::TEXT, text.chars().take(MAX_TEXT / 4).collect::<String>().as_bytes());
                kind::REFUSED
            }
            ControlFrame::Ping(token) => {
                put_token(out, *token);
                kind::PING
            }
            ControlFrame::Pong(token) => {
                put_token(out, *token);
                kind::PONG
            }
            ControlFrame::Bye(farewell) => {
                put(out, tag::CODE, &[farewell.code()]);
                kind::BYE
            }
            ControlFrame::Routes { added, removed, all } => {
                added.iter().for_each(|&network| put_network(out, tag::NETWORK, network));
                removed.iter().for_each(|&network| put_network(out, tag::REMOVED, network));
                put_flag(out, *all);
                kind::ROUTES
            }
            ControlFrame::Members { peers, page, state } => {
                peers.iter().for_each(|peer| put_peer(out, peer));
                page.code().iter().for_each(|code| put(out, tag::CODE, &[*code]));
                state.iter().for_each(|state| put_token(out, *state));
                kind::MEMBERS
            }
            ControlFrame::AskMembers { after, watch, since } => {
                if let Some(name) = after {
                    put(out, tag::NAME, name.as_str().as_bytes());
                }
                put_flag(out, *watch);
                since.iter().for_each(|since| put_token(out, *since));
                kind::ASK_MEMBERS
            }
            ControlFrame::MembersChanged => kind::MEMBERS_CHANGED,
            ControlFrame::Online(members) => {
                members.iter().for_each(|member| put_presence(out, member));
                kind::ONLINE
            }
            ControlFrame::Offline(members) => {
                members.iter().for_each(|(key, sequence)| put_absence(out, key, *sequence));
                kind::OFFLINE
            }
            ControlFrame::Revoked(keys) => {
                keys.iter().for_each(|key| put(out, tag::KEY, key.as_bytes()));
                kind::REVOKED
            }
            ControlFrame::Pending => kind::PENDING,
            ControlFrame::Hubs(hubs) => {
                hubs.iter().for_each(|hub| put_hub(out, hub));
                kind::HUBS
            }
            ControlFrame::Lane(note) => {
                out.push(note.code());
                kind::LANE
            }
            ControlFrame::Keeper { term, wants_all } => {
                put_term(out, term);
                put_flag(out, *wants_all);
                kind::KEEPER
            }
            ControlFrame::Records { records, first, last } => {
                let flags = [(*first, FIRST), (*last, LAST)].into_iter().filter(|(is_set, _)| *is_set);
                put(out, tag::CODE, &[flags.map(|(_, flag)| flag).sum()]);
                records.iter().for_each(|record| put_record(out, record));
                kind::RECORDS
            }
            ControlFrame::Ask { token, edits } => {
                put_token(out, *token);
                edits.iter().for_each(|edit| put_edit(out, edit));
                kind::ASK
            }
            ControlFrame::Answer { token, refused, records } => {
                put_token(out, *token);
                if let Some(text) = refused {
                    put(out, tag::TEXT, text.chars().take(MAX_TEXT / 4).collect::<String>().as_bytes());
                }
                records.iter().for_each(|record| put_record(out, record));
                kind::ANSWER
            }
        };
        let header = encode_header(kind, out.len() - start - HEADER_LEN);
        out[start..start + HEADER_LEN].copy_from_slice(&header);
    }
}

impl Welcome {
    /// To a member of this name, on a LAN with this MTU, and nothing else.
    pub fn new(name: Name, mtu: u32) -> Welcome {
        Welcome { name, addresses: vec![], hub: vec![], mtu, routes: vec![], is_hub: false }
    }
}

impl Join {
    /// A request of a machine that would like this name, and nothing else.
    pub fn new(name: Name) -> Join {
        Join {
            name,
            addresses: vec![],
            routes: vec![],
            mtu: None,
            invite: None,
            had: vec![],
            sequence: None,
            is_hub: false,
            place: None,
        }
    }

    /// The payload of the third handshake message. At most a few kilobytes: [`MAX_ROUTES`] bounds it.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put(&mut out, tag::NAME, self.name.as_str().as_bytes());
        self.addresses.iter().for_each(|&address| put_address(&mut out, tag::ADDRESS, address));
        self.routes.iter().for_each(|&route| put_network(&mut out, tag::NETWORK, route));
        if let Some(mtu) = self.mtu {
            put(&mut out, tag::MTU, &mtu.to_be_bytes());
        }
        if let Some(invite) = &self.invite {
            put(&mut out, tag::INVITE, invite);
        }
        self.had.iter().for_each(|&address| put_address(&mut out, tag::HAD, address));
        if let Some(sequence) = self.sequence {
            put(&mut out, tag::SEQUENCE, &sequence.to_be_bytes());
        }
        put_mark(&mut out, tag::IS_HUB, self.is_hub);
        if let Some(place) = &self.place {
            put(&mut out, tag::PLACE, place.to_string().as_bytes());
        }
        out
    }

    /// Reads the payload of the third handshake message.
    pub fn decode(payload: &[u8]) -> Result<Join, BadFrame> {
        let fields = Fields::decode(payload)?;
        let OfJoin { invite, had, sequence, place } = fields.of_join;
        let is_twice = |addresses: &[IpAddr]| {
            [true, false]
                .iter()
                .any(|&v4| addresses.iter().filter(|address| address.is_ipv4() == v4).count() > 1)
        };
        if is_twice(&fields.addresses) || is_twice(&had) || fields.networks.len() > MAX_ROUTES {
            return Err(BadFrame);
        }
        Ok(Join {
            name: fields.name.ok_or(BadFrame)?,
            addresses: fields.addresses,
            routes: fields.networks,
            mtu: fields.mtu,
            invite,
            had,
            sequence,
            is_hub: fields.is_hub,
            place,
        })
    }
}

#[cfg(test)]
mod tests;
