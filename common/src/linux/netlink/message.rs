//! Netlink messages as bytes. Pure: encodes requests and decodes replies, every length checked.
//!
//! ```text
//! nlmsghdr  length u32 | type u16 | flags u16 | sequence u32 | port u32     (linux/netlink.h)
//! then a fixed header of the type (ifinfomsg, ifaddrmsg, rtmsg, fib_rule_hdr)
//! then attributes: length u16 | type u16 | value, each padded to 4 bytes
//! ```
//! All numbers are in the machine's own byte order.

#![warn(clippy::disallowed_methods, reason = "pure, though the module above it is not")]

/// Size of `struct nlmsghdr`.
const HEADER_LEN: usize = 16;
/// Size of `struct nlattr`.
const ATTRIBUTE_LEN: usize = 4;
/// The bits of an attribute's type that are the type (`NLA_TYPE_MASK`).
const TYPE_MASK: u16 = 0x3fff;
/// `NLMSGERR_ATTR_MSG`: the kernel's own words on an error.
const ERROR_TEXT: u16 = 1;

/// A request that is being put together.
#[derive(Debug)]
pub(super) struct Request {
    bytes: Vec<u8>,
}

impl Request {
    /// A request of type `kind` (`RTM_*`) with the flags `NLM_F_REQUEST | flags` and its fixed header.
    pub(super) fn new(kind: u16, flags: u16, fixed: &[u8]) -> Request {
        let mut bytes = vec![0; HEADER_LEN];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(flags | libc::NLM_F_REQUEST as u16).to_ne_bytes());
        bytes.extend_from_slice(fixed);
        Request { bytes }
    }

    /// Adds one attribute; `value` is a few bytes.
    pub(super) fn attribute(mut self, kind: u16, value: &[u8]) -> Request {
        put_attribute(&mut self.bytes, kind, value);
        self
    }

    /// Adds one attribute where there is a value.
    pub(super) fn maybe(self, kind: u16, value: Option<&[u8]>) -> Request {
        match value {
            Some(value) => self.attribute(kind, value),
            None => self,
        }
    }

    /// The finished message.
    pub(super) fn finish(mut self, sequence: u32) -> Vec<u8> {
        let length = self.bytes.len() as u32;
        self.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.bytes
    }
}

/// One attribute as bytes, to be nested in another.
pub(super) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    put_attribute(&mut bytes, kind, value);
    bytes
}

/// One message of a reply.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Message<'a> {
    /// `NLMSG_*` or `RTM_*`.
    pub(super) kind: u16,
    pub(super) flags: u16,
    pub(super) sequence: u32,
    /// The fixed header and the attributes.
    pub(super) body: &'a [u8],
}

/// A reply that breaks the format.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// The messages in what one `recv` returned; ends after the first malformed one.
pub(super) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Result<Message<'_>, Malformed>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let message = next_message(&mut bytes);
        if message.is_none() {
            bytes = &[];
        }
        Some(message.ok_or(Malformed))
    })
}

/// The attributes behind a fixed header, or nested in an attribute; ends at the first malformed one.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(number_u16(bytes, 0)?);
        let kind = number_u16(bytes, 2)? & TYPE_MASK;
        let value = bytes.get(ATTRIBUTE_LEN..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// What an `NLMSG_ERROR` says: the errno, 0 for an acknowledgement, and the kernel's words if it has any.
pub(super) fn outcome(message: &Message<'_>) -> Result<(i32, Option<String>), Malformed> {
    // struct nlmsgerr: a negated errno, then the request's header, then (unless capped) its payload.
    let errno = number_i32(message.body, 0).ok_or(Malformed)?.checked_neg().ok_or(Malformed)?;
    if message.flags & libc::NLM_F_ACK_TLVS as u16 == 0 {
        return Ok((errno, None));
    }
    let echoed = match message.flags & libc::NLM_F_CAPPED as u16 {
        0 => (number_u32(message.body, 4).ok_or(Malformed)? as usize).max(HEADER_LEN),
        _ => HEADER_LEN,
    };
    let tail = echoed.checked_next_multiple_of(4).and_then(|skip| message.body.get(4..)?.get(skip..));
    let text = attributes(tail.unwrap_or_default())
        .find(|&(kind, _)| kind == ERROR_TEXT)
        .map(|(_, value)| String::from_utf8_lossy(value).trim_end_matches('\0').to_owned());
    Ok((errno, text))
}

/// The `u16` at `offset`.
pub(super) fn number_u16(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(offset..)?.first_chunk()?))
}

/// The `u32` at `offset`.
pub(super) fn number_u32(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(offset..)?.first_chunk()?))
}

/// The `i32` at `offset`.
pub(super) fn number_i32(bytes: &[u8], offset: usize) -> Option<i32> {
    Some(i32::from_ne_bytes(*bytes.get(offset..)?.first_chunk()?))
}

