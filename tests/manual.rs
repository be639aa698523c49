//! The README and the manual in docs/, run as they stand.
//!
//! Each block of a document is run, in order, on machines of the house with the real programs, or it is of a class that
//! another test covers. The word behind the fence, and what stands behind it, say how:
//!
//! ```text
//! console           a transcript: `laptop# COMMAND`, and below it what is shown (see manual/shown.rs)
//! console fails     the same, of commands that fail
//! toml HOST:PATH    a file of that machine; settings are read by `hub config` and `spoke config`
//! ini UNIT          a drop-in of our unit, or a unit: checked by systemd-analyze
//! sh install        needs a package manager, a service manager or a compiler: listed below
//! yaml FILE         read by promtool, if that is there
//! nginx, bird …     run by paths_web, net_export
//! ```
//! `MANUAL_SHOW=1 cargo test -p hub --test e2e README -- --nocapture` prints what the commands of a document say.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests of IO")]
#![allow(clippy::print_stderr, reason = "shows what the commands of a document say")]

#[path = "manual/blocks.rs"]
mod blocks;
#[path = "manual/play.rs"]
mod play;
#[path = "manual/shown.rs"]
mod shown;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::house::{self, Authority, Valid, is_missing, wait_for_port};
use blocks::{Block, blocks};
use play::Play;

/// Lines that need a package manager, a service manager or a compiler, and what covers them.
const INSTALLING: [(&str, &str); 23] = [
    ("cargo run --release --example lan", "lan_example"),
    ("cargo test --workspace", ".ci/run"),
    ("cargo install cargo-deb", "packages"),
    ("cargo test -p common --test licences", "licences"),
    ("cargo deb -p hub && cargo deb -p spoke", "packages"),
    ("cargo install --path hub --root /usr/local", "the build"),
    ("cargo install --path spoke --root /usr/local", "the build"),
    ("rustup target add x86_64-unknown-linux-musl", "packages"),
    ("sudo apt install musl-tools", "packages"),
    ("cargo build --profile dist --bins --target x86_64-unknown-linux-musl", "packages"),
    ("rustup target add aarch64-unknown-linux-musl", "packages"),
    ("sudo apt install gcc-aarch64-linux-gnu libc6-dev-arm64-cross", "packages"),
    (
        "export CC_aarch64_unknown_linux_musl=aarch64-linux-gnu-gcc CFLAGS_aarch64_unknown_linux_musl=-U_FORTIFY_SOURCE",
        "packages",
    ),
    ("export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_LINKER=aarch64-linux-gnu-gcc", "packages"),
    ("cargo build --profile dist --bins --target aarch64-unknown-linux-musl", "packages"),
    ("sudo dpkg -i lan-hub_*.deb", "packages"),
    ("sudo dpkg -i lan-spoke_*.deb", "packages"),
    ("sudo systemctl enable --now hub", "packages"),
    ("sudo systemctl enable --now spoke@home", "packages"),
    ("sudo apt remove lan-hub", "packages"),
    ("sudo apt purge lan-hub", "packages"),
    ("sudo spoke resolved", "net_resolved"),
    ("sudo hub resolved", "net_resolved"),
];

/// Configurations of other programs: paths_web and net_export run them.
const SERVERS: [(&str, &str); 4] = [
    ("docs/paths.md", "nginx"),
    ("docs/paths.md", "caddy"),
    ("docs/paths.md", "haproxy"),
    ("docs/hubs.md", "bird"),
];

/// Texts that are neither run nor read by a program.
const SHOWN_ONLY: [(&str, &str); 1] = [("README.md", "Round trips, median of 5 pings:")];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(document: &str) -> Vec<Block> {
    blocks(&fs::read_to_string(root().join(document)).unwrap())
}

/// The README and all documents of the manual.
fn documents() -> Vec<String> {
    let entries = fs::read_dir(root().join("docs")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut all: Vec<String> =
        names.filter(|name| name.ends_with(".md")).map(|name| format!("docs/{name}")).collect();
    all.push("README.md".to_owned());
    all.sort();
    all
}

/// How a block is checked.
#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Transcript { fails: bool },
    File,
    Unit,
    Prometheus,
    Install,
    Server,
    Shown,
}

fn kind(document: &str, block: &Block) -> Kind {
    match (block.language.as_str(), block.class.as_str()) {
        ("console", "") => Kind::Transcript { fails: false },
        ("console", "fails") => Kind::Transcript { fails: true },
        ("sh", "install") => Kind::Install,
        ("ini", unit) if unit.ends_with(".service") || unit.ends_with(".path") => Kind::Unit,
        ("toml" | "text" | "sh", file) if file.contains(":/") => Kind::File,
        ("yaml", "prometheus.yml" | "hub-alerts.yml") => Kind::Prometheus,
        (server, "") if SERVERS.contains(&(document, server)) => Kind::Server,
        ("text", "") if SHOWN_ONLY.contains(&(document, block.lines[0].as_str())) => Kind::Shown,
        (language, class) => {
            panic!("{document}, line {}: nothing runs a block of `{language} {class}`", block.line)
        }
    }
}

