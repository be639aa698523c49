//! What each way to the hub costs: direct, through proxies, in TLS, as WebSocket, in pings.
//!
//! `cargo bench --bench ways`: end 0 takes the way, end 1 reaches the hub directly. Pings between them while nothing
//! else passes, one TCP flow in each direction, and the processor time of the hub meanwhile. Each way has several turns,
//! one after another. `-- --only direct,wss` takes some of the ways, `-- --turns 1` is quicker.
//! Needs root, `ip` (iproute2) and `setpriv` (util-linux), and what it says to be missing.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it is there to be read")]
#![allow(clippy::disallowed_methods, reason = "it is all IO")]
#![allow(dead_code, reason = "what it shares with the benchmark `lan` is more than it needs")]

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

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::thread;
use std::time::{Duration, Instant};

use argh::FromArgs;

use field::Field;
use house::{Authority, Binaries, Failure, Host, Process, Result, Valid, ping_until, wait_for_port};
use programs::{is_chosen, median};
use systems::{Running, START, command, require, start_hub, start_spoke};
use traffic::{Flows, pings};

const PING_EVERY: Duration = Duration::from_millis(10);
const IDLE: Duration = Duration::from_secs(3);
const WARM: Duration = Duration::from_secs(1);
const MEASURED: Duration = Duration::from_secs(4);
/// How long what a flow left in queues may take to drain.
const DRAIN: Duration = Duration::from_secs(1);

/// Measures what each way to the hub costs.
#[derive(FromArgs)]
struct Options {
    /// ways to measure, such as direct,wss (default: all)
    #[argh(option)]
    only: Option<String>,
    /// how often each is measured; the medians are shown (default: 3)
    #[argh(option, default = "3")]
    turns: usize,
    /// directory for ways.csv (default: target/bench)
    #[argh(option)]
    out: Option<PathBuf>,
    /// given by cargo bench
    #[argh(switch, hidden_help)]
    bench: bool,
}

/// A way that end 0 takes to the hub, which listens at 192.0.2.1.
struct Way {
    name: &'static str,
    title: &'static str,
    /// `--hub` of end 0.
    hub: &'static str,
    /// Its other options.
    options: &'static [&'static str],
    /// What stands on the way, started before the spoke: at the hub's machine, or at the end's.
    between: fn(&Field) -> Result<Vec<Process>>,
}

const WAYS: [Way; 8] = [
    Way {
        name: "direct",
        title: "direct",
        hub: "192.0.2.1:5678",
        options: &["--proxy", ""],
        between: |_| Ok(Vec::new()),
    },
    Way {
        name: "http",
        title: "HTTP proxy (tinyproxy)",
        hub: "192.0.2.1:5678",
        options: &["--proxy", "http://192.0.2.1:3128"],
        between: tinyproxy,
    },
    Way {
        name: "socks",
        title: "SOCKS5 proxy (microsocks)",
        hub: "192.0.2.1:5678",
        options: &["--proxy", "socks5h://192.0.2.1:1080"],
        between: microsocks,
    },
    Way { name: "tls", title: "TLS", hub: "tls://192.0.2.1:443", options: &[], between: |_| Ok(Vec::new()) },
    Way {
        name: "wss",
        title: "WebSocket in TLS",
        hub: "wss://192.0.2.1:443",
        options: &[],
        between: |_| Ok(Vec::new()),
    },
    Way {
        name: "nginx",
        title: "WebSocket in TLS, through nginx",
        hub: "wss://192.0.2.1:8443",
        options: &[],
        between: nginx,
    },
    Way { name: "icmp", title: "pings", hub: "icmp://192.0.2.1", options: &[], between: |_| Ok(Vec::new()) },
    Way {
        name: "ptunnel",
        title: "the direct way, in ptunnel's pings",
        hub: "127.0.0.1:8000",
        options: &["--proxy", ""],
        between: ptunnel,
    },
];

fn main() -> ExitCode {
    programs::exit("ways", run(&argh::from_env()))
}

fn run(options: &Options) -> Result<()> {
    programs::build()?;
    require(&["openssl"], "openssl")?;
    let mut csv = "way,turn,idle_ms,up_mbit_per_s,down_mbit_per_s,hub_s_per_gb\n".to_owned();
    let mut rows: Vec<(&Way, Vec<Measured>)> = Vec::new();
    for turn in 1..=options.turns {
        for way in WAYS.iter().filter(|way| is_chosen(options.only.as_deref(), way.name)) {
            match measure(way) {
                Ok(measured) => {
                    let Measured { idle_ms, up, down, hub } = measured;
                    let _ = writeln!(csv, "{},{turn},{idle_ms:.3},{up:.1},{down:.1},{hub:.3}", way.name);
                    match rows.iter_mut().find(|(of, _)| of.name == way.name) {
                        Some((_, all)) => all.push(measured),
                        None => rows.push((way, vec![measured])),
                    }
                }
                Err(failure) => println!("{}: {failure}", way.title),
            }
        }
        println!("turn {turn} of {} measured", options.turns);
    }
    println!("\n| way | idle round trip, ms | up, Mbit/s | down, Mbit/s | hub's processor time, s/GB |");
    println!("| --- | ---: | ---: | ---: | ---: |");
    for (way, all) in &rows {
        let of = |value: fn(&Measured) -> f64| median(all.iter().map(value).collect()).unwrap_or(f64::NAN);
        println!(
            "| {} | {:.2} | {:.0} | {:.0} | {:.2} |",
            way.title,
            of(|one| one.idle_ms),
            of(|one| one.up),
            of(|one| one.down),
            of(|one| one.hub)
        );
    }
    println!();
    programs::keep(options.out.as_deref(), &[("ways.csv", csv)])
}

