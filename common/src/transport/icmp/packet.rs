//! The data of an echo request or reply of ours. Pure.
//!
//! ```text
//! 0    4      5         6         8         16
//! magic kind   credits   seen      session   segment …
//! ```

use std::ops::RangeInclusive;

/// Length of the header, in bytes.
pub const HEADER_LEN: usize = 16;
/// Longest TCP segment, in bytes: with all headers around it, an IPv6 packet of 1,280 bytes, which every path takes.
pub const MAX_SEGMENT: usize = 1_280 - 40 - 8 - HEADER_LEN;
const MAGIC: [u8; 4] = [0x9d, 0x41, 0xe6, 0x0b];

/// The mark of what a server hears: the magic, and the kinds of a client's packets.
pub const OF_CLIENT: (u32, RangeInclusive<u8>) = (u32::from_be_bytes(MAGIC), 1..=OPEN);
/// The mark of what a client hears: the server's packets, and from those that a kernel sends back the one that tells that
/// it does.
pub const OF_SERVER: (u32, RangeInclusive<u8>) = (u32::from_be_bytes(MAGIC), OPEN..=u8::MAX);
/// The highest of a client's kinds.
const OPEN: u8 = 0x7f;

/// The name of a session: a cookie of the server's.
pub type Session = [u8; 8];
/// What a client draws for a session.
pub type Nonce = [u8; 8];

/// What a packet is for. Those of the server have the highest bit set, as the kernel sends back what it got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The client asks for a cookie; `session` is its nonce.
    Open,
    /// The first segments of a client; the nonce stands in front of the segment.
    Begin,
    /// A client's segment, or none: a credit alone.
    Request,
    /// The server's cookie; the nonce is in place of a segment.
    Cookie,
    /// A server's segment.
    Reply,
    /// The server has no such session.
    Unknown,
}

impl Kind {
    const ALL: [(Kind, u8); 6] = [
        (Kind::Open, OPEN),
        (Kind::Begin, 2),
        (Kind::Request, 3),
        (Kind::Cookie, 0x81),
        (Kind::Reply, 0x82),
        (Kind::Unknown, 0x83),
    ];

    fn code(self) -> u8 {
        Kind::ALL.into_iter().find(|(kind, _)| *kind == self).map_or(0, |(_, code)| code)
    }
}

/// A header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the packet is for.
    pub kind: Kind,
    /// From the server: how many credits it still has, or 255 for more.
    pub credits: u8,
    /// From the server: the last request that it has seen, by its sequence number.
    pub seen: u16,
    /// The session.
    pub session: Session,
}

impl Header {
    /// Appends the header to `to`.
    pub fn encode(&self, to: &mut Vec<u8>) {
        to.extend(MAGIC);
        to.extend([self.kind.code(), self.credits]);
        to.extend(self.seen.to_be_bytes());
        to.extend(self.session);
    }

    /// The header, and what is behind it; `None` where this is no packet of ours.
    pub fn decode(data: &[u8]) -> Option<(Header, &[u8])> {
        let (header, segment) = data.split_first_chunk::<HEADER_LEN>()?;
        let [m0, m1, m2, m3, code, credits, s0, s1, session @ ..] = *header;
        if [m0, m1, m2, m3] != MAGIC || segment.len() > MAX_SEGMENT {
            return None;
        }
        let (kind, _) = Kind::ALL.into_iter().find(|(_, known)| *known == code)?;
        Some((Header { kind, credits, seen: u16::from_be_bytes([s0, s1]), session }, segment))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_as_they_were_written_and_nothing_else_is() {
        for (kind, _) in Kind::ALL {
            let header = Header { kind, credits: 9, seen: 0x1234, session: *b"session!" };
            let mut data = Vec::new();
            header.encode(&mut data);
            assert_eq!(data.len(), HEADER_LEN);
            data.extend(b"segment");
            assert_eq!(Header::decode(&data), Some((header, &b"segment"[..])));
            for len in 0..HEADER_LEN {
                assert_eq!(Header::decode(&data[..len]), None);
            }
            for bit in 0..5 * 8 {
                let mut other = data.clone();
                other[bit / 8] ^= 1 << (bit % 8);
                assert!(Header::decode(&other).is_none_or(|(other, _)| other.kind != kind), "bit {bit}");
            }
            data.resize(HEADER_LEN + MAX_SEGMENT + 1, 0);
            assert_eq!(Header::decode(&data), None, "longer than any of ours");
        }
    }
}
