//! Sandbox profiles: what a program still does once it is confined. Pure.

#![warn(clippy::disallowed_methods, reason = "pure, though the module above it is not")]

use std::path::PathBuf;

/// The outgoing connections that a program makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Profile {
    /// It accepts connections and makes none.
    Accepts,
    /// It connects to addresses.
    Connects,
    /// It also looks names up: libc reads the system's settings for that and may load modules.
    Resolves,
}

/// What a program still needs once it is confined.
#[derive(Clone, Copy, Debug)]
pub struct Needs<'a> {
    /// The connections that it makes.
    pub profile: Profile,
    /// The TCP ports that it connects to, if not to any.
    pub ports: Option<&'a [u16]>,
    /// Files and directories that it reads, beside those of the profile.
    pub readable: &'a [PathBuf],
    /// Whether it listens on port 53, at addresses that are not known yet.
    pub binds_names: bool,
}

impl From<Profile> for Needs<'_> {
    fn from(profile: Profile) -> Self {
        Needs { profile, ports: None, readable: &[], binds_names: false }
    }
}
