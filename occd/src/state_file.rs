//! Small files of what outlives the daemon, as JSON.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// What the name of a file gets that cannot be read.
const DAMAGED: &str = ".damaged";

/// Writes a value to a file of this user's alone, which has the old or the new content at every moment. Its
/// directory is made if need be.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn save(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let dir = path.parent().ok_or(io::ErrorKind::NotFound)?;
    let content = serde_json::to_vec(value).map_err(io::Error::other)?;
    std::fs::create_dir_all(dir)?;
    let mut staged = tempfile::NamedTempFile::new_in(dir)?;
    staged.write_all(&content)?;
    staged.persist(path)?;
    Ok(())
}

/// Returns whether a file could not be written for want of room: disk full, quota or file size limit reached, or a
/// read-only file system.
pub(crate) fn is_no_space(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge | ReadOnlyFilesystem)
}

/// Reads a value from a file. One that is not there says nothing, as does one that cannot be read, which is told with
/// what is `lost` and moved out of the way, since the next one takes its place.
pub(crate) fn load<T: DeserializeOwned + Default>(path: &Path, lost: &str) -> T {
    let read = std::fs::read(path).and_then(|bytes| Ok(serde_json::from_slice(&bytes)?));
    read.unwrap_or_else(|error: io::Error| {
        if error.kind() != io::ErrorKind::NotFound {
            let kept = std::fs::rename(path, aside(path)).is_ok();
            tracing::warn!(path = %path.display(), %error, kept, "{lost}");
        }
        T::default()
    })
}

/// Returns what is to be said of the files in a directory that a daemon has found damaged and kept beside the next one.
pub(crate) fn damaged(dir: &Path) -> Vec<String> {
    // One that cannot be looked into has nothing of ours.
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut said: Vec<String> = entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let file = name.strip_suffix(DAMAGED).filter(|file| file.ends_with(".json"))?;
            let path = entry.path();
            Some(format!("{file} was damaged, and is kept as {}", path.display()))
        })
        .collect();
    said.sort();
    said
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

/// Copies a file to `NAME.damaged`, of which a part can be read and is used.
///
/// # Errors
/// When it cannot be copied.
pub(crate) fn copy_aside(path: &Path) -> io::Result<()> {
    std::fs::copy(path, aside(path)).map(drop)
}

/// Returns whether a file is one that was moved out of the way, by a daemon or as occ's hints have it.
pub(crate) fn is_aside(path: &Path) -> bool {
    let path = path.as_os_str().as_encoded_bytes();
    path.ends_with(DAMAGED.as_bytes()) || path.ends_with(b".old")
}

fn aside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(DAMAGED);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_kept_beside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("list.json");
        let read = || load::<Vec<u8>>(&path, "it is lost");
        assert_eq!((read(), damaged(dir.path())), (Vec::new(), Vec::new()));
        std::fs::write(&path, "{{{").unwrap();
        assert_eq!((read(), path.exists()), (Vec::new(), false));
        save(&path, &[1]).unwrap();
        assert_eq!(read(), [1]);
        // One that somebody else has put aside is theirs.
        std::fs::write(dir.path().join("passwords.age.damaged"), "").unwrap();
        let [said] = &damaged(dir.path())[..] else { panic!() };
        assert!(said.starts_with("list.json was damaged"), "{said}");
        assert_eq!(std::fs::read_to_string(dir.path().join("list.json.damaged")).unwrap(), "{{{");
    }
}
