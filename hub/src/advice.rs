//! What to do about an error of the system, in one sentence. Pure.

use std::io;
use std::net::SocketAddr;
use std::path::Path;

/// Ports below this one are the administrator's (`net.ipv4.ip_unprivileged_port_start`).
const UNPRIVILEGED: u16 = 1_024;

/// Why the hub cannot listen there, and what to do.
pub fn listen(at: SocketAddr, error: &io::Error) -> String {
    const OTHER: &str = "choose another with --listen ADDR:PORT";
    let (kind, address, port) = (error.kind(), at.ip(), at.port());
    if kind == io::ErrorKind::AddrInUse {
        format!("{at} is in use: stop what listens there, or {OTHER}")
    } else if kind == io::ErrorKind::PermissionDenied && port < UNPRIVILEGED {
        format!(
            "cannot listen on {at}: ports below {UNPRIVILEGED} need root or CAP_NET_BIND_SERVICE; or {OTHER}"
        )
    } else if kind == io::ErrorKind::AddrNotAvailable {
        format!(
            "cannot listen on {at}: this machine does not have the address {address}; --listen {port} listens on all \
             that it has"
        )
    } else {
        format!("cannot listen on {at}: {error}; {OTHER}")
    }
}

/// What to do where a command finds nobody to ask.
pub fn nothing_runs(state: &Path, is_root: bool) -> String {
    let state = state.display();
    let sudo = if is_root { "" } else { " (or try sudo)" };
    format!(
        "nothing runs with the state directory {state}{sudo}: start the hub with `systemctl start hub` or \
         `sudo hub --subnet 10.0.0.0/24`, or name another directory with --state DIR"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_cannot_be_had_is_explained() {
        let denied = listen("0.0.0.0:443".parse().unwrap(), &io::ErrorKind::PermissionDenied.into());
        assert!(
            denied.starts_with(
                "cannot listen on 0.0.0.0:443: ports below 1024 need root or CAP_NET_BIND_SERVICE"
            ),
            "{denied}"
        );
        let other = listen("0.0.0.0:5678".parse().unwrap(), &io::ErrorKind::PermissionDenied.into());
        assert!(other.ends_with("permission denied; choose another with --listen ADDR:PORT"), "{other}");
        let foreign = listen("192.0.2.9:443".parse().unwrap(), &io::ErrorKind::AddrNotAvailable.into());
        assert!(foreign.contains("does not have the address 192.0.2.9; --listen 443"), "{foreign}");
        let used = listen("[::]:5678".parse().unwrap(), &io::ErrorKind::AddrInUse.into());
        assert!(used.starts_with("[::]:5678 is in use"), "{used}");
    }

    #[test]
    fn where_nothing_runs_it_says_how_to_start() {
        let text = nothing_runs(Path::new("/var/lib/hub"), false);
        assert!(
            text.starts_with(
                "nothing runs with the state directory /var/lib/hub (or try sudo): start the hub with"
            ),
            "{text}"
        );
        assert!(!nothing_runs(Path::new("/var/lib/hub"), true).contains("sudo)"));
    }
}
