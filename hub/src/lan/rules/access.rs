//! Rules applied to packets: replies pass, fragments share the fate of their packet, each rule counts. Pure.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Instant;

use common::packet::{Fragment, Header};

use super::flows::{Direction, Flow, Flows, Key};
use super::fragments::{FragmentKey, Fragments};
use super::recent::{Passage, Recent};
use super::{Decision, End, Rules, Service};

pub use super::flows::Party;

/// Most pairs of parties for which the rules that concern them are kept.
const MAX_PAIRS: usize = 4_096;

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const FRAGMENT: u8 = 44;
const ICMPV6: u8 = 58;

/// In which byte of its header TCP has its flags, and two of them.
const FLAGS: usize = 13;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// Packets that a rule has decided about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// The line; `None` for what no line matches.
    pub line: Option<usize>,
    /// Packets, replies included.
    pub packets: u64,
}

/// The rules in force, and what they have let pass.
#[derive(Debug, Default)]
pub struct AccessControl {
    rules: Rules,
    /// Counts the rules that were in force.
    generation: u32,
    flows: Flows,
    recent: Recent,
    pairs: HashMap<(Party, Party), Box<[usize]>>,
    fragments: Fragments,
    counts: Vec<u64>,
    unmatched: u64,
}

impl AccessControl {
    /// These rules.
    pub fn new(rules: Rules) -> AccessControl {
        AccessControl { counts: vec![0; rules.len()], rules, ..AccessControl::default() }
    }

    /// Puts other rules in force, for the packets of known flows too.
    pub fn replace(&mut self, rules: Rules) {
        self.generation = self.generation.wrapping_add(1);
        self.counts = vec![0; rules.len()];
        self.unmatched = 0;
        self.rules = rules;
        self.parties_changed();
    }

    /// A member has another name or other tags, or is another one: what is known of pairs is out of date.
    pub fn parties_changed(&mut self) {
        self.generation = self.generation.wrapping_add(1);
        self.recent.clear();
        self.pairs.clear();
        self.fragments.clear();
    }

    /// The rules.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Packets that no rule matched.
    pub fn unmatched(&self) -> u64 {
        self.unmatched
    }

    /// How many flows are known.
    pub fn flows(&self) -> usize {
        self.flows.len()
    }

    /// What each rule has decided about, in their order, and last what none matched.
    pub fn counts(&self) -> impl Iterator<Item = Count> {
        let lines = self.rules.rules.iter().map(|rule| Some(rule.line)).chain([None]);
        let packets = self.counts.iter().copied().chain([self.unmatched]);
        lines.zip(packets).map(|(line, packets)| Count { line, packets })
    }

