//! The effects of the core, which the shell carries out in order. Pure.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use common::node::text::Printable;
use common::queue::Buf;
use common::wire::key::PublicKey;
use common::wire::name::Name;
use common::wire::place::Place;
use common::wire::tunnel::Error;
use ipnetwork::IpNetwork;

use crate::ids::{MemberId, RequestId, SessionId};
use crate::lan::admission::Applicant;
use crate::lan::members::{Access, Outcome};
use crate::lan::route_table::RejectedRoute;
use crate::lan::saving::Job;
use crate::lan::subnets::Subnets;
use crate::switch::gate::TurnedAway;

pub use crate::lan::saving::Answer;

/// One action for the shell, which owns the sockets, the files and the device.
#[derive(Debug)]
pub enum Effect {
    /// Give a packet (virtio-net header and IP) to the hub's own kernel, and the buffer back by
    /// [`Core::delivered`](crate::core::Core::delivered).
    Deliver(Buf),
    /// Connect to another hub, which is reached there, and report it by
    /// [`Core::dialled`](crate::core::Core::dialled) or [`Core::not_dialled`](crate::core::Core::not_dialled).
    Dial(PublicKey, Place),
    /// Connect once more to another hub, for a lane of the link to it, and report it by
    /// [`Core::lane_dialled`](crate::core::Core::lane_dialled) or
    /// [`Core::lane_not_dialled`](crate::core::Core::lane_not_dialled).
    DialLane {
        /// Which hub.
        hub: PublicKey,
        /// The link.
        link: SessionId,
        /// By which way.
        place: Place,
        /// To which address: what the link is connected to.
        at: SocketAddr,
    },
    /// Close a session's socket. The session's id may be used again from now on.
    Close {
        /// Whose.
        session: SessionId,
        /// Whether the other end could not hear a goodbye, so that the connection is to be reset.
        is_silent: bool,
    },
    /// A session is a lane from now on: what is written to its socket goes out at once.
    Hurry(SessionId),
    /// Add a kernel route to a prefix through the LAN.
    AddRoute(IpNetwork),
    /// Remove that route.
    RemoveRoute(IpNetwork),
    /// Have the kernel route an address of the LAN through the device, or not any more: whether its member is here.
    Export(IpAddr, bool),
    /// Give the device the addresses that each hub has in these subnets, those that this one has alone, and no others.
    SetSubnets(Subnets, Vec<IpAddr>),
    /// Do a job on the files, and report it by [`Core::handle_done`](crate::core::Core::handle_done). There is never
    /// more than one job at a time.
    Save(Box<Job>),
    /// Answer a request.
    Answer(RequestId, Box<Result<Answer, String>>),
    /// An event that may be logged.
    Log(Box<Notice>),
}

