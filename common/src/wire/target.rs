//! Where a hub is and what carries the tunnel there, as a person writes it. Pure.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

/// The hub's port unless another is given.
pub const DEFAULT_PORT: u16 = 5678;
/// The port of HTTPS.
pub const TLS_PORT: u16 = 443;
/// The port of HTTP.
pub const HTTP_PORT: u16 = 80;
/// Longest path of a WebSocket, in bytes.
const MAX_PATH: usize = 1024;

/// What carries the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// TCP.
    Tcp,
    /// TLS.
    Tls,
    /// A WebSocket in TLS.
    Wss,
    /// A WebSocket in clear; the tunnel in it is encrypted all the same.
    Ws,
    /// Echo requests and replies.
    Icmp,
    /// Whichever of the others works.
    Auto,
}

impl Scheme {
    const ALL: [Scheme; 6] = [Scheme::Tcp, Scheme::Tls, Scheme::Wss, Scheme::Ws, Scheme::Icmp, Scheme::Auto];

    /// As it is written in front of `://`.
    pub fn name(self) -> &'static str {
        match self {
            Scheme::Tcp => "tcp",
            Scheme::Tls => "tls",
            Scheme::Wss => "wss",
            Scheme::Ws => "ws",
            Scheme::Icmp => "icmp",
            Scheme::Auto => "auto",
        }
    }

    /// The port unless one is given; 0 where there are none.
    fn default_port(self) -> u16 {
        match self {
            Scheme::Tcp | Scheme::Auto => DEFAULT_PORT,
            Scheme::Tls | Scheme::Wss => TLS_PORT,
            Scheme::Ws => HTTP_PORT,
            Scheme::Icmp => 0,
        }
    }

    fn has_path(self) -> bool {
        matches!(self, Scheme::Wss | Scheme::Ws)
    }
}

/// `[SCHEME://]HOST[:PORT][/PATH]`: the host is a name, an IPv4 address, or an IPv6 address, in brackets if a port
/// follows. Without a scheme, it is TCP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// What carries the tunnel.
    pub scheme: Scheme,
    /// Name or address, without brackets.
    pub host: String,
    /// TCP port; 0 for ICMP.
    pub port: u16,
    /// Path of a WebSocket, with its slash; `/` for all else.
    pub path: String,
}

impl Target {
    /// What HTTP calls the host: with the port, unless that is its scheme's own.
    pub fn web_host(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == self.scheme.default_port() { host } else { format!("{host}:{}", self.port) }
    }

    /// What the hub's key is filed under: the host and port as they always were, for TCP and for whichever way works.
    pub fn pin_name(&self) -> String {
        match self.scheme {
            Scheme::Auto => Target { scheme: Scheme::Tcp, ..self.clone() }.to_string(),
            Scheme::Tcp | Scheme::Tls | Scheme::Wss | Scheme::Ws | Scheme::Icmp => self.to_string(),
        }
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Target, String> {
        let bad = |why: String| format!("{text:?} is no hub: {why}");
        let (scheme, place) = split_scheme(text).map_err(bad)?;
        let (place, path) = match place.split_once('/') {
            Some((place, "")) => (place, "/".to_owned()),
            Some((place, path)) if scheme.has_path() => (place, format!("/{path}")),
            Some(_) => return Err(bad(format!("{}:// has no path", scheme.name()))),
            None => (place, "/".to_owned()),
        };
        if place.contains('@') {
            return Err(bad(
                "a hub takes no user name and password: leave out what is in front of the @".to_owned()
            ));
        }
        let (host, port) = split_port(place).map_err(bad)?;
        if path.len() > MAX_PATH || !path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
            return Err(bad(format!("a path is up to {MAX_PATH} characters of ASCII, without spaces and #")));
        }
        if let (Scheme::Icmp, Some(_)) = (scheme, port) {
            return Err(bad("pings have no port; leave it out".to_owned()));
        }
        let port = port.unwrap_or(scheme.default_port());
        Ok(Target { scheme, host: host.to_owned(), port, path })
    }
}

