//! What `hub` can be told on its command line, in its environment and in its file. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use common::node::args::{Command, Program, Setting};
use common::node::config::Settings;
use common::node::names::zone::{self, Zone};
use common::node::outbound::{Outbound, PROXY, TLS_CA};
use common::node::values::{self, InviteSource, Listen};
use common::wire::frame::MAX_ROUTES;
use common::wire::key::PublicKey;
use common::wire::place::Place;
use common::wire::target::split_port;
use ipnetwork::IpNetwork;

use crate::lan::subnets::Subnets;

/// Where a hub keeps its state unless `--state` says otherwise.
pub const DEFAULT_STATE: &str = "/var/lib/hub";
/// The configuration file that is read if it is there.
pub const DEFAULT_CONFIG: &str = "/etc/hub.toml";
/// What the keys of a list in etcd begin with unless `--prefix` says otherwise.
pub const DEFAULT_PREFIX: &str = "/hub/";
/// The port unless `--listen` says otherwise.
pub const DEFAULT_PORT: u16 = 5678;
/// Most places to listen in.
const MAX_LISTEN: usize = 16;
const DEFAULT_TUN: &str = "hub0";
/// The LAN's MTU unless `--mtu` says otherwise.
pub const DEFAULT_MTU: u32 = 1_500;

const STATE: Setting =
    Setting::one("state", "DIR", "directory of the hub's key and members").or(DEFAULT_STATE);
const CONFIG: Setting =
    Setting::one("config", "FILE", "configuration file, or a NAME for /etc/hub/NAME.toml").or(DEFAULT_CONFIG);
const IP: Setting = Setting::many("ip", "ADDRESS", "address that it will have (default: a free one)");
const ROUTE: Setting = Setting::many("route", "PREFIX", "prefix behind it that it may offer");
const TAG: Setting = Setting::many("tag", "TAG", "label that access rules know it by");
const JSON: Setting = Setting::switch("json", "print JSON");

