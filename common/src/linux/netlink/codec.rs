//! Links, addresses, routes and rules as netlink messages. Pure.

#![warn(clippy::disallowed_methods, reason = "pure, though the module above it is not")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

use super::message::{Message, Request, attribute, attributes, number_u16, number_u32};
use super::objects::{Family, Interface, NextHop, OUR_PROTOCOL, Route};

pub(super) const ACK: u16 = libc::NLM_F_ACK as u16;
pub(super) const DUMP: u16 = libc::NLM_F_DUMP as u16;
/// A gateway of the other family (linux/rtnetlink.h); libc has it for glibc alone.
const RTA_VIA: u16 = 18;

/// Make it, acknowledge, and say so when it is there.
pub(super) const CREATE: u16 = (libc::NLM_F_CREATE | libc::NLM_F_EXCL | libc::NLM_F_ACK) as u16;

/// Both of linux/if_link.h.
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const IN6_ADDR_GEN_MODE_NONE: u8 = 1;

/// linux/if_link.h and linux/ip.h.
const IFLA_INET_CONF: u16 = 1;
const IPV4_DEVCONF_FORWARDING: u16 = 1;

/// linux/if_addr.h.
const IFA_RT_PRIORITY: u16 = 9;

/// Asks for an interface by name.
pub(super) fn get_link(name: &str) -> Request {
    let mut name = name.as_bytes().to_vec();
    name.push(0);
    Request::new(libc::RTM_GETLINK, ACK, &link_header(0, 0, 0)).attribute(libc::IFLA_IFNAME, &name)
}

/// Asks for an interface by index.
pub(super) fn get_link_by_index(interface: u32) -> Request {
    Request::new(libc::RTM_GETLINK, ACK, &link_header(interface, 0, 0))
}

/// Asks for all interfaces.
pub(super) fn list_links() -> Request {
    Request::new(libc::RTM_GETLINK, DUMP, &link_header(0, 0, 0))
}

/// Sets an interface's MTU.
pub(super) fn set_mtu(interface: u32, mtu: u32) -> Request {
    Request::new(libc::RTM_SETLINK, ACK, &link_header(interface, 0, 0))
        .attribute(libc::IFLA_MTU, &mtu.to_ne_bytes())
}

/// Sets those of an interface's flags that are in `mask`.
pub(super) fn set_flags(interface: u32, flags: u32, mask: u32) -> Request {
    Request::new(libc::RTM_SETLINK, ACK, &link_header(interface, flags, mask))
}

/// Switches the making of IPv6 link-local addresses off.
pub(super) fn set_no_link_local(interface: u32) -> Request {
    let mode = attribute(IFLA_INET6_ADDR_GEN_MODE, &[IN6_ADDR_GEN_MODE_NONE]);
    Request::new(libc::RTM_SETLINK, ACK, &link_header(interface, 0, 0))
        .attribute(libc::IFLA_AF_SPEC, &attribute(libc::AF_INET6 as u16, &mode))
}

/// Has IPv4 packets forwarded that come in by an interface.
pub(super) fn set_forwarding(interface: u32) -> Request {
    let forwarding = attribute(IPV4_DEVCONF_FORWARDING, &1_u32.to_ne_bytes());
    let conf = attribute(IFLA_INET_CONF, &forwarding);
    Request::new(libc::RTM_SETLINK, ACK, &link_header(interface, 0, 0))
        .attribute(libc::IFLA_AF_SPEC, &attribute(libc::AF_INET as u16, &conf))
}

/// Asks for the addresses of all interfaces.
pub(super) fn list_addresses() -> Request {
    Request::new(libc::RTM_GETADDR, DUMP, &address_header(libc::AF_UNSPEC as u8, 0, 0))
}

/// Adds an address, with a metric for the route to its prefix.
pub(super) fn new_address(interface: u32, address: IpNetwork, metric: Option<u32>) -> Request {
    let metric = metric.map(u32::to_ne_bytes);
    address_request(libc::RTM_NEWADDR, CREATE, interface, address)
        .maybe(IFA_RT_PRIORITY, metric.as_ref().map(|metric| &metric[..]))
}

/// Removes an address.
pub(super) fn del_address(interface: u32, address: IpNetwork) -> Request {
    address_request(libc::RTM_DELADDR, ACK, interface, address)
}

