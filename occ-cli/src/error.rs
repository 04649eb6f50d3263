//! What went wrong, as an exit code, a sentence and the next command to type (`hint.rs`).
//!
//! The daemon's codes become exit codes here and nowhere else.

use occ_proto::error::{Code, Problem};
use occ_proto::text::sanitize;
use occ_proto::{HostName, KEY_VARIABLES};

use crate::hint::hint;

/// The operation failed.
pub(crate) const FAILED: u8 = 1;
/// The command line is wrong, or asks for something this version does not do.
pub(crate) const USAGE: u8 = 2;
/// The daemon cannot be reached, or may not be trusted.
pub(crate) const DAEMON: u8 = 3;
/// No such host.
pub(crate) const NOT_FOUND: u8 = 4;
/// The host could not be connected to, or refused the login. For `status -q`: not known.
pub(crate) const CONNECTION: u8 = 5;
/// The connection broke in the middle of a command.
pub(crate) const OUTCOME_UNKNOWN: u8 = 6;
/// A policy refused it.
pub(crate) const DENIED: u8 = 7;
/// Interrupted from the keyboard: 128 plus SIGINT, as shells count.
pub(crate) const INTERRUPTED: u8 = 130;
/// Ended by SIGQUIT.
pub(crate) const QUIT: u8 = 131;
/// Ended by SIGTERM.
pub(crate) const TERMINATED: u8 = 143;
/// Ended by SIGHUP.
pub(crate) const HUNG_UP: u8 = 129;
/// The reader of our output went away: 128 plus SIGPIPE.
pub(crate) const CLOSED_PIPE: u8 = 141;

/// The word for a daemon that cannot be reached, or goes before it answers.
pub(crate) const DAEMON_UNREACHABLE: &str = "daemon_unreachable";
/// The word for a daemon that does not run, where none may be started.
pub(crate) const ABSENT: &str = "daemon_not_running";
/// The word for an answer that `occ api` cannot pass on.
pub(crate) const BAD_ANSWER: &str = "bad_answer";
/// The word for another program in the daemon's place.
pub(crate) const NOT_OCCD: &str = "not_occd";
/// The word for a daemon of another API version.
pub(crate) const DAEMON_INCOMPATIBLE: &str = "daemon_incompatible";

/// A failure on its way to the terminal.
#[derive(Debug)]
pub(crate) struct CliError {
    /// The exit code.
    pub(crate) exit: u8,
    /// The stable word: the daemon's, or our own for what happens before the daemon is asked.
    pub(crate) code: String,
    /// One sentence, already safe for a terminal.
    pub(crate) message: String,
    /// The next command to type.
    pub(crate) hint: Option<String>,
    /// The daemon's document, when it came from there.
    pub(crate) problem: Option<Box<Problem>>,
    /// The daemon has gone, and has certainly not begun with what was asked.
    pub(crate) unread: bool,
    /// Why what listens on the daemon's socket gave no answer, where it did listen.
    pub(crate) unanswered: Option<Box<str>>,
}

impl CliError {
    fn new(exit: u8, code: &str, message: impl Into<String>) -> Self {
        Self {
            exit,
            code: code.to_owned(),
            message: message.into(),
            hint: None,
            problem: None,
            unread: false,
            unanswered: None,
        }
    }

