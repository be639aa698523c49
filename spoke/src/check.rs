//! `spoke check`: goes each way to the hub once, up to the hub's key, and joins nothing. IO.
//!
//! The handshake ends before its third message, by which alone a spoke joins, and is that of a key which is made for it:
//! a spoke that runs is not disturbed. What is found goes to [`verdict`], which makes the lines.
#![expect(clippy::disallowed_methods, reason = "an IO file: it owns the clock and reads the remembered keys")]

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use common::linux::netlink::Netlink;
use common::linux::surroundings::Surroundings;
use common::node::cli;
use common::node::control::{AskError, ask};
use common::node::state;
use common::node::way::Way;
use common::wire::key::PublicKey;
use common::wire::target::Target;
use ipnetwork::IpNetwork;

use crate::client::HUBS;
use crate::control::{Request, Status};
use crate::report;
use crate::uplink::pins;

mod probe;
pub mod show;
pub mod verdict;

use probe::Prober;
use verdict::{Findings, Known, Running};

/// What is to be checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// The hub, as the person has named it.
    pub hubs: Vec<Target>,
    /// The ways to it.
    pub ways: Vec<Way>,
    /// Whom to trust as issuers of TLS certificates.
    pub tls_ca: Option<PathBuf>,
    /// The keys of hubs, where the person gave some.
    pub hub_keys: Vec<PublicKey>,
    /// The addresses to ask for.
    pub addresses: Vec<IpAddr>,
    /// The state directory.
    pub state: PathBuf,
}

/// Checks everything.
///
/// # Errors
/// Where the system lacks what each check needs.
pub fn run(config: &Config) -> io::Result<Findings> {
    let known = known(config);
    let mut prober = Prober::new(&config.ways, config.tls_ca.as_deref())?;
    let mut traces = Vec::new();
    for way in &config.ways {
        traces.push((way.clone(), prober.go(way)?));
    }
    let ways = traces.iter().map(|(way, trace)| (way.to_string(), verdict::of_way(way, trace, &known)));
    // A clock before 1970 is as wrong as one that says so.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let overlaps = overlaps(config, &known);
    let overlaps = overlaps.as_ref().map(Vec::as_slice).map_err(String::as_str);
    Ok(Findings {
        ways: ways.collect(),
        machine: vec![
            verdict::lan(&known, &config.addresses, overlaps),
            verdict::clock(&traces, now),
            verdict::spoke(&known),
        ],
    })
}

fn known(config: &Config) -> Known {
    let pins = state::inner(&config.state).join(HUBS);
    let pinned = match std::fs::read_to_string(&pins) {
        Ok(text) => pins::vouched(&text, &config.hubs)
            .map_err(|bad| format!("{}, line {}: {}", pins.display(), bad.line, bad.why)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(format!("cannot read {} to compare it: {error} (try sudo)", pins.display())),
    };
    let running = match ask::<Status>(&config.state, &Request::Status) {
        Ok(status) => Ok(running(status)),
        Err(AskError::Nobody(state)) => Err(report::nothing_runs(&state, cli::is_root())),
        Err(error) => Err(error.to_string()),
    };
    Known { hub_keys: config.hub_keys.clone(), pinned, pins, running }
}

fn running(status: Status) -> Running {
    let link = match status.link {
        Some(link) => Ok(if link.way.is_empty() { status.hub } else { link.way }),
        None => Err(status.trouble.unwrap_or(status.phase)),
    };
    Running { addresses: status.addresses, device: status.device, hub_key: status.hub_key, link }
}

/// A sentence for each network of this machine that has addresses of the LAN.
fn overlaps(config: &Config, known: &Known) -> Result<Vec<String>, String> {
    let netlink = Netlink::open().map_err(|error| error.to_string())?;
    let (lans, device) = match &known.running {
        Ok(running) if !running.addresses.is_empty() => (running.addresses.clone(), running.device.as_str()),
        Ok(_) | Err(_) => (config.addresses.iter().copied().map(IpNetwork::from).collect(), "the spoke"),
    };
    let own = netlink.link(device).ok().map(|link| link.index);
    let around = Surroundings::without(&netlink, own).map_err(|error| error.to_string())?;
    Ok(around.overlaps(&lans, device))
}
