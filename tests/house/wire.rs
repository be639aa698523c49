//! A spoke driven by hand, that can send what no real one would.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::node::state;
use common::packet::VNET_LEN;
use common::packet::offload::Vnet;
use common::queue::Buf;
use common::wire::frame::{ControlFrame, HEADER_LEN, Header, Join, LaneNote, Welcome};
use common::wire::hello::{HELLO_LEN, hello};
use common::wire::key::PrivateKey;
use common::wire::lane::{Binding, LaneSecret, Proof};
use common::wire::name::Name;
use common::wire::noise::{Handshake, LENGTH_LEN, MAX_RECORD, Opener, Role, Sealer, TAG_LEN};

use super::{Context, Failure, Host, Result};

/// A connection on which nothing has been said yet.
pub(crate) struct Wire {
    stream: TcpStream,
}

/// A connection after the handshake.
pub(crate) struct Joined {
    wire: Wire,
    sealer: Sealer,
    opener: Opener,
    /// Opened bytes that no frame was made of yet.
    opened: Vec<u8>,
    lane_secret: LaneSecret,
}

impl Wire {
    /// Connects from `host`. Reads and writes fail after `patience`.
    pub(crate) fn connect(host: &Host, hub: SocketAddr, patience: Duration) -> Result<Wire> {
        Wire::over(host.tcp_connect(hub, patience)?, patience)
    }

    /// As [`Wire::connect`], over a connection that is there.
    pub(crate) fn over(stream: TcpStream, patience: Duration) -> Result<Wire> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        stream.set_nodelay(true)?;
        Ok(Wire { stream })
    }

    /// Sends bytes as they are.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).context("send")
    }

    /// Waits until the other end closes, and returns what it said before.
    ///
    /// # Errors
    /// It is still open after `timeout`.
    pub(crate) fn wait_closed(&mut self, timeout: Duration) -> Result<Vec<u8>> {
        let end = Instant::now() + timeout;
        let (mut said, mut buffer) = (Vec::new(), [0; 4096]);
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Failure::new(format!("the connection is still open after {timeout:?}")));
            }
            self.stream.set_read_timeout(Some(left))?;
            match self.stream.read(&mut buffer) {
                Ok(0) => return Ok(said),
                Ok(length) => said.extend_from_slice(&buffer[..length]),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(said),
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The hello and the first two messages of the handshake; what the third needs comes back, with the
    /// message itself, not sent.
    pub(crate) fn handshake(&mut self, key: &PrivateKey, join: &Join) -> Result<(Handshake, Vec<u8>)> {
        self.handshake_with(key, |_| join.encode())
    }

    /// The same with what is made of the handshake so far as the third message's payload.
    fn handshake_with(
        &mut self,
        key: &PrivateKey,
        request: impl FnOnce(Binding) -> Vec<u8>,
    ) -> Result<(Handshake, Vec<u8>)> {
        let mut handshake = Handshake::new(Role::Spoke, key, state::random()?);
        let mut first = hello().to_vec();
        handshake.write(&[], &mut first).map_err(|_| Failure::new("the first message failed"))?;
        self.send(&first)?;
        let mut answer = [0; HELLO_LEN];
        self.stream.read_exact(&mut answer).context("the hub's hello")?;
        if answer != hello() {
            return Err(Failure::new(format!("the hub said {answer:?}")));
        }
        let message = self.read_message()?;
        handshake.read(&message).map_err(|_| Failure::new("the hub's message was refused"))?;
        let mut third = Vec::new();
        let request = request(handshake.binding());
        handshake.write(&request, &mut third).map_err(|_| Failure::new("the third message failed"))?;
        Ok((handshake, third))
    }

    /// Joins as a real spoke does, and waits for the welcome.
    pub(crate) fn join(self, key: &PrivateKey, address: Ipv4Addr) -> Result<Joined> {
        self.join_as(key, &join_request(address)).map(|(joined, _)| joined)
    }

    /// Joins with this request; what the hub says to it comes back too.
    pub(crate) fn join_as(mut self, key: &PrivateKey, request: &Join) -> Result<(Joined, Welcome)> {
        let (handshake, third) = self.handshake(key, request)?;
        let mut joined = self.finish(handshake, &third)?;
        let answer = joined.control()?;
        let ControlFrame::Welcome(welcome) = answer else {
            return Err(Failure::new(format!("no welcome, but {answer:?}")));
        };
        Ok((joined, welcome))
    }

    /// Asks to be a lane of the session with this secret, or of any, by the proof that comes of the binding.
    pub(crate) fn attach(mut self, key: &PrivateKey, prove: impl FnOnce(Binding) -> Proof) -> Result<Joined> {
        let (handshake, third) = self.handshake_with(key, |binding| prove(binding).encode())?;
        let mut lane = self.finish(handshake, &third)?;
        let answer = lane.control()?;
        if answer == ControlFrame::Lane(LaneNote::Attached) {
            return Ok(lane);
        }
        Err(Failure::new(format!("no lane, but {answer:?}")))
    }

    fn finish(mut self, handshake: Handshake, third: &[u8]) -> Result<Joined> {
        self.send(third)?;
        let finished = handshake.finish_session();
        let (sealer, opener, lane_secret) =
            finished.map_err(|_| Failure::new("the handshake is not over"))?;
        Ok(Joined { wire: self, sealer, opener, opened: Vec::new(), lane_secret })
    }

    fn read_message(&mut self) -> Result<Vec<u8>> {
        let mut prefix = [0; LENGTH_LEN];
        self.stream.read_exact(&mut prefix).context("a length")?;
        let mut message = vec![0; usize::from(u16::from_be_bytes(prefix))];
        self.stream.read_exact(&mut message).context("a message")?;
        Ok(message)
    }
}

