//! Which addresses are held, kept for invites, or free. Pure.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::ids::MemberId;
use crate::lan::subnets::Subnets;

/// The addresses of the LAN.
#[derive(Default)]
pub(super) struct Addresses {
    holders: HashMap<IpAddr, MemberId>,
    /// Addresses that are kept for invites.
    reserved: HashSet<IpAddr>,
    passed: Passed,
}

/// How many addresses of each family, in the order of [`Subnets::automatic_from`], a search skips, as none of them is free.
#[derive(Default)]
struct Passed {
    v4: u128,
    v6: u128,
}

impl Passed {
    fn of(&mut self, is_ipv4: bool) -> &mut u128 {
        if is_ipv4 { &mut self.v4 } else { &mut self.v6 }
    }
}

impl Addresses {
    /// The holder of an address.
    pub(super) fn holder(&self, address: IpAddr) -> Option<MemberId> {
        self.holders.get(&address).copied()
    }

    /// Gives a free address to a member.
    pub(super) fn hold(&mut self, address: IpAddr, by: MemberId) {
        self.holders.insert(address, by);
    }

    /// Makes an address of this subnet free.
    pub(super) fn release(&mut self, address: IpAddr, subnet: Option<IpNetwork>) {
        self.holders.remove(&address);
        let passed = self.passed.of(address.is_ipv4());
        *passed = subnet.map_or(0, |subnet| Subnets::place(subnet, address).min(*passed));
    }

    /// Makes all held addresses free.
    pub(super) fn clear_holders(&mut self) {
        self.holders.clear();
        self.passed = Passed::default();
    }

    /// Whether an address is kept for an invite.
    pub(super) fn is_reserved(&self, address: IpAddr) -> bool {
        self.reserved.contains(&address)
    }

    /// Keeps these addresses for invites, and no others.
    pub(super) fn reserve(&mut self, addresses: HashSet<IpAddr>) {
        self.reserved = addresses;
        // Others may be free now.
        self.passed = Passed::default();
    }

    /// The first free address of this subnet. Addresses that were found in use are skipped until one of them is released:
    /// otherwise each newcomer would cost as many steps as there are members.
    pub(super) fn free(&mut self, subnet: IpNetwork) -> Option<IpAddr> {
        let passed = *self.passed.of(subnet.is_ipv4());
        let is_free =
            |address: &IpAddr| !self.holders.contains_key(address) && !self.reserved.contains(address);
        let mut steps: u128 = 0;
        let found = Subnets::automatic_from(subnet, passed).inspect(|_| steps += 1).find(is_free);
        *self.passed.of(subnet.is_ipv4()) = passed + if found.is_some() { steps - 1 } else { steps };
        found
    }

    #[cfg(test)]
    pub(super) fn passed_v4(&self) -> u128 {
        self.passed.v4
    }
}
