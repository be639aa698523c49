//! The rules against a naive model, and what the lines do not say.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use common::packet;
use common::wire::name::Name;
use proptest::prelude::*;

use super::access::{AccessControl, Count, Party};
use super::*;

/// The members of these tests: name, tags, IPv4 and IPv6 address. Number 3 has a network behind it.
const MEMBERS: [(&str, &[&str], &str, &str); 4] = [
    ("laptop", &["admin", "home"], "10.0.0.2", "fd00::2"),
    ("nas", &["db"], "10.0.0.3", "fd00::3"),
    ("phone", &[], "10.0.0.4", "fd00::4"),
    ("gateway", &["home"], "192.168.5.7", "fd05::7"),
];

struct Lan {
    names: Vec<Name>,
    tags: Vec<Vec<Tag>>,
}

impl Lan {
    fn new() -> Lan {
        let name = |text: &&str| text.parse().unwrap();
        Lan {
            names: MEMBERS.iter().map(|member| name(&member.0)).collect(),
            tags: MEMBERS.iter().map(|member| member.1.iter().map(name).collect()).collect(),
        }
    }

    fn end(&self, party: Party, address: IpAddr) -> End<'_> {
        match party {
            Party::Hub => End { is_hub: true, name: None, tags: &[], address },
            Party::Member(id) => {
                End { is_hub: false, name: Some(&self.names[id]), tags: &self.tags[id], address }
            }
        }
    }
}

/// Number 4 is the hub.
fn party(id: usize) -> Party {
    if id < MEMBERS.len() { Party::Member(id) } else { Party::Hub }
}

fn address(id: usize, v6: bool) -> IpAddr {
    let (_, _, four, six) = MEMBERS.get(id).unwrap_or(&("hub", &[], "10.0.0.1", "fd00::1"));
    if v6 { six } else { four }.parse().unwrap()
}

/// A packet from one to the other with this L4 part.
fn packet(from: usize, to: usize, v6: bool, protocol: u8, l4: &[u8]) -> Vec<u8> {
    with_fragment(from, to, v6, protocol, l4, None)
}

/// The same as a fragment: identification, offset in units of 8 bytes, whether more follow.
fn with_fragment(
    from: usize,
    to: usize,
    v6: bool,
    protocol: u8,
    l4: &[u8],
    fragment: Option<(u16, u16, bool)>,
) -> Vec<u8> {
    let mut bytes = Vec::new();
    match (address(from, v6), address(to, v6)) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let (id, offset, more) = fragment.unwrap_or_default();
            let length = (20 + l4.len()) as u16;
            bytes.extend([0x45, 0]);
            bytes.extend(length.to_be_bytes());
            bytes.extend(id.to_be_bytes());
            bytes.extend((offset | u16::from(more) << 13).to_be_bytes());
            bytes.extend([64, protocol, 0, 0]);
            bytes.extend(source.octets());
            bytes.extend(destination.octets());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let extra = if fragment.is_some() { 8 } else { 0 };
            bytes.extend([0x60, 0, 0, 0]);
            bytes.extend(((l4.len() + extra) as u16).to_be_bytes());
            bytes.extend([if extra > 0 { 44 } else { protocol }, 64]);
            bytes.extend(source.octets());
            bytes.extend(destination.octets());
            if let Some((id, offset, more)) = fragment {
                bytes.extend([protocol, 0]);
                bytes.extend((offset << 3 | u16::from(more)).to_be_bytes());
                bytes.extend(u32::from(id).to_be_bytes());
            }
        }
        _ => unreachable!("both addresses are of one family"),
    }
    bytes.extend(l4);
    bytes
}

fn l4(ports: (u16, u16)) -> Vec<u8> {
    let mut bytes = [ports.0.to_be_bytes(), ports.1.to_be_bytes()].concat();
    bytes.resize(24, 0);
    bytes
}

fn echo(kind: u8, id: u16) -> Vec<u8> {
    let [a, b] = id.to_be_bytes();
    vec![kind, 0, 0, 0, a, b, 0, 1]
}

struct Bench {
    lan: Lan,
    access: AccessControl,
    now: Instant,
}

impl Bench {
    fn new(text: &str) -> Bench {
        let access = AccessControl::new(Rules::parse(text).unwrap());
        Bench { lan: Lan::new(), access, now: Instant::now() }
    }

    fn passes(&mut self, from: usize, to: usize, ip: &[u8]) -> bool {
        let header = packet::parse(ip).unwrap();
        let lan = &self.lan;
        self.access
            .allows(party(from), party(to), &header, ip, self.now, |party, address| lan.end(party, address))
    }

