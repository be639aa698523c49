//! Decides which notices of the core are logged, at which level, and how often. Pure but for `log` itself.
//!
//! Lines that any remote peer can cause are limited by kind, lines that a member can cause by member: the first ones of a
//! flood are written, the others counted.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Instant;

use common::node::human::counted;
use common::node::log_limit::LogLimiter;
use common::node::text::Printable;
use log::{debug, info, warn};

use crate::effect::{End, Notice, Who};
use crate::ids::{MemberId, SessionId};
use crate::lan::admission::Applicant;
use crate::lan::members::{Access, Outcome};

/// A kind of line that any remote peer can cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LogKind {
    /// A connection was turned away.
    TurnedAway,
    /// A link closed before it joined.
    NotJoined,
    /// A join was refused.
    Refused,
    /// A machine waits to be let in.
    Pending,
    /// A member joined that the hub did not know.
    Newcomer,
    /// It left, and its join was not logged.
    NewcomerLeft,
    /// An address went to another member.
    Evicted,
    /// A route of a member was not taken.
    BadRoute,
    /// The hub's own kernel was given a route, or lost it.
    KernelRoute,
    /// The kernel's state was restored after a change by another program.
    Restored,
    /// A key joins too often.
    JoinsTooOften,
    /// Two machines have one key.
    Clone,
    /// The keeper of the list tells what makes no sense.
    BadRecord,
}

/// The log, as the core's notices reach it.
pub struct Logbook {
    /// The ports that the hub listens on, for people: `port 5678`.
    tcp_ports: String,
    /// The state directory, for people.
    state: String,
    limiter: LogLimiter<LogKind>,
    member_limiter: LogLimiter<MemberId>,
    /// Sessions of new members whose join was not logged.
    untold: HashSet<SessionId>,
}

impl Logbook {
    /// The log of a hub that listens on these ports, as people are told, and has this state directory.
    pub fn new(tcp_ports: String, state: String) -> Logbook {
        Logbook {
            tcp_ports,
            state,
            limiter: LogLimiter::default(),
            member_limiter: LogLimiter::default(),
            untold: HashSet::new(),
        }
    }

    /// Whether to write a line of this kind now.
    pub fn allow(&mut self, kind: LogKind, now: Instant) -> bool {
        self.limiter.allow(kind, now)
    }

    /// When `handle_timeout` has something to write.
    pub fn deadline(&self) -> Option<Instant> {
        [self.limiter.deadline(), self.member_limiter.deadline()].into_iter().flatten().min()
    }

