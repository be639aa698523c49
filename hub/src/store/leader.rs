//! Which process of `hub store` leads, and what it brings its hub, and writes. Pure: what is outside is the caller's.
//!
//! ```text
//! keeper                 the key of the hub whose process leads; it lasts as long as that process and its hub do
//! term                   the number of the last hub that has kept the list in etcd; there once all of the list is
//! list/member/KEY …      the list
//! ```
//! A hub that knows of a keeper after that number, by `hub keep`, has a later list than etcd. Then, and where etcd has none, the
//! hub that keeps the list fills etcd from it; else etcd's is the list, whichever hub keeps it next.
#![warn(clippy::disallowed_methods, reason = "pure, though the module above it is not")]

use serde::de::DeserializeOwned;

use super::etcd::{Change, Cluster, Error, Etcd};
use crate::control::{StoreRequest, StoreWork, StoredRecord};

/// How long the leader's key outlives its process, in seconds.
const LEASE_SECONDS: u64 = 2;
/// The leader's key.
const LEADER: &str = "keeper";
/// What the number is called.
const TERM: &str = "term";
/// What records of the list are below.
const LIST: &str = "list/";
/// Bytes of records in one request to the hub, with room for what is around them.
const MAX_TAKEN: usize = 8 * 1024;

/// What the process has outside itself.
pub trait Outside: Cluster {
    /// Asks the hub beside it.
    ///
    /// # Errors
    /// A sentence that says why there is no answer; an empty one where the hub had nothing to say.
    fn ask<T: DeserializeOwned>(&mut self, request: StoreRequest) -> Result<T, String>;

    /// Takes note of a lease, which is renewed from now on.
    fn hold(&mut self, lease: String);

    /// The lease that is renewed, if it has not ended.
    fn held(&self) -> Option<String>;

    /// Renews it no more.
    fn let_go(&mut self) -> Option<String>;

    /// Says what is wrong.
    fn warn(&mut self, text: &str);

    /// Says what was done.
    fn note(&mut self, text: &str);

    /// Waits for a moment; whether to go on.
    fn pause(&mut self) -> bool;
}

/// Why a process does nothing: it is as it should be.
const WAITS: &str = "`hub store` beside another hub leads, and this one takes its place when it is gone";

/// Why one does not lead any more.
const ENDED: &str = "the lease in etcd has ended";

/// A process.
pub struct Leader<O> {
    outside: O,
    /// What all keys begin with.
    prefix: String,
    /// Why it does not lead, or cannot write.
    problem: String,
}

impl<O: Outside> Leader<O> {
    /// One that has done nothing yet.
    pub fn new(outside: O, prefix: &str) -> Leader<O> {
        let problem = "`hub store` has just begun".to_owned();
        Leader { outside, prefix: prefix.to_owned(), problem }
    }

    /// Leads where nobody does, and looks again and again whether that is so.
    pub fn run(mut self) {
        loop {
            if let Err(why) = self.lead() {
                self.say(why);
            }
            // The next one need not wait until the lease ends.
            if let Some(lease) = self.outside.let_go() {
                let _ = self.etcd().revoke(&lease);
            }
            if !self.outside.pause() {
                return;
            }
        }
    }

    /// Says why it does not lead, or cannot write, once.
    fn say(&mut self, why: String) {
        if why != self.problem && !why.is_empty() {
            let say = if why == WAITS { O::note } else { O::warn };
            say(&mut self.outside, &why);
            self.problem = why;
        }
    }

