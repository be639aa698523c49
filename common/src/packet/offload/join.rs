//! Packets that follow one another made one super-packet: what generic receive offload does. Pure.
//!
//! ```text
//! packet: | headers | segment |                next: | headers | seg |
//! joined: | headers | segment | seg |          cut again, byte for byte the two
//! ```
//!
//! The rules are the kernel's (`inet_gro_receive`, `udp_gro_receive_segment`, `tcp_gro_receive`), but for the identifiers of
//! IPv4. Those of segments count up, whoever makes them. Where a packet may be fragmented, its identifier has to fit in.
//! With "don't fragment" it has no meaning, may be anything, and is ignored by all (RFC 6864 section 4.1): it is made to
//! fit, as after a full device queue dropped some, no two that are left count up.

use super::check::TCP_MAX_SEGMENTS;
use super::split::{TCP_FIN, TCP_PSH, UDP_SAFE_SEGMENTS, put, word};
use super::vnet::{
    GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, NEEDS_CSUM, TCP_CHECKSUM, UDP_CHECKSUM, UDP_LEN, Vnet, tcp_len,
};
use crate::packet::checksum;
use crate::packet::{IPV4_LEN, IPV6_LEN, VNET_LEN, protocol};

const TCP_ACK: u8 = 0x10;
const TCP_ECE: u8 = 0x40;

/// The IPv4 flag, in the word that also holds the fragment's offset.
const DONT_FRAGMENT: u16 = 0x4000;

/// The longest joined packet: its IP packet has 65,535 bytes, which is the most in IPv4.
const MAX_LEN: usize = VNET_LEN + 65_535;

/// The longest acknowledgement that [`supersedes`] another: of IPv6, with a time stamp.
const MAX_ACKNOWLEDGEMENT: usize = VNET_LEN + IPV6_LEN + 20 + 12;

/// The shortest TCP segment worth joining: [`check`](super::check) refuses shorter ones in a super-packet.
const TCP_MIN_SEGMENT: usize = 8;

/// How two packets become one super-packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Joint {
    layout: Layout,
    gso_size: u16,
    /// FIN and PSH of the second packet.
    ending: u8,
    /// Bytes of payload of the second packet.
    added: usize,
}

/// Where the parts of a packet are, counted with the virtio-net header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Layout {
    ipv6: bool,
    tcp: bool,
    /// Where the L4 header starts.
    l4: usize,
    /// Where the payload starts.
    payload: usize,
}

/// How `next` is joined to `packet`, both of which [`check`](super::check) let pass: where `next` is the very packet
/// that segmentation would make behind those of `packet`, but for an identifier without a meaning. `next` is no
/// super-packet; `packet` may be one.
///
/// Both are TCP or UDP without IP options, extension headers and fragmentation, and carry payload. Equal are addresses,
/// ports, traffic class and ECN, hop limit, flow label, "don't fragment"; for TCP acknowledgement, window, options and
/// flags. Sequence numbers follow, identifiers too where they matter. Only the last segment may be shorter, or carry
/// PSH or FIN. Checksums are partial or right. At most 64 datagrams, as older kernels take no more.
#[inline]
pub fn joint(packet: &[u8], next: &[u8]) -> Option<Joint> {
    let layout = Layout::of(next)?;
    let (payload, l4) = (layout.payload, layout.l4);
    if packet.len() <= payload || packet.len() + next.len() - payload > MAX_LEN {
        return None;
    }
    let (vnet, next_vnet) = (Vnet::read(packet.first_chunk()?), Vnet::read(next.first_chunk()?));
    if next_vnet.is_gso() || vnet.is_gso() && vnet.gso_type != layout.gso_type() {
        return None;
    }
    let (length, added) = (packet.len() - payload, next.len() - payload);
    let gso_size = if vnet.is_gso() { usize::from(vnet.gso_size) } else { length };
    let (least, most) = if layout.tcp { (TCP_MIN_SEGMENT, TCP_MAX_SEGMENTS) } else { (1, UDP_SAFE_SEGMENTS) };
    if gso_size < least || added > gso_size || !length.is_multiple_of(gso_size) || length / gso_size >= most {
        return None;
    }
    if !layout.follows_l3(packet, next, length / gso_size) {
        return None;
    }
    let ending = match layout.tcp {
        true => follows_tcp(&packet[l4..], &next[l4..], payload - l4, length)?,
        false => follows_udp(&packet[l4..], &next[l4..])?,
    };
    let is_right = layout.has_right_checksum(packet, vnet) && layout.has_right_checksum(next, next_vnet);
    is_right.then_some(Joint { layout, gso_size: gso_size as u16, ending, added })
}

