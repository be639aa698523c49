//! A LAN through one hub, measured beside its ceilings and its peers.
//!
//! `cargo bench --bench lan` builds three hosts in network namespaces of this machine for each system, has one
//! system after another at work there, several times round, and prints what each reached; `target/bench/lan.csv`
//! and `lan.svg` keep it.
//! `-- --quick` ends within two minutes, `-- --only hub,kernel` takes some of the systems.
//! Needs root, and `ip`, `tc` (iproute2) and `setpriv` (util-linux).

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it is there to be read")]
#![allow(clippy::disallowed_methods, reason = "it is all IO")]

mod chart;
mod field;
mod figures;
#[path = "../../../tests/house/mod.rs"]
mod house;
mod peers;
mod programs;
mod report;
mod systems;
mod traffic;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::thread;
use std::time::{Duration, Instant};

use argh::FromArgs;

use figures::{Column, Times};
use house::{Context, Failure, Result};
use report::Setting;
use systems::SYSTEMS;

/// More than this share of the processors' time in use by others is worth a word.
const QUIET: f64 = 0.05;

/// Measures the LAN beside its ceilings and peers.
#[derive(FromArgs)]
struct Options {
    /// short measurements: all of it in less than two minutes
    #[argh(switch)]
    quick: bool,
    /// systems to measure, such as hub,kernel (default: all)
    #[argh(option)]
    only: Option<String>,
    /// directory for lan.csv and lan.svg (default: target/bench)
    #[argh(option)]
    out: Option<PathBuf>,
    /// given by cargo bench
    #[argh(switch, hidden_help)]
    #[expect(dead_code, reason = "cargo passes it to each benchmark")]
    bench: bool,
}

fn main() -> ExitCode {
    programs::exit("lan", run(&argh::from_env()))
}

fn run(options: &Options) -> Result<()> {
    let chosen = choose(options.only.as_deref())?;
    programs::build()?;
    let setting = Setting { machine: machine()?, date: date()? };
    println!("{}, {}\n", setting.machine, setting.date);
    let busy = busy_share(Duration::from_secs(1))?;
    if busy > QUIET {
        println!(
            "Other programs use {:.0} % of this machine: the figures are not what it can do.\n",
            busy * 100.0
        );
    }
    let times = if options.quick { Times::QUICK } else { Times::FULL };
    let start = Instant::now();
    let (mut started, mut columns, mut remarks) = (Vec::new(), Vec::new(), Vec::new());
    for system in SYSTEMS.iter().filter(|system| chosen.contains(&system.name)) {
        match system.start(2) {
            Ok(running) => started.push((Column::new(system), running)),
            Err(failure) => {
                println!("{} left out", system.title);
                remarks.push(format!("{}: {failure}", system.title));
            }
        }
    }
    // All are there, and one at a time is at work. What the machine can do changes from minute to minute by more
    // than some systems differ: each has several turns.
    for turn in 1..=times.turns {
        for (column, running) in &mut started {
            column.take_turn(running, &times);
        }
        for _ in 0..times.idle_rounds {
            for (column, running) in &mut started {
                column.take_idle_turn(running, &times);
            }
        }
        println!("turn {turn} of {} measured after {:.0} s", times.turns, start.elapsed().as_secs_f64());
    }
    for (mut column, running) in started {
        column.finish(running, &times);
        remarks.extend(column.failures.iter().map(|failure| format!("{}: {failure}", column.system.title)));
        columns.push(column);
    }
    println!("all measured after {:.0} s", start.elapsed().as_secs_f64());
    println!("\n{}\n{}\n{}", report::table(&columns), report::ratios(&columns), report::goals(&columns));
    for remark in &remarks {
        println!("{remark}");
    }
    programs::keep(
        options.out.as_deref(),
        &[("lan.csv", report::csv(&columns, &setting)), ("lan.svg", chart::svg(&columns, &setting))],
    )
}

fn choose(only: Option<&str>) -> Result<Vec<&'static str>> {
    let all: Vec<_> = SYSTEMS.iter().map(|system| system.name).collect();
    let Some(only) = only else { return Ok(all) };
    let chosen = only.split(',').map(|name| {
        let known = all.iter().find(|known| **known == name).copied();
        known.ok_or_else(|| Failure::new(format!("--only takes some of {}, not {name:?}", all.join(","))))
    });
    chosen.collect()
}

/// Processor, cores and kernel.
fn machine() -> Result<String> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").context("/proc/cpuinfo")?;
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("unknown processor", |(_, model)| model);
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").context("osrelease")?;
    let version: String = release.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
    let cores = std::thread::available_parallelism().context("count cores")?;
    Ok(format!("{model}, {cores} cores, Linux {version}"))
}

/// How much of the processors' time was not idle.
fn busy_share(time: Duration) -> Result<f64> {
    let (busy_before, before) = processor_time()?;
    thread::sleep(time);
    let (busy_after, after) = processor_time()?;
    Ok((busy_after - busy_before) as f64 / (after - before).max(1) as f64)
}

/// Clock ticks so far of all processors: those not idle, and all.
fn processor_time() -> Result<(u64, u64)> {
    let stat = fs::read_to_string("/proc/stat").context("/proc/stat")?;
    // proc_stat(5): user, nice, system, idle, iowait, irq, softirq, steal; the guests' time is within user's.
    let fields = stat.lines().next().unwrap_or_default().split_ascii_whitespace().skip(1).take(8);
    let ticks: Vec<u64> = fields.filter_map(|field| field.parse().ok()).collect();
    let (all, idle) = (ticks.iter().sum::<u64>(), ticks.iter().skip(3).take(2).sum::<u64>());
    Ok((all - idle, all))
}

/// Today, in UTC.
fn date() -> Result<String> {
    let output = Command::new("date").args(["-u", "+%F"]).output().context("run date")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
