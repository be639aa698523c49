//! What can be done to a hub that does not run. IO.

use std::path::Path;
use std::sync::Arc;

use common::linux::sandbox::User;
use common::node::cli;
use common::node::control as socket;
use common::node::state::State;

use super::{audit, files, store};
use crate::control::{Moved, Request, renumbered};
use crate::lan::subnets::Subnets;

/// Moves the LAN of a hub that does not run to other subnets; `state`: its state directory; `user`: whom it becomes.
///
/// # Errors
/// A sentence that says why nothing is changed.
pub fn renumber_stopped(state: &Path, user: Option<&User>, new: Subnets) -> Result<Moved, String> {
    let state = State::open_as(state, user.map(User::uid)).map_err(|error| error.to_string())?;
    let state = Arc::new(state);
    let done = files::renumber(&state, new);
    let request = Request::Renumber { subnets: new.iter().collect() };
    let request = serde_json::to_value(request).unwrap_or_default();
    let error = done.as_ref().err().cloned();
    let entry = audit::Entry::new(cli::unix_time().as_secs(), Some(socket::this_caller()), request, error);
    store::write_audit(&state, &entry.line());
    // The hub may run as another user than who does this.
    state.give_to_owner().map_err(|error| error.to_string())?;
    let own = state.key().map_err(|error| error.to_string())?.public();
    Ok(renumbered(&done?, own, false))
}
