//! The event loop of both programs: ready sources and deadlines. IO; it makes no decisions.
//!
//! mio is edge-triggered: unread data is not reported again. A program that stops reading a source early, at the end of
//! its share of the turn, requests it [`again`](EventLoop::again).
#![expect(clippy::disallowed_methods, reason = "an IO file: it reads the clock once a turn")]

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Registry, Token, Waker, event};

/// What can be ready, in the order in which one turn serves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// A signal that ends the program.
    Stop,
    /// A signal to read the files again.
    Reload,
    /// Another thread has finished its work.
    Waker,
    /// The kernel's announcements of changes in its network configuration.
    Kernel,
    /// The control socket's listener.
    ControlListener,
    /// A connection of the control socket, by its slot.
    Control(u16),
    /// A listening socket, by its number.
    Listener(u16),
    /// A socket of the metrics' server, by its number.
    Metrics(u16),
    /// A socket of the name server.
    Names(NameSocket),
    /// A raw socket that hears the requests of tunnels in pings, by the number of its family.
    Ping(u16),
    /// A raw socket that hears the replies, by the number of its family.
    Replies(u16),
    /// The TUN device.
    Device,
    /// A connection attempt, by its number.
    Dial(u16),
    /// A tunnel's socket, by its number.
    Link(u32),
}

/// The sockets of the name server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NameSocket {
    /// For datagrams, by the number of its address.
    Datagram(u16),
    /// Listening, by the number of its address.
    Listener(u16),
    /// A connection, by its slot.
    Connection(u16),
}

/// Bits of a token that hold a source's number; the kind is above them.
const NUMBER_BITS: u32 = 24;
/// Most numbers of one kind of source.
pub const MAX_NUMBER: u32 = (1 << NUMBER_BITS) - 1;

impl Source {
    /// The token under which mio reports this source.
    pub fn token(self) -> Token {
        let (kind, number) = match self {
            Source::Stop => (0, 0),
            Source::Reload => (1, 0),
            Source::Waker => (2, 0),
            Source::ControlListener => (3, 0),
            Source::Control(slot) => (4, slot.into()),
            Source::Listener(number) => (5, number.into()),
            Source::Device => (6, 0),
            Source::Dial(number) => (7, number.into()),
            Source::Link(number) => (8, number),
            Source::Kernel => (9, 0),
            Source::Names(NameSocket::Datagram(number)) => (10, number.into()),
            Source::Names(NameSocket::Listener(number)) => (11, number.into()),
            Source::Names(NameSocket::Connection(slot)) => (12, slot.into()),
            Source::Ping(number) => (13, number.into()),
            Source::Metrics(number) => (14, number.into()),
            Source::Replies(number) => (15, number.into()),
        };
        debug_assert!(number <= MAX_NUMBER);
        Token((kind << NUMBER_BITS | number) as usize)
    }

    /// The source of a token; `None` for a token that none has.
    fn of(Token(token): Token) -> Option<Source> {
        let token = u32::try_from(token).ok()?;
        let number = token & MAX_NUMBER;
        Some(match token >> NUMBER_BITS {
            0 => Source::Stop,
            1 => Source::Reload,
            2 => Source::Waker,
            3 => Source::ControlListener,
            4 => Source::Control(u16::try_from(number).ok()?),
            5 => Source::Listener(u16::try_from(number).ok()?),
            6 => Source::Device,
            7 => Source::Dial(u16::try_from(number).ok()?),
            8 => Source::Link(number),
            9 => Source::Kernel,
            10 => Source::Names(NameSocket::Datagram(u16::try_from(number).ok()?)),
            11 => Source::Names(NameSocket::Listener(u16::try_from(number).ok()?)),
            12 => Source::Names(NameSocket::Connection(u16::try_from(number).ok()?)),
            13 => Source::Ping(u16::try_from(number).ok()?),
            14 => Source::Metrics(u16::try_from(number).ok()?),
            15 => Source::Replies(u16::try_from(number).ok()?),
            _ => return None,
        })
    }
}

/// A source that is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ready {
    /// Which one.
    pub source: Source,
    /// Whether there may be something to read, an end or an error included.
    pub is_readable: bool,
    /// Whether there may be room to write.
    pub is_writable: bool,
    /// Whether the other end has closed, or the source has failed, behind what there is to read.
    pub is_closed: bool,
}

/// Waits for sources.
pub struct EventLoop {
    poll: Poll,
    events: Events,
    /// Sources that are served in the next turn though mio will not report them.
    again: Vec<Source>,
}

impl EventLoop {
    /// An event loop without sources, which hears of up to `events` of them in one turn.
    ///
    /// # Errors
    /// Where descriptors are used up.
    pub fn new(events: usize) -> io::Result<EventLoop> {
        Ok(EventLoop { poll: Poll::new()?, events: Events::with_capacity(events), again: Vec::new() })
    }

    /// Where sources are registered under their [`Source::token`].
    pub fn registry(&self) -> &Registry {
        self.poll.registry()
    }

