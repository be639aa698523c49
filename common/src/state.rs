//! The state directory of a hub or a spoke: its key and its text files. IO.
#![expect(clippy::disallowed_methods, reason = "an IO file: it owns the state directory")]

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::noise::PrivateKey;

/// Longest state file that is read: room for more members than a hub can have.
const MAX_FILE: u64 = 64 * 1024 * 1024;

/// Why the state directory cannot be used. Its text says what to do.
#[derive(Debug)]
pub enum Error {
    /// Another process uses the directory.
    InUse(PathBuf),
    /// The directory or file may be read or written by others.
    Exposed {
        /// The directory or file.
        path: PathBuf,
        /// The mode it should have.
        mode: u32,
    },
    /// The file is there, but is not what it should be.
    Damaged {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        why: String,
    },
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
                "{} is in use by another process: stop that one, or give this one its own with --state DIR",
                path.display()
            ),
            Error::Exposed { path, mode } => write!(
                f,
                "{0} can be read by others, so its secrets may be known: run `chmod {mode:o} {0}`, or delete it \
                 for new ones",
                path.display()
            ),
            Error::Damaged { path, line, why } => write!(
                f,
                "{}, line {line}: {why}; mend or delete the line (the file was left as it is)",
                path.display()
            ),
            Error::Io { tried, path, error } => write!(f, "cannot {tried} {}: {error}", path.display()),
        }
    }
}

impl std::error::Error for Error {}

/// A state directory, locked for this process.
#[derive(Debug)]
pub struct State {
    path: PathBuf,
    /// Held for its lock, which ends with the process.
    _lock: File,
}

impl State {
    /// Opens the directory, making it (mode 0700) where it is missing, and locks it.
    pub fn open(path: &Path) -> Result<State, Error> {
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
        if metadata.mode() & 0o022 != 0 {
            return Err(Error::Exposed { path: path.to_owned(), mode: 0o700 });
        }
        // The directory itself is locked: no lock file to make, and a read-only one can be used.
        let lock = File::open(path).map_err(|error| fail("open the state directory", error))?;
        match lock.try_lock() {
            Ok(()) => Ok(State { path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(Error::InUse(path.to_owned())),
            Err(TryLockError::Error(error)) => Err(fail("lock the state directory", error)),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// This end's key, made at first use.
    pub fn key(&self) -> Result<PrivateKey, Error> {
        let path = self.path.join("key");
        let Some(text) = self.read("key")? else {
            let key = PrivateKey::from_random(random().map_err(|error| Error::Io {
                tried: "get random bytes for",
                path: path.clone(),
                error,
            })?);
            self.write("key", &format!("{}\n", key.to_base64()))?;
            return Ok(key);
        };
        let fail = |error| Error::Io { tried: "read", path: path.clone(), error };
        if fs::metadata(&path).map_err(fail)?.permissions().mode() & 0o077 != 0 {
            return Err(Error::Exposed { path, mode: 0o600 });
        }
        text.trim().parse().map_err(|bad: crate::noise::BadKey| Error::Damaged {
            path,
            line: 1,
            why: bad.to_string(),
        })
    }

    /// The text of a file; `None` where there is none.
    pub fn read(&self, name: &str) -> Result<Option<String>, Error> {
        let path = self.path.join(name);
        let fail = |error| Error::Io { tried: "read", path: path.clone(), error };
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(fail(error)),
        };
        let mut text = String::new();
        file.take(MAX_FILE).read_to_string(&mut text).map_err(fail)?;
        Ok(Some(text))
    }

    /// Writes a file (mode 0600) whole or not at all, also through a loss of power.
    pub fn write(&self, name: &str, text: &str) -> Result<(), Error> {
        write_file(&self.path.join(name), text, 0o600)
    }

    /// Removes a file; none there is fine.
    pub fn remove(&self, name: &str) -> Result<(), Error> {
        let path = self.path.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::Io { tried: "remove", path, error })
            }
            _ => Ok(()),
        }
    }

    /// The error for a line of a file that makes no sense.
    pub fn damaged(&self, name: &str, line: usize, why: impl fmt::Display) -> Error {
        Error::Damaged { path: self.path.join(name), line, why: why.to_string() }
    }
}

/// Writes a file with this mode whole or not at all, also through a loss of power.
pub fn write_file(path: &Path, text: &str, mode: u32) -> Result<(), Error> {
    let fail = |error| Error::Io { tried: "write", path: path.to_owned(), error };
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(fail(io::ErrorKind::IsADirectory.into()));
    };
    let new = directory.join(format!(".{}.new", name.to_string_lossy()));
    let write_new = || {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write_new().and_then(|()| fs::rename(&new, path)).map_err(|error| {
        // It may never have been made; the reason is told already.
        let _ = fs::remove_file(&new);
        fail(error)
    })?;
    // A directory that cannot be synced still holds the new file.
    let _ = File::open(directory).and_then(|directory| directory.sync_all());
    Ok(())
}

/// 32 bytes from the system's random source.
pub fn random() -> io::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
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
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(state.key().unwrap_err().to_string().contains("chmod 600"));
        fs::write(&path, "nonsense").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(state.key().unwrap_err().to_string().contains("line 1"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "nonsense");
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
        fs::set_permissions(&scratch.0, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(State::open(&scratch.0).unwrap_err().to_string().contains("chmod 700"));
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
