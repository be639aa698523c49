//! A DNS question in, its answer out. Pure.
//!
//! The zone has a name for each machine, and the LAN's reverse zones a pointer for each address. Their answers are
//! authoritative; everything else is refused, as nothing is forwarded. The reverse zones are those that lie within the
//! LAN: of a prefix that ends within a label (10.0.0.0/20, 10.0.0.0/26) the longer ones that it consists of.
//!
//! Only the question and the OPT record of a message are read. What has not one question is dropped, as is a response,
//! so that two servers cannot talk to each other for ever. An answer is little longer than its question.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use domain::base::iana::{Class, Opcode, OptRcode, Rcode};
use domain::base::message_builder::{AdditionalBuilder, PushError, RecordSectionBuilder};
use domain::base::name::{FromStrError, ToName as _};
use domain::base::wire::Composer;
use domain::base::{Message, MessageBuilder, Name as DomainName, Rtype, Serial, StaticCompressor, Ttl};
use domain::rdata::{A, Aaaa, Ns, Ptr, Soa};
use ipnetwork::IpNetwork;

use super::zone::{Directory, Zone};
use crate::wire::name::Name;

/// How long an answer is good: a member that joins or is renamed is seen about as soon.
const TTL: Ttl = Ttl::from_secs(5);
/// Longest answer by UDP without EDNS (RFC 1035, section 4.2.1).
const PLAIN_LEN: usize = 512;
/// Longest answer by UDP with EDNS: it is not fragmented on usual paths, and the size that is announced.
pub const UDP_LEN: usize = 1_232;
/// Longest answer by TCP.
const TCP_LEN: usize = 4_096;

type Domain = DomainName<Vec<u8>>;

/// What carries a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// A datagram.
    Udp,
    /// A connection.
    Tcp,
}

/// What is answered for.
#[derive(Clone, Copy, Debug)]
pub struct Scope<'a> {
    /// The zone of names.
    pub zone: &'a Zone,
    /// The addresses of the machine that answers, with the LAN's prefixes: at most one of each family.
    pub lan: &'a [IpNetwork],
}

/// A name within the scope.
struct Node {
    /// The zone that it is in.
    apex: Domain,
    /// Whether it is the zone's own name.
    is_apex: bool,
    content: Content,
}

/// What a name has.
enum Content {
    /// The addresses of a machine.
    Addresses(Vec<IpAddr>),
    /// The name of a machine.
    Pointer(Name),
    /// Nothing, but it or names below it exist, or may: no less can be said of a part of an address (RFC 8020).
    Nothing,
    /// The name does not exist.
    Missing,
    /// It is not known yet.
    Unknown,
}

/// The answer to a message; `None` for what is no question.
pub fn answer(
    query: &[u8],
    scope: Scope<'_>,
    directory: &impl Directory,
    carrier: Carrier,
) -> Option<Vec<u8>> {
    let message = Message::from_slice(query).ok()?;
    if message.header().qr() {
        return None;
    }
    let question = message.sole_question().ok()?;
    let name: Domain = question.qname().to_canonical_name();
    let opt = message.opt();
    let limit = match (carrier, &opt) {
        (Carrier::Tcp, _) => TCP_LEN,
        (Carrier::Udp, Some(opt)) => usize::from(opt.udp_payload_size()).clamp(PLAIN_LEN, UDP_LEN),
        (Carrier::Udp, None) => PLAIN_LEN,
    };
    let reply = Reply { message, scope, directory, limit, opt_version: opt.map(|opt| opt.version()) };
    let is_transfer = [Rtype::AXFR, Rtype::IXFR].contains(&question.qtype());
    let is_internet = [Class::IN, Class::ANY].contains(&question.qclass());
    let written = if reply.opt_version.is_some_and(|version| version != 0) {
        reply.error(OptRcode::BADVERS)
    } else if message.header().opcode() != Opcode::QUERY {
        reply.error(OptRcode::NOTIMP)
    } else if is_transfer || !is_internet {
        reply.error(OptRcode::REFUSED)
    } else {
        match find(&name, scope, directory) {
            None => reply.error(OptRcode::REFUSED),
            Some(Node { content: Content::Unknown, .. }) => reply.error(OptRcode::SERVFAIL),
            Some(node) => reply.node(&node, question.qtype()).or_else(|_| reply.truncated()),
        }
    };
    written.ok()
}

// ---- what a name has

