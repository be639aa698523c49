//! The test house: hosts on one machine, for end-to-end tests, the `lan` example and benchmarks.
//!
//! ```text
//!   hub  192.0.2.1  2001:db8::1        spoke i  192.0.2.(10+i)  2001:db8::(10+i)
//!   ┌──────────┐   ┌────────────────────────────┐   ┌──────────┐
//!   │ eth0 ────┼───┼─ p0   the switch,    p1 ───┼───┼── eth0   │   each box is an unnamed network
//!   └──────────┘   │       a bridge       p2 ───┼─… └──────────┘   namespace held by a thread
//!                  └────────────────────────────┘
//! ```
//! Namespaces belong to threads of this process and every program is started so that it dies with its
//! thread: whichever way this process ends, `kill -9` included, nothing is left behind. The machine's own
//! network is never touched.
//!
//! It is a module of `e2e.rs` and `e2e_timed.rs`, and of benchmarks and examples by `#[path]`. Needs root (or root in a user namespace), and
//! `ip`, `tc` (iproute2) and `setpriv` (util-linux).

#![allow(dead_code, reason = "each target that includes the house uses a part of it")]
#![allow(unused_imports, reason = "each target that includes the house uses a part of it")]
#![allow(clippy::disallowed_methods, reason = "the house is all IO: threads, sockets, files and the clock")]
#![allow(clippy::print_stderr, reason = "the output of programs is shown when a test fails")]

mod authority;
mod capture;
mod host;
mod lan;
pub(crate) mod line;
pub(crate) mod mobile;
mod names;
mod net;
mod places;
mod probe;
mod process;
mod said;
mod tool;
pub(crate) mod wire;

use std::fmt;
use std::io;

pub(crate) use authority::{Authority, Valid};
pub(crate) use capture::Capture;
pub(crate) use host::{Host, allow_cubic};
pub(crate) use lan::{
    Binaries, HUB_LISTENS, Lan, SPOKE_ON_LAN, copy_state, hub_command, make_state, make_tun, nobodys_key,
    require_tun, spawn_spoke, spoke_command, start_hub, state,
};
pub(crate) use names::serve_names;
pub(crate) use net::{Direction, Net, host_behind};
pub(crate) use places::{alone, place};
pub(crate) use probe::{
    Transfer, checksum, echo_request, echo_udp, fill_seeded, full_packets_fit, ping, ping_link_local,
    ping_until, transfer,
};
pub(crate) use process::Process;
pub(crate) use said::{Said, ask_hub, ask_spoke, run};
pub(crate) use tool::{await_true, is_missing, long_or, wait_for_port};

/// What went wrong, as sentences. `Debug` prints them plainly, so that `unwrap` in a test can be read.
pub(crate) struct Failure(String);

/// The house's results.
pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

impl Failure {
    pub(crate) fn new(text: impl Into<String>) -> Failure {
        Failure(text.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failure {}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure(error.to_string())
    }
}

/// Says what was being done when an error came.
pub(crate) trait Context<T> {
    fn context(self, what: &str) -> Result<T>;
}

impl<T, E: fmt::Display> Context<T> for Result<T, E> {
    fn context(self, what: &str) -> Result<T> {
        self.map_err(|error| Failure(format!("{what}: {error}")))
    }
}
