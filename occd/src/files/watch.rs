//! Watching a directory: through the host's `inotifywait` where it has that, else by looking at it now and then.
//!
//! A watch outlives links: what happened while one was down is not known, which is said, and it goes on.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::time::Duration;

use bytes::BytesMut;
use futures_util::future::BoxFuture;
use occ_proto::Code;
use occ_proto::exec::STDOUT;
use occ_proto::files::FileKind;
use occ_proto::files_follow::{WatchEvent, WatchedBy};
use occ_proto::text::sanitize;
use tokio::time::{Instant, sleep_until};

use super::script::{Script, arg, is_about_link, keep};
use super::{Attrs, FileError, FileSystem, Files, join, split};
use crate::exec::{Executor, Running, Step};
use crate::host::{Tries, Unreachable};
use crate::prompts::Client;

/// `$1` is the directory, `$2` the option for those below it. It ends with its input, so that nothing stays behind on a host
/// whose link broke; that gets a number, as in the background it would be /dev/null. Nobody is in the directory, so that the
/// kernel tells when it is removed. What it tells ends with a NUL byte, which versions before 3.21 do not know.
const SCRIPT: &str = "say begun; exec 3<&0; (cd \"$1\") || exit 96; command -v inotifywait >/dev/null 2>&1 || exit 97; \
    inotifywait --help 2>&1 | grep -q no-newline || exit 97; \
    inotifywait -m $2 --no-newline --format '%e %w%f%0' -e modify,close_write,attrib,create,delete,move,delete_self,move_self,unmount \"$1\" & \
    p=$!; (cat; kill $p) <&3 >/dev/null 2>&1 & q=$!; wait $p; kill $q 2>/dev/null";
/// What inotifywait says when it has begun.
const BEGUN: &[u8] = b"Watches established.";
/// Why a watch ends whose directory has no such name any more.
const GONE: &str = "the directory is gone";
/// How often a directory is looked at, and that looking takes at most a fifth of the time.
const LOOK: Duration = Duration::from_secs(1);
const SHARE: u32 = 5;
/// The most files that are looked at.
const MOST: usize = 20_000;
/// The longest path that is told, in bytes (PATH_MAX).
const LONGEST: usize = 8192;
/// How long a host is waited for that is down.
const PATIENCE: Duration = Duration::from_secs(24 * 3600);
/// Before it is begun again, whatever ended it.
const AGAIN: Duration = Duration::from_secs(2);

/// A directory, or a file, that is watched. Dropping it ends it.
pub struct Watch {
    executor: Executor,
    client: Client,
    dir: Vec<u8>,
    /// The name of the one file that is watched.
    only: Option<Vec<u8>>,
    recursive: bool,
    confined: bool,
    way: Way,
    told: VecDeque<WatchEvent>,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("dir", &super::Shown::of(&self.dir)).finish_non_exhaustive()
    }
}

enum Way {
    Begin { at: Instant },
    Inotify { running: Box<Running>, buffer: BytesMut, said: Vec<u8>, ready: bool },
    Polling { seen: Option<Seen>, next: Instant },
    Over,
}

type Seen = BTreeMap<Vec<u8>, Attrs>;

impl Watch {
    /// Begins to watch what is there. One that is `confined` looks for itself, each time where its caller lets it: inotifywait
    /// goes by paths at times of its own.
    ///
    /// # Errors
    /// When it is not there.
    pub async fn begin(
        fs: &FileSystem,
        executor: &Executor,
        path: &[u8],
        (recursive, confined): (bool, bool),
        client: &Client,
    ) -> Result<Self, FileError> {
        let attrs = fs.stat(path, true).await?;
        // A file is often replaced by another one of its name: it is the name that is watched.
        let (dir, only) = match attrs.kind {
            FileKind::Directory => (path.to_vec(), None),
            _ => {
                let (dir, name) = split(path)?;
                (dir.to_vec(), Some(name.to_vec()))
            }
        };
        let (executor, client) = (executor.clone(), client.clone());
        let recursive = recursive && only.is_none();
        let (told, way) = (VecDeque::new(), Way::Begin { at: Instant::now() });
        Ok(Self { executor, client, dir, only, recursive, confined, way, told })
    }

