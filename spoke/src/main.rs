//! The command line of `spoke`.
#![expect(clippy::disallowed_methods, reason = "a program's entry is IO")]

mod commands;

use std::net::IpAddr;
use std::path::Path;
use std::process::ExitCode;

use common::linux::sandbox::{self, Needs, Profile, User};
use common::node::args::{Flags, Line};
use common::node::cli::{self, ConfigFiles, Exit};
use common::node::logger;
use common::node::state::{self, State};
use common::node::way::Way;
use common::transport::tcp;
use common::wire::target::Target;
use signal_hook::consts::{SIGINT, SIGTERM};
use spoke::client::{self, Client, Config, HUBS};
use spoke::options::{DEFAULT_STATE, Options, PROGRAM, Path as HubPath};
use spoke::uplink::{self, ways};

/// Several spokes may run on one machine, so that none has a file unless it is told so.
const CONFIG_FILES: ConfigFiles = ConfigFiles { default: None, directory: "/etc/spoke" };

fn main() -> ExitCode {
    match PROGRAM.parse(std::env::args_os().skip(1)) {
        Ok(Line::Help(text)) => cli::print_all(&text).into(),
        Ok(Line::Version) => cli::print_version("spoke", env!("CARGO_PKG_VERSION")),
        Ok(Line::Command(command, flags, words)) => commands::run(command, flags, &words).into(),
        Ok(Line::Run(flags)) => start(flags).into(),
        Err(error) => {
            cli::say(&error);
            Exit::Usage.into()
        }
    }
}

fn start(flags: Flags) -> Exit {
    logger::start();
    let read = cli::load(&PROGRAM, flags, CONFIG_FILES).and_then(|(settings, warnings)| {
        warnings.iter().for_each(|warning| log::warn!("{warning}"));
        Options::read(&settings)
    });
    let options = match read {
        Ok(options) => options,
        Err(error) => {
            log::error!("{error}");
            return Exit::Usage;
        }
    };
    match run(options) {
        Ok(()) => Exit::Done,
        Err(error) => {
            log::error!("{error}");
            match error.downcast_ref() {
                Some(client::Error::Uplink(error)) if error.is_final() => Exit::Refused,
                _ => Exit::Failed,
            }
        }
    }
}

fn run(options: Options) -> Result<(), Box<dyn std::error::Error>> {
    let invite = options.invite.map(cli::invite).transpose()?;
    let user = options.user.as_deref().map(User::find).transpose()?;
    let state = match &options.state {
        Some(path) => State::open_as(path, user.as_ref().map(User::uid))?,
        None => default_state(options.addresses.first(), user.as_ref())?,
    };
    let ways = ways(&options.path)?;
    let HubPath { hubs, outbound, lanes } = options.path;
    let uplink = uplink::Config {
        hubs,
        ways,
        hub_keys: options.hub_keys,
        addresses: options.addresses,
        name: options.name.unwrap_or_else(cli::host_name),
        invite,
        route_policy: options.route_policy,
        mtu: options.mtu,
        follows_members: options.names.hosts.is_some() || options.names.zone.is_some(),
        may_have_lane: lanes > 1,
        pins: state.path().join(HUBS),
    };
    if let Some(name) = &options.congestion {
        tcp::choose_congestion(name).map_err(|error| format!("--congestion {name}: {error}"))?;
    }
    cli::warn_if_not_forwarding(&uplink.route_policy.offered);
    let signals = cli::on_signals(&[SIGINT, SIGTERM])?;
    let config = Config {
        uplink,
        tls_ca: outbound.tls_ca,
        tun: options.tun,
        hosts: options.names.hosts,
        zone: options.names.zone,
    };
    let binds_names = config.zone.is_some();
    let mut client = Client::new(config, state, signals)?;
    // The numeric form of an address needs no look-up.
    let profile = if client.looks_names_up() { Profile::Resolves } else { Profile::Connects };
    // The hub says which address to listen on.
    let needs = Needs { profile, ports: None, readable: &[], binds_names };
    sandbox::enter(client.state(), client.hosts(), user.as_ref(), needs)?;
    Ok(client.run()?)
}

/// The ways to the hub, by the proxies of the settings and of the environment.
fn ways(path: &HubPath) -> Result<Vec<Way>, String> {
    let with_proxy = |hub: &Target| {
        let proxy = path.outbound.proxy_to(hub, cli::variable_of)?;
        if let Some((Some(variable), url)) = &proxy {
            log::info!("going through the proxy {url} ({variable} in the environment)");
        }
        Ok((hub.clone(), proxy.map(|(_, url)| url)))
    };
    Ok(ways::named(&path.hubs.iter().map(with_proxy).collect::<Result<Vec<_>, String>>()?))
}

/// The state directory where none was named: that of this machine, which is one member, whatever address it asks for.
///
/// Earlier versions gave a second spoke on a machine a directory below, named after its address. Such a second member
/// is still there if it was on a LAN, which is told by its knowing a hub; a failed start left a key alone.
fn default_state(address: Option<&IpAddr>, user: Option<&User>) -> Result<State, state::Error> {
    let shared = Path::new(DEFAULT_STATE);
    let own = address.map(|address| shared.join(address.to_string()));
    let path = own.as_deref().filter(|own| state::inner(own).join(HUBS).exists()).unwrap_or(shared);
    State::open_as(path, user.map(User::uid))
}
