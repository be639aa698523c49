//! Whether a line of the manual is what a program says. Pure.
//!
//! Lines are compared word by word. What differs from run to run may differ: keys and invites (each of the document
//! stands for one of the run), ports from which connections come, fractions, and numbers with a unit or behind `/`.
//! `...` stands for any number of words, within a word for any part of it, alone on a line for any number of lines.

use std::collections::BTreeMap;

/// Port numbers from which the kernel starts connections (`ip_local_port_range`) are above this.
const FIRST_EPHEMERAL: u16 = 32_768;
const UNITS: [&str; 13] = ["us", "ms", "s", "m", "min", "h", "d", "B", "KiB", "MiB", "GiB", "kB", "MB"];

/// Which secret of the run each secret of the document stands for.
#[derive(Default)]
pub(crate) struct Secrets(BTreeMap<String, String>);

impl Secrets {
    /// A command of the document with the secrets of this run.
    pub(crate) fn fill_in(&self, command: &str) -> String {
        self.0.iter().fold(command.to_owned(), |text, (ours, theirs)| text.replace(ours, theirs))
    }

    /// What a program says with the secrets of the document.
    pub(crate) fn as_in_document(&self, said: &str) -> String {
        self.0.iter().fold(said.to_owned(), |text, (ours, theirs)| text.replace(theirs, ours))
    }

    /// Whether `said` is what the document shows.
    pub(crate) fn is_shown(&mut self, shown: &str, said: &str) -> bool {
        let said = without_time(said);
        let [shown, said] = [shown, &said].map(|line| line.split_whitespace().collect::<Vec<_>>());
        let mut found = Vec::new();
        if !self.words(&shown, &said, "", &mut found) {
            return false;
        }
        self.0.extend(found);
        true
    }

    fn words(&self, shown: &[&str], said: &[&str], before: &str, found: &mut Vec<(String, String)>) -> bool {
        match (shown, said) {
            ([], []) => true,
            (["...", rest @ ..], _) => (0..=said.len()).any(|skip| {
                let before = skip.checked_sub(1).map_or(before, |last| said[last]);
                let len = found.len();
                self.words(rest, &said[skip..], before, found) || {
                    found.truncate(len);
                    false
                }
            }),
            ([a, shown @ ..], [b, said @ ..]) => {
                let unit = shown.first().copied().unwrap_or_default();
                self.word(a, b, before, unit, found) && self.words(shown, said, b, found)
            }
            _ => false,
        }
    }

    /// One word, between the words `before` and `unit`.
    fn word(
        &self,
        shown: &str,
        said: &str,
        before: &str,
        unit: &str,
        found: &mut Vec<(String, String)>,
    ) -> bool {
        if shown == said {
            return true;
        }
        if shown.contains("...") {
            return has_parts(shown, said);
        }
        if UNITS.contains(&shown) && UNITS.contains(&said) {
            return true;
        }
        let [a, b] = [shown, said].map(|word| word.trim_matches([';', ',', ':', '.', '`', '(', ')', '"']));
        let rest = |word: &str, middle: &str| word.replacen(middle, "", 1);
        if a.is_empty() || b.is_empty() || rest(shown, a) != rest(said, b) {
            return false;
        }
        if is_secret(a) && is_secret(b) && a.len() == b.len() {
            let known = found.iter().map(|(ours, theirs)| (ours, theirs)).chain(&self.0);
            let is_same = known.into_iter().all(|(ours, theirs)| (ours == a) == (theirs == b));
            found.push((a.to_owned(), b.to_owned()));
            return is_same;
        }
        if let (Some((host, port)), Some((host_said, port_said))) = (a.rsplit_once(':'), b.rsplit_once(':')) {
            let is_ephemeral = |port: &str| port.parse::<u16>().is_ok_and(|port| port >= FIRST_EPHEMERAL);
            return host == host_said && is_ephemeral(port) && is_ephemeral(port_said);
        }
        if let (Some((name, value)), Some((name_said, value_said))) = (a.split_once('='), b.split_once('=')) {
            return name == name_said && is_fraction(value) && is_fraction(value_said);
        }
        let unit = unit.trim_end_matches([';', ',', ':', ')']);
        let is_number = |word: &str| word.parse::<u64>().is_ok() || is_fraction(word);
        let may_differ = UNITS.contains(&unit) || before == "/" || (is_fraction(a) && is_fraction(b));
        may_differ && is_number(a) && is_number(b)
    }
}

