//! The routes and rules that this spoke has in the kernel. IO, through the device's netlink socket.
//!
//! The wanted state is a value, the actual state is read from the kernel, and the difference is applied. Other programs
//! can remove routes and rules, and the kernel removes routes with the device's addresses without an announcement.
//!
//! A prefix that holds the hub itself has its route in a table of the device's own, to which the rules of `rules`
//! lead; single addresses that are reached around the LAN, `direct`, have another one; all other routes are in the main
//! table. Whatever is made here carries the protocol number
//! [`common::linux::netlink::OUR_PROTOCOL`], and rules also the index of the device: several spokes on one machine each keep to their
//! own, and nothing else is touched.

pub mod direct;
mod rules;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use common::linux::netlink::{Error, Family, MAIN_TABLE, Netlink, Route, Rule};
use common::linux::policy::{self, OTHER_GENERATION, direct_table, remove_rules, table};
use common::linux::tun::Tun;
use common::node::human::counted;
use direct::Hop;
use ipnetwork::IpNetwork;
use log::{debug, info, warn};
use rules::Policy;

use crate::uplink::routes::RouteMode;

/// Most lines about one change, of each kind.
const MAX_LINES: usize = 10;
/// Most prefixes that one log line names.
const MAX_NAMED: usize = 4;

/// The wanted routes and rules, and the installed ones.
#[derive(Debug, Default)]
pub struct KernelRoutes {
    wanted: BTreeMap<IpNetwork, RouteMode>,
    hub: Vec<IpAddr>,
    /// The addresses that are reached around the device.
    direct: BTreeMap<IpAddr, Hop>,
    /// The device that all of it belongs to.
    device: u32,
    installed: BTreeMap<IpNetwork, RouteMode>,
    v4: FamilyRules,
    v6: FamilyRules,
    /// Why a prefix is not installed.
    failed: BTreeMap<IpNetwork, String>,
    /// Whether the missing IPv6 was logged.
    is_told_of_ipv6: bool,
    lines: Lines,
}

/// The lines about one change: of many routes that change at once the first are named, and the others counted.
#[derive(Debug, Default)]
struct Lines {
    counts: BTreeMap<&'static str, usize>,
    is_quiet: bool,
    /// Whether there was a line.
    is_used: bool,
}

impl Lines {
    /// Counts a line; whether to write it.
    fn allow(&mut self, what: &'static str) -> bool {
        let count = self.counts.entry(what).or_default();
        *count += 1;
        self.is_used = true;
        *count <= MAX_LINES && !self.is_quiet
    }

    fn note(&mut self, what: &'static str, prefix: IpNetwork) {
        if self.allow(what) {
            info!("route {prefix} {what}");
        }
    }

    fn finish(&mut self) {
        for (what, count) in std::mem::take(&mut self.counts) {
            if count > MAX_LINES && !self.is_quiet {
                info!("{} {what}", counted(count - MAX_LINES, "more route"));
            }
        }
    }
}

/// The rules of one family.
#[derive(Debug, Default)]
struct FamilyRules {
    /// As they were last seen or made, in their order.
    installed: Vec<Rule>,
    /// Why they are not installed.
    failed: Option<String>,
    /// Whether they are refused because the machine lacks this family.
    lacks_ipv6: bool,
}

/// What someone else had removed, and is back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Routes.
    pub routes: Vec<IpNetwork>,
    /// The priorities of policy rules.
    pub rules: BTreeSet<u32>,
}

impl KernelRoutes {
    /// Starts with nothing installed: takes away the rules that a killed process left. Its routes went with
    /// its device, and so did whatever its rules led to.
    pub fn new(tun: &Tun) -> KernelRoutes {
        policy::remove_stale(tun);
        KernelRoutes { device: tun.index(), ..KernelRoutes::default() }
    }

    /// Installs exactly these routes, with a way around them for the hub's outer addresses. What cannot be installed
    /// is told, is in [`KernelRoutes::failures`], and is tried again by [`KernelRoutes::reconcile`].
    /// Returns whether there were lines about it.
    pub fn set(&mut self, tun: &Tun, routes: BTreeMap<IpNetwork, RouteMode>, hub: &[IpAddr]) -> bool {
        self.wanted = routes;
        self.hub = hub.to_vec();
        let direct = &self.direct;
        self.failed.retain(|prefix, _| self.wanted.contains_key(prefix) || direct.contains_key(&prefix.ip()));
        self.apply(tun);
        std::mem::take(&mut self.lines.is_used)
    }

