//! A program's settings from three places, the command line before the environment before the file, and where each
//! comes from. Pure: texts in, values or a sentence out.

use std::collections::BTreeMap;
use std::fmt;

use toml::de::{DeTable, DeValue};

use super::args::{Flags, Kind, Program, Setting, variable};
use super::human::table;
use super::nearest::{did_you_mean, nearest};

/// Longest configuration file that is read, in bytes.
pub const MAX_FILE: u64 = 1024 * 1024;

/// The setting that names the file itself, which therefore the file cannot have.
pub const CONFIG: &str = "config";

/// Where a setting comes from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// The command line.
    Flag,
    /// The environment's variable of this name.
    Variable(String),
    /// This file, in this line.
    File(String, usize),
}

#[derive(Clone, Debug)]
struct Given {
    values: Vec<String>,
    source: Source,
}

/// What is in force: for each setting the values of the first place that has it.
#[derive(Debug)]
pub struct Settings {
    program: &'static Program,
    given: BTreeMap<&'static str, Given>,
}

impl Settings {
    /// Puts the three places together. `variables` may be the whole environment; `file` is its path and text.
    /// Returns also what to warn of.
    ///
    /// # Errors
    /// A sentence about the file's first line that is invalid.
    pub fn merge(
        program: &'static Program,
        flags: Flags,
        variables: impl IntoIterator<Item = (String, String)>,
        file: Option<(&str, &str)>,
    ) -> Result<(Settings, Vec<String>), String> {
        let mut given = file.map_or(Ok(BTreeMap::new()), |(path, text)| read_file(program, path, text))?;
        let mut warnings = Vec::new();
        for (name, value) in variables {
            let Some(setting) = program.settings.iter().find(|one| variable(program.name, one.name) == name)
            else {
                warnings.extend(misspelt(program, &name));
                continue;
            };
            let values: Vec<String> = match setting.kind {
                Kind::Many => {
                    value.split([',', ' ']).filter(|part| !part.is_empty()).map(str::to_owned).collect()
                }
                Kind::One | Kind::Switch => vec![value],
            };
            // An empty variable is none, as shells treat it.
            if values.iter().any(|value| !value.is_empty()) {
                given.insert(setting.name, Given { values, source: Source::Variable(name) });
            }
        }
        for (setting, values) in flags {
            given.insert(setting.name, Given { values, source: Source::Flag });
        }
        Ok((Settings { program, given }, warnings))
    }