    fn udp(&mut self, from: usize, to: usize, ports: (u16, u16)) -> bool {
        self.passes(from, to, &packet(from, to, false, 17, &l4(ports)))
    }
}

const LAPTOP: usize = 0;
const NAS: usize = 1;
const PHONE: usize = 2;
const GATEWAY: usize = 3;
const HUB: usize = 4;

#[test]
fn a_wrong_line_is_named() {
    for (text, line, why) in [
        ("permit a -> b", 1, "a line begins with allow, deny or group, not with \"permit\""),
        ("\n# x\nallow a b", 3, "write FROM -> TO behind allow or deny"),
        ("allow -> b", 1, "an end is missing: name a member, or * for all"),
        ("allow a, -> b", 1, "an end is missing: name a member, or * for all"),
        ("allow group:x -> b", 1, "there is no group x in the lines above"),
        ("group x = a\ngroup x = b", 2, "the group x is there already"),
        ("group x a", 1, "write group NAME = MEMBER, MEMBER"),
        (
            "allow 10.0.0.1/24 -> b",
            1,
            "10.0.0.1/24 has bits set behind its prefix: did you mean 10.0.0.0/24?",
        ),
        (
            "allow a -> b [tcp/x]",
            1,
            "\"tcp/x\" is no service: write tcp/22, tcp/8000-8100, udp/53, tcp, udp or icmp",
        ),
        ("allow a -> b [tcp/9-1]", 1, "tcp/9-1: 9 is above 1"),
        (
            "allow a -> b [icmp/1]",
            1,
            "\"icmp/1\" is no service: write tcp/22, tcp/8000-8100, udp/53, tcp, udp or icmp",
        ),
        ("allow a -> b [", 1, "the bracket is not closed"),
        ("allow a -> b []", 1, "the brackets are empty: leave them out for everything"),
    ] {
        assert_eq!(Rules::parse(text).unwrap_err(), BadLine { line, why: why.to_owned() }, "{text}");
    }
    let deep: String = (0..10)
        .map(|n| format!("group g{} = group:g{n}\n", n + 1))
        .fold("group g0 = a\n".to_owned(), |a, b| a + &b);
    assert!(Rules::parse(&deep).unwrap_err().why.contains("deep"));
    let doubling: String = (0..7)
        .map(|n| format!("group g{} = {}\n", n + 1, vec![format!("group:g{n}"); 10].join(",")))
        .fold("group g0 = a\n".to_owned(), |a, b| a + &b);
    assert!(Rules::parse(&doubling).unwrap_err().why.contains("more than 1000 ends"));
}

#[test]
fn the_hub_is_known_by_its_name_too() {
    let lan = Lan::new();
    let mut rules =
        Rules::parse("group all = server, nas\nallow laptop -> Server\nallow group:all -> phone\n").unwrap();
    rules.name_hub(&"server".parse().unwrap());
    let decide = |from: usize, to: usize| {
        let [from, to] = [from, to].map(|id| lan.end(party(id), address(id, false)));
        rules.decide(from, to, Service::Icmp).line
    };
    let hub = MEMBERS.len();
    assert_eq!(decide(LAPTOP, hub), Some(2));
    assert_eq!(decide(hub, PHONE), Some(3));
    assert_eq!(decide(NAS, PHONE), Some(3));
    assert_eq!(decide(LAPTOP, NAS), None);
}

#[test]
fn explains_which_line_decides() {
    let rules = Rules::parse(
        "group servers = nas, 192.168.5.0/24 # behind the gateway\n\
         deny phone -> group:servers [tcp/22]\n\
         allow * -> group:servers [tcp/22 tcp/8000-8100, udp/53 icmp]\n\
         allow tag:admin -> *\n\
         allow laptop -> hub\n",
    )
    .unwrap();
    assert_eq!(rules.len(), 4);
    let lan = Lan::new();
    let explain = |from: usize, to: usize, service: &str| {
        let [from, to] = [from, to].map(|id| lan.end(party(id), address(id, false)));
        rules.decide(from, to, service.parse().unwrap()).to_string()
    };
    assert_eq!(explain(PHONE, NAS, "tcp/22"), "denied by line 2");
    assert_eq!(explain(PHONE, NAS, "tcp/8100"), "allowed by line 3");
    assert_eq!(explain(PHONE, GATEWAY, "icmp"), "allowed by line 3");
    assert_eq!(explain(PHONE, NAS, "udp/54"), "denied: no line matches");
    assert_eq!(explain(LAPTOP, PHONE, "47"), "allowed by line 4");
    assert_eq!(explain(PHONE, HUB, "tcp/22"), "denied: no line matches");
    assert!("tcp".parse::<Service>().is_err() && "tcp/70000".parse::<Service>().is_err());
}

