//! The hub's machine: its device, the kernel's routes through it, and the machine's other networks. IO.
//!
//! The kernel's state is observed, never assumed: after an announcement the hub observes all of it, and restores what
//! another program changed.

mod exports;
mod rules;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::time::Instant;

use common::linux::device::{Device, DeviceConfig};
use common::linux::monitor::{Drained, Monitor, Pacer};
use common::linux::netlink::{self, Family, MAIN_TABLE, Netlink, Route, Rule, RuleAction};
use common::linux::policy::{self, table};
use common::linux::surroundings::{self, Surroundings};
use common::linux::tun::{self, Tun};
use common::node::event_loop::{EventLoop, Source};
use common::queue::Buf;
use ipnetwork::IpNetwork;
use log::{debug, info, warn};

use super::{Config, Error};
use crate::lan::subnets::Subnets;
use crate::options;
use exports::Exports;

/// The device and what the kernel has through it.
pub(super) struct Machine {
    pub(super) tun: Tun,
    device: Device,
    /// The LAN's.
    mtu: u32,
    /// The hub's addresses with the LAN's prefixes.
    lan: Vec<IpNetwork>,
    /// The prefixes that the kernel is to reach through the device, and why it does not.
    routes: BTreeMap<IpNetwork, Option<String>>,
    rules: Rules,
    /// Where the kernel routes to members.
    exports: Option<Exports>,
    /// Without it, as in a container that forbids it, changes are not seen.
    monitor: Option<Monitor>,
    pacer: Pacer,
    /// The steps on the device that failed in the last attempt.
    problems: Vec<String>,
    /// The networks of the machine that have addresses of the LAN; a sentence each.
    overlaps: Vec<String>,
    /// For packets that the device takes in pieces.
    scratch: Vec<u8>,
}

/// The rules that lead to these routes, and the machine's own answers around them.
#[derive(Debug, Default)]
struct Rules {
    /// The ports that the hub listens on.
    tcp_ports: BTreeSet<u16>,
    /// As they were last made.
    installed: Vec<Rule>,
    /// Why they are not as they are to be.
    failed: Option<String>,
}

/// The result of an observation, and the repairs.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Networks that the machine is in; `None` where they could not be asked for.
    pub(super) networks: Option<Vec<IpNetwork>>,
    /// What someone else had changed; a line each.
    pub(super) restored: Vec<String>,
}

impl Machine {
    /// Makes the device, sets it up, and listens to the kernel. `tcp_ports`: what the hub listens on; `own`: the addresses
    /// that it has alone.
    ///
    /// # Errors
    /// Where the device cannot be what the command line says, or shuts the machine's way to its router.
    pub(super) fn open(
        wanted: &options::Device,
        config: &Config,
        tcp_ports: BTreeSet<u16>,
        own: &[IpAddr],
    ) -> Result<Machine, Error> {
        let mut tun = Tun::open(&wanted.name)?;
        if let Some((hub, subnet)) = router(&tun, config.subnets) {
            return Err(Error::Router(hub, subnet));
        }
        let mut device = Device::default();
        device.configure(&mut tun, device_config(config.subnets, own, config.mtu))?;
        if let Some(error) = device.take_failure() {
            return Err(error.into());
        }
        policy::remove_stale(&tun);
        let monitor = Monitor::open(tun.netlink())
            .map_err(|error| warn!("cannot watch the kernel's network configuration: {error}"));
        let mut machine = Machine {
            tun,
            device,
            mtu: config.mtu,
            lan: config.subnets.hub().collect(),
            routes: BTreeMap::new(),
            rules: Rules { tcp_ports, ..Rules::default() },
            exports: Exports::new(wanted),
            monitor: monitor.ok(),
            pacer: Pacer::default(),
            problems: Vec::new(),
            overlaps: Vec::new(),
            scratch: Vec::new(),
        };
        machine.apply_rules();
        if let Some(exports) = &mut machine.exports {
            exports.forward(&machine.tun);
        }
        machine.look_around()?;
        let around = Surroundings::observe(&machine.tun).map_err(tun::Error::from)?;
        for (server, lan) in around.captured(&machine.lan, &surroundings::name_servers()) {
            warn!("{}", surroundings::captured(server, lan));
        }
        Ok(machine)
    }

