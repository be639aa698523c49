//! From what was found on the way to the hub to one line for each thing that can be wrong there. Pure.
#![warn(clippy::disallowed_methods, reason = "pure, though the module above it is not")]

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use common::node::human::{millis, utc};
use common::node::way::Way;
use common::transport::layers::{self, Stage};
use common::transport::proxy::Destination;
use common::transport::tls::TlsError;
use common::wire::hello::VERSION;
use common::wire::key::PublicKey;
use common::wire::target::Scheme;
use common::wire::tunnel;
use ipnetwork::IpNetwork;

use crate::uplink;
use crate::uplink::advice::{self, Progress};

/// What came of one check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is as it should be.
    Ok,
    /// It is not; the text says what to do.
    Failed,
    /// It cannot be told, or there is nothing to tell; the text says why.
    Unchecked,
}

/// One check, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// What was checked, in one word.
    pub check: &'static str,
    /// What came of it.
    pub outcome: Outcome,
    /// What was seen, or what to do.
    pub text: String,
}

impl Line {
    fn new(check: &'static str, outcome: Outcome, text: impl Into<String>) -> Line {
        Line { check, outcome, text: text.into() }
    }
}

/// What was found on one way, as far as it led.
#[derive(Debug, Default)]
pub struct Trace {
    /// The addresses of the first host on the way.
    pub addresses: Option<io::Result<Vec<SocketAddr>>>,
    /// By which way the kernel sends to them; none at all where it cannot be asked.
    pub hops: Vec<(IpAddr, Option<Hop>)>,
    /// The address that answered and how long it took, or the one that failed and why.
    pub connection: Option<Result<(SocketAddr, Duration), NoConnection>>,
    /// Whether what is around the tunnel could be set up, or where it failed.
    pub opening: Option<Result<(), (Stage, io::Error)>>,
    /// The key that the hub proved, or why it did not.
    pub greeting: Option<Result<PublicKey, NoGreeting>>,
    /// Whether full packets pass.
    pub packets: Option<Packets>,
}

/// The address that failed, if one did, and why.
pub type NoConnection = (Option<SocketAddr>, io::Error);

/// The next hop to an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hop {
    /// The interface.
    pub device: String,
    /// The router, if it is not on the link.
    pub gateway: Option<IpAddr>,
}

/// Why the hub did not prove a key.
#[derive(Debug)]
pub enum NoGreeting {
    /// The socket failed, or the other end closed it.
    Socket(Progress, io::Error),
    /// What came is not a hub's.
    Tunnel(Progress, tunnel::Error),
}

/// The fate of packets as large as TCP makes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packets {
    /// All were acknowledged; the largest segment, in bytes.
    Passed(u32),
    /// What is small came through, full segments of so many bytes did not.
    Lost(u32),
    /// Neither is certain.
    Unknown,
}

/// What is known beforehand.
#[derive(Debug)]
pub struct Known {
    /// The key of the settings.
    pub hub_keys: Vec<PublicKey>,
    /// The key that was remembered, or why that cannot be read.
    pub pinned: Result<Vec<PublicKey>, String>,
    /// The file where it is remembered.
    pub pins: PathBuf,
    /// The spoke that runs with this state, or why none can be asked.
    pub running: Result<Running, String>,
}

/// A spoke that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    /// Its addresses, with the prefixes of the LAN.
    pub addresses: Vec<IpNetwork>,
    /// Its device.
    pub device: String,
    /// The hub's key, once it knows it.
    pub hub_key: Option<PublicKey>,
    /// By which way it is on the LAN, or why it is not.
    pub link: Result<String, String>,
}

