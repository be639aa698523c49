//! What a command line may hold, and reading it: words in, settings or a sentence out. Pure.
//!
//! A program is a table of settings and commands. The same table gives the names of settings in the environment and
//! in the configuration file (`config`), and the text of `--help`.

use std::ffi::OsString;
use std::fmt::Write as _;

use lexopt::{Arg, Parser};

use super::nearest::did_you_mean;

/// How often a setting may be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One value, once.
    One,
    /// A list: once for each value.
    Many,
    /// No value: it is on or off.
    Switch,
}

/// Something that can be set: by the flag `--NAME`, the variable `PROGRAM_NAME` or the file's `NAME`.
#[derive(Debug)]
pub struct Setting {
    /// Its name, in small letters with hyphens.
    pub name: &'static str,
    /// How often it may be given.
    pub kind: Kind,
    /// What stands for its value in the help; empty for a switch.
    pub value: &'static str,
    /// What holds where it is not given; empty where nothing does.
    pub default: &'static str,
    /// What it does, for the help.
    pub help: &'static str,
    /// Whether its value must not be shown.
    pub is_secret: bool,
}

impl Setting {
    /// A setting of one value.
    pub const fn one(name: &'static str, value: &'static str, help: &'static str) -> Setting {
        Setting { name, kind: Kind::One, value, default: "", help, is_secret: false }
    }

    /// A list.
    pub const fn many(name: &'static str, value: &'static str, help: &'static str) -> Setting {
        Setting { kind: Kind::Many, ..Setting::one(name, value, help) }
    }

    /// A switch.
    pub const fn switch(name: &'static str, help: &'static str) -> Setting {
        Setting { kind: Kind::Switch, ..Setting::one(name, "", help) }
    }

    /// The same with a default to show.
    pub const fn or(self, default: &'static str) -> Setting {
        Setting { default, ..self }
    }

    /// The same, never shown.
    pub const fn secret(self) -> Setting {
        Setting { is_secret: true, ..self }
    }
}

/// A word that makes the program do something else than run.
#[derive(Debug)]
pub struct Command {
    /// The word.
    pub name: &'static str,
    /// What it does, for the help.
    pub help: &'static str,
    /// What stands for the words behind it in the help, such as `NAME`; in brackets where they may be missing.
    pub operands: &'static str,
    /// Its own settings.
    pub settings: &'static [Setting],
}

impl Command {
    /// What stands for each word behind it.
    fn words(&self) -> impl Iterator<Item = &'static str> {
        self.operands.trim_matches(['[', ']']).split_ascii_whitespace()
    }
}

/// All that a command line may hold.
#[derive(Debug)]
pub struct Program {
    /// Its name.
    pub name: &'static str,
    /// What it does, for the help.
    pub about: &'static str,
    /// What it can be set to.
    pub settings: &'static [Setting],
    /// What it can be told to do instead of running.
    pub commands: &'static [Command],
    /// Settings that every command has.
    pub shared: &'static [Setting],
    /// The setting that a word with `.`, `:` or `/` and no flag is likely meant for.
    pub bare: &'static str,
    /// Where its configuration file is, for the help.
    pub file: &'static str,
}

