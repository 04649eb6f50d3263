//! The state of a host on the wire.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::container::ContainerStatus;
use crate::error::Code;
use crate::host::HostConfig;
use crate::name::HostName;

/// Where a host's connection is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Not connected, and nobody has asked.
    Idle,
    /// A dial is under way.
    Connecting,
    /// Connected and usable.
    Connected,
    /// The last dial failed or the connection broke; the next dial has a time.
    Backoff,
    /// A person must act; nothing is retried by itself.
    Failed,
    /// Disconnected on request.
    Stopped,
    /// One of a newer daemon that this program does not know.
    #[serde(other)]
    Unknown,
}

impl State {
    /// Returns the state in plain words.
    pub fn status(self) -> Status {
        match self {
            State::Connected => Status::Connected,
            State::Idle | State::Connecting | State::Backoff | State::Stopped => {
                Status::Disconnected
            }
            State::Failed => Status::Error,
            State::Unknown => Status::Unknown,
        }
    }

    /// Returns the word used on the wire and on terminals.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Idle => "idle",
            State::Connecting => "connecting",
            State::Connected => "connected",
            State::Backoff => "backoff",
            State::Failed => "failed",
            State::Stopped => "stopped",
            State::Unknown => "unknown",
        }
    }
}

/// The state folded to three words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Usable now.
    Connected,
    /// Not usable now; may become so by itself or on use.
    Disconnected,
    /// A person must act.
    Error,
    /// One of a newer daemon that this program does not know.
    #[serde(other)]
    Unknown,
}

/// The phase of connecting in which something failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Reading ssh_config, keys and settings.
    Config,
    /// Looking the name up.
    Resolve,
    /// The TCP connection.
    Connect,
    /// Waiting for the server's identification line.
    Banner,
    /// Agreeing on keys.
    KeyExchange,
    /// Checking the server's host key.
    HostKey,
    /// Logging in.
    Authentication,
    /// Opening a channel.
    ChannelOpen,
    /// After the connection was up.
    Established,
    /// A phase of a newer daemon.
    #[serde(other)]
    Unknown,
}

impl Phase {
    /// Returns the phase in words, as in "stopped at …".
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Config => "configuration",
            Phase::Resolve => "resolve",
            Phase::Connect => "connect",
            Phase::Banner => "banner",
            Phase::KeyExchange => "key exchange",
            Phase::HostKey => "host key",
            Phase::Authentication => "login",
            Phase::ChannelOpen => "channel open",
            Phase::Established => "established",
            Phase::Unknown => "unknown",
        }
    }
}

/// Why a host is idle, where it was not so from the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum IdleReason {
    /// The server closes idle connections by a rule of its own; the next use connects again.
    ServerIdlePolicy,
    /// Nobody has used it for as long as `idle_timeout` says.
    IdleTimeout,
    /// A reason of a newer daemon.
    #[serde(other)]
    Unknown,
}

/// Why a connection could not be made or was lost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct LastError {
    /// The stable word.
    pub code: Code,
    /// Where it stopped.
    pub phase: Phase,
    /// One sentence for a person, causes included.
    pub message: String,
    /// The jump host that is to blame.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hop: Option<HostName>,
    /// When.
    pub at: Timestamp,
    /// Whether the daemon goes on by itself.
    pub retryable: bool,
}

/// A host and its connection. More keys come with time; readers ignore those they do not know.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct HostStatus {
    /// The host's name.
    pub name: HostName,
    /// The state.
    pub state: State,
    /// The state in plain words.
    pub status: Status,
    /// Since when the host is in this state.
    pub since: Timestamp,
    /// Dials since the last good connection; 0 when connected.
    pub attempt: u32,
    /// When the next dial is due, in backoff: that of the jump host, where it is waited for, and nothing where that
    /// waits for a person.
    pub next_retry_at: Option<Timestamp>,
    /// Why the host is idle, where there is a reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_reason: Option<IdleReason>,
    /// At what age the server closed the last connections, in seconds, where that is the reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_close_s: Option<u64>,
    /// The last failure; kept while connected, so that a past break can be seen.
    pub last_error: Option<LastError>,
    /// The question that the dial waits for somebody to answer (`/v1/prompts`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub question: Option<String>,
    /// The last measured round trip, in milliseconds.
    pub rtt_ms: Option<f64>,
    /// The round trips of the last hour, measured once a minute, the oldest first. Only in the answer about
    /// one host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rtt_recent_ms: Vec<f64>,
    /// Live SSH connections.
    pub connections: u32,
    /// Channels in use by commands and streams (spare ones are not counted).
    pub open_channels: u32,
    /// Connections made since the daemon started.
    #[serde(default)]
    pub connects: u64,
    /// Bytes received from the host since the daemon started, over all connections.
    #[serde(default)]
    pub bytes_in: u64,
    /// Bytes sent to it.
    #[serde(default)]
    pub bytes_out: u64,
    /// What the connection negotiated; absent unless connected.
    #[serde(default)]
    pub connection: Option<ConnectionInfo>,
    /// The sandbox container, as far as it is known without asking; absent where it never was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<ContainerStatus>,
    /// Why Docker does not tell of the sandbox, while the host is connected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub docker_error: Option<DockerFault>,
    /// The configuration.
    pub config: HostConfig,
    /// The entity tag of the configuration, for If-Match.
    #[serde(default)]
    pub etag: String,
    /// Why hosts.json or occd.toml on disk is not what is in force; absent when all is well. Only in
    /// the answer about one host; a list has its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Grows with every change of this host.
    pub revision: u64,
}

