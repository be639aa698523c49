//! The effects of the spoke's core, which the shell carries out. Pure.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use common::node::request::Ticket;
use common::node::text::Printable;
use common::node::way::Way;
use common::queue::Buf;
use common::wire::frame::{Peer, Refusal};
use common::wire::key::PublicKey;
use common::wire::name::Name;
use common::wire::place::Place;
use common::wire::target::Target;
use ipnetwork::IpNetwork;
use log::Level;

use super::advice;
use super::grant::RejectedConfig;
use super::routes::{RouteMode, Skip};
use crate::control::Page;

/// Which connection is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// The one that the link goes by, or will go by.
    Link,
    /// One that is tried beside a link, or for one; by its slot, below [`MAX_TRIALS`].
    Trial(usize),
}

impl Attempt {
    /// All that there can be.
    pub const ALL: [Attempt; 1 + MAX_TRIALS] =
        [Attempt::Link, Attempt::Trial(0), Attempt::Trial(1), Attempt::Trial(2)];
}

/// Most connections that are tried at once.
pub const MAX_TRIALS: usize = 3;

/// One action for the shell, which carries them out in order.
#[derive(Debug)]
pub enum Effect {
    /// Look a name up, if it is one; answer by `handle_resolved`, or by `handle_trial`.
    Resolve {
        /// For which connection.
        attempt: Attempt,
        /// Name or address, without brackets: the hub's, or the proxy's.
        host: String,
        /// TCP port.
        port: u16,
    },
    /// Connect to the first of these that answers, and set up what is around the tunnel; answer by `handle_connected`,
    /// `handle_unreachable` or `handle_not_opened`, or by `handle_trial`.
    Dial {
        /// For which connection.
        attempt: Attempt,
        /// What to speak there.
        way: Way,
        /// The hub's, or the proxy's.
        addresses: Vec<SocketAddr>,
        /// Largest segment to send and to ask for, in bytes with TCP's options; the kernel's choice without one.
        segment: Option<u16>,
        /// Whether to give up soon, as there are other ways to try.
        is_hasty: bool,
    },
    /// Close the link's connection, by a reset where the other end could not hear a goodbye.
    Close {
        /// Whether to reset it.
        reset: bool,
    },
    /// Close the connection that is tried in this slot, or stop trying.
    GiveUp(usize),
    /// The connection in this slot is a lane from now on: what is written to it goes out at once.
    Hurry(usize),
    /// Have the kernel ask the hub's kernel each second whether it is there, by the link's connection, or never; answer
    /// by `handle_asked`.
    AskKernel(bool),
    /// The connection that was tried in this slot is the link's from now on.
    Switch(usize),
    /// Write down that the hub has this key, by these of its names; answer by `handle_remembered`.
    Remember(PublicKey, Vec<Target>),
    /// Write down for which hubs the hub vouches: all of them.
    RememberHubs(Vec<(Place, PublicKey)>),
    /// Write down which way worked in which network: the whole text of `ways`.
    RememberWays(String),
    /// Give the device exactly these addresses and this MTU; answer by `handle_configured`.
    Configure {
        /// With the prefix length of the LAN.
        addresses: Vec<IpNetwork>,
        /// In bytes.
        mtu: u32,
    },
    /// Have exactly these routes through the device.
    SetRoutes {
        /// Each prefix, and how it is reached.
        routes: BTreeMap<IpNetwork, RouteMode>,
        /// Outer addresses of the hub, which are never reached through the device.
        hub: Vec<IpAddr>,
    },
    /// Give a packet to the kernel, and its buffer back by `recycle`.
    Deliver(Buf),
    /// The list of members, whole.
    Members(Vec<Peer>),
    /// Answer a person.
    Answer(Ticket, Result<Page, String>),
    /// Write to the log.
    Log(Notice),
    /// End the process.
    Exit(Error),
}

