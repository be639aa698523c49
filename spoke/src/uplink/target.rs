//! The hub as the command line names it. Pure.

use std::fmt;
use std::str::FromStr;

/// The hub's port unless another is given.
pub const DEFAULT_PORT: u16 = 5678;

/// `HOST[:PORT]`: a name, an IPv4 address, or an IPv6 address, in brackets if a port follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Name or address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Target, String> {
        let bad = |why: &str| {
            format!("{text:?} is no hub: {why}; write HOST, HOST:PORT, ADDRESS:PORT or [IPV6]:PORT")
        };
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, behind) = rest.split_once(']').ok_or_else(|| bad("the bracket is not closed"))?;
                match behind.strip_prefix(':') {
                    Some(port) => (host, Some(port)),
                    None if behind.is_empty() => (host, None),
                    None => return Err(bad("only :PORT may follow the bracket")),
                }
            }
            None => match text.split_once(':') {
                Some((host, port)) if !port.contains(':') => (host, Some(port)),
                // Several colons: an IPv6 address without a port.
                _ => (text, None),
            },
        };
        let port = match port {
            Some(port) => port
                .parse()
                .ok()
                .filter(|&port| port != 0)
                .ok_or_else(|| bad("the port is not 1 to 65535"))?,
            None => DEFAULT_PORT,
        };
        if host.is_empty() {
            return Err(bad("the host is missing"));
        }
        if host.chars().any(|c| c.is_whitespace() || c.is_control() || c == '/') {
            return Err(bad("a host has no such characters"));
        }
        Ok(Target { host: host.to_owned(), port })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
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
            ("[2001:db8::1]", "[2001:db8::1]:5678"),
            ("[fe80::1%eth0]:443", "[fe80::1%eth0]:443"),
        ] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), shown);
        }
        for bad in ["", ":80", "hub:", "hub:0", "hub:99999", "[::1", "[::1]x", "http://hub", "a b"] {
            assert!(bad.parse::<Target>().is_err(), "{bad}");
        }
    }
}
