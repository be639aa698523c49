//! The machine's other networks, and its path to the hub. IO, through the device's netlink socket.
//!
//! Both are values to be compared with the last observation: machines move, and networks can appear at any time.

#![expect(clippy::disallowed_methods, reason = "an IO file: it reads the system's settings")]

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::linux::netlink::{Error, Netlink, NextHop};
use crate::linux::tun::Tun;
use crate::packet::prefix;

/// The networks that a machine is in, without the device's own and loopback addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    networks: Vec<Network>,
}

/// A network that the machine is in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Network {
    /// The machine's address there, with the network's prefix.
    pub address: IpNetwork,
    /// The name of its interface.
    pub device: String,
}

/// A change of a connection's path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// The machine does not have its own address any more, or no route: nothing can arrive.
    Lost,
    /// They leave by another interface or router than before: it may work or not.
    Changed,
    /// Unchanged.
    Same,
}

impl Surroundings {
    /// Observes the networks.
    ///
    /// # Errors
    /// As the kernel has it.
    pub fn observe(tun: &Tun) -> Result<Surroundings, Error> {
        Surroundings::without(tun.netlink(), Some(tun.index()))
    }

    /// The same for whoever does not own the device: its index, if there is one. Needs no privilege.
    ///
    /// # Errors
    /// As the kernel has it.
    pub fn without(netlink: &Netlink, device: Option<u32>) -> Result<Surroundings, Error> {
        let addresses = netlink.addresses()?;
        let names: BTreeMap<u32, String> =
            netlink.links()?.into_iter().map(|link| (link.index, link.name)).collect();
        let others = addresses
            .into_iter()
            .filter(|(index, network)| Some(*index) != device && !network.ip().is_loopback());
        let mut networks: Vec<Network> = others
            .map(|(device, address)| Network {
                address,
                device: names.get(&device).cloned().unwrap_or_default(),
            })
            .collect();
        networks.sort();
        Ok(Surroundings { networks })
    }

    /// The networks, as addresses with their prefixes.
    pub fn networks(&self) -> impl Iterator<Item = IpNetwork> {
        self.networks.iter().map(|network| network.address)
    }

    /// Those that share an address with `prefix`.
    pub fn overlapping(&self, prefix: IpNetwork) -> impl Iterator<Item = &Network> {
        self.networks.iter().filter(move |network| prefix::overlap(network.address, prefix))
    }

    /// A sentence for each network that shares addresses with one of the LAN's prefixes, which are reached through
    /// `device`.
    pub fn overlaps(&self, lan: &[IpNetwork], device: &str) -> Vec<String> {
        let of = |&lan: &IpNetwork| self.overlapping(lan).map(move |network| network.overlap(lan, device));
        lan.iter().flat_map(of).collect()
    }

    /// The name servers among the LAN's addresses, with the LAN's prefix, but for the hub, this machine, and those that it
    /// reaches in a network of its own: where one is no member it cannot be reached any more. `lan`: the machine's addresses
    /// there.
    pub fn captured(&self, lan: &[IpNetwork], name_servers: &[IpAddr]) -> Vec<(IpAddr, IpNetwork)> {
        let of = |&server: &IpAddr| {
            let lan = lan.iter().find(|lan| lan.contains(server))?;
            let is_known = [lan.ip(), prefix::first_host(*lan)].contains(&server)
                || self.networks().any(|own| own.contains(server) && own.prefix() >= lan.prefix());
            let lan = IpNetwork::new(lan.network(), lan.prefix()).ok()?;
            (!is_known).then_some((server, lan))
        };
        name_servers.iter().filter_map(of).collect()
    }

    /// Whether the machine has this very address.
    pub fn has(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|network| network.address.ip() == address)
    }
}

impl Network {
    /// A sentence about addresses that are this network's and the LAN's.
    fn overlap(&self, lan: IpNetwork, device: &str) -> String {
        let subnet = |address: IpNetwork| format!("{}/{}", address.network(), address.prefix());
        let name = self.device.as_str();
        let (winner, loser) =
            if self.address.prefix() >= lan.prefix() { (name, "the LAN") } else { (device, name) };
        let (lan, theirs) = (subnet(lan), subnet(self.address));
        format!(
            "the LAN's {lan} and {theirs}, the network of {name}, share addresses: what is in both goes to {winner}, \
             not to {loser}, until this machine leaves {theirs} or the LAN gets another subnet"
        )
    }
}

