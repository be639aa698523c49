//! What `spoke` can be told on its command line, in its environment and in its file. Pure.

use std::net::IpAddr;
use std::path::PathBuf;

use common::node::args::{Command, Program, Setting};
use common::node::config::Settings;
use common::node::names::zone::{self, Zone};
use common::node::outbound::{Outbound, PROXY, TLS_CA};
use common::node::values::{self, InviteSource};
use common::packet::{MAX_MTU, MIN_MTU};
use common::wire::frame::MAX_ROUTES;
use common::wire::key::PublicKey;
use common::wire::name::Name;
use common::wire::target::{Scheme, Target};

use crate::uplink::routes::RoutePolicy;

/// Where spokes keep their state unless `--state` says otherwise.
pub const DEFAULT_STATE: &str = "/var/lib/spoke";
const DEFAULT_TUN: &str = "spoke0";

/// Most places that a hub is given by.
const MAX_HUBS: usize = 8;
/// Most connections that a link has.
const MAX_LANES: u32 = 2;

const HUB: Setting = Setting::many(
    "hub",
    "HOST[:PORT]",
    "where the hub is; port 5678 unless given. wss://HOST[:PORT][/PATH], ws://… and tls://HOST[:PORT] go by \
     WebSocket and TLS; icmp://HOST in pings; auto://HOST[:PORT] by whatever works. Several are tried in this order",
);
const IP: Setting = Setting::many(
    "ip",
    "ADDRESS",
    "address on the LAN to ask for, one of each family (default: the hub chooses, always the same)",
);
const HUB_KEY: Setting =
    Setting::many("hub-key", "KEY", "the hub's key, as it prints it (default: the first one is remembered)");
const STATE: Setting =
    Setting::one("state", "DIR", "directory of the spoke's key and of the keys of hubs").or(DEFAULT_STATE);
const CONFIG: Setting =
    Setting::one("config", "FILE", "configuration file, or a NAME for /etc/spoke/NAME.toml");
const JSON: Setting = Setting::switch("json", "print JSON, one object a line");

/// The command line of `spoke`.
pub static PROGRAM: Program = Program {
    name: "spoke",
    about: "Joins this machine to the LAN of a hub.",
    settings: &[
        HUB,
        PROXY,
        TLS_CA,
        IP,
        Setting::one("name", "NAME", "name on the LAN (default: the host name)"),
        Setting::many("route", "PREFIX", "offer a network behind this machine, such as 192.168.5.0/24"),
        Setting::many(
            "accept-route",
            "PREFIX",
            "take routes within this prefix though they are public, such as 0.0.0.0/0",
        ),
        Setting::switch("no-routes", "take no routes but those of --accept-route (default: private ones)"),
        Setting::one("mtu", "BYTES", "largest packet that the device takes, if less than the LAN's"),
        Setting::one(
            "congestion",
            "NAME",
            "TCP congestion control of all links, such as cubic (default: the system's, and bbr where losses are no congestion)",
        ),
        Setting::one(
            "lanes",
            "N",
            "connections to the hub: 1, or 2 where packets are lost on a long way to it (default: 2)",
        ),
        Setting::one(
            "hosts",
            "FILE",
            "keep this file, in the format of /etc/hosts, in step with the members",
        ),
        Setting::one("tun", "NAME", "name of the network device").or(DEFAULT_TUN),
        zone::DNS,
        zone::ZONE,
        STATE,
        HUB_KEY,
        Setting::one("invite", "SECRET", "the invite that `hub invite` made for this machine").secret(),
        Setting::one("invite-file", "FILE", "the same from a file, so that no list of processes shows it"),
        Setting::one(
            "user",
            "NAME",
            "user to switch to after start-up; takes ownership of the state directory",
        ),
        CONFIG,
    ],
    commands: &[
        Command {
            name: "status",
            help: "shows how this machine is on the LAN, and who else is",
            operands: "",
            settings: &[],
        },
        Command {
            name: "metrics",
            help: "prints metrics for Prometheus, in its text format",
            operands: "",
            settings: &[],
        },
        Command {
            name: "check",
            help: "tries each way to the hub without joining, and says what is in the way and what to do",
            operands: "",
            settings: &[HUB, PROXY, TLS_CA, IP, HUB_KEY],
        },
        Command {
            name: "key",
            help: "prints this machine's key, by which `hub allow` knows it; makes one at first use",
            operands: "",
            settings: &[],
        },
        Command {
            name: "resolve",
            help: "prints the addresses of a member",
            operands: "NAME",
            settings: &[],
        },
        zone::REGISTER,
        Command {
            name: "config",
            help: "shows which settings are in force, and where each comes from",
            operands: "",
            settings: &[],
        },
    ],
    shared: &[STATE, JSON, CONFIG],
    bare: "hub",
    file: "/etc/spoke/NAME.toml",
};

