//! Carries requests to etcd by HTTP, to whichever endpoint answers. IO.
#![expect(clippy::disallowed_methods, reason = "an IO file: it owns connections")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use ureq::Agent;
use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig, TlsProvider};

use super::etcd::{Cluster, Error};

/// How long one endpoint has to answer before the next one is asked.
const PATIENCE: Duration = Duration::from_millis(800);
/// Longest answer, in bytes: a page of records.
const MAX_ANSWER: u64 = 16 * 1024 * 1024;

/// The certificates of a connection.
#[derive(Clone, Debug, Default)]
pub struct Certificates {
    /// Who signs etcd's (PEM); the system's authorities where it is not given.
    pub authority: Option<String>,
    /// This client's certificate and its key (PEM).
    pub own: Option<(String, String)>,
}

/// The endpoints of a cluster.
#[derive(Clone)]
pub(super) struct Endpoints {
    urls: Vec<String>,
    /// The one that has answered last.
    current: usize,
    agent: Agent,
}

impl Endpoints {
    /// Those with these URLs.
    ///
    /// # Errors
    /// A sentence that says which certificate is of no use.
    pub(super) fn new(urls: &[String], certificates: &Certificates) -> Result<Endpoints, String> {
        let tls = tls(certificates)?;
        let config = Agent::config_builder()
            .timeout_global(Some(PATIENCE))
            .http_status_as_error(false)
            .proxy(None)
            .tls_config(tls)
            .build();
        let urls = urls.iter().map(|url| url.trim_end_matches('/').to_owned()).collect();
        Ok(Endpoints { urls, current: 0, agent: config.into() })
    }

    fn post_to(&self, url: &str, body: &Value) -> Result<Value, String> {
        let request = self.agent.post(url).header("content-type", "application/json");
        let mut response = request.send(body.to_string()).map_err(|error| {
            let is_late = matches!(error, ureq::Error::Timeout(_));
            if is_late { format!("nothing within {} ms", PATIENCE.as_millis()) } else { error.to_string() }
        })?;
        let text = response.body_mut().with_config().limit(MAX_ANSWER).read_to_string();
        let text = text.map_err(|error| error.to_string())?;
        if !response.status().is_success() {
            return Err(format!("{}: {}", response.status(), text.trim()));
        }
        // A stream of one answer ends with its line.
        let line = text.lines().next().unwrap_or_default();
        serde_json::from_str(line).map_err(|error| format!("the answer makes no sense: {error}"))
    }
}

impl Cluster for Endpoints {
    fn post(&mut self, path: &str, body: &Value) -> Result<Value, Error> {
        let mut last = String::from("there is no endpoint");
        for _ in 0..self.urls.len() {
            let url = &self.urls[self.current];
            match self.post_to(&format!("{url}{path}"), body) {
                Ok(answer) => return Ok(answer),
                Err(why) => last = format!("{url}: {why}"),
            }
            self.current = (self.current + 1) % self.urls.len();
        }
        Err(Error::Unreachable(last))
    }
}

fn tls(certificates: &Certificates) -> Result<TlsConfig, String> {
    let read = |what: &str, pem: &str| -> Result<Vec<Certificate<'static>>, String> {
        let items = ureq::tls::parse_pem(pem.as_bytes());
        let mut found = Vec::new();
        for item in items {
            if let ureq::tls::PemItem::Certificate(certificate) =
                item.map_err(|error| format!("{what}: {error}"))?
            {
                found.push(certificate);
            }
        }
        if found.is_empty() { Err(format!("{what}: there is no certificate in it")) } else { Ok(found) }
    };
    let roots = match &certificates.authority {
        Some(pem) => RootCerts::new_with_certs(&read("--ca", pem)?),
        None => {
            let found = rustls_native_certs::load_native_certs().certs;
            RootCerts::new_with_certs(
                &found.iter().map(|der| Certificate::from_der(der).to_owned()).collect::<Vec<_>>(),
            )
        }
    };
    let own = match &certificates.own {
        None => None,
        Some((certificate, key)) => {
            let key = PrivateKey::from_pem(key.as_bytes()).map_err(|error| format!("--key: {error}"))?;
            Some(ClientCert::new_with_certs(&read("--cert", certificate)?, key))
        }
    };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    Ok(TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .unversioned_rustls_crypto_provider(provider)
        .root_certs(roots)
        .client_cert(own)
        .build())
}

/// Reads a file of a certificate or key.
pub(super) fn read(what: &str, path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("{what} {}: {error}", path.display()))
}
