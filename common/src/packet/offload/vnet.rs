//! The virtio-net header, and the L4 headers that it speaks of. Pure.

use crate::packet::protocol;
use crate::packet::{Fragment, Header, VNET_LEN};

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`: the L4 checksum is partial.
pub const NEEDS_CSUM: u8 = 1;
/// `VIRTIO_NET_HDR_F_DATA_VALID`: the kernel that handed the packet over has verified its checksum.
pub const DATA_VALID: u8 = 2;
/// `VIRTIO_NET_HDR_GSO_NONE`: not a super-packet.
pub const GSO_NONE: u8 = 0;
/// `VIRTIO_NET_HDR_GSO_TCPV4`: TCP over IPv4.
pub const GSO_TCPV4: u8 = 1;
/// `VIRTIO_NET_HDR_GSO_TCPV6`: TCP over IPv6.
pub const GSO_TCPV6: u8 = 4;
/// `VIRTIO_NET_HDR_GSO_UDP_L4`: UDP datagrams of equal length, over either.
pub const GSO_UDP_L4: u8 = 5;
/// `VIRTIO_NET_HDR_GSO_ECN`, or'ed to a TCP type: the first segment carries CWR.
pub const GSO_ECN: u8 = 0x80;

/// Offset of the checksum in a TCP header (RFC 9293).
pub(super) const TCP_CHECKSUM: usize = 16;
/// Bytes of a TCP header without options.
pub(super) const TCP_LEN: usize = 20;
/// Offset of the checksum in a UDP header (RFC 768).
pub(super) const UDP_CHECKSUM: usize = 6;
/// Bytes of a UDP header.
pub(super) const UDP_LEN: usize = 8;

/// `struct virtio_net_hdr` (include/uapi/linux/virtio_net.h), little-endian in a packet.
///
/// ```text
/// | flags u8 | gso_type u8 | hdr_len u16 | gso_size u16 | csum_start u16 | csum_offset u16 |
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vnet {
    /// [`NEEDS_CSUM`], [`DATA_VALID`].
    pub flags: u8,
    /// One of the `GSO_` types, with or without [`GSO_ECN`].
    pub gso_type: u8,
    /// Bytes of all headers of a super-packet, from the start of the IP packet; else 0.
    pub hdr_len: u16,
    /// Bytes of payload in each segment of a super-packet (the last may have fewer); else 0.
    pub gso_size: u16,
    /// Where the checksum starts, counted from the start of the IP packet: at the L4 header.
    pub csum_start: u16,
    /// Where the checksum stands, counted from `csum_start`.
    pub csum_offset: u16,
}

impl Vnet {
    /// Reads the header's fields.
    #[inline]
    pub fn read(bytes: &[u8; VNET_LEN]) -> Vnet {
        let [flags, gso_type, h0, h1, g0, g1, s0, s1, o0, o1] = *bytes;
        Vnet {
            flags,
            gso_type,
            hdr_len: u16::from_le_bytes([h0, h1]),
            gso_size: u16::from_le_bytes([g0, g1]),
            csum_start: u16::from_le_bytes([s0, s1]),
            csum_offset: u16::from_le_bytes([o0, o1]),
        }
    }

    /// The fields as bytes.
    #[inline]
    pub fn bytes(self) -> [u8; VNET_LEN] {
        let [h0, h1] = self.hdr_len.to_le_bytes();
        let [g0, g1] = self.gso_size.to_le_bytes();
        let [s0, s1] = self.csum_start.to_le_bytes();
        let [o0, o1] = self.csum_offset.to_le_bytes();
        [self.flags, self.gso_type, h0, h1, g0, g1, s0, s1, o0, o1]
    }

    /// Whether the packet is a super-packet.
    #[inline]
    pub fn is_gso(self) -> bool {
        self.gso_type != GSO_NONE
    }
}

/// Where a packet's L4 checksum stands in its L4 header, and the bytes of all headers, both L3 and L4:
/// for a whole TCP or UDP packet with whole headers.
pub(super) fn headers(header: &Header, ip: &[u8]) -> Option<(usize, usize)> {
    if header.fragment != Fragment::No {
        return None;
    }
    let l4 = ip.get(header.l4..)?;
    let (csum_offset, len) = match header.protocol {
        protocol::TCP => (TCP_CHECKSUM, tcp_len(l4)?),
        protocol::UDP => (UDP_CHECKSUM, UDP_LEN),
        _ => return None,
    };
    (len <= l4.len()).then_some((csum_offset, header.l4 + len))
}

/// Bytes of the TCP header that starts `l4`, by its data offset, if that can be; it may say more than is
/// there.
pub(super) fn tcp_len(l4: &[u8]) -> Option<usize> {
    let len = usize::from(*l4.get(12)? >> 4) * 4;
    (len >= TCP_LEN).then_some(len)
}