/// The settings of a command line, with their values in the order given.
pub type Flags = Vec<(&'static Setting, Vec<String>)>;

/// What a command line asks for.
#[derive(Debug)]
pub enum Line {
    /// This text.
    Help(String),
    /// The version.
    Version,
    /// To run.
    Run(Flags),
    /// A command: the flags before or behind it, and the words behind it.
    Command(&'static Command, Flags, Vec<String>),
}

impl Program {
    /// The setting of the running program with this name.
    pub fn setting(&self, name: &str) -> Option<&'static Setting> {
        self.settings.iter().find(|setting| setting.name == name)
    }

    /// Reads the words behind the program's name.
    ///
    /// # Errors
    /// A sentence that says what is wrong and what may have been meant.
    pub fn parse(&self, words: impl IntoIterator<Item = OsString>) -> Result<Line, String> {
        let mut parser = Parser::from_args(words);
        let mut flags = Flags::new();
        let mut command: Option<&'static Command> = None;
        let mut operands: Vec<String> = Vec::new();
        while let Some(arg) = parser.next().map_err(|error| self.bad(&error))? {
            match arg {
                Arg::Short('h') => return Ok(Line::Help(self.help(command))),
                Arg::Short('V') => return Ok(Line::Version),
                Arg::Short(letter) => return Err(self.short(letter)),
                Arg::Long("help") => return Ok(Line::Help(self.help(command))),
                Arg::Long("version") => return Ok(Line::Version),
                Arg::Long(name) => {
                    let name = name.to_owned();
                    let setting =
                        self.find(&name, command).ok_or_else(|| self.unknown_flag(&name, command))?;
                    let value = match setting.kind {
                        Kind::Switch => parser.optional_value().unwrap_or_else(|| "true".into()),
                        Kind::One | Kind::Many => parser
                            .value()
                            .map_err(|_| format!("--{name} needs a value: --{name} {}", setting.value))?,
                    };
                    push(&mut flags, setting, text(value)?)?;
                }
                Arg::Value(word) => {
                    let word = text(word)?;
                    match command {
                        None if word == "help" => return Ok(Line::Help(self.help(None))),
                        None => command = Some(self.find_command(&word)?),
                        Some(command) if operands.len() == command.words().count() => {
                            return Err(self.too_many(command, &word));
                        }
                        Some(_) => operands.push(word),
                    }
                }
            }
        }
        match command {
            None => Ok(Line::Run(flags)),
            Some(command) => match command.words().nth(operands.len()) {
                Some(missing) if !(command.operands.starts_with('[') && operands.is_empty()) => {
                    let Command { name, operands, .. } = command;
                    Err(format!("{0} {name} needs a {missing}: {0} {name} {operands}", self.name))
                }
                _ => Ok(Line::Command(command, flags, operands)),
            },
        }
    }

    fn too_many(&self, command: &Command, word: &str) -> String {
        let Command { name, operands, .. } = command;
        match command.words().count() {
            0 => format!("{} {name} takes no {word:?}", self.name),
            1 => format!("{} {name} takes one {operands}", self.name),
            _ => format!("{} {name} takes {operands}, and no {word:?}", self.name),
        }
    }

    fn find(&self, name: &str, command: Option<&'static Command>) -> Option<&'static Setting> {
        // `--state` may stand before a command, too.
        let (own, more) = match command {
            None => (self.settings, &[][..]),
            Some(command) => (command.settings, self.shared),
        };
        own.iter().chain(more).find(|setting| setting.name == name)
    }

    fn find_command(&self, word: &str) -> Result<&'static Command, String> {
        if let Some(command) = self.commands.iter().find(|command| command.name == word) {
            return Ok(command);
        }
        let names = || self.commands.iter().map(|command| command.name);
        if word.contains(['.', ':', '/']) && !self.bare.is_empty() {
            return Err(format!("{word:?} belongs to no flag; did you mean --{} {word}?", self.bare));
        }
        let hint = did_you_mean(word, names(), &format!("{} ", self.name));
        let known = || format!(": the commands are {}", names().collect::<Vec<_>>().join(", "));
        Err(format!("{} has no command {word:?}{}", self.name, if hint.is_empty() { known() } else { hint }))
    }

    fn unknown_flag(&self, name: &str, command: Option<&'static Command>) -> String {
        if command.is_none() && self.shared.iter().any(|setting| setting.name == name) {
            let first = self.commands.first().map_or("COMMAND", |command| command.name);
            return format!("--{name} goes with a command, such as {} {first} --{name}", self.name);
        }
        let (whose, known) = match command {
            None => (self.name.to_owned(), self.settings.iter().chain(&[])),
            Some(command) => {
                (format!("{} {}", self.name, command.name), command.settings.iter().chain(self.shared))
            }
        };
        if command.is_some() && self.setting(name).is_some() {
            return format!("{whose} has no --{name}: that is for {} itself", self.name);
        }
        let names = known.map(|setting| setting.name).chain(["help", "version"]);
        let hint = did_you_mean(name, names, "--");
        format!(
            "{whose} has no --{name}{}",
            if hint.is_empty() { format!(": see {whose} --help") } else { hint }
        )
    }

    fn short(&self, letter: char) -> String {
        let full = self.settings.iter().find(|setting| setting.name.starts_with(letter));
        let hint = full.map_or(format!(": see {} --help", self.name), |setting| {
            format!("; did you mean --{}?", setting.name)
        });
        format!("{} has no -{letter}{hint}", self.name)
    }

    fn bad(&self, error: &lexopt::Error) -> String {
        format!("{error}: see {} --help", self.name)
    }

    /// The text of `--help`, of the program or of one of its commands.
    pub fn help(&self, command: Option<&Command>) -> String {
        let mut text = String::new();
        // A String takes whatever is written to it.
        let _ = match command {
            Some(Command { name, help, operands, settings }) => {
                let operands = if operands.is_empty() { String::new() } else { format!(" {operands}") };
                let _ = writeln!(text, "{help}\n\nusage: {} {name}{operands} [OPTIONS]\n", self.name);
                list(&mut text, settings.iter().chain(self.shared));
                Ok(())
            }
            None => {
                let Program { name, about, file, .. } = self;
                let _ =
                    writeln!(text, "{about}\n\nusage: {name} [OPTIONS]\n       {name} COMMAND [OPTIONS]\n");
                list(&mut text, self.settings.iter());
                let _ = writeln!(
                    text,
                    "  -h, --help\n  -V, --version\n\ncommands ({name} COMMAND --help tells more):"
                );
                for command in self.commands {
                    let _ = writeln!(text, "  {:<10} {}", command.name, command.help);
                }
                writeln!(
                    text,
                    "\nEach option may also be a variable, such as {}, or a line in {file},\nsuch as {}: the command \
                     line comes first, then the environment, then the file.",
                    variable(name, self.settings[0].name),
                    example(&self.settings[0]),
                )
            }
        };
        text
    }
}

/// The environment's name of a setting: `HUB_SUBNET`.
pub fn variable(program: &str, setting: &str) -> String {
    format!("{program}_{setting}").replace('-', "_").to_ascii_uppercase()
}

fn example(setting: &Setting) -> String {
    format!("{} = \"{}\"", setting.name, setting.value)
}

/// Longest line of the help.
const HELP_WIDTH: usize = 100;
/// Where the explanations begin.
const HELP_COLUMN: usize = 27;

fn list<'a>(text: &mut String, settings: impl Iterator<Item = &'a Setting>) {
    text.push_str("options:\n");
    for setting in settings {
        let head = format!("  --{} {}", setting.name, setting.value);
        let repeats = if setting.kind == Kind::Many { "; may be repeated" } else { "" };
        let default = match setting.default {
            "" => String::new(),
            default => format!(" (default: {default})"),
        };
        let mut line = format!("{:<HELP_COLUMN$}", head.trim_end());
        if line.trim_end().len() >= HELP_COLUMN {
            text.push_str(line.trim_end());
            text.push('\n');
            line = " ".repeat(HELP_COLUMN);
        }
        for word in format!("{}{repeats}{default}", setting.help).split(' ') {
            if line.len() + word.len() > HELP_WIDTH {
                text.push_str(line.trim_end());
                text.push('\n');
                line = " ".repeat(HELP_COLUMN);
            }
            line.push_str(word);
            line.push(' ');
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
}

fn push(flags: &mut Flags, setting: &'static Setting, value: String) -> Result<(), String> {
    match flags.iter_mut().find(|(known, _)| known.name == setting.name) {
        Some((_, values)) if setting.kind == Kind::Many => values.push(value),
        Some(_) => return Err(format!("--{} is given twice", setting.name)),
        None => flags.push((setting, vec![value])),
    }
    Ok(())
}

fn text(word: OsString) -> Result<String, String> {
    word.into_string().map_err(|word| format!("{word:?} is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROGRAM: Program = Program {
        name: "hub",
        about: "A hub.",
        settings: &[
            Setting::many("subnet", "PREFIX", "the LAN"),
            Setting::one("listen", "ADDR:PORT", "where").or("5678"),
            Setting::one("state", "DIR", "state"),
            Setting::switch("no-routes", "none"),
        ],
        commands: &[
            Command { name: "status", help: "Shows.", operands: "", settings: &[] },
            Command {
                name: "invite",
                help: "Invites.",
                operands: "NAME",
                settings: &[Setting::one("for", "TIME", "how long")],
            },
            Command { name: "rules", help: "Explains.", operands: "[FROM TO]", settings: &[] },
        ],
        shared: &[Setting::one("state", "DIR", "state"), Setting::switch("json", "print JSON")],
        bare: "subnet",
        file: "/etc/hub.toml",
    };

    fn parse(line: &str) -> Result<Line, String> {
        PROGRAM.parse(line.split_whitespace().map(OsString::from))
    }

    fn shown(flags: &Flags) -> String {
        let one =
            |(setting, values): &(&Setting, Vec<String>)| format!("{}={}", setting.name, values.join(","));
        flags.iter().map(one).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn reads_flags_with_a_blank_or_an_equals_sign() {
        for line in
            ["--subnet a --subnet=b --no-routes --listen=x", "--subnet=a --subnet b --no-routes --listen x"]
        {
            let Ok(Line::Run(flags)) = parse(line) else { panic!("{line}") };
            assert_eq!(shown(&flags), "subnet=a,b no-routes=true listen=x");
        }
        let Ok(Line::Run(flags)) = parse("--no-routes=false") else { panic!() };
        assert_eq!(shown(&flags), "no-routes=false");
    }

    #[test]
    fn reads_commands_with_what_stands_before_and_behind() {
        let Ok(Line::Command(command, flags, words)) = parse("--state d invite phone --for 1h --json") else {
            panic!()
        };
        assert_eq!((command.name, words), ("invite", vec!["phone".to_owned()]));
        assert_eq!(shown(&flags), "state=d for=1h json=true");
        let Ok(Line::Command(_, _, words)) = parse("invite -- --odd") else { panic!() };
        assert_eq!(words, ["--odd"]);
        for (line, count) in [("rules", 0), ("rules a b", 2)] {
            let Ok(Line::Command(_, _, words)) = parse(line) else { panic!("{line}") };
            assert_eq!(words.len(), count);
        }
    }

    #[test]
    fn answers_each_form_of_help_and_version() {
        for line in ["-h", "--help", "help", "--subnet a --help", "status -h", "invite x --help"] {
            assert!(matches!(parse(line), Ok(Line::Help(_))), "{line}");
        }
        for line in ["-V", "--version"] {
            assert!(matches!(parse(line), Ok(Line::Version)), "{line}");
        }
        let help = PROGRAM.help(None);
        for part in
            ["usage: hub [OPTIONS]", "--subnet PREFIX", "may be repeated", "HUB_SUBNET", "(default: 5678)"]
        {
            assert!(help.contains(part), "{part}: {help}");
        }
        assert!(help.lines().all(|line| line.len() <= HELP_WIDTH), "{help}");
        let help = PROGRAM.help(Some(&PROGRAM.commands[1]));
        assert!(help.contains("usage: hub invite NAME [OPTIONS]") && help.contains("--for TIME"), "{help}");
    }

    #[test]
    fn says_what_was_meant() {
        for (line, said) in [
            ("--subnt x", "hub has no --subnt; did you mean --subnet?"),
            ("--frobnicate", "hub has no --frobnicate: see hub --help"),
            ("stauts", "hub has no command \"stauts\"; did you mean hub status?"),
            ("frobnicate", "hub has no command \"frobnicate\": the commands are status, invite, rules"),
            ("10.0.0.0/24", "\"10.0.0.0/24\" belongs to no flag; did you mean --subnet 10.0.0.0/24?"),
            ("--listen", "--listen needs a value: --listen ADDR:PORT"),
            ("--listen a --listen b", "--listen is given twice"),
            ("--json", "--json goes with a command, such as hub status --json"),
            ("status --listen x", "hub status has no --listen: that is for hub itself"),
            ("status --jsn", "hub status has no --jsn; did you mean --json?"),
            ("status x", "hub status takes no \"x\""),
            ("invite", "hub invite needs a NAME: hub invite NAME"),
            ("invite a b", "hub invite takes one NAME"),
            ("rules a", "hub rules needs a TO: hub rules [FROM TO]"),
            ("rules a b c", "hub rules takes [FROM TO], and no \"c\""),
            ("-s", "hub has no -s; did you mean --subnet?"),
            ("-x", "hub has no -x: see hub --help"),
            ("--versio", "hub has no --versio; did you mean --version?"),
        ] {
            assert_eq!(parse(line).unwrap_err(), said, "{line}");
        }
    }

    #[test]
    fn the_environment_has_the_same_names() {
        assert_eq!(variable("spoke", "accept-route"), "SPOKE_ACCEPT_ROUTE");
    }
}
