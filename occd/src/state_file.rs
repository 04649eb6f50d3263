//! Small files of what outlives the daemon, as JSON.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// Writes a value to a file of this user's alone, which has the old or the new content at every moment. Its
/// directory is made if need be.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn save(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let dir = path.parent().ok_or(io::ErrorKind::NotFound)?;
    std::fs::create_dir_all(dir)?;
    let mut staged = tempfile::NamedTempFile::new_in(dir)?;
    staged.write_all(&serde_json::to_vec(value).map_err(io::Error::other)?)?;
    staged.persist(path)?;
    Ok(())
}

/// Returns whether a file of lines ends with the end of one, or is empty. A line is cut off when the disk is full.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn ends_whole(file: &File) -> io::Result<bool> {
    let size = file.metadata()?.len();
    let mut last = *b"\n";
    if size > 0 {
        file.read_exact_at(&mut last, size - 1)?;
    }
    Ok(last == *b"\n")
}

/// Moves a file that cannot be read out of the way, since the next one takes its place: `NAME.damaged`. Returns whether it
/// is there.
pub(crate) fn set_aside(path: &Path) -> bool {
    std::fs::rename(path, aside(path)).is_ok()
}

/// Copies a file to the same place, of which a part can be read and is used.
///
/// # Errors
/// When it cannot be copied.
pub(crate) fn copy_aside(path: &Path) -> io::Result<()> {
    std::fs::copy(path, aside(path)).map(drop)
}

fn aside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".damaged");
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_kept_beside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("list.json");
        assert!(!set_aside(&path));
        std::fs::write(&path, "{{{").unwrap();
        assert!(set_aside(&path));
        save(&path, &[1]).unwrap();
        assert_eq!(std::fs::read_to_string(dir.path().join("list.json.damaged")).unwrap(), "{{{");
    }
}
