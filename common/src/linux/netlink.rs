//! The machine's network configuration, by rtnetlink(7): links, addresses, routes and policy rules.
//!
//! IO: owns one netlink socket, and works in the network namespace that it was opened in. A request is
//! answered before the kernel returns from it, so no call here waits. The bytes are `message`'s and `codec`'s.
//! Changing anything needs CAP_NET_ADMIN, when the socket is opened and when it is used.

#![expect(clippy::disallowed_methods, reason = "IO: opens the netlink socket")]

mod codec;
mod message;

use std::cell::Cell;
use std::io::{self, ErrorKind, Read};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::{error, fmt};

use ipnetwork::IpNetwork;
use message::{Message, Request, number_i32};
use socket2::{Domain, Protocol, Socket, Type};

use crate::linux::sys;

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
pub struct Interface {
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4
    V4,
    /// IPv6
    V6,
}

/// A policy rule, as ip-rule(8) has them: what is looked up in another table than it would be. It is marked
/// with a protocol number of ours, by which [`Netlink::rules`] finds what a killed process left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// The packets it applies to.
    pub family: Family,
    /// Lower is asked first; the kernel's own `main` rule is 32766.
    pub priority: u32,
    /// Only packets to this prefix.
    pub to: Option<IpNetwork>,
    /// The table that it asks.
    pub table: u32,
    /// Passes over the table's routes with a prefix of this length or shorter (`suppress_prefixlength`).
    pub suppress: Option<u8>,
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
            if let Err(error) = sys::set_socket_option(socket.as_fd(), libc::SOL_NETLINK, option, 1) {
                log::debug!("netlink option {option} is not to be had: {error}");
            }
        }
        Ok(Netlink { socket, sequence: Cell::new(0) })
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

    /// Every address of the machine, with its prefix and the index of its interface.
    ///
    /// # Errors
    /// As the kernel has it.
    pub fn addresses(&self) -> Result<Vec<(u32, IpNetwork)>, Error> {
        self.dump(codec::list_addresses, codec::read_address)
            .map_err(|refusal| refusal.to("list the addresses"))
    }

    /// Gives an interface an address; the kernel adds the route to its prefix. An IPv6 address can be
    /// bound at once (no duplicate address detection). Succeeds where it is there.
    ///
    /// # Errors
    /// Where IPv6 is switched off, and as the kernel has it.
    pub fn add_address(&self, interface: u32, address: IpNetwork) -> Result<(), Error> {
        let action = || format!("add the address {address}");
        match self.change(codec::new_address(interface, address), &[]) {
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

    /// Where the kernel sends what goes to `destination`.
    /// `None` where there is no route.
    ///
    /// # Errors
    /// As the kernel has it.
    pub fn route_to(&self, destination: IpAddr) -> Result<Option<NextHop>, Error> {
        let mut hop = None;
        let request = codec::get_route(destination);
        match self
            .exchange(request, &mut |message| hop = hop.take().or_else(|| codec::read_next_hop(message)))
        {
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
        self.change(codec::new_rule(rule), &[libc::EEXIST]).map_err(|refusal| refusal.to("add a policy rule"))
    }

    /// Removes a policy rule. Succeeds where it is gone.
    ///
    /// # Errors
    /// As the kernel has it; `EAFNOSUPPORT` for IPv6 where the kernel has none.
    pub fn remove_rule(&self, rule: &Rule) -> Result<(), Error> {
        self.change(codec::del_rule(rule), &[libc::ENOENT])
            .map_err(|refusal| refusal.to("remove a policy rule"))
    }

    /// The policy rules that carry our mark.
    ///
    /// # Errors
    /// As the kernel has it.
    pub fn rules(&self) -> Result<Vec<Rule>, Error> {
        self.dump(codec::list_rules, codec::read_rule).map_err(|refusal| refusal.to("list the policy rules"))
    }

    /// Whether exactly this route is in its table.
    fn has_route(&self, route: &Route) -> Result<bool, Refusal> {
        let listed = self.dump(|| codec::list_routes(route), codec::read_route)?;
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

    /// Whether an IPv6 address was refused because there is no IPv6: by sysctl (`EACCES`), by MTU (`EINVAL`
    /// without a word, `ENOBUFS` before Linux 5.19), or in the kernel.
    fn says_no_ipv6(&self) -> bool {
        let errnos = [libc::EACCES, libc::EAFNOSUPPORT, libc::EOPNOTSUPP, libc::ENOBUFS];
        errnos.iter().any(|&errno| self.is(errno)) || (self.is(libc::EINVAL) && self.words.is_none())
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

#[cfg(test)]
pub(crate) mod tests {
    use std::thread;

    use super::*;
    use crate::linux::tun::Tun;

    /// Runs `test` on a thread in a network namespace of its own; what it returns stays in there.
    pub(crate) fn in_namespace<T: Send>(test: impl FnOnce() -> T + Send) -> T {
        let body = || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect(
                "this test makes a network namespace: run it as root, in a container with CAP_SYS_ADMIN",
            );
            test()
        };
        thread::scope(|scope| match scope.spawn(body).join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }

    fn ip(address: &str) -> IpAddr {
        address.parse().unwrap()
    }

    fn net(prefix: &str) -> IpNetwork {
        prefix.parse().unwrap()
    }

    /// Two devices that are up: `a` with 10.1.0.1/24 and fd01::1/64, `b` with 10.2.0.1/24 and fd02::1/64.
    fn two_devices() -> (Tun, Tun) {
        let device = |name, addresses: [&str; 2]| {
            let tun = Tun::open(name).unwrap_or_else(|error| panic!("this test needs a TUN device: {error}"));
            for address in addresses {
                tun.add_address(net(address)).unwrap();
            }
            tun.up().unwrap();
            tun
        };
        (device("a", ["10.1.0.1/24", "fd01::1/64"]), device("b", ["10.2.0.1/24", "fd02::1/64"]))
    }

    fn interface_to(netlink: &Netlink, destination: &str) -> Option<u32> {
        netlink.route_to(ip(destination)).unwrap().map(|hop| hop.interface)
    }

    #[test]
    fn an_unknown_interface_is_an_error_that_names_it() {
        in_namespace(|| {
            let error = Netlink::open().unwrap().link("nowhere").unwrap_err();
            assert_eq!(error.errno(), Some(libc::ENODEV));
            assert!(error.to_string().contains("nowhere"), "{error}");
        });
    }

    #[test]
    fn the_kernels_words_are_in_the_error() {
        in_namespace(|| {
            let tun = Tun::open("a").unwrap();
            let error = tun.netlink().set_mtu(tun.index(), 70_000).unwrap_err();
            assert_eq!(error.errno(), Some(libc::EINVAL));
            assert!(error.to_string().contains("mtu greater than device maximum"), "{error}");
        });
    }

    #[test]
    fn routes_lead_by_the_gateway_and_go_again() {
        in_namespace(|| {
            let (a, b) = two_devices();
            let netlink = a.netlink();
            for (prefix, gateway, host) in
                [("192.168.5.0/24", "10.1.0.9", "192.168.5.7"), ("2001:db8::/48", "fd01::9", "2001:db8::7")]
            {
                assert_eq!(netlink.route_to(ip(host)).unwrap(), None);
                let route = Route {
                    prefix: net(prefix),
                    gateway: Some(ip(gateway)),
                    interface: a.index(),
                    table: MAIN_TABLE,
                    metric: Some(3),
                };
                netlink.add_route(&route).unwrap();
                netlink.add_route(&route).unwrap();
                let hop = netlink.route_to(ip(host)).unwrap().unwrap();
                assert_eq!((hop.gateway, hop.interface), (route.gateway, a.index()));
                assert!(hop.source.is_some());
                let other = Route { interface: b.index(), gateway: None, ..route.clone() };
                assert_eq!(netlink.add_route(&other).unwrap_err().errno(), Some(libc::EEXIST));
                netlink.remove_route(&other).unwrap();
                assert_eq!(interface_to(netlink, host), Some(a.index()), "another's route is gone");
                netlink.remove_route(&route).unwrap();
                netlink.remove_route(&route).unwrap();
                assert_eq!(netlink.route_to(ip(host)).unwrap(), None);
            }
        });
    }

    #[test]
    fn rules_send_all_but_one_destination_through_another_table() {
        const TABLE: u32 = 51_820;
        in_namespace(|| {
            let (a, b) = two_devices();
            let netlink = a.netlink();
            for (family, everywhere, outside, router) in [
                (Family::V4, "0.0.0.0/0", "198.51.100.7", "10.1.0.9"),
                (Family::V6, "::/0", "2001:db8::7", "fd01::9"),
            ] {
                let default = |interface, table, gateway| Route {
                    prefix: net(everywhere),
                    gateway,
                    interface,
                    table,
                    metric: None,
                };
                netlink.add_route(&default(a.index(), MAIN_TABLE, Some(ip(router)))).unwrap();
                netlink.add_route(&default(b.index(), TABLE, None)).unwrap();
                assert_eq!(interface_to(netlink, outside), Some(a.index()));

                let rule = |priority, to, table, suppress| Rule { family, priority, to, table, suppress };
                let whole = if family == Family::V4 { 32 } else { 128 };
                let hub = IpNetwork::new(ip(outside), whole).unwrap();
                let main = rule(5000, None, MAIN_TABLE, Some(0));
                let tunnel = rule(5001, None, TABLE, None);
                for rule in [main, tunnel, main, tunnel] {
                    netlink.add_rule(&rule).unwrap();
                }
                assert_eq!(interface_to(netlink, outside), Some(b.index()));
                assert_eq!(interface_to(netlink, router), Some(a.index()), "more specific than a default");
                let pinned = rule(4999, Some(hub), MAIN_TABLE, None);
                netlink.add_rule(&pinned).unwrap();
                assert_eq!(interface_to(netlink, outside), Some(a.index()), "around the tunnel");

                let mut rules = netlink.rules().unwrap();
                rules.sort();
                assert_eq!(rules, [pinned, main, tunnel]);
                for rule in rules.iter().chain(&rules) {
                    netlink.remove_rule(rule).unwrap();
                }
                assert_eq!(netlink.rules().unwrap(), []);
                assert_eq!(interface_to(netlink, outside), Some(a.index()));
            }
        });
    }

    #[test]
    fn a_dump_longer_than_one_answer_is_read_whole() {
        in_namespace(|| {
            let (a, _b) = two_devices();
            for host in 0..2000u32 {
                let address = std::net::Ipv4Addr::from(0x0a64_0000 + host);
                a.add_address(IpNetwork::new(address.into(), 32).unwrap()).unwrap();
            }
            let found = a.netlink().addresses().unwrap();
            assert_eq!(
                found.iter().filter(|(index, address)| *index == a.index() && address.is_ipv4()).count(),
                2001
            );
        });
    }
}
