//! A hundred hubs and a hundred thousand members in memory, and what that takes of each hub's processor: the times of one
//! core, that others may use meanwhile.
//!
//! `cargo bench --bench fleet`, `-- --hubs N --members N` for another size. With 100,000 members it needs 15 GB, and
//! `MALLOC_MMAP_MAX_=1000000 MALLOC_TOP_PAD_=4096 MALLOC_MMAP_THRESHOLD_=65536`: each spoke has large buffers of which it uses
//! little, and the C library must not clear what it takes for them.

#![allow(clippy::disallowed_methods, clippy::print_stdout, reason = "a benchmark measures and prints")]
#![allow(clippy::unwrap_used, reason = "what goes wrong shall end it")]

#[path = "../../../tests/simulation_hubs/attempts.rs"]
mod attempts;
#[path = "../../../tests/simulation/disk.rs"]
#[allow(dead_code, reason = "the simulation uses more of it")]
mod disk;
#[path = "../../../tests/simulation_hubs/fleet.rs"]
mod fleet;
#[path = "../../../tests/simulation/pipe.rs"]
#[allow(dead_code, reason = "the simulation uses more of it")]
mod pipe;
#[path = "../../../tests/simulation/rng.rs"]
#[allow(dead_code, reason = "the simulation uses more of it")]
mod rng;

fn number(name: &str, default: usize) -> usize {
    let mut words = std::env::args().skip_while(|word| word != name);
    words.nth(1).map_or(default, |word| word.parse().unwrap())
}

fn main() {
    fleet::tell(number("--hubs", 100), number("--members", 100_000));
}
