//! The bytes that one read brought, on their way from ciphertext to frames. Pure.
//!
//! One inbox serves all links of a process, so that it stays in the cache. What a link leaves behind (a record
//! or a frame that is not whole yet) is parked with its tunnel until the next read.
//!
//! ```text
//!  0        plain.start      plain.end     cipher.start       cipher.end            len
//!  │ consumed │ opened frames  │ gap          │ records, sealed    │ space for a read   │
//! ```
//! Opening a record moves its plaintext to `plain.end`, so that a frame which spans records lies in one piece.

use std::ops::Range;

use crate::frame;
use crate::noise::{Failed, LENGTH_LEN, MAX_RECORD, Opener, TAG_LEN};
use crate::pool::{Buf, Pool};

/// Bytes that one read may bring: large enough to cost few system calls, small enough to stay in the cache.
pub const READ_BYTES: usize = 256 * 1024;

/// A record and a frame, each one byte short of whole.
const MAX_PARKED: usize = LENGTH_LEN + MAX_RECORD + frame::HEADER_LEN + frame::MAX_BODY;

/// The shared receive buffer.
pub struct Inbox {
    bytes: Box<[u8]>,
    plain: Range<usize>,
    cipher: Range<usize>,
}

/// What a link left behind in the inbox.
pub struct Parked {
    bytes: Buf,
    /// How many of the bytes are opened already.
    plain_len: usize,
}

impl Parked {
    /// Its buffer, to be given back unread.
    pub(crate) fn into_bytes(self) -> Buf {
        self.bytes
    }
}

impl Parked {
    /// Moves the bytes to a buffer made to measure.
    pub fn fit(&mut self, pool: &mut Pool) {
        let fitting = Buf::fitting(&self.bytes);
        pool.give(std::mem::replace(&mut self.bytes, fitting));
    }

    /// What this costs, in bytes.
    pub fn truesize(&self) -> usize {
        self.bytes.truesize()
    }
}

impl Default for Inbox {
    fn default() -> Inbox {
        Inbox { bytes: vec![0; MAX_PARKED + READ_BYTES].into(), plain: 0..0, cipher: 0..0 }
    }
}

impl Inbox {
    /// Empties the inbox and puts back what the link that is read next had left behind.
    pub fn unpark(&mut self, parked: Option<Parked>, pool: &mut Pool) {
        self.plain = 0..0;
        self.cipher = 0..0;
        if let Some(Parked { bytes, plain_len }) = parked {
            self.bytes[..bytes.len()].copy_from_slice(&bytes);
            self.plain = 0..plain_len;
            self.cipher = plain_len..bytes.len();
            pool.give(bytes);
        }
    }

    /// Takes out what is left.
    pub fn park(&mut self, pool: &mut Pool) -> Option<Parked> {
        let plain_len = self.plain.len();
        let len = plain_len + self.cipher.len();
        if len == 0 {
            return None;
        }
        let mut bytes = pool.take(len);
        bytes[..plain_len].copy_from_slice(&self.bytes[self.plain.clone()]);
        bytes[plain_len..].copy_from_slice(&self.bytes[self.cipher.clone()]);
        Some(Parked { bytes, plain_len })
    }

    /// Where the next read goes; at least [`READ_BYTES`] after `unpark`.
    pub fn space(&mut self) -> &mut [u8] {
        &mut self.bytes[self.cipher.end..]
    }

    /// Tells that the read brought `len` bytes.
    pub fn filled(&mut self, len: usize) {
        debug_assert!(self.cipher.end + len <= self.bytes.len());
        self.cipher.end += len;
    }

    /// What is not opened yet: during the handshake, the messages in clear.
    pub fn sealed(&self) -> &[u8] {
        &self.bytes[self.cipher.clone()]
    }

    /// Drops `len` bytes of what is not opened yet.
    pub fn consume_sealed(&mut self, len: usize) {
        debug_assert!(len <= self.cipher.len());
        self.cipher.start += len;
    }

    /// Opens the next record; `false` asks for more bytes.
    pub fn open_record(&mut self, opener: &mut Opener) -> Result<bool, Failed> {
        let sealed = self.sealed();
        let Some(&prefix) = sealed.first_chunk::<LENGTH_LEN>() else { return Ok(false) };
        let len = usize::from(u16::from_be_bytes(prefix));
        if len < TAG_LEN {
            return Err(Failed);
        }
        if sealed.len() < LENGTH_LEN + len {
            return Ok(false);
        }
        let body = self.cipher.start + LENGTH_LEN;
        if self.plain.is_empty() {
            self.plain = body..body;
        }
        let window = &mut self.bytes[self.plain.end..body + len];
        let opened = opener.open(window, body - self.plain.end)?;
        self.plain.end += opened;
        self.cipher.start = body + len;
        Ok(true)
    }

    /// What is opened and not consumed yet.
    pub fn opened(&self) -> &[u8] {
        &self.bytes[self.plain.clone()]
    }

    /// Consumes `len` opened bytes and returns where they lie, until the next `open_record` or `unpark`.
    pub fn consume_opened(&mut self, len: usize) -> Range<usize> {
        let start = self.plain.start;
        debug_assert!(len <= self.plain.len());
        self.plain.start += len;
        start..start + len
    }

    /// The bytes of a range that `consume_opened` returned.
    pub fn bytes(&mut self, range: Range<usize>) -> &mut [u8] {
        &mut self.bytes[range]
    }
}
