//! Directories here, made into a stream and out of one (`occ_proto::tar`).
//!
//! A stream from elsewhere is not trusted: nothing of it is written outside the directory that it is for, not through links
//! that came with it, nor through others.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use bytes::Bytes;
use occ_proto::files::{Listed, TreeWritten, beside};
use occ_proto::tar::{self, Decoder, Entry, Item, Kind};
use occ_proto::text::sanitize;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Timespec, Timestamps};

use crate::eol::{FileToLf, LfReader};
use crate::error::CliError;
use crate::local_file;

/// Bytes of one piece of a stream.
const PIECE: usize = 256 * 1024;

/// What of a directory was not copied.
#[derive(Debug, Default)]
pub(crate) struct Missed {
    /// What is neither file nor directory nor link.
    pub(crate) left_out: Listed,
    /// What could not be read, and why.
    pub(crate) unread: Listed,
}

/// A directory that is read.
pub(crate) struct Packer {
    missed: Rc<RefCell<Missed>>,
    /// What is left: a path, and the path in the tree. The next is the last.
    left: Vec<(PathBuf, Vec<u8>)>,
    /// The file that is being read, and how much of it is still to come.
    file: Option<(PathBuf, Box<dyn io::Read>, u64, u64)>,
    mask: u32,
    /// Make line feeds of the ends of lines of texts.
    to_lf: bool,
    ended: bool,
}

impl Packer {
    /// Begins to read a directory. Of permissions those of the mask are left out.
    pub(crate) fn new(dir: &Path, mask: u32, to_lf: bool) -> Result<Self, CliError> {
        let (left, file, missed) = (Vec::new(), None, Rc::default());
        let mut packer = Self { missed, left, file, mask, to_lf, ended: false };
        packer.open(dir, b"").map_err(|error| local_file::failed(dir, &error))?;
        Ok(packer)
    }

    /// Returns what is not copied, which is known when all has been read.
    pub(crate) fn missed(&self) -> Rc<RefCell<Missed>> {
        Rc::clone(&self.missed)
    }

    fn open(&mut self, dir: &Path, inner: &[u8]) -> io::Result<()> {
        let mut names = Vec::new();
        for entry in dir.read_dir()? {
            names.push(entry?.file_name());
        }
        names.sort_unstable_by(|a, b| b.cmp(a));
        for name in names {
            let path = [inner, name.as_bytes()].concat();
            self.left.push((dir.join(name), path));
        }
        Ok(())
    }

    /// Returns the next piece; nothing at the end. The error has its path.
    pub(crate) fn next(&mut self) -> io::Result<Option<Bytes>> {
        let mut out = Vec::with_capacity(PIECE + 4096);
        while out.len() < PIECE && !self.ended {
            self.step(&mut out)?;
        }
        Ok((!out.is_empty()).then(|| out.into()))
    }

    fn step(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        let at = |path: &Path, error: io::Error| {
            io::Error::new(error.kind(), format!("{}: {error}", path.display()))
        };
        if let Some((path, file, size, left)) = &mut self.file {
            let start = out.len();
            let room = u64::try_from(PIECE.saturating_sub(start).max(4096)).unwrap_or(u64::MAX);
            let most = room.min(*left);
            let count = file.take(most).read_to_end(out).map_err(|error| at(path, error))? as u64;
            *left -= count;
            if count == 0 && *left > 0 {
                let error = io::Error::new(io::ErrorKind::UnexpectedEof, "it became shorter");
                return Err(at(path, error));
            }
            if *left == 0 {
                out.resize(out.len() + tar::padding(*size), 0);
                self.file = None;
            }
            return Ok(());
        }
        let Some((path, inner)) = self.left.pop() else {
            out.extend_from_slice(&tar::END);
            self.ended = true;
            return Ok(());
        };
        match self.entry(&path, inner) {
            Ok(Some(entry)) => tar::head(out, &entry),
            Ok(None) => {}
            // It has gone, or may not be read: all else is copied.
            Err(error) => self.missed.borrow_mut().unread.add(&at(&path, error).to_string()),
        }
        Ok(())
    }

