//! The keys of the hubs that this spoke has met. Pure: the text of `hubs` comes in and goes out.
//!
//! One hub a line, `HOST:PORT KEY`, as in SSH's `known_hosts`; `#` begins a comment. A line with `told-by=HOST:PORT` is
//! that of a hub for which the one there vouches.

use common::wire::frame::MAX_TOLD_HUBS;
use common::wire::key::PublicKey;
use common::wire::place::Place;
use common::wire::target::Target;

/// What is wrong with a line of `hubs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadLine {
    /// Its number, from 1.
    pub line: usize,
    /// What is wrong.
    pub why: String,
}

/// The keys that were pinned by the names that hubs are given by, each once, in the order of the names.
pub fn pinned(text: &str, hubs: &[Target]) -> Result<Vec<PublicKey>, BadLine> {
    let names: Vec<String> = hubs.iter().map(Target::pin_name).collect();
    let mut found = vec![None; names.len()];
    for (index, line) in text.lines().enumerate() {
        let bad = |why| BadLine { line: index + 1, why };
        let Some(Entry { name, key, told_by: None }) = entry(line).map_err(bad)? else { continue };
        for (found, _) in found.iter_mut().zip(&names).filter(|(_, known)| *known == name) {
            *found = Some(key);
        }
    }
    let mut keys = Vec::new();
    for key in found.into_iter().flatten() {
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    Ok(keys)
}

/// The hubs for which those vouch that are given, as long as one of `keys` is theirs; at most [`MAX_TOLD_HUBS`].
pub fn told(text: &str, hubs: &[Target], keys: &[PublicKey]) -> Vec<(Place, PublicKey)> {
    let is_trusted = |name: &str| {
        hubs.iter().any(|hub| hub.pin_name() == name)
            && text.lines().any(|line| {
                matches!(entry(line), Ok(Some(Entry { name: known, key, told_by: None }))
                    if known == name && keys.contains(&key))
            })
    };
    let entries = text.lines().filter_map(|line| entry(line).ok().flatten());
    let told = entries.filter_map(|Entry { name, key, told_by }| {
        told_by.filter(|by| is_trusted(by))?;
        Some((name.parse().ok()?, key))
    });
    told.take(MAX_TOLD_HUBS).collect()
}

/// The keys that were pinned, and those of hubs for which those vouch.
///
/// # Errors
/// Where a line is invalid.
pub fn vouched(text: &str, hubs: &[Target]) -> Result<Vec<PublicKey>, BadLine> {
    let mut keys = pinned(text, hubs)?;
    let told = told(text, hubs, &keys);
    keys.extend(told.into_iter().map(|(_, key)| key));
    Ok(keys)
}

/// The text with these hubs as those for which the ones vouch that are given, in the place of those before.
pub fn with_told(text: &str, hubs: &[Target], told: &[(Place, PublicKey)]) -> String {
    let names: Vec<String> = hubs.iter().map(Target::pin_name).collect();
    let is_ours = |by: &str| names.iter().any(|name| name == by);
    let is_other =
        |line: &&str| !matches!(entry(line), Ok(Some(Entry { told_by: Some(by), .. })) if is_ours(by));
    let mut lines: Vec<String> = text.lines().filter(is_other).map(str::to_owned).collect();
    // By a name that is pinned: what is told is worth what the one is who tells it.
    let pinned = names.iter().find(|name| {
        let is_pin = |line: &&str| {
            matches!(entry(line), Ok(Some(Entry { name: known, told_by: None, .. })) if known == *name)
        };
        text.lines().any(|line| is_pin(&line))
    });
    if let Some(by) = pinned {
        lines.extend(told.iter().map(|(place, key)| format!("{place} {key} {TOLD_BY}{by}")));
    }
    lines.join("\n") + "\n"
}

/// The text with the hub's key in it, by each of its names; other lines stay as they are.
pub fn with_pin(text: &str, hubs: &[Target], key: PublicKey) -> String {
    let mut names: Vec<String> = hubs.iter().map(Target::pin_name).collect();
    names.dedup();
    let is_other = |line: &&str| {
        let is_ours = |name: &str| names.iter().any(|known| known == name);
        match entry(line) {
            Ok(Some(Entry { name, told_by: None, .. })) => !is_ours(name),
            // What was told by one that is another one now.
            Ok(Some(Entry { told_by: Some(by), .. })) => {
                !is_ours(by) || pinned(text, hubs).is_ok_and(|keys| keys == [key])
            }
            Ok(None) | Err(_) => true,
        }
    };
    let mut lines: Vec<String> = text.lines().filter(is_other).map(str::to_owned).collect();
    lines.extend(names.iter().map(|name| format!("{name} {key}")));
    lines.join("\n") + "\n"
}

/// Whether the key is there by each of the hub's names.
pub fn is_pinned(text: &str, hubs: &[Target], key: PublicKey) -> bool {
    hubs.iter().all(|hub| pinned(text, std::slice::from_ref(hub)).is_ok_and(|keys| keys == [key]))
}

/// In front of the name of the hub that told of another one.
const TOLD_BY: &str = "told-by=";

struct Entry<'a> {
    name: &'a str,
    key: PublicKey,
    told_by: Option<&'a str>,
}

