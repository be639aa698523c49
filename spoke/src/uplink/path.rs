//! Reacts to changes of the outer path: when the machine moves, or its routes change. Pure.

use std::time::Instant;

use super::probe::Probe;
use super::{Phase, Uplink, advice};

/// A change of the path of the connection to the hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathChange {
    /// The machine has lost the address that the connection was made from, or every route: nothing can arrive.
    Lost,
    /// Its packets leave by another interface or router: it may work or not.
    Moved,
}

impl Uplink {
    /// The path of the connection is not what it was.
    pub fn handle_path(&mut self, change: PathChange, now: Instant) {
        let Phase::Linked(linked) = &mut self.phase else { return };
        match change {
            PathChange::Moved if linked.tunnel.is_open() => {
                linked.probe.get_or_insert(Probe::new(linked.tunnel.round_trip(), now));
                if let Err(error) = linked.tunnel.ping(now) {
                    self.fail_link(error, now);
                }
            }
            PathChange::Moved | PathChange::Lost => {
                self.redial("this machine's address or its way to the hub has changed", now);
            }
        }
    }

    /// The machine's network is not what it was: what failed before may work now. The link, if there is one, is
    /// [`Uplink::handle_path`]'s.
    pub fn handle_network_change(&mut self, now: Instant) {
        self.outer.segments.forget();
        match &mut self.phase {
            Phase::Paused(until) => {
                *until = now;
                self.ways.begin_anew();
                self.retry.begin_anew();
            }
            Phase::Dialling => {
                // Attempts hold on to the address and the route that they began with.
                self.ways.begin_anew();
                self.retry.begin_anew();
                self.phase = Phase::Resolving;
                self.resolve();
            }
            Phase::Linked(_) => self.schedule_better(now),
            Phase::Racing => {
                self.end_trials(|_| true);
                self.ways.begin_anew();
                self.retry.begin_anew();
                self.begin_race(now);
            }
            Phase::Resolving => {}
        }
    }

    /// Gives a link up whose hub does not answer over the new path.
    pub(super) fn poll_probe(&mut self, now: Instant) {
        let Phase::Linked(linked) = &mut self.phase else { return };
        let Some(probe) = linked.probe else { return };
        if probe.is_answered(linked.tunnel.answered()) {
            linked.probe = None;
        } else if probe.deadline() <= now {
            self.redial("no answer over this machine's new way to it", now);
        }
    }

    /// Ends the link, which the hub cannot hear of, and begins again at once.
    fn redial(&mut self, why: &str, now: Instant) {
        let Phase::Linked(linked) = &self.phase else { return };
        let why = advice::ended(self.ways.current(), linked.progress(), &why);
        self.end_trials(|_| true);
        self.close_link(true, now);
        self.retry.begin_anew();
        self.try_again(why, now);
        self.phase = Phase::Paused(now);
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "virtual time has to start somewhere")]
mod tests {
    use std::io;
    use std::net::SocketAddr;
    use std::path::PathBuf;
    use std::str::FromStr as _;
    use std::time::Duration;

    use common::wire::key::PrivateKey;

    use super::super::routes::RoutePolicy;
    use super::super::{Config, Effect, Known, Uplink};
    use super::*;
    use common::wire::target::Target;

    const WAYS: [&str; 2] = ["203.0.113.5", "203.0.113.5:443"];

    fn hub() -> SocketAddr {
        "203.0.113.5:5678".parse().unwrap()
    }

    fn uplink(now: Instant) -> Uplink {
        let config = Config {
            hubs: vec!["203.0.113.5".parse().unwrap()],
            ways: WAYS.map(|way| Target::from_str(way).unwrap().into()).to_vec(),
            hub_keys: Vec::new(),
            addresses: Vec::new(),
            name: "laptop".parse().unwrap(),
            invite: None,
            route_policy: RoutePolicy::default(),
            mtu: None,
            follows_members: false,
            may_have_lane: true,
            pins: PathBuf::new(),
        };
        Uplink::new(config, PrivateKey::from_random([1; 32]), Known::default(), 7, now)
    }

    fn effects(uplink: &mut Uplink) -> Vec<Effect> {
        std::iter::from_fn(|| uplink.poll_effect()).collect()
    }

    /// A spoke that dials.
    fn dialling(now: Instant) -> Uplink {
        let mut uplink = uplink(now);
        uplink.handle_timeout(now);
        uplink.handle_resolved(Ok(vec![hub()]), now);
        assert!(matches!(effects(&mut uplink)[..], [Effect::Resolve { .. }, Effect::Dial { .. }]));
        uplink
    }

    #[test]
    fn a_change_of_the_network_ends_the_pause_and_an_attempt_on_the_old_path() {
        let now = Instant::now();
        let mut uplink = dialling(now);
        uplink.handle_network_change(now);
        assert!(matches!(effects(&mut uplink)[..], [Effect::Resolve { .. }]));
        // The look-up under way goes on: it ends by itself.
        uplink.handle_network_change(now);
        assert!(effects(&mut uplink).is_empty());
        // The pauses have become long.
        for _ in 0..10 * WAYS.len() {
            uplink.handle_resolved(Err(io::Error::other("no such name")), now);
            let at = uplink.deadline().unwrap();
            uplink.handle_timeout(at);
        }
        for _ in WAYS {
            uplink.handle_resolved(Err(io::Error::other("no such name")), now);
            effects(&mut uplink);
            uplink.handle_timeout(now);
        }
        assert!(uplink.deadline().unwrap() > now + Duration::from_secs(4));
        uplink.handle_network_change(now);
        assert_eq!(uplink.deadline(), Some(now));
        uplink.handle_timeout(now);
        assert!(matches!(effects(&mut uplink)[..], [Effect::Resolve { .. }]));
    }

    #[test]
    fn a_change_of_the_network_changes_no_way_that_is_in_use() {
        let now = Instant::now();
        let current = |uplink: &Uplink| uplink.ways.current().to_string();
        let mut uplink = dialling(now);
        uplink.handle_unreachable(None, &io::ErrorKind::TimedOut.into(), now);
        uplink.handle_timeout(now);
        assert_eq!(current(&uplink), "203.0.113.5:443");
        // The answer to this look-up belongs to the way that it was asked for.
        uplink.handle_networks(vec!["192.168.1.2/24".parse().unwrap()]);
        uplink.handle_network_change(now);
        assert_eq!(current(&uplink), "203.0.113.5:443");
        uplink.handle_resolved(Ok(vec![hub()]), now);
        uplink.handle_connected(hub(), [2; 32], now);
        uplink.handle_networks(vec!["192.168.2.2/24".parse().unwrap()]);
        uplink.handle_network_change(now);
        assert_eq!(current(&uplink), "203.0.113.5:443");
        // Once it is off, all begins with the first one.
        uplink.handle_closed(&io::ErrorKind::ConnectionReset.into(), now);
        assert_eq!(current(&uplink), "203.0.113.5:5678");
    }

    #[test]
    fn a_link_whose_path_is_lost_is_reset_and_dialled_anew_at_once() {
        let now = Instant::now();
        for change in [PathChange::Lost, PathChange::Moved] {
            // A handshake cannot be asked whether it is alive.
            let mut uplink = dialling(now);
            uplink.handle_path(change, now);
            assert!(effects(&mut uplink).is_empty(), "there is no link yet");
            uplink.handle_connected(hub(), [2; 32], now);
            uplink.handle_path(change, now);
            assert!(matches!(effects(&mut uplink)[..], [Effect::Close { reset: true }, Effect::Log(_)]));
            assert_eq!(uplink.deadline(), Some(now));
        }
    }
}
