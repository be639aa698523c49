//! Access rules between members: the file `rules`, and which line decides. Pure.
//!
//! ```text
//! # NAME, ADDRESS, PREFIX, tag:TAG, group:GROUP, hub and * name one end; commas put several together.
//! group servers = nas, tag:db, 192.168.5.0/24
//! allow tag:admin -> *
//! allow * -> group:servers [tcp/22 tcp/8000-8100 udp/53 icmp]
//! deny  guest -> hub
//! ```
//!
//! The first line that matches decides; what none matches is denied. Without a file everything is allowed. `access`
//! adds state: replies pass, and all fragments of a packet get the same decision.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use common::wire::name::Name;
use ipnetwork::IpNetwork;

pub mod access;
mod flows;
mod fragments;
mod recent;
#[cfg(test)]
mod tests;

/// Most lines that decide.
pub const MAX_RULES: usize = 10_000;
/// Longest text of a line that is kept to be shown, in characters.
const MAX_SHOWN: usize = 200;
/// Longest list of ends or services in one line or group.
const MAX_LIST: usize = 1_000;
/// Groups within groups.
const MAX_DEPTH: usize = 8;

/// A label that members carry in the list of members: a name of its own kind.
pub type Tag = Name;

/// A line that is invalid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadLine {
    /// Its number, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub why: String,
}

/// One end of a packet, as far as rules can tell.
#[derive(Clone, Copy, Debug)]
pub struct End<'a> {
    /// Whether it is the hub itself.
    pub is_hub: bool,
    /// The name in the list of members; the hub may be in none.
    pub name: Option<&'a Name>,
    /// The tags there.
    pub tags: &'a [Tag],
    /// The packet's address there: the member's own, or one behind it.
    pub address: IpAddr,
}

/// What a packet is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// TCP to this port.
    Tcp(u16),
    /// UDP to this port.
    Udp(u16),
    /// ICMP of either family.
    Icmp,
    /// Another protocol, by its number.
    Other(u8),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Selector {
    All,
    Hub,
    Named(Name),
    Tagged(Tag),
    Within(Place),
}

/// A prefix that a person wrote, and what it stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    written: IpNetwork,
    /// What stands in its place.
    prefix: IpNetwork,
    /// What is meant beside that.
    beside: Option<IpNetwork>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Services {
    Tcp(u16, u16),
    Udp(u16, u16),
    Icmp,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    line: usize,
    /// What a person wrote, without its comment.
    text: Box<str>,
    allows: bool,
    from: Vec<Selector>,
    to: Vec<Selector>,
    /// All services where it is empty.
    services: Vec<Services>,
}

/// The lines of a file, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    rules: Vec<Rule>,
}

/// Which line decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Whether the packet may pass.
    pub allows: bool,
    /// The number of the line; `None` where no line matches.
    pub line: Option<usize>,
}

impl Rules {
    /// Reads the file.
    ///
    /// # Errors
    /// The first line that is invalid.
    pub fn parse(text: &str) -> Result<Rules, BadLine> {
        let mut groups = BTreeMap::new();
        let mut rules = Vec::new();
        for (index, full) in text.lines().enumerate() {
            let line = full.split('#').next().unwrap_or_default().trim();
            let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
            let read = match word {
                "" => Ok(()),
                "group" => parse_group(rest, &mut groups),
                "allow" | "deny" if rules.len() < MAX_RULES => {
                    parse_rule((index + 1, line), word == "allow", rest, &groups).map(|rule| rules.push(rule))
                }
                "allow" | "deny" => Err(format!("there are more than {MAX_RULES} rules")),
                other => Err(format!("a line begins with allow, deny or group, not with {other:?}")),
            };
            read.map_err(|why| BadLine { line: index + 1, why })?;
        }
        Ok(Rules { rules })
    }

    /// Has the prefixes of all lines stand for what `means` says of each as it is written: for one that takes its place,
    /// and maybe for another beside that.
    pub fn locate(&mut self, means: impl Fn(IpNetwork) -> (IpNetwork, Option<IpNetwork>)) {
        for selector in self.rules.iter_mut().flat_map(|rule| rule.from.iter_mut().chain(&mut rule.to)) {
            if let Selector::Within(place) = selector {
                (place.prefix, place.beside) = means(place.written);
            }
        }
    }

    /// Has the hub's name, which no member has, stand for the hub.
    pub fn name_hub(&mut self, name: &Name) {
        for selector in self.rules.iter_mut().flat_map(|rule| rule.from.iter_mut().chain(&mut rule.to)) {
            if matches!(selector, Selector::Named(named) if named == name) {
                *selector = Selector::Hub;
            }
        }
    }

