//! A tunnel's TCP socket. IO.
//!
//! Sockets are edge-triggered: `writable` remembers what the last event said until a write fills the socket.

#![expect(clippy::disallowed_methods, reason = "IO: opens sockets")]

use std::io::{self, Read as _};
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use log::info;
use mio::event::Source;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::RcvBufForce;
use socket2::{Domain, SockRef, Socket, TcpKeepalive, Type};

use crate::linux::sys::{set_socket_option, shortest_round_trip, tcp_flight, tcp_info};
use crate::queue::flight::{self, Flight};
use crate::queue::{Buf, Pool};
use crate::wire::inbox::Inbox;
use crate::wire::tunnel::{DEAD_AFTER, Error, Tunnel};

pub use crate::queue::tcp_info::TcpInfo;
pub use crate::wire::tunnel::Flushed;

/// The socket's state after a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filled {
    /// There may be more.
    More,
    /// Nothing more for now.
    Drained,
    /// Nothing was read.
    Nothing,
    /// The other end closed.
    Closed,
}

/// Why a link closed.
#[derive(Debug)]
pub enum Broken {
    /// The socket failed.
    Io(io::Error),
    /// The tunnel failed.
    Tunnel(Error),
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Broken::Io(error) => error.fmt(f),
            Broken::Tunnel(error) => error.fmt(f),
        }
    }
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Broken {
        Broken::Io(error)
    }
}

impl From<Error> for Broken {
    fn from(error: Error) -> Broken {
        Broken::Tunnel(error)
    }
}

/// Begins to connect. `segment`: the largest TCP segment, with options, that either end is to send, in bytes.
pub fn connect(address: SocketAddr, segment: Option<u16>) -> io::Result<TcpStream> {
    let Some(segment) = segment else { return TcpStream::connect(address) };
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), None)?;
    // Before the connection is made: it goes to the other end with the first packet.
    socket.set_tcp_mss(segment.into())?;
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        Ok(()) | Err(_) => Ok(TcpStream::from_std(socket.into())),
    }
}

/// The congestion control of all links, where it was chosen.
static CONGESTION: OnceLock<String> = OnceLock::new();

/// Chooses the congestion control of all links that begin from now on; it then stays. Only the first choice counts.
///
/// # Errors
/// A sentence that says which ones this kernel has.
pub fn choose_congestion(name: &str) -> Result<(), String> {
    const AVAILABLE: &str = "/proc/sys/net/ipv4/tcp_available_congestion_control";
    let tried = Socket::new(Domain::IPV4, Type::STREAM, None)
        .and_then(|socket| socket.set_tcp_congestion(name.as_bytes()));
    if let Err(error) = tried {
        let available = std::fs::read_to_string(AVAILABLE).unwrap_or_default();
        let list = available.split_ascii_whitespace().collect::<Vec<_>>().join(", ");
        return Err(format!(
            "the congestion control {name} cannot be used here ({error}); there are: {list}"
        ));
    }
    let _ = CONGESTION.set(name.to_owned());
    Ok(())
}

/// The socket of one tunnel.
#[derive(Debug)]
pub struct Link {
    stream: TcpStream,
    writable: bool,
    /// EOF or an error is pending: keep reading, no further event will come.
    ends: bool,
    /// The receive buffer is bounded.
    is_bounded: bool,
    /// Bytes that were read, up to those after which the receive window opens.
    heard: usize,
    path: Path,
    /// Whether the congestion control may be changed.
    is_adaptive: bool,
    /// What the path takes more, in bytes, as it was known last.
    room: usize,
    /// When it was asked.
    asked_at: Option<Instant>,
    /// When to ask again whether the path takes more.
    held_until: Option<Instant>,
}

/// The way of what is sent.
#[derive(Debug)]
enum Path {
    Unknown,
    Short,
    Long(Box<Flight>),
}

