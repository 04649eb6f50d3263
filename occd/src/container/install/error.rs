//! Why Docker is not installed.

use crate::container::DockerError;
use crate::exec::ExecError;
use crate::prompts::NoAnswer;

/// Why Docker is not installed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// How it is done there is not known.
    #[error("how Docker is installed on {os} is not known{}", .why.map(|why| format!(": {why}")).unwrap_or_default())]
    Unsupported {
        /// What the system calls itself.
        os: String,
        /// Why not, where there is more to say.
        why: Option<&'static str>,
    },
    /// The login cannot become root.
    #[error("{user} cannot become root there: {why}; run as root: {}", .commands.join("; "))]
    NoRoot {
        /// The login.
        user: String,
        /// Why not.
        why: String,
        /// What root would have to run.
        commands: Vec<String>,
    },
    /// It is not what was shown.
    #[error(
        "other commands would be run by now than those that were shown, and none was; show them again"
    )]
    PlanChanged,
    /// Nobody gave the password.
    #[error("the sudo password of {user} is needed")]
    NoPassword {
        /// The login.
        user: String,
        /// Why there is none.
        #[source]
        why: NoAnswer,
    },
    /// The host does not say what it is.
    #[error("the host cannot be looked at: {0}")]
    Look(String),
    /// A command was not started.
    #[error("`{command}` was not started")]
    NotStarted {
        /// The command.
        command: String,
        /// Why not.
        #[source]
        source: ExecError,
    },
    /// A command failed.
    #[error("`{command}` ended with {how}{}", .log.last().map(|line| format!("; it said last: {line}")).unwrap_or_default())]
    Failed {
        /// The command.
        command: String,
        /// Its exit code or signal.
        how: String,
        /// What it said last.
        log: Vec<String>,
    },
    /// Nobody knows how a command ended.
    #[error("how `{command}` ended is not known, and it can be run again without harm")]
    Unknown {
        /// The command.
        command: String,
        /// Why not.
        #[source]
        source: ExecError,
    },
    /// All commands were run, and Docker does not answer.
    #[error("every command went well, but Docker does not answer")]
    Silent(#[source] DockerError),
}

impl InstallError {
    /// Returns it for the log, without what commands have said.
    pub fn for_log(&self) -> String {
        match self {
            Self::NoRoot { user, .. } => format!("{user} cannot become root there"),
            Self::Look(_) => "the host cannot be looked at".to_owned(),
            Self::Failed { command, how, .. } => format!("`{command}` ended with {how}"),
            Self::Silent(error) => format!("{self}: {}", error.for_log()),
            error => error.to_string(),
        }
    }
}
