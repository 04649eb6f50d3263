//! What can go wrong with sessions.

use std::io;

use crate::exec::{BadCommand, ExecError};

/// Why something with a session did not work.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The host could not be asked.
    #[error("the host could not be asked")]
    Exec(#[source] ExecError),
    /// The link broke again and again.
    #[error("the link broke each time")]
    LinkLost,
    /// There is no such session. Has the names of those that there are.
    #[error("there is no session '{wanted}'{}", listed(.names))]
    NotFound {
        /// What was asked for.
        wanted: String,
        /// The names of all sessions.
        names: Vec<String>,
    },
    /// The host is not configured any more.
    #[error("the session's host '{0}' is not known any more")]
    NoHost(String),
    /// Another session has that name.
    #[error("there is a session '{0}' already")]
    Taken(String),
    /// The name is none.
    #[error("the session's name {0}")]
    BadName(&'static str),
    /// The command is none.
    #[error(transparent)]
    BadCommand(#[from] BadCommand),
    /// Its program runs.
    #[error("session '{0}' runs")]
    Running(String),
    /// Somebody else is at it.
    #[error("session '{0}' is being started, changed, ended or removed by somebody else")]
    Busy(String),
    /// Nothing is known of its program.
    #[error(
        "the session was lost: what may be left of its program can be ended, and is neither signalled nor written to"
    )]
    Lost,
    /// Its program has ended.
    #[error("the program of the session has ended")]
    Ended,
    /// Its program lives in spite of KILL.
    #[error("the program of the session did not end, even by KILL")]
    Immortal,
    /// The host has nothing of it any more.
    #[error("the host keeps nothing of the session any more, and its program may run on")]
    Gone,
    /// The host could not start it.
    #[error("the session could not be started: {0}")]
    NotStarted(String),
    /// The same, since the host's disk is full.
    #[error("the session could not be started: {0}")]
    NoRoom(String),
    /// The host does not show its sessions.
    #[error("the host's sessions cannot be listed: {0}")]
    Unlisted(String),
    /// Variables whose values are kept nowhere.
    #[error("the values of {} are kept nowhere and have to be given again", .0.join(", "))]
    NoValues(Vec<String>),
    /// No such signal.
    #[error("there is no signal '{0}'")]
    NoSignal(String),
    /// Bytes before the given ones are missing.
    #[error("the input ends at {end}: what comes before the given bytes is missing")]
    Hole {
        /// Where the known input ends.
        end: u64,
    },
    /// The end of the input came before.
    #[error("the input was ended before, at {end}")]
    Closed {
        /// Where it ended.
        end: u64,
    },
    /// The host's disk did not take the input.
    #[error("the host could not keep all of the input: its disk may be full")]
    Unwritten,
    /// The host answered with something else.
    #[error("the host gave no answer that is understood: {0:?}")]
    Garbled(String),
    /// The list of sessions could not be written.
    #[error("the list of sessions could not be written")]
    Store(#[source] io::Error),
}

fn listed(names: &[String]) -> String {
    if names.is_empty() {
        "; there is none".to_owned()
    } else {
        format!("; there is {}", names.join(", "))
    }
}