/// Runs what a document says on these machines.
fn act(document: &str, mut play: Play) {
    for block in read(document) {
        match kind(document, &block) {
            Kind::Transcript { fails } => play.run(&block, fails),
            Kind::File => play.write(&block),
            Kind::Unit | Kind::Prometheus | Kind::Install | Kind::Server | Kind::Shown => {}
        }
    }
    play.end();
}

#[test]
fn no_block_is_left_out() {
    let (mut installing, mut served, mut shown) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for document in documents() {
        for block in read(&document) {
            match kind(&document, &block) {
                Kind::Install => installing.extend(block.lines.iter().map(|line| {
                    let command = line.split(" #").next().unwrap_or_default();
                    command.split_whitespace().collect::<Vec<_>>().join(" ")
                })),
                Kind::Server => drop(served.insert((document.clone(), block.language.clone()))),
                Kind::Shown => drop(shown.insert((document.clone(), block.lines[0].clone()))),
                Kind::Transcript { .. } | Kind::File | Kind::Unit | Kind::Prometheus => {}
            }
        }
    }
    let owned = |list: &[(&str, &str)]| -> BTreeSet<(String, String)> {
        list.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
    };
    assert_eq!(installing, INSTALLING.iter().map(|(line, _)| (*line).to_owned()).collect());
    assert_eq!(served, owned(&SERVERS));
    assert_eq!(shown, owned(&SHOWN_ONLY));
}

/// Headings as links name them: small letters, `-` for blanks, no punctuation.
fn anchors(document: &str) -> BTreeSet<String> {
    let headings =
        document.lines().filter_map(|line| line.strip_prefix('#')).map(|line| line.trim_start_matches('#'));
    let words = |heading: &str| heading.trim().to_lowercase().replace(' ', "-");
    headings.map(|heading| words(heading).replace(|c: char| !c.is_alphanumeric() && c != '-', "")).collect()
}

/// Linux only: no example is of a machine that cannot run it.
#[test]
fn no_phone_is_invited() {
    for document in documents() {
        assert!(!fs::read_to_string(root().join(&document)).unwrap().contains("phone"), "{document}");
    }
}

#[test]
fn links_lead_to_files_and_headings() {
    for document in documents() {
        let path = root().join(&document);
        let text = fs::read_to_string(&path).unwrap();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let file = if file.is_empty() { path.clone() } else { path.parent().unwrap().join(file) };
            assert!(file.is_file(), "{document}: {target} is not there");
            let is_there = || anchors(&fs::read_to_string(&file).unwrap()).contains(anchor);
            assert!(anchor.is_empty() || is_there(), "{document}: {target} is no heading");
        }
    }
}

/// Drop-ins are checked with the unit that they are for.
#[test]
fn units_and_drop_ins_are_understood_by_systemd() {
    let directory = tempdir("units");
    for document in documents() {
        for block in read(&document).iter().filter(|block| kind(&document, block) == Kind::Unit) {
            let ours = [("hub.service", "hub/packaging"), ("spoke@.service", "spoke/packaging")];
            let Some((name, packaging)) = ours.iter().find(|(name, _)| *name == block.class) else {
                fs::write(directory.join(&block.class), block.text()).unwrap();
                continue;
            };
            // The programs need not be installed.
            let runs_true = |text: String| {
                text.replace("/usr/bin/hub", "/bin/true").replace("/usr/bin/spoke", "/bin/true")
            };
            let unit = fs::read_to_string(root().join(packaging).join(name)).unwrap();
            fs::write(directory.join(name), runs_true(unit)).unwrap();
            let drop_in = directory.join(format!("{name}.d"));
            fs::create_dir_all(&drop_in).unwrap();
            fs::write(drop_in.join(format!("{}.conf", block.line)), runs_true(block.text())).unwrap();
        }
    }
    let units = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path());
    let mut command = Command::new("systemd-analyze");
    command.args(["verify", "--man=no"]).args(units.filter(|path| path.is_file()));
    let output = command.output().expect("systemd-analyze is there: apt-get install systemd");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    fs::remove_dir_all(&directory).unwrap();
    assert!(output.status.success() && said.is_empty(), "{said}");
}

