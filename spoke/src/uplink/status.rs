//! The spoke's status report. Pure.

use std::time::Instant;

use common::node::lane_status::sum;
use common::node::way::Way;
use common::wire::key::PublicKey;

use super::effect::small_segments;
use super::{Phase, Uplink, advice};
use crate::control::{About, HubStatus, LinkStatus, Status, WayStatus, drops};

impl Uplink {
    /// Why this spoke is not on the LAN.
    fn trouble(&self, is_on_lan: bool) -> Option<String> {
        match &self.phase {
            Phase::Linked(linked) if linked.is_pending && !is_on_lan => {
                Some(advice::locked(&self.config.name, &self.identity.key.public()))
            }
            Phase::Paused(_) | Phase::Resolving | Phase::Dialling | Phase::Racing | Phase::Linked(_) => {
                self.retry.reason().filter(|_| !is_on_lan).map(str::to_owned)
            }
        }
    }

    /// The hubs, where there are several.
    fn hubs_status(&self, now: Instant) -> Vec<HubStatus> {
        if !self.ways.are_several_hubs() {
            return Vec::new();
        }
        let link = match &self.phase {
            Phase::Linked(linked) => Some(linked).filter(|linked| linked.joined_at.is_some()),
            Phase::Paused(_) | Phase::Resolving | Phase::Dialling | Phase::Racing => None,
        };
        let one = |key: PublicKey| {
            let link = link.filter(|linked| linked.tunnel.remote() == Some(key));
            let time =
                link.and_then(|linked| linked.tunnel.round_trip()).or(self.trials.choice.round_trip(key));
            HubStatus {
                key,
                ways: self.ways.to(key).map(ToString::to_string).collect(),
                round_trip_ms: time.map(|time| time.as_secs_f64() * 1_000.0),
                since_seconds: link
                    .and_then(|linked| linked.joined_at)
                    .map(|at| now.saturating_duration_since(at).as_secs()),
            }
        };
        self.ways.hubs().into_iter().map(one).collect()
    }

    /// The hub and its key. Where there are several it is the one that the link is at, or that is tried: what the person has
    /// named may be another one.
    fn hub_status(&self) -> (String, Option<PublicKey>) {
        let proved = match &self.phase {
            Phase::Linked(linked) => linked.tunnel.remote(),
            Phase::Paused(_) | Phase::Resolving | Phase::Dialling | Phase::Racing => None,
        };
        match &self.config.hubs[..] {
            [hub] if !self.ways.are_several_hubs() => (hub.to_string(), proved.or(self.pin.key())),
            _ => {
                let known = self.ways.hub(self.ways.current_number());
                (self.ways.current().hub.to_string(), proved.or(known))
            }
        }
    }

    /// How this spoke stands at this moment, without members.
    pub fn status(&self, about: &About, now: Instant) -> Status {
        let ago = |at: Instant| now.saturating_duration_since(at).as_secs();
        let mut dropped = self.buffers.drops.clone();
        if let Some(kept) = &self.buffers.kept {
            dropped.add_all(&kept.drops());
        }
        let mut link = None;
        let phase = match &self.phase {
            Phase::Paused(_) => "waiting",
            Phase::Resolving => "looking-up",
            Phase::Dialling | Phase::Racing => "connecting",
            Phase::Linked(linked) => match linked.joined_at {
                None if linked.is_pending => "pending",
                None => "joining",
                Some(joined_at) => {
                    let (received, sent) = linked.tunnel.traffic();
                    dropped.add_all(&linked.tunnel.queue().drops());
                    let lane = self.lane_status(now);
                    link = Some(LinkStatus {
                        seconds: ago(joined_at),
                        hub_address: linked.hub,
                        way: self.ways.current().to_string(),
                        round_trip_ms: linked.tunnel.round_trip().map(|time| time.as_secs_f64() * 1_000.0),
                        received: sum(received, lane.as_ref().map(|lane| lane.received)),
                        sent: sum(sent, lane.as_ref().map(|lane| lane.sent)),
                        queue_bytes: linked.tunnel.queue().bytes(),
                        lane,
                    });
                    "on-lan"
                }
            },
        };
        let (hub, hub_key) = self.hub_status();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            up_seconds: ago(about.started_at),
            name: self.identity.name.clone(),
            addresses: self.identity.addresses.clone(),
            device: about.device.clone(),
            key: self.identity.key.public(),
            hub,
            ways: self.ways.iter().map(way_status).collect(),
            hubs: self.hubs_status(now),
            hub_key,
            phase: phase.to_owned(),
            off_seconds: self.retry.off_since().map(ago),
            trouble: self.trouble(link.is_some()),
            problems: self.outer.segments.limit().map(small_segments).into_iter().collect(),
            zone: None,
            link,
            drops: drops(&dropped),
            members: Vec::new(),
        }
    }
}

fn way_status((way, answer, is_current): (&Way, Option<&str>, bool)) -> WayStatus {
    WayStatus { way: way.to_string(), is_current, answer: answer.map(str::to_owned) }
}
