//! The fields of frames: each `u8 tag ‖ u16be length ‖ value`. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

use super::parts::{
    BadFrame, Edit, HubInfo, INVITE_LEN, MAX_RECORD, MAX_ROUTES, MAX_TEXT, MAX_TOLD_HUBS, OPTIONAL, Peer,
    Presence, Record, RecordId, Term,
};
use crate::wire::key::PublicKey;
use crate::wire::name::Name;
use crate::wire::place::Place;

pub(super) mod tag {
    pub(in crate::wire::frame) const NAME: u8 = 1;
    pub(in crate::wire::frame) const ADDRESS: u8 = 2;
    pub(in crate::wire::frame) const NETWORK: u8 = 3;
    pub(in crate::wire::frame) const REMOVED: u8 = 4;
    pub(in crate::wire::frame) const MTU: u8 = 5;
    pub(in crate::wire::frame) const INVITE: u8 = 6;
    pub(in crate::wire::frame) const CODE: u8 = 7;
    pub(in crate::wire::frame) const TEXT: u8 = 8;
    pub(in crate::wire::frame) const TOKEN: u8 = 9;
    pub(in crate::wire::frame) const PEER: u8 = 10;
    pub(in crate::wire::frame) const GRANTED: u8 = 11;
    pub(in crate::wire::frame) const HUB: u8 = 12;
    pub(in crate::wire::frame) const ONLINE: u8 = 13;
    pub(in crate::wire::frame) const OFFLINE: u8 = 14;
    pub(in crate::wire::frame) const KEY: u8 = 15;
    pub(in crate::wire::frame) const RECORD: u8 = 16;
    pub(in crate::wire::frame) const EDIT: u8 = 17;
    /// From here on, a hub may do without.
    pub(in crate::wire::frame) const HAD: u8 = 128;
    pub(in crate::wire::frame) const SEQUENCE: u8 = 129;
    pub(in crate::wire::frame) const IS_HUB: u8 = 130;
    pub(in crate::wire::frame) const PLACE: u8 = 131;
}

/// The fields of one control frame, whichever kind it is; a later one of the same tag wins or joins the list.
#[derive(Default)]
pub(super) struct Fields {
    pub(super) name: Option<Name>,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) networks: Vec<IpNetwork>,
    pub(super) removed: Vec<IpNetwork>,
    pub(super) granted: Vec<IpNetwork>,
    pub(super) mtu: Option<u32>,
    pub(super) code: Option<u8>,
    pub(super) text: Option<String>,
    pub(super) token: Option<u64>,
    pub(super) peers: Vec<Peer>,
    pub(super) is_hub: bool,
    pub(super) of_join: OfJoin,
}

/// Those that only a join request has.
#[derive(Default)]
pub(super) struct OfJoin {
    pub(super) invite: Option<[u8; INVITE_LEN]>,
    pub(super) had: Vec<IpAddr>,
    pub(super) sequence: Option<u64>,
    pub(super) place: Option<Place>,
}

/// What [`Term`], [`Record`] and [`Edit`] travel in.
#[derive(Default)]
pub(super) struct OfList {
    pub(super) code: Option<u8>,
    pub(super) token: Option<u64>,
    pub(super) keeper: Option<PublicKey>,
    pub(super) text: Option<String>,
    pub(super) records: Vec<Record>,
    pub(super) edits: Vec<Edit>,
}

impl OfList {
    pub(super) fn decode(mut body: &[u8]) -> Result<OfList, BadFrame> {
        let mut fields = OfList::default();
        while let Some((tag, value, rest)) = next_field(body)? {
            body = rest;
            match tag {
                tag::CODE => fields.code = Some(u8::from_be_bytes(exactly(value)?)),
                tag::TOKEN => fields.token = Some(u64::from_be_bytes(exactly(value)?)),
                tag::KEY => fields.keeper = Some(key(value)?),
                tag::TEXT if value.len() <= MAX_TEXT => fields.text = Some(text(value)?.to_owned()),
                tag::RECORD => fields.records.push(record(value)?),
                tag::EDIT => fields.edits.push(edit(value)?),
                OPTIONAL.. => {}
                _ => return Err(BadFrame),
            }
        }
        Ok(fields)
    }

