//! The state directory of a hub or a spoke: its key and its text files. IO.
//!
//! Files are reached through the directory's descriptor, not by path: a program that has given up its rights
//! may not be able to go the way to the directory any more, as one below a home that is closed to others.
#![expect(clippy::disallowed_methods, reason = "an IO file: it owns the state directory")]

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::{self, DirBuilder, File, Metadata, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, renameat};
use nix::sys::stat::{Mode, SFlag, fstat, fstatat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, unlinkat};

use crate::linux::sandbox::StateDirectory;
use crate::wire::key::PrivateKey;

/// Longest state file that is read: room for more members than a hub can have.
const MAX_FILE: u64 = crate::node::text::MAX_FILE as u64;

/// The mode of a key file: it is for its owner alone.
const KEY_MODE: u32 = 0o600;

/// Why the state directory cannot be used. Its text says what to do.
#[derive(Debug)]
pub enum Error {
    /// Another process uses the directory.
    InUse(PathBuf),
    /// Others can read or write the directory or file.
    Exposed {
        /// The directory or file.
        path: PathBuf,
        /// The mode that it has.
        has: u32,
        /// The mode it should have.
        mode: u32,
    },
    /// The key file is empty.
    EmptyKey(PathBuf),
    /// The file is there, but is not what it should be.
    Damaged {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        why: String,
    },
    /// A file that this program was to keep in step was made by somebody else.
    NotOurs(PathBuf),
    /// The system refused.
    Io {
        /// What was tried.
        tried: &'static str,
        /// The directory or file.
        path: PathBuf,
        /// The system's reason.
        error: io::Error,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::InUse(path) => write!(
                f,
                "{0} is in use by another process, and one state directory is one identity: stop that process, or make \
                 this one another by adding `--state DIR --tun NAME`, as in --state {0}-2 --tun lan1",
                path.display()
            ),
            Error::Exposed { path, has, mode } => write!(
                f,
                "{0} can be {1} by others: run `chmod {mode:o} {0}`{2}",
                path.display(),
                match (has & 0o044 != 0, has & 0o022 != 0) {
                    (true, true) => "read and written",
                    (false, true) => "written",
                    (true, false) => "read",
                    (false, false) => "used",
                },
                // The key is what this end is known by.
                if *mode == KEY_MODE {
                    "; do not delete it: every other end would refuse the new key"
                } else {
                    ""
                }
            ),
            Error::EmptyKey(path) => write!(
                f,
                "{0}, line 1: the key file is empty: put back a copy, or delete it for a new key, of which the other \
                 machines then have to be told",
                path.display()
            ),
            Error::Damaged { path, line, why } => write!(
                f,
                "{}, line {line}: {why}; mend or delete the line (the file was left as it is)",
                path.display()
            ),
            Error::NotOurs(path) => write!(
                f,
                "{} was not made by this program, which would replace all that is in it: name a file of its own, \
                 as in --hosts /run/lan/hosts",
                path.display()
            ),
            Error::Io { tried, path, error } => {
                write!(f, "cannot {tried} {}: {error}{}", path.display(), advice(error))
            }
        }
    }
}

/// What a person can do about an error of the system.
fn advice(error: &io::Error) -> &'static str {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOSPC | Errno::EDQUOT) => ": make room on that disk",
        Some(Errno::EROFS) => ": remount that disk for writing (mount -o remount,rw)",
        Some(Errno::EISDIR) => ": move that directory away",
        Some(Errno::EACCES | Errno::EPERM) => ": run this as root (sudo), or as its owner",
        _ => "",
    }
}

impl std::error::Error for Error {}

/// Tells whether a file is the same as it was, as far as the system can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    inode: (u64, u64),
    size: i64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// The directory in a state directory that others can write to, as a volume of a container, which holds the state then.
const PRIVATE: &str = "private";

/// The file with this end's key.
const KEY: &str = "key";

/// Where the state is, of whom this state directory was named to.
pub fn inner(path: &Path) -> PathBuf {
    let inner = path.join(PRIVATE);
    if inner.is_dir() { inner } else { path.to_owned() }
}

/// Makes a directory (mode 0700) where it is missing.
fn make_directory(path: &Path) -> Result<Metadata, Error> {
    let fail = |tried, error| Error::Io { tried, path: path.to_owned(), error };
    if !path.exists() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|error| fail("make the state directory", error))?;
    }
    let metadata = fs::metadata(path).map_err(|error| fail("open the state directory", error))?;
    if !metadata.is_dir() {
        return Err(fail("use as the state directory", io::ErrorKind::NotADirectory.into()));
    }
    Ok(metadata)
}

/// A state directory, locked for this process.
#[derive(Debug)]
pub struct State {
    path: PathBuf,
    /// Holds the lock, which ends with the process.
    directory: File,
}

