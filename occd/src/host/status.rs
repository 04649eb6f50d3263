//! A host as it is shown to clients.

use jiff::Timestamp;
use occ_proto::HostConfig;
use occ_proto::status::{HostStatus, LastError};

use super::HostHandle;
use super::machine::Retry;
use crate::ssh::ConnectError;
use crate::ssh::error::chain;

impl HostHandle {
    /// Returns the same with what is too much for a list.
    pub fn full_status(&self) -> HostStatus {
        HostStatus { rtt_recent_ms: self.round_trips.recent(), ..self.status() }
    }

    /// Returns the host as it is shown to clients.
    pub fn status(&self) -> HostStatus {
        let snapshot = self.snapshot();
        HostStatus {
            name: self.name.clone(),
            state: snapshot.state,
            status: snapshot.state.status(),
            since: snapshot.since,
            attempt: snapshot.attempt,
            next_retry_at: snapshot.next_retry_at,
            idle_reason: snapshot.idle_reason,
            idle_close_s: snapshot.idle_policy.map(|age| age.as_secs()),
            last_error: snapshot.last_error.as_ref().map(|(error, at)| last_error(error, *at)),
            rtt_recent_ms: Vec::new(),
            question: self.question().map(|question| question.to_string()),
            rtt_ms: snapshot
                .usable()
                .and_then(|connection| connection.rtt())
                .map(|rtt| (rtt.as_secs_f64() * 1e6).round() / 1e3),
            connections: u32::try_from(snapshot.retired.len()).unwrap_or(u32::MAX)
                + u32::from(snapshot.primary.is_some()),
            open_channels: snapshot.open_channels(),
            connects: snapshot.connects,
            bytes_in: snapshot.bytes().0,
            bytes_out: snapshot.bytes().1,
            connection: snapshot.primary.as_ref().map(|connection| connection.info()),
            etag: snapshot.etag.clone(),
            sandbox: None,
            docker_error: None,
            config: snapshot.config.clone(),
            warnings: Vec::new(),
            revision: snapshot.revision,
        }
    }
}

fn last_error(error: &ConnectError, at: Timestamp) -> LastError {
    LastError {
        code: error.code(),
        phase: error.phase(),
        message: chain(error),
        hop: error.blame().1.cloned(),
        at,
        retryable: error.retry() != Retry::Fatal,
    }
}

/// Returns the entity tag of a configuration: it changes exactly when the configuration does.
pub fn etag(config: &HostConfig) -> String {
    use sha2::Digest as _;
    // A struct of strings and numbers always serialises.
    let json = serde_json::to_vec(config).unwrap_or_default();
    let digest = sha2::Sha256::digest(&json);
    let hex: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("\"{hex}\"")
}
