//! What the spoke writes down about hubs: their keys, and for whom they vouch. IO, by the state directory.

use common::node::state::{self, State};
use common::wire::key::PublicKey;
use common::wire::place::Place;
use common::wire::target::Target;

use crate::uplink::{Config, Known, pins};

/// The keys of hubs, in the state directory.
pub const HUBS: &str = "hubs";

/// What is written down about the hubs that are named.
pub(super) fn known(text: &str, config: &Config) -> Result<Known, pins::BadLine> {
    let mut keys = pins::pinned(text, &config.hubs)?;
    if !config.hub_keys.is_empty() {
        keys = config.hub_keys.clone();
    }
    let mut pinned = Vec::new();
    for hub in &config.hubs {
        let key = pins::pinned(text, std::slice::from_ref(hub))?;
        pinned.extend(key.into_iter().map(|key| (hub.clone(), key)));
    }
    Ok(Known { pinned, told: pins::told(text, &config.hubs, &keys), joins: 0 })
}

/// Writes a hub's key down, by these of its names; whether it was not there yet.
pub(super) fn hub(state: &State, hubs: &[Target], key: PublicKey) -> Result<bool, state::Error> {
    let text = state.read(HUBS)?.unwrap_or_default();
    if pins::is_pinned(&text, hubs, key) {
        return Ok(false);
    }
    state.write(HUBS, &pins::with_pin(&text, hubs, key)).map(|()| true)
}

/// Writes down for which hubs the given ones vouch.
pub(super) fn told(state: &State, hubs: &[Target], told: &[(Place, PublicKey)]) -> Result<(), state::Error> {
    let text = state.read(HUBS)?.unwrap_or_default();
    let with_told = pins::with_told(&text, hubs, told);
    if with_told == text { Ok(()) } else { state.write(HUBS, &with_told) }
}
