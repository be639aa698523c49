//! Packets for tests, made and verified the slow and plain way, apart from the code under test.

use crate::packet::offload::{GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, NEEDS_CSUM, Vnet};
use crate::packet::{VNET_LEN, protocol};

const SOURCE_V4: [u8; 4] = [10, 0, 0, 2];
const DESTINATION_V4: [u8; 4] = [10, 0, 0, 3];

pub(crate) const CWR: u8 = 0x80;
pub(crate) const ACK: u8 = 0x10;
pub(crate) const PSH: u8 = 0x08;
pub(crate) const FIN: u8 = 0x01;

/// What a packet shall look like.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) v6: bool,
    pub(crate) tcp: bool,
    /// Bytes of IPv4 options, or of one IPv6 destination options header: a multiple of 8.
    pub(crate) extra: usize,
    /// Bytes of TCP options, a multiple of 4.
    pub(crate) tcp_options: usize,
    pub(crate) tcp_flags: u8,
    pub(crate) sequence: u32,
    /// TCP's acknowledgement number.
    pub(crate) acknowledged: u32,
    pub(crate) id: u16,
    /// IPv4 only.
    pub(crate) dont_fragment: bool,
    pub(crate) payload: Vec<u8>,
}

impl Shape {
    pub(crate) fn new(v6: bool, tcp: bool, payload: usize) -> Shape {
        Shape {
            v6,
            tcp,
            extra: 0,
            tcp_options: 0,
            tcp_flags: ACK,
            sequence: 0xffff_f000,
            acknowledged: 9,
            id: 0xfffe,
            dont_fragment: true,
            payload: (0..payload).map(|at| (at * 31 + at / 256) as u8).collect(),
        }
    }

    pub(crate) fn l4(&self) -> usize {
        if self.v6 { 40 + self.extra } else { 20 + self.extra }
    }

    /// Bytes of all headers.
    pub(crate) fn headers(&self) -> usize {
        self.l4() + if self.tcp { 20 + self.tcp_options } else { 8 }
    }

    /// The packet with an empty virtio-net header and all checksums, 0xffff in place of 0 as the kernel's
    /// `skb_checksum_help` writes it for every protocol.
    pub(crate) fn whole(&self) -> Vec<u8> {
        let mut packet = self.without_checksum();
        let sum = self.sum(&packet, &packet[VNET_LEN + self.l4()..]);
        self.put_checksum(&mut packet, if sum == 0xffff { 0xffff } else { !sum });
        packet
    }

    /// The packet with a partial checksum, and a super-packet where `gso_size` says so.
    pub(crate) fn partial(&self, gso_size: Option<u16>) -> Vec<u8> {
        let mut packet = self.without_checksum();
        let sum = self.sum(&packet, &[]);
        self.put_checksum(&mut packet, sum);
        let gso_type = match (self.tcp, self.v6) {
            (true, false) => GSO_TCPV4,
            (true, true) => GSO_TCPV6,
            (false, _) => GSO_UDP_L4,
        };
        let vnet = Vnet {
            flags: NEEDS_CSUM,
            gso_type: gso_size.map_or(0, |_| gso_type),
            hdr_len: gso_size.map_or(0, |_| self.headers() as u16),
            gso_size: gso_size.unwrap_or(0),
            csum_start: self.l4() as u16,
            csum_offset: if self.tcp { 16 } else { 6 },
        };
        packet[..VNET_LEN].copy_from_slice(&vnet.bytes());
        packet
    }

    fn protocol(&self) -> u8 {
        if self.tcp { protocol::TCP } else { protocol::UDP }
    }

