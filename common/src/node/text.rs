//! Text from the other side, made safe for a log and a terminal. Pure.

use std::fmt;

/// Shows a text with its control characters and all that is not ASCII escaped, and cut at a sensible length.
pub struct Printable<'a>(pub &'a str);

/// Longest text that is shown, in characters.
const MAX_SHOWN: usize = 300;

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars().take(MAX_SHOWN) {
            if c == ' ' || c.is_ascii_graphic() {
                write!(f, "{c}")?;
            } else {
                write!(f, "{}", c.escape_default())?;
            }
        }
        if self.0.chars().nth(MAX_SHOWN).is_some() { f.write_str("…") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_what_a_terminal_would_act_on() {
        assert_eq!(Printable("the LAN's subnet").to_string(), "the LAN's subnet");
        assert_eq!(Printable("\x1b[2Jü\n").to_string(), "\\u{1b}[2J\\u{fc}\\n");
        assert_eq!(Printable(&"x".repeat(301)).to_string(), "x".repeat(300) + "…");
    }
}
