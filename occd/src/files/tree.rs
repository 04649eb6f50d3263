//! Directories with everything in them, as one stream (`occ_proto::tar`).
//!
//! Where a host has tar, that makes and takes the stream, and thousands of small files cost no round trips. Elsewhere,
//! and on this machine, each file is read and written by itself, many at once.
//!
//! What is unpacked by a host's tar, or where nothing is yet, lands in a hidden directory beside what is there, and is moved
//! when all of it has come: no file is ever there in part, and a new directory is there as a whole or not at all.

use std::collections::{HashSet, VecDeque};

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, TryStreamExt as _};
use occ_proto::exec::STDOUT;
use occ_proto::files::{FileKind, Listed, TreeWritten, beside, is_unfinished};
use occ_proto::tar::{self, Decoder, Entry, Item, Kind};
use occ_proto::text::sanitize;

use super::left::{Claim, Remains};
use super::script::{Script, arg, keep};
use super::{
    Attrs, Download, FileError, FileSystem, SET_ID, Shown, Upload, UploadWish, join, split,
};
use crate::exec::{Executor, Running, Step};
use crate::prompts::Client;

/// Says whose tar is there, unless it gets to no directory `$1`.
const LOOK: &str = "cd \"$1\" || { say closed; exit; }; command -v tar >/dev/null || { say none; exit; }; \
    case $(tar --version 2>/dev/null) in *GNU*) say gnu;; *) say other;; esac; ";
/// `$2` is how tar treats permissions and times. Only GNU's gives directories their times when all is in them. When it has said its
/// word it is in the directory, whatever becomes of the path.
const TAKE: &str = "exec tar -xof - $2";
/// What it says is read. GNU's opens what is below from the directory that it is in, and follows no link; others may.
const MAKE: &str = "export LC_MESSAGES=C; exec tar -cf - .";

/// Files that are written at once.
const AT_ONCE: usize = 64;
/// Files up to this length, in bytes, are written beside others; longer ones by themselves.
const SMALL: u64 = 256 * 1024;
/// Bytes of one piece of a stream that is made here.
const PIECE: usize = 128 * 1024;

/// The words of hosts with a tar: GNU's, and another.
const GNU: &[u8] = b"gnu";
const OTHER: &[u8] = b"other";

/// Starts a script with tar on the host; nothing where none runs.
async fn script(
    executor: &Executor,
    line: &str,
    dir: &[u8],
    option: &str,
    client: &Client,
) -> Option<Script> {
    let line = [LOOK, line].concat();
    let begun = Script::begin(executor, &line, [arg(dir), option.into()], client);
    begun.await.inspect_err(|error| tracing::debug!(%error, "no tar there")).ok()
}

/// A tree that is read.
pub struct Pack {
    path: Vec<u8>,
    source: From,
}

enum From {
    Tar { running: Box<Running>, first: Option<Bytes>, said: Vec<u8>, ended: bool, within: bool },
    Walk(Box<Walk>),
}

impl std::fmt::Debug for Pack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pack").field("path", &Shown::of(&self.path)).finish_non_exhaustive()
    }
}

impl Pack {
    /// Returns whether it opens what is in the directory by paths, one after the other, and not from within.
    pub fn goes_by_paths(&self) -> bool {
        !matches!(self.source, From::Tar { within: true, .. })
    }

    /// Begins to read a directory.
    pub async fn begin(
        fs: &FileSystem,
        executor: &Executor,
        path: &[u8],
        client: &Client,
    ) -> Result<Self, FileError> {
        if fs.stat(path, true).await?.kind != FileKind::Directory {
            return Err(FileError::NotDirectory(Shown::of(path)));
        }
        if !matches!(fs, FileSystem::Local(_))
            && let Some(mut script) = script(executor, MAKE, path, "", client).await
        {
            let within = script.word == GNU;
            if script.word == b"closed" {
                return Err(FileError::Permission(Shown::of(path)));
            }
            // One that ends before its archive begins cannot be run.
            if (within || script.word == OTHER)
                && let Some(first) = script.next().await
            {
                let Script { running, said, .. } = script;
                let (running, first) = (Box::new(running), Some(first));
                let source = From::Tar { running, first, said, ended: false, within };
                return Ok(Self { path: path.to_vec(), source });
            }
        }
        let walk = Walk {
            fs: fs.clone(),
            open: vec![(path.to_vec(), Vec::new(), None)],
            file: None,
            troubles: Vec::new(),
            ended: false,
        };
        Ok(Self { path: path.to_vec(), source: From::Walk(Box::new(walk)) })
    }

