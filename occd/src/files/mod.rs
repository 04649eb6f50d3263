//! Files of hosts, and of this machine.
//!
//! Both are a [`FileSystem`]: the same calls, results and errors. A host's is SFTP (`sftp.rs`) over a channel that is
//! kept for a while, so that a small request costs a round trip or two, or, where the host has no SFTP, commands of its
//! shell (`shell.rs`); this machine's is its own (`local.rs`). A file that is written is another one beside it until it is
//! whole (`upload.rs`); what a broken link leaves of such is cleared away later (`left.rs`).
//!
//! Paths are bytes. A relative one, and one behind `~/`, is in the home directory. Names that a server sends are
//! checked before anything is done with them.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use occ_proto::HostName;
use occ_proto::files::{FileInfo, FileKind, is_plain_name, partial_name};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

mod digest;
mod download;
mod ending;
mod error;
mod lanes;
mod left;
mod local;
mod remote;
mod script;
mod search;
mod sftp;
mod shell;
mod tree;
mod upload;
mod watch;

pub use digest::digest_of;
pub use download::Download;
pub use error::{FileError, Shown};
pub use local::LocalFiles;
pub use search::{Search, SearchWish};
pub use shell::Shell;
pub use tree::{Pack, Unpack};
pub use upload::{Condition, Upload, UploadWish};
pub use watch::Watch;

use crate::exec::Executor;
use crate::host::{HostHandle, Tries};
use crate::prompts::Client;
use crate::ssh::{ChannelError, Connection, Work};
use left::{Claim, Home, Left, Remains};
use sftp::Sftp;

/// How long a session for files is kept after it was used: a person's next command comes within it.
const KEPT: Duration = Duration::from_secs(60);

/// The permissions with which a program runs as its owner or group.
pub const SET_ID: u32 = 0o6000;

/// What is known of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attrs {
    /// What it is.
    pub kind: FileKind,
    /// Its length.
    pub size: u64,
    /// The lower twelve bits of its mode.
    pub mode: u32,
    /// Owner and group.
    pub owner: (u32, u32),
    /// When it was changed last, in seconds since 1970.
    pub mtime: i64,
    /// More that changes with it, where the file system tells.
    pub stamp: u64,
}

impl Attrs {
    /// Returns the entity tag.
    pub fn etag(&self) -> String {
        format!("\"{:x}-{:x}-{:x}\"", self.size, self.mtime, self.stamp)
    }

    /// Returns it for a client.
    pub fn info(&self, name: &[u8], target: Option<Vec<u8>>) -> FileInfo {
        FileInfo {
            name: name.to_vec().into(),
            kind: self.kind,
            size: self.size,
            mode: self.mode,
            uid: self.owner.0,
            gid: self.owner.1,
            mtime: self.mtime,
            target: target.map(Into::into),
            etag: self.etag(),
        }
    }
}

/// A name in a directory.
#[derive(Debug, Clone)]
pub struct Entry {
    /// It, which leads nowhere else.
    pub name: Bytes,
    /// What it is; of a link, the link.
    pub attrs: Attrs,
}

/// The sessions for files of all hosts, and this machine's files.
#[derive(Debug)]
pub struct Files {
    local: Arc<LocalFiles>,
    hosts: Mutex<HashMap<HostName, Arc<Slot>>>,
    left: Arc<Left>,
}

/// A host's session, which one request at a time opens.
#[derive(Debug, Default)]
struct Slot(tokio::sync::Mutex<Kept>);

/// What is known of a host's SFTP.
#[derive(Debug, Default)]
enum Kept {
    #[default]
    Nothing,
    Session(Arc<Sftp>),
    /// There is none on that connection.
    NoSftp(Weak<Connection>),
}

impl Files {
    /// Returns none yet. What is half written is noted in the state directory.
    pub fn new(
        local: LocalFiles,
        state_dir: &Path,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        let left = Arc::new(Left::load(state_dir, tasks, stop));
        Self { local: Arc::new(local), hosts: Mutex::default(), left }
    }

