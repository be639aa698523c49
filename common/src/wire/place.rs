//! Where spokes and other hubs reach a hub, as the LAN's list of members has it. Pure.

use std::fmt;
use std::str::FromStr;

use super::target::{DEFAULT_PORT, Scheme, Target};

/// Longest name of a host, in bytes (RFC 1035, section 2.3.4).
const MAX_HOST: usize = 253;
/// Longest text of a place, in bytes.
pub const MAX_PLACE: usize = 512;

/// A target by TCP, TLS, a WebSocket or pings, in ASCII and at most [`MAX_PLACE`] bytes. By TCP it is `HOST:PORT` alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place(Target);

impl Place {
    /// By TCP: a name or an address, without brackets, and a port.
    pub fn tcp(host: String, port: u16) -> Place {
        Place(Target { scheme: Scheme::Tcp, host, port, path: "/".to_owned() })
    }

    /// How it is reached.
    pub fn target(&self) -> &Target {
        &self.0
    }

    /// Whether it is reached by pings.
    pub fn is_ping(&self) -> bool {
        self.0.scheme == Scheme::Icmp
    }

    /// The same, where a host without a port means this port.
    #[must_use]
    pub fn with_port(mut self, port: u16) -> Place {
        if self.0.scheme == Scheme::Tcp && self.0.port == DEFAULT_PORT {
            self.0.port = port;
        }
        self
    }
}

impl From<Place> for Target {
    fn from(Place(target): Place) -> Target {
        target
    }
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Place, String> {
        let target: Target = text.parse()?;
        let Target { scheme, host, .. } = &target;
        match scheme {
            Scheme::Tcp | Scheme::Tls | Scheme::Wss | Scheme::Ws | Scheme::Icmp => {}
            Scheme::Auto => {
                return Err("say one way by which all reach it: HOST, tls://HOST, wss://HOST or icmp://HOST"
                    .to_owned());
            }
        }
        if host.len() > MAX_HOST
            || !host.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'/' | b'@'))
        {
            return Err(format!("a host is up to {MAX_HOST} characters of ASCII, without `/` and `@`"));
        }
        if target.to_string().len() > MAX_PLACE {
            return Err(format!("where a hub is takes at most {MAX_PLACE} characters: shorten the path"));
        }
        Ok(Place(target))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
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
            ("tls://hub.example.org", "tls://hub.example.org:443"),
            ("wss://[2001:db8::1]:8443/lan", "wss://[2001:db8::1]:8443/lan"),
            ("ws://hub", "ws://hub:80"),
            ("icmp://hub", "icmp://hub"),
        ] {
            let place: Place = text.parse().unwrap();
            assert_eq!(place.to_string(), shown);
            assert_eq!(shown.parse(), Ok(place));
        }
        let long = "x".repeat(MAX_HOST + 1);
        let long_path = format!("wss://hub/{}", "x".repeat(MAX_PLACE));
        for bad in ["", "hub/x", "h\u{fc}b", "a b", "hub:0", ":5", "ann@hub", &long, &long_path] {
            assert!(bad.parse::<Place>().is_err(), "{bad}");
        }
        let said = "auto://hub".parse::<Place>().unwrap_err();
        assert!(said.contains("one way by which all reach it"), "{said}");
    }

    #[test]
    fn a_host_alone_means_the_port_that_the_hub_listens_on() {
        let shown = |text: &str| text.parse::<Place>().unwrap().with_port(443).to_string();
        assert_eq!(shown("hub"), "hub:443");
        assert_eq!(shown("hub:80"), "hub:80");
        assert_eq!(shown("wss://hub:5678/lan"), "wss://hub:5678/lan");
    }
}