    /// Returns the next bytes; nothing at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, FileError> {
        match &mut self.source {
            From::Walk(walk) => walk.next().await,
            From::Tar { ended: true, .. } => Ok(None),
            From::Tar { running, first, said, ended, .. } => {
                if let Some(first) = first.take() {
                    return Ok(Some(first));
                }
                loop {
                    match running.next().await {
                        Step::Output(frame) if frame.stream() == STDOUT => {
                            return Ok(Some(frame.data()));
                        }
                        Step::Output(frame) => keep(said, &frame.data()),
                        Step::Ended(Ok(exit)) => {
                            *ended = true;
                            let out = told(said, exit.status());
                            return Ok((!out.is_empty()).then(|| out.into()));
                        }
                        Step::Ended(Err(error)) => {
                            let text = crate::ssh::error::chain(&error);
                            return Err(FileError::Failed(Shown::of(&self.path), text));
                        }
                    }
                }
            }
        }
    }
}

fn first_line(said: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(said);
    let line = text.lines().find(|line| !line.trim().is_empty())?;
    Some(sanitize(line.trim()))
}

/// Returns what tar said of what it left out or could not read, as records behind the archive.
fn told(said: &[u8], status: u8) -> Vec<u8> {
    let (mut out, mut is_explained) = (Vec::new(), false);
    let text = String::from_utf8_lossy(said);
    for line in text.lines() {
        let line = line.trim();
        let line = line.split_once("tar: ").filter(|(before, _)| !before.contains(' '));
        let Some((_, line)) = line else { continue };
        // GNU and busybox; BSD.
        let socket = line.strip_suffix(": socket ignored");
        let socket = socket.or_else(|| {
            Some(line.split_once(": ")?.0).filter(|_| line.contains("archive sockets"))
        });
        let is_summary = line.to_ascii_lowercase().contains("error exit delayed")
            || line.starts_with("Exiting with failure status");
        if let Some(path) = socket {
            let (path, kind) = (path.as_bytes().to_vec(), Kind::Other);
            tar::head(&mut out, &Entry { path, kind, mode: 0, mtime: 0, size: 0 });
        } else if status != 0 && !is_summary {
            tar::trouble(&mut out, line.strip_prefix("./").unwrap_or(line));
            is_explained = true;
        }
    }
    if status != 0 && !is_explained {
        let line = first_line(said).unwrap_or_else(|| format!("tar ended with {status}"));
        tar::trouble(&mut out, &line);
    }
    out
}

/// What is left in a directory, once it was listed.
type Left = Option<VecDeque<super::Entry>>;

/// A tree that is read file by file.
struct Walk {
    fs: FileSystem,
    /// Directories that are open: path there, path in the tree, what is left in it.
    open: Vec<(Vec<u8>, Vec<u8>, Left)>,
    /// The file that is being read, and how much of it is still to come.
    file: Option<(Download, u64, u64)>,
    troubles: Vec<String>,
    ended: bool,
}

impl Walk {
    async fn next(&mut self) -> Result<Option<Bytes>, FileError> {
        let mut out = BytesMut::new();
        while out.len() < PIECE && !self.ended {
            self.step(&mut out).await?;
        }
        Ok((!out.is_empty()).then(|| out.freeze()))
    }

