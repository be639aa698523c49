//! The traffic that is measured, the same for every system.

#![allow(dead_code, reason = "each benchmark that includes it uses a part of it")]

use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::field::Field;
use crate::house::{Context, Failure, Host, Process, Result, echo_request};
use crate::systems::{Running, Way, command};

/// Bytes of one write or read: large enough that the ends' system calls are not what is measured.
const CHUNK: usize = 256 * 1024;
/// Payload of a small UDP packet.
const SMALL: usize = 64;
/// Payload of a large one.
const LARGE: usize = 1_400;
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a ping is waited for; one that is lost counts as this long.
pub(crate) const PING_PATIENCE: Duration = Duration::from_secs(2);

/// TCP connections that carry as much as they can, until this is dropped.
pub(crate) struct Flows {
    received: Arc<AtomicU64>,
    streams: Vec<TcpStream>,
    threads: Vec<JoinHandle<()>>,
    pub(crate) relays: Vec<Process>,
}

impl Flows {
    /// Starts `count` flows from end `from` to end `to`.
    pub(crate) fn start(running: &Running, from: usize, to: usize, count: u16) -> Result<Flows> {
        let mut flows = Flows::none();
        for _ in 0..count {
            let (outgoing, incoming) = flows.connect(running, from, to)?;
            flows.carry(outgoing, incoming)?;
        }
        Ok(flows)
    }

    /// One flow from a host to another that has this address, past all tunnels.
    pub(crate) fn between(from: &Host, to: &Host, at: IpAddr) -> Result<Flows> {
        let listener = to.tcp_listen((at, 0))?;
        let outgoing = from.tcp_connect(listener.local_addr()?, PATIENCE)?;
        let mut flows = Flows::none();
        flows.carry(outgoing, listener.accept().context("accept")?.0)?;
        Ok(flows)
    }

    fn none() -> Flows {
        let received = Arc::new(AtomicU64::new(0));
        Flows { received, streams: Vec::new(), threads: Vec::new(), relays: Vec::new() }
    }

    fn carry(&mut self, outgoing: TcpStream, incoming: TcpStream) -> Result<()> {
        self.streams.extend([outgoing.try_clone()?, incoming.try_clone()?]);
        let received = Arc::clone(&self.received);
        self.threads.push(thread::spawn(move || send(outgoing)));
        self.threads.push(thread::spawn(move || receive(incoming, &received)));
        Ok(())
    }

    /// Bytes that have arrived so far.
    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    fn connect(&mut self, running: &Running, from: usize, to: usize) -> Result<(TcpStream, TcpStream)> {
        let at = running.address(to).unwrap_or(Field::end_address(to).into());
        let listener = running.end(to).tcp_listen((at, 0))?;
        let target = match running.way {
            Way::Packets(_) => listener.local_addr()?,
            Way::Relay => self.start_relay(running, from, listener.local_addr()?)?,
        };
        let outgoing = running.end(from).tcp_connect(target, PATIENCE)?;
        let (incoming, _) = listener.accept().context("accept")?;
        Ok((outgoing, incoming))
    }

    /// Starts a relay for one connection, and returns where it listens.
    fn start_relay(&mut self, running: &Running, from: usize, to: SocketAddr) -> Result<SocketAddr> {
        // Nothing else runs in this host: the first free port stays free.
        let port = running.field.hub.tcp_listen((Field::hub_address(from), 0))?.local_addr()?.port();
        let mut socat = command("socat");
        socat.args(["-d", "-d", "-b", "262144"]);
        socat.args([format!("TCP-LISTEN:{port},reuseaddr"), format!("TCP:{to}")]);
        let relay = running.field.hub.spawn("socat", &socat)?;
        relay.wait_for_line("listening on", PATIENCE)?;
        self.relays.push(relay);
        Ok((Field::hub_address(from), port).into())
    }
}

