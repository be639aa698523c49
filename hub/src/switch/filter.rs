//! The access rules as the switch applies them: between which members a packet goes. Pure.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use common::packet::{Header, VNET_LEN};

use crate::ids::MemberId;
use crate::lan::members::Members;
use crate::lan::rules::access::{AccessControl, Party};
use crate::lan::rules::{End, Rules};
use crate::lan::subnets::Subnets;

/// How often flows that have ended are freed, while packets come.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// The rules, if there are any, and the members as they know them.
#[derive(Default)]
pub(super) struct Filter {
    access: Option<AccessControl>,
    /// The state of [`Members::parties`] that is known.
    parties: u64,
    sweep_at: Option<Instant>,
}

/// From where to where a packet goes; `None` is the hub's own kernel.
#[derive(Clone, Copy)]
pub(super) struct Path {
    pub(super) from: Option<MemberId>,
    pub(super) to: Option<MemberId>,
}

impl Filter {
    /// Puts rules in force, or lets everything pass. Counters of rules that stay the same go on.
    pub(super) fn set(&mut self, rules: Option<Rules>) {
        match (&mut self.access, rules) {
            (Some(access), Some(rules)) if *access.rules() == rules => {}
            (Some(access), Some(rules)) => access.replace(rules),
            (access, rules) => *access = rules.map(AccessControl::new),
        }
    }

    pub(super) fn access(&self) -> Option<&AccessControl> {
        self.access.as_ref()
    }

    /// Whether a packet (virtio-net header and IP) may take this path.
    #[inline]
    pub(super) fn allows(
        &mut self,
        path: Path,
        header: &Header,
        packet: &[u8],
        (members, own): (&Members, Option<MemberId>),
        subnets: &Subnets,
        now: Instant,
    ) -> bool {
        let Some(access) = &mut self.access else { return true };
        if self.parties != members.parties() {
            self.parties = members.parties();
            access.parties_changed();
        }
        if self.sweep_at.is_none_or(|at| at <= now) {
            self.sweep_at = Some(now + SWEEP_EVERY);
            access.sweep(now);
        }
        let [from, to] = [path.from, path.to].map(party);
        let ip = packet.get(VNET_LEN..).unwrap_or_default();
        access
            .allows(from, to, header, ip, now, |party, address| end(party, address, (members, own), subnets))
    }
}

fn party(member: Option<MemberId>) -> Party {
    member.map_or(Party::Hub, |id| Party::Member(id.index()))
}

/// What rules know of one end of a packet: of the hub, what its own line says.
pub(crate) fn end<'a>(
    party: Party,
    address: IpAddr,
    (members, own): (&'a Members, Option<MemberId>),
    subnets: &Subnets,
) -> End<'a> {
    let address = subnets.resolve(address);
    let (is_hub, id) = match party {
        Party::Hub => (true, own),
        Party::Member(id) => (false, Some(MemberId::new(id))),
    };
    let member = id.map(|id| members.member(id));
    End {
        is_hub,
        name: member.map(|member| &member.name),
        tags: member.map_or(&[], |member| &member.tags),
        address,
    }
}
