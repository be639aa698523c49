//! One TCP connection of smoltcp, of which the segments go wherever the caller sends them. Pure: time is an argument.
//!
//! Around a segment there is an IPv4 header for smoltcp alone, which never leaves. Checksums are those of ICMP and
//! Noise.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use smoltcp::iface::{Config, Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::phy::{ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::Instant as Time;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr, Ipv4Address};

use super::packet::MAX_SEGMENT;

const IP_HEADER: usize = 20;
/// Without options.
const TCP_HEADER: usize = 20;
const SYN: u8 = 0x02;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
const CLIENT: Ipv4Address = Ipv4Address::new(10, 0, 0, 1);
const SERVER: Ipv4Address = Ipv4Address::new(10, 0, 0, 2);
const PREFIX: u8 = 30;
const SERVER_PORT: u16 = 1;
const CLIENT_PORT: u16 = 2;
/// Bytes that wait to be read, or acknowledged.
///
/// A longer one needs window scaling, and then smoltcp 0.14 takes the window of its SYN, which is never scaled, for a
/// scaled one: who sends more than the buffer holds before the first acknowledgement makes an assertion fail.
const BUFFER: usize = u16::MAX as usize;
/// Longest time until data is acknowledged.
const ACK_DELAY: smoltcp::time::Duration = smoltcp::time::Duration::from_millis(10);

/// One end of the connection.
pub struct Stack {
    interface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    wire: Wire,
    /// The time that smoltcp counts from.
    born_at: Instant,
    is_server: bool,
}

impl Stack {
    /// The end that connects; `random` is fresh randomness.
    pub fn client(random: u64, now: Instant) -> Stack {
        let mut stack = Stack::new(false, random, now);
        let socket = stack.sockets.get_mut::<Socket<'_>>(stack.handle);
        let to = (IpAddress::Ipv4(SERVER), SERVER_PORT);
        let connected = socket.connect(stack.interface.context(), to, CLIENT_PORT);
        debug_assert!(connected.is_ok(), "a new socket connects");
        stack
    }

    /// The end that waits for a connection; `random` is fresh randomness.
    pub fn server(random: u64, now: Instant) -> Stack {
        let mut stack = Stack::new(true, random, now);
        let listening = stack.socket().listen(SERVER_PORT);
        debug_assert!(listening.is_ok(), "a new socket listens");
        stack
    }

    fn new(is_server: bool, random: u64, now: Instant) -> Stack {
        let mut wire = Wire::default();
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = random;
        let mut interface = Interface::new(config, &mut wire, Time::ZERO);
        interface.update_ip_addrs(|addresses| {
            let own = if is_server { SERVER } else { CLIENT };
            let added = addresses.push(IpCidr::new(IpAddress::Ipv4(own), PREFIX));
            debug_assert!(added.is_ok(), "there is room for one");
        });
        let buffer = || SocketBuffer::new(vec![0; BUFFER]);
        let mut socket = Socket::new(buffer(), buffer());
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(Some(ACK_DELAY));
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let handle = sockets.add(socket);
        Stack { interface, sockets, handle, wire, born_at: now, is_server }
    }

    fn socket(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut(self.handle)
    }

    fn state(&self) -> State {
        self.sockets.get::<Socket<'_>>(self.handle).state()
    }

    fn time(&self, now: Instant) -> Time {
        let micros = now.saturating_duration_since(self.born_at).as_micros();
        Time::from_micros(i64::try_from(micros).unwrap_or(i64::MAX))
    }

    /// Whether both ends have agreed.
    pub fn is_open(&self) -> bool {
        self.state() == State::Established
    }

    /// Takes a segment from the other end; `poll` acts on it.
    pub fn receive(&mut self, segment: &[u8]) {
        if self.is_expected(segment) && self.wire.incoming.len() < MAX_INCOMING {
            let (from, to) = if self.is_server { (CLIENT, SERVER) } else { (SERVER, CLIENT) };
            self.wire.incoming.push_back(packet(segment, from, to));
        }
    }

