//! The machine's network configuration, by rtnetlink(7): links, addresses, routes and policy rules.
//!
//! IO: owns one netlink socket, and works in the network namespace that it was opened in. A request is
//! answered before the kernel returns from it, so no call here waits. The bytes are [`message`]'s.
//! Changing anything needs CAP_NET_ADMIN, when the socket is opened and when it is used.

#![expect(clippy::disallowed_methods, reason = "IO: opens the netlink socket")]

mod message;

use std::cell::Cell;
use std::io::{self, ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::{error, fmt};

use ipnetwork::IpNetwork;
use message::{Message, Request, attribute, attributes, number_i32, number_u16, number_u32};
use socket2::{Domain, Protocol, Socket, Type};

use crate::tun;

/// The main routing table, `RT_TABLE_MAIN`.
pub const MAIN_TABLE: u32 = libc::RT_TABLE_MAIN as u32;

/// A connection to the kernel's rtnetlink.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
    sequence: Cell<u32>,
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The number that routes and addresses know it by.
    pub index: u32,
    /// Largest IP packet in bytes.
    pub mtu: u32,
    /// `IFF_*` of net/if.h.
    pub flags: u32,
}

/// One entry of a routing table. It is marked `proto static`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where to; host bits are ignored.
    pub prefix: IpNetwork,
    /// The next hop; `None` where the interface itself leads there (`scope link`).
    pub gateway: Option<IpAddr>,
    /// Index of the interface that it leaves by.
    pub interface: u32,
    /// Routing table, [`MAIN_TABLE`] for the usual one.
    pub table: u32,
    /// Lower is preferred; `None` is the kernel's default, 0 for IPv4 and 1024 for IPv6.
    pub metric: Option<u32>,
}

/// Where the kernel would send a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// The router; `None` where the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// Index of the interface.
    pub interface: u32,
    /// The address that the kernel would send from.
    pub source: Option<IpAddr>,
}

/// An IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4
    V4,
    /// IPv6
    V6,
}

/// A policy rule of one family, as ip-rule(8) has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The packets it applies to.
    pub family: Family,
    /// Lower is asked first; the kernel's own `main` rule is 32766.
    pub priority: u32,
    /// What it does.
    pub verdict: Verdict,
}

/// What a [`Rule`] does with a packet. The two together send everything through a tunnel except what
/// carries the mark, which is the tunnel's own connection, and what a more specific route takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// `not fwmark MARK lookup TABLE`: what is not marked is routed by `table`.
    Unmarked {
        /// The firewall mark (`SO_MARK`).
        mark: u32,
        /// The table that has the default route.
        table: u32,
    },
    /// `lookup main suppress_prefixlength 0`: the main table without its default routes. To be asked
    /// before [`Verdict::Unmarked`], so with a lower priority number.
    MainWithoutDefault,
}

/// The kernel refused a request. One line, with the fix where there is one.
#[derive(Debug)]
pub struct Error {
    action: String,
    cause: io::Error,
    words: Option<String>,
}

impl Netlink {
    /// Opens a socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// Where descriptors are used up, or netlink is not to be had (a sandbox).
    pub fn open() -> Result<Netlink, Error> {
        let netlink = Domain::from(libc::AF_NETLINK);
        let socket = Socket::new(netlink, Type::RAW.cloexec(), Some(Protocol::from(libc::NETLINK_ROUTE)))
            .map_err(|cause| Refusal { cause, words: None }.to("open a netlink socket"))?;
        // Since Linux 4.12 and 4.20: words in a refusal, and dumps filtered by the kernel. We filter too.
        for option in [libc::NETLINK_EXT_ACK, libc::NETLINK_GET_STRICT_CHK] {
            if let Err(error) = tun::set_netlink_option(socket.as_fd(), option) {
                log::debug!("netlink option {option} is not to be had: {error}");
            }
        }
        Ok(Netlink { socket, sequence: Cell::new(0) })
    }

    /// The interface of that name.
    ///
    /// # Errors
    /// `ENODEV` where there is none.
    pub fn link(&self, name: &str) -> Result<Link, Error> {
        let request = Request::new(libc::RTM_GETLINK, ACK, &link_header(0, 0, 0))
            .attribute(libc::IFLA_IFNAME, &terminated(name));
        let mut link = None;
        self.exchange(request, &mut |message| link = link.take().or_else(|| read_link(message)))
            .and_then(|()| link.ok_or_else(malformed))
            .map_err(|refusal| refusal.to(format!("look up the interface {name}")))
    }