/// Whether `next` says all that `packet` says, and more: both are acknowledgements of one TCP connection without payload,
/// of which `next` acknowledges more. Both passed [`check`](super::check).
///
/// Equal are addresses, ports, traffic class and ECN, hop limit, flow label, sequence number and length. Neither reports
/// holes, congestion or anything else by its flags and options, which may be a time stamp (RFC 7323). Two that acknowledge
/// the same both count: they tell of a loss.
#[inline]
pub fn supersedes(next: &[u8], packet: &[u8]) -> bool {
    if next.len() != packet.len() || next.len() > MAX_ACKNOWLEDGEMENT {
        return false;
    }
    let Some(layout) = Layout::of_headers(next).filter(|layout| layout.tcp && layout.payload == next.len())
    else {
        return false;
    };
    let (tcp, next_tcp) = (&packet[layout.l4..], &next[layout.l4..]);
    let acknowledged = |tcp: &[u8]| u32::from(word(tcp, 8)) << 16 | u32::from(word(tcp, 10));
    let more = acknowledged(next_tcp).wrapping_sub(acknowledged(tcp));
    let has_right_checksum = |packet: &[u8]| {
        packet.first_chunk().is_some_and(|vnet| layout.has_right_checksum(packet, Vnet::read(vnet)))
    };
    tcp[..8] == next_tcp[..8]
        && (1..1 << 31).contains(&more)
        && is_plain_acknowledgement(tcp)
        && is_plain_acknowledgement(next_tcp)
        && layout.follows_l3(packet, next, 1)
        && has_right_checksum(packet)
        && has_right_checksum(next)
}

/// Whether a TCP header acknowledges and says nothing else.
#[inline]
fn is_plain_acknowledgement(tcp: &[u8]) -> bool {
    tcp[12] & 0x0f == 0
        && tcp[13] == TCP_ACK
        && word(tcp, 18) == 0
        && matches!(&tcp[20..], [] | [1, 1, 8, 10, _, _, _, _, _, _, _, _])
}

impl Joint {
    /// Bytes of payload that the second packet adds: its last ones.
    pub fn added(&self) -> usize {
        self.added
    }

    /// Makes the headers of the first packet, behind which the payload of the second one was appended, those of the two.
    pub fn mend(&self, joined: &mut [u8]) {
        let Layout { ipv6, tcp, l4, payload } = self.layout;
        debug_assert!(joined.len() > payload + self.added);
        let vnet = Vnet {
            flags: NEEDS_CSUM,
            gso_type: self.layout.gso_type(),
            hdr_len: (payload - VNET_LEN) as u16,
            gso_size: self.gso_size,
            csum_start: (l4 - VNET_LEN) as u16,
            csum_offset: self.layout.checksum() as u16,
        };
        joined[..VNET_LEN].copy_from_slice(&vnet.bytes());
        let (length, l4_length) = (joined.len() - VNET_LEN, joined.len() - l4);
        if ipv6 {
            put(&mut joined[VNET_LEN..], 4, l4_length as u16);
        } else {
            let ip = &mut joined[VNET_LEN..l4];
            let sum = checksum::replace(!word(ip, 10), word(ip, 2), length as u16);
            put(ip, 2, length as u16);
            put(ip, 10, !sum);
        }
        if tcp {
            joined[l4 + 13] |= self.ending;
        } else {
            put(&mut joined[l4..], 4, l4_length as u16);
        }
        let sum = self.layout.pseudo_sum(joined);
        put(&mut joined[l4..], self.layout.checksum(), sum);
    }
}

impl Layout {
    /// None for whatever is not a whole plain packet of TCP or UDP with payload.
    #[inline]
    fn of(packet: &[u8]) -> Option<Layout> {
        Layout::of_headers(packet).filter(|layout| layout.payload < packet.len())
    }

