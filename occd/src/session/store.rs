//! The list of sessions on disk: `sessions.json` in the state directory.

use std::io;
use std::path::{Path, PathBuf};

use occ_proto::session::{Session, SessionHost, SessionInfo, SessionState};
use serde::{Deserialize, Serialize};

use crate::state_file;

/// A session as it is remembered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    #[serde(flatten)]
    pub(super) info: SessionInfo,
    pub(super) host: SessionHost,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) next_host: Option<SessionHost>,
    /// What was known last.
    pub(super) state: SessionState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) exit: Option<u8>,
    /// How far clients have read standard output and standard error.
    #[serde(default)]
    pub(super) read: [u64; 2],
}

impl Record {
    /// Returns the session as it was known last.
    pub(super) fn session(&self) -> Session {
        Session {
            info: self.info.clone(),
            host: self.host.clone(),
            next_host: self.next_host.clone(),
            state: self.state,
            exit: self.exit,
            stdin: None,
            stdout: None,
            stderr: None,
            problem: None,
        }
    }
}

/// The file.
#[derive(Debug)]
pub(super) struct Store(PathBuf);

impl Store {
    pub(super) fn new(state: &Path) -> Self {
        Self(state.join("sessions.json"))
    }

    /// Reads the list. One that cannot be read is empty: hosts tell of their sessions when they are asked.
    pub(super) fn load(&self) -> Vec<Record> {
        state_file::load(&self.0, "the sessions are not remembered")
    }

    pub(super) fn save(&self, records: &[&Record]) -> io::Result<()> {
        state_file::save(&self.0, &records)
    }
}
