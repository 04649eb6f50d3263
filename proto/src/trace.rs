//! What goes through the channels of a host, written to a file for somebody who looks for a defect.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// `POST /v1/hosts/{host}/trace`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct TraceRequest {
    /// The file on the daemon's machine, which must not be there yet; one below the daemon's state directory, unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(pattern = "^/"))]
    pub file: Option<String>,
    /// How long it lasts, in milliseconds.
    #[cfg_attr(feature = "schema", schema(minimum = 1, maximum = 86_400_000))]
    pub for_ms: u64,
}

/// A line of the answer. It ends with the trace, which also ends when whoever reads it leaves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum TraceEvent {
    /// The file is there.
    Started {
        /// It.
        file: String,
        /// When the trace ends at the latest.
        ends_at: Timestamp,
    },
    /// What is in it so far.
    Progress {
        /// How much.
        counts: TraceCounts,
    },
    /// The trace has ended.
    Ended {
        /// Why.
        why: TraceEnd,
        /// What is in the file.
        counts: TraceCounts,
        /// What went wrong, where something did.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    },
    /// One of a newer daemon.
    #[serde(other)]
    Unknown,
}

/// What is in the file of a trace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct TraceCounts {
    /// Lines.
    pub records: u64,
    /// Bytes that came from the host.
    pub bytes_in: u64,
    /// Bytes that went to it.
    pub bytes_out: u64,
    /// Records that are missing, because they came faster than the disk took them.
    pub missing: u64,
}

/// Why a trace has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum TraceEnd {
    /// Its time is over.
    Time,
    /// Somebody has ended it.
    Stopped,
    /// The file has reached its limit.
    Full,
    /// The file could not be written.
    Failed,
    /// The daemon stops.
    Shutdown,
    /// A reason of a newer daemon's.
    #[serde(other)]
    Unknown,
}

/// One line of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceRecord {
    /// When.
    pub time: Timestamp,
    /// Which connection of the host.
    pub connection: u64,
    /// Which channel of it, by our number.
    pub channel: u32,
    /// `in` from the host, `out` to it.
    pub direction: String,
    /// What: `data`, `stderr`, `eof`, `close`, `exec`, `shell`, `subsystem`, `pty`, `env`, `signal`, `resize`, `exit`.
    pub kind: String,
    /// In base64. Of a variable only the name.
    pub bytes: String,
    /// So many bytes were answers to a question of ours, a password say, and are left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_out: Option<u64>,
}
