//! Where a packet goes. Pure: it answers, and only the switch acts on the answer.

use common::drops::Reason;
use common::packet::Header;

use crate::members::{MemberId, Members};
use crate::routes::{Owner, Routes};
use crate::subnets::Subnets;

/// Where a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// To one member.
    To(MemberId),
    /// To the hub and every member but the one it came from.
    Flood,
    /// To the hub's own kernel.
    Tun,
    /// Nowhere.
    Drop(Reason),
}

/// Routes a packet that came from a member, or from the hub's own kernel (`None`).
///
/// A member may only send from addresses that it holds, or that lie behind it. The hub's kernel is trusted: it
/// may forward.
pub fn route(
    members: &Members,
    routes: &Routes,
    subnets: &Subnets,
    from: Option<MemberId>,
    header: &Header,
) -> Verdict {
    if let Some(from) = from
        && members.holder(header.source) != Some(from)
        && routes.owner(header.source) != Some(Owner::Member(from))
    {
        return Verdict::Drop(Reason::ForgedSource);
    }
    let destination = header.destination;
    if subnets.is_for_all(destination) {
        return Verdict::Flood;
    }
    let owner = if subnets.is_hub(destination) {
        Some(Owner::Hub)
    } else {
        match members.holder(destination) {
            Some(holder) => Some(Owner::Member(holder)),
            // What is in the subnet is a member's or nobody's, whatever the routes say.
            None if subnets.with_prefix(destination).is_some() => None,
            None => routes.owner(destination),
        }
    };
    match owner {
        None => Verdict::Drop(Reason::NoRoute),
        Some(Owner::Hub) if from.is_none() => Verdict::Drop(Reason::Hairpin),
        Some(Owner::Hub) => Verdict::Tun,
        Some(Owner::Member(to)) if Some(to) == from => Verdict::Drop(Reason::Hairpin),
        Some(Owner::Member(to)) if members.member(to).session.is_none() => Verdict::Drop(Reason::Offline),
        Some(Owner::Member(to)) => Verdict::To(to),
    }
}
