//! Raw sockets for echo requests and replies of ours. IO.
//!
//! Opening one needs CAP_NET_RAW; using it needs nothing. A filter in the kernel drops all that is not marked as ours, so
//! that the pings of others cost the program nothing. The kernel itself answers the same requests.

#![expect(clippy::disallowed_methods, reason = "IO: opens raw sockets")]

use std::io::{self, IoSlice, IoSliceMut, Read as _};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::ops::RangeInclusive;
use std::os::fd::{AsFd as _, AsRawFd as _};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token, event};
use nix::sys::socket::sockopt::{Ipv6RecvPacketInfo, RcvBufForce};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, SockaddrIn6, recvfrom, recvmsg, sendmsg,
    setsockopt,
};
use socket2::{Domain, Protocol, Socket, Type};

use crate::linux::netlink::Family;
use crate::linux::sys;
use crate::packet::echo::{self, Echo, EchoKind};

/// Received echoes that the kernel holds for us, in bytes with its overhead: a burst of a few dozen spokes.
const RECEIVE_BUFFER: usize = 2 * 1024 * 1024;
/// Longest packet that is read; longer ones are cut, and then not ours.
const MAX_PACKET: usize = 2_048;

/// Which echoes are ours: their data begin with these four bytes, and the fifth is one of these.
#[derive(Clone, Debug)]
pub struct Marks {
    /// The first four bytes, in network order.
    pub magic: u32,
    /// The fifth.
    pub kinds: RangeInclusive<u8>,
}

/// The two ends of an echo request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// Where it came from.
    pub source: IpAddr,
    /// Which address of this machine it came to.
    pub to: IpAddr,
}

/// A raw socket of one family.
#[derive(Debug)]
pub struct PingSocket {
    socket: Socket,
    family: Family,
}

impl PingSocket {
    /// Opens a socket that hears `hears` with these marks.
    ///
    /// # Errors
    /// Without CAP_NET_RAW, or where this kernel does not have the family.
    pub fn open(family: Family, hears: EchoKind, marks: &Marks) -> io::Result<PingSocket> {
        let (domain, protocol) = match family {
            Family::V4 => (Domain::IPV4, Protocol::ICMPV4),
            Family::V6 => (Domain::IPV6, Protocol::ICMPV6),
        };
        let socket = Socket::new(domain, Type::RAW.nonblocking().cloexec(), Some(protocol))?;
        let filter = filter(family, hears.code(family == Family::V6), marks);
        sys::attach_filter(socket.as_fd(), &filter)?;
        if family == Family::V6 && hears == EchoKind::Request {
            setsockopt(&socket, Ipv6RecvPacketInfo, &true)?;
        }
        // Without CAP_NET_ADMIN, as much as the kernel lets us have.
        if setsockopt(&socket, RcvBufForce, &RECEIVE_BUFFER).is_err() {
            socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
        }
        Ok(PingSocket { socket, family })
    }

    /// The family of its addresses.
    pub fn family(&self) -> Family {
        self.family
    }

    /// Registers the socket for reading; what it cannot send is lost, as on any path.
    ///
    /// # Errors
    /// As the kernel has it.
    pub fn register(&self, registry: &Registry, token: Token) -> io::Result<()> {
        event::Source::register(&mut SourceFd(&self.socket.as_raw_fd()), registry, token, Interest::READABLE)
    }

    /// The next request, and whose it is: its data is put into `data`. `None`: no more for now.
    ///
    /// # Errors
    /// As recvmsg(2): none that lasts is known.
    pub fn receive_request(&self, data: &mut Vec<u8>) -> io::Result<Option<(Ends, Echo)>> {
        loop {
            let mut space = [0; MAX_PACKET];
            let (len, from, to) = match self.family {
                Family::V4 => match (&self.socket).read(&mut space) {
                    Ok(len) => (len, None, None),
                    Err(error) => return nothing(error),
                },
                Family::V6 => match self.receive_with_address(&mut space) {
                    Ok((len, from, to)) => (len, from, to),
                    Err(error) => return nothing(error),
                },
            };
            let Some((ends, message)) = ends(&space[..len], from.zip(to)) else { continue };
            if let Some((echo, found)) = Echo::decode(EchoKind::Request, self.is_ipv6(), message) {
                data.clear();
                data.extend(found);
                return Ok(Some((ends, echo)));
            }
        }
    }