    /// Returns the directory that is watched.
    pub fn directory(&self) -> &[u8] {
        &self.dir
    }

    /// Returns what happens next; nothing when it is over. What `enter` returns is kept while the directory is looked at.
    pub async fn next<T: Send>(
        &mut self,
        files: &Files,
        enter: impl Fn(&FileSystem) -> BoxFuture<'static, Result<T, FileError>> + Sync,
    ) -> Option<WatchEvent> {
        loop {
            if let Some(event) = self.told.pop_front() {
                return Some(event);
            }
            match &mut self.way {
                Way::Over => return None,
                Way::Begin { at } => {
                    sleep_until(*at).await;
                    match self.confined {
                        true => self.way = Way::Polling { seen: None, next: Instant::now() },
                        false => self.start().await,
                    }
                }
                Way::Inotify { .. } => self.follow().await,
                Way::Polling { .. } => self.look(files, &enter).await,
            }
        }
    }

    fn fail(&mut self, reason: String) {
        self.told.push_back(WatchEvent::Failed { reason, code: None });
        self.way = Way::Over;
    }

    fn resync(&mut self, reason: String) {
        self.told.push_back(WatchEvent::Resync { reason });
        self.way = Way::Begin { at: Instant::now() + AGAIN };
    }

    /// Has the directory looked at, where nothing on the host watches it.
    fn poll(&mut self) {
        tracing::debug!("no inotifywait there");
        self.way = Way::Polling { seen: None, next: Instant::now() };
    }

    async fn start(&mut self) {
        // The host is waited for, and a session no longer than by a command.
        if let Executor::Host(host) = &self.executor
            && let Err(error) = host.connection(Tries::Wait(PATIENCE), &self.client).await
        {
            return self.fail(unreachable(&error));
        }
        let args = [arg(&self.dir), if self.recursive { "-r" } else { "" }.into()];
        match Script::begin(&self.executor, SCRIPT, args, &self.client).await {
            Ok(Script { running, output, said, .. }) => {
                let (running, buffer) = (Box::new(running), BytesMut::new());
                self.way = Way::Inotify { running, buffer, said: Vec::new(), ready: false };
                // What has come with the word.
                self.hear_events(&output);
                self.hear_words(&said);
            }
            Err(error) if error.is_about_link() => {
                self.resync(crate::ssh::error::chain(&error));
            }
            Err(_) => self.poll(),
        }
    }

    /// Takes what inotifywait tells.
    fn hear_events(&mut self, data: &[u8]) {
        let Way::Inotify { buffer, .. } = &mut self.way else { return };
        buffer.extend_from_slice(data);
        let dir = arg(&self.dir).0;
        while let Some(end) = buffer.iter().position(|byte| *byte == 0) {
            let record = buffer.split_to(end + 1);
            match event(&record[..end], &dir, self.only.as_deref()) {
                None => {}
                Some(Told::Event(event)) => self.told.push_back(event),
                Some(Told::Gone) => return self.fail(GONE.to_owned()),
            }
        }
        if buffer.len() > LONGEST {
            self.resync("inotifywait says something that is not understood".into());
        }
    }

    /// Takes what is said of it.
    fn hear_words(&mut self, data: &[u8]) {
        let Way::Inotify { said, ready, .. } = &mut self.way else { return };
        keep(said, data);
        if !*ready && said.windows(BEGUN.len()).any(|window| window == BEGUN) {
            *ready = true;
            said.clear();
            self.told.push_back(WatchEvent::Ready { by: WatchedBy::Inotify });
        }
    }

