//! A member's name. Pure.
//!
//! `spoke --hosts` writes names where resolvers look. A name is therefore one DNS label (RFC 1123, section 2.1),
//! compared without case (RFC 4343), and not one with a special meaning. A name that a person types must satisfy
//! this; the hub derives one from a machine's host name. Files and spokes of earlier versions may have other names,
//! which are read and shown, but not written to hosts files.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The name of a member: 1 to 63 of `a-z 0-9 . _ -`, so that it is safe in a file, a log and a terminal. Capital
/// letters become small ones.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct Name(String);

/// Why a text is not a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadName {
    /// Too short or too long, or other characters.
    Characters,
    /// Not one DNS label.
    Label,
    /// A machine would take it for an address.
    Number,
    /// It is reserved.
    Reserved,
}

impl fmt::Display for BadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadName::Characters => {
                write!(f, "a name is 1 to {} letters, digits, dots, underscores or hyphens", Name::MAX_LEN)
            }
            BadName::Label => write!(
                f,
                "a name is 1 to {} letters, digits or hyphens, with none of these at either end or in third and \
                 fourth place",
                Name::MAX_LEN
            ),
            BadName::Number => f.write_str("machines would read this name as an address"),
            BadName::Reserved => f.write_str("this name means something else to machines"),
        }
    }
}

impl std::error::Error for BadName {}

/// Labels that resolvers, browsers and other programs look up by themselves or take for something fixed
/// (RFC 6761, 6762, 7686; /etc/hosts of Debian, Red Hat and macOS; proxy and tunnel discovery; cloud machines'
/// own services).
const RESERVED: &[&str] = &[
    "broadcasthost",
    "instance-data",
    "invalid",
    "ip6-allhosts",
    "ip6-allnodes",
    "ip6-allrouters",
    "ip6-localhost",
    "ip6-localnet",
    "ip6-loopback",
    "ip6-mcastprefix",
    "isatap",
    "local",
    "localdomain",
    "localhost",
    "localhost4",
    "localhost6",
    "metadata",
    "onion",
    "wpad",
];

impl Name {
    /// Longest name, in bytes: that of a DNS label (RFC 1035, 2.3.4).
    pub const MAX_LEN: usize = 63;

    /// The name that a person typed: one that can be a host's.
    ///
    /// # Errors
    /// Every [`BadName`].
    pub fn typed(text: &str) -> Result<Name, BadName> {
        let name: Name = text.parse()?;
        name.check_host().map(|()| name)
    }

    /// The nearest DNS label to any text, such as a host name with its domain: what is ahead of the first dot,
    /// each foreign character a hyphen. It may still be reserved or a number.
    pub fn nearest(text: &str) -> Name {
        let first = text.split('.').find(|label| !label.is_empty()).unwrap_or_default();
        let mut label = String::new();
        for c in first.chars() {
            let c = if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
            if label.len() < Self::MAX_LEN && !(c == '-' && (label.is_empty() || label.ends_with('-'))) {
                label.push(c);
            }
        }
        let label = label.trim_end_matches('-');
        Name(if label.is_empty() { "spoke" } else { label }.to_owned())
    }

    /// This name with `-number` behind it, shortened to fit: for a name that is taken. That of a label is a
    /// [host's](Name::check_host).
    pub fn numbered(&self, number: usize) -> Name {
        let suffix = format!("-{number}");
        let kept = &self.0[..self.0.len().min(Self::MAX_LEN - suffix.len())];
        Name(format!("{}{suffix}", kept.trim_end_matches('-')))
    }

    /// Whether it can be a host's name, and stand in a hosts file: one DNS label, no reserved one, and nothing that
    /// is read as an address.
    ///
    /// # Errors
    /// [`BadName::Label`], [`BadName::Number`], [`BadName::Reserved`].
    pub fn check_host(&self) -> Result<(), BadName> {
        let name = self.0.as_str();
        let is_label = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !name.starts_with('-')
            && !name.ends_with('-')
            // These are kept for encodings (RFC 5891, section 4.2.3.1): `xn--` shows as other characters.
            && name.get(2..4) != Some("--");
        if !is_label {
            return Err(BadName::Label);
        }
        // As inet_aton(3) reads them: `10` is 0.0.0.10, and `0x7f000001` is 127.0.0.1.
        let is_number = name.bytes().all(|byte| byte.is_ascii_digit())
            || name.strip_prefix("0x").is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_hexdigit()));
        if is_number {
            return Err(BadName::Number);
        }
        if RESERVED.contains(&name) { Err(BadName::Reserved) } else { Ok(()) }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}

