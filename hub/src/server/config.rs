//! The settings of the server, and the errors that keep it from starting. IO: the errors are those of files, sockets and
//! the device.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};

use common::linux::sandbox::User;
use common::linux::tun;
use common::node::names::zone::Zone;
use common::node::outbound::Outbound;
use common::node::state;
use common::transport::tls::files::FileError;
use ipnetwork::IpNetwork;

use crate::lan::subnets::Subnets;
use crate::options::{Device, TlsFiles};

/// What the command line says.
#[derive(Clone, Debug)]
pub struct Config {
    /// The LAN's prefixes.
    pub subnets: Subnets,
    /// Where to listen; nowhere: on port 5678 of all addresses.
    pub listen: Vec<SocketAddr>,
    /// Whether tunnels in pings are served.
    pub icmp: bool,
    /// Where metrics are served.
    pub metrics: Option<SocketAddr>,
    /// The TLS certificate.
    pub tls: Option<TlsFiles>,
    /// The device, if there is to be one.
    pub device: Option<Device>,
    /// The LAN's MTU.
    pub mtu: u32,
    /// Prefixes to offer, to which this machine forwards.
    pub routes: Vec<IpNetwork>,
    /// The state directory.
    pub state: std::path::PathBuf,
    /// The zone of names to answer for.
    pub zone: Option<Zone>,
    /// How other hubs are connected to.
    pub outbound: Outbound,
    /// The user to become.
    pub user: Option<User>,
}

/// Why the hub cannot run. Its text says what to do.
#[derive(Debug)]
pub enum Error {
    /// The state directory.
    State(state::Error),
    /// The device.
    Tun(tun::Error),
    /// The TLS certificate.
    Tls(FileError),
    /// The hub would have this address, of this subnet, which is that of the machine's router.
    Router(IpAddr, IpNetwork),
    /// The port.
    Listen(SocketAddr, io::Error),
    /// The port for metrics.
    Metrics(SocketAddr, io::Error),
    /// The raw sockets for pings.
    Ping(io::Error),
    /// The name server; a sentence.
    Names(String),
    /// The system.
    System(&'static str, io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::State(error) => error.fmt(f),
            Error::Tun(error) => error.fmt(f),
            Error::Tls(error) => error.fmt(f),
            Error::Router(address, subnet) => write!(
                f,
                "{address}, which the hub has in {subnet}, is the address of this machine's router, which it would shut: \
                 start it with another --subnet, after `hub renumber` if there are members already"
            ),
            Error::Listen(at, error) if error.kind() == io::ErrorKind::AddrInUse => {
                write!(
                    f,
                    "{at} is in use: stop what listens there, or choose another with --listen ADDR:PORT"
                )
            }
            Error::Listen(at, error) => {
                write!(f, "cannot listen on {at}: {error}; choose another with --listen ADDR:PORT")
            }
            Error::Metrics(at, error) => {
                write!(f, "cannot serve metrics on {at}: {error}; choose another with --metrics ADDR:PORT")
            }
            Error::Ping(error) if error.kind() == io::ErrorKind::PermissionDenied => f.write_str(
                "--icmp needs raw sockets, which this process may not open: start it as root, or give it CAP_NET_RAW",
            ),
            Error::Ping(error) => write!(f, "cannot open raw sockets for --icmp: {error}"),
            Error::Names(why) => f.write_str(why),
            Error::System(what, error) => write!(f, "cannot {what}: {error}"),
        }
    }
}

impl std::error::Error for Error {}

impl From<state::Error> for Error {
    fn from(error: state::Error) -> Error {
        Error::State(error)
    }
}

impl From<FileError> for Error {
    fn from(error: FileError) -> Error {
        Error::Tls(error)
    }
}

impl From<tun::Error> for Error {
    fn from(error: tun::Error) -> Error {
        Error::Tun(error)
    }
}
