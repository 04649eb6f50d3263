//! The daemon about itself.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// `GET /v1/version`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Version {
    /// The daemon's program version.
    pub version: String,
    /// The version of the API, see [`crate::API_VERSION`].
    pub api_version: u32,
    /// The oldest client that this daemon serves in full.
    pub min_client: String,
    /// What this daemon can do, as words that are never taken away within an API version.
    pub capabilities: Vec<String>,
    /// The daemon's process id.
    pub pid: u32,
    /// When it started.
    pub started_at: Timestamp,
    /// Its socket's path.
    pub socket: String,
    /// The path of its read-only socket, which tells what is known and does nothing; absent where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_only_socket: Option<String>,
    /// Why the files on disk are not what is in force, and what the daemon lacks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Its hosts are those from before, since hosts.json on disk cannot be used: they are gone when it ends. The first of the
    /// warnings says why.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hosts_unsaved: bool,
}

/// The answer of `POST /v1/hand-over`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct HandOver {
    /// The daemon ends, and lets go of its lock in a moment.
    pub ending: bool,
    /// What would have been lost: requests and streams, operations, connections that only a person can make again.
    pub in_flight: u64,
}

/// `GET /healthz`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Health {
    /// Always `ok`: a daemon that cannot say so does not answer.
    pub status: String,
    /// The tasks of its runtime that live now. It comes back to what it was when the work is done: one that
    /// grows is a leak.
    #[serde(default)]
    pub tasks: u64,
}
