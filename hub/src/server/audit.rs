//! The audit file: who changed what by a command, one JSON object a line. IO.
//!
//! `audit` grows to [`MAX_BYTES`], then becomes `audit.1`, in the place of the one before.

use common::node::human::utc;
use common::node::request::{Caller, to_json};
use common::node::state::{self, State};
use serde::Serialize;

/// The file.
const AUDIT: &str = "audit";
/// The one before.
const OLDER: &str = "audit.1";
/// How long the file may be, in bytes; both together have twice as many.
const MAX_BYTES: u64 = 1024 * 1024;

/// One change, or one that was refused.
#[derive(Debug, Serialize)]
pub(super) struct Entry {
    /// When, as RFC 3339 writes it.
    time: String,
    /// Who; a signal has no sender.
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<Caller>,
    /// What was asked for.
    request: serde_json::Value,
    /// Why it was refused, if it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl Entry {
    /// An entry for this time, in Unix seconds.
    pub(super) fn new(
        unix_time: u64,
        by: Option<Caller>,
        request: serde_json::Value,
        error: Option<String>,
    ) -> Entry {
        Entry { time: utc(unix_time), by, request, error }
    }

    /// Its line.
    pub(super) fn line(&self) -> String {
        to_json(self)
    }
}

/// Adds a line, and makes room for it first.
pub(super) fn append(state: &State, line: &str) -> Result<(), state::Error> {
    match state.size(AUDIT) {
        None => state.write(AUDIT, line),
        Some(size) if size + line.len() as u64 > MAX_BYTES => {
            state.rename(AUDIT, OLDER)?;
            state.write(AUDIT, line)
        }
        Some(_) => state.append(AUDIT, line),
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test of files")]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_bounded_and_keeps_the_last_lines() {
        let path = std::env::temp_dir().join(format!("hub-audit-test-{:x}", state::random_u64().unwrap()));
        let state = State::open(&path).unwrap();
        let line = format!("{}\n", "x".repeat(99_999));
        for _ in 0..35 {
            append(&state, &line).unwrap();
        }
        append(&state, "the last\n").unwrap();
        let size = |name| state.size(name).unwrap();
        assert!(size(AUDIT) <= MAX_BYTES && size(OLDER) <= MAX_BYTES && size(OLDER) > MAX_BYTES / 2);
        assert!(state.read(AUDIT).unwrap().unwrap().ends_with("the last\n"));
        std::fs::remove_dir_all(path).unwrap();
    }
}
