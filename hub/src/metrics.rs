//! The hub's metrics, from what `hub status` and `hub rules` tell. Pure.
//!
//! How many series there are does not depend on how many members and rules there are, unless those are asked for.

use std::collections::BTreeMap;

use common::node::metrics::{Metric, Value};

use crate::control::{LinkStatus, MemberStatus, RuleList, Status};

/// The metrics of the hub as a whole; members are not looked at.
pub fn metrics(status: &Status) -> Vec<Metric> {
    let mut metrics = standing(status);
    metrics.extend(joins(status));
    metrics.extend(packets(status));
    metrics
}

/// How it stands.
fn standing(status: &Status) -> Vec<Metric> {
    let offline = status.known.saturating_sub(status.online + status.elsewhere);
    let members = [
        ("online", status.online),
        ("elsewhere", status.elsewhere),
        ("offline", offline),
        ("revoked", status.revoked),
    ];
    let others = || status.hubs.iter().filter(|hub| !hub.this);
    vec![
        Metric::gauge("hub_build_info", "The version that runs.").of([("version", &status.version)], 1_u64),
        Metric::gauge("process_start_time_seconds", "When the hub started, in Unix seconds.")
            .value(status.started_unix),
        Metric::gauge("hub_members", "Members, without hubs, by whether they are on the LAN.")
            .each("state", members),
        Metric::gauge("hub_linked_hubs", "Other hubs of the LAN, by whether there is a link to them.").each(
            "state",
            [
                ("linked", others().filter(|hub| hub.link.is_some()).count()),
                ("lost", others().filter(|hub| hub.link.is_none()).count()),
            ],
        ),
        Metric::gauge("hub_keeper_lost", "Whether who keeps the list of members is away: new machines wait.")
            .value(status.keeper.as_ref().is_some_and(|keeper| !keeper.reached)),
        Metric::gauge("hub_pending_machines", "Machines that wait to be let in.").value(status.pending),
        Metric::gauge("hub_invites", "Invites that can be used.").value(status.invites),
        Metric::gauge("hub_half_open_links", "Links that are not authenticated yet.").value(status.half_open),
        Metric::gauge("hub_locked", "Whether only members and invited machines can join.")
            .value(status.locked),
        Metric::gauge("hub_access_rules", "Access rules in force; missing where all may reach all.")
            .known(status.rules),
        Metric::gauge("hub_problems", "Lines `problem` of hub status: what the kernel does not have.")
            .value(status.problems.len()),
        Metric::gauge("hub_unwritten_changes", "Whether changes cannot be written to the state directory.")
            .value(status.trouble.is_some()),
    ]
}

/// Who came and went.
fn joins(status: &Status) -> Vec<Metric> {
    let totals = &status.totals;
    vec![
        Metric::counter("hub_connections_total", "Connections, and tunnels in pings, that were taken in.")
            .value(totals.connections),
        Metric::counter("hub_connections_refused_total", "Connections that were closed at once, by reason.")
            .each("reason", counts(&totals.turned_away)),
        Metric::counter("hub_handshakes_total", "Links by whether their other end proved a key.")
            .of([("result", "completed")], totals.handshakes)
            .of([("result", "failed")], totals.handshakes_failed),
        Metric::counter("hub_joins_total", "How often a machine was let in.").value(totals.joins),
        Metric::counter("hub_joins_refused_total", "How often a machine was not let in, by reason.")
            .each("reason", counts(&totals.refused)),
        Metric::counter("hub_links_ended_total", "Links of members that ended, by reason.")
            .each("reason", counts(&totals.left)),
        Metric::gauge("hub_lanes", "Second connections of members that are open.").value(totals.lanes.open),
        Metric::counter("hub_lanes_total", "Second connections of members, by what became of them.")
            .of([("result", "opened")], totals.lanes.opened)
            .of([("result", "refused")], totals.lanes.refused),
    ]
}

