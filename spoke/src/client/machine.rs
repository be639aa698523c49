//! The spoke's machine: the device and its routes, the machine's other networks, the path to the hub. IO.
//!
//! The kernel's state is observed, never assumed: after an announcement the spoke observes all of it, and restores what
//! another program changed. The uplink decides what follows for the link.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use common::linux::device::{Device, DeviceConfig, Step};
use common::linux::monitor::{Drained, Monitor, Pacer};
use common::linux::netlink::{Family, MAIN_TABLE, NextHop, Route};
use common::linux::surroundings::{self, Path, Surroundings};
use common::linux::tun::{self, Tun};
use common::node::event_loop::{EventLoop, Source};
use common::node::human::counted;
use common::node::log_limit::LogLimiter;
use common::packet::{link_local, prefix};
use ipnetwork::IpNetwork;
use log::{debug, info, warn};

use crate::kernel_routes::direct::{Hop, Needs};
use crate::kernel_routes::{KernelRoutes, name_some};
use crate::uplink::path::PathChange;
use crate::uplink::routes::RouteMode;
use crate::uplink::trial::add_addresses;

/// How often the name servers are read anew while the machine is in a network with the LAN's addresses: the kernel does
/// not announce them.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The machine's network configuration, as far as it concerns the spoke.
pub(super) struct Machine {
    pub(super) tun: Tun,
    device: Device,
    routes: KernelRoutes,
    /// Without it, as in a container that forbids it, changes are seen late.
    monitor: Option<Monitor>,
    pacer: Pacer,
    surroundings: Surroundings,
    outer: Outer,
    /// The device's addresses with the LAN's prefixes, link-local ones left out.
    lan: Vec<IpNetwork>,
    /// Networks of the machine that were warned about because the LAN has the same addresses.
    overlaps: Vec<String>,
    /// What was warned about and lasts.
    problems: Vec<String>,
    log_limiter: LogLimiter<&'static str>,
    /// Whether lines about routes are kept back for now.
    is_quiet: bool,
}

/// The way to the hub.
#[derive(Debug, Default)]
struct Outer {
    /// Where the connection leads from and to, and by which way, while there is one.
    link: Option<(IpAddr, IpAddr, Option<NextHop>)>,
    /// The hub's addresses.
    hub: Vec<IpAddr>,
    /// The ways to them when they were last looked at.
    hops: Vec<Option<NextHop>>,
    /// Addresses of the LAN's subnet that are reached around it.
    direct: BTreeMap<IpAddr, Hop>,
    /// When to look for others of them again.
    look_at: Option<Instant>,
    /// Name servers among the LAN's addresses that were warned about.
    captured: Vec<IpAddr>,
}

/// The result of an observation.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// The networks that the machine is in.
    pub(super) networks: Vec<IpNetwork>,
    /// The change of the connection's path.
    pub(super) path: Option<PathChange>,
    /// Whether the way to the hub is not what it was.
    pub(super) is_moved: bool,
}

impl Machine {
    /// Makes the device, and listens to the kernel.
    pub(super) fn open(name: &str) -> Result<Machine, tun::Error> {
        let tun = Tun::open(name)?;
        let monitor = Monitor::open(tun.netlink())
            .map_err(|error| warn!("cannot watch the kernel's network configuration: {error}"));
        Ok(Machine {
            routes: KernelRoutes::new(&tun),
            device: Device::default(),
            monitor: monitor.ok(),
            pacer: Pacer::default(),
            surroundings: Surroundings::default(),
            outer: Outer::default(),
            lan: Vec::new(),
            overlaps: Vec::new(),
            problems: Vec::new(),
            log_limiter: LogLimiter::default(),
            is_quiet: false,
            tun,
        })
    }

    /// Registers the device and the kernel's announcements.
    pub(super) fn register(&mut self, events: &EventLoop) -> std::io::Result<()> {
        events.register(&mut self.tun, Source::Device)?;
        self.monitor.as_mut().map_or(Ok(()), |monitor| events.register(monitor, Source::Kernel))
    }

