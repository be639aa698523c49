//! The policy rules by which the hub's own kernel reaches what lies behind members, and by which nobody else's packets
//! get there. Pure.
//!
//! The routes of members are in a table of the device's own. Of each family, the rules are asked in this order:
//!
//! ```text
//! 32762  TCP from each of the hub's ports: on with 32766
//!        from an address of the machine outside of the LAN: on with 32766
//! 32763  for each L of [`V4_LENGTHS`] or [`V6_LENGTHS`]: the main table from L on, then our table from L on
//! 32766  the kernel's own rule for the main table
//! ```
//!
//! So answers of the machine leave the way they always did, whatever members offer: above all those to spokes, by the
//! port alone, as the first one must come through before anything is known about a spoke. By the addresses a strict
//! `rp_filter` is content, too.
//!
//! A route of the machine's own ranks before one of a member, unless it is far wider, such as its default route.

#![warn(clippy::disallowed_methods, reason = "pure, though the module above it is not")]

use std::collections::BTreeSet;

use common::linux::netlink::{Family, MAIN_TABLE, Rule, RuleAction, Service};
use ipnetwork::IpNetwork;

/// What is asked first; spokes on the same machine have theirs behind, from 32764 on.
const DIRECT: u32 = 32_762;
/// The routes of members.
const MEMBERS: u32 = 32_763;
/// The kernel's own rule for the main table.
const MAIN_RULE: u32 = 32_766;
/// A route of the machine yields to those of members that are longer by a class: so many bits and more.
const V4_LENGTHS: [u8; 4] = [25, 17, 9, 1];
const V6_LENGTHS: [u8; 4] = [65, 49, 33, 1];
/// Most addresses of the machine that get rules of their own: each packet may be compared with all.
const MAX_ADDRESSES: usize = 256;

/// The rules of one family in the order in which the kernel lists them, marked as `owner`'s. `tcp_ports`: the hub's;
/// `others`: addresses of the machine's other devices.
pub(super) fn rules(
    family: Family,
    owner: u32,
    table: u32,
    tcp_ports: &BTreeSet<u16>,
    others: &[IpNetwork],
) -> Vec<Rule> {
    let action = RuleAction::Goto(MAIN_RULE);
    let base =
        Rule { family, priority: DIRECT, owner, from: None, to: None, by: None, service: None, action };
    let services = tcp_ports.iter().map(|&port| Service { protocol: 6, first: port, last: port });
    let addresses: BTreeSet<IpNetwork> = others
        .iter()
        .map(|other| IpNetwork::from(other.ip()))
        .filter(|address| Family::of(address.ip()) == family && !address.ip().is_loopback())
        .collect();
    let lengths = match family {
        Family::V4 => V4_LENGTHS,
        Family::V6 => V6_LENGTHS,
    };
    let lookup = |table, length: u8| {
        let action = RuleAction::Lookup { table, suppress: length.checked_sub(1) };
        Rule { priority: MEMBERS, action, ..base }
    };
    let answers = services.map(|service| Rule { service: Some(service), ..base });
    let own = addresses.into_iter().take(MAX_ADDRESSES).map(|from| Rule { from: Some(from), ..base });
    let lookups = lengths.into_iter().flat_map(|length| [lookup(MAIN_TABLE, length), lookup(table, length)]);
    answers.chain(own).chain(lookups).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_the_machine_come_before_the_routes_of_members() {
        let others = ["192.0.2.1/24", "2001:db8::1/64", "127.0.0.1/8"].map(|text| text.parse().unwrap());
        let text: Vec<String> = rules(Family::V4, 7, 77, &[443, 5678].into(), &others)
            .into_iter()
            .map(|rule| {
                let from = rule.from.map_or("all".to_owned(), |from| from.to_string());
                let port = rule.service.map_or(String::new(), |service| format!(" port {}", service.first));
                let action = match rule.action {
                    RuleAction::Lookup { table, suppress } => format!("table {table} beyond {suppress:?}"),
                    RuleAction::Goto(to) => format!("goto {to}"),
                    RuleAction::Unreachable => "unreachable".to_owned(),
                };
                format!("{}: from {from}{port} {action}", rule.priority)
            })
            .collect();
        assert_eq!(
            text,
            [
                "32762: from all port 443 goto 32766",
                "32762: from all port 5678 goto 32766",
                "32762: from 192.0.2.1/32 goto 32766",
                "32763: from all table 254 beyond Some(24)",
                "32763: from all table 77 beyond Some(24)",
                "32763: from all table 254 beyond Some(16)",
                "32763: from all table 77 beyond Some(16)",
                "32763: from all table 254 beyond Some(8)",
                "32763: from all table 77 beyond Some(8)",
                "32763: from all table 254 beyond Some(0)",
                "32763: from all table 77 beyond Some(0)",
            ]
        );
    }

    #[test]
    fn a_machine_with_very_many_addresses_gets_a_bounded_number_of_rules() {
        let others: Vec<IpNetwork> =
            (0..10_000_u32).map(|i| std::net::IpAddr::from((0x0a00_0000 + i).to_be_bytes()).into()).collect();
        assert_eq!(rules(Family::V4, 7, 77, &[5678].into(), &others).len(), 1 + MAX_ADDRESSES + 8);
        assert_eq!(rules(Family::V6, 7, 77, &[5678].into(), &others).len(), 1 + 8);
    }
}
