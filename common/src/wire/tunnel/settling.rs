//! Questions about what the other end has handled: pings of their own. Pure.

/// Set in the tokens of pings that are no sign of life, but tell what the other end has handled.
pub(super) const SETTLE: u64 = 1 << 63;

/// Questions to the other end about what it has handled.
#[derive(Default)]
pub(super) struct Settling {
    /// The number of the last one.
    sent: u64,
    /// That of the last one that was answered.
    answered: u64,
}

impl Settling {
    /// The token of the next question.
    pub(super) fn ask(&mut self) -> u64 {
        self.sent += 1;
        self.sent | SETTLE
    }

    /// The number that it will have.
    pub(super) fn next(&self) -> u64 {
        self.sent + 1
    }

    pub(super) fn answered(&self) -> u64 {
        self.answered
    }

    pub(super) fn answer(&mut self, token: u64) {
        self.answered = self.answered.max((token & !SETTLE).min(self.sent));
    }
}