    async fn follow(&mut self) {
        let Way::Inotify { running, said, ready, .. } = &mut self.way else { return };
        match running.next().await {
            Step::Output(frame) if frame.stream() == STDOUT => self.hear_events(&frame.data()),
            Step::Output(frame) => self.hear_words(&frame.data()),
            // The link had to end, and not the directory.
            Step::Ended(Ok(exit)) if exit.cut_off => {
                self.resync("the connection was closed by occd".into());
            }
            Step::Ended(Err(error)) if *ready || is_about_link(&error) => {
                self.resync(crate::ssh::error::chain(&error));
            }
            Step::Ended(Err(_)) => self.poll(),
            // It is not there, or has no more watches to give: such a tree is looked at.
            Step::Ended(Ok(exit)) if !*ready && exit.status() != 96 => self.poll(),
            Step::Ended(Ok(_)) => {
                let said = String::from_utf8_lossy(said);
                let line = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
                let reason = match line.trim() {
                    "" => GONE.to_owned(),
                    line => sanitize(line),
                };
                self.fail(reason);
            }
        }
    }

    async fn look<T: Send>(
        &mut self,
        files: &Files,
        enter: &(impl Fn(&FileSystem) -> BoxFuture<'static, Result<T, FileError>> + Sync),
    ) {
        let Way::Polling { seen, next } = &mut self.way else { return };
        tokio::time::sleep_until(*next).await;
        let begun = Instant::now();
        let looked = async {
            let fs = files.of(&self.executor, Tries::Wait(PATIENCE), &self.client).await?;
            let _entered = enter(&fs).await?;
            tree(&fs, &self.dir, self.only.as_deref(), self.recursive).await
        };
        match looked.await {
            Ok(now) => {
                match seen.as_ref() {
                    None => self.told.push_back(WatchEvent::Ready { by: WatchedBy::Polling }),
                    Some(before) => self.told.extend(differences(before, &now)),
                }
                *seen = Some(now);
                *next = Instant::now() + LOOK.max(begun.elapsed() * SHARE);
            }
            Err(FileError::Lost(_, cause)) => self.resync(cause.to_string()),
            Err(FileError::Ended(_) | FileError::Silent { .. }) => {
                self.resync("the host ended the session for files".into());
            }
            Err(error @ (FileError::NoSession(_) | FileError::NoAnswer(_))) => {
                self.resync(crate::ssh::error::chain(&error));
            }
            Err(FileError::NotFound(_)) => self.fail(GONE.to_owned()),
            Err(FileError::Unreachable(error)) => self.fail(unreachable(&error)),
            Err(error) => self.fail(crate::ssh::error::chain(&error)),
        }
    }
}

/// Returns why there is no connection, without the words of programs and servers: whoever has a grant may watch.
fn unreachable(error: &Unreachable) -> String {
    match error.error.code() {
        Code::ShuttingDown => "occd is stopping".to_owned(),
        code => format!("no connection to the host: {}", code.as_str().replace('_', " ")),
    }
}

/// What inotifywait tells.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    Event(WatchEvent),
    /// The directory has no such name any more.
    Gone,
}

/// Returns what a record of inotifywait tells of a directory.
fn event(record: &[u8], dir: &[u8], only: Option<&[u8]>) -> Option<Told> {
    let space = record.iter().position(|byte| *byte == b' ')?;
    let (what, path) = (std::str::from_utf8(&record[..space]).ok()?, &record[space + 1..]);
    if what.contains("Q_OVERFLOW") {
        let reason = "there was more than the host keeps".into();
        return Some(Told::Event(WatchEvent::Resync { reason }));
    }
    let path = path.strip_prefix(dir)?;
    let path = &path[path.iter().position(|byte| *byte != b'/').unwrap_or(path.len())..];
    if path.is_empty() {
        let is_gone =
            ["DELETE_SELF", "MOVE_SELF", "UNMOUNT"].iter().any(|word| what.contains(word));
        return is_gone.then_some(Told::Gone);
    }
    if only.is_some_and(|only| only != path) {
        return None;
    }
    let path = path.to_vec().into();
    let is = |kinds: [&str; 3]| what.split(',').any(|kind| kinds.contains(&kind));
    match () {
        () if is(["CREATE", "MOVED_TO", ""]) => Some(WatchEvent::Created { path }),
        () if is(["DELETE", "MOVED_FROM", ""]) => Some(WatchEvent::Removed { path }),
        () if is(["MODIFY", "CLOSE_WRITE", "ATTRIB"]) => Some(WatchEvent::Changed { path }),
        () => None,
    }
    .map(Told::Event)
}