    /// Writes a notice down, if it is to be.
    pub fn note(&mut self, notice: Notice, now: Instant) {
        match notice {
            Notice::TurnedAway(source, why) if self.allow(LogKind::TurnedAway, now) => {
                info!("turned {source} away: {why}");
            }
            Notice::Refused { who, source, text } if self.allow(LogKind::Refused, now) => {
                info!("{}", refused(&who, source, &text));
            }
            Notice::Pending { name, key, source } if self.allow(LogKind::Pending, now) => {
                let source = source.ip().to_canonical();
                info!("{name}, key {key}, from {source}, waits to be let in: `hub allow {name}`");
            }
            Notice::Evicted { address, from, to, was_online } if self.allow(LogKind::Evicted, now) => {
                let state = if was_online { "unresponsive" } else { "offline" };
                warn!("reassigned {address} from {from} ({state}) to {to}");
            }
            Notice::RouteRejected(prefix, name, why) if self.allow(LogKind::BadRoute, now) => {
                warn!("the route {prefix} of {name} is rejected: {why}");
            }
            Notice::KernelRouteRefused(prefix, name, why) if self.allow(LogKind::BadRoute, now) => {
                warn!("no kernel route to {prefix} through {name}: {why}");
            }
            Notice::KernelRouteCovers(prefix, outer) if self.allow(LogKind::BadRoute, now) => {
                warn!("withdrew the kernel route to {prefix} through the LAN: a spoke connects from {outer}");
            }
            Notice::RoutesNotRecorded(name) if self.allow(LogKind::BadRoute, now) => {
                warn!("the list of members is long: the routes of {name} are not recorded in it");
            }
            Notice::JoinsTooOften(source, name) if self.allow(LogKind::JoinsTooOften, now) => {
                warn!("{name} joins too often, from {source}: it has to wait");
            }
            Notice::Clone { name, source, other } if self.allow(LogKind::Clone, now) => warn!(
                "{name} is two machines with the same key, at {source} and at {other}: one has a copy of the other's \
                 state directory; the second one is kept out until the `key` in its state directory is deleted"
            ),
            Notice::BadRecord(why) if self.allow(LogKind::BadRecord, now) => {
                warn!("the keeper of the list tells what makes no sense here: {}", Printable(&why));
            }
            // One more of a kind of which there were many.
            Notice::RoutesNotRecorded(_)
            | Notice::JoinsTooOften(..)
            | Notice::Clone { .. }
            | Notice::TurnedAway(..)
            | Notice::BadRecord(_)
            | Notice::Refused { .. }
            | Notice::Pending { .. }
            | Notice::Evicted { .. }
            | Notice::RouteRejected(..)
            | Notice::KernelRouteRefused(..)
            | Notice::KernelRouteCovers(..) => {}
            Notice::Disputed(source, name) => debug!("{source} asks for an address of {name}"),
            Notice::Joined { session, who: Who { id, name, addresses }, source, is_new } => {
                // On an open hub anyone can join with any number of new keys.
                if is_new && !self.allow(LogKind::Newcomer, now) {
                    self.untold.insert(session);
                } else if self.member_limiter.allow(id, now) {
                    info!("{name} ({addresses}) is on the LAN, from {source}");
                }
            }
            Notice::Left { session, who: Who { id, name, addresses }, end } => {
                let is_told = !self.untold.remove(&session) || self.allow(LogKind::NewcomerLeft, now);
                if is_told && self.member_limiter.allow(id, now) {
                    info!("{name} ({addresses}) left the LAN: {end}");
                }
            }
            Notice::Closed { session, source, is_proved, end } => {
                self.untold.remove(&session);
                if is_proved {
                    debug!("link from {source} closed: {end}");
                } else if self.allow(LogKind::NotJoined, now) {
                    info!("link from {source} closed before it joined: {end}");
                }
            }
            // Pings have no port.
            Notice::HubLinked(name, at) if at.port() == 0 => {
                info!("linked to the hub {name}, by pings to {}", at.ip());
            }
            Notice::HubLinked(name, at) => info!("linked to the hub {name}, at {at}"),
            Notice::HubLost(name, why) => warn!("the link to the hub {name} is lost: {why}"),
            Notice::HubUnreachable(name, why) => warn!("no link to the hub {name}: {why}"),
            Notice::HubRevoked => warn!(
                "this hub's membership was revoked at another one: it sends its members to the others, and is no hub of the \
                 LAN any more"
            ),
            Notice::Place(before, place) => {
                info!(
                    "the list of members says that this hub is reached at {place}, not at {before} any more"
                )
            }
            Notice::Keeper(_, term, true) => {
                info!("this hub keeps the list of members from now on (term {term})")
            }
            Notice::Keeper(name, term, false) => info!("{name} keeps the list of members (term {term})"),
            Notice::Invited(name) => info!("{name} is invited"),
            Notice::Allowed(name, key) => info!("{name} is let in: key {key}"),
            Notice::InviteUsed(name) => info!("{name} has used its invite"),
            Notice::NoMember(Who { name, addresses, .. }, outcome) => {
                info!("{name} ({addresses}) is no longer a member: {}", why_no_member(outcome));
            }
            Notice::Access(access, members) => self.note_access(access, members),
            Notice::Renumbered(subnets) => info!("the LAN is {subnets} from now on"),
            Notice::Rules { count, is_open } => note_rules(count, is_open),
            Notice::Reloaded(members, changed) => {
                let (members, changes) = (counted(members, "member"), counted(changed, "change"));
                info!("read the files again: {members}, {changes} in the list");
            }
            Notice::ReloadFailed(text) | Notice::NotSaved(text) => warn!("{text}"),
            Notice::Edited => info!("the list of members was edited: read it again"),
            Notice::SavedAgain => info!("all changes are written to {} again", self.state),
        }
    }

    fn note_access(&self, access: Access, members: usize) {
        match access {
            Access::Open => warn!(
                "open: anyone who reaches {} can join the LAN; `hub lock` lets in only members and whom you \
                 invite",
                self.tcp_ports
            ),
            Access::Locked | Access::Invited => {
                let members = counted(members, "known member");
                info!("locked: only {members} and those with an invite can join");
            }
        }
    }