impl Link {
    /// Takes a connected stream and sets its options.
    pub fn new(stream: TcpStream) -> io::Result<Link> {
        let socket = SockRef::from(&stream);
        socket.set_tcp_nodelay(true)?;
        socket.set_tcp_user_timeout(Some(DEAD_AFTER + Duration::from_secs(2)))?;
        socket.set_tcp_notsent_lowat(NOTSENT_LOWAT)?;
        set_longest_retry(&stream)?;
        if let Some(name) = CONGESTION.get() {
            socket.set_tcp_congestion(name.as_bytes())?;
        }
        Ok(Link {
            stream,
            writable: true,
            ends: false,
            is_bounded: false,
            heard: 0,
            path: Path::Unknown,
            is_adaptive: CONGESTION.get().is_none(),
            room: usize::MAX,
            asked_at: None,
            held_until: None,
        })
    }

    /// Registers the socket for both directions; its interest never changes.
    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        self.stream.register(registry, token, Interest::READABLE | Interest::WRITABLE)
    }

    /// Has it reported under another token, what is ready now included.
    pub fn reregister(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        self.stream.reregister(registry, token, Interest::READABLE | Interest::WRITABLE)
    }

    /// Takes in what an event said about the socket.
    pub fn set_ready(&mut self, is_writable: bool, is_closed: bool) {
        self.writable |= is_writable;
        self.ends |= is_closed;
    }

    /// How the kernel sees the connection; `None` where it is too old to tell (before Linux 5.4).
    pub fn info(&self) -> Option<TcpInfo> {
        tcp_info(self.stream.as_fd())
    }

    /// Has what little is written go out at once, as it is to wait for nothing: a lane that was opened because segments are
    /// lost bears that from the start, and what is in flight there is less than any path holds.
    pub fn hurry(&mut self) {
        self.path = Path::Short;
        if std::mem::take(&mut self.is_adaptive) {
            make_steady(&self.stream);
        }
    }

    /// Has the kernel ask the other end's kernel, after this time without a word and then as often, or never. What came of
    /// it is in [`TcpInfo::unheard`].
    ///
    /// # Errors
    /// As the kernel has it.
    pub fn ask_kernel(&self, every: Option<Duration>) -> io::Result<()> {
        let socket = SockRef::from(&self.stream);
        match every {
            Some(every) => {
                socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(every).with_interval(every))
            }
            None => socket.set_keepalive(false),
        }
    }

    /// Makes the close reset the connection: a goodbye behind unacknowledged bytes would not arrive.
    pub fn abort(&self) {
        // Where it fails, the other end finds out by itself, later.
        let _ = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
    }

    /// Reads once into the inbox, behind what the tunnel had left.
    pub fn fill(
        &mut self,
        tunnel: &mut Tunnel,
        inbox: &mut Inbox,
        pool: &mut Pool,
        now: Instant,
    ) -> io::Result<Filled> {
        let mut filled = Ok(Filled::Nothing);
        tunnel.fill(inbox, pool, now, |space| match self.read(space) {
            Ok((len, said)) => {
                filled = Ok(said);
                len
            }
            Err(error) => {
                filled = Err(error);
                0
            }
        });
        filled
    }

    /// Reads once: how many bytes came, and what that says about the socket.
    pub fn read(&mut self, space: &mut [u8]) -> io::Result<(usize, Filled)> {
        let room = space.len();
        loop {
            return match self.stream.read(space) {
                Ok(0) => Ok((0, Filled::Closed)),
                Ok(len) => {
                    if len == room && !self.is_bounded {
                        self.bound();
                    }
                    if self.heard <= OPENED_AFTER {
                        self.hear(len);
                    }
                    // A short read has emptied the socket (epoll(7), on edge-triggered streams), but the end
                    // that was reported together with these bytes is only seen by another one.
                    let filled = if len == room || self.ends { Filled::More } else { Filled::Drained };
                    Ok((len, filled))
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok((0, Filled::Nothing)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
        }
    }

    /// Opens the receive window of a long path, once more came than whoever is not authenticated has to say.
    fn hear(&mut self, len: usize) {
        self.heard += len;
        if self.heard > OPENED_AFTER
            && let Some(shortest) = shortest_round_trip(self.stream.as_fd())
            && shortest >= flight::LONG
        {
            open_window(&self.stream, shortest);
        }
    }

    /// Keeps the kernel from holding more received bytes than keep the path busy.
    ///
    /// It lets them grow to megabytes where they come faster than we read, and a ping waits behind them all. Held
    /// back, they wait in the sender's queue, where the ping overtakes them. A longer path than a local one needs
    /// megabytes: it is left to the kernel, as is a process without the right to do this (CAP_NET_ADMIN).
    fn bound(&mut self) {
        let Some(round_trip) = shortest_round_trip(self.stream.as_fd()) else { return };
        let most = most_received(round_trip);
        let socket = SockRef::from(&self.stream);
        if socket.recv_buffer_size().is_ok_and(|size| size > most) {
            // The kernel doubles what it is told, for its own overhead (socket(7)).
            let _ = setsockopt(&self.stream, RcvBufForce, &(most / 2));
            self.is_bounded = true;
        }
    }

    /// Writes what the socket takes, up to one burst of newly sealed bytes. `outbox` is one of
    /// [`outbox`](crate::wire::tunnel::outbox), for all links.
    pub fn flush(
        &mut self,
        tunnel: &mut Tunnel,
        outbox: &mut Buf,
        pool: &mut Pool,
        now: Instant,
    ) -> Result<Flushed, Broken> {
        if !self.may_write(now) {
            return Ok(Flushed::Done);
        }
        let mut failed = None;
        let flushed = tunnel.flush(outbox, pool, now, |bytes| {
            self.write(bytes).unwrap_or_else(|error| {
                failed = Some(error);
                0
            })
        });
        match failed {
            Some(error) => Err(error.into()),
            None => Ok(flushed?),
        }
    }

    /// Whether the socket may take more: no write has filled it since it was last reported writable.
    pub fn is_writable(&self) -> bool {
        self.writable
    }

    /// Whether to write: no write has filled the socket since it was last reported writable, and the path takes more.
    pub fn may_write(&mut self, now: Instant) -> bool {
        self.held_until = None;
        if !self.writable {
            return false;
        }
        if let Path::Unknown = self.path
            && let Some(shortest) = shortest_round_trip(self.stream.as_fd())
        {
            self.path = if shortest < flight::LONG { Path::Short } else { Path::Long(Box::default()) };
        }
        self.room = usize::MAX;
        let Path::Long(flight) = &mut self.path else { return true };
        let Some(sample) = tcp_flight(self.stream.as_fd()) else { return true };
        self.room = flight.room(&sample, now);
        self.asked_at = Some(now);
        if self.is_adaptive && flight.loses_at_random() {
            self.is_adaptive = false;
            if make_steady(&self.stream) {
                flight.start_again();
            }
        }
        if self.is_adaptive && flight.is_held_back() {
            start_slowly_again(&self.stream);
        }
        if self.room == 0 {
            self.held_until = Some(now + flight::LOOK_AGAIN);
        }
        self.room > 0
    }

    /// What to write of these bytes at most; where that is not all, the path is full.
    pub(super) fn within_room<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let len = bytes.len().min(self.room);
        self.room -= len;
        if len < bytes.len()
            && let Path::Long(flight) = &mut self.path
        {
            flight.was_limited();
            self.held_until = self.asked_at.map(|at| at + flight::LOOK_AGAIN);
        }
        &bytes[..len]
    }

    /// When to ask [`Link::may_write`] again, where the socket has room and the path has none.
    pub fn held_until(&self) -> Option<Instant> {
        self.held_until
    }

    /// Writes once, and returns how many bytes the socket took; fewer than there are say that it is full.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.write_once(bytes)?;
        self.writable = written == bytes.len();
        if !self.writable
            && let Path::Long(flight) = &mut self.path
        {
            flight.was_limited();
        }
        Ok(written)
    }

    fn write_once(&self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            // Without the mark, bytes would be added to the kernel's last unsent segment, up to 64 KiB of it,
            // whatever TCP_NOTSENT_LOWAT says (tcp_sendmsg_locked only asks before it begins a new one).
            return match SockRef::from(&self.stream)
                .send_with_flags(bytes, libc::MSG_EOR | libc::MSG_NOSIGNAL)
            {
                Ok(len) => Ok(len),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
        }
    }
}

