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

/// The key that was pinned for a hub by one of the names that it is given by, the first one that has any.
pub fn pinned(text: &str, hubs: &[Target]) -> Result<Option<PublicKey>, BadLine> {
    let names: Vec<String> = hubs.iter().map(Target::pin_name).collect();
    let mut found = vec![None; names.len()];
    for (index, line) in text.lines().enumerate() {
        let bad = |why| BadLine { line: index + 1, why };
        let Some((name, key)) = entry(line).map_err(bad)? else { continue };
        for (found, _) in found.iter_mut().zip(&names).filter(|(_, known)| *known == name) {
            *found = Some(key);
        }
    }
    Ok(found.into_iter().flatten().next())
}

/// The text with the hub's key in it, by each of its names; other lines stay as they are.
pub fn with_pin(text: &str, hubs: &[Target], key: PublicKey) -> String {
    let mut names: Vec<String> = hubs.iter().map(Target::pin_name).collect();
    names.dedup();
    let is_other =
        |line: &&str| !matches!(entry(line), Ok(Some((name, _))) if names.iter().any(|known| known == name));
    let mut lines: Vec<String> = text.lines().filter(is_other).map(str::to_owned).collect();
    lines.extend(names.iter().map(|name| format!("{name} {key}")));
    lines.join("\n") + "\n"
}

/// Whether the key is there by each of the hub's names.
pub fn is_pinned(text: &str, hubs: &[Target], key: PublicKey) -> bool {
    hubs.iter().all(|hub| pinned(text, std::slice::from_ref(hub)) == Ok(Some(key)))
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
        let hubs = |names: &[&str]| names.iter().map(|name| name.parse().unwrap()).collect::<Vec<Target>>();
        let (a, b) = (hubs(&["a"]), hubs(&["b:80"]));
        let text = with_pin("# mine\n", &a, key(1));
        let text = with_pin(&text, &b, key(2));
        assert_eq!(text, format!("# mine\na:5678 {}\nb:80 {}\n", key(1), key(2)));
        let text = with_pin(&text, &a, key(3));
        assert_eq!(pinned(&text, &a), Ok(Some(key(3))));
        assert_eq!(pinned(&text, &b), Ok(Some(key(2))));
        assert_eq!(pinned(&text, &hubs(&["c"])), Ok(None));
        assert!(text.starts_with("# mine\n"));
        // By whichever name it was met.
        let both = hubs(&["wss://a/lan", "b:80"]);
        assert_eq!(pinned(&text, &both), Ok(Some(key(2))));
        assert!(!is_pinned(&text, &both, key(2)));
        let text = with_pin(&text, &both, key(2));
        assert!(is_pinned(&text, &both, key(2)) && text.contains("wss://a:443/lan "), "{text}");
    }

    #[test]
    fn bad_lines_are_named() {
        for bad in ["a:5678", "a:5678 nonsense", "a:5678 x y z"] {
            let error = pinned(&format!("# fine\n{bad}\n"), &["b".parse().unwrap()]).unwrap_err();
            assert_eq!(error.line, 2, "{bad}");
        }
    }
}
