//! The connection to the hub, from the look-up to the link. IO, by what it holds.

use std::net::IpAddr;
use std::ops::{Index, IndexMut};
use std::time::Instant;

use common::node::dial::{Dial, Lookup, MAX_ADDRESSES};
use common::node::link::Link;
use common::node::opening::{Opening, Plan};
use common::node::ping_dial::PingDial;

use crate::uplink::{ASK_EVERY, Attempt, MAX_TRIALS};

/// The link's connection, and those that are tried beside it, or for one.
pub(crate) struct Connections {
    link: Connection,
    trials: [Connection; MAX_TRIALS],
    /// The number of the next connection attempt.
    next: u16,
    /// From and to where those beside the link go.
    ends: [Option<(IpAddr, IpAddr)>; MAX_TRIALS],
}

impl Default for Connections {
    fn default() -> Connections {
        let trials = std::array::from_fn(|_| Connection::None);
        Connections { link: Connection::None, trials, next: 0, ends: [None; MAX_TRIALS] }
    }
}

impl Index<Attempt> for Connections {
    type Output = Connection;

    fn index(&self, attempt: Attempt) -> &Connection {
        match attempt {
            Attempt::Link => &self.link,
            Attempt::Trial(slot) => &self.trials[slot],
        }
    }
}

impl IndexMut<Attempt> for Connections {
    fn index_mut(&mut self, attempt: Attempt) -> &mut Connection {
        match attempt {
            Attempt::Link => &mut self.link,
            Attempt::Trial(slot) => &mut self.trials[slot],
        }
    }
}

impl Connections {
    /// When there is something to do without an event.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        Attempt::ALL.iter().filter_map(|&attempt| self[attempt].deadline()).min()
    }

    /// Takes one out.
    pub(crate) fn take(&mut self, attempt: Attempt) -> Connection {
        std::mem::replace(&mut self[attempt], Connection::None)
    }

    /// The first of as many numbers as a dial needs, which no other connection has.
    pub(crate) fn numbers(&mut self) -> u16 {
        const COUNT: u16 = MAX_ADDRESSES as u16;
        // They are 16 aligned ones, so that they never wrap around within.
        let is_taken = |first: u16| {
            let numbers = Attempt::ALL.iter().filter_map(|&attempt| self[attempt].number());
            numbers.into_iter().any(|number| number / COUNT == first / COUNT)
        };
        let mut first = self.next;
        while is_taken(first) {
            first = first.wrapping_add(COUNT);
        }
        self.next = first.wrapping_add(COUNT);
        first
    }

    /// Which one has this number.
    pub(crate) fn find(&self, number: u16) -> Option<Attempt> {
        Attempt::ALL.into_iter().find(|&attempt| self[attempt].number() == Some(number))
    }

    /// Notes from and to where one beside the link goes.
    pub(crate) fn set_ends(&mut self, slot: usize, ends: (IpAddr, IpAddr)) {
        self.ends[slot] = Some(ends);
    }

    /// Puts one beside the link in its place: from and to where it goes.
    pub(crate) fn switch(&mut self, slot: usize) -> Option<(IpAddr, IpAddr)> {
        self.link = self.take(Attempt::Trial(slot));
        self.ends[slot].take()
    }

    /// Whether there is no other one than this.
    pub(crate) fn is_alone(&self, attempt: Attempt) -> bool {
        let mut others = Attempt::ALL.into_iter().filter(|&other| other != attempt);
        others.all(|other| matches!(self[other], Connection::None))
    }
}

/// The connection to the hub, or the attempt at one.
pub(crate) enum Connection {
    /// Nothing, for now.
    None,
    Lookup(Lookup),
    /// With what is to be spoken then.
    Dial(Dial, Plan),
    Opening(Opening),
    /// Addresses that are pinged.
    Pinging(Box<PingDial>),
    /// What carries the tunnel, and the number of the connection attempt that it was, if it was one.
    Link(Link, Option<u16>),
}

impl Connection {
    /// Its number, once it is there.
    fn number(&self) -> Option<u16> {
        match self {
            Connection::Opening(opening) => Some(opening.number),
            Connection::Link(_, number) => *number,
            Connection::None | Connection::Lookup(_) | Connection::Dial(..) | Connection::Pinging(_) => None,
        }
    }

    /// Has the kernel ask the hub's kernel whether it is there, or not any more: whether it does, and says what it hears.
    pub(crate) fn ask_kernel(&self, asks: bool) -> bool {
        match self {
            Connection::Link(Link::Tcp(stream), _) => {
                stream.ask_kernel(asks.then_some(ASK_EVERY)).is_ok() && asks && stream.info().is_some()
            }
            Connection::Link(Link::Ping(_), _)
            | Connection::None
            | Connection::Lookup(_)
            | Connection::Dial(..)
            | Connection::Opening(_)
            | Connection::Pinging(_) => false,
        }
    }

    /// When there is something to do without an event.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self {
            Connection::Dial(dial, _) => Some(dial.deadline()),
            Connection::Opening(opening) => Some(opening.give_up_at),
            Connection::Pinging(dial) => Some(dial.deadline()),
            Connection::Link(link, _) => link.deadline(),
            Connection::None | Connection::Lookup(_) => None,
        }
    }
}
