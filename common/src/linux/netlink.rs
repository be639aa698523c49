//! The machine's network configuration, by rtnetlink(7): links, addresses, routes and policy rules.
//!
//! IO: owns one netlink socket, and works in the network namespace that it was opened in. A request is
//! answered before the kernel returns from it, so no call here waits. The bytes are `message`'s and `codec`'s.
//! Changing anything needs CAP_NET_ADMIN, when the socket is opened and when it is used.

#![expect(clippy::disallowed_methods, reason = "IO: opens the netlink socket")]

mod codec;
mod message;
mod objects;
mod refusal;
mod rule;

use std::cell::Cell;
use std::io::{self, ErrorKind, Read};
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};

use ipnetwork::IpNetwork;
use message::{Message, Request, number_i32};
use nix::sys::socket::{self, NetlinkAddr};
use refusal::{NO_IPV6, Refusal, malformed};
use socket2::{Domain, Protocol, Socket, Type};

pub use objects::{Family, Interface, LOCAL_TABLE, MAIN_TABLE, NextHop, OUR_PROTOCOL, Route};
pub use refusal::Error;
pub use rule::{DeviceName, Rule, RuleAction, Service};

use crate::linux::sys;

/// A connection to the kernel's rtnetlink.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
    sequence: Cell<u32>,
    /// The kernel's number for this socket; changes made by it are announced to others with this number.
    id: u32,
}

impl Netlink {
    /// Opens a socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// If descriptors are used up, or netlink is unavailable, as in a sandbox.
    pub fn open() -> Result<Netlink, Error> {
        let netlink = Domain::from(libc::AF_NETLINK);
        let (socket, id) =
            Socket::new(netlink, Type::RAW.cloexec(), Some(Protocol::from(libc::NETLINK_ROUTE)))
                .and_then(|socket| {
                    // Bound by hand, so that the kernel's choice of a number can be asked for.
                    socket::bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
                    let address: NetlinkAddr = socket::getsockname(socket.as_raw_fd())?;
                    Ok((socket, address.pid()))
                })
                .map_err(|cause| Refusal::from(cause).to("open a netlink socket"))?;
        // Since Linux 4.12 and 4.20: words in a refusal, and dumps filtered by the kernel. We filter too.
        for option in [libc::NETLINK_EXT_ACK, libc::NETLINK_GET_STRICT_CHK] {
            if let Err(error) = sys::set_socket_option(socket.as_fd(), libc::SOL_NETLINK, option, 1) {
                log::debug!("netlink option {option} is unavailable: {error}");
            }
        }
        Ok(Netlink { socket, sequence: Cell::new(0), id })
    }

    /// The kernel's number for this socket, which announcements of changes made by it carry.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The interface of that name.
    ///
    /// # Errors
    /// `ENODEV` where there is none.
    pub fn link(&self, name: &str) -> Result<Interface, Error> {
        let mut link = None;
        self.exchange(codec::get_link(name), &mut |message| {
            link = link.take().or_else(|| codec::read_link(message))
        })
        .and_then(|()| link.ok_or_else(malformed))
        .map_err(|refusal| refusal.to(format!("look up the interface {name}")))
    }

    /// The interface with that index; `None` where there is none.
    ///
    /// # Errors
    /// As the kernel has it.
    pub fn link_by_index(&self, index: u32) -> Result<Option<Interface>, Error> {
        let mut link = None;
        match self.exchange(codec::get_link_by_index(index), &mut |message| {
            link = link.take().or_else(|| codec::read_link(message))
        }) {
            Err(refusal) if refusal.is(libc::ENODEV) => Ok(None),
            outcome => {
                outcome.map(|()| link).map_err(|refusal| refusal.to(format!("look up interface {index}")))
            }
        }
    }

    /// All interfaces.
    ///
    /// # Errors
    /// As the kernel has it.
    pub fn links(&self) -> Result<Vec<Interface>, Error> {
        self.dump(codec::list_links, codec::read_link).map_err(|refusal| refusal.to("list the interfaces"))
    }

    /// Sets the MTU of an interface, in bytes. Below 1280 the kernel takes IPv6 and its addresses away.
    ///
    /// # Errors
    /// `EINVAL` outside of what the interface can.
    pub fn set_mtu(&self, interface: u32, mtu: u32) -> Result<(), Error> {
        self.change(codec::set_mtu(interface, mtu), &[])
            .map_err(|refusal| refusal.to(format!("set the MTU to {mtu}")))
    }

