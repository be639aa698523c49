//! What the spoke's commands print for people. Pure.

use std::fmt::Write as _;
use std::path::Path;

use common::node::human::{bytes, counted, duration, millis, table};
use common::node::text::Printable;

use crate::control::{Status, Traffic, WayStatus};

/// The report of `spoke status`.
pub fn status(status: &Status) -> String {
    let mut text = String::new();
    let addresses: Vec<String> = status.addresses.iter().map(ToString::to_string).collect();
    let addresses = if addresses.is_empty() { "no address yet".to_owned() } else { addresses.join(" and ") };
    // A String takes whatever is written to it.
    if status.link.is_none() {
        let off = status.off_seconds.map_or(String::new(), |seconds| format!(" for {}", duration(seconds)));
        let _ = writeln!(text, "OFF THE LAN{off}: {}", doing(&status.phase));
        if let Some(why) = &status.trouble {
            let _ = writeln!(text, "{}", Printable::whole(why));
        }
    }
    let _ = writeln!(
        text,
        "spoke {}: {}, {addresses} on {}, up for {}",
        status.version,
        status.name,
        status.device,
        duration(status.up_seconds)
    );
    let _ = writeln!(text, "own key {}", status.key);
    let hub_key = status.hub_key.map_or("not known yet".to_owned(), |key| key.to_string());
    let _ = writeln!(text, "hub {}, key {hub_key}", status.hub);
    if let Some(link) = &status.link {
        let round_trip = link.round_trip_ms.map_or("not known yet".to_owned(), millis);
        let _ = writeln!(
            text,
            "on the LAN for {} through {}, round trip {round_trip}",
            duration(link.seconds),
            link.hub_address
        );
        if !link.way.is_empty() && link.way != status.hub {
            let _ = writeln!(text, "the link leads to {}", Printable(&link.way));
        }
        let _ = writeln!(
            text,
            "received {}, sent {}, {} in the queue",
            traffic(link.received),
            traffic(link.sent),
            bytes(link.queue_bytes as u64)
        );
        if let Some(lane) = &link.lane {
            let _ = writeln!(text, "{}", lane.text());
        }
    }
    if status.ways.len() > 1 {
        for way in &status.ways {
            let _ = writeln!(text, "way {}: {}", Printable(&way.way), answer(way, status.link.is_some()));
        }
    }
    for hub in &status.hubs {
        let round_trip = hub.round_trip_ms.map_or("not known".to_owned(), millis);
        let since =
            hub.since_seconds.map_or(String::new(), |seconds| format!(", in use for {}", duration(seconds)));
        let ways = hub.ways.join(", ");
        let _ = writeln!(
            text,
            "hub {}: round trip {round_trip}{since}, reached by {}",
            hub.key,
            Printable(&ways)
        );
    }
    for problem in &status.problems {
        let _ = writeln!(text, "problem: {}", Printable(problem));
    }
    if !status.drops.is_empty() {
        let drops: Vec<String> =
            status.drops.iter().map(|(reason, count)| format!("{reason}:{count}")).collect();
        let _ = writeln!(text, "dropped {}", drops.join(","));
    }
    if !status.members.is_empty() {
        text.push('\n');
        let rows: Vec<_> = status.members.iter().map(|member| row(member, status)).collect();
        text.push_str(&table(["NAME", "ADDRESS", ""], &rows));
    }
    text
}

/// What came of a way to the hub.
fn answer(way: &WayStatus, is_on_lan: bool) -> String {
    match &way.answer {
        None if way.is_current && is_on_lan => "in use".to_owned(),
        None => "not tried since it worked, or at all".to_owned(),
        Some(why) => Printable::whole(why).to_string(),
    }
}

/// What a spoke that is not on the LAN does about it.
fn doing(phase: &str) -> &'static str {
    match phase {
        "looking-up" => "looking up the hub's name",
        "connecting" => "connecting to the hub",
        "joining" => "joining",
        "pending" => "waiting to be let in by the hub's owner",
        _ => "waiting before the next try",
    }
}

/// What to do where a command finds no spoke to ask.
pub fn nothing_runs(state: &Path, is_root: bool) -> String {
    let state = state.display();
    let sudo = if is_root { "" } else { " (or try sudo)" };
    format!(
        "nothing runs with the state directory {state}{sudo}: start the spoke with `systemctl start spoke@NAME` or \
         `sudo spoke --hub HOST`, or name another directory with --state DIR"
    )
}