/// A log line without its time.
pub(crate) fn without_time(line: &str) -> String {
    // env_logger's: [2026-11-25T12:00:00Z INFO  hub::server] …
    match line.strip_prefix('[').and_then(|rest| rest.split_once(' ')) {
        Some((time, rest)) if time.ends_with('Z') && time.contains('T') => format!("[{rest}"),
        _ => line.to_owned(),
    }
}

/// Whether a word is made of the parts of `shown` around each `...`.
fn has_parts(shown: &str, said: &str) -> bool {
    let mut parts: Vec<&str> = shown.split("...").collect();
    let last = parts.pop().unwrap_or_default();
    let mut rest = said;
    for (index, part) in parts.into_iter().enumerate() {
        let Some(at) = rest.find(part).filter(|at| index > 0 || *at == 0) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

/// A key in base64, or an invite.
fn is_secret(word: &str) -> bool {
    let is_key = word.len() == 44
        && word.ends_with('=')
        && !word[..43].contains(|c: char| !(c.is_ascii_alphanumeric() || c == '+' || c == '/'));
    is_key || (word.len() == 32 && word.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

fn is_fraction(word: &str) -> bool {
    word.contains('.') && word.parse::<f64>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: [&str; 4] = [
        "WY/U9JV7l6nRsxZKzHlwmchStQvgIRzo2OAWB3x0oAY=",
        "D1gVYarJsopNpnU6xA4hdRYaEo+ERKqGKzvJ6WUtqE8=",
        "Yi0lAbrj95KxKXWhArsN899TQAX037kQzz5EA0TZglE=",
        "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=",
    ];

    #[test]
    fn what_differs_from_run_to_run_may_differ() {
        for (shown, said) in [
            ("online 5 s", "online 12 s"),
            ("0.19 ms  94 B / 1", "3 ms 1.2 KiB / 7"),
            ("from 192.0.2.2:35592", "from 192.0.2.2:60001"),
            ("64 bytes: icmp_seq=1 ttl=64 time=0.544 ms", "64 bytes: icmp_seq=1 ttl=64 time=1.2 ms"),
            ("[INFO  hub::server] ready", "[2026-11-25T12:00:00Z INFO  hub::server] ready"),
            ("up ... now", "up for some time now"),
            ("up ...", "up"),
            ("{\"time\":...,\"uid\":0,...}", "{\"time\":\"12:00\",\"uid\":0,\"pid\":1}"),
        ] {
            assert!(Secrets::default().is_shown(shown, said), "{shown} is {said}");
        }
    }

    #[test]
    fn nothing_else_may() {
        for (shown, said) in [
            ("10.0.0.2", "10.0.0.3"),
            ("from 192.0.2.2:5678", "from 192.0.2.2:5679"),
            ("2 of 2", "2 of 3"),
            ("icmp_seq=1", "icmp_seq=2"),
            ("ready", "ready now"),
            ("ready now", "ready"),
            ("a ... b", "a c"),
            ("{\"time\":...,\"uid\":0,...}", "{\"time\":\"12:00\",\"uid\":1,\"pid\":1}"),
        ] {
            assert!(!Secrets::default().is_shown(shown, said), "{shown} is not {said}");
        }
    }

    #[test]
    fn a_key_of_the_document_is_one_of_the_run() {
        let mut secrets = Secrets::default();
        assert!(secrets.is_shown(&format!("key {};", KEYS[0]), &format!("key {};", KEYS[1])));
        assert_eq!(secrets.fill_in(&format!("--hub-key {}", KEYS[0])), format!("--hub-key {}", KEYS[1]));
        assert!(secrets.is_shown(KEYS[0], KEYS[1]));
        assert!(!secrets.is_shown(KEYS[0], KEYS[2]));
        assert!(!secrets.is_shown(KEYS[3], KEYS[1]));
        assert!(secrets.is_shown(KEYS[3], KEYS[2]));
    }
}
