//! The paths of one file: those of its `use` lines, and those in its code.

use std::collections::BTreeMap;

use super::lexer::after_item;

/// The paths of one file, as written: `crate`, `super` and `self` are not resolved.
#[derive(Default)]
pub(crate) struct Paths {
    /// A name in this file and the path that a `use` line gives it.
    pub(crate) names: BTreeMap<String, Vec<String>>,
    /// Names that others can import from here.
    pub(crate) exports: BTreeMap<String, Vec<String>>,
    /// Modules of which everything is exported.
    pub(crate) globs: Vec<Vec<String>>,
    /// Paths in the code outside of `use` lines.
    pub(crate) inline: Vec<Vec<String>>,
    /// Whether there is anything but `mod` and `use` lines.
    pub(crate) has_code: bool,
}

impl Paths {
    pub(crate) fn read(tokens: &[String]) -> Self {
        let mut paths = Self::default();
        let mut at = 0;
        let mut is_public = false;
        while let Some(token) = tokens.get(at) {
            match token.as_str() {
                "use" => {
                    let end = after_use(tokens, at);
                    let mut leaves = Vec::new();
                    read_tree(&tokens[at + 1..end], &mut Vec::new(), &mut leaves);
                    paths.add(leaves, is_public);
                    (at, is_public) = (end, false);
                }
                "mod" => (at, is_public) = (at + 2, false),
                "pub" => {
                    is_public = true;
                    at = if tokens.get(at + 1).is_some_and(|next| next == "(") { at + 4 } else { at + 1 };
                }
                "#" => at = after_attribute(tokens, at),
                "::" | ";" => at += 1,
                _ => {
                    is_public = false;
                    paths.has_code = true;
                    at = paths.read_inline(tokens, at);
                }
            }
        }
        paths
    }

    fn add(&mut self, leaves: Vec<(String, Vec<String>)>, is_public: bool) {
        for (name, path) in leaves {
            if name == "*" && is_public {
                self.globs.push(path.clone());
            } else if is_public {
                self.exports.insert(name.clone(), path.clone());
            }
            self.names.insert(if name == "*" { path.join("::") } else { name }, path);
        }
    }

    /// Takes the path that begins at `at`, if one does.
    fn read_inline(&mut self, tokens: &[String], at: usize) -> usize {
        let is_word = |token: &String| token.starts_with(|c: char| c.is_alphabetic() || c == '_');
        let mut path = Vec::new();
        let mut end = at;
        let follows_dot = at > 0 && [".", "::"].contains(&tokens[at - 1].as_str());
        while tokens.get(end).is_some_and(is_word) {
            path.push(tokens[end].clone());
            if tokens.get(end + 1).is_none_or(|next| next != "::") {
                break;
            }
            end += 2;
        }
        if path.len() > 1 && !follows_dot {
            self.inline.push(path);
        }
        (end + 1).max(at + 1)
    }
}

/// The position after the attribute at `at`, and after its `!`.
pub(crate) fn after_attribute(tokens: &[String], at: usize) -> usize {
    let open = if tokens.get(at + 1).is_some_and(|next| next == "!") { at + 2 } else { at + 1 };
    match tokens.get(open) {
        Some(token) if token == "[" => super::lexer::after_group(tokens, open),
        _ => at + 1,
    }
}

fn after_use(tokens: &[String], at: usize) -> usize {
    tokens[at..].iter().position(|token| token == ";").map_or(tokens.len(), |length| at + length + 1)
}

/// Reads `a::{b, c as d, e::*}` as leaves: the name in this file and its path.
fn read_tree(tokens: &[String], prefix: &mut Vec<String>, leaves: &mut Vec<(String, Vec<String>)>) {
    let depth = prefix.len();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        match token.as_str() {
            "{" => {
                let end = super::lexer::after_group(tokens, at);
                for part in split_at_commas(&tokens[at + 1..end - 1]) {
                    read_tree(part, prefix, leaves);
                }
                prefix.truncate(depth);
                return;
            }
            "*" => {
                leaves.push(("*".into(), prefix.clone()));
                prefix.truncate(depth);
                return;
            }
            "as" => {
                leaves.push((tokens[at + 1].clone(), prefix.clone()));
                prefix.truncate(depth);
                return;
            }
            "::" | ";" => {}
            "self" if !prefix.is_empty() => {}
            word => prefix.push(word.into()),
        }
        at += 1;
    }
    if let Some(name) = prefix.last() {
        leaves.push((name.clone(), prefix.clone()));
    }
    prefix.truncate(depth);
}

fn split_at_commas(tokens: &[String]) -> Vec<&[String]> {
    let mut parts = Vec::new();
    let (mut start, mut at) = (0, 0);
    while at < tokens.len() {
        match tokens[at].as_str() {
            "," => {
                parts.push(&tokens[start..at]);
                at += 1;
                start = at;
            }
            "{" => at = super::lexer::after_group(tokens, at),
            _ => at += 1,
        }
    }
    parts.push(&tokens[start..]);
    parts
}

/// The tokens without what is compiled for tests alone, and the names of the modules among that.
pub(crate) fn without_tests(tokens: &[String]) -> (Vec<String>, Vec<String>) {
    let mut kept = Vec::new();
    let mut modules = Vec::new();
    let mut at = 0;
    let test_attribute = ["#", "[", "cfg", "(", "test", ")", "]"];
    while at < tokens.len() {
        if tokens[at..].iter().take(test_attribute.len()).eq(test_attribute.iter()) {
            at += test_attribute.len();
            while tokens.get(at).is_some_and(|token| token == "#") {
                at = after_attribute(tokens, at);
            }
            let end = after_item(tokens, at);
            if let [.., name, end] = &tokens[at..end]
                && end == ";"
                && tokens[at..].iter().take(6).any(|token| token == "mod")
            {
                modules.push(name.clone());
            }
            at = end;
        } else {
            kept.push(tokens[at].clone());
            at += 1;
        }
    }
    (kept, modules)
}
