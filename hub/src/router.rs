//! Where a packet goes. Pure: it answers, and only the switch acts on the answer.

use common::drops::Reason;
use common::packet::Header;

use crate::members::{MemberId, Members};
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
/// A member may only send from addresses that it holds. The hub's kernel is trusted: it may forward.
pub fn route(members: &Members, subnets: &Subnets, from: Option<MemberId>, header: &Header) -> Verdict {
    if from.is_some() && members.holder(header.source) != from {
        return Verdict::Drop(Reason::ForgedSource);
    }
    if subnets.is_for_all(header.destination) {
        return Verdict::Flood;
    }
    if subnets.is_hub(header.destination) {
        return if from.is_some() { Verdict::Tun } else { Verdict::Drop(Reason::Hairpin) };
    }
    match members.holder(header.destination) {
        Some(to) if Some(to) == from => Verdict::Drop(Reason::Hairpin),
        Some(to) if members.member(to).session.is_none() => Verdict::Drop(Reason::Offline),
        Some(to) => Verdict::To(to),
        None => Verdict::Drop(Reason::NoRoute),
    }
}