    async fn step(&mut self, out: &mut BytesMut) -> Result<(), FileError> {
        if let Some((download, size, left)) = &mut self.file {
            let data = if *left > 0 { download.next().await? } else { None };
            match data {
                Some(data) => {
                    *left -= data.len() as u64;
                    out.extend_from_slice(&data);
                }
                None => {
                    out.resize(out.len() + tar::padding(*size), 0);
                    self.file = None;
                }
            }
            return Ok(());
        }
        let Some((dir, inner, entries)) = self.open.last_mut() else {
            out.extend_from_slice(&tar::END);
            let mut notes = Vec::new();
            self.troubles.iter().for_each(|text| tar::trouble(&mut notes, text));
            out.extend_from_slice(&notes);
            self.ended = true;
            return Ok(());
        };
        let entries = match entries {
            Some(entries) => entries,
            None => match self.fs.list(dir).await {
                Ok(found) => entries.insert(found.into()),
                Err(error) => return self.skip(error),
            },
        };
        let Some(entry) = entries.pop_front() else {
            self.open.pop();
            return Ok(());
        };
        let (path, mut name) = (join(dir, &entry.name), inner.clone());
        name.extend_from_slice(&entry.name);
        let mut head = Entry {
            path: name,
            kind: Kind::File,
            mode: entry.attrs.mode,
            mtime: entry.attrs.mtime,
            size: 0,
        };
        match entry.attrs.kind {
            FileKind::Directory => {
                head.kind = Kind::Directory;
                head.path.push(b'/');
                self.open.push((path, head.path.clone(), None));
            }
            FileKind::Symlink => match self.fs.read_link(&path).await {
                Ok(target) => head.kind = Kind::Symlink(target),
                Err(error) => return self.skip(error),
            },
            FileKind::File => match Download::open(&self.fs, &path).await {
                Ok(download) => {
                    head.size = download.attrs().size;
                    self.file = Some((download, head.size, head.size));
                }
                Err(error) => return self.skip(error),
            },
            FileKind::Other => head.kind = Kind::Other,
        }
        let mut block = Vec::new();
        tar::head(&mut block, &head);
        out.extend_from_slice(&block);
        Ok(())
    }

    /// Leaves out what cannot be read; that is told at the end.
    fn skip(&mut self, error: FileError) -> Result<(), FileError> {
        match error {
            FileError::Permission(_) | FileError::NotFound(_) => {
                self.troubles.push(error.to_string());
                if let Some((_, _, entries)) = self.open.last_mut() {
                    entries.get_or_insert_default();
                }
                Ok(())
            }
            error => Err(error),
        }
    }
}

/// A tree that is written.
pub struct Unpack {
    fs: FileSystem,
    target: Vec<u8>,
    preserve: bool,
    decoder: Decoder,
    written: TreeWritten,
    sink: To,
    confined: Option<Confined>,
    is_received: bool,
}

/// What keeps an archive from writing through links: those that are there, and its own.
#[derive(Debug, Default)]
struct Confined {
    /// What is known to be no link, by its path below the target.
    plain: HashSet<Vec<u8>>,
    /// The archive's own links.
    links: HashSet<Vec<u8>>,
    /// Nothing is at the target but what we put there.
    fresh: bool,
}

enum To {
    /// The host's tar, its directory, what has gone there, and whether nothing is at the target.
    Tar {
        running: Option<Running>,
        staging: Vec<u8>,
        entries: Vec<Entry>,
        fresh: bool,
        /// Directories are to be given their times.
        retouch: bool,
        claim: Option<Claim>,
    },
    Each {
        /// The file that is coming.
        file: Option<(Entry, Coming)>,
        /// Made at the end, so that nothing is written through them: where, and where they lead.
        links: Vec<(Vec<u8>, Vec<u8>)>,
        /// Their permissions and times come last: writing into them changes those.
        directories: Vec<(Vec<u8>, u32, i64)>,
        under_way: FuturesUnordered<BoxFuture<'static, Result<(), FileError>>>,
        /// Where it is until it is whole, if nothing is at the target.
        staging: Option<(Vec<u8>, Option<Claim>)>,
    },
}

enum Coming {
    Small(Vec<u8>),
    Large(Box<Upload>),
    Nothing,
}

impl std::fmt::Debug for Unpack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unpack").field("target", &Shown::of(&self.target)).finish_non_exhaustive()
    }
}

