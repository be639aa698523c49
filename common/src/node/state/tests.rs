//! Keys and text files in a state directory, and a synced file. IO.

use std::os::unix::fs::{PermissionsExt as _, symlink};

use super::super::synced_file::SyncedFile;
use super::*;

/// A directory of its own for each test, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Scratch {
        let tag: String = random().unwrap()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        Scratch(std::env::temp_dir().join(format!("state-test-{tag}")))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o777
}

#[test]
fn makes_a_key_once_and_for_the_owner_alone() {
    let scratch = Scratch::new();
    let state = State::open(&scratch.0).unwrap();
    let key = state.key().unwrap();
    assert_eq!(state.key().unwrap().public(), key.public());
    assert_eq!((mode(&scratch.0), mode(&scratch.0.join("key"))), (0o700, 0o600));
}

#[test]
fn refuses_an_exposed_or_damaged_key_and_leaves_it() {
    let scratch = Scratch::new();
    let state = State::open(&scratch.0).unwrap();
    state.key().unwrap();
    let path = scratch.0.join("key");
    for (mode, what) in [(0o644, "read"), (0o620, "written"), (0o666, "read and written"), (0o601, "used")] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let error = state.key().unwrap_err().to_string();
        let told = format!("key can be {what} by others: run `chmod 600 ");
        assert!(error.contains(&told), "{mode:o}: {error}");
        assert!(!error.contains("delete it for new ones"), "every spoke would refuse this hub: {error}");
    }
    fs::write(&path, "nonsense").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    assert!(state.key().unwrap_err().to_string().contains("line 1"));
    assert_eq!(fs::read_to_string(&path).unwrap(), "nonsense");
    fs::write(&path, "\n").unwrap();
    let empty = state.key().unwrap_err().to_string();
    assert!(empty.contains("the key file is empty: put back a copy"), "{empty}");
}

#[test]
fn a_directory_that_is_a_link_to_nothing_is_named_as_such() {
    let scratch = Scratch::new();
    fs::create_dir(&scratch.0).unwrap();
    let (link, target) = (scratch.0.join("state"), scratch.0.join("disk/state"));
    symlink(&target, &link).unwrap();
    let error = State::open(&link).unwrap_err().to_string();
    assert!(error.contains(&format!("is a link to {}, which is missing", target.display())), "{error}");
    assert!(!target.exists(), "no other identity is made there");
    fs::create_dir_all(&target).unwrap();
    fs::set_permissions(&target, fs::Permissions::from_mode(0o700)).unwrap();
    State::open(&link).unwrap().key().unwrap();
}

#[test]
fn refuses_a_file_that_is_too_long_to_be_read_whole() {
    let scratch = Scratch::new();
    let state = State::open(&scratch.0).unwrap();
    let file = File::create(scratch.0.join("members")).unwrap();
    file.set_len(MAX_FILE).unwrap();
    assert_eq!(state.read("members").unwrap().unwrap().len() as u64, MAX_FILE);
    file.set_len(MAX_FILE + 1).unwrap();
    let error = state.read("members").unwrap_err().to_string();
    assert!(error.ends_with("members: it is longer than 64 MiB"), "{error}");
}

#[test]
fn is_for_one_process() {
    let scratch = Scratch::new();
    let state = State::open(&scratch.0).unwrap();
    assert!(matches!(State::open(&scratch.0), Err(Error::InUse(_))));
    drop(state);
    assert!(State::open(&scratch.0).is_ok());
}

#[test]
fn refuses_a_directory_that_others_can_write() {
    let scratch = Scratch::new();
    fs::create_dir(&scratch.0).unwrap();
    fs::write(scratch.0.join(KEY), "").unwrap();
    fs::set_permissions(&scratch.0, fs::Permissions::from_mode(0o777)).unwrap();
    let error = State::open(&scratch.0).unwrap_err().to_string();
    assert!(error.contains("can be written by others: run `chmod 700 "), "{error}");
}

#[test]
fn takes_a_directory_of_its_own_in_one_that_others_can_write_and_that_holds_no_key() {
    let scratch = Scratch::new();
    fs::create_dir(&scratch.0).unwrap();
    fs::set_permissions(&scratch.0, fs::Permissions::from_mode(0o2770)).unwrap();
    let own = scratch.0.join(PRIVATE);
    let key = State::open(&scratch.0).unwrap().key().unwrap().public();
    assert_eq!((mode(&own), mode(&own.join(KEY)), inner(&scratch.0)), (0o700, 0o600, own.clone()));
    fs::set_permissions(&scratch.0, fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(State::open(&scratch.0).unwrap().key().unwrap().public(), key, "it was mended");
    // What someone else has made there is not taken.
    fs::set_permissions(&scratch.0, fs::Permissions::from_mode(0o777)).unwrap();
    fs::set_permissions(&own, fs::Permissions::from_mode(0o770)).unwrap();
    assert!(matches!(State::open(&scratch.0), Err(Error::Exposed { .. })));
    fs::set_permissions(&own, fs::Permissions::from_mode(0o700)).unwrap();
    let elsewhere = Scratch::new();
    fs::rename(&own, &elsewhere.0).unwrap();
    symlink(&elsewhere.0, &own).unwrap();
    assert!(matches!(State::open(&scratch.0), Err(Error::Exposed { .. })), "a link");
    fs::remove_file(&own).unwrap();
    if Uid::effective().is_root() {
        fs::rename(&elsewhere.0, &own).unwrap();
        let stranger = Some(Uid::from_raw(65_534));
        nix::unistd::chown(&own, stranger, None).unwrap();
        assert!(matches!(State::open(&scratch.0), Err(Error::Exposed { .. })), "another's");
    }
}

const MARKER: &str = "# kept in step by a test\n";

#[test]
fn rewrites_a_synced_file_whole() {
    let scratch = Scratch::new();
    let file = SyncedFile::open(&scratch.0, MARKER).unwrap();
    for text in ["a longer text\n", "short\n", ""] {
        file.write(text).unwrap();
        assert_eq!(fs::read_to_string(&scratch.0).unwrap(), format!("{MARKER}{text}"));
    }
    let error = SyncedFile::open(&scratch.0.join("below"), MARKER).unwrap_err().to_string();
    assert!(error.starts_with("cannot write "), "{error}");
    fs::remove_file(&scratch.0).unwrap();
}

#[test]
fn makes_the_directory_of_a_synced_file() {
    let scratch = Scratch::new();
    let path = scratch.0.join("run/lan/hosts");
    SyncedFile::open(&path, MARKER).unwrap().write("10.0.0.2 laptop\n").unwrap();
    assert_eq!(mode(path.parent().unwrap()) & 0o700, 0o700);
    // What a program that was killed has left is emptied at the next start.
    let file = SyncedFile::open(&path, MARKER).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), MARKER);
    file.write("10.0.0.2 laptop\n").unwrap();
    file.clear().unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), MARKER);
}

