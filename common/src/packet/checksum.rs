//! The Internet checksum (RFC 1071). Pure.

/// The ones' complement sum of `bytes` as big-endian 16-bit words, an odd last byte padded with 0. Not
/// complemented: a checksum field holds `!sum`, and what carries a right one sums to `0xffff`.
///
/// Sums 32-bit words of the machine's own byte order in 64 bits and folds at the end, which comes to the
/// same (RFC 1071, section 2) at several times the speed.
pub(crate) fn sum(bytes: &[u8]) -> u16 {
    let (words, tail) = bytes.as_chunks::<4>();
    let mut total: u64 = words.iter().map(|&word| u64::from(u32::from_ne_bytes(word))).sum();
    let mut last = [0; 4];
    for (to, from) in last.iter_mut().zip(tail) {
        *to = *from;
    }
    total += u64::from(u32::from_ne_bytes(last));
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    u16::from_be(total as u16)
}

/// The ones' complement sum of two sums.
pub(crate) fn add(a: u16, b: u16) -> u16 {
    let (sum, carry) = a.overflowing_add(b);
    sum + u16::from(carry)
}

/// A sum after one word under it changed from `old` to `new`.
pub(crate) fn replace(sum: u16, old: u16, new: u16) -> u16 {
    add(add(sum, !old), new)
}

/// Writes the checksum of `bytes`, with `extra` summed in, at `at`.
pub(crate) fn put(bytes: &mut [u8], at: usize, extra: u16) {
    bytes[at..at + 2].fill(0);
    let sum = !add(sum(bytes), extra);
    bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::offload::testing::naive_sum;

    #[test]
    fn sums_the_rfc_example() {
        assert_eq!(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
    }

    #[test]
    fn agrees_with_the_plain_sum_at_every_length() {
        let bytes: Vec<u8> = (0..300_u32).map(|at| (at * at * 7 + at) as u8).collect();
        for len in 0..bytes.len() {
            assert_eq!(sum(&bytes[..len]), naive_sum(&bytes[..len]), "{len}");
        }
        assert_eq!(sum(&[0xff; 65_535]), naive_sum(&[0xff; 65_535]));
    }

    #[test]
    fn a_replaced_word_changes_the_sum_as_summing_again_does() {
        for (old, new) in [(0, 1), (1, 0), (0xffff, 0), (0x1234, 0xfedc), (7, 7)] {
            let before = sum(&[[0x12, 0x34], u16::to_be_bytes(old)].concat());
            let after = sum(&[[0x12, 0x34], u16::to_be_bytes(new)].concat());
            assert_eq!(replace(before, old, new), after);
        }
    }
}