/// The lines for one way, up to the first thing that keeps a spoke from it.
pub fn of_way(way: &Way, trace: &Trace, known: &Known) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    let steps = [lookup, route, connection];
    lines.extend(steps.into_iter().filter_map(|step| step(way, trace, known)));
    lines.extend(opening(way, trace));
    let (at, greeting) = match (&trace.connection, &trace.greeting) {
        (Some(Ok((at, _))), Some(greeting)) => (at, greeting),
        _ => return lines,
    };
    match greeting {
        Ok(seen) => {
            let text = format!("it speaks hub & spoke, protocol version {VERSION}");
            lines.push(Line::new("hello", Outcome::Ok, text));
            lines.push(key(way, *seen, known));
            lines.extend(trace.packets.map(|packets| size(*at, packets)));
        }
        Err(NoGreeting::Socket(progress, error)) => {
            lines.push(Line::new("hello", Outcome::Failed, advice::broken(way, *progress, error)));
        }
        Err(NoGreeting::Tunnel(progress, error)) => {
            lines.push(Line::new("hello", Outcome::Failed, advice::failed(way, *progress, error)));
        }
    }
    lines
}

fn lookup(way: &Way, trace: &Trace, _: &Known) -> Option<Line> {
    let (host, _) = way.first_hop();
    let whose = if way.proxy.is_some() { "; this is the proxy, which looks the hub up" } else { "" };
    Some(match trace.addresses.as_ref()? {
        Ok(_) if !way.is_named() => {
            Line::new("dns", Outcome::Ok, format!("{host} is an address and needs no look-up{whose}"))
        }
        Ok(found) => {
            let addresses: Vec<String> = found.iter().map(|at| at.ip().to_string()).collect();
            Line::new("dns", Outcome::Ok, format!("{host} is {}{whose}", addresses.join(" and ")))
        }
        Err(error) => Line::new("dns", Outcome::Failed, advice::lookup(way, error)),
    })
}

fn route(_: &Way, trace: &Trace, known: &Known) -> Option<Line> {
    let Some(Ok(_)) = &trace.addresses else { return None };
    if trace.hops.is_empty() {
        return Some(Line::new("route", Outcome::Unchecked, "the kernel cannot be asked"));
    }
    let lan = known.running.as_ref().map_or("", |running| running.device.as_str());
    let is_inside = |hop: &Hop| hop.device == lan;
    if let Some((to, _)) = trace.hops.iter().find(|(_, hop)| hop.as_ref().is_some_and(is_inside)) {
        let text = format!("what goes to {to} would leave through {lan}, the LAN itself: remove that route");
        return Some(Line::new("route", Outcome::Failed, text));
    }
    let shown = |(to, hop): &(IpAddr, Option<Hop>)| match hop {
        Some(Hop { device, gateway: Some(gateway) }) => format!("{to} by {device} and the router {gateway}"),
        Some(Hop { device, gateway: None }) => format!("{to} by {device}"),
        None => format!("{to} by no way"),
    };
    let all = trace.hops.iter().map(shown).collect::<Vec<_>>().join(", ");
    Some(if trace.hops.iter().any(|(_, hop)| hop.is_some()) {
        Line::new("route", Outcome::Ok, all)
    } else {
        let text = format!("this machine has no route there ({all}): is its network up?");
        Line::new("route", Outcome::Failed, text)
    })
}

fn connection(way: &Way, trace: &Trace, _: &Known) -> Option<Line> {
    let check = if way.is_ping() { "ping" } else { "tcp" };
    Some(match trace.connection.as_ref()? {
        Ok((at, took)) => {
            let took = millis(took.as_secs_f64() * 1_000.0);
            let who = if way.is_ping() { format!("a hub at {}", at.ip()) } else { at.to_string() };
            Line::new(check, Outcome::Ok, format!("{who} answers within {took}"))
        }
        Err((tried, error)) => Line::new(check, Outcome::Failed, advice::connect(way, *tried, error)),
    })
}

/// What is around the tunnel on this way, from outside.
fn around(way: &Way) -> Vec<(Stage, &'static str, String)> {
    let Way { hub, proxy } = way;
    let mut all = Vec::new();
    if let Some(proxy) = proxy {
        let destination = Destination { host: hub.host.clone(), port: hub.port };
        all.push((Stage::Proxy, "proxy", format!("the proxy {proxy} connects to {destination}")));
    }
    if way.has_tls() {
        all.push((Stage::Tls, "tls", format!("the certificate is valid for {}", hub.host)));
    }
    if matches!(hub.scheme, Scheme::Wss | Scheme::Ws) {
        all.push((Stage::Upgrade, "websocket", format!("there is one at {}", hub.path)));
    }
    all
}