/// Returns what is in a directory, and below it.
async fn tree(
    fs: &FileSystem,
    dir: &[u8],
    only: Option<&[u8]>,
    recursive: bool,
) -> Result<Seen, FileError> {
    let mut seen = Seen::new();
    if let Some(name) = only {
        match fs.stat(&join(dir, name), false).await {
            Ok(attrs) => drop(seen.insert(name.to_vec(), attrs)),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
        return Ok(seen);
    }
    let mut left = vec![Vec::new()];
    while let Some(inner) = left.pop() {
        let path = if inner.is_empty() { dir.to_vec() } else { join(dir, &inner) };
        let entries = match fs.list(&path).await {
            Ok(entries) => entries,
            // Gone since it was seen, or another's.
            Err(FileError::NotFound(_) | FileError::Permission(_) | FileError::NotDirectory(_))
                if !inner.is_empty() =>
            {
                continue;
            }
            Err(error) => return Err(error),
        };
        for entry in entries {
            let path =
                if inner.is_empty() { entry.name.to_vec() } else { join(&inner, &entry.name) };
            if recursive && entry.attrs.kind == FileKind::Directory {
                left.push(path.clone());
            }
            seen.insert(path, entry.attrs);
            if seen.len() > MOST {
                let why =
                    format!("more than {MOST} files, which only inotifywait on the host can watch");
                return Err(FileError::Failed(super::Shown::of(dir), why));
            }
        }
    }
    Ok(seen)
}

fn differences(before: &Seen, now: &Seen) -> Vec<WatchEvent> {
    let mut events = Vec::new();
    for (path, attrs) in now {
        match before.get(path) {
            None => events.push(WatchEvent::Created { path: path.clone().into() }),
            // What is in a directory is told by itself.
            Some(old) if old != attrs && attrs.kind != FileKind::Directory => {
                events.push(WatchEvent::Changed { path: path.clone().into() });
            }
            Some(_) => {}
        }
    }
    for path in before.keys().filter(|path| !now.contains_key(*path)) {
        events.push(WatchEvent::Removed { path: path.clone().into() });
    }
    events
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> occ_proto::exec::Bytes {
        text.as_bytes().to_vec().into()
    }

    #[test]
    fn what_inotifywait_says_is_understood() {
        let event = |record, only| event(record, b"/d", only);
        let told = |event| Some(Told::Event(event));
        let created = told(WatchEvent::Created { path: path("a b/c\n") });
        assert_eq!(event(b"CREATE,ISDIR /d/a b/c\n", None), created);
        let removed = told(WatchEvent::Removed { path: path("x") });
        assert_eq!(event(b"MOVED_FROM /d//x", None), removed);
        let changed = told(WatchEvent::Changed { path: path("x") });
        assert_eq!(event(b"CLOSE_WRITE,CLOSE /d/x", Some(b"x")), changed);
        assert_eq!(event(b"CLOSE_WRITE,CLOSE /d/y", Some(b"x")), None);
        assert_eq!(event(b"DELETE_SELF /d/y/", None), None);
        for gone in [&b"DELETE_SELF /d/"[..], b"MOVE_SELF /d", b"UNMOUNT /d/"] {
            assert_eq!(event(gone, Some(b"x")), Some(Told::Gone));
        }
        let overflow = event(b"Q_OVERFLOW /d/", None);
        assert!(matches!(overflow, Some(Told::Event(WatchEvent::Resync { .. }))));
    }

    #[test]
    fn two_looks_are_compared() {
        let attrs =
            |size| Attrs { kind: FileKind::File, size, mode: 0, owner: (0, 0), mtime: 1, stamp: 0 };
        let seen = |files: &[(&str, u64)]| -> Seen {
            files.iter().map(|(name, size)| (name.as_bytes().to_vec(), attrs(*size))).collect()
        };
        let events = differences(
            &seen(&[("a", 1), ("b", 1), ("c", 1)]),
            &seen(&[("a", 1), ("b", 2), ("d", 1)]),
        );
        assert_eq!(
            events,
            [
                WatchEvent::Changed { path: path("b") },
                WatchEvent::Created { path: path("d") },
                WatchEvent::Removed { path: path("c") },
            ]
        );
    }
}
