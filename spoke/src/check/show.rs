//! What `spoke check` prints. Pure.
#![warn(clippy::disallowed_methods, reason = "pure, though the module above it is not")]

use std::fmt::Write as _;

use common::node::request::to_json;
use common::node::text::Printable;
use serde::Serialize;

use super::verdict::{Findings, Line, Outcome};

/// For people.
pub fn text(findings: &Findings) -> String {
    let mut text = String::new();
    // A String takes whatever is written to it.
    for (way, lines) in &findings.ways {
        let _ = writeln!(text, "{}", Printable::whole(way));
        lines.iter().for_each(|line| push(&mut text, line));
    }
    let _ = writeln!(text, "this machine");
    findings.machine.iter().for_each(|line| push(&mut text, line));
    let _ = match (findings.good_ways(), findings.ways.len()) {
        (0, 1) => writeln!(text, "the hub cannot be reached, see FAILED"),
        (0, all) => writeln!(text, "the hub cannot be reached by any of the {all} ways, see FAILED"),
        (_, 1) => writeln!(text, "the hub can be reached"),
        (good, all) => writeln!(text, "the hub can be reached by {good} of {all} ways"),
    };
    text
}

fn push(text: &mut String, Line { check, outcome, text: said }: &Line) {
    let outcome = match outcome {
        Outcome::Ok => "ok",
        Outcome::Failed => "FAILED",
        Outcome::Unchecked => "not checked",
    };
    let _ = writeln!(text, "  {check:<9}  {outcome}: {}", Printable::whole(said));
}

/// For programs.
#[derive(Serialize)]
struct Row<'a> {
    /// None for this machine.
    way: Option<&'a str>,
    check: &'a str,
    /// `ok`, `failed` or `unchecked`.
    result: &'a str,
    text: &'a str,
}

/// For programs: one object a line.
pub fn json(findings: &Findings) -> String {
    let row = |way, line: &Line| {
        let result = match line.outcome {
            Outcome::Ok => "ok",
            Outcome::Failed => "failed",
            Outcome::Unchecked => "unchecked",
        };
        to_json(&Row { way, check: line.check, result, text: &line.text })
    };
    let ways = findings
        .ways
        .iter()
        .flat_map(|(way, lines)| lines.iter().map(|line| row(Some(way.as_str()), line)).collect::<Vec<_>>());
    ways.chain(findings.machine.iter().map(|line| row(None, line))).collect()
}
