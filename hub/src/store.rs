//! `hub store`: keeps the list of members in etcd, beside the hubs' own files. IO; a process of its own beside a hub.
//!
//! One of these processes leads, by a key of etcd's that lasts as long as the process and its hub do: its hub keeps the list,
//! and agrees to a change once etcd has it. Each write says that this process still leads, so that a hub that was cut off
//! can change nothing. Where the key is gone, the next process takes its place, and brings its hub what etcd has.
#![expect(clippy::disallowed_methods, reason = "an IO file: it owns the clock and connections")]

use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::Duration;

use common::linux::sandbox::{self, Needs, Profile, StateDirectory, User};
use common::node::control::{AskError, ask};
use common::node::state;
use common::wire::target::{HTTP_PORT, TLS_PORT};
use log::{info, warn};
use nix::unistd::{Gid, Uid};
use ureq::http::Uri;

use crate::control::{Request, StoreRequest, StoreWork, StoredRecord};

mod etcd;

pub use etcd::Certificates;

use etcd::{Change, Error, Etcd};

/// How long the leader's key outlives its process.
const LEASE_SECONDS: u64 = 2;
/// How often the lease is renewed.
const RENEW_EVERY: Duration = Duration::from_millis(500);
/// How often to look again where there is nothing to do but wait.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// The leader's key.
const LEADER: &str = "keeper";
/// What records of the list are below.
const LIST: &str = "list/";
/// Bytes of records in one request to the hub, with room for what is around them.
const MAX_TAKEN: usize = 8 * 1024;

/// What to write where.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// The state directory of the hub.
    pub state: PathBuf,
    /// etcd's endpoints.
    pub endpoints: Vec<String>,
    /// What all keys begin with.
    pub prefix: String,
    /// The files of who signs etcd's certificate, of the client's certificate, and of its key.
    pub files: [Option<PathBuf>; 3],
}

/// The lease, which another thread renews.
#[derive(Clone, Default)]
struct Lease(Arc<Mutex<Option<String>>>);

impl Lease {
    fn lock(&self) -> MutexGuard<'_, Option<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it is called, if there is one.
    fn held(&self) -> Option<String> {
        self.lock().clone()
    }
}

struct Run {
    state: PathBuf,
    etcd: Etcd,
    lease: Lease,
    /// The last line that was logged about what is wrong.
    problem: Option<String>,
}

/// Runs until a signal comes.
///
/// # Errors
/// A sentence that says what is wrong with what was typed.
pub fn run(options: &StoreOptions, signals: UnixStream) -> Result<(), String> {
    let [authority, certificate, key] = &options.files;
    let read = |what: &str, path: &Option<PathBuf>| {
        path.as_deref().map(|path: &Path| etcd::read(what, path)).transpose()
    };
    let own = match (read("--cert", certificate)?, read("--key", key)?) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        (Some(_), None) | (None, Some(_)) => return Err("--cert and --key go together".to_owned()),
    };
    let certificates = Certificates { authority: read("--ca", authority)?, own };
    let etcd = Etcd::new(&options.endpoints, &options.prefix, &certificates)?;
    confine(options)?;
    let lease = Lease::default();
    renew(etcd.clone(), lease.clone());
    end_at_signal(etcd.clone(), lease.clone(), signals)?;
    let mut run = Run { state: options.state.clone(), etcd, lease, problem: None };
    loop {
        if let Err(why) = run.lead() {
            run.complain(why);
        }
        run.resign();
        sleep(LOOK_EVERY);
    }
}

/// The hub's state directory, for a process that only goes to the socket in it.
struct Directory(File);

impl StateDirectory for Directory {
    type SyncedFile = ();

    fn directory(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn directory_of((): &()) -> BorrowedFd<'_> {
        unreachable!("it keeps no file in step")
    }

    fn change_owner(&self, _: Uid, _: Gid) -> Result<(), String> {
        Ok(())
    }
}

