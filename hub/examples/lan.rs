//! A LAN to look at, on this machine alone: a hub and three spokes, each on a host of its own.
//!
//! `cargo run --release --example lan` builds the programs, starts them, pings each pair and says how to go
//! on by hand. Needs root, or a system that lets users make namespaces. Leaves nothing behind.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it is there to be read")]
#![allow(clippy::disallowed_methods, reason = "it is all IO")]

#[path = "../../tests/house/mod.rs"]
mod house;

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use argh::FromArgs;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Uid, getegid, geteuid};

use house::{Context, Failure, Host, Lan, Net, Result, ping, require_tun};

/// The spokes' host names.
const SPOKES: [&str; 3] = ["laptop", "desktop", "pi"];

/// Pings between each pair; the table has the median time.
const PINGS: usize = 5;

const PATIENCE: Duration = Duration::from_secs(2);

/// A LAN on this machine: a hub and three spokes, each in a network namespace of its own.
#[derive(FromArgs)]
struct Options {
    /// open a shell on spoke N (1, 2 or 3) while the LAN runs; the LAN ends with the shell
    #[argh(option, arg_name = "N", from_str_fn(spoke_number))]
    shell: Option<usize>,
}

fn main() -> ExitCode {
    let options: Options = argh::from_env();
    let run = || {
        build()?;
        become_root()?;
        require_tun()?;
        show(&options)
    };
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => {
            eprintln!("lan: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn spoke_number(text: &str) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|n| (1..=SPOKES.len()).contains(n))
        .ok_or_else(|| "a spoke is 1, 2 or 3".to_owned())
}

/// Builds both programs by the Cargo that runs this, in its profile. Started by hand, what has been built is
/// taken.
fn build() -> Result<()> {
    let Some(cargo) = env::var_os("CARGO") else { return Ok(()) };
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--bins", "--manifest-path"]).arg(manifest);
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    let status = command.status().context("run cargo build")?;
    if status.success() { Ok(()) } else { Err(Failure::new("the programs could not be built")) }
}

/// Without root: enters a user namespace in which this process is root. It has a single thread here, as
/// unshare(2) demands for that.
fn become_root() -> Result<()> {
    if geteuid() == Uid::from_raw(0) {
        return Ok(());
    }
    enter_user_namespace().map_err(|error| {
        let program = env::current_exe().map_or("this program".to_owned(), |path| path.display().to_string());
        Failure::new(format!(
            "this system does not let a user make network namespaces ({error}).\nRun it as root: sudo {program}"
        ))
    })
}

fn enter_user_namespace() -> io::Result<()> {
    let (user, group) = (geteuid(), getegid());
    // The network namespace is a trial: some systems let a user have the one but nothing within.
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET)?;
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {user} 1"))?;
    fs::write("/proc/self/gid_map", format!("0 {group} 1"))
}

/// Runs the LAN and shows it. False when a ping had no answer.
fn show(options: &Options) -> Result<bool> {
    println!("A LAN over TCP: one hub, three spokes, each a network namespace of its own on this machine.\n");
    let lan = Lan::with(Net::named(&SPOKES)?, SPOKES.len())?;
    let hosts = hosts(&lan.net);
    for (i, (host, _)) in hosts.iter().enumerate() {
        let command = match i {
            0 => house::hub_command(&lan.net, &lan.binaries, &[]),
            i => house::spoke_command(&lan.net, &lan.binaries, i - 1, &[]),
        };
        println!("  {:<8} # {}", host.name(), typed(&command));
    }
    let (table, lost) = ping_all(&hosts);
    println!("\nRound trips, median of {PINGS} pings:\n\n{table}");
    let pings = hosts.len() * (hosts.len() - 1) * PINGS;
    println!("{} of {pings} pings were answered.\n", pings - lost);
    match options.shell {
        Some(n) => shell(&lan, n)?,
        None => println!(
            "Try it by hand, in a shell on the second spoke:\n  cargo run --release --example lan -- --shell 2"
        ),
    }
    Ok(lost == 0)
}

/// Each host with its address in the LAN, the hub first.
fn hosts(net: &Net) -> Vec<(&Host, Ipv4Addr)> {
    let spokes = (0..net.spokes()).map(|i| (net.spoke(i), Lan::address(i)));
    [(net.hub(), Lan::hub_address())].into_iter().chain(spokes).collect()
}

/// A command line as a person types it.
fn typed(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or_default();
    let words: Vec<_> =
        [program].into_iter().chain(command.get_args()).map(|word| word.to_string_lossy()).collect();
    words.join(" ")
}

/// Pings each pair: a table of times, and the number of pings that had no answer.
fn ping_all(hosts: &[(&Host, Ipv4Addr)]) -> (String, usize) {
    let mut table = format!("  {:<20}", "from \\ to");
    for (_, address) in hosts {
        let _ = write!(table, "{:>12}", address.to_string());
    }
    table.push('\n');
    let mut lost = 0;
    for (host, address) in hosts {
        let _ = write!(table, "  {:<9}{:<11}", host.name(), address.to_string());
        for (_, to) in hosts {
            let cell = if to == address {
                "-".to_owned()
            } else {
                let mut times: Vec<_> =
                    (0..PINGS).filter_map(|_| ping(host, (*to).into(), 56, PATIENCE).ok()).collect();
                lost += PINGS - times.len();
                times.sort();
                times.get(times.len() / 2).map_or("no answer".to_owned(), |&time| milliseconds(time))
            };
            let _ = write!(table, "{cell:>12}");
        }
        table.push('\n');
    }
    (table, lost)
}

fn milliseconds(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1e3)
}

/// Opens an interactive shell on the `n`th spoke and waits for its end.
fn shell(lan: &Lan, n: usize) -> Result<()> {
    let (host, address) = (lan.net.spoke(n - 1), Lan::address(n - 1));
    let neighbour = Lan::address(n % SPOKES.len());
    println!(
        "A shell on {}, {address}. Try: ping {neighbour}; ip address; exit. The LAN ends with it.\n",
        host.name()
    );
    let shell = env::var_os("SHELL").unwrap_or_else(|| "/bin/sh".into());
    let mut command = host.mortal(&Command::new(shell));
    let mut child = host.run(move || command.spawn()).context("open a shell")?;
    // What the shell's last command answered is no verdict on the LAN.
    child.wait().context("wait for the shell").map(drop)
}
