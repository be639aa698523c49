//! Echo requests and replies, by which machines are pinged, without the IP header around them (RFC 792, RFC 4443). Pure.

use crate::packet::{IPV4_LEN, checksum};

/// Bytes of an echo's header.
pub const ECHO_LEN: usize = 8;
/// Where the checksum is.
const CHECKSUM: usize = 2;

/// Which of the two it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EchoKind {
    /// The question.
    Request,
    /// The answer, with the same identifier, number and data.
    Reply,
}

impl EchoKind {
    /// Its type in the header.
    pub fn code(self, is_ipv6: bool) -> u8 {
        match (self, is_ipv6) {
            (EchoKind::Request, false) => 8,
            (EchoKind::Reply, false) => 0,
            (EchoKind::Request, true) => 128,
            (EchoKind::Reply, true) => 129,
        }
    }
}

/// An echo's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Echo {
    /// Whether it asks or answers.
    pub kind: EchoKind,
    /// Tells the requests of one program from those of others.
    pub identifier: u16,
    /// Tells one request from the next.
    pub sequence: u16,
}

impl Echo {
    /// Puts the echo with this data into `message`. The checksum of IPv6 is left to the kernel, which knows the addresses.
    pub fn encode(&self, is_ipv6: bool, data: &[u8], message: &mut Vec<u8>) {
        message.clear();
        message.extend([self.kind.code(is_ipv6), 0, 0, 0]);
        message.extend(self.identifier.to_be_bytes());
        message.extend(self.sequence.to_be_bytes());
        message.extend(data);
        if !is_ipv6 {
            checksum::put(message, CHECKSUM, 0);
        }
    }

    /// The echo, and its data; `None` where it is none of this kind, or its checksum is wrong. That of IPv6 was the
    /// kernel's to check.
    pub fn decode(kind: EchoKind, is_ipv6: bool, message: &[u8]) -> Option<(Echo, &[u8])> {
        let (&[code, subcode, _, _, i0, i1, s0, s1], data) = message.split_first_chunk::<ECHO_LEN>()?;
        let is_intact = is_ipv6 || checksum::sum(message) == 0xffff;
        let echo =
            Echo { kind, identifier: u16::from_be_bytes([i0, i1]), sequence: u16::from_be_bytes([s0, s1]) };
        (code == kind.code(is_ipv6) && subcode == 0 && is_intact).then_some((echo, data))
    }
}

/// The source, the destination and what is behind the header of an IPv4 packet, as the kernel hands it to raw sockets.
pub fn split_ipv4(packet: &[u8]) -> Option<([u8; 4], [u8; 4], &[u8])> {
    let &[first, .., s0, s1, s2, s3, d0, d1, d2, d3] = packet.first_chunk::<IPV4_LEN>()?;
    let header = usize::from(first & 0xf) * 4;
    let behind = packet.get(header..).filter(|_| header >= IPV4_LEN)?;
    Some(([s0, s1, s2, s3], [d0, d1, d2, d3], behind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn echoes_are_read_as_they_were_written_and_no_others() {
        let echo = Echo { kind: EchoKind::Request, identifier: 0x1234, sequence: 0xfffe };
        for is_ipv6 in [false, true] {
            let mut message = Vec::new();
            echo.encode(is_ipv6, b"data!", &mut message);
            assert_eq!(message.len(), ECHO_LEN + 5);
            let read = |message: &[u8]| {
                Echo::decode(EchoKind::Request, is_ipv6, message).map(|(echo, data)| (echo, data.to_vec()))
            };
            assert_eq!(read(&message), Some((echo, b"data!".to_vec())));
            assert_eq!(Echo::decode(EchoKind::Reply, is_ipv6, &message), None);
            for len in 0..ECHO_LEN {
                assert_eq!(read(&message[..len]), None);
            }
            message[ECHO_LEN] ^= 1;
            assert_eq!(read(&message).is_some(), is_ipv6, "IPv4's checksum is wrong now");
        }
    }

    #[test]
    fn ipv4_headers_have_options_or_none_and_are_never_cut() {
        let mut packet =
            [&[0x46][..], &[0; 11], &[192, 0, 2, 1, 192, 0, 2, 2], &[1, 1, 1, 1], b"echo"].concat();
        let (source, to, behind) = split_ipv4(&packet).unwrap();
        assert_eq!((source, to, behind), ([192, 0, 2, 1], [192, 0, 2, 2], &b"echo"[..]));
        for len in 0..24 {
            assert_eq!(split_ipv4(&packet[..len]), None);
        }
        packet[0] = 0x44;
        assert_eq!(split_ipv4(&packet), None, "shorter than a header");
    }
}
