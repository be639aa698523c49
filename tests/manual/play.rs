//! Runs the blocks of a document, in order, on hosts of the house.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::blocks::{Block, Step};
use super::shown::{Secrets, without_time};
use crate::house::{Binaries, HUB_LISTENS, Host, Net, Process, SPOKE_ON_LAN, require_tun};

/// How long what is shown may take to come.
const SOON: Duration = Duration::from_secs(30);
/// Commands that only look: what they show may come a little after what made it.
const LOOKING: [&str; 10] = [
    "ping ",
    "dig ",
    "getent ",
    "hub status",
    "hub members",
    "hub pending",
    "hub rules",
    "spoke status",
    "spoke resolve",
    "ip ",
];
/// A program that runs until it is stopped has none of these.
const COMMANDS: [&str; 24] = [
    "status",
    "invite",
    "invites",
    "pending",
    "allow",
    "members",
    "metrics",
    "rename",
    "forget",
    "lock",
    "unlock",
    "revoke",
    "renumber",
    "reload",
    "drain",
    "keep",
    "store",
    "rules",
    "config",
    "check",
    "key",
    "resolve",
    "--help",
    "--version",
];

/// The machines of a document and what runs on them.
pub(crate) struct Play {
    // Programs are dropped before the hosts that hold them.
    running: Vec<Running>,
    others: Vec<Process>,
    hosts: Vec<Host>,
    net: Net,
    binaries: Binaries,
    secrets: Secrets,
    variables: Vec<(String, String)>,
}

/// A hub or spoke, or another program that a terminal shows until it is stopped.
struct Running {
    step: Step,
    process: Process,
}

impl Play {
    /// A hub's machine, `server`, which all know as hub.example.org, and others.
    pub(crate) fn new(machines: &[&str]) -> Play {
        require_tun().unwrap();
        let net = Net::named(machines).unwrap();
        net.hub().run(|| nix::unistd::sethostname("server")).unwrap();
        let play = Play {
            running: Vec::new(),
            others: Vec::new(),
            hosts: Vec::new(),
            net,
            binaries: Binaries::find().unwrap(),
            secrets: Secrets::default(),
            variables: Vec::new(),
        };
        let names = format!("127.0.0.1 localhost\n{} hub.example.org\n", Net::hub_v4());
        for host in play.machines() {
            host.put("/etc/hosts", &names);
            fs::create_dir(play.home(host)).unwrap();
            // Where the manual has sudo, its reader is no root; this test is.
            play.add_program(host, "sudo", "exec \"$@\"");
            play.add_program(host, "systemctl", "[ \"$*\" = 'reload hub' ] && exec hub reload");
            let homes =
                play.machines().map(|to| format!("{}) to='{}' ;;\n", to.name(), play.home(to).display()));
            let scp = format!(
                "case \"${{2%:}}\" in\n{}*) exit 1 ;;\nesac\ncp \"$1\" \"$to\"",
                homes.collect::<String>()
            );
            play.add_program(host, "scp", &scp);
        }
        play
    }