/// The scrape configuration with the alerts that it names.
#[test]
fn prometheus_understands_its_files() {
    let document = "docs/metrics.md";
    let blocks = read(document);
    let files: Vec<&Block> =
        blocks.iter().filter(|block| kind(document, block) == Kind::Prometheus).collect();
    assert_eq!(files.len(), 2);
    if is_missing("promtool", "prometheus") {
        return;
    }
    let directory = tempdir("prometheus");
    for block in files {
        fs::write(directory.join(&block.class), block.text()).unwrap();
    }
    let mut command = Command::new("promtool");
    command.args(["check", "config"]).arg(directory.join("prometheus.yml"));
    let output = command.output().unwrap();
    fs::remove_dir_all(&directory).unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success() && said.contains("11 rules found"), "{said}");
}

fn tempdir(name: &str) -> PathBuf {
    let directory = std::env::temp_dir().join(format!("manual-{name}-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    directory
}

#[test]
#[allow(non_snake_case, reason = "named as the file")]
fn README() {
    act("README.md", Play::new(&["laptop", "desktop", "nas", "phone"]));
}

#[test]
fn install() {
    act("docs/install.md", Play::new(&["laptop", "desktop"]));
}

#[test]
fn trust() {
    act("docs/trust.md", Play::new(&["laptop", "nas", "tower", "probe"]));
}

#[test]
fn lan() {
    act("docs/lan.md", Play::new(&["laptop", "desktop"]));
}

#[test]
fn routes() {
    let mut play = Play::new(&["laptop", "office"]);
    let printer = house::host_behind(play.host("office"), "lan0", "printer", [192, 168, 5]).unwrap();
    let web = house::host_behind(play.host("server"), "out0", "web", [198, 51, 100]).unwrap();
    // The hub's machine forwards by what the manual says, and the web server knows no way to the LAN.
    web.ip("route del default").unwrap();
    play.add(printer);
    play.add(web);
    act("docs/routes.md", play);
}

#[test]
fn names() {
    act("docs/names.md", Play::new(&["laptop", "desktop"]));
}

#[test]
fn rules() {
    act("docs/rules.md", Play::new(&["admin", "nas", "guest"]));
}

#[test]
fn metrics() {
    let play = Play::new(&["laptop"]);
    // As Debian's package of node_exporter has it.
    play.host("server").put("/var/lib/prometheus/node-exporter/.keep", "");
    act("docs/metrics.md", play);
}

#[test]
fn hubs() {
    act("docs/hubs.md", Play::new(&["second", "third", "laptop", "nas"]));
}

#[test]
fn moving() {
    act("docs/moving.md", Play::new(&["laptop", "standby", "nas"]));
}

#[test]
fn troubleshooting() {
    act("docs/troubleshooting.md", Play::new(&["laptop"]));
}

#[test]
fn paths() {
    let needed = [("tinyproxy", "tinyproxy-bin"), ("microsocks", "microsocks"), ("openssl", "openssl")];
    if needed.iter().any(|(program, package)| is_missing(program, package)) {
        return;
    }
    let mut play = Play::new(&["laptop", "proxy"]);
    let (server, proxy) = (play.host("server"), play.host("proxy"));
    // From the laptop, nothing but port 443 passes.
    server
        .nft(
            "table inet only {\nchain input {\ntype filter hook input priority 0\n\
              ip saddr 192.0.2.10 tcp dport != 443 drop\n}\n}\n",
        )
        .unwrap();
    play.host("laptop")
        .put("/etc/hosts", "127.0.0.1 localhost\n192.0.2.1 hub.example.org\n192.0.2.11 proxy.example.com\n");
    proxy.put("/var/lib/tinyproxy.conf", "Port 3128\nTimeout 600\nLogLevel Info\nMaxClients 100\n");
    let mut command = Command::new("tinyproxy");
    command.args(["-d", "-c", "/var/lib/tinyproxy.conf"]);
    let tinyproxy = proxy.spawn("tinyproxy", &command).unwrap();
    let mut command = Command::new("microsocks");
    command.args(["-p", "1080", "-u", "ann", "-P", "secret"]);
    let microsocks = proxy.spawn("microsocks", &command).unwrap();
    for port in [3128, 1080] {
        wait_for_port(proxy, ([127, 0, 0, 1], port), Duration::from_secs(10)).unwrap();
    }
    let authority = Authority::new().unwrap();
    authority.issue("hub", "DNS:hub.example.org", Valid::Now).unwrap();
    for (file, name) in [("hub.pem", "fullchain.pem"), ("hub.key", "privkey.pem")] {
        let text = fs::read_to_string(authority.path(file)).unwrap();
        server.put(&format!("/etc/letsencrypt/live/hub.example.org/{name}"), &text);
    }
    // The laptop's system trusts the authority.
    play.set_variable("SSL_CERT_FILE", &authority.argument("ca.pem"));
    play.keep(tinyproxy);
    play.keep(microsocks);
    act("docs/paths.md", play);
}