fn opening(way: &Way, trace: &Trace) -> Vec<Line> {
    let Some(outcome) = &trace.opening else { return Vec::new() };
    let around = around(way);
    let Err((failed, error)) = outcome else {
        return around.into_iter().map(|(_, check, text)| Line::new(check, Outcome::Ok, text)).collect();
    };
    let at = around.iter().position(|(stage, ..)| stage == failed).unwrap_or(0);
    let check = around.get(at).map_or("tcp", |(_, check, _)| check);
    let mut lines: Vec<Line> =
        around.iter().take(at).map(|(_, check, text)| Line::new(check, Outcome::Ok, text.as_str())).collect();
    lines.push(Line::new(check, Outcome::Failed, advice::opening(way, *failed, error)));
    lines
}

fn key(way: &Way, seen: PublicKey, known: &Known) -> Line {
    let remembered = known.pinned.as_deref().unwrap_or_default();
    let of_running = known.running.as_ref().ok().and_then(|running| running.hub_key);
    // Of several keys, any will do: there is one for each hub of the LAN.
    let of = |keys: &[PublicKey]| keys.iter().find(|key| **key == seen).or(keys.first()).copied();
    let (expected, whence, is_pinned) = match (of(&known.hub_keys), of(remembered), of_running) {
        (Some(key), ..) => (key, "that of the settings".to_owned(), false),
        (None, Some(key), _) => (key, format!("the one remembered in {}", known.pins.display()), true),
        (None, None, Some(key)) => (key, "the one that the running spoke knows".to_owned(), true),
        (None, None, None) => {
            let why = match &known.pinned {
                Ok(_) => "no key is known here yet: compare it with the one that the hub prints at start",
                Err(why) => why,
            };
            return Line::new("key", Outcome::Unchecked, format!("the hub proves the key {seen}; {why}"));
        }
    };
    if expected == seen {
        return Line::new("key", Outcome::Ok, format!("the hub proves the key {seen}, {whence}"));
    }
    let error = uplink::Error::KeyChanged {
        hub: way.hub.to_string(),
        known: expected,
        seen,
        pinned_in: is_pinned.then(|| known.pins.clone()),
    };
    Line::new("key", Outcome::Failed, error.to_string())
}

fn size(at: SocketAddr, packets: Packets) -> Line {
    match packets {
        Packets::Passed(segment) => {
            let text = format!(
                "segments of {segment} bytes reach {}; what is sent to this machine is not checked",
                at.ip()
            );
            Line::new("mtu", Outcome::Ok, text)
        }
        Packets::Lost(segment) => {
            let text = format!(
                "segments of {segment} bytes to {} are lost in silence, small ones are not: have the router on the way \
                 send ICMP \"fragmentation needed\" or clamp the MSS, or lower this machine's MTU; the spoke goes down to \
                 smaller segments by itself, after a link that died",
                at.ip()
            );
            Line::new("mtu", Outcome::Failed, text)
        }
        Packets::Unknown => {
            Line::new("mtu", Outcome::Unchecked, "whether full packets pass cannot be told on this path")
        }
    }
}

/// The line about addresses that the LAN and this machine's networks share. `asked`: the addresses of the settings;
/// `overlaps`: a sentence for each network that shares some with them, or with those of the running spoke.
pub fn lan(known: &Known, asked: &[IpAddr], overlaps: Result<&[String], &str>) -> Line {
    let known_by = match &known.running {
        Ok(running) if !running.addresses.is_empty() => {
            let networks = running.addresses.iter().map(|at| format!("{}/{}", at.network(), at.prefix()));
            networks.collect::<Vec<_>>().join(" and ")
        }
        Ok(_) | Err(_) if !asked.is_empty() => {
            asked.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ")
        }
        Ok(_) | Err(_) => {
            return Line::new("lan", Outcome::Unchecked, "its addresses are known once a spoke is on it");
        }
    };
    match overlaps {
        Ok([]) => {
            Line::new("lan", Outcome::Ok, format!("no network of this machine has addresses of {known_by}"))
        }
        Ok(overlaps) => Line::new("lan", Outcome::Failed, overlaps.join("; ")),
        Err(why) => Line::new("lan", Outcome::Unchecked, why),
    }
}

