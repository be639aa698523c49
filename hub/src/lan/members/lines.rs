//! The lines of `members`, and how its text in the file is brought up to date. Pure.
//!
//! New lines are added at the end of a text that is not short. Where the text is long, changed ones are as well:
//!
//! ```text
//! KEY laptop 10.0.0.9 instead
//! KEY guest 10.0.0.7 revoked instead
//! KEY - - removed instead
//! ```
//! Such a line takes the place of the one above with the same key. Of those that were written together, each but the last
//! ends with `and instead`: they count together or, where a crash has cut them off, not at all. The text is written as a whole,
//! without them, now and then.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use common::wire::key::PublicKey;

use crate::ids::MemberId;

/// What is wrong with a line of `members`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadLine {
    /// Its number, from 1.
    pub line: usize,
    /// What is wrong.
    pub why: String,
}

/// Texts of this length and more, in bytes, get new lines appended: rewriting a long text for each join would cost more
/// the more members there are. A shorter text is replaced, which is safer.
const APPEND_FROM: usize = 16 * 1024;
/// From this length on, some thousands of members, changed lines are appended, too.
const INSTEAD_FROM: usize = 512 * 1024;
/// So many lines may have others in their place, as a part of all, before the text is written as a whole.
const MOST_INSTEAD: usize = 4;

const INSTEAD: &str = "instead";
const AND: &str = "and";
const REMOVED: &str = "- - removed";

/// Members of which a change waits until the keeper of the list agrees, and their lines without it.
pub type Unagreed = BTreeMap<PublicKey, Option<String>>;

pub(super) enum Line {
    /// A comment, a blank line or a revoked member, as it was.
    Text(String),
    /// A member, as it was read or written if it has not changed since.
    Member(MemberId, Option<String>),
    /// Nothing, until the whole text is written.
    Gone,
}

/// How to bring the text of `members` up to date.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Patch {
    /// These lines come behind all others.
    Append(String),
    /// This is the whole text.
    Replace(String),
}

/// All lines.
pub(super) struct Lines {
    lines: Vec<Line>,
    /// Where the line of each member is.
    places: HashMap<MemberId, usize>,
    text: Text,
}

/// The text that was last read or written, compared with the lines.
struct Text {
    /// How many of the lines it has, the first ones, and its length in bytes.
    lines: usize,
    len: usize,
    /// Whether lines can be added to it.
    can_grow: bool,
    /// Those of its lines that are other ones now, with the key that it has there.
    changed: BTreeMap<usize, PublicKey>,
    /// How many of its lines take the place of others.
    instead: usize,
    /// From which lengths on new lines, and changed ones, are added at the end.
    append_from: (usize, usize),
}

impl Lines {
    /// None yet, of this text, in which so many lines take the place of others.
    pub(super) fn new(text: &str, instead: usize) -> Lines {
        let text = Text {
            lines: 0,
            len: text.len(),
            // Appended text would become part of an unterminated last line.
            can_grow: text.is_empty() || text.ends_with('\n'),
            changed: BTreeMap::new(),
            instead,
            append_from: (APPEND_FROM, INSTEAD_FROM),
        };
        Lines { lines: Vec::new(), places: HashMap::new(), text }
    }

    /// All lines so far are those of the text.
    pub(super) fn set_read(&mut self) {
        self.text.lines = self.lines.len();
    }

    pub(super) fn append_from(&mut self, new: usize, changed: usize) {
        self.text.append_from = (new, changed);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Line> {
        self.lines.iter()
    }

    /// What is in place of what a person wrote, all of them: the text is another one.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Line> {
        self.text.can_grow = false;
        self.lines.iter_mut()
    }

    pub(super) fn push_text(&mut self, text: String) {
        self.lines.push(Line::Text(text));
    }

    pub(super) fn push(&mut self, id: MemberId, text: Option<String>) {
        self.places.insert(id, self.lines.len());
        self.lines.push(Line::Member(id, text));
    }

    /// A member has other ids now.
    pub(super) fn rename(&mut self, new_id: impl Fn(MemberId) -> Option<MemberId>) {
        for line in &mut self.lines {
            if let Line::Member(id, _) = line
                && let Some(new) = new_id(*id)
            {
                *id = new;
            }
        }
        self.refresh_places();
    }

