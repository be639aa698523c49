//! What has changed in the network configuration. Pure.

#![warn(clippy::disallowed_methods, reason = "pure, though the module above it is not")]

/// The changes that matter here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// The own device: its last change.
    pub device: Option<DeviceChange>,
    /// Another interface: it came, went, or changed its flags.
    pub links: bool,
    /// Addresses, of any interface.
    pub addresses: bool,
    /// Routes, of any table.
    pub routes: bool,
    /// Policy rules.
    pub rules: bool,
}

/// A change of the own device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceChange {
    /// Someone deleted it, or moved it to another namespace.
    Gone,
    /// Someone set it down.
    Down,
    /// Something else about it.
    Other,
}

impl Changes {
    /// Everything may have changed.
    pub const ALL: Changes = Changes {
        device: Some(DeviceChange::Other),
        links: true,
        addresses: true,
        routes: true,
        rules: true,
    };

    /// Whether nothing has changed.
    pub fn is_empty(&self) -> bool {
        *self == Changes::default()
    }

    /// Adds what changed later.
    pub fn merge(&mut self, later: Changes) {
        self.device = later.device.or(self.device);
        self.links |= later.links;
        self.addresses |= later.addresses;
        self.routes |= later.routes;
        self.rules |= later.rules;
    }
}
