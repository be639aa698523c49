//! The heads of HTTP/1.1 messages. Pure.
//!
//! A proxy's answer to CONNECT and the messages that open a WebSocket are heads without a body. Bytes come in as
//! they arrive; a head is parsed (by httparse) once all of it is there.

use std::fmt;

/// Longest head, in bytes.
pub const MAX_HEAD: usize = 8 * 1024;
/// Most header fields in one head.
const MAX_FIELDS: usize = 64;

/// Why bytes are no head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadHead {
    /// They are no HTTP.
    NotHttp,
    /// It is longer than [`MAX_HEAD`], or has more fields than any sensible one.
    TooLong,
}

impl fmt::Display for BadHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadHead::NotHttp => f.write_str("it is not HTTP"),
            BadHead::TooLong => write!(f, "its head is longer than {MAX_HEAD} bytes"),
        }
    }
}

/// Gathers one head.
#[derive(Debug, Default)]
pub struct HeadReader {
    bytes: Vec<u8>,
    /// Only line ends since the last other byte: whether the next one ends the head.
    is_line_empty: bool,
}

impl HeadReader {
    /// Takes bytes up to the end of the head: how many that were, or `None` when the head goes on behind all of them.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<Option<usize>, BadHead> {
        for (index, &byte) in bytes.iter().enumerate() {
            if self.bytes.len() == MAX_HEAD {
                return Err(BadHead::TooLong);
            }
            self.bytes.push(byte);
            match byte {
                b'\n' if self.is_line_empty => return Ok(Some(index + 1)),
                b'\n' => self.is_line_empty = true,
                b'\r' => {}
                _ => self.is_line_empty = false,
            }
        }
        Ok(None)
    }

    /// What came so far.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Parses the head as a response.
    pub fn response(&self) -> Result<Response, BadHead> {
        let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let mut parsed = httparse::Response::new(&mut fields);
        is_whole(parsed.parse(&self.bytes))?;
        let status = parsed.code.ok_or(BadHead::NotHttp)?;
        Ok(Response { status, fields: Fields::new(parsed.headers) })
    }

    /// Parses the head as a request.
    pub fn request(&self) -> Result<Request, BadHead> {
        let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let mut parsed = httparse::Request::new(&mut fields);
        is_whole(parsed.parse(&self.bytes))?;
        Ok(Request {
            method: parsed.method.ok_or(BadHead::NotHttp)?.to_owned(),
            target: parsed.path.ok_or(BadHead::NotHttp)?.to_owned(),
            is_at_least_1_1: parsed.version.is_some_and(|minor| minor >= 1),
            fields: Fields::new(parsed.headers),
        })
    }
}

fn is_whole(parsed: httparse::Result<usize>) -> Result<(), BadHead> {
    match parsed {
        Ok(httparse::Status::Complete(_)) => Ok(()),
        Err(httparse::Error::TooManyHeaders) => Err(BadHead::TooLong),
        Ok(httparse::Status::Partial) | Err(_) => Err(BadHead::NotHttp),
    }
}

/// The head of a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// Its status, three digits.
    pub status: u16,
    /// Its header fields.
    pub fields: Fields,
}

/// The head of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Its method.
    pub method: String,
    /// What it asks for: a path, with its query.
    pub target: String,
    /// Whether it is of HTTP/1.1.
    pub is_at_least_1_1: bool,
    /// Its header fields.
    pub fields: Fields,
}

/// Header fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields(Vec<(String, String)>);

impl Fields {
    /// What is not printable ASCII becomes `?`: values are shown to people.
    fn new(parsed: &[httparse::Header<'_>]) -> Fields {
        let printable = |&byte: &u8| if matches!(byte, b' '..=b'~') { char::from(byte) } else { '?' };
        let text = |value: &[u8]| value.iter().map(printable).collect::<String>().trim().to_owned();
        Fields(parsed.iter().map(|field| (field.name.to_owned(), text(field.value))).collect())
    }

    /// The first value of a field.
    pub fn first(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// All values of a field.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        let is_it = move |(field, _): &&(String, String)| field.eq_ignore_ascii_case(name);
        self.0.iter().filter(is_it).map(|(_, value)| value.as_str())
    }

    /// Whether a field that is a list of words, separated by commas, holds this one.
    pub fn lists(&self, name: &str, word: &str) -> bool {
        self.all(name)
            .flat_map(|value| value.split(','))
            .any(|listed| listed.trim().eq_ignore_ascii_case(word))
    }
}

/// The standard phrase of a status, of those that a proxy or a web server sends in place of what was asked for.
pub fn phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        407 => "Proxy Authentication Required",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        511 => "Network Authentication Required",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESPONSE: &[u8] = b"HTTP/1.1 407 Go away\r\nProxy-Authenticate: Negotiate\r\n\
        proxy-authenticate: Basic realm=\"x\"\r\nConnection: a, Upgrade\r\n\r\n";

    #[test]
    fn a_head_split_at_every_byte_is_the_same_head() {
        let mut whole = HeadReader::default();
        assert_eq!(whole.receive(RESPONSE), Ok(Some(RESPONSE.len())));
        for at in 0..RESPONSE.len() {
            let mut reader = HeadReader::default();
            assert_eq!(reader.receive(&RESPONSE[..at]), Ok(None));
            let with_more = [&RESPONSE[at..], b"\r\n\r\nmore"].concat();
            assert_eq!(reader.receive(&with_more), Ok(Some(RESPONSE.len() - at)));
            assert_eq!(reader.response(), whole.response());
        }
        let response = whole.response().unwrap();
        assert_eq!(response.status, 407);
        assert_eq!(
            response.fields.all("Proxy-Authenticate").collect::<Vec<_>>(),
            ["Negotiate", "Basic realm=\"x\""]
        );
        assert!(response.fields.lists("connection", "upgrade"));
        assert!(!response.fields.lists("connection", "up"));
    }

    #[test]
    fn heads_are_bounded() {
        let mut reader = HeadReader::default();
        assert_eq!(reader.receive(&[b'x'; MAX_HEAD]), Ok(None));
        assert_eq!(reader.receive(b"x"), Err(BadHead::TooLong));
        let mut reader = HeadReader::default();
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(MAX_FIELDS + 1));
        assert_eq!(reader.receive(many.as_bytes()), Ok(Some(many.len())));
        assert_eq!(reader.request(), Err(BadHead::TooLong));
    }

    #[test]
    fn garbage_is_no_head() {
        for garbage in
            [&b"\n\n"[..], b"\x05\x00\n\n", b"SSH-2.0\r\n\r\n", b"HTTP/1.1 2\r\n\r\n", b"\0\xff\n\n"]
        {
            let mut reader = HeadReader::default();
            assert_eq!(reader.receive(garbage), Ok(Some(garbage.len())), "{garbage:?}");
            assert_eq!(reader.response(), Err(BadHead::NotHttp), "{garbage:?}");
            assert_eq!(reader.request(), Err(BadHead::NotHttp), "{garbage:?}");
        }
    }
}