    fn refresh_places(&mut self) {
        let place = |(at, line): (usize, &Line)| match line {
            Line::Member(id, _) => Some((*id, at)),
            Line::Text(_) | Line::Gone => None,
        };
        self.places = self.lines.iter().enumerate().filter_map(place).collect();
    }

    /// The line of a member, whose key this is and was, says something else now.
    pub(super) fn change(&mut self, id: MemberId, key: PublicKey) {
        if let Some(at) = self.changed_at(id, key) {
            self.lines[at] = Line::Member(id, None);
        }
    }

    /// A member has no line any more.
    pub(super) fn remove(&mut self, id: MemberId, key: PublicKey) {
        if let Some(at) = self.changed_at(id, key) {
            self.lines[at] = Line::Gone;
            self.places.remove(&id);
        }
    }

    /// What stands in the place of a member's line from now on, by what it was. Returns it.
    pub(super) fn strike(
        &mut self,
        id: MemberId,
        key: PublicKey,
        text: impl FnOnce(Option<&str>) -> String,
    ) -> Option<String> {
        let at = self.changed_at(id, key)?;
        self.places.remove(&id);
        let before =
            if let Line::Member(_, Some(before)) = &self.lines[at] { Some(before.as_str()) } else { None };
        let text = text(before);
        self.lines[at] = Line::Text(text.clone());
        Some(text)
    }

    fn changed_at(&mut self, id: MemberId, key: PublicKey) -> Option<usize> {
        let at = *self.places.get(&id)?;
        if at < self.text.lines {
            self.text.changed.insert(at, key);
        }
        Some(at)
    }

    /// The text in the file is unknown.
    pub(super) fn set_damaged(&mut self) {
        self.text.can_grow = false;
    }

    /// Whether lines of the text take the place of others.
    pub(super) fn has_instead(&self) -> bool {
        self.text.instead > 0
    }

    /// Whether what is new or changed can be added at the end.
    fn can_append(&self, unagreed: &Unagreed) -> bool {
        let Text { len, can_grow, ref changed, instead, append_from: (new, other), .. } = self.text;
        let are_few = (instead + changed.len()) * MOST_INSTEAD <= self.lines.len().max(16);
        // Another one may have what a line gives up that is not to be changed yet.
        let waits = changed.values().any(|key| unagreed.contains_key(key));
        can_grow && !waits && len >= new && (changed.is_empty() || len >= other && are_few)
    }

    /// Whether it takes the whole text to write what is changed, and that is long.
    pub(super) fn is_costly(&self, unagreed: &Unagreed) -> bool {
        !self.can_append(unagreed) && self.text.len >= self.text.append_from.0
    }

    /// The whole text.
    pub(super) fn to_text(&self, format: impl Fn(MemberId) -> String) -> String {
        let mut text = String::new();
        for line in &self.lines {
            match line {
                Line::Text(line) | Line::Member(_, Some(line)) => text.push_str(line),
                Line::Member(id, None) => text.push_str(&format(*id)),
                Line::Gone => continue,
            }
            text.push('\n');
        }
        text
    }

    /// What has to be written for the text to have all lines as they are now, but for those of members that wait: in a whole
    /// text their lines `before` stand at its end, and to one that grows nothing is added behind the first of them.
    pub(super) fn begin_save(
        &mut self,
        format: impl Fn(MemberId) -> String,
        waits: impl Fn(MemberId) -> bool,
        (unagreed, before): (&Unagreed, &[String]),
    ) -> Patch {
        let can_append = self.can_append(unagreed);
        let mut text = String::new();
        let changed = std::mem::take(&mut self.text.changed);
        let from = if can_append {
            self.text.instead += changed.len();
            self.push_instead(changed, &format, &mut text);
            self.text.lines
        } else {
            self.lines.retain(|line| !matches!(line, Line::Gone));
            self.refresh_places();
            self.text.instead = 0;
            0
        };
        let mut to = self.lines.len();
        for (at, line) in self.lines.iter_mut().enumerate().skip(from) {
            match line {
                Line::Member(id, _) if waits(*id) && can_append => {
                    to = at;
                    break;
                }
                Line::Member(id, _) if waits(*id) => continue,
                Line::Member(id, line @ None) => *line = Some(format(*id)),
                Line::Member(..) | Line::Text(_) | Line::Gone => {}
            }
            let (Line::Text(line) | Line::Member(_, Some(line))) = line else { continue };
            text.push_str(line);
            text.push('\n');
        }
        if !can_append {
            before.iter().for_each(|line| text.extend([line.as_str(), "\n"]));
        }
        self.text.lines = to;
        self.text.len = if can_append { self.text.len + text.len() } else { text.len() };
        // A whole text with other lines than these is written anew.
        self.text.can_grow = can_append || unagreed.is_empty();
        if can_append { Patch::Append(text) } else { Patch::Replace(text) }
    }

