//! Requests to the spoke through its control socket, and the answers. Pure.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use common::node::lane_status::LaneStatus;
use common::packet::drops::Drops;
use common::wire::frame::Peer;
use common::wire::key::PublicKey;
use common::wire::name::Name;
use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

pub use common::wire::tunnel::Traffic;

/// How long the hub may take to tell its members.
pub const PATIENCE: Duration = Duration::from_secs(2);
/// Most members that are taken from the hub, which may tell of them without end.
pub const MAX_MEMBERS: usize = 140_000;

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

/// What the program tells about itself.
#[derive(Clone, Debug)]
pub struct About {
    /// Its device.
    pub device: String,
    /// When it started.
    pub started_at: Instant,
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
    /// The hub, as the command line names it; where there are several, the one that it is at, or tries.
    pub hub: String,
    /// The ways to it, in the order in which they are tried.
    #[serde(default)]
    pub ways: Vec<WayStatus>,
    /// The hubs of the LAN, where there are several.
    #[serde(default)]
    pub hubs: Vec<HubStatus>,
    /// Its key, once it is known.
    pub hub_key: Option<PublicKey>,
    /// `on-lan`, `pending`, `joining`, `connecting`, `looking-up` or `waiting`.
    pub phase: String,
    /// For how long it has not been on the LAN, while it is not.
    #[serde(default)]
    pub off_seconds: Option<u64>,
    /// Why the last try ended, while there is no link.
    pub trouble: Option<String>,
    /// What the kernel does not have as it should be, and why; a line each.
    #[serde(default)]
    pub problems: Vec<String>,
    /// The zone of names that it answers for, if it does.
    #[serde(default)]
    pub zone: Option<String>,
    /// The link, while this spoke is on the LAN.
    pub link: Option<LinkStatus>,
    /// Packets that were dropped since the spoke started, by reason.
    pub drops: BTreeMap<String, u64>,
    /// The members by name, this one too: filled in by the command, which asks for them page by page.
    #[serde(default)]
    pub members: Vec<MemberStatus>,
}

/// A hub of the LAN.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HubStatus {
    /// Its key.
    pub key: PublicKey,
    /// The ways to it.
    pub ways: Vec<String>,
    /// The last round trip: of the link, or of the last handshake; unknown where it did not answer.
    pub round_trip_ms: Option<f64>,
    /// For how long this spoke has been on the LAN through it; none if it is not.
    pub since_seconds: Option<u64>,
}

/// A way to the hub.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WayStatus {
    /// The hub, what carries the tunnel, and the proxy.
    pub way: String,
    /// Whether it is in use, or tried now or next.
    pub is_current: bool,
    /// Why it did not work the last time, if that is so.
    pub answer: Option<String>,
}

/// How the link stands. Counts begin with the link.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LinkStatus {
    /// For how long this spoke is on the LAN.
    pub seconds: u64,
    /// What this spoke is connected to: the hub's outer address, or that of the proxy before it.
    pub hub_address: SocketAddr,
    /// The way that the link goes: the hub, what carries the tunnel, and the proxy.
    #[serde(default)]
    pub way: String,
    /// The last round trip.
    pub round_trip_ms: Option<f64>,
    /// Packets and bytes from the hub.
    pub received: Traffic,
    /// Packets and bytes to the hub.
    pub sent: Traffic,
    /// Bytes that wait to be sent.
    pub queue_bytes: usize,
    /// The second connection, while there is one; what went by that is in the counts above.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lane: Option<LaneStatus>,
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

/// What a person is told who asks the hub through a spoke that has no link.
pub const NOT_ON_LAN: &str = "this spoke is not on the LAN now";
/// What a person is told whom the hub does not answer within [`PATIENCE`].
pub const NO_ANSWER: &str = "the hub did not answer within 2 s";
const _: () = assert!(PATIENCE.as_secs() == 2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_one_before_it() {
        assert_eq!(before(&"web-12".parse().unwrap()), "web-1".parse().ok());
        assert_eq!(before(&"w".parse().unwrap()), None);
    }
}