impl Joined {
    /// One sealed record of these bytes.
    pub(crate) fn record(&mut self, plain: &[u8]) -> Result<Vec<u8>> {
        let mut record = Buf::with_capacity(LENGTH_LEN + MAX_RECORD);
        self.sealer.seal(plain, &mut record).map_err(|_| Failure::new("the record is too long"))?;
        Ok(record.to_vec())
    }

    /// Seals and sends a record.
    pub(crate) fn send_record(&mut self, plain: &[u8]) -> Result<()> {
        let record = self.record(plain)?;
        self.wire.send(&record)
    }

    /// Sends an IP packet, with an empty virtio-net header, as a frame and record of its own.
    pub(crate) fn send_packet(&mut self, ip: &[u8]) -> Result<()> {
        let mut frame = Vec::new();
        put_packet(&mut frame, Vnet::default(), ip);
        self.send_record(&frame)
    }

    /// Sends these bytes of frames in as many records as they need: small frames share one, a large one spans
    /// several.
    pub(crate) fn send_frames(&mut self, frames: &[u8]) -> Result<()> {
        frames.chunks(60_000).try_for_each(|part| self.send_record(part))
    }

    /// What a lane beside this connection shows.
    pub(crate) fn lane_secret(&self) -> LaneSecret {
        self.lane_secret.clone()
    }

    /// The connection below.
    pub(crate) fn wire(&mut self) -> &mut Wire {
        &mut self.wire
    }

    /// Pings the hub and waits for its answer: everything sent before has been dealt with then.
    pub(crate) fn ping(&mut self, token: u64) -> Result<()> {
        let mut frame = Vec::new();
        ControlFrame::Ping(token).encode(&mut frame);
        self.send_record(&frame)?;
        loop {
            if self.control()? == ControlFrame::Pong(token) {
                return Ok(());
            }
        }
    }

    /// Answers the hub's pings until told to end; how many there were.
    pub(crate) fn answer_pings(&mut self, is_over: &AtomicBool) -> Result<u32> {
        let mut pings = 0;
        while !is_over.load(Ordering::Relaxed) {
            if let ControlFrame::Ping(token) = self.control()? {
                pings += 1;
                let mut pong = Vec::new();
                ControlFrame::Pong(token).encode(&mut pong);
                self.send_record(&pong)?;
            }
        }
        Ok(pings)
    }

    /// The next control frame; packets are skipped.
    pub(crate) fn control(&mut self) -> Result<ControlFrame> {
        loop {
            while let Some(frame) = self.next_frame()? {
                let bad = |_| Failure::new("the hub sent a bad frame");
                let header = Header::decode(&frame).map_err(bad)?;
                let header = header.ok_or_else(|| Failure::new("half a header"))?;
                if header.is_packet() {
                    continue;
                }
                if let Some(control) = ControlFrame::decode(header, &frame[HEADER_LEN..]).map_err(bad)? {
                    return Ok(control);
                }
            }
            let message = self.wire.read_message()?;
            let mut plain = vec![0; message.len().saturating_sub(TAG_LEN)];
            self.opener
                .open(&message, &mut plain)
                .map_err(|_| Failure::new("the hub's record was refused"))?;
            self.opened.extend_from_slice(&plain);
        }
    }

    fn next_frame(&mut self) -> Result<Option<Vec<u8>>> {
        let header = Header::decode(&self.opened).map_err(|_| Failure::new("the hub sent a bad frame"))?;
        let Some(length) = header.map(|header| HEADER_LEN + header.len) else { return Ok(None) };
        if self.opened.len() < length {
            return Ok(None);
        }
        Ok(Some(self.opened.drain(..length).collect()))
    }
}

/// Appends the frame of an IP packet.
pub(crate) fn put_packet(frames: &mut Vec<u8>, vnet: Vnet, ip: &[u8]) {
    frames.extend_from_slice(&Header::packet(VNET_LEN + ip.len()));
    frames.extend_from_slice(&vnet.bytes());
    frames.extend_from_slice(ip);
}

/// A join request for one address.
pub(crate) fn join_request(address: Ipv4Addr) -> Join {
    let name = Name::nearest("by-hand");
    Join { addresses: vec![IpAddr::V4(address)], ..Join::new(name) }
}

/// A fresh key.
pub(crate) fn random_key() -> Result<PrivateKey> {
    Ok(PrivateKey::from_random(state::random()?))
}

/// A UDP packet in IPv4, without UDP checksum (RFC 768 allows that).
pub(crate) fn udp_packet(source: (Ipv4Addr, u16), destination: (Ipv4Addr, u16), data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(28 + data.len()).expect("tests send small packets");
    let mut packet = vec![0x45, 0];
    packet.extend_from_slice(&length.to_be_bytes());
    packet.extend_from_slice(&[0, 0, 0, 0, 64, 17, 0, 0]);
    packet.extend_from_slice(&source.0.octets());
    packet.extend_from_slice(&destination.0.octets());
    let sum = super::probe::checksum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    for field in [source.1, destination.1, length - 20, 0] {
        packet.extend_from_slice(&field.to_be_bytes());
    }
    packet.extend_from_slice(data);
    packet
}
