//! What wears a LAN out: a hub that dies again and again, thousands of joins and reloads, paths that lose packets.
//!
//! `SOAK=1` makes each test as long as the promise says; the figures are printed
//! (`SOAK=1 cargo test --release -p spoke --test e2e_timed soak -- --nocapture`).

#![allow(clippy::disallowed_methods, clippy::print_stdout, clippy::unwrap_used, reason = "tests of IO")]

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use common::wire::frame::{ControlFrame, Farewell};
use common::wire::key::PrivateKey;
use nix::sys::signal::Signal;

use crate::house::wire::{Joined, Wire, random_key};
use crate::house::{Lan, Net, Process, SPOKE_ON_LAN, alone, long_or, state, transfer};

const SOON: Duration = Duration::from_secs(10);
/// The longest back-off of a spoke, and the handshake.
const BACK: Duration = Duration::from_secs(20);
/// How soon after its hub a LAN has to work again.
const HEALED: Duration = Duration::from_secs(3);
/// How much more memory the hub may hold after a thousand times the same.
const BYTES_PER_THOUSAND: u64 = 1024;
/// What memory is counted in.
const PAGE: u64 = 4096;
/// How often something is done before memory is looked at. The heap takes its shape in that time, and keeps it:
/// the 20,000th reload finds what the 2,000th left.
const WARM_UP: u64 = 2_000;
/// In one of so many rounds a member takes its own place. Whom that befalls more than twice in ten minutes is asked for a
/// sign of life first, which makes the long form as long as it is.
const TAKEOVER_EVERY: usize = 15;

#[test]
fn a_transfer_outlives_many_hubs() {
    let (_alone, kills) = (alone(), long_or(50, 3));
    let bytes: u64 = long_or(1 << 30, 100_000_000);
    let mut lan = Lan::new(2).unwrap();
    let under_way = transfer(lan.net.spoke(0), lan.net.spoke(1), Lan::address(1).into(), bytes).unwrap();
    let part = bytes / (kills + 1);
    let mut stalls = Vec::new();
    for kill in 1..=kills {
        under_way.wait_received(kill * part, BACK).unwrap();
        stalls.push(under_way.take_longest_stall());
        assert!(under_way.is_under_way(), "the transfer was over too soon for the test");
        lan.restart_hub().unwrap();
    }
    under_way.wait_received(bytes, BACK).unwrap();
    stalls.push(under_way.take_longest_stall());
    // Whatever breaks the connection is an error here.
    let took = under_way.finish().unwrap();
    stalls.sort_unstable();
    let (middle, longest) = (stalls[stalls.len() / 2], stalls[stalls.len() - 1]);
    println!(
        "{bytes} bytes past {kills} hubs in {took:.1?}, equal SHA-256; stalls: {middle:.2?} as a rule, {longest:.2?} at most"
    );
    assert!(longest <= HEALED, "the receiver got nothing for {longest:?}: {stalls:.2?}");
}

#[test]
fn all_spokes_are_back_soon_after_their_hub() {
    let (_alone, spokes, restarts) = (alone(), long_or(64, 16), long_or(10, 1));
    let mut lan = Lan::new(spokes).unwrap();
    for _ in 0..restarts {
        let marks: Vec<usize> = lan.spokes.iter().map(Process::mark).collect();
        let killed = Instant::now();
        lan.restart_hub().unwrap();
        let listening = Instant::now();
        for (spoke, mark) in lan.spokes.iter().zip(marks) {
            spoke.wait_for_line_after(mark, SPOKE_ON_LAN, BACK).unwrap();
        }
        let back = listening.elapsed();
        println!(
            "{spokes} spokes are back {back:.2?} after the new hub listens; it took {:.2?} to start",
            listening - killed
        );
        assert!(back <= HEALED, "the last of {spokes} spokes took {back:?}");
    }
}

#[test]
fn joins_and_leaves_leave_nothing_behind() {
    let _alone = alone();
    let lan = Lan::with(Net::new(2).unwrap(), 1).unwrap();
    let mark = lan.spokes[0].mark();
    let descriptors = lan.hub.descriptors().unwrap();
    let mut crowd = Crowd::new(&lan, 120);
    stays_flat(&lan.hub, descriptors, "joins and leaves", long_or(10_000, 600), || crowd.join_and_leave());
    drop(crowd);
    assert_eq!(lan.spokes[0].mark(), mark, "the others notice nothing");
}

#[test]
fn reloads_leave_nothing_behind() {
    let _alone = alone();
    let lan = Lan::with(Net::new(2).unwrap(), 1).unwrap();
    let mut crowd = Crowd::new(&lan, 20);
    (0..20).for_each(|_| crowd.join_and_leave());
    drop(crowd);
    let mark = lan.spokes[0].mark();
    let file = state(lan.net.hub(), "hub").join("members");
    let all = fs::read_to_string(&file).unwrap();
    let (but_one, _) = all.trim_end().rsplit_once('\n').unwrap();
    let mut texts = [(format!("{but_one}\n"), 20), (all, 21)].into_iter().cycle();
    let mut by_signal = true;
    let descriptors = lan.hub.descriptors().unwrap();
    stays_flat(&lan.hub, descriptors, "reloads", long_or(1_000, 100), || {
        let (text, members) = texts.next().unwrap();
        fs::write(&file, text).unwrap();
        let mark = lan.hub.mark();
        if by_signal {
            lan.hub.signal(Signal::SIGHUP).unwrap();
        } else {
            let mut command = Command::new(&lan.binaries.hub);
            command.args(["reload", "--state"]).arg(lan.net.hub().private().join("hub"));
            lan.net.hub().output(command).unwrap();
        }
        by_signal = !by_signal;
        let told = format!("read the files again: {members} members");
        lan.hub.wait_for_line_after(mark, &told, SOON).unwrap();
    });
    assert_eq!(lan.spokes[0].mark(), mark, "the others notice nothing");
}

