//! A proxy as a person, or the environment, names it. Pure.

use std::fmt;
use std::str::FromStr;

/// The port of a proxy unless one is given, as curl has it.
const DEFAULT_PORT: u16 = 1080;

/// What is spoken to the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP CONNECT.
    Http,
    /// SOCKS5.
    Socks5,
}

/// What the proxy lets us in by.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// User name.
    pub user: String,
    /// Password; may be empty.
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

/// `[SCHEME://][USER:PASSWORD@]HOST[:PORT]`; shown without user name and password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyUrl {
    /// What is spoken to it.
    pub protocol: Protocol,
    /// Name or address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// User name and password.
    pub credentials: Option<Credentials>,
}

impl FromStr for ProxyUrl {
    type Err = String;

    /// The error does not repeat the text, which may hold a password.
    fn from_str(text: &str) -> Result<ProxyUrl, String> {
        let bad = |why: &str| {
            format!(
                "this is no proxy: {why}; write http://HOST:PORT or socks5://HOST:PORT, with USER:PASSWORD@ in front of HOST if it wants them"
            )
        };
        let (scheme, behind) = match text.split_once("://") {
            Some((scheme, behind)) => (scheme.to_ascii_lowercase(), behind),
            None => ("http".to_owned(), text),
        };
        let protocol = match scheme.as_str() {
            "http" => Protocol::Http,
            "socks5" | "socks5h" => Protocol::Socks5,
            "https" => {
                return Err(bad("TLS to a proxy is not supported; most of them speak HTTP on the same port"));
            }
            "socks" | "socks4" | "socks4a" => return Err(bad("of SOCKS, version 5 alone is supported")),
            _ => return Err(bad("its scheme is not known")),
        };
        let authority = behind.split(['/', '?', '#']).next().unwrap_or_default();
        // A password may hold an @ that nobody escaped; a host cannot.
        let (credentials, place) = match authority.rsplit_once('@') {
            Some((credentials, place)) => (Some(credentials), place),
            None => (None, authority),
        };
        let credentials = credentials.map(|text| {
            let (user, password) = text.split_once(':').unwrap_or((text, ""));
            Some(Credentials { user: decode(user)?, password: decode(password)? })
        });
        let credentials = match credentials {
            Some(None) => {
                return Err(bad("in user name and password, write % as %25, and bytes as %XX in UTF-8"));
            }
            Some(Some(credentials)) if credentials.user.contains(':') && protocol == Protocol::Http => {
                return Err(bad("HTTP has no user names with a colon"));
            }
            Some(found) => found,
            None => None,
        };
        let (host, port) = split_port(place).map_err(bad)?;
        Ok(ProxyUrl { protocol, host: host.to_owned(), port: port.unwrap_or(DEFAULT_PORT), credentials })
    }
}

impl fmt::Display for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.protocol {
            Protocol::Http => "http",
            Protocol::Socks5 => "socks5",
        };
        if self.host.contains(':') {
            write!(f, "{scheme}://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{scheme}://{}:{}", self.host, self.port)
        }
    }
}

/// Host, without brackets, and port of `HOST[:PORT]`.
fn split_port(place: &str) -> Result<(&str, Option<u16>), &'static str> {
    let (host, port) = match place.strip_prefix('[') {
        Some(behind) => {
            let (host, behind) = behind.split_once(']').ok_or("the bracket is not closed")?;
            match behind.strip_prefix(':') {
                Some(port) => (host, Some(port)),
                None if behind.is_empty() => (host, None),
                None => return Err("only :PORT may follow the bracket"),
            }
        }
        None => match place.split_once(':') {
            Some((_, port)) if port.contains(':') => return Err("put an IPv6 address in brackets"),
            Some((host, port)) => (host, Some(port)),
            None => (place, None),
        },
    };
    if host.is_empty() {
        return Err("the host is missing");
    }
    if host.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err("a host has no such characters");
    }
    match port.map(str::parse) {
        None => Ok((host, None)),
        Some(Ok(port)) if port != 0 => Ok((host, Some(port))),
        Some(_) => Err("the port is not 1 to 65535"),
    }
}

/// Replaces `%XX`; `None` where that is no UTF-8, or holds a control character.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut left = text.bytes();
    while let Some(byte) = left.next() {
        if byte == b'%' {
            let digit = |byte: u8| char::from(byte).to_digit(16);
            let value = digit(left.next()?)? << 4 | digit(left.next()?)?;
            bytes.push(value as u8);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok().filter(|text| !text.chars().any(char::is_control))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_curl_reads() {
        let credentials =
            |user: &str, password: &str| Some(Credentials { user: user.into(), password: password.into() });
        for (text, shown, expected) in [
            ("proxy", "http://proxy:1080", None),
            ("proxy:3128", "http://proxy:3128", None),
            ("http://proxy:3128/", "http://proxy:3128", None),
            ("HTTP://192.0.2.1:80", "http://192.0.2.1:80", None),
            ("socks5://proxy", "socks5://proxy:1080", None),
            ("socks5h://[2001:db8::1]:1081", "socks5://[2001:db8::1]:1081", None),
            ("http://ann:secret@proxy:80", "http://proxy:80", credentials("ann", "secret")),
            ("ann@proxy:80", "http://proxy:80", credentials("ann", "")),
            ("socks5://a%3Ab:p%40%25@[::1]", "socks5://[::1]:1080", credentials("a:b", "p@%")),
            ("http://ann:p@ss@proxy:80", "http://proxy:80", credentials("ann", "p@ss")),
            ("http://%C3%A4:%20@proxy:80", "http://proxy:80", credentials("ä", " ")),
        ] {
            let url: ProxyUrl = text.parse().unwrap_or_else(|why| panic!("{text}: {why}"));
            assert_eq!(url.to_string(), shown, "{text}");
            assert_eq!(url.credentials, expected, "{text}");
        }
    }

    #[test]
    fn says_what_to_write_instead_and_never_the_password() {
        for (text, why) in [
            ("", "the host is missing"),
            ("https://proxy:443", "TLS to a proxy"),
            ("socks4://proxy", "version 5 alone"),
            ("ftp://proxy", "scheme is not known"),
            ("http://ann:secret@:80", "host is missing"),
            ("http://ann:secret%zz@proxy", "write % as %25"),
            ("http://ann:secret%0d%0a@proxy", "write % as %25"),
            ("http://ann%3Ax:secret@proxy", "colon"),
            ("http://proxy:0", "1 to 65535"),
            ("http://proxy:99999", "1 to 65535"),
            ("http://2001:db8::1", "brackets"),
            ("http://[::1", "bracket is not closed"),
            ("http://[::1]x", "only :PORT"),
            ("http://a b", "no such characters"),
        ] {
            let said = text.parse::<ProxyUrl>().unwrap_err();
            assert!(said.contains(why), "{text}: {said}");
            assert!(!said.contains("secret"), "{said}");
        }
        let url: ProxyUrl = "http://ann:secret@proxy:80".parse().unwrap();
        assert!(!format!("{url:?}").contains("secret"));
    }
}