    /// Has exactly these addresses reached around the device. What cannot be installed is told, and tried again by
    /// [`KernelRoutes::reconcile`].
    pub fn set_direct(&mut self, tun: &Tun, direct: BTreeMap<IpAddr, Hop>) {
        self.direct = direct;
        let (wanted, direct) = (&self.wanted, &self.direct);
        self.failed.retain(|prefix, _| wanted.contains_key(prefix) || direct.contains_key(&prefix.ip()));
        self.apply(tun);
    }

    /// Whether to keep the lines about changes back.
    pub fn set_quiet(&mut self, is_quiet: bool) {
        self.lines.is_quiet = is_quiet;
    }

    /// Looks at what is installed, and puts back what is missing. To be called when addresses, routes, rules or the
    /// device have changed; it costs a few system calls when all is as it should be.
    pub fn reconcile(&mut self, tun: &Tun) -> Restored {
        let gone = self.observe(tun);
        let rules = self.apply(tun);
        let routes: Vec<IpNetwork> =
            gone.into_iter().filter(|prefix| self.installed.contains_key(prefix)).collect();
        Restored { routes, rules }
    }

    /// Whether nothing is installed.
    pub fn is_empty(&self) -> bool {
        let has_rules = !self.v4.installed.is_empty() || !self.v6.installed.is_empty();
        self.installed.is_empty() && self.direct.is_empty() && !has_rules
    }

    /// The failures, one line each. Bounded.
    pub fn failures(&self) -> Vec<String> {
        let rules = [&self.v4, &self.v6].into_iter().filter_map(|family| family.failed.clone());
        let routes =
            self.failed.iter().map(|(prefix, why)| format!("route {prefix} is not installed: {why}"));
        rules.chain(routes).take(2 * MAX_NAMED).collect()
    }

    /// Forgets what is not in the kernel any more, and removes what is there and not wanted; the prefixes that are
    /// gone though they are wanted.
    fn observe(&mut self, tun: &Tun) -> Vec<IpNetwork> {
        self.follow_device(tun);
        let mut observed = BTreeMap::new();
        for family in [Family::V4, Family::V6] {
            match tun.netlink().routes(family, self.device) {
                Ok(routes) => observed.extend(
                    routes
                        .into_iter()
                        .filter(|route| [MAIN_TABLE, table(self.device)].contains(&route.table))
                        .map(|route| ((route.prefix, route.table), route)),
                ),
                // A kernel without IPv6 has no routes of it.
                Err(error) => debug!("{error}"),
            }
        }
        let table_of = |mode: RouteMode| table_of(self.device, mode);
        for ((prefix, table), stray) in &observed {
            if self.wanted.get(prefix).is_none_or(|&mode| table_of(mode) != *table)
                && let Err(error) = tun.netlink().remove_route(stray)
            {
                warn!("cannot remove an old route: {error}");
            }
        }
        let is_there =
            |(prefix, mode): (&IpNetwork, &RouteMode)| observed.contains_key(&(*prefix, table_of(*mode)));
        let gone = self.installed.iter().filter(|&(prefix, mode)| !is_there((prefix, mode)));
        let gone = gone.map(|(&prefix, _)| prefix).collect();
        self.installed = self
            .wanted
            .iter()
            .filter(|&entry| is_there(entry))
            .map(|(&prefix, &mode)| (prefix, mode))
            .collect();
        gone
    }

    /// Brings the kernel from what is known to be installed to what is wanted; the priorities of rules that were
    /// missing though they had been made.
    fn apply(&mut self, tun: &Tun) -> BTreeSet<u32> {
        self.follow_device(tun);
        let is_gone = |&(prefix, mode): &(&IpNetwork, &RouteMode)| self.wanted.get(prefix) != Some(mode);
        let gone: Vec<(IpNetwork, RouteMode)> =
            self.installed.iter().filter(is_gone).map(|(&prefix, &mode)| (prefix, mode)).collect();
        for (prefix, mode) in gone {
            match tun.netlink().remove_route(&route(tun, prefix, mode)) {
                Ok(()) => {
                    self.lines.note("withdrawn", prefix);
                    self.installed.remove(&prefix);
                }
                Err(error) => warn!("route {prefix} not withdrawn: {error}"),
            }
        }
        self.apply_direct(tun);
        // Rules first, so that the tunnel never runs through itself.
        let missing = self.apply_rules(tun);
        let to_add: Vec<(IpNetwork, RouteMode)> = self
            .wanted
            .iter()
            .filter(|(prefix, mode)| self.installed.get(prefix) != Some(mode))
            .map(|(&prefix, &mode)| (prefix, mode))
            .collect();
        let mut lacks_ipv6 = self.v6.failed.is_some() && self.v6.lacks_ipv6;
        for (prefix, mode) in to_add {
            let rules = self.family(Family::of(prefix.ip()));
            let added = match &rules.failed {
                Some(why) if mode == RouteMode::Around => Err(why.clone()),
                // The first failure stands for all.
                _ if prefix.is_ipv6() && lacks_ipv6 => continue,
                _ => tun.netlink().add_route(&route(tun, prefix, mode)).map_err(|error| {
                    lacks_ipv6 |= error.says_no_ipv6();
                    error.to_string()
                }),
            };
            self.note(prefix, mode, added, lacks_ipv6);
        }
        self.note_ipv6(lacks_ipv6);
        self.lines.finish();
        missing
    }

