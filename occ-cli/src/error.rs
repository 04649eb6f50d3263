//! What went wrong, as an exit code, a sentence and the next command to type.
//!
//! The daemon's codes become exit codes and hints here and nowhere else.

use occ_proto::error::{Code, Problem};
use occ_proto::host::HostConfig;
use occ_proto::text::sanitize;
use occ_proto::{HostName, UserName};

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
}

impl CliError {
    fn new(exit: u8, code: &str, message: impl Into<String>) -> Self {
        Self { exit, code: code.to_owned(), message: message.into(), hint: None, problem: None }
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
        Self::new(DAEMON, "daemon_unreachable", message)
    }

    /// Returns an error for a daemon of another API version.
    pub(crate) fn incompatible(message: impl Into<String>) -> Self {
        Self::new(DAEMON, "daemon_incompatible", message).hint("occ daemon stop; occ daemon start")
    }

    /// Returns an error for a name that is not among the hosts.
    pub(crate) fn host_not_found(name: &HostName) -> Self {
        let error = Self::new(NOT_FOUND, Code::HostNotFound.as_str(), not_found(name.as_str()));
        Self { hint: hint(Code::HostNotFound, Some(name.as_str())), ..error }
    }

    /// Returns an error for a command whose end nobody saw.
    pub(crate) fn outcome_unknown(message: impl Into<String>) -> Self {
        Self::new(OUTCOME_UNKNOWN, Code::OutcomeUnknown.as_str(), message)
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

    /// Returns the daemon's code, when the error came from there.
    pub(crate) fn daemon_code(&self) -> Option<Code> {
        self.problem.as_ref().map(|problem| problem.code)
    }
}

impl From<Problem> for CliError {
    fn from(problem: Problem) -> Self {
        let host = problem.host.as_ref().map(|host| host.as_str().to_owned());
        let message = match (problem.code, &host) {
            (Code::HostNotFound, Some(host)) => not_found(host),
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
            ),
            problem: Some(Box::new(problem)),
        }
    }
}

/// Returns the exit code for the daemon's code; `status` decides for codes of a newer daemon.
fn exit_code(code: Code, status: u16) -> u8 {
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
        | Code::SessionRefused => CONNECTION,
        Code::OutcomeUnknown => OUTCOME_UNKNOWN,
        Code::CommandTooLong => USAGE,
        Code::ShuttingDown => DAEMON,
        Code::Unknown if status == 503 => CONNECTION,
        _ => FAILED,
    }
}

