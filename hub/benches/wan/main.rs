//! A LAN over long, narrow and lossy lines, beside bare TCP and the peers.
//!
//! `cargo bench --bench wan`: end 0 is far from the hub, behind an emulated line; end 1 is near it. One TCP flow between
//! them, each way, with cubic, and pings beside it. `-- --only hub,bare` takes some of the systems, `-- --lines 1,3` some
//! of the lines, `-- --turns 1` is quicker. Needs root, `ip` (iproute2), `ethtool` and `setpriv` (util-linux).

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it is there to be read")]
#![allow(clippy::disallowed_methods, reason = "it is all IO")]
#![allow(dead_code, reason = "what it shares with the benchmark `lan` is more than it needs")]

mod chart;
mod course;
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
mod trace;
#[path = "../lan/traffic.rs"]
mod traffic;

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use std::{fs, thread};

use argh::FromArgs;

use chart::Bars;
use field::Field;
use house::line::{self, Emulator, Line};
use house::{Binaries, Context, Failure, Host, Result};
use programs::{is_chosen, median};
use systems::{Running, SYSTEMS, System, start_ours};
use trace::Trace;
use traffic::{Flows, PING_PATIENCE, RoundTrips, pings};

/// Between pings: they are no load on the narrowest line.
const PING_EVERY: Duration = Duration::from_millis(20);
/// What is measured at most before a flow has found its rate, where its start is not to count.
const WARM: Duration = Duration::from_secs(3);
const MEASURED: Duration = Duration::from_secs(8);
const IDLE: Duration = Duration::from_secs(2);

/// Measures a LAN over long lines.
#[derive(FromArgs)]
struct Options {
    /// systems to measure, such as hub,bare (default: all)
    #[argh(option)]
    only: Option<String>,
    /// lines to measure, by number (default: all)
    #[argh(option)]
    lines: Option<String>,
    /// how often each is measured; the medians are shown (default: 3)
    #[argh(option, default = "3")]
    turns: usize,
    /// NAME=DIRECTORY of a hub and a spoke that were built otherwise, measured too; more of them separated by commas
    #[argh(option)]
    builds: Option<String>,
    /// also note what the kernel says about each connection, ten times a second: trace.csv and trace.svg
    #[argh(switch)]
    trace: bool,
    /// directory for wan.csv and wan.svg (default: target/bench)
    #[argh(option)]
    out: Option<PathBuf>,
    /// given by cargo bench
    #[argh(switch, hidden_help)]
    bench: bool,
}

/// A line, and what is to be reached there.
struct Course {
    title: &'static str,
    line: Line,
    /// Whether the first seconds count too.
    from_start: bool,
    goal: Goal,
}

