//! Relations between prefixes. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

/// Whether two prefixes share an address.
pub fn overlap(a: IpNetwork, b: IpNetwork) -> bool {
    a.contains(b.network()) || b.contains(a.network())
}

/// Whether all of `inner` lies in `outer`.
pub fn is_within(inner: IpNetwork, outer: IpNetwork) -> bool {
    outer.prefix() <= inner.prefix() && outer.contains(inner.network())
}

/// Whether all of a prefix is private or shared address space (RFC 1918, RFC 6598, RFC 4193).
pub fn is_private(prefix: IpNetwork) -> bool {
    const V4: [(Ipv4Addr, u8); 4] = [
        (Ipv4Addr::new(10, 0, 0, 0), 8),
        (Ipv4Addr::new(172, 16, 0, 0), 12),
        (Ipv4Addr::new(192, 168, 0, 0), 16),
        (Ipv4Addr::new(100, 64, 0, 0), 10),
    ];
    const V6: (Ipv6Addr, u8) = (Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7);
    let is_in = |network: Result<IpNetwork, _>| network.is_ok_and(|outer| is_within(prefix, outer));
    if prefix.is_ipv4() {
        V4.into_iter().any(|(address, length)| is_in(IpNetwork::new(address.into(), length)))
    } else {
        is_in(IpNetwork::new(V6.0.into(), V6.1))
    }
}

/// The bits of an address, those of IPv4 as the lowest 32.
pub fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// Which part of the internet an address is counted for: an IPv4 address alone, or an IPv6 /64, all of which one machine
/// can have.
pub fn source_network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() >> 64 << 64).into()),
        v4 => v4,
    }
}

/// The first host of a prefix: on a LAN the hub.
pub fn first_host(lan: IpNetwork) -> IpAddr {
    match lan.network() {
        IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits().saturating_add(1)).into(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits().saturating_add(1)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNetwork {
        text.parse().unwrap()
    }

    #[test]
    fn private_is_what_lies_in_private_space_as_a_whole() {
        for private in
            ["10.0.0.0/8", "10.1.2.3/32", "172.31.0.0/16", "192.168.5.0/24", "100.64.0.0/10", "fd12::/16"]
        {
            assert!(is_private(net(private)), "{private}");
        }
        for public in
            ["0.0.0.0/0", "8.0.0.0/6", "172.32.0.0/16", "100.128.0.0/10", "::/0", "fe00::/8", "2001:db8::/32"]
        {
            assert!(!is_private(net(public)), "{public}");
        }
    }

    #[test]
    fn families_share_nothing() {
        assert!(
            overlap(net("10.0.0.0/8"), net("10.9.0.0/16")) && overlap(net("10.9.0.0/16"), net("10.0.0.0/8"))
        );
        assert!(!overlap(net("0.0.0.0/0"), net("::/0")));
        assert!(
            is_within(net("10.9.0.0/16"), net("10.0.0.0/8"))
                && !is_within(net("10.0.0.0/8"), net("10.9.0.0/16"))
        );
        assert!(!is_within(net("::1/128"), net("0.0.0.0/0")));
    }
}
