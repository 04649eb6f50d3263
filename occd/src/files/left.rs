//! What is half written on hosts, so that none of it stays there for ever.
//!
//! Whoever writes beside a file's place says so here first and has it forgotten when it is done. What a broken link leaves is
//! cleared away over the next connection, and what a killed daemon leaves by the one after it: `left.json` in the state
//! directory has the list.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use occ_proto::HostName;
use occ_proto::files::{Bytes, FileKind, is_unfinished};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{FileError, FileSystem, Shown, Slot, join, split};
use crate::host::{HostHandle, Tries};
use crate::prompts::Client;
use crate::state_file;

/// How long a request waits for what others leave at that moment: they are at it.
const LEAVING: Duration = Duration::from_secs(5);
/// How often it is tried to clear something away over new connections, until somebody uses the host's files.
const ATTEMPTS: u32 = 3;

/// Something half written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Remains {
    /// Where it is.
    pub(super) path: Bytes,
    /// It is a directory, and goes with everything in it.
    #[serde(default)]
    pub(super) tree: bool,
    /// It is kept under that name, for somebody to go on with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) keep: Option<Bytes>,
    /// What is behind that was written with gaps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) length: Option<u64>,
    /// What it is known by (`lanes.rs`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) mark: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Somebody writes.
    Written,
    /// Somebody is clearing it away.
    Leaving,
    /// It waits for a connection.
    Left,
}

type Book = BTreeMap<HostName, BTreeMap<u64, (Remains, State)>>;
/// The file.
type Saved = BTreeMap<HostName, Vec<Remains>>;

/// What is half written on all hosts.
#[derive(Debug)]
pub(super) struct Left {
    file: PathBuf,
    book: Mutex<(Book, u64)>,
    /// The hosts with something from an earlier daemon that nobody sees to yet.
    unseen: Mutex<BTreeSet<HostName>>,
    /// Held by whoever writes the file.
    saving: Mutex<()>,
    /// Somebody is about to write it.
    is_outdated: AtomicBool,
    changed: Notify,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Left {
    pub(super) fn load(state_dir: &Path, tasks: TaskTracker, stop: CancellationToken) -> Self {
        let file = state_dir.join("left.json");
        let saved: Saved = match std::fs::read(&file).map(|bytes| serde_json::from_slice(&bytes)) {
            Ok(Ok(saved)) => saved,
            Ok(Err(error)) => {
                tracing::warn!(file = %file.display(), %error, "not read");
                Saved::new()
            }
            Err(error) => {
                if error.kind() != std::io::ErrorKind::NotFound {
                    tracing::warn!(file = %file.display(), %error, "not read");
                }
                Saved::new()
            }
        };
        let mut next = 0;
        let mut book = Book::new();
        for (host, all) in saved {
            let of_host = book.entry(host).or_default();
            for remains in all.into_iter().filter(Remains::is_ours) {
                of_host.insert(next, (remains, State::Left));
                next += 1;
            }
        }
        let unseen = Mutex::new(book.keys().cloned().collect());
        let (saving, is_outdated) = (Mutex::default(), AtomicBool::new(false));
        let (book, changed) = (Mutex::new((book, next)), Notify::new());
        Self { file, book, unseen, saving, is_outdated, changed, tasks, stop }
    }

    fn lock(&self) -> MutexGuard<'_, (Book, u64)> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the file, later and elsewhere.
    fn save(self: &Arc<Self>) {
        if self.is_outdated.swap(true, Ordering::SeqCst) {
            return;
        }
        let left = Arc::clone(self);
        self.tasks.spawn_blocking(move || {
            let _one = left.saving.lock().unwrap_or_else(PoisonError::into_inner);
            left.is_outdated.store(false, Ordering::SeqCst);
            let saved: Saved = {
                let book = left.lock();
                let of = |all: &BTreeMap<u64, (Remains, State)>| {
                    all.values().map(|(remains, _)| remains.clone()).collect::<Vec<_>>()
                };
                book.0.iter().map(|(host, all)| (host.clone(), of(all))).collect()
            };
            if let Err(error) = state_file::save(&left.file, &saved) {
                tracing::warn!(file = %left.file.display(), %error, "not written");
            }
        });
    }

    fn set(self: &Arc<Self>, host: &HostName, id: u64, state: Option<State>) {
        {
            let mut book = self.lock();
            let Some(all) = book.0.get_mut(host) else { return };
            match state {
                Some(state) => {
                    if let Some((_, old)) = all.get_mut(&id) {
                        *old = state;
                    }
                }
                None => {
                    all.remove(&id);
                    if all.is_empty() {
                        book.0.remove(host);
                    }
                }
            }
        }
        self.changed.notify_waiters();
        if state.is_none() {
            self.save();
        }
    }

    /// Returns whether an earlier daemon left something on a host. It says so once.
    pub(super) fn is_unseen(&self, host: &HostName) -> bool {
        self.unseen.lock().unwrap_or_else(PoisonError::into_inner).remove(host)
    }

    /// Follows what is half written to the directories where it is now.
    fn moved(self: &Arc<Self>, host: &HostName, moved: &[(u64, Vec<u8>)]) {
        {
            let mut book = self.lock();
            let Some(all) = book.0.get_mut(host) else { return };
            for (id, dir) in moved {
                let Some((remains, _)) = all.get_mut(id) else { continue };
                for path in std::iter::once(&mut remains.path).chain(&mut remains.keep) {
                    if let Ok((_, name)) = split(&path.0) {
                        path.0 = join(dir, name);
                    }
                }
            }
        }
        self.save();
    }

    /// Returns whether something of a host's is in that state.
    fn any(&self, host: &HostName, wanted: State) -> bool {
        let book = self.lock();
        book.0.get(host).is_some_and(|all| all.values().any(|(_, state)| *state == wanted))
    }

    /// Takes what is left on a host.
    fn take(&self, host: &HostName) -> Vec<(u64, Remains)> {
        let mut book = self.lock();
        let Some(all) = book.0.get_mut(host) else { return Vec::new() };
        let mut taken = Vec::new();
        for (id, (remains, state)) in all {
            if *state == State::Left {
                *state = State::Leaving;
                taken.push((*id, remains.clone()));
            }
        }
        taken
    }

    /// Waits until nobody is clearing anything away, and clears away what is left on a host.
    pub(super) async fn clear(self: &Arc<Self>, fs: &FileSystem, host: &HostName) {
        let by = Instant::now() + LEAVING;
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if !self.any(host, State::Leaving) || timeout_at(by, changed).await.is_err() {
                break;
            }
        }
        for (id, remains) in self.take(host) {
            let state = remains.clear(fs).await;
            self.set(host, id, state);
        }
    }
}