/// The command line of `hub`.
pub static PROGRAM: Program = Program {
    name: "hub",
    about: "The server of a LAN over TCP: spokes connect to it, and all are on one network.",
    settings: &[
        Setting::many(
            "subnet",
            "PREFIX",
            "the LAN's prefix, such as 10.0.0.0/24; one for IPv4, one for IPv6",
        ),
        Setting::many(
            "listen",
            "[ADDR:]PORT",
            "where to listen, such as 443; a port alone is on all addresses",
        )
        .or("5678"),
        Setting::one(
            "join",
            "HUB",
            "be one more hub of the LAN that the hub at HOST[:PORT], tls://HOST, wss://HOST/PATH or icmp://HOST has: as `hub invite --hub` prints it",
        ),
        Setting::one("hub-key", "KEY", "the key of the hub to join"),
        Setting::one("invite", "SECRET", "the invite that `hub invite --hub` made for this hub").secret(),
        Setting::one("invite-file", "FILE", "the same from a file, so that no list of processes shows it"),
        Setting::one(
            "host",
            "HUB",
            "where spokes and other hubs reach this hub: HOST[:PORT], tls://HOST, wss://HOST/PATH or icmp://HOST (default: its own address)",
        ),
        PROXY,
        TLS_CA,
        Setting::switch(
            "icmp",
            "serve tunnels in pings, too, for spokes and hubs that come by icmp://HOST; needs CAP_NET_RAW at the start",
        ),
        Setting::one(
            "tls-cert",
            "FILE",
            "TLS certificate (PEM, with its issuers), for spokes with --hub wss://HOST; read again by `hub reload`",
        ),
        Setting::one("tls-key", "FILE", "the certificate's key (PEM)"),
        Setting::one(
            "metrics",
            "[ADDR:]PORT",
            "serve metrics for Prometheus, http://ADDR:PORT/metrics; a port alone is on 127.0.0.1",
        ),
        Setting::one("tun", "NAME", "name of the network device").or(DEFAULT_TUN),
        Setting::switch(
            "no-tun",
            "no network device, so that this machine itself is not on the LAN: for a second hub on it, and in containers",
        ),
        Setting::many(
            "export",
            "DEVICE",
            "leave what no member here has to the kernel's routes by this network device, and give the kernel a route to \
             each member here: for BIRD and the like",
        ),
        Setting::one("mtu", "BYTES", "largest packet on the LAN; the spokes are told").or("1500"),
        Setting::one(
            "congestion",
            "NAME",
            "TCP congestion control of all links, such as cubic (default: the system's, and bbr where losses are no congestion)",
        ),
        Setting::many(
            "route",
            "PREFIX",
            "offer a way out of the LAN: a prefix to which this machine forwards, such as 0.0.0.0/0",
        ),
        Setting::many(
            "store",
            "URL",
            "where `hub store` keeps the list of members: endpoints of etcd, that nearby first",
        ),
        Setting::one("store-prefix", "TEXT", "what all its keys begin with").or(DEFAULT_PREFIX),
        Setting::one("store-ca", "FILE", "who signs etcd's certificate"),
        Setting::one("store-cert", "FILE", "the certificate of `hub store` (PEM)"),
        Setting::one("store-key", "FILE", "its key (PEM)"),
        zone::DNS,
        zone::ZONE,
        STATE,
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
            help: "shows who is on the LAN, and how the links are",
            operands: "",
            settings: &[],
        },
        Command {
            name: "metrics",
            help: "prints metrics for Prometheus, in its text format",
            operands: "",
            settings: &[
                Setting::switch("members", "those of each member, too"),
                Setting::switch("rules", "those of each access rule, too"),
            ],
        },
        Command {
            name: "invite",
            help: "lets one more machine in, or several: prints the line to run there",
            operands: "NAME",
            settings: &[
                IP,
                ROUTE,
                TAG,
                Setting::switch("hub", "let another hub of this LAN in: prints the line to run there"),
                Setting::one("uses", "N", "how many machines it lets in, each under its own name").or("1"),
                Setting::one("for", "TIME", "how long the invite lives: 90s, 15m, 24h, 7d").or("24h"),
                Setting::one(
                    "host",
                    "HUB",
                    "where this hub is reached, as for --join (default: this machine's own address)",
                ),
            ],
        },
        Command {
            name: "invites",
            help: "lists the invites that can be used",
            operands: "",
            settings: &[Setting::one("cancel", "NAME", "make the invite of this name void instead")],
        },
        Command {
            name: "pending",
            help: "lists the machines that wait at the locked hub: name, key, source, since when",
            operands: "",
            settings: &[],
        },
        Command {
            name: "allow",
            help: "lets a machine in: by the name under which it waits, or by its key (`spoke key` there)",
            operands: "MACHINE",
            settings: &[
                Setting::one("name", "NAME", "name that it will have (default: the one that it asks for)"),
                Setting::one("as", "MEMBER", "put it in the place of a member that has lost its key"),
                IP,
                ROUTE,
                TAG,
            ],
        },
        Command {
            name: "members",
            help: "lists the members, or some of them",
            operands: "",
            settings: &[
                Setting::switch("online", "those that are on the LAN"),
                Setting::switch("offline", "those that are not"),
                Setting::one("tag", "TAG", "those with this tag"),
                Setting::one("name", "TEXT", "those whose name holds this text"),
            ],
        },
        Command {
            name: "rename",
            help: "gives a member (name, address or key) another name",
            operands: "MEMBER NAME",
            settings: &[],
        },
        Command {
            name: "forget",
            help: "takes a member that is not on the LAN off the list: its name and address are free",
            operands: "MEMBER",
            settings: &[],
        },
        Command {
            name: "lock",
            help: "lets only members join from now on, and those with an invite",
            operands: "",
            settings: &[],
        },
        Command {
            name: "drain",
            help: "sends the members to the LAN's other hubs, before this one is upgraded",
            operands: "",
            settings: &[Setting::switch("off", "take members again instead")],
        },
        Command {
            name: "keep",
            help: "keeps the list of members that the hubs share, where the hub that does is lost for good",
            operands: "",
            settings: &[],
        },
        Command {
            name: "store",
            help: "keeps the list of members in etcd; runs beside the hub, and waits where that does not run",
            operands: "[URL]",
            settings: &[
                Setting::many("endpoint", "URL", "another endpoint of the same cluster"),
                Setting::one("prefix", "TEXT", "what all keys begin with").or(DEFAULT_PREFIX),
                Setting::one(
                    "ca",
                    "FILE",
                    "who signs etcd's certificate (PEM; default: the system's authorities)",
                ),
                Setting::one("cert", "FILE", "this client's certificate (PEM)"),
                Setting::one("key", "FILE", "its key (PEM)"),
            ],
        },
        Command { name: "unlock", help: "lets anyone join from now on", operands: "", settings: &[] },
        Command {
            name: "revoke",
            help: "ends a membership (name, address or key) at once and for good",
            operands: "MEMBER",
            settings: &[],
        },
        Command {
            name: "renumber",
            help: "moves the LAN to another subnet (one of each family, with a comma); host parts stay",
            operands: "PREFIX",
            settings: &[],
        },
        Command {
            name: "reload",
            help: "reads the files members, rules, invites and locked, and the TLS certificate again, as SIGHUP does",
            operands: "",
            settings: &[],
        },
        Command {
            name: "rules",
            help: "lists the access rules with the packets that each decided about, or explains one case",
            operands: "[FROM TO PROTO/PORT]",
            settings: &[Setting::switch(
                "explain",
                "say which line decides about a service: hub rules --explain laptop nas tcp/22",
            )],
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
    bare: "subnet",
    file: DEFAULT_CONFIG,
};

/// Where the certificate and its key are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, and those of its issuers behind it.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// The LAN of a hub.
#[derive(Clone, Debug)]
pub enum WhichLan {
    /// One with these prefixes.
    Own(Subnets),
    /// That which another hub has.
    Joined(Box<ToJoin>),
}

/// How to join the LAN that another hub has.
#[derive(Clone, Debug)]
pub struct ToJoin {
    /// Where that hub is.
    pub hub: Place,
    /// Its key.
    pub hub_key: Option<PublicKey>,
    /// The invite.
    pub invite: Option<InviteSource>,
    /// Where this hub is reached.
    pub host: Option<Place>,
    /// The port that it listens on.
    pub port: u16,
}

/// How spokes and other hubs come in.
#[derive(Clone, Debug)]
pub struct WaysIn {
    /// Where to listen; nowhere: on the default port of all addresses.
    pub listen: Vec<Listen>,
    /// Whether tunnels in pings are served.
    pub icmp: bool,
    /// The TLS certificate.
    pub tls: Option<TlsFiles>,
}

/// The hub's network device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// The devices by which the kernel reaches members that are elsewhere, if it does.
    pub exports: Vec<String>,
}