    /// Sets the MTU of an interface, in bytes. Below 1280 the kernel takes IPv6 and its addresses away.
    ///
    /// # Errors
    /// `EINVAL` outside of what the interface can.
    pub fn set_mtu(&self, interface: u32, mtu: u32) -> Result<(), Error> {
        let request = Request::new(libc::RTM_SETLINK, ACK, &link_header(interface, 0, 0))
            .attribute(libc::IFLA_MTU, &mtu.to_ne_bytes());
        self.change(request, &[]).map_err(|refusal| refusal.to(format!("set the MTU to {mtu}")))
    }

    /// Sets those of an interface's flags that are in `mask` to what they are in `flags`
    /// (`IFF_*`; the kernel ignores the ones that describe the hardware, as `IFF_BROADCAST`).
    ///
    /// # Errors
    /// As the kernel has it.
    pub fn set_flags(&self, interface: u32, flags: u32, mask: u32) -> Result<(), Error> {
        let request = Request::new(libc::RTM_SETLINK, ACK, &link_header(interface, flags, mask));
        self.change(request, &[]).map_err(|refusal| refusal.to("bring the interface up"))
    }

    /// Keeps the kernel from giving an interface an IPv6 link-local address of its own when it comes up.
    /// Succeeds where the interface or the machine has no IPv6.
    ///
    /// # Errors
    /// As the kernel has it.
    pub fn without_link_local(&self, interface: u32) -> Result<(), Error> {
        let mode = attribute(IFLA_INET6_ADDR_GEN_MODE, &[IN6_ADDR_GEN_MODE_NONE]);
        let request = Request::new(libc::RTM_SETLINK, ACK, &link_header(interface, 0, 0))
            .attribute(libc::IFLA_AF_SPEC, &attribute(libc::AF_INET6 as u16, &mode));
        self.change(request, &[libc::EAFNOSUPPORT, libc::EOPNOTSUPP])
            .map_err(|refusal| refusal.to("switch the link-local address off"))
    }

    /// Every address of the machine, with its prefix and the index of its interface.
    ///
    /// # Errors
    /// As the kernel has it.
    pub fn addresses(&self) -> Result<Vec<(u32, IpNetwork)>, Error> {
        let header = address_header(libc::AF_UNSPEC as u8, 0, 0);
        self.dump(|| Request::new(libc::RTM_GETADDR, DUMP, &header), read_address)
            .map_err(|refusal| refusal.to("list the addresses"))
    }

    /// Gives an interface an address; the kernel adds the route to its prefix. An IPv6 address can be
    /// bound at once (no duplicate address detection). Succeeds where it is there.
    ///
    /// # Errors
    /// Where IPv6 is switched off, and as the kernel has it.
    pub fn add_address(&self, interface: u32, address: IpNetwork) -> Result<(), Error> {
        let request = address_request(libc::RTM_NEWADDR, CREATE | ACK, interface, address);
        let action = || format!("add the address {address}");
        match self.change(request, &[]) {
            Err(refusal) if refusal.is(libc::EEXIST) => {
                // The kernel tells IPv6 addresses apart without their prefix.
                let there = self.addresses()?.contains(&(interface, address));
                if there { Ok(()) } else { Err(refusal.to(action())) }
            }
            Err(refusal) if address.is_ipv6() && refusal.says_no_ipv6() => {
                Err(refusal.because(NO_IPV6).to(action()))
            }
            outcome => outcome.map_err(|refusal| refusal.to(action())),
        }
    }

    /// Takes an address from an interface, with the route to its prefix. Succeeds where it is gone.
    ///
    /// # Errors
    /// As the kernel has it.
    pub fn remove_address(&self, interface: u32, address: IpNetwork) -> Result<(), Error> {
        let request = address_request(libc::RTM_DELADDR, ACK, interface, address);
        self.change(request, &[libc::EADDRNOTAVAIL])
            .map_err(|refusal| refusal.to(format!("remove the address {address}")))
    }