fn row(member: &crate::control::MemberStatus, status: &Status) -> [String; 3] {
    let addresses: Vec<String> = member.addresses.iter().map(ToString::to_string).collect();
    let how = match (member.online, member.name == status.name) {
        (_, true) => "this spoke",
        (true, false) => "online",
        (false, false) => "offline",
    };
    let addresses = if addresses.is_empty() { "-".to_owned() } else { addresses.join(",") };
    [member.name.to_string(), addresses, how.to_owned()]
}

fn traffic(way: Traffic) -> String {
    format!("{} in {}", bytes(way.bytes), counted(way.packets, "packet"))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use common::node::lane_status::LaneStatus;
    use common::wire::key::PrivateKey;

    use super::*;
    use crate::control::{LinkStatus, MemberStatus};

    /// A spoke that is not on the LAN.
    pub(crate) fn away() -> Status {
        Status {
            version: "1.2.3".to_owned(),
            up_seconds: 3_600,
            name: "laptop".parse().unwrap(),
            addresses: vec![],
            device: "spoke0".to_owned(),
            key: PrivateKey::from_random([1; 32]).public(),
            hub: "hub.example.org:5678".to_owned(),
            ways: vec![],
            hubs: Vec::new(),
            hub_key: None,
            phase: "connecting".to_owned(),
            off_seconds: Some(7),
            trouble: Some("cannot reach it\u{1b}[31m".to_owned()),
            problems: vec![],
            zone: None,
            link: None,
            drops: BTreeMap::new(),
            members: vec![],
        }
    }

    #[test]
    fn a_spoke_that_is_not_on_the_lan_says_so_first_and_prints_no_escapes() {
        let report = status(&away());
        let head = "OFF THE LAN for 7 s: connecting to the hub\ncannot reach it\\u{1b}[31m\n\
                    spoke 1.2.3: laptop, no address yet on spoke0, up for 1 h\n";
        assert!(report.starts_with(head), "{report}");
    }

    #[test]
    fn the_remedy_is_shown_whole() {
        let long = format!("{} run with --hub-key X once", "the hub has another key; ".repeat(20));
        let report = status(&Status { trouble: Some(long.clone()), ..away() });
        assert_eq!(report.lines().nth(1), Some(long.as_str()));
    }

    #[test]
    fn where_nothing_runs_it_says_how_to_start() {
        let text = nothing_runs(Path::new("/var/lib/spoke"), false);
        let head = "nothing runs with the state directory /var/lib/spoke (or try sudo): start the spoke with `systemctl";
        assert!(text.starts_with(head), "{text}");
        assert!(!nothing_runs(Path::new("/var/lib/spoke"), true).contains("(or"));
    }

    #[test]
    fn a_spoke_on_the_lan_tells_its_link_and_the_others() {
        let member = |name: &str, ip: &str, online| MemberStatus {
            name: name.parse().unwrap(),
            addresses: vec![ip.parse().unwrap()],
            online,
        };
        let report = status(&Status {
            addresses: vec!["10.0.0.2/24".parse().unwrap()],
            phase: "on-lan".to_owned(),
            trouble: None,
            problems: vec!["route 192.168.5.0/24 is not installed: because".to_owned()],
            link: Some(LinkStatus {
                seconds: 120,
                hub_address: "192.0.2.1:3128".parse().unwrap(),
                way: "hub.example.org:5678 through the proxy http://192.0.2.1:3128".to_owned(),
                round_trip_ms: Some(0.5),
                received: Traffic { packets: 2, bytes: 2_048 },
                sent: Traffic { packets: 1, bytes: 84 },
                queue_bytes: 0,
                lane: Some(LaneStatus {
                    seconds: 60,
                    round_trip_ms: Some(41.0),
                    received: Traffic { packets: 1, bytes: 94 },
                    sent: Traffic::default(),
                }),
            }),
            drops: [("not-on-lan".to_owned(), 4)].into(),
            members: vec![member("laptop", "10.0.0.2", true), member("phone", "10.0.0.3", false)],
            ..away()
        });
        let lines: Vec<&str> = report.lines().skip(3).collect();
        assert_eq!(
            lines,
            [
                "on the LAN for 2 m through 192.0.2.1:3128, round trip 0.50 ms",
                "the link leads to hub.example.org:5678 through the proxy http://192.0.2.1:3128",
                "received 2.0 KiB in 2 packets, sent 84 B in 1 packet, 0 B in the queue",
                "a second connection is open for 1 m, round trip 41 ms: received 94 B in 1 packet, sent 0 B in 0 packets",
                "problem: route 192.168.5.0/24 is not installed: because",
                "dropped not-on-lan:4",
                "",
                "NAME    ADDRESS",
                "laptop  10.0.0.2  this spoke",
                "phone   10.0.0.3  offline",
            ]
        );
    }
}