    /// Sets those of an interface's flags that are in `mask` to what they are in `flags`
    /// (`IFF_*`; the kernel ignores the ones that describe the hardware, as `IFF_BROADCAST`).
    ///
    /// # Errors
    /// As the kernel has it.
    pub fn set_flags(&self, interface: u32, flags: u32, mask: u32) -> Result<(), Error> {
        self.change(codec::set_flags(interface, flags, mask), &[]).map_err(|refusal| {
            refusal.to(format!("set flags {flags:#x} of {mask:#x} on interface {interface}"))
        })
    }

    /// Keeps the kernel from giving an interface an IPv6 link-local address of its own when it comes up.
    /// Succeeds where the interface or the machine has no IPv6.
    ///
    /// # Errors
    /// As the kernel has it.
    pub fn without_link_local(&self, interface: u32) -> Result<(), Error> {
        self.change(codec::set_no_link_local(interface), &[libc::EAFNOSUPPORT, libc::EOPNOTSUPP])
            .map_err(|refusal| refusal.to("switch the link-local address off"))
    }

    /// Has IPv4 packets forwarded that come in by an interface, whatever the machine does with those of others. IPv6 has
    /// one switch for all of them.
    ///
    /// # Errors
    /// As the kernel has it.
    pub fn set_forwarding(&self, interface: u32) -> Result<(), Error> {
        self.change(codec::set_forwarding(interface), &[])
            .map_err(|refusal| refusal.to("have packets forwarded"))
    }

    /// Every address of the machine, with its prefix and the index of its interface.
    ///
    /// # Errors
    /// As the kernel has it.
    pub fn addresses(&self) -> Result<Vec<(u32, IpNetwork)>, Error> {
        self.dump(codec::list_addresses, codec::read_address)
            .map_err(|refusal| refusal.to("list the addresses"))
    }

    /// Gives an interface an address; the kernel adds the route to its prefix, with this metric (lower is
    /// preferred; Linux before 4.18 takes its own). An IPv6 address can be bound at once (no duplicate address
    /// detection). Succeeds where it is there.
    ///
    /// # Errors
    /// Where IPv6 is switched off, and as the kernel has it.
    pub fn add_address(&self, interface: u32, address: IpNetwork, metric: Option<u32>) -> Result<(), Error> {
        let action = || format!("add the address {address}");
        match self.change(codec::new_address(interface, address, metric), &[]) {
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
        self.change(codec::del_address(interface, address), &[libc::EADDRNOTAVAIL])
            .map_err(|refusal| refusal.to(format!("remove the address {address}")))
    }

    /// Adds a route. Succeeds where this very route is there, and never touches another's.
    ///
    /// # Errors
    /// `EEXIST` where the table has another route to the same prefix with the same metric.
    pub fn add_route(&self, route: &Route) -> Result<(), Error> {
        let action = || format!("add the route {}", route.prefix);
        match self.change(codec::new_route(route), &[]) {
            Err(refusal) if refusal.is(libc::EEXIST) => {
                if self.has_route(route).map_err(|refusal| refusal.to(action()))? {
                    return Ok(());
                }
                let words = "another route to this prefix is there, see `ip route`";
                Err(refusal.because(words).to(action()))
            }
            Err(refusal) if route.prefix.is_ipv6() && refusal.says_no_ipv6() => {
                Err(refusal.because(NO_IPV6).to(action()))
            }
            outcome => outcome.map_err(|refusal| refusal.to(action())),
        }
    }

    /// Removes a route that [`Netlink::add_route`] added. Succeeds where it is gone.
    ///
    /// # Errors
    /// As the kernel has it.
    pub fn remove_route(&self, route: &Route) -> Result<(), Error> {
        self.change(codec::del_route(route), &[libc::ESRCH])
            .map_err(|refusal| refusal.to(format!("remove the route {}", route.prefix)))
    }

    /// The routes of this family through this interface that carry our mark, of all tables.
    ///
    /// # Errors
    /// As the kernel has it.
    pub fn routes(&self, family: Family, interface: u32) -> Result<Vec<Route>, Error> {
        self.routes_by(OUR_PROTOCOL, family, interface)
    }

    /// As [`Netlink::routes`], those that the kernel made itself with an interface's addresses.
    ///
    /// # Errors
    /// As the kernel has it.
    pub fn routes_of_addresses(&self, family: Family, interface: u32) -> Result<Vec<Route>, Error> {
        self.routes_by(libc::RTPROT_KERNEL, family, interface)
    }

    fn routes_by(&self, protocol: u8, family: Family, interface: u32) -> Result<Vec<Route>, Error> {
        let read = |message: &Message<'_>| {
            let is_asked_for = codec::protocol_of_route(message) == Some(protocol);
            let route = codec::read_route(message).filter(|_| is_asked_for)?;
            (route.interface == interface && Family::of(route.prefix.ip()) == family).then_some(route)
        };
        self.dump(|| codec::list_routes(family, interface, None, protocol), read)
            .map_err(|refusal| refusal.to("list the routes"))
    }

