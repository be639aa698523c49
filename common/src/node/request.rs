//! Requests to a running program and its answers, as they travel through the control socket. Pure.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Longest request, in bytes, with its newline.
pub const MAX_REQUEST: usize = 4 * 1024;
/// Most connections at a time.
pub const MAX_CONNECTIONS: usize = 16;

/// Which connection a request came from. It stays valid, and means nobody else, when the connection is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    pub(super) slot: usize,
    pub(super) serial: u64,
}

impl Ticket {
    /// One for tests, which no connection has.
    pub fn for_test(serial: u64) -> Ticket {
        Ticket { slot: MAX_CONNECTIONS, serial }
    }
}

/// An answer as it travels.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Answer<T> {
    Ok(T),
    Error(String),
}

/// The bytes of an answer: what was asked for, or a sentence that says why not.
pub fn encode<T: Serialize>(answer: Result<T, String>) -> Vec<u8> {
    let answer = match answer {
        Ok(value) => Answer::Ok(value),
        Err(text) => Answer::Error(text),
    };
    // Only maps with keys that are no strings cannot be written as JSON.
    let mut bytes = serde_json::to_vec(&answer).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

/// A value as one line of JSON.
pub fn to_json(value: &impl Serialize) -> String {
    // As above: this cannot fail.
    serde_json::to_string(value).unwrap_or_default() + "\n"
}

/// Reads a request.
pub fn decode<T: DeserializeOwned>(request: &[u8]) -> Result<T, String> {
    serde_json::from_slice(request).map_err(|error| format!("the request is invalid: {error}"))
}
