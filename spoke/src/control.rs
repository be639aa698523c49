//! What the spoke is asked through its control socket, and what it answers. Pure.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use common::node::request::{MAX_CONNECTIONS, Ticket};
use common::packet::drops::Drops;
use common::wire::frame::Peer;
use common::wire::key::PublicKey;
use common::wire::name::Name;
use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

/// How long the hub may take to tell its members.
pub const PATIENCE: Duration = Duration::from_secs(2);
/// Most members that are taken from the hub, which may tell of them without end.
pub const MAX_MEMBERS: usize = 100_000;

/// A request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "lowercase", deny_unknown_fields)]
pub enum Request {
    /// How this spoke stands: [`Status`], without members.
    Status,
    /// A page of the members, asked from the hub at this moment: [`Page`].
    Members {
        /// The last name of the page before.
        #[serde(default)]
        after: Option<Name>,
    },
}

/// How this spoke stands at this moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The spoke's version.
    pub version: String,
    /// For how long it has run.
    pub up_seconds: u64,
    /// Its name, on the LAN or as it would like it.
    pub name: Name,
    /// Its addresses, once it had some.
    pub addresses: Vec<IpNetwork>,
    /// Its device.
    pub device: String,
    /// Its key.
    pub key: PublicKey,
    /// The hub, as the command line names it.
    pub hub: String,
    /// The hub's key, once it is known.
    pub hub_key: Option<PublicKey>,
    /// `on-lan`, `joining`, `connecting`, `looking-up` or `waiting`.
    pub phase: String,
    /// Why the last try ended, while there is no link.
    pub trouble: Option<String>,
    /// The link, while this spoke is on the LAN.
    pub link: Option<LinkStatus>,
    /// Packets that were dropped since the spoke started, by reason.
    pub drops: BTreeMap<String, u64>,
    /// The members by name, this one too: filled in by the command, which asks for them page by page.
    #[serde(default)]
    pub members: Vec<MemberStatus>,
}

/// How the link stands. Counts begin with the link.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LinkStatus {
    /// For how long this spoke is on the LAN.
    pub seconds: u64,
    /// The hub's outer address.
    pub hub_address: SocketAddr,
    /// The last round trip.
    pub round_trip_ms: Option<f64>,
    /// Packets and bytes from the hub.
    pub received: Traffic,
    /// Packets and bytes to the hub.
    pub sent: Traffic,
    /// Bytes that wait to be sent.
    pub queue_bytes: usize,
}

/// Packets and bytes, one way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

impl From<common::wire::tunnel::Traffic> for Traffic {
    fn from(way: common::wire::tunnel::Traffic) -> Traffic {
        Traffic { packets: way.packets, bytes: way.bytes }
    }
}

/// A page of members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// In the order of their names.
    pub members: Vec<MemberStatus>,
    /// Whether there are no more.
    pub last: bool,
}

/// A member, as the hub tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberStatus {
    /// Its name.
    pub name: Name,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Whether it is on the LAN.
    pub online: bool,
}

impl From<Peer> for MemberStatus {
    fn from(peer: Peer) -> MemberStatus {
        MemberStatus { name: peer.name, addresses: peer.addresses, online: peer.online }
    }
}

/// Counts by the label of their reason.
pub fn drops(drops: &Drops) -> BTreeMap<String, u64> {
    drops.iter().map(|(reason, count)| (reason.label().to_owned(), count)).collect()
}

/// A name from which `AskMembers` leads to `name` within few steps: its beginning sorts before it, and only names
/// that begin alike lie between them.
pub fn before(name: &Name) -> Option<Name> {
    let text = name.as_str();
    text.get(..text.len().checked_sub(1)?)?.parse().ok()
}

/// Who asked the hub for members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asker {
    /// This spoke itself.
    Own,
    /// A person, through the control socket.
    Person(Ticket),
}

/// Questions for members that the hub has not answered yet. It answers in the order in which it is asked.
#[derive(Debug, Default)]
pub struct PendingRequests(VecDeque<Wait>);

