//! The server's end of all tunnels in pings. Pure: packets and the time come in, packets go out.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;

use super::client::MAX_CREDITS;
use super::packet::{Header, Kind, Nonce, Session};
use super::stack::Stack;

/// A request that is not answered yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Where it came from.
    pub source: IpAddr,
    /// The address of the server that it came to.
    pub to: IpAddr,
    /// Its identifier, by which NAT knows whose it is.
    pub identifier: u16,
    /// Its sequence number.
    pub sequence: u16,
}

/// A session, by its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Number(pub u32);

/// What a request brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// It is none of ours.
    Nothing,
    /// It is answered, or it changed nothing that anyone has to know.
    Handled,
    /// A new session.
    Accepted(Number),
    /// There may be something to read, or room to send.
    Ready(Number),
}

/// A cookie is good for as long as this at least, and twice as long at most.
const COOKIE_LIFE: Duration = Duration::from_secs(20);
/// Requests older than this are not answered: NAT may have forgotten them.
const CREDIT_LIFE: Duration = Duration::from_secs(15);

struct Conversation {
    session: Session,
    stack: Stack,
    credits: VecDeque<(Request, Instant)>,
    /// The last request, by its number.
    seen: u16,
    deadline: Option<Instant>,
}

/// All sessions.
pub struct Server {
    secret: hmac::Key,
    random: [u8; 32],
    born_at: Instant,
    /// Sessions that ever were.
    count: u64,
    max_sessions: usize,
    numbers: HashMap<Session, Number>,
    conversations: Vec<Option<Conversation>>,
    free: Vec<Number>,
    deadlines: BTreeSet<(Instant, Number)>,
    /// Answers that need no session.
    answers: VecDeque<(Request, Header, Nonce)>,
    /// Sessions that may have something to send.
    dirty: Vec<Number>,
}

/// Most answers without a session that wait.
const MAX_ANSWERS: usize = 64;

impl Server {
    /// A server without sessions, which takes up to `max_sessions`; `random` is fresh randomness.
    pub fn new(random: [u8; 32], max_sessions: usize, now: Instant) -> Server {
        Server {
            secret: hmac::Key::new(hmac::HMAC_SHA256, &random),
            random,
            born_at: now,
            count: 0,
            max_sessions,
            numbers: HashMap::new(),
            conversations: Vec::new(),
            free: Vec::new(),
            deadlines: BTreeSet::new(),
            answers: VecDeque::new(),
            dirty: Vec::new(),
        }
    }

    fn conversation(&mut self, Number(number): Number) -> Option<&mut Conversation> {
        self.conversations.get_mut(number as usize)?.as_mut()
    }

    /// A session's connection, to read and to send; then `touch`.
    pub fn stack(&mut self, number: Number) -> Option<&mut Stack> {
        self.conversation(number).map(|conversation| &mut conversation.stack)
    }

    /// Sessions that there are.
    pub fn len(&self) -> usize {
        self.numbers.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }

    /// Takes the data of an echo request.
    pub fn receive(&mut self, request: Request, data: &[u8], now: Instant) -> Received {
        let Some((header, behind)) = Header::decode(data) else { return Received::Nothing };
        match header.kind {
            Kind::Open => {
                if let Some(nonce) = behind.first_chunk().filter(|nonce| **nonce == header.session) {
                    let cookie = self.cookie(request.source, *nonce, self.epoch(now));
                    self.answer(request, Kind::Cookie, cookie, *nonce);
                }
                Received::Handled
            }
            Kind::Begin => {
                let Some((nonce, segment)) = behind.split_first_chunk() else { return Received::Handled };
                if self.numbers.contains_key(&header.session) {
                    return self.handle_segment(request, header.session, segment, now);
                }
                if !self.is_fresh(request.source, *nonce, header.session, now)
                    || self.numbers.len() >= self.max_sessions
                {
                    return Received::Handled;
                }
                let number = self.begin(header.session, now);
                self.handle_segment(request, header.session, segment, now);
                Received::Accepted(number)
            }
            Kind::Request => self.handle_segment(request, header.session, behind, now),
            Kind::Cookie | Kind::Reply | Kind::Unknown => Received::Nothing,
        }
    }

    fn handle_segment(
        &mut self,
        request: Request,
        session: Session,
        segment: &[u8],
        now: Instant,
    ) -> Received {
        let Some(&number) = self.numbers.get(&session) else {
            self.answer(request, Kind::Unknown, session, [0; 8]);
            return Received::Handled;
        };
        let Some(conversation) = self.conversation(number) else { return Received::Handled };
        if request.sequence.wrapping_sub(conversation.seen) <= u16::MAX / 2 {
            conversation.seen = request.sequence;
        }
        if conversation.credits.len() >= usize::from(MAX_CREDITS) {
            conversation.credits.pop_front();
        }
        conversation.credits.push_back((request, now));
        if !segment.is_empty() {
            conversation.stack.receive(segment);
        }
        self.touch(number, now);
        Received::Ready(number)
    }

