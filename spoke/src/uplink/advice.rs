//! Why there is no link to the hub, in one sentence: what failed on the way, and what to do. Pure.

use std::io;
use std::net::SocketAddr;

use common::node::text::Printable;
use common::wire::hello::UnknownProtocol;
use common::wire::key::PublicKey;
use common::wire::name::Name;
use common::wire::tunnel;
use ipnetwork::IpNetwork;

use super::target::Target;

/// Errors of Linux that `io::ErrorKind` does not tell apart from others (asm-generic/errno.h).
const EPERM: i32 = 1;
const EACCES: i32 = 13;
const EINVAL: i32 = 22;
const ENETUNREACH: i32 = 101;
const EHOSTUNREACH: i32 = 113;

/// The name could not be looked up.
///
/// The error's number is lost on its way through the standard library; its text is that of the C library (glibc or
/// musl), which is English, as nothing sets a locale.
pub fn lookup(host: &str, error: &io::Error) -> String {
    let text = error.to_string();
    let says = |parts: &[&str]| parts.iter().any(|part| text.contains(part));
    let why = if says(&["Temporary failure in name resolution", "Try again"]) {
        "no name server answers (see /etc/resolv.conf)"
    } else if says(&["Name or service not known", "Name does not resolve"]) {
        "there is no such name: is it spelt right?"
    } else if says(&["No address associated with hostname", "Name has no usable address"]) {
        "the name has no address"
    } else {
        return format!("cannot find {host}: {text}");
    };
    format!("cannot find {host}: {why}")
}

/// No connection to the hub: `tried` is the last of its addresses.
pub fn connect(hub: &Target, tried: Option<SocketAddr>, error: &io::Error) -> String {
    let host = tried.map_or(hub.host.clone(), |at| at.ip().to_string());
    let is_name = hub.host.parse::<std::net::IpAddr>().is_err();
    let why = match (error.kind(), error.raw_os_error()) {
        (_, Some(EHOSTUNREACH)) => {
            format!("a firewall at or before {host} refuses port {}, or that machine is off", hub.port)
        }
        (_, Some(ENETUNREACH)) => no_route(tried, is_name),
        (_, Some(EPERM | EACCES)) => "a firewall or route of this machine forbids it".to_owned(),
        (_, Some(EINVAL)) if tried.is_some_and(is_link_local) => {
            format!("a link-local address needs its interface: write [{host}%eth0]:{}", hub.port)
        }
        (io::ErrorKind::ConnectionRefused, _) => "nothing listens there: is the hub running?".to_owned(),
        (io::ErrorKind::TimedOut, _) => "no answer: is the port open on the way?".to_owned(),
        _ => error.to_string(),
    };
    format!("cannot reach {hub}: {why}")
}

fn no_route(tried: Option<SocketAddr>, is_name: bool) -> String {
    let (family, other) = match tried {
        Some(SocketAddr::V4(_)) => ("IPv4 ", "IPv6"),
        Some(SocketAddr::V6(_)) => ("IPv6 ", "IPv4"),
        None => return "this machine has no route there: is its network up?".to_owned(),
    };
    if is_name {
        format!("no {family}route here, and the name has no {other} address that answers: is the network up?")
    } else {
        format!("no {family}route here; give the hub by name, or an {other} address")
    }
}

fn is_link_local(at: SocketAddr) -> bool {
    matches!(at, SocketAddr::V6(at) if at.ip().is_unicast_link_local() && at.scope_id() == 0)
}

/// How far a connection had come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nothing was heard on it.
    Silent,
    /// Something was heard, but the handshake was not through.
    Answered,
    /// This spoke was let in, or asked to be.
    Open,
}

/// There is no link any more, or there will be none.
pub fn ended(hub: &Target, progress: Progress, why: &dyn std::fmt::Display) -> String {
    let what = match progress {
        Progress::Silent | Progress::Answered => "cannot join through",
        Progress::Open => "lost the hub",
    };
    format!("{what} {hub}: {why}")
}

