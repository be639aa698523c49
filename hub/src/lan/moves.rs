//! The LAN's present subnets and its former ones, from which `hub renumber` has moved it. Pure: the text of `subnets` comes
//! in and goes out.
//!
//! ```text
//! # present      former ones, the latest first
//! 10.44.0.0/24   10.0.0.0/24
//! fd00:44::/64
//! ```
//! A former subnet in `--subnet`, in `--ip`, in `members`, in `invites` or in `rules` means the present one, with the same host part. So
//! nothing that was written down before has to be changed at once, and whatever a crash leaves half done is done at the
//! next start. Subnets that overlap keep addresses as they are.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use common::packet::prefix::{bits, overlap};
use ipnetwork::IpNetwork;

use crate::lan::members::BadLine;
use crate::lan::subnets::Subnets;

/// Most former subnets of a family: of more, the oldest are forgotten.
const MAX_FORMER: usize = 8;

/// Where addresses stand in a line of `members`: the word with this number, from 0.
pub const MEMBERS_COLUMN: usize = 2;
/// The same of `invites`.
pub const INVITES_COLUMN: usize = 3;

/// The present and the former subnets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Moves {
    families: Vec<Family>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Family {
    present: IpNetwork,
    former: Vec<IpNetwork>,
}

impl Moves {
    /// Reads the text of `subnets`.
    pub fn parse(text: &str) -> Result<Moves, BadLine> {
        let mut moves = Moves::default();
        for (index, line) in text.lines().enumerate() {
            let bad = |why| BadLine { line: index + 1, why };
            let line = line.split('#').next().unwrap_or_default();
            let prefixes: Result<Vec<IpNetwork>, String> = line
                .split_whitespace()
                .map(|word| {
                    let prefix = word.parse().map_err(|_| format!("{word:?} is no prefix"))?;
                    Subnets::new(&[prefix]).map_err(|error| error.to_string())?;
                    Ok(prefix)
                })
                .collect();
            let mut prefixes = prefixes.map_err(bad)?.into_iter();
            let Some(present) = prefixes.next() else { continue };
            let former: Vec<IpNetwork> = prefixes.take(MAX_FORMER).collect();
            let is_other = |prefix: &IpNetwork| prefix.is_ipv4() != present.is_ipv4();
            if former.iter().any(is_other) || !moves.families.iter().all(|family| is_other(&family.present)) {
                return Err(bad("one line for each family".to_owned()));
            }
            moves.families.push(Family { present, former });
        }
        Ok(moves)
    }

    /// The text of `subnets`.
    pub fn to_text(&self) -> String {
        let mut text = String::from(
            "# The LAN's subnet, and behind it those from which `hub renumber` has moved it: in --subnet, in --ip, in\n\
             # members, in invites and in rules they mean the first one.\n",
        );
        for Family { present, former } in &self.families {
            let former = former.iter().fold(String::new(), |text, prefix| format!("{text} {prefix}"));
            let _ = writeln!(text, "{present}{former}");
        }
        text
    }

    /// The LAN's subnets if the hub is started with `given`: a former one stands for the present one. What is neither
    /// becomes the present one, without a past.
    pub fn start(&mut self, given: Subnets) -> Subnets {
        let resolved: Vec<IpNetwork> = given
            .iter()
            .map(|given| match self.family_of(given) {
                Some(family) if family.present == given || family.former.contains(&given) => family.present,
                Some(family) => {
                    *family = Family { present: given, former: Vec::new() };
                    given
                }
                None => {
                    self.families.push(Family { present: given, former: Vec::new() });
                    given
                }
            })
            .collect();
        // Each was valid, and the families are the same.
        Subnets::new(&resolved).unwrap_or(given)
    }

    /// The present subnets; `None` where the hub has not run yet.
    pub fn present(&self) -> Option<Subnets> {
        Subnets::new(&self.families.iter().map(|family| family.present).collect::<Vec<_>>()).ok()
    }

