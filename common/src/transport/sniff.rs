//! Detects the protocol of an accepted connection by its first bytes. Pure.

use crate::wire::hello::{UnknownProtocol, check_hello};

/// What the first bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carries {
    /// A TLS handshake.
    Tls,
    /// An HTTP request: a WebSocket, or whatever a browser or a scanner wants.
    Http,
    /// Our own protocol, or none that is known here: the tunnel tells.
    Tunnel,
}

/// Tells by the first bytes; `None` asks for more, of which [`HELLO_LEN`](crate::wire::hello::HELLO_LEN) in all are
/// enough.
pub fn sniff(first: &[u8]) -> Option<Carries> {
    Some(match check_hello(first)? {
        Err(UnknownProtocol::Tls) => Carries::Tls,
        Err(UnknownProtocol::Http) => Carries::Http,
        Ok(()) | Err(UnknownProtocol::Version(_) | UnknownProtocol::Ssh | UnknownProtocol::Unknown) => {
            Carries::Tunnel
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::hello::{HELLO_LEN, hello};

    #[test]
    fn tells_protocols_apart_within_a_hellos_length() {
        for (first, expected) in [
            (&hello()[..], Carries::Tunnel),
            (b"\x16\x03\x01\x02\x00\x01\x00\x01", Carries::Tls),
            (b"GET / HTTP/1.1\r\n", Carries::Http),
            (b"OPTIONS * HTTP/1.1\r\n", Carries::Http),
            (b"SSH-2.0-x", Carries::Tunnel),
            (b"\x16\x16\x16\x16\x16\x16\x16\x16", Carries::Tunnel),
            (b"hub&spk\x09", Carries::Tunnel),
            (b"GETTING ", Carries::Tunnel),
        ] {
            assert_eq!(sniff(first), Some(expected), "{first:?}");
            for len in 0..HELLO_LEN {
                let early = sniff(&first[..len]);
                assert!(early.is_none() || early == Some(expected), "{first:?} up to {len}: {early:?}");
            }
            assert!(sniff(&first[..HELLO_LEN]).is_some(), "{first:?}");
        }
    }
}
