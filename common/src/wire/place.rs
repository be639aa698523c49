//! Where a hub is reached by TCP: a host and a port. Pure.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

/// The hub's port unless another is given.
pub const DEFAULT_PORT: u16 = 5678;
/// The port of HTTPS.
pub const TLS_PORT: u16 = 443;
/// The port of HTTP.
pub const HTTP_PORT: u16 = 80;
/// Longest name of a host, in bytes (RFC 1035, section 2.3.4).
const MAX_HOST: usize = 253;

/// `HOST[:PORT]`: the host is a name, an IPv4 address, or an IPv6 address, in brackets if a port follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Name or address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Place, String> {
        let (host, port) = split_port(text)?;
        if host.len() > MAX_HOST
            || !host.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'/' | b'@'))
        {
            return Err(format!("a host is up to {MAX_HOST} characters of ASCII, without `/` and `@`"));
        }
        Ok(Place { host: host.to_owned(), port: port.unwrap_or(DEFAULT_PORT) })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// Host, without brackets, and port of `HOST[:PORT]`.
///
/// # Errors
/// A sentence that says what to write instead.
pub fn split_port(place: &str) -> Result<(&str, Option<u16>), String> {
    const FORMS: &str = "write HOST, HOST:PORT, ADDRESS:PORT or [IPV6]:PORT";
    let bad = |why: &str| format!("{why}; {FORMS}");
    let (host, port) = match place.strip_prefix('[') {
        Some(behind) => {
            let (host, behind) = behind.split_once(']').ok_or_else(|| bad("the bracket is not closed"))?;
            if !is_ipv6(host) {
                return Err(bad("only an IPv6 address stands in brackets"));
            }
            match behind.strip_prefix(':') {
                Some(port) => (host, Some(port)),
                None if behind.is_empty() => (host, None),
                None => return Err(bad("only :PORT may follow the bracket")),
            }
        }
        None => match place.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') => (host, Some(port)),
            Some((address, last)) if looks_like_port(address, last) => {
                let whole =
                    if is_ipv6(place) { format!(", for the address [{place}]") } else { String::new() };
                return Err(format!("no port read; for port {last} write [{address}]:{last}{whole}"));
            }
            Some(_) if !is_ipv6(place) => return Err(bad("this is no IPv6 address")),
            Some(_) | None => (place, None),
        },
    };
    if host.is_empty() {
        return Err(bad("the host is missing"));
    }
    if host.chars().any(|c| c.is_whitespace() || c.is_control() || matches!(c, '[' | ']' | '?' | '#')) {
        return Err(bad("a host has no such characters"));
    }
    match port.map(str::parse) {
        None => Ok((host, None)),
        Some(Ok(port)) if port != 0 => Ok((host, Some(port))),
        Some(_) => Err(bad("the port is not 1 to 65535")),
    }
}

/// Whether the last of several colons may have been meant to begin a port: a whole IPv6 address stands before it, and
/// behind it a number that people use as a port.
fn looks_like_port(address: &str, last: &str) -> bool {
    let is_decimal = !last.starts_with('0') && last.bytes().all(|byte| byte.is_ascii_digit());
    let is_port = last.parse::<u16>().is_ok_and(|port| matches!(port, HTTP_PORT | TLS_PORT | 1024..));
    is_ipv6(address) && is_decimal && is_port
}

/// Whether it is an IPv6 address, perhaps with a zone.
fn is_ipv6(host: &str) -> bool {
    let (address, zone) = host.split_once('%').unwrap_or((host, "-"));
    address.parse::<Ipv6Addr>().is_ok() && !zone.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_reads_as_it_is_shown_and_is_short() {
        for (text, shown) in [
            ("hub.example.org", "hub.example.org:5678"),
            ("192.0.2.1:443", "192.0.2.1:443"),
            ("2001:db8::1", "[2001:db8::1]:5678"),
            ("[2001:db8::1]:80", "[2001:db8::1]:80"),
        ] {
            let place: Place = text.parse().unwrap();
            assert_eq!(place.to_string(), shown);
            assert_eq!(shown.parse(), Ok(place));
        }
        let long = "x".repeat(MAX_HOST + 1);
        for bad in ["", "wss://hub", "hub/x", "h\u{fc}b", "a b", "hub:0", ":5", "ann@hub", long.as_str()] {
            assert!(bad.parse::<Place>().is_err(), "{bad}");
        }
    }
}
