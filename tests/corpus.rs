//! Replays the corpus of the fuzz targets, `tests/fuzz/corpus/TARGET/*`.
//!
//! `cargo test -p hub --test corpus write_seeds -- --ignored` writes its seeds anew. To fuzz (nightly, cargo-fuzz):
//! `cargo +nightly fuzz run --fuzz-dir tests/fuzz TARGET`. What it finds goes into the corpus under a name that says
//! what it was.

#![allow(clippy::disallowed_methods, reason = "a test: it reads files")]
#![allow(clippy::unwrap_used, reason = "a test: what goes wrong shall end it")]

#[path = "fuzz/bodies.rs"]
mod bodies;
#[path = "fuzz/seeds.rs"]
mod seeds;

use std::fs;
use std::panic::catch_unwind;
use std::path::PathBuf;

fn corpus(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus").join(target)
}

fn replay(target: &str, body: fn(&[u8])) {
    let directory = corpus(target);
    let mut count = 0;
    let entries = fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    for entry in entries {
        let path = entry.unwrap().path();
        let data = fs::read(&path).unwrap();
        assert!(catch_unwind(|| body(&data)).is_ok(), "{} fails", path.display());
        count += 1;
    }
    assert!(count >= 5, "{} holds {count} files: the corpus is missing", directory.display());
}

#[test]
fn handshake() {
    replay("handshake", bodies::handshake);
}

#[test]
fn frames() {
    replay("frames", bodies::frames);
}

#[test]
fn packet() {
    replay("packet", bodies::packet);
}

#[test]
fn members() {
    replay("members", bodies::members);
}

#[test]
fn rules() {
    replay("rules", bodies::rules);
}

#[test]
fn control() {
    replay("control", bodies::control);
}

#[test]
fn tunnel() {
    replay("tunnel", bodies::tunnel);
}

#[test]
fn lane() {
    replay("lane", bodies::lane);
}

#[test]
fn proxy() {
    replay("proxy", bodies::proxy);
}

#[test]
fn icmp() {
    replay("icmp", bodies::icmp);
}

#[test]
fn websocket() {
    replay("websocket", bodies::websocket);
}

/// Writes the seeds anew, from what the code itself says and takes, so that fuzzing begins behind the first checks.
#[test]
#[ignore = "it writes the corpus; run it after a change of the wire format"]
fn write_seeds() {
    for (target, name, data) in seeds::all() {
        fs::create_dir_all(corpus(target)).unwrap();
        fs::write(corpus(target).join(name), data).unwrap();
    }
}
