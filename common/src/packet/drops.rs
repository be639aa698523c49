//! Why a packet was dropped, and how often. Pure.

use std::fmt;

/// Declares the reasons once: variant, label and sentence.
macro_rules! reasons {
    ($($variant:ident $label:literal $doc:literal),+ $(,)?) => {
        /// Why a packet went no further. The label is the word that logs and `status` use.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason {
            $(#[doc = $doc] $variant),+
        }

        impl Reason {
            /// Every reason, in the order of declaration.
            pub const ALL: &[Reason] = &[$(Reason::$variant),+];

            /// The one word for this reason.
            pub const fn label(self) -> &'static str {
                match self {
                    $(Reason::$variant => $label),+
                }
            }
        }
    };
}

reasons! {
    Malformed "malformed" "Not a whole IPv4 or IPv6 packet: too short, wrong version, header length or total length.",
    Offload "offload" "A virtio-net header that contradicts the packet behind it.",
    ForgedSource "forged-source" "The source address is not one that the sending spoke holds.",
    NoRoute "no-route" "Nobody holds the destination address.",
    Offline "offline" "The member that holds the destination is not online.",
    Hairpin "hairpin" "The destination is the sender itself.",
    TooBig "too-big" "Larger than the receiver's MTU.",
    QueueFull "queue-full" "The queue to the receiver held its cap of bytes.",
    Delay "delay" "CoDel: the packet waited too long in the queue to the receiver.",
    NeighbourDiscovery "neighbour-discovery" "IPv6 neighbour discovery, which has no place on a TUN device.",
    HiddenUpperLayer "hidden-upper-layer" "An IPv6 fragment that hides what it carries: headers that go on beyond the first one, or a fragment of a fragment.",
    Denied "denied" "The access rules do not let it pass.",
    RateLimit "rate-limit" "More broadcast or multicast than one source may send.",
    NotOnLan "not-on-lan" "The tunnel to the hub is not up.",
    Device "device" "The TUN device did not take the packet.",
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// Dropped packets, counted by reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drops([u64; Reason::ALL.len()]);

impl Drops {
    /// Counts one packet.
    pub fn add(&mut self, reason: Reason) {
        self.add_many(reason, 1);
    }

    /// Counts `packets` packets.
    pub fn add_many(&mut self, reason: Reason, packets: u64) {
        self.0[reason as usize] += packets;
    }

    /// Packets dropped for `reason`.
    pub fn of(&self, reason: Reason) -> u64 {
        self.0[reason as usize]
    }

    /// Packets dropped for any reason.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Adds what was counted elsewhere.
    pub fn add_all(&mut self, other: &Drops) {
        for (reason, packets) in other.iter() {
            self.add_many(reason, packets);
        }
    }

    /// The reasons that occurred, with their counts.
    pub fn iter(&self) -> impl Iterator<Item = (Reason, u64)> + '_ {
        Reason::ALL.iter().map(|&reason| (reason, self.of(reason))).filter(|&(_, count)| count > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_by_reason() {
        let mut drops = Drops::default();
        drops.add(Reason::Hairpin);
        drops.add_many(Reason::Delay, 2);
        assert_eq!(drops.iter().collect::<Vec<_>>(), [(Reason::Hairpin, 1), (Reason::Delay, 2)]);
        assert_eq!(drops.total(), 3);
    }
}
