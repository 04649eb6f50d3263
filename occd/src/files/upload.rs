//! Writing a file: beside its place, and into it when it is whole.
//!
//! Whatever ends an upload early, the file itself is as it was. What was written so far is removed, or kept for somebody to
//! go on with. Each upload writes to a name of its own, so that two of one file never mix: the last one that is whole stays.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use occ_proto::files::{FileKind, beside, partial_name};
use rustix::fs::OFlags;
use sha2::{Digest as _, Sha256};

use super::lanes::Lanes;
use super::left::{Claim, Remains};
use super::sftp::{Fault, WireAttrs};
use super::shell::{Given, Shell, Stream};
use super::{
    Attrs, Download, FileError, FileSystem, LocalFiles, Remote, SET_ID, Shown, join, local, remote,
    split,
};
use crate::blocking::blocking;

/// Bytes of one write to this machine's disk.
const LOCAL_CHUNK: usize = 512 * 1024;
/// Bytes of one piece for a command that writes.
const SHELL_CHUNK: usize = 128 * 1024;

/// What the file must be like for the upload to take its place.
#[derive(Debug, Clone, Default)]
pub struct Condition {
    /// One of these entity tags, or any file at all (`*`).
    pub matches: Option<Vec<String>>,
    /// Not there.
    pub absent: bool,
    /// Bytes with this SHA-256, in hexadecimal digits: where entity tags are too coarse.
    pub sha256: Option<String>,
}

impl Condition {
    async fn check(
        &self,
        fs: &FileSystem,
        path: &[u8],
        there: Option<&Attrs>,
    ) -> Result<(), FileError> {
        let changed = || FileError::Changed(Shown::of(path));
        let Some(there) = there else {
            let wants_one = self.matches.is_some() || self.sha256.is_some();
            return if wants_one { Err(changed()) } else { Ok(()) };
        };
        if self.absent {
            return Err(FileError::Exists(Shown::of(path)));
        }
        if let Some(tags) = &self.matches {
            let etag = there.etag();
            if !tags.iter().any(|tag| *tag == etag || tag == "*") {
                return Err(changed());
            }
        }
        if let Some(wanted) = &self.sha256 {
            let mut download = Download::open(fs, path).await?;
            if !wanted.eq_ignore_ascii_case(&digest(&mut download).await?) {
                return Err(changed());
            }
        }
        Ok(())
    }
}

/// Returns the SHA-256 of what is left of a download.
pub(crate) async fn digest(download: &mut Download) -> Result<String, FileError> {
    let mut hash = Sha256::new();
    while let Some(data) = download.next().await? {
        hash.update(&data);
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// How a file is to be written.
#[derive(Debug, Clone, Default)]
pub struct UploadWish {
    /// Its permissions; those of the file whose place it takes, else the place's own way.
    pub mode: Option<u32>,
    /// Its permissions where nothing is there yet, and nothing else is said.
    pub new_mode: Option<u32>,
    /// Whatever was there, it does not run as its owner or group.
    pub no_set_id: bool,
    /// When it was changed last; now, unless said.
    pub mtime: Option<i64>,
    /// When it may take its place.
    pub condition: Condition,
    /// Do not wait until it is on the disk: it is one of many.
    pub no_sync: bool,
    /// Keep what was written when the upload ends early, and go on with it at this offset.
    pub resume: Option<u64>,
}

/// A file that is being written. Dropping it before [`Upload::finish`] gives it up.
#[derive(Debug)]
pub struct Upload {
    fs: FileSystem,
    /// Where it is to be, without links.
    target: Vec<u8>,
    /// Where it is until then.
    part: Vec<u8>,
    /// Where it is kept when it ends early.
    kept: Option<Vec<u8>>,
    claim: Option<Claim>,
    replaced: Option<Attrs>,
    wish: UploadWish,
    sink: Sink,
    buffer: BytesMut,
    /// What is written goes there.
    offset: u64,
    is_finished: bool,
}

enum Sink {
    Remote(Box<Lanes>),
    /// A command that writes; none once it has ended.
    Shell {
        shell: Arc<Shell>,
        stream: Option<Box<Stream>>,
    },
    Local {
        file: Arc<File>,
    },
}

impl std::fmt::Debug for Sink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Remote(_) => "Remote",
            Self::Shell { .. } => "Shell",
            Self::Local { .. } => "Local",
        })
    }
}

