//! (to come)

/// Length of the virtio-net header before every IP packet.
pub const VNET_LEN: usize = 10;

/// The largest packet: headers of both kinds and 65,535 bytes of payload.
pub const MAX_PACKET: usize = VNET_LEN + 65_535 + 40;

/// Sets Congestion Experienced where the sender is ECN-capable (RFC 3168 section 5): true if it is set now.
pub fn mark_congestion(packet: &mut [u8]) -> bool {
    let Some(ip) = packet.get_mut(VNET_LEN..) else { return false };
    match ip {
        [0x40..=0x4f, tos, _, _, _, _, _, _, _, _, sum_hi, sum_lo, ..] if *tos & 3 != 0 => {
            // RFC 1624: HC' = ~(~HC + ~m + m'); the changed word's other byte stays.
            let added = u32::from(3 - (*tos & 3));
            let sum = u32::from(!u16::from_be_bytes([*sum_hi, *sum_lo])) + added;
            let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
            [*sum_hi, *sum_lo] = sum.to_be_bytes();
            *tos |= 3;
            true
        }
        [0x60..=0x6f, class, ..] if *class & 0x30 != 0 => {
            *class |= 0x30;
            true
        }
        _ => false,
    }
}
