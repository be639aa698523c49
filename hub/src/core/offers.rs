//! What lies behind members: what routes say, told to the members and to the hub's own kernel. Pure.

use std::net::IpAddr;

use common::packet::prefix::is_private;
use common::wire::frame::{ControlFrame, MAX_PREFIXES};
use ipnetwork::IpNetwork;

use super::Core;
use crate::effect::{Effect, Notice};
use crate::ids::{MemberId, SessionId};
use crate::lan::members::Access;
use crate::lan::route_table::Owner;

impl Core {
    /// Takes what a member offers, as far as it may; returns what is accepted.
    pub(super) fn accept_routes(&mut self, id: MemberId, offered: &[IpNetwork]) -> Vec<IpNetwork> {
        self.routes.set_offers(id, offered);
        self.check_routes(id, offered)
    }

    /// Those of these prefixes that a member may offer.
    fn check_routes(&mut self, id: MemberId, offered: &[IpNetwork]) -> Vec<IpNetwork> {
        let is_open = self.admission.access() == Access::Open;
        let member = self.admission.members().member(id);
        let granted = if is_open { None } else { Some(member.routes.as_slice()) };
        let (accepted, rejected) = self.routes.check(id, offered, granted);
        for (prefix, why) in rejected {
            let name = self.name(id);
            self.note(Notice::RouteRejected(prefix, name, why));
        }
        if is_open {
            self.admission.members_mut().set_routes(id, &accepted);
        }
        accepted
    }

    /// Makes these the prefixes behind a member, and tells everyone else and the hub's own kernel.
    pub(super) fn set_routes(&mut self, id: MemberId, prefixes: &[IpNetwork]) {
        let (added, removed) = self.routes.set(id, prefixes);
        if added.is_empty() && removed.is_empty() {
            return;
        }
        for &prefix in &removed {
            if self.routes.leave_kernel(prefix) {
                self.effects.push_back(Effect::RemoveRoute(prefix));
            }
        }
        for &prefix in &added {
            if let Err(why) = self.check_for_kernel(prefix) {
                let name = self.name(id);
                self.note(Notice::KernelRouteRefused(prefix, name, why));
            } else if self.routes.enter_kernel(prefix) {
                self.effects.push_back(Effect::AddRoute(prefix));
            }
        }
        self.switch.tell_all_but(id, &ControlFrame::Routes { added, removed, all: true });
    }

    /// Takes all prefixes away from a member that left, and gives them to who else offers them.
    pub(super) fn withdraw_routes(&mut self, id: MemberId) {
        let left: Vec<IpNetwork> = self.routes.of(id).collect();
        self.routes.set_offers(id, &[]);
        self.set_routes(id, &[]);
        if left.is_empty() {
            return;
        }
        for (id, wanted) in self.routes.candidates(&left) {
            let accepted = self.check_routes(id, &wanted);
            self.set_routes(id, &accepted);
        }
    }

    /// The networks that the hub itself is in now: what lies in one that is new is not reached through a member any
    /// more, and what lay in one that is gone may be.
    pub fn set_hub_networks(&mut self, networks: Vec<IpNetwork>) {
        if !self.routes.set_hub_networks(networks) {
            return;
        }
        let offers: Vec<(MemberId, Vec<IpNetwork>)> =
            self.routes.offers().map(|(id, offered)| (id, offered.to_vec())).collect();
        for (id, offered) in offers {
            let accepted = self.check_routes(id, &offered);
            self.set_routes(id, &accepted);
        }
    }

    /// Whether the hub's own kernel may send what goes to a prefix through the LAN. Spokes choose for themselves;
    /// the hub must not lose the way to its spokes, and on an open hub anyone may offer anything.
    fn check_for_kernel(&self, prefix: IpNetwork) -> Result<(), &'static str> {
        if self.admission.access() == Access::Open && !is_private(prefix) {
            return Err("it is not private, and the hub is open");
        }
        if self.switch.any_source(|source| prefix.contains(source)) {
            return Err("a spoke's own connection comes from there");
        }
        Ok(())
    }

    /// Withdraws kernel routes that cover a spoke's outer address.
    pub(super) fn keep_clear_of(&mut self, outer: IpAddr) {
        for prefix in self.routes.kernel_routes_to(outer) {
            self.routes.leave_kernel(prefix);
            self.note(Notice::KernelRouteCovers(prefix, outer));
            self.effects.push_back(Effect::RemoveRoute(prefix));
        }
    }

    /// The prefixes that all but one member are told: they are behind others, or are the hub's way out.
    pub fn prefixes_behind_others(&self, own: Option<MemberId>) -> Vec<IpNetwork> {
        let own = own.map(Owner::Member);
        self.routes
            .table()
            .iter()
            .filter(|&(_, owner)| Some(owner) != own)
            .map(|(prefix, _)| prefix)
            .collect()
    }

    /// Tells a new session all prefixes but its own.
    pub(super) fn tell_all_routes(&mut self, session: SessionId, id: MemberId) {
        let prefixes = self.prefixes_behind_others(Some(id));
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
