//! Lengths of headers, packets and MTUs. Pure.

/// Least MTU, that of IPv4 (RFC 791: every host takes 576 bytes).
pub const MIN_MTU: u32 = 576;
/// Least MTU of a device with IPv6 (RFC 8200).
pub const MIN_MTU_V6: u32 = 1280;
/// Largest MTU of a TUN device (`MAX_MTU` of drivers/net/tun.c).
pub const MAX_MTU: u32 = 65_535;
/// Bytes of `struct virtio_net_hdr` (include/uapi/linux/virtio_net.h) ahead of each IP packet.
pub const VNET_LEN: usize = 10;

/// The longest packet: an IPv6 payload length of 65,535, its fixed header, and the virtio-net header.
pub const MAX_PACKET: usize = VNET_LEN + IPV6_LEN + 65_535;

/// Bytes of an IPv4 header without options.
pub const IPV4_LEN: usize = 20;

/// Bytes of the fixed IPv6 header.
pub const IPV6_LEN: usize = 40;
