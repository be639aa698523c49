//! The commands that ask a running hub. IO: they speak to its control socket and print.
#![expect(clippy::disallowed_methods, reason = "an IO file: it asks the kernel for this machine's address")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use argh::FromArgs;
use common::node::cli::{print, say};
use common::node::control::{AskError, ask};
use common::node::human::HumanDuration;
use common::wire::name::Name;
use hub::control::{Invited, PAGE, Reloaded, Request, Revoked, Status};
use hub::report;
use ipnetwork::IpNetwork;
use serde::Serialize;

/// Where a hub keeps its state unless `--state` says otherwise.
pub(crate) const DEFAULT_STATE: &str = "/var/lib/hub";

/// What to ask the running hub.
#[derive(FromArgs)]
#[argh(subcommand)]
pub(crate) enum Command {
    /// See the variant's type.
    Status(StatusArgs),
    /// See the variant's type.
    Invite(InviteArgs),
    /// See the variant's type.
    Lock(LockArgs),
    /// See the variant's type.
    Unlock(UnlockArgs),
    /// See the variant's type.
    Revoke(RevokeArgs),
    /// See the variant's type.
    Reload(ReloadArgs),
}

/// Shows who is on the LAN, and how the links are.
#[derive(FromArgs)]
#[argh(subcommand, name = "status")]
pub(crate) struct StatusArgs {
    /// the hub's state directory (default /var/lib/hub)
    #[argh(option)]
    state: Option<PathBuf>,
    /// print JSON
    #[argh(switch)]
    json: bool,
}

/// Lets one more machine in, once: prints the line to run there.
#[derive(FromArgs)]
#[argh(subcommand, name = "invite")]
pub(crate) struct InviteArgs {
    /// the name that it will have
    #[argh(positional, from_str_fn(common::node::cli::typed_name))]
    name: Name,
    /// address that it will have (default: a free one); may be given twice, for IPv4 and IPv6
    #[argh(option)]
    ip: Vec<IpAddr>,
    /// prefix behind it that it may offer; may be given several times
    #[argh(option)]
    route: Vec<IpNetwork>,
    /// how long the invite lives: 90s, 15m, 24h, 7d (default 24h)
    #[argh(option, long = "for", default = "HumanDuration::hours(24)")]
    life: HumanDuration,
    /// where spokes reach this hub, HOST[:PORT] (default: this machine's own address)
    #[argh(option)]
    host: Option<String>,
    /// the hub's state directory (default /var/lib/hub)
    #[argh(option)]
    state: Option<PathBuf>,
    /// print JSON
    #[argh(switch)]
    json: bool,
}

/// Lets only members join from now on, and those with an invite.
#[derive(FromArgs)]
#[argh(subcommand, name = "lock")]
pub(crate) struct LockArgs {
    /// the hub's state directory (default /var/lib/hub)
    #[argh(option)]
    state: Option<PathBuf>,
    /// print JSON
    #[argh(switch)]
    json: bool,
}

/// Lets anyone join from now on.
#[derive(FromArgs)]
#[argh(subcommand, name = "unlock")]
pub(crate) struct UnlockArgs {
    /// the hub's state directory (default /var/lib/hub)
    #[argh(option)]
    state: Option<PathBuf>,
    /// print JSON
    #[argh(switch)]
    json: bool,
}

/// Ends a membership at once and for good.
#[derive(FromArgs)]
#[argh(subcommand, name = "revoke")]
pub(crate) struct RevokeArgs {
    /// name, address on the LAN, or key
    #[argh(positional)]
    member: String,
    /// the hub's state directory (default /var/lib/hub)
    #[argh(option)]
    state: Option<PathBuf>,
    /// print JSON
    #[argh(switch)]
    json: bool,
}

/// Reads the files members, invites and locked again, as SIGHUP does.
#[derive(FromArgs)]
#[argh(subcommand, name = "reload")]
pub(crate) struct ReloadArgs {
    /// the hub's state directory (default /var/lib/hub)
    #[argh(option)]
    state: Option<PathBuf>,
    /// print JSON
    #[argh(switch)]
    json: bool,
}

