//! Text from the other side, made safe for a log and a terminal. Pure.

use std::fmt;

/// Shows a text with its control characters and all that is not ASCII escaped, and cut at a sensible length.
pub struct Printable<'a>(pub &'a str);

/// The same, however long it is: for a text whose length has a bound of its own.
pub struct Whole<'a>(&'a str);

impl<'a> Printable<'a> {
    /// Escapes the text and shows all of it.
    pub fn whole(text: &'a str) -> Whole<'a> {
        Whole(text)
    }
}

/// Longest text, in bytes, that is read from a file of the state directory.
pub const MAX_FILE: usize = 64 * 1024 * 1024;

/// Longest text that is shown, in characters.
const MAX_SHOWN: usize = 300;

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        escape(self.0.chars().take(MAX_SHOWN), f)?;
        if self.0.chars().nth(MAX_SHOWN).is_some() { f.write_str("…") } else { Ok(()) }
    }
}

impl fmt::Display for Whole<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        escape(self.0.chars(), f)
    }
}

fn escape(mut text: impl Iterator<Item = char>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    text.try_for_each(|c| {
        if c == ' ' || c.is_ascii_graphic() { write!(f, "{c}") } else { write!(f, "{}", c.escape_default()) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_what_a_terminal_would_act_on() {
        assert_eq!(Printable("the LAN's subnet").to_string(), "the LAN's subnet");
        assert_eq!(Printable("\x1b[2Jü\n").to_string(), "\\u{1b}[2J\\u{fc}\\n");
        assert_eq!(Printable(&"x".repeat(301)).to_string(), "x".repeat(300) + "…");
        assert_eq!(Printable::whole(&("x".repeat(301) + "\n")).to_string(), "x".repeat(301) + "\\n");
    }
}
