//! Sandbox profiles: what a program still does once it is confined. Pure.

#![warn(clippy::disallowed_methods, reason = "pure, though the module above it is not")]

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
