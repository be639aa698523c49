//! A packet's IP header: parsed once, hashed to a flow, shown in a log line, marked for congestion. Pure.
//!
//! A packet is what TUN hands over: a virtio-net header of [`VNET_LEN`] bytes, then one whole IP packet.
//!
//! ```text
//! |<- VNET_LEN ->|<------------------ Header::length ------------------>|
//! | virtio-net   | IP header, options, extension headers | L4 | payload |
//!                |<------------ Header::l4 ------------->|
//! ```
//!
//! `offload` owns the virtio-net header; this file reads and writes only what is behind it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::packet::drops::Reason;
use crate::packet::extensions::{self, Fragment};
use crate::packet::sizes::{IPV4_LEN, IPV6_LEN, VNET_LEN};
use crate::packet::{checksum, protocol};

/// A parsed inner IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Source address.
    pub source: IpAddr,
    /// Destination address; of the same family as the source.
    pub destination: IpAddr,
    /// The L4 protocol, behind all IPv6 extension headers. In a later fragment, what its fragment header
    /// says.
    pub protocol: u8,
    /// Offset of the L4 header from the start of the IP packet, at most `length`. In a later fragment,
    /// of the data it carries.
    pub l4: usize,
    /// Whether this is a piece of a larger packet.
    pub fragment: Fragment,
    /// Source and destination port of TCP, UDP, UDP-Lite, DCCP and SCTP; none in a later fragment.
    pub ports: Option<(u16, u16)>,
    /// Bytes of the IP packet.
    pub length: usize,
}

/// Reads the header of the one IP packet that `ip` is: from its version to its last byte, no virtio-net
/// header, nothing behind it.
///
/// Checks what a switch must: IPv4 version, IHL and total length (RFC 791), IPv6 version and payload
/// length (RFC 8200), extension headers that stay within the packet. A total length of 0 (BIG TCP) and
/// jumbograms (RFC 2675) are refused. The IPv4 header checksum is left to the receiver.
///
/// # Errors
/// [`Reason::Malformed`], and [`Reason::HiddenUpperLayer`] for IPv6 fragments.
#[inline]
pub fn parse(ip: &[u8]) -> Result<Header, Reason> {
    match ip.first().map(|byte| byte >> 4) {
        Some(4) => parse_v4(ip),
        Some(6) => parse_v6(ip),
        _ => Err(Reason::Malformed),
    }
}

/// What kind of flow a packet is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One of TCP.
    Stream {
        /// Whether it begins, as the packet says.
        begins: bool,
    },
    /// Any other.
    Datagrams,
}

impl Kind {
    /// The kind of a packet with this header, virtio-net header in front.
    pub fn of(packet: &[u8], header: &Header) -> Kind {
        /// The flags in the TCP header (RFC 9293, section 3.1), and the one that begins a connection.
        const FLAGS: usize = 13;
        const SYN: u8 = 2;
        if header.protocol != protocol::TCP {
            return Kind::Datagrams;
        }
        let flags = packet.get(VNET_LEN + header.l4 + FLAGS);
        Kind::Stream { begins: flags.is_some_and(|flags| flags & SYN != 0) }
    }
}

/// The hash of a packet's flow, virtio-net header in front; 0 where it has none.
pub fn flow(packet: &[u8], seed: u64) -> u32 {
    let header = packet.get(VNET_LEN..).map(parse);
    header.and_then(Result::ok).map_or(0, |header| header.flow(seed))
}

#[inline]
fn parse_v4(ip: &[u8]) -> Result<Header, Reason> {
    let fixed: &[u8; IPV4_LEN] = ip.first_chunk().ok_or(Reason::Malformed)?;
    let l4 = usize::from(fixed[0] & 0x0f) * 4;
    let total = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
    if l4 < IPV4_LEN || l4 > total || total != ip.len() {
        return Err(Reason::Malformed);
    }
    // The flags' "more fragments" and the offset; "don't fragment" is of no concern here.
    let fragment = match u16::from_be_bytes([fixed[6], fixed[7]]) & 0x3fff {
        0 => Fragment::No,
        0x2000 => Fragment::First,
        _ => Fragment::Later,
    };
    let protocol = fixed[9];
    Ok(Header {
        source: Ipv4Addr::new(fixed[12], fixed[13], fixed[14], fixed[15]).into(),
        destination: Ipv4Addr::new(fixed[16], fixed[17], fixed[18], fixed[19]).into(),
        protocol,
        l4,
        fragment,
        ports: ports(ip, l4, protocol, fragment),
        length: total,
    })
}