/// Makes sure that what an interrupted copy left is a file of ours: its name can be foreseen, and somebody else may have put a
/// link there that leads to where nobody wants to write, or a file that they could change later. Such a one is removed. Returns
/// whether it is ours.
async fn own_part(
    fs: &FileSystem,
    (part, kept): (&[u8], &[u8]),
    no_set_id: bool,
) -> Result<bool, FileError> {
    // Under a name that nobody can foresee by now, and not followed.
    let there = fs.stat(part, false).await?;
    let is_plain = there.kind == FileKind::File && !(no_set_id && there.mode & SET_ID != 0);
    if is_plain && there.owner.0 == own_id(fs, part).await? {
        return Ok(true);
    }
    match fs.remove(part, there.kind).await {
        Err(error) if error.is_about_link() => return Err(error),
        Err(error) => {
            tracing::info!(%error, path = %Shown::of(kept), "what somebody else made stays");
            fs.rename(part, kept, false).await?;
        }
        Ok(()) => {}
    }
    Ok(false)
}

/// Returns who owns what we make there. SFTP has no other word for that.
async fn own_id(fs: &FileSystem, part: &[u8]) -> Result<u32, FileError> {
    let (dir, _) = split(part)?;
    let probe = join(dir, &beside(b"id", format!("{:08x}", fastrand::u32(..)).as_bytes()));
    let claim = fs.claim(Remains::tree(&probe));
    let owner = async {
        fs.mkdir(&probe, Some(0o700)).await?;
        let owner = fs.stat(&probe, false).await?.owner.0;
        fs.remove(&probe, FileKind::Directory).await?;
        Ok(owner)
    };
    let owner = owner.await?;
    claim.into_iter().for_each(Claim::done);
    Ok(owner)
}

impl Upload {
    /// Makes the file beside its place, after a look at what is there.
    pub async fn begin(fs: &FileSystem, path: &[u8], wish: UploadWish) -> Result<Self, FileError> {
        split(path)?;
        let (target, there) = place(fs, path).await?;
        match there.map(|attrs| attrs.kind) {
            None | Some(FileKind::File) => {}
            Some(FileKind::Directory) => return Err(FileError::IsDirectory(Shown::of(path))),
            Some(_) => return Err(FileError::Special(Shown::of(path))),
        }
        wish.condition.check(fs, &target, there.as_ref()).await?;
        let (dir, name) = split(&target)?;
        let part = join(dir, &beside(name, format!("{:08x}", fastrand::u32(..)).as_bytes()));
        let mut kept = wish.resume.map(|_| join(dir, &partial_name(name)));
        // Nobody else is to read it before it has the permissions that it is to have.
        let mode = (there.is_some() || wish.mode.is_some()).then_some(0o600).or(wish.new_mode);
        let offset = wish.resume.unwrap_or(0);
        let claim = fs.claim(Remains::file(&part, kept.as_deref()));
        match (&kept, offset) {
            (None, _) => {}
            (Some(there), 0) => match fs.remove(there, FileKind::File).await {
                Err(FileError::NotFound(_)) | Ok(()) => {}
                Err(error) if error.is_about_link() => return Err(error),
                // Somebody else's is there: then nothing is kept.
                Err(error) => {
                    tracing::info!(%error, "what is there keeps a copy from being kept");
                    claim.iter().for_each(Claim::not_kept);
                    kept = None;
                }
            },
            // Of two that would go on with it one has it.
            (Some(kept), _) => match fs.rename(kept, &part, false).await {
                Err(error) if error.is_about_link() => return Err(error),
                Ok(()) if own_part(fs, (&part, kept), wish.no_set_id).await? => {}
                Ok(()) | Err(_) => return Err(FileError::NotKept(Shown::of(path))),
            },
        }
        let opened = match fs {
            FileSystem::Remote(remote) => remote_sink(remote, &part, &target, mode, offset).await,
            FileSystem::Shell(shell) => shell_sink(shell, &part, &target, mode, offset).await,
            FileSystem::Local(files) => local_sink(files, &part, &target, mode, offset).await,
        };
        let sink = match (opened, claim.is_none(), &kept) {
            (Err(error), true, Some(kept)) if offset > 0 => {
                fs.rename(&part, kept, true).await?;
                return Err(error);
            }
            (Err(error), ..) => return Err(fs.cannot_make(&target, error).await),
            (Ok(sink), ..) => sink,
        };
        let (fs, replaced, is_finished) = (fs.clone(), there, false);
        let buffer = BytesMut::new();
        Ok(Self {
            fs,
            target,
            part,
            kept,
            claim,
            replaced,
            wish,
            sink,
            buffer,
            offset,
            is_finished,
        })
    }