/// What is to be reached.
enum Goal {
    Alone {
        /// Throughput, as a multiple of that of bare TCP with this congestion control.
        share: (f64, &'static str),
        /// The mean round trip under bulk, as a multiple of the idle one.
        wait: f64,
    },
    /// A bare flow with cubic, between the far end and the hub, keeps this share of the line.
    Beside(f64),
}

const fn long_line(ms: u64, megabits: f64, percent_lost: f64) -> Line {
    Line { round_trip: Duration::from_millis(ms), megabits, percent_lost }
}

const COURSES: [Course; 6] = [
    Course {
        title: "40 ms, 100 Mbit/s",
        line: long_line(40, 100.0, 0.0),
        from_start: false,
        goal: Goal::Alone { share: (0.93, "bare cubic"), wait: 1.25 },
    },
    Course {
        title: "100 ms, 50 Mbit/s, from the start",
        line: long_line(100, 50.0, 0.0),
        from_start: true,
        goal: Goal::Alone { share: (0.93, "bare cubic"), wait: 1.25 },
    },
    Course {
        title: "40 ms, 100 Mbit/s, 1 % lost",
        line: long_line(40, 100.0, 1.0),
        from_start: false,
        goal: Goal::Alone { share: (0.85, "bare bbr"), wait: 1.5 },
    },
    Course {
        title: "100 ms, 50 Mbit/s, 0.1 % lost",
        line: long_line(100, 50.0, 0.1),
        from_start: false,
        goal: Goal::Alone { share: (0.85, "bare bbr"), wait: 1.25 },
    },
    Course {
        title: "200 ms, 20 Mbit/s, 3 % lost",
        line: long_line(200, 20.0, 3.0),
        from_start: false,
        goal: Goal::Alone { share: (0.7, "bare bbr"), wait: 1.75 },
    },
    Course {
        title: "40 ms, 100 Mbit/s, beside a bare cubic flow",
        line: long_line(40, 100.0, 0.0),
        from_start: false,
        goal: Goal::Beside(0.35),
    },
];

/// What is compared.
struct Contender {
    name: String,
    start: Box<dyn Fn(Field) -> Result<Running>>,
}

/// All of them, with those of `--builds`.
fn contenders(builds: Option<&str>) -> Result<Vec<Contender>> {
    let mut contenders = vec![
        contender("bare cubic", |field| known("kernel", field)),
        contender("bare bbr", |field| {
            field.ends.iter().try_for_each(|end| choose_congestion(end, "bbr"))?;
            known("kernel", field)
        }),
        contender("hub", |field| start_ours(&Binaries::find()?, field, &[], &[])),
        // A ping waits behind each segment that the large flow loses.
        contender("hub one lane", |field| start_ours(&Binaries::find()?, field, &[], &["--lanes", "1"])),
        contender("hub cubic", |field| {
            start_ours(&Binaries::find()?, field, &["--congestion", "cubic"], &[])
        }),
        contender("hub bbr", |field| start_ours(&Binaries::find()?, field, &["--congestion", "bbr"], &[])),
    ];
    for build in builds.iter().flat_map(|builds| builds.split(',')) {
        let (name, directory) =
            build.split_once('=').ok_or_else(|| Failure::new(format!("{build} is not NAME=DIRECTORY")))?;
        let directory = PathBuf::from(directory);
        contenders.push(contender(name, move |field| {
            let binaries = Binaries { hub: directory.join("hub"), spoke: directory.join("spoke") };
            start_ours(&binaries, field, &[], &[])
        }));
    }
    contenders.push(contender("softether", |field| {
        system("softether")?.require()?;
        // A segment that is lost holds up one connection of eight.
        peers::softether_by(field, 8)
    }));
    contenders.push(contender("openvpn udp", |field| {
        system("openvpn")?.require()?;
        peers::openvpn_by(field, ["udp"; 2])
    }));
    for name in ["openvpn", "tinc", "wireguard-go"] {
        contenders.push(contender(name, move |field| known(name, field)));
    }
    Ok(contenders)
}

fn contender(name: &str, start: impl Fn(Field) -> Result<Running> + 'static) -> Contender {
    Contender { name: name.to_owned(), start: Box::new(start) }
}

/// One of the systems of the benchmark `lan`.
fn known(name: &str, field: Field) -> Result<Running> {
    system(name)?.start_on(field)
}

fn system(name: &str) -> Result<&'static System> {
    let system = SYSTEMS.iter().find(|system| system.name == name);
    system.ok_or_else(|| Failure::new(format!("no system is called {name}")))
}

fn choose_congestion(host: &Host, name: &'static str) -> Result<()> {
    let set = host.run(move || fs::write("/proc/sys/net/ipv4/tcp_congestion_control", name));
    set.context(&format!("choose {name}: allow it in net.ipv4.tcp_allowed_congestion_control"))
}

fn main() -> ExitCode {
    programs::exit("wan", run(&argh::from_env()))
}