impl Drop for Flows {
    fn drop(&mut self) {
        for stream in &self.streams {
            // A connection that has failed already is closed too.
            let _ = stream.shutdown(Shutdown::Both);
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn send(mut stream: TcpStream) {
    let chunk = vec![0x5a; CHUNK];
    while stream.write_all(&chunk).is_ok() {}
}

fn receive(mut stream: TcpStream, received: &AtomicU64) {
    let mut chunk = vec![0; CHUNK];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(len) => {
                received.fetch_add(len as u64, Ordering::Relaxed);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
}

/// What small packets came to.
pub(crate) struct SmallPackets {
    /// How many arrived a second.
    pub(crate) rate: f64,
    /// Processor time of the hub for each that arrived, in seconds; `None` where it is the kernel's.
    pub(crate) hub_seconds: Option<f64>,
}

/// Small UDP packets as fast as one socket can be made to send them: nothing holds the sender back, as a TUN device takes
/// what it is given, or drops it.
pub(crate) fn small_packets(
    running: &Running,
    to: IpAddr,
    warm: Duration,
    time: Duration,
) -> Result<SmallPackets> {
    let receiver = running.end(1).udp_bind((to, 0))?;
    // As much as the system allows: the receiving socket is not what is measured.
    SockRef::from(&receiver).set_recv_buffer_size(8 << 20)?;
    receiver.set_read_timeout(Some(Duration::from_millis(50)))?;
    let sender = running.end(0).udp_bind(([0, 0, 0, 0], 0))?;
    sender.connect(receiver.local_addr()?)?;
    let (stop, received) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut packet = [0; 2 * SMALL];
            while !stop.load(Ordering::Relaxed) {
                if receiver.recv(&mut packet).is_ok() {
                    received.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                // A full device queue refuses packets; that is what a flood meets.
                let _ = sender.send(&[0x5a; SMALL]);
            }
        });
        thread::sleep(warm);
        let hub = || running.hub.as_ref().map(Process::cpu_seconds);
        let (before, hub_before, start) = (received.load(Ordering::Relaxed), hub(), Instant::now());
        thread::sleep(time);
        let packets = (received.load(Ordering::Relaxed) - before) as f64;
        let rate = packets / start.elapsed().as_secs_f64();
        let hub_seconds = hub().zip(hub_before).map(|(after, before)| (after - before) / packets.max(1.0));
        stop.store(true, Ordering::Relaxed);
        Ok(SmallPackets { rate, hub_seconds })
    })
}

/// Large UDP packets at a steady rate to an end that need not read them, until this is dropped.
pub(crate) struct Flood {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Flood {
    /// Bursts a second.
    const BURSTS: u64 = 500;

    /// Starts a flood of about `bits_per_second` from end `from` to end `to`.
    pub(crate) fn start(running: &Running, from: usize, to: usize, bits_per_second: u64) -> Result<Flood> {
        let to = running.address(to).ok_or_else(|| Failure::new("no address to flood"))?;
        let socket: UdpSocket = running.end(from).udp_bind(([0, 0, 0, 0], 0))?;
        // The discard port; what the other kernel answers to it is of no interest.
        socket.connect((to, 9))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let burst = bits_per_second / (8 * LARGE as u64 * Self::BURSTS);
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                for _ in 0..burst {
                    let _ = socket.send(&[0x5a; LARGE]);
                }
                thread::sleep(Duration::from_secs(1) / Self::BURSTS as u32);
            }
        });
        Ok(Flood { stop, thread: Some(thread) })
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Round trips, shortest first. A lost ping is among the longest.
pub(crate) struct RoundTrips(pub(crate) Vec<Duration>);

impl RoundTrips {
    /// The time that `part` of the pings did not exceed, in milliseconds.
    pub(crate) fn quantile_ms(&self, part: f64) -> f64 {
        let index = (self.0.len() as f64 * part) as usize;
        let time = self.0.get(index.min(self.0.len().saturating_sub(1)));
        time.map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
    }
}

/// Pings end 1 from end 0 at fixed times, whether answers come or not, so that a stall counts as often as it
/// is met.
pub(crate) fn pings(running: &Running, to: IpAddr, every: Duration, time: Duration) -> Result<RoundTrips> {
    static NEXT_SEQUENCE: AtomicU16 = AtomicU16::new(20_000);
    let count = u16::try_from(time.as_micros() / every.as_micros()).context("too many pings")?;
    let first = NEXT_SEQUENCE.fetch_add(count, Ordering::Relaxed);
    let mut socket = running
        .end(0)
        .run(|| Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)))
        .context("open a socket for pings")?;
    socket.connect(&SocketAddr::new(to, 0).into()).context("connect a socket for pings")?;
    let start = Instant::now();
    let mut sent: Vec<Instant> = Vec::new();
    let mut times: Vec<Option<Duration>> = vec![None; count.into()];
    let mut answer = [0; 2_048];
    while times.contains(&None) {
        let more = sent.len() < times.len();
        let due = if more { start + every * sent.len() as u32 } else { start + time + PING_PATIENCE };
        let wait = due.saturating_duration_since(Instant::now());
        if wait.is_zero() {
            if !more {
                break;
            }
            let request = echo_request(to, first.wrapping_add(sent.len() as u16), 56);
            sent.push(Instant::now());
            socket.send(&request).context("ping")?;
            continue;
        }
        socket.set_read_timeout(Some(wait.max(Duration::from_micros(100))))?;
        match socket.read(&mut answer) {
            Ok(len) => {
                let (now, answer) = (Instant::now(), &answer[..len]);
                if let Some(i) = sequence_of_reply(answer).map(|sequence| sequence.wrapping_sub(first))
                    && let Some(sent_at) = sent.get(usize::from(i))
                {
                    times[usize::from(i)].get_or_insert(now - *sent_at);
                }
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => return Err(error).context("wait for a ping"),
        }
    }
    let mut times: Vec<_> = times.into_iter().map(|time| time.unwrap_or(PING_PATIENCE)).collect();
    times.sort_unstable();
    Ok(RoundTrips(times))
}

/// Of an ICMP echo reply behind its IPv4 header (RFC 792).
fn sequence_of_reply(packet: &[u8]) -> Option<u16> {
    let header = usize::from(packet.first()? & 15) * 4;
    match packet.get(header..)? {
        [0, 0, _, _, _, _, high, low, ..] => Some(u16::from_be_bytes([*high, *low])),
        _ => None,
    }
}