    /// Registers the device and the kernel's announcements.
    pub(super) fn register(&mut self, events: &EventLoop) -> io::Result<()> {
        events.register(&mut self.tun, Source::Device)?;
        self.monitor.as_mut().map_or(Ok(()), |monitor| events.register(monitor, Source::Kernel))
    }

    /// Gives a packet to the hub's own kernel; whether it took it.
    pub(super) fn deliver(&mut self, packet: &mut Buf) -> bool {
        self.tun.deliver(packet, &mut self.scratch).is_ok()
    }

    /// Gives the device the addresses that each hub has in these subnets, those that this one has alone, and no others.
    ///
    /// # Errors
    /// Where the device is gone and cannot be made anew.
    pub(super) fn set_subnets(&mut self, subnets: Subnets, own: &[IpAddr]) -> Result<(), tun::Error> {
        self.device.configure(&mut self.tun, device_config(subnets, own, self.mtu))?;
        self.lan = subnets.hub().collect();
        // The kernel takes routes away with addresses.
        self.restore_routes();
        self.apply_rules();
        self.note_problems();
        if let Err(error) = self.look_around() {
            warn!("{error}");
        }
        Ok(())
    }

    /// Adds a kernel route to a prefix through the LAN.
    ///
    /// # Errors
    /// As the kernel has it; it is tried again when something changes.
    pub(super) fn add_route(&mut self, prefix: IpNetwork) -> Result<(), String> {
        // The rules first, so that no answer is ever led into the LAN.
        if self.routes.is_empty() {
            self.routes.insert(prefix, None);
            self.apply_rules();
        }
        let added = match &self.rules.failed {
            Some(why) => Err(why.clone()),
            None => self.tun.netlink().add_route(&self.route(prefix)).map_err(|error| error.to_string()),
        };
        self.routes.insert(prefix, added.clone().err());
        added
    }

    /// Ends that.
    ///
    /// # Errors
    /// As the kernel has it.
    pub(super) fn remove_route(&mut self, prefix: IpNetwork) -> Result<(), String> {
        self.routes.remove(&prefix);
        let removed = self.tun.netlink().remove_route(&self.route(prefix)).map_err(|error| error.to_string());
        if self.routes.is_empty() {
            self.apply_rules();
        }
        removed
    }

    /// Has the kernel route a member's address through the device, or not any more.
    ///
    /// # Errors
    /// A sentence; it is tried again when something changes.
    pub(super) fn export(&mut self, address: IpAddr, is_here: bool) -> Result<(), String> {
        let Some(exports) = &mut self.exports else { return Ok(()) };
        exports.set(&self.tun, address, is_here, self.rules.failed.as_ref())
    }

    fn route(&self, prefix: IpNetwork) -> Route {
        let interface = self.tun.index();
        Route { prefix, gateway: None, interface, table: table(interface), metric: None }
    }

    /// Takes away what would outlive the device.
    pub(super) fn close(&mut self) {
        self.routes.clear();
        self.exports = None;
        self.apply_rules();
    }

    /// Makes the rules what they are to be: none where there is no route. The priorities of those that someone else
    /// had removed.
    fn apply_rules(&mut self) -> BTreeSet<u32> {
        let Rules { tcp_ports, installed, .. } = &self.rules;
        if self.routes.is_empty() && self.exports.is_none() && installed.is_empty() {
            self.rules.failed = None;
            return BTreeSet::new();
        }
        let (netlink, device) = (self.tun.netlink(), self.tun.index());
        let looked = self.tun.other_networks().and_then(|others| Ok((others, netlink.rules()?)));
        let (others, observed) = match looked {
            Ok(looked) => looked,
            Err(error) => {
                self.rules.failed = Some(format!("cannot lead answers around the LAN: {error}"));
                return BTreeSet::new();
            }
        };
        let old = installed.first().map_or(device, |rule| rule.owner);
        let observed: Vec<Rule> =
            observed.into_iter().filter(|rule| [device, old].contains(&rule.owner)).collect();
        let missing = installed.iter().filter(|rule| rule.owner == device && !observed.contains(rule));
        let missing: BTreeSet<u32> = missing.map(|rule| rule.priority).collect();
        let (mut made, mut failed) = (Vec::new(), None);
        for family in [Family::V4, Family::V6] {
            let is_needed = self.routes.keys().any(|prefix| Family::of(prefix.ip()) == family);
            let wanted = rules::rules(family, device, table(device), tcp_ports, &others);
            let mut wanted = if is_needed { wanted } else { Vec::new() };
            if let Some(exports) = &self.exports {
                wanted.splice(..0, exports.rules(family, device, self.tun.name(), &self.lan));
            }
            let observed: Vec<Rule> = observed.iter().filter(|rule| rule.family == family).copied().collect();
            match replace_rules(netlink, &observed, wanted) {
                Ok(rules) => made.extend(rules),
                Err(error) => failed = Some(format!("cannot lead answers around the LAN: {error}")),
            }
        }
        self.rules.installed = made;
        self.rules.failed = failed;
        missing
    }