    /// The settings of a command: its flags alone.
    pub fn of_command(program: &'static Program, flags: Flags) -> Settings {
        let given =
            |(setting, values): (&'static Setting, _)| (setting.name, Given { values, source: Source::Flag });
        Settings { program, given: flags.into_iter().map(given).collect() }
    }

    /// The value of a setting that has one.
    ///
    /// # Errors
    /// What `read` says, behind where the value comes from.
    pub fn one<T>(&self, name: &str, read: impl Fn(&str) -> Result<T, String>) -> Result<Option<T>, String> {
        Ok(self.many(name, read)?.pop())
    }

    /// The values of a list.
    ///
    /// # Errors
    /// What `read` says of the first wrong one, behind where it comes from.
    pub fn many<T>(&self, name: &str, read: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, String> {
        let Some(Given { values, source }) = self.given.get(name) else { return Ok(Vec::new()) };
        let is_secret = self.program.setting(name).is_some_and(|setting| setting.is_secret);
        let place = |value: &str| {
            let value = if is_secret { "…" } else { value };
            match source {
                Source::Flag => format!("--{name} {value}"),
                Source::Variable(variable) => format!("{variable}={value}"),
                Source::File(path, line) => format!("{path}, line {line}, {name} = {value:?}"),
            }
        };
        values.iter().map(|value| read(value).map_err(|why| format!("{}: {why}", place(value)))).collect()
    }

    /// Whether a switch is on.
    ///
    /// # Errors
    /// Where it is neither on nor off.
    pub fn switch(&self, name: &str) -> Result<bool, String> {
        Ok(self.one(name, switch)?.unwrap_or(false))
    }

    /// Whether the file holds a value that must not be shown.
    pub fn has_secret_of_file(&self) -> bool {
        self.given.iter().any(|(name, given)| {
            matches!(given.source, Source::File(..))
                && self.program.setting(name).is_some_and(|setting| setting.is_secret)
        })
    }

    /// Where the setting comes from, if it is given.
    pub fn source(&self, name: &str) -> Option<&Source> {
        self.given.get(name).map(|given| &given.source)
    }

    /// What is in force, for people: name, value, and where it comes from.
    pub fn report(&self) -> String {
        let rows: Vec<[String; 3]> =
            self.rows().map(|row| [row.name.to_owned(), row.shown(), row.from.unwrap_or_default()]).collect();
        table(["NAME", "VALUE", "FROM"], &rows)
    }

    /// The same for programs.
    pub fn rows(&self) -> impl Iterator<Item = Row> {
        self.program.settings.iter().map(|setting| {
            let Setting { name, default, is_secret, kind, .. } = *setting;
            let (values, from) = match self.given.get(name) {
                Some(Given { values, source }) => (values.clone(), Some(source.to_string())),
                None if default.is_empty() && kind == Kind::Switch => (vec!["false".to_owned()], None),
                None if default.is_empty() => (Vec::new(), None),
                None => (vec![default.to_owned()], None),
            };
            let values = if is_secret && from.is_some() { vec!["(secret)".to_owned()] } else { values };
            Row { name, values, from }
        })
    }
}

/// One setting of `hub config` or `spoke config`.
#[derive(Debug, serde::Serialize)]
pub struct Row {
    /// Its name.
    pub name: &'static str,
    /// Its values; none where nothing is set and there is no default.
    pub values: Vec<String>,
    /// Where they come from; `None` for the default.
    pub from: Option<String>,
}

impl Row {
    fn shown(&self) -> String {
        if self.values.is_empty() { "-".to_owned() } else { self.values.join(",") }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Flag => f.write_str("command line"),
            Source::Variable(name) => f.write_str(name),
            Source::File(path, line) => write!(f, "{path}, line {line}"),
        }
    }
}

fn switch(text: &str) -> Result<bool, String> {
    match text {
        "true" | "yes" | "on" | "1" => Ok(true),
        "false" | "no" | "off" | "0" => Ok(false),
        _ => Err("write true or false".to_owned()),
    }
}

/// A warning about a variable that is nearly that of a setting. Others may have names with the same beginning.
fn misspelt(program: &Program, name: &str) -> Option<String> {
    let own = name.strip_prefix(&variable(program.name, ""))?;
    let known = nearest(own, program.settings.iter().map(|setting| setting.name))?;
    Some(format!("{name} sets nothing; did you mean {}?", variable(program.name, known)))
}

fn read_file(
    program: &'static Program,
    path: &str,
    text: &str,
) -> Result<BTreeMap<&'static str, Given>, String> {
    let line_at = |offset: usize| text.bytes().take(offset).filter(|&byte| byte == b'\n').count() + 1;
    let table = DeTable::parse(text).map_err(|error| {
        let line = line_at(error.span().map_or(0, |span| span.start));
        format!("{path}, line {line}: {}", error.message())
    })?;
    let mut given = BTreeMap::new();
    for (key, value) in table.get_ref() {
        let (name, line) = (key.get_ref().as_ref(), line_at(key.span().start));
        let Some(setting) = program.setting(name).filter(|setting| setting.name != CONFIG) else {
            let hint = did_you_mean(name, program.settings.iter().map(|setting| setting.name), "");
            return Err(format!("{path}, line {line}: there is no setting {name:?}{hint}"));
        };
        let fail = |why| format!("{path}, line {line}: {name} {why}");
        let values = match (value.get_ref(), setting.kind) {
            (DeValue::Array(values), Kind::Many) => {
                values.iter().map(|value| scalar(value.get_ref())).collect::<Option<Vec<_>>>()
            }
            (DeValue::Array(_), Kind::One | Kind::Switch) => return Err(fail("is one value, not a list")),
            (DeValue::Boolean(_), Kind::One | Kind::Many) => {
                return Err(fail("is neither true nor false: write a text"));
            }
            (value, _) => scalar(value).map(|value| vec![value]),
        };
        let values = values.ok_or_else(|| fail("is a text, such as \"…\""))?;
        if !values.is_empty() {
            given.insert(setting.name, Given { values, source: Source::File(path.to_owned(), line) });
        }
    }
    Ok(given)
}