fn find(name: &Domain, scope: Scope<'_>, directory: &impl Directory) -> Option<Node> {
    let apex = domain(scope.zone.as_str()).ok()?;
    if name.ends_with(&apex) {
        let depth = name.label_count() - apex.label_count();
        let content = match depth {
            0 => Content::Nothing,
            1 => machine(name.first().as_slice(), directory),
            _ => Content::Missing,
        };
        return Some(Node { apex, is_apex: depth == 0, content });
    }
    find_reverse(name, scope.lan, directory)
}

fn machine(label: &[u8], directory: &impl Directory) -> Content {
    let name = std::str::from_utf8(label).ok().and_then(|text| text.parse::<Name>().ok());
    match name.filter(|name| name.check_host().is_ok()) {
        Some(_) if !directory.is_known() => Content::Unknown,
        Some(name) => directory.addresses(&name).map_or(Content::Missing, Content::Addresses),
        None => Content::Missing,
    }
}

/// What a name below in-addr.arpa or ip6.arpa says, read from its end.
struct Reverse {
    /// The address, zeros where the name has no labels.
    address: IpAddr,
    /// How many bits of it the name has.
    bits: u8,
    /// Bits of a label.
    step: u8,
    /// Whether there are labels in front that belong to no address.
    is_below: bool,
}

fn find_reverse(name: &Domain, lan: &[IpNetwork], directory: &impl Directory) -> Option<Node> {
    let Reverse { address, bits, step, is_below } = parse_reverse(name)?;
    let subnet = lan.iter().find(|subnet| subnet.contains(address))?;
    let apex_bits = subnet.prefix().next_multiple_of(step);
    if bits < apex_bits {
        return None;
    }
    let is_apex = bits == apex_bits && !is_below;
    let is_whole = bits == if address.is_ipv4() { 32 } else { 128 };
    let content = match (is_below, is_whole) {
        (true, _) => Content::Missing,
        (false, false) => Content::Nothing,
        (false, true) if !directory.is_known() => Content::Unknown,
        (false, true) => match directory.name(address) {
            Some(name) => Content::Pointer(name),
            None if is_apex => Content::Nothing,
            None => Content::Missing,
        },
    };
    // Two labels and the root are behind those of the address.
    let labels = usize::from(apex_bits / step) + 3;
    let apex = name.iter_suffixes().find(|suffix| suffix.label_count() == labels)?.to_vec();
    Some(Node { apex, is_apex, content })
}

fn parse_reverse(name: &Domain) -> Option<Reverse> {
    let labels: Vec<&[u8]> =
        name.iter().map(|label| label.as_slice()).filter(|label| !label.is_empty()).collect();
    let mut labels = labels.into_iter().rev();
    if labels.next() != Some(b"arpa") {
        return None;
    }
    let (radix, step, len): (u32, u8, usize) = match labels.next() {
        Some(b"in-addr") => (10, 8, 4),
        Some(b"ip6") => (16, 4, 32),
        _ => return None,
    };
    let number = |label: &[u8]| {
        let text = std::str::from_utf8(label).ok()?;
        let is_plain = !text.starts_with('+') && (text.len() == 1 || (radix == 10 && !text.starts_with('0')));
        u8::from_str_radix(text, radix).ok().filter(|_| is_plain)
    };
    let (mut parts, mut is_below) = (Vec::new(), false);
    for label in labels {
        match number(label) {
            Some(part) if parts.len() < len => parts.push(part),
            Some(_) | None => {
                is_below = true;
                break;
            }
        }
    }
    let bits = u8::try_from(parts.len()).ok()? * step;
    parts.resize(len, 0);
    let address = if step == 8 {
        <[u8; 4]>::try_from(parts).ok().map(|octets| IpAddr::from(Ipv4Addr::from(octets)))?
    } else {
        let bits = parts.iter().fold(0, |bits: u128, &part| bits << 4 | u128::from(part));
        Ipv6Addr::from_bits(bits).into()
    };
    Some(Reverse { address, bits, step, is_below })
}

fn domain(text: &str) -> Result<Domain, FromStrError> {
    Domain::vec_from_str(text)
}

// ---- the message

struct Reply<'a, D> {
    message: &'a Message<[u8]>,
    scope: Scope<'a>,
    directory: &'a D,
    /// In bytes.
    limit: usize,
    /// The version of EDNS that is spoken, if it is.
    opt_version: Option<u8>,
}

type Builder = MessageBuilder<StaticCompressor<Vec<u8>>>;