fn split_scheme(text: &str) -> Result<(Scheme, &str), String> {
    let Some((name, place)) = text.split_once("://") else { return Ok((Scheme::Tcp, text)) };
    let is_it = |scheme: &Scheme| scheme.name().eq_ignore_ascii_case(name);
    match (Scheme::ALL.into_iter().find(is_it), name.to_ascii_lowercase().as_str()) {
        (Some(scheme), _) => Ok((scheme, place)),
        (None, "https") => Err(format!("write wss://{place}")),
        (None, "http") => Err(format!("write ws://{place}, or {place} alone for the hub's own protocol")),
        (None, "socks" | "socks5" | "socks5h") => Err("a proxy goes to --proxy".to_owned()),
        (None, "udp") => Err("there is no way by UDP; leave out udp://".to_owned()),
        (None, _) => Err(format!("there is no way {name}://; there are tcp, tls, wss, ws, icmp and auto")),
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

/// The place of a hub as it was written, with this port where TCP has none there.
///
/// # Errors
/// A sentence that says what to write instead.
pub fn with_port(text: &str, port: u16) -> Result<String, String> {
    text.parse::<Target>()?;
    if text.contains("://") {
        return Ok(text.to_owned());
    }
    let (host, own) = split_port(text)?;
    let port = own.unwrap_or(port);
    Ok(if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") })
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

/// As it is filed and shown: TCP by `HOST:PORT` alone.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.scheme != Scheme::Tcp {
            write!(f, "{}://", self.scheme.name())?;
        }
        if self.host.contains(':') {
            write!(f, "[{}]", self.host)?;
        } else {
            f.write_str(&self.host)?;
        }
        if self.scheme != Scheme::Icmp {
            write!(f, ":{}", self.port)?;
        }
        if self.path == "/" { Ok(()) } else { f.write_str(&self.path) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_names_and_both_families_with_and_without_port() {
        for (text, shown) in [
            ("hub.example.org", "hub.example.org:5678"),
            ("hub:80", "hub:80"),
            ("192.0.2.1", "192.0.2.1:5678"),
            ("192.0.2.1:443", "192.0.2.1:443"),
            ("2001:db8::1", "[2001:db8::1]:5678"),
            ("2001:db8::1:2", "[2001:db8::1:2]:5678"),
            ("fe80::1%eth0", "[fe80::1%eth0]:5678"),
            ("[2001:db8::1]", "[2001:db8::1]:5678"),
            ("[2001:db8:1::1:443]", "[2001:db8:1::1:443]:5678"),
            ("[fe80::1%eth0]:443", "[fe80::1%eth0]:443"),
        ] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), shown);
        }
        for bad in ["", ":80", "hub:", "hub:0", "hub:99999", "[::1", "[::1]x", "http://hub", "a b"] {
            assert!(bad.parse::<Target>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_place_is_printed_as_it_is_read() {
        for (text, shown) in [
            ("hub", "hub:443"),
            ("hub:80", "hub:80"),
            ("192.0.2.1", "192.0.2.1:443"),
            ("2001:db8::1", "[2001:db8::1]:443"),
            ("[2001:db8::1]", "[2001:db8::1]:443"),
            ("[2001:db8::1]:80", "[2001:db8::1]:80"),
            ("fe80::1%eth0", "[fe80::1%eth0]:443"),
            ("wss://hub/lan", "wss://hub/lan"),
        ] {
            assert_eq!(with_port(text, 443).as_deref(), Ok(shown));
            assert!(shown.parse::<Target>().is_ok(), "{shown}");
        }
        assert!(with_port("a b", 443).is_err());
    }

    #[test]
    fn reads_each_way() {
        for (text, scheme, shown) in [
            ("tcp://192.0.2.1", Scheme::Tcp, "192.0.2.1:5678"),
            ("TCP://hub:80/", Scheme::Tcp, "hub:80"),
            ("tls://hub", Scheme::Tls, "tls://hub:443"),
            ("wss://hub", Scheme::Wss, "wss://hub:443"),
            ("wss://[2001:db8::1]:8443/a/b?c=d", Scheme::Wss, "wss://[2001:db8::1]:8443/a/b?c=d"),
            ("ws://hub/", Scheme::Ws, "ws://hub:80"),
            ("icmp://hub", Scheme::Icmp, "icmp://hub"),
            ("icmp://2001:db8::1", Scheme::Icmp, "icmp://[2001:db8::1]"),
            ("auto://hub", Scheme::Auto, "auto://hub:5678"),
        ] {
            let target: Target = text.parse().unwrap_or_else(|why| panic!("{why}"));
            assert_eq!(target.scheme, scheme, "{text}");
            assert_eq!(target.to_string(), shown);
            assert_eq!(shown.parse(), Ok(target), "what is shown reads as the same");
        }
    }

    #[test]
    fn says_what_to_write_instead() {
        for (text, why) in [
            (
                "2001:db8:1::1:443",
                "no port read; for port 443 write [2001:db8:1::1]:443, for the address [2001:db8:1::1:443]",
            ),
            ("2001:db8:0:0:0:0:0:1:5678", "no port read; for port 5678 write [2001:db8:0:0:0:0:0:1]:5678"),
            ("1:2:3", "this is no IPv6 address"),
            ("hub:http", "the port is not 1 to 65535"),
            ("[hub]:80", "only an IPv6 address stands in brackets"),
            ("https://hub/x", "write wss://hub/x"),
            ("http://hub", "write ws://hub, or hub alone"),
            ("socks5://proxy", "--proxy"),
            ("udp://hub", "leave out udp://"),
            ("quic://hub", "there are tcp, tls, wss, ws, icmp and auto"),
            ("tls://hub/path", "tls:// has no path"),
            ("hub/path", "tcp:// has no path"),
            ("wss://hub/a b", "without spaces"),
            ("wss://hub/\u{fc}", "of ASCII"),
            ("icmp://hub:7", "pings have no port"),
            ("wss://ann@hub", "leave out what is in front of the @"),
            ("wss://ann:secret@hub/x", "leave out what is in front of the @"),
            ("wss://", "the host is missing"),
        ] {
            let said = text.parse::<Target>().unwrap_err();
            assert!(said.contains(why), "{text}: {said}");
        }
    }

    #[test]
    fn pins_of_tcp_stay_valid_and_serve_whichever_way_works() {
        let pin = |text: &str| text.parse::<Target>().unwrap().pin_name();
        assert_eq!(pin("hub"), "hub:5678");
        assert_eq!(pin("tcp://hub"), "hub:5678");
        assert_eq!(pin("auto://hub"), "hub:5678");
        assert_eq!(pin("wss://hub/a"), "wss://hub:443/a");
        let web_host = |text: &str| text.parse::<Target>().unwrap().web_host();
        assert_eq!(web_host("wss://hub/a"), "hub");
        assert_eq!(web_host("ws://hub:443"), "hub:443");
    }
}
