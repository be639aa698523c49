//! What `hub store` asks the hub and tells it, by the control socket. Pure.

use std::time::Instant;

use common::wire::frame::{Edit, Record, RecordId};
use common::wire::invite::SecretHash;
use common::wire::key::PublicKey;
use serde::{Deserialize, Serialize};
use serde_json::{Value, to_value};

use crate::core::Core;

/// A request of `hub store`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "lowercase", deny_unknown_fields)]
pub enum StoreRequest {
    /// These changes are written down; what is to be written next: [`StoreWork`], once there is some.
    Wait {
        /// The tokens of changes.
        written: Vec<u64>,
        /// Why the store does not take this hub's changes any more, if so.
        #[serde(default)]
        lost: Option<String>,
    },
    /// The list, a page for each request: [`StoredRecord`]s; none behind the last one.
    List {
        /// Whether to begin.
        first: bool,
    },
    /// Records that are in the store.
    Take {
        /// Some of them.
        records: Vec<StoredRecord>,
        /// Whether these are the first ones.
        first: bool,
    },
    /// What was brought is the list of a hub that has none, though another one keeps it.
    Copy {
        /// How many records were brought.
        brought: usize,
    },
    /// Have the hub keep the list, by this number. The answer: the ids of records that are to be taken off the store, as those
    /// members are revoked.
    Keep {
        /// The number, which grows.
        term: u64,
        /// How many records were brought, if the list is to become those and no others.
        brought: Option<usize>,
    },
}

/// A record of the list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredRecord {
    /// `member/KEY`, `invite/HASH` or `access`.
    pub id: String,
    /// Its text; `None` where there is none.
    pub text: Option<String>,
}

/// A change to write down, all or nothing of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreChange {
    /// Tells it apart.
    pub token: u64,
    /// The records as they are to be.
    pub records: Vec<StoredRecord>,
}

/// What is to be written down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreWork {
    /// The hub's key.
    pub key: PublicKey,
    /// Whether the hub keeps the list, and was brought up to date since it started.
    pub attached: bool,
    /// The number of the keeper that it knows; 0: none.
    pub term: u64,
    /// Whether this hub keeps the list, or shares it with nobody.
    #[serde(default)]
    pub keeps: bool,
    /// Whether this hub shares the list with others and has lost it.
    #[serde(default)]
    pub lost: bool,
    /// Changes.
    pub changes: Vec<StoreChange>,
}

/// Serves a request; `None`: it is to wait until there is work.
pub fn serve_store(core: &mut Core, request: StoreRequest, now: Instant) -> Option<Result<Value, String>> {
    fn ok(answer: impl Serialize) -> Result<Value, String> {
        to_value(answer).map_err(|error| error.to_string())
    }
    core.hear_store(now);
    Some(match request {
        StoreRequest::Wait { written, lost } => {
            written.into_iter().for_each(|token| core.handle_stored(token, now));
            if let Some(why) = lost {
                core.lose_store(&why, now);
            }
            if core.is_stored() {
                return None;
            }
            ok(StoreWork::take(core))
        }
        StoreRequest::List { first } => core
            .page_for_store(first)
            .and_then(|records| ok(records.into_iter().map(StoredRecord::new).collect::<Vec<_>>())),
        StoreRequest::Take { records, first } => {
            let read: Result<Vec<_>, String> = records.into_iter().map(StoredRecord::read).collect();
            read.and_then(|records| core.take_stored(records, first)).and_then(ok)
        }
        StoreRequest::Copy { brought } => core.copy_from_store(brought, now).and_then(ok),
        StoreRequest::Keep { term, brought } => core.keep_in_store(term, brought, now).and_then(|revoked| {
            let ids = revoked.into_iter().map(|id| StoredRecord::new(Record { id, text: None }).id);
            ok(ids.collect::<Vec<_>>())
        }),
    })
}

impl StoreWork {
    /// What there is now.
    pub fn take(core: &mut Core) -> StoreWork {
        StoreWork {
            key: core.key(),
            attached: core.is_stored(),
            term: core.keeper().map_or(0, |term| term.number),
            keeps: core.keeps_list(),
            lost: core.has_lost_list(),
            changes: core.work_for_store().into_iter().map(StoreChange::new).collect(),
        }
    }
}

impl StoredRecord {
    /// A record as the core has it.
    pub fn new(record: Record) -> StoredRecord {
        let id = match record.id {
            RecordId::Member(key) => format!("member/{key}"),
            RecordId::Invite(hash) => format!("invite/{}", SecretHash(hash)),
            RecordId::Access => "access".to_owned(),
        };
        StoredRecord { id, text: record.text }
    }

    /// The record as the core takes it.
    ///
    /// # Errors
    /// Where its id names none.
    pub fn read(self) -> Result<Record, String> {
        let bad = || format!("{:?} is the name of no record", self.id);
        let id = match self.id.split_once('/') {
            Some(("member", key)) => RecordId::Member(key.parse().map_err(|_| bad())?),
            Some(("invite", hash)) => RecordId::Invite(hash.parse::<SecretHash>().map_err(|_| bad())?.0),
            None if self.id == "access" => RecordId::Access,
            Some(_) | None => return Err(bad()),
        };
        Ok(Record { id, text: self.text })
    }
}

impl StoreChange {
    /// A change as the core has it.
    pub fn new((token, edits): (u64, Vec<Edit>)) -> StoreChange {
        let records = edits.into_iter().map(|edit| StoredRecord::new(edit.record));
        StoreChange { token, records: records.collect() }
    }
}

#[cfg(test)]
mod tests {
    use common::wire::key::PrivateKey;

    use super::*;

    #[test]
    fn records_survive_the_way_to_the_store() {
        let key = PrivateKey::from_random([1; 32]).public();
        for id in [RecordId::Member(key), RecordId::Invite([7; 32]), RecordId::Access] {
            for text in [None, Some("text".to_owned())] {
                let record = Record { id, text };
                assert_eq!(StoredRecord::new(record.clone()).read(), Ok(record));
            }
        }
        for id in ["", "member", "member/", "invite/x", "access/", "keeper"] {
            let record = StoredRecord { id: id.to_owned(), text: None };
            assert!(record.read().is_err(), "{id}");
        }
    }
}
