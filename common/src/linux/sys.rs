//! System calls that no crate has a word for, one a block. IO, and the only file with `unsafe`.

#![allow(unsafe_code, reason = "ioctl(2) and socket options on plain integers; nothing else needs it")]

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::time::Duration;

use crate::queue::flight::Sample;
use crate::queue::tcp_info::TcpInfo;

/// `struct ifreq` (linux/if.h) as TUNSETIFF reads it: the name, the flags, and the remainder of the union.
#[repr(C)]
pub(super) struct InterfaceRequest {
    name: [u8; libc::IFNAMSIZ],
    flags: u16,
    remainder: [u8; 22],
}

const _: () = assert!(size_of::<InterfaceRequest>() == size_of::<libc::ifreq>());

impl InterfaceRequest {
    /// Refuses what `dev_valid_name` (net/core/dev.c) does, and `%`, which the kernel would take for a
    /// pattern.
    pub(super) fn new(name: &str) -> Option<InterfaceRequest> {
        let bad = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '/' | ':' | '%');
        let mut bytes = [0; libc::IFNAMSIZ];
        if matches!(name, "" | "." | "..") || name.len() >= bytes.len() || name.chars().any(bad) {
            return None;
        }
        bytes[..name.len()].copy_from_slice(name.as_bytes());
        let flags = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_TUN_EXCL;
        Some(InterfaceRequest { name: bytes, flags: flags as u16, remainder: [0; 22] })
    }
}

/// Sets a socket option that is one `int`, of those that no crate has a word for.
pub(crate) fn set_socket_option(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: the descriptor is open for the call; the kernel reads `size_of::<c_int>()` bytes of `value`, which
    // outlives the call, and writes none.
    outcome(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    })
}

/// SO_ATTACH_FILTER: has the kernel run a classic BPF program on each message for the socket, which tells how many of
/// its bytes are delivered; 0 drops it.
pub(super) fn attach_filter(socket: BorrowedFd<'_>, program: &[libc::sock_filter]) -> io::Result<()> {
    let len = libc::c_ushort::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // The kernel does not write to it, though the field is no pointer to constants.
    let program = libc::sock_fprog { len, filter: program.as_ptr().cast_mut() };
    // SAFETY: the descriptor is open for the call; the kernel copies one `sock_fprog` and the `len` instructions
    // that it points to, which both outlive the call, and checks them.
    outcome(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    })
}

/// Where `struct tcp_info` (linux/tcp.h) has what is read of it, in bytes.
mod offset {
    pub(super) const RETRANSMITS: usize = 2;
    pub(super) const SND_MSS: usize = 16;
    pub(super) const UNACKED: usize = 24;
    pub(super) const SACKED: usize = 28;
    pub(super) const LOST: usize = 32;
    pub(super) const RETRANS: usize = 36;
    pub(super) const LAST_ACK_RECV: usize = 56;
    pub(super) const RTT: usize = 68;
    pub(super) const TOTAL_RETRANS: usize = 100;
    pub(super) const BYTES_ACKED: usize = 120;
    pub(super) const BYTES_RECEIVED: usize = 128;
    pub(super) const NOTSENT_BYTES: usize = 144;
    pub(super) const MIN_RTT: usize = 148;
    pub(super) const DELIVERED: usize = 192;
    pub(super) const RCV_OOOPACK: usize = 224;
}

/// The shortest round trip that the kernel saw on a TCP socket in the last minutes, without the time that bytes
/// wait at either end (`tcpi_min_rtt`); `None` where it has seen none.
pub(crate) fn shortest_round_trip(socket: BorrowedFd<'_>) -> Option<Duration> {
    shortest(&read_tcp_info(socket, offset::MIN_RTT)?)
}

fn shortest(info: &[u32; INFO_WORDS]) -> Option<Duration> {
    let shortest = word(info, offset::MIN_RTT);
    (!matches!(shortest, 0 | u32::MAX)).then(|| Duration::from_micros(shortest.into()))
}

