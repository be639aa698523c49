//! The tunnel's bytes in binary WebSocket messages (RFC 6455), without a socket. Pure but for the masks, which
//! tungstenite draws by itself.
//!
//! Where messages begin and end means nothing. Either end answers pings; none are sent, as a tunnel that is idle
//! sends pings of its own every few seconds, and proxies count those.

use std::fmt;
use std::io::{self, Read, Write};

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tungstenite::error::{CapacityError, ProtocolError};
use tungstenite::protocol::{Role, WebSocketConfig, WebSocketContext};
use tungstenite::{Bytes, Message};

use super::http::{self, BadHead, HeadReader, Request, Response};

/// Most bytes of the tunnel in one message that is sent.
const MAX_SENT: usize = 16 * 1024;
/// Most bytes in one message that is taken: a whole message waits in memory before it is passed on.
const MAX_TAKEN: usize = 64 * 1024;
/// Bytes that are gathered at once.
const READ_BUFFER: usize = 4 * 1024;
/// What the server puts behind the client's key (RFC 6455, section 1.3).
const ACCEPT_SUFFIX: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const VERSION: &str = "13";
/// Most characters of an address that are shown.
const MAX_SHOWN: usize = 200;

/// The client's request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// The server, as the field Host names it.
    pub host: String,
    /// The path, with its slash.
    pub path: String,
    /// Fresh randomness.
    pub key: [u8; 16],
}

/// Why there is no WebSocket, or no more. Its text says what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WebError {
    /// The server answered with another status.
    Status {
        /// The status.
        status: u16,
        /// The path that was asked for.
        path: String,
        /// Where it sends us, if it does.
        location: Option<String>,
    },
    /// The server agreed, but not to what was asked.
    BadAccept,
    /// Bytes that are no HTTP.
    Head(BadHead),
    /// The client asked for a page, and got one that says that there is none.
    Page,
    /// The other end broke the rules of WebSocket.
    Protocol(String),
    /// A message is text; only binary ones are taken.
    Text,
    /// A message is longer than any of ours.
    TooLong,
    /// The other end closed the WebSocket.
    Closed,
}

impl std::error::Error for WebError {}

impl fmt::Display for WebError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WebError::Status { status, path, location } => {
                let answer = format!("{status} {}", http::phrase(*status));
                write!(f, "the web server answered {}", answer.trim_end())?;
                match status {
                    200..=299 => {
                        write!(f, " with a page: no hub is behind {path}, or a captive portal answered")
                    }
                    300..=399 => match location {
                        Some(at) => write!(
                            f,
                            " and points to {at}: is that the hub's address, or a captive portal's?"
                        ),
                        None => f.write_str(" and points elsewhere: is it a captive portal's?"),
                    },
                    401 | 403 => write!(f, " for {path}: it does not let this machine in"),
                    404 | 405 => {
                        write!(f, " for {path}: check the path, and that the server passes it to the hub")
                    }
                    400 | 426 | 501 => write!(f, ": does it pass WebSocket upgrades on for {path}?"),
                    500 | 502..=504 => {
                        f.write_str(": it cannot reach the hub behind it; is the hub running?")
                    }
                    _ => write!(f, " for {path}: ask who runs it"),
                }
            }
            WebError::BadAccept => f.write_str(
                "the web server agreed to a WebSocket in a wrong way: something in between is broken",
            ),
            WebError::Head(bad) => write!(f, "no answer of a web server: {bad}"),
            WebError::Page => f.write_str("it asked for a web page"),
            WebError::Protocol(why) => write!(f, "it breaks the rules of WebSocket: {why}"),
            WebError::Text => f.write_str("it sent text on its WebSocket, where only bytes are taken"),
            WebError::TooLong => {
                write!(f, "it sent a WebSocket message of more than {MAX_TAKEN} bytes")
            }
            WebError::Closed => f.write_str("it closed the WebSocket"),
        }
    }
}

/// One end of a WebSocket, from the first byte of HTTP on.
#[derive(Debug)]
pub struct WebSocket {
    state: State,
}

