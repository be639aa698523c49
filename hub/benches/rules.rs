//! What the access rules cost per packet: of known flows, and of flows that begin, with few rules and with a thousand; and
//! the whole way of a small packet from spoke through hub to spoke, with no rules and with a thousand.
//!
//! `cargo bench -p hub --bench rules`. Each figure is the least of many rounds. It fails where a packet of a known flow
//! costs more with a thousand rules than a tenth above what it costs with one, beyond what a clock can tell, or where the
//! whole way costs more than a tenth above that without rules.

#![allow(clippy::disallowed_methods, clippy::print_stdout, reason = "a benchmark measures and prints")]

#[path = "../../tests/memory/mod.rs"]
mod memory;

use std::fmt::Write as _;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use common::packet::{Fragment, Header};
use common::wire::name::Name;
use hub::lan::rules::access::{AccessControl, Party};
use hub::lan::rules::{End, Rules};
use memory::World;

const MEMBERS: usize = 100;
const PACKETS: usize = 2_048;
const ROUNDS: usize = 200;

fn main() -> ExitCode {
    let names: Vec<Name> = (0..MEMBERS).map(|n| Name::nearest(&format!("m{n}"))).collect();
    let tags: Vec<Name> = ["office", "home"].map(Name::nearest).to_vec();
    let end = |party: Party, address: IpAddr| match party {
        Party::Hub => End { is_hub: true, name: None, tags: &[], address },
        Party::Member(id) => End { is_hub: false, name: Some(&names[id]), tags: &tags, address },
    };
    // In turns, so that both have the same luck with what else the machine does.
    let mut sets = [1, 1_000].map(|count| (Rules::parse(&text(count)).expect("rules"), [Duration::MAX; 2]));
    for _ in 0..ROUNDS {
        for (rules, shortest) in &mut sets {
            let mut access = AccessControl::new(rules.clone());
            let now = Instant::now();
            for shortest in shortest {
                let start = Instant::now();
                for n in 0..PACKETS {
                    let (from, to, header) = packet(n);
                    black_box(access.allows(from, to, black_box(&header), &[0; 64], now, end));
                }
                *shortest = start.elapsed().min(*shortest);
            }
        }
    }
    println!("ns a packet        known flow   new flow");
    let known = sets.map(|(rules, shortest)| {
        let [new, old] = shortest.map(|time| time.as_nanos() as f64 / PACKETS as f64);
        println!("{:>5} rules {old:>17.1} {new:>10.1}", rules.len());
        old
    });
    let [none, thousand] = whole_way();
    println!("whole way, 64 bytes: {none:.1} without rules, {thousand:.1} with 1000");
    let is_dear = known[1] > known[0] * 1.1 + 10.0 || thousand > none * 1.1;
    if is_dear { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Nanoseconds of a packet's way from spoke through hub to spoke, in turns with no rules and with a thousand.
fn whole_way() -> [f64; 2] {
    const SENT: usize = 2 * 20;
    let mut worlds = [None, Some(Rules::parse(&text(1_000)).expect("rules"))]
        .map(|rules| (World::new(rules, &[64]), Duration::MAX));
    for round in 0..20_000 {
        for (world, shortest) in &mut worlds {
            let (start, before) = (Instant::now(), received(world));
            world.turn();
            if round > 100 {
                *shortest = start.elapsed().min(*shortest);
                assert_eq!(received(world) - before, SENT, "every packet arrives");
            }
        }
    }
    worlds.map(|(_, time)| time.as_nanos() as f64 / SENT as f64)
}

fn received(world: &World) -> usize {
    world.spokes.iter().map(|spoke| spoke.received).sum()
}

/// Rules for others, and last one for all.
fn text(count: usize) -> String {
    let mut text = String::new();
    for n in 1..count {
        // A String takes whatever is written to it.
        let _ = writeln!(
            text,
            "allow m{} -> tag:t{}, server{n} [tcp/22 tcp/8000-8100 udp/53]",
            n % MEMBERS,
            n % 7
        );
    }
    text + "allow * -> *\n"
}

fn packet(n: usize) -> (Party, Party, Header) {
    let (from, to) = (n % MEMBERS, (n * 7 + 1) % MEMBERS);
    let address = |id: usize| IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0002 + id as u32));
    let header = Header {
        source: address(from),
        destination: address(to),
        protocol: 17,
        l4: 20,
        fragment: Fragment::No,
        ports: Some((n as u16, 443)),
        length: 64,
    };
    (Party::Member(from), Party::Member(to), header)
}
