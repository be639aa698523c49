//! The origin of a request to the core. Pure.

#![warn(clippy::disallowed_methods, reason = "pure, though the module above it is not")]

use std::fmt::Write as _;

use common::node::request::{Caller, Ticket};
use common::node::text::Printable;
use common::wire::invite::Secret;
use serde_json::Value;

/// A request that is not answered yet.
pub(super) struct Asked {
    /// Who waits for the answer.
    pub(super) requester: Requester,
    /// Who asks; a signal has no sender.
    pub(super) by: Option<Caller>,
    /// What is asked for.
    pub(super) request: Value,
}

/// The origin of a request, and what its answer needs beside the core's.
pub(super) enum Requester {
    /// A signal.
    Signal,
    /// A command.
    Command(Ticket),
    /// An invite.
    Invite(Ticket, Inviting),
}

/// What the answer about an invite says.
pub(super) struct Inviting {
    pub(super) secret: Secret,
    /// How long it lives.
    pub(super) seconds: u64,
    /// Whether there is one of its name, which will be void.
    pub(super) replaces: bool,
}

/// A request in one line for the log: its command and what it was given.
pub(super) fn summary(request: &Value) -> String {
    let Some(fields) = request.as_object() else { return String::new() };
    let mut text = fields.get("command").and_then(Value::as_str).unwrap_or_default().to_owned();
    for (name, value) in fields.iter().filter(|(name, _)| *name != "command") {
        // A String takes whatever is written to it.
        let _ = match value {
            Value::Null => Ok(()),
            Value::Array(list) if list.is_empty() => Ok(()),
            Value::String(value) => write!(text, " {name}={}", Printable(value)),
            value @ (Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
                write!(text, " {name}={}", Printable(&value.to_string()))
            }
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_fits_in_a_line() {
        let request = serde_json::json!({"command": "allow", "who": "lap\ntop", "name": null, "tags": [], "routes": ["10.0.0.0/8"]});
        assert_eq!(summary(&request), "allow routes=[\"10.0.0.0/8\"] who=lap\\ntop");
    }
}
