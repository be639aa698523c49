//! What is wrong with the text of `RUST_LOG`, which is otherwise taken in silence. Pure.

use super::nearest::nearest;

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
/// The beginnings of the names that our log lines have.
const CRATES: [&str; 3] = ["hub", "spoke", "common"];

/// A warning about the first directive that does not do what it seems to: a name that is no crate of ours selects
/// nothing, and all other lines vanish with it.
pub fn advice(filter: &str) -> Option<String> {
    let directives = filter.split('/').next().unwrap_or_default();
    for directive in directives.split(',').map(str::trim).filter(|directive| !directive.is_empty()) {
        let (module, level) = match directive.split_once('=') {
            Some((module, level)) => (Some(module.trim()), Some(level.trim())),
            None if is_level(directive) => (None, None),
            None => (Some(directive), None),
        };
        if let Some(level) = level.filter(|level| !level.is_empty() && !is_level(level)) {
            return Some(sentence(level, &LEVELS, "a log level"));
        }
        let crate_name = module.map(|module| module.split("::").next().unwrap_or(module));
        if let Some(name) = crate_name.filter(|name| !CRATES.contains(name)) {
            let known = if level.is_none() { &LEVELS[..] } else { &CRATES[..] };
            let what = if level.is_none() { "a log level" } else { "a part of this program" };
            return Some(sentence(name, known, what));
        }
    }
    None
}

fn is_level(text: &str) -> bool {
    LEVELS.iter().any(|level| level.eq_ignore_ascii_case(text))
}

fn sentence(word: &str, known: &[&str], what: &str) -> String {
    let hint = match nearest(word, known.iter().copied()) {
        Some(near) => format!("did you mean {near}?"),
        None => format!("write one of {}", known.join(", ")),
    };
    format!("RUST_LOG: {} is not {what}; {hint}", word.escape_debug())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_selects_nothing_is_told() {
        for (filter, said) in [
            ("wran", "RUST_LOG: wran is not a log level; did you mean warn?"),
            ("hub=wran", "RUST_LOG: wran is not a log level; did you mean warn?"),
            ("info,hbu=debug", "RUST_LOG: hbu is not a part of this program; did you mean hub?"),
            (
                "verbose",
                "RUST_LOG: verbose is not a log level; write one of off, error, warn, info, debug, trace",
            ),
        ] {
            assert_eq!(advice(filter).as_deref(), Some(said), "{filter}");
        }
        for good in [
            "",
            "warn",
            "TRACE",
            "hub",
            "hub::server=debug,info",
            "spoke=trace/regex",
            "common::linux=off",
            ",",
        ] {
            assert_eq!(advice(good), None, "{good}");
        }
    }
}