#[inline]
fn parse_v6(ip: &[u8]) -> Result<Header, Reason> {
    let fixed: &[u8; IPV6_LEN] = ip.first_chunk().ok_or(Reason::Malformed)?;
    let length = IPV6_LEN + usize::from(u16::from_be_bytes([fixed[4], fixed[5]]));
    if length != ip.len() {
        return Err(Reason::Malformed);
    }
    let (protocol, l4, fragment) = extensions::walk(ip, fixed[6])?;
    let ([source, destination], _) = fixed[8..].as_chunks::<16>() else { return Err(Reason::Malformed) };
    Ok(Header {
        source: Ipv6Addr::from(*source).into(),
        destination: Ipv6Addr::from(*destination).into(),
        protocol,
        l4,
        fragment,
        ports: ports(ip, l4, protocol, fragment),
        length,
    })
}

/// The ports at `l4`, for the protocols whose first four bytes they are.
#[inline]
fn ports(ip: &[u8], l4: usize, protocol: u8, fragment: Fragment) -> Option<(u16, u16)> {
    let has_ports = matches!(
        protocol,
        protocol::TCP | protocol::UDP | protocol::DCCP | protocol::SCTP | protocol::UDP_LITE
    );
    if !has_ports || fragment == Fragment::Later {
        return None;
    }
    let &[s0, s1, d0, d1] = ip.get(l4..)?.first_chunk()?;
    Some((u16::from_be_bytes([s0, s1]), u16::from_be_bytes([d0, d1])))
}

impl Header {
    /// Whether the packet is IPv6.
    #[inline]
    pub fn is_ipv6(&self) -> bool {
        self.source.is_ipv6()
    }

    /// The packet's flow, as RFC 8290 (section 4.1.2) wants it: a hash, keyed with `seed`, of addresses,
    /// protocol and ports. Fragments and protocols without ports go by addresses and protocol, so that
    /// all fragments of a packet share a flow. Without the seed, an attacker cannot choose a packet's flow.
    #[inline]
    pub fn flow(&self, seed: u64) -> u32 {
        let ports = match (self.fragment, self.ports) {
            (Fragment::No, Some((source, destination))) => u64::from(source) << 16 | u64::from(destination),
            _ => 0,
        };
        let tail = u64::from(self.protocol) << 32 | ports;
        let key = [seed, seed.rotate_left(32) ^ KEYS[0]];
        let hash = match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let pair = u64::from(source.to_bits()) << 32 | u64::from(destination.to_bits());
                fold(pair ^ key[0], tail ^ key[1])
            }
            (source, destination) => {
                let [a, b] = words(source);
                let [c, d] = words(destination);
                let first = fold(a ^ key[0], b ^ key[1]);
                let second = fold(c ^ first, d ^ KEYS[1] ^ key[0]);
                fold(second, tail ^ key[1])
            }
        };
        let mixed = fold(hash ^ KEYS[1], key[1] ^ KEYS[2]);
        (mixed ^ mixed >> 32) as u32
    }
}

/// Arbitrary odd words with well spread bits (fractions of the golden ratio and of square roots).
const KEYS: [u64; 3] = [0x9e37_79b9_7f4a_7c15, 0x6a09_e667_f3bc_c909, 0xbb67_ae85_84ca_a73b];

/// Multiplies to 128 bits and folds the halves: each bit of the result hangs on every bit of both.
#[inline]
pub fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

#[inline]
fn words(address: IpAddr) -> [u64; 2] {
    let bits = match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    };
    [(bits >> 64) as u64, bits as u64]
}

/// One line for a log: `10.0.0.2:5353 > 10.0.0.3:80 TCP 1500 bytes`.
impl fmt::Display for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ports {
            Some((source, destination)) => write!(
                f,
                "{} > {} ",
                SocketAddr::new(self.source, source),
                SocketAddr::new(self.destination, destination)
            )?,
            None => write!(f, "{} > {} ", self.source, self.destination)?,
        }
        match protocol_name(self.protocol) {
            Some(name) => f.write_str(name)?,
            None => write!(f, "protocol {}", self.protocol)?,
        }
        write!(f, " {} bytes", self.length)?;
        match self.fragment {
            Fragment::No => Ok(()),
            Fragment::First => f.write_str(", first fragment"),
            Fragment::Later => f.write_str(", later fragment"),
        }
    }
}

