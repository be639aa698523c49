//! The commands that ask a running spoke. IO: they speak to its control socket and print.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use argh::FromArgs;
use common::node::cli::{print, say};
use common::node::control::{AskError, ask};
use common::node::request::to_json;
use common::wire::name::Name;
use spoke::control::{MAX_MEMBERS, MemberStatus, Page, Request, Status, before};
use spoke::report;

/// Where spokes keep their state unless `--state` says otherwise.
pub(crate) const DEFAULT_STATE: &str = "/var/lib/spoke";

/// What to ask the running spoke.
#[derive(FromArgs)]
#[argh(subcommand)]
pub(crate) enum Command {
    /// See the variant's type.
    Status(StatusArgs),
    /// See the variant's type.
    Resolve(ResolveArgs),
}

/// Shows how this machine is on the LAN, and who else is.
#[derive(FromArgs)]
#[argh(subcommand, name = "status")]
pub(crate) struct StatusArgs {
    /// the spoke's state directory (default: those of all spokes that run below /var/lib/spoke)
    #[argh(option)]
    state: Option<PathBuf>,
    /// print JSON, a line for each spoke
    #[argh(switch)]
    json: bool,
}

/// Prints the addresses of a member.
#[derive(FromArgs)]
#[argh(subcommand, name = "resolve")]
pub(crate) struct ResolveArgs {
    /// the member's name
    #[argh(positional)]
    name: Name,
    /// the spoke's state directory (default: those of all spokes that run below /var/lib/spoke)
    #[argh(option)]
    state: Option<PathBuf>,
    /// print JSON, a line for each spoke
    #[argh(switch)]
    json: bool,
}

/// Runs a command; `state` is what was given before it.
pub(crate) fn run(command: Command, state: Option<PathBuf>) -> ExitCode {
    let done = match command {
        Command::Status(args) => show_status(args.state.or(state), args.json),
        Command::Resolve(args) => resolve(&args.name, args.state.or(state), args.json),
    };
    match done {
        Ok(found) if found => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            say(&error);
            ExitCode::FAILURE
        }
    }
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
    // A second spoke keeps its state in a directory below, named after its address.
    let below = std::fs::read_dir(&shared).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut places: Vec<PathBuf> = below.filter(|path| path.is_dir()).collect();
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
