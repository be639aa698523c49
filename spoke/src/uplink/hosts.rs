//! The members in the format of hosts(5). Pure.

use std::collections::HashSet;

use common::wire::frame::Peer;

/// The file's first line, by which it is known to be ours.
pub const MARKER: &str = "# The members of the LAN, kept in step by spoke.\n";

/// What comes behind [`MARKER`], one line an address: `10.0.0.2 laptop`.
///
/// Names that are no host's ([`Name::check_host`](common::wire::name::Name::check_host)) are left out, and where
/// several members have one name, all but the first: no member can stand in for `localhost`.
pub fn text(peers: &[Peer]) -> String {
    let mut text = String::new();
    let mut seen = HashSet::new();
    for peer in peers.iter().filter(|peer| peer.name.check_host().is_ok()) {
        if !seen.insert(&peer.name) {
            continue;
        }
        for address in &peer.addresses {
            text.push_str(&format!("{address} {}\n", peer.name));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_a_line_for_each_address() {
        let peer = |name: &str, addresses: &[&str]| Peer {
            name: name.parse().unwrap(),
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            online: true,
        };
        let text = text(&[peer("laptop", &["10.0.0.2", "fd00::2"]), peer("ghost", &[])]);
        assert_eq!(text, "10.0.0.2 laptop\nfd00::2 laptop\n");
    }

    #[test]
    fn says_nothing_that_a_machine_takes_for_something_else() {
        let peer = |name: &str, address: &str| Peer {
            name: name.parse().unwrap(),
            addresses: vec![address.parse().unwrap()],
            online: true,
        };
        let text = text(&[
            peer("localhost", "10.0.0.66"),
            peer("LOCALHOST", "10.0.0.66"),
            peer("www.example.com", "10.0.0.66"),
            peer("10", "10.0.0.66"),
            peer("wpad", "10.0.0.66"),
            peer("laptop", "10.0.0.2"),
            peer("Laptop", "10.0.0.66"),
        ]);
        assert_eq!(text, "10.0.0.2 laptop\n");
    }
}