#[derive(Debug)]
enum State {
    /// The client, before the answer.
    Asked {
        head: HeadReader,
        ask: Ask,
    },
    /// The server, before the whole request.
    Awaits {
        head: HeadReader,
    },
    Open(Box<WebSocketContext>),
}

impl WebSocket {
    /// The client's end; its request goes to `out`.
    pub fn client(ask: Ask, out: &mut Vec<u8>) -> WebSocket {
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: {VERSION}\r\nSec-WebSocket-Key: {}\r\n\r\n",
            ask.path,
            ask.host,
            STANDARD.encode(ask.key)
        );
        out.extend(request.as_bytes());
        WebSocket { state: State::Asked { head: HeadReader::default(), ask } }
    }

    /// The server's end.
    pub fn server() -> WebSocket {
        WebSocket { state: State::Awaits { head: HeadReader::default() } }
    }

    /// Whether the tunnel's bytes may flow.
    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Open(_))
    }

    /// Takes bytes from the other end: the tunnel's go to `plain`, what is to be answered to `out`. With an error,
    /// `out` may hold the last words.
    pub fn receive(
        &mut self,
        mut bytes: &[u8],
        plain: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<(), WebError> {
        let role = match &mut self.state {
            State::Open(context) => return receive_messages(context, bytes, plain, out),
            State::Asked { head, ask } => {
                let Some(len) = head.receive(bytes).map_err(WebError::Head)? else { return Ok(()) };
                bytes = &bytes[len..];
                check_answer(&head.response().map_err(WebError::Head)?, ask)?;
                Role::Client
            }
            State::Awaits { head } => {
                let received = head.receive(bytes).and_then(|end| match end {
                    Some(len) => head.request().map(|request| Some((len, request))),
                    None => Ok(None),
                });
                let (len, request) = match received {
                    Ok(Some(whole)) => whole,
                    Ok(None) => return Ok(()),
                    Err(bad) => {
                        out.extend(page(400).as_bytes());
                        return Err(WebError::Head(bad));
                    }
                };
                bytes = &bytes[len..];
                let Some(key) = key_of(&request) else {
                    out.extend(page(404).as_bytes());
                    return Err(WebError::Page);
                };
                out.extend(agreement(key).as_bytes());
                Role::Server
            }
        };
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .write_buffer_size(0)
            .max_write_buffer_size(2 * MAX_TAKEN)
            .max_message_size(Some(MAX_TAKEN))
            .max_frame_size(Some(MAX_TAKEN));
        let mut context = Box::new(WebSocketContext::new(role, Some(config)));
        let received = receive_messages(&mut context, bytes, plain, out);
        self.state = State::Open(context);
        received
    }

    /// Wraps bytes of the tunnel; not before it is open.
    pub fn send(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), WebError> {
        let State::Open(context) = &mut self.state else { return Ok(()) };
        let mut wire = Wire { input: &[], output: out };
        for piece in plain.chunks(MAX_SENT) {
            context.write(&mut wire, Message::Binary(Bytes::copy_from_slice(piece))).map_err(web_error)?;
        }
        Ok(())
    }
}

/// Checks the server's answer (RFC 6455, section 4.2.2).
fn check_answer(response: &Response, ask: &Ask) -> Result<(), WebError> {
    if response.status != 101 {
        return Err(WebError::Status {
            status: response.status,
            path: ask.path.clone(),
            location: response.fields.first("Location").map(|at| at.chars().take(MAX_SHOWN).collect()),
        });
    }
    let fields = &response.fields;
    let is_upgrade = fields.lists("Upgrade", "websocket") && fields.lists("Connection", "Upgrade");
    let is_ours = fields.first("Sec-WebSocket-Accept") == Some(&accept(&STANDARD.encode(ask.key)));
    let is_plain = fields.first("Sec-WebSocket-Extensions").is_none();
    if is_upgrade && is_ours && is_plain { Ok(()) } else { Err(WebError::BadAccept) }
}