#[test]
fn leaves_a_file_that_is_not_ours_as_it_is() {
    let scratch = Scratch::new();
    fs::create_dir(&scratch.0).unwrap();
    let (path, link) = (scratch.0.join("hosts"), scratch.0.join("link"));
    symlink(&path, &link).unwrap();
    let others = ["127.0.0.1 localhost\n", "\n", "#", &MARKER[..MARKER.len() - 1], &format!("\n{MARKER}")];
    for text in others {
        fs::write(&path, text).unwrap();
        for path in [&path, &link] {
            let error = SyncedFile::open(path, MARKER).unwrap_err();
            assert!(matches!(error, Error::NotOurs(_)), "{text:?}: {error}");
            assert!(error.to_string().contains("--hosts /run/lan/hosts"), "{error}");
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }
    assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), 2, "nothing else is left");
    fs::write(&path, "").unwrap();
    assert!(SyncedFile::open(&path, MARKER).is_ok(), "an empty one may be made beforehand");
}

#[test]
fn puts_no_file_in_the_place_of_a_device_a_pipe_or_a_link_to_nothing() {
    let scratch = Scratch::new();
    fs::create_dir(&scratch.0).unwrap();
    let make = |program: &str, name: &str, arguments: &[&str]| {
        let path = scratch.0.join(name);
        let status = std::process::Command::new(program).arg(&path).args(arguments).status();
        status.is_ok_and(|status| status.success()).then_some(path)
    };
    symlink(scratch.0.join("nowhere"), scratch.0.join("dangling")).unwrap();
    let pipe = make("mkfifo", "pipe", &[]).unwrap();
    // Only root makes devices; this is /dev/null.
    let device = make("mknod", "null", &["c", "1", "3"]);
    for path in [pipe, scratch.0.join("dangling")].into_iter().chain(device) {
        let before = fs::symlink_metadata(&path).unwrap();
        let error = SyncedFile::open(&path, MARKER).unwrap_err();
        assert!(matches!(error, Error::NotOurs(_)), "{}: {error}", path.display());
        assert_eq!(fs::symlink_metadata(&path).unwrap().ino(), before.ino());
    }
}

#[test]
fn gives_its_files_away_but_no_link_to_another() {
    let scratch = Scratch::new();
    let state = State::open(&scratch.0).unwrap();
    state.key().unwrap();
    let elsewhere = Scratch::new();
    fs::write(&elsewhere.0, "another's").unwrap();
    fs::hard_link(&elsewhere.0, scratch.0.join("hard")).unwrap();
    symlink(&elsewhere.0, scratch.0.join("soft")).unwrap();
    fs::create_dir(scratch.0.join("sub")).unwrap();
    let nobody = (Uid::from_raw(65_534), Gid::from_raw(65_534));
    match state.give_to(nobody.0, nobody.1) {
        Err(error) if !Uid::effective().is_root() => {
            return assert!(error.to_string().starts_with("cannot change the owner of"), "{error}");
        }
        given => given.unwrap(),
    }
    let owner = |path: &Path| fs::symlink_metadata(path).unwrap().uid();
    assert_eq!((owner(&scratch.0), owner(&scratch.0.join("key"))), (65_534, 65_534));
    assert_eq!([owner(&elsewhere.0), owner(&scratch.0.join("sub"))], [0, 0]);
    fs::remove_file(&elsewhere.0).unwrap();
}

#[test]
fn text_is_added_at_the_end_of_a_file_that_is_there() {
    let scratch = Scratch::new();
    let state = State::open(&scratch.0).unwrap();
    assert!(state.append("members", "one\n").is_err() && state.stamp("members").is_none());
    state.write("members", "one\n").unwrap();
    let before = state.stamp("members").unwrap();
    assert_eq!(state.stamp("members"), Some(before));
    state.append("members", "two\n").unwrap();
    assert_eq!(state.read("members").unwrap().as_deref(), Some("one\ntwo\n"));
    assert_ne!(state.stamp("members"), Some(before));
}

#[test]
fn writes_whole_files_or_says_why_not() {
    let scratch = Scratch::new();
    let state = State::open(&scratch.0).unwrap();
    assert_eq!(state.read("members").unwrap(), None);
    state.write("members", "one\n").unwrap();
    state.write("members", "two\n").unwrap();
    assert_eq!(state.read("members").unwrap().as_deref(), Some("two\n"));
    fs::create_dir(scratch.0.join("blocked")).unwrap();
    fs::write(scratch.0.join("blocked/file"), "").unwrap();
    assert!(state.write("blocked", "x").is_err());
    assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), 2, "nothing half-written is left");
}
