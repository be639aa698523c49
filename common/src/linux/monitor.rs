//! The kernel's announcements of changes in its network configuration, by rtnetlink(7)'s multicast groups.
//!
//! IO: owns one netlink socket that only listens. An announcement triggers an observation and is never taken for the
//! state itself: the kernel drops announcements when they come too fast, and does not announce the IPv4 routes that it
//! flushes with an address or a device.
//!
//! Two measures bound the work on a router with a full routing table: a filter in the kernel drops the announcements of
//! specific routes by routing daemons, and [`Pacer`] spaces out observations.

#![expect(clippy::disallowed_methods, reason = "IO: opens the netlink socket")]

mod changes;
mod pacer;

use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsFd, AsRawFd};

use mio::event::Source;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use nix::sys::socket::{self, NetlinkAddr};
use socket2::{Domain, Protocol, Socket, Type};

use crate::linux::netlink::Netlink;
use crate::linux::sys;

pub use changes::{Changes, DeviceChange};
pub use pacer::{PAUSE, Pacer};

/// Announcements that are read in one turn of the event loop.
const TURN_MESSAGES: usize = 256;

/// The kernel's announcements in the network namespace that it was opened in.
#[derive(Debug)]
pub struct Monitor {
    socket: Socket,
}

/// Whether there are more announcements to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// All were read: the next one is a new event.
    All,
    /// The turn's share was read: read on in the next turn, no event will come.
    More,
}

impl Monitor {
    /// Listens in the calling thread's network namespace, but not to what is changed through `own`.
    ///
    /// # Errors
    /// If descriptors are used up, or netlink is unavailable, as in a sandbox.
    pub fn open(own: &Netlink) -> io::Result<Monitor> {
        let netlink = Domain::from(libc::AF_NETLINK);
        let kind = Type::RAW.cloexec().nonblocking();
        let socket = Socket::new(netlink, kind, Some(Protocol::from(libc::NETLINK_ROUTE)))?;
        // Attach the filter before joining groups, so that it sees every message.
        sys::attach_filter(socket.as_fd(), &filter(own.id()))?;
        const RULE_V6: u32 = 1 << (libc::RTNLGRP_IPV6_RULE - 1);
        const RULE_V4: u32 = 1 << (libc::RTNLGRP_IPV4_RULE - 1);
        let groups = libc::RTMGRP_LINK
            | libc::RTMGRP_IPV4_IFADDR
            | libc::RTMGRP_IPV6_IFADDR
            | libc::RTMGRP_IPV4_ROUTE
            | libc::RTMGRP_IPV6_ROUTE;
        let address = NetlinkAddr::new(0, groups as u32 | RULE_V4 | RULE_V6);
        socket::bind(socket.as_raw_fd(), &address)?;
        Ok(Monitor { socket })
    }

    /// Reads a bounded number of the announcements since the last call; `device` is the index of the own device. After lost
    /// announcements, or an error, everything may have changed.
    pub fn drain(&mut self, device: u32) -> (Changes, Drained) {
        let mut changes = Changes::default();
        for _ in 0..TURN_MESSAGES {
            // The header and the fixed part suffice; the rest is cut off.
            let mut message = [0; 64];
            match self.socket.read(&mut message) {
                Ok(length) => changes.merge(read(&message[..length], device)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return (changes, Drained::All),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // ENOBUFS: announcements were lost. What is queued can still be read.
                Err(error) => {
                    log::debug!("announcements of the kernel were lost: {error}");
                    changes.merge(Changes::ALL);
                }
            }
        }
        (changes, Drained::More)
    }
}

impl Source for Monitor {
    fn register(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        SourceFd(&self.socket.as_raw_fd()).register(registry, token, interests)
    }

