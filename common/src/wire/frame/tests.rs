//! Frames that cross, and bytes that are none.

use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;

fn addresses() -> impl Strategy<Value = Vec<IpAddr>> {
    (any::<Option<Ipv4Addr>>(), any::<Option<Ipv6Addr>>())
        .prop_map(|(v4, v6)| v4.map(IpAddr::V4).into_iter().chain(v6.map(IpAddr::V6)).collect())
}

fn networks() -> impl Strategy<Value = Vec<IpNetwork>> {
    let network = prop_oneof![
        (any::<Ipv4Addr>(), 0..=32u8).prop_map(|(ip, len)| IpNetwork::new(ip.into(), len).unwrap()),
        (any::<Ipv6Addr>(), 0..=128u8).prop_map(|(ip, len)| IpNetwork::new(ip.into(), len).unwrap()),
    ];
    proptest::collection::vec(network, 0..MAX_ROUTES)
}

fn names() -> impl Strategy<Value = Name> {
    "[A-Za-z0-9._-]{1,63}".prop_map(|name| name.parse().unwrap())
}

fn page_kinds() -> impl Strategy<Value = PageKind> {
    proptest::sample::select(vec![PageKind::Part, PageKind::Last, PageKind::Changes])
}

fn hubs() -> impl Strategy<Value = Vec<HubInfo>> {
    let place = ("(tls://|wss://|ws://|)[a-z0-9.-]{1,253}", 1..=u16::MAX);
    let place = place.prop_map(|(host, port)| format!("{host}:{port}").parse().unwrap());
    let hub = (any::<[u8; 32]>(), proptest::option::of(place), any::<bool>());
    let hub = hub.prop_map(|(seed, place, is_draining)| {
        let key = crate::wire::key::PrivateKey::from_random(seed).public();
        HubInfo { key, place, is_draining }
    });
    proptest::collection::vec(hub, 0..=MAX_TOLD_HUBS)
}

fn keys() -> impl Strategy<Value = PublicKey> {
    any::<[u8; 32]>().prop_map(|seed| crate::wire::key::PrivateKey::from_random(seed).public())
}

fn presences() -> impl Strategy<Value = Presence> {
    (keys(), any::<u64>(), any::<u64>(), networks()).prop_map(|(key, sequence, since, routes)| Presence {
        key,
        sequence,
        since,
        routes,
    })
}

fn texts() -> impl Strategy<Value = Option<String>> {
    proptest::option::of("\\PC{0,200}")
}

fn records() -> impl Strategy<Value = Record> {
    let id = prop_oneof![
        keys().prop_map(RecordId::Member),
        any::<[u8; 32]>().prop_map(RecordId::Invite),
        Just(RecordId::Access)
    ];
    (id, texts()).prop_map(|(id, text)| Record { id, text })
}

fn lists() -> impl Strategy<Value = ControlFrame> {
    let edits = (records(), texts()).prop_map(|(record, before)| Edit { record, before });
    let several = || proptest::collection::vec(records(), 0..20);
    prop_oneof![
        (keys(), any::<u64>(), any::<bool>()).prop_map(|(keeper, number, wants_all)| ControlFrame::Keeper {
            term: Term { number, keeper },
            wants_all
        }),
        (several(), any::<bool>(), any::<bool>()).prop_map(|(records, first, last)| ControlFrame::Records {
            records,
            first,
            last
        }),
        (any::<u64>(), proptest::collection::vec(edits, 0..20))
            .prop_map(|(token, edits)| ControlFrame::Ask { token, edits }),
        (any::<u64>(), texts(), several()).prop_map(|(token, refused, records)| ControlFrame::Answer {
            token,
            refused,
            records
        }),
    ]
}

fn controls() -> impl Strategy<Value = ControlFrame> {
    let peers = (names(), addresses(), any::<bool>()).prop_map(|(name, addresses, online)| Peer {
        name,
        addresses,
        online,
    });
    prop_oneof![
        (names(), networks(), addresses(), any::<u32>(), networks()).prop_map(
            |(name, addresses, hub, mtu, routes)| {
                let is_hub = mtu % 2 == 0;
                ControlFrame::Welcome(Welcome { name, addresses, hub, mtu, routes, is_hub })
            }
        ),
        (any::<u8>(), ".{0,100}")
            .prop_map(|(code, text)| ControlFrame::Refused { reason: Refusal::from_code(code), text }),
        any::<u64>().prop_map(ControlFrame::Ping),
        any::<u64>().prop_map(ControlFrame::Pong),
        any::<u8>().prop_map(|code| ControlFrame::Bye(Farewell::from_code(code))),
        (networks(), networks(), any::<bool>()).prop_map(|(added, removed, all)| ControlFrame::Routes {
            added,
            removed,
            all
        }),
        (proptest::collection::vec(peers, 0..20), page_kinds(), any::<Option<u64>>())
            .prop_map(|(peers, page, state)| ControlFrame::Members { peers, page, state }),
        (proptest::option::of(names()), any::<bool>(), any::<Option<u64>>())
            .prop_map(|(after, watch, since)| ControlFrame::AskMembers { after, watch, since }),
        Just(ControlFrame::MembersChanged),
        Just(ControlFrame::Pending),
        hubs().prop_map(ControlFrame::Hubs),
        proptest::collection::vec(presences(), 0..20).prop_map(ControlFrame::Online),
        proptest::collection::vec((keys(), any::<u64>()), 0..20).prop_map(ControlFrame::Offline),
        proptest::collection::vec(keys(), 0..20).prop_map(ControlFrame::Revoked),
        lists(),
    ]
}

