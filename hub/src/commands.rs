//! The commands that ask a running hub. IO: they speak to its control socket and print.
#![expect(clippy::disallowed_methods, reason = "an IO file: it asks the kernel for this machine's address")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};

use common::linux::sandbox::User;
use common::node::args::{Command, Flags};
use common::node::cli::{self, Exit, print, say};
use common::node::config::Settings;
use common::node::control::{AskError, ask};
use common::node::human::HumanDuration;
use common::node::logger;
use common::node::metrics as exposition;
use common::node::names::{resolved, zone::Zone};
use common::node::request::to_json;
use common::node::values;
use common::wire::name::Name;
use common::wire::target::{Target, with_port};
use hub::control::{
    Allowed, Draining, Explained, InviteStatus, Invited, KeeperStatus, MemberStatus, Moved, PAGE,
    PendingStatus, Reloaded, Renamed, Request, Revoked, RuleList, Status,
};
use hub::lan::rules::{Service, Tag};
use hub::lan::subnets::Subnets;
use hub::options::{self, DEFAULT_PREFIX, PROGRAM};
use hub::store::StoreOptions;
use hub::{advice, metrics, report};
use ipnetwork::IpNetwork;
use serde::Serialize;
use signal_hook::consts::{SIGINT, SIGTERM};

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
pub(crate) fn run(command: &Command, flags: Flags, words: &[String]) -> Exit {
    match answer(command, flags, words) {
        Ok(()) => Exit::Done,
        Err(Failure::Usage(sentence)) => {
            say(&sentence);
            Exit::Usage
        }
        Err(Failure::Ask(AskError::Nobody(state))) => {
            say(&advice::nothing_runs(&state, cli::is_root(), hub::server::shares_list(&state)));
            Exit::Failed
        }
        Err(Failure::Ask(error)) => {
            say(&error);
            Exit::Failed
        }
    }
}

