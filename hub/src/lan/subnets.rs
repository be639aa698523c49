//! The LAN's own prefixes, and which of their addresses a member may have. Pure.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use common::packet::link_local;
use common::wire::place::Place;
use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};

/// Why `--subnet` cannot be used. Its text says what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// No subnet was given.
    None,
    /// Two of one family.
    Twice,
    /// There are bits set behind the prefix.
    HostBits(IpNetwork),
    /// No room for a hub and a spoke.
    TooSmall(IpNetwork),
    /// Not a prefix that hosts can have.
    NotForHosts(IpNetwork),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::None => f.write_str("give the LAN's subnet, such as --subnet 10.0.0.0/24"),
            Error::Twice => f.write_str("give at most one IPv4 and one IPv6 --subnet"),
            Error::HostBits(subnet) => write!(
                f,
                "--subnet {subnet} has bits set behind its prefix: did you mean {}/{}?",
                subnet.network(),
                subnet.prefix()
            ),
            Error::TooSmall(subnet) => write!(
                f,
                "--subnet {subnet} is too small for a hub and a spoke: use a prefix of at most /{}",
                if subnet.is_ipv4() { 30 } else { 126 }
            ),
            Error::NotForHosts(subnet) => write!(
                f,
                "--subnet {subnet} is not for hosts: use a private one, such as 10.0.0.0/24 or fd00:1::/64"
            ),
        }
    }
}

impl std::error::Error for Error {}

/// Why a member cannot have an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// It lies in none of the subnets, which are these.
    Outside(String),
    /// It is the subnet's network address.
    Network,
    /// It is the subnet's broadcast address.
    Broadcast,
    /// It is the hub's own.
    Hub,
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unfit::Outside(subnets) => write!(f, "is not in the LAN's subnet {subnets}"),
            Unfit::Network => f.write_str("is the subnet's own address, not one for a host"),
            Unfit::Broadcast => f.write_str("is the subnet's broadcast address, not one for a host"),
            Unfit::Hub => f.write_str("is the hub's own address"),
        }
    }
}

/// At most one prefix of each family, at least one in all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnets {
    v4: Option<Ipv4Network>,
    v6: Option<Ipv6Network>,
}

impl Subnets {
    /// Checks what the command line gave.
    pub fn new(given: &[IpNetwork]) -> Result<Subnets, Error> {
        let mut subnets = Subnets { v4: None, v6: None };
        for &subnet in given {
            let too_small = if subnet.is_ipv4() { 30 } else { 126 };
            let ip = subnet.ip();
            let for_hosts = match ip {
                IpAddr::V4(v4) => {
                    // From 240.0.0.0 on addresses are reserved (RFC 1112), and the last one is broadcast.
                    let is_usual = (1..240).contains(&v4.octets()[0]);
                    subnet.prefix() >= 4 && is_usual && !v4.is_loopback() && !v4.is_multicast()
                }
                IpAddr::V6(v6) => {
                    subnet.prefix() >= 4
                        && !v6.is_loopback()
                        && !v6.is_multicast()
                        && !v6.is_unicast_link_local()
                }
            };
            if subnet.network() != ip {
                return Err(Error::HostBits(subnet));
            }
            if !for_hosts {
                return Err(Error::NotForHosts(subnet));
            }
            if subnet.prefix() > too_small {
                return Err(Error::TooSmall(subnet));
            }
            let twice = match subnet {
                IpNetwork::V4(v4) => subnets.v4.replace(v4).is_some(),
                IpNetwork::V6(v6) => subnets.v6.replace(v6).is_some(),
            };
            if twice {
                return Err(Error::Twice);
            }
        }
        if subnets.v4.is_none() && subnets.v6.is_none() { Err(Error::None) } else { Ok(subnets) }
    }

    /// The prefixes.
    pub fn iter(&self) -> impl Iterator<Item = IpNetwork> {
        self.v4.map(IpNetwork::V4).into_iter().chain(self.v6.map(IpNetwork::V6))
    }

    /// The hub's own addresses: the first of each prefix, with the prefix's length.
    pub fn hub(&self) -> impl Iterator<Item = IpNetwork> {
        self.iter().map(|subnet| with_host(subnet, 1))
    }

    /// Whether this is one of the hub's own addresses.
    pub fn is_hub(&self, address: IpAddr) -> bool {
        self.hub().any(|hub| hub.ip() == address)
    }

