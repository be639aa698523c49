//! The source tree: its files, their layers, and which file imports which.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::imports::{Paths, without_tests};
use super::lexer::{after_group, after_item, tokens};

/// The layers of `common`, from below.
const LAYERS: [&str; 6] = ["packet", "queue", "wire", "linux", "transport", "node"];

/// Whether a file touches descriptors, the clock or globals.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Pure,
    Io,
}

/// One source file.
pub(crate) struct SourceFile {
    /// From the repository's root: `common/src/queue/codel.rs`.
    pub(crate) path: String,
    pub(crate) crate_name: String,
    /// The module without its crate: `["queue", "codel"]`.
    module: Vec<String>,
    /// The `//!` lines, as one.
    pub(crate) head: String,
    pub(crate) lines: usize,
    /// The code, tests left out.
    pub(crate) tokens: Vec<String>,
    /// Each struct with named fields, and how many.
    pub(crate) structs: Vec<(String, usize)>,
    /// Whether it is compiled for tests alone.
    pub(crate) is_test: bool,
    paths: Paths,
    defined: BTreeSet<String>,
}

/// All source files of the three crates.
pub(crate) struct Tree {
    pub(crate) files: Vec<SourceFile>,
    by_module: BTreeMap<Vec<String>, usize>,
}

impl SourceFile {
    /// What the head says; `None` if it says neither, or both.
    pub(crate) fn kind(&self) -> Option<Kind> {
        let says = |word: &str| {
            self.head.split_inclusive(['.', ':', ';']).any(|sentence| {
                sentence
                    .trim_start()
                    .strip_prefix(word)
                    .is_some_and(|rest| !rest.starts_with(char::is_alphanumeric))
            })
        };
        match (says("Pure"), says("IO")) {
            (true, false) => Some(Kind::Pure),
            (false, true) => Some(Kind::Io),
            _ => None,
        }
    }

    pub(crate) fn has_code(&self) -> bool {
        self.paths.has_code
    }

    /// A program's entry: it is IO, and has no need to say so.
    pub(crate) fn is_main(&self) -> bool {
        self.path.ends_with("/src/main.rs")
    }

    /// The folder of `common` that it is in; the crate for others.
    pub(crate) fn layer(&self) -> &str {
        match self.module.first() {
            Some(folder) if self.crate_name == "common" => folder,
            _ => &self.crate_name,
        }
    }

    pub(crate) fn rank(&self) -> usize {
        LAYERS.iter().position(|layer| *layer == self.layer()).unwrap_or(LAYERS.len())
    }

    /// Whether the code uses a name that a `use` line gives: one that is only handed on is no import.
    fn uses(&self, name: &str) -> bool {
        !self.paths.exports.contains_key(name)
            || self.tokens.iter().filter(|token| *token == name).count() > 1
    }

    fn read(root: &Path, path: &Path) -> Self {
        let source = fs::read_to_string(path).expect("source files are text");
        let relative = path.strip_prefix(root).expect("it was found below the root");
        let mut parts: Vec<String> =
            relative.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect();
        let crate_name = parts.remove(0);
        parts.remove(0);
        if parts.last().is_some_and(|last| last == "lib" || last == "main") {
            parts.pop();
        }
        let (tokens, test_modules) = without_tests(&tokens(&source));
        let is_test = false;
        let head: Vec<&str> =
            source.lines().map_while(|line| line.strip_prefix("//!")).map(str::trim).collect();
        let mut file = Self {
            path: relative.to_string_lossy().into_owned(),
            crate_name,
            module: parts,
            head: head.join(" "),
            lines: source.lines().count(),
            structs: structs(&tokens),
            is_test,
            paths: Paths::read(&tokens),
            defined: defined(&tokens),
            tokens,
        };
        file.defined.extend(test_modules.into_iter().map(|name| format!("test {name}")));
        file
    }
}