fn protocol_name(number: u8) -> Option<&'static str> {
    Some(match number {
        protocol::ICMP => "ICMP",
        protocol::IGMP => "IGMP",
        protocol::TCP => "TCP",
        protocol::UDP => "UDP",
        protocol::DCCP => "DCCP",
        protocol::GRE => "GRE",
        protocol::ESP => "ESP",
        protocol::ICMPV6 => "ICMPv6",
        protocol::SCTP => "SCTP",
        protocol::UDP_LITE => "UDP-Lite",
        _ => return None,
    })
}

/// Marks "congestion experienced" (RFC 3168) in the packet behind a virtio-net header, if its sender can
/// take it: true if the packet carries the mark now, false if it is not ECN-capable and must be dropped
/// instead. The IPv4 header checksum is mended as in RFC 1624; IPv6 has none.
pub fn mark_congestion(packet: &mut [u8]) -> bool {
    const CE: u8 = 3;
    let Some(ip) = packet.get_mut(VNET_LEN..) else { return false };
    match ip.first().map(|byte| byte >> 4) {
        Some(4) => {
            let Some(ip) = ip.first_chunk_mut::<IPV4_LEN>() else { return false };
            let old = [ip[0], ip[1]];
            if old[1] & CE == 0 {
                return false;
            }
            ip[1] |= CE;
            let old_sum = !u16::from_be_bytes([ip[10], ip[11]]);
            let sum =
                !checksum::replace(old_sum, u16::from_be_bytes(old), u16::from_be_bytes([ip[0], ip[1]]));
            ip[10..12].copy_from_slice(&sum.to_be_bytes());
            true
        }
        Some(6) => {
            // The traffic class straddles the first two bytes: its ECN bits are the second's 0x30.
            let Some(class) = ip.get_mut(1) else { return false };
            if *class & CE << 4 == 0 {
                return false;
            }
            *class |= CE << 4;
            true
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::offload::testing::{Shape, assert_checksums, naive_sum};

    fn v4(fragment: [u8; 2], protocol: u8, l4: &[u8]) -> Vec<u8> {
        let mut ip =
            vec![0x45, 0, 0, 0, 0, 7, fragment[0], fragment[1], 64, protocol, 0, 0, 10, 0, 0, 2, 10, 0, 0, 3];
        ip.extend(l4);
        let total = (ip.len() as u16).to_be_bytes();
        ip[2..4].copy_from_slice(&total);
        ip
    }

    fn v6(next: u8, rest: &[u8]) -> Vec<u8> {
        let mut ip = vec![0x60, 0, 0, 0, 0, 0, next, 64];
        ip.extend(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2).octets());
        ip.extend(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 3).octets());
        ip[4..6].copy_from_slice(&(rest.len() as u16).to_be_bytes());
        ip.extend(rest);
        ip
    }

    const PORTS: [u8; 8] = [0x14, 0xe9, 0, 80, 0, 8, 0, 0];

    #[test]
    fn reads_ipv4() {
        let header = parse(&v4([0x40, 0], 17, &PORTS)).unwrap();
        let expected = Header {
            source: Ipv4Addr::new(10, 0, 0, 2).into(),
            destination: Ipv4Addr::new(10, 0, 0, 3).into(),
            protocol: 17,
            l4: 20,
            fragment: Fragment::No,
            ports: Some((5353, 80)),
            length: 28,
        };
        assert_eq!(header, expected);
    }

    #[test]
    fn refuses_each_wrong_ipv4_field() {
        type Change = fn(&mut Vec<u8>);
        let cases: &[(&str, Change)] = &[
            ("nothing", |ip| ip.clear()),
            ("version 0", |ip| ip[0] = 0x05),
            ("version 5", |ip| ip[0] = 0x55),
            ("version 15", |ip| ip[0] = 0xf5),
            ("IHL 0", |ip| ip[0] = 0x40),
            ("IHL 4", |ip| ip[0] = 0x44),
            ("IHL beyond the packet", |ip| ip[0] = 0x48),
            ("total length 0", |ip| ip[3] = 0),
            ("total length below the header", |ip| ip[3] = 19),
            ("total length short by one", |ip| ip[3] -= 1),
            ("total length long by one", |ip| ip[3] += 1),
            ("a byte too many", |ip| ip.push(0)),
        ];
        for (what, change) in cases {
            let mut ip = v4([0, 0], 17, &PORTS);
            change(&mut ip);
            assert_eq!(parse(&ip), Err(Reason::Malformed), "{what}");
        }
    }

    #[test]
    fn tells_fragments_apart() {
        for (bits, fragment) in [
            ([0x00, 0], Fragment::No),
            ([0x40, 0], Fragment::No),
            ([0x80, 0], Fragment::No),
            ([0x20, 0], Fragment::First),
            ([0x20, 1], Fragment::Later),
            ([0x00, 1], Fragment::Later),
            ([0x1f, 0xff], Fragment::Later),
        ] {
            let header = parse(&v4(bits, 17, &PORTS)).unwrap();
            assert_eq!(header.fragment, fragment, "{bits:x?}");
            assert_eq!(header.ports.is_some(), fragment != Fragment::Later, "{bits:x?}");
        }
    }

    #[test]
    fn reads_ports_only_where_there_are_any() {
        for (protocol, has) in [
            (1, false),
            (6, true),
            (17, true),
            (33, true),
            (47, false),
            (50, false),
            (132, true),
            (136, true),
        ] {
            assert_eq!(parse(&v4([0, 0], protocol, &PORTS)).unwrap().ports.is_some(), has, "{protocol}");
        }
        assert_eq!(parse(&v4([0, 0], 17, &PORTS[..3])).unwrap().ports, None);
        assert_eq!(parse(&v4([0, 0], 17, &[])).unwrap().ports, None);
    }

    #[test]
    fn refuses_each_wrong_ipv6_field() {
        let good = v6(17, &PORTS);
        for len in 0..good.len() {
            assert_eq!(parse(&good[..len]), Err(Reason::Malformed), "{len}");
        }
        assert_eq!(parse(&[good, vec![0]].concat()), Err(Reason::Malformed));
        let mut jumbogram = v6(0, &[59, 0, 0xc2, 4, 0, 1, 0, 0]);
        jumbogram[4..6].copy_from_slice(&[0, 0]);
        assert_eq!(parse(&jumbogram), Err(Reason::Malformed));
        assert_eq!(parse(&v6(0, &[17])), Err(Reason::Malformed), "extension header cut short");
        assert_eq!(parse(&v6(60, &[17, 1, 0, 0, 0, 0, 0, 0])), Err(Reason::Malformed), "extension too long");
        assert_eq!(parse(&v6(60, &[17, 0, 0, 0, 0, 0, 0])), Err(Reason::Malformed), "too long by one byte");
        assert_eq!(parse(&v6(59, &[])).unwrap().length, 40);
    }

    #[test]
    fn shows_a_packet_in_one_line() {
        let line = |ip: Vec<u8>| parse(&ip).unwrap().to_string();
        assert_eq!(line(v4([0, 0], 6, &PORTS)), "10.0.0.2:5353 > 10.0.0.3:80 TCP 28 bytes");
        assert_eq!(line(v4([0, 0], 1, &PORTS)), "10.0.0.2 > 10.0.0.3 ICMP 28 bytes");
        assert_eq!(line(v4([0, 0], 99, &PORTS)), "10.0.0.2 > 10.0.0.3 protocol 99 28 bytes");
        assert_eq!(
            line(v4([0x20, 0], 17, &PORTS)),
            "10.0.0.2:5353 > 10.0.0.3:80 UDP 28 bytes, first fragment"
        );
        assert_eq!(line(v4([0x20, 9], 17, &PORTS)), "10.0.0.2 > 10.0.0.3 UDP 28 bytes, later fragment");
        assert_eq!(line(v6(17, &PORTS)), "[fd00::2]:5353 > [fd00::3]:80 UDP 48 bytes");
        assert_eq!(line(v6(58, &PORTS)), "fd00::2 > fd00::3 ICMPv6 48 bytes");
    }

    #[test]
    fn one_flow_for_one_connection() {
        let whole = parse(&v4([0, 0], 17, &PORTS)).unwrap();
        assert_eq!(whole.flow(1), Header { length: 999, l4: 60, ..whole }.flow(1));
        let first = parse(&v4([0x20, 0], 17, &PORTS)).unwrap();
        let later = parse(&v4([0, 9], 17, &PORTS)).unwrap();
        assert_eq!(first.flow(1), later.flow(1), "all fragments share a flow");
    }

    #[test]
    fn flows_differ_by_every_part_and_by_seed() {
        for base in [parse(&v4([0, 0], 17, &PORTS)).unwrap(), parse(&v6(17, &PORTS)).unwrap()] {
            let (other_source, other_destination) = match base.is_ipv6() {
                false => (IpAddr::from([10, 0, 0, 9]), IpAddr::from([11, 0, 0, 3])),
                true => (IpAddr::from([9_u16; 8]), IpAddr::from([0xfd00, 0, 0, 1, 0, 0, 0, 3_u16])),
            };
            let mut hashes = vec![
                base.flow(1),
                base.flow(2),
                Header { source: other_source, ..base }.flow(1),
                Header { destination: other_destination, ..base }.flow(1),
                Header { source: base.destination, destination: base.source, ..base }.flow(1),
                Header { protocol: 6, ..base }.flow(1),
                Header { ports: Some((5353, 81)), ..base }.flow(1),
                Header { ports: Some((5354, 80)), ..base }.flow(1),
                Header { ports: Some((80, 5353)), ..base }.flow(1),
                Header { ports: None, ..base }.flow(1),
            ];
            let count = hashes.len();
            hashes.sort_unstable();
            hashes.dedup();
            assert_eq!(hashes.len(), count);
        }
    }

    #[test]
    fn flows_spread_evenly_over_buckets() {
        let base = parse(&v4([0, 0], 6, &PORTS)).unwrap();
        for shift in [0, 8, 16, 22] {
            for seed in [0, 1, 0xdead_beef, u64::MAX] {
                let mut buckets = [0_u32; 1024];
                for host in 0..64_u8 {
                    for port in 0..1024_u16 {
                        let source = IpAddr::from([10, 0, 0, host]);
                        let hash = Header { source, ports: Some((port * 2, 80)), ..base }.flow(seed);
                        buckets[(hash >> shift) as usize % 1024] += 1;
                    }
                }
                // 64 a bucket on average, with a deviation of 8.
                let (least, most) = (buckets.iter().min().unwrap(), buckets.iter().max().unwrap());
                assert!(*least > 24 && *most < 112, "{least} to {most}, seed {seed}, shift {shift}");
            }
        }
    }

    #[test]
    fn marks_ecn_capable_packets_and_mends_the_checksum() {
        for class in 0..=255_u8 {
            let mut packet = Shape::new(false, false, 100).whole();
            packet[VNET_LEN + 1] = class;
            packet[VNET_LEN + 10..VNET_LEN + 12].copy_from_slice(&[0, 0]);
            let sum = !naive_sum(&packet[VNET_LEN..VNET_LEN + 20]);
            packet[VNET_LEN + 10..VNET_LEN + 12].copy_from_slice(&sum.to_be_bytes());
            let capable = class & 3 != 0;
            assert_eq!(mark_congestion(&mut packet), capable);
            assert_eq!(packet[VNET_LEN + 1], if capable { class | 3 } else { class });
            assert_checksums(&packet, 20, 17);

            let mut packet = Shape::new(true, false, 100).whole();
            packet[VNET_LEN] |= class >> 4;
            packet[VNET_LEN + 1] |= class << 4;
            assert_eq!(mark_congestion(&mut packet), capable);
            let marked = packet[VNET_LEN] << 4 | packet[VNET_LEN + 1] >> 4;
            assert_eq!(marked, if capable { class | 3 } else { class });
            assert_checksums(&packet, 40, 17);
        }
    }

    #[test]
    fn marks_nothing_in_what_is_no_ip_packet() {
        for len in 0..=VNET_LEN {
            assert!(!mark_congestion(&mut vec![0x43; len]));
        }
        assert!(!mark_congestion(&mut [vec![0; VNET_LEN], vec![0x45, 3]].concat()));
        assert!(!mark_congestion(&mut [vec![0; VNET_LEN], vec![0x60]].concat()));
        assert!(!mark_congestion(&mut [vec![0; VNET_LEN], vec![0x73; 60]].concat()));
    }
}
