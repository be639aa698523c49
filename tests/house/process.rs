//! A running program: its output line by line, its end.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ExitStatus};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

use super::{Context, Failure, Result};

/// A program started by [`Host::spawn`](super::Host::spawn). Killed when dropped; where a test is failing,
/// its output is shown then.
pub(crate) struct Process {
    name: String,
    pid: Pid,
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// Standard output and error, in order of arrival.
    lines: Vec<String>,
    /// Of the two pipes, those that have not ended.
    open_pipes: usize,
    /// Set in the same step as the process is reaped: while it is `None`, the pid is this process's.
    status: Option<ExitStatus>,
}

impl Process {
    pub(super) fn new(name: &str, mut child: Child) -> Result<Process> {
        let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid fits in i32"));
        let state = State { lines: Vec::new(), open_pipes: 0, status: None };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let process = Process { name: name.to_owned(), pid, shared };
        if let Some(pipe) = child.stdout.take() {
            process.collect(pipe);
        }
        if let Some(pipe) = child.stderr.take() {
            process.collect(pipe);
        }
        let shared = Arc::clone(&process.shared);
        thread::spawn(move || shared.reap(pid, child));
        Ok(process)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    /// The lines so far.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.shared.lock().lines.clone()
    }

    /// The number of lines so far: a place from which to wait for the next.
    pub(crate) fn mark(&self) -> usize {
        self.shared.lock().lines.len()
    }

    /// Waits for a line that contains `part`, and returns it. Lines that have come already count.
    ///
    /// # Errors
    /// None came in time, or the program ended without one; the text has its output.
    pub(crate) fn wait_for_line(&self, part: &str, timeout: Duration) -> Result<String> {
        self.wait_for_line_after(0, part, timeout)
    }

    /// As [`Process::wait_for_line`], without the first `mark` lines.
    pub(crate) fn wait_for_line_after(&self, mark: usize, part: &str, timeout: Duration) -> Result<String> {
        let found = |state: &State| state.lines.iter().skip(mark).find(|line| line.contains(part)).cloned();
        let state = self.shared.wait(timeout, |state| found(state).is_some() || state.is_over());
        if let Some(line) = found(&state) {
            return Ok(line);
        }
        let why = match state.status {
            Some(status) => format!("ended ({status})"),
            None => format!("has run for {timeout:?} more"),
        };
        Err(Failure::new(format!("{} {why} without a line with {part:?}\n{}", self.name, self.text(&state))))
    }

    /// Sends a signal, if the program still runs.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let state = self.shared.lock();
        if state.status.is_some() {
            return Ok(());
        }
        kill(self.pid, signal).context(&format!("send {signal} to {}", self.name))
    }

    pub(crate) fn is_running(&self) -> bool {
        self.shared.lock().status.is_none()
    }

    /// Waits for the program's end and the end of its output.
    ///
    /// # Errors
    /// It did not end in time; the text has its output.
    pub(crate) fn wait_exit(&self, timeout: Duration) -> Result<ExitStatus> {
        let state = self.shared.wait(timeout, State::is_over);
        state.status.ok_or_else(|| {
            Failure::new(format!("{} has not ended in {timeout:?}\n{}", self.name, self.text(&state)))
        })
    }

    /// Ends the program with SIGKILL and waits until it has gone.
    pub(crate) fn kill(&self) -> Result<()> {
        self.signal(Signal::SIGKILL)?;
        self.wait_exit(Duration::from_secs(10)).map(drop)
    }

    /// Resident memory, in bytes.
    pub(crate) fn resident_bytes(&self) -> Result<u64> {
        self.memory("status", "VmRSS:")
    }

    /// Memory of its own, not of a file, in bytes: counted page by page, where the kernel's running counters
    /// are a little behind.
    pub(crate) fn anonymous_bytes(&self) -> Result<u64> {
        self.memory("smaps_rollup", "Anonymous:")
    }

    fn memory(&self, file: &str, field: &str) -> Result<u64> {
        let path = format!("/proc/{}/{file}", self.pid);
        let text = std::fs::read_to_string(&path).context(&path)?;
        let kib = text.lines().find_map(|line| line.strip_prefix(field)?.trim().strip_suffix(" kB"));
        let kib: u64 =
            kib.ok_or_else(|| Failure::new(format!("no {field} in {path}")))?.parse().context(&path)?;
        Ok(kib * 1024)
    }

    /// Seconds of CPU that it and its children have used, in user space and in the kernel on their behalf.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        cpu_seconds(self.pid)
    }

    /// Open file descriptors.
    pub(crate) fn descriptors(&self) -> Result<usize> {
        let path = format!("/proc/{}/fd", self.pid);
        Ok(std::fs::read_dir(&path).context(&path)?.count())
    }

    fn collect(&self, pipe: impl Read + Send + 'static) {
        let shared = Arc::clone(&self.shared);
        shared.lock().open_pipes += 1;
        thread::spawn(move || {
            let mut reader = BufReader::new(pipe);
            let mut line = Vec::new();
            // A read error ends the collection as the end of the pipe does.
            while let Ok(1..) = reader.read_until(b'\n', &mut line) {
                let text = String::from_utf8_lossy(line.trim_ascii_end()).into_owned();
                shared.lock().lines.push(text);
                shared.changed.notify_all();
                line.clear();
            }
            shared.lock().open_pipes -= 1;
            shared.changed.notify_all();
        });
    }

    fn text(&self, state: &State) -> String {
        let mut text = format!("--- output of {} (pid {}) ---\n", self.name, self.pid);
        for line in &state.lines {
            let _ = writeln!(text, "{line}");
        }
        text
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Err(failure) = self.kill() {
            eprintln!("{failure}");
        }
        if thread::panicking() {
            eprint!("{}", self.text(&self.shared.lock()));
        }
    }
}

impl State {
    fn is_over(&self) -> bool {
        self.status.is_some() && self.open_pipes == 0
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `done`, or for `timeout`.
    fn wait(&self, timeout: Duration, done: impl Fn(&State) -> bool) -> MutexGuard<'_, State> {
        let end = Instant::now() + timeout;
        let mut state = self.lock();
        while !done(&state) {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state
    }

    fn reap(&self, pid: Pid, mut child: Child) {
        // The pid stays ours until the status is stored: a signal cannot hit a stranger.
        while waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) == Err(Errno::EINTR) {}
        let mut state = self.lock();
        state.status = child.wait().ok();
        drop(state);
        self.changed.notify_all();
    }
}

fn cpu_seconds(pid: Pid) -> f64 {
    /// Clock ticks a second in /proc (USER_HZ, part of the kernel's interface).
    const USER_HZ: f64 = 100.0;
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let children = children.split_ascii_whitespace().filter_map(|pid| pid.parse().ok().map(Pid::from_raw));
    children.map(cpu_seconds).sum::<f64>() + ticks(pid).unwrap_or(0) as f64 / USER_HZ
}

fn ticks(pid: Pid) -> Option<u64> {
    // proc_pid_stat(5): behind the name, which may hold anything, field 3 is the first.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_ascii_whitespace().skip(11);
    let (user, system): (u64, u64) = (times.next()?.parse().ok()?, times.next()?.parse().ok()?);
    Some(user + system)
}
