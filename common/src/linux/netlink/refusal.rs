//! Why the kernel refused a request: its errno, its own words, and the fix where there is one. Pure.

#![warn(clippy::disallowed_methods, reason = "pure, though the module above it is not")]

use std::io::{self, ErrorKind};
use std::{error, fmt};

/// The kernel refused a request. One line, with the fix where there is one.
#[derive(Debug)]
pub struct Error {
    action: String,
    cause: io::Error,
    words: Option<String>,
}

impl Error {
    /// The kernel's errno; `None` where its answer was invalid.
    pub fn errno(&self) -> Option<i32> {
        self.cause.raw_os_error()
    }

    /// Whether an IPv6 request was refused because the machine or the interface has no IPv6.
    pub fn says_no_ipv6(&self) -> bool {
        self.words.as_deref() == Some(NO_IPV6)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}: {}", self.action, self.cause)?;
        match (&self.words, self.errno()) {
            (Some(words), _) => write!(f, ": {words}"),
            (None, Some(libc::EPERM)) => f.write_str(": run as root or give CAP_NET_ADMIN"),
            (None, _) => Ok(()),
        }
    }
}

impl error::Error for Error {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        Some(&self.cause)
    }
}

/// An [`Error`] that does not yet say what was wanted.
#[derive(Debug)]
pub(super) struct Refusal {
    cause: io::Error,
    words: Option<String>,
}

impl Refusal {
    /// Success for errno 0.
    pub(super) fn or_success(errno: i32, words: Option<String>) -> Result<(), Refusal> {
        match errno {
            0 => Ok(()),
            _ => Err(Refusal { cause: io::Error::from_raw_os_error(errno), words }),
        }
    }

    /// Whether the kernel answered this errno.
    pub(super) fn is(&self, errno: i32) -> bool {
        self.cause.raw_os_error() == Some(errno)
    }

    /// Whether an IPv6 address was refused because there is no IPv6: by sysctl (`EACCES`), by MTU (`EINVAL`
    /// without a word, `ENOBUFS` before Linux 5.19), or in the kernel.
    pub(super) fn says_no_ipv6(&self) -> bool {
        let errnos = [libc::EACCES, libc::EAFNOSUPPORT, libc::EOPNOTSUPP, libc::ENOBUFS];
        errnos.iter().any(|&errno| self.is(errno)) || (self.is(libc::EINVAL) && self.words.is_none())
    }

    /// The same with our own words.
    pub(super) fn because(self, words: &str) -> Refusal {
        Refusal { words: Some(words.to_owned()), ..self }
    }

    /// The whole error: what was wanted is "cannot ACTION".
    pub(super) fn to(self, action: impl Into<String>) -> Error {
        Error { action: action.into(), cause: self.cause, words: self.words }
    }
}

impl From<io::Error> for Refusal {
    fn from(cause: io::Error) -> Refusal {
        Refusal { cause, words: None }
    }
}

/// The fix for a missing IPv6.
pub(super) const NO_IPV6: &str = "this interface has no IPv6: its MTU is below 1280, or IPv6 is switched off, \
                       see `sysctl net.ipv6.conf.all.disable_ipv6 net.ipv6.conf.default.disable_ipv6`";

/// The kernel's answer breaks the format.
pub(super) fn malformed() -> Refusal {
    Refusal { cause: io::Error::new(ErrorKind::InvalidData, "the kernel's answer is malformed"), words: None }
}