    /// Registers a source that is only read.
    ///
    /// # Errors
    /// As the kernel has it.
    pub fn register(&self, socket: &mut impl event::Source, source: Source) -> io::Result<()> {
        self.registry().register(socket, source.token(), Interest::READABLE)
    }

    /// What another thread wakes the loop with: [`Source::Waker`].
    ///
    /// # Errors
    /// Where descriptors are used up.
    pub fn waker(&self) -> io::Result<Arc<Waker>> {
        Waker::new(self.registry(), Source::Waker.token()).map(Arc::new)
    }

    /// Serves a source again in the next turn, which begins at once.
    pub fn again(&mut self, source: Source) {
        self.again.push(source);
    }

    /// Waits until a source is ready, or until `deadline`; without one, for as long as it takes. `turn` gets the sources
    /// to serve, each once, in the order of [`Source`]. Returns the time of this turn.
    ///
    /// # Errors
    /// Where the kernel cannot wait.
    pub fn wait(&mut self, deadline: Option<Instant>, turn: &mut Vec<Ready>) -> io::Result<Instant> {
        let timeout = if self.again.is_empty() {
            deadline.map(|at| at.saturating_duration_since(Instant::now()))
        } else {
            Some(Duration::ZERO)
        };
        match self.poll.poll(&mut self.events, timeout) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        let now = Instant::now();
        turn.clear();
        turn.extend(self.events.iter().filter_map(|event| {
            let is_closed = event.is_read_closed() || event.is_error();
            let source = Source::of(event.token())?;
            let is_readable = event.is_readable() || is_closed;
            Some(Ready { source, is_readable, is_writable: event.is_writable(), is_closed })
        }));
        let again = self.again.drain(..);
        turn.extend(again.map(|source| Ready {
            source,
            is_readable: true,
            is_writable: false,
            is_closed: false,
        }));
        turn.sort_unstable_by_key(|ready| ready.source);
        turn.dedup_by(|later, first| {
            let is_same = later.source == first.source;
            if is_same {
                first.is_readable |= later.is_readable;
                first.is_writable |= later.is_writable;
                first.is_closed |= later.is_closed;
            }
            is_same
        });
        Ok(now)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use mio::net::UnixStream;

    use super::*;

    #[test]
    fn each_source_has_a_token_of_its_own() {
        let sources = [
            Source::Stop,
            Source::Reload,
            Source::Waker,
            Source::Kernel,
            Source::ControlListener,
            Source::Control(0),
            Source::Control(u16::MAX),
            Source::Listener(0),
            Source::Listener(u16::MAX),
            Source::Metrics(0),
            Source::Metrics(u16::MAX),
            Source::Names(NameSocket::Datagram(1)),
            Source::Names(NameSocket::Listener(1)),
            Source::Names(NameSocket::Connection(0)),
            Source::Names(NameSocket::Connection(u16::MAX)),
            Source::Ping(0),
            Source::Ping(1),
            Source::Replies(1),
            Source::Device,
            Source::Dial(0),
            Source::Dial(u16::MAX),
            Source::Link(0),
            Source::Link(MAX_NUMBER),
        ];
        assert!(sources.is_sorted());
        for (at, source) in sources.into_iter().enumerate() {
            assert_eq!(Source::of(source.token()), Some(source));
            assert!(sources[..at].iter().all(|other| other.token() != source.token()));
        }
        assert_eq!(Source::of(Token(usize::MAX)), None);
    }

    #[test]
    fn a_source_that_is_asked_for_again_is_served_once_without_waiting() {
        let mut events = EventLoop::new(8).unwrap();
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        let interest = Interest::READABLE | Interest::WRITABLE;
        events.registry().register(&mut ours, Source::Link(7).token(), interest).unwrap();
        theirs.write_all(b"x").unwrap();
        events.again(Source::Link(7));
        events.again(Source::Device);
        events.again(Source::Device);
        let mut turn = Vec::new();
        events.wait(None, &mut turn).unwrap();
        let sources: Vec<Source> = turn.iter().map(|ready| ready.source).collect();
        assert_eq!(sources, [Source::Device, Source::Link(7)]);
        assert!(turn[1].is_readable && turn[1].is_writable && !turn[1].is_closed);
        let at = events.wait(Some(Instant::now()), &mut turn).unwrap();
        assert!(turn.is_empty() && at <= Instant::now(), "edge-triggered: nothing new");
        drop(theirs);
        events.wait(None, &mut turn).unwrap();
        assert!(turn[0].is_readable && turn[0].is_closed);
    }

    #[test]
    fn another_thread_wakes_the_loop() {
        let mut events = EventLoop::new(8).unwrap();
        let waker = events.waker().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| waker.wake().unwrap());
            let mut turn = Vec::new();
            events.wait(None, &mut turn).unwrap();
            assert_eq!(turn[0].source, Source::Waker);
        });
    }
}
