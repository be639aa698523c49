//! Why a way does not lead to the hub, in one sentence: what failed on it, and what to do. Pure.

use std::io;
use std::net::SocketAddr;

use super::way::Way;
use crate::transport::layers::{self, Stage};
use crate::transport::proxy::{Cause, ProxyError};

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
pub fn lookup(way: &Way, error: &io::Error) -> String {
    let (host, _) = way.first_hop();
    let host = if way.proxy.is_some() { format!("the proxy {host}") } else { host.to_owned() };
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

/// No connection to the hub, or to the proxy before it: `tried` is the last of the addresses.
pub fn connect(way: &Way, tried: Option<SocketAddr>, error: &io::Error) -> String {
    let (host, port) = way.first_hop();
    let host = tried.map_or(host.to_owned(), |at| at.ip().to_string());
    let (who, what) = match &way.proxy {
        Some(proxy) => ("proxy", format!("the proxy {proxy}")),
        None => ("hub", way.hub.to_string()),
    };
    let why = match (error.kind(), error.raw_os_error()) {
        (_, Some(EHOSTUNREACH)) if way.is_ping() => {
            format!("a firewall at or before {host} refuses pings, or that machine is off")
        }
        (io::ErrorKind::TimedOut, _) if way.is_ping() => {
            "no answer to pings: do they pass there, and is the hub started with --icmp?".to_owned()
        }
        (_, Some(EHOSTUNREACH)) => {
            format!("a firewall at or before {host} refuses port {port}, or that machine is off")
        }
        (_, Some(ENETUNREACH)) => no_route(tried, way.is_named(), who),
        (_, Some(EPERM | EACCES)) => "a firewall or route of this machine forbids it".to_owned(),
        (_, Some(EINVAL)) if tried.is_some_and(is_link_local) => {
            format!("a link-local address needs its interface: write [{host}%eth0]:{port}")
        }
        (io::ErrorKind::ConnectionRefused, _) => format!("nothing listens there: is the {who} running?"),
        (io::ErrorKind::TimedOut, _) => "no answer: is the port open on the way?".to_owned(),
        _ => error.to_string(),
    };
    format!("cannot reach {what}: {why}")
}

fn no_route(tried: Option<SocketAddr>, is_name: bool, who: &str) -> String {
    let (family, other) = match tried {
        Some(SocketAddr::V4(_)) => ("IPv4 ", "IPv6"),
        Some(SocketAddr::V6(_)) => ("IPv6 ", "IPv4"),
        None => return "this machine has no route there: is its network up?".to_owned(),
    };
    if is_name {
        format!("no {family}route here, and the name has no {other} address that answers: is the network up?")
    } else {
        format!("no {family}route here; give the {who} by name, or an {other} address")
    }
}

fn is_link_local(at: SocketAddr) -> bool {
    matches!(at, SocketAddr::V6(at) if at.ip().is_unicast_link_local() && at.scope_id() == 0)
}

/// There is a connection, but what is to be around the tunnel could not be set up.
pub fn opening(way: &Way, stage: Stage, error: &io::Error) -> String {
    let why = match (error.kind(), &way.proxy) {
        (io::ErrorKind::TimedOut, Some(proxy)) if stage == Stage::Proxy => {
            format!(
                "no answer from the proxy {proxy}: can it reach the hub, and does it let this machine in?"
            )
        }
        (io::ErrorKind::TimedOut, _) => format!("no answer in {stage}"),
        (io::ErrorKind::ConnectionReset, Some(proxy)) if stage == Stage::Proxy => {
            format!(
                "the proxy {proxy} reset the connection: check its port and scheme, and that it lets this machine in"
            )
        }
        _ if layers_error(error) == Some(&layers::Error::ClosedEarly(Stage::Tls)) => {
            format!("{error}: does the hub serve TLS on this port (--tls-cert)?")
        }
        _ => error.to_string(),
    };
    format!("cannot join through {}: {why}", way.hub)
}

/// Whether the same would come of it until somebody does something, so that haste could only lock an account.
pub fn needs_a_person(error: &io::Error) -> bool {
    let cause = match layers_error(error) {
        Some(layers::Error::Proxy(ProxyError { cause, .. })) => cause,
        Some(_) | None => return false,
    };
    matches!(cause, Cause::WantsPassword | Cause::RejectedPassword | Cause::UnknownLogin(_))
}

fn layers_error(error: &io::Error) -> Option<&layers::Error> {
    error.get_ref()?.downcast_ref()
}

#[cfg(test)]
mod tests {
    use std::str::FromStr as _;

    use super::*;
    use crate::transport::proxy::Destination;
    use crate::wire::target::Target;

    fn target(text: &str) -> Way {
        Target::from_str(text).unwrap().into()
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
            assert_eq!(lookup(&target("hub.example"), &io::Error::other(text)), said);
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
    fn a_proxy_that_fails_is_named_in_the_hubs_place() {
        let at = Some("192.0.2.9:3128".parse().unwrap());
        let way = Way {
            hub: "hub.example".parse().unwrap(),
            proxy: Some("http://ann:secret@192.0.2.9:3128".parse().unwrap()),
        };
        assert_eq!(
            connect(&way, at, &errno(111)),
            "cannot reach the proxy http://192.0.2.9:3128: nothing listens there: is the proxy running?"
        );
        assert!(connect(&way, at, &errno(113)).contains("refuses port 3128"));
        let timed_out = opening(&way, Stage::Proxy, &io::ErrorKind::TimedOut.into());
        assert!(
            timed_out.starts_with(
                "cannot join through hub.example:5678: no answer from the proxy http://192.0.2.9:3128: can it reach"
            ),
            "{timed_out}"
        );
        let error = |cause| {
            let (proxy, destination) = ("p".to_owned(), Destination { host: "h".to_owned(), port: 1 });
            io::Error::other(layers::Error::Proxy(ProxyError { proxy, destination, cause }))
        };
        assert!(opening(&way, Stage::Proxy, &error(Cause::Status(502))).ends_with("known to the proxy?"));
        assert!(
            needs_a_person(&error(Cause::RejectedPassword)) && !needs_a_person(&error(Cause::Status(502)))
        );
        let no_tls = io::Error::other(layers::Error::ClosedEarly(Stage::Tls));
        assert!(
            opening(&target("tls://192.0.2.1"), Stage::Tls, &no_tls)
                .ends_with("during the TLS handshake: does the hub serve TLS on this port (--tls-cert)?")
        );
    }
}
