//! Counts of what the switch has done since it was made, links that have ended included. Pure.

use std::collections::BTreeMap;

use common::packet::drops::Drops;
use common::wire::frame::Refusal;
use common::wire::tunnel::{Traffic, Tunnel};
use serde::{Deserialize, Serialize};

use crate::effect::End;
use crate::switch::gate::TurnedAway;

/// Counts by the label of their reason: all that there are, from the start.
pub type Reasons = BTreeMap<&'static str, u64>;

const TURNED_AWAY: [&str; 3] = ["slowed", "half-open", "full"];
const REFUSED: [&str; 10] = [
    "bad-address",
    "address-held",
    "full",
    "locked",
    "bad-invite",
    "revoked",
    "bad-request",
    "key-in-use",
    "too-often",
    "other",
];
const LEFT: [&str; 5] = ["goodbye", "evicted", "protocol", "connection", "silent"];

/// Second connections of members.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lanes {
    /// Those that are open.
    pub open: usize,
    /// Those that were ever opened.
    pub opened: u64,
    /// Connections that were not taken for one.
    pub refused: u64,
}

/// What happened.
#[derive(Clone, Debug)]
pub struct Tally {
    /// Connections that were taken in.
    pub connections: u64,
    /// Connections that were closed at once.
    pub turned_away: Reasons,
    /// Links whose other end proved a key.
    pub handshakes: u64,
    /// Links that ended before.
    pub handshakes_failed: u64,
    /// How often a member was let in.
    pub joins: u64,
    /// How often one was not.
    pub refused: Reasons,
    /// Links of members that ended.
    pub left: Reasons,
    /// Their lanes.
    pub lanes: Lanes,
    /// Packets and bytes from members.
    pub received: Traffic,
    /// Packets and bytes to members.
    pub sent: Traffic,
    /// Bytes that wait to be sent.
    pub queue_bytes: usize,
    /// Packets that were dropped.
    pub drops: Drops,
}

impl Default for Tally {
    fn default() -> Tally {
        Tally {
            connections: 0,
            turned_away: none_of(&TURNED_AWAY),
            handshakes: 0,
            handshakes_failed: 0,
            joins: 0,
            refused: none_of(&REFUSED),
            left: none_of(&LEFT),
            lanes: Lanes::default(),
            received: Traffic::default(),
            sent: Traffic::default(),
            queue_bytes: 0,
            drops: Drops::default(),
        }
    }
}

impl Tally {
    /// Counts a connection that is closed at once.
    pub fn turned_away(&mut self, why: TurnedAway) {
        count(
            &mut self.turned_away,
            match why {
                TurnedAway::Slowed => "slowed",
                TurnedAway::HalfOpen => "half-open",
                TurnedAway::Full => "full",
            },
        );
    }

    /// Counts a join request that is refused.
    pub fn refused(&mut self, reason: Refusal) {
        count(
            &mut self.refused,
            match reason {
                Refusal::BadAddress => "bad-address",
                Refusal::AddressHeld => "address-held",
                Refusal::Full => "full",
                Refusal::Locked => "locked",
                Refusal::BadInvite => "bad-invite",
                Refusal::Revoked => "revoked",
                Refusal::BadRequest => "bad-request",
                Refusal::KeyInUse => "key-in-use",
                Refusal::Later => "later",
                Refusal::Other(_) => "other",
            },
        );
    }

    /// Counts a join request of a key that joins too often.
    pub fn put_off(&mut self) {
        count(&mut self.refused, "too-often");
    }

    /// Counts a link that has ended; `is_member`: whether its other end was let in.
    pub fn ended(&mut self, is_member: bool, is_proved: bool, end: &End) {
        if is_member {
            count(
                &mut self.left,
                match end {
                    End::Farewell(_) | End::Refused | End::NotLinked(_) => "goodbye",
                    End::Evicted => "evicted",
                    End::Tunnel(_) => "protocol",
                    End::Socket(_) => "connection",
                    End::Silent => "silent",
                },
            );
        } else if !is_proved {
            self.handshakes_failed += 1;
        }
    }

    /// Adds what went through a link, and what was dropped of it.
    pub fn add_link(&mut self, tunnel: &Tunnel, drops: &Drops) {
        let (received, sent) = tunnel.traffic();
        for (sum, part) in [(&mut self.received, received), (&mut self.sent, sent)] {
            sum.packets += part.packets;
            sum.bytes += part.bytes;
        }
        self.drops.add_all(drops);
        self.drops.add_all(&tunnel.queue().drops());
    }
}

fn none_of(labels: &[&'static str]) -> Reasons {
    labels.iter().map(|&label| (label, 0)).collect()
}

fn count(reasons: &mut Reasons, label: &'static str) {
    *reasons.entry(label).or_default() += 1;
}

#[cfg(test)]
mod tests {
    use common::wire::tunnel::Error;

    use super::*;

    #[test]
    fn every_reason_is_listed_from_the_start() {
        let mut tally = Tally::default();
        for why in [TurnedAway::Slowed, TurnedAway::HalfOpen, TurnedAway::Full] {
            tally.turned_away(why);
        }
        tally.put_off();
        for reason in [
            Refusal::BadAddress,
            Refusal::AddressHeld,
            Refusal::Full,
            Refusal::Locked,
            Refusal::BadInvite,
            Refusal::Revoked,
            Refusal::BadRequest,
            Refusal::KeyInUse,
            Refusal::Other(99),
        ] {
            tally.refused(reason);
        }
        for end in [
            End::Farewell("x"),
            End::Evicted,
            End::Tunnel(Error::Frame),
            End::Socket("x".to_owned()),
            End::Silent,
        ] {
            tally.ended(true, true, &end);
        }
        for (counted, labels) in
            [(&tally.turned_away, &TURNED_AWAY[..]), (&tally.refused, &REFUSED), (&tally.left, &LEFT)]
        {
            assert_eq!(*counted, labels.iter().map(|&label| (label, 1)).collect());
        }
        assert_eq!((tally.joins, tally.handshakes_failed), (0, 0));
        tally.ended(false, false, &End::Silent);
        tally.ended(false, true, &End::Refused);
        assert_eq!(tally.handshakes_failed, 1);
    }
}
