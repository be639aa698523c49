//! Finding the hub: its name, and the first of its addresses that answers (RFC 8305). IO.
#![expect(clippy::disallowed_methods, reason = "an IO file: it resolves names and opens sockets")]

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Interest, Registry, Waker};

use crate::node::event_loop::Source;
use crate::node::state;
use crate::transport::tcp;

mod dns;
mod nat64;

/// How long one address may take before the next one is tried beside it (RFC 8305, section 5).
const NEXT_AFTER: Duration = Duration::from_millis(250);
/// How long all of them may take.
const GIVE_UP_AFTER: Duration = Duration::from_secs(10);
/// The same, where there are other ways to try.
const GIVE_UP_SOON_AFTER: Duration = Duration::from_secs(3);
/// Most addresses that are tried.
pub const MAX_ADDRESSES: usize = 16;
/// The port of name servers.
const DNS_PORT: u16 = 53;
/// How long one may take to answer.
const ANSWER_TIME: Duration = Duration::from_secs(1);
/// How often each is asked.
const QUESTIONS: usize = 2;
/// Longest answer by UDP without extensions (RFC 1035, section 4.2.1).
const MAX_ANSWER: usize = 512;

/// A name that is being looked up.
///
/// `getaddrinfo` blocks for as long as name servers take, and signals must be served meanwhile: so it has a
/// thread of its own, the only second one of the program, and only until it answers.
pub struct Lookup {
    /// Or why there is none: where threads are limited, the look-up has failed before it began.
    thread: io::Result<JoinHandle<io::Result<Vec<SocketAddr>>>>,
    is_done: Arc<AtomicBool>,
}

/// What a network that has IPv6 alone needs to tell how IPv4 addresses are reached all the same.
#[derive(Debug, Default)]
pub struct Translation {
    /// The host, if it is an IPv4 address to which the machine has no way.
    pub unrouted: Option<Ipv4Addr>,
    /// Name servers.
    pub servers: Vec<IpAddr>,
}

impl Translation {
    /// More addresses of a host: none where one of those that were found can be reached.
    fn of(&self, found: &[SocketAddr]) -> Vec<Ipv6Addr> {
        let v4 = |address: &SocketAddr| match address {
            SocketAddr::V4(v4) if !has_way(*address) => Some(*v4.ip()),
            SocketAddr::V4(_) | SocketAddr::V6(_) => None,
        };
        // Names in a file, and name servers that a person chose, do not know of the translator either.
        let unrouted: Option<Vec<Ipv4Addr>> = match self.unrouted {
            Some(address) => Some(vec![address]),
            None => found.iter().map(v4).collect(),
        };
        let unrouted = unrouted.filter(|addresses| !addresses.is_empty());
        unrouted.map_or_else(Vec::new, |addresses| translate(&addresses, &self.servers))
    }
}

/// Whether the machine has a route there: a socket is not connected without.
fn has_way(to: SocketAddr) -> bool {
    UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).and_then(|socket| socket.connect(to)).is_ok()
}

type Work = Box<dyn FnOnce() -> io::Result<Vec<SocketAddr>> + Send>;

impl Lookup {
    /// Starts looking up; `waker` wakes the event loop at the end, and at once where no thread can be had.
    pub fn start(host: String, port: u16, translation: Translation, waker: &Arc<Waker>) -> Lookup {
        Lookup::start_by(
            |work| std::thread::Builder::new().name("look-up".to_owned()).spawn(work),
            (host, port),
            translation,
            waker,
        )
    }

    fn start_by(
        spawn: impl FnOnce(Work) -> io::Result<JoinHandle<io::Result<Vec<SocketAddr>>>>,
        (host, port): (String, u16),
        translation: Translation,
        waker: &Arc<Waker>,
    ) -> Lookup {
        let wake = Arc::clone(waker);
        let is_done = Arc::new(AtomicBool::new(false));
        let done = Arc::clone(&is_done);
        let thread = spawn(Box::new(move || {
            let found = (host.as_str(), port).to_socket_addrs().map(|found| {
                let found: Vec<SocketAddr> = found.collect();
                let translated = translation.of(&found).into_iter().map(|address| (address, port).into());
                translated.chain(found.iter().copied()).collect()
            });
            done.store(true, Ordering::Release);
            // A loop that is gone needs no waking.
            let _ = wake.wake();
            found
        }));
        if thread.is_err() {
            let _ = waker.wake();
        }
        Lookup { thread, is_done }
    }