    /// The prefixes that stand for others, each with the number of its line, and with those.
    pub fn located(&self) -> impl Iterator<Item = (usize, IpNetwork, String)> {
        let ends = self
            .rules
            .iter()
            .flat_map(|rule| rule.from.iter().chain(&rule.to).map(move |end| (rule.line, end)));
        ends.filter_map(|(line, end)| {
            let Selector::Within(Place { written, prefix, beside }) = end else { return None };
            let also = beside.map(|beside| format!(" and {beside}")).unwrap_or_default();
            (prefix != written || beside.is_some()).then(|| (line, *written, format!("{prefix}{also}")))
        })
    }

    /// How many lines decide.
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether no line decides, so that everything is denied.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The text of a line that decides, by its number; shortened where it is long.
    pub fn text(&self, line: usize) -> Option<&str> {
        let at = self.rules.binary_search_by_key(&line, |rule| rule.line).ok()?;
        self.rules.get(at).map(|rule| &*rule.text)
    }

    /// Which line decides about the first packet from one end to the other.
    pub fn decide(&self, from: End<'_>, to: End<'_>, service: Service) -> Decision {
        self.first(0..self.rules.len(), from, to, service).1
    }

    /// The first of these rules that matches, by its index, and what it says.
    fn first(
        &self,
        indices: impl IntoIterator<Item = usize>,
        from: End<'_>,
        to: End<'_>,
        service: Service,
    ) -> (Option<usize>, Decision) {
        let matching = indices
            .into_iter()
            .map(|index| (index, &self.rules[index]))
            .find(|(_, rule)| rule.serves(service) && is_among(&rule.from, from) && is_among(&rule.to, to));
        match matching {
            Some((index, rule)) => (Some(index), Decision { allows: rule.allows, line: Some(rule.line) }),
            None => (None, Decision { allows: false, line: None }),
        }
    }

    /// The rules that can match between two ends whatever their addresses and the service.
    fn between(&self, from: End<'_>, to: End<'_>) -> Vec<usize> {
        let can = |selectors: &[Selector], end| {
            selectors.iter().any(|one| matches!(one, Selector::Within(_)) || one.matches(end))
        };
        let is_possible = |rule: &Rule| can(&rule.from, from) && can(&rule.to, to);
        self.rules.iter().enumerate().filter(|(_, rule)| is_possible(rule)).map(|(index, _)| index).collect()
    }
}

impl Rule {
    fn serves(&self, service: Service) -> bool {
        self.services.is_empty() || self.services.iter().any(|services| services.contain(service))
    }
}

fn is_among(selectors: &[Selector], end: End<'_>) -> bool {
    selectors.iter().any(|selector| selector.matches(end))
}

impl Selector {
    fn matches(&self, end: End<'_>) -> bool {
        match self {
            Selector::All => true,
            Selector::Hub => end.is_hub,
            Selector::Named(name) => end.name == Some(name),
            Selector::Tagged(tag) => end.tags.contains(tag),
            Selector::Within(place) => place.contains(end.address),
        }
    }
}

impl Place {
    fn contains(&self, address: IpAddr) -> bool {
        self.prefix.contains(address) || self.beside.is_some_and(|beside| beside.contains(address))
    }
}

impl Services {
    fn contain(self, service: Service) -> bool {
        match (self, service) {
            (Services::Tcp(first, last), Service::Tcp(port)) => (first..=last).contains(&port),
            (Services::Udp(first, last), Service::Udp(port)) => (first..=last).contains(&port),
            (Services::Icmp, Service::Icmp) => true,
            (Services::Tcp(..) | Services::Udp(..) | Services::Icmp, _) => false,
        }
    }
}

/// A group, with the depth of groups within it.
type Groups = BTreeMap<Name, (usize, Vec<Selector>)>;

fn parse_group(rest: &str, groups: &mut Groups) -> Result<(), String> {
    let (name, members) = rest.split_once('=').ok_or("write group NAME = MEMBER, MEMBER")?;
    let name: Name = name.trim().parse().map_err(|bad| format!("{:?}: {bad}", name.trim()))?;
    if groups.contains_key(&name) {
        return Err(format!("the group {name} is there already"));
    }
    let parsed = parse_ends(members, groups)?;
    if parsed.0 > MAX_DEPTH {
        return Err(format!("groups within groups, more than {MAX_DEPTH} deep"));
    }
    groups.insert(name, parsed);
    Ok(())
}