#[test]
fn replies_pass_and_nothing_else_does() {
    let mut bench = Bench::new("allow laptop -> nas [udp/53 icmp]");
    assert!(!bench.udp(NAS, LAPTOP, (53, 4_000)), "before it was asked");
    assert!(bench.udp(LAPTOP, NAS, (4_000, 53)));
    assert!(bench.udp(NAS, LAPTOP, (53, 4_000)));
    assert!(!bench.udp(NAS, LAPTOP, (53, 4_001)) && !bench.udp(NAS, LAPTOP, (54, 4_000)));
    assert!(!bench.udp(PHONE, LAPTOP, (53, 4_000)));
    bench.now += Duration::from_secs(181);
    assert!(!bench.udp(NAS, LAPTOP, (53, 4_000)), "after a long silence");
    for (v6, protocol, request, reply) in [(false, 1, 8, 0), (true, 58, 128, 129)] {
        let from_nas = |kind| packet(NAS, LAPTOP, v6, protocol, &echo(kind, 7));
        assert!(!bench.passes(NAS, LAPTOP, &from_nas(reply)));
        assert!(bench.passes(LAPTOP, NAS, &packet(LAPTOP, NAS, v6, protocol, &echo(request, 7))));
        assert!(bench.passes(NAS, LAPTOP, &from_nas(reply)));
        assert!(!bench.passes(NAS, LAPTOP, &from_nas(request)), "a request is no reply");
    }
    let counts: Vec<Count> = bench.access.counts().collect();
    assert_eq!(counts, [Count { line: Some(1), packets: 6 }, Count { line: None, packets: 9 }]);
}

#[test]
fn a_connection_that_began_elsewhere_goes_on_whoever_speaks_first() {
    for rules in ["allow laptop -> nas [tcp/22]", "deny nas -> *\nallow laptop -> nas [tcp/22]"] {
        let mut bench = Bench::new(rules);
        let mut tcp = |from: usize, to: usize, ports: (u16, u16), flags: u8| {
            let mut l4 = l4(ports);
            (l4[12], l4[13]) = (0x50, flags);
            bench.passes(from, to, &packet(from, to, false, 6, &l4))
        };
        for flags in [0x02, 0x12, 0x04, 0x00] {
            assert!(!tcp(NAS, LAPTOP, (22, 4_000), flags), "{flags:#x}: it opens one, or is of none");
        }
        assert!(!tcp(NAS, LAPTOP, (80, 4_000), 0x18) && !tcp(NAS, PHONE, (22, 4_000), 0x18));
        assert!(tcp(NAS, LAPTOP, (22, 4_000), 0x18), "bytes of the side that was asked");
        assert!(
            tcp(LAPTOP, NAS, (4_000, 22), 0x10) && tcp(NAS, LAPTOP, (22, 4_000), 0x04),
            "it is known now"
        );
        assert!(!tcp(NAS, LAPTOP, (22, 4_000), 0x02), "but not to be opened that way");
        assert_eq!(bench.access.flows(), 1, "it is the laptop's");
    }
}

#[test]
fn a_connection_is_not_opened_the_other_way_in_pieces() {
    for v6 in [false, true] {
        let mut bench = Bench::new("allow laptop -> nas [tcp/22]");
        let (mut forth, mut back) = (l4((22, 445)), l4((445, 22)));
        (forth[13], back[13]) = (0x10, 0x10);
        assert!(bench.passes(NAS, LAPTOP, &packet(NAS, LAPTOP, v6, 6, &forth)));
        for known in [false, true] {
            if known {
                assert!(bench.passes(LAPTOP, NAS, &packet(LAPTOP, NAS, v6, 6, &back)));
            }
            let mut piece = |l4: &[u8], offset, more| {
                let packet = with_fragment(NAS, LAPTOP, v6, 6, l4, Some((7, offset, more)));
                bench.passes(NAS, LAPTOP, &packet)
            };
            assert!(
                !piece(&forth[..8], 0, true) && !piece(&forth[8..], 1, false),
                "flags in the second piece"
            );
            // Flags in both.
            let first = piece(&forth[..16], 0, true);
            assert!(first || !known);
            assert_eq!(piece(&forth[8..], 1, false), first && v6, "which is no IPv6 packet");
        }
    }
}

