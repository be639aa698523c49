//! Least privilege: after start-up a program gives up the rights that it no longer needs. IO.
//!
//! Four independent layers: another user where one is named, no capability that is not needed, files by Landlock,
//! system calls by seccomp. A layer that the kernel or a container lacks is logged and skipped; only a failure to
//! switch to the named user is an error.
//!
//! A system call that is on neither list of `sandbox/calls.rs` fails with ENOSYS, as on a kernel that does not have it:
//! a libc newer than the list then takes an older way. `strace -f -Z -p PID` shows such calls.

#![expect(clippy::disallowed_methods, reason = "IO: asks for users, and looks at directories")]

mod calls;
mod profile;

use std::fmt;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use caps::errors::CapsError;
use caps::{CapSet, Capability, CapsHashSet};
use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, NetPort, PathBeneath, Ruleset, RulesetAttr as _,
    RulesetCreatedAttr as _, RulesetError, RulesetStatus, Scope, path_beneath_rules,
};
use log::{debug, warn};
use nix::errno::Errno;
use nix::sys::prctl;
use nix::unistd::{self, Gid, Uid};

pub use profile::{Needs, Profile};

/// The port of name servers.
const NAMES: u16 = 53;

/// The state directory, as far as a sandbox is concerned.
pub trait StateDirectory {
    /// A file outside of it that the program keeps in step.
    type SyncedFile;

    /// Its descriptor.
    fn directory(&self) -> BorrowedFd<'_>;

    /// The descriptor of the directory of `file`.
    fn directory_of(file: &Self::SyncedFile) -> BorrowedFd<'_>;

    /// Gives the directory and its files to a user and a group.
    ///
    /// # Errors
    /// A sentence that names the file.
    fn change_owner(&self, user: Uid, group: Gid) -> Result<(), String>;
}

/// A user to run as.
#[derive(Clone, Debug)]
pub struct User {
    name: String,
    uid: Uid,
    gid: Gid,
}

/// Why the program cannot run as the user that was asked for.
#[derive(Debug)]
pub enum Error {
    /// There is no such user.
    NoUser(String),
    /// The system did not let us change.
    Become {
        /// The user.
        name: String,
        /// The system's reason.
        source: Errno,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::NoUser(name) => write!(
                f,
                "there is no user {name:?}: make one with `useradd --system {name}`, or choose another with --user"
            ),
            Error::Become { name, source } => {
                write!(f, "cannot become {name}: {}; start as root to use --user", source.desc())
            }
        }
    }
}

impl std::error::Error for Error {}

impl User {
    /// Its number.
    pub fn uid(&self) -> Uid {
        self.uid
    }

    /// Looks a user up by name.
    pub fn find(name: &str) -> Result<User, Error> {
        match unistd::User::from_name(name) {
            Ok(Some(user)) => Ok(User { name: user.name, uid: user.uid, gid: user.gid }),
            Ok(None) => Err(Error::NoUser(name.to_owned())),
            Err(source) => Err(Error::Become { name: name.to_owned(), source }),
        }
    }

    /// The user of this number; `None` where it has no name.
    pub fn of(uid: Uid) -> Option<User> {
        let user = unistd::User::from_uid(uid).ok()??;
        Some(User { name: user.name, uid: user.uid, gid: user.gid })
    }

    fn is_current(&self) -> bool {
        Uid::effective() == self.uid && Uid::current() == self.uid
    }

    /// Changes user and groups. Capabilities stay permitted, none is effective.
    fn assume(&self) -> Result<(), Errno> {
        let name = std::ffi::CString::new(self.name.as_str()).map_err(|_| Errno::EINVAL)?;
        prctl::set_keepcaps(true)?;
        unistd::initgroups(&name, self.gid)?;
        unistd::setresgid(self.gid, self.gid, self.gid)?;
        unistd::setresuid(self.uid, self.uid, self.uid)?;
        prctl::set_keepcaps(false)
    }
}