    /// Begins an entry; nothing of what is not copied.
    fn entry(&mut self, path: &Path, inner: Vec<u8>) -> io::Result<Option<Entry>> {
        let meta = path.symlink_metadata()?;
        let mode = meta.permissions().mode() & 0o7777 & !self.mask;
        let (kind, mtime) = (Kind::File, meta.mtime());
        let mut entry = Entry { path: inner, kind, mode, mtime, size: 0 };
        if meta.is_dir() {
            entry.kind = Kind::Directory;
            entry.path.push(b'/');
            let inner = entry.path.clone();
            self.open(path, &inner)?;
        } else if meta.is_symlink() {
            let target = path.read_link()?;
            entry.kind = Kind::Symlink(target.into_os_string().into_vec());
        } else if meta.is_file() {
            let mut file = File::open(path)?;
            entry.size = meta.len();
            let lf = if self.to_lf { LfReader::of(&mut file)? } else { None };
            if let Some((_, size)) = lf {
                entry.size = size;
            }
            if entry.size > 0 {
                let file: Box<dyn io::Read> = match lf {
                    Some((lf, _)) => Box::new(lf),
                    None => Box::new(file),
                };
                self.file = Some((path.to_owned(), file, entry.size, entry.size));
            }
        } else {
            self.missed.borrow_mut().left_out.add_path(&entry.path);
            return Ok(None);
        }
        Ok(Some(entry))
    }
}

/// A directory that is written. Dropping it before [`Unpacker::finish`] gives it up.
pub(crate) struct Unpacker {
    target: PathBuf,
    /// Where it is until it is whole, if nothing was there.
    staging: Option<PathBuf>,
    root: OwnedFd,
    /// The directory that was used last.
    last: Option<(Vec<u8>, OwnedFd)>,
    decoder: Decoder,
    preserve: bool,
    file: Option<Writing>,
    /// Made at the end, so that nothing is written through them.
    links: Vec<(Vec<u8>, Vec<u8>)>,
    /// Permissions and times of directories, which writing into them would change.
    directories: Vec<Entry>,
    missed: Missed,
    /// Make line feeds of the ends of lines of texts.
    to_lf: bool,
    files: u64,
}

/// The file that is being written.
struct Writing {
    file: File,
    eol: Option<FileToLf>,
    entry: Entry,
    temporary: Vec<u8>,
}

