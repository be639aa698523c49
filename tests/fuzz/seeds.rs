//! Seeds for the fuzz targets: real messages, and scripts that reach each state.

use std::net::{Ipv4Addr, Ipv6Addr};

use common::packet::offload::{GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, NEEDS_CSUM, Vnet};
use common::packet::protocol;
use common::wire::frame::{
    ControlFrame, Edit, Farewell, Join, LaneNote, PageKind, Peer, Presence, Record, RecordId, Refusal, Term,
    Welcome,
};
use common::wire::hello::hello;
use common::wire::key::PrivateKey;
use common::wire::name::Name;
use common::wire::noise::{Handshake, Role};

/// Target, file name, content.
pub(crate) type Seed = (&'static str, String, Vec<u8>);

pub(crate) fn all() -> Vec<Seed> {
    let mut all = Vec::new();
    let mut add = |target, name: &str, data: Vec<u8>| all.push((target, name.to_owned(), data));
    for (name, data) in handshakes() {
        add("handshake", name, data);
    }
    for (name, control) in controls() {
        let mut data = Vec::new();
        control.encode(&mut data);
        add("frames", name, data);
    }
    for (name, data) in packets() {
        add("packet", &name, data);
    }
    for (name, text) in members() {
        add("members", name, text.into_bytes());
    }
    for (name, text) in requests() {
        add("control", name, text.as_bytes().to_vec());
    }
    for (name, data) in rules() {
        add("rules", name, data);
    }
    for (name, data) in scripts() {
        add("tunnel", name, data);
    }
    for (name, data) in lanes() {
        add("lane", name, data);
    }
    for (name, data) in proxies() {
        add("proxy", name, data);
    }
    for (name, data) in websockets() {
        add("websocket", name, data);
    }
    for (name, data) in pings() {
        add("icmp", name, data);
    }
    all
}

fn join() -> Join {
    Join {
        addresses: vec![Ipv4Addr::new(10, 0, 0, 2).into(), Ipv6Addr::LOCALHOST.into()],
        routes: vec!["192.168.5.0/24".parse().unwrap()],
        mtu: Some(1_400),
        invite: Some([7; 16]),
        ..Join::new(Name::nearest("laptop"))
    }
}

fn handshakes() -> Vec<(&'static str, Vec<u8>)> {
    let key = PrivateKey::from_random([1; 32]);
    let mut first = hello().to_vec();
    Handshake::new(Role::Spoke, &key, [3; 32]).write(&[], &mut first).unwrap();
    let to_hub = |bytes: &[u8]| [&[0, 255], bytes].concat();
    let to_spoke = |bytes: &[u8]| [&[1, 255], bytes].concat();
    let third = |bytes: &[u8]| [&[2, 255], bytes].concat();
    let mut other_version = hello();
    other_version[7] = 9;
    vec![
        ("hub-first-message", to_hub(&first)),
        ("hub-first-message-byte-by-byte", [&[0, 0], &first[..]].concat()),
        ("hub-other-version", to_hub(&other_version)),
        ("hub-http", to_hub(b"GET / HTTP/1.1\r\nHost: hub\r\n\r\n")),
        ("hub-tls", to_hub(&[0x16, 3, 1, 2, 0, 1, 0])),
        ("hub-third-message", third(&[&[0, 96], &[9; 96][..]].concat())),
        ("hub-third-message-too-long", third(&[0x10, 1])),
        ("spoke-second-message", to_spoke(&[&hello()[..], &[0, 96], &[9; 96]].concat())),
        ("spoke-ssh", to_spoke(b"SSH-2.0-OpenSSH_9.9\r\n")),
        ("spoke-http", to_spoke(b"HTTP/1.1 400 Bad Request\r\n")),
        ("join", join().encode()),
        ("attach", [&[131, 0, 32][..], &[7; 32]].concat()),
    ]
}

fn presence() -> Presence {
    let key = PrivateKey::from_random([7; 32]).public();
    Presence { key, sequence: 7, since: 1_700_000_000_000, routes: vec!["192.168.5.0/24".parse().unwrap()] }
}

fn controls() -> Vec<(&'static str, ControlFrame)> {
    let networks = || vec!["10.0.0.2/24".parse().unwrap(), "fd00::2/64".parse().unwrap()];
    let name = Name::nearest("laptop");
    let peer = Peer { name: name.clone(), addresses: vec![Ipv4Addr::LOCALHOST.into()], online: true };
    let welcome = Welcome {
        addresses: networks(),
        hub: vec![Ipv4Addr::new(10, 0, 0, 1).into()],
        routes: vec!["192.168.5.0/24".parse().unwrap()],
        is_hub: true,
        ..Welcome::new(name.clone(), 1_500)
    };
    let key = presence().key;
    let term = Term { number: 7, keeper: key };
    let ids = [RecordId::Member(key), RecordId::Invite([7; 32]), RecordId::Access];
    let texts = [Some(format!("{key} laptop 10.0.0.2 hub=hub.example")), None, Some("locked".to_owned())];
    let records: Vec<Record> = ids.into_iter().zip(texts).map(|(id, text)| Record { id, text }).collect();
    let before = || Some("open".to_owned());
    let edits = records.iter().cloned().map(|record| Edit { record, before: before() }).collect();
    vec![
        ("welcome", ControlFrame::Welcome(welcome)),
        ("refused", ControlFrame::Refused { reason: Refusal::Full, text: "no room".to_owned() }),
        ("online", ControlFrame::Online(vec![presence()])),
        ("offline", ControlFrame::Offline(vec![(presence().key, 7)])),
        ("revoked", ControlFrame::Revoked(vec![presence().key])),
        ("keeper", ControlFrame::Keeper { term, wants_all: true }),
        ("records", ControlFrame::Records { records: records.clone(), first: true, last: true }),
        ("ask", ControlFrame::Ask { token: 7, edits }),
        ("answer", ControlFrame::Answer { token: 7, refused: Some("taken".to_owned()), records }),
        ("ping", ControlFrame::Ping(7)),
        ("pong", ControlFrame::Pong(7)),
        ("bye", ControlFrame::Bye(Farewell::Stopping)),
        ("lane", ControlFrame::Lane(LaneNote::Attached)),
        ("routes", ControlFrame::Routes { added: networks(), removed: networks(), all: true }),
        ("members", ControlFrame::Members { peers: vec![peer], page: PageKind::Changes, state: Some(7) }),
        ("ask-members", ControlFrame::AskMembers { after: Some(name), watch: true, since: Some(6) }),
    ]
}

/// An MTU for what is cut, then the packet.
fn packets() -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    for v6 in [false, true] {
        for (name, l4) in [("tcp", protocol::TCP), ("udp", protocol::UDP), ("icmp", protocol::ICMP)] {
            for gso_size in [None, Some(100)] {
                if l4 == protocol::ICMP && gso_size.is_some() {
                    continue;
                }
                let kind = if gso_size.is_some() { "super" } else { "plain" };
                let family = if v6 { "v6" } else { "v4" };
                let mtu = 280u16.to_be_bytes().to_vec();
                all.push((format!("{family}-{name}-{kind}"), [mtu, packet(v6, l4, gso_size)].concat()));
            }
        }
    }
    let mut extended = packet(true, protocol::UDP, None);
    // A hop-by-hop header in front of the UDP header.
    extended[16] = 0;
    extended.splice(50..50, [protocol::UDP, 0, 1, 4, 0, 0, 0, 0]);
    extended[15] += 8;
    extended[..10].fill(0);
    all.push(("v6-hop-by-hop".to_owned(), [vec![5, 0], extended].concat()));
    // A TCP checksum that is open within IPIP.
    let inner = packet(false, protocol::TCP, None)[10..].to_vec();
    let mut outer = packet(false, 4, None)[10..30].to_vec();
    let total = (20 + inner.len() as u16).to_be_bytes();
    outer[2..4].copy_from_slice(&total);
    let vnet = Vnet { flags: NEEDS_CSUM, csum_start: 40, csum_offset: 16, ..Vnet::default() };
    all.push(("v4-open-in-ipip".to_owned(), [&[5, 0], &vnet.bytes()[..], &outer, &inner].concat()));
    all
}