    fn push_instead(
        &mut self,
        changed: BTreeMap<usize, PublicKey>,
        format: impl Fn(MemberId) -> String,
        text: &mut String,
    ) {
        let mut left = changed.len();
        for (at, key) in changed {
            left -= 1;
            match &mut self.lines[at] {
                Line::Gone => text.push_str(&format!("{key} {REMOVED}")),
                Line::Text(line) => text.push_str(line.trim_end()),
                Line::Member(id, line) => text.push_str(line.insert(format(*id)).trim_end()),
            }
            text.push_str(if left > 0 { " and instead\n" } else { " instead\n" });
        }
    }
}

/// The text without lines that take the place of others, each with its number in the file, from 1.
pub(super) struct Folded<'a> {
    pub(super) lines: Vec<(usize, Cow<'a, str>)>,
    /// How many there were.
    pub(super) instead: usize,
}

/// What is before the last word of a line, if it is this one.
fn without_word<'a>(line: &'a str, word: &str) -> Option<&'a str> {
    let before = line.strip_suffix(word).filter(|before| before.ends_with(char::is_whitespace));
    before.map(str::trim_end)
}

/// The words of a line without those that say that it takes the place of another one; whether more belong to it.
fn instead(line: &str) -> Option<(&str, bool)> {
    let before = without_word(line.trim_end(), INSTEAD)?;
    let goes_on = without_word(before, AND);
    let before = goes_on.unwrap_or(before);
    // `KEY instead` is a member of this name.
    let is_line = before.split_whitespace().nth(2).is_some() && !before.trim_start().starts_with('#');
    is_line.then_some((before, goes_on.is_some()))
}

/// The text without last lines to which more belong that are missing.
pub(crate) fn without_incomplete(mut text: &str) -> &str {
    while let Some(line) = text.lines().last()
        && instead(line).is_some_and(|(_, goes_on)| goes_on)
    {
        let lines = text.strip_suffix('\n').unwrap_or(text);
        text = &lines[..lines.rfind('\n').map_or(0, |end| end + 1)];
    }
    text
}

/// Puts each line in the place of the one that it is to take.
pub(super) fn fold(text: &str) -> Result<Folded<'_>, BadLine> {
    let mut folded = Folded { lines: Vec::new(), instead: 0 };
    let numbered = text.lines().enumerate().map(|(index, line)| (index + 1, line));
    if !text.lines().any(|line| instead(line).is_some()) {
        folded.lines = numbered.map(|(number, line)| (number, line.into())).collect();
        return Ok(folded);
    }
    let key = |line: &str| line.split_whitespace().next().map(str::to_owned);
    let mut lines: Vec<Option<(usize, Cow<'_, str>)>> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut together: Vec<(usize, &str)> = Vec::new();
    for (number, line) in numbered {
        let bad = |why: &str| BadLine { line: number, why: why.to_owned() };
        match instead(line) {
            Some((line, goes_on)) => {
                together.push((number, line));
                if goes_on {
                    continue;
                }
                for (number, line) in together.drain(..) {
                    folded.instead += 1;
                    let key = key(line).unwrap_or_default();
                    let Some(&at) = places.get(&key) else {
                        return Err(BadLine { line: number, why: "no line above has this key".to_owned() });
                    };
                    let is_removed = line.split_whitespace().skip(1).eq(REMOVED.split(' '));
                    lines[at] = (!is_removed).then(|| (number, line.into()));
                    if is_removed {
                        places.remove(&key);
                    }
                }
            }
            None if !together.is_empty() => {
                return Err(bad("the one before says that it goes on with `instead`"));
            }
            None => {
                if let Some(key) = key(line) {
                    // Two lines with one key are for the reader of the lines to refuse.
                    places.entry(key).or_insert(lines.len());
                }
                lines.push(Some((number, line.into())));
            }
        }
    }
    if let Some(&(line, _)) = together.last() {
        return Err(BadLine { line, why: "the last one that belongs to it is missing".to_owned() });
    }
    folded.lines = lines.into_iter().flatten().collect();
    Ok(folded)
}
