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
///
/// `shares_list`: whether other hubs are on its LAN.
pub fn nothing_runs(state: &Path, is_root: bool, shares_list: bool) -> String {
    let state = state.display();
    let sudo = if is_root { "" } else { " (or try sudo)" };
    let joined = if shares_list {
        " (or, as it was started before, `sudo hub --join HOST --hub-key KEY`)"
    } else {
        ""
    };
    format!(
        "nothing runs with the state directory {state}{sudo}: start the hub with `systemctl start hub` or \
         `sudo hub --subnet 10.0.0.0/24`{joined}, or name another directory with --state DIR"
    )
}

/// What to say at the start of a hub that is not told which LAN it is to be, and shares a list with others by what is in this
/// directory.
pub fn no_lan(state: &Path) -> String {
    format!(
        "the LAN of the hub in {} has other hubs: start this one with --join HOST --hub-key KEY, where it has joined one \
         of them, or with the LAN's subnet, such as --subnet 10.0.0.0/24, where it is the first one",
        state.display()
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
        let text = nothing_runs(Path::new("/var/lib/hub"), false, false);
        assert!(
            text.starts_with(
                "nothing runs with the state directory /var/lib/hub (or try sudo): start the hub with"
            ),
            "{text}"
        );
        assert!(!text.contains("--join"));
        let joined = nothing_runs(Path::new("/var/lib/hub"), true, true);
        assert!(
            !joined.contains("sudo)") && joined.contains("`sudo hub --join HOST --hub-key KEY`"),
            "{joined}"
        );
    }
}