#[test]
fn five_percent_of_loss_cost_no_link() {
    let _alone = alone();
    withstand_loss(5, long_or(50_000_000, 2_000_000));
}

#[test]
fn twenty_percent_of_loss_cost_no_link() {
    let _alone = alone();
    for _ in 0..long_or(5, 1) {
        withstand_loss(20, long_or(200_000, 20_000));
    }
}

/// A transfer between two spokes while all paths lose packets, both ways.
fn withstand_loss(percent: u32, bytes: u64) {
    let lan = Lan::new(2).unwrap();
    for spoke in &lan.spokes {
        lan.hub.wait_for_line(&format!("{} (", spoke.name()), SOON).unwrap();
    }
    let marks: Vec<usize> = lan.spokes.iter().chain([&lan.hub]).map(Process::mark).collect();
    lan.net.lose(percent).unwrap();
    let under_way = transfer(lan.net.spoke(0), lan.net.spoke(1), Lan::address(1).into(), bytes).unwrap();
    under_way.wait_received(bytes, Duration::from_secs(600)).unwrap();
    let stall = under_way.take_longest_stall();
    let took = under_way.finish().unwrap();
    lan.net.lose(0).unwrap();
    let rate = bytes as f64 * 8e-6 / took.as_secs_f64();
    let control = || fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control").unwrap();
    println!(
        "{percent} % lost, {}: {bytes} bytes in {took:.1?}, {rate:.2} Mbit/s, equal SHA-256; \
         nothing came for {stall:.1?} at most",
        lan.net.hub().run(control).trim()
    );
    for (process, mark) in lan.spokes.iter().chain([&lan.hub]).zip(marks) {
        assert_eq!(process.mark(), mark, "{} has something to say", process.name());
    }
}

/// Does the same `times` times, after a warm-up, and looks at what the hub holds after each tenth.
fn stays_flat(hub: &Process, descriptors: usize, what: &str, times: u64, mut once: impl FnMut()) {
    let mut held = Vec::new();
    let began = Instant::now();
    for part in std::iter::once(WARM_UP).chain([times / 10; 10]) {
        (0..part).for_each(|_| once());
        let end = Instant::now() + SOON;
        while hub.descriptors().unwrap() != descriptors {
            assert!(Instant::now() < end, "{} descriptors, not {descriptors}", hub.descriptors().unwrap());
            std::thread::sleep(Duration::from_millis(1));
        }
        held.push(hub.anonymous_bytes().unwrap());
    }
    let (first, last) = (held[0], held[10]);
    let kib: Vec<u64> = held.iter().map(|bytes| bytes / 1024).collect();
    println!(
        "{WARM_UP} and {times} {what} in {:.1?}: {descriptors} descriptors before and after; \
         KiB of memory after the warm-up and each tenth: {kib:?}",
        began.elapsed()
    );
    let allowed = (BYTES_PER_THOUSAND * times / 1_000).next_multiple_of(PAGE);
    assert!(last <= first + allowed, "{what}: {first} bytes after the warm-up, {last} at the end");
}

/// Spokes driven by hand, on a host of their own.
struct Crowd<'a> {
    lan: &'a Lan,
    keys: Vec<PrivateKey>,
    /// When each of them began to join the last time.
    joined_at: Vec<Option<Instant>>,
    cycles: usize,
}

impl<'a> Crowd<'a> {
    fn new(lan: &'a Lan, members: usize) -> Crowd<'a> {
        let keys = (0..members).map(|_| random_key().unwrap()).collect();
        Crowd { lan, keys, joined_at: vec![None; members], cycles: 0 }
    }

    /// The next one joins, and leaves in the next of the ways to leave.
    fn join_and_leave(&mut self) {
        let member = self.cycles % self.keys.len();
        // The hub lets a key join five times at once, and then once a second.
        if let Some(at) = self.joined_at[member] {
            std::thread::sleep((at + Duration::from_secs(1)).saturating_duration_since(Instant::now()));
        }
        self.joined_at[member] = Some(Instant::now());
        let mut joined = self.join(member);
        let round = self.cycles / self.keys.len();
        if round % TAKEOVER_EVERY == 2 {
            // The same member takes its place.
            drop(self.join(member));
            joined.wire().wait_closed(SOON).unwrap();
        } else if round.is_multiple_of(2) {
            let mut bye = Vec::new();
            ControlFrame::Bye(Farewell::Stopping).encode(&mut bye);
            joined.send_record(&bye).unwrap();
            joined.wire().wait_closed(SOON).unwrap();
        } else {
            drop(joined);
        }
        self.cycles += 1;
    }

    fn join(&self, member: usize) -> Joined {
        let address = Lan::address(100 + member);
        let hub = (Net::hub_v4(), 5678).into();
        Wire::connect(self.lan.net.spoke(1), hub, SOON).unwrap().join(&self.keys[member], address).unwrap()
    }
}