/// The line about this machine's clock, which only TLS looks at. `now`: what it says, in Unix seconds.
pub fn clock(traces: &[(Way, Trace)], now: u64) -> Line {
    let is_valid = |(way, trace): &&(Way, Trace)| match &trace.opening {
        Some(Ok(())) => way.has_tls(),
        Some(Err((stage, _))) => way.has_tls() && *stage == Stage::Upgrade,
        None => false,
    };
    let is_out_of_time = |(_, trace): &&(Way, Trace)| {
        let Some(Err((_, error))) = &trace.opening else { return false };
        let error = error.get_ref().and_then(|error| error.downcast_ref::<layers::Error>());
        matches!(error, Some(layers::Error::Tls(TlsError::Expired | TlsError::NotYet)))
    };
    let says = format!("this machine says that it is {}", utc(now));
    if traces.iter().any(|one| is_out_of_time(&one)) {
        let text =
            format!("{says}: if it is not, set it (`timedatectl set-ntp true`), as certificates go by it");
        Line::new("clock", Outcome::Unchecked, text)
    } else if traces.iter().any(|one| is_valid(&one)) {
        let text = format!("{says}, when the hub's certificate is valid");
        Line::new("clock", Outcome::Ok, text)
    } else {
        Line::new("clock", Outcome::Unchecked, format!("{says}; only a way with TLS can tell, and needs it"))
    }
}

/// The line about the spoke that runs.
pub fn spoke(known: &Known) -> Line {
    match &known.running {
        Err(why) => Line::new("spoke", Outcome::Unchecked, why.as_str()),
        Ok(Running { link: Err(why), .. }) => {
            Line::new("spoke", Outcome::Failed, format!("the one that runs is off the LAN: {why}"))
        }
        Ok(Running { link: Ok(way), addresses, .. }) => {
            let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            let text = format!("one is on the LAN as {} by {way}", addresses.join(" and "));
            Line::new("spoke", Outcome::Ok, text)
        }
    }
}

/// All lines: those of each way, then those of this machine.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// The ways, in order, as they are shown.
    pub ways: Vec<(String, Vec<Line>)>,
    /// This machine.
    pub machine: Vec<Line>,
}

impl Findings {
    /// How many ways lead to the hub, with nothing to do.
    pub fn good_ways(&self) -> usize {
        let is_good = |(_, lines): &&(String, Vec<Line>)| {
            lines.iter().all(|line| line.outcome != Outcome::Failed)
                && lines.iter().any(|line| line.check == "key")
        };
        self.ways.iter().filter(is_good).count()
    }

    /// Whether a spoke would get to its hub: one way leads there, no hub has another key, and this machine is in order.
    pub fn are_good(&self) -> bool {
        let failed = |line: &Line| line.outcome == Outcome::Failed;
        let is_key_wrong =
            self.ways.iter().flat_map(|(_, lines)| lines).any(|line| line.check == "key" && failed(line));
        self.good_ways() > 0 && !is_key_wrong && !self.machine.iter().any(failed)
    }
}

#[cfg(test)]
mod tests {
    use common::transport::proxy::{Cause, ProxyError};
    use common::wire::hello::UnknownProtocol;
    use common::wire::key::PrivateKey;

    use super::*;

    fn way(hub: &str, proxy: Option<&str>) -> Way {
        Way { hub: hub.parse().unwrap(), proxy: proxy.map(|url| url.parse().unwrap()) }
    }

    fn key(seed: u8) -> PublicKey {
        PrivateKey::from_random([seed; 32]).public()
    }

    fn known() -> Known {
        Known {
            hub_keys: Vec::new(),
            pinned: Ok(Vec::new()),
            pins: "hubs".into(),
            running: Err("nothing runs".into()),
        }
    }