fn decode(bytes: &[u8]) -> Result<Option<ControlFrame>, BadFrame> {
    let Some(header) = Header::decode(bytes)? else { return Ok(None) };
    let Some(body) = bytes[HEADER_LEN..].get(..header.len) else { return Ok(None) };
    ControlFrame::decode(header, body)
}

proptest! {
    #[test]
    fn control_frames_survive_the_wire_and_ask_for_more_at_every_shorter_length(control in controls()) {
        let mut bytes = Vec::new();
        control.encode(&mut bytes);
        for len in 0..bytes.len() {
            prop_assert_eq!(decode(&bytes[..len]), Ok(None));
        }
        prop_assert_eq!(decode(&bytes), Ok(Some(control)));
    }

    #[test]
    fn join_survives_the_wire_and_fits_the_handshake(
        name in names(), addresses in addresses(), routes in networks(),
        mtu in any::<Option<u32>>(), invite in any::<Option<[u8; INVITE_LEN]>>(), had in addresses(),
        sequence in any::<Option<u64>>(), is_hub in any::<bool>(), port in 1..=u16::MAX,
    ) {
        let place = is_hub.then(|| format!("wss://{}:{port}/{:a<243}", "a".repeat(253), "").parse().unwrap());
        let join = Join { name, addresses, routes, mtu, invite, had, sequence, is_hub, place };
        let bytes = join.encode();
        prop_assert!(bytes.len() <= crate::wire::noise::MAX_JOIN);
        prop_assert_eq!(Join::decode(&bytes), Ok(join));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(&bytes);
        let _ = Join::decode(&bytes);
    }
}

#[test]
fn skips_what_is_optional_and_refuses_what_is_not() {
    let header = |kind| Header { kind, len: 1 };
    assert_eq!(ControlFrame::decode(header(135), b"?"), Ok(None));
    assert_eq!(
        ControlFrame::decode(header(128), b"?"),
        Ok(Some(ControlFrame::Pending)),
        "its body is left to grow"
    );
    assert_eq!(ControlFrame::decode(header(255), b"?"), Ok(None));
    for unknown in [0, kind::PACKET, 99, 127] {
        assert_eq!(ControlFrame::decode(header(unknown), b""), Err(BadFrame), "{unknown}");
    }
    let mut ping = Vec::new();
    put(&mut ping, 200, b"later");
    put(&mut ping, tag::TOKEN, &7u64.to_be_bytes());
    assert_eq!(ControlFrame::decode(header(kind::PING), &ping), Ok(Some(ControlFrame::Ping(7))));
    put(&mut ping, 127, b"unknown");
    assert_eq!(ControlFrame::decode(header(kind::PING), &ping), Err(BadFrame));
}

#[test]
fn of_hubs_that_a_later_version_tells_those_are_taken_that_can_be_read() {
    let key = crate::wire::key::PrivateKey::from_random([7; 32]).public();
    let value = |flags: u8, key: &[u8], place: &str| [&[flags][..], key, place.as_bytes()].concat();
    let hubs = |values: &[Vec<u8>]| {
        let mut body = Vec::new();
        values.iter().for_each(|value| put(&mut body, tag::HUB, value));
        put(&mut body, 200, b"later");
        ControlFrame::decode(Header { kind: kind::HUBS, len: body.len() }, &body)
    };
    let place = Some("hub-b:5678".parse().unwrap());
    let known = HubInfo { key, place, is_draining: false };
    let told = [value(0xfe, key.as_bytes(), "hub-b:5678"), value(0, key.as_bytes(), "quic://hub-c")];
    assert_eq!(hubs(&told), Ok(Some(ControlFrame::Hubs(vec![known.clone()]))));
    let many = vec![told[0].clone(); MAX_TOLD_HUBS + 1];
    assert_eq!(hubs(&many), Ok(Some(ControlFrame::Hubs(vec![known; MAX_TOLD_HUBS]))));
    for bad in [vec![], vec![0; 32], value(0, &[0; 32], "hub-b"), [&told[0][..33], &[0xff]].concat()] {
        assert_eq!(hubs(&[bad]), Err(BadFrame));
    }
}

#[test]
fn a_record_is_one_line() {
    for (text, is_line) in
        [("locked", true), ("ü -", true), ("locked\nopen", false), ("open\r", false), ("\t", false)]
    {
        let record = Record { id: RecordId::Access, text: Some(text.to_owned()) };
        let before = Edit { record: Record { text: None, ..record.clone() }, before: record.text.clone() };
        for frame in [
            ControlFrame::Records { records: vec![record.clone()], first: false, last: false },
            ControlFrame::Ask { token: 7, edits: vec![before] },
        ] {
            let mut bytes = Vec::new();
            frame.encode(&mut bytes);
            assert_eq!(decode(&bytes), if is_line { Ok(Some(frame)) } else { Err(BadFrame) }, "{text:?}");
        }
    }
}

#[test]
fn refuses_a_body_beyond_the_bound() {
    let [high, middle, low] = [0xff; 3];
    assert_eq!(Header::decode(&[kind::PACKET, high, middle, low]), Err(BadFrame));
    let longest = Header::packet(MAX_BODY);
    assert_eq!(Header::decode(&longest).unwrap().unwrap().len, MAX_BODY);
}

#[test]
fn refuses_two_addresses_of_one_family() {
    let join = Join {
        addresses: vec![Ipv4Addr::LOCALHOST.into(), Ipv4Addr::BROADCAST.into()],
        ..Join::new(Name::nearest("a"))
    };
    assert_eq!(Join::decode(&join.encode()), Err(BadFrame));
}
