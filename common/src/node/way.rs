//! One way to the hub: where the connection leads, and what is spoken on it around the tunnel. Pure.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::transport::layers::{self, Plan};
use crate::transport::proxy::{Destination, Negotiation, ProxyUrl};
use crate::transport::tls::ClientConfig;
use crate::transport::websocket::Ask;
use crate::wire::target::{Scheme, Target};

/// One way to the hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// The hub, and what carries the tunnel.
    pub hub: Target,
    /// The proxy that the connection is made to; it connects to the hub.
    pub proxy: Option<ProxyUrl>,
}

impl Way {
    /// The host that the connection is made to, without brackets, and its TCP port: the proxy's, or the hub's.
    pub fn first_hop(&self) -> (&str, u16) {
        match &self.proxy {
            Some(proxy) => (&proxy.host, proxy.port),
            None => (&self.hub.host, self.hub.port),
        }
    }

    /// Whether that host is a name, which has to be looked up here.
    pub fn is_named(&self) -> bool {
        self.first_hop().0.parse::<IpAddr>().is_err()
    }

    /// Whether it needs [`Trust`].
    pub fn has_tls(&self) -> bool {
        matches!(self.hub.scheme, Scheme::Tls | Scheme::Wss)
    }

    /// Whether the tunnel goes in pings.
    pub fn is_ping(&self) -> bool {
        self.hub.scheme == Scheme::Icmp
    }

    /// Whether the kernel at the other end of the connection is the hub's, as far as can be told here.
    pub fn is_direct(&self) -> bool {
        self.hub.scheme == Scheme::Tcp && self.proxy.is_none()
    }

    /// What is spoken around the tunnel; `None` where that is nothing. `key`: random bytes.
    ///
    /// # Errors
    /// Where the proxy cannot be told of the hub, or there is no trust to check a certificate by.
    pub fn plan(&self, trust: Option<&Trust>, key: [u8; 16]) -> Result<Option<Plan>, layers::Error> {
        let Target { scheme, host, port, path } = &self.hub;
        let proxy = match &self.proxy {
            Some(proxy) => Some(Negotiation::new(proxy, Destination { host: host.clone(), port: *port })?),
            None => None,
        };
        let trusted = || trust.ok_or(layers::Error::NoCertificate);
        let tls = match scheme {
            Scheme::Tls => Some((Arc::clone(&trusted()?.tls), host.clone())),
            Scheme::Wss => Some((Arc::clone(&trusted()?.https), host.clone())),
            Scheme::Tcp | Scheme::Ws | Scheme::Icmp | Scheme::Auto => None,
        };
        let web = matches!(scheme, Scheme::Wss | Scheme::Ws).then(|| {
            let host = self.hub.web_host();
            Ask { host, path: path.clone(), key }
        });
        let plan = Plan { proxy, tls, web };
        Ok((plan.proxy.is_some() || plan.tls.is_some() || plan.web.is_some()).then_some(plan))
    }
}

/// Whose certificates are trusted, as TLS clients have it.
#[derive(Clone, Debug)]
pub struct Trust {
    /// For the hub's own protocol in TLS.
    pub tls: Arc<ClientConfig>,
    /// For HTTP in TLS, which it announces, as browsers do.
    pub https: Arc<ClientConfig>,
}

impl From<Target> for Way {
    fn from(hub: Target) -> Way {
        Way { hub, proxy: None }
    }
}

/// The hub, and the proxy without its password.
impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.hub.fmt(f)?;
        match &self.proxy {
            Some(proxy) => write!(f, " through the proxy {proxy}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(hub: &str, proxy: Option<&str>) -> Way {
        Way { hub: hub.parse().unwrap(), proxy: proxy.map(|url| url.parse().unwrap()) }
    }

    #[test]
    fn leads_to_the_proxy_first_which_looks_the_hub_up() {
        let direct = way("hub.example.org", None);
        assert_eq!((direct.first_hop(), direct.is_named()), (("hub.example.org", 5678), true));
        assert_eq!(direct.to_string(), "hub.example.org:5678");
        assert!(direct.plan(None, [0; 16]).unwrap().is_none());
        let proxied = way("hub.example.org", Some("http://ann:secret@[2001:db8::1]:3128"));
        assert_eq!((proxied.first_hop(), proxied.is_named()), (("2001:db8::1", 3128), false));
        assert_eq!(proxied.to_string(), "hub.example.org:5678 through the proxy http://[2001:db8::1]:3128");
        let plan = proxied.plan(None, [0; 16]).unwrap().unwrap();
        let said = String::from_utf8(plan.proxy.unwrap().unsent().to_vec()).unwrap();
        assert!(said.starts_with("CONNECT hub.example.org:5678 HTTP/1.1\r\n"), "{said}");
    }

    #[test]
    fn a_web_server_is_asked_by_the_name_and_the_path_that_were_given() {
        for (hub, host, path) in [
            ("ws://hub.example.org", "hub.example.org", "/"),
            ("ws://[2001:db8::1]:8080/a?b", "[2001:db8::1]:8080", "/a?b"),
        ] {
            let ask = way(hub, None).plan(None, [7; 16]).unwrap().unwrap().web.unwrap();
            assert_eq!((ask.host.as_str(), ask.path.as_str(), ask.key), (host, path, [7; 16]), "{hub}");
        }
        assert!(way("wss://hub", None).has_tls() && way("tls://hub", None).has_tls());
        assert!(!way("ws://hub", None).has_tls() && !way("hub", None).has_tls());
        assert!(way("wss://hub", None).plan(None, [0; 16]).is_err(), "nobody is trusted");
    }

    #[test]
    fn a_name_that_a_proxy_cannot_be_told_of_is_an_error() {
        let long = format!("{}.example.org", "x".repeat(250));
        let error = way(&long, Some("socks5://192.0.2.1")).plan(None, [0; 16]).unwrap_err();
        assert!(error.to_string().contains("more than 255 bytes"), "{error}");
    }
}