    /// None for whatever is not a plain packet of TCP or UDP with all its headers.
    #[inline]
    fn of_headers(packet: &[u8]) -> Option<Layout> {
        let first = *packet.get(VNET_LEN)?;
        let (ipv6, l4, number) = match (first, first >> 4) {
            (0x45, _) => (false, VNET_LEN + IPV4_LEN, *packet.get(VNET_LEN + 9)?),
            (_, 6) => (true, VNET_LEN + IPV6_LEN, *packet.get(VNET_LEN + 6)?),
            _ => return None,
        };
        let (tcp, length) = match number {
            protocol::UDP => (false, UDP_LEN),
            protocol::TCP => (true, tcp_len(packet.get(l4..)?)?),
            _ => return None,
        };
        let payload = l4 + length;
        (payload <= packet.len()).then_some(Layout { ipv6, tcp, l4, payload })
    }

    fn gso_type(self) -> u8 {
        match (self.tcp, self.ipv6) {
            (false, _) => GSO_UDP_L4,
            (true, false) => GSO_TCPV4,
            (true, true) => GSO_TCPV6,
        }
    }

    /// Where the checksum stands in the L4 header.
    fn checksum(self) -> usize {
        if self.tcp { TCP_CHECKSUM } else { UDP_CHECKSUM }
    }

    /// Whether the IP header of `next` is that of the packet after `segments` of `packet`.
    #[inline]
    fn follows_l3(self, packet: &[u8], next: &[u8], segments: usize) -> bool {
        let (packet, next) = (&packet[VNET_LEN..self.l4], &next[VNET_LEN..self.l4]);
        if self.ipv6 {
            return packet[..4] == next[..4] && packet[6..] == next[6..];
        }
        let fragment = word(packet, 6);
        packet[..2] == next[..2]
            && (fragment == 0 || fragment == DONT_FRAGMENT)
            && packet[6..10] == next[6..10]
            && packet[12..] == next[12..]
            && (fragment == DONT_FRAGMENT || word(next, 4) == word(packet, 4).wrapping_add(segments as u16))
            // 0xffff sums to the same as 0, which is what it would become.
            && [packet, next].iter().all(|ip| checksum::sum(ip) == 0xffff && word(ip, 10) != 0xffff)
    }

    /// Whether a packet's L4 checksum is what segmentation would make of it, partial or whole.
    #[inline]
    fn has_right_checksum(self, packet: &[u8], vnet: Vnet) -> bool {
        let field = word(&packet[self.l4..], self.checksum());
        let pseudo = self.pseudo_sum(packet);
        if vnet.flags & NEEDS_CSUM != 0 {
            return field == pseudo;
        }
        // For UDP 0 is no checksum, and for both 0xffff is written in its place.
        field != 0 && checksum::add(checksum::sum(&packet[self.l4..]), pseudo) == 0xffff
    }

    /// The sum of the pseudo-header (RFC 9293, RFC 8200 section 8.1).
    #[inline]
    fn pseudo_sum(self, packet: &[u8]) -> u16 {
        let addresses = if self.ipv6 { 8..40 } else { 12..20 };
        let sum = checksum::sum(&packet[VNET_LEN..self.l4][addresses]);
        let number = if self.tcp { protocol::TCP } else { protocol::UDP };
        checksum::add(checksum::add(sum, (packet.len() - self.l4) as u16), u16::from(number))
    }
}

/// Whether two UDP headers are of one flow, each as long as its packet. What the second adds to the first: nothing.
#[inline]
fn follows_udp(packet: &[u8], next: &[u8]) -> Option<u8> {
    let is_whole = |udp: &[u8]| usize::from(word(udp, 4)) == udp.len();
    (packet[..4] == next[..4] && is_whole(packet) && is_whole(next)).then_some(0)
}

/// Whether the TCP segment `next` comes behind `packet` with `length` bytes of payload, whose headers have `headers`
/// bytes. Which flags it adds.
#[inline]
fn follows_tcp(packet: &[u8], next: &[u8], headers: usize, length: usize) -> Option<u8> {
    let sequence = |tcp: &[u8]| u32::from(word(tcp, 4)) << 16 | u32::from(word(tcp, 6));
    let (flags, ending) = (packet[13], next[13] & (TCP_FIN | TCP_PSH));
    let follows = packet[..4] == next[..4]
        && packet[8..13] == next[8..13]
        && packet[12] & 0x0f == 0
        && flags & !TCP_ECE == TCP_ACK
        && next[13] & !ending == flags
        && packet[14..16] == next[14..16]
        && packet[18..headers] == next[18..headers]
        && sequence(next) == sequence(packet).wrapping_add(length as u32);
    follows.then_some(ending)
}

#[cfg(test)]
mod tests;