/// Bytes that the kernel may hold unsent before the socket counts as full: our queue, not the kernel's, is
/// where packets wait.
const NOTSENT_LOWAT: u32 = 4 * 1024;

/// Least that the kernel may hold of what was received, in bytes with its overhead: 0.5 ms at 10 Gb/s.
const MIN_RECEIVE_BUFFER: usize = 625_000;
/// Receive buffer for a path, in bytes for each second of round trip: 10 Gb/s, doubled for the kernel's overhead.
const RECEIVE_RATE: f64 = 2.5e9;

fn most_received(round_trip: Duration) -> usize {
    ((round_trip.as_secs_f64() * RECEIVE_RATE) as usize).max(MIN_RECEIVE_BUFFER)
}

/// More bytes than a handshake has, and fewer than the first round of a flow.
const OPENED_AFTER: usize = 4 * 1024;
/// What a long path may carry before the kernel has found out how much arrives there, in bytes a second.
const WINDOW_RATE: f64 = 12.5e6;

/// Has the other end send as much as the path holds from the start.
///
/// The kernel lets the receive window grow by what was read in the last round trips, and a flow that begins is then held
/// up for some of them; a flow inside takes that for the end of the path. A socket that asks for so many bytes at once
/// gets a window for them (`tcp_set_rcvlowat`, net/ipv4/tcp.c) that goes on to grow, unlike one with SO_RCVBUF.
fn open_window(stream: &TcpStream, shortest: Duration) {
    let bytes = (shortest.as_secs_f64() * WINDOW_RATE) as libc::c_int;
    for least in [bytes, 1] {
        // A window that stays as it is grows later.
        let _ = set_socket_option(stream.as_fd(), libc::SOL_SOCKET, libc::SO_RCVLOWAT, least);
    }
}