/// The server's key for a client's (RFC 6455, section 4.2.2).
fn accept(key: &str) -> String {
    let text = format!("{key}{ACCEPT_SUFFIX}");
    STANDARD.encode(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()))
}

/// The key of a request that is for a WebSocket (RFC 6455, section 4.2.1).
fn key_of(request: &Request) -> Option<&str> {
    let fields = &request.fields;
    let is_upgrade = request.method == "GET"
        && request.is_at_least_1_1
        && fields.lists("Upgrade", "websocket")
        && fields.lists("Connection", "Upgrade")
        && fields.first("Sec-WebSocket-Version") == Some(VERSION);
    fields
        .first("Sec-WebSocket-Key")
        .filter(|key| is_upgrade && STANDARD.decode(key).is_ok_and(|bytes| bytes.len() == 16))
}

fn agreement(key: &str) -> String {
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {}\r\n\r\n",
        accept(key)
    )
}

/// A page that tells nothing but its status, whatever was asked for.
fn page(status: u16) -> String {
    let title = format!("{status} {}", http::phrase(status));
    let body = format!("<!doctype html><title>{title}</title><h1>{title}</h1>\n");
    format!(
        "HTTP/1.1 {title}\r\nContent-Type: text/html\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

fn receive_messages(
    context: &mut WebSocketContext,
    bytes: &[u8],
    plain: &mut Vec<u8>,
    out: &mut Vec<u8>,
) -> Result<(), WebError> {
    let mut wire = Wire { input: bytes, output: out };
    loop {
        match context.read(&mut wire) {
            Ok(Message::Binary(bytes)) => plain.extend(&bytes),
            Ok(Message::Ping(_) | Message::Pong(_)) => {}
            Ok(Message::Text(_)) => return Err(WebError::Text),
            Ok(Message::Close(_) | Message::Frame(_)) => {
                // The answer to a close goes out with the last words.
                let _ = context.flush(&mut wire);
                return Err(WebError::Closed);
            }
            Err(tungstenite::Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(web_error(error)),
        }
    }
}

fn web_error(error: tungstenite::Error) -> WebError {
    use tungstenite::Error;
    match error {
        Error::ConnectionClosed
        | Error::AlreadyClosed
        | Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => WebError::Closed,
        Error::Capacity(CapacityError::MessageTooLong { .. }) => WebError::TooLong,
        Error::Utf8(_) => WebError::Text,
        error @ (Error::Io(_)
        | Error::Tls(_)
        | Error::Capacity(_)
        | Error::Protocol(_)
        | Error::WriteBufferFull(_)
        | Error::AttackAttempt
        | Error::Url(_)) => WebError::Protocol(error.to_string()),
    }
}

/// A stream for tungstenite: what came in, and what goes out.
struct Wire<'a> {
    input: &'a [u8],
    output: &'a mut Vec<u8>,
}

impl Read for Wire<'_> {
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        // An end would mean that the connection is closed.
        if self.input.is_empty() { Err(io::ErrorKind::WouldBlock.into()) } else { self.input.read(space) }
    }
}