/// The name servers that are asked now: behind the resolver on this machine, if that tells its own.
pub fn name_servers() -> Vec<IpAddr> {
    let mut found = Vec::new();
    for file in ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"] {
        // One that is not there, or must not be read, names none.
        if let Ok(text) = std::fs::read_to_string(file) {
            found.extend(listed(&text));
        }
        if !found.iter().any(IpAddr::is_loopback) {
            break;
        }
    }
    found
}

/// The name servers of a file in the format of resolv.conf(5), without zones.
fn listed(resolv_conf: &str) -> Vec<IpAddr> {
    /// Most that are used, as in resolv.conf(5).
    const MAX_SERVERS: usize = 3;
    let addresses = resolv_conf.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let address = words.next().filter(|&word| word == "nameserver").and_then(|_| words.next())?;
        address.split('%').next()?.parse().ok()
    });
    addresses.take(MAX_SERVERS).collect()
}

/// A sentence about a name server that the LAN captures.
pub fn captured(name_server: IpAddr, lan: IpNetwork) -> String {
    format!(
        "{name_server}, a name server of this machine, is an address of the LAN's {lan} and is asked there: if it is not a \
         member, the LAN needs another subnet (`hub renumber`)"
    )
}

/// The way by which a connection from `source` to `destination` leaves now; `None` where there is none, as where the
/// machine has no such address.
///
/// # Errors
/// As the kernel has it.
pub fn way(tun: &Tun, source: IpAddr, destination: IpAddr) -> Result<Option<NextHop>, Error> {
    let netlink = tun.netlink();
    // IPv6 looks routes up for addresses that the machine does not have, too.
    let held = netlink.addresses()?.into_iter().find(|(_, address)| address.ip() == source);
    match held {
        Some((interface, _)) if is_running(netlink, interface)? => {
            usable(netlink, netlink.route_from(Some(source), destination)?)
        }
        Some(_) | None => Ok(None),
    }
}

/// The way by which a new connection to `destination` would leave now; `None` where there is none.
///
/// # Errors
/// As the kernel has it.
pub fn new_way(netlink: &Netlink, destination: IpAddr) -> Result<Option<NextHop>, Error> {
    usable(netlink, netlink.route_to(destination)?)
}

/// A way by an interface that cannot carry anything is none: routes outlive a pulled cable.
fn usable(netlink: &Netlink, hop: Option<NextHop>) -> Result<Option<NextHop>, Error> {
    match hop {
        Some(hop) if is_running(netlink, hop.interface)? => Ok(Some(hop)),
        Some(_) | None => Ok(None),
    }
}

/// Whether an interface is up and has a carrier.
fn is_running(netlink: &Netlink, interface: u32) -> Result<bool, Error> {
    let running = (libc::IFF_UP | libc::IFF_RUNNING) as u32;
    Ok(netlink.link_by_index(interface)?.is_some_and(|link| link.flags & running == running))
}