/// What a hub is to be.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which LAN.
    pub lan: WhichLan,
    /// Where spokes and other hubs reach this hub, if that is given.
    pub host: Option<Place>,
    /// How others come in.
    pub ways_in: WaysIn,
    /// Where metrics are served.
    pub metrics: Option<SocketAddr>,
    /// The device, if there is to be one.
    pub device: Option<Device>,
    /// The LAN's MTU, if it is given.
    pub mtu: Option<u32>,
    /// Prefixes to which this machine forwards.
    pub routes: Vec<IpNetwork>,
    /// The state directory.
    pub state: PathBuf,
    /// The zone of names to answer for.
    pub zone: Option<Zone>,
    /// How other hubs are connected to.
    pub outbound: Outbound,
    /// The user to become.
    pub user: Option<String>,
    /// The congestion control of all links, if it is not to be chosen by the path.
    pub congestion: Option<String>,
}

impl Options {
    /// Reads the settings.
    ///
    /// # Errors
    /// A sentence that says which one is invalid, and what to write instead.
    pub fn read(settings: &Settings) -> Result<Options, String> {
        let prefixes = settings.many("subnet", values::subnet)?;
        let routes = settings.many("route", values::prefix)?;
        values::refuse_host_bits("--route", &routes)?;
        if routes.len() > MAX_ROUTES {
            return Err(format!("at most {MAX_ROUTES} networks can be offered with --route"));
        }
        let listen = listen(settings)?;
        let port = listen.first().map_or(DEFAULT_PORT, |listen| match listen {
            Listen::Port(port) => *port,
            Listen::Address(at) => at.port(),
        });
        let host = settings.one("host", values::any::<Place>)?.map(|host| host.with_port(port));
        let lan = which_lan(settings, &prefixes, port, host.clone())?;
        if let (WhichLan::Own(subnets), Some(host)) = (&lan, &host) {
            subnets.check_place(host).map_err(|why| format!("--host {why}"))?;
        }
        Ok(Options {
            metrics: metrics(settings, &prefixes)?,
            lan,
            host,
            ways_in: WaysIn { listen, icmp: settings.switch("icmp")?, tls: tls(settings)? },
            outbound: Outbound::read(settings)?,
            device: device(settings)?,
            mtu: settings.one("mtu", values::number)?,
            routes,
            state: state(settings)?,
            zone: zone::of_settings(settings)?,
            user: settings.one("user", values::any)?,
            congestion: settings.one("congestion", values::any)?,
        })
    }
}

fn which_lan(
    settings: &Settings,
    prefixes: &[IpNetwork],
    port: u16,
    host: Option<Place>,
) -> Result<WhichLan, String> {
    let Some(hub) = settings.one("join", values::any::<Place>)? else {
        if let Some(name) =
            ["invite", "invite-file", "hub-key"].iter().find(|name| settings.source(name).is_some())
        {
            return Err(format!(
                "--{name} is for a hub that joins another one's LAN, and --join HOST is missing, which says where that one \
                 is; leave --subnet out then"
            ));
        }
        return Ok(WhichLan::Own(Subnets::new(prefixes).map_err(|error| error.to_string())?));
    };
    if !prefixes.is_empty() {
        return Err("the LAN to --join says which --subnet it has: leave that out".to_owned());
    }
    Ok(WhichLan::Joined(Box::new(ToJoin {
        hub,
        hub_key: settings.one("hub-key", values::any)?,
        invite: values::invite_source(
            settings.one("invite", values::any)?,
            settings.one("invite-file", values::any)?,
        )?,
        host,
        port,
    })))
}