/// Runs a command; `state` is what was given before it.
pub(crate) fn run(command: Command, state: Option<PathBuf>) -> ExitCode {
    let done = match command {
        Command::Status(args) => whole_status(&place(args.state, state))
            .and_then(|status| show(&status, args.json, report::status)),
        Command::Invite(args) => invite(args, state),
        Command::Lock(args) => tell(Request::Lock, &place(args.state, state), args.json, report::standing),
        Command::Unlock(args) => {
            tell(Request::Unlock, &place(args.state, state), args.json, report::standing)
        }
        Command::Revoke(RevokeArgs { member, state: own, json }) => {
            tell::<Revoked>(Request::Revoke { member }, &place(own, state), json, report::revoked)
        }
        Command::Reload(args) => {
            tell::<Reloaded>(Request::Reload, &place(args.state, state), args.json, report::reloaded)
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&error);
            ExitCode::FAILURE
        }
    }
}

fn place(own: Option<PathBuf>, before: Option<PathBuf>) -> PathBuf {
    own.or(before).unwrap_or_else(|| DEFAULT_STATE.into())
}

fn tell<T>(request: Request, state: &Path, json: bool, text: impl Fn(&T) -> String) -> Result<(), AskError>
where
    T: Serialize + serde::de::DeserializeOwned,
{
    show(&ask::<T>(state, &request)?, json, text)
}

/// Puts the pages together; the head is that of the last one.
fn whole_status(state: &Path) -> Result<Status, AskError> {
    let mut members = Vec::new();
    loop {
        let after = members.last().map(|member: &hub::control::MemberStatus| member.name.clone());
        let mut page: Status = ask(state, &Request::Status { after })?;
        let is_last = page.members.len() < PAGE;
        members.append(&mut page.members);
        if is_last {
            return Ok(Status { members, ..page });
        }
    }
}

fn invite(args: InviteArgs, state: Option<PathBuf>) -> Result<(), AskError> {
    let InviteArgs { name, ip, route, life, host, state: own, json } = args;
    let request = Request::Invite { name, addresses: ip, routes: route, seconds: life.seconds() };
    let invited: Invited = ask(&place(own, state), &request)?;
    let port = invited.listening.port();
    let (host, how) = match host {
        Some(host) => (with_port(&host, port), None),
        None => match own_address(invited.listening) {
            Some(address) => {
                let how =
                    format!("{address} is this machine's address; if others reach it by another, use --host");
                (SocketAddr::new(address, port).to_string(), Some(how))
            }
            None => (
                format!("HOST:{port}"),
                Some("HOST stands for the name or address of this machine".to_owned()),
            ),
        },
    };
    let line = format!("spoke --hub {host} --hub-key {} --invite {}", invited.hub_key, invited.invite);
    let printed = show(&invited, json, |_| format!("{line}\n"));
    if !json {
        say(&format!("good once, within {}", common::node::human::duration(invited.seconds)));
        if let Some(how) = how {
            say(&how);
        }
    }
    printed
}

/// `HOST[:PORT]` with a port.
fn with_port(host: &str, port: u16) -> String {
    let has_port = match host.strip_prefix('[') {
        Some(rest) => rest.contains("]:"),
        None => host.matches(':').count() == 1,
    };
    match host.parse::<Ipv6Addr>() {
        Ok(v6) => format!("[{v6}]:{port}"),
        Err(_) if has_port => host.to_owned(),
        Err(_) => format!("{host}:{port}"),
    }
}

/// The address that the hub listens on, or the one from which this machine would reach the internet.
fn own_address(listening: SocketAddr) -> Option<IpAddr> {
    if !listening.ip().is_unspecified() {
        return Some(listening.ip());
    }
    // Connecting a UDP socket chooses a route and sends nothing. The addresses are for documentation (RFC 5737,
    // RFC 3849), so that only a default route leads there.
    let v4 = (IpAddr::from(Ipv4Addr::UNSPECIFIED), IpAddr::from([203, 0, 113, 1]));
    let v6 = (IpAddr::from(Ipv6Addr::UNSPECIFIED), IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]));
    [v4, v6].into_iter().find_map(|(any, far)| {
        let socket = UdpSocket::bind((any, 0)).ok()?;
        socket.connect((far, 9)).ok()?;
        Some(socket.local_addr().ok()?.ip())
    })
}

fn show<T: Serialize>(value: &T, json: bool, text: impl Fn(&T) -> String) -> Result<(), AskError> {
    let text = if json { common::node::request::to_json(value) } else { text(value) };
    print(&text).map_err(AskError::Print)
}
