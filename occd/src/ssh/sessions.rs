//! How many sessions a server grants at once (MaxSessions), learned from its refusals.
//!
//! A refused request is not free: russh keeps a record of each for the life of the connection. So once a
//! server has refused, no more sessions are asked for than it has granted at once before.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long a call waits for a session to become free before another connection is asked for: commands
/// that last a moment make room by themselves.
pub(super) const CROWDED: Duration = Duration::from_secs(1);
/// A server counts a session a moment longer than we do: OpenSSH until its next round of the main loop.
pub(super) const LINGERING: Duration = Duration::from_millis(10);

/// The books of one connection. All that is not open, being opened or refused has ended.
#[derive(Debug, Default)]
pub(super) struct Sessions(Mutex<Books>);

#[derive(Debug, Default)]
struct Books {
    open: u32,
    opening: u32,
    /// The most that were open at once.
    most: u32,
    /// The server has refused one.
    full: bool,
}

impl Sessions {
    fn lock(&self) -> MutexGuard<'_, Books> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether a session may be asked for, and then counts it as being opened. `beyond` asks for
    /// one more than there ever were.
    pub(super) fn begin(&self, beyond: bool) -> bool {
        let mut books = self.lock();
        let taken = books.open + books.opening;
        let free = !books.full || taken < books.most + u32::from(beyond);
        books.opening += u32::from(free);
        free
    }

    /// One that was being opened is open.
    pub(super) fn granted(&self) {
        let mut books = self.lock();
        books.opening -= 1;
        books.open += 1;
        books.most = books.most.max(books.open);
    }

    /// One that was being opened is not, for another reason than a refusal.
    pub(super) fn failed(&self) {
        self.lock().opening -= 1;
    }

    /// One that was being opened was refused.
    pub(super) fn refused(&self) {
        let mut books = self.lock();
        books.opening -= 1;
        books.full = true;
    }

    /// One that was open has ended.
    pub(super) fn ended(&self) {
        self.lock().open -= 1;
    }

    /// Returns whether the server has refused a session.
    pub(super) fn is_full(&self) -> bool {
        self.lock().full
    }

    /// Returns how long to wait after a refusal for a session to become free; `None` when there is nothing
    /// to wait for. OpenSSH answers alike for "MaxSessions is reached" and for "never": where a session
    /// was granted before, it is the former.
    pub(super) fn patience(&self) -> Option<Duration> {
        let books = self.lock();
        match (books.most, books.open + books.opening) {
            (0, 0) => None,
            (most, taken) if most > 0 && taken >= most => Some(CROWDED),
            _ => Some(LINGERING),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_refusal_no_more_are_asked_for_than_were_granted() {
        let sessions = Sessions::default();
        assert!((0..4).all(|_| sessions.begin(false)));
        sessions.granted();
        sessions.refused();
        sessions.granted();
        sessions.refused();
        assert_eq!(sessions.patience(), Some(CROWDED));
        assert!(!sessions.begin(false));
        // Now and then it is tried whether there are more by now, by one caller at a time.
        assert!(sessions.begin(true) && !sessions.begin(true));
        sessions.refused();
        sessions.ended();
        assert!(sessions.begin(false) && !sessions.begin(false));
        sessions.refused();
        assert_eq!(sessions.patience(), Some(LINGERING));
    }

    #[test]
    fn a_server_that_never_granted_one_is_not_waited_for() {
        let sessions = Sessions::default();
        assert!(sessions.begin(false) && sessions.begin(false));
        sessions.refused();
        // The other one may still be granted.
        assert_eq!(sessions.patience(), Some(LINGERING));
        sessions.failed();
        assert_eq!(sessions.patience(), None);
    }
}