impl State {
    /// Opens the directory, making it (mode 0700) where it is missing, and locks it. Where others can write to it and it
    /// holds no state yet, as a volume of a container may come, the state is kept in the directory `private` below, which is not
    /// theirs.
    ///
    /// # Errors
    /// [`Error::Exposed`] where others can write to what is there already, or made the directory below.
    pub fn open(path: &Path) -> Result<State, Error> {
        State::open_as(path, None)
    }

    /// As [`State::open`], for a process that becomes `user`: what that user was given at an earlier start is its own.
    ///
    /// # Errors
    /// As [`State::open`].
    pub fn open_as(path: &Path, user: Option<Uid>) -> Result<State, Error> {
        let metadata = make_directory(path)?;
        let inner = path.join(PRIVATE);
        let is_exposed = metadata.mode() & 0o022 != 0;
        let is_inner = inner.is_dir() || is_exposed && !path.join(KEY).exists();
        if !is_inner {
            return State::lock(path, &metadata);
        }
        let own = make_directory(&inner)?;
        let is_ours = own.uid() == Uid::effective().as_raw()
            || own.uid() == metadata.uid()
            || user.is_some_and(|user| own.uid() == user.as_raw());
        if is_exposed && (!is_ours || inner.is_symlink()) {
            return Err(Error::Exposed { path: path.to_owned(), has: metadata.mode() & 0o022, mode: 0o700 });
        }
        if is_exposed {
            log::info!("others can write to {}: the state is kept in {}", path.display(), inner.display());
        }
        State::lock(&inner, &own)
    }

    fn lock(path: &Path, metadata: &Metadata) -> Result<State, Error> {
        let fail = |tried, error| Error::Io { tried, path: path.to_owned(), error };
        let has = metadata.mode();
        if has & 0o022 != 0 {
            // That others can look into it is no harm: each file in it has a mode of its own.
            return Err(Error::Exposed { path: path.to_owned(), has: has & 0o022, mode: 0o700 });
        }
        // The directory itself is locked: no lock file to make, and a read-only one can be used.
        let directory = File::open(path).map_err(|error| fail("open the state directory", error))?;
        match directory.try_lock() {
            Ok(()) => Ok(State { path: path.to_owned(), directory }),
            Err(TryLockError::WouldBlock) => Err(Error::InUse(path.to_owned())),
            Err(TryLockError::Error(error)) => Err(fail("lock the state directory", error)),
        }
    }

    /// The directory itself, for rules about what lies below it.
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// This end's key, made at first use.
    pub fn key(&self) -> Result<PrivateKey, Error> {
        let path = self.path.join(KEY);
        let Some((text, mode)) = self.read_with_mode(KEY)? else {
            let key = PrivateKey::from_random(random().map_err(|error| Error::Io {
                tried: "get random bytes for",
                path: path.clone(),
                error,
            })?);
            self.write(KEY, &format!("{}\n", key.to_base64()))?;
            return Ok(key);
        };
        if mode & 0o077 != 0 {
            return Err(Error::Exposed { path, has: mode, mode: KEY_MODE });
        }
        if text.trim().is_empty() {
            return Err(Error::EmptyKey(path));
        }
        text.trim().parse().map_err(|bad: crate::wire::key::BadKey| Error::Damaged {
            path,
            line: 1,
            why: bad.to_string(),
        })
    }

    /// The text of a file; `None` where there is none.
    pub fn read(&self, name: &str) -> Result<Option<String>, Error> {
        Ok(self.read_with_mode(name)?.map(|(text, _)| text))
    }

