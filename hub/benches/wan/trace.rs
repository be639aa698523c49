//! What the kernel says about each TCP connection of a turn, ten times a second: ss(8) in each host. IO.

use std::fmt::Write as _;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::house::{Binaries, Host};
use crate::systems::Running;

const EVERY: Duration = Duration::from_millis(100);

/// What is kept of ss's words, in this order; "app_limited" has no value.
const FIELDS: [&str; 17] = [
    "cwnd",
    "ssthresh",
    "rtt",
    "minrtt",
    "unacked",
    "notsent",
    "lost",
    "sacked",
    "retrans",
    "delivery_rate",
    "pacing_rate",
    "bytes_acked",
    "bytes_retrans",
    "rwnd_limited",
    "sndbuf_limited",
    "snd_wnd",
    "mss",
];

/// The head of the table.
pub(crate) fn head() -> String {
    format!("line,system,turn,seconds,host,from,to,congestion,app_limited,{}\n", FIELDS.join(","))
}

/// A turn that is watched until this is dropped or asked for what was seen.
pub(crate) struct Trace {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<String>>,
}

impl Trace {
    /// Watches all hosts of a system at work. `row` is what each row begins with.
    pub(crate) fn start(running: &Running, row: &str) -> Trace {
        let stop = Arc::new(AtomicBool::new(false));
        let start = Instant::now();
        let hosts = std::iter::once(&running.field.hub).chain(&running.field.ends);
        let mut threads = Vec::new();
        for host in hosts {
            let (stop, row, name) = (Arc::clone(&stop), row.to_owned(), host.name().to_owned());
            threads.push(host.thread(move || watch(&stop, start, &format!("{row},"), &name)));
        }
        threads.extend(watch_queues(&stop, start, row, running));
        Trace { stop, threads }
    }

    /// Rows of what was seen.
    pub(crate) fn finish(mut self) -> String {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).filter_map(|thread| thread.join().ok()).collect()
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn watch(stop: &AtomicBool, start: Instant, row: &str, host: &str) -> String {
    let mut rows = String::new();
    while !stop.load(Ordering::Relaxed) {
        let asked = Instant::now();
        let output = Command::new("ss").args(["-tinOH", "state", "established"]).output();
        let Ok(output) = output else { break };
        let seconds = (asked - start).as_secs_f64();
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            if let Some(told) = read(line) {
                let _ = writeln!(rows, "{row}{seconds:.2},{host},{told}");
            }
        }
        thread::sleep(EVERY.saturating_sub(asked.elapsed()));
    }
    rows
}

/// From, to, and the fields.
fn read(line: &str) -> Option<String> {
    let mut words = line.split_ascii_whitespace().skip(2);
    let (from, to, congestion) = (words.next()?, words.next()?, words.next()?);
    let mut values = [""; FIELDS.len()];
    let (mut before, mut is_app_limited) = ("", false);
    for word in words {
        let (name, value) = word.split_once(':').unwrap_or((before, word));
        is_app_limited |= word == "app_limited";
        if let Some(at) = FIELDS.iter().position(|field| *field == name) {
            values[at] = value;
        }
        before = word;
    }
    Some(format!("{from},{to},{congestion},{},{}", u8::from(is_app_limited), values.join(",")))
}

/// What waits in our own queues, and what they have dropped: of the spoke that is far, and of the hub.
fn watch_queues(
    stop: &Arc<AtomicBool>,
    start: Instant,
    row: &str,
    running: &Running,
) -> Vec<JoinHandle<String>> {
    let Ok(binaries) = Binaries::find() else { return Vec::new() };
    if running.hub.is_none() {
        return Vec::new();
    }
    let ask = |host: &Host, program: &std::path::Path, state: &str| {
        let mut command = Command::new(program);
        command.args(["metrics", "--state"]).arg(host.private().join(state));
        let (stop, row, name) = (Arc::clone(stop), row.to_owned(), host.name().to_owned());
        host.thread(move || {
            let mut rows = String::new();
            while !stop.load(Ordering::Relaxed) {
                let asked = Instant::now();
                let Ok(output) = command.output() else { break };
                let seconds = (asked - start).as_secs_f64();
                for line in String::from_utf8_lossy(&output.stdout).lines() {
                    let is_told = ["queue_bytes", "reason=\"delay\"", "reason=\"queue-full\"", "marked"];
                    if is_told.iter().any(|word| line.contains(word)) && !line.starts_with('#') {
                        let _ = writeln!(rows, "{row},{seconds:.2},{name},queue,{line}");
                    }
                }
                thread::sleep((2 * EVERY).saturating_sub(asked.elapsed()));
            }
            rows
        })
    };
    vec![ask(&running.field.hub, &binaries.hub, "hub"), ask(&running.field.ends[0], &binaries.spoke, "spoke")]
}