    /// Returns an error for a failed operation.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::new(FAILED, "failed", message)
    }

    /// Returns an error for a wrong command line.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(USAGE, "usage", message)
    }

    /// Returns an error for something that this version does not do.
    pub(crate) fn unsupported(message: impl Into<String>) -> Self {
        Self::new(USAGE, "not_supported", message)
    }

    /// Returns an error for a daemon that cannot be reached or trusted.
    pub(crate) fn daemon(message: impl Into<String>) -> Self {
        Self::new(DAEMON, DAEMON_UNREACHABLE, message)
    }

    /// Returns an error for a daemon that does not run, where none may be started.
    pub(crate) fn absent(message: impl Into<String>) -> Self {
        Self::new(DAEMON, ABSENT, message)
    }

    /// Returns an error for another program in the daemon's place.
    pub(crate) fn not_occd(message: impl Into<String>) -> Self {
        Self::new(DAEMON, NOT_OCCD, message)
    }

    /// Returns an error for a daemon of another API version.
    pub(crate) fn incompatible(message: impl Into<String>) -> Self {
        Self::new(DAEMON, DAEMON_INCOMPATIBLE, message).hint("occ daemon restart")
    }

    /// Returns an error for a name that is not among the hosts.
    pub(crate) fn host_not_found(name: &HostName) -> Self {
        let mut problem = Problem::new(404, Code::HostNotFound, not_found(name.as_str()));
        problem.host = Some(name.clone());
        problem.into()
    }

    /// Returns an error for a command whose end nobody saw.
    pub(crate) fn outcome_unknown(message: impl Into<String>) -> Self {
        Self::new(OUTCOME_UNKNOWN, Code::OutcomeUnknown.as_str(), message)
    }

    /// Returns an error for a copy whose link broke.
    pub(crate) fn interrupted(message: impl Into<String>) -> Self {
        Self::new(CONNECTION, Code::FileInterrupted.as_str(), message)
    }

    /// Returns whether a request may be sent to the next daemon: one that was not read, or may be made again.
    pub(crate) fn may_ask_next(&self, repeatable: bool) -> bool {
        self.code == DAEMON_UNREACHABLE && (self.unread || repeatable)
    }

    /// Returns whether it is that of a daemon that is not there, and may be there again.
    pub(crate) fn is_away(&self) -> bool {
        let stays = [DAEMON_INCOMPATIBLE, NOT_OCCD].contains(&self.code.as_str());
        self.problem.is_none() && self.exit == DAEMON && !stays
    }

    /// Returns whether it is that of a copy whose link broke.
    pub(crate) fn is_interrupted(&self) -> bool {
        self.code == Code::FileInterrupted.as_str()
    }

    /// Returns the quiet end of a program whose reader went away.
    pub(crate) fn closed_pipe() -> Self {
        Self::new(CLOSED_PIPE, "closed_pipe", "")
    }

    /// Returns whether nothing is to be said.
    pub(crate) fn is_quiet(&self) -> bool {
        self.message.is_empty()
    }

    /// Returns the error with a hint.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Returns the error with something else that can be typed beside what its hint says.
    pub(crate) fn or_type(self, other: &str) -> Self {
        let hint = match &self.hint {
            Some(hint) => format!("{hint}; {other}"),
            None => other.to_owned(),
        };
        self.hint(hint)
    }

    /// Returns the daemon's code, when the error came from there.
    pub(crate) fn daemon_code(&self) -> Option<Code> {
        self.problem.as_ref().map(|problem| problem.code)
    }
}

impl From<Problem> for CliError {
    fn from(problem: Problem) -> Self {
        let host = problem.host.as_ref().map(|host| host.as_str().to_owned());
        if let Some(error) = bad_given_key(&problem) {
            return error;
        }
        let message = match (problem.code, &host) {
            (Code::HostNotFound, Some(host)) if !problem.detail.contains(" was removed") => {
                not_found(host)
            }
            (Code::HostExists, Some(host)) => format!(
                "Host '{host}' already exists. Use --force to overwrite, or choose a different name."
            ),
            _ if problem.detail.is_empty() => format!("{} ({})", problem.title, problem.code),
            _ => problem.detail.clone(),
        };
        Self {
            exit: exit_code(problem.code, problem.status),
            code: problem.code.as_str().to_owned(),
            message: sanitize(&message),
            hint: hint(
                problem.code,
                problem.hop.as_ref().map(HostName::as_str).or(host.as_deref()),
                &problem.detail,
            ),
            problem: Some(Box::new(problem)),
            unread: false,
            unanswered: None,
        }
    }
}