impl Tree {
    pub(crate) fn read() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a crate is below the root");
        let mut paths = Vec::new();
        for name in ["common", "hub", "spoke"] {
            collect(&root.join(name).join("src"), &mut paths);
        }
        paths.sort();
        let mut files: Vec<SourceFile> = paths.iter().map(|path| SourceFile::read(root, path)).collect();
        let mut by_module = BTreeMap::new();
        for (index, file) in files.iter().enumerate().filter(|(_, file)| !file.is_main()) {
            let mut module = vec![file.crate_name.clone()];
            module.extend(file.module.iter().cloned());
            by_module.insert(module, index);
        }
        let tests: Vec<Vec<String>> = files
            .iter()
            .flat_map(|file| {
                let names = file.defined.iter().filter_map(|name| name.strip_prefix("test "));
                names.map(|name| {
                    [vec![file.crate_name.clone()], file.module.clone(), vec![name.into()]].concat()
                })
            })
            .collect();
        for (module, index) in &by_module {
            files[*index].is_test = tests.iter().any(|test| module.starts_with(test));
        }
        Self { files, by_module }
    }

    /// Which file names something that another one defines; tests left out.
    pub(crate) fn imports(&self) -> Vec<(&SourceFile, &SourceFile)> {
        let mut found = BTreeSet::new();
        for (from, file) in self.files.iter().enumerate().filter(|(_, file)| !file.is_test) {
            let uses = file.paths.names.iter().filter(|(name, _)| file.uses(name));
            let uses = uses.filter_map(|(_, path)| self.resolve(file, path, 0));
            let inline = file.paths.inline.iter().filter_map(|path| self.resolve(file, path, 0));
            found.extend(uses.chain(inline).filter(|to| *to != from).map(|to| (from, to)));
        }
        found.into_iter().map(|(from, to)| (&self.files[from], &self.files[to])).collect()
    }

    /// Sets of files that reach each other by imports, each as one line.
    pub(crate) fn cycles(&self) -> Vec<String> {
        let mut edges: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (from, to) in self.imports() {
            edges.entry(&from.path).or_default().insert(&to.path);
        }
        let reach = |start: &str| {
            let mut seen: BTreeSet<&str> = BTreeSet::new();
            let mut open: Vec<&str> = edges.get(start).into_iter().flatten().copied().collect();
            while let Some(next) = open.pop() {
                if seen.insert(next) {
                    open.extend(edges.get(next).into_iter().flatten());
                }
            }
            seen
        };
        let reached: BTreeMap<&str, BTreeSet<&str>> = edges.keys().map(|file| (*file, reach(file))).collect();
        let mut lines = BTreeSet::new();
        for (file, seen) in reached.iter().filter(|(file, seen)| seen.contains(*file)) {
            let members: Vec<&str> = seen
                .iter()
                .filter(|other| reached.get(**other).is_some_and(|back| back.contains(file)))
                .copied()
                .collect();
            let inner: Vec<String> = members
                .iter()
                .flat_map(|from| {
                    edges[from]
                        .iter()
                        .filter(|to| members.contains(to))
                        .map(move |to| format!("{from} → {to}"))
                })
                .collect();
            lines.insert(inner.join("\n    "));
        }
        lines.into_iter().collect()
    }

    /// Whether the nearest level of `clippy::disallowed_methods` above or in `file` turns the lint off.
    pub(crate) fn purity_lint_is_off(&self, file: &SourceFile) -> bool {
        let mut module = vec![file.crate_name.clone()];
        module.extend(file.module.iter().cloned());
        while !module.is_empty() {
            if let Some(index) = self.by_module.get(&module)
                && let Some(level) = purity_level(&self.files[*index].tokens)
            {
                return level != "warn" && level != "deny";
            }
            module.pop();
        }
        false
    }

    /// The file that defines what `path` names in `file`; `None` for what is not ours, and for a bare module.
    fn resolve(&self, file: &SourceFile, path: &[String], depth: usize) -> Option<usize> {
        let absolute = self.absolute(file, path, depth)?;
        self.definition(&absolute, depth)
    }

    fn absolute(&self, file: &SourceFile, path: &[String], depth: usize) -> Option<Vec<String>> {
        let own = || [vec![file.crate_name.clone()], file.module.clone()].concat();
        let (first, rest) = path.split_first()?;
        let child = || [own(), vec![first.clone()]].concat();
        let base = match first.as_str() {
            "crate" => vec![file.crate_name.clone()],
            "self" => own(),
            "super" => {
                let mut module = own();
                module.pop();
                let mut rest = rest;
                while let Some(("super", after)) =
                    rest.split_first().map(|(word, after)| (word.as_str(), after))
                {
                    module.pop();
                    rest = after;
                }
                return Some([module, rest.to_vec()].concat());
            }
            "common" | "hub" | "spoke" => vec![first.clone()],
            _ if self.by_module.contains_key(&child()) => child(),
            name => match file.paths.names.get(name) {
                Some(named) if named != path && depth < 8 => self.absolute(file, named, depth + 1)?,
                _ => return None,
            },
        };
        Some([base, rest.to_vec()].concat())
    }

    fn definition(&self, path: &[String], depth: usize) -> Option<usize> {
        let length = (1..=path.len()).rev().find(|length| self.by_module.contains_key(&path[..*length]))?;
        let index = self.by_module[&path[..length]];
        let file = &self.files[index];
        let item = path.get(length)?;
        if file.defined.contains(item) || depth > 8 {
            return Some(index);
        }
        if let Some(export) = file.paths.exports.get(item) {
            return self.resolve(file, export, depth + 1);
        }
        let globs = file.paths.globs.iter().filter_map(|glob| self.absolute(file, glob, depth));
        globs
            .filter_map(|glob| self.definition(&[glob, vec![item.clone()]].concat(), depth + 1))
            .find(|index| self.files[*index].defined.contains(item))
            .or(Some(index))
    }
}

fn collect(folder: &Path, paths: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("the source tree is there") {
        let path = entry.expect("the source tree is readable").path();
        if path.is_dir() {
            collect(&path, paths);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            paths.push(path);
        }
    }
}

/// The names of the items that the tokens define.
fn defined(tokens: &[String]) -> BTreeSet<String> {
    const ITEMS: [&str; 8] = ["struct", "enum", "fn", "const", "static", "type", "trait", "union"];
    tokens.windows(2).filter(|pair| ITEMS.contains(&pair[0].as_str())).map(|pair| pair[1].clone()).collect()
}

fn structs(tokens: &[String]) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    for at in tokens.iter().enumerate().filter(|(_, token)| *token == "struct").map(|(at, _)| at) {
        let end = after_item(tokens, at);
        let Some(open) = (at..end).find(|at| tokens[*at] == "{") else { continue };
        let mut fields = 0;
        let mut inner = open + 1;
        while inner + 1 < end {
            match tokens[inner].as_str() {
                "(" | "[" | "{" => inner = after_group(tokens, inner),
                ":" => {
                    fields += 1;
                    inner += 1;
                }
                _ => inner += 1,
            }
        }
        found.push((tokens[at + 1].clone(), fields));
    }
    found
}

/// The level that a file's own `#![…(clippy::disallowed_methods)]` sets.
fn purity_level(tokens: &[String]) -> Option<&str> {
    let at = tokens
        .windows(7)
        .position(|part| part[..3] == ["#", "!", "["] && part[4] == "(" && tokens_name_purity(&part[5..]))?;
    Some(&tokens[at + 3])
}

fn tokens_name_purity(tokens: &[String]) -> bool {
    tokens[0] == "clippy" && tokens[1] == "::"
}
