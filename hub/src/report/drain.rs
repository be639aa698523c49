//! What `hub drain` prints for people. Pure.

use crate::control::Draining;

/// The answer to `hub drain`: it names hubs that this one reaches, as those are there to be gone to.
pub fn draining(draining: &Draining) -> String {
    let Draining { draining, online, hubs } = draining;
    if !draining {
        return "members that come may stay again\n".to_owned();
    }
    let linked = hubs.iter().filter(|hub| hub.link.is_some());
    let others: Vec<String> = linked.map(|hub| format!("{} at {}", hub.name, hub.place)).collect();
    let whither = match &others[..] {
        [] => "another hub, but this one has no link to any: who reaches none stays".to_owned(),
        hubs => hubs.join(" or "),
    };
    let who = match online {
        0 => "nobody is online here; members that come are".to_owned(),
        1 => "the member online here is".to_owned(),
        many => format!("the {many} members online here are"),
    };
    format!(
        "draining: {who} told to go to {whither}\n`hub status` shows how many are left, `hub drain --off` ends it\n"
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use common::wire::key::PrivateKey;

    use super::*;
    use crate::control::{HubLinkStatus, HubStatus, LinkStatus, Traffic};

    #[test]
    fn hubs_are_named_that_can_be_reached() {
        let link = LinkStatus {
            seconds: 130,
            source: "192.0.2.10:4000".parse().unwrap(),
            round_trip_ms: None,
            received: Traffic::default(),
            sent: Traffic::default(),
            queue_bytes: 0,
            drops: BTreeMap::new(),
            lane: None,
        };
        let hub = |name: &str, is_linked: bool| HubStatus {
            name: name.parse().unwrap(),
            place: format!("{name}.example.org:5678"),
            key: PrivateKey::from_random([1; 32]).public(),
            this: false,
            link: is_linked.then(|| HubLinkStatus { members: 0, link: link.clone() }),
            problem: None,
        };
        let drained = |online, hubs| draining(&Draining { draining: true, online, hubs });
        let text = drained(2, vec![hub("b", true), hub("c", false), hub("d", true)]);
        let told = "draining: the 2 members online here are told to go to b at b.example.org:5678 or d at";
        assert!(text.starts_with(told), "{text}");
        let text = drained(1, vec![hub("c", false)]);
        let told =
            "draining: the member online here is told to go to another hub, but this one has no link to any";
        assert!(text.starts_with(told), "{text}");
    }
}
