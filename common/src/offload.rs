//! (to come)

/// Cuts whole segments of at most `max` bytes off a super-packet's front.
pub fn split_front(_packet: &mut [u8], _max: usize, _front: &mut Vec<u8>) -> Option<usize> {
    None
}
