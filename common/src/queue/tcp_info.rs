//! What the kernel says about a TCP connection. Pure: `linux::sys` asks it.

use std::time::Duration;

/// How a connection stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpInfo {
    /// Largest segment that is sent, in bytes without options.
    pub segment: u32,
    /// How often in a row the oldest segment was sent again in vain.
    pub retransmissions: u8,
    /// Bytes that were acknowledged.
    pub acknowledged: u64,
    /// Bytes that arrived in order.
    pub received: u64,
    /// Packets that arrived out of order.
    pub out_of_order: u32,
    /// Since when no packet has arrived, whatever is in it.
    pub unheard: Duration,
    /// Segments that were sent again, so far.
    pub resent: u32,
    /// The shortest round trip of the last minutes, where one was seen.
    pub shortest: Option<Duration>,
    /// Segments that the other end has, though not one that was sent before them.
    pub sacked: u32,
}
