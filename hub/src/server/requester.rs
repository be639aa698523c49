//! Who asked the core for something. Pure.

#![warn(clippy::disallowed_methods, reason = "pure, though the module above it is not")]

use common::node::request::Ticket;
use common::wire::invite::Secret;

/// Who asked for something, and what the answer needs beside what the core says.
pub(super) enum Requester {
    /// A signal.
    Signal,
    /// A command.
    Command(Ticket),
    /// An invite, with its secret, which lives for so many seconds.
    Invite(Ticket, Secret, u64),
}
