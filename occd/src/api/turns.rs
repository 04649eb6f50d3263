//! One at a time: what changes files below a root. Between the look at where a path leads and its use nobody else may
//! exchange a directory for a link, at least not through this daemon.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::http::StatusCode;
use occ_proto::Code;
use tokio::sync::{Mutex as Turn, OwnedMutexGuard};
use tokio::time::timeout;

use super::error::ApiError;

/// How long one waits for another.
const PATIENCE: Duration = Duration::from_secs(30);

/// The turns of each place.
#[derive(Debug, Default)]
pub struct Turns(Mutex<HashMap<String, Arc<Turn<()>>>>);

impl Turns {
    /// Waits for the turn at a place, which lasts until it is dropped.
    pub(super) async fn wait(&self, place: &str) -> Result<OwnedMutexGuard<()>, ApiError> {
        let turn = {
            let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(turns.entry(place.to_owned()).or_default())
        };
        timeout(PATIENCE, turn.lock_owned()).await.map_err(|_| {
            let detail = format!(
                "{place}: something else is being written there, and below a root it is one at a time."
            );
            ApiError::new(StatusCode::CONFLICT, Code::FileError, detail).may_come_back()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_waits_for_another_at_the_same_place_and_not_for_ever() {
        let turns = Turns::default();
        let first = turns.wait("a").await.unwrap();
        let _elsewhere = turns.wait("b").await.unwrap();
        let refused = turns.wait("a").await.unwrap_err();
        assert_eq!(refused.0.code, Code::FileError);
        assert!(refused.0.retryable);
        drop(first);
        drop(turns.wait("a").await.unwrap());
    }
}
