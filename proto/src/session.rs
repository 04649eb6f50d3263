//! Sessions: programs on hosts that outlive the connection, the daemon and this machine.
//!
//! What a program writes is kept on its host by offset, and what it is to read is taken by offset: whoever comes back
//! goes on exactly where the link broke.
//!
//! - `POST /v1/sessions` starts one from a [`SessionRequest`]; `GET /v1/sessions` lists them as a [`SessionList`].
//! - `GET /v1/sessions/{id}/output` streams output, `POST /v1/sessions/{id}/input` takes input.
//! - `GET /v1/sessions/{id}/attach` upgrades to a WebSocket. Binary messages carry bytes behind the number of their stream,
//!   as in [`crate::exec`]: [`STDIN`](crate::exec::STDIN) to the daemon (no bytes are the end of file),
//!   [`STDOUT`](crate::exec::STDOUT) and [`STDERR`](crate::exec::STDERR) to the client. Text messages carry
//!   [`SessionEvent`]s to the client and [`ExecControl`](crate::exec::ExecControl)s to the daemon, where `cancel`
//!   ends the program.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::Problem;
use crate::exec::Bytes;
use crate::name::{HostName, InvalidName};

/// The longest name of a session, in bytes.
pub const LONGEST_NAME: usize = 64;

/// A script for `sh -c` on a session's host that shows the screen of one with a terminal, in a terminal. `$1` is the ID.
/// Within another tmux or screen, either would refuse. One that was just started is waited for, until its program runs.
pub const SHOW_SCREEN: &str = "d=${XDG_CACHE_HOME:-$HOME/.cache}/occ/sessions/$1; unset TMUX STY; n=0; \
    until [ -e \"$d/tty.pid\" ] || [ -e \"$d/exit\" ] || [ $n -ge 100 ]; do \
    n=$((n+1)); sleep 0.05 2>/dev/null || sleep 1; done; \
    if [ -e \"$d/exit\" ]; then exit 1; fi; \
    if [ -d \"$d/screen\" ]; then SCREENDIR=$d/screen exec screen -x occ; fi; \
    exec tmux -L \"occ-$1\" -f /dev/null attach -t occ";

/// Where a session runs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum SessionHost {
    /// This machine: `local`.
    Local,
    /// A host.
    Host(HostName),
}

impl SessionHost {
    /// Returns the host, if it is one.
    pub fn host(&self) -> Option<&HostName> {
        match self {
            Self::Local => None,
            Self::Host(host) => Some(host),
        }
    }

    /// Returns the host's name, or `local`.
    pub fn as_str(&self) -> &str {
        self.host().map_or("local", HostName::as_str)
    }
}

impl From<HostName> for SessionHost {
    fn from(host: HostName) -> Self {
        Self::Host(host)
    }
}

impl std::fmt::Display for SessionHost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

impl std::str::FromStr for SessionHost {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        if text == "local" { Ok(Self::Local) } else { HostName::new(text).map(Self::Host) }
    }
}

impl Serialize for SessionHost {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for SessionHost {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A session to start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SessionRequest {
    /// The host to start it on.
    pub host: SessionHost,
    /// What to call it: letters, digits, `-`, `_` and `.`; else after its program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The program and its arguments, passed exactly.
    pub argv: Vec<Bytes>,
    /// The directory to run in; the home directory unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// Variables to set. Their values are kept nowhere once the program runs; until then in a file of the user's own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// The variables beneath those, for this machine: the client's own. Not even their names are kept.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub base_env: BTreeMap<String, String>,
    /// Run it in a terminal: in the host's tmux, or in screen where there is no tmux. Its output is then what it writes to the
    /// screen, its input is typed line by line, and [`SHOW_SCREEN`] shows the screen.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tty: bool,
    /// Forward the ports of the host's loopback whose URLs it prints, such as `http://localhost:5173/`, as long as it runs.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub forward_urls: bool,
    /// How many times a host that is lost is dialled again for somebody who is attached; for ever unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retries: Option<u32>,
    /// How many milliseconds to wait for a host that is down when the session is started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_ms: Option<u64>,
    /// How many milliseconds to wait for a person whom the policy asks, where that is less than its `ask_timeout`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ask_ms: Option<u64>,
}

/// What a session's program is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum SessionState {
    /// It runs, or did when its host was last asked.
    Running,
    /// It has ended.
    Ended,
    /// Nobody saw how it ended, or whether: the host was rebooted, ends what a user has left running at logout, or the
    /// program's supervisor was killed.
    Lost,
    /// Nothing is kept of it on its host.
    Gone,
    /// A state of a newer daemon.
    #[default]
    #[serde(other)]
    Unknown,
}

impl SessionState {
    /// Returns the word used on the wire and on terminals.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Ended => "ended",
            Self::Lost => "lost",
            Self::Gone => "gone",
            Self::Unknown => "unknown",
        }
    }
}

/// What a session is, which its host keeps, too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct SessionInfo {
    /// Eight hexadecimal digits.
    pub id: String,
    /// Its name, unique for the daemon.
    pub name: String,
    /// The program and its arguments.
    pub argv: Vec<Bytes>,
    /// The directory that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// The names of the variables that were set.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// It runs in a terminal.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tty: bool,
    /// See [`SessionRequest::forward_urls`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub forward_urls: bool,
    /// When it was started.
    pub created: Timestamp,
    /// See [`SessionRequest::retries`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retries: Option<u32>,
}