    /// Keeps in mind, and tells once, what became of a route that was to be added.
    fn note(&mut self, prefix: IpNetwork, mode: RouteMode, added: Result<(), String>, lacks_ipv6: bool) {
        match added {
            Ok(()) => {
                self.lines.note("installed", prefix);
                self.failed.remove(&prefix);
                self.installed.insert(prefix, mode);
            }
            Err(why) => {
                // The missing family is logged once, for all its prefixes.
                let is_told = self.failed.get(&prefix) == Some(&why) || (prefix.is_ipv6() && lacks_ipv6);
                if !is_told && self.lines.allow("not installed") {
                    warn!("route {prefix} not installed: {why}");
                }
                self.failed.insert(prefix, why);
            }
        }
    }

    fn note_ipv6(&mut self, is_missing: bool) {
        if is_missing && !self.is_told_of_ipv6 {
            warn!("the LAN's device has no IPv6: IPv6 routes are not installed until it has");
        }
        self.is_told_of_ipv6 = is_missing;
    }

    /// Has the routes around the device in their table. They go with the interfaces that they lead to, so they are looked
    /// at each time that there are any.
    fn apply_direct(&mut self, tun: &Tun) {
        let table = direct_table(self.device);
        for family in [Family::V4, Family::V6] {
            let wanted: Vec<Route> = self
                .direct
                .iter()
                .filter(|(address, _)| Family::of(**address) == family)
                .map(|(&address, &Hop { interface, gateway })| Route {
                    prefix: address.into(),
                    gateway,
                    interface,
                    table,
                    metric: None,
                })
                .collect();
            // Without its rule a table leads nowhere.
            if wanted.is_empty() && self.family(family).is_idle() {
                continue;
            }
            let observed = match tun.netlink().table(family, table) {
                Ok(observed) => observed,
                Err(error) => {
                    debug!("{error}");
                    continue;
                }
            };
            let is_same = |one: &Route, other: &Route| {
                (one.prefix, one.gateway, one.interface) == (other.prefix, other.gateway, other.interface)
            };
            for stray in observed.iter().filter(|route| !wanted.iter().any(|other| is_same(route, other))) {
                if let Err(error) = tun.netlink().remove_route(stray) {
                    warn!("cannot remove an old route: {error}");
                }
            }
            for route in wanted.iter().filter(|route| !observed.iter().any(|other| is_same(route, other))) {
                match tun.netlink().add_route(route) {
                    Ok(()) => drop(self.failed.remove(&route.prefix)),
                    // Its interface may be about to go, and then it is not wanted any more.
                    Err(error) => drop(self.failed.insert(route.prefix, error.to_string())),
                }
            }
        }
    }

    /// Installs the rules, each family for itself.
    fn apply_rules(&mut self, tun: &Tun) -> BTreeSet<u32> {
        let around: BTreeSet<IpNetwork> = self
            .wanted
            .iter()
            .filter(|(_, mode)| **mode == RouteMode::Around)
            .map(|(&prefix, _)| prefix)
            .collect();
        if around.is_empty() && self.direct.is_empty() && self.v4.is_idle() && self.v6.is_idle() {
            return BTreeSet::new();
        }
        let mut missing = BTreeSet::new();
        let looked = tun.netlink().addresses().and_then(|addresses| Ok((addresses, tun.netlink().rules()?)));
        let (addresses, observed) = match looked {
            Ok(looked) => looked,
            Err(error) => {
                self.v4.fail(&error);
                self.v6.fail(&error);
                return missing;
            }
        };
        let (mut lan, mut others) = (Vec::new(), Vec::new());
        for (device, network) in addresses {
            if device == self.device { lan.push(network) } else { others.push(network) }
        }
        let (device, table, hub) = (self.device, table(self.device), std::mem::take(&mut self.hub));
        let is_own = |rule: &&Rule| rule.owner & !OTHER_GENERATION == device;
        let other_hubs: BTreeSet<IpNetwork> =
            observed.iter().filter(|rule| !is_own(rule)).filter_map(rules::hub_of).collect();
        for family in [Family::V4, Family::V6] {
            let has_direct = self.direct.keys().any(|&address| Family::of(address) == family);
            let direct = has_direct.then(|| direct_table(device));
            let policy = Policy {
                family,
                table,
                around: &around,
                hub: &hub,
                other_hubs: &other_hubs,
                lan: &lan,
                others: &others,
                direct,
            };
            let own = observed.iter().filter(is_own).filter(|rule| rule.family == family);
            let observed: Vec<Rule> = own.copied().collect();
            missing.extend(self.family(family).apply(tun.netlink(), &policy, device, observed));
        }
        self.hub = hub;
        missing
    }

