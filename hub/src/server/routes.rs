//! The kernel's routes through the LAN, as the core wants them. IO.

use std::net::IpAddr;
use std::time::Instant;

use ipnetwork::IpNetwork;
use log::{debug, info, warn};

use super::Server;
use crate::logbook::LogKind;

impl Server {
    /// Adds a kernel route to a prefix through the LAN, or removes it.
    pub(super) fn set_route(&mut self, prefix: IpNetwork, is_wanted: bool, now: Instant) {
        let Some(machine) = &mut self.machine else { return };
        let (set, what) = match is_wanted {
            true => (machine.add_route(prefix), "installed"),
            false => (machine.remove_route(prefix), "withdrawn"),
        };
        if self.logbook.allow(LogKind::KernelRoute, now) {
            match set {
                Ok(()) => info!("route {prefix} {what}"),
                Err(error) => warn!("route {prefix} not {what}: {error}"),
            }
        }
    }

    /// Has the kernel route an address of a member through the LAN, or not any more.
    pub(super) fn set_export(&mut self, address: IpAddr, is_here: bool, now: Instant) {
        let Some(machine) = &mut self.machine else { return };
        match machine.export(address, is_here) {
            Ok(()) => debug!("route to {address} {}", if is_here { "exported" } else { "withdrawn" }),
            Err(error) if self.logbook.allow(LogKind::KernelRoute, now) => warn!("{error}"),
            Err(error) => debug!("{error}"),
        }
    }
}