    /// A script in front of the machine's own programs.
    fn add_program(&self, host: &Host, name: &str, script: &str) {
        let path = host.private().join("bin").join(name);
        host.put(path.to_str().unwrap(), &format!("#!/bin/sh\n{script}\n"));
        fs::set_permissions(host.path(path), fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// The directory where a machine's commands run, as this process sees it.
    fn home(&self, host: &Host) -> std::path::PathBuf {
        host.path(host.private().join("home"))
    }

    /// Adds a machine that is on none of the networks yet.
    pub(crate) fn add(&mut self, host: Host) {
        self.hosts.push(host);
    }

    /// Keeps a program of others running.
    pub(crate) fn keep(&mut self, process: Process) {
        self.others.push(process);
    }

    /// A variable of all commands.
    pub(crate) fn set_variable(&mut self, name: &str, value: &str) {
        self.variables.push((name.to_owned(), value.to_owned()));
    }

    pub(crate) fn host(&self, name: &str) -> &Host {
        let all = self.machines().chain(&self.hosts);
        let found =
            all.into_iter().find(|host| host.name() == name || (name == "server" && host.name() == "hub"));
        found.unwrap_or_else(|| panic!("no machine is called {name}"))
    }

    fn machines(&self) -> impl Iterator<Item = &Host> {
        std::iter::once(self.net.hub()).chain((0..self.net.spokes()).map(|i| self.net.spoke(i)))
    }

    /// Puts a file where its block says: `HOST:PATH`. Settings have to be understood by the program.
    pub(crate) fn write(&mut self, block: &Block) {
        let (host, path) = block.class.split_once(':').expect("a file's block is HOST:PATH");
        let machine = self.host(host);
        machine.put(path, &self.secrets.fill_in(&block.text()));
        fs::set_permissions(machine.path(path), fs::Permissions::from_mode(0o600)).unwrap();
        if block.language == "toml" {
            let program = if path.contains("hub") { "hub" } else { "spoke" };
            let command = format!("{program} --config {path} config");
            let step = Step { host: host.to_owned(), command, line: block.line, expected: Vec::new() };
            self.finish(&step, &self.command(&step), false);
        }
    }

    /// Runs a transcript; with `fails`, its commands fail.
    pub(crate) fn run(&mut self, block: &Block, fails: bool) {
        for step in block.steps() {
            let command = self.command(&step);
            if step.command == "^C" {
                self.interrupt(&step);
            } else if is_daemon(&step.command) {
                let process = self.host(&step.host).spawn(&step.host, &command).unwrap();
                self.running.push(Running { step, process });
                self.wait_until_ready();
            } else {
                self.finish(&step, &command, fails);
            }
        }
        // What a program has logged meanwhile is shown below its command.
        for running in &mut self.running {
            let expected = std::mem::take(&mut running.step.expected);
            running.shows(&expected, &mut self.secrets);
        }
    }

    /// Checks that what still runs has logged no error, and prints what was logged for those who write the manual.
    pub(crate) fn end(self) {
        for running in &self.running {
            show(&running.step, &running.process, &self.secrets);
            let lines = running.process.lines();
            let error = lines.iter().find(|line| without_time(line).starts_with("[ERROR"));
            assert!(error.is_none() || !running.process.is_running(), "{error:?}");
        }
    }

    /// Ctrl-C at the terminal of a machine's program.
    fn interrupt(&mut self, step: &Step) {
        let at = self.running.iter().rposition(|running| running.step.host == step.host);
        let running = self.running.remove(at.expect("a program runs there"));
        running.shows(&running.step.expected, &mut self.secrets);
        let mark = running.process.mark();
        running.process.signal(Signal::SIGINT).unwrap();
        running.process.wait_exit(SOON).unwrap();
        let said = running.process.lines().split_off(mark);
        let shown: Vec<&String> = step.expected.iter().filter(|line| !line.trim().is_empty()).collect();
        assert!(shown.is_empty() || are_shown(&shown, &said, &mut self.secrets), "{said:#?}");
    }

    fn command(&self, step: &Step) -> Command {
        let text = self.secrets.fill_in(&step.command);
        let mut command = Command::new("sh");
        // A program that is stopped by a signal has to be the one that gets it.
        let text = match text.rsplit_once("; ") {
            _ if !is_daemon(&text) => text,
            Some((before, program)) => format!("{before}; exec {program}"),
            None => format!("exec {text}"),
        };
        command.args(["-c", &format!("exec 2>&1; cd; {text}")]);
        let programs = self.binaries.hub.parent().expect("it is in a directory").display();
        let path = std::env::var("PATH").unwrap_or_default();
        let private = self.host(&step.host).private().display();
        command
            .env("PATH", format!("{private}/bin:{programs}:{path}"))
            .env("HOME", format!("{private}/home"));
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Until a hub listens, and a spoke is on the LAN or warns that it is not.
    fn wait_until_ready(&mut self) {
        let Some(running) = self.running.last() else { return };
        let first: Vec<String> = running.step.expected.first().into_iter().cloned().collect();
        if running.step.command.split_whitespace().any(|word| word == "hub") {
            running.process.wait_for_line(HUB_LISTENS, SOON).unwrap();
        } else if first.iter().any(|line| line.starts_with("[WARN") || line.starts_with("[ERROR")) {
            running.shows(&first, &mut self.secrets);
        } else {
            running.process.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
        }
    }

    /// Runs a command to its end.
    fn finish(&mut self, step: &Step, command: &Command, fails: bool) {
        let looks = LOOKING.iter().any(|start| step.command.trim_start_matches("sudo ").starts_with(start));
        let end = Instant::now() + SOON;
        loop {
            let process = self.host(&step.host).spawn(&step.host, command).unwrap();
            let status = process.wait_exit(SOON * 2).unwrap();
            let said: Vec<String> =
                process.lines().into_iter().filter(|line| !line.trim().is_empty()).collect();
            let shown: Vec<&String> = step.expected.iter().filter(|line| !line.trim().is_empty()).collect();
            let is_right = status.success() != fails
                && (shown.is_empty() || are_shown(&shown, &said, &mut self.secrets));
            if is_right {
                show(step, &process, &self.secrets);
                return;
            }
            assert!(
                looks && Instant::now() < end,
                "line {}: {}# {}\n{status}, and it says:\n{}\n",
                step.line,
                step.host,
                step.command,
                process.lines().join("\n")
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Running {
    /// Waits until the program has logged these lines in this order, others between them.
    fn shows(&self, expected: &[String], secrets: &mut Secrets) {
        let end = Instant::now() + SOON;
        let expected: Vec<&String> = expected.iter().filter(|line| !line.trim().is_empty()).collect();
        loop {
            let lines = self.process.lines();
            let mut said = lines.iter();
            let missing = expected.iter().find(|shown| !said.any(|line| secrets.is_shown(shown, line)));
            let Some(missing) = missing else { return };
            assert!(
                Instant::now() < end,
                "line {}: {}# {}\ndoes not say: {missing}\nit says:\n{}\n",
                self.step.line,
                self.step.host,
                self.step.command,
                lines.join("\n")
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Prints what a command says, for those who write the manual.
fn show(step: &Step, process: &Process, secrets: &Secrets) {
    if std::env::var_os("MANUAL_SHOW").is_some() {
        let said: Vec<String> = process.lines().iter().map(|line| without_time(line)).collect();
        let said = secrets.as_in_document(&said.join("\n"));
        eprintln!("{}:  {}# {}\n{said}\n", step.line, step.host, step.command);
    }
}

/// Whether these are the lines, `...` being any number of them.
fn are_shown(shown: &[&String], said: &[String], secrets: &mut Secrets) -> bool {
    match (shown, said) {
        ([], []) => true,
        ([dots, rest @ ..], _) if dots.trim() == "..." => {
            (0..=said.len()).any(|skip| are_shown(rest, &said[skip..], secrets))
        }
        ([a, shown @ ..], [b, said @ ..]) => secrets.is_shown(a, b) && are_shown(shown, said, secrets),
        _ => false,
    }
}

/// Whether a command runs until it is stopped.
fn is_daemon(command: &str) -> bool {
    let command = command.rsplit("; ").next().unwrap_or_default();
    let mut words = command.split_whitespace().skip_while(|word| *word == "sudo" || word.contains('='));
    matches!(words.next(), Some("hub" | "spoke")) && !words.any(|word| COMMANDS.contains(&word))
}