    /// Whether everyone on the LAN is meant: broadcast or multicast.
    pub fn is_for_all(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(v4) => v4.is_multicast() || v4 == Ipv4Addr::BROADCAST || Some(v4) == self.broadcast(),
            IpAddr::V6(v6) => v6.is_multicast(),
        }
    }

    /// The LAN's own address for whoever has this address: another one only for a link-local address.
    #[inline]
    pub fn resolve(&self, address: IpAddr) -> IpAddr {
        match (address, self.v6) {
            (IpAddr::V6(v6), Some(subnet)) if v6.is_unicast_link_local() => {
                link_local::holder(v6, subnet).map_or(address, IpAddr::V6)
            }
            _ => address,
        }
    }

    /// The hub's link-local address.
    pub fn hub_link_local(&self) -> Option<IpNetwork> {
        let hub = self.hub().find_map(|hub| if let IpNetwork::V6(v6) = hub { Some(v6) } else { None });
        hub.and_then(link_local::of).map(IpNetwork::V6)
    }

    /// The IPv4 subnet's broadcast address.
    pub fn broadcast(&self) -> Option<Ipv4Addr> {
        self.v4.map(|subnet| subnet.broadcast())
    }

    /// Whether the LAN has this family.
    pub fn has_family_of(&self, address: IpAddr) -> bool {
        self.iter().any(|subnet| subnet.is_ipv4() == address.is_ipv4())
    }

    /// The address with the length of the prefix it lies in, for a device.
    pub fn with_prefix(&self, address: IpAddr) -> Option<IpNetwork> {
        let subnet = self.iter().find(|subnet| subnet.contains(address))?;
        IpNetwork::new(address, subnet.prefix()).ok()
    }

    /// Whether a hub can be reached at this place by those who are not on the LAN yet.
    ///
    /// # Errors
    /// The place, and what to do, where its address is one of the LAN.
    pub fn check_place(&self, place: &Place) -> Result<(), String> {
        match place.target().host.parse().ok().and_then(|address| self.with_prefix(address)) {
            Some(_) => Err(format!(
                "{place}: that address is one of the LAN {self}, which is reached through the hub alone: say where the \
                 hub is reached from outside"
            )),
            None => Ok(()),
        }
    }

    /// Whether a member may have this address.
    pub fn check(&self, address: IpAddr) -> Result<(), Unfit> {
        let Some(subnet) = self.iter().find(|subnet| subnet.contains(address)) else {
            return Err(Unfit::Outside(self.to_string()));
        };
        if address == subnet.network() {
            return Err(Unfit::Network);
        }
        if subnet.is_ipv4() && address == subnet.broadcast() {
            return Err(Unfit::Broadcast);
        }
        if self.is_hub(address) {
            return Err(Unfit::Hub);
        }
        Ok(())
    }

    /// Addresses of one family in the order in which they are assigned to members that ask for none, without the first
    /// `skip` ones. The order is from the top down, as people choose from the bottom; in a large subnet those with a short
    /// last part come first, as they are short to type.
    pub fn automatic_from(subnet: IpNetwork, skip: u128) -> impl Iterator<Item = IpAddr> {
        let (top, last) = ends(subnet);
        let left_below = top.saturating_sub(skip);
        let above = (skip + 2).max(top + 1);
        (2..=left_below).rev().chain(above..=last).map(move |host| with_host(subnet, host).ip())
    }

    /// How many addresses come before this one in [`Subnets::automatic_from`].
    pub fn place(subnet: IpNetwork, address: IpAddr) -> u128 {
        let host = match (subnet.network(), address) {
            (IpAddr::V4(network), IpAddr::V4(v4)) => u128::from(v4.to_bits().wrapping_sub(network.to_bits())),
            (IpAddr::V6(network), IpAddr::V6(v6)) => v6.to_bits().wrapping_sub(network.to_bits()),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => 0,
        };
        let (top, _) = ends(subnet);
        if host <= top { top - host } else { host - 2 }
    }
}

/// The highest host number of an IPv6 subnet that is assigned before higher ones.
const TYPED: u128 = 0xfffe;

/// The host number from which automatic addresses go down, and the last one that a member may have.
fn ends(subnet: IpNetwork) -> (u128, u128) {
    match subnet {
        // All but the network address and the broadcast address.
        IpNetwork::V4(v4) => {
            let last = u128::from(v4.size()) - 2;
            (last, last)
        }
        IpNetwork::V6(v6) => {
            let last = v6.size() - 1;
            (last.min(TYPED), last)
        }
    }
}