    // ---- changes

    /// Reads the kernel's announcements; whether there are more.
    pub(super) fn read_announcements(&mut self) -> bool {
        let Some(monitor) = &mut self.monitor else { return false };
        let (changes, drained) = monitor.drain(self.tun.index());
        self.pacer.add(changes);
        drained == Drained::More
    }

    /// When [`Machine::poll`] has something to do; `now` or earlier where it has already.
    pub(super) fn deadline(&self, now: Instant) -> Option<Instant> {
        self.pacer.deadline(now)
    }

    /// Observes the kernel's state after announced changes, and restores what another program changed.
    ///
    /// # Errors
    /// Where the device is gone and cannot be made anew.
    pub(super) fn poll(&mut self, now: Instant) -> Result<Option<Seen>, tun::Error> {
        if self.pacer.take(now).is_none() {
            return Ok(None);
        }
        let steps = self.device.reconcile(&mut self.tun)?;
        let mut seen = Seen::default();
        if !steps.is_empty() {
            let repairs: Vec<String> = steps.iter().map(ToString::to_string).collect();
            let (name, repairs) = (self.tun.name(), repairs.join(", "));
            seen.restored.push(format!("{name} was changed by someone else ({repairs}); restored"));
        }
        let rules = self.apply_rules();
        if !rules.is_empty() && steps.is_empty() {
            let priorities: Vec<String> = rules.iter().map(ToString::to_string).collect();
            let priorities = priorities.join(", ");
            seen.restored.push(format!("policy rule {priorities} was removed by someone else; restored"));
        }
        if let Some(exports) = &mut self.exports {
            exports.restore(&self.tun, self.rules.failed.as_ref());
        }
        let routes = self.restore_routes();
        // Routes go with what was done to the device.
        if !routes.is_empty() && steps.is_empty() {
            let named: Vec<String> = routes.iter().take(4).map(IpNetwork::to_string).collect();
            let more = routes.len().saturating_sub(4);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            let named = named.join(", ");
            seen.restored.push(format!("route {named}{more} was removed by someone else; restored"));
        }
        self.note_problems();
        seen.networks = self
            .look_around()
            .map_err(|error| warn!("{error}; routes of members may lie in a network of this machine"))
            .ok();
        Ok(Some(seen))
    }

    /// The problems that last, one line each; few.
    pub(super) fn problems(&self) -> Vec<String> {
        let routes = self
            .routes
            .iter()
            .filter_map(|(prefix, why)| Some(format!("route {prefix} is not installed: {}", why.as_ref()?)));
        let rules = self.rules.failed.clone();
        let exports = self.exports.iter().flat_map(Exports::problems);
        let lasting = self.problems.iter().chain(&self.overlaps).cloned();
        lasting.chain(rules).chain(exports).chain(routes).take(8).collect()
    }

    /// The networks that the machine is in now. Warns of those with addresses of the LAN, once each time that they appear.
    ///
    /// # Errors
    /// As the kernel has it.
    pub(super) fn look_around(&mut self) -> Result<Vec<IpNetwork>, tun::Error> {
        let around = Surroundings::observe(&self.tun)?;
        let overlaps = around.overlaps(&self.lan, self.tun.name());
        for line in overlaps.iter().filter(|line| !self.overlaps.contains(line)) {
            warn!("{line} (`hub renumber`)");
        }
        if overlaps.is_empty() && !self.overlaps.is_empty() {
            info!("no network of this machine shares addresses with the LAN any more");
        }
        self.overlaps = overlaps;
        Ok(around.networks().collect())
    }

