//! Which of the announced prefixes become routes here, and how. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use common::packet::prefix::{is_private, is_within, overlap};
use ipnetwork::IpNetwork;

/// What the person wants.
#[derive(Clone, Debug, Default)]
pub struct RoutePolicy {
    /// Networks behind this spoke.
    pub offered: Vec<IpNetwork>,
    /// Prefixes that may be taken, whatever they are, and all within them.
    pub accepted: Vec<IpNetwork>,
    /// Takes nothing that was not accepted by name.
    pub none: bool,
}

/// How a prefix is reached through the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteMode {
    /// By a route in the main table.
    Main,
    /// By rules that leave out the way to the hub itself, which lies within the prefix.
    Around,
}

/// Why a prefix is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skip {
    /// It is public, and was not accepted by name.
    Public,
    /// Routes were declined.
    Declined,
    /// It is, or is within, a network that this machine is in.
    OwnNetwork(IpNetwork),
    /// It overlaps what this spoke offers itself.
    Offered(IpNetwork),
    /// It holds the hub itself, a name server, or everything, and there is no link now.
    HubLost,
}

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Skip::Public => f.write_str("it is not private: take it with --accept-route"),
            Skip::Declined => f.write_str("routes are declined by --no-routes"),
            Skip::OwnNetwork(network) => write!(f, "this machine is in {network} itself"),
            Skip::Offered(prefix) => write!(f, "this spoke offers {prefix} itself"),
            Skip::HubLost => f.write_str("there is no link to the hub"),
        }
    }
}

/// Longest prefix, in bits, that is a way out or a half of one.
pub const WAY_OUT: u8 = 1;

/// What is known when routes are decided.
pub struct View<'a> {
    /// What the person wants.
    pub route_policy: &'a RoutePolicy,
    /// Networks that this machine is in, but for the LAN.
    pub own: &'a [IpNetwork],
    /// Outer addresses of the hub, those that are tried included.
    pub hub: &'a [IpAddr],
    /// Name servers that are asked for the hub's addresses.
    pub name_servers: &'a [IpAddr],
    /// Announced prefixes of at most [`WAY_OUT`] bits: only a hub can offer them.
    pub way_outs: Vec<IpNetwork>,
    /// Whether there is a link to it.
    pub is_linked: bool,
}