    fn running(link: Result<String, String>) -> Running {
        let addresses = vec!["10.0.0.2/24".parse().unwrap()];
        Running { addresses, device: "spoke0".to_owned(), hub_key: Some(key(1)), link }
    }

    fn hop(device: &str) -> Option<Hop> {
        Some(Hop { device: device.to_owned(), gateway: None })
    }

    /// A way that leads to a hub with the key 1.
    fn good() -> Trace {
        let at: SocketAddr = "192.0.2.1:5678".parse().unwrap();
        Trace {
            addresses: Some(Ok(vec![at])),
            hops: vec![(at.ip(), hop("eth0"))],
            connection: Some(Ok((at, Duration::from_millis(2)))),
            opening: Some(Ok(())),
            greeting: Some(Ok(key(1))),
            packets: Some(Packets::Passed(1_448)),
        }
    }

    fn outcomes(lines: &[Line]) -> Vec<(&'static str, Outcome)> {
        lines.iter().map(|line| (line.check, line.outcome)).collect()
    }

    #[test]
    fn a_way_has_a_line_for_each_of_its_layers_up_to_the_one_that_fails() {
        use Outcome::{Failed, Ok as Good, Unchecked};
        let wss = way("wss://hub", Some("http://192.0.2.9:3128"));
        let head = [("dns", Good), ("route", Good), ("tcp", Good)];
        let layers = [("proxy", Good), ("tls", Good), ("websocket", Good)];
        let tail = [("hello", Good), ("key", Unchecked), ("mtu", Good)];
        assert_eq!(outcomes(&of_way(&wss, &good(), &known())), [&head[..], &layers, &tail].concat());
        assert_eq!(outcomes(&of_way(&way("hub", None), &good(), &known())), [&head[..], &tail].concat());
        for (stage, through) in [(Stage::Proxy, 0), (Stage::Tls, 1), (Stage::Upgrade, 2)] {
            let opening = Some(Err((stage, io::Error::from(io::ErrorKind::TimedOut))));
            let trace = Trace { opening, greeting: None, packets: None, ..good() };
            let expected = [&head[..], &layers[..through], &[(layers[through].0, Failed)]].concat();
            assert_eq!(outcomes(&of_way(&wss, &trace, &known())), expected);
        }
        let refused = Some(Err((None, io::Error::from(io::ErrorKind::ConnectionRefused))));
        let trace = Trace { connection: refused, opening: None, greeting: None, packets: None, ..good() };
        assert_eq!(
            outcomes(&of_way(&wss, &trace, &known())),
            [("dns", Good), ("route", Good), ("tcp", Failed)]
        );
    }

    #[test]
    fn what_fails_says_what_to_do() {
        let text = |trace: &Trace, known: &Known| {
            let lines = of_way(&way("hub", Some("http://192.0.2.9:3128")), trace, known);
            lines.into_iter().find(|line| line.outcome == Outcome::Failed).unwrap().text
        };
        let error = layers::Error::Proxy(ProxyError {
            proxy: "http://192.0.2.9:3128".to_owned(),
            destination: Destination { host: "hub".to_owned(), port: 5678 },
            cause: Cause::Portal(None),
        });
        let opening = Some(Err((Stage::Proxy, io::Error::other(error))));
        let trace = Trace { opening, greeting: None, ..good() };
        assert!(text(&trace, &known()).contains("log in there first, with a browser"));
        let stranger = tunnel::Error::UnknownProtocol(UnknownProtocol::Http);
        let greeting = Some(Err(NoGreeting::Tunnel(Progress::Answered, stranger)));
        assert!(text(&Trace { greeting, ..good() }, &known()).contains("a captive portal?"));
        let lost = Trace { packets: Some(Packets::Lost(1_448)), ..good() };
        assert!(text(&lost, &known()).contains("segments of 1448 bytes to 192.0.2.1 are lost in silence"));
        let inside = Known { running: Ok(running(Ok("hub".to_owned()))), ..known() };
        let trace = Trace { hops: vec![("192.0.2.1".parse().unwrap(), hop("spoke0"))], ..good() };
        assert!(text(&trace, &inside).contains("would leave through spoke0, the LAN itself"));
        let other = Known { pinned: Ok(vec![key(2)]), ..known() };
        assert!(text(&good(), &other).contains("or delete its line in hubs"));
        let other = Known { hub_keys: vec![key(2)], pinned: Ok(vec![key(1)]), ..known() };
        assert!(text(&good(), &other).ends_with("give --hub-key the key that the hub prints at start"));
    }

