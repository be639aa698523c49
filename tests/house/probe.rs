//! Traffic that tests send: pings, TCP with a checksum, UDP.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{self, Digest, SHA256};
use socket2::{Domain, Protocol, Socket, Type};

use super::{Context, Failure, Host, Lan, Process, Result};

/// Length of an ICMP echo header.
const ECHO: usize = 8;

/// A transfer fails when nothing moves for so long.
const STALL: Duration = Duration::from_secs(60);

/// Sends an ICMP or ICMPv6 echo request with `size` bytes of data and waits for its answer, the data of which
/// must be the same. Returns the round-trip time.
pub(crate) fn ping(from: &Host, to: IpAddr, size: usize, timeout: Duration) -> Result<Duration> {
    let what = || format!("ping {to} from {} with {size} bytes", from.name());
    let socket = from
        .run(move || match to {
            IpAddr::V4(_) => Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)),
            IpAddr::V6(_) => Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6)),
        })
        .context(&what())?;
    exchange_echo(&socket, to, size, timeout).context(&what())
}

/// As [`ping`], to a link-local address on a device.
pub(crate) fn ping_link_local(
    from: &Host,
    device: &'static str,
    to: Ipv6Addr,
    size: usize,
    timeout: Duration,
) -> Result<Duration> {
    let what = format!("ping {to}%{device} from {}", from.name());
    let socket = from
        .run(move || {
            let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
            socket.bind_device(Some(device.as_bytes()))?;
            Ok::<_, io::Error>(socket)
        })
        .context(&what)?;
    exchange_echo(&socket, to.into(), size, timeout).context(&what)
}

/// Sends full packets to the hub until they arrive, which they do once the spoke's link was made with segments of so
/// many bytes; what the spoke says that it found.
pub(crate) fn full_packets_fit(
    from: &Host,
    spoke: &Process,
    segment: u32,
    within: Duration,
) -> Result<String> {
    let end = Instant::now() + within;
    while let Err(failure) = ping(from, Lan::hub_address().into(), 1_472, Duration::from_secs(1)) {
        if Instant::now() >= end {
            return Err(failure);
        }
        // An unreachable network comes back at once.
        thread::sleep(Duration::from_millis(50));
    }
    let found = format!("drops large packets in silence: using segments of {segment} bytes");
    spoke.wait_for_line(&found, Duration::ZERO)?;
    Ok(found)
}

/// Pings until an answer comes: for a LAN that is still coming up. Each try waits a little longer.
pub(crate) fn ping_until(from: &Host, to: IpAddr, timeout: Duration) -> Result<Duration> {
    let end = Instant::now() + timeout;
    let mut patience = Duration::from_millis(10);
    loop {
        let try_start = Instant::now();
        match ping(from, to, 56, patience) {
            Ok(time) => return Ok(time),
            Err(failure) if Instant::now() >= end => return Err(failure),
            // An error such as "network is unreachable" comes at once.
            Err(_) => thread::sleep(patience.saturating_sub(try_start.elapsed())),
        }
        patience = (patience * 2).min(Duration::from_millis(250));
    }
}

fn exchange_echo(mut socket: &Socket, to: IpAddr, size: usize, timeout: Duration) -> io::Result<Duration> {
    static SEQUENCE: AtomicU16 = AtomicU16::new(0);
    let sequence = SEQUENCE.fetch_add(1, Ordering::Relaxed);
    let request = echo_request(to, sequence, size);
    let answer_kind = if to.is_ipv4() { 0 } else { 129 };
    socket.connect(&SocketAddr::new(to, 0).into())?;
    let mut packet = vec![0; 65_536];
    // What came from others ahead of `connect` may leave no room for the answer.
    socket.set_nonblocking(true)?;
    while socket.read(&mut packet).is_ok() {}
    socket.set_nonblocking(false)?;
    let start = Instant::now();
    socket.send(&request)?;
    loop {
        let left = timeout.saturating_sub(start.elapsed());
        if left.is_zero() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer in {timeout:?}")));
        }
        socket.set_read_timeout(Some(left))?;
        let length = match socket.read(&mut packet) {
            Ok(length) => length,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                continue;
            }
            Err(error) => return Err(error),
        };
        let packet = &packet[..length];
        // A raw IPv4 socket is given the IP header too (raw(7)), an IPv6 one is not.
        let header =
            if to.is_ipv4() { packet.first().map_or(0, |byte| usize::from(byte & 15) * 4) } else { 0 };
        let answer = packet.get(header..).unwrap_or_default();
        let ours = answer.first() == Some(&answer_kind) && answer.get(4..ECHO) == Some(&request[4..ECHO]);
        if !ours {
            continue;
        }
        if answer[ECHO..] == request[ECHO..] {
            return Ok(start.elapsed());
        }
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the answer has other data"));
    }
}