/// What a spoke is to be.
#[derive(Clone, Debug)]
pub struct Options {
    /// How the hub is reached.
    pub path: Path,
    /// The keys of hubs that are known beforehand.
    pub hub_keys: Vec<PublicKey>,
    /// The addresses to ask for: at most one of each family.
    pub addresses: Vec<IpAddr>,
    /// The name to ask for, if not the host's.
    pub name: Option<Name>,
    /// The device's name.
    pub tun: String,
    /// The invite to show.
    pub invite: Option<InviteSource>,
    /// Networks behind this spoke, and which prefixes to take.
    pub route_policy: RoutePolicy,
    /// The device's MTU, if less than the LAN's.
    pub mtu: Option<u32>,
    /// How this machine finds members by name.
    pub names: Names,
    /// The state directory, if not the default one.
    pub state: Option<PathBuf>,
    /// The user to become.
    pub user: Option<String>,
    /// The congestion control of all links, if it is not to be chosen by the path.
    pub congestion: Option<String>,
}

/// How this machine finds members by name.
#[derive(Clone, Debug)]
pub struct Names {
    /// The file that is kept in step with the members.
    pub hosts: Option<PathBuf>,
    /// The zone of names to answer for.
    pub zone: Option<Zone>,
}

/// How the hub is reached.
#[derive(Clone, Debug)]
pub struct Path {
    /// Where the hub is: one place or several.
    pub hubs: Vec<Target>,
    /// By which proxy, and whose certificates are trusted.
    pub outbound: Outbound,
    /// How many connections a link may have.
    pub lanes: u32,
}

impl Options {
    /// Reads the settings.
    ///
    /// # Errors
    /// A sentence that says which one is invalid, and what to write instead.
    pub fn read(settings: &Settings) -> Result<Options, String> {
        let path = path(settings)?;
        let addresses = settings.many("ip", values::member_ip)?;
        if [IpAddr::is_ipv4, IpAddr::is_ipv6]
            .iter()
            .any(|is| addresses.iter().filter(|ip| is(ip)).count() > 1)
        {
            return Err("give at most one IPv4 and one IPv6 --ip".to_owned());
        }
        let invite = values::invite_source(
            settings.one("invite", values::any)?,
            settings.one("invite-file", values::any)?,
        )?;
        let mtu = settings.one("mtu", values::number)?;
        if let Some(mtu) = mtu.filter(|mtu| !(MIN_MTU..=MAX_MTU).contains(mtu)) {
            return Err(format!("--mtu {mtu} is not {MIN_MTU} to {MAX_MTU}"));
        }
        Ok(Options {
            path,
            hub_keys: settings.many("hub-key", values::any)?,
            addresses,
            name: settings.one("name", values::name)?,
            tun: settings.one("tun", values::device)?.unwrap_or_else(|| DEFAULT_TUN.to_owned()),
            invite,
            route_policy: route_policy(settings)?,
            mtu,
            names: Names { hosts: settings.one("hosts", values::any)?, zone: zone::of_settings(settings)? },
            state: state(settings)?,
            user: settings.one("user", values::any)?,
            congestion: settings.one("congestion", values::any)?,
        })
    }
}

fn path(settings: &Settings) -> Result<Path, String> {
    let hubs: Vec<Target> = settings.many("hub", values::any)?;
    if hubs.is_empty() {
        return Err("say where the hub is: spoke --hub HOST[:PORT]".to_owned());
    }
    if hubs.len() > MAX_HUBS {
        return Err(format!("--hub is given more than {MAX_HUBS} times"));
    }
    let outbound = Outbound::read(settings)?;
    if hubs.iter().any(|hub| hub.scheme == Scheme::Icmp) && matches!(outbound.proxy, Some(Some(_))) {
        return Err("no proxy passes pings: leave out --proxy, or icmp://".to_owned());
    }
    let lanes = settings.one("lanes", values::number)?.unwrap_or(MAX_LANES);
    if !(1..=MAX_LANES).contains(&lanes) {
        return Err(format!("--lanes {lanes} is not 1 or {MAX_LANES}"));
    }
    Ok(Path { hubs, outbound, lanes })
}