/// Returns what to type next, for the daemon's code. `host` is absent where no host is concerned.
pub(crate) fn hint(code: Code, host: Option<&str>) -> Option<String> {
    let h = host.unwrap_or("HOST");
    Some(match code {
        Code::HostNotFound if h.starts_with(HostName::VIA) => {
            "occ status --all shows the jump hosts in use".to_owned()
        }
        Code::HostNotFound => "occ host list shows the available hosts".to_owned(),
        Code::HostBusy => format!("occ host remove {h} -f ends its work"),
        Code::EditConflict => format!("occ host show {h}, then edit again"),
        Code::HostsFileInvalid => {
            "mend hosts.json by hand; hosts.json.bak, if there is one, is how it was before occ changed it last".to_owned()
        }
        Code::HostsFileWrite => {
            "look at the permissions and the free space of hosts.json's directory".to_owned()
        }
        Code::ConfigInvalid => "mend that file, then occ daemon stop; occ daemon start".to_owned(),
        Code::HostUnreachable | Code::NotSsh => format!("occ host test {h} shows where it stops"),
        Code::NoCommonAlgorithm => format!(
            "Ciphers, MACs, KexAlgorithms and HostKeyAlgorithms of ssh_config choose what is offered; occ host show {h}"
        ),
        Code::HostStopped => format!("occ connect --host {h}"),
        Code::AuthFailed => {
            format!("ssh-copy-id to {h}'s user and address; then occ reconnect --host {h}")
        }
        Code::AgentRefused => format!(
            "confirm or touch the key when the agent asks: occ connect --host {h}; ssh-add -l shows what it holds"
        ),
        Code::AuthMethodNeeded => format!(
            "mend auth for {h} in occd.toml, or passwords under [security]; then occ connect --host {h}"
        ),
        Code::LoginRefused => format!("occ connect --host {h} asks again"),
        Code::NoIdentity => format!(
            "ssh-add KEY puts a key into your agent, or occ host edit {h} -i KEY names a file; \
             then occ reconnect --host {h}"
        ),
        Code::KeyLocked => format!("occ unlock --host {h} asks for the passphrase"),
        Code::InputNeeded => {
            format!("on a terminal: occ connect --host {h} asks; occ prompts shows what is asked")
        }
        Code::PromptNotFound => "occ prompts shows what is asked".to_owned(),
        Code::IdentityTooOpen => {
            format!("make that file yours alone (chown, chmod 600){}", then_reconnect(host))
        }
        Code::IdentityInvalid => {
            match host {
                Some(h) => format!("ssh-keygen -y -f KEY checks a key; occ host edit {h} -i KEY names another"),
                None => "ssh-keygen -y -f KEY checks a key".to_owned(),
            }
        }
        Code::HostKeyRevoked => format!(
            "somebody has marked that key: ask the server's owner for another; then occ reconnect --host {h}"
        ),
        Code::HostCertificate => format!(
            "ask the server's owner for a certificate that is good; then occ reconnect --host {h}"
        ),
        Code::HostKeyChanged | Code::HostKeyUnknown => format!(
            "ask the server's owner which key is right; occ trust --host {h} shows it and records it"
        ),
        Code::KnownHostsInvalid => format!(
            "look at that file and its directory (owner, mode, the line); then occ reconnect --host {h}"
        ),
        Code::SshConfigInvalid => format!("ssh -G ADDRESS shows what applies; occ host show {h}"),
        Code::SessionRefused => {
            format!("see MaxSessions in the server's sshd_config; occ status -v --host {h}")
        }
        Code::OutcomeUnknown => format!("look on {h} before running it again"),
        Code::CommandTooLong => "give it the rest as input, or in a file on the host".to_owned(),
        Code::OutputOverflow => "write it to a file on the host, or read it faster".to_owned(),
        Code::DockerUnavailable => format!("occ host test {h} shows what was tried"),
        Code::DockerPermission => {
            format!("on {h}: sudo usermod -aG docker USER; then occ reconnect --host {h}")
        }
        Code::ShuttingDown => "occ daemon start".to_owned(),
        Code::Internal => "occ daemon status names the daemon; its log is occd.log".to_owned(),
        _ => return None,
    })
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

/// Returns what comes after the cure.
fn then_reconnect(host: Option<&str>) -> String {
    host.map_or_else(String::new, |host| format!("; then occ reconnect --host {host}"))
}

/// Returns the hint for a host whose configuration is known: the placeholders of [`hint`] filled. `user` is the
/// login in use, where there is a connection.
pub(crate) fn hint_for(
    code: Code,
    host: &HostName,
    config: &HostConfig,
    user: Option<&str>,
) -> Option<String> {
    let address = config.hostname.as_str();
    let user = user.or(config.user.as_ref().map(UserName::as_str)).map(sanitize);
    match code {
        // ssh does not know the names of our jump hosts.
        Code::AuthFailed if config.jump_host.is_some() => {
            let user = user.as_deref().unwrap_or("the user");
            Some(format!(
                "put your public key into ~/.ssh/authorized_keys of {user} there; then occ reconnect --host {host}"
            ))
        }
        Code::AuthFailed => {
            let login = user.map_or_else(|| address.to_owned(), |user| format!("{user}@{address}"));
            let port = config.port.filter(|port| *port != 22);
            let port = port.map_or_else(String::new, |port| format!("-p {port} "));
            let key = config.identity_file.as_deref().map(shell_word);
            let key = key.map_or_else(String::new, |key| format!("-i {key} "));
            Some(format!("ssh-copy-id {key}{port}{login}; then occ reconnect --host {host}"))
        }
        Code::SshConfigInvalid => {
            Some(format!("ssh -G {address} shows what applies; occ host show {host}"))
        }
        Code::DockerPermission => Some(format!(
            "on {host}: sudo usermod -aG docker {}; then occ reconnect --host {host}",
            user.as_deref().unwrap_or("USER")
        )),
        _ => hint(code, Some(host.as_str())),
    }
}

/// Returns a path as it is typed in a shell. A tilde at its start stays for the shell.
fn shell_word(path: &str) -> String {
    let path = sanitize(path);
    let plain = |c: char| c.is_alphanumeric() || "/._-+@%~".contains(c);
    if path.chars().all(plain) {
        return path;
    }
    let (home, rest) = path.strip_prefix("~/").map_or(("", path.as_str()), |rest| ("~/", rest));
    format!("{home}'{}'", rest.replace('\'', "'\\''"))
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
                assert!(hint(*code, Some("web-07")).unwrap().contains("web-07"), "{code}");
            }
        }
    }

    #[test]
    fn hints_know_the_address() {
        let mut config: HostConfig = serde_json::from_value(serde_json::json!({
            "hostname": "192.0.2.1", "user": "deploy", "port": 2222
        }))
        .unwrap();
        let host = HostName::new("p").unwrap();
        assert_eq!(
            hint_for(Code::AuthFailed, &host, &config, None).unwrap(),
            "ssh-copy-id -p 2222 deploy@192.0.2.1; then occ reconnect --host p"
        );
        config.identity_file = Some("~/.ssh/my key".into());
        assert_eq!(
            hint_for(Code::AuthFailed, &host, &config, Some("root")).unwrap(),
            "ssh-copy-id -i ~/'.ssh/my key' -p 2222 root@192.0.2.1; then occ reconnect --host p"
        );
        let hint = hint_for(Code::HostKeyChanged, &host, &config, None).unwrap();
        assert!(hint.contains("occ trust --host p"), "{hint}");
    }
}
