//! The fenced blocks of a document, and the commands of a transcript. Pure.

/// A fenced block.
pub(crate) struct Block {
    /// The word behind the fence.
    pub(crate) language: String,
    /// What else is there: the file that the block is, or the class of commands that cannot run in a namespace.
    pub(crate) class: String,
    /// Number of its first line.
    pub(crate) line: usize,
    pub(crate) lines: Vec<String>,
}

/// A command of a transcript and what is shown below it.
pub(crate) struct Step {
    pub(crate) host: String,
    pub(crate) command: String,
    pub(crate) line: usize,
    pub(crate) expected: Vec<String>,
}

impl Block {
    pub(crate) fn text(&self) -> String {
        self.lines.iter().map(|line| format!("{line}\n")).collect()
    }

    /// The commands of a transcript: a prompt is a host's name and `#` or `$`.
    ///
    /// # Panics
    /// The block does not begin with a command.
    pub(crate) fn steps(&self) -> Vec<Step> {
        let mut steps: Vec<Step> = Vec::new();
        for (line, text) in (self.line..).zip(&self.lines) {
            if let Some((host, command)) = prompt(text) {
                steps.push(Step { host, command, line, expected: Vec::new() });
            } else {
                let step = steps.last_mut().unwrap_or_else(|| panic!("line {line}: a prompt comes first"));
                step.expected.push(text.clone());
            }
        }
        steps
    }
}

/// All blocks of a document, those in lists included.
pub(crate) fn blocks(document: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<(usize, Block)> = None;
    for (number, line) in (1..).zip(document.lines()) {
        let text = line.trim_start();
        match &mut open {
            Some(_) if text == "```" => blocks.extend(open.take().map(|(_, block)| block)),
            Some((indent, block)) => {
                block.lines.push(line.get(*indent..).unwrap_or_default().trim_end().to_owned());
            }
            None => {
                if let Some(info) = text.strip_prefix("```") {
                    let (language, class) = info.split_once(' ').unwrap_or((info, ""));
                    let [language, class] = [language, class].map(str::to_owned);
                    let block = Block { language, class, line: number + 1, lines: Vec::new() };
                    open = Some((line.len() - text.len(), block));
                }
            }
        }
    }
    assert!(open.is_none(), "a block is not closed");
    blocks
}

/// `laptop# ip route`: the host and the command.
fn prompt(line: &str) -> Option<(String, String)> {
    let end = line.find(['#', '$'])?;
    let (host, command) = (&line[..end], line[end + 1..].trim());
    let is_name = !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_lowercase());
    (is_name && !command.is_empty()).then(|| (host.to_owned(), command.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_have_their_line_language_and_class() {
        let document =
            "a\n```toml hub:/etc/hub.toml\nx = 1\n```\n- b\n  ```console\n  hub#  ls\n  a b\n\n  ```\n";
        let found = blocks(document);
        assert_eq!(found.len(), 2);
        assert_eq!(
            (found[0].language.as_str(), found[0].class.as_str(), found[0].line),
            ("toml", "hub:/etc/hub.toml", 3)
        );
        assert_eq!(found[0].text(), "x = 1\n");
        let steps = found[1].steps();
        assert_eq!((steps[0].host.as_str(), steps[0].command.as_str(), steps[0].line), ("hub", "ls", 7));
        assert_eq!(steps[0].expected, ["a b", ""]);
    }

    #[test]
    fn a_shown_line_is_no_prompt() {
        for line in
            ["64 bytes from 10.0.0.3", "# comment", "[INFO  hub::server] key a#b", "hub#", "NAME  KEY $"]
        {
            assert!(prompt(line).is_none(), "{line}");
        }
    }
}
