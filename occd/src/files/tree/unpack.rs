//! Writing a directory from one stream.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, TryStreamExt as _};
use occ_proto::files::{FileKind, Listed, TreeWritten, beside};
use occ_proto::tar::{self, Decoder, Entry, Item, Kind};
use occ_proto::text::sanitize;

use super::confined::{Confined, keeps, no_links};
use super::{GNU, OTHER, TAKE, first_line, place, script};
use crate::exec::{Executor, Running, Step};
use crate::files::left::{Claim, Remains};
use crate::files::script::{Script, keep};
use crate::files::{
    Attrs, Download, FileError, FileSystem, Shown, Upload, UploadWish, join, split,
};
use crate::prompts::Client;

/// Files that are written at once.
const AT_ONCE: usize = 64;
/// Files up to this length, in bytes, are written beside others; longer ones by themselves.
const SMALL: u64 = 256 * 1024;

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

/// Notes that an entry has come.
fn note(written: &mut TreeWritten, entry: &Entry) {
    match entry.kind {
        Kind::File => written.files += 1,
        Kind::Other => written.left_out.add_path(&entry.path),
        Kind::Directory | Kind::Symlink(_) | Kind::Hardlink(_) => {}
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
