//! What it costs that two members are at different hubs, against the same two at one hub.
//!
//! `cargo bench --bench hubs`: one TCP flow each way, the processor time of each hub meanwhile, and pings while nothing
//! else passes; one hub and two in turns, of which the medians are shown. `-- --turns 1` is quicker. Needs root and `ip`
//! (iproute2).

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it is there to be read")]
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "it is all IO")]
#![allow(dead_code, reason = "what it shares with others is more than it needs")]

#[path = "../lan/field.rs"]
mod field;
#[path = "../../../tests/house/mod.rs"]
mod house;
#[path = "../lan/peers.rs"]
mod peers;
#[path = "../lan/programs.rs"]
mod programs;
#[path = "../lan/systems.rs"]
mod systems;
#[path = "../lan/traffic.rs"]
mod traffic;
#[path = "../../../tests/hubs/world.rs"]
mod world;

use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use argh::FromArgs;

use house::{Lan, Result, ping};
use programs::median;
use traffic::Flows;
use world::{DESK, HUB_A, HUB_B, LAPTOP, SOON, World};

const PINGS: usize = 200;
const WARM: Duration = Duration::from_secs(1);
const MEASURED: Duration = Duration::from_secs(4);

/// Measures what it costs to be at different hubs.
#[derive(FromArgs)]
struct Options {
    /// how often each is measured (default: 5)
    #[argh(option, default = "5")]
    turns: usize,
    /// given by cargo bench
    #[argh(switch, hidden_help)]
    #[allow(dead_code, reason = "cargo gives it, and it means nothing here")]
    bench: bool,
}

/// What one turn found: Mbit/s, the processor time of each hub that the flows need, in s/GB, and a ping in ms.
struct Measured {
    megabits: f64,
    hubs: f64,
    ping_ms: f64,
}

fn main() -> ExitCode {
    let Options { turns, .. } = argh::from_env();
    match run(turns) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}

/// Whether the goals are reached.
fn run(turns: usize) -> Result<bool> {
    let (mut one, mut two) = (Vec::new(), Vec::new());
    for turn in 0..turns {
        one.push(measure([HUB_A, HUB_A])?);
        two.push(measure([HUB_A, HUB_B])?);
        eprintln!("turn {}: {:.0} and {:.0} Mbit/s", turn + 1, one[turn].megabits, two[turn].megabits);
    }
    let of = |all: &[Measured], value: fn(&Measured) -> f64| middle(all.iter().map(value).collect());
    println!("                      Mbit/s   s/GB at each hub   ping, ms");
    for (what, all) in [("both at one hub", &one), ("at two hubs", &two)] {
        let (megabits, hubs, ping) =
            (of(all, |one| one.megabits), of(all, |one| one.hubs), of(all, |one| one.ping_ms));
        println!("{what:<20} {megabits:>8.0} {hubs:>18.3} {ping:>10.3}");
    }
    let throughput = of(&two, |two| two.megabits) / of(&one, |one| one.megabits);
    let hubs = of(&two, |two| two.hubs);
    println!(
        "throughput: {throughput:.2} of one hub's (goal: 0.75), {hubs:.2} s/GB at each hub (goal: 0.6 more)"
    );
    Ok(throughput >= 0.75 && hubs <= of(&one, |one| one.hubs) + 0.6)
}

fn measure(at: [usize; 2]) -> Result<Measured> {
    let world = World::linked_with(at);
    let (laptop, desk) = (world.net.spoke(LAPTOP), world.net.spoke(DESK));
    let mut pings = Vec::new();
    for _ in 0..PINGS {
        pings.push(ping(laptop, Lan::address(1).into(), 56, SOON)?.as_secs_f64() * 1e3);
    }
    let hubs = || -> f64 {
        let used = at.map(|hub| world.hubs[hub].as_ref().unwrap().cpu_seconds());
        used.iter().sum::<f64>() / 2.0
    };
    let (mut bytes, mut cpu, mut seconds) = (0, 0.0, 0.0);
    for [from, to, address] in [[0, 1, 1], [1, 0, 0]] {
        let ends = [laptop, desk];
        let flow = Flows::between(ends[from], ends[to], Lan::address(address).into())?;
        thread::sleep(WARM);
        let (before, used, start) = (flow.received(), hubs(), Instant::now());
        thread::sleep(MEASURED);
        bytes += flow.received() - before;
        cpu += hubs() - used;
        seconds += start.elapsed().as_secs_f64();
        drop(flow);
        thread::sleep(WARM);
    }
    let (megabits, hubs) = (bytes as f64 * 8.0 / seconds / 1e6, cpu / (bytes as f64 / 1e9));
    Ok(Measured { megabits, hubs, ping_ms: middle(pings) })
}

fn middle(values: Vec<f64>) -> f64 {
    median(values).unwrap_or(f64::NAN)
}
