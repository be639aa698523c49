//! The command line of `spoke`.

mod commands;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use argh::FromArgs;
use commands::{Command, DEFAULT_STATE};
use common::linux::sandbox::{self, Profile, User};
use common::node::state::{self, State};
use common::packet::{MAX_MTU, MIN_MTU};
use common::wire::frame::MAX_ROUTES;
use common::wire::invite::Secret;
use common::wire::key::PublicKey;
use common::wire::name::Name;
use ipnetwork::IpNetwork;
use signal_hook::consts::{SIGINT, SIGTERM};
use spoke::client::{Client, Config, HUBS};
use spoke::uplink;
use spoke::uplink::routes::RoutePolicy;
use spoke::uplink::target::{Scheme, Target};

/// Joins this machine to the LAN of a hub.
#[derive(FromArgs)]
struct Args {
    /// where the hub is: HOST[:PORT], port 5678 unless given
    #[argh(option)]
    hub: Option<Target>,
    /// address on the LAN to ask for (default: the hub chooses, always the same); may be given twice, for IPv4 and IPv6
    #[argh(option)]
    ip: Vec<IpAddr>,
    /// name on the LAN (default: the host name)
    #[argh(option, from_str_fn(common::node::cli::typed_name))]
    name: Option<Name>,
    /// offer a network behind this machine, such as 192.168.5.0/24; may be repeated
    #[argh(option)]
    route: Vec<IpNetwork>,
    /// take routes within this prefix though they are public, such as 0.0.0.0/0; may be repeated
    #[argh(option)]
    accept_route: Vec<IpNetwork>,
    /// take no routes but those of --accept-route (default: private ones are taken)
    #[argh(switch)]
    no_routes: bool,
    /// largest packet in bytes that the device takes, if less than the LAN's
    #[argh(option)]
    mtu: Option<u32>,
    /// keep this file, in the format of /etc/hosts, in step with the members of the LAN
    #[argh(option)]
    hosts: Option<PathBuf>,
    /// name of the network device (default spoke0)
    #[argh(option, default = "\"spoke0\".to_owned()")]
    tun: String,
    /// directory of the spoke's key and of the keys of hubs (default /var/lib/spoke)
    #[argh(option)]
    state: Option<PathBuf>,
    /// the hub's key, as it prints it at start (default: the first one seen is remembered)
    #[argh(option)]
    hub_key: Option<PublicKey>,
    /// the invite that the hub's owner made for this machine (hub invite)
    #[argh(option)]
    invite: Option<Secret>,
    /// user to run as once all is open (default: stay who started it); the state directory becomes this user's
    #[argh(option)]
    user: Option<String>,
    /// print the version
    #[argh(switch)]
    version: bool,
    #[argh(subcommand)]
    command: Option<Command>,
}

fn main() -> ExitCode {
    let args: Args = argh::from_env();
    if args.version {
        return common::node::cli::print_version("spoke", env!("CARGO_PKG_VERSION"));
    }
    if let Some(command) = args.command {
        return commands::run(command, args.state);
    }
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> Result<(), Box<dyn std::error::Error>> {
    let hub = args.hub.ok_or("say where the hub is: spoke --hub HOST[:PORT]")?;
    if hub.scheme != Scheme::Tcp {
        return Err(format!("this version goes by TCP alone, not by {}://", hub.scheme.name()).into());
    }
    if args.ip.iter().filter(|ip| ip.is_ipv4()).count() > 1
        || args.ip.iter().filter(|ip| ip.is_ipv6()).count() > 1
    {
        return Err("give at most one IPv4 and one IPv6 --ip".into());
    }
    let state = match &args.state {
        Some(path) => State::open(path)?,
        None => default_state(args.ip.first())?,
    };
    let uplink = uplink::Config {
        hub,
        hub_key: args.hub_key,
        addresses: args.ip,
        name: args.name.unwrap_or_else(common::node::cli::host_name),
        invite: args.invite,
        route_policy: RoutePolicy { offered: args.route, accepted: args.accept_route, none: args.no_routes },
        mtu: args.mtu,
        follows_members: args.hosts.is_some(),
        pins: state.path().join(HUBS),
    };
    check(&uplink)?;
    let signals = common::node::cli::on_signals(&[SIGINT, SIGTERM])?;
    let user = args.user.as_deref().map(User::find).transpose()?;
    // The numeric form of an address needs no look-up.
    let reach = if uplink.hub.host.parse::<IpAddr>().is_ok() { Profile::Connects } else { Profile::Resolves };
    let config = Config { uplink, tun: args.tun, hosts: args.hosts };
    let mut client = Client::new(config, state, signals)?;
    sandbox::enter(client.state(), client.hosts(), user.as_ref(), reach)?;
    Ok(client.run()?)
}

/// Refuses what can be known to be wrong, and warns of what may be.
fn check(config: &uplink::Config) -> Result<(), String> {
    let RoutePolicy { offered, accepted, .. } = &config.route_policy;
    common::node::cli::refuse_host_bits("--route", offered)?;
    common::node::cli::refuse_host_bits("--accept-route", accepted)?;
    if offered.len() > MAX_ROUTES {
        return Err(format!("at most {MAX_ROUTES} networks can be offered with --route"));
    }
    if let Some(mtu) = config.mtu.filter(|mtu| !(MIN_MTU..=MAX_MTU).contains(mtu)) {
        return Err(format!("--mtu {mtu} is not {MIN_MTU} to {MAX_MTU}"));
    }
    common::node::cli::warn_if_not_forwarding(offered);
    Ok(())
}

/// The default state directory, or one in it for this address where another spoke uses that: then two spokes
/// on one machine, in two network namespaces say, are two members without being told so.
fn default_state(address: Option<&IpAddr>) -> Result<State, state::Error> {
    let shared = Path::new(DEFAULT_STATE);
    let Some(address) = address else { return State::open(shared) };
    let own = shared.join(address.to_string());
    if own.exists() {
        return State::open(&own);
    }
    match State::open(shared) {
        Err(state::Error::InUse(_)) => State::open(&own),
        opened => opened,
    }
}
