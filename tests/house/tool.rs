//! Programs of others that tests run beside ours, waiting, and how long a test is.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::{Host, Result};

/// Whether a program is not installed; then it says so, and what to install.
pub(crate) fn is_missing(program: &str, package: &str) -> bool {
    let mut command = Command::new("sh");
    command.args(["-c", "command -v \"$0\"", program]).stdout(Stdio::null());
    let is_missing = !command.status().is_ok_and(|status| status.success());
    if is_missing {
        // Not by a macro, whose output would be held back.
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED: {program} is not installed (Debian: apt install {package})"
        );
    }
    is_missing
}

/// The long form's number where `SOAK` is set, else the short one's.
pub(crate) fn long_or<T>(long: T, short: T) -> T {
    if std::env::var_os("SOAK").is_some() { long } else { short }
}

/// Waits for what nobody tells this process of; how long that took.
pub(crate) fn await_true(what: &str, within: Duration, mut is_so: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < within, "waited {within:?} for {what}");
        thread::sleep(Duration::from_millis(5));
    }
    start.elapsed()
}

/// Waits until somebody listens at this address, as seen from a host: for programs that do not say so.
pub(crate) fn wait_for_port(from: &Host, address: impl Into<SocketAddr>, timeout: Duration) -> Result<()> {
    let (address, end) = (address.into(), Instant::now() + timeout);
    loop {
        match from.tcp_connect(address, timeout) {
            Ok(_) => return Ok(()),
            Err(failure) if Instant::now() >= end => return Err(failure),
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
}
