//! What a LAN makes of a disk that is full, that cannot be written, or that has a directory where a file should
//! be: one clear line, no tunnel harmed, no file half written, and all is written once that is possible again.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests of IO")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use hub::control::Status;
use nix::mount::{MsFlags, mount};
use nix::sys::signal::Signal;

use crate::house::{
    Binaries, Host, Lan, Net, SPOKE_ON_LAN, ask_hub, hub_command, ping, ping_until, require_tun, spawn_spoke,
    spoke_command, start_hub, state,
};

const SOON: Duration = Duration::from_secs(5);
/// What could not be written is tried again every 10 s.
const AGAIN: Duration = Duration::from_secs(20);
/// The file that fills a disk.
const FILLING: &str = "filling";

/// What keeps a program from writing its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    Full,
    ReadOnly,
}

impl Trouble {
    const ALL: [Trouble; 2] = [Trouble::Full, Trouble::ReadOnly];

    /// The system's words for it, and what to do about it.
    fn told(self) -> [&'static str; 2] {
        match self {
            Trouble::Full => ["No space left on device", "make room on that disk"],
            Trouble::ReadOnly => ["Read-only file system", "remount that disk for writing"],
        }
    }
}

/// A small disk of its own under the state directory of one program.
struct Disk<'a> {
    host: &'a Host,
    program: &'static str,
}

impl<'a> Disk<'a> {
    /// Mounts one; it goes with the host.
    fn mount(host: &'a Host, program: &'static str) -> Disk<'a> {
        let disk = Disk { host, program };
        let at = disk.at();
        host.run(move || {
            fs::create_dir(&at).unwrap();
            let options = "size=64k,mode=700";
            mount(Some("tmpfs"), &at, Some("tmpfs"), MsFlags::empty(), Some(options)).unwrap();
        });
        disk
    }

    /// Its place, as the host names it.
    fn at(&self) -> PathBuf {
        self.host.private().join(self.program)
    }

    /// A file on it, as this process names it.
    fn file(&self, name: &str) -> PathBuf {
        state(self.host, self.program).join(name)
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.file(name)).unwrap()
    }

    fn begin(&self, trouble: Trouble) {
        match trouble {
            Trouble::Full => {
                let mut file = File::create(self.file(FILLING)).unwrap();
                let full = loop {
                    if let Err(error) = file.write_all(&[0; 512]) {
                        break error;
                    }
                };
                assert_eq!(full.kind(), io::ErrorKind::StorageFull);
            }
            Trouble::ReadOnly => self.remount(MsFlags::MS_RDONLY),
        }
    }

    fn end(&self, trouble: Trouble) {
        match trouble {
            Trouble::Full => fs::remove_file(self.file(FILLING)).unwrap(),
            Trouble::ReadOnly => self.remount(MsFlags::empty()),
        }
    }

    fn remount(&self, flags: MsFlags) {
        let (at, nothing) = (self.at(), None::<&Path>);
        self.host.run(move || mount(nothing, &at, nothing, MsFlags::MS_REMOUNT | flags, nothing).unwrap());
    }

    /// All files but the one that fills the disk, with what is in them.
    fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let entries = fs::read_dir(state(self.host, self.program)).unwrap().map(Result::unwrap);
        let files = entries.filter(|entry| entry.file_type().unwrap().is_file());
        let named = files.map(|entry| (entry.file_name().into_string().unwrap(), entry.path()));
        let own = named.filter(|(name, _)| name != FILLING);
        own.map(|(name, path)| (name, fs::read(path).unwrap())).collect()
    }
}