/// What one turn found.
struct Measured {
    /// The median round trip between the ends.
    idle_ms: f64,
    /// Mbit/s from end 0, and to it.
    up: f64,
    down: f64,
    /// Seconds of the hub's processor time for 1 GB, both directions together.
    hub: f64,
}

fn measure(way: &Way) -> Result<Measured> {
    let field = Field::new(2)?;
    let authority = Authority::new()?;
    authority.issue("hub", "IP:192.0.2.1", Valid::Now)?;
    let [certificate, key, ca] = ["hub.pem", "hub.key", "ca.pem"].map(|file| authority.argument(file));
    let binaries = Binaries::find()?;
    let listen = ["--listen", ":443", "--listen", "5678", "--tls-cert", &certificate, "--tls-key", &key];
    let hub = start_hub(&binaries, &field, &[&listen[..], &["--icmp"]].concat())?;
    for (file, text) in [("tls.pem", &certificate), ("tls.key", &key)] {
        fs::copy(text, field.hub.path(field.hub.private().join(file)))?;
    }
    let between = (way.between)(&field)?;
    let tls: &[&str] = if way.hub.contains("s://") { &["--tls-ca", &ca] } else { &[] };
    let options = [way.options, tls].concat();
    let direct = format!("{}:5678", Field::hub_address(1));
    let ends = vec![
        start_spoke(&binaries, &field, 0, way.hub, &options)?,
        start_spoke(&binaries, &field, 1, &direct, &["--proxy", ""])?,
    ];
    let running = Running { ends, hub: Some(hub), way: systems::Way::Packets(systems::inner_address), field };
    let to = running.address(1).ok_or_else(|| Failure::new("no address"))?;
    ping_until(&running.field.ends[0], to, START)?;
    let idle_ms = pings(&running, to, PING_EVERY, IDLE)?.quantile_ms(0.5);
    let (up, up_time, up_bytes) = one_flow(&running, 0, 1)?;
    let (down, down_time, down_bytes) = one_flow(&running, 1, 0)?;
    drop(between);
    Ok(Measured { idle_ms, up, down, hub: (up_time + down_time) / ((up_bytes + down_bytes) as f64 / 1e9) })
}

/// Mbit/s of one flow, the hub's processor time, and the bytes.
fn one_flow(running: &Running, from: usize, to: usize) -> Result<(f64, f64, u64)> {
    let hub = running.hub.as_ref().ok_or_else(|| Failure::new("no hub"))?;
    let flow = Flows::start(running, from, to, 1)?;
    thread::sleep(WARM);
    let (before, cpu, start) = (flow.received(), hub.cpu_seconds(), Instant::now());
    thread::sleep(MEASURED);
    let (bytes, cpu) = (flow.received() - before, hub.cpu_seconds() - cpu);
    let megabits = bytes as f64 * 8.0 / start.elapsed().as_secs_f64() / 1e6;
    drop(flow);
    thread::sleep(DRAIN);
    Ok((megabits, cpu, bytes))
}

fn tinyproxy(field: &Field) -> Result<Vec<Process>> {
    require(&["tinyproxy"], "tinyproxy-bin")?;
    let file = field.hub.private().join("tinyproxy.conf");
    fs::write(field.hub.path(&file), "Port 3128\nTimeout 600\nLogLevel Error\nMaxClients 10\n")?;
    serve(&field.hub, command("tinyproxy").arg("-d").arg("-c").arg(&file), 3128)
}

fn microsocks(field: &Field) -> Result<Vec<Process>> {
    require(&["microsocks"], "microsocks")?;
    serve(&field.hub, &command("microsocks"), 1080)
}

fn nginx(field: &Field) -> Result<Vec<Process>> {
    require(&["nginx"], "nginx-light")?;
    let private = field.hub.private().display();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("{kind}_temp_path {private}/{kind};\n"))
        .collect();
    let file = field.hub.private().join("nginx.conf");
    let text = format!(
        "user root;\ndaemon off;\nmaster_process off;\npid {private}/nginx.pid;\nerror_log stderr error;\n\
         events {{}}\nhttp {{\naccess_log off;\n{temporary}server {{\nlisten 8443 ssl;\n\
         ssl_certificate {private}/tls.pem;\nssl_certificate_key {private}/tls.key;\n\
         location / {{\nproxy_pass http://127.0.0.1:5678;\nproxy_http_version 1.1;\n\
         proxy_set_header Upgrade $http_upgrade;\nproxy_set_header Connection upgrade;\nproxy_buffering off;\n}}\n}}\n}}\n"
    );
    fs::write(field.hub.path(&file), text)?;
    serve(&field.hub, command("nginx").arg("-c").arg(&file), 8443)
}

/// ptunnel carries one TCP connection in pings: ours, to a port of the end itself.
fn ptunnel(field: &Field) -> Result<Vec<Process>> {
    require(&["ptunnel"], "ptunnel")?;
    let proxy = field.hub.spawn("ptunnel", &command("ptunnel"))?;
    let mut client = command("ptunnel");
    client.args(["-p", "192.0.2.1", "-lp", "8000", "-da", "192.0.2.1", "-dp", "5678"]);
    let client = field.ends[0].spawn("ptunnel", &client)?;
    // It takes no connection ahead of the spoke's: each is a tunnel of its own.
    thread::sleep(Duration::from_secs(1));
    Ok(vec![proxy, client])
}

fn serve(host: &Host, command: &Command, port: u16) -> Result<Vec<Process>> {
    let process = host.spawn("between", command)?;
    wait_for_port(host, ([127, 0, 0, 1], port), START)?;
    Ok(vec![process])
}