/// The prefix's address number `host`, with the prefix's length.
fn with_host(subnet: IpNetwork, host: u128) -> IpNetwork {
    let ip = match subnet.network() {
        IpAddr::V4(v4) => IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() + host as u32)),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() + host)),
    };
    IpNetwork::new(ip, subnet.prefix()).expect("the prefix was valid before")
}

impl fmt::Display for Subnets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut between = "";
        for subnet in self.iter() {
            write!(f, "{between}{subnet}")?;
            between = " and ";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnets(given: &[&str]) -> Result<Subnets, Error> {
        Subnets::new(&given.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>())
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn refuses_what_is_no_lan_and_says_what_to_write() {
        for (given, hint) in [
            (&[][..], "--subnet 10.0.0.0/24"),
            (&["10.0.0.7/24"], "did you mean 10.0.0.0/24"),
            (&["fd00::7/64"], "did you mean fd00::/64"),
            (&["10.0.0.0/31"], "at most /30"),
            (&["10.0.0.4/32"], "at most /30"),
            (&["fd00::/127"], "at most /126"),
            (&["0.0.0.0/0"], "10.0.0.0/24"),
            (&["127.0.0.0/8"], "private"),
            (&["224.0.0.0/24"], "private"),
            (&["fe80::/64"], "private"),
            (&["10.0.0.0/24", "10.1.0.0/24"], "at most one IPv4"),
        ] {
            let error = subnets(given).unwrap_err().to_string();
            assert!(error.contains(hint), "{given:?}: {error}");
        }
    }

    #[test]
    fn gives_the_hub_the_first_address() {
        let both = subnets(&["10.0.0.0/24", "fd00::/64"]).unwrap();
        let hub: Vec<String> = both.hub().map(|hub| hub.to_string()).collect();
        assert_eq!(hub, ["10.0.0.1/24", "fd00::1/64"]);
        assert_eq!(both.to_string(), "10.0.0.0/24 and fd00::/64");
        assert_eq!(both.with_prefix(ip("fd00::9")).unwrap().to_string(), "fd00::9/64");
    }

    #[test]
    fn knows_which_addresses_are_for_members() {
        let lan = subnets(&["10.0.0.0/29", "fd00::/125"]).unwrap();
        assert_eq!(lan.check(ip("10.0.0.0")), Err(Unfit::Network));
        assert_eq!(lan.check(ip("10.0.0.1")), Err(Unfit::Hub));
        assert_eq!(lan.check(ip("10.0.0.7")), Err(Unfit::Broadcast));
        assert!(matches!(lan.check(ip("10.0.0.8")), Err(Unfit::Outside(_))));
        assert_eq!(lan.check(ip("fd00::7")), Ok(()));
        for subnet in lan.iter() {
            let mut automatic: Vec<IpAddr> = Subnets::automatic_from(subnet, 0).collect();
            for (place, &address) in automatic.iter().enumerate() {
                assert_eq!(Subnets::place(subnet, address), place as u128);
                assert_eq!(Subnets::automatic_from(subnet, place as u128).next(), Some(address));
            }
            assert_eq!(Subnets::automatic_from(subnet, automatic.len() as u128).next(), None);
            let fit: Vec<IpAddr> = subnet.iter().filter(|&address| lan.check(address).is_ok()).collect();
            assert_eq!(automatic.first(), fit.last(), "people begin at the other end");
            automatic.sort();
            assert_eq!(automatic, fit);
        }
        let first =
            |subnet: &str| Subnets::automatic_from(subnet.parse().unwrap(), 0).next().unwrap().to_string();
        assert_eq!([first("10.0.0.0/24"), first("fd00::/64")], ["10.0.0.254", "fd00::fffe"]);
    }

    #[test]
    fn knows_what_is_for_all() {
        let lan = subnets(&["10.0.0.0/24", "fd00::/64"]).unwrap();
        for all in ["255.255.255.255", "10.0.0.255", "224.0.0.251", "239.1.2.3", "ff02::fb"] {
            assert!(lan.is_for_all(ip(all)), "{all}");
        }
        for one in ["10.0.0.254", "10.0.1.255", "fd00::ffff"] {
            assert!(!lan.is_for_all(ip(one)), "{one}");
        }
    }
}