/// The socket of a connection failed, or was closed by the other end: [`io::ErrorKind::UnexpectedEof`].
pub fn broken(hub: &Target, progress: Progress, error: &io::Error) -> String {
    let is_cut = [
        io::ErrorKind::ConnectionReset,
        io::ErrorKind::ConnectionAborted,
        io::ErrorKind::BrokenPipe,
        io::ErrorKind::UnexpectedEof,
    ];
    if progress == Progress::Silent && is_cut.contains(&error.kind()) {
        let why = "something on the way cut the connection at our first bytes; have the hub listen on another port, \
                   such as 443 (or the hub is full: then its log says so)";
        ended(hub, progress, &why)
    } else {
        ended(hub, progress, error)
    }
}

/// The tunnel failed: what the other end sent, or did not, is not as it must be.
pub fn failed(hub: &Target, progress: Progress, error: &tunnel::Error) -> String {
    let is_http = matches!(error, tunnel::Error::UnknownProtocol(UnknownProtocol::Http));
    let portal = if is_http { "; a captive portal? log in there first" } else { "" };
    ended(hub, progress, &format_args!("{error}{portal}"))
}

/// A locked hub does not know this key.
pub fn locked(name: &Name, key: &PublicKey) -> String {
    format!(
        "the hub is locked and does not know this machine ({name}, key {key}), which waits until the hub's owner lets it in \
         (`hub allow {name}`)"
    )
}

/// The hub gave another name than the wanted one, which another member has, or none can have.
pub fn name_taken(wanted: &Name, given: &Name) -> String {
    match wanted.check_host() {
        Ok(()) => format!("the name {wanted} is taken; this machine is {given}"),
        Err(why) => format!("no machine can be called {wanted} ({why}); this machine is {given}"),
    }
}

/// The hub does not take a route that this spoke offers; `reason` is the hub's.
pub fn route_rejected(prefix: IpNetwork, reason: &str) -> String {
    let reason = if reason.is_empty() { "its log says why" } else { reason };
    format!("the hub does not take the route {prefix}: {}", Printable(reason))
}

#[cfg(test)]
mod tests {
    use common::wire::key::PrivateKey;

    use super::*;

    fn target(text: &str) -> Target {
        text.parse().unwrap()
    }

    fn errno(number: i32) -> io::Error {
        io::Error::from_raw_os_error(number)
    }

    #[test]
    fn a_failed_lookup_says_whose_fault_it_is() {
        for (text, said) in [
            (
                "failed to lookup address information: Temporary failure in name resolution",
                "cannot find hub.example: no name server answers (see /etc/resolv.conf)",
            ),
            (
                "failed to lookup address information: Try again",
                "cannot find hub.example: no name server answers (see /etc/resolv.conf)",
            ),
            (
                "failed to lookup address information: Name or service not known",
                "cannot find hub.example: there is no such name: is it spelt right?",
            ),
            (
                "failed to lookup address information: No address associated with hostname",
                "cannot find hub.example: the name has no address",
            ),
            ("out of memory", "cannot find hub.example: out of memory"),
        ] {
            assert_eq!(lookup("hub.example", &io::Error::other(text)), said);
        }
    }

