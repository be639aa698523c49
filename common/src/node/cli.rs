//! What both command lines share. IO: it prints, reads the environment and the configuration file, and asks the system
//! for its name and its limits.
#![expect(
    clippy::disallowed_methods,
    reason = "an IO file: it reads the host name and the configuration file"
)]

use std::fmt;
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use ipnetwork::IpNetwork;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::args::{Flags, Program, variable};
use super::config::{CONFIG, MAX_FILE, Settings};
use super::values::{self, InviteSource};
use crate::wire::invite::Secret;
use crate::wire::name::Name;

/// How a program ends. The codes are documented in the manual; the service units rely on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// All went well.
    Done = 0,
    /// It could not start, could not go on, or a command was refused.
    Failed = 1,
    /// The command line, the environment or the configuration file is invalid.
    Usage = 2,
    /// The hub refuses this spoke for good: starting it again changes nothing.
    Refused = 3,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// Where a program looks for its configuration file.
#[derive(Clone, Copy, Debug)]
pub struct ConfigFiles {
    /// The file that is read if it is there and no other is named.
    pub default: Option<&'static str>,
    /// The directory of those that are named by a word alone: `--config home` is `home.toml` there.
    pub directory: &'static str,
}

/// Puts the command line, the environment and the configuration file together; the second half is what to warn of.
///
/// # Errors
/// A sentence about what is invalid.
pub fn load(
    program: &'static Program,
    flags: Flags,
    files: ConfigFiles,
) -> Result<(Settings, Vec<String>), String> {
    // A variable that is not UTF-8 is none of ours.
    let variables: Vec<(String, String)> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let named =
        flags.iter().find(|(setting, _)| setting.name == CONFIG).and_then(|(_, values)| values.first());
    let in_environment = variables.iter().find(|(name, _)| *name == variable(program.name, CONFIG));
    let named = named.or(in_environment.map(|(_, value)| value)).filter(|name| !name.is_empty());
    let path = match (named, files.default) {
        (Some(name), _) => config_path(name, files.directory),
        (None, Some(default)) if Path::new(default).exists() => default.into(),
        (None, _) => return Settings::merge(program, flags, variables, None),
    };
    let text = read_text(&path)?;
    let can_others_read = std::fs::metadata(&path).is_ok_and(|metadata| metadata.mode() & 0o044 != 0);
    let place = path.display().to_string();
    let (settings, mut warnings) = Settings::merge(program, flags, variables, Some((&place, &text)))?;
    if settings.has_secret_of_file() && can_others_read {
        warnings.push(format!("{place} holds a secret and can be read by others: run `chmod 600 {place}`"));
    }
    Ok((settings, warnings))
}

/// A word alone names a file in the directory.
fn config_path(name: &str, directory: &str) -> PathBuf {
    let is_word = !name.contains('/') && !name.ends_with(".toml");
    if is_word { Path::new(directory).join(format!("{name}.toml")) } else { name.into() }
}

/// Reads a small text file that a setting names.
///
/// # Errors
/// A sentence with the file and the system's reason.
pub fn read_text(path: &Path) -> Result<String, String> {
    let fail = |error: io::Error| format!("cannot read {}: {error}", path.display());
    let file = std::fs::File::open(path).map_err(fail)?;
    let mut text = String::new();
    io::Read::read_to_string(&mut io::Read::take(file, MAX_FILE), &mut text).map_err(fail)?;
    Ok(text)
}

/// A variable of the environment, if it is text.
pub fn variable_of(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// The secret of an invite, which may be in a file.
///
/// # Errors
/// A sentence that names the file.
pub fn invite(source: InviteSource) -> Result<Secret, String> {
    match source {
        InviteSource::Secret(secret) => Ok(secret),
        InviteSource::File(path) => {
            values::invite_in_file(&read_text(&path)?).map_err(|why| format!("{}: {why}", path.display()))
        }
    }
}

/// Prints name and version, for `--version`.
pub fn print_version(name: &str, version: &str) -> ExitCode {
    match writeln!(std::io::stdout(), "{name} {version}") {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Prints a text, which nothing else depends on.
pub fn print_all(text: &str) -> Exit {
    if print(text).is_ok() { Exit::Done } else { Exit::Failed }
}

/// Prints the output of a command. A reader that closes the pipe early, such as `head`, is not an error.
pub fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}

/// Says what a command has to say beside, or why it failed, on standard error.
pub fn say(text: &impl fmt::Display) {
    // There is nobody else to tell.
    let _ = writeln!(io::stderr(), "{text}");
}

/// Raises the limit of descriptors as far as the administrator lets us, and returns it.
pub fn raise_descriptor_limit() -> usize {
    let resource = Resource::RLIMIT_NOFILE;
    let raised = getrlimit(resource).map(|(soft, hard)| match setrlimit(resource, hard, hard) {
        Ok(()) => hard,
        Err(_) => soft,
    });
    // The least that POSIX lets a system have is 20; no system is known without a figure.
    raised.map_or(20, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
}

/// A socket on which a byte arrives with each of these signals.
pub fn on_signals(signals: &[i32]) -> io::Result<UnixStream> {
    let (receiver, sender) = UnixStream::pair()?;
    receiver.set_nonblocking(true)?;
    for &signal in signals {
        signal_hook::low_level::pipe::register(signal, sender.try_clone()?)?;
    }
    Ok(receiver)
}

/// Warns where this machine is to forward to these prefixes, but its kernel does not forward.
pub fn warn_if_not_forwarding(prefixes: &[IpNetwork]) {
    for (is_ipv6, switch) in [(false, "net.ipv4.ip_forward"), (true, "net.ipv6.conf.all.forwarding")] {
        let path = format!("/proc/sys/{}", switch.replace('.', "/"));
        let is_off = std::fs::read_to_string(path).is_ok_and(|text| text.trim() == "0");
        if is_off && prefixes.iter().any(|prefix| prefix.is_ipv6() == is_ipv6) {
            log::warn!(
                "this machine does not forward packets, so the routes lead nowhere: run `sysctl -w {switch}=1`"
            );
        }
    }
}

/// Warns where the kernel does not forward what comes in by a device.
pub fn warn_if_device_not_forwarding(name: &str) {
    let switch = format!("net/ipv4/conf/{name}/forwarding");
    if std::fs::read_to_string(format!("/proc/sys/{switch}")).is_ok_and(|text| text.trim() == "0") {
        log::warn!("packets that come in by {name} are not forwarded: run `sysctl -w {switch}=1`");
    }
}

/// Whether this network namespace has an IPv6 address, be it that of the loopback device.
pub fn has_ipv6() -> bool {
    std::fs::read_to_string("/proc/net/if_inet6").is_ok_and(|addresses| !addresses.is_empty())
}

/// Whether an administrator runs this.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// The time of day, since the beginning of 1970.
pub fn unix_time() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// The name nearest to the machine's own.
pub fn host_name() -> Name {
    Name::nearest(std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim())
}