    /// Moves the LAN: each of `new` takes the place of the subnet of its family. The steps that this takes.
    ///
    /// # Errors
    /// Where there is nothing to move.
    pub fn renumber(&mut self, new: Subnets) -> Result<Vec<Step>, String> {
        let mut steps = Vec::new();
        for to in new.iter() {
            let Some(family) = self.family_of(to) else {
                return Err(format!(
                    "the LAN has no subnet of the family of {to}: start the hub with --subnet {to} too"
                ));
            };
            let from = std::mem::replace(&mut family.present, to);
            if from == to {
                continue;
            }
            family.former.retain(|former| *former != to);
            family.former.insert(0, from);
            family.former.truncate(MAX_FORMER);
            steps.push(Step { from, to });
        }
        if steps.is_empty() { Err(format!("the LAN is {new} already")) } else { Ok(steps) }
    }

    /// What an address means now: one of a former subnet is the host with the same number in the present one, if that has
    /// such a host.
    pub fn translate(&self, address: IpAddr) -> IpAddr {
        let family = self.families.iter().find(|family| family.present.is_ipv4() == address.is_ipv4());
        let Some(Family { present, former }) = family else { return address };
        if present.contains(address) {
            return address;
        }
        let from = former.iter().find(|former| former.contains(address) && !overlap(**former, *present));
        from.and_then(|&from| Step { from, to: *present }.apply(address)).unwrap_or(address)
    }

    /// Has each address be what it means now.
    pub fn translate_all<'a>(&self, addresses: impl IntoIterator<Item = &'a mut IpAddr>) {
        addresses.into_iter().for_each(|address| *address = self.translate(*address));
    }

    /// What a prefix in the access rules means now, and what else: a part of a former subnet is the same part of the present
    /// one, and what held a former subnet and more holds the present one, too.
    pub fn translate_prefix(&self, prefix: IpNetwork) -> (IpNetwork, Option<IpNetwork>) {
        let family = self.families.iter().find(|family| family.present.is_ipv4() == prefix.is_ipv4());
        let Some(&Family { present, ref former }) = family else { return (prefix, None) };
        if overlap(prefix, present) {
            return (prefix, None);
        }
        let from = former.iter().find(|&&former| overlap(former, prefix) && !overlap(former, present));
        let Some(&from) = from else { return (prefix, None) };
        if prefix.prefix() < from.prefix() {
            return (prefix, Some(present));
        }
        let network = Step { from, to: present }.apply(prefix.network());
        let length = prefix.prefix().max(present.prefix());
        (network.and_then(|network| IpNetwork::new(network, length).ok()).unwrap_or(prefix), None)
    }

    /// The text of `members` or `invites` with the addresses as they are now, in the word with this number.
    pub fn translate_text<'a>(&self, text: &'a str, column: usize) -> Cow<'a, str> {
        if self.families.iter().all(|family| family.former.is_empty()) {
            return Cow::Borrowed(text);
        }
        let lines = text.split_inclusive('\n').map(|line| self.translate_line(line, column));
        let new: String = lines.collect();
        if new == text { Cow::Borrowed(text) } else { Cow::Owned(new) }
    }

    /// The same of one line. All else in it stays as it is.
    pub(crate) fn translate_line(&self, line: &str, column: usize) -> String {
        let is_comment = line.trim_start().starts_with('#');
        let word = line.split_whitespace().nth(column).filter(|_| !is_comment);
        let Some(word) = word else { return line.to_owned() };
        let start = word.as_ptr() as usize - line.as_ptr() as usize;
        let moved: Vec<String> = word
            .split(',')
            .map(|part| match part.parse() {
                Ok(address) if self.translate(address) != address => self.translate(address).to_string(),
                Ok(_) | Err(_) => part.to_owned(),
            })
            .collect();
        [&line[..start], &moved.join(","), &line[start + word.len()..]].concat()
    }

    fn family_of(&mut self, prefix: IpNetwork) -> Option<&mut Family> {
        self.families.iter_mut().find(|family| family.present.is_ipv4() == prefix.is_ipv4())
    }
}

