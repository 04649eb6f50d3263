//! Errors on the wire: RFC 9457 problem documents with a stable code.

use serde::{Deserialize, Serialize};

use crate::name::HostName;

/// The media type of a [`Problem`] (RFC 9457, section 3).
pub const PROBLEM_JSON: &str = "application/problem+json";

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $text:literal,)*) => {
        /// What went wrong, as a stable word that programs can match on.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum Code {
            $($(#[$doc])* #[serde(rename = $text)] $variant,)*
            /// A code of a newer daemon that this program does not know.
            #[serde(other, rename = "unknown")]
            Unknown,
        }

        impl Code {
            /// Every code with its word, for documents and tests.
            pub const ALL: &[Code] = &[$(Code::$variant,)*];

            /// Returns the word used on the wire.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Code::$variant => $text,)*
                    Code::Unknown => "unknown",
                }
            }
        }
    };
}

codes! {
    /// The request is malformed: bad JSON, a bad name, a value out of range.
    BadRequest = "bad_request",
    /// Refused by the checks on origin, host header or peer.
    Forbidden = "forbidden",
    /// Refused by the policy of the host, or of the grant.
    PolicyDenied = "policy_denied",
    /// The read-only socket does not have this.
    ReadOnly = "read_only",
    /// Too much is being done at the moment.
    TooManyRequests = "too_many_requests",
    /// The body did not come in time.
    RequestTimeout = "request_timeout",
    /// There is a grant of that name already.
    GrantExists = "grant_exists",
    /// There is no grant of that name.
    GrantNotFound = "grant_not_found",
    /// Somebody traces the host already.
    TraceRunning = "trace_running",
    /// No such route.
    NotFound = "not_found",
    /// The route exists, the method does not.
    MethodNotAllowed = "method_not_allowed",
    /// The body is not declared as JSON.
    UnsupportedMediaType = "unsupported_media_type",
    /// The body is larger than the limit.
    TooLarge = "too_large",
    /// No host of that name is configured.
    HostNotFound = "host_not_found",
    /// A host of that name exists already.
    HostExists = "host_exists",
    /// The host has work running.
    HostBusy = "host_busy",
    /// The host was changed since it was read (If-Match).
    EditConflict = "edit_conflict",
    /// hosts.json cannot be read or does not parse.
    HostsFileInvalid = "hosts_file_invalid",
    /// hosts.json could not be written.
    HostsFileWrite = "hosts_file_write",
    /// What occd is to remember could not be written to its state directory.
    StateWrite = "state_write",
    /// occd.toml is invalid.
    ConfigInvalid = "config_invalid",
    /// The host is not connected and could not be reached: network, DNS, refused, lost.
    HostUnreachable = "host_unreachable",
    /// The host's connection was stopped on request (`occ disconnect`).
    HostStopped = "host_stopped",
    /// The server accepted none of the offered credentials.
    AuthFailed = "auth_failed",
    /// The ssh-agent did not sign: nobody confirmed or touched the key, or it is not there.
    AgentRefused = "agent_refused",
    /// The server wants a method of logging in that the settings do not allow.
    AuthMethodNeeded = "auth_method_needed",
    /// The server refused the password or the answers that a person gave.
    LoginRefused = "login_refused",
    /// There is no key to log in with: no file, and none in an agent.
    NoIdentity = "no_identity",
    /// The identity file is missing, unreadable or not a private key.
    IdentityInvalid = "identity_invalid",
    /// The identity file is protected by a passphrase, and nobody gave it.
    KeyLocked = "key_locked",
    /// Somebody must answer a question, and this client cannot be asked.
    InputNeeded = "input_needed",
    /// There is no such prompt: it has been answered, or is asked no more.
    PromptNotFound = "prompt_not_found",
    /// The identity file may be read by others, or is another user's.
    IdentityTooOpen = "identity_too_open",
    /// The server's host key is marked as revoked.
    HostKeyRevoked = "host_key_revoked",
    /// The server's certificate is not good for the host.
    HostCertificate = "host_certificate",
    /// The server's host key differs from the recorded one.
    HostKeyChanged = "host_key_changed",
    /// The server's host key is unknown and policy refuses unknown keys.
    HostKeyUnknown = "host_key_unknown",
    /// The host's SSH configuration cannot be used (ssh_config, jump host, proxy).
    SshConfigInvalid = "ssh_config_invalid",
    /// A known_hosts file cannot be read or changed.
    KnownHostsInvalid = "known_hosts_invalid",
    /// The peer does not speak SSH, or not as the standard has it.
    NotSsh = "not_ssh",
    /// The server and the settings share no algorithm.
    NoCommonAlgorithm = "no_common_algorithm",
    /// The server refuses to open a session channel.
    SessionRefused = "session_refused",
    /// The connection was lost, or left, after the command may have started.
    OutcomeUnknown = "outcome_unknown",
    /// The client gave up: the command was not started, or was ended.
    Cancelled = "cancelled",
    /// The command is longer than the server reads, and was not sent.
    CommandTooLong = "command_too_long",
    /// The server refused to start the command.
    ExecRefused = "exec_refused",
    /// Kept output passed the spill limit because its reader was too slow.
    OutputOverflow = "output_overflow",
    /// No Docker Engine answers on the host.
    DockerUnavailable = "docker_unavailable",
    /// The Docker socket may not be opened by this user.
    DockerPermission = "docker_permission",
    /// The Docker Engine is older than what is understood.
    DockerTooOld = "docker_too_old",
    /// Docker answered with an error.
    DockerError = "docker_error",
    /// There is no sandbox on the host.
    NoSandbox = "no_sandbox",
    /// A container of the sandbox's name is somebody else's.
    SandboxForeign = "sandbox_foreign",
    /// The sandbox's image is not there and cannot be pulled.
    ImageUnavailable = "image_unavailable",
    /// Something else listens on the port on the host.
    PortTaken = "port_taken",
    /// A mount is malformed, or its path is not on the host.
    MountInvalid = "mount_invalid",
    /// What is asked for replaces something: to be asked for again with `yes`.
    ConfirmationNeeded = "confirmation_needed",
    /// The sandbox does not answer, or has ended.
    SandboxNotReady = "sandbox_not_ready",
    /// The settings of the opencode-cloud tool (config.json) cannot be used.
    SandboxConfigInvalid = "sandbox_config_invalid",
    /// Another operation is at work on the host's sandbox.
    OperationRunning = "operation_running",
    /// There is no such operation, or it has been forgotten.
    OperationNotFound = "operation_not_found",
    /// Docker cannot be installed there: how is not known, or nobody may become root.
    InstallImpossible = "install_impossible",
    /// A command of the installation failed.
    InstallFailed = "install_failed",
    /// Other commands would be run by now than those that were shown.
    PlanChanged = "plan_changed",
    /// There is no such session.
    SessionNotFound = "session_not_found",
    /// The host keeps nothing of the session any more.
    SessionGone = "session_gone",
    /// Another session has that name.
    SessionExists = "session_exists",
    /// The session's program runs, and what was asked for takes one that has ended.
    SessionRunning = "session_running",
    /// The session's program has ended.
    SessionEnded = "session_ended",
    /// The host could not start the session, or could not do what was asked of it.
    SessionFailed = "session_failed",
    /// The input does not go on where the known one ends, or that was said to be all.
    InputRefused = "input_refused",
    /// No port or socket of this machine can be had for a forward.
    ForwardFailed = "forward_failed",
    /// What a forward is to listen on is taken, on this machine or by another forward.
    LocalPortTaken = "local_port_taken",
    /// The server does not listen for a forward.
    ForwardRefused = "forward_refused",
    /// There is no such forward.
    ForwardNotFound = "forward_not_found",
    /// There is no such file or directory.
    FileNotFound = "file_not_found",
    /// The user of the host may not do that with the file.
    PermissionDenied = "permission_denied",
    /// A file is wanted, and it is a directory.
    IsDirectory = "is_directory",
    /// A directory is wanted, and it is none.
    NotDirectory = "not_directory",
    /// A file of that name is there already.
    FileExists = "file_exists",
    /// The directory is not empty.
    NotEmpty = "not_empty",
    /// The name is longer than the file system allows.
    NameTooLong = "name_too_long",
    /// There is no room for the file: the disk is full, or a quota is reached.
    NoSpace = "no_space",
    /// The file has changed since it was read (If-Match).
    FileChanged = "file_changed",
    /// The file has not as many bytes as were asked for.
    OutOfRange = "out_of_range",
    /// The host has no SFTP.
    NoSftp = "no_sftp",
    /// The link broke, or the host ended the session, in the middle of a file.
    FileInterrupted = "file_interrupted",
    /// What was sent to be unpacked is no archive, or has what none may have.
    ArchiveInvalid = "archive_invalid",
    /// Something else about a file.
    FileError = "file_error",
    /// The Idempotency-Key was used for another request.
    KeyReused = "key_reused",
    /// The daemon is stopping.
    ShuttingDown = "shutting_down",
    /// A defect in the daemon.
    Internal = "internal",
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A place in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Position {
    /// The line, from 1.
    pub line: u64,
    /// The column, in bytes, from 1; 0 where the line ends before it.
    pub column: u64,
}

/// An RFC 9457 problem document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Problem {
    /// A URI reference for the kind of problem: `urn:occ:problem:<code>`.
    #[serde(rename = "type", default)]
    pub kind: String,
    /// The short text for the code's HTTP status.
    #[serde(default)]
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// One sentence for a person.
    #[serde(default)]
    pub detail: String,
    /// The stable word.
    pub code: Code,
    /// Whether the same request may succeed later without anybody acting.
    #[serde(default)]
    pub retryable: bool,
    /// When to try again, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// The host concerned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostName>,
    /// The jump host on the way to that host that is to blame.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hop: Option<HostName>,
    /// The phase of connecting that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<crate::status::Phase>,
    /// Where the body, or the line of `occ api`, is wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<Position>,
    /// The chain of causes, outermost first, without secrets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<String>,
}

impl Problem {
    /// Returns a problem with status, code and detail, and everything else empty.
    pub fn new(status: u16, code: Code, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("urn:occ:problem:{code}"),
            title: title(status).to_owned(),
            status,
            detail: detail.into(),
            code,
            retryable: false,
            retry_after_ms: None,
            host: None,
            hop: None,
            phase: None,
            position: None,
            causes: Vec::new(),
        }
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.detail)
    }
}

impl std::error::Error for Problem {}

/// Returns the reason phrase of the statuses in use (RFC 9110, section 15).
pub fn title(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        422 => "Unprocessable Content",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        507 => "Insufficient Storage",
        _ => "Internal Server Error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_their_words_and_unknown_ones_still_parse() {
        for code in Code::ALL {
            assert_eq!(serde_json::to_string(code).unwrap(), format!("\"{code}\""));
        }
        let newer: Code = serde_json::from_str("\"not_yet_invented\"").unwrap();
        assert_eq!(newer, Code::Unknown);
    }

    #[test]
    fn a_problem_of_a_newer_daemon_parses() {
        let text = r#"{"status":503,"code":"x","new_field":{}}"#;
        assert_eq!(serde_json::from_str::<Problem>(text).unwrap().status, 503);
    }
}
