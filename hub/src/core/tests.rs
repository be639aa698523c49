//! One hub and what another one, with which it shares the list, says to it.

#![expect(clippy::disallowed_methods, reason = "virtual time has to start somewhere")]

use common::queue::Pool;
use common::wire::frame::{Edit, Join, Presence, Record, RecordId, Term};
use common::wire::inbox::Inbox;
use common::wire::tunnel::{Tunnel, outbox};

use super::*;
use crate::lan::subnets::Subnets;

fn key(seed: u8) -> PrivateKey {
    PrivateKey::from_random([seed; 32])
}

fn member(seed: u8, rest: &str) -> String {
    format!("{} {rest}\n", key(seed).public())
}

/// The hub of key 1 with these members, beside itself and the hub of key 2, which is linked to it; the link.
fn linked(members: &str, lan_file: LanFile, hub_networks: &[&str]) -> (Core, SessionId) {
    let subnets = Subnets::new(&["10.0.0.0/24".parse().unwrap()]).unwrap();
    let text =
        member(1, "hub-1 10.0.0.201 hub=192.0.2.1") + &member(2, "hub-2 10.0.0.202 hub=192.0.2.2") + members;
    let lan = Lan {
        hub_name: "hub-1".parse().unwrap(),
        subnets,
        mtu: 1_400,
        routes: vec![],
        hub_networks: hub_networks.iter().map(|network| network.parse().unwrap()).collect(),
    };
    let files = Files {
        members: Members::parse(&text, subnets).unwrap(),
        fingerprint: Fingerprint::of(&text),
        invites: Invites::default(),
        access: Access::Open,
        rules: None,
        moves: Moves::default(),
        lan: lan_file,
    };
    let (mut core, now) =
        (Core::new(key(1), lan, files, 1, Duration::from_secs(1_700_000_000)), Instant::now());
    core.finish_turn(now);
    let link = core.accept("192.0.2.2:4000".parse().unwrap(), [9; 32], now).unwrap();
    core.peers.set_up(key(2).public(), link, vec![], now);
    (core, link)
}

/// The machine with this key asks to join.
fn join(core: &mut Core, seed: u8, join: &Join, now: Instant) {
    let (mut pool, mut inbox) = (Pool::new(0), Inbox::default());
    let mut tunnel = Tunnel::spoke(&key(seed), [8; 32], None, join, &mut pool, now);
    let session = core.accept("198.51.100.1:4000".parse().unwrap(), [7; 32], now).unwrap();
    // Three messages of the handshake, the last with the request.
    for _ in 0..2 {
        let mut sent = Vec::new();
        let flushed = tunnel.flush(&mut outbox(), &mut pool, now, |bytes| {
            sent.extend_from_slice(bytes);
            bytes.len()
        });
        assert!(flushed.is_ok());
        core.receive(session, now, |space| {
            space[..sent.len()].copy_from_slice(&sent);
            sent.len()
        });
        let mut answer = Vec::new();
        core.flush(session, now, |bytes| {
            answer.extend_from_slice(bytes);
            bytes.len()
        });
        tunnel.fill(&mut inbox, &mut pool, now, |space| {
            space[..answer.len()].copy_from_slice(&answer);
            answer.len()
        });
        while let Ok(Some(_)) = tunnel.open(&mut inbox, &mut pool, now) {}
        tunnel.park(&mut inbox, &mut pool);
    }
}

#[test]
fn what_a_member_offers_is_written_down_by_the_hub_that_it_is_with_alone() {
    let (mut core, link) = linked(&member(3, "nas 10.0.0.3"), LanFile::default(), &["192.168.1.5/24"]);
    let (nas, now) = (core.members().by_key(&key(3).public()).unwrap(), Instant::now());
    let routes: Vec<_> = ["192.168.1.0/24", "192.168.2.0/24"].map(|route| route.parse().unwrap()).to_vec();
    let told = Presence { key: key(3).public(), sequence: 1, since: 1, routes: routes.clone() };
    core.handle_online(link, vec![told]);
    assert!(core.routes.of(nas).eq([routes[1]]), "the hub is in the other network itself");
    assert_eq!(core.members().member(nas).routes, []);
    // It comes here.
    join(&mut core, 3, &Join { routes: routes.clone(), ..Join::new("nas".parse().unwrap()) }, now);
    assert!(core.members().member(nas).session.is_some());
    assert_eq!(core.members().member(nas).routes, [routes[1]]);
}

#[test]
fn questions_wait_for_no_disk_without_end() {
    let now = Instant::now();
    let (mut core, link) = linked("", LanFile::default(), &[]);
    (0..9).for_each(|token| core.handle_ask(link, token, &[], now));
    assert!(core.keeper.telling.next_untold(|_| true).is_none(), "none of them keeps a list");

    let routes: Vec<String> =
        (0..64).map(|at| format!("fd44:1111:2222:3333:4444:5555:6666:{at:x}/128")).collect();
    let members: String =
        (3..11).map(|seed| member(seed, &format!("m{seed} - route={}", routes.join(",")))).collect();
    let term = Some(Term { number: 1, keeper: key(1).public() });
    let (mut core, link) = linked(&members, LanFile { term, ..LanFile::default() }, &[]);
    // Another hub was quicker, always.
    let record = |seed| Record { id: RecordId::Member(key(seed).public()), text: None };
    let edits: Vec<Edit> = (3..11).map(|seed| Edit { record: record(seed), before: None }).collect();
    (0..1_000).for_each(|token| core.handle_ask(link, token, &edits, now));
    let answers = std::iter::from_fn(|| core.keeper.telling.next_untold(|_| true)).count();
    assert!((10..100).contains(&answers), "{answers}");
    // It is asked again over another link.
    assert!(!core.keeper.decide(key(2).public(), 999));
}
