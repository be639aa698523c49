//! Tests of answers, by the records that they show.

use domain::base::message_builder::QuestionBuilder;
use domain::rdata::AllRecordData;
use proptest::prelude::*;

use super::*;
use crate::node::names::zone::NameTable;
use crate::wire::frame::Peer;

fn peer(name: &str, addresses: &[&str]) -> Peer {
    let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
    Peer { name: name.parse().unwrap(), addresses, online: true }
}

/// A LAN of 10.0.0.0/24 and fd00::/64 with a machine that has IPv4 alone; the laptop answers.
fn table() -> NameTable {
    NameTable::new(&[
        peer("hub", &["10.0.0.1", "fd00::1"]),
        peer("laptop", &["10.0.0.2", "fd00::2"]),
        peer("old", &["10.0.0.3"]),
    ])
}

fn lan(own: &[&str]) -> Vec<IpNetwork> {
    own.iter().map(|text| text.parse().unwrap()).collect()
}

fn query(name: &str, rtype: Rtype) -> QuestionBuilder<Vec<u8>> {
    let mut builder = MessageBuilder::new_vec().question();
    builder.header_mut().set_id(0xabcd);
    builder.header_mut().set_rd(true);
    builder.push((domain(name).unwrap(), rtype)).unwrap();
    builder
}

/// `RCODE [aa] | answers | authority`, a record as `NAME TYPE DATA`.
fn shown(answer: &[u8]) -> String {
    let message = Message::from_octets(answer).unwrap();
    let header = message.header();
    assert!(header.qr() && !header.ra() && header.id() == 0xabcd);
    let section = |records: domain::base::message::RecordSection<'_, &[u8]>| {
        let records = records.limit_to::<AllRecordData<_, _>>().map(|record| {
            let record = record.unwrap();
            assert_eq!(record.ttl(), TTL);
            let is_soa = record.rtype() == Rtype::SOA;
            let data = format!(" {}", record.data().to_string().trim_end_matches('.'));
            let data = if is_soa { "" } else { &data };
            format!("{} {}{data}", record.owner(), record.rtype())
        });
        records.collect::<Vec<_>>().join(", ")
    };
    let (answers, authority) = (section(message.answer().unwrap()), section(message.authority().unwrap()));
    let aa = if header.aa() { " aa" } else { "" };
    let tc = if header.tc() { " tc" } else { "" };
    format!("{}{aa}{tc} | {answers} | {authority}", header.rcode())
}

fn ask_in(name: &str, rtype: Rtype, own: &[&str]) -> String {
    let (zone, lan) = (Zone::default(), lan(own));
    let scope = Scope { zone: &zone, lan: &lan };
    shown(&answer(&query(name, rtype).finish(), scope, &table(), Carrier::Udp).unwrap())
}

fn ask(name: &str, rtype: Rtype) -> String {
    ask_in(name, rtype, &["10.0.0.2/24", "fd00::2/64"])
}

#[test]
fn a_machine_has_its_addresses_and_nothing_else() {
    for (name, rtype, expected) in [
        ("laptop.lan", Rtype::A, "NOERROR aa | laptop.lan A 10.0.0.2 | "),
        ("LapTop.LAN", Rtype::A, "NOERROR aa | LapTop.LAN A 10.0.0.2 | "),
        ("laptop.lan", Rtype::AAAA, "NOERROR aa | laptop.lan AAAA fd00::2 | "),
        ("laptop.lan", Rtype::ANY, "NOERROR aa | laptop.lan A 10.0.0.2, laptop.lan AAAA fd00::2 | "),
        ("hub.lan", Rtype::A, "NOERROR aa | hub.lan A 10.0.0.1 | "),
        ("old.lan", Rtype::AAAA, "NOERROR aa |  | lan SOA"),
        ("laptop.lan", Rtype::MX, "NOERROR aa |  | lan SOA"),
        ("laptop.lan", Rtype::HTTPS, "NOERROR aa |  | lan SOA"),
        ("nobody.lan", Rtype::A, "NXDOMAIN aa |  | lan SOA"),
        ("www.laptop.lan", Rtype::A, "NXDOMAIN aa |  | lan SOA"),
        ("localhost.lan", Rtype::A, "NXDOMAIN aa |  | lan SOA"),
        ("lan", Rtype::SOA, "NOERROR aa | lan SOA | "),
        ("lan", Rtype::NS, "NOERROR aa | lan NS laptop.lan | "),
        ("lan", Rtype::A, "NOERROR aa |  | lan SOA"),
        ("laptop", Rtype::A, "REFUSED |  | "),
        ("example.org", Rtype::A, "REFUSED |  | "),
        ("laptop.vlan", Rtype::A, "REFUSED |  | "),
        (".", Rtype::NS, "REFUSED |  | "),
        ("lan", Rtype::AXFR, "REFUSED |  | "),
    ] {
        assert_eq!(ask(name, rtype), expected, "{name} {rtype}");
    }
}

