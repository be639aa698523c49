//! The metrics of the spokes that run on this machine, from what `spoke status` tells. Pure.

use common::node::metrics::{Metric, Value};
use common::packet::drops::Reason;

use crate::control::{LinkStatus, Status};

/// The metrics of these spokes, which their devices tell apart. Counts of packets begin with the link.
pub fn metrics(spokes: &[Status]) -> Vec<Metric> {
    let gauge = |name, help, of: fn(&Status) -> usize| {
        Metric::gauge(name, help).each("device", spokes.iter().map(|spoke| (&spoke.device, of(spoke))))
    };
    let counter = |name, help, of: fn(&LinkStatus) -> u64| {
        Metric::counter(name, help).each("device", of_links(spokes, |link| Some(of(link))))
    };
    let build = Metric::gauge("spoke_build_info", "The version that runs.");
    let dropped = Metric::counter("spoke_dropped_packets_total", "Packets that were dropped, by reason.");
    vec![
        spokes.iter().fold(build, |metric, spoke| {
            metric.of([("device", &spoke.device), ("version", &spoke.version)], 1_u64)
        }),
        gauge("spoke_up_seconds", "For how long the spoke runs.", |spoke| spoke.up_seconds as usize),
        gauge("spoke_on_lan", "Whether it is on the LAN.", |spoke| usize::from(spoke.link.is_some())),
        gauge("spoke_off_lan_seconds", "For how long it is not; 0 while it is.", |spoke| {
            spoke.off_seconds.unwrap_or(0) as usize
        }),
        gauge("spoke_problems", "Lines `problem` of spoke status: what the kernel does not have.", |spoke| {
            spoke.problems.len()
        }),
        Metric::gauge("spoke_round_trip_seconds", "The last round trip to the hub.")
            .each("device", of_links(spokes, |link| Some(link.round_trip_ms? / 1_000.0))),
        Metric::gauge("spoke_lane_open", "Whether the link has a second connection.")
            .each("device", of_links(spokes, |link| Some(link.lane.is_some()))),
        Metric::gauge("spoke_queue_bytes", "Bytes that wait to be sent to the hub.")
            .each("device", of_links(spokes, |link| Some(link.queue_bytes))),
        counter("spoke_received_packets_total", "Packets from the hub.", |link| link.received.packets),
        counter("spoke_received_bytes_total", "Bytes from the hub.", |link| link.received.bytes),
        counter("spoke_sent_packets_total", "Packets to the hub.", |link| link.sent.packets),
        counter("spoke_sent_bytes_total", "Bytes to the hub.", |link| link.sent.bytes),
        spokes.iter().fold(dropped, with_drops),
    ]
}

/// Adds the drops of a spoke: every reason that there is.
fn with_drops(metric: Metric, spoke: &Status) -> Metric {
    Reason::ALL.iter().map(|reason| reason.label()).fold(metric, |metric, reason| {
        let count = spoke.drops.get(reason).copied().unwrap_or(0);
        metric.of([("device", &spoke.device), ("reason", reason)], count)
    })
}

/// A value of each spoke that is on the LAN.
fn of_links<V: Value>(
    spokes: &[Status],
    of: impl Fn(&LinkStatus) -> Option<V>,
) -> impl Iterator<Item = (&str, V)> {
    spokes.iter().filter_map(move |spoke| Some((spoke.device.as_str(), of(spoke.link.as_ref()?)?)))
}

#[cfg(test)]
mod tests {
    use common::node::metrics::{Kind, text};

    use super::*;
    use crate::control::Traffic;
    use crate::report::tests::away;

    fn spoke(device: &str, link: Option<LinkStatus>) -> Status {
        Status {
            device: device.to_owned(),
            phase: "on-lan".to_owned(),
            off_seconds: if link.is_none() { Some(7) } else { None },
            trouble: None,
            link,
            drops: [("not-on-lan".to_owned(), 4)].into(),
            ..away()
        }
    }

    #[test]
    fn each_spoke_has_its_lines_and_a_link_where_there_is_one() {
        let link = LinkStatus {
            seconds: 9,
            hub_address: "192.0.2.1:5678".parse().unwrap(),
            way: String::new(),
            round_trip_ms: Some(2.5),
            received: Traffic { packets: 1, bytes: 94 },
            sent: Traffic { packets: 2, bytes: 188 },
            queue_bytes: 7,
            lane: None,
        };
        let metrics = metrics(&[spoke("spoke0", Some(link)), spoke("spoke1", None)]);
        let text = text(&metrics);
        for line in [
            "spoke_build_info{device=\"spoke0\",version=\"1.2.3\"} 1",
            "spoke_on_lan{device=\"spoke0\"} 1",
            "spoke_on_lan{device=\"spoke1\"} 0",
            "spoke_off_lan_seconds{device=\"spoke1\"} 7",
            "spoke_round_trip_seconds{device=\"spoke0\"} 0.0025",
            "spoke_lane_open{device=\"spoke0\"} 0",
            "spoke_received_bytes_total{device=\"spoke0\"} 94",
            "spoke_sent_packets_total{device=\"spoke0\"} 2",
            "spoke_dropped_packets_total{device=\"spoke1\",reason=\"not-on-lan\"} 4",
            "spoke_dropped_packets_total{device=\"spoke1\",reason=\"denied\"} 0",
        ] {
            assert!(text.lines().any(|one| one == line), "{line} is missing:\n{text}");
        }
        assert!(!text.contains("spoke_queue_bytes{device=\"spoke1\"}"), "{text}");
        for Metric { name, kind, .. } in &metrics {
            assert_eq!(name.ends_with("_total"), *kind == Kind::Counter, "{name}");
        }
    }
}
