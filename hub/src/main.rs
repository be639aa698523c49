//! The command line of `hub`.

mod commands;

use std::path::PathBuf;
use std::process::ExitCode;

use argh::FromArgs;
use commands::{Command, DEFAULT_STATE};
use common::linux::sandbox::{self, Profile, User};
use hub::lan::subnets::Subnets;
use hub::server::{Config, Server};
use ipnetwork::IpNetwork;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// The server of a LAN over TCP: spokes connect to it, and all are on one network.
#[derive(FromArgs)]
struct Args {
    /// the LAN's prefix, such as 10.0.0.0/24; may be given twice, for IPv4 and IPv6
    #[argh(option)]
    subnet: Vec<IpNetwork>,
    /// where to listen, ADDR:PORT (default [::]:5678, IPv4 included)
    #[argh(option)]
    listen: Option<std::net::SocketAddr>,
    /// name of the network device (default hub0)
    #[argh(option, default = "\"hub0\".to_owned()")]
    tun: String,
    /// largest packet on the LAN in bytes (default 1500); the spokes are told
    #[argh(option, default = "1500")]
    mtu: u32,
    /// offer a way out of the LAN: a prefix to which this machine forwards, such as 0.0.0.0/0; may be repeated
    #[argh(option)]
    route: Vec<IpNetwork>,
    /// directory of the hub's key and members (default /var/lib/hub)
    #[argh(option)]
    state: Option<PathBuf>,
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
        return common::node::cli::print_version("hub", env!("CARGO_PKG_VERSION"));
    }
    if let Some(command) = args.command {
        return commands::run(command, args.state);
    }
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), Box<dyn std::error::Error>> {
    let config = Config {
        subnets: Subnets::new(&args.subnet)?,
        listen: args.listen,
        tun: args.tun.clone(),
        mtu: args.mtu,
        routes: args.route.clone(),
        state: args.state.clone().unwrap_or_else(|| DEFAULT_STATE.into()),
    };
    common::node::cli::refuse_host_bits("--route", &args.route)?;
    common::node::cli::warn_if_not_forwarding(&args.route);
    let signals = common::node::cli::on_signals(&[SIGINT, SIGTERM])?;
    let hangups = common::node::cli::on_signals(&[SIGHUP])?;
    let user = args.user.as_deref().map(User::find).transpose()?;
    let mut server = Server::new(&config, signals, hangups)?;
    sandbox::enter(server.state(), None, user.as_ref(), Profile::Accepts)?;
    Ok(server.run()?)
}
