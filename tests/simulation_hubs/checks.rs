//! What must hold after each turn, and in the end.

use std::net::IpAddr;
use std::time::Duration;

use common::wire::key::PublicKey;
use common::wire::tunnel::DEAD_AFTER;
use hub::ids::SessionId;

use crate::packets::Place;
use crate::world::{HubHost, World, kernel, own};

/// For so long a spoke may be online at a hub which it has left, and so at two: until that one notices.
const LEFT_AT_MOST: Duration = Duration::from_secs(DEAD_AFTER.as_secs() + 1);

impl World {
    /// The hub that a spoke is on the LAN through.
    pub(crate) fn hub_of(&self, spoke: usize) -> Option<usize> {
        let machine = &self.spokes[spoke];
        Some(self.conns.get(&machine.link().filter(|_| machine.is_on_lan())?)?.hub)
    }

    /// The hubs at which a key is online, and by which session.
    fn online_at(&self, key: PublicKey) -> Vec<(usize, SessionId)> {
        let session = |hub: usize| {
            let members = self.hubs[hub].core.as_ref()?.members();
            Some((hub, members.get(members.by_key(&key)?)?.session?))
        };
        (0..self.hubs.len()).filter_map(session).collect()
    }

    pub(crate) fn check(&mut self) {
        self.check_list();
        for core in
            self.hubs.iter().filter_map(|hub| hub.core.as_ref()).filter(|core| core.members().len() < 100)
        {
            for (id, member) in core.members().iter().filter(|(_, member)| member.elsewhere.is_some()) {
                assert!(core.home(id).is_some(), "{} is at a hub that is none", member.name);
            }
        }
        for at in 0..self.spokes.len() {
            let machine = &self.spokes[at];
            if machine.is_out {
                continue;
            }
            let deadline = machine.deadline();
            assert!(deadline.is_none_or(|due| due > self.now), "spoke {at} has a deadline in the past");
            machine.check(self.now);
            let (own, online) = (self.hub_of(at), self.online_at(machine.key.public()));
            self.left.retain(|&(spoke, hub, session), _| {
                spoke != at || online.contains(&(hub, session)) && own != Some(hub)
            });
            for (hub, session) in online.into_iter().filter(|&(hub, _)| own != Some(hub)) {
                let since = *self.left.entry((at, hub, session)).or_insert(self.now);
                assert!(
                    self.now <= since + LEFT_AT_MOST,
                    "hub {hub} still has spoke {at}, which is at {own:?}"
                );
            }
        }
    }

    /// Everybody reaches everybody, and each hub's kernel, and what is for all comes to all. What is on the way to one that
    /// goes to another hub at that moment is lost, so that a spoke has a second try.
    pub(crate) fn check_reach(&mut self) {
        for from in (0..self.spokes.len()).filter(|&from| self.spokes[from].is_on_lan()).collect::<Vec<_>>() {
            let missed = self.reach(from);
            assert!(
                missed.is_empty() || self.reach(from).is_empty(),
                "spoke {from} does not reach {missed:?}"
            );
        }
    }

    /// Sends to everybody: who is not reached.
    fn reach(&mut self, from: usize) -> Vec<String> {
        let others: Vec<usize> =
            (0..self.spokes.len()).filter(|&to| to != from && self.spokes[to].is_on_lan()).collect();
        let alive: Vec<usize> = (0..self.hubs.len()).filter(|&hub| self.hubs[hub].is_alive()).collect();
        let spokes = others.iter().map(|&to| (Some(to), self.spokes[to].own));
        let all: Vec<(Place, IpAddr)> =
            spokes.chain(alive.iter().map(|&hub| (kernel(hub), own(hub)))).collect();
        let sent: Vec<(u64, Place)> =
            all.iter().map(|&(place, address)| (self.send_packet(from, address), place)).collect();
        let to_all = self.send_to_all(from);
        self.pass(Duration::from_secs(2));
        let missed = sent.iter().filter(|&&(id, place)| self.book.got_by(id) != [place]);
        let mut missed: Vec<String> = missed.map(|(_, place)| format!("{place:?}")).collect();
        if self.book.got_by(to_all) != all.iter().map(|&(place, _)| place).collect::<Vec<_>>() {
            missed.push("all".to_owned());
        }
        missed
    }

    /// After quiet: everybody is at one hub, which lives, and drains only where all do.
    pub(crate) fn check_end(&self) {
        let can_take = |hub: &HubHost| hub.is_alive() && !hub.is_draining;
        for (at, machine) in self.spokes.iter().enumerate() {
            let hub = self.hub_of(at).unwrap_or_else(|| panic!("spoke {at} is not on the LAN"));
            let online: Vec<usize> =
                self.online_at(machine.key.public()).into_iter().map(|(hub, _)| hub).collect();
            assert_eq!(online, [hub], "spoke {at}");
            assert!(
                can_take(&self.hubs[hub]) || !self.hubs.iter().any(can_take),
                "spoke {at} is at hub {hub}, which is draining"
            );
        }
    }
}