fn route_policy(settings: &Settings) -> Result<RoutePolicy, String> {
    let offered = settings.many("route", values::prefix)?;
    let accepted = settings.many("accept-route", values::prefix)?;
    values::refuse_host_bits("--route", &offered)?;
    values::refuse_host_bits("--accept-route", &accepted)?;
    if offered.len() > MAX_ROUTES {
        return Err(format!("at most {MAX_ROUTES} networks can be offered with --route"));
    }
    Ok(RoutePolicy { offered, accepted, none: settings.switch("no-routes")? })
}

/// The state directory, if one is given; commands need it, too.
///
/// # Errors
/// Where it is invalid.
pub fn state(settings: &Settings) -> Result<Option<PathBuf>, String> {
    settings.one("state", values::any)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use common::node::args::Line;

    use super::*;

    fn read(line: &str) -> Result<Options, String> {
        let parsed = PROGRAM.parse(line.split_whitespace().map(OsString::from))?;
        let Line::Run(flags) = parsed else { panic!("{line}") };
        Options::read(&Settings::of_command(&PROGRAM, flags))
    }

    #[test]
    fn reads_the_lines_of_the_readme() {
        let options = read("--hub host:5678 --ip 10.0.0.2").unwrap();
        assert_eq!(
            (options.path.hubs[0].to_string().as_str(), options.tun.as_str()),
            ("host:5678", "spoke0")
        );
        assert_eq!(options.addresses, ["10.0.0.2".parse::<IpAddr>().unwrap()]);
        assert_eq!(read("--hub h --dns").unwrap().names.zone, Some(Zone::default()));
        assert_eq!(options.names.zone, None);
        assert!(options.state.is_none() && options.name.is_none() && options.invite.is_none());
        let key = "WY/U9JV7l6nRsxZKzHlwmchStQvgIRzo2OAWB3x0oAY=";
        let secret = "29d10b3762fd5266a92d936735a0c6a0";
        let options = read(&format!("--hub 192.0.2.1:5678 --hub-key {key} --invite {secret}")).unwrap();
        assert_eq!(options.hub_keys.iter().map(|key| key.to_string()).collect::<Vec<_>>(), [key]);
        assert!(matches!(options.invite, Some(InviteSource::Secret(read)) if read.to_hex() == secret));
        let options = read("--hub h --proxy http://ann:secret@proxy:3128").unwrap();
        assert_eq!(
            options.path.outbound.proxy.flatten().map(|url| url.to_string()).as_deref(),
            Some("http://proxy:3128")
        );
        assert_eq!(read("--hub h --proxy=").unwrap().path.outbound.proxy, Some(None));
        assert_eq!(read("--hub h").unwrap().path.outbound.proxy, None);
        let options = read("--hub=h --route=192.168.5.0/24 --accept-route=0.0.0.0/0 --no-routes").unwrap();
        let RoutePolicy { offered, accepted, none } = options.route_policy;
        assert_eq!((offered.len(), accepted.len(), none), (1, 1, true));
    }

    #[test]
    fn says_which_setting_is_wrong_and_what_to_write() {
        for (line, said) in [
            ("", "say where the hub is: spoke --hub HOST[:PORT]"),
            ("192.0.2.1", "\"192.0.2.1\" belongs to no flag; did you mean --hub 192.0.2.1?"),
            ("--hubkey x", "spoke has no --hubkey; did you mean --hub-key?"),
            ("stauts", "spoke has no command \"stauts\"; did you mean spoke status?"),
            ("--hub h --ip 10.0.0.2/24", "--ip 10.0.0.2/24: give 10.0.0.2 alone; the hub knows the /24"),
            ("--hub h --ip 10.0.0.2 --ip 10.0.0.3", "give at most one IPv4 and one IPv6 --ip"),
            ("--hub h --tun all", "--tun all: all is not a device name"),
            (
                "--hub h --proxy https://ann:secret@proxy",
                "--proxy …: this is no proxy: TLS to a proxy is not supported; most of them speak HTTP on the same port; \
                 write http://HOST:PORT or socks5://HOST:PORT, with USER:PASSWORD@ in front of HOST if it wants them",
            ),
            ("--hub icmp://h --proxy http://p", "no proxy passes pings: leave out --proxy, or icmp://"),
            ("--hub h --zone lan", "--zone needs --dns"),
            ("--hub h --mtu 67", "--mtu 67 is not 576 to 65535"),
            (
                "--hub h --invite 29d10b3762fd5266a92d936735a0c6a0 --invite-file f",
                "give --invite or --invite-file, not both",
            ),
            (
                "--hub h --invite short",
                "--invite …: an invite is 32 hexadecimal digits: copy the whole line that `hub invite` printed",
            ),
        ] {
            assert_eq!(read(line).unwrap_err(), said, "{line}");
        }
    }
}