fn parse_rule(
    (line, text): (usize, &str),
    allows: bool,
    rest: &str,
    groups: &Groups,
) -> Result<Rule, String> {
    let (from, rest) = rest.split_once("->").ok_or("write FROM -> TO behind allow or deny")?;
    let (to, services) = match rest.split_once('[') {
        None => (rest, Vec::new()),
        Some((to, services)) => {
            let inside = services.trim_end().strip_suffix(']').ok_or("the bracket is not closed")?;
            (to, parse_services(inside)?)
        }
    };
    let ((_, from), (_, to)) = (parse_ends(from, groups)?, parse_ends(to, groups)?);
    let shown = match text.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]).into(),
        None => text.into(),
    };
    Ok(Rule { line, text: shown, allows, from, to, services })
}

/// The ends of a list, and how deep the groups in it are nested.
fn parse_ends(text: &str, groups: &Groups) -> Result<(usize, Vec<Selector>), String> {
    let (mut depth, mut ends) = (1, Vec::new());
    for word in text.split(',').map(str::trim) {
        let name = |text: &str| text.parse::<Name>().map_err(|bad| format!("{text:?}: {bad}"));
        match word.split_once(':') {
            Some(("tag", tag)) => ends.push(Selector::Tagged(name(tag)?)),
            Some(("group", group)) => {
                let group = name(group)?;
                let (inner, members) =
                    groups.get(&group).ok_or(format!("there is no group {group} in the lines above"))?;
                depth = depth.max(inner + 1);
                ends.extend(members.iter().cloned());
            }
            _ if word.is_empty() => return Err("an end is missing: name a member, or * for all".to_owned()),
            _ if word == "*" => ends.push(Selector::All),
            _ if word == "hub" => ends.push(Selector::Hub),
            _ => ends.push(match word.parse::<IpNetwork>() {
                Ok(prefix) if prefix.network() == prefix.ip() => {
                    Selector::Within(Place { written: prefix, prefix, beside: None })
                }
                Ok(prefix) => {
                    let (network, length) = (prefix.network(), prefix.prefix());
                    return Err(format!(
                        "{word} has bits set behind its prefix: did you mean {network}/{length}?"
                    ));
                }
                Err(_) => Selector::Named(name(word)?),
            }),
        }
        if ends.len() > MAX_LIST {
            return Err(format!("a list has more than {MAX_LIST} ends"));
        }
    }
    Ok((depth, ends))
}

fn parse_services(text: &str) -> Result<Vec<Services>, String> {
    let services: Vec<Services> = text
        .split([' ', '\t', ','])
        .filter(|word| !word.is_empty())
        .map(parse_service)
        .collect::<Result<_, _>>()?;
    match services.len() {
        0 => Err("the brackets are empty: leave them out for everything".to_owned()),
        1..=MAX_LIST => Ok(services),
        _ => Err(format!("a list has more than {MAX_LIST} services")),
    }
}

fn parse_service(word: &str) -> Result<Services, String> {
    let bad = || format!("{word:?} is no service: write tcp/22, tcp/8000-8100, udp/53, tcp, udp or icmp");
    let (protocol, ports) = match word.split_once('/') {
        Some((protocol, ports)) => (protocol, Some(ports)),
        None => (word, None),
    };
    let (first, last) = match ports {
        None => (0, u16::MAX),
        Some(ports) => {
            let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
            (first.parse().map_err(|_| bad())?, last.parse().map_err(|_| bad())?)
        }
    };
    if first > last {
        return Err(format!("{word}: {first} is above {last}"));
    }
    match protocol {
        "tcp" => Ok(Services::Tcp(first, last)),
        "udp" => Ok(Services::Udp(first, last)),
        "icmp" if ports.is_none() => Ok(Services::Icmp),
        _ => Err(bad()),
    }
}

impl std::str::FromStr for Service {
    type Err = String;

    /// `tcp/22`, `udp/53`, `icmp`, or the number of another protocol.
    fn from_str(text: &str) -> Result<Service, String> {
        let bad = || format!("{text:?} is no service: write tcp/22, udp/53, icmp or a protocol's number");
        match text.split_once('/') {
            Some(("tcp", port)) => port.parse().map(Service::Tcp).map_err(|_| bad()),
            Some(("udp", port)) => port.parse().map(Service::Udp).map_err(|_| bad()),
            _ if text == "icmp" => Ok(Service::Icmp),
            _ => text.parse().map(Service::Other).map_err(|_| bad()),
        }
    }
}

impl fmt::Display for Decision {
    /// For `hub rules --explain`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.allows { "allowed" } else { "denied" };
        match self.line {
            Some(line) => write!(f, "{what} by line {line}"),
            None => write!(f, "{what}: no line matches"),
        }
    }
}