fn packet(v6: bool, l4: u8, gso_size: Option<u16>) -> Vec<u8> {
    let payload = [7; 250];
    let mut body = match l4 {
        protocol::TCP => {
            let mut tcp = vec![0x14, 0xe9, 0, 80, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x18, 255, 255, 0, 0, 0, 0];
            tcp.extend(payload);
            tcp
        }
        protocol::UDP => [&[0x14, 0xe9, 0, 53, 1, 2, 0, 0], &payload[..]].concat(),
        _ => [&[8, 0, 0, 0, 0, 1, 0, 1], &payload[..]].concat(),
    };
    let len = body.len() as u16;
    let ip = if v6 {
        let mut ip = vec![0x60, 0, 0, 0, (len >> 8) as u8, len as u8, l4, 64];
        ip.extend(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2).octets());
        ip.extend(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 3).octets());
        ip
    } else {
        let total = (len + 20).to_be_bytes();
        vec![0x45, 2, total[0], total[1], 0, 7, 0, 0, 64, l4, 0, 0, 10, 0, 0, 2, 10, 0, 0, 3]
    };
    let vnet = match (l4, gso_size) {
        (protocol::ICMP, _) => Vnet::default(),
        (_, gso_size) => Vnet {
            flags: NEEDS_CSUM,
            gso_type: match (gso_size, l4, v6) {
                (None, ..) => 0,
                (Some(_), protocol::UDP, _) => GSO_UDP_L4,
                (Some(_), _, false) => GSO_TCPV4,
                (Some(_), _, true) => GSO_TCPV6,
            },
            hdr_len: gso_size.map_or(0, |_| (ip.len() + if l4 == protocol::TCP { 20 } else { 8 }) as u16),
            gso_size: gso_size.unwrap_or(0),
            csum_start: ip.len() as u16,
            csum_offset: if l4 == protocol::TCP { 16 } else { 6 },
        },
    };
    let mut packet = vnet.bytes().to_vec();
    packet.extend(ip);
    packet.append(&mut body);
    packet
}