    /// After the device was made anew: the routes went with the old one, and the rules lead nowhere.
    fn follow_device(&mut self, tun: &Tun) {
        if self.device == tun.index() {
            return;
        }
        self.installed.clear();
        let rules = [&mut self.v4, &mut self.v6].map(|family| std::mem::take(&mut family.installed));
        remove_rules(tun.netlink(), &rules.concat());
        // These lead to other devices, and their table has the number of the one that is gone.
        for family in [Family::V4, Family::V6] {
            for route in tun.netlink().table(family, direct_table(self.device)).unwrap_or_default() {
                if let Err(error) = tun.netlink().remove_route(&route) {
                    debug!("{error}");
                }
            }
        }
        self.device = tun.index();
    }

    fn family(&mut self, family: Family) -> &mut FamilyRules {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }
}

impl FamilyRules {
    fn is_idle(&self) -> bool {
        self.installed.is_empty() && self.failed.is_none()
    }

    /// Records a failure and logs it once; a missing family is logged elsewhere.
    fn fail(&mut self, error: &Error) {
        let line = format!("cannot lead traffic around the tunnel: {error}");
        self.lacks_ipv6 = error.says_no_ipv6();
        if self.failed.as_ref() != Some(&line) && !self.lacks_ipv6 {
            warn!("{line}");
        }
        self.failed = Some(line);
    }

    /// Makes `observed`, this owner's rules in the kernel, into what `policy` says: all or nothing. The priorities
    /// of rules that were missing though they had been made.
    fn apply(
        &mut self,
        netlink: &Netlink,
        policy: &Policy<'_>,
        device: u32,
        observed: Vec<Rule>,
    ) -> BTreeSet<u32> {
        let missing: BTreeSet<u32> =
            self.installed.iter().filter(|rule| !observed.contains(rule)).map(|rule| rule.priority).collect();
        let generations = [device, device | OTHER_GENERATION];
        if let Some(same) =
            generations.iter().map(|&owner| policy.rules(owner)).find(|rules| *rules == observed)
        {
            self.installed = same;
            self.failed = None;
            return BTreeSet::new();
        }
        // The generation that is not there, or else the one that was not made last.
        let last = self.installed.first().or(observed.first()).map_or(generations[1], |rule| rule.owner);
        let owner = if last == generations[0] { generations[1] } else { generations[0] };
        let (leftover, old): (Vec<Rule>, Vec<Rule>) =
            observed.into_iter().partition(|rule| rule.owner == owner);
        remove_rules(netlink, &leftover);
        let new = policy.rules(owner);
        for (index, rule) in new.iter().enumerate() {
            if let Err(error) = netlink.add_rule(rule) {
                remove_rules(netlink, &new[..index]);
                self.installed = old;
                self.fail(&error);
                return BTreeSet::new();
            }
        }
        remove_rules(netlink, &old);
        self.installed = new;
        self.failed = None;
        missing
    }
}

fn route(tun: &Tun, prefix: IpNetwork, mode: RouteMode) -> Route {
    let metric = (mode == RouteMode::Main).then(|| tun.metric());
    Route { prefix, gateway: None, interface: tun.index(), table: table_of(tun.index(), mode), metric }
}

fn table_of(device: u32, mode: RouteMode) -> u32 {
    match mode {
        RouteMode::Main => MAIN_TABLE,
        RouteMode::Around => table(device),
    }
}

/// Names prefixes for a log line, as many as fit.
pub fn name_some(prefixes: &[IpNetwork]) -> String {
    let named: Vec<String> = prefixes.iter().take(MAX_NAMED).map(IpNetwork::to_string).collect();
    match prefixes.len().saturating_sub(MAX_NAMED) {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

#[cfg(test)]
mod tests;