/// Adds a route.
pub(super) fn new_route(route: &Route) -> Request {
    let scope = if route.gateway.is_some() { libc::RT_SCOPE_UNIVERSE } else { libc::RT_SCOPE_LINK };
    route_request(libc::RTM_NEWROUTE, CREATE, scope, route)
}

/// Removes a route.
pub(super) fn del_route(route: &Route) -> Request {
    // For IPv4 "nowhere" means whatever the scope; IPv6 has none.
    route_request(libc::RTM_DELROUTE, ACK, libc::RT_SCOPE_NOWHERE, route)
}

/// Asks where a packet would go, from an address that the kernel chooses or from `source`.
pub(super) fn get_route(source: Option<IpAddr>, destination: IpAddr) -> Request {
    let family = Family::of(destination);
    let mut header = route_header(family, family.bits(), 0, 0, 0);
    header[2] = source.map_or(0, |_| family.bits());
    let source = source.map(octets);
    Request::new(libc::RTM_GETROUTE, ACK, &header)
        .attribute(libc::RTA_DST, &octets(destination))
        .maybe(libc::RTA_SRC, source.as_deref())
}

/// Asks for the routes of a family through an interface, in one table or all of them, made by `protocol` unless
/// that is 0; an old kernel answers with more.
pub(super) fn list_routes(family: Family, interface: u32, table: Option<u32>, protocol: u8) -> Request {
    let table = table.map(u32::to_ne_bytes);
    Request::new(libc::RTM_GETROUTE, DUMP, &route_header(family, 0, protocol, 0, 0))
        .attribute(libc::RTA_OIF, &interface.to_ne_bytes())
        .maybe(libc::RTA_TABLE, table.as_ref().map(|table| &table[..]))
}

/// Asks for the routes of a family in one table; an old kernel answers with more.
pub(super) fn list_table(family: Family, table: u32) -> Request {
    Request::new(libc::RTM_GETROUTE, DUMP, &route_header(family, 0, 0, 0, 0))
        .attribute(libc::RTA_TABLE, &table.to_ne_bytes())
}

/// Who made a route, `RTPROT_*` or [`OUR_PROTOCOL`].
pub(super) fn protocol_of_route(message: &Message<'_>) -> Option<u8> {
    message.body.get(5).copied()
}

/// `route` as [`read_route`] would read it: without host bits and with the metric that stands for none.
pub(super) fn as_listed(route: &Route) -> Route {
    let default = match Family::of(route.prefix.ip()) {
        Family::V4 => None,
        // IP6_RT_PRIO_USER
        Family::V6 => Some(1024),
    };
    let prefix = IpNetwork::new(route.prefix.network(), route.prefix.prefix()).unwrap_or(route.prefix);
    Route { prefix, metric: route.metric.filter(|&metric| metric != 0).or(default), ..route.clone() }
}

pub(super) fn read_link(message: &Message<'_>) -> Option<Interface> {
    let index = number_u32(message.body, 4)?;
    let flags = number_u32(message.body, 8)?;
    let (mut mtu, mut name, mut driver) = (None, None, None);
    for (kind, value) in attributes(message.body.get(16..)?) {
        match kind {
            libc::IFLA_MTU => mtu = number_u32(value, 0),
            libc::IFLA_IFNAME => name = Some(text(value)),
            libc::IFLA_LINKINFO => {
                let kind = attributes(value).find(|&(kind, _)| kind == libc::IFLA_INFO_KIND);
                driver = kind.map(|(_, value)| text(value));
            }
            _ => (),
        }
    }
    Some(Interface { index, name: name?, kind: driver, mtu: mtu?, flags })
}

pub(super) fn read_address(message: &Message<'_>) -> Option<(u32, IpNetwork)> {
    let prefix = *message.body.get(1)?;
    let index = number_u32(message.body, 4)?;
    let (mut local, mut peer) = (None, None);
    for (kind, value) in attributes(message.body.get(8..)?) {
        match kind {
            libc::IFA_LOCAL => local = address(value),
            libc::IFA_ADDRESS => peer = address(value),
            _ => (),
        }
    }
    // IFA_ADDRESS is the other end where there is one, and IPv6 has IFA_LOCAL only then.
    Some((index, IpNetwork::new(local.or(peer)?, prefix).ok()?))
}