/// Why the spoke may not be on the LAN. Its text says what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The hub refused us.
    Refused(Refusal, String),
    /// The hub grants what must not be put on the device.
    RejectedConfig(RejectedConfig),
    /// The device cannot be what the hub grants.
    Device(String),
    /// The hub proved another key than the one it had before.
    KeyChanged {
        /// The hub, as it was named.
        hub: String,
        /// The key that we know.
        known: PublicKey,
        /// The key that it has now.
        seen: PublicKey,
        /// Where the known key came from.
        pinned_in: Option<PathBuf>,
    },
}

impl Error {
    /// Whether to start again with the same settings would end the same way.
    pub fn is_final(&self) -> bool {
        match self {
            Error::Refused(Refusal::AddressHeld | Refusal::Full, _) => false,
            Error::Refused(..) => true,
            // Who is in between may be gone in another network.
            Error::KeyChanged { .. } | Error::RejectedConfig(_) | Error::Device(_) => false,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Refused(_, text) => write!(f, "the hub refused this spoke: {}", Printable(text)),
            Error::RejectedConfig(rejected) => write!(f, "rejected the hub's configuration: {rejected}"),
            Error::Device(why) => f.write_str(why),
            Error::KeyChanged { hub, known, seen, pinned_in } => {
                write!(
                    f,
                    "the hub at {hub} has key {seen}, not {known}: someone may be in between, or it was "
                )?;
                match pinned_in {
                    Some(path) => write!(
                        f,
                        "set up anew; compare with the key that the hub prints at start, and if it is the same \
                         run with --hub-key {seen} once, or delete its line in {}",
                        path.display()
                    ),
                    None => f.write_str("set up anew; give --hub-key the key that the hub prints at start"),
                }
            }
        }
    }
}

impl std::error::Error for Error {}

/// A line of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// An attempt failed, or a link was lost.
    Failed(String),
    /// A second connection carries what is small.
    LaneOpen,
    /// It is closed, or could not be opened.
    LaneClosed(String),
    /// One of several ways to the hub does not work.
    WayFailed(String),
    /// It fails for the same reason again and again.
    FailedAgain(String, usize),
    /// On the LAN.
    OnLan {
        /// The own addresses.
        addresses: Vec<IpAddr>,
        /// The own name.
        name: Name,
        /// The hub's outer address, or that of the proxy before it.
        hub: SocketAddr,
        /// The proxy.
        proxy: Option<String>,
    },
    /// The hub gave another address than the wanted one: the LAN has other subnets than before.
    AddressMoved {
        /// The address that was asked for.
        wanted: IpAddr,
        /// The address that this spoke has.
        given: IpAddr,
    },
    /// The hub gave another name than the wanted one, which is taken.
    NameTaken {
        /// The name that was asked for.
        wanted: Name,
        /// The name that this spoke has.
        given: Name,
    },
    /// The hub does not take a network that this spoke offers.
    OfferRefused(IpNetwork),
    /// The hub tells more prefixes than are taken.
    TooManyRoutes(usize),
    /// A prefix holds the hub itself.
    RouteAroundHub(IpNetwork),
    /// A prefix is rejected.
    RouteSkipped(IpNetwork, Skip),
    /// This spoke goes to another hub: from which one, and why.
    Leaving(String, &'static str),
    /// Full packets get lost on the way to the hub: segments of so many bytes are used from now on.
    SmallSegments(u16),
    /// The hub's key is written down.
    HubRemembered {
        /// The hub.
        hub: Target,
        /// Its key.
        key: PublicKey,
    },
    /// It is not.
    HubNotRemembered(String),
    /// A person at the hub has to let this spoke in.
    Pending(String),
    /// The process ends.
    Stopping,
}