impl Confined {
    async fn check(
        &mut self,
        fs: &FileSystem,
        target: &[u8],
        entry: &Entry,
    ) -> Result<(), FileError> {
        if !matches!(entry.kind, Kind::Symlink(_)) && entry.mode & SET_ID != 0 {
            return Err(FileError::SetId(Shown::of(&join(target, &entry.path))));
        }
        // What is no path is told by whoever writes it.
        let parts = tar::parts(&entry.path).unwrap_or_default();
        if let Kind::Hardlink(to) = &entry.kind {
            let outside = || FileError::Outside(Shown::of(&join(target, &entry.path)));
            let to = tar::parts(to).ok_or_else(outside)?;
            let mut whole = Vec::new();
            for part in to {
                whole = if whole.is_empty() { part.to_vec() } else { join(&whole, part) };
                if self.links.contains(&whole) {
                    return Err(outside());
                }
            }
        }
        let mut path = Vec::new();
        for (at, part) in parts.iter().enumerate() {
            path = if at == 0 { part.to_vec() } else { join(&path, part) };
            let is_last = at + 1 == parts.len();
            let full = join(target, &path);
            if self.links.contains(&path) || is_unfinished(part) {
                return Err(FileError::Outside(Shown::of(&full)));
            }
            let is_link = matches!(entry.kind, Kind::Symlink(_)) && is_last;
            if is_link {
                // It replaces what is there.
                self.links.insert(path.clone());
            } else if !self.fresh && self.plain.insert(path.clone()) {
                no_link(fs, &full).await?;
            }
        }
        Ok(())
    }
}

impl Unpack {
    /// Begins to write a directory, which is made where it is not there. One that is `confined` writes through no link.
    pub async fn begin(
        fs: &FileSystem,
        executor: &Executor,
        target: &[u8],
        (preserve, confined): (bool, bool),
        client: &Client,
    ) -> Result<Self, FileError> {
        let fresh = match fs.stat(target, true).await {
            Ok(attrs) if attrs.kind == FileKind::Directory => false,
            Ok(_) => return Err(FileError::NotDirectory(Shown::of(target))),
            Err(error) if error.is_not_found() => true,
            Err(error) => return Err(error),
        };
        let mut unpack = Self {
            fs: fs.clone(),
            target: target.to_vec(),
            preserve,
            decoder: Decoder::default(),
            written: TreeWritten {
                files: 0,
                left_out: Listed::default(),
                unread: Listed::default(),
            },
            sink: To::Each {
                file: None,
                links: Vec::new(),
                directories: Vec::new(),
                under_way: FuturesUnordered::new(),
                staging: None,
            },
            confined: None,
            is_received: false,
        };
        if confined {
            unpack.confined = Some(Confined { fresh, ..Confined::default() });
        }
        if matches!(fs, FileSystem::Local(_)) && !fresh {
            return Ok(unpack);
        }
        let random = format!("{:08x}", fastrand::u32(..));
        let trimmed = target.strip_suffix(b"/").unwrap_or(target);
        let staging = match fresh {
            true => {
                let (dir, name) = split(trimmed)?;
                join(dir, &beside(name, random.as_bytes()))
            }
            false => join(target, &beside(b"tree", random.as_bytes())),
        };
        let claim = fs.claim(Remains::tree(&staging));
        if let Err(error) = fs.mkdir(&staging, None).await {
            claim.into_iter().for_each(Claim::done);
            return Err(fs.cannot_make(trimmed, error.about(target)).await);
        }
        if !matches!(fs, FileSystem::Local(_)) {
            let option = if preserve { "-p" } else { "-m" };
            let script = script(executor, TAKE, &staging, option, client).await;
            if let Some(Script { running, word, .. }) = script
                && (word == GNU || word == OTHER)
            {
                let (running, entries) = (Some(running), Vec::new());
                let retouch = preserve && (word == OTHER || !fresh);
                unpack.sink = To::Tar { running, staging, entries, fresh, retouch, claim };
                return Ok(unpack);
            }
        }
        if !fresh {
            fs.remove(&staging, FileKind::Directory).await?;
            claim.into_iter().for_each(Claim::done);
        } else if let To::Each { staging: place, .. } = &mut unpack.sink {
            *place = Some((staging, claim));
        }
        Ok(unpack)
    }

    /// Returns whether what comes goes by paths that others may change, until it is finished.
    pub fn goes_by_paths(&self) -> bool {
        matches!(self.sink, To::Each { .. })
    }

    /// Writes more of it.
    pub async fn write(&mut self, data: Bytes) -> Result<(), FileError> {
        let written = self.take(data).await;
        written.map_err(|error| self.at_target(error))
    }

