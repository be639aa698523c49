//! What both command lines share. IO: it prints, and asks the system for its name.
#![expect(clippy::disallowed_methods, reason = "an IO file: it reads the host name")]

use std::io::Write as _;
use std::process::ExitCode;

use crate::name::Name;

/// Prints name and version, for `--version`.
pub fn print_version(name: &str, version: &str) -> ExitCode {
    match writeln!(std::io::stdout(), "{name} {version}") {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// The name nearest to the machine's own.
pub fn host_name() -> Name {
    Name::nearest(std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim())
}
