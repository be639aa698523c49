//! Log lines on standard error: with the time for people, with a priority for the journal. IO.
#![expect(clippy::disallowed_methods, reason = "an IO file: it reads the environment")]

use std::io::Write as _;

use env_logger::{Builder, Env};
use log::Level;
use nix::sys::stat::fstat;

use super::log_filter;

/// Starts the logger, and warns where `RUST_LOG` does not do what it seems to.
pub fn start() {
    let mut builder = Builder::from_env(Env::default().default_filter_or("info"));
    let filter = std::env::var("RUST_LOG").unwrap_or_default();
    let advice = log_filter::advice(&filter);
    if advice.is_some() {
        // A filter with a slip in it would hide the very warning about it.
        builder.filter_level(log::LevelFilter::Info);
    }
    if is_journal() {
        builder.format(|to, record| {
            let text = record.args().to_string();
            text.lines().try_for_each(|line| writeln!(to, "<{}>{line}", priority(record.level())))
        });
    }
    builder.init();
    if let Some(advice) = advice {
        log::warn!("{advice}");
    }
}

/// The priority of a level in sd-daemon(3), which the journal takes from the beginning of a line.
fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

/// Whether standard error is the journal: systemd puts its device and inode into `JOURNAL_STREAM`.
fn is_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    fstat(std::io::stderr()).is_ok_and(|stderr| stream == format!("{}:{}", stderr.st_dev, stderr.st_ino))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_have_the_priorities_of_syslog() {
        let levels = [Level::Error, Level::Warn, Level::Info, Level::Debug, Level::Trace];
        assert_eq!(levels.map(priority), [3, 4, 6, 7, 7]);
    }
}