fn run(options: &Options) -> Result<()> {
    programs::build()?;
    let mut csv = "line,system,turn,direction,mbit_per_s,beside_mbit_per_s,ping_mean_ms,ping_99_ms,idle_ms\n"
        .to_owned();
    let mut traced = trace::head();
    let (contenders, mut charted) = (contenders(options.builds.as_deref())?, Vec::new());
    for (number, course) in COURSES.iter().enumerate() {
        if !is_chosen(options.lines.as_deref(), &(number + 1).to_string()) {
            continue;
        }
        println!("\n{}. {}", number + 1, course.title);
        let mut rows = Vec::new();
        for contender in
            contenders.iter().filter(|contender| is_chosen(options.only.as_deref(), &contender.name))
        {
            let mut measured = Vec::new();
            for turn in 1..=options.turns {
                let row = options.trace.then(|| format!("{},{},{turn}", number + 1, contender.name));
                match measure(contender, course, row.as_deref(), &mut traced) {
                    Ok(result) => {
                        result.note(&mut csv, course.title, &contender.name, turn);
                        measured.push(result);
                    }
                    Err(failure) => {
                        println!("  {}: {failure}", contender.name);
                        break;
                    }
                }
            }
            if let Some(row) = Row::of(&contender.name, &measured) {
                println!("{row}");
                rows.push(row);
            }
        }
        tell_goals(course, &rows);
        charted.push((format!("{}. {}", number + 1, course.title), rows.iter().map(Row::bars).collect()));
    }
    println!();
    let mut files = vec![("wan.csv", csv), ("wan.svg", chart::svg(&charted))];
    if options.trace {
        files.push(("trace.svg", course::svg(&traced)));
        files.push(("trace.csv", traced));
    }
    programs::keep(options.out.as_deref(), &files)
}

/// What one turn found: from the far end, and to it.
struct Measured {
    idle_ms: f64,
    ways: [Way; 2],
}

#[derive(Clone, Copy)]
struct Way {
    megabits: f64,
    /// Of the bare flow, where there is one.
    beside: f64,
    mean_ms: f64,
    p99_ms: f64,
}

/// One turn. With a `row`, what the kernel says meanwhile is added to `traced`, in rows that begin so.
fn measure(
    contender: &Contender,
    course: &Course,
    row: Option<&str>,
    traced: &mut String,
) -> Result<Measured> {
    let path = Host::new("path")?;
    let mut emulator: Option<Emulator> = None;
    let field = Field::with_cables(2, |hub, end, i| {
        if i == 0 {
            emulator = Some(line::connect(&path, (end, "eth0"), (hub, "e0"), course.line)?);
            return Ok(());
        }
        field::lay_cable(hub, end, i)
    })?;
    let running = (contender.start)(field)?;
    let to = running.address(1).ok_or_else(|| Failure::new("no address"))?;
    let idle_ms = pings(&running, to, PING_EVERY, IDLE)?.quantile_ms(0.5);
    let trace = row.map(|row| Trace::start(&running, row));
    let up = one_way(&running, to, course, (0, 1))?;
    // What is still queued drains.
    thread::sleep(Duration::from_secs(2));
    let down = one_way(&running, to, course, (1, 0))?;
    if let Some(trace) = trace {
        traced.push_str(&trace.finish());
    }
    drop(running);
    drop(emulator);
    Ok(Measured { idle_ms, ways: [up, down] })
}

fn one_way(running: &Running, ping: IpAddr, course: &Course, (from, to): (usize, usize)) -> Result<Way> {
    let mut flows = vec![Flows::start(running, from, to, 1)?];
    if let Goal::Beside(_) = course.goal {
        let (far, hub) = (running.end(0), &running.field.hub);
        flows.push(match from {
            0 => Flows::between(far, hub, Field::hub_address(0).into())?,
            _ => Flows::between(hub, far, Field::end_address(0).into())?,
        });
    }
    if !course.from_start {
        thread::sleep(WARM);
    }
    let (before, start): (Vec<u64>, _) = (flows.iter().map(Flows::received).collect(), Instant::now());
    let trips = pings(running, ping, PING_EVERY, MEASURED)?;
    let received = flows.iter().zip(before).map(|(flow, before)| flow.received() - before);
    let mut megabits = received.map(|bytes| bytes as f64 * 8.0 / start.elapsed().as_secs_f64() / 1e6);
    let (megabits, beside) = (megabits.next().unwrap_or_default(), megabits.next().unwrap_or_default());
    Ok(Way { megabits, beside, mean_ms: mean_ms(&trips), p99_ms: trips.quantile_ms(0.99) })
}

