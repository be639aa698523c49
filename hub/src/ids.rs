//! Ids: small numbers that mean one thing each, and cannot be taken for one another. Pure.

/// A link, from the connection to its end. The number is used again once the link is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(usize);

/// A member's place in the list; it may be given to another once the member is forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MemberId(usize);

/// What was asked for through the control socket, or by a signal, and is not answered yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

impl SessionId {
    /// The session of this place in a table.
    pub const fn new(index: usize) -> SessionId {
        SessionId(index)
    }

    /// Its place in a table.
    pub const fn index(self) -> usize {
        self.0
    }
}

impl MemberId {
    /// The member of this place in a table.
    pub const fn new(index: usize) -> MemberId {
        MemberId(index)
    }

    /// Its place in a table.
    pub const fn index(self) -> usize {
        self.0
    }
}