/// Confines this process for good. To be called once, when the device, the sockets, the keys and `state` are
/// open, and before any thread is started: later ones inherit everything.
///
/// From here on files can be written only in `state` and in the directory of `synced`, and read there, where `needs`
/// says so; `state` belongs to the user that the process runs as. The process can run no program, and keeps no
/// capability but CAP_NET_ADMIN, for addresses and routes, and CAP_NET_BIND_SERVICE if it is to listen on port 53.
///
/// # Errors
/// Only where `user` cannot be assumed; the process is as it was, or about to end.
pub fn enter<S: StateDirectory>(
    state: &S,
    synced: Option<&S::SyncedFile>,
    user: Option<&User>,
    needs: Needs<'_>,
) -> Result<(), Error> {
    let (uid, gid) = user.map_or((Uid::effective(), Gid::effective()), |user| (user.uid, user.gid));
    if let Err(error) = state.change_owner(uid, gid) {
        warn!("{error}; it may not be possible to write there");
    }
    // The last act that needs CAP_SETPCAP, which a change of user takes away.
    if let Err(error) = caps::clear(None, CapSet::Bounding) {
        debug!("cannot clear the bounding set, which no-new-privileges makes harmless: {error}");
    }
    if let Some(user) = user.filter(|user| !user.is_current()) {
        user.assume().map_err(|source| Error::Become { name: user.name.clone(), source })?;
    }
    if let Err(error) = keep_capabilities(needs.binds_names) {
        warn!("cannot give up capabilities: {error}");
    }
    if let Err(error) = prctl::set_no_new_privs() {
        warn!("cannot give up new privileges: {}", error.desc());
    }
    match confine_files(state.directory(), synced.map(S::directory_of), needs) {
        Ok(RulesetStatus::FullyEnforced) => {}
        Ok(RulesetStatus::PartiallyEnforced) => {
            debug!("this kernel's Landlock is older: the use of files is partly confined")
        }
        Ok(RulesetStatus::NotEnforced) => debug!("this kernel has no Landlock: files are not confined"),
        Err(error) => warn!("cannot confine the use of files: {error}"),
    }
    match calls::confine(needs.profile, needs.binds_names) {
        Ok(true) => {
            debug!("confined; to see a system call that is refused: strace -f -Z -p {}", std::process::id())
        }
        Ok(false) => debug!("no list of system calls for {}: they are not confined", std::env::consts::ARCH),
        Err(error) => warn!("cannot confine system calls: {error}"),
    }
    Ok(())
}

fn keep_capabilities(binds_names: bool) -> Result<(), CapsError> {
    let mut held = CapsHashSet::new();
    let names = binds_names.then_some(Capability::CAP_NET_BIND_SERVICE);
    for kept in [Capability::CAP_NET_ADMIN].into_iter().chain(names) {
        if caps::has_cap(None, CapSet::Permitted, kept)? {
            held.insert(kept);
        }
    }
    caps::clear(None, CapSet::Ambient)?;
    caps::clear(None, CapSet::Inheritable)?;
    caps::set(None, CapSet::Effective, &held)?;
    caps::set(None, CapSet::Permitted, &held)
}

/// Lets files be read and written in `state`, written in `synced`, and read where `needs` says so. Also keeps TCP ports
/// from being bound, but for port 53 where it is needed, connections from being made but to the ports that are needed, and
/// signals within this process.
fn confine_files(
    state: BorrowedFd<'_>,
    synced: Option<BorrowedFd<'_>>,
    Needs { profile, ports, readable, binds_names }: Needs<'_>,
) -> Result<RulesetStatus, RulesetError> {
    // Of later rights of Landlock, those to sockets in the file system would cut off the name services.
    let all = AccessFs::from_all(ABI::V5);
    let written = AccessFs::WriteFile | AccessFs::Truncate | AccessFs::MakeReg | AccessFs::RemoveFile;
    let in_state = written | AccessFs::ReadFile | AccessFs::ReadDir;
    let mut tcp: BitFlags<AccessNet> = AccessNet::BindTcp.into();
    let mut connects = ports.unwrap_or_default().to_vec();
    match profile {
        Profile::Accepts => connects.clear(),
        Profile::Connects => {}
        // Long answers of name servers come by TCP.
        Profile::Resolves => connects.push(NAMES),
    }
    if profile == Profile::Accepts || ports.is_some() {
        tcp |= AccessNet::ConnectTcp;
    } else {
        connects.clear();
    }
    let ruleset = Ruleset::default().handle_access(all)?.handle_access(tcp)?.scope(Scope::Signal)?;
    let synced = synced.map(|directory| Ok::<_, RulesetError>(PathBeneath::new(directory, written)));
    let confined = ruleset
        .create()?
        .add_rule(PathBeneath::new(state, in_state))?
        .add_rules(synced)?
        .add_rules(path_beneath_rules(of_profile(profile), AccessFs::ReadFile))?
        .add_rules(path_beneath_rules(readable, AccessFs::ReadFile))?
        .add_rules(
            connects.into_iter().map(|port| Ok::<_, RulesetError>(NetPort::new(port, AccessNet::ConnectTcp))),
        )?
        .add_rules(binds_names.then(|| Ok::<_, RulesetError>(NetPort::new(NAMES, AccessNet::BindTcp))))?
        .restrict_self()?;
    Ok(confined.ruleset)
}