    fn read_with_mode(&self, name: &str) -> Result<Option<(String, u32)>, Error> {
        let fail = |error| Error::Io { tried: "read", path: self.path.join(name), error };
        let file = match openat(&self.directory, name, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::ENOENT) => return Ok(None),
            Err(error) => return Err(fail(error.into())),
        };
        let mode = file.metadata().map_err(fail)?.mode();
        let mut text = String::new();
        file.take(MAX_FILE + 1).read_to_string(&mut text).map_err(fail)?;
        if text.len() as u64 > MAX_FILE {
            return Err(fail(io::Error::other(format!("it is longer than {} MiB", MAX_FILE >> 20))));
        }
        Ok(Some((text, mode)))
    }

    /// Writes a file (mode 0600) whole or not at all, also through a loss of power.
    pub fn write(&self, name: &str, text: &str) -> Result<(), Error> {
        replace(&self.directory, name.as_ref(), text, Mode::S_IRUSR | Mode::S_IWUSR)
            .map_err(|error| Error::Io { tried: "write", path: self.path.join(name), error })
    }

    /// Adds text at the end of a file that is there, and waits until it is on the disk. Where that fails the file
    /// is as it was, if the disk lets it be: [`State::write`] mends it.
    pub fn append(&self, name: &str, text: &str) -> Result<(), Error> {
        let flags = OFlag::O_WRONLY | OFlag::O_APPEND | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let append = || {
            let mut file = File::from(openat(&self.directory, name, flags, Mode::empty())?);
            let len = file.metadata()?.len();
            file.write_all(text.as_bytes()).and_then(|()| file.sync_data()).inspect_err(|_| {
                // A line of which only a part was written would be taken for one that a person has begun.
                let _ = file.set_len(len);
            })
        };
        append().map_err(|error| Error::Io { tried: "write", path: self.path.join(name), error })
    }

    /// What changes whenever a file is written or replaced; `None` where there is none.
    pub fn stamp(&self, name: &str) -> Option<Stamp> {
        let found = fstatat(&self.directory, name, AtFlags::AT_SYMLINK_NOFOLLOW).ok()?;
        Some(Stamp {
            inode: (found.st_dev, found.st_ino),
            size: found.st_size,
            modified: (found.st_mtime, found.st_mtime_nsec),
            changed: (found.st_ctime, found.st_ctime_nsec),
        })
    }

    /// How many bytes a file has; `None` where there is none.
    pub fn size(&self, name: &str) -> Option<u64> {
        let found = fstatat(&self.directory, name, AtFlags::AT_SYMLINK_NOFOLLOW).ok()?;
        u64::try_from(found.st_size).ok()
    }

    /// Gives a file another name, in the place of what has it.
    pub fn rename(&self, name: &str, to: &str) -> Result<(), Error> {
        renameat(&self.directory, name, &self.directory, to).map_err(|error| Error::Io {
            tried: "rename",
            path: self.path.join(name),
            error: error.into(),
        })
    }

    /// Removes a file; none there is fine.
    pub fn remove(&self, name: &str) -> Result<(), Error> {
        match unlinkat(&self.directory, name, UnlinkatFlags::NoRemoveDir) {
            Err(error) if error != Errno::ENOENT => {
                Err(Error::Io { tried: "remove", path: self.path.join(name), error: error.into() })
            }
            _ => Ok(()),
        }
    }

    /// Makes the directory and its files those of `user`: without the rights of an administrator a program
    /// can only use what is its own. What is there already is left alone, as are directories in it.
    pub fn give_to(&self, user: Uid, group: Gid) -> Result<(), Error> {
        let fail = |path, error: Errno| Error::Io { tried: "change the owner of", path, error: error.into() };
        let own = fstat(&self.directory).map_err(|error| fail(self.path.clone(), error))?;
        if own.st_uid != user.as_raw() {
            nix::unistd::fchown(&self.directory, Some(user), Some(group))
                .map_err(|error| fail(self.path.clone(), error))?;
        }
        let names = fs::read_dir(&self.path).map_err(|error| Error::Io {
            tried: "list",
            path: self.path.clone(),
            error,
        })?;
        for name in names.filter_map(|entry| Some(entry.ok()?.file_name())) {
            let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let given = openat(&self.directory, name.as_os_str(), flags, Mode::empty()).and_then(|file| {
                let found = fstat(&file)?;
                let kind = SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT;
                // The last owner may have put a link to another's file here: not by its name here alone.
                let is_ours = (kind == SFlag::S_IFREG || kind == SFlag::S_IFSOCK) && found.st_nlink == 1;
                if !is_ours || found.st_uid == user.as_raw() {
                    return Ok(());
                }
                fchownat(file.as_fd(), "", Some(user), Some(group), AtFlags::AT_EMPTY_PATH)
            });
            match given {
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(error) => return Err(fail(self.path.join(name), error)),
            }
        }
        Ok(())
    }

    /// Makes its files those of the directory's owner, whoever this process is: the program that they are for may run as
    /// another user.
    ///
    /// # Errors
    /// As [`State::give_to`].
    pub fn give_to_owner(&self) -> Result<(), Error> {
        let own = fstat(&self.directory).map_err(|error| Error::Io {
            tried: "open the state directory",
            path: self.path.clone(),
            error: error.into(),
        })?;
        self.give_to(Uid::from_raw(own.st_uid), Gid::from_raw(own.st_gid))
    }

    /// The error for a line of a file that is invalid.
    pub fn damaged(&self, name: &str, line: usize, why: impl fmt::Display) -> Error {
        Error::Damaged { path: self.path.join(name), line, why: why.to_string() }
    }
}

/// A file outside of the state directory that is rewritten now and then. Its first line says whose it is.
///
/// Its directory is opened at start: a program that has given up its rights may not find the way there again.
#[derive(Debug)]
pub struct SyncedFile {
    path: PathBuf,
    name: OsString,
    directory: File,
    /// The first line, with its end.
    marker: &'static str,
}

