//! The one question that is asked of name servers directly: whether this network translates (RFC 7050). Pure.
//!
//! Names of hubs are the C library's affair. It is not asked for this, as looking names up by it needs more files and
//! executable memory than a spoke has whose hub is an address.

#![warn(clippy::disallowed_methods, reason = "pure, though the module above it is not")]

use std::net::Ipv6Addr;

/// The name that has IPv6 addresses only where DNS64 makes them up (RFC 7050, section 8.2), in labels.
const IPV4_ONLY: &[u8] = b"\x08ipv4only\x04arpa\0";
/// Type AAAA, class IN.
const AAAA_IN: [u8; 4] = [0, 28, 0, 1];
const HEADER_LEN: usize = 12;
/// Most addresses that are taken from an answer.
const MAX_ADDRESSES: usize = 16;

/// The question for the IPv6 addresses of ipv4only.arpa.
pub(super) fn question(id: u16) -> Vec<u8> {
    const RECURSION_DESIRED: [u8; 2] = [1, 0];
    const ONE_QUESTION: [u8; 8] = [0, 1, 0, 0, 0, 0, 0, 0];
    [&id.to_be_bytes()[..], &RECURSION_DESIRED, &ONE_QUESTION, IPV4_ONLY, &AAAA_IN].concat()
}

/// The addresses in an answer to [`question`]; `None` for what is no answer to it.
pub(super) fn addresses(id: u16, answer: &[u8]) -> Option<Vec<Ipv6Addr>> {
    let asked = question(id);
    let (header, behind) = answer.split_at_checked(HEADER_LEN)?;
    let is_answer = header[..2] == asked[..2] && header[2] & 0x80 != 0 && header[4..6] == asked[4..6];
    let code = header[3] & 0x0f;
    if !is_answer || code != 0 {
        return None;
    }
    let mut left = behind.strip_prefix(&asked[HEADER_LEN..])?;
    let mut found = Vec::new();
    for _ in 0..u16::from_be_bytes([header[6], header[7]]) {
        left = behind_name(left)?;
        // Type, class, time to live, length of the data.
        let (fixed, data) = left.split_at_checked(10)?;
        let (data, behind) = data.split_at_checked(u16::from_be_bytes([fixed[8], fixed[9]]).into())?;
        if let (true, Ok(address)) = (fixed[..4] == AAAA_IN, <[u8; 16]>::try_from(data))
            && found.len() < MAX_ADDRESSES
        {
            found.push(Ipv6Addr::from(address));
        }
        left = behind;
    }
    Some(found)
}

/// What follows a name: labels, up to an empty one or a pointer (RFC 1035, section 4.1.4).
fn behind_name(mut bytes: &[u8]) -> Option<&[u8]> {
    loop {
        let (&len, behind) = bytes.split_first()?;
        match len {
            0 => return Some(behind),
            1..=63 => bytes = behind.get(usize::from(len)..)?,
            0xc0.. => return behind.get(1..),
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer with an alias and two addresses, of which one has a spelt-out name.
    fn answer(id: u16) -> Vec<u8> {
        let mut answer = question(id);
        answer[2] |= 0x80;
        answer[7] = 3;
        answer.extend(b"\xc0\x0c\x00\x05\x00\x01\0\0\0\x3c\x00\x02\xc0\x0c");
        for (name, last) in [(&b"\xc0\x0c"[..], 170), (IPV4_ONLY, 171)] {
            answer.extend(name);
            answer.extend(b"\x00\x1c\x00\x01\0\0\0\x3c\x00\x10");
            answer.extend([0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0, 192, 0, 0, last]);
        }
        answer
    }

    #[test]
    fn reads_an_answer_to_the_question_alone() {
        let expected = ["64:ff9b::192.0.0.170", "64:ff9b::192.0.0.171"].map(|text| text.parse().unwrap());
        assert_eq!(addresses(7, &answer(7)), Some(expected.to_vec()));
        assert_eq!(addresses(8, &answer(7)), None, "another one's");
        assert_eq!(addresses(7, &question(7)), None, "no answer");
        let mut refused = answer(7);
        refused[3] |= 3;
        assert_eq!(addresses(7, &refused), None, "no such name");
        for len in 0..answer(7).len() {
            assert_eq!(addresses(7, &answer(7)[..len]), None, "cut at {len}");
        }
    }

    #[test]
    fn an_answer_that_is_damaged_does_no_harm() {
        let whole = answer(7);
        for at in 0..whole.len() {
            for value in [0, 1, 63, 64, 0x7f, 0xbf, 0xc0, 0xff] {
                let mut bad = whole.clone();
                bad[at] = value;
                assert!(addresses(7, &bad).is_none_or(|found| found.len() <= MAX_ADDRESSES));
            }
        }
    }
}
