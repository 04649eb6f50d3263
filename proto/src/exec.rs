//! Running a command on a host: the request, the result, and the frames of the two streams.
//!
//! Three faces of one thing:
//! - `POST /v1/hosts/{host}/exec` answers with an [`ExecResult`];
//! - with `Accept: application/x-ndjson` it answers with one [`ExecEvent`] per line;
//! - `GET /v1/hosts/{host}/exec` upgrades to a WebSocket. The client's first text message is an
//!   [`ExecRequest`]; then binary messages carry bytes, their first byte naming the stream
//!   ([`STDIN`], [`STDOUT`], [`STDERR`]); text messages carry an [`ExecControl`] to the daemon and an
//!   [`ExecEvent`] to the client, of which `exit`, `error` or `output_error` is the last.
//!
//! A client may pass the descriptors that the output is to go to, so that it need not carry the bytes
//! itself ([`DESCRIPTORS_HEADER`]). A stream whose descriptor the daemon took has no binary messages.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::error::Problem;
use crate::name::HostName;

/// First byte of a binary message to the daemon: bytes for the program; none at all is end of file.
pub const STDIN: u8 = 0;
/// First byte of a binary message to the client: bytes of the program's standard output.
pub const STDOUT: u8 = 1;
/// First byte of a binary message to the client: bytes of the program's standard error.
pub const STDERR: u8 = 2;

/// The header of a WebSocket handshake by which a client offers descriptors for the command's output:
/// `stdout`, `stderr`, or both with a comma between them. Where the answer carries the same header, the
/// client may attach them in that order (SCM_RIGHTS, unix(7)) to the first bytes of its first message.
/// Any that the daemon cannot use it closes, and sends the stream as binary messages; a client must be
/// ready for both.
///
/// The daemon uses anonymous pipes and /dev/null that are open for writing. It has written
/// all output and closed all descriptors when it sends the last event.
pub const DESCRIPTORS_HEADER: &str = "occ-descriptors";

/// The media type of the streaming answer.
pub const NDJSON: &str = "application/x-ndjson";

/// The most bytes of each stream that the plain JSON result holds.
pub const RESULT_LIMIT: usize = 1024 * 1024;

/// A command to run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ExecRequest {
    /// The program and its arguments, passed exactly. Empty only with `shell`.
    #[serde(default)]
    pub argv: Vec<Bytes>,
    /// A line for the remote login shell, in place of `argv`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shell: Option<String>,
    /// The directory to run in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// The directory of this machine that it is asked for in. Where occd.toml says what that is on the host, it runs there
    /// unless `cwd` names another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub here: Option<String>,
    /// Variables to set.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Give the program these variables and no others.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub clear_env: bool,
    /// Run it in a terminal of its own. Without `argv` and `shell` that is the login shell. Its input and output
    /// are the terminal's, all of it standard output. Only on a WebSocket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tty: Option<Tty>,
    /// Wait for whatever the program left behind with its output, as ssh does; else a second of silence after the
    /// program's end is the end.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub wait_output: bool,
    /// End the command so many milliseconds after the request: the wait for a connection is part of it, unless
    /// `wait_ms` says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// What the program reads; absent means nothing (end of file at once). Not for WebSocket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdin: Option<Bytes>,
    /// How many times to dial again when the host cannot be reached: 3 unless said otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retries: Option<u32>,
    /// In place of that: how many milliseconds to wait for a host that is down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_ms: Option<u64>,
}

/// A terminal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Tty {
    /// What kind it is: `TERM` of the program, such as `xterm-256color`.
    pub term: String,
    /// Its size.
    #[serde(flatten)]
    pub size: TtySize,
}

/// The size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct TtySize {
    /// The width.
    pub cols: u16,
    /// The height.
    pub rows: u16,
}

/// Bytes in JSON: a string where they are UTF-8, else `{"b64": "…"}`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

impl From<&str> for Bytes {
    fn from(text: &str) -> Self {
        Self(text.as_bytes().to_vec())
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(untagged, deny_unknown_fields, expecting = "expected a string, or {\"b64\": \"…\"}")]
enum BytesRepr<'a> {
    Text(std::borrow::Cow<'a, str>),
    Base64 { b64: String },
}

/// Says what is wrong with a member's base64: a part of a sentence, without a full stop.
pub fn not_base64(member: &str, error: &base64::DecodeError) -> String {
    let said = error.to_string();
    format!("{member} is not base64: {}", said.trim_end_matches('.').to_lowercase())
}

impl Serialize for Bytes {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => BytesRepr::Text(text.into()),
            Err(_) => BytesRepr::Base64 { b64: STANDARD.encode(&self.0) },
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match BytesRepr::deserialize(deserializer)? {
            BytesRepr::Text(text) => Ok(Self(text.into_owned().into_bytes())),
            BytesRepr::Base64 { b64 } => {
                let bytes = STANDARD.decode(b64).map_err(|error| not_base64("b64", &error));
                bytes.map(Self).map_err(serde::de::Error::custom)
            }
        }
    }
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Exit {
    /// The exit status; absent when a signal ended the program.
    pub code: Option<u32>,
    /// The signal without `SIG`, such as `TERM`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
    /// The time limit was reached, and the program was told to end.
    #[serde(default)]
    pub timed_out: bool,
    /// That limit, in milliseconds: the request's, else `command_timeout` of occd.toml.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_ms: Option<u64>,
    /// The program was told to end because its connection had to: the host was disconnected, reconnected
    /// or removed, or the daemon stopped.
    #[serde(default)]
    pub cut_off: bool,
    /// The jump host whose connection had to end, and that one with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut_off_by: Option<HostName>,
    /// The program was told to end but the host did not confirm it: it may still run.
    #[serde(default)]
    pub may_still_run: bool,
    /// From the start of the command to its end, in milliseconds.
    pub duration_ms: u64,
}

impl Exit {
    /// Returns the exit status a shell would give: the program's own, or 128 plus the signal's number.
    pub fn status(&self) -> u8 {
        if self.timed_out {
            return 124;
        }
        match (&self.signal, self.code) {
            (Some(signal), _) => 128u8.saturating_add(signal_number(signal)),
            // sshd sends the low eight bits; anything else is a server's own invention.
            (None, Some(code)) => u8::try_from(code).unwrap_or(255),
            (None, None) => 255,
        }
    }
}

/// Names of signals without `SIG`, and their numbers by POSIX and Linux.
const SIGNALS: [(&str, u8); 14] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
];