fn answer(command: &Command, flags: Flags, words: &[String]) -> Result<(), Failure> {
    let operand = words.first().cloned().unwrap_or_default();
    let (shared, own): (Flags, Flags) = flags
        .into_iter()
        .partition(|(setting, _)| command.settings.iter().all(|known| known.name != setting.name));
    let own = Settings::of_command(&PROGRAM, own);
    let json = Settings::of_command(&PROGRAM, shared.clone()).switch("json")?;
    let settings = in_force(shared.clone(), command.name == "config")?;
    if command.name == "config" {
        return config(&settings, json);
    }
    let state = options::state(&settings)?;
    match command.name {
        "status" => show(&whole_status(&state)?, json, report::status)?,
        "metrics" => metrics(&own, &state, json)?,
        "invite" => invite(&Invitation::read(&operand, &own)?, &state, json)?,
        "invites" => invites(own.one("cancel", values::name)?, &state, json)?,
        "pending" => {
            tell::<Vec<PendingStatus>>(Request::Pending, &state, json, |list| report::pending(list))?
        }
        "allow" => tell::<Allowed>(allow(operand, &own)?, &state, json, report::allowed)?,
        "members" => members(&own, &state, json)?,
        "rename" => rename(words, &state, json)?,
        "forget" => tell::<Revoked>(Request::Forget { member: operand }, &state, json, report::forgotten)?,
        "keep" => {
            let text = |_: &Option<KeeperStatus>| "this hub keeps the list of members\n".to_owned();
            tell(Request::Keep, &state, json, text)?;
        }
        "store" => store(words.first(), &own, &in_force(shared, true)?, &state)?,
        "lock" => tell(Request::Lock, &state, json, report::standing)?,
        "unlock" => tell(Request::Unlock, &state, json, report::standing)?,
        "revoke" => tell::<Revoked>(Request::Revoke { member: operand }, &state, json, report::revoked)?,
        "renumber" => renumber(&operand, shared, &state, json)?,
        "resolved" => register_names(own.one("zone", values::any)?, &state)?,
        "drain" => {
            let off = own.switch("off")?;
            tell::<Draining>(Request::Drain { off }, &state, json, report::draining)?
        }
        "rules" => rules(words, own.switch("explain")?, &state, json)?,
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

/// `hub metrics`; with `--json` one metric a line.
fn metrics(own: &Settings, state: &Path, json: bool) -> Result<(), Failure> {
    let (members, rules) = (own.switch("members")?, own.switch("rules")?);
    let status = match members {
        true => whole_status(state)?,
        false => ask(state, &Request::Status { after: None })?,
    };
    let mut metrics = metrics::metrics(&status);
    if members {
        metrics.extend(metrics::of_members(&status.members));
    }
    if rules {
        metrics.extend(metrics::of_rules(&whole_rules(state)?));
    }
    let text = match json {
        true => metrics.iter().map(to_json).collect(),
        false => exposition::text(&metrics),
    };
    Ok(print(&text).map_err(AskError::Print)?)
}

/// A number of machines.
fn uses(text: &str) -> Result<u32, String> {
    text.parse().ok().filter(|&uses| uses > 0).ok_or_else(|| format!("{text:?} is no number of machines"))
}

/// An invite that is void.
#[derive(Serialize)]
struct Cancelled {
    cancelled: Name,
}

/// `hub invites`: the list, or one of them made void.
fn invites(cancel: Option<Name>, state: &Path, json: bool) -> Result<(), AskError> {
    match cancel {
        Some(name) => {
            let request = Request::Cancel { name: name.clone() };
            ask::<()>(state, &request)?;
            show(&Cancelled { cancelled: name }, json, |done| {
                format!("the invite {} is void\n", done.cancelled)
            })
        }
        None => tell::<Vec<InviteStatus>>(Request::Invites, state, json, |list| report::invites(list)),
    }
}

/// `hub allow`.
fn allow(who: String, own: &Settings) -> Result<Request, String> {
    Ok(Request::Allow {
        who,
        in_place_of: own.one("as", values::any)?,
        name: own.one("name", values::name)?,
        addresses: own.many("ip", values::member_ip)?,
        routes: own.many("route", values::prefix)?,
        tags: own.many("tag", values::any)?,
    })
}

/// `hub rename`.
fn rename(words: &[String], state: &Path, json: bool) -> Result<(), Failure> {
    let [member, name] = words else { return Err("give a member and its new name".to_owned().into()) };
    let name = values::name(name).map_err(|why| format!("{name:?}: {why}"))?;
    let request = Request::Rename { member: member.clone(), name };
    Ok(tell::<Renamed>(request, state, json, report::renamed)?)
}

/// `hub members`: those that all filters let through; with `--json` one object a line.
fn members(own: &Settings, state: &Path, json: bool) -> Result<(), Failure> {
    let (online, offline) = (own.switch("online")?, own.switch("offline")?);
    let tag = own.one("tag", values::any::<Tag>)?;
    let part = own.one("name", values::any::<String>)?.map(|part| part.to_ascii_lowercase());
    let mut status = whole_status(state)?;
    status.members.retain(|member: &MemberStatus| {
        (!online || member.is_online())
            && (!offline || !member.is_online())
            && tag.as_ref().is_none_or(|tag| member.tags.contains(tag))
            && part.as_ref().is_none_or(|part| member.name.as_str().contains(part.as_str()))
    });
    let text = match json {
        true => status.members.iter().map(to_json).collect(),
        false => report::members(&status.members),
    };
    Ok(print(&text).map_err(AskError::Print)?)
}

/// `hub rules`: the list, or what is decided about one case.
fn rules(words: &[String], is_explain: bool, state: &Path, json: bool) -> Result<(), Failure> {
    let [from, to, service] = words else {
        if is_explain {
            return Err("name both ends and the service: hub rules --explain laptop nas tcp/22"
                .to_owned()
                .into());
        }
        show(&whole_rules(state)?, json, report::rules)?;
        return Ok(());
    };
    let _: Service = service.parse()?;
    let (from, to, service) = (from.clone(), to.clone(), service.clone());
    tell::<Explained>(Request::Explain { from, to, service }, state, json, report::explained)?;
    Ok(())
}

/// Puts the pages together; the head is that of the last one.
fn whole_rules(state: &Path) -> Result<RuleList, AskError> {
    let mut rules = Vec::new();
    loop {
        let mut page: RuleList = ask(state, &Request::Rules { from: rules.len() })?;
        let is_last = page.rules.len() < PAGE;
        rules.append(&mut page.rules);
        if is_last {
            return Ok(RuleList { rules, ..page });
        }
    }
}

/// What `hub invite` was told.
#[derive(Clone)]
struct Invitation {
    name: Name,
    uses: Option<u32>,
    addresses: Vec<IpAddr>,
    routes: Vec<IpNetwork>,
    tags: Vec<Tag>,
    life: HumanDuration,
    host: Option<String>,
    is_hub: bool,
}

impl Invitation {
    fn read(name: &str, settings: &Settings) -> Result<Invitation, String> {
        Ok(Invitation {
            name: values::name(name).map_err(|why| format!("{name:?}: {why}"))?,
            uses: settings.one("uses", uses)?.filter(|&uses| uses != 1),
            addresses: settings.many("ip", values::member_ip)?,
            routes: settings.many("route", values::prefix)?,
            tags: settings.many("tag", values::any)?,
            life: settings.one("for", values::any)?.unwrap_or(HumanDuration::hours(24)),
            host: settings.one("host", host)?,
            is_hub: settings.switch("hub")?,
        })
    }
}

/// Where this hub is reached, as it was written.
fn host(text: &str) -> Result<String, String> {
    text.parse::<Target>().map(|_| text.to_owned())
}

fn invite(invitation: &Invitation, state: &Path, json: bool) -> Result<(), AskError> {
    let Invitation { name, uses, addresses, routes, tags, life, host, is_hub } = invitation.clone();
    let (seconds, place) = (life.seconds(), host.clone());
    let request =
        Request::Invite { name: name.clone(), uses, addresses, routes, tags, seconds, is_hub, place };
    let invited: Invited = ask(state, &request)?;
    let port = invited.listening.port();
    let (host, how) = match host {
        Some(host) => (with_port(&host, port).map_err(AskError::Refused)?, None),
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
    let joins = if is_hub { "hub --join" } else { "spoke --hub" };
    let line = format!("{joins} {host} --hub-key {} --invite {}", invited.hub_key, invited.invite);
    let (seconds, replaces) = (invited.seconds, invited.replaces);
    let printed = show(&InviteLine { invited, host, line }, json, |invite| format!("{}\n", invite.line));
    if !json {
        if replaces {
            say(&format!("the earlier invite of {name} is void"));
        }
        let often = uses.map_or("once".to_owned(), |uses| format!("for {uses} machines"));
        say(&format!("good {often}, within {}", common::node::human::duration(seconds)));
        if let Some(how) = how {
            say(&how);
        }
    }
    printed
}

/// What `hub invite` prints.
#[derive(Serialize)]
struct InviteLine {
    #[serde(flatten)]
    invited: Invited,
    /// Where this hub is reached.
    host: String,
    /// What to run on the other machine.
    line: String,
}

/// Asks the hub, or, where none runs, does it in its files, which belong to the hub's user.
fn renumber(operand: &str, flags: Flags, state: &Path, json: bool) -> Result<(), Failure> {
    let subnets: Result<Vec<IpNetwork>, String> = operand.split(',').map(values::subnet).collect();
    let subnets = subnets.map_err(|why| format!("{operand}: {why}"))?;
    let checked = Subnets::new(&subnets).map_err(|error| error.to_string().replace("--subnet ", ""))?;
    let moved: Moved = match ask(state, &Request::Renumber { subnets }) {
        Err(AskError::Nobody(_)) if state.exists() => {
            let user = in_force(flags, true)?.one::<String>("user", values::any)?;
            let user = user.as_deref().map(User::find).transpose().map_err(|error| error.to_string())?;
            hub::server::renumber_stopped(state, user.as_ref(), checked).map_err(AskError::Refused)?
        }
        asked => asked?,
    };
    Ok(show(&moved, json, report::moved)?)
}

/// `hub store`: runs until a signal comes. What is not said on the command line is as `/etc/hub.toml` and the environment
/// have it.
fn store(url: Option<&String>, own: &Settings, hub: &Settings, state: &Path) -> Result<(), Failure> {
    logger::start();
    let first = url.map(|url| options::endpoint(url)).transpose()?;
    let given: Vec<String> = first.into_iter().chain(own.many("endpoint", options::endpoint)?).collect();
    let endpoints = if given.is_empty() { hub.many("store", options::endpoint)? } else { given };
    if endpoints.is_empty() {
        let text = "name an endpoint of etcd: hub store http://127.0.0.1:2379, or store = [\"URL\"] in /etc/hub.toml";
        return Err(text.to_owned().into());
    }
    let one = |name: &str| match own.one::<String>(name, values::any)? {
        None => hub.one(&format!("store-{name}"), values::any),
        given => Ok(given),
    };
    let path = |name: &str| one(name).map(|file| file.map(PathBuf::from));
    let files = [path("ca")?, path("cert")?, path("key")?];
    let prefix = one("prefix")?.unwrap_or_else(|| DEFAULT_PREFIX.to_owned());
    let options = StoreOptions { state: state.to_owned(), endpoints, prefix, files };
    let signals = cli::on_signals(&[SIGINT, SIGTERM]).map_err(|error| error.to_string())?;
    Ok(hub::store::run(&options, signals)?)
}

/// `hub resolved`: the zone is that for which the hub answers, where none is given.
fn register_names(zone: Option<Zone>, state: &Path) -> Result<(), Failure> {
    let status: Status = ask(state, &Request::Status { after: None })?;
    let subnets = Subnets::new(&status.subnets).map_err(|error| error.to_string())?;
    let own: Vec<IpNetwork> = subnets.hub().collect();
    let its_own = status.zone.as_deref().map(values::any).transpose()?;
    let Some(zone) = zone.or(its_own) else {
        return Err(AskError::Refused("the hub answers for no names: start it with --dns".to_owned()).into());
    };
    say(&resolved::register(&status.device, &own, &zone).map_err(AskError::Refused)?);
    Ok(())
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
