//! The state directory of a hub or a spoke: its key and its text files. IO.
//!
//! Files are reached through the directory's descriptor, not by path: a program that has given up its rights
//! may not be able to go the way to the directory any more, as one below a home that is closed to others.
#![expect(clippy::disallowed_methods, reason = "an IO file: it owns the state directory")]

#[cfg(test)]
mod tests;

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
    /// The file is missing or empty where it must not be.
    Lost {
        /// The file.
        path: PathBuf,
        /// Why it has to be there, and what to do.
        why: String,
    },
    /// The file is a link to one elsewhere, which would be replaced.
    Link(PathBuf),
    /// The state directory is a link to one that is not there.
    Dangling(PathBuf, PathBuf),
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
            Error::Lost { path, why } => write!(f, "{} is missing or empty: {why}", path.display()),
            Error::Link(path) => write!(
                f,
                "cannot write {}: it is a link, which is left to whoever made it: what it leads to is read, and may be \
                 missing; put a file in its place for what this program writes",
                path.display()
            ),
            Error::Dangling(path, target) => write!(
                f,
                "the state directory {} is a link to {}, which is missing: if it is on another disk, mount that first; else \
                 make it, or remove the link",
                path.display(),
                target.display()
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
        // A directory in its place would be another identity.
        if let Ok(target) = fs::read_link(path) {
            return Err(Error::Dangling(path.to_owned(), target));
        }
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
    ///
    /// # Errors
    /// [`Error::Link`] for a link, as a tool makes that keeps the file elsewhere: it would be replaced.
    pub fn write(&self, name: &str, text: &str) -> Result<(), Error> {
        self.check_no_link(name)?;
        replace(&self.directory, name.as_ref(), text, Mode::S_IRUSR | Mode::S_IWUSR)
            .map_err(|error| Error::Io { tried: "write", path: self.path.join(name), error })
    }

    /// Adds text at the end of a file that is there, and waits until it is on the disk. Where that fails the file
    /// is as it was, if the disk lets it be: [`State::write`] mends it.
    pub fn append(&self, name: &str, text: &str) -> Result<(), Error> {
        self.check_no_link(name)?;
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

    /// Whether a file is a link, as to one elsewhere.
    pub fn is_link(&self, name: &str) -> bool {
        fstatat(&self.directory, name, AtFlags::AT_SYMLINK_NOFOLLOW)
            .is_ok_and(|found| found.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFLNK.bits())
    }

    fn check_no_link(&self, name: &str) -> Result<(), Error> {
        if self.is_link(name) { Err(Error::Link(self.path.join(name))) } else { Ok(()) }
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

/// Puts a new file in the place of the one of this name, whole or not at all, also through a loss of power.
pub(super) fn replace(directory: &File, name: &OsStr, text: &str, mode: Mode) -> io::Result<()> {
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
