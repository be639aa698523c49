//! The rules of the source tree: heads, layers, purity, cycles and sizes, read from the files themselves.
//!
//! A small lexer finds the paths in each file's code, tests left out, and follows them through `use` lines and
//! re-exports to the file that defines what they name.

#![allow(clippy::disallowed_methods, reason = "a test: it reads the source tree")]

mod house_rules {
    pub(crate) mod imports;
    pub(crate) mod lexer;
    pub(crate) mod tree;
}

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use house_rules::tree::{Kind, SourceFile, Tree};

/// What may stay over a limit, and why.
const LONG_FILES: &[(&str, &str)] = &[("common/src/node/state.rs", "a third of it is tests")];
const LARGE_STRUCTS: &[(&str, &str)] = &[
    ("Status", "one flat JSON object, as `--json` prints it"),
    ("Client", "the shell: what it owns are the sources and sinks of its loop"),
    ("Server", "the shell: what it owns are the sources and sinks of its loop"),
];

const MAX_LINES: usize = 600;
const MAX_FIELDS: usize = 12;

fn assert_none(found: &BTreeSet<String>, rule: &str) {
    let mut lines = String::new();
    for line in found {
        let _ = writeln!(lines, "  {line}");
    }
    assert!(found.is_empty(), "{rule}:\n{lines}");
}

#[test]
fn imports_are_found_through_use_lines_re_exports_and_paths() {
    let tree = Tree::read();
    let imports: BTreeSet<(&str, &str)> =
        tree.imports().into_iter().map(|(from, to)| (from.path.as_str(), to.path.as_str())).collect();
    for known in [
        ("hub/src/core.rs", "hub/src/switch.rs"),
        ("common/src/linux/tun.rs", "common/src/packet/sizes.rs"),
        ("hub/src/core/offers.rs", "hub/src/core.rs"),
        ("hub/src/switch/forward.rs", "common/src/packet/offload/check.rs"),
    ] {
        assert!(imports.contains(&known), "{known:?} is not found");
    }
}

#[test]
fn every_file_says_what_it_owns_and_whether_it_is_pure() {
    let tree = Tree::read();
    let found = tree
        .files
        .iter()
        .filter(|file| {
            file.head.is_empty()
                || (file.has_code() && !file.is_main() && !file.is_test && file.kind().is_none())
        })
        .map(|file| file.path.clone())
        .collect();
    assert_none(&found, "the `//!` head has to say what the file owns, and either \"Pure\" or \"IO\"");
}

#[test]
fn pure_files_import_no_io_file() {
    let tree = Tree::read();
    let mut found = BTreeSet::new();
    for (from, to) in tree.imports() {
        if from.kind() == Some(Kind::Pure) && to.kind() == Some(Kind::Io) {
            found.insert(format!("{} imports {}", from.path, to.path));
        }
    }
    assert_none(&found, "a pure file imports no IO file, not even for a constant");
}

#[test]
fn purity_lint_is_on_in_every_pure_file() {
    let tree = Tree::read();
    let found = tree
        .files
        .iter()
        .filter(|file| file.kind() == Some(Kind::Pure) && !file.is_test && tree.purity_lint_is_off(file))
        .map(|file| file.path.clone())
        .collect();
    assert_none(&found, "a pure file below an IO file has to turn `clippy::disallowed_methods` on again");
}

#[test]
fn arrows_go_down() {
    let tree = Tree::read();
    let mut found = BTreeSet::new();
    for (from, to) in tree.imports() {
        let same = from.crate_name == to.crate_name && from.layer() == to.layer();
        if !same && from.rank() <= to.rank() {
            found.insert(format!("{} imports {}", from.path, to.path));
        }
    }
    assert_none(&found, "hub, spoke → node → transport → linux → wire → queue → packet");
}

#[test]
fn files_import_each_other_in_no_cycle() {
    let tree = Tree::read();
    let found = tree.cycles().into_iter().collect();
    assert_none(&found, "these files import each other");
}

#[test]
fn unsafe_code_is_in_one_file() {
    let tree = Tree::read();
    let found = tree
        .files
        .iter()
        .filter(|file| file.path != "common/src/linux/sys.rs")
        .filter(|file| file.tokens.iter().any(|token| token == "unsafe" || token == "unsafe_code"))
        .map(|file| file.path.clone())
        .collect();
    assert_none(&found, "`unsafe` belongs to common/src/linux/sys.rs");
}

#[test]
fn files_and_structs_are_small() {
    let tree = Tree::read();
    let mut found = BTreeSet::new();
    for SourceFile { path, lines, structs, .. } in &tree.files {
        if *lines > MAX_LINES && !LONG_FILES.iter().any(|(long, _)| long == path) {
            found.insert(format!("{path}: {lines} lines"));
        }
        for (name, fields) in structs {
            if *fields > MAX_FIELDS && !LARGE_STRUCTS.iter().any(|(large, _)| large == name) {
                found.insert(format!("{path}: {name} has {fields} fields"));
            }
        }
    }
    assert_none(
        &found,
        "a file of more than 600 lines, or a struct of more than a dozen fields, is two things",
    );
}

#[test]
fn every_file_of_tests_is_run() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a crate is below the root");
    let read = |path: &str| fs::read_to_string(root.join(path)).expect("it is there");
    let targets = ["common", "hub", "spoke"].map(|name| read(&format!("{name}/Cargo.toml"))).concat();
    let modules = ["e2e", "e2e_timed"].map(|name| read(&format!("tests/{name}.rs"))).concat();
    let files = fs::read_dir(root.join("tests")).expect("it is there");
    let mut found = BTreeSet::new();
    for path in files.map(|entry| entry.expect("it can be read").path()) {
        let Some(name) = path.file_stem().and_then(|stem| stem.to_str()) else { continue };
        if path.extension().is_some_and(|extension| extension == "rs")
            && !targets.contains(&format!("path = \"../tests/{name}.rs\""))
            && !modules.lines().any(|line| line == format!("mod {name};"))
        {
            found.insert(name.to_owned());
        }
    }
    assert_none(&found, "a test is a [[test]] target, or a module of e2e.rs or e2e_timed.rs");
}
