//! What a spoke costs the hub, as their number grows.
//!
//! `cargo bench --bench scale` runs the real hub in a network namespace and lets 10, 100, 1,000 and 10,000
//! simulated spokes join over loopback; they have no devices, the hub has one. Prints a table and writes
//! `target/bench/scale.csv`. `-- --quick` stops at 1,000. Needs root, and `ip` (iproute2) and `setpriv`
//! (util-linux).

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it is there to be read")]
#![allow(clippy::disallowed_methods, reason = "it is all IO")]

mod crowd;
#[path = "../../../tests/house/mod.rs"]
mod house;
#[path = "../lan/programs.rs"]
mod programs;

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use argh::FromArgs;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crowd::Crowd;
use house::{Context, HUB_LISTENS, Host, Process, Result, require_tun};

const COUNTS: [usize; 4] = [10, 100, 1_000, 10_000];
const PORT: u16 = 5678;
const START: Duration = Duration::from_secs(10);
/// Packets of one burst: what a busy spoke has ready when its socket is read.
const BURST: u64 = 64;
/// Longer than the time between two pings of a tunnel.
const IDLE: Duration = Duration::from_secs(8);
/// Until what the spokes do is even.
const SETTLED: Duration = Duration::from_secs(4);
const TALK: Duration = Duration::from_secs(4);
/// Descriptors of a process beside its spokes' sockets.
const OTHER_DESCRIPTORS: u64 = 64;

/// Measures what spokes cost the hub.
#[derive(FromArgs)]
struct Options {
    /// stop at 1,000 spokes
    #[argh(switch)]
    quick: bool,
    /// this number of spokes alone
    #[argh(option)]
    spokes: Option<usize>,
    /// directory for scale.csv (default: target/bench)
    #[argh(option)]
    out: Option<PathBuf>,
    /// given by cargo bench
    #[argh(switch, hidden_help)]
    #[expect(dead_code, reason = "cargo passes it to each benchmark")]
    bench: bool,
}

/// What one number of spokes came to.
struct Row {
    spokes: usize,
    joins_per_second: f64,
    /// Of the hub's resident memory, for each spoke.
    idle_bytes: f64,
    /// Of one core, while nobody says anything but pings.
    idle_cpu: f64,
    /// The same while each watches it as one that has another hub to go to.
    watched_cpu: f64,
    /// The same while each pings as if it sent packets all the time.
    pinged_cpu: f64,
    /// CPU of the hub for one packet from a spoke to another, without what idle spokes cost meanwhile.
    packet_seconds: f64,
}

fn main() -> ExitCode {
    programs::exit("scale", run(&argh::from_env()))
}

fn run(options: &Options) -> Result<()> {
    require_tun()?;
    let descriptors = raise_limit()?;
    println!(
        "{:>8}{:>10}{:>18}{:>14}{:>18}{:>18}{:>18}{:>12}",
        "spokes",
        "joins/s",
        "idle spoke KiB",
        "idle CPU %",
        "two hubs, CPU %",
        "sending, CPU %",
        "µs per packet",
        "of first"
    );
    let mut csv = String::from(
        "spokes,joins_per_second,idle_spoke_bytes,idle_cpu_percent,watched_cpu_percent,pinged_cpu_percent,\
         packet_microseconds\n",
    );
    let mut first = None;
    let counts = options.spokes.map_or(COUNTS.to_vec(), |count| vec![count]);
    for count in counts.into_iter().filter(|count| !options.quick || *count <= 1_000) {
        if count as u64 + OTHER_DESCRIPTORS > descriptors {
            println!("{count:>8}  needs more descriptors than the {descriptors} allowed: raise `ulimit -Hn`");
            continue;
        }
        let row = measure(count)?;
        let Row { spokes, joins_per_second: joins, idle_bytes, packet_seconds, .. } = row;
        let [percent, watched, pinged] =
            [row.idle_cpu, row.watched_cpu, row.pinged_cpu].map(|cpu| cpu * 100.0);
        let (kib, micros) = (idle_bytes / 1024.0, packet_seconds * 1e6);
        let relative = micros / *first.get_or_insert(micros);
        println!(
            "{spokes:>8}{joins:>10.0}{kib:>18.2}{percent:>14.2}{watched:>18.2}{pinged:>18.2}{micros:>18.3}{relative:>12.2}"
        );
        let _ = writeln!(
            csv,
            "{spokes},{joins:.1},{idle_bytes:.0},{percent:.3},{watched:.3},{pinged:.3},{micros:.4}"
        );
    }
    programs::keep(options.out.as_deref(), &[("scale.csv", csv)])
}

/// A new hub and its crowd.
fn measure(count: usize) -> Result<Row> {
    let host = Host::new("hub")?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_hub"));
    // A log line for each join is not what is measured.
    command.env("RUST_LOG", "warn,hub::server=info");
    command.args(["--subnet", "10.0.0.0/16", "--state"]).arg(host.private().join("hub"));
    let hub = host.spawn("hub", &command)?;
    hub.wait_for_line(HUB_LISTENS, START)?;
    // The crowd's thread is one of the host: its sockets are born there.
    host.thread(move || measure_within(&hub, count)).join().expect("the crowd does not panic")
}

fn measure_within(hub: &Process, count: usize) -> Result<Row> {
    let mut crowd = Crowd::new(SocketAddr::from((Ipv4Addr::LOCALHOST, PORT)))?;
    let resident = hub.resident_bytes()?;
    let start = Instant::now();
    crowd.grow(count)?;
    let joins_per_second = count as f64 / start.elapsed().as_secs_f64();

    let idle = |crowd: &mut Crowd| -> Result<f64> {
        crowd.idle(SETTLED)?;
        let (start, cpu) = (Instant::now(), hub.cpu_seconds());
        crowd.idle(IDLE)?;
        Ok((hub.cpu_seconds() - cpu) / start.elapsed().as_secs_f64())
    };
    let idle_cpu = idle(&mut crowd)?;
    crowd.watch(true)?;
    let watched_cpu = idle(&mut crowd)?;
    crowd.watch(false)?;
    let pinged_cpu = idle(&mut crowd)?;
    let idle_bytes = hub.resident_bytes()?.saturating_sub(resident) as f64 / count as f64;

    crowd.talk(BURST, TALK / 8)?;
    let (start, cpu) = (Instant::now(), hub.cpu_seconds());
    let packets = crowd.talk(BURST, TALK)?;
    let used = hub.cpu_seconds() - cpu - idle_cpu * start.elapsed().as_secs_f64();
    let packet_seconds = used / packets as f64;
    let spokes = count;
    Ok(Row { spokes, joins_per_second, idle_bytes, idle_cpu, watched_cpu, pinged_cpu, packet_seconds })
}

/// Lets this process and the hub that it starts have as many descriptors as the system allows them.
fn raise_limit() -> Result<u64> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("read the limit of descriptors")?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("raise the limit of descriptors")?;
    Ok(hard)
}