/// A subnet and the one that it is moved to, of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The LAN's subnet so far.
    pub from: IpNetwork,
    /// The new one.
    pub to: IpNetwork,
}

impl Step {
    /// Where an address of the subnet so far goes; `None` where the new one has no such host.
    pub fn apply(&self, address: IpAddr) -> Option<IpAddr> {
        if overlap(self.from, self.to) {
            return self.to.contains(address).then_some(address);
        }
        let (from, to) = (bits(self.from.network()), bits(self.to.network()));
        let moved = to.checked_add(bits(address).checked_sub(from)?)?;
        let moved = match address {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(moved).ok()?)),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from_bits(moved)),
        };
        self.to.contains(moved).then_some(moved)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnets(given: &[&str]) -> Subnets {
        Subnets::new(&given.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>()).unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn started(given: &[&str]) -> Moves {
        let mut moves = Moves::default();
        moves.start(subnets(given));
        moves
    }

    #[test]
    fn a_former_subnet_stands_for_the_present_one_and_back() {
        let mut moves = started(&["10.0.0.0/24", "fd00::/64"]);
        moves.renumber(subnets(&["10.44.0.0/24", "fd44::/64"])).unwrap();
        let text = moves.to_text();
        assert!(text.ends_with("\n10.44.0.0/24 10.0.0.0/24\nfd44::/64 fd00::/64\n"), "{text}");
        assert_eq!(Moves::parse(&text).unwrap(), moves);
        for (address, means) in [
            ("10.0.0.2", "10.44.0.2"),
            ("10.44.0.2", "10.44.0.2"),
            ("fd00::1:2", "fd44::1:2"),
            ("192.168.0.2", "192.168.0.2"),
        ] {
            assert_eq!(moves.translate(ip(address)), ip(means));
        }
        let both = moves.clone().start(subnets(&["10.0.0.0/24", "fd44::/64"]));
        assert_eq!(both, subnets(&["10.44.0.0/24", "fd44::/64"]));
        // On, and then back to the first: one step each, however many there were.
        moves.renumber(subnets(&["10.55.0.0/22"])).unwrap();
        assert_eq!([moves.translate(ip("10.0.0.2")), moves.translate(ip("10.44.0.2"))], [ip("10.55.0.2"); 2]);
        let back = moves.renumber(subnets(&["10.0.0.0/24", "fd00::/64"])).unwrap();
        assert_eq!(
            back[0],
            Step { from: "10.55.0.0/22".parse().unwrap(), to: "10.0.0.0/24".parse().unwrap() }
        );
        assert_eq!(moves.translate(ip("10.0.0.2")), ip("10.0.0.2"));
        assert_eq!(moves.translate(ip("10.44.0.2")), ip("10.0.0.2"));
        let third = moves.start(subnets(&["10.77.0.0/24", "fd00::/64"]));
        assert_eq!(third, subnets(&["10.77.0.0/24", "fd00::/64"]));
        assert_eq!(moves.translate(ip("10.44.0.2")), ip("10.44.0.2"), "another LAN has no past");
    }

    #[test]
    fn lines_change_in_their_addresses_alone() {
        let mut moves = started(&["10.0.0.0/24", "fd00::/64"]);
        let before =
            "# 10.0.0.2\n\nk  a\t10.0.0.2,fd00::2   route=10.0.0.0/25\nk b -\nk c 10.0.0.3 revoked\nk d";
        assert!(matches!(moves.translate_text(before, MEMBERS_COLUMN), Cow::Borrowed(_)));
        moves.renumber(subnets(&["10.44.0.0/24", "fd44::/64"])).unwrap();
        let after = moves.translate_text(before, MEMBERS_COLUMN).into_owned();
        assert_eq!(
            after,
            "# 10.0.0.2\n\nk  a\t10.44.0.2,fd44::2   route=10.0.0.0/25\nk b -\nk c 10.44.0.3 revoked\nk d"
        );
        assert_eq!(moves.translate_text(&after, MEMBERS_COLUMN), after, "once is enough");
        moves.renumber(subnets(&["10.0.0.0/24", "fd00::/64"])).unwrap();
        assert_eq!(moves.translate_text(&after, MEMBERS_COLUMN), before, "and back");
    }

    #[test]
    fn a_host_that_the_new_subnet_does_not_have_goes_nowhere() {
        let step = |from: &str, to: &str| Step { from: from.parse().unwrap(), to: to.parse().unwrap() };
        let narrow = step("10.0.0.0/16", "10.44.0.0/24");
        assert_eq!(narrow.apply(ip("10.0.0.7")), Some(ip("10.44.0.7")));
        assert_eq!(narrow.apply(ip("10.0.3.7")), None);
        let wider = step("10.0.5.0/24", "10.0.0.0/16");
        assert_eq!(wider.apply(ip("10.0.5.7")), Some(ip("10.0.5.7")), "nobody has to move");
        assert_eq!(step("10.0.0.0/16", "10.0.5.0/24").apply(ip("10.0.0.7")), None);
        let last = step("10.0.0.0/8", "239.0.0.0/8");
        assert_eq!(last.apply(ip("10.255.255.255")), Some(ip("239.255.255.255")));
    }

    #[test]
    fn prefixes_in_access_rules_go_along_and_wider_ones_hold_the_lan_as_before() {
        let mut moves = started(&["10.0.0.0/16", "fd00::/64"]);
        moves.renumber(subnets(&["192.168.8.0/22", "fd44::/64"])).unwrap();
        for (written, means, beside) in [
            ("10.0.1.7/32", "192.168.9.7/32", None),
            ("10.0.2.0/24", "192.168.10.0/24", None),
            ("10.0.0.0/16", "192.168.8.0/22", None),
            ("10.0.0.0/18", "192.168.8.0/22", None),
            ("10.0.64.0/18", "10.0.64.0/18", None),
            ("10.0.0.0/8", "10.0.0.0/8", Some("192.168.8.0/22")),
            ("0.0.0.0/0", "0.0.0.0/0", None),
            ("192.168.0.0/16", "192.168.0.0/16", None),
            ("192.168.8.4/32", "192.168.8.4/32", None),
            ("172.16.0.0/12", "172.16.0.0/12", None),
            ("fd00::2/128", "fd44::2/128", None),
        ] {
            let beside = beside.map(|beside| beside.parse().unwrap());
            let expected = (means.parse().unwrap(), beside);
            assert_eq!(moves.translate_prefix(written.parse().unwrap()), expected, "{written}");
        }
        moves.renumber(subnets(&["192.168.0.0/16"])).unwrap();
        let still = ("192.168.8.4/32".parse().unwrap(), None);
        assert_eq!(moves.translate_prefix(still.0), still, "subnets that overlap keep addresses");
        assert_eq!(Moves::default().translate_prefix(still.0), still);
    }

    #[test]
    fn what_a_person_wrote_is_checked() {
        for (text, line) in [
            ("10.0.0.0/24\nx", 2),
            ("10.0.0.0/24\n10.1.0.0/24", 2),
            ("10.0.0.0/24 fd00::/64", 1),
            ("10.0.0.7/24", 1),
            ("0.0.0.0/0", 1),
        ] {
            assert_eq!(Moves::parse(text).map(drop).unwrap_err().line, line, "{text}");
        }
        assert_eq!(Moves::parse("# nothing\n\n").unwrap(), Moves::default());
        assert!(started(&["10.0.0.0/24"]).renumber(subnets(&["fd00::/64"])).is_err());
        assert!(started(&["10.0.0.0/24"]).renumber(subnets(&["10.0.0.0/24"])).is_err());
    }
}