/// Paths that are read outside of the state directory; missing ones are skipped.
fn of_profile(profile: Profile) -> Vec<PathBuf> {
    let mut paths = vec![PathBuf::from("/proc/sys/net")];
    if profile == Profile::Connects {
        // Name servers, to be asked about NAT64: the file alone, where others are beside it.
        let settings = link_target(Path::new("/etc/resolv.conf"));
        let directory = nearest_directory(&settings);
        paths.push(if directory == Path::new("/etc") { settings } else { directory });
    }
    if profile == Profile::Resolves {
        // Whole directories: a file that is replaced, as editors and DHCP clients do it, is a new one.
        const SETTINGS: [&str; 6] = [
            "/etc",
            "/run/systemd/resolve",
            "/run/NetworkManager",
            "/run/resolvconf",
            "/run/nscd",
            "/var/lib/sss",
        ];
        const MODULES: [&str; 5] = ["/usr", "/lib", "/lib64", "/nix/store", "/gnu/store"];
        paths.extend(SETTINGS.into_iter().chain(MODULES).map(PathBuf::from));
        paths.push(nearest_directory(&link_target(Path::new("/etc/resolv.conf"))));
    }
    paths
}

/// What a program has to be able to read so that it can read this file again after someone has replaced it: the
/// file's directory, and that of the file that it is a link to. Of a file right in `/etc` or `/`, itself alone.
pub fn directories_of(file: &Path) -> Vec<PathBuf> {
    let directory = |file: &Path| {
        let absolute = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
        let directory = absolute.parent().filter(|parent| *parent != Path::new("/etc"));
        directory.filter(|parent| parent.parent().is_some()).map_or(absolute.clone(), Path::to_owned)
    };
    [file.to_owned(), link_target(file)].map(|file| directory(&file)).to_vec()
}

/// The target of a chain of symbolic links, which need not exist.
fn link_target(path: &Path) -> PathBuf {
    let mut path = path.to_owned();
    // As many links as the kernel follows (path_resolution(7)).
    for _ in 0..40 {
        let Ok(target) = std::fs::read_link(&path) else { break };
        path = path.parent().unwrap_or(Path::new("/")).join(target);
    }
    path
}

/// The directory of a file, or its nearest existing ancestor: that of a service that was not started yet is missing.
/// Never the root.
fn nearest_directory(file: &Path) -> PathBuf {
    let there = file.ancestors().skip(1).find(|path| path.is_dir());
    there.filter(|path| path.parent().is_some()).unwrap_or(Path::new("/etc")).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_user_is_named() {
        let error = User::find("no.such-user").unwrap_err().to_string();
        assert!(error.contains("no user \"no.such-user\""), "{error}");
    }

    #[test]
    fn a_file_that_may_be_replaced_is_read_by_its_directory() {
        let read = |file: &str| directories_of(Path::new(file));
        let own = PathBuf::from("/etc/letsencrypt/live/hub");
        assert_eq!(read("/etc/letsencrypt/live/hub/privkey.pem"), [own.clone(), own]);
        let alone = PathBuf::from("/etc/hub.pem");
        assert_eq!(read("/etc/hub.pem"), [alone.clone(), alone]);
        assert!(read("hub.pem").iter().all(|directory| directory.is_absolute()));
    }

    #[test]
    fn a_missing_directory_is_replaced_by_the_one_above_but_never_by_the_root() {
        assert_eq!(nearest_directory(Path::new("/usr/no-such-service/resolv.conf")), Path::new("/usr"));
        assert_eq!(nearest_directory(Path::new("/no-such-service/resolv.conf")), Path::new("/etc"));
        assert_eq!(nearest_directory(Path::new("/etc/resolv.conf")), Path::new("/etc"));
    }
}
