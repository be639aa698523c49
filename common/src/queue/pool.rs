//! Recycled byte buffers: the steady state allocates nothing, and idle memory is freed. Pure.
//!
//! Owns [`Pool`]; keeps the spare flow tables of `queue::fq_codel` too, since a link
//! that plays ping-pong takes and gives back one for every packet.

use std::fmt;

use crate::packet::MAX_PACKET;
use crate::queue::buf::Buf;
use crate::queue::flows::FlowTable;

/// Capacities of the recycled buffers, in bytes: acknowledgements and small packets; packets of the
/// usual MTU; super-packets, which occupy at most twice what they are long; a whole one; the stream of a busy link.
///
/// A queue is bounded by what its packets occupy: a flow that is paced sends super-packets of a few kilobytes.
pub const SIZES: [usize; 8] = [256, 2_048, 4_096, 8_192, 16_384, 32_768, LARGE_PACKET, 524_288];

/// Holds the largest packet, and a little more so that it can be seen to end.
const LARGE_PACKET: usize = MAX_PACKET + 64;

/// Kinds of things that are kept: each size of buffer, then flow tables.
const KINDS: usize = SIZES.len() + 1;
const TABLES: usize = SIZES.len();

/// Keeps buffers for reuse, last in, first out, as the last one's bytes are still in the cache.
///
/// Spare memory has a bound. At the bound, the kind with the most spare memory is freed, so that the spare buffers
/// follow the traffic's packet sizes.
pub struct Pool {
    buffers: [Vec<Box<[u8]>>; SIZES.len()],
    #[expect(clippy::vec_box, reason = "a table goes from queue to queue; as a pointer it is not copied")]
    tables: Vec<Box<FlowTable>>,
    /// Spare bytes of each kind.
    spare: [usize; KINDS],
    spare_total: usize,
    spare_max: usize,
    /// For packets on their way from one buffer to another.
    pub(crate) scratch: Vec<u8>,
}

impl Pool {
    /// An empty pool that will keep up to `spare_bytes_max` bytes of unused memory.
    pub fn new(spare_bytes_max: usize) -> Pool {
        Pool {
            buffers: [const { Vec::new() }; SIZES.len()],
            tables: Vec::new(),
            spare: [0; KINDS],
            spare_total: 0,
            spare_max: spare_bytes_max,
            scratch: Vec::new(),
        }
    }

    /// A buffer of the shortest size that holds `len` bytes, `len` of them in use. Their content is
    /// whatever was there before.
    ///
    /// Above the largest of [`SIZES`] the buffer is made to measure and never recycled.
    ///
    /// # Panics
    ///
    /// If `len` does not fit in 32 bits.
    pub fn take(&mut self, len: usize) -> Buf {
        let end = u32::try_from(len).expect("a buffer is shorter than 4 GiB");
        let bytes = match SIZES.iter().position(|&size| len <= size) {
            Some(kind) => match self.buffers[kind].pop() {
                Some(bytes) => {
                    self.count_out(kind, bytes.len());
                    bytes
                }
                None => vec![0; SIZES[kind]].into_boxed_slice(),
            },
            None => vec![0; len].into_boxed_slice(),
        };
        Buf { bytes, start: 0, end }
    }

    /// A buffer that holds a copy of `bytes`.
    pub fn copy(&mut self, bytes: &[u8]) -> Buf {
        let mut buf = self.take(bytes.len());
        buf.copy_from_slice(bytes);
        buf
    }

    /// A packet of up to `most` bytes that `read` writes into the space that it is given; `None` where it has none.
    pub fn fill(&mut self, most: usize, read: impl FnOnce(&mut [u8]) -> Option<usize>) -> Option<Buf> {
        let mut packet = self.take(most);
        let Some(len) = read(packet.whole()) else {
            self.give(packet);
            return None;
        };
        packet.set_len(len);
        Some(self.fit(packet))
    }

    /// The same bytes in a buffer of the shortest size that holds them: where a buffer has to be as long as
    /// the longest packet before it is known how long the packet is.
    pub fn fit(&mut self, buf: Buf) -> Buf {
        if SIZES.iter().find(|&&size| buf.len() <= size).is_none_or(|&size| size >= buf.truesize()) {
            return buf;
        }
        let fitting = self.copy(&buf);
        self.give(buf);
        fitting
    }

    /// Takes a buffer back, to be used again or, where enough is spare, to be freed.
    pub fn give(&mut self, buf: Buf) {
        let size = buf.bytes.len();
        let Some(kind) = SIZES.iter().position(|&s| s == size) else { return };
        if self.count_in(kind, size) {
            self.buffers[kind].push(buf.bytes);
        }
    }

    /// Unused memory that is kept, in bytes.
    pub fn spare_bytes(&self) -> usize {
        self.spare_total
    }

    /// An empty flow table.
    pub(crate) fn take_table(&mut self) -> Box<FlowTable> {
        match self.tables.pop() {
            Some(table) => {
                self.count_out(TABLES, table.truesize());
                table
            }
            None => FlowTable::new(),
        }
    }

    /// Takes an empty flow table back.
    pub(crate) fn give_table(&mut self, table: Box<FlowTable>) {
        if self.count_in(TABLES, table.truesize()) {
            self.tables.push(table);
        }
    }