#[derive(Debug)]
struct Wait {
    /// Whoever gave up keeps its place in the order.
    asker: Option<Asker>,
    /// How long a person waits.
    until: Option<Instant>,
}

impl Wait {
    fn person(&self) -> Option<(Ticket, Instant)> {
        match (self.asker, self.until) {
            (Some(Asker::Person(ticket)), Some(until)) => Some((ticket, until)),
            (Some(Asker::Own | Asker::Person(_)) | None, _) => None,
        }
    }
}

impl PendingRequests {
    /// Whether another person may wait.
    pub fn has_room(&self) -> bool {
        self.0.len() < MAX_CONNECTIONS
    }

    /// The hub was asked for this person.
    pub fn push(&mut self, ticket: Ticket, now: Instant) {
        self.0.push_back(Wait { asker: Some(Asker::Person(ticket)), until: Some(now + PATIENCE) });
    }

    /// The hub was asked by this spoke itself.
    pub fn push_own(&mut self) {
        self.0.push_back(Wait { asker: Some(Asker::Own), until: None });
    }

    /// The hub has told a page: who asked for it, unless that one gave up.
    pub fn told(&mut self) -> Option<Asker> {
        self.0.pop_front()?.asker
    }

    /// Someone who has waited for too long.
    pub fn poll(&mut self, now: Instant) -> Option<Ticket> {
        let late = |wait: &&mut Wait| wait.person().is_some_and(|(_, until)| until <= now);
        let wait = self.0.iter_mut().find(late)?;
        let (ticket, _) = wait.person()?;
        wait.asker = None;
        Some(ticket)
    }

    /// When `poll` has something to tell.
    pub fn deadline(&self) -> Option<Instant> {
        self.0.iter().filter_map(Wait::person).map(|(_, until)| until).min()
    }

    /// The link is gone, and with it all answers: those who wait in vain.
    pub fn take_all(&mut self) -> impl Iterator<Item = Ticket> + use<> {
        std::mem::take(&mut self.0).into_iter().filter_map(|wait| Some(wait.person()?.0))
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "virtual time has to start somewhere")]
mod tests {
    use super::*;

    #[test]
    fn pages_go_to_those_who_asked_in_order_and_not_to_those_who_gave_up() {
        let start = Instant::now();
        let [a, b, c] = [1, 2, 3].map(Ticket::for_test);
        let mut waiting = PendingRequests::default();
        assert_eq!(waiting.told(), None, "unasked");
        waiting.push(a, start);
        waiting.push_own();
        waiting.push(b, start + Duration::from_millis(1));
        waiting.push(c, start + Duration::from_millis(500));
        assert_eq!(waiting.deadline(), Some(start + PATIENCE));
        assert_eq!(waiting.poll(start + PATIENCE), Some(a));
        assert_eq!(waiting.poll(start + PATIENCE), None);
        assert_eq!(waiting.deadline(), Some(start + PATIENCE + Duration::from_millis(1)));
        assert_eq!(waiting.told(), None, "that was for the one who gave up");
        assert_eq!(waiting.told(), Some(Asker::Own));
        assert_eq!(waiting.told(), Some(Asker::Person(b)));
        waiting.push_own();
        assert_eq!(waiting.take_all().collect::<Vec<_>>(), [c]);
        assert_eq!((waiting.deadline(), waiting.told()), (None, None));
    }

    #[test]
    fn those_who_wait_are_few() {
        let start = Instant::now();
        let mut waiting = PendingRequests::default();
        for serial in 0..MAX_CONNECTIONS {
            assert!(waiting.has_room());
            waiting.push(Ticket::for_test(serial as u64), start);
        }
        assert!(!waiting.has_room());
    }

    #[test]
    fn a_name_has_one_before_it() {
        assert_eq!(before(&"web-12".parse().unwrap()), "web-1".parse().ok());
        assert_eq!(before(&"w".parse().unwrap()), None);
    }
}
