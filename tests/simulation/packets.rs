//! Packets that can be told apart, and the book of where each one may arrive.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use common::packet::{self, VNET_LEN, protocol};

const UDP_LEN: usize = 8;
const ID_LEN: usize = 8;

/// A UDP packet with its number as the payload's beginning.
pub(crate) fn udp(source: IpAddr, destination: IpAddr, id: u64, extra: usize) -> Vec<u8> {
    let l4_len = (UDP_LEN + ID_LEN + extra) as u16;
    let mut packet = vec![0; VNET_LEN];
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let [high, low] = (l4_len + 20).to_be_bytes();
            packet.extend([0x45, 0, high, low, 0, 0, 0x40, 0, 64, protocol::UDP, 0, 0]);
            packet.extend(source.octets());
            packet.extend(destination.octets());
        }
        (source, destination) => {
            let v6 = |address| match address {
                IpAddr::V6(v6) => v6,
                IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            };
            let [high, low] = l4_len.to_be_bytes();
            packet.extend([0x60, 0, 0, 0, high, low, protocol::UDP, 64]);
            packet.extend(v6(source).octets());
            packet.extend(v6(destination).octets());
        }
    }
    packet.extend([0x14, 0xe9, (id >> 8) as u8, id as u8]);
    packet.extend(l4_len.to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(id.to_be_bytes());
    packet.resize(packet.len() + extra, id as u8);
    packet
}

pub(crate) fn is_for_all(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_multicast() || v4 == Ipv4Addr::BROADCAST || v4 == Ipv4Addr::new(10, 0, 0, 15),
        IpAddr::V6(v6) => v6.is_multicast(),
    }
}

pub(crate) const HUB_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
pub(crate) const HUB_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1));

/// Who sent or got a packet: a spoke by its number, or the hub's kernel.
pub(crate) type Place = Option<usize>;
pub(crate) const HUB: Place = None;

struct Sent {
    from: Place,
    destination: IpAddr,
    /// Whether anybody may get it.
    is_legal: bool,
    hash: u64,
    got_by: Vec<Place>,
    /// Of this flow, whose packets arrive in order.
    flow: Option<u16>,
}

/// All numbered packets of one run.
#[derive(Default)]
pub(crate) struct Book {
    sent: HashMap<u64, Sent>,
    /// The last packet of each flow that arrived at a place.
    last: HashMap<(u16, Place, Place), u64>,
    /// Who answers what could not be delivered, beside the address that every hub has.
    pub(crate) answerers: Vec<IpAddr>,
    pub(crate) delivered: u64,
}

fn hash(packet: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    packet.hash(&mut hasher);
    hasher.finish()
}

impl Book {
    pub(crate) fn next_id(&self) -> u64 {
        self.sent.len() as u64
    }

    pub(crate) fn enter(&mut self, packet: &[u8], from: Place, destination: IpAddr, is_legal: bool) -> u64 {
        let id = self.next_id();
        let sent = Sent { from, destination, is_legal, hash: hash(packet), got_by: Vec::new(), flow: None };
        self.sent.insert(id, sent);
        id
    }

    /// This packet is of a flow: it may not overtake, nor be overtaken.
    pub(crate) fn keep_order(&mut self, id: u64, flow: u16) {
        self.sent.entry(id).and_modify(|sent| sent.flow = Some(flow));
    }

    /// A packet arrived at `place`, which has `addresses`. Panics where it must not have.
    pub(crate) fn arrive(&mut self, packet: &[u8], place: Place, addresses: &[IpAddr]) {
        let header = packet::parse(&packet[VNET_LEN..]).expect("only whole packets arrive");
        if matches!(header.protocol, protocol::ICMP | protocol::ICMPV6) {
            // The hub answers who sent what could not be delivered, and nobody else.
            let is_hub = |source| [HUB_V4, HUB_V6].contains(source) || self.answerers.contains(source);
            assert!(is_hub(&header.source), "{header} at {place:?}");
            assert!(addresses.contains(&header.destination), "{header} at {place:?}, who has {addresses:?}");
            return;
        }
        let id_at = VNET_LEN + header.l4 + UDP_LEN;
        let id =
            packet.get(id_at..id_at + ID_LEN).and_then(|id| Some(u64::from_be_bytes(id.try_into().ok()?)));
        let sent = id.and_then(|id| self.sent.get_mut(&id));
        let sent = sent.unwrap_or_else(|| panic!("{header} at {place:?} was never sent"));
        assert_eq!(sent.hash, hash(packet), "{header} at {place:?} was changed on the way");
        assert!(sent.is_legal, "{header} from {:?} may go nowhere, but came to {place:?}", sent.from);
        assert!(sent.from != place, "{header} came back to {place:?}");
        assert!(!sent.got_by.contains(&place), "{header} came twice to {place:?}");
        let is_meant = is_for_all(sent.destination) || addresses.contains(&sent.destination);
        assert!(is_meant, "{header} came to {place:?}, who has {addresses:?}");
        sent.got_by.push(place);
        if let Some((flow, id)) = sent.flow.zip(id) {
            let before = self.last.insert((flow, sent.from, place), id);
            assert!(before.is_none_or(|before| before < id), "{header}: {id} came behind {before:?}");
        }
        self.delivered += 1;
    }

    /// Who got this packet, in order.
    pub(crate) fn got_by(&self, id: u64) -> Vec<Place> {
        let mut got_by = self.sent[&id].got_by.clone();
        got_by.sort_unstable();
        got_by
    }
}