/// What the kernel knows of the way of what a TCP socket sends; `None` where it has seen no round trip, and before Linux
/// 4.18.
pub(crate) fn tcp_flight(socket: BorrowedFd<'_>) -> Option<Sample> {
    let info = read_tcp_info(socket, offset::DELIVERED)?;
    let of = |offset| word(&info, offset);
    // As `tcp_packets_in_flight` (net/tcp.h).
    let in_flight = (u64::from(of(offset::UNACKED)) + u64::from(of(offset::RETRANS)))
        .saturating_sub((of(offset::SACKED) + of(offset::LOST)).into());
    Some(Sample {
        shortest: shortest(&info)?,
        round_trip: Duration::from_micros(of(offset::RTT).into()),
        segment: of(offset::SND_MSS),
        held: in_flight * u64::from(of(offset::SND_MSS)) + u64::from(of(offset::NOTSENT_BYTES)),
        delivered: of(offset::DELIVERED),
        resent: of(offset::TOTAL_RETRANS),
    })
}

/// What the kernel knows of a TCP connection; `None` before Linux 5.4.
pub(crate) fn tcp_info(socket: BorrowedFd<'_>) -> Option<TcpInfo> {
    let info = read_tcp_info(socket, offset::RCV_OOOPACK)?;
    let long = |at| {
        let (one, two) = (word(&info, at).to_ne_bytes(), word(&info, at + 4).to_ne_bytes());
        u64::from_ne_bytes([one[0], one[1], one[2], one[3], two[0], two[1], two[2], two[3]])
    };
    Some(TcpInfo {
        segment: word(&info, offset::SND_MSS),
        retransmissions: word(&info, 0).to_ne_bytes()[offset::RETRANSMITS],
        acknowledged: long(offset::BYTES_ACKED),
        received: long(offset::BYTES_RECEIVED),
        out_of_order: word(&info, offset::RCV_OOOPACK),
        unheard: Duration::from_millis(word(&info, offset::LAST_ACK_RECV).into()),
        resent: word(&info, offset::TOTAL_RETRANS),
        shortest: shortest(&info),
        sacked: word(&info, offset::SACKED),
    })
}

/// Words of `struct tcp_info` that are read.
const INFO_WORDS: usize = 57;

fn word(info: &[u32; INFO_WORDS], offset: usize) -> u32 {
    info[offset / size_of::<u32>()]
}

/// TCP_INFO, with at least the word at `last`; `None` where the kernel's is shorter.
fn read_tcp_info(socket: BorrowedFd<'_>, last: usize) -> Option<[u32; INFO_WORDS]> {
    let mut info = [0_u32; INFO_WORDS];
    let mut len = size_of_val(&info) as libc::socklen_t;
    // SAFETY: the descriptor is open for the call; the kernel writes no more than `len` bytes to `info` and one
    // `socklen_t` to `len`, which both outlive the call.
    outcome(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut len,
        )
    })
    .ok()?;
    (len as usize >= last + size_of::<u32>()).then_some(info)
}

/// TUNSETIFF: binds the descriptor to a new interface.
pub(super) fn set_interface(tun: BorrowedFd<'_>, mut request: InterfaceRequest) -> io::Result<()> {
    // SAFETY: the descriptor is open for the call; the kernel reads and writes one `struct ifreq`, which
    // `InterfaceRequest` has the size and layout of and which outlives the call.
    outcome(unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })
}

/// An ioctl that reads one `int`: TUNSETVNETHDRSZ or TUNSETVNETLE.
pub(super) fn set_number(tun: BorrowedFd<'_>, ioctl: libc::Ioctl, number: libc::c_int) -> io::Result<()> {
    // SAFETY: the descriptor is open for the call; these ioctls read one `int`, which outlives the call.
    outcome(unsafe { libc::ioctl(tun.as_raw_fd(), ioctl, &raw const number) })
}

/// TUNSETOFFLOAD: its argument is the flags themselves.
pub(super) fn set_offload(tun: BorrowedFd<'_>, offload: libc::c_uint) -> io::Result<()> {
    // SAFETY: the descriptor is open for the call; the argument is a number and no memory is touched.
    outcome(unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(offload)) })
}

fn outcome(returned: libc::c_int) -> io::Result<()> {
    if returned < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
