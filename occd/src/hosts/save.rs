//! Replacing hosts.json: all or nothing, whatever fails and whenever the process is killed.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use occ_proto::host::HostsFile;
use tempfile::NamedTempFile;

use super::file::{Good, bak_path, encode, load};
use crate::state_file::is_no_space;

/// Names of temporary files: hidden, beside the file they replace.
const TEMP_PREFIX: &str = ".hosts.json.";
/// The end of those names, by which leftovers are recognised as ours.
const TEMP_SUFFIX: &str = ".occ-tmp";
/// A temporary file this old was left by a process that was killed. Saving takes far less.
const TEMP_IS_STALE: Duration = Duration::from_secs(60);

/// Which step of saving failed, on which path.
#[derive(Debug, thiserror::Error)]
#[error("hosts.json is not saved: cannot {step} {}", path.display())]
pub struct WriteError {
    /// What the step was working on.
    pub path: PathBuf,
    /// The step.
    pub step: WriteStep,
    /// What the system says.
    #[source]
    pub source: io::Error,
}

impl WriteError {
    /// Returns whether there is no room to write.
    pub fn is_no_space(&self) -> bool {
        is_no_space(&self.source)
    }
}

/// A step of saving hosts.json.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteStep {
    /// Making the JSON and reading it back, which finds a value that could not be loaded again.
    Encode,
    /// Making the configuration directory.
    CreateDirectory,
    /// Following symbolic links to the file that is really written.
    Resolve,
    /// Asking whether the file may be written: one that is read-only is not replaced either.
    CheckWritable,
    /// Writing the new content to a temporary file and syncing it.
    Stage,
    /// Putting the previous content into `hosts.json.bak`.
    Backup,
    /// Renaming the temporary file into place.
    Replace,
}

impl fmt::Display for WriteStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Encode => "encode the new content of",
            Self::CreateDirectory => "create the directory",
            Self::Resolve => "resolve",
            Self::CheckWritable => "get permission to write",
            Self::Stage => "write a temporary file in",
            Self::Backup => "write the backup",
            Self::Replace => "replace",
        })
    }
}

/// How saving ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The file has the new content.
    Saved,
    /// Nothing is written: the file is no longer the one the change was made from.
    Stale,
}

/// Writes `file` over the content that `base` was read from, found at `path`. Until the last rename
/// nothing is visible, and a temporary file goes when its handle does.
pub(super) fn save(
    candidates: &[PathBuf],
    path: &Path,
    base: &Good,
    file: &HostsFile,
) -> Result<Outcome, WriteError> {
    use WriteStep::{Backup, CheckWritable, CreateDirectory, Encode, Replace, Resolve, Stage};
    let fail = |step, path: &Path| {
        let path = path.to_owned();
        move |source| WriteError { path, step, source }
    };
    let trailing_newline = base.content.as_ref().is_some_and(|(old, _)| old.ends_with(b"\n"));
    let bytes = encode(file, trailing_newline).map_err(fail(Encode, path))?;

    let own_directory = directory_of(path).map_err(fail(Resolve, path))?;
    if base.content.is_none() {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(own_directory)
            .map_err(fail(CreateDirectory, own_directory))?;
    }
    let target = match resolve(path, base) {
        // An editor that renames has just moved it away.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Outcome::Stale),
        result => result.map_err(fail(Resolve, path))?,
    };
    let directory = directory_of(&target).map_err(fail(Resolve, &target))?;
    for directory in [own_directory, directory] {
        sweep(directory);
    }

    // Both files are complete on the disk before either name changes: a full disk costs neither the
    // hosts nor the older backup.
    let bak = bak_path(path);
    let (mode, previous) = match &base.content {
        Some((old, mode)) => {
            rustix::fs::access(&target, rustix::fs::Access::WRITE_OK)
                .map_err(|errno| fail(CheckWritable, &target)(errno.into()))?;
            let previous = stage(own_directory, old, 0o600).map_err(fail(Backup, &bak))?;
            (*mode, Some(previous))
        }
        None => (0o600, None),
    };
    let staged = stage(directory, &bytes, mode).map_err(fail(Stage, directory))?;
    if let Some(previous) = previous {
        previous.persist(&bak).map_err(|error| fail(Backup, &bak)(error.error))?;
    }

    if !is_still(candidates, path, &target, base) {
        return Ok(Outcome::Stale);
    }
    staged.persist(&target).map_err(|error| fail(Replace, &target)(error.error))?;
    if let Err(error) = File::open(directory).and_then(|directory| directory.sync_all()) {
        tracing::warn!(%error, path = %directory.display(), "directory not synced");
    }
    Ok(Outcome::Saved)
}

/// Returns whether the file is the one `base` was read from. Compares the content itself: it is
/// small, and inode and times can be the same after another write in the same clock tick.
fn is_still(candidates: &[PathBuf], path: &Path, target: &Path, base: &Good) -> bool {
    let now = load(candidates);
    let bytes = |good: &Good| good.content.as_ref().map(|(bytes, _)| bytes.clone());
    now.seen.at.path == path
        && now.result.is_ok_and(|good| bytes(&good) == bytes(base))
        && resolve(path, base).is_ok_and(|now| now == target)
}
fn directory_of(path: &Path) -> io::Result<&Path> {
    path.parent().ok_or_else(|| io::Error::other("it has no parent directory"))
}

/// Returns the file behind symbolic links: that one is replaced, so that the link stays.
fn resolve(path: &Path, base: &Good) -> io::Result<PathBuf> {
    if base.content.is_some() { fs::canonicalize(path) } else { Ok(path.to_owned()) }
}

/// Returns a temporary file in `directory` that holds `bytes` for good.
fn stage(directory: &Path, bytes: &[u8], mode: u32) -> io::Result<NamedTempFile> {
    let mut file =
        tempfile::Builder::new().prefix(TEMP_PREFIX).suffix(TEMP_SUFFIX).tempfile_in(directory)?;
    file.write_all(bytes)?;
    file.as_file().set_permissions(fs::Permissions::from_mode(mode))?;
    file.as_file().sync_all()?;
    Ok(file)
}

/// Removes what a killed process left behind.
pub(super) fn sweep(directory: &Path) {
    // A directory that cannot be listed is reported by the step that needs it.
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let ours = name.as_encoded_bytes().starts_with(TEMP_PREFIX.as_bytes())
            && name.as_encoded_bytes().ends_with(TEMP_SUFFIX.as_bytes());
        let modified = entry.metadata().and_then(|meta| meta.modified());
        let age = modified.ok().and_then(|modified| modified.elapsed().ok());
        if ours && age.is_some_and(|age| age > TEMP_IS_STALE) {
            let removed = fs::remove_file(entry.path());
            tracing::debug!(path = %entry.path().display(), ?removed, "stale temporary file");
        }
    }
}
