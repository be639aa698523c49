//! Policy rules, as ip-rule(8) has them, and their netlink messages. Pure.

#![warn(clippy::disallowed_methods, reason = "pure, though the module above it is not")]

use std::fmt;

use ipnetwork::IpNetwork;

use super::codec::{ACK, CREATE, DUMP, address, octets, text};
use super::message::{Message, Request, attributes, number_u16, number_u32};
use super::objects::{Family, OUR_PROTOCOL};

/// linux/fib_rules.h.
const FRA_DST: u16 = 1;
const FRA_SRC: u16 = 2;
const FRA_IIFNAME: u16 = 3;
const FRA_GOTO: u16 = 4;
const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FRA_SUPPRESS_PREFIXLEN: u16 = 14;
const FRA_TABLE: u16 = 15;
const FRA_FWMASK: u16 = 16;
const FRA_PROTOCOL: u16 = 21;
const FRA_IP_PROTO: u16 = 22;
const FRA_SPORT_RANGE: u16 = 23;
const FR_ACT_TO_TBL: u8 = 1;
const FR_ACT_GOTO: u8 = 2;
const FR_ACT_UNREACHABLE: u8 = 7;
/// Letters of a device's name, at most: `IFNAMSIZ` less the zero behind them.
const MAX_NAME: usize = libc::IFNAMSIZ - 1;

/// A policy rule: which packets are looked up in another table than they would be.
///
/// It carries a protocol number of ours, and its owner as a firewall mark with the mask 0, which every packet
/// matches: so rules of one owner are told from those of another that are the same otherwise, and each removes its
/// own only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// The packets it applies to.
    pub family: Family,
    /// Lower is asked first, and of the same priority the one that was added first; the kernel's own `main` rule
    /// is 32766.
    pub priority: u32,
    /// Whose it is; never 0.
    pub owner: u32,
    /// Only packets from this prefix.
    pub from: Option<IpNetwork>,
    /// Only packets to this prefix.
    pub to: Option<IpNetwork>,
    /// Only packets that come in by this device; by `lo`: those that this machine sends itself.
    pub by: Option<DeviceName>,
    /// Only packets sent from these ports.
    pub service: Option<Service>,
    /// What is done with them.
    pub action: RuleAction,
}

/// The name of a network device, which need not be there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeviceName([u8; MAX_NAME]);

impl DeviceName {
    /// `None` where it is empty or too long.
    pub fn new(name: &str) -> Option<DeviceName> {
        let mut bytes = [0; MAX_NAME];
        bytes.get_mut(..name.len())?.copy_from_slice(name.as_bytes());
        (!name.is_empty()).then_some(DeviceName(bytes))
    }

    fn letters(&self) -> &[u8] {
        self.0.split(|&byte| byte == 0).next().unwrap_or_default()
    }
}

impl fmt::Debug for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(self.letters()))
    }
}

/// Packets of one protocol from a range of source ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Service {
    /// `IPPROTO_*`, one that has ports.
    pub protocol: u8,
    /// The first port; not 0.
    pub first: u16,
    /// The last port.
    pub last: u16,
}

/// What a rule does with its packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RuleAction {
    /// Asks a table; goes on with the next rule where that has no route.
    Lookup {
        /// Its number.
        table: u32,
        /// Passes over routes with a prefix of this length or shorter (`suppress_prefixlength`).
        suppress: Option<u8>,
    },
    /// Goes on with the rule of this priority, which must be a higher number.
    Goto(u32),
    /// They go nowhere, and their sender is told so.
    Unreachable,
}

/// Adds a policy rule.
pub(super) fn new_rule(rule: &Rule) -> Request {
    request(libc::RTM_NEWRULE, CREATE, rule)
}

/// Removes a policy rule.
pub(super) fn del_rule(rule: &Rule) -> Request {
    request(libc::RTM_DELRULE, ACK, rule)
}

/// Asks for all policy rules.
pub(super) fn list_rules() -> Request {
    Request::new(libc::RTM_GETRULE, DUMP, &[0; 12])
}

/// A rule of ours, whoever owns it.
pub(super) fn read_rule(message: &Message<'_>) -> Option<Rule> {
    let family = match i32::from(*message.body.first()?) {
        libc::AF_INET => Family::V4,
        libc::AF_INET6 => Family::V6,
        _ => return None,
    };
    let (to_length, from_length) = (*message.body.get(1)?, *message.body.get(2)?);
    let mut is_ours = false;
    let (mut table, mut suppress, mut target, mut mask, mut protocol, mut ports) =
        (0, None, None, None, None, None);
    let action = RuleAction::Goto(0);
    let mut rule =
        Rule { family, priority: 0, owner: 0, from: None, to: None, by: None, service: None, action };
    for (kind, value) in attributes(message.body.get(12..)?) {
        match kind {
            FRA_PROTOCOL => is_ours = value == [OUR_PROTOCOL],
            FRA_PRIORITY => rule.priority = number_u32(value, 0)?,
            FRA_TABLE => table = number_u32(value, 0)?,
            FRA_GOTO => target = number_u32(value, 0),
            FRA_FWMARK => rule.owner = number_u32(value, 0)?,
            FRA_FWMASK => mask = number_u32(value, 0),
            FRA_DST => rule.to = IpNetwork::new(address(value)?, to_length).ok(),
            FRA_SRC => rule.from = IpNetwork::new(address(value)?, from_length).ok(),
            FRA_IIFNAME => rule.by = DeviceName::new(&text(value)),
            FRA_IP_PROTO => protocol = value.first().copied(),
            FRA_SPORT_RANGE => ports = Some((number_u16(value, 0)?, number_u16(value, 2)?)),
            // All ones stand for none.
            FRA_SUPPRESS_PREFIXLEN => suppress = u8::try_from(number_u32(value, 0)?).ok(),
            _ => (),
        }
    }
    if !is_ours || rule.owner == 0 || mask != Some(0) {
        return None;
    }
    rule.action = match *message.body.get(7)? {
        FR_ACT_TO_TBL => RuleAction::Lookup { table, suppress },
        FR_ACT_GOTO => RuleAction::Goto(target?),
        FR_ACT_UNREACHABLE => RuleAction::Unreachable,
        _ => return None,
    };
    rule.service = protocol.zip(ports).map(|(protocol, (first, last))| Service { protocol, first, last });
    Some(rule)
}