fn scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => Some(number.to_string()),
        DeValue::Boolean(on) => Some(on.to_string()),
        DeValue::Float(_) | DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::super::args::Line;
    use super::*;

    static PROGRAM: Program = Program {
        name: "spoke",
        about: "",
        settings: &[
            Setting::one("hub", "HOST", "where"),
            Setting::many("accept-route", "PREFIX", "what"),
            Setting::switch("no-routes", "none"),
            Setting::one("mtu", "N", "bytes").or("1500"),
            Setting::one("invite", "SECRET", "the invite").secret(),
        ],
        commands: &[],
        shared: &[],
        bare: "hub",
        file: "/etc/spoke/NAME.toml",
    };

    fn merge(line: &str, variables: &[(&str, &str)], file: &str) -> Result<(Settings, Vec<String>), String> {
        let Ok(Line::Run(flags)) = PROGRAM.parse(line.split_whitespace().map(OsString::from)) else {
            panic!()
        };
        let variables = variables.iter().map(|&(name, value)| (name.to_owned(), value.to_owned()));
        Settings::merge(&PROGRAM, flags, variables, Some(("/etc/spoke/x.toml", file)))
    }

    fn plain(text: &str) -> Result<String, String> {
        if text == "bad" { Err("no good".to_owned()) } else { Ok(text.to_owned()) }
    }

    #[test]
    fn the_command_line_wins_then_the_environment_then_the_file() {
        let file = "# mine\nhub = \"file\"\naccept-route = [\"a\", \"b\"]\nno-routes = true\nmtu = 1400\n";
        let variables =
            [("SPOKE_HUB", "variable"), ("SPOKE_MTU", "1300"), ("PATH", "/bin"), ("SPOKE_INVITE", "")];
        let (settings, warnings) = merge("--hub flag", &variables, file).unwrap();
        assert!(warnings.is_empty(), "{warnings:?}");
        assert_eq!(settings.one("hub", plain), Ok(Some("flag".to_owned())));
        assert_eq!(settings.one("mtu", plain), Ok(Some("1300".to_owned())));
        assert_eq!(settings.many("accept-route", plain), Ok(vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!((settings.switch("no-routes"), settings.one("invite", plain)), (Ok(true), Ok(None)));
        assert_eq!(settings.source("hub"), Some(&Source::Flag));
        assert_eq!(settings.source("mtu"), Some(&Source::Variable("SPOKE_MTU".to_owned())));
        assert_eq!(settings.source("no-routes"), Some(&Source::File("/etc/spoke/x.toml".to_owned(), 4)));
        // A list is replaced as a whole.
        let (settings, _) = merge("", &[("SPOKE_ACCEPT_ROUTE", "c, d")], file).unwrap();
        assert_eq!(settings.many("accept-route", plain), Ok(vec!["c".to_owned(), "d".to_owned()]));
    }

    #[test]
    fn unknown_and_wrong_ones_are_named_with_their_place() {
        for (file, said) in [
            ("\nhubb = \"x\"", "/etc/spoke/x.toml, line 2: there is no setting \"hubb\"; did you mean hub?"),
            (
                "accept_route = []",
                "/etc/spoke/x.toml, line 1: there is no setting \"accept_route\"; did you mean \
                                   accept-route?",
            ),
            ("[hub]\nx = 1", "/etc/spoke/x.toml, line 1: hub is a text, such as \"…\""),
            ("hub = [\"a\"]", "/etc/spoke/x.toml, line 1: hub is one value, not a list"),
            ("hub = true", "/etc/spoke/x.toml, line 1: hub is neither true nor false: write a text"),
        ] {
            assert_eq!(merge("", &[], file).unwrap_err(), said);
        }
        let error = merge("", &[], "# x\n\nhub = x\n").unwrap_err();
        assert!(error.starts_with("/etc/spoke/x.toml, line 3: "), "{error}");
        for (line, variables, file, said) in [
            ("--hub bad", &[][..], "", "--hub bad: no good"),
            ("", &[("SPOKE_HUB", "bad")], "", "SPOKE_HUB=bad: no good"),
            ("", &[], "\nhub = \"bad\"", "/etc/spoke/x.toml, line 2, hub = \"bad\": no good"),
        ] {
            let (settings, _) = merge(line, variables, file).unwrap();
            assert_eq!(settings.one("hub", plain).unwrap_err(), said);
        }
        let (settings, _) = merge("--no-routes=perhaps --invite bad", &[], "").unwrap();
        assert_eq!(settings.switch("no-routes").unwrap_err(), "--no-routes perhaps: write true or false");
        assert_eq!(settings.one("invite", plain).unwrap_err(), "--invite …: no good");
    }

    #[test]
    fn a_misspelt_variable_is_warned_of_and_a_foreign_one_is_not() {
        let variables = [("SPOKE_HUBB", "x"), ("SPOKE_PASSWORD_STORE", "x"), ("SPOKEN", "x")];
        let (_, warnings) = merge("", &variables, "").unwrap();
        assert_eq!(warnings, ["SPOKE_HUBB sets nothing; did you mean SPOKE_HUB?"]);
    }

    #[test]
    fn the_report_tells_what_is_in_force_and_no_secret() {
        let (settings, _) = merge("--hub h --invite 123", &[("SPOKE_ACCEPT_ROUTE", "a,b")], "").unwrap();
        assert_eq!(
            settings.report(),
            "NAME          VALUE     FROM\n\
             hub           h         command line\n\
             accept-route  a,b       SPOKE_ACCEPT_ROUTE\n\
             no-routes     false\n\
             mtu           1500\n\
             invite        (secret)  command line\n"
        );
    }
}
