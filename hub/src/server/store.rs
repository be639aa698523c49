//! Does the jobs on the hub's files in a thread, so that packets do not wait for the disk. IO.
//!
//! The thread is started once the process is confined. If no thread can be started, the event loop does the jobs itself,
//! and blocks meanwhile.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use common::node::state::{self, State};
use log::{debug, warn};
use mio::Waker;

use super::audit;
use super::files::{self, MEMBERS, RULES, StateFiles};
use crate::core::Files;
use crate::lan::saving::{Done, Job};
use crate::lan::subnets::Subnets;

/// Has jobs done on the files.
pub(super) struct Store {
    state: Arc<State>,
    files: StateFiles,
    thread: Option<Thread>,
}

/// What the thread does.
enum Work {
    /// A job, of which the core hears.
    Job(Job),
    /// A line for the audit file.
    Audit(String),
}

/// The thread, by what goes there and what comes back.
struct Thread {
    jobs: Sender<Work>,
    done: Receiver<Done>,
}

impl Store {
    /// Reads all files of a state directory.
    pub(super) fn open(state: State, subnets: Subnets) -> Result<(Store, Files), state::Error> {
        let state = Arc::new(state);
        let (files, found) = StateFiles::open(Arc::clone(&state), subnets)?;
        Ok((Store { state, files, thread: None }, found))
    }

    /// Starts the thread; it wakes the event loop whenever a job is done.
    pub(super) fn start(&mut self, waker: Arc<Waker>) {
        let mut files = self.files.clone();
        let ((jobs, next), (report, done)) = (channel(), channel());
        let state = Arc::clone(&self.state);
        let work = move || {
            while let Ok(work) = next.recv() {
                let job = match work {
                    Work::Job(job) => job,
                    Work::Audit(line) => {
                        write_audit(&state, &line);
                        continue;
                    }
                };
                if report.send(files.run(job)).is_err() {
                    return;
                }
                // Where it fails the loop looks when it next wakes up by itself.
                let _ = waker.wake();
            }
        };
        match std::thread::Builder::new().spawn(work) {
            Ok(_) => self.thread = Some(Thread { jobs, done }),
            Err(error) => debug!("cannot start a thread: {error}; the event loop writes the files"),
        }
    }

    /// The LAN's subnets at start.
    pub(super) fn subnets(&self) -> Subnets {
        self.files.subnets()
    }

    /// The state directory.
    pub(super) fn state(&self) -> &State {
        &self.state
    }

    /// The files that are links: what they lead to is elsewhere.
    pub(super) fn linked_files(&self) -> Vec<PathBuf> {
        let linked = files::NAMES.into_iter().filter(|name| self.state.is_link(name));
        linked.map(|name| self.state.path().join(name)).collect()
    }

    /// Where the list of members is.
    pub(super) fn members_file(&self) -> PathBuf {
        self.state.path().join(MEMBERS)
    }

    /// Where the access rules are.
    pub(super) fn rules_file(&self) -> PathBuf {
        self.state.path().join(RULES)
    }

    /// Has a job done. What it led to, where that is known at once.
    pub(super) fn run(&mut self, job: Job) -> Option<Done> {
        match &self.thread {
            Some(thread) => {
                // The thread ends after us.
                let _ = thread.jobs.send(Work::Job(job));
                None
            }
            None => Some(self.files.run(job)),
        }
    }

    /// Adds a line to the audit file.
    pub(super) fn audit(&mut self, line: String) {
        match &self.thread {
            // The thread ends after us.
            Some(thread) => drop(thread.jobs.send(Work::Audit(line))),
            None => write_audit(&self.state, &line),
        }
    }

    /// What the job led to that was given to the thread, if it is done.
    pub(super) fn poll_done(&mut self) -> Option<Done> {
        self.thread.as_ref()?.done.try_recv().ok()
    }

    /// The same, once it is done.
    pub(super) fn wait_done(&mut self) -> Option<Done> {
        self.thread.as_ref()?.done.recv().ok()
    }
}

pub(super) fn write_audit(state: &State, line: &str) {
    if let Err(error) = audit::append(state, line) {
        warn!("{error}; not in the audit file: {}", line.trim_end());
    }
}