    /// Adds a route. Succeeds where this very route is there, and never touches another's.
    ///
    /// # Errors
    /// `EEXIST` where the table has another route to the same prefix with the same metric.
    pub fn add_route(&self, route: &Route) -> Result<(), Error> {
        let scope = if route.gateway.is_some() { libc::RT_SCOPE_UNIVERSE } else { libc::RT_SCOPE_LINK };
        let request = route_request(libc::RTM_NEWROUTE, CREATE | ACK, scope, route);
        let action = || format!("add the route {}", route.prefix);
        match self.change(request, &[]) {
            Err(refusal) if refusal.is(libc::EEXIST) => {
                if self.has_route(route).map_err(|refusal| refusal.to(action()))? {
                    return Ok(());
                }
                let words = "another route to this prefix is there, see `ip route`";
                Err(refusal.because(words).to(action()))
            }
            outcome => outcome.map_err(|refusal| refusal.to(action())),
        }
    }

    /// Removes a route that [`Netlink::add_route`] added. Succeeds where it is gone.
    ///
    /// # Errors
    /// As the kernel has it.
    pub fn remove_route(&self, route: &Route) -> Result<(), Error> {
        // For IPv4 "nowhere" means whatever the scope; IPv6 has none.
        let request = route_request(libc::RTM_DELROUTE, ACK, libc::RT_SCOPE_NOWHERE, route);
        self.change(request, &[libc::ESRCH])
            .map_err(|refusal| refusal.to(format!("remove the route {}", route.prefix)))
    }