    /// Returns the place that it is to take.
    pub fn target(&self) -> &[u8] {
        &self.target
    }

    /// Writes more of it.
    pub async fn write(&mut self, data: &[u8]) -> Result<(), FileError> {
        self.buffer.extend_from_slice(data);
        let chunk = match &self.sink {
            Sink::Remote(lanes) => lanes.chunk(),
            Sink::Shell { .. } => SHELL_CHUNK,
            Sink::Local { .. } => LOCAL_CHUNK,
        };
        while self.buffer.len() >= chunk {
            let data = self.buffer.split_to(chunk).freeze();
            self.put(data).await?;
        }
        Ok(())
    }

    async fn put(&mut self, data: Bytes) -> Result<(), FileError> {
        let length = data.len() as u64;
        let written = match &mut self.sink {
            Sink::Remote(lanes) => lanes.put(self.offset, data).await.map_err(Written::Remote),
            Sink::Shell { stream: Some(stream), .. } => {
                stream.put(data).await.map_err(Written::Shell)
            }
            Sink::Shell { stream: None, .. } => Ok(()),
            Sink::Local { file } => {
                let file = Arc::clone(file);
                blocking(move || (&*file).write_all(&data)).await.map_err(Written::Local)
            }
        };
        self.offset += length;
        self.check(written).await
    }

    async fn check(&mut self, written: Result<(), Written>) -> Result<(), FileError> {
        let error = match written {
            Ok(()) => return Ok(()),
            Err(Written::Remote(fault)) => match &self.fs {
                FileSystem::Remote(remote) => remote.cannot_write(&self.target, fault).await,
                _ => FileError::of(&self.target, fault),
            },
            Err(Written::Shell(error)) => error.about(&self.target),
            Err(Written::Local(error)) => FileError::local(&self.target, &error),
        };
        // Nobody can go on where there is no room, and others want it.
        if matches!(error, FileError::NoSpace(_) | FileError::Quota(_)) {
            self.kept = None;
            self.claim.iter().for_each(Claim::not_kept);
        }
        Err(error)
    }

