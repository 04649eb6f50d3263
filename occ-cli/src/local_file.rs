//! A file here that is written: beside its place, and into it when it is whole.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use occ_proto::files::{beside, partial_name};
use occ_proto::text::sanitize;

use crate::error::CliError;
use crate::hint::{MAKE_PATH, shell_word};

/// What is opened is no link.
const NOFOLLOW: i32 = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();

/// A file that is being written. Dropping it before [`LocalFile::finish`] gives it up.
#[derive(Debug)]
pub(crate) struct LocalFile {
    target: PathBuf,
    part: PathBuf,
    file: File,
    /// The permissions of the file whose place it takes.
    replaced: Option<u32>,
    keep: bool,
    is_finished: bool,
}

/// Returns where a file is kept until it is whole, for somebody to go on with it.
pub(crate) fn partial_path(target: &Path) -> PathBuf {
    let name = target.file_name().unwrap_or_default().as_bytes();
    target.with_file_name(std::ffi::OsString::from_vec(partial_name(name)))
}

/// Returns a name beside a file that nobody else has.
pub(crate) fn unique(target: &Path) -> Result<PathBuf, CliError> {
    let name = target.file_name().unwrap_or_default().as_bytes();
    let mut random = [0; 4];
    getrandom::fill(&mut random)
        .map_err(|error| CliError::failed(format!("no random numbers: {error}")))?;
    let random = format!("{:08x}", u32::from_ne_bytes(random));
    let name = beside(name, random.as_bytes());
    Ok(target.with_file_name(std::ffi::OsString::from_vec(name)))
}

fn new_file(path: &Path, mode: u32) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(mode & 0o777).open(path)
}

/// Returns whether nobody else writes to an open file that is at that path. From now on it is this process that does.
fn is_ours(file: &File, path: &Path) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => {}
        Err(std::fs::TryLockError::WouldBlock) => return Ok(false),
        Err(std::fs::TryLockError::Error(error)) => return Err(error),
    }
    // Between opening and locking it may have become something else.
    let (ours, there) = (file.metadata()?, path.symlink_metadata());
    Ok(there.is_ok_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino())))
}

