//! The keys of the hubs that this spoke has met. Pure: the text of `hubs` comes in and goes out.
//!
//! One hub a line, `HOST:PORT KEY`, as in SSH's `known_hosts`; `#` begins a comment.

use common::wire::key::PublicKey;

use crate::uplink::target::Target;

/// What is wrong with a line of `hubs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadLine {
    /// Its number, from 1.
    pub line: usize,
    /// What is wrong.
    pub why: String,
}

/// The key that was pinned for a hub.
pub fn pinned(text: &str, hub: &Target) -> Result<Option<PublicKey>, BadLine> {
    let hub = hub.pin_name();
    let mut found = None;
    for (index, line) in text.lines().enumerate() {
        let bad = |why| BadLine { line: index + 1, why };
        let Some((name, key)) = entry(line).map_err(bad)? else { continue };
        if name == hub {
            found = Some(key);
        }
    }
    Ok(found)
}

/// The text with the hub's key in it; other lines stay as they are.
pub fn with_pin(text: &str, hub: &Target, key: PublicKey) -> String {
    let hub = hub.pin_name();
    let is_other = |line: &&str| !matches!(entry(line), Ok(Some((name, _))) if name == hub);
    let mut lines: Vec<String> = text.lines().filter(is_other).map(str::to_owned).collect();
    lines.push(format!("{hub} {key}"));
    lines.join("\n") + "\n"
}

fn entry(line: &str) -> Result<Option<(&str, PublicKey)>, String> {
    let mut words = line.split_whitespace();
    let Some(name) = words.next().filter(|word| !word.starts_with('#')) else { return Ok(None) };
    let key = words.next().ok_or("the key is missing")?;
    let key = key.parse().map_err(|bad| format!("{key:?} is no key: {bad}"))?;
    if words.next().is_some() {
        return Err("there is more than HOST:PORT KEY".to_owned());
    }
    Ok(Some((name, key)))
}

#[cfg(test)]
mod tests {
    use common::wire::key::PrivateKey;

    use super::*;

    fn key(seed: u8) -> PublicKey {
        PrivateKey::from_random([seed; 32]).public()
    }

    #[test]
    fn pins_are_added_replaced_and_found() {
        let (a, b) = ("a".parse().unwrap(), "b:80".parse().unwrap());
        let text = with_pin("# mine\n", &a, key(1));
        let text = with_pin(&text, &b, key(2));
        assert_eq!(text, format!("# mine\na:5678 {}\nb:80 {}\n", key(1), key(2)));
        let text = with_pin(&text, &a, key(3));
        assert_eq!(pinned(&text, &a), Ok(Some(key(3))));
        assert_eq!(pinned(&text, &b), Ok(Some(key(2))));
        assert_eq!(pinned(&text, &"c".parse().unwrap()), Ok(None));
        assert!(text.starts_with("# mine\n"));
    }

    #[test]
    fn bad_lines_are_named() {
        for bad in ["a:5678", "a:5678 nonsense", "a:5678 x y z"] {
            let error = pinned(&format!("# fine\n{bad}\n"), &"b".parse().unwrap()).unwrap_err();
            assert_eq!(error.line, 2, "{bad}");
        }
    }
}
