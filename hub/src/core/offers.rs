//! Announces changes of routes to the members and to the hub's own kernel. Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Instant;

use common::packet::prefix::{is_private, is_within};
use common::wire::frame::{ControlFrame, MAX_PREFIXES, MAX_ROUTES};
use ipnetwork::IpNetwork;

use super::Core;
use crate::effect::{Effect, Notice};
use crate::ids::{MemberId, SessionId};
use crate::lan::members::Access;
use crate::lan::route_table::{Owner, RejectedRoute};
use crate::lan::routes::{RouteChange, is_told_of};

/// Most bytes of route changes that are queued at once, over all sessions.
const TELL_BYTES: usize = 32 * 1024 * 1024;
/// What a prefix takes in a frame.
const PREFIX_BYTES: usize = 20;

impl Core {
    /// These prefixes without those that take traffic from the hub's way out: packets go by the longest prefix, so who
    /// takes that way trusts the hub to choose. On an open hub anyone may offer anything.
    pub(super) fn without_ungranted(&mut self, id: MemberId, offered: &[IpNetwork]) -> Vec<IpNetwork> {
        if self.admission.access() != Access::Open {
            return offered.to_vec();
        }
        let mut kept = Vec::new();
        for &prefix in offered {
            let is_granted =
                is_private(prefix) || self.admission.members().member(id).routes.contains(&prefix);
            let way_outs = self.lan.routes.iter().filter(|&&own| !is_granted && is_within(prefix, own));
            match way_outs.max_by_key(|own| own.prefix()).copied() {
                Some(way_out) => {
                    let name = self.name(id);
                    self.note(Notice::RouteRejected(prefix, name, RejectedRoute::WayOut(way_out)));
                }
                None => kept.push(prefix),
            }
        }
        kept
    }

    /// Takes a member's offers, which has been on the LAN since then; returns the accepted prefixes.
    pub(super) fn offer_routes(&mut self, id: MemberId, since: u64, offered: &[IpNetwork]) -> Vec<IpNetwork> {
        let claim = (since, self.admission.members().member(id).key);
        let is_open = self.admission.access() == Access::Open;
        let granted = if is_open { None } else { Some(self.admission.members().member(id).routes.clone()) };
        for (prefix, why) in self.routes.offer(id, claim, offered, granted.as_deref()) {
            let name = self.name(id);
            self.note(Notice::RouteRejected(prefix, name, why));
        }
        self.record_routes(id);
        self.note_losers();
        self.routes.of(id).collect()
    }

    /// Takes in what members had to give up to who goes first.
    fn note_losers(&mut self) {
        for id in self.routes.take_losers() {
            self.record_routes(id);
        }
    }

    /// Removes all prefixes of a member that left; other members that offer them take over.
    pub(super) fn withdraw_routes(&mut self, id: MemberId) {
        self.routes.withdraw(id);
    }

    /// Sets the networks that the hub itself is in: no member may offer a route to them.
    pub fn set_hub_networks(&mut self, networks: Vec<IpNetwork>) {
        for (id, prefix, why) in self.routes.set_hub_networks(&networks) {
            let name = self.name(id);
            self.note(Notice::RouteRejected(prefix, name, why));
            self.record_routes(id);
        }
        self.lan.hub_networks = networks;
    }

    /// Tells the other hubs what a member that is here has now; of one that is elsewhere its hub tells. On an open hub the list of
    /// members says it too, beside what a person granted it: a locked one grants what it says.
    fn record_routes(&mut self, id: MemberId) {
        if self.members().member(id).session.is_none() {
            return;
        }
        self.tell_online(id);
        if self.admission.access() != Access::Open || !self.reaches_keeper() {
            return;
        }
        let has: BTreeSet<IpNetwork> = self.routes.of(id).collect();
        let written = &self.admission.members().member(id).routes;
        // In the order in which a person wrote them.
        if !(has.len() == written.len() && written.iter().all(|prefix| has.contains(prefix))) {
            let has: Vec<IpNetwork> = has.into_iter().collect();
            if !self.admission.members_mut().record_routes(id, &has) {
                let name = self.name(id);
                self.note(Notice::RoutesNotRecorded(name));
            }
        }
    }

    /// When there is something to do with routes; at once, where it is a time that has passed.
    pub(super) fn routes_deadline(&self) -> Option<Instant> {
        let now = self.time.now?;
        if self.routes.has_free() { Some(now) } else { self.routes.tell_at(now) }
    }

    /// Assigns freed prefixes to other members, and announces the changes.
    pub(super) fn handle_routes(&mut self, now: Instant) {
        for id in self.routes.give_free() {
            self.record_routes(id);
        }
        self.note_losers();
        if self.routes.tell_at(now).is_some_and(|at| at <= now) {
            self.tell_changes(now);
        }
    }

