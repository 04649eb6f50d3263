//! Watching and searching files: what streams of them say, one JSON document a line.

use serde::{Deserialize, Serialize};

use crate::error::Code;
use crate::exec::Bytes;

/// What happens in a directory that is watched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum WatchEvent {
    /// What happens from now on is told.
    Ready {
        /// Who tells it.
        by: WatchedBy,
    },
    /// It is new.
    Created {
        /// Its path in the directory.
        path: Bytes,
    },
    /// Its bytes, permissions or times are others.
    Changed {
        /// Its path in the directory.
        path: Bytes,
    },
    /// It is gone.
    Removed {
        /// Its path in the directory.
        path: Bytes,
    },
    /// The link broke, or events were lost: what happened meanwhile is not known. `ready` comes when it is told again.
    Resync {
        /// Why.
        reason: String,
    },
    /// It cannot be watched any more.
    Failed {
        /// Why.
        reason: String,
        /// Which problem that is, where it is not the directory's: `shutting_down`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        code: Option<Code>,
    },
    /// One of a newer daemon that this program does not know.
    #[serde(other)]
    Unknown,
}

/// Who tells what happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum WatchedBy {
    /// The host's kernel, through `inotifywait`.
    Inotify,
    /// A look at the directory every now and then.
    Polling,
    /// One of a newer daemon that this program does not know.
    #[serde(other)]
    Unknown,
}

/// What a search finds, and how it ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum SearchEvent {
    /// A line that matches.
    Match {
        /// The file's path in the directory.
        path: Bytes,
        /// The line's number, from 1.
        line: u64,
        /// Where in the line the match begins, in bytes from 1, where that is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        column: Option<u64>,
        /// Where in the line `text` begins, in bytes from 1, where that is not its beginning.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        text_column: Option<u64>,
        /// The line without its end; of one of more than 1000 bytes a piece with the match in it.
        text: Bytes,
    },
    /// It is over.
    Done {
        /// The lines that were found.
        matches: u64,
        /// There are more than were asked for.
        limited: bool,
        /// The program that searched.
        by: String,
        /// What could not be read, as that program says it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        trouble: Option<String>,
    },
    /// It broke off.
    Failed {
        /// Why.
        reason: String,
        /// Which problem that is, where it is not the directory's: `shutting_down`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        code: Option<Code>,
    },
    /// One of a newer daemon that this program does not know.
    #[serde(other)]
    Unknown,
}