    /// Returns the files of a place, connecting to it if need be.
    ///
    /// # Errors
    ///
    /// No connection, no session, neither SFTP nor a shell that stands in for it.
    pub fn of<'a>(
        &'a self,
        executor: &'a Executor,
        tries: Tries,
        client: &'a Client,
    ) -> BoxFuture<'a, Result<FileSystem, FileError>> {
        // Boxed, as its type is deep.
        Box::pin(self.open(executor, tries, client))
    }

    fn slot(&self, host: &HostHandle) -> Arc<Slot> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(hosts.entry(host.name().clone()).or_default())
    }

    /// Clears away what an earlier daemon left half written on these hosts, as soon as they are connected.
    pub fn follow(&self, hosts: &[HostHandle]) {
        for host in hosts.iter().filter(|host| self.left.is_unseen(host.name())) {
            let (left, slot) = (Arc::clone(&self.left), self.slot(host));
            Home { left, slot, host: host.clone() }.clear_when_up();
        }
    }

    async fn open(
        &self,
        executor: &Executor,
        tries: Tries,
        client: &Client,
    ) -> Result<FileSystem, FileError> {
        let host = match executor {
            Executor::Local(_) => return Ok(FileSystem::Local(Arc::clone(&self.local))),
            Executor::Host(host) => host,
        };
        let slot = self.slot(host);
        let fs = slot.open(&self.left, host, tries, client).await?;
        self.left.clear(&fs, host.name()).await;
        Ok(fs)
    }
}

impl Slot {
    async fn open(
        self: &Arc<Self>,
        left: &Arc<Left>,
        host: &HostHandle,
        tries: Tries,
        client: &Client,
    ) -> Result<FileSystem, FileError> {
        let (left, slot, handle) = (Arc::clone(left), Arc::clone(self), host.clone());
        let home = Home { left, slot, host: handle };
        match self.session(host, tries, client).await {
            Ok((sftp, work)) => Ok(FileSystem::Remote(Remote { sftp, work: Arc::new(work), home })),
            Err(FileError::NoSftp) => {
                let executor = Executor::Host(host.clone());
                let shell = Shell::new(executor, tries, client.clone(), home);
                self.no_sftp(&shell).await?;
                Ok(FileSystem::Shell(Arc::new(shell)))
            }
            Err(error) => Err(error),
        }
    }

    /// Notes that a host has no SFTP, after a look at whether its shell can stand in for it.
    async fn no_sftp(&self, shell: &Shell) -> Result<(), FileError> {
        if matches!(*self.0.lock().await, Kept::NoSftp(_)) {
            return Ok(());
        }
        // Whoever looks keeps nobody else waiting.
        if !shell.is_there().await? {
            return Err(FileError::NoSftp);
        }
        let connection = shell.connection();
        *self.0.lock().await =
            connection.as_ref().map_or(Kept::Nothing, |c| Kept::NoSftp(Arc::downgrade(c)));
        Ok(())
    }

