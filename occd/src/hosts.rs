//! hosts.json: loads it, validates it, saves it atomically and notices edits by hand.
//!
//! The API changes hosts through [`HostsStore::update`]; the pool follows [`HostsStore::subscribe`];
//! the daemon runs [`HostsStore::watch`] on its task tracker. Nothing here dials, and nothing but
//! `update` writes. The file belongs to the existing opencode-cloud tool as much as to us, and that
//! tool neither locks nor writes atomically, so every change starts from what is on disk and is given
//! up when the disk changes underneath.
//!
//! Edits are noticed by `stat`, when the kernel says that something has happened to the file or to what
//! leads there (`watched.rs`). Where it cannot tell (network and FUSE file systems, a used-up limit of
//! watches) the file is looked at once a second. Who must not be late, as no request that concerns hosts may
//! be, calls [`HostsStore::refresh`] first.

mod file;
mod save;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use occ_proto::host::HostsFile;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use file::{HostsFault, HostsFileError};
pub use save::{WriteError, WriteStep};

use file::{Good, Loaded, Seen, load, observe, same};
use save::{Outcome, save, sweep};

use crate::blocking::blocking;
use crate::watched::Watched;

/// How often a file that is not watched is looked at: soon enough for a person who saves and then types a
/// command.
const POLL: Duration = Duration::from_secs(1);
/// How long a changed file must stay the same before it is read. Longer than an editor needs between
/// truncating and writing, or between moving the old file away and the new one in.
const SETTLE: Duration = Duration::from_millis(75);
/// After so many changes in a row the file is read as it is, so that a writer without end (1.5 s)
/// cannot keep every update waiting.
const SETTLE_ROUNDS: usize = 20;
/// How often a change is applied anew because the file changed meanwhile.
const MAX_ATTEMPTS: usize = 5;

/// Why a change was not made. The file and the hosts in memory are as they were.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError<E> {
    /// The change itself refused.
    #[error(transparent)]
    Change(E),
    /// The file on disk cannot be used; it is left for a person to mend.
    #[error(transparent)]
    File(HostsFileError),
    /// Saving failed.
    #[error(transparent)]
    Write(WriteError),
    /// Something else kept writing the file.
    #[error("hosts.json changed {MAX_ATTEMPTS} times while it was being changed here ({})", path.display())]
    Contended {
        /// The file.
        path: PathBuf,
    },
}

/// The hosts at one moment.
#[derive(Debug)]
pub struct HostsSnapshot {
    /// The last good content; empty when there is none, or no file.
    pub file: HostsFile,
    /// What is wrong with the file as it is now; `file` is then what it last held when it was good.
    pub problem: Option<HostsFileError>,
    /// Grows by one with every change of the other fields. Starts at 1 with the daemon.
    pub revision: u64,
    /// The file, by the name under which it was looked for.
    pub path: PathBuf,
}

impl HostsSnapshot {
    /// Returns whether the hosts are those from before, and gone when the daemon ends: their file cannot be used.
    pub fn is_unsaved(&self) -> bool {
        self.problem.is_some() && self.usable().is_ok()
    }

    /// Returns the hosts for a command to use: the last good ones, or the problem where there are
    /// none, because taking a broken file for an empty one would send commands to the local Docker.
    pub fn usable(&self) -> Result<&HostsFile, &HostsFileError> {
        match &self.problem {
            Some(problem) if self.file.hosts.is_empty() => Err(problem),
            _ => Ok(&self.file),
        }
    }
}

/// The store of hosts.json. Clones share it.
#[derive(Debug, Clone)]
pub struct HostsStore {
    shared: Arc<Shared>,
    watched: Arc<Watched>,
    /// Held over reading, changing, writing and publishing, so that no older state overwrites a newer
    /// one, on disk or in memory.
    turn: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Debug)]
struct Shared {
    candidates: Vec<PathBuf>,
    state: watch::Sender<Arc<HostsSnapshot>>,
    seen: Mutex<Seen>,
}

impl HostsStore {
    /// Returns the store of the first of `candidates` that exists, else of the first
    /// (`Env::hosts_file_candidates`). A file that cannot be used leaves it without hosts and with
    /// [`HostsSnapshot::problem`] set. Reads the file at once; it is small.
    pub fn open(candidates: Vec<PathBuf>) -> Self {
        let watched = Watched::new(candidates.clone());
        Self::open_with(candidates, watched)
    }

    fn open_with(candidates: Vec<PathBuf>, watched: Watched) -> Self {
        let Loaded { seen, result } = load(&candidates);
        let path = seen.at.path.clone();
        let (file, problem) = match result {
            Ok(good) => (good.file, None),
            Err(problem) => {
                tracing::warn!(%problem, "no host is known");
                (HostsFile::default(), Some(problem))
            }
        };
        if let Some(directory) = path.parent() {
            sweep(directory);
        }
        let snapshot = HostsSnapshot { file, problem, revision: 1, path };
        let state = watch::Sender::new(Arc::new(snapshot));
        let shared = Arc::new(Shared { candidates, state, seen: Mutex::new(seen) });
        Self { shared, watched: Arc::new(watched), turn: Arc::default() }
    }

    /// Returns the hosts as last read.
    pub fn current(&self) -> Arc<HostsSnapshot> {
        self.shared.state.borrow().clone()
    }

    /// Returns a receiver of every later state; between two looks only the latest is kept.
    pub fn subscribe(&self) -> watch::Receiver<Arc<HostsSnapshot>> {
        self.shared.state.subscribe()
    }

