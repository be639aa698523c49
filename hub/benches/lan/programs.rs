//! What every benchmark of programs does: builds them, keeps the figures, and says what went wrong.

#![allow(dead_code, reason = "each benchmark that includes it uses a part of it")]

use std::env;
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use crate::house::{Context, Failure, Result};

/// The exit code of a benchmark, with its failure on standard error.
pub(crate) fn exit(name: &str, outcome: Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{name}: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// Builds hub and spoke: cargo has built the hub alone, as the spoke is another package's program.
pub(crate) fn build() -> Result<()> {
    let Some(cargo) = env::var_os("CARGO") else { return Ok(()) };
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--release", "--bins", "--manifest-path"]);
    let status = command.arg(workspace().join("Cargo.toml")).status().context("run cargo build")?;
    if status.success() { Ok(()) } else { Err(Failure::new("the programs could not be built")) }
}

/// Writes files to this directory, or to target/bench.
pub(crate) fn keep(directory: Option<&Path>, files: &[(&str, String)]) -> Result<()> {
    let directory = directory.map_or_else(|| workspace().join("target/bench"), Path::to_owned);
    fs::create_dir_all(&directory).context(&directory.display().to_string())?;
    for (name, text) in files {
        let path = directory.join(name);
        fs::write(&path, text).context(&path.display().to_string())?;
        println!("written to {}", path.display());
    }
    Ok(())
}

/// Whether a list such as `hub,bare` has this name; without a list, all are chosen.
pub(crate) fn is_chosen(list: Option<&str>, name: &str) -> bool {
    list.is_none_or(|list| list.split(',').any(|chosen| chosen.trim() == name))
}

/// The value in the middle; `None` of no values.
pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.get(values.len().saturating_sub(1) / 2..=values.len() / 2)?;
    Some(middle.iter().sum::<f64>() / middle.len() as f64)
}

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the workspace")
}
