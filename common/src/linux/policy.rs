//! What hub and spoke have in common where they route by policy: a table of the device's own, and rules that only their
//! owner removes. IO, through the device's netlink socket.

use log::warn;

use crate::linux::netlink::{Netlink, Rule};
use crate::linux::tun::Tun;

/// The tables are numbered from here on, one for each device.
const FIRST_TABLE: u32 = 0x5678_0000;
/// Rules in their order cannot be mended one by one: all can be added anew with the other value of this bit of the
/// owner, and then the old ones be removed, so that there is no moment without.
pub const OTHER_GENERATION: u32 = 1 << 31;

/// As many tables again, for what must not go through the device.
const FIRST_DIRECT_TABLE: u32 = 0x5679_0000;

/// The routing table of a device, by its index.
pub fn table(device: u32) -> u32 {
    FIRST_TABLE.wrapping_add(device)
}

/// The table with the routes to single addresses around a device.
pub fn direct_table(device: u32) -> u32 {
    FIRST_DIRECT_TABLE.wrapping_add(device)
}

/// Removes the rules that killed processes left: those of devices that are gone, and of an earlier one with the index
/// of `tun`. Their routes went with their devices.
pub fn remove_stale(tun: &Tun) {
    let netlink = tun.netlink();
    match netlink.rules().and_then(|rules| Ok((rules, netlink.links()?))) {
        Ok((rules, links)) => {
            let is_live = |rule: &&Rule| {
                let index = rule.owner & !OTHER_GENERATION;
                index != tun.index()
                    && links.iter().any(|link| link.index == index && link.kind.as_deref() == Some("tun"))
            };
            let stale: Vec<Rule> = rules.iter().filter(|rule| !is_live(rule)).copied().collect();
            remove_rules(netlink, &stale);
        }
        Err(error) => warn!("old policy rules may be left: {error}"),
    }
}

/// Removes rules; what stays is told.
pub fn remove_rules(netlink: &Netlink, rules: &[Rule]) {
    for rule in rules {
        if let Err(error) = netlink.remove_rule(rule) {
            warn!("an old policy rule stays: {error}");
        }
    }
}