    async fn session(
        self: &Arc<Self>,
        host: &HostHandle,
        tries: Tries,
        client: &Client,
    ) -> Result<(Arc<Sftp>, Work), FileError> {
        loop {
            let connecting = host.connection(tries, client);
            let connection = connecting.await.map_err(FileError::Unreachable)?;
            // From here on it is not closed because nothing goes over it.
            let work = connection.work();
            if !connection.takes_work() {
                // The host has another one in a moment.
                tokio::task::yield_now().await;
                continue;
            }
            // It is ours only while a session is opened, so that nobody waits longer than for that.
            let by = Instant::now() + remote::SESSION;
            let slot = timeout_at(by, self.0.lock()).await;
            let mut slot = slot.map_err(|_| remote::full())?;
            match &*slot {
                Kept::Session(sftp)
                    if Arc::ptr_eq(sftp.connection(), &connection) && !sftp.is_over() =>
                {
                    return Ok((Arc::clone(sftp), work));
                }
                // Another connection of the same host has none either, unless it was made anew.
                Kept::NoSftp(without) if without.strong_count() > 0 => {
                    return Err(FileError::NoSftp);
                }
                _ => {}
            }
            // What is under way keeps the old one.
            *slot = Kept::Nothing;
            match remote::open(&connection, by).await {
                Ok(sftp) => {
                    let sftp = Arc::new(sftp);
                    *slot = Kept::Session(Arc::clone(&sftp));
                    self.keep(&sftp);
                    return Ok((sftp, work));
                }
                // The host has another connection now, or will have.
                Err(FileError::NoSession(ChannelError::Retired)) => tokio::task::yield_now().await,
                Err(FileError::NoSession(ChannelError::Lost(_))) if tries.allow(1) => {
                    drop(slot);
                    connection.closed().cancelled().await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Lets a session go when it has not been used for a while.
    fn keep(self: &Arc<Self>, sftp: &Arc<Sftp>) {
        let (slot, weak) = (Arc::downgrade(self), Arc::downgrade(sftp));
        let closed = sftp.connection().closed();
        sftp.connection().spawn(async move {
            let mut requests = 0;
            loop {
                tokio::select! {
                    () = sleep(KEPT) => {}
                    () = closed.cancelled() => return,
                }
                let (Some(slot), Some(sftp)) = (slot.upgrade(), weak.upgrade()) else { return };
                let mut kept = slot.0.lock().await;
                if !matches!(&*kept, Kept::Session(kept) if Arc::ptr_eq(kept, &sftp)) {
                    return;
                }
                // Where the server has few sessions, none is kept.
                let unused = sftp.requests() == requests || sftp.connection().granted().is_some();
                // The slot's, and ours.
                if unused && Arc::strong_count(&sftp) == 2 {
                    *kept = Kept::Nothing;
                    return;
                }
                requests = sftp.requests();
            }
        });
    }
}

/// The files of one place.
#[derive(Debug, Clone)]
pub enum FileSystem {
    /// A host's.
    Remote(Remote),
    /// Those of a host without SFTP.
    Shell(Arc<Shell>),
    /// This machine's.
    Local(Arc<LocalFiles>),
}

/// A host's files.
#[derive(Debug, Clone)]
pub struct Remote {
    sftp: Arc<Sftp>,
    /// The session itself stands by: it is used as long as this is held.
    work: Arc<Work>,
    home: Home,
}

/// Checks a path from a client, and returns it as the place understands it.
pub fn checked(path: &[u8]) -> Result<Vec<u8>, FileError> {
    if path.contains(&0) {
        return Err(FileError::BadPath("a path has no NUL byte"));
    }
    let path = match path {
        b"" | b"~" => &b"."[..],
        _ => path.strip_prefix(b"~/").unwrap_or(path),
    };
    Ok(if path.is_empty() { b".".to_vec() } else { path.to_vec() })
}

/// Returns directory and name of a path.
pub(crate) fn split(path: &[u8]) -> Result<(&[u8], &[u8]), FileError> {
    let (dir, name) = match path.iter().rposition(|byte| *byte == b'/') {
        Some(0) => (&b"/"[..], &path[1..]),
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (&b"."[..], path),
    };
    if !is_plain_name(name) {
        return Err(FileError::BadPath("the path must end with a file's name"));
    }
    Ok((dir, name))
}

/// Returns a name in a directory as a path.
pub(crate) fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = dir.to_vec();
    if !path.ends_with(b"/") {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

impl FileSystem {
    /// Notes that something is half written from now on. This machine's is not noted: nothing comes between.
    fn claim(&self, remains: Remains) -> Option<Claim> {
        self.home().map(|home| home.claim(remains))
    }

    /// Returns the way to what is left there; on this machine nothing is.
    fn home(&self) -> Option<&Home> {
        match self {
            Self::Remote(remote) => Some(&remote.home),
            Self::Shell(shell) => Some(shell.home()),
            Self::Local(_) => None,
        }
    }

    /// Returns the connection that it is on; this machine's is on none.
    fn connection(&self) -> Option<Arc<Connection>> {
        match self {
            Self::Remote(remote) => Some(Arc::clone(remote.sftp().connection())),
            Self::Shell(shell) => shell.connection(),
            Self::Local(_) => None,
        }
    }

    /// Returns what is known of a file; of a link itself unless it is followed.
    pub async fn stat(&self, path: &[u8], follow: bool) -> Result<Attrs, FileError> {
        match self {
            Self::Remote(remote) => remote.stat(path, follow).await,
            Self::Shell(shell) => shell.stat(path, follow).await,
            Self::Local(local) => local.stat(path, follow).await,
        }
    }

    /// Returns why nothing could be made at a path: the directory that it was to be in may be what is not there.
    async fn cannot_make(&self, path: &[u8], error: FileError) -> FileError {
        if let (true, Ok((dir, _))) = (error.is_not_found(), split(path))
            && self.stat(dir, true).await.is_err_and(|error| error.is_not_found())
        {
            return FileError::NoDirectory(Shown::of(dir));
        }
        error
    }

    /// Removes what is kept of a copy to a path that was interrupted. Returns whether there was something.
    pub async fn forget_part(&self, path: &[u8]) -> Result<bool, FileError> {
        let Ok((dir, name)) = split(path) else { return Ok(false) };
        match self.remove(&join(dir, &partial_name(name)), FileKind::File).await {
            Ok(()) => Ok(true),
            Err(FileError::NotFound(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The same for which no host is waited for.
    async fn forget_part_beside(&self, path: &[u8]) {
        let (fs, path) = (self.clone(), path.to_vec());
        let forget = async move {
            if let Err(error) = fs.forget_part(&path).await {
                tracing::info!(%error, "what is left of an older copy stays");
            }
        };
        match self.connection() {
            Some(connection) => connection.spawn(forget),
            None => forget.await,
        }
    }

    /// Returns what is in a directory, sorted.
    pub async fn list(&self, path: &[u8]) -> Result<Vec<Entry>, FileError> {
        let mut entries = match self {
            Self::Remote(remote) => remote.list(path).await?,
            Self::Shell(shell) => shell.list(path).await?,
            Self::Local(local) => local.list(path).await?,
        };
        entries.retain(|entry| entry.name != b"."[..] && entry.name != b".."[..]);
        for entry in &entries {
            if !is_plain_name(&entry.name) {
                return Err(FileError::BadName(Shown::of(path), Shown::of(&entry.name)));
            }
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    /// Returns the absolute path without links.
    pub async fn real_path(&self, path: &[u8]) -> Result<Vec<u8>, FileError> {
        match self {
            Self::Remote(remote) => remote.real_path(path).await,
            Self::Shell(shell) => shell.real_path(path).await,
            Self::Local(local) => local.real_path(path).await,
        }
    }

    /// Returns where a link leads.
    pub async fn read_link(&self, path: &[u8]) -> Result<Vec<u8>, FileError> {
        match self {
            Self::Remote(remote) => remote.read_link(path).await,
            Self::Shell(shell) => shell.read_link(path).await,
            Self::Local(local) => local.read_link(path).await,
        }
    }

    /// Makes a link.
    pub async fn symlink(&self, target: &[u8], path: &[u8]) -> Result<(), FileError> {
        match self {
            Self::Remote(remote) => remote.symlink(target, path).await,
            Self::Shell(shell) => shell.symlink(target, path).await,
            Self::Local(local) => local.symlink(target, path).await,
        }
    }

    /// Makes a directory.
    pub async fn mkdir(&self, path: &[u8], mode: Option<u32>) -> Result<(), FileError> {
        match self {
            Self::Remote(remote) => remote.mkdir(path, mode).await,
            Self::Shell(shell) => shell.mkdir(path, mode).await,
            Self::Local(local) => local.mkdir(path, mode).await,
        }
    }

    /// Makes a directory and those above it; one that is there is no error.
    pub async fn mkdir_all(&self, path: &[u8], mode: Option<u32>) -> Result<(), FileError> {
        // From the lowest that is there down.
        let mut missing = vec![path.to_vec()];
        loop {
            let Some(next) = missing.last() else { return Ok(()) };
            // Permissions are those of the directory that was asked for.
            let mode = if missing.len() == 1 { mode } else { None };
            match self.mkdir(next, mode).await {
                Ok(()) => drop(missing.pop()),
                Err(FileError::Exists(shown)) => {
                    if self.stat(next, true).await?.kind != FileKind::Directory {
                        return Err(FileError::NotDirectory(shown));
                    }
                    missing.pop();
                }
                Err(FileError::NotFound(shown)) => {
                    let trimmed = next.strip_suffix(b"/").unwrap_or(next);
                    match split(trimmed) {
                        Ok((dir, _)) if dir != &next[..] && missing.len() < MOST_PARENTS => {
                            missing.push(dir.to_vec());
                        }
                        _ => return Err(FileError::NotFound(shown)),
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Gives a file another path.
    pub async fn rename(&self, from: &[u8], to: &[u8], replace: bool) -> Result<(), FileError> {
        match self {
            Self::Remote(remote) => remote.rename(from, to, replace).await,
            Self::Shell(shell) => shell.rename(from, to, replace).await,
            Self::Local(local) => local.rename(from, to, replace).await,
        }
    }

    /// Gives something another path, as a person wants it: what is half written below it is followed.
    pub async fn move_to(&self, from: &[u8], to: &[u8], replace: bool) -> Result<(), FileError> {
        match self.home() {
            Some(home) => home.rename(self, (from, to), replace).await,
            None => self.rename(from, to, replace).await,
        }
    }

    /// Removes a file, a link, or an empty directory.
    pub async fn remove(&self, path: &[u8], kind: FileKind) -> Result<(), FileError> {
        let removed = match self {
            Self::Remote(remote) => remote.remove(path, kind).await,
            Self::Shell(shell) => shell.remove(path, kind).await,
            Self::Local(local) => local.remove(path, kind).await,
        };
        match removed {
            // A system looks first whether the user may, and that would hide what keeps it from everybody.
            Err(FileError::Permission(shown)) if kind == FileKind::Directory => {
                let is_full = self.list(path).await.is_ok_and(|entries| !entries.is_empty());
                Err(if is_full { FileError::NotEmpty(shown) } else { FileError::Permission(shown) })
            }
            removed => removed,
        }
    }

    /// Removes a directory with everything in it. Links are removed and not followed.
    pub async fn remove_all(&self, path: &[u8]) -> Result<(), FileError> {
        if let Self::Shell(shell) = self {
            return shell.remove_all(path).await;
        }
        // Directories that are open, the deepest last; each is listed once.
        let mut open = vec![(path.to_vec(), None::<Vec<Entry>>)];
        while let Some((dir, entries)) = open.last_mut() {
            let entries = match entries {
                Some(entries) => entries,
                None => entries.insert(self.list(dir).await?),
            };
            let Some(entry) = entries.pop() else {
                let (dir, _) = open.pop().unwrap_or_default();
                self.remove(&dir, FileKind::Directory).await?;
                continue;
            };
            let inner = join(dir, &entry.name);
            if entry.attrs.kind == FileKind::Directory {
                open.push((inner, None));
            } else {
                match self.remove(&inner, entry.attrs.kind).await {
                    // Somebody else was faster.
                    Ok(()) | Err(FileError::NotFound(_)) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// Makes a file shorter, where it was written in several places at once. Returns whether it is the one with that mark.
    async fn cut(&self, path: &[u8], length: u64, mark: Option<u32>) -> Result<bool, FileError> {
        match self {
            Self::Remote(remote) => remote.cut(path, length, mark).await,
            Self::Shell(_) | Self::Local(_) => Ok(true),
        }
    }

    /// Sets permissions.
    pub async fn chmod(&self, path: &[u8], mode: u32) -> Result<(), FileError> {
        match self {
            Self::Remote(remote) => remote.chmod(path, mode).await,
            Self::Shell(shell) => shell.chmod(path, mode).await,
            Self::Local(local) => local.chmod(path, mode).await,
        }
    }

    /// Sets when a file was changed last.
    pub async fn touch(&self, path: &[u8], mtime: i64) -> Result<(), FileError> {
        match self {
            Self::Remote(remote) => remote.touch(path, mtime).await,
            Self::Shell(shell) => shell.touch(path, mtime).await,
            Self::Local(local) => local.touch(path, mtime).await,
        }
    }
}

/// How deep a path may be that is made: that of the longest path of single letters (PATH_MAX).
const MOST_PARENTS: usize = 2048;