#[test]
fn a_running_hub_that_cannot_write_tells_it_once_harms_nobody_and_catches_up() {
    for trouble in Trouble::ALL {
        let net = Net::new(3).unwrap();
        Disk::mount(net.hub(), "hub");
        let lan = Lan::with(net, 2).unwrap();
        let (net, disk) = (&lan.net, Disk { host: lan.net.hub(), program: "hub" });
        let (mark, before) = (lan.spokes[0].mark(), disk.files());
        assert!(before.keys().eq(["key", "members", "subnets"]), "{:?}", before.keys());
        let [reason, advice] = trouble.told();

        disk.begin(trouble);
        let newcomer = spawn_spoke(net, &lan.binaries, 2, &[]).unwrap();
        newcomer.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
        let told = lan.hub.wait_for_line(reason, SOON).unwrap();
        assert!(told.contains("WARN") && told.contains("/members") && told.contains(advice), "{told}");
        for command in [&["lock"][..], &["invite", "guest"], &["revoke", "spoke1"]] {
            let said = ask_hub(net, command);
            assert!(said.err.contains(advice) && said.err.lines().count() == 1, "{}", said.err);
            said.fails(reason);
        }
        lan.spokes[1].wait_for_line("revoked", SOON).unwrap();
        ask_hub(net, &["reload"]).good();
        let reloaded = lan.hub.mark();
        lan.hub.signal(Signal::SIGHUP).unwrap();
        lan.hub.wait_for_line_after(reloaded, "read the files again", SOON).unwrap();
        let status = hub_status(net);
        assert_eq!((status.locked, status.invites), (false, 0), "what failed is not done");
        assert_eq!((status.known, status.online, status.revoked), (2, 2, 1), "the newcomer stays a member");
        assert!(status.trouble.unwrap().contains(reason));
        assert!(ask_hub(net, &["status"]).good().contains(reason));
        for (from, to) in [(0, 2), (2, 0)] {
            ping(net.spoke(from), Lan::address(to).into(), 1400, SOON).unwrap();
        }
        assert_eq!(lan.spokes[0].mark(), mark, "a member noticed: {:#?}", lan.spokes[0].lines());
        assert_eq!(disk.files(), before, "nothing half-written, nothing left behind");
        let lines = lan.hub.lines();
        let told = lines.iter().filter(|line| line.contains(reason));
        let (of_audit, of_members): (Vec<_>, Vec<_>) = told.partition(|line| line.contains("/audit: "));
        // Three commands, and a reload by each of the two ways: who changed what is at least in the log.
        assert_eq!((of_members.len(), of_audit.len()), (1, 5), "{lines:#?}");

        disk.end(trouble);
        let soon = match trouble {
            Trouble::Full => AGAIN,
            // Who has mended it need not wait.
            Trouble::ReadOnly => {
                ask_hub(net, &["reload"]).good();
                SOON / 2
            }
        };
        lan.hub.wait_for_line("all changes are written to", soon).unwrap();
        let members = disk.text("members");
        assert!(members.lines().any(|line| line.ends_with(" spoke2 10.0.0.4")), "{members}");
        assert!(members.lines().any(|line| line.ends_with(" spoke1 10.0.0.3 revoked")), "{members}");
        assert_eq!(hub_status(net).trouble, None);
        ask_hub(net, &["invite", "guest"]).good();
        ask_hub(net, &["lock"]).good();
        assert_eq!(lan.spokes[0].mark(), mark, "a member noticed: {:#?}", lan.spokes[0].lines());
    }
}

#[test]
fn a_full_disk_does_not_keep_a_hub_locked_nor_cost_an_invite() {
    let net = Net::new(1).unwrap();
    let disk = Disk::mount(net.hub(), "hub");
    let _hub = start_hub(&net, &Binaries::find().unwrap(), &[]).unwrap();
    ask_hub(&net, &["lock"]).good();
    let invite = ask_hub(&net, &["invite", "guest", "--host", "192.0.2.1"]).good();
    let before = disk.text("invites");
    disk.begin(Trouble::Full);
    // A new invite would take the place of the old one.
    ask_hub(&net, &["invite", "guest"]).fails("nobody is invited");
    assert_eq!((disk.text("invites"), hub_status(&net).invites), (before, 1));
    let mut words = invite.split_whitespace();
    let mut command = Command::new(Binaries::find().unwrap().spoke);
    words.next();
    command.args(words).arg("--state").arg(net.spoke(0).private().join("spoke"));
    let guest = net.spoke(0).spawn("guest", &command).unwrap();
    guest.wait_for_line("(guest)", SOON).unwrap();
    // Removing a file needs no room.
    ask_hub(&net, &["unlock"]).good();
    assert!(!hub_status(&net).locked);
}

