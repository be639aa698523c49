//! The policy rules that lead traffic around the hub's own connection. Pure.
//!
//! A prefix that holds the hub itself has its route in a table of the device's own. The rules are asked in this order,
//! for each prefix length `L` among those routes, the longest first:
//!
//! ```text
//! 32764  from an own LAN address into the LAN: on with 32766, then everything: the table of `direct`
//!        from an own LAN address: main beyond L, then our table from L on
//! 32765  to a hub address: on with 32766
//!        to a hub address of another spoke on this machine: the main table
//!        from an address of the machine: on with 32766
//!        from a network of the machine, by a service's port: on with 32766
//!        everything: the main table beyond L, then our table from L on
//! 32766  the kernel's own rule for the main table
//! ```
//!
//! The first line is there only where single addresses of the LAN's subnet are reached around it.
//!
//! So the main table stays as it is, whatever others have in rules and tables of their own is asked first, and the
//! tunnel never runs through itself: what goes to the hub and finds no way in the main table goes nowhere. A VPN that takes
//! everything has its rules at the same priorities, and ahead of ours if it was there first: then it has the tunnel, too.
//!
//! Of several spokes the rules of one come before those of another; each leads the others' tunnels around itself. It
//! knows them by their rules, whose action tells a spoke's own hub from another's.
//!
//! Answers leave by the door that the question came in by: packets from an address of the machine outside of the LAN
//! pass our table over. A container's published port is known by its source port when the answer is routed, since
//! its address is translated later: ports outside of the ephemeral range (`net.ipv4.ip_local_port_range`, by default
//! 32768 to 60999) are taken for a service's. What a container begins itself comes from a port within, and goes through
//! our table; for a service there, someone has to add a rule, which is asked first.

use std::collections::BTreeSet;
use std::net::IpAddr;

use common::linux::netlink::{Family, MAIN_TABLE, Rule, RuleAction, Service};
use ipnetwork::IpNetwork;

/// What must come before all rules of [`LATE`], those of other spokes included.
pub(super) const EARLY: u32 = 32_764;
/// The last before the kernel's own rules. A rule that someone adds without a priority gets a lower one.
pub(super) const LATE: u32 = 32_765;
/// The kernel's own rule for the main table.
const MAIN_RULE: u32 = 32_766;

/// Ports of services: those that are not ephemeral. The kernel takes no range that ends with 65535.
const SERVICE_PORTS: [(u16, u16); 2] = [(1, 32_767), (61_000, 65_534)];
/// Most addresses, and networks, of the machine that get rules of their own; each packet may be compared with all.
const MAX_ADDRESSES: usize = 256;
const MAX_NETWORKS: usize = 64;

/// What the rules of one family rest on.
#[derive(Debug)]
pub(super) struct Policy<'a> {
    pub(super) family: Family,
    /// The table of the device.
    pub(super) table: u32,
    /// The prefixes whose routes are in it; of both families.
    pub(super) around: &'a BTreeSet<IpNetwork>,
    /// Outer addresses of the hub.
    pub(super) hub: &'a [IpAddr],
    /// Those of other spokes' hubs; of both families.
    pub(super) other_hubs: &'a BTreeSet<IpNetwork>,
    /// Addresses of the device, with their prefixes.
    pub(super) lan: &'a [IpNetwork],
    /// Addresses of the machine's other devices, with their prefixes.
    pub(super) others: &'a [IpNetwork],
    /// The table with routes around the device, where it has any of this family.
    pub(super) direct: Option<u32>,
}