impl Notice {
    /// The kind of line, where others on the LAN can provoke any number of them, and what is said of those that were
    /// kept back.
    pub fn provoked(&self) -> Option<&'static str> {
        match self {
            Notice::RouteSkipped(..) => Some("routes are not taken"),
            Notice::RouteAroundHub(_) => Some("routes hold the hub itself"),
            Notice::TooManyRoutes(_) => Some("announcements of routes were too long"),
            Notice::LaneOpen => Some("second connections were opened"),
            Notice::Failed(_)
            | Notice::LaneClosed(_)
            | Notice::WayFailed(_)
            | Notice::FailedAgain(..)
            | Notice::OnLan { .. }
            | Notice::OfferRefused(_)
            | Notice::NameTaken { .. }
            | Notice::AddressMoved { .. }
            | Notice::Leaving(..)
            | Notice::SmallSegments(_)
            | Notice::HubRemembered { .. }
            | Notice::HubNotRemembered(_)
            | Notice::Pending(_)
            | Notice::Stopping => None,
        }
    }

    /// How important the line is.
    pub fn level(&self) -> Level {
        match self {
            Notice::Failed(_)
            | Notice::FailedAgain(..)
            | Notice::NameTaken { .. }
            | Notice::AddressMoved { .. }
            | Notice::OfferRefused(_)
            | Notice::TooManyRoutes(_)
            | Notice::SmallSegments(_)
            | Notice::RouteAroundHub(_)
            | Notice::Pending(_)
            | Notice::HubNotRemembered(_) => Level::Warn,
            Notice::LaneClosed(_) => Level::Debug,
            Notice::OnLan { .. }
            | Notice::LaneOpen
            | Notice::WayFailed(_)
            | Notice::Leaving(..)
            | Notice::RouteSkipped(..)
            | Notice::HubRemembered { .. }
            | Notice::Stopping => Level::Info,
        }
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Notice::Failed(why) => write!(f, "{why}; trying again until it works"),
            Notice::WayFailed(why) => f.write_str(why),
            Notice::LaneOpen => f.write_str(
                "packets are lost on the long way to the hub: what sends little has a second connection",
            ),
            Notice::LaneClosed(why) => write!(f, "no second connection: {}", Printable(why)),
            Notice::FailedAgain(why, count) => write!(f, "{why} (tried {count} times)"),
            Notice::OnLan { addresses, name, hub, proxy } => {
                let own: Vec<String> = addresses.iter().map(ToString::to_string).collect();
                write!(f, "on the LAN as {} ({name}), through ", own.join(" and "))?;
                match proxy {
                    Some(proxy) => write!(f, "the proxy {proxy}"),
                    // Pings have no port.
                    None if hub.port() == 0 => write!(f, "pings to {}", hub.ip()),
                    None => write!(f, "{hub}"),
                }
            }
            Notice::AddressMoved { wanted, given } => {
                write!(
                    f,
                    "the LAN has other addresses now: this machine is {given} in place of {wanted}, so write --ip {given}"
                )
            }
            Notice::NameTaken { wanted, given } => f.write_str(&advice::name_taken(wanted, given)),
            Notice::OfferRefused(route) => f.write_str(&advice::route_rejected(*route, "")),
            Notice::TooManyRoutes(most) => {
                write!(f, "the hub announces more than {most} routes: the others are ignored")
            }
            Notice::RouteAroundHub(prefix) => {
                write!(f, "route {prefix} holds the hub itself: the tunnel goes around it")
            }
            Notice::RouteSkipped(prefix, skip) => write!(f, "route {prefix} is rejected: {skip}"),
            Notice::Leaving(hub, why) => write!(f, "leaving the hub {hub} for another one: {why}"),
            Notice::SmallSegments(segment) => f.write_str(&small_segments(*segment)),
            Notice::HubRemembered { hub, key } => {
                write!(f, "the hub at {hub} has key {key}; it is remembered")
            }
            Notice::HubNotRemembered(why) => {
                write!(f, "{why}; until then the hub's key is not remembered when the spoke ends")
            }
            Notice::Pending(text) => f.write_str(text),
            Notice::Stopping => f.write_str("stopping"),
        }
    }
}

/// What a person is told about a path that loses full packets.
pub(super) fn small_segments(segment: u16) -> String {
    format!("the path to the hub drops large packets in silence: using segments of {segment} bytes")
}
