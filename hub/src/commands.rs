//! The commands that ask a running hub. IO: they speak to its control socket and print.
#![expect(clippy::disallowed_methods, reason = "an IO file: it asks the kernel for this machine's address")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;

use common::linux::sandbox::User;
use common::node::args::{Command, Flags};
use common::node::cli::{self, Exit, print, say};
use common::node::config::Settings;
use common::node::control::{AskError, ask};
use common::node::human::HumanDuration;
use common::node::request::to_json;
use common::node::values;
use common::wire::name::Name;
use hub::control::{Invited, Moved, PAGE, Reloaded, Request, Revoked, Status};
use hub::lan::subnets::Subnets;
use hub::options::{self, PROGRAM};
use hub::{advice, report};
use ipnetwork::IpNetwork;
use serde::Serialize;

use crate::CONFIG_FILES;

/// What went wrong with a command.
enum Failure {
    /// What was typed is invalid.
    Usage(String),
    /// The hub did not do it.
    Ask(AskError),
}

impl From<String> for Failure {
    fn from(sentence: String) -> Failure {
        Failure::Usage(sentence)
    }
}

impl From<AskError> for Failure {
    fn from(error: AskError) -> Failure {
        Failure::Ask(error)
    }
}

/// Runs a command.
pub(crate) fn run(command: &Command, flags: Flags, operand: Option<String>) -> Exit {
    match answer(command, flags, operand.unwrap_or_default()) {
        Ok(()) => Exit::Done,
        Err(Failure::Usage(sentence)) => {
            say(&sentence);
            Exit::Usage
        }
        Err(Failure::Ask(AskError::Nobody(state))) => {
            say(&advice::nothing_runs(&state, cli::is_root()));
            Exit::Failed
        }
        Err(Failure::Ask(error)) => {
            say(&error);
            Exit::Failed
        }
    }
}

fn answer(command: &Command, flags: Flags, operand: String) -> Result<(), Failure> {
    let (shared, own): (Flags, Flags) = flags
        .into_iter()
        .partition(|(setting, _)| command.settings.iter().all(|known| known.name != setting.name));
    let own = Settings::of_command(&PROGRAM, own);
    let json = Settings::of_command(&PROGRAM, shared.clone()).switch("json")?;
    let settings = in_force(shared, command.name == "config")?;
    if command.name == "config" {
        return config(&settings, json);
    }
    let state = options::state(&settings)?;
    match command.name {
        "status" => show(&whole_status(&state)?, json, report::status)?,
        "invite" => invite(&Invitation::read(&operand, &own)?, &state, json)?,
        "lock" => tell(Request::Lock, &state, json, report::standing)?,
        "unlock" => tell(Request::Unlock, &state, json, report::standing)?,
        "revoke" => tell::<Revoked>(Request::Revoke { member: operand }, &state, json, report::revoked)?,
        "renumber" => renumber(&operand, &settings, &state, json)?,
        "reload" => tell::<Reloaded>(Request::Reload, &state, json, report::reloaded)?,
        other => return Err(format!("hub {other} is not known").into()),
    }
    Ok(())
}

/// What a hub would run with that was started with these flags.
fn in_force(mut flags: Flags, needs_all: bool) -> Result<Settings, Failure> {
    flags.retain(|(setting, _)| setting.name != "json");
    // The state directory is all that most commands need to know: where it is given, no file can be in the way.
    if !needs_all && flags.iter().any(|(setting, _)| setting.name == "state") {
        return Ok(Settings::of_command(&PROGRAM, flags));
    }
    let (settings, warnings) = cli::load(&PROGRAM, flags, CONFIG_FILES)?;
    warnings.iter().for_each(say);
    Ok(settings)
}

/// `hub config`: also checks that a hub could start with it.
fn config(settings: &Settings, json: bool) -> Result<(), Failure> {
    let text = if json { to_json(&settings.rows().collect::<Vec<_>>()) } else { settings.report() };
    print(&text).map_err(AskError::Print)?;
    options::Options::read(settings)?;
    Ok(())
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

/// What `hub invite` was told.
struct Invitation {
    name: Name,
    addresses: Vec<IpAddr>,
    routes: Vec<IpNetwork>,
    life: HumanDuration,
    host: Option<String>,
}

impl Invitation {
    fn read(name: &str, settings: &Settings) -> Result<Invitation, String> {
        Ok(Invitation {
            name: values::name(name).map_err(|why| format!("{name:?}: {why}"))?,
            addresses: settings.many("ip", values::member_ip)?,
            routes: settings.many("route", values::prefix)?,
            life: settings.one("for", values::any)?.unwrap_or(HumanDuration::hours(24)),
            host: settings.one("host", values::any)?,
        })
    }
}

fn invite(invitation: &Invitation, state: &Path, json: bool) -> Result<(), AskError> {
    let Invitation { name, addresses, routes, life, host } = invitation;
    let (name, addresses, routes) = (name.clone(), addresses.clone(), routes.clone());
    let request = Request::Invite { name, addresses, routes, seconds: life.seconds() };
    let invited: Invited = ask(state, &request)?;
    let port = invited.listening.port();
    let (host, how) = match host {
        Some(host) => (with_port(host, port), None),
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

/// Asks the hub, or, where none runs, does it in its files.
fn renumber(operand: &str, settings: &Settings, state: &Path, json: bool) -> Result<(), Failure> {
    let subnets: Result<Vec<IpNetwork>, String> = operand.split(',').map(values::subnet).collect();
    let subnets = subnets.map_err(|why| format!("{operand}: {why}"))?;
    let checked = Subnets::new(&subnets).map_err(|error| error.to_string().replace("--subnet ", ""))?;
    let moved: Moved = match ask(state, &Request::Renumber { subnets }) {
        Err(AskError::Nobody(_)) if state.exists() => {
            let user = settings.one::<String>("user", values::any)?;
            let user = user.as_deref().map(User::find).transpose().map_err(|error| error.to_string())?;
            hub::server::renumber_stopped(state, user.as_ref(), checked).map_err(AskError::Refused)?
        }
        asked => asked?,
    };
    Ok(show(&moved, json, report::moved)?)
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
    let text = if json { to_json(value) } else { text(value) };
    print(&text).map_err(AskError::Print)
}