    /// Reads the kernel's announcements; whether there are more.
    pub(super) fn read_announcements(&mut self) -> bool {
        let Some(monitor) = &mut self.monitor else { return false };
        let (changes, drained) = monitor.drain(self.tun.index());
        self.pacer.add(changes);
        drained == Drained::More
    }

    /// When [`Machine::poll`] has something to do.
    pub(super) fn deadline(&self, now: Instant) -> Option<Instant> {
        [self.pacer.deadline(now), self.log_limiter.deadline(), self.outer.look_at]
            .into_iter()
            .flatten()
            .min()
    }

    /// Observes the kernel's state after announced changes, and restores what another program changed.
    ///
    /// # Errors
    /// Where the device is gone and cannot be made anew.
    pub(super) fn poll(&mut self, now: Instant) -> Result<Option<Seen>, tun::Error> {
        while let Some((kind, count)) = self.log_limiter.poll(now) {
            match kind {
                Some(kind @ ("routes" | "rules")) => {
                    warn!("{kind}: undid {} by someone else", counted(count, "more change"));
                }
                Some(kind) => info!("{kind}: {}", counted(count, "more time")),
                None => info!("kept back {}", counted(count, "more line")),
            }
        }
        let is_due = self.outer.look_at.take_if(|at| *at <= now).is_some();
        if !self.overlaps.is_empty() {
            self.outer.look_at.get_or_insert(now + LOOK_EVERY);
        }
        if self.pacer.take(now).is_none() {
            if is_due {
                self.set_direct();
            }
            return Ok(None);
        }
        let steps = self.device.reconcile(&mut self.tun)?;
        let restored = self.routes.reconcile(&self.tun);
        self.tell_of_steps(&steps, now);
        if steps.is_empty() {
            if !restored.rules.is_empty() && self.log_limiter.allow("rules", now) {
                let rules: Vec<String> = restored.rules.iter().map(u32::to_string).collect();
                warn!("policy rule {} was removed by someone else; restored", rules.join(", "));
            }
            if !restored.routes.is_empty() && self.log_limiter.allow("routes", now) {
                warn!("route {} was removed by someone else; restored", name_some(&restored.routes));
            }
        }
        self.note_problems();
        Ok(Some(self.look()))
    }

    /// The problems that last, one line each.
    pub(super) fn problems(&self) -> Vec<String> {
        self.problems.iter().chain(&self.overlaps).cloned().chain(self.routes.failures()).collect()
    }

    // ---- the device and its routes

    /// Sets the device to what the hub granted; what is set already stays untouched. An error's text says what to do.
    pub(super) fn configure(&mut self, addresses: &[IpNetwork], mtu: u32) -> Result<(), String> {
        let config = DeviceConfig { addresses: with_link_local(addresses), mtu };
        let steps = self.device.configure(&mut self.tun, config).map_err(|error| error.to_string())?;
        if self.device.is_without_addresses()
            && let Some((_, why)) = self.device.failures().first()
        {
            return Err(why.to_string());
        }
        self.lan = addresses.to_vec();
        if !steps.is_empty() {
            // The kernel took routes away with the addresses.
            self.routes.reconcile(&self.tun);
        }
        self.note_problems();
        self.set_direct();
        Ok(())
    }

    /// Whether to write one more line of a kind that others can provoke. The kind says what the lines are about.
    pub(super) fn allow_line(&mut self, kind: &'static str, now: Instant) -> bool {
        self.log_limiter.allow(kind, now)
    }

    /// Has exactly these routes in the kernel.
    pub(super) fn set_routes(
        &mut self,
        routes: BTreeMap<IpNetwork, RouteMode>,
        hub: &[IpAddr],
        now: Instant,
    ) {
        // The hub tells them, and anyone there may change them.
        const KIND: &str = "routes through the LAN changed";
        if self.is_quiet {
            self.is_quiet = !self.log_limiter.allow(KIND, now);
        }
        self.routes.set_quiet(self.is_quiet);
        // Only a change that had lines counts.
        if self.routes.set(&self.tun, routes, hub) && !self.is_quiet {
            self.is_quiet = !self.log_limiter.allow(KIND, now);
        }
        self.routes.set_quiet(false);
    }