/// A session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Session {
    /// What it is.
    #[serde(flatten)]
    pub info: SessionInfo,
    /// The host it was started on.
    pub host: SessionHost,
    /// The host that its next start is to be on, where that is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_host: Option<SessionHost>,
    /// What its program is doing.
    pub state: SessionState,
    /// Its exit status as a shell gives it, 128 + n for a signal; absent while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<u8>,
    /// How many bytes were taken for the program to read; absent where the host was not asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdin: Option<u64>,
    /// How many bytes it has written to standard output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdout: Option<u64>,
    /// How many bytes it has written to standard error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr: Option<u64>,
    /// Why the host could not be asked: the state is what was known last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Box<Problem>>,
}

/// The answer to `GET /v1/sessions`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct SessionList {
    /// The sessions, the oldest first.
    pub sessions: Vec<Session>,
}

/// A change to a session, for its next start; absent fields stay.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SessionEdit {
    /// The host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<SessionHost>,
    /// The name, which changes at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The program and its arguments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub argv: Option<Vec<Bytes>>,
    /// The directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// See [`SessionRequest::retries`]; it changes at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retries: Option<u32>,
}

/// The body of `POST /v1/sessions/{id}/start`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SessionStart {
    /// The values of the variables that the session was started with, or others.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// See [`SessionRequest::base_env`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub base_env: BTreeMap<String, String>,
}

/// The body of `POST /v1/sessions/{id}/signal`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SessionSignal {
    /// A signal's name without `SIG`. Absent: TERM, and KILL if that does not help within 2 s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
}

/// The answer to `POST /v1/sessions/{id}/input`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct InputTaken {
    /// Where the input ends now: the offset of the next byte.
    pub end: u64,
}

/// A stream of a session's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum OutputStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// What happens to a session, as a text message on the WebSocket or as a server-sent event, whose name is its `type`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum SessionEvent {
    /// Output comes from here on. The first event; it comes again when a broken link is back.
    Attached {
        /// How many bytes were taken for the program to read.
        stdin: u64,
        /// The offset of the next byte of standard output; absent where it was not asked for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stdout: Option<u64>,
        /// The offset of the next byte of standard error; absent where it was not asked for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stderr: Option<u64>,
    },
    /// Bytes, in server-sent events only.
    Output {
        /// The bytes.
        data: Bytes,
    },
    /// Bytes are kept no more: what comes next is not what followed.
    Gap {
        /// Of which stream.
        stream: OutputStream,
        /// The offset of the first byte that is missing.
        from: u64,
        /// The offset of the next byte that comes.
        to: u64,
    },
    /// The host's disk was full: some of a stream was not kept.
    NoSpace {
        /// Of which stream.
        stream: OutputStream,
    },
    /// The link broke; the program goes on, and what it writes comes later.
    Paused {
        /// Why, in one sentence.
        message: String,
    },
    /// Input was taken; on the WebSocket only.
    Input {
        /// Where the input ends now.
        end: u64,
        /// How many of the bytes that came over this WebSocket were taken.
        taken: u64,
    },
    /// A port whose URL the program has printed is forwarded; on the WebSocket only.
    Forwarded {
        /// As it was printed.
        url: String,
        /// What it is on this machine.
        here: String,
    },
    /// A control message of the client's was none, and nothing was done; on the WebSocket only.
    #[serde(rename = "bad_control")]
    BadControl {
        /// What is wrong with it.
        detail: String,
    },
    /// That was all there is, and more was not asked for. The last event.
    End,
    /// The program has ended, and all its output has come. The last event.
    Exit {
        /// Its exit status as a shell gives it, 128 + n for a signal.
        code: u8,
    },
    /// Nobody saw how it ended, or whether. The last event.
    Lost,
    /// Nothing more can be said. The last event.
    Error {
        /// Why.
        problem: Box<Problem>,
    },
    /// An event of a newer daemon.
    #[serde(other)]
    Unknown,
}

/// Checks a session's name.
///
/// # Errors
/// Says what is wrong with it.
pub fn check_name(name: &str) -> Result<(), &'static str> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if name.is_empty() || name.len() > LONGEST_NAME {
        return Err("must have 1 to 64 characters");
    }
    if name.starts_with(['-', '.']) || name.bytes().any(|byte| !allowed(byte)) {
        return Err(
            "may have letters, digits, '-', '_' and '.', and begins with none of '-' and '.'",
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_words() {
        for good in ["a", "codex-2", "my_work.1"] {
            check_name(good).unwrap();
        }
        for bad in ["", "-a", ".a", "a b", "a/b", "ä", &"x".repeat(65)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn this_machine_is_local() {
        let read = |json: &str| serde_json::from_str::<SessionHost>(json);
        assert_eq!(read("\"local\"").unwrap(), SessionHost::Local);
        let host = SessionHost::Host(HostName::new("h").unwrap());
        assert_eq!(read("\"h\"").unwrap(), host);
        assert_eq!(serde_json::to_string(&SessionHost::Local).unwrap(), "\"local\"");
        assert!(read("\"-x\"").is_err());
    }

    #[test]
    fn events_of_a_newer_daemon_are_known_as_such() {
        let event: SessionEvent = serde_json::from_str(r#"{"type":"new"}"#).unwrap();
        assert_eq!(event, SessionEvent::Unknown);
        assert_eq!(serde_json::to_string(&SessionEvent::Lost).unwrap(), r#"{"type":"lost"}"#);
    }
}
