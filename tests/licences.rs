//! The licences of the crates that hub and spoke are made of: only those that are allowed, and their texts in one file,
//! target/THIRD-PARTY-LICENCES, which this test writes for the packages to carry.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a test: it reads the sources of crates")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Licences that ask for no more than their text beside the program.
const ALLOWED: [&str; 11] = [
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-1-Clause",
    "BSD-3-Clause",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Zlib",
];

struct Crate {
    /// Name and version.
    label: String,
    licence: String,
    directory: PathBuf,
    /// It is part of a program, not of tests or builds alone.
    is_shipped: bool,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// All crates of others in Cargo.lock that are built for Linux.
fn crates() -> Vec<Crate> {
    let mut cargo = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()));
    cargo.args(["metadata", "--format-version=1", "--locked"]);
    cargo.args(["--filter-platform=x86_64-unknown-linux-gnu"]).current_dir(root());
    let output = cargo.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let shipped = shipped(&metadata);
    let text = |package: &Value, field: &str| package[field].as_str().unwrap_or_default().to_owned();
    let packages = metadata["packages"].as_array().unwrap().iter();
    let foreign = packages.filter(|package| !package["source"].is_null());
    foreign
        .map(|package| Crate {
            label: format!("{} {}", text(package, "name"), text(package, "version")),
            licence: text(package, "license"),
            directory: Path::new(&text(package, "manifest_path")).parent().unwrap().to_owned(),
            is_shipped: shipped.contains(&text(package, "id")),
        })
        .collect()
}

/// Ids of what the programs are linked from.
fn shipped(metadata: &Value) -> BTreeSet<String> {
    let nodes: BTreeMap<&str, &Value> = metadata["resolve"]["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|node| (node["id"].as_str().unwrap(), node))
        .collect();
    let mut found = BTreeSet::new();
    let members = metadata["workspace_members"].as_array().unwrap();
    let mut open: Vec<&str> = members.iter().map(|id| id.as_str().unwrap()).collect();
    while let Some(id) = open.pop() {
        if !found.insert(id.to_owned()) {
            continue;
        }
        for dependency in nodes[id]["deps"].as_array().unwrap() {
            let kinds = dependency["dep_kinds"].as_array().unwrap();
            if kinds.iter().any(|kind| kind["kind"].is_null()) {
                open.push(dependency["pkg"].as_str().unwrap());
            }
        }
    }
    found
}

/// Whether an expression (SPDX; also with `/` for OR) can be met by allowed licences.
fn is_allowed(expression: &str) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let mut words: Vec<&str> = spaced.split_whitespace().rev().collect();
    any(&mut words) == Some(true) && words.is_empty()
}

/// `None` where words are missing.
fn any(words: &mut Vec<&str>) -> Option<bool> {
    let mut allowed = all(words)?;
    while words.last() == Some(&"OR") {
        words.pop();
        allowed |= all(words)?;
    }
    Some(allowed)
}

fn all(words: &mut Vec<&str>) -> Option<bool> {
    let mut allowed = one(words)?;
    while words.last() == Some(&"AND") {
        words.pop();
        allowed &= one(words)?;
    }
    Some(allowed)
}

fn one(words: &mut Vec<&str>) -> Option<bool> {
    let name = words.pop()?;
    if name == "(" {
        let allowed = any(words)?;
        return (words.pop()? == ")").then_some(allowed);
    }
    if words.last() == Some(&"WITH") {
        words.pop();
        return Some(ALLOWED.contains(&format!("{name} WITH {}", words.pop()?).as_str()));
    }
    Some(ALLOWED.contains(&name))
}

/// The texts of a crate's licences. Where MIT is one of the choices, and has a file, that is the choice.
fn texts(of: &Crate) -> Vec<String> {
    let mut files: Vec<PathBuf> = fs::read_dir(&of.directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            let name = path.file_name().unwrap().to_string_lossy().to_uppercase();
            path.is_file()
                && ["LICENSE", "LICENCE", "COPYING", "NOTICE", "COPYRIGHT"]
                    .iter()
                    .any(|start| name.starts_with(start))
        })
        .collect();
    files.sort();
    let is_choice = of.licence.contains(" OR ") || of.licence.contains('/');
    let is_mit = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().to_uppercase().contains("MIT");
    if is_choice && !of.licence.contains("AND") && files.iter().any(is_mit) {
        files.retain(is_mit);
    }
    let read = |path: &PathBuf| {
        String::from_utf8_lossy(&fs::read(path).unwrap()).replace('\r', "").trim().to_owned()
    };
    files.iter().map(read).collect()
}

/// What the packages carry.
fn notices() -> String {
    let crates: Vec<Crate> = crates().into_iter().filter(|found| found.is_shipped).collect();
    let mut by_text: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    let mut text = "hub and spoke are made of these crates, under these licences:\n\n".to_owned();
    for found in &crates {
        text += &format!("{}: {}\n", found.label, found.licence);
        for licence in texts(found) {
            by_text.entry(licence).or_default().push(&found.label);
        }
    }
    for (licence, labels) in by_text {
        text += &format!("\n{}\n{}\n\n{licence}\n", "-".repeat(80), labels.join(", "));
    }
    text
}

#[test]
fn every_crate_has_an_allowed_licence() {
    let crates = crates();
    assert!(crates.len() > 50, "the crates are not found");
    let bad: Vec<String> = crates
        .iter()
        .filter(|found| !is_allowed(&found.licence))
        .map(|found| format!("{}: {:?}", found.label, found.licence))
        .collect();
    assert!(bad.is_empty(), "these licences are not on the list of this test:\n{}", bad.join("\n"));
}

#[test]
fn every_shipped_crate_brings_the_text_of_its_licence() {
    let missing: Vec<String> = crates()
        .iter()
        .filter(|found| found.is_shipped && texts(found).is_empty())
        .map(|found| found.label.clone())
        .collect();
    assert!(missing.is_empty(), "no licence text: {missing:?}");
}

#[test]
fn the_packages_carry_the_licences_of_what_they_are_made_of() {
    let notices = notices();
    for known in ["\nmio 1.", "\nrustls 0.", "Permission is hereby granted"] {
        assert!(notices.contains(known), "{known}");
    }
    fs::create_dir_all(root().join("target")).unwrap();
    fs::write(root().join("target/THIRD-PARTY-LICENCES"), notices).unwrap();
    for package in ["hub", "spoke"] {
        let manifest = fs::read_to_string(root().join(package).join("Cargo.toml")).unwrap();
        assert!(manifest.contains("\"../target/THIRD-PARTY-LICENCES\""), "{package}");
    }
}

#[test]
fn expressions_are_read() {
    for allowed in
        ["MIT", "MIT/Apache-2.0", "LGPL-2.1 OR MIT", "(MIT OR GPL-3.0) AND ISC", "GPL-3.0 OR MIT AND ISC"]
    {
        assert!(is_allowed(allowed), "{allowed}");
    }
    for refused in [
        "",
        "GPL-3.0",
        "MIT AND GPL-3.0",
        "(MIT OR ISC) AND GPL-3.0",
        "Apache-2.0 WITH x",
        "MIT OR",
        "MIT ISC",
    ] {
        assert!(!is_allowed(refused), "{refused}");
    }
}