    /// Puts it on the disk and into its place. Returns what it is now.
    pub async fn finish(mut self) -> Result<Attrs, FileError> {
        let rest = self.buffer.split().freeze();
        if !rest.is_empty() {
            self.put(rest).await?;
        }
        let finished = self.settle().await;
        self.check(finished).await?;
        let there = match self.fs.stat(&self.target, false).await {
            Ok(there) => Some(there),
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error),
        };
        self.wish.condition.check(&self.fs, &self.target, there.as_ref()).await?;
        let part = self.fs.stat(&self.part, false).await.map_err(|e| e.about(&self.target))?;
        if part.size != self.offset {
            // Somebody else has written there.
            return Err(FileError::Changed(Shown::of(&self.part)));
        }
        let no_sync = self.wish.no_sync;
        let renamed = self.fs.rename(&self.part, &self.target, !self.wish.condition.absent).await;
        renamed.map_err(|e| e.about(&self.target))?;
        self.is_finished = true;
        self.claim.take().into_iter().for_each(Claim::done);
        if self.kept.is_none() && !no_sync {
            self.fs.forget_part_beside(&self.target).await;
        }
        // A name that is given changes nothing else.
        Ok(part)
    }

    /// Waits until all is written, on the disk where that can be known, with its owner, permissions and time.
    async fn settle(&mut self) -> Result<(), Written> {
        let of_replaced = self.replaced.map(|replaced| match self.wish.no_set_id {
            true => replaced.mode & !SET_ID,
            false => replaced.mode,
        });
        let mode = self.wish.mode.or(of_replaced);
        let (mtime, owner) = (self.wish.mtime, self.replaced.map(|replaced| replaced.owner));
        let no_sync = self.wish.no_sync;
        match &mut self.sink {
            Sink::Remote(lanes) => {
                let times = mtime.map(remote::times);
                let attrs = WireAttrs { mode, times, ..WireAttrs::default() };
                let settled = lanes.settle(&attrs, owner, !no_sync).await;
                settled.map_err(Written::Remote)
            }
            Sink::Shell { shell, stream } => {
                let new_mode = self.replaced.is_none().then_some(self.wish.new_mode).flatten();
                let given = Given { mode, new_mode, mtime, owner, sync: !no_sync };
                let settled = async {
                    if let Some(mut stream) = stream.take() {
                        stream.close().await?;
                    }
                    shell.settle(&self.part, &given).await
                };
                settled.await.map_err(Written::Shell)
            }
            Sink::Local { file } => {
                let file = Arc::clone(file);
                let settled = blocking(move || settle_local(&file, mode, mtime, owner, no_sync));
                settled.await.map_err(Written::Local)
            }
        }
    }
}

/// Why bytes were not written.
enum Written {
    Remote(Fault),
    Shell(FileError),
    Local(io::Error),
}

/// Notes that a file could not be given to the owner of the one before.
pub(super) fn give<E: std::fmt::Debug>(given: Result<(), E>) {
    if let Err(error) = given {
        tracing::debug!(?error, "a file that was replaced had another owner");
    }
}

fn settle_local(
    file: &File,
    mode: Option<u32>,
    mtime: Option<i64>,
    owner: Option<(u32, u32)>,
    no_sync: bool,
) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    if let Some((uid, gid)) = owner
        && local::attrs(&file.metadata()?).owner != (uid, gid)
    {
        give(std::os::unix::fs::fchown(file, Some(uid), Some(gid)));
    }
    if let Some(mode) = mode {
        file.set_permissions(std::fs::Permissions::from_mode(mode & 0o7777))?;
    }
    if let Some(mtime) = mtime {
        file.set_modified(local::time(mtime))?;
    }
    if no_sync { Ok(()) } else { file.sync_all() }
}

/// Returns where a path leads, and what is there.
async fn place(fs: &FileSystem, path: &[u8]) -> Result<(Vec<u8>, Option<Attrs>), FileError> {
    match fs.stat(path, false).await {
        Ok(attrs) if attrs.kind == FileKind::Symlink => {
            // Whoever writes to a link means the file that it leads to.
            let attrs = fs.stat(path, true).await?;
            Ok((fs.real_path(path).await?, Some(attrs)))
        }
        Ok(attrs) => Ok((path.to_vec(), Some(attrs))),
        Err(error) if error.is_not_found() => Ok((path.to_vec(), None)),
        Err(error) => Err(error),
    }
}

