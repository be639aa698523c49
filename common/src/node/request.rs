//! Requests to a running program and its answers, as they travel through the control socket. Pure.

use std::fmt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::text::Printable;

/// Longest request, in bytes, with its newline.
pub const MAX_REQUEST: usize = 32 * 1024;
/// Most connections at a time.
pub const MAX_CONNECTIONS: usize = 16;

/// Who asks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caller {
    /// The user, by number, as the kernel tells it.
    pub uid: u32,
    /// The process, as the kernel tells it.
    pub pid: i32,
    /// Who became that user, as the command says: the variable `SUDO_USER`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sudo_user: Option<String>,
    /// Where that person sits, as the command says: the first word of `SSH_CONNECTION`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "uid {}", self.uid)?;
        if let Some(user) = &self.sudo_user {
            write!(f, " ({})", Printable(user))?;
        }
        match &self.from {
            Some(from) => write!(f, " from {}", Printable(from)),
            None => write!(f, ", process {}", self.pid),
        }
    }
}

/// What a command says of who runs it: the field `by` of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct By {
    /// The variable `SUDO_USER`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sudo_user: Option<String>,
    /// The first word of the variable `SSH_CONNECTION`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
}

/// Longest text of a [`By`], in bytes.
const MAX_BY: usize = 128;

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

/// Reads a request, and what it says of who asks.
pub fn decode<T: DeserializeOwned>(request: &[u8]) -> Result<(T, By), String> {
    let invalid = |error: serde_json::Error| format!("the request is invalid: {error}");
    let mut fields: Value = serde_json::from_slice(request).map_err(invalid)?;
    let by = fields.as_object_mut().and_then(|fields| fields.remove("by"));
    let by = by.map(serde_json::from_value).transpose().map_err(invalid)?;
    let short = |by: By| By {
        sudo_user: by.sudo_user.filter(|text| text.len() <= MAX_BY),
        from: by.from.filter(|text| text.len() <= MAX_BY),
    };
    let request = serde_json::from_value(fields).map_err(invalid)?;
    Ok((request, by.map(short).unwrap_or_default()))
}

/// The bytes of a request, without the newline behind it.
///
/// # Errors
/// Where it is no JSON object.
pub fn encode_request(request: &impl Serialize, by: &By) -> serde_json::Result<Vec<u8>> {
    let mut fields = serde_json::to_value(request)?;
    if let Value::Object(fields) = &mut fields
        && *by != By::default()
    {
        fields.insert("by".to_owned(), serde_json::to_value(by)?);
    }
    serde_json::to_vec(&fields)
}