/// Returns the error for a key of the environment that is none, by the name of its variable.
fn bad_given_key(problem: &Problem) -> Option<CliError> {
    let (_, what) = problem.detail.strip_prefix("OCC_SSH_KEY, or ")?.split_once(", is ")?;
    let is_set = |name: &&str| std::env::var_os(name).is_some_and(|key| !key.is_empty());
    let name = KEY_VARIABLES.into_iter().find(is_set).unwrap_or(KEY_VARIABLES[0]);
    Some(CliError {
        exit: exit_code(problem.code, problem.status),
        code: problem.code.as_str().to_owned(),
        message: sanitize(&format!("{name} is {what}")),
        hint: Some(match problem.detail.contains("behind a passphrase") {
            true => format!(
                "unset {name} and name its file: occ host edit HOST -i KEYFILE, or -i KEYFILE with occ host add"
            ),
            false => format!("export {name}=$(base64 -w0 KEYFILE)"),
        }),
        problem: Some(Box::new(problem.clone())),
        unread: false,
        unanswered: None,
    })
}

/// Returns the exit code for the daemon's code; `status` decides for codes of a newer daemon.
pub(crate) fn exit_code(code: Code, status: u16) -> u8 {
    match code {
        Code::BadRequest => USAGE,
        Code::HostNotFound => NOT_FOUND,
        Code::HostUnreachable
        | Code::HostStopped
        | Code::AuthFailed
        | Code::AgentRefused
        | Code::AuthMethodNeeded
        | Code::LoginRefused
        | Code::NoIdentity
        | Code::IdentityInvalid
        | Code::KeyLocked
        | Code::InputNeeded
        | Code::IdentityTooOpen
        | Code::HostKeyChanged
        | Code::HostKeyRevoked
        | Code::HostCertificate
        | Code::HostKeyUnknown
        | Code::SshConfigInvalid
        | Code::KnownHostsInvalid
        | Code::NotSsh
        | Code::NoCommonAlgorithm
        | Code::SessionRefused
        | Code::FileInterrupted => CONNECTION,
        Code::OutcomeUnknown => OUTCOME_UNKNOWN,
        Code::PolicyDenied => DENIED,
        Code::CommandTooLong => USAGE,
        Code::ShuttingDown => DAEMON,
        Code::Unknown if status == 503 => CONNECTION,
        _ => FAILED,
    }
}

/// Returns the sentence for a name that is not among the hosts. Jump hosts that hosts.json does not name come and
/// go with the hosts behind them.
fn not_found(host: &str) -> String {
    if host.starts_with(HostName::VIA) {
        format!("The jump host '{host}' is not in use.")
    } else {
        format!("Host '{host}' not found.")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(code: Code, status: u16) -> CliError {
        let mut problem = Problem::new(status, code, "It \u{1b}[31mfailed.");
        problem.host = Some(HostName::new("x").unwrap());
        problem.into()
    }

    #[test]
    fn codes_become_exit_codes() {
        for (code, exit) in [
            (Code::HostNotFound, 4),
            (Code::AuthFailed, 5),
            (Code::HostUnreachable, 5),
            (Code::HostKeyChanged, 5),
            (Code::OutcomeUnknown, 6),
            (Code::ShuttingDown, 3),
            (Code::PolicyDenied, 7),
            (Code::DockerUnavailable, 1),
            (Code::HostExists, 1),
        ] {
            assert_eq!(of(code, 500).exit, exit, "{code}");
        }
        assert_eq!(of(Code::Unknown, 503).exit, 5);
    }

    #[test]
    fn a_servers_text_cannot_drive_the_terminal() {
        assert!(!of(Code::AuthFailed, 409).message.contains('\u{1b}'));
    }

    #[test]
    fn every_connection_problem_has_a_hint_that_names_the_host() {
        for code in Code::ALL {
            if exit_code(*code, 0) == CONNECTION {
                assert!(hint(*code, Some("web-07"), "").unwrap().contains("web-07"), "{code}");
            }
        }
    }
}
