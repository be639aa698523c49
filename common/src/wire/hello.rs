//! The clear hello that each end sends first, and what else the first bytes may be. Pure.

use std::fmt;

/// Version of the wire protocol.
pub const VERSION: u8 = 1;
/// Length of the clear hello that each end sends first.
pub const HELLO_LEN: usize = 8;
const MAGIC: &[u8; HELLO_LEN - 1] = b"hub&spk";

/// The hello of this version.
pub const fn hello() -> [u8; HELLO_LEN] {
    let mut hello = [VERSION; HELLO_LEN];
    let mut i = 0;
    while i < MAGIC.len() {
        hello[i] = MAGIC[i];
        i += 1;
    }
    hello
}

/// The protocol of a peer whose first bytes are not our hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownProtocol {
    /// Speaks our protocol in another version.
    Version(u8),
    /// An HTTP client or server.
    Http,
    /// A TLS client or server.
    Tls,
    /// An SSH client or server.
    Ssh,
    /// Anything else.
    Unknown,
}

impl fmt::Display for UnknownProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UnknownProtocol::Version(theirs) => {
                write!(
                    f,
                    "speaks protocol version {theirs}, this end speaks {VERSION}: upgrade the older one"
                )
            }
            UnknownProtocol::Http => f.write_str("speaks HTTP, not hub & spoke"),
            UnknownProtocol::Tls => f.write_str("speaks TLS, not hub & spoke"),
            UnknownProtocol::Ssh => f.write_str("speaks SSH, not hub & spoke"),
            UnknownProtocol::Unknown => f.write_str("does not speak hub & spoke"),
        }
    }
}

/// Looks at the first bytes from the other end: `None` asks for more, `Ok` means [`HELLO_LEN`] bytes were
/// the hello of this version.
pub fn check_hello(bytes: &[u8]) -> Option<Result<(), UnknownProtocol>> {
    let seen = &bytes[..bytes.len().min(HELLO_LEN)];
    let known = seen.len().min(MAGIC.len());
    if seen[..known] != MAGIC[..known] {
        return unknown_protocol(seen).map(Err);
    }
    match seen.get(HELLO_LEN - 1) {
        None => None,
        Some(&VERSION) => Some(Ok(())),
        Some(&version) => Some(Err(UnknownProtocol::Version(version))),
    }
}

/// Identifies an unknown protocol by its first bytes; `None` while several are possible.
fn unknown_protocol(seen: &[u8]) -> Option<UnknownProtocol> {
    const HTTP: [&[u8]; 9] =
        [b"GET ", b"HEAD ", b"POST ", b"PUT ", b"OPTIONS ", b"CONNECT ", b"DELETE ", b"PRI * ", b"HTTP/"];
    let is = |word: &[u8]| seen.starts_with(word);
    if is(b"SSH-") {
        return Some(UnknownProtocol::Ssh);
    }
    // A TLS record: handshake or alert, version 3.x (RFC 8446, 5.1).
    if is(&[0x16, 3]) || is(&[0x15, 3]) {
        return Some(UnknownProtocol::Tls);
    }
    if HTTP.iter().any(|word| is(word)) {
        return Some(UnknownProtocol::Http);
    }
    let could_be = |word: &[u8]| word.starts_with(seen);
    let undecided = could_be(b"SSH-")
        || could_be(&[0x16, 3])
        || could_be(&[0x15, 3])
        || HTTP.iter().any(|word| could_be(&word[..word.len().min(HELLO_LEN)]));
    if undecided { None } else { Some(UnknownProtocol::Unknown) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hello_is_known_at_every_length() {
        let ours = hello();
        for len in 0..HELLO_LEN {
            assert_eq!(check_hello(&ours[..len]), None);
        }
        assert_eq!(check_hello(&ours), Some(Ok(())));
        let mut other = ours;
        other[HELLO_LEN - 1] = 9;
        assert_eq!(check_hello(&other), Some(Err(UnknownProtocol::Version(9))));
        for (bytes, who) in [
            (&b"GET / HTTP/1.1"[..], UnknownProtocol::Http),
            (b"HTTP/1.1 400 Bad Request", UnknownProtocol::Http),
            (b"SSH-2.0-OpenSSH", UnknownProtocol::Ssh),
            (&[0x16, 3, 1, 0, 200], UnknownProtocol::Tls),
            (&[0x15, 3, 3, 0, 2], UnknownProtocol::Tls),
            (b"\0\0\0\0", UnknownProtocol::Unknown),
            (b"hub%", UnknownProtocol::Unknown),
        ] {
            assert_eq!(check_hello(bytes), Some(Err(who)), "{bytes:?}");
        }
        assert_eq!(check_hello(b"G"), None);
    }
}