    async fn take(&mut self, data: Bytes) -> Result<(), FileError> {
        // What is behind the end is for us alone.
        let is_over = self.decoder.is_whole();
        self.decoder.feed(&data);
        while let Some(item) = self.decoder.item().map_err(|error| self.bad(&error.to_string()))? {
            if let (Item::Entry(entry), Some(confined)) = (&item, &mut self.confined) {
                confined.check(&self.fs, &self.target, entry).await?;
            }
            match (item, &mut self.sink) {
                (Item::Trouble(text), _) => self.written.unread.add(&text),
                (Item::Entry(entry), To::Tar { entries, .. }) => {
                    tar::parts(&entry.path).ok_or_else(|| bad_name(&self.target, &entry.path))?;
                    note(&mut self.written, &entry);
                    if !keeps(self.confined.as_ref(), &entry) {
                        entries.push(entry);
                    }
                }
                (Item::Data(_), To::Tar { .. }) => {}
                (Item::Entry(entry), To::Each { .. }) => {
                    tar::parts(&entry.path).ok_or_else(|| bad_name(&self.target, &entry.path))?;
                    note(&mut self.written, &entry);
                    self.each(entry).await?;
                }
                (Item::Data(data), To::Each { file, .. }) => match file {
                    Some((_, Coming::Small(buffer))) => buffer.extend_from_slice(&data),
                    Some((_, Coming::Large(upload))) => upload.write(&data).await?,
                    Some((_, Coming::Nothing)) | None => {}
                },
            }
        }
        if is_over {
            return Ok(());
        }
        let sent = match &self.sink {
            To::Tar { running: Some(running), .. } => running.control().write(data).await.is_ok(),
            _ => true,
        };
        if sent { Ok(()) } else { self.tar_ended().await }
    }

    /// Returns where files are written one by one.
    fn root(&self) -> &[u8] {
        match &self.sink {
            To::Each { staging: Some((staging, _)), .. } => staging,
            _ => &self.target,
        }
    }

    /// Returns the error with the place that the client knows of.
    fn at_target(&self, error: FileError) -> FileError {
        error.moved(self.root(), &self.target)
    }

    /// Returns the error for an archive that is none.
    fn bad(&self, what: &str) -> FileError {
        FileError::BadArchive(Shown::of(&self.target), what.to_owned())
    }

    fn path(&self, entry: &Entry) -> Vec<u8> {
        place(self.root(), &entry.path)
    }

    fn wish(&self, entry: &Entry) -> UploadWish {
        UploadWish {
            mode: self.preserve.then_some(entry.mode),
            new_mode: Some(entry.mode),
            mtime: self.preserve.then_some(entry.mtime),
            no_set_id: self.confined.is_some(),
            no_sync: true,
            ..UploadWish::default()
        }
    }

    /// Begins an entry, after the file before it.
    async fn each(&mut self, entry: Entry) -> Result<(), FileError> {
        self.close().await?;
        let path = self.path(&entry);
        let coming = match &entry.kind {
            Kind::Directory => {
                self.fs.mkdir_all(&path, Some(entry.mode | 0o700)).await?;
                let sets = self.preserve && !keeps(self.confined.as_ref(), &entry);
                if let (true, To::Each { directories, .. }) = (sets, &mut self.sink) {
                    directories.push((path.clone(), entry.mode, entry.mtime));
                }
                Coming::Nothing
            }
            Kind::Symlink(target) => {
                if let To::Each { links, .. } = &mut self.sink {
                    links.push((path.clone(), target.clone()));
                }
                Coming::Nothing
            }
            Kind::File if entry.size <= SMALL => Coming::Small(Vec::new()),
            Kind::File => {
                let upload = Upload::begin(&self.fs, &path, self.wish(&entry)).await?;
                Coming::Large(Box::new(upload))
            }
            // The other name of a file that has come before.
            Kind::Hardlink(other) => {
                let parts = tar::parts(other).filter(|parts| !parts.is_empty());
                parts.ok_or_else(|| bad_name(&self.target, other))?;
                let from = place(self.root(), other);
                if let To::Each { links, .. } = &mut self.sink
                    && let Some((_, target)) = links.iter().find(|(link, _)| *link == from)
                {
                    let link = (path, target.clone());
                    links.push(link);
                    return Ok(());
                }
                self.settled().await?;
                self.copy(&from, &path).await.map_err(|error| match error {
                    FileError::NotFound(_) => {
                        let other = sanitize(&String::from_utf8_lossy(other));
                        self.bad(&format!("the archive has a link to {other}, which is not in it"))
                    }
                    error => error,
                })?;
                Coming::Nothing
            }
            Kind::Other => Coming::Nothing,
        };
        if let To::Each { file, .. } = &mut self.sink {
            *file = Some((entry, coming));
        }
        Ok(())
    }

