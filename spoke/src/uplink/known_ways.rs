//! Which way to the hub worked in which network. Pure: the text of `ways` comes in and goes out.
//!
//! One network a line, `WAY NETWORKS`, the latest last; `#` begins a comment. What cannot be read is passed over: it is
//! only a hint where to begin.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

/// Most networks that are remembered.
const MAX_NETWORKS: usize = 64;

/// What the machine's networks are called together: those of IPv4, or of IPv6 where there are none; `None` where the
/// machine is in no network.
pub fn network_name(networks: &[IpNetwork]) -> Option<String> {
    let is_local = |ip: IpAddr| match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    let of = |is_v4: bool| {
        let family = networks.iter().filter(|network| network.is_ipv4() == is_v4 && !is_local(network.ip()));
        let mut names: Vec<String> =
            family.map(|network| format!("{}/{}", network.network(), network.prefix())).collect();
        names.sort();
        names.dedup();
        (!names.is_empty()).then(|| names.join(","))
    };
    of(true).or_else(|| of(false))
}

/// The way that worked in a network.
pub fn known<'a>(text: &'a str, network: &str) -> Option<&'a str> {
    text.lines().rev().filter_map(entry).find(|(_, name)| *name == network).map(|(way, _)| way)
}

/// The text with one more network.
pub fn with_way(text: &str, network: &str, way: &str) -> String {
    let others: Vec<&str> =
        text.lines().filter(|line| entry(line).is_none_or(|(_, name)| name != network)).collect();
    let kept = &others[others.len().saturating_sub(MAX_NETWORKS - 1)..];
    let mut lines: Vec<String> = kept.iter().map(|line| (*line).to_owned()).collect();
    lines.push(format!("{way} {network}"));
    lines.join("\n") + "\n"
}

/// The network is the last word: a way may name a proxy, too.
fn entry(line: &str) -> Option<(&str, &str)> {
    line.trim().rsplit_once(' ').filter(|_| !line.starts_with('#'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(networks: &[&str]) -> Option<String> {
        network_name(&networks.iter().map(|network| network.parse().unwrap()).collect::<Vec<_>>())
    }

    #[test]
    fn a_network_is_called_by_its_prefixes_whatever_the_own_address() {
        assert_eq!(
            name(&["192.168.1.7/24", "10.1.2.3/8", "2001:db8::7/64"]).as_deref(),
            Some("10.0.0.0/8,192.168.1.0/24")
        );
        assert_eq!(
            name(&["2001:db8::7/64", "2001:db8::8/64", "fe80::1/64"]).as_deref(),
            Some("2001:db8::/64")
        );
        assert_eq!(name(&["fe80::1/64", "169.254.3.4/16"]), None);
    }

    #[test]
    fn the_latest_way_of_a_network_is_found() {
        let text = with_way("# mine\n", "10.0.0.0/8", "hub:5678");
        let text = with_way(&text, "192.168.1.0/24", "wss://hub:443/lan through the proxy http://p:3128");
        let text = with_way(&text, "10.0.0.0/8", "hub:443");
        assert_eq!(known(&text, "10.0.0.0/8"), Some("hub:443"));
        assert_eq!(known(&text, "192.168.1.0/24"), Some("wss://hub:443/lan through the proxy http://p:3128"));
        assert_eq!(known(&text, "172.16.0.0/12"), None);
        assert_eq!(text.lines().count(), 3);
        let many = (0..1_000).fold(text, |text, i| with_way(&text, &format!("10.{i}.0.0/16"), "hub:443"));
        assert_eq!(many.lines().count(), MAX_NETWORKS);
        assert_eq!((known(&many, "10.999.0.0/16"), known(&many, "10.0.0.0/8")), (Some("hub:443"), None));
    }
}
