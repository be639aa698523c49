//! The list's decision on a join request. Pure.

use std::net::IpAddr;

use common::wire::frame::{Join, Refusal};
use common::wire::key::PublicKey;
use common::wire::name::Name;
use ipnetwork::IpNetwork;

use super::names::is_numbered;
use super::{Access, Decision, MAX_MEMBERS, Member, Members};
use crate::ids::MemberId;

/// Pseudo-random numbers for a name, always the same for a key. To search for the lowest free number instead would take time in
/// proportion to the members with that name, which unauthenticated peers could exploit.
fn key_numbers(key: &PublicKey) -> impl Iterator<Item = usize> {
    let (words, _) = key.as_bytes().as_chunks::<4>();
    words.iter().map(|&word| u32::from_le_bytes(word) as usize)
}

impl Members {
    /// Decides on a join request. `found_dead`: members that seem to be online but did not answer.
    pub fn admit(
        &mut self,
        key: PublicKey,
        join: &Join,
        access: Access,
        found_dead: &[MemberId],
    ) -> Decision {
        if self.is_revoked(&key) {
            return Decision::Refused(Refusal::Revoked, "this key's membership was revoked".to_owned());
        }
        let known = self.by_key(&key);
        if known.is_none() && access == Access::Locked {
            let text = "the hub is locked and does not know this key: ask for an invite".to_owned();
            return Decision::Refused(Refusal::Locked, text);
        }
        let is_full = known.is_none() && (self.table.len() >= MAX_MEMBERS || self.is_full());
        let forgotten = if is_full && access == Access::Open { self.most_forgettable() } else { None };
        if is_full && forgotten.is_none() {
            return Decision::Refused(Refusal::Full, "the hub's list of members is full".to_owned());
        }
        if let Some(&alien) = join.addresses.iter().find(|&&address| !self.subnets.has_family_of(address)) {
            let text = format!("{alien} is not in the LAN's subnet {}", self.subnets);
            return Decision::Refused(Refusal::BadAddress, text);
        }

        let mut addresses = Vec::new();
        let mut evicted = Vec::new();
        let subnets = self.subnets;
        for subnet in subnets.iter() {
            // An address more would be a change.
            if self.journal.is_frozen && known.is_some_and(|id| self.member(id).is_without(subnet)) {
                continue;
            }
            match self.choose(subnet, join, known, access, found_dead) {
                Ok((address, holder)) => {
                    addresses.push(address);
                    evicted.extend(holder.map(|holder| (holder, address)));
                }
                Err(decision) => return decision,
            }
        }

        for &(holder, address) in &evicted {
            self.update(holder, |member| member.addresses.retain(|&held| held != address));
        }
        let (name, is_frozen) = (self.free_name(&join.name, &key, known), self.journal.is_frozen);
        let id = match known {
            Some(id) => {
                self.update(id, |member| {
                    member.addresses = addresses;
                    if access == Access::Open && !is_frozen {
                        member.name = name;
                    }
                });
                id
            }
            None => {
                if let Some(forgotten) = forgotten {
                    evicted.retain(|&(holder, _)| holder != forgotten);
                    self.forget(forgotten);
                }
                let version = self.change();
                let member = Member { addresses, ..Member::new(key, name, version) };
                let id = self.insert(member).expect("key, name and addresses were found to be free");
                self.lines.push(id, None);
                id
            }
        };
        Decision::Member { id, evicted }
    }

    /// The address of this family for a join request, and its offline holder, who loses it.
    fn choose(
        &mut self,
        subnet: IpNetwork,
        join: &Join,
        known: Option<MemberId>,
        access: Access,
        found_dead: &[MemberId],
    ) -> Result<(IpAddr, Option<MemberId>), Decision> {
        let refused = |reason, text| Err(Decision::Refused(reason, text));
        let same_family = |address: &&IpAddr| address.is_ipv4() == subnet.is_ipv4();
        let wanted = join.addresses.iter().find(same_family).copied();
        let recorded = known.and_then(|id| self.member(id).addresses.iter().find(same_family).copied());
        let had = join.had.iter().find(same_family).copied().filter(|&had| {
            self.subnets.check(had).is_ok() && self.holder(had).is_none() && !self.is_reserved(had)
        });
        let chosen = wanted.or(recorded).or(had);
        if let Some(address) = chosen {
            if let Err(unfit) = self.subnets.check(address) {
                return refused(Refusal::BadAddress, format!("{address} {unfit}"));
            }
            if access == Access::Locked && recorded.is_some_and(|recorded| recorded != address) {
                let text = format!("{address} is not the address that the locked hub has for this key");
                return refused(Refusal::BadAddress, text);
            }
        }
        let free = chosen.or_else(|| self.addresses.free(subnet));
        let unseen = || self.longest_unseen(subnet).filter(|_| access == Access::Open);
        let Some(address) = free.or_else(unseen) else {
            return refused(Refusal::Full, format!("all addresses of {subnet} are taken"));
        };
        if recorded != Some(address) && self.is_reserved(address) {
            let text = format!("{address} is kept for a member that is invited: choose another with --ip");
            return refused(Refusal::AddressHeld, text);
        }
        let holder = self.holder(address).filter(|&holder| Some(holder) != known);
        if let Some(holder) = holder {
            // A hub needs its own address, also while nothing is heard of it.
            if access != Access::Open || self.member(holder).hub.is_some() {
                let (reason, text) = self.held(holder, address);
                return refused(reason, text);
            }
            // Whether it is alive is known to the hub that it is with, which tells when it is not.
            if self.member(holder).session.is_none() && self.member(holder).is_online() {
                let (reason, text) = self.held(holder, address);
                return refused(reason, text);
            }
            if self.member(holder).session.is_some() && !found_dead.contains(&holder) {
                return Err(Decision::Dispute(holder));
            }
        }
        Ok((address, holder))
    }

    /// The address of this family whose holder is offline, has nothing that a person granted, and was not seen for the
    /// longest time.
    fn longest_unseen(&self, subnet: IpNetwork) -> Option<IpAddr> {
        let family = |address: &&IpAddr| subnet.contains(**address);
        self.table
            .iter()
            .filter(|(_, member)| !member.is_online() && !member.has_grants())
            .filter_map(|(id, member)| Some((member.seen_at, id, *member.addresses.iter().find(family)?)))
            .min()
            .map(|(_, _, address)| address)
    }

    /// The member to remove from a full list: an offline one to whom no person granted anything, preferably without an
    /// address, unseen for the longest.
    fn most_forgettable(&self) -> Option<MemberId> {
        let offline = self.iter().filter(|(_, member)| !member.is_online() && !member.has_grants());
        offline
            .min_by_key(|&(id, member)| (!member.addresses.is_empty(), member.seen_at, id))
            .map(|(id, _)| id)
    }

    /// The wanted name, or a numbered one that neither another member nor the hub has: the first, or one that goes by the key where
    /// many have that name. What can be no host's name is changed into one first, or numbered too.
    pub(super) fn free_name(&mut self, wanted: &Name, key: &PublicKey, own: Option<MemberId>) -> Name {
        let wanted =
            if wanted.check_host().is_ok() { wanted.clone() } else { Name::nearest(wanted.as_str()) };
        if wanted.check_host().is_ok() && self.names.is_free(&wanted, own) {
            return wanted;
        }
        // A member that was given a number before keeps it.
        if let Some(current) = own.map(|id| &self.member(id).name)
            && is_numbered(current, &wanted)
        {
            return current.clone();
        }
        self.names.numbered(&wanted, key_numbers(key), own)
    }
}