    /// Writes down how many lines were kept back. `name`: what a member is called, if it is still one.
    pub fn handle_timeout<'a>(&mut self, name: impl Fn(MemberId) -> Option<&'a str>, now: Instant) {
        while let Some((kind, count)) = self.limiter.poll(now) {
            // There are fewer kinds than a limiter tells apart.
            let Some(kind) = kind else { continue };
            let (is_warning, text) = kept_back(kind, count);
            if is_warning { warn!("{text}") } else { info!("{text}") }
        }
        while let Some((id, count)) = self.member_limiter.poll(now) {
            let times = counted(count, "more time");
            match id.map(&name) {
                Some(Some(name)) => info!("{name} joined or left the LAN {times}"),
                Some(None) => {}
                None => info!("other members joined or left the LAN {times}"),
            }
        }
    }
}

/// The line about this many of a kind that were not written, and whether it is a warning.
fn kept_back(kind: LogKind, count: u64) -> (bool, String) {
    let (is_warning, one, many, rest) = match kind {
        LogKind::TurnedAway => (false, "connection was", "connections were", "turned away"),
        LogKind::NotJoined => (false, "link", "links", "closed before joining"),
        LogKind::Refused => (false, "join request was", "join requests were", "refused"),
        LogKind::Pending => {
            (false, "machine waits", "machines wait", "to be let in: `hub pending` lists them")
        }
        LogKind::Newcomer => (false, "new member", "new members", "joined the LAN"),
        LogKind::NewcomerLeft => (false, "of the new members", "of the new members", "left the LAN"),
        LogKind::Evicted => (true, "address", "addresses", "went to another member"),
        LogKind::BadRoute => (false, "route of a member was", "routes of members were", "rejected"),
        LogKind::Restored => (true, "change by someone else was", "changes by someone else were", "undone"),
        LogKind::JoinsTooOften => (true, "join", "joins", "came too often"),
        LogKind::Clone => (true, "machine has", "machines have", "the key of another"),
        LogKind::BadRecord => (true, "record makes", "records make", "no sense here"),
        LogKind::KernelRoute => (false, "route was", "routes were", "installed or withdrawn"),
    };
    (is_warning, format!("{count} more {} {rest}", if count == 1 { one } else { many }))
}

fn note_rules(count: Option<usize>, is_open: bool) {
    match count {
        None => info!("no access rules: everyone on the LAN may reach everyone"),
        Some(count) if is_open => warn!(
            "{} in force, but anyone can join under a name and address that they allow: `hub \
             lock` lets in only members and whom you invite",
            things_are(count, "access rule")
        ),
        Some(count) => info!("{} in force", things_are(count, "access rule")),
    }
}

/// A number of things with their verb: `1 rule is`, `2 rules are`.
fn things_are(count: usize, what: &str) -> String {
    format!("{} {}", counted(count, what), if count == 1 { "is" } else { "are" })
}

/// The line about a join that was refused.
fn refused(who: &Applicant, source: SocketAddr, text: &str) -> String {
    let name = who.name.as_ref().map_or(String::new(), |name| format!("{name}, "));
    format!("refused {name}key {}, from {}: {text}", who.key, source.ip().to_canonical())
}

/// Why a person's change ended a membership.
fn why_no_member(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Revoked => "its membership was revoked",
        Outcome::Removed => "it was taken off the list of members",
        Outcome::Changed | Outcome::Tagged => "its line in the list of members was changed",
    }
}

impl From<Outcome> for End {
    /// Why the link of a member ends that a person has changed.
    fn from(outcome: Outcome) -> End {
        End::Farewell(why_no_member(outcome))
    }
}

#[cfg(test)]
mod tests {
    use common::wire::key::PrivateKey;

    use super::*;

    #[test]
    fn one_line_that_was_kept_back_is_one() {
        assert_eq!(
            kept_back(LogKind::Pending, 2).1,
            "2 more machines wait to be let in: `hub pending` lists them"
        );
        assert_eq!(kept_back(LogKind::Clone, 1), (true, "1 more machine has the key of another".to_owned()));
        assert_eq!(things_are(1, "access rule"), "1 access rule is");
    }

    #[test]
    fn a_refusal_names_who_asked() {
        let key = PrivateKey::from_random([1; 32]).public();
        let source = "[::ffff:192.0.2.12]:44914".parse().unwrap();
        let nas = Applicant { key, name: "nas".parse().ok() };
        assert_eq!(
            refused(&nas, source, "no room"),
            format!("refused nas, key {key}, from 192.0.2.12: no room")
        );
        assert_eq!(
            refused(&Applicant { key, name: None }, source, "no sense"),
            format!("refused key {key}, from 192.0.2.12: no sense")
        );
    }
}