/// Gives up all that the process does not need: it becomes the hub's user, and goes to etcd's ports and the hub's socket.
fn confine(options: &StoreOptions) -> Result<(), String> {
    let path = state::inner(&options.state);
    let directory = File::open(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let owner = directory.metadata().map_err(|error| format!("{}: {error}", path.display()))?.uid();
    let user = User::of(Uid::from_raw(owner)).filter(|_| Uid::effective().is_root());
    let port = |url: &String| {
        let url: Uri = url.parse().ok()?;
        let of_scheme = if url.scheme_str()? == "https" { TLS_PORT } else { HTTP_PORT };
        Some(url.port_u16().unwrap_or(of_scheme))
    };
    let ports: Option<Vec<u16>> = options.endpoints.iter().map(port).collect();
    let ports = ports.ok_or("an endpoint is a URL, such as http://127.0.0.1:2379")?;
    let needs = Needs { profile: Profile::Resolves, ports: Some(&ports), readable: &[], binds_names: false };
    sandbox::enter(&Directory(directory), None, user.as_ref(), needs).map_err(|error| error.to_string())
}

/// Renews the lease for as long as there is one.
fn renew(mut etcd: Etcd, lease: Lease) {
    std::thread::spawn(move || {
        loop {
            sleep(RENEW_EVERY);
            let Some(id) = lease.held() else { continue };
            if let Ok(false) = etcd.renew(&id) {
                lease.lock().take_if(|held| *held == id);
            }
        }
    });
}

/// Gives the lease back at once where the process is to end.
fn end_at_signal(mut etcd: Etcd, lease: Lease, mut signals: UnixStream) -> Result<(), String> {
    signals.set_nonblocking(false).map_err(|error| format!("cannot wait for signals: {error}"))?;
    std::thread::spawn(move || {
        let _ = signals.read(&mut [0]);
        if let Some(id) = lease.held() {
            let _ = etcd.revoke(&id);
        }
        info!("stopping");
        std::process::exit(0);
    });
    Ok(())
}

impl Run {
    /// Says what is wrong, once.
    fn complain(&mut self, why: String) {
        if !why.is_empty() && self.problem.as_ref() != Some(&why) {
            warn!("{why}");
            self.problem = Some(why);
        }
    }

    /// Gives the leader's key back, if it is this process's.
    fn resign(&mut self) {
        let id = self.lease.lock().take();
        if let Some(id) = id {
            let _ = self.etcd.revoke(&id);
        }
    }

    /// Becomes the leader, unless there is one, and does its work for as long as it is. An empty text: there is another one.
    fn lead(&mut self) -> Result<(), String> {
        // Before anything else, the hub has to be there. What it knows of the store is by an earlier process, or is not yet.
        let work = self.wait(Vec::new(), Some("`hub store` has just begun".to_owned()))?;
        if self.etcd.leader(LEADER).map_err(|error| error.to_string())?.is_some() {
            return Err(String::new());
        }
        let id = self.etcd.lease(LEASE_SECONDS).map_err(|error| error.to_string())?;
        *self.lease.lock() = Some(id.clone());
        let number = match self.etcd.lead(LEADER, &work.key.to_string(), &id) {
            Ok(number) => number,
            Err(Error::NotLeader) => return Err(String::new()),
            Err(error) => return Err(error.to_string()),
        };
        // A number of before etcd kept the list counts, too.
        let term = number.max(work.term + 1);
        loop {
            self.attach(number, term)?;
            self.problem = None;
            self.serve(number)?;
            if self.lease.held().is_none() {
                return Err("the lease in etcd has ended".to_owned());
            }
        }
    }

    /// Brings the hub what etcd has, or etcd what the hub has, and has the hub keep the list.
    fn attach(&mut self, number: u64, term: u64) -> Result<(), String> {
        let records = self.etcd.records(LIST).map_err(|error| error.to_string())?;
        let is_taken = !records.is_empty();
        if is_taken {
            let records = records.into_iter().filter_map(|(name, text)| {
                Some(StoredRecord { id: name.strip_prefix(LIST)?.to_owned(), text: Some(text) })
            });
            let (mut part, mut size, mut first) = (Vec::new(), 0, true);
            for record in records {
                size += record.id.len() + record.text.as_ref().map_or(0, String::len);
                part.push(record);
                if size > MAX_TAKEN {
                    self.ask::<()>(StoreRequest::Take { records: std::mem::take(&mut part), first })?;
                    (size, first) = (0, false);
                }
            }
            self.ask::<()>(StoreRequest::Take { records: part, first })?;
            info!("the hub has the list from etcd");
        } else {
            let (mut first, mut count) = (true, 0);
            loop {
                let records: Vec<StoredRecord> = self.ask(StoreRequest::List { first })?;
                if records.is_empty() {
                    break;
                }
                count += records.len();
                let changes: Vec<Vec<Change>> =
                    records.into_iter().map(|record| vec![change(record)]).collect();
                self.etcd.write(LEADER, number, &changes).map_err(|error| error.to_string())?;
                first = false;
            }
            info!("etcd has the list from the hub: {count} records");
        }
        self.ask(StoreRequest::Keep { term, taken: is_taken })
    }

    /// Writes down what the hub wants, until it was started anew or etcd refuses. An error leaves the hub without a store.
    fn serve(&mut self, number: u64) -> Result<(), String> {
        let mut written = Vec::new();
        loop {
            let work = match self.wait(std::mem::take(&mut written), None) {
                Ok(work) if work.attached => work,
                Ok(_) => return Ok(()),
                Err(why) if why.is_empty() => continue,
                Err(why) => return Err(why),
            };
            let changes = work.changes.iter().map(|change| change.records.iter().cloned().map(self::change));
            let changes: Vec<Vec<Change>> = changes.map(Iterator::collect).collect();
            if let Err(error) = self.etcd.write(LEADER, number, &changes) {
                // What is written and what is not is known again once the hub is brought up to date.
                let lost = error.to_string();
                self.wait(Vec::new(), Some(lost.clone()))?;
                return match error {
                    Error::NotLeader => Err(lost),
                    Error::Unreachable(_) => {
                        self.complain(lost);
                        Ok(())
                    }
                };
            }
            written = work.changes.into_iter().map(|change| change.token).collect();
        }
    }

    /// Tells the hub what is written, and waits until there is more. An empty text: there was nothing for some seconds.
    fn wait(&self, written: Vec<u64>, lost: Option<String>) -> Result<StoreWork, String> {
        self.ask(StoreRequest::Wait { written, lost })
    }

    fn ask<T: serde::de::DeserializeOwned>(&self, request: StoreRequest) -> Result<T, String> {
        ask(&self.state, &Request::Store { request }).map_err(|error| {
            // The hub closes a connection on which it has nothing to say.
            if matches!(error, AskError::Garbled(_)) { String::new() } else { error.to_string() }
        })
    }
}

fn change(record: StoredRecord) -> Change {
    (format!("{LIST}{}", record.id), record.text)
}