#[test]
fn a_flow_whose_packets_come_fast_is_as_alive_as_one_whose_packets_are_rare() {
    let mut bench = Bench::new("allow laptop -> nas [udp/53]");
    for _ in 0..1_000 {
        assert!(bench.udp(LAPTOP, NAS, (4_000, 53)));
        bench.now += Duration::from_millis(300);
    }
    assert!(bench.udp(NAS, LAPTOP, (53, 4_000)), "it began 300 s ago");
    bench.now += Duration::from_secs(181);
    assert!(!bench.udp(NAS, LAPTOP, (53, 4_000)));
    let counts: Vec<Count> = bench.access.counts().collect();
    assert_eq!(counts[0].packets, 1_001, "each is counted");
}

#[test]
fn errors_about_what_may_pass_do_too() {
    for (v6, icmp, unreachable) in [(false, 1, 3), (true, 58, 1)] {
        let mut bench = Bench::new("allow laptop -> nas [udp/53]");
        let request = packet(LAPTOP, NAS, v6, 17, &l4((4_000, 53)));
        let reply = packet(NAS, LAPTOP, v6, 17, &l4((53, 4_000)));
        let about = |quoted: &[u8]| [&[unreachable, 1, 0, 0, 0, 0, 0, 0][..], quoted].concat();
        let from_nas = packet(NAS, LAPTOP, v6, icmp, &about(&request));
        let from_laptop = packet(LAPTOP, NAS, v6, icmp, &about(&reply));
        let of_another = packet(PHONE, LAPTOP, v6, icmp, &about(&request));
        assert!(!bench.passes(NAS, LAPTOP, &from_nas));
        assert!(bench.passes(LAPTOP, NAS, &request));
        assert!(bench.passes(NAS, LAPTOP, &from_nas) && bench.passes(LAPTOP, NAS, &from_laptop));
        assert!(!bench.passes(PHONE, LAPTOP, &of_another));
        for length in 0..from_nas.len() {
            // Whatever is cut off: no panic.
            if let Ok(header) = packet::parse(&from_nas[..length]) {
                let lan = &bench.lan;
                let end = |party, address| lan.end(party, address);
                bench.access.allows(party(NAS), party(LAPTOP), &header, &from_nas[..length], bench.now, end);
            }
        }
    }
}

#[test]
fn fragments_share_the_fate_of_the_first() {
    for v6 in [false, true] {
        let mut bench = Bench::new("allow laptop -> nas [udp/53]");
        let piece = |id: u16, ports: (u16, u16), offset: u16| {
            let more = offset == 0;
            with_fragment(LAPTOP, NAS, v6, 17, &l4(ports), Some((id, offset, more)))
        };
        assert!(!bench.passes(LAPTOP, NAS, &piece(1, (4_000, 53), 3)), "one that comes before the first");
        assert!(bench.passes(LAPTOP, NAS, &piece(1, (4_000, 53), 0)));
        assert!(bench.passes(LAPTOP, NAS, &piece(1, (9, 9), 3)));
        assert!(!bench.passes(LAPTOP, NAS, &piece(2, (4_000, 54), 0)));
        assert!(!bench.passes(LAPTOP, NAS, &piece(2, (4_000, 53), 3)));
        bench.now += Duration::from_secs(31);
        assert!(!bench.passes(LAPTOP, NAS, &piece(1, (9, 9), 3)), "much later");
        for id in 0..10_000 {
            bench.passes(LAPTOP, NAS, &piece(id, (4_000, 53), 0));
        }
        bench.now += Duration::from_secs(31);
        bench.access.sweep(bench.now);
    }
}

#[test]
fn other_rules_hold_for_known_flows_too() {
    let mut bench = Bench::new("allow laptop -> nas");
    assert!(bench.udp(LAPTOP, NAS, (1, 2)) && bench.udp(NAS, LAPTOP, (2, 1)));
    bench.access.replace(Rules::parse("allow laptop -> nas [udp/2]").unwrap());
    assert!(bench.udp(NAS, LAPTOP, (2, 1)), "still allowed, by another line");
    bench.access.replace(Rules::parse("allow laptop -> nas [udp/3]").unwrap());
    assert!(!bench.udp(NAS, LAPTOP, (2, 1)) && !bench.udp(LAPTOP, NAS, (1, 2)));
    bench.access.replace(Rules::parse("allow tag:db -> *").unwrap());
    assert!(!bench.udp(LAPTOP, NAS, (1, 2)) && bench.udp(NAS, LAPTOP, (2, 1)));
    bench.lan.tags[NAS].clear();
    bench.access.parties_changed();
    assert!(!bench.udp(NAS, LAPTOP, (2, 1)));
}