/// The congestion control that goes by what arrives, and does not take a loss for congestion.
const STEADY: &str = "bbr";

/// Has the connection go by what arrives; whether the kernel does it.
fn make_steady(stream: &TcpStream) -> bool {
    static SAID: AtomicBool = AtomicBool::new(false);
    let Err(error) = SockRef::from(stream).set_tcp_congestion(STEADY.as_bytes()) else { return true };
    if !SAID.swap(true, Ordering::Relaxed) {
        info!(
            "packets are lost on the way without congestion; the congestion control {STEADY} would bear that, but it cannot \
             be used here ({error}): modprobe tcp_bbr"
        );
    }
    false
}

/// Has the system's congestion control look anew for what the path takes: in slow start, as nothing was lost.
///
/// BBR is asked to forget the threshold at which that ended, which it does when it begins (`bbr_init`,
/// net/ipv4/tcp_bbr.c).
fn start_slowly_again(stream: &TcpStream) {
    let socket = SockRef::from(stream);
    let Ok(own) = socket.tcp_congestion() else { return };
    if socket.set_tcp_congestion(STEADY.as_bytes()).is_ok() {
        // What was there a moment ago is still there.
        let _ = socket.set_tcp_congestion(&own);
    }
}

/// The longest time between two retransmissions, in milliseconds; the kernel allows no less.
///
/// Where many packets are lost, acknowledgements among them, TCP measures round trips of seconds and doubles its
/// time-out with each loss: it would try a path that works once or twice in the time after which we take the other
/// end for dead.
const LONGEST_RETRY_MS: libc::c_int = 1_000;

/// linux/tcp.h, since Linux 6.15.
const TCP_RTO_MAX_MS: libc::c_int = 44;

fn set_longest_retry(stream: &TcpStream) -> io::Result<()> {
    match set_socket_option(stream.as_fd(), libc::IPPROTO_TCP, TCP_RTO_MAX_MS, LONGEST_RETRY_MS) {
        // An older kernel; links live there too, if not as long on such paths.
        Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => Ok(()),
        outcome => outcome,
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "the socket needs another end")]
mod tests {
    use std::io::Write as _;
    use std::net::TcpListener;

    use mio::{Events, Poll};

    use super::*;
    use crate::wire::key::PrivateKey;

