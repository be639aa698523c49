//! The routes and rules that this spoke has in the kernel. IO, through the device's netlink socket.
//!
//! A prefix that holds the hub itself gets a table of its own. Rules in this order lead there, for prefixes of
//! length `L`: what goes to the hub is looked up in the main table, then routes of the main table that are longer
//! than `L` win, then comes the table. The main table stays as it is, so that whatever changes in it (a lease, a
//! default route) goes on to carry the tunnel.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use common::linux::netlink::{Error, Family, MAIN_TABLE, Route, Rule};
use common::linux::tun::Tun;
use ipnetwork::IpNetwork;
use log::warn;

use crate::uplink::routes::RouteMode;

/// The tables are numbered from here on, 256 for each device.
const FIRST_TABLE: u32 = 0x5678_0000;
/// The rule for the hub itself; those for the tables follow, the longest prefixes first.
const FIRST_PRIORITY: u32 = 5_000;

/// What is installed.
#[derive(Debug, Default)]
pub struct KernelRoutes {
    routes: BTreeMap<IpNetwork, RouteMode>,
    rules: BTreeSet<Rule>,
}

impl KernelRoutes {
    /// Starts with nothing installed: takes away the rules that a killed process left. Its routes went with
    /// its device, and a device that is gone has no address.
    pub fn new(tun: &Tun) -> KernelRoutes {
        let netlink = tun.netlink();
        let (rules, addresses) =
            (netlink.rules().unwrap_or_default(), netlink.addresses().unwrap_or_default());
        let (pins, lookups): (Vec<Rule>, Vec<Rule>) =
            rules.into_iter().partition(|rule| rule.table == MAIN_TABLE);
        let is_live = |rule: &Rule| addresses.iter().any(|&(device, _)| owns(device, rule.table));
        let (live, stale): (Vec<Rule>, Vec<Rule>) = lookups.into_iter().partition(is_live);
        // Other spokes may run here, to whom the rules for the main table may belong too.
        let pins = if live.is_empty() { pins } else { Vec::new() };
        for rule in stale.iter().chain(&pins) {
            if let Err(error) = netlink.remove_rule(rule) {
                warn!("an old policy rule stays: {error}");
            }
        }
        KernelRoutes::default()
    }

    /// Installs exactly these routes, with a way around them for the hub's outer addresses.
    pub fn set(&mut self, tun: &Tun, routes: BTreeMap<IpNetwork, RouteMode>, hub: &[IpAddr]) {
        let gone: Vec<(IpNetwork, RouteMode)> = self
            .routes
            .iter()
            .filter(|(prefix, way)| routes.get(prefix) != Some(way))
            .map(|(&p, &w)| (p, w))
            .collect();
        for (prefix, way) in gone {
            report(prefix, "withdrawn", tun.netlink().remove_route(&route(tun, prefix, way)));
            self.routes.remove(&prefix);
        }
        // Rules first, so that the tunnel never runs through itself.
        let rules = rules(tun.index(), &routes, hub);
        for rule in rules.difference(&self.rules) {
            if let Err(error) = tun.netlink().add_rule(rule) {
                warn!("cannot lead traffic around the tunnel: {error}");
                return;
            }
        }
        for (prefix, way) in routes {
            if self.routes.get(&prefix) != Some(&way) {
                report(prefix, "installed", tun.netlink().add_route(&route(tun, prefix, way)));
                self.routes.insert(prefix, way);
            }
        }
        for rule in self.rules.difference(&rules) {
            if let Err(error) = tun.netlink().remove_rule(rule) {
                warn!("an old policy rule stays: {error}");
            }
        }
        self.rules = rules;
    }

    /// Whether nothing is installed.
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty() && self.rules.is_empty()
    }
}

fn report(prefix: IpNetwork, what: &str, result: Result<(), Error>) {
    match result {
        Ok(()) => log::info!("route {prefix} {what}"),
        Err(error) => warn!("route {prefix} not {what}: {error}"),
    }
}

fn route(tun: &Tun, prefix: IpNetwork, way: RouteMode) -> Route {
    let table = match way {
        RouteMode::Main => MAIN_TABLE,
        RouteMode::Around => table(tun.index(), prefix.prefix()),
    };
    Route { prefix, gateway: None, interface: tun.index(), table, metric: None }
}

/// The table of a device for prefixes of this length.
fn table(device: u32, length: u8) -> u32 {
    FIRST_TABLE.wrapping_add(device << 8) + u32::from(length)
}

fn owns(device: u32, of: u32) -> bool {
    table(device, 0) == of & !0xff
}

fn rules(device: u32, routes: &BTreeMap<IpNetwork, RouteMode>, hub: &[IpAddr]) -> BTreeSet<Rule> {
    let mut rules = BTreeSet::new();
    for (prefix, _) in routes.iter().filter(|(_, way)| **way == RouteMode::Around) {
        let family = Family::of(prefix.ip());
        let length = prefix.prefix();
        let priority = FIRST_PRIORITY + 2 * (128 - u32::from(length)) + 1;
        for &address in hub.iter().filter(|&&address| prefix.contains(address)) {
            let to = Some(IpNetwork::from(address));
            rules.insert(Rule { family, priority: FIRST_PRIORITY, to, table: MAIN_TABLE, suppress: None });
        }
        rules.insert(Rule { family, priority, to: None, table: MAIN_TABLE, suppress: Some(length) });
        let table = table(device, length);
        rules.insert(Rule { family, priority: priority + 1, to: None, table, suppress: None });
    }
    rules
}
