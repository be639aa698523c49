//! One TCP connection of smoltcp, of which the segments go wherever the caller sends them. Pure: time is an argument.
//!
//! Around a segment there is an IPv4 header for smoltcp alone, which never leaves. Checksums are those of ICMP and
//! Noise.
//!
//! smoltcp asserts what it takes for certain, and a failed assertion ends the program. So the other end's segments never
//! reach it: of each, `Segment` keeps the few fields that this connection needs, and a segment of our own making
//! carries them on. It has no options that a peer could choose, no flags but those of this state, and no FIN or RST: a
//! connection ends with its session. What is left of smoltcp 0.14 holds for all values of these fields, as
//! `hostile_segments_are_survived` and the fuzz target `icmp` try: sequence numbers are compared before they are
//! subtracted, an acknowledgement is held against what waits to be acknowledged, and data is cut to the window.

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
/// Most bytes of the stream in a segment.
const MAX_PAYLOAD: usize = MAX_SEGMENT - TCP_HEADER;
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
/// Most bytes that are taken while none of them is sent: the tunnel's queue, not this buffer, is where packets wait.
const MAX_UNSENT: usize = 4 * MAX_PAYLOAD;
/// How much faster smoltcp's clock goes than ours: its least and longest retransmission time-outs, of 1 s and 60 s, are 100 ms and 6 s.
const SPEED: u32 = 10;
/// Longest time until data is acknowledged.
const ACK_DELAY: Duration = Duration::from_millis(10);

/// One end of the connection.
pub struct Stack {
    interface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    wire: Wire,
    /// The time that smoltcp counts from.
    born_at: Instant,
    is_server: bool,
    /// Bytes that were ever taken to be sent, and that were ever read, as sequence numbers count.
    taken: u32,
    read: u32,
    /// The sequence number of the other end's first byte.
    first_expected: u32,
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
        socket.set_ack_delay(Some(fast(ACK_DELAY)));
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let handle = sockets.add(socket);
        Stack {
            interface,
            sockets,
            handle,
            wire,
            born_at: now,
            is_server,
            taken: 0,
            read: 0,
            first_expected: 0,
        }
    }

    fn socket(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut(self.handle)
    }

    fn seen(&self) -> &Socket<'static> {
        self.sockets.get(self.handle)
    }

    fn time(&self, now: Instant) -> Time {
        Time::ZERO + fast(now.saturating_duration_since(self.born_at))
    }

    /// Whether both ends have agreed.
    pub fn is_open(&self) -> bool {
        self.seen().state() == State::Established
    }

    /// Takes a segment from the other end; `poll` acts on it.
    pub fn receive(&mut self, segment: &[u8]) {
        let Some(segment) = Segment::read(segment).filter(|segment| self.is_expected(segment)) else {
            return;
        };
        if segment.flags & SYN != 0 {
            self.first_expected = segment.sequence.wrapping_add(1);
        } else if let Some(acknowledgement) = self.late_acknowledgement(&segment) {
            self.wire.receive(acknowledgement.packet(self.is_server));
        }
        self.wire.receive(segment.packet(self.is_server));
    }

    /// What a segment acknowledges that is older than what is expected, as a segment that is not.
    ///
    /// smoltcp drops an old segment with its acknowledgement. It also gives an acknowledgement, after a retransmission
    /// time-out, the sequence number of what it retransmits, which is old to the other end. Where both ends retransmit
    /// at once, neither would ever learn what the other one has.
    fn late_acknowledgement(&self, segment: &Segment<'_>) -> Option<Segment<'static>> {
        let waiting = self.seen().send_queue() as u32;
        let first_waiting = self.wire.first_sent.wrapping_add(self.taken).wrapping_sub(waiting);
        let expected =
            self.first_expected.wrapping_add(self.read).wrapping_add(self.seen().recv_queue() as u32);
        let is_late = (1..=BUFFER as u32).contains(&expected.wrapping_sub(segment.sequence));
        let is_news = (1..=waiting).contains(&segment.acknowledged.wrapping_sub(first_waiting));
        (is_late && is_news).then_some(Segment { sequence: expected, payload: &[], ..*segment })
    }

    /// Whether it is one of the few kinds of segment that this connection needs: it is opened once, and carries data.
    fn is_expected(&self, segment: &Segment<'_>) -> bool {
        let is_bare = segment.payload.is_empty();
        match self.seen().state() {
            State::Listen => segment.flags == SYN && is_bare,
            State::SynSent => segment.flags == SYN | ACK && is_bare,
            State::SynReceived | State::Established => segment.flags & !PSH == ACK,
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
        Some(now + Duration::from_micros(delay.total_micros()) / SPEED)
    }

    /// Reads what came: how many bytes of `space` it fills.
    pub fn read(&mut self, space: &mut [u8]) -> usize {
        let len = self.socket().recv_slice(space).unwrap_or(0);
        self.read = self.read.wrapping_add(len as u32);
        len
    }

    /// Whether `read` would bring something.
    pub fn can_read(&self) -> bool {
        self.seen().can_recv()
    }

    /// Takes as many bytes as there is room for; none before it is open. `poll` sends them, and makes room for more.
    pub fn send(&mut self, bytes: &[u8]) -> usize {
        let room = MAX_UNSENT.saturating_sub(self.unsent());
        let len = self.socket().send_slice(&bytes[..bytes.len().min(room)]).unwrap_or(0);
        self.taken = self.taken.wrapping_add(len as u32);
        len
    }

    /// Whether `send` would take something.
    pub fn can_send(&self) -> bool {
        self.seen().can_send() && self.unsent() < MAX_UNSENT
    }

    /// Bytes that were not sent yet, not even once.
    fn unsent(&self) -> usize {
        let taken_to = self.wire.first_sent.wrapping_add(self.taken);
        // Where the other end acknowledges what was never sent, less was sent than is gone.
        (taken_to.wrapping_sub(self.wire.sent_to) as usize).min(self.seen().send_queue())
    }
}

/// Most segments that wait for `poll`.
const MAX_INCOMING: usize = 64;
/// Most segments that wait to be taken. `poll` stops earlier; answers to what came are dropped here, as on a busy wire.
const MAX_OUTGOING: usize = 512;

/// A time in that of smoltcp's clock.
fn fast(time: Duration) -> smoltcp::time::Duration {
    let micros = (time * SPEED).as_micros();
    smoltcp::time::Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
}

/// What counts of a segment from the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Segment<'a> {
    sequence: u32,
    acknowledged: u32,
    flags: u8,
    window: u16,
    payload: &'a [u8],
}