pub(super) fn read_route(message: &Message<'_>) -> Option<Route> {
    let family = match i32::from(*message.body.first()?) {
        libc::AF_INET => Family::V4,
        libc::AF_INET6 => Family::V6,
        _ => return None,
    };
    let mut destination = match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        Family::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let mut table = u32::from(*message.body.get(4)?);
    let (mut gateway, mut interface, mut metric) = (None, None, None);
    for (kind, value) in attributes(message.body.get(12..)?) {
        match kind {
            libc::RTA_DST => destination = address(value)?,
            libc::RTA_TABLE => table = number_u32(value, 0)?,
            libc::RTA_OIF => interface = number_u32(value, 0),
            libc::RTA_PRIORITY => metric = number_u32(value, 0),
            libc::RTA_GATEWAY => gateway = address(value),
            RTA_VIA => gateway = via(value),
            _ => (),
        }
    }
    let prefix = IpNetwork::new(destination, *message.body.get(1)?).ok()?;
    Some(Route { prefix, gateway, interface: interface?, table, metric })
}

pub(super) fn read_next_hop(message: &Message<'_>) -> Option<NextHop> {
    // Only these two lead anywhere; the others forbid.
    if ![libc::RTN_UNICAST, libc::RTN_LOCAL].contains(message.body.get(7)?) {
        return None;
    }
    let (mut gateway, mut interface, mut source) = (None, None, None);
    for (kind, value) in attributes(message.body.get(12..)?) {
        match kind {
            libc::RTA_OIF => interface = number_u32(value, 0),
            libc::RTA_GATEWAY => gateway = address(value),
            RTA_VIA => gateway = via(value),
            libc::RTA_PREFSRC => source = address(value),
            _ => (),
        }
    }
    Some(NextHop { gateway, interface: interface?, source })
}

/// `struct ifinfomsg`: family, padding, type, index, flags, mask of the flags to change.
fn link_header(interface: u32, flags: u32, mask: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&interface.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..].copy_from_slice(&mask.to_ne_bytes());
    header
}

/// `struct ifaddrmsg`: family, prefix length, flags, scope, index.
fn address_header(family: u8, prefix: u8, interface: u32) -> [u8; 8] {
    let mut header = [family, prefix, 0, libc::RT_SCOPE_UNIVERSE, 0, 0, 0, 0];
    header[4..].copy_from_slice(&interface.to_ne_bytes());
    header
}

fn address_request(kind: u16, flags: u16, interface: u32, address: IpNetwork) -> Request {
    let ip = octets(address.ip());
    let header = address_header(Family::of(address.ip()).number(), address.prefix(), interface);
    let request =
        Request::new(kind, flags, &header).attribute(libc::IFA_LOCAL, &ip).attribute(libc::IFA_ADDRESS, &ip);
    match address {
        // A prefix of 31 or 32 bits has no broadcast address (RFC 3021).
        IpNetwork::V4(address) if address.prefix() <= 30 => {
            request.attribute(libc::IFA_BROADCAST, &address.broadcast().octets())
        }
        IpNetwork::V4(_) => request,
        IpNetwork::V6(_) => request.attribute(libc::IFA_FLAGS, &libc::IFA_F_NODAD.to_ne_bytes()),
    }
}

/// `struct rtmsg`: family, prefix lengths, TOS, table, protocol, scope, type, flags. The table's number
/// goes in an attribute, since it may not fit.
fn route_header(family: Family, prefix: u8, protocol: u8, scope: u8, kind: u8) -> [u8; 12] {
    [family.number(), prefix, 0, 0, 0, protocol, scope, kind, 0, 0, 0, 0]
}

fn route_request(kind: u16, flags: u16, scope: u8, route: &Route) -> Request {
    let family = Family::of(route.prefix.ip());
    let header = route_header(family, route.prefix.prefix(), OUR_PROTOCOL, scope, libc::RTN_UNICAST);
    let request = Request::new(kind, flags, &header)
        .attribute(libc::RTA_DST, &octets(route.prefix.network()))
        .attribute(libc::RTA_TABLE, &route.table.to_ne_bytes())
        .attribute(libc::RTA_OIF, &route.interface.to_ne_bytes())
        .maybe(libc::RTA_PRIORITY, route.metric.map(u32::to_ne_bytes).as_ref().map(|metric| &metric[..]));
    match route.gateway {
        None => request,
        Some(gateway) if Family::of(gateway) == family => {
            request.attribute(libc::RTA_GATEWAY, &octets(gateway))
        }
        Some(gateway) => {
            // struct rtvia: IPv4 by way of an IPv6 router (RFC 5549).
            let mut via = u16::from(Family::of(gateway).number()).to_ne_bytes().to_vec();
            via.extend(octets(gateway));
            request.attribute(RTA_VIA, &via)
        }
    }
}

pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

pub(super) fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

/// A string that may end in a zero byte.
pub(super) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned()
}

fn via(bytes: &[u8]) -> Option<IpAddr> {
    number_u16(bytes, 0)?;
    address(bytes.get(2..)?)
}

impl Family {
    /// `AF_INET` or `AF_INET6`.
    pub(super) fn number(self) -> u8 {
        match self {
            Family::V4 => libc::AF_INET as u8,
            Family::V6 => libc::AF_INET6 as u8,
        }
    }

    /// Bits of an address.
    fn bits(self) -> u8 {
        match self {
            Family::V4 => 32,
            Family::V6 => 128,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::messages;
    use super::*;

    fn route(prefix: &str, gateway: Option<&str>, metric: Option<u32>) -> Route {
        let gateway = gateway.map(|gateway| gateway.parse().unwrap());
        Route { prefix: prefix.parse().unwrap(), gateway, interface: 7, table: 51_820, metric }
    }

    fn read<T>(request: Request, reader: impl Fn(&Message<'_>) -> Option<T>) -> Option<T> {
        let bytes = request.finish(1);
        let message = messages(&bytes).next().unwrap().unwrap();
        // No reader may stumble over a message that ends early.
        for length in 0..message.body.len() {
            let _ = reader(&Message { body: &message.body[..length], ..message });
        }
        reader(&message)
    }

    #[test]
    fn routes_are_read_back() {
        for (prefix, gateway, metric) in [
            ("192.168.5.0/24", None, None),
            ("192.168.5.0/24", Some("10.0.0.1"), Some(5)),
            ("0.0.0.0/0", Some("fe80::1"), None),
            ("2001:db8::/32", Some("fe80::1"), Some(7)),
        ] {
            let route = route(prefix, gateway, metric);
            assert_eq!(read(new_route(&route), read_route), Some(route));
        }
    }

    #[test]
    fn host_bits_of_a_route_are_ignored() {
        let listed = read(new_route(&route("192.168.5.9/24", None, None)), read_route);
        assert_eq!(listed, Some(route("192.168.5.0/24", None, None)));
        assert_eq!(as_listed(&route("192.168.5.9/24", None, Some(0))), route("192.168.5.0/24", None, None));
        assert_eq!(as_listed(&route("fd00::9/64", None, None)), route("fd00::/64", None, Some(1024)));
    }

    #[test]
    fn addresses_are_read_back() {
        for address in ["10.0.0.2/24", "10.0.0.2/32", "fd00::2/64"] {
            let address = address.parse().unwrap();
            assert_eq!(read(new_address(3, address, Some(7)), read_address), Some((3, address)));
        }
    }

    #[test]
    fn an_address_with_a_peer_is_its_local_end() {
        let request = Request::new(libc::RTM_NEWADDR, 0, &address_header(libc::AF_INET as u8, 32, 3))
            .attribute(libc::IFA_ADDRESS, &[10, 0, 0, 1])
            .attribute(libc::IFA_LOCAL, &[10, 0, 0, 2]);
        assert_eq!(read(request, read_address), Some((3, "10.0.0.2/32".parse().unwrap())));
    }

    #[test]
    fn broadcast_address_only_where_a_prefix_has_one() {
        let broadcast = |address: &str| {
            read(new_address(3, address.parse().unwrap(), None), |message| {
                let mut all = attributes(message.body.get(8..)?);
                all.find(|&(kind, _)| kind == libc::IFA_BROADCAST).map(|(_, value)| value.to_vec())
            })
        };
        assert_eq!(broadcast("10.0.0.2/24"), Some(vec![10, 0, 0, 255]));
        assert_eq!(broadcast("10.0.0.2/30"), Some(vec![10, 0, 0, 3]));
        assert_eq!(broadcast("10.0.0.2/31"), None);
        assert_eq!(broadcast("fd00::2/64"), None);
    }

    #[test]
    fn an_unreachable_route_is_no_next_hop() {
        let mut header = route_header(Family::V4, 32, 0, 0, libc::RTN_UNICAST);
        let reply =
            |header: &[u8]| Request::new(libc::RTM_NEWROUTE, 0, header).attribute(libc::RTA_OIF, &[3; 4]);
        assert!(read(reply(&header), read_next_hop).is_some());
        header[7] = libc::RTN_UNREACHABLE;
        assert_eq!(read(reply(&header), read_next_hop), None);
    }
}
