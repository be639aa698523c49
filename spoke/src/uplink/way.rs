//! One way to the hub: where the connection leads, and what is spoken on it around the tunnel. Pure.

use std::fmt;
use std::net::IpAddr;

use common::transport::layers::{self, Plan};
use common::transport::proxy::{Destination, Negotiation, ProxyUrl};

use super::target::Target;

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

    /// What is spoken around the tunnel; `None` where that is nothing.
    ///
    /// # Errors
    /// Where the proxy cannot be told of the hub.
    pub fn plan(&self) -> Result<Option<Plan>, layers::Error> {
        let Some(proxy) = &self.proxy else { return Ok(None) };
        let hub = Destination { host: self.hub.host.clone(), port: self.hub.port };
        Ok(Some(Plan { proxy: Some(Negotiation::new(proxy, hub)?), ..Plan::default() }))
    }
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
        assert!(direct.plan().unwrap().is_none());
        let proxied = way("hub.example.org", Some("http://ann:secret@[2001:db8::1]:3128"));
        assert_eq!((proxied.first_hop(), proxied.is_named()), (("2001:db8::1", 3128), false));
        assert_eq!(proxied.to_string(), "hub.example.org:5678 through the proxy http://[2001:db8::1]:3128");
        let plan = proxied.plan().unwrap().unwrap();
        let said = String::from_utf8(plan.proxy.unwrap().unsent().to_vec()).unwrap();
        assert!(said.starts_with("CONNECT hub.example.org:5678 HTTP/1.1\r\n"), "{said}");
    }

    #[test]
    fn a_name_that_a_proxy_cannot_be_told_of_is_an_error() {
        let long = format!("{}.example.org", "x".repeat(250));
        let error = way(&long, Some("socks5://192.0.2.1")).plan().unwrap_err();
        assert!(error.to_string().contains("more than 255 bytes"), "{error}");
    }
}