    /// Ends the file that has come.
    async fn close(&mut self) -> Result<(), FileError> {
        let To::Each { file, under_way, .. } = &mut self.sink else { return Ok(()) };
        let Some((entry, coming)) = file.take() else { return Ok(()) };
        match coming {
            Coming::Nothing => {}
            Coming::Large(upload) => drop(upload.finish().await?),
            Coming::Small(data) => {
                if under_way.len() >= AT_ONCE {
                    under_way.try_next().await?;
                }
                let (fs, path, wish) = (self.fs.clone(), self.path(&entry), self.wish(&entry));
                let To::Each { under_way, .. } = &mut self.sink else { return Ok(()) };
                under_way.push(
                    async move {
                        let mut upload = Upload::begin(&fs, &path, wish).await?;
                        upload.write(&data).await?;
                        upload.finish().await.map(drop)
                    }
                    .boxed(),
                );
            }
        }
        Ok(())
    }

    /// Waits until all files that have come are in their places.
    async fn settled(&mut self) -> Result<(), FileError> {
        if let To::Each { under_way, .. } = &mut self.sink {
            while under_way.try_next().await?.is_some() {}
        }
        Ok(())
    }

    /// Copies a file of the tree.
    async fn copy(&mut self, from: &[u8], to: &[u8]) -> Result<(), FileError> {
        let mut download = Download::open(&self.fs, from).await?;
        let Attrs { mode, mtime, .. } = *download.attrs();
        let wish = UploadWish {
            mode: self.preserve.then_some(mode),
            new_mode: Some(mode),
            mtime: self.preserve.then_some(mtime),
            no_set_id: self.confined.is_some(),
            no_sync: true,
            ..UploadWish::default()
        };
        let mut upload = Upload::begin(&self.fs, to, wish).await?;
        while let Some(data) = download.next().await? {
            upload.write(&data).await?;
        }
        upload.finish().await?;
        self.written.files += 1;
        Ok(())
    }

    /// Waits until all that has come is on the host.
    pub async fn received(&mut self) -> Result<(), FileError> {
        if !self.decoder.is_whole() {
            return Err(FileError::Cut(Shown::of(&self.target)));
        }
        let ended = self.tar_ended().await;
        ended.map_err(|error| self.at_target(error))?;
        self.is_received = true;
        Ok(())
    }

    /// Puts what has come into its place. Returns what there was.
    pub async fn finish(mut self) -> Result<TreeWritten, FileError> {
        let settled = self.settle_all().await;
        settled.map_err(|error| self.at_target(error))
    }

