//! A member's name. Pure.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The name of a member: 1 to 63 of `A-Z a-z 0-9 . _ -`, so that it is safe in a file, a log and a terminal.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct Name(String);

/// A text that is no name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadName;

impl fmt::Display for BadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a name is 1 to {} letters, digits, dots, underscores or hyphens", Name::MAX_LEN)
    }
}

impl std::error::Error for BadName {}

impl Name {
    /// Longest name, in bytes: that of a DNS label (RFC 1035, 2.3.4).
    pub const MAX_LEN: usize = 63;

    /// The nearest name to any text, such as a host name: each foreign character becomes a hyphen.
    pub fn nearest(text: &str) -> Name {
        let name: String =
            text.chars().take(Self::MAX_LEN).map(|c| if is_name_char(c) { c } else { '-' }).collect();
        Name(if name.is_empty() { "spoke".to_owned() } else { name })
    }

    /// This name with `-number` behind it, cut to fit: for a name that another key holds already.
    pub fn numbered(&self, number: usize) -> Name {
        let suffix = format!("-{number}");
        let kept = self.0.len().min(Self::MAX_LEN - suffix.len());
        Name(format!("{}{suffix}", &self.0[..kept]))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}

impl FromStr for Name {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Name, BadName> {
        let fits = (1..=Self::MAX_LEN).contains(&text.len()) && text.chars().all(is_name_char);
        if fits { Ok(Name(text.to_owned())) } else { Err(BadName) }
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

    #[test]
    fn takes_only_safe_characters() {
        for good in ["a", "web-1.example_x", &"x".repeat(63)] {
            assert_eq!(good.parse::<Name>().unwrap().as_str(), good);
        }
        for bad in ["", "a b", "a\n", "\x1b[31m", "naïve", &"x".repeat(64)] {
            assert_eq!(bad.parse::<Name>(), Err(BadName), "{bad:?}");
        }
    }

    #[test]
    fn any_text_has_a_nearest_name_and_a_numbered_one() {
        assert_eq!(Name::nearest("my host\n").as_str(), "my-host-");
        assert_eq!(Name::nearest("").as_str(), "spoke");
        let long = Name::nearest(&"ü".repeat(200));
        assert_eq!(long.as_str(), "-".repeat(63));
        assert_eq!(long.numbered(12).as_str(), format!("{}-12", "-".repeat(60)));
        assert!(long.numbered(12).as_str().parse::<Name>().is_ok());
    }
}
