//! The bytes that one read brought, on their way from ciphertext to frames. Pure.
//!
//! One inbox serves all links of a process, so that it stays in the cache. What a link leaves behind (a record
//! or a frame that is not whole yet) is parked with its tunnel until the next read.

use crate::queue::{Buf, Pool};
use crate::wire::frame;
use crate::wire::noise::{Failed, LENGTH_LEN, MAX_RECORD, MAX_RECORD_PLAIN, Opener, TAG_LEN};

/// Most bytes that one read brings: large enough to cost few system calls, small enough to stay in the cache.
pub const READ_BYTES: usize = 256 * 1024;

/// The shared receive buffers.
pub struct Inbox {
    /// Records, the last one perhaps not whole; during the handshake, messages in clear.
    sealed: Buf,
    /// Opened bytes, on which a frame begins.
    opened: Buf,
}

/// What a link left behind in the inbox.
pub struct Parked {
    bytes: Buf,
    /// How many of the bytes are opened already.
    opened_len: usize,
}

impl Parked {
    /// Its buffer, to be given back unread.
    pub(crate) fn into_bytes(self) -> Buf {
        self.bytes
    }

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
        Inbox {
            // A record one byte short of whole may wait in front of what is read.
            sealed: Buf::with_capacity(LENGTH_LEN + MAX_RECORD + READ_BYTES),
            // So may a frame's body in front of what is opened.
            opened: Buf::with_capacity(frame::MAX_BODY + MAX_RECORD_PLAIN),
        }
    }
}

impl Inbox {
    /// Empties the inbox and puts back what the link that is read next had left behind.
    pub fn unpark(&mut self, parked: Option<Parked>, pool: &mut Pool) {
        self.sealed.clear();
        self.opened.clear();
        if let Some(Parked { bytes, opened_len }) = parked {
            let (opened, sealed) = bytes.split_at(opened_len);
            self.opened.append(opened);
            self.sealed.append(sealed);
            pool.give(bytes);
        }
    }

    /// Takes out what is left.
    pub fn park(&mut self, pool: &mut Pool) -> Option<Parked> {
        let opened_len = self.opened.len();
        let len = opened_len + self.sealed.len();
        if len == 0 {
            return None;
        }
        let mut bytes = pool.take(len);
        bytes.clear();
        bytes.append(&self.opened);
        bytes.append(&self.sealed);
        Some(Parked { bytes, opened_len })
    }

    /// Where the next read goes: [`READ_BYTES`], after `unpark`.
    pub fn space(&mut self) -> &mut [u8] {
        &mut self.sealed.spare()[..READ_BYTES]
    }

    /// Tells that the read brought `len` bytes.
    pub fn filled(&mut self, len: usize) {
        self.sealed.set_len(self.sealed.len() + len);
    }

    /// What is not opened yet: during the handshake, the messages in clear.
    pub fn sealed(&self) -> &[u8] {
        &self.sealed
    }

    /// Drops `len` bytes of what is not opened yet.
    pub fn consume_sealed(&mut self, len: usize) {
        self.sealed.advance(len);
    }

    /// What is opened and not taken yet.
    pub fn opened(&self) -> &[u8] {
        &self.opened
    }

    /// Drops `len` bytes of what is opened.
    pub fn consume_opened(&mut self, len: usize) {
        self.opened.advance(len);
    }

    /// Opens the next record; `false` asks for more bytes.
    pub fn open_record(&mut self, opener: &mut Opener) -> Result<bool, Failed> {
        let Some(len) = self.next_record()? else { return Ok(false) };
        let plain = len - TAG_LEN;
        self.opened.compact();
        open(&mut self.sealed, opener, &mut self.opened.spare()[..plain])?;
        self.opened.set_len(self.opened.len() + plain);
        Ok(true)
    }

    /// Takes the next `len` opened bytes, up to [`frame::MAX_BODY`], and opens the records that hold them; `None`
    /// asks for more bytes. A record that holds just them is opened straight into the buffer that is returned.
    pub fn take(&mut self, len: usize, opener: &mut Opener, pool: &mut Pool) -> Result<Option<Buf>, Failed> {
        while self.opened.len() < len {
            if self.opened.is_empty() && self.next_record()? == Some(len + TAG_LEN) {
                let mut taken = pool.take(len);
                open(&mut self.sealed, opener, &mut taken)?;
                return Ok(Some(taken));
            }
            if !self.open_record(opener)? {
                return Ok(None);
            }
        }
        let taken = pool.copy(&self.opened[..len]);
        self.opened.advance(len);
        Ok(Some(taken))
    }

    /// The length of the next record's body, if all of it is there.
    fn next_record(&self) -> Result<Option<usize>, Failed> {
        let Some((&prefix, behind)) = self.sealed.split_first_chunk::<LENGTH_LEN>() else { return Ok(None) };
        let len = usize::from(u16::from_be_bytes(prefix));
        if len < TAG_LEN { Err(Failed) } else { Ok((len <= behind.len()).then_some(len)) }
    }
}

/// Opens the first record of `sealed`, all of which is there, into `plain`, which has the length of its plaintext.
fn open(sealed: &mut Buf, opener: &mut Opener, plain: &mut [u8]) -> Result<(), Failed> {
    let len = plain.len() + TAG_LEN;
    opener.open(&sealed[LENGTH_LEN..][..len], plain)?;
    sealed.advance(LENGTH_LEN + len);
    Ok(())
}