/// What went through it.
fn packets(status: &Status) -> Vec<Metric> {
    let totals = &status.totals;
    vec![
        Metric::counter(
            "hub_received_packets_total",
            "Packets from members; one of up to 64 KiB counts once.",
        )
        .value(totals.received.packets),
        Metric::counter(
            "hub_received_bytes_total",
            "Bytes of these packets, each with a header of 10 bytes.",
        )
        .value(totals.received.bytes),
        Metric::counter("hub_sent_packets_total", "Packets to members; one of up to 64 KiB counts once.")
            .value(totals.sent.packets),
        Metric::counter("hub_sent_bytes_total", "Bytes of these packets, each with a header of 10 bytes.")
            .value(totals.sent.bytes),
        Metric::counter("hub_dropped_packets_total", "Packets that were dropped, by reason.")
            .each("reason", counts(&totals.drops)),
        Metric::gauge("hub_queue_bytes", "Bytes that wait to be sent to members.").value(totals.queue_bytes),
    ]
}

fn counts(reasons: &BTreeMap<String, u64>) -> impl Iterator<Item = (&str, u64)> {
    reasons.iter().map(|(label, &count)| (label.as_str(), count))
}

/// The metrics of each member. Counts begin with its link.
pub fn of_members(members: &[MemberStatus]) -> Vec<Metric> {
    let online =
        Metric::gauge("hub_member_online", "Whether the member is on the LAN, at this hub or another one.")
            .each("member", members.iter().map(|member| (member.name.as_str(), member.is_online())));
    let counter = |name, help, of: fn(&LinkStatus) -> u64| {
        Metric::counter(name, help).each("member", of_links(members, |link| Some(of(link))))
    };
    vec![
        online,
        Metric::gauge("hub_member_round_trip_seconds", "The last round trip to the member.")
            .each("member", of_links(members, |link| Some(link.round_trip_ms? / 1_000.0))),
        Metric::gauge("hub_member_lane", "Whether the member has a second connection.")
            .each("member", of_links(members, |link| Some(link.lane.is_some()))),
        Metric::gauge("hub_member_queue_bytes", "Bytes that wait to be sent to the member.")
            .each("member", of_links(members, |link| Some(link.queue_bytes))),
        counter("hub_member_received_packets_total", "Packets from the member.", |link| {
            link.received.packets
        }),
        counter("hub_member_received_bytes_total", "Bytes from the member.", |link| link.received.bytes),
        counter("hub_member_sent_packets_total", "Packets to the member.", |link| link.sent.packets),
        counter("hub_member_sent_bytes_total", "Bytes to the member.", |link| link.sent.bytes),
        counter("hub_member_dropped_packets_total", "Packets from it and to it that were dropped.", |link| {
            link.drops.values().sum()
        }),
    ]
}

/// A value of each member that is on the LAN.
fn of_links<V: Value>(
    members: &[MemberStatus],
    of: impl Fn(&LinkStatus) -> Option<V>,
) -> impl Iterator<Item = (&str, V)> {
    members.iter().filter_map(move |member| Some((member.name.as_str(), of(member.link.as_ref()?)?)))
}

/// The metrics of each access rule; none where there are no rules.
pub fn of_rules(list: &RuleList) -> Vec<Metric> {
    if !list.exists {
        return Vec::new();
    }
    let lines = list.rules.iter().map(|rule| (rule.line.to_string(), rule.packets));
    let all = lines.chain([("none".to_owned(), list.unmatched)]);
    vec![
        Metric::counter(
            "hub_rule_packets_total",
            "Packets that a line of `rules` decided about, or none did.",
        )
        .each("line", all),
        Metric::gauge("hub_rule_flows", "Flows that may pass, and whose replies may.").value(list.flows),
    ]
}

#[cfg(test)]
mod tests {
    use common::node::metrics::{Kind, text};

    use super::*;
    use crate::control::{RuleStatus, Traffic};
    use crate::report::tests::{member, running};
    use crate::switch::tally::Tally;

    fn status() -> Status {
        let mut tally = Tally { joins: 3, queue_bytes: 4_096, ..Tally::default() };
        tally.put_off();
        (tally.lanes.open, tally.lanes.refused) = (2, 1);
        tally.drops.add(common::packet::drops::Reason::Denied);
        Status { online: 2, known: 5, problems: vec!["one".to_owned()], totals: tally.into(), ..running() }
    }

