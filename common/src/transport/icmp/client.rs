//! The client's end of a tunnel in pings. Pure: packets and the time come in, packets go out.

use std::time::{Duration, Instant};

use super::packet::{Header, Kind, Nonce, Session};
use super::stack::Stack;

/// Credits that the server is to have while nothing happens.
const MIN_CREDITS: u16 = 8;
/// Most credits that it is to have.
pub(super) const MAX_CREDITS: u16 = 250;
/// Requests for a cookie are sent again after this, then after twice as much, and so on.
const FIRST_RETRY: Duration = Duration::from_millis(250);
/// After the last reply so much time passes until a request asks for another; then twice as much, and so on.
const FIRST_PROBE: Duration = Duration::from_millis(100);
/// The longest time between two requests: shorter than NAT remembers a ping.
const MAX_PROBE: Duration = Duration::from_secs(5);
/// How often fewer credits are tried.
const SHRINK_EVERY: Duration = Duration::from_secs(1);
/// Most segments that are made at once.
const BURST: usize = 64;

/// Why the tunnel is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The server does not know the session: it was started anew.
    Unknown,
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the hub does not know this tunnel any more: it was started anew")
    }
}

impl std::error::Error for Ended {}

/// What answers there were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answers {
    /// Replies of the hub.
    pub hub: u64,
    /// Replies of a kernel, which sends back what it gets.
    pub kernel: u64,
}

/// A client's end.
pub struct Client {
    nonce: Nonce,
    session: Option<Session>,
    stack: Stack,
    /// Whether the server has shown that it knows the session.
    is_known: bool,
    credits: Credits,
    answers: Answers,
    /// When to ask for something, whatever there is to say.
    probe_at: Instant,
    probe_after: Duration,
}

/// What is known of the server's credits.
struct Credits {
    /// The sequence number of the next request.
    next: u16,
    /// The last request that the server has seen, and how many credits it had then.
    seen: u16,
    left: u16,
    /// How many it is to have.
    target: u16,
    /// No further growth before the server has seen this request: what was sent since then may be enough.
    grown_at: u16,
    shrink_at: Instant,
}

impl Credits {
    /// How many the server has, if nothing is lost.
    fn outstanding(&self) -> u16 {
        self.left.saturating_add(self.next.wrapping_sub(self.seen).wrapping_sub(1))
    }

    fn handle_reply(&mut self, seen: u16, left: u8, now: Instant) {
        // A reply that was overtaken knows less.
        if seen.wrapping_sub(self.seen) > u16::MAX / 2 {
            return;
        }
        (self.seen, self.left) = (seen, u16::from(left));
        if left == 0 && seen.wrapping_sub(self.grown_at) <= u16::MAX / 2 {
            self.target = (self.target * 2).min(MAX_CREDITS);
            self.grown_at = self.next;
            self.shrink_at = now + SHRINK_EVERY;
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        if now >= self.shrink_at {
            self.target = (self.target - self.target / 8).max(MIN_CREDITS);
            self.shrink_at = now + SHRINK_EVERY;
        }
    }
}

impl Client {
    /// A tunnel that begins; `nonce` and `random` are fresh randomness.
    pub fn new(nonce: Nonce, random: u64, now: Instant) -> Client {
        Client {
            nonce,
            session: None,
            stack: Stack::client(random, now),
            is_known: false,
            credits: Credits {
                next: 1,
                seen: 0,
                left: 0,
                target: MIN_CREDITS,
                grown_at: 0,
                shrink_at: now + SHRINK_EVERY,
            },
            answers: Answers::default(),
            probe_at: now,
            probe_after: FIRST_RETRY,
        }
    }

    /// Its connection, to read and to send.
    pub fn stack(&mut self) -> &mut Stack {
        &mut self.stack
    }

    /// Whether the server has answered, and the connection is open.
    pub fn is_open(&self) -> bool {
        self.is_known && self.stack.is_open()
    }

    /// What answers there were.
    pub fn answers(&self) -> Answers {
        self.answers
    }

    /// Takes the data of an echo reply.
    ///
    /// # Errors
    /// Where the server does not know the session any more.
    pub fn receive(&mut self, data: &[u8], now: Instant) -> Result<(), Ended> {
        let Some((header, segment)) = Header::decode(data) else { return Ok(()) };
        match (header.kind, self.session) {
            (Kind::Open | Kind::Begin | Kind::Request, _) => self.answers.kernel += 1,
            (Kind::Cookie, None) if segment == self.nonce => {
                self.answers.hub += 1;
                self.session = Some(header.session);
                self.probe_at = now;
                self.probe_after = FIRST_PROBE;
                self.credits.seen = self.credits.next.wrapping_sub(1);
                self.stack.poll(BURST, now);
            }
            (Kind::Reply, Some(session)) if session == header.session => {
                self.answers.hub += 1;
                self.is_known = true;
                self.credits.handle_reply(header.seen, header.credits, now);
                self.probe_after = FIRST_PROBE;
                self.probe_at = now + FIRST_PROBE;
                if !segment.is_empty() {
                    self.stack.receive(segment);
                }
                self.stack.poll(BURST, now);
            }
            (Kind::Unknown, Some(session)) if session == header.session => return Err(Ended::Unknown),
            (Kind::Cookie | Kind::Reply | Kind::Unknown, _) => {}
        }
        Ok(())
    }

    /// The next echo request: its sequence number; its data is put into `data`. `None` asks to wait.
    pub fn poll_request(&mut self, data: &mut Vec<u8>, now: Instant) -> Option<u16> {
        data.clear();
        let is_due = now >= self.probe_at;
        let Some(session) = self.session else {
            return is_due.then(|| self.ask_for_cookie(data, now));
        };
        self.credits.handle_timeout(now);
        let segment = self.stack.next_segment();
        if segment.is_none() && !is_due && self.credits.outstanding() >= self.credits.target {
            return None;
        }
        if is_due {
            self.back_off(MAX_PROBE, now);
        }
        let kind = if self.is_known { Kind::Request } else { Kind::Begin };
        Header { kind, credits: 0, seen: 0, session }.encode(data);
        if !self.is_known {
            data.extend(self.nonce);
        }
        data.extend(segment.unwrap_or_default());
        Some(self.take_number())
    }

    fn ask_for_cookie(&mut self, data: &mut Vec<u8>, now: Instant) -> u16 {
        self.back_off(MAX_PROBE, now);
        Header { kind: Kind::Open, credits: 0, seen: 0, session: self.nonce }.encode(data);
        // As long as the answer, which is then no longer than what it answers.
        data.extend(self.nonce);
        self.take_number()
    }

    fn back_off(&mut self, most: Duration, now: Instant) {
        self.probe_at = now + self.probe_after;
        self.probe_after = (self.probe_after * 2).min(most);
    }

    fn take_number(&mut self) -> u16 {
        let number = self.credits.next;
        self.credits.next = number.wrapping_add(1);
        number
    }

    /// Lets the connection act on the time, and on what was read and sent.
    pub fn poll(&mut self, now: Instant) {
        if self.session.is_some() {
            self.stack.poll(BURST, now);
        }
    }

    /// When `poll` and then `poll_request` have something to do without a reply.
    pub fn deadline(&mut self, now: Instant) -> Instant {
        let stack = if self.session.is_some() { self.stack.deadline(now) } else { None };
        stack.map_or(self.probe_at, |at| at.min(self.probe_at))
    }
}
