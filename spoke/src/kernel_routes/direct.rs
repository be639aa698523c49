//! Addresses of the LAN's subnet that the machine needs outside of it, and how it reaches them. Pure.
//!
//! A machine can be in a network whose addresses are also the LAN's, with its router and name server among them. If that
//! network is the wider one, the kernel prefers the LAN for them. They get host routes in a table of their own, which is
//! asked before the main table.

#![warn(clippy::disallowed_methods, reason = "pure, though the module above it is not")]

use std::collections::BTreeMap;
use std::net::IpAddr;

use common::linux::netlink::Route;
use common::packet::prefix::overlap;
use ipnetwork::IpNetwork;

/// Most addresses that are reached so.
const MAX_ADDRESSES: usize = 16;

/// The interface and router by which an address is reached outside of the LAN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// Index of the interface.
    pub interface: u32,
    /// The router; `None` where the address is on the link.
    pub gateway: Option<IpAddr>,
}

/// What decides which addresses are needed.
#[derive(Clone, Copy, Debug)]
pub struct Needs<'a> {
    /// The LAN's prefixes, as addresses of the device.
    pub lan: &'a [IpNetwork],
    /// Networks that this machine is in, but for the LAN.
    pub own: &'a [IpNetwork],
    /// Outer addresses of the hub.
    pub hub: &'a [IpAddr],
    /// Name servers of this machine.
    pub name_servers: &'a [IpAddr],
    /// Whether there is a link to the hub.
    pub is_linked: bool,
}

impl Needs<'_> {
    /// Whether any address can be needed: if not, the routes do not matter.
    pub fn is_any(&self) -> bool {
        let is_named =
            |address: &IpAddr| self.subnet(*address).is_some_and(|lan| self.is_needed(lan, *address));
        self.hub.iter().chain(self.name_servers).any(is_named)
            || self.lan.iter().any(|&lan| self.is_shared(lan))
    }

    /// The needed addresses, each with the best of `routes` there: those of the main table through other devices. The
    /// ones that the kernel prefers to the LAN by itself are left out.
    pub fn hops(&self, routes: &[Route]) -> BTreeMap<IpAddr, Hop> {
        let routers = routes.iter().filter_map(|route| route.gateway);
        let routers = routers.filter(|&router| self.subnet(router).is_some_and(|lan| self.is_shared(lan)));
        let needed = self.hub.iter().chain(self.name_servers).copied().chain(routers);
        let hops = needed.filter_map(|address| {
            let lan = self.subnet(address).filter(|&lan| self.is_needed(lan, address))?;
            let best = best(routes, address).filter(|route| route.prefix.prefix() < lan.prefix())?;
            Some((address, Hop { interface: best.interface, gateway: best.gateway }))
        });
        hops.take(MAX_ADDRESSES).collect()
    }

    /// The LAN's prefix that holds an address; not for the machine's own.
    fn subnet(&self, address: IpAddr) -> Option<IpNetwork> {
        self.lan.iter().copied().find(|lan| lan.contains(address) && lan.ip() != address)
    }

    /// A name server in the LAN's subnet is a member's, unless this machine is in a network with such addresses. Without
    /// a link no member answers, and the hub's name has to be looked up.
    fn is_needed(&self, lan: IpNetwork, address: IpAddr) -> bool {
        !self.is_linked || self.hub.contains(&address) || self.is_shared(lan)
    }

    fn is_shared(&self, lan: IpNetwork) -> bool {
        self.own.iter().any(|&own| overlap(own, lan))
    }
}

/// The route that the kernel takes to an address: the longest prefix, then the lowest metric.
fn best(routes: &[Route], address: IpAddr) -> Option<&Route> {
    let leads_there = routes.iter().filter(|route| route.prefix.contains(address));
    leads_there.max_by_key(|route| (route.prefix.prefix(), std::cmp::Reverse(route.metric.unwrap_or(0))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNetwork {
        text.parse().unwrap()
    }

    fn route(prefix: &str, gateway: Option<&str>, interface: u32, metric: Option<u32>) -> Route {
        let gateway = gateway.map(|text| text.parse().unwrap());
        Route { prefix: net(prefix), gateway, interface, table: 254, metric }
    }

    /// The needed addresses with their interfaces and routers.
    fn told(needs: Needs<'_>, routes: &[Route]) -> Vec<String> {
        let hops = needs.hops(routes).into_iter();
        hops.map(|(address, Hop { interface, gateway })| match gateway {
            Some(gateway) => format!("{address} {interface} via {gateway}"),
            None => format!("{address} {interface}"),
        })
        .collect()
    }

    #[test]
    fn routers_and_name_servers_of_a_wider_network_are_reached_there() {
        let lan = [net("10.0.0.2/24"), net("fd00::2/64")];
        let name_servers = ["10.0.0.153".parse().unwrap(), "10.0.7.53".parse().unwrap()];
        let routes = [
            route("0.0.0.0/0", Some("10.0.0.1"), 7, Some(600)),
            route("0.0.0.0/0", Some("10.0.0.9"), 8, Some(700)),
            route("10.0.0.0/16", None, 7, Some(600)),
            route("10.0.0.0/16", None, 8, Some(700)),
        ];
        let own = [net("10.0.3.57/16")];
        let needs = Needs { lan: &lan, own: &own, hub: &[], name_servers: &name_servers, is_linked: true };
        assert!(needs.is_any());
        assert_eq!(told(needs, &routes), ["10.0.0.1 7", "10.0.0.9 7", "10.0.0.153 7"]);
        // In its own network the kernel knows the way.
        let narrow = [routes[0].clone(), route("10.0.0.0/26", None, 7, Some(600))];
        let own = [net("10.0.0.57/26")];
        let needs = Needs { own: &own, ..needs };
        assert_eq!(told(needs, &narrow), ["10.0.0.153 7 via 10.0.0.1"], "behind the router");
        let same = [routes[0].clone(), route("10.0.0.0/24", None, 7, Some(600))];
        assert_eq!(told(needs, &same), Vec::<String>::new());
    }

    #[test]
    fn a_name_server_on_the_lan_is_one_of_the_lan_while_there_is_a_link() {
        let lan = [net("10.0.0.2/24")];
        let name_servers = ["10.0.0.53".parse().unwrap(), "10.0.0.2".parse().unwrap()];
        let own = [net("192.168.1.20/24")];
        let routes =
            [route("0.0.0.0/0", Some("192.168.1.1"), 7, None), route("192.168.1.0/24", None, 7, None)];
        let needs = Needs { lan: &lan, own: &own, hub: &[], name_servers: &name_servers, is_linked: true };
        assert!(!needs.is_any() && told(needs, &routes).is_empty());
        let needs = Needs { is_linked: false, ..needs };
        assert!(needs.is_any());
        assert_eq!(told(needs, &routes), ["10.0.0.53 7 via 192.168.1.1"]);
        assert_eq!(told(needs, &[]), Vec::<String>::new(), "there is no other way");
        // The hub itself is never reached through its own LAN.
        let hub = ["10.0.0.77".parse().unwrap()];
        let needs = Needs { hub: &hub, name_servers: &[], is_linked: true, ..needs };
        assert_eq!(told(needs, &routes), ["10.0.0.77 7 via 192.168.1.1"]);
    }
}
