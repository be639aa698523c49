//! A file outside of the state directory that is kept in step with what the program knows, and what a confined
//! program may write: that file and the state directory. IO.
#![expect(clippy::disallowed_methods, reason = "an IO file: it owns the synced file")]

use std::ffi::OsString;
use std::fs::{DirBuilder, File};
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, fstatat};
use nix::unistd::{Gid, Uid};

use super::state::{Error, State, replace};
use crate::linux::sandbox::StateDirectory;

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
