//! What the hub's commands print for people. Pure.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use common::node::human::{bytes, counted, duration, millis, table, time_left};
use ipnetwork::IpNetwork;

use crate::control::{
    Allowed, Explained, HubLinkStatus, HubStatus, InviteStatus, KeeperStatus, LinkStatus, MemberStatus,
    Moved, PendingStatus, Reloaded, Renamed, Revoked, RuleList, Standing, Status, Traffic,
};

mod drain;

pub use drain::draining;

/// The report of `hub status`.
pub fn status(status: &Status) -> String {
    let mut text = String::new();
    let subnets: Vec<String> = status.subnets.iter().map(ToString::to_string).collect();
    // A String takes whatever is written to it.
    let _ = writeln!(
        text,
        "hub {}: {} on {}, up for {}",
        status.version,
        subnets.join(" and "),
        status.device,
        duration(status.up_seconds)
    );
    let _ = writeln!(text, "listening on {}, key {}", join(&status.listening), status.key);
    let _ = writeln!(
        text,
        "{}: {} of {} members online{}{}{}{}{}",
        if status.locked { "locked" } else { "open to anyone (`hub lock` ends that)" },
        status.online,
        status.known,
        count(status.elsewhere, "with other hubs"),
        count(status.pending, "waiting (`hub pending`)"),
        count(status.invites, "invited"),
        count(status.revoked, "revoked"),
        count(status.half_open, "not authenticated yet"),
    );
    if let Some(rules) = status.rules {
        let _ = writeln!(text, "{} (`hub rules` lists them)", counted(rules, "access rule"));
    }
    if let Some(trouble) = &status.trouble {
        let _ = writeln!(text, "{trouble}");
    }
    if status.draining {
        let _ = writeln!(
            text,
            "draining: {} not gone to another hub yet (`hub drain --off` ends that)",
            match status.online {
                1 => "1 member has".to_owned(),
                online => format!("{online} members have"),
            }
        );
    }
    for hub @ HubStatus { name, place, key, .. } in &status.hubs {
        let _ = writeln!(text, "hub {name} at {place}, key {key}{}", link(hub));
    }
    if let Some(keeper) = &status.keeper {
        let _ = writeln!(text, "{}", self::keeper(keeper));
    }
    for problem in &status.problems {
        let _ = writeln!(text, "problem: {problem}");
    }
    for (member, other) in status.members.iter().filter_map(|member| Some((member, member.also_from?))) {
        let at = member.link.as_ref().map_or("offline".to_owned(), |link| format!("at {}", link.source.ip()));
        let _ = writeln!(
            text,
            "problem: {} is two machines with one key, {at} and at {other}: delete the file `key` in the state \
             directory of the one that is a copy",
            member.name
        );
    }
    if !status.drops.is_empty() {
        let _ = writeln!(text, "dropped by the hub itself: {}", drops(&status.drops));
    }
    if !status.members.is_empty() {
        text.push('\n');
        text.push_str(&members(&status.members));
    }
    text
}

/// The round trip of a link, and that of its lane.
fn round_trip(link: &LinkStatus) -> String {
    let time = |time: Option<f64>| time.map_or("-".to_owned(), millis);
    match &link.lane {
        Some(lane) => format!("{}, lane {}", time(link.round_trip_ms), time(lane.round_trip_ms)),
        None => time(link.round_trip_ms),
    }
}

/// Who keeps the list, and what that means while it is away.
fn keeper(keeper: &KeeperStatus) -> String {
    let name = keeper.name.as_ref().map_or_else(|| format!("the hub {}", keeper.key), ToString::to_string);
    match keeper {
        KeeperStatus { this: true, store: true, reached: true, .. } => {
            "this hub keeps the list of members, in a store".to_owned()
        }
        KeeperStatus { this: true, problem: Some(why), .. } => {
            format!("{why}; known machines can join, new ones wait")
        }
        KeeperStatus { this: true, .. } => "this hub keeps the list of members".to_owned(),
        KeeperStatus { reached: true, .. } => format!("{name} keeps the list of members"),
        _ => format!(
            "{name} keeps the list of members and cannot be reached: known machines can join, new ones wait (`hub keep` \
             here where it is lost for good)"
        ),
    }
}