    /// Whether a packet may go from one party to another. `ip` is the packet that `header` was read from; `end` tells
    /// name and tags of a party, with the address given to it.
    pub fn allows<'a>(
        &mut self,
        from: Party,
        to: Party,
        header: &Header,
        ip: &[u8],
        now: Instant,
        end: impl Fn(Party, IpAddr) -> End<'a>,
    ) -> bool {
        if header.fragment == Fragment::No {
            return self.allows_whole(from, to, header, ip, now, &end);
        }
        let Some(id) = fragment_id(ip, header) else { return false };
        let Header { source, destination, .. } = *header;
        // The protocol of later IPv6 fragments may be that of an extension header.
        let protocol = if header.is_ipv6() { 0 } else { header.protocol };
        let key = FragmentKey { from, to, source, destination, protocol, id };
        if header.fragment == Fragment::Later {
            if overwrites_flags(ip, header) {
                return false;
            }
            // One that comes before the first is sent again with all others.
            return self.fragments.may_pass(&key, now);
        }
        let allowed = self.allows_whole(from, to, header, ip, now, &end);
        self.fragments.note(key, allowed, now);
        allowed
    }

    fn allows_whole<'a>(
        &mut self,
        from: Party,
        to: Party,
        header: &Header,
        ip: &[u8],
        now: Instant,
        end: &impl Fn(Party, IpAddr) -> End<'a>,
    ) -> bool {
        let l4 = ip.get(header.l4..).unwrap_or_default();
        let is_opening = is_opening(header, l4);
        // One that opens may be against the direction of its flow, and one without ports be an error.
        let passage = if is_opening { None } else { Passage::of(from, to, header) };
        if let Some(rule) = passage.and_then(|passage| self.recent.rule(&passage, now)) {
            self.count(rule);
            return true;
        }
        let rule = self.look_up([from, to], header, l4, is_opening, now, end);
        if let (Some(passage), Some(rule)) = (passage, rule) {
            self.recent.note(passage, rule, now);
        }
        rule.is_some()
    }

    /// The rule by which a packet passes, if it does.
    fn look_up<'a>(
        &mut self,
        [from, to]: [Party; 2],
        header: &Header,
        l4: &[u8],
        is_opening: bool,
        now: Instant,
        end: &impl Fn(Party, IpAddr) -> End<'a>,
    ) -> Option<usize> {
        // An error goes against the packet that it quotes.
        if let Some((about, direction)) = error_about(header, l4)
            && let Some(rule) = self.known(&about, direction, [to, from], true, now, end)
        {
            return Some(rule);
        }
        let (key, direction) = flow_of(header, l4);
        if let Some(rule) = self.known(&key, direction, [from, to], !is_opening, now, end) {
            return Some(rule);
        }
        let decided = self.decide(from, to, &key, direction, end);
        // It is the other end's flow, which is known once that end says something.
        if !decided.1.allows
            && is_of_connection(header, l4)
            && let (Some(rule), Decision { allows: true, .. }) =
                self.decide(to, from, &key, direction.reversed(), end)
        {
            self.count(rule);
            return Some(rule);
        }
        match decided {
            (Some(rule), Decision { allows, .. }) => {
                self.count(rule);
                if allows {
                    let generation = self.generation;
                    self.flows.insert(key, Flow { from, to, direction, rule, generation, seen_at: now });
                }
                allows.then_some(rule)
            }
            (None, _) => {
                self.unmatched += 1;
                None
            }
        }
    }

    /// The rule by which this flow may pass, if it does under the rules as they are now, of which a packet goes in this
    /// direction between these two. `may_reply`: whether the packet can be one against the direction that the flow began in.
    fn known<'a>(
        &mut self,
        key: &Key,
        direction: Direction,
        [from, to]: [Party; 2],
        may_reply: bool,
        now: Instant,
        end: &impl Fn(Party, IpAddr) -> End<'a>,
    ) -> Option<usize> {
        let flow = self.flows.touch(key, now)?;
        let is_reply = flow.direction != direction;
        let (first, second) = if is_reply { (to, from) } else { (from, to) };
        if (flow.from, flow.to) != (first, second) || is_reply && !may_reply {
            return None;
        }
        if flow.generation == self.generation {
            let rule = flow.rule;
            self.count(rule);
            return Some(rule);
        }
        let Flow { from, to, direction, .. } = *flow;
        match self.decide(from, to, key, direction, end) {
            (Some(rule), Decision { allows: true, .. }) => {
                let generation = self.generation;
                self.flows.insert(*key, Flow { from, to, direction, rule, generation, seen_at: now });
                self.count(rule);
                Some(rule)
            }
            _ => {
                self.flows.remove(key);
                None
            }
        }
    }

    fn decide<'a>(
        &mut self,
        from: Party,
        to: Party,
        key: &Key,
        direction: Direction,
        end: &impl Fn(Party, IpAddr) -> End<'a>,
    ) -> (Option<usize>, Decision) {
        let [source, destination] = key.addresses(direction);
        let (source, destination) = (end(from, source), end(to, destination));
        let service = service_of(key, direction);
        if self.pairs.len() >= MAX_PAIRS && !self.pairs.contains_key(&(from, to)) {
            self.pairs.clear();
        }
        let rules = &self.rules;
        let between =
            self.pairs.entry((from, to)).or_insert_with(|| rules.between(source, destination).into());
        rules.first(between.iter().copied(), source, destination, service)
    }

    fn count(&mut self, rule: usize) {
        if let Some(count) = self.counts.get_mut(rule) {
            *count += 1;
        }
    }

    /// Frees the flows that have ended; once a minute is enough.
    pub fn sweep(&mut self, now: Instant) {
        self.flows.sweep(now);
        self.fragments.sweep(now);
    }
}

/// The flow of a packet, and its direction in it.
fn flow_of(header: &Header, l4: &[u8]) -> (Key, Direction) {
    let Header { source, destination, protocol, .. } = *header;
    let ports = match protocol {
        ICMP | ICMPV6 => echo_id(protocol, l4).map_or((0, 0), |id| (id, id)),
        _ => header.ports.unwrap_or_default(),
    };
    Key::of([source, destination], protocol, ports)
}

fn service_of(key: &Key, direction: Direction) -> Service {
    match key.protocol() {
        TCP => Service::Tcp(key.port(direction)),
        UDP => Service::Udp(key.port(direction)),
        ICMP | ICMPV6 => Service::Icmp,
        other => Service::Other(other),
    }
}

