//! How many sessions a server grants at once (MaxSessions), learned from its refusals.
//!
//! A refused request is not free: russh keeps a record of each for the life of the connection. So once a
//! server has refused, no more sessions are asked for than it has granted at once before.
//!
//! Dropbear before 2024.86 gets one session at a time: whenever a program ends there, it closes all sessions
//! on which none runs yet, and a command that is already on its way to one of them runs all the same, without
//! an answer. It could be taken for one that did not run, and run twice.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long a call waits for a session to become free before another connection is asked for: commands
/// that last a moment make room by themselves.
pub(super) const CROWDED: Duration = Duration::from_secs(1);
/// A server counts a session a moment longer than we do: OpenSSH until its next round of the main loop.
pub(super) const LINGERING: Duration = Duration::from_millis(10);

/// The most sessions of a connection that streams may have: OpenSSH grants ten by default, and commands need some.
const STREAMS: u32 = 8;

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
    /// No session may be opened beside another.
    single: bool,
    /// How many of them carry a stream, see [`Sessions::begin_stream`].
    streams: u32,
    /// How many more carry one that stands by.
    standing_by: u32,
    /// The most that were open at once on a connection before this one, where the server had refused one more.
    known: Option<u32>,
}

impl Books {
    /// Returns the most that were granted at once, where the server has refused one more. A connection before this one
    /// may have learned too little: a server counts a session a moment longer than we do.
    fn granted(&self) -> Option<u32> {
        let most = self.most.max(1);
        if self.full { Some(most) } else { self.known.map(|known| known.max(most)) }
    }

    /// Returns how many carry a stream that stands by, or one that does not.
    fn streams_that(&mut self, stands_by: bool) -> &mut u32 {
        if stands_by { &mut self.standing_by } else { &mut self.streams }
    }
}

/// The place of a stream among the sessions, until dropped.
#[derive(Debug)]
pub(super) struct StreamPlace {
    connection: Arc<super::connection::Connection>,
    stands_by: bool,
}

impl Drop for StreamPlace {
    fn drop(&mut self) {
        self.connection.stream_ended(self.stands_by);
    }
}

impl StreamPlace {
    /// Returns one that [`Sessions::begin_stream`] allowed.
    pub(super) fn new(connection: &Arc<super::connection::Connection>, stands_by: bool) -> Self {
        Self { connection: Arc::clone(connection), stands_by }
    }
}

impl Sessions {
    /// Returns the books for a server by its identification, such as `OpenSSH_9.2p1`; `known` is what it
    /// granted a connection before.
    pub(super) fn of(server: &str, known: Option<u32>) -> Self {
        let single = closes_unused_sessions(server);
        Self(Mutex::new(Books { single, known, ..Books::default() }))
    }

    /// Returns whether sessions may only be opened when no other is there.
    pub(super) fn is_single(&self) -> bool {
        self.lock().single
    }

    fn lock(&self) -> MutexGuard<'_, Books> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether a session may be asked for, and then counts it as being opened. `beyond` asks for
    /// one more than there ever were.
    pub(super) fn begin(&self, beyond: bool) -> bool {
        let mut books = self.lock();
        let taken = books.open + books.opening;
        let free = match books.single {
            true => taken == 0,
            false => !books.full || taken < books.most.max(1) + u32::from(beyond),
        };
        books.opening += u32::from(free);
        free
    }

    /// Returns whether a session may be asked for that carries a stream, which may last for ever, and then
    /// counts it. One session is left for commands, where the server grants more than one. What stands by takes no
    /// place from the others: who waits for a session has it leave.
    pub(super) fn begin_stream(&self, stands_by: bool) -> bool {
        let mut books = self.lock();
        let granted = books.granted();
        let share = granted.map_or(STREAMS, |granted| granted.saturating_sub(1).clamp(1, STREAMS));
        let taken = books.streams + if stands_by { books.standing_by } else { 0 };
        let free = taken < share;
        *books.streams_that(stands_by) += u32::from(free);
        free
    }

    /// A session that carried a stream has ended.
    pub(super) fn stream_ended(&self, stands_by: bool) {
        *self.lock().streams_that(stands_by) -= 1;
    }

    /// Returns the most that were granted at once, where the server has refused one more.
    pub(super) fn granted_at_most(&self) -> Option<u32> {
        self.lock().granted()
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

/// Returns whether a server is Dropbear before 2024.86, or one that does not tell its version.
fn closes_unused_sessions(server: &str) -> bool {
    let Some(version) = server.strip_prefix("dropbear") else { return false };
    let version = version.trim_start_matches('_').split_once('.');
    let fixed = version.and_then(|(year, release)| {
        let release = release.split(|c: char| !c.is_ascii_digit()).next()?;
        Some((year.parse::<u32>().ok()?, release.parse::<u32>().ok()?) >= (2024, 86))
    });
    fixed != Some(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_dropbears_get_one_session_at_a_time() {
        for old in ["dropbear", "dropbear_2022.83", "dropbear_2019.78-1"] {
            assert!(closes_unused_sessions(old), "{old}");
        }
        for good in ["dropbear_2024.86", "dropbear_2025.87-2", "OpenSSH_9.2p1", ""] {
            assert!(!closes_unused_sessions(good), "{good}");
        }
        let sessions = Sessions::of("dropbear_2022.83", None);
        assert!(sessions.begin(false) && !sessions.begin(true));
        sessions.granted();
        assert!(!sessions.begin(true) && !sessions.is_full());
        sessions.ended();
        assert!(sessions.begin(false));
    }

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
    fn streams_leave_a_session_to_commands() {
        let sessions = Sessions::default();
        assert!((0..STREAMS).all(|_| sessions.begin_stream(false)));
        assert!(!sessions.begin_stream(false));
        sessions.stream_ended(false);
        assert!(sessions.begin_stream(false));
        // What stands by is no hindrance, and comes last itself.
        let sessions = Sessions::default();
        assert!(sessions.begin_stream(true));
        assert!((0..STREAMS).all(|_| sessions.begin_stream(false)));
        assert!(!sessions.begin_stream(false) && !sessions.begin_stream(true));
        sessions.stream_ended(true);
        sessions.stream_ended(false);
        assert!(sessions.begin_stream(true) && !sessions.begin_stream(true));
        // What a connection before has found out.
        for (granted, share) in [(1, 1), (2, 1), (4, 3), (100, STREAMS)] {
            let sessions = Sessions::of("OpenSSH_9.2p1", Some(granted));
            assert_eq!((0..100).filter(|_| sessions.begin_stream(false)).count(), share as usize);
            assert_eq!(sessions.granted_at_most(), Some(granted));
        }
        // It had learned too little.
        let sessions = Sessions::of("OpenSSH_9.2p1", Some(1));
        assert!((0..3).all(|_| sessions.begin(false)));
        (0..3).for_each(|_| sessions.granted());
        assert!(
            sessions.begin_stream(false)
                && sessions.begin_stream(false)
                && !sessions.begin_stream(false)
        );
        assert_eq!(sessions.granted_at_most(), Some(3));
        let sessions = Sessions::default();
        assert!((0..3).all(|_| sessions.begin(false)));
        sessions.granted();
        sessions.granted();
        sessions.refused();
        assert!(sessions.begin_stream(false) && !sessions.begin_stream(false));
        assert_eq!(sessions.granted_at_most(), Some(2));
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