    /// Returns the hosts as the file has them now. Takes one `stat` when something may have changed, and at
    /// least 75 ms when the file did.
    pub async fn refresh(&self) -> Arc<HostsSnapshot> {
        if self.watched.is_quiet() && self.shared.is_conclusive() {
            return self.current();
        }
        let (shared, watched) = (self.shared.clone(), self.watched.clone());
        let look = move || {
            let since = watched.begin();
            (since, shared.changed())
        };
        let (since, changed) = blocking(look).await;
        if changed {
            let _turn = self.turn.lock().await;
            self.read().await;
        }
        // Last: until it is published it is not known.
        self.watched.looked(since);
        self.current()
    }

    /// Follows edits by hand until `cancel` is cancelled.
    pub async fn watch(&self, cancel: CancellationToken) {
        let due = async || match self.shared.is_conclusive() {
            true => self.watched.due(POLL).await,
            false => tokio::time::sleep(POLL).await,
        };
        while cancel.run_until_cancelled(due()).await.is_some() {
            self.refresh().await;
        }
    }

    /// Changes the file and returns what `change` returned. `change` gets the file as it is on disk
    /// now, so edits by hand are kept; it runs again, at most 5 times in all, when the file changes
    /// meanwhile. A change that changes nothing writes nothing.
    ///
    /// Once writing has begun it is carried through even if the returned future is dropped. Between
    /// the last look at the file and the rename lie microseconds in which another program's write
    /// would be lost; the existing tool takes no lock that could close that gap.
    ///
    /// # Errors
    /// See [`UpdateError`]. A directory that cannot be synced after the rename is only logged: the
    /// change is made and visible, and taking it back could fail the same way.
    pub async fn update<T, E>(
        &self,
        mut change: impl FnMut(&mut HostsFile) -> Result<T, E>,
    ) -> Result<T, UpdateError<E>> {
        let mut turn = self.turn.clone().lock_owned().await;
        for _ in 0..MAX_ATTEMPTS {
            let Loaded { seen, result } = self.read().await;
            let base = result.map_err(UpdateError::File)?;
            let mut file = base.file.clone();
            let value = change(&mut file).map_err(UpdateError::Change)?;
            if same(&file, &base.file) {
                return Ok(value);
            }
            let shared = self.shared.clone();
            // The turn goes along: if this future is dropped, the write ends before the next begins.
            let (returned, commit) =
                blocking(move || (turn, shared.commit(&seen.at.path, &base, file))).await;
            turn = returned;
            match commit.map_err(UpdateError::Write)? {
                Outcome::Saved => return Ok(value),
                Outcome::Stale => {}
            }
        }
        Err(UpdateError::Contended { path: self.current().path.clone() })
    }

    /// Reads the file, waiting until it keeps still if it changed, and publishes it. The caller holds
    /// the turn.
    async fn read(&self) -> Loaded {
        let shared = self.shared.clone();
        let mut loaded = blocking(move || load(&shared.candidates)).await;
        if self.shared.differs(&loaded) {
            // A missing file may be between an editor's two renames, a broken one half written. Only
            // what stays is believed: a file that stays away was deleted on purpose, and who deletes
            // it expects no hosts, not those of yesterday.
            self.settle().await;
            let shared = self.shared.clone();
            loaded = blocking(move || load(&shared.candidates)).await;
        }
        self.shared.publish(&loaded);
        loaded
    }

    async fn settle(&self) {
        let mut before = None;
        for _ in 0..SETTLE_ROUNDS {
            let shared = self.shared.clone();
            let now = Some(blocking(move || observe(&shared.candidates)).await);
            if now == before {
                return;
            }
            before = now;
            tokio::time::sleep(SETTLE).await;
        }
    }
}

impl Shared {
    /// Returns whether the file cannot have changed again without looking so.
    fn is_conclusive(&self) -> bool {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).conclusive
    }

    fn changed(&self) -> bool {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        !seen.conclusive || observe(&self.candidates) != seen.at
    }

    fn differs(&self, loaded: &Loaded) -> bool {
        let current = self.state.borrow();
        match &loaded.result {
            _ if loaded.seen.at.path != current.path => true,
            Ok(good) => current.problem.is_some() || !same(&good.file, &current.file),
            // io::Error cannot be compared; its text can.
            Err(problem) => format!("{:?}", current.problem) != format!("{:?}", Some(problem)),
        }
    }

    /// Makes a reading the current state; a reading that says the same changes no revision.
    fn publish(&self, loaded: &Loaded) {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = loaded.seen.clone();
        if !self.differs(loaded) {
            return;
        }
        let path = loaded.seen.at.path.clone();
        match &loaded.result {
            Ok(good) => {
                tracing::info!(path = %path.display(), hosts = good.file.hosts.len(), "hosts changed");
                self.replace(good.file.clone(), None, path);
            }
            Err(problem) => {
                tracing::warn!(problem = problem.for_log(), "the hosts stay as they were");
                let file = self.state.borrow().file.clone();
                self.replace(file, Some(problem.clone()), path);
            }
        }
    }

    fn replace(&self, file: HostsFile, problem: Option<HostsFileError>, path: PathBuf) {
        self.state.send_modify(|state| {
            let revision = state.revision + 1;
            *state = Arc::new(HostsSnapshot { file, problem, revision, path });
        });
    }

    /// Saves `file` over what it was made from and, when that is done, publishes it.
    fn commit(&self, path: &Path, base: &Good, file: HostsFile) -> Result<Outcome, WriteError> {
        let outcome = save(&self.candidates, path, base, &file)?;
        if outcome == Outcome::Saved {
            tracing::info!(path = %path.display(), hosts = file.hosts.len(), "hosts saved");
            self.replace(file, None, path.to_owned());
            // Not conclusive, so the next look reads the file and finds what is published already.
            *self.seen.lock().unwrap_or_else(PoisonError::into_inner) =
                Seen { at: observe(&self.candidates), conclusive: false };
        }
        Ok(outcome)
    }
}