impl View<'_> {
    /// Whether the person's word for one prefix holds for another, which lies in it. That for a way out, also in halves,
    /// holds for the rest only where the hub itself offers the way out: it lets no member take from that ungranted.
    fn accepts(&self, accepted: IpNetwork, prefix: IpNetwork) -> bool {
        let is_vetted = || self.way_outs.iter().any(|&way_out| is_within(prefix, way_out));
        is_within(prefix, accepted)
            && (accepted.prefix() > WAY_OUT || prefix.prefix() <= WAY_OUT || is_vetted())
    }

    /// Whether a prefix is taken, and how.
    pub fn decide(&self, prefix: IpNetwork) -> Result<RouteMode, Skip> {
        let accepted = self.route_policy.accepted.iter().any(|&accepted| self.accepts(accepted, prefix));
        if !accepted && self.route_policy.none {
            return Err(Skip::Declined);
        }
        if !accepted && !is_private(prefix) {
            return Err(Skip::Public);
        }
        let shared = |&&offered: &&IpNetwork| prefix.prefix() > 0 && overlap(prefix, offered);
        if let Some(&offered) = self.route_policy.offered.iter().find(shared) {
            return Err(Skip::Offered(offered));
        }
        if let Some(&own) = self.own.iter().find(|&&own| is_within(prefix, own)) {
            return Err(Skip::OwnNetwork(own));
        }
        // The default route of the machine is there to stay, even if the hub is reached by the other family.
        if prefix.prefix() == 0 || self.hub.iter().any(|&hub| prefix.contains(hub)) {
            return if self.is_linked { Ok(RouteMode::Around) } else { Err(Skip::HubLost) };
        }
        // Nobody carries a question through the device now, whose answer is needed for a link.
        if !self.is_linked && self.name_servers.iter().any(|&server| self.takes_away(prefix, server)) {
            return Err(Skip::HubLost);
        }
        Ok(RouteMode::Main)
    }

    /// Whether a route to this prefix takes an address: no network of the machine's own is nearer to it.
    fn takes_away(&self, prefix: IpNetwork, address: IpAddr) -> bool {
        let is_nearer = |own: &IpNetwork| own.contains(address) && own.prefix() >= prefix.prefix();
        prefix.contains(address) && !self.own.iter().any(is_nearer)
    }

    /// What has to be installed for these prefixes.
    pub fn plan(&self, told: &BTreeSet<IpNetwork>) -> BTreeMap<IpNetwork, RouteMode> {
        told.iter().filter_map(|&prefix| Some((prefix, self.decide(prefix).ok()?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNetwork {
        text.parse().unwrap()
    }

    #[test]
    fn takes_private_prefixes_and_public_ones_only_by_name() {
        let way_outs = vec![net("0.0.0.0/0")];
        let own = [net("192.0.2.11/24"), net("192.168.7.20/24")];
        let hub = ["203.0.113.5".parse().unwrap(), "10.99.0.1".parse().unwrap()];
        let table = [
            ("192.168.5.0/24", "", false, Ok(RouteMode::Main)),
            ("fd12::/48", "", false, Ok(RouteMode::Main)),
            ("198.51.100.0/24", "", false, Err(Skip::Public)),
            ("198.51.100.0/24", "198.51.0.0/16", false, Ok(RouteMode::Main)),
            ("198.51.0.0/16", "198.51.100.0/24", false, Err(Skip::Public)),
            ("192.168.5.0/24", "", true, Err(Skip::Declined)),
            ("192.168.5.0/24", "192.168.5.0/24", true, Ok(RouteMode::Main)),
            ("0.0.0.0/0", "", false, Err(Skip::Public)),
            ("0.0.0.0/0", "0.0.0.0/0", false, Ok(RouteMode::Around)),
            ("203.0.113.0/24", "0.0.0.0/0", false, Ok(RouteMode::Around)),
            ("203.0.113.0/24", "128.0.0.0/1", false, Ok(RouteMode::Around)),
            ("::/0", "::/0", false, Ok(RouteMode::Around)),
            ("10.99.0.0/16", "", false, Ok(RouteMode::Around)),
            ("192.168.7.0/24", "", false, Err(Skip::OwnNetwork(own[1]))),
            ("192.168.7.128/25", "", false, Err(Skip::OwnNetwork(own[1]))),
            ("192.168.0.0/16", "", false, Ok(RouteMode::Main)),
            ("172.20.1.0/24", "", false, Err(Skip::Offered(net("172.20.0.0/16")))),
            ("172.16.0.0/12", "", false, Err(Skip::Offered(net("172.20.0.0/16")))),
        ];
        for (prefix, accepted, none, expected) in table {
            let accepted = accepted.parse().into_iter().collect();
            let route_policy = RoutePolicy { offered: vec![net("172.20.0.0/16")], accepted, none };
            let view = View {
                route_policy: &route_policy,
                own: &own,
                hub: &hub,
                name_servers: &[],
                way_outs: way_outs.clone(),
                is_linked: true,
            };
            assert_eq!(view.decide(net(prefix)), expected, "{prefix}");
        }
    }

    #[test]
    fn a_word_for_a_way_out_that_the_hub_does_not_offer_is_none_for_what_members_offer() {
        for (accepted, expected) in [
            ("0.0.0.0/0", Err(Skip::Public)),
            ("128.0.0.0/1", Err(Skip::Public)),
            ("203.0.0.0/16", Ok(RouteMode::Main)),
        ] {
            let route_policy = RoutePolicy { accepted: vec![net(accepted)], ..RoutePolicy::default() };
            let view = View {
                route_policy: &route_policy,
                own: &[],
                hub: &[],
                name_servers: &[],
                // That of the other family.
                way_outs: vec![net("::/0")],
                is_linked: true,
            };
            assert_eq!(view.decide(net("203.0.113.0/24")), expected, "{accepted}");
        }
    }

    #[test]
    fn what_holds_the_hub_is_withdrawn_while_there_is_no_link() {
        let route_policy = RoutePolicy { accepted: vec![net("0.0.0.0/0")], ..RoutePolicy::default() };
        let hub = ["203.0.113.5".parse().unwrap()];
        let told = BTreeSet::from([net("0.0.0.0/0"), net("192.168.5.0/24")]);
        let view = |is_linked| View {
            route_policy: &route_policy,
            own: &[],
            hub: &hub,
            name_servers: &[],
            way_outs: vec![],
            is_linked,
        };
        assert_eq!(view(true).plan(&told).len(), 2);
        assert_eq!(view(false).plan(&told), BTreeMap::from([(net("192.168.5.0/24"), RouteMode::Main)]));
    }

    #[test]
    fn what_holds_a_name_server_is_withdrawn_while_there_is_no_link() {
        let route_policy = RoutePolicy::default();
        let own = [net("192.168.1.20/24"), net("10.9.0.0/16")];
        let name_servers = ["172.20.5.53", "192.168.1.1", "fd12::53"].map(|text| text.parse().unwrap());
        let told: BTreeSet<IpNetwork> =
            ["172.20.5.0/24", "172.16.0.0/12", "172.20.6.0/24", "192.168.0.0/16", "fd12::/48", "fd13::/48"]
                .map(net)
                .into();
        let view = |is_linked| View {
            route_policy: &route_policy,
            own: &own,
            hub: &[],
            name_servers: &name_servers,
            way_outs: vec![],
            is_linked,
        };
        assert_eq!(view(true).plan(&told).len(), told.len());
        let kept: Vec<IpNetwork> = view(false).plan(&told).into_keys().collect();
        // The second name server is in a network of the machine's own.
        assert_eq!(kept, ["172.20.6.0/24", "192.168.0.0/16", "fd13::/48"].map(net));
    }
}
