//! `hub store`: keeps the list of members in etcd, beside the hubs' own files. IO; a process of its own beside a hub.
//!
//! One of these processes leads, by a key of etcd's that lasts as long as the process and its hub do: its hub keeps the list,
//! and agrees to a change once etcd has it. Each write says that this process still leads, so that a hub that was cut off
//! can change nothing. Where the key is gone, the next process takes its place, and brings its hub what etcd has
//! (`leader.rs`).
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

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::control::{Request, StoreRequest};

mod etcd;
mod http;
mod leader;

pub use etcd::{Cluster, Error};
pub use http::Certificates;
pub use leader::{Leader, Outside};

use etcd::Etcd;
use http::Endpoints;

/// How often the lease is renewed.
const RENEW_EVERY: Duration = Duration::from_millis(500);
/// How often to look again where there is nothing to do but wait.
const LOOK_EVERY: Duration = Duration::from_millis(250);

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

/// What is outside: etcd, and the hub behind its control socket.
struct Sockets {
    state: PathBuf,
    endpoints: Endpoints,
    lease: Lease,
}

/// Runs until a signal comes.
///
/// # Errors
/// A sentence that says what is wrong with what was typed.
pub fn run(options: &StoreOptions, signals: UnixStream) -> Result<(), String> {
    let [authority, certificate, key] = &options.files;
    let read = |what: &str, path: &Option<PathBuf>| {
        path.as_deref().map(|path: &Path| http::read(what, path)).transpose()
    };
    let own = match (read("--cert", certificate)?, read("--key", key)?) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        (Some(_), None) | (None, Some(_)) => return Err("--cert and --key go together".to_owned()),
    };
    let certificates = Certificates { authority: read("--ca", authority)?, own };
    let endpoints = Endpoints::new(&options.endpoints, &certificates)?;
    confine(options)?;
    let lease = Lease::default();
    renew(endpoints.clone(), lease.clone());
    end_at_signal(endpoints.clone(), lease.clone(), signals)?;
    let sockets = Sockets { state: options.state.clone(), endpoints, lease };
    Leader::new(sockets, &options.prefix).run();
    Ok(())
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
fn renew(mut endpoints: Endpoints, lease: Lease) {
    std::thread::spawn(move || {
        loop {
            sleep(RENEW_EVERY);
            let Some(id) = lease.held() else { continue };
            if let Ok(false) = etcd(&mut endpoints).renew(&id) {
                lease.lock().take_if(|held| *held == id);
            }
        }
    });
}

/// Gives the lease back at once where the process is to end.
fn end_at_signal(mut endpoints: Endpoints, lease: Lease, mut signals: UnixStream) -> Result<(), String> {
    signals.set_nonblocking(false).map_err(|error| format!("cannot wait for signals: {error}"))?;
    std::thread::spawn(move || {
        let _ = signals.read(&mut [0]);
        if let Some(id) = lease.held() {
            let _ = etcd(&mut endpoints).revoke(&id);
        }
        info!("stopping");
        std::process::exit(0);
    });
    Ok(())
}

/// A lease needs no prefix.
fn etcd(cluster: &mut Endpoints) -> Etcd<'_, Endpoints> {
    Etcd { cluster, prefix: "" }
}

impl Cluster for Sockets {
    fn post(&mut self, path: &str, body: &Value) -> Result<Value, Error> {
        self.endpoints.post(path, body)
    }
}

impl Outside for Sockets {
    fn ask<T: DeserializeOwned>(&mut self, request: StoreRequest) -> Result<T, String> {
        ask(&self.state, &Request::Store { request }).map_err(|error| {
            // The hub closes a connection on which it has nothing to say.
            if matches!(error, AskError::Garbled(_)) { String::new() } else { error.to_string() }
        })
    }

    fn hold(&mut self, lease: String) {
        *self.lease.lock() = Some(lease);
    }

    fn held(&self) -> Option<String> {
        self.lease.held()
    }

    fn let_go(&mut self) -> Option<String> {
        self.lease.lock().take()
    }

    fn warn(&mut self, text: &str) {
        warn!("{text}");
    }

    fn note(&mut self, text: &str) {
        info!("{text}");
    }

    fn pause(&mut self) -> bool {
        sleep(LOOK_EVERY);
        true
    }
}