// ---- against the naive model

/// A selector as text, and whether it holds for member `id`, said again.
fn selector() -> impl Strategy<Value = String> {
    let all = ["*", "hub", "laptop", "nas", "phone", "gateway", "tag:admin", "tag:home", "tag:db"];
    let more = ["10.0.0.0/24", "10.0.0.3", "192.168.5.0/24", "fd00::/64", "fd05::7", "0.0.0.0/0"];
    proptest::sample::select([&all[..], &more].concat()).prop_map(str::to_owned)
}

fn holds(selector: &str, id: usize, v6: bool) -> bool {
    let member = MEMBERS.get(id);
    match selector {
        "*" => true,
        "hub" => member.is_none(),
        "10.0.0.0/24" => !v6 && id != GATEWAY,
        "10.0.0.3" => !v6 && id == NAS,
        "192.168.5.0/24" => !v6 && id == GATEWAY,
        "fd00::/64" => v6 && id != GATEWAY,
        "fd05::7" => v6 && id == GATEWAY,
        "0.0.0.0/0" => !v6,
        other => match (other.strip_prefix("tag:"), member) {
            (Some(tag), Some(member)) => member.1.contains(&tag),
            (None, Some(member)) => member.0 == other,
            (_, None) => false,
        },
    }
}

#[derive(Clone, Debug)]
struct Line {
    allows: bool,
    from: Vec<String>,
    to: Vec<String>,
    services: Vec<(bool, u16, u16)>,
}

fn line() -> impl Strategy<Value = Line> {
    let ends = || proptest::collection::vec(selector(), 1..3);
    let service =
        (any::<bool>(), 1_u16..6, 0_u16..3).prop_map(|(tcp, first, more)| (tcp, first, first + more));
    (any::<bool>(), ends(), ends(), proptest::collection::vec(service, 0..3))
        .prop_map(|(allows, from, to, services)| Line { allows, from, to, services })
}

fn text_of(lines: &[Line]) -> String {
    let one = |line: &Line| {
        let services: Vec<String> = line
            .services
            .iter()
            .map(|(tcp, first, last)| format!("{}/{first}-{last}", if *tcp { "tcp" } else { "udp" }))
            .collect();
        let services = if services.is_empty() { String::new() } else { format!(" [{}]", services.join(" ")) };
        let word = if line.allows { "allow" } else { "deny" };
        format!("{word} {} -> {}{services}\n", line.from.join(", "), line.to.join(","))
    };
    lines.iter().map(one).collect()
}

/// A packet: from, to, family, TCP or UDP, ports.
type Sent = (usize, usize, bool, bool, (u16, u16));

fn model(lines: &[Line], (from, to, v6, tcp, ports): Sent) -> bool {
    let first = lines.iter().find(|line| {
        let among = |selectors: &[String], id| selectors.iter().any(|one| holds(one, id, v6));
        let serves =
            |&(of_tcp, first, last): &(bool, u16, u16)| of_tcp == tcp && first <= ports.1 && ports.1 <= last;
        among(&line.from, from)
            && among(&line.to, to)
            && (line.services.is_empty() || line.services.iter().any(serves))
    });
    first.is_some_and(|line| line.allows)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn agrees_with_the_naive_model(
        lines in proptest::collection::vec(line(), 0..8),
        sent in proptest::collection::vec((0_usize..5, 0_usize..5, any::<bool>(), any::<bool>(), (1_u16..8, 1_u16..8)), 1..60),
    ) {
        let text = text_of(&lines);
        let mut bench = Bench::new(&text);
        let mut passed: Vec<Sent> = Vec::new();
        for &one in &sent {
            let (from, to, v6, tcp, (source, destination)) = one;
            let bytes = packet(from, to, v6, if tcp { 6 } else { 17 }, &l4((source, destination)));
            let is_reply = passed.contains(&(to, from, v6, tcp, (destination, source)));
            let expected = is_reply || model(&lines, one);
            prop_assert_eq!(bench.passes(from, to, &bytes), expected, "{:?} under\n{}", one, text);
            if model(&lines, one) && !is_reply {
                passed.push(one);
            }
        }
    }

    #[test]
    fn no_text_panics(text in "([a-z*:,>\\-/#=\\[\\] 0-9.\n]|allow |deny |group | -> ){0,80}") {
        let _ = Rules::parse(&text);
    }
}
