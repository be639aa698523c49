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

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

use crate::packet::MAX_PACKET;
use crate::wire::key::PublicKey;
use crate::wire::name::Name;
use crate::wire::place::Place;

/// Length of a frame's header.
pub const HEADER_LEN: usize = 4;
/// Longest body of any frame.
pub const MAX_BODY: usize = MAX_PACKET;
/// Longest text in a control frame, in bytes.
pub const MAX_TEXT: usize = 1_000;
/// Most prefixes in one frame of routes that goes out; more of them take several frames.
pub const MAX_PREFIXES: usize = 1_000;
/// Most members in one frame that tells them.
pub const MAX_PEERS: usize = 400;
/// Most hubs that one frame tells of.
pub const MAX_HUBS: usize = 16;
/// Most routes that one spoke may offer.
pub const MAX_ROUTES: usize = 64;
/// Length of an invite's secret.
pub const INVITE_LEN: usize = 16;

/// Bytes that are no frame of this protocol: the link closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadFrame;

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
    /// From here on, unknown kinds and tags are skipped.
    pub(super) const OPTIONAL: u8 = 128;
    pub(super) const PENDING: u8 = 128;
    pub(super) const HUBS: u8 = 129;
}

/// What a spoke asks for when it joins.
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
        /// Whether this is the last page.
        last: bool,
    },
    /// The spoke asks for a page of the list of members.
    AskMembers {
        /// The last name that it has; nothing asks for the first page.
        after: Option<Name>,
        /// Whether to be told of changes from now on.
        watch: bool,
    },
    /// To a spoke that watches: the list of members is another one now.
    MembersChanged,
    /// The hub is locked, and a person has to decide: the spoke waits on this link. One of an earlier version ends it.
    Pending,
    /// All hubs of the LAN, the one that tells among them; at most [`MAX_HUBS`]. Earlier versions skip it.
    Hubs(Vec<HubInfo>),
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

fn encode_header(kind: u8, len: usize) -> [u8; HEADER_LEN] {
    debug_assert!(len <= MAX_BODY, "a frame of {len} bytes");
    let [_, .., high, middle, low] = (len as u64).to_be_bytes();
    [kind, high, middle, low]
}

