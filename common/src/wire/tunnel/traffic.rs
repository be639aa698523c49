//! How much went through a tunnel. Pure.

use serde::{Deserialize, Serialize};

/// Packets and their bytes, one way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Packets; a super-packet counts once.
    pub packets: u64,
    /// Bytes of packet, with the virtio-net header.
    pub bytes: u64,
}

impl Traffic {
    pub(super) fn add(&mut self, len: usize) {
        self.packets += 1;
        self.bytes += len as u64;
    }
}
