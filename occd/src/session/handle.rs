//! One session as one client works with it.

use std::sync::Arc;

use bytes::Bytes;
use occ_proto::session::{Session, SessionState};
use tokio::sync::{OwnedMutexGuard, mpsc, watch};

use super::error::SessionError;
use super::follow::{Event, Follow};
use super::input::Line;
use super::remote::{Remote, Signalled};
use super::store::Record;
use super::{Forwarded, Run, Sessions};
use crate::host::Tries;
use crate::ssh::signal;

/// Where to begin in a session's output: an offset, `kept:N` for that or the first byte that is kept, `end`, `lines:N`, or `-`
/// for not at all; and whether to go on with what comes.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) on: bool,
}

/// A session as one client works with it.
#[derive(Debug, Clone)]
pub(crate) struct Handle {
    pub(super) record: Record,
    pub(super) remote: Remote,
    pub(super) line: Arc<Line>,
    pub(super) forwarded: watch::Sender<Vec<Forwarded>>,
}

impl Handle {
    /// Returns the session as its host knows it at this moment.
    pub(crate) async fn look(&mut self, sessions: &Sessions) -> Result<Session, SessionError> {
        let was_starting = sessions.is_starting(&self.record.info.id);
        let told = self.remote.look(&self.record.info.id).await?;
        // It may have been asked before it had begun.
        if was_starting {
            return Ok(self.record.session());
        }
        let session = self.record.learn(told.as_ref());
        sessions.note(&self.run(), self.record.state, self.record.exit);
        Ok(session)
    }

    /// Returns it for a client that waits for a host that is down, or does not.
    pub(crate) fn with_patience(mut self, tries: Tries) -> Self {
        self.remote.tries = tries;
        self
    }

    /// Returns the session as it was known last.
    pub(crate) fn known(&self) -> Session {
        self.record.session()
    }

    /// Returns which run of it this is.
    pub(crate) fn run(&self) -> Run {
        self.record.run()
    }

    /// Returns where the last client that was attached stopped, in standard output and standard error.
    pub(crate) fn read_so_far(&self) -> [u64; 2] {
        self.record.read
    }

    /// Tells who is attached of a port that was forwarded.
    pub(crate) fn tell(&self, forwarded: Forwarded) {
        self.forwarded.send_modify(|all| all.push(forwarded));
    }

    /// Returns the ports that were forwarded, and comes to know of more.
    pub(crate) fn forwarded(&self) -> watch::Receiver<Vec<Forwarded>> {
        self.forwarded.subscribe()
    }

    /// Follows its output.
    pub(crate) fn follow(&self, sessions: &Sessions, from: Wanted) -> mpsc::Receiver<Event> {
        let follow = Follow {
            remote: self.remote.clone(),
            id: self.record.info.id.clone(),
            stdout: from.stdout,
            stderr: from.stderr,
            on: from.on,
            retries: self.record.info.retries,
        };
        follow.spawn(&sessions.tasks, &sessions.stop)
    }

    /// Adds input, in pieces of [`PIECE`] at most, and returns where it ends then: at an offset, where what is known of it is
    /// dropped, or else at the end; `patient` as long as the host is down.
    pub(crate) async fn add(
        &self,
        at: Option<u64>,
        data: Bytes,
        last: bool,
        patient: bool,
    ) -> Result<u64, SessionError> {
        self.line.add(&self.remote, &self.record.info.id, at, data, last, patient).await
    }

    /// Signals the program and what it has started; without a name ends it: TERM, then KILL.
    pub(crate) async fn signal(
        &self,
        sessions: &Sessions,
        name: Option<&str>,
    ) -> Result<(), SessionError> {
        let Some(name) = name else {
            let _turn = self.turn(sessions).await?;
            return self.end(sessions).await;
        };
        if signal::parse(name).is_none() {
            return Err(SessionError::NoSignal(name.to_owned()));
        }
        match self.remote.signal(&self.record.info.id, Some(name)).await? {
            Signalled::Sent => Ok(()),
            Signalled::Alive => Err(SessionError::Immortal),
            Signalled::Gone => Err(SessionError::Gone),
            Signalled::Over(state, exit) => {
                sessions.note(&self.run(), state, exit);
                let is_lost = state == SessionState::Lost;
                Err(if is_lost { SessionError::Lost } else { SessionError::Ended })
            }
        }
    }

    /// Waits until nobody else acts on it, and it is where it was.
    async fn turn(&self, sessions: &Sessions) -> Result<OwnedMutexGuard<()>, SessionError> {
        let turn = sessions.turn(&self.record.info.id).await?;
        match sessions.host_of(&self.record.info.id)?.1 == self.record.host {
            true => Ok(turn),
            false => Err(SessionError::Busy(self.record.info.name.clone())),
        }
    }

    /// Ends its program and what that has started, also what is left of it where the host knows nothing of it any more.
    async fn end(&self, sessions: &Sessions) -> Result<(), SessionError> {
        let (state, exit) = match self.remote.signal(&self.record.info.id, None).await? {
            Signalled::Sent => return Ok(()),
            Signalled::Alive => return Err(SessionError::Immortal),
            Signalled::Gone => (SessionState::Gone, self.record.exit),
            Signalled::Over(state, exit) => (state, exit),
        };
        sessions.note(&self.run(), state, exit);
        Ok(())
    }

    /// Removes it, there and here. One that runs is ended first if `force`, and so is what one has left behind that was lost.
    pub(crate) async fn remove(
        &self,
        sessions: &Sessions,
        force: bool,
    ) -> Result<(), SessionError> {
        let id = &self.record.info.id;
        let _turn = self.turn(sessions).await?;
        let is_lost = async || {
            let told = self.remote.look(id).await?.map_or(SessionState::Gone, |told| told.state);
            Ok::<_, SessionError>(matches!(told, SessionState::Lost | SessionState::Gone))
        };
        if force || is_lost().await? {
            self.end(sessions).await?;
        }
        if !self.remote.remove(id, None).await? {
            return Err(SessionError::Running(self.record.info.name.clone()));
        }
        sessions.forget(id)
    }
}
