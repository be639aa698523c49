//! The way to the hub by pings: the raw sockets, and the search for an address at which a hub answers. IO.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::dial::{MAX_ADDRESSES, alternate};
use super::event_loop::{EventLoop, Source};
use super::state;
use super::way::Way;
use crate::linux::netlink::Family;
use crate::transport::ping::{ClientSocket, PingLink};

/// How long one address may take before the next one is tried.
const NEXT_AFTER: Duration = Duration::from_secs(1);
/// So often some hundreds of replies are taken from the socket at once: others may send more all the time.
const MOST_TURNS: usize = 16;
/// After so many answers of a kernel and none of a hub, there is none.
const KERNEL_ANSWERS: u64 = 3;

/// The raw sockets, which are opened once: a confined process may not open others.
pub struct Pings {
    v4: io::Result<Rc<ClientSocket>>,
    v6: io::Result<Rc<ClientSocket>>,
}

impl Pings {
    /// Opens the sockets where ways need them. If that fails, those ways are tried in vain.
    ///
    /// # Errors
    /// Where there are no other ways.
    pub fn open_for(ways: &[Way]) -> io::Result<Option<Pings>> {
        if !ways.iter().any(Way::is_ping) {
            return Ok(None);
        }
        let pings = Pings::open();
        match pings.error() {
            Some(error) if ways.iter().all(Way::is_ping) => Err(error),
            Some(_) | None => Ok(Some(pings)),
        }
    }

    /// Opens the sockets. One that could not be opened is told of when it is needed.
    pub fn open() -> Pings {
        let open = |family| ClientSocket::open(family).map(Rc::new);
        Pings { v4: open(Family::V4), v6: open(Family::V6) }
    }

    /// Registers the sockets.
    ///
    /// # Errors
    /// As the kernel has it.
    pub fn register(&self, events: &EventLoop) -> io::Result<()> {
        for (number, socket) in (0..).zip([&self.v4, &self.v6]) {
            if let Ok(socket) = socket {
                socket.register(events.registry(), Source::Replies(number).token())?;
            }
        }
        Ok(())
    }

    /// Whether one link has taken replies for another, which is to be served again.
    pub fn has_left(&self) -> bool {
        [&self.v4, &self.v6].into_iter().flatten().any(|socket| socket.has_left())
    }

    /// Why neither socket could be opened, if that is so.
    fn error(&self) -> Option<io::Error> {
        self.v6.as_ref().err()?;
        self.socket(Family::V4).err()
    }

    fn socket(&self, family: Family) -> io::Result<Rc<ClientSocket>> {
        let socket = if family == Family::V4 { &self.v4 } else { &self.v6 };
        socket.as_ref().map(Rc::clone).map_err(|error| {
            io::Error::other(if error.kind() == io::ErrorKind::PermissionDenied {
                "this process may not open raw sockets: start it as root, or give it CAP_NET_RAW".to_owned()
            } else {
                format!("no raw socket: {error}")
            })
        })
    }
}

/// Addresses of the hub that are pinged, one after the other.
pub struct PingDial {
    left: std::vec::IntoIter<SocketAddr>,
    /// The one that is pinged now.
    trying: Option<(SocketAddr, Box<PingLink>)>,
    next_at: Instant,
    give_up_at: Instant,
    /// What the last one that failed has said.
    failure: Option<(SocketAddr, io::Error)>,
}

/// How it stands.
pub enum PingDialed {
    /// Nothing to tell yet.
    Wait,
    /// A hub answers at this address.
    Connected(SocketAddr, Box<PingLink>),
    /// None answers; an address and why it does not, if anything is known.
    Failed(Option<SocketAddr>, io::Error),
}

impl PingDial {
    /// `time`: how long all of it may take.
    pub fn start(addresses: Vec<SocketAddr>, time: Duration, now: Instant) -> PingDial {
        let mut left = alternate(addresses);
        left.truncate(MAX_ADDRESSES);
        PingDial { left: left.into_iter(), trying: None, next_at: now, give_up_at: now + time, failure: None }
    }

    /// When `poll` has something to do without an event.
    pub fn deadline(&self) -> Instant {
        let trying = self.trying.as_ref().map(|(_, link)| link.deadline());
        let next = (self.left.len() > 0).then_some(self.next_at);
        [trying, next].into_iter().flatten().fold(self.give_up_at, Instant::min)
    }

    /// Looks what came, and pings on.
    pub fn poll(&mut self, pings: &Pings, now: Instant) -> PingDialed {
        if let Some((at, mut link)) = self.trying.take() {
            // What is left is taken when the next request is due.
            for _ in 0..MOST_TURNS {
                if !link.receive(now) {
                    break;
                }
            }
            if link.is_open() {
                return PingDialed::Connected(at, link);
            }
            link.send(now);
            let answers = link.answers();
            if answers.hub == 0 && answers.kernel >= KERNEL_ANSWERS {
                self.failure = Some((at, io::Error::other(NO_HUB)));
            } else if now >= self.give_up_at || now >= self.next_at && self.left.len() > 0 {
                let silence = if answers.kernel > 0 {
                    io::Error::other(NO_HUB)
                } else {
                    io::ErrorKind::TimedOut.into()
                };
                self.failure = Some((at, link.trouble().unwrap_or(silence)));
            } else {
                self.trying = Some((at, link));
                return PingDialed::Wait;
            }
        }
        while let Some(at) = self.left.next().filter(|_| now < self.give_up_at) {
            match begin(pings, at.ip(), now) {
                Ok(link) => {
                    self.trying = Some((at, link));
                    self.next_at = now + NEXT_AFTER;
                    return PingDialed::Wait;
                }
                Err(error) => self.failure = Some((at, error)),
            }
        }
        match self.failure.take() {
            Some((at, error)) => PingDialed::Failed(Some(at), error),
            None => {
                PingDialed::Failed(None, io::Error::new(io::ErrorKind::NotFound, "the name has no address"))
            }
        }
    }
}

/// What the answers of a kernel alone say.
const NO_HUB: &str = "the host answers pings, but no hub there takes tunnels in them: start it with --icmp";

fn begin(pings: &Pings, hub: IpAddr, now: Instant) -> io::Result<Box<PingLink>> {
    let socket = pings.socket(Family::of(hub))?;
    let mut link = Box::new(PingLink::begin(socket, hub, state::random()?, now)?);
    link.send(now);
    Ok(link)
}