/// How a path has changed.
pub fn compare(before: Option<&NextHop>, now: Option<&NextHop>) -> Path {
    let door = |hop: &NextHop| (hop.interface, hop.gateway);
    match (before, now) {
        (_, None) => Path::Lost,
        (Some(before), Some(now)) if door(before) == door(now) => Path::Same,
        (None | Some(_), Some(_)) => Path::Changed,
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::linux::netlink::tests::in_namespace;

    fn ip(arguments: &str) {
        let status = Command::new("ip").args(arguments.split_ascii_whitespace()).status();
        assert!(status.expect("this test needs `ip` of iproute2").success(), "ip {arguments}");
    }

    fn add(name: &str, address: &str) {
        ip(&format!("link add name {name} type veth peer name {name}p"));
        ip(&format!("link set dev {name}p up"));
        ip(&format!("link set dev {name} up"));
        ip(&format!("addr add {address} dev {name}"));
    }

    #[test]
    fn networks_that_appear_later_are_seen_with_their_names() {
        in_namespace(|| {
            let tun = Tun::open("t").unwrap();
            tun.add_address("10.0.0.2/24".parse().unwrap()).unwrap();
            let empty = Surroundings::observe(&tun).unwrap();
            assert_eq!(empty.networks().count(), 0);
            add("wlan0", "10.0.0.57/24");
            add("docker0", "172.17.0.1/16");
            let now = Surroundings::observe(&tun).unwrap();
            assert_ne!(now, empty);
            let overlapping = |prefix: &str| -> Vec<String> {
                now.overlapping(prefix.parse().unwrap()).map(|network| network.device.clone()).collect()
            };
            assert_eq!(overlapping("10.0.0.0/24"), ["wlan0"]);
            assert_eq!(overlapping("172.16.0.0/12"), ["docker0"]);
            assert_eq!(overlapping("192.168.0.0/16"), Vec::<String>::new());
            assert!(now.has("172.17.0.1".parse().unwrap()) && !now.has("10.0.0.2".parse().unwrap()));
        });
    }

    #[test]
    fn a_way_that_changes_or_is_lost_is_noticed() {
        in_namespace(|| {
            let tun = Tun::open("t").unwrap();
            add("eth0", "192.168.1.20/24");
            add("wlan0", "192.168.7.20/24");
            ip("addr add 2001:db8:1::20/64 dev eth0 nodad");
            ip("addr add 2001:db8:7::20/64 dev wlan0 nodad");
            for (net, own, other, third, hub, length) in [
                ("192.168.1.", "20", "192.168.7.1", "198.51.100.0/24", "203.0.113.5", 24),
                ("2001:db8:1::", "20", "2001:db8:7::1", "2001:db8:9::/48", "2001:db8:99::5", 64),
            ] {
                let source = format!("{net}{own}");
                ip(&format!("route add default via {net}1"));
                let look = || way(&tun, source.parse().unwrap(), hub.parse().unwrap()).unwrap();
                let first = look();
                assert!(first.is_some());
                let path = || compare(first.as_ref(), look().as_ref());
                assert_eq!(path(), Path::Same);
                ip(&format!("route add {third} via {net}9"));
                assert_eq!(path(), Path::Same, "another route");
                ip(&format!("route replace default via {net}2"));
                assert_eq!(path(), Path::Changed, "another router");
                ip(&format!("route replace default via {other}"));
                assert_eq!(path(), Path::Changed, "another interface");
                ip(&format!("route replace default via {net}1"));
                assert_eq!(path(), Path::Same);
                ip("link set dev eth0p down");
                assert_eq!(path(), Path::Lost, "no carrier");
                ip("link set dev eth0p up");
                assert_eq!(path(), Path::Same);
                ip(&format!("route replace default via {other}"));
                ip(&format!("addr del {source}/{length} dev eth0"));
                assert_eq!(path(), Path::Lost, "another address");
                ip(&format!("addr add {source}/{length} dev eth0"));
                ip(&format!("route del default via {other}"));
                assert_eq!(path(), Path::Lost, "no route");
            }
        });
    }

    #[test]
    fn reads_name_servers() {
        let text = "# nameserver 9.9.9.9\nsearch lan\nnameserver 192.0.2.53\n nameserver\tfe80::1%eth0 x\n\
                    nameserver\nnameserver what\nnameserver 127.0.0.53\nnameserver 192.0.2.54\n";
        let expected = ["192.0.2.53", "fe80::1", "127.0.0.53"].map(|text| text.parse::<IpAddr>().unwrap());
        assert_eq!(listed(text), expected);
        assert_eq!(listed(""), [] as [IpAddr; 0]);
    }

    #[test]
    fn a_name_server_among_the_lans_addresses_is_captured_unless_it_is_the_hub_or_this_machine() {
        let lan = ["10.0.0.2/24".parse().unwrap(), "fd00::2/64".parse().unwrap()];
        let network =
            |address: &str| Network { address: address.parse().unwrap(), device: "eth0".to_owned() };
        let captures = |around: &Surroundings, address: &str| {
            let found = around.captured(&lan, &[address.parse().unwrap()]);
            found.first().map(|(_, lan)| lan.to_string())
        };
        let around = Surroundings { networks: vec![network("10.0.3.57/16")] };
        assert_eq!(captures(&around, "10.0.0.53").as_deref(), Some("10.0.0.0/24"));
        assert_eq!(captures(&around, "fd00::53").as_deref(), Some("fd00::/64"));
        for other in ["10.0.0.1", "10.0.0.2", "10.0.1.53", "fd00::1", "192.168.1.1"] {
            assert_eq!(captures(&around, other), None, "{other}");
        }
        let around = Surroundings { networks: vec![network("10.0.0.57/24")] };
        assert_eq!(captures(&around, "10.0.0.53"), None, "it is there");
    }
}
