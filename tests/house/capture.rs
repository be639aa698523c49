//! What a device is given: packets as they arrive at it, whatever their headers say.

use std::io::{self, Read as _};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use super::{Context, Failure, Host, Result};

/// All protocols, as packet(7) wants the number: in network order.
const ETH_P_ALL: i32 = 0x0003_u16.to_be() as i32;

/// A watch on one device, for packets that contain certain bytes.
///
/// It ends with the packet that contains the bytes that were named as its end, so that nothing that came before
/// is missed.
pub(crate) struct Capture {
    thread: JoinHandle<io::Result<Vec<Vec<u8>>>>,
}

impl Capture {
    /// Collects packets with `marker` at `device`, in either direction, up to one with `end`.
    pub(crate) fn start(
        host: &Host,
        device: &'static str,
        marker: &'static [u8],
        end: &'static [u8],
    ) -> Result<Capture> {
        let socket = host.run(move || {
            let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(Protocol::from(ETH_P_ALL)))?;
            // A burst must not be lost for want of room.
            socket.set_recv_buffer_size(16 << 20)?;
            // Not bound to the device, as a device without a link address cannot be named safely, but filtered
            // by it (Linux, Documentation/networking/filter.rst).
            const LOAD_WORD: u16 = 0x20;
            const JUMP_IF_EQUAL: u16 = 0x15;
            const RETURN: u16 = 0x06;
            const DEVICE_INDEX: u32 = 0xffff_f000 + 8;
            let index = nix::net::if_::if_nametoindex(device)?;
            socket.attach_filter(&[
                SockFilter::new(LOAD_WORD, 0, 0, DEVICE_INDEX),
                SockFilter::new(JUMP_IF_EQUAL, 0, 1, index),
                SockFilter::new(RETURN, 0, 0, u32::MAX),
                SockFilter::new(RETURN, 0, 0, 0),
            ])?;
            Ok::<_, io::Error>(socket)
        });
        let mut socket = socket.context(&format!("watch {device} of {}", host.name()))?;
        let thread = thread::spawn(move || {
            let contains =
                |packet: &[u8], bytes: &[u8]| packet.windows(bytes.len()).any(|part| part == bytes);
            let (mut found, mut packet) = (Vec::new(), vec![0; 128 * 1024]);
            loop {
                let length = socket.read(&mut packet)?;
                let packet = &packet[..length];
                if contains(packet, marker) {
                    found.push(packet.to_vec());
                }
                if contains(packet, end) {
                    return Ok(found);
                }
            }
        });
        Ok(Capture { thread })
    }

    /// The packets with the marker, once the end has come.
    pub(crate) fn finish(self, timeout: Duration) -> Result<Vec<Vec<u8>>> {
        let end = std::time::Instant::now() + timeout;
        while !self.thread.is_finished() {
            if std::time::Instant::now() >= end {
                return Err(Failure::new(format!("the end has not come in {timeout:?}")));
            }
            thread::sleep(Duration::from_millis(10));
        }
        self.thread.join().expect("a capture does not panic").context("capture")
    }
}
