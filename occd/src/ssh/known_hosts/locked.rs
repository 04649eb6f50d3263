//! Opening a known_hosts file to change it, so that who changes it at the same time takes turns.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

/// How often a file may be replaced while its lock is waited for: each time, somebody else got on.
const MAX_REPLACED: u32 = 1000;

/// Makes the directory that a file is to be in.
pub(super) fn make_directory(path: &Path) -> io::Result<()> {
    match path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) => DirBuilder::new().recursive(true).mode(0o700).create(parent),
        None => Ok(()),
    }
}

/// Returns how a file is opened that a line is added to, and that perhaps is not there.
pub(super) fn to_append() -> OpenOptions {
    let mut options = File::options();
    options.read(true).append(true).create(true).mode(0o600);
    options
}

/// Opens a file and locks it until it is closed. Who waited for the lock may hold that of a file which another has
/// taken the place of meanwhile: what is read there is old, and what is written there is lost.
pub(super) fn open_locked(path: &Path, options: &OpenOptions) -> io::Result<File> {
    for _ in 0..MAX_REPLACED {
        let file = options.open(path)?;
        file.lock()?;
        let ours = file.metadata()?;
        match std::fs::metadata(path) {
            Ok(there) if (there.dev(), there.ino()) == (ours.dev(), ours.ino()) => return Ok(file),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other("it is replaced again and again"))
}