#[test]
fn an_address_has_its_machines_name() {
    let v6 =
        |last: &str| format!("{last}.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa");
    let v6_zone = "0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa";
    // The last hexadecimal digit of an address is its first label.
    let (held, free) = (v6("2"), v6("9"));
    for (name, rtype, expected) in [
        (
            "2.0.0.10.in-addr.arpa",
            Rtype::PTR,
            "NOERROR aa | 2.0.0.10.in-addr.arpa PTR laptop.lan | ".to_owned(),
        ),
        (&held, Rtype::PTR, format!("NOERROR aa | {held} PTR laptop.lan | ")),
        (&free, Rtype::PTR, format!("NXDOMAIN aa |  | {v6_zone} SOA")),
        (v6_zone, Rtype::SOA, format!("NOERROR aa | {v6_zone} SOA | ")),
        // A part of an address: it, or what is below it, may be there.
        ("0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa", Rtype::NS, format!("NOERROR aa |  | {v6_zone} SOA")),
        ("9.0.0.10.in-addr.arpa", Rtype::PTR, "NXDOMAIN aa |  | 0.0.10.in-addr.arpa SOA".to_owned()),
        ("2.0.0.10.in-addr.arpa", Rtype::A, "NOERROR aa |  | 0.0.10.in-addr.arpa SOA".to_owned()),
        ("x.2.0.0.10.in-addr.arpa", Rtype::PTR, "NXDOMAIN aa |  | 0.0.10.in-addr.arpa SOA".to_owned()),
        ("02.0.0.10.in-addr.arpa", Rtype::PTR, "NXDOMAIN aa |  | 0.0.10.in-addr.arpa SOA".to_owned()),
        ("256.0.0.10.in-addr.arpa", Rtype::PTR, "NXDOMAIN aa |  | 0.0.10.in-addr.arpa SOA".to_owned()),
        ("0.0.10.in-addr.arpa", Rtype::PTR, "NOERROR aa |  | 0.0.10.in-addr.arpa SOA".to_owned()),
        ("0.10.in-addr.arpa", Rtype::PTR, "REFUSED |  | ".to_owned()),
        ("2.0.1.10.in-addr.arpa", Rtype::PTR, "REFUSED |  | ".to_owned()),
        ("1.2.0.192.in-addr.arpa", Rtype::PTR, "REFUSED |  | ".to_owned()),
        ("arpa", Rtype::NS, "REFUSED |  | ".to_owned()),
    ] {
        assert_eq!(ask(name, rtype), expected, "{name} {rtype}");
    }
}

#[test]
fn the_reverse_zones_lie_within_the_lan() {
    for (own, name, expected) in [
        // 10.0.0.0/23 is two zones.
        ("10.0.0.2/23", "9.1.0.10.in-addr.arpa", "NXDOMAIN aa |  | 1.0.10.in-addr.arpa SOA"),
        ("10.0.0.2/23", "9.2.0.10.in-addr.arpa", "REFUSED |  | "),
        ("10.0.0.2/23", "0.10.in-addr.arpa", "REFUSED |  | "),
        // Of 10.0.0.0/26 each address is one.
        ("10.0.0.2/26", "2.0.0.10.in-addr.arpa", "NOERROR aa | 2.0.0.10.in-addr.arpa PTR laptop.lan | "),
        ("10.0.0.2/26", "9.0.0.10.in-addr.arpa", "NOERROR aa |  | 9.0.0.10.in-addr.arpa SOA"),
        ("10.0.0.2/26", "0.0.10.in-addr.arpa", "REFUSED |  | "),
        ("10.0.0.2/26", "64.0.0.10.in-addr.arpa", "REFUSED |  | "),
        ("10.0.0.2/16", "7.7.0.10.in-addr.arpa", "NXDOMAIN aa |  | 0.10.in-addr.arpa SOA"),
        ("10.0.0.2/16", "7.0.10.in-addr.arpa", "NOERROR aa |  | 0.10.in-addr.arpa SOA"),
    ] {
        assert_eq!(ask_in(name, Rtype::PTR, &[own]), expected, "{own} {name}");
    }
}

#[test]
fn what_is_not_known_yet_is_not_denied() {
    let (zone, lan) = (Zone::default(), lan(&["10.0.0.2/24"]));
    let scope = Scope { zone: &zone, lan: &lan };
    let ask = |name, rtype| {
        shown(&answer(&query(name, rtype).finish(), scope, &NameTable::default(), Carrier::Udp).unwrap())
    };
    assert_eq!(ask("laptop.lan", Rtype::A), "SERVFAIL |  | ");
    assert_eq!(ask("2.0.0.10.in-addr.arpa", Rtype::PTR), "SERVFAIL |  | ");
    assert_eq!(ask("lan", Rtype::NS), "NOERROR aa | lan NS ns.lan | ");
    assert_eq!(ask("example.org", Rtype::A), "REFUSED |  | ");
}