    fn begin(&mut self, session: Session, now: Instant) -> Number {
        self.count += 1;
        let mut seed = [0; 8];
        let tag = hmac::sign(&self.secret, &[&b"seed"[..], &self.count.to_be_bytes(), &self.random].concat());
        seed.copy_from_slice(&tag.as_ref()[..8]);
        let stack = Stack::server(u64::from_ne_bytes(seed), now);
        let conversation = Conversation { session, stack, credits: VecDeque::new(), seen: 0, deadline: None };
        let number = self.free.pop().unwrap_or_else(|| {
            self.conversations.push(None);
            Number(self.conversations.len() as u32 - 1)
        });
        self.conversations[number.0 as usize] = Some(conversation);
        self.numbers.insert(session, number);
        number
    }

    /// Forgets a session.
    pub fn end(&mut self, number: Number) {
        let Some(slot) = self.conversations.get_mut(number.0 as usize) else { return };
        let Some(conversation) = slot.take() else { return };
        self.numbers.remove(&conversation.session);
        if let Some(deadline) = conversation.deadline {
            self.deadlines.remove(&(deadline, number));
        }
        self.free.push(number);
    }

    // ---- cookies

    fn epoch(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.born_at).as_secs() / COOKIE_LIFE.as_secs()
    }

    fn cookie(&self, source: IpAddr, nonce: Nonce, epoch: u64) -> Session {
        let mut of = Vec::with_capacity(16 + 8 + 8);
        match source {
            IpAddr::V4(address) => of.extend(address.octets()),
            IpAddr::V6(address) => of.extend(address.octets()),
        }
        of.extend(nonce);
        of.extend(epoch.to_be_bytes());
        let mut cookie = [0; 8];
        cookie.copy_from_slice(&hmac::sign(&self.secret, &of).as_ref()[..8]);
        cookie
    }

    fn is_fresh(&self, source: IpAddr, nonce: Nonce, cookie: Session, now: Instant) -> bool {
        let epoch = self.epoch(now);
        [Some(epoch), epoch.checked_sub(1)]
            .into_iter()
            .flatten()
            .any(|epoch| self.cookie(source, nonce, epoch) == cookie)
    }

    fn answer(&mut self, request: Request, kind: Kind, session: Session, nonce: Nonce) {
        if self.answers.len() < MAX_ANSWERS {
            let header = Header { kind, credits: 0, seen: request.sequence, session };
            self.answers.push_back((request, header, nonce));
        }
    }

    // ---- sending

    /// Lets a session act on what was received, read or sent.
    pub fn touch(&mut self, number: Number, now: Instant) {
        let Some(conversation) = self.conversation(number) else { return };
        while conversation.credits.front().is_some_and(|(_, at)| now > *at + CREDIT_LIFE) {
            conversation.credits.pop_front();
        }
        let room = conversation.credits.len();
        conversation.stack.poll(room, now);
        // Without a credit it can only wait for one.
        let is_blocked = room == 0 || conversation.stack.has_segments();
        let deadline = if is_blocked { None } else { conversation.stack.deadline(now) };
        let before = std::mem::replace(&mut conversation.deadline, deadline);
        if before != deadline {
            if let Some(before) = before {
                self.deadlines.remove(&(before, number));
            }
            if let Some(deadline) = deadline {
                self.deadlines.insert((deadline, number));
            }
        }
        self.dirty.push(number);
    }

    /// When `handle_timeouts` has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Lets the sessions act whose time has come.
    pub fn handle_timeouts(&mut self, now: Instant) {
        while let Some(&(at, number)) = self.deadlines.first() {
            if at > now {
                return;
            }
            self.deadlines.pop_first();
            if let Some(conversation) = self.conversation(number) {
                conversation.deadline = None;
            }
            self.touch(number, now);
            // It does not ask for the same moment twice, whatever it says.
            if let Some(conversation) = self.conversation(number)
                && let Some(deadline) = conversation.deadline.filter(|deadline| *deadline <= now)
            {
                conversation.deadline = Some(now + SHORTEST_WAIT);
                self.deadlines.remove(&(deadline, number));
                self.deadlines.insert((now + SHORTEST_WAIT, number));
            }
        }
    }

    /// The next echo reply: what it answers; its data is put into `data`. `None` once there is none.
    pub fn poll_reply(&mut self, data: &mut Vec<u8>) -> Option<Request> {
        data.clear();
        if let Some((request, header, nonce)) = self.answers.pop_front() {
            header.encode(data);
            if header.kind == Kind::Cookie {
                data.extend(nonce);
            }
            return Some(request);
        }
        while let Some(&number) = self.dirty.last() {
            if let Some(conversation) = self.conversation(number)
                && let Some((request, _)) = conversation.credits.front().copied()
                && let Some(segment) = conversation.stack.next_segment()
            {
                conversation.credits.pop_front();
                let credits = u8::try_from(conversation.credits.len()).unwrap_or(u8::MAX);
                let (seen, session) = (conversation.seen, conversation.session);
                Header { kind: Kind::Reply, credits, seen, session }.encode(data);
                data.extend(segment);
                return Some(request);
            }
            self.dirty.pop();
        }
        None
    }
}

/// The least time between two turns of a session that asks for one.
const SHORTEST_WAIT: Duration = Duration::from_millis(1);