/// Whether a packet asks for something, and so is never a reply: an echo request, or TCP's SYN without ACK.
fn is_opening(header: &Header, l4: &[u8]) -> bool {
    match header.protocol {
        ICMP => l4.first() == Some(&8),
        ICMPV6 => l4.first() == Some(&128),
        // What hides its flags in a later fragment may do so, too.
        TCP => l4.get(FLAGS).is_none_or(|flags| flags & (SYN | ACK) == SYN),
        _ => false,
    }
}

/// Whether a packet is of a TCP connection that is there, as far as it says. That may have begun at another hub, or before this
/// one was started, and the side that was asked be the first to say more.
fn is_of_connection(header: &Header, l4: &[u8]) -> bool {
    let is_whole = header.fragment == Fragment::No;
    header.protocol == TCP && is_whole && l4.get(FLAGS).is_some_and(|flags| flags & (SYN | ACK) == ACK)
}

/// The identifier of an echo request or reply.
fn echo_id(protocol: u8, l4: &[u8]) -> Option<u16> {
    let &[kind, _, _, _, a, b] = l4.first_chunk()?;
    let is_echo = matches!((protocol, kind), (ICMP, 0 | 8) | (ICMPV6, 128 | 129));
    is_echo.then(|| u16::from_be_bytes([a, b]))
}

/// Whether a later fragment has the flags of TCP, over those that were looked at in the first one (RFC 3128). IPv6 takes no
/// fragments that overlap (RFC 5722).
fn overwrites_flags(ip: &[u8], header: &Header) -> bool {
    const OFFSET: u16 = 0x1fff;
    let offset = match ip {
        [_, _, _, _, _, _, a, b, ..] if !header.is_ipv6() => u16::from_be_bytes([*a, *b]) & OFFSET,
        _ => return false,
    };
    header.protocol == TCP && offset == 1
}

/// The flow that an ICMP error is about: that of the packet whose beginning it quotes.
fn error_about(header: &Header, l4: &[u8]) -> Option<(Key, Direction)> {
    let is_error = match header.protocol {
        // Unreachable, time exceeded, parameter problem.
        ICMP => matches!(l4.first(), Some(3 | 11 | 12)),
        ICMPV6 => matches!(l4.first(), Some(1..=4)),
        _ => false,
    };
    let quoted = l4.get(8..).filter(|_| is_error)?;
    let (source, destination, protocol, l4): (IpAddr, IpAddr, u8, &[u8]) = if header.is_ipv6() {
        let fixed: &[u8; 40] = quoted.first_chunk()?;
        let ([source, destination], _) = fixed[8..].as_chunks::<16>() else { return None };
        // Errors about packets with extension headers go by the rules.
        ((*source).into(), (*destination).into(), fixed[6], &quoted[40..])
    } else {
        let fixed: &[u8; 20] = quoted.first_chunk()?;
        let length = usize::from(fixed[0] & 0x0f) * 4;
        let source: [u8; 4] = fixed[12..16].try_into().ok()?;
        let destination: [u8; 4] = fixed[16..20].try_into().ok()?;
        (source.into(), destination.into(), fixed[9], quoted.get(length..)?)
    };
    let ports = match protocol {
        TCP | UDP => {
            let &[a, b, c, d] = l4.first_chunk()?;
            (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))
        }
        ICMP | ICMPV6 => echo_id(protocol, l4).map(|id| (id, id))?,
        _ => (0, 0),
    };
    // The error goes to the sender of what it quotes, who may not be told about another's packets.
    (source == header.destination).then(|| Key::of([source, destination], protocol, ports))
}

/// The identification of a fragmented packet.
fn fragment_id(ip: &[u8], header: &Header) -> Option<u32> {
    if !header.is_ipv6() {
        return Some(u16::from_be_bytes([*ip.get(4)?, *ip.get(5)?]).into());
    }
    let (mut next, mut at) = (*ip.get(6)?, 40);
    // The headers that may stand before that of a fragment (RFC 8200, section 4.5).
    while matches!(next, 0 | 43 | 60) {
        let &[after, length] = ip.get(at..)?.first_chunk()?;
        (next, at) = (after, at + 8 + 8 * usize::from(length));
    }
    if next != FRAGMENT {
        return None;
    }
    let &[_, _, _, _, a, b, c, d] = ip.get(at..)?.first_chunk()?;
    Some(u32::from_be_bytes([a, b, c, d]))
}
