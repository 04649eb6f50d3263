//! Why a command did not run, or why its end is not known.

use std::time::Duration;

use crate::host::Unreachable;
use crate::ssh::error::tenths;
use crate::ssh::{ChannelError, ExitReport, LossCause};

/// Why a command did not run, or why its end is not known.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// No connection. The command was not started.
    #[error("no connection to the host")]
    Unreachable(Unreachable),
    /// No channel. The command was not started.
    #[error("no session on the host")]
    NoSession(#[source] ChannelError),
    /// The host did not say in time which shell it has. The command was not started.
    #[error("the host did not say within {} s which shell it has", tenths(*.0).max(0.1))]
    NoShell(Duration),
    /// The command is longer than a server reads, which would end the connection for all who use it.
    #[error("the command is {length} bytes long, and the server takes {limit} at most")]
    TooLong {
        /// Bytes of the line that the login shell would get.
        length: usize,
        /// The most.
        limit: usize,
    },
    /// The server refused the request. The command was not started.
    #[error("the server refused to run the command")]
    Refused,
    /// The server closed the channel before it answered, twice. The command was not started.
    #[error("the server closed the session before it started the command")]
    NotStarted,
    /// The link broke while the command may have been running.
    #[error("the link broke {:.1} s into the command; it may still run or have finished", .after.as_secs_f32())]
    LinkLost {
        /// How long after the start.
        after: Duration,
        /// Why.
        #[source]
        cause: LossCause,
    },
    /// The program ended, and the link broke before the end of its output had come: what was received may
    /// lack its last part, so this is no success whatever the program's status.
    #[error("the command ended with {exit}, but the link broke before all of its output had come")]
    OutputCut {
        /// How the program ended.
        exit: ExitReport,
        /// Why the link broke.
        #[source]
        cause: LossCause,
    },
    /// The server ended the session without saying how the program ended.
    #[error("the server ended the session without saying how the command ended")]
    NoExit,
    /// The server did not answer the request.
    #[error("the server did not say within {} s whether it started the command", tenths(*.after).max(0.1))]
    NoAnswer {
        /// How long it had.
        after: Duration,
    },
    /// The output was not read and became too much to keep.
    #[error(
        "the output was not read and passed the limit: what was not read is lost, the command was ended"
    )]
    Overflow,
    /// This machine could not start it.
    #[error("it could not be started")]
    Spawn(#[source] std::io::Error),
    /// The server gives no terminals (`PermitTTY no`).
    #[error("the server gives no terminal")]
    NoTerminal,
    /// The output could not be kept.
    #[error("the output was not read and could not be kept on disk: {0}")]
    Spill(String),
}
