//! (to come)
/// x
pub const MAX_PACKET: usize = 10 + 65_535 + 40;
