//! Where a proxy is to connect to, how far it got, and why it did not. Pure.

use std::fmt;
use std::net::IpAddr;

use crate::transport::http;

/// How far an answer went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// All bytes were the proxy's, and more are awaited.
    More,
    /// The way is open; the first so many bytes were the proxy's.
    Open(usize),
}

/// The target of the proxy's connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// A name, which the proxy resolves, or an address without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl Destination {
    /// The address, where it is one.
    pub(super) fn address(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Why the proxy does not relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It answered CONNECT with a status that says no.
    Status(u16),
    /// It wants a user name and a password, and none were given.
    WantsPassword,
    /// It did not take the user name and the password.
    RejectedPassword,
    /// It takes none of the ways to log in that we know; those that it named.
    UnknownLogin(String),
    /// It answered with a web page, or sent us to one; its address where one was told.
    Portal(Option<String>),
    /// It answered SOCKS with a code that says no.
    Code(u8),
    /// Its answer is too long.
    TooLong,
    /// It speaks HTTP where SOCKS5 was expected.
    IsHttp,
    /// It speaks SOCKS where HTTP was expected.
    IsSocks,
    /// It speaks SOCKS4 only.
    IsSocks4,
    /// Its answer is none of its protocol.
    Garbage,
    /// It closed the connection without an answer.
    Closed,
    /// The destination's name, the user name or the password is longer than SOCKS5 can say.
    TooLongToSay,
}

/// The failure of a proxy. Its text is one sentence that says what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyError {
    /// The proxy, without its password.
    pub proxy: String,
    /// Where it was to connect to.
    pub destination: Destination,
    /// Why it did not.
    pub cause: Cause,
}

impl std::error::Error for ProxyError {}

impl fmt::Display for ProxyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ProxyError { proxy, destination, cause } = self;
        match cause {
            Cause::Status(status) => {
                let answer = format!("{status} {}", http::phrase(*status));
                write!(
                    f,
                    "the proxy {proxy} answered {}: {}",
                    answer.trim_end(),
                    status_advice(*status, destination)
                )
            }
            Cause::WantsPassword => write!(
                f,
                "the proxy {proxy} wants a user name and a password: give them as USER:PASSWORD@ in front of its host"
            ),
            Cause::RejectedPassword => {
                write!(f, "the proxy {proxy} does not take this user name and password: check them")
            }
            Cause::UnknownLogin(ways) if ways.is_empty() => write!(
                f,
                "the proxy {proxy} takes no log-in that this program knows: it needs one by user name and password"
            ),
            Cause::UnknownLogin(ways) => write!(
                f,
                "the proxy {proxy} wants the log-in {}, of which this program knows none: a local proxy that does \
                 (cntlm, px) can stand in between",
                ways
            ),
            Cause::Portal(at) => {
                write!(
                    f,
                    "the proxy {proxy} answered with a web page, as captive portals do: log in there first, "
                )?;
                match at {
                    Some(at) => write!(f, "at {}", at),
                    None => f.write_str("with a browser"),
                }
            }
            Cause::Code(code) => write!(f, "the proxy {proxy} {}", code_advice(*code, destination)),
            Cause::TooLong => write!(f, "the answer of the proxy {proxy} is too long: is it a proxy?"),
            Cause::IsHttp => write!(
                f,
                "the proxy {proxy} speaks HTTP, not SOCKS5: write http:// in front of its host, if it is a proxy"
            ),
            Cause::IsSocks => {
                write!(
                    f,
                    "the proxy {proxy} does not speak HTTP but SOCKS: write socks5:// in front of its host"
                )
            }
            Cause::IsSocks4 => write!(f, "the proxy {proxy} speaks SOCKS4 only: SOCKS5 is needed"),
            Cause::Garbage => {
                write!(f, "what {proxy} answered is no answer of a proxy: check its host, port and scheme")
            }
            Cause::Closed => write!(
                f,
                "the proxy {proxy} closed the connection without an answer: check its port and scheme, and that it \
                 lets this machine in"
            ),
            Cause::TooLongToSay => write!(
                f,
                "SOCKS5 has no room for a host, a user name or a password of more than 255 bytes: use another proxy"
            ),
        }
    }
}

fn status_advice(status: u16, destination: &Destination) -> String {
    match status {
        403 => format!(
            "it does not allow connections to {destination}; most allow port 443, so have the hub listen there"
        ),
        400 | 404 | 405 | 501 => {
            "it is a web server, or a proxy without CONNECT: check its host and port".to_owned()
        }
        429 => "it has too much to do for us; this is tried again".to_owned(),
        500 | 502 | 504 => {
            format!("it cannot reach {destination}: is the hub running, and its name known to the proxy?")
        }
        503 => format!("it cannot reach {destination} now: is the hub running, or the proxy overloaded?"),
        511 => "log in to this network first, with a browser".to_owned(),
        _ => format!("it does not connect to {destination}; ask who runs it"),
    }
}

/// RFC 1928, section 6.
fn code_advice(code: u8, destination: &Destination) -> String {
    match code {
        1 => format!("failed to connect to {destination}: its own log may say why"),
        2 => format!("does not allow connections to {destination}: ask who runs it, or try port 443"),
        3 => format!("has no route to the network of {destination}: check the hub's address"),
        4 => format!("cannot reach {destination}: check the hub's name and address"),
        5 => format!("was refused by {destination}: is the hub running, and on that port?"),
        6 => format!("got no answer from {destination} in time: is the port open on the way?"),
        7 => "does not know the command CONNECT: another proxy is needed".to_owned(),
        8 => format!(
            "cannot connect to an address of this kind, {destination}: give the hub by name, or by the other family's address"
        ),
        _ => format!(
            "answered with code {code}, which SOCKS5 does not have, for {destination}: ask who runs it"
        ),
    }
}