    fn etcd(&mut self) -> Etcd<'_, O> {
        Etcd { cluster: &mut self.outside, prefix: &self.prefix }
    }

    /// Becomes the leader, unless there is one, and does its work for as long as it is. Ends with why it does not.
    fn lead(&mut self) -> Result<(), String> {
        // Before anything else, the hub has to be there. What it knows of a store comes from an earlier process, and holds no more.
        let mut work = self.wait(Vec::new(), Some(self.problem.clone()))?;
        match self.etcd().record(LEADER).map_err(to_text)? {
            Some(key) if key == work.key.to_string() => {
                return Err(
                    "the lease of an earlier `hub store` beside this hub has not ended yet".to_owned()
                );
            }
            Some(_) if work.lost => {
                let brought = self.bring()?;
                self.outside.ask::<()>(StoreRequest::Copy { brought })?;
                return Err(WAITS.to_owned());
            }
            Some(_) => return Err(WAITS.to_owned()),
            None => {}
        }
        self.term(&work)?;
        let lease = self.etcd().lease(LEASE_SECONDS).map_err(to_text)?;
        self.outside.hold(lease.clone());
        match self.etcd().lead(LEADER, &work.key.to_string(), &lease) {
            Ok(()) => {}
            Err(Error::NotLeader) => return Err(WAITS.to_owned()),
            Err(error) => return Err(error.to_string()),
        }
        while self.outside.held().is_some() {
            self.attach(&lease, &work)?;
            self.problem.clear();
            work = self.serve(&lease)?;
        }
        Err(ENDED.to_owned())
    }

    /// The number under which etcd's list was kept last, if it is the one to take over; `None`: etcd is to be filled.
    fn term(&mut self, work: &StoreWork) -> Result<Option<u64>, String> {
        let term = self.etcd().record(TERM).map_err(to_text)?;
        let term: Option<u64> = match term {
            None => None,
            Some(text) => Some(text.parse().map_err(|_| format!("{TERM} in etcd is no number: {text:?}"))?),
        };
        match term.filter(|term| *term >= work.term) {
            None if !work.keeps => Err(format!(
                "etcd has {}, and another hub keeps it: run `hub store` there, or `hub keep` here",
                if term.is_some() { "an old list" } else { "no list" }
            )),
            term => Ok(term),
        }
    }

    /// Brings the hub what etcd has, or etcd what the hub has, and has the hub keep the list.
    fn attach(&mut self, lease: &str, work: &StoreWork) -> Result<(), String> {
        match self.term(work)? {
            Some(last) => self.take(lease, last.saturating_add(1)),
            None => self.fill(lease, work.term.saturating_add(1)),
        }
    }

    /// Brings the hub what etcd has: how many records.
    fn bring(&mut self) -> Result<usize, String> {
        let records = self.etcd().records(LIST).map_err(to_text)?;
        let records = records.into_iter().filter_map(|(name, text)| {
            Some(StoredRecord { id: name.strip_prefix(LIST)?.to_owned(), text: Some(text) })
        });
        let (mut parts, mut size) = (vec![Vec::new()], 0);
        for record in records {
            size += record.id.len() + record.text.as_ref().map_or(0, String::len);
            if let Some(part) = parts.last_mut() {
                part.push(record);
            }
            if size > MAX_TAKEN {
                parts.push(Vec::new());
                size = 0;
            }
        }
        let brought = parts.iter().map(Vec::len).sum();
        for (at, records) in parts.into_iter().enumerate() {
            self.outside.ask::<()>(StoreRequest::Take { records, first: at == 0 })?;
        }
        Ok(brought)
    }

    /// etcd's list becomes the hub's.
    fn take(&mut self, lease: &str, term: u64) -> Result<(), String> {
        let brought = Some(self.bring()?);
        // Before the hub knows of the number, or one that hears of it would take its list for a later one than etcd's.
        self.write_term(lease, term)?;
        let revoked: Vec<String> = self.outside.ask(StoreRequest::Keep { term, brought })?;
        let revoked = revoked.into_iter().map(|id| vec![change(StoredRecord { id, text: None })]);
        let revoked: Vec<Vec<Change>> = revoked.collect();
        self.etcd().write((LEADER, lease), &revoked).map_err(to_text)?;
        self.outside.note("the hub has the list from etcd");
        Ok(())
    }

    /// The hub's list becomes etcd's. What changes meanwhile waits until etcd has all of it.
    fn fill(&mut self, lease: &str, term: u64) -> Result<(), String> {
        self.outside.ask::<Vec<String>>(StoreRequest::Keep { term, brought: None })?;
        self.etcd().clear((LEADER, lease), TERM, LIST).map_err(to_text)?;
        let (mut first, mut count) = (true, 0);
        loop {
            let records: Vec<StoredRecord> = self.outside.ask(StoreRequest::List { first })?;
            if records.is_empty() {
                break;
            }
            count += records.len();
            let changes: Vec<Vec<Change>> = records.into_iter().map(|record| vec![change(record)]).collect();
            self.etcd().write((LEADER, lease), &changes).map_err(to_text)?;
            first = false;
        }
        self.write_term(lease, term)?;
        self.outside.note(&format!("etcd has the list from the hub: {count} records"));
        Ok(())
    }

    fn write_term(&mut self, lease: &str, term: u64) -> Result<(), String> {
        let change = vec![(TERM.to_owned(), Some(term.to_string()))];
        self.etcd().write((LEADER, lease), &[change]).map_err(to_text)
    }

    /// Writes down what the hub wants, until another hub keeps the list, the hub was started anew, etcd does not answer or the
    /// lease has ended: then the hub has to be brought up to date, if this process still leads.
    fn serve(&mut self, lease: &str) -> Result<StoreWork, String> {
        let mut written = Vec::new();
        loop {
            let tokens = std::mem::take(&mut written);
            let outcome = match self.wait(tokens, None) {
                Ok(work) if !work.attached => return Ok(work),
                Ok(work) => {
                    written = work.changes.iter().map(|change| change.token).collect();
                    let changes =
                        work.changes.into_iter().map(|change| change.records.into_iter().map(self::change));
                    let changes: Vec<Vec<Change>> = changes.map(Iterator::collect).collect();
                    self.etcd().write((LEADER, lease), &changes)
                }
                // There was nothing to write, so that nobody knows whether it could be.
                Err(why) if why.is_empty() => match self.outside.held() {
                    Some(_) => self.etcd().record(LEADER).map(drop),
                    None => return Err(ENDED.to_owned()),
                },
                Err(why) => return Err(why),
            };
            if let Err(error) = outcome {
                // What is written and what is not is known again once the hub is brought up to date.
                self.say(error.to_string());
                let work = self.wait(Vec::new(), Some(error.to_string()))?;
                return match error {
                    Error::NotLeader => Err(error.to_string()),
                    Error::Unreachable(_) => Ok(work),
                };
            }
        }
    }

    /// Tells the hub what is written, and waits until there is more. An empty text: there was nothing for some seconds.
    fn wait(&mut self, written: Vec<u64>, lost: Option<String>) -> Result<StoreWork, String> {
        self.outside.ask(StoreRequest::Wait { written, lost })
    }
}

fn to_text(error: Error) -> String {
    error.to_string()
}

fn change(record: StoredRecord) -> Change {
    (format!("{LIST}{}", record.id), record.text)
}
