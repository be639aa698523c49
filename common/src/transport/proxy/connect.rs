//! HTTP CONNECT (RFC 9110, section 9.3.6), with Basic authentication (RFC 7617). Pure.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::error::{Cause, Destination, Progress};
use super::url::Credentials;
use crate::transport::http::{BadHead, HeadReader, Response};

/// Awaits the answer to CONNECT.
#[derive(Debug)]
pub(super) struct Connect {
    head: HeadReader,
    has_credentials: bool,
}

/// What an answer must begin with.
const HTTP: &[u8] = b"HTTP/1.";
/// Most characters that are shown of an address or of ways to log in.
const MAX_SHOWN: usize = 200;

impl Connect {
    /// The request, and what awaits its answer.
    pub(super) fn new(destination: &Destination, credentials: Option<&Credentials>) -> (Vec<u8>, Connect) {
        let mut request = format!("CONNECT {destination} HTTP/1.1\r\nHost: {destination}\r\n");
        if let Some(Credentials { user, password }) = credentials {
            let encoded = STANDARD.encode(format!("{user}:{password}"));
            request.push_str(&format!("Proxy-Authorization: Basic {encoded}\r\n"));
        }
        request.push_str("\r\n");
        (
            request.into_bytes(),
            Connect { head: HeadReader::default(), has_credentials: credentials.is_some() },
        )
    }

    pub(super) fn receive(&mut self, mut bytes: &[u8]) -> Result<Progress, Cause> {
        let mut taken = 0;
        loop {
            let end = self.head.receive(bytes).map_err(cause)?;
            self.check_beginning()?;
            let Some(len) = end else { return Ok(Progress::More) };
            taken += len;
            bytes = &bytes[len..];
            let response = self.head.response().map_err(cause)?;
            match response.status {
                // Interim answers announce the answer (RFC 9110, section 15.2).
                100..=199 => self.head = HeadReader::default(),
                200..=299 if is_page(&response) => return Err(Cause::Portal(None)),
                200..=299 => return Ok(Progress::Open(taken)),
                _ => return Err(self.refusal(&response)),
            }
        }
    }

    /// Knows by the first bytes what does not speak HTTP, as it may never send a whole head.
    fn check_beginning(&self) -> Result<(), Cause> {
        let seen = &self.head.bytes()[..self.head.bytes().len().min(HTTP.len())];
        match seen.first() {
            _ if HTTP.starts_with(seen) => Ok(()),
            Some(0 | 4 | 5) => Err(Cause::IsSocks),
            _ => Err(Cause::Garbage),
        }
    }

    fn refusal(&self, response: &Response) -> Cause {
        match response.status {
            300..=399 => Cause::Portal(response.fields.first("Location").map(shown)),
            401 | 407 => {
                let asked = if response.status == 407 { "Proxy-Authenticate" } else { "WWW-Authenticate" };
                let ways: Vec<&str> =
                    response.fields.all(asked).filter_map(|way| way.split_whitespace().next()).collect();
                if !ways.is_empty() && !ways.iter().any(|way| way.eq_ignore_ascii_case("Basic")) {
                    Cause::UnknownLogin(shown(&ways.join(", ")))
                } else if self.has_credentials {
                    Cause::RejectedPassword
                } else {
                    Cause::WantsPassword
                }
            }
            status => Cause::Status(status),
        }
    }
}

/// As much of a text as one line has room for.
fn shown(text: &str) -> String {
    text.chars().take(MAX_SHOWN).collect()
}

/// Whether a success comes with a page: a proxy that passes bytes on has none, a portal that answers every request
/// alike does.
fn is_page(response: &Response) -> bool {
    let is_html = |kind: &str| kind.to_ascii_lowercase().starts_with("text/html");
    response.fields.first("Content-Type").is_some_and(is_html)
        && response.fields.first("Content-Length").is_none_or(|len| len != "0")
}

fn cause(bad: BadHead) -> Cause {
    match bad {
        BadHead::NotHttp => Cause::Garbage,
        BadHead::TooLong => Cause::TooLong,
    }
}