impl Remains {
    /// Returns a file that is written at `path`, and kept at `keep` when that is cut short.
    pub(super) fn file(path: &[u8], keep: Option<&[u8]>) -> Self {
        let keep = keep.map(|keep| keep.to_vec().into());
        Self { path: path.to_vec().into(), tree: false, keep, length: None, mark: None }
    }

    /// Returns a directory that is written.
    pub(super) fn tree(path: &[u8]) -> Self {
        Self { path: path.to_vec().into(), tree: true, keep: None, length: None, mark: None }
    }

    /// Returns whether its names are of those that are given to what is half written. Nothing else is cleared away, whoever
    /// wrote the list.
    fn is_ours(&self) -> bool {
        let of =
            |path: &Bytes, is: fn(&[u8]) -> bool| split(&path.0).is_ok_and(|(_, name)| is(name));
        of(&self.path, is_unfinished)
            && self.keep.as_ref().is_none_or(|keep| of(keep, |name| name.ends_with(b".occ-part")))
    }

    /// Clears it away. Returns what is to be done about it still.
    async fn clear(&self, fs: &FileSystem) -> Option<State> {
        let path = &self.path.0;
        let cleared = match (&self.keep, self.tree) {
            (Some(keep), _) => match self.length {
                Some(length) => match fs.cut(path, length, self.mark).await {
                    Ok(true) => fs.rename(path, &keep.0, true).await,
                    // Whatever is there by now is not what was written.
                    Ok(false) => fs.remove(path, FileKind::File).await,
                    Err(error) => Err(error),
                },
                None => fs.rename(path, &keep.0, true).await,
            },
            (None, true) => fs.remove_all(path).await,
            (None, false) => fs.remove(path, FileKind::File).await,
        };
        match cleared {
            Ok(()) | Err(FileError::NotFound(_)) => None,
            Err(
                error @ (FileError::Lost(..)
                | FileError::Ended(_)
                | FileError::Silent { .. }
                | FileError::Unreachable(_)
                | FileError::NoSession(_)),
            ) => {
                tracing::debug!(%error, path = %Shown::of(path), "what was not finished is left");
                Some(State::Left)
            }
            Err(error) => {
                tracing::info!(%error, path = %Shown::of(path), "what was not finished could not be removed");
                None
            }
        }
    }
}

/// The way to what is left on a host.
#[derive(Debug, Clone)]
pub(super) struct Home {
    pub(super) left: Arc<Left>,
    pub(super) slot: Arc<Slot>,
    pub(super) host: HostHandle,
}

