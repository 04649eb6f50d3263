//! A file here that is written: beside its place, and into it when it is whole.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use occ_proto::files::{beside, partial_name};
use occ_proto::text::sanitize;

use crate::error::CliError;
use crate::hint::shell_word;

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
        io::ErrorKind::IsADirectory => {
            CliError::failed(format!("{shown} is a directory.")).hint("occ cp -r copies one")
        }
        _ => CliError::failed(format!("{shown}: {error}.")),
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
        let part = match resume {
            Some(_) => partial_path(&target),
            None => {
                let name = target.file_name().unwrap_or_default().as_bytes();
                let mut random = [0; 4];
                getrandom::fill(&mut random)
                    .map_err(|error| CliError::failed(format!("no random numbers: {error}")))?;
                let random = format!("{:08x}", u32::from_ne_bytes(random));
                let name = beside(name, random.as_bytes());
                target.with_file_name(std::ffi::OsString::from_vec(name))
            }
        };
        let mut options = OpenOptions::new();
        match resume {
            Some(offset) if offset > 0 => options.append(true),
            _ => options.write(true).create_new(true).mode(mode & 0o777),
        };
        if resume == Some(0)
            && let Err(error) = std::fs::remove_file(&part)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(failed(&part, &error));
        }
        let file = options.open(&part).map_err(|error| failed(&target, &error))?;
        Ok(Self { target, part, file, replaced, keep: resume.is_some(), is_finished: false })
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
            std::fs::rename(&self.part, &self.target)
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