impl Policy<'_> {
    /// The rules in the order in which they have to be asked, marked as `owner`'s.
    pub(super) fn rules(&self, owner: u32) -> Vec<Rule> {
        let is_ours = |prefix: &&IpNetwork| Family::of(prefix.ip()) == self.family;
        let around: Vec<IpNetwork> = self.around.iter().filter(is_ours).copied().collect();
        let action = RuleAction::Goto(MAIN_RULE);
        let base = Rule {
            family: self.family,
            priority: LATE,
            owner,
            from: None,
            to: None,
            by: None,
            service: None,
            action,
        };
        let mut rules = self.direct_rules(base);
        if around.is_empty() {
            return rules;
        }
        let lengths: BTreeSet<u8> = around.iter().map(|prefix| prefix.prefix()).collect();
        let held = |address: &IpAddr| around.iter().any(|prefix| prefix.contains(*address));
        let hub: BTreeSet<IpNetwork> =
            self.hub.iter().filter(|address| held(address)).map(|&address| address.into()).collect();

        for &lan in self.lan.iter().filter(is_ours).filter(|lan| !is_link_local(lan.ip())) {
            let from = Some(IpNetwork::from(lan.ip()));
            self.push_lookups(&lengths, Rule { priority: EARLY, from, ..base }, &mut rules);
        }
        rules.extend(hub.iter().map(|&to| Rule { to: Some(to), ..base }));
        let other_hubs = self.other_hubs.iter().filter(is_ours).filter(|to| !hub.contains(to)).copied();
        let main = RuleAction::Lookup { table: MAIN_TABLE, suppress: None };
        rules.extend(other_hubs.take(MAX_ADDRESSES).map(|to| Rule { to: Some(to), action: main, ..base }));
        let others: BTreeSet<IpNetwork> =
            self.others.iter().filter(is_ours).filter(|other| is_reachable(other.ip())).copied().collect();
        let addresses: BTreeSet<IpNetwork> = others.iter().map(|other| other.ip().into()).collect();
        rules.extend(addresses.into_iter().take(MAX_ADDRESSES).map(|from| Rule { from: Some(from), ..base }));
        let networks: BTreeSet<IpNetwork> = others.iter().filter_map(|&other| network(other)).collect();
        for from in networks.into_iter().take(MAX_NETWORKS).map(Some) {
            for (first, last) in SERVICE_PORTS {
                let services = [6, 17].map(|protocol| Some(Service { protocol, first, last }));
                rules.extend(services.map(|service| Rule { from, service, ..base }));
            }
        }
        self.push_lookups(&lengths, base, &mut rules);
        rules
    }

    /// What belongs to connections of the LAN stays there.
    fn direct_rules(&self, base: Rule) -> Vec<Rule> {
        let Some(table) = self.direct else { return Vec::new() };
        let lan =
            self.lan.iter().filter(|lan| Family::of(lan.ip()) == self.family && !is_link_local(lan.ip()));
        let stays = lan.filter_map(|&lan| {
            Some(Rule { priority: EARLY, from: Some(lan.ip().into()), to: Some(network(lan)?), ..base })
        });
        let action = RuleAction::Lookup { table, suppress: None };
        stays.chain([Rule { priority: EARLY, action, ..base }]).collect()
    }

    /// For each length: routes of the main table that are longer win, then come those of our table that are not
    /// shorter.
    fn push_lookups(&self, lengths: &BTreeSet<u8>, base: Rule, rules: &mut Vec<Rule>) {
        for &length in lengths.iter().rev() {
            let lookup = |table, suppress| Rule { action: RuleAction::Lookup { table, suppress }, ..base };
            rules.push(lookup(MAIN_TABLE, Some(length)));
            rules.push(lookup(self.table, length.checked_sub(1)));
        }
    }
}

/// The hub address that the rule of another spoke leads around that one's own table.
pub(super) fn hub_of(rule: &Rule) -> Option<IpNetwork> {
    let is_hubs = rule.priority == LATE
        && rule.action == RuleAction::Goto(MAIN_RULE)
        && rule.from.is_none()
        && rule.service.is_none();
    rule.to.filter(|_| is_hubs)
}