/// Returns a new file in the place of what was kept there; nothing where somebody writes to that.
fn claimed(kept: &Path, mode: u32) -> io::Result<Option<File>> {
    match OpenOptions::new().append(true).custom_flags(NOFOLLOW).open(kept) {
        Ok(old) => match is_ours(&old, kept)? {
            true => std::fs::remove_file(kept)?,
            false => return Ok(None),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        // Whatever else is there is in the way.
        Err(_) => std::fs::remove_file(kept)?,
    }
    let file = match new_file(kept, mode) {
        // Another one was faster.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(None),
        file => file?,
    };
    Ok(is_ours(&file, kept)?.then_some(file))
}

/// Removes what is kept of an older copy, unless somebody writes to it.
fn forget(kept: &Path) -> io::Result<()> {
    match OpenOptions::new().append(true).custom_flags(NOFOLLOW).open(kept) {
        Ok(old) if is_ours(&old, kept)? => std::fs::remove_file(kept),
        // What cannot be opened is no copy of ours.
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Returns the error for a file here.
pub(crate) fn failed(path: &Path, error: &io::Error) -> CliError {
    let shown = sanitize(&path.to_string_lossy());
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let dir = shell_word(&dir.to_string_lossy());
    match error.kind() {
        io::ErrorKind::StorageFull => {
            CliError::failed(format!("{shown} could not be written: the disk here is full."))
                .hint(format!("df -h {dir}"))
        }
        io::ErrorKind::QuotaExceeded => {
            CliError::failed(format!("{shown} could not be written: your quota here is reached."))
                .hint("quota -s")
        }
        io::ErrorKind::NotFound => {
            CliError::failed(format!("{shown} is not there.")).hint(format!("ls -la {dir}"))
        }
        io::ErrorKind::PermissionDenied => {
            CliError::failed(format!("{shown}: permission denied.")).hint(format!("ls -la {dir}"))
        }
        io::ErrorKind::InvalidFilename => {
            CliError::failed(format!("{shown}: the name is too long.")).hint("give it another name")
        }
        io::ErrorKind::NotADirectory => {
            CliError::failed(format!("{shown} is not a directory.")).hint(format!("ls -la {dir}"))
        }
        io::ErrorKind::IsADirectory => {
            CliError::failed(format!("{shown} is a directory.")).hint("occ cp -r copies one")
        }
        _ => CliError::failed(format!("{shown}: {error}.")),
    }
}

/// Returns the error for a file here that could not be made: its directory may be what is not there.
pub(crate) fn cannot_make(path: &Path, error: &io::Error) -> CliError {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    match dir {
        Some(dir) if error.kind() == io::ErrorKind::NotFound && !dir.exists() => {
            let shown = sanitize(&dir.to_string_lossy());
            CliError::failed(format!("The directory {shown} is not there.")).hint(MAKE_PATH)
        }
        _ => failed(path, error),
    }
}

impl LocalFile {
    /// Begins, or goes on at an offset, which `Some` of 0 allows for later. Links lead to what is written.
    pub(crate) fn begin(target: &Path, mode: u32, resume: Option<u64>) -> Result<Self, CliError> {
        let target = match target.canonicalize() {
            Ok(real) => real,
            Err(_) => target.to_owned(),
        };
        let replaced = match target.metadata() {
            Ok(meta) if meta.is_dir() => {
                return Err(failed(&target, &io::ErrorKind::IsADirectory.into()));
            }
            Ok(meta) => Some(meta.permissions().mode() & 0o7777),
            Err(_) => None,
        };
        let kept = partial_path(&target);
        let of_target = |error| cannot_make(&target, &error);
        let (part, file, keep) = match resume {
            Some(offset) if offset > 0 => {
                let how = OpenOptions::new().append(true).custom_flags(NOFOLLOW).open(&kept);
                let file = match how {
                    Err(_) if kept.is_symlink() => {
                        let shown = sanitize(&kept.to_string_lossy());
                        let text =
                            format!("{shown} is a link, and nothing that a copy has left there.");
                        let hint = format!("rm {}", shell_word(&kept.to_string_lossy()));
                        return Err(CliError::failed(text).hint(hint));
                    }
                    file => file.map_err(of_target)?,
                };
                if !is_ours(&file, &kept).map_err(of_target)? {
                    let shown = sanitize(&target.to_string_lossy());
                    let text = format!("{shown} is being copied by another occ.");
                    return Err(CliError::failed(text).hint("wait for it, and try again"));
                }
                (kept, file, true)
            }
            // Where another occ copies to that place, this one does it under a name of its own, and the last one stays.
            Some(_) => match claimed(&kept, mode).map_err(of_target)? {
                Some(file) => (kept, file, true),
                None => {
                    let part = unique(&target)?;
                    let file = new_file(&part, mode).map_err(of_target)?;
                    (part, file, false)
                }
            },
            None => {
                let part = unique(&target)?;
                let file = new_file(&part, mode).map_err(of_target)?;
                (part, file, false)
            }
        };
        Ok(Self { target, part, file, replaced, keep, is_finished: false })
    }

    /// Writes more of it.
    pub(crate) fn write(&mut self, data: &[u8]) -> Result<(), CliError> {
        self.file.write_all(data).map_err(|error| {
            // Nobody can go on where there is no room, and others want it.
            self.keep = false;
            failed(&self.target, &error)
        })
    }

    /// Puts it into its place, with permissions and time where they are to be kept.
    pub(crate) fn finish(mut self, kept: Option<(u32, i64)>) -> Result<(), CliError> {
        let settle = || {
            if let Some(mode) = kept.map(|(mode, _)| mode).or(self.replaced) {
                self.file.set_permissions(std::fs::Permissions::from_mode(mode & 0o7777))?;
            }
            if let Some((_, mtime)) = kept {
                self.file.set_modified(time(mtime))?;
            }
            self.file.sync_all()?;
            std::fs::rename(&self.part, &self.target)?;
            if self.keep { Ok(()) } else { forget(&partial_path(&self.target)) }
        };
        settle().map_err(|error| failed(&self.target, &error))?;
        self.is_finished = true;
        Ok(())
    }
}

/// Returns a time that was counted in seconds since 1970.
pub(crate) fn time(mtime: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(mtime).unwrap_or(0))
}

impl Drop for LocalFile {
    fn drop(&mut self) {
        if !self.is_finished && !self.keep {
            // What cannot be removed is hidden, and says by its name what it is.
            let _ = std::fs::remove_file(&self.part);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_copies_of_one_file_do_not_mix() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("f");
        let mut first = LocalFile::begin(&target, 0o644, Some(0)).unwrap();
        let mut second = LocalFile::begin(&target, 0o644, Some(0)).unwrap();
        first.write(b"11").unwrap();
        second.write(b"2").unwrap();
        // What is under way is not gone on with by another.
        assert!(LocalFile::begin(&target, 0o644, Some(1)).is_err());
        first.finish(None).unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"11");
        second.write(b"2").unwrap();
        second.finish(None).unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"22");
        assert_eq!(dir.path().read_dir().unwrap().count(), 1);
    }

    #[test]
    fn what_is_kept_is_gone_on_with_or_begun_anew() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("f");
        let begin = |offset| LocalFile::begin(&target, 0o644, Some(offset)).unwrap();
        begin(0).write(b"ab").unwrap();
        let mut file = begin(2);
        file.write(b"c").unwrap();
        file.finish(None).unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"abc");
        begin(0).write(b"old").unwrap();
        let mut file = begin(0);
        file.write(b"new").unwrap();
        file.finish(None).unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"new");
        assert_eq!(dir.path().read_dir().unwrap().count(), 1);
    }
}
