//! Speaks to etcd in JSON (its gRPC gateway, version 3): ranges, transactions and leases. Pure: the caller carries it there.
#![warn(clippy::disallowed_methods, reason = "pure, though the module above it is not")]

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

/// Records in one page.
const PAGE: usize = 1_000;
/// Most operations in one transaction (etcd's own limit is 128).
const MAX_OPERATIONS: usize = 120;

/// Why etcd has not done it.
#[derive(Clone, Debug)]
pub enum Error {
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

/// What carries a request to etcd.
pub trait Cluster {
    /// Posts a request to this path; etcd's answer.
    ///
    /// # Errors
    /// Where there is none. It may have done it all the same.
    fn post(&mut self, path: &str, body: &Value) -> Result<Value, Error>;
}

/// What is asked of a cluster.
pub(super) struct Etcd<'a, C> {
    pub(super) cluster: &'a mut C,
    pub(super) prefix: &'a str,
}

/// A record as etcd has it: its name behind the prefix, and its text.
pub(super) type Entry = (String, String);

impl<C: Cluster> Etcd<'_, C> {
    fn key(&self, name: &str) -> String {
        BASE64.encode(format!("{}{name}", self.prefix))
    }

    fn range(&self, below: &str) -> Range {
        let mut end = format!("{}{below}", self.prefix).into_bytes();
        if let Some(last) = end.last_mut() {
            *last += 1;
        }
        Range { from: self.key(below), end: BASE64.encode(end) }
    }

    // ---- records

    /// The text of a record, if there is one.
    pub(super) fn record(&mut self, name: &str) -> Result<Option<String>, Error> {
        let answer = self.cluster.post("/v3/kv/range", &json!({"key": self.key(name)}))?;
        Ok(decoded(&answer["kvs"][0]["value"]))
    }

    /// All records below this name, in the order of their names.
    pub(super) fn records(&mut self, below: &str) -> Result<Vec<Entry>, Error> {
        let Range { mut from, end } = self.range(below);
        let mut records = Vec::new();
        loop {
            let body = json!({"key": from, "range_end": end, "limit": PAGE.to_string()});
            let answer = self.cluster.post("/v3/kv/range", &body)?;
            let page = answer["kvs"].as_array().map(Vec::as_slice).unwrap_or_default();
            for pair in page {
                let (Some(name), Some(text)) = (decoded(&pair["key"]), decoded(&pair["value"])) else {
                    continue;
                };
                if let Some(name) = name.strip_prefix(self.prefix) {
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

    /// Takes off this record and all records below this name, while the key of the leader has this lease.
    pub(super) fn clear(&mut self, leader: (&str, &str), name: &str, below: &str) -> Result<(), Error> {
        let Range { from, end } = self.range(below);
        let operations =
            vec![self.operation(name, None), json!({"requestDeleteRange": {"key": from, "range_end": end}})];
        self.transact(leader, operations)
    }

    /// Writes these changes while the key of the leader has this lease; all of one change together.
    pub(super) fn write(&mut self, leader: (&str, &str), changes: &[Vec<Change>]) -> Result<(), Error> {
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
            let operations =
                now.iter().flatten().map(|(name, text)| self.operation(name, text.as_deref())).collect();
            self.transact(leader, operations)?;
        }
        Ok(())
    }

    fn transact(&mut self, (leader, lease): (&str, &str), operations: Vec<Value>) -> Result<(), Error> {
        let compare = json!([{"key": self.key(leader), "target": "LEASE", "lease": lease}]);
        let answer = self.cluster.post("/v3/kv/txn", &json!({"compare": compare, "success": operations}))?;
        if answer["succeeded"] == true { Ok(()) } else { Err(Error::NotLeader) }
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
        let answer = self.cluster.post("/v3/lease/grant", &json!({"TTL": seconds.to_string()}))?;
        let id = answer["ID"].as_str().map(str::to_owned);
        id.ok_or_else(|| Error::Unreachable(format!("it grants no lease: {answer}")))
    }

    /// Has a lease go on; whether there is still one.
    pub(super) fn renew(&mut self, lease: &str) -> Result<bool, Error> {
        let answer = self.cluster.post("/v3/lease/keepalive", &json!({"ID": lease}))?;
        Ok(answer["result"]["TTL"].as_str().is_some_and(|seconds| seconds != "0"))
    }

    /// Ends a lease, and with it what hangs on it.
    pub(super) fn revoke(&mut self, lease: &str) -> Result<(), Error> {
        self.cluster.post("/v3/lease/revoke", &json!({"ID": lease})).map(drop)
    }

    /// Makes this text that of the leader's key for as long as the lease lasts, unless the key is there.
    pub(super) fn lead(&mut self, leader: &str, text: &str, lease: &str) -> Result<(), Error> {
        let key = self.key(leader);
        let put = json!({"requestPut": {"key": key, "value": BASE64.encode(text), "lease": lease}});
        let compare = json!([{"key": key, "target": "CREATE", "create_revision": "0"}]);
        let answer = self.cluster.post("/v3/kv/txn", &json!({"compare": compare, "success": [put]}))?;
        if answer["succeeded"] == true { Ok(()) } else { Err(Error::NotLeader) }
    }
}

/// Keys, from the first one on, and the one behind the last.
struct Range {
    from: String,
    end: String,
}

/// A record's name, and its text; `None` where there is to be none.
pub(super) type Change = (String, Option<String>);

fn decoded(value: &Value) -> Option<String> {
    String::from_utf8(BASE64.decode(value.as_str()?).ok()?).ok()
}