    /// The number of bytes, the source, and the address of this machine that they came to.
    fn receive_with_address(&self, space: &mut [u8]) -> io::Result<(usize, Option<IpAddr>, Option<IpAddr>)> {
        let mut control = nix::cmsg_space!(libc::in6_pktinfo);
        let mut parts = [IoSliceMut::new(space)];
        let fd = self.socket.as_raw_fd();
        let received = recvmsg::<SockaddrIn6>(fd, &mut parts, Some(&mut control), MsgFlags::empty())?;
        let to = received.cmsgs()?.find_map(|message| {
            let ControlMessageOwned::Ipv6PacketInfo(info) = message else { return None };
            Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).into())
        });
        Ok((received.bytes, received.address.map(|address| address.ip().into()), to))
    }

    /// The next reply, and where it came from: its data is put into `data`. `None`: no more for now.
    ///
    /// # Errors
    /// As recvfrom(2): none that lasts is known.
    pub fn receive_reply(&self, data: &mut Vec<u8>) -> io::Result<Option<(IpAddr, Echo)>> {
        loop {
            let mut space = [0; MAX_PACKET];
            let (len, beside) = match self.family {
                Family::V4 => match (&self.socket).read(&mut space) {
                    Ok(len) => (len, None),
                    Err(error) => return nothing(error),
                },
                Family::V6 => match recvfrom::<SockaddrIn6>(self.socket.as_raw_fd(), &mut space) {
                    Ok((len, from)) => {
                        (len, from.map(|from| (from.ip().into(), Ipv6Addr::UNSPECIFIED.into())))
                    }
                    Err(error) => return nothing(error.into()),
                },
            };
            let Some((ends, message)) = ends(&space[..len], beside) else { continue };
            if let Some((echo, found)) = Echo::decode(EchoKind::Reply, self.is_ipv6(), message) {
                data.clear();
                data.extend(found);
                return Ok(Some((ends.source, echo)));
            }
        }
    }

    /// Sends a request. `message` is working space.
    ///
    /// # Errors
    /// As sendto(2): the request is lost.
    pub fn request(
        &self,
        to: IpAddr,
        (identifier, sequence): (u16, u16),
        data: &[u8],
        message: &mut Vec<u8>,
    ) -> io::Result<()> {
        Echo { kind: EchoKind::Request, identifier, sequence }.encode(self.is_ipv6(), data, message);
        self.socket.send_to(message, &SocketAddr::new(to, 0).into()).map(drop)
    }

    /// Answers a request, from the address that it came to. `message` is working space.
    ///
    /// # Errors
    /// As sendmsg(2): the reply is lost.
    pub fn reply(&self, ends: Ends, echo: Echo, data: &[u8], message: &mut Vec<u8>) -> io::Result<()> {
        Echo { kind: EchoKind::Reply, ..echo }.encode(self.is_ipv6(), data, message);
        let (fd, parts) = (self.socket.as_raw_fd(), [IoSlice::new(message)]);
        match (ends.source, ends.to) {
            (IpAddr::V4(source), IpAddr::V4(to)) => {
                let from = libc::in_addr { s_addr: u32::from_ne_bytes(to.octets()) };
                let any = libc::in_addr { s_addr: 0 };
                let info = libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: from, ipi_addr: any };
                let control = [ControlMessage::Ipv4PacketInfo(&info)];
                let source = SockaddrIn::from(SocketAddrV4::new(source, 0));
                sendmsg(fd, &parts, &control, MsgFlags::empty(), Some(&source))?;
            }
            (IpAddr::V6(source), IpAddr::V6(to)) => {
                let from = libc::in6_addr { s6_addr: to.octets() };
                let info = libc::in6_pktinfo { ipi6_addr: from, ipi6_ifindex: 0 };
                let control = [ControlMessage::Ipv6PacketInfo(&info)];
                let source = SockaddrIn6::from(SocketAddrV6::new(source, 0, 0, 0));
                sendmsg(fd, &parts, &control, MsgFlags::empty(), Some(&source))?;
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {}
        }
        Ok(())
    }

    fn is_ipv6(&self) -> bool {
        self.family == Family::V6
    }
}

/// The address of this machine from which packets go to this one.
///
/// # Errors
/// Where there is no route.
pub fn source_towards(to: IpAddr) -> io::Result<IpAddr> {
    let to = SocketAddr::new(to, 1);
    let socket = Socket::new(Domain::for_address(to), Type::DGRAM.cloexec(), None)?;
    // Nothing is sent.
    socket.connect(&to.into())?;
    let own = socket.local_addr()?.as_socket();
    own.map(|own| own.ip()).ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
}