/// The mean of those that came back: what the line itself loses is not late.
fn mean_ms(trips: &RoundTrips) -> f64 {
    let answered: Vec<_> = trips.0.iter().filter(|trip| **trip < PING_PATIENCE).collect();
    answered.iter().map(|trip| trip.as_secs_f64() * 1e3).sum::<f64>() / answered.len() as f64
}

impl Measured {
    fn note(&self, csv: &mut String, line: &str, system: &str, turn: usize) {
        for (direction, way) in ["up", "down"].iter().zip(self.ways) {
            let Way { megabits, beside, mean_ms, p99_ms } = way;
            let _ = writeln!(
                csv,
                "\"{line}\",\"{system}\",{turn},{direction},{megabits:.2},{beside:.2},{mean_ms:.2},{p99_ms:.2},{:.2}",
                self.idle_ms
            );
        }
    }
}

/// The medians of a contender.
struct Row {
    name: String,
    idle_ms: f64,
    ways: [Way; 2],
}

impl Row {
    fn of(name: &str, measured: &[Measured]) -> Option<Row> {
        let idle_ms = median(measured.iter().map(|one| one.idle_ms).collect())?;
        let way = |i: usize| {
            let of =
                |value: fn(&Way) -> f64| median(measured.iter().map(|one| value(&one.ways[i])).collect());
            Some(Way {
                megabits: of(|way| way.megabits)?,
                beside: of(|way| way.beside)?,
                mean_ms: of(|way| way.mean_ms)?,
                p99_ms: of(|way| way.p99_ms)?,
            })
        };
        Some(Row { name: name.to_owned(), idle_ms, ways: [way(0)?, way(1)?] })
    }
}

impl Row {
    fn bars(&self) -> Bars {
        Bars {
            is_ours: self.name == "hub",
            name: self.name.clone(),
            megabits: self.ways.map(|way| way.megabits),
            wait: self.ways.map(|way| way.mean_ms / self.idle_ms),
        }
    }
}

impl std::fmt::Display for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [up, down] = self.ways;
        if up.beside > 0.0 {
            let (up, down) = ((up.megabits, up.beside), (down.megabits, down.beside));
            return write!(
                f,
                "  {:14} up {:6.1} and {:6.1} Mbit/s beside it   down {:6.1} and {:6.1} Mbit/s beside it",
                self.name, up.0, up.1, down.0, down.1
            );
        }
        write!(
            f,
            "  {:14} up {:6.1} Mbit/s, ping {:6.1} ms ({:6.1})   down {:6.1} Mbit/s, ping {:6.1} ms ({:6.1})   idle {:5.1} ms",
            self.name,
            up.megabits,
            up.mean_ms,
            up.p99_ms,
            down.megabits,
            down.mean_ms,
            down.p99_ms,
            self.idle_ms
        )
    }
}

fn tell_goals(course: &Course, rows: &[Row]) {
    let named = |name: &str| rows.iter().find(|row| row.name == name);
    let Some(ours) = named("hub") else { return };
    let word = |is_reached| if is_reached { "reached" } else { "MISSED " };
    for (i, direction) in ["up", "down"].into_iter().enumerate() {
        match course.goal {
            Goal::Alone { share: (least, bare), wait: most } => {
                let Some(bare) = named(bare) else { return };
                let share = ours.ways[i].megabits / bare.ways[i].megabits;
                let wait = ours.ways[i].mean_ms / ours.idle_ms;
                println!(
                    "  {} {share:.2} ≥ {least} × {}, {direction};   {} {wait:.2} ≤ {most} × idle, ping under bulk",
                    word(share >= least),
                    bare.name,
                    word(wait <= most),
                );
            }
            Goal::Beside(least) => {
                let share = ours.ways[i].beside / course.line.megabits;
                println!("  {} {share:.2} ≥ {least} of the line left, {direction}", word(share >= least));
            }
        }
    }
}
