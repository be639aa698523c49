//! Speaks to etcd by HTTP and JSON (its gRPC gateway, version 3): ranges, transactions and leases. IO.
#![expect(clippy::disallowed_methods, reason = "an IO file: it owns connections")]

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use ureq::Agent;
use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig, TlsProvider};

/// How long one endpoint has to answer before the next one is asked.
const PATIENCE: Duration = Duration::from_millis(800);
/// Longest answer, in bytes: a page of records.
const MAX_ANSWER: u64 = 16 * 1024 * 1024;
/// Records in one page.
const PAGE: usize = 1_000;
/// Most operations in one transaction (etcd's own limit is 128).
const MAX_OPERATIONS: usize = 120;

/// Why etcd has not done it.
#[derive(Debug)]
pub(super) enum Error {
    /// No endpoint has answered: why not, as the last one has it.
    Unreachable(String),
    /// The leader's key is another one, or gone.
    NotLeader,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Unreachable(why) => write!(f, "etcd does not answer: {why}"),
            Error::NotLeader => f.write_str("another hub keeps the list, by etcd's word"),
        }
    }
}

/// The certificates of a connection.
#[derive(Clone, Debug, Default)]
pub struct Certificates {
    /// Who signs etcd's (PEM); the system's authorities where it is not given.
    pub authority: Option<String>,
    /// This client's certificate and its key (PEM).
    pub own: Option<(String, String)>,
}

/// A cluster.
#[derive(Clone)]
pub(super) struct Etcd {
    endpoints: Vec<String>,
    /// The one that has answered last.
    current: usize,
    prefix: String,
    agent: Agent,
}

/// A record as etcd has it: its name behind the prefix, and its text.
pub(super) type Entry = (String, String);

impl Etcd {
    /// A cluster with these endpoints; all keys begin with the prefix.
    ///
    /// # Errors
    /// A sentence that says which certificate is of no use.
    pub(super) fn new(
        endpoints: &[String],
        prefix: &str,
        certificates: &Certificates,
    ) -> Result<Etcd, String> {
        let tls = tls(certificates)?;
        let config = Agent::config_builder()
            .timeout_global(Some(PATIENCE))
            .http_status_as_error(false)
            .proxy(None)
            .tls_config(tls)
            .build();
        let endpoints = endpoints.iter().map(|url| url.trim_end_matches('/').to_owned()).collect();
        Ok(Etcd { endpoints, current: 0, prefix: prefix.to_owned(), agent: config.into() })
    }