/// `struct fib_rule_hdr`: family, prefix lengths, TOS, table, two reserved, action, flags.
fn request(kind: u16, flags: u16, rule: &Rule) -> Request {
    let (action, target, table, suppress) = match rule.action {
        RuleAction::Lookup { table, suppress } => (FR_ACT_TO_TBL, None, Some(table), suppress),
        RuleAction::Goto(priority) => (FR_ACT_GOTO, Some(priority), None, None),
        RuleAction::Unreachable => (FR_ACT_UNREACHABLE, None, None, None),
    };
    let mut header = [0; 12];
    header[0] = rule.family.number();
    header[1] = rule.to.map_or(0, |to| to.prefix());
    header[2] = rule.from.map_or(0, |from| from.prefix());
    header[7] = action;
    let (to, from) = (rule.to.map(|to| octets(to.network())), rule.from.map(|from| octets(from.network())));
    // With the zero behind it.
    let by = rule.by.map(|by| [by.letters(), &[0]].concat());
    let number = |number: Option<u32>| number.map(u32::to_ne_bytes);
    let (target, table, suppress) = (number(target), number(table), number(suppress.map(u32::from)));
    let protocol = rule.service.map(|service| [service.protocol]);
    // struct fib_rule_port_range
    let ports =
        rule.service.map(|Service { first, last, .. }| [first.to_ne_bytes(), last.to_ne_bytes()].concat());
    Request::new(kind, flags, &header)
        .attribute(FRA_PRIORITY, &rule.priority.to_ne_bytes())
        .attribute(FRA_PROTOCOL, &[OUR_PROTOCOL])
        .attribute(FRA_FWMARK, &rule.owner.to_ne_bytes())
        .attribute(FRA_FWMASK, &0_u32.to_ne_bytes())
        .maybe(FRA_TABLE, bytes(&table))
        .maybe(FRA_GOTO, bytes(&target))
        .maybe(FRA_SUPPRESS_PREFIXLEN, bytes(&suppress))
        .maybe(FRA_DST, to.as_deref())
        .maybe(FRA_SRC, from.as_deref())
        .maybe(FRA_IIFNAME, by.as_deref())
        .maybe(FRA_IP_PROTO, bytes(&protocol))
        .maybe(FRA_SPORT_RANGE, ports.as_deref())
}

fn bytes<const N: usize>(array: &Option<[u8; N]>) -> Option<&[u8]> {
    array.as_ref().map(|array| &array[..])
}

#[cfg(test)]
mod tests {
    use super::super::message::messages;
    use super::*;

    fn read(bytes: &[u8]) -> Option<Rule> {
        read_rule(&messages(bytes).next().unwrap().unwrap())
    }

    #[test]
    fn rules_are_read_back_and_those_of_others_are_not() {
        let net = |text: &str| Some(text.parse::<IpNetwork>().unwrap());
        let rule = Rule {
            family: Family::V4,
            priority: 32_765,
            owner: 7,
            from: None,
            to: net("203.0.113.5/32"),
            by: None,
            service: None,
            action: RuleAction::Goto(32_766),
        };
        let lookup = |suppress| RuleAction::Lookup { table: 0x5678_0007, suppress };
        let service = Some(Service { protocol: 6, first: 1, last: 32_767 });
        for rule in [
            rule,
            Rule { from: net("172.17.0.0/16"), to: None, service, ..rule },
            Rule { to: None, action: lookup(None), ..rule },
            Rule { family: Family::V6, to: net("2001:db8::/32"), action: lookup(Some(0)), ..rule },
            Rule { by: DeviceName::new("lo"), action: RuleAction::Unreachable, ..rule },
            Rule { by: DeviceName::new("fifteen-letters"), ..rule },
        ] {
            let bytes = new_rule(&rule).finish(1);
            assert_eq!(read(&bytes), Some(rule));
            for length in 0..bytes.len() - 16 {
                let message = messages(&bytes).next().unwrap().unwrap();
                let _ = read_rule(&Message { body: &message.body[..length], ..message });
            }
            // Another protocol, or a mark that packets have to carry.
            for (attribute, other) in [(FRA_PROTOCOL, 4), (FRA_FWMASK, 1)] {
                let mut bytes = bytes.clone();
                let length = if attribute == FRA_PROTOCOL { 5_u16 } else { 8 };
                let header = [length.to_ne_bytes(), attribute.to_ne_bytes()].concat();
                let at = bytes.windows(4).position(|window| window == header).unwrap();
                bytes[at + 4] = other;
                assert_eq!(read(&bytes), None);
            }
        }
    }
}