    fn tell_changes(&mut self, now: Instant) {
        let most = TELL_BYTES / (PREFIX_BYTES * self.switch.len().max(1));
        let changes = self.routes.take_changes(most.clamp(MAX_ROUTES, MAX_PREFIXES), now);
        self.set_kernel_routes(&changes);
        // The old and new owners of these prefixes get other frames than all other members.
        let owners = changes.iter().flat_map(|change| [change.before, change.now]);
        let concerned: BTreeSet<MemberId> = owners
            .filter_map(|owner| match owner {
                Some(Owner::Member(id)) => Some(id),
                Some(Owner::Hub) | None => None,
            })
            .collect();
        if let Some(frame) = frame(&changes, None) {
            self.switch.tell_members(&frame, |id| !concerned.contains(&id));
        }
        for id in concerned {
            let session = self.admission.members().get(id).and_then(|member| member.session);
            if let Some((session, frame)) = session.zip(frame(&changes, Some(id))) {
                self.switch.tell(session, &frame);
            }
        }
    }

    fn set_kernel_routes(&mut self, changes: &[RouteChange]) {
        for &RouteChange { prefix, now, .. } in changes {
            let reaches = self.routes.is_in_kernel(prefix);
            match now {
                Some(Owner::Member(id)) if !reaches => match self.check_for_kernel(prefix) {
                    Ok(()) => {
                        self.routes.set_in_kernel(prefix, true);
                        self.effects.push_back(Effect::AddRoute(prefix));
                    }
                    Err(why) => {
                        let name = self.name(id);
                        self.note(Notice::KernelRouteRefused(prefix, name, why));
                    }
                },
                None if reaches => {
                    self.routes.set_in_kernel(prefix, false);
                    self.effects.push_back(Effect::RemoveRoute(prefix));
                }
                Some(_) | None => {}
            }
        }
    }

    /// Whether the hub's own kernel may send what goes to a prefix through the LAN. Spokes choose for themselves;
    /// the hub must not lose the way to its spokes, and on an open hub anyone may offer anything.
    fn check_for_kernel(&self, prefix: IpNetwork) -> Result<(), &'static str> {
        if self.admission.access() == Access::Open && !is_private(prefix) {
            return Err("it is not private, and the hub is open");
        }
        if self.routes.has_outer_address(prefix) {
            return Err("a spoke's own connection comes from there");
        }
        Ok(())
    }

    /// Withdraws kernel routes that cover a spoke's outer address.
    pub(super) fn keep_clear_of(&mut self, outer: IpAddr) {
        for prefix in self.routes.kernel_routes_to(outer) {
            self.routes.set_in_kernel(prefix, false);
            self.note(Notice::KernelRouteCovers(prefix, outer));
            self.effects.push_back(Effect::RemoveRoute(prefix));
        }
    }

    /// The prefixes to announce to this member: those behind other members, and the hub's own.
    pub fn prefixes_behind_others(&self, own: Option<MemberId>) -> Vec<IpNetwork> {
        let others = self.routes.table().iter().filter(|&(_, owner)| is_told_of(Some(owner), own));
        others.map(|(prefix, _)| prefix).collect()
    }

    /// Announces all prefixes to a new session, except its own.
    pub(super) fn tell_all_routes(&mut self, session: SessionId, id: MemberId) {
        let others = self.routes.told().filter(|&(_, owner)| is_told_of(Some(owner), Some(id)));
        let prefixes: Vec<IpNetwork> = others.map(|(prefix, _)| prefix).collect();
        let mut parts = prefixes.chunks(MAX_PREFIXES).peekable();
        if parts.peek().is_none() {
            self.switch.tell(session, &ControlFrame::Routes { added: vec![], removed: vec![], all: true });
        }
        while let Some(part) = parts.next() {
            let all = parts.peek().is_none();
            self.switch.tell(session, &ControlFrame::Routes { added: part.to_vec(), removed: vec![], all });
        }
    }
}

/// The changes to announce to a member; empty if none concerns it.
fn frame(changes: &[RouteChange], member: Option<MemberId>) -> Option<ControlFrame> {
    let (mut added, mut removed) = (Vec::new(), Vec::new());
    for &RouteChange { prefix, before, now } in changes {
        match (is_told_of(before, member), is_told_of(now, member)) {
            (false, true) => added.push(prefix),
            (true, false) => removed.push(prefix),
            (true, true) | (false, false) => {}
        }
    }
    let is_empty = added.is_empty() && removed.is_empty();
    (!is_empty).then_some(ControlFrame::Routes { added, removed, all: true })
}