impl Segment<'_> {
    /// Reads the bytes of a segment; `None` where they are none of these ends'.
    fn read(bytes: &[u8]) -> Option<Segment<'_>> {
        let &[_, _, _, _, s0, s1, s2, s3, a0, a1, a2, a3, data_offset, flags, w0, w1, ..] =
            bytes.first_chunk::<TCP_HEADER>()?;
        let header = usize::from(data_offset >> 4) * 4;
        let payload = bytes.get(header..).filter(|payload| payload.len() <= MAX_PAYLOAD)?;
        (header >= TCP_HEADER).then_some(Segment {
            sequence: u32::from_be_bytes([s0, s1, s2, s3]),
            acknowledged: u32::from_be_bytes([a0, a1, a2, a3]),
            flags,
            window: u16::from_be_bytes([w0, w1]),
            payload,
        })
    }

    /// The IPv4 packet that smoltcp gets for it, as far as smoltcp looks at it.
    fn packet(&self, to_server: bool) -> Vec<u8> {
        let (from, to) = if to_server { (CLIENT, SERVER) } else { (SERVER, CLIENT) };
        let ports = if to_server { [CLIENT_PORT, SERVER_PORT] } else { [SERVER_PORT, CLIENT_PORT] };
        // Both ends send segments of the same length; without the option, it would be another one.
        let [m0, m1] = (MAX_PAYLOAD as u16).to_be_bytes();
        let options = if self.flags & SYN == 0 { &[][..] } else { &[2, 4, m0, m1][..] };
        let header = TCP_HEADER + options.len();
        let len = IP_HEADER + header + self.payload.len();
        let mut packet = Vec::with_capacity(len);
        packet.extend([0x45, 0]);
        packet.extend((len as u16).to_be_bytes());
        packet.extend([0, 0, 0x40, 0, 64, 6, 0, 0]);
        packet.extend(from.octets());
        packet.extend(to.octets());
        packet.extend(ports.into_iter().flat_map(u16::to_be_bytes));
        packet.extend(self.sequence.to_be_bytes());
        packet.extend(self.acknowledged.to_be_bytes());
        packet.extend([(header / 4) as u8 * 16, self.flags]);
        packet.extend(self.window.to_be_bytes());
        packet.extend([0; 4]);
        packet.extend(options);
        packet.extend(self.payload);
        packet
    }
}

/// The device that smoltcp sees.
#[derive(Default)]
struct Wire {
    incoming: VecDeque<Vec<u8>>,
    outgoing: VecDeque<Vec<u8>>,
    room: usize,
    /// The sequence number of the first byte that was sent, and the one behind the last.
    first_sent: u32,
    sent_to: u32,
}

impl Wire {
    fn receive(&mut self, packet: Vec<u8>) {
        if self.incoming.len() < MAX_INCOMING {
            self.incoming.push_back(packet);
        }
    }

    fn send(&mut self, packet: Vec<u8>) {
        if let Some(segment) = packet.get(IP_HEADER..).and_then(Segment::read) {
            let end = segment.sequence.wrapping_add(segment.payload.len() as u32);
            if segment.flags & SYN != 0 {
                self.first_sent = end.wrapping_add(1);
                self.sent_to = self.first_sent;
            } else if end.wrapping_sub(self.sent_to) <= BUFFER as u32 {
                self.sent_to = end;
            }
        }
        if self.outgoing.len() < MAX_OUTGOING {
            self.outgoing.push_back(packet);
        }
    }
}

struct Received(Vec<u8>);

struct Sending<'a>(&'a mut Wire);

impl Device for Wire {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _: Time) -> Option<(Received, Sending<'_>)> {
        let packet = self.incoming.pop_front()?;
        Some((Received(packet), Sending(self)))
    }

    fn transmit(&mut self, _: Time) -> Option<Sending<'_>> {
        (self.outgoing.len() < self.room.min(MAX_OUTGOING)).then_some(Sending(self))
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
        self.0.send(packet);
        result
    }
}