/// IPv4's addresses are in the packet, those of IPv6 beside it.
fn ends(packet: &[u8], beside: Option<(IpAddr, IpAddr)>) -> Option<(Ends, &[u8])> {
    match beside {
        Some((source, to)) => Some((Ends { source, to }, packet)),
        None => {
            let (source, to, message) = echo::split_ipv4(packet)?;
            Some((Ends { source: source.into(), to: to.into() }, message))
        }
    }
}

fn nothing<T>(error: io::Error) -> io::Result<Option<T>> {
    if error.kind() == io::ErrorKind::WouldBlock { Ok(None) } else { Err(error) }
}

/// Lets through echoes of this type with these marks. A raw socket of IPv4 sees the packet from its IP header on, one of
/// IPv6 from its ICMP header on.
fn filter(family: Family, code: u8, marks: &Marks) -> Vec<libc::sock_filter> {
    let step = |code: u32, k: u32, jt: u8, jf: u8| libc::sock_filter { code: code as u16, jt, jf, k };
    let load = |size: u32, at: u32| step(libc::BPF_LD | size | libc::BPF_IND, at, 0, 0);
    let jump = |test: u32, k: u32, yes: u8, no: u8| step(libc::BPF_JMP | test | libc::BPF_K, k, yes, no);
    let data = echo::ECHO_LEN as u32;
    // The index register gets the length of the IP header.
    let header = match family {
        Family::V4 => step(libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH, 0, 0, 0),
        Family::V6 => step(libc::BPF_LDX | libc::BPF_IMM, 0, 0, 0),
    };
    // Jumps are counted from the next instruction; the last one is what is jumped to.
    vec![
        header,
        load(libc::BPF_B, 0),
        jump(libc::BPF_JEQ, code.into(), 0, 6),
        load(libc::BPF_W, data),
        jump(libc::BPF_JEQ, marks.magic, 0, 4),
        load(libc::BPF_B, data + 4),
        jump(libc::BPF_JGE, (*marks.kinds.start()).into(), 0, 2),
        jump(libc::BPF_JGT, (*marks.kinds.end()).into(), 1, 0),
        step(libc::BPF_RET | libc::BPF_K, u32::MAX, 0, 0),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
    ]
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const MARKS: Marks = Marks { magic: 0x1122_3344, kinds: 3..=4 };

    /// Requests with these data, sent and heard on loopback; then a reply to the last of them.
    fn hears(family: Family, to: IpAddr) {
        let open = |hears| PingSocket::open(family, hears, &MARKS).expect("this test needs CAP_NET_RAW");
        let (server, client) = (open(EchoKind::Request), open(EchoKind::Reply));
        let (mut data, mut message) = (Vec::new(), Vec::new());
        let mut sequence = 0;
        for ours in [&[0x11, 0x22, 0x33, 0x44, 3][..], &[0x11, 0x22, 0x33, 0x44, 4, 9]] {
            let others =
                [&ours[1..], &[0x11, 0x22, 0x33, 0x44, 5], &[0x11, 0x22, 0x33, 0x44, 2], b"ping", &[]];
            for sent in others.into_iter().chain([ours]) {
                sequence += 1;
                client.request(to, (77, sequence), sent, &mut message).unwrap();
            }
            // Loopback has delivered all of them by now, and the kernel has answered.
            let (ends, echo) = server.receive_request(&mut data).unwrap().unwrap();
            assert_eq!((ends.to, echo.identifier, echo.sequence, &data[..]), (to, 77, sequence, ours));
            assert!(server.receive_request(&mut data).unwrap().is_none(), "others are not heard");
            assert_eq!(client.receive_reply(&mut data).unwrap().unwrap().0, to, "the kernel's own");
            server.reply(ends, echo, ours, &mut message).unwrap();
            assert_eq!(
                client.receive_reply(&mut data).unwrap(),
                Some((to, Echo { kind: EchoKind::Reply, ..echo }))
            );
            assert_eq!(&data[..], ours);
            assert!(client.receive_reply(&mut data).unwrap().is_none());
        }
    }

    #[test]
    fn marked_echoes_are_heard_and_answered_from_the_address_that_was_asked() {
        hears(Family::V4, Ipv4Addr::new(127, 0, 0, 2).into());
        assert_eq!(source_towards(Ipv4Addr::LOCALHOST.into()).unwrap(), IpAddr::V4(Ipv4Addr::LOCALHOST));
        if PingSocket::open(Family::V6, EchoKind::Request, &MARKS).is_ok() {
            hears(Family::V6, Ipv6Addr::LOCALHOST.into());
        }
    }
}