    /// The routes of this family in one table, whoever made them; of several next hops the first counts. A machine may
    /// have very many.
    ///
    /// # Errors
    /// As the kernel has it.
    pub fn table(&self, family: Family, table: u32) -> Result<Vec<Route>, Error> {
        let read = |message: &Message<'_>| {
            codec::read_route(message)
                .filter(|route| route.table == table && Family::of(route.prefix.ip()) == family)
        };
        match self.dump(|| codec::list_table(family, table), read) {
            // A table without a route is none.
            Err(refusal) if refusal.is(libc::ENOENT) => Ok(Vec::new()),
            listed => listed.map_err(|refusal| refusal.to("list the routes of a table")),
        }
    }

    /// Where the kernel sends what goes to `destination`.
    /// `None` where there is no route.
    ///
    /// # Errors
    /// As the kernel has it.
    pub fn route_to(&self, destination: IpAddr) -> Result<Option<NextHop>, Error> {
        self.route_from(None, destination)
    }

    /// As [`Netlink::route_to`], for a packet from this address; `None` too where the machine does not have it.
    ///
    /// # Errors
    /// As the kernel has it.
    pub fn route_from(&self, source: Option<IpAddr>, destination: IpAddr) -> Result<Option<NextHop>, Error> {
        let mut hop = None;
        let request = codec::get_route(source, destination);
        match self
            .exchange(request, &mut |message| hop = hop.take().or_else(|| codec::read_next_hop(message)))
        {
            Err(refusal) if refusal.is(libc::ENETUNREACH) || refusal.is(libc::EHOSTUNREACH) => Ok(None),
            // IPv4 calls an address invalid that the machine does not have.
            Err(refusal) if source.is_some() && refusal.is(libc::EINVAL) => Ok(None),
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
        self.change(rule::new_rule(rule), &[libc::EEXIST]).map_err(|refusal| {
            let refusal = match rule.family {
                Family::V6 if refusal.says_no_ipv6() => refusal.because(NO_IPV6),
                Family::V4 | Family::V6 => refusal,
            };
            refusal.to("add a policy rule")
        })
    }

    /// Removes a policy rule. Succeeds where it is gone.
    ///
    /// # Errors
    /// As the kernel has it; `EAFNOSUPPORT` for IPv6 where the kernel has none.
    pub fn remove_rule(&self, rule: &Rule) -> Result<(), Error> {
        self.change(rule::del_rule(rule), &[libc::ENOENT])
            .map_err(|refusal| refusal.to("remove a policy rule"))
    }

    /// The policy rules that carry our mark, of all owners, in the order in which the kernel asks them.
    ///
    /// # Errors
    /// As the kernel has it.
    pub fn rules(&self) -> Result<Vec<Rule>, Error> {
        self.dump(rule::list_rules, rule::read_rule).map_err(|refusal| refusal.to("list the policy rules"))
    }

    /// Whether exactly this route is in its table.
    fn has_route(&self, route: &Route) -> Result<bool, Refusal> {
        let listed = self.dump(
            || codec::list_routes(Family::of(route.prefix.ip()), route.interface, Some(route.table), 0),
            codec::read_route,
        )?;
        Ok(listed.contains(&codec::as_listed(route)))
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
        Err(io::Error::from_raw_os_error(libc::EINTR).into())
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
}

fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::Interrupted => (),
            outcome => return outcome,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
