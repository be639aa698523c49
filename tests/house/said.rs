//! What commands that ask a running hub or spoke say.

use std::path::Path;
use std::process::Command;

use super::{Binaries, Host, Net};

/// What a command that has ended printed.
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    /// Its output, if it did well.
    #[track_caller]
    pub(crate) fn good(self) -> String {
        assert_eq!(self.code, Some(0), "{}{}", self.out, self.err);
        self.out
    }

    /// Checks that it failed and why.
    #[track_caller]
    pub(crate) fn fails(self, why: &str) {
        self.fails_with(1, why);
    }

    /// Checks that it failed with this code, and why.
    #[track_caller]
    pub(crate) fn fails_with(self, code: i32, why: &str) {
        assert_eq!(self.code, Some(code), "{}{}", self.out, self.err);
        assert!(self.err.contains(why), "{why}: {}{}", self.out, self.err);
    }
}

/// Runs `hub` with these arguments and the state of the hub of this net.
pub(crate) fn ask_hub(net: &Net, args: &[&str]) -> Said {
    command(net.hub(), &binaries().hub, "hub", args)
}

/// Runs `spoke` with these arguments and the state of spoke `i`.
pub(crate) fn ask_spoke(net: &Net, i: usize, args: &[&str]) -> Said {
    command(net.spoke(i), &binaries().spoke, "spoke", args)
}

fn binaries() -> Binaries {
    Binaries::find().unwrap_or_else(|failure| panic!("{failure}"))
}

fn command(host: &Host, program: &Path, state: &str, args: &[&str]) -> Said {
    let mut command = Command::new(program);
    command.args(args).arg("--state").arg(host.private().join(state));
    run(host, command)
}

/// Runs a command to its end.
pub(crate) fn run(host: &Host, mut command: Command) -> Said {
    let output = host.run(move || command.output()).expect("the program is there");
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("programs print UTF-8");
    Said { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
}