impl Write for Wire<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.output.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 16] = *b"the sample nonce";

    fn ask() -> Ask {
        Ask { host: "hub.example.org".to_owned(), path: "/way".to_owned(), key: KEY }
    }

    /// Both ends, open.
    fn pair() -> (WebSocket, WebSocket) {
        let (mut to_server, mut to_client, mut plain) = (Vec::new(), Vec::new(), Vec::new());
        let mut client = WebSocket::client(ask(), &mut to_server);
        let mut server = WebSocket::server();
        server.receive(&to_server, &mut plain, &mut to_client).unwrap();
        to_server.clear();
        client.receive(&to_client, &mut plain, &mut to_server).unwrap();
        assert!(client.is_open() && server.is_open());
        assert!(plain.is_empty() && to_server.is_empty());
        (client, server)
    }

    fn asks(request: &str) -> (Result<(), WebError>, String) {
        let (mut plain, mut out) = (Vec::new(), Vec::new());
        let received = WebSocket::server().receive(request.as_bytes(), &mut plain, &mut out);
        assert!(plain.is_empty());
        (received, String::from_utf8(out).unwrap())
    }

    #[test]
    fn the_key_is_answered_as_the_standard_has_it() {
        assert_eq!(STANDARD.encode(KEY), "dGhlIHNhbXBsZSBub25jZQ==");
        let request = "GET /chat HTTP/1.1\r\nHost: server.example.com\r\nUpgrade: websocket\r\n\
            Connection: keep-alive, Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
            Sec-WebSocket-Protocol: chat, superchat\r\nSec-WebSocket-Version: 13\r\n\r\n";
        let (received, answer) = asks(request);
        assert_eq!(received, Ok(()));
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        assert!(answer.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{answer}");
    }

    #[test]
    fn whoever_wants_a_page_gets_one_that_tells_nothing() {
        for (request, status) in [
            ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", "404 Not Found"),
            ("GET / HTTP/1.0\r\n\r\n", "404 Not Found"),
            ("POST /x HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", "404 Not Found"),
            ("GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", "404 Not Found"),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "400 Bad Request"),
            ("GET  HTTP/9\r\n\r\n", "400 Bad Request"),
        ] {
            let (received, answer) = asks(request);
            assert!(received.is_err(), "{request}");
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{request}: {answer}");
            let lower = answer.to_lowercase();
            assert!(!lower.contains("hub") && !lower.contains("spoke") && answer.len() < 250, "{answer}");
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            assert!(head.contains(&format!("Content-Length: {}", body.len())), "{answer}");
        }
    }

    #[test]
    fn a_request_without_end_is_given_up() {
        let mut server = WebSocket::server();
        let (mut plain, mut out) = (Vec::new(), Vec::new());
        let endless = [b"GET / HTTP/1.1\r\nA: ".to_vec(), vec![b'a'; http::MAX_HEAD]].concat();
        assert_eq!(server.receive(&endless, &mut plain, &mut out), Err(WebError::Head(BadHead::TooLong)));
    }

    #[test]
    fn bytes_arrive_in_order_however_they_are_split() {
        let bytes: Vec<u8> = (0..40_000u32).map(|n| n as u8 ^ (n >> 8) as u8).collect();
        for split in [1, 7, 1_000, 16_000, usize::MAX] {
            let (mut client, mut server) = pair();
            for is_from_client in [true, false] {
                let (from, to) =
                    if is_from_client { (&mut client, &mut server) } else { (&mut server, &mut client) };
                let (mut wire, mut plain, mut out) = (Vec::new(), Vec::new(), Vec::new());
                for piece in bytes.chunks(9_999) {
                    from.send(piece, &mut wire).unwrap();
                }
                assert!(wire.len() > bytes.len() && wire.len() < bytes.len() + 100);
                for piece in wire.chunks(split.min(wire.len())) {
                    to.receive(piece, &mut plain, &mut out).unwrap();
                }
                assert!(plain == bytes, "split at {split}");
                assert!(out.is_empty());
            }
        }
    }

    #[test]
    fn a_handshake_split_at_every_byte_opens_both_ends_and_keeps_what_follows() {
        let (mut request, mut agreement) = (Vec::new(), Vec::new());
        WebSocket::client(ask(), &mut request);
        WebSocket::server().receive(&request, &mut Vec::new(), &mut agreement).unwrap();
        // An unmasked message behind the agreement, a masked one behind the request.
        let followed = [&agreement[..], &[0x82, 2, b'h', b'i']].concat();
        let asked = [&request[..], &[0x82, 0x82, 0, 0, 0, 0, b'h', b'i']].concat();
        for split in 0..asked.len() {
            let (mut plain, mut out) = (Vec::new(), Vec::new());
            let mut server = WebSocket::server();
            let (first, second) = asked.split_at(split);
            server.receive(first, &mut plain, &mut out).unwrap();
            server.receive(second, &mut plain, &mut out).unwrap();
            assert_eq!((&plain[..], &out), (&b"hi"[..], &agreement), "{split}");
        }
        for split in 0..followed.len() {
            let (mut plain, mut out) = (Vec::new(), Vec::new());
            let mut client = WebSocket::client(ask(), &mut Vec::new());
            let (first, second) = followed.split_at(split);
            client.receive(first, &mut plain, &mut out).unwrap();
            client.receive(second, &mut plain, &mut out).unwrap();
            assert_eq!((&plain[..], &out[..]), (&b"hi"[..], &b""[..]), "{split}");
        }
    }

    #[test]
    fn a_server_that_does_not_agree_is_told_of_in_one_sentence() {
        for (answer, says) in [
            ("404 Not Found\r\n", "404 Not Found for /way: check the path"),
            ("200 OK\r\n", "answered 200 OK with a page: no hub is behind /way"),
            ("302 \r\nLocation: http://portal.example/\r\n", "points to http://portal.example/"),
            ("502 x\r\n", "502 Bad Gateway: it cannot reach the hub behind it"),
            ("403 x\r\n", "does not let this machine in"),
            ("426 x\r\n", "Upgrade Required: does it pass WebSocket upgrades on for /way?"),
            ("418 x\r\n", "answered 418 for /way: ask who runs it"),
            (
                "101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n",
                "wrong way",
            ),
            ("101 x\r\n", "wrong way"),
        ] {
            let mut client = WebSocket::client(ask(), &mut Vec::new());
            let answer = format!("HTTP/1.1 {answer}\r\n");
            let error = client.receive(answer.as_bytes(), &mut Vec::new(), &mut Vec::new()).unwrap_err();
            assert!(error.to_string().contains(says), "{answer}: {error}");
        }
    }

    #[test]
    fn pings_are_answered_and_closes_too() {
        let (mut client, mut server) = pair();
        let (mut plain, mut out) = (Vec::new(), Vec::new());
        client.receive(&[0x89, 2, b'a', b'b', 0x82, 1, b'x'], &mut plain, &mut out).unwrap();
        assert_eq!(plain, b"x");
        assert_eq!((out[0], out[1], out.len()), (0x8a, 0x82, 8), "a masked pong");
        assert_eq!(server.receive(&out, &mut plain, &mut Vec::new()), Ok(()));
        out.clear();
        assert_eq!(client.receive(&[0x88, 0], &mut plain, &mut out), Err(WebError::Closed));
        assert_eq!((out[0], out.len()), (0x88, 6), "a close of its own");
        assert_eq!(plain, b"x");
    }

    #[test]
    fn what_breaks_the_rules_closes_the_connection() {
        let too_long = [&[0x82, 127][..], &(MAX_TAKEN as u64 + 1).to_be_bytes()].concat();
        let half =
            [&[0x02, 126][..], &((MAX_TAKEN / 2 + 1) as u16).to_be_bytes(), &[0; MAX_TAKEN / 2 + 1]].concat();
        let mut halves = [&half[..], &half].concat();
        halves[half.len()] = 0x80;
        for (to_client, bytes, expected) in [
            (true, &b"\x81\x01x"[..], Some(WebError::Text)),
            (true, &too_long, Some(WebError::TooLong)),
            (true, &halves, Some(WebError::TooLong)),
            (true, b"\x82\x81\0\0\0\0x", None),
            (false, b"\x82\x01x", None),
            (true, b"\xf2\x01x", None),
            (true, b"\x80\x01x", None),
            (true, b"\x09\x00", None),
            (true, b"\x89\x7e\x00\x80", None),
            (true, b"\x83\x00", None),
        ] {
            let (mut client, mut server) = pair();
            let end = if to_client { &mut client } else { &mut server };
            let (mut plain, mut out) = (Vec::new(), Vec::new());
            let padded = [bytes, &[0; 200]].concat();
            let error = end.receive(&padded, &mut plain, &mut out).unwrap_err();
            match expected {
                Some(expected) => assert_eq!(error, expected, "{:?}", &bytes[..4]),
                None => assert!(matches!(error, WebError::Protocol(_)), "{:?}: {error:?}", &bytes[..2]),
            }
            assert!(plain.is_empty());
        }
    }
}
