//! A cluster of etcd in memory: keys, transactions and leases, in order, as its JSON gateway answers.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

/// What a key has.
struct Pair {
    value: String,
    lease: Option<String>,
}

/// All of it, as a majority has agreed to it.
#[derive(Default)]
pub(crate) struct Etcd {
    last_lease: u64,
    pairs: BTreeMap<Vec<u8>, Pair>,
    /// For how long each lasts, and until when.
    leases: BTreeMap<String, (Duration, Instant)>,
    /// It has no majority since then.
    pub(crate) lost_since: Option<Instant>,
}

fn bytes(value: &Value) -> Option<Vec<u8>> {
    BASE64.decode(value.as_str()?).ok()
}

impl Etcd {
    /// It has a majority again: leases last for as long as they would have, and a while longer.
    pub(crate) fn recover(&mut self, now: Instant) {
        if self.lost_since.take().is_some() {
            self.leases.values_mut().for_each(|(lasts, until)| *until = now + *lasts);
        }
    }

    /// All data is lost.
    pub(crate) fn wipe(&mut self) {
        (self.pairs, self.leases) = Default::default();
    }

    /// Ends leases whose time is over, and what hangs on them.
    fn expire(&mut self, now: Instant) {
        if self.lost_since.is_some() {
            return;
        }
        self.leases.retain(|_, (_, until)| *until > now);
        let Etcd { pairs, leases, .. } = self;
        pairs.retain(|_, pair| pair.lease.as_ref().is_none_or(|lease| leases.contains_key(lease)));
    }

    /// Does what a request says.
    pub(crate) fn serve(&mut self, path: &str, body: &Value, now: Instant) -> Value {
        self.expire(now);
        match path {
            "/v3/kv/range" => self.range(body),
            "/v3/kv/txn" => self.transact(body),
            "/v3/lease/grant" => {
                self.last_lease += 1;
                let lasts = Duration::from_secs(body["TTL"].as_str().unwrap().parse().unwrap());
                let id = self.last_lease.to_string();
                self.leases.insert(id.clone(), (lasts, now + lasts));
                json!({"ID": id, "TTL": body["TTL"]})
            }
            "/v3/lease/keepalive" => match self.leases.get_mut(body["ID"].as_str().unwrap()) {
                Some((lasts, until)) => {
                    *until = now + *lasts;
                    json!({"result": {"ID": body["ID"], "TTL": lasts.as_secs().to_string()}})
                }
                None => json!({"result": {"ID": body["ID"]}}),
            },
            "/v3/lease/revoke" => {
                self.leases.remove(body["ID"].as_str().unwrap());
                self.expire(now);
                json!({})
            }
            _ => panic!("etcd knows no {path}"),
        }
    }

    fn range(&self, body: &Value) -> Value {
        let from = bytes(&body["key"]).unwrap();
        let end = bytes(&body["range_end"]).unwrap_or_else(|| [&from[..], &[0]].concat());
        let limit = body["limit"].as_str().map_or(usize::MAX, |limit| limit.parse().unwrap());
        let found = self.pairs.range(from..end).take(limit);
        let pairs = found.map(|(key, pair)| json!({"key": BASE64.encode(key), "value": pair.value}));
        json!({"kvs": pairs.collect::<Vec<_>>()})
    }

    fn transact(&mut self, body: &Value) -> Value {
        let holds = |compare: &Value| {
            let pair = self.pairs.get(&bytes(&compare["key"]).unwrap());
            match compare["target"].as_str() {
                Some("CREATE") if compare["create_revision"] == "0" => pair.is_none(),
                Some("LEASE") => pair.is_some_and(|pair| pair.lease.as_deref() == compare["lease"].as_str()),
                _ => panic!("etcd does not understand {compare}"),
            }
        };
        let good = body["compare"].as_array().unwrap().iter().all(holds);
        if good {
            for operation in body["success"].as_array().unwrap() {
                self.change(operation);
            }
        }
        json!({"succeeded": good})
    }

    fn change(&mut self, operation: &Value) {
        if let Some(put) = operation.get("requestPut") {
            let value = put["value"].as_str().unwrap().to_owned();
            let lease = put["lease"].as_str().map(str::to_owned);
            self.pairs.insert(bytes(&put["key"]).unwrap(), Pair { value, lease });
        } else {
            let gone = &operation["requestDeleteRange"];
            let from = bytes(&gone["key"]).unwrap();
            let end = bytes(&gone["range_end"]).unwrap_or_else(|| [&from[..], &[0]].concat());
            self.pairs.retain(|key, _| *key < from || *key >= end);
        }
    }

    /// The texts below a name.
    pub(crate) fn below(&self, name: &str) -> BTreeMap<String, String> {
        let pairs = self.pairs.iter().filter_map(|(key, pair)| {
            let key = String::from_utf8(key.clone()).unwrap();
            let text = String::from_utf8(BASE64.decode(&pair.value).unwrap()).unwrap();
            Some((key.strip_prefix(name)?.to_owned(), text))
        });
        pairs.collect()
    }
}