impl Unpacker {
    /// Begins to write a directory. One that is not there comes into its place as a whole.
    pub(crate) fn new(target: &Path, preserve: bool, to_lf: bool) -> Result<Self, CliError> {
        let failed = |error: io::Error| local_file::failed(target, &error);
        let staging = match target.metadata() {
            Ok(meta) if meta.is_dir() => None,
            // A link that leads nowhere is in the way as well.
            _ if target.symlink_metadata().is_ok() => {
                return Err(failed(io::ErrorKind::NotADirectory.into()));
            }
            _ => Some(local_file::unique(target)?),
        };
        if let Some(staging) = &staging {
            std::fs::create_dir(staging)
                .map_err(|error| local_file::cannot_make(target, &error))?;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = staging.as_deref().unwrap_or(target);
        let root = rustix::fs::openat(CWD, root, flags, Mode::empty())
            .map_err(|error| failed(error.into()))?;
        Ok(Self {
            target: target.to_owned(),
            staging,
            root,
            last: None,
            decoder: Decoder::default(),
            preserve,
            file: None,
            links: Vec::new(),
            directories: Vec::new(),
            missed: Missed::default(),
            to_lf,
            files: 0,
        })
    }

    fn failed(&self, path: &[u8], error: &io::Error) -> CliError {
        local_file::failed(&self.target.join(std::ffi::OsStr::from_bytes(path)), error)
    }

    /// Writes what has come.
    pub(crate) fn write(&mut self, data: &[u8]) -> Result<(), CliError> {
        self.decoder.feed(data);
        loop {
            let item =
                self.decoder.item().map_err(|error| CliError::failed(format!("{error}.")))?;
            match item {
                None => return Ok(()),
                Some(Item::Trouble(text)) => self.missed.unread.add(&text),
                Some(Item::Data(data)) => {
                    if let Some(writing) = &mut self.file {
                        let data = match &mut writing.eol {
                            Some(eol) => eol.take(data),
                            None => data,
                        };
                        let written = writing.file.write_all(&data);
                        let path = writing.entry.path.clone();
                        written.map_err(|error| self.failed(&path, &error))?;
                    }
                }
                Some(Item::Entry(entry)) => {
                    self.close()?;
                    let path = entry.path.clone();
                    let Some(parts) = tar::parts(&path) else {
                        let shown = sanitize(&String::from_utf8_lossy(&path));
                        return Err(CliError::failed(format!(
                            "The host sent a name that leads out of the directory: {shown}"
                        )));
                    };
                    self.begin(entry, &parts).map_err(|error| self.failed(&path, &error))?;
                }
            }
        }
    }

    fn begin(&mut self, entry: Entry, parts: &[&[u8]]) -> io::Result<()> {
        let Some((name, above)) = parts.split_last() else {
            self.directories.push(entry);
            return Ok(());
        };
        match &entry.kind {
            Kind::Directory => {
                self.directory(parts)?;
                self.directories.push(entry);
            }
            Kind::Symlink(target) => {
                self.directory(above)?;
                self.links.push((parts.join(&b'/'), target.clone()));
            }
            Kind::Hardlink(target) => {
                let from = tar::parts(target).ok_or(io::ErrorKind::InvalidInput)?;
                let (old, from_above) = from.split_last().ok_or(io::ErrorKind::InvalidInput)?;
                let from_dir = rustix::io::dup(self.directory(from_above)?)?;
                let temporary = beside(name, b"new");
                let dir = self.directory(above)?;
                rustix::fs::linkat(from_dir, *old, dir, &*temporary, AtFlags::empty())?;
                rustix::fs::renameat(dir, &*temporary, dir, *name)?;
                self.files += 1;
            }
            Kind::File => {
                let temporary = beside(name, b"new");
                let mode = Mode::from_raw_mode(entry.mode & 0o777);
                let dir = self.directory(above)?;
                let flags = OFlags::WRONLY
                    | OFlags::CREATE
                    | OFlags::EXCL
                    | OFlags::NOFOLLOW
                    | OFlags::CLOEXEC;
                let opened = rustix::fs::openat(dir, &*temporary, flags, mode);
                let file = match opened {
                    // Left by one that was interrupted.
                    Err(rustix::io::Errno::EXIST) => {
                        rustix::fs::unlinkat(dir, &*temporary, AtFlags::empty())?;
                        rustix::fs::openat(dir, &*temporary, flags, mode)?
                    }
                    opened => opened?,
                };
                let eol = self.to_lf.then(FileToLf::default);
                self.file = Some(Writing { file: file.into(), eol, entry, temporary });
            }
            Kind::Other => self.missed.left_out.add_path(&entry.path),
        }
        Ok(())
    }

    /// Puts the file that has come into its place.
    fn close(&mut self) -> Result<(), CliError> {
        let Some(writing) = self.file.take() else { return Ok(()) };
        let path = writing.entry.path.clone();
        self.settle(writing).map_err(|error| self.failed(&path, &error))
    }

    fn settle(&mut self, writing: Writing) -> io::Result<()> {
        let Writing { mut file, eol, entry, temporary } = writing;
        if let Some(eol) = eol {
            file.write_all(&eol.rest())?;
        }
        let parts = tar::parts(&entry.path).unwrap_or_default();
        let Some((name, above)) = parts.split_last() else { return Ok(()) };
        if self.preserve {
            file.set_permissions(std::fs::Permissions::from_mode(entry.mode))?;
            file.set_modified(local_file::time(entry.mtime))?;
        }
        let dir = self.directory(above)?;
        rustix::fs::renameat(dir, &*temporary, dir, *name)?;
        self.files += 1;
        Ok(())
    }

    /// Returns a directory in the tree, which is made where it is not there. No link is followed.
    fn directory(&mut self, parts: &[&[u8]]) -> io::Result<&OwnedFd> {
        if parts.is_empty() {
            return Ok(&self.root);
        }
        let path = parts.join(&b'/');
        if self.last.as_ref().is_none_or(|(last, _)| *last != path) {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mut dir = rustix::io::dup(&self.root)?;
            for part in parts {
                dir = match rustix::fs::openat(&dir, *part, flags, Mode::empty()) {
                    Err(rustix::io::Errno::NOENT) => {
                        rustix::fs::mkdirat(&dir, *part, Mode::from_raw_mode(0o777))?;
                        rustix::fs::openat(&dir, *part, flags, Mode::empty())?
                    }
                    opened => opened?,
                };
            }
            self.last = Some((path, dir));
        }
        match &self.last {
            Some((_, dir)) => Ok(dir),
            None => Ok(&self.root),
        }
    }

    /// Ends it: links, then permissions and times of directories. Returns what was copied, and what was not.
    pub(crate) fn finish(mut self) -> Result<TreeWritten, CliError> {
        if !self.decoder.is_whole() {
            return Err(CliError::interrupted("the link broke before all had come."));
        }
        self.close()?;
        for (path, target) in std::mem::take(&mut self.links) {
            self.link(&path, &target).map_err(|error| self.failed(&path, &error))?;
        }
        if let Some(staging) = &self.staging {
            std::fs::rename(staging, &self.target)
                .map_err(|error| local_file::failed(&self.target, &error))?;
            self.staging = None;
        }
        if self.preserve {
            // The inner ones first.
            for entry in std::mem::take(&mut self.directories).iter().rev() {
                let path = entry.path.clone();
                self.restore(entry).map_err(|error| self.failed(&path, &error))?;
            }
        }
        let Missed { left_out, unread } = std::mem::take(&mut self.missed);
        Ok(TreeWritten { files: self.files, left_out, unread })
    }

    fn link(&mut self, path: &[u8], target: &[u8]) -> io::Result<()> {
        let parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
        let Some((name, above)) = parts.split_last() else { return Ok(()) };
        let dir = self.directory(above)?;
        let stat = rustix::fs::statat(dir, *name, AtFlags::SYMLINK_NOFOLLOW);
        if stat.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) != FileType::Directory) {
            rustix::fs::unlinkat(dir, *name, AtFlags::empty())?;
        }
        rustix::fs::symlinkat(target, dir, *name)?;
        self.files += 1;
        Ok(())
    }

    fn restore(&mut self, entry: &Entry) -> io::Result<()> {
        let path = entry.path.clone();
        let parts = tar::parts(&path).unwrap_or_default();
        let dir = self.directory(&parts)?;
        rustix::fs::fchmod(dir, Mode::from_raw_mode(entry.mode))?;
        let time = Timespec { tv_sec: entry.mtime, tv_nsec: 0 };
        rustix::fs::futimens(dir, &Timestamps { last_access: time, last_modification: time })?;
        Ok(())
    }
}

