//! The pinned key of the hub, and whether it is saved. Pure.

use std::time::{Duration, Instant};

use common::wire::key::PublicKey;

/// How long to wait before the key is written again after that failed.
const PIN_PAUSE: Duration = Duration::from_secs(10);

/// The key that the hub must prove.
pub(super) struct Pin {
    key: Option<PublicKey>,
    /// When to write it again, after that failed.
    again_at: Option<Instant>,
    /// Whether the last attempt to write it failed.
    has_failed: bool,
}

impl Pin {
    pub(super) fn new(key: Option<PublicKey>) -> Pin {
        Pin { key, again_at: None, has_failed: false }
    }

    /// The key, once it is known.
    pub(super) fn key(&self) -> Option<PublicKey> {
        self.key
    }

    /// When `poll` has something to write.
    pub(super) fn again_at(&self) -> Option<Instant> {
        self.again_at
    }

    /// The key, if it is to be written again now.
    pub(super) fn poll(&mut self, now: Instant) -> Option<PublicKey> {
        self.again_at.take_if(|at| *at <= now)?;
        self.key
    }

    /// The hub has proved this key, which is being written.
    pub(super) fn set(&mut self, key: PublicKey) {
        self.key = Some(key);
        self.again_at = None;
    }

    /// The key could not be written. Whether that is news.
    pub(super) fn failed(&mut self, now: Instant) -> bool {
        self.again_at = Some(now + PIN_PAUSE);
        !std::mem::replace(&mut self.has_failed, true)
    }

    /// The key, if it is not written yet.
    pub(super) fn unwritten(&self) -> Option<PublicKey> {
        self.key.filter(|_| self.again_at.is_some())
    }
}