    async fn settle_all(&mut self) -> Result<TreeWritten, FileError> {
        if !self.decoder.is_whole() {
            return Err(FileError::Cut(Shown::of(&self.target)));
        }
        self.close().await?;
        if let To::Each { links, directories, .. } = &mut self.sink {
            let (links, directories) = (std::mem::take(links), std::mem::take(directories));
            self.settled().await?;
            for (path, target) in links {
                match self.fs.remove(&path, FileKind::Symlink).await {
                    Ok(()) | Err(FileError::NotFound(_)) => {}
                    Err(error) => return Err(error),
                }
                self.fs.symlink(&target, &path).await?;
            }
            // The inner ones first.
            for (path, mode, mtime) in directories.iter().rev() {
                self.fs.chmod(path, *mode).await?;
                self.fs.touch(path, *mtime).await?;
            }
            if let To::Each { staging, .. } = &mut self.sink
                && let Some((path, claim)) = staging
            {
                let target = self.target.strip_suffix(b"/").unwrap_or(&self.target);
                self.fs.rename(path, target, false).await?;
                claim.take().into_iter().for_each(Claim::done);
                *staging = None;
            }
            return Ok(self.written.clone());
        }
        if !self.is_received {
            self.tar_ended().await?;
        }
        if let To::Tar { staging, entries, fresh, retouch, claim, .. } = &mut self.sink {
            let entries = std::mem::take(entries);
            if *fresh {
                // The host's tar makes FIFOs, and devices where it may.
                for Entry { kind, path, .. } in &entries {
                    if *kind != Kind::Other {
                        continue;
                    }
                    match self.fs.remove(&place(staging, path), FileKind::Other).await {
                        Ok(()) | Err(FileError::NotFound(_)) => {}
                        Err(error) => return Err(error),
                    }
                }
                let target = self.target.strip_suffix(b"/").unwrap_or(&self.target);
                self.fs.rename(staging, target, false).await?;
            } else {
                if self.confined.is_some() {
                    no_links(&self.fs, &self.target, &entries).await?;
                }
                settle(&self.fs, staging, &self.target, &entries, self.preserve).await?;
                self.fs.remove_all(staging).await?;
            }
            claim.take().into_iter().for_each(Claim::done);
            let is_directory = |entry: &&Entry| *retouch && entry.kind == Kind::Directory;
            for entry in entries.iter().rev().filter(is_directory) {
                self.fs.touch(&place(&self.target, &entry.path), entry.mtime).await?;
            }
        }
        Ok(self.written.clone())
    }

    /// Waits for the host's tar, which has all of it, or has given up.
    async fn tar_ended(&mut self) -> Result<(), FileError> {
        let To::Tar { running, staging, .. } = &mut self.sink else { return Ok(()) };
        let Some(running) = running else { return Ok(()) };
        // It may have ended by itself.
        let _ = running.control().close_input().await;
        let mut said = Vec::new();
        let exit = loop {
            match running.next().await {
                Step::Output(frame) => keep(&mut said, &frame.data()),
                Step::Ended(exit) => break exit,
            }
        };
        let path = Shown::of(&self.target);
        match exit {
            Ok(exit) if exit.status() == 0 => Ok(()),
            Ok(exit) => {
                if let Some(error) = FileError::cut_off(&self.target, &exit) {
                    return Err(error);
                }
                let text = String::from_utf8_lossy(&said);
                if text.contains("No space left") || text.contains("quota exceeded") {
                    return Err(FileError::NoSpace(path));
                }
                let line = first_line(&said).unwrap_or_else(|| "tar failed there".to_owned());
                // Where it was unpacked says nothing to anybody.
                let place = sanitize(&String::from_utf8_lossy(staging));
                let line = line.replace(&place, "").replace("tar: ", "");
                // Of GNU, and of busybox; a link to nothing, and what only we could read.
                let is_bad = ["ard link to", "create hardlink", "like a tar archive"];
                match is_bad.iter().any(|words| text.contains(words)) {
                    true => Err(FileError::BadArchive(path, line)),
                    false => Err(FileError::Failed(path, line)),
                }
            }
            Err(crate::exec::ExecError::LinkLost { cause, .. }) => {
                Err(FileError::Lost(path, cause))
            }
            Err(error) => Err(FileError::Failed(path, crate::ssh::error::chain(&error))),
        }
    }
}

/// Returns the error for an archive with a path that leads out of the directory.
fn bad_name(target: &[u8], path: &[u8]) -> FileError {
    let text = format!("the archive has a path that leads out of it, {}", Shown::of(path));
    FileError::BadArchive(Shown::of(target), text)
}

/// Returns whether an entry is the directory that was there before, which may be the root that all has to stay below.
fn keeps(confined: Option<&Confined>, entry: &Entry) -> bool {
    confined.is_some_and(|confined| !confined.fresh)
        && tar::parts(&entry.path).is_some_and(|parts| parts.is_empty())
}

/// Notes that an entry has come.
fn note(written: &mut TreeWritten, entry: &Entry) {
    match entry.kind {
        Kind::File => written.files += 1,
        Kind::Other => written.left_out.add_path(&entry.path),
        Kind::Directory | Kind::Symlink(_) | Kind::Hardlink(_) => {}
    }
}