    /// Adds the routes that are missing; those that had been there.
    fn restore_routes(&mut self) -> Vec<IpNetwork> {
        let mut there = BTreeSet::new();
        for family in [Family::V4, Family::V6] {
            match self.tun.netlink().routes(family, self.tun.index()) {
                Ok(routes) => there.extend(
                    routes
                        .into_iter()
                        .filter(|route| route.table == table(route.interface))
                        .map(|route| route.prefix),
                ),
                // A kernel without IPv6 has no routes of it.
                Err(error) => debug!("{error}"),
            }
        }
        let missing: Vec<(IpNetwork, bool)> = self
            .routes
            .iter()
            .filter(|(prefix, _)| !there.contains(prefix))
            .map(|(&prefix, failed)| (prefix, failed.is_none()))
            .collect();
        let mut restored = Vec::new();
        for (prefix, was_there) in missing {
            if self.add_route(prefix).is_ok() && was_there {
                restored.push(prefix);
            }
        }
        restored
    }

    /// Warns once of each thing that cannot be done to the device.
    fn note_problems(&mut self) {
        let problems: Vec<String> =
            self.device.failures().iter().map(|(_, error)| error.to_string()).collect();
        for problem in problems.iter().filter(|problem| !self.problems.contains(problem)) {
            warn!("{problem}");
        }
        self.problems = problems;
    }
}

/// The hub's address that is a router of this machine's, with its subnet: once the device has it, the kernel takes that
/// router's packets for forgeries.
fn router(tun: &Tun, subnets: Subnets) -> Option<(IpAddr, IpNetwork)> {
    let tables = [Family::V4, Family::V6].map(|family| tun.netlink().table(family, MAIN_TABLE));
    // A kernel without IPv6 has no routes of it.
    let routes = tables.into_iter().filter_map(|table| table.map_err(|error| debug!("{error}")).ok());
    let routers: BTreeSet<IpAddr> = routes.flatten().filter_map(|route| route.gateway).collect();
    let own = subnets.hub().find(|hub| routers.contains(&hub.ip()))?;
    Some((own.ip(), IpNetwork::new(own.network(), own.prefix()).unwrap_or(own)))
}

/// The addresses that each hub has in these subnets, and those that this one has alone. Of these the kernel sends: other
/// hubs have the former themselves.
fn device_config(subnets: Subnets, own: &[IpAddr], mtu: u32) -> DeviceConfig {
    let mut addresses: Vec<IpNetwork> = subnets.hub_link_local().into_iter().collect();
    for hub in subnets.hub() {
        match own.iter().find(|own| own.is_ipv4() == hub.is_ipv4()).copied() {
            // The route to the subnet comes with the address that has its length, and prefers that as source.
            Some(own @ IpAddr::V4(_)) => {
                addresses.extend(subnets.with_prefix(own));
                addresses.push(hub.ip().into());
            }
            // Of two addresses the one is source that has more bits in common with the destination, of those that count by
            // its length (RFC 6724, section 5, rule 8).
            Some(own @ IpAddr::V6(_)) => addresses.extend([hub, own.into()]),
            None => addresses.push(hub),
        }
    }
    DeviceConfig { addresses, mtu }
}

/// Makes `observed` into `wanted`. Rules that are asked in an order are made anew together; of the others only those
/// that are missing.
fn replace_rules(
    netlink: &Netlink,
    observed: &[Rule],
    wanted: Vec<Rule>,
) -> Result<Vec<Rule>, netlink::Error> {
    if observed == wanted {
        return Ok(wanted);
    }
    // Those of exports each have a priority of their own.
    let is_ordered = |rule: &&Rule| rule.to.is_none() && matches!(rule.action, RuleAction::Lookup { .. });
    let chain = |rules: &[Rule]| rules.iter().filter(is_ordered).copied().collect::<Vec<_>>();
    let is_same_chain = chain(observed) == chain(&wanted);
    let stays = |rule: &Rule| if is_ordered(&rule) { is_same_chain } else { wanted.contains(rule) };
    let (there, old): (Vec<Rule>, Vec<Rule>) = observed.iter().partition(|rule| stays(rule));
    policy::remove_rules(netlink, &old);
    for rule in wanted.iter().filter(|rule| !there.contains(rule)) {
        netlink.add_rule(rule)?;
    }
    Ok(wanted)
}