fn entry(line: &str) -> Result<Option<Entry<'_>>, String> {
    let mut words = line.split_whitespace();
    let Some(name) = words.next().filter(|word| !word.starts_with('#')) else { return Ok(None) };
    let key = words.next().ok_or("the key is missing")?;
    let key = key.parse().map_err(|bad| format!("{key:?} is no key: {bad}"))?;
    let told_by =
        words.next().map(|word| word.strip_prefix(TOLD_BY).ok_or("there is more than HOST:PORT KEY"));
    if words.next().is_some() {
        return Err("there is more than HOST:PORT KEY".to_owned());
    }
    Ok(Some(Entry { name, key, told_by: told_by.transpose()? }))
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
        assert_eq!(pinned(&text, &a), Ok(vec![key(3)]));
        assert_eq!(pinned(&text, &b), Ok(vec![key(2)]));
        assert_eq!(pinned(&text, &hubs(&["c"])), Ok(vec![]));
        assert_eq!(pinned(&text, &hubs(&["b:80", "a", "c"])), Ok(vec![key(2), key(3)]));
        assert!(text.starts_with("# mine\n"));
        // By whichever name it was met.
        let both = hubs(&["wss://a/lan", "b:80"]);
        assert_eq!(pinned(&text, &both), Ok(vec![key(2)]));
        assert!(!is_pinned(&text, &both, key(2)));
        let text = with_pin(&text, &both, key(2));
        assert!(is_pinned(&text, &both, key(2)) && text.contains("wss://a:443/lan "), "{text}");
    }

    #[test]
    fn hubs_that_are_told_are_worth_what_the_one_is_who_tells_it() {
        let hubs = |names: &[&str]| names.iter().map(|name| name.parse().unwrap()).collect::<Vec<Target>>();
        let (a, other) = (hubs(&["wss://a", "a"]), hubs(&["x"]));
        let list = |places: &[(&str, u8)]| {
            places.iter().map(|(place, seed)| (place.parse().unwrap(), key(*seed))).collect::<Vec<_>>()
        };
        assert_eq!(with_told("", &a, &list(&[("b", 2)])), "\n", "nobody is pinned who could vouch");
        let text = with_pin("# mine\n", &hubs(&["a"]), key(1));
        let text = with_told(&with_pin(&text, &other, key(9)), &other, &list(&[("y", 8)]));
        let text = with_told(&text, &a, &list(&[("b", 2), ("[2001:db8::1]:80", 3)]));
        assert_eq!(told(&text, &a, &[key(1)]), list(&[("b", 2), ("[2001:db8::1]:80", 3)]));
        assert_eq!(told(&text, &a, &[key(7)]), [], "the person gave another key");
        assert_eq!(told(&text, &hubs(&["b"]), &[key(2)]), [], "who is told of tells nothing");
        assert_eq!(pinned(&text, &hubs(&["b"])), Ok(vec![]), "nor is pinned by a person");
        assert_eq!(told(&text, &other, &[key(9)]), list(&[("y", 8)]));
        let text = with_told(&text, &a, &list(&[("c", 4)]));
        assert_eq!(told(&text, &a, &[key(1)]), list(&[("c", 4)]));
        assert_eq!(told(&with_pin(&text, &a, key(1)), &a, &[key(1)]), list(&[("c", 4)]));
        let anew = with_pin(&text, &a, key(5));
        assert_eq!(told(&anew, &a, &[key(5)]), [], "another one is there, who did not tell");
        assert_eq!(told(&anew, &other, &[key(9)]), list(&[("y", 8)]));
        let many: Vec<_> = (0..40).map(|at| (format!("h{at}").parse().unwrap(), key(at))).collect();
        assert_eq!(told(&with_told(&text, &a, &many), &a, &[key(1)]).len(), MAX_TOLD_HUBS);
    }

    #[test]
    fn bad_lines_are_named() {
        for bad in [
            "a:5678",
            "a:5678 nonsense",
            "a:5678 x y z",
            "a:5678 hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo= x",
        ] {
            let error = pinned(&format!("# fine\n{bad}\n"), &["b".parse().unwrap()]).unwrap_err();
            assert_eq!(error.line, 2, "{bad}");
        }
    }
}