/// How a hub's link stands.
fn link(hub: &HubStatus) -> String {
    match (&hub.link, &hub.problem) {
        _ if hub.this => " (this one)".to_owned(),
        (Some(HubLinkStatus { members, link }), _) => format!(
            ": linked for {}, round trip {}, {} there, {} wait, received {}, sent {}{}",
            duration(link.seconds),
            match link.lane {
                Some(_) => round_trip(link),
                None => link.round_trip_ms.map_or("not known".to_owned(), millis),
            },
            counted(*members, "member"),
            bytes(link.queue_bytes as u64),
            traffic(link.received),
            traffic(link.sent),
            if link.drops.is_empty() { String::new() } else { format!(", dropped {}", drops(&link.drops)) },
        ),
        (None, Some(why)) => format!(": no link: {why}"),
        (None, None) => ": no link yet".to_owned(),
    }
}

/// The table of members; with their tags where there are any.
pub fn members(members: &[MemberStatus]) -> String {
    let rows: Vec<_> = members.iter().map(row).collect();
    if members.iter().all(|member| member.tags.is_empty()) {
        return table(HEADER, &rows);
    }
    let with_tags = |cells: [String; 11], tags: String| {
        let [name, address, routes, rest @ ..] = cells;
        let [a, b, c, d, e, f, g, h] = rest;
        [name, address, tags, routes, a, b, c, d, e, f, g, h]
    };
    let header = with_tags(HEADER.map(str::to_owned), "TAGS".to_owned());
    let rows: Vec<_> =
        rows.into_iter().zip(members).map(|(cells, member)| with_tags(cells, list(&member.tags))).collect();
    table(header.each_ref().map(String::as_str), &rows)
}

const HEADER: [&str; 11] =
    ["NAME", "ADDRESS", "ROUTES", "SEEN", "FROM", "RTT", "RECEIVED", "SENT", "QUEUE", "DROPPED", "KEY"];

fn row(member: &MemberStatus) -> [String; 11] {
    let addresses = list(&member.addresses);
    let routes = list(&member.routes);
    let (name, key) = (member.name.to_string(), member.key.to_string());
    let Some(link) = &member.link else {
        let ago = member.seen_seconds_ago.map(|seconds| format!("{} ago", duration(seconds)));
        let away = member.home.as_ref().map(|hub| format!("online at {hub}"));
        let seen = away.or(ago).unwrap_or("-".to_owned());
        let [a, b, c, d, e, f] = std::array::from_fn(|_| "-".to_owned());
        return [name, addresses, routes, seen, a, b, c, d, e, f, key];
    };
    [
        name,
        addresses,
        routes,
        format!("online {}", duration(link.seconds)),
        link.source.to_string(),
        round_trip(link),
        traffic(link.received),
        traffic(link.sent),
        bytes(link.queue_bytes as u64),
        if link.drops.is_empty() { "0".to_owned() } else { drops(&link.drops) },
        key,
    ]
}

