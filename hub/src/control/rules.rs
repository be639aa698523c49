//! The access rules, as a hub's commands show them. Pure.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::core::Core;
use crate::lan::rules::access::Count;

/// Most members, or rules, in one page of an answer.
pub const PAGE: usize = 500;

/// The access rules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleList {
    /// The file that they are read from.
    pub file: PathBuf,
    /// Whether that file is there: without it all may reach all.
    pub exists: bool,
    /// The lines: of one page, or all of them once a command has put the pages together.
    pub rules: Vec<RuleStatus>,
    /// Packets that were dropped as no line matches.
    pub unmatched: u64,
    /// Flows that may pass, and whose replies may.
    pub flows: usize,
}

/// One access rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleStatus {
    /// The number of its line.
    pub line: usize,
    /// The line, shortened where it is long.
    pub text: String,
    /// Packets that it decided about, replies included.
    pub packets: u64,
}

/// What the access rules say about one case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explained {
    /// Whether it may pass.
    pub allowed: bool,
    /// The line that decides, and its text; none where there are no rules, or no line matches.
    pub line: Option<usize>,
    /// The text of the line.
    pub text: Option<String>,
    /// Whether there are rules at all.
    pub has_rules: bool,
    /// Who sends, and from which address.
    pub from: String,
    /// Who receives, and at which address.
    pub to: String,
}

/// The access rules behind the first `from` ones.
pub fn rules(core: &Core, file: PathBuf, from: usize) -> RuleList {
    let Some(access) = core.access_rules() else {
        return RuleList { file, exists: false, rules: Vec::new(), unmatched: 0, flows: 0 };
    };
    let counts = access.counts().skip(from).take(PAGE);
    let rules = counts.filter_map(|Count { line, packets }| {
        let line = line?;
        Some(RuleStatus { line, text: access.rules().text(line)?.to_owned(), packets })
    });
    let (rules, unmatched, flows) = (rules.collect(), access.unmatched(), access.flows());
    RuleList { file, exists: true, rules, unmatched, flows }
}

/// Which access rule decides about a service from one end to the other.
///
/// # Errors
/// A sentence that says which end or service is unknown.
pub fn explain(core: &Core, from: &str, to: &str, service: &str) -> Result<Explained, String> {
    let case = core.explain(from, to, service.parse()?)?;
    let decided = case.decision;
    let line = decided.and_then(|decision| decision.line);
    let text = line.and_then(|line| core.access_rules()?.rules().text(line));
    Ok(Explained {
        allowed: decided.is_none_or(|decision| decision.allows),
        line,
        text: text.map(str::to_owned),
        has_rules: decided.is_some(),
        from: case.from,
        to: case.to,
    })
}
