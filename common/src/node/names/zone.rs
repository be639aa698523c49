//! The zone that names are in, and who has which name and address. Pure.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use crate::node::args::{Command, Setting};
use crate::node::config::Settings;
use crate::node::values;
use crate::wire::frame::Peer;
use crate::wire::name::Name;

/// `--dns`.
pub const DNS: Setting = Setting::switch(
    "dns",
    "answer DNS questions for NAME.lan, on port 53 of this machine's LAN addresses; all others are refused",
);
/// `--zone`.
pub const ZONE: Setting =
    Setting::one("zone", "DOMAIN", "with --dns, the domain that names are in").or("lan");

/// The command that has systemd-resolved ask for the zone: see `resolved`.
pub const REGISTER: Command = Command {
    name: "resolved",
    help: "has systemd-resolved ask this machine for the LAN's names (as root; with --dns), until the device goes",
    operands: "",
    settings: &[ZONE],
};

/// The zone to answer for, if that was asked for.
///
/// # Errors
/// Where the zone is none that can be answered for, or nothing answers.
pub fn of_settings(settings: &Settings) -> Result<Option<Zone>, String> {
    match (settings.switch("dns")?, settings.one("zone", values::any)?) {
        (true, zone) => Ok(Some(zone.unwrap_or_default())),
        (false, Some(_)) => Err("--zone needs --dns".to_owned()),
        (false, None) => Ok(None),
    }
}

/// A domain, in small letters, without a dot at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone(String);

/// Longest zone, in bytes: a name of a member in front of it still is a domain name (RFC 1035, section 2.3.4).
const MAX_LEN: usize = 180;

impl Zone {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Zone {
    fn default() -> Zone {
        Zone("lan".to_owned())
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Zone {
    type Err = String;

    fn from_str(text: &str) -> Result<Zone, String> {
        let zone = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let is_label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        if zone.len() > MAX_LEN || !zone.split('.').all(is_label) {
            return Err(format!("{text:?} is no domain: write one such as lan or home.example.org"));
        }
        match zone.rsplit('.').next() {
            Some("local") => {
                Err(format!("{zone} belongs to multicast DNS (RFC 6762): use another, such as lan"))
            }
            Some("localhost" | "arpa" | "onion" | "invalid") => {
                Err(format!("{zone} means something else to machines: use another, such as lan"))
            }
            _ => Ok(Zone(zone)),
        }
    }
}

/// Who has which name and address on the LAN.
pub trait Directory {
    /// Whether it is known yet who is on the LAN.
    fn is_known(&self) -> bool;

    /// The addresses of the machine with this name.
    fn addresses(&self, name: &Name) -> Option<Vec<IpAddr>>;

    /// The name of the machine with this address.
    fn name(&self, address: IpAddr) -> Option<Name>;
}

/// A directory made of the list of members as the hub tells it. Names that can be no host's are left out, and where
/// several members have one name, all but the first.
#[derive(Debug, Default)]
pub struct NameTable {
    is_known: bool,
    addresses: HashMap<Name, Vec<IpAddr>>,
    names: HashMap<IpAddr, Name>,
}

impl NameTable {
    /// The directory of this list.
    pub fn new(peers: &[Peer]) -> NameTable {
        let mut table = NameTable { is_known: true, ..NameTable::default() };
        for peer in peers.iter().filter(|peer| peer.name.check_host().is_ok()) {
            if table.addresses.contains_key(&peer.name) {
                continue;
            }
            table.addresses.insert(peer.name.clone(), peer.addresses.clone());
            for &address in &peer.addresses {
                table.names.entry(address).or_insert_with(|| peer.name.clone());
            }
        }
        table
    }
}

impl Directory for NameTable {
    fn is_known(&self) -> bool {
        self.is_known
    }

    fn addresses(&self, name: &Name) -> Option<Vec<IpAddr>> {
        self.addresses.get(name).cloned()
    }

    fn name(&self, address: IpAddr) -> Option<Name> {
        self.names.get(&address).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_is_a_domain_that_nothing_else_answers_for() {
        for (text, zone) in [("lan", "lan"), ("LAN.", "lan"), ("home.Example.org", "home.example.org")] {
            assert_eq!(text.parse::<Zone>().unwrap().as_str(), zone);
        }
        for (text, why) in [
            ("", "no domain"),
            (".", "no domain"),
            ("a..b", "no domain"),
            ("a_b", "no domain"),
            ("-a", "no domain"),
            ("local", "multicast DNS"),
            ("home.local.", "multicast DNS"),
            ("10.in-addr.arpa", "means something else"),
        ] {
            let error = text.parse::<Zone>().unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
        assert!("a".repeat(64).parse::<Zone>().is_err());
        assert!(["a"; 91].join(".").parse::<Zone>().is_err());
    }

    #[test]
    fn nobody_is_called_localhost_and_the_first_one_has_a_name() {
        let peer = |name: &str, address: &str| Peer {
            name: name.parse().unwrap(),
            addresses: vec![address.parse().unwrap()],
            online: false,
        };
        let table = NameTable::new(&[
            peer("laptop", "10.0.0.2"),
            peer("laptop", "10.0.0.66"),
            peer("localhost", "10.0.0.66"),
        ]);
        let laptop: Name = "laptop".parse().unwrap();
        assert_eq!(table.addresses(&laptop), Some(vec!["10.0.0.2".parse().unwrap()]));
        assert_eq!(table.name("10.0.0.2".parse().unwrap()), Some(laptop));
        assert_eq!(table.addresses(&"localhost".parse().unwrap()), None);
        assert_eq!(table.name("10.0.0.66".parse().unwrap()), None);
        assert!(table.is_known() && !NameTable::default().is_known());
    }
}