impl StateDirectory for State {
    type SyncedFile = SyncedFile;

    fn directory(&self) -> BorrowedFd<'_> {
        self.directory()
    }

    fn directory_of(file: &SyncedFile) -> BorrowedFd<'_> {
        file.directory()
    }

    fn change_owner(&self, user: Uid, group: Gid) -> Result<(), String> {
        self.give_to(user, group).map_err(|error| error.to_string())
    }
}

impl SyncedFile {
    /// Opens the file's directory, making it (mode 0755) where it is missing, and writes a file with nothing but
    /// `marker` (readable by all) to see that it can.
    ///
    /// # Errors
    /// [`Error::NotOurs`], and nothing changed, for a file that has something in it and another first line.
    pub fn open(path: &Path, marker: &'static str) -> Result<SyncedFile, Error> {
        let fail = |error| Error::Io { tried: "write", path: path.to_owned(), error };
        let name = path.file_name().ok_or_else(|| fail(io::ErrorKind::IsADirectory.into()))?.to_owned();
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        if let Some(parent) = parent.filter(|parent| !parent.exists()) {
            DirBuilder::new().recursive(true).mode(0o755).create(parent).map_err(|error| Error::Io {
                tried: "make the directory",
                path: parent.to_owned(),
                error,
            })?;
        }
        let directory = File::open(parent.unwrap_or(Path::new("."))).map_err(fail)?;
        let file = SyncedFile { path: path.to_owned(), name, directory, marker };
        if !file.is_ours().map_err(fail)? {
            return Err(Error::NotOurs(path.to_owned()));
        }
        file.clear()?;
        Ok(file)
    }

    /// Its directory, for rules about what may be written.
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Gives the file this text behind its first line, at once: nobody sees a part of it.
    pub fn write(&self, text: &str) -> Result<(), Error> {
        let mode = Mode::S_IRUSR | Mode::S_IWUSR | Mode::S_IRGRP | Mode::S_IROTH;
        let text = [self.marker, text].concat();
        replace(&self.directory, &self.name, &text, mode).map_err(|error| Error::Io {
            tried: "write",
            path: self.path.clone(),
            error,
        })
    }

    /// Leaves nothing but the first line.
    pub fn clear(&self) -> Result<(), Error> {
        self.write("")
    }

    /// Whether there is no such file, or an empty one, or one with our first line. A link counts as what it leads
    /// to. A directory is left to [`SyncedFile::write`] to fail at; a device, a pipe and a link to nothing are not ours,
    /// though there is nothing to read.
    fn is_ours(&self) -> io::Result<bool> {
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let file = match openat(&self.directory, self.name.as_os_str(), flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::ENOENT) => {
                let link = fstatat(&self.directory, self.name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW);
                return Ok(link.is_err());
            }
            Err(error) => return Err(error.into()),
        };
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Ok(metadata.is_dir());
        }
        let mut start = Vec::new();
        file.take(self.marker.len() as u64).read_to_end(&mut start)?;
        Ok(start.is_empty() || start == self.marker.as_bytes())
    }
}

/// Puts a new file in the place of the one of this name, whole or not at all, also through a loss of power.
fn replace(directory: &File, name: &OsStr, text: &str, mode: Mode) -> io::Result<()> {
    let mut new = OsString::from(".");
    new.push(name);
    new.push(".new");
    let write_new = || {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mut file = File::from(openat(directory, new.as_os_str(), flags, mode)?);
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    let put_in_place = || {
        renameat(directory, new.as_os_str(), directory, name).map_err(|error| {
            // In a sandbox the kernel only says that a directory may not be removed.
            let is_directory = fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW)
                .is_ok_and(|found| found.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits());
            io::Error::from(if is_directory { Errno::EISDIR } else { error })
        })
    };
    write_new().and_then(|()| put_in_place()).inspect_err(|_| {
        // It may never have been made; the reason is told already.
        let _ = unlinkat(directory, new.as_os_str(), UnlinkatFlags::NoRemoveDir);
    })?;
    // A directory that cannot be synced still holds the new file.
    let _ = directory.sync_all();
    Ok(())
}

/// A number from the system's random source.
pub fn random_u64() -> io::Result<u64> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(u64::from_ne_bytes(bytes))
}

/// 32 bytes from the system's random source.
pub fn random() -> io::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

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
        for (mode, what) in
            [(0o644, "read"), (0o620, "written"), (0o666, "read and written"), (0o601, "used")]
        {
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
        let others =
            ["127.0.0.1 localhost\n", "\n", "#", &MARKER[..MARKER.len() - 1], &format!("\n{MARKER}")];
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
}