/// What keeps Docker on a host from being asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct DockerFault {
    /// The stable word.
    pub code: Code,
    /// One sentence for a person.
    pub message: String,
}

/// Facts about a live connection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct ConnectionInfo {
    /// The generation of the connection: grows with each dial of the host.
    pub id: u64,
    /// The login name in use.
    pub user: String,
    /// The address that was dialled, with port.
    pub peer: String,
    /// The jump hosts on the way, the one next to us first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub via: Vec<String>,
    /// When it came up.
    pub since: Timestamp,
    /// Since when the server leaves keep-alives unanswered, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unanswered_since: Option<Timestamp>,
    /// The server's identification, such as `OpenSSH_9.2`.
    pub server: String,
    /// The key exchange algorithm.
    pub kex: String,
    /// Whether it also withstands a quantum computer that reads a recording of it later.
    #[serde(default)]
    pub post_quantum: bool,
    /// Whether the exchange itself was guarded against packets that somebody leaves out (Terrapin,
    /// CVE-2023-48795): it is, where the server can.
    #[serde(default)]
    pub strict_kex: bool,
    /// The cipher.
    pub cipher: String,
    /// What guards the packets against changes; absent where the cipher does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Whether what the server sends is compressed.
    #[serde(default)]
    pub compressed: bool,
    /// The server's host key: algorithm and SHA-256 fingerprint.
    pub host_key: String,
    /// The host key was not on record before this connection, and was recorded by it.
    #[serde(default)]
    pub new_host_key: bool,
    /// How the login was made, such as `publickey ~/.ssh/id_ed25519`.
    pub auth: String,
    /// The SHA-256 fingerprint of the key that the login was made with, if one was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth_key: Option<String>,
    /// Why the password was not kept, though somebody wanted that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_kept: Option<String>,
    /// The socket of the ssh-agent that was asked, if one answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// Commands on the host may use the user's ssh-agent, over a connection of its own.
    #[serde(default)]
    pub agent_forwarding: bool,
    /// Bytes received on the connection.
    pub bytes_in: u64,
    /// Bytes sent on the connection.
    pub bytes_out: u64,
    /// What the probe after login found; absent until it has answered.
    #[serde(default)]
    pub system: Option<RemoteSystem>,
}

/// What the probe learned about the host.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct RemoteSystem {
    /// The login shell's path; empty when the host did not say.
    pub shell: String,
    /// `uname -s`, such as `Linux`; empty when the host did not say.
    pub os: String,
    /// `uname -m`, such as `x86_64`.
    pub arch: String,
    /// Docker sockets that exist, and whether this user may open them.
    pub docker_sockets: Vec<DockerSocket>,
    /// Whether a `docker` program is in the PATH.
    pub docker_cli: bool,
    /// Why nothing of all this is known, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unknown: Option<SystemUnknown>,
}

/// Why a host has not said what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum SystemUnknown {
    /// It was not asked, because occd.toml has `probe = false`.
    ProbeOff,
    /// It runs one command, whatever it is asked for.
    ForcedCommand,
    /// It did not answer.
    NoAnswer,
    /// A reason of a newer daemon.
    #[serde(other)]
    Other,
}

/// A Docker socket found on a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct DockerSocket {
    /// Its path.
    pub path: String,
    /// Whether this user may read and write it.
    pub usable: bool,
    /// Who may use it where this user may not, in words: `of the group docker`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub whose: Option<String>,
}

/// `GET /v1/hosts`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct HostList {
    /// The hosts in the order of hosts.json.
    pub hosts: Vec<HostStatus>,
    /// Jump hosts that hosts.json does not name, while they are needed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub via: Vec<HostStatus>,
    /// The default host, if one is set.
    pub default_host: Option<HostName>,
    /// Why hosts.json or occd.toml on disk is not what is in force; absent when all is well.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Another number after every change of what is listed: `GET /v1/hosts?since=` waits for one.
    pub revision: u64,
}

/// The outcome of one step of `occ host test`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct TestStep {
    /// `resolve`, `connect`, `host key`, `login`, `command`, `docker`, …
    pub name: String,
    /// Whether it went well.
    pub ok: bool,
    /// What was found, or why it failed.
    pub detail: String,
    /// How long it took, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ms: Option<f64>,
}

/// `POST /v1/hosts/{host}/test`: what a fresh connection meets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct TestReport {
    /// The host's name.
    pub name: HostName,
    /// Whether a command could be run over SSH.
    pub ssh_ok: bool,
    /// Whether Docker answered.
    pub docker_ok: bool,
    /// Docker's version, when it answered.
    pub docker_version: Option<String>,
    /// Type and fingerprint of a host key that was not on record until this test.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_host_key: Option<String>,
    /// The steps in their order; the last one is the first that failed, Docker's apart.
    pub steps: Vec<TestStep>,
    /// The problem that ended the test, when SSH failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<crate::error::Problem>,
    /// Why Docker did not answer, when SSH did not fail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub docker_problem: Option<crate::error::Problem>,
}

/// The answer to adding or editing a host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct HostSaved {
    /// The host as it is now.
    pub host: HostStatus,
    /// The test that was made before saving; absent when none was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test: Option<TestReport>,
    /// What led to an earlier host of that name, which somebody took out of hosts.json by hand, and is taken away now:
    /// each as a phrase, such as `the grant ci`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub taken_away: Vec<String>,
}
