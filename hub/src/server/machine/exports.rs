//! Members in the kernel's main table, where routing daemons see them, and the rules that keep strangers out of the LAN. IO.
//!
//! Each member that is here is one route, which beats those of routing daemons to the same address. Of each of the LAN's
//! prefixes, the rules are asked in this order:
//!
//! ```text
//! 32758  to the prefix, from this machine: on with 32766
//! 32759  to the prefix, by the hub's device or one that was named: the main table, but for the prefix itself
//! 32760  to the prefix: unreachable
//! 32766  the kernel's own rule for the main table
//! ```
//!
//! So what is for nobody never comes back to the hub, and what comes in by another device does not get into the LAN, whether
//! or not this machine forwards for others.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use common::linux::netlink::{DeviceName, Family, MAIN_TABLE, Route, Rule, RuleAction};
use common::linux::tun::Tun;
use ipnetwork::IpNetwork;
use log::{debug, warn};

use crate::options;

/// The routes' metric: BIRD's own have 32.
const METRIC: u32 = 16;
const OWN: u32 = 32_758;
const BY_DEVICE: u32 = 32_759;
const REST: u32 = 32_760;
/// The kernel's own rule for the main table.
const MAIN_RULE: u32 = 32_766;

/// The members in the kernel's table.
pub(super) struct Exports {
    /// By which the other members are reached.
    devices: Vec<DeviceName>,
    /// Those of them that are not there.
    missing: Vec<DeviceName>,
    /// Those that are here, and why the kernel has no route there.
    addresses: BTreeMap<IpAddr, Option<String>>,
    /// Why the kernel does not forward.
    failed: Option<String>,
}

impl Exports {
    /// None where no device is named.
    pub(super) fn new(device: &options::Device) -> Option<Exports> {
        let devices: Vec<DeviceName> =
            device.exports.iter().filter_map(|name| DeviceName::new(name)).collect();
        let (missing, addresses) = (Vec::new(), BTreeMap::new());
        (!devices.is_empty()).then_some(Exports { devices, missing, addresses, failed: None })
    }

    /// The rules of one family, in the order in which the kernel lists them, marked as `owner`'s. `own`: the hub's device;
    /// `lan`: its addresses, with the LAN's prefixes.
    pub(super) fn rules(&self, family: Family, owner: u32, own: &str, lan: &[IpNetwork]) -> Vec<Rule> {
        let prefixes = || {
            let prefixes = lan.iter().filter(|prefix| Family::of(prefix.ip()) == family);
            prefixes.filter_map(|prefix| IpNetwork::new(prefix.network(), prefix.prefix()).ok())
        };
        let rule = |priority, to, by, action| Rule {
            family,
            priority,
            owner,
            from: None,
            to: Some(to),
            by,
            service: None,
            action,
        };
        let local = DeviceName::new("lo");
        let own = DeviceName::new(own);
        let routers = || own.into_iter().chain(self.devices.iter().copied());
        let from_here = prefixes().map(|to| rule(OWN, to, local, RuleAction::Goto(MAIN_RULE)));
        let by_device = prefixes().flat_map(|to| {
            let action = RuleAction::Lookup { table: MAIN_TABLE, suppress: Some(to.prefix()) };
            routers().map(move |by| rule(BY_DEVICE, to, Some(by), action))
        });
        let rest = prefixes().map(|to| rule(REST, to, None, RuleAction::Unreachable));
        from_here.chain(by_device).chain(rest).collect()
    }

    /// Has the kernel route a member's address through the device, or not any more. `failed`: why the LAN is not shut.
    ///
    /// # Errors
    /// A sentence; it is tried again when something changes.
    pub(super) fn set(
        &mut self,
        tun: &Tun,
        address: IpAddr,
        is_here: bool,
        failed: Option<&String>,
    ) -> Result<(), String> {
        let route = route(tun, address);
        if !is_here {
            self.addresses.remove(&address);
            return tun.netlink().remove_route(&route).map_err(|error| error.to_string());
        }
        let set = match failed {
            Some(why) => Err(why.clone()),
            None => tun.netlink().add_route(&route).map_err(|error| error.to_string()),
        };
        self.addresses.insert(address, set.clone().err());
        set
    }

    /// Adds what is missing, after someone else changed the kernel's routes or the device.
    pub(super) fn restore(&mut self, tun: &Tun, failed: Option<&String>) {
        let mut there = BTreeSet::new();
        for family in [Family::V4, Family::V6] {
            // A kernel without IPv6 has no routes of it.
            let routes = tun.netlink().routes(family, tun.index()).unwrap_or_default().into_iter();
            there.extend(routes.filter(|route| route.table == MAIN_TABLE).map(|route| route.prefix.ip()));
        }
        let missing: Vec<IpAddr> =
            self.addresses.keys().filter(|address| !there.contains(address)).copied().collect();
        for address in missing {
            if let Err(error) = self.set(tun, address, true, failed) {
                warn!("{error}");
            }
        }
        self.forward(tun);
    }

    /// Has what members send forwarded. The device is a new one each time, and someone else may have switched it off for all.
    pub(super) fn forward(&mut self, tun: &Tun) {
        let set = tun.netlink().set_forwarding(tun.index()).map_err(|error| error.to_string());
        if let Err(error) = &set
            && self.failed.is_none()
        {
            warn!("{error}: members do not reach those that are elsewhere");
        }
        self.failed = set.err();
        self.look_for_devices(tun);
    }

    /// Warns of each named device that is not there, once each time that it is gone. The rules name it, and hold once it is
    /// there.
    fn look_for_devices(&mut self, tun: &Tun) {
        let links = match tun.netlink().links() {
            Ok(links) => links,
            Err(error) => return debug!("{error}"),
        };
        let is_missing =
            |device: &&DeviceName| !links.iter().any(|link| DeviceName::new(&link.name) == Some(**device));
        let missing: Vec<DeviceName> = self.devices.iter().filter(is_missing).copied().collect();
        for device in missing.iter().filter(|device| !self.missing.contains(device)) {
            warn!("{}", no_device(*device));
        }
        self.missing = missing;
    }

    /// The problems that last, a sentence each; few.
    pub(super) fn problems(&self) -> impl Iterator<Item = String> {
        let failed = self.addresses.values().flatten().take(4);
        let missing = self.missing.iter().copied().map(no_device);
        missing.chain(self.failed.iter().chain(failed).cloned())
    }
}

fn no_device(device: DeviceName) -> String {
    format!(
        "--export {device:?}: this machine has no network device of that name, so no member is reached by it"
    )
}

fn route(tun: &Tun, address: IpAddr) -> Route {
    let interface = tun.index();
    Route { prefix: address.into(), gateway: None, interface, table: MAIN_TABLE, metric: Some(METRIC) }
}