    /// Where the kernel sends what goes to `destination`, for a socket with the firewall mark `mark`.
    /// `None` where there is no route.
    ///
    /// # Errors
    /// As the kernel has it.
    pub fn route_to(&self, destination: IpAddr, mark: Option<u32>) -> Result<Option<NextHop>, Error> {
        let family = Family::of(destination);
        let header = [family.number(), family.bits(), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let request = Request::new(libc::RTM_GETROUTE, ACK, &header)
            .attribute(libc::RTA_DST, &octets(destination))
            .maybe(libc::RTA_MARK, mark.map(u32::to_ne_bytes).as_ref().map(|mark| &mark[..]));
        let mut hop = None;
        match self.exchange(request, &mut |message| hop = hop.take().or_else(|| read_next_hop(message))) {
            Err(refusal) if refusal.is(libc::ENETUNREACH) || refusal.is(libc::EHOSTUNREACH) => Ok(None),
            outcome => outcome
                .map(|()| hop)
                .map_err(|refusal| refusal.to(format!("look up the route to {destination}"))),
        }
    }

    /// Adds a policy rule. Succeeds where it is there.
    ///
    /// # Errors
    /// As the kernel has it; `EAFNOSUPPORT` for IPv6 where the kernel has none.
    pub fn add_rule(&self, rule: &Rule) -> Result<(), Error> {
        self.change(rule_request(libc::RTM_NEWRULE, CREATE | ACK, rule), &[libc::EEXIST])
            .map_err(|refusal| refusal.to("add a policy rule"))
    }

    /// Removes a policy rule. Succeeds where it is gone.
    ///
    /// # Errors
    /// As the kernel has it; `EAFNOSUPPORT` for IPv6 where the kernel has none.
    pub fn remove_rule(&self, rule: &Rule) -> Result<(), Error> {
        self.change(rule_request(libc::RTM_DELRULE, ACK, rule), &[libc::ENOENT])
            .map_err(|refusal| refusal.to("remove a policy rule"))
    }

    /// Whether exactly this route is in its table.
    fn has_route(&self, route: &Route) -> Result<bool, Refusal> {
        let family = Family::of(route.prefix.ip());
        let header = [family.number(), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let request = || {
            Request::new(libc::RTM_GETROUTE, DUMP, &header)
                .attribute(libc::RTA_TABLE, &route.table.to_ne_bytes())
                .attribute(libc::RTA_OIF, &route.interface.to_ne_bytes())
        };
        let wanted = Route {
            prefix: network(route.prefix),
            metric: Some(route.metric.unwrap_or(0)).filter(|&metric| metric != 0).or(family.metric()),
            ..route.clone()
        };
        Ok(self.dump(request, read_route)?.contains(&wanted))
    }

    /// A request that changes something; an errno in `fine` is as good as success.
    fn change(&self, request: Request, fine: &[i32]) -> Result<(), Refusal> {
        match self.exchange(request, &mut |_| ()) {
            Err(refusal) if fine.iter().any(|&errno| refusal.is(errno)) => Ok(()),
            outcome => outcome,
        }
    }

    /// Everything that a dump has; begun again when the tables changed under it.
    fn dump<T>(
        &self,
        request: impl Fn() -> Request,
        read: impl Fn(&Message<'_>) -> Option<T>,
    ) -> Result<Vec<T>, Refusal> {
        const TRIES: usize = 10;
        for _ in 0..TRIES {
            let (mut found, mut changed) = (Vec::new(), false);
            self.exchange(request(), &mut |message| {
                changed |= message.flags & libc::NLM_F_DUMP_INTR as u16 != 0;
                found.extend(read(message));
            })?;
            if !changed {
                return Ok(found);
            }
        }
        Err(Refusal { cause: io::Error::from_raw_os_error(libc::EINTR), words: None })
    }

    /// Sends `request`, hands each message of the answer to `each`, and returns at the acknowledgement or
    /// at the end of the dump.
    fn exchange(&self, request: Request, each: &mut dyn FnMut(&Message<'_>)) -> Result<(), Refusal> {
        let sequence = self.sequence.get().wrapping_add(1);
        self.sequence.set(sequence);
        let bytes = request.finish(sequence);
        retry(|| self.socket.send(&bytes))?;
        // The kernel's messages are at most 32 KiB, NLMSG_GOODSIZE and its growth.
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let length = retry(|| (&self.socket).read(&mut buffer))?;
            if length == 0 {
                return Err(malformed());
            }
            for message in message::messages(&buffer[..length]) {
                let message = message.map_err(|_| malformed())?;
                // What an earlier request that failed half-way left behind is not ours.
                if message.sequence != sequence {
                    continue;
                }
                match i32::from(message.kind) {
                    libc::NLMSG_ERROR => {
                        let (errno, words) = message::outcome(&message).map_err(|_| malformed())?;
                        return Refusal::or_success(errno, words);
                    }
                    libc::NLMSG_DONE => {
                        let errno = number_i32(message.body, 0).unwrap_or(0);
                        return Refusal::or_success(errno.min(0).saturating_neg(), None);
                    }
                    _ => each(&message),
                }
            }
        }
    }
}

impl Family {
    /// The family of an address.
    pub fn of(address: IpAddr) -> Family {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    /// `AF_INET` or `AF_INET6`.
    fn number(self) -> u8 {
        match self {
            Family::V4 => libc::AF_INET as u8,
            Family::V6 => libc::AF_INET6 as u8,
        }
    }

    /// Bits of an address.
    fn bits(self) -> u8 {
        match self {
            Family::V4 => 32,
            Family::V6 => 128,
        }
    }

    /// The metric that a dump shows for a route that was added without (`IP6_RT_PRIO_USER`).
    fn metric(self) -> Option<u32> {
        match self {
            Family::V4 => None,
            Family::V6 => Some(1024),
        }
    }
}

impl Error {
    /// The kernel's errno; `None` where its answer made no sense.
    pub fn errno(&self) -> Option<i32> {
        self.cause.raw_os_error()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}: {}", self.action, self.cause)?;
        match (&self.words, self.errno()) {
            (Some(words), _) => write!(f, ": {words}"),
            (None, Some(libc::EPERM)) => f.write_str(": run as root or give CAP_NET_ADMIN"),
            (None, _) => Ok(()),
        }
    }
}

impl error::Error for Error {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        Some(&self.cause)
    }
}

/// An [`Error`] that does not yet say what was wanted.
#[derive(Debug)]
struct Refusal {
    cause: io::Error,
    words: Option<String>,
}

impl Refusal {
    fn or_success(errno: i32, words: Option<String>) -> Result<(), Refusal> {
        match errno {
            0 => Ok(()),
            _ => Err(Refusal { cause: io::Error::from_raw_os_error(errno), words }),
        }
    }

    fn is(&self, errno: i32) -> bool {
        self.cause.raw_os_error() == Some(errno)
    }

    /// Whether an IPv6 address was refused because there is no IPv6: by sysctl, by MTU, or in the kernel.
    fn says_no_ipv6(&self) -> bool {
        [libc::EACCES, libc::EAFNOSUPPORT, libc::EOPNOTSUPP, libc::ENOBUFS]
            .iter()
            .any(|&errno| self.is(errno))
    }

    fn because(self, words: &str) -> Refusal {
        Refusal { words: Some(words.to_owned()), ..self }
    }

    fn to(self, action: impl Into<String>) -> Error {
        Error { action: action.into(), cause: self.cause, words: self.words }
    }
}

impl From<io::Error> for Refusal {
    fn from(cause: io::Error) -> Refusal {
        Refusal { cause, words: None }
    }
}

const ACK: u16 = libc::NLM_F_ACK as u16;
const DUMP: u16 = libc::NLM_F_DUMP as u16;
/// Make it, and say so when it is there.
const CREATE: u16 = (libc::NLM_F_CREATE | libc::NLM_F_EXCL) as u16;

/// Both of linux/if_link.h.
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const IN6_ADDR_GEN_MODE_NONE: u8 = 1;

/// linux/fib_rules.h.
const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FRA_SUPPRESS_PREFIXLEN: u16 = 14;
const FRA_TABLE: u16 = 15;
const FRA_FWMASK: u16 = 16;
const FRA_PROTOCOL: u16 = 21;
const FR_ACT_TO_TBL: u8 = 1;
const FIB_RULE_INVERT: u32 = 2;

const NO_IPV6: &str = "this interface has no IPv6: its MTU is below 1280, or IPv6 is switched off, \
                       see `sysctl net.ipv6.conf.all.disable_ipv6 net.ipv6.conf.default.disable_ipv6`";

fn malformed() -> Refusal {
    Refusal { cause: io::Error::new(ErrorKind::InvalidData, "the kernel's answer is malformed"), words: None }
}

fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::Interrupted => (),
            outcome => return outcome,
        }
    }
}

