//! Places for tests that measure time: more tests are started at once than there are processors, and those that would
//! disturb each other wait here.

use std::sync::{Condvar, Mutex, PoisonError};
use std::thread::available_parallelism;

/// How many are taken.
static TAKEN: Mutex<usize> = Mutex::new(0);
static GIVEN_BACK: Condvar = Condvar::new();

/// What a test holds while it measures; given back when dropped.
#[must_use]
pub(crate) struct Places(usize);

/// Waits for one of as many places as there are processors.
pub(crate) fn place() -> Places {
    take(1)
}

/// Waits for all places.
pub(crate) fn alone() -> Places {
    take(all())
}

fn all() -> usize {
    available_parallelism().map_or(1, usize::from)
}

fn take(count: usize) -> Places {
    let taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut taken =
        GIVEN_BACK.wait_while(taken, |taken| *taken + count > all()).unwrap_or_else(PoisonError::into_inner);
    *taken += count;
    Places(count)
}

impl Drop for Places {
    fn drop(&mut self) {
        *TAKEN.lock().unwrap_or_else(PoisonError::into_inner) -= self.0;
        GIVEN_BACK.notify_all();
    }
}
