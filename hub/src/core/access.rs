//! The access rules: set by the administrator, and explained. Pure.

use std::net::IpAddr;

use common::wire::name::Name;

use super::Core;
use crate::effect::Notice;
use crate::ids::MemberId;
use crate::lan::members::Access;
use crate::lan::route_table::Owner;
use crate::lan::rules::access::{AccessControl, Party};
use crate::lan::rules::{Decision, Rules, Service};
use crate::switch::filter::end;

/// What the rules say about one case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// Who sends, and from which address.
    pub from: String,
    /// Who receives, and at which address.
    pub to: String,
    /// The decision; `None` where there are no rules.
    pub decision: Option<Decision>,
}

/// One end of a case.
struct Place {
    /// The member; `None` for the hub's own kernel.
    member: Option<MemberId>,
    addresses: Vec<IpAddr>,
}

impl Core {
    /// The access rules, if there are any.
    pub fn access_rules(&self) -> Option<&AccessControl> {
        self.switch.access()
    }

    /// Puts access rules in force, or lets all reach all. Logged where that is a change.
    pub(super) fn set_rules(&mut self, mut rules: Option<Rules>) {
        if let (Some(rules), Some(name)) = (&mut rules, self.members().hub_name()) {
            rules.name_hub(name);
        }
        if self.access_rules().map(AccessControl::rules) != rules.as_ref() {
            self.switch.set_rules(rules);
            self.note_rules();
        }
    }

    /// Logs how many rules there are.
    pub(super) fn note_rules(&mut self) {
        let count = self.access_rules().map(|access| access.rules().len());
        self.note(Notice::Rules { count, is_open: self.admission.access() == Access::Open });
    }

    /// This hub's line in the list of members, if it has one.
    fn own_line(&self) -> Option<MemberId> {
        self.members().by_key(&self.key.public())
    }

    /// Which rule decides about the first packet of a service from one end to the other.
    ///
    /// # Errors
    /// A sentence that says which end is unknown.
    pub fn explain(&self, from: &str, to: &str, service: Service) -> Result<Case, String> {
        let (source, target) = (self.place(from)?, self.place(to)?);
        let (source_at, target_at) = common_family(&source.addresses, &target.addresses)
            .ok_or_else(|| format!("{from} and {to} have no addresses of one family"))?;
        let decision = self.access_rules().map(|access| {
            let [one, other] = [(&source, source_at), (&target, target_at)].map(|(place, address)| {
                let party = place.member.map_or(Party::Hub, |id| Party::Member(id.index()));
                end(party, address, (self.admission.members(), self.own_line()), &self.lan.subnets)
            });
            access.rules().decide(one, other, service)
        });
        let [from, to] = [(&source, source_at), (&target, target_at)].map(|(place, address)| {
            place
                .member
                .map_or_else(|| format!("hub ({address})"), |id| format!("{} ({address})", self.name(id)))
        });
        Ok(Case { from, to, decision })
    }

    /// Where packets of this name or address come from or go to.
    fn place(&self, who: &str) -> Result<Place, String> {
        let members = self.admission.members();
        let is_hubs_name = |name: Name| members.hub_name() == Some(&name);
        if who == "hub" || who.parse().is_ok_and(is_hubs_name) {
            let addresses = self.lan.subnets.hub().map(|hub| hub.ip()).collect();
            return Ok(Place { member: None, addresses });
        }
        let Ok(address) = who.parse::<IpAddr>() else {
            let id = self.admission.find(who)?;
            let member = Some(id).filter(|id| Some(*id) != self.own_line());
            return Ok(Place { member, addresses: members.member(id).addresses.clone() });
        };
        let resolved = self.lan.subnets.resolve(address);
        let member = match (members.holder(resolved), self.routes.table().owner(resolved)) {
            (Some(holder), _) => Some(holder),
            (None, _) if self.lan.subnets.is_hub(resolved) => None,
            (None, _) if self.lan.subnets.with_prefix(resolved).is_some() => {
                return Err(format!("nobody has the address {address}"));
            }
            (None, Some(Owner::Member(id))) => Some(id),
            // What comes from elsewhere comes through the hub's own kernel.
            (None, Some(Owner::Hub) | None) => None,
        };
        Ok(Place { member: member.filter(|id| Some(*id) != self.own_line()), addresses: vec![address] })
    }
}

/// An address of each that are of one family, IPv4 first.
fn common_family(ones: &[IpAddr], others: &[IpAddr]) -> Option<(IpAddr, IpAddr)> {
    let pairs = || ones.iter().flat_map(|&one| others.iter().map(move |&other| (one, other)));
    let of_one_family = |&(one, other): &(IpAddr, IpAddr)| one.is_ipv4() == other.is_ipv4();
    pairs().filter(of_one_family).min_by_key(|(one, _)| one.is_ipv6())
}