    /// Whether there is an outcome.
    pub fn is_done(&self) -> bool {
        self.thread.is_err() || self.is_done.load(Ordering::Acquire)
    }

    /// The addresses; waits for the thread to end, which it does right after it woke the loop.
    pub fn finish(self) -> io::Result<Vec<SocketAddr>> {
        let thread = self.thread.map_err(|error| {
            let why = format!(
                "no thread for the look-up: {error}: raise `ulimit -u` (TasksMax= in a systemd unit)"
            );
            io::Error::new(error.kind(), why)
        })?;
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the look-up failed")))
    }
}

/// The addresses by which this network's translators reach IPv4 addresses.
fn translate(addresses: &[Ipv4Addr], servers: &[IpAddr]) -> Vec<Ipv6Addr> {
    for _ in 0..QUESTIONS {
        for &server in servers {
            match ask(server) {
                Ok(found) => {
                    let prefixes = nat64::prefixes(&found);
                    let of = |&address: &Ipv4Addr| prefixes.iter().map(move |prefix| prefix.embed(address));
                    return addresses.iter().flat_map(of).collect();
                }
                Err(error) => log::debug!("no answer from the name server {server}: {error}"),
            }
        }
    }
    Vec::new()
}

/// Asks a name server for the IPv6 addresses of ipv4only.arpa.
fn ask(server: IpAddr) -> io::Result<Vec<Ipv6Addr>> {
    let any: IpAddr =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_read_timeout(Some(ANSWER_TIME))?;
    socket.connect((server, DNS_PORT))?;
    let id = state::random_u64()? as u16;
    socket.send(&dns::question(id))?;
    let mut answer = [0; MAX_ANSWER];
    let len = socket.recv(&mut answer)?;
    dns::addresses(id, &answer[..len]).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Connections that are being tried.
pub struct Dial {
    left: std::vec::IntoIter<SocketAddr>,
    tried: Vec<Option<(SocketAddr, TcpStream)>>,
    /// The number of the first attempt.
    first: u16,
    segment: Option<u16>,
    next_at: Instant,
    give_up_at: Instant,
    failure: Failure,
}

/// How long to try the addresses of a hub.
pub fn time_to_dial(is_hasty: bool) -> Duration {
    if is_hasty { GIVE_UP_SOON_AFTER } else { GIVE_UP_AFTER }
}

/// What failed, and where.
struct Failure {
    at: Option<SocketAddr>,
    error: io::Error,
}

impl Failure {
    /// Takes note of one more. That a family has no route here says less than any other.
    fn add(&mut self, at: SocketAddr, error: io::Error) {
        let is_no_route = error.kind() == io::ErrorKind::NetworkUnreachable;
        if self.at.is_none() || !is_no_route {
            *self = Failure { at: Some(at), error };
        }
    }
}

/// How a dial stands.
pub enum Dialed {
    /// Nothing to tell yet.
    Wait,
    /// Connected, and registered for both directions as the attempt of this number.
    Connected(SocketAddr, TcpStream, u16),
    /// None of the addresses answered; the one whose failure says most, and why.
    Failed(Option<SocketAddr>, io::Error),
}

impl Dial {
    /// Tries the addresses, at most 16; each attempt is a [`Source::Dial`], by numbers from `first` on.
    /// `segment`: the largest TCP segment, in bytes; `time`: how long all of it may take.
    pub fn start(
        addresses: Vec<SocketAddr>,
        first: u16,
        segment: Option<u16>,
        time: Duration,
        now: Instant,
    ) -> Dial {
        let mut left = alternate(addresses);
        left.truncate(MAX_ADDRESSES);
        Dial {
            left: left.into_iter(),
            tried: Vec::new(),
            first,
            segment,
            next_at: now,
            give_up_at: now + time,
            failure: Failure {
                at: None,
                error: io::Error::new(io::ErrorKind::NotFound, "the name has no address"),
            },
        }
    }

    /// When `poll` has something to do without an event.
    pub fn deadline(&self) -> Instant {
        if self.left.len() > 0 { self.next_at.min(self.give_up_at) } else { self.give_up_at }
    }

    /// Looks at the attempts, and starts the next one when it is time.
    pub fn poll(&mut self, registry: &Registry, now: Instant) -> Dialed {
        for (index, slot) in self.tried.iter_mut().enumerate() {
            let Some((address, stream)) = slot.as_mut() else { continue };
            let outcome = match stream.take_error() {
                Ok(Some(error)) | Err(error) => Err(error),
                Ok(None) => match stream.peer_addr() {
                    Ok(_) => Ok(()),
                    Err(error) if error.kind() == io::ErrorKind::NotConnected => continue,
                    Err(error) => Err(error),
                },
            };
            let address = *address;
            match outcome {
                Ok(()) => {
                    if let Some((_, stream)) = slot.take() {
                        return Dialed::Connected(address, stream, self.first + index as u16);
                    }
                }
                Err(error) => {
                    log::debug!("no connection to {address}: {error}");
                    self.failure.add(address, error);
                    *slot = None;
                    self.next_at = now;
                }
            }
        }
        while now >= self.next_at && now < self.give_up_at {
            let Some(address) = self.left.next() else { break };
            match self.attempt(address, registry) {
                Ok(()) => self.next_at = now + NEXT_AFTER,
                Err(error) => self.failure.add(address, error),
            }
        }
        if self.left.len() == 0 && self.tried.iter().all(Option::is_none) {
            let error = std::mem::replace(&mut self.failure.error, io::ErrorKind::Other.into());
            return Dialed::Failed(self.failure.at, error);
        }
        if now >= self.give_up_at {
            return Dialed::Failed(None, io::ErrorKind::TimedOut.into());
        }
        Dialed::Wait
    }

    fn attempt(&mut self, address: SocketAddr, registry: &Registry) -> io::Result<()> {
        let mut stream = tcp::connect(address, self.segment)?;
        let token = Source::Dial(self.first + self.tried.len() as u16).token();
        registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        self.tried.push(Some((address, stream)));
        Ok(())
    }
}

/// The families in turn, beginning with that of the first address (RFC 8305, section 4).
pub fn alternate(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|address| address.is_ipv6() == first_is_v6);
    let mut mixed = Vec::with_capacity(first.len() + second.len());
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    loop {
        match (first.next(), second.next()) {
            (None, None) => return mixed,
            (a, b) => mixed.extend(a.into_iter().chain(b)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A look-up of a loopback address with threads from `spawn`, once it has woken the loop.
    fn look_up(
        spawn: impl FnOnce(Work) -> io::Result<JoinHandle<io::Result<Vec<SocketAddr>>>>,
    ) -> io::Result<Vec<SocketAddr>> {
        const WAKE: mio::Token = mio::Token(3);
        let (mut poll, mut events) = (mio::Poll::new().unwrap(), mio::Events::with_capacity(1));
        let waker = Arc::new(Waker::new(poll.registry(), WAKE).unwrap());
        let lookup = Lookup::start_by(spawn, ("127.0.0.1".to_owned(), 80), Translation::default(), &waker);
        poll.poll(&mut events, Some(Duration::from_secs(10))).unwrap();
        assert!(events.iter().any(|event| event.token() == WAKE), "the loop is not woken");
        lookup.finish()
    }

    #[test]
    fn a_look_up_without_a_thread_has_failed_and_wakes_the_loop() {
        let error = look_up(|_| Err(io::Error::from_raw_os_error(11))).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        assert!(error.to_string().contains("ulimit -u"), "{error}");
        let found = look_up(|work| std::thread::Builder::new().spawn(work)).unwrap();
        assert_eq!(found, ["127.0.0.1:80".parse().unwrap()]);
    }

    #[test]
    fn the_failure_that_says_most_is_told() {
        let parse = |text: &str| text.parse::<SocketAddr>().unwrap();
        let (v4, v6) = (parse("192.0.2.1:1"), parse("[2001:db8::1]:1"));
        let none = || Failure { at: None, error: io::ErrorKind::NotFound.into() };
        for [first, second] in [[(v4, 111), (v6, 101)], [(v6, 101), (v4, 111)]] {
            let mut failure = none();
            failure.add(first.0, io::Error::from_raw_os_error(first.1));
            failure.add(second.0, io::Error::from_raw_os_error(second.1));
            assert_eq!((failure.at, failure.error.raw_os_error()), (Some(v4), Some(111)));
        }
    }

    #[test]
    fn families_take_turns() {
        let parse =
            |list: &[&str]| list.iter().map(|text| text.parse().unwrap()).collect::<Vec<SocketAddr>>();
        let mixed = alternate(parse(&["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1"]));
        assert_eq!(mixed, parse(&["[::1]:1", "1.1.1.1:1", "[::2]:1", "[::3]:1"]));
    }
}