impl Drop for Unpacker {
    fn drop(&mut self) {
        if let Some(writing) = self.file.take() {
            let parts = tar::parts(&writing.entry.path).unwrap_or_default();
            let above = parts.split_last().map_or(&[][..], |(_, above)| above);
            if let Ok(dir) = self.directory(above) {
                // What cannot be removed is hidden, and says by its name what it is.
                let _ = rustix::fs::unlinkat(dir, &*writing.temporary, AtFlags::empty());
            }
        }
        if let Some(staging) = &self.staging {
            // The same.
            let _ = std::fs::remove_dir_all(staging);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(entries: &[(&[u8], Kind, &[u8])]) -> Vec<u8> {
        let mut out = Vec::new();
        for (path, kind, data) in entries {
            let (path, kind, size) = (path.to_vec(), kind.clone(), data.len() as u64);
            tar::head(&mut out, &Entry { path, kind, mode: 0o644, mtime: 9, size });
            out.extend_from_slice(data);
            out.resize(out.len() + tar::padding(size), 0);
        }
        out.extend_from_slice(&tar::END);
        out
    }

    /// Returns whether it was unpacked, and what is in the place that must stay empty.
    fn unpack(entries: &[(&[u8], Kind, &[u8])], before: impl Fn(&Path, &Path)) -> (bool, usize) {
        let dir = tempfile::tempdir().unwrap();
        let (target, outside) = (dir.path().join("t"), dir.path().join("outside"));
        std::fs::create_dir(&outside).unwrap();
        std::fs::create_dir(&target).unwrap();
        before(&target, &outside);
        let mut unpacker = Unpacker::new(&target, true, false).unwrap();
        let written = unpacker.write(&archive(entries)).and_then(|()| unpacker.finish());
        (written.is_ok(), outside.read_dir().unwrap().count())
    }

    #[test]
    fn nothing_is_written_outside_the_directory() {
        let nothing = |_: &Path, _: &Path| {};
        for path in [&b"../outside/f"[..], b"/tmp/occ-never", b"a/../../outside/f"] {
            assert_eq!(unpack(&[(path, Kind::File, b"x")], nothing), (false, 0), "{path:?}");
        }
        let link = Kind::Symlink(b"../outside".to_vec());
        // A link that comes first is made last, and then finds a directory in its place.
        let through = [(&b"l"[..], link.clone(), &b""[..]), (b"l/f", Kind::File, b"x")];
        assert_eq!(unpack(&through, nothing), (false, 0));
        // One that is there already is not followed.
        let there = |target: &Path, outside: &Path| {
            std::os::unix::fs::symlink(outside, target.join("l")).unwrap();
        };
        assert_eq!(unpack(&[(b"l/f", Kind::File, b"x")], there), (false, 0));
        assert_eq!(unpack(&[(b"l", Kind::File, b"x")], there), (true, 0));
        let hard = Kind::Hardlink(b"../outside/f".to_vec());
        assert_eq!(unpack(&[(b"h", hard, b"")], nothing), (false, 0));
        assert_eq!(unpack(&[(b"l", link, b"")], nothing), (true, 0));
    }
}
