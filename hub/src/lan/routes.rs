//! Routes: the prefixes that members offer, that they are granted, that were announced, and that the hub's own kernel
//! has. Pure.
//!
//! The cost of a change is in proportion to the overlapping prefixes. A change affects packets at once. Announcements are
//! batched: the first at once, later ones together, once every [`TELL_EVERY`], so that flapping routes cost the other
//! members little.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap, VecDeque, hash_map};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use common::wire::key::PublicKey;
use ipnetwork::IpNetwork;

use crate::ids::MemberId;
use crate::lan::Lan;
use crate::lan::exports::Exports;
use crate::lan::prefix_map::{PrefixMap, truncated};
use crate::lan::route_table::{Owner, RejectedRoute, RouteTable};
use crate::lan::subnets::Subnets;

/// The least time between two announcements.
pub const TELL_EVERY: Duration = Duration::from_millis(500);
/// Offers that are looked at in one go, now that something is free.
const MAX_LOOKS: usize = 1_000;

/// The prefixes behind members, and behind the hub.
pub struct Routes {
    table: RouteTable,
    subnets: Subnets,
    /// Networks that the hub itself is in.
    hub_networks: Vec<IpNetwork>,
    offers: Offers,
    /// Those of all members that offer something, or have it.
    claims: HashMap<MemberId, Claim>,
    /// Members that had to give something up to who goes first.
    losers: Vec<MemberId>,
    /// The prefixes behind members that the hub's own kernel reaches.
    kernel: PrefixMap<()>,
    /// Where links come from, and how many of them: the kernel has to reach that outside of the LAN.
    outer: BTreeMap<IpAddr, usize>,
    changes: Changes,
    /// The routes to members themselves, where the hub's own kernel is to have them.
    pub(crate) exports: Option<Exports>,
}

/// Who goes first of those who offer the same: since when it has been on the LAN, in Unix milliseconds by the hub where it
/// came, and its key. Every hub has the same order.
pub type Claim = (u64, PublicKey);

/// What members on the LAN offer that is not accepted, as it is another's for now.
#[derive(Default)]
struct Offers {
    /// Those who offer a prefix, in their order.
    by_prefix: PrefixMap<BTreeMap<Claim, MemberId>>,
    by_member: HashMap<MemberId, (Claim, Vec<IpNetwork>)>,
    /// What came free, and has not been given to who offers it.
    free: VecDeque<IpNetwork>,
}

/// Changes that are not announced yet.
#[derive(Default)]
struct Changes {
    /// The prefixes that changed, the first one first, with what was told of them last.
    order: VecDeque<IpNetwork>,
    told: HashMap<IpNetwork, Option<Owner>>,
    told_at: Option<Instant>,
}

/// A prefix that is another one's now than was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteChange {
    /// The prefix.
    pub prefix: IpNetwork,
    /// Whose it was.
    pub before: Option<Owner>,
    /// Whose it is.
    pub now: Option<Owner>,
}

/// Whether someone is told of a prefix whose owner is this: nobody is told of its own.
pub fn is_told_of(owner: Option<Owner>, member: Option<MemberId>) -> bool {
    owner.is_some() && owner != member.map(Owner::Member)
}

impl Routes {
    /// The routes of a LAN that nobody is on.
    pub fn new(lan: &Lan) -> Routes {
        let mut routes = Routes {
            table: RouteTable::new(&lan.routes),
            subnets: lan.subnets,
            hub_networks: Vec::new(),
            offers: Offers::default(),
            claims: HashMap::new(),
            losers: Vec::new(),
            kernel: PrefixMap::default(),
            outer: BTreeMap::new(),
            changes: Changes::default(),
            exports: None,
        };
        routes.set_hub_networks(&lan.hub_networks);
        routes
    }

    /// Who forwards to what.
    pub fn table(&self) -> &RouteTable {
        &self.table
    }

    /// The prefixes of one member.
    pub fn of(&self, id: MemberId) -> impl Iterator<Item = IpNetwork> {
        self.table.of(id)
    }

    // ---- what members offer

    /// Makes what a member offers its prefixes, as far as it may have them, and notes the others that it may have once
    /// they are free; tells which are rejected. `granted`: what the list of members grants it, where that counts. Who
    /// has one and goes behind this member is one of `take_losers` then.
    pub fn offer(
        &mut self,
        id: MemberId,
        claim: Claim,
        offered: &[IpNetwork],
        granted: Option<&[IpNetwork]>,
    ) -> Vec<(IpNetwork, RejectedRoute)> {
        self.offers.forget(id);
        self.claims.insert(id, claim);
        let (mut accepted, mut waiting, mut rejected) = (Vec::new(), Vec::new(), Vec::new());
        for &prefix in offered {
            let checked = match granted {
                Some(granted) if !granted.contains(&prefix) => Err(RejectedRoute::NotGranted),
                Some(_) | None => self.win(prefix, id),
            };
            match checked {
                Ok(()) if !accepted.contains(&prefix) => accepted.push(prefix),
                Ok(()) => {}
                Err(why) => {
                    if matches!(why, RejectedRoute::Taken(_) | RejectedRoute::HubNetwork(_)) {
                        waiting.push(prefix);
                    }
                    rejected.push((prefix, why));
                }
            }
        }
        let had: Vec<IpNetwork> = self.of(id).filter(|prefix| !accepted.contains(prefix)).collect();
        had.iter().for_each(|&prefix| self.remove(prefix));
        for prefix in accepted {
            if self.table.get(prefix).is_none() {
                self.add(prefix, id);
            }
        }
        self.note(id, waiting);
        rejected
    }