    fn post(&mut self, path: &str, body: &Value) -> Result<Value, Error> {
        let mut last = String::from("there is no endpoint");
        for _ in 0..self.endpoints.len() {
            let endpoint = &self.endpoints[self.current];
            match self.post_to(&format!("{endpoint}{path}"), body) {
                Ok(answer) => return Ok(answer),
                Err(why) => last = format!("{endpoint}: {why}"),
            }
            self.current = (self.current + 1) % self.endpoints.len();
        }
        Err(Error::Unreachable(last))
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

    fn key(&self, name: &str) -> String {
        BASE64.encode(format!("{}{name}", self.prefix))
    }

    // ---- records

    /// All records below this name, in the order of their names.
    pub(super) fn records(&mut self, below: &str) -> Result<Vec<Entry>, Error> {
        let end = |from: &str| {
            let mut end = format!("{}{from}", self.prefix).into_bytes();
            if let Some(last) = end.last_mut() {
                *last += 1;
            }
            BASE64.encode(end)
        };
        let range_end = end(below);
        let (mut records, mut from) = (Vec::new(), self.key(below));
        loop {
            let body = json!({"key": from, "range_end": range_end, "limit": PAGE.to_string()});
            let answer = self.post("/v3/kv/range", &body)?;
            let page = answer["kvs"].as_array().map(Vec::as_slice).unwrap_or_default();
            for pair in page {
                let (Some(name), Some(text)) = (decoded(&pair["key"]), decoded(&pair["value"])) else {
                    continue;
                };
                if let Some(name) = name.strip_prefix(&self.prefix) {
                    records.push((name.to_owned(), text));
                }
            }
            match records.last().filter(|_| page.len() >= PAGE) {
                // The next one is behind it.
                Some((name, _)) => from = self.key(&format!("{name}\0")),
                None => return Ok(records),
            }
        }
    }

    /// Writes these changes while the key of the leader is that of this number; all of one change together.
    pub(super) fn write(&mut self, leader: &str, number: u64, changes: &[Vec<Change>]) -> Result<(), Error> {
        let mut rest = changes;
        while !rest.is_empty() {
            let mut count = 0;
            let taken = rest.iter().take_while(|change| {
                count += change.len();
                count <= MAX_OPERATIONS
            });
            // A change of its own that is too large for one transaction is etcd's to refuse.
            let taken = taken.count().max(1);
            let (now, later) = rest.split_at(taken);
            rest = later;
            let operations: Vec<Value> =
                now.iter().flatten().map(|(name, text)| self.operation(name, text.as_deref())).collect();
            let compare =
                json!([{"key": self.key(leader), "target": "CREATE", "create_revision": number.to_string()}]);
            let answer = self.post("/v3/kv/txn", &json!({"compare": compare, "success": operations}))?;
            if answer["succeeded"] != true {
                return Err(Error::NotLeader);
            }
        }
        Ok(())
    }

    fn operation(&self, name: &str, text: Option<&str>) -> Value {
        match text {
            Some(text) => json!({"requestPut": {"key": self.key(name), "value": BASE64.encode(text)}}),
            None => json!({"requestDeleteRange": {"key": self.key(name)}}),
        }
    }

    // ---- who leads

    /// A lease of so many seconds.
    pub(super) fn lease(&mut self, seconds: u64) -> Result<String, Error> {
        let answer = self.post("/v3/lease/grant", &json!({"TTL": seconds.to_string()}))?;
        let id = answer["ID"].as_str().map(str::to_owned);
        id.ok_or_else(|| Error::Unreachable(format!("it grants no lease: {answer}")))
    }

    /// Has a lease go on; whether there is still one.
    pub(super) fn renew(&mut self, lease: &str) -> Result<bool, Error> {
        let answer = self.post("/v3/lease/keepalive", &json!({"ID": lease}))?;
        Ok(answer["result"]["TTL"].as_str().is_some_and(|seconds| seconds != "0"))
    }

    /// Ends a lease, and with it what hangs on it.
    pub(super) fn revoke(&mut self, lease: &str) -> Result<(), Error> {
        self.post("/v3/lease/revoke", &json!({"ID": lease})).map(drop)
    }

    /// Makes this text that of the leader's key for as long as the lease lasts, unless the key is there. The number that the
    /// key was made with.
    pub(super) fn lead(&mut self, leader: &str, text: &str, lease: &str) -> Result<u64, Error> {
        let key = self.key(leader);
        let put = json!({"requestPut": {"key": key, "value": BASE64.encode(text), "lease": lease}});
        let compare = json!([{"key": key, "target": "CREATE", "create_revision": "0"}]);
        let answer = self.post("/v3/kv/txn", &json!({"compare": compare, "success": [put]}))?;
        let number = answer["header"]["revision"].as_str().and_then(|number| number.parse().ok());
        match (answer["succeeded"] == true, number) {
            (true, Some(number)) => Ok(number),
            _ => Err(Error::NotLeader),
        }
    }

    /// The text of the leader's key, if there is one.
    pub(super) fn leader(&mut self, leader: &str) -> Result<Option<String>, Error> {
        let answer = self.post("/v3/kv/range", &json!({"key": self.key(leader)}))?;
        Ok(decoded(&answer["kvs"][0]["value"]))
    }
}

/// A record's name, and its text; `None` where there is to be none.
pub(super) type Change = (String, Option<String>);

fn decoded(value: &Value) -> Option<String> {
    String::from_utf8(BASE64.decode(value.as_str()?).ok()?).ok()
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
