//! The addresses of the members that are here, as the hub's own kernel has a route to each, for a routing daemon to tell
//! others. Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::lan::members::{Members, Version};

/// Those that the kernel has.
#[derive(Debug, Default)]
pub(crate) struct Exports {
    there: BTreeSet<IpAddr>,
    /// Those that may have come or gone.
    touched: Vec<IpAddr>,
    /// The state of the list of members by which the holders of all were looked up.
    of: Option<Version>,
}

impl Exports {
    /// Notes that who holds these addresses has come or gone.
    pub(crate) fn touch(&mut self, addresses: &[IpAddr]) {
        self.touched.extend_from_slice(addresses);
    }

    /// What is to change: each address once, and whether it is here.
    pub(crate) fn take_changes(&mut self, members: &Members) -> Vec<(IpAddr, bool)> {
        // Whoever is not on the list any more, or has lost an address, is not touched.
        if self.of.replace(members.version()) != Some(members.version()) {
            self.touched.extend(&self.there);
        }
        let is_here = |&address: &IpAddr| {
            members.holder(address).is_some_and(|holder| members.member(holder).session.is_some())
        };
        let touched = std::mem::take(&mut self.touched);
        let changes = touched.into_iter().filter_map(|address| {
            let is_here = is_here(&address);
            let is_news = if is_here { self.there.insert(address) } else { self.there.remove(&address) };
            is_news.then_some((address, is_here))
        });
        changes.collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use common::wire::frame::Join;
    use common::wire::key::PrivateKey;

    use super::*;
    use crate::ids::SessionId;
    use crate::lan::members::{Access, Decision};
    use crate::lan::subnets::Subnets;

    #[test]
    fn an_address_is_exported_while_its_holder_is_here() {
        let subnets = Subnets::new(&["10.0.0.0/24".parse().unwrap()]).unwrap();
        let mut members = Members::parse("", subnets).unwrap();
        let address = |host: u8| IpAddr::from([10, 0, 0, host]);
        let add = |members: &mut Members, seed: u8, host: u8| {
            let join = Join { addresses: vec![address(host)], ..Join::new("m".parse().unwrap()) };
            let key = PrivateKey::from_random([seed; 32]).public();
            let Decision::Member { id, .. } = members.admit(key, &join, Access::Open, &[]) else {
                panic!("it is let in");
            };
            members.set_online(id, SessionId::new(usize::from(seed)));
            id
        };
        let mut exports = Exports::default();
        let first = add(&mut members, 1, 2);
        exports.touch(&[address(2)]);
        exports.touch(&[address(2)]);
        assert_eq!(exports.take_changes(&members), [(address(2), true)]);
        let _second = add(&mut members, 2, 3);
        exports.touch(&[address(3)]);
        assert_eq!(exports.take_changes(&members), [(address(3), true)]);
        members.set_offline(first, Instant::now());
        assert_eq!(exports.take_changes(&members), []);
        exports.touch(&[address(2)]);
        assert_eq!(exports.take_changes(&members), [(address(2), false)]);
        // It comes back, and is taken off the list while it is here.
        members.set_online(first, SessionId::new(1));
        exports.touch(&[address(2)]);
        assert_eq!(exports.take_changes(&members), [(address(2), true)]);
        members.revoke(first);
        assert_eq!(exports.take_changes(&members), [(address(2), false)]);
    }
}
