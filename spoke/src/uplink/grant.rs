//! Checks the hub's configuration before it is applied to the device. Pure.
//!
//! The subnet of an address becomes a route of this machine: a wide or public subnet would attract traffic that is not
//! the LAN's, whatever the route policy says.

use std::fmt;
use std::net::IpAddr;

use common::packet::prefix::{is_private, is_within};
use common::packet::{MAX_MTU, MIN_MTU, MIN_MTU_V6};
use common::wire::frame::Welcome;
use ipnetwork::IpNetwork;

/// Why a configuration is rejected. Its text says what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RejectedConfig {
    /// No address, or two of one family.
    Addresses,
    /// An address that no host on a LAN has.
    NotForHosts(IpNetwork),
    /// The subnet is public, and the person did not name it.
    Public(IpNetwork),
    /// The subnet holds the hub's outer address.
    HoldsHub(IpNetwork, IpAddr),
    /// An MTU that no device can have.
    Mtu(u32),
}

impl fmt::Display for RejectedConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RejectedConfig::Addresses => f.write_str("it gives no address, or several of one family"),
            RejectedConfig::NotForHosts(address) => {
                write!(f, "it gives {address}, which no host on a LAN can have")
            }
            RejectedConfig::Public(address) => write!(
                f,
                "its LAN {} is not private: if that is meant, run with --accept-route {0}",
                subnet(*address)
            ),
            RejectedConfig::HoldsHub(address, hub) => write!(
                f,
                "its LAN {} holds {hub}, the address of the hub itself: start the hub with another --subnet",
                subnet(*address)
            ),
            RejectedConfig::Mtu(mtu) => {
                write!(f, "it wants packets of {mtu} bytes, which a device cannot have")
            }
        }
    }
}

/// Looks at a grant. `typed`: the addresses that the person asked for; `accepted`: prefixes that the person accepts
/// by name; `hub`: the hub's outer address.
pub fn check(
    welcome: &Welcome,
    typed: &[IpAddr],
    accepted: &[IpNetwork],
    hub: IpAddr,
) -> Result<(), RejectedConfig> {
    let addresses = &welcome.addresses;
    let of = |is_ipv4| addresses.iter().filter(|address| address.is_ipv4() == is_ipv4).count();
    if addresses.is_empty() || of(true) > 1 || of(false) > 1 {
        return Err(RejectedConfig::Addresses);
    }
    let least = if of(false) > 0 { MIN_MTU_V6 } else { MIN_MTU };
    if !(least..=MAX_MTU).contains(&welcome.mtu) {
        return Err(RejectedConfig::Mtu(welcome.mtu));
    }
    for &address in addresses {
        if !is_for_hosts(address) {
            return Err(RejectedConfig::NotForHosts(address));
        }
        // Asking for an address names its LAN, but not a prefix as wide as half of the internet.
        let shortest = if address.is_ipv4() { 8 } else { 32 };
        let is_named = accepted.iter().any(|&accepted| is_within(subnet(address), accepted))
            || address.prefix() >= shortest && typed.iter().any(|&typed| address.contains(typed));
        if !is_named && !is_private(subnet(address)) {
            return Err(RejectedConfig::Public(address));
        }
        if address.contains(hub) {
            return Err(RejectedConfig::HoldsHub(address, hub));
        }
    }
    Ok(())
}

fn subnet(address: IpNetwork) -> IpNetwork {
    IpNetwork::new(address.network(), address.prefix()).unwrap_or(address)
}