/// Returns where an entry is below a directory.
fn place(root: &[u8], path: &[u8]) -> Vec<u8> {
    let parts = tar::parts(path).unwrap_or_default();
    parts.iter().fold(root.to_vec(), |path, part| join(&path, part))
}

/// Makes sure that no directory on the way to an entry has become a link since it came.
async fn no_links(fs: &FileSystem, target: &[u8], entries: &[Entry]) -> Result<(), FileError> {
    let mut plain = HashSet::new();
    for Entry { path, kind, .. } in entries {
        let parts = tar::parts(path).unwrap_or_default();
        // A file takes the place of a link, and is not written through it.
        let others = usize::from(*kind != Kind::Directory).min(parts.len());
        let mut full = target.to_vec();
        for part in &parts[..parts.len() - others] {
            full = join(&full, part);
            if !plain.insert(full.clone()) {
                continue;
            }
            no_link(fs, &full).await?;
        }
    }
    Ok(())
}

/// Refuses a path where a link is.
async fn no_link(fs: &FileSystem, path: &[u8]) -> Result<(), FileError> {
    match fs.stat(path, false).await {
        Ok(attrs) if attrs.kind == FileKind::Symlink => Err(FileError::Outside(Shown::of(path))),
        Ok(_) => Ok(()),
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error),
    }
}

/// Moves what was unpacked to where it is to be, file by file, many at once.
async fn settle(
    fs: &FileSystem,
    staging: &[u8],
    target: &[u8],
    entries: &[Entry],
    preserve: bool,
) -> Result<(), FileError> {
    for Entry { path, kind, mode, .. } in entries {
        let to = place(target, path);
        if *kind == Kind::Directory && to != target {
            match fs.mkdir(&to, Some(*mode | 0o700)).await {
                Ok(()) => {}
                Err(FileError::Exists(_))
                    if fs.stat(&to, true).await?.kind == FileKind::Directory => {}
                Err(error) => return Err(error),
            }
        }
    }
    let mut moves: FuturesUnordered<BoxFuture<'static, Result<(), FileError>>> =
        FuturesUnordered::new();
    if let FileSystem::Shell(shell) = fs {
        shell.merge(staging, target).await?;
    }
    let each = if matches!(fs, FileSystem::Shell(_)) { &[][..] } else { entries };
    for Entry { path, kind, .. } in each {
        if matches!(kind, Kind::Directory | Kind::Other) {
            continue;
        }
        if moves.len() >= AT_ONCE {
            moves.try_next().await?;
        }
        let (fs, from, to) = (fs.clone(), place(staging, path), place(target, path));
        moves.push(async move { fs.rename(&from, &to, true).await }.boxed());
    }
    while moves.try_next().await?.is_some() {}
    for Entry { path, kind, mode, .. } in entries.iter().rev() {
        if *kind == Kind::Directory && preserve {
            fs.chmod(&place(target, path), *mode).await?;
        }
    }
    Ok(())
}

impl Drop for Unpack {
    fn drop(&mut self) {
        let (running, claim) = match &mut self.sink {
            To::Tar { running, claim, .. } => (running, claim),
            To::Each { staging, file, under_way, .. } => {
                // What is half written in it goes first.
                *file = None;
                under_way.clear();
                if let Some((path, claim)) = staging.take() {
                    give_up(&self.fs, &path, claim);
                }
                return;
            }
        };
        let (Some(mut running), Some(claim)) = (running.take(), claim.take()) else { return };
        let fs = self.fs.clone();
        claim.leaving();
        let control = running.control();
        control.cancel();
        control.clone().spawn(async move {
            // What still writes there would be in the way.
            while !matches!(running.next().await, Step::Ended(_)) {}
            claim.clear(&fs).await;
        });
    }
}

/// Removes a directory that did not become whole.
fn give_up(fs: &FileSystem, path: &[u8], claim: Option<Claim>) {
    if let FileSystem::Local(files) = fs {
        if let Err(error) = std::fs::remove_dir_all(files.path(path)) {
            tracing::info!(%error, path = %Shown::of(path), "what was not finished could not be removed");
        }
        return;
    }
    let (Some(claim), Some(connection)) = (claim, fs.connection()) else { return };
    let fs = fs.clone();
    claim.leaving();
    connection.spawn(async move { claim.clear(&fs).await });
}
