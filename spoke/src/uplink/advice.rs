//! Why there is no link to the hub, in one sentence: what failed on the way, and what to do. Pure.

use std::io;

pub use common::node::advice::{connect, lookup, needs_a_person, opening};
use common::node::text::Printable;
use common::node::way::Way;
use common::wire::hello::UnknownProtocol;
use common::wire::key::PublicKey;
use common::wire::name::Name;
use common::wire::target::Scheme;
use common::wire::tunnel;
use ipnetwork::IpNetwork;

/// The port of HTTPS, which is open in most networks.
const HTTPS_PORT: u16 = 443;

/// None of several ways works; each one's answer is told by itself.
pub fn no_way(count: usize) -> String {
    format!("none of the {count} ways to the hub works (`spoke status` lists them)")
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

    use common::wire::key::PrivateKey;
    use common::wire::target::Target;

    use super::*;

    fn target(text: &str) -> Way {
        Target::from_str(text).unwrap().into()
    }

    fn errno(number: i32) -> io::Error {
        io::Error::from_raw_os_error(number)
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
        let proxied = Way { hub: "192.0.2.1".parse().unwrap(), proxy: "http://192.0.2.9:3128".parse().ok() };
        assert!(!broken(&proxied, Progress::Silent, &closed).contains("another port"));
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
