//! The commands that ask a running spoke. IO: they speak to its control socket and print.
#![expect(clippy::disallowed_methods, reason = "an IO file: it looks for state directories")]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use common::node::args::{Command, Flags};
use common::node::cli::{self, Exit, print, say};
use common::node::config::Settings;
use common::node::control::{AskError, ask};
use common::node::metrics as exposition;
use common::node::names::{resolved, zone::Zone};
use common::node::request::to_json;
use common::node::state;
use common::node::values;
use common::wire::name::Name;
use spoke::check::{self, show};
use spoke::control::{MAX_MEMBERS, MemberStatus, Page, Request, Status, before};
use spoke::options::{self, DEFAULT_STATE, PROGRAM};
use spoke::{metrics, report};

use crate::{CONFIG_FILES, ways};

/// What went wrong with a command.
enum Failure {
    /// What was typed is invalid.
    Usage(String),
    /// No spoke answered as it should.
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
        Ok(true) => Exit::Done,
        Ok(false) => Exit::Failed,
        Err(Failure::Usage(sentence)) => {
            say(&sentence);
            Exit::Usage
        }
        Err(Failure::Ask(AskError::Nobody(state))) => {
            say(&report::nothing_runs(&state, cli::is_root()));
            Exit::Failed
        }
        Err(Failure::Ask(error)) => {
            say(&error);
            Exit::Failed
        }
    }
}

fn answer(command: &Command, mut flags: Flags, words: &[String]) -> Result<bool, Failure> {
    let json = Settings::of_command(&PROGRAM, flags.clone()).switch("json")?;
    flags.retain(|(setting, _)| setting.name != "json");
    let (settings, warnings) = cli::load(&PROGRAM, flags, CONFIG_FILES)?;
    warnings.iter().for_each(say);
    let state = options::state(&settings)?;
    match command.name {
        "status" => Ok(show_status(state, json)?),
        "metrics" => Ok(show_metrics(state, json)?),
        "resolve" => {
            let operand = words.first().map_or("", String::as_str);
            let name: Name = operand.parse().map_err(|error| format!("{operand:?}: {error}"))?;
            Ok(resolve(&name, state, json)?)
        }
        "key" => key(&state.unwrap_or_else(|| DEFAULT_STATE.into()), json),
        "resolved" => register_names(&settings, state),
        "check" => check(&settings, state.unwrap_or_else(|| DEFAULT_STATE.into()), json),
        "config" => config(&settings, json),
        other => Err(format!("spoke {other} is not known").into()),
    }
}

/// `spoke config`: also checks that a spoke could start with it.
fn config(settings: &Settings, json: bool) -> Result<bool, Failure> {
    let text = if json { to_json(&settings.rows().collect::<Vec<_>>()) } else { settings.report() };
    print(&text).map_err(AskError::Print)?;
    options::Options::read(settings)?;
    Ok(true)
}

/// `spoke check`: needs no privilege, but for what only root may read.
fn check(settings: &Settings, state: PathBuf, json: bool) -> Result<bool, Failure> {
    let options = options::Options::read(settings)?;
    let ways = ways(&options.path)?;
    let options::Path { hubs, outbound, .. } = options.path;
    let tls_ca = outbound.tls_ca;
    let config =
        check::Config { hubs, ways, tls_ca, hub_keys: options.hub_keys, addresses: options.addresses, state };
    let findings =
        check::run(&config).map_err(|error| AskError::Refused(format!("cannot check: {error}")))?;
    let text = if json { show::json(&findings) } else { show::text(&findings) };
    print(&text).map_err(AskError::Print)?;
    Ok(findings.are_good())
}

/// `spoke key`: of the spoke that runs, or else of the state directory.
fn key(state: &Path, json: bool) -> Result<bool, Failure> {
    let key = match ask::<Status>(state, &Request::Status) {
        Ok(status) => status.key,
        Err(AskError::Nobody(_)) => {
            let state = state::State::open(state).map_err(|error| AskError::Refused(error.to_string()))?;
            state.key().map_err(|error| AskError::Refused(error.to_string()))?.public()
        }
        Err(error) => return Err(error.into()),
    };
    let text = if json { to_json(&BTreeMap::from([("key", key)])) } else { format!("{key}\n") };
    print(&text).map_err(AskError::Print)?;
    Ok(true)
}