/// `struct ifinfomsg`: family, padding, type, index, flags, mask of the flags to change.
fn link_header(interface: u32, flags: u32, mask: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&interface.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..].copy_from_slice(&mask.to_ne_bytes());
    header
}

/// `struct ifaddrmsg`: family, prefix length, flags, scope, index.
fn address_header(family: u8, prefix: u8, interface: u32) -> [u8; 8] {
    let mut header = [family, prefix, 0, libc::RT_SCOPE_UNIVERSE, 0, 0, 0, 0];
    header[4..].copy_from_slice(&interface.to_ne_bytes());
    header
}

fn address_request(kind: u16, flags: u16, interface: u32, address: IpNetwork) -> Request {
    let ip = octets(address.ip());
    let header = address_header(Family::of(address.ip()).number(), address.prefix(), interface);
    let request =
        Request::new(kind, flags, &header).attribute(libc::IFA_LOCAL, &ip).attribute(libc::IFA_ADDRESS, &ip);
    match address {
        // A prefix of 31 or 32 bits has no broadcast address (RFC 3021).
        IpNetwork::V4(address) if address.prefix() <= 30 => {
            request.attribute(libc::IFA_BROADCAST, &address.broadcast().octets())
        }
        IpNetwork::V4(_) => request,
        IpNetwork::V6(_) => request.attribute(libc::IFA_FLAGS, &libc::IFA_F_NODAD.to_ne_bytes()),
    }
}

/// `struct rtmsg`: family, prefix lengths, TOS, table, protocol, scope, type, flags. The table's number
/// goes in an attribute, since it may not fit.
fn route_request(kind: u16, flags: u16, scope: u8, route: &Route) -> Request {
    let family = Family::of(route.prefix.ip());
    let mut header = [0; 12];
    header[0] = family.number();
    header[1] = route.prefix.prefix();
    header[5] = libc::RTPROT_STATIC;
    header[6] = scope;
    header[7] = libc::RTN_UNICAST;
    let request = Request::new(kind, flags, &header)
        .attribute(libc::RTA_DST, &octets(route.prefix.network()))
        .attribute(libc::RTA_TABLE, &route.table.to_ne_bytes())
        .attribute(libc::RTA_OIF, &route.interface.to_ne_bytes())
        .maybe(libc::RTA_PRIORITY, route.metric.map(u32::to_ne_bytes).as_ref().map(|metric| &metric[..]));
    match route.gateway {
        None => request,
        Some(gateway) if Family::of(gateway) == family => {
            request.attribute(libc::RTA_GATEWAY, &octets(gateway))
        }
        Some(gateway) => {
            // struct rtvia: IPv4 by way of an IPv6 router (RFC 5549).
            let mut via = u16::from(Family::of(gateway).number()).to_ne_bytes().to_vec();
            via.extend(octets(gateway));
            request.attribute(libc::RTA_VIA, &via)
        }
    }
}