    pub(super) fn term(&self) -> Result<Term, BadFrame> {
        Ok(Term { number: self.token.ok_or(BadFrame)?, keeper: self.keeper.ok_or(BadFrame)? })
    }
}

mod record {
    pub(super) const MEMBER: u8 = 1;
    pub(super) const INVITE: u8 = 2;
    pub(super) const ACCESS: u8 = 3;
}

/// Kind, what names it, then its text as a field, if there is one.
fn record(value: &[u8]) -> Result<Record, BadFrame> {
    let (&kind, rest) = value.split_first().ok_or(BadFrame)?;
    let (id, rest) = match kind {
        record::ACCESS => (RecordId::Access, rest),
        record::MEMBER | record::INVITE => {
            let (bytes, rest) = rest.split_first_chunk::<32>().ok_or(BadFrame)?;
            let id = match kind {
                record::INVITE => RecordId::Invite(*bytes),
                _ => RecordId::Member(PublicKey::from_bytes(*bytes).ok_or(BadFrame)?),
            };
            (id, rest)
        }
        _ => return Err(BadFrame),
    };
    let text = list(rest, tag::TEXT, record_text)?.pop();
    Ok(Record { id, text })
}

/// It is one line of a file.
fn record_text(value: &[u8]) -> Result<String, BadFrame> {
    let is_line = |text: &&str| text.len() <= MAX_RECORD && !text.contains(char::is_control);
    text(value).ok().filter(is_line).map(str::to_owned).ok_or(BadFrame)
}

/// The record as it is to be, as a field, then its text as it was, if there was one.
fn edit(value: &[u8]) -> Result<Edit, BadFrame> {
    let (tag, head, rest) = next_field(value)?.ok_or(BadFrame)?;
    if tag != tag::RECORD {
        return Err(BadFrame);
    }
    Ok(Edit { record: record(head)?, before: list(rest, tag::TEXT, record_text)?.pop() })
}

pub(super) fn put_record(out: &mut Vec<u8>, Record { id, text }: &Record) {
    let mut value = match id {
        RecordId::Member(key) => [&[record::MEMBER], &key.as_bytes()[..]].concat(),
        RecordId::Invite(hash) => [&[record::INVITE], &hash[..]].concat(),
        RecordId::Access => vec![record::ACCESS],
    };
    text.iter().for_each(|text| put(&mut value, tag::TEXT, text.as_bytes()));
    put(out, tag::RECORD, &value);
}

pub(super) fn put_edit(out: &mut Vec<u8>, Edit { record, before }: &Edit) {
    let mut value = Vec::new();
    put_record(&mut value, record);
    before.iter().for_each(|text| put(&mut value, tag::TEXT, text.as_bytes()));
    put(out, tag::EDIT, &value);
}

pub(super) fn put_term(out: &mut Vec<u8>, Term { number, keeper }: &Term) {
    put(out, tag::TOKEN, &number.to_be_bytes());
    put(out, tag::KEY, keeper.as_bytes());
}

impl Fields {
    pub(super) fn decode(mut body: &[u8]) -> Result<Fields, BadFrame> {
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
                tag::INVITE => fields.of_join.invite = Some(exactly(value)?),
                tag::CODE => fields.code = Some(u8::from_be_bytes(exactly(value)?)),
                tag::TEXT if value.len() <= MAX_TEXT => fields.text = Some(text(value)?.to_owned()),
                tag::TOKEN => fields.token = Some(u64::from_be_bytes(exactly(value)?)),
                tag::PEER => fields.peers.push(peer(value)?),
                tag::HAD => fields.of_join.had.push(address(value)?),
                tag::SEQUENCE => fields.of_join.sequence = Some(u64::from_be_bytes(exactly(value)?)),
                tag::IS_HUB => fields.is_hub = true,
                tag::PLACE => fields.of_join.place = text(value)?.parse().ok(),
                tag if tag >= OPTIONAL => {}
                _ => return Err(BadFrame),
            }
        }
        Ok(fields)
    }
}

/// A field's tag and value, and what is behind it.
type Field<'a> = (u8, &'a [u8], &'a [u8]);

