//! Rust source as tokens: words, `::` and single signs. Comments and the contents of literals are left out.

/// Splits `source` into tokens; a string literal becomes `""`, a character literal `''`.
pub(crate) fn tokens(source: &str) -> Vec<String> {
    let chars: Vec<char> = source.chars().collect();
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(&c) = chars.get(at) {
        let next = chars.get(at + 1).copied();
        if c == '/' && next == Some('/') {
            at = find(&chars, at, |rest| rest[0] == '\n');
        } else if c == '/' && next == Some('*') {
            at = find(&chars, at + 2, |rest| rest.starts_with(&['*', '/'])) + 2;
        } else if let Some(hashes) = raw_string(&chars[at..]) {
            let end: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
            let open = find(&chars, at, |rest| rest[0] == '"');
            at = find(&chars, open + 1, |rest| rest.starts_with(&end)) + end.len();
            tokens.push("\"\"".into());
        } else if c == '"' {
            at = end_of_literal(&chars, at + 1, '"');
            tokens.push("\"\"".into());
        } else if c == '\'' && (next == Some('\\') || chars.get(at + 2) == Some(&'\'')) {
            at = end_of_literal(&chars, at + 1, '\'');
            tokens.push("''".into());
        } else if c.is_alphanumeric() || c == '_' {
            let end = find(&chars, at, |rest| !rest[0].is_alphanumeric() && rest[0] != '_');
            tokens.push(chars[at..end].iter().collect());
            at = end;
        } else if c == ':' && next == Some(':') {
            tokens.push("::".into());
            at += 2;
        } else {
            if !c.is_whitespace() {
                tokens.push(c.into());
            }
            at += 1;
        }
    }
    tokens
}

/// The position after the group that opens at `open`, a bracket of any kind.
pub(crate) fn after_group(tokens: &[String], open: usize) -> usize {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => {
                depth -= 1;
                if depth == 0 {
                    return at + 1;
                }
            }
            _ => {}
        }
    }
    tokens.len()
}

/// The position after the item that begins at `start`: after its `;` or its block.
pub(crate) fn after_item(tokens: &[String], start: usize) -> usize {
    let mut at = start;
    while let Some(token) = tokens.get(at) {
        match token.as_str() {
            ";" => return at + 1,
            "{" => return after_group(tokens, at),
            "(" | "[" => at = after_group(tokens, at),
            _ => at += 1,
        }
    }
    at
}

/// The number of `#` of the raw string that `rest` begins with.
fn raw_string(rest: &[char]) -> Option<usize> {
    let rest = rest.strip_prefix(&['b']).unwrap_or(rest).strip_prefix(&['r'])?;
    let hashes = rest.iter().take_while(|c| **c == '#').count();
    (rest.get(hashes) == Some(&'"')).then_some(hashes)
}

fn end_of_literal(chars: &[char], mut at: usize, quote: char) -> usize {
    while let Some(&c) = chars.get(at) {
        at += if c == '\\' { 2 } else { 1 };
        if c == quote {
            break;
        }
    }
    at
}

/// The first position from `start` on of which the rest satisfies `is`, or the end.
fn find(chars: &[char], start: usize, is: impl Fn(&[char]) -> bool) -> usize {
    (start..chars.len()).find(|at| is(&chars[*at..])).unwrap_or(chars.len())
}