    /// Takes everything away from a member that left.
    pub fn withdraw(&mut self, id: MemberId) {
        self.offers.forget(id);
        let left: Vec<IpNetwork> = self.of(id).collect();
        left.iter().for_each(|&prefix| self.remove(prefix));
        self.claims.remove(&id);
    }

    /// Takes out the members that had to give something up to who goes first.
    pub fn take_losers(&mut self) -> Vec<MemberId> {
        std::mem::take(&mut self.losers)
    }

    /// Notes prefixes that a member offers, and does not have.
    fn note(&mut self, id: MemberId, prefixes: Vec<IpNetwork>) {
        if let Some(&claim) = self.claims.get(&id) {
            self.offers.note(id, claim, prefixes);
        }
    }

    /// Whether a member may have a prefix. Those who have something of it and go behind it give that up.
    fn win(&mut self, prefix: IpNetwork, id: MemberId) -> Result<(), RejectedRoute> {
        let checked = self.check(prefix, id);
        let Err(RejectedRoute::Taken(_)) = checked else { return checked };
        let others = self.table.overlapping(prefix).filter(|&(_, other)| other != id);
        let others: Vec<(IpNetwork, MemberId)> = others.collect();
        let claim = self.claims.get(&id);
        if others.is_empty() || others.iter().any(|(_, other)| self.claims.get(other) <= claim) {
            return checked;
        }
        for (taken, other) in others {
            self.remove(taken);
            self.note(other, vec![taken]);
            self.losers.push(other);
        }
        self.check(prefix, id)
    }

    /// Says which networks the hub itself is in: what overlaps one is no member's from now on, and what lay in one that
    /// is gone may be. Returns what members lose to that, and to which network.
    pub fn set_hub_networks(&mut self, networks: &[IpNetwork]) -> Vec<(MemberId, IpNetwork, RejectedRoute)> {
        // Another address in the same network changes nothing.
        let mut networks: Vec<IpNetwork> =
            networks.iter().filter_map(|network| truncated(network.ip(), network.prefix())).collect();
        networks.sort_unstable();
        networks.dedup();
        let before = std::mem::replace(&mut self.hub_networks, networks);
        let mut lost = Vec::new();
        for network in self.hub_networks.clone() {
            let over: Vec<_> = self.table.overlapping(network).collect();
            for (prefix, id) in over {
                self.remove(prefix);
                self.note(id, vec![prefix]);
                lost.push((id, prefix, RejectedRoute::HubNetwork(network)));
            }
        }
        let gone = before.into_iter().filter(|network| !self.hub_networks.contains(network));
        self.offers.free.extend(gone);
        lost
    }

    /// Gives what came free to those who offer it, the first ones first, as far as that is not too much at once;
    /// returns the members that got something.
    pub fn give_free(&mut self) -> Vec<MemberId> {
        let (mut looks, mut winners) = (0, Vec::new());
        while looks < MAX_LOOKS
            && let Some(free) = self.offers.free.pop_front()
        {
            let mut candidates: Vec<(Claim, MemberId, IpNetwork)> = Vec::new();
            for (prefix, by) in self.offers.by_prefix.overlapping(free) {
                // Of those who offer the same, one more than the first cannot have it.
                candidates.extend(by.iter().next().map(|(&claim, &id)| (claim, id, prefix)));
                looks += 1;
                if candidates.len() >= MAX_LOOKS {
                    break;
                }
            }
            candidates.sort_unstable();
            for (_, id, prefix) in candidates {
                if self.win(prefix, id).is_ok() {
                    self.offers.take(id, prefix);
                    self.add(prefix, id);
                    winners.push(id);
                }
            }
        }
        winners.sort_unstable();
        winners.dedup();
        winners
    }

    /// Whether there is something for `give_free` to do.
    pub fn has_free(&self) -> bool {
        !self.offers.free.is_empty()
    }

    /// Sets the LAN's own prefixes; to be called while nobody is on it, as offers are not looked at again.
    pub fn set_subnets(&mut self, subnets: Subnets) {
        self.subnets = subnets;
    }

    fn check(&self, prefix: IpNetwork, id: MemberId) -> Result<(), RejectedRoute> {
        self.table.check(prefix, id, &self.subnets, &self.hub_networks)
    }

    fn add(&mut self, prefix: IpNetwork, id: MemberId) {
        self.changes.note(prefix, None);
        self.table.add(prefix, id);
    }