    fn without_checksum(&self) -> Vec<u8> {
        let mut ip = Vec::new();
        let total = (self.headers() + self.payload.len()) as u16;
        if self.v6 {
            let next = if self.extra > 0 { protocol::DESTINATION } else { self.protocol() };
            ip.extend([0x60, 0, 0, 0]);
            ip.extend((total - 40).to_be_bytes());
            ip.extend([next, 64]);
            ip.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
            ip.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3]);
            if self.extra > 0 {
                let mut extension = vec![0; self.extra];
                extension[0] = self.protocol();
                extension[1] = (self.extra / 8 - 1) as u8;
                extension[2..4].copy_from_slice(&[1, self.extra as u8 - 4]);
                ip.extend(extension);
            }
        } else {
            ip.extend([0x45 + self.extra as u8 / 4, 0]);
            ip.extend(total.to_be_bytes());
            ip.extend(self.id.to_be_bytes());
            ip.extend([if self.dont_fragment { 0x40 } else { 0 }, 0, 64, self.protocol(), 0, 0]);
            ip.extend(SOURCE_V4);
            ip.extend(DESTINATION_V4);
            ip.extend(vec![1; self.extra]);
            let sum = !naive_sum(&ip);
            ip[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        ip.extend([0x12, 0x34, 0x00, 0x50]);
        if self.tcp {
            ip.extend(self.sequence.to_be_bytes());
            ip.extend(self.acknowledged.to_be_bytes());
            ip.extend([(5 + self.tcp_options as u8 / 4) << 4, self.tcp_flags, 2, 0, 0, 0, 0, 0]);
            ip.extend(vec![1; self.tcp_options]);
        } else {
            ip.extend((8 + self.payload.len() as u16).to_be_bytes());
            ip.extend([0, 0]);
        }
        ip.extend(&self.payload);
        [vec![0; VNET_LEN], ip].concat()
    }

    /// Sum of the pseudo-header, and of `rest`.
    fn sum(&self, packet: &[u8], rest: &[u8]) -> u16 {
        let l4_len = packet.len() - VNET_LEN - self.l4();
        naive_sum(&[pseudo(&packet[VNET_LEN..], self.protocol(), l4_len), rest.to_vec()].concat())
    }

    fn put_checksum(&self, packet: &mut [u8], sum: u16) {
        let at = VNET_LEN + self.l4() + if self.tcp { 16 } else { 6 };
        packet[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }
}

/// RFC 1071, two bytes at a time.
pub(crate) fn naive_sum(bytes: &[u8]) -> u16 {
    let mut sum = 0_u64;
    for pair in bytes.chunks(2) {
        sum += u64::from(pair[0]) * 256 + u64::from(*pair.get(1).unwrap_or(&0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The pseudo-header (RFC 9293, RFC 8200 section 8.1) of an IP packet.
pub(crate) fn pseudo(ip: &[u8], protocol: u8, l4_len: usize) -> Vec<u8> {
    let addresses = if ip[0] >> 4 == 4 { &ip[12..20] } else { &ip[8..40] };
    let mut pseudo = addresses.to_vec();
    pseudo.extend((l4_len as u32).to_be_bytes());
    pseudo.extend([0, 0, 0, protocol]);
    pseudo
}

/// Panics unless the packet's IPv4 header checksum and, L4 being at `l4`, its L4 checksum hold.
pub(crate) fn assert_checksums(packet: &[u8], l4: usize, protocol: u8) {
    let ip = &packet[VNET_LEN..];
    if ip[0] >> 4 == 4 {
        assert_eq!(naive_sum(&ip[..usize::from(ip[0] & 15) * 4]), 0xffff, "IPv4 header checksum");
    }
    let l4_bytes = &ip[l4..];
    let sum = match protocol {
        protocol::ICMP => naive_sum(l4_bytes),
        _ => naive_sum(&[pseudo(ip, protocol, l4_bytes.len()), l4_bytes.to_vec()].concat()),
    };
    assert_eq!(sum, 0xffff, "L4 checksum");
    if protocol == protocol::UDP {
        assert_ne!(l4_bytes[6..8], [0, 0], "UDP without a checksum");
    }
}
