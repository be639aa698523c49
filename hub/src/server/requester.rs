//! The origin of a request to the core. Pure.

#![warn(clippy::disallowed_methods, reason = "pure, though the module above it is not")]

use common::node::request::Ticket;
use common::wire::invite::Secret;

/// The origin of a request, and what its answer needs beside the core's.
pub(super) enum Requester {
    /// A signal.
    Signal,
    /// A command.
    Command(Ticket),
    /// An invite, with its secret, which lives for so many seconds.
    Invite(Ticket, Secret, u64),
}