    fn remove(&mut self, prefix: IpNetwork) {
        self.changes.note(prefix, self.table.get(prefix));
        self.table.remove(prefix);
        self.offers.free.push_back(prefix);
    }

    // ---- what is told

    /// When changes are announced; a time that has passed means at once.
    pub fn tell_at(&self, now: Instant) -> Option<Instant> {
        let earliest = self.changes.told_at.map_or(now, |at| at + TELL_EVERY);
        (!self.changes.order.is_empty()).then_some(earliest)
    }

    /// The next changes to announce, at most `most`; the others follow in the next call.
    pub fn take_changes(&mut self, most: usize, now: Instant) -> Vec<RouteChange> {
        self.changes.told_at = Some(now);
        let mut changes = Vec::new();
        while changes.len() < most
            && let Some(prefix) = self.changes.order.pop_front()
        {
            let before = self.changes.told.remove(&prefix).flatten();
            let now = self.table.get(prefix);
            if before != now {
                changes.push(RouteChange { prefix, before, now });
            }
        }
        changes
    }

    /// All prefixes as they were last told, with their owners: what is told to who comes now, so that later changes
    /// are changes to it too.
    pub fn told(&self) -> impl Iterator<Item = (IpNetwork, Owner)> {
        let unchanged = self.table.iter().filter(|(prefix, _)| !self.changes.told.contains_key(prefix));
        let changed = self.changes.told.iter().filter_map(|(&prefix, &owner)| Some((prefix, owner?)));
        unchanged.chain(changed)
    }

    // ---- the hub's own kernel

    /// Whether the kernel reaches a prefix.
    pub fn is_in_kernel(&self, prefix: IpNetwork) -> bool {
        self.kernel.get(prefix).is_some()
    }

    /// Notes that the kernel is to reach a prefix from now on, or no longer.
    pub fn set_in_kernel(&mut self, prefix: IpNetwork, reaches: bool) {
        if reaches {
            self.kernel.insert(prefix, ());
        } else {
            self.kernel.remove(prefix);
        }
    }

    /// Notes that a link comes from this address.
    pub fn enter(&mut self, outer: IpAddr) {
        *self.outer.entry(outer.to_canonical()).or_default() += 1;
    }

    /// Notes that a link from this address is gone.
    pub fn leave(&mut self, outer: IpAddr) {
        if let Entry::Occupied(mut links) = self.outer.entry(outer.to_canonical()) {
            *links.get_mut() -= 1;
            if *links.get() == 0 {
                links.remove();
            }
        }
    }

    /// Whether a link comes from within this prefix.
    pub fn has_outer_address(&self, prefix: IpNetwork) -> bool {
        self.outer.range(prefix.network()..=prefix.broadcast()).next().is_some()
    }

    /// The prefixes by which the kernel would reach an address.
    pub fn kernel_routes_to(&self, address: IpAddr) -> Vec<IpNetwork> {
        let host = truncated(address, if address.is_ipv4() { 32 } else { 128 });
        let holding = host.into_iter().flat_map(|host| self.kernel.overlapping(host));
        holding.map(|(prefix, ())| prefix).collect()
    }
}

impl Offers {
    /// Adds prefixes to what a member offers.
    fn note(&mut self, id: MemberId, claim: Claim, prefixes: Vec<IpNetwork>) {
        if prefixes.is_empty() {
            return;
        }
        let (claim, own) = self.by_member.entry(id).or_insert_with(|| (claim, Vec::new()));
        for prefix in prefixes {
            match self.by_prefix.get_mut(prefix) {
                Some(by) => drop(by.insert(*claim, id)),
                None => drop(self.by_prefix.insert(prefix, BTreeMap::from([(*claim, id)]))),
            }
            if !own.contains(&prefix) {
                own.push(prefix);
            }
        }
    }

    /// Forgets one offer of a member, as it is accepted.
    fn take(&mut self, id: MemberId, prefix: IpNetwork) {
        let Some((claim, own)) = self.by_member.get_mut(&id) else { return };
        own.retain(|&other| other != prefix);
        let claim = *claim;
        if own.is_empty() {
            self.by_member.remove(&id);
        }
        self.forget_one(claim, prefix);
    }

    /// Forgets all offers of a member.
    fn forget(&mut self, id: MemberId) {
        let Some((claim, own)) = self.by_member.remove(&id) else { return };
        own.iter().for_each(|&prefix| self.forget_one(claim, prefix));
    }

    fn forget_one(&mut self, claim: Claim, prefix: IpNetwork) {
        let Some(by) = self.by_prefix.get_mut(prefix) else { return };
        by.remove(&claim);
        if by.is_empty() {
            self.by_prefix.remove(prefix);
        }
    }
}

impl Changes {
    /// Notes that a prefix changes whose owner is `owner` until now.
    fn note(&mut self, prefix: IpNetwork, owner: Option<Owner>) {
        if let hash_map::Entry::Vacant(entry) = self.told.entry(prefix) {
            entry.insert(owner);
            self.order.push_back(prefix);
        }
    }
}

#[cfg(test)]
mod tests;
