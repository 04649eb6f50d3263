//! Turns of what goes through paths below a root. Between the look at where a path leads and its use nobody may exchange a
//! directory for a link, at least not through this daemon: that takes a rename or an archive, which has its turn alone.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::http::StatusCode;
use occ_proto::Code;
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};
use tokio::time::{sleep, timeout};

use super::error::ApiError;

/// How long one waits for others.
const PATIENCE: Duration = Duration::from_secs(30);
/// For how long whoever wants to be alone stands in the queue, where those behind wait for it, and then lets them pass. Else
/// two clients could keep all others out: one that is slow, and one that waits for it.
const QUEUE: Duration = Duration::from_millis(250);

/// The turns at each server.
#[derive(Debug, Default)]
pub struct Turns(Mutex<HashMap<String, Arc<RwLock<()>>>>);

/// A turn, which lasts until it is dropped.
#[derive(Debug)]
pub(super) enum Turn {
    /// What is on the way stays as it is.
    Among(#[expect(dead_code, reason = "held")] OwnedRwLockReadGuard<()>),
    /// Nobody is on the way.
    Alone(#[expect(dead_code, reason = "held")] OwnedRwLockWriteGuard<()>),
}

impl Turns {
    fn at(&self, server: &str) -> Arc<RwLock<()>> {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(turns.entry(server.to_owned()).or_default())
    }

    /// Waits until nothing is renamed or unpacked at a server.
    pub(super) async fn among(&self, server: &str) -> Result<Turn, ApiError> {
        let turn = timeout(PATIENCE, self.at(server).read_owned()).await;
        turn.map(Turn::Among).map_err(|_| busy("Something is being renamed or unpacked"))
    }

    /// Waits until nobody is on the way at a server.
    pub(super) async fn alone(&self, server: &str) -> Result<Turn, ApiError> {
        let turns = self.at(server);
        let free = async {
            loop {
                if let Ok(turn) = timeout(QUEUE, Arc::clone(&turns).write_owned()).await {
                    return turn;
                }
                sleep(QUEUE).await;
            }
        };
        let turn = timeout(PATIENCE, free).await;
        turn.map(Turn::Alone).map_err(|_| busy("Something else is being read or written"))
    }
}

fn busy(what: &str) -> ApiError {
    let detail = format!("{what} there; below a root renames and archives have their turn alone.");
    ApiError::new(StatusCode::CONFLICT, Code::FileError, detail).may_come_back()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn whoever_renames_is_alone_and_nobody_waits_for_ever() {
        let turns = Turns::default();
        let first = turns.among("a").await.unwrap();
        let second = turns.among("a").await.unwrap();
        let _elsewhere = turns.alone("b").await.unwrap();
        let refused = turns.alone("a").await.unwrap_err();
        assert_eq!(refused.0.code, Code::FileError);
        assert!(refused.0.retryable);
        drop((first, second));
        let alone = turns.alone("a").await.unwrap();
        assert!(turns.among("a").await.unwrap_err().0.retryable);
        drop(alone);
        drop(turns.among("a").await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_to_be_alone_keeps_nobody_out_for_long() {
        let turns = Turns::default();
        let slow = turns.among("a").await.unwrap();
        let alone = turns.alone("a");
        let others = async {
            tokio::task::yield_now().await;
            let begun = tokio::time::Instant::now();
            drop(turns.among("a").await.unwrap());
            assert!(begun.elapsed() <= QUEUE);
            drop(slow);
        };
        let (alone, ()) = tokio::join!(alone, others);
        assert!(alone.is_ok());
    }
}