    fn connected() -> (Link, std::net::TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let other = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, _) = listener.accept().unwrap();
        stream.set_nonblocking(true).unwrap();
        (Link::new(TcpStream::from_std(stream)).unwrap(), other)
    }

    /// What a program has beside its links.
    struct Reader {
        tunnel: Tunnel,
        inbox: Inbox,
        pool: Pool,
    }

    impl Reader {
        fn new() -> Reader {
            let tunnel = Tunnel::hub(&PrivateKey::from_random([1; 32]), [2; 32], Instant::now());
            Reader { tunnel, inbox: Inbox::default(), pool: Pool::new(1 << 20) }
        }

        fn fill(&mut self, link: &mut Link) -> Filled {
            link.fill(&mut self.tunnel, &mut self.inbox, &mut self.pool, Instant::now()).unwrap()
        }
    }

    #[test]
    fn an_end_that_is_reported_with_the_last_bytes_is_seen() {
        let (mut link, mut other) = connected();
        other.write_all(b"last words").unwrap();
        drop(other);
        let mut poll = Poll::new().unwrap();
        link.register(poll.registry(), Token(0)).unwrap();
        let mut events = Events::with_capacity(8);
        while !events.iter().any(mio::event::Event::is_read_closed) {
            poll.poll(&mut events, None).unwrap();
        }
        link.set_ready(false, true);
        let mut reader = Reader::new();
        assert_eq!(reader.fill(&mut link), Filled::More);
        assert_eq!(reader.inbox.sealed(), b"last words");
        assert_eq!(reader.fill(&mut link), Filled::Closed);
    }

    #[test]
    fn a_read_that_brings_nothing_is_no_sign_of_life() {
        let (mut link, mut other) = connected();
        let mut reader = Reader::new();
        let born_at = reader.tunnel.heard_at();
        assert_eq!(reader.fill(&mut link), Filled::Nothing);
        assert_eq!(reader.tunnel.heard_at(), born_at);
        other.write_all(b"a sign").unwrap();
        while reader.fill(&mut link) == Filled::Nothing {}
        assert!(reader.tunnel.heard_at() > born_at);
    }

    #[test]
    fn a_long_path_may_have_more_received_than_a_short_one() {
        assert_eq!(most_received(Duration::from_micros(40)), MIN_RECEIVE_BUFFER);
        assert_eq!(most_received(Duration::from_millis(1)), 2_500_000);
        // More than the kernel gives by itself (tcp_rmem, 6 MB).
        assert!(most_received(Duration::from_millis(3)) > 6 << 20);
    }

    #[test]
    fn the_window_of_a_long_path_opens_and_a_single_byte_is_still_reported() {
        let (link, mut other) = connected();
        let size = || SockRef::from(&link.stream).recv_buffer_size().unwrap();
        let before = size();
        open_window(&link.stream, Duration::from_millis(100));
        assert!(size() > before && size() as f64 > 0.1 * WINDOW_RATE, "{before} bytes, then {}", size());
        let mut poll = Poll::new().unwrap();
        let mut link = link;
        link.register(poll.registry(), Token(0)).unwrap();
        other.write_all(b"1").unwrap();
        let mut events = Events::with_capacity(8);
        while !events.iter().any(mio::event::Event::is_readable) {
            poll.poll(&mut events, None).unwrap();
        }
    }

    #[test]
    fn a_busy_reader_has_little_received() {
        let (mut link, mut other) = connected();
        let size = |link: &Link| SockRef::from(&link.stream).recv_buffer_size().unwrap();
        setsockopt(&link.stream, RcvBufForce, &4_000_000).expect("this test needs CAP_NET_ADMIN");
        assert!(size(&link) > MIN_RECEIVE_BUFFER);
        let mut reader = Reader::new();
        other.write_all(b"little").unwrap();
        while reader.fill(&mut link) == Filled::Nothing {}
        assert!(size(&link) > MIN_RECEIVE_BUFFER, "what is drained needs no bound");
        let sender = std::thread::spawn(move || other.write_all(&vec![0; 16 << 20]));
        while reader.fill(&mut link) != Filled::Closed {}
        sender.join().unwrap().unwrap();
        // Whether a read was ever full is the scheduler's affair, and on a busy machine even loopback may look long.
        link.bound();
        let round_trip = shortest_round_trip(link.stream.as_fd()).expect("the connection was opened");
        assert!(size(&link) <= most_received(round_trip));
    }
}
