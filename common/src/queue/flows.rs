//! The flow table of a busy queue: buckets, flows, their packets, and the two lists of flows. Pure.
//!
//! Owns the structure; [`crate::queue::fq_codel`] owns the policy. A table is sized by what is queued, not by
//! the number of buckets: 1,024 two-byte indices lead to flows that exist only while they are in use.

use crate::queue::buf::Buf;
use crate::queue::codel::Codel;

/// Buckets that flows are hashed into, RFC 8290 section 5.2.5.
const BUCKETS: usize = 1_024;

const NO_FLOW: u16 = u16::MAX;
const NO_NODE: u32 = u32::MAX;

/// What a queued packet costs beyond its buffer.
const NODE: usize = size_of::<Node>();

/// A flow's place in a [`FlowTable`].
pub(crate) type FlowId = u16;

/// Everything of a queue that is in use only while packets are in it.
pub(crate) struct FlowTable {
    buckets: [FlowId; BUCKETS],
    flows: Vec<Flow>,
    /// The cost of each flow's packets; apart from the flows, as the search for the fattest reads it.
    costs: Vec<u32>,
    nodes: Vec<Node>,
    free: u32,
    /// Flows that had nothing queued when their packet came, RFC 8290 section 4.1: served first.
    new: List,
    /// The other active flows.
    old: List,
}

/// The packets of one bucket, and what the scheduler knows about them.
pub(crate) struct Flow {
    pub(crate) codel: Codel,
    /// Bytes that it may still send in this round, RFC 8290 section 4.2.
    pub(crate) deficit: isize,
    /// Length of its packets.
    pub(crate) bytes: usize,
    pub(crate) bucket: u16,
    active: bool,
    next: FlowId,
    head: u32,
    tail: u32,
}

/// A queued packet.
struct Node {
    packet: Option<Buf>,
    since: u64,
    next: u32,
}

/// Flows in the order in which they are served.
#[derive(Clone, Copy)]
struct List {
    first: FlowId,
    last: FlowId,
}

impl FlowTable {
    /// An empty table.
    pub(crate) fn new() -> Box<FlowTable> {
        Box::new(FlowTable {
            buckets: [NO_FLOW; BUCKETS],
            flows: Vec::new(),
            costs: Vec::new(),
            nodes: Vec::new(),
            free: NO_NODE,
            new: List::EMPTY,
            old: List::EMPTY,
        })
    }

    /// What the table occupies, in bytes, its packets' buffers excluded.
    pub(crate) fn truesize(&self) -> usize {
        size_of::<FlowTable>()
            + self.flows.capacity() * size_of::<Flow>()
            + self.costs.capacity() * size_of::<u32>()
            + self.nodes.capacity() * NODE
    }

    /// What a packet costs while it is queued.
    pub(crate) fn cost(packet: &Buf) -> usize {
        packet.truesize() + NODE
    }

    /// Forgets all flows. Whatever is still queued is freed.
    pub(crate) fn reset(&mut self) {
        for flow in &self.flows {
            self.buckets[usize::from(flow.bucket)] = NO_FLOW;
        }
        self.flows.clear();
        self.costs.clear();
        self.nodes.clear();
        self.free = NO_NODE;
        self.new = List::EMPTY;
        self.old = List::EMPTY;
    }

    /// The bucket of a hash.
    pub(crate) fn bucket(hash: u32) -> u16 {
        (hash as usize % BUCKETS) as u16
    }

    /// Whether a packet is in one of the buckets that are this modulo `classes`.
    pub(crate) fn has_class(&self, class: u16, classes: u16) -> bool {
        let buckets = self.buckets.iter().skip(class.into()).step_by(classes.into());
        buckets.filter_map(|&id| self.flows.get(usize::from(id))).any(|flow| flow.head != NO_NODE)
    }

    /// The flow of a bucket, with `codel` as its state if it has to be made.
    pub(crate) fn flow_of(&mut self, bucket: u16, codel: impl FnOnce() -> Codel) -> FlowId {
        let id = self.buckets[usize::from(bucket)];
        if id != NO_FLOW {
            return id;
        }
        let id = self.flows.len() as FlowId;
        self.flows.push(Flow {
            codel: codel(),
            deficit: 0,
            bytes: 0,
            bucket,
            active: false,
            next: NO_FLOW,
            head: NO_NODE,
            tail: NO_NODE,
        });
        self.costs.push(0);
        self.buckets[usize::from(bucket)] = id;
        id
    }

    /// All flows since the table was reset, active or not.
    pub(crate) fn flows(&self) -> &[Flow] {
        &self.flows
    }

    /// One flow.
    pub(crate) fn flow(&mut self, id: FlowId) -> &mut Flow {
        &mut self.flows[usize::from(id)]
    }