fn is_for_hosts(address: IpNetwork) -> bool {
    let subnet = subnet(address);
    match (address, subnet.ip()) {
        (IpNetwork::V4(v4), IpAddr::V4(first)) => {
            let is_usual = !first.is_loopback() && !first.is_multicast() && first.octets()[0] != 0;
            (4..=30).contains(&v4.prefix()) && is_usual && v4.ip() != first && v4.ip() != v4.broadcast()
        }
        (IpNetwork::V6(v6), IpAddr::V6(first)) => {
            let is_usual = !first.is_loopback() && !first.is_multicast() && !first.is_unicast_link_local();
            (4..=126).contains(&v6.prefix()) && is_usual && v6.ip() != first
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use common::wire::name::Name;

    use super::*;

    fn grant(addresses: &[&str], mtu: u32) -> Welcome {
        let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
        Welcome { addresses, ..Welcome::new(Name::nearest("a"), mtu) }
    }

    fn told(addresses: &[&str], typed: &[&str], accepted: &[&str]) -> String {
        let typed: Vec<IpAddr> = typed.iter().map(|text| text.parse().unwrap()).collect();
        let accepted: Vec<IpNetwork> = accepted.iter().map(|text| text.parse().unwrap()).collect();
        match check(&grant(addresses, 1500), &typed, &accepted, "10.9.9.9".parse().unwrap()) {
            Ok(()) => "fine".to_owned(),
            Err(unfit) => unfit.to_string(),
        }
    }

    #[test]
    fn takes_what_a_lan_is() {
        for addresses in [
            &["10.0.0.2/24"][..],
            &["10.0.0.2/24", "fd00::2/64"],
            &["100.64.0.2/10"],
            &["192.168.0.2/30"],
            &["fd00::2/126"],
        ] {
            assert_eq!(told(addresses, &[], &[]), "fine", "{addresses:?}");
        }
        assert_eq!(told(&["5.6.7.8/24"], &["5.6.7.8"], &[]), "fine", "the person typed it");
        assert_eq!(told(&["5.6.7.8/24"], &[], &["5.0.0.0/8"]), "fine", "the person accepts it");
    }

    #[test]
    fn takes_nothing_that_reaches_for_more() {
        for (addresses, why) in [
            (&[][..], "no address"),
            (&["10.0.0.2/24", "10.0.1.2/24"], "several of one family"),
            (&["10.0.0.2/0"], "no host"),
            (&["10.0.0.2/32"], "no host"),
            (&["10.0.0.2/31"], "no host"),
            (&["10.0.0.0/24"], "no host"),
            (&["10.0.0.255/24"], "no host"),
            (&["127.0.0.2/8"], "no host"),
            (&["0.0.0.5/8"], "no host"),
            (&["224.0.0.5/8"], "no host"),
            (&["fe80::2/64"], "no host"),
            (&["ff02::2/64"], "no host"),
            (&["::2/0"], "no host"),
            (&["8.8.8.7/24"], "--accept-route 8.8.8.0/24"),
            (&["10.0.0.2/7"], "--accept-route 10.0.0.0/7"),
            (&["2001:4860::2/64"], "not private"),
            (&["10.9.0.2/16"], "another --subnet"),
        ] {
            let told = told(addresses, &["10.0.0.2"], &[]);
            assert!(told.contains(why), "{addresses:?}: {told}");
        }
        assert!(told(&["64.0.0.2/4"], &["64.0.0.2"], &[]).contains("not private"), "though it was typed");
    }

    #[test]
    fn takes_only_an_mtu_that_a_device_can_have() {
        for (addresses, mtu, fits) in [
            ("10.0.0.2/24", 0, false),
            ("10.0.0.2/24", MIN_MTU - 1, false),
            ("10.0.0.2/24", MIN_MTU, true),
            ("10.0.0.2/24", MAX_MTU, true),
            ("10.0.0.2/24", u32::MAX, false),
            ("fd00::2/64", MIN_MTU_V6 - 1, false),
            ("fd00::2/64", MIN_MTU_V6, true),
        ] {
            let checked = check(&grant(&[addresses], mtu), &[], &[], "192.0.2.1".parse().unwrap());
            assert_eq!(checked.is_ok(), fits, "{addresses} {mtu}");
        }
    }
}
