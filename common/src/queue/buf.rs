//! A piece of memory and the part of it that is in use. Pure.

use std::fmt;
use std::ops::{Deref, DerefMut};

/// A piece of memory of one of the pool's sizes, and the part of it, `start..end`, that is in use.
///
/// It reads and writes as the slice of the bytes in use. Dropping it instead of giving it back to
/// its [`Pool`](super::pool::Pool) is correct, only slower.
pub struct Buf {
    pub(super) bytes: Box<[u8]>,
    // Invariant: start <= end <= bytes.len().
    pub(super) start: u32,
    pub(super) end: u32,
}

impl Buf {
    /// A copy of `bytes` with no room to spare, of which there may be many for long; a pool does not keep it.
    ///
    /// # Panics
    ///
    /// If `bytes` are 4 GiB or more.
    pub fn fitting(bytes: &[u8]) -> Buf {
        let end = u32::try_from(bytes.len()).expect("a buffer is shorter than 4 GiB");
        Buf { bytes: bytes.into(), start: 0, end }
    }

    /// An empty buffer of `capacity` bytes; a pool does not keep it.
    pub fn with_capacity(capacity: usize) -> Buf {
        Buf { bytes: vec![0; capacity].into_boxed_slice(), start: 0, end: 0 }
    }

    /// Appends `bytes`.
    ///
    /// # Panics
    ///
    /// If the capacity does not hold them.
    pub fn append(&mut self, bytes: &[u8]) {
        self.spare()[..bytes.len()].copy_from_slice(bytes);
        self.set_len(self.len() + bytes.len());
    }

    /// What this buffer costs: its capacity in bytes, in use or not.
    pub fn truesize(&self) -> usize {
        self.bytes.len()
    }

    /// Uses no bytes: all of the capacity is spare.
    pub fn clear(&mut self) {
        (self.start, self.end) = (0, 0);
    }

    /// Cuts `n` bytes off the front; all of them where there are fewer.
    pub fn advance(&mut self, n: usize) {
        debug_assert!(n <= self.len(), "advance by {n} of {}", self.len());
        self.start += n.min(self.len()) as u32;
    }

    /// Cuts the end off behind `len` bytes; does nothing where there are fewer.
    pub fn truncate(&mut self, len: usize) {
        self.end = self.start + len.min(self.len()) as u32;
    }

    /// Uses `len` bytes from the start on, at most what the capacity allows. Bytes that come into
    /// use this way hold what was written there last.
    pub fn set_len(&mut self, len: usize) {
        let room = self.bytes.len() - self.start as usize;
        debug_assert!(len <= room, "length {len} in a capacity of {room}");
        self.end = self.start + len.min(room) as u32;
    }

    /// From the start to the end of the capacity: where a device or a socket reads a packet to;
    /// [`Buf::set_len`] then says how much came.
    pub fn whole(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start as usize..]
    }

    /// The unused bytes behind those in use: where a stream goes on.
    pub fn spare(&mut self) -> &mut [u8] {
        &mut self.bytes[self.end as usize..]
    }

    /// Moves the bytes in use to the front of the capacity, so that all the rest is spare.
    pub fn compact(&mut self) {
        if self.start > 0 {
            self.bytes.copy_within(self.start as usize..self.end as usize, 0);
            self.end -= self.start;
            self.start = 0;
        }
    }
}

impl Deref for Buf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.start as usize..self.end as usize]
    }
}

impl DerefMut for Buf {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start as usize..self.end as usize]
    }
}

impl fmt::Debug for Buf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buf({} of {} bytes)", self.len(), self.truesize())
    }
}