/// RFC 792 and RFC 4443: type, code, checksum, identifier, sequence number, data. The kernel fills in the
/// checksum of ICMPv6.
pub(crate) fn echo_request(to: IpAddr, sequence: u16, size: usize) -> Vec<u8> {
    let mut message = vec![0; ECHO + size];
    message[4..6].copy_from_slice(&(std::process::id() as u16).to_be_bytes());
    message[6..8].copy_from_slice(&sequence.to_be_bytes());
    fill_seeded(&mut message[ECHO..], &mut u64::from(sequence));
    match to {
        IpAddr::V4(_) => {
            message[0] = 8;
            let sum = checksum(&message);
            message[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        IpAddr::V6(_) => message[0] = 128,
    }
    message
}

/// RFC 1071.
pub(crate) fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u64 = words.map(u64::from).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Fills `bytes` from a generator (SplitMix64) whose state is `seed`.
pub(crate) fn fill_seeded(bytes: &mut [u8], seed: &mut u64) {
    for chunk in bytes.chunks_mut(8) {
        *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = *seed;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        chunk.copy_from_slice(&(word ^ (word >> 31)).to_le_bytes()[..chunk.len()]);
    }
}

/// A TCP transfer under way.
pub(crate) struct Transfer {
    sender: JoinHandle<io::Result<Digest>>,
    receiver: JoinHandle<io::Result<(Digest, u64)>>,
    bytes: u64,
    progress: Arc<Progress>,
    start: Instant,
}

struct Progress {
    received: Mutex<Received>,
    changed: Condvar,
}

struct Received {
    bytes: u64,
    ended: bool,
    /// When the last bytes came.
    at: Instant,
    longest_stall: Duration,
}

/// Starts sending `bytes` of seeded noise by TCP between two hosts. `to_address` is the receiver's address as
/// the sender sees it.
pub(crate) fn transfer(from: &Host, to: &Host, to_address: IpAddr, bytes: u64) -> Result<Transfer> {
    let listener = to.tcp_listen((to_address, 0))?;
    let mut outgoing = from.tcp_connect(listener.local_addr()?, Duration::from_secs(10))?;
    let (mut incoming, _) = listener.accept().context("accept")?;
    for stream in [&outgoing, &incoming] {
        stream.set_read_timeout(Some(STALL))?;
        stream.set_write_timeout(Some(STALL))?;
    }
    let start = Instant::now();
    let received = Received { bytes: 0, ended: false, at: start, longest_stall: Duration::ZERO };
    let progress = Arc::new(Progress { received: Mutex::new(received), changed: Condvar::new() });
    let shared = Arc::clone(&progress);
    let sender = thread::spawn(move || {
        let (mut seed, mut sum, mut left) = (bytes, digest::Context::new(&SHA256), bytes);
        let mut buffer = vec![0; 64 * 1024];
        while left > 0 {
            let part = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
            fill_seeded(&mut buffer[..part], &mut seed);
            sum.update(&buffer[..part]);
            outgoing.write_all(&buffer[..part])?;
            left -= part as u64;
        }
        outgoing.shutdown(Shutdown::Write)?;
        // The receiver closes when it has everything: the connection has lived to its end.
        match outgoing.read(&mut buffer)? {
            0 => Ok(sum.finish()),
            _ => Err(io::Error::other("the receiver sent something")),
        }
    });
    let receiver = thread::spawn(move || {
        let (mut sum, mut count) = (digest::Context::new(&SHA256), 0);
        let mut buffer = vec![0; 64 * 1024];
        let result = loop {
            match incoming.read(&mut buffer) {
                Ok(0) => break Ok((sum.finish(), count)),
                Ok(part) => {
                    count += part as u64;
                    shared.report_bytes(count);
                    sum.update(&buffer[..part]);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Err(error),
            }
        };
        shared.report_end();
        result
    });
    Ok(Transfer { sender, receiver, bytes, progress, start })
}

impl Transfer {
    /// Waits until the receiver has `bytes`.
    pub(crate) fn wait_received(&self, bytes: u64, timeout: Duration) -> Result<()> {
        let received = self.progress.received.lock().expect("no holder panics");
        let waiting = |received: &mut Received| received.bytes < bytes && !received.ended;
        let (received, _) =
            self.progress.changed.wait_timeout_while(received, timeout, waiting).expect("no holder panics");
        if received.bytes >= bytes {
            return Ok(());
        }
        Err(Failure::new(format!("{} of {bytes} bytes have arrived in {timeout:?}", received.bytes)))
    }

    /// Whether the receiver has not seen the end yet.
    pub(crate) fn is_under_way(&self) -> bool {
        !self.progress.received.lock().expect("no holder panics").ended
    }

    /// The longest time for which the receiver got nothing, from the start or the last call to the last bytes
    /// that came.
    pub(crate) fn take_longest_stall(&self) -> Duration {
        std::mem::take(&mut self.progress.received.lock().expect("no holder panics").longest_stall)
    }

    /// Waits for the end and compares the SHA-256 of both ends. Returns the time since the start.
    pub(crate) fn finish(self) -> Result<Duration> {
        let sent = self.sender.join().expect("the sender does not panic");
        let received = self.receiver.join().expect("the receiver does not panic");
        let sent = sent.context("send")?;
        let (sum, count) = received.context("receive")?;
        if count != self.bytes || sum.as_ref() != sent.as_ref() {
            return Err(Failure::new(format!("{count} of {} bytes arrived, or they differ", self.bytes)));
        }
        Ok(self.start.elapsed())
    }
}

impl Progress {
    fn report_bytes(&self, bytes: u64) {
        let now = Instant::now();
        let mut received = self.received.lock().expect("no holder panics");
        received.longest_stall = received.longest_stall.max(now - received.at);
        (received.bytes, received.at) = (bytes, now);
        self.changed.notify_all();
    }

    fn report_end(&self) {
        self.received.lock().expect("no holder panics").ended = true;
        self.changed.notify_all();
    }
}

/// Answers the next UDP message with its own bytes, and returns who sent what.
pub(crate) fn echo_udp(socket: &UdpSocket, timeout: Duration) -> Result<(SocketAddr, Vec<u8>)> {
    socket.set_read_timeout(Some(timeout))?;
    let mut message = vec![0; 65_536];
    let (length, sender) = socket.recv_from(&mut message).context("receive by UDP")?;
    message.truncate(length);
    socket.send_to(&message, sender).context("answer by UDP")?;
    Ok((sender, message))
}