async fn remote_sink(
    remote: &Remote,
    part: &[u8],
    target: &[u8],
    mode: Option<u32>,
    offset: u64,
) -> Result<Sink, FileError> {
    let sftp = Arc::clone(remote.sftp());
    let opened = match offset {
        0 => sftp.create(part, mode).await,
        _ => sftp.open_to_write(part).await,
    };
    let handle = match opened {
        Ok(handle) => handle,
        Err(fault @ Fault::Failure(_)) => return Err(remote.cannot_write(target, fault).await),
        // It is about the directory then.
        Err(fault) => return Err(FileError::of(target, fault)),
    };
    if offset > 0 {
        let size = sftp.fstat(&handle).await.map_err(|fault| FileError::of(part, fault))?.size;
        if size != Some(offset) {
            sftp.close_behind(handle);
            return Err(FileError::NotKept(Shown::of(target)));
        }
    }
    Ok(Sink::Remote(Box::new(Lanes::new(part, sftp, handle, offset))))
}

async fn shell_sink(
    shell: &Arc<Shell>,
    part: &[u8],
    target: &[u8],
    mode: Option<u32>,
    offset: u64,
) -> Result<Sink, FileError> {
    let is_private = mode == Some(0o600);
    let stream = shell.write(part, is_private, offset).await.map_err(|e| e.about(target))?;
    Ok(Sink::Shell { shell: Arc::clone(shell), stream: Some(Box::new(stream)) })
}

async fn local_sink(
    files: &LocalFiles,
    part: &[u8],
    target: &[u8],
    mode: Option<u32>,
    offset: u64,
) -> Result<Sink, FileError> {
    let full = files.path(part);
    let opened = blocking(move || open_local(full, mode, offset)).await;
    let (file, size) = opened.map_err(|error| FileError::local(target, &error))?;
    if size != offset {
        return Err(FileError::NotKept(Shown::of(target)));
    }
    Ok(Sink::Local { file: Arc::new(file) })
}

fn open_local(path: PathBuf, mode: Option<u32>, offset: u64) -> io::Result<(File, u64)> {
    let mut options = OpenOptions::new();
    match offset {
        0 => options.write(true).create_new(true).mode(mode.unwrap_or(0o666)),
        _ => options.append(true).custom_flags(OFlags::NOFOLLOW.bits().cast_signed()),
    };
    let file = options.open(path)?;
    let size = file.metadata()?.len();
    Ok((file, size))
}

impl Drop for Upload {
    fn drop(&mut self) {
        if self.is_finished {
            return;
        }
        let (claim, fs) = (self.claim.take(), self.fs.clone());
        match &mut self.sink {
            Sink::Remote(lanes) => {
                if let (Some(claim), Some((length, mark))) = (&claim, lanes.whole_until()) {
                    claim.whole_until(length, mark);
                }
                let (sftp, handle) = lanes.first();
                let (sftp, handle) = (Arc::clone(sftp), handle.clone());
                let owner = Arc::clone(sftp.connection());
                claim.iter().for_each(Claim::leaving);
                owner.spawn(async move {
                    // Whoever clears away tells what is wrong with the link.
                    let closed = sftp.close(&handle).await;
                    tracing::debug!(?closed, "a file was not finished");
                    if let Some(claim) = claim {
                        claim.clear(&fs).await;
                    }
                });
            }
            Sink::Shell { shell, stream } => {
                // Dropped, it is ended.
                drop(stream.take());
                claim.iter().for_each(Claim::leaving);
                if let Some(connection) = shell.connection() {
                    connection.spawn(async move {
                        if let Some(claim) = claim {
                            claim.clear(&fs).await;
                        }
                    });
                }
            }
            Sink::Local { .. } => {
                let FileSystem::Local(files) = &fs else { return };
                let part = files.path(&self.part);
                let cleared = match &self.kept {
                    Some(kept) => std::fs::rename(part, files.path(kept)),
                    None => std::fs::remove_file(part),
                };
                if let Err(error) = cleared {
                    tracing::info!(%error, path = %Shown::of(&self.part), "what was not finished could not be removed");
                }
            }
        }
    }
}
