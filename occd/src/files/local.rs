//! This machine's files.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use occ_proto::files::FileKind;

use super::{Attrs, Entry, FileError, Shown};
use crate::blocking::blocking;

/// This machine's files. Every call is made on a thread that may wait for a disk.
#[derive(Debug)]
pub struct LocalFiles {
    home: PathBuf,
}

pub(super) fn attrs(meta: &std::fs::Metadata) -> Attrs {
    let kind = meta.file_type();
    let kind = match () {
        () if kind.is_dir() => FileKind::Directory,
        () if kind.is_symlink() => FileKind::Symlink,
        () if kind.is_file() => FileKind::File,
        () => FileKind::Other,
    };
    let fraction = u64::try_from(meta.mtime_nsec()).unwrap_or(0);
    Attrs {
        kind,
        size: meta.size(),
        mode: meta.mode() & 0o7777,
        owner: (meta.uid(), meta.gid()),
        mtime: meta.mtime(),
        stamp: fraction ^ (meta.ino() << 30),
    }
}

impl LocalFiles {
    /// Returns the files of a user with that home directory.
    pub fn new(home: PathBuf) -> Self {
        Self { home }
    }

    /// Returns a path as the system takes it.
    pub(super) fn path(&self, path: &[u8]) -> PathBuf {
        self.home.join(OsStr::from_bytes(path))
    }

    async fn run<T: Send + 'static>(
        &self,
        path: &[u8],
        work: impl FnOnce(PathBuf) -> io::Result<T> + Send + 'static,
    ) -> Result<T, FileError> {
        let full = self.path(path);
        blocking(move || work(full)).await.map_err(|error| FileError::local(path, &error))
    }

    pub(super) async fn stat(&self, path: &[u8], follow: bool) -> Result<Attrs, FileError> {
        self.run(path, move |path| {
            let meta = if follow { path.metadata()? } else { path.symlink_metadata()? };
            Ok(attrs(&meta))
        })
        .await
    }

    pub(super) async fn list(&self, path: &[u8]) -> Result<Vec<Entry>, FileError> {
        self.run(path, |path| {
            let mut entries = Vec::new();
            for entry in path.read_dir()? {
                let entry = entry?;
                match entry.metadata() {
                    Ok(meta) => {
                        let name = entry.file_name().into_vec().into();
                        entries.push(Entry { name, attrs: attrs(&meta) });
                    }
                    // Gone since it was read.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(entries)
        })
        .await
    }

    pub(super) async fn real_path(&self, path: &[u8]) -> Result<Vec<u8>, FileError> {
        let real = self.run(path, |path| path.canonicalize()).await?;
        Ok(real.into_os_string().into_vec())
    }

    pub(super) async fn read_link(&self, path: &[u8]) -> Result<Vec<u8>, FileError> {
        let target = self.run(path, |path| path.read_link()).await?;
        Ok(target.into_os_string().into_vec())
    }

    pub(super) async fn symlink(&self, target: &[u8], path: &[u8]) -> Result<(), FileError> {
        let target = PathBuf::from(OsStr::from_bytes(target));
        self.run(path, move |path| std::os::unix::fs::symlink(target, path)).await
    }

    pub(super) async fn mkdir(&self, path: &[u8], mode: Option<u32>) -> Result<(), FileError> {
        self.run(path, move |path| {
            std::fs::DirBuilder::new().mode(mode.unwrap_or(0o777)).create(path)
        })
        .await
    }

    pub(super) async fn rename(
        &self,
        from: &[u8],
        to: &[u8],
        replace: bool,
    ) -> Result<(), FileError> {
        if !replace && self.stat(to, false).await.is_ok() {
            return Err(FileError::Exists(Shown::of(to)));
        }
        self.stat(from, false).await?;
        let target = self.path(to);
        let from = self.path(from);
        let renamed = blocking(move || std::fs::rename(from, target)).await;
        renamed.map_err(|error| FileError::local(to, &error))
    }

    pub(super) async fn remove(&self, path: &[u8], kind: FileKind) -> Result<(), FileError> {
        self.run(path, move |path| match kind {
            FileKind::Directory => std::fs::remove_dir(path),
            _ => std::fs::remove_file(path),
        })
        .await
    }

    pub(super) async fn chmod(&self, path: &[u8], mode: u32) -> Result<(), FileError> {
        let permissions = std::fs::Permissions::from_mode(mode & 0o7777);
        self.run(path, move |path| std::fs::set_permissions(path, permissions)).await
    }

    pub(super) async fn touch(&self, path: &[u8], mtime: i64) -> Result<(), FileError> {
        self.run(path, move |path| {
            let time = rustix::fs::Timespec { tv_sec: mtime, tv_nsec: 0 };
            let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
            let (at, none) = (rustix::fs::CWD, rustix::fs::AtFlags::empty());
            Ok(rustix::fs::utimensat(at, path, &times, none)?)
        })
        .await
    }
}

/// Returns a time for a file that is open.
pub(super) fn time(mtime: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(mtime).unwrap_or(0))
}