/// Accepts the names of earlier versions too; [`Name::typed`] is for names that a person types.
impl FromStr for Name {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Name, BadName> {
        let fits = (1..=Self::MAX_LEN).contains(&text.len()) && text.chars().all(is_name_char);
        if fits { Ok(Name(text.to_ascii_lowercase())) } else { Err(BadName::Characters) }
    }
}

impl TryFrom<String> for Name {
    type Error = BadName;

    fn try_from(text: String) -> Result<Name, BadName> {
        text.parse()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn takes_only_safe_characters() {
        for good in ["a", "web-1.example_x", &"x".repeat(63)] {
            assert_eq!(good.parse::<Name>().unwrap().as_str(), good);
        }
        for bad in ["", "a b", "a\n", "\x1b[31m", "naïve", &"x".repeat(64)] {
            assert_eq!(bad.parse::<Name>(), Err(BadName::Characters), "{bad:?}");
            assert_eq!(Name::typed(bad), Err(BadName::Characters), "{bad:?}");
        }
    }

    #[test]
    fn case_makes_no_difference() {
        assert_eq!("LapTop".parse::<Name>(), "laptop".parse());
        assert_eq!(Name::typed("LapTop").unwrap().as_str(), "laptop");
        assert_eq!(Name::nearest("LapTop").as_str(), "laptop");
    }

    #[test]
    fn what_a_person_types_is_a_host_name() {
        for good in ["a", "web-1", "9lives", "0xy", "x0x1", "a-b-c", "ab-c"] {
            assert_eq!(Name::typed(good).as_ref().map(Name::as_str), Ok(good));
        }
        for (bad, why) in [
            ("web.example", BadName::Label),
            ("a.", BadName::Label),
            ("_ldap", BadName::Label),
            ("a_b", BadName::Label),
            ("-a", BadName::Label),
            ("a-", BadName::Label),
            ("-", BadName::Label),
            ("xn--mnchen-3ya", BadName::Label),
            ("10", BadName::Number),
            ("0x7f000001", BadName::Number),
            ("0x", BadName::Number),
            ("0X7F", BadName::Number),
            ("localhost", BadName::Reserved),
            ("LocalHost", BadName::Reserved),
            ("wpad", BadName::Reserved),
            ("isatap", BadName::Reserved),
            ("ip6-allnodes", BadName::Reserved),
        ] {
            assert_eq!(Name::typed(bad), Err(why), "{bad:?}");
            assert!(bad.parse::<Name>().is_ok(), "{bad:?} may stand in a file of an earlier version");
        }
    }

    #[test]
    fn any_text_has_a_nearest_name_and_a_numbered_one() {
        for (text, nearest) in [
            ("my host\n", "my-host"),
            ("", "spoke"),
            ("...", "spoke"),
            ("Laptop.example.com", "laptop"),
            ("xn--mnchen-3ya", "xn-mnchen-3ya"),
            ("_gateway", "gateway"),
            ("localhost", "localhost"),
            ("10", "10"),
        ] {
            assert_eq!(Name::nearest(text).as_str(), nearest);
        }
        assert_eq!(Name::nearest(&"ü".repeat(200)).as_str(), "spoke");
        let long = Name::nearest(&"a".repeat(200));
        assert_eq!(long.as_str(), "a".repeat(63));
        assert_eq!(long.numbered(12).as_str(), format!("{}-12", "a".repeat(60)));
        assert_eq!("ab--".parse::<Name>().unwrap().numbered(2).as_str(), "ab-2");
    }

    proptest! {
        #[test]
        fn nearest_and_numbered_is_always_a_host_name(text in ".{0,80}", plain in "[a-z0-9.x-]{0,8}", number in any::<usize>()) {
            for text in [text, plain] {
                let name = Name::nearest(&text);
                prop_assert!(!matches!(name.check_host(), Err(BadName::Label | BadName::Characters)));
                prop_assert_eq!(name.numbered(number).check_host(), Ok(()));
                prop_assert_eq!(Name::typed(name.numbered(number).as_str()), Ok(name.numbered(number)));
                prop_assert_eq!(name.as_str().parse(), Ok(name.clone()));
            }
        }
    }
}