fn put_attribute(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = ATTRIBUTE_LEN + value.len();
    debug_assert!(length <= usize::from(u16::MAX), "an attribute is at most 65535 bytes");
    bytes.extend_from_slice(&(length as u16).to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

fn next_message<'a>(bytes: &mut &'a [u8]) -> Option<Message<'a>> {
    let length = number_u32(bytes, 0)? as usize;
    let message = Message {
        kind: number_u16(bytes, 4)?,
        flags: number_u16(bytes, 6)?,
        sequence: number_u32(bytes, 8)?,
        body: bytes.get(HEADER_LEN..length)?,
    };
    *bytes = bytes.get(length.checked_next_multiple_of(4)?..).unwrap_or_default();
    Some(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(bytes: &[u8]) -> Message<'_> {
        messages(bytes).next().unwrap().unwrap()
    }

    /// An `NLMSG_ERROR` that echoes `request`, with `text` behind it.
    fn refusal(errno: i32, request: &[u8], flags: u16, text: &str) -> Vec<u8> {
        let mut body = (-errno).to_ne_bytes().to_vec();
        body.extend_from_slice(request);
        body.extend(attribute(ERROR_TEXT, text.as_bytes()));
        let mut bytes = Request::new(libc::NLMSG_ERROR as u16, flags, &body).finish(7);
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        bytes
    }

    #[test]
    fn request_is_read_back() {
        let bytes = Request::new(20, 5, &[1, 2, 3, 4])
            .attribute(4, &[9; 5])
            .maybe(5, None)
            .attribute(6, &attribute(10, b"x"))
            .finish(77);
        let message = one(&bytes);
        assert_eq!((message.kind, message.flags, message.sequence), (20, 5 | 1, 77));
        assert_eq!(&message.body[..4], [1, 2, 3, 4]);
        let found: Vec<_> = attributes(&message.body[4..]).collect();
        assert_eq!(found[0], (4, &[9u8; 5][..]));
        assert_eq!(found[1].0, 6);
        assert_eq!(attributes(found[1].1).collect::<Vec<_>>(), [(10, &b"x"[..])]);
    }

    #[test]
    fn messages_follow_each_other() {
        let mut bytes = Request::new(1, 0, &[0; 4]).finish(1);
        bytes.extend(Request::new(2, 0, &[]).finish(2));
        let kinds: Vec<_> = messages(&bytes).map(|message| message.unwrap().kind).collect();
        assert_eq!(kinds, [1, 2]);
    }

    #[test]
    fn truncated_replies_are_malformed() {
        let whole = Request::new(20, 0, &[7; 8]).attribute(3, b"abc").finish(1);
        for length in 1..whole.len() {
            assert_eq!(messages(&whole[..length]).collect::<Vec<_>>(), [Err(Malformed)], "{length} bytes");
        }
    }

    #[test]
    fn lengths_that_lie_end_the_walk() {
        for lie in [0u32, 1, 15, 1000, u32::MAX] {
            let mut bytes = Request::new(20, 0, &[7; 8]).finish(1);
            bytes[..4].copy_from_slice(&lie.to_ne_bytes());
            assert_eq!(messages(&bytes).collect::<Vec<_>>(), [Err(Malformed)], "length {lie}");
        }
        for lie in [0u16, 1, 3, 9, u16::MAX] {
            let mut bytes = attribute(3, b"abcd");
            bytes[..2].copy_from_slice(&lie.to_ne_bytes());
            assert_eq!(attributes(&bytes).count(), 0, "length {lie}");
        }
    }

    #[test]
    fn refusal_gives_errno_and_the_kernels_words() {
        let request = Request::new(16, 0, &[0; 16]).finish(7);
        let tlvs = libc::NLM_F_ACK_TLVS as u16;
        let whole = refusal(22, &request, tlvs, "mtu too small\0");
        assert_eq!(outcome(&one(&whole)), Ok((22, Some("mtu too small".to_owned()))));
        let capped = refusal(22, &request[..16], tlvs | libc::NLM_F_CAPPED as u16, "mtu too small\0");
        assert_eq!(outcome(&one(&capped)), Ok((22, Some("mtu too small".to_owned()))));
        let silent = refusal(1, &request, 0, "");
        assert_eq!(outcome(&one(&silent)), Ok((1, None)));
    }

    #[test]
    fn a_lying_refusal_is_harmless() {
        let request = Request::new(16, 0, &[0; 16]).finish(7);
        let tlvs = libc::NLM_F_ACK_TLVS as u16;
        for echoed in [0, 1, 15, 1000, u32::MAX] {
            let mut bytes = refusal(22, &request, tlvs, "words");
            bytes[20..24].copy_from_slice(&u32::to_ne_bytes(echoed));
            assert!(outcome(&one(&bytes)).is_ok_and(|(errno, _)| errno == 22), "{echoed} bytes echoed");
        }
        let least = Request::new(2, tlvs, &i32::MIN.to_ne_bytes()).finish(7);
        assert_eq!(outcome(&one(&least)), Err(Malformed));
    }
}