    #[test]
    fn one_way_is_enough_but_another_key_or_a_fault_of_this_machine_is_not() {
        let line = |check, outcome| Line::new(check, outcome, "");
        let works = ("a".to_owned(), vec![line("tcp", Outcome::Ok), line("key", Outcome::Unchecked)]);
        let fails = ("b".to_owned(), vec![line("tcp", Outcome::Failed)]);
        let forged = ("c".to_owned(), vec![line("tcp", Outcome::Ok), line("key", Outcome::Failed)]);
        let silent = ("d".to_owned(), vec![line("dns", Outcome::Ok)]);
        let machine = |outcome| vec![line("lan", outcome)];
        for (ways, machine, is_good) in [
            (vec![works.clone()], machine(Outcome::Ok), true),
            (vec![fails.clone(), works.clone()], machine(Outcome::Unchecked), true),
            (vec![works.clone()], machine(Outcome::Failed), false),
            (vec![works, forged], machine(Outcome::Ok), false),
            (vec![fails], machine(Outcome::Ok), false),
            (vec![silent], machine(Outcome::Ok), false),
            (vec![], machine(Outcome::Ok), false),
        ] {
            let findings = Findings { ways, machine };
            assert_eq!(findings.are_good(), is_good, "{findings:?}");
        }
    }

    #[test]
    fn the_clock_is_judged_by_certificates_alone() {
        let tls = way("tls://hub", None);
        let failed = |why: TlsError| Trace {
            opening: Some(Err((Stage::Tls, io::Error::other(layers::Error::Tls(why))))),
            ..good()
        };
        for (way, trace, outcome, part) in [
            (tls.clone(), good(), Outcome::Ok, "it is 2026-11-26T16:30:00Z, when"),
            (tls.clone(), failed(TlsError::Expired), Outcome::Unchecked, "if it is not, set it"),
            (tls.clone(), failed(TlsError::NotYet), Outcome::Unchecked, "if it is not, set it"),
            (tls, failed(TlsError::UnknownIssuer), Outcome::Unchecked, "only a way with TLS can tell"),
            (way("hub", None), good(), Outcome::Unchecked, "only a way with TLS can tell"),
        ] {
            let line = clock(&[(way, trace)], 1_795_710_600);
            assert_eq!(line.outcome, outcome, "{line:?}");
            assert!(line.text.contains(part), "{line:?}");
        }
    }

    #[test]
    fn the_lan_and_the_spoke_are_told_of_as_far_as_they_are_known() {
        let on = Known { running: Ok(running(Ok("hub:5678".to_owned()))), ..known() };
        let off = Known { running: Ok(running(Err("the hub is locked".to_owned()))), ..known() };
        let asked = ["10.0.0.2".parse().unwrap()];
        let clash = ["the LAN's 10.0.0.0/24 and home".to_owned()];
        assert_eq!(lan(&known(), &[], Ok(&[])).outcome, Outcome::Unchecked);
        assert!(lan(&known(), &asked, Ok(&[])).text.ends_with("addresses of 10.0.0.2"));
        assert!(lan(&on, &asked, Ok(&[])).text.ends_with("addresses of 10.0.0.0/24"));
        assert_eq!(lan(&on, &[], Ok(&clash)).outcome, Outcome::Failed);
        assert_eq!(lan(&on, &[], Err("no netlink")).outcome, Outcome::Unchecked);
        assert_eq!(spoke(&on).text, "one is on the LAN as 10.0.0.2/24 by hub:5678");
        assert_eq!(spoke(&off).text, "the one that runs is off the LAN: the hub is locked");
        assert_eq!((spoke(&off).outcome, spoke(&known()).outcome), (Outcome::Failed, Outcome::Unchecked));
    }
}