#[test]
fn a_hub_that_ends_writes_what_it_could_not_write_before() {
    let net = Net::new(1).unwrap();
    let disk = Disk::mount(net.hub(), "hub");
    let binaries = Binaries::find().unwrap();
    let hub = start_hub(&net, &binaries, &[]).unwrap();
    disk.begin(Trouble::Full);
    let spoke = spawn_spoke(&net, &binaries, 0, &[]).unwrap();
    spoke.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
    assert!(!disk.file("members").exists());
    disk.end(Trouble::Full);
    hub.signal(Signal::SIGTERM).unwrap();
    hub.wait_exit(SOON).unwrap();
    assert!(disk.text("members").ends_with(" spoke0 10.0.0.2\n"));
}

#[test]
fn a_directory_in_the_place_of_the_members_file_stops_nobody() {
    let lan = Lan::with(Net::new(3).unwrap(), 2).unwrap();
    let file = state(lan.net.hub(), "hub").join("members");
    let mark = lan.spokes[0].mark();
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    let newcomer = spawn_spoke(&lan.net, &lan.binaries, 2, &[]).unwrap();
    newcomer.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
    let told = lan.hub.wait_for_line("Is a directory", SOON).unwrap();
    assert!(told.contains("/members") && told.contains("move that directory away"), "{told}");
    ask_hub(&lan.net, &["reload"]).fails("nothing is changed");
    lan.hub.signal(Signal::SIGHUP).unwrap();
    lan.hub.wait_for_line("nothing is changed", SOON).unwrap();
    ping(lan.net.spoke(0), Lan::address(2).into(), 56, SOON).unwrap();
    assert_eq!(lan.spokes[0].mark(), mark, "a member noticed: {:#?}", lan.spokes[0].lines());
    fs::remove_dir(&file).unwrap();
    lan.hub.wait_for_line("all changes are written to", AGAIN).unwrap();
    let text = fs::read_to_string(&file).unwrap();
    for i in 0..3 {
        assert!(text.contains(&format!(" spoke{i} {}\n", Lan::address(i))), "{text}");
    }
}

#[test]
fn without_its_key_neither_program_starts_where_it_cannot_write() {
    require_tun().unwrap();
    let binaries = Binaries::find().unwrap();
    for trouble in Trouble::ALL {
        let net = Net::new(1).unwrap();
        let disks = [Disk::mount(net.hub(), "hub"), Disk::mount(net.spoke(0), "spoke")];
        let commands = [hub_command(&net, &binaries, &[]), spoke_command(&net, &binaries, 0, &[])];
        for (disk, command) in disks.iter().zip(commands) {
            disk.begin(trouble);
            ends_with_one_line(disk.host, &command, &["/key", trouble.told()[0], trouble.told()[1]]);
            assert!(disk.files().is_empty());
        }
    }
}

#[test]
fn with_its_key_each_program_starts_where_it_cannot_write() {
    let binaries = Binaries::find().unwrap();
    for trouble in Trouble::ALL {
        let net = Net::new(1).unwrap();
        let disks = [Disk::mount(net.hub(), "hub"), Disk::mount(net.spoke(0), "spoke")];
        let hub = start_hub(&net, &binaries, &[]).unwrap();
        let spoke = spawn_spoke(&net, &binaries, 0, &[]).unwrap();
        spoke.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
        drop((hub, spoke));
        let before = disks.each_ref().map(Disk::files);
        disks.iter().for_each(|disk| disk.begin(trouble));
        let hub = start_hub(&net, &binaries, &[]).unwrap();
        let spoke = spawn_spoke(&net, &binaries, 0, &[]).unwrap();
        spoke.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
        ping_until(net.spoke(0), Lan::hub_address().into(), SOON).unwrap();
        for (program, command) in [(&hub, "`hub status`"), (&spoke, "`spoke status`")] {
            let told = program.lines().iter().filter(|line| line.contains(command)).count();
            assert_eq!(told, usize::from(trouble == Trouble::ReadOnly), "{:#?}", program.lines());
        }
        assert_eq!(disks.each_ref().map(Disk::files), before);
    }
}

