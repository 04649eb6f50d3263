//! Private keys that a person has given the passphrase for: in this process's memory and nowhere else, until
//! the daemon stops or their time is over. russh's keys wipe themselves when they are dropped.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use occ_proto::Secret;
use occ_proto::paths::with_tilde;
use occ_proto::prompt::PromptKind;
use occ_proto::status::Phase;
use occ_proto::text::sanitize;
use russh::keys::PrivateKey;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::error::ConnectError;
use super::identity;
use crate::blocking::blocking;
use crate::prompts::{Asked, NoAnswer, Place, Prompts, Question, Questions, TRIES};
use crate::stamp::Stamp;

/// The keys that are open.
#[derive(Debug)]
pub struct UnlockedKeys {
    keys: Mutex<HashMap<PathBuf, OpenKey>>,
    turns: Mutex<HashMap<PathBuf, Arc<Turn>>>,
    /// Counts the keys that were opened.
    opened: watch::Sender<u64>,
    lifetime: Mutex<Option<Duration>>,
    prompts: Arc<Prompts>,
    home: PathBuf,
}

struct OpenKey {
    key: Arc<PrivateKey>,
    /// The file as it was: another key may have taken its place.
    stamp: Stamp,
    since: Instant,
}

impl std::fmt::Debug for OpenKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenKey").field("stamp", &self.stamp).finish_non_exhaustive()
    }
}

/// One at a time asks for the passphrase of a key; the others wait for the same answer.
#[derive(Debug)]
struct Turn {
    place: Place,
    questions: Questions,
}

impl UnlockedKeys {
    /// Returns a place without keys.
    pub fn new(prompts: Arc<Prompts>, home: PathBuf) -> Self {
        Self {
            keys: Mutex::default(),
            turns: Mutex::default(),
            opened: watch::Sender::default(),
            lifetime: Mutex::default(),
            prompts,
            home,
        }
    }

    fn keys(&self) -> MutexGuard<'_, HashMap<PathBuf, OpenKey>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turn(&self, path: &Path) -> Arc<Turn> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = turns.entry(path.to_owned()).or_insert_with(|| {
            let questions = Questions::new(Arc::clone(&self.prompts));
            Arc::new(Turn { place: Place::default(), questions })
        });
        Arc::clone(turn)
    }

    fn lifetime(&self) -> Option<Duration> {
        *self.lifetime.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets how long a key stays open; also for those that are.
    pub fn set_lifetime(&self, lifetime: Option<Duration>) {
        *self.lifetime.lock().unwrap_or_else(PoisonError::into_inner) = lifetime;
        self.opened.send_modify(|_| {});
    }

    /// Returns the open key of a file.
    pub fn get(&self, path: &Path) -> Option<Arc<PrivateKey>> {
        let stamp = Stamp::of(path).ok()?;
        let lifetime = self.lifetime();
        let keys = self.keys();
        let open = keys.get(path).filter(|open| open.stamp == stamp)?;
        lifetime.is_none_or(|time| open.since.elapsed() < time).then(|| Arc::clone(&open.key))
    }

    /// Waits until the key of a file is open.
    pub fn opened(self: &Arc<Self>, path: PathBuf) -> impl Future<Output = ()> + use<> {
        let this = Arc::clone(self);
        async move {
            let mut opened = this.opened.subscribe();
            while this.get(&path).is_none() {
                if opened.changed().await.is_err() {
                    return;
                }
            }
        }
    }

    /// Returns the key of a file that is locked, asking for its passphrase if it is not open: once, however
    /// many hosts need it, and as long as one of them does.
    pub async fn unlock(
        &self,
        path: &Path,
        asking: &Questions,
    ) -> Result<Arc<PrivateKey>, ConnectError> {
        let turn = self.turn(path);
        let _stay = turn.place.enter();
        let work = async {
            let mut asked = turn.place.turn().await;
            if let Some(key) = self.get(path) {
                return Ok(key);
            }
            // Another dial of the same request has asked already.
            if asking.are_spent(path) {
                return Err(self.unanswered(path, NoAnswer::Wrong));
            }
            let key = self.ask(path, &turn.questions, &mut asked).await;
            let is_wrong =
                matches!(key, Err(ConnectError::Unanswered { why: NoAnswer::Wrong, .. }));
            turn.questions.settle(is_wrong);
            key
        };
        asking.during(&turn.questions, work).await
    }

    async fn ask(
        &self,
        path: &Path,
        questions: &Questions,
        asked: &mut Option<Asked>,
    ) -> Result<Arc<PrivateKey>, ConnectError> {
        let message = format!("Passphrase for {} (asked once for all hosts)", self.shown(path));
        let mut note = None;
        for _ in 0..TRIES {
            if questions.are_spent(path) {
                break;
            }
            let question = Question {
                kind: PromptKind::Passphrase,
                host: None,
                message: message.clone(),
                again: note.is_some(),
                note: note.take(),
                secret: true,
            };
            let answer = questions.ask_in(asked, question).await;
            let answer = answer.map_err(|why| self.unanswered(path, why))?;
            let Ok(stamp) = Stamp::of(path) else { break };
            if let Some(key) = open(path, answer.text).await? {
                tracing::info!(key = %path.display(), "a key was unlocked");
                let key = Arc::new(key);
                let open = OpenKey { key: Arc::clone(&key), stamp, since: Instant::now() };
                self.keys().insert(path.to_owned(), open);
                self.opened.send_modify(|count| *count += 1);
                return Ok(key);
            }
            answer.by.were_wrong(path);
            note = Some("That passphrase is wrong.".to_owned());
        }
        Err(self.unanswered(path, NoAnswer::Wrong))
    }

    fn unanswered(&self, path: &Path, why: NoAnswer) -> ConnectError {
        ConnectError::Unanswered {
            question: format!("the passphrase for {} is needed", self.shown(path)),
            phase: Phase::Authentication,
            key: Some(path.to_owned()),
            why,
        }
    }

    fn shown(&self, path: &Path) -> String {
        sanitize(&with_tilde(path, &self.home))
    }

    /// Wipes each key when its time is over, and all when `stop` is cancelled.
    pub async fn sweep(&self, stop: CancellationToken) {
        let mut opened = self.opened.subscribe();
        loop {
            let next = {
                let lifetime = self.lifetime();
                let mut keys = self.keys();
                keys.retain(|path, open| {
                    let over = lifetime.is_some_and(|time| open.since.elapsed() >= time);
                    if over {
                        tracing::info!(key = %path.display(), "a key was locked: its time is over");
                    }
                    !over
                });
                lifetime.and_then(|time| keys.values().map(|open| open.since + time).min())
            };
            let due = async {
                match next {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => break,
                () = due => {}
                // The sender is ours.
                _ = opened.changed() => {}
            }
        }
        self.keys().clear();
    }
}

/// Returns the key, or nothing if that is not its passphrase. Deriving the key from a passphrase takes a while
/// on purpose.
async fn open(path: &Path, passphrase: Secret) -> Result<Option<PrivateKey>, ConnectError> {
    let path = path.to_owned();
    Ok(blocking(move || identity::open(&path, &passphrase)).await?)
}