/// Returns the number of a signal named without `SIG`; 0 for an unknown one.
fn signal_number(name: &str) -> u8 {
    SIGNALS.iter().find(|(known, _)| *known == name).map_or(0, |(_, number)| *number)
}

/// Returns the name of a signal without `SIG`; the number where it has none here.
pub fn signal_name(number: i32) -> String {
    SIGNALS
        .iter()
        .find(|(_, known)| i32::from(*known) == number)
        .map_or_else(|| number.to_string(), |(name, _)| (*name).to_owned())
}

/// The plain JSON answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct ExecResult {
    /// How it ended.
    #[serde(flatten)]
    pub exit: Exit,
    /// Standard output as text; absent when it is not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdout: Option<String>,
    /// Standard output in base64, when it is not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdout_b64: Option<String>,
    /// Standard error as text; absent when it is not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr: Option<String>,
    /// Standard error in base64, when it is not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr_b64: Option<String>,
    /// The middle of a stream is missing, because it was longer than [`RESULT_LIMIT`].
    #[serde(default)]
    pub truncated: bool,
    /// All bytes of standard output, kept or not.
    pub stdout_bytes: u64,
    /// All bytes of standard error, kept or not.
    pub stderr_bytes: u64,
    /// Type and fingerprint of the host's key, when it was not on record and the connection made for this
    /// command recorded it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_host_key: Option<String>,
}

/// One line of the streaming answer; on a WebSocket `stdout` and `stderr` do not occur, and only there
/// `output_error` does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum ExecEvent {
    /// There is no connection to the host yet: until `sending` comes, the command has not been started. Only on a
    /// WebSocket.
    Waiting,
    /// A person is asked whether the command may be run, who answers `POST /v1/prompts/{id}`. Only on a WebSocket.
    Approval {
        /// The question's.
        id: u64,
        /// The question.
        message: String,
    },
    /// From now on the command may be running. Only after `waiting`.
    Sending,
    /// The host accepted the command.
    Started {
        /// Type and fingerprint of the host's key, when it was not on record and the connection made for
        /// this command recorded it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        new_host_key: Option<String>,
    },
    /// A host key was recorded for this command: the host's, or that of a jump host on the way. Before all that
    /// come after the login.
    #[serde(rename = "new_host_key")]
    NewHostKey(crate::trust::NewHostKey),
    /// Bytes of standard output.
    Stdout {
        /// The bytes.
        data: Bytes,
    },
    /// Bytes of standard error.
    Stderr {
        /// The bytes.
        data: Bytes,
    },
    /// The command ended. The last event.
    Exit(Exit),
    /// The command could not be run or its end is not known. The last event.
    Error {
        /// Why.
        problem: Box<Problem>,
    },
    /// A control message of the client's was none, and nothing was done; the command goes on. Only on a WebSocket.
    #[serde(rename = "bad_control")]
    BadControl {
        /// What is wrong with it.
        detail: String,
    },
    /// A descriptor that the client passed could not be written to; the command is ended. The last event.
    #[serde(rename = "output_error")]
    OutputError {
        /// The system's number of the error (errno).
        errno: i32,
    },
}

/// What a client may ask during a command, as a text message on the WebSocket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum ExecControl {
    /// Send a signal.
    Signal {
        /// Its name without `SIG`, such as `INT`.
        signal: String,
    },
    /// End the command: TERM, and KILL when that does not help.
    Cancel,
    /// The client's terminal has another size now.
    Resize(TtySize),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_text_where_they_can_be() {
        let json = |b: &[u8]| serde_json::to_string(&Bytes(b.to_vec())).unwrap();
        assert_eq!(json(b"ls"), "\"ls\"");
        assert_eq!(json(b"\xff"), r#"{"b64":"/w=="}"#);
        for b in [&b"ls"[..], b"\xff\0"] {
            assert_eq!(serde_json::from_str::<Bytes>(&json(b)).unwrap().0, b);
        }
    }

    #[test]
    fn exit_status_is_a_shells() {
        let exit = |code, signal: Option<&str>, timed_out| Exit {
            code,
            signal: signal.map(Into::into),
            timed_out,
            limit_ms: None,
            cut_off: false,
            cut_off_by: None,
            may_still_run: false,
            duration_ms: 0,
        };
        assert_eq!(exit(Some(7), None, false).status(), 7);
        assert_eq!(exit(None, Some("TERM"), false).status(), 143);
        assert_eq!(exit(None, Some("TERM"), true).status(), 124);
        assert_eq!(exit(None, None, false).status(), 255);
    }

    #[test]
    fn unknown_request_fields_are_refused() {
        assert!(
            serde_json::from_str::<ExecRequest>(r#"{"argv":["a"],"proxy_command":"x"}"#).is_err()
        );
    }
}
