//! How the silence of a hub is noticed, so that another one can take its place: when packets are sent, by pings; else by the
//! two kernels, which ask each other without waking the hub. Pure.
//!
//! The kernel of a machine that is gone, or cut off, answers nothing; that of a hub that stands still does. Such a hub is
//! noticed by what is sent to it, or by the next ping of the usual ones.

use std::time::{Duration, Instant};

use common::wire::tunnel::Watch;

/// How often the kernel asks the hub's kernel, where nothing else is said.
pub const ASK_EVERY: Duration = Duration::from_secs(1);
/// How late the kernel's answer may be, above the round trip, before the hub itself is asked.
pub(super) const LATE: Duration = Duration::from_millis(200);
/// How long the hub then counts as silent: as if one of the pings that follow each other closely were not answered.
const SILENT_SO_FAR: Duration = Duration::from_millis(800);

/// How the hub of a link is watched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Watching {
    /// Not closely, as there is no other one.
    #[default]
    Idle,
    /// By pings alone, all the time.
    ByPings,
    /// The kernel is about to ask the hub's.
    Begun,
    /// By the kernel, and by pings where packets are sent: when to look what it has heard.
    ByKernel(Instant),
}

impl Watching {
    /// When to look what the kernel has heard.
    pub(super) fn look_at(self) -> Option<Instant> {
        match self {
            Watching::ByKernel(at) => Some(at),
            Watching::Idle | Watching::ByPings | Watching::Begun => None,
        }
    }

    /// How closely the tunnel watches the hub then.
    pub(super) fn pings(self) -> Watch {
        match self {
            Watching::Idle => Watch::Usual,
            Watching::ByPings => Watch::Always,
            Watching::Begun | Watching::ByKernel(_) => Watch::Sending,
        }
    }

    /// Takes note for how long the kernel has heard nothing. Returns since when the hub counts as silent, if it is to be
    /// asked.
    pub(super) fn looked(
        &mut self,
        unheard: Duration,
        round_trip: Option<Duration>,
        now: Instant,
    ) -> Option<Instant> {
        let Watching::ByKernel(look_at) = self else { return None };
        let most = ASK_EVERY + LATE + round_trip.unwrap_or_default();
        *look_at = now + if unheard < most { most - unheard } else { ASK_EVERY };
        (unheard >= most).then(|| now - SILENT_SO_FAR)
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "virtual time has to start somewhere")]
mod tests {
    use super::*;

    const RTT: Duration = Duration::from_millis(40);

    #[test]
    fn the_kernel_is_looked_at_when_its_next_answer_is_late_and_the_hub_is_asked_then() {
        let now = Instant::now();
        let mut watching = Watching::ByKernel(now);
        // The last answer came a moment ago.
        assert_eq!(watching.looked(Duration::from_millis(240), Some(RTT), now), None);
        assert_eq!(watching.look_at(), Some(now + ASK_EVERY));
        let late = ASK_EVERY + LATE + RTT;
        assert_eq!(watching.looked(late - Duration::from_millis(1), Some(RTT), now), None);
        assert_eq!(watching.look_at(), Some(now + Duration::from_millis(1)));
        assert_eq!(watching.looked(late, Some(RTT), now), Some(now - SILENT_SO_FAR));
        assert_eq!(watching.look_at(), Some(now + ASK_EVERY), "it is looked at again, though not at once");
    }

    #[test]
    fn pings_do_it_where_the_kernel_does_not() {
        let now = Instant::now();
        for (mut watching, pings) in [
            (Watching::Idle, Watch::Usual),
            (Watching::ByPings, Watch::Always),
            (Watching::Begun, Watch::Sending),
        ] {
            assert_eq!(watching.pings(), pings);
            assert_eq!(
                (watching.looked(Duration::from_secs(9), None, now), watching.look_at()),
                (None, None)
            );
        }
    }
}