    #[test]
    fn a_failed_connection_names_the_hop_and_the_remedy() {
        let v4 = Some("192.0.2.1:5678".parse().unwrap());
        let v6 = Some("[2001:db8::1]:5678".parse().unwrap());
        let link_local = Some("[fe80::1]:5678".parse().unwrap());
        for (hub, tried, error, said) in [
            (
                "192.0.2.1",
                v4,
                113,
                "a firewall at or before 192.0.2.1 refuses port 5678, or that machine is off",
            ),
            ("192.0.2.1", v4, 101, "no IPv4 route here; give the hub by name, or an IPv6 address"),
            ("2001:db8::1", v6, 101, "no IPv6 route here; give the hub by name, or an IPv4 address"),
            (
                "hub.example",
                v4,
                101,
                "no IPv4 route here, and the name has no IPv6 address that answers: is the network up?",
            ),
            ("192.0.2.1", v4, 111, "nothing listens there: is the hub running?"),
            ("192.0.2.1", v4, 110, "no answer: is the port open on the way?"),
            ("192.0.2.1", v4, 1, "a firewall or route of this machine forbids it"),
            ("192.0.2.1", v4, 13, "a firewall or route of this machine forbids it"),
            (
                "fe80::1",
                link_local,
                22,
                "a link-local address needs its interface: write [fe80::1%eth0]:5678",
            ),
            ("192.0.2.1", v4, 12, &errno(12).to_string()),
        ] {
            let hub = target(hub);
            assert_eq!(connect(&hub, tried, &errno(error)), format!("cannot reach {hub}: {said}"));
        }
        let hub = target("hub.example");
        let timed_out = connect(&hub, None, &io::ErrorKind::TimedOut.into());
        assert_eq!(timed_out, "cannot reach hub.example:5678: no answer: is the port open on the way?");
    }

    #[test]
    fn a_connection_that_is_cut_at_once_is_no_lost_link() {
        let hub = target("192.0.2.1");
        let cut = broken(&hub, Progress::Silent, &errno(104));
        assert_eq!(
            cut,
            "cannot join through 192.0.2.1:5678: something on the way cut the connection at our first bytes; have the \
             hub listen on another port, such as 443 (or the hub is full: then its log says so)"
        );
        let closed = io::Error::new(io::ErrorKind::UnexpectedEof, "it closed the connection");
        assert_eq!(broken(&hub, Progress::Silent, &closed), cut);
        assert_eq!(
            broken(&hub, Progress::Answered, &closed),
            "cannot join through 192.0.2.1:5678: it closed the connection"
        );
        assert_eq!(
            broken(&hub, Progress::Open, &closed),
            "lost the hub 192.0.2.1:5678: it closed the connection"
        );
        assert!(
            broken(&hub, Progress::Silent, &errno(12))
                .starts_with("cannot join through 192.0.2.1:5678: Cannot allocate")
        );
    }

    #[test]
    fn what_answers_in_the_hubs_place_is_named() {
        let hub = target("192.0.2.1:80");
        let stranger = |protocol| failed(&hub, Progress::Answered, &tunnel::Error::UnknownProtocol(protocol));
        assert_eq!(
            stranger(UnknownProtocol::Http),
            "cannot join through 192.0.2.1:80: it speaks HTTP, not hub & spoke; a captive portal? log in there first"
        );
        assert!(!stranger(UnknownProtocol::Ssh).contains("portal"));
        assert_eq!(
            failed(&hub, Progress::Open, &tunnel::Error::Silent),
            "lost the hub 192.0.2.1:80: nothing heard for 10 s"
        );
    }

    #[test]
    fn what_the_hub_refuses_names_this_machine() {
        let key = PrivateKey::from_random([1; 32]).public();
        let name = |text: &str| text.parse().unwrap();
        let text = locked(&name("laptop"), &key);
        assert!(
            text.contains(&format!("(laptop, key {key})")) && text.ends_with("(`hub allow laptop`)"),
            "{text}"
        );
        assert_eq!(
            name_taken(&name("laptop"), &name("laptop-2")),
            "the name laptop is taken; this machine is laptop-2"
        );
        assert_eq!(
            name_taken(&name("localhost"), &name("localhost-2")),
            "no machine can be called localhost (this name means something else to machines); this machine is \
             localhost-2"
        );
        let prefix = "192.168.5.0/24".parse().unwrap();
        assert_eq!(
            route_rejected(prefix, "desktop offers it\n"),
            "the hub does not take the route 192.168.5.0/24: desktop offers it\\n"
        );
        assert!(route_rejected(prefix, "").ends_with("its log says why"));
    }
}
