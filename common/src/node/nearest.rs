//! "Did you mean": the known word nearest to a mistyped one. Pure.

/// The candidate with the fewest edits from `word`, where those are few enough for a slip of the fingers: at most a
/// third of the word's letters, and at least one. Case, `-` and `_` do not count.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = folded(word);
    let distances = candidates.into_iter().map(|candidate| (distance(&word, &folded(candidate)), candidate));
    let (edits, candidate) = distances.min_by_key(|&(edits, _)| edits)?;
    (edits <= (word.len() / 3).max(1)).then_some(candidate)
}

/// `; did you mean X?` behind a sentence, or nothing.
pub fn did_you_mean<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>, prefix: &str) -> String {
    nearest(word, candidates).map_or(String::new(), |known| format!("; did you mean {prefix}{known}?"))
}

/// The characters that count; a word longer than any known one needs no more of them than this.
fn folded(word: &str) -> Vec<char> {
    word.chars().filter(|c| !matches!(c, '-' | '_')).take(64).map(|c| c.to_ascii_lowercase()).collect()
}

/// Edits from one word to the other: insertions, deletions, substitutions, swaps of two neighbours (optimal string
/// alignment).
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let substituted = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = substituted.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(before_last[j - 2] + 1);
            }
            row.push(least);
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [&str; 7] = ["status", "lock", "unlock", "hub", "hub-key", "accept-route", "mtu"];

    #[test]
    fn finds_what_fingers_meant() {
        for (typed, meant) in [
            ("stauts", "status"),
            ("sttus", "status"),
            ("hubkey", "hub-key"),
            ("HUB_KEY", "hub-key"),
            ("unlok", "unlock"),
            ("accept-routes", "accept-route"),
            ("mut", "mtu"),
            ("statuss", "status"),
        ] {
            assert_eq!(nearest(typed, KNOWN), Some(meant), "{typed}");
        }
        for other in ["frobnicate", "xyz", "", "192.0.2.1"] {
            assert_eq!(nearest(other, KNOWN), None, "{other}");
        }
        assert_eq!(did_you_mean("stauts", KNOWN, "hub "), "; did you mean hub status?");
        assert_eq!(did_you_mean("frobnicate", KNOWN, ""), "");
    }

    #[test]
    fn counts_edits() {
        let chars = |text: &str| text.chars().collect::<Vec<_>>();
        for (a, b, edits) in
            [("", "", 0), ("", "abc", 3), ("abc", "abc", 0), ("abc", "acb", 1), ("kitten", "sitting", 3)]
        {
            assert_eq!(distance(&chars(a), &chars(b)), edits, "{a} {b}");
            assert_eq!(distance(&chars(b), &chars(a)), edits, "{b} {a}");
        }
    }
}
