//! The settings of connections to hubs: the proxy, and whose certificates are trusted. Pure: the environment comes in as a
//! function.

use std::path::PathBuf;

use super::args::Setting;
use super::config::Settings;
use super::values;
use crate::transport::proxy::{ProxyUrl, from_environment};
use crate::wire::target::{Scheme, Target};

/// `--proxy`.
pub const PROXY: Setting = Setting::one(
    "proxy",
    "URL",
    "go through a proxy: http://[USER:PASSWORD@]HOST:PORT or socks5://… (default: https_proxy, all_proxy and \
     no_proxy of the environment, as curl reads them; an empty URL is none)",
)
.secret();
/// `--tls-ca`.
pub const TLS_CA: Setting = Setting::one(
    "tls-ca",
    "FILE",
    "whom to trust as issuers of TLS certificates (PEM; default: whom the system trusts)",
);

/// How hubs are connected to.
#[derive(Clone, Debug, Default)]
pub struct Outbound {
    /// The proxy, if one is named; `Some(None)`: none, whatever the environment names.
    pub proxy: Option<Option<ProxyUrl>>,
    /// Whom to trust as issuers of TLS certificates.
    pub tls_ca: Option<PathBuf>,
}

impl Outbound {
    /// Reads the settings.
    ///
    /// # Errors
    /// A sentence that says which one is invalid.
    pub fn read(settings: &Settings) -> Result<Outbound, String> {
        Ok(Outbound { proxy: settings.one("proxy", proxy)?, tls_ca: settings.one("tls-ca", values::any)? })
    }

    /// The proxy to go through to a host: the one that was named, or that of the environment with the name of its
    /// variable.
    ///
    /// # Errors
    /// A sentence that says which variable is invalid.
    pub fn proxy_to(
        &self,
        hub: &Target,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<(Option<&'static str>, ProxyUrl)>, String> {
        // None passes pings.
        if hub.scheme == Scheme::Icmp {
            return Ok(None);
        }
        if let Some(named) = &self.proxy {
            return Ok(named.clone().map(|url| (None, url)));
        }
        let found = from_environment(&hub.host, environment)?;
        Ok(found.map(|(variable, url)| (Some(variable), url)))
    }
}

/// An empty one is none, as for curl.
fn proxy(text: &str) -> Result<Option<ProxyUrl>, String> {
    if text.is_empty() { Ok(None) } else { text.parse().map(Some) }
}