#[test]
fn a_directory_where_a_file_should_be_is_named_at_start() {
    require_tun().unwrap();
    let (net, binaries) = (Net::new(1).unwrap(), Binaries::find().unwrap());
    let hub = (net.hub(), "hub", hub_command(&net, &binaries, &[]));
    let spoke = (net.spoke(0), "spoke", spoke_command(&net, &binaries, 0, &[]));
    let cases = [(&hub, "key"), (&hub, "members"), (&hub, "invites"), (&hub, "locked"), (&spoke, "hubs")];
    for ((host, program, command), name) in cases {
        let directory = state(host, program);
        fs::create_dir_all(directory.join(name)).unwrap();
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o700)).unwrap();
        let name = format!("/{name}");
        ends_with_one_line(host, command, &[&name, "Is a directory", "move that directory away"]);
        fs::remove_dir_all(&directory).unwrap();
    }
}

#[test]
fn a_spoke_that_cannot_note_the_hubs_key_says_so_and_notes_it_later() {
    for trouble in Trouble::ALL {
        let (net, binaries) = (Net::new(1).unwrap(), Binaries::find().unwrap());
        let disk = Disk::mount(net.spoke(0), "spoke");
        let spoke = spawn_spoke(&net, &binaries, 0, &[]).unwrap();
        spoke.wait_for_line("nothing listens there", SOON).unwrap();
        assert!(disk.files().keys().eq(["key"]));
        disk.begin(trouble);
        let hub = start_hub(&net, &binaries, &[]).unwrap();
        spoke.wait_for_line(SPOKE_ON_LAN, AGAIN).unwrap();
        let [reason, advice] = trouble.told();
        let told = spoke.wait_for_line(reason, SOON).unwrap();
        assert!(told.contains("/hubs") && told.contains(advice) && told.contains("not remembered"), "{told}");
        ping_until(net.spoke(0), Lan::hub_address().into(), SOON).unwrap();
        assert!(disk.files().keys().eq(["key"]), "nothing half-written: {:?}", disk.files().keys());

        disk.end(trouble);
        match trouble {
            Trouble::Full => drop(spoke.wait_for_line("it is remembered", AGAIN).unwrap()),
            // One that ends does not wait.
            Trouble::ReadOnly => {
                spoke.signal(Signal::SIGTERM).unwrap();
                spoke.wait_exit(SOON).unwrap();
            }
        }
        let key = hub.wait_for_line("key ", SOON).unwrap();
        let key = key.rsplit(' ').next().unwrap();
        assert_eq!(disk.text("hubs"), format!("192.0.2.1:5678 {key}\n"));
        let lines = spoke.lines();
        for once in [SPOKE_ON_LAN, reason] {
            assert_eq!(lines.iter().filter(|line| line.contains(once)).count(), 1, "{lines:#?}");
        }
    }
}

/// Runs a program that cannot start, and looks at the one line by which it says why.
fn ends_with_one_line(host: &Host, command: &Command, parts: &[&str]) {
    let program = host.spawn("program", command).unwrap();
    assert_eq!(program.wait_exit(SOON).unwrap().code(), Some(1));
    let lines = program.lines();
    let [line] = &lines[..] else { panic!("{lines:#?}") };
    assert!(parts.iter().all(|part| line.contains(part)) && line.contains("ERROR"), "{parts:?}: {line}");
}

fn hub_status(net: &Net) -> Status {
    serde_json::from_str(&ask_hub(net, &["status", "--json"]).good()).unwrap()
}