impl ControlFrame {
    /// Reads the body behind `header`; `None` is a kind of a later version, to be skipped.
    pub fn decode(header: Header, body: &[u8]) -> Result<Option<ControlFrame>, BadFrame> {
        let mut fields = Fields::default();
        if header.kind < kind::OPTIONAL {
            fields = Fields::decode(body)?;
        }
        let control = match header.kind {
            kind::WELCOME => ControlFrame::Welcome(Welcome {
                name: fields.name.ok_or(BadFrame)?,
                addresses: fields.networks,
                hub: fields.addresses,
                mtu: fields.mtu.ok_or(BadFrame)?,
                routes: fields.granted,
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
            kind::MEMBERS => ControlFrame::Members { peers: fields.peers, last: fields.code.is_some() },
            kind::ASK_MEMBERS => {
                ControlFrame::AskMembers { after: fields.name, watch: fields.code.is_some() }
            }
            kind::MEMBERS_CHANGED => ControlFrame::MembersChanged,
            kind::PENDING => ControlFrame::Pending,
            kind::HUBS => ControlFrame::Hubs(hubs(body)?),
            later if later >= kind::OPTIONAL => return Ok(None),
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
                kind::WELCOME
            }
            ControlFrame::Refused { reason, text } => {
                put(out, tag::CODE, &[reason.code()]);
                put(out, tag::TEXT, text.chars().take(MAX_TEXT / 4).collect::<String>().as_bytes());
                kind::REFUSED
            }
            ControlFrame::Ping(token) => {
                put(out, tag::TOKEN, &token.to_be_bytes());
                kind::PING
            }
            ControlFrame::Pong(token) => {
                put(out, tag::TOKEN, &token.to_be_bytes());
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
            ControlFrame::Members { peers, last } => {
                peers.iter().for_each(|peer| put_peer(out, peer));
                put_flag(out, *last);
                kind::MEMBERS
            }
            ControlFrame::AskMembers { after, watch } => {
                if let Some(name) = after {
                    put(out, tag::NAME, name.as_str().as_bytes());
                }
                put_flag(out, *watch);
                kind::ASK_MEMBERS
            }
            ControlFrame::MembersChanged => kind::MEMBERS_CHANGED,
            ControlFrame::Pending => kind::PENDING,
            ControlFrame::Hubs(hubs) => {
                hubs.iter().for_each(|hub| put_hub(out, hub));
                kind::HUBS
            }
        };
        let header = encode_header(kind, out.len() - start - HEADER_LEN);
        out[start..start + HEADER_LEN].copy_from_slice(&header);
    }
}

impl Join {
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
        out
    }

    /// Reads the payload of the third handshake message.
    pub fn decode(payload: &[u8]) -> Result<Join, BadFrame> {
        let fields = Fields::decode(payload)?;
        let is_twice = |addresses: &[IpAddr]| {
            [true, false]
                .iter()
                .any(|&v4| addresses.iter().filter(|address| address.is_ipv4() == v4).count() > 1)
        };
        if is_twice(&fields.addresses) || is_twice(&fields.had) || fields.networks.len() > MAX_ROUTES {
            return Err(BadFrame);
        }
        Ok(Join {
            name: fields.name.ok_or(BadFrame)?,
            addresses: fields.addresses,
            routes: fields.networks,
            mtu: fields.mtu,
            invite: fields.invite,
            had: fields.had,
        })
    }
}

mod tag {
    pub(super) const NAME: u8 = 1;
    pub(super) const ADDRESS: u8 = 2;
    pub(super) const NETWORK: u8 = 3;
    pub(super) const REMOVED: u8 = 4;
    pub(super) const MTU: u8 = 5;
    pub(super) const INVITE: u8 = 6;
    pub(super) const CODE: u8 = 7;
    pub(super) const TEXT: u8 = 8;
    pub(super) const TOKEN: u8 = 9;
    pub(super) const PEER: u8 = 10;
    pub(super) const GRANTED: u8 = 11;
    pub(super) const HUB: u8 = 12;
    /// A hub may do without.
    pub(super) const HAD: u8 = 128;
}

/// The fields of one control frame, whichever kind it is; a later one of the same tag wins or joins the list.
#[derive(Default)]
struct Fields {
    name: Option<Name>,
    addresses: Vec<IpAddr>,
    networks: Vec<IpNetwork>,
    removed: Vec<IpNetwork>,
    granted: Vec<IpNetwork>,
    mtu: Option<u32>,
    invite: Option<[u8; INVITE_LEN]>,
    had: Vec<IpAddr>,
    code: Option<u8>,
    text: Option<String>,
    token: Option<u64>,
    peers: Vec<Peer>,
}

impl Fields {
    fn decode(mut body: &[u8]) -> Result<Fields, BadFrame> {
        let mut fields = Fields::default();
        while let Some((tag, value, rest)) = next_field(body)? {
            body = rest;
            match tag {
                tag::NAME => fields.name = Some(name(value)?),
                tag::ADDRESS => fields.addresses.push(address(value)?),
                tag::NETWORK => fields.networks.push(network(value)?),
                tag::REMOVED => fields.removed.push(network(value)?),
                tag::GRANTED => fields.granted.push(network(value)?),
                tag::MTU => fields.mtu = Some(u32::from_be_bytes(exactly(value)?)),
                tag::INVITE => fields.invite = Some(exactly(value)?),
                tag::CODE => fields.code = Some(u8::from_be_bytes(exactly(value)?)),
                tag::TEXT if value.len() <= MAX_TEXT => fields.text = Some(text(value)?.to_owned()),
                tag::TOKEN => fields.token = Some(u64::from_be_bytes(exactly(value)?)),
                tag::PEER => fields.peers.push(peer(value)?),
                tag::HAD => fields.had.push(address(value)?),
                tag if tag >= kind::OPTIONAL => {}
                _ => return Err(BadFrame),
            }
        }
        Ok(fields)
    }
}

/// A field's tag and value, and what is behind it.
type Field<'a> = (u8, &'a [u8], &'a [u8]);

fn next_field(body: &[u8]) -> Result<Option<Field<'_>>, BadFrame> {
    if body.is_empty() {
        return Ok(None);
    }
    let (&[tag, high, low], rest) = body.split_first_chunk().ok_or(BadFrame)?;
    let (value, rest) = rest.split_at_checked(u16::from_be_bytes([high, low]).into()).ok_or(BadFrame)?;
    Ok(Some((tag, value, rest)))
}

fn exactly<const N: usize>(value: &[u8]) -> Result<[u8; N], BadFrame> {
    value.try_into().map_err(|_| BadFrame)
}

fn text(value: &[u8]) -> Result<&str, BadFrame> {
    std::str::from_utf8(value).map_err(|_| BadFrame)
}

fn name(value: &[u8]) -> Result<Name, BadFrame> {
    text(value)?.parse().map_err(|_| BadFrame)
}