fn list(items: &[impl ToString]) -> String {
    if items.is_empty() {
        return "-".to_owned();
    }
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

fn traffic(way: Traffic) -> String {
    format!("{} / {}", bytes(way.bytes), way.packets)
}

fn drops(drops: &BTreeMap<String, u64>) -> String {
    drops.iter().map(|(reason, count)| format!("{reason}:{count}")).collect::<Vec<_>>().join(",")
}

fn count(count: usize, what: &str) -> String {
    if count == 0 { String::new() } else { format!(", {count} {what}") }
}

/// The answer to `hub lock` and `hub unlock`.
pub fn standing(standing: &Standing) -> String {
    let Standing { locked, known, online, invites, ports } = standing;
    if !locked {
        return format!("open: anyone who reaches {} can join\n", named_ports(ports));
    }
    let members = match (known, online) {
        (0, _) => None,
        (1, 0) => Some("the member known now (offline)".to_owned()),
        (1, _) => Some("the member known now (online)".to_owned()),
        _ => Some(format!("the {known} members known now ({online} online)")),
    };
    let invited = match invites {
        0 => None,
        1 => Some("the one with an invite".to_owned()),
        many => Some(format!("the {many} with invites")),
    };
    let who = match (members, invited) {
        (None, None) => "nobody can join, as there is no member yet".to_owned(),
        (Some(one), None) | (None, Some(one)) => format!("{one} can join, and nobody else"),
        (Some(members), Some(invited)) => format!("{members} can join, {invited}, and nobody else"),
    };
    format!("locked: {who}\n`hub invite NAME` lets another one in, `hub pending` shows who asks\n")
}

/// Several things in a sentence.
pub fn join(items: &[impl ToString]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ")
}

/// Ports in a sentence: `port 443`, or `ports 443 and 5678`.
pub fn named_ports(ports: &[u16]) -> String {
    format!("{} {}", if ports.len() == 1 { "port" } else { "ports" }, join(ports))
}

/// The answer to `hub revoke`.
pub fn revoked(revoked: &Revoked) -> String {
    let others = match &revoked.hubs[..] {
        [] => ", then `hub reload`".to_owned(),
        hubs => format!(
            " and in `members` of {}, then `hub reload` at each, first where the list is kept",
            join(hubs)
        ),
    };
    let unreached = match &revoked.unreached[..] {
        [] => String::new(),
        hubs => format!("no link to {}: there it is still let in, until there is one\n", join(hubs)),
    };
    let kept = if revoked.kept {
        "it kept the list of members: `hub keep` here, or at another hub, and the list can change again\n"
    } else {
        ""
    };
    format!(
        "{} ({}) is revoked{}: key {} cannot join again\n{unreached}{kept}to undo that, delete `revoked` at the end of its line in {}{others}\n",
        revoked.name,
        list(&revoked.addresses),
        if revoked.online { " and off the LAN" } else { "" },
        revoked.key,
        revoked.file.display()
    )
}

/// The answer to `hub forget`.
pub fn forgotten(forgotten: &Revoked) -> String {
    let Revoked { name, addresses, .. } = forgotten;
    format!("{name} ({}) is forgotten: its name and address are free\n", list(addresses))
}

/// The answer to `hub rename`.
pub fn renamed(renamed: &Renamed) -> String {
    format!("{} is called {} from now on\n", renamed.from, renamed.to)
}

/// The answer to `hub allow`.
pub fn allowed(allowed: &Allowed) -> String {
    let Allowed { name, key, waited } = allowed;
    let next = if *waited { "it waits already, and is on the LAN in a moment" } else { "it can join now" };
    format!("{name} is a member, with the key {key}: {next}\n")
}

/// The answer to `hub pending`.
pub fn pending(pending: &[PendingStatus]) -> String {
    if pending.is_empty() {
        return "nobody waits\n".to_owned();
    }
    let row = |one: &PendingStatus| {
        [one.name.to_string(), one.source.to_string(), duration(one.seconds), one.key.to_string()]
    };
    let rows: Vec<_> = pending.iter().map(row).collect();
    let table = table(["NAME", "FROM", "SINCE", "KEY"], &rows);
    format!("{table}\n`hub allow NAME` lets one in; compare its key with `spoke key` there\n")
}

/// The answer to `hub invites`.
pub fn invites(invites: &[InviteStatus]) -> String {
    if invites.is_empty() {
        return "there are no invites\n".to_owned();
    }
    let row = |one: &InviteStatus| {
        let uses = one.uses.map_or("once".to_owned(), |uses| counted(uses, "machine"));
        [
            one.name.to_string(),
            uses,
            time_left(one.seconds),
            list(&one.addresses),
            list(&one.routes),
            list(&one.tags),
        ]
    };
    let rows: Vec<_> = invites.iter().map(row).collect();
    table(["NAME", "GOOD", "FOR", "ADDRESS", "ROUTES", "TAGS"], &rows)
}

/// The answer to `hub reload`.
pub fn reloaded(reloaded: &Reloaded) -> String {
    let members = counted(reloaded.standing.known, "member");
    let mut text = format!("read again: {members}, {} in the list\n", counted(reloaded.changed, "change"));
    for (name, outcome) in &reloaded.changes {
        let _ = writeln!(text, "  {name} {outcome}");
    }
    if reloaded.changed > reloaded.changes.len() {
        text.push_str("  …\n");
    }
    if let Some(rules) = reloaded.rules {
        let _ = writeln!(text, "{}", counted(rules, "access rule"));
    }
    if let Some(file) = &reloaded.certificate {
        let _ = writeln!(text, "new links get the TLS certificate in {}", file.display());
    }
    text
}

/// What `hub renumber` prints.
pub fn moved(moved: &Moved) -> String {
    let steps: Vec<String> = moved.steps.iter().map(|(from, to)| format!("{from} to {to}")).collect();
    let (members, invites) = (counted(moved.members, "member"), counted(moved.invites, "invite"));
    let mut text = format!("moved {}: {members} and {invites} keep their host parts", steps.join(" and "));
    let _ = match (moved.running, moved.online) {
        (false, _) => writeln!(text, "; it holds when the hub starts"),
        (true, 0) => writeln!(text),
        (true, 1) => writeln!(text, "; the one online comes back with its new address"),
        (true, online) => writeln!(text, "; {online} online come back with their new addresses"),
    };
    for (route, name) in &moved.hidden {
        let _ =
            writeln!(text, "the route {route} of {name} is in the new subnet: it does not count any more");
    }
    if !moved.hubs.is_empty() {
        let hubs = join(&moved.hubs);
        let _ = writeln!(
            text,
            "run the same at {hubs}: a hub that has not moved has no link to one that has, and its members keep their old \
             addresses"
        );
    }
    let list = |end: fn(&(IpNetwork, IpNetwork)) -> IpNetwork| -> Vec<String> {
        moved.steps.iter().map(|step| end(step).to_string()).collect()
    };
    let (old, new) = (list(|step| step.0), list(|step| step.1));
    let _ = writeln!(
        text,
        "write --subnet {} where the hub is started, and new addresses where spokes have --ip and where `rules` has old \
         ones; until then the old ones mean the new ones",
        new.join(" --subnet ")
    );
    let _ = writeln!(text, "`hub renumber {}` undoes it", old.join(","));
    text
}

/// The answer to `hub rules`.
pub fn rules(list: &RuleList) -> String {
    let file = list.file.display();
    if !list.exists {
        return format!("no access rules: everyone on the LAN may reach everyone\n{file} would hold them\n");
    }
    let mut rows: Vec<_> = list
        .rules
        .iter()
        .map(|rule| [rule.line.to_string(), rule.packets.to_string(), rule.text.clone()])
        .collect();
    rows.push(["-".to_owned(), list.unmatched.to_string(), "(no line matches: denied)".to_owned()]);
    let flows = counted(list.flows, "flow");
    format!("{file}; {flows} may pass\n\n{}", table(["LINE", "PACKETS", "RULE"], &rows))
}

/// The answer to `hub rules --explain`.
pub fn explained(explained: &Explained) -> String {
    let Explained { allowed, line, text, has_rules, from, to } = explained;
    let what = if *allowed { "allowed" } else { "denied" };
    let why = match (line, text) {
        (Some(line), Some(text)) => format!("by line {line}: {text}"),
        (Some(line), None) => format!("by line {line}"),
        (None, _) if *has_rules => "as no line matches".to_owned(),
        (None, _) => "as there are no access rules".to_owned(),
    };
    format!("{from} to {to}: {what} {why}\n")
}

#[cfg(test)]
pub(crate) mod tests {
    use common::wire::key::PrivateKey;

    use common::node::lane_status::LaneStatus;

    use super::*;
    use crate::control::LinkStatus;
    use crate::totals::Totals;

    pub(crate) fn member(name: &str, ip: &str) -> MemberStatus {
        MemberStatus {
            name: name.parse().unwrap(),
            key: PrivateKey::from_random([1; 32]).public(),
            addresses: vec![ip.parse().unwrap()],
            routes: vec![],
            tags: vec![],
            link: None,
            home: None,
            also_from: None,
            seen_seconds_ago: None,
        }
    }

    /// A hub, one of whose two members is online.
    pub(crate) fn running() -> Status {
        Status {
            version: "1.2.3".to_owned(),
            up_seconds: 60,
            started_unix: 1_700_000_000,
            listening: vec!["[::]:5678".parse().unwrap()],
            device: "hub0".to_owned(),
            mtu: 1_500,
            subnets: vec!["10.0.0.0/24".parse().unwrap()],
            key: PrivateKey::from_random([2; 32]).public(),
            locked: true,
            draining: false,
            hubs: vec![],
            keeper: None,
            online: 1,
            elsewhere: 0,
            known: 2,
            revoked: 1,
            invites: 0,
            pending: 0,
            half_open: 0,
            rules: None,
            trouble: None,
            problems: vec![],
            zone: None,
            drops: BTreeMap::new(),
            totals: Totals::default(),
            members: vec![],
        }
    }

    #[test]
    fn the_status_is_a_head_and_an_aligned_table() {
        let mut online = member("laptop", "10.0.0.2");
        online.link = Some(LinkStatus {
            seconds: 130,
            source: "192.0.2.10:4000".parse().unwrap(),
            round_trip_ms: Some(0.42),
            received: Traffic { packets: 3, bytes: 2_048 },
            sent: Traffic::default(),
            queue_bytes: 0,
            drops: [("delay".to_owned(), 2), ("forged-source".to_owned(), 1)].into(),
            lane: None,
        });
        let mut two = online.link.clone().unwrap();
        two.lane = Some(LaneStatus {
            seconds: 9,
            round_trip_ms: Some(41.0),
            received: Traffic::default(),
            sent: Traffic::default(),
        });
        assert_eq!(round_trip(&two), "0.42 ms, lane 41 ms");
        let mut away = member("phone", "10.0.0.3");
        away.seen_seconds_ago = Some(7_200);
        let report = status(&Status { members: vec![online, away], ..running() });
        let lines: Vec<&str> = report.lines().collect();
        assert_eq!(lines[0], "hub 1.2.3: 10.0.0.0/24 on hub0, up for 1 m");
        assert!(lines[1].starts_with("listening on [::]:5678, key "));
        assert_eq!(lines[2], "locked: 1 of 2 members online, 1 revoked");
        let laptop = "laptop  10.0.0.2  -       online 2 m  192.0.2.10:4000  0.42 ms  2.0 KiB / 3  0 B / 0  0 B    \
                      delay:2,forged-source:1  ";
        assert!(lines[5].starts_with(laptop), "{report}");
        assert!(
            lines[6].starts_with("phone   10.0.0.3  -       2 h ago     -                -  "),
            "{report}"
        );
    }

    #[test]
    fn a_revoked_member_is_let_in_again_at_each_hub() {
        let mut facts = Revoked {
            name: "nas".parse().unwrap(),
            key: PrivateKey::from_random([1; 32]).public(),
            addresses: vec![],
            online: false,
            file: "/var/lib/hub/members".into(),
            hubs: vec![],
            unreached: vec![],
            kept: false,
        };
        assert!(revoked(&facts).ends_with(" its line in /var/lib/hub/members, then `hub reload`\n"));
        facts.hubs = ["hub-b", "hub-c"].map(|hub| hub.parse().unwrap()).to_vec();
        assert!(revoked(&facts).ends_with(
            " its line in /var/lib/hub/members and in `members` of hub-b and hub-c, then `hub reload` at each, first where \
             the list is kept\n"
        ));
        (facts.unreached, facts.kept) = (vec!["hub-c".parse().unwrap()], true);
        let said = revoked(&facts);
        assert!(
            said.contains("\nno link to hub-c: there it is still let in") && said.contains("`hub keep` here")
        );
    }

    #[test]
    fn a_lan_with_several_hubs_is_moved_at_each() {
        let step = ("10.0.0.0/24".parse().unwrap(), "10.44.0.0/24".parse().unwrap());
        let mut facts = Moved {
            steps: vec![step],
            members: 2,
            online: 0,
            invites: 0,
            hidden: vec![],
            hubs: vec![],
            running: true,
        };
        assert!(!moved(&facts).contains("run the same at"));
        facts.hubs = ["hub-b", "hub-c"].map(|hub| hub.parse().unwrap()).to_vec();
        assert!(moved(&facts).contains("\nrun the same at hub-b and hub-c: "), "{}", moved(&facts));
    }

    #[test]
    fn lock_says_what_it_means() {
        let mut facts = Standing { locked: true, known: 3, online: 2, invites: 1, ports: vec![5678] };
        let locked =
            "locked: the 3 members known now (2 online) can join, the one with an invite, and nobody else\n";
        assert!(standing(&facts).starts_with(locked));
        facts.locked = false;
        assert_eq!(standing(&facts), "open: anyone who reaches port 5678 can join\n");
        let locked = |known, online, invites| {
            let text = standing(&Standing { locked: true, known, online, invites, ports: vec![] });
            text.lines().next().unwrap_or_default().to_owned()
        };
        assert_eq!(locked(1, 1, 0), "locked: the member known now (online) can join, and nobody else");
        assert_eq!(locked(0, 0, 2), "locked: the 2 with invites can join, and nobody else");
        assert_eq!(locked(0, 0, 0), "locked: nobody can join, as there is no member yet");
        facts.ports.insert(0, 443);
        assert_eq!(standing(&facts), "open: anyone who reaches ports 443 and 5678 can join\n");
    }
}