#[test]
fn edns_is_spoken_in_its_first_version() {
    let (zone, lan) = (Zone::default(), lan(&["10.0.0.2/24"]));
    let scope = Scope { zone: &zone, lan: &lan };
    for (version, code) in [(0, OptRcode::NOERROR), (1, OptRcode::BADVERS)] {
        let mut asked = query("laptop.lan", Rtype::A).additional();
        asked
            .opt(|opt| {
                opt.set_version(version);
                Ok(())
            })
            .unwrap();
        let answer = answer(&asked.finish(), scope, &table(), Carrier::Udp).unwrap();
        let message = Message::from_octets(&answer[..]).unwrap();
        let opt = message.opt().unwrap();
        assert_eq!((opt.udp_payload_size(), opt.version()), (UDP_LEN as u16, 0));
        assert_eq!(message.opt_rcode(), code);
    }
}

#[test]
fn what_is_no_question_is_dropped_and_other_operations_are_not_known() {
    let (zone, lan) = (Zone::default(), lan(&["10.0.0.2/24"]));
    let scope = Scope { zone: &zone, lan: &lan };
    let whole = query("laptop.lan", Rtype::A).finish();
    for len in 0..whole.len() {
        assert_eq!(answer(&whole[..len], scope, &table(), Carrier::Udp), None, "cut at {len}");
    }
    let mut response = query("laptop.lan", Rtype::A);
    response.header_mut().set_qr(true);
    assert_eq!(answer(&response.finish(), scope, &table(), Carrier::Udp), None);
    let mut two = query("laptop.lan", Rtype::A);
    two.push((domain("hub.lan").unwrap(), Rtype::A)).unwrap();
    assert_eq!(answer(&two.finish(), scope, &table(), Carrier::Udp), None);
    // A name that points to itself (RFC 1035, section 4.1.4).
    let mut looped = whole[..12].to_vec();
    looped.extend(b"\xc0\x0c\x00\x01\x00\x01");
    assert_eq!(answer(&looped, scope, &table(), Carrier::Udp), None);
    let mut update = query("lan", Rtype::SOA);
    update.header_mut().set_opcode(Opcode::UPDATE);
    assert_eq!(shown(&answer(&update.finish(), scope, &table(), Carrier::Udp).unwrap()), "NOTIMP |  | ");
    let mut chaos = MessageBuilder::new_vec().question();
    chaos.header_mut().set_id(0xabcd);
    chaos.push((domain("version.bind").unwrap(), Rtype::TXT, Class::CH)).unwrap();
    assert_eq!(shown(&answer(&chaos.finish(), scope, &table(), Carrier::Udp).unwrap()), "REFUSED |  | ");
}

#[test]
fn the_longest_question_gets_its_answer_in_a_plain_datagram() {
    let zone: Zone = [["z"; 26].concat(), ["y"; 63].concat(), ["x"; 63].concat(), "lan".to_owned()]
        .join(".")
        .parse()
        .unwrap();
    let lan = lan(&["10.0.0.2/24"]);
    let scope = Scope { zone: &zone, lan: &lan };
    let long = ["n"; 63].concat();
    let asked = query(&format!("{long}.{zone}"), Rtype::A).finish();
    let answered =
        answer(&asked, scope, &NameTable::new(&[peer(&long, &["10.0.0.2"])]), Carrier::Udp).unwrap();
    assert!(
        answered.len() <= PLAIN_LEN && shown(&answered).starts_with("NOERROR aa | "),
        "{}",
        answered.len()
    );
    let missing = answer(&asked, scope, &table(), Carrier::Udp).unwrap();
    assert!(missing.len() <= PLAIN_LEN && shown(&missing).starts_with("NXDOMAIN aa | "), "{}", missing.len());
}

proptest! {
    #[test]
    fn no_bytes_panic_and_no_answer_is_long(
        head in any::<[u8; 4]>(),
        behind in proptest::collection::vec(any::<u8>(), 0..300),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let (zone, lan) = (Zone::default(), lan(&["10.0.0.2/24", "fd00::2/64"]));
        let scope = Scope { zone: &zone, lan: &lan };
        let mut damaged = query("laptop.lan", Rtype::A).finish();
        let at = at.index(damaged.len());
        damaged[at] = byte;
        let mut random = [&head[..], &[0, 1, 0, 0, 0, 0, 0, 1], &behind].concat();
        random[2] &= 0x7f;
        for bytes in [damaged, random] {
            for carrier in [Carrier::Udp, Carrier::Tcp] {
                if let Some(answer) = answer(&bytes, scope, &table(), carrier) {
                    prop_assert!(answer.len() <= PLAIN_LEN);
                    prop_assert!(Message::from_octets(&answer[..]).unwrap().header().qr());
                }
            }
        }
    }
}