    fn online(name: &str) -> MemberStatus {
        let link = LinkStatus {
            seconds: 9,
            source: "192.0.2.10:40000".parse().unwrap(),
            round_trip_ms: Some(2.5),
            received: Traffic { packets: 1, bytes: 94 },
            sent: Traffic { packets: 2, bytes: 188 },
            queue_bytes: 7,
            drops: [("delay".to_owned(), 2), ("offline".to_owned(), 1)].into(),
            lane: None,
        };
        MemberStatus { link: Some(link), ..member(name, "10.0.0.2") }
    }

    #[test]
    fn every_line_of_the_hub_is_there() {
        let text = text(&metrics(&status()));
        for line in [
            "hub_build_info{version=\"1.2.3\"} 1",
            "process_start_time_seconds 1700000000",
            "hub_members{state=\"online\"} 2",
            "hub_members{state=\"offline\"} 3",
            "hub_members{state=\"revoked\"} 1",
            "hub_locked 1",
            "hub_problems 1",
            "hub_unwritten_changes 0",
            "hub_joins_total 3",
            "hub_joins_refused_total{reason=\"too-often\"} 1",
            "hub_joins_refused_total{reason=\"locked\"} 0",
            "hub_handshakes_total{result=\"failed\"} 0",
            "hub_connections_refused_total{reason=\"half-open\"} 0",
            "hub_links_ended_total{reason=\"silent\"} 0",
            "hub_lanes 2",
            "hub_lanes_total{result=\"refused\"} 1",
            "hub_dropped_packets_total{reason=\"denied\"} 1",
            "hub_dropped_packets_total{reason=\"queue-full\"} 0",
            "hub_queue_bytes 4096",
        ] {
            assert!(text.lines().any(|one| one == line), "{line} is missing:\n{text}");
        }
        assert!(!text.contains("hub_access_rules"), "there are none:\n{text}");
    }

    #[test]
    fn members_and_rules_have_series_of_their_own() {
        let elsewhere = MemberStatus { home: "hub-b".parse().ok(), ..member("desk", "10.0.0.4") };
        let text = text(&of_members(&[online("laptop"), member("nas", "10.0.0.3"), elsewhere]));
        for line in [
            "hub_member_online{member=\"laptop\"} 1",
            "hub_member_online{member=\"nas\"} 0",
            "hub_member_online{member=\"desk\"} 1",
            "hub_member_round_trip_seconds{member=\"laptop\"} 0.0025",
            "hub_member_lane{member=\"laptop\"} 0",
            "hub_member_queue_bytes{member=\"laptop\"} 7",
            "hub_member_received_bytes_total{member=\"laptop\"} 94",
            "hub_member_sent_packets_total{member=\"laptop\"} 2",
            "hub_member_dropped_packets_total{member=\"laptop\"} 3",
        ] {
            assert!(text.lines().any(|one| one == line), "{line} is missing:\n{text}");
        }
        assert_eq!(text.matches("nas").count(), 1, "{text}");
        let rule = RuleStatus { line: 4, text: "allow all".to_owned(), packets: 12 };
        let mut list =
            RuleList { file: "rules".into(), exists: true, rules: vec![rule], unmatched: 5, flows: 3 };
        assert_eq!(
            of_rules(&list).iter().map(|metric| metric.samples.clone()).collect::<Vec<_>>().concat().len(),
            3
        );
        list.exists = false;
        assert!(of_rules(&list).is_empty());
    }

    #[test]
    fn names_follow_the_conventions() {
        let list = RuleList { file: "rules".into(), exists: true, rules: vec![], unmatched: 0, flows: 0 };
        let all = [metrics(&status()), of_members(&[online("a")]), of_rules(&list)].concat();
        for Metric { name, kind, help, .. } in &all {
            assert_eq!(name.ends_with("_total"), *kind == Kind::Counter, "{name}");
            assert!(name.starts_with("hub_") || name == "process_start_time_seconds", "{name}");
            assert!(help.ends_with('.'), "{name}: {help}");
        }
        let mut names: Vec<&str> = all.iter().map(|metric| metric.name.as_str()).collect();
        names.sort_unstable();
        assert!(names.windows(2).all(|two| two[0] != two[1]), "{names:?}");
    }
}
