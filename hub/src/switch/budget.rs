//! How much memory may be occupied by all packets that wait, whoever they are for. Pure.
//!
//! Each queue has a cap of its own, but one member can fill those of all others. Where the bound is exceeded, the
//! fattest queues pay, until there is some room again: searching for them costs as many steps as there are sessions,
//! which the packets that fit into that room pay for.

use crate::ids::SessionId;

/// The bound, in bytes of memory: twenty times as much as one queue may hold.
const QUEUED_BYTES: usize = 64 * 1024 * 1024;
/// The part of the bound that is made free at once.
const ROOM: usize = 64;
/// What a queue loses before the next one does, in bytes of memory.
const SHARE: usize = 65_536;

/// What all queues hold.
pub(super) struct Budget {
    limit: usize,
    total: usize,
    /// What the packets that wait for each session occupy; apart from the sessions, as the fattest is searched here.
    costs: Vec<u32>,
    /// Who pays next among equals.
    next: usize,
}

impl Default for Budget {
    fn default() -> Budget {
        Budget { limit: QUEUED_BYTES, total: 0, costs: Vec::new(), next: 0 }
    }
}

impl Budget {
    /// Sets the bound, in bytes of memory.
    pub(super) fn limit(&mut self, bytes: usize) {
        self.limit = bytes;
    }

    /// Tells what the packets that wait for a session occupy now, in bytes.
    pub(super) fn set(&mut self, session: SessionId, cost: usize) {
        let at = session.index();
        if at >= self.costs.len() {
            self.costs.resize(at + 1, 0);
        }
        let before = std::mem::replace(&mut self.costs[at], u32::try_from(cost).unwrap_or(u32::MAX));
        self.total = self.total - before as usize + self.costs[at] as usize;
    }

    /// Whether too much is queued.
    pub(super) fn is_exceeded(&self) -> bool {
        self.total > self.limit
    }

    /// Has batches of packets dropped until there is room. `drop_batch` drops one that waits for this session, and
    /// returns what the others occupy.
    pub(super) fn relieve(&mut self, mut drop_batch: impl FnMut(SessionId) -> usize) {
        let enough = self.limit - self.limit / ROOM;
        while self.total > enough {
            // All that hold more than half as much as the fattest one pay in turn.
            let level = self.costs.iter().max().map_or(0, |most| most / 2);
            for _ in 0..self.costs.len() {
                let at = if self.next < self.costs.len() { self.next } else { 0 };
                self.next = at + 1;
                let before = self.costs[at];
                while self.costs[at] > level && before - self.costs[at] < SHARE as u32 {
                    let session = SessionId::new(at);
                    self.set(session, drop_batch(session));
                }
                if self.total <= enough {
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 1 << 20;

    /// Queues of packets of one size.
    struct Queues {
        budget: Budget,
        costs: Vec<usize>,
        packet: usize,
        batches: usize,
    }

    impl Queues {
        fn new(count: usize, packet: usize) -> Queues {
            let mut budget = Budget::default();
            budget.limit(LIMIT);
            Queues { budget, costs: vec![0; count], packet, batches: 0 }
        }

        fn push(&mut self, to: usize) {
            let Queues { budget, costs, packet, batches } = self;
            costs[to] += *packet;
            budget.set(SessionId::new(to), costs[to]);
            if budget.is_exceeded() {
                budget.relieve(|session| {
                    *batches += 1;
                    costs[session.index()] -= *packet;
                    costs[session.index()]
                });
            }
            let total: usize = self.costs.iter().sum();
            assert_eq!(self.budget.total, total);
            assert!(total <= LIMIT, "{total} bytes are queued");
        }
    }

    #[test]
    fn the_fattest_queue_pays() {
        let mut queues = Queues::new(100, 2_000);
        (1..100).for_each(|to| queues.push(to));
        (0..5_000).for_each(|_| queues.push(0));
        assert!(queues.costs[1..].iter().all(|&cost| cost == 2_000), "the others lose nothing");
        assert!(queues.costs[0] > LIMIT - LIMIT / 4);
    }

    #[test]
    fn queues_that_are_equally_fat_pay_alike() {
        let mut queues = Queues::new(100, 300);
        (0..100_000).for_each(|n| queues.push(n % 100));
        let (least, most) = (queues.costs.iter().min().unwrap(), queues.costs.iter().max().unwrap());
        assert!(least * 2 >= most - 300, "from {least} to {most} bytes");
        assert!(queues.batches > 50_000);
    }

    #[test]
    fn one_packet_that_is_too_large_for_all_goes() {
        let mut queues = Queues::new(2, LIMIT + 1);
        queues.push(1);
        assert_eq!(queues.costs, [0, 0]);
    }
}
