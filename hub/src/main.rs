//! The command line of `hub`.
#![expect(clippy::disallowed_methods, reason = "a program's entry is IO")]

mod commands;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use common::linux::sandbox::{self, Needs, User};
use common::node::args::{Flags, Line};
use common::node::cli::{self, ConfigFiles, Exit};
use common::node::logger;
use common::node::values::Listen;
use common::transport::tcp;
use hub::advice;
use hub::lan::subnets::Subnets;
use hub::options::{self, DEFAULT_CONFIG, DEFAULT_MTU, Options, PROGRAM, WhichLan};
use hub::server::{self, Config, Server};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

const CONFIG_FILES: ConfigFiles = ConfigFiles { default: Some(DEFAULT_CONFIG), directory: "/etc/hub" };

fn main() -> ExitCode {
    match PROGRAM.parse(std::env::args_os().skip(1)) {
        Ok(Line::Help(text)) => cli::print_all(&text).into(),
        Ok(Line::Version) => cli::print_version("hub", env!("CARGO_PKG_VERSION")),
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
        let options = Options::read(&settings);
        match options::state(&settings) {
            Ok(state)
                if !options::names_lan(&settings) && options.is_err() && server::shares_list(&state) =>
            {
                Err(advice::no_lan(&state))
            }
            Ok(_) | Err(_) => options,
        }
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
            match error.downcast_ref() {
                Some(server::Error::Listen(at, why)) => log::error!("{}", advice::listen(*at, why)),
                _ => log::error!("{error}"),
            }
            let is_setting = matches!(error.downcast_ref(), Some(server::JoinError::Setting(_)));
            if is_setting { Exit::Usage } else { Exit::Failed }
        }
    }
}

fn run(options: Options) -> Result<(), Box<dyn std::error::Error>> {
    let user = options.user.as_deref().map(User::find).transpose()?;
    let (subnets, mtu) = match options.lan {
        WhichLan::Own(subnets) => (subnets, DEFAULT_MTU),
        WhichLan::Joined(to_join) => {
            let (subnets, mtu) = server::join(&options.state, user.as_ref(), &to_join, &options.outbound)?;
            (Subnets::new(&subnets)?, mtu)
        }
    };
    let config = Config {
        subnets,
        listen: options.ways_in.listen.into_iter().map(address).collect(),
        icmp: options.ways_in.icmp,
        metrics: options.metrics,
        tls: options.ways_in.tls,
        device: options.device,
        mtu: options.mtu.unwrap_or(mtu),
        routes: options.routes,
        state: options.state,
        zone: options.zone,
        outbound: options.outbound,
        user,
    };
    if let Some(name) = &options.congestion {
        tcp::choose_congestion(name).map_err(|error| format!("--congestion {name}: {error}"))?;
    }
    cli::warn_if_not_forwarding(&config.routes);
    for name in config.device.iter().flat_map(|device| &device.exports) {
        cli::warn_if_device_not_forwarding(name);
    }
    let signals = cli::on_signals(&[SIGINT, SIGTERM])?;
    let hangups = cli::on_signals(&[SIGHUP])?;
    let mut server = Server::new(&config, signals, hangups)?;
    options.host.into_iter().for_each(|place| server.set_place(place));
    let tls = config.tls.iter().flat_map(|tls| [tls.certificate.clone(), tls.key.clone()]);
    let readable: Vec<PathBuf> =
        tls.chain(server.linked_files()).flat_map(|file| sandbox::directories_of(&file)).collect();
    // The ports are bound already; that of names is bound again where the LAN moves to another subnet.
    let (profile, ports) = server.connects();
    let binds_names = config.zone.is_some();
    let needs = Needs { profile, ports: Some(&ports), readable: &readable, binds_names };
    sandbox::enter(server.state(), None, config.user.as_ref(), needs)?;
    Ok(server.run()?)
}

/// A port alone is on all addresses, of both families where this kernel has both.
fn address(listen: Listen) -> SocketAddr {
    match listen {
        Listen::Address(address) => address,
        Listen::Port(port) if cli::has_ipv6() => (Ipv6Addr::UNSPECIFIED, port).into(),
        Listen::Port(port) => (Ipv4Addr::UNSPECIFIED, port).into(),
    }
}