fn address(value: &[u8]) -> Result<IpAddr, BadFrame> {
    match value.len() {
        4 => Ok(Ipv4Addr::from(exactly(value)?).into()),
        16 => Ok(Ipv6Addr::from(exactly(value)?).into()),
        _ => Err(BadFrame),
    }
}

/// Prefix length, then the address; host bits are kept, as an address with its subnet's prefix has some.
fn network(value: &[u8]) -> Result<IpNetwork, BadFrame> {
    let (&prefix, rest) = value.split_first().ok_or(BadFrame)?;
    IpNetwork::new(address(rest)?, prefix).map_err(|_| BadFrame)
}

/// Online flag, length of the name, the name, then fields of addresses.
fn peer(value: &[u8]) -> Result<Peer, BadFrame> {
    let (&[online, name_len], rest) = value.split_first_chunk().ok_or(BadFrame)?;
    let (name_bytes, mut rest) = rest.split_at_checked(name_len.into()).ok_or(BadFrame)?;
    let mut addresses = Vec::new();
    while let Some((tag, value, behind)) = next_field(rest)? {
        rest = behind;
        match tag {
            tag::ADDRESS => addresses.push(address(value)?),
            kind::OPTIONAL.. => {}
            _ => return Err(BadFrame),
        }
    }
    Ok(Peer { name: name(name_bytes)?, addresses, online: online != 0 })
}

/// The first flag: the hub is draining. Others are of later versions.
const DRAINING: u8 = 1;

/// The hubs that can be read, up to [`MAX_HUBS`].
fn hubs(mut body: &[u8]) -> Result<Vec<HubInfo>, BadFrame> {
    let mut hubs = Vec::new();
    while let Some((tag, value, rest)) = next_field(body)? {
        body = rest;
        match tag {
            tag::HUB if hubs.len() < MAX_HUBS => hubs.extend(hub(value)?),
            tag::HUB | kind::OPTIONAL.. => {}
            _ => return Err(BadFrame),
        }
    }
    Ok(hubs)
}

/// Flags, the key, and the place as text, which may be empty; `None` for a place that only later versions can read.
fn hub(value: &[u8]) -> Result<Option<HubInfo>, BadFrame> {
    let (&[flags], rest) = value.split_first_chunk().ok_or(BadFrame)?;
    let (key, place) = rest.split_first_chunk().ok_or(BadFrame)?;
    let key = PublicKey::from_bytes(*key).ok_or(BadFrame)?;
    let place = match text(place)? {
        "" => None,
        place => match place.parse() {
            Ok(place) => Some(place),
            Err(_) => return Ok(None),
        },
    };
    Ok(Some(HubInfo { key, place, is_draining: flags & DRAINING != 0 }))
}

fn put_hub(out: &mut Vec<u8>, HubInfo { key, place, is_draining }: &HubInfo) {
    let mut value = vec![if *is_draining { DRAINING } else { 0 }];
    value.extend_from_slice(key.as_bytes());
    value.extend_from_slice(place.as_ref().map(Place::to_string).unwrap_or_default().as_bytes());
    put(out, tag::HUB, &value);
}

fn put(out: &mut Vec<u8>, tag: u8, value: &[u8]) {
    debug_assert!(value.len() <= usize::from(u16::MAX), "a field of {} bytes", value.len());
    out.push(tag);
    out.extend_from_slice(&(value.len() as u16).to_be_bytes());
    out.extend_from_slice(value);
}

/// A flag is a code that is there or not.
fn put_flag(out: &mut Vec<u8>, flag: bool) {
    if flag {
        put(out, tag::CODE, &[1]);
    }
}

fn put_address(out: &mut Vec<u8>, tag: u8, address: IpAddr) {
    match address {
        IpAddr::V4(v4) => put(out, tag, &v4.octets()),
        IpAddr::V6(v6) => put(out, tag, &v6.octets()),
    }
}

fn put_network(out: &mut Vec<u8>, tag: u8, network: IpNetwork) {
    let prefix = [network.prefix()];
    match network.ip() {
        IpAddr::V4(v4) => put(out, tag, &[&prefix[..], &v4.octets()].concat()),
        IpAddr::V6(v6) => put(out, tag, &[&prefix[..], &v6.octets()].concat()),
    }
}

fn put_peer(out: &mut Vec<u8>, peer: &Peer) {
    let name = peer.name.as_str().as_bytes();
    let mut value = vec![u8::from(peer.online), name.len() as u8];
    value.extend_from_slice(name);
    peer.addresses.iter().for_each(|&address| put_address(&mut value, tag::ADDRESS, address));
    put(out, tag::PEER, &value);
}

#[cfg(test)]
mod tests;