    fn count_out(&mut self, kind: usize, size: usize) {
        self.spare[kind] -= size;
        self.spare_total -= size;
    }

    /// Makes room for `size` more spare bytes of a kind and counts them; false if they are to be freed.
    fn count_in(&mut self, kind: usize, size: usize) -> bool {
        if size > self.spare_max {
            return false;
        }
        while self.spare_total + size > self.spare_max {
            let richest = (0..KINDS).max_by_key(|&k| self.spare[k]).unwrap_or(kind);
            if richest == kind {
                return false;
            }
            self.free_one(richest);
        }
        self.spare[kind] += size;
        self.spare_total += size;
        true
    }

    fn free_one(&mut self, kind: usize) {
        let size = match self.buffers.get_mut(kind) {
            Some(buffers) => buffers.pop().map_or(0, |bytes| bytes.len()),
            None => self.tables.pop().map_or(0, |table| table.truesize()),
        };
        self.count_out(kind, size);
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pool({} of {} bytes spare)", self.spare_total, self.spare_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_packet_moves_to_a_short_buffer_and_a_long_one_stays() {
        let mut pool = Pool::new(1 << 20);
        for (len, truesize) in
            [(100, 256), (1_510, 2_048), (4_500, 8_192), (17_000, 32_768), (60_000, LARGE_PACKET)]
        {
            let mut buf = pool.take(MAX_PACKET);
            buf.set_len(len);
            buf.fill(7);
            let buf = pool.fit(buf);
            assert_eq!((buf.len(), buf.truesize()), (len, truesize));
            assert!(buf.iter().all(|&byte| byte == 7));
        }
    }

    #[test]
    fn a_buffer_has_the_shortest_size_that_fits() {
        let mut pool = Pool::new(0);
        for (len, size) in
            [(0, 256), (256, 256), (257, 2_048), (2_049, 4_096), (16_385, 32_768), (32_769, LARGE_PACKET)]
        {
            let buf = pool.take(len);
            assert_eq!((buf.len(), buf.truesize()), (len, size));
        }
        assert_eq!(pool.take(MAX_PACKET).truesize(), LARGE_PACKET);
        assert_eq!(pool.take(524_288).truesize(), 524_288);
        assert_eq!(pool.take(524_289).truesize(), 524_289);
        assert!(SIZES.is_sorted());
    }

    #[test]
    fn the_last_buffer_given_is_the_next_one_taken() {
        let mut pool = Pool::new(1 << 20);
        let (a, b) = (pool.take(1_500), pool.take(1_500));
        let (a_at, b_at) = (a.as_ptr(), b.as_ptr());
        pool.give(a);
        pool.give(b);
        assert_eq!(pool.spare_bytes(), 2 * 2_048);
        let (c, d) = (pool.take(1_500), pool.take(60));
        assert_eq!(c.as_ptr(), b_at);
        assert_ne!(d.as_ptr(), a_at, "another size");
        assert_eq!(pool.take(300).as_ptr(), a_at);
        assert_eq!(pool.spare_bytes(), 0);
    }

    #[test]
    fn a_buffer_given_back_narrowed_comes_out_whole() {
        let mut pool = Pool::new(1 << 20);
        let mut buf = pool.copy(&[7; 200]);
        buf.advance(50);
        buf.truncate(10);
        assert_eq!(&buf[..], &[7; 10]);
        pool.give(buf);
        let mut buf = pool.take(256);
        assert_eq!((buf.len(), buf.whole().len(), buf.spare().len()), (256, 256, 0));
    }

    #[test]
    fn a_stream_is_read_behind_what_is_there() {
        let mut pool = Pool::new(0);
        let mut buf = pool.copy(b"abcdef");
        buf.advance(4);
        buf.spare()[..2].copy_from_slice(b"gh");
        buf.set_len(4);
        assert_eq!(&buf[..], b"efgh");
        buf.compact();
        assert_eq!(&buf[..], b"efgh");
        assert_eq!(buf.spare().len(), 252);
        buf.whole()[..2].copy_from_slice(b"ij");
        assert_eq!(&buf[..], b"ijgh");
    }

    #[test]
    fn spare_memory_is_bounded_and_follows_the_traffic() {
        let mut pool = Pool::new(8_192);
        let bufs: Vec<Buf> = (0..6).map(|_| pool.take(2_000)).collect();
        bufs.into_iter().for_each(|buf| pool.give(buf));
        assert_eq!(pool.spare_bytes(), 8_192);
        // Another size makes room for itself, at the cost of the one that holds most.
        let small: Vec<Buf> = (0..4).map(|_| pool.take(100)).collect();
        let at = small[3].as_ptr();
        small.into_iter().for_each(|buf| pool.give(buf));
        assert_eq!(pool.spare_bytes(), 3 * 2_048 + 4 * 256);
        assert_eq!(pool.take(100).as_ptr(), at);
        // What is larger than the bound empties nothing.
        let large = pool.take(16_384);
        pool.give(large);
        assert_eq!(pool.spare_bytes(), 3 * 2_048 + 3 * 256);
    }
}