    fn reregister(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        SourceFd(&self.socket.as_raw_fd()).reregister(registry, token, interests)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        SourceFd(&self.socket.as_raw_fd()).deregister(registry)
    }
}

/// Decodes one announcement: `nlmsghdr`, then for links `ifinfomsg`, whose index and flags are at its bytes 4 and 8.
fn read(message: &[u8], device: u32) -> Changes {
    let number = |at: usize| message.get(at..)?.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes));
    let kind =
        message.get(4..).and_then(|bytes| bytes.first_chunk()).map_or(0, |kind| u16::from_ne_bytes(*kind));
    let mut changes = Changes::default();
    match kind {
        libc::RTM_NEWLINK | libc::RTM_DELLINK if number(20) == Some(device) => {
            let is_up = number(24).is_some_and(|flags| flags & libc::IFF_UP as u32 != 0);
            changes.device = Some(match (kind, is_up) {
                (libc::RTM_DELLINK, _) => DeviceChange::Gone,
                (_, false) => DeviceChange::Down,
                (_, true) => DeviceChange::Other,
            });
        }
        libc::RTM_NEWLINK | libc::RTM_DELLINK => changes.links = true,
        libc::RTM_NEWADDR | libc::RTM_DELADDR => changes.addresses = true,
        libc::RTM_NEWROUTE | libc::RTM_DELROUTE => changes.routes = true,
        libc::RTM_NEWRULE | libc::RTM_DELRULE => changes.rules = true,
        _ => {}
    }
    changes
}

/// A filter that drops what is changed through the netlink socket with the number `own`, and what routing daemons do
/// with routes longer than 8 bits: no way to a hub changes by one of those alone.
fn filter(own: u32) -> Vec<libc::sock_filter> {
    // linux/rtnetlink.h: `RTPROT_*` of GateD, MRT, Zebra, BIRD, DECnet, XORP, netsukuku, multicast, Babel, Open/R,
    // BGP, IS-IS, OSPF, RIP, EIGRP.
    const DAEMONS: [u8; 15] = [8, 10, 11, 12, 13, 14, 15, 17, 42, 99, 186, 187, 188, 189, 192];
    const SHORT: u32 = 8;
    // Where `nlmsghdr` and `rtmsg` have them.
    const KIND: u32 = 4;
    const SENDER: u32 = 12;
    const LENGTH: u32 = 17;
    const PROTOCOL: u32 = 21;
    let step = |code: u32, k: u32, jt: u8, jf: u8| libc::sock_filter { code: code as u16, jt, jf, k };
    let load = |size: u32, at: u32| step(libc::BPF_LD | size | libc::BPF_ABS, at, 0, 0);
    let jump = |test: u32, k: u32, yes: u8, no: u8| step(libc::BPF_JMP | test | libc::BPF_K, k, yes, no);
    // The program reads numbers in network byte order; netlink has them in the machine's.
    let kind = |kind: u16| u32::from(kind.to_be());
    // Jumps are counted from the next instruction; the last two are what is jumped to.
    let daemons = DAEMONS.len() as u8;
    let mut program = vec![
        load(libc::BPF_W, SENDER),
        jump(libc::BPF_JEQ, own.to_be(), daemons + 7, 0),
        load(libc::BPF_H, KIND),
        jump(libc::BPF_JEQ, kind(libc::RTM_NEWROUTE), 1, 0),
        jump(libc::BPF_JEQ, kind(libc::RTM_DELROUTE), 0, daemons + 3),
        load(libc::BPF_B, LENGTH),
        jump(libc::BPF_JGT, SHORT, 0, daemons + 1),
        load(libc::BPF_B, PROTOCOL),
    ];
    for (index, &protocol) in DAEMONS.iter().enumerate() {
        program.push(jump(libc::BPF_JEQ, protocol.into(), daemons - index as u8, 0));
    }
    program.push(step(libc::BPF_RET | libc::BPF_K, u32::MAX, 0, 0));
    program.push(step(libc::BPF_RET | libc::BPF_K, 0, 0, 0));
    program
}

#[cfg(test)]
mod tests;