pub(super) fn next_field(body: &[u8]) -> Result<Option<Field<'_>>, BadFrame> {
    if body.is_empty() {
        return Ok(None);
    }
    let (&[tag, high, low], rest) = body.split_first_chunk().ok_or(BadFrame)?;
    let (value, rest) = rest.split_at_checked(u16::from_be_bytes([high, low]).into()).ok_or(BadFrame)?;
    Ok(Some((tag, value, rest)))
}

pub(super) fn exactly<const N: usize>(value: &[u8]) -> Result<[u8; N], BadFrame> {
    value.try_into().map_err(|_| BadFrame)
}

pub(super) fn text(value: &[u8]) -> Result<&str, BadFrame> {
    std::str::from_utf8(value).map_err(|_| BadFrame)
}

pub(super) fn name(value: &[u8]) -> Result<Name, BadFrame> {
    text(value)?.parse().map_err(|_| BadFrame)
}

pub(super) fn address(value: &[u8]) -> Result<IpAddr, BadFrame> {
    match value.len() {
        4 => Ok(Ipv4Addr::from(exactly(value)?).into()),
        16 => Ok(Ipv6Addr::from(exactly(value)?).into()),
        _ => Err(BadFrame),
    }
}

/// Prefix length, then the address; host bits are kept, as an address with its subnet's prefix has some.
pub(super) fn network(value: &[u8]) -> Result<IpNetwork, BadFrame> {
    let (&prefix, rest) = value.split_first().ok_or(BadFrame)?;
    IpNetwork::new(address(rest)?, prefix).map_err(|_| BadFrame)
}

/// Online flag, length of the name, the name, then fields of addresses.
pub(super) fn peer(value: &[u8]) -> Result<Peer, BadFrame> {
    let (&[online, name_len], rest) = value.split_first_chunk().ok_or(BadFrame)?;
    let (name_bytes, mut rest) = rest.split_at_checked(name_len.into()).ok_or(BadFrame)?;
    let mut addresses = Vec::new();
    while let Some((tag, value, behind)) = next_field(rest)? {
        rest = behind;
        match tag {
            tag::ADDRESS => addresses.push(address(value)?),
            OPTIONAL.. => {}
            _ => return Err(BadFrame),
        }
    }
    Ok(Peer { name: name(name_bytes)?, addresses, online: online != 0 })
}

/// The body of a frame whose fields are of one kind, below which none is known.
pub(super) fn list<T>(
    mut body: &[u8],
    kind: u8,
    read: impl Fn(&[u8]) -> Result<T, BadFrame>,
) -> Result<Vec<T>, BadFrame> {
    let mut items = Vec::new();
    while let Some((tag, value, rest)) = next_field(body)? {
        body = rest;
        match tag {
            tag if tag == kind => items.push(read(value)?),
            OPTIONAL.. => {}
            _ => return Err(BadFrame),
        }
    }
    Ok(items)
}

/// Key, sequence, since when, then fields of networks.
pub(super) fn presence(value: &[u8]) -> Result<Presence, BadFrame> {
    let ((key, sequence), rest) = keyed(value)?;
    let (since, mut rest) = rest.split_first_chunk().ok_or(BadFrame)?;
    let mut routes = Vec::new();
    while let Some((tag, value, behind)) = next_field(rest)? {
        rest = behind;
        match tag {
            tag::NETWORK if routes.len() < MAX_ROUTES => routes.push(network(value)?),
            OPTIONAL.. => {}
            _ => return Err(BadFrame),
        }
    }
    Ok(Presence { key, sequence, since: u64::from_be_bytes(*since), routes })
}

/// Key and sequence; what is behind them is of later versions.
pub(super) fn absence(value: &[u8]) -> Result<(PublicKey, u64), BadFrame> {
    Ok(keyed(value)?.0)
}

pub(super) fn key(value: &[u8]) -> Result<PublicKey, BadFrame> {
    PublicKey::from_bytes(exactly(value)?).ok_or(BadFrame)
}

