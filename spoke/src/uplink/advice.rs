//! Why there is no link to the hub, in one sentence: what failed on the way, and what to do. Pure.

use std::io;
use std::net::SocketAddr;

use common::node::text::Printable;
use common::transport::layers::{self, Stage};
use common::transport::proxy::{Cause, ProxyError};
use common::wire::hello::UnknownProtocol;
use common::wire::key::PublicKey;
use common::wire::name::Name;
use common::wire::tunnel;
use ipnetwork::IpNetwork;

use super::target::Scheme;
use super::way::Way;

/// Errors of Linux that `io::ErrorKind` does not tell apart from others (asm-generic/errno.h).
const EPERM: i32 = 1;
const EACCES: i32 = 13;
const EINVAL: i32 = 22;
const ENETUNREACH: i32 = 101;
const EHOSTUNREACH: i32 = 113;

/// The port of HTTPS, which is open in most networks.
const HTTPS_PORT: u16 = 443;

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

/// None of several ways works; each one's answer is told by itself.
pub fn no_way(count: usize) -> String {
    format!("none of the {count} ways to the hub works (`spoke status` lists them)")
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
pub fn ended(way: &Way, progress: Progress, why: &dyn std::fmt::Display) -> String {
    let what = match progress {
        Progress::Silent | Progress::Answered => "cannot join through",
        Progress::Open => "lost the hub",
    };
    format!("{what} {}: {why}", way.hub)
}

/// The socket of a connection failed, or was closed by the other end: [`io::ErrorKind::UnexpectedEof`].
pub fn broken(way: &Way, progress: Progress, error: &io::Error) -> String {
    let is_cut = [
        io::ErrorKind::ConnectionReset,
        io::ErrorKind::ConnectionAborted,
        io::ErrorKind::BrokenPipe,
        io::ErrorKind::UnexpectedEof,
    ];
    let is_direct = way.proxy.is_none() && way.hub.scheme == Scheme::Tcp;
    if is_direct && progress == Progress::Silent && is_cut.contains(&error.kind()) {
        let remedy = if way.hub.port == HTTPS_PORT {
            "have the hub serve TLS there (--tls-cert), and write --hub wss://HOST"
        } else {
            "have the hub listen on another port, such as 443"
        };
        let why = format!(
            "something on the way cut the connection at our first bytes; {remedy} (or the hub is full: then its log \
             says so)"
        );
        ended(way, progress, &why)
    } else {
        ended(way, progress, error)
    }
}

/// The tunnel failed: what the other end sent, or did not, is not as it must be.
pub fn failed(way: &Way, progress: Progress, error: &tunnel::Error) -> String {
    let is_http = matches!(error, tunnel::Error::UnknownProtocol(UnknownProtocol::Http));
    let portal = if is_http { "; a captive portal? log in there first" } else { "" };
    ended(way, progress, &format_args!("{error}{portal}"))
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
    use std::str::FromStr as _;

    use common::transport::proxy::Destination;
    use common::wire::key::PrivateKey;

    use super::*;
    use crate::uplink::target::Target;

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
        let closed = io::ErrorKind::UnexpectedEof.into();
        assert!(!broken(&way, Progress::Silent, &closed).contains("another port"));
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
        let https = broken(&target("192.0.2.1:443"), Progress::Silent, &closed);
        assert!(
            https.contains(
                "first bytes; have the hub serve TLS there (--tls-cert), and write --hub wss://HOST"
            )
        );
        let in_tls = broken(&target("tls://192.0.2.1"), Progress::Silent, &closed);
        assert_eq!(in_tls, "cannot join through tls://192.0.2.1:443: it closed the connection");
        let no_tls = io::Error::other(layers::Error::ClosedEarly(Stage::Tls));
        assert!(
            opening(&target("tls://192.0.2.1"), Stage::Tls, &no_tls)
                .ends_with("during the TLS handshake: does the hub serve TLS on this port (--tls-cert)?")
        );
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