impl<D: Directory> Reply<'_, D> {
    fn builder(&self) -> Result<Builder, PushError> {
        let target = StaticCompressor::new(Vec::with_capacity(PLAIN_LEN));
        let mut builder = MessageBuilder::from_target(target).map_err(|_| PushError::ShortBuf)?;
        builder.set_push_limit(self.limit);
        Ok(builder)
    }

    fn error(&self, code: OptRcode) -> Result<Vec<u8>, PushError> {
        let answer = self.builder()?.start_answer(self.message, code.rcode())?;
        self.finish(answer.additional(), code)
    }

    fn truncated(&self) -> Result<Vec<u8>, PushError> {
        let mut answer = self.builder()?.start_answer(self.message, Rcode::NOERROR)?;
        answer.header_mut().set_aa(true);
        answer.header_mut().set_tc(true);
        self.finish(answer.additional(), OptRcode::NOERROR)
    }

    /// The records of a name, or the zone's SOA where there are none (RFC 2308).
    fn node(&self, node: &Node, rtype: Rtype) -> Result<Vec<u8>, PushError> {
        let is_missing = matches!(node.content, Content::Missing);
        let code = if is_missing { Rcode::NXDOMAIN } else { Rcode::NOERROR };
        let mut answer = self.builder()?.start_answer(self.message, code)?;
        answer.header_mut().set_aa(true);
        let before = answer.counts().ancount();
        self.push_records(&mut answer, node, rtype)?;
        let is_empty = answer.counts().ancount() == before;
        let mut authority = answer.authority();
        if is_empty {
            authority.push((&node.apex, TTL, self.soa()?))?;
        }
        self.finish(authority.additional(), code.into())
    }

    fn push_records<T: Composer>(
        &self,
        section: &mut impl RecordSectionBuilder<T>,
        node: &Node,
        rtype: Rtype,
    ) -> Result<(), PushError> {
        let question = self.message.sole_question().map_err(|_| PushError::ShortBuf)?;
        let owner = question.qname();
        let wants = |offered: Rtype| rtype == offered || rtype == Rtype::ANY;
        match &node.content {
            Content::Addresses(addresses) => {
                for address in addresses {
                    match *address {
                        IpAddr::V4(v4) if wants(Rtype::A) => section.push((owner, TTL, A::new(v4)))?,
                        IpAddr::V6(v6) if wants(Rtype::AAAA) => section.push((owner, TTL, Aaaa::new(v6)))?,
                        IpAddr::V4(_) | IpAddr::V6(_) => {}
                    }
                }
            }
            Content::Pointer(name) if wants(Rtype::PTR) => {
                section.push((owner, TTL, Ptr::new(self.in_zone(name.as_str())?)))?;
            }
            Content::Pointer(_) | Content::Nothing | Content::Missing | Content::Unknown => {}
        }
        if node.is_apex && wants(Rtype::SOA) {
            section.push((owner, TTL, self.soa()?))?;
        }
        if node.is_apex && wants(Rtype::NS) {
            section.push((owner, TTL, Ns::new(self.own_name()?)))?;
        }
        Ok(())
    }

    /// There are no secondary servers, so that the serial number and most times mean nothing.
    fn soa(&self) -> Result<Soa<Domain>, PushError> {
        let day = Ttl::from_secs(86_400);
        let (server, person) = (self.own_name()?, self.in_zone("hostmaster")?);
        Ok(Soa::new(server, person, Serial(1), day, day, day, TTL))
    }

    /// The name of the machine that answers.
    fn own_name(&self) -> Result<Domain, PushError> {
        let own = self.scope.lan.iter().find_map(|own| self.directory.name(own.ip()));
        self.in_zone(own.as_ref().map_or("ns", Name::as_str))
    }

    fn in_zone(&self, label: &str) -> Result<Domain, PushError> {
        domain(&format!("{label}.{}", self.scope.zone)).map_err(|_| PushError::ShortBuf)
    }

    fn finish(
        &self,
        mut additional: AdditionalBuilder<StaticCompressor<Vec<u8>>>,
        code: OptRcode,
    ) -> Result<Vec<u8>, PushError> {
        if self.opt_version.is_some() {
            additional.opt(|opt| {
                opt.set_udp_payload_size(UDP_LEN as u16);
                opt.set_rcode(code);
                Ok(())
            })?;
        }
        Ok(additional.finish().into_target())
    }
}

#[cfg(test)]
mod tests;
