//! A long line: a host between two others that passes Ethernet frames on, later, and not all of them.

use std::io::{self, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{LinkAddr, MsgFlags, sendto};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use super::host::missing_tool;
use super::{Context, Failure, Host, Result};

/// All protocols, as packet(7) wants the number: in network order.
const ETH_P_ALL: i32 = 0x0003_u16.to_be() as i32;
/// How soon a thread without frames finds that it is to stop.
const IDLE: Duration = Duration::from_millis(100);

/// What a line is like, the same both ways.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Line {
    /// The round trip of an idle line.
    pub(crate) round_trip: Duration,
    /// Its bottleneck.
    pub(crate) megabits: f64,
    /// Frames that are lost at random, each way.
    pub(crate) percent_lost: f64,
}

impl Line {
    /// What the bottleneck queues before it drops, in bytes: one bandwidth-delay product.
    fn queue(&self) -> f64 {
        self.megabits * 1e6 / 8.0 * self.round_trip.as_secs_f64()
    }
}

/// A line at work.
pub(crate) struct Emulator {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<io::Result<()>>>,
}

impl Emulator {
    /// Passes frames between two devices of a host.
    pub(crate) fn start(host: &Host, devices: [&str; 2], line: Line) -> Result<Emulator> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for (seed, [from, to]) in [(1, devices), (2, [devices[1], devices[0]])] {
            let (from, to) = (from.to_owned(), to.to_owned());
            let opened = host.run(move || open(&from, &to));
            let (receiver, sender, target) = opened.context("watch a device of the line")?;
            let (queue, waiting) = mpsc::channel();
            let stopped = Arc::clone(&stop);
            threads.push(host.thread(move || take_in(receiver, line, seed, &queue, &stopped)));
            threads.push(host.thread(move || pass_on(&sender, &target, &waiting)));
        }
        Ok(Emulator { stop, threads })
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            if let Ok(Err(error)) = thread.join() {
                let _ = writeln!(io::stderr(), "the emulated line broke: {error}");
            }
        }
    }
}

/// A socket that hears what arrives at one device, and one for what leaves by the other, with its address.
fn open(from: &str, to: &str) -> io::Result<(Socket, Socket, LinkAddr)> {
    // Not bound, as only the kernel's own list gives an address of a device safely, but filtered
    // (Linux, Documentation/networking/filter.rst).
    const LOAD_WORD: u16 = 0x20;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    const PACKET_TYPE: u32 = 0xffff_f000 + 4;
    const DEVICE_INDEX: u32 = 0xffff_f000 + 8;
    /// What the host itself sends (packet(7)).
    const OUTGOING: u32 = 4;
    let receiver = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(ETH_P_ALL)))?;
    receiver.set_recv_buffer_size(16 << 20)?;
    receiver.attach_filter(&[
        SockFilter::new(LOAD_WORD, 0, 0, PACKET_TYPE),
        SockFilter::new(JUMP_IF_EQUAL, 3, 0, OUTGOING),
        SockFilter::new(LOAD_WORD, 0, 0, DEVICE_INDEX),
        SockFilter::new(JUMP_IF_EQUAL, 0, 1, nix::net::if_::if_nametoindex(from)?),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
        SockFilter::new(RETURN, 0, 0, 0),
    ])?;
    receiver.set_read_timeout(Some(IDLE))?;
    // It hears nothing: no protocol.
    let sender = Socket::new(Domain::PACKET, Type::RAW, None)?;
    let target = getifaddrs()?
        .filter(|device| device.interface_name == to)
        .find_map(|device| device.address?.as_link_addr().copied())
        .ok_or_else(|| io::Error::other(format!("{to} has no link address")))?;
    Ok((receiver, sender, target))
}

/// A frame, and when it is at the other end.
type Frame = (Instant, Vec<u8>);

fn take_in(
    mut socket: Socket,
    line: Line,
    seed: u64,
    queue: &Sender<Frame>,
    stop: &AtomicBool,
) -> io::Result<()> {
    let (mut random, mut frame) = (seed, vec![0; 65_536]);
    // When the bottleneck has sent what it was given.
    let mut free_at = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let len = match socket.read(&mut frame) {
            Ok(len) => len,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                continue;
            }
            Err(error) => return Err(error),
        };
        let now = Instant::now();
        let waits = free_at.saturating_duration_since(now).as_secs_f64();
        let is_full = waits * line.megabits * 1e6 / 8.0 > line.queue();
        if is_full || share(&mut random) * 100.0 < line.percent_lost {
            continue;
        }
        let takes = Duration::from_secs_f64(len as f64 * 8.0 / (line.megabits * 1e6));
        free_at = free_at.max(now) + takes;
        if queue.send((free_at + line.round_trip / 2, frame[..len].to_vec())).is_err() {
            break;
        }
    }
    Ok(())
}

fn pass_on(socket: &Socket, target: &LinkAddr, waiting: &Receiver<Frame>) -> io::Result<()> {
    while let Ok((at, frame)) = waiting.recv() {
        std::thread::sleep(at.saturating_duration_since(Instant::now()));
        match sendto(socket.as_raw_fd(), &frame, target, MsgFlags::empty()) {
            // The device's own queue is longer than what a line may hold; a device that is gone takes no more.
            Ok(_) | Err(nix::errno::Errno::ENOBUFS) => {}
            Err(nix::errno::Errno::ENETDOWN | nix::errno::Errno::ENXIO | nix::errno::Errno::ENODEV) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// At least 0 and less than 1, by xorshift64* (Vigna, An experimental exploration of Marsaglia's xorshift generators).
fn share(state: &mut u64) -> f64 {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 / (1_u64 << 53) as f64
}

/// A host with a device towards each of two others, whose frames travel by a line between them.
pub(crate) fn connect(path: &Host, near: (&Host, &str), far: (&Host, &str), line: Line) -> Result<Emulator> {
    for ((host, device), own) in [(near, "near"), (far, "far")] {
        let namespace = host.namespace_path();
        path.ip(&format!(
            "link add {own} type veth peer name {device} netns {}\nlink set {own} up",
            namespace.display()
        ))?;
        host.ip(&format!("link set {device} up"))?;
        for (host, device) in [(path, own), (host, device)] {
            make_plain(host, device)?;
        }
        // What the path's own kernel has to say is none of their business.
        path.ip(&format!("link set {own} arp off"))?;
    }
    Emulator::start(path, ["near", "far"], line)
}

/// Has a device send frames as they are on a cable: each with its checksum, none larger than the MTU.
fn make_plain(host: &Host, device: &str) -> Result<()> {
    let arguments = ["-K", device, "tso", "off", "gso", "off", "gro", "off", "tx", "off", "rx", "off"];
    let arguments = arguments.map(str::to_owned);
    let output = host.run(move || Command::new("ethtool").args(arguments).output());
    let output = output.map_err(|error| missing_tool("ethtool", "ethtool", &error))?;
    if output.status.success() {
        return Ok(());
    }
    Err(Failure::new(format!("ethtool: {}", String::from_utf8_lossy(&output.stderr).trim())))
}