/// `struct fib_rule_hdr`: family, prefix lengths, TOS, table, two reserved, action, flags.
fn rule_request(kind: u16, flags: u16, rule: &Rule) -> Request {
    let inverted = match rule.verdict {
        Verdict::Unmarked { .. } => FIB_RULE_INVERT,
        Verdict::MainWithoutDefault => 0,
    };
    let mut header = [0; 12];
    header[0] = rule.family.number();
    header[7] = FR_ACT_TO_TBL;
    header[8..].copy_from_slice(&inverted.to_ne_bytes());
    let request = Request::new(kind, flags, &header)
        .attribute(FRA_PRIORITY, &rule.priority.to_ne_bytes())
        .attribute(FRA_PROTOCOL, &[libc::RTPROT_STATIC]);
    match rule.verdict {
        Verdict::Unmarked { mark, table } => request
            .attribute(FRA_TABLE, &table.to_ne_bytes())
            .attribute(FRA_FWMARK, &mark.to_ne_bytes())
            .attribute(FRA_FWMASK, &u32::MAX.to_ne_bytes()),
        Verdict::MainWithoutDefault => request
            .attribute(FRA_TABLE, &MAIN_TABLE.to_ne_bytes())
            .attribute(FRA_SUPPRESS_PREFIXLEN, &0u32.to_ne_bytes()),
    }
}

fn read_link(message: &Message<'_>) -> Option<Link> {
    let index = number_u32(message.body, 4)?;
    let flags = number_u32(message.body, 8)?;
    let mtu = attributes(message.body.get(16..)?).find(|&(kind, _)| kind == libc::IFLA_MTU)?.1;
    Some(Link { index, mtu: number_u32(mtu, 0)?, flags })
}

fn read_address(message: &Message<'_>) -> Option<(u32, IpNetwork)> {
    let prefix = *message.body.get(1)?;
    let index = number_u32(message.body, 4)?;
    let (mut local, mut peer) = (None, None);
    for (kind, value) in attributes(message.body.get(8..)?) {
        match kind {
            libc::IFA_LOCAL => local = address(value),
            libc::IFA_ADDRESS => peer = address(value),
            _ => (),
        }
    }
    // IFA_ADDRESS is the other end where there is one, and IPv6 has IFA_LOCAL only then.
    Some((index, IpNetwork::new(local.or(peer)?, prefix).ok()?))
}

fn read_route(message: &Message<'_>) -> Option<Route> {
    let family = match i32::from(*message.body.first()?) {
        libc::AF_INET => Family::V4,
        libc::AF_INET6 => Family::V6,
        _ => return None,
    };
    let mut destination = match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        Family::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let mut table = u32::from(*message.body.get(4)?);
    let (mut gateway, mut interface, mut metric) = (None, None, None);
    for (kind, value) in attributes(message.body.get(12..)?) {
        match kind {
            libc::RTA_DST => destination = address(value)?,
            libc::RTA_TABLE => table = number_u32(value, 0)?,
            libc::RTA_OIF => interface = number_u32(value, 0),
            libc::RTA_PRIORITY => metric = number_u32(value, 0),
            libc::RTA_GATEWAY => gateway = address(value),
            libc::RTA_VIA => gateway = via(value),
            _ => (),
        }
    }
    let prefix = IpNetwork::new(destination, *message.body.get(1)?).ok()?;
    Some(Route { prefix, gateway, interface: interface?, table, metric })
}

fn read_next_hop(message: &Message<'_>) -> Option<NextHop> {
    // Only these two lead anywhere; the others forbid.
    if ![libc::RTN_UNICAST, libc::RTN_LOCAL].contains(message.body.get(7)?) {
        return None;
    }
    let (mut gateway, mut interface, mut source) = (None, None, None);
    for (kind, value) in attributes(message.body.get(12..)?) {
        match kind {
            libc::RTA_OIF => interface = number_u32(value, 0),
            libc::RTA_GATEWAY => gateway = address(value),
            libc::RTA_VIA => gateway = via(value),
            libc::RTA_PREFSRC => source = address(value),
            _ => (),
        }
    }
    Some(NextHop { gateway, interface: interface?, source })
}

/// An address without its host bits.
fn network(prefix: IpNetwork) -> IpNetwork {
    IpNetwork::new(prefix.network(), prefix.prefix()).unwrap_or(prefix)
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

fn via(bytes: &[u8]) -> Option<IpAddr> {
    number_u16(bytes, 0)?;
    address(bytes.get(2..)?)
}

fn terminated(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.push(0);
    bytes
}