/// An event. The logbook decides which ones are logged, and how.
#[derive(Debug)]
pub enum Notice {
    /// A connection was closed at once.
    TurnedAway(SocketAddr, TurnedAway),
    /// A join was refused.
    Refused {
        /// Who asked.
        who: Applicant,
        /// Where it comes from.
        source: SocketAddr,
        /// Why, in words.
        text: String,
    },
    /// Another key asked for an address of a member, which is pinged.
    Disputed(SocketAddr, Name),
    /// A key joins more often than a machine does.
    JoinsTooOften(SocketAddr, Name),
    /// Two machines use one key: this one's, at these addresses.
    Clone {
        /// The member.
        name: Name,
        /// Where the one that stays comes from.
        source: SocketAddr,
        /// Where the other one comes from.
        other: SocketAddr,
    },
    /// A machine waits at the locked hub until a person lets it in.
    Pending {
        /// The name that it would have.
        name: Name,
        /// Its key.
        key: PublicKey,
        /// Where it comes from.
        source: SocketAddr,
    },
    /// A member came.
    Joined {
        /// Its session.
        session: SessionId,
        /// Who.
        who: Who,
        /// Where it comes from.
        source: SocketAddr,
        /// Whether the hub did not know it before.
        is_new: bool,
    },
    /// A member went.
    Left {
        /// Its session.
        session: SessionId,
        /// Who.
        who: Who,
        /// Why.
        end: End,
    },
    /// A link closed whose other end was no member, or is one by another link.
    Closed {
        /// Its session.
        session: SessionId,
        /// Where it came from.
        source: SocketAddr,
        /// Whether it had proved a key.
        is_proved: bool,
        /// Why.
        end: End,
    },
    /// There is a link to this hub from now on, which is at this address.
    HubLinked(Name, SocketAddr),
    /// The link to this hub has ended, and why.
    HubLost(Name, String),
    /// This hub cannot be reached, or gives no link, and why.
    HubUnreachable(Name, String),
    /// Other hubs say that this one's membership was revoked.
    HubRevoked,
    /// The list of members says another place where this hub is reached: the former one, and the new one.
    Place(Place, Place),
    /// Who keeps the list of members from now on, since which term, and whether it is this hub.
    Keeper(String, u64, bool),
    /// The keeper tells a record that makes no sense here, and why.
    BadRecord(String),
    /// An address went to another member.
    Evicted {
        /// The address.
        address: IpAddr,
        /// Who had it.
        from: Name,
        /// Who has it.
        to: Name,
        /// Whether the loser was on the LAN, and silent.
        was_online: bool,
    },
    /// An invite was made.
    Invited(Name),
    /// A person let a machine in: its name and key.
    Allowed(Name, PublicKey),
    /// An invite was used by this member.
    InviteUsed(Name),
    /// A person ended a membership.
    NoMember(Who, Outcome),
    /// A route of a member was not taken.
    RouteRejected(IpNetwork, Name, RejectedRoute),
    /// The list of members is too long for the routes of one more.
    RoutesNotRecorded(Name),
    /// The hub's own kernel is not given a route through a member.
    KernelRouteRefused(IpNetwork, Name, &'static str),
    /// The hub's own kernel loses a route, as this spoke connects from there.
    KernelRouteCovers(IpNetwork, IpAddr),
    /// Who may join from now on; how many members there are, hubs left out.
    Access(Access, usize),
    /// The LAN has other subnets from now on.
    Renumbered(Subnets),
    /// Other access rules are in force: how many, if any, and whether anyone may join.
    Rules {
        /// How many lines decide; `None` where all may reach all.
        count: Option<usize>,
        /// Whether anyone may join.
        is_open: bool,
    },
    /// The files were read again: how many members there are, hubs left out, and how many changes in the list.
    Reloaded(usize, usize),
    /// The files were to be read again, which failed.
    ReloadFailed(String),
    /// A person had edited the list of members: it was read again.
    Edited,
    /// The files cannot be written.
    NotSaved(String),
    /// They are written again.
    SavedAgain,
}

/// A member, for a log line.
#[derive(Clone, Debug)]
pub struct Who {
    /// Its id.
    pub id: MemberId,
    /// Its name.
    pub name: Name,
    /// Its addresses, separated by commas.
    pub addresses: String,
}

/// Why a session ends.
#[derive(Debug)]
pub enum End {
    /// The other end left, or was told to go: what is queued still goes out.
    Farewell(&'static str),
    /// It was told that it may not join.
    Refused,
    /// Another one needs its place.
    Evicted,
    /// Its tunnel failed.
    Tunnel(Error),
    /// Its socket failed or was closed.
    Socket(String),
    /// Nothing is heard of it.
    Silent,
    /// It is a hub that gives this one no link, and says why.
    NotLinked(String),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Farewell(why) => f.write_str(why),
            End::Refused => f.write_str("refused"),
            End::Evicted => f.write_str("others need its place"),
            End::Tunnel(error) => error.fmt(f),
            End::Socket(why) => f.write_str(why),
            End::NotLinked(why) => Printable(why).fmt(f),
            End::Silent => f.write_str("nothing was heard of it"),
        }
    }
}