fn members() -> Vec<(&'static str, String)> {
    let key = |seed| PrivateKey::from_random([seed; 32]).public();
    vec![
        ("empty", String::new()),
        ("one", format!("{} laptop 10.0.0.2\n", key(1))),
        ("both-families", format!("{} laptop 10.0.0.2,fd00::2\n", key(1))),
        ("routes", format!("{}  laptop  10.0.0.2  route=192.168.5.0/24,10.9.0.0/16\n", key(1))),
        ("comments", format!("# ours\n\n{} laptop -\n  # the end", key(1))),
        ("held", format!("{} laptop 10.0.0.3\n{} phone 10.0.0.4\n", key(9), key(8))),
        ("revoked", format!("{} laptop 10.0.0.3 revoked\n", key(1))),
        ("comment-ends-in-carriage-returns", " #o\r\r\r".to_owned()),
        ("bad-line", format!("{} laptop 10.0.0.3\nnonsense\n", key(9))),
    ]
}

/// A file of rules, and a packet that they are held against.
fn rules() -> Vec<(&'static str, Vec<u8>)> {
    let with = |text: &str, packet: Vec<u8>| [text.as_bytes(), &[0], &packet].concat();
    let manual = "# all\ngroup servers = nas, tag:db, 192.168.5.0/24\nallow tag:admin -> *\n\
        allow * -> group:servers [tcp/22 tcp/8000-8100 udp/53 icmp]\ndeny  laptop -> hub\n";
    vec![
        ("manual-tcp", with(manual, packet(false, protocol::TCP, None))),
        ("manual-udp-super", with(manual, packet(true, protocol::UDP, Some(100)))),
        ("manual-icmp", with(manual, packet(false, protocol::ICMP, None))),
        ("all", with("allow * -> *", packet(true, protocol::TCP, Some(100)))),
        ("none", with("", packet(false, protocol::UDP, None))),
        (
            "nested-groups",
            b"group a = nas\ngroup b = group:a, fd00::/64\ndeny group:b -> 10.0.0.2\n".to_vec(),
        ),
        ("bad-word", b"allow * -> *\nalow * -> nas\n".to_vec()),
        ("bad-service", b"allow * -> nas [tcp/99999]".to_vec()),
        ("bad-prefix", b"allow 10.0.0.2/24 -> *".to_vec()),
    ]
}