fn is_reachable(address: IpAddr) -> bool {
    !address.is_loopback() && !is_link_local(address)
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

/// The network of an address; `None` where that is the address alone.
fn network(address: IpNetwork) -> Option<IpNetwork> {
    let whole = IpNetwork::from(address.ip()).prefix();
    IpNetwork::new(address.network(), address.prefix()).ok().filter(|network| network.prefix() < whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNetwork {
        text.parse().unwrap()
    }

    /// A rule as `ip rule` shows it, about.
    fn rule_text(rule: Rule) -> String {
        let from = rule.from.map_or("all".to_owned(), |from| from.to_string());
        let to = rule.to.map_or(String::new(), |to| format!(" to {to}"));
        let service = rule.service.map_or(String::new(), |service| format!(" protocol {}", service.protocol));
        let action = match rule.action {
            RuleAction::Lookup { table, suppress } => format!("table {table} beyond {suppress:?}"),
            RuleAction::Goto(to) => format!("goto {to}"),
            RuleAction::Unreachable => "unreachable".to_owned(),
        };
        format!("{}: from {from}{to}{service} {action}", rule.priority)
    }

    /// IPv4 around these prefixes, and nothing else.
    fn bare(around: &BTreeSet<IpNetwork>) -> Policy<'_> {
        static NO_HUBS: BTreeSet<IpNetwork> = BTreeSet::new();
        Policy {
            family: Family::V4,
            table: 77,
            around,
            hub: &[],
            other_hubs: &NO_HUBS,
            lan: &[],
            others: &[],
            direct: None,
        }
    }

    #[test]
    fn rules_are_asked_from_the_narrowest_to_the_widest() {
        let around = BTreeSet::from([net("0.0.0.0/0"), net("203.0.0.0/16"), net("::/0")]);
        let (lan, others) =
            ([net("10.0.0.2/24"), net("fe80::2/64")], [net("192.168.1.20/24"), net("127.0.0.1/8")]);
        let hub = ["203.0.113.5".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        let other_hubs = BTreeSet::from([net("203.0.113.5"), net("203.0.113.77"), net("2001:db8::7")]);
        let policy =
            Policy { hub: &hub, other_hubs: &other_hubs, lan: &lan, others: &others, ..bare(&around) };
        let text =
            |policy: &Policy<'_>| -> Vec<String> { policy.rules(7).into_iter().map(rule_text).collect() };
        let with_direct = Policy { direct: Some(78), ..policy };
        let without_around = Policy { around: &BTreeSet::new(), ..with_direct };
        let direct =
            ["32764: from 10.0.0.2/32 to 10.0.0.0/24 goto 32766", "32764: from all table 78 beyond None"];
        assert_eq!(text(&without_around), direct);
        assert_eq!(text(&with_direct)[..2], direct);
        assert_eq!(text(&with_direct)[2..], text(&policy));
        assert_eq!(
            text(&policy),
            [
                "32764: from 10.0.0.2/32 table 254 beyond Some(16)",
                "32764: from 10.0.0.2/32 table 77 beyond Some(15)",
                "32764: from 10.0.0.2/32 table 254 beyond Some(0)",
                "32764: from 10.0.0.2/32 table 77 beyond None",
                "32765: from all to 203.0.113.5/32 goto 32766",
                "32765: from all to 203.0.113.77/32 table 254 beyond None",
                "32765: from 192.168.1.20/32 goto 32766",
                "32765: from 192.168.1.0/24 protocol 6 goto 32766",
                "32765: from 192.168.1.0/24 protocol 17 goto 32766",
                "32765: from 192.168.1.0/24 protocol 6 goto 32766",
                "32765: from 192.168.1.0/24 protocol 17 goto 32766",
                "32765: from all table 254 beyond Some(16)",
                "32765: from all table 77 beyond Some(15)",
                "32765: from all table 254 beyond Some(0)",
                "32765: from all table 77 beyond None",
            ]
        );
    }

    #[test]
    fn a_spokes_own_hub_is_known_by_its_rule_and_another_spokes_is_not_handed_on() {
        let (around, other_hubs) =
            (BTreeSet::from([net("0.0.0.0/0")]), BTreeSet::from([net("203.0.113.77")]));
        let hub = ["203.0.113.5".parse().unwrap()];
        let others = [net("192.168.1.20/24")];
        let (lan, direct) = ([net("10.0.0.2/24")], Some(78));
        let policy = Policy {
            hub: &hub,
            other_hubs: &other_hubs,
            lan: &lan,
            others: &others,
            direct,
            ..bare(&around)
        };
        let found: Vec<IpNetwork> = policy.rules(7).iter().filter_map(hub_of).collect();
        assert_eq!(found, [net("203.0.113.5")]);
    }

    #[test]
    fn there_are_no_rules_without_a_prefix_to_go_around() {
        let around = BTreeSet::from([net("0.0.0.0/0")]);
        assert_eq!(Policy { family: Family::V6, ..bare(&around) }.rules(7), []);
    }

    #[test]
    fn a_machine_in_very_many_networks_gets_a_bounded_number_of_rules() {
        let others: Vec<IpNetwork> = (0..10_000_u32)
            .map(|i| IpNetwork::new(IpAddr::from((0x0a00_0000 + i * 256 + 1).to_be_bytes()), 24).unwrap())
            .collect();
        let around = BTreeSet::from([net("0.0.0.0/0")]);
        let policy = Policy { others: &others, ..bare(&around) };
        assert_eq!(policy.rules(7).len(), MAX_ADDRESSES + 4 * MAX_NETWORKS + 2);
    }
}