fn keyed(value: &[u8]) -> Result<((PublicKey, u64), &[u8]), BadFrame> {
    let (key, rest) = value.split_first_chunk().ok_or(BadFrame)?;
    let (sequence, rest) = rest.split_first_chunk().ok_or(BadFrame)?;
    let key = PublicKey::from_bytes(*key).ok_or(BadFrame)?;
    Ok(((key, u64::from_be_bytes(*sequence)), rest))
}

/// The first flag: the hub is draining. Others are of later versions.
const DRAINING: u8 = 1;

/// The hubs that can be read, up to [`MAX_TOLD_HUBS`].
pub(super) fn hubs(mut body: &[u8]) -> Result<Vec<HubInfo>, BadFrame> {
    let mut hubs = Vec::new();
    while let Some((tag, value, rest)) = next_field(body)? {
        body = rest;
        match tag {
            tag::HUB if hubs.len() < MAX_TOLD_HUBS => hubs.extend(hub(value)?),
            tag::HUB | OPTIONAL.. => {}
            _ => return Err(BadFrame),
        }
    }
    Ok(hubs)
}

/// Flags, the key, and the place as text, which may be empty; `None` for a place that only later versions can read.
pub(super) fn hub(value: &[u8]) -> Result<Option<HubInfo>, BadFrame> {
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

pub(super) fn put_hub(out: &mut Vec<u8>, HubInfo { key, place, is_draining }: &HubInfo) {
    let mut value = vec![if *is_draining { DRAINING } else { 0 }];
    value.extend_from_slice(key.as_bytes());
    value.extend_from_slice(place.as_ref().map(Place::to_string).unwrap_or_default().as_bytes());
    put(out, tag::HUB, &value);
}

pub(super) fn put(out: &mut Vec<u8>, tag: u8, value: &[u8]) {
    debug_assert!(value.len() <= usize::from(u16::MAX), "a field of {} bytes", value.len());
    out.push(tag);
    out.extend_from_slice(&(value.len() as u16).to_be_bytes());
    out.extend_from_slice(value);
}

/// A flag is a code that is there or not.
pub(super) fn put_flag(out: &mut Vec<u8>, flag: bool) {
    if flag {
        put(out, tag::CODE, &[1]);
    }
}

pub(super) fn put_token(out: &mut Vec<u8>, token: u64) {
    put(out, tag::TOKEN, &token.to_be_bytes());
}

/// A mark is there or not; earlier versions skip it.
pub(super) fn put_mark(out: &mut Vec<u8>, tag: u8, is_there: bool) {
    if is_there {
        put(out, tag, &[]);
    }
}

pub(super) fn put_presence(out: &mut Vec<u8>, Presence { key, sequence, since, routes }: &Presence) {
    let mut value = [&key.as_bytes()[..], &sequence.to_be_bytes(), &since.to_be_bytes()].concat();
    routes.iter().for_each(|&route| put_network(&mut value, tag::NETWORK, route));
    put(out, tag::ONLINE, &value);
}

pub(super) fn put_absence(out: &mut Vec<u8>, key: &PublicKey, sequence: u64) {
    put(out, tag::OFFLINE, &[&key.as_bytes()[..], &sequence.to_be_bytes()].concat());
}

pub(super) fn put_address(out: &mut Vec<u8>, tag: u8, address: IpAddr) {
    match address {
        IpAddr::V4(v4) => put(out, tag, &v4.octets()),
        IpAddr::V6(v6) => put(out, tag, &v6.octets()),
    }
}

pub(super) fn put_network(out: &mut Vec<u8>, tag: u8, network: IpNetwork) {
    let prefix = [network.prefix()];
    match network.ip() {
        IpAddr::V4(v4) => put(out, tag, &[&prefix[..], &v4.octets()].concat()),
        IpAddr::V6(v6) => put(out, tag, &[&prefix[..], &v6.octets()].concat()),
    }
}

pub(super) fn put_peer(out: &mut Vec<u8>, peer: &Peer) {
    let name = peer.name.as_str().as_bytes();
    let mut value = vec![u8::from(peer.online), name.len() as u8];
    value.extend_from_slice(name);
    peer.addresses.iter().for_each(|&address| put_address(&mut value, tag::ADDRESS, address));
    put(out, tag::PEER, &value);
}