impl Home {
    /// Notes something that is written from now on.
    pub(super) fn claim(&self, remains: Remains) -> Claim {
        let id = {
            let mut book = self.left.lock();
            let id = book.1;
            book.1 += 1;
            let all = book.0.entry(self.host.name().clone()).or_default();
            all.insert(id, (remains, State::Written));
            id
        };
        self.left.save();
        Claim { home: self.clone(), id, is_over: false }
    }

    /// Gives something another path, and with it what is half written below it, by whatever names that is known.
    pub(super) async fn rename(
        &self,
        fs: &FileSystem,
        (from, to): (&[u8], &[u8]),
        replace: bool,
    ) -> Result<(), FileError> {
        let below = self.below(fs, from).await;
        fs.rename(from, to, replace).await?;
        if !below.is_empty() {
            let to = trimmed(to);
            let moved = below.into_iter().map(|(id, rest)| (id, [to, &rest].concat()));
            self.left.moved(self.host.name(), &moved.collect::<Vec<_>>());
        }
        Ok(())
    }

    /// Returns what is half written below a directory, and in which directory of those below it.
    async fn below(&self, fs: &FileSystem, top: &[u8]) -> Vec<(u64, Vec<u8>)> {
        let known: Vec<(u64, Vec<u8>)> = {
            let book = self.left.lock();
            let all = book.0.get(self.host.name()).into_iter().flatten();
            all.map(|(id, (remains, _))| (*id, remains.path.0.clone())).collect()
        };
        let mut below = Vec::new();
        let Ok((dir, name)) = split(trimmed(top)) else { return below };
        // Nothing is asked where nothing is written. A link that is renamed takes nothing with it.
        let Some(dir) = (if known.is_empty() { None } else { fs.real_path(dir).await.ok() }) else {
            return below;
        };
        let top = join(&dir, name);
        for (id, path) in known {
            let Ok((dir, _)) = split(&path) else { continue };
            let Ok(real) = fs.real_path(dir).await else { continue };
            let rest = real.strip_prefix(top.as_slice());
            if let Some(rest) = rest.filter(|rest| rest.is_empty() || rest.starts_with(b"/")) {
                below.push((id, rest.to_vec()));
            }
        }
        below
    }

    /// Clears away what is left when the host is connected.
    pub(super) fn clear_when_up(self) {
        let stop = self.left.stop.clone();
        self.left.tasks.clone().spawn(async move {
            stop.run_until_cancelled(async {
                for _ in 0..ATTEMPTS {
                    self.host.up().await;
                    if !self.left.any(self.host.name(), State::Left) {
                        return;
                    }
                    let (tries, client) = (Tries::Retries(0), Client::default());
                    match self.slot.open(&self.left, &self.host, tries, &client).await {
                        Ok(fs) => self.left.clear(&fs, self.host.name()).await,
                        Err(error) => tracing::debug!(%error, "what was left stays for now"),
                    }
                }
            })
            .await;
        });
    }
}

/// Something half written, until it is done with. Dropped, it is left.
#[derive(Debug)]
pub(super) struct Claim {
    home: Home,
    id: u64,
    is_over: bool,
}

impl Claim {
    fn set(&self, state: Option<State>) {
        self.home.left.set(self.home.host.name(), self.id, state);
    }

    /// It is in its place.
    pub(super) fn done(mut self) {
        self.is_over = true;
        self.set(None);
    }

    fn change(&self, change: impl FnOnce(&mut Remains)) {
        let mut book = self.home.left.lock();
        let all = book.0.get_mut(self.home.host.name());
        if let Some((remains, _)) = all.and_then(|all| all.get_mut(&self.id)) {
            change(remains);
        }
    }

    /// It is not to be gone on with.
    pub(super) fn not_kept(&self) {
        self.change(|remains| remains.keep = None);
    }

    /// Only so much of it is whole.
    pub(super) fn whole_until(&self, length: u64, mark: u32) {
        self.change(|remains| (remains.length, remains.mark) = (Some(length), Some(mark)));
    }

    /// It is being cleared away.
    pub(super) fn leaving(&self) {
        self.set(Some(State::Leaving));
    }

    /// Clears it away, now or over the next connection.
    pub(super) async fn clear(mut self, fs: &FileSystem) {
        let remains = {
            let book = self.home.left.lock();
            let all = book.0.get(self.home.host.name());
            all.and_then(|all| all.get(&self.id)).map(|(remains, _)| remains.clone())
        };
        let Some(remains) = remains else { return };
        let state = remains.clear(fs).await;
        if state.is_none() {
            self.is_over = true;
            self.set(None);
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        self.set(Some(State::Left));
        self.home.clone().clear_when_up();
    }
}

/// Returns a path without slashes at its end.
fn trimmed(path: &[u8]) -> &[u8] {
    let length = path.iter().rposition(|byte| *byte != b'/').map_or(0, |last| last + 1);
    &path[..length]
}