    /// Takes away what would outlive the device.
    pub(super) fn close(&mut self) {
        self.routes.set_direct(&self.tun, BTreeMap::new());
    }

    fn tell_of_steps(&mut self, steps: &[Step], now: Instant) {
        let repairs: Vec<String> = steps.iter().map(ToString::to_string).collect();
        if !repairs.is_empty() && self.log_limiter.allow("device", now) {
            warn!("{} was changed by someone else ({}); restored", self.tun.name(), repairs.join(", "));
        }
    }

    /// Warns once of each thing that cannot be done to the device.
    fn note_problems(&mut self) {
        let mut problems = Vec::new();
        for (_, why) in self.device.failures() {
            let why = if why.says_no_ipv6() {
                format!("{} has no IPv6, and goes on without: {why}", self.tun.name())
            } else {
                why.to_string()
            };
            // One line for the missing family, whichever addresses it would have had.
            let is_same_family =
                |known: &String| known.contains(" has no IPv6,") && why.contains(" has no IPv6,");
            if problems.iter().any(is_same_family) {
                continue;
            }
            if !self.problems.iter().any(|known| *known == why || is_same_family(known)) {
                warn!("{why}");
            }
            problems.push(why);
        }
        self.problems = problems;
    }

    // ---- around

    /// The networks that the machine is in now.
    pub(super) fn look_around(&mut self) -> Vec<IpNetwork> {
        match Surroundings::observe(&self.tun) {
            Ok(surroundings) => self.surroundings = surroundings,
            Err(error) => {
                warn!("{error}; routes that the hub announces may lie in a network of this machine");
            }
        }
        self.surroundings.networks().collect()
    }

    /// The hub's addresses, as they were found.
    pub(super) fn set_hub(&mut self, hub: &[SocketAddr]) {
        self.outer.hub = hub.iter().map(|address| address.ip().to_canonical()).collect();
        // None of them is dialled through the device.
        self.set_direct();
        self.outer.hops = self.hops();
    }

    /// The hub, or the proxy before it, is at these addresses too.
    pub(super) fn add_hub(&mut self, hub: &[SocketAddr]) {
        add_addresses(&mut self.outer.hub, hub);
        self.set_direct();
        self.outer.hops = self.hops();
    }

    /// There is a connection from and to these addresses.
    pub(super) fn set_link(&mut self, source: IpAddr, hub: IpAddr) {
        let (source, hub) = (source.to_canonical(), hub.to_canonical());
        let hop = surroundings::way(&self.tun, source, hub).ok().flatten();
        self.outer.link = Some((source, hub, hop));
        self.set_direct();
    }

    /// There is no connection any more.
    pub(super) fn clear_link(&mut self) {
        self.outer.link = None;
        self.set_direct();
    }

    /// The IPv4 address that this is, if the machine has no way there.
    pub(super) fn is_unrouted(&self, host: &str) -> Option<Ipv4Addr> {
        let address: Ipv4Addr = host.parse().ok()?;
        // Where the kernel cannot be asked, the connection tells.
        surroundings::new_way(self.tun.netlink(), address.into())
            .is_ok_and(|way| way.is_none())
            .then_some(address)
    }

    fn look(&mut self) -> Seen {
        let before = self.surroundings.clone();
        let networks = self.look_around();
        let is_elsewhere = before != self.surroundings;
        self.set_direct();
        let hops = self.hops();
        let is_moved = hops != self.outer.hops || (self.outer.hub.is_empty() && is_elsewhere);
        self.outer.hops = hops;
        let path = self.path();
        Seen { networks, path, is_moved }
    }

    /// What has become of the connection's path since the last look.
    fn path(&mut self) -> Option<PathChange> {
        let (source, hub, before) = self.outer.link.as_mut()?;
        let now = match surroundings::way(&self.tun, *source, *hub) {
            Ok(now) => now,
            Err(error) => {
                debug!("{error}");
                return None;
            }
        };
        let path = surroundings::compare(before.as_ref(), now.as_ref());
        *before = now;
        match path {
            Path::Same => None,
            Path::Changed => Some(PathChange::Moved),
            Path::Lost => Some(PathChange::Lost),
        }
    }