/// Whether the settings say which LAN it is to be, by itself or by another hub.
pub fn names_lan(settings: &Settings) -> bool {
    settings.source("subnet").is_some() || settings.source("join").is_some()
}

/// An endpoint of etcd.
///
/// # Errors
/// A sentence that says what to write instead.
pub fn endpoint(text: &str) -> Result<String, String> {
    let bad = |why: String| format!("{text:?} is no endpoint of etcd: {why}");
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err(bad(format!("write http://{text} or https://{text}")));
    };
    if !matches!(scheme.to_ascii_lowercase().as_str(), "http" | "https") {
        return Err(bad(format!("write http://{rest} or https://{rest}")));
    }
    let (place, _) = rest.split_once('/').unwrap_or((rest, ""));
    if let Err(why) = split_port(place) {
        let why = why.split("; write ").next().unwrap_or_default();
        return Err(bad(format!("{why}; write {scheme}://HOST:PORT")));
    }
    Ok(text.to_owned())
}

/// Each place once, and none that another one includes; none where that is the default.
fn listen(settings: &Settings) -> Result<Vec<Listen>, String> {
    let mut places: Vec<Listen> = Vec::new();
    for place in settings.many("listen", values::listen)? {
        if !places.iter().any(|other| other.includes(&place)) {
            places.retain(|other| !place.includes(other));
            places.push(place);
        }
    }
    if places.len() > MAX_LISTEN {
        return Err(format!("a hub listens in at most {MAX_LISTEN} places"));
    }
    Ok(if places == [Listen::Port(DEFAULT_PORT)] { Vec::new() } else { places })
}

/// One address that the internet does not reach: whoever reaches it is told.
fn metrics(settings: &Settings, subnets: &[IpNetwork]) -> Result<Option<SocketAddr>, String> {
    let place = |text: &str| {
        let at = match values::listen(text)? {
            Listen::Port(port) if text.starts_with('*') => (Ipv6Addr::UNSPECIFIED, port).into(),
            Listen::Port(port) => SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            Listen::Address(at) => at,
        };
        if is_private(at.ip()) || subnets.iter().any(|subnet| subnet.contains(at.ip())) {
            return Ok(at);
        }
        let (what, port) =
            (if at.ip().is_unspecified() { "all addresses" } else { "the internet" }, at.port());
        Err(format!(
            "metrics are not for {what}: give one address of this machine or of a private network, such as \
             127.0.0.1:{port}"
        ))
    };
    settings.one("metrics", place)
}

fn is_private(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let is_shared = v4.octets()[0] == 100 && v4.octets()[1] & 0xc0 == 64;
            v4.is_loopback() || v4.is_private() || v4.is_link_local() || is_shared
        }
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}

/// What needs the machine on the LAN does not go without its device.
fn device(settings: &Settings) -> Result<Option<Device>, String> {
    let name = settings.one("tun", values::device)?;
    let exports = settings.many("export", values::device)?;
    if !settings.switch("no-tun")? {
        return Ok(Some(Device { name: name.unwrap_or_else(|| DEFAULT_TUN.to_owned()), exports }));
    }
    let others = [
        (name.is_some(), "--tun"),
        (!exports.is_empty(), "--export"),
        (!settings.many("route", values::prefix)?.is_empty(), "--route"),
        (zone::of_settings(settings)?.is_some(), "--dns"),
    ];
    match others.into_iter().find(|(is_given, _)| *is_given) {
        Some((_, other)) => Err(format!("{other} needs the device that --no-tun leaves out")),
        None => Ok(None),
    }
}

fn tls(settings: &Settings) -> Result<Option<TlsFiles>, String> {
    match (settings.one("tls-cert", values::any)?, settings.one("tls-key", values::any)?) {
        (Some(certificate), Some(key)) => Ok(Some(TlsFiles { certificate, key })),
        (None, None) => Ok(None),
        (Some(_), None) => Err("--tls-cert needs the certificate's key, too: --tls-key FILE".to_owned()),
        (None, Some(_)) => Err("--tls-key needs the key's certificate, too: --tls-cert FILE".to_owned()),
    }
}

/// The state directory, which commands need too.
///
/// # Errors
/// Never yet; for the same call as the others.
pub fn state(settings: &Settings) -> Result<PathBuf, String> {
    Ok(settings.one("state", values::any)?.unwrap_or_else(|| DEFAULT_STATE.into()))
}

#[cfg(test)]
mod tests;
