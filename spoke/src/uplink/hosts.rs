//! The members in the format of hosts(5). Pure.

use common::wire::frame::Peer;

/// The file's first line, by which it is known to be ours.
pub const MARKER: &str = "# The members of the LAN, kept in step by spoke.\n";

/// What comes behind [`MARKER`], one line an address: `10.0.0.2 laptop`.
pub fn text(peers: &[Peer]) -> String {
    let mut text = String::new();
    for peer in peers {
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
}
