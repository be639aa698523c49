//! What the access rules cost per packet: of known flows, and of flows that begin, with few rules and with a thousand.
//!
//! `cargo bench -p hub --bench rules`. Each figure is the least of many rounds. It fails where a packet of a known flow
//! costs more with a thousand rules than a tenth above what it costs with one, beyond what a clock can tell.

#![allow(clippy::disallowed_methods, clippy::print_stdout, reason = "a benchmark measures and prints")]

use std::fmt::Write as _;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use common::packet::{Fragment, Header};
use common::wire::name::Name;
use hub::lan::rules::access::{AccessControl, Party};
use hub::lan::rules::{End, Rules};

const MEMBERS: usize = 100;
const PACKETS: usize = 2_048;
const ROUNDS: usize = 200;

fn main() -> ExitCode {
    let names: Vec<Name> = (0..MEMBERS).map(|n| Name::nearest(&format!("m{n}"))).collect();
    let tags: Vec<Name> = ["office", "home"].map(Name::nearest).to_vec();
    let end = |party: Party, address: IpAddr| match party {
        Party::Hub => End { name: None, tags: &[], address },
        Party::Member(id) => End { name: Some(&names[id]), tags: &tags, address },
    };
    println!("ns a packet        known flow   new flow");
    let mut known = Vec::new();
    for count in [1, 1_000] {
        let rules = Rules::parse(&text(count)).expect("rules");
        let (mut old, mut new) = (Duration::MAX, Duration::MAX);
        for _ in 0..ROUNDS {
            let mut access = AccessControl::new(rules.clone());
            let now = Instant::now();
            for shortest in [&mut new, &mut old] {
                let start = Instant::now();
                for n in 0..PACKETS {
                    let (from, to, header) = packet(n);
                    black_box(access.allows(from, to, black_box(&header), &[0; 64], now, end));
                }
                *shortest = start.elapsed().min(*shortest);
            }
        }
        let each = |time: Duration| time.as_nanos() as f64 / PACKETS as f64;
        println!("{count:>5} rules {:>17.1} {:>10.1}", each(old), each(new));
        known.push(each(old));
    }
    if known[1] > known[0] * 1.1 + 10.0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
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