fn requests() -> Vec<(&'static str, &'static str)> {
    vec![
        ("status", r#"{"command":"status","after":null}"#),
        ("next-page", r#"{"command":"status","after":"laptop"}"#),
        (
            "invite",
            r#"{"command":"invite","name":"x","addresses":["10.0.0.2"],"routes":["10.9.0.0/16"],"seconds":9}"#,
        ),
        ("revoke", r#"{"command":"revoke","member":"laptop"}"#),
        ("reload", r#"{"command":"reload"}"#),
        ("no-name", r#"{"command":"invite","name":"a b","seconds":-1}"#),
        ("no-command", r#"{"command":"dance"}"#),
    ]
}

/// Scripts for the body of the target `tunnel`: a byte of choice, then what it asks for.
fn scripts() -> Vec<(&'static str, Vec<u8>)> {
    const WRITE: u8 = 0x80;
    const READ: u8 = 0x84;
    const PACKET: u8 = 4 << 1;
    const TIME: u8 = 0x80 | 5 << 1;
    let (spoke, hub) = (0u8, 1u8);
    let greet = [WRITE | spoke, READ | hub, WRITE | hub, READ | spoke, WRITE | spoke, READ | hub];
    let welcome = [WRITE | hub, READ | spoke];
    let open = [&greet[..], &welcome].concat();
    let packets = [PACKET | spoke, 1, 0, PACKET | hub, 255, 0, PACKET | spoke, 0, 0];
    let carry = [WRITE | spoke, READ | hub, WRITE | hub, READ | spoke];
    let flip = [7 << 1 | spoke, 0, 40];
    vec![
        ("join", open.clone()),
        ("packets", [&open[..], &packets, &carry, &carry].concat()),
        (
            "slowly",
            [&open[..], &packets, &[spoke, 0, 9, 4 | hub, 0, 3, spoke, 1, 0, 4 | hub, 0, 200], &carry]
                .concat(),
        ),
        ("pings", [&open[..], &[TIME, 220], &carry, &[TIME, 220], &carry].concat()),
        ("silence", [&open[..], &[TIME, 255, TIME, 255, TIME, 255]].concat()),
        ("flipped", [&open[..], &packets, &[WRITE | spoke], &flip, &[READ | hub]].concat()),
        ("flipped-handshake", [&greet[..1], &flip, &greet[1..]].concat()),
        ("goodbye", [&open[..], &[0x70 | 7 << 1 | hub, 0, 0], &carry, &carry].concat()),
        (
            "control",
            [&open[..], &[0x40 | 6 << 1 | spoke, 11, 9, 0, 8, 0, 0, 0, 0, 0, 0, 0, 7], &carry].concat(),
        ),
        ("too-slow", [&greet[..2], &[TIME, 255]].concat()),
    ]
}

/// Scripts for a session with a lane.
fn lanes() -> Vec<(&'static str, Vec<u8>)> {
    // Writing, then reading, all of the link and of the lane, both ways; and time.
    let carry = [130, 146, 138, 154, 148, 132, 156, 140, 6, 20];
    let send = |flow: u8, len: u16| [&[flow << 5][..], &len.to_be_bytes()].concat();
    let (little, much) = (send(1, 80), send(2, 1_400).repeat(30));
    let settled = carry.repeat(8);
    let close = |at: u8| vec![7 | at << 4];
    let flip = vec![71, 0, 99];
    let story = |parts: &[&[u8]]| parts.concat();
    vec![
        ("settles", story(&[&little, &settled, &little, &settled])),
        ("little-and-much", story(&[&settled, &much, &little, &settled, &much, &little, &settled])),
        ("changes-over", story(&[&much, &settled, &much.repeat(4), &settled, &little.repeat(4), &settled])),
        ("spoke-closes", story(&[&settled, &little, &much, &close(0), &little, &settled])),
        ("hub-closes", story(&[&settled, &little, &carry, &little, &close(1), &little, &settled])),
        ("both-close", story(&[&settled, &little, &close(1), &close(0), &little, &settled])),
        ("damaged", story(&[&settled, &little, &[138], &flip, &settled, &little, &settled])),
    ]
}

/// Which proxy, where its answer is split, and the answer.
fn proxies() -> Vec<(&'static str, Vec<u8>)> {
    let answer = |which: u8, split: u8, answer: &[u8]| [&[which, split], answer].concat();
    vec![
        ("connect", answer(0, 9, b"HTTP/1.1 200 OK\r\n\r\nbehind")),
        ("connect-continue", answer(0, 30, b"HTTP/1.1 100 \r\n\r\nHTTP/1.0 200 OK\r\nVia: x\r\n\r\n")),
        ("connect-password", answer(1, 0, b"HTTP/1.1 407 x\r\nProxy-Authenticate: Basic realm=x\r\n\r\n")),
        ("connect-portal", answer(0, 40, b"HTTP/1.1 302 x\r\nLocation: http://portal/\r\n\r\n")),
        ("socks", answer(2, 3, b"\x05\x00\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x50behind")),
        ("socks-name", answer(2, 7, b"\x05\x00\x05\x00\x00\x03\x02ab\x00\x50")),
        (
            "socks-password",
            answer(3, 2, b"\x05\x02\x01\x00\x05\x00\x00\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x50"),
        ),
        ("socks-refused", answer(3, 1, b"\x05\x02\x01\x01")),
        ("socks-code", answer(2, 4, b"\x05\x00\x05\x05\x00\x01")),
        ("url", answer(4, 0, b"socks5h://a%20b:c%40d@[2001:db8::1]:1080/x\n*.example.org, 10.0.0.0/8")),
    ]
}

/// Which end, where the bytes are split, and the bytes.
fn websockets() -> Vec<(&'static str, Vec<u8>)> {
    let bytes = |which: u8, split: u8, bytes: &[u8]| [&[which, split], bytes].concat();
    let request = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let message = b"\x82\x82\0\0\0\0hi";
    let agreement = b"HTTP/1.1 101 x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Accept: vt3ZUFWEGLp3CwKPP3dsm+Np2vA=\r\n\r\n\x82\x02hi";
    vec![
        ("request", bytes(1, 100, &[&request[..], message].concat())),
        ("page", bytes(1, 5, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")),
        ("agreement", bytes(0, 60, agreement)),
        ("refusal", bytes(0, 20, b"HTTP/1.1 404 Not Found\r\n\r\n")),
        ("to-server", bytes(3, 4, &[&message[..], b"\x89\x80\0\0\0\0"].concat())),
        ("to-client", bytes(2, 1, b"\x02\x01h\x89\x00\x80\x01i\x8a\x00\x88\x02\x03\xe8")),
        ("text", bytes(2, 0, b"\x81\x02hi")),
        ("long", bytes(2, 3, b"\x82\x7f\0\0\0\0\0\x01\0\x01")),
    ]
}

/// Steps of a tunnel in pings: requests (0) and replies (2) as they are, changed (8 and up), lost (34), again (128), made
/// up (192).
fn pings() -> Vec<(&'static str, Vec<u8>)> {
    let open = [0, 1, 2, 1, 0, 1, 2, 1, 0, 1, 0, 1, 0, 1];
    let with = |steps: &[u8]| [&open[..], steps].concat();
    let busy = [1, 5, 3, 5].repeat(40);
    vec![
        ("silence", open.to_vec()),
        ("busy", with(&busy)),
        ("losses", with(&[1, 5, 34, 200, 3, 5, 1, 90].repeat(20))),
        ("again", with(&[1, 5, 3, 5, 129, 5, 131, 5].repeat(20))),
        ("late", with(&[1, 255, 3, 255].repeat(30))),
        ("sequence", with(&[9, 5, 0, 20, 0x80, 11, 5, 0, 20, 0x80, 3, 5].repeat(10))),
        ("acknowledged", with(&[9, 5, 0, 24, 0x7f, 11, 5, 0, 24, 0x7f, 3, 5].repeat(10))),
        ("window", with(&[17, 5, 0, 30, 0, 0, 31, 0, 19, 5, 0, 30, 0, 0, 31, 1, 3, 5].repeat(10))),
        ("flags", with(&[9, 5, 0, 29, 0x12, 11, 5, 0, 29, 0x14, 3, 5].repeat(10))),
        (
            "made-up",
            with(&[192, 1, 0, 21, 0x9d, 0x41, 0xe6, 0x0b, 3, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5]),
        ),
    ]
}
