//! One direction of a TCP connection: latency, a bound on what is on the way, and what can go wrong.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Bytes that are on the way at most: what the sockets at both ends hold.
const CAPACITY: usize = 64 * 1024;

#[derive(Debug)]
pub(crate) struct Pipe {
    latency: Duration,
    chunks: VecDeque<(Instant, Vec<u8>)>,
    on_the_way: usize,
    /// When the reader learns that the writer closed.
    closes_at: Option<Instant>,
    /// Bytes are kept back, as if the network lost every segment.
    stalled: bool,
}

pub(crate) enum Read {
    Bytes(usize),
    Nothing,
    Closed,
}

impl Read {
    /// How many bytes were read.
    pub(crate) fn len(&self) -> usize {
        if let Read::Bytes(len) = self { *len } else { 0 }
    }
}

impl Pipe {
    pub(crate) fn new(latency: Duration) -> Pipe {
        Pipe { latency, chunks: VecDeque::new(), on_the_way: 0, closes_at: None, stalled: false }
    }

    /// Takes what there is room for.
    pub(crate) fn write(&mut self, bytes: &[u8], now: Instant) -> usize {
        let len = bytes.len().min(CAPACITY - self.on_the_way);
        if len > 0 {
            self.on_the_way += len;
            self.chunks.push_back((now + self.latency, bytes[..len].to_vec()));
        }
        len
    }

    pub(crate) fn close(&mut self, now: Instant) {
        self.closes_at.get_or_insert(now + self.latency);
    }

    /// Whatever is on the way is lost, and the reader learns at once that the connection is gone.
    pub(crate) fn reset(&mut self, now: Instant) {
        self.chunks.clear();
        self.on_the_way = 0;
        self.stalled = false;
        self.closes_at = Some(now);
    }

    pub(crate) fn stall(&mut self) {
        self.stalled = true;
    }

    /// Whether bytes arrive.
    pub(crate) fn passes(&self) -> bool {
        !self.stalled && self.closes_at.is_none()
    }

    /// What was kept back arrives now, as if sent again.
    pub(crate) fn resume(&mut self, now: Instant) {
        self.stalled = false;
        for (at, _) in &mut self.chunks {
            *at = (*at).max(now + self.latency);
        }
    }

    /// Flips one bit of what is on the way; false if nothing is.
    pub(crate) fn flip(&mut self, random: u64) -> bool {
        if self.chunks.is_empty() {
            return false;
        }
        let at = random as usize % self.chunks.len();
        let (_, chunk) = &mut self.chunks[at];
        let bit = (random >> 32) as usize % (chunk.len() * 8);
        chunk[bit / 8] ^= 1 << (bit % 8);
        true
    }

    /// When a read brings something next.
    pub(crate) fn next_at(&self) -> Option<Instant> {
        if self.stalled {
            return None;
        }
        self.chunks.front().map(|&(at, _)| at).or(self.closes_at)
    }

    /// Reads what has arrived, at most `space`.
    pub(crate) fn read(&mut self, space: &mut [u8], now: Instant) -> Read {
        if self.stalled {
            return Read::Nothing;
        }
        let Some((at, chunk)) = self.chunks.front_mut() else {
            return if self.closes_at.is_some_and(|at| at <= now) { Read::Closed } else { Read::Nothing };
        };
        if *at > now {
            return Read::Nothing;
        }
        let len = chunk.len().min(space.len());
        space[..len].copy_from_slice(&chunk[..len]);
        chunk.drain(..len);
        if chunk.is_empty() {
            self.chunks.pop_front();
        }
        self.on_the_way -= len;
        Read::Bytes(len)
    }
}
