//! The prefixes behind members: who offers what, and who is told. Pure.

use std::net::IpAddr;
use std::time::Instant;

use common::packet::prefix::{is_private, overlap};
use common::wire::frame::{ControlFrame, MAX_PREFIXES};
use ipnetwork::IpNetwork;
use log::warn;

use super::{LogKind, RouteChange, Session, Switch};
use crate::lan::members::{Access, MemberId};
use crate::lan::routes::{self, Owner};

impl Switch {
    /// Those of the offered prefixes that a member may offer.
    pub(super) fn accept_routes(
        &mut self,
        id: MemberId,
        offered: &[IpNetwork],
        now: Instant,
    ) -> Vec<IpNetwork> {
        let mut accepted: Vec<IpNetwork> = Vec::new();
        for &prefix in offered {
            let member = self.members.member(id);
            let granted = self.access == Access::Open || member.routes.contains(&prefix);
            let fit = self.routes.check(prefix, id, &self.lan.subnets, &self.lan.hub_networks);
            match if granted { fit } else { Err(routes::RejectedRoute::NotGranted) } {
                Ok(()) if !accepted.contains(&prefix) => accepted.push(prefix),
                Ok(()) => {}
                Err(unfit) if self.log_limiter.allow(LogKind::BadRoute, now) => {
                    warn!("the route {prefix} of {} is not taken: {unfit}", member.name);
                }
                Err(_) => {}
            }
        }
        if self.access == Access::Open {
            self.members.set_routes(id, &accepted);
        }
        accepted
    }

    /// Makes these the prefixes behind a member, and tells everyone else and the hub's own kernel.
    pub(super) fn set_routes(&mut self, id: MemberId, prefixes: &[IpNetwork], now: Instant) {
        let (added, removed) = self.routes.set(id, prefixes);
        if added.is_empty() && removed.is_empty() {
            return;
        }
        for &prefix in removed.iter().filter(|prefix| self.kernel_routes.remove(prefix)) {
            self.route_changes.push_back(RouteChange::Removed(prefix));
        }
        for &prefix in &added {
            if let Err(why) = self.check_for_kernel(prefix) {
                if self.log_limiter.allow(LogKind::BadRoute, now) {
                    let name = &self.members.member(id).name;
                    warn!("the hub itself does not reach {prefix} through {name}: {why}");
                }
            } else if self.kernel_routes.insert(prefix) {
                self.route_changes.push_back(RouteChange::Added(prefix));
            }
        }
        let change = ControlFrame::Routes { added, removed, all: true };
        for key in 0..self.sessions.capacity() {
            let is_other = |session: &Session| session.tunnel.is_open() && session.member != Some(id);
            if self.sessions.get(key).is_some_and(is_other) {
                self.tell(key, &change);
            }
        }
    }

    /// Whether the hub's own kernel may send what goes to a prefix through the LAN. Spokes choose for themselves;
    /// the hub must not lose the way to its spokes, and on an open hub anyone may offer anything.
    pub(super) fn check_for_kernel(&self, prefix: IpNetwork) -> Result<(), &'static str> {
        if self.access == Access::Open && !is_private(prefix) {
            return Err("it is not private, and the hub is open");
        }
        if self.sessions.iter().any(|(_, session)| prefix.contains(session.source.ip().to_canonical())) {
            return Err("a spoke's own connection comes from there");
        }
        Ok(())
    }

    /// Has the hub's own kernel no longer reach through the LAN what would hold the outer address of a spoke.
    pub(super) fn keep_clear_of(&mut self, outer: IpAddr, now: Instant) {
        let over: Vec<_> =
            self.kernel_routes.iter().copied().filter(|prefix| prefix.contains(outer)).collect();
        for prefix in over {
            self.kernel_routes.remove(&prefix);
            if self.log_limiter.allow(LogKind::BadRoute, now) {
                warn!(
                    "the hub itself no longer reaches {prefix} through the LAN: a spoke connects from {outer}"
                );
            }
            self.route_changes.push_back(RouteChange::Removed(prefix));
        }
    }

    /// Takes what others offer, now that these prefixes are free.
    pub(super) fn offer_again(&mut self, free: &[IpNetwork], now: Instant) {
        if free.is_empty() {
            return;
        }
        for key in 0..self.sessions.capacity() {
            let Some(session) = self.sessions.get(key).filter(|session| session.end.is_none()) else {
                continue;
            };
            let Some(id) = session.member else { continue };
            let has: Vec<IpNetwork> = self.routes.of(id).collect();
            let is_free = |&prefix: &IpNetwork| free.iter().any(|&free| overlap(free, prefix));
            let new =
                session.offered.iter().copied().filter(|prefix| !has.contains(prefix) && is_free(prefix));
            let wanted: Vec<IpNetwork> = has.iter().copied().chain(new).collect();
            if wanted.len() > has.len() {
                let accepted = self.accept_routes(id, &wanted, now);
                self.set_routes(id, &accepted, now);
            }
        }
    }

    /// The prefixes that all but one member are told: they are behind others, or are the hub's way out.
    pub fn prefixes_behind_others(&self, own: Option<MemberId>) -> Vec<IpNetwork> {
        let own = own.map(Owner::Member);
        self.routes.iter().filter(|&(_, owner)| Some(owner) != own).map(|(prefix, _)| prefix).collect()
    }

    /// Tells a new session all prefixes but its own.
    pub(super) fn tell_all_routes(&mut self, session: usize, id: MemberId) {
        let prefixes = self.prefixes_behind_others(Some(id));
        let mut parts = prefixes.chunks(MAX_PREFIXES).peekable();
        if parts.peek().is_none() {
            self.tell(session, &ControlFrame::Routes { added: vec![], removed: vec![], all: true });
        }
        while let Some(part) = parts.next() {
            let all = parts.peek().is_none();
            self.tell(session, &ControlFrame::Routes { added: part.to_vec(), removed: vec![], all });
        }
    }

    /// The next change to the prefixes behind members, for the hub's own kernel.
    pub fn poll_route_change(&mut self) -> Option<RouteChange> {
        self.route_changes.pop_front()
    }
}
