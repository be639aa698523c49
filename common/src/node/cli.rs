//! What both command lines share. IO: it prints, and asks the system for its
//! name and its limits.
#![expect(clippy::disallowed_methods, reason = "an IO file: it reads the host name")]

use std::fmt;
use std::io::{self, Write as _};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use ipnetwork::IpNetwork;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::wire::name::Name;

/// Prints name and version, for `--version`.
pub fn print_version(name: &str, version: &str) -> ExitCode {
    match writeln!(std::io::stdout(), "{name} {version}") {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Prints what a command has to tell. Whoever reads it may have heard enough, as `head` has.
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

/// Refuses prefixes of `option` with bits set behind their length.
pub fn refuse_host_bits(option: &str, prefixes: &[IpNetwork]) -> Result<(), String> {
    match prefixes.iter().find(|prefix| prefix.network() != prefix.ip()) {
        None => Ok(()),
        Some(bad) => {
            let (network, length) = (bad.network(), bad.prefix());
            Err(format!("{option} {bad} has bits set behind its prefix: did you mean {network}/{length}?"))
        }
    }
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

/// A member's name, as an option or argument.
///
/// # Errors
/// One line that says what a name is.
pub fn typed_name(text: &str) -> Result<Name, String> {
    Name::typed(text).map_err(|bad| bad.to_string())
}

/// The name nearest to the machine's own.
pub fn host_name() -> Name {
    Name::nearest(std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim())
}