    /// Puts a packet at the end of a flow.
    pub(crate) fn enqueue(&mut self, id: FlowId, packet: Buf, since: u64) {
        let flow = &mut self.flows[usize::from(id)];
        flow.bytes += packet.len();
        self.costs[usize::from(id)] += FlowTable::cost(&packet) as u32;
        let node = Node { packet: Some(packet), since, next: NO_NODE };
        let at = self.free;
        let at = match self.nodes.get_mut(at as usize) {
            Some(unused) => {
                self.free = unused.next;
                *unused = node;
                at
            }
            None => {
                self.nodes.push(node);
                (self.nodes.len() - 1) as u32
            }
        };
        match self.nodes.get_mut(flow.tail as usize) {
            Some(last) => last.next = at,
            None => flow.head = at,
        }
        flow.tail = at;
    }

    /// Lets `grow` append to the last packet of a bucket, if that was queued at `since`: by how many bytes it grew, if
    /// it did, and by how much its cost.
    pub(crate) fn grow_tail(
        &mut self,
        bucket: u16,
        since: u64,
        grow: impl FnOnce(&mut Buf) -> Option<usize>,
    ) -> Option<(usize, usize)> {
        let id = usize::from(self.buckets[usize::from(bucket)]);
        let flow = self.flows.get_mut(id)?;
        let node = self.nodes.get_mut(flow.tail as usize).filter(|node| node.since == since)?;
        let packet = node.packet.as_mut()?;
        let before = FlowTable::cost(packet);
        let added = grow(packet)?;
        let cost = FlowTable::cost(packet) - before;
        flow.bytes += added;
        self.costs[id] += cost as u32;
        Some((added, cost))
    }

    /// The first packet of a flow, and when it was queued.
    pub(crate) fn head(&mut self, id: FlowId) -> Option<(&mut Buf, u64)> {
        let node = self.nodes.get_mut(self.flows[usize::from(id)].head as usize)?;
        Some((node.packet.as_mut()?, node.since))
    }

    /// Takes the first packet out of a flow.
    pub(crate) fn dequeue(&mut self, id: FlowId) -> Option<Buf> {
        let flow = &mut self.flows[usize::from(id)];
        let at = flow.head;
        let node = self.nodes.get_mut(at as usize)?;
        let packet = node.packet.take()?;
        flow.head = node.next;
        if flow.head == NO_NODE {
            flow.tail = NO_NODE;
            flow.codel.emptied();
        }
        node.next = self.free;
        self.free = at;
        flow.bytes -= packet.len();
        self.costs[usize::from(id)] -= FlowTable::cost(&packet) as u32;
        Some(packet)
    }

    /// Makes the packets of a flow new ones: queued now, and congestion unheard of.
    pub(crate) fn restart(&mut self, id: FlowId, now: u64) {
        let flow = &mut self.flows[usize::from(id)];
        flow.codel = Codel::default();
        let mut at = flow.head;
        while let Some(node) = self.nodes.get_mut(at as usize) {
            node.since = now;
            at = node.next;
        }
    }

    /// The flow whose packets cost most, and what they cost.
    pub(crate) fn fattest(&self) -> Option<(FlowId, usize)> {
        let most = self.costs.iter().copied().fold(0, u32::max);
        let at = self.costs.iter().position(|&cost| cost == most)?;
        Some((at as FlowId, most as usize))
    }

    /// Makes a flow active, as the last of the new ones; false if it was active.
    pub(crate) fn activate(&mut self, id: FlowId) -> bool {
        let flow = &mut self.flows[usize::from(id)];
        if flow.active {
            return false;
        }
        flow.active = true;
        self.new.push(&mut self.flows, id);
        true
    }

    /// The flow whose turn it is, and whether it is a new one.
    pub(crate) fn first(&self) -> Option<(FlowId, bool)> {
        match (self.new.first, self.old.first) {
            (NO_FLOW, NO_FLOW) => None,
            (NO_FLOW, old) => Some((old, false)),
            (new, _) => Some((new, true)),
        }
    }

    /// Puts the flow whose turn it is to the end of the old ones.
    pub(crate) fn rotate(&mut self) {
        if let Some(id) = self.pop_first() {
            self.old.push(&mut self.flows, id);
        }
    }

    /// Takes the flow whose turn it is off its list.
    pub(crate) fn deactivate(&mut self) {
        if let Some(id) = self.pop_first() {
            self.flows[usize::from(id)].active = false;
        }
    }

    fn pop_first(&mut self) -> Option<FlowId> {
        self.new.pop(&self.flows).or_else(|| self.old.pop(&self.flows))
    }
}

impl List {
    const EMPTY: List = List { first: NO_FLOW, last: NO_FLOW };

    fn push(&mut self, flows: &mut [Flow], id: FlowId) {
        flows[usize::from(id)].next = NO_FLOW;
        match flows.get_mut(usize::from(self.last)) {
            Some(last) => last.next = id,
            None => self.first = id,
        }
        self.last = id;
    }

    fn pop(&mut self, flows: &[Flow]) -> Option<FlowId> {
        let id = self.first;
        self.first = flows.get(usize::from(id))?.next;
        if self.first == NO_FLOW {
            self.last = NO_FLOW;
        }
        Some(id)
    }
}