    fn hops(&self) -> Vec<Option<NextHop>> {
        let way = |&hub: &IpAddr| surroundings::new_way(self.tun.netlink(), hub).ok().flatten();
        self.outer.hub.iter().map(way).collect()
    }

    /// Has the addresses of the LAN's subnet that this machine needs outside of it reached there.
    fn set_direct(&mut self) {
        let (name_servers, own) =
            (surroundings::name_servers(), self.surroundings.networks().collect::<Vec<_>>());
        let needs = Needs {
            lan: &self.lan,
            own: &own,
            hub: &self.outer.hub,
            name_servers: &name_servers,
            is_linked: self.outer.link.is_some(),
        };
        let direct = if needs.is_any() { needs.hops(&self.other_routes()) } else { BTreeMap::new() };
        if direct != self.outer.direct {
            self.outer.direct = direct.clone();
            self.routes.set_direct(&self.tun, direct);
        }
        self.warn_of_overlaps();
        self.warn_of_name_servers(&name_servers);
    }

    /// Warns of name servers that the LAN takes away unless they are members, once each.
    fn warn_of_name_servers(&mut self, name_servers: &[IpAddr]) {
        // Without a link they are asked outside.
        if self.outer.link.is_none() {
            return;
        }
        let mut captured = self.surroundings.captured(&self.lan, name_servers);
        captured.retain(|(server, _)| !self.outer.direct.contains_key(server));
        for &(server, lan) in captured.iter().filter(|(server, _)| !self.outer.captured.contains(server)) {
            warn!("{}", surroundings::captured(server, lan));
        }
        self.outer.captured = captured.into_iter().map(|(server, _)| server).collect();
    }

    /// The routes of the main table that lead out by other devices.
    fn other_routes(&self) -> Vec<Route> {
        let tables = [Family::V4, Family::V6].map(|family| self.tun.netlink().table(family, MAIN_TABLE));
        // A kernel without IPv6 has no routes of it.
        let routes = tables.into_iter().filter_map(|table| table.map_err(|error| debug!("{error}")).ok());
        routes.flatten().filter(|route| route.interface != self.tun.index()).collect()
    }

    /// One line about the LAN's prefix, if the kernel sends nothing of it into the device: someone has a rule or a route of
    /// another kind for it, which is theirs.
    fn elsewhere(&self, lan: IpNetwork) -> Option<String> {
        if lan.is_ipv6() && self.device.lacks_ipv6() {
            return None;
        }
        let hub = prefix::first_host(lan);
        let hop = self.tun.netlink().route_to(hub).ok().flatten();
        let leads_there = hop.is_some_and(|hop| hop.interface == self.tun.index());
        (!leads_there).then(|| {
            format!(
                "{hub}, the hub on the LAN, is not reached through {}: a rule or route of someone else comes first, see `ip \
                 route get {hub}`",
                self.tun.name()
            )
        })
    }

    /// Warns of networks of the machine that have the LAN's addresses, once each time that they appear.
    fn warn_of_overlaps(&mut self) {
        let mut overlaps = self.surroundings.overlaps(&self.lan, self.tun.name());
        if !overlaps.is_empty() {
            overlaps.extend(self.outer.direct.keys().map(|address| {
                format!(
                    "{address}, a router or name server of this machine's network, is reached there and not on the LAN"
                )
            }));
        }
        if overlaps.is_empty() {
            overlaps.extend(self.lan.iter().filter_map(|&lan| self.elsewhere(lan)));
        }
        for line in overlaps.iter().filter(|line| !self.overlaps.contains(line)) {
            warn!("{line}");
        }
        if overlaps.is_empty() && !self.overlaps.is_empty() {
            info!("nothing of this machine stands between it and the LAN any more");
        }
        self.overlaps = overlaps;
    }
}

/// The addresses that the device is to have for these: the IPv6 one brings its link-local one along.
fn with_link_local(addresses: &[IpNetwork]) -> Vec<IpNetwork> {
    let link_local = addresses.iter().filter_map(|&address| match address {
        IpNetwork::V4(_) => None,
        IpNetwork::V6(v6) => link_local::of(v6).map(IpNetwork::V6),
    });
    addresses.iter().copied().chain(link_local).collect()
}