    /// Whether it is one of the few kinds of segment that this connection needs: it is opened once, and carries data.
    ///
    /// Nothing else gets to smoltcp: less of it can be reached by who means ill. A connection ends with its session,
    /// without FIN and RST.
    fn is_expected(&self, segment: &[u8]) -> bool {
        let &[.., data_offset, flags, _, _, _, _, _, _] =
            segment.first_chunk::<TCP_HEADER>().unwrap_or(&[0; TCP_HEADER]);
        let header = usize::from(data_offset >> 4) * 4;
        if header < TCP_HEADER || header > segment.len() || segment.len() > MAX_SEGMENT {
            return false;
        }
        let is_bare = header == segment.len();
        match self.state() {
            State::Listen => flags == SYN && is_bare,
            State::SynSent => flags == SYN | ACK && is_bare,
            State::SynReceived => flags == SYN && is_bare || flags & !PSH == ACK,
            State::Established => flags & !PSH == ACK,
            State::Closed
            | State::FinWait1
            | State::FinWait2
            | State::CloseWait
            | State::Closing
            | State::LastAck
            | State::TimeWait => false,
        }
    }

    /// Lets it make segments, until `room` of them wait to be taken.
    pub fn poll(&mut self, room: usize, now: Instant) {
        let time = self.time(now);
        self.wire.room = room;
        for _ in 0..=room {
            if self.interface.poll(time, &mut self.wire, &mut self.sockets) == PollResult::None
                && self.wire.incoming.is_empty()
            {
                break;
            }
        }
    }

    /// The next segment for the other end.
    pub fn next_segment(&mut self) -> Option<Vec<u8>> {
        let mut packet = self.wire.outgoing.pop_front()?;
        packet.drain(..IP_HEADER.min(packet.len()));
        Some(packet)
    }

    /// Whether segments wait to be taken.
    pub fn has_segments(&self) -> bool {
        !self.wire.outgoing.is_empty()
    }

    /// When `poll` has something to do next, if there is room for a segment.
    pub fn deadline(&mut self, now: Instant) -> Option<Instant> {
        let time = self.time(now);
        let delay = self.interface.poll_delay(time, &self.sockets)?;
        Some(now + Duration::from_micros(delay.total_micros()))
    }

    /// Reads what came: how many bytes of `space` it fills.
    pub fn read(&mut self, space: &mut [u8]) -> usize {
        self.socket().recv_slice(space).unwrap_or(0)
    }

    /// Whether `read` would bring something.
    pub fn can_read(&self) -> bool {
        self.sockets.get::<Socket<'_>>(self.handle).can_recv()
    }

    /// Takes as many bytes as there is room for; none before it is open.
    pub fn send(&mut self, bytes: &[u8]) -> usize {
        self.socket().send_slice(bytes).unwrap_or(0)
    }

    /// Whether `send` would take something.
    pub fn can_send(&self) -> bool {
        self.sockets.get::<Socket<'_>>(self.handle).can_send()
    }

    /// Bytes that are not acknowledged.
    pub fn unacknowledged(&self) -> usize {
        self.sockets.get::<Socket<'_>>(self.handle).send_queue()
    }
}

/// Most segments that wait for `poll`.
const MAX_INCOMING: usize = 64;

/// An IPv4 packet with a TCP segment, as far as smoltcp looks at it.
fn packet(segment: &[u8], from: Ipv4Address, to: Ipv4Address) -> Vec<u8> {
    let mut packet = Vec::with_capacity(IP_HEADER + segment.len());
    let len = (IP_HEADER + segment.len()) as u16;
    packet.extend([0x45, 0]);
    packet.extend(len.to_be_bytes());
    packet.extend([0, 0, 0x40, 0, 64, 6, 0, 0]);
    packet.extend(from.octets());
    packet.extend(to.octets());
    packet.extend(segment);
    packet
}

/// The device that smoltcp sees.
#[derive(Default)]
struct Wire {
    incoming: VecDeque<Vec<u8>>,
    outgoing: VecDeque<Vec<u8>>,
    room: usize,
}

struct Received(Vec<u8>);

struct Sending<'a>(&'a mut VecDeque<Vec<u8>>);

impl Device for Wire {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _: Time) -> Option<(Received, Sending<'_>)> {
        let packet = self.incoming.pop_front()?;
        Some((Received(packet), Sending(&mut self.outgoing)))
    }

    fn transmit(&mut self, _: Time) -> Option<Sending<'_>> {
        (self.outgoing.len() < self.room).then_some(Sending(&mut self.outgoing))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = IP_HEADER + MAX_SEGMENT;
        capabilities.checksum = ChecksumCapabilities::ignored();
        capabilities
    }
}

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut packet = vec![0; len];
        let result = f(&mut packet);
        self.0.push_back(packet);
        result
    }
}