/// `spoke resolved`, of each spoke that runs.
fn register_names(settings: &Settings, state: Option<PathBuf>) -> Result<bool, Failure> {
    let given: Option<Zone> = settings.one("zone", values::any)?;
    for (_, status) in running(state)? {
        let own = status.zone.as_deref().map(values::any).transpose()?;
        let done = match given.clone().or(own) {
            _ if status.addresses.is_empty() => {
                Err(format!("{} has no address yet: it is not on the LAN", status.device))
            }
            Some(zone) => resolved::register(&status.device, &status.addresses, &zone),
            None => Err(format!("the spoke on {} answers for no names: start it with --dns", status.device)),
        };
        say(&done.map_err(AskError::Refused)?);
    }
    Ok(true)
}

fn show_status(state: Option<PathBuf>, json: bool) -> Result<bool, AskError> {
    let mut text = String::new();
    for (directory, mut status) in running(state)? {
        let mut lost = None;
        if status.link.is_some() {
            match members(&directory, None, |_| true) {
                Ok(members) => status.members = members,
                Err(error) => lost = Some(error),
            }
        }
        if json {
            text.push_str(&to_json(&status));
            continue;
        }
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&report::status(&status));
        if let Some(error) = lost {
            text.push_str(&format!("\nthe members are not known: {error}\n"));
        }
    }
    print(&text).map_err(AskError::Print)?;
    Ok(true)
}

/// `spoke metrics`; with `--json` one metric a line.
fn show_metrics(state: Option<PathBuf>, json: bool) -> Result<bool, AskError> {
    let spokes: Vec<Status> = running(state)?.into_iter().map(|(_, status)| status).collect();
    let metrics = metrics::metrics(&spokes);
    let text = match json {
        true => metrics.iter().map(to_json).collect(),
        false => exposition::text(&metrics),
    };
    print(&text).map_err(AskError::Print)?;
    Ok(true)
}

fn resolve(name: &Name, state: Option<PathBuf>, json: bool) -> Result<bool, AskError> {
    let mut found = false;
    for (directory, _) in running(state)? {
        // Members come in the order of their names.
        let near = members(&directory, before(name), |member| member.name < *name)?;
        if let Some(member) = near.into_iter().find(|member| member.name == *name) {
            found = true;
            let lines =
                |addresses: &[IpAddr]| addresses.iter().map(|address| format!("{address}\n")).collect();
            let text: String = if json { to_json(&member) } else { lines(&member.addresses) };
            print(&text).map_err(AskError::Print)?;
        }
    }
    if !found {
        say(&format!("no member has the name {name}"));
    }
    Ok(found)
}

/// The members behind a name, page by page, for as long as `go_on` says so of a page's last one.
fn members(
    state: &Path,
    mut after: Option<Name>,
    go_on: impl Fn(&MemberStatus) -> bool,
) -> Result<Vec<MemberStatus>, AskError> {
    let mut members: Vec<MemberStatus> = Vec::new();
    loop {
        let Page { members: page, last } = ask(state, &Request::Members { after })?;
        // A page without a member would be asked for again and again, and a hub may have no end of others.
        let is_end = last || members.len() >= MAX_MEMBERS || page.last().is_none_or(|member| !go_on(member));
        members.extend(page);
        if is_end {
            return Ok(members);
        }
        after = members.last().map(|member| member.name.clone());
    }
}

/// The spokes that run, with their state directories: at least one.
fn running(state: Option<PathBuf>) -> Result<Vec<(PathBuf, Status)>, AskError> {
    if let Some(state) = state {
        let status = ask(&state, &Request::Status)?;
        return Ok(vec![(state, status)]);
    }
    let shared = PathBuf::from(DEFAULT_STATE);
    // A second spoke of earlier versions has its state in a directory below, named after its address.
    let below = std::fs::read_dir(&shared).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut places: Vec<PathBuf> =
        below.filter(|path| path.is_dir() && *path != state::inner(&shared)).collect();
    places.sort();
    places.insert(0, shared.clone());
    let mut found = Vec::new();
    for place in places {
        match ask(&place, &Request::Status) {
            Ok(status) => found.push((place, status)),
            Err(AskError::Nobody(_)) => {}
            Err(error) => return Err(error),
        }
    }
    if found.is_empty() { Err(AskError::Nobody(shared)) } else { Ok(found) }
}
