//! What the router costs per packet, with no prefixes behind members and with ten thousand.
//!
//! `cargo bench -p hub --bench router`. Each figure is the least of many rounds, so that what else the machine
//! does counts little. It fails where the full table costs more than twice what the empty one does.

#![allow(clippy::disallowed_methods, clippy::print_stdout, reason = "a benchmark measures and prints")]

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use common::packet::{Fragment, Header};
use common::wire::frame::Join;
use common::wire::key::PrivateKey;
use hub::ids::{MemberId, SessionId};
use hub::lan::members::{Access, Decision, Members};
use hub::lan::route_table::{MAX_LAN_ROUTES, RouteTable};
use hub::lan::subnets::Subnets;
use hub::switch::router::{Fabric, Origin, route};

const MEMBERS: u32 = 1_000;
/// Packets of one round: as many destinations, in no order.
const PACKETS: u32 = 4_096;
const ROUNDS: usize = 300;

fn main() -> ExitCode {
    let subnets = Subnets::new(&["10.0.0.0/16".parse().expect("a prefix")]).expect("a subnet");
    let (members, ids) = members(subnets);
    let empty = RouteTable::default();
    let full = full(&ids);
    let from = ids[0];
    let source = members.member(from).addresses[0];
    let packets = |destination: fn(u32) -> IpAddr| -> Vec<Header> {
        (0..PACKETS).map(|n| header(source, destination(n.wrapping_mul(2_654_435_761)))).collect()
    };
    // Beyond the first member, from whom all packets come.
    let to_members = packets(|n| Ipv4Addr::from_bits(0x0a00_0003 + n % (MEMBERS - 1)).into());
    let to_prefixes = packets(|n| address(n % MAX_LAN_ROUTES as u32, n >> 16).into());

    println!("ns a packet            no prefixes   {MAX_LAN_ROUTES} prefixes   ratio");
    let mut worst: f64 = 0.0;
    for (what, packets) in [("to members", &to_members), ("to prefixes", &to_prefixes)] {
        let time = |routes: &RouteTable| {
            let rounds = (0..ROUNDS).map(|_| {
                let start = Instant::now();
                for packet in packets {
                    black_box(route(
                        Fabric::alone(&members, routes),
                        &subnets,
                        Origin::Member(from),
                        black_box(packet),
                    ));
                }
                start.elapsed()
            });
            rounds.min().unwrap_or(Duration::ZERO).as_nanos() as f64 / f64::from(PACKETS)
        };
        let (without, with) = (time(&empty), time(&full));
        println!("{what:<22} {without:>11.1} {with:>16.1} {:>7.2}", with / without);
        worst = worst.max(with / without);
    }
    if worst > 2.0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// A list of members who are all on the LAN, from 10.0.0.2 on.
fn members(subnets: Subnets) -> (Members, Vec<MemberId>) {
    let mut members = Members::parse("", subnets).expect("nothing is a list");
    let ids = (0..MEMBERS).map(|n| {
        let mut seed = [0; 32];
        seed[..4].copy_from_slice(&n.to_le_bytes());
        let join = Join {
            addresses: vec![Ipv4Addr::from_bits(0x0a00_0002 + n).into()],
            ..Join::new(format!("m{n}").parse().expect("a name"))
        };
        let key = PrivateKey::from_random(seed).public();
        let Decision::Member { id, .. } = members.admit(key, &join, Access::Open, &[]) else {
            panic!("an open hub lets everyone in");
        };
        members.set_online(id, SessionId::new(n as usize));
        id
    });
    let ids = ids.collect();
    (members, ids)
}

/// As many prefixes as a LAN may have, spread over all members but the first, with gaps between them.
fn full(members: &[MemberId]) -> RouteTable {
    let mut prefixes = vec![Vec::new(); members.len() - 1];
    for n in 0..MAX_LAN_ROUTES as u32 {
        let prefix = format!("{}/24", address(n, 0)).parse().expect("a prefix");
        prefixes[n as usize % (members.len() - 1)].push(prefix);
    }
    let mut routes = RouteTable::default();
    for (&id, prefixes) in members[1..].iter().zip(&prefixes) {
        routes.set(id, prefixes);
    }
    routes
}

/// Host `host` of prefix `n`.
fn address(n: u32, host: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x2000_0000 + n * 0x300 + host % 0x100)
}

fn header(source: IpAddr, destination: IpAddr) -> Header {
    Header {
        source,
        destination,
        protocol: 6,
        l4: 20,
        fragment: Fragment::No,
        ports: Some((40_000, 80)),
        length: 1_500,
    }
}
